"""A policy that thinks before it acts: the plan of a base policy, and the small change to it that imagination finds best.

    score of a changed plan = sum over t < H - 1 of g_t (R(f_t) - c std_t) + g_{H-1} (V(f_{H-1}) - c std_{H-1})
    g_0 = 1,    g_{t+1} = g_t gamma goes_on(f_t)

All changes of one plan are imagined with the same luck, so that their scores differ by what is done alone.
f_0 is the state that was followed so far, f_t what the world model imagines after t actions, V the mean of the values'
ensemble and std their deviation, which keeps the search where values are known.  Only the first action is carried out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Demonstrations, Observations, parts
from fewer.demos.imagined_values import ValueEnsemble
from fewer.demos.learned_reward import LearnedReward
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.plan_average import PlanAverage
from fewer.demos.residual_search import ResidualSearch
from fewer.demos.trajectory_replay import Trajectory, side_by_side
from fewer.demos.world_model import Latent, WorldModel, WorldModelShape


class BasePolicy(Protocol):
    """Who plans: anything that answers observations with chunks of actions.

    It may have ``begin(copies, rng)``, which is called where episodes begin, as is that of :class:`Policy`.
    """

    def plan(self, observations: Observations) -> Float[np.ndarray, "batch chunk ..."]:
        """The next actions for each observation, in the environment's units."""
        ...


class SearchModels(nn.Module):
    """What imagination consists of: a world model, a reward and values.

    Parameters
    ----------
    shape : WorldModelShape
        Of the world model.
    seen : ObservationTensors
        What is seen.
    action : int
        Numbers of an action.
    hidden : tuple of int
        Units of each hidden layer of reward and values.
    members : int
        Of the values' ensemble.
    """

    def __init__(
        self, shape: WorldModelShape, seen: ObservationTensors, action: int, hidden: tuple[int, ...], members: int
    ) -> None:
        super().__init__()
        self.world = WorldModel(shape, seen, action)
        self.reward = LearnedReward(shape.features, hidden)
        self.values = ValueEnsemble(shape.features, hidden, members)
        self.slow_values = copy.deepcopy(self.values).requires_grad_(False)


@dataclass(frozen=True)
class Imagination:
    """How plans are scored.

    Parameters
    ----------
    horizon : int, default 8
        States that are looked at: the one now, and those after one action less.
    gamma : float, default 0.99
        Discount.
    uncertainty : float, default 1
        What a unit of disagreement among the values costs.
    value : bool, default True
        Whether what follows after the last state is valued; else the reward alone counts, that of the last state as well.
    search : ResidualSearch, default ResidualSearch()
        How plans are changed.
    """

    horizon: int = 8
    gamma: float = 0.99
    uncertainty: float = 1.0
    value: bool = True
    search: ResidualSearch = field(default_factory=ResidualSearch)

    def __post_init__(self) -> None:
        if self.horizon < 2 or not 0 < self.gamma <= 1 or not self.uncertainty >= 0:
            raise FewerError(
                f"search: a horizon has at least 2 states, gamma lies in (0, 1] and uncertainty is not negative; they are "
                f"{self.horizon}, {self.gamma} and {self.uncertainty}"
            )

    def score(
        self,
        models: Any,
        state: Latent,
        chunks: Float[Tensor, "plans samples chunk action"],
        stream: torch.Generator | None = None,
    ) -> Float[Tensor, "plans samples"]:
        """How good plans are.

        Parameters
        ----------
        models : SearchModels
            With ``world``, ``reward`` and ``values``.
        state : Latent
            Where each plan begins, one a row.
        chunks : float tensor (plans, samples, chunk, action)
            Plans.
        stream : torch Generator, optional
            Where from the world model draws.
        """
        samples, last = chunks.shape[1], self.horizon - 1
        begin = Latent(*(each.repeat_interleave(samples, dim=0) for each in state))
        states = models.world.imagine_chunks(begin, chunks.flatten(0, 1)[:, :last], stream, samples)
        earned = models.reward(states)
        if self.uncertainty:
            values = models.values(states)
            # one member disagrees with nobody
            doubt = values.std(0) if len(values) > 1 else torch.zeros_like(earned)
            earned, final = earned - self.uncertainty * doubt, values[:, -1].mean(0) - self.uncertainty * doubt[-1]
        else:
            final = models.values(states[-1]).mean(0)
        if not self.value:
            final = earned[-1]
        discounts = (self.gamma * models.world.goes_on(states[:-1])).cumprod(0)
        total = earned[0] + (discounts[:-1] * earned[1:-1]).sum(0) + discounts[-1] * final
        return total.unflatten(0, (-1, samples))


class SearchPolicy:
    """Acts by search around a base policy.

    Parameters
    ----------
    base : BasePolicy
        Who plans.
    models : SearchModels
        What imagination consists of.
    imagination : Imagination
        How plans are scored and changed.
    action : tuple of int
        Shape of an action.
    low, high : float tensor (*action)
        Bounds of actions.
    average : bool, default True
        Whether what the base policy plans is the mean of all that it ever planned for a step; its own ``act`` is not asked.

    Attributes
    ----------
    plans : float tensor (copies, chunk, action)
        What the base policy planned for the last step and after it, in [-1, 1], averaged over time where that is wanted.
    fresh : float tensor (copies, chunk, action)
        What it planned at the last step alone.
    """

    def __init__(
        self,
        base: BasePolicy,
        models: SearchModels,
        imagination: Imagination,
        action: tuple[int, ...],
        low: Float[Tensor, "..."],
        high: Float[Tensor, "..."],
        average: bool = True,
    ) -> None:
        if not callable(getattr(base, "plan", None)):
            raise FewerError(
                f"sailor: searches around plans, and a {type(base).__name__} was given, which has no plan(observations); give "
                "diffusion-policy, bc-chunk, or any object that answers observations with chunks of actions"
            )
        self.base, self.models, self.imagination, self.average = base, models, imagination, average
        self.action, self.low, self.high = tuple(action), low.cpu().numpy(), high.cpu().numpy()
        self.begin(1, np.random.default_rng(0))

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        return self.models.world.centre.device

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """An episode begins: forget what was planned, seen and done."""
        if hasattr(self.base, "begin"):
            self.base.begin(copies, rng)  # pyright: ignore[reportAttributeAccessIssue]
        self.stream = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        self.state: Latent | None = None
        self.previous: Tensor | None = None
        self.averaged = PlanAverage() if self.average else None

    def choose(
        self, observations: Observations, *, search: bool = True, noise: float = 0.0
    ) -> Float[Tensor, "copies chunk action"]:
        """What is planned now, changes included, in [-1, 1]; the first action is taken as carried out.

        Parameters
        ----------
        observations : array (copies, ...), or a dict of arrays
            What is seen.
        search : bool, default True
            Whether the plan is changed.
        noise : float, default 0
            Standard deviation of noise on it.
        """
        with torch.inference_mode():
            self.plans = self._planned(observations)
            plans = self.plans
            if search:
                plans = (plans + self._change(observations, plans)).clamp(-1, 1)
            if noise:
                drawn = torch.randn(plans.shape, generator=self.stream, device=self.device)
                plans = (plans + noise * drawn).clamp(-1, 1)
            self.previous = plans[:, 0]
            return plans

    def act(self, observations: Observations) -> Float[np.ndarray, "batch ..."]:
        """The next action for each observation, in the environment's units; a single observation gets a single action."""
        seen = self.models.world.seen
        if seen.single(observations):
            one = {key: np.asarray(value)[None] for key, value in parts(observations).items()}
            return self.act(one.get("", one))[0]
        if self.previous is not None and len(self.previous) != len(next(iter(parts(observations).values()))):
            raise FewerError(
                "sailor: not as many observations as at the step before; call begin where an episode begins"
            )
        return self.unscaled(self.choose(observations)[:, 0])

    def follow(self, observations: Observations) -> Latent:
        """Take in what is seen, and what was done before."""
        count = len(next(iter(parts(observations).values())))
        numbers, images = self.models.world.seen(observations, self.device)
        first = torch.full((count,), self.state is None, device=self.device)
        done = (
            torch.zeros(count, int(np.prod(self.action)), device=self.device)
            if self.previous is None
            else self.previous
        )
        self.state = self.models.world.follow(self.state, done, numbers, images, first, self.stream)
        return self.state

    def judge(self, episodes: Demonstrations) -> Float[np.ndarray, " steps"]:
        """What the learned reward says of each state of some episodes."""
        self.begin(len(episodes), np.random.default_rng(0))
        every = [episodes.episode(i) for i in range(len(episodes))]
        found = np.zeros((int(episodes.lengths.max()), len(episodes)), dtype=np.float32)
        with torch.inference_mode():
            for t in range(len(found)):
                state = self.follow(side_by_side([each.observations for each in every], t))
                found[t] = self.models.reward(state.features).cpu().numpy()
                done = np.stack([each.actions[min(t, len(each) - 1)] for each in every])
                self.previous = self.scaled(done)
        return np.concatenate([found[:length, i] for i, length in enumerate(episodes.lengths)])

    def scaled(self, actions: np.ndarray) -> Float[Tensor, "... action"]:
        """Actions with their bounds at -1 and 1, flattened."""
        span = self.high - self.low
        scaled = (np.asarray(actions, dtype=np.float32) - self.low) * (2 / span) - 1
        lead = scaled.shape[: scaled.ndim - len(self.action)]
        return torch.from_numpy(np.ascontiguousarray(scaled.reshape(*lead, -1))).to(self.device)

    def unscaled(self, actions: Float[Tensor, "copies action"]) -> np.ndarray:
        """The inverse."""
        given = actions.cpu().numpy().reshape(-1, *self.action)
        return (self.low + (given + 1) * ((self.high - self.low) / 2)).astype(self.low.dtype)

    def _planned(self, observations: Observations) -> Float[Tensor, "copies chunk action"]:
        plan, least = np.asarray(self.base.plan(observations)), self.imagination.horizon - 1
        if plan.ndim != 2 + len(self.action) or plan.shape[2:] != self.action or plan.shape[1] < least:
            raise FewerError(
                f"sailor: the base policy must plan {least} actions of shape {self.action} or more for each observation; it "
                f"gave {plan.shape}"
            )
        if not np.isfinite(plan).all():
            raise FewerError("sailor: the base policy plans what is no number")
        self.fresh = self.scaled(plan).clamp(-1, 1)
        return self.fresh if self.averaged is None else self.scaled(self.averaged(plan)).clamp(-1, 1)

    def _change(self, observations: Observations, plans: Tensor) -> Float[Tensor, "copies chunk action"]:
        search = self.imagination.search
        if not search.bound:
            return torch.zeros_like(plans)
        state = self.follow(observations)
        return search.best(
            plans, lambda chunks: self.imagination.score(self.models, state, chunks, self.stream), self.stream
        )


def labelled(policy: SearchPolicy, demonstrations: Demonstrations, rng: np.random.Generator) -> list[Trajectory]:
    """Demonstrations with what the base policy would have done, all episodes side by side."""
    every = [demonstrations.episode(i) for i in range(len(demonstrations))]
    seen = []
    for each in every:
        given = dict(parts(each.observations))
        if each.final_observation is not None:
            last = parts(each.final_observation)
            given = {key: np.concatenate([array, last[key][None]]) for key, array in given.items()}
        seen.append(given)
    counts = [len(next(iter(each.values()))) for each in seen]
    policy.begin(len(every), rng)
    plans = []
    for t in range(max(counts)):
        policy.choose(side_by_side(seen, t), search=False)
        plans.append(policy.plans.cpu().numpy())
    stacked = np.stack(plans, axis=1)
    return [
        Trajectory(
            given,
            policy.scaled(each.actions[: count - 1]).cpu().numpy(),
            stacked[i, :count],
            each.terminated and each.final_observation is not None,
        )
        for i, (each, given, count) in enumerate(zip(every, seen, counts, strict=True))
    ]
