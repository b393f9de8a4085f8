"""What off-policy control hands on: a policy that predicts, saves, loads, and exports a plain torch module."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.critics import Critics, QEnsemble
from fewer.control.descriptions import describe, rebuild
from fewer.control.environments import Environment
from fewer.control.exported import Form, export
from fewer.control.policies import Actor, Policy
from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from fewer.control.loop import OffPolicyState

FORMAT = "fewer-policy-2"
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
    policy : Policy, optional
        The description that the actor was built from; a file says it, so that the file alone is enough to load it.
    critics : tuple of Critics and two QEnsemble, optional
        The description, the networks and their slow copies, for a policy that chooses by value.

    Attributes
    ----------
    about : dict
        What the file says besides, where it was loaded from one.
    """

    def __init__(
        self,
        actor: Actor,
        task: Environment,
        policy: Policy | None = None,
        critics: tuple[Critics, QEnsemble, QEnsemble] | None = None,
    ) -> None:
        self.actor, self.description = actor, policy
        self.low = np.asarray(task.low, dtype=np.float32)
        self.high = np.asarray(task.high, dtype=np.float32)
        self.observations = task.observation_size
        self.critics = critics if type(actor).attach is not Actor.attach else None
        self.about: dict[str, Any] = {}

    @classmethod
    def of(cls, state: OffPolicyState) -> TrainedPolicy:
        """What a run has learned so far, with all that a file of it needs."""
        loop = state.loop
        return cls(state.actor, state.task, loop.policy, (loop.critic, state.critic, state.slow))

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Float[np.ndarray, "..."], None]:
        """Choose actions, as Stable-Baselines3's models do.

        Parameters
        ----------
        observation : array (observations,) or (batch, observations), or a mapping of arrays
            What is seen; the parts of a mapping are put side by side in the order of their names.
        state, episode_start
            For interchangeability; this policy has no memory.
        deterministic : bool, default False
            Take the best known action instead of drawing one.

        Returns
        -------
        action : float array (actions,) or (batch, actions)
        state : None

        Raises
        ------
        FewerError
            If the observation has another size than those trained with, or is not finite.
        """
        seen, single = self._rows(observation)
        if seen.shape[1] != self.observations:
            raise FewerError(
                f"policy: the observation has {seen.shape[1]} numbers, and {self.observations} were trained with; give it "
                "observations of that environment"
            )
        if not np.isfinite(seen).all():
            raise FewerError("policy: the observation is not finite; mend the environment")
        with torch.inference_mode():
            actions = self.actor.act(torch.from_numpy(seen), deterministic).numpy()
        actions = self.low + (actions + 1) / 2 * (self.high - self.low)
        return (actions[0] if single else actions), None

    def _rows(self, observation: Any) -> tuple[Float[np.ndarray, "batch observations"], bool]:
        """Flat rows, and whether a single observation was given."""
        if isinstance(observation, Mapping):
            parts = [np.asarray(observation[name], dtype=np.float32) for name in sorted(observation)]
            single = sum(part.size for part in parts) == self.observations
            rows = [part.reshape(1, -1) if single else part.reshape(len(part), -1) for part in parts]
            return np.concatenate(rows, axis=1), single
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], Mapping):
            raise FewerError("policy: what reset() gives is an observation and an info; give the first of them alone")
        try:
            seen = np.asarray(observation, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise FewerError(f"policy: the observation is no array of numbers ({error})") from error
        # an observation may itself have several axes
        single = seen.ndim < 2 or (seen.size == self.observations and len(seen) > 1)
        return (seen.reshape(1, -1) if single else seen.reshape(len(seen), -1)), single

    def module(self) -> Scaled:
        """A torch module of observations to actions, for export."""
        return Scaled(self.actor, torch.from_numpy(self.low), torch.from_numpy(self.high)).eval()

    def export(self, path: str | os.PathLike[str], form: Form = "torchscript") -> None:
        """Write the policy for use without this library: observations to the best known actions, for any number of rows.

        Parameters
        ----------
        path : path
            The file.
        form : {"torchscript", "export"}
            For ``torch.jit.load``, or for ``torch.export.load``.

        Raises
        ------
        FewerError
            If even its best known action is drawn by chance, or torch cannot write it.
        """
        seen = torch.linspace(-1, 1, 3 * self.observations).reshape(3, -1)
        module = self.module()
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            if not torch.equal(module(seen), module(seen)):
                raise FewerError(
                    "policy: even its best known action is drawn by chance, so it is no function of observations; "
                    "save() it and predict() with it"
                )
        export(module, {"observations": seen}, path, form)

    def save(self, path: str | os.PathLike[str], about: Mapping[str, Any] | None = None) -> None:
        """Write weights, bounds and description as one safetensors file.

        Parameters
        ----------
        path : path
            The file.
        about : mapping, optional
            What else the file should say, of what JSON can hold.

        Raises
        ------
        FewerError
            If networks were changed while learning, so that the description does not fit them any more.
        """
        write(path, *self.contents(about))

    def contents(self, about: Mapping[str, Any] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What :meth:`save` writes: tensors, and a header for :func:`write`."""
        description = None
        with contextlib.suppress(FewerError):  # a policy of one's own: whoever loads it must bring its description
            description = describe(self.description)
        critics = self.critics[0] if self.critics is not None else None
        tensors = {
            # an actor may hold the critics as well, and a file holds each tensor by itself
            f"{part}.{name}": value.detach().contiguous().clone()
            for part, state in self.networks().items()
            for name, value in state.items()
        }
        if self.description is not None:
            built = _built(self.description, critics, self.observations, len(self.low))
            if [_shapes(each) for each in _networks(*built)] != [
                _shapes(each) for each in _networks(self.actor, self.critics)
            ]:
                raise FewerError(
                    "policy: its networks were changed while learning, and its description does not say how; export() it"
                )
        tensors |= {"low": torch.from_numpy(self.low), "high": torch.from_numpy(self.high)}
        header = {
            "format": FORMAT,
            "observations": self.observations,
            "policy": description,
            "critic": describe(critics),
            "about": dict(about or {}),
        }
        return tensors, header

    def networks(self) -> dict[str, dict[str, Tensor]]:
        """The state of each network that is in a file: ``"actor"``, and where it chooses by value ``"critic"`` and ``"slow"``."""
        named = zip(_PARTS, _networks(self.actor, self.critics), strict=False)
        return {part: dict(network.state_dict()) for part, network in named}

    @classmethod
    def load(cls, path: str | os.PathLike[str], policy: Policy | None = None) -> TrainedPolicy:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : path
            The file.
        policy : Policy, optional
            The description it was trained with, where it is your own; the file says those of this library.

        Raises
        ------
        FewerError
            If the file is no policy, or one of another shape.
        """
        return cls.of_contents(path, *read(path), policy)

    @classmethod
    def of_contents(
        cls,
        path: str | os.PathLike[str],
        tensors: Mapping[str, Tensor],
        header: Mapping[str, Any],
        policy: Policy | None = None,
    ) -> TrainedPolicy:
        """Make one of what :func:`read` read from a file; see :meth:`load`."""
        described = rebuild(header["policy"]) if policy is None else policy
        if described is None:
            raise FewerError(f"{path} does not say how its policy is built; give the description: load(path, policy)")
        made = cls.__new__(cls)
        made.description, made.about = described, dict(header["about"])
        made.low, made.high = tensors["low"].numpy(), tensors["high"].numpy()
        made.observations = int(header["observations"])
        critics = rebuild(header["critic"])
        made.actor, made.critics = _built(described, critics, made.observations, len(made.low))
        try:
            for part, network in zip(_PARTS, _networks(made.actor, made.critics), strict=False):
                own = {name: value for name, value in tensors.items() if name.startswith(f"{part}.")}
                network.load_state_dict({name.removeprefix(f"{part}."): value for name, value in own.items()})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise FewerError(f"{path} is a policy of another shape than {described}: {reason[:200]}") from error
        return made


def write(path: str | os.PathLike[str], tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write a policy's file: tensors, and what says how it is built."""
    write_tensors(path, header, tensors)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write` wrote.

    Raises
    ------
    FewerError
        If the file is no policy of this version.
    """
    if os.path.isdir(path):
        raise FewerError(f"{path} is a folder, and no saved policy; give a file that save() wrote")
    header, tensors = read_tensors(path, "saved policy")
    if header.get("format") != FORMAT:
        raise FewerError(f"{path} is no saved policy of this version ({FORMAT}); give a file that save() wrote")
    missing = [name for name in ("policy", "critic", "about", "observations") if name not in header]
    missing += [name for name in ("low", "high") if name not in tensors]
    if missing or not isinstance(header["about"], dict):
        raise FewerError(
            f"{path} is damaged: it says nothing of {(missing or ['about'])[0]}; give a file that save() wrote"
        )
    return tensors, header


_PARTS = ("actor", "critic", "slow")


def _networks(actor: Actor, critics: tuple[Critics, QEnsemble, QEnsemble] | None) -> list[nn.Module]:
    """In the order of their names in a file."""
    return [actor, *(critics[1:] if critics is not None else ())]


def _built(
    policy: Policy, critics: Critics | None, observations: int, actions: int
) -> tuple[Actor, tuple[Critics, QEnsemble, QEnsemble] | None]:
    """Networks of these descriptions, with weights of no meaning; nobody's chance is touched."""
    with torch.random.fork_rng(devices=[]):
        actor = policy.build(observations, actions)
        if critics is None:
            return actor, None
        critic, slow = (critics.build(observations, actions) for _ in range(2))
    actor.attach(critic, slow)
    return actor, (critics, critic, slow.requires_grad_(False))


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}
