"""Rewards that nobody can state, learned from which of two episodes somebody likes better.

Episodes are played by the clone of the demonstrations and shown in pairs; the likelier one to be preferred is the one of
the greater return (Bradley and Terry)::

    P(first preferred) = 1 / (1 + exp(-sharpness * (return of first - return of second)))

The rewards that make the answers likeliest are found within their range; the log-likelihood is concave, and where the
answers say nothing the least rewards are taken.  Exploration then goes on with these rewards, regularised to the clone
(:mod:`fewer.explore.demo_regularized`): where the clone does not go, the learned rewards are not to be trusted, and going
there has its price.  No pessimism is needed.

References
----------
Daniil Tiapkin et al., "Demonstration-Regularized RL", ICLR 2024, arXiv:2310.17303.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.explore.cloning import clone_counts
from fewer.explore.trajectories import Trajectories, collect
from fewer.explore.worlds import Episodic, Play


def fit_rewards(
    first: Trajectories,
    second: Trajectories,
    preferred: Bool[np.ndarray, "runs pairs"],
    states: int,
    actions: int,
    rewards: tuple[float, float] = (0.0, 1.0),
    sharpness: float = 1.0,
    ridge: float = 1.0,
    steps: int = 2000,
) -> Float[np.ndarray, "runs states actions"]:
    """The rewards that make given preferences likeliest.

    Parameters
    ----------
    first, second : Trajectories
        The pairs: episodes of equal number.
    preferred : bool array (runs, pairs)
        True where the first one was preferred.
    states, actions : int
        Of the world.
    rewards : (float, float), default (0, 1)
        Within which range.
    sharpness : float, default 1
        How surely the greater return is preferred; positive.
    ridge : float, default 1
        Half of it times the squared distance from the least rewards is added to the negative log-likelihood; positive.
    steps : int, default 2000
        Most steps of accelerated projected gradient.

    Examples
    --------
    >>> def visits(state):
    ...     return Trajectories(np.full((1, 20, 2), state), np.zeros((1, 20, 1), int), np.zeros((1, 20, 1)))
    >>> fit_rewards(visits(0), visits(1), np.ones((1, 20), bool), states=3, actions=1)[0, :, 0].round(1)
    array([1., 0., 0.])
    """
    answers = np.asarray(preferred)
    if len(first) != len(second) or answers.shape[-1:] != (len(first),) or answers.dtype != bool:
        raise FewerError(
            f"preferences: {len(first)} and {len(second)} episodes were given with {answers.dtype} answers of shape "
            f"{answers.shape}; give pairs, and True or False for each"
        )
    if not len(first):
        raise FewerError("preferences: there is no pair to learn from; give at least one")
    low, high = rewards
    if not sharpness > 0 or not ridge > 0 or not high > low:
        raise FewerError(
            f"preferences: sharpness and ridge must be positive and rewards a range; given {sharpness}, {ridge} and {rewards}"
        )
    # the return of an episode is its visits times the rewards, whatever those are
    x = sharpness * (high - low) * (_visits(first, states, actions) - _visits(second, states, actions))
    sign = np.where(answers, 1.0, -1.0)
    # of the gradient: the greatest eigenvalue of the Hessian is at most this
    steepest = np.linalg.norm(x, ord=2, axis=(-2, -1)) ** 2 / 4 + ridge
    share = np.zeros((len(x), x.shape[-1]))  # of the range of rewards
    ahead, momentum = share, 1.0
    for _ in range(steps):
        doubt = expit(-sign * (x @ ahead[..., None])[..., 0]) * sign
        downhill = ridge * ahead - (x.mT @ doubt[..., None])[..., 0]
        new = np.clip(ahead - downhill / steepest[:, None], 0, 1)
        change = new - share
        faster = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / faster * change
        share, momentum = new, faster
        if np.abs(change).max() < 1e-7:
            break
    return low + (high - low) * share.reshape(-1, states, actions)


def ask(
    first: Trajectories, second: Trajectories, rng: np.random.Generator, sharpness: float = 1.0
) -> Bool[np.ndarray, "runs pairs"]:
    """Answers of somebody who knows the rewards, and errs more the closer two returns are."""
    apart = first.rewards.sum(axis=-1) - second.rewards.sum(axis=-1)
    return rng.random(apart.shape) < expit(sharpness * apart)


@dataclass(frozen=True, eq=False)
class TaughtRewards(Episodic):
    """A world whose agents are told other rewards than it pays; scores and regret stay its own.

    Parameters
    ----------
    world : Episodic
        Where they play.
    pays : float array (states, actions)
        What they are told.
    shown : Trajectories, optional
        What they are shown first.
    """

    world: Episodic
    pays: Float[np.ndarray, "states actions"]
    shown: Trajectories | None = None

    def __post_init__(self) -> None:
        for what in ("states", "actions", "horizon", "rewards", "features", "vectors", "levels", "players"):
            object.__setattr__(self, what, getattr(self.world, what))  # a frozen dataclass is filled in once, here
        object.__setattr__(self, "name", f"{self.world.name} with taught rewards")
        low, high = self.world.rewards
        shape = (self.world.states, self.world.actions)
        if self.pays.shape != shape or not ((low <= self.pays) & (self.pays <= high)).all():
            raise FewerError(
                f"{self.world.name}: taught rewards must be {shape} within [{low:g}, {high:g}]; they are {self.pays.shape}"
            )

    @property
    def optimum(self) -> float | None:
        """The world's own."""
        return self.world.optimum

    def value(self, policy: Float[np.ndarray, "runs horizon states actions"]) -> Float[np.ndarray, " runs"] | None:
        """The world's own."""
        return self.world.value(policy)

    def play(self, runs: int, rng: np.random.Generator) -> Play:
        """Copies of the world."""
        return self.world.play(runs, rng)

    def fingerprint(self) -> str:
        """Name the world and what is taught."""
        shown = () if self.shown is None else (self.shown.states, self.shown.actions)
        return fingerprint(self.world.fingerprint(), self.pays, *shown)


def from_preferences(
    world: Episodic, pairs: int, rng: np.random.Generator, sharpness: float = 1.0, pseudo_count: float | None = None
) -> TaughtRewards:
    """Clone the world's expert, play pairs with the clone, have them compared, and teach the rewards that follow.

    Parameters
    ----------
    world : Episodic
        With demonstrations; its rewards answer the questions and are not told.
    pairs : int
        How many questions.
    rng : numpy Generator
        Of the episodes and the answers.
    sharpness : float, default 1
        How surely the greater return is preferred.
    pseudo_count : float, optional
        Of the clone.

    Returns
    -------
    TaughtRewards
        The world with learned rewards and these demonstrations, to explore with
        :class:`~fewer.explore.DemoRegularized`.

    Examples
    --------
    >>> from fewer.explore.grid_worlds import slippery_grid
    >>> world = slippery_grid(side=3, horizon=6, demonstrations=20)
    >>> taught = from_preferences(world, pairs=200, rng=np.random.default_rng(0))
    >>> bool(taught.pays[-1].max() > taught.pays[:-1].max())  # the far corner pays
    True
    """
    shown = world.demonstrations(1, rng)
    if shown is None or not len(shown):
        raise FewerError(f"{world.name}: it shows no demonstrations to clone; give it some")
    prior = clone_counts(shown, world.states, world.actions, pseudo_count)
    first, second = (collect(world, prior, pairs, 1, rng) for _ in range(2))
    answers = ask(first, second, rng, sharpness)
    learned = fit_rewards(first, second, answers, world.states, world.actions, world.rewards, sharpness)
    return TaughtRewards(world, learned[0], shown)


def _visits(played: Trajectories, states: int, actions: int) -> Float[np.ndarray, "runs episodes pairs"]:
    counted = np.zeros((*played.actions.shape[:2], states * actions))
    run, episode, step = np.nonzero(played.played)
    place = (run, episode, step)
    np.add.at(counted, (run, episode, played.states[place] * actions + played.actions[place]), 1)
    return counted
