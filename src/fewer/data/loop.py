"""Supervised training, with slots for everything that decides what the data do.

The curve is the score against sample visits: one visit is one row in one forward and backward pass.
Losses stay per sample until the last line, and every row is known by its index, so samplers can
learn from losses and losses can be weighted, whatever else is in the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State
from fewer.core.seeding import generator, torch_generator
from fewer.models.classifier import Architecture, Classifier, ConvNet
from fewer.models.optimisers import SGD, Cosine, Optimiser, Schedule, parameter_groups, set_rate
from fewer.tasks.classification import Classification


@dataclass(frozen=True)
class Target:
    """What a batch should be predicted as: one class a row, or two in a ratio.

    Parameters
    ----------
    first, second : int tensor (batch,)
        Classes; equal where nothing is mixed.
    ratio : float tensor (batch,)
        Share of ``first``, in [0, 1].
    """

    first: Int[Tensor, " batch"]
    second: Int[Tensor, " batch"]
    ratio: Float[Tensor, " batch"]

    @classmethod
    def plain(cls, y: Int[Tensor, " batch"]) -> Target:
        """One class a row."""
        return cls(y, y, torch.ones(len(y), device=y.device))

    def soft(self, classes: int) -> Float[Tensor, "batch classes"]:
        """The target as probabilities."""
        one = nn.functional.one_hot(self.first, classes) * self.ratio[:, None]
        return one + nn.functional.one_hot(self.second, classes) * (1 - self.ratio)[:, None]


@dataclass
class Epoch:
    """What a sampler is called with, at the start of an epoch.

    Parameters
    ----------
    index : int
        Epochs finished.
    epochs : float
        Epochs planned in all; where the budget counts visits, as foreseen from what was spent so far.
    rows : int
        Size of the training set.
    losses : float array (rows,)
        The last loss seen of each row; NaN for a row not visited yet.
    rng : numpy Generator
        The sampler's randomness.
    memory : dict
        What a slot remembers between epochs, under its own name; saved in checkpoints.
    report : dict of str to float
        Counters for the point's ``extras``.
    """

    index: int
    epochs: float
    rows: int
    losses: Float[np.ndarray, " rows"]
    rng: np.random.Generator
    memory: dict[str, Any] = field(default_factory=dict)
    report: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """The rows of one epoch, in the order they are visited.

    Parameters
    ----------
    rows : int array (n,)
        Row numbers.
    weights : float array (n,), optional
        Factor of each row's loss; 1 by default.
    """

    rows: Int[np.ndarray, " n"]
    weights: Float[np.ndarray, " n"] | None = None


@dataclass(frozen=True)
class Batch:
    """What a mixing slot is called with.

    Parameters
    ----------
    x : float tensor (batch, ...)
        Rows.
    y : int tensor (batch,)
        Their classes.
    generator : torch Generator
        The slot's randomness (on the CPU).
    """

    x: Float[Tensor, "batch ..."]
    y: Int[Tensor, " batch"]
    generator: torch.Generator


class Sampler(Protocol):
    """Which rows are visited in an epoch."""

    def select(self, epoch: Epoch) -> Selection:
        """Choose the rows of this epoch and their order."""
        ...


class Mixing(Protocol):
    """What is made of a batch before the network sees it."""

    def mix(self, batch: Batch) -> tuple[Float[Tensor, "batch ..."], Target]:
        """Give the rows to train on, and their target."""
        ...


class Loss(Protocol):
    """How wrong the logits are."""

    def __call__(self, logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, " batch"]:
        """Loss of each row; never reduced."""
        ...


@dataclass(frozen=True)
class AllRows:
    """Every row once, in a new random order."""

    def select(self, epoch: Epoch) -> Selection:
        """Shuffle all rows."""
        return Selection(epoch.rng.permutation(epoch.rows))


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy, with two classes in a ratio where rows are mixed.

    Parameters
    ----------
    smoothing : float, default 0
        Share of the target that is spread over all classes.
    """

    smoothing: float = 0.0

    def __call__(self, logits: Float[Tensor, "batch classes"], target: Target) -> Float[Tensor, " batch"]:
        """Loss of each row."""
        one = nn.functional.cross_entropy(logits, target.first, reduction="none", label_smoothing=self.smoothing)
        if target.first is target.second:
            return one
        two = nn.functional.cross_entropy(logits, target.second, reduction="none", label_smoothing=self.smoothing)
        return target.ratio * one + (1 - target.ratio) * two


@dataclass
class SupervisedState(State):
    """Network, optimiser, the losses seen, and the random streams."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "losses", "rng", "draws", "memory", "epoch")

    task: Classification = field(kw_only=True)
    x: Tensor = field(kw_only=True)
    y: Tensor = field(kw_only=True)
    test_x: Tensor = field(kw_only=True)
    test_y: np.ndarray = field(kw_only=True)
    network: Classifier = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    losses: np.ndarray = field(kw_only=True)
    rng: np.random.Generator = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)
    memory: dict[str, Any] = field(default_factory=dict, kw_only=True)
    epoch: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Supervised(Loop[Classification, SupervisedState]):
    """Train a classifier; the curve is the test score against sample visits, by default a point an epoch.

    Parameters
    ----------
    model : Architecture, default ConvNet()
        The network.
    sampler : Sampler, default AllRows()
        Which rows are visited in each epoch.
    mixing : Mixing, optional
        What is made of each batch.
    loss : Loss, default CrossEntropy()
        Per row.
    optimiser : Optimiser, default SGD()
        How parameters move.
    schedule : Schedule, default Cosine()
        Learning rate over the run.
    batch : int, default 100
        Rows a step.
    epochs : int, default 0
        Stop after so many epochs, and let the schedule end there, even if visits are left: what a
        sampler that visits fewer rows then saves is seen in ``spent``.  With 0, train until the
        visits are used up.
    score_every : int, default 1
        Epochs between the points of the curve: more where scoring takes longer than an epoch of few rows.

    Examples
    --------
    >>> from fewer.tasks.digits import digits
    >>> learned = Supervised().learn(digits(), budget=3000)
    >>> [point.spent for point in learned.curve]
    [1438, 2876, 3000]
    """

    unit: ClassVar[str] = "sample visits"
    accepts: ClassVar[type[Classification]] = Classification

    model: Architecture = field(default_factory=ConvNet)
    sampler: Sampler = field(default_factory=AllRows)
    mixing: Mixing | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    optimiser: Optimiser = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Cosine)
    batch: int = 100
    epochs: int = 0
    score_every: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.epochs < 0:
            raise FewerError(f"batch must be at least 1 and epochs at least 0; they are {self.batch} and {self.epochs}")
        if self.score_every < 1:
            raise FewerError(f"score_every is {self.score_every}; give how many epochs make a point, 1 or more")

    def least(self, task: Classification) -> int:
        """One batch."""
        return self.batch

    def start(self, task: Classification, budget: int, seed: int) -> SupervisedState:
        """Split the task, build the network and the optimiser."""
        split = task.split(seed)
        if split.x.dtype == object:
            raise FewerError(f"{task.name}: this network needs numbers and the rows are texts; give features")
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = self.model.build(split.x.shape[1:], len(task.classes)).to(where)
        return SupervisedState(
            budget,
            seed,
            Ledger({"sample_visits": 1.0}),
            task=task,
            x=torch.from_numpy(np.ascontiguousarray(split.x, dtype=np.float32)).to(where),
            y=torch.from_numpy(split.y.astype(np.int64)).to(where),
            test_x=torch.from_numpy(np.ascontiguousarray(split.test_x, dtype=np.float32)).to(where),
            test_y=split.test_y,
            network=network,
            optimiser=self.optimiser.make(parameter_groups(network)),
            losses=np.full(len(split.y), np.nan, dtype=np.float32),
            rng=generator(seed, "sampler"),
            draws=torch_generator(seed, "mixing"),
        )

    def advance(self, state: SupervisedState) -> Point:
        """Train for one epoch or several, then score."""
        visited, report = 0, {}
        for _ in range(self.score_every):
            rows, report = self._one_epoch(state)
            visited += rows
            if state.exhausted or state.ledger.spent >= state.budget:
                break
        extras = {"epoch": float(state.epoch), "rows_visited": float(visited), **report}
        return Point(state.ledger.spent, self._score(state), extras)

    def result(self, state: SupervisedState) -> Classifier:
        """The trained network."""
        return state.network

    def _one_epoch(self, state: SupervisedState) -> tuple[int, dict[str, float]]:
        """Train for an epoch; give the rows it visited and what the slots report."""
        epoch = self._epoch(state)
        chosen = self.sampler.select(epoch)
        left = state.budget - state.ledger.spent
        rows = np.asarray(chosen.rows, dtype=np.int64)[:left]
        if not len(rows):
            raise FewerError(
                f"{type(self.sampler).__name__} chose no row for epoch {state.epoch + 1}; let it keep more"
            )
        weights = None if chosen.weights is None else torch.as_tensor(chosen.weights[:left], dtype=torch.float32)
        self._train(state, rows, weights, epoch)
        state.epoch += 1
        state.exhausted = bool(self.epochs) and state.epoch >= self.epochs
        return len(rows), epoch.report

    def _epoch(self, state: SupervisedState) -> Epoch:
        rows = len(state.y)
        progress = state.ledger.spent / state.budget
        planned = self.epochs or (state.epoch / progress if state.epoch else state.budget / rows)
        return Epoch(state.epoch, planned, rows, state.losses, state.rng, state.memory)

    def _train(self, state: SupervisedState, rows: np.ndarray, weights: Tensor | None, epoch: Epoch) -> None:
        network, optimiser = state.network, state.optimiser
        network.train()
        seen = torch.empty(len(rows), device=state.x.device)
        order = torch.from_numpy(rows).to(state.x.device)
        for begin in range(0, len(rows), self.batch):
            index = order[begin : begin + self.batch]
            share = begin / len(rows)
            progress = (epoch.index + share) / self.epochs if self.epochs else state.ledger.spent / state.budget
            set_rate(optimiser, self.schedule.factor(progress))
            x, y = state.x[index], state.y[index]
            target = Target.plain(y)
            if self.mixing is not None:
                x, target = self.mixing.mix(Batch(x, y, state.draws))
            loss = self.loss(network(x), target)
            seen[begin : begin + len(index)] = loss.detach()
            if weights is not None:
                loss = loss * weights[begin : begin + len(index)].to(loss.device)
            optimiser.zero_grad(set_to_none=True)
            loss.mean().backward()
            optimiser.step()
            state.ledger.add("sample_visits", len(index))
        state.losses[rows] = seen.cpu().numpy()
        if not torch.isfinite(seen[-1]):
            raise Diverged(
                f"the training loss became {float(seen[-1])} in epoch {epoch.index + 1}; lower the learning rate"
            )

    def _score(self, state: SupervisedState) -> float:
        state.network.eval()
        with torch.inference_mode():
            parts = [state.network(part).argmax(dim=1).cpu() for part in state.test_x.split(4096)]
        return state.task.score(state.test_y, torch.cat(parts).numpy())
