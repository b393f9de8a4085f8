"""A point with mass in the plane: two gates to pass, or a disc to go around, with experts who know how.

All copies move as one array.  The state is position and velocity, an action is a push in [-1, 1]^2:

    v <- 0.95 v + 0.2 a + 0.1 system_noise xi,    position <- position + 0.05 v,    xi ~ N(0, I)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations
from fewer.demos.loop import ImitationTask
from fewer.demos.rollouts import Collection, Play, Policy, Step, collect

DRAG, PUSH, SHAKE, STEP = 0.95, 0.2, 0.1, 0.05
"""How the velocity fades, what an action and what noise of 1 add to it, and the time between two steps."""

Points = Float[np.ndarray, "copies 2"]


@dataclass(frozen=True)
class PointWorld(ABC):
    """A world of a point with mass.

    Parameters
    ----------
    system_noise : float, default 0
        Standard deviation of the noise that moves the point and is not in the actions.
    """

    start: ClassVar[tuple[float, float]]
    goal: ClassVar[tuple[float, float]]
    horizon: ClassVar[int]

    system_noise: float = 0.0

    def __post_init__(self) -> None:
        if not self.system_noise >= 0:
            raise FewerError(f"a world's noise is a standard deviation; it is {self.system_noise}")

    @abstractmethod
    def blocked(self, before: Points, after: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a move hits something, which ends the episode."""

    @abstractmethod
    def reached(self, position: Points) -> Bool[np.ndarray, " copies"]:
        """Whether this is the goal."""

    @abstractmethod
    def expert(self) -> Policy:
        """Who knows the way."""

    def play(self, copies: int) -> Play:
        """Copies of this world to act in."""
        return _Points(self, copies)


class _Points:
    """Copies of a world in progress."""

    def __init__(self, world: PointWorld, copies: int) -> None:
        self.world, self.copies, self.horizon = world, copies, world.horizon
        self.low, self.high = -np.ones(2, dtype=np.float32), np.ones(2, dtype=np.float32)

    def reset(self, seed: int) -> Observations:
        """Begin near the start, at rest."""
        self.noise, self.time = generator(seed, "noise"), 0
        self.position = self.world.start + generator(seed, "starts").uniform(-0.05, 0.05, size=(self.copies, 2))
        self.velocity = np.zeros((self.copies, 2))
        return self._seen()

    def step(self, actions: Points) -> Step:
        """Move every point."""
        before = self.position
        shaken = SHAKE * self.world.system_noise * self.noise.standard_normal((self.copies, 2))
        self.velocity = DRAG * self.velocity + PUSH * actions + shaken
        self.position = before + STEP * self.velocity
        self.time += 1
        there = self.world.reached(self.position)
        hit = self.world.blocked(before, self.position)
        done = there & ~hit
        truncated = np.full(self.copies, self.time >= self.horizon)
        return Step(self._seen(), done.astype(float), hit | done, truncated, done)

    def _seen(self) -> Float[np.ndarray, "copies 4"]:
        return np.concatenate([self.position, self.velocity], axis=1, dtype=np.float32)


class _Waypoints:
    """Go towards the next point of the way."""

    def __init__(self, stages: Float[np.ndarray, "stages 2"], borders: list[float], below: float = 0.0) -> None:
        self.stages, self.borders, self.below = stages, borders, below

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        side = np.where(np.arange(copies) < round(self.below * copies), -1.0, 1.0)
        self.side = rng.permutation(side)

    def act(self, observations: Observations) -> Points:
        assert isinstance(observations, np.ndarray)
        position, velocity = observations[:, :2].astype(float), observations[:, 2:].astype(float)
        stage = np.searchsorted(self.borders, position[:, 0])
        target = self.stages[stage].copy()
        target[:, 1] *= self.side
        ahead = target - position
        wanted = SPEED * ahead / np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-6)
        return np.clip((1 - DRAG) / PUSH * wanted + GAIN * (wanted - velocity), -1, 1)


SPEED, GAIN = 0.8, 1.0
"""How fast an expert goes, and how hard it pushes where its velocity is another."""


@dataclass(frozen=True)
class TwoGates(PointWorld):
    """Pass a gate on the left side and one on the right, and reach a box behind them.

    Walls at x = -0.4 and x = 0.4 have a gate of half-width 0.13 at y = 0.45 and y = -0.45; touching a wall ends the
    episode.  The goal is a box of half-width 0.12 around (1.1, 0), to be reached in 140 steps.

    Parameters
    ----------
    system_noise : float, default 0
        See :class:`PointWorld`.
    """

    start: ClassVar[tuple[float, float]] = (-1.1, 0.0)
    goal: ClassVar[tuple[float, float]] = (1.1, 0.0)
    horizon: ClassVar[int] = 140
    gates: ClassVar[tuple[tuple[float, float], ...]] = ((-0.4, 0.45), (0.4, -0.45))
    half_width: ClassVar[float] = 0.13

    def blocked(self, before: Points, after: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a move crosses a wall beside its gate."""
        hit = np.zeros(len(before), dtype=bool)
        for x, y in self.gates:
            crosses = (before[:, 0] < x) != (after[:, 0] < x)
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (x - before[:, 0]) / (after[:, 0] - before[:, 0])
                at = before[:, 1] + share * (after[:, 1] - before[:, 1])
                hit |= crosses & (np.abs(at - y) > self.half_width)
        return hit

    def reached(self, position: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a point is in the box."""
        return np.abs(position - self.goal).max(axis=1) < 0.12

    def expert(self) -> Policy:
        """Through both gates to the box."""
        return _Waypoints(np.array([*self.gates, self.goal]), [x for x, _ in self.gates])


@dataclass(frozen=True)
class Obstacle(PointWorld):
    """Go around a disc of radius 0.35 in the middle, from (-1, 0) to within 0.12 of (1, 0), in 140 steps.

    Parameters
    ----------
    system_noise : float, default 0
        See :class:`PointWorld`.
    below : float, default 0
        Share of episodes in which the expert goes around below, not above.
    """

    start: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    goal: ClassVar[tuple[float, float]] = (1.0, 0.0)
    horizon: ClassVar[int] = 140
    radius: ClassVar[float] = 0.35

    below: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.below <= 1:
            raise FewerError(f"the share of episodes that pass below must lie in [0, 1]; it is {self.below}")

    def blocked(self, before: Points, after: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a point is in the disc."""
        return np.asarray(np.hypot(*after.T) < self.radius)

    def reached(self, position: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a point is near the goal."""
        return np.asarray(np.hypot(*(position - self.goal).T) < 0.12)

    def expert(self) -> Policy:
        """Around the disc, above or below."""
        return _Waypoints(np.array([(0.0, 0.6), self.goal]), [0.0], self.below)


# --- as tasks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PointTask(ImitationTask):
    """A world of a point, and demonstrations that its expert gives.

    Parameters
    ----------
    name : str
        As the user wrote it.
    world : PointWorld
        Where demonstrations are given; its ``system_noise`` counts there.
    demonstrated : int
        Episodes that can be had.
    policy_noise : float
        Standard deviation of the noise in the expert's actions.
    only_success : bool
        Whether failed demonstrations are left out.
    test_noise : float
        The world's noise while policies are scored.
    """

    name: str
    world: PointWorld
    demonstrated: int
    policy_noise: float
    only_success: bool
    test_noise: float

    metric: str = "success rate"

    def __post_init__(self) -> None:
        if self.demonstrated < 1 or not self.policy_noise >= 0 or not self.test_noise >= 0:
            raise FewerError(
                f"{self.name}: demonstrations must be at least 1 and noise not negative; they are {self.demonstrated}, "
                f"{self.policy_noise} and {self.test_noise}"
            )

    @property
    def pool(self) -> int:
        """Episodes that can be had."""
        return self.demonstrated

    def fingerprint(self) -> str:
        """Name the world and how demonstrations are given."""
        said = (self.world, self.demonstrated, self.policy_noise, self.only_success, self.test_noise, SPEED, GAIN)
        return fingerprint(repr(said))

    def collection(self, seed: int) -> Collection:
        """Let the expert demonstrate."""
        copies = min(self.demonstrated * 2, 200)
        return collect(
            self.world.play(copies),
            self.world.expert(),
            self.demonstrated,
            policy_noise=self.policy_noise,
            only_success=self.only_success,
            seed=derive(seed, "demonstrations"),
            name=self.name,
        )

    def demonstrations(self, seed: int) -> Demonstrations:
        """The demonstrations of one seed."""
        return self.collection(seed).demonstrations

    def play(self, copies: int) -> Play:
        """The world with the noise of the test."""
        return replace(self.world, system_noise=self.test_noise).play(copies)


def two_gates(
    demonstrations: int = 60,
    system_noise: float = 0.0,
    policy_noise: float = 0.0,
    test_noise: float = 0.0,
    only_success: bool = True,
) -> PointTask:
    """Two gates to pass (see :class:`TwoGates`).

    Parameters
    ----------
    demonstrations : int, default 60
        Episodes that can be had.
    system_noise, policy_noise : float, default 0
        Noise while demonstrating: of the world, and of the expert's actions.
    test_noise : float, default 0
        The world's noise while policies are scored.
    only_success : bool, default True
        Leave failed demonstrations out.
    """
    world = TwoGates(system_noise)
    return PointTask("two-gates", world, demonstrations, policy_noise, only_success, test_noise)


def obstacle(
    demonstrations: int = 100,
    below: float = 0.5,
    system_noise: float = 0.0,
    policy_noise: float = 0.0,
    test_noise: float = 0.0,
    only_success: bool = True,
) -> PointTask:
    """A disc to go around (see :class:`Obstacle`).

    Parameters
    ----------
    demonstrations : int, default 100
        Episodes that can be had.
    below : float, default 0.5
        Share of them that go around below; with 0, all go above.
    system_noise, policy_noise, test_noise, only_success
        See :func:`two_gates`.
    """
    world = Obstacle(system_noise, below)
    return PointTask("obstacle", world, demonstrations, policy_noise, only_success, test_noise)
