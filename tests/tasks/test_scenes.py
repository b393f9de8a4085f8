"""Rendered scenes: where shapes are, what colour they have, which kinds are held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.tasks.scenes import COLOURS, KINDS, REDRAWN, SHAPES, TEMPLATES, Scenes, Style, captions, render, scenes

CLEAN = Style(noise=0.0)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def every_kind():
    kinds = torch.arange(48)
    return kinds // len(COLOURS), kinds % len(COLOURS)


def test_kinds_are_shapes_in_colours():
    assert len(KINDS) == len(set(KINDS)) == 48
    assert KINDS[7] == "yellow square"


def test_equal_generators_give_equal_scenes_in_range():
    first, again, other = (render(*every_kind(), drawn(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (48, 3, 24, 24)
    assert first.min() >= 0
    assert first.max() <= 1


def test_the_strongest_place_has_the_colour_asked_for():
    shapes, colours = every_kind()
    images = render(shapes, colours, drawn(), size=64, style=CLEAN)
    spread = images.amax(1) - images.amin(1)  # the ground is grey but for its noise
    for image, apart, colour in zip(images, spread, colours, strict=True):
        inside = image[:, apart > 0.45].mean(1)
        high = {0: (0,), 1: (0, 1), 2: (1,), 3: (1, 2), 4: (2,), 5: (0, 2)}[int(colour)]
        assert set((inside > 0.5 * inside.max()).nonzero().flatten().tolist()) == set(high)


@pytest.mark.parametrize(("shape", "share"), [("circle", np.pi / 4), ("square", 1), ("bar", 1), ("diamond", 0.5)])
def test_a_shape_fills_its_share_of_the_box_around_it_and_lies_inside(shape, share):
    shapes = torch.full((200,), SHAPES.index(shape))
    images = render(shapes, torch.zeros(200, dtype=torch.int64), drawn(), size=48, style=CLEAN)
    mask = images[:, 0] - images[:, 2] > 0.45  # red; the ground is grey, but single pixels of it are noise
    rows, columns = mask.sum(2) >= 3, mask.sum(1) >= 3
    inside = (mask & rows[:, :, None] & columns[:, None, :]).sum((1, 2))
    assert (inside / (rows.sum(1) * columns.sum(1))).mean().item() == pytest.approx(share, abs=0.12)
    width = columns.sum(1) / 48
    assert width.min() > 0.25  # diameters are 0.4 and more of the side, of which a square takes 0.85
    assert width.max() < 0.8


def test_styles_change_what_they_say():
    shapes, colours = every_kind()
    plain = render(shapes, colours, drawn(), style=CLEAN)
    turned = render(shapes, colours, drawn(), style=Style(hue=120.0, noise=0))
    # a third of the circle brings red to green, green to blue, blue to red
    assert torch.allclose(turned, plain.roll(1, dims=1).clamp(0, 1), atol=1e-5)
    assert torch.allclose(render(shapes, colours, drawn(), style=Style(base=0.5, noise=0)), plain / 2, atol=1e-6)
    edged = render(shapes, colours, drawn(), style=Style(edges=1.0, noise=0))
    assert (edged >= plain - 1e-6).all()
    striped = render(shapes, colours, drawn(), style=Style(stripes=0.2, noise=0))
    assert 0.05 < (striped - plain).abs().mean() < 0.2
    assert not torch.equal(render(shapes, colours, drawn(), style=REDRAWN), plain)


def test_captions_name_the_kind_by_all_templates():
    shapes, colours = torch.full((300,), 2), torch.full((300,), 4)
    said = captions(shapes, colours, drawn())
    assert set(said) == {template.format("blue triangle") for template in TEMPLATES}


@pytest.mark.parametrize("held_out", [1, 12, 24])
def test_kinds_held_out_are_spread_evenly_and_never_drawn(held_out):
    pairing = scenes(held_out=held_out, test=50).pairing(3)
    assert len(set(pairing.held_out)) == held_out
    shapes = np.bincount(pairing.held_out // 6, minlength=8)
    colours = np.bincount(pairing.held_out % 6, minlength=6)
    assert shapes.max() - shapes.min() <= 1
    assert colours.max() - colours.min() <= 1
    sentences = set(pairing.draw(500)[1])
    assert not any(KINDS[kind] in sentence for kind in pairing.held_out for sentence in sentences)
    assert set(pairing.asked["held out"][1].tolist()) <= set(pairing.held_out.tolist())
    assert set(pairing.asked["seen"][1].tolist()) <= set(pairing.shown.tolist())


def test_seeds_divide_differently_and_equal_ones_alike():
    first, again, other = (scenes(test=5).pairing(seed) for seed in (0, 0, 1))
    assert np.array_equal(first.held_out, again.held_out)
    assert torch.equal(first.draw(4)[0], again.draw(4)[0])
    assert not np.array_equal(first.held_out, other.held_out)
    assert scenes().fingerprint() != Scenes(style=REDRAWN).fingerprint()


def test_a_network_that_reads_the_truth_scores_one():
    pairing = scenes(test=30).pairing(0)

    class Oracle(torch.nn.Module):
        def scores(self, images, texts):
            known = next(kinds for seen, kinds in pairing.asked.values() if seen is images)
            return torch.nn.functional.one_hot(known, len(texts)).float()

    assert pairing.score(Oracle()) == (1.0, {"seen": 1.0, "held out": 1.0})
    with pytest.raises(FewerError, match="Linear cannot say how well a text fits an image"):
        pairing.score(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scenes(held_out=0), "held_out is 0; give 1 to 24"),
        (lambda: scenes(held_out=25), "held_out is 25"),
        (lambda: scenes(test=0), "test is 0"),
        (lambda: render(*every_kind(), drawn(), size=4), "4 pixels a side show no shape"),
        (lambda: Style(noise=-1), "are at least 0"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()
