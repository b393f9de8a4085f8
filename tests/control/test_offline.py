"""Learning without a step of the environment: the account, the data, resuming, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.control.toys import target

from fewer import compose
from fewer.control.baselines import td3
from fewer.control.dock_world import dock_2d
from fewer.control.environments import GymEnvironment
from fewer.control.offline import Offline, Still, Unplayed
from fewer.control.offline_baselines import DeterministicCloning, td3_bc
from fewer.control.prior_data import Symmetric
from fewer.core.errors import FewerError
from fewer.core.seeding import derive

SMALL = {"batch": 8, "episodes": 2, "points": 3}
DOCK = dock_2d(demonstrations=4)


def loop_with(filling=None, **settings):
    return Offline(**(td3_bc(hidden=(8,)) if filling is None else filling) | SMALL | settings)


def test_the_budget_counts_gradient_steps():
    learned = loop_with().learn(DOCK, 10)
    assert [point.spent for point in learned.curve] == [4, 7, 10]
    assert learned.curve.points[-1].extras["updates"] == 10
    assert learned.ledger.counts == {"gradient_steps": 10}
    assert learned.result.predict(np.zeros(2))[0].shape == (2,)


def test_the_environment_is_evaluated_in_and_not_played(monkeypatch):
    made = []
    original = type(DOCK).make
    monkeypatch.setattr(type(DOCK), "make", lambda self, copies: made.append(copies) or original(self, copies))
    loop = loop_with()
    data = DOCK.demonstrations(0)
    state = loop.start(DOCK, 10, 0)
    loop.learn_once(state)
    made_for_data = made.count(DOCK.demonstrated)
    assert made == [DOCK.demonstrated] * made_for_data  # the script that demonstrates is all that moved
    loop.advance(state)
    assert made[-1] == 2  # and the episodes of evaluation
    assert len(data) == 4
    assert len(state.replay) == 0


def test_it_learns_from_recorded_transitions_alone():
    loop = loop_with()
    torch.manual_seed(0)
    state = loop.start(DOCK, 10, 5)
    batch = state.source.draw(500)
    recorded = DOCK.transitions(DOCK.demonstrations(derive(5, "demonstrations")))
    known = {tuple(row.tolist()) for row in recorded.observations}
    assert all(tuple(row.tolist()) in known for row in batch.observations)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    for filling in (None, td3(hidden=(8,)) | {"sampler": Symmetric(share=1.0)}):
        loop, file = loop_with(filling), tmp_path / f"state{filling is None}"

        def numbers(points):
            return [(point.spent, point.score, point.extras["critic_loss"]) for point in points]

        whole = numbers(loop.run(DOCK, 11, 2))
        run = loop.run(DOCK, 11, 2, checkpoint=file)
        next(run)
        run.close()
        assert numbers(loop.run(DOCK, 11, 2, checkpoint=file)) == whole


def test_a_share_of_its_own_steps_is_refused():
    with pytest.raises(FewerError, match=r"a share of 0.5 of each batch would be from steps of its own.*share=1"):
        loop_with(td3_bc() | {"sampler": Symmetric(share=0.5)})


def test_an_environment_without_data_says_so():
    with pytest.raises(FewerError, match=r"has no demonstrations; give them as demos='file.npz'"):
        loop_with().learn(target(), 5)


def test_data_from_a_file_and_an_environment_of_gymnasium(tmp_path):
    file = tmp_path / "demos.npz"
    rng = np.random.default_rng(0)
    np.savez(
        file,
        observations=rng.uniform(-1, 1, (20, 2)),
        actions=rng.uniform(-1, 1, (20, 1)),
        rewards=rng.standard_normal(20),
        terminations=np.arange(1, 21) % 10 == 0,
        episode_ends=[10, 20],
    )
    task = target(steps=4)
    assert isinstance(task, GymEnvironment)
    learned = loop_with(td3_bc(str(file), hidden=(8,))).learn(task, 6)
    assert np.isfinite(learned.curve.final)


def test_nothing_can_be_played():
    still = Still(3, 2)
    assert still.reset({0: 1, 2: 5}).shape == (2, 2)
    with pytest.raises(FewerError, match="nothing is played"):
        still.step(np.zeros((3, 1)))
    assert Unplayed(DOCK).fingerprint() == DOCK.fingerprint()


def test_by_name():
    made = compose.loop("offline(points=2) + td3-bc(alpha=1.0)")
    assert isinstance(made, Offline)
    assert made.points == 2
    assert made.policy == DeterministicCloning(alpha=1.0)
    assert isinstance(compose.loop("ofql"), Offline)
    assert type(compose.loop("off-policy + ofql")).__name__ == "OffPolicy"
