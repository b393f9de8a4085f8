"""Injection changes nothing at first and trains the fresh part alone; a reset starts anew; both resume to the bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tests.control.toys import target
from torch import nn

from fewer import compose
from fewer.control.baselines import sac, td3
from fewer.control.loop import OffPolicy
from fewer.control.plasticity import Injected, PeriodicReset, PlasticityInjection, inject, inject_slow
from fewer.control.policies import Actor, Gaussian
from fewer.core.errors import FewerError

SMALL = {"hidden": (8, 8)}
FILLINGS = {"sac": sac(**SMALL), "td3": td3(**SMALL)}


def loop_with(plasticity, filling="sac", **settings):
    given = {"batch": 8, "learning_starts": 5, "episodes": 1, "points": 4} | settings
    return OffPolicy(**FILLINGS[filling], plasticity=plasticity, **given)


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


def test_nothing_changes_at_the_moment_of_injection():
    known, x = network(0), torch.randn(20, 3)
    before = known(x)
    injected = inject(known, network(1))
    assert torch.equal(injected(x), before)
    slow = inject_slow(copy.deepcopy(known), injected)
    assert torch.equal(slow(x), before)
    assert not any(each.requires_grad for each in slow.parameters())


def test_the_fresh_part_alone_is_trained():
    injected = inject(network(0), network(1))
    injected(torch.randn(20, 3)).square().sum().backward()
    trained = {name for name, each in injected.named_parameters() if each.grad is not None}
    assert trained == {name for name, _ in injected.named_parameters() if name.startswith("fresh.")}


def test_what_is_learned_is_the_difference():
    known = network(0)
    injected = inject(known, network(1))
    x, before = torch.randn(5, 3), known(torch.ones(1, 3))
    with torch.no_grad():
        injected.fresh[2].bias += 1.0
    assert torch.allclose(injected(x), known(x) + 1, atol=1e-6)
    assert torch.equal(injected.known(torch.ones(1, 3)), before)


@pytest.mark.parametrize("filling", ["sac", "td3"])
@pytest.mark.parametrize("part", ["critic", "actor", "both"])
def test_in_a_run_values_and_actions_stay_and_only_fresh_parts_move(filling, part):
    loop = loop_with(None, filling)
    torch.manual_seed(0)
    state = loop.start(target(steps=4), 100, seed=0)
    for _ in range(30):
        loop._act(state)
    for _ in range(4):
        loop._update(state)
    intervention = PlasticityInjection(at=1000, part=part).build(state)
    intervention.intervene()
    assert not isinstance(state.critic.layers, Injected)  # not yet
    batch = state.replay.sample(20)
    both = batch.observations, batch.actions

    def outputs():
        return [state.critic(*both), state.slow(*both), state.actor.act(batch.observations, deterministic=True)]

    before = [each.detach().clone() for each in outputs()]
    intervention = PlasticityInjection(at=0, part=part).build(state)
    intervention.intervene()
    assert isinstance(state.critic.layers, Injected) == (part != "actor")
    assert isinstance(state.actor.net, Injected) == (part != "critic")
    for one, two in zip(before, outputs(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    frozen = {name: value.clone() for name, value in state.critic.named_parameters() if not value.requires_grad}
    frozen_actor = {
        name: value.clone() for name, value in state.actor.net.named_parameters() if not value.requires_grad
    }
    again = copy.deepcopy(state.critic.state_dict())
    for _ in range(4):
        loop._update(state)
        intervention.intervene()  # once only
    assert all(torch.equal(dict(state.critic.named_parameters())[name], value) for name, value in frozen.items())
    assert all(
        torch.equal(dict(state.actor.net.named_parameters())[name], value) for name, value in frozen_actor.items()
    )
    assert any(not torch.equal(again[name], value) for name, value in state.critic.state_dict().items())
    assert not torch.allclose(before[0], state.critic(*both))
    assert not torch.allclose(before[2], state.actor.act(batch.observations, deterministic=True))


@pytest.mark.parametrize("filling", ["sac", "td3"])
@pytest.mark.parametrize(
    "plasticity", [PlasticityInjection(at=12, part="both"), PeriodicReset(every=7), PeriodicReset(7, "actor")]
)
def test_a_resumed_run_equals_an_uninterrupted_one(plasticity, filling, tmp_path):
    loop = loop_with(plasticity, filling)

    def numbers(points):
        return [(point.spent, point.score, point.extras["critic_loss"]) for point in points]

    whole = numbers(loop.run(target(steps=3), 40, 2))
    for stop in (1, 2):
        run = loop.run(target(steps=3), 40, 2, checkpoint=tmp_path / f"state{stop}")
        for _ in range(stop):
            next(run)
        run.close()
        assert numbers(loop.run(target(steps=3), 40, 2, checkpoint=tmp_path / f"state{stop}")) == whole
    assert numbers(loop_with(None, filling).run(target(steps=3), 40, 2)) != whole


@pytest.mark.parametrize(("part", "kept"), [("both", ""), ("critic", "actor"), ("actor", "critic")])
def test_a_reset_draws_networks_anew_and_keeps_the_memory(part, kept):
    loop = loop_with(PeriodicReset(every=6, part=part), points=1)
    torch.manual_seed(0)
    state = loop.start(target(steps=4), 100, seed=0)
    for _ in range(30):
        loop._act(state)
    for _ in range(5):
        loop._update(state)
    rows, value = len(state.replay), {"critic": state.critic, "actor": state.actor}
    before = {name: copy.deepcopy(each.state_dict()) for name, each in value.items()}
    moments = {"critic": state.critic_optimiser, "actor": state.actor.optimiser}
    loop._update(state)
    assert len(state.replay) == rows
    for name, module in value.items():
        gap = max(float((module.state_dict()[key] - old).abs().max()) for key, old in before[name].items())
        assert (gap < 0.05) == (name == kept)  # a step of Adam against a new draw
        assert bool(moments[name].state) == (name == kept)
    if part != "actor":
        pairs = zip(state.critic.parameters(), state.slow.parameters(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
    loop._update(state)  # and it learns on
    assert state.critic_optimiser.state


def test_a_policy_that_was_injected_predicts_and_exports():
    learned = loop_with(PlasticityInjection(at=10, part="both")).learn(target(), 20).result
    seen = np.zeros((3, 2), dtype=np.float32)
    exported = learned.module()(torch.from_numpy(seen)).detach().numpy()
    assert np.allclose(learned.predict(seen, deterministic=True)[0], exported, atol=1e-6)


def test_policies_of_another_kind_are_refused():
    class Other(Actor):
        def __init__(self):
            super().__init__()
            self.inner = Gaussian((4,)).build(2, 1)
            self.act, self.successor, self.improve = self.inner.act, self.inner.successor, self.inner.improve
            self.optimiser = self.inner.optimiser

    @dataclass(frozen=True)
    class Wrapped:
        def build(self, observations, actions):
            return Other()

    loop = OffPolicy(Wrapped(), plasticity=PlasticityInjection(5, "actor"), batch=4, learning_starts=3, episodes=1)
    with pytest.raises(FewerError, match=r"this is a Other; inject into part='critic'"):
        loop.learn(target(), 20)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlasticityInjection(-1), "at is the environment step; it is -1"),
        (lambda: PlasticityInjection(1, "head"), "part is 'head'; choose 'critic', 'actor', 'both'"),
        (lambda: PeriodicReset(0), "every is 0 updates"),
        (lambda: PeriodicReset(1, "all"), "part is 'all'"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_by_name():
    assert compose.loop("sac + plasticity-injection(at=500)").plasticity == PlasticityInjection(500)
    assert compose.loop("td3 + periodic-reset(every=9, part='critic')").plasticity == PeriodicReset(9, "critic")
