"""Two-player zero-sum games that go on for several steps: equilibria by linear programs, and what a pair of players gives away.

The pair's actions are numbered as one, ``a * players[1] + b``, so that every agent of this room can play both sides; a
policy is a distribution over pairs, of which the players' own policies are the marginals.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import block_diag

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.explore.planning import ahead
from fewer.explore.worlds import FiniteMDP


@dataclass(frozen=True, eq=False)
class MarkovGame(FiniteMDP):
    """A world in which one player gains what the other loses.

    The score of a policy is minus its duality gap: what the players' marginals give away to the best responses of the
    other, so that 0 is an equilibrium and regret the sum of gaps.

    Parameters
    ----------
    players : (int, int)
        Actions of the one who gains and of the one who loses.
    others
        As of :class:`~fewer.explore.worlds.FiniteMDP`, with pairs of actions.

    Examples
    --------
    >>> pennies = MarkovGame("pennies", np.ones((1, 4, 1)), np.array([[1.0, 0, 0, 1]]), 1, players=(2, 2))
    >>> float(pennies.worth), float(pennies.value(np.full((1, 1, 1, 4), 0.25))[0])
    (0.5, 0.0)
    """

    players: tuple[int, int] | None = None
    metric = "minus duality gap"

    def __post_init__(self) -> None:
        if self.players is None or min(self.players) < 1 or self.players[0] * self.players[1] != self.R.shape[-1]:
            raise FewerError(
                f"{self.name}: players must be two numbers of actions whose product is the number of pairs, {self.R.shape[-1]}; "
                f"{self.players} was given"
            )
        super().__post_init__()

    @property
    def optimum(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
        """The score of an equilibrium."""
        return 0.0

    @cached_property
    def worth(self) -> float:
        """What the game is worth to the one who gains, by backward induction over matrix games."""
        assert self.players is not None
        values = np.zeros((1, self.states))
        for _ in range(self.horizon):
            now = (self.R + ahead(self.P[None], values)).reshape(-1, *self.players)
            values = minimax(now)[0][None]
        return float(values[0] @ self.first)

    def value(self, policy: Float[np.ndarray, "runs horizon states actions"]) -> Float[np.ndarray, " runs"]:
        """Minus the duality gap of the marginals, exactly."""
        assert self.players is not None
        first, second = marginals(policy, self.players)
        best = self._respond(second, axis=0)  # the one who gains answers the other
        worst = self._respond(first, axis=1)
        return (worst - best) @ self.first

    def fingerprint(self) -> str:
        """Hash the arrays."""
        return fingerprint(super().fingerprint(), repr(self.players))

    def _respond(self, other: np.ndarray, axis: int) -> Float[np.ndarray, "runs states"]:
        assert self.players is not None
        values = np.zeros((len(other), self.states))
        for step in range(self.horizon - 1, -1, -1):
            now = (self.R + ahead(self.P[None], values)).reshape(-1, self.states, *self.players)
            if axis == 0:
                values = (now * other[:, step, :, None, :]).sum(axis=-1).max(axis=-1)
            else:
                values = (now * other[:, step, :, :, None]).sum(axis=-2).min(axis=-1)
        return values


def marginals(
    policy: Float[np.ndarray, "*batch pairs"], players: tuple[int, int]
) -> tuple[Float[np.ndarray, "*batch gains"], Float[np.ndarray, "*batch loses"]]:
    """Each player's own distribution.

    Examples
    --------
    >>> marginals(np.array([0.1, 0.2, 0.3, 0.4]), (2, 2))
    (array([0.3, 0.7]), array([0.4, 0.6]))
    """
    joint = policy.reshape(*policy.shape[:-1], *players)
    return joint.sum(axis=-1), joint.sum(axis=-2)


def minimax(
    payoff: Float[np.ndarray, "games gains loses"],
) -> tuple[Float[np.ndarray, " games"], Float[np.ndarray, "games gains"]]:
    """What matrix games are worth, and how the one who gains plays them; all as one linear program.

    Examples
    --------
    >>> value, strategy = minimax(np.array([[[3.0, 0.0], [0.0, 1.0]]]))
    >>> value.round(6), strategy.round(6)
    (array([0.75]), array([[0.25, 0.75]]))
    """
    games, mine, theirs = payoff.shape
    # of each game: the strategy, and the value that it is sure of
    least = [np.hstack([-each.T, np.ones((theirs, 1))]) for each in payoff]
    solved = linprog(
        np.tile(np.append(np.zeros(mine), -1.0), games),
        A_ub=block_diag(least, format="csr"),
        b_ub=np.zeros(games * theirs),
        A_eq=block_diag([np.append(np.ones(mine), 0.0)[None]] * games, format="csr"),
        b_eq=np.ones(games),
        bounds=([(0, None)] * mine + [(None, None)]) * games,
        method="highs",
    )
    found = _solution(solved).reshape(games, mine + 1)
    return found[:, -1], _distribution(found[:, :-1])


def coarse_correlated(
    upper: Float[np.ndarray, "games gains loses"], lower: Float[np.ndarray, "games gains loses"]
) -> Float[np.ndarray, "games gains loses"]:
    """Joint distributions that neither player would leave for an action of their own; all as one linear program.

    Parameters
    ----------
    upper : float array (games, gains, loses)
        What the one who gains believes the pairs to be worth.
    lower : float array (games, gains, loses)
        What the one who loses believes.

    Examples
    --------
    >>> pennies = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> coarse_correlated(pennies, pennies)[0].sum(axis=0).round(6)
    array([0.5, 0.5])
    """
    games, mine, theirs = upper.shape
    # the gain of leaving for a', and of leaving for b', for each pair that may have been meant
    leaves = upper[:, :, None, :] - upper[:, None, :, :]  # games, a', a, b
    avoids = lower[:, None, :, :] - np.moveaxis(lower, 2, 1)[:, :, :, None]  # games, b', a, b
    rows = np.concatenate([leaves.reshape(games, mine, -1), avoids.reshape(games, theirs, -1)], axis=1)
    solved = linprog(
        np.zeros(games * mine * theirs),
        A_ub=block_diag(list(rows), format="csr"),
        b_ub=np.zeros(games * (mine + theirs)),
        A_eq=block_diag([np.ones((1, mine * theirs))] * games, format="csr"),
        b_eq=np.ones(games),
        bounds=(0, None),
        method="highs",
    )
    return _distribution(_solution(solved).reshape(games, -1)).reshape(upper.shape)


def _solution(solved: object) -> np.ndarray:
    if solved.x is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise FewerError(f"no equilibrium was found: {solved.message}; are all values finite?")  # pyright: ignore
    return solved.x  # pyright: ignore[reportAttributeAccessIssue]


def _distribution(found: np.ndarray) -> np.ndarray:
    found = np.maximum(found, 0)
    return found / found.sum(axis=-1, keepdims=True)
