"""TabM against PyPI's ``tabm`` at equal sizes and weights' shapes, and against gradient boosting on bundled tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import tabm
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from bench.measure import seconds
from fewer.models.optimisers import AdamW, parameter_groups
from fewer.nets import TabM, TabMClassifier, TabMRegressor
from fewer.tasks.classification import Classification
from fewer.tasks.diabetes import diabetes
from fewer.tasks.digits import breast_cancer, digits
from fewer.tasks.friedman import friedman

ROWS, COLUMNS, K, BLOCKS = 256, 20, 32, 3


def run(quick: bool = False) -> dict[str, Any]:
    """Measure time against the package, accuracy and time against boosting."""
    rows = [row for width in (256, 512) for row in speed(width, quick)]
    return {"title": "nets: TabM, k = 32 members", "rows": [*rows, *quality(quick)]}


def speed(width: int, quick: bool) -> list[dict[str, Any]]:
    """A training step and a prediction on 256 rows, turn about with the package."""
    repeats = 2 if quick else 15
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(ROWS, COLUMNS, generator=drawn), torch.randn(ROWS, 1, generator=drawn)
    ours = TabM(COLUMNS, outputs=1, k=K, blocks=BLOCKS, width=width)
    peer = tabm.TabM.make(n_num_features=COLUMNS, d_out=1, k=K, n_blocks=BLOCKS, d_block=width)
    steps = [_step(network, x, y) for network in (ours, peer)]
    training = _medians(steps, repeats)
    for network in (ours, peer):
        network.eval()
    inference = _medians([_prediction(network, x) for network in (ours, peer)], 3 * repeats)
    # members times the matrices, once forward and twice backward, and nothing else
    operations = sum(2 * ROWS * K * i * o for i, o in pairwise([COLUMNS, *[width] * BLOCKS]))
    square = torch.randn(1024, 1024, generator=drawn)
    # the fastest of many: a limit that a busy moment has raised would be none
    limit = operations / (2 * 1024**3) * min(seconds(lambda: square @ square, 1) for _ in range(10 * repeats)) * 1000
    rows = []
    for what, (mine, theirs), times in (("a training step", training, 3), ("a prediction", inference, 1)):
        rows.append(
            {
                "what": f"{what}, {ROWS} rows, {BLOCKS} blocks of {width}",
                "ours": mine,
                "peer": theirs,
                "peer_name": "PyPI tabm",
                "unit": "ms",
                "ratio": theirs / mine,
                "limit": times * limit,
                "limit_is": "the operations of the matrix products, as fast as in a product of 1,024 by 1,024",
            }
        )
    return rows


def quality(quick: bool) -> list[dict[str, Any]]:
    """Test error and time of a fit as it comes, against histogram gradient boosting, means over seeds."""
    tasks = [diabetes(test=0.3), breast_cancer(test=0.3)]
    if not quick:
        tasks += [friedman(1000, test=0.3), digits(test=0.3, rows=700)]
    rows = []
    for task in tasks:
        number = not isinstance(task, Classification)
        errors, taken = np.zeros((2, 2)), np.zeros((2, 2))
        for seed in range(1 if quick else 2):
            split = task.split(seed)
            x, test_x = (part.reshape(len(part), -1) for part in (split.x, split.test_x))
            options: dict[str, Any] = {"width": 128, "random_state": seed} | ({"max_epochs": 2} if quick else {})
            models: list[Any] = [(TabMRegressor if number else TabMClassifier)(**options)]
            models += [(HistGradientBoostingRegressor if number else HistGradientBoostingClassifier)(random_state=seed)]
            for index, model in enumerate(models):
                began = time.perf_counter()
                model.fit(x, split.y)
                taken[index, seed] = time.perf_counter() - began
                errors[index, seed] = 1 - task.score(split.test_y, model.predict(test_x))
        seeds = slice(0, 1 if quick else 2)
        for what, (mine, theirs), unit in (
            ("1 - r2" if number else "share of wrong classes", errors[:, seeds].mean(axis=1), ""),
            ("seconds of a fit, width 128", taken[:, seeds].mean(axis=1), "s"),
        ):
            rows.append(
                {
                    "what": f"{task.name}, {len(split.y)} rows: {what}",
                    "ours": float(mine),
                    "peer": float(theirs),
                    "peer_name": "HistGradientBoosting",
                    "unit": unit,
                    "ratio": float(theirs / mine),
                }
            )
    return rows


def _step(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimiser = AdamW(2e-3, 3e-4).make(parameter_groups(network))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (network(x).squeeze(-1) - y).square().mean().backward()
        optimiser.step()

    return step


def _prediction(network: torch.nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def predict() -> None:
        with torch.inference_mode():
            network(x)

    return predict


def _medians(functions: list[Callable[[], Any]], repeats: int) -> tuple[float, float]:
    """Milliseconds of each, turn about, so that a busy moment hits both alike."""
    pairs = np.array([[seconds(function, 1) for function in functions] for _ in range(repeats + 1)])
    ours, peer = np.median(pairs[1:], axis=0) * 1000
    return float(ours), float(peer)
