"""Worlds of low rank: what happens next depends on a few hidden causes, and each is seen in many ways.

P(s' | s, a) = phi(s, a) . mu(s').  :class:`LowRank` holds the factors; the generators give worlds whose agents see symbols,
as numbers and as vectors, and are not told the factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.explore.markov_games import MarkovGame
from fewer.explore.worlds import FiniteMDP


@dataclass(frozen=True, eq=False)
class LowRank:
    """A world's factors.

    Parameters
    ----------
    phi : float array (states, actions, dimensions)
        Distribution of the cause that comes next.
    mu : float array (dimensions, states)
        Where each cause leads: rows are distributions.
    R : float array (states, actions)
        Mean rewards.

    Examples
    --------
    >>> model = LowRank(np.full((2, 1, 1), 1.0), np.array([[0.5, 0.5]]), np.zeros((2, 1)))
    >>> model.P[0, 0]
    array([0.5, 0.5])
    """

    phi: Float[np.ndarray, "states actions dimensions"]
    mu: Float[np.ndarray, "dimensions states"]
    R: Float[np.ndarray, "states actions"]

    def __post_init__(self) -> None:
        for what, array in (("phi", self.phi), ("mu", self.mu)):
            if not (array >= 0).all() or not np.allclose(array.sum(axis=-1), 1):
                raise FewerError(f"low-rank world: rows of {what} must be distributions")
        if (
            self.phi.shape[2] != len(self.mu)
            or self.phi.shape[0] != self.mu.shape[1]
            or self.R.shape != self.phi.shape[:2]
        ):
            raise FewerError(
                f"low-rank world: phi (states, actions, dimensions), mu (dimensions, states) and R (states, actions) must agree; "
                f"they are {self.phi.shape}, {self.mu.shape} and {self.R.shape}"
            )

    @property
    def P(self) -> Float[np.ndarray, "states actions states"]:
        """Transition probabilities."""
        product = self.phi @ self.mu
        return product / product.sum(axis=-1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Lock:
    """A rich-observation lock with what agents do not see of it.

    Parameters
    ----------
    world : FiniteMDP
        Without its factors.
    model : LowRank
        The factors.
    cause : int array (states,)
        The hidden state that each symbol is of, numbered through all levels.
    """

    world: FiniteMDP
    model: LowRank
    cause: Int[np.ndarray, " states"]


def build_lock(
    horizon: int = 6, actions: int = 4, symbols: int = 12, dimensions: int = 10, noise: float = 0.25, seed: int = 0
) -> Lock:
    """Make a lock; the arguments are those of :func:`rich_lock`."""
    if min(horizon, symbols, dimensions) < 1 or actions < 2 or not noise >= 0:
        raise FewerError(
            f"rich-lock: at least 1 step, symbol and dimension and 2 actions are needed, and noise not negative; given "
            f"{horizon}, {symbols}, {dimensions}, {actions} and {noise}"
        )
    rng = np.random.default_rng(seed)
    # hidden states: two good ones a level and, after the first, a dead one; then the end
    level = np.array([0, 0, *np.repeat(np.arange(1, horizon), 3), horizon])
    dead = np.zeros(len(level), dtype=bool)
    dead[4:-1:3] = True
    many = np.full(len(level), symbols)
    many[-1] = 1
    cause = np.repeat(np.arange(len(level)), many)
    mu = (cause == np.arange(len(level))[:, None]) / many[:, None]
    secret = rng.integers(actions, size=len(level))
    leads = np.zeros((len(level), actions, len(level)))
    pays = np.zeros((len(level), actions))
    for now in range(len(level)):
        if level[now] >= horizon - 1:
            leads[now, :, -1] = 1
            if level[now] == horizon - 1 and not dead[now]:
                pays[now, secret[now]] = 1
            continue
        following = level == level[now] + 1
        leads[now, :, following & dead] = 1
        if not dead[now]:
            leads[now, secret[now]] = (following & ~dead) / 2
            if level[now] == 0 and horizon > 1:
                pays[now] = np.where(np.arange(actions) == secret[now], 0, 0.1)
    model = LowRank(leads[cause], mu, pays[cause])
    start, vectors = _looks(level, cause, dimensions, noise, rng)
    name = (
        f"rich-lock(horizon={horizon}, actions={actions}, symbols={symbols}, dimensions={dimensions}, noise={noise:g}, "
        f"seed={seed})"
    )
    world = FiniteMDP(name, model.P, model.R, horizon, start, pays=model.R, vectors=vectors, levels=level[cause])
    return Lock(world, model, cause)


def rich_lock(
    horizon: int = 6,
    actions: int = 4,
    symbols: int = 12,
    dimensions: int = 10,
    noise: float = 0.25,
    vectors: bool = True,
    seed: int = 0,
) -> FiniteMDP:
    """A combination lock whose few hidden states are seen as many symbols.

    In each of two good hidden states a secret action leads on, to either good one of the next level, and all others lead to
    a dead state for good.  The right action in the last level pays 1; dying in the first level pays 0.1, which misleads.

    Parameters
    ----------
    horizon : int, default 6
        Levels.
    actions : int, default 4
        Of which one is right in each good state.
    symbols : int, default 12
        For each hidden state of each level, alike often.
    dimensions : int, default 10
        Of a symbol's vector.
    noise : float, default 0.25
        Standard deviation of symbols' vectors about the centre of their hidden state, which is 1.5 long.
    vectors : bool, default True
        Whether agents see the vectors; else a symbol is only a number.
    seed : int, default 0
        Which lock; not the run's seed.

    Examples
    --------
    >>> lock = rich_lock()
    >>> lock.states, round(lock.optimum, 6)
    (205, 1.0)
    """
    world = build_lock(horizon, actions, symbols, dimensions, noise, seed).world
    return world if vectors else replace(world, name=f"{world.name[:-1]}, vectors=False)", vectors=None)


def rich_game(
    horizon: int = 3,
    gains: int = 2,
    loses: int = 2,
    hidden: int = 3,
    symbols: int = 6,
    dimensions: int = 10,
    noise: float = 0.25,
    seed: int = 0,
) -> MarkovGame:
    """A two-player zero-sum game whose few hidden states are seen as many symbols; agents are told what pairs of actions pay.

    Parameters
    ----------
    horizon : int, default 3
        Steps.
    gains, loses : int, default 2
        Actions of the one who gains and of the one who loses.
    hidden, symbols : int, default 3 and 6
        Hidden states a step, and symbols for each.
    dimensions, noise
        As of :func:`rich_lock`.
    seed : int, default 0
        Which game; not the run's seed.

    Examples
    --------
    >>> game = rich_game()
    >>> game.players, game.states
    ((2, 2), 55)
    """
    if min(horizon, gains, loses, hidden, symbols, dimensions) < 1 or not noise >= 0:
        raise FewerError("rich-game: all sizes must be at least 1 and noise not negative")
    rng, pairs = np.random.default_rng(seed), gains * loses
    level = np.append(np.repeat(np.arange(horizon), hidden), horizon)
    cause = np.append(np.repeat(np.arange(horizon * hidden), symbols), horizon * hidden)
    leads = np.zeros((len(level), pairs, len(level)))
    for step in range(horizon - 1):
        before, after = (slice(hidden * each, hidden * (each + 1)) for each in (step, step + 1))
        leads[before, :, after] = rng.dirichlet(np.full(hidden, 0.3), size=(hidden, pairs))
    leads[hidden * (horizon - 1) :, :, -1] = 1
    pays = np.vstack([rng.random((horizon * hidden, pairs)), np.zeros((1, pairs))])
    mu = (cause == np.arange(len(level))[:, None]).astype(float)
    mu /= mu.sum(axis=1, keepdims=True)
    model = LowRank(leads[cause], mu, pays[cause])
    start, vectors = _looks(level, cause, dimensions, noise, rng)
    name = (
        f"rich-game(horizon={horizon}, gains={gains}, loses={loses}, hidden={hidden}, symbols={symbols}, "
        f"dimensions={dimensions}, noise={noise:g}, seed={seed})"
    )
    return MarkovGame(
        name,
        model.P,
        model.R,
        horizon,
        start,
        pays=model.R,
        vectors=vectors,
        levels=level[cause],
        players=(gains, loses),
    )


def _looks(
    level: Int[np.ndarray, " hidden"],
    cause: Int[np.ndarray, " states"],
    dimensions: int,
    noise: float,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, " states"], Float[np.ndarray, "states dimensions"]]:
    """Where an episode may begin, and how each state looks: like its hidden one, at a length of 1.5, with noise."""
    centre = rng.standard_normal((len(level), dimensions))
    centre *= 1.5 / np.linalg.norm(centre, axis=1, keepdims=True)
    vectors = centre[cause] + noise * rng.standard_normal((len(cause), dimensions))
    return (level[cause] == 0) / (level[cause] == 0).sum(), vectors.astype(np.float32)
