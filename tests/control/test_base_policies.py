from __future__ import annotations

import pytest
import torch
from tests.control.toys import target
from torch import nn

from fewer import compose
from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import BaseAlone, Given, Imitate, base_policy, described
from fewer.control.dock_world import dock_2d
from fewer.control.generative_policies import Cloned, FlowMatching
from fewer.control.loop import OffPolicy
from fewer.core.errors import FewerError
from fewer.core.seeding import derive

TINY = {"batch": 16, "episodes": 4, "points": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_given_policy_sees_chunks_and_keeps_its_weights():
    network = nn.Linear(2, 2)
    shapes = []

    def generate(observations, noise):
        shapes.append((tuple(observations.shape), tuple(noise.shape)))
        return network(noise)

    made = Given(generate, length=3).build(5, 6)
    assert shapes == [((8, 5), (8, 3, 2))] * 2
    assert not list(made.parameters())
    assert not made.state_dict()
    seen, noise = torch.randn(4, 5), torch.randn(4, 6)
    expected = network(noise.reshape(4, 3, 2)).reshape(4, 6).clamp(-1, 1)
    assert torch.equal(made.generate(seen, noise), expected)
    assert torch.equal(made.draw(seen, noise), expected)
    with pytest.raises(FewerError, match="is a black box and is not trained"):
        made.imitation_loss(seen, noise)


def test_looking_at_a_given_policy_draws_from_nobodys_stream():
    torch.manual_seed(0)
    Given(lambda seen, noise: noise + 0 * torch.rand(1)).build(2, 1)
    one = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), one)


@pytest.mark.parametrize(
    ("function", "length", "message"),
    [
        (lambda seen, noise: noise + torch.randn_like(noise), 1, r"equal noise gave actions that differ by .*DDIM"),
        (lambda seen, noise: noise * float("nan"), 1, "equal noise gave actions that differ by nan"),
        (lambda seen, noise: noise[:, :1], 2, r"noise of shape \(8, 2, 3\) it makes actions of shape \(8, 1, 3\)"),
        (lambda seen, noise: noise, 4, "6 numbers of an action are no chunk of 4"),
        (lambda seen, noise: nn.Linear(7, 1)(seen), 1, r"it fails with observations of shape \(8, 3\) and noise"),
        (None, 1, "a function of observations and noise"),
        (lambda seen, noise: noise, 0, "a length of 1 or more"),
    ],
)
def test_given_policies_that_will_not_do(function, length, message):
    with pytest.raises(FewerError, match=message):
        Given(function, length).build(3, 6)


def test_a_trained_policy_is_copied_and_left_as_it_is():
    torch.manual_seed(0)
    one, two = FlowMatching((8,), 2).build(2, 2), FlowMatching((8,), 2).build(2, 2)
    chosen = described(one)
    assert repr(chosen) == repr(described(one)) != repr(described(two))
    loop = OffPolicy(BaseAlone(chosen), initialisation=Imitate(chosen), **TINY)
    learned = loop.learn(dock_2d(demonstrations=4), 20).result.actor.base
    assert learned is not one
    assert all(torch.equal(one.state_dict()[name], value) for name, value in learned.state_dict().items())
    with pytest.raises(FewerError, match=r"pretrained policy: it fails with observations of shape \(8, 3\)"):
        chosen.build(3, 2)


def test_names_of_base_policies():
    assert described("flow", hidden=None, steps=3) == FlowMatching(steps=3)
    chosen = FlowMatching((8,))
    assert described(chosen, hidden=None) is chosen
    assert isinstance(described(lambda seen, noise: noise), Given)
    with pytest.raises(FewerError, match="unknown name 'flw'; did you mean flow"):
        described("flw")
    with pytest.raises(FewerError, match="mean-flow does not take steps; describe it yourself"):
        described("mean-flow", steps=3)
    with pytest.raises(FewerError, match="steps is for one that is named"):
        described(chosen, steps=3)


def test_all_methods_of_a_seed_begin_with_the_same_clone():
    flow, task = FlowMatching((8,), 2), dock_2d(demonstrations=4)
    loop = OffPolicy(BaseAlone(flow), initialisation=Imitate(flow, updates=3, batch=8), action_map=ActionChunks(2))
    chunked = ActionChunks(2).wrap(task)
    for seed in (0, 1):
        demonstrations = task.demonstrations(derive(seed, "demonstrations"))
        shown = chunked.transitions(demonstrations)
        expected = Cloned(flow, 3, 8).train(chunked, shown, derive(seed, "base"))
        base = loop.start(task, 100, seed).actor.base
        assert all(torch.equal(expected.state_dict()[name], value) for name, value in base.state_dict().items())


def test_the_base_alone_learns_nothing_and_draws():
    loop = OffPolicy(**base_policy(hidden=(8,), steps=2, updates=2), **TINY)
    task = dock_2d(demonstrations=4)
    learned = loop.learn(task, 60)
    assert learned.curve.points[-1].extras["updates"] == 0
    actor = learned.result.actor
    seen = torch.zeros(6, 2)
    torch.manual_seed(3)
    acted = actor.act(seen, deterministic=True)
    torch.manual_seed(3)
    assert torch.equal(acted, actor.base.generate(seen, torch.randn(6, 2)))
    assert not actor.improve(None, None)
    assert compose.loop("base-policy(updates=0)").ratio.ratio == 0


def test_what_cannot_be_imitated():
    with pytest.raises(FewerError, match="updates is 0 or more; it is -1"):
        Imitate(FlowMatching(), updates=-1)
    with pytest.raises(FewerError, match="lr must be positive"):
        Imitate(FlowMatching(), lr=0)
    with pytest.raises(FewerError, match="GaussianActor has no base policy inside"):
        OffPolicy(initialisation=Imitate(FlowMatching()), **TINY).learn(target(), 10)
    with pytest.raises(FewerError, match="has no demonstrations"):
        OffPolicy(**base_policy(), **TINY).learn(target(), 10)
    given = Given(lambda seen, noise: noise)
    learned = OffPolicy(BaseAlone(given), initialisation=Imitate(given), **TINY).learn(target(), 10)
    assert learned.curve.points[-1].spent == 10
