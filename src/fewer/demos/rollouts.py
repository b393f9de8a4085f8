"""Acting in an environment: many copies of it at once, one policy, and what comes of it.

A policy gives one action for each copy's observation; the copies are in step, and one whose episode is over is neither
asked nor counted any more.  The same seed gives the same starts and the same noise to every policy, so that policies can be
compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from fewer.core.errors import FewerError
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations, check_alike, parts, unparts


@dataclass(frozen=True)
class Step:
    """What came of one action in every copy.

    Parameters
    ----------
    observations : array (copies, ...), or a dict of arrays
        What is seen now.
    rewards : float array (copies,)
        What it paid.
    terminated, truncated : bool array (copies,)
        Whether the world ended the episode, or it was cut off.
    successes : bool array (copies,)
        Whether the task is done.
    """

    observations: Observations
    rewards: Float[np.ndarray, " copies"]
    terminated: Bool[np.ndarray, " copies"]
    truncated: Bool[np.ndarray, " copies"]
    successes: Bool[np.ndarray, " copies"]


class Play(Protocol):
    """Copies of an environment, each in an episode of its own.

    Attributes
    ----------
    copies : int
        How many.
    horizon : int
        The most steps of an episode; the environment cuts it off there.
    low, high : float array (*action)
        Bounds of actions.
    """

    copies: int
    horizon: int
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]

    def reset(self, seed: int) -> Observations:
        """Begin an episode in every copy; starts and all later noise follow from the seed."""
        ...

    def step(self, actions: Float[np.ndarray, "copies ..."]) -> Step:
        """Act once in every copy; what is done in copies whose episode is over does not matter."""
        ...


class Policy(Protocol):
    """Who acts."""

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """Forget the last episodes; whatever is random until the next call is drawn from ``rng``."""
        ...

    def act(self, observations: Observations) -> Float[np.ndarray, "copies ..."]:
        """One action for each copy."""
        ...


@dataclass(frozen=True)
class Outcome:
    """What came of an episode in every copy.

    Parameters
    ----------
    successes : bool array (episodes,)
        Which did what they should.
    returns : float array (episodes,)
        Sum of rewards.
    lengths : int array (episodes,)
        Steps.
    demonstrations : Demonstrations, optional
        All that happened, where it was asked for.
    """

    successes: Bool[np.ndarray, " episodes"]
    returns: Float[np.ndarray, " episodes"]
    lengths: Int[np.ndarray, " episodes"]
    demonstrations: Demonstrations | None = None


def rollout(
    play: Play, policy: Policy, seed: int, *, policy_noise: float = 0.0, record: bool = False, name: str = "rollouts"
) -> Outcome:
    """Act for one episode in every copy.

    Parameters
    ----------
    play : Play
        The environment.
    policy : Policy
        Who acts.
    seed : int
        Of starts, of the environment's noise and of the policy's.
    policy_noise : float, default 0
        Standard deviation of noise that is added to the actions, and recorded as part of them.
    record : bool, default False
        Whether to keep observations and actions.
    name : str
        Of what is recorded.

    Returns
    -------
    Outcome
    """
    rng = generator(seed, "policy")
    policy.begin(play.copies, rng)
    seen = play.reset(derive(seed, "environment"))
    over = np.zeros(play.copies, dtype=bool)
    lengths, returns, successes = np.zeros(play.copies, dtype=np.int64), np.zeros(play.copies), over.copy()
    terminated = over.copy()
    kept: list[tuple[Observations, np.ndarray, np.ndarray]] = []
    for _ in range(play.horizon):
        actions = np.asarray(policy.act(seen))
        if actions.shape[1:] != play.low.shape:
            raise FewerError(
                f"the policy's actions have shape {actions.shape[1:]} and the environment's {play.low.shape}; clone from "
                "demonstrations of this environment"
            )
        if policy_noise:
            actions = actions + policy_noise * rng.standard_normal(actions.shape)
        actions = np.clip(actions, play.low, play.high).astype(play.low.dtype)
        after = play.step(actions)
        live = ~over
        if record:
            kept.append((seen, actions, after.rewards))
        lengths += live
        returns += np.where(live, after.rewards, 0.0)
        successes |= live & after.successes
        terminated |= live & after.terminated
        over |= after.terminated | after.truncated
        seen = after.observations
        if over.all():
            break
    recorded = _recorded(kept, seen, lengths, successes, terminated, name) if record else None
    return Outcome(successes, returns, lengths, recorded)


@dataclass(frozen=True)
class Collection:
    """Demonstrations, and what was tried to get them.

    Parameters
    ----------
    demonstrations : Demonstrations
        Those that were kept.
    attempts : int
        Episodes that were tried until there were enough.
    """

    demonstrations: Demonstrations
    attempts: int

    @property
    def discarded(self) -> float:
        """Share of the attempts that were not kept because they failed: keeping successes only is a selection as well."""
        return 1 - len(self.demonstrations) / self.attempts


def collect(
    play: Play,
    expert: Policy,
    episodes: int,
    *,
    policy_noise: float = 0.0,
    only_success: bool = True,
    seed: int = 0,
    name: str = "demonstrations",
) -> Collection:
    """Let an expert demonstrate.

    Noise of the *system*, which is not in the recorded actions, is the environment's own (``system_noise`` of the worlds
    of this room); noise of the *policy* is added to the expert's actions and recorded in them.

    Parameters
    ----------
    play : Play
        The environment.
    expert : Policy
        Who knows the task.
    episodes : int
        How many to keep.
    policy_noise : float, default 0
        Standard deviation, in units of actions.
    only_success : bool, default True
        Keep successful episodes only, and go on until there are enough.
    seed : int, default 0
        Of everything random.
    name : str
        Of the demonstrations.

    Raises
    ------
    FewerError
        If fewer than one attempt in fifty succeeds.

    Examples
    --------
    >>> from fewer.demos.point_worlds import TwoGates
    >>> world = TwoGates(system_noise=0.4)
    >>> collected = collect(world.play(20), world.expert(), episodes=5)
    >>> len(collected.demonstrations), collected.attempts >= 5
    (5, True)
    """
    if episodes < 1 or not policy_noise >= 0:
        raise FewerError(
            f"collect: episodes must be at least 1 and noise not negative; they are {episodes} and {policy_noise}"
        )
    found: list[Demonstrations] = []
    have = attempts = rounds = 0
    while have < episodes:
        outcome = rollout(
            play, expert, derive(seed, "collect", rounds), policy_noise=policy_noise, record=True, name=name
        )
        assert outcome.demonstrations is not None
        good = np.flatnonzero(outcome.successes | (not only_success))[: episodes - have]
        have += len(good)
        # attempts after the last one that was needed were not needed
        attempts += int(good[-1]) + 1 if have == episodes else play.copies
        if len(good):
            found.append(outcome.demonstrations.keep(good))
        rounds += 1
        if have < episodes and have < attempts / 50 and attempts >= 200:
            raise FewerError(
                f"collect: the expert succeeded in {have} of {attempts} attempts; lower the noise, give a better expert, or "
                "keep failures with only_success=False"
            )
    return Collection(join(found, name), attempts)


def join(sets: Iterable[Demonstrations], name: str) -> Demonstrations:
    """Several sets of demonstrations of one kind as one; what not all have is left out.

    Examples
    --------
    >>> one = Demonstrations(np.zeros((5, 3)), np.ones((5, 2)), offsets=[0, 2, 5])
    >>> join([one, one], "both").offsets
    array([ 0,  2,  5,  7, 10])
    """
    sets = list(sets)
    for each in sets[1:]:
        check_alike(sets[0], each)
    steps = np.cumsum([0, *(each.steps for each in sets)])

    def all_of(field: str) -> Any:
        every = [getattr(each, field) for each in sets]
        if any(each is None for each in every):
            return None
        return unparts({key: np.concatenate([parts(each)[key] for each in every]) for key in parts(every[0])})

    return Demonstrations(
        all_of("observations"),
        all_of("actions"),
        np.concatenate([[0], *(each.offsets[1:] + begin for each, begin in zip(sets, steps, strict=False))]),
        all_of("final_observations"),
        all_of("rewards"),
        all_of("terminations"),
        all_of("truncations"),
        all_of("successes"),
        name,
    )


def _recorded(
    kept: list[tuple[Observations, np.ndarray, np.ndarray]],
    last: Observations,
    lengths: Int[np.ndarray, " copies"],
    successes: Bool[np.ndarray, " copies"],
    terminated: Bool[np.ndarray, " copies"],
    name: str,
) -> Demonstrations:
    """Cut what happened in all copies into episodes."""
    there = np.arange(len(kept)) < lengths[:, None]
    copies = np.arange(len(lengths))
    observations, final = {}, {}
    for key in parts(last):
        every = np.stack([*(parts(seen)[key] for seen, _, _ in kept), parts(last)[key]], axis=1)
        observations[key], final[key] = every[:, :-1][there], every[copies, lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ended = np.zeros(offsets[-1], dtype=bool)
    ended[offsets[1:] - 1] = terminated
    return Demonstrations(
        unparts(observations),
        np.stack([actions for _, actions, _ in kept], axis=1)[there],
        offsets,
        unparts(final),
        np.stack([rewards for _, _, rewards in kept], axis=1)[there].astype(np.float32),
        ended,
        None,
        successes.copy(),
        name,
    )
