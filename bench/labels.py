"""Choosing rows from large pools, and the time a person waits for the command."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import bandwidth, peak_of_process, seconds
from fewer.labels.k_centre import k_centre_greedy
from fewer.labels.pcoreset import pcoreset


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this room."""
    return {"title": "labels: choosing rows", "rows": [*choosing(quick), *large_pool(quick), *waiting(quick)]}


def choosing(quick: bool) -> list[dict[str, Any]]:
    """500 of 100,000 x 128 by k-centre and by PCoreSet, against scikit-activeml and small-text."""
    from skactiveml.pool import CoreSet
    from small_text.query_strategies.coresets import greedy_coreset

    rows, width, count, known = (5_000, 32, 50, 10) if quick else (100_000, 128, 500, 10)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((rows, width), dtype=np.float32)
    probabilities = rng.dirichlet(np.full(width, 0.1), size=rows).astype(np.float32)
    labelled, free = np.arange(known), np.arange(known, rows)
    labels = np.full(rows, np.nan)
    labels[:known] = np.arange(known)
    speed = bandwidth()

    made = []
    for what, pool, ours in (
        ("k-centre", features, lambda: k_centre_greedy(features, count, centres=features[:known], candidates=free)),
        ("PCoreSet", probabilities, lambda: pcoreset(probabilities[known:], probabilities[:known], count)),
    ):
        mine = seconds(ours)
        # the textbook algorithm cannot read the pool faster than memory gives it, once for each chosen row
        limit = pool.nbytes * count / speed
        peers = {
            "scikit-activeml": lambda pool=pool: CoreSet(random_state=0).query(pool, labels, batch_size=count),
            "small-text": lambda pool=pool: greedy_coreset(pool, free, labelled, count, distance_metric="euclidean"),
        }
        for name, peer in peers.items():
            theirs = seconds(peer, repeats=1)
            text = f"{what}: choose {count} of {rows:,} x {width}"
            made.append(
                {
                    "what": text,
                    "ours": mine,
                    "peer": theirs,
                    "peer_name": name,
                    "unit": "s",
                    "ratio": theirs / mine,
                    "limit": limit,
                    "limit_is": "memory bandwidth, if the pool is read once a choice",
                }
            )
    return made


_LARGE = """
import resource, sys
import numpy as np
from fewer.labels.k_centre import k_centre_greedy
pool = np.load(sys.argv[1], mmap_mode="r")
k_centre_greedy(pool, int(sys.argv[2]), centres=pool[:10])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def large_pool(quick: bool) -> list[dict[str, Any]]:
    """A pool of 10,000,000 x 64 on disk, in blocks."""
    rows, width, count = (100_000, 64, 50) if quick else (10_000_000, 64, 100)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pool.npy"
        pool = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, width))
        rng = np.random.default_rng(0)
        for start in range(0, rows, 500_000):
            part = pool[start : start + 500_000]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        pool.flush()
        size = pool.nbytes
        del pool
        took, peak = peak_of_process(_LARGE, str(path), str(count))
    return [
        {
            "what": f"k-centre: choose {count} of {rows:,} x {width} from disk",
            "ours": took,
            "unit": "s",
            "limit": size * count / bandwidth(),
            "limit_is": "memory bandwidth, if the pool is read once a choice",
        },
        {
            "what": "… peak memory over the pool itself",
            "ours": (peak - size) / 2**30,
            "unit": "GiB",
            "limit": "2 asked",
        },
    ]


def waiting(quick: bool) -> list[dict[str, Any]]:
    """What a person waits for before anything happens."""
    repeats = 3 if quick else 11

    def command(*arguments: str) -> float:
        def call() -> None:
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

        return seconds(call, repeats)

    empty = command("-c", "")
    rows = []
    for what, arguments in (
        ("import fewer", ("-c", "import fewer")),
        ("fewer list", ("-m", "fewer.cli", "list")),
        ("fewer find (words)", ("-c", "from fewer.search import find_by_words as f; f('few labels')")),
    ):
        rows.append(
            {"what": what, "ours": command(*arguments), "unit": "s", "limit": empty, "limit_is": "python itself"}
        )
    return rows
