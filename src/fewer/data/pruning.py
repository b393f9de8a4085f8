"""Any sampler of this room in anybody's training script: an indexed data set, a sampler, one call for the loss.

The data set hands out each item's index, so nothing of torch has to be patched, and worker processes
and third-party loaders see ordinary objects.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed
from torch.utils.data import Dataset, IterableDataset

from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.data.loop import Epoch, Sampler

BLOCK = 65_536
"""Row numbers that are Python integers at a time."""


class IndexedDataset(Dataset[Any]):
    """A map-style data set whose items come with their index.

    Parameters
    ----------
    items : map-style data set
        Has ``len`` and can be indexed.

    Examples
    --------
    >>> IndexedDataset([("a", 0), ("b", 1)])[1], IndexedDataset([{"text": "a"}])[0], IndexedDataset("ab")[1]
    (('b', 1, 1), {'text': 'a', 'index': 0}, ('b', 1))
    """

    def __init__(self, items: Any) -> None:
        if isinstance(items, IterableDataset) or not (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
            raise FewerError(
                f"a {type(items).__name__} cannot be pruned, since its items cannot be asked for by number; "
                "give a map-style data set, with __len__ and __getitem__"
            )
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return _with_index(self.items[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Items of a batch, in one request where the data set can do that."""
        together = getattr(self.items, "__getitems__", None)
        items = together(indices) if together is not None else [self.items[index] for index in indices]
        return [_with_index(item, index) for item, index in zip(items, indices, strict=True)]


def _with_index(item: Any, index: int) -> Any:
    if isinstance(item, Mapping):
        return {**item, "index": index}
    return (*item, index) if isinstance(item, tuple | list) else (item, index)


class Pruner:
    """Lets a sampler of this room choose, epoch by epoch, what a ``DataLoader`` visits.

    Parameters
    ----------
    dataset : map-style data set
        Has ``len`` and can be indexed.
    sampler : Sampler
        :class:`~fewer.data.SeTa`, :class:`~fewer.data.InfoBatch`, :class:`~fewer.data.DynamicRandom` …
    epochs : int
        Epochs planned; samplers anneal towards the end.
    seed : int, default 0
        Of all that is drawn.
    split_ranks : bool, default True
        Where torch.distributed runs, hand each rank its part of the epoch's rows.  Set it to False
        where the framework divides batches itself, as accelerate and Hugging Face's Trainer do.

    Attributes
    ----------
    dataset : IndexedDataset
        For the loader: ``(x, y)`` comes out as ``(x, y, index)``, a mapping with the key ``"index"``,
        anything else as ``(item, index)``.
    sampler : EpochSampler
        For the loader.
    losses : float32 array (rows,)
        The last loss of each row; NaN for a row not visited yet.  Brought up to date between epochs.
    visits : int
        Rows handed out in all epochs so far, on all ranks.

    Raises
    ------
    FewerError
        If the data set cannot be indexed.

    Notes
    -----
    Epochs have different lengths: step the learning-rate schedule once an epoch, not once a batch.

    With several ranks, all draw the same rows: they have the same seed, and exchange the losses of an
    epoch before they draw the next.  A few rows are repeated so that all ranks get equally many.

    In Hugging Face's Trainer: train on ``pruner.dataset`` with ``remove_unused_columns=False``, return
    ``pruner.sampler`` from ``_get_train_sampler``, and in ``compute_loss`` pop ``"index"`` from the inputs
    and return ``pruner.update(loss_of_each_row, index)``.

    Examples
    --------
    >>> from fewer.data import SeTa
    >>> rows = torch.utils.data.TensorDataset(torch.rand(100, 4), torch.arange(100) % 3)
    >>> pruner = Pruner(rows, SeTa(), epochs=2)
    >>> loader = torch.utils.data.DataLoader(pruner.dataset, batch_size=50, sampler=pruner.sampler)
    >>> model = torch.nn.Linear(4, 3)
    >>> for epoch in range(2):
    ...     for x, y, index in loader:
    ...         each = torch.nn.functional.cross_entropy(model(x), y, reduction="none")
    ...         pruner.update(each, index).backward()
    >>> pruner.visits
    180
    """

    def __init__(self, dataset: Any, sampler: Sampler, epochs: int, seed: int = 0, *, split_ranks: bool = True) -> None:
        if epochs < 1:
            raise FewerError(f"epochs must be at least 1; {epochs} was given")
        self.dataset = IndexedDataset(dataset)
        self.chooser = sampler
        self.epochs = epochs
        self.seed = seed
        self.split_ranks = split_ranks
        self.sampler = EpochSampler(self)
        self.losses: Float[np.ndarray, " rows"] = np.full(len(dataset), np.nan, dtype=np.float32)
        self.visits = 0
        self._drawn = 0  # epochs whose rows have been drawn
        self._waiting = False  # the rows of the last of them were not handed out yet
        self._rows: Int[np.ndarray, " n"] = np.zeros(0, dtype=np.int64)
        self._weights: Tensor | None = None
        self._updated = 0  # rows of this epoch, on this rank, whose loss is known
        # losses since the last draw, where they were computed; NaN where there is none, infinity for a bad one
        self._fresh: Tensor | None = None
        self._memory: dict[str, Any] = {}

    @property
    def saved(self) -> float:
        """Share of the visits of full training that were not made, over the epochs so far."""
        return 1 - self.visits / (len(self.losses) * self._drawn) if self._drawn else 0.0

    def update(self, loss: Float[Tensor, " batch"], index: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Note the losses of a batch, and reduce them to the one to go backward from.

        Nothing waits for the accelerator here; losses that are not finite are warned about at the next
        draw, and those rows keep the loss they had.

        Parameters
        ----------
        loss : float tensor (batch,)
            Loss of each row; sum or average the tokens of a sequence first.
        index : int tensor (batch,)
            The rows' numbers, as the data set handed them out.

        Returns
        -------
        float tensor ()
            The mean, weighted where the sampler weights rows.

        Raises
        ------
        FewerError
            If ``loss`` is reduced already, or does not fit ``index``.
        """
        if loss.ndim != 1 or loss.shape != index.shape:
            raise FewerError(
                f"update needs one loss a row; given {tuple(loss.shape)} for {index.numel()} rows; "
                'compute it with reduction="none"'
            )
        index = index.to(loss.device)
        self._fresh = self._noted(loss.device)
        known = loss.detach().to(self._fresh.dtype)
        self._fresh[index] = torch.where(torch.isfinite(known), known, torch.inf)
        self._updated += len(index)
        if self._weights is not None:
            self._weights = self._weights.to(loss.device)
            loss = loss * self._weights[index].to(loss.dtype)
        return loss.mean()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs: arrays, tensors and numbers.

        Saved inside an epoch, it resumes at that epoch's beginning with the same rows in the same order,
        so that a framework can skip the batches it has seen.  With several ranks, load one rank's state
        on all of them.
        """
        return {
            "seed": self.seed,
            "losses": self.losses.copy(),
            "visits": self.visits,
            "drawn": self._drawn,
            "waiting": self._waiting or self._updated < len(self._own_rows()),
            "rows": self._rows.copy(),
            "weights": None if self._weights is None else self._weights.cpu(),
            "fresh": None if self._fresh is None else self._fresh.cpu(),
            "memory": dict(self._memory),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up where another run over the same data set stood.

        Raises
        ------
        FewerError
            If the state is of another number of rows, or of another seed.
        """
        if len(state["losses"]) != len(self.losses) or state["seed"] != self.seed:
            raise FewerError(
                f"the saved state is of {len(state['losses'])} rows and seed {state['seed']}; this one has "
                f"{len(self.losses)} rows and seed {self.seed}; load it where both are the same"
            )
        self.losses = np.array(state["losses"], dtype=np.float32)
        self.visits, self._drawn, self._waiting = state["visits"], state["drawn"], state["waiting"]
        self._rows, self._weights = np.array(state["rows"], dtype=np.int64), state["weights"]
        self._fresh, self._memory = state["fresh"], dict(state["memory"])
        self._updated = 0 if self._waiting else len(self._own_rows())

    def rows(self, *, begin: bool) -> Int[np.ndarray, " n"]:
        """Rows of this rank in the epoch under way.

        Parameters
        ----------
        begin : bool
            Begin the next epoch, unless the one that was drawn last is still waiting to be begun.
        """
        if not self._drawn or (begin and not self._waiting):
            self._draw()
        if begin:
            self._waiting, self._updated = False, 0
        return self._own_rows()

    def _draw(self) -> None:
        self._exchange()
        rng = generator(self.seed, "sampler", self._drawn)
        epoch = Epoch(self._drawn, self.epochs, len(self.losses), self.losses, rng, self._memory)
        chosen = self.chooser.select(epoch)
        if not len(chosen.rows):
            raise FewerError(
                f"{type(self.chooser).__name__} chose no row for epoch {self._drawn + 1}; let it keep more"
            )
        self._rows = np.asarray(chosen.rows, dtype=np.int64)
        self._weights = None
        if chosen.weights is not None:
            self._weights = torch.ones(len(self.losses))
            self._weights[torch.from_numpy(self._rows)] = torch.as_tensor(chosen.weights, dtype=torch.float32)
        self._drawn += 1
        self._waiting = True
        self.visits += len(self._rows)

    def _own_rows(self) -> Int[np.ndarray, " n"]:
        if not (self.split_ranks and _ranks_run()):
            return self._rows
        ranks = distributed.get_world_size()
        each = -(-len(self._rows) // ranks)
        return np.resize(self._rows, each * ranks)[distributed.get_rank() :: ranks]

    def _noted(self, device: torch.device) -> Tensor:
        if self._fresh is None:
            return torch.full((len(self.losses),), torch.nan, device=device)
        return self._fresh.to(device)

    def _exchange(self) -> None:
        """Bring the losses noted since the last draw to ``self.losses``, on all ranks alike."""
        if self._fresh is None and not _ranks_run():
            return
        on_accelerator = _ranks_run() and distributed.get_backend() == "nccl"
        fresh = self._noted(torch.device("cuda" if on_accelerator else "cpu"))
        # a row repeated to fill the last batch has a loss on two ranks; all take the mean
        table = torch.stack(
            (torch.nan_to_num(fresh, posinf=0.0), torch.isfinite(fresh).float(), torch.isinf(fresh).float())
        )
        if _ranks_run():
            distributed.all_reduce(table)
        total, count, bad = table.cpu().numpy()
        known = count > 0
        self.losses = np.where(known, total / np.where(known, count, 1), self.losses)
        self._fresh = None
        if bad.any():
            warnings.warn(
                f"the loss of {np.count_nonzero(bad)} rows was NaN or infinite (the first is row {int(bad.argmax())}); "
                "they keep the loss they had",
                stacklevel=2,
            )


class EpochSampler(torch.utils.data.Sampler[int]):
    """The rows that a :class:`Pruner` chooses, as a sampler of torch.

    Each ``iter`` begins an epoch; ``len`` is that of the epoch under way, until the next one begins.
    """

    def __init__(self, pruner: Pruner) -> None:
        self.pruner = pruner

    def __len__(self) -> int:
        return len(self.pruner.rows(begin=False))

    def __iter__(self) -> Iterator[int]:
        rows = self.pruner.rows(begin=True)
        # in blocks: ten million Python integers would take 320 MB
        blocks = (rows[start : start + BLOCK].tolist() for start in range(0, len(rows), BLOCK))
        return itertools.chain.from_iterable(blocks)


def _ranks_run() -> bool:
    return distributed.is_available() and distributed.is_initialized()
