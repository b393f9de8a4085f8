"""XPO: DPO with a bonus, against closed forms and automatic gradients."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW
from fewer.rollouts.preference import DPO, Comparisons, PreferenceLearning, asked
from fewer.rollouts.problems import Problem
from fewer.rollouts.rare_responses import RareResponses
from fewer.rollouts.xpo import XPO, Exploratory, bonus


def pairs(seed=0, count=5):
    draws = torch.Generator().manual_seed(seed)
    values = [-3 * torch.rand(count, generator=draws, dtype=torch.float64) for _ in range(4)]
    second = torch.rand(count, generator=draws) < 0.5
    return Comparisons(
        values[0].requires_grad_(), values[1].requires_grad_(), *values[2:], second, torch.ones(count).bool()
    )


def test_without_the_bonus_it_is_dpo_to_the_bit():
    given = pairs()
    for kind in ("sigmoid", "ipo"):
        losses = [each.losses(given, 0.5) for each in (DPO(0.2, kind), Exploratory(0.2, kind, alpha=0.0))]
        assert torch.equal(*losses)


def test_the_loss_of_dpo_is_that_of_the_margin():
    given = pairs(1)
    margin = (given.chosen - given.reference_chosen) - (given.rejected - given.reference_rejected)
    assert torch.allclose(DPO(0.3).losses(given, 0.0), torch.log1p(torch.exp(-0.3 * margin)))
    assert torch.allclose(DPO(0.3, "ipo").losses(given, 0.0), (margin - 1 / 0.6) ** 2)


def test_the_gradient_where_nothing_was_learned_yet():
    given = pairs(2)
    given = replace(given, reference_chosen=given.chosen.detach(), reference_rejected=given.rejected.detach())
    loss = Exploratory(beta=0.2, alpha=0.05).losses(given, 0.0).sum()
    chosen, rejected = torch.autograd.grad(loss, (given.chosen, given.rejected))
    second = given.second_chosen.double()
    assert torch.allclose(chosen, -0.1 + 0.05 * second)
    assert torch.allclose(rejected, 0.1 + 0.05 * (1 - second))


def test_whoever_was_second_changes_the_bonus_alone():
    given = pairs(3)
    other = replace(given, second_chosen=~given.second_chosen)
    objective = Exploratory(alpha=0.1)
    change = objective.losses(given, 0.0) - objective.losses(other, 0.0)
    sign = torch.where(given.second_chosen, 1.0, -1.0)
    assert torch.allclose(change, 0.1 * sign * (given.chosen - given.rejected))
    assert torch.equal(DPO().losses(given, 0.0), DPO().losses(other, 0.0))


def test_equal_completions_teach_nothing():
    given = replace(pairs(4), different=torch.tensor([True, False, True, False, True]))
    for objective in (DPO(), DPO(kind="ipo"), Exploratory(alpha=0.1)):
        assert (objective.losses(given, 0.0) == 0).tolist() == [False, True, False, True, False]


def test_a_step_of_the_bonus_alone_lowers_the_second_and_raises_the_logits_of_all_others():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    logps = torch.log_softmax(logits, 0)
    (gradient,) = torch.autograd.grad(bonus(logps[2:3], logps[4:5], torch.tensor([True])).sum(), logits)
    assert (gradient > 0).tolist() == [False, False, True, False, False, False]
    assert float(torch.softmax(logits - 0.1 * gradient, 0)[2].detach()) < float(logps[2].detach().exp())


def test_weights_change_along_the_run_and_the_bonus_has_a_floor():
    objective = Exploratory(alpha=(0.3, 0.1, 0.0), floor=-2.0)
    given = replace(pairs(5), second_chosen=torch.ones(5).bool())
    plain = DPO().losses(given, 0.0)
    for progress, alpha in ((0.0, 0.3), (0.32, 0.3), (0.34, 0.1), (0.99, 0.0), (1.0, 0.0)):
        added = objective.losses(given, progress) - plain
        assert torch.allclose(added, alpha * given.chosen.clamp(min=-2.0))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: XPO(alpha=-0.1), "alpha must not be negative"),
        (lambda: XPO(beta=0.0), "beta must be positive"),
        (lambda: XPO(kind="hinge"), "sigmoid or ipo"),
        (lambda: PreferenceLearning(prompts=0), "must be at least 1"),
        (lambda: PreferenceLearning(temperature=0.0), "temperature is positive"),
        (lambda: PreferenceLearning(second="other"), "policy or reference"),
        (lambda: RareResponses(slope=0.0), "slope is positive"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


SMALL = {"prompts": 4, "points": 2, "asked": 16, "batch": 8, "optimiser": AdamW(1e-3, 0.0)}


@pytest.mark.parametrize("slots", [XPO(alpha=0.01), {"objective": DPO(), "second": "policy"}, {"fresh": True}])
def test_a_run_counts_comparisons_and_goes_on_to_the_bit(slots, tmp_path):
    task, loop = RareResponses(steps=2), PreferenceLearning(**{**SMALL, **slots})
    whole = list(loop.run(task, 16, seed=1))
    assert [each.spent for each in whole] == [8, 16]
    file = tmp_path / "run.safetensors"
    first = loop.run(task, 16, seed=1, checkpoint=file)
    next(first)
    first.close()
    again = list(loop.run(task, 16, seed=1, checkpoint=file))
    for one, other in zip(whole, again, strict=True):
        assert {**one.extras, "seconds": 0} == {**other.extras, "seconds": 0}
        assert one.score == other.score


def test_the_first_model_stays_and_its_log_probabilities_are_kept():
    task, loop = RareResponses(steps=2), PreferenceLearning(**SMALL)
    state = loop.start(task, 16, seed=0)
    before = copy.deepcopy(state.language.network.state_dict())
    loop.advance(state)
    assert all(torch.equal(value, before[name]) for name, value in state.language.network.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in state.network.state_dict().items())
    assert state.pairs["tokens"].shape == (8, 2, 5)
    tokens = state.pairs["tokens"]
    logps = torch.log_softmax(state.language.network(tokens.flatten(0, 1)[:, :-1]), -1)
    each = logps.gather(2, tokens.flatten(0, 1)[:, 1:, None])[:, 1:, 0]
    whole = torch.where(state.pairs["mask"].flatten(0, 1), each, 0.0).sum(1)
    assert torch.allclose(whole, state.pairs["reference"].flatten(), atol=1e-4)


def test_oracles():
    task = RareResponses()
    problem = Problem("aa", "abc")
    assert task.prefer(problem, "abc", "abd") == pytest.approx(1 / (1 + 2.718281828 ** (-4 / 3)))
    assert task.prefer(problem, "add", "adh") == 0.5
    assert asked(task, problem, "abc", "hhh") + asked(task, problem, "hhh", "abc") == pytest.approx(1)

    class Wrong(RareResponses):
        def prefer(self, problem, one, other):
            return 1.5

    with pytest.raises(FewerError, match=r"the oracle says 1\.5"):
        asked(Wrong(), problem, "a", "b")


def test_the_first_model_has_not_seen_good_responses():
    task = RareResponses()
    for problem in task.training(0):
        known = task._known(problem, 0)
        assert len(set(known)) == 26
        assert max(task.verify(each, problem) for each in known) <= 1 / 3


def test_what_a_sure_oracle_prefers_is_chosen():
    task, loop = RareResponses(steps=2, slope=1e9), PreferenceLearning(**{**SMALL, "second": "policy"})
    state = loop.start(task, 64, seed=0)
    for _ in range(8):
        loop._compare(state)
    problems, told = {problem.prompt: problem for problem in task.training(0)}, 0
    for tokens, second in zip(state.pairs["tokens"].tolist(), state.pairs["second_chosen"].tolist(), strict=True):
        worth = []
        for each in tokens:
            text = state.language.decode(each)
            worth.append(task.verify(text[2:].replace(".", ""), problems[text[:2]]))
        if worth[0] != worth[1]:
            told += 1
            assert second == (worth[1] > worth[0])
    assert told > 5


def test_people_are_shown_completions_and_what_is_watched_is_measured():
    shown = []
    points = list(PreferenceLearning(points=2).run(RareResponses(steps=5), 16, seed=0, show=shown.append))
    assert [each.spent for each in shown] == [0, 8, 16]
    assert all(row.asked and isinstance(row.score, float) for each in shown for row in each.rows)
    assert set(PreferenceLearning.watched) <= set(points[-1].extras)
