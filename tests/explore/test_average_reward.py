"""The loop without end, its worlds, and one template for every agent that the catalogue knows."""

from __future__ import annotations

import numpy as np
import pytest

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.explore.average_reward import AverageReward
from fewer.explore.endless_worlds import (
    EndlessMDP,
    endless,
    endless_linear_river,
    endless_river,
    labelled_river,
    mixture_river,
    without_end,
)
from fewer.explore.planning import relative_value_iteration
from fewer.explore.worlds import random_mdp, riverswim

LOOP = "fewer.explore.average_reward:AverageReward"
NAMES = [name for name, part in catalogue.fillings().items() if LOOP in part.loops and part.slots == ("agent",)]
NAMES += [slug for slug, paper in catalogue.papers().items() if LOOP in paper.loops and slug not in NAMES]


def world_for(name):
    if name == "mixture-loop":
        return mixture_river(3)
    return endless_linear_river(3, 2) if name == "linear-loop" else labelled_river(3)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_agents_are_named():
    assert set(NAMES) >= {"loop", "ucrl2", "least-squares-greedy", "discounted-q", "mixture-loop", "linear-loop"}


def test_a_policy_is_an_action_for_every_state(name):
    world, loop = world_for(name), AverageReward(compose.loop(name).agent, copies=3, points=2)
    state = loop.start(world, 40, seed=0)
    for _ in range(2):
        policy = loop.result(state)
        assert policy.shape == (3, world.states)
        assert ((policy >= 0) & (policy < world.actions)).all()
        loop.advance(state)


def test_a_resumed_run_is_the_same_to_the_bit(name, tmp_path):
    world, loop = world_for(name), AverageReward(compose.loop(name).agent, copies=2, points=4)

    def told(points):
        return [(point.spent, point.score, {**point.extras, "seconds": 0}) for point in points]

    whole = told(loop.run(world, 80, 5))
    run = loop.run(world, 80, 5, checkpoint=tmp_path / "state")
    next(run), next(run)
    run.close()
    assert told(loop.run(world, 80, 5, checkpoint=tmp_path / "state")) == whole
    assert [spent for spent, _, _ in whole] == [20, 40, 60, 80]


def test_regret_is_the_gain_less_what_came(name):
    world = world_for(name)
    loop = AverageReward(compose.loop(name).agent, copies=2, points=3)
    state = loop.start(world, 30, 0)
    rewards = 0.0
    for _ in range(3):
        point = loop.advance(state)
        state.points += 1
        rewards += point.score * 10
        assert point.extras["regret"] == pytest.approx(point.spent * state.stream.gains.mean() - rewards)
        assert point.extras["mistakes"] >= -1e-9


def test_mistakes_are_regret_but_for_the_luck_of_the_draw():
    """In expectation they differ by the values of the first and the last state alone."""
    world = endless_river(4)
    loop = AverageReward(compose.loop("discounted-q(epsilon=1.0)").agent, copies=4000, points=1)
    state = loop.start(world, 60, 0)
    loop.advance(state)
    value = world.solved.values[0]
    expected = state.lost + value[world.start] - value[state.stream.at]
    assert state.stream.mistakes.mean() == pytest.approx(expected.mean(), rel=0.03)


def test_each_copy_lives_in_a_world_of_its_own():
    world = labelled_river(4)
    stream = world.stream(400, np.random.default_rng(0))
    assert len(set(stream.truth)) == 16  # all labellings, with the treasure
    assert (stream.truth >= 16).all()
    np.testing.assert_allclose(stream.gains, world.solved.gain[-1])


def test_next_states_follow_the_model():
    world = without_end(random_mdp(3, 2, 4))
    stream = world.stream(30_000, np.random.default_rng(0))
    rewards = stream.step(np.ones(30_000, dtype=int))
    assert np.bincount(stream.at, minlength=3) / 30_000 == pytest.approx(world.P[0, 0, 1], abs=0.012)
    assert rewards.mean() == pytest.approx(world.R[0, 0, 1], abs=0.012)
    assert set(rewards) <= {0.0, 1.0}


def test_the_labelled_river_is_the_river_once_labels_are_known():
    world = labelled_river(4)
    assert len(world.P) == 32
    gains = world.solved.gain.reshape(2, 16)
    assert np.ptp(gains, axis=1).max() < 1e-6
    assert gains[1, 0] > 3 * gains[0, 0]  # the treasure is what makes it worth while
    P = riverswim(4).P
    right = np.array([[world.P[16 + 15, s, 1] for s in range(4)]])[0]  # all labels say that action 1 swims
    np.testing.assert_allclose(right, P[:, 1])


def test_the_mixture_river_is_the_mixture_it_says():
    world = mixture_river(4)
    for model, labels in enumerate(np.ndindex(2, 2, 2, 2)):
        theta = np.zeros((4, 2))
        theta[np.arange(4), labels] = 1
        np.testing.assert_allclose(np.einsum("i,isaz->saz", theta.ravel(), world.basis), world.P[model])


def test_the_linear_river_without_end_is_linear():
    world = endless_linear_river(3, 2)
    phi = world.features.reshape(-1, 6)
    fit, *_ = np.linalg.lstsq(phi, world.P[0].reshape(len(phi), -1), rcond=None)
    np.testing.assert_allclose(phi @ fit, world.P[0].reshape(len(phi), -1), atol=1e-9)
    assert world.solved.gain[0] == pytest.approx(endless_river(3).solved.gain[0], abs=1e-6)


def test_the_gain_is_that_of_a_long_run():
    world = endless_river(4)
    gain, _, Q = relative_value_iteration(world.P, world.R)
    stream, total = world.stream(500, np.random.default_rng(0)), 0.0
    for step in range(1000):
        reward = stream.step(Q[0].argmax(axis=1)[stream.at]).mean()
        total += reward if step >= 200 else 0
    assert total / 800 == pytest.approx(gain[0], abs=0.01)
    np.testing.assert_allclose(stream.mistakes, 0, atol=1e-4)


def test_the_users_worlds_come_from_a_file(tmp_path):
    river, several = endless_river(3), labelled_river(3)
    np.savez(tmp_path / "one.npz", P=river.P[0], R=river.R[0], features=np.zeros((3, 2, 1)))
    np.savez(tmp_path / "class.npz", P=several.P, R=several.R)
    one, many = endless(str(tmp_path / "one.npz")), endless(str(tmp_path / "class.npz"))
    assert one.hypotheses is None
    assert one.features is not None
    assert one.solved.gain[0] == pytest.approx(river.solved.gain[0])
    assert len(many.hypotheses) == 16
    np.savez(tmp_path / "half.npz", P=river.P)
    with pytest.raises(FewerError, match="has no array 'R'"):
        endless(str(tmp_path / "half.npz"))
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(FewerError, match="cannot be read as NPZ"):
        endless(str(tmp_path / "text.npz"))


def test_a_gymnasium_environment_goes_on_after_its_end_and_is_resumed_by_doing_the_same(tmp_path):
    pytest.importorskip("gymnasium")
    world = compose.task("endless-gym('FrozenLake-v1')")
    assert (world.states, world.actions) == (16, 4)
    loop = AverageReward(compose.loop("ucrl2(scale=0.001)").agent, copies=2, points=4)
    whole = [point.score for point in loop.run(world, 200, 0)]
    run = loop.run(world, 200, 0, checkpoint=tmp_path / "state")
    assert "regret" not in next(run).extras
    next(run)
    run.close()
    assert [point.score for point in loop.run(world, 200, 0, checkpoint=tmp_path / "state")] == whole
    with pytest.raises(FewerError, match=r"a reward of 1 in step .* is outside the declared range \[0, 0.5\]"):
        list(loop.run(compose.task("endless-gym('FrozenLake-v1', high=0.5, is_slippery=False)"), 3000, 0))


def river_with(**changes):
    river = endless_river(3)
    return EndlessMDP(**{"name": "w", "P": river.P, "R": river.R, **changes})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: river_with(P=endless_river(3).P * 0.5), r"P\[0, 0\] of model 0 is no distribution"),
        (lambda: river_with(R=endless_river(3).R + 5), r"w: R\[0, 0\] of model 0 is 5.005, outside the declared range"),
        (lambda: river_with(start=3), "w: start must be one of 3 states; it is 3"),
        (lambda: river_with(noise="x"), "w: noise is none, or bernoulli"),
        (lambda: river_with(noise="bernoulli", rewards=(0.0, 2.0)), "bernoulli with rewards in"),
        (lambda: river_with(possible=np.array([1])), "w: possible must name models 0 to 0"),
        (lambda: river_with(basis=np.zeros((2, 2, 2, 2))), r"w: basis must be \(dimensions, 3, 2, 3\)"),
        (lambda: river_with(features=np.zeros((2, 2, 1))), "w: features must be"),
        (lambda: labelled_river(2), "labelled-river: n must be from 3 to 9"),
        (lambda: mixture_river(10), "mixture-river: n must be from 3 to 9"),
        (lambda: AverageReward(copies=0), "copies and points must be at least 1"),
        (lambda: AverageReward().run(compose.task("digits"), 5, 0), "runs on a Endless task; digits is"),
        (
            lambda: list(AverageReward(compose.loop("loop").agent).run(endless_river(3), 5, 0)),
            "loop: the world is not told",
        ),
        (lambda: list(AverageReward(compose.loop("mixture-loop").agent).run(endless_river(3), 5, 0)), "no basis"),
    ],
)
def test_what_cannot_be_is_one_clear_line(make, message):
    with pytest.raises(FewerError, match=message):
        make()
