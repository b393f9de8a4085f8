"""Worlds without end: finite models that are never reset, classes of them, and Gymnasium environments.

A world may be one of several models that are known to be possible; each copy of a run then lives in one of them, drawn
for itself, and agents may be told the class.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.explore.hypotheses import Hypotheses
from fewer.explore.linear_worlds import linear_river
from fewer.explore.planning import outcome
from fewer.explore.worlds import FiniteMDP, GymWorld, riverswim


class Stream(Protocol):
    """Copies of a world in progress; what they need to go on is in ``state_dict``.

    Attributes
    ----------
    at : int array (runs,)
        Where each copy is.
    gains : float array (runs,), optional
        The greatest average reward of each copy's world, where its model is known.
    mistakes : float array (runs,), optional
        The sum of what each action so far gave away to the best one, ``V(s) - Q(s, a)``, where the model is known.
    """

    at: Int[np.ndarray, " runs"]

    @property
    def gains(self) -> Float[np.ndarray, " runs"] | None:
        """See the class."""
        ...

    @property
    def mistakes(self) -> Float[np.ndarray, " runs"] | None:
        """See the class."""
        ...

    def step(self, actions: Int[np.ndarray, " runs"]) -> Float[np.ndarray, " runs"]:
        """Act in every copy; give the rewards."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        ...

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Go on where another stream stood."""
        ...


class Endless(Task):
    """A world of numbered states and actions that is never reset.

    Attributes
    ----------
    states, actions : int
        How many there are.
    rewards : (float, float)
        Least and greatest reward of a step.
    hypotheses : Hypotheses, optional
        A class that the world is known to be of.
    basis : float array (dimensions, states, actions, states), optional
        What transitions are a mixture of: ``P(s' | s, a) = sum_i theta_i basis_i(s' | s, a)`` with unknown theta.
    features : float array (states, actions, dimensions), optional
        In which transitions and mean rewards are linear.
    pays : float array (states, actions), optional
        Mean rewards, where agents are told them.
    """

    states: int
    actions: int
    rewards: tuple[float, float]
    hypotheses: Hypotheses | None = None
    basis: Float[np.ndarray, "dimensions states actions states"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    pays: Float[np.ndarray, "states actions"] | None = None
    metric = "mean reward"

    @abstractmethod
    def stream(self, runs: int, rng: np.random.Generator) -> Stream:
        """Make independent copies."""


@dataclass(frozen=True, eq=False)
class EndlessMDP(Endless):
    """A world given by arrays, or by those of all worlds that it may be.

    Parameters
    ----------
    name : str
        As the user wrote it.
    P : float array (models, states, actions, states)
        Transition probabilities of each model.
    R : float array (models, states, actions)
        Mean rewards of each.
    possible : int array, optional
        Which of the models a copy's world is drawn from; by default all.
    told : bool, default False
        Tell agents the class of models.
    basis, features, pays
        See :class:`Endless`.
    start : int, default 0
        The first state.
    noise : {"none", "bernoulli"}, default "none"
        Whether a reward is its mean, or 1 with that probability and else 0.
    rewards : (float, float), default (0, 1)
        The declared range of rewards.
    """

    name: str
    P: Float[np.ndarray, "models states actions states"]
    R: Float[np.ndarray, "models states actions"]
    possible: Int[np.ndarray, " possible"] | None = None
    told: bool = False
    basis: Float[np.ndarray, "dimensions states actions states"] | None = None
    features: Float[np.ndarray, "states actions dimensions"] | None = None
    pays: Float[np.ndarray, "states actions"] | None = None
    start: int = 0
    noise: str = "none"
    rewards: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.rewards
        if self.noise not in ("none", "bernoulli") or (self.noise == "bernoulli" and (low, high) != (0.0, 1.0)):
            raise FewerError(f"{self.name}: noise is none, or bernoulli with rewards in [0, 1]; given {self.noise!r}")
        solved = self.solved  # what is no model, or has no gain, is said now
        wrong = np.argwhere(~((low <= self.R) & (high >= self.R)))
        if len(wrong):
            model, state, action = wrong[0]
            raise FewerError(
                f"{self.name}: R[{state}, {action}] of model {model} is {self.R[model, state, action]:g}, outside the "
                f"declared range [{low:g}, {high:g}]; scale the rewards or give rewards=(low, high)"
            )
        if not 0 <= self.start < self.states:
            raise FewerError(f"{self.name}: start must be one of {self.states} states; it is {self.start}")
        if self.possible is not None and not ((self.possible >= 0) & (self.possible < len(solved))).all():
            raise FewerError(f"{self.name}: possible must name models 0 to {len(solved) - 1}")
        if self.basis is not None and self.basis.shape[1:] != self.P.shape[1:]:
            raise FewerError(
                f"{self.name}: basis must be (dimensions, {', '.join(map(str, self.P.shape[1:]))}); it is {self.basis.shape}"
            )
        if self.features is not None and (self.features.ndim != 3 or self.features.shape[:2] != self.R.shape[1:]):
            raise FewerError(
                f"{self.name}: features must be (states, actions, dimensions); they are {self.features.shape}"
            )

    @cached_property
    def solved(self) -> Hypotheses:
        """All models with their gains."""
        return Hypotheses.of_models(self.P, self.R)

    @property
    def hypotheses(self) -> Hypotheses | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The class, where agents are told it."""
        return self.solved if self.told else None

    @property
    def states(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many states there are."""
        return self.P.shape[1]

    @property
    def actions(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many actions there are."""
        return self.P.shape[2]

    def fingerprint(self) -> str:
        """Hash the arrays."""
        more = [each for each in (self.possible, self.basis, self.features, self.pays) if each is not None]
        return fingerprint(self.P, self.R, *more, repr((self.told, self.start, self.noise, self.rewards)))

    def stream(self, runs: int, rng: np.random.Generator) -> Stream:
        """Make independent copies that share one random stream."""
        return _Copies(self, runs, rng)


class _Copies:
    """Copies of an :class:`EndlessMDP`, stepped together."""

    def __init__(self, world: EndlessMDP, runs: int, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.cumulative = np.cumsum(world.P, axis=3)
        possible = np.arange(len(world.P)) if world.possible is None else world.possible
        self.truth = possible[rng.integers(len(possible), size=runs)]
        self.at, self.mistakes = np.full(runs, world.start), np.zeros(runs)
        self.gaps = world.solved.values[..., None] - world.solved.Q

    @property
    def gains(self) -> Float[np.ndarray, " runs"]:
        return self.world.solved.gain[self.truth]

    def step(self, actions: Int[np.ndarray, " runs"]) -> Float[np.ndarray, " runs"]:
        drawn = self.rng.random((2, len(self.at)))
        rewards = self.world.R[self.truth, self.at, actions]
        if self.world.noise == "bernoulli":
            rewards = (drawn[1] < rewards).astype(float)
        self.mistakes = self.mistakes + self.gaps[self.truth, self.at, actions]
        self.at = outcome(self.cumulative, (self.truth, self.at, actions), drawn[0])
        return rewards

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng, "truth": self.truth, "at": self.at, "mistakes": self.mistakes}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self.rng, self.truth, self.at, self.mistakes = tree["rng"], tree["truth"], tree["at"], tree["mistakes"]


# --- generated worlds ------------------------------------------------------------------------------------------------


def endless_river(n: int = 6) -> EndlessMDP:
    """The river of :func:`~fewer.explore.worlds.riverswim`, without end.

    Parameters
    ----------
    n : int, default 6
        States, at least 3.
    """
    river = riverswim(n, horizon=n)
    return EndlessMDP(f"endless-river(n={n})", river.P[None], river.R[None])


def labelled_river(n: int = 6) -> EndlessMDP:
    """A river in which nobody knows, in each state, which action swims right, nor whether the far end pays.

    The class has all ``2^n`` labellings, each with and without a treasure of 1 for swimming right at the right end; each
    copy's world has random labels and the treasure.  Left moves surely and pays 0.1 at the left end.

    Parameters
    ----------
    n : int, default 6
        States, from 3 to 9.

    Examples
    --------
    >>> len(labelled_river(3).hypotheses)
    16
    """
    if not 3 <= n <= 9:
        raise FewerError(f"labelled-river: n must be from 3 to 9; {n} was given")
    P, right = _labelled(n)
    R = np.zeros((2, len(P), n, 2))
    models = np.arange(len(P))
    R[:, models, 0, 1 - right[:, 0]] = 0.1
    R[1, models, n - 1, right[:, -1]] = 1
    possible = len(P) + models
    return EndlessMDP(f"labelled-river(n={n})", np.concatenate([P, P]), np.concatenate(R), possible, told=True)


def mixture_river(n: int = 6) -> EndlessMDP:
    """A river whose labels are unknown and whose rewards are told, as a mixture of ``2 n`` parts.

    Part ``(i, b)`` holds what state ``i`` does if its label is ``b``; the label is right where the weight is one.  Which
    action pays does not matter: both pay 0.1 at the left end, and 1 at the right end.

    Parameters
    ----------
    n : int, default 6
        States, from 3 to 9.
    """
    if not 3 <= n <= 9:
        raise FewerError(f"mixture-river: n must be from 3 to 9; {n} was given")
    P, right = _labelled(n)
    basis = np.zeros((n, 2, n, 2, n))
    for state, label in itertools.product(range(n), range(2)):
        basis[state, label, state] = P[(right[:, state] == label).argmax(), state]
    R = np.zeros((len(P), n, 2))
    R[:, 0], R[:, -1] = 0.1, 1
    return EndlessMDP(f"mixture-river(n={n})", P, R, basis=basis.reshape(2 * n, n, 2, n), pays=R[0])


def endless_linear_river(reaches: int = 4, symbols: int = 5, seed: int = 0) -> EndlessMDP:
    """The river of :func:`~fewer.explore.linear_worlds.linear_river`, without end.

    Parameters
    ----------
    reaches, symbols, seed : int
        As there.
    """
    river = linear_river(reaches, symbols, horizon=reaches, seed=seed)
    name = f"endless-linear-river(reaches={reaches}, symbols={symbols}, seed={seed})"
    return EndlessMDP(name, river.P[None], river.R[None], features=river.features)


def _labelled(n: int) -> tuple[Float[np.ndarray, "labellings n 2 n"], Int[np.ndarray, "labellings n"]]:
    """Transitions of a river under every labelling, and which action swims right in each state."""
    right = np.array(list(itertools.product(range(2), repeat=n)))
    at, current = np.arange(n), np.zeros((n, n))
    current[at[1:-1], at[1:-1] - 1], current[at[1:-1], at[1:-1]], current[at[1:-1], at[1:-1] + 1] = 0.05, 0.6, 0.35
    current[0, :2] = 0.4, 0.6
    current[-1, -2:] = 0.4, 0.6
    P = np.zeros((len(right), n, 2, n))
    model = np.arange(len(right))[:, None]
    P[model, at, right] = current
    P[model, at, 1 - right] = np.eye(n)[np.maximum(at - 1, 0)]
    return P, right


# --- the user's own --------------------------------------------------------------------------------------------------


def endless(path: str, noise: str = "none", low: float = 0.0, high: float = 1.0) -> EndlessMDP:
    """A world of the user's own from an NPZ file, without end.

    The file has ``P[s, a, s']`` and ``R[s, a]``; or, for a class of hypotheses, ``P[k, s, a, s']`` and ``R[k, s, a]``,
    which agents are told and from which each copy's world is drawn.  It may have ``basis[i, s, a, s']`` and ``features[s,
    a, i]``.

    Parameters
    ----------
    path : str
        The file.
    noise : {"none", "bernoulli"}
        See :class:`EndlessMDP`.
    low, high : float, default 0 and 1
        The declared range of rewards.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key], dtype=float) for key in file.files}
    except (OSError, ValueError) as error:
        raise FewerError(
            f"endless: {path} cannot be read as NPZ ({error}); save it with numpy.savez(path, P=…, R=…)"
        ) from error
    missing = [key for key in ("P", "R") if key not in arrays]
    if missing:
        raise FewerError(f"endless: {path} has no array {missing[0]!r} (it has {', '.join(arrays) or 'none'}); add it")
    P, R, several = arrays["P"], arrays["R"], arrays["P"].ndim == 4
    if not several:
        P, R = P[None], R[None]
    return EndlessMDP(
        f"endless('{path}')",
        P,
        R,
        told=several,
        basis=arrays.get("basis"),
        features=arrays.get("features"),
        noise=noise,
        rewards=(low, high),
    )


def without_end(world: FiniteMDP) -> EndlessMDP:
    """The same world, never reset; its first state is the likeliest one.

    Examples
    --------
    >>> from fewer.explore.worlds import random_mdp
    >>> without_end(random_mdp(3, 2)).states
    3
    """
    return EndlessMDP(
        f"without-end({world.name})",
        world.P[None],
        world.R[None],
        features=world.features,
        pays=world.pays,
        start=int(world.first.argmax()),
        noise=world.noise,
        rewards=world.rewards,
    )


@dataclass(frozen=True, eq=False)
class EndlessGym(Endless):
    """A Gymnasium environment with numbered observations and actions; an end leads to the next beginning.

    Parameters
    ----------
    world : GymWorld
        The environment.
    """

    world: GymWorld

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the user wrote it."""
        return f"endless-gym('{self.world.id}')"

    @property
    def states(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many states there are."""
        return self.world.states - 1  # no end, so no state for it

    @property
    def actions(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many actions there are."""
        return self.world.actions

    @property
    def rewards(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The declared range of rewards."""
        return self.world.rewards

    def fingerprint(self) -> str:
        """Name the environment and its options."""
        return fingerprint("endless", self.world.fingerprint())

    def stream(self, runs: int, rng: np.random.Generator) -> Stream:
        """Make one environment a copy."""
        return _Environments(self, runs, rng)


class _Environments:
    """Gymnasium environments, one a copy.  They are taken up again by doing what was done."""

    gains = mistakes = None

    def __init__(self, task: EndlessGym, runs: int, rng: np.random.Generator) -> None:
        self.task = task
        self._begin(rng.integers(2**31, size=runs))

    def _begin(self, seeds: Int[np.ndarray, " runs"]) -> None:
        self.seeds, self.done = seeds, []
        self.made = [self.task.world._make() for _ in seeds]
        self.at = np.array([int(env.reset(seed=int(seed))[0]) for env, seed in zip(self.made, seeds, strict=True)])

    def step(self, actions: Int[np.ndarray, " runs"]) -> Float[np.ndarray, " runs"]:
        rewards, following = np.zeros(len(self.made)), self.at.copy()
        for index, env in enumerate(self.made):
            state, rewards[index], terminated, truncated, _ = env.step(int(actions[index]))
            # without a seed, a reset goes on with the environment's own randomness
            following[index] = int(env.reset()[0]) if terminated or truncated else int(state)
        low, high = self.task.rewards
        wrong = rewards[~((rewards >= low) & (rewards <= high))]
        if len(wrong):
            raise FewerError(
                f"{self.task.name}: a reward of {wrong[0]:g} in step {len(self.done) + 1} is outside the declared range "
                f"[{low:g}, {high:g}]; give low= and high="
            )
        self.at = following
        self.done.append(np.array(actions))
        return rewards

    def state_dict(self) -> dict[str, Any]:
        return {"seeds": self.seeds, "done": np.array(self.done, dtype=np.int64).reshape(-1, len(self.made))}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        self._begin(tree["seeds"])
        for actions in tree["done"]:
            self.step(actions)


def endless_gym(id: str, low: float = 0.0, high: float = 1.0, **options: Any) -> EndlessGym:
    """A Gymnasium environment with Discrete observations and actions, without end.

    Parameters
    ----------
    id : str
        ``"FrozenLake-v1"``.
    low, high : float, default 0 and 1
        The range of rewards, which agents may rely on.
    **options
        For ``gymnasium.make``.
    """
    task = EndlessGym(GymWorld(id, 1, options, (low, high)))
    _ = task.states  # what cannot be played is said now
    return task
