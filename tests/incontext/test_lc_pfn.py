from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.incontext.curve_prior import CurvePrior
from fewer.incontext.lc_pfn import LearningCurves, beginning, measure_on_prior, tokenise
from fewer.incontext.loop import LearnToLearn, frozen
from fewer.incontext.prior_fitted_network import PriorFitted
from fewer.models.optimisers import AdamW

SMALL = LearningCurves(CurvePrior(length=20), bars=40)


def positions(prompts, length=20):
    """Undo what is done to positions."""
    return (prompts.tokens[..., 0] / math.sqrt(12) + 0.5) * (length + 1)


def test_a_prompt_is_the_beginning_of_a_curve_and_the_rest_is_asked():
    for seed in range(5):
        prompts = SMALL.sample(6, torch_generator(seed, "a"))
        cut = prompts.observed
        torch.testing.assert_close(positions(prompts), torch.arange(1.0, 21).expand(6, -1))
        assert prompts.target.shape == (6, 20 - cut)
        assert (prompts.tokens[:, cut:, 1] == 0).all()
        shown = prompts.tokens[:, :cut, 1] / math.sqrt(12) + 0.5
        assert (shown.mean() > 0) & (shown.mean() < 1)


def test_cut_offs_are_uniform():
    generator = torch.Generator().manual_seed(0)
    cuts = [SMALL.sample(1, generator).observed for _ in range(400)]
    assert set(cuts) == set(range(1, 20))
    assert 8.5 < np.mean(cuts) < 11.5


def test_thinned_prompts_show_some_points_of_the_past_and_ask_of_the_future():
    family = LearningCurves(CurvePrior(length=20), bars=40, queries=3, thinned=1.0)
    generator, fewer_shown = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        prompts = family.sample(4, generator)
        at, shown = positions(prompts).round(), prompts.observed
        assert prompts.target.shape[1] == prompts.tokens.shape[1] - shown <= 3
        seen, asked = at[:, :shown], at[:, shown:]
        assert (seen.diff(dim=1) > 0).all()
        assert (asked.amin(1) > seen.amax(1)).all()
        assert all(len(set(row.tolist())) == at.shape[1] for row in at)
        fewer_shown += shown < int(seen.max())
    assert fewer_shown > 20


def test_shown_and_asked_come_from_one_curve():
    """Without noise to speak of, the later values of a curve are above its earlier ones more often than not."""
    family = LearningCurves(CurvePrior(length=20), bars=40, queries=4, thinned=0.5)
    prompts = family.sample(400, torch_generator(1, "b"))
    shown = prompts.tokens[:, : prompts.observed, 1] / math.sqrt(12) + 0.5
    assert np.corrcoef(shown.mean(1), prompts.target.mean(1))[0, 1] > 0.8


def test_the_loss_is_the_negative_log_density():
    prompts = SMALL.sample(5, torch_generator(0, "c"))
    logits = torch.randn(*prompts.target.shape, 40)
    expected = -SMALL.distribution.log_density(logits, prompts.target)
    torch.testing.assert_close(SMALL.loss(logits, prompts), expected)


def test_tokens_have_zero_mean_and_unit_variance_were_they_uniform():
    x, y = torch.rand(1, 20_000) * 101, torch.rand(1, 20_000)
    tokens = tokenise(x, y, 100)
    assert tokens.mean((0, 1)).abs().max() < 0.02
    assert (tokens.std((0, 1)) - 1).abs().max() < 0.02


def test_it_learns_and_more_points_help():
    loop = LearnToLearn(network=PriorFitted(32, 2, 2), optimiser=AdamW(3e-3), batch=32, points=2)
    first, last = loop.run(SMALL, 3200, 0)
    assert last.score > first.score
    assert last.score > 0.5  # the mean density of the bars themselves gives about 0.1
    assert last.extras["log_likelihood_50%"] > last.extras["log_likelihood_5%"]


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path):
    loop = LearnToLearn(network=PriorFitted(8, 1, 2), batch=8, points=3)
    whole = [(point.spent, point.score) for point in loop.run(SMALL, 48, 3)]
    run = loop.run(SMALL, 48, 3, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    assert [(point.spent, point.score) for point in loop.run(SMALL, 48, 3, checkpoint=tmp_path / "state")] == whole


def test_evaluation_is_the_mean_over_four_cut_offs():
    network = PriorFitted(8, 1, 2).build(2, 40, 0)
    score, measures = SMALL.evaluate(frozen(network), 0)
    assert len(measures) == 4
    assert score == pytest.approx(np.mean(list(measures.values())))
    assert SMALL.evaluate(frozen(network), 0)[0] == score


def test_it_is_a_task_and_a_network_of_the_loop():
    task = compose.task("learning-curves(bars=30)")
    assert (task.features, task.outputs, task.length) == (2, 30, 100)
    loop = compose.loop("prior-fitted(width=8, layers=1, heads=2) + learn-to-learn(batch=4, points=1)")
    assert len(list(loop.run(task, 8, 0))) == 1
    with pytest.raises(FewerError, match="left to right"):
        next(compose.loop("lstm(width=4)").run(task, 64, 0))


def test_the_beginning_of_whole_curves():
    curves = torch.rand(3, 20)
    prompts = beginning(curves, 4)
    assert prompts.observed == 4
    torch.testing.assert_close(prompts.target, curves[:, 4:])
    torch.testing.assert_close(prompts.tokens[:, :4, 1] / math.sqrt(12) + 0.5, curves[:, :4])
    assert (prompts.tokens[:, 4:, 1] == 0).all()


def test_the_network_that_ships_is_as_likely_as_the_exact_answer():
    """At five points, where importance sampling is near exact."""
    from fewer.incontext.curve_posteriors import ImportanceSampling
    from fewer.incontext.extrapolation import LearningCurveExtrapolator

    prior, extrapolator = CurvePrior(), LearningCurveExtrapolator.load()
    _, curves = prior.sample(64, np.random.default_rng(11))
    exact = ImportanceSampling(prior, 20_000, np.random.default_rng(12)).answer(curves, 5)
    prompts = beginning(torch.from_numpy(curves).float(), 5)
    ours = extrapolator.distribution.log_density(extrapolator.answer(prompts), prompts.target).mean()
    assert float(ours) > exact.log_density.mean() - 0.12


def test_a_measurement_names_all_that_it_compares():
    found = measure_on_prior(0, tiny=True)
    assert set(found) == {"lc-pfn", "markov chain", "importance sampling", "power law", "last value"}
    assert all(math.isfinite(value) for each in found.values() for value in each.values())


def test_the_bands_in_the_documentation_are_those_that_were_measured():
    root = Path(__file__).parents[2]
    (measured,) = (
        each["measures"]
        for each in json.loads((root / "results" / "claims" / "lc-pfn.json").read_text())["claims"]
        if "curves of lc-pfn" in each["measures"]
    )
    text = "".join(page.read_text() for page in (root / "docs" / "rooms").glob("*.md"))
    for level in (50, 80, 95):
        cells = [
            f"{100 * np.mean(measured[f'inside the {level} % band of {name}']):.0f} %"
            for name in ("against rows", "against epochs", "lc-pfn", "invented curves")
        ]
        assert f"| {level} % | {' | '.join(cells)} |" in text


@pytest.mark.parametrize("wrong", [{"bars": 1}, {"queries": -1}, {"thinned": 1.5}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(FewerError, match="bars must be at least 2, queries at least 0"):
        LearningCurves(**wrong)
