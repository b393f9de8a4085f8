"""Diffusion policies: noise is turned into a chunk of actions, step by step, guided by what is seen.

A network is trained to say which noise was mixed into a demonstrated chunk; asked again and again, it takes the noise out of
pure noise.  Unlike a mean, what comes out is one of the things that were done.

    x_t = sqrt(abar_t) chunk + sqrt(1 - abar_t) e,      loss = |e - network(x_t, t, features)|^2 summed over the chunk
    x0  = clip((x_t - sqrt(1 - abar_t) e^) / sqrt(abar_t)),    x_t' = sqrt(abar_t') x0 + sqrt(1 - abar_t') e^

with abar a squared cosine of t.  Actions are scaled to [-1, 1] by their bounds.

References
----------
Cheng Chi et al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", RSS 2023, arXiv:2303.04137.
Jonathan Ho, Ajay Jain, Pieter Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, arXiv:2006.11239.
Jiaming Song, Chenlin Meng, Stefano Ermon, "Denoising Diffusion Implicit Models", ICLR 2021, arXiv:2010.02502.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.demos.chunk_cloning import action_bounds
from fewer.demos.chunk_denoisers import ChunkMLP, ChunkUNet, kept_share
from fewer.demos.demonstrations import Demonstrations, Observations, parts
from fewer.demos.diffusion_training import DiffusionTraining
from fewer.demos.image_encoders import PlacesEncoder, module_name
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.plan_average import PlanAverage

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson


@dataclass(frozen=True)
class DiffusionCloning:
    """Learn a diffusion policy from demonstrations.

    Parameters
    ----------
    chunk : int, default 8
        Actions of a chunk.
    network : {"unet", "mlp"}, default "unet"
        What says the noise: convolutions over the chunk, or fully connected layers, which are cheaper.
    hidden : tuple of int, default (64, 128, 256)
        Channels of the stages of the one, units of the layers of the other.
    train_steps, sample_steps : int, default 100 and 16
        Levels of noise while training, and how many of them are gone through when a chunk is asked for.
    frames : int, default 2
        Of the last so many images are seen; of the numbers, the last ones alone.
    lr, weight_decay : float, default 1e-4 and 1e-6
        Of AdamW, whose betas are 0.95 and 0.999.
    batch : int, default 256
        Chunks drawn for each update.
    steps : int, default 24000
        Updates.
    decay : float, default 0.9999
        Of the average over updates whose weights act; after n updates it is (1 + n) / (10 + n) at most, an average over the
        last tenth or so.  Weights as they are from update to update act well and badly in turn.

    Examples
    --------
    >>> from fewer.demos.gate_world import gate_2d
    >>> demonstrations = gate_2d(demonstrations=5).demonstrations(seed=0)
    >>> policy = DiffusionCloning(network="mlp", hidden=(32,), steps=5).fit(demonstrations)
    >>> policy.plan(demonstrations.observations[:3]).shape, policy.act(demonstrations.observations[0]).shape
    ((3, 8, 2), (2,))
    """

    chunk: int = 8
    network: Literal["unet", "mlp"] = "unet"
    hidden: tuple[int, ...] = (64, 128, 256)
    train_steps: int = 100
    sample_steps: int = 16
    frames: int = 2
    lr: float = 1e-4
    weight_decay: float = 1e-6
    batch: int = 256
    steps: int = 24_000
    decay: float = 0.9999

    def __post_init__(self) -> None:
        if self.network not in ("unet", "mlp"):
            raise FewerError(f"diffusion-policy: unknown network {self.network!r}; choose unet or mlp")
        counts = (self.chunk, self.sample_steps, self.frames, self.batch, self.steps)
        if min(counts) < 1 or not self.hidden or min(self.hidden) < 1 or not self.lr > 0:
            raise FewerError(f"diffusion-policy: sizes, steps and lr must be positive; given {self}")
        if not (self.sample_steps <= self.train_steps and 0 <= self.decay < 1 and self.weight_decay >= 0):
            raise FewerError(
                f"diffusion-policy: sample_steps is at most train_steps, decay lies in [0, 1) and weight_decay is not "
                f"negative; they are {self.sample_steps}, {self.train_steps}, {self.decay} and {self.weight_decay}"
            )
        if self.network == "unet" and (
            self.chunk % 2 ** (len(self.hidden) - 1) or any(each % 8 for each in self.hidden)
        ):
            raise FewerError(
                f"diffusion-policy: a unet halves the chunk {len(self.hidden) - 1} times and groups its channels by 8; a chunk "
                f"of {self.chunk} and channels {self.hidden} do not go with that, network='mlp' takes any"
            )

    def imitate(self, lesson: Lesson) -> DiffusionPolicy:
        """Fill the imitator slot."""
        return self.fit(lesson.demonstrations, lesson.low, lesson.high, seed=lesson.seed)

    def fit(
        self,
        demonstrations: Demonstrations,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        *,
        seed: int = 0,
    ) -> DiffusionPolicy:
        """Train a policy.

        Parameters
        ----------
        demonstrations : Demonstrations
            What to imitate; actions must be real numbers, and some episode at least as long as a chunk.
        low, high : float array (*action), optional
            Bounds of actions; they may be left out where all that was done lies in [-1, 1].
        seed : int, default 0
            Of everything random.

        Raises
        ------
        FewerError
            If actions are numbered, their bounds are not known, or all episodes are shorter than a chunk.
        Diverged
            If the loss becomes NaN.
        """
        training = self.start(demonstrations, low, high, seed=seed)
        training.advance(self.steps)
        return training.policy

    def start(
        self,
        demonstrations: Demonstrations,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        *,
        seed: int = 0,
    ) -> DiffusionTraining:
        """Begin; arguments as those of :meth:`fit`."""
        bounds = action_bounds(demonstrations, low, high)
        if demonstrations.lengths.max() < self.chunk:
            raise FewerError(
                f"{demonstrations.name}: the longest episode has {demonstrations.lengths.max()} steps and a chunk "
                f"{self.chunk}; lower chunk="
            )
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with own_randomness(seed, "diffusion policy"):
            seen = ObservationTensors.of(demonstrations.observations)
            policy = DiffusionPolicy(self, seen, demonstrations.actions.shape[1:], *bounds).to(where)
        centre, scale = seen.statistics(demonstrations.observations)
        policy.centre.copy_(centre)
        policy.scale.copy_(scale)
        return DiffusionTraining(policy, demonstrations, seed)


class DiffusionPolicy(nn.Module):
    """Takes the noise out of chunks of actions.

    Parameters
    ----------
    settings : DiffusionCloning
        Shapes, and how noise is taken out.
    seen : ObservationTensors
        What is seen.
    action : tuple of int
        Shape of an action.
    low, high : float tensor (*action)
        Bounds of actions.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    kept: Tensor

    def __init__(
        self,
        settings: DiffusionCloning,
        seen: ObservationTensors,
        action: tuple[int, ...],
        low: Float[Tensor, "..."],
        high: Float[Tensor, "..."],
    ) -> None:
        super().__init__()
        self.settings, self.seen, self.action, self.chunk = settings, seen, tuple(action), settings.chunk
        self.cameras = nn.ModuleDict({module_name(key): PlacesEncoder(shape[0]) for key, shape in seen.images.items()})
        features = seen.width + sum(settings.frames * int(camera.features) for camera in self.cameras.values())  # pyright: ignore[reportArgumentType]
        count = math.prod(action)
        make = ChunkUNet if settings.network == "unet" else ChunkMLP
        self.network = make(features, settings.chunk, count, settings.hidden)
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        self.register_buffer("centre", torch.zeros(seen.width))
        self.register_buffer("scale", torch.ones(seen.width))
        self.register_buffer("kept", kept_share(settings.train_steps))
        self.begin(1, np.random.default_rng(0))

    # --- what it answers ---------------------------------------------------------------------------------------------

    def features(self, frames: list[Observations]) -> Float[Tensor, "batch features"]:
        """What guides the network: numbers of the last observation, and images of all that are given, the last one last."""
        numbers, images = self.seen(frames[-1], self.low.device)
        made = [(numbers - self.centre) / self.scale]
        if images:
            films = [self.seen(each, self.low.device)[1] for each in frames[:-1]] + [images]
            for key in self.seen.images:
                made += [self.cameras[module_name(key)](film[key]) for film in films]
        return torch.cat(made, dim=1)

    def loss(
        self, features: Float[Tensor, "batch features"], chunks: Float[Tensor, "batch chunk action"], mask: Tensor
    ) -> Float[Tensor, ""]:
        """Squared error of the noise, summed over the actions of a chunk that were demonstrated, mean over the batch."""
        level = torch.randint(len(self.kept), (len(chunks),), device=chunks.device)
        noise = torch.randn_like(chunks)
        kept = self.kept[level][:, None, None]
        mixed = kept.sqrt() * chunks + (1 - kept).sqrt() * noise
        error = (self.network(mixed, level, features) - noise).square() * mask[..., None]
        return error.sum(dim=(1, 2)).mean()

    def sample(
        self, features: Float[Tensor, "batch features"], noise: Float[Tensor, "batch chunk action"]
    ) -> Float[Tensor, "batch chunk action"]:
        """Take the noise out; what is left are actions in [-1, 1]."""
        settings, x = self.settings, noise
        apart = settings.train_steps // settings.sample_steps
        levels = [apart * i for i in range(settings.sample_steps)][::-1]
        ones = torch.ones((), device=x.device)
        for level, after in zip(levels, [*levels[1:], None], strict=True):
            kept = self.kept[level]
            later = ones if after is None else self.kept[after]
            said = self.network(x, torch.full((len(x),), level, device=x.device), features)
            clean = ((x - (1 - kept).sqrt() * said) / kept.sqrt()).clamp(-1, 1)
            # the noise that goes with what was clipped
            said = (x - kept.sqrt() * clean) / (1 - kept).sqrt()
            x = later.sqrt() * clean + (1 - later).sqrt() * said
        return x

    def plan(self, observations: Observations) -> Float[np.ndarray, "batch chunk ..."]:
        """The next ``chunk`` actions for each observation, in their own units; call :meth:`begin` where an episode begins."""
        frames = [*self._frames, observations][-self.settings.frames :]
        if self.seen.images:
            frames = [frames[0]] * (self.settings.frames - len(frames)) + frames
            self._frames = frames
        with torch.inference_mode():
            features = self.features(frames)
            shape = (len(features), self.chunk, math.prod(self.action))
            noise = torch.randn(shape, generator=self._stream).to(features.device)
            chunks = self.sample(features, noise).unflatten(-1, self.action)
            return (self.low + (chunks + 1) * ((self.high - self.low) / 2)).cpu().numpy()

    def scaled(self, actions: Float[np.ndarray, "steps ..."]) -> Float[Tensor, "steps action"]:
        """Actions as the network takes them: flattened, their bounds at -1 and 1."""
        given = torch.from_numpy(np.ascontiguousarray(actions, dtype=np.float32)).to(self.low.device)
        return ((given - self.low) * (2 / (self.high - self.low)) - 1).flatten(1)

    # --- how it is carried out ---------------------------------------------------------------------------------------

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """An episode begins: forget what was planned and seen."""
        self._stream = torch.Generator().manual_seed(int(rng.integers(2**63)))
        self._frames: list[Observations] = []
        self._average = PlanAverage()

    def act(self, observations: Observations) -> Float[np.ndarray, "batch ..."]:
        """The mean of all that was planned for now; a single observation gets a single action."""
        if self.seen.single(observations):
            one = {key: np.asarray(value)[None] for key, value in parts(observations).items()}
            return self.act(one.get("", one))[0]
        return self._average(self.plan(observations))[:, 0]

    def tree(self) -> dict[str, Any]:
        """All that is needed to make it again, for a checkpoint."""
        return {
            "settings": asdict(self.settings),
            "seen": [[key, shape] for key, shape in self.seen.seen],
            "action": self.action,
            "weights": dict(self.state_dict()),
        }

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> DiffusionPolicy:
        """The inverse of :meth:`tree`."""
        weights, seen = tree["weights"], tuple((key, tuple(shape)) for key, shape in tree["seen"])
        settings = DiffusionCloning(**{**tree["settings"], "hidden": tuple(tree["settings"]["hidden"])})
        policy = cls(settings, ObservationTensors(seen), tuple(tree["action"]), weights["low"], weights["high"])
        policy.load_state_dict(weights)
        return policy.eval()
