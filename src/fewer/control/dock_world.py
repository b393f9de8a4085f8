"""A point in the plane and two docks: demonstrations go to either, and only one of them counts.

All copies move as one array.  An action is a velocity in [-1, 1]^2, and one step is

    position <- position + 0.08 a.

It is seen as two numbers, or as a small picture of the point and both docks.

Half of the demonstrations go around to dock A at (-0.7, 0.8), half to dock B at (0.7, 0.8).  The task, which imitation
cannot know, is B: each step costs a quarter until it is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, UInt8

from fewer.control.environments import Environment, Step, Worlds
from fewer.control.observed import Observed, Part
from fewer.control.stacking import StackedWorlds
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations

HORIZON, STRIDE, COST = 40, 0.08, 0.25
"""The most steps of an episode, the way of an action of 1, and what a step costs."""

START, SHAKE = np.array([0.0, -0.9]), 0.05
"""Where episodes begin, and half the width of the box around it."""

WAY, DOCK = np.array([0.75, 0.0]), np.array([0.7, 0.8])
"""Where a demonstration turns, and where it ends; on the left both with the other sign."""

TURNED = 0.1
"""How near the turning point is near enough."""

EDGE = 1.2
"""How far a picture shows the world to each side; a point beyond it is drawn at the edge."""

RED, GREEN, BLUE, GREY = np.array([[230, 60, 50], [60, 200, 90], [70, 110, 230], [40, 40, 40]])

Points = Float[np.ndarray, "copies 2"]


def picture(position: Points, size: int) -> UInt8[np.ndarray, "copies size size 3"]:
    """Draw each copy's world: the point red, dock B green and dock A blue, on grey; y points up.

    Edges of discs are blended over a pixel, so that a picture tells places between pixels apart.
    """
    scale = (size - 1) / (2 * EDGE)
    across = (np.arange(size) - (size - 1) / 2) / scale
    ground = np.broadcast_to(GREY, (size, size, 3)).astype(np.float32)
    for dock, colour in ((DOCK, GREEN), (DOCK * [-1, 1], BLUE)):
        ground = _disc(ground, dock[None], across, 0.17, scale, colour)[0]
    return np.rint(_disc(ground, position.clip(-EDGE, EDGE), across, 0.12, scale, RED)).astype(np.uint8)


def _disc(
    ground: np.ndarray, centres: Points, across: np.ndarray, radius: float, scale: float, colour: np.ndarray
) -> np.ndarray:
    away = np.hypot(across - centres[:, :1, None], -across[:, None] - centres[:, 1:, None]).astype(np.float32)
    share = ((radius - away) * scale + 0.5).clip(0, 1)[..., None]
    return ground + share * (colour.astype(np.float32) - ground)


@dataclass(frozen=True, eq=False)
class DockTask(Environment):
    """The world and its demonstrations.

    Parameters
    ----------
    demonstrated : int
        Episodes that are demonstrated, half of them to each dock.
    radius : float
        How near the dock is near enough.
    miss : float
        Standard deviation of the place where a demonstration ends, around the dock.
    noise : float
        Standard deviation of the noise in demonstrated actions, which is recorded in them.
    speed : float
        Of demonstrations, as a share of the greatest.
    images : bool
        Whether it is seen as a picture.
    size : int
        Pixels of its sides.
    stack : int
        How many of the last pictures are seen.

    Examples
    --------
    >>> task = dock_2d()
    >>> task.make(3).reset({0: 1, 2: 5}).shape, len(task.demonstrations(0))
    ((2, 2), 300)
    """

    demonstrated: int
    radius: float
    miss: float
    noise: float
    speed: float
    images: bool = False
    size: int = 48
    stack: int = 1

    name: str = "dock-2d"
    metric: str = "success rate"

    def __post_init__(self) -> None:
        if self.demonstrated < 2:
            raise FewerError(f"dock-2d: at least two demonstrations are needed; {self.demonstrated} were asked for")
        if not (self.radius > 0 and self.miss >= 0 and self.noise >= 0 and 0 < self.speed <= 1):
            raise FewerError(
                "dock-2d: radius must be positive, miss and noise not negative, and speed in (0, 1]; given "
                f"{self.radius}, {self.miss}, {self.noise} and {self.speed}"
            )
        if self.images and self.size < 15:
            raise FewerError(f"dock-2d: pictures of {self.size} pixels show too little; give size=15 or more")
        if self.stack != 1 and not self.images:
            raise FewerError("dock-2d: pictures are stacked, and there are none; give images=True, or leave stack out")
        observed = Observed((Part((self.size, self.size, 3), image=True),), self.stack) if self.images else None
        for field, value in (
            ("observation_size", 2 if observed is None else observed.size),
            ("observed", observed),
            ("action_size", 2),
            ("low", -np.ones(2)),
            ("high", np.ones(2)),
        ):
            object.__setattr__(self, field, value)

    def fingerprint(self) -> str:
        """Name the world and how it is demonstrated."""
        settings = (self.demonstrated, self.radius, self.miss, self.noise, self.speed)
        if self.images:
            settings += (self.size, self.stack)
        return fingerprint(repr((settings, HORIZON, STRIDE, COST, START.tolist(), SHAKE, WAY.tolist(), DOCK.tolist())))

    def make(self, copies: int) -> Worlds:
        """Copies of the world."""
        docks = Docks(copies, self.radius, self.size if self.images else None)
        return docks if self.observed is None or self.stack == 1 else StackedWorlds(docks, self.observed)

    def demonstrations(self, seed: int) -> Demonstrations:
        """What the script does: by the side to a dock, and there it stays; who comes to B has arrived."""
        count = self.demonstrated
        rng = generator(seed, "docks")
        worlds = Docks(count, self.radius)
        seen = worlds.reset({each: derive(seed, "start", each) for each in range(count)})
        side = np.where(np.arange(count) < count // 2, -1.0, 1.0)
        rng.shuffle(side)
        mirror = np.stack([side, np.ones(count)], axis=1)
        way, dock = WAY * mirror, DOCK * mirror + self.miss * rng.standard_normal((count, 2))
        turned, over = np.zeros((2, count), dtype=bool)
        steps: list[list[tuple[np.ndarray, np.ndarray, float]]] = [[] for _ in range(count)]
        final, reached = np.zeros((count, 2), dtype=np.float32), np.zeros(count, dtype=bool)
        for _ in range(HORIZON):
            turned |= np.linalg.norm(way - seen, axis=1) < TURNED
            ahead = np.where(turned[:, None], dock, way) - seen
            distance = np.linalg.norm(ahead, axis=1, keepdims=True)
            wanted = ahead / np.maximum(distance, 1e-9) * np.minimum(self.speed, distance / STRIDE)
            actions = np.clip(wanted + self.noise * rng.standard_normal((count, 2)), -1, 1)
            step = worlds.step(actions)
            for each in np.flatnonzero(~over):
                steps[each].append((seen[each], actions[each], step.rewards[each]))
            newly = ~over & (step.terminated | step.truncated)
            final[newly], reached[newly] = step.observations[newly], step.success[newly]
            over |= newly
            seen = step.observations
        return Demonstrations.of_episodes(
            [
                {
                    "observations": self._shown(np.stack([*(row[0] for row in episode), final[each]])),
                    "actions": np.stack([row[1] for row in episode]),
                    "rewards": np.array([row[2] for row in episode]),
                    "terminated": reached[each],
                    "success": reached[each],
                }
                for each, episode in enumerate(steps)
            ],
            name=self.name,
        )

    def _shown(self, positions: Float32[np.ndarray, "steps 2"]) -> np.ndarray:
        """What is seen along an episode."""
        if not self.images:
            return positions
        pictures = picture(positions, self.size)
        back = np.arange(len(pictures))[:, None] + np.arange(1 - self.stack, 1)
        return pictures if self.stack == 1 else pictures[back.clip(0)]


class Docks:
    """Copies of the world in progress.

    Parameters
    ----------
    copies : int
        How many.
    radius : float
        How near the dock is near enough.
    size : int, optional
        Pixels of a picture's sides, where pictures are seen.
    """

    def __init__(self, copies: int, radius: float, size: int | None = None) -> None:
        self.copies, self.radius, self.size = copies, radius, size
        self.position = np.zeros((copies, 2))
        self.time, self.over = np.zeros(copies, dtype=np.int64), np.ones(copies, dtype=bool)

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Begin near the start."""
        for copy, seed in seeds.items():
            self.position[copy] = START + SHAKE * generator(seed, "dock").uniform(-1, 1, 2)
            self.time[copy], self.over[copy] = 0, False
        return self._seen(self.position[list(seeds)])

    def _seen(self, position: Points) -> Float32[np.ndarray, "chosen observations"]:
        if self.size is None:
            return position.astype(np.float32)
        return picture(position, self.size).reshape(len(position), -1).astype(np.float32)

    def step(self, actions: Points) -> Step:
        """Move every point whose episode goes on."""
        going = ~self.over
        self.position = self.position + STRIDE * np.clip(actions, -1, 1) * going[:, None]
        self.time += going
        there = going & (np.linalg.norm(self.position - DOCK, axis=1) < self.radius)
        late = going & (self.time >= HORIZON)
        step = Step(
            self._seen(self.position),
            np.where(going & ~there, -COST, 0.0),
            there | self.over,
            late,
            there,
            going.astype(np.int64),
        )
        self.over = self.over | there | late
        return step

    def close(self) -> None:
        """Nothing is held."""


def dock_2d(
    demonstrations: int = 300,
    radius: float = 0.12,
    miss: float = 0.0,
    noise: float = 0.25,
    speed: float = 1.0,
    images: bool = False,
    size: int = 48,
    stack: int = 1,
) -> DockTask:
    """Go to one of two docks, after demonstrations that go to either (see :class:`DockTask`).

    Parameters
    ----------
    demonstrations : int, default 300
        Episodes.
    radius : float, default 0.12
        How near is near enough.
    miss : float, default 0
        Standard deviation of the places where demonstrations end.
    noise : float, default 0.25
        Standard deviation of the noise in demonstrated actions.
    speed : float, default 1
        Of demonstrations, as a share of the greatest.
    images : bool, default False
        See a picture of the world instead of where the point is.
    size : int, default 48
        Pixels of its sides.
    stack : int, default 1
        How many of the last pictures are seen.
    """
    return DockTask(demonstrations, radius, miss, noise, speed, images, size, stack)
