"""Learning to search: act, learn from it what imagination consists of, act better, and teach what was found to the base policy.

First the base policy acts alone, with noise.  Then, round after round: demonstrations are labelled with what the base policy
would do there, the search acts, and world model, reward and values are trained on stretches of demonstrations and of what was
acted, half of each.  Now and then the search plans again along the latest episodes, and the base policy learns those plans.
No reward of the environment is ever looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive, generator, torch_generator
from fewer.demos.chunk_cloning import action_bounds
from fewer.demos.demonstrations import Demonstrations, Observations, parts, unparts
from fewer.demos.diffusion_policy import DiffusionPolicy
from fewer.demos.diffusion_training import ChunkData, DiffusionTraining
from fewer.demos.imagined_values import value_loss
from fewer.demos.learned_reward import moment_loss
from fewer.demos.learned_search import LearnedSearch
from fewer.demos.observation_tensors import ObservationTensors
from fewer.demos.rollouts import Play
from fewer.demos.search_policy import BasePolicy, SearchModels, SearchPolicy, labelled
from fewer.demos.trajectory_replay import Sequences, Trajectory, TrajectoryReplay, side_by_side
from fewer.demos.world_model import Latent
from fewer.models.moving_average import follow


class SearchTraining:
    """A training in progress.

    Attributes
    ----------
    policy : SearchPolicy
        Who acts.
    demonstrated, acted : TrajectoryReplay
        What was demonstrated, and what was acted so far.
    taken, updates, rounds : int
        Steps of the environment, updates and rounds so far.
    report : dict of str to float
        What the losses came to, at the last update.
    """

    def __init__(
        self,
        settings: LearnedSearch,
        demonstrations: Demonstrations,
        policy: BasePolicy,
        play: Callable[[int], Play],
        low: Float[Any, "..."] | None,
        high: Float[Any, "..."] | None,
        seed: int,
    ) -> None:
        self.settings, self.demonstrations, self.seed = settings, demonstrations, seed
        self.taken = self.updates = self.rounds = 0
        self.report: dict[str, float] = {}
        self._owed, self._given = 0.0, 0
        bounds, action = action_bounds(demonstrations, low, high), demonstrations.actions.shape[1:]
        self.play = play(settings.copies)
        if self.play.low.shape != action:
            raise FewerError(
                f"sailor: actions in {demonstrations.name} have shape {action}, those of the environment {self.play.low.shape}; "
                "these are demonstrations of something else"
            )
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.seen = ObservationTensors.of(demonstrations.observations)
        with own_randomness(seed, "search models"):
            models = SearchModels(
                settings.world, self.seen, max(1, demonstrations.actions[0].size), settings.hidden, settings.members
            ).to(where)
        centre, scale = self.seen.statistics(demonstrations.observations)
        models.world.centre.copy_(centre)
        models.world.scale.copy_(scale)
        base = copy.deepcopy(policy) if isinstance(policy, DiffusionPolicy) else policy
        self.policy = SearchPolicy(base, models, settings.imagination, action, *bounds, average=settings.average)
        self.models, self.device = models, where
        self.demonstrated, self.acted = (
            TrajectoryReplay(self.seen),
            TrajectoryReplay(self.seen, settings.capacity),
        )
        self.relabel()

        def adam(module: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
            return torch.optim.Adam(module.parameters(), lr=lr, eps=1e-8, fused=True)

        self.world_optimiser = adam(models.world, settings.world_lr)
        self.reward_optimiser = adam(models.reward, settings.reward_lr)
        self.value_optimiser = adam(models.values, settings.value_lr)
        self.stream = torch_generator(seed, "stretches")
        self.teaching: DiffusionTraining | None = None
        self.taught: list[tuple[Observations, np.ndarray]] = []

    # --- the whole ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Act and learn until the steps are used up."""
        settings = self.settings
        if settings.warm_up:
            self.train(self.collect(round(settings.warm_up * settings.env_steps), search=False))
        while self.taken < settings.env_steps:
            steps = self.round()
            if not steps:  # what is left is less than one step of all copies
                break

    def round(self) -> int:
        """One round of search, and what is learned from it; the steps that were taken."""
        settings = self.settings
        if self.rounds:
            self.relabel()
        steps = self.collect(min(settings.round_steps, settings.env_steps - self.taken))
        self.train(steps)
        self.rounds += 1
        due = settings.distil_every and self.rounds % settings.distil_every == 0
        if due and self.taken < 0.95 * settings.env_steps and isinstance(self.policy.base, DiffusionPolicy):
            self.distil()
        return steps

    def relabel(self) -> None:
        """Ask the base policy what it would have done in the demonstrations."""
        rng = generator(self.seed, "labels", self.rounds)
        self.demonstrated = TrajectoryReplay(self.seen)
        self.demonstrated.add(labelled(self.policy, self.demonstrations, rng))

    # --- acting ------------------------------------------------------------------------------------------------------

    def collect(self, steps: int, *, search: bool = True) -> int:
        """Act for so many steps or a little more, though never beyond the budget; give how many it were."""
        before = self.taken
        while self.taken - before < steps:
            found = self._episodes(search)
            if not found:
                break
            self.acted.add(found)
        return self.taken - before

    def _episodes(self, search: bool) -> list[Trajectory]:
        """One episode in every copy."""
        play, policy, name = self.play, self.policy, ("episodes", self._given)
        self._given += 1
        policy.begin(play.copies, generator(self.seed, "actions", *name))
        seen = play.reset(derive(self.seed, *name))
        over, lengths = np.zeros(play.copies, dtype=bool), np.zeros(play.copies, dtype=np.int64)
        terminated = over.copy()
        states, plans, actions = [seen], [], []
        noise = 0.0 if search else self.settings.warm_noise
        for _ in range(play.horizon):
            if over.all() or self.taken + (~over).sum() > self.settings.env_steps:
                break
            done = policy.choose(seen, search=search, noise=noise)[:, 0]
            plans.append(policy.plans.cpu().numpy())
            actions.append(done.cpu().numpy())
            after = play.step(policy.unscaled(done))
            self.taken += int((~over).sum())
            lengths += ~over
            terminated |= ~over & after.terminated
            over = over | after.terminated | after.truncated
            seen = after.observations
            states.append(seen)
        if not actions:
            return []
        policy.choose(seen, search=False)
        plans.append(policy.plans.cpu().numpy())
        every_plan, every_action = np.stack(plans, axis=1), np.stack(actions, axis=1)
        every = {key: np.stack([parts(each)[key] for each in states], axis=1) for key, _ in self.seen.seen}
        return [
            Trajectory(
                unparts({key: array[i, : n + 1] for key, array in every.items()}),
                every_action[i, :n],
                every_plan[i, : n + 1],
                bool(terminated[i]),
            )
            for i, n in enumerate(lengths)
        ]

    # --- learning ----------------------------------------------------------------------------------------------------

    def train(self, steps: int) -> None:
        """Make the updates that are due for so many steps.

        Raises
        ------
        Diverged
            If a loss becomes NaN.
        """
        self._owed += steps * self.settings.train_ratio
        count, losses = int(self._owed), {}
        self._owed -= count
        with own_randomness(self.seed, "search training", self.updates):
            for _ in range(count):
                losses |= self.update(self.draw())
        self.report |= {key: float(value) for key, value in losses.items()} | {"updates": float(self.updates)}
        for key, value in self.report.items():
            if not np.isfinite(value):
                raise Diverged(f"sailor: {key} became {value}; lower the learning rates")

    def draw(self) -> Sequences:
        """Stretches, the first half of them demonstrated."""
        half, length = self.settings.batch // 2, self.settings.length
        demonstrated = self.demonstrated.draw(half, length, self.stream, self.device)
        acted = self.acted.draw(self.settings.batch - half, length, self.stream, self.device)
        images = {key: torch.cat([demonstrated.images[key], acted.images[key]]) for key in demonstrated.images}
        joined = {
            name: torch.cat([getattr(demonstrated, name), getattr(acted, name)])
            for name in Sequences._fields
            if name != "images"
        }
        return Sequences(images=images, **joined)

    def update(self, batch: Sequences) -> dict[str, Tensor]:
        """One update of the world model and the values, and of the reward if it is due."""
        settings, models = self.settings, self.models
        loss, latent, losses = models.world.loss(batch)
        _step(self.world_optimiser, models.world, loss, 1000.0)
        self.updates += 1
        features = latent.features
        if self.updates % settings.reward_every == 0:
            half = settings.batch // 2
            demonstrated, acted = features[:half].flatten(0, 1), features[half:].flatten(0, 1)
            count = min(len(demonstrated), len(acted))
            chosen = torch.randperm(len(acted), device=self.device)[:count]
            reward_loss = moment_loss(
                models.reward, demonstrated[:count], acted[chosen], penalty=settings.penalty, slope=settings.slope
            )
            _step(self.reward_optimiser, models.reward, reward_loss, 1000.0)
            losses["reward loss"] = reward_loss.detach()
        value = self.value_loss(latent, batch.plans)
        _step(self.value_optimiser, models.values, value, 100.0)
        follow(models.slow_values, models.values, settings.slow)
        return losses | {"value loss": value.detach()}

    def value_loss(self, latent: Latent, plans: Float[Tensor, "batch length chunk action"]) -> Float[Tensor, ""]:
        """Imagine what the base policy would do from every state of the batch, and regress the values."""
        settings, models = self.settings, self.models
        with torch.no_grad():
            begin = Latent(latent.stoch.flatten(0, 1), latent.deter.flatten(0, 1))
            states = models.world.imagine_chunks(begin, plans.flatten(0, 1)[:, : settings.imagined])
            rewards = models.reward(states)
            discounts = settings.imagination.gamma * models.world.goes_on(states)
        return value_loss(models.values, models.slow_values, states, rewards, discounts, mix=settings.mix)

    # --- teaching the base policy ------------------------------------------------------------------------------------

    def distil(self) -> None:
        """Plan again along the latest episodes, and teach the base policy those plans beside the demonstrations."""
        policy, base = self.policy, self.policy.base
        assert isinstance(base, DiffusionPolicy)
        latest = self.acted.trajectories[-self.settings.distil_episodes :]
        policy.begin(len(latest), generator(self.seed, "distil", self.rounds))
        found = []
        for t in range(max(map(len, latest))):
            chosen = policy.choose(side_by_side([each.observations for each in latest], t))
            # the change is taught on what was planned now: averaged plans are late, and would be averaged once more
            found.append((policy.fresh + (chosen - policy.plans)).clamp(-1, 1).cpu().numpy())
            # what was done then leads to what was seen next
            done = np.stack([each.actions[min(t, len(each) - 1)] for each in latest])
            policy.previous = torch.from_numpy(done).to(self.device)
        plans = np.stack(found, axis=1)
        lengths = list(map(len, latest))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        seen = {
            key: np.concatenate([parts(each.observations)[key][:n] for each, n in zip(latest, lengths, strict=True)])
            for key in parts(latest[0].observations)
        }
        chunks = np.concatenate([plans[i, :n] for i, n in enumerate(lengths)])
        data = ChunkData(
            seen,
            np.repeat(offsets[:-1], lengths),
            torch.from_numpy(chunks).to(base.low.device),
            torch.ones(chunks.shape[:2], dtype=torch.bool, device=base.low.device),
        )
        if self.teaching is None:
            self.teaching = DiffusionTraining(
                base, self.demonstrations, derive(self.seed, "teaching"), base.settings.steps
            )
        self.teaching.advance(self.settings.distil_steps, data)


def _step(optimiser: torch.optim.Optimizer, module: torch.nn.Module, loss: Tensor, clip: float) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimiser.step()
