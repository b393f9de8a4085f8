"""Behaviour cloning: a network learns to answer each observation with the action that was demonstrated.

With the squared error it answers with the mean of what was done, with the Gaussian likelihood it learns how much the
actions vary as well.  Observations are standardised by the demonstrations; actions are kept in their units, and clipped to
their bounds when they are done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.demos.demonstrations import Demonstrations, Observations, flat, parts
from fewer.models.classifier import MLP, Architecture
from fewer.models.optimisers import AdamW, Constant, Optimiser, Schedule, parameter_groups, set_rate

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson

Likelihood = Literal["mse", "gaussian"]


class ClonedPolicy(nn.Module):
    """Answers observations with actions.

    Parameters
    ----------
    network : nn.Module
        From standardised observations (batch, *shape) to (batch, outputs).
    shape : tuple of int
        Of an observation as the network takes it.
    seen : mapping of str to tuple of int
        Shapes of the parts of an observation, side by side in this order; one empty name where there are none.
    actions : tuple of int
        Shape of an action.
    centre, scale : float tensor (*shape)
        What observations are standardised by.
    low, high : float tensor (*actions), optional
        Bounds of actions.
    gaussian : bool
        Whether the network gives the logarithm of a standard deviation beside each action.
    """

    centre: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        network: nn.Module,
        shape: tuple[int, ...],
        seen: Mapping[str, tuple[int, ...]],
        actions: tuple[int, ...],
        centre: Tensor,
        scale: Tensor,
        low: Tensor | None,
        high: Tensor | None,
        gaussian: bool,
    ) -> None:
        super().__init__()
        self.network, self.shape, self.seen, self.actions, self.gaussian = network, shape, seen, actions, gaussian
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)
        self.register_buffer("low", torch.full(actions, -torch.inf) if low is None else low)
        self.register_buffer("high", torch.full(actions, torch.inf) if high is None else high)

    def forward(self, observations: Float[Tensor, "batch ..."]) -> tuple[Tensor, Tensor | None]:
        """The mean action (batch, *actions), and the logarithm of its standard deviation where that is learned."""
        out = self.network((observations - self.centre) / self.scale)
        if not self.gaussian:
            return out.reshape(-1, *self.actions), None
        mean, log_std = out.chunk(2, dim=-1)
        return mean.reshape(-1, *self.actions), log_std.reshape(-1, *self.actions).clamp(-5, 2)

    def tensor(self, observations: Observations) -> Float[Tensor, "batch ..."]:
        """Observations as the network takes them."""
        return torch.from_numpy(_table(observations, tuple(self.seen), self.shape)).to(self.centre.device)

    def begin(self, copies: int, rng: np.random.Generator) -> None:
        """Nothing is remembered from one step to the next."""

    def act(self, observations: Observations) -> Float[np.ndarray, "batch ..."]:
        """The mean action for each observation, within the bounds; a single observation gets a single action.

        Parameters
        ----------
        observations : array (batch, ...) or (...), or a dict of arrays
            What is seen.
        """
        given = parts(observations)
        single = all(key in given and np.ndim(given[key]) == len(shape) for key, shape in self.seen.items())
        if single:
            return self.act({key: np.asarray(value)[None] for key, value in given.items()})[0]
        with torch.inference_mode():
            mean, _ = self(self.tensor(observations))
            return torch.clamp(mean, self.low, self.high).cpu().numpy()


@dataclass(frozen=True)
class BehaviourCloning:
    """Learn to do what was demonstrated.

    Parameters
    ----------
    model : Architecture, default MLP((64, 64))
        The network.  For images alone, ``ConvNet()`` takes observations (channels, height, width).
    likelihood : {"mse", "gaussian"}
        What is minimised: the squared error, or the negative log-likelihood of a Gaussian with learned deviation.
    optimiser : Optimiser, default AdamW(lr=1e-3, weight_decay=0)
        How parameters move.
    schedule : Schedule, default Constant()
        Learning rate over the training.
    batch : int, default 128
        Steps drawn for each update.
    steps : int, default 1500
        Updates.

    Examples
    --------
    >>> from fewer.demos.point_worlds import TwoGates
    >>> from fewer.demos.rollouts import collect
    >>> demonstrations = collect(TwoGates(0.4).play(20), TwoGates().expert(), episodes=5).demonstrations
    >>> policy = BehaviourCloning(steps=20).fit(demonstrations)
    >>> policy.act(demonstrations.observations[:3]).shape
    (3, 2)
    """

    model: Architecture = field(default_factory=lambda: MLP((64, 64)))
    likelihood: Likelihood = "mse"
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=1e-3, weight_decay=0.0))
    schedule: Schedule = field(default_factory=Constant)
    batch: int = 128
    steps: int = 1500

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 1:
            raise FewerError(
                f"behaviour-cloning: batch and steps must be at least 1; they are {self.batch} and {self.steps}"
            )
        if self.likelihood not in ("mse", "gaussian"):
            raise FewerError(f"behaviour-cloning: unknown likelihood {self.likelihood!r}; choose mse or gaussian")

    def imitate(self, lesson: Lesson) -> ClonedPolicy:
        """Fill the imitator slot."""
        return self.fit(lesson.demonstrations, lesson.low, lesson.high, seed=lesson.seed)

    def fit(
        self,
        demonstrations: Demonstrations,
        low: Float[Any, "..."] | None = None,
        high: Float[Any, "..."] | None = None,
        *,
        seed: int = 0,
    ) -> ClonedPolicy:
        """Train a policy.

        Parameters
        ----------
        demonstrations : Demonstrations
            What to imitate; actions must be real numbers.
        low, high : float array (*action), optional
            Bounds that actions are clipped to when they are done.
        seed : int, default 0
            Of the first weights and of the batches.

        Raises
        ------
        FewerError
            If actions are numbered.
        Diverged
            If the loss becomes NaN.
        """
        if demonstrations.discrete:
            raise FewerError(f"{demonstrations.name}: behaviour cloning is for real actions; these are numbered")
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shapes = {key: array.shape[1:] for key, array in sorted(parts(demonstrations.observations).items())}
        width = sum(math.prod(each) for each in shapes.values())
        shape = (shapes[""] or (1,)) if list(shapes) == [""] else (width,)
        seen = torch.from_numpy(_table(demonstrations.observations, tuple(shapes), shape)).to(where)
        done = torch.from_numpy(demonstrations.actions.astype(np.float32)).to(where)
        gaussian = self.likelihood == "gaussian"
        scale, centre = torch.std_mean(seen, dim=0, correction=0)
        with own_randomness(seed, "behaviour cloning"):
            network = self.model.build(shape, (1 + gaussian) * max(1, done[0].numel()))
        policy = ClonedPolicy(
            network,
            shape,
            shapes,
            tuple(done.shape[1:]),
            centre,
            torch.where(scale > 1e-6 * (1 + centre.abs()), scale, 1.0),  # what never changes is not blown up
            _bound(low),
            _bound(high),
            gaussian,
        ).to(where)
        self._train(policy, seen, done, seed)
        return policy.eval()

    def _train(self, policy: ClonedPolicy, seen: Tensor, done: Tensor, seed: int) -> None:
        optimiser = self.optimiser.make(parameter_groups(policy))
        drawn = torch.randint(len(seen), (self.steps, self.batch), generator=torch_generator(seed, "batches")).to(
            seen.device
        )
        constant = isinstance(self.schedule, Constant)
        loss = torch.zeros(())
        for step, rows in enumerate(drawn):
            if not constant:
                set_rate(optimiser, self.schedule.factor(step / self.steps))
            mean, log_std = policy(seen[rows])
            loss = negative_log_likelihood(mean, log_std, done[rows]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if not torch.isfinite(loss):
            raise Diverged(f"behaviour cloning: the loss became {loss.item()}; lower the learning rate")


def negative_log_likelihood(
    mean: Float[Tensor, "batch ..."], log_std: Float[Tensor, "batch ..."] | None, actions: Float[Tensor, "batch ..."]
) -> Float[Tensor, " batch"]:
    """Of a Gaussian up to a constant, for each row; without a deviation, half the squared error.

    Examples
    --------
    >>> negative_log_likelihood(torch.zeros(2, 3), None, torch.ones(2, 3))
    tensor([1.5000, 1.5000])
    """
    error = (mean - actions).flatten(1) if mean.ndim > 1 else (mean - actions)[:, None]
    if log_std is None:
        return 0.5 * error.square().sum(dim=1)
    log_std = log_std.reshape(error.shape)
    return (0.5 * (error * torch.exp(-log_std)).square() + log_std).sum(dim=1)


def _bound(given: Float[Any, "..."] | None) -> Tensor | None:
    return None if given is None else torch.as_tensor(np.asarray(given), dtype=torch.float32)


def _table(observations: Observations, keys: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    given: Mapping[str, np.ndarray] = parts(observations)
    missing = [key for key in keys if key not in given]
    if missing:
        raise FewerError(
            f"observations have no part {missing[0]!r} that was demonstrated; they have {', '.join(given) or 'none'}"
            if missing[0]
            else f"observations come in parts ({', '.join(given)}) and were one array when demonstrated"
        )
    table = flat({key: given[key] for key in keys})
    if table.shape[1] != math.prod(shape):
        raise FewerError(
            f"observations have {table.shape[1]} numbers and those that were demonstrated {math.prod(shape)}"
        )
    return table.reshape(-1, *shape)
