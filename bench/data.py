"""What a method of this room costs beside the training itself: choosing ten million rows, and a richer loss."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans

from bench.measure import bandwidth, seconds
from fewer.data import CutMix, DecoupledMixup, SeTa
from fewer.data.clusters import Clusters, kmeans
from fewer.data.loop import Batch, CrossEntropy, Epoch, Loss
from fewer.models.classifier import ConvNet

REPEATS = 3


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this room."""
    return {"title": "data: choosing and mixing rows", "rows": [*seta(quick), *decoupled_mixup(quick)]}


def seta(quick: bool) -> list[dict[str, Any]]:
    """SeTa's own work in one epoch, against the same with scikit-learn's KMeans, on the same losses."""
    rows, sampler = 200_000 if quick else 10_000_000, SeTa()
    # as losses are in the middle of training: most are small, a few large
    losses = np.random.default_rng(0).lognormal(-2, 1.5, rows).astype(np.float32)
    groups, window = sampler.groups, sampler.visited_groups

    def ours() -> np.ndarray:
        return kmeans(losses, groups).within(losses, 1, 1 + window)

    def peer() -> np.ndarray:
        labels, centres = _scikit_learn(losses, groups)
        return np.isin(labels, np.argsort(centres)[1 : 1 + window])

    def whole_epoch() -> np.ndarray:
        return sampler.select(Epoch(1, 30, rows, losses, np.random.default_rng(0))).rows

    mine, theirs = seconds(ours, REPEATS), seconds(peer, REPEATS)
    # the smallest value is found, cells are filled, the window is marked: three times the losses, one byte out
    limit = (3 * losses.nbytes + rows) / bandwidth()
    peaks = [_peak(function) for function in (ours, peer)]
    spread = [
        _inertia(losses, _labels(losses, kmeans(losses, groups))),
        _inertia(losses, _scikit_learn(losses, groups)[0]),
    ]
    chosen = seconds(whole_epoch, REPEATS)
    shuffle = seconds(lambda: np.random.default_rng(0).permutation(rows), REPEATS)
    return [
        {
            "what": f"SeTa: cluster {rows:,} losses and mark the window",
            "ours": mine,
            "peer": theirs,
            "peer_name": "scikit-learn KMeans",
            "unit": "s",
            "ratio": theirs / mine,
            "limit": limit,
            "limit_is": "memory bandwidth, if the losses are read three times",
        },
        {
            "what": "… peak memory over the losses themselves",
            "ours": peaks[0] / 2**20,
            "peer": peaks[1] / 2**20,
            "peer_name": "scikit-learn KMeans",
            "unit": "MiB",
            "ratio": peaks[1] / peaks[0],
            "limit": rows / 2**20,
            "limit_is": "the mask of the window, a byte a row",
        },
        {
            "what": "… sum of squares within clusters, over the variance",
            "ours": spread[0],
            "peer": spread[1],
            "peer_name": "scikit-learn KMeans",
            "unit": "",
            "ratio": spread[1] / spread[0],
        },
        {
            "what": f"SeTa: all of an epoch's choice from {rows:,} rows, with drop and shuffle",
            "ours": chosen,
            "peer": shuffle,
            "peer_name": "shuffling all rows",
            "unit": "s",
            "ratio": shuffle / chosen,
        },
    ]


def decoupled_mixup(quick: bool) -> list[dict[str, Any]]:
    """A training step with the decoupled loss, against the same with mixed cross-entropy."""
    batch, repeats = 100, 20 if quick else 200
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.rand(batch, 1, 14, 14, generator=drawn), torch.randint(10, (batch,), generator=drawn)
    network = ConvNet().build((1, 14, 14), 10)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, foreach=True)
    mixing = CutMix()

    def step(loss: Loss) -> None:
        mixed, target = mixing.mix(Batch(x, y, drawn))
        optimiser.zero_grad(set_to_none=True)
        loss(network(mixed), target).mean().backward()
        optimiser.step()

    # turn about, so that a busy moment hits both alike
    pairs = np.array([[seconds(lambda loss=loss: step(loss), 1) for loss in LOSSES] for _ in range(repeats)])
    ours, peer = np.median(pairs[repeats // 10 :], axis=0) * 1000
    return [
        {
            "what": f"a training step on {batch} mixed images with the decoupled loss",
            "ours": float(ours),
            "peer": float(peer),
            "peer_name": "mixed cross-entropy",
            "unit": "ms",
            "ratio": float(peer / ours),
            "limit": float(peer),
            "limit_is": "the same step without the term",
        }
    ]


LOSSES: tuple[Loss, Loss] = (DecoupledMixup(), CrossEntropy())


def _peak(function: Any) -> int:
    """Peak bytes that a call allocates, NumPy's included."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _labels(values: np.ndarray, found: Clusters) -> np.ndarray:
    return np.searchsorted(found.edges, values - found.origin, side="right")


def _scikit_learn(values: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    fitted = KMeans(clusters, random_state=0).fit(values[:, None])
    return np.asarray(fitted.labels_), fitted.cluster_centers_.ravel()


def _inertia(values: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance to the cluster's mean, as a share of the variance."""
    counts, sums = np.bincount(labels), np.bincount(labels, weights=values)
    squares = np.bincount(labels, weights=values.astype(np.float64) ** 2)
    return float((squares - sums**2 / counts).sum() / len(values) / values.var(dtype=np.float64))
