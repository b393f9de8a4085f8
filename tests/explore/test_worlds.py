from __future__ import annotations

import numpy as np
import pytest

from fewer import compose
from fewer.core.errors import FewerError
from fewer.explore.planning import one_hot
from fewer.explore.worlds import FiniteMDP, deepsea, gym_tabular, mdp, random_mdp, riverswim


def test_riverswim_is_the_river_of_the_literature():
    river = riverswim(6, horizon=20)
    assert river.optimum == pytest.approx(3.3973, abs=1e-4)  # 200 episodes are worth 679
    assert river.P[2, 1].tolist() == [0, 0.05, 0.6, 0.35, 0, 0]
    always_left = one_hot(np.zeros((1, 20, 6), dtype=int), 2)
    assert river.value(always_left)[0] == pytest.approx(0.005 * 20)


def test_the_treasure_of_the_deep_sea_lies_at_the_end_of_one_sequence():
    sea = deepsea(5)
    assert sea.optimum == pytest.approx(0.99)
    right = np.ones((1, 5, sea.states), dtype=int)
    assert sea.value(one_hot(right, 2))[0] == pytest.approx(0.99)
    rng = np.random.default_rng(0)
    for _ in range(50):
        actions = rng.integers(2, size=5)
        value = sea.value(one_hot(np.tile(actions[:, None], (1, 1, sea.states)), 2))[0]
        assert value == pytest.approx(0.99 if actions.all() else -0.002 * actions.sum())


@pytest.mark.parametrize("world", [riverswim(5, 8), deepsea(4), random_mdp(6, 3, 5)], ids=lambda world: world.name)
def test_copies_behave_as_the_arrays_say(world):
    rng = np.random.default_rng(0)
    play, runs = world.play(3000, rng), 3000
    policy = rng.dirichlet(np.ones(world.actions), size=(1, world.horizon, world.states))
    at, total = play.reset(), np.zeros(runs)
    assert (world.first[at] > 0).all()
    for step in range(world.horizon):
        chosen = (policy[0, step, at].cumsum(axis=1) <= rng.random((runs, 1))).sum(axis=1)
        at, rewards, ended = play.step(chosen)
        total += rewards
        assert ended.all() == (step == world.horizon - 1)
    deviation = total.std() / np.sqrt(runs)
    assert total.mean() == pytest.approx(world.value(policy)[0], abs=4 * deviation + 1e-9)


def test_the_fingerprint_tells_worlds_apart():
    worlds = [riverswim(5), riverswim(6), riverswim(5, 10), deepsea(5), random_mdp(), random_mdp(seed=1)]
    assert len({world.fingerprint() for world in worlds}) == len(worlds)
    assert riverswim(5).fingerprint() == compose.task("riverswim(n=5)").fingerprint()


GOOD = {"P": np.full((2, 1, 2), 0.5), "R": np.array([[0.0], [1.0]])}


def test_a_world_of_ones_own(tmp_path):
    np.savez(tmp_path / "world.npz", **GOOD, start=np.array([0.0, 1.0]))
    world = mdp(str(tmp_path / "world.npz"), horizon=3)
    assert world.optimum == pytest.approx(2.0)
    assert compose.task(f"mdp('{tmp_path / 'world.npz'}', horizon=3)").optimum == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"P": np.full((2, 1, 2), 0.4)}, r"P\[0, 0\] is no distribution \(its sum is 0\.8\)"),
        ({"P": np.array([[[0.5, 0.5]], [[1.5, -0.5]]])}, r"P\[1, 0\] is no distribution"),
        ({"P": np.array([[[0.5, 0.5]], [[np.nan, 1]]])}, r"P\[1, 0\] is no distribution"),
        ({"P": np.full((2, 2), 0.5)}, r"P must be \(states, actions, states\)"),
        ({"R": np.array([[0.0], [2.0]])}, r"R\[1, 0\] is 2, outside the declared range \[0, 1\]"),
        ({"R": np.array([[0.0], [np.nan]])}, r"R\[1, 0\] is nan, outside"),
        ({"P": np.array([[[1.0, 0.0]], [[0.5, 0.5]]])}, "state 1 cannot be reached from the start in 3 steps"),
        ({"start": np.array([0.5, 0.6])}, "start must be a distribution over 2 states"),
        ({"horizon": 0}, "the horizon must be at least 1; it is 0"),
        ({"noise": "normal"}, "unknown noise 'normal'"),
        ({"noise": "bernoulli", "rewards": (-1.0, 1.0)}, r"Bernoulli rewards lie in \[0, 1\]"),
    ],
)
def test_what_is_no_world_is_said_with_its_place(changes, message):
    with pytest.raises(FewerError, match=message):
        FiniteMDP(**{"name": "toy", "horizon": 3, **GOOD, **changes})


def test_files_and_sizes_that_do_not_do(tmp_path):
    with pytest.raises(FewerError, match="cannot be read as NPZ"):
        mdp(str(tmp_path / "none.npz"), 3)
    (tmp_path / "text.npz").write_text("P")
    with pytest.raises(FewerError, match="cannot be read as NPZ"):
        mdp(str(tmp_path / "text.npz"), 3)
    np.savez(tmp_path / "half.npz", P=GOOD["P"])
    with pytest.raises(FewerError, match=r"has no array 'R' \(it has P\)"):
        mdp(str(tmp_path / "half.npz"), 3)
    with pytest.raises(FewerError, match="n must be at least 3"):
        riverswim(2)
    with pytest.raises(FewerError, match="n must be at least 2"):
        deepsea(1)
    with pytest.raises(FewerError, match="sizes must be at least 1"):
        random_mdp(states=0)


class TestGymnasium:
    pytest.importorskip("gymnasium")

    def test_an_episode_ends_in_a_state_of_its_own(self):
        lake = gym_tabular("FrozenLake-v1", horizon=30, is_slippery=False)
        assert (lake.states, lake.actions, lake.optimum) == (17, 4, None)
        play = lake.play(2, np.random.default_rng(0))
        assert play.reset().tolist() == [0, 0]
        # down, down, right, right, down, right leads to the goal; left stays
        for action, at in zip([1, 1, 2, 2, 1, 2, 0], [4, 8, 9, 10, 14, 16, 16], strict=True):
            states, rewards, ended = play.step(np.array([action, 0]))
            assert states.tolist() == [at, 0]
            assert rewards.tolist() == [float(at == 16 and action == 2), 0]
        assert ended.tolist() == [True, False]

    def test_other_spaces_and_rewards_are_refused(self):
        with pytest.raises(FewerError, match="observations of CartPole-v1 are Box"):
            gym_tabular("CartPole-v1")
        with pytest.raises(FewerError, match="cannot make 'FrozenLak-v1'"):
            gym_tabular("FrozenLak-v1")
        cliff = gym_tabular("CliffWalking-v1", horizon=5)
        play = cliff.play(1, np.random.default_rng(0))
        play.reset()
        with pytest.raises(
            FewerError, match=r"a reward of -1 in step 1 is outside the declared range \[0, 1\]; give low="
        ):
            play.step(np.array([0]))
