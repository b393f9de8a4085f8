"""What makes a policy of samples of groups: planning in the model of the groups, or Q-learning without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.explore.planning import policy_iteration

if TYPE_CHECKING:
    from fewer.explore.generative import Account, Samples


_TRUST = 10  # samples of a group that weigh as much as as many of one member


@dataclass(frozen=True)
class AveragedModel:
    """Average what each group did, plan in the model of the groups, and play a member of the best one.

    With every action a group of its own this is ordinary planning in the empirical model.

    Parameters
    ----------
    play : {"uniform", "representative", "best"}, default "uniform"
        Which member of a group: a uniform one, as the group was learned; always its first; or the one whose own samples
        look best, each shrunk towards its group as if by ten samples of it.  Only the first is what the model promises.
    """

    play: Literal["uniform", "representative", "best"] = "uniform"

    def __post_init__(self) -> None:
        if self.play not in ("uniform", "representative", "best"):
            raise FewerError(f"averaged-model: unknown play {self.play!r}; choose uniform, representative or best")

    def begin(self, account: Account) -> None:
        """Nothing was seen."""
        account.memory |= _empty(account, account.members.groups, "")
        if self.play == "best":
            account.memory |= _empty(account, account.actions, "member ")

    def learn(self, account: Account, samples: Samples) -> None:
        """Count."""
        groups = account.members.of(samples.states, samples.actions)
        _count(account.memory, "", groups, samples)
        if self.play == "best":
            _count(account.memory, "member ", samples.actions, samples)

    def policy(self, account: Account) -> Float[np.ndarray, "runs states actions"]:
        """Plan."""
        P, R = _model(account, "")
        there = account.members.size > 0
        values, of_groups = policy_iteration(P, np.where(there, R, -np.inf), account.gamma)
        chosen = of_groups.argmax(axis=-1)
        policy = account.members.play(chosen)
        if self.play == "uniform":
            return policy
        order = policy > 0
        if self.play == "representative":
            best = order.argmax(axis=-1)
        else:
            P, R = _model(account, "member ")
            own = R + account.gamma * (P @ values[:, None, :, None])[..., 0]
            times = account.memory["member next"].sum(axis=-1)
            group = of_groups.max(axis=-1, keepdims=True)
            best = np.where(order, (times * own + _TRUST * group) / (times + _TRUST), -np.inf).argmax(axis=-1)
        return np.eye(account.actions)[best]


@dataclass(frozen=True)
class GroupedQLearning:
    """Q-learning on groups: a value for each state and group, moved a step towards each sample; no model is kept.

    Parameters
    ----------
    rate : float, default 1
        The n-th sample of a state and group moves its value by the share ``1 / (1 + rate (1 - gamma) n)``.

    References
    ----------
    M. Wainwright, "Stochastic approximation with cone-contractive operators: Sharper l-infinity bounds for Q-learning",
    2019, arXiv:1905.06265.
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise FewerError(f"grouped-q-learning: rate must be above 0; {self.rate} was given")

    def begin(self, account: Account) -> None:
        """All values are those of the least reward."""
        shape = (account.runs, account.states, account.members.groups)
        least = account.rewards[0] / (1 - account.gamma)
        account.memory |= {"values": np.full(shape, least), "times": np.zeros(shape)}

    def learn(self, account: Account, samples: Samples) -> None:
        """Go through the samples in rounds, in each of which a state and group comes up once."""
        values, times = account.memory["values"], account.memory["times"]
        groups = account.members.of(samples.states, samples.actions)
        there = account.members.size > 0
        first = np.arange(account.runs)[:, None] * account.states
        place = ((first + samples.states) * account.members.groups + groups).ravel()
        following, rewards = (first + samples.next).ravel(), samples.rewards.ravel()
        flat_values, flat_times = values.reshape(-1), times.reshape(-1)  # views: what changes is the memory
        for chosen in in_rounds(place):
            at = place[chosen]
            state_values = np.where(there, values, -np.inf).max(axis=-1).ravel()
            number = flat_times[at] + 1
            target = rewards[chosen] + account.gamma * state_values[following[chosen]]
            share = 1 / (1 + self.rate * (1 - account.gamma) * number)
            flat_values[at] += share * (target - flat_values[at])
            flat_times[at] = number

    def policy(self, account: Account) -> Float[np.ndarray, "runs states actions"]:
        """A uniform member of the group of greatest value."""
        values = np.where(account.members.size > 0, account.memory["values"], -np.inf)
        return account.members.play(values.argmax(axis=-1))


def in_rounds(place: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " round"]]:
    """Split positions into rounds: the first of each place, then the second of each, and so on.

    Examples
    --------
    >>> [each.tolist() for each in in_rounds(np.array([7, 7, 3, 7, 3]))]
    [[2, 0], [4, 1], [3]]
    """
    if not len(place):
        return []
    order = np.argsort(place, kind="stable")
    first = np.flatnonzero(np.diff(place[order], prepend=-1))
    times = np.diff(first, append=len(place))
    rank = np.arange(len(place)) - np.repeat(first, times)
    if times.max() < 2**16:
        rank = rank.astype(np.uint16)  # which NumPy sorts in linear time
    return np.split(order[np.argsort(rank, kind="stable")], np.bincount(rank).cumsum()[:-1])


def _empty(account: Account, groups: int, prefix: str) -> dict[str, Any]:
    shape = (account.runs, account.states, groups)
    return {prefix + "next": np.zeros((*shape, account.states)), prefix + "reward": np.zeros(shape)}


def _count(memory: dict[str, Any], prefix: str, groups: Int[np.ndarray, "runs n"], samples: Samples) -> None:
    following, reward = memory[prefix + "next"], memory[prefix + "reward"]
    every = np.broadcast_to(np.arange(len(groups))[:, None], groups.shape)
    place = np.ravel_multi_index((every, samples.states, groups), reward.shape).ravel()
    reward += np.bincount(place, samples.rewards.ravel(), reward.size).reshape(reward.shape)
    place = place * following.shape[-1] + samples.next.ravel()
    following += np.bincount(place, minlength=following.size).reshape(following.shape)


def _model(
    account: Account, prefix: str
) -> tuple[Float[np.ndarray, "runs states groups states"], Float[np.ndarray, "runs states groups"]]:
    """What was seen on average: what was never tried goes anywhere alike, and pays the least there is."""
    following, reward = account.memory[prefix + "next"], account.memory[prefix + "reward"]
    times = following.sum(axis=-1)
    often = np.maximum(times, 1)
    P = np.where(times[..., None] > 0, following / often[..., None], 1 / account.states)
    return P, np.where(times > 0, reward / often, account.rewards[0])
