"""Rewards from a classifier that was trained beforehand, and runs with a learned reward."""

from __future__ import annotations

import pytest
import torch
from tests.control.reward_toys import SMALL, Above, step_of
from tests.control.toys import target

from fewer.control.baselines import sac
from fewer.control.loop import OffPolicy
from fewer.control.peg_world import peg_slot_2d
from fewer.control.reward_classifiers import RewardClassifier, TrainedJudge
from fewer.control.success_classifiers import SuccessClassifier
from fewer.control.vice import VICE
from fewer.core.errors import FewerError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


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


def test_errors():
    with pytest.raises(FewerError, match="examples of success have shape"):
        RewardClassifier().fit(SuccessClassifier(2), torch.zeros(0, 2), torch.zeros(3, 2))
    with pytest.raises(FewerError, match=r"shape \(3, 2\), the others \(3, 4\)"):
        RewardClassifier().fit(SuccessClassifier(2), torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(FewerError, match="batch at least 2"):
        RewardClassifier(batch=1)
