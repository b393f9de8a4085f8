"""Tasks that bring two sides of every thing themselves, such as an image and its caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.loop import Task


class Pairing(Protocol):
    """Two sides of every thing, and how well they find each other."""

    def draw(self, count: int) -> tuple[Any, Any]:
        """The first and the second side of ``count`` things (of fewer where there are not so many)."""
        ...

    def score(self, network: nn.Module) -> tuple[float, dict[str, float]]:
        """What a read-out makes of the network, and what else was measured."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What changes while batches are drawn."""
        ...

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take up where it stood."""
        ...


@runtime_checkable
class Captioned(Pairing, Protocol):
    """Images and sentences: what towers for them must know.

    Attributes
    ----------
    shape : (int, int, int)
        Of an image: channels, height, width.
    words : list of str
        Sentences from which a vocabulary may be taken; none that is only asked for later.
    """

    shape: tuple[int, int, int]
    words: list[str]


class Paired(Task):
    """A task whose things have two sides."""

    def pairing(self, seed: int) -> Pairing:
        """One seed's things."""
        raise NotImplementedError


def fitting(
    network: nn.Module, images: Float[Tensor, "images ..."], texts: Sequence[str]
) -> Float[Tensor, "images texts"]:
    """How well each text fits each image, by a network that can say so, in evaluation and without gradients.

    Raises
    ------
    FewerError
        If the network has no method ``scores(images, texts)``.
    """
    scores = getattr(network, "scores", None)
    if scores is None:
        raise FewerError(
            f"{type(network).__name__} cannot say how well a text fits an image; use clip, or another network for captions"
        )
    training = network.training
    network.eval()
    with torch.inference_mode():
        found = scores(images, texts)
    network.train(training)
    return found
