from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core.errors import FewerError
from fewer.demos.chunk_returns import chunk_returns
from fewer.demos.demonstrations import Demonstrations


def slowly(demonstrations, h, gamma, reward):
    """The same one step and one number of actions at a time."""
    rewards, ahead, discount, valid, to_go, success = [], [], [], [], [], []
    for number in range(len(demonstrations)):
        episode = demonstrations.episode(number)
        begin, length = int(demonstrations.offsets[number]), len(episode)
        succeeded = bool(episode.success)
        if reward == "recorded":
            paid, ended = [float(each) for each in episode.rewards], episode.terminated
        else:
            paid, ended = [-1.0 if reward == "steps" else 0.0] * length, episode.terminated or succeeded
            if succeeded:
                paid[-1] = 0.0 if reward == "steps" else 1.0
            elif episode.terminated and reward == "steps":
                paid[-1] = -1 / (1 - gamma)
        known = demonstrations.final_observations is not None
        for t in range(length):
            rewards.append([sum(gamma**k * paid[t + k] for k in range(min(i, length - t))) for i in range(1, h + 1)])
            discount.append([0.0 if ended and t + i >= length else gamma**i for i in range(1, h + 1)])
            valid.append([t + i < length or ended or (t + i == length and known) for i in range(1, h + 1)])
            ahead.append(
                [
                    begin + t + i if t + i < length else demonstrations.steps + number if known else begin + length - 1
                    for i in range(1, h + 1)
                ]
            )
            earned = sum(gamma**k * paid[t + k] for k in range(length - t))
            if not ended:
                earned += {"steps": -(gamma ** (length - t)) / (1 - gamma), "success": 0.0, "recorded": -np.inf}[reward]
            to_go.append(earned)
            success.append(succeeded and t + h >= length)
    return rewards, ahead, discount, valid, to_go, success


@st.composite
def some(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    count, steps = len(lengths), sum(lengths)
    offsets = np.cumsum([0, *lengths])
    ended = np.zeros(steps, dtype=bool)
    ended[offsets[1:] - 1] = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    successes = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    successes[draw(st.integers(0, count - 1))] = True
    return Demonstrations(
        np.arange(steps, dtype=np.float32)[:, None],
        np.zeros((steps, 1)),
        offsets,
        np.zeros((count, 1), dtype=np.float32) if draw(st.booleans()) else None,
        rewards=np.array(draw(st.lists(st.integers(-3, 3), min_size=steps, max_size=steps)), dtype=np.float32),
        terminations=ended,
        successes=successes,
    )


@settings(max_examples=60, deadline=None)
@given(some(), st.integers(1, 4), st.sampled_from([0.5, 0.9]), st.sampled_from(["steps", "success", "recorded"]))
def test_it_is_what_plain_loops_say(demonstrations, h, gamma, reward):
    found = chunk_returns(demonstrations, h, gamma, reward)
    for name, expected in zip(
        ("rewards", "ahead", "discount", "valid", "to_go", "success"),
        slowly(demonstrations, h, gamma, reward),
        strict=True,
    ):
        np.testing.assert_allclose(getattr(found, name).numpy(), np.array(expected), rtol=1e-5, err_msg=name)


def toy(**columns):
    return Demonstrations(np.zeros((4, 1)), np.zeros((4, 1)), [0, 4], **columns)


def test_a_time_limit_is_no_end():
    cut = Demonstrations(
        np.zeros((6, 1)),
        np.zeros((6, 1)),
        [0, 4, 6],
        np.zeros((2, 1)),
        truncations=[0, 0, 0, 1, 0, 0],
        successes=[0, 1],
    )
    found = chunk_returns(cut, 2, 0.5)
    assert found.discount[3].tolist() == [0.5, 0.25]  # goes on
    assert found.ahead[3, 0] == 6  # at the final observation of the first episode
    assert found.valid[3].tolist() == [True, False]
    assert found.discount[5].tolist() == [0, 0]
    assert found.valid[5].all()
    # as if it went on unpaid for ever
    np.testing.assert_allclose(found.to_go[:4], -2.0)


def test_without_a_final_observation_the_step_before_a_cut_looks_nowhere():
    cut = Demonstrations(np.zeros((6, 1)), np.zeros((6, 1)), [0, 4, 6], successes=[0, 1])
    assert (
        chunk_returns(cut, 2, 0.5).valid.tolist()
        == [[True, True]] * 2 + [[True, False], [False, False]] + [[True] * 2] * 2
    )


def test_failing_is_not_a_way_to_save_steps():
    both = Demonstrations(
        np.zeros((6, 1)), np.zeros((6, 1)), [0, 4, 6], terminations=[0, 0, 0, 1, 0, 1], successes=[1, 0]
    )
    to_go = chunk_returns(both, 2, 0.9).to_go
    assert to_go[4] < to_go[0]
    np.testing.assert_allclose(to_go[4:], -10.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("demonstrations", "gamma", "reward", "message"),
    [
        (toy(), 0.9, "steps", "nothing says which episodes succeeded; give successes=, or choose reward='recorded'"),
        (toy(successes=[True]), 0.9, "recorded", "there are no recorded rewards; choose reward='steps'"),
        (
            toy(successes=[False]),
            0.9,
            "success",
            "none of the 1 episodes succeeded, so there is nothing to improve towards",
        ),
        (
            Demonstrations(np.zeros((4, 1)), np.zeros((4, 1)), [0, 2, 4], successes=[True, False]),
            1.0,
            "steps",
            "with gamma=1 an episode that failed or was cut off costs infinitely much",
        ),
        (
            Demonstrations(
                np.zeros((4, 1)), np.zeros((4, 1)), [0, 2, 4], terminations=[0, 1, 0, 1], successes=[True, False]
            ),
            1.0,
            "steps",
            "with gamma=1",
        ),
    ],
)
def test_what_was_earned_must_be_known(demonstrations, gamma, reward, message):
    with pytest.raises(FewerError, match=message):
        chunk_returns(demonstrations, 2, gamma, reward)


def test_where_rewards_are_recorded_nothing_needs_to_succeed():
    found = chunk_returns(toy(successes=[False], rewards=[1, 2, 3, 4], terminations=[0, 0, 0, 1]), 2, 0.5, "recorded")
    assert found.to_go.tolist() == [3.25, 4.5, 5, 4]
    assert not found.success.any()


def test_without_a_discount_successes_can_be_valued():
    assert chunk_returns(toy(successes=[True]), 2, 1.0).to_go.tolist() == [-3, -2, -1, 0]
