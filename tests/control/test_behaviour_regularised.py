"""Imitation drawn towards value: limits, directions, and which action is taken."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.control.toys import batch_of

from fewer.control.behaviour_regularised import BehaviourRegularised
from fewer.control.denoising_chain import DenoisingChain
from fewer.control.generative_policies import FlowMatching
from fewer.control.mean_flow import MeanFlow
from fewer.core.errors import FewerError

FLOW = MeanFlow((16, 16))


def built(seed=0, **settings):
    torch.manual_seed(seed)
    return BehaviourRegularised(**{"generator": FLOW, "lr": 3e-3} | settings).build(2, 1)


def some(rows=64, seed=1):
    torch.manual_seed(seed)
    return batch_of(torch.randn(rows, 2), 0.3 * torch.randn(rows, 1).clamp(-1, 1))


def slope(observations, actions):
    """A critic that is linear in the action; its second member thinks the same of everything."""
    return torch.stack([2 * actions.sum(-1), 2 * actions.sum(-1)])


def test_without_value_it_is_imitation():
    actor, other = built(eta=0.0), built(eta=0.0)
    batch = some()
    torch.manual_seed(3)
    actor.improve(batch, slope)
    torch.manual_seed(3)
    loss = other.generator.imitation_loss(batch.observations, batch.actions).mean()
    other.optimiser.zero_grad()
    loss.backward()
    other.optimiser.step()
    for one, two in zip(actor.generator.parameters(), other.generator.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("generator", [FLOW, FlowMatching((16,), 1), DenoisingChain((16,))])
def test_value_draws_actions_up_its_slope(generator):
    means = []
    for eta in (0.0, 1.0):
        actor, batch = built(eta=eta, generator=generator), some()
        torch.manual_seed(4)
        for _ in range(60):
            actor.improve(batch, slope)
        torch.manual_seed(5)
        with torch.no_grad():
            means.append(float(actor.act(batch.observations.repeat(10, 1)).mean()))
    assert means[1] > means[0] + 0.1


def test_the_loss_is_free_of_the_values_scale():
    """Values ten times as large draw no more."""

    def larger(observations, actions):
        return 10 * slope(observations, actions)

    changed = []
    for value in (slope, larger):
        actor, batch = built(), some()
        torch.manual_seed(6)
        actor.improve(batch, value)
        changed.append([each.detach().clone() for each in actor.generator.parameters()])
    for one, two in zip(*changed, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_members_take_turns():
    """One member is pleased while another one sets the scale; either may be either."""
    seen = set()
    batch = some(4)

    def value(observations, actions):
        members = torch.stack([actions[:, 0], 1000 * actions[:, 0]])
        members.register_hook(lambda gradient: seen.add(tuple((gradient != 0).any(1).tolist())))
        return members

    actor = built()
    for _ in range(20):
        actor.improve(batch, value)
    assert seen == {(True, False), (False, True)}


def test_a_single_member_will_do():
    built().improve(some(), lambda observations, actions: actions.T)


def test_the_slow_copy_waits_and_then_moves():
    actor, batch = built(slow_from=3, slow_every=2, tau=0.5), some()
    first = copy.deepcopy(actor.slow.state_dict())
    moved = []
    for _ in range(8):
        before = next(actor.slow.parameters()).clone()
        actor.improve(batch, slope)
        moved.append(not torch.equal(before, next(actor.slow.parameters())))
    assert moved == [False, False, False, True, False, True, False, True]
    torch.manual_seed(0)
    fresh = built(slow_from=3)
    assert all(torch.equal(first[name], value) for name, value in fresh.slow.state_dict().items())


@pytest.mark.parametrize(("slow_from", "expected"), [(0, [True] * 4), (2, [False, False, True, True])])
def test_the_slow_copy_moves_first_after_the_steps_it_waits(slow_from, expected):
    actor, batch = built(slow_from=slow_from, slow_every=1, tau=0.5), some()
    moved = []
    for _ in range(4):
        before = next(actor.slow.parameters()).clone()
        actor.improve(batch, slope)
        moved.append(not torch.equal(before, next(actor.slow.parameters())))
    assert moved == expected


def test_targets_are_of_the_slow_copy():
    actor, batch = built(slow_from=100), some()
    for _ in range(3):
        actor.improve(batch, slope)
    torch.manual_seed(2)
    found, cost = actor.successor(batch.observations)
    torch.manual_seed(2)
    noise = torch.randn(len(batch), 1)
    assert cost == 0
    assert torch.equal(found, actor.slow.draw(batch.observations, noise))
    assert not torch.equal(found, actor.generator.draw(batch.observations, noise))


def test_one_member_is_pleased_in_units_of_another_ones_size():
    """Members of sizes 1 and 1000: the gradient of the pleased one is a thousandth of its own, or a thousand times it."""
    actor, batch, weights = built(eta=0.5), some(4), []

    def value(observations, actions):
        members = torch.stack([0 * actions[:, 0] + 1, 0 * actions[:, 0] + 1000])
        members.register_hook(lambda gradient: weights.append(gradient.sum(1).tolist()))
        return members

    for _ in range(12):
        actor.improve(batch, value)
    assert {tuple(round(-each, 6) for each in pair) for pair in weights} == {(0.0005, 0), (0, 0.5)}


def test_the_gradient_is_bounded():
    norms = []
    for clip in (None, 1e-3):
        actor = built(clip=clip)
        actor.improve(some(), slope)
        norms.append(torch.stack([each.grad.norm() for each in actor.generator.parameters()]).norm().item())
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


class Likes(torch.nn.Module):
    """Values actions above zero by this much."""

    def __init__(self, much):
        super().__init__()
        self.much = much

    def forward(self, observations, actions):
        worth = self.much * (actions[:, 0] > 0).float()
        return torch.stack([worth, worth + 1])


@pytest.mark.parametrize(("much", "least", "most"), [(50.0, 0.99, 1.0), (0.0, 0.2, 0.8)])
def test_of_several_candidates_one_is_taken_by_its_value(much, least, most):
    actor, seen = built(candidates=30), torch.randn(300, 2)
    actor.attach(None, Likes(much))
    with torch.no_grad():
        positive = float((actor.act(seen, deterministic=True) > 0).float().mean())
        alone = float((actor.act(seen) > 0).float().mean())
    assert 0.1 < alone < 0.9
    assert least <= positive <= most


def test_weights_are_those_of_a_softmax():
    """Two kinds of actions, one valued by ln 3 more: it is taken three times as often, in proportion to its share."""
    actor, seen = built(), torch.zeros(4000, 2)
    actor.attach(None, Likes(float(torch.tensor(3.0).log())))
    with torch.no_grad():
        share = float((actor.act(seen) > 0).float().mean())
        positive = float((actor.choose(seen, 50) > 0).float().mean())
    assert positive == pytest.approx(3 * share / (3 * share + 1 - share), abs=0.05)


def test_candidates_are_weighed_by_the_least_of_the_members():
    """One member likes actions above zero, another one nothing: by the least of both, all are alike."""

    class Split(torch.nn.Module):
        def forward(self, observations, actions):
            worth = 50 * (actions[:, 0] > 0).float()
            return torch.stack([worth, torch.zeros_like(worth)])

    actor, seen = built(), torch.zeros(4000, 2)
    actor.attach(None, Split())
    with torch.no_grad():
        share = float((actor.act(seen) > 0).float().mean())
        positive = float((actor.choose(seen, 5) > 0).float().mean())
    assert 0.1 < share < 0.9
    assert positive == pytest.approx(share, abs=0.05)


def test_without_a_critic_there_is_nothing_to_choose_by():
    actor = built()
    assert actor.act(torch.zeros(3, 2), deterministic=True).shape == (3, 1)
    with pytest.raises(FewerError, match="no critic to choose by"):
        actor.choose(torch.zeros(3, 2), 5)


def test_a_shortcut_acts_without_chance_and_learns_with_it():
    actor = built(generator=DenoisingChain((8,)), shortcut=True)
    torch.manual_seed(0)
    with torch.no_grad():
        acted = actor.act(torch.zeros(5, 2))
        torch.manual_seed(0)
        assert torch.equal(acted, actor.generator.generate(torch.zeros(5, 2), torch.randn(5, 1)))
        torch.manual_seed(0)
        assert not torch.equal(acted, actor.slow.draw(torch.zeros(5, 2), torch.randn(5, 1)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eta": -1.0}, "eta is the weight of the value; it is -1.0"),
        ({"candidates": 0}, "candidates and slow_every must be positive"),
        ({"tau": 0.0}, r"tau in \(0, 1\]"),
        ({"clip": 0.0}, "clip positive"),
        ({"slow_from": -1}, "slow_from is 0 or more"),
    ],
)
def test_settings_out_of_range(given, message):
    with pytest.raises(FewerError, match=message):
        BehaviourRegularised(**given)
