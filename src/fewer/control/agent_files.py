"""Files of agents: a policy as :class:`fewer.control.trained.TrainedPolicy` writes it, and with it what learning on needs.

The networks of the policy are there once; beside them lie the critics, the optimisers, the counters and the curve, and where
that is wanted the memory, whose rows are in the folder ``….segments`` beside the file.  Nothing is pickled, so opening a file
runs no code.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewer.control.descriptions import describe, rebuild
from fewer.control.environments import Environment
from fewer.control.loop import OffPolicy
from fewer.control.policies import Policy
from fewer.control.trained import TrainedPolicy, read, write
from fewer.core import checkpoint
from fewer.core.curve import Point
from fewer.core.errors import FewerError

_PREFIX = "learning."
"""Of the names of what learning on needs, among a file's tensors."""


@dataclass(frozen=True)
class Begun:
    """A run of an agent that can be gone on with.

    Parameters
    ----------
    loop : OffPolicy, optional
        What it is a run of; None where it has parts that a file cannot describe.
    every : int
        Steps from one evaluation to the next.
    environment : str
        The fingerprint of what it was learned in.
    idle_until : int
        Until which step the policy only acts; 0 where that is the loop's own beginning.
    spent : int
        Steps so far.
    points : tuple of Point
        The curve.
    state : dict
        Of networks, optimisers and counters, ``replay`` among them where memory is kept.
    """

    loop: OffPolicy | None
    every: int
    environment: str
    idle_until: int
    spent: int
    points: tuple[Point, ...]
    state: Mapping[str, Any]

    @property
    def remembers(self) -> bool:
        """Whether memory is there."""
        return "replay" in self.state

    def state_in(self, environment: Environment, copies: int) -> dict[str, Any]:
        """The state to begin with in an environment."""
        if self.remembers and self.environment == environment.fingerprint() and len(self.state["taken"]) == copies:
            return dict(self.state)
        # nothing says that an episode in progress can be brought back here by repeating its actions
        fresh = {"episodes": [max(self.state["episodes"]) + 1] * copies, "taken": [[] for _ in range(copies)]}
        return {**self.state, **fresh, "gained": np.zeros(copies)}

    def with_memory(self, replay: bool) -> Begun:
        """The same, without memory where it is not wanted."""
        return self if replay else replace(self, state={k: v for k, v in self.state.items() if k != "replay"})


def save(path: str | os.PathLike[str], policy: TrainedPolicy, about: Mapping[str, Any], begun: Begun | None) -> None:
    """Write a policy, and the run that it is of.

    Parameters
    ----------
    path : path
        The file.
    policy : TrainedPolicy
        What was learned.
    about : mapping
        What else the file should say.
    begun : Begun, optional
        The run.

    Raises
    ------
    FewerError
        If networks were changed while learning.
    """
    tensors, header = policy.contents(about)
    segments: set[str] = set()
    if begun is not None:
        described, there = None, policy.networks()
        with contextlib.suppress(FewerError):  # parts of one's own: whoever learns on must bring the method
            described = describe(begun.loop)
        tree = {
            "loop": described,
            "every": begun.every,
            "environment": begun.environment,
            "idle_until": begun.idle_until,
            "spent": begun.spent,
            "points": [point.as_dict() for point in begun.points],
            "state": {name: value for name, value in begun.state.items() if name not in there},
        }
        header["learning"], arrays, segments = checkpoint.taken_apart(path, tree)
        tensors |= {_PREFIX + name: value for name, value in arrays.items()}
    write(path, tensors, header)
    checkpoint.forget_segments(path, segments)


def load(path: str | os.PathLike[str], policy: Policy | None = None) -> tuple[TrainedPolicy, Begun | None]:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    path : path
        The file.
    policy : Policy, optional
        The description of the policy, where it is your own.

    Returns
    -------
    policy : TrainedPolicy
        What was learned.
    begun : Begun or None
        The run; None where the file holds a policy alone.

    Raises
    ------
    FewerError
        If the file is no saved policy, or is damaged.
    """
    tensors, header = read(path)
    made = TrainedPolicy.of_contents(path, tensors, header, policy if header["policy"] is None else None)
    if header.get("learning") is None:
        return made, None
    arrays = {name.removeprefix(_PREFIX): value for name, value in tensors.items() if name.startswith(_PREFIX)}
    tree = checkpoint.put_together(path, header["learning"], arrays)
    try:
        loop = rebuild(tree["loop"])
        state = {**tree["state"], **made.networks()}
        points = tuple(Point(**point) for point in tree["points"])
        every, idle_until, spent = (int(tree[name]) for name in ("every", "idle_until", "spent"))
        begun = Begun(loop, every, str(tree["environment"]), idle_until, spent, points, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise FewerError(f"{path} is damaged ({error}); give a file that save() wrote") from error
    if not (loop is None or isinstance(loop, OffPolicy)) or not points or begun.every < 1:
        raise FewerError(f"{path} is damaged: it says nothing of how to learn on; give a file that save() wrote")
    return made, begun
