"""The choice among proposed and edited actions, and how both policies learn."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tests.control.toys import batch_of
from torch import nn

from fewer.control.critics import Critics
from fewer.control.edited_actions import OnTheFly
from fewer.control.generative_policies import FlowMatching
from fewer.core.errors import FewerError

FLOW = FlowMatching((8,), 2)


def built(members=3, subset=2, **settings):
    torch.manual_seed(0)
    described = Critics(members, subset, hidden=(8,), layer_norm=True)
    actor = OnTheFly(**{"base": FLOW, "n_base": 4, "n_edit": 3, "hidden": (8,), "critic": described} | settings).build(
        3, 2
    )
    critic = described.build(3, 2)
    actor.attach(critic, critic)
    return actor, critic


def batch(rows=16):
    return batch_of(torch.randn(rows, 3), torch.rand(rows, 2) * 2 - 1)


def test_edits_are_of_the_first_candidates_and_no_larger_than_their_scale():
    for scale in (1e-6, 0.05, 0.7):
        actor, _ = built(edit_scale=scale)
        made = actor.candidates(torch.randn(50, 3), actor.average).detach()
        assert made.shape == (7, 50, 2)
        apart = (made[4:] - made[:3]).abs()
        assert float(apart.max()) <= scale + 1e-6
        assert float(apart.max()) > 0.5 * scale
        assert float(made.abs().max()) <= 1


def test_unedited_candidates_are_draws_of_the_base():
    actor, _ = built()
    seen = torch.randn(5, 3)
    torch.manual_seed(1)
    made = actor.candidates(seen, actor.average)
    torch.manual_seed(1)
    drawn = actor.average.draw(seen.repeat(4, 1), torch.randn(20, 2))
    assert torch.equal(made[:4].flatten(0, 1), drawn)


def test_the_choice_is_the_greatest_of_the_least_values():
    actor, critic = built(subset=3)
    seen = torch.randn(40, 3)
    torch.manual_seed(1)
    chosen = actor.act(seen)
    torch.manual_seed(1)
    made = actor.candidates(seen, actor.average)
    values = torch.stack([critic(seen, each).amin(0) for each in made])
    assert torch.allclose(critic(seen, chosen).amin(0), values.amax(0), atol=1e-6)
    assert torch.equal(chosen, made[values.argmax(0), torch.arange(40)])


def test_only_a_random_subset_judges():
    actor, critic = built(members=5, subset=2)
    seen, made = torch.randn(6, 3), torch.rand(4, 6, 2)
    each = torch.stack([critic(seen, one) for one in made])  # candidates, members, batch
    found = set()
    for _ in range(40):
        judged = actor.judge(seen, made)
        pairs = [
            (one, two)
            for one in range(5)
            for two in range(one)
            if torch.allclose(judged, each[:, [one, two]].amin(1), atol=1e-6)
        ]
        assert pairs  # one member may think least of all, so that several pairs agree
        found.add(tuple(pairs))
    assert len(found) > 3


def test_equals_are_resolved_to_the_first():
    actor, critic = built()
    for parameter in critic.parameters():
        nn.init.zeros_(parameter)
    seen = torch.randn(5, 3)
    torch.manual_seed(1)
    chosen = actor.act(seen)
    torch.manual_seed(1)
    assert torch.equal(chosen, actor.candidates(seen, actor.average)[0])


def test_one_action_without_edits_is_the_base_policy():
    """The target then looks ahead to what the base policy does, as SARSA does."""
    actor, _ = built(n_base=1, n_edit=0)
    actor.judges = None  # nobody is asked
    seen = torch.randn(5, 3)
    torch.manual_seed(1)
    ahead, cost = actor.successor(seen)
    torch.manual_seed(1)
    assert torch.equal(ahead, actor.base.draw(seen, torch.randn(5, 2)))
    assert cost == 0


def test_acting_takes_the_average_and_looking_ahead_the_newest():
    actor, _ = built(n_edit=0)
    for parameter in actor.base.parameters():
        nn.init.zeros_(parameter)  # noise stays as it is, within bounds
    seen, noise = torch.zeros(9, 3), []
    torch.manual_seed(1)
    ahead, _ = actor.successor(seen)
    torch.manual_seed(1)
    noise = torch.randn(36, 2).clamp(-1, 1)
    assert all((noise == row).all(1).any() for row in ahead)
    torch.manual_seed(1)
    assert not torch.equal(ahead, actor.act(seen))


def test_proposals_are_candidates():
    actor, _ = built()
    assert actor.propose(torch.zeros(5, 3), 10).shape == (10, 5, 2)


def test_a_step_equals_a_plain_version():
    actor, critic = built(edit_scale=0.3, lr=1e-2, temperature=0.2, average=0.1)
    base, edit = copy.deepcopy(actor.base), copy.deepcopy(actor.edit.net)
    average, log_temperature = copy.deepcopy(actor.average), torch.tensor(math.log(0.2), requires_grad=True)
    of_base = torch.optim.AdamW(base.parameters(), lr=1e-2, weight_decay=1e-4)
    of_edit = torch.optim.Adam(edit.parameters(), lr=1e-2)
    of_temperature = torch.optim.Adam([log_temperature], lr=1e-2)
    data = batch()
    torch.manual_seed(1)
    for _ in range(3):
        actor.improve(data, critic)
    torch.manual_seed(1)
    for _ in range(3):
        imitation = base.imitation_loss(data.observations, data.actions).mean()
        mean, deviation = edit(torch.cat([data.observations, data.actions], -1)).chunk(2, -1)
        normal = torch.distributions.Normal(mean, deviation.clamp(-20, 2).exp())
        before = mean + normal.stddev * torch.randn_like(mean)
        change = before.tanh()
        # change of variables: x = 0.3 tanh(before), dx/dbefore = 0.3 (1 - tanh^2)
        density = (normal.log_prob(before) - torch.log(0.3 * (1 - change**2))).sum(-1)
        worth = critic(data.observations, (data.actions + 0.3 * change).clamp(-1, 1)).mean(0)
        loss = (log_temperature.exp().detach() * density - worth).mean()
        temperature_loss = log_temperature * (-density.detach().mean() + 1.0)  # aims at -A / 2
        for optimiser, each in ((of_base, imitation), (of_edit, loss), (of_temperature, temperature_loss)):
            optimiser.zero_grad()
            each.backward()
            optimiser.step()
        for one, two in zip(average.parameters(), base.parameters(), strict=True):
            one.data += 0.1 * (two.data - one.data)
    for mine, plain in ((actor.base, base), (actor.edit.net, edit), (actor.average, average)):
        for one, two in zip(mine.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(one, two, atol=1e-5)
    assert actor.edit.log_temperature.item() == pytest.approx(log_temperature.item(), abs=1e-6)


def test_no_value_moves_the_base():
    """Whatever the critic says, the base policy goes where imitation goes."""
    states = []
    for slope in (0.0, 1e3):
        actor, _ = built(lr=1e-2)
        data = batch()
        torch.manual_seed(1)
        for _ in range(3):
            actor.improve(data, lambda seen, actions, slope=slope: slope * actions.sum(-1, keepdim=True).T)
        states.append(actor.base.state_dict())
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    # and choosing among its actions leaves no gradient on it
    actor, critic = built()
    value = critic(torch.zeros(4, 3), actor.successor(torch.zeros(4, 3))[0].detach()).sum()
    assert not any(each is not None for each in torch.autograd.grad(value, actor._of_base, allow_unused=True))


def test_learning_rates_fall_by_a_cosine_and_the_temperatures_does_not():
    actor, critic = built(lr=1e-2, falls_over=4)
    rates = []
    for _ in range(5):
        actor.improve(batch(), critic)
        rates.append([group["lr"] for group in actor.optimiser.param_groups])
    expected = [1e-2 * 0.5 * (1 + math.cos(math.pi * share)) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert [each[0] for each in rates] == pytest.approx(expected)
    assert [each[1] for each in rates] == pytest.approx(expected)
    assert [each[2] for each in rates] == [1e-2] * 5


def test_dropout_is_for_learning_alone():
    actor, critic = built(dropout=0.5)
    pairs = torch.randn(9, 5)
    assert torch.equal(actor.edit.net(pairs), actor.edit.net(pairs))
    seen = []
    actor.edit.net[1].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    actor.edit.net[2].register_forward_hook(lambda module, inputs, output: seen.append(module.training))
    actor.improve(batch(), critic)
    assert seen == [True, True]
    assert not actor.edit.net.training


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edit_scale": 0.0}, "edit_scale is 0.0; give a positive one"),
        ({"n_base": 2, "n_edit": 3}, "3 of 2 proposed actions cannot be edited"),
        ({"n_base": 0, "n_edit": 0}, "give n_base of 1 or more"),
        ({"n_edit": 0, "keep_base": False}, "there is nothing to choose from"),
        ({"dropout": 1.0}, r"dropout lies in \[0, 1\)"),
        ({"average": 0.0}, r"average in \(0, 1\]"),
        ({"lr": 0.0}, "lr, temperature, hidden and delay must be positive"),
    ],
)
def test_settings_out_of_range(wrong, message):
    with pytest.raises(FewerError, match=message):
        OnTheFly(**wrong)
