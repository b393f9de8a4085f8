from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fewer import compose
from fewer.core.errors import Diverged, FewerError
from fewer.demos.behaviour_cloning import BehaviourCloning
from fewer.demos.chunk_cloning import ChunkCloning
from fewer.demos.chunk_critics import CausalTransformer, PrefixMLP
from fewer.demos.chunked_offline_rl import ChunkedImprovement, ChunkedOfflineRL, calql_1, co_rft, n_step
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.gate_world import gate_2d
from fewer.demos.loop import Imitation
from fewer.models.classifier import ConvNet

SMALL = ChunkedImprovement(PrefixMLP((16,)), steps=4, batch=16, warm_up=0)


def corridor(episodes=3, length=12, **columns):
    """States 0, 1, .. of an episode in a row; everything succeeds at the end."""
    steps = episodes * length
    rng = np.random.default_rng(0)
    columns = {"successes": np.ones(episodes, dtype=bool)} | columns
    seen = np.stack([np.tile(np.arange(length), episodes), np.repeat(np.arange(episodes), length)], axis=1)
    return Demonstrations(
        seen.astype(np.float32), rng.uniform(-0.9, 0.9, (steps, 2)), np.arange(0, steps + 1, length), **columns
    )


def training(settings=SMALL, chunk=4, given=None, steps=1, seed=0):
    given = corridor() if given is None else given
    return settings.start(given, ChunkCloning(chunk, hidden=(16,), steps=steps).fit(given), seed=seed)


class Table(nn.Module):
    """A critic that knows a value for every state, whatever is done."""

    def __init__(self, states, values):
        super().__init__()
        self.states, self.values = states, values

    def full(self, states, chunks):
        row = (states[:, None] == self.states).all(-1).int().argmax(1)
        return self.values[None, row].repeat(2, 1)


# --- the targets -----------------------------------------------------------------------------------------------------


def test_one_sweep_carries_value_over_a_whole_chunk_and_every_prefix_agrees_in_the_end():
    run, gamma = training(ChunkedImprovement(PrefixMLP((16,)), gamma=0.9)), 0.9
    rows, length, h = torch.arange(36), 12, 4
    truth = torch.tensor([-(1 - gamma ** (length - 1 - t)) / (1 - gamma) for t in range(length)]).repeat(3)
    table = Table(run.states, torch.full((36,), 7.0))
    run.slow_critic = table
    for sweep in range(1, 4):
        targets = run.target(rows)
        table.values = targets[:, -1]
        # what is at most this many steps from the goal is exact
        near = (torch.arange(length) >= length - sweep * h).repeat(3)
        torch.testing.assert_close(targets[near][:, -1], truth[near])
        if sweep < 3:
            assert (targets[~near][:, -1] > truth[~near] + 1e-3).all()
    for prefix in run.target(rows).T:
        torch.testing.assert_close(prefix, truth)


def test_the_least_member_is_believed_and_the_slow_policy_is_asked():
    run = training()
    seen = {}

    class Two(nn.Module):
        def full(self, states, chunks):
            seen["chunks"] = chunks
            return torch.stack([torch.full((len(states),), 5.0), torch.full((len(states),), 3.0)])

    run.slow_critic = Two()
    target = run.target(torch.tensor([0]))
    gamma = run.settings.gamma
    expected = [-sum(gamma**k for k in range(i)) + gamma**i * 3 for i in (1, 2, 3, 4)]
    torch.testing.assert_close(target[0], torch.tensor(expected))
    with torch.no_grad():
        noise = seen["chunks"] - run.slow_head(run.states[1:5])
    assert 0 < noise.abs().max() <= run.settings.clip + 1e-6


def test_a_time_limit_is_looked_beyond_and_prefixes_that_nobody_saw_are_left_out():
    given = corridor(2, successes=[True, False], final_observations=np.array([[50, 0], [60, 1]], dtype=np.float32))
    run = training(given=given)
    run.slow_critic = Table(run.states, torch.arange(len(run.states), dtype=torch.float32))
    target = run.target(torch.tensor([23]))
    assert target[0, 0] == pytest.approx(-1 + run.settings.gamma * 25)  # the second final observation
    assert run.counted[23].tolist() == [True, False, False, False]
    # nor does anything depend on what would be done then
    before = run.critic_loss(torch.tensor([23]))
    run.chunks[23, 1:] += 0.5
    assert run.critic_loss(torch.tensor([23])) == before


# --- the losses ------------------------------------------------------------------------------------------------------


def test_with_single_actions_it_is_td3_bc_with_a_calibrated_critic():
    settings = ChunkedImprovement(
        PrefixMLP((16,)), alpha=0.3, candidates=4, temperature=0.7, smoothing=0, beta=0.8, gamma=0.9
    )
    run, rows = training(settings, chunk=1), torch.arange(36)
    states, actions = run.states, run.chunks[:, 0]

    def value(critic, at, done):
        return torch.stack([each[:, 0] for each in critic(at, done[:, None]).unbind()])

    ends = torch.arange(36) % 12 == 11
    after = torch.where(ends, rows, rows + 1)
    with torch.no_grad():
        ahead = value(run.slow_critic, states[after], run.slow_head(states[after])[:, 0]).amin(0)
        reward = torch.where(ends, 0.0, -1.0)
        target = reward + 0.9 * torch.where(ends, 0.0, ahead)
    earned = torch.tensor([-(1 - 0.9 ** (11 - t)) / 0.1 for t in range(12)]).repeat(3)
    found = value(run.critic, states, actions)
    loss = sum(functional.mse_loss(member, target) for member in found)
    torch.manual_seed(3)
    run.target(rows)  # which draws its noise first, though of no size
    candidates = run.candidates(rows)[:, :, 0]
    for member in range(2):
        others = torch.stack([value(run.critic, states, each)[member] for each in candidates])
        held = 0.7 * torch.logsumexp(torch.maximum(others, earned) / 0.7, dim=0)
        loss = loss + 0.3 * (held - found[member]).mean()
    torch.manual_seed(3)
    torch.testing.assert_close(run.critic_loss(rows), loss)
    answered = run.policy.head(states)[:, 0]
    mine = value(run.critic, states, answered)[0]
    expected = -mine.mean() / mine.abs().mean().detach() + 0.8 * functional.mse_loss(answered, actions)
    torch.testing.assert_close(run.policy_loss(rows), expected)


def test_without_conservatism_the_loss_is_the_mean_over_prefixes():
    run, rows = training(ChunkedImprovement(PrefixMLP((16,)), alpha=0, smoothing=0)), torch.arange(10)
    values, target = run.critic(run.states[rows], run.chunks[rows]), run.target(rows)
    expected = sum(functional.mse_loss(values[:, :, i], target[:, i].expand(2, -1)) * 2 for i in range(4)) / 4
    torch.testing.assert_close(run.critic_loss(rows), expected)


def test_one_target_for_the_whole_chunk_regresses_the_last_value_alone():
    settings = ChunkedImprovement(PrefixMLP((16,)), alpha=0, smoothing=0, targets="whole chunk")
    run, rows = training(settings), torch.arange(10)
    values, target = run.critic(run.states[rows], run.chunks[rows]), run.target(rows)
    torch.testing.assert_close(
        run.critic_loss(rows), 2 * functional.mse_loss(values[..., -1], target[:, -1].expand(2, -1))
    )


def test_no_chunk_is_pushed_below_what_was_earned():
    run, rows = training(), torch.arange(36)
    run.returns.to_go.fill_(1e3)
    run.critic.zero_grad()
    run.conservatism(rows, torch.zeros(2, 36)).backward()
    assert all((each.grad == 0).all() for each in run.critic.parameters() if each.grad is not None)
    run.returns.to_go.fill_(-np.inf)
    run.conservatism(rows, torch.zeros(2, 36)).backward()
    assert any((each.grad != 0).any() for each in run.critic.parameters())


@pytest.mark.parametrize(("candidates", "random", "here", "following"), [(1, 0, 1, 0), (4, 2, 1, 1), (6, 3, 2, 1)])
def test_candidates_are_random_the_policys_and_its_next(candidates, random, here, following):
    run, rows = training(ChunkedImprovement(PrefixMLP((16,)), candidates=candidates, smoothing=0)), torch.arange(11)
    found = run.candidates(rows)
    assert found.shape == (candidates, 11, 4, 2)
    assert found.abs().max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(
            found[random : random + here], run.policy.head(run.states[rows]).expand(here, -1, -1, -1)
        )
        torch.testing.assert_close(
            found[random + here :], run.policy.head(run.states[rows + 1]).expand(following, -1, -1, -1)
        )


def test_a_large_weight_of_the_demonstrations_is_behaviour_cloning():
    run, rows = training(ChunkedImprovement(PrefixMLP((16,)), beta=1e6)), torch.arange(36)
    gradients = torch.autograd.grad(run.policy_loss(rows), run.head_parameters)
    answered, mask = run.policy.head(run.states), run.mask[..., None]
    cloning = ((answered - run.chunks).square() * mask).sum() / mask.sum() / 2
    expected = torch.autograd.grad(cloning, run.head_parameters)
    mine, theirs = (torch.cat([each.flatten() for each in grads]) for grads in (gradients, expected))
    assert functional.cosine_similarity(mine, theirs, dim=0) > 1 - 1e-6


def test_the_size_of_rewards_does_not_matter_to_the_policy():
    run, rows = training(), torch.arange(36)
    loss = run.policy_loss(rows)
    with torch.no_grad():
        for parameter in run.critic.later[-1].parameters():
            parameter.mul_(100)
    torch.testing.assert_close(run.policy_loss(rows), loss)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_chunks_that_hold_the_success_make_up_their_share():
    run = training(ChunkedImprovement(PrefixMLP((16,)), success_share=0.5, batch=40))
    rows = torch.cat([run.draw() for _ in range(50)])
    assert (rows % 12 >= 8).float().mean() == 0.5
    assert len(rows.unique()) == 36
    many = training(ChunkedImprovement(PrefixMLP((16,)), success_share=0.1, batch=40))
    rows = torch.cat([many.draw() for _ in range(100)])
    assert (rows % 12 >= 8).float().mean() == pytest.approx(1 / 3, abs=0.03)


# --- the whole -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", [PrefixMLP((32,)), CausalTransformer(width=16, layers=1, heads=2)])
def test_values_and_policy_improve_on_a_line(critic):
    """Go right to 1: half of the demonstrations hurry, half dawdle, and what is seen does not say which."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(40):
        push, at, seen, done = rng.choice([0.2, 1.0]), rng.uniform(0, 0.3), [], []
        while at < 1:
            seen.append([at])
            done.append([push + 0.1 * rng.uniform(-1, 0)])
            at += 0.1 * done[-1][0]
        episodes.append({"observations": np.array(seen), "actions": np.array(done), "success": True})
    given = Demonstrations.of_episodes(episodes)
    cloned = ChunkCloning(3, hidden=(32,), steps=300, lr=1e-3).fit(given)
    settings = ChunkedImprovement(critic, gamma=0.95, beta=0.2, batch=64, warm_up=150, actor_lr=1e-3, critic_lr=1e-3)
    run = settings.start(given, cloned)
    run.advance(500)
    middle = np.linspace(0, 0.7, 8, dtype=np.float32)[:, None]
    assert run.policy.plan(middle)[:, 0].mean() > cloned.plan(middle)[:, 0].mean() + 0.15
    report = run.report()
    assert report.rank_correlation.min() > 0.8
    assert len(str(report).splitlines()) == 4


def test_nothing_of_what_was_given_is_changed():
    given = corridor()
    policy = ChunkCloning(4, hidden=(16,), steps=1).fit(given)
    before, critic = copy.deepcopy(policy.state_dict()), None
    run = SMALL.start(given, policy)
    critic = copy.deepcopy(run.critic.state_dict())
    run.advance(4)
    assert all(torch.equal(policy.state_dict()[key], value) for key, value in before.items())
    assert any((run.policy.state_dict()[key] != value).any() for key, value in before.items())
    assert any((run.critic.state_dict()[key] != value).any() for key, value in critic.items())
    assert run.done == 4


def test_the_policy_waits_for_the_critic():
    run = training(ChunkedImprovement(PrefixMLP((16,)), batch=8, warm_up=3))
    before = copy.deepcopy(run.policy.head.state_dict())
    run.advance(3)
    assert all(torch.equal(run.policy.head.state_dict()[key], value) for key, value in before.items())
    run.advance(1)
    assert any((run.policy.head.state_dict()[key] != value).any() for key, value in before.items())


def test_the_same_seed_gives_the_same_policy():
    plans = []
    for seed in (0, 0, 1):
        run = training(seed=seed)
        run.advance(6)
        plans.append(run.policy.plan(corridor().observations[:3]))
    np.testing.assert_array_equal(plans[0], plans[1])
    assert (plans[0] != plans[2]).any()


def test_an_encoder_of_images_is_trained_and_then_kept():
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(20, 1, 8, 8)).astype(np.float32)
    given = Demonstrations(images, rng.uniform(-1, 1, (20, 2)), [0, 10, 20], successes=[1, 1])
    encoder = ConvNet(channels=(4,), hidden=6).build((1, 8, 8), 1).backbone
    learner = ChunkedOfflineRL(encoder, chunk=3, imitation=ChunkCloning(steps=3), improvement=SMALL).imitate(given)
    before = copy.deepcopy(learner.policy_.encoder.state_dict())
    learner.improve(given)
    assert all(torch.equal(learner.policy_.encoder.state_dict()[key], value) for key, value in before.items())
    assert learner.act(images[0]).shape == (2,)


def test_a_saved_learner_acts_as_before_and_can_be_improved_further(tmp_path):
    given = corridor()
    learner = ChunkedOfflineRL(chunk=4, imitation=ChunkCloning(steps=2, execute=2), improvement=SMALL)
    learner.imitate(given).improve(given).save(tmp_path / "learner.safetensors")
    read = ChunkedOfflineRL.load(tmp_path / "learner.safetensors")
    learner.begin()
    for seen in given.observations[:5]:
        np.testing.assert_array_equal(read.act(seen), learner.act(seen))
    read.improvement = SMALL
    assert read.improve(given).report_.value.shape == (4,)


@pytest.mark.parametrize("what", ["act", "improve", "save", "begin"])
def test_imitation_comes_first(what, tmp_path):
    learner = ChunkedOfflineRL()
    calls = {
        "act": lambda: learner.act(np.zeros(2)),
        "improve": lambda: learner.improve(corridor()),
        "save": lambda: learner.save(tmp_path / "x"),
        "begin": lambda: learner.begin(),
    }
    with pytest.raises(FewerError, match=f"there is no policy to {what} with; call imitate first"):
        calls[what]()


def test_what_cannot_be_improved_is_refused():
    with pytest.raises(FewerError, match="nothing says which episodes succeeded; give successes="):
        training(given=corridor(successes=None))
    with pytest.raises(FewerError, match="none of the 3 episodes succeeded, so there is nothing to improve towards"):
        training(given=corridor(successes=np.zeros(3, dtype=bool)))


def test_values_that_are_no_numbers_stop_the_training():
    with pytest.raises(Diverged, match="the critic's loss became nan; lower the learning rates"):
        training(ChunkedImprovement(PrefixMLP((16,)), critic_lr=1e38, batch=8)).advance(6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "some"}, "unknown targets 'some'; choose 'every prefix' or 'whole chunk'"),
        ({"reward": "none"}, "unknown reward 'none'; choose steps, success, recorded"),
        ({"gamma": 0}, r"gamma and tau must lie in \(0, 1\], success_share in \[0, 1\); they are 0, 0.005 and 0.2"),
        ({"success_share": 1.0}, "they are 0.99, 0.005 and 1.0"),
        ({"alpha": -1}, "alpha, beta, smoothing, clip and warm_up cannot be negative"),
        ({"beta": float("nan")}, "cannot be negative"),
        ({"batch": 0}, "candidates, delay, batch and steps must be at least 1; they are 4, 2, 0 and 5000"),
        ({"temperature": 0}, "temperature and learning rates must be positive"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(FewerError, match=message):
        ChunkedImprovement(**settings)


# --- in the loop -----------------------------------------------------------------------------------------------------


def test_the_fillings_go_into_both_slots():
    made = compose.loop("co-rft(chunk=5, steps=7, critic='mlp', reward='recorded', gamma=0.9)")
    assert isinstance(made, Imitation)
    planner = made.planner
    assert (made.imitator.chunk, planner.steps, planner.critic) == (5, 7, PrefixMLP())
    assert (planner.reward, planner.gamma) == ("recorded", 0.9)
    assert (n_step(gamma=0.9)["planner"].gamma, calql_1(reward="success")["planner"].reward) == (0.9, "success")
    assert isinstance(co_rft()["planner"].critic, CausalTransformer)
    assert n_step()["planner"].targets == "whole chunk"
    assert calql_1()["imitator"].chunk == 1
    with pytest.raises(FewerError, match="unknown critic 'lstm'; choose transformer or mlp"):
        co_rft(critic="lstm")
    with pytest.raises(FewerError, match="both fill the slot imitator"):
        compose.loop("bc-chunk + co-rft")


@pytest.mark.parametrize(
    "method", ["co-rft(imitate=5, steps=3", "n-step(imitate=5, steps=3", "calql-1(imitate=5, steps=3"]
)
def test_it_runs_in_the_loop(method):
    made = compose.loop(f"{method}, critic='mlp') + imitation(first=3, points=1, episodes=4)")
    (point,) = made.run(gate_2d(3), budget=3, seed=0)
    assert point.spent == 3
    assert 0 <= point.score <= 1


def test_other_policies_cannot_be_improved():
    loop = Imitation(imitator=BehaviourCloning(steps=1), planner=SMALL, first=3, points=1, episodes=2)
    with pytest.raises(
        FewerError, match="improves policies of chunks, and a ClonedPolicy was given; clone by bc-chunk"
    ):
        list(loop.run(gate_2d(3), budget=3, seed=0))
