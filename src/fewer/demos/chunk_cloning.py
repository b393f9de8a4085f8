"""Behaviour cloning of chunks: the error of all actions of a chunk is made small at once.

Where the episode has ended, nothing is asked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.demos.chunk_policies import ChunkPolicy
from fewer.demos.demonstrations import Demonstrations, parts
from fewer.models.optimisers import AdamW

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson

Error = Literal["mse", "l1", "huber"]


@dataclass(frozen=True)
class ChunkCloning:
    """Learn to answer with the chunk of actions that was demonstrated; all parameters are trained.

    Parameters
    ----------
    chunk : int, default 8
        Actions of a chunk; with 1, this is ordinary behaviour cloning.
    hidden : tuple of int, default (128, 128)
        Units of each hidden layer of the policy, behind the encoder if there is one.
    loss : {"mse", "l1", "huber"}, default "mse"
        Error of an action, in units of half its range, that is minimised.
    lr : float, default 5e-4
        Learning rate of Adam.
    batch : int, default 256
        Chunks drawn for each update.
    steps : int, default 3000
        Updates.
    execute : int, optional
        Steps of a chunk that are done before the next one is asked for; by default all.
    average : float, optional
        Ask at each step, and average all that was planned for it, with this rate (see :class:`ChunkPolicy`).

    Examples
    --------
    >>> from fewer.demos.gate_world import gate_2d
    >>> demonstrations = gate_2d(demonstrations=5).demonstrations(seed=0)
    >>> policy = ChunkCloning(steps=20).fit(demonstrations)
    >>> policy.plan(demonstrations.observations[:3]).shape, policy.act(demonstrations.observations[0]).shape
    ((3, 8, 2), (2,))
    """

    chunk: int = 8
    hidden: tuple[int, ...] = (128, 128)
    loss: Error = "mse"
    lr: float = 5e-4
    batch: int = 256
    steps: int = 3000
    execute: int | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        if min(self.chunk, self.batch, self.steps) < 1 or not self.lr > 0:
            raise FewerError(f"bc-chunk: chunk, batch, steps and lr must be positive; given {self}")
        if self.loss not in ERRORS:
            raise FewerError(f"bc-chunk: unknown loss {self.loss!r}; choose {', '.join(ERRORS)}")
        if self.execute is not None and not 1 <= self.execute <= self.chunk:
            raise FewerError(
                f"bc-chunk: {self.execute} steps of a chunk of {self.chunk} cannot be done; lower execute="
            )
        if self.average is not None and not (self.average >= 0 and self.execute is None):
            raise FewerError(
                f"bc-chunk: average is a rate of 0 or more and excludes execute; they are {self.average} and {self.execute}"
            )

    def imitate(self, lesson: Lesson) -> ChunkPolicy:
        """Fill the imitator slot."""
        return self.fit(lesson.demonstrations, lesson.low, lesson.high, seed=lesson.seed)

    def fit(
        self,
        demonstrations: Demonstrations,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        *,
        encoder: nn.Module | None = None,
        seed: int = 0,
    ) -> ChunkPolicy:
        """Train a policy.

        Parameters
        ----------
        demonstrations : Demonstrations
            What to imitate; actions must be real numbers.
        low, high : float array (*action), optional
            Bounds of actions; they may be left out where all that was done lies in [-1, 1].
        encoder : nn.Module, optional
            From observations to features (see :class:`ChunkPolicy`); it is trained as well.
        seed : int, default 0
            Of the first weights and of the batches.

        Raises
        ------
        FewerError
            If actions are numbered, or their bounds are not known.
        Diverged
            If the loss becomes NaN.

        Warns
        -----
        UserWarning
            If an episode is shorter than a chunk.
        """
        bounds = action_bounds(demonstrations, low, high)
        short = int((demonstrations.lengths < self.chunk).sum())
        if short:
            warnings.warn(
                f"{demonstrations.name}: {short} of {len(demonstrations)} episodes are shorter than a chunk of {self.chunk} "
                "actions; their chunks are padded, and the padding is not learned",
                stacklevel=2,
            )
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shapes = {key: array.shape[1:] for key, array in sorted(parts(demonstrations.observations).items())}
        features = sum(math.prod(each) for each in shapes.values())
        if encoder is not None:
            features = _features_of(encoder.to(where), demonstrations, where)
        with own_randomness(seed, "chunk policy"):
            policy = ChunkPolicy(
                shapes,
                demonstrations.actions.shape[1:],
                *bounds,
                chunk=self.chunk,
                hidden=self.hidden,
                features=features,
                encoder=encoder,
                execute=self.execute,
                average=self.average,
            ).to(where)
            if encoder is None:
                table = policy.all_features(demonstrations.observations)
                deviation, centre = torch.std_mean(table, dim=0, correction=0)
                policy.centre.copy_(centre)
                # what never changes is not blown up
                policy.scale.copy_(torch.where(deviation > 1e-6 * (1 + centre.abs()), deviation, 1.0))
            self._train(policy, demonstrations, seed)
        return policy.eval()

    def _train(self, policy: ChunkPolicy, demonstrations: Demonstrations, seed: int) -> None:
        windows = demonstrations.chunks(self.chunk)
        index = torch.from_numpy(windows.index).to(policy.low.device)
        mask = torch.from_numpy(windows.mask).to(policy.low.device)
        actions = policy.scaled(demonstrations.actions)
        seen = parts(demonstrations.observations)
        # without an encoder what the head takes stays as it is
        fixed = policy.all_features(demonstrations.observations) if policy.encoder is None else None
        optimiser = AdamW(self.lr, weight_decay=0.0).make(policy.parameters())
        stream = torch_generator(seed, "chunks")
        loss = torch.zeros(())
        for _ in range(self.steps):
            rows = torch.randint(len(index), (self.batch,), generator=stream)
            if fixed is not None:
                features = fixed[rows.to(fixed.device)]
            else:
                features = policy.features({key: array[rows.numpy()] for key, array in seen.items()})
            rows = rows.to(index.device)
            loss = cloning_loss(policy.head(features), actions[index[rows]], mask[rows], self.loss)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if not torch.isfinite(loss):
            raise Diverged(f"bc-chunk: the loss became {float(loss.detach())}; lower the learning rate")


ERRORS: Mapping[str, Any] = {
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "huber": functional.smooth_l1_loss,
}


def cloning_loss(
    answered: Float[Tensor, "batch chunk action"],
    demonstrated: Float[Tensor, "batch chunk action"],
    mask: Tensor,
    loss: Error = "mse",
) -> Float[Tensor, ""]:
    """Mean error of the actions that were demonstrated; padding counts for nothing.

    Examples
    --------
    >>> answered, mask = torch.zeros(1, 2, 3), torch.tensor([[True, False]])
    >>> float(cloning_loss(answered, torch.tensor([[[1.0, 1.0, 1.0], [9.0, 9.0, 9.0]]]), mask))
    1.0
    """
    errors = ERRORS[loss](answered, demonstrated, reduction="none").mean(-1)
    return (errors * mask).sum() / mask.sum().clamp_min(1)


def action_bounds(
    demonstrations: Demonstrations, low: Float[Any, "..."] | None, high: Float[Any, "..."] | None
) -> tuple[Tensor, Tensor]:
    """Bounds of actions as they were given, or -1 and 1 where all that was done lies there.

    Raises
    ------
    FewerError
        If actions are numbered, bounds are missing or infinite, or something was done beyond them.
    """
    name, actions = demonstrations.name, demonstrations.actions
    if demonstrations.discrete:
        raise FewerError(f"{name}: chunks are of real actions; these are numbered")
    shape = actions.shape[1:]
    sides = [np.full(shape, side, dtype=np.float32) for side in (-1, 1)]
    finite = low is not None and high is not None and bool(np.isfinite(low).all() and np.isfinite(high).all())
    if finite:
        given = [np.asarray(each, dtype=np.float32) for each in (low, high)]
        try:
            sides = [np.broadcast_to(each, shape).copy() for each in given]
        except ValueError:
            shapes = " and ".join(str(each.shape) for each in given)
            raise FewerError(f"{name}: bounds of shapes {shapes} were given for actions of shape {shape}") from None
        if not (sides[0] < sides[1]).all():
            raise FewerError(f"{name}: low must be below high; they are {sides[0]} and {sides[1]}")
    slack = 1e-4 * (sides[1] - sides[0])
    if (actions < sides[0] - slack).any() or (actions > sides[1] + slack).any():
        run = f"run from {actions.min():.4g} to {actions.max():.4g}"
        if finite:
            raise FewerError(
                f"{name}: actions {run} and their bounds from {sides[0].min():.4g} to {sides[1].max():.4g}; clip the "
                "actions, or widen the bounds"
            )
        raise FewerError(f"{name}: actions {run} and no finite bounds are known; give low= and high= to scale them by")
    return torch.from_numpy(sides[0]), torch.from_numpy(sides[1])


def _features_of(encoder: nn.Module, demonstrations: Demonstrations, where: torch.device) -> int:
    seen = {
        key: torch.from_numpy(np.ascontiguousarray(array[:2], dtype=np.float32)).to(where)
        for key, array in sorted(parts(demonstrations.observations).items())
    }
    with torch.no_grad():
        out = encoder(seen[""] if list(seen) == [""] else seen)
    if not isinstance(out, Tensor) or out.ndim != 2:
        told = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise FewerError(f"chunk policy: the encoder must give (batch, features); it gave {told}")
    return out.shape[1]
