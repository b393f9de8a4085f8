"""Changed digits: what is asked is what was done, nothing is learned from that is scored, the network knows digits, errors."""

from __future__ import annotations

import pytest
import torch

from fewer import compose
from fewer.adapt.digit_changes import KINDS, POOL, TEST, TURNABLE, TURNS, Sizes, digit_changes
from fewer.core.errors import FewerError
from fewer.tasks.mnist import mnist5k


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_seeds_own_and_none_is_scored_that_was_learned_from(kind):
    task = digit_changes(kind, small=True)
    rows, again, other = task.labelled(0), task.labelled(0), task.labelled(1)
    assert torch.equal(rows.x, again.x)
    assert torch.equal(rows.y, again.y)
    assert not torch.equal(rows.x, other.x)
    assert (len(rows.x), len(rows.test_x)) == (POOL, TEST)
    assert set(rows.y.tolist()) == set(range(len(task.classes)))
    learned = {each.numpy().tobytes() for each in rows.x}
    assert not learned & {each.numpy().tobytes() for each in rows.test_x}


def test_where_a_digit_lies_and_how_thick_it_is():
    task = digit_changes("place", small=True)
    rows = task.labelled(0)
    image, places = rows.x[:, 0], torch.arange(28.0)
    ink = image.sum((1, 2))
    row, column = (image.sum(2) @ places) / ink, (image.sum(1) @ places) / ink
    names = [task.classes[each].split() for each in rows.y]
    assert all(name[0] == ("lower" if at > 13.5 else "upper") for name, at in zip(names, row, strict=True))
    assert all(name[1] == ("right" if at > 13.5 else "left") for name, at in zip(names, column, strict=True))
    thick = torch.tensor([name[2] == "thick" for name in names])
    assert ink[thick].mean() > 1.5 * ink[~thick].mean()


def test_turned_digits_are_those_that_look_different_from_all_sides():
    task = digit_changes("rotation", small=True)
    rows = task.labelled(0)
    assert len(task.classes) == TURNS == 8
    x, y = task._digits(0)
    x, y = x[task.sizes.known :], y[task.sizes.known :]
    upright = x[torch.isin(y, torch.tensor(TURNABLE))][:POOL]
    # half a turn is a flip of both axes, but for what it varies within a bucket
    half = rows.x[rows.y == 4]
    flipped, same = upright[rows.y == 4].flip(2, 3), upright[rows.y == 4]
    nearer = (half - flipped).square().mean((1, 2, 3)) < (half - same).square().mean((1, 2, 3))
    assert nearer.float().mean() > 0.9


def test_a_blur_leaves_the_ink_and_takes_the_edges():
    task = digit_changes("blur", small=True)
    x, y = task._digits(0)
    rows = task.labelled(0)
    assert torch.equal(rows.y, y[task.sizes.known :][:POOL])
    plain = x[task.sizes.known :][:POOL]
    assert torch.allclose(rows.x.sum((1, 2, 3)), plain.sum((1, 2, 3)), rtol=0.05)
    assert rows.x.diff(dim=3).abs().sum() < 0.5 * plain.diff(dim=3).abs().sum()


def test_the_network_is_made_once_for_a_seed_and_has_no_head():
    task = digit_changes("place", small=True)
    first, again, other = task.base(0), digit_changes("blur", small=True).base(0), task.base(1)
    assert torch.equal(first.cls_token, again.cls_token)
    assert not torch.equal(first.cls_token, other.cls_token)
    assert first(torch.zeros(2, 1, 28, 28)).shape == (2, 16)


def test_what_decides_a_result_is_in_the_fingerprint():
    made = {digit_changes(kind, small=small).fingerprint() for kind in KINDS for small in (True, False)}
    assert len(made) == 6
    assert mnist5k(size=28).fingerprint() not in made
    assert digit_changes().sizes == Sizes()


def test_by_name():
    assert compose.task("digit-changes('place')").name == "digit-changes(kind='place')"
    with pytest.raises(FewerError, match="digit-changes: kind is 'colour'; choose rotation, place, blur"):
        digit_changes("colour")
