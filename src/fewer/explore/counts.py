"""What was seen of a finite world, counted: the empirical model of many runs at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from fewer.explore.loop import Account, Episode
from fewer.explore.trajectories import Trajectories


def begin(account: Account, by_step: bool = False) -> None:
    """Lay out empty counts in the memory of an account.

    Parameters
    ----------
    account : Account
        Whose.
    by_step : bool, default False
        Keep the steps of an episode apart, for worlds that change with the step.
    """
    steps = (account.horizon,) if by_step else ()
    shape = (account.runs, *steps, account.states, account.actions)
    account.memory |= {"next": np.zeros((*shape, account.states)), "reward": np.zeros(shape)}


def add(memory: dict[str, Any], episode: Episode) -> None:
    """Count an episode of every run."""
    following, reward = memory["next"], memory["reward"]
    runs, horizon = episode.actions.shape
    every = np.broadcast_to(np.arange(runs)[:, None], (runs, horizon))
    steps = (np.broadcast_to(np.arange(horizon), (runs, horizon)),) if following.ndim == 5 else ()
    place = (every, *steps, episode.states[:, :-1], episode.actions)
    np.add.at(following, (*place, episode.states[:, 1:]), 1)
    np.add.at(reward, place, episode.rewards)


def show(memory: dict[str, Any], shown: Trajectories) -> None:
    """Count what was shown, as if every run had played it itself."""
    following, reward = memory["next"], memory["reward"]
    full = (len(following), *shown.actions.shape[1:])
    states = np.broadcast_to(shown.states, (*full[:2], full[2] + 1))
    actions, rewards = np.broadcast_to(shown.actions, full), np.broadcast_to(shown.rewards, full)
    known = (actions >= 0) & (states[..., 1:] >= 0)
    run, _, step = np.nonzero(known)
    steps = (step,) if following.ndim == 5 else ()
    place = (run, *steps, states[..., :-1][known], actions[known])
    np.add.at(following, (*place, states[..., 1:][known]), 1)
    np.add.at(reward, place, rewards[known])


def visits(memory: dict[str, Any]) -> Float[np.ndarray, "runs *steps states actions"]:
    """How often each action was taken in each state."""
    return memory["next"].sum(axis=-1)


def model(
    memory: dict[str, Any], account: Account
) -> tuple[Float[np.ndarray, "runs *steps states actions states"], Float[np.ndarray, "runs *steps states actions"]]:
    """The empirical model: what was never tried goes anywhere alike, and pays the least there is.

    Where agents are told the rewards, those are taken.
    """
    times = visits(memory)
    often = np.maximum(times, 1)
    P = np.where(times[..., None] > 0, memory["next"] / often[..., None], 1 / account.states)
    if account.pays is not None:
        return P, np.broadcast_to(account.pays, times.shape)
    return P, np.where(times > 0, memory["reward"] / often, account.rewards[0])
