"""Which states are compared: copies once, of too many a share, and as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.samples import PROJECTED, Scale, sample


def made(lengths=(5, 300, 700), width=2, seed=0):
    rng = np.random.default_rng(seed)
    steps = sum(lengths)
    return Demonstrations(
        rng.normal(size=(steps, width)), rng.normal(size=(steps, 2)), np.cumsum([0, *lengths]), name="toy"
    )


def test_of_more_states_each_episode_gives_its_share():
    given = made()
    taken = sample(given, None, 200, 0)
    assert len(taken.rows) <= 200
    count = np.bincount(taken.episode)
    assert count[0] >= 1
    assert count[2] / count[1] == pytest.approx(7 / 3, rel=0.15)
    np.testing.assert_array_equal(taken.states, given.observations[taken.rows])
    assert "of 1,005 states, " in taken.notes[0]
    assert "(seed 0)" in taken.notes[0]
    np.testing.assert_array_equal(taken.rows, sample(given, None, 200, 0).rows)
    assert not np.array_equal(taken.rows, sample(given, None, 200, 1).rows)
    whole = sample(given, None, 1005, 0)
    assert (len(whole.rows), whole.notes) == (1005, ())


def test_whole_episodes_in_place_of_steps():
    given = made(lengths=(40,) * 50)
    taken = sample(given, None, 400, 0, whole=True)
    assert len(taken.rows) == 400
    assert sorted(np.bincount(taken.episode, minlength=50)) == [0] * 40 + [40] * 10
    assert set(taken.episode) != set(sample(given, None, 400, 1, whole=True).episode)
    long = sample(made((300, 700, 5)), None, 100, 0, whole=True)
    assert np.bincount(long.episode).max() == 50
    assert len(np.unique(long.episode)) >= 2
    np.testing.assert_array_equal(sample(given, None, 2000, 0, whole=True).rows, np.arange(2000))


def test_an_episode_of_one_step_is_never_lost():
    taken = sample(made((1, 1, 500)), None, 20, 0)
    assert set(taken.episode) == {0, 1, 2}


def test_numbered_actions_are_equal_or_not():
    taken = sample(Demonstrations(np.zeros((4, 1)), np.array([3, 5, 5, 9]), [0, 4]), None, 99, 0)
    assert taken.actions.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert "numbered" in taken.notes[0]


def test_images_are_projected_or_encoded():
    rng = np.random.default_rng(0)
    images = rng.integers(255, size=(600, 12, 12, 3), dtype=np.uint8)
    given = Demonstrations({"image": images, "joint": np.zeros((600, 2))}, np.zeros((600, 1)), [0, 600])
    taken = sample(given, None, 999, 0)
    assert taken.states.shape == (600, PROJECTED)
    assert "observations are 434 numbers, projected at random to 64" in taken.notes[0]
    apart = np.linalg.norm(images[0].astype(float) - images[1])
    assert np.linalg.norm(taken.states[0] - taken.states[1]) == pytest.approx(apart, rel=0.4)
    np.testing.assert_allclose(taken.encode(given.observations), taken.states)
    encoded = sample(given, lambda seen: seen["image"].mean(axis=(1, 2)), 999, 0)
    assert encoded.states.shape == (600, 3)
    assert not encoded.notes


@pytest.mark.parametrize("encode", [lambda seen: seen[:3], lambda seen: seen[:, 0], lambda seen: seen * np.nan])
def test_a_bad_encoder_is_named(encode):
    with pytest.raises(
        FewerError, match="the encoder must give a table of finite numbers with 1,005 rows; its shape is"
    ):
        sample(made(), encode, 9999, 0)


def test_scales_leave_out_what_never_changes():
    table = np.array([[1.0, 5.0, 0.0], [3.0, 5.0, 8.0]])
    scale = Scale.of([table], True)
    assert scale(table).tolist() == [[-1, -1], [1, 1]]
    assert Scale.of([table], False)(table).tolist() == [[-1, -4], [1, 4]]
    assert Scale.of([table[:1], table[1:]], True)(table).tolist() == [[-1, -1], [1, 1]]
