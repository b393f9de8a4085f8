"""Adaptation: a model that was trained before is moved to a task by few labels and few parameters.

Slots decide what is built into the frozen model (adapter), which of its own parameters may move (trainable), which of its
features are read (readout), what is said of them (head), and, when the task is met, which head is believed (select) and
whether anything is still learned (update).  Each point of the curve begins anew with more labels.

With its defaults this is linear probing: a frozen model, the features it gives, and a linear head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.best_so_far import BestSoFar
from fewer.adapt.meter import bytes_for_backward, trainable
from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import derive, generator
from fewer.models.optimisers import AdamW, Cosine, Optimiser, Schedule, parameter_groups, set_rate
from fewer.tasks.classification import Classification

Inputs = Tensor | dict[str, Tensor]
"""Rows as a model takes them: one tensor, or one for each modality, all with the same number of rows."""

Predict = Callable[[Inputs, tuple[str, ...] | None], Float[np.ndarray, "rows classes"]]
"""Probabilities of classes: the task's, or others by name where the head can name them."""


@dataclass(frozen=True)
class Labelled:
    """One seed's rows.

    Parameters
    ----------
    x, test_x : tensor (rows, ...), or dict of them
        Rows that labels may be bought for, in the order they are bought, and rows to be scored on.
    y, test_y : int tensor (rows,)
        Their classes.
    domains, test_domains : int tensor (rows,), optional
        Where each row comes from; those of the test rows are only looked at for reports.
    """

    x: Inputs
    y: Int[Tensor, " rows"]
    test_x: Inputs
    test_y: Int[Tensor, " test"]
    domains: Int[Tensor, " rows"] | None = None
    test_domains: Int[Tensor, " test"] | None = None


class AdaptationTask(Task):
    """Rows with classes, and a model that was trained on something else before.

    Attributes
    ----------
    classes : tuple of str
        Their names.
    """

    classes: tuple[str, ...]

    def base(self, seed: int) -> nn.Module:
        """The model: called with rows it gives features (rows, width), and says its ``width``; equal seeds, equal weights."""
        raise NotImplementedError

    def labelled(self, seed: int) -> Labelled:
        """One seed's rows."""
        raise NotImplementedError

    def evaluate(self, labelled: Labelled, predict: Predict) -> tuple[float, dict[str, float]]:
        """Score, and what else was measured: by default the share of test rows told right."""
        said = predict(labelled.test_x, None).argmax(1)
        return float(np.mean(said == labelled.test_y.numpy())), {}


class BaseModel(Protocol):
    """Describes a model to begin from, where the task brings none or another is wanted."""

    def build(self, shape: tuple[int, ...], seed: int) -> nn.Module:
        """Make or read it, for rows of ``shape``: it gives features (rows, width) and says its ``width``."""
        ...


class Adapter(Protocol):
    """What is built into a frozen model."""

    def attach(self, model: nn.Module, task: Task) -> nn.Module:
        """Change the model in place, or wrap it; what is new requires gradients.

        Modules that behave otherwise while they learn (dropout of an adapter) say so by ``adapts = True``.
        """
        ...


class Readout(Protocol):
    """Which features of a model are read."""

    def build(self, model: nn.Module, task: Task) -> nn.Module:
        """A module of rows to features (rows, width), which says its ``width`` and holds the model as ``model``."""
        ...


class Head(Protocol):
    """What is said of features."""

    def build(self, width: int, task: Task, model: nn.Module) -> HeadModule:
        """Make it for the task's classes."""
        ...


class HeadModule(nn.Module):
    """One or several classifiers on the same features."""

    def logits(
        self, features: Float[Tensor, "rows width"], classes: tuple[str, ...] | None = None
    ) -> Float[Tensor, "rows heads classes"]:
        """What each classifier says: of the task's classes, or of others by name where it can name them."""
        raise NotImplementedError

    def loss(
        self, features: Float[Tensor, "rows width"], y: Int[Tensor, " rows"], domains: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, " rows"]:
        """Loss of each row: by default the cross-entropy of the first classifier."""
        return nn.functional.cross_entropy(self.logits(features)[:, 0], y, reduction="none")


class Select(Protocol):
    """Which classifier is believed, for each row."""

    def weights(
        self, logits: Float[Tensor, "rows heads classes"], features: Float[Tensor, "rows width"], head: HeadModule
    ) -> Float[Tensor, "rows heads"]:
        """Shares that sum to one."""
        ...


class Update(Protocol):
    """What is still learned when the task is met."""

    def predict(self, adapted: Adapted, x: Inputs) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of rows that come in this order; changes what was adapted, which is the caller's own copy."""
        ...


@dataclass(frozen=True)
class Features:
    """What the model gives."""

    def build(self, model: nn.Module, task: Task) -> nn.Module:
        """The model's own features."""
        return _Features(model)


class _Features(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.width = module_width(model)

    def forward(self, x: Any) -> Tensor:
        return self.model(x)


def module_width(model: nn.Module) -> int:
    """Numbers of a model's features.

    Raises
    ------
    FewerError
        If it does not say.
    """
    width = getattr(model, "width", getattr(model, "embed_dim", None))
    if width is None:
        raise FewerError(f"a {type(model).__name__} does not say how many features it gives; set its attribute width")
    return int(cast(Any, width))


@dataclass(frozen=True)
class Linear:
    """One linear classifier."""

    def build(self, width: int, task: Task, model: nn.Module) -> HeadModule:
        """Make it."""
        return LinearHead(nn.Linear(width, len(classes_of(task))))


class LinearHead(HeadModule):
    """What :class:`Linear` builds: one linear layer.

    Parameters
    ----------
    linear : nn.Linear
        Features to logits.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def logits(
        self, features: Float[Tensor, "rows width"], classes: tuple[str, ...] | None = None
    ) -> Float[Tensor, "rows heads classes"]:
        """Of the classes it has learned."""
        refuse_names(classes)
        return self.linear(features)[:, None]


def refuse_names(classes: tuple[str, ...] | None) -> None:
    """Say that a head knows only the classes it has learned."""
    if classes is not None:
        raise FewerError("this head knows only the classes it has learned; take one that reads names, such as a prompt")


def classes_of(task: Task) -> tuple[str, ...]:
    """Names of a task's classes."""
    return cast(Any, task).classes


def rows_at(x: Inputs, index: Tensor | slice) -> Inputs:
    """Some rows, of each modality.

    Examples
    --------
    >>> rows_at({"a": torch.arange(3), "b": torch.arange(3)}, slice(2, 3))
    {'a': tensor([2]), 'b': tensor([2])}
    """
    return {name: each[index] for name, each in x.items()} if isinstance(x, dict) else x[index]


@dataclass
class AdaptationState(State):
    """The frozen model, the rows, and what the last point learned (the next one begins anew)."""

    task: Task = field(kw_only=True)
    base: nn.Module = field(kw_only=True)
    labelled: Labelled = field(kw_only=True)
    adapted: Adapted | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Adaptation(Loop[Task, AdaptationState]):
    """Move a trained model to a task; the curve is the score against labels.

    Parameters
    ----------
    base : BaseModel, optional
        Where to begin, if not with the task's own model.
    adapter : Adapter, optional
        What is built in.
    trainable : {"adapter", "bias", "norm", "all"}
        Which of the model's own parameters move: none, biases, those of norms, all (full fine-tuning).
    readout : Readout, default Features()
        Which features are read.
    head : Head, default Linear()
        What is said of them.
    select : Select, optional
        Which of several classifiers is believed; all alike by default.
    update : Update, optional
        What is still learned when the task is met.
    optimiser : Optimiser, default AdamW(lr=0.003, weight_decay=0.01)
        How what is trained moves.
    schedule : Schedule, default Cosine()
        Learning rate over each training.
    steps : int, default 300
        Of each training.
    batch : int, default 32
        Rows a step.
    points : int, default 3
        How many points the curve has.
    validation : float, default 0
        Share of the labels, those bought last, that is not learned from: what did best on them after any epoch is kept.
    patience : int, default 0
        Epochs without a better one after which a training ends, where there are such labels; 0 for never.

    Notes
    -----
    Where nothing before the head is trained, features are computed once.  Texts of a task are turned into tokens by the
    model's own ``tokens(texts)``.
    """

    unit: ClassVar[str] = "labels"
    accepts: ClassVar[tuple[type[Task], ...]] = (AdaptationTask, Classification)

    base: BaseModel | None = None
    adapter: Adapter | None = None
    trainable: Literal["adapter", "bias", "norm", "all"] = "adapter"
    readout: Readout = field(default_factory=Features)
    head: Head = field(default_factory=Linear)
    select: Select | None = None
    update: Update | None = None
    optimiser: Optimiser = field(default_factory=lambda: AdamW(lr=3e-3))
    schedule: Schedule = field(default_factory=Cosine)
    steps: int = 300
    batch: int = 32
    points: int = 3
    validation: float = 0.0
    patience: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1 or self.patience < 0:
            raise FewerError(
                f"adaptation: validation must lie in [0, 1) and patience not be negative; given {self.validation} and "
                f"{self.patience}"
            )
        if min(self.steps, self.batch, self.points) < 1:
            raise FewerError(f"adaptation: steps, batch and points must be at least 1; given {self}")
        if self.trainable not in ("adapter", "bias", "norm", "all"):
            raise FewerError(f"adaptation: trainable is {self.trainable!r}; choose adapter, bias, norm or all")

    def least(self, task: Task) -> int:
        """Two labels."""
        return 2

    def check(self, task: Task, budget: int) -> None:
        """Refuse a task without a model to begin from."""
        super().check(task, budget)
        if self.base is None and not isinstance(task, AdaptationTask):
            raise FewerError(
                f"{task.name} brings no trained model; name one beside the method, such as saved-vit(path='./my-vit')"
            )

    def start(self, task: Task, budget: int, seed: int) -> AdaptationState:
        """Find the model and the rows."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        reader = self.base if getattr(self.base, "reads_texts", False) and isinstance(task, Classification) else None
        # what reads texts is needed before there are rows
        base = None if reader is None else reader.build((), seed)
        labelled = (
            task.labelled(seed)
            if isinstance(task, AdaptationTask)
            else _labelled(cast(Classification, task), seed, getattr(base, "tokens", None))
        )
        if base is None and self.base is not None:
            first = next(iter(labelled.x.values())) if isinstance(labelled.x, dict) else labelled.x
            base = self.base.build(tuple(first.shape[1:]), seed)
        elif base is None:
            base = cast(AdaptationTask, task).base(seed)
        base = base.to(where).eval().requires_grad_(False)
        if budget > len(labelled.y):
            raise FewerError(
                f"{task.name}: {budget} labels were asked for, and it has {len(labelled.y)}; lower --budget"
            )
        return AdaptationState(budget, seed, Ledger({"labels": 1.0}), task=task, base=base, labelled=labelled)

    def advance(self, state: AdaptationState) -> Point:
        """Buy labels until the next point, learn from all of them anew, and score."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1, self.least(state.task)), state.budget)
        state.ledger.add("labels", until - state.ledger.spent)
        state.adapted, extras = self.train(state, until)
        score, measured = self.score(state, state.adapted)
        return Point(until, score, {**measured, **extras})

    def result(self, state: AdaptationState) -> Adapted:
        """The adapted model."""
        if state.adapted is None:  # the run was taken up where it had ended
            state.adapted, _ = self.train(state, state.ledger.spent)
        return state.adapted

    def score(self, state: AdaptationState, adapted: Adapted) -> tuple[float, dict[str, float]]:
        """Let the task judge what was adapted."""

        def predict(x: Inputs, classes: tuple[str, ...] | None = None) -> np.ndarray:
            if self.update is None:
                return adapted.probabilities(x, classes)
            if classes is not None:
                raise FewerError(
                    "adaptation: what is still learned when the task is met knows only the classes it has learned"
                )
            return self.update.predict(copy.deepcopy(adapted), x)

        if isinstance(state.task, AdaptationTask):
            return state.task.evaluate(state.labelled, predict)
        said = predict(state.labelled.test_x).argmax(1)
        return cast(Classification, state.task).score(state.labelled.test_y.numpy(), said), {}

    def train(self, state: AdaptationState, labels: int) -> tuple[Adapted, dict[str, float]]:
        """Learn from the first so many labels.

        Raises
        ------
        FewerError
            If something moved in the model that should not have.
        """
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(derive(state.seed, "weights"))
            model = copy.deepcopy(state.base)
            still = [*model.named_parameters(), *model.named_buffers()]  # before anything is built in
            if self.adapter is not None:
                model = self.adapter.attach(model, state.task)
            self._free(model, {id(each) for _, each in still})
            readout = self.readout.build(model, state.task)
            head = self.head.build(int(cast(Any, readout).width), state.task, model)
            where = next((each.device for each in state.base.parameters()), torch.device("cpu"))
            adapted = Adapted(readout.to(where), head.to(where), self.select, classes_of(state.task))
            extras = self._fit(state, adapted, labels)
        before = dict([*state.base.named_parameters(), *state.base.named_buffers()])
        moved = [name for name, each in still if not each.requires_grad and not torch.equal(each, before[name])]
        if moved and self.trainable != "all":
            raise FewerError(
                f"adaptation: {moved[0]} of the frozen model changed while it was adapted to; that is a fault here"
            )
        return adapted, extras

    def _free(self, model: nn.Module, old: set[int]) -> None:
        """Let those of the model's own parameters move that may."""
        norms = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
        for module in model.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if id(parameter) in old:
                    of_norm, of_bias = isinstance(module, norms), name.endswith("bias")
                    free = {"adapter": False, "bias": of_bias, "norm": of_norm, "all": True}[self.trainable]
                    parameter.requires_grad_(free)

    def _fit(self, state: AdaptationState, adapted: Adapted, labels: int) -> dict[str, float]:
        readout, head = adapted.readout, adapted.head
        aside = round(self.validation * labels)
        kept_back = (
            rows_at(state.labelled.x, slice(labels - aside, labels)),
            state.labelled.y[labels - aside : labels],
        )
        labels -= aside
        if labels < 1:
            raise FewerError(f"adaptation: all {aside} labels are set aside by validation={self.validation}; lower it")
        x, y = rows_at(state.labelled.x, slice(labels)), state.labelled.y[:labels]
        domains = None if state.labelled.domains is None else state.labelled.domains[:labels]
        fixed = not any(each.requires_grad for each in readout.parameters())
        known = adapted.features(x) if fixed else None
        both = nn.ModuleList([readout, head])
        learning = [group for group in parameter_groups(both) if any(each.requires_grad for each in group["params"])]
        report = {"parameters": float(trainable(both))}
        if not learning:
            return report
        optimiser = self.optimiser.make(
            [{**group, "params": [each for each in group["params"] if each.requires_grad]} for group in learning]
        )
        order = generator(state.seed, "order")
        left = np.zeros(0, dtype=np.int64)
        loss = torch.zeros(())
        best = BestSoFar(adapted, *kept_back, self.patience) if aside else None
        epoch = -(-labels // self.batch)
        adapted.learn(self.trainable == "all")
        for step in range(self.steps):
            while len(left) < min(self.batch, labels):
                left = np.concatenate([left, order.permutation(labels)])
            chosen, left = torch.from_numpy(left[: self.batch]), left[self.batch :]

            def forward(chosen: Tensor = chosen) -> Tensor:
                features = known[chosen] if known is not None else readout(adapted.there(rows_at(x, chosen)))
                of = None if domains is None else adapted.there(domains[chosen])
                return head.loss(features, cast(Tensor, adapted.there(y[chosen])), cast(Any, of)).mean()

            if step == 0:
                report["bytes_for_backward"] = float(bytes_for_backward(forward, both.parameters()))
            set_rate(optimiser, self.schedule.factor(step / self.steps))
            loss = forward()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if best is not None and ((step + 1) % epoch == 0 or step + 1 == self.steps):
                if best.enough():
                    break
                adapted.learn(self.trainable == "all")
        if best is not None:
            best.restore()
        both.eval()
        if not torch.isfinite(loss):
            raise Diverged(f"the loss became {float(loss.detach())} with {labels} labels; lower the learning rate")
        return report | {"loss": float(loss.detach())}


def _labelled(task: Classification, seed: int, tokens: Callable[[list[str]], Inputs] | None = None) -> Labelled:
    split = task.split(seed)
    y, test_y = torch.from_numpy(split.y.astype(np.int64)), torch.from_numpy(split.test_y.astype(np.int64))
    if split.x.dtype == object:
        if tokens is None:
            raise FewerError(f"{task.name}: the model needs numbers and the rows are texts; give features")
        return Labelled(tokens(split.x.tolist()), y, tokens(split.test_x.tolist()), test_y)
    x, test_x = (torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32)) for each in (split.x, split.test_x))
    return Labelled(x, y, test_x, test_y)
