"""Exploration in finite worlds: many runs at once against one run at a time in plain Python, and lists of many items."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np

from bench.measure import bandwidth, seconds
from fewer.explore import PSRL, UCBVI, Exploration, QLearning, best_list
from fewer.explore.worlds import FiniteMDP, riverswim


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this room."""
    return {"title": "explore: episodes and lists", "rows": [*episodes(quick), *lists(quick)]}


def episodes(quick: bool) -> list[dict[str, Any]]:
    """Episodes a second of tabular agents: all seeds as one array, against a loop over seeds, steps and states."""
    world, copies, played = riverswim(6, horizon=20), 20 if quick else 1000, 10 if quick else 40
    rows = []
    for name, agent, plain in (
        ("UCB-VI", UCBVI(bonus="hoeffding", scale=0.05), plain_ucbvi),
        ("PSRL", PSRL(), plain_psrl),
        ("Q-learning", QLearning(0.1), plain_q_learning),
    ):
        loop = Exploration(agent, copies=copies, points=1)
        ours = copies * played / seconds(lambda loop=loop: loop.learn(world, played), 3)
        theirs = played / seconds(lambda plain=plain: plain(world, played, 0), 1 if quick else 3)
        rows.append(
            {
                "what": f"{name} on riverswim: {copies} seeds at once, planning before each episode",
                "ours": ours,
                "peer": theirs,
                "peer_name": "plain Python, a seed at a time",
                "unit": "episodes/s",
                "ratio": ours / theirs,
                # the model's counts are read for each of the horizon's steps of planning
                "limit": bandwidth() / (world.horizon * world.P.nbytes),
                "limit_is": "memory bandwidth, if the model is read once a planned step",
            }
        )
    return rows


def lists(quick: bool) -> list[dict[str, Any]]:
    """The best list of three, by dynamic programming and by trying every one."""
    rows, rng = [], np.random.default_rng(0)
    for items in (10, 30, 100, 1_000, 10_000)[: 2 if quick else 5]:
        u, w = rng.random(items), rng.random(items)
        ours = seconds(lambda u=u, w=w: best_list(u, w, 0.0, 3), 5)
        row: dict[str, Any] = {"what": f"best list of 3 of {items:,} items", "ours": ours * 1000, "unit": "ms"}
        if items <= 100:
            theirs = seconds(lambda u=u, w=w: plain_best_list(u.tolist(), w.tolist(), 3), 1)
            row |= {"peer": theirs * 1000, "peer_name": "trying every list", "ratio": theirs / ours}
        rows.append(row)
    return rows


# --- the same in plain Python ----------------------------------------------------------------------------------------


class _Run:
    """One run with counts in nested lists."""

    def __init__(self, world: FiniteMDP, seed: int) -> None:
        self.rng = random.Random(seed)
        self.S, self.A, self.H = world.states, world.actions, world.horizon
        self.P, self.R = world.P.tolist(), world.R.tolist()
        self.n = [[[0.0] * self.S for _ in range(self.A)] for _ in range(self.S)]
        self.r = [[0.0] * self.A for _ in range(self.S)]

    def play(self, policy: list[list[int]]) -> list[tuple[int, int, float, int]]:
        state, seen = 0, []
        for step in range(self.H):
            action = policy[step][state]
            following = self.rng.choices(range(self.S), self.P[state][action])[0]
            seen.append((state, action, self.R[state][action], following))
            state = following
        return seen

    def count(self, seen: list[tuple[int, int, float, int]]) -> None:
        for state, action, reward, following in seen:
            self.n[state][action][following] += 1
            self.r[state][action] += reward

    def plan(self, model: list[Any], rewards: list[list[float]], bonus: Any) -> list[list[int]]:
        values, policy = [0.0] * self.S, [[0] * self.S for _ in range(self.H)]
        for step in range(self.H - 1, -1, -1):
            new = []
            for state in range(self.S):
                of_actions = []
                for action in range(self.A):
                    mean = sum(p * v for p, v in zip(model[state][action], values, strict=True))
                    now = rewards[state][action] + mean + bonus(state, action, self.H - step)
                    of_actions.append(min(now, self.H - step))
                policy[step][state] = max(range(self.A), key=of_actions.__getitem__)
                new.append(max(of_actions))
            values = new
        return policy

    def means(self) -> tuple[list[Any], list[list[float]]]:
        model = [
            [[x / max(sum(row), 1) if sum(row) else 1 / self.S for x in row] for row in actions] for actions in self.n
        ]
        rewards = [[self.r[s][a] / max(sum(self.n[s][a]), 1) for a in range(self.A)] for s in range(self.S)]
        return model, rewards


def plain_ucbvi(world: FiniteMDP, episodes: int, seed: int) -> None:
    """UCB-VI with Hoeffding's bonus."""
    run = _Run(world, seed)
    log = 0.05 * np.log(5 * run.S * run.A * run.H * episodes / 0.05)

    def bonus(state: int, action: int, left: int) -> float:
        times = sum(run.n[state][action])
        return (left + 1) * (log / (2 * times)) ** 0.5 if times else left

    for _ in range(episodes):
        run.count(run.play(run.plan(*run.means(), bonus)))


def plain_psrl(world: FiniteMDP, episodes: int, seed: int) -> None:
    """Posterior sampling."""
    run = _Run(world, seed)
    for _ in range(episodes):
        model = []
        for actions in run.n:
            drawn = [[run.rng.gammavariate(x + 1 / run.S, 1) for x in row] for row in actions]
            model.append([[x / max(sum(row), 1e-300) for x in row] for row in drawn])
        rewards = [
            [
                min(
                    max(
                        (run.r[s][a] + 0.5) / (sum(run.n[s][a]) + 1)
                        + run.rng.gauss(0, 0.5 / (sum(run.n[s][a]) + 1) ** 0.5),
                        0,
                    ),
                    1,
                )
                for a in range(run.A)
            ]
            for s in range(run.S)
        ]
        run.count(run.play(run.plan(model, rewards, lambda *_: 0.0)))


def plain_q_learning(world: FiniteMDP, episodes: int, seed: int) -> None:
    """Q-learning, backwards through each episode."""
    run = _Run(world, seed)
    values = [[[0.0] * run.A for _ in range(run.S)] for _ in range(run.H + 1)]
    times = [[[0] * run.A for _ in range(run.S)] for _ in range(run.H)]
    for _ in range(episodes):
        policy = [
            [
                run.rng.randrange(run.A) if run.rng.random() < 0.1 else max(range(run.A), key=values[h][s].__getitem__)
                for s in range(run.S)
            ]
            for h in range(run.H)
        ]
        for step, (state, action, reward, following) in reversed(list(enumerate(run.play(policy)))):
            times[step][state][action] += 1
            rate = (run.H + 1) / (run.H + times[step][state][action])
            target = reward + max(values[step + 1][following])
            values[step][state][action] += rate * (target - values[step][state][action])


def plain_best_list(u: list[float], w: list[float], length: int) -> float:
    """The greatest value over all ordered lists."""
    best = 0.0
    for size in range(1, length + 1):
        for chosen in itertools.permutations(range(len(u)), size):
            value, unclicked = 0.0, 1.0
            for item in chosen:
                value += unclicked * u[item] * w[item]
                unclicked *= 1 - u[item]
            best = max(best, value)
    return best
