"""What neighbours do, against plain loops and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from fewer.demos import neighbourhoods
from fewer.demos.neighbourhoods import between_episodes, in_cells, transition_spread, typical_radius, within


def cloud(seed=0, episodes=8, length=20):
    rng = np.random.default_rng(seed)
    states = np.cumsum(0.3 * rng.normal(size=(episodes, length, 2)), axis=1).reshape(-1, 2)
    return states, rng.normal(size=(len(states), 3)), np.repeat(np.arange(episodes), length)


def plainly(near, actions, episode, copies, leave_out):
    """Deviation, strangers, near and near across, one state at a time."""
    found = []
    for i in range(len(actions)):
        others = [j for j in range(len(actions)) if near[i, j] and (episode[j] != episode[i] if leave_out else j != i)]
        deviation = actions[i] - np.mean(actions[others], axis=0) if others else np.full(actions.shape[1], np.nan)
        strangers = sum(near[i, j] and episode[j] != episode[i] for j in range(len(actions)))
        weighted = sum(copies[episode[j]] for j in range(len(actions)) if near[i, j])
        across = sum(copies[episode[j]] - (episode[j] == episode[i]) for j in range(len(actions)) if near[i, j])
        found.append((deviation, strangers, weighted, across))
    return tuple(np.array(each) for each in zip(*found, strict=True))


@pytest.mark.parametrize("leave_out", [True, False])
@pytest.mark.parametrize("by", ["radius", "cells"])
def test_neighbours_are_those_of_a_plain_loop(leave_out, by):
    states, actions, episode = cloud()
    copies = np.array([1, 3, 1, 1, 2, 1, 1, 1])
    if by == "radius":
        near = ((states[:, None] - states[None]) ** 2).sum(axis=-1) <= 0.4**2
        found = within(0.4, states, actions, episode, copies, leave_out)
    else:
        cell = (np.floor(states) % 3).astype(int) @ [1, 3]
        near = cell[:, None] == cell
        found = in_cells(cell, actions, episode, copies, leave_out)
    expected = plainly(near, actions, episode, copies, leave_out)
    for mine, other in zip((found.deviation, found.strangers, found.near, found.near_across), expected, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-9)
    assert np.isnan(found.deviation).any() == np.isnan(expected[0]).any()


def test_the_radius_is_the_median_distance_to_neighbours_in_other_episodes():
    states, _, episode = cloud()
    every = np.sqrt(((states[:, None] - states[None]) ** 2).sum(axis=-1))
    every[episode[:, None] == episode] = np.inf
    assert typical_radius(states, episode, 20, 0) == pytest.approx(np.median(np.sort(every, axis=1)[:, 19]))
    assert np.isnan(typical_radius(states, np.zeros(len(states), int), 20, 0))
    assert typical_radius(states, episode, 10_000, 0) == pytest.approx(np.median(np.sort(every, axis=1)[:, 139]))


def test_a_part_of_the_states_is_enough_for_the_radius(monkeypatch):
    states, _, episode = cloud(episodes=40, length=50)
    whole = typical_radius(states, episode, 20, 0)
    monkeypatch.setattr(neighbourhoods, "QUERIES", 500)
    assert typical_radius(states, episode, 20, 0) == pytest.approx(whole, rel=0.1)


# --- between episodes ------------------------------------------------------------------------------------------------


def passing(level, noise, seed=0, episodes=400, length=25):
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes), length)
    actions = level * rng.normal(size=(episodes, 2))[episode] + noise * rng.normal(size=(len(episode), 2))
    cell = np.tile(np.arange(length) // 5, episodes)  # five steps in each of five cells
    return cell, actions, episode, np.flatnonzero(np.diff(episode) == 0)


@pytest.mark.parametrize(("level", "noise"), [(0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.5, 0.1)])
def test_levels_of_episodes_are_found_beneath_noise(level, noise):
    assert between_episodes(*passing(level, noise)) == pytest.approx(2 * level**2, rel=0.1, abs=0.03)


def test_between_is_unknown_without_a_second_episode_or_a_second_step():
    cell, actions, episode, follows = passing(1, 0, episodes=1)
    assert np.isnan(between_episodes(cell, actions, episode, follows))
    cell, actions, episode, follows = passing(1, 0, episodes=5)
    assert np.isnan(between_episodes(cell, actions, episode, follows[:0]))
    assert np.isnan(between_episodes(episode, actions, episode, follows))  # to each its own cell


# --- transitions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.4])
def test_noise_of_a_system_that_is_not_linear_is_recovered(sigma):
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(2, 6000, 2))
    change = 0.3 * np.tanh(state) + 0.2 * action * np.cos(state) + sigma * rng.normal(size=state.shape)
    found = transition_spread(state, action, change).mean(axis=0)
    np.testing.assert_allclose(found, sigma**2 + 0.002, rtol=0.15, atol=0.002)


def test_a_linear_system_has_no_spread():
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(2, 200, 2))
    assert transition_spread(state, action, state @ [[1, 2], [0, 1]] + action + 3).max() < 1e-20


def test_a_linear_model_is_not_asked_to_explain_few_transitions():
    rng = np.random.default_rng(0)
    means = [
        transition_spread(rng.normal(size=(24, 10)), rng.normal(size=(24, 3)), rng.normal(size=(24, 10))).mean()
        for _ in range(40)
    ]
    assert np.mean(means) == pytest.approx(1, rel=0.1)
