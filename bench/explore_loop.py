"""Exploration without end: many runs at once against one run at a time in plain Python."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from bench.measure import bandwidth, seconds
from fewer.explore import LOOP, UCRL2, AverageReward
from fewer.explore.endless_worlds import EndlessMDP, labelled_river


def run(quick: bool = False) -> dict[str, Any]:
    """Steps a second of LOOP and UCRL2."""
    world = labelled_river(3 if quick else 6)
    known = world.solved
    rows = []
    for name, agent, plain, copies, ours_steps, plain_steps, limit, limit_is in (
        (
            f"LOOP on the labelled river, {len(known)} models",
            LOOP(),
            plain_loop,
            20,
            400,
            40,
            bandwidth() / (2 * 8 * len(known) ** 2),
            "memory bandwidth, if the losses are read and written once a step",
        ),
        (
            "UCRL2 on the labelled river",
            UCRL2(scale=0.001),
            plain_ucrl2,
            500,
            2000,
            2000,
            bandwidth() / (8 * 4),
            "memory bandwidth, if a step reads four numbers",
        ),
    ):
        copies, ours_steps, plain_steps = (5, 40, 10) if quick else (copies, ours_steps, plain_steps)
        loop = AverageReward(agent, copies=copies, points=1)
        ours = copies * ours_steps / seconds(lambda loop=loop, n=ours_steps: loop.learn(world, n), 3)
        theirs = plain_steps / seconds(lambda plain=plain, n=plain_steps: plain(world, n, 0), 1 if quick else 3)
        rows.append(
            {
                "what": f"{name}: {copies} seeds at once",
                "ours": ours,
                "peer": theirs,
                "peer_name": "plain Python, a seed at a time",
                "unit": "steps/s",
                "ratio": ours / theirs,
                "limit": limit,
                "limit_is": limit_is,
            }
        )
    return {"title": "loop: steps without end", "rows": rows}


# --- the same in plain Python ----------------------------------------------------------------------------------------


def plain_loop(world: EndlessMDP, steps: int, seed: int) -> None:
    """LOOP with its losses in nested lists; the models are solved beforehand, as they are for the other."""
    rng, known = random.Random(seed), world.solved
    K, S = len(known), world.states
    P, R, V = known.P.tolist(), known.R.tolist(), known.values.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    gain, policies = known.gain.tolist(), known.policies.tolist()
    beta = 0.004 * known.span**2 * math.log(K * steps / 0.05)
    losses = [[0.0] * K for _ in range(K)]
    truth, current, state = K - 1, -1, 0
    for _ in range(steps):
        if current < 0 or losses[current][current] - min(losses[current]) >= 4 * beta:
            allowed = [f for f in range(K) if losses[f][f] - min(losses[f]) <= beta] or list(range(K))
            current = max(allowed, key=gain.__getitem__)
        action = policies[current][state]
        reward = R[truth][state][action]
        following = rng.choices(range(S), P[truth][state][action])[0]
        for f in range(K):
            values, row = V[f], losses[f]
            seen = reward + values[following]
            for g in range(K):
                ahead = R[g][state][action] - seen
                for p, v in zip(P[g][state][action], values, strict=True):
                    ahead += p * v
                row[g] += ahead * ahead
        state = following


def plain_ucrl2(world: EndlessMDP, steps: int, seed: int, scale: float = 0.001, delta: float = 0.05) -> None:
    """UCRL2 with counts in nested lists."""
    rng, S, A = random.Random(seed), world.states, world.actions
    true, pays = world.P[-1].tolist(), world.R[-1].tolist()
    n = [[[0.0] * S for _ in range(A)] for _ in range(S)]
    got, times = [[0.0] * A for _ in range(S)], [[0] * A for _ in range(S)]
    before = [[0] * A for _ in range(S)]
    state, due, values, policy = 0, True, [0.0] * S, [0] * S
    for t in range(1, steps + 1):
        if due:
            due, before = False, [list(row) for row in times]
            while True:
                order = sorted(range(S), key=lambda s: -values[s])
                new = []
                for s in range(S):
                    q = []
                    for a in range(A):
                        often = max(times[s][a], 1)
                        wide = math.sqrt(14 * S * scale * math.log(2 * A * t / delta) / often)
                        p = [x / often for x in n[s][a]] if times[s][a] else [1 / S] * S
                        p[order[0]] = min(1.0, p[order[0]] + wide / 2)
                        excess = sum(p) - 1
                        for z in reversed(order):
                            if excess <= 0:
                                break
                            taken = min(excess, p[z])
                            p[z], excess = p[z] - taken, excess - taken
                        bonus = math.sqrt(7 * scale * math.log(2 * S * A * t / delta) / (2 * often))
                        mean = min(got[s][a] / often + bonus, 1.0) if times[s][a] else 1.0
                        q.append(mean + sum(x * v for x, v in zip(p, values, strict=True)))
                    policy[s] = int(np.argmax(q))
                    new.append(0.5 * max(q) + 0.5 * values[s])
                change = [x - v for x, v in zip(new, values, strict=True)]
                values = [x - min(new) for x in new]
                if max(change) - min(change) < 0.5 / math.sqrt(t):
                    break
        action = policy[state]
        following = rng.choices(range(S), true[state][action])[0]
        n[state][action][following] += 1
        got[state][action] += pays[state][action]
        times[state][action] += 1
        due = times[state][action] >= before[state][action] + max(1, before[state][action])
        state = following
