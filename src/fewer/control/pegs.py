"""A peg and a slot in the plane: what moves, what it touches and what is seen.

All copies move as one array.  Lengths are in centimetres.  The tool is a rectangle 2 wide and 6 long; its pose (x, y, theta) is
that of the middle of its tip.  The slot is cut into a block whose face is the line y' = 0 of the slot's own frame: the block is
solid at y' > 0 except where |x'| is less than half the slot's width, to a depth of 2.  An action is a displacement and a turn in
[-1, 1]^3, scaled to (2 cm, 2 cm, 6 degrees); it is carried out in four parts, and of each the turn, the motion along the face and
the motion into it are cancelled one by one where they would lead into the block.

The frame is either the table's, or that of the tool at the beginning of the episode; in the latter actions are carried out in the
tool's own axes (see fewer.control.relative_frame).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32

from fewer.control.environments import Step
from fewer.control.relative_frame import planar_inverse, planar_product, turned
from fewer.core.seeding import generator

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

Frame = Literal["relative", "absolute"]
Goal = Literal["insert", "withdraw"]
Poses = Float[np.ndarray, "copies 3"]


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
