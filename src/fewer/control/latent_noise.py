"""Noise as the action: a frozen generative policy turns it into what the environment is told.

In the loop it is an action map; outside, a Gymnasium wrapper in which any agent can be trained.  Either way the action is
the initial noise of a policy that is deterministic given it, each number of it in [-b, b].

References
----------
Wagenmaker et al., "Steering Your Diffusion Policy with Latent Space Reinforcement Learning", 2025, arXiv:2506.15799.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from jaxtyping import Float, Float32
from torch import Tensor

from fewer.control.action_chunks import ActionChunks
from fewer.control.base_policies import Base, Given, Imitate, described
from fewer.control.environments import Environment, Step, Worlds
from fewer.control.generative_policies import GenerativePolicy, Generator
from fewer.control.loop import OffPolicyState
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive
from fewer.demos.demonstrations import Demonstrations


def check_magnitude(magnitude: float) -> None:
    """Refuse bounds of noise that bound nothing."""
    if not 0 < magnitude < float("inf"):
        raise FewerError(f"latent noise: its magnitude is {magnitude}; give a positive one, such as 1.5")


@dataclass(frozen=True)
class LatentNoise:
    """The loop's actions are noise for a base policy, which is cloned before the first step.

    It fills two slots: as action map it wraps the environment, as initialisation it clones.

    Parameters
    ----------
    imitate : Imitate
        The base policy, and how it is cloned.
    magnitude : float, default 1.5
        Bound of each number of the noise.
    chunk : int, default 1
        Actions of the base policy at once.
    """

    imitate: Imitate
    magnitude: float = 1.5
    chunk: int = 1

    def __post_init__(self) -> None:
        check_magnitude(self.magnitude)

    def wrap(self, environment: Environment) -> Environment:
        """Give the environment whose actions are noise."""
        inner = ActionChunks(self.chunk).wrap(environment) if self.chunk != 1 else environment
        return LatentEnvironment(inner, self.imitate.base, self.magnitude)

    def initialise(self, state: OffPolicyState) -> None:
        """Clone the base policy."""
        task = state.task
        if not isinstance(task, LatentEnvironment):
            raise FewerError("latent noise: it clones the base of its own action map; fill both slots with the same")
        self.imitate.hand(task.inner, state.seed, task)


class LatentEnvironment(Environment):
    """An environment whose actions are noise for a base policy.

    Parameters
    ----------
    inner : Environment
        What the base policy acts in.
    base : GenerativePolicy
        It; it begins with weights of chance, until it is given others.
    magnitude : float
        The noise is this times an action.
    """

    def __init__(self, inner: Environment, base: GenerativePolicy, magnitude: float) -> None:
        self.inner, self.magnitude, self.described = inner, magnitude, base
        self.name, self.metric, self.longest = inner.name, inner.metric, inner.longest
        self.observation_size, self.action_size = inner.observation_size, inner.action_size
        self.observed = inner.observed
        self.high = np.full(inner.action_size, float(magnitude))
        self.low = -self.high
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(0, "latent base"))
            self.base: Generator = base.build(inner.observation_size, inner.action_size)
        self.base.requires_grad_(False).eval()

    def take_base(self, trained: Generator) -> None:
        """Begin with these weights."""
        self.base.load_state_dict(trained.state_dict())

    def fingerprint(self) -> str:
        """By the inner one, the policy and the magnitude."""
        return fingerprint(self.inner.fingerprint(), repr(self.described), str(self.magnitude))

    def make(self, copies: int) -> Worlds:
        """Make copies."""
        return LatentWorlds(self, self.inner.make(copies))

    def demonstrations(self, seed: int) -> Demonstrations:
        """The inner one's, with actions that are no noise."""
        return self.inner.demonstrations(seed)

    def transitions(self, demonstrations: Demonstrations, discount: float | None = None) -> Batch:
        """There are none: nobody knows the noise of what was shown."""
        raise FewerError(
            f"{demonstrations.name}: its actions are no noise, so learning in noise space cannot use them; take dsrl, "
            "whose critic is of actions"
        )

    def random_actions(self, copies: int) -> Float[Tensor, "copies actions"]:
        """Noise as the base policy knows it, cut off at the bounds."""
        return (torch.randn(copies, self.action_size) / self.magnitude).clamp(-1, 1)


class LatentWorlds:
    """Copies in which noise is turned into an action by what was seen last.

    Parameters
    ----------
    environment : LatentEnvironment
        Has the policy.
    inner : Worlds
        Where its actions are carried out.
    """

    def __init__(self, environment: LatentEnvironment, inner: Worlds) -> None:
        self.environment, self.inner, self.copies = environment, inner, inner.copies
        self.seen = np.zeros((inner.copies, environment.observation_size), dtype=np.float32)

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Start episodes."""
        seen = self.inner.reset(seeds)
        self.seen = self.seen.copy()
        self.seen[list(seeds)] = seen
        return seen

    def step(self, actions: Float[np.ndarray, "copies actions"]) -> Step:
        """Turn noise into actions, and carry them out."""
        noise = torch.from_numpy(np.asarray(actions, dtype=np.float32).clip(-1, 1)) * self.environment.magnitude
        with torch.no_grad():
            made = self.environment.base.generate(torch.from_numpy(self.seen), noise).numpy()
        step = self.inner.step(made)
        self.seen = step.observations
        return step

    def close(self) -> None:
        """Free what they hold."""
        self.inner.close()


def latent_noise(
    base: Base = "flow",
    demos: str | None = None,
    magnitude: float = 1.5,
    chunk: int = 1,
    base_hidden: tuple[int, ...] | None = None,
    base_steps: int | None = None,
    updates: int = 10_000,
    batch: int = 256,
    lr: float = 3e-4,
) -> dict[str, Any]:
    """Fill the slots so that actions are noise of a frozen base policy.

    Parameters
    ----------
    base : {"flow", "diffusion", "mean-flow"}, GenerativePolicy or callable
        What turns noise into actions; one that is named or described is cloned from demonstrations first.
    demos : str, optional
        Where demonstrations are; by default the task's own.
    magnitude : float, default 1.5
        Bound of each number of the noise.
    chunk : int, default 1
        Actions of the base policy at once.
    base_hidden : tuple of int, optional
        Widths of its hidden layers.
    base_steps : int, optional
        From noise to an action.
    updates, batch, lr : int, int and float
        Of the cloning, see :class:`Imitate`.

    Examples
    --------
    >>> sorted(latent_noise())
    ['action_map', 'initialisation']
    """
    policy = described(base, hidden=base_hidden, steps=base_steps)
    made = LatentNoise(Imitate(policy, demos, updates, batch, lr), magnitude, chunk)
    return {"action_map": made, "initialisation": made}


@dataclass
class _Episode:
    observation: Any = None
    running: bool = field(default=False)


class LatentNoiseWrapper(gymnasium.Wrapper):
    """A Gymnasium environment whose action is the noise of a frozen policy, for any agent.

    An action is carried out as the whole chunk that the policy makes of it; the reward is the sum over the chunk, which ends
    early where the episode does.

    Parameters
    ----------
    env : gymnasium.Env
        With a Box of numbers as observations and bounded Box actions.
    policy : callable or Generator
        Observations (batch, observations) and noise (batch, chunk, actions) to actions (batch, chunk, actions), where [-1, 1]
        stands for the bounds of the environment's actions; with equal noise, equal actions.
    magnitude : float, default 1.5
        Bound of each number of the noise.
    chunk : int, default 1
        Actions that the policy makes at once.

    Raises
    ------
    FewerError
        If actions are unbounded, or the policy is of another shape or random given the noise.

    Examples
    --------
    >>> env = LatentNoiseWrapper(gymnasium.make("Pendulum-v1"), lambda seen, noise: noise.tanh(), chunk=4)
    >>> seen, _ = env.reset(seed=0)
    >>> env.action_space.shape, env.step(np.zeros(4, dtype=np.float32))[4]["steps"]
    ((4,), 4)
    """

    def __init__(
        self,
        env: gymnasium.Env,
        policy: Generator | Callable[[Tensor, Tensor], Tensor],
        magnitude: float = 1.5,
        chunk: int = 1,
    ) -> None:
        super().__init__(env)
        check_magnitude(magnitude)
        seen, done = env.observation_space, env.action_space
        if not isinstance(seen, Box) or not isinstance(done, Box):
            raise FewerError(
                f"latent noise: observations and actions must be a Box of numbers; they are {seen} and {done}; flatten "
                "observations with gymnasium.wrappers.FlattenObservation"
            )
        if not (np.isfinite(done.low).all() and np.isfinite(done.high).all()):
            raise FewerError(
                f"latent noise: the environment's actions are not bounded ({done}); wrap it in "
                "gymnasium.wrappers.RescaleAction or ClipAction with bounds that make sense"
            )
        count = int(np.prod(done.shape))
        given = described(policy) if isinstance(policy, Generator) else Given(policy, chunk)
        self._policy = given.build(int(np.prod(seen.shape)), chunk * count)
        self._chunk, self._count, self._done = chunk, count, done
        self._episode = _Episode()
        self.action_space = Box(-magnitude, magnitude, (chunk * count,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = _Episode(observation, True)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turn noise into a chunk, and carry it out; ``info["steps"]`` says how many steps it took."""
        if not self._episode.running:
            raise FewerError("latent noise: no episode is in progress; call reset() first")
        seen = np.asarray(self._episode.observation, dtype=np.float32).reshape(1, -1)
        noise = np.asarray(action, dtype=np.float32).reshape(1, -1)
        if noise.shape[1] != self._chunk * self._count:
            raise FewerError(
                f"latent noise: an action has {noise.shape[1]} numbers; {self._chunk * self._count} are needed, a chunk of "
                f"{self._chunk} actions"
            )
        with torch.no_grad():
            made = self._policy.generate(torch.from_numpy(seen), torch.from_numpy(noise)).numpy()
        gained, taken, ended, cut = 0.0, 0, False, False
        info: dict[str, Any] = {}
        low, high = self._done.low.ravel().astype(np.float64), self._done.high.ravel().astype(np.float64)
        for one in made.reshape(self._chunk, self._count):
            own = (low + (one + 1) / 2 * (high - low)).reshape(self._done.shape).astype(self._done.dtype)
            self._episode.observation, reward, ended, cut, info = self.env.step(own)
            gained, taken = gained + float(reward), taken + 1
            if ended or cut:
                self._episode.running = False
                break
        return self._episode.observation, gained, bool(ended), bool(cut), {**info, "steps": taken}
