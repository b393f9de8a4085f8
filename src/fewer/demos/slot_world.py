"""A point with mass that is to be put through a narrow slot into a pocket, and held there; whoever touches a wall is out.

All copies move as one array.  The state is position and velocity, an action is a push in [-1, 1]^2, and the motors are not
exact:

    v <- v + 0.1 (a + noise xi),    position <- position + 0.1 v,    xi ~ N(0, I)

The expert is in a hurry: it makes for the slot, overshoots, and often touches the wall; what it shows are the attempts that
went well.  A clone of it is a little off each time, and nobody has shown it how to come back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations
from fewer.demos.loop import ImitationTask
from fewer.demos.rollouts import Play, Policy, Step, collect

HORIZON, STEP = 60, 0.1
"""Steps of an episode, and the time of one."""

START, SPREAD, SPEED = (-1.2, 0.0), (0.3, 0.8), 0.4
"""Middle and half-widths of the box in which episodes begin, and the greatest velocity along each axis then."""

DEPTH, POCKET, BACK = 0.2, 0.16, 0.6
"""Where the wall with the slot ends, which begins at 0; half-width of the pocket behind it, and where that ends."""

BEFORE, INSIDE, NEAR, CENTRED = -0.3, 0.4, 0.3, 0.04
"""Where along the way the expert waits and stops; it goes on when it is as near to the wall, or to the middle of the slot."""

STIFF, DAMPED, SHAKE = 4.0, 2.0, 0.2
"""How hard the expert pushes towards where it wants to be and against its velocity, and its hand's noise, recorded with it."""

Points = Float[np.ndarray, "copies 2"]


@dataclass(frozen=True)
class Slot:
    """Go through the slot of a wall, and be in the pocket behind it when 60 steps are over.

    What is seen are four numbers: position and velocity.  Touching a wall ends the episode; nothing else does before its
    last step, which pays 1 for success.

    Parameters
    ----------
    width : float, default 0.12
        Of the slot.
    noise : float, default 0.05
        Standard deviation of the noise of the motors, in units of actions.

    Examples
    --------
    >>> play = Slot().play(3)
    >>> play.reset(seed=0).shape, play.step(np.ones((3, 2))).rewards
    ((3, 4), array([0., 0., 0.]))
    """

    width: float = 0.12
    noise: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.width <= 2 * POCKET and 0 <= self.noise < np.inf):
            raise FewerError(
                f"slot-insertion: the slot is at most as wide as the pocket, {2 * POCKET}, and noise is not negative; they "
                f"are {self.width} and {self.noise}"
            )

    def play(self, copies: int) -> Play:
        """Copies of this world to act in."""
        return _Slots(self, copies)

    def expert(self) -> Policy:
        """Who knows the way, and is in a hurry."""
        return _Hasty()

    def blocked(self, before: Points, after: Points) -> Bool[np.ndarray, " copies"]:
        """Whether a move touches a wall, looked at in five places along it."""
        share = np.linspace(0.2, 1, 5)[:, None, None]
        x, y = np.moveaxis(before + share * (after - before), -1, 0)
        y = np.abs(y)
        hit = (x >= 0) & (((x <= DEPTH) & (y > self.width / 2)) | (y > POCKET) | (x > BACK))
        return hit.any(axis=0)


class _Slots:
    """Copies of the world in progress."""

    def __init__(self, world: Slot, copies: int) -> None:
        self.world, self.copies, self.horizon = world, copies, HORIZON
        self.low, self.high = -np.ones(2, dtype=np.float32), np.ones(2, dtype=np.float32)

    def reset(self, seed: int) -> Observations:
        """Draw starts."""
        self.noise, self.time = generator(seed, "noise"), 0
        drawn = generator(seed, "starts").uniform(-1, 1, size=(2, self.copies, 2))
        self.position, self.velocity = np.array(START) + np.array(SPREAD) * drawn[0], SPEED * drawn[1]
        return self._seen()

    def step(self, actions: Points) -> Step:
        """Move every point."""
        pushed = np.clip(actions, -1, 1) + self.world.noise * self.noise.standard_normal((self.copies, 2))
        before = self.position
        self.velocity = self.velocity + STEP * pushed
        self.position = before + STEP * self.velocity
        self.time += 1
        hit = self.world.blocked(before, self.position)
        last = np.full(self.copies, self.time >= HORIZON)
        done = last & ~hit & (self.position[:, 0] >= 0)
        return Step(self._seen(), done.astype(float), hit, last, done)

    def _seen(self) -> Float[np.ndarray, "copies 4"]:
        return np.concatenate([self.position, self.velocity], axis=1, dtype=np.float32)


class _Hasty:
    """Towards the middle of the slot, and on through it when near."""

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """Nothing is remembered."""

    def act(self, observations: Observations) -> Points:
        assert isinstance(observations, np.ndarray)
        position, velocity = observations[:, :2].astype(float), observations[:, 2:].astype(float)
        goes = (position[:, 0] > -NEAR) | (np.abs(position[:, 1]) < CENTRED)
        target = np.stack([np.where(goes, INSIDE, BEFORE), np.zeros(len(goes))], axis=1)
        return np.clip(STIFF * (target - position) - DAMPED * velocity, -1, 1)


# --- as a task -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SlotTask(ImitationTask):
    """The world, and demonstrations that its expert gives.

    Parameters
    ----------
    demonstrated : int
        Episodes that can be had.
    world : Slot
        Where they are given and policies are scored.
    """

    demonstrated: int
    world: Slot

    name: str = "slot-insertion"
    metric: str = "success rate"

    def __post_init__(self) -> None:
        if self.demonstrated < 1:
            raise FewerError(
                f"slot-insertion: at least one demonstration is needed; {self.demonstrated} were asked for"
            )

    @property
    def pool(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Episodes that can be had."""
        return self.demonstrated

    def fingerprint(self) -> str:
        """Name the world and how it is demonstrated."""
        said = (self.demonstrated, self.world, HORIZON, STEP, START, SPREAD, SPEED, DEPTH, POCKET, BACK)
        return fingerprint(repr((*said, BEFORE, INSIDE, NEAR, CENTRED, STIFF, DAMPED, SHAKE)))

    def demonstrations(self, seed: int) -> Demonstrations:
        """The demonstrations of one seed; all of them succeed."""
        play, given = self.world.play(min(8 * self.demonstrated, 200)), derive(seed, "demonstrations")
        return collect(
            play, self.world.expert(), self.demonstrated, policy_noise=SHAKE, seed=given, name=self.name
        ).demonstrations

    def play(self, copies: int) -> Play:
        """The world."""
        return self.world.play(copies)


def slot_insertion(demonstrations: int = 100, width: float = 0.12, noise: float = 0.05) -> SlotTask:
    """Put a point through a slot and hold it behind (see :class:`Slot`).

    Parameters
    ----------
    demonstrations : int, default 100
        Episodes that can be had.
    width, noise : float, default 0.12 and 0.05
        Of the slot, and of the motors.
    """
    return SlotTask(demonstrations, Slot(width, noise))
