from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from fewer.control import OffPolicy, whole_update
from fewer.control.adaptive_rr import AdaptiveRR
from fewer.control.critics import Critics
from fewer.control.environments import gym
from fewer.control.loop import OffPolicyState
from fewer.control.policies import Deterministic, Gaussian
from fewer.models import perceptrons
from fewer.models.translated import translated

SMALL = Gaussian(hidden=(16, 16))


def begun(policy: Any = SMALL, critic: Critics | None = None, **slots: Any) -> tuple[OffPolicy, OffPolicyState]:
    """A run with something to learn from, after its first update."""
    critic = replace(critic or Critics(hidden=(16, 16)), compiled=True)
    loop = OffPolicy(policy, critic, batch=8, episodes=1, points=1, **slots)
    torch.manual_seed(0)
    state = loop.start(gym("Pendulum-v1"), budget=500, seed=0)
    draws = torch.Generator().manual_seed(1)
    seen, done, after = (torch.randn(300, width, generator=draws) for width in (3, 1, 3))
    rewards, ended = torch.randn(300, generator=draws), torch.rand(300, generator=draws) < 0.1
    state.replay.add(seen, done.tanh(), rewards, after, ended)
    loop._update(state)
    return loop, state


def learned(state: OffPolicyState) -> list[torch.Tensor]:
    """All that an update changes."""
    found = [*state.critic.parameters(), *state.slow.parameters(), *state.actor.parameters()]
    for optimiser in (state.critic_optimiser, state.actor.optimiser):
        found += [value for each in optimiser.state.values() for value in each.values()]
    return [each.detach() for each in found]


def updated(loop: OffPolicy, state: OffPolicyState, count: int) -> list[dict[str, float]]:
    torch.manual_seed(2)
    return [{name: float(value) for name, value in loop._update(state).items()} for _ in range(count)]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions as they are written."""
    for module in (whole_update, perceptrons):
        monkeypatch.setattr(module, "translated", lambda function: function)


SETTINGS: dict[str, tuple[Gaussian, Critics]] = {
    "plain": (SMALL, Critics(hidden=(16, 16))),
    "many": (SMALL, Critics(5, 2, (16, 8), layer_norm=True)),
    "subset drawn with replacement": (SMALL, Critics(3, 2, (16,), replacement=True)),
    "mean": (replace(SMALL, objective="mean"), Critics(3, hidden=(16,), lr=1e-3, tau=0.1)),
    "delay": (replace(SMALL, delay=3, lr=1e-3), Critics(hidden=(16,), every=2)),
    "no entropy ahead": (replace(SMALL, backup_entropy=False, temperature=0.2), Critics(hidden=(16,))),
    "entropy at next": (replace(SMALL, entropy_at="next_observations", target_entropy=0.3), Critics(hidden=(16,))),
    "tanh": (replace(SMALL, activation="tanh", layer_norm=True), Critics(hidden=(16,))),
    "all rows": (replace(SMALL, delay=3, rows="all", entropy_at="next_observations"), Critics(hidden=(16,))),
    "critics of another kind": (SMALL, Critics(3, 2, (16, 8), layer_norm=True, activation="tanh")),
    "least of many, all rows": (replace(SMALL, delay=2, rows="all"), Critics(4, hidden=(16,))),
    "one member, mish": (replace(SMALL, activation="mish"), Critics(1, hidden=(16,), activation="mish")),
}


@pytest.mark.parametrize("settings", SETTINGS)
def test_it_equals_an_update_in_parts(settings, uncompiled):
    loop, state = begun(*SETTINGS[settings])
    plain_loop, plain = begun(*SETTINGS[settings])
    plain_loop = replace(plain_loop, critic=replace(plain_loop.critic, compiled=False))
    assert whole_update.whole_update(*begun(*SETTINGS[settings]), state.source.draw(8)) is not None
    reports = updated(loop, state, 13)
    for mine, other in zip(reports, updated(plain_loop, plain, 13), strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert len(learned(state)) == len(learned(plain))
    for mine, other in zip(learned(state), learned(plain), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)
    # and something did change
    assert not torch.allclose(learned(state)[0], learned(begun(*SETTINGS[settings])[1])[0], atol=1e-4)


def test_compiled_it_equals_an_update_in_parts():
    (loop, state), (plain_loop, plain) = begun(), begun()
    plain_loop = replace(plain_loop, critic=replace(plain_loop.critic, compiled=False))
    before = learned(state)[0].clone()
    for mine, other in zip(updated(loop, state, 20), updated(plain_loop, plain, 20), strict=True):
        assert mine == pytest.approx(other, rel=1e-3, abs=1e-4)
    for mine, other in zip(learned(state), learned(plain), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-2, atol=1e-4)
    assert not torch.allclose(learned(state)[0], before, atol=1e-3)


def _nothing(update: Any) -> torch.Tensor:
    return update.values.sum() * 0


class _Watched:
    """A state whose first layers somebody looks at."""

    @staticmethod
    def critic(state: OffPolicyState) -> None:
        state.critic.layers[1].register_forward_hook(lambda *_: None)

    @staticmethod
    def policy(state: OffPolicyState) -> None:
        net: Any = state.actor.net
        net[1].register_forward_hook(lambda *_: None)

    @staticmethod
    def held(state: OffPolicyState) -> None:
        next(state.critic.parameters()).requires_grad_(False)

    @staticmethod
    def decay(state: OffPolicyState) -> None:
        state.critic_optimiser.param_groups[0]["weight_decay"] = 0.1

    @staticmethod
    def forgotten(state: OffPolicyState) -> None:
        state.actor.optimiser.state.clear()

    @staticmethod
    def dropout(state: OffPolicyState) -> None:
        net: Any = state.actor.net
        net[1] = nn.Dropout(0.5)


@pytest.mark.parametrize("how", ["critic", "policy", "held", "decay", "forgotten", "dropout"])
def test_where_somebody_looks_or_something_is_missing_it_changes_nothing(how, uncompiled):
    loop, state = begun()
    getattr(_Watched, how)(state)
    batch, before = state.source.draw(8), [each.clone() for each in learned(state)]
    random = torch.get_rng_state()
    assert whole_update.whole_update(loop, state, batch) is None
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(one, two) for one, two in zip(before, learned(state), strict=True))


@pytest.mark.parametrize(
    ("policy", "critic", "slots"),
    [
        (Deterministic(hidden=(16,)), None, {}),
        (SMALL, Critics(hidden=(16,), candidates=2), {}),
        (SMALL, None, {"critic_term": _nothing}),
        (SMALL, None, {"ratio": AdaptiveRR()}),
    ],
)
def test_with_other_slots_updates_are_made_in_parts(policy, critic, slots, uncompiled):
    loop, state = begun(policy, critic, **slots)
    assert whole_update.whole_update(loop, state, state.source.draw(8)) is None
    assert state.updates == 1


def test_a_run_of_another_seed_compiles_nothing_anew():
    loop, state = begun()
    updated(loop, state, 2)
    count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    _, other = begun()
    updated(loop, other, 2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == count > 0


def test_what_was_saved_goes_on_in_parts_or_as_a_whole(uncompiled):
    (loop, state), (_, other) = begun(), begun()
    updated(loop, state, 3)
    for name in ("critic", "slow", "actor", "critic_optimiser"):
        getattr(other, name).load_state_dict(copy.deepcopy(getattr(state, name).state_dict()))
    other.actor.optimiser.load_state_dict(copy.deepcopy(state.actor.optimiser.state_dict()))
    other.replay.load_state_dict(state.replay.state_dict())
    other.updates = state.updates
    plain = replace(loop, critic=replace(loop.critic, compiled=False))
    for mine, theirs in zip(updated(loop, state, 3), updated(plain, other, 3), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_the_function_is_translated_once():
    assert translated(whole_update._update) is translated(whole_update._update)
