"""Train one bottleneck adapter for each of several tasks, on one frozen encoder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.bottleneck_adapter import Bottleneck
from fewer.adapt.first_token import encoder_of
from fewer.adapt.given_rows import Given
from fewer.adapt.loop import Adaptation, Inputs, Labelled, rows_at
from fewer.adapt.task_adapter import TaskAdapter
from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import derive, generator
from fewer.models.optimisers import AdamW
from fewer.tasks.files import existing, read_csv

Examples = tuple[Any, Any] | str | os.PathLike[str]
"""Rows and labels, or a CSV file with the columns ``text`` and ``label``."""


def train_adapters(
    model: nn.Module | str | os.PathLike[str],
    datasets: Mapping[str, Examples],
    *,
    reduction: float = 16.0,
    activation: str = "relu",
    lr: float = 3e-4,
    epochs: int = 30,
    batch: int = 32,
    patience: int = 5,
    validation: float = 0.1,
    seed: int = 0,
) -> dict[str, TaskAdapter]:
    """Train an adapter for each task, with a head of its own that is thrown away; the encoder stays as it is to the bit.

    Parameters
    ----------
    model : nn.Module or path
        An encoder: of ``transformers``, the folder of one, or one of this library's.
    datasets : mapping of str to (rows, labels) or path
        For each task texts, token numbers, images or what else the encoder takes, with a label each; or a CSV file with the
        columns ``text`` and ``label``.
    reduction : float, default 16
        Channels of a token for one unit of an adapter.
    activation : {"relu", "gelu", "silu"}, default "relu"
        Between its two matrices.
    lr : float, default 3e-4
        Peak learning rate of adapters and heads.
    epochs, batch : int, default 30 and 32
        At most so many times through the rows, and rows a step.
    patience : int, default 5
        Epochs without a better one, by the rows put aside, after which a training ends.
    validation : float, default 0.1
        Share of the rows that is put aside; with 0, all are learned from to the end.
    seed : int, default 0
        Of weights and order.

    Returns
    -------
    dict of str to TaskAdapter
        For :class:`~fewer.adapt.scalearn.ScaLearn`, and for :func:`~fewer.adapt.adapter_files.save_adapters`.

    Raises
    ------
    FewerError
        If there is no task, or rows and labels do not fit one another or the encoder.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> images, rng = torch.rand(20, 1, 8, 8), np.random.default_rng(0)
    >>> tasks = {"dark": (images, rng.integers(2, size=20)), "round": (images, rng.integers(3, size=20))}
    >>> list(train_adapters(net, tasks, epochs=1, reduction=4))
    ['dark', 'round']
    """
    if not datasets:
        raise FewerError("adapters: there is no task to train one for; give {name: (rows, labels)}")
    encoder, way = encoder_of(model), Bottleneck(reduction, activation, lr)
    trained = {}
    for task, data in datasets.items():
        x, y = examples(data, f"task {task}")
        rows = rows_for(encoder, x, f"task {task}")
        loop = Adaptation(
            adapter=way, optimiser=AdamW(lr, 0.0), batch=batch, validation=validation, patience=patience, points=1
        )
        adapted, _ = fit_rows(loop, encoder, rows, y, derive(seed, task), f"task {task}", epochs)
        trained[task] = way.trained(adapted.readout, task)
    return trained


def fit_rows(
    loop: Adaptation,
    encoder: nn.Module,
    rows: Inputs,
    y: Sequence[Any],
    seed: int,
    what: str,
    epochs: int,
    least: int = 1,
) -> tuple[Adapted, np.ndarray]:
    """Adapt an encoder to rows for some epochs, at least so many steps; gives the labels in the order of its classes, too.

    Rows are shuffled first, as those that come last may be put aside.

    Raises
    ------
    FewerError
        If rows and labels do not match, or there is one class only.
    """
    count = len(next(iter(rows.values()))) if isinstance(rows, dict) else len(rows)
    labels = np.asarray(y)
    if count != len(labels) or count < 2:
        raise FewerError(f"{what}: {count} rows and {len(labels)} labels; give two rows or more, and a label for each")
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise FewerError(f"{what}: all labels are {str(classes[0])!r}; give rows of at least two classes")
    order = torch.from_numpy(generator(seed, "rows").permutation(count))
    known: Int[Tensor, " rows"] = torch.from_numpy(places.astype(np.int64))[order]
    rows = rows_at(rows, order)
    learned = count - round(loop.validation * count)
    loop = dataclasses.replace(loop, steps=max(least, epochs * -(-max(learned, 1) // loop.batch)))
    had = [each.requires_grad for each in encoder.parameters()]
    task = Given(encoder, Labelled(rows, known, rows_at(rows, slice(0)), known[:0]), tuple(map(str, classes)))
    training = encoder.training
    try:
        adapted, _ = loop.train(loop.start(task, count, seed), count)
    finally:
        encoder.train(training)
        for each, before in zip(encoder.parameters(), had, strict=True):
            each.requires_grad_(before)
    return adapted, classes


def examples(data: Examples, what: str) -> tuple[Any, Sequence[Any]]:
    """Rows and labels, of a pair or of a CSV file."""
    if not isinstance(data, str | os.PathLike):
        if not isinstance(data, tuple) or len(data) != 2:
            raise FewerError(f"{what}: give (rows, labels), or a CSV file with the columns text and label")
        return data
    table = read_csv(existing(os.fspath(data)), ",")
    for column in ("text", "label"):
        if column not in table.columns:
            raise FewerError(f"{what}: {Path(data).name} has no column {column!r}; {nearest(column, table.columns)}")
        gaps = np.flatnonzero(table[column].isna().to_numpy())
        if len(gaps):
            first = int(gaps[0]) + 1
            raise FewerError(f"{what}: {Path(data).name} has no {column} in row {first}; fill it or drop the row")
    return table["text"].astype(str).tolist(), table["label"].tolist()


def rows_for(encoder: nn.Module, x: Any, what: str) -> Inputs:
    """Rows as an encoder takes them: texts by its tokens, numbers as tensors.

    Raises
    ------
    FewerError
        If the encoder reads no texts, or numbers are not finite.
    """
    if isinstance(x, Mapping):
        return {name: torch.as_tensor(each) for name, each in x.items()}
    if isinstance(x, str):
        raise FewerError(f"{what}: a single text was given; give a list of texts")
    if len(x) and isinstance(x[0], str):
        read = getattr(encoder, "tokens", None)
        if read is None:
            raise FewerError(f"{what}: a {type(encoder).__name__} reads no texts; give what it takes, as an array")
        return read(list(x))
    rows = x if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    if rows.is_floating_point():
        if not bool(torch.isfinite(rows).all()):
            raise FewerError(f"{what}: rows hold NaN or infinity; fill or drop them")
        return rows.float()
    return rows.long()
