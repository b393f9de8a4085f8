"""A world model to imagine in: a recurrent state space with categorical latents, learned from what was seen and done.

    deterministic    h_t = GRU(h_{t-1}, [z_{t-1}, a_{t-1}])
    posterior        z_t ~ q(h_t, embedding of what is seen)          prior    z_t ~ p(h_t)
    loss = reconstruction + end of the episode + 0.5 max(1, KL[sg(q) || p]) + 0.1 max(1, KL[q || sg(p)])

Numbers are standardised by the demonstrations and squashed by symlog(x) = sign(x) log(1 + |x|), images are taken as they are; the
error of both is squared and summed.  Nothing knows of rewards.  Probabilities are mixed with 1 % of a uniform distribution, and
gradients go straight through what was drawn.

References
----------
Danijar Hafner, Jurgis Pasukonis, Jimmy Ba, Timothy Lillicrap, "Mastering Diverse Domains through World Models", 2023,
arXiv:2301.04104.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.core.errors import FewerError
from fewer.demos.image_encoders import ImageCodec, module_name
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.trajectory_replay import Sequences


@dataclass(frozen=True)
class WorldModelShape:
    """How large a world model is, and how it is trained.

    Parameters
    ----------
    deter : int, default 512
        Width of the deterministic part.
    stoch, classes : int, default 32 and 32
        Categorical latents, and the classes of each.
    hidden : int, default 512
        Units of each hidden layer.
    layers : int, default 2
        Hidden layers of the encoder and the decoder of numbers.
    depth : int, default 32
        Channels of the first convolution of images.
    unimix : float, default 0.01
        Share of the uniform distribution.
    free : float, default 1
        Nats that the latents of a step may differ from what was predicted at no cost.
    dynamics, representation : float, default 0.5 and 0.1
        Weights of the two divergences.
    numbers : float, default 1
        Weight of the error of numbers.  An image's error is a sum over thousands of pixels, that of a few numbers weighs so
        little beside the divergences that they are followed roughly; what was done then says where the agent must have been,
        and is imagined to lead the wrong way.
    expected : bool, default False
        Whether the probabilities of the latents are imagined in place of latents that are drawn.  Of a few latents, one that is
        drawn amiss outweighs what a small change to an action does; of many it does not.
    """

    deter: int = 512
    stoch: int = 32
    classes: int = 32
    hidden: int = 512
    layers: int = 2
    depth: int = 32
    unimix: float = 0.01
    free: float = 1.0
    dynamics: float = 0.5
    representation: float = 0.1
    numbers: float = 1.0
    expected: bool = False

    def __post_init__(self) -> None:
        if min(self.deter, self.stoch, self.hidden, self.layers, self.depth) < 1 or self.classes < 2:
            raise FewerError(f"world model: sizes must be positive, and classes at least 2; given {self}")
        if not (0 <= self.unimix < 1 and min(self.free, self.dynamics, self.representation, self.numbers) >= 0):
            raise FewerError(f"world model: unimix lies in [0, 1), weights are not negative; given {self}")

    @property
    def features(self) -> int:
        """Width of a state as others take it."""
        return self.stoch * self.classes + self.deter


class Latent(NamedTuple):
    """A state of the model: what was drawn, one-hot and side by side, and the deterministic part."""

    stoch: Float[Tensor, "... latents"]
    deter: Float[Tensor, "... deter"]

    @property
    def features(self) -> Float[Tensor, "... features"]:
        """Both side by side."""
        return torch.cat(self, dim=-1)


def dense(*widths: int) -> nn.Sequential:
    """Layers, each normalised and with SiLU; the first one alone has a bias, that of the others is the normalisation's."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        # without it, a normalised product says where the input points and not how large it is
        layers += [nn.Linear(before, after, bias=not layers), nn.LayerNorm(after, eps=1e-3), nn.SiLU()]
    return nn.Sequential(*layers)


def symlog(x: Tensor) -> Tensor:
    """Squash.

    Examples
    --------
    >>> symlog(torch.tensor([-9.0, 0.0, 0.1])).round(decimals=3)
    tensor([-2.3030,  0.0000,  0.0950])
    """
    return x.sign() * x.abs().log1p()


class WorldModel(nn.Module):
    """Follows what is seen, and imagines what would be.

    Parameters
    ----------
    shape : WorldModelShape
        How large.
    seen : ObservationTensors
        What is seen.
    action : int
        Numbers of an action.

    Examples
    --------
    >>> shape = WorldModelShape(deter=8, stoch=2, classes=4, hidden=16)
    >>> model = WorldModel(shape, ObservationTensors((("", (3,)),)), action=2)
    >>> state = model.follow(None, torch.zeros(5, 2), torch.zeros(5, 3), {}, torch.ones(5, dtype=torch.bool))
    >>> model.imagine(state, torch.zeros(5, 2)).features.shape
    torch.Size([5, 16])
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, shape: WorldModelShape, seen: ObservationTensors, action: int) -> None:
        super().__init__()
        self.shape, self.seen = shape, seen
        hidden, features, latents = shape.hidden, shape.features, shape.stoch * shape.classes
        self.codecs = nn.ModuleDict(
            {module_name(key): ImageCodec(each, shape.depth, features) for key, each in seen.images.items()}
        )
        self.encoder = dense(seen.width, *[hidden] * shape.layers) if seen.width else None
        embedded = (hidden if seen.width else 0) + sum(int(codec.width) for codec in self.codecs.values())  # pyright: ignore[reportArgumentType]
        self.decoder = (
            nn.Sequential(dense(features, *[hidden] * shape.layers), nn.Linear(hidden, seen.width))
            if seen.width
            else None
        )
        self.inputs = dense(latents + action, hidden)
        self.gates = nn.Sequential(
            nn.Linear(hidden + shape.deter, 3 * shape.deter, bias=False), nn.LayerNorm(3 * shape.deter, eps=1e-3)
        )
        self.prior = nn.Sequential(dense(shape.deter, hidden), nn.Linear(hidden, latents))
        self.posterior = nn.Sequential(dense(shape.deter + embedded, hidden), nn.Linear(hidden, latents))
        self.end = nn.Sequential(dense(features, hidden, hidden), nn.Linear(hidden, 1))
        self.register_buffer("centre", torch.zeros(seen.width))
        self.register_buffer("scale", torch.ones(seen.width))

    # --- a step ------------------------------------------------------------------------------------------------------

    def squashed(self, numbers: Tensor) -> Tensor:
        """Numbers as they are encoded and reconstructed."""
        return symlog((numbers - self.centre) / self.scale)

    def embed(self, numbers: Tensor, images: Mapping[str, Tensor]) -> Float[Tensor, "... embedded"]:
        """What is seen, as features; any number of leading axes."""
        made = [] if self.encoder is None else [self.encoder(self.squashed(numbers))]
        for key, codec in zip(self.seen.images, self.codecs.values(), strict=True):
            lead = images[key].shape[:-3]
            assert isinstance(codec, ImageCodec)
            made.append(codec.encode(images[key].flatten(0, -4) - 0.5).unflatten(0, lead))
        return torch.cat(made, dim=-1)

    def start(self, count: int) -> Latent:
        """The state before anything was seen."""
        like = self.centre
        return Latent(
            like.new_zeros(count, self.shape.stoch * self.shape.classes), like.new_zeros(count, self.shape.deter)
        )

    def moved(self, state: Latent, actions: Float[Tensor, "rows action"]) -> Float[Tensor, "rows deter"]:
        """The deterministic part after an action."""
        x = self.inputs(torch.cat([state.stoch, actions], dim=-1))
        reset, candidate, update = self.gates(torch.cat([x, state.deter], dim=-1)).chunk(3, dim=-1)
        candidate = torch.tanh(reset.sigmoid() * candidate)
        # it rather stays as it is
        return torch.lerp(state.deter, candidate, (update - 1).sigmoid())

    def probabilities(self, logits: Tensor) -> Float[Tensor, "... stoch classes"]:
        """Of the classes of each latent."""
        share = logits.unflatten(-1, (self.shape.stoch, self.shape.classes)).softmax(-1)
        return torch.lerp(share, torch.full_like(share, 1 / self.shape.classes), self.shape.unimix)

    def draw(
        self, probabilities: Float[Tensor, "rows stoch classes"], stream: torch.Generator | None = None, alike: int = 1
    ) -> Float[Tensor, "rows latents"]:
        """One class of each latent, one-hot; gradients are those of the probabilities.

        So many rows in turn that are ``alike`` are drawn with the same luck.
        """
        # one number for each latent: the class within which it falls when classes are laid side by side
        levels = probabilities.detach().cumsum(-1)
        count, stoch, _ = levels.shape
        at = torch.rand(count // alike, stoch, 1, generator=stream, device=levels.device)
        at = at.repeat_interleave(alike, dim=0) if alike > 1 else at
        drawn = torch.zeros_like(levels).scatter_(-1, (levels[..., :-1] <= at).sum(-1, keepdim=True), 1.0)
        if probabilities.requires_grad:
            drawn = drawn + probabilities - probabilities.detach()
        return drawn.flatten(-2)

    def follow(
        self,
        state: Latent | None,
        actions: Float[Tensor, "rows action"],
        numbers: Tensor,
        images: Mapping[str, Tensor],
        first: Bool[Tensor, " rows"],
        stream: torch.Generator | None = None,
    ) -> Latent:
        """The state after an action, and after what is seen then.

        Parameters
        ----------
        state : Latent, optional
            Before; none where all episodes begin.
        actions : float tensor (rows, action)
            What was done.
        numbers, images
            What is seen (see :class:`Sequences`).
        first : bool tensor (rows,)
            Where an episode begins, and the state before and the action do not count.
        stream : torch Generator, optional
            Where from is drawn.
        """
        return self._followed(state or self.start(len(actions)), actions, self.embed(numbers, images), first, stream)[0]

    def _followed(
        self, state: Latent, actions: Tensor, embedded: Tensor, first: Tensor, stream: torch.Generator | None = None
    ) -> tuple[Latent, Tensor]:
        keep = (~first)[:, None].to(embedded.dtype)
        deter = self.moved(Latent(state.stoch * keep, state.deter * keep), actions * keep)
        said = self.probabilities(self.posterior(torch.cat([deter, embedded], dim=-1)))
        return Latent(self.draw(said, stream), deter), said

    def imagine(
        self,
        state: Latent,
        actions: Float[Tensor, "rows action"],
        stream: torch.Generator | None = None,
        alike: int = 1,
    ) -> Latent:
        """The state after an action, where nothing is seen."""
        deter = self.moved(state, actions)
        share = self.probabilities(self.prior(deter))
        return Latent(share.flatten(-2) if self.shape.expected else self.draw(share, stream, alike), deter)

    def imagine_chunks(
        self,
        state: Latent,
        chunks: Float[Tensor, "rows actions action"],
        stream: torch.Generator | None = None,
        alike: int = 1,
    ) -> Float[Tensor, "actions+1 rows features"]:
        """The states from this one on, while the actions of a chunk are carried out.

        Parameters
        ----------
        state : Latent
            Where it begins.
        chunks : float tensor (rows, actions, action)
            What is done.
        stream : torch Generator, optional
            Where from is drawn.
        alike : int, default 1
            So many rows in turn meet with the same luck, so that they differ by what is done alone.
        """
        states = [state.features]
        for actions in chunks.unbind(1):
            state = self.imagine(state, actions, stream, alike)
            states.append(state.features)
        return torch.stack(states)

    def goes_on(self, features: Float[Tensor, "... features"]) -> Float[Tensor, "..."]:
        """Probability that an episode goes on."""
        return self.end(features)[..., 0].sigmoid()

    # --- training ----------------------------------------------------------------------------------------------------

    def loss(self, batch: Sequences) -> tuple[Float[Tensor, ""], Latent, dict[str, Tensor]]:
        """The loss, the states that were followed (without gradients), and the parts of the loss."""
        embedded = self.embed(batch.numbers, batch.images)
        state, states, said = self.start(len(embedded)), [], []
        # one matrix product less a step: what does not depend on the state before is there already
        for t in range(embedded.shape[1]):
            state, posterior = self._followed(state, batch.actions[:, t], embedded[:, t], batch.first[:, t])
            states.append(state)
            said.append(posterior)
        latent = Latent(*(torch.stack(each, dim=1) for each in zip(*states, strict=True)))
        posterior, prior = torch.stack(said, dim=1).log(), self.probabilities(self.prior(latent.deter)).log()
        features = latent.features
        rebuilt = features.new_zeros(features.shape[:2])
        if self.decoder is not None:
            error = (self.decoder(features) - self.squashed(batch.numbers)).square().sum(-1)
            rebuilt = rebuilt + self.shape.numbers * error
        for key, codec in zip(self.seen.images, self.codecs.values(), strict=True):
            assert isinstance(codec, ImageCodec)
            image = codec.decode(features.flatten(0, 1)).unflatten(0, features.shape[:2])
            rebuilt = rebuilt + (image - (batch.images[key] - 0.5)).square().sum(dim=(-3, -2, -1))
        end = functional.binary_cross_entropy_with_logits(
            self.end(features)[..., 0], batch.goes_on.to(features.dtype), reduction="none"
        )
        dynamics = divergence(posterior.detach(), prior).clamp_min(self.shape.free)
        representation = divergence(posterior, prior.detach()).clamp_min(self.shape.free)
        total = rebuilt + end + self.shape.dynamics * dynamics + self.shape.representation * representation
        parts = {"reconstruction": rebuilt, "end": end, "divergence": dynamics}
        return (
            total.mean(),
            Latent(latent.stoch.detach(), latent.deter.detach()),
            {key: value.detach().mean() for key, value in parts.items()},
        )


def divergence(left: Float[Tensor, "... stoch classes"], right: Tensor) -> Float[Tensor, "..."]:
    """Kullback-Leibler divergence of logarithms of probabilities, summed over the latents.

    Examples
    --------
    >>> even = torch.full((1, 2), 0.5).log()
    >>> float(divergence(torch.tensor([[0.9, 0.1]]).log(), even)), float(divergence(even, even))
    (0.368..., 0.0)
    """
    return (left.exp() * (left - right)).sum(dim=(-2, -1))
