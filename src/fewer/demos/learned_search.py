"""Learning to search: what is given and chosen; how it is carried out is in :mod:`fewer.demos.search_training`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations
from fewer.demos.rollouts import Play
from fewer.demos.search_policy import BasePolicy, Imagination, SearchPolicy
from fewer.demos.world_model import WorldModelShape

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson
    from fewer.demos.search_training import SearchTraining


@dataclass(frozen=True)
class LearnedSearch:
    """Learn to search around a policy that was cloned, by acting and without any reward.

    Parameters
    ----------
    env_steps : int, default 100000
        Steps of the environment, in all.
    warm_up : float, default 0.2
        Share of them in which the base policy acts alone, with noise; 0 leaves that out.
    warm_noise : float, default 0.1
        Standard deviation of that noise, where bounds of actions are -1 and 1.
    round_steps : int, default 3500
        Steps of a round of the search, at least; copies finish their episodes.
    copies : int, default 10
        Of the environment, side by side.
    train_ratio : float, default 1.5
        Updates for each step.
    batch, length : int, default 16 and 32
        Stretches of an update, and their steps.
    capacity : int, default 100000
        Steps that are kept.
    world : WorldModelShape, default WorldModelShape()
        How large the world model is.
    hidden : tuple of int, default (512, 512)
        Units of each hidden layer of reward and values.
    members : int, default 5
        Of the values' ensemble.
    world_lr, reward_lr, value_lr : float, default 1e-4, 1e-4 and 3e-5
        Learning rates of Adam.
    reward_every : int, default 100
        Updates of the world model for each one of the reward.
    penalty, slope : float, default 10 and 0.4
        Of the reward's steepness (see :func:`moment_loss`).
    imagined : int, default 7
        Steps that values look ahead while they are trained.
    mix : float, default 0.95
        Lambda of their returns.
    slow : float, default 0.02
        Share of the way that slow copies of the values move at a time.
    imagination : Imagination, default Imagination()
        How plans are scored and changed.
    average : bool, default True
        Whether plans of the base policy are averaged over time.
    distil_every : int, default 10
        Rounds from one time that the base policy learns what was found to the next; 0 leaves that out, as does a base policy
        that is no :class:`DiffusionPolicy`.
    distil_episodes, distil_steps : int, default 64 and 1000
        The latest episodes that are learned from, and updates.  Its optimiser begins anew with the learning rate of the
        cloning, and the first fifty updates or so do more harm than good.
    """

    env_steps: int = 100_000
    warm_up: float = 0.2
    warm_noise: float = 0.1
    round_steps: int = 3500
    copies: int = 10
    train_ratio: float = 1.5
    batch: int = 16
    length: int = 32
    capacity: int = 100_000
    world: WorldModelShape = field(default_factory=WorldModelShape)
    hidden: tuple[int, ...] = (512, 512)
    members: int = 5
    world_lr: float = 1e-4
    reward_lr: float = 1e-4
    value_lr: float = 3e-5
    reward_every: int = 100
    penalty: float = 10.0
    slope: float = 0.4
    imagined: int = 7
    mix: float = 0.95
    slow: float = 0.02
    imagination: Imagination = field(default_factory=Imagination)
    average: bool = True
    distil_every: int = 10
    distil_episodes: int = 64
    distil_steps: int = 1000

    def __post_init__(self) -> None:
        counts = (
            self.env_steps,
            self.round_steps,
            self.copies,
            self.length,
            self.capacity,
            self.members,
            self.reward_every,
            self.imagined,
            self.distil_episodes,
            self.distil_steps,
        )
        if min(counts) < 1 or self.batch < 2 or not self.hidden or min(self.hidden) < 1:
            raise FewerError(f"sailor: counts must be at least 1, and batch at least 2; given {self}")
        if not (0 <= self.warm_up <= 1 and 0 <= self.mix <= 1 and 0 < self.slow <= 1):
            raise FewerError(
                f"sailor: warm_up and mix lie in [0, 1] and slow in (0, 1]; they are {self.warm_up}, {self.mix} and {self.slow}"
            )
        if not (min(self.warm_noise, self.train_ratio, self.penalty, self.slope, self.distil_every) >= 0):
            raise FewerError(
                f"sailor: warm_noise, train_ratio, penalty, slope and distil_every cannot be negative; they are "
                f"{self.warm_noise}, {self.train_ratio}, {self.penalty}, {self.slope} and {self.distil_every}"
            )
        if not min(self.world_lr, self.reward_lr, self.value_lr) > 0:
            raise FewerError(
                f"sailor: learning rates must be positive; they are {self.world_lr}, {self.reward_lr} and {self.value_lr}"
            )

    def improve(self, lesson: Lesson, policy: BasePolicy) -> SearchPolicy:
        """Fill the planner slot."""
        training = self.start(
            lesson.demonstrations, policy, lesson.play, low=lesson.low, high=lesson.high, seed=lesson.seed
        )
        training.run()
        lesson.report |= training.report
        return training.policy

    def start(
        self,
        demonstrations: Demonstrations,
        policy: BasePolicy,
        play: Callable[[int], Play],
        *,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        seed: int = 0,
    ) -> SearchTraining:
        """Begin, with a copy of the policy where it will be taught.

        Parameters
        ----------
        demonstrations : Demonstrations
            Of the task; actions must be real numbers.
        policy : BasePolicy
            Whose plans are searched around.
        play : callable
            ``play(copies)`` makes copies of the environment.
        low, high : float array (*action), optional
            Bounds of actions; they may be left out where all that was done lies in [-1, 1].
        seed : int, default 0
            Of everything random.

        Raises
        ------
        FewerError
            If actions are numbered or of another shape than the environment's, or the policy cannot plan.
        """
        from fewer.demos.search_training import SearchTraining

        return SearchTraining(self, demonstrations, policy, play, low, high, seed)
