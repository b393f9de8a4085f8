"""Finite Markov decision processes: as arrays, from Gymnasium, or generated.

Many independent copies of a world are played at once, one row of an array each, so that a whole set of
runs costs a few array operations a step.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.explore.planning import backward_induction, evaluate
from fewer.explore.trajectories import Expert, Trajectories, collect, read


class Play(Protocol):
    """Copies of a world in progress."""

    def reset(self) -> Int[np.ndarray, " runs"]:
        """Begin an episode in every copy; give the states."""
        ...

    def step(
        self, actions: Int[np.ndarray, " runs"]
    ) -> tuple[Int[np.ndarray, " runs"], Float[np.ndarray, " runs"], Bool[np.ndarray, " runs"]]:
        """Act in every copy: next states, rewards, and which episodes have ended."""
        ...


class Episodic(Task):
    """A world of numbered states and actions that is played in episodes.

    Attributes
    ----------
    states, actions, horizon : int
        How many states and actions there are, and the most steps of an episode.
    rewards : (float, float)
        Least and greatest reward of a step.
    pays : float array (states, actions), optional
        Mean rewards, where agents are told them; None where they have to learn them.
    features : float array (states, actions, dimensions), optional
        In which transitions and rewards are linear; None if there are none.
    shown : Trajectories or Expert, optional
        Episodes that agents are shown before their first one, or who plays them.
    vectors : float array (states, dimensions), optional
        What a state looks like, where like states look alike.
    levels : int array (states,), optional
        The step of an episode in which a state may come, where each comes in one only.
    players : (int, int), optional
        Actions of the two players of a zero-sum game, of which actions number the pairs.
    """

    states: int
    actions: int
    horizon: int
    rewards: tuple[float, float]
    pays: Float[np.ndarray, "states actions"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    shown: Trajectories | Expert | None = None
    vectors: Float[np.ndarray, "states dimensions"] | None = None
    levels: Int[np.ndarray, " states"] | None = None
    players: tuple[int, int] | None = None
    metric = "mean return"

    @abstractmethod
    def play(self, runs: int, rng: np.random.Generator) -> Play:
        """Make independent copies."""

    def value(self, policy: Float[np.ndarray, "runs horizon states actions"]) -> Float[np.ndarray, " runs"] | None:
        """Expected return of a policy from the start; None where the world's model is not known."""
        return None

    @property
    def optimum(self) -> float | None:
        """The greatest expected return; None where the world's model is not known."""
        return None

    def demonstrations(self, runs: int, rng: np.random.Generator) -> Trajectories | None:
        """What each run is shown before its first episode; None if nothing is."""
        if isinstance(self.shown, Expert):
            return collect(self, self.shown.policy[None], self.shown.episodes, runs, rng)
        return self.shown


def check_arrays(
    name: str,
    P: Float[np.ndarray, "states actions states"],
    R: Float[np.ndarray, "states actions"],
    rewards: tuple[float, float],
    has: Bool[np.ndarray, "states actions"] | None = None,
) -> None:
    """Refuse arrays whose rows are no distributions, or whose rewards leave their range.

    Parameters
    ----------
    name : str
        The world, for messages.
    P, R : float arrays (states, actions, states) and (states, actions)
        Of the world.
    rewards : tuple (low, high)
        The declared range.
    has : bool array (states, actions), optional
        Actions that a state has; the others may hold anything.

    Raises
    ------
    FewerError
        Where the first such row or reward is.
    """
    counted = np.ones(R.shape, dtype=bool) if has is None else has
    off = ~(np.isclose(P.sum(axis=2), 1, atol=1e-6) & (P >= 0).all(axis=2)) & counted
    if off.any():
        state, action = np.argwhere(off)[0]
        raise FewerError(
            f"{name}: P[{state}, {action}] is no distribution (its sum is {P[state, action].sum():g}); "
            "make every row non-negative with sum 1"
        )
    low, high = rewards
    wrong = ~((low <= R) & (high >= R)) & counted
    if wrong.any():
        state, action = np.argwhere(wrong)[0]
        raise FewerError(
            f"{name}: R[{state}, {action}] is {R[state, action]:g}, outside the declared range [{low:g}, {high:g}]; "
            "scale the rewards or give rewards=(low, high)"
        )


@dataclass(frozen=True, eq=False)
class FiniteMDP(Episodic):
    """A world given by its arrays.

    Parameters
    ----------
    name : str
        As the user wrote it.
    P : float array (states, actions, states)
        Probability of each next state; each row sums to one.
    R : float array (states, actions)
        Mean reward.
    horizon : int
        Steps of an episode.
    start : float array (states,), optional
        Distribution of the first state; by default state 0.
    noise : {"none", "bernoulli"}, default "none"
        Whether a reward is its mean, or 1 with that probability and else 0.
    rewards : (float, float), default (0, 1)
        The declared range of rewards, which agents may rely on.
    pays : float array (states, actions), optional
        ``R``, where agents are told it.
    features : float array (states, actions, dimensions), optional
        In which ``P`` and ``R`` are linear.
    shown : Trajectories or Expert, optional
        Episodes that agents are shown before their first one, or who plays them.
    vectors : float array (states, dimensions), optional
        What a state looks like, where like states look alike.
    levels : int array (states,), optional
        The step of an episode in which a state may come (``horizon`` after the last), where each comes in one only.

    Examples
    --------
    >>> river = riverswim(6, horizon=20)
    >>> round(river.optimum, 2)
    3.4
    """

    name: str
    P: Float[np.ndarray, "states actions states"]
    R: Float[np.ndarray, "states actions"]
    horizon: int
    start: Float[np.ndarray, " states"] | None = None
    noise: str = "none"
    rewards: tuple[float, float] = (0.0, 1.0)
    pays: Float[np.ndarray, "states actions"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    shown: Trajectories | Expert | None = None
    vectors: Float[np.ndarray, "states dimensions"] | None = None
    levels: Int[np.ndarray, " states"] | None = None

    def __post_init__(self) -> None:
        if self.P.ndim != 3 or self.P.shape[0] != self.P.shape[2] or self.R.shape != self.P.shape[:2]:
            raise FewerError(
                f"{self.name}: P must be (states, actions, states) and R (states, actions); "
                f"they are {self.P.shape} and {self.R.shape}"
            )
        check_arrays(self.name, self.P, self.R, self.rewards)
        low, high = self.rewards
        if self.noise not in ("none", "bernoulli"):
            raise FewerError(f"{self.name}: unknown noise {self.noise!r}; choose none or bernoulli")
        if self.noise == "bernoulli" and (low, high) != (0.0, 1.0):
            raise FewerError(f"{self.name}: Bernoulli rewards lie in [0, 1]; the declared range is [{low:g}, {high:g}]")
        if self.horizon < 1:
            raise FewerError(f"{self.name}: the horizon must be at least 1; it is {self.horizon}")
        if self.start is not None and (
            self.start.shape != self.P.shape[:1] or not np.isclose(self.start.sum(), 1) or (self.start < 0).any()
        ):
            raise FewerError(f"{self.name}: start must be a distribution over {self.states} states")
        if self.pays is not None and not np.array_equal(self.pays, self.R):
            raise FewerError(f"{self.name}: pays is R where agents are told it, or nothing")
        if self.features is not None and (
            self.features.ndim != 3 or self.features.shape[:2] != self.R.shape or not np.isfinite(self.features).all()
        ):
            raise FewerError(
                f"{self.name}: features must be finite and (states, actions, dimensions), with {self.R.shape} first; "
                f"they are {self.features.shape}"
            )
        if self.vectors is not None and (
            self.vectors.ndim != 2 or len(self.vectors) != self.states or not np.isfinite(self.vectors).all()
        ):
            raise FewerError(
                f"{self.name}: vectors must be finite and one row for each of {self.states} states; "
                f"they are {self.vectors.shape}"
            )
        if self.levels is not None:
            self._check_levels(self.levels)
        if self.shown is not None:
            self.shown.check(self)
        if self.unreachable.any():
            state = int(self.unreachable.argmax())
            raise FewerError(
                f"{self.name}: state {state} cannot be reached from the start in {self.horizon} steps "
                f"({int(self.unreachable.sum())} such states); leave them out or lengthen the horizon"
            )

    def _check_levels(self, levels: np.ndarray) -> None:
        if levels.shape != (self.states,) or (levels[self.first > 0] != 0).any():
            raise FewerError(
                f"{self.name}: levels must be one number for each of {self.states} states, 0 for first ones"
            )
        before, _, after = np.nonzero(self.P)
        wrong = (levels[before] < self.horizon) & (levels[after] != levels[before] + 1)
        if wrong.any():
            index = int(wrong.argmax())
            raise FewerError(
                f"{self.name}: state {before[index]} of level {levels[before[index]]} leads to state {after[index]} of level "
                f"{levels[after[index]]}; each step must lead to the next level"
            )

    @property
    def states(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many states there are."""
        return self.P.shape[0]

    @property
    def actions(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many actions there are."""
        return self.P.shape[1]

    @property
    def first(self) -> Float[np.ndarray, " states"]:
        """Distribution of the first state."""
        return np.eye(self.states)[0] if self.start is None else self.start

    @cached_property
    def unreachable(self) -> Bool[np.ndarray, " states"]:
        """States that no policy reaches within the horizon."""
        reached = self.first > 0
        for _ in range(self.horizon):
            reached = reached | (self.P[reached] > 0).any(axis=(0, 1))
        return ~reached

    @cached_property
    def optimum(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The greatest expected return, by backward induction."""
        values, _ = backward_induction(self.P[None], self.R[None], self.horizon)
        return float(values[0, 0] @ self.first)

    def value(self, policy: Float[np.ndarray, "runs horizon states actions"]) -> Float[np.ndarray, " runs"]:
        """Expected return of a policy from the start, exactly."""
        return evaluate(self.P[None], self.R[None], policy)[:, 0] @ self.first

    def fingerprint(self) -> str:
        """Hash the arrays."""
        told = repr((self.horizon, self.noise, self.rewards, self.pays is not None))
        known = [each for each in (self.features, self.vectors, self.levels) if each is not None]
        return fingerprint(self.P, self.R, self.first, told, *known, *_arrays_of(self.shown))

    def play(self, runs: int, rng: np.random.Generator) -> Play:
        """Make independent copies that share one random stream."""
        return _Copies(self, runs, rng)


def _arrays_of(shown: Trajectories | Expert | None) -> tuple[Any, ...]:
    if shown is None:
        return ()
    if isinstance(shown, Expert):
        return (shown.policy, str(shown.episodes))
    return (shown.states, shown.actions, shown.rewards)


class _Copies:
    """Copies of a :class:`FiniteMDP`, stepped together."""

    def __init__(self, world: FiniteMDP, runs: int, rng: np.random.Generator) -> None:
        self.world, self.runs, self.rng = world, runs, rng
        self.cumulative = np.cumsum(world.P, axis=2)
        self.cumulative[:, :, -1] = 1  # rounding must not leave a draw without a state
        self.first = np.cumsum(world.first)
        self.first[-1] = 1

    def reset(self) -> Int[np.ndarray, " runs"]:
        self.time = 0
        self.at = np.searchsorted(self.first, self.rng.random(self.runs), side="right")
        return self.at

    def step(self, actions: Int[np.ndarray, " runs"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draw = self.rng.random((2, self.runs))
        rewards = self.world.R[self.at, actions]
        if self.world.noise == "bernoulli":
            rewards = (draw[1] < rewards).astype(float)
        self.at = (self.cumulative[self.at, actions] <= draw[0][:, None]).sum(axis=1)
        self.time += 1
        return self.at, rewards, np.full(self.runs, self.time >= self.world.horizon)


# --- generated worlds ------------------------------------------------------------------------------------------------


def riverswim(n: int = 6, horizon: int = 20, told: bool = False) -> FiniteMDP:
    """A river: drifting left is sure and pays a little, swimming right against the current pays 1 at the far end.

    Parameters
    ----------
    n : int, default 6
        States, at least 3.
    horizon : int, default 20
        Steps of an episode.
    told : bool, default False
        Tell agents the mean rewards, so that only transitions are left to learn.

    References
    ----------
    A. Strehl and M. Littman, "An analysis of model-based interval estimation for MDPs", 2008.
    """
    if n < 3:
        raise FewerError(f"riverswim: n must be at least 3; {n} was given")
    P, R = np.zeros((n, 2, n)), np.zeros((n, 2))
    at = np.arange(n)
    P[at, 0, np.maximum(at - 1, 0)] = 1
    P[at[1:-1], 1, at[1:-1] - 1] = 0.05
    P[at[1:-1], 1, at[1:-1]] = 0.6
    P[at[1:-1], 1, at[1:-1] + 1] = 0.35
    P[0, 1, :2] = 0.4, 0.6
    P[-1, 1, -2:] = 0.4, 0.6
    R[0, 0], R[-1, 1] = 0.005, 1
    name = f"riverswim(n={n}, horizon={horizon}{', told=True' if told else ''})"
    return FiniteMDP(name, P, R, horizon, pays=R if told else None)


def deepsea(n: int = 10) -> FiniteMDP:
    """A grid in which one sequence of ``n`` actions reaches the treasure, and each step towards it costs a little.

    A step right costs 0.01 / n and the treasure pays 1; all other sequences pay at most 0.

    Parameters
    ----------
    n : int, default 10
        Side of the grid, and the horizon.

    References
    ----------
    I. Osband, D. Russo, Z. Wen and B. Van Roy, "Deep Exploration via Randomized Value Functions", 2019.
    """
    if n < 2:
        raise FewerError(f"deepsea: n must be at least 2; {n} was given")
    # only cells on or below the diagonal can be reached; the last state is the bottom
    number = {cell: index for index, cell in enumerate((row, column) for row in range(n) for column in range(row + 1))}
    bottom = len(number)
    P, R = np.zeros((bottom + 1, 2, bottom + 1)), np.zeros((bottom + 1, 2))
    P[bottom, :, bottom] = 1
    for (row, column), state in number.items():
        for action, to in enumerate((max(column - 1, 0), column + 1)):
            P[state, action, number.get((row + 1, to), bottom)] = 1
        R[state, 1] = -0.01 / n
    R[number[n - 1, n - 1], 1] += 1
    return FiniteMDP(f"deepsea(n={n})", P, R, n, rewards=(-0.01, 1.0))


def random_mdp(states: int = 10, actions: int = 4, horizon: int = 10, spread: float = 0.3, seed: int = 0) -> FiniteMDP:
    """Transitions drawn from a Dirichlet distribution and mean rewards from a uniform one.

    Parameters
    ----------
    states, actions, horizon : int
        Sizes.
    spread : float, default 0.3
        Of the Dirichlet distribution: small makes next states nearly sure.
    seed : int, default 0
        Which world; not the run's seed.
    """
    if min(states, actions, horizon) < 1 or not spread > 0:
        raise FewerError(
            f"random-mdp: sizes must be at least 1 and spread positive; given {states}, {actions}, {spread}"
        )
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(states, spread), size=(states, actions))
    P = 0.99 * P + 0.01 / states  # every state can be reached
    R = rng.random((states, actions))
    name = f"random-mdp(states={states}, actions={actions}, horizon={horizon}, spread={spread:g}, seed={seed})"
    return FiniteMDP(name, P, R, horizon, noise="bernoulli")


def mdp(
    path: str, horizon: int, noise: str = "none", low: float = 0.0, high: float = 1.0, demonstrations: str | None = None
) -> FiniteMDP:
    """A world of the user's own: an NPZ file with ``P[s, a, s']`` and ``R[s, a]``, and ``start[s]`` if it is not state 0.

    Parameters
    ----------
    path : str
        The file.
    horizon : int
        Steps of an episode.
    noise : {"none", "bernoulli"}
        See :class:`FiniteMDP`.
    low, high : float, default 0 and 1
        The declared range of rewards.
    demonstrations : str, optional
        A file of episodes that agents are shown first (NPZ, HDF5 or Minari), in numbers of states and actions.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key], dtype=float) for key in file.files}
    except (OSError, ValueError) as error:
        raise FewerError(
            f"mdp: {path} cannot be read as NPZ ({error}); save it with numpy.savez(path, P=…, R=…)"
        ) from error
    missing = [key for key in ("P", "R") if key not in arrays]
    if missing:
        raise FewerError(f"mdp: {path} has no array {missing[0]!r} (it has {', '.join(arrays) or 'none'}); add it")
    name = f"mdp('{path}', horizon={horizon})"
    made = FiniteMDP(name, arrays["P"], arrays["R"], horizon, arrays.get("start"), noise, (low, high))
    if demonstrations is None:
        return made
    shown = read(demonstrations, made.states, made.actions, horizon)
    return replace(made, name=f"{name[:-1]}, demonstrations='{demonstrations}')", shown=shown)


# --- Gymnasium -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GymWorld(Episodic):
    """A Gymnasium environment with numbered observations and actions, whose model is not looked at.

    Parameters
    ----------
    id : str
        As Gymnasium registers it.
    horizon : int
        The most steps of an episode; an episode that ends earlier stays in an absorbing state without reward.
    options : dict
        For ``gymnasium.make``.
    rewards : (float, float), default (0, 1)
        The declared range of rewards.
    shown : Trajectories or Expert, optional
        Episodes that agents are shown before their first one, or who plays them.
    """

    id: str
    horizon: int
    options: dict[str, Any]
    rewards: tuple[float, float] = (0.0, 1.0)
    shown: Trajectories | Expert | None = None

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the user wrote it."""
        return f"gym-tabular('{self.id}')"

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        gymnasium = need("gymnasium", extra="control", what="task gym-tabular")
        env = self._make()
        for what, space in (("observations", env.observation_space), ("actions", env.action_space)):
            if not isinstance(space, gymnasium.spaces.Discrete) or space.start != 0:
                raise FewerError(
                    f"gym-tabular: the {what} of {self.id} are {space}; this room needs Discrete ones that begin at 0"
                )
        env.close()
        return int(env.observation_space.n) + 1, int(env.action_space.n)  # one state more: the end of an episode

    @property
    def states(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many states there are, the end included."""
        return self._sizes[0]

    @property
    def actions(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many actions there are."""
        return self._sizes[1]

    def fingerprint(self) -> str:
        """Name the environment and its options."""
        version = need("gymnasium", extra="control", what="task gym-tabular").__version__
        told = repr((self.horizon, sorted(self.options.items()), self.rewards, version))
        return fingerprint(self.id, told, *_arrays_of(self.shown))

    def play(self, runs: int, rng: np.random.Generator) -> Play:
        """Make one environment a copy."""
        return _Environments(self, runs, rng)

    def _make(self) -> Any:
        gymnasium = need("gymnasium", extra="control", what="task gym-tabular")
        try:
            return gymnasium.make(self.id, **self.options)
        except (gymnasium.error.Error, ModuleNotFoundError, TypeError) as error:
            raise FewerError(f"gym-tabular: cannot make {self.id!r}: {str(error).strip()}") from error


class _Environments:
    """Gymnasium environments, one a copy."""

    def __init__(self, world: GymWorld, runs: int, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.made = [world._make() for _ in range(runs)]

    def reset(self) -> Int[np.ndarray, " runs"]:
        seeds = self.rng.integers(2**31, size=len(self.made))
        self.time, self.over = 0, np.zeros(len(self.made), dtype=bool)
        self.at = np.array([int(env.reset(seed=int(seed))[0]) for env, seed in zip(self.made, seeds, strict=True)])
        return self.at.copy()

    def step(self, actions: Int[np.ndarray, " runs"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rewards = np.zeros(len(self.made))
        for index, env in enumerate(self.made):
            if self.over[index]:
                continue
            state, rewards[index], terminated, truncated, _ = env.step(int(actions[index]))
            self.over[index] = terminated or truncated
            # what comes after an end is one state of its own, whatever the environment calls it
            self.at[index] = self.world.states - 1 if terminated else int(state)
        low, high = self.world.rewards
        if not ((rewards >= low) & (rewards <= high)).all():
            wrong = rewards[(rewards < low) | (rewards > high) | np.isnan(rewards)][0]
            raise FewerError(
                f"{self.world.name}: a reward of {wrong:g} in step {self.time + 1} is outside the declared range "
                f"[{low:g}, {high:g}]; give low= and high="
            )
        self.time += 1
        return self.at.copy(), rewards, self.over | (self.time >= self.world.horizon)


def gym_tabular(
    id: str,
    horizon: int = 100,
    low: float = 0.0,
    high: float = 1.0,
    demonstrations: str | None = None,
    **options: Any,
) -> Episodic:
    """A Gymnasium environment with Discrete observations and actions.

    Parameters
    ----------
    id : str
        ``"FrozenLake-v1"``.
    horizon : int, default 100
        The most steps of an episode.
    low, high : float, default 0 and 1
        The range of rewards, which agents may rely on.
    demonstrations : str, optional
        A file of episodes that agents are shown first (NPZ, HDF5 or Minari), in numbers of states and actions.
    **options
        For ``gymnasium.make``.
    """
    if horizon < 1:
        raise FewerError(f"gym-tabular: the horizon must be at least 1; it is {horizon}")
    world = GymWorld(id, horizon, options, (low, high))
    states = world.states  # what cannot be played is said now
    if demonstrations is None:
        return world
    shown = read(demonstrations, states, world.actions, horizon, end=states - 1)
    shown.check(world)
    return replace(world, shown=shown)
