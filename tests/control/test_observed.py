from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.control.observed import Observed, Part
from fewer.core.errors import FewerError


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((8, 6, 3), (8, 6, 3)),
        ((3, 8, 6), (8, 6, 3)),
        ((8, 6), (8, 6, 1)),
        ((1, 8, 8), (8, 8, 1)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_which_axis_is_that_of_channels(shape, size):
    assert Part(shape, image=True).size == size


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("stack", [1, 3])
def test_rows_are_taken_apart_and_put_together(first, stack):
    """Against NumPy: stacked frames are channels, the newest last."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, stack, 7, 6, 3)).astype(np.float32)
    grey, vector = rng.integers(0, 256, (4, stack, 5, 4)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)
    as_given = frames.transpose(0, 1, 4, 2, 3) if first else frames
    observed = Observed((Part((3, 7, 6) if first else (7, 6, 3), True), Part((2,)), Part((5, 4), True)), stack)
    rows = torch.from_numpy(np.concatenate([each.reshape(4, -1) for each in (as_given, vector, grey)], axis=1))
    assert rows.shape[1] == observed.size
    found, (colour, single) = observed.split(rows)
    assert torch.equal(found, torch.from_numpy(vector))
    assert np.array_equal(colour.numpy(), np.concatenate(list(frames.swapaxes(0, 1)), axis=-1))
    assert np.array_equal(single.numpy(), grey.transpose(0, 2, 3, 1))
    packed = observed.frames(rows)
    assert packed.dtype == torch.uint8
    assert packed.shape == (4, stack, observed.pixels)
    assert torch.equal(observed.join(found, packed), rows)
    assert torch.equal(observed.change_images(rows, lambda images: images), rows)
    other = observed.change_images(rows, lambda images: 255 - images)
    assert torch.equal(observed.split(other)[1][0], 255 - colour)
    assert torch.equal(observed.split(other)[0], found)


def test_several_vectors_are_put_back_where_they_were():
    observed = Observed((Part((2,)), Part((2, 3), True), Part((3,)), Part((4, 2), True), Part((1,))), 2)
    rows = torch.randint(0, 256, (5, observed.size)).float()
    assert torch.equal(observed.join(observed.split(rows)[0], observed.frames(rows)), rows)


def test_errors():
    with pytest.raises(FewerError, match="two axes or three"):
        Part((2,), image=True)
    with pytest.raises(FewerError, match="a stack of 0 frames"):
        Observed((Part((8, 8), True),), 0)
    with pytest.raises(FewerError, match="there are none; leave stack out"):
        Observed((Part((8,)),), 2)
