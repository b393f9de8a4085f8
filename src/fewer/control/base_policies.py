"""The policy that other methods steer or edit: one that is given, or one that is cloned from demonstrations first."""

from __future__ import annotations

import copy
import hashlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.environments import Environment
from fewer.control.generative_policies import Cloned, GenerativePolicy, Generator
from fewer.control.loop import FixedRatio, OffPolicyState
from fewer.control.policies import Actions, Actor, Observations
from fewer.control.prior_data import given_demonstrations
from fewer.control.replay import Batch
from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import derive

BASES = {
    "flow": "fewer.control.generative_policies:FlowMatching",
    "diffusion": "fewer.control.diffusion_policies:Diffusion",
    "mean-flow": "fewer.control.mean_flow:MeanFlow",
}
"""Generative policies by the names that a spec can say."""

Base = str | GenerativePolicy | Generator | Callable[[Tensor, Tensor], Tensor]
"""What a base policy may be given as: a name, a description, one that was trained, or a function of observations and noise."""

PROBED, NEAR = 8, 1e-5
"""How many actions of a given policy are asked for twice, and how much they may differ."""


@dataclass(frozen=True)
class Given:
    """A policy that is there already: any function of observations and noise.

    Parameters
    ----------
    generate : callable
        Observations (batch, observations) and noise (batch, length, actions) to actions (batch, length, actions) in [-1, 1];
        with equal noise, equal actions.
    length : int, default 1
        Actions of a chunk.
    name : str, default "given"
        Tells it from others.

    Examples
    --------
    >>> Given(lambda seen, noise: noise.tanh()).build(3, 2).generate(torch.zeros(5, 3), torch.zeros(5, 2)).shape
    torch.Size([5, 2])
    """

    generate: Callable[[Tensor, Tensor], Tensor] = field(repr=False)
    length: int = 1
    name: str = "given"

    def __post_init__(self) -> None:
        if not callable(self.generate) or self.length < 1:
            raise FewerError(
                "given policy: a function of observations and noise and a length of 1 or more are needed; given "
                f"{type(self.generate).__name__} and {self.length}"
            )

    def build(self, observations: int, actions: int) -> GivenGenerator:
        """Wrap it, after a look at what it gives.

        Raises
        ------
        FewerError
            If it gives other shapes, or other actions for equal noise.
        """
        if actions % self.length:
            raise FewerError(
                f"{self.name} policy: {actions} numbers of an action are no chunk of {self.length}; give the length that "
                "the chunks of the environment have"
            )
        made = GivenGenerator(self.generate, self.length)
        with torch.random.fork_rng(devices=[]):
            seen, noise = torch.randn(PROBED, observations), torch.randn(PROBED, self.length, actions // self.length)
            try:
                with torch.no_grad():
                    one, two = self.generate(seen, noise), self.generate(seen, noise)
            except (RuntimeError, ValueError, IndexError) as error:
                reason = " ".join(str(error).split())[:200]
                raise FewerError(
                    f"{self.name} policy: it fails with observations of shape {tuple(seen.shape)} and noise of shape "
                    f"{tuple(noise.shape)} ({reason}); give one of this environment and of this chunk length"
                ) from error
        if one.shape != noise.shape:
            raise FewerError(
                f"{self.name} policy: from noise of shape {tuple(noise.shape)} it makes actions of shape "
                f"{tuple(one.shape)}; both must be alike, so give the length of its chunks as length="
            )
        apart = float((one - two).abs().max())
        if not apart <= NEAR:
            raise FewerError(
                f"{self.name} policy: equal noise gave actions that differ by {apart:.2g}; sample it deterministically "
                "(DDIM with eta 0, or the flow's equation) and in evaluation mode"
            )
        return made


class GivenGenerator(Generator):
    """What :class:`Given` builds; its weights, if it has any, are not of this module.

    Parameters
    ----------
    function : callable
        As in :class:`Given`.
    length : int
        Actions of a chunk.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], length: int) -> None:
        super().__init__()
        # in a tuple, so that the weights of a module stay its owner's
        self._held, self.length = (function,), length

    def generate(self, observations: Observations, noise: Actions) -> Actions:
        """Ask it."""
        made = self._held[0](observations, noise.reshape(len(noise), self.length, -1))
        return made.reshape(len(noise), -1).clamp(-1, 1)

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """It cannot be trained."""
        raise FewerError("a given policy is a black box and is not trained; describe one, such as FlowMatching()")


def digest(module: nn.Module) -> str:
    """SHA-256 of all weights, with their names.

    Examples
    --------
    >>> digest(nn.ReLU())[:8]
    'e3b0c442'
    """
    seen = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        seen.update(name.encode() + value.numpy().tobytes())
    return seen.hexdigest()


@dataclass(frozen=True)
class Pretrained:
    """A generative policy of this library that was trained elsewhere; a run works with a copy of it.

    Parameters
    ----------
    generator : Generator
        It.
    """

    generator: Generator = field(repr=False)
    weights: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", digest(self.generator))

    def build(self, observations: int, actions: int) -> Generator:
        """Copy it.

        Raises
        ------
        FewerError
            If it is of other sizes.
        """
        made = copy.deepcopy(self.generator).requires_grad_(True)
        # through the same eyes as a stranger's
        Given(_by_chunks(made), name="pretrained").build(observations, actions)
        return made


def _by_chunks(generator: Generator) -> Callable[[Tensor, Tensor], Tensor]:
    def generate(observations: Tensor, noise: Tensor) -> Tensor:
        return generator.generate(observations, noise.flatten(1)).reshape(noise.shape)

    return generate


def described(base: Base, **settings: Any) -> GenerativePolicy:
    """Find out what is meant by a base policy.

    Parameters
    ----------
    base : str, GenerativePolicy, Generator or callable
        A name among :data:`BASES`, a description, a trained policy, or a function as in :class:`Given`.
    **settings
        For one that is named.

    Raises
    ------
    FewerError
        For an unknown name, or settings for one that is described already.

    Examples
    --------
    >>> described("flow", steps=4)
    FlowMatching(hidden=(256, 256, 256), steps=4)
    """
    chosen = {name: value for name, value in settings.items() if value is not None}
    if isinstance(base, str):
        if base not in BASES:
            raise FewerError(f"base policy: unknown name {base!r}; {nearest(base, BASES)}")
        module, _, name = BASES[base].partition(":")
        try:
            return getattr(importlib.import_module(module), name)(**chosen)
        except TypeError:
            raise FewerError(
                f"base policy: {base} does not take {' and '.join(chosen)}; describe it yourself"
            ) from None
    if chosen:
        raise FewerError(f"base policy: {', '.join(chosen)} is for one that is named; put it into {base!r} itself")
    if isinstance(base, Generator):
        return Pretrained(base)
    return base if hasattr(base, "build") else Given(base)  # pyright: ignore[reportArgumentType, reportReturnType]


def left_out(ratio: int | None, **others: Any) -> dict[str, Any]:
    """Fillings of these slots, without those that are None."""
    filled = others | {"ratio": None if ratio is None else FixedRatio(ratio)}
    return {slot: filling for slot, filling in filled.items() if filling is not None}


class AroundBase(Protocol):
    """What has a base policy inside."""

    def take_base(self, trained: Generator) -> None:
        """Begin with these weights."""
        ...


@dataclass(frozen=True)
class Imitate:
    """Before the first step, clone the base policy from demonstrations; all runs with the same seed share it.

    Parameters
    ----------
    base : GenerativePolicy
        What is cloned; one that is given or trained already is left as it is.
    demos : str, optional
        Where demonstrations are; by default the task's own.
    updates : int, default 10,000
        Gradient steps; with 0 it begins with random weights.
    batch : int, default 256
        Pairs of each.
    lr : float, default 3e-4
        Of Adam, falling to nothing.
    """

    base: GenerativePolicy
    demos: str | None = None
    updates: int = 10_000
    batch: int = 256
    lr: float = 3e-4

    def __post_init__(self) -> None:
        if self.updates < 0:
            raise FewerError(f"imitate: updates is 0 or more; it is {self.updates}")
        if self.updates:
            self.cloned()

    def cloned(self) -> Cloned:
        """How it is trained."""
        return Cloned(self.base, self.updates, self.batch, self.lr)

    def initialise(self, state: OffPolicyState) -> None:
        """Clone, and hand the weights to the policy."""
        around: Any = state.actor
        if not hasattr(around, "take_base"):
            raise FewerError(
                f"imitate: {type(around).__name__} has no base policy inside; fill the slot policy with one that has"
            )
        self.hand(state.task, state.seed, around)

    def hand(self, environment: Environment, seed: int, around: AroundBase) -> None:
        """Clone from the environment's demonstrations, and hand the weights on."""
        if self.updates and not isinstance(self.base, Given | Pretrained):
            shown = environment.transitions(given_demonstrations(environment, self.demos, seed))
            around.take_base(self.cloned().train(environment, shown, derive(seed, "base")))


@dataclass(frozen=True)
class BaseAlone:
    """The base policy as it is, with noise of a standard Gaussian.

    Parameters
    ----------
    base : GenerativePolicy
        It.
    """

    base: GenerativePolicy

    def build(self, observations: int, actions: int) -> BaseActor:
        """Make it."""
        return BaseActor(self.base.build(observations, actions), actions)


class BaseActor(Actor):
    """What :class:`BaseAlone` builds.

    Parameters
    ----------
    base : Generator
        The policy.
    actions : int
        Numbers in an action.
    """

    def __init__(self, base: Generator, actions: int) -> None:
        super().__init__()
        self.base, self.actions = base.requires_grad_(False), actions
        # nothing is learned, and a run saves some optimiser of every policy
        self.optimiser = torch.optim.SGD([torch.zeros((), requires_grad=True)], lr=0.0)

    def take_base(self, trained: Generator) -> None:
        """Begin with these weights."""
        self.base.load_state_dict(trained.state_dict())

    def act(self, observations: Observations, deterministic: bool = False) -> Actions:
        """Draw."""
        return self.base.draw(observations, torch.randn(len(observations), self.actions))

    def successor(self, observations: Observations) -> tuple[Actions, float]:
        """Draw."""
        return self.act(observations), 0.0

    def improve(self, batch: Batch, value: Any) -> dict[str, Tensor]:
        """Learn nothing."""
        return {}


def base_policy(
    base: Base = "flow",
    demos: str | None = None,
    hidden: tuple[int, ...] | None = None,
    steps: int | None = None,
    updates: int = 10_000,
    batch: int = 256,
    lr: float = 3e-4,
) -> dict[str, Any]:
    """Fill the slots with a cloned policy that learns nothing more.

    Parameters
    ----------
    base : {"flow", "diffusion", "mean-flow"} or GenerativePolicy
        What is cloned.
    demos : str, optional
        Where demonstrations are; by default the task's own.
    hidden : tuple of int, optional
        Widths of its hidden layers.
    steps : int, optional
        From noise to an action.
    updates, batch, lr : int, int and float
        Of the cloning, see :class:`Imitate`.

    Examples
    --------
    >>> sorted(base_policy())
    ['initialisation', 'policy', 'ratio', 'start_with']
    """
    policy = described(base, hidden=hidden, steps=steps)
    return {
        "policy": BaseAlone(policy),
        "initialisation": Imitate(policy, demos, updates, batch, lr),
        "ratio": FixedRatio(0),
        "start_with": "policy",
    }
