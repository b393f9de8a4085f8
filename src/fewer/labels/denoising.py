"""A warm start without labels: a denoising autoencoder.

Knows a classifier's backbone and unlabelled rows; the head stays as it was initialised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn

from fewer.core.seeding import torch_generator
from fewer.labels.fine_tuning import seeded
from fewer.models.classifier import Classifier


@dataclass(frozen=True)
class DenoisingAutoencoder:
    """Warm start without labels: learn to fill in what was blanked.

    The backbone and a decoder (one hidden layer of twice its width) are trained to give back whole
    rows from rows with entries set to zero; the decoder is then thrown away.  Features should be on
    one scale, as pixels are.

    Parameters
    ----------
    steps : int, default 600
        Optimiser steps.
    drop : float, default 0.3
        Share of entries blanked.
    batch : int, default 128
        Rows a step, drawn with replacement.
    lr : float, default 1e-3
        Adam's.

    References
    ----------
    P. Vincent, H. Larochelle, Y. Bengio and P.-A. Manzagol, "Extracting and Composing Robust Features
    with Denoising Autoencoders", ICML 2008.
    """

    steps: int = 600
    drop: float = 0.3
    batch: int = 128
    lr: float = 1e-3

    def pretrain(self, network: Classifier, x: Shaped[np.ndarray, "pool ..."], seed: int) -> float:
        """Train the backbone in place on unlabelled rows; give the last step's mean squared error."""
        where = next(network.parameters()).device
        draws = torch_generator(seed, "denoise")
        size = math.prod(x.shape[1:])
        with seeded(seed, "denoise"):
            decoder = nn.Sequential(
                nn.Linear(network.width, 2 * network.width), nn.ReLU(), nn.Linear(2 * network.width, size)
            ).to(where)
            parameters = [*network.backbone.parameters(), *decoder.parameters()]
            optimiser = torch.optim.Adam(parameters, lr=self.lr, fused=True)
            network.train()
            loss = torch.zeros(())
            for _ in range(self.steps):
                # rows are taken from the pool batch by batch: it may be a memory map larger than memory
                rows = torch.randint(len(x), (self.batch,), generator=draws).numpy()
                whole = torch.from_numpy(np.ascontiguousarray(x[rows], dtype=np.float32))
                seen = whole * (torch.rand(whole.shape, generator=draws) >= self.drop)
                loss = nn.functional.mse_loss(decoder(network.features(seen.to(where))), whole.flatten(1).to(where))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        return float(loss.detach())
