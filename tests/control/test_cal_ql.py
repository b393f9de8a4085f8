"""Offline pre-training: its term against closed forms and a plain version, and what it hands on."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.control.toys import target
from torch import nn

from fewer.control.action_chunks import ActionChunks
from fewer.control.baselines import sac, td3
from fewer.control.cal_ql import CalQL, Conservative, KeptAtGap, OfflineData, conservative_gap, value_gap
from fewer.control.critics import Critics
from fewer.control.dock_world import dock_2d
from fewer.control.loop import OffPolicy, Update
from fewer.control.policies import Gaussian
from fewer.control.replay import Batch
from fewer.control.transitions import transitions
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.files import write_npz

TASK = dock_2d(demonstrations=6)
SMALL = {"policy": Gaussian((8,), lr=1e-3), "critic": Critics(2, hidden=(8,), lr=1e-3), "episodes": 2, "points": 2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Constant(nn.Module):
    """A critic of two members that values everything alike."""

    def __init__(self, values=(2.0, -3.0)):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(values))

    def forward(self, observations, actions):
        return self.value[:, None].expand(-1, len(actions))


def update_of(critic, size=5, width=2, returns=None, actor=None):
    torch.manual_seed(0)
    batch = Batch(
        torch.randn(size, 3),
        torch.rand(size, width) * 2 - 1,
        torch.zeros(size),
        torch.randn(size, 3),
        torch.ones(size),
        returns,
    )
    actor = Gaussian((8,)).build(3, width) if actor is None else actor
    return Update(batch, critic(batch.observations, batch.actions), critic, actor)


def test_of_constant_values_the_gap_is_known():
    """Uniform samples have the density 2^-A; the others add theirs, drawn as the term draws them."""
    update, samples = update_of(Constant()), 4
    torch.manual_seed(7)
    found = conservative_gap(update, samples)
    torch.manual_seed(7)
    torch.rand(samples * 5, 2)
    densities = [torch.full((samples, 5), -2 * math.log(2))]
    for seen in (update.batch.observations, update.batch.next_observations):
        densities.append(update.actor.sample(seen.repeat(samples, 1))[1].detach().reshape(samples, 5))
    expected = (-torch.cat(densities)).logsumexp(0).mean()
    assert torch.allclose(found, expected.expand(2), atol=1e-5)
    assert float(found[0].detach()) > math.log(samples) + 2 * math.log(2)


def test_it_equals_a_plain_version():
    critic = Critics(2, hidden=(8,)).build(3, 2)
    returns = torch.tensor([0.3, -2.0, 5.0, 0.0, 0.1])
    update, samples = update_of(critic, returns=returns), 3
    torch.manual_seed(7)
    found = conservative_gap(update, samples)
    torch.manual_seed(7)
    uniform = torch.rand(samples * 5, 2) * 2 - 1
    here, density_here = update.actor.sample(update.batch.observations.repeat(samples, 1))
    after, density_after = update.actor.sample(update.batch.next_observations.repeat(samples, 1))
    for member in range(2):
        total = 0.0
        for row in range(5):
            seen = update.batch.observations[row : row + 1]
            terms = []
            for sample in range(samples):
                at = sample * 5 + row
                value = critic(seen, uniform[at : at + 1])[member, 0]
                terms.append(float(value.detach()) - math.log(0.25))
                for actions, density in ((here, density_here), (after, density_after)):
                    value = critic(seen, actions[at : at + 1])[member, 0]
                    terms.append(max(float(value.detach()), float(returns[row])) - float(density[at]))
            total += math.log(sum(math.exp(each) for each in terms)) - float(update.values[member, row])
        assert float(found[member]) == pytest.approx(total / 5, abs=1e-4)


def test_unknown_returns_calibrate_nothing_and_high_ones_stop_the_policys_gradient():
    def gap(returns, calibrated=True):
        update = update_of(Constant(), returns=returns)
        torch.manual_seed(3)
        return conservative_gap(update, 4, calibrated), update.critic.value

    plain, _ = gap(None)
    assert torch.equal(gap(torch.full((5,), -torch.inf))[0], plain)
    assert torch.equal(gap(torch.full((5,), 9.0), calibrated=False)[0], plain)
    high, value = gap(torch.full((5,), 50.0))
    # all of the soft maximum lies on the returns; only the data's own actions are left
    (gradient,) = torch.autograd.grad(high.sum(), value)
    assert gradient.tolist() == pytest.approx([-1, -1])


def test_the_gradient_of_the_term():
    critic = Critics(2, hidden=(4,)).build(3, 2).double()
    actor = Gaussian((4,)).build(3, 2).double()
    batch = Batch(
        *(
            each.double()
            for each in (torch.randn(4, 3), torch.rand(4, 2), torch.zeros(4), torch.randn(4, 3), torch.ones(4))
        )
    )

    def term(*parameters):
        with torch.no_grad():
            for mine, given in zip(critic.parameters(), parameters, strict=True):
                mine.copy_(given)
        values = torch.func.functional_call(
            critic,
            dict(zip(dict(critic.named_parameters()), parameters, strict=True)),
            (batch.observations, batch.actions),
        )

        def called(observations, actions):
            named = dict(zip(dict(critic.named_parameters()), parameters, strict=True))
            return torch.func.functional_call(critic, named, (observations, actions))

        torch.manual_seed(1)
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            return Conservative(2.0, samples=2)(Update(batch, values, called, actor))
        finally:
            torch.set_default_dtype(default)

    given = tuple(each.detach().clone().requires_grad_() for each in critic.parameters())
    assert torch.autograd.gradcheck(term, given)


def test_the_weight_rises_above_the_wanted_gap_and_falls_below_it():
    for gap, rises in ((-100.0, True), (100.0, False)):
        term = KeptAtGap(gap, samples=2, calibrated=True, lr=0.1)
        assert term.alpha == pytest.approx(1)
        before, update = term.alpha, update_of(Constant())
        torch.manual_seed(2)
        loss = term(update)
        torch.manual_seed(2)
        expected = before * (conservative_gap(update, 2) - gap).sum()
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        assert (term.alpha > before) == rises


def episode(rewards, terminated):
    count = len(rewards)
    return {
        "observations": np.arange(2.0 * (count + 1)).reshape(-1, 2) / 100,
        "actions": np.zeros((count, 1)),
        "rewards": np.array(rewards, dtype=float),
        "terminated": terminated,
    }


def test_returns_are_what_followed():
    task = target()
    given = Demonstrations.of_episodes([episode([1, 2, 3], True), episode([-1, -1], False), episode([-1, -2], False)])
    found = transitions(given, task, discount=0.5).returns
    assert found.tolist() == [1 + 1 + 0.75, 2 + 1.5, 3, -2, -2, -2, -2]
    assert transitions(given, task).returns is None


@pytest.mark.parametrize("length", [2, 3, 4, 7])
def test_returns_of_windows_equal_a_plain_recursion(length):
    rng = np.random.default_rng(length)
    lengths = [1, 5, 8, 12]
    given = Demonstrations.of_episodes([episode(rng.standard_normal(n).round(2), True) for n in lengths])
    found = iter(transitions(given, target(), length, discount=0.9).returns.tolist())
    for each in given.episodes():

        def after(step, paid=each.rewards):
            return sum(paid[step : step + length]) + (0.9 * after(step + length) if step + length < len(paid) else 0)

        for step in range(len(each)):
            assert next(found) == pytest.approx(after(step), abs=1e-5)


def test_joined_batches_keep_the_returns_that_are_known():
    one, two = update_of(Constant(), returns=torch.arange(5.0)).batch, update_of(Constant(), size=2).batch
    assert Batch.join(two, one).returns.tolist() == [-math.inf, -math.inf, 0, 1, 2, 3, 4]
    assert Batch.join(two, two).returns is None


def started(start, seed=3, **settings):
    loop = OffPolicy(**(SMALL | {"initialisation": start, "discount": 0.9} | settings))
    with own_randomness(seed, "start"):
        return loop, loop.start(TASK, 50, seed)


def tensors(state):
    parts = [getattr(state, name).state_dict() for name in ("actor", "critic", "slow")]
    return {f"{i}.{name}": value for i, part in enumerate(parts) for name, value in part.items()}


def test_equal_starts_are_trained_once(monkeypatch):
    start = CalQL(steps=3, samples=2, candidates=2, batch=8)
    _, first = started(start)
    monkeypatch.setattr(CalQL, "_train", lambda *_: pytest.fail("trained again"))
    # what the policy does only online, and how often is learned, does not matter
    _, again = started(start, policy=Gaussian((8,), lr=1e-3, delay=4, rows="all"), learning_starts=7)
    for name, value in tensors(first).items():
        assert torch.equal(tensors(again)[name], value), name
    moments = again.critic_optimiser.state_dict()["state"][0]
    assert int(moments["step"]) == 3
    assert torch.equal(moments["exp_avg"], first.critic_optimiser.state_dict()["state"][0]["exp_avg"])
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        started(start, discount=0.8)


def test_it_changes_all_networks_and_leaves_the_run_untouched():
    loop, state = started(CalQL(steps=2, samples=2, candidates=2, batch=8), policy=Gaussian((8,), delay=4, rows="all"))
    _, plain = started(None)
    assert all(not torch.equal(value, tensors(plain)[name]) for name, value in tensors(state).items())
    assert (state.updates, len(state.replay), state.ledger.spent, state.pending.batches) == (0, 0, 0, [])
    assert (state.actor.delay, state.actor.rows) == (4, "all")
    assert loop.critic.candidates == 1


def test_one_step_with_no_weight_and_one_candidate_is_that_of_the_loop():
    _, trained = started(CalQL(steps=1, alpha=0.0, samples=1, candidates=1, batch=8))
    _, state = started(None, batch=8)
    with own_randomness(3, "offline"):
        state.source = OfflineData(TASK, TASK.demonstrations(derive_of(3)), 0.9)
        batch = state.source.draw(8)
        following, cost = state.actor.successor(batch.next_observations)
        ahead = state.slow(batch.next_observations, following).amin(0) - cost
        goal = (batch.rewards + 0.9 * batch.continues * ahead).detach()
        loss = (state.critic(batch.observations, batch.actions) - goal).square().mean(1).sum()
        state.critic_optimiser.zero_grad()
        loss.backward()
        state.critic_optimiser.step()
    for one, two in zip(trained.critic.parameters(), state.critic.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def derive_of(seed):
    from fewer.core.seeding import derive

    return derive(seed, "demonstrations")


def test_the_best_of_several_candidates_counts():
    """Twenty identical candidates change nothing; and more candidates never make a target smaller on the mean."""
    critics, torch_state = Critics(2, hidden=(8,), candidates=20), {}
    targets = {}
    for count in (1, 20):
        loop = OffPolicy(Gaussian((8,)), Critics(2, hidden=(8,), candidates=count), batch=64)
        torch.manual_seed(0)
        state = loop.start(TASK, 50, 0)
        seen = {}
        state.slow.register_forward_hook(lambda module, given, found, seen=seen: seen.update(values=found))
        state.source = OfflineData(TASK, TASK.demonstrations(0), 0.9)
        torch.manual_seed(1)
        loop._update(state)
        targets[count] = seen["values"]
    assert targets[1].shape == (2, 64)
    assert targets[20].shape == (2, 64 * 20)
    best = targets[20].amin(0).reshape(20, 64).amax(0)
    assert float(best.mean()) > float(targets[1].amin(0).mean())
    assert critics.candidates == 20
    assert not torch_state


def test_it_goes_on_until_the_score_is_reached(monkeypatch):
    asked = []

    def score(self, state, seed):
        asked.append(state.updates)
        return (0.6 if len(asked) == 3 else 0.1), {}

    monkeypatch.setattr(OffPolicy, "score", score)
    started(CalQL(steps=4, samples=1, candidates=1, batch=4, at_least=0.5))
    assert asked == [4, 5, 6]
    asked.clear()
    started(CalQL(steps=4, samples=1, candidates=1, batch=4, at_least=2.0))
    assert asked == list(range(4, 16))


def test_offline_learning_imitates_what_pays():
    """On data in which only actions near a half pay, the policy comes to choose them, and no value of an unseen one."""
    rng = np.random.default_rng(0)
    task = target(low=-2.0, high=4.0)
    episodes = []
    for _ in range(300):
        action = rng.uniform(-1, 1, (1, 1))
        episodes.append(
            {
                "observations": rng.uniform(-1, 1, (2, 2)),
                "actions": action,
                "rewards": -((action[:, 0] - 0.5) ** 2),
                "terminated": True,
            }
        )
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        write_npz(file, Demonstrations.of_episodes(episodes))
        loop = OffPolicy(
            Gaussian((32,), lr=3e-3, temperature=0.05),
            Critics(2, hidden=(32,), lr=3e-3, layer_norm=True),
            initialisation=CalQL(str(file), steps=300, alpha=0.2, samples=2, candidates=2, batch=64),
            episodes=5,
            points=1,
            learning_starts=10,
        )
        learned = loop.learn(task, 2)
    action, _ = learned.result.predict(np.zeros(2), deterministic=True)
    assert action[0] == pytest.approx(0.5, abs=0.35)


def test_what_a_critic_promises_is_compared_with_what_is_earned():
    loop = OffPolicy(**sac(hidden=(8,)), action_map=ActionChunks(4), discount=0.5)
    torch.manual_seed(0)
    state = loop.start(TASK, 50, 0)
    for parameter in state.critic.parameters():
        parameter.data.zero_()
    state.critic.layers[-1].bias.data.fill_(3.0)
    found = value_gap(state, episodes=3, seed=1)
    assert found.promised == pytest.approx(3)
    assert found.earned == pytest.approx(-2, abs=0.01)  # -1 a decision, halved each time, for ten decisions
    assert found.gap == pytest.approx(5, abs=0.01)
    assert value_gap(state, episodes=3, seed=1) == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CalQL(steps=0), "steps, samples, candidates and batch must be positive"),
        (lambda: CalQL(alpha=-1.0), "alpha not negative"),
        (lambda: Conservative(alpha=math.inf), "conservative term: alpha must not be negative"),
        (lambda: Conservative(samples=0), "samples positive"),
        (lambda: Critics(candidates=0), "candidates must be positive"),
        (lambda: started(CalQL(steps=1), policy=td3()["policy"]), "it trains a Gaussian policy"),
        (lambda: started(CalQL("nowhere.npz", steps=1)), "nowhere.npz"),
        (lambda: Gaussian(entropy_at="elsewhere"), "entropy_at is"),
    ],
)
def test_errors(make, message):
    with pytest.raises(FewerError, match=message):
        make()


def test_the_term_needs_densities():
    loop = OffPolicy(**td3(hidden=(8,)), critic_term=Conservative(), batch=4, learning_starts=4, episodes=1, points=1)
    with pytest.raises(FewerError, match="needs a policy that knows the density"):
        loop.learn(TASK, 20)


def test_the_temperature_may_look_at_what_comes_next():
    actors = {}
    for place in ("observations", "next_observations"):
        torch.manual_seed(0)
        actors[place] = Gaussian((8,), entropy_at=place).build(3, 2)
    batch = update_of(Constant()).batch
    same = Batch(batch.observations, batch.actions, batch.rewards, batch.observations + 9, batch.continues)
    before = copy.deepcopy(actors["observations"].net.state_dict())
    found = {}
    for place, actor in actors.items():
        torch.manual_seed(5)
        found[place] = actor.improve(same, Constant())["entropy"]
        torch.manual_seed(5)
        actor.net.load_state_dict(before)
    torch.manual_seed(5)
    actor = actors["next_observations"]
    actor.sample(same.observations)
    assert found["observations"] != found["next_observations"]
    assert float(found["next_observations"]) == pytest.approx(float(-actor.sample(same.next_observations)[1].mean()))
