"""Learned rewards: what is a success, who says so, and how the classifier is kept smooth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.control.toys import target
from torch import nn
from torch.nn import functional

from fewer.control.baselines import sac
from fewer.control.environments import GymEnvironment, Step
from fewer.control.loop import OffPolicy
from fewer.control.peg_world import peg_slot_2d
from fewer.control.replay import Batch
from fewer.control.reward_classifiers import (
    VICE,
    RewardClassifier,
    SuccessClassifier,
    TrainedJudge,
    gradient_penalty,
    outcomes,
    vice_loss,
)
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz

SMALL = {"hidden": (8, 8)}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Above(nn.Module):
    """Success is a first number above a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def success(self, observations):
        return observations[:, 0] > self.bound


def test_a_linear_logit_of_slope_one_is_not_punished_and_another_is():
    for weight, expected in ((1.0, 0.0), (3.0, 4.0), (0.0, 1.0)):
        head = nn.Linear(4, 1)
        with torch.no_grad():
            head.weight.zero_()
            head.weight[0, 2] = weight
        assert float(gradient_penalty(head, torch.randn(10, 4)).detach()) == pytest.approx(expected, abs=3e-3)


def test_vice_loss_equals_a_plain_version():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    goals, others = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(1)
        found = vice_loss(head, goals, others, penalty=10.0)
        torch.manual_seed(1)
        order, share = torch.randperm(8), torch.rand(8)
        place = torch.rand(4, 1)
    finally:
        torch.set_default_dtype(default)
    rows, labels = torch.cat([goals, others]), [0.9] * 4 + [0.1] * 4
    mixed = [share[i] * rows[i] + (1 - share[i]) * rows[order[i]] for i in range(8)]

    def entropy(logit, label):
        p = 1 / (1 + math.exp(-logit))
        return -label * math.log(p) - (1 - label) * math.log(1 - p)

    total = 0.0
    for i in range(8):
        logit = float(head(mixed[i]).detach())
        m = float(share[i])
        total += m * entropy(logit, labels[i]) + (1 - m) * entropy(logit, labels[int(order[i])])
    slopes = 0.0
    for i in range(4):
        between = (place[i] * mixed[i] + (1 - place[i]) * mixed[i + 4]).detach().requires_grad_()
        (slope,) = torch.autograd.grad(head(between).sum(), between)
        slopes += (math.sqrt(float(slope.square().sum()) + 1e-6) - 1) ** 2
    assert float(found.detach()) == pytest.approx(total / 8 + 10 * slopes / 4, abs=1e-5)


def test_the_penalty_reaches_the_weights():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    rows = torch.randn(6, 3).double()

    def penalty(*parameters):
        def called(x):
            return torch.func.functional_call(
                head, dict(zip(dict(head.named_parameters()), parameters, strict=True)), x
            )

        torch.manual_seed(2)
        return gradient_penalty(called, rows)

    given = tuple(each.detach().clone().requires_grad_() for each in head.parameters())
    assert torch.autograd.gradcheck(penalty, given, atol=1e-4)


def test_beforehand_it_learns_to_tell_successes():
    torch.manual_seed(0)
    good, bad = torch.randn(200, 3) + torch.tensor([5.0, 0, 0]), torch.randn(800, 3)
    bad[:, 2] = 7.0  # a number that never changes is no trouble
    good[:, 2] = 7.0
    classifier = SuccessClassifier(3, 32)
    RewardClassifier(steps=200, lr=3e-3, batch=64).fit(classifier, good, bad)
    assert classifier.training
    assert float(classifier.success(good).float().mean()) > 0.95
    assert float(classifier.success(bad).float().mean()) < 0.05
    # nothing is left out when it judges
    assert torch.equal(classifier.success(bad), classifier.success(bad))


def step_of(first, **flags):
    count = len(first)
    fields = {name: np.array(flags.get(name, [False] * count)) for name in ("terminated", "truncated", "success")}
    seen = np.array(first, dtype=np.float32)[:, None]
    return Step(seen, np.full(count, 7.0), taken=np.ones(count, dtype=np.int64), **fields)


def test_a_success_ends_the_episode_and_the_worlds_own_word_is_not_taken():
    judged = TrainedJudge(Above(0.5)).judge(
        step_of(
            [1, 0, 0, 0, 1],
            terminated=[False, False, True, True, True],
            success=[False, False, True, False, True],
            truncated=[True, True, False, False, False],
        )
    )
    assert judged.rewards.tolist() == [1, 0, 0, 0, 1]
    assert judged.terminated.tolist() == [True, False, False, True, True]
    # the third one's world has ended, but for nobody who knows only the classifier
    assert judged.truncated.tolist() == [False, True, True, False, False]


def test_it_judges_what_is_remembered():
    class Fixed:
        def build(self, state):
            return TrainedJudge(Above(0.0))

    loop = OffPolicy(**sac(**SMALL), reward=Fixed(), learning_starts=100, episodes=1, points=1)
    state = loop.start(target(steps=99), 60, seed=0)
    for _ in range(60):
        loop._act(state)
    rows = state.replay.take(torch.arange(60))
    success = rows.next_observations[:, 0] > 0
    assert torch.equal(rows.rewards, success.float())
    assert torch.equal(rows.continues, (~success).float())
    assert state.episodes[0] == int(success.sum())
    # an episode that was ended begins anew
    ends = success[:-1].nonzero()[:, 0]
    assert not torch.equal(rows.observations[ends + 1], rows.next_observations[ends])


def test_vice_says_rewards_when_they_are_drawn_and_learns():
    task = peg_slot_2d(demonstrations=4)
    loop = OffPolicy(**sac(**SMALL), reward=VICE(batch=8, hidden=8, every=2), batch=8, learning_starts=5, episodes=1)
    torch.manual_seed(0)
    state = loop.start(task, 60, 0)
    for _ in range(10):
        loop._learn(state, loop._act(state))
    judge = state.judge
    assert judge.steps == 10
    moments = judge.optimiser.state_dict()["state"][0]["step"]
    assert int(moments) == 5
    good = judge.goals[:4]
    batch = Batch(good, torch.zeros(4, 3), torch.full((4,), 9.0), good, torch.ones(4))
    judge.classifier.success = lambda rows: torch.tensor([True, False, True, False])
    assert judge.relabel(batch).rewards.tolist() == [1, 0, 1, 0]
    same = step_of([1.0])
    assert judge.judge(same) is same


def test_vice_looks_at_where_an_action_led():
    """Not at where it was done."""
    task = peg_slot_2d(demonstrations=4)
    loop = OffPolicy(**sac(**SMALL), reward=VICE(batch=8, hidden=8), batch=8, episodes=1)
    judge = loop.start(task, 60, 0).judge
    judge.classifier = Above(0.5)
    before, after = torch.zeros(3, 10), torch.zeros(3, 10)
    before[0, 0] = after[1, 0] = 1
    batch = Batch(before, torch.zeros(3, 3), torch.full((3,), 9.0), after, torch.ones(3))
    assert judge.relabel(batch).rewards.tolist() == [0, 1, 0]


@pytest.mark.parametrize("reward", [RewardClassifier(steps=3, hidden=8), VICE(batch=8, hidden=8, every=3)])
def test_a_resumed_run_is_the_same_to_the_bit(reward, tmp_path):
    task = peg_slot_2d(demonstrations=4)
    loop = OffPolicy(**sac(**SMALL), reward=reward, batch=8, learning_starts=7, episodes=2, points=3)
    whole = [(p.spent, p.score, p.extras["critic_loss"]) for p in loop.run(task, 61, 5)]
    run = loop.run(task, 61, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    again = [(p.spent, p.score, p.extras["critic_loss"]) for p in loop.run(task, 61, 5, checkpoint=tmp_path / "state")]
    assert again == whole


def shown(tmp_path, successes, final=True, width=2):
    episodes = [
        {
            "observations": np.full((4 if final else 3, width), float(number)),
            "actions": np.zeros((3, 1)),
            "success": success,
        }
        for number, success in enumerate(successes)
    ]
    file = tmp_path / "shown.npz"
    write_npz(file, Demonstrations.of_episodes(episodes))
    return str(file)


def test_examples_from_demonstrations(tmp_path):
    good, bad = outcomes(target(), shown(tmp_path, [True, False, True]), 0)
    assert good[:, 0].tolist() == [0, 2]
    assert len(bad) == 9


def test_where_nobody_says_what_was_a_success_it_is_an_end_by_itself(tmp_path):
    demonstrations = Demonstrations(
        np.arange(6.0)[:, None].repeat(2, axis=1),
        np.zeros((6, 1)),
        offsets=[0, 2, 4, 6],
        final_observations=np.array([[10.0, 10], [11, 11], [12, 12]]),
        terminations=np.array([False, True, False, False, False, True]),
    )
    write_npz(tmp_path / "ends.npz", demonstrations)
    good, _ = outcomes(target(), str(tmp_path / "ends.npz"), 0)
    assert good[:, 0].tolist() == [10, 12]


def test_a_tasks_own_examples_depend_on_the_seed():
    task = peg_slot_2d()
    assert torch.equal(outcomes(task, None, 1)[0], outcomes(task, None, 1)[0])
    assert not torch.equal(outcomes(task, None, 1)[0], outcomes(task, None, 2)[0])


def test_errors(tmp_path):
    with pytest.raises(FewerError, match="no demonstration is a success"):
        outcomes(target(), shown(tmp_path, [False, False]), 0)
    with pytest.raises(FewerError, match="last action is missing"):
        outcomes(target(), shown(tmp_path, [True], final=False), 0)
    with pytest.raises(FewerError, match="observations have 3 numbers"):
        outcomes(target(), shown(tmp_path, [True], width=3), 0)
    with pytest.raises(FewerError, match="examples of success have shape"):
        RewardClassifier().fit(SuccessClassifier(2), torch.zeros(0, 2), torch.zeros(3, 2))
    with pytest.raises(FewerError, match=r"shape \(3, 2\), the others \(3, 4\)"):
        RewardClassifier().fit(SuccessClassifier(2), torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(FewerError, match="batch at least 2"):
        RewardClassifier(batch=1)
    with pytest.raises(FewerError, match="penalty not negative"):
        VICE(penalty=-1.0)


def test_labels_are_smoothed():
    """With a huge margin the best logit of an unmixed goal is that of 0.9."""
    logit = torch.tensor(math.log(0.9 / 0.1), requires_grad=True)
    (slope,) = torch.autograd.grad(functional.binary_cross_entropy_with_logits(logit, torch.tensor(0.9)), logit)
    assert float(slope) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)

    class Constant(nn.Module):
        def forward(self, x):
            return logit.expand(len(x), 1) + 0 * x[:, :1]

    (slope,) = torch.autograd.grad(vice_loss(Constant(), torch.zeros(50, 2), torch.zeros(0, 2), 0.0), logit)
    assert float(slope) == pytest.approx(0, abs=1e-6)


def test_what_somebody_did_instead_is_remembered():
    class Helped(GymEnvironment):
        def make(self, copies):
            worlds = super().make(copies)
            for environment in worlds.environments:
                inner = environment.step

                def step(action, inner=inner):
                    seen, reward, ended, cut, info = inner(np.zeros(1, dtype=np.float32))
                    return seen, reward, ended, cut, info | {"intervene_action": np.array([1.0])}

                environment.step = step
            return worlds

    plain = target(steps=5, low=-2.0, high=4.0)
    task = Helped(plain.name, plain.create)
    loop = OffPolicy(**sac(**SMALL), learning_starts=10, episodes=1, points=1)
    state = loop.start(task, 10, 0)
    for _ in range(5):
        loop._act(state)
    # 1 is the middle of -2 to 4
    assert state.replay.take(torch.arange(5)).actions[:, 0].tolist() == [0] * 5
    assert replace(step_of([1.0]), done=None).done is None
