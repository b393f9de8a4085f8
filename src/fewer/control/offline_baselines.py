"""Learning from data alone, as it was done before: imitation with a little value, and chains that are learned through.

References
----------
Fujimoto and Gu, "A Minimalist Approach to Offline Reinforcement Learning", NeurIPS 2021, arXiv:2106.06860.
Wang, Hunt and Zhou, "Diffusion Policies as an Expressive Policy Class for Offline Reinforcement Learning", ICLR 2023,
arXiv:2208.06193.
Park, Li and Levine, "Flow Q-Learning", ICML 2025, arXiv:2502.02538.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewer.control.behaviour_regularised import BehaviourRegularised
from fewer.control.critics import Critics
from fewer.control.denoising_chain import DenoisingChain
from fewer.control.generative_policies import FlowMatching, GenerativePolicy
from fewer.control.mean_flow import MeanFlow
from fewer.control.policies import Deterministic, DeterministicActor, Value, step
from fewer.control.prior_data import Symmetric
from fewer.control.replay import Batch
from fewer.core.errors import FewerError
from fewer.models.moving_average import follow


def regularised(
    generator: GenerativePolicy,
    demos: str | None,
    eta: float,
    lr: float,
    candidates: int,
    hidden: tuple[int, ...],
    clip: float | None,
    tau: float,
    slow_every: int,
    slow_from: int,
    backup: int = 1,
    shortcut: bool = False,
) -> dict[str, Any]:
    """Fill the slots with a generative policy that imitates and is drawn towards value; arguments as those of :func:`dql`."""
    return {
        "policy": BehaviourRegularised(generator, eta, lr, candidates, clip, tau, slow_every, slow_from, shortcut),
        "critic": Critics(hidden=tuple(hidden), lr=lr, tau=tau, activation="mish", candidates=backup),
        "sampler": Symmetric(demos, share=1.0),
    }


def dql(
    demos: str | None = None,
    eta: float = 1.0,
    hidden: tuple[int, ...] = (256, 256, 256),
    steps: int = 5,
    acting_steps: int | None = None,
    candidates: int = 50,
    lr: float = 3e-4,
    clip: float | None = None,
    tau: float = 0.005,
    slow_every: int = 5,
    slow_from: int = 1000,
) -> dict[str, Any]:
    """Fill the slots with diffusion Q-learning: a chain of denoising steps, learned through from its end.

    Parameters
    ----------
    demos : str, optional
        The data; by default the task's own.
    eta : float, default 1
        Weight of the value.
    hidden : tuple of int, default (256, 256, 256)
        Widths of all networks.
    steps : int, default 5
        Of the chain.
    acting_steps : int, optional
        Act in so many steps without chance, whatever it was trained with.
    candidates : int, default 50
        Actions that the best known one is chosen from.
    lr : float, default 3e-4
        Of Adam, everywhere.
    clip : float, optional
        Bound of the norm of the policy's gradient.
    tau : float, default 0.005
        Speed of the slow networks.
    slow_every, slow_from : int, default 5 and 1000
        Steps of the policy from one move of its slow copy to the next, and before the first.

    Examples
    --------
    >>> sorted(dql())
    ['critic', 'policy', 'sampler']
    """
    chain = DenoisingChain(tuple(hidden), steps, 1 if acting_steps is None else acting_steps)
    shortcut = acting_steps is not None
    return regularised(chain, demos, eta, lr, candidates, hidden, clip, tau, slow_every, slow_from, shortcut=shortcut)


def fbrac(
    demos: str | None = None,
    eta: float = 0.1,
    hidden: tuple[int, ...] = (256, 256, 256),
    steps: int = 10,
    candidates: int = 50,
    lr: float = 3e-4,
    clip: float | None = None,
    tau: float = 0.005,
    slow_every: int = 5,
    slow_from: int = 1000,
) -> dict[str, Any]:
    """Fill the slots with a flow that is followed in some steps, and learned through from its end (FBRAC).

    Parameters
    ----------
    demos, hidden, candidates, lr, clip, tau, slow_every, slow_from
        As in :func:`dql`.
    eta : float, default 0.1
        Weight of the value.
    steps : int, default 10
        From noise to an action; with 1, the velocity at the noise is taken for that of the whole way.

    Examples
    --------
    >>> fbrac(steps=1)["policy"].generator.steps
    1
    """
    flow = FlowMatching(tuple(hidden), steps)
    return regularised(flow, demos, eta, lr, candidates, hidden, clip, tau, slow_every, slow_from)


def bc_flow(
    demos: str | None = None,
    hidden: tuple[int, ...] = (256, 256, 256),
    lr: float = 3e-4,
    tau: float = 0.005,
) -> dict[str, Any]:
    """Fill the slots with an average velocity that imitates and values nothing.

    Parameters
    ----------
    demos, hidden, lr, tau
        As in :func:`dql`.

    Examples
    --------
    >>> bc_flow()["policy"].eta
    0.0
    """
    return regularised(MeanFlow(tuple(hidden)), demos, 0.0, lr, 1, hidden, None, tau, 1, 0)


# --- imitation with a little value ---------------------------------------------------------------


@dataclass(frozen=True)
class DeterministicCloning(Deterministic):
    """One action for each observation, improved and held near what was done (TD3+BC).

        loss = -alpha Q(s, pi(s)) / E|Q| + |pi(s) - a|^2

    Parameters
    ----------
    alpha : float, default 2.5
        Weight of the value; 0 imitates.
    """

    alpha: float = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < float("inf"):
            raise FewerError(f"deterministic cloning: alpha is the weight of the value; it is {self.alpha}")

    def build(self, observations: int, actions: int) -> CloningActor:
        """Make it."""
        return CloningActor(observations, actions, self)


class CloningActor(DeterministicActor):
    """What :class:`DeterministicCloning` builds."""

    def __init__(self, observations: int, actions: int, settings: DeterministicCloning) -> None:
        super().__init__(observations, actions, settings)
        self.alpha = settings.alpha

    def improve(self, batch: Batch, value: Value) -> dict[str, Tensor]:
        """Towards more value, by the first member, and what was done."""
        actions = self.net(batch.observations)
        imitation = (actions - batch.actions).square().mean()
        values = value(batch.observations, actions)[0]
        weight = self.alpha / values.detach().abs().mean().clamp_min(1e-6)
        step(self.optimiser, imitation - weight * values.mean(), self._parameters_list)
        follow(self.slow, self.net, self.settings.tau)
        return {"imitation_loss": imitation.detach()}


def td3_bc(
    demos: str | None = None,
    alpha: float = 2.5,
    hidden: tuple[int, ...] = (256, 256),
    lr: float = 3e-4,
    tau: float = 0.005,
) -> dict[str, Any]:
    """Fill the slots with TD3 that is held near what was done.

    Parameters
    ----------
    demos : str, optional
        The data; by default the task's own.
    alpha : float, default 2.5
        Weight of the value.
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    lr : float, default 3e-4
        Of Adam, everywhere.
    tau : float, default 0.005
        Speed of the slow networks.

    Examples
    --------
    >>> sorted(td3_bc())
    ['critic', 'policy', 'sampler']
    """
    return {
        "policy": DeterministicCloning(tuple(hidden), lr, tau=tau, alpha=alpha),
        "critic": Critics(hidden=tuple(hidden), lr=lr, tau=tau, every=2),
        "sampler": Symmetric(demos, share=1.0),
    }
