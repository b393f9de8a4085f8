from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.claim import Evidence
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.diffusion_policy import DiffusionCloning
from fewer.demos.learned_search import LearnedSearch
from fewer.demos.loop import Imitation
from fewer.demos.rollouts import rollout
from fewer.demos.sailor import SMALL, SMALL_BASE, _separation, claim, diffusion_policy, residual_irl, sailor
from fewer.demos.search_agent import Sailor
from fewer.demos.slot_world import slot_insertion
from fewer.demos.world_model import WorldModelShape

BASE = replace(SMALL_BASE, hidden=(16,), steps=10)
QUICK = replace(SMALL, env_steps=90, round_steps=40, copies=3, train_ratio=0.05, batch=4, length=6)
TASK = slot_insertion(4)


@pytest.fixture(scope="module")
def learned():
    given = TASK.demonstrations(0)
    return Sailor(BASE, search=QUICK, seed=3).fit(given, TASK.play), given


def test_a_saved_sailor_acts_as_before(learned, tmp_path):
    made, given = learned
    made.save(tmp_path / "sailor.safetensors")
    again = Sailor.load(tmp_path / "sailor.safetensors")
    runs = []
    for each in (made, again):
        each.begin(3, np.random.default_rng(1))
        runs.append([each.act(given.observations[i : i + 3]) for i in range(4)])
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(made.judge(given), again.judge(given))
    assert again.search == made.search


def test_the_base_policy_can_act_alone(learned):
    made, given = learned
    outcome = rollout(TASK.play(3), made.base_, 0)
    assert outcome.lengths.max() <= 60
    assert made.report_["updates"] > 0
    made.begin()
    assert made.act(given.observations[0]).shape == (2,)


def test_a_policy_of_the_users_own_is_given_again_when_loading(tmp_path):
    class Mine:
        def plan(self, observations):
            return np.zeros((len(observations), 8, 2))

    given = TASK.demonstrations(0)
    made = Sailor(Mine(), search=QUICK).fit(given, TASK.play)
    made.save(tmp_path / "x")
    with pytest.raises(
        FewerError, match="was saved without its base policy, which is no diffusion policy; give it as base="
    ):
        Sailor.load(tmp_path / "x")
    again = Sailor.load(tmp_path / "x", base=Mine())
    again.begin()
    assert again.act(given.observations[0]).shape == (2,)


@pytest.mark.parametrize("what", ["act", "begin", "save", "judge", "plan"])
def test_learning_comes_first(what, tmp_path):
    made = Sailor()
    calls = {
        "act": lambda: made.act(np.zeros(2)),
        "begin": lambda: made.begin(),
        "save": lambda: made.save(tmp_path / "x"),
        "judge": lambda: made.judge(TASK.demonstrations(0)),
        "plan": lambda: made.base_,
    }
    with pytest.raises(FewerError, match=f"there is no policy to {what} with; call fit first"):
        calls[what]()


def test_another_file_is_refused(tmp_path):
    from fewer.core import checkpoint

    checkpoint.save(tmp_path / "x", {"kind": "other"})
    with pytest.raises(FewerError, match=r"holds no sailor; give a file that Sailor.save wrote"):
        Sailor.load(tmp_path / "x")


def test_demonstrations_of_something_else_are_refused():
    other = Demonstrations(np.zeros((20, 5)), np.zeros((20, 2)), [0, 20])
    with pytest.raises(FewerError, match=r"observations in demonstrations are \(5,\), those of the environment \(4,\)"):
        Sailor(BASE, search=QUICK).fit(other, TASK.play)


# --- a user's environment --------------------------------------------------------------------------------------------


@pytest.fixture
def reach():
    gymnasium = pytest.importorskip("gymnasium")

    class Reach(gymnasium.Env):
        """Push a point to 0; parts of what is seen are a picture and numbers."""

        observation_space = gymnasium.spaces.Dict(
            {
                "picture": gymnasium.spaces.Box(0, 255, (16, 16, 1), np.uint8),
                "place": gymnasium.spaces.Box(-9, 9, (1,), np.float32),
                "clock": gymnasium.spaces.Box(0, 99, (1,), np.float32),
            }
        )
        action_space = gymnasium.spaces.Box(-3, 5, (1,), np.float32)

        def _seen(self):
            picture = np.zeros((16, 16, 1), dtype=np.uint8)
            picture[8, int(np.clip(8 + 4 * self.at, 0, 15))] = 255
            return {
                "picture": picture,
                "place": np.array([self.at], dtype=np.float32),
                "clock": np.array([self.time], dtype=np.float32),
            }

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at, self.time = float(self.np_random.uniform(-1, 1)), 0
            return self._seen(), {}

        def step(self, action):
            self.at, self.time = self.at + 0.05 * float(action[0]), self.time + 1
            return self._seen(), float("nan"), abs(self.at) > 2, False, {}

    gymnasium.register("Reach-v0", entry_point=Reach, max_episode_steps=12)
    yield gymnasium, Reach
    del gymnasium.registry["Reach-v0"]


def shown(env, keys):
    """A few episodes of going to 0."""
    episodes = []
    for seed in range(3):
        seen, done = [env.reset(seed=seed)[0]], []
        for _ in range(12):
            done.append(np.clip(-4 * seen[-1]["place"], -3, 5))
            seen.append(env.step(done[-1])[0])
        parts = {key: np.stack([each[key] for each in seen]) for key in keys}
        episodes.append({"observations": parts, "actions": np.stack(done)})
    return Demonstrations.of_episodes(episodes)


@pytest.mark.parametrize("keys", [["place"], ["picture", "place"]])
def test_a_gymnasium_environment_with_bounds_of_its_own_and_some_of_its_parts(reach, keys):
    gymnasium, _ = reach
    env = gymnasium.make("Reach-v0")
    given = shown(env, keys)
    base = DiffusionCloning(chunk=8, network="mlp", hidden=(8,), steps=1, batch=4, train_steps=10, sample_steps=2)
    search = replace(
        QUICK, env_steps=60, copies=2, world=WorldModelShape(deter=8, stoch=2, classes=4, hidden=8, depth=2)
    )
    made = Sailor(base, search=search).fit(given, env)
    made.begin()
    seen = env.reset(seed=0)[0]
    for _ in range(3):
        action = made.act(seen)
        assert env.action_space.contains(action.astype(np.float32))
        seen = env.step(action)[0]
    assert len(made.policy_.models.world.seen.images) == len(keys) - 1


def test_an_environment_that_cannot_be_made_again_is_refused(reach):
    _, made = reach
    with pytest.raises(FewerError, match=r"copies of a Reach cannot be made; register it with gymnasium.register"):
        Sailor(BASE, search=QUICK).fit(TASK.demonstrations(0), made())


# --- as fillings -----------------------------------------------------------------------------------------------------


def test_the_fillings_go_into_both_slots():
    made = compose.loop(
        "sailor(env_steps=700, bound=0.1, distil=False, uncertainty=0.5, value=False, warm_up=0.0, imitate=7)"
    )
    assert isinstance(made, Imitation)
    search = made.planner
    assert (made.imitator.steps, search.env_steps, search.distil_every, search.warm_up) == (7, 700, 0, 0.0)
    assert (search.imagination.search.bound, search.imagination.uncertainty, search.imagination.value) == (
        0.1,
        0.5,
        False,
    )
    full = sailor(size="paper", env_steps=100_000)
    assert full == {"imitator": DiffusionCloning(), "planner": LearnedSearch()}
    assert diffusion_policy(imitate=3).steps == 3
    assert residual_irl(env_steps=9)["planner"].env_steps == 9
    with pytest.raises(FewerError, match="unknown size 'huge'; choose small or paper"):
        sailor(size="huge")
    with pytest.raises(FewerError, match="both fill the slot imitator"):
        compose.loop("bc-chunk + sailor")


@pytest.mark.parametrize(
    "method",
    ["diffusion-policy(imitate=5)", "sailor(imitate=5, env_steps=70)", "residual-irl(imitate=5, env_steps=70)"],
)
def test_it_runs_in_the_loop_and_its_steps_are_counted(method):
    made = compose.loop(f"{method} + imitation(first=3, points=1, episodes=4)")
    (point,) = made.run(slot_insertion(3), budget=3, seed=0)
    assert point.spent == 3
    assert 0 <= point.score <= 1
    assert ("environment_steps" in point.extras) == ("env_steps" in method)
    if "env_steps" in method:
        assert 60 < point.extras["environment_steps"] <= 70


def test_a_policy_without_plans_is_refused():
    loop = Imitation(planner=QUICK, first=3, points=1, episodes=2)
    with pytest.raises(
        FewerError, match=r"a ClonedPolicy was given, which has no plan\(observations\); give diffusion-policy"
    ):
        list(loop.run(slot_insertion(3), budget=3, seed=0))


def test_the_default_is_of_the_papers_size():
    made = Sailor()
    assert (made.base.hidden, made.base.steps, made.base.sample_steps) == ((64, 128, 256), 24_000, 16)
    search = made.search.imagination.search
    assert (search.samples, search.iterations, search.elites, search.bound) == (256, 6, 32, 0.2)
    assert (made.search.world.features, made.search.members, made.search.reward_every) == (1536, 5, 100)
    torch.testing.assert_close(made.search.slope, 0.4)


# --- the claim -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gains", "verdict"), [((0.0, 0.2), "holds"), ((0.0, 0.18), "does not hold")])
def test_a_tenth_is_asked_of_the_mean(gains, verdict):
    evidence = Evidence(measures=[{"clone": {"success": 0.5}, "sailor": {"success": 0.5 + each}} for each in gains])
    found = claim.holds[1].judge(evidence)
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(np.mean(gains))
    assert found.low < found.estimate < found.high


def test_separation_is_the_chance_that_the_end_of_a_success_is_paid_more():
    lengths, successes = np.array([20, 5, 12, 30]), np.array([True, False, True, False])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    episodes = Demonstrations(np.zeros((67, 1)), np.zeros((67, 1)), offsets, successes=successes)
    rewards = np.full(67, 9.0)  # what comes before the last ten steps does not count
    for end, length, paid in zip(offsets[1:], lengths, (3.0, 1.0, 1.0, 2.0), strict=True):
        rewards[end - min(10, length) : end] = paid
    # of four pairs 3 > 1, 3 > 2, 1 = 1 and 1 < 2
    assert _separation(rewards, episodes) == pytest.approx(2.5 / 4)
    assert _separation(rewards, episodes.keep([0, 2])) == 0.5
