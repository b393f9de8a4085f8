"""Demonstration-regularised exploration where transitions and rewards are linear in features (LSVI-UCB-Ent).

As :mod:`fewer.explore.demo_regularized`, but values are fitted by least squares in the features phi(s, a), and what is not
known is the length of a feature under the inverse of Lambda = ridge I + sum phi phi^T::

    b   = scale * H * sqrt(phi^T Lambda^-1 phi)
    Q^U = min(r + phi . w^U + b, H),   Q^D = max(r + phi . w^D - b, 0)

with w fitted to U_{h+1} and D_{h+1} at the states that came next.  Soft values, gap, sampling and stopping are the same.
The clone of the demonstrations is log-linear in the features.

References
----------
Daniil Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv:2310.17303.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from fewer.core.errors import FewerError
from fewer.explore import least_squares
from fewer.explore.cloning import clone_features
from fewer.explore.demo_regularized import begin_regularised, deviating, keep_going, squared_gap
from fewer.explore.loop import Account, Episode
from fewer.explore.planning import greedy
from fewer.explore.soft_planning import soft_choice


@dataclass(frozen=True)
class LinearDemoRegularized:
    """Explore by features while paying for departures from a clone of the demonstrations.

    Where the world has no features, each pair of state and action is a dimension of its own.

    Parameters
    ----------
    strength : float, optional
        What a nat of divergence costs; by default 0.02 times the square root of the number of demonstrations.
    prior : {"demonstrations", "uniform"}, default "demonstrations"
        What is departed from.
    scale : float, default 0.1
        Factor of the bonus; the proof asks for the number of dimensions times a logarithm.
    ridge : float, default 1
        Of the least squares, and of the clone's likelihood; positive.
    deviate : bool, default True
        Take the least known action in one step of each episode.
    precision : float, default 0
        Stop when the policy is best within so much; 0 plays on.
    replan : float, default 1
        Plan anew when the episodes played have grown by this factor; 1 plans before each.

    Examples
    --------
    >>> from fewer.explore import Exploration
    >>> from fewer.explore.linear_worlds import linear_mdp
    >>> world = linear_mdp(states=6, dimensions=3, horizon=4)
    >>> points = Exploration(LinearDemoRegularized(), copies=4, points=2).learn(world, budget=60).curve.points
    >>> points[-1].score > 0.8 * world.optimum
    True
    """

    strength: float | None = None
    prior: Literal["demonstrations", "uniform"] = "demonstrations"
    scale: float = 0.1
    ridge: float = 1.0
    deviate: bool = True
    precision: float = 0.0
    replan: float = 1.0

    pseudo_count = None  # the clone is that of the features

    def __post_init__(self) -> None:
        if self.prior not in ("demonstrations", "uniform"):
            raise FewerError(f"linear-demo-regularized: unknown prior {self.prior!r}; choose demonstrations or uniform")
        if self.strength is not None and not self.strength >= 0:
            raise FewerError(f"linear-demo-regularized: strength must not be negative; {self.strength} was given")
        if not self.scale >= 0 or not self.ridge > 0 or not self.precision >= 0 or not self.replan >= 1:
            raise FewerError(
                f"linear-demo-regularized: scale and precision must not be negative, ridge be positive and replan at least 1; "
                f"given {self.scale}, {self.precision}, {self.ridge} and {self.replan}"
            )
        if self.precision and self.strength == 0:
            raise FewerError(
                "linear-demo-regularized: only a strength above 0 tells when to stop; raise it, or leave precision out"
            )

    def begin(self, account: Account) -> None:
        """Clone; nothing else is known."""
        least_squares.begin(account, self.ridge)
        account.memory |= begin_regularised(account, self)
        shown = account.demonstrations
        if account.features is not None and shown is not None and len(shown) and self.prior == "demonstrations":
            cloned = clone_features(shown, account.features, ridge=self.ridge)
            account.memory["prior"] = np.broadcast_to(cloned, account.memory["prior"].shape).copy()

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The optimistic policy, but for one step."""
        memory = account.memory
        if account.played >= memory["due"]:
            memory["due"] = max(account.played * self.replan, account.played + 1)
            bounds = self.bounds(account)
            keep_going(memory, bounds["policy"], bounds["gap"][:, 0], account, self.precision)
            memory["least_known"] = greedy(bounds["apart"], account.rng)
        return deviating(memory, account) if self.deviate else memory["policy"]

    def learn(self, account: Account, episode: Episode) -> None:
        """Add to the sums of the least squares."""
        least_squares.add(account, episode)
        account.memory["begun"][np.arange(account.runs), episode.states[:, 0]] = True

    def recommend(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The policy to hand on."""
        memory = account.memory
        if self.finished(account) or account.played < memory["due"]:
            return memory["policy"]
        policy, on = self.bounds(account)["policy"], np.isinf(memory["stopped"])
        return policy if on.all() else np.where(on[:, None, None, None], policy, memory["policy"])

    def finished(self, account: Account) -> bool:
        """Whether every copy's policy is good enough."""
        return bool(self.precision and np.isfinite(account.memory["stopped"]).all())

    def bounds(self, account: Account) -> dict[str, np.ndarray]:
        """Plan: ``policy``, and ``upper``, ``lower``, ``apart`` and ``gap`` as of :class:`DemoRegularized`."""
        memory, phi = account.memory, least_squares.features_of(account)
        prior, strength = memory["prior"], memory["strength"]
        low, high = account.rewards
        runs, horizon, states, actions = prior.shape
        inverse, flat = np.linalg.inv(memory["gram"]), phi.reshape(-1, phi.shape[-1])
        length = np.sqrt(np.maximum(((flat @ inverse) * flat).sum(axis=-1), 0)).reshape(runs, states, actions)
        upper, lower, gap = np.zeros((3, runs, horizon + 1, states))
        policy, apart = np.empty((2, runs, horizon, states, actions))

        def after(values: np.ndarray) -> np.ndarray:
            """The fitted value of the next state."""
            weights = (inverse @ (memory["pull"] @ values[..., None]))[..., 0]
            return (weights @ flat.T).reshape(runs, states, actions)

        if account.pays is None:
            reward = ((inverse @ memory["paid"][..., None])[..., 0] @ flat.T).reshape(runs, states, actions)
        else:
            reward = account.pays

        for step in range(horizon - 1, -1, -1):
            left = horizon - step
            most, least = left * high, left * low
            width = self.scale * (most - least) * length
            of_upper = np.clip(reward + after(upper[:, step + 1]) + width, least, most)
            of_lower = np.clip(reward + after(lower[:, step + 1]) - width, least, most)
            upper[:, step], policy[:, step] = soft_choice(of_upper, prior[:, step], strength)
            lower[:, step], _ = soft_choice(of_lower, prior[:, step], strength)
            apart[:, step] = of_upper - of_lower
            later = np.clip(after(gap[:, step + 1]) + width, 0, most - least)
            gap[:, step] = squared_gap(apart[:, step], strength, (policy[:, step] * later).sum(axis=-1), most - least)
        return {"policy": policy, "apart": apart, "gap": gap, "upper": upper, "lower": lower}
