"""How a diffusion policy is trained, on demonstrations and on other chunks beside them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.errors import Diverged
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.demos.demonstrations import Demonstrations, Observations, parts
from fewer.models.moving_average import follow

if TYPE_CHECKING:
    from fewer.demos.diffusion_policy import DiffusionPolicy


class DiffusionTraining:
    """A training in progress.

    Parameters
    ----------
    policy : DiffusionPolicy
        Who is trained.
    demonstrations : Demonstrations
        What from.
    seed : int
        Of everything random.
    done : int, default 0
        Updates that were made before, of which the policy is the average.

    Attributes
    ----------
    policy : DiffusionPolicy
        The average that acts.
    """

    def __init__(self, policy: DiffusionPolicy, demonstrations: Demonstrations, seed: int, done: int = 0) -> None:
        settings = policy.settings
        self.policy, self.fast, self.seed, self.done = policy.eval(), copy.deepcopy(policy).train(), seed, done
        self.optimiser = torch.optim.AdamW(
            self.fast.parameters(),
            lr=settings.lr,
            betas=(0.95, 0.999),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.stream = torch_generator(seed, "chunks")
        windows = demonstrations.chunks(settings.chunk)
        self.demonstrated = ChunkData.of(
            demonstrations, policy.scaled(demonstrations.actions)[torch.from_numpy(windows.index)], windows.mask
        )

    def advance(self, steps: int, others: ChunkData | None = None) -> None:
        """Make some updates; where other chunks are given, every batch is of theirs or of the demonstrations at even odds.

        Raises
        ------
        Diverged
            If the loss becomes NaN.
        """
        settings, loss = self.policy.settings, torch.zeros(())
        draws: dict[int, Callable[[Tensor], Tensor]] = {}
        with own_randomness(self.seed, "diffusion", self.done):
            coins = torch.rand(steps, generator=self.stream).tolist()
            for coin in coins:
                data = self.demonstrated if others is None or coin < 0.5 else others
                if id(data) not in draws:
                    draws[id(data)] = data.features(self.fast)
                rows = torch.randint(len(data.chunks), (settings.batch,), generator=self.stream)
                features = draws[id(data)](rows)
                rows = rows.to(features.device)
                loss = self.fast.loss(features, data.chunks[rows], data.mask[rows])
                self.optimiser.zero_grad(set_to_none=True)
                loss.backward()
                self.optimiser.step()
                follow(self.policy, self.fast, 1 - min(settings.decay, (1 + self.done) / (10 + self.done)))
                self.done += 1
        if not torch.isfinite(loss):
            raise Diverged(f"diffusion-policy: the loss became {float(loss.detach())}; lower the learning rate")


@dataclass(frozen=True)
class ChunkData:
    """Observations, and the chunk that shall follow each.

    Parameters
    ----------
    observations : array (steps, ...), or a dict of arrays
        What is seen.
    episode_begin : int array (steps,)
        Where each step's episode begins.
    chunks : float tensor (steps, chunk, action)
        In [-1, 1].
    mask : bool tensor (steps, chunk)
        Which actions count.
    """

    observations: Observations = field(repr=False)
    episode_begin: Int[np.ndarray, " steps"]
    chunks: Float[Tensor, "steps chunk action"]
    mask: Tensor

    @classmethod
    def of(cls, episodes: Demonstrations, chunks: Float[Tensor, "steps chunk action"], mask: np.ndarray) -> ChunkData:
        """For each step of some episodes."""
        begin = episodes.offsets[episodes.episode_of_step()]
        return cls(episodes.observations, begin, chunks, torch.from_numpy(mask).to(chunks.device))

    def features(self, policy: DiffusionPolicy) -> Callable[[Tensor], Tensor]:
        """From step numbers to features."""
        if not policy.seen.images:
            table = policy.features([self.observations])
            return lambda rows: table[rows.to(table.device)]
        return lambda rows: policy.features(self._frames(rows.numpy(), policy.settings.frames))

    def _frames(self, rows: np.ndarray, frames: int) -> list[Observations]:
        given = parts(self.observations)
        found = []
        for back in range(frames - 1, -1, -1):
            at = np.maximum(rows - back, self.episode_begin[rows])
            found.append({key: array[at] for key, array in given.items()})
        return found
