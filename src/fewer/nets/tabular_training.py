"""How an ensemble network for tables is trained, and when it is stopped.

Each member is trained by its own loss.  After each pass over the rows the ensemble, not the members, is scored
on rows that are held out; training stops when that has not improved for a while, and the best network is kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from fewer.core.errors import Diverged, FewerError
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.nets.tabm import TabM

Loss = Callable[[Float[Tensor, "rows k outputs"], Shaped[Tensor, "rows #k"]], Float[Tensor, "rows k"]]
"""Loss of each member on each row."""

Validate = Callable[[Float[Tensor, "rows k outputs"], Shaped[Tensor, " rows"]], tuple[Tensor, Tensor]]
"""The ensemble's score, and what decides between equal ones; higher is better."""


@dataclass(frozen=True)
class Training:
    """The settings of a training; see :class:`fewer.nets.tabular_estimators.TabMEstimator`.

    Raises
    ------
    FewerError
        If one is out of range; named by ``name``.
    """

    name: str
    lr: float
    weight_decay: float
    gradient_clip: float | None
    batch_size: int | str
    share_batches: bool
    max_epochs: int
    patience: int

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and (isinstance(self.batch_size, str) or self.batch_size < 1):
            raise FewerError(f"{self.name}: batch_size is {self.batch_size!r}; give a number of rows or 'auto'")
        if min(self.max_epochs, self.patience) < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise FewerError(
                f"{self.name}: max_epochs and patience must be at least 1, lr above 0 and weight_decay not below 0; "
                f"given {self.max_epochs}, {self.patience}, {self.lr} and {self.weight_decay}"
            )
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise FewerError(f"{self.name}: gradient_clip is {self.gradient_clip}; give a norm above 0, or None")

    def train(
        self,
        network: TabM,
        rows: tuple[Float[Tensor, "rows columns"], Shaped[Tensor, " rows"]],
        stop: tuple[Float[Tensor, "held columns"], Shaped[Tensor, " held"]],
        loss: Loss,
        validate: Validate,
        show: Callable[[int, float], None],
    ) -> tuple[list[float], int]:
        """Train a network in place.

        Parameters
        ----------
        network : TabM
            On the device of the rows.
        rows, stop : tuple (x, y)
            What to learn from, and what to stop by.
        loss, validate : callable
            Of members and of the ensemble.
        show : callable
            Told each epoch and its score.

        Returns
        -------
        list of float
            The score after each epoch.
        int
            The epoch whose network was kept, counted from 1.

        Raises
        ------
        Diverged
            If the validation loss becomes NaN or infinite.
        """
        x, y = rows
        optimiser = AdamW(self.lr, self.weight_decay).make(parameter_groups(network))
        size = automatic_batch(len(x)) if self.batch_size == "auto" else int(self.batch_size)
        kept = {name: each.clone() for name, each in network.state_dict().items()}
        best, best_epoch = (-math.inf, -math.inf), 0
        history: list[float] = []
        for epoch in range(1, self.max_epochs + 1):
            network.train()
            for batch in self._order(len(x), network.k, x.device).split(size):
                optimiser.zero_grad(set_to_none=True)
                target = y[batch] if batch.ndim == 2 else y[batch, None]
                loss(network(x[batch]), target).mean().backward()
                if self.gradient_clip is not None:
                    torch.nn.utils.clip_grad_norm_(network.parameters(), self.gradient_clip, foreach=True)
                optimiser.step()
            network.eval()
            with torch.inference_mode():
                score, tie = map(float, validate(network(stop[0]), stop[1]))
            if not (math.isfinite(score) and math.isfinite(tie)):
                raise Diverged(f"{self.name}: the validation loss became {-tie} in epoch {epoch}; lower lr")
            history.append(score)
            show(epoch, score)
            if (score, tie) > best:
                best, best_epoch = (score, tie), epoch
                for name, each in network.state_dict().items():
                    kept[name].copy_(each)
            elif epoch - best_epoch >= self.patience:
                break
        network.load_state_dict(kept)
        return history, best_epoch

    def _order(self, rows: int, k: int, device: torch.device) -> Int[Tensor, "rows ..."]:
        if self.share_batches:
            return torch.randperm(rows, device=device)
        return torch.rand(rows, k, device=device).argsort(dim=0)


def automatic_batch(rows: int) -> int:
    """An eighth of the rows, as a power of two within 16 and 256.

    Examples
    --------
    >>> automatic_batch(10), automatic_batch(500), automatic_batch(10**6)
    (16, 64, 256)
    """
    return 2 ** min(8, max(4, round(math.log2(max(rows, 1) / 8))))


def hold_out(
    target: Shaped[np.ndarray, " rows"], share: float, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " stop"]]:
    """Divide rows into those to learn from and those to stop by.

    Classes (whole numbers) are held out in their shares, and one row of each stays to be learned from; of other
    targets, two rows stay.  Where no row can be spared, the rows to learn from are also those to stop by.

    Examples
    --------
    >>> train, stop = hold_out(np.array([0, 1, 0, 1, 0, 1, 2]), 0.3, np.random.default_rng(0))
    >>> len(train), len(stop), 6 in train
    (5, 2, True)
    """
    order = rng.permutation(len(target))
    if target.dtype.kind == "i":
        order = order[np.argsort(target[order], kind="stable")]
        first = np.r_[True, np.diff(target[order]) > 0]
        spare = order[~first]
    else:
        spare = order[2:]
    count = min(max(1, round(share * len(target))), len(spare))
    if not count:
        return order, order
    # evenly over the classes, which lie one after another
    stop = spare[np.floor((np.arange(count) + 0.5) * len(spare) / count).astype(int)]
    return np.setdiff1d(order, stop), stop


@contextlib.contextmanager
def progress(title: str | None, epochs: int) -> Iterator[Callable[[int, float], None]]:
    """Show epochs as they pass, on standard error; nothing without a title."""
    if title is None:
        yield lambda epoch, score: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("epoch {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=epochs)
        yield lambda epoch, score: bar.update(task, completed=epoch, description=f"{title}: validation {score:.4g}")
