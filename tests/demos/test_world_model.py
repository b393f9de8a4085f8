from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.trajectory_replay import Sequences
from fewer.demos.world_model import Latent, WorldModel, WorldModelShape, dense, divergence, symlog

SMALL = WorldModelShape(deter=16, stoch=3, classes=4, hidden=24)
SEEN = ObservationTensors((("", (3,)),))


def model(shape=SMALL, seen=SEEN, action=2):
    torch.manual_seed(0)
    return WorldModel(shape, seen, action)


def batch(size=4, length=6, seed=0, **changes):
    torch.manual_seed(seed)
    made = Sequences(
        torch.randn(size, length, 3),
        {},
        torch.rand(size, length, 2) * 2 - 1,
        torch.zeros(size, length, dtype=torch.bool),
        torch.ones(size, length, dtype=torch.bool),
        torch.zeros(size, length, 8, 2),
    )
    return made._replace(**changes)


def test_probabilities_never_vanish():
    world = model()
    found = world.probabilities(torch.tensor([[100.0, 0, 0, 0] * 3]))
    torch.testing.assert_close(found[0, 0], torch.tensor([0.9925, 0.0025, 0.0025, 0.0025]))
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 3))


def test_draws_are_one_hot_and_as_frequent_as_they_should_be():
    world = model()
    share = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0, 0, 0], [0, 0, 0, 1.0]])
    drawn = world.draw(share.expand(20_000, -1, -1), torch.Generator().manual_seed(0)).unflatten(-1, (3, 4))
    assert (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean(0), share, atol=0.015, rtol=0)


def test_rows_that_are_alike_meet_with_the_same_luck():
    world = model()
    share = torch.rand(3, 3, 4).softmax(-1).repeat_interleave(5, dim=0)
    drawn = world.draw(share, torch.Generator().manual_seed(0), alike=5).unflatten(0, (3, 5))
    assert (drawn == drawn[:, :1]).all()
    assert (world.draw(share, torch.Generator().manual_seed(0)).unflatten(0, (3, 5)) != drawn).any()
    state = Latent(torch.zeros(10, 12), torch.zeros(10, 16))
    chunks = torch.randn(2, 1, 4, 2).expand(-1, 5, -1, -1).flatten(0, 1)
    with torch.no_grad():
        found = world.imagine_chunks(state, chunks, alike=5).unflatten(1, (2, 5))
    torch.testing.assert_close(found, found[:, :, :1].expand_as(found), atol=1e-5, rtol=0)


def test_expected_latents_are_the_mean_of_what_would_be_drawn():
    shape = WorldModelShape(deter=16, stoch=3, classes=4, hidden=24, expected=True)
    world, state, actions = model(shape), Latent(torch.rand(1, 12), torch.rand(1, 16)), torch.rand(1, 2)
    with torch.no_grad():
        found = world.imagine(state, actions)
        drawn = model().imagine(
            Latent(*(each.expand(4000, -1) for each in state)),
            actions.expand(4000, -1),
            torch.Generator().manual_seed(0),
        )
        followed = world.follow(None, actions, torch.randn(1, 3), {}, torch.ones(1, dtype=torch.bool))
    torch.testing.assert_close(found.deter, drawn.deter[:1])
    torch.testing.assert_close(found.stoch, drawn.stoch.mean(0, keepdim=True), atol=0.03, rtol=0)
    # what is followed is drawn all the same
    assert set(followed.stoch.flatten().tolist()) == {0.0, 1.0}


def test_gradients_go_straight_through():
    world, logits = model(), torch.randn(5, 12, requires_grad=True)
    weights = torch.randn(12)
    share = world.probabilities(logits)
    (through,) = torch.autograd.grad((world.draw(share) * weights).sum(), logits, retain_graph=True)
    (plain,) = torch.autograd.grad((share.flatten(-2) * weights).sum(), logits)
    torch.testing.assert_close(through, plain)


def test_a_state_from_before_an_episode_is_forgotten():
    world = model()
    old = Latent(torch.rand(2, 12), torch.rand(2, 16))
    first = torch.tensor([True, False])
    numbers, actions = torch.randn(2, 3), torch.randn(2, 2)
    runs = [
        world.follow(state, given, numbers, {}, first, torch.Generator().manual_seed(0))
        for state, given in ((old, actions), (world.start(2), torch.zeros(2, 2)))
    ]
    torch.testing.assert_close(runs[0].features[0], runs[1].features[0])
    assert (runs[0].features[1] != runs[1].features[1]).any()


def test_the_loss_follows_as_step_by_step_and_free_nats_cost_nothing():
    world, given = model(), batch(first=torch.zeros(4, 6, dtype=torch.bool).index_fill(1, torch.tensor([0, 3]), True))
    torch.manual_seed(1)
    total, latent, parts = world.loss(given)
    torch.manual_seed(1)
    state = None
    with torch.no_grad():
        for t in range(6):
            state = world.follow(state, given.actions[:, t], given.numbers[:, t], {}, given.first[:, t])
            torch.testing.assert_close(latent.features[:, t], state.features)
    # hardly trained, posterior and prior differ by less than is free, and 0.6 is what that is counted as
    assert parts["divergence"] == 1
    torch.testing.assert_close(total.detach(), parts["reconstruction"] + parts["end"] + 0.6)
    assert not latent.stoch.requires_grad


def test_numbers_weigh_as_much_as_they_are_said_to():
    totals = {}
    for weight in (1.0, 30.0):
        world = model(WorldModelShape(deter=16, stoch=3, classes=4, hidden=24, numbers=weight))
        torch.manual_seed(1)
        totals[weight] = world.loss(batch())[2]
    torch.testing.assert_close(30 * totals[1.0]["reconstruction"], totals[30.0]["reconstruction"])
    torch.testing.assert_close(totals[1.0]["end"], totals[30.0]["end"])


def test_what_is_seen_is_told_apart_by_its_size():
    layers = dense(3, 64)
    near, far = (layers(size * torch.tensor([0.3, -0.5, 0.8])) for size in (1.0, 2.0))
    assert (near - far).norm() > 0.1 * near.norm()
    # further ones leave the bias to the normalisation
    assert [layer.bias is not None for layer in dense(3, 8, 8, 8) if isinstance(layer, torch.nn.Linear)] == [
        True,
        False,
        False,
    ]


def test_divergence_trains_both_sides_with_their_weights():
    world = model(WorldModelShape(deter=16, stoch=3, classes=4, hidden=24, free=0.0, dynamics=0.5, representation=0.1))
    said = torch.randn(2, 3, 4).softmax(-1).log()
    assert divergence(said, said).abs().max() < 1e-6
    world.loss(batch())[0].backward()
    assert world.prior[-1].weight.grad.abs().sum() > 0
    only = model(WorldModelShape(deter=16, stoch=3, classes=4, hidden=24, free=0.0, dynamics=0.0))
    only.loss(batch())[0].backward()
    assert only.prior[-1].weight.grad is None or only.prior[-1].weight.grad.abs().sum() == 0


def test_it_learns_how_a_point_moves_and_when_it_stops():
    """Position adds up pushes; beyond 1.5 the episode is over."""
    torch.manual_seed(0)
    world = model(WorldModelShape(deter=32, stoch=4, classes=8, hidden=48), ObservationTensors((("", (1,)),)), action=1)
    optimiser = torch.optim.Adam(world.parameters(), lr=3e-3)

    def drawn(size):
        actions = torch.rand(size, 8, 1) - 0.3
        place = torch.cumsum(torch.cat([torch.rand(size, 1, 1) - 0.5, actions[:, 1:]], dim=1), dim=1)
        first = torch.zeros(size, 8, dtype=torch.bool)
        first[:, 0] = True
        return Sequences(place, {}, actions, first, place[..., 0] < 1.0, torch.zeros(size, 8, 8, 1))

    losses = []
    for _ in range(250):
        loss, _, parts = world.loss(drawn(32))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(parts["reconstruction"])
    assert losses[-1] < 0.1 * losses[0]
    with torch.inference_mode():
        test = drawn(200)
        state = world.follow(None, test.actions[:, 0], test.numbers[:, 0], {}, test.first[:, 0])
        states = world.imagine_chunks(state, test.actions[:, 1:])
        assert states.shape == (8, 200, 64)
        ahead = world.decoder(states[4])[:, 0]
        truth = world.squashed(test.numbers[:, 4])[:, 0]
        assert np.corrcoef(ahead, truth)[0, 1] > 0.85
        ends = world.goes_on(states[4])
        goes = test.goes_on[:, 4]
        assert ends[goes].mean() > ends[~goes].mean() + 0.3


def test_images_and_numbers_together():
    seen = ObservationTensors((("arm", (2,)), ("camera", (16, 16, 3))))
    shape = WorldModelShape(deter=8, stoch=2, classes=4, hidden=16, depth=2)
    world = model(shape, seen)
    given = batch(2, 3)._replace(numbers=torch.randn(2, 3, 2), images={"camera": torch.rand(2, 3, 3, 16, 16)})
    loss, latent, _ = world.loss(given)
    loss.backward()
    assert latent.features.shape == (2, 3, shape.features)
    assert all(each.grad is not None for each in world.codecs.parameters())
    alone = model(shape, ObservationTensors((("camera", (16, 16, 3)),)))
    alone.loss(given._replace(numbers=torch.zeros(2, 3, 0)))[0].backward()


def test_symlog_is_odd_and_undone_by_its_inverse():
    x = torch.linspace(-50, 50, 101)
    y = symlog(x)
    torch.testing.assert_close(y.sign() * (y.abs().exp() - 1), x, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(symlog(-x), -y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deter": 0}, "sizes must be positive, and classes at least 2"),
        ({"classes": 1}, "classes at least 2"),
        ({"unimix": 1.0}, r"unimix lies in \[0, 1\)"),
        ({"free": -1.0}, "weights are not negative"),
        ({"numbers": -1.0}, "weights are not negative"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(FewerError, match=message):
        WorldModelShape(**settings)
