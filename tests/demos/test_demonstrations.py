"""The container: its checks, its windows and returns against plain loops, its views and selections."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations, check_alike, flat, select_parts

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=5)


def made(lengths, seed=0, parts=False, final=True):
    rng = np.random.default_rng(seed)
    steps, episodes = sum(lengths), len(lengths)

    def seen(count):
        position = rng.normal(size=(count, 3)).astype(np.float32)
        return (
            {"position": position, "image": rng.integers(255, size=(count, 2, 2), dtype=np.uint8)}
            if parts
            else position
        )

    return Demonstrations(
        seen(steps),
        rng.normal(size=(steps, 2)).astype(np.float32),
        np.cumsum([0, *lengths]),
        seen(episodes) if final else None,
        rng.normal(size=steps),
        successes=rng.random(episodes) < 0.5,
    )


# --- windows and returns ---------------------------------------------------------------------------------------------


@given(lengths, st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_chunks_never_leave_their_episode(lengths, h):
    demonstrations = made(lengths)
    chunks = demonstrations.chunks(h)
    episode = demonstrations.episode_of_step()
    for step in range(demonstrations.steps):
        end = demonstrations.offsets[episode[step] + 1]
        expected = [min(step + k, end - 1) for k in range(h)]
        assert chunks.index[step].tolist() == expected
        assert chunks.mask[step].tolist() == [step + k < end for k in range(h)]
    assert (episode[chunks.index] == episode[:, None]).all()


@given(lengths, st.floats(0, 1))
@settings(deadline=None, max_examples=30)
def test_returns_are_the_sums_written_out(lengths, gamma):
    demonstrations = made(lengths)
    found = demonstrations.returns(gamma)
    for episode in demonstrations.episodes():
        begin = demonstrations.offsets[episode.index]
        for t in range(len(episode)):
            expected = sum(gamma**k * r for k, r in enumerate(episode.rewards[t:]))
            assert found[begin + t] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_what_cannot_be_asked_for_is_one_clear_line():
    demonstrations = Demonstrations(np.zeros((3, 1)), np.zeros((3, 1)), [0, 3])
    for call, message in (
        (lambda: demonstrations.returns(), "there are no rewards to sum"),
        (lambda: made([3]).returns(1.5), r"gamma is 1.5; a discount lies in \[0, 1\]"),
        (lambda: demonstrations.chunks(0), "a chunk of 0 steps was asked for"),
        (lambda: demonstrations.episode(1), "there is no episode 1; there are 1"),
        (lambda: demonstrations.keep([]), "no episode would be kept of 1"),
        (lambda: demonstrations.keep([-1]), "there is no episode -1"),
        (lambda: demonstrations.keep(np.array([True, False])), "a mask of 2 was given for 1 episodes"),
    ):
        with pytest.raises(FewerError, match=message):
            call()


# --- selections and views --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [False, True])
def test_keep_gives_the_same_episodes_in_the_order_asked_for(parts):
    demonstrations = made([2, 4, 1], parts=parts)
    kept = demonstrations.keep([2, 0, 2])
    assert kept.lengths.tolist() == [1, 2, 1]
    for new, old in zip(kept.episodes(), (2, 0, 2), strict=True):
        before = demonstrations.episode(old)
        np.testing.assert_array_equal(new.actions, before.actions)
        np.testing.assert_array_equal(
            flat(new.observations) if parts else new.observations,
            flat(before.observations) if parts else before.observations,
        )
        np.testing.assert_array_equal(new.rewards, before.rewards)
        assert (new.success, new.terminated) == (before.success, before.terminated)
        last_new, last_old = new.final_observation, before.final_observation
        np.testing.assert_array_equal(
            *([each["position"] for each in (last_new, last_old)] if parts else (last_new, last_old))
        )
    assert demonstrations.keep(np.array([True, False, True])).lengths.tolist() == [2, 1]
    assert kept.fingerprint() != demonstrations.fingerprint()
    assert demonstrations.keep([0, 1, 2]).fingerprint() == demonstrations.fingerprint()


def test_episodes_are_views():
    demonstrations = made([2, 3])
    assert np.shares_memory(demonstrations.episode(1).actions, demonstrations.actions)


@pytest.mark.parametrize("final", [False, True])
def test_next_observations_are_the_following_ones_or_the_final_one(final):
    demonstrations = made([2, 3], final=final)
    found, known = demonstrations.next_observations(np.array([0, 1, 3, 4]))
    np.testing.assert_array_equal(found[[0, 2]], demonstrations.observations[[1, 4]])
    assert known.tolist() == [True, final, True, final]
    if final:
        np.testing.assert_array_equal(found[[1, 3]], demonstrations.final_observations)


def test_single_episodes_make_the_same_set():
    demonstrations = made([2, 3], parts=True)
    episodes = [
        {
            "observations": {
                key: np.concatenate([each.observations[key], each.final_observation[key][None]])
                for key in each.observations
            },
            "actions": each.actions,
            "rewards": each.rewards,
            "success": each.success,
            "terminated": each.terminated,
        }
        for each in demonstrations.episodes()
    ]
    assert Demonstrations.of_episodes(episodes).fingerprint() == demonstrations.fingerprint()


def test_an_episode_that_did_not_terminate_was_cut_off():
    steps = np.zeros((4, 1))
    by_default = Demonstrations(steps, steps, [0, 2, 4])
    assert by_default.truncations.tolist() == [False, True, False, True]
    ended = Demonstrations(steps, steps, [0, 2, 4], terminations=[0, 1, 0, 0])
    assert (ended.terminations.tolist(), ended.truncations.tolist()) == (
        [False, True, False, False],
        [False] * 3 + [True],
    )
    cut = Demonstrations(steps, steps, [0, 2, 4], truncations=[0, 1, 0, 0])
    assert cut.terminations.tolist() == [False, False, False, True]


def test_whole_numbers_of_one_dimension_are_numbers_of_alternatives():
    assert Demonstrations(np.zeros((2, 1)), np.array([0, 1]), [0, 2]).discrete
    assert not Demonstrations(np.zeros((2, 1)), np.array([[0], [1]]), [0, 2]).discrete


# --- checks ----------------------------------------------------------------------------------------------------------

GOOD = {"observations": np.zeros((5, 3)), "actions": np.zeros((5, 2)), "offsets": [0, 2, 5]}


def bad(where, row, value=np.nan, shape=(5, 3)):
    array = np.zeros(shape)
    array[row] = value
    return {where: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (bad("observations", (3, 1)), "observations hold nan in step 1 of episode 1; mend it"),
        (bad("actions", (0, 1), np.inf, (5, 2)), "actions hold inf in step 0 of episode 0"),
        (bad("rewards", 4, np.nan, (5,)), "rewards hold nan in step 2 of episode 1"),
        (bad("final_observations", (1, 0), np.nan, (2, 3)), "final_observations hold nan in episode 1"),
        (
            {"observations": {"a": np.zeros((5, 1)), "b": np.full((5, 1), np.nan)}},
            r"observations\['b'\] hold nan in step 0",
        ),
        ({"observations": {}}, "observations have no part"),
        ({"observations": np.zeros((4, 3))}, "observations are 4 and there are 5 steps"),
        ({"final_observations": np.zeros((3, 3))}, "final_observations are 3 and there are 2 episodes"),
        ({"final_observations": np.zeros((2, 4))}, r"must be like an observation, \(3,\); they are \(4,\)"),
        ({"actions": np.zeros((0, 2))}, "there is no step in them"),
        ({"actions": np.array(["a"] * 5)}, "actions must be numbers"),
        ({"actions": [[1], [1, 2], [1], [1], [1]]}, "actions are of mixed shapes"),
        ({"offsets": [0, 2]}, "rise from 0 to the number of steps, 5, .*; they run from 0 to 2"),
        ({"offsets": [0, 2, 2, 5]}, "and episode 1 is empty"),
        ({"offsets": [0.0, 5.0]}, "offsets must be whole numbers"),
        ({"rewards": np.zeros((5, 2))}, r"rewards must be one number each of 5; their shape is \(5, 2\)"),
        ({"successes": [1, 0, 1]}, "successes must be one number each of 2"),
        ({"successes": [0.5, 1]}, "successes must be true or false"),
        ({"terminations": [1, 0, 0, 0, 1]}, "terminations are true in step 0 of episode 0, which goes on"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(FewerError, match=message):
        Demonstrations(**{**GOOD, **change})


def test_the_place_of_a_nan_is_found_far_into_long_data():
    observations = np.zeros((70_000, 1), dtype=np.float32)
    observations[69_990] = np.nan
    with pytest.raises(FewerError, match="step 9990 of episode 1"):
        Demonstrations(observations, np.zeros((70_000, 1)), [0, 60_000, 70_000])


ONE = {"observations": np.zeros((2, 3)), "actions": np.zeros((2, 2))}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"actions": np.zeros((2, 3))}, r"actions of episode 1 have shape \(3,\), those of episode 0 \(2,\)"),
        ({"observations": np.zeros((2, 4))}, r"observations of episode 1 have shape \(4,\)"),
        ({"observations": np.zeros((5, 3))}, "episode 1 has 5 observations and 2 actions"),
        ({"observations": {"a": np.zeros((2, 3))}}, "episode 1 observes a, episode 0"),
        ({"rewards": np.zeros(2)}, "episode 0 has no rewards, others do"),
    ],
)
def test_episodes_of_mixed_shapes_are_named(second, message):
    with pytest.raises(FewerError, match=message):
        Demonstrations.of_episodes([ONE, {**ONE, **second}])


def test_no_episode_is_no_demonstration():
    with pytest.raises(FewerError, match="there is no episode in them"):
        Demonstrations.of_episodes([])


def test_two_sets_of_different_kinds_are_told_apart():
    one = Demonstrations(np.zeros((2, 3)), np.zeros((2, 2)), [0, 2], name="one")
    for other, message in (
        (
            Demonstrations(np.zeros((2, 4)), np.zeros((2, 2)), [0, 2], name="two"),
            r"one and two have observations of .*\(4,\)",
        ),
        (Demonstrations(np.zeros((2, 3)), np.zeros((2, 1)), [0, 2], name="two"), "have actions of different shapes"),
    ):
        with pytest.raises(FewerError, match=message):
            check_alike(one, other)
    with pytest.raises(FewerError, match="only b has numbered actions"):
        check_alike(
            Demonstrations(np.zeros((2, 3)), np.zeros(2), [0, 2], name="a"),
            Demonstrations(np.zeros((2, 3)), np.zeros(2, int), [0, 2], name="b"),
        )


def test_parts_of_observations_are_taken_by_name():
    both = {"a": np.zeros((2, 1)), "b": np.ones((2, 1))}
    assert select_parts(both, ["b"], "x") is both["b"]
    assert list(select_parts(both, ["b", "a"], "x")) == ["b", "a"]
    with pytest.raises(FewerError, match="x: observations have no part 'c'"):
        select_parts(both, ["c"], "x")
    with pytest.raises(FewerError, match="x: observations are a single array and have no part 'c'; leave the part out"):
        select_parts(both["a"], ["c"], "x")
