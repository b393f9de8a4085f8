"""Discounted worlds in which any action may be tried in any state: as arrays, as a function, or generated.

Many tries of many independent runs are made at once, as arrays with one row a run.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.explore.groupings import ActionGrouping, neighbours
from fewer.explore.planning import discounted_value, outcome, policy_iteration
from fewer.explore.worlds import check_arrays


class Sampled(Task):
    """A discounted world of numbered states and actions that can be asked what any action does in any state.

    Attributes
    ----------
    states, actions : int
        How many there are.
    gamma : float
        Discount, in (0, 1).
    rewards : (float, float)
        Least and greatest mean reward.
    allowed : bool array (states, actions), optional
        Which actions a state has; None if all.
    groups : ActionGrouping, optional
        A partition that is known of the world; None if there is none.
    features : float array (actions, dimensions), optional
        What is known of each action.
    """

    states: int
    actions: int
    gamma: float
    rewards: tuple[float, float]
    allowed: Bool[np.ndarray, "states actions"] | None = None
    groups: ActionGrouping | None = None
    features: Float[np.ndarray, "actions dimensions"] | None = None
    metric = "mean value"

    @abstractmethod
    def sample(
        self, states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "runs n"], Float[np.ndarray, "runs n"]]:
        """Next states and rewards."""

    @abstractmethod
    def value(
        self, policy: Float[np.ndarray, "runs states actions"], rng: np.random.Generator
    ) -> Float[np.ndarray, " runs"]:
        """Discounted return of a policy, as the mean over all first states."""

    @property
    def optimum(self) -> float | None:
        """The greatest such return; None where the world's model is not known."""
        return None

    def _check(self) -> None:
        """Refuse what no world has."""
        shape, (low, high) = (self.states, self.actions), self.rewards
        if not 0 < self.gamma < 1:
            raise FewerError(f"{self.name}: gamma is a discount between 0 and 1; {self.gamma:g} was given")
        if not (low < high and math.isfinite(high - low)):
            raise FewerError(f"{self.name}: rewards are declared as (least, greatest); {self.rewards} was given")
        if self.allowed is not None and (self.allowed.shape != shape or not self.allowed.any(axis=1).all()):
            raise FewerError(
                f"{self.name}: allowed must be {shape} with an action in every state; its shape is {self.allowed.shape}"
            )
        if self.groups is not None:
            self.groups.check(*shape, self.name)
        if self.features is not None and (self.features.ndim != 2 or len(self.features) != self.actions):
            raise FewerError(
                f"{self.name}: features must have one row for each of {self.actions} actions; "
                f"their shape is {self.features.shape}"
            )


@dataclass(frozen=True, eq=False)
class DiscountedMDP(Sampled):
    """A world given by its arrays.

    Parameters
    ----------
    name : str
        As the user wrote it.
    P : float array (states, actions, states)
        Probability of each next state; each row of an action that the state has sums to one.
    R : float array (states, actions)
        Mean reward.
    gamma : float
        Discount, in (0, 1).
    noise : float, default 0
        Standard deviation of a reward about its mean.
    rewards : (float, float), default (0, 1)
        The declared range of mean rewards.
    allowed, groups, features
        See :class:`Sampled`.

    Examples
    --------
    >>> world = grouped_actions(states=4, actions=6, groups=3)
    >>> world.P.shape, world.groups.groups
    ((4, 6, 4), 3)
    """

    name: str
    P: Float[np.ndarray, "states actions states"]
    R: Float[np.ndarray, "states actions"]
    gamma: float
    noise: float = 0.0
    rewards: tuple[float, float] = (0.0, 1.0)
    allowed: Bool[np.ndarray, "states actions"] | None = None
    groups: ActionGrouping | None = None
    features: Float[np.ndarray, "actions dimensions"] | None = None

    def __post_init__(self) -> None:
        P, R = self.P, self.R
        if P.ndim != 3 or 0 in P.shape or P.shape[0] != P.shape[2] or R.shape != P.shape[:2]:
            raise FewerError(
                f"{self.name}: P must be (states, actions, states) and R (states, actions); they are {P.shape} and {R.shape}"
            )
        self._check()
        if not 0 <= self.noise < math.inf:
            raise FewerError(f"{self.name}: noise is a standard deviation, 0 or more; {self.noise:g} was given")
        check_arrays(self.name, P, R, self.rewards, self.has)

    @property
    def states(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many states there are."""
        return self.P.shape[0]

    @property
    def actions(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many actions there are."""
        return self.P.shape[1]

    @cached_property
    def has(self) -> Bool[np.ndarray, "states actions"]:
        """Which actions a state has."""
        return np.ones(self.R.shape, dtype=bool) if self.allowed is None else self.allowed

    @cached_property
    def _model(self) -> tuple[Float[np.ndarray, "states actions states"], Float[np.ndarray, "states actions"]]:
        """The arrays, with zeros for actions that are not there, whatever was given for them."""
        if self.allowed is None:
            return self.P, self.R
        return np.where(self.allowed[..., None], self.P, 0), np.where(self.allowed, self.R, 0)

    @cached_property
    def optimum(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The greatest discounted return, as the mean over all first states."""
        P, R = self._model
        return float(policy_iteration(P[None], np.where(self.has, R, -np.inf)[None], self.gamma)[0].mean())

    @cached_property
    def _cumulative(self) -> Float[np.ndarray, "states actions states"]:
        return self._model[0].cumsum(axis=-1)

    def sample(
        self, states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "runs n"], Float[np.ndarray, "runs n"]]:
        """Draw from the arrays."""
        following = outcome(self._cumulative, (states, actions), rng.random(states.shape))
        rewards = self.R[states, actions]
        return following, rewards + rng.normal(0, self.noise, states.shape) if self.noise else rewards

    def state_values(self, policy: Float[np.ndarray, "runs states actions"]) -> Float[np.ndarray, "runs states"]:
        """Value of a policy in every state, exactly."""
        P, R = self._model
        flow = np.matmul(policy.transpose(1, 0, 2), P).transpose(1, 0, 2)  # one product a state, over all runs
        return discounted_value(flow, (policy * R).sum(axis=-1), self.gamma)

    def value(
        self, policy: Float[np.ndarray, "runs states actions"], rng: np.random.Generator
    ) -> Float[np.ndarray, " runs"]:
        """Exactly, with one linear system a run."""
        return self.state_values(policy).mean(axis=1)

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        labels = np.zeros(0) if self.groups is None else self.groups.labels
        features = np.zeros(0) if self.features is None else self.features
        sizes = repr((self.gamma, self.noise, self.rewards))
        return fingerprint(*self._model, self.has, labels, features, sizes)


@dataclass(frozen=True, eq=False)
class SampledWorld(Sampled):
    """A world that is only known through a function of the user's.

    Parameters
    ----------
    name : str
        What to call it; results are stored under it.
    step : callable
        ``step(states, actions, rng) -> (next states, rewards)``, all arrays of one shape (runs, n).
    states, actions, gamma, rewards, allowed, groups, features
        See :class:`Sampled`.
    rollouts : int, default 32
        Policies are judged by so many simulated returns a run, from uniformly drawn first states.  These are counted
        apart from the samples that a method may spend.

    Examples
    --------
    >>> def step(states, actions, rng):
    ...     return (states + actions) % 3, (states == 2) * 1.0
    >>> world = SampledWorld("wheel", step, states=3, actions=2, gamma=0.5)
    >>> round(float(world.value(np.full((1, 3, 2), 0.5), np.random.default_rng(0))[0]), 1)
    0.7
    """

    name: str
    step: Callable[[Any, Any, np.random.Generator], tuple[Any, Any]]
    states: int
    actions: int
    gamma: float
    rewards: tuple[float, float] = (0.0, 1.0)
    allowed: Bool[np.ndarray, "states actions"] | None = None
    groups: ActionGrouping | None = None
    features: Float[np.ndarray, "actions dimensions"] | None = None
    rollouts: int = 32

    def __post_init__(self) -> None:
        if min(self.states, self.actions, self.rollouts) < 1:
            raise FewerError(
                f"{self.name}: states, actions and rollouts must be at least 1; given {self.states}, {self.actions} and "
                f"{self.rollouts}"
            )
        self._check()

    def sample(
        self, states: Int[np.ndarray, "runs n"], actions: Int[np.ndarray, "runs n"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "runs n"], Float[np.ndarray, "runs n"]]:
        """Ask the function, and look at what it answers."""
        following, rewards = (np.asarray(each) for each in self.step(states, actions, rng))
        if following.shape != states.shape or rewards.shape != states.shape:
            raise FewerError(
                f"{self.name}: step was given arrays of shape {states.shape} and must answer with such; "
                f"it gave {following.shape} and {rewards.shape}"
            )
        if not np.isfinite(rewards).all():
            raise FewerError(
                f"{self.name}: step gave a reward of {rewards[~np.isfinite(rewards)][0]}; give finite ones"
            )
        if not (np.issubdtype(following.dtype, np.integer) and ((following >= 0) & (following < self.states)).all()):
            raise FewerError(f"{self.name}: step must give next states as whole numbers from 0 to {self.states - 1}")
        return following, rewards.astype(float)

    def value(
        self, policy: Float[np.ndarray, "runs states actions"], rng: np.random.Generator
    ) -> Float[np.ndarray, " runs"]:
        """Mean of simulated returns, cut where a thousandth of the weight is left."""
        runs = np.arange(len(policy))[:, None]
        at = rng.integers(self.states, size=(len(policy), self.rollouts))
        cumulative, total = policy.cumsum(axis=-1), np.zeros(at.shape)
        for time in range(math.ceil(math.log(1e-3) / math.log(self.gamma))):
            at, rewards = self.sample(at, outcome(cumulative, (runs, at), rng.random(at.shape)), rng)
            total += self.gamma**time * rewards
        return total.mean(axis=1)

    def fingerprint(self) -> str:
        """Name it: what a function does cannot be hashed."""
        arrays = (self.allowed, None if self.groups is None else self.groups.labels, self.features)
        given = [np.zeros(0) if each is None else each for each in arrays]
        return fingerprint(
            self.name, *given, repr((self.states, self.actions, self.gamma, self.rewards, self.rollouts))
        )


def grouped_actions(
    states: int = 10,
    actions: int = 64,
    groups: int = 8,
    unlike: float = 0.05,
    spread: float = 0.1,
    gamma: float = 0.9,
    noise: float = 0.3,
    seed: int = 0,
) -> DiscountedMDP:
    """Many actions of a few kinds: each does mostly what its group does, and a little of its own.

    Parameters
    ----------
    states, actions, groups : int
        Sizes; neighbouring actions form a group.
    unlike : float, default 0.05
        Share of an action's transitions and rewards that is its own: 0 for groups of equal actions, 1 for none.
    spread : float, default 0.1
        Of the Dirichlet distribution that transitions are drawn from.
    gamma : float, default 0.9
        Discount.
    noise : float, default 0.3
        Standard deviation of rewards.
    seed : int, default 0
        Which world; not the run's seed.
    """
    if min(states, actions, groups) < 1 or not spread > 0 or not 0 <= unlike <= 1:
        raise FewerError(
            f"grouped-actions: sizes must be at least 1, spread positive and unlike from 0 to 1; given {states}, "
            f"{actions}, {groups}, {spread:g} and {unlike:g}"
        )
    partition = neighbours(actions, groups)
    rng, label = np.random.default_rng(seed), partition.labels[0]
    # what the groups do is drawn first, and so does not change with the number of actions
    shared, paid = rng.dirichlet(np.full(states, spread), size=(states, groups)), rng.random((states, groups))
    own, paid_alone = rng.dirichlet(np.full(states, spread), size=(states, actions)), rng.random((states, actions))
    P = (1 - unlike) * shared[:, label] + unlike * own
    R = (1 - unlike) * paid[:, label] + unlike * paid_alone
    name = (
        f"grouped-actions(states={states}, actions={actions}, groups={groups}, unlike={unlike:g}, spread={spread:g}, "
        f"gamma={gamma:g}, noise={noise:g}, seed={seed})"
    )
    return DiscountedMDP(name, P, R, gamma, noise, groups=partition)


def discounted_mdp(path: str, gamma: float, noise: float = 0.0, low: float = 0.0, high: float = 1.0) -> DiscountedMDP:
    """A world of the user's own: an NPZ file with ``P[s, a, s']`` and ``R[s, a]``.

    It may also hold ``allowed[s, a]``, which actions a state has, ``groups[a]`` or ``groups[s, a]``, a partition, and
    ``features[a, d]``, what is known of the actions.

    Parameters
    ----------
    path : str
        The file.
    gamma : float
        Discount.
    noise : float, default 0
        Standard deviation of rewards.
    low, high : float, default 0 and 1
        The declared range of mean rewards.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key], dtype=float) for key in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise FewerError(
            f"discounted-mdp: {path} cannot be read as NPZ ({error}); save it with numpy.savez(path, P=…, R=…)"
        ) from error
    missing = [key for key in ("P", "R") if key not in arrays]
    if missing:
        raise FewerError(
            f"discounted-mdp: {path} has no array {missing[0]!r} (it has {', '.join(arrays) or 'none'}); add it"
        )
    return DiscountedMDP(
        f"discounted-mdp('{path}', gamma={gamma:g})",
        arrays["P"],
        arrays["R"],
        gamma,
        noise,
        (low, high),
        arrays["allowed"] > 0 if "allowed" in arrays else None,
        ActionGrouping(arrays["groups"]) if "groups" in arrays else None,
        arrays.get("features"),
    )
