"""Heavy learning early, once, and what forks from there."""

from __future__ import annotations

import numpy as np
from tests.control.toys import target

from fewer.control.baselines import sac
from fewer.control.loop import OffPolicy
from fewer.control.priming import Primed, measure_priming


def through(loop, budget, task=None, seed=0):
    """The state at the end of a run."""
    box = {}
    points = list(loop._points(task or target(steps=3), budget, seed, None, box))
    return box["state"], points


def test_priming_happens_once():
    counts = []
    loop = OffPolicy(
        **sac(hidden=(8, 8), lr=1e-2),
        ratio=Primed(after=20, updates=9),
        points=1,
        learning_starts=19,
        batch=8,
        episodes=1,
    )
    state, _ = through(loop, 30)
    assert state.updates == 9 + 10
    schedule = Primed(20, 9).build(state)
    for spent in (19, 20, 21):
        state.ledger.counts["environment_steps"] = spent
        counts.append(schedule.updates(state))
    assert counts == [0, 9, 1]


def test_the_forks_of_a_primed_run_begin_alike():
    measured = measure_priming(0, tiny=True)
    shares = {each["active units"] for name, each in measured.items() if name != "not primed"}
    assert len(shares) == 1
    assert measured["not primed"]["active units"] not in shares
    assert all(np.isfinite(each["return"]) for each in measured.values())
