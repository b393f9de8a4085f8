"""What a window cascade saves: passes and time with two forests, and what its own work costs on stored outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from bench.measure import seconds
from fewer.nets import EarlyExitCascade, WindowCascade


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    return {"title": "window-cascade: predictions and passes", "rows": [*models(quick), *stored(quick)]}


def models(quick: bool) -> list[dict[str, Any]]:
    """Predictions of two forests in a cascade, against the mean of both."""
    x, y = load_digits(return_X_y=True)
    trees = 20 if quick else 300
    forests = [RandomForestClassifier(trees, random_state=seed).fit(x[:600], y[:600]) for seed in (0, 1)]
    cascade = WindowCascade(forests, ("coverage", 0.8)).calibrate(x[600:1200])
    rows = np.tile(x[1200:], (2 if quick else 20, 1))
    ours = seconds(lambda: cascade.run(rows), 3)
    both = seconds(lambda: np.mean([forest.predict_proba(rows) for forest in forests], axis=0), 3)
    one = seconds(lambda: forests[0].predict_proba(rows), 3)
    exits = cascade.run(rows)
    return [
        {
            "what": f"predictions of two forests of {trees} trees",
            "ours": len(rows) / ours,
            "peer": len(rows) / both,
            "peer_name": "the mean of both",
            "unit": "rows/s",
            "ratio": both / ours,
            "limit": len(rows) / one,
            "limit_is": "one forest alone",
        },
        {
            "what": "… models asked about a row",
            "ours": float(exits.passes.mean()),
            "peer": 2.0,
            "peer_name": "the mean of both",
            "unit": "",
            "ratio": 2.0 / float(exits.passes.mean()),
            "limit": 1.0,
            "limit_is": "one forest alone",
        },
    ]


def stored(quick: bool) -> list[dict[str, Any]]:
    """The cascade's own work on stored logits, against averaging the softmax of both."""
    rows, rng = 20_000 if quick else 500_000, np.random.default_rng(0)
    y = rng.integers(10, size=rows)
    logits = [3 * np.eye(10)[y] + rng.normal(size=(rows, 10)) for _ in range(2)]
    cascade = EarlyExitCascade(("risk", 0.05)).calibrate([each[:20_000] for each in logits], y[:20_000])
    ours = seconds(lambda: cascade.run(logits), 3)
    both = seconds(lambda: np.mean([softmax(each, axis=1) for each in logits], axis=0), 3)
    return [
        {
            "what": f"decisions about {rows:,} rows of stored logits",
            "ours": rows / ours,
            "peer": rows / both,
            "peer_name": "SciPy softmax of both, and their mean",
            "unit": "rows/s",
            "ratio": both / ours,
        },
        {
            "what": "… models asked about a row",
            "ours": float(cascade.run(logits).passes.mean()),
            "peer": 2.0,
            "peer_name": "the mean of both",
            "unit": "",
            "ratio": 2.0 / float(cascade.run(logits).passes.mean()),
        },
    ]
