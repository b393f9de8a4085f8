"""One-step flow Q-learning: in the loops, and what its claims are measured with."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.control.behaviour_regularised import BehaviourRegularised
from fewer.control.loop import OffPolicy
from fewer.control.mean_flow import MeanFlow
from fewer.control.ofql import energy_distance, measure_cost, measure_pendulum, measure_ring, one_step_flow, ring
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive


def test_the_slots():
    filling = one_step_flow(eta=0.3, hidden=[8], flow_ratio=0.25, candidates=7, backup=10)
    assert filling["policy"] == BehaviourRegularised(MeanFlow((8,), 0.25), 0.3, candidates=7)
    assert filling["critic"].candidates == 10
    assert filling["sampler"].share == 1


@pytest.mark.parametrize("loop", ["offline", "off-policy(learning_starts=8)"])
def test_a_resumed_run_equals_an_uninterrupted_one(loop, tmp_path):
    small = loop.rstrip(")") + (", " if "(" in loop else "(") + "batch=8, episodes=2, points=4)"
    made = compose.loop(f"{small} + ofql(hidden=[8], candidates=3, slow_every=2, slow_from=3)")
    task = compose.task("dock-2d(demonstrations=4)")

    def numbers(points):
        return [(point.spent, point.score, point.extras.get("critic_loss")) for point in points]

    whole = numbers(made.run(task, 40, 2))
    run = made.run(task, 40, 2, checkpoint=tmp_path / "state")
    next(run)
    run.close()
    assert numbers(made.run(task, 40, 2, checkpoint=tmp_path / "state")) == whole


def test_online_it_mixes_what_it_does_with_what_was_done():
    from fewer.control.prior_data import Symmetric

    filling = one_step_flow(hidden=(8,), candidates=3) | {"sampler": Symmetric(share=0.5)}
    loop = OffPolicy(**filling, batch=8, learning_starts=5, episodes=2, points=1)
    with own_randomness(0, "start"):
        state = loop.start(task := compose.task("dock-2d(demonstrations=4)"), 60, 0)
        point = loop.advance(state)
        drawn = state.source.draw(8).actions
    assert (point.spent, point.extras["updates"]) == (60, 55)
    own = state.replay.take(torch.arange(60)).actions
    given = task.transitions(task.demonstrations(derive(0, "demonstrations"))).actions
    for rows, source in ((drawn[:4], own), (drawn[4:], given)):
        assert bool((rows[:, None] == source).all(-1).any(1).all())


# --- what the claims are measured with -----------------------------------------------------------


def test_the_energy_distance_is_zero_for_equal_distributions_and_grows():
    torch.manual_seed(0)
    one, two = torch.randn(2, 2000, 2)
    assert energy_distance(one, two) == pytest.approx(0, abs=0.01)
    gaps = [energy_distance(one, two + shift) for shift in (0.5, 1.0, 2.0)]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0.05
    # far apart it is twice the distance of the means, less what is within
    within = float(torch.cdist(one, one).sum() / (2000 * 1999)) + float(torch.cdist(two, two).sum() / (2000 * 1999))
    assert energy_distance(one, two + 1000.0) == pytest.approx(2 * 1000 * math.sqrt(2) - within, rel=1e-3)


def test_the_energy_distance_of_a_few_points_by_hand():
    one, two = torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 0.0], [3.0, 2.0]])
    between = (3 + 13**0.5 + 10**0.5 + 10**0.5) / 4
    # distances within a sample are those of its pairs, a point and itself being none
    assert energy_distance(one, two) == pytest.approx(2 * between - 1 - 2, abs=1e-5)


def test_the_ring_has_eight_places():
    points = ring(4000, np.random.default_rng(0))
    angles = np.arctan2(points[:, 1], points[:, 0]) / (np.pi / 4)
    assert np.abs(angles - angles.round()).mean() < 0.1
    assert np.bincount(angles.round().astype(int) % 8).min() > 400
    assert np.linalg.norm(points, axis=1).mean() == pytest.approx(0.7, abs=0.01)


def test_the_ring_is_measured_for_all_ways():
    measured = measure_ring(0, tiny=True)
    assert set(measured) == {"average velocity", "velocity", "velocity, 20 steps"}
    assert all(table["energy distance"] > 0 for table in measured.values())


def test_the_pendulum_is_measured_for_all_ways():
    measured = measure_pendulum(0, tiny=True)
    assert set(measured) == {"ofql", "dql", "dql, one step", "fbrac, one step", "bc-flow"}
    # nothing was learned in ten steps, and chance is 0
    assert all(-0.6 < table["share of the script"] < 0.9 for table in measured.values())
    assert measured["dql"] != measured["dql, one step"]


def test_costs_are_measured_for_both():
    measured = measure_cost(0, tiny=True)
    assert set(measured) == {"ofql", "dql"}
    for table in measured.values():
        assert set(table) == {"milliseconds of a step", "milliseconds of an action"}
        assert table["milliseconds of a step"] > table["milliseconds of an action"] > 0
