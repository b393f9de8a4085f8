"""Learning from images: the encoder, who trains it, and the loop that carries rows of pixels."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.control.image_toys import SIDE, Spot, spot_task
from tests.control.toys import target

from fewer import compose
from fewer.control import frame_replay
from fewer.control.action_chunks import ActionChunks
from fewer.control.agent import Agent
from fewer.control.baselines import rlpd, sac, td3
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.frame_replay import FrameReplay
from fewer.control.loop import FixedRatio, OffPolicy
from fewer.control.observed import Observed, Part
from fewer.control.plasticity import PeriodicReset
from fewer.control.policies import Gaussian
from fewer.control.prior_data import as_memory
from fewer.control.replay import Batch
from fewer.control.seeing import Encoder, RandomCrop, ResNetImages, Seeing, SeeingCritics, SmallImages
from fewer.control.trained import TrainedPolicy
from fewer.core.errors import FewerError
from fewer.core.files import segments_of

TINY = SmallImages(outputs=6, widths=(4, 8), places=2)
SMALL = {"hidden": (8, 8)}
SEEN = Observed((Part((2,)), Part((SIDE, SIDE, 3), image=True)))


def built(actions=2, policy=None):
    critics = SeeingCritics.around(Critics(hidden=(8,)), SEEN, TINY)
    actor = Seeing(policy or Gaussian((8,)), SEEN, TINY).build(SEEN.size, actions)
    critic = critics.build(SEEN.size, actions)
    slow = copy.deepcopy(critic).requires_grad_(False)
    actor.attach(critic, slow)
    return actor, critic, slow


def rows(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, SIDE * SIDE * 3), generator=generator).float()
    return torch.cat([torch.randn(count, 2, generator=generator), pixels], dim=1)


def some_batch():
    return Batch(rows(5, 1), torch.zeros(5, 2), torch.zeros(5), rows(5, 2), torch.ones(5))


def loop_for(filling=None, **settings):
    filling = (filling or sac(**SMALL)) | {
        "encoder": TINY,
        "batch": 8,
        "learning_starts": 6,
        "episodes": 2,
        "points": 3,
    }
    return OffPolicy(**(filling | settings))


def test_features_are_what_is_no_image_and_what_the_networks_say():
    torch.manual_seed(0)
    encoder, given = Encoder(SEEN, TINY), rows()
    found = encoder(given)
    images = given[:, 2:].reshape(5, SIDE, SIDE, 3).to(torch.uint8)
    assert found.shape == (5, encoder.outputs) == (5, 8)
    assert torch.equal(found[:, :2], given[:, :2])
    assert torch.equal(found[:, 2:], encoder.networks[0](images))


def test_every_image_has_a_network_of_its_own_and_stacked_frames_are_channels():
    observed = Observed((Part((SIDE, SIDE, 3), True), Part((SIDE, SIDE), True)), stack=2)
    encoder = Encoder(observed, TINY)
    assert [each.trunk.layers[0].in_channels for each in encoder.networks] == [6, 2]
    assert encoder.outputs == 12


def test_the_critic_trains_the_encoder_and_the_policy_does_not():
    torch.manual_seed(0)
    actor, critic, _ = built()
    before = copy.deepcopy(critic.encoder.state_dict())
    actor.improve(some_batch(), critic)
    assert all(torch.equal(value, critic.encoder.state_dict()[name]) for name, value in before.items())
    assert actor.encoder is critic.encoder
    gradients = torch.autograd.grad(critic(rows(), torch.zeros(5, 2)).sum(), list(critic.parameters()))
    assert all(float(each.abs().max()) > 0 for each in gradients[-len(list(critic.encoder.parameters())) :])
    assert not any(parameter is one for one in actor.inner.parameters() for parameter in critic.parameters())


@pytest.mark.parametrize("filling", [sac(**SMALL), td3(**SMALL)])
def test_behind_the_encoder_all_is_as_with_vectors(filling):
    """A policy and a critic of features, given the features, say and learn the same."""
    torch.manual_seed(0)
    actor, critic, _ = built(policy=filling["policy"])
    alone, batch = copy.deepcopy(actor.inner), some_batch()
    before, after = (critic.encoder(each).detach() for each in (batch.observations, batch.next_observations))
    assert torch.equal(actor.act(batch.observations, True), alone.act(before, True))
    assert torch.equal(critic(batch.observations, batch.actions), critic.head(before, batch.actions))
    found = []
    for which, seen in ((actor, batch.next_observations), (alone, after)):
        torch.manual_seed(1)
        actions, cost = which.successor(seen)
        found.append((actions, torch.as_tensor(cost)))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    torch.manual_seed(2)
    actor.improve(batch, critic)
    torch.manual_seed(2)
    alone.improve(replace(batch, observations=before, next_observations=after), critic.head)
    for one, two in zip(actor.inner.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
    assert actor.propose(batch.observations, 3).shape == (3, 5, 2)


def test_dropout_is_for_the_critics_own_step():
    torch.manual_seed(0)
    encoder = Encoder(Observed((Part((32, 32, 3), image=True),)), ResNetImages(outputs=4, dropout=0.5))
    seen = torch.randint(256, (2, 32 * 32 * 3)).float()
    assert not torch.equal(encoder(seen), encoder(seen))
    assert torch.equal(encoder.read(seen), encoder.read(seen))
    assert encoder.training
    assert not encoder.read(seen).requires_grad


@pytest.mark.parametrize("kind", ["image", "channels first", "dict"])
@pytest.mark.parametrize("stack", [1, 2])
def test_gymnasiums_images_are_learned_from(kind, stack):
    task = spot_task(stack, kind=kind)
    loop = loop_for(copies=2)
    state = loop.start(task, 30, seed=0)
    assert isinstance(state.replay, FrameReplay)
    loop.advance(state)
    batch, pixels = state.replay.take(torch.arange(4)), SIDE * SIDE * 3
    worlds = task.make(2)
    first = worlds.reset({0: 0, 1: 0})
    assert batch.observations.shape == (4, first.shape[1])
    assert (
        task.observation_size == first.shape[1] == stack * pixels * (2 if kind == "dict" else 1) + 2 * (kind == "dict")
    )
    image = task.observed.split(torch.from_numpy(first))[1][0][0, :, :, -3:]
    alone = Spot(kind=kind)
    seen, _ = alone.reset(seed=0)
    seen = seen["camera"] if kind == "dict" else seen
    assert np.array_equal(image.numpy(), seen.transpose(1, 2, 0) if kind == "channels first" else seen)
    assert state.updates > 0


@pytest.mark.parametrize(
    "settings",
    [
        {"copies": 1},
        {"copies": 3, "augmentation": RandomCrop(1), "stack": 2, "kind": "dict", "cut": 3},
        {"copies": 1, "filling": td3(**SMALL), "capacity": 25, "cut": 3},
    ],
)
def test_a_resumed_run_is_the_same_to_the_bit(settings, tmp_path):
    settings = dict(settings)
    options = {name: settings.pop(name) for name in ("stack", "kind", "cut") if name in settings}
    task = spot_task(steps=5, **options)
    loop = loop_for(**settings)

    def told(points):
        return [(point.spent, point.score, point.extras["critic_loss"]) for point in points]

    whole = told(loop.run(task, 60, 5))
    run = loop.run(task, 60, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    assert told(loop.run(task, 60, 5, checkpoint=tmp_path / "state")) == whole
    assert whole[-1][0] == 60


def test_a_checkpoint_writes_what_is_new(tmp_path):
    folder, sizes = segments_of(tmp_path / "state"), []
    for _ in loop_for(points=4, ratio=FixedRatio(0.0)).run(spot_task(), 80, 0, checkpoint=tmp_path / "state"):
        sizes.append({file.name: file.stat().st_size for file in folder.iterdir()})
    for before, after in itertools.pairwise(sizes):
        assert before.items() <= after.items()  # what was written stays as it is
        # twenty steps and five beginnings of episodes
        assert sum(after.values()) - sum(before.values()) < 25 * SIDE * SIDE * 3 + 20 * 40 + 1500
    assert (tmp_path / "state").stat().st_size < 150_000


def test_it_learns_where_the_spot_is():
    """Knowing nothing of where it is costs 1.7, a random action more."""
    loop = OffPolicy(
        **sac(hidden=(64, 64), lr=1e-3, temperature=0.05),
        encoder=SmallImages(32, (16, 32), 4),
        augmentation=RandomCrop(1),
        batch=64,
        discount=0.0,
        episodes=30,
        points=1,
    )
    assert loop.learn(spot_task(), budget=500).curve.final > -0.6


@pytest.mark.slow
def test_dock_2d_is_learned_from_pictures():
    """Half of every batch from demonstrations that go to either dock, decisions of four steps; chance hardly ever arrives."""
    task = dock_2d(demonstrations=60, radius=0.25, noise=0.35, speed=0.8, images=True, size=24)
    loop = OffPolicy(
        **rlpd(hidden=(64, 64), members=3, ratio=4, lr=1e-3, tau=0.01, temperature=0.05),
        encoder=SmallImages(32, (16, 32), 4),
        augmentation=RandomCrop(1),
        action_map=ActionChunks(4),
        discount=0.95,
        batch=64,
        episodes=50,
        points=1,
        learning_starts=80,
    )
    chance = task.evaluate(lambda seen: np.random.default_rng(0).uniform(-1, 1, (len(seen), 2)), 50, 0)[0]
    assert chance < 0.1
    assert loop.learn(task, budget=1600).curve.final > 0.5


def test_specs_that_a_race_is_given():
    task = compose.task("dock-2d(images=True, size=24, demonstrations=4)")
    for spec in (
        "sac(hidden=(8,)) + random-crop(padding=2) + small-encoder(widths=(4, 8))",
        "td3(hidden=(8,)) + small-encoder(widths=(4,))",
        "rlpd(hidden=(8,), members=2, ratio=1) + random-crop + small-encoder(widths=(4, 8))",
        "serl(hidden=(8,), members=2, learning_starts=20) + adaptive-rr(every_episodes=1) + small-encoder(widths=(4, 8))",
        "sac(hidden=(8,)) + action-chunks(length=2) + small-encoder(widths=(4,))",
        "sac(hidden=(8,)) + periodic-reset(every=10) + small-encoder(widths=(4,))",
        "sac(hidden=(8,)) + plasticity-injection(at=32) + small-encoder(widths=(4,))",
    ):
        loop = replace(compose.loop(spec), batch=8, learning_starts=20, episodes=2, points=1)
        assert loop.learn(task, 40).curve.points[-1].extras["updates"] > 0, spec
    assert compose.loop("sac + resnet-10(outputs=32)").encoder == ResNetImages(32)


def test_demonstrations_become_a_memory_that_stores_each_frame_once():
    task = dock_2d(demonstrations=20, images=True, size=16)
    given = task.demonstrations(0)
    memory, whole = as_memory(given, task), task.transitions(given)
    assert isinstance(memory, FrameReplay)
    assert memory.stored == len(whole) + len(given)
    for name, values in vars(memory.take(torch.arange(len(whole)))).items():
        assert name == "returns" or torch.equal(values, getattr(whole, name))


def test_a_reset_of_the_policy_leaves_the_encoder():
    loop = loop_for(plasticity=PeriodicReset(every=1, part="actor"))
    state = loop.start(spot_task(), 30, seed=0)
    for _ in range(8):
        loop._act(state)
    before = copy.deepcopy(state.slow.encoder.state_dict())
    actor = copy.deepcopy(state.actor.inner.state_dict())
    state.critic_optimiser.param_groups[0]["lr"] = 0.0
    loop._update(state)
    assert all(torch.equal(value, state.critic.encoder.state_dict()[name]) for name, value in before.items())
    assert any(not torch.equal(value, state.actor.inner.state_dict()[name]) for name, value in actor.items())


def test_what_was_learned_predicts_is_saved_and_exported(tmp_path):
    agent = Agent(spot_task(kind="dict"), loop_for(), eval_freq=20).learn(20)
    seen, _ = Spot(kind="dict").reset(seed=3)
    action, _ = agent.predict(seen, deterministic=True)
    assert action.shape == (2,)
    several, _ = agent.predict({name: np.stack([part] * 3) for name, part in seen.items()}, deterministic=True)
    assert several == pytest.approx(np.stack([action] * 3), abs=1e-5)
    agent.save(tmp_path / "policy")
    again = TrainedPolicy.load(tmp_path / "policy")
    assert again.predict(seen, deterministic=True)[0] == pytest.approx(action, abs=1e-6)
    agent.export(tmp_path / "policy.pt")
    row = np.concatenate([np.ravel(seen[name]) for name in sorted(seen)]).astype(np.float32)
    found = torch.jit.load(tmp_path / "policy.pt")(torch.from_numpy(row)[None])
    assert found[0].numpy() == pytest.approx(action, abs=1e-5)


def test_a_crop_shifts_images_and_nothing_else():
    torch.manual_seed(0)
    given = rows(20)
    cropped = RandomCrop(2).augment(given, SEEN)
    assert torch.equal(cropped[:, :2], given[:, :2])
    assert not torch.equal(cropped, given)
    images, others = (SEEN.split(each)[1][0] for each in (given, cropped))
    for image, other in zip(images, others, strict=True):
        inside = other[2:-2, 2:-2]
        assert any(
            torch.equal(image[down : down + SIDE - 4, across : across + SIDE - 4], inside)
            for down in range(5)
            for across in range(5)
        )


def test_both_observations_of_a_batch_are_augmented():
    calls = []

    class Told(RandomCrop):
        def augment(self, rows, observed):
            calls.append(rows.clone())
            return super().augment(rows, observed)

    loop = loop_for(augmentation=Told(1))
    state = loop.start(spot_task(), 30, seed=0)
    for _ in range(8):
        loop._act(state)
    loop._update(state)
    assert [len(each) for each in calls] == [8, 8]
    assert not torch.equal(*calls)


def test_errors(monkeypatch):
    with pytest.raises(FewerError, match="shows no images, so there is nothing to augment; leave RandomCrop out"):
        loop_for(augmentation=RandomCrop()).learn(target(), 10)
    with pytest.raises(FewerError, match="padding is 0"):
        RandomCrop(0)
    with pytest.raises(FewerError, match="widths and places must be positive"):
        SmallImages(widths=())
    with pytest.raises(FewerError, match=r"dropout in \[0, 1\)"):
        ResNetImages(dropout=1.0)
    with pytest.raises(FewerError, match="vanish in its convolutions"):
        OffPolicy(encoder=SmallImages(widths=(4,) * 5)).learn(spot_task(), 10)
    with pytest.raises(FewerError, match="which it cannot do with images yet"):
        compose.loop("ofql(hidden=(8,), candidates=2)").learn(dock_2d(demonstrations=2, images=True, size=15), 9)
    monkeypatch.setattr(frame_replay, "free_memory", lambda: 2**20)
    built = []
    monkeypatch.setattr(Gaussian, "build", lambda *_: built.append(1))
    with pytest.raises(
        FewerError, match=r"frame replay: 100,000 transitions with frames of 768 bytes take 0.1 GiB and 0.0 Gi"
    ):
        loop_for().learn(spot_task(), 100_000)
    assert not built  # before anything is
