"""Synthetic races: straight curves, so that every number can be told beforehand."""

from __future__ import annotations

from dataclasses import replace

from fewer.core.curve import Curve
from fewer.race.outcome import Outcome, Run

SEEDS = (0, 1, 2, 3, 4)


def rising(top: float, seed: int, last: int = 100) -> Curve:
    """From 0.5 in a straight line; every seed a hundredth higher."""
    return Curve.of((spent, 0.5 + (top - 0.5 + seed / 100) * spent / 100) for spent in range(0, last + 1, 10))


def made(tops: dict[str, float], failing: dict[str, tuple[int, ...]] | None = None) -> Outcome:
    """A race on digits, by the score that seed 0 of each entry ends at; ``failing`` names the seeds that failed."""
    failing = failing or {}
    runs = [
        Run(entry, seed, "failed", None, f"Diverged: seed {seed} <went> wrong", 1.0)
        if seed in failing.get(entry, ())
        else Run(entry, seed, "done", rising(top, seed), None, 2.0)
        for entry, top in tops.items()
        for seed in SEEDS
    ]
    return Outcome("digits", "accuracy", "labels", 100, SEEDS, {entry: entry for entry in tops}, tuple(runs))


def mixed() -> Outcome:
    """Two entries that finished, one with a failure, and one that failed in every run."""
    return made({"random": 0.7, "margin": 0.8, "hast": 0.9, "lost": 0.6}, {"hast": (3,), "lost": SEEDS})


def stopped() -> Outcome:
    """Two entries, and of the worse one two runs were stopped as hopeless."""
    whole = made({"random": 0.7, "margin": 0.8})
    reason = "at 40 of 100 its score was 0.58 and its chance to end above 0.84 (margin, seed 4) 0.12%"
    runs = tuple(
        Run(run.entry, run.seed, "stopped", rising(0.7, run.seed, 40), reason, 1.0)
        if run.entry == "random" and run.seed in (0, 3)
        else run
        for run in whole.runs
    )
    return replace(whole, runs=runs)
