from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.demos.residual_search import ResidualSearch


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_room_plans_stay_as_they_are():
    def score(plans):
        raise AssertionError("nothing is to be scored")

    plans = torch.rand(3, 8, 2)
    assert (ResidualSearch(bound=0).best(plans, score, stream()) == 0).all()


@settings(deadline=None, max_examples=30)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_it_finds_the_bounded_optimum_of_a_quadratic_in_a_linear_world(x, y):
    """Position after four pushes, as near to a goal as may be: each push does what it can."""
    goal = 0.5 * torch.tensor([x, y])
    plans = torch.zeros(1, 4, 2)
    score = lambda chunks: -50 * (chunks.sum(2) - goal).square().sum(-1)  # noqa: E731
    search = ResidualSearch(samples=512, iterations=8, elites=32, max_std=0.3, std=0.1)
    found = search.best(plans, score, stream())
    wanted = goal.clamp(-0.8, 0.8)
    torch.testing.assert_close(found.sum(1)[0], wanted, atol=0.06, rtol=0)
    assert found.abs().max() <= 0.2


def test_the_best_sample_is_given_and_not_the_mean():
    seen = []

    def score(plans):
        seen.append(plans)
        return plans[..., 0, 0]

    found = ResidualSearch(samples=16, iterations=3, elites=4).best(torch.zeros(2, 3, 1), score, stream())
    last = seen[-1]
    for i in range(2):
        torch.testing.assert_close(found[i], last[i, last[i, :, 0, 0].argmax()])


def test_elites_that_agree_are_kept_with_the_least_deviation():
    search = ResidualSearch(samples=6, elites=3)
    changes = torch.full((1, 6, 2, 1), 0.07)
    mean, std = search.refit(changes, torch.arange(6.0)[None])
    torch.testing.assert_close(mean, torch.full((1, 2, 1), 0.07))
    torch.testing.assert_close(std, torch.full((1, 2, 1), 0.01))


def test_elites_are_weighted_as_a_slow_loop_does():
    torch.manual_seed(0)
    search = ResidualSearch(samples=9, elites=4, temperature=0.7, max_std=9.0)
    changes, scores = torch.randn(2, 9, 3, 2), torch.randn(2, 9)
    mean, std = search.refit(changes, scores)
    for i in range(2):
        best = scores[i].argsort(descending=True)[:4]
        weights = torch.tensor([torch.exp(0.7 * (scores[i, j] - scores[i].max())) for j in best])
        weights = weights / weights.sum()
        centre = sum(w * changes[i, j] for w, j in zip(weights, best, strict=True))
        spread = sum(w * (changes[i, j] - centre) ** 2 for w, j in zip(weights, best, strict=True)) ** 0.5
        torch.testing.assert_close(mean[i], centre)
        torch.testing.assert_close(std[i], spread)


def test_a_score_that_is_no_number_never_wins():
    search = ResidualSearch(samples=8, iterations=2, elites=8)
    found = search.best(
        torch.zeros(1, 2, 1), lambda p: torch.where(p[..., 0, 0] > 0, torch.nan, p[..., 0, 0]), stream()
    )
    assert found[0, 0, 0] <= 0


def test_executed_plans_stay_within_bounds():
    seen = []
    plans = torch.ones(1, 3, 1)
    ResidualSearch(samples=8, iterations=1, elites=2).best(
        plans, lambda p: (seen.append(p), p.sum((2, 3)))[1], stream()
    )
    assert seen[0].max() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "must be at least 1, and elites at most samples; they are 0, 6 and 32"),
        ({"elites": 999}, "they are 256, 6 and 999"),
        ({"bound": -1}, r"bound lies in \[0, 2\]"),
        ({"min_std": 0.5}, "min_std at most max_std"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(FewerError, match=message):
        ResidualSearch(**changes)
