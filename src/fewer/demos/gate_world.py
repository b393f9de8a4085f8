"""A point in the plane whose demonstrations all arrive and all take their time: pauses in the middle, and detours.

All copies move as one array.  An action is a push in [-1, 1]^2:

    v <- 0.6 v + 0.06 a,    position <- position + v

The script passes the gate at (0, 0), where it waits in some episodes, and goes there by the side in some.  Neither can be
told from what is seen, so what was demonstrated is no function of the observation, and slower than need be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations
from fewer.demos.loop import ImitationTask
from fewer.demos.rollouts import Play, Policy, Step, collect

DRAG, PUSH = 0.6, 0.06
"""How the velocity fades, and what an action adds to it."""

HORIZON, NEAR = 60, 0.12
"""The most steps of an episode, and how near the goal is near enough."""

START, GATE, GOAL = np.array([0.0, -0.9]), np.array([0.0, 0.0]), np.array([0.0, 0.9])
SIDE = np.array([0.8, -0.45])
"""Where episodes begin, pass and end, and the way by the side (its first number with either sign)."""

SEEN = 0.3
"""Half-width of the boxes of starts and goals in which demonstrations are given."""

SHAKE = 0.3
"""Standard deviation of the noise in demonstrated actions, which is recorded in them: nobody's hand is steady."""

Points = Float[np.ndarray, "copies 2"]


@dataclass(frozen=True)
class Gate2D:
    """Go from a start in one box to a goal in another.

    What is seen are eight numbers: position, velocity, goal, and the way to the goal.  Each step costs 1 until the goal is
    nearer than 0.12, which ends the episode; after 60 steps it is cut off.

    Parameters
    ----------
    spread : float, default 0.3
        Half-width of the boxes around (0, -0.9) and (0, 0.9) that starts and goals are drawn from.

    Examples
    --------
    >>> play = Gate2D().play(3)
    >>> play.reset(seed=0).shape, play.step(np.ones((3, 2))).rewards
    ((3, 8), array([-1., -1., -1.]))
    """

    spread: float = SEEN

    def __post_init__(self) -> None:
        if not 0 <= self.spread < np.inf:
            raise FewerError(f"gate-2d: the half-width of a box cannot be {self.spread}; give 0 or more")

    def play(self, copies: int) -> Play:
        """Copies of this world to act in."""
        return _Gates(self, copies)

    def expert(self, pause: float = 0.6, detour: float = 0.4) -> Policy:
        """The script.

        Parameters
        ----------
        pause : float, default 0.6
            Share of episodes in which it waits 5 to 15 steps at the gate.
        detour : float, default 0.4
            Share of episodes in which it goes there by one of the sides.
        """
        return _Script(pause, detour)


class _Gates:
    """Copies of the world in progress."""

    def __init__(self, world: Gate2D, copies: int) -> None:
        self.world, self.copies, self.horizon = world, copies, HORIZON
        self.low, self.high = -np.ones(2, dtype=np.float32), np.ones(2, dtype=np.float32)

    def reset(self, seed: int) -> Observations:
        """Draw starts and goals; begin at rest."""
        drawn = self.world.spread * generator(seed, "boxes").uniform(-1, 1, size=(2, self.copies, 2))
        self.position, self.goal = START + drawn[0], GOAL + drawn[1]
        self.velocity, self.time = np.zeros((self.copies, 2)), 0
        return self._seen()

    def step(self, actions: Points) -> Step:
        """Move every point."""
        self.velocity = DRAG * self.velocity + PUSH * np.clip(actions, -1, 1)
        self.position = self.position + self.velocity
        self.time += 1
        there = np.linalg.norm(self.goal - self.position, axis=1) < NEAR
        truncated = np.full(self.copies, self.time >= HORIZON)
        return Step(self._seen(), np.where(there, 0.0, -1.0), there, truncated, there)

    def _seen(self) -> Float[np.ndarray, "copies 8"]:
        return np.concatenate(
            [self.position, self.velocity, self.goal, self.goal - self.position], axis=1, dtype=np.float32
        )


class _Script:
    """By the side or not, to the gate, a pause or none, and to the goal."""

    def __init__(self, pause: float, detour: float) -> None:
        if not (0 <= pause <= 1 and 0 <= detour <= 1):
            raise FewerError(f"gate-2d: shares of episodes lie in [0, 1]; pause is {pause} and detour {detour}")
        self.pause, self.detour = pause, detour

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        self.stage = np.where(rng.random(copies) < self.detour, 0, 1)
        self.side = SIDE * np.stack([rng.choice([-1.0, 1.0], size=copies), np.ones(copies)], axis=1)
        self.wait = np.where(rng.random(copies) < self.pause, rng.integers(5, 16, size=copies), 0)

    def act(self, observations: Observations) -> Points:
        assert isinstance(observations, np.ndarray)
        position, velocity, goal = np.split(observations[:, :6].astype(float), 3, axis=1)
        target = np.select([self.stage[:, None] == 0, self.stage[:, None] == 1], [self.side, GATE], goal)
        near = np.linalg.norm(target - position, axis=1) < NEAR
        waiting = near & (self.stage == 1) & (self.wait > 0)
        self.wait = self.wait - waiting
        self.stage = self.stage + (near & ~waiting & (self.stage < 2))
        target = np.select([self.stage[:, None] == 0, self.stage[:, None] == 1], [self.side, GATE], goal)
        # the push that makes the velocity half of the way that is left
        return np.clip((0.5 * (target - position) - DRAG * velocity) / PUSH, -1, 1)


@dataclass(frozen=True, eq=False)
class GateTask(ImitationTask):
    """The world, and demonstrations that its script gives.

    Parameters
    ----------
    demonstrated : int
        Episodes that can be had.
    test_spread : float
        Half-width of the boxes while policies are scored.
    """

    demonstrated: int
    test_spread: float

    name: str = "gate-2d"
    metric: str = "success rate"

    def __post_init__(self) -> None:
        if self.demonstrated < 1:
            raise FewerError(f"gate-2d: at least one demonstration is needed; {self.demonstrated} were asked for")
        Gate2D(self.test_spread)

    @property
    def pool(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Episodes that can be had."""
        return self.demonstrated

    def fingerprint(self) -> str:
        """Name the world and how it is demonstrated."""
        return fingerprint(repr((self.demonstrated, self.test_spread, DRAG, PUSH, HORIZON, NEAR, SEEN, SHAKE)))

    def demonstrations(self, seed: int) -> Demonstrations:
        """The demonstrations of one seed; all of them arrive."""
        world, given = Gate2D(), derive(seed, "demonstrations")
        play = world.play(min(2 * self.demonstrated, 200))
        return collect(
            play, world.expert(), self.demonstrated, policy_noise=SHAKE, seed=given, name=self.name
        ).demonstrations

    def play(self, copies: int) -> Play:
        """The world as policies are scored in it."""
        return Gate2D(self.test_spread).play(copies)


def gate_2d(demonstrations: int = 40, test_spread: float = SEEN) -> GateTask:
    """Go through a gate to a goal, after demonstrations that pause and go by the side (see :class:`Gate2D`).

    Parameters
    ----------
    demonstrations : int, default 40
        Episodes that can be had.
    test_spread : float, default 0.3
        Half-width of the boxes while policies are scored; above 0.3, some starts and goals were never demonstrated.
    """
    return GateTask(demonstrations, test_spread)
