"""The user's environment: spaces, ends, successes and noise as Gymnasium gives them, and demonstrations that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.demos.behaviour_cloning import BehaviourCloning
from fewer.demos.demonstrations import Demonstrations, flat
from fewer.demos.files import write_npz
from fewer.demos.gym_worlds import GymPlay, gym
from fewer.demos.loop import Imitation
from fewer.demos.rollouts import collect, rollout

gymnasium = pytest.importorskip("gymnasium")


class Line(gymnasium.Env):
    """Walk to 1 along a line; the info says whether one is there."""

    action_space = gymnasium.spaces.Box(-2, 2, (1,), np.float32)

    def __init__(self, parts=False, tell=True, space=None):
        place = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
        self.parts, self.tell = parts, tell
        self.observation_space = gymnasium.spaces.Dict({"place": place, "goal": place}) if parts else place
        self.action_space = space or self.action_space

    def _seen(self):
        place = np.array([self.at], dtype=np.float32)
        return {"place": place, "goal": np.ones(1, np.float32)} if self.parts else place

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = float(self.np_random.uniform(-0.1, 0.1))
        return self._seen(), {}

    def step(self, action):
        self.at += 0.1 * float(action[0])
        done = self.at >= 1
        return self._seen(), -1.0, done, False, {"is_success": done} if self.tell else {}


@pytest.fixture(autouse=True)
def line():
    gymnasium.register("Line-v0", entry_point=Line, max_episode_steps=30)
    gymnasium.register("EndlessLine-v0", entry_point=Line)
    yield
    del gymnasium.registry["Line-v0"], gymnasium.registry["EndlessLine-v0"]


QUICK = BehaviourCloning(steps=200)


class Walk:
    def begin(self, copies, rng):
        pass

    def act(self, observations):
        place = observations["place"] if isinstance(observations, dict) else observations
        return np.where(place < 2, 1.0, 0.0)


@pytest.fixture
def demos(tmp_path):
    write_npz(tmp_path / "line.npz", collect(GymPlay("Line-v0", 5), Walk(), 5).demonstrations)
    return str(tmp_path / "line.npz")


def test_copies_end_on_their_own():
    outcome = rollout(GymPlay("Line-v0", 8), Walk(), 0, record=True)
    assert outcome.successes.all()
    assert len(set(outcome.lengths.tolist())) > 1
    assert outcome.returns.tolist() == (-outcome.lengths).tolist()
    assert (outcome.demonstrations.final_observations >= 1).all()
    assert rollout(GymPlay("Line-v0", 8), Walk(), 0).lengths.tolist() == outcome.lengths.tolist()


def test_an_episode_is_cut_off_at_the_horizon():
    outcome = rollout(GymPlay("Line-v0", 2, horizon=4), Walk(), 0, record=True)
    assert outcome.lengths.tolist() == [4, 4]
    assert not outcome.successes.any()
    assert not outcome.demonstrations.terminations.any()
    assert GymPlay("Line-v0", 1, horizon=99).horizon == 30
    with pytest.raises(FewerError, match="does not say when an episode is cut off; give horizon="):
        GymPlay("EndlessLine-v0", 1)


def test_system_noise_moves_the_world_and_not_the_record():
    play = GymPlay("Line-v0", 100, system_noise=0.1)
    found = rollout(play, Walk(), 0, record=True).demonstrations
    assert (found.actions == 1).all()
    moved = found.next_observations(np.arange(found.steps))[0] - found.observations
    assert moved.mean() == pytest.approx(0.1, rel=0.05)
    assert moved.std() == pytest.approx(0.1 * 0.1 * 2, rel=0.1)  # the range of actions is 4


def test_cloning_in_the_users_environment(demos):
    task = compose.task(f"gym('Line-v0', demos='{demos}', metric='success rate')")
    learned = Imitation(imitator=QUICK, first=2, points=2, episodes=5).learn(task, budget=5)
    assert [point.spent for point in learned.curve] == [2, 5]
    assert learned.curve.final == 1
    returns = gym("Line-v0", demos=demos)
    assert (returns.metric, returns.pool) == ("mean return", 5)
    assert Imitation(imitator=QUICK, first=5, points=1, episodes=5).learn(returns, budget=5).curve.final < 0
    assert returns.fingerprint() != gym("Line-v0", demos=demos, horizon=10).fingerprint()
    assert returns.demonstrations(0).fingerprint() != returns.demonstrations(1).fingerprint()


def test_parts_of_observations_are_taken_by_name(demos, tmp_path):
    whole = collect(GymPlay("Line-v0", 5, parts=True), Walk(), 5).demonstrations
    write_npz(tmp_path / "parts.npz", whole)
    task = gym("Line-v0", demos=str(tmp_path / "parts.npz"), observations=["place"], parts=True)
    assert task.play(2).reset(0).shape == (2, 1)
    both = gym("Line-v0", demos=str(tmp_path / "parts.npz"), parts=True)
    assert Imitation(imitator=QUICK, first=5, points=1, episodes=3).learn(both, budget=5).curve.final < 0
    with pytest.raises(FewerError, match=r"Line-v0 lacks '(goal|place)'; name the parts"):
        gym("Line-v0", demos=str(tmp_path / "parts.npz"))


def test_pendulum_works_as_it_comes(tmp_path):
    rng = np.random.default_rng(0)
    given = Demonstrations(rng.normal(size=(20, 3)), rng.normal(size=(20, 1)), [0, 10, 20])
    write_npz(tmp_path / "p.npz", given)
    task = gym("Pendulum-v1", demos=str(tmp_path / "p.npz"), horizon=5)
    assert Imitation(imitator=QUICK, first=2, points=1, episodes=2).learn(task, budget=2).curve.final < 0


def test_what_cannot_be_is_one_clear_line(demos, tmp_path):
    write_npz(tmp_path / "wide.npz", Demonstrations(np.zeros((2, 1)), np.zeros((2, 3)), [0, 2]))
    write_npz(tmp_path / "seen.npz", Demonstrations(np.zeros((2, 4)), np.zeros((2, 1)), [0, 2]))
    write_npz(tmp_path / "numbers.npz", Demonstrations(np.zeros((2, 1)), np.zeros(2, int), [0, 2]))
    discrete = gymnasium.spaces.Discrete(2)
    for call, message in (
        (lambda: gym("None-v0", demos=demos), "cannot make 'None-v0'"),
        (lambda: gym("Line-v0", demos=demos, colour=1), "cannot make 'Line-v0'"),
        (lambda: gym("CartPole-v1", demos=demos), "needs Box actions"),
        (lambda: gym("Line-v0", demos=demos, space=discrete), "needs Box actions"),
        (
            lambda: gym("Line-v0", demos=str(tmp_path / "wide.npz")),
            r"of shape \(3,\), those of Line-v0 of shape \(1,\)",
        ),
        (lambda: gym("Line-v0", demos=str(tmp_path / "numbers.npz")), "are numbered, those of Line-v0"),
        (lambda: gym("Line-v0", demos=str(tmp_path / "seen.npz")), r"have shape \(4,\), those of Line-v0 \(1,\)"),
        (lambda: gym("Line-v0", demos="none.npz"), "there is no such file"),
        (lambda: gym("Line-v0", demos=demos, metric="accuracy"), "unknown metric 'accuracy'"),
        (lambda: gym("Line-v0", demos=demos, system_noise=-1), "it is -1"),
    ):
        with pytest.raises(FewerError, match=message):
            call()
    silent = gym("Line-v0", demos=demos, metric="success rate", tell=False)
    with pytest.raises(FewerError, match=r"neither info\['success'\] nor info\['is_success'\]"):
        Imitation(imitator=QUICK, first=5, points=1, episodes=2).learn(silent, budget=5)


def test_with_demonstrations_it_can_be_practised_in_as_well(tmp_path):
    write_npz(tmp_path / "parts.npz", collect(GymPlay("Line-v0", 4, parts=True), Walk(), 4).demonstrations)
    task = gym("Line-v0", demos=str(tmp_path / "parts.npz"), metric="success rate", horizon=12, parts=True)
    assert (task.observation_size, task.action_size, task.low.tolist()) == (2, 1, [-2.0])
    score, measures = task.evaluate(lambda seen: np.ones((len(seen), 1)), 3, seed=0)
    assert (score, measures["length"] < 12) == (1, True)
    # demonstrations and practice put the parts in one order
    assert np.allclose(flat(task.given.observations)[:, 0], 1)
    assert task.make(1).reset({0: 0})[0, 0] == 1
    noisy = gym("Line-v0", demos=str(tmp_path / "parts.npz"), system_noise=0.1, parts=True)
    with pytest.raises(FewerError, match="leave it out to practise"):
        noisy.make(1)


def test_without_demonstrations_there_is_nothing_to_imitate():
    with pytest.raises(FewerError, match="Imitation runs on a ImitationTask task"):
        Imitation().learn(gym("Line-v0"), budget=5)
    with pytest.raises(FewerError, match="needs demos="):
        gym("Line-v0", subset="train")
