from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.control.toys import batch_of, target
from torch import nn

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Given
from fewer.control.critics import Critics
from fewer.control.diffusion_policies import Diffusion
from fewer.control.dock_world import dock_2d
from fewer.control.expo import OnTheFly, edit_only, idql_online, measure, on_the_fly
from fewer.control.generative_policies import FlowMatching
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.offline import Offline
from fewer.control.ofql import one_step_flow
from fewer.control.prior_data import Symmetric
from fewer.control.trained import TrainedPolicy
from fewer.control.wsrl import warm_up
from fewer.core.errors import FewerError

FLOW = FlowMatching((8,), 2)
SMALL = {"hidden": (8,), "members": 3, "ratio": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


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


# --- the choice ----------------------------------------------------------------------------------


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


def test_always_the_edited_action():
    filling = edit_only(base=FLOW, edit_scale=0.3, **SMALL)
    actor = filling["policy"].build(3, 2)
    seen = torch.randn(5, 3)
    torch.manual_seed(1)
    acted = actor.act(seen)
    torch.manual_seed(1)
    proposed = actor.average.draw(seen, torch.randn(5, 2))
    edits, _ = actor.edit.sample(torch.cat([seen, proposed], -1))
    assert torch.allclose(acted, (proposed + 0.3 * edits).clamp(-1, 1))


# --- learning ------------------------------------------------------------------------------------


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


def test_it_learns_what_pays_beyond_what_is_proposed():
    """0.5 pays most; the base policy is a black box that proposes what lies far below."""
    base = Given(lambda seen, noise: 0.1 * noise.clamp(-1, 1))
    settings = {"hidden": (32, 32), "members": 3, "ratio": 2, "lr": 3e-3, "temperature": 0.01}

    filling = on_the_fly(base, n_base=4, n_edit=4, edit_scale=0.6, learning_starts=60, **settings)
    filling.pop("sampler")
    loop = OffPolicy(**filling, batch=64, episodes=20, points=2)
    learned = loop.learn(target(), 400)
    assert learned.curve.final > -0.02
    assert learned.curve.points[-1].extras["edits_chosen"] > 0.8
    without = OffPolicy(
        **{**filling, "policy": dataclasses.replace(filling["policy"], n_edit=0)}, batch=64, episodes=20, points=2
    )
    assert without.learn(target(), 400).curve.final < -0.1  # the best of what is proposed is 0.1


# --- in the loop ---------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [FLOW, Diffusion((8,), 3, time_features=8)])
def test_a_resumed_run_is_the_same_to_the_bit(base, tmp_path):
    filling = on_the_fly(
        base, n_base=2, n_edit=1, dropout=0.1, base_updates=3, learning_starts=20, start_with="policy", **SMALL
    )
    loop = OffPolicy(**filling, action_map=ActionChunks(2), batch=8, episodes=3, points=4)
    task = dock_2d(demonstrations=4)

    def points(**where):
        return [
            (point.spent, point.score, point.extras.get("imitation_loss"), point.extras.get("edits_chosen"))
            for point in loop.run(task, 80, 5, **where)
        ]

    whole = points()
    for stop in (1, 3):
        run = loop.run(task, 80, 5, checkpoint=tmp_path / str(stop))
        for _ in range(stop):
            next(run)
        run.close()
        assert points(checkpoint=tmp_path / str(stop)) == whole
    assert whole[-1][2] is not None


def test_what_was_learned_can_be_saved_with_those_who_judge(tmp_path):
    filling = on_the_fly(FLOW, n_base=2, n_edit=1, base_updates=3, learning_starts=0, **SMALL)
    learned = OffPolicy(**filling, batch=8, episodes=2, points=1).learn(dock_2d(demonstrations=4), 30)
    learned.result.save(tmp_path / "policy.safetensors")
    again = TrainedPolicy.load(tmp_path / "policy.safetensors", filling["policy"])
    seen = np.random.default_rng(0).normal(size=(5, 2))
    made = []
    for policy in (learned.result, again):
        torch.manual_seed(0)
        made.append(policy.predict(seen)[0])
    assert np.array_equal(*made)


@pytest.mark.parametrize("base", ["flow", "mean-flow", "diffusion"])
def test_other_base_policies(base):
    filling = on_the_fly(base, base_hidden=(8,), n_base=2, n_edit=2, base_updates=3, learning_starts=0, **SMALL)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=1)
    assert loop.learn(dock_2d(demonstrations=4), 30).curve.points[-1].extras["imitation_loss"] > 0


def test_a_policy_that_was_learned_from_data_and_values_goes_on_imitating():
    task = dock_2d(demonstrations=4)
    before = (
        Offline(**one_step_flow(hidden=(8,), candidates=2), batch=8, episodes=2, points=1).learn(task, 5).result.actor
    )
    filling = on_the_fly(before.slow, n_base=2, n_edit=1, learning_starts=0, **SMALL)
    after = OffPolicy(**filling, batch=8, episodes=2, points=1).learn(task, 30).result.actor.base
    kept = before.slow.state_dict()
    assert not all(torch.equal(kept[name], value) for name, value in after.state_dict().items())


def test_the_policy_may_act_before_it_learns_as_in_warm_starts():
    filling = on_the_fly(FLOW, n_base=2, n_edit=1, base_updates=3, **SMALL) | warm_up(30)
    loop = OffPolicy(**filling, batch=8, episodes=2, points=2)
    points = loop.learn(dock_2d(demonstrations=4), 60).curve.points
    assert [point.extras["updates"] for point in points] == [0, 60]


def test_settings_as_published():
    filling = on_the_fly()
    policy, critic = filling["policy"], filling["critic"]
    assert (policy.n_base, policy.n_edit, policy.edit_scale, policy.average) == (8, 8, 0.05, 0.001)
    assert policy.base == Diffusion()
    assert policy.editing(6).target_entropy == -3
    assert (critic.members, critic.subset, critic.layer_norm, filling["ratio"]) == (10, 2, True, FixedRatio(20))
    assert (filling["learning_starts"], filling["start_with"], filling["sampler"]) == (5000, "random", Symmetric())
    assert filling["initialisation"].updates == 0
    assert idql_online()["policy"].n_edit == 0
    assert edit_only()["policy"].keep_base is False


def test_specs():
    loop = compose.loop(
        "expo(base='flow', base_hidden=(8,), base_steps=2) + action-chunks(length=4) + warm-up(steps=40) + fixed-ratio(ratio=3)"
    )
    assert isinstance(loop, OffPolicy)
    assert isinstance(loop.policy, OnTheFly)
    assert loop.policy.base == FlowMatching((8,), 2)
    assert (loop.learning_starts, loop.start_with, loop.ratio) == (40, "policy", FixedRatio(3))
    for name in ("idql-online", "edit-only"):
        assert isinstance(compose.loop(f"{name}(base='flow')").policy, OnTheFly)


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


def test_prior_data_out_of_bounds(tmp_path):
    from fewer.demos.files import write_npz

    task = dock_2d(demonstrations=4)
    demonstrations = task.demonstrations(0)
    demonstrations.actions[3] *= 3
    demonstrations.actions[3] += 2
    write_npz(tmp_path / "docks.npz", demonstrations)
    with pytest.raises(FewerError, match=r"is out of the bounds of dock-2d.*rescale or clip it"):
        OffPolicy(**on_the_fly(FLOW, str(tmp_path / "docks.npz"), **SMALL)).learn(task, 40)


def test_the_measure_sees_all_arms():
    found = measure(0, tiny=True)
    assert set(found) == {"expo", "idql-online", "rlpd", "base"}
    assert 0 <= found["expo"]["edits chosen"] <= 1
