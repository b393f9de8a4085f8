"""Interventions that give a network back what it could learn: a fresh part beside what it knows, or a fresh start.

Plasticity injection adds to a network h two fresh copies that cancel each other, and trains only the first of them:

    h(x) + f(x; u) - f(x; u'),        u = u' at first, u' and h frozen.

What comes out is unchanged at that moment, and from then on is learned by a network that has lost nothing.  A reset keeps
the memory of transitions and draws the networks anew.

References
----------
Nikishin et al., "Deep Reinforcement Learning with Plasticity Injection", NeurIPS 2023, arXiv:2305.15555.
Nikishin et al., "The Primacy Bias in Deep Reinforcement Learning", ICML 2022, arXiv:2205.07802.
Ma, Li et al., "Revisiting Plasticity in Visual Reinforcement Learning", ICLR 2024, arXiv:2310.07418.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn

from fewer.control.policies import DeterministicActor, GaussianActor, adam
from fewer.core.errors import FewerError

if TYPE_CHECKING:
    from fewer.control.loop import Intervention, OffPolicyState

Part = Literal["critic", "actor", "both"]


def _check_part(what: str, part: str) -> None:
    if part not in get_args(Part):
        raise FewerError(f"{what}: part is {part!r}; choose {', '.join(map(repr, get_args(Part)))}")


# --- injection -----------------------------------------------------------------------------------


class Injected(nn.Module):
    """A network that is frozen, and what has been learned beside it since.

    Parameters
    ----------
    known : nn.Module
        The network; it is frozen.
    fresh, cancelling : nn.Module
        Two of the same kind; the first is trained, the second frozen.

    Examples
    --------
    >>> import torch
    >>> network, fresh = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> injected = Injected(network, fresh, copy.deepcopy(fresh))
    >>> x = torch.randn(5, 2)
    >>> torch.equal(injected(x), network(x)), sum(each.requires_grad for each in injected.parameters())
    (True, 2)
    """

    def __init__(self, known: nn.Module, fresh: nn.Module, cancelling: nn.Module) -> None:
        super().__init__()
        self.known = known.requires_grad_(False)
        self.fresh = fresh
        self.cancelling = cancelling.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """What is known, and what was learned since."""
        # the difference first: it is exactly zero until something is learned
        return self.known(x) + (self.fresh(x) - self.cancelling(x))


def inject(network: nn.Module, fresh: nn.Module) -> Injected:
    """Freeze a network and let a fresh one learn beside it; what comes out stays the same.

    Parameters
    ----------
    network : nn.Module
        What has lost its plasticity.
    fresh : nn.Module
        One that takes and gives the same shapes, newly drawn.
    """
    return Injected(network, fresh, copy.deepcopy(fresh))


def inject_slow(slow: nn.Module, injected: Injected) -> Injected:
    """The same for the slow copy of a network, with the same fresh parts."""
    made = Injected(slow, copy.deepcopy(injected.fresh), copy.deepcopy(injected.cancelling))
    return made.requires_grad_(False)


def inject_critic(state: OffPolicyState) -> None:
    """Inject into the critic of a run, and train the fresh part with an optimiser of its own."""
    drawn = state.loop.critic.build(state.task.observation_size, state.task.action_size).layers
    injected = inject(state.critic.layers, drawn)
    state.slow.layers = inject_slow(state.slow.layers, injected)  # pyright: ignore[reportAttributeAccessIssue]
    state.critic.layers = injected  # pyright: ignore[reportAttributeAccessIssue]
    trained = [each for each in state.critic.parameters() if each.requires_grad]
    state.critic_optimiser = adam(trained, state.critic_optimiser.param_groups[0]["lr"])


def inject_actor(state: OffPolicyState) -> None:
    """Inject into the policy of a run.

    Raises
    ------
    FewerError
        If it is neither the Gaussian nor the deterministic policy.
    """
    actor, drawn = state.actor, state.loop.policy.build(state.task.observation_size, state.task.action_size)
    if not isinstance(actor, GaussianActor | DeterministicActor):
        raise FewerError(
            f"plasticity injection: it knows the network of Gaussian and Deterministic policies, and this is a "
            f"{type(actor).__name__}; inject into part='critic'"
        )
    assert isinstance(drawn, GaussianActor | DeterministicActor)
    injected = inject(actor.net, drawn.net)
    if isinstance(actor, DeterministicActor):
        actor.slow = inject_slow(actor.slow, injected)  # pyright: ignore[reportAttributeAccessIssue]
    actor.net = injected  # pyright: ignore[reportAttributeAccessIssue]
    actor.train_what_requires_it()


@dataclass(frozen=True)
class PlasticityInjection:
    """At one moment of a run, freeze a network and learn on in a fresh one beside it.

    Parameters
    ----------
    at : int
        Environment steps after which it happens.
    part : {"critic", "actor", "both"}
        Where.

    Examples
    --------
    >>> PlasticityInjection(at=10_000)
    PlasticityInjection(at=10000, part='critic')
    """

    at: int
    part: Part = "critic"

    def __post_init__(self) -> None:
        _check_part("plasticity injection", self.part)
        if self.at < 0:
            raise FewerError(f"plasticity injection: at is the environment step; it is {self.at}, give 0 or more")

    def build(self, state: OffPolicyState) -> Intervention:
        """Make it."""
        return _Injecting(self, state)


class _Injecting:
    def __init__(self, settings: PlasticityInjection, state: OffPolicyState) -> None:
        self.settings, self.state = settings, state
        self.done = False

    def intervene(self) -> None:
        if not self.done and self.state.ledger.spent >= self.settings.at:
            self._inject()

    def _inject(self) -> None:
        if self.settings.part != "actor":
            inject_critic(self.state)
        if self.settings.part != "critic":
            inject_actor(self.state)
        self.done = True

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Networks get the shape that they had; what is in them is loaded after this."""
        if tree["done"] and not self.done:
            self._inject()


# --- reset ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PeriodicReset:
    """Draw networks anew every so many updates, and keep the memory of transitions.

    Parameters
    ----------
    every : int
        Steps of the critic from one reset to the next.
    part : {"critic", "actor", "both"}
        Which networks; slow copies follow theirs, optimisers forget.

    Examples
    --------
    >>> PeriodicReset(every=20_000)
    PeriodicReset(every=20000, part='both')
    """

    every: int
    part: Part = "both"

    def __post_init__(self) -> None:
        _check_part("periodic reset", self.part)
        if self.every < 1:
            raise FewerError(f"periodic reset: every is {self.every} updates; give 1 or more")

    def build(self, state: OffPolicyState) -> Intervention:
        """Make it."""
        return _Resetting(self, state)


class _Resetting:
    def __init__(self, settings: PeriodicReset, state: OffPolicyState) -> None:
        self.settings, self.state = settings, state

    def intervene(self) -> None:
        state = self.state
        if state.updates % self.settings.every:
            return
        sizes = state.task.observation_size, state.task.action_size
        if self.settings.part != "actor":
            drawn = state.loop.critic.build(*sizes).state_dict()
            state.critic.load_state_dict(drawn)
            state.slow.load_state_dict(drawn)
            state.critic_optimiser.state.clear()
        if self.settings.part != "critic":
            state.actor.begin_again(state.loop.policy.build(*sizes))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """When it resets depends on the count of updates alone."""
