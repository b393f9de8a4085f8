"""A teacher that knows a lot and is wrong in a pattern.

A large pre-trained model asked about a new task mixes up certain classes and not others.  This
stand-in does the same at the size of a toy: a small network is trained on rows of which many bear
the label of one particular other class.  It is made anew for each seed from rows set aside for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from fewer.core.seeding import derive, generator, torch_generator
from fewer.tasks.classification import Split


@dataclass(frozen=True)
class BiasedTeacher:
    """A two-layer network trained on labels that some classes have swapped for a neighbour's.

    On ``mnist5k(test=1500, teacher="biased")``, with 1,000 rows of its own, its most probable class
    is right for .67 of the pool (mean of 20 seeds; four in five lie in .64 to .69).

    Parameters
    ----------
    classes : int, default 10
        How many there are.
    confusions : tuple of (int, int)
        The class that is relabelled, and as what.
    probability : float, default 0.45
        How likely a row of such a class is relabelled.
    hidden : int, default 128
        Width of the network.
    epochs : int, default 12
        Passes over its rows, with Adam.
    batch : int, default 64
        Rows a step.  Fewer rows make more steps, and a better teacher: 32 gives .70, 128 gives .62.
    learning_rate : float, default 1e-3
        Adam's.
    """

    classes: int = 10
    confusions: tuple[tuple[int, int], ...] = ((4, 9), (3, 5), (7, 1), (8, 3), (2, 7))
    probability: float = 0.45
    hidden: int = 128
    epochs: int = 12
    batch: int = 64
    learning_rate: float = 1e-3

    def __call__(self, x: Float[np.ndarray, "rows ..."], y: Int[np.ndarray, " rows"], split: Split, seed: int) -> Split:
        """Train on ``x`` and ``y``, and write logits for the whole pool into ``split.teacher``."""
        inputs = torch.from_numpy(x.reshape(len(x), -1))
        targets = torch.from_numpy(self._relabel(y, generator(seed, "teacher")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "teacher"))
            network = nn.Sequential(
                nn.Linear(inputs.shape[1], self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.classes)
            )
        optimiser = torch.optim.Adam(network.parameters(), lr=self.learning_rate, fused=True)
        order = torch_generator(seed, "teacher", "order")
        for _ in range(self.epochs):
            for rows in torch.randperm(len(inputs), generator=order).split(self.batch):
                optimiser.zero_grad()
                nn.functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
                optimiser.step()
        with torch.inference_mode():
            logits = network(torch.from_numpy(split.x.reshape(len(split.x), -1))).numpy()
        return replace(split, teacher=logits)

    def _relabel(self, y: Int[np.ndarray, " rows"], rng: np.random.Generator) -> Int[np.ndarray, " rows"]:
        becomes = np.arange(self.classes)
        for old, new in self.confusions:
            becomes[old] = new
        # every row is looked up once, so that a 7 made out of a 2 does not go on to become a 1
        return np.where(rng.random(len(y)) < self.probability, becomes[y], y)
