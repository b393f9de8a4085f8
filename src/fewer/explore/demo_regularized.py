"""Demonstration-regularised exploration: clone the expert, then pay for every departure from the clone.

A few demonstrations make a prior policy, and the agent looks for the policy that is best once each nat of divergence from
that prior costs lambda.  Such a problem is strongly concave, so errors of values count squared: it takes about
1 / (lambda epsilon) episodes in place of 1 / epsilon^2.  And since a clone of N demonstrations is off by about 1 / N,
lambda may grow with N: demonstrations divide the price.

The objective of a policy, with prior pi' the clone (:mod:`fewer.explore.cloning`)::

    E_pi sum_h [ r_h - lambda KL(pi_h(.|s_h) || pi'_h(.|s_h)) ]

Before an episode, backwards for h = H, …, 1, with n times that a was tried in s, p the empirical next states,
L* = scale * log(3 S A H / delta) + scale * log(8 e (n + 1)), and L with S times the second logarithm::

    b   = 3 sqrt(Var_p(U_{h+1}) L* / n) + 9 H^2 L / n + E_p[U_{h+1} - D_{h+1}] / H
    Q^U = min(r + E_p[U_{h+1}] + b, H),    U_h = lambda log sum_a pi'(a|s) exp(Q^U(s, a) / lambda)
    Q^D = max(r + E_p[D_{h+1}] - b, 0),    D_h likewise of Q^D
    pi  ~ pi'(a|s) exp(Q^U(s, a) / lambda)
    G_h = min(max_a (Q^U - Q^D)^2 / (2 lambda) + sum_a pi(a|s) E_p[G_{h+1}], H)

U is above and D below the best regularised value, and G at the start bounds what pi gives away, so one may stop when it is
below epsilon.  What is played is pi, but in one step, drawn anew for each episode, the action about which least is known,
argmax (Q^U - Q^D).

Its companions: :mod:`fewer.explore.linear_demo_regularized` for worlds with linear features,
:mod:`fewer.explore.preferences` for rewards that are learned from preferences between episodes, and
:mod:`fewer.explore.kl_to_prior` for deep agents.

References
----------
Daniil Tiapkin, Denis Belomestny, Daniele Calandriello, Eric Moulines, Alexey Naumov, Pierre Perrault, Michal Valko and
Pierre Ménard, "Demonstration-Regularized RL", ICLR 2024, arXiv:2310.17303.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from fewer.claim import Claim, Measures, higher, identical, lower, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.explore import counts
from fewer.explore.cloning import Cloning, prior_of
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.loop import Account, Episode, Exploration
from fewer.explore.planning import ahead, greedy
from fewer.explore.preferences import from_preferences
from fewer.explore.soft_planning import soft_backward_induction, soft_choice, soft_evaluate
from fewer.explore.ucbvi import UCBVI
from fewer.explore.worlds import FiniteMDP, random_mdp


@dataclass(frozen=True)
class DemoRegularized:
    """Explore while paying for departures from a clone of the demonstrations.

    Without demonstrations the prior is uniform, and this is entropy-regularised exploration.

    Parameters
    ----------
    strength : float, optional
        Lambda, in units of reward a nat; 0 pays nothing, infinity plays the clone.  By default 0.02 times the square root
        of the number of demonstrations.
    prior : {"demonstrations", "uniform"}, default "demonstrations"
        What is departed from.
    pseudo_count : float, optional
        Of the clone; by default one over the number of actions.
    bonus : {"proven", "bernstein"}, default "proven"
        The bonus above, or the smaller one of :class:`~fewer.explore.UCBVI`.
    scale : float, default 1
        Factor of the logarithms in the bonus.  1 is what the proof asks for; in practice far less explores enough.
    delta : float, default 0.05
        Probability with which the bounds may fail.
    deviate : bool, default True
        Take the least known action in one step of each episode.
    recommends : {"optimistic", "empirical"}, default "optimistic"
        Which policy is handed on: the one above, or the best in the empirical model without a bonus.
    precision : float, default 0
        Stop when the policy is best within so much, for certain; 0 plays on.
    by_step : bool, default False
        Keep the steps of an episode apart, for worlds that change with the step.
    replan : float, default 1
        Plan anew when the episodes played have grown by this factor; 1 plans before each.

    Raises
    ------
    FewerError
        If a number is out of its range.

    Examples
    --------
    >>> from fewer.explore import Exploration
    >>> from fewer.explore.grid_worlds import slippery_grid
    >>> world = slippery_grid(side=3, horizon=6, demonstrations=20)
    >>> agent = DemoRegularized(bonus="bernstein", scale=0.02)
    >>> learned = Exploration(agent, copies=4, points=1).learn(world, budget=50)
    >>> bool((world.value(learned.result) > 0.9 * world.optimum).all())
    True
    """

    strength: float | None = None
    prior: Literal["demonstrations", "uniform"] = "demonstrations"
    pseudo_count: float | None = None
    bonus: Literal["proven", "bernstein"] = "proven"
    scale: float = 1.0
    delta: float = 0.05
    deviate: bool = True
    recommends: Literal["optimistic", "empirical"] = "optimistic"
    precision: float = 0.0
    by_step: bool = False
    replan: float = 1.0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("prior", self.prior, ("demonstrations", "uniform")),
            ("bonus", self.bonus, ("proven", "bernstein")),
            ("recommends", self.recommends, ("optimistic", "empirical")),
        ):
            if value not in known:
                raise FewerError(f"demo-regularized: unknown {what} {value!r}; choose {' or '.join(known)}")
        if self.strength is not None and not self.strength >= 0:
            raise FewerError(f"demo-regularized: strength must not be negative; {self.strength} was given")
        if not self.scale >= 0 or not 0 < self.delta < 1 or not self.replan >= 1 or not self.precision >= 0:
            raise FewerError(
                f"demo-regularized: scale and precision must not be negative, delta lie in (0, 1) and replan be at least 1; "
                f"given {self.scale}, {self.precision}, {self.delta} and {self.replan}"
            )
        if self.precision and self.strength == 0:
            raise FewerError(
                "demo-regularized: only a strength above 0 tells when to stop; raise it, or leave precision out"
            )

    def begin(self, account: Account) -> None:
        """Clone; nothing else is known."""
        counts.begin(account, self.by_step)
        account.memory |= begin_regularised(account, self)

    def plan(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The optimistic policy, but for one step."""
        memory = account.memory
        if account.played >= memory["due"]:
            memory["due"] = max(account.played * self.replan, account.played + 1)
            policy, apart, gap = self.optimistic(account)
            keep_going(memory, policy, gap[:, 0], account, self.precision)
            memory["least_known"] = greedy(apart, account.rng)
        return deviating(memory, account) if self.deviate else memory["policy"]

    def learn(self, account: Account, episode: Episode) -> None:
        """Count."""
        counts.add(account.memory, episode)
        account.memory["begun"][np.arange(account.runs), episode.states[:, 0]] = True

    def recommend(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        """The policy to hand on."""
        memory = account.memory
        if self.recommends == "empirical":
            P, R = counts.model(memory, account)
            return soft_backward_induction(P, R, memory["prior"], memory["strength"])[1]
        # what has stopped stays; else what the next plan will be
        return memory["policy"] if self.finished(account) or account.played < memory["due"] else self._going_on(account)

    def finished(self, account: Account) -> bool:
        """Whether every copy's policy is good enough."""
        return bool(self.precision and np.isfinite(account.memory["stopped"]).all())

    def _going_on(self, account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
        policy, on = self.optimistic(account)[0], np.isinf(account.memory["stopped"])
        return policy if on.all() else np.where(on[:, None, None, None], policy, account.memory["policy"])

    def optimistic(
        self, account: Account
    ) -> tuple[
        Float[np.ndarray, "runs horizon states actions"],
        Float[np.ndarray, "runs horizon states actions"],
        Float[np.ndarray, "runs horizon+1 states"],
    ]:
        """Plan.

        Returns
        -------
        policy : float array (runs, horizon, states, actions)
            Best under optimism.
        apart : float array (runs, horizon, states, actions)
            How far the bounds of each action's value are apart.
        gap : float array (runs, horizon + 1, states)
            A bound on what the policy gives away from each step and state.
        """
        bounds = self.bounds(account)
        return bounds["policy"], bounds["apart"], bounds["gap"]

    def bounds(self, account: Account) -> dict[str, np.ndarray]:
        """What :meth:`optimistic` plans with: ``upper`` and ``lower`` values too, (runs, horizon + 1, states)."""
        P_all, R_all = counts.model(account.memory, account)
        tried, prior, strength = counts.visits(account.memory), account.memory["prior"], account.memory["strength"]
        low, high = account.rewards
        runs, horizon, states, actions = prior.shape
        upper, lower, gap = np.zeros((3, runs, horizon + 1, states))
        policy, apart = np.empty((2, runs, horizon, states, actions))
        for step in range(horizon - 1, -1, -1):
            left = horizon - step
            P, R, n = (each[:, step] if self.by_step else each for each in (P_all, R_all, tried))
            above, below = upper[:, step + 1], lower[:, step + 1]
            mean_above, mean_below = ahead(P, above), ahead(P, below)
            variance = np.maximum(ahead(P, above**2) - mean_above**2, 0)
            width = self._width(account, n, variance, left)
            if self.bonus == "proven":
                width = width + (mean_above - mean_below) / horizon
            most, least = left * high, left * low
            of_upper = np.where(n > 0, np.minimum(R + mean_above + width, most), most)
            of_lower = np.where(n > 0, np.maximum(R + mean_below - width, least), least)
            upper[:, step], policy[:, step] = soft_choice(of_upper, prior[:, step], strength)
            lower[:, step], _ = soft_choice(of_lower, prior[:, step], strength)
            apart[:, step] = of_upper - of_lower
            following = (policy[:, step] * ahead(P, gap[:, step + 1])).sum(axis=-1)
            gap[:, step] = squared_gap(apart[:, step], strength, following, most - least)
        return {"policy": policy, "apart": apart, "gap": gap, "upper": upper, "lower": lower}

    def _width(self, account: Account, n: Any, variance: Any, left: int) -> np.ndarray:
        """What an action's value may differ from its estimate by."""
        low, high = account.rewards
        spread, pairs = high - low, account.states * account.actions * account.horizon
        often = np.maximum(n, 1)
        if self.bonus == "proven":
            first, growing = self.scale * math.log(3 * pairs / self.delta), self.scale * (1 + np.log(8 * (n + 1)))
            variance_log, log = first + growing, first + account.states * growing
            width = 3 * np.sqrt(variance * variance_log / often) + 9 * left**2 * spread * log / often
        else:
            variance_log = self.scale * math.log(5 * pairs * max(account.episodes, 1) / self.delta)
            width = np.sqrt(2 * variance * variance_log / often) + 7 * left * spread * variance_log / (3 * often)
        if account.pays is None:  # what the rewards themselves may differ from their means by
            width = width + spread * np.sqrt(variance_log / (2 * often))
        return width


def begin_regularised(account: Account, agent: Any) -> dict[str, Any]:
    """What an agent with a prior remembers before its first episode: prior, strength, and when to plan."""
    if agent.prior == "demonstrations":
        prior = prior_of(account, agent.pseudo_count)
    else:
        prior = np.full((account.runs, account.horizon, account.states, account.actions), 1 / account.actions)
    shown = 0 if account.demonstrations is None else len(account.demonstrations)
    low, high = account.rewards
    strength = 0.02 * math.sqrt(max(shown, 1)) * (high - low) if agent.strength is None else float(agent.strength)
    return {
        "prior": prior,
        "strength": strength,
        "due": 0.0,
        "begun": np.zeros((account.runs, account.states), dtype=bool),  # where episodes have begun
        "stopped": np.full(account.runs, np.inf),
    }


def squared_gap(apart: Any, strength: float, following: Any, most: float) -> Float[np.ndarray, "runs states"]:
    """What a soft choice gives away at most, where action values are known up to ``apart``, and what follows."""
    widest = apart.max(axis=-1)
    # at strength 0 nothing bounds it by the square, at infinity there is nothing to choose
    now = np.where(widest > 0, most, 0.0) if strength == 0 else widest**2 / (2 * strength)
    return np.minimum(now + following, most)


def keep_going(memory: dict[str, Any], policy: Any, gap: Any, account: Account, precision: float) -> None:
    """Take up a new policy in the runs that have not stopped, and note which of them may stop now.

    Parameters
    ----------
    memory : dict
        Of an agent that began with :func:`begin_regularised`.
    policy : float array (runs, horizon, states, actions)
        The new one.
    gap : float array (runs, states)
        What it gives away from each first state.
    account : Account
        Whose report tells the gap.
    precision : float
        The gap at which to stop; 0 goes on.
    """
    low, high = account.rewards
    # wherever an episode has begun; before the first, nothing is known
    gap = np.where(
        memory["begun"].any(axis=1), np.where(memory["begun"], gap, 0).max(axis=1), account.horizon * (high - low)
    )
    account.report["gap"] = float(gap.mean())
    if precision:
        on = np.isinf(memory["stopped"])
        if not on.all():
            policy = np.where(on[:, None, None, None], policy, memory["policy"])
        memory["stopped"][on & (gap <= precision)] = account.played
    memory["policy"], memory["gap"] = policy, gap


def deviating(memory: dict[str, Any], account: Account) -> Float[np.ndarray, "runs horizon states actions"]:
    """The policy, with the least known action in a step that is drawn for each run; in one of H + 1 episodes in none."""
    step = account.rng.integers(account.horizon + 1, size=account.runs)
    run = np.flatnonzero(step)
    played = memory["policy"].copy()
    played[run, step[run] - 1] = memory["least_known"][run, step[run] - 1]
    return played


def proven_strength(
    precision: float, demonstrations: int, states: int, actions: int, horizon: int, delta: float = 0.05
) -> float:
    """The largest lambda for which the clone's divergence surely costs no more than ``precision``.

    Parameters
    ----------
    precision : float
        What may be lost by paying for the divergence from the clone.
    demonstrations, states, actions, horizon : int
        How many episodes were shown, in a world of which sizes.
    delta : float, default 0.05
        Probability with which this may fail.

    Examples
    --------
    >>> round(proven_strength(0.1, demonstrations=10_000, states=10, actions=4, horizon=5), 3)
    0.002
    """
    if not precision > 0 or demonstrations < 1:
        raise FewerError(
            f"demo-regularized: a precision above 0 and at least one demonstration are needed; given {precision} and "
            f"{demonstrations}"
        )
    log = math.log(2 * math.e**4 * demonstrations) * math.log(12 * horizon * demonstrations**2 / delta)
    return precision * demonstrations / (6 * states * actions * horizon * log)


# --- the claims ------------------------------------------------------------------------------------------------------

SCALE, REPLAN, SHARE, IN_A_ROW = 0.02, 1.05, 0.9, 5
"""The same for everybody: a fiftieth of what the proofs ask for, a geometric grid of plans, and when a policy is good."""


def episodes_until_good(
    world: FiniteMDP, agent: Any, copies: int, budget: int, seed: int
) -> tuple[Float[np.ndarray, " copies"], Float[np.ndarray, " copies"]]:
    """Episodes until what an agent recommends is good for five plans in a row, and how good it is in the end.

    Returns
    -------
    episodes : float array (copies,)
        At the first of the five plans; the budget where there is none.
    final : float array (copies,)
        Value over the best one.
    """
    loop = Exploration(agent, copies=copies, points=budget)
    state = loop.start(world, budget, seed)
    at, values, due = [], [], 1.0
    for episode in range(1, budget + 1):
        loop.advance(state)
        state.points += 1
        if episode >= due or episode == budget:
            due = max(episode * REPLAN, episode + 1)
            at.append(episode)
            values.append(world.value(loop.result(state)) / world.optimum)
    good = np.array(values) >= SHARE
    lasting = np.lib.stride_tricks.sliding_window_view(good, min(IN_A_ROW, len(good)), axis=0).all(axis=-1)
    found = np.where(lasting.any(axis=0), np.array(at)[lasting.argmax(axis=0)], budget)
    return found.astype(float), values[-1]


def measure_episodes(seed: int, tiny: bool) -> Measures:
    """Episodes to a tenth of the best value, on a slippery grid, with more and more demonstrations and by the rivals."""
    copies, budget = (2, 60) if tiny else (5, 4000)
    counted = {"bonus": "bernstein", "scale": SCALE, "replan": REPLAN, "recommends": "empirical"}
    entries: dict[str, tuple[int, Any]] = {
        "ucbvi": (0, UCBVI(**counted, by_step=True)),
        "ucbvi that counts 20 demonstrations": (20, UCBVI(**counted, by_step=True, warm_start=True)),
        "uniform prior": (20, DemoRegularized(**counted, by_step=True, prior="uniform")),
        "5 demonstrations": (5, DemoRegularized(**counted, by_step=True)),
        "20 demonstrations": (20, DemoRegularized(**counted, by_step=True)),
        "100 demonstrations": (100, DemoRegularized(**counted, by_step=True)),
    }
    measured: dict[str, dict[str, float]] = {}
    finals = {}
    for name, (shown, agent) in entries.items():
        world = slippery_grid(side=4, horizon=8, demonstrations=shown) if tiny else slippery_grid(demonstrations=shown)
        episodes, finals[name] = episodes_until_good(world, agent, copies, budget, seed)
        measured[name] = {"episodes": float(np.median(episodes)), "final": float(finals[name].mean())}
    # the same demonstrations, by the same seed, and nothing more
    world = slippery_grid(side=4, horizon=8, demonstrations=100) if tiny else slippery_grid(demonstrations=100)
    cloned = world.value(Exploration(Cloning(), copies=copies, points=1).learn(world, 1, seed).result) / world.optimum
    measured["clone of 100 demonstrations"] = {"final": float(cloned.mean())}
    measured["100 demonstrations"]["runs not above their clone"] = float((finals["100 demonstrations"] <= cloned).sum())
    measured["nobody"] = {"runs not above their clone": 0.0}
    return measured


def measure_pooled(seed: int, tiny: bool) -> Measures:
    """The same where all know that the world does not change with the step."""
    copies, budget = (2, 60) if tiny else (5, 600)
    counted = {"bonus": "bernstein", "scale": SCALE, "replan": REPLAN, "recommends": "empirical"}
    entries: dict[str, tuple[int, Any]] = {
        "ucbvi": (0, UCBVI(**counted)),
        "ucbvi that counts 20 demonstrations": (20, UCBVI(**counted, warm_start=True)),
        "uniform prior": (20, DemoRegularized(**counted, prior="uniform")),
        "5 demonstrations": (5, DemoRegularized(**counted)),
        "20 demonstrations": (20, DemoRegularized(**counted)),
    }
    measured = {}
    for name, (shown, agent) in entries.items():
        world = slippery_grid(side=4, horizon=8, demonstrations=shown) if tiny else slippery_grid(demonstrations=shown)
        episodes, final = episodes_until_good(world, agent, copies, budget, seed)
        measured[name] = {"episodes": float(np.median(episodes)), "final": float(final.mean())}
    return measured


def measure_growth(seed: int, tiny: bool) -> Measures:
    """Log-log slopes of the episodes until the gap is small, in random worlds, and what the policies then give away."""
    budget, copies = (150, 2) if tiny else (40_000, 4)
    worst = 0.0

    def until(states: int = 5, horizon: int = 4, strength: float = 0.2, precision: float = 0.01) -> float:
        nonlocal worst
        world = random_mdp(states, 3, horizon, seed=seed)
        world = replace(world, pays=world.R)
        agent = DemoRegularized(strength, bonus="bernstein", scale=0.01, precision=precision, replan=REPLAN)
        loop = Exploration(agent, copies=copies, points=1)
        state = loop.start(world, budget, seed)
        loop.advance(state)
        P, R, prior = world.P[None], world.R[None], state.memory["prior"]
        best = soft_backward_induction(P, R, prior, strength)[0][:, 0] @ world.first
        got = soft_evaluate(P, R, loop.result(state), prior, strength)[:, 0] @ world.first
        worst = max(worst, float((best - got).max()) / precision)
        return float(np.minimum(state.memory["stopped"], budget).mean())

    def slope(what: str, sizes: Sequence[float]) -> float:
        setting: list[dict[str, Any]] = [{what: size} for size in sizes]
        taken = [until(**each) for each in setting]
        return float(np.polyfit(np.log(sizes), np.log(taken), 1)[0])

    measured = {
        "strength": {"slope": slope("strength", [0.05, 0.1, 0.2, 0.4, 0.8])},
        "precision": {"slope": slope("precision", [0.005, 0.01, 0.02, 0.04])},
        "states": {"slope": slope("states", [4, 6, 9, 13])},
        "horizon": {"slope": slope("horizon", [2, 3, 5, 8])},
    }
    return {**measured, "stopped policies": {"loss over the precision": worst}}


def measure_preferences(seed: int, tiny: bool) -> Measures:
    """A reward learned from preferences alone, against the true one, the clone, and the same without a prior."""
    pairs, budget = (40, 40) if tiny else (1000, 1500)
    world = slippery_grid(side=4, horizon=8, demonstrations=50)
    taught = from_preferences(world, pairs, generator(seed, "preferences"))
    true = replace(world, shown=taught.shown)
    options = {"strength": 0.3, "bonus": "bernstein", "scale": SCALE, "replan": REPLAN, "recommends": "empirical"}
    measured = {}
    for name, known, agent in (
        ("preferences", taught, DemoRegularized(**options)),
        ("true rewards", true, DemoRegularized(**options)),
        ("preferences, uniform prior", taught, DemoRegularized(**options, prior="uniform")),
        ("clone", true, Cloning()),
    ):
        learned = Exploration(agent, points=1).learn(known, 1 if name == "clone" else budget, seed)
        measured[name] = {"final": float(world.value(learned.result)[0] / world.optimum)}
    return measured


claim = (
    Claim(
        says="Five demonstrations halve the episodes to a policy within a tenth of the best, more divide them further, and the "
        "policy is better than a clone of them.",
        measure=measure_episodes,
        seeds=6,
        holds=[
            ratio("episodes", "5 demonstrations", to="ucbvi", at_most=0.5),
            lower("episodes", "20 demonstrations", than="5 demonstrations"),
            lower("episodes", "100 demonstrations", than="20 demonstrations"),
            lower("episodes", "20 demonstrations", than="ucbvi that counts 20 demonstrations"),
            lower("episodes", "20 demonstrations", than="uniform prior"),
            higher("final", "100 demonstrations", than=0.97),
            higher("final", "100 demonstrations", than="clone of 100 demonstrations"),
            identical("runs not above their clone", "100 demonstrations", to="nobody"),
        ],
        note="A grid of 6 by 6 cells, 14 steps, a tenth of which slip; the expert errs in 5 % of the steps. Medians of five "
        "runs a seed, 4,000 episodes at most. Everybody keeps the steps of an episode apart, as the paper does, has the "
        "bonus of UCB-VI at a fiftieth of what its proof asks for, plans on a geometric grid, and recommends the best "
        "policy of what it has counted.",
    ),
    Claim(
        says="Demonstrations still halve the episodes where everybody knows that the world does not change with the step.",
        measure=measure_pooled,
        seeds=6,
        holds=[
            ratio("episodes", "5 demonstrations", to="ucbvi", at_most=0.5),
            lower("episodes", "20 demonstrations", than="ucbvi that counts 20 demonstrations"),
            lower("episodes", "20 demonstrations", than="uniform prior"),
        ],
    ),
    Claim(
        says="The episodes until a policy is certainly good within epsilon fall about as 1 / lambda, no faster than 1 / epsilon, "
        "and grow no faster with states and horizon than the bounds say.",
        measure=measure_growth,
        seeds=12,
        holds=[
            higher("slope", "strength", than=-1.5),
            lower("slope", "strength", than=-0.5),
            higher("slope", "precision", than=-1.5),
            lower("slope", "states", than=2.0),
            lower("slope", "horizon", than=5.0),
            lower("loss over the precision", "stopped policies", than=1.0),
        ],
        note="Random worlds, another one each seed, of 5 states, 3 actions and 4 steps if not said otherwise; log-log slopes "
        "over four or five sizes. The bounds grow as the square of the states and the fifth power of the horizon. Bonuses are "
        "a hundredth of UCB-VI's.",
    ),
    Claim(
        says="Rewards learned from preferences between episodes of the clone do nearly as well as true ones, and better than the "
        "clone.",
        measure=measure_preferences,
        seeds=12,
        holds=[
            no_worse("final", "preferences", than="true rewards", within=0.1),
            higher("final", "preferences", than="clone"),
        ],
        note="Strength 0.3, twice the default, for rewards that are learned. 50 demonstrations and 1,000 pairs on a grid of 4 "
        "by 4 cells; answers err the more the closer two returns are.",
    ),
)
