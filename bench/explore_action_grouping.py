"""Groups of actions: many runs at once against one run at a time in plain Python, and what the choice costs as actions grow."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from bench.measure import bandwidth, seconds
from fewer.explore import GenerativeLearning, select_grouping
from fewer.explore.group_learners import AveragedModel, GroupedQLearning
from fewer.explore.groupings import GivenGroups, halved
from fewer.explore.planning import policy_iteration
from fewer.explore.sampled_worlds import DiscountedMDP, grouped_actions


def run(quick: bool = False) -> dict[str, Any]:
    """Measure runs at once, the choice, and planning."""
    return {"title": "explore: groups of actions", "rows": [*learning(quick), *choosing(quick), *planning(quick)]}


def learning(quick: bool) -> list[dict[str, Any]]:
    """Samples a second of whole runs (sample, learn, plan, judge): all seeds as one array, against a loop over each."""
    copies, budget = (5, 320) if quick else (200, 2560)
    world, rows = grouped_actions(), []
    for name, learner, plain in (
        ("averaged model", AveragedModel(), plain_averaged_model),
        ("Q-learning", GroupedQLearning(), plain_q_learning),
    ):
        loop = GenerativeLearning(GivenGroups(), learner, copies=copies, points=1)
        ours = copies * budget / seconds(lambda loop=loop: loop.learn(world, budget), 3)
        theirs = budget / seconds(lambda plain=plain: plain(world, budget, 0), 1 if quick else 3)
        rows.append(
            {
                "what": f"{name} on 8 groups of 64 actions: {copies} runs of {budget:,} samples at once",
                "ours": ours,
                "peer": theirs,
                "peer_name": "plain Python, a run at a time",
                "unit": "samples/s",
                "ratio": ours / theirs,
                # a sample is four numbers of eight bytes, written once and read once
                "limit": bandwidth() / 64,
                "limit_is": "memory bandwidth, if each sample is written and read once",
            }
        )
    return rows


def choosing(quick: bool) -> list[dict[str, Any]]:
    """The choice among twelve groupings by 20,000 pilot samples, as there are more and more actions."""
    rng, rows = np.random.default_rng(0), []
    for actions in (4_096, 16_384, 65_536, 262_144, 1_048_576)[: 1 if quick else 5]:
        tried = rng.choice(actions, 2_000, replace=False)
        chosen = tried.repeat(10)
        states, following = rng.integers(10, size=20_000), rng.integers(10, size=20_000)
        rewards, family = rng.random(20_000), halved(actions, tuple(2**power for power in range(12)))
        for each in family:
            _ = each.shared  # of the groupings alone, and done once
        now = seconds(
            lambda data=(states, chosen, following, rewards), family=family: select_grouping(
                *data, family, samples=10**6, gamma=0.9
            ),
            1 if quick else 5,
        )
        row: dict[str, Any] = {
            "what": f"choosing among 12 groupings of {actions:,} actions",
            "ours": now * 1000,
            "unit": "ms",
        }
        if rows:
            row |= {"peer": rows[0]["ours"], "peer_name": "with 4,096 actions", "ratio": rows[0]["ours"] / row["ours"]}
        rows.append(row)
    return rows


def planning(quick: bool) -> list[dict[str, Any]]:
    """A plan over 8 groups against one over all actions, as there are more and more of them."""
    rows = []
    for actions in (64, 1_024, 16_384)[: 1 if quick else 3]:
        rng = np.random.default_rng(0)
        P, R = rng.dirichlet(np.ones(20), size=(1, 20, actions)), rng.random((1, 20, actions))
        grouped_P = P.reshape(1, 20, 8, -1, 20).mean(axis=3)
        grouped_R = R.reshape(1, 20, 8, -1).mean(axis=3)
        ours = seconds(lambda P=grouped_P, R=grouped_R: policy_iteration(P, R, 0.9), 5)
        theirs = seconds(lambda P=P, R=R: policy_iteration(P, R, 0.9), 1 if quick else 5)
        rows.append(
            {
                "what": f"a plan over 8 groups of {actions:,} actions, 20 states",
                "ours": ours * 1000,
                "peer": theirs * 1000,
                "peer_name": "over all actions",
                "unit": "ms",
                "ratio": theirs / ours,
            }
        )
    return rows


# --- the same in plain Python ----------------------------------------------------------------------------------------


def _samples(world: DiscountedMDP, budget: int, seed: int) -> Any:
    """Each pair of a state and a group in turn, a uniform member each time."""
    assert world.groups is not None
    rng, labels = random.Random(seed), world.groups.labels[0].tolist()
    members = [[a for a, label in enumerate(labels) if label == j] for j in range(world.groups.groups)]
    P, R = world.P.tolist(), world.R.tolist()
    pairs = [(s, j) for s in range(world.states) for j in range(len(members))]
    for i in range(budget):
        s, j = pairs[i % len(pairs)]
        a = rng.choice(members[j])
        yield s, j, rng.choices(range(world.states), P[s][a])[0], R[s][a] + rng.gauss(0, world.noise)


def plain_averaged_model(world: DiscountedMDP, budget: int, seed: int) -> list[int]:
    """Counts in nested lists, and value iteration until nothing changes by a millionth."""
    states, groups = range(world.states), range(world.groups.groups if world.groups else 0)
    times = [[[0] * world.states for _ in groups] for _ in states]
    paid = [[0.0] * len(groups) for _ in states]
    for s, j, following, reward in _samples(world, budget, seed):
        times[s][j][following] += 1
        paid[s][j] += reward
    model = [[[n / sum(row) for n in row] for row in of_groups] for of_groups in times]
    means = [[paid[s][j] / sum(times[s][j]) for j in groups] for s in states]
    values, change = [0.0] * world.states, 1.0
    while change > 1e-6:
        of_groups = [
            [means[s][j] + world.gamma * sum(p * v for p, v in zip(model[s][j], values, strict=True)) for j in groups]
            for s in states
        ]
        new = [max(each) for each in of_groups]
        change = max(abs(a - b) for a, b in zip(new, values, strict=True))
        values = new
    return [max(groups, key=of_groups[s].__getitem__) for s in states]


def plain_q_learning(world: DiscountedMDP, budget: int, seed: int) -> list[int]:
    """A step for each sample."""
    groups = range(world.groups.groups if world.groups else 0)
    values, times = [[0.0] * len(groups) for _ in range(world.states)], [[0] * len(groups) for _ in range(world.states)]
    for s, j, following, reward in _samples(world, budget, seed):
        times[s][j] += 1
        share = 1 / (1 + (1 - world.gamma) * times[s][j])
        values[s][j] += share * (reward + world.gamma * max(values[following]) - values[s][j])
    return [max(groups, key=each.__getitem__) for each in values]
