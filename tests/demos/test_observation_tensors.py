from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.demos.observation_tensors import ObservationTensors


def test_numbers_are_put_side_by_side_in_the_order_of_their_names():
    made = ObservationTensors.of({"b": np.zeros((2, 2)), "a": np.zeros((2, 1, 3))})
    numbers, images = made({"a": np.arange(6.0).reshape(2, 1, 3), "b": np.ones((2, 2))})
    assert numbers.tolist() == [[0, 1, 2, 1, 1], [3, 4, 5, 1, 1]]
    assert not images


def test_one_number_an_observation():
    made = ObservationTensors.of(np.zeros(5))
    assert made.width == 1
    assert made(np.arange(2.0))[0].tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("shape", [(8, 10, 3), (3, 8, 10)])
def test_images_come_channels_first_and_bytes_as_shares(shape):
    made = ObservationTensors.of(np.zeros((2, *shape), dtype=np.uint8))
    numbers, images = made(np.full((2, *shape), 51, dtype=np.uint8))
    assert numbers.shape == (2, 0)
    assert images[""].shape == (2, 3, 8, 10)
    torch.testing.assert_close(images[""], torch.full((2, 3, 8, 10), 0.2))


def test_statistics_are_of_numbers_alone_and_do_not_blow_up_what_never_changes():
    rng = np.random.default_rng(0)
    given = {"b": rng.normal(3, 2, (50, 2)), "a": np.full((50, 1), 1e4), "eye": np.zeros((50, 8, 8, 3), np.uint8)}
    centre, scale = ObservationTensors.of(given).statistics(given)
    torch.testing.assert_close(centre, torch.tensor([1e4, *given["b"].mean(0)], dtype=torch.float32))
    torch.testing.assert_close(scale, torch.tensor([1.0, *given["b"].std(0)], dtype=torch.float32))
    only_seen = {"eye": given["eye"]}
    assert [len(each) for each in ObservationTensors.of(only_seen).statistics(only_seen)] == [0, 0]


def test_single_observations_are_told_from_batches():
    made = ObservationTensors.of({"a": np.zeros((2, 3)), "b": np.zeros(2)})
    assert made.single({"a": np.zeros(3), "b": 1.0})
    assert not made.single({"a": np.zeros((1, 3)), "b": np.zeros(1)})


def test_what_was_not_demonstrated_is_refused():
    made = ObservationTensors.of({"a": np.zeros((2, 3))})
    with pytest.raises(
        FewerError, match=r"have no part 'a', as those that were demonstrated; they have a single array"
    ):
        made(np.zeros((2, 3)))
    with pytest.raises(
        FewerError, match=r"observations\['a'\] have shape \(4,\) and those that were demonstrated \(3,\)"
    ):
        made({"a": np.zeros((2, 4))})
