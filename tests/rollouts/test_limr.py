"""LIMR: scores of learning curves, the selection, and the curation."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewer.core.errors import FewerError
from fewer.rollouts.impact_scores import LIM, alignment, filled, steady_improvement
from fewer.rollouts.limr import LIMR, LearningImpact

curves_of = arrays(
    np.float64, st.tuples(st.integers(2, 6), st.integers(2, 5)), elements=st.integers(0, 8).map(lambda n: n / 10)
)


@given(curves_of)
def test_scores_are_those_that_are_written_down(curves):
    scores, mean = alignment(curves)
    for row, score in zip(curves.tolist(), scores, strict=True):
        above = sum((each - average) ** 2 for each, average in zip(row, mean, strict=True))
        below = sum((1 - average) ** 2 for average in mean)
        assert score == pytest.approx(1 - above / below)
    assert mean == pytest.approx(curves.mean(0))


@given(curves_of, st.randoms(use_true_random=False))
def test_another_order_of_prompts_orders_scores_alike(curves, random):
    order = list(range(len(curves)))
    random.shuffle(order)
    assert alignment(curves[order])[0] == pytest.approx(alignment(curves)[0][order])


def test_known_curves():
    mean = np.array([0.2, 0.5, 0.8])
    curves = np.stack([mean, np.ones(3), 2 * mean - 1, mean])  # their average is the first
    scores, average = alignment(curves)
    assert average == pytest.approx(mean)
    assert scores == pytest.approx([1.0, 0.0, 0.0, 1.0])
    assert alignment(np.full((4, 3), 0.3))[0] == pytest.approx(1.0)
    with_mean = alignment(np.vstack([curves, mean]))[0]
    assert with_mean[:4] == pytest.approx(scores)
    assert with_mean[4] == pytest.approx(1.0)


def test_what_is_missing_takes_the_next_epochs_value():
    nan = np.nan
    given_curves = np.array([[nan, 0.5, 1.0], [0.5, nan, nan], [nan, nan, 0.5], [0.1, 0.2, 0.3]])
    found = filled(given_curves)
    assert found[0].tolist() == [0.5, 0.5, 1.0]
    assert found[3].tolist() == [0.1, 0.2, 0.3]
    assert np.isnan(found[1]).any()
    assert np.isnan(found[2]).any()
    scores, mean = alignment(found)
    assert np.isnan(scores[[1, 2]]).all()
    assert mean == pytest.approx(found[[0, 3]].mean(0))


def pool():
    """Twenty always solved, ten never, ten learned."""
    rng = np.random.default_rng(0)
    rise = np.linspace(0.3, 0.9, 6)
    learned = np.clip(rise + 0.05 * rng.standard_normal((10, 6)), 0, 1)
    return np.vstack([np.full((20, 6), 0.98), np.zeros((10, 6)), learned])


def test_what_is_learned_is_kept():
    fitted = LIM().fit(pool())
    assert fitted.kept_.tolist() == list(range(30, 40))
    assert fitted.transform(range(40)) == list(range(30, 40))
    assert LIM(most=3).fit(pool()).kept_.size == 3
    best = np.argsort(-fitted.scores_)[:3]
    assert sorted(best) == LIM(most=3).fit(pool()).kept_.tolist()
    assert steady_improvement(pool()).tolist() == list(range(30, 40))


def test_a_log_is_read_like_curves():
    curves = np.array([[0.5, 1.0], [0.0, 0.5], [0.25, 0.75]])
    log = [
        {"prompt_id": name, "epoch": epoch, "reward": float(number < 4 * curves[row, epoch])}
        for epoch in (0, 1)
        for row, name in enumerate("abc")
        for number in range(4)
    ]
    assert LIM(0.0).fit(log).scores_ == pytest.approx(LIM(0.0).fit(curves).scores_)


def test_a_low_average_curve_is_warned_of():
    with pytest.warns(UserWarning, match="ends at 0.30"):
        LIM().fit(np.full((3, 4), 0.3))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: LIM().fit([[1.0], [0.0]]), r"curves of shape \(2, 1\)"),
        (lambda: LIM().fit([[1.0, -0.5]]), "a value is -0.5; give shares of right completions"),
        (lambda: LIM().fit([[1.0, 1.0], [1.0, 1.0]]), "the average curve is 1"),
        (lambda: LIM(0.99).fit([[0.0, 0.5], [0.9, 0.5], [0.2, 0.9]]), "no prompt scores 0.99; the best has"),
        (lambda: LIM().fit(pool()).transform([1, 2]), "40 curves were given and 2 prompts"),
        (lambda: LIM().fit([{"prompt": "a"}]), "prompt_id, epoch and reward"),
        (lambda: LIMR(epochs=1), "epochs must be at least 2"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def answer(stream, solved, count=8):
    """One draw, answered; gives whether the model shall begin anew."""
    places = stream.draw(count)
    return places, stream.record(places, solved(places))


def test_the_curation_tries_all_prompts_in_each_epoch_and_then_keeps_some():
    curves, epochs = pool(), 6
    stream = LearningImpact(epochs=epochs).build(40, seed=0)
    for epoch in range(epochs):
        seen = []
        for batch in range(5):
            places, anew = answer(stream, lambda rows, epoch=epoch: curves[rows, epoch])
            seen += places.tolist()
            assert anew == (epoch == epochs - 1 and batch == 4)
        assert sorted(seen) == list(range(40))
    later = {place for _ in range(3) for place in answer(stream, lambda rows: np.ones(len(rows)))[0].tolist()}
    assert later <= set(range(30, 40))
    assert len(later) == 10


def test_the_last_batch_of_an_epoch_is_smaller_where_they_do_not_fit():
    stream = LearningImpact(epochs=2, most=5).build(10, seed=0)
    sizes = [len(answer(stream, lambda rows: 0.5 + rows / 20)[0]) for _ in range(6)]
    assert sizes == [8, 2, 8, 2, 5, 5]


@pytest.mark.parametrize("steps", [3, 40])
def test_its_state_goes_on_where_it_was(steps):
    def solved(rows):
        return pool()[rows, 3]

    first, other = (LearningImpact(epochs=6).build(40, seed=1) for _ in range(2))
    for _ in range(steps):
        answer(first, solved)
    other.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(40):
        (one, anew), (two, again) = answer(first, solved), answer(other, solved)
        assert one.tolist() == two.tolist()
        assert anew == again


def test_a_budget_that_the_first_run_uses_up_is_refused():
    from fewer.rollouts.chain_sums import ChainSums
    from fewer.rollouts.loop import PostTraining

    loop = PostTraining(curation=LearningImpact(epochs=3), group=2, prompts=2)
    with pytest.raises(FewerError, match="of 10 prompts takes 62 rollouts, and 61 may be spent"):
        loop.start(ChainSums(rows=10, steps=2), 61, seed=0)
    assert loop.start(ChainSums(rows=10, steps=2), 62, seed=0).ledger.spent == 0
