"""What each prefix of a chunk of demonstrated actions returned, and where its target looks ahead to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations

Reward = Literal["steps", "success", "recorded"]
REWARDS: tuple[Reward, ...] = ("steps", "success", "recorded")


@dataclass(frozen=True)
class ChunkReturns:
    """What follows from each step of demonstrations: returns of every prefix, and where they look ahead to.

    Parameters
    ----------
    rewards : float tensor (steps, h)
        Discounted sum of the first i rewards, up to the end of the episode.
    ahead : int tensor (steps, h)
        Which state follows the first i actions, counting the steps' observations and after them each episode's final one.
    discount : float tensor (steps, h)
        What the value of that state is multiplied by: gamma^i, or 0 where the world has ended the episode.
    valid : bool tensor (steps, h)
        False where the episode was cut off before, or where nobody knows what was seen then.
    to_go : float tensor (steps,)
        A lower bound of what can be earned from here: what was earned, to the end of the episode; minus infinity where it was
        cut off and more is not known.
    success : bool tensor (steps,)
        Whether the success is within the chunk.
    """

    rewards: Float[Tensor, "steps h"]
    ahead: Int[Tensor, "steps h"]
    discount: Float[Tensor, "steps h"]
    valid: Bool[Tensor, "steps h"]
    to_go: Float[Tensor, " steps"]
    success: Bool[Tensor, " steps"]


def chunk_returns(demonstrations: Demonstrations, chunk: int, gamma: float, reward: Reward = "steps") -> ChunkReturns:
    """Work out the returns of every prefix of every chunk.

    Parameters
    ----------
    demonstrations : Demonstrations
        With ``successes``, or rewards of their own.
    chunk : int
        Actions of a chunk.
    gamma : float
        Discount, in (0, 1].
    reward : {"steps", "success", "recorded"}
        Pay -1 for each step and 0 for the one that succeeds; or 1 for the success and 0 else; or what was recorded.  The first
        two end the episode at the success, and count a failure that ends it as if it had gone on unpaid for ever.

    Raises
    ------
    FewerError
        If the rewards are not known, or it is the success that pays and none of the demonstrations succeeded.

    Examples
    --------
    >>> toy = Demonstrations(np.zeros((3, 1)), np.zeros((3, 1)), offsets=[0, 3], successes=[True])
    >>> returns = chunk_returns(toy, chunk=2, gamma=0.5)
    >>> returns.rewards.tolist(), returns.discount.tolist()
    ([[-1.0, -1.5], [-1.0, -1.0], [0.0, 0.0]], [[0.5, 0.25], [0.5, 0.0], [0.0, 0.0]])
    """
    name, successes = demonstrations.name, demonstrations.successes
    last = demonstrations.offsets[1:] - 1
    if reward == "recorded":
        if demonstrations.rewards is None:
            raise FewerError(
                f"{name}: there are no recorded rewards; choose reward='steps' and say which episodes succeeded"
            )
    elif successes is None:
        raise FewerError(
            f"{name}: nothing says which episodes succeeded; give successes=, or choose reward='recorded' where rewards are"
        )
    elif not successes.any():
        raise FewerError(
            f"{name}: none of the {len(demonstrations)} episodes succeeded, so there is nothing to improve towards; imitate "
            "only, add one that did, or choose reward='recorded' where rewards are"
        )
    ended = demonstrations.terminations[last] if demonstrations.terminations is not None else np.zeros(len(last), bool)
    done = np.zeros(len(last), dtype=bool) if successes is None else successes
    if reward == "recorded":
        assert demonstrations.rewards is not None
        paid = demonstrations.rewards.astype(np.float64)
    else:
        paid = np.full(demonstrations.steps, -1.0 if reward == "steps" else 0.0)
        paid[last[done]] += 1.0
        if reward == "steps" and (ended & ~done).any():
            _finite(gamma, name)
            paid[last[ended & ~done]] = -1 / (1 - gamma)
        ended = ended | done
    cut = ~ended
    # --- each step, and each number of actions from there
    windows, episode = demonstrations.chunks(chunk), demonstrations.episode_of_step()
    powers = gamma ** np.arange(chunk + 1)
    rewards = np.cumsum(paid[windows.index] * windows.mask * powers[:-1], axis=1)
    after = np.arange(demonstrations.steps)[:, None] + np.arange(1, chunk + 1)
    end = (last + 1)[episode][:, None]
    known = demonstrations.final_observations is not None
    ahead = np.where(after < end, after, demonstrations.steps + episode[:, None] if known else end - 1)
    discount = np.where((after >= end) & ended[episode][:, None], 0.0, powers[1:])
    valid = (after < end) | ended[episode][:, None] | ((after == end) & known)
    to_go = replace(demonstrations, rewards=paid).returns(gamma)
    if cut.any():
        remaining = (last + 1)[episode] - np.arange(demonstrations.steps)
        if reward == "steps":
            # at worst, it goes on like this for ever
            _finite(gamma, name)
            to_go = to_go - cut[episode] * gamma**remaining / (1 - gamma)
        elif reward == "recorded":
            to_go = np.where(cut[episode], -np.inf, to_go)
    holds_success = done[episode] & (after[:, -1] >= end[:, 0])

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)

    return ChunkReturns(*map(tensor, (rewards, ahead, discount, valid, to_go, holds_success)))


def _finite(gamma: float, name: str) -> None:
    if gamma >= 1:
        raise FewerError(
            f"{name}: with gamma=1 an episode that failed or was cut off costs infinitely much; lower gamma, or leave it out"
        )
