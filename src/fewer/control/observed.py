"""What an observation is made of.

Everywhere in this room an observation is a row of numbers.  An image lies in it pixel by pixel, each a number from 0 to 255, as
it came from the environment; where frames are stacked, frame after frame, the oldest first.  So whatever indexes, joins or
carries rows needs to know nothing of images; those who look at them ask :class:`Observed` where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fewer.core.errors import FewerError

Rows = Float[Tensor, "batch observations"]
Images = Float[Tensor, "batch height width channels"]


@dataclass(frozen=True)
class Part:
    """One array of an observation.

    Parameters
    ----------
    shape : tuple of int
        As the environment gives it.
    image : bool, default False
        Whether it is an image: bytes, with three axes, or two where there is one channel.
    """

    shape: tuple[int, ...]
    image: bool = False

    def __post_init__(self) -> None:
        if self.image and len(self.shape) not in (2, 3):
            raise FewerError(f"observations: an image has two axes or three, not the shape {self.shape}")

    @property
    def numbers(self) -> int:
        """How many, of one frame."""
        return math.prod(self.shape)

    @property
    def channels_first(self) -> bool:
        """Whether the first axis is that of channels: it is the shortest, and shorter than the last."""
        return len(self.shape) == 3 and self.shape[0] < min(self.shape[1:])

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        if len(self.shape) == 2:
            return (*self.shape, 1)  # pyright: ignore[reportReturnType]
        one, two, three = self.shape
        return (two, three, one) if self.channels_first else (one, two, three)


@dataclass(frozen=True)
class Observed:
    """What rows of observations are made of.

    Parameters
    ----------
    parts : tuple of Part
        In the order in which they lie side by side.
    stack : int, default 1
        Frames of each image; other parts are there once.

    Examples
    --------
    >>> observed = Observed((Part((8, 6, 3), image=True), Part((2,))), stack=2)
    >>> observed.size, observed.vector, observed.pixels
    (290, 2, 144)
    >>> vector, images = observed.split(torch.zeros(5, 290))
    >>> vector.shape, [each.shape for each in images]
    (torch.Size([5, 2]), [torch.Size([5, 8, 6, 6])])
    """

    parts: tuple[Part, ...]
    stack: int = 1

    def __post_init__(self) -> None:
        if self.stack < 1:
            raise FewerError(f"observations: a stack of {self.stack} frames was asked for; give 1 or more")
        if self.stack > 1 and not self.pixels:
            raise FewerError(
                "observations: frames are stacked where images are seen, and there are none; leave stack out"
            )

    @property
    def images(self) -> tuple[Part, ...]:
        """The parts that are images."""
        return tuple(part for part in self.parts if part.image)

    @property
    def vector(self) -> int:
        """Numbers that are no pixels."""
        return sum(part.numbers for part in self.parts if not part.image)

    @property
    def pixels(self) -> int:
        """Numbers of one frame of all images."""
        return sum(part.numbers for part in self.images)

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return self.vector + self.stack * self.pixels

    def _places(self) -> Iterator[tuple[Part, int, int]]:
        begin = 0
        for part in self.parts:
            end = begin + part.numbers * (self.stack if part.image else 1)
            yield part, begin, end
            begin = end

    def _image(self, rows: Rows, part: Part) -> Images:
        height, width, channels = part.size
        if part.channels_first:
            return rows.reshape(-1, self.stack * channels, height, width).permute(0, 2, 3, 1)
        frames = rows.reshape(-1, self.stack, height, width, channels).permute(0, 2, 3, 1, 4)
        return frames.reshape(-1, height, width, self.stack * channels)

    def _row(self, images: Images, part: Part) -> Rows:
        height, width, channels = part.size
        if part.channels_first:
            return images.permute(0, 3, 1, 2).flatten(1)
        return images.reshape(-1, height, width, self.stack, channels).permute(0, 3, 1, 2, 4).flatten(1)

    def split(self, rows: Rows) -> tuple[Float[Tensor, "batch vector"], list[Images]]:
        """Give what is no image, side by side, and each image, stacked frames as channels, the newest last."""
        vector = [rows[:, begin:end] for part, begin, end in self._places() if not part.image]
        images = [self._image(rows[:, begin:end], part) for part, begin, end in self._places() if part.image]
        return (torch.cat(vector, dim=1) if vector else rows[:, :0]), images

    def change_images(self, rows: Rows, change: Callable[[Images], Images]) -> Rows:
        """Give the same rows with other images."""
        return torch.cat(
            [
                self._row(change(self._image(rows[:, begin:end], part)), part) if part.image else rows[:, begin:end]
                for part, begin, end in self._places()
            ],
            dim=1,
        )

    def frames(self, rows: Rows) -> UInt8[Tensor, "batch stack pixels"]:
        """Give the pixels of all images, frame by frame, as bytes."""
        found = [
            rows[:, begin:end].reshape(-1, self.stack, part.numbers)
            for part, begin, end in self._places()
            if part.image
        ]
        return torch.cat(found, dim=2).to(torch.uint8)

    def join(self, vector: Float[Tensor, "batch vector"], frames: Tensor) -> Rows:
        """Put together what :meth:`split` and :meth:`frames` gave."""
        if len(self.parts) == 1:
            return frames.flatten(1).to(torch.float32)
        found, numbers, pixels = [], 0, 0
        for part in self.parts:
            if part.image:
                found.append(frames[:, :, pixels : pixels + part.numbers].flatten(1).to(torch.float32))
                pixels += part.numbers
            else:
                found.append(vector[:, numbers : numbers + part.numbers])
                numbers += part.numbers
        return torch.cat(found, dim=1)
