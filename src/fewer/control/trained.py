"""What off-policy control hands on: a policy that predicts, saves, loads, and exports a plain torch module."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from fewer.control.environments import Environment
from fewer.control.policies import Actor, Policy
from fewer.core.errors import FewerError
from fewer.core.files import write_atomically

FORMAT = "fewer-policy-1"
"""Of a saved policy."""


class Scaled(nn.Module):
    """Observations to the environment's own actions, deterministically: a module that needs nothing of this library's loops.

    Parameters
    ----------
    actor : Actor
        The policy, with actions in [-1, 1].
    low, high : float tensor (actions,)
        Bounds of the environment's actions.
    """

    low: Tensor
    high: Tensor

    def __init__(self, actor: Actor, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.actor = actor
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, observations: Float[Tensor, "batch observations"]) -> Float[Tensor, "batch actions"]:
        """The best known action."""
        return self.low + (self.actor.act(observations, deterministic=True) + 1) / 2 * (self.high - self.low)


class TrainedPolicy:
    """A policy in an environment's own units.

    Parameters
    ----------
    actor : Actor
        What was learned.
    task : Environment
        Gives the bounds of actions.
    """

    def __init__(self, actor: Actor, task: Environment) -> None:
        self.actor = actor
        self.low = np.asarray(task.low, dtype=np.float32)
        self.high = np.asarray(task.high, dtype=np.float32)
        self.observations = task.observation_size

    def predict(
        self, observation: Any, state: None = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Float[np.ndarray, "..."], None]:
        """Choose actions, as Stable-Baselines3's models do.

        Parameters
        ----------
        observation : array (observations,) or (batch, observations)
            What is seen.
        state, episode_start
            For interchangeability; this policy has no memory.
        deterministic : bool, default False
            Take the best known action instead of drawing one.

        Returns
        -------
        action : float array (actions,) or (batch, actions)
        state : None
        """
        seen = np.asarray(observation, dtype=np.float32)
        single = seen.ndim == 1
        rows = seen.reshape(1, -1) if single else seen.reshape(len(seen), -1)
        if rows.shape[1] != self.observations:
            raise FewerError(
                f"policy: the observation has {rows.shape[1]} numbers, and {self.observations} were trained with; give it "
                "observations of that environment"
            )
        with torch.inference_mode():
            actions = self.actor.act(torch.from_numpy(rows), deterministic).numpy()
        actions = self.low + (actions + 1) / 2 * (self.high - self.low)
        return (actions[0] if single else actions), None

    def module(self) -> Scaled:
        """A torch module of observations to actions, for export."""
        return Scaled(self.actor, torch.from_numpy(self.low), torch.from_numpy(self.high)).eval()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and bounds as safetensors; the policy's description stays with you.

        Parameters
        ----------
        path : path
            The file.
        """
        tensors = {f"actor.{name}": value.contiguous() for name, value in self.actor.state_dict().items()}
        tensors |= {"low": torch.from_numpy(self.low), "high": torch.from_numpy(self.high)}
        header = {"format": FORMAT, "observations": self.observations}
        write_atomically(path, to_bytes(tensors, metadata={"fewer": json.dumps(header)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], policy: Policy) -> TrainedPolicy:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        policy : Policy
            The description it was trained with: ``Gaussian()`` unless you chose another.

        Raises
        ------
        FewerError
            If the file is no policy, or one of another shape.
        """
        try:
            with safe_open(os.fspath(path), framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("fewer", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, json.JSONDecodeError) as error:
            raise FewerError(f"{path} is no saved policy ({error}); give a file that save() wrote") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise FewerError(f"{path} is no saved policy of this version ({FORMAT}); give a file that save() wrote")
        made = cls.__new__(cls)
        made.low, made.high = tensors.pop("low").numpy(), tensors.pop("high").numpy()
        made.observations = int(header["observations"])
        made.actor = policy.build(made.observations, len(made.low))
        try:
            made.actor.load_state_dict({name.removeprefix("actor."): value for name, value in tensors.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise FewerError(f"{path} is a policy of another shape than {policy}: {reason[:200]}") from error
        return made
