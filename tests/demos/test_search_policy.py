from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.diffusion_policy import DiffusionCloning
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.residual_search import ResidualSearch
from fewer.demos.search_policy import Imagination, SearchModels, SearchPolicy, labelled
from fewer.demos.slot_world import slot_insertion
from fewer.demos.world_model import Latent, WorldModelShape

SHAPE = WorldModelShape(deter=8, stoch=2, classes=4, hidden=16)
QUICK = Imagination(search=ResidualSearch(samples=8, iterations=2, elites=3))


class Base:
    """Plans to do what is seen, once, twice, and so on."""

    def __init__(self, chunk=8, action=(2,)):
        self.chunk, self.action, self.begun = chunk, action, 0

    def begin(self, copies, rng):
        self.begun += 1

    def plan(self, observations):
        seen = np.asarray(observations)[:, : int(np.prod(self.action))].reshape(-1, 1, *self.action)
        return np.clip(seen * np.arange(1, self.chunk + 1).reshape(1, -1, *[1] * len(self.action)), -1, 1)


def policy(base=None, imagination=QUICK, low=-1.0, high=1.0, **options):
    torch.manual_seed(0)
    seen = ObservationTensors((("", (4,)),))
    models = SearchModels(SHAPE, seen, 2, (8, 8), 3)
    torch.nn.init.normal_(models.reward.layers[-1].weight)
    bounds = torch.full((2,), low), torch.full((2,), high)
    return SearchPolicy(base or Base(), models, imagination, (2,), *bounds, **options)


class Line:
    """The state is a place that pushes add to; it is good to be at 1, and nothing ends."""

    def __init__(self, doubt=0.0, ends=1.0):
        self.world, self.doubt, self.ends = self, doubt, ends

    def imagine_chunks(self, state, chunks, stream=None, alike=1):
        places = [state.stoch]
        for actions in chunks.unbind(1):
            places.append(places[-1] + actions)
        return torch.stack(places)

    def goes_on(self, states):
        return torch.full(states.shape[:-1], self.ends)

    def reward(self, states):
        return -(states[..., 0] - 1).square()

    def values(self, states):
        away = torch.stack([torch.zeros(states.shape[:-1]), 2 * states[..., 0]]) * self.doubt
        return -(states[..., 0] - 1).square() * 3 + away


def scored(imagination, models, chunks, begin=0.0):
    state = Latent(torch.full((len(chunks), 1), begin), torch.zeros(len(chunks), 0))
    return imagination.score(models, state, chunks)


def naive(imagination, models, chunk, begin=0.0):
    place, total, discount = begin, 0.0, 1.0
    for t in range(imagination.horizon):
        values = [-3 * (place - 1) ** 2, -3 * (place - 1) ** 2 + 2 * place * models.doubt]
        doubt = imagination.uncertainty * float(np.std(values, ddof=1))
        last = t == imagination.horizon - 1
        worth = np.mean(values) if last and imagination.value else -((place - 1) ** 2)
        total += discount * (worth - doubt)
        discount *= imagination.gamma * models.ends
        place += float(chunk[t, 0]) if not last else 0.0
    return total


@pytest.mark.parametrize(
    "imagination", [Imagination(), Imagination(5, 0.9, 0.5), Imagination(4, 0.8, 0.0, value=False)]
)
@pytest.mark.parametrize("models", [Line(), Line(doubt=0.7), Line(ends=0.6)])
def test_plans_are_scored_as_a_slow_loop_does(imagination, models):
    torch.manual_seed(0)
    chunks = torch.rand(2, 3, 8, 1) - 0.5
    found = scored(imagination, models, chunks, begin=0.2)
    expected = [[naive(imagination, models, chunks[i, j], 0.2) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=1e-4)


def test_members_that_agree_cost_nothing():
    chunks = torch.rand(1, 4, 8, 1)
    torch.testing.assert_close(
        scored(Imagination(uncertainty=9.0), Line(), chunks), scored(Imagination(uncertainty=0.0), Line(), chunks)
    )


def test_the_search_goes_where_a_known_world_pays():
    imagination = Imagination(search=ResidualSearch(samples=256, iterations=6, elites=32, std=0.1, max_std=0.2))
    plans, state = torch.zeros(1, 8, 1), Latent(torch.zeros(1, 1), torch.zeros(1, 0))
    found = imagination.search.best(
        plans, lambda c: imagination.score(Line(), state, c), torch.Generator().manual_seed(0)
    )
    # as far as the bound allows until it is there
    assert found[0, :4, 0].min() > 0.15
    assert found[0, :7, 0].sum() == pytest.approx(1.0, abs=0.25)


def test_without_room_it_is_the_base_policy():
    base = Base()
    still = policy(base, Imagination(search=ResidualSearch(bound=0)), average=False)
    seen = np.random.default_rng(0).uniform(-0.9, 0.9, (5, 4)).astype(np.float32)
    still.begin(5, np.random.default_rng(0))
    for _ in range(3):
        np.testing.assert_allclose(still.act(seen), base.plan(seen)[:, 0], atol=1e-6)


def test_changes_stay_within_their_bound_and_actions_within_theirs():
    searching = policy(low=10.0, high=30.0, average=False)
    seen = np.random.default_rng(0).uniform(-1, 1, (6, 4)).astype(np.float32)
    searching.base.plan = lambda observations: np.full((len(observations), 8, 2), 29.0)
    searching.begin(6, np.random.default_rng(0))
    for _ in range(3):
        done = searching.act(seen)
        assert (np.abs(done - 29) <= 2 + 1e-4).all()
        assert (done <= 30).all()
        torch.testing.assert_close(searching.previous, searching.scaled(done), atol=1e-5, rtol=0)


def test_an_episode_begins_anew():
    searching = policy()
    seen = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
    runs = []
    for _ in range(2):
        searching.begin(3, np.random.default_rng(4))
        runs.append([searching.act(seen) for _ in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert searching.base.begun == 3  # the first one when it was made
    searching.begin(1, np.random.default_rng(0))
    assert searching.act(seen[0]).shape == (2,)
    with pytest.raises(FewerError, match="not as many observations as at the step before; call begin"):
        searching.act(seen)


def test_labels_are_what_the_base_policy_would_do():
    searching = policy(average=False)
    rng = np.random.default_rng(0)
    given = Demonstrations(
        rng.uniform(-0.1, 0.1, (9, 4)).astype(np.float32),
        rng.uniform(-1, 1, (9, 2)),
        [0, 4, 9],
        final_observations=rng.uniform(-0.1, 0.1, (2, 4)).astype(np.float32),
        terminations=np.arange(9) == 8,
    )
    found = labelled(searching, given, rng)
    assert [(len(each), each.terminated) for each in found] == [(4, False), (5, True)]
    for i, each in enumerate(found):
        seen = np.concatenate([given.episode(i).observations, given.final_observations[i : i + 1]])
        np.testing.assert_allclose(each.plans, Base().plan(seen), atol=1e-6)
        np.testing.assert_allclose(each.actions, given.episode(i).actions, atol=1e-6)
    # where nobody knows what was seen last, the last action leads nowhere
    short = labelled(searching, Demonstrations(given.observations, given.actions, given.offsets), rng)
    assert [(len(each), each.terminated) for each in short] == [(3, False), (4, False)]


def test_a_judgement_for_each_step_of_each_episode():
    task = slot_insertion(3)
    given = task.demonstrations(0)
    base = DiffusionCloning(network="mlp", hidden=(8,), steps=1, frames=1).fit(given)
    judged = policy(base).judge(given)
    assert judged.shape == (given.steps,)
    assert np.isfinite(judged).all()
    torch.manual_seed(0)
    assert np.ptp(judged) > 0


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (SimpleNamespace(act=None), "a SimpleNamespace was given, which has no plan"),
        (Base(chunk=6), r"must plan 7 actions of shape \(2,\) or more for each observation; it gave \(3, 6, 2\)"),
        (Base(action=(1,)), r"it gave \(3, 8, 1\)"),
        (SimpleNamespace(plan=lambda seen: np.full((len(seen), 8, 2), np.nan)), "plans what is no number"),
    ],
)
def test_a_base_policy_that_cannot_plan_is_refused(base, message):
    with pytest.raises(FewerError, match=message):
        policy(base).choose(np.zeros((3, 4), dtype=np.float32))


@pytest.mark.parametrize("settings", [{"horizon": 1}, {"gamma": 0.0}, {"uncertainty": -1.0}])
def test_settings_are_checked(settings):
    with pytest.raises(FewerError, match="a horizon has at least 2 states, gamma lies in"):
        Imagination(**settings)
