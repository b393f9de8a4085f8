"""What a report of demonstrations costs on a million transitions, and its search for neighbours against scikit-learn's."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from bench.measure import seconds
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.neighbourhoods import typical_radius, within
from fewer.demos.neighbours import Leaves, nearest
from fewer.demos.quality import LIMIT

WIDTH, ACTIONS, LENGTH = 20, 7, 500


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything."""
    return {"title": "demos: the quality of demonstrations", "rows": [*report(quick), *neighbours(quick)]}


def demonstrations(steps: int, width: int = WIDTH) -> Demonstrations:
    """Smooth paths that begin alike and part, as an arm's are."""
    rng = np.random.default_rng(0)
    length = min(LENGTH, steps)
    episodes = steps // length
    time = np.linspace(0, 1, length, dtype=np.float32)[:, None]
    waves = rng.normal(size=(4, 1, 1, width)).astype(np.float32)
    phases = 0.3 * rng.normal(size=(4, episodes, 1, 1)).astype(np.float32)
    states = sum(
        wave * np.sin((i + 1) * 3 * time + phase) for i, (wave, phase) in enumerate(zip(waves, phases, strict=True))
    )
    states = np.asarray(states) + 0.02 * rng.standard_normal((episodes, length, width), dtype=np.float32)
    mixing = rng.normal(size=(width, ACTIONS)).astype(np.float32)
    actions = np.tanh(0.3 * states @ mixing) + 0.1 * rng.standard_normal((episodes, length, ACTIONS), dtype=np.float32)
    return Demonstrations(
        states.reshape(-1, width), actions.reshape(-1, ACTIONS), np.arange(0, episodes * length + 1, length)
    )


def report(quick: bool) -> list[dict[str, Any]]:
    """Time and memory of a whole report, each in a process of its own; the variance against a plain loop."""
    rows = []
    for steps in (5_000, 10_000) if quick else (50_000, 1_000_000):
        done = subprocess.run([sys.executable, "-c", REPORT, str(steps)], check=True, capture_output=True, text=True)
        taken, memory = map(float, done.stdout.split()[-2:])
        compared = min(steps, LIMIT)
        rows += [
            {
                "what": f"the report on {steps:,} transitions, {WIDTH} numbers a state",
                "ours": taken,
                "unit": "s",
                # states, and states with actions, all with all
                "limit": 2 * compared**2 * (2 * WIDTH + ACTIONS) / operations(),
                "limit_is": f"two products of {compared:,} by {compared:,}, if no pair could be left out",
            },
            {
                "what": "… peak memory over the demonstrations themselves",
                "ours": memory / 2**20,
                "unit": "MiB",
                "limit": steps * 4 * (WIDTH + ACTIONS) / 2**20,
                "limit_is": "the demonstrations, for comparison",
            },
        ]
    return [*rows, plain(1_000 if quick else 3_000)]


def plain(steps: int) -> dict[str, Any]:
    """Deviations of actions within a radius, against NumPy one state at a time."""
    given = demonstrations(steps)
    states, actions = np.asarray(given.observations, dtype=np.float64), given.actions.astype(np.float64)
    episode, copies = given.episode_of_step(), np.ones(len(given), dtype=int)
    radius = typical_radius(states, episode, 20, 0)

    def loop() -> np.ndarray:
        found = np.full(steps, np.nan)
        for i in range(steps):
            near = (((states - states[i]) ** 2).sum(axis=1) <= radius**2) & (episode != episode[i])
            if near.any():
                found[i] = ((actions[i] - actions[near].mean(axis=0)) ** 2).sum()
        return found

    ours = seconds(lambda: within(radius, states, actions, episode, copies), 3)
    peer = seconds(loop, 1)
    return {
        "what": f"action variance of {steps:,} states",
        "ours": ours,
        "peer": peer,
        "peer_name": "a loop over states",
        "unit": "s",
        "ratio": peer / ours,
        "limit": 2 * steps**2 * WIDTH / operations(),
        "limit_is": "one product of all pairs",
    }


def neighbours(quick: bool) -> list[dict[str, Any]]:
    """Ten nearest neighbours of every state, on paths and on noise without any structure."""
    rows = []
    for kind, width in (("states along paths", 6), ("states along paths", WIDTH), ("pure noise", WIDTH)):
        count = 2_000 if quick else 20_000
        states = np.asarray(demonstrations(count, width).observations, dtype=np.float64)
        if kind == "pure noise":
            states = np.random.default_rng(0).normal(size=states.shape)
        repeats = 1 if quick else 3
        ours = seconds(lambda states=states: nearest(Leaves.of(states), 10), repeats)
        peer = seconds(lambda states=states: NearestNeighbors(n_neighbors=10).fit(states).kneighbors(), repeats)
        rows.append(
            {
                "what": f"10 neighbours of {count:,} {kind}, {width} numbers each",
                "ours": ours,
                "peer": peer,
                "peer_name": "scikit-learn NearestNeighbors",
                "unit": "s",
                "ratio": peer / ours,
                "limit": 2 * count**2 * width / operations(),
                "limit_is": "one product of all pairs, if none could be left out",
            }
        )
    return rows


def operations() -> float:
    """Multiplications and additions a second in a product of matrices, in double precision."""
    left = np.random.default_rng(0).normal(size=(1024, 1024))
    return 2 * 1024**3 / seconds(lambda: left @ left, 5)


def peak() -> float:
    """Peak resident bytes of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


REPORT = """
import sys, time
from bench.demos_quality import demonstrations, peak
from fewer.demos.quality import quality_report
quality_report(demonstrations(1000))
given = demonstrations(int(sys.argv[1]))
before, began = peak(), time.perf_counter()
quality_report(given)
print(time.perf_counter() - began, peak() - before)
"""
