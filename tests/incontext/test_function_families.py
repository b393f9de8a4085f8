"""Families of functions: what a prompt holds, what is scored, own functions and recorded ones, every refusal."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.incontext.boolean_learners import learner
from fewer.incontext.function_families import (
    Boolean,
    GeneratedFunctions,
    RecordedFunctions,
    as_labels,
    as_points,
    boolean_csv,
    correct,
    interleaved,
    two_classes,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def oracle(name):
    """A network that says what a learner says, from the tokens alone."""

    def predict(prompts):
        x, y = prompts.tokens[:, ::2], prompts.tokens[:, 1::2, 0]
        outputs = torch.zeros(*prompts.tokens.shape[:2], 1)
        outputs[:, ::2, 0] = learner(name)(x, y)
        return outputs

    return predict


def test_a_prompt_alternates_points_and_labels():
    family = Boolean("majority", dimension=6, points=9)
    prompts = family.sample(5, seeded())
    assert prompts.tokens.shape == (5, 18, 6)
    assert prompts.tokens[:, ::2].abs().eq(1).all()
    assert torch.equal(prompts.tokens[:, 1::2, 0], prompts.target)
    assert (prompts.tokens[:, 1::2, 1:] == 0).all()
    again = family.sample(5, seeded())
    assert torch.equal(prompts.tokens, again.tokens)


def test_the_loss_is_the_cross_entropy_at_points_only():
    family = Boolean("majority", dimension=6, points=9)
    prompts = family.sample(5, seeded())
    outputs = torch.randn(5, 18, 1, generator=seeded(1))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs[:, ::2, 0], (prompts.target + 1) / 2, reduction="none"
    )
    torch.testing.assert_close(family.loss(outputs, prompts), expected)
    alone = family.sample(1, seeded())
    assert family.loss(outputs[:1], alone).shape == (1, 9)


def test_the_first_labels_of_nearest_neighbours_are_not_scored():
    family = Boolean("nearest-neighbour", dimension=20, points=30)
    prompts = family.sample(4, seeded())
    assert family.loss(torch.zeros(4, 60, 1), prompts).shape == (4, 10)
    score, measures = family.evaluate(oracle("nearest neighbour"), 0)
    assert score == 1
    assert measures["nearest neighbour"] == 1


@pytest.mark.parametrize("name", ["elimination", "gaussian elimination"])
def test_the_score_is_that_of_who_answers(name):
    family = Boolean("conjunction" if name == "elimination" else "parity", dimension=6, points=20)
    score, measures = family.evaluate(oracle(name), 3)
    assert score == pytest.approx(measures[name])
    right = correct(oracle(name), family.draw(1000, torch_generator(3, "unseen functions")))
    assert score == pytest.approx(float(right[:, 1:].mean()))
    assert measures["last"] == pytest.approx(float(right[:, -1].mean()))
    null, _ = family.evaluate(lambda prompts: -torch.ones(*prompts.tokens.shape[:2], 1), 3)
    assert null == pytest.approx(measures["null"])


def test_what_was_taught_is_scored_behind_the_teaching():
    family = Boolean("conjunction", dimension=6, points=20, teaching=0.5)
    taught, untaught = family.after_teaching(oracle("elimination"), 0)
    assert taught == 1
    assert untaught < 0.9
    score, measures = family.evaluate(oracle("elimination"), 0)
    assert (measures["after teaching"], measures["same places untaught"]) == (taught, untaught)
    assert score < 1
    always, _ = Boolean("conjunction", dimension=6, points=20, teaching=1.0).evaluate(oracle("elimination"), 0)
    assert always == 1


def test_the_share_of_teaching_is_kept():
    family = Boolean("conjunction", dimension=8, points=14, teaching=0.25)
    y = family.sample(2000, seeded()).target
    # a teaching sequence begins with two positives; a conjunction of no literal is taught as well
    plain = Boolean("conjunction", dimension=8, points=14).sample(2000, seeded(1)).target
    share = ((y[:, :2] > 0).all(-1).float().mean() - (plain[:, :2] > 0).all(-1).float().mean()).item()
    rest = (plain[:, :2] <= 0).any(-1).float().mean().item()
    assert share / rest == pytest.approx(0.25, abs=0.05)


def test_noise_turns_labels_round_in_training_alone():
    clean, noisy = (Boolean("majority", dimension=6, points=20, noise=noise) for noise in (0.0, 0.3))
    x = noisy.sample(500, seeded())
    y = clean.sample(500, seeded())
    assert torch.equal(x.tokens[:, ::2], y.tokens[:, ::2])
    assert (x.target != y.target).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert noisy.evaluate(oracle("perceptron"), 0)[0] == clean.evaluate(oracle("perceptron"), 0)[0]


def test_a_pool_repeats_its_functions_and_is_scored_on_others():
    family = Boolean("majority", dimension=10, points=12, pool=3)
    tokens = family.sample(200, seeded()).tokens
    assert len(torch.unique(tokens.flatten(1), dim=0)) == 3
    assert len(torch.unique(family.draw(50, seeded()).x.flatten(1), dim=0)) == 50


def test_several_classes_share_the_prompts():
    family = Boolean(["conjunction", "disjunction"], dimension=6, points=10)
    positive = family.sample(600, seeded()).target.gt(0).float().mean(-1)
    assert (positive < 0.4).sum() > 100
    assert (positive > 0.6).sum() > 100


def test_the_name_leads_back_to_the_family():
    family = Boolean(["conjunction", "dnf"], dimension=7, points=11, teaching=0.0, noise=0.1)
    again = compose.task(family.name)
    assert again.fingerprint() == family.fingerprint()
    assert torch.equal(again.sample(3, seeded()).tokens, family.sample(3, seeded()).tokens)


# --- own functions ---------------------------------------------------------------------------------------------------


def first_place(rng):
    return (lambda x: x[:, 0] > 0), None


def test_own_functions_with_own_points():
    def make(rng):
        place = int(rng.integers(5))
        return (lambda x: x[:, place]), lambda count, rng: rng.integers(2, size=(count, 5))

    family = GeneratedFunctions(make, dimension=5, points=12)
    drawn = family.draw(30, seeded())
    same = (drawn.x == drawn.y[..., None]).all(1)
    assert same.any(-1).all()
    assert len(same.float().argmax(-1).unique()) > 2
    assert torch.equal(family.sample(4, seeded()).tokens, family.sample(4, seeded()).tokens)
    assert family.fingerprint() == GeneratedFunctions(make, dimension=5, points=12).fingerprint()
    assert GeneratedFunctions(first_place, 5, 12).evaluate(oracle("nearest neighbour"), 0)[0] > 0.5


def test_own_functions_must_give_what_is_asked_for():
    bad_labels = GeneratedFunctions(lambda rng: ((lambda x: np.arange(len(x))), None), 5, 8)
    with pytest.raises(FewerError, match="labels must be 0 and 1, or -1 and 1; given"):
        bad_labels.sample(1, seeded())
    too_few = GeneratedFunctions(lambda rng: ((lambda x: x[:, 0]), lambda count, rng: np.ones((3, 5))), 5, 8)
    with pytest.raises(FewerError, match="8 points were asked for; given 3"):
        too_few.sample(1, seeded())


# --- recorded functions ----------------------------------------------------------------------------------------------


def tasks(count=10, points=9, dimension=4):
    rng = np.random.default_rng(0)
    x = [rng.integers(2, size=(points + at % 3, dimension)) for at in range(count)]
    return x, [each[:, at % dimension] for at, each in enumerate(x)]


def test_recorded_tasks_are_kept_apart():
    x, y = tasks()
    family = RecordedFunctions(x, y)
    assert (family.points, family.dimension) == (9, 4)
    rows = {unseen: set() for unseen in (False, True)}
    for unseen, seen in rows.items():
        drawn = family.draw(300, seeded(), unseen=unseen)
        for points, labels in zip(drawn.x, drawn.y, strict=True):
            matches = [
                at
                for at, each in enumerate(x)
                if {tuple(row) for row in points.tolist()} <= {tuple(row) for row in (2 * each - 1).tolist()}
                and (points[:, at % 4] == labels).all()
            ]
            assert matches
            seen.add(tuple(matches))
    assert len(rows[True]) == 2
    assert len(rows[False]) == 8
    assert not rows[True] & rows[False]


def test_recorded_tasks_come_from_a_file(tmp_path):
    x, y = tasks(points=9)
    parts = [pd.DataFrame(a).assign(task=f"task {at}", y=b) for at, (a, b) in enumerate(zip(x, y, strict=True))]
    file = tmp_path / "tasks.csv"
    pd.concat(parts).to_csv(file, index=False)
    family = boolean_csv(file)
    assert family.fingerprint() == RecordedFunctions(x, y).fingerprint()
    assert compose.task(f"boolean-csv({str(file)!r}, points=5)").points == 5
    with pytest.raises(FewerError, match="has no column 'label'; its columns are"):
        boolean_csv(file, target="label")
    with pytest.raises(FewerError, match="cannot read"):
        boolean_csv(tmp_path / "none.csv")


# --- arrays ----------------------------------------------------------------------------------------------------------


def test_points_and_labels_of_any_spelling():
    expected = np.array([[1, -1], [-1, -1]])
    for given in ([[1, 0], [0, 0]], [[1, -1], [-1, -1]], [[True, False], [False, False]]):
        assert np.array_equal(as_points(given, (2, 2)), expected)
    for given in ([0, 1], [-1, 1], [False, True]):
        assert np.array_equal(as_labels(np.array(given), 2), [-1, 1])
    assert two_classes(np.array(["b", "a"]), None) == ("a", "b")
    assert two_classes(np.array([1, 1]), None) == (0, 1)
    assert two_classes(np.array([-1]), None) == (-1, 1)
    assert two_classes(np.array(["x"]), ("x", "y")) == ("x", "y")
    assert interleaved(torch.ones(2, 3, 4), torch.ones(2, 3)).shape == (2, 6, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_points([[0.0, 0.5]], (1, 2)), "0.5 is among them"),
        (lambda: as_points([[np.nan, 1.0]], (1, 2)), "nan is among them"),
        (lambda: as_points([["a", "b"]], (1, 2)), "they are not numbers"),
        (lambda: as_points([[0, 1, 1]], (1, 2)), r"an array \(points, 2\); given \(1, 3\)"),
        (lambda: as_labels([0, 1], 3), r"3 points need as many labels; given \(2,\)"),
        (lambda: as_labels([0, -1, 1], 3), "labels must be 0 and 1, or -1 and 1"),
        (lambda: two_classes(np.array([1, 2, 3]), None), "two classes; given 3"),
        (lambda: two_classes(np.array(["yes"]), None), "all labels are 'yes'; say what the other one is"),
        (lambda: two_classes(np.array(["yes"]), ("no", "maybe")), "two classes are needed, and the labels among them"),
        (lambda: Boolean("parties"), "unknown class 'parties'"),
        (lambda: Boolean([]), "no class of functions was named"),
        (lambda: Boolean("parity", teaching=0.5), "no teaching sequence of parity"),
        (lambda: Boolean(teaching=1.5), "teaching must lie in"),
        (lambda: Boolean(noise=0.5), "noise in"),
        (lambda: Boolean(pool=0), "pool must be at least 1"),
        (lambda: Boolean(points=1), "2 points or more"),
        (lambda: Boolean("nearest-neighbour", points=20), "the first 20 of 20 points are not scored"),
        (lambda: RecordedFunctions(*[each[:1] for each in tasks()]), "two or more tasks"),
        (lambda: RecordedFunctions(*tasks(), points=50), "the smallest task has 9 points, prompts of 50"),
        (lambda: RecordedFunctions(*tasks(), held_out=0.0), "leaves none to train or to score on"),
        (
            lambda: Boolean("conjunction", points=3, dimension=12, teaching=0.5).after_teaching(oracle("null"), 0, 1),
            "all taken by the teaching sequences",
        ),
    ],
)
def test_errors(call, message):
    with pytest.raises(FewerError, match=message):
        call()
