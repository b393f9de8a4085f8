"""A peg and a slot in the plane: a tool is to be put into a slot hardly wider than itself, somewhere on a table.

The world is that of fewer.control.pegs.  Success, which pays 1 and ends the episode, is a tip 1.5 deep; nothing else pays.  A
script demonstrates it, which misjudges where the slot is, makes a detour and has an unsteady hand.  The way back is a task as
well: to bring the tool out of the slot to where episodes begin (see fewer.control.peg_scene for both in one scene).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fewer.control.environments import Environment
from fewer.control.pegs import (
    ASIDE,
    AWAY,
    BOTTOM,
    DEEP,
    HORIZON,
    LENGTH,
    LOOK,
    PARTS,
    SPREAD,
    STRIDE,
    TILT,
    TURN,
    WIDTH,
    Frame,
    Goal,
    Pegs,
)
from fewer.control.relative_frame import planar_inverse, planar_product, turned
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations

DEMONSTRATED_NOISE, MISJUDGED, DETOUR = 0.3, 0.3, 10
"""Of the script: noise of its actions, error about where the slot is, and steps of its detour."""


@dataclass(frozen=True, eq=False)
class PegTask(Environment):
    """The world and its demonstrations.

    Observed are the tool's and the slot's place and direction (sine and cosine) in the chosen frame, and how far the tool has
    moved in the last step, in that frame: ten numbers.

    Parameters
    ----------
    demonstrated : int
        Episodes that are demonstrated, all of them successes.
    frame : {"relative", "absolute"}
        Which frame.
    clearance : float
        How much wider the slot is than the tool, in centimetres.
    turn : float
        By how much all is turned on the table, in degrees, besides the slot's own 10 degrees to either side.
    goal : {"insert", "withdraw"}
        Into the slot, or out of it and to where the other task begins.

    Examples
    --------
    >>> task = peg_slot_2d()
    >>> task.make(3).reset({0: 1, 2: 5}).shape, len(task.demonstrations(0))
    ((2, 10), 20)
    """

    demonstrated: int
    frame: Frame
    clearance: float
    turn: float
    goal: Goal = "insert"

    name: str = "peg-slot-2d"
    metric: str = "success rate"

    def __post_init__(self) -> None:
        if self.demonstrated < 1:
            raise FewerError(f"peg-slot-2d: at least one demonstration is needed; {self.demonstrated} were asked for")
        if self.frame not in ("relative", "absolute"):
            raise FewerError(f"peg-slot-2d: frame is 'relative' or 'absolute'; it is {self.frame!r}")
        if self.goal not in ("insert", "withdraw"):
            raise FewerError(f"peg-slot-2d: goal is 'insert' or 'withdraw'; it is {self.goal!r}")
        if not (self.clearance > 0 and math.isfinite(self.turn)):
            raise FewerError(
                f"peg-slot-2d: the clearance must be positive and the turn a number; given {self.clearance} and {self.turn}"
            )
        for field, value in (
            ("observation_size", 10),
            ("action_size", 3),
            ("low", -np.ones(3)),
            ("high", np.ones(3)),
        ):
            object.__setattr__(self, field, value)

    def fingerprint(self) -> str:
        """Name the world and how it is demonstrated."""
        settings = (self.demonstrated, self.frame, self.clearance, self.turn, self.goal)
        world = (HORIZON, PARTS, WIDTH, LENGTH, BOTTOM, DEEP, STRIDE, TURN, AWAY, ASIDE, TILT, SPREAD, LOOK)
        return fingerprint(repr((settings, world, DEMONSTRATED_NOISE, MISJUDGED, DETOUR)))

    def make(self, copies: int) -> Pegs:
        """Copies of the world."""
        return Pegs(copies, self.frame, self.clearance, math.radians(self.turn), self.goal)

    def demonstrations(self, seed: int) -> Demonstrations:
        """Successes of a script that comes in front of where it believes the slot to be, straightens, and pushes."""
        episodes: list[dict[str, object]] = []
        for attempt in range(10):
            episodes += [
                each for each in self._scripted(2 * self.demonstrated, derive(seed, attempt)) if each["success"]
            ]
            if len(episodes) >= self.demonstrated:
                return Demonstrations.of_episodes(episodes[: self.demonstrated], name=self.name)
        raise FewerError(f"peg-slot-2d: the script hardly ever succeeds with a clearance of {self.clearance}; widen it")

    def outcomes(self, seed: int, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """Observations in which the tool is where it should be, and others, as somebody who looks on would sort them.

        Parameters
        ----------
        seed : int
            Of the episodes that they are from.
        count : int, default 200
            Of the former; of the latter five times as many.
        """
        good: list[np.ndarray] = []
        bad: list[np.ndarray] = []
        attempt = 0
        while sum(map(len, good)) < count:
            for each in self._scripted(64, derive(seed, "outcomes", attempt)):
                seen = np.asarray(each["observations"])
                good += [seen[-1:]] if each["success"] else []
                bad.append(seen[:-1])
            attempt += 1
        others = np.concatenate(bad)
        chosen = generator(seed, "others").permutation(len(others))[: 5 * count]
        return np.concatenate(good)[:count], others[chosen]

    def _scripted(self, count: int, seed: int) -> list[dict[str, object]]:
        rng = generator(seed, "script")
        worlds = self.make(count)
        seen = worlds.reset({each: derive(seed, "start", each) for each in range(count)})
        believed = worlds.slot + MISJUDGED * rng.standard_normal((count, 3)) * [1, 1, 0]
        begins, aside = rng.integers(0, 8, count), rng.uniform(-1, 1, (count, 3))
        over = np.zeros(count, dtype=bool)
        steps: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(count)]
        final, reached = np.zeros((count, 10), dtype=np.float32), np.zeros(count, dtype=bool)
        for time in range(HORIZON):
            here = planar_product(planar_inverse(believed), worlds.tool)  # the tool, seen from the slot
            # what it feels at the mouth tells it where the slot really is
            felt = here[:, 1] > -0.5
            believed = np.where(felt[:, None], worlds.slot, believed)
            here = planar_product(planar_inverse(believed), worlds.tool)
            straight = (np.abs(here[:, 0]) < 0.35 * self.clearance) & (np.abs(here[:, 2]) < math.radians(2))
            inside = here[:, 1] > 0.05
            ahead = np.where(straight | inside, BOTTOM, -0.3) if self.goal == "insert" else -AWAY
            wanted = np.stack([-here[:, 0], ahead - here[:, 1], -here[:, 2]], 1)
            wanted[:, :2] = turned(wanted[:, :2], believed[:, 2] - worlds.axes())
            actions = wanted / [STRIDE, STRIDE, TURN]
            detour = (time >= begins) & (time < begins + DETOUR) & ~inside
            actions = np.where(detour[:, None], 0.5 * actions + 0.5 * aside, actions)
            # near the slot its hand is steady
            steady = np.where(here[:, 1] > -1.0, 0.1, 1.0)[:, None]
            noise = DEMONSTRATED_NOISE * steady * rng.standard_normal((count, 3))
            actions = np.clip(np.clip(actions, -1, 1) + noise, -1, 1)
            step = worlds.step(actions)
            for each in np.flatnonzero(~over):
                steps[each].append((seen[each], actions[each], step.rewards[each]))
            newly = ~over & (step.terminated | step.truncated)
            final[newly], reached[newly] = step.observations[newly], step.success[newly]
            over |= newly
            seen = step.observations
        return [
            {
                "observations": np.stack([*(row[0] for row in episode), final[each]]),
                "actions": np.stack([row[1] for row in episode]),
                "rewards": np.array([row[2] for row in episode]),
                "terminated": reached[each],
                "success": reached[each],
            }
            for each, episode in enumerate(steps)
        ]


def peg_slot_2d(
    demonstrations: int = 20, frame: Frame = "relative", clearance: float = 0.2, turn: float = 0.0
) -> PegTask:
    """Put a peg into a slot (see :class:`PegTask`).

    Parameters
    ----------
    demonstrations : int, default 20
        Episodes.
    frame : {"relative", "absolute"}
        Of observations and actions.
    clearance : float, default 0.2
        How much wider the slot is than the tool, in centimetres.
    turn : float, default 0
        By how much all is turned on the table, in degrees.
    """
    return PegTask(demonstrations, frame, clearance, turn)
