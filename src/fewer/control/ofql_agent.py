"""One-step flow Q-learning as an agent: it is given a data set, learns, predicts, and is exported as a plain torch module."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.behaviour_regularised import RegularisedActor
from fewer.control.exported import Form, export
from fewer.control.mean_flow import OneStepFlow
from fewer.control.offline import Offline
from fewer.control.ofql import one_step_flow
from fewer.control.prior_data import as_memory
from fewer.control.recorded_data import FromData, Recorded
from fewer.core import checkpoint
from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.demos.chunk_cloning import action_bounds
from fewer.demos.demonstrations import Demonstrations, flat
from fewer.demos.files import load

FORMAT = "fewer-ofql-1"
"""Of a saved agent."""


class OFQL:
    """One-step flow Q-learning on a data set.

    Parameters
    ----------
    dataset : path, str or Demonstrations
        A file (NPZ, HDF5), a folder, the id of a Minari data set that is on this machine, or what was read from one; with
        rewards, and with the ends of episodes.
    low, high : float array (actions,), optional
        Bounds of actions; by default -1 and 1.
    discount : float, default 0.99
        What the next step's value is worth.
    batch : int, default 256
        Transitions of each step.
    **settings
        Of :func:`one_step_flow`, such as ``eta`` and ``hidden``.

    Raises
    ------
    FewerError
        If actions are numbered or beyond the bounds, rewards are missing, or nothing says where episodes end.

    Examples
    --------
    >>> from fewer.control.dock_world import dock_2d
    >>> agent = OFQL(dock_2d(demonstrations=4).demonstrations(seed=0), hidden=(16,)).fit(steps=3)
    >>> agent.predict(np.zeros(2)).shape, agent.predict(np.zeros((5, 2)), n_candidates=10).shape
    ((2,), (5, 2))
    """

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Demonstrations,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        *,
        discount: float = 0.99,
        batch: int = 256,
        **settings: Any,
    ) -> None:
        data = dataset if isinstance(dataset, Demonstrations) else load(dataset)
        if data.discrete:
            raise FewerError(f"{data.name}: its actions are numbered, and a flow is of real ones; see the room explore")
        if data.final_observations is None and (data.terminations is None or not data.terminations.any()):
            raise FewerError(
                f"{data.name}: it says neither where episodes terminate nor what was seen after their last step, so no value "
                "has a ground to stand on; record terminals, or final_observations"
            )
        sides = [each.reshape(-1).double().numpy() for each in action_bounds(data, low, high)]
        self.environment = Recorded(
            data.name, flat(data.observations).shape[1], len(sides[0]), low=sides[0], high=sides[1]
        )
        self._memory = as_memory(data, self.environment)
        self.settings = settings
        filling = one_step_flow(**settings)
        self.loop = Offline(
            filling["policy"], filling["critic"], sampler=FromData(self._memory), discount=discount, batch=batch
        )
        self._actor: RegularisedActor | None = None

    def fit(self, steps: int, seed: int = 0) -> OFQL:
        """Learn anew.

        Parameters
        ----------
        steps : int
            Gradient steps.
        seed : int, default 0
            Of everything random.

        Raises
        ------
        Diverged
            If a loss becomes NaN.
        """
        if steps < 1:
            raise FewerError(f"OFQL: {steps} gradient steps learn nothing; give 1 or more")
        with own_randomness(seed, "ofql"):
            state = self.loop.start(self.environment, steps, seed)
            report: dict[str, Tensor] = {}
            for _ in range(steps):
                report = self.loop.learn_once(state)
        if not all(bool(value.isfinite()) for value in report.values()):
            raise Diverged(f"OFQL: a loss became NaN in {steps} steps; lower lr or eta, or set clip")
        assert isinstance(state.actor, RegularisedActor)
        self._actor = state.actor.eval()
        return self

    @property
    def actor(self) -> RegularisedActor:
        """What was learned."""
        if self._actor is None:
            raise FewerError("OFQL: nothing is learned yet; call fit(steps) first")
        return self._actor

    def predict(self, observation: Any, n_candidates: int = 1, seed: int | None = None) -> Float[np.ndarray, "..."]:
        """Choose actions.

        Parameters
        ----------
        observation : array (observations,) or (batch, observations)
            What is seen.
        n_candidates : int, default 1
            Actions drawn for each; of several one is taken, with weights exp(Q).
        seed : int, optional
            Equal seeds give equal draws.

        Returns
        -------
        float array (actions,) or (batch, actions)
            In the units of the data.
        """
        actor = self.actor
        if n_candidates < 1:
            raise FewerError(f"OFQL: {n_candidates} candidates are none; give 1 or more")
        seen = np.asarray(observation, dtype=np.float32)
        rows = seen.reshape(1, -1) if seen.ndim == 1 else seen.reshape(len(seen), -1)
        if rows.shape[1] != self.environment.observation_size or not np.isfinite(rows).all():
            raise FewerError(
                f"OFQL: an observation is {self.environment.observation_size} finite numbers; given {rows.shape[1]}"
                f"{'' if np.isfinite(rows).all() else ', some of them not finite'}"
            )
        with torch.inference_mode():
            if seed is None:
                actions = actor.choose(torch.from_numpy(rows), n_candidates)
            else:
                with own_randomness(seed, "predict"):
                    actions = actor.choose(torch.from_numpy(rows), n_candidates)
        low, high = self.environment.low, self.environment.high
        own = (low + (actions.numpy() + 1) / 2 * (high - low)).astype(np.float32)
        return own[0] if seen.ndim == 1 else own

    @property
    def flow(self) -> OneStepFlow:
        """The policy in the units of networks; others can begin with it: ``dsrl_na(agent.flow)``, ``on_the_fly(agent.flow)``."""
        generator = self.actor.generator
        assert isinstance(generator, OneStepFlow)
        return generator

    def module(self) -> OneStepPolicy:
        """The policy as a plain torch module of observations and noise."""
        sides = (
            torch.from_numpy(np.asarray(each, dtype=np.float32))
            for each in (self.environment.low, self.environment.high)
        )
        return OneStepPolicy(self.flow, *sides).eval()

    def export(self, path: str | os.PathLike[str], form: Form = "torchscript") -> None:
        """Write the one-step policy for use without this library: observations and noise to actions, any batch.

        Parameters
        ----------
        path : path
            The file.
        form : {"torchscript", "export"}
            For ``torch.jit.load``, or for ``torch.export.load``.
        """
        rows = {"observations": self.environment.observation_size, "noise": self.environment.action_size}
        export(self.module(), {name: torch.zeros(3, size) for name, size in rows.items()}, path, form)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was learned, the slow critic that candidates are weighed by included."""
        actor = self.actor
        checkpoint.save(
            path,
            {
                "format": FORMAT,
                "actor": dict(actor.state_dict()),
                "critic": dict(actor.attached.state_dict()),
            },
        )

    def load(self, path: str | os.PathLike[str]) -> OFQL:
        """Take up what :meth:`save` wrote, for data of the same shape and the same settings.

        Raises
        ------
        FewerError
            If the file is no saved agent, or one of another shape.
        """
        tree = checkpoint.load(path)
        if tree.get("format") != FORMAT:
            raise FewerError(f"{path} is no saved agent of this version ({FORMAT}); give a file that save() wrote")
        with own_randomness(0, "ofql"):
            state = self.loop.start(self.environment, 1, 0)
        assert isinstance(state.actor, RegularisedActor)
        try:
            state.actor.load_state_dict(tree["actor"])
            state.slow.load_state_dict(tree["critic"])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise FewerError(f"{path} is an agent of another shape: {reason}") from error
        self._actor = state.actor.eval()
        return self


class OneStepPolicy(nn.Module):
    """Observations and noise to actions in the units of the data.

    Parameters
    ----------
    flow : OneStepFlow
        The policy.
    low, high : float tensor (actions,)
        Bounds of actions.
    """

    low: Tensor
    high: Tensor

    def __init__(self, flow: OneStepFlow, low: Float[Tensor, " actions"], high: Float[Tensor, " actions"]) -> None:
        super().__init__()
        self.flow = flow
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(
        self, observations: Float[Tensor, "batch observations"], noise: Float[Tensor, "batch actions"]
    ) -> Float[Tensor, "batch actions"]:
        """One evaluation."""
        return self.low + (self.flow.generate(observations, noise) + 1) / 2 * (self.high - self.low)
