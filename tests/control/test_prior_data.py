from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer.control.baselines import rlpd
from fewer.control.dock_world import dock_2d
from fewer.control.loop import OffPolicy
from fewer.control.prior_data import Symmetric, SymmetricSource, as_memory
from fewer.control.replay import Replay
from fewer.core.errors import FewerError
from fewer.demos.files import write_npz


def filled(value, count=6):
    memory = Replay(count, 1, 1)
    whole = torch.full((count, 1), float(value))
    memory.add(whole, whole.clamp(-1, 1), whole[:, 0], whole, torch.zeros(count, dtype=torch.bool))
    return memory


@pytest.mark.parametrize(("share", "expected"), [(0.5, 4), (0.25, 2), (1.0, 8), (0.01, 0)])
def test_a_batch_holds_exactly_its_share_of_prior_data(share, expected):
    batch = SymmetricSource(filled(1), filled(2), share).draw(8)
    assert len(batch) == 8
    assert int((batch.rewards == 2).sum()) == expected


def test_all_of_the_task_is_remembered_in_the_rooms_units():
    task = dock_2d(demonstrations=4)
    demonstrations = task.demonstrations(3)
    memory = as_memory(demonstrations, task)
    assert len(memory) == demonstrations.steps
    rows = memory.take(torch.arange(len(memory)))
    assert rows.actions.numpy() == pytest.approx(demonstrations.actions, abs=1e-6)
    assert int((rows.continues == 0).sum()) == int(demonstrations.successes.sum())


def test_a_task_without_demonstrations_says_how_to_give_them(tmp_path):
    loop = OffPolicy(sampler=Symmetric(), batch=4, learning_starts=2, episodes=1, points=1)
    with pytest.raises(FewerError, match="has no demonstrations; give them as demos="):
        loop.learn(target(), 10)
    task = dock_2d(demonstrations=4)
    write_npz(tmp_path / "docks.npz", task.demonstrations(0))
    given = OffPolicy(sampler=Symmetric(str(tmp_path / "docks.npz")), batch=4, learning_starts=2, episodes=1, points=1)
    assert given.learn(task, 10).curve.points[-1].spent == 10
    with pytest.raises(FewerError, match="the share of prior data is 0"):
        Symmetric(share=0)


def test_reinforcement_learning_with_prior_data_runs_and_resumes(tmp_path):
    loop = OffPolicy(
        **rlpd(hidden=(8,), members=3, ratio=2), batch=8, learning_starts=5, episodes=2, points=2, discount=0.95
    )
    task = dock_2d(demonstrations=10)
    whole = [(point.score, point.extras["critic_loss"]) for point in loop.run(task, 40, 1)]
    run = loop.run(task, 40, 1, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    assert [(p.score, p.extras["critic_loss"]) for p in loop.run(task, 40, 1, checkpoint=tmp_path / "state")] == whole


def test_rlpd_fills_its_slots_as_published():
    filling = rlpd()
    critic, policy = filling["critic"], filling["policy"]
    assert (critic.members, critic.subset, critic.layer_norm) == (10, 2, True)
    assert (policy.objective, policy.delay, filling["ratio"].ratio) == ("mean", 20, 20)
    assert np.isclose(filling["sampler"].share, 0.5)
