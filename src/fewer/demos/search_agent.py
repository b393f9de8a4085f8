"""Who learned to search: made of demonstrations and a user's environment, kept in a file, and asked for actions."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations, Observations
from fewer.demos.diffusion_policy import DiffusionCloning, DiffusionPolicy
from fewer.demos.learned_search import LearnedSearch
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.residual_search import ResidualSearch
from fewer.demos.rollouts import Play
from fewer.demos.search_policy import BasePolicy, Imagination, SearchModels, SearchPolicy
from fewer.demos.world_model import WorldModelShape

KIND = "Sailor"

Environment = str | Callable[[int], Play] | Any
"""A Gymnasium environment or its id, or what makes copies of an environment of this room."""


class Sailor:
    """Learn to search around a cloned policy, by acting in an environment whose rewards are not looked at.

    Parameters
    ----------
    base : BasePolicy or DiffusionCloning, optional
        Who plans: anything with ``plan(observations)`` that gives a chunk of actions (batch, chunk, *action) in the
        environment's units for each observation, such as a vision-language-action model; or how a diffusion policy is cloned.  By
        default one of the paper's size.  Only a diffusion policy of this room is taught what was found.
    search : LearnedSearch, optional
        How the search is learned; by default as in the paper.
    low, high : float array (*action), optional
        Bounds of actions; by default those of the environment.
    seed : int, default 0
        Of everything random.

    Attributes
    ----------
    policy_ : SearchPolicy
        Who acts, by search.
    base_ : BasePolicy
        Who plans, as it was taught: it acts alone where search takes too long.
    report_ : dict of str to float
        What the losses came to.

    Examples
    --------
    >>> from fewer.demos.sailor import SMALL, SMALL_BASE
    >>> from fewer.demos.slot_world import slot_insertion
    >>> task = slot_insertion()
    >>> demonstrations = task.demonstrations(seed=0).keep(range(5))
    >>> quick = replace(SMALL, env_steps=100, round_steps=50, train_ratio=0.02)
    >>> sailor = Sailor(replace(SMALL_BASE, steps=5), search=quick).fit(demonstrations, task.play)
    >>> sailor.begin()
    >>> sailor.act(demonstrations.observations[0]).shape
    (2,)
    """

    policy_: SearchPolicy
    report_: dict[str, float]

    def __init__(
        self,
        base: BasePolicy | DiffusionCloning | None = None,
        *,
        search: LearnedSearch | None = None,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        seed: int = 0,
    ) -> None:
        self.base, self.search = base or DiffusionCloning(), search or LearnedSearch()
        self.low, self.high, self.seed = low, high, seed

    @property
    def base_(self) -> BasePolicy:
        """Who plans."""
        self._check_learned("plan")
        return self.policy_.base

    def fit(
        self,
        demonstrations: Demonstrations,
        env: Environment,
        env_steps: int | None = None,
        *,
        horizon: int | None = None,
    ) -> Sailor:
        """Clone, then learn to search.

        Parameters
        ----------
        demonstrations : Demonstrations
            Whatever :func:`fewer.demos.load` reads.
        env : str, gymnasium.Env, or callable
            The environment: its id, one that ``gymnasium.make`` made, or ``play(copies)`` that makes copies of it (see
            :class:`fewer.demos.rollouts.Play`).  Actions must be Box, observations Box or a Dict of Box, of which those parts
            are looked at that were demonstrated.
        env_steps : int, optional
            Steps to take in it; by default those of ``search``.
        horizon : int, optional
            The most steps of an episode, for a Gymnasium environment that does not say.

        Raises
        ------
        FewerError
            If the environment cannot be had, or the demonstrations are not of it.
        """
        play = _playing(env, horizon)
        first = play(1)
        low = first.low if self.low is None else self.low
        high = first.high if self.high is None else self.high
        _check_alike(demonstrations, first)
        base = self.base
        if isinstance(base, DiffusionCloning):
            base = base.fit(demonstrations, low, high, seed=derive(self.seed, "clone"))
        search = self.search if env_steps is None else replace(self.search, env_steps=env_steps)
        training = search.start(demonstrations, base, play, low=low, high=high, seed=derive(self.seed, "search"))
        training.run()
        self.policy_, self.report_ = training.policy, training.report
        return self

    def begin(self, copies: int = 1, rng: np.random.Generator | None = None) -> None:
        """An episode begins: forget what was planned, seen and done."""
        self._check_learned("begin")
        self.policy_.begin(copies, rng or generator(self.seed, "acting"))

    def act(self, observations: Observations) -> Float[np.ndarray, "..."]:
        """The next action for one observation, or for each of a batch, by search; call :meth:`begin` where an episode begins."""
        self._check_learned("act")
        return self.policy_.act(observations)

    def judge(self, episodes: Demonstrations) -> Float[np.ndarray, " steps"]:
        """What the learned reward says of each step of some episodes: low where an expert would not have been."""
        self._check_learned("judge")
        return self.policy_.judge(episodes)

    # --- keeping it --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file; a base policy that is no diffusion policy of this room is left out."""
        self._check_learned("save")
        policy = self.policy_
        base = policy.base.tree() if isinstance(policy.base, DiffusionPolicy) else None
        checkpoint.save(
            path,
            {
                "kind": KIND,
                "base": base,
                "search": asdict(self.search),
                "seen": [[key, shape] for key, shape in policy.models.world.seen.seen],
                "action": policy.action,
                "low": policy.low,
                "high": policy.high,
                "seed": self.seed,
                "weights": dict(policy.models.state_dict()),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], base: BasePolicy | None = None) -> Sailor:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        base : BasePolicy, optional
            Who plans, where that was left out.

        Raises
        ------
        FewerError
            If the file is something else, or a base policy is missing.
        """
        tree = checkpoint.load(path)
        if not isinstance(tree, dict) or tree.get("kind") != KIND:
            raise FewerError(f"{path} holds no sailor; give a file that Sailor.save wrote")
        if base is None and tree["base"] is None:
            raise FewerError(
                f"{path} was saved without its base policy, which is no diffusion policy; give it as base="
            )
        made = tree["search"]
        imagined = made["imagination"]
        imagination = Imagination(**{**imagined, "search": ResidualSearch(**imagined["search"])})
        search = LearnedSearch(**{**made, "world": WorldModelShape(**made["world"]), "imagination": imagination})
        seen = ObservationTensors(tuple((key, tuple(shape)) for key, shape in tree["seen"]))
        low, high, action = tree["low"], tree["high"], tuple(tree["action"])
        models = SearchModels(search.world, seen, max(1, low.size), search.hidden, search.members)
        models.load_state_dict(tree["weights"])
        base = DiffusionPolicy.of_tree(tree["base"]) if base is None else base
        learner = cls(base, search=search, low=low, high=high, seed=tree["seed"])
        bounds = torch.from_numpy(low), torch.from_numpy(high)
        learner.policy_ = SearchPolicy(base, models, imagination, action, *bounds, average=search.average)
        return learner

    def _check_learned(self, what: str) -> None:
        if not hasattr(self, "policy_"):
            raise FewerError(f"sailor: there is no policy to {what} with; call fit first")


def _playing(env: Environment, horizon: int | None) -> Callable[[int], Play]:
    if not isinstance(env, str) and not hasattr(env, "action_space"):
        return env
    from fewer.demos.gym_worlds import GymPlay

    made = env if isinstance(env, str) else getattr(env, "spec", None)
    if made is None:
        raise FewerError(
            f"sailor: copies of a {type(env).__name__} cannot be made; register it with gymnasium.register and give its id, or "
            "give play(copies)"
        )
    return lambda copies: GymPlay(made, copies, horizon=horizon)  # pyright: ignore[reportArgumentType]


def _check_alike(demonstrations: Demonstrations, play: Play) -> None:
    mine, shown = ObservationTensors.of(demonstrations.observations), ObservationTensors.of(play.reset(0))
    if not set(mine.seen) <= set(shown.seen):  # of a Dict, some parts may do
        told, wanted = (
            ", ".join(f"{key} {shape}".strip() for key, shape in each.seen) or "nothing" for each in (mine, shown)
        )
        raise FewerError(
            f"sailor: observations in {demonstrations.name} are {told}, those of the environment {wanted}; these are "
            "demonstrations of something else"
        )
