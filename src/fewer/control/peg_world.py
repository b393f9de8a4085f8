"""A peg and a slot in the plane: a tool is to be put into a slot hardly wider than itself, somewhere on a table.

All copies move as one array.  Lengths are in centimetres.  The tool is a rectangle 2 wide and 6 long; its pose (x, y, theta) is
that of the middle of its tip.  The slot is cut into a block whose face is the line y' = 0 of the slot's own frame: the block is
solid at y' > 0 except where |x'| is less than half the slot's width, to a depth of 2.  An action is a displacement and a turn in
[-1, 1]^3, scaled to (2 cm, 2 cm, 6 degrees); it is carried out in four parts, and of each the turn, the motion along the face and
the motion into it are cancelled one by one where they would lead into the block.  Success, which pays 1 and ends the episode, is
a tip 1.5 deep; nothing else pays.

The way back is a task as well: to bring the tool out of the slot to where episodes begin.  With both, one scene need never be put
back by hand (see fewer.control.forward_backward).

The frame is either the table's, or that of the tool at the beginning of the episode; in the latter actions are carried out in the
tool's own axes (see fewer.control.relative_frame).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from fewer.control.environments import Environment, Step
from fewer.control.forward_backward import ThereAndBack
from fewer.control.relative_frame import planar_inverse, planar_product, turned
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations

HORIZON, PARTS = 50, 4
"""The most steps of an episode, and into how many parts a motion is cut."""

WIDTH, LENGTH, BOTTOM, DEEP = 2.0, 6.0, 2.0, 1.5
"""Of the tool; of the slot; and how deep is deep enough."""

STRIDE, TURN = 2.0, math.radians(6)
"""The way and the angle of an action of 1."""

AWAY, ASIDE, TILT = 6.0, 2.0, math.radians(10)
"""Where the tool begins, seen from the slot: its distance, and half the widths of its offset and of its angle."""

SPREAD = 5.0
"""Half the width of the square in which the slot lies."""

LOOK = 5.0
"""An observed length of 1, in centimetres."""

DEMONSTRATED_NOISE, MISJUDGED, DETOUR = 0.3, 0.3, 10
"""Of the script: noise of its actions, error about where the slot is, and steps of its detour."""

Frame = Literal["relative", "absolute"]
Goal = Literal["insert", "withdraw"]
Poses = Float[np.ndarray, "copies 3"]


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


class Pegs:
    """Copies of the world in progress.

    Parameters
    ----------
    copies : int
        How many.
    frame : {"relative", "absolute"}
        In which observations and actions are.
    clearance : float
        How much wider the slot is than the tool.
    turn : float
        By how much all is turned, in radians.
    goal : {"insert", "withdraw"}
        What counts as success.
    """

    def __init__(self, copies: int, frame: Frame, clearance: float, turn: float = 0.0, goal: Goal = "insert") -> None:
        self.copies, self.frame, self.turn, self.goal = copies, frame, turn, goal
        self.half_slot = (WIDTH + clearance) / 2
        self.tool, self.slot, self.begun, self.moved = np.zeros((4, copies, 3))
        self.time, self.over = np.zeros(copies, dtype=np.int64), np.ones(copies, dtype=bool)

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Put a slot somewhere, and the tool in front of it."""
        for copy, seed in seeds.items():
            x, y, tilt, aside, back, angle = generator(seed, "peg").uniform(-1, 1, 6)
            x, y = turned(SPREAD * np.array([[x, y]]), np.array([self.turn]))[0]
            self.slot[copy] = x, y, TILT * tilt + self.turn
            seen_from_slot = np.array([[ASIDE * aside, -AWAY + back, TILT * angle]])
            if self.goal == "withdraw":
                seen_from_slot = np.array([[0.0, (DEEP + BOTTOM) / 2, 0.0]])
            self.place(copy, planar_product(self.slot[[copy]], seen_from_slot)[0])
        return self._observed()[list(seeds)]

    def place(self, copy: int, tool: Float[np.ndarray, "3"]) -> None:
        """Begin an episode in a copy with the tool in this pose."""
        self.tool[copy] = self.begun[copy] = tool
        self.moved[copy], self.time[copy], self.over[copy] = 0, 0, False

    def axes(self) -> Float[np.ndarray, " copies"]:
        """The angle of the axes in which a displacement is carried out."""
        return self.tool[:, 2] if self.frame == "relative" else np.zeros(self.copies)

    def step(self, actions: Float[np.ndarray, "copies 3"]) -> Step:
        """Move every tool whose episode goes on."""
        going = ~self.over
        wanted = np.clip(actions, -1, 1) * [STRIDE, STRIDE, TURN] * going[:, None] / PARTS
        # into the slot's frame, where the block's faces lie along the axes
        wanted[:, :2] = turned(wanted[:, :2], self.axes() - self.slot[:, 2])
        before, here = self.tool, planar_product(planar_inverse(self.slot), self.tool)
        for _ in range(PARTS):
            for axis in (2, 0, 1):
                tried = here.copy()
                tried[:, axis] += wanted[:, axis]
                here = np.where(self.touches(tried)[:, None], here, tried)
        self.tool = np.where(going[:, None], planar_product(self.slot, here), self.tool)
        self.moved = self.tool - before
        self.time += going
        there = going & self.reached(here)
        late = going & ~there & (self.time >= HORIZON)
        step = Step(self._observed(), there.astype(float), there | self.over, late, there, going.astype(np.int64))
        self.over = self.over | there | late
        return step

    def reached(self, seen_from_slot: Poses) -> Bool[np.ndarray, " copies"]:
        """Whether a tool in this pose is where it should be."""
        if self.goal == "insert":
            return seen_from_slot[:, 1] > DEEP
        far = seen_from_slot[:, 1] < 1 - AWAY
        return far & (np.abs(seen_from_slot[:, 0]) < ASIDE) & (np.abs(seen_from_slot[:, 2]) < TILT)

    def touches(self, seen_from_slot: Poses) -> Bool[np.ndarray, " copies"]:
        """Whether a tool in this pose would lie in the block: a corner of its tip does, or a corner of the slot in it."""
        angle = seen_from_slot[:, 2]
        hit = np.zeros(len(seen_from_slot), dtype=bool)
        for side in (-1.0, 1.0):
            corner = seen_from_slot[:, :2] + side * WIDTH / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
            hit |= (corner[:, 1] > 0) & ((np.abs(corner[:, 0]) > self.half_slot) | (corner[:, 1] > BOTTOM))
            edge = turned(np.array([side * self.half_slot, 0.0]) - seen_from_slot[:, :2], -angle)
            hit |= (np.abs(edge[:, 0]) < WIDTH / 2) & (edge[:, 1] < 0) & (edge[:, 1] > -LENGTH)
        return hit

    def _observed(self) -> Float32[np.ndarray, "copies observations"]:
        origin = self.begun if self.frame == "relative" else np.zeros_like(self.begun)
        back = planar_inverse(origin)
        tool, slot = planar_product(back, self.tool), planar_product(back, self.slot)
        moved = turned(self.moved[:, :2], -origin[:, 2]) / STRIDE
        parts = [
            part for pose in (tool, slot) for part in (pose[:, :2] / LOOK, np.sin(pose[:, 2:]), np.cos(pose[:, 2:]))
        ]
        return np.concatenate([*parts, moved], axis=1).astype(np.float32)

    def close(self) -> None:
        """Nothing is held."""


class LinkedPegs(Pegs):
    """One of two views of a single scene that is never put back.

    Parameters
    ----------
    task : PegTask
        What is to be done in this view.
    scene : Pegs
        One copy, where the tool and the slot are.
    """

    def __init__(self, task: PegTask, scene: Pegs) -> None:
        super().__init__(1, task.frame, task.clearance, math.radians(task.turn), task.goal)
        self.scene = scene

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Begin an episode in the scene as it stands."""
        self.slot[:] = self.scene.slot
        self.place(0, self.scene.tool[0])
        return self._observed()[list(seeds)]

    def step(self, actions: Float[np.ndarray, "copies 3"]) -> Step:
        """Move the scene's tool."""
        step = super().step(actions)
        self.scene.tool[:] = self.tool
        return step

    def state_dict(self) -> dict[str, np.ndarray]:
        """The scene and the episode."""
        names = ("tool", "slot", "begun", "moved", "time", "over")
        return {name: getattr(self, name).copy() for name in names} | {"scene": self.scene.tool.copy()}

    def load_state_dict(self, tree: Mapping[str, np.ndarray]) -> None:
        """Take them up."""
        for name, value in tree.items():
            if name != "scene":
                setattr(self, name, value.copy())
        self.scene.tool[:], self.scene.slot[:] = tree["scene"], tree["slot"]


@dataclass(frozen=True, eq=False)
class PegThereAndBack(ThereAndBack):
    """Into the slot and out of it again, in one scene.

    Parameters
    ----------
    forward, backward : PegTask
        Either way.
    """

    forward: PegTask
    backward: PegTask

    name: str = "peg-there-and-back"
    metric: str = "success rate"

    def fingerprint(self) -> str:
        """Name both."""
        return fingerprint(self.forward.fingerprint(), self.backward.fingerprint())

    def link(self, seed: int) -> tuple[LinkedPegs, LinkedPegs]:
        """Make one scene and its two views."""
        scene = self.forward.make(1)
        scene.reset({0: seed})
        return LinkedPegs(self.forward, scene), LinkedPegs(self.backward, scene)


def peg_there_and_back(demonstrations: int = 20, frame: Frame = "relative", clearance: float = 0.2) -> PegThereAndBack:
    """Put a peg into a slot and take it out again, with nobody to put it back (see :class:`PegThereAndBack`).

    Parameters
    ----------
    demonstrations : int, default 20
        Episodes, of either way.
    frame : {"relative", "absolute"}
        Of observations and actions.
    clearance : float, default 0.2
        How much wider the slot is than the tool, in centimetres.
    """
    there, back = (PegTask(demonstrations, frame, clearance, 0.0, goal) for goal in ("insert", "withdraw"))
    return PegThereAndBack(there, back)


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
