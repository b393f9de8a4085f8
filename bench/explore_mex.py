"""Maximize to explore: many runs at once against one run at a time, in plain Python and with automatic differentiation."""

from __future__ import annotations

import math
import random
from typing import Any

import torch

from bench.measure import bandwidth, seconds
from fewer.explore import LSVIUCB, MEX, Exploration, LinearMEX
from fewer.explore.linear_worlds import linear_river
from fewer.explore.worlds import FiniteMDP, riverswim


def run(quick: bool = False) -> dict[str, Any]:
    """Measure the tabular form against its peers, and the linear form against LSVI-UCB."""
    return {"title": "mex: episodes", "rows": [*tabular(quick), *linear(quick)]}


def tabular(quick: bool) -> list[dict[str, Any]]:
    """Episodes a second, each with thirty steps of Adam on the objective before it; ours looks for better optima besides."""
    world, copies, played = riverswim(6, horizon=20), 10 if quick else 200, 2 if quick else 10
    ours = copies * played / seconds(lambda: Exploration(MEX(), copies=copies, points=1).learn(world, played), 3)
    arrays = 8 * 4 * world.states * world.actions * (world.states + 1)  # logits, gradient and two moments
    limit = bandwidth() / (30 * (arrays + 2 * world.horizon * world.P.nbytes))
    rows = []
    for name, peer in (
        ("plain Python, a seed at a time", plain_mex),
        ("PyTorch autograd, a seed at a time", torch_mex),
    ):
        theirs = (1 if quick else 3) / seconds(lambda peer=peer: peer(world, 1 if quick else 3, 0), 1 if quick else 2)
        rows.append(
            {
                "what": f"MEX on riverswim: {copies} seeds at once, 30 steps of Adam an episode; ours has rivals besides",
                "ours": ours,
                "peer": theirs,
                "peer_name": name,
                "unit": "episodes/s",
                "ratio": ours / theirs,
                "limit": limit,
                "limit_is": "memory bandwidth, if logits and moments are read once a step and the model once a planned step",
            }
        )
    return rows


def linear(quick: bool) -> list[dict[str, Any]]:
    """What ten sweeps over the objective cost beside the single one of LSVI-UCB."""
    world, copies, played = linear_river(5, 8, 20), 5 if quick else 50, 2 if quick else 20
    taken = [
        copies
        * played
        / seconds(lambda agent=agent: Exploration(agent, copies=copies, points=1).learn(world, played), 3)
        for agent in (LinearMEX(), LSVIUCB())
    ]
    return [
        {
            "what": f"linear MEX on a river of 40 symbols: {copies} seeds at once, 10 sweeps before each episode",
            "ours": taken[0],
            "peer": taken[1],
            "peer_name": "LSVI-UCB here, one sweep",
            "unit": "episodes/s",
            "ratio": taken[0] / taken[1],
        }
    ]


# --- the same, one seed at a time ------------------------------------------------------------------------------------


def plain_mex(world: FiniteMDP, episodes: int, seed: int, steps: int = 30, lr: float = 0.1) -> None:
    """The agent in nested lists: backward induction, the derivative forwards, Adam number by number."""
    rng, S, A, H = random.Random(seed), world.states, world.actions, world.horizon
    true, pays = world.P.tolist(), world.R.tolist()
    size = S + 1
    theta = [[[0.0] * size for _ in range(A)] for _ in range(S)]
    mean = [[[0.0] * size for _ in range(A)] for _ in range(S)]
    square = [[[0.0] * size for _ in range(A)] for _ in range(S)]
    seen = [[[0.0] * S for _ in range(A)] for _ in range(S)]
    got = [[0.0] * A for _ in range(S)]
    taken = 0

    def model() -> tuple[list[Any], list[list[float]]]:
        P = []
        for s in range(S):
            P.append([])
            for a in range(A):
                e = [math.exp(x - max(theta[s][a][:S])) for x in theta[s][a][:S]]
                total = sum(e)
                P[s].append([x / total for x in e])
        return P, [[1 / (1 + math.exp(-theta[s][a][S])) for a in range(A)] for s in range(S)]

    def plan(P: list[Any], R: list[list[float]]) -> tuple[list[list[float]], list[list[int]]]:
        values, policy = [[0.0] * S for _ in range(H + 1)], [[0] * S for _ in range(H)]
        for h in range(H - 1, -1, -1):
            for s in range(S):
                q = [R[s][a] + sum(p * v for p, v in zip(P[s][a], values[h + 1], strict=True)) for a in range(A)]
                policy[h][s] = max(range(A), key=q.__getitem__)
                values[h][s] = max(q)
        return values, policy

    for _ in range(episodes):
        for _ in range(steps):
            P, R = model()
            values, policy = plan(P, R)
            by_P = [[[0.0] * S for _ in range(A)] for _ in range(S)]
            by_R = [[0.0] * A for _ in range(S)]
            at = [1.0] + [0.0] * (S - 1)
            for h in range(H):
                then = [0.0] * S
                for s in range(S):
                    a = policy[h][s]
                    by_R[s][a] += at[s]
                    for z in range(S):
                        by_P[s][a][z] += at[s] * values[h + 1][z]
                        then[z] += at[s] * P[s][a][z]
                at = then
            taken += 1
            for s in range(S):
                for a in range(A):
                    along = sum(p * g for p, g in zip(P[s][a], by_P[s][a], strict=True))
                    n, q = sum(seen[s][a]), R[s][a]
                    up = [P[s][a][z] * (by_P[s][a][z] - along) + seen[s][a][z] - n * P[s][a][z] for z in range(S)]
                    up.append(by_R[s][a] * q * (1 - q) + got[s][a] - n * q)
                    for z in range(size):
                        mean[s][a][z] = 0.9 * mean[s][a][z] + 0.1 * up[z]
                        square[s][a][z] = 0.999 * square[s][a][z] + 0.001 * up[z] ** 2
                        root = math.sqrt(square[s][a][z] / (1 - 0.999**taken)) + 1e-8
                        theta[s][a][z] += lr * mean[s][a][z] / (1 - 0.9**taken) / root
        _, policy = plan(*model())
        state = 0
        for h in range(H):
            action = policy[h][state]
            following = rng.choices(range(S), true[state][action])[0]
            seen[state][action][following] += 1
            got[state][action] += pays[state][action]
            state = following


def torch_mex(world: FiniteMDP, episodes: int, seed: int, steps: int = 30, lr: float = 0.1) -> None:
    """The agent as one writes it down first: tensors, automatic differentiation, torch's Adam."""
    rng, S, A = random.Random(seed), world.states, world.actions
    theta, rho = torch.zeros(S, A, S, requires_grad=True), torch.zeros(S, A, requires_grad=True)
    seen, got = torch.zeros(S, A, S), torch.zeros(S, A)
    optimiser = torch.optim.Adam([theta, rho], lr=lr, fused=True)

    def plan() -> tuple[torch.Tensor, list[list[int]]]:
        P, R, values, policy = theta.softmax(-1), rho.sigmoid(), torch.zeros(S), []
        for _ in range(world.horizon):
            values, best = (R + P @ values).max(-1)
            policy.insert(0, best)
        return values[0], torch.stack(policy).tolist()

    for _ in range(episodes):
        for _ in range(steps):
            optimiser.zero_grad()
            value, _ = plan()
            fit = (seen * theta.log_softmax(-1)).sum()
            fit = fit + (got * torch.nn.functional.logsigmoid(rho)).sum()
            fit = fit + ((seen.sum(-1) - got) * torch.nn.functional.logsigmoid(-rho)).sum()
            (-value - fit).backward()
            optimiser.step()
        with torch.no_grad():
            _, policy = plan()
        state = 0
        for h in range(world.horizon):
            action = policy[h][state]
            following = rng.choices(range(S), world.P[state, action].tolist())[0]
            seen[state, action, following] += 1
            got[state, action] += float(world.R[state, action])
            state = following
