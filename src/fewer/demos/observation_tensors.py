"""Observations as networks take them: all numbers side by side, and images apart, channels first and in [0, 1].

A part of an observation with three axes is an image, one with any other number of axes is numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Observations, parts


@dataclass(frozen=True)
class ObservationTensors:
    """What observations consist of, and how tensors are made of them.

    Parameters
    ----------
    seen : tuple of (str, tuple of int)
        Names and shapes of the parts; one empty name where there are none.

    Examples
    --------
    >>> made = ObservationTensors.of({"state": np.zeros((5, 3)), "camera": np.zeros((5, 16, 16, 3), np.uint8)})
    >>> made.width, made.images
    (3, {'camera': (3, 16, 16)})
    >>> numbers, images = made({"state": np.zeros((2, 3)), "camera": np.full((2, 16, 16, 3), 255, np.uint8)})
    >>> numbers.shape, images["camera"].shape, float(images["camera"].max())
    (torch.Size([2, 3]), torch.Size([2, 3, 16, 16]), 1.0)
    """

    seen: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, observations: Observations) -> ObservationTensors:
        """From some observations."""
        return cls(tuple((key, tuple(array.shape[1:])) for key, array in sorted(parts(observations).items())))

    @property
    def width(self) -> int:
        """How many numbers there are beside the images."""
        return sum(math.prod(shape) for _, shape in self.seen if len(shape) != 3)

    @property
    def images(self) -> dict[str, tuple[int, int, int]]:
        """Channels, height and width of each image."""
        return {key: _channels_first(shape) for key, shape in self.seen if len(shape) == 3}

    def single(self, observations: Observations) -> bool:
        """Whether this is one observation, not a batch of them."""
        given = parts(observations)
        return all(key in given and np.ndim(given[key]) == len(shape) for key, shape in self.seen)

    def statistics(self, observations: Observations) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Mean and standard deviation of each number; images are not looked at.

        Examples
        --------
        >>> ObservationTensors((("", (2,)),)).statistics(np.array([[1.0, 7.0], [3.0, 7.0]]))
        (tensor([2., 7.]), tensor([1., 1.]))
        """
        given = parts(observations)
        tables = [np.reshape(given[key], (len(given[key]), -1)) for key, shape in self.seen if len(shape) != 3]
        if not tables:
            return torch.zeros(0), torch.ones(0)
        table = torch.from_numpy(np.concatenate(tables, axis=1, dtype=np.float32, casting="unsafe"))
        deviation, centre = torch.std_mean(table, dim=0, correction=0)
        # what never changes is not blown up
        return centre, torch.where(deviation > 1e-6 * (1 + centre.abs()), deviation, 1.0)

    def __call__(
        self, observations: Observations, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "batch width"], dict[str, Float[Tensor, "batch channels height width_"]]]:
        """Make tensors.

        Raises
        ------
        FewerError
            If a part is missing, or of another shape.
        """
        given: Mapping[str, np.ndarray] = parts(observations)
        numbers: list[Tensor] = []
        images: dict[str, Tensor] = {}
        count = 0
        for key, shape in self.seen:
            if key not in given:
                told = f"part {key!r}" if key else "single array"
                raise FewerError(
                    f"observations have no {told}, as those that were demonstrated; they have "
                    f"{', '.join(filter(None, given)) or 'a single array'}"
                )
            array = np.asarray(given[key])
            if array.shape[1:] != shape:
                raise FewerError(
                    f"observations{f'[{key!r}]' if key else ''} have shape {array.shape[1:]} and those that were "
                    f"demonstrated {shape}"
                )
            count = len(array)
            tensor = torch.from_numpy(np.ascontiguousarray(array)).to(device).float()
            if len(shape) != 3:
                numbers.append(tensor.reshape(count, -1))
                continue
            tensor = tensor / 255 if array.dtype == np.uint8 else tensor
            images[key] = tensor if _channels_first(shape) == shape else tensor.permute(0, 3, 1, 2)
        return torch.cat(numbers, dim=1) if numbers else torch.zeros(count, 0, device=device), images


def _channels_first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    height, width, last = shape
    return (last, height, width) if last in (1, 3, 4) and height not in (1, 3, 4) else (height, width, last)
