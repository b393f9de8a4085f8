"""Demonstration-regularised exploration: many runs at once against one at a time in plain Python, and its pieces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from bench.explore import _Run
from bench.measure import bandwidth, seconds
from fewer.explore import DemoRegularized, Exploration
from fewer.explore.cloning import clone_counts
from fewer.explore.grid_worlds import slippery_grid
from fewer.explore.preferences import ask, fit_rewards
from fewer.explore.soft_planning import soft_backward_induction
from fewer.explore.trajectories import Trajectories, collect
from fewer.explore.worlds import FiniteMDP


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    rows = [episodes(quick), planning(quick), cloning(quick), preferences(quick)]
    return {"title": "explore: demonstration-regularised exploration", "rows": rows}


def episodes(quick: bool) -> dict[str, Any]:
    """Episodes a second, planning before each, against a loop over seeds, steps, states and actions."""
    world, copies, played = (
        slippery_grid(side=4, horizon=8, demonstrations=20),
        10 if quick else 500,
        5 if quick else 30,
    )
    loop = Exploration(DemoRegularized(bonus="bernstein", scale=0.02, deviate=False), copies=copies, points=1)
    ours = copies * played / seconds(lambda: loop.learn(world, played), 1 if quick else 3)
    theirs = played / seconds(lambda: plain(world, played, 0), 1 if quick else 3)
    return {
        "what": f"{copies} seeds at once on {world.name}, planning before each episode",
        "ours": ours,
        "peer": theirs,
        "peer_name": "plain Python, a seed at a time",
        "unit": "episodes/s",
        "ratio": ours / theirs,
        "limit": bandwidth() / (world.horizon * world.P.nbytes),
        "limit_is": "memory bandwidth, if the model is read once a planned step",
    }


def planning(quick: bool) -> dict[str, Any]:
    """A soft plan of many models, against one in plain Python."""
    rng, models, states, actions, horizon = np.random.default_rng(0), 5 if quick else 200, 36, 4, 14
    P = rng.dirichlet(np.ones(states), size=(models, states, actions))
    R, prior = rng.random((models, states, actions)), np.full((1, horizon, states, actions), 1 / actions)
    ours = seconds(lambda: soft_backward_induction(P, R, prior, 0.1), 1 if quick else 5) / models * 1000
    model, reward = P[0].tolist(), R[0].tolist()
    theirs = seconds(lambda: plain_soft(model, reward, horizon, 0.1), 1 if quick else 3) * 1000
    return {
        "what": f"a soft plan of {states} states, {actions} actions and {horizon} steps, {models} at once",
        "ours": ours,
        "peer": theirs,
        "peer_name": "plain Python",
        "unit": "ms",
        "ratio": theirs / ours,
        "limit": horizon * P[0].nbytes / bandwidth() * 1000,
        "limit_is": "memory bandwidth, if the model is read once a step",
    }


def cloning(quick: bool) -> dict[str, Any]:
    """A clone of many demonstrations, against counting in plain Python."""
    rng, runs, shown = np.random.default_rng(0), 2 if quick else 20, 50 if quick else 5000
    states, actions = rng.integers(36, size=(runs, shown, 15)), rng.integers(4, size=(runs, shown, 14))
    given = Trajectories(states, actions, np.zeros((runs, shown, 14)))
    ours = seconds(lambda: clone_counts(given, 36, 4), 3) / runs * 1000
    first, done = states[0].tolist(), actions[0].tolist()

    def count() -> None:
        counted = [[[0.25] * 4 for _ in range(36)] for _ in range(14)]
        for visited, acted in zip(first, done, strict=True):
            for step, action in enumerate(acted):
                counted[step][visited[step]][action] += 1
        _ = [[[each / sum(row) for each in row] for row in rows] for rows in counted]

    theirs = seconds(count, 3) * 1000
    return {
        "what": f"a clone of {shown:,} demonstrations of 14 steps, {runs} at once",
        "ours": ours,
        "peer": theirs,
        "peer_name": "plain Python",
        "unit": "ms",
        "ratio": theirs / ours,
    }


def preferences(quick: bool) -> dict[str, Any]:
    """Rewards from 1,000 preferences, against logistic regression without a range."""
    world, runs, pairs = slippery_grid(side=4, horizon=8), 1 if quick else 10, 100 if quick else 1000
    rng = np.random.default_rng(0)
    uniform = np.full((1, 8, 16, 4), 0.25)
    first, second = (collect(world, uniform, pairs, runs, rng) for _ in range(2))
    answers = ask(first, second, rng)
    ours = seconds(lambda: fit_rewards(first, second, answers, 16, 4), 1 if quick else 3) / runs * 1000
    x = np.zeros((pairs, 64))
    for played, sign in ((first, 1), (second, -1)):
        np.add.at(x, (np.arange(pairs)[:, None], played.states[0, :, :-1] * 4 + played.actions[0]), sign)
    theirs = seconds(lambda: LogisticRegression(fit_intercept=False).fit(x, answers[0]), 3) * 1000
    return {
        "what": f"rewards of 64 pairs from {pairs:,} preferences, {runs} at once, within their range",
        "ours": ours,
        "peer": theirs,
        "peer_name": "scikit-learn, without a range",
        "unit": "ms",
        "ratio": theirs / ours,
    }


# --- the same in plain Python ----------------------------------------------------------------------------------------


def plain(world: FiniteMDP, played: int, seed: int) -> None:
    """The optimistic soft policy of a uniform prior, planned before each episode; the cost is that of any prior."""
    run = _Run(world, seed)
    S, A, H = run.S, run.A, run.H
    log = 0.02 * math.log(5 * S * A * H * played / 0.05)
    for _ in range(played):
        model, _ = run.means()
        upper, lower, gap = [0.0] * S, [0.0] * S, [0.0] * S
        policy = [[[0.0] * A for _ in range(S)] for _ in range(H)]
        for step in range(H - 1, -1, -1):
            left, new = H - step, ([0.0] * S, [0.0] * S, [0.0] * S)
            for s in range(S):
                up, down, follow = [], [], []
                for a in range(A):
                    row, n = model[s][a], sum(run.n[s][a])
                    high = sum(p * v for p, v in zip(row, upper, strict=True))
                    low = sum(p * v for p, v in zip(row, lower, strict=True))
                    square = sum(p * v * v for p, v in zip(row, upper, strict=True))
                    often = max(n, 1)
                    b = math.sqrt(2 * max(square - high * high, 0) * log / often) + 7 * left * log / (3 * often)
                    up.append(min(run.R[s][a] + high + b, left) if n else left)
                    down.append(max(run.R[s][a] + low - b, 0.0) if n else 0.0)
                    follow.append(sum(p * g for p, g in zip(row, gap, strict=True)))
                new[0][s], policy[step][s] = plain_choice(up, 0.09)
                new[1][s], _ = plain_choice(down, 0.09)
                widest = max(x - y for x, y in zip(up, down, strict=True))
                later = sum(p * g for p, g in zip(policy[step][s], follow, strict=True))
                new[2][s] = min(widest**2 / 0.18 + later, left)
            upper, lower, gap = new
        state, seen = 0, []
        for step in range(H):
            action = run.rng.choices(range(A), policy[step][state])[0]
            following = run.rng.choices(range(S), run.P[state][action])[0]
            seen.append((state, action, run.R[state][action], following))
            state = following
        run.count(seen)


def plain_choice(values: list[float], strength: float) -> tuple[float, list[float]]:
    """A soft choice with a uniform prior."""
    peak = max(values)
    weights = [math.exp((each - peak) / strength) / len(values) for each in values]
    total = sum(weights)
    return peak + strength * math.log(total), [each / total for each in weights]


def plain_soft(model: Any, rewards: Any, horizon: int, strength: float) -> None:
    """A soft plan with a uniform prior."""
    values = [0.0] * len(model)
    for _ in range(horizon):
        values = [
            plain_choice(
                [
                    reward + sum(p * v for p, v in zip(row, values, strict=True))
                    for reward, row in zip(rewards[s], model[s], strict=True)
                ],
                strength,
            )[0]
            for s in range(len(model))
        ]
