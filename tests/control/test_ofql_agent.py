"""One-step flow Q-learning on data of one's own: what it finds, what it writes, and what cannot be learned from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.control.dock_world import dock_2d
from fewer.control.dsrl import dsrl_na
from fewer.control.expo import on_the_fly
from fewer.control.loop import OffPolicy
from fewer.control.ofql_agent import OFQL
from fewer.core import checkpoint
from fewer.core.errors import Diverged, FewerError
from fewer.demos.demonstrations import Demonstrations

DATA = dock_2d(demonstrations=6).demonstrations(seed=0)
SMALL = {"hidden": (8, 8), "batch": 8}


def steps_of(count=60, **changed):
    """One-step episodes: an action pays minus its squared distance from 0.4, and what was done is spread evenly."""
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (count, 1)).astype(np.float32)
    fields = {
        "observations": rng.standard_normal((count, 2)).astype(np.float32),
        "actions": actions,
        "offsets": np.arange(count + 1),
        "rewards": -((actions[:, 0] - 0.4) ** 2),
        "terminations": np.ones(count, dtype=bool),
        "name": "steps",
    }
    return Demonstrations(**fields | changed)


def test_it_finds_what_pays_among_what_was_done():
    agent = OFQL(steps_of(2000), hidden=(32, 32), batch=64, lr=3e-3, eta=1.0, slow_every=1, slow_from=0).fit(500)
    seen = np.random.default_rng(1).standard_normal((200, 2))
    best, drawn = agent.predict(seen, n_candidates=50, seed=0), agent.predict(seen, seed=0)
    assert abs(float(drawn.mean()) - 0.4) < 0.25
    assert float(np.abs(best - 0.4).mean()) < 0.4
    imitated = OFQL(steps_of(2000), hidden=(32, 32), batch=64, lr=3e-3, eta=0.0).fit(200).predict(seen, seed=0)
    assert float(np.abs(drawn - 0.4).mean()) < float(np.abs(imitated - 0.4).mean()) - 0.1


def test_equal_seeds_give_equal_agents_and_draws():
    one, two = (OFQL(DATA, **SMALL).fit(5, seed=3) for _ in range(2))
    other = OFQL(DATA, **SMALL).fit(5, seed=4)
    seen = np.zeros((4, 2))
    assert np.array_equal(one.predict(seen, seed=1), two.predict(seen, seed=1))
    assert not np.array_equal(one.predict(seen, seed=1), one.predict(seen, seed=2))
    assert not np.array_equal(one.predict(seen, seed=1), other.predict(seen, seed=1))
    assert not np.array_equal(one.predict(seen), one.predict(seen))


def test_actions_are_in_the_units_of_the_data():
    rng = np.random.default_rng(0)
    data = steps_of(actions=rng.uniform(2, 6, (60, 1)).astype(np.float32))
    agent = OFQL(data, low=[2.0], high=[6.0], **SMALL).fit(3)
    made = agent.predict(np.zeros((100, 2)), seed=0)
    assert made.min() >= 2
    assert made.max() <= 6
    assert made.dtype == np.float32


@pytest.mark.parametrize("form", ["torchscript", "export"])
def test_the_exported_policy_is_the_same_for_any_batch(form, tmp_path):
    agent = OFQL(DATA, **SMALL).fit(3)
    file = tmp_path / "policy.pt"
    agent.export(file, form)
    assert [each.name for each in tmp_path.iterdir()] == ["policy.pt"]
    loaded = torch.jit.load(file) if form == "torchscript" else torch.export.load(file).module()
    for rows in (1, 7):
        seen, noise = torch.randn(rows, 2), torch.randn(rows, 2)
        with torch.no_grad():
            assert torch.allclose(loaded(seen, noise), agent.module()(seen, noise), atol=1e-6)
    with pytest.raises(FewerError, match="unknown form 'onnx'"):
        agent.export(file, "onnx")


def test_what_was_saved_predicts_the_same(tmp_path):
    agent = OFQL(DATA, **SMALL).fit(4)
    agent.save(tmp_path / "agent")
    again = OFQL(DATA, **SMALL).load(tmp_path / "agent")
    seen = np.ones((5, 2))
    for candidates in (1, 20):
        assert np.array_equal(agent.predict(seen, candidates, seed=1), again.predict(seen, candidates, seed=1))
    with pytest.raises(FewerError, match="an agent of another shape"):
        OFQL(DATA, hidden=(4,), batch=8).load(tmp_path / "agent")
    checkpoint.save(tmp_path / "other", {"format": "else"})
    with pytest.raises(FewerError, match="no saved agent of this version"):
        agent.load(tmp_path / "other")


def test_from_a_file(tmp_path):
    file = tmp_path / "demos.npz"
    data = steps_of()
    np.savez(
        file,
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        terminations=data.terminations,
        episode_ends=data.offsets[1:],
    )
    assert OFQL(file, **SMALL).fit(2).predict(np.zeros(2)).shape == (1,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OFQL(steps_of(actions=np.zeros(60, dtype=np.int64)), **SMALL), "its actions are numbered"),
        (
            lambda: OFQL(steps_of(actions=np.full((60, 1), 1.5)), **SMALL),
            "no finite bounds are known; give low= and high=",
        ),
        (lambda: OFQL(steps_of(actions=np.full((60, 1), 1.5)), low=[-1], high=[1], **SMALL), "clip the actions"),
        (
            lambda: OFQL(steps_of(terminations=None), **SMALL),
            "neither where episodes terminate nor what was seen after",
        ),
        (lambda: OFQL(steps_of(rewards=None), **SMALL), "says nothing of rewards"),
        (lambda: OFQL(steps_of(rewards=np.full(60, np.nan)), **SMALL), "rewards"),
        (lambda: OFQL(DATA, **SMALL).fit(0), "0 gradient steps learn nothing"),
        (lambda: OFQL(DATA, **SMALL).predict(np.zeros(2)), r"call fit\(steps\) first"),
        (lambda: OFQL(DATA, **SMALL).fit(1).predict(np.zeros(3)), "an observation is 2 finite numbers; given 3"),
        (lambda: OFQL(DATA, **SMALL).fit(1).predict(np.full(2, np.nan)), "some of them not finite"),
        (lambda: OFQL(DATA, **SMALL).fit(1).predict(np.zeros(2), n_candidates=0), "0 candidates are none"),
        (lambda: OFQL(DATA, eta=-1.0, **SMALL), "eta is the weight"),
        (lambda: OFQL("no/such/file.npz"), "no/such/file.npz"),
        (lambda: OFQL(DATA, **SMALL).environment.make(1), "nothing can be played"),
        (lambda: OFQL(DATA, **SMALL).environment.fingerprint(), "data alone are no task"),
    ],
)
def test_what_cannot_be_done_is_said(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_a_loss_that_diverges_is_said():
    data = steps_of(rewards=np.full(60, 1e38))
    with pytest.raises(Diverged, match=r"loss became .*; lower"):
        OFQL(data, **SMALL).fit(3)


def test_what_it_learned_is_steered_by_noise_and_stays_as_it_is():
    agent, task = OFQL(DATA, **SMALL).fit(3), dock_2d(demonstrations=4)
    before = {name: value.clone() for name, value in agent.flow.state_dict().items()}
    loop = OffPolicy(**dsrl_na(agent.flow, hidden=(8,), ratio=1, learning_starts=20), batch=8, episodes=2, points=1)
    learned = loop.learn(task, 40)
    assert learned.curve.points[-1].extras["updates"] == 20
    for held in (agent.flow, learned.result.actor.base):
        assert all(torch.equal(value, before[name]) for name, value in held.state_dict().items())


def test_what_it_learned_is_edited_and_goes_on_imitating_in_a_copy():
    agent, task = OFQL(DATA, **SMALL).fit(3), dock_2d(demonstrations=4)
    before = {name: value.clone() for name, value in agent.flow.state_dict().items()}
    filling = on_the_fly(agent.flow, n_base=2, n_edit=1, hidden=(8,), members=2, ratio=1, learning_starts=0)
    point = (learned := OffPolicy(**filling, batch=8, episodes=2, points=1).learn(task, 30)).curve.points[-1]
    assert point.extras["imitation_loss"] > 0
    assert all(torch.equal(value, before[name]) for name, value in agent.flow.state_dict().items())
    after = learned.result.actor.base.state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in after.items())
