"""Gradient updates, drawing from memory and generated worlds, against Stable-Baselines3, SBX and torchrl on one core.

Each arm is a process bound to the same core; they take turns, and a number is the median of an arm's repeats.  What counts is
processor time, which on one core is what a quiet machine would show on the clock, and which others' work disturbs least.

SBX and torchrl run in the Python that ``FEWER_SBX_PYTHON`` names, by default in this one; where they are not installed, their
numbers are missing.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

ELSEWHERE = ("sbx", "torchrl")
REPEATS = 15


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this room."""
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for group in (
        ["product", "sac", "sac sb3", "sac sbx", "sac sbx, one at a time", *([] if quick else ["sac compiled"])],
        ["product", "rlpd", "rlpd sbx", *([] if quick else ["rlpd compiled"])],
        ["drawing", "drawing sb3", "drawing torchrl"],
        ["dock-2d, 1", "dock-2d, 64", "peg-slot-2d, 1", "peg-slot-2d, 64"],
    ):
        taken = measure(group, 3 if quick else REPEATS)
        for arm in taken.values():
            versions |= arm["versions"]
        rows += list({"product": _updates, "drawing": _drawing}.get(group[0], _worlds)(taken))
    return {"title": "control: updates, memory, worlds", "versions": dict(sorted(versions.items())), "rows": rows}


def measure(names: list[str], repeats: int) -> dict[str, dict[str, Any]]:
    """Run arms in turns; for each that could be run, seconds of a unit of its work."""
    arms: dict[str, Arm] = {}
    try:
        for name in names:
            arm = Arm(name)
            said = arm.read()
            if said is None:
                print(f"{name}: is not there, or fails; see what it printed", file=sys.stderr)
                arm.stop()
            else:
                arm.said, arms[name] = said, arm
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for _ in range(repeats):
            for name, arm in arms.items():
                arm.ask()
                taken[name].append(arm.read() or {})
        return {
            name: {
                "versions": arm.said["versions"],
                **{
                    clock: statistics.median(each[clock] for each in taken[name]) / arm.said["units"]
                    for clock in ("processor", "wall")
                },
            }
            for name, arm in arms.items()
        }
    finally:
        for arm in arms.values():
            arm.stop()


class Arm:
    """A process that repeats a piece of work when it is asked."""

    def __init__(self, name: str) -> None:
        elsewhere = any(peer in name for peer in ELSEWHERE)
        python = os.environ.get("FEWER_SBX_PYTHON", sys.executable) if elsewhere else sys.executable
        core = max(os.sched_getaffinity(0))
        self.process = subprocess.Popen(
            [python, str(Path(__file__).with_name("_control_arms.py")), name, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),  # MuJoCo writes a log where it runs
        )
        self.said: dict[str, Any] = {}

    def ask(self) -> None:
        """Have it repeated once more."""
        cast(IO[str], self.process.stdin).write("\n")
        cast(IO[str], self.process.stdin).flush()

    def read(self) -> dict[str, Any] | None:
        """Wait for its answer; None if it has ended."""
        line = cast(IO[str], self.process.stdout).readline()
        return json.loads(line) if line else None

    def stop(self) -> None:
        """End it."""
        cast(IO[str], self.process.stdin).close()
        self.process.wait()


def operations(members: int, ahead: int, policy: float, through: float) -> float:
    """Operations in the products of an update, with networks of two layers of 256 and HalfCheetah's numbers.

    Parameters
    ----------
    members, ahead : int
        Critics, and how many slow ones a target needs.
    policy : float
        Steps of the policy for each of the critics'.
    through : float
        Critics that the policy's gradient goes back through, on average over rows.
    """
    first, q = 23 * 256, 23 * 256 + 256**2 + 256
    of_policy = 17 * 256 + 256**2 + 256 * 12
    critics = members * (q + 2 * q - first) + of_policy + ahead * q
    actor = of_policy + (2 * of_policy - 17 * 256) + members * q + through * (q - 17 * 256)
    return 2 * 256 * (critics + policy * actor)


def _updates(taken: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    ten = "rlpd" in taken
    needed = operations(10, 2, 1 / 20, 10) if ten else operations(2, 2, 1, 1)
    limit = needed * taken["product"]["processor"] * 1e3
    what = (
        "an update of 10 critics with layer norms, 20 a step (the policy learns once)"
        if ten
        else "an update of soft actor-critic, 2 critics of 2 x 256, batch 256"
    )
    rate = f"{1e-9 / taken['product']['processor']:.0f} billion operations a second, {needed / 1e6:.0f} million needed"
    arm = "rlpd" if ten else "sac"
    peers = (
        ("rlpd sbx", "SBX, 20 a call"),
        ("sac sb3", "Stable-Baselines3"),
        ("sac sbx", "SBX, 20 a call"),
        ("sac sbx, one at a time", "SBX, one a call"),
    )
    for mine, how in ((arm, ""), (f"{arm} compiled", ", compiled")):
        for theirs, said in peers:
            if mine in taken and theirs in taken:
                ours, peer = (taken[each]["processor"] * 1e3 for each in (mine, theirs))
                yield {
                    "what": what + how,
                    "ours": ours,
                    "peer": peer,
                    "peer_name": said,
                    "unit": "ms",
                    "ratio": peer / ours,
                    "share_of_peer": ours / peer,
                    "wall": [taken[each]["wall"] * 1e3 for each in (mine, theirs)],
                    "limit": limit,
                    "limit_is": rate,
                }


def _drawing(taken: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from bench.measure import bandwidth

    mine, limit = 1 / taken["drawing"]["processor"], bandwidth() / (2 * 4 * (2 * 17 + 6 + 2))
    for name, said in (("drawing sb3", "Stable-Baselines3"), ("drawing torchrl", "torchrl")):
        if name in taken:
            theirs = 1 / taken[name]["processor"]
            yield {
                "what": "drawing transitions of HalfCheetah's size, 256 at a time from 200,000",
                "ours": mine,
                "peer": theirs,
                "peer_name": said,
                "unit": "rows/s",
                "ratio": mine / theirs,
                "limit": limit,
                "limit_is": "memory bandwidth, if each row is read and written once",
            }


def _worlds(taken: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from bench.measure import bandwidth
    from fewer import compose
    from fewer.control.environments import Environment

    speed = bandwidth()
    for name, arm in taken.items():
        world, copies = name.split(", ")
        task = cast(Environment, compose.task(world))
        yield {
            "what": f"{world}, {copies} at once, random actions" if copies != "1" else f"{world}, random actions",
            "ours": 1 / arm["processor"],
            "unit": "steps/s",
            "limit": speed / (4 * (task.observation_size + task.action_size)),
            "limit_is": "memory bandwidth, if observations and actions are touched once",
        }
