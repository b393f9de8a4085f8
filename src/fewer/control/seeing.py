"""Policies and critics that see: an image encoder in front of networks of vectors.

The critic's gradient trains the encoder; the policy is given its features and trains it not.  Slow critics have a slow encoder.
Whatever learns from vectors learns from features: a policy or a critic is built as it always is, for as many numbers as the
encoder gives, with what is observed beside the images joined to them.

References
----------
Yarats, Kostrikov and Fergus, "Image Augmentation Is All You Need", ICLR 2021, arXiv:2004.13649.
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.control.critics import Critics, QEnsemble, Values
from fewer.control.observed import Observed, Rows
from fewer.control.policies import Actions, Actor, Policy, Value
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.models.image_encoders import Convolutions, ImageEncoder, random_crop


class ImageFeatures(Protocol):
    """Describes how an image becomes features."""

    @property
    def outputs(self) -> int:
        """Features of an image."""
        ...

    def build(self, size: tuple[int, int, int]) -> nn.Module:
        """Make the network for images of this height, width and number of channels."""
        ...


@dataclass(frozen=True)
class SmallImages:
    """Convolutions with strides of 2, read out by learned places, trained from scratch.

    Parameters
    ----------
    outputs : int, default 64
        Features of an image.
    widths : tuple of int, default (32, 64, 128)
        Channels of the convolutions.
    places : int, default 8
        Features of each channel before the last layer.
    """

    outputs: int = 64
    widths: tuple[int, ...] = (32, 64, 128)
    places: int = 8

    def __post_init__(self) -> None:
        if min(self.outputs, self.places, *self.widths, len(self.widths)) < 1:
            raise FewerError(f"small encoder: outputs, widths and places must be positive; given {self}")

    def build(self, size: tuple[int, int, int]) -> nn.Module:
        """Make it."""
        return ImageEncoder(size, self.outputs, self.places, dropout=0.0, trunk=Convolutions(size[2], self.widths))


@dataclass(frozen=True)
class ResNetImages:
    """A ResNet-10, read out by learned places.

    Parameters
    ----------
    outputs : int, default 256
        Features of an image.
    places : int, default 8
        Features of each channel before the last layer.
    dropout : float, default 0.1
        Share of them that is left out while the critic learns.
    """

    outputs: int = 256
    places: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if min(self.outputs, self.places) < 1 or not 0 <= self.dropout < 1:
            raise FewerError(f"resnet-10: outputs and places must be positive and dropout in [0, 1); given {self}")

    def build(self, size: tuple[int, int, int]) -> nn.Module:
        """Make it."""
        return ImageEncoder(size, self.outputs, self.places, self.dropout)


class Encoder(nn.Module):
    """Rows of observations to features.

    Parameters
    ----------
    observed : Observed
        Where images lie in a row.
    settings : ImageFeatures
        How each becomes features; every image has a network of its own.

    Examples
    --------
    >>> from fewer.control.observed import Part
    >>> encoder = Encoder(Observed((Part((24, 24, 3), image=True), Part((2,)))), SmallImages(16))
    >>> encoder.outputs, encoder(torch.zeros(5, 1730)).shape
    (18, torch.Size([5, 18]))
    """

    def __init__(self, observed: Observed, settings: ImageFeatures) -> None:
        super().__init__()
        self.observed = observed
        sizes = [part.size for part in observed.images]
        self.networks = nn.ModuleList(
            settings.build((height, width, channels * observed.stack)) for height, width, channels in sizes
        )
        self.outputs = observed.vector + len(sizes) * settings.outputs

    def forward(self, rows: Rows) -> Float[Tensor, "batch features"]:
        """Encode."""
        vector, images = self.observed.split(rows)
        return torch.cat([vector, *(network(each) for network, each in zip(self.networks, images, strict=True))], dim=1)

    @torch.no_grad()
    def read(self, rows: Rows) -> Float[Tensor, "batch features"]:
        """Encode for somebody who does not train it: without gradients, and nothing is left out."""
        training = self.training
        if training:
            self.eval()
        features = self(rows)
        if training:
            self.train()
        return features


# --- critics -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SeeingCritics(Critics):
    """Critics behind an encoder that they train.

    Parameters
    ----------
    observed : Observed
        What a row is made of.
    encoder : ImageFeatures
        How images become features.
    """

    observed: Observed
    encoder: ImageFeatures

    @classmethod
    def around(cls, critics: Critics, observed: Observed, encoder: ImageFeatures) -> SeeingCritics:
        """The same critics, seeing."""
        settings = {field.name: getattr(critics, field.name) for field in dataclasses.fields(critics)}
        return cls(**settings, observed=observed, encoder=encoder)

    def build(self, observations: int, actions: int) -> QEnsemble:
        """Make the networks."""
        made = SeeingCritic(actions, self)
        made.compiled = self.compiled
        return made


class SeeingCritic(QEnsemble):
    """What :class:`SeeingCritics` builds."""

    def __init__(self, actions: int, settings: SeeingCritics) -> None:
        encoder = Encoder(settings.observed, settings.encoder)
        super().__init__(
            encoder.outputs, actions, settings.members, settings.hidden, settings.layer_norm, settings.activation
        )
        self.encoder = encoder

    def forward(self, observations: Rows, actions: Actions, members: Int[Tensor, " chosen"] | None = None) -> Values:
        """Value of each pair."""
        return self.head(self.encoder(observations), actions, members)

    def head(
        self, features: Float[Tensor, "batch features"], actions: Actions, members: Int[Tensor, " chosen"] | None = None
    ) -> Values:
        """Value of each pair, of which the images are encoded already."""
        return QEnsemble.forward(self, features, actions, members)


# --- policies ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seeing:
    """A policy behind the critic's encoder.

    Parameters
    ----------
    policy : Policy
        Of features.
    observed : Observed
        What a row is made of.
    encoder : ImageFeatures
        How images become features.
    """

    policy: Policy
    observed: Observed
    encoder: ImageFeatures

    def build(self, observations: int, actions: int) -> SeeingActor:
        """Make it, with an encoder of its own until it is attached to a critic."""
        encoder = Encoder(self.observed, self.encoder)
        return SeeingActor(self.policy.build(encoder.outputs, actions), encoder)


class SeeingActor(Actor):
    """What :class:`Seeing` builds.

    Parameters
    ----------
    inner : Actor
        Of features.
    encoder : Encoder
        Rows to features.
    """

    def __init__(self, inner: Actor, encoder: Encoder) -> None:
        super().__init__()
        self.inner, self.encoder = inner, encoder.requires_grad_(False)
        self.delay, self.rows = inner.delay, inner.rows

    @property
    def optimiser(self) -> torch.optim.Optimizer:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The policy's own; the encoder is trained by the critic's."""
        return self.inner.optimiser

    def attach(self, critic: QEnsemble, slow: QEnsemble) -> None:
        """Look with the critic's eyes."""
        assert isinstance(critic, SeeingCritic)
        assert isinstance(slow, SeeingCritic)
        self.encoder = critic.encoder
        if type(self.inner).attach is not Actor.attach:
            raise FewerError(
                f"{type(self.inner).__name__} chooses by value, which it cannot do with images yet; take a policy such as "
                "sac's or td3's"
            )

    def act(self, observations: Rows, deterministic: bool = False) -> Actions:
        """What to do."""
        return self.inner.act(self.encoder.read(observations), deterministic)

    def propose(self, observations: Rows, count: int) -> Float[Tensor, "count batch actions"]:
        """Candidates; the images are encoded once."""
        return self.inner.propose(self.encoder.read(observations), count)

    def successor(self, observations: Rows) -> tuple[Actions, Float[Tensor, " batch"] | float]:
        """The action that the critic's target looks ahead to."""
        return self.inner.successor(self.encoder.read(observations))

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """One step, which leaves the encoder as it is."""
        return self.inner.improve(self._encoded(batch), _head(value))

    def settle(self, draw: Callable[[int], Batch], value: Value) -> dict[str, Tensor]:
        """Learn more, from features."""
        return self.inner.settle(lambda count: self._encoded(draw(count)), _head(value))

    def train_what_requires_it(self) -> None:
        """Begin the policy's optimiser anew."""
        self.inner.train_what_requires_it()

    def begin_again(self, drawn: Actor) -> None:
        """Take new weights; the encoder is the critic's."""
        assert isinstance(drawn, SeeingActor)
        self.inner.begin_again(drawn.inner)

    def _encoded(self, batch: Batch) -> Batch:
        both = self.encoder.read(torch.cat([batch.observations, batch.next_observations]))
        before, after = both.chunk(2)
        return dataclasses.replace(batch, observations=before, next_observations=after)


def _head(value: Any) -> Value:
    return value.head if isinstance(value, SeeingCritic) else value


# --- augmentation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RandomCrop:
    """Shift each image of a batch at random, before and after the action each by a shift of its own (DrQ).

    Parameters
    ----------
    padding : int, default 4
        The most pixels; what comes in from the edge repeats it.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise FewerError(f"random crop: the padding is {self.padding} pixels; give 1 or more")

    def augment(self, rows: Rows, observed: Observed) -> Rows:
        """Give rows with shifted images; stacked frames are shifted together."""
        return observed.change_images(rows, lambda images: random_crop(images, self.padding))
