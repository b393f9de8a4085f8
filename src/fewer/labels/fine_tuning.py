"""One stage of fine-tuning: rows held out, early stopping by AUROC, and the best state restored.

Knows how long to train and when to stop, not what is trained: a :class:`Trainee` takes the steps.
:class:`NetworkTrainee` is a torch network under AdamW.  A second stage is another call with the same
network: its weights go on, its optimiser is new.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from scipy.stats import rankdata
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.seeding import derive, generator
from fewer.labels.learners import soft_cross_entropy

CONFIDENCE_STEPS = 200
"""Steps over which the log-confidence loss comes to full weight."""


class Trainee(Protocol):
    """What is trained on the rows of one stage; rows are named by their position in the stage."""

    def begin(self, steps: int, warm_up: int) -> None:
        """Get ready for at most ``steps`` steps, over the first ``warm_up`` of which the learning rate rises."""
        ...

    def step(self, rows: Int[np.ndarray, " batch"]) -> None:
        """Learn from one batch."""
        ...

    def log_probabilities(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows classes"]:
        """Logarithms of the class probabilities of some rows."""
        ...

    def snapshot(self) -> Any:
        """Copy what has been learned."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Go back to a copy."""
        ...


@dataclass(frozen=True)
class Stage:
    """How a stage of so many labels is trained, and how it went.

    Parameters
    ----------
    held_out : int
        Labels kept for validation; with 0 there is no early stopping.
    steps : int
        Steps that may be taken; after training, those that were.
    every : int
        Steps between evaluations.
    warm_up : int
        Steps over which the learning rate rises.
    score : float
        Best validation AUROC, or minus the loss where all held-out labels agree; NaN without validation.
    """

    held_out: int
    steps: int
    every: int
    warm_up: int
    score: float = math.nan


@dataclass(frozen=True)
class FineTuning:
    """How a stage is trained.

    Parameters
    ----------
    visits : int, default 30_000
        Row visits a stage may take; at least one epoch is allowed.
    lr : float, default 2e-3
        Peak learning rate of AdamW (``beta2`` 0.95): a linear rise, then half a cosine to zero.
    batch : int, default 32
        Rows a step.
    weight_decay : float, default 0.01
        AdamW's.
    validation : float, default 0.2
        Share of the stage's labels that is held out, and never fewer than two labels.  With 0, or
        fewer than three labels, all are trained on for all visits.
    patience : int, default 4
        Evaluations without a gain after which training stops.
    gain : float, default 0.01
        What counts as one.

    Examples
    --------
    >>> FineTuning().plan(12)
    Stage(held_out=2, steps=2500, every=1, warm_up=2, score=nan)
    """

    visits: int = 30_000
    lr: float = 2e-3
    batch: int = 32
    weight_decay: float = 0.01
    validation: float = 0.2
    patience: int = 4
    gain: float = 0.01

    def __post_init__(self) -> None:
        if min(self.visits, self.batch, self.patience) < 1 or not self.lr > 0 or not 0 <= self.validation < 1:
            raise FewerError(
                f"fine-tuning: visits, batch, patience and lr must be positive and validation in [0, 1); given {self}"
            )

    def plan(self, labels: int) -> Stage:
        """Lay out a stage of so many labels."""
        held_out = max(int(self.validation * labels), 2) if self.validation and labels >= 3 else 0
        epoch = math.ceil((labels - held_out) / self.batch)
        in_all = math.ceil(labels / self.batch)
        steps = math.ceil(max(self.visits / labels, 1) * epoch)
        return Stage(held_out, steps, min(50, in_all), max(min(40, in_all), 2))

    def run(self, trainee: Trainee, target: Float[np.ndarray, "n classes"], seed: int) -> Stage:
        """Train until nothing is gained any more, and go back to the best.

        Parameters
        ----------
        trainee : Trainee
            Knows the ``n`` rows of this stage.
        target : float array (n, classes)
            Class probabilities.
        seed : int
            Decides which rows are held out, and the order of the others.

        Raises
        ------
        Diverged
            If predictions become NaN or infinite.
        """
        plan = self.plan(len(target))
        rng = generator(seed, "stage")
        order = rng.permutation(len(target))
        held_out, train = order[: plan.held_out], order[plan.held_out :]
        trainee.begin(plan.steps, plan.warm_up)
        best, bar, waited, kept, taken = -math.inf, -math.inf, 0, None, 0
        for taken, rows in enumerate(self._batches(train, plan.steps, rng), start=1):
            trainee.step(rows)
            if not plan.held_out or (taken % plan.every and taken < plan.steps):
                continue
            score = validation_score(trainee.log_probabilities(held_out), target[held_out])
            if score > best:
                best, kept = score, trainee.snapshot()
            # a gain is measured from the last gain, so that many small ones do not keep training alive
            if score >= bar + self.gain:
                bar, waited = score, 0
            else:
                waited += 1
            if waited >= self.patience:
                break
        if kept is not None:
            trainee.restore(kept)
        return Stage(plan.held_out, taken, plan.every, plan.warm_up, best if plan.held_out else math.nan)

    def fit(
        self,
        network: nn.Module,
        inputs: Tensor | Shaped[np.ndarray, " n"],
        target: Float[np.ndarray, "n classes"],
        weight: Float[np.ndarray, " n"],
        seed: int,
        log_confidence: float = 0.0,
    ) -> Stage:
        """Train a network in place.

        Parameters
        ----------
        network : nn.Module
            Maps a batch of ``inputs`` to logits (batch, classes).
        inputs : tensor (n, ...) or object array of str (n,)
            The rows, in a form that the network takes.
        target, weight : float arrays (n, classes), (n,)
            Class probabilities, and what each row counts for.
        seed : int
            Decides everything that is random.
        log_confidence : float, default 0
            See :func:`log_confidence_target`.
        """
        with seeded(seed, "network"):
            trainee = NetworkTrainee(network, inputs, target, weight, self, log_confidence)
            return self.run(trainee, target, seed)

    def _batches(self, train: np.ndarray, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            order = rng.permutation(train)
            for begin in range(0, len(order), self.batch):
                if steps == 0:
                    return
                steps -= 1
                yield order[begin : begin + self.batch]


class NetworkTrainee:
    """A torch network on cross-entropy with soft targets (see :class:`FineTuning`)."""

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor | np.ndarray,
        target: np.ndarray,
        weight: np.ndarray,
        how: FineTuning,
        log_confidence: float,
    ) -> None:
        if log_confidence and target.shape[1] != 2:
            raise FewerError(f"the log-confidence loss is for two classes; there are {target.shape[1]}")
        self.network, self.inputs, self.how, self.log_confidence = network, inputs, how, log_confidence
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        where = self.parameters[0].device
        self.target = torch.from_numpy(np.ascontiguousarray(target, dtype=np.float32)).to(where)
        self.weight = torch.from_numpy(np.ascontiguousarray(weight / weight.mean(), dtype=np.float32)).to(where)

    def begin(self, steps: int, warm_up: int) -> None:
        """Make a fresh optimiser."""
        self.done = 0
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.how.lr, betas=(0.9, 0.95), weight_decay=self.how.weight_decay, fused=True
        )

        def rate(step: int) -> float:
            if step < warm_up:
                return step / warm_up
            return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, rate)

    def step(self, rows: Int[np.ndarray, " batch"]) -> None:
        """Take one step of AdamW."""
        self.network.train()
        logits, target = self.network(self.inputs[rows]), self.target[rows]
        if self.log_confidence:
            share = self.log_confidence * min(1.0, self.done / CONFIDENCE_STEPS)
            target = log_confidence_target(logits.detach().softmax(dim=1), target, share)
        loss = (soft_cross_entropy(logits, target) * self.weight[rows]).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.schedule.step()
        self.done += 1

    def log_probabilities(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows classes"]:
        """Log-softmax of the logits, in blocks of bounded memory."""
        self.network.eval()
        with torch.inference_mode():
            parts = [
                self.network(self.inputs[rows[begin : begin + 1024]]).log_softmax(dim=1).float().cpu()
                for begin in range(0, len(rows), 1024)
            ]
        return torch.cat(parts).numpy()

    def snapshot(self) -> dict[str, Tensor]:
        """Copy what training changes; frozen weights stay where they are."""
        return {name: value.detach().clone() for name, value in self._changing()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        """Write the copies back."""
        with torch.no_grad():
            for name, value in self._changing():
                value.copy_(snapshot[name])

    def _changing(self) -> Iterator[tuple[str, Tensor]]:
        yield from ((name, value) for name, value in self.network.named_parameters() if value.requires_grad)
        yield from self.network.named_buffers()


def validation_score(
    log_probabilities: Float[np.ndarray, "rows classes"], target: Float[np.ndarray, "rows classes"]
) -> float:
    """AUROC against the most probable class of each target; minus the loss where they all agree."""
    if not np.isfinite(log_probabilities).all():
        raise Diverged("the predictions became NaN or infinite; lower the learning rate")
    area = auroc(log_probabilities, target.argmax(axis=1))
    return area if math.isfinite(area) else float((target * log_probabilities).sum(axis=1).mean())


def auroc(scores: Float[np.ndarray, "rows classes"], labels: Int[np.ndarray, " rows"]) -> float:
    """Area under the receiver operating characteristic, the mean over classes of one against the rest.

    NaN where there is only one class.

    Examples
    --------
    >>> auroc(np.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]), np.array([0, 0, 1, 1]))
    0.75
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return math.nan
    ranks = rankdata(scores[:, classes], axis=0)
    mine = labels[:, None] == classes
    count = mine.sum(axis=0)
    wins = (ranks * mine).sum(axis=0) - count * (count + 1) / 2
    return float(np.mean(wins / (count * (len(labels) - count))))


def log_confidence_target(
    probabilities: Float[Tensor, "batch 2"], target: Float[Tensor, "batch 2"], share: float
) -> Float[Tensor, "batch 2"]:
    """Mix the targets with what the model says itself, hardened so that its classes are as frequent as theirs.

    Parameters
    ----------
    probabilities : float tensor (batch, 2)
        The model's own.
    target : float tensor (batch, 2)
        The labeller's.
    share : float
        Weight of the model's opinion, in [0, 1].

    References
    ----------
    C. Burns et al., "Weak-to-Strong Generalization", arXiv:2312.09390.
    """
    frequency = target[:, 1].mean() if len(target) > 1 else target.new_tensor(0.5)
    own = probabilities[:, 1] > torch.quantile(probabilities[:, 1], 1 - frequency)
    return (1 - share) * target + share * torch.stack([~own, own], dim=1)


@contextmanager
def seeded(seed: int, *names: str | int) -> Iterator[None]:
    """Seed torch's global generator for a while (initial weights, dropout), then give the caller's back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *names))
        yield
