"""Policies that answer what is seen with a chunk, the next h actions, and carry it out.

A chunk is carried out to its end before the next one is asked for, or only its first steps are; or a new one is asked for
at each step and all that was planned for that step is averaged, older plans counting more:

    a_t = sum over j of w_j chunk_{t-j}[j] / sum of w_j,    w_j = exp(-rate * rank),    the oldest of rank 0

References
----------
Tony Z. Zhao, Vikash Kumar, Sergey Levine, Chelsea Finn, "Learning Fine-Grained Bimanual Manipulation with Low-Cost
Hardware", RSS 2023, arXiv:2304.13705 (chunks, and their average over time).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.demos.demonstrations import Observations, parts
from fewer.models.classifier import MLP

KIND = "ChunkPolicy"
ROWS = 4096
"""Steps that an encoder sees at a time when it is asked about all of them."""


class ChunkPolicy(nn.Module):
    """Answers what is seen with the next h actions, and carries them out.

    Parameters
    ----------
    seen : mapping of str to tuple of int
        Shapes of the parts of an observation; one empty name where there are none.
    action : tuple of int
        Shape of an action.
    low, high : float tensor (*action)
        Bounds of actions.
    chunk : int
        Actions of a chunk.
    hidden : tuple of int
        Units of each hidden layer of the head.
    encoder : nn.Module, optional
        From observations as they are, a float tensor (batch, *shape) or a dict of them where they come in parts, to
        features (batch, features).  By default all numbers side by side, standardised.
    features : int
        How many features there are.
    execute : int, optional
        Steps of a chunk that are done before the next one is asked for; by default all.
    average : float, optional
        Ask for a chunk at each step and average what was planned for it, with this rate: at 0 all plans count alike.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        seen: Mapping[str, tuple[int, ...]],
        action: tuple[int, ...],
        low: Float[Tensor, "..."],
        high: Float[Tensor, "..."],
        *,
        chunk: int,
        hidden: tuple[int, ...],
        features: int,
        encoder: nn.Module | None = None,
        execute: int | None = None,
        average: float | None = None,
    ) -> None:
        super().__init__()
        self.seen, self.action, self.chunk, self.hidden = dict(seen), tuple(action), chunk, tuple(hidden)
        self.width, self.execute, self.average = features, execute, average
        self.encoder = encoder
        self.head = ChunkHead(features, hidden, chunk, math.prod(action))
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())
        self.register_buffer("centre", torch.zeros(0 if encoder is not None else features))
        self.register_buffer("scale", torch.ones(0 if encoder is not None else features))
        self._forget()

    # --- what it answers ---------------------------------------------------------------------------------------------

    def features(self, observations: Observations) -> Float[Tensor, "batch features"]:
        """What the head takes, of many observations.

        Raises
        ------
        FewerError
            If a part is missing, or of another shape than was demonstrated.
        """
        given = parts(observations)
        tensors: dict[str, Tensor] = {}
        for key, shape in self.seen.items():
            if key not in given:
                told = f"part {key!r}" if key else "single array"
                raise FewerError(
                    f"chunk policy: observations have no {told}, as those that were demonstrated; they have "
                    f"{', '.join(filter(None, given)) or 'a single array'}"
                )
            array = np.asarray(given[key])
            if array.shape[1:] != shape:
                raise FewerError(
                    f"chunk policy: observations{f'[{key!r}]' if key else ''} have shape {array.shape[1:]} and those that "
                    f"were demonstrated {shape}"
                )
            tensors[key] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.low.device)
        if self.encoder is not None:
            return self.encoder(tensors[""] if list(tensors) == [""] else tensors)
        table = torch.cat([each.reshape(len(each), -1) for each in tensors.values()], dim=1)
        return (table - self.centre) / self.scale

    def all_features(self, observations: Observations) -> Float[Tensor, "steps features"]:
        """The same without gradients, a block at a time."""
        given = parts(observations)
        count = len(next(iter(given.values())))
        with torch.no_grad():
            blocks = [
                self.features({key: array[begin : begin + ROWS] for key, array in given.items()})
                for begin in range(0, count, ROWS)
            ]
        return torch.cat(blocks)

    def forward(self, observations: Observations) -> Float[Tensor, "batch chunk action"]:
        """Chunks of flattened actions in [-1, 1], the bounds of actions."""
        return self.head(self.features(observations))

    def scaled(self, actions: Float[np.ndarray, "steps ..."]) -> Float[Tensor, "steps action"]:
        """Actions as the head answers them: flattened, their bounds at -1 and 1."""
        given = torch.from_numpy(np.ascontiguousarray(actions, dtype=np.float32)).to(self.low.device)
        return ((given - self.low) * (2 / (self.high - self.low)) - 1).flatten(1)

    def plan(self, observations: Observations) -> Float[np.ndarray, "batch chunk ..."]:
        """The next ``chunk`` actions for each observation, in their own units."""
        with torch.inference_mode():
            planned = self(observations).unflatten(-1, self.action)
            return (self.low + (planned + 1) * ((self.high - self.low) / 2)).cpu().numpy()

    # --- how it is carried out ---------------------------------------------------------------------------------------

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """An episode begins: forget what was planned."""
        self._forget()

    def _forget(self) -> None:
        self._plans: list[np.ndarray] = []  # the newest first
        self._done = 0

    def act(self, observations: Observations) -> Float[np.ndarray, "batch ..."]:
        """The next action for each observation; a single observation gets a single action.

        Call :meth:`begin` where an episode begins; all copies are in step.

        Raises
        ------
        FewerError
            If there are more or fewer observations than at the step before.
        """
        given = parts(observations)
        if all(key in given and np.ndim(given[key]) == len(shape) for key, shape in self.seen.items()):
            return self.act({key: np.asarray(value)[None] for key, value in given.items()})[0]
        count = len(next(iter(given.values())))
        if self._plans and len(self._plans[0]) != count:
            raise FewerError(
                f"chunk policy: {count} observations were given and {len(self._plans[0])} at the step before; call begin "
                "where an episode begins"
            )
        if self.average is not None:
            self._plans = [self.plan(observations), *self._plans][: self.chunk]
            weights = np.exp(-self.average * np.arange(len(self._plans), dtype=np.float32))[::-1]
            now = np.stack([plan[:, age] for age, plan in enumerate(self._plans)])
            return np.tensordot(weights / weights.sum(), now, axes=1)
        if not self._plans or self._done == (self.execute or self.chunk):
            self._plans, self._done = [self.plan(observations)], 0
        self._done += 1
        return self._plans[0][:, self._done - 1]

    # --- keeping it --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, weights and all that is needed to act, an encoder's shape excepted."""
        settings = {name: getattr(self, name) for name in ("chunk", "hidden", "execute", "average")}
        checkpoint.save(
            path,
            {
                "kind": KIND,
                "seen": [[key, shape] for key, shape in self.seen.items()],
                "action": self.action,
                "features": self.width,
                "encoded": self.encoder is not None,
                "settings": settings,
                "weights": dict(self.state_dict()),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], encoder: nn.Module | None = None) -> ChunkPolicy:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        encoder : nn.Module, optional
            Of the same shape as the one it was saved with; its weights are read.

        Raises
        ------
        FewerError
            If the file is something else, or the encoder does not fit.
        """
        tree = checkpoint.load(path)
        if not isinstance(tree, dict) or tree.get("kind") != KIND:
            raise FewerError(f"{path} holds no chunk policy; give a file that ChunkPolicy.save wrote")
        if tree["encoded"] != (encoder is not None):
            needs = "was saved with an encoder" if tree["encoded"] else "was saved without an encoder"
            raise FewerError(f"{path} {needs}; give {'one of its shape as encoder=' if tree['encoded'] else 'none'}")
        weights = tree["weights"]
        policy = cls(
            {key: tuple(shape) for key, shape in tree["seen"]},
            tree["action"],
            weights["low"],
            weights["high"],
            features=tree["features"],
            encoder=encoder,
            **tree["settings"],
        )
        try:
            policy.load_state_dict(weights)
        except RuntimeError as error:
            told = str(error).replace("\n\t", " ")
            raise FewerError(f"{path}: the encoder is not the one it was saved with: {told}") from error
        return policy.eval()


class ChunkHead(nn.Module):
    """Features to a chunk of actions in [-1, 1]."""

    def __init__(self, features: int, hidden: tuple[int, ...], chunk: int, action: int) -> None:
        super().__init__()
        self.layers = MLP(hidden).build((features,), chunk * action)
        self.chunk = chunk

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch chunk action"]:
        """Answer."""
        return self.layers(features).tanh().unflatten(-1, (self.chunk, -1))
