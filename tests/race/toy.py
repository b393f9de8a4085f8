"""A task and a loop of our own, to be raced through ``compose="toy"``; each round can be made to misbehave.

A spec is the loop's name with the arguments of :class:`Walk`; the task is a file whose bytes are its data, and
beside it lies a log with one line for each round that was begun.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.core.curve import Point
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.loop import Task as AnyTask
from fewer.core.samples import Sample
from fewer.core.seeding import generator
from fewer.core.spec import parse_one
from fewer.race.outcome import Run


@dataclass(frozen=True)
class Task(AnyTask):
    name: str
    path: str
    metric: str = "height"

    def fingerprint(self) -> str:
        return fingerprint(Path(self.path).read_bytes())

    @property
    def log(self) -> Path:
        return Path(f"{self.path}.log")


@dataclass
class WalkState(State):
    saved: ClassVar[tuple[str, ...]] = ("rng", "height")

    task: Task = field(kw_only=True)
    rng: np.random.Generator = field(kw_only=True)
    height: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class Walk(Loop[Task, WalkState]):
    """A random walk of one step a sample; each round is noted in the task's log when it begins."""

    unit: ClassVar[str] = "steps"
    accepts: ClassVar[type[AnyTask]] = Task

    drift: float = 0.1
    pause: float = 0.0
    first: int = 1
    at: int = 3
    then: str = ""  # what happens in the round `at`

    def least(self, task: Task) -> int:
        return self.first

    def start(self, task: Task, budget: int, seed: int) -> WalkState:
        return WalkState(budget, seed, Ledger({"steps": 1.0}), task=task, rng=generator(seed, "walk"))

    def advance(self, state: WalkState) -> Point:
        state.ledger.add("steps", 1)
        with open(state.task.log, "a") as file:
            file.write(f"{self.drift} {state.seed} {state.ledger.spent} {os.getpid()}\n")
        time.sleep(self.pause)
        # the walk, the step's own global stream and the ledger must all be as they were for the bits to agree
        state.height += self.drift + state.rng.normal() + np.random.normal()
        if state.ledger.spent == self.at:
            self._misbehave(state)
        threads = {"threads": torch.get_num_threads(), "variable": int(os.environ.get("OMP_NUM_THREADS", 0))}
        shape: Any = {"shape": "round"} if self.then == "extra" else {}
        return Point(state.ledger.spent, state.height, threads | shape)

    def _misbehave(self, state: WalkState) -> None:
        marker = Path(f"{state.task.path}.once")
        match self.then:
            case "raise":
                raise RuntimeError("the sky\nis falling")
            case "leave":
                raise SystemExit(4)
            case "quiet":
                raise KeyError
            case "diverge":
                state.height = float("nan")
            case "exit":
                os._exit(3)
            case "kill":
                os.kill(os.getpid(), 9)
            case "crash" if not marker.exists():
                marker.touch()
                os.abort()
            case "orphan":
                child = os.fork()
                if child == 0:
                    time.sleep(600)
                Path(f"{state.task.path}.orphan").write_text(str(child))
                os._exit(3)


@dataclass(frozen=True)
class Crawl(Walk):
    unit: ClassVar[str] = "inches"


@dataclass(frozen=True)
class Talk(Walk):
    """A walk that shows where it is, with a character that a terminal would obey."""

    watched: ClassVar[tuple[str, ...]] = ("threads",)

    def samples(self, state: WalkState) -> list[Sample]:
        return [Sample("where", f"\x1b{state.ledger.spent}", state.height)]


@dataclass(frozen=True)
class Stroll(Walk):
    """A walk of ten steps a point, each of which takes its time."""

    def advance(self, state: WalkState) -> Point:
        for _ in range(min(10, state.budget - state.ledger.spent)):
            state.ledger.add("steps", 1)
            time.sleep(self.pause)
        state.height += state.rng.normal()
        return Point(state.ledger.spent, state.height, {})


@dataclass(frozen=True)
class OtherTask(Task):
    pass


@dataclass(frozen=True)
class Fussy(Walk):
    accepts: ClassVar[type[AnyTask]] = OtherTask


LOOPS = {"walk": Walk, "crawl": Crawl, "fussy": Fussy, "talk": Talk, "stroll": Stroll}


def loop(spec: str) -> Loop[Any, Any]:
    call = parse_one(spec)
    if call.name not in LOOPS:
        raise FewerError(f"unknown name {call.name!r}")
    return LOOPS[call.name](**call.named)


def task(spec: str) -> AnyTask:
    call = parse_one(spec)
    return Task(str(call), call.positional[0])


def scores(run: Run) -> list[tuple[int, float]]:
    """What a run of a race measured."""
    return [(point.spent, point.score) for point in run.curve or ()]


def alone(task_spec: str, entry: str = "walk", seed: int = 0, budget: int = 4) -> list[tuple[int, float]]:
    """What it should have measured: the loop by itself, here."""
    return [(point.spent, point.score) for point in loop(entry).run(task(task_spec), budget, seed)]


def environment() -> dict[str, str]:
    """For another interpreter, which is to find what this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
