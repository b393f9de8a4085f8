"""Learning to correct a policy without a world model: a residual policy and critics, paid by a learned reward.

The base policy plans as it was cloned; a network adds a bounded change to its first action, and is trained off-policy as TD3
is, on a reward that is learned by moment matching and sees states alone.  It acts for as many steps as a search would, and
needs no reward of the environment either.

References
----------
Scott Fujimoto, Herke van Hoof, David Meger, "Addressing Function Approximation Error in Actor-Critic Methods", ICML 2018,
arXiv:1802.09477.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive, generator, torch_generator
from fewer.demos.chunk_cloning import action_bounds
from fewer.demos.demonstrations import Demonstrations, Observations, parts
from fewer.demos.imagined_values import ValueEnsemble
from fewer.demos.learned_reward import LearnedReward, moment_loss
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.plan_average import PlanAverage
from fewer.demos.world_model import dense
from fewer.models.moving_average import follow

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson
    from fewer.demos.search_policy import BasePolicy


@dataclass(frozen=True)
class ResidualImitation:
    """Learn a bounded change to a cloned policy's actions, from states that are numbers.

    Parameters
    ----------
    env_steps : int, default 4000
        Steps of the environment, in all.
    warm_up : float, default 0.2
        Share of them in which the change is noise alone.
    copies : int, default 10
        Of the environment, side by side.
    train_ratio : float, default 1
        Updates for each step.
    bound, noise : float, default 0.2 and 0.1
        Of the change, and of exploration, where bounds of actions are -1 and 1.
    hidden : tuple of int, default (64, 64)
        Units of each hidden layer.
    batch : int, default 256
        Steps of an update.
    gamma, tau : float, default 0.97 and 0.01
        Discount, and share of the way that slow copies move.
    lr, reward_lr : float, default 3e-4 and 3e-4
        Of Adam.
    reward_every, delay : int, default 10 and 2
        Updates of the critics for each one of the reward and of the change.
    """

    env_steps: int = 4000
    warm_up: float = 0.2
    copies: int = 10
    train_ratio: float = 1.0
    bound: float = 0.2
    noise: float = 0.1
    hidden: tuple[int, ...] = (64, 64)
    batch: int = 256
    gamma: float = 0.97
    tau: float = 0.01
    lr: float = 3e-4
    reward_lr: float = 3e-4
    reward_every: int = 10
    delay: int = 2

    def __post_init__(self) -> None:
        counts = (self.env_steps, self.copies, self.batch, self.reward_every, self.delay)
        if min(counts) < 1 or not self.hidden or min(self.lr, self.reward_lr) <= 0:
            raise FewerError(f"residual-irl: counts and learning rates must be positive; given {self}")
        if not (
            0 <= self.warm_up <= 1 and 0 <= self.gamma <= 1 and 0 < self.tau <= 1 and self.bound >= 0 <= self.noise
        ):
            raise FewerError(
                f"residual-irl: warm_up, gamma and tau lie in [0, 1], bound and noise are not negative; given {self}"
            )

    def improve(self, lesson: Lesson, policy: BasePolicy) -> ResidualPolicy:
        """Fill the planner slot."""
        demonstrations, play = lesson.demonstrations, lesson.play(self.copies)
        bounds = action_bounds(demonstrations, lesson.low, lesson.high)
        with own_randomness(lesson.seed, "residual imitation"):
            made = ResidualPolicy(self, policy, demonstrations, *bounds)
            training = _Training(self, made, demonstrations, lesson.seed)
            taken = rounds = 0
            while taken < self.env_steps:
                warm = taken < self.warm_up * self.env_steps
                name = ("episodes", rounds)
                made.begin(play.copies, generator(lesson.seed, "actions", rounds))
                seen, over, before = play.reset(derive(lesson.seed, *name)), np.zeros(play.copies, dtype=bool), taken
                now = made.look(seen)
                for _ in range(play.horizon):
                    if over.all() or taken + (~over).sum() > self.env_steps:
                        break
                    change = made.change(now, self.noise, warm)
                    after = play.step(made.unscaled(now, change))
                    then = made.look(after.observations)
                    training.remember(now, change, then, after.terminated, ~over)
                    taken += int((~over).sum())
                    over, now = over | after.terminated | after.truncated, then
                if taken == before:
                    break
                rounds += 1
                training.advance(round((taken - before) * self.train_ratio))
        return made


class ResidualPolicy:
    """A base policy whose first action is changed by a network.

    Parameters
    ----------
    settings : ResidualImitation
        Shapes and bounds.
    base : BasePolicy
        Who plans.
    demonstrations : Demonstrations
        What observations are standardised by.
    low, high : float tensor (*action)
        Bounds of actions.
    """

    def __init__(
        self, settings: ResidualImitation, base: BasePolicy, demonstrations: Demonstrations, low: Tensor, high: Tensor
    ) -> None:
        if not callable(getattr(base, "plan", None)):
            raise FewerError(f"residual-irl: changes plans, and a {type(base).__name__} has no plan(observations)")
        self.settings, self.base, self.low, self.high = settings, base, low, high
        self.seen = ObservationTensors.of(demonstrations.observations)
        if self.seen.images:
            raise FewerError(
                f"residual-irl: observations must be numbers; {', '.join(self.seen.images) or 'they'} are images, which "
                "sailor(size='paper') takes"
            )
        self.centre, self.scale = self.seen.statistics(demonstrations.observations)
        count = low.numel()
        self.network = nn.Sequential(
            dense(self.seen.width + count, *settings.hidden), nn.Linear(settings.hidden[-1], count)
        )
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """An episode begins."""
        if hasattr(self.base, "begin"):
            self.base.begin(copies, rng)  # pyright: ignore[reportAttributeAccessIssue]
        self.averaged = PlanAverage()

    def look(self, observations: Observations) -> Float[Tensor, "copies features"]:
        """What is seen, standardised, and what the base policy would do, in [-1, 1]."""
        numbers, _ = self.seen(observations)
        plan = torch.from_numpy(self.averaged(np.asarray(self.base.plan(observations)))[:, 0]).float()
        planned = ((plan - self.low) * (2 / (self.high - self.low)) - 1).flatten(1).clamp(-1, 1)
        return torch.cat([(numbers - self.centre) / self.scale, planned], dim=1)

    def change(self, features: Tensor, noise: float = 0.0, blind: bool = False) -> Float[Tensor, "copies action"]:
        """What is added to the base policy's actions."""
        with torch.no_grad():
            change = self.settings.bound * self.network(features).tanh()
            change = torch.zeros_like(change) if blind else change
            return (change + noise * torch.randn_like(change)).clamp(-self.settings.bound, self.settings.bound)

    def unscaled(self, features: Tensor, change: Tensor) -> np.ndarray:
        """The changed action, in the environment's units."""
        done = (features[:, self.seen.width :] + change).clamp(-1, 1).reshape(-1, *self.low.shape)
        return (self.low + (done + 1) * ((self.high - self.low) / 2)).numpy()

    def act(self, observations: Observations) -> Float[np.ndarray, "batch ..."]:
        """The next action for each observation; a single observation gets a single action."""
        if self.seen.single(observations):
            one = {key: np.asarray(value)[None] for key, value in parts(observations).items()}
            return self.act(one.get("", one))[0]
        features = self.look(observations)
        return self.unscaled(features, self.change(features))


class _Training:
    """Memory, critics and reward of a residual policy."""

    def __init__(
        self, settings: ResidualImitation, policy: ResidualPolicy, demonstrations: Demonstrations, seed: int
    ) -> None:
        width, count = policy.seen.width, policy.low.numel()
        self.settings, self.policy, self.width = settings, policy, width
        table, _ = policy.seen(demonstrations.observations)
        self.demonstrated = (table - policy.centre) / policy.scale
        self.reward = LearnedReward(width, settings.hidden)
        self.critics = ValueEnsemble(width + 2 * count, settings.hidden, members=2)
        self.slow_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self.slow_network = copy.deepcopy(policy.network).requires_grad_(False)
        self.memory: list[tuple[Tensor, ...]] = []
        self.stream, self.updates = torch_generator(seed, "batches"), 0

        def adam(module: nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.Adam(module.parameters(), lr=lr, fused=True)

        self.critic_optimiser, self.reward_optimiser = (
            adam(self.critics, settings.lr),
            adam(self.reward, settings.reward_lr),
        )
        self.optimiser = adam(policy.network, settings.lr)

    def remember(self, now: Tensor, change: Tensor, then: Tensor, terminated: np.ndarray, live: np.ndarray) -> None:
        kept = torch.from_numpy(live)
        self.memory.append((now[kept], change[kept], then[kept], torch.from_numpy(~terminated[live]).float()))

    def advance(self, updates: int) -> None:
        settings, bound = self.settings, self.settings.bound
        now, change, then, goes_on = (torch.cat(each) for each in zip(*self.memory, strict=True))
        self.memory = [(now, change, then, goes_on)]
        loss = torch.zeros(())
        for _ in range(updates):
            rows = torch.randint(len(now), (settings.batch,), generator=self.stream)
            with torch.no_grad():
                following = then[rows]
                noise = (0.5 * bound * torch.randn_like(change[rows])).clamp(-bound, bound)
                added = (bound * self.slow_network(following).tanh() + noise).clamp(-bound, bound)
                value = self.slow_critics(torch.cat([following, added], dim=1)).amin(0)
                target = self.reward(now[rows, : self.width]) + settings.gamma * goes_on[rows] * value
            loss = (self.critics(torch.cat([now[rows], change[rows]], dim=1)) - target).square().mean(1).sum()
            self._step(self.critic_optimiser, loss)
            self.updates += 1
            if self.updates % settings.reward_every == 0:
                shown = torch.randint(len(self.demonstrated), (settings.batch,), generator=self.stream)
                self._step(
                    self.reward_optimiser,
                    moment_loss(self.reward, self.demonstrated[shown], now[rows, : self.width]),
                )
            if self.updates % settings.delay == 0:
                answered = bound * self.policy.network(now[rows]).tanh()
                value = self.critics(torch.cat([now[rows], answered], dim=1))[0]
                self._step(self.optimiser, -value.mean())
                follow(self.slow_network, self.policy.network, settings.tau)
                follow(self.slow_critics, self.critics, settings.tau)
        if not torch.isfinite(loss):
            raise Diverged(f"residual-irl: the critics' loss became {float(loss.detach())}; lower the learning rate")

    def _step(self, optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
