"""Into the slot and out of it again, in one scene that is never put back by hand (see fewer.control.forward_backward)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from fewer.control.environments import Step
from fewer.control.forward_backward import ThereAndBack
from fewer.control.peg_world import PegTask
from fewer.control.pegs import Frame, Pegs
from fewer.core.files import fingerprint


class LinkedPegs(Pegs):
    """One of two views of a single scene that is never put back.

    Parameters
    ----------
    task : PegTask
        What is to be done in this view.
    scene : Pegs
        One copy, where the tool and the slot are.
    """

    def __init__(self, task: PegTask, scene: Pegs) -> None:
        super().__init__(1, task.frame, task.clearance, math.radians(task.turn), task.goal)
        self.scene = scene

    def reset(self, seeds: Mapping[int, int]) -> Float32[np.ndarray, "chosen observations"]:
        """Begin an episode in the scene as it stands."""
        self.slot[:] = self.scene.slot
        self.place(0, self.scene.tool[0])
        return self._observed()[list(seeds)]

    def step(self, actions: Float[np.ndarray, "copies 3"]) -> Step:
        """Move the scene's tool."""
        step = super().step(actions)
        self.scene.tool[:] = self.tool
        return step

    def state_dict(self) -> dict[str, np.ndarray]:
        """The scene and the episode."""
        names = ("tool", "slot", "begun", "moved", "time", "over")
        return {name: getattr(self, name).copy() for name in names} | {"scene": self.scene.tool.copy()}

    def load_state_dict(self, tree: Mapping[str, np.ndarray]) -> None:
        """Take them up."""
        for name, value in tree.items():
            if name != "scene":
                setattr(self, name, value.copy())
        self.scene.tool[:], self.scene.slot[:] = tree["scene"], tree["slot"]


@dataclass(frozen=True, eq=False)
class PegThereAndBack(ThereAndBack):
    """Into the slot and out of it again, in one scene.

    Parameters
    ----------
    forward, backward : PegTask
        Either way.
    """

    forward: PegTask
    backward: PegTask

    name: str = "peg-there-and-back"
    metric: str = "success rate"

    def fingerprint(self) -> str:
        """Name both."""
        return fingerprint(self.forward.fingerprint(), self.backward.fingerprint())

    def link(self, seed: int) -> tuple[LinkedPegs, LinkedPegs]:
        """Make one scene and its two views."""
        scene = self.forward.make(1)
        scene.reset({0: seed})
        return LinkedPegs(self.forward, scene), LinkedPegs(self.backward, scene)


def peg_there_and_back(demonstrations: int = 20, frame: Frame = "relative", clearance: float = 0.2) -> PegThereAndBack:
    """Put a peg into a slot and take it out again, with nobody to put it back (see :class:`PegThereAndBack`).

    Parameters
    ----------
    demonstrations : int, default 20
        Episodes, of either way.
    frame : {"relative", "absolute"}
        Of observations and actions.
    clearance : float, default 0.2
        How much wider the slot is than the tool, in centimetres.
    """
    there, back = (PegTask(demonstrations, frame, clearance, 0.0, goal) for goal in ("insert", "withdraw"))
    return PegThereAndBack(there, back)
