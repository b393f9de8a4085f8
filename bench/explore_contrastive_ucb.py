"""Contrastive UCB: networks of many runs and steps as one, plans without the whole model, equilibria as one program."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from bench.measure import bandwidth, seconds
from fewer.explore.contrastive_features import ContrastiveFeatures
from fewer.explore.contrastive_ucb import ContrastiveUCB
from fewer.explore.elliptic import EllipticBonus
from fewer.explore.loop import Exploration
from fewer.explore.low_rank_worlds import rich_lock
from fewer.explore.markov_games import coarse_correlated
from fewer.explore.planning import ahead


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    rows = [features(quick), episodes(quick), planning(quick), bonus(quick), equilibria(quick)]
    return {"title": "explore: contrastive UCB", "rows": rows}


def features(quick: bool) -> dict[str, Any]:
    """A gradient step of the networks of 10 runs of 6 steps, against one pair of networks after another."""
    members, steps = 6 if quick else 60, 2 if quick else 10
    x, y = torch.randn(500, members, 10), torch.randn(500, members, 10)
    a = torch.randint(4, (500, members))
    together = ContrastiveFeatures(10, 4, members=members)
    apart = [ContrastiveFeatures(10, 4) for _ in range(members)]
    ours = seconds(lambda: together.fit(x, a, y, steps=steps), 3) / steps * 1000

    def one_by_one() -> None:
        for index, each in enumerate(apart):
            each.fit(x[:, index], a[:, index], y[:, index], steps=steps)

    theirs = seconds(one_by_one, 1 if quick else 3) / steps * 1000
    # forward twice and backward twice that, for phi and psi of a batch of 256
    operations = members * 256 * 2 * 3 * (10 * 32 * 2 + 32 * 16 + 32 * 4)
    square = torch.randn(1024, 1024)
    limit = operations / (2 * 1024**3) * seconds(lambda: square @ square, 5) * 1000
    return {
        "what": f"a gradient step of {members} pairs of networks, 256 transitions each",
        "ours": ours,
        "peer": theirs,
        "peer_name": "one pair after another",
        "unit": "ms",
        "ratio": theirs / ours,
        "limit": limit,
        "limit_is": "the operations of the matrix products, as fast as in a product of 1,024 by 1,024",
    }


def episodes(quick: bool) -> dict[str, Any]:
    """Episodes a second of many seeds at once, against one seed at a time."""
    lock, copies, rounds = rich_lock(horizon=4, symbols=6), 2 if quick else 20, 10 if quick else 20
    agent, budget = ContrastiveUCB(refit=10, steps=20), 8 * rounds
    many, one = (Exploration(agent, copies=count, points=1) for count in (copies, 1))
    ours = copies * budget / seconds(lambda: many.learn(lock, budget), 1 if quick else 3)
    theirs = budget / seconds(lambda: one.learn(lock, budget), 1 if quick else 3)
    return {
        "what": f"{copies} seeds at once on {lock.name}",
        "ours": ours,
        "peer": theirs,
        "peer_name": "a seed at a time",
        "unit": "episodes/s",
        "ratio": ours / theirs,
    }


def planning(quick: bool) -> dict[str, Any]:
    """The expected next value of all pairs from the factors, against the whole model's."""
    states, actions, dimensions = 200 if quick else 3000, 4, 4
    rng = np.random.default_rng(0)
    phi, psi = rng.dirichlet(np.ones(dimensions), size=(states, actions)), rng.random((states, dimensions))
    values = rng.random((1, states))

    def factors() -> np.ndarray:
        return (phi @ (values[0] @ psi)) / (phi @ psi.sum(axis=0))

    model = phi.reshape(-1, dimensions) @ psi.T
    model = (model / model.sum(axis=1, keepdims=True)).reshape(1, states, actions, states)
    assert np.allclose(factors(), ahead(model, values)[0])
    ours, theirs = seconds(factors, 5) * 1000, seconds(lambda: ahead(model, values), 5) * 1000
    return {
        "what": f"the next value of {states * actions:,} pairs of {states:,} states, 4 dimensions",
        "ours": ours,
        "peer": theirs,
        "peer_name": "the model as one array",
        "unit": "ms",
        "ratio": theirs / ours,
        "limit": 2 * phi.nbytes / bandwidth() * 1000,
        "limit_is": "memory bandwidth, if the features are read twice",
    }


def bonus(quick: bool) -> dict[str, Any]:
    """An update by one feature of 51 dimensions, against inverting anew."""
    elliptic, gram = EllipticBonus(51), torch.eye(51, dtype=torch.float64)
    phi = torch.softmax(torch.randn(100, 51, dtype=torch.float64), dim=-1)

    def update() -> None:
        for each in phi:
            elliptic.update(each[None])

    def anew() -> None:
        nonlocal gram
        for each in phi:
            gram = gram + torch.outer(each, each)
            torch.linalg.inv(gram)

    ours, theirs = (seconds(each, 1 if quick else 5) * 10 for each in (update, anew))
    return {
        "what": "an update of the elliptic bonus by one feature of 51 dimensions",
        "ours": ours,
        "peer": theirs,
        "peer_name": "inverting anew",
        "unit": "ms",
        "ratio": theirs / ours,
    }


def equilibria(quick: bool) -> dict[str, Any]:
    """Coarse correlated equilibria of many games of 4 by 4 actions, against a program for each."""
    games = 10 if quick else 400
    upper = np.random.default_rng(0).random((games, 4, 4))
    lower = upper - 0.1

    def each() -> None:
        for high, low in zip(upper, lower, strict=True):
            leaves = (high[:, None, :] - high[None, :, :]).reshape(4, 16)
            avoids = np.stack([(low - low[:, b : b + 1]).reshape(-1) for b in range(4)])
            linprog(
                np.zeros(16), np.vstack([leaves, avoids]), np.zeros(8), np.ones((1, 16)), np.ones(1), method="highs"
            )

    ours = seconds(lambda: coarse_correlated(upper, lower), 1 if quick else 3) / games * 1000
    theirs = seconds(each, 1) / games * 1000
    return {
        "what": f"an equilibrium of {games} games of 4 by 4 actions at once",
        "ours": ours,
        "peer": theirs,
        "peer_name": "a linear program each",
        "unit": "ms",
        "ratio": theirs / ours,
    }
