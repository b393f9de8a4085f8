"""A data set of one's own in place of a task: sizes and bounds to build networks for, and transitions to draw.

Nothing can be played in it, so it is for learning offline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from fewer.control.environments import Environment, Worlds
from fewer.control.loop import OffPolicyState, Source
from fewer.control.prior_data import SymmetricSource
from fewer.control.replay import Replay
from fewer.core.errors import FewerError


@dataclass(frozen=True)
class Recorded(Environment):
    """What is known of an environment from its data: sizes and bounds, and nothing to play in.

    Parameters
    ----------
    name : str
        Of the data.
    observation_size, action_size : int
        Numbers in each.
    low, high : float array (actions,)
        Bounds of actions.
    """

    name: str  # pyright: ignore[reportIncompatibleVariableOverride]
    observation_size: int  # pyright: ignore[reportIncompatibleVariableOverride]
    action_size: int  # pyright: ignore[reportIncompatibleVariableOverride]
    low: Float[np.ndarray, " actions"] = field(repr=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    high: Float[np.ndarray, " actions"] = field(repr=False)  # pyright: ignore[reportIncompatibleVariableOverride]
    metric: str = "mean return"  # pyright: ignore[reportIncompatibleVariableOverride]

    def fingerprint(self) -> str:
        """There is none: it is not raced."""
        raise FewerError(f"{self.name}: data alone are no task; race on an environment, with demos= for the data")

    def make(self, copies: int) -> Worlds:
        """It cannot be played."""
        raise FewerError(f"{self.name}: these are data, in which nothing can be played")


@dataclass(frozen=True)
class FromData:
    """Every batch from given transitions.

    Parameters
    ----------
    memory : Replay
        They.
    """

    memory: Replay = field(repr=False)

    def build(self, state: OffPolicyState) -> Source:
        """Draw from them alone."""
        return SymmetricSource(state.replay, self.memory, share=1.0)
