"""The usual ways of post-training, as fillings."""

from __future__ import annotations

from typing import Any

from fewer.rollouts.advantages import GroupRelative, LeaveOneOut, Reward
from fewer.rollouts.objectives import Clipped, PolicyGradient


def grpo(kl: float = 0.0, scale: bool = True) -> dict[str, Any]:
    """Group-relative policy optimisation: advantages within each prompt's group, PPO's clipped surrogate.

    Parameters
    ----------
    kl : float, default 0
        Weight of the divergence from the first model.
    scale : bool, default True
        Divide advantages by the group's standard deviation.
    """
    return {"advantage": GroupRelative(scale), "objective": Clipped(kl=kl)}


def clip_higher(high: float = 1.28) -> dict[str, Any]:
    """DAPO's: as GRPO, with more room for tokens to become likelier.

    Parameters
    ----------
    high : float, default 1.28
        Upper bound of the ratio.
    """
    return {"advantage": GroupRelative(), "objective": Clipped(high=high)}


def rloo(kl: float = 0.0) -> dict[str, Any]:
    """REINFORCE with the mean of the group's others for a baseline.

    Parameters
    ----------
    kl : float, default 0
        Weight of the divergence from the first model.
    """
    return {"advantage": LeaveOneOut(), "objective": Clipped(kl=kl) if kl else PolicyGradient()}


def reinforce(centred: bool = False) -> dict[str, Any]:
    """REINFORCE: rewards themselves, or less the mean of their batch.

    Parameters
    ----------
    centred : bool, default False
        Take the batch's mean away.
    """
    return {"advantage": Reward(centred), "objective": PolicyGradient()}
