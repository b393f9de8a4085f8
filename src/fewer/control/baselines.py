"""Soft actor-critic, twin delayed DDPG and RLPD, as fillings of the off-policy loop's slots.

References
----------
Haarnoja et al., arXiv:1812.05905.  Fujimoto, van Hoof and Meger, arXiv:1802.09477.  Ball et al., arXiv:2302.02948.
"""

from __future__ import annotations

from typing import Any

from fewer.control.critics import Critics
from fewer.control.loop import FixedRatio, GaussianNoise
from fewer.control.policies import Deterministic, Gaussian
from fewer.control.prior_data import Symmetric


def sac(
    hidden: tuple[int, ...] = (256, 256),
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Fill the slots with soft actor-critic: two critics, a Gaussian policy, a learned temperature.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    lr : float, default 3e-4
        Of Adam, everywhere.
    tau : float, default 0.005
        Speed of the slow critics.
    temperature : float, default 1
        At the start.
    target_entropy : float, optional
        By default minus the number of actions.
    compiled : bool, default False
        Let ``torch.compile`` translate updates; see :class:`Critics`.

    Examples
    --------
    >>> sorted(sac())
    ['critic', 'policy']
    """
    return {
        "policy": Gaussian(hidden, lr, temperature, target_entropy),
        "critic": Critics(hidden=hidden, lr=lr, tau=tau, compiled=compiled),
    }


def td3(
    hidden: tuple[int, ...] = (256, 256), lr: float = 3e-4, tau: float = 0.005, noise: float = 0.1
) -> dict[str, Any]:
    """Fill the slots with twin delayed DDPG: one action, improved every other step, explored with noise.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    lr : float, default 3e-4
        Of Adam, everywhere.
    tau : float, default 0.005
        Speed of the slow networks.
    noise : float, default 0.1
        Deviation of the exploration.

    Examples
    --------
    >>> sorted(td3())
    ['critic', 'exploration', 'policy']
    """
    return {
        "policy": Deterministic(hidden, lr, tau=tau),
        # the slow critics move when the policy does
        "critic": Critics(hidden=hidden, lr=lr, tau=tau, every=2),
        "exploration": GaussianNoise(noise),
    }


def rlpd(
    demos: str | None = None,
    hidden: tuple[int, ...] = (256, 256),
    members: int = 10,
    subset: int = 2,
    ratio: int | None = 20,
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 1.0,
    target_entropy: float | None = None,
    backup_entropy: bool = True,
    share: float = 0.5,
    compiled: bool = False,
) -> dict[str, Any]:
    """Fill the slots with reinforcement learning with prior data.

    Parameters
    ----------
    demos : str, optional
        Where the prior data are; by default the task's own.
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    members, subset : int, default 10 and 2
        Critics, and how many of them a target is the least of.
    ratio : int, default 20
        Steps of the critic for each transition; the policy makes one.  With None, the slot ``ratio`` is left to somebody
        else, and the policy makes a step with each of the critic's.
    lr : float, default 3e-4
        Of Adam, everywhere.
    tau : float, default 0.005
        Speed of the slow critics.
    temperature : float, default 1
        At the start.
    target_entropy : float, optional
        By default minus the number of actions.
    backup_entropy : bool, default True
        Count entropy in the critic's target.
    share : float, default 0.5
        Of each batch, from prior data.
    compiled : bool, default False
        Let ``torch.compile`` translate updates; see :class:`Critics`.

    Examples
    --------
    >>> sorted(rlpd())
    ['critic', 'policy', 'ratio', 'sampler']
    """
    filling: dict[str, Any] = {
        "policy": Gaussian(hidden, lr, temperature, target_entropy, backup_entropy, "mean", delay=ratio or 1),
        "critic": Critics(members, subset, hidden, layer_norm=True, lr=lr, tau=tau, compiled=compiled),
        "sampler": Symmetric(demos, share),
    }
    return filling if ratio is None else filling | {"ratio": FixedRatio(ratio)}
