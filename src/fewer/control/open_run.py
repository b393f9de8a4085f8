"""A run of off-policy control with an open end: its points lie a fixed number of steps apart, and nobody says how many come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from fewer.control.agent_files import Begun
from fewer.control.environments import Environment
from fewer.control.loop import OffPolicy, OffPolicyState
from fewer.core.curve import Point
from fewer.core.errors import FewerError

_POINTS = 10**9
"""Of the run, whose end is never reached."""


class OpenRun:
    """Learning in one environment, as long as somebody asks for more.

    Parameters
    ----------
    loop : OffPolicy
        The method.
    env : Environment
        Where it learns.
    every : int
        Steps from one point to the next.
    seed : int
        Of everything random.
    checkpoint : Path, optional
        A file for the whole state, at each point; where it is there already, the run goes on from it.
    begun : Begun, optional
        What an earlier run had come to, to go on from.

    Attributes
    ----------
    points : list of Point
        So far.

    Raises
    ------
    FewerError
        If the request cannot run, or what was begun does not fit it.
    """

    def __init__(
        self,
        loop: OffPolicy,
        env: Environment,
        every: int,
        seed: int,
        checkpoint: Path | None = None,
        begun: Begun | None = None,
    ) -> None:
        self.loop, self.env, self.every, self.checkpoint, self._seed = loop, env, every, checkpoint, seed
        self.points: list[Point] = []
        self._box: dict[str, OffPolicyState] = {}
        self._goal = self._idle_until = 0
        self._broken = False
        self._run = dataclasses.replace(loop, points=_POINTS)
        if begun is not None:
            self._idle_until = begun.idle_until
            if not begun.remembers:
                self._idle_until = begun.spent + max(loop.learning_starts, loop.batch)
            # what networks begin with has been learned on from, and may take long to make
            self._run = dataclasses.replace(self._run, initialisation=None)
        if self._idle_until:
            self._run = dataclasses.replace(self._run, learning_starts=self._idle_until, start_with="policy")
        self._run.check(env, every * _POINTS)
        try:
            self._begin(begun)
        except (RuntimeError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            if begun is None or isinstance(error, FewerError):
                raise
            said = " ".join(str(error).split())
            raise FewerError(f"agent: the file does not fit this method and environment ({said[:200]})") from error

    def _begin(self, begun: Begun | None) -> None:
        taken_up = None if begun is None else (begun.points, begun.state_in(self.env, self.loop.copies))
        budget = self.every * _POINTS
        self._coming = self._run._points(self.env, budget, self._seed, self.checkpoint, self._box, begun=taken_up)
        self.points = [] if begun is None else [next(self._coming) for _ in begun.points]
        # a checkpoint may be of an earlier moment, or of a later one, which was asked for after this
        self._goal, self._broken = 0 if begun is None else min(begun.spent, self.spent), False

    @property
    def state(self) -> OffPolicyState:
        """Networks, memory and counters, as they stand."""
        return self._box["state"]

    @property
    def spent(self) -> int:
        """Steps so far."""
        return self.state.ledger.spent if self._box else 0

    @property
    def goal(self) -> int:
        """Steps that were asked for so far."""
        return self._goal

    @property
    def newest(self) -> bool:
        """Whether no later point was made before, by the run that a checkpoint is of."""
        return len(self.points) == self.state.points

    def ask(self, steps: int) -> None:
        """Ask for so many steps more; after an exception, from where it left the run."""
        if self._broken:
            self._begin(self.begun() if self._box else None)
        self._goal += steps

    def onwards(self) -> Iterator[Point]:
        """Points up to the one at which all steps that were asked for are made; those of a checkpoint first."""
        while self.spent < self._goal or not self.newest:
            try:
                self.points.append(next(self._coming))
            except BaseException:
                self._broken = True
                raise
            yield self.points[-1]

    def begun(self) -> Begun:
        """What it has come to, for a file."""
        points, state = tuple(self.points), self.state.state_dict()
        return Begun(self.loop, self.every, self.env.fingerprint(), self._idle_until, self.spent, points, state)
