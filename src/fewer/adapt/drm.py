"""Domain-specific risk minimisation: a classifier for each source domain beside a shared one, and a choice for each row.

One classifier for all domains may lie far from the best one for a new domain.  With domains k = 1 .. K, an encoder f and
linear classifiers h_0 (shared), h_1 .. h_K::

    loss = 1/K sum_k 1/2 E_k[ CE(h_k(f(x)), y) + CE(h_0(f(x)), y) ]

so that h_k sees domain k alone and f all.  Met with a row, P_k = softmax h_k(f(x)) and its entropy H_k, the prediction is
sum_k w_k P_k with w by the entropies (the paper's: w_k ~ H_k^-gamma, or the least entropy alone), by a discriminator that
tells domains by their features, or by the distance to the domains' mean features.  Rows that come without labels go on
training the classifiers: those whose prediction is at least beta are taken for labelled.

References
----------
Yi-Fan Zhang et al., "Domain-Specific Risk Minimization for Out-of-Distribution Generalization", KDD 2023,
arXiv:2208.08661.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.concept_shift import ConceptShift
from fewer.adapt.loop import Adaptation, HeadModule, Inputs, Select, Update, classes_of, refuse_names, rows_at
from fewer.claim import Claim, Measures, higher, no_worse
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.optimisers import AdamW

By = Literal["discriminator", "distance", "soft", "hard", "uniform", "shared"]
Pseudo = Literal["drm", "own", "shared", "uniform"]
NEVER = -1e9
"""Logit of a class that a classifier has not seen."""


class DomainHeads(HeadModule):
    """A shared linear classifier, one for each domain, and what tells the domains apart.

    Parameters
    ----------
    width : int
        Of features.
    classes, domains : int
        How many.

    Attributes
    ----------
    weight, bias : parameters (heads, classes, width) and (heads, classes)
        The shared classifier first.
    seen : bool tensor (heads, classes)
        Classes that a head was trained on; in evaluation it gives the others no probability.
    means : tensor (domains, width)
        Mean features over the last fifty batches or so.

    Examples
    --------
    >>> head = DomainHeads(width=8, classes=3, domains=2)
    >>> head.logits(torch.zeros(5, 8)).shape
    torch.Size([5, 3, 3])
    """

    seen: Tensor
    means: Tensor
    batches: Tensor

    def __init__(self, width: int, classes: int, domains: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(domains + 1, classes, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(domains + 1, classes).uniform_(-bound, bound))
        self.discriminator = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, domains))
        self.register_buffer("seen", torch.zeros(domains + 1, classes, dtype=torch.bool))
        self.register_buffer("means", torch.zeros(domains, width))
        self.register_buffer("batches", torch.zeros(domains))

    def logits(
        self, features: Float[Tensor, "rows width"], classes: tuple[str, ...] | None = None
    ) -> Float[Tensor, "rows heads classes"]:
        """What each classifier says, the shared one first."""
        refuse_names(classes)
        said = torch.einsum("rw,hcw->rhc", features, self.weight) + self.bias
        # before anything was seen nobody is told to be silent
        known = self.seen | ~self.seen.any(dim=1, keepdim=True)
        return said if self.training else said.masked_fill(~known, NEVER)

    def loss(
        self, features: Float[Tensor, "rows width"], y: Int[Tensor, " rows"], domains: Int[Tensor, " rows"] | None
    ) -> Float[Tensor, " rows"]:
        """Loss of each row, weighed so that its mean is the mean over domains of their means."""
        if domains is None:
            raise FewerError("drm: rows do not say which domain they are from; give domains")
        said = torch.einsum("rw,hcw->rhc", features, self.weight) + self.bias
        row = torch.arange(len(y), device=y.device)
        both = nn.functional.cross_entropy(said[row, domains + 1], y, reduction="none")
        both = 0.5 * (both + nn.functional.cross_entropy(said[:, 0], y, reduction="none"))
        apart = features.detach()
        told = nn.functional.cross_entropy(self.discriminator(apart), domains, reduction="none")
        counts = torch.bincount(domains, minlength=len(self.means))
        if self.training:
            self._remember(apart, y, domains, counts)
        share = len(y) / (counts[domains] * (counts > 0).sum())
        return share * (both + told)

    @torch.no_grad()
    def _remember(self, features: Tensor, y: Tensor, domains: Tensor, counts: Tensor) -> None:
        self.seen[domains + 1, y] = True
        self.seen[0, y] = True
        sums = torch.zeros_like(self.means).index_add_(0, domains, features)
        there = counts > 0
        self.batches += there
        rate = (there / self.batches.clamp(1, 50))[:, None]
        self.means += rate * (sums / counts.clamp(min=1)[:, None] - self.means)


@dataclass(frozen=True)
class PerDomain:
    """One linear classifier for each domain of the task, and a shared one."""

    def build(self, width: int, task: Task, model: nn.Module) -> HeadModule:
        """Make them."""
        domains = getattr(task, "domains", ())
        if not domains:
            raise FewerError(f"drm: {task.name} has no domains; give a task that has, such as concept-shift()")
        return DomainHeads(width, len(classes_of(task)), len(domains))


def entropy(probabilities: Float[Tensor, "*rows classes"]) -> Float[Tensor, " *rows"]:
    """Entropy in nats.

    Examples
    --------
    >>> round(float(entropy(torch.full((4,), 0.25))), 4)
    1.3863
    """
    return -torch.xlogy(probabilities, probabilities).sum(-1)


@dataclass(frozen=True)
class DomainSelect:
    """How much each classifier is believed, for each row.

    Parameters
    ----------
    by : {"discriminator", "distance", "soft", "hard", "uniform", "shared"}, default "discriminator"
        The probabilities of a row's domains; a softmax of minus twice its distance to the domains' mean features (both
        leave the shared classifier out); entropies to the power of ``-gamma``; the least entropy alone; all alike; the
        shared one alone.
    gamma : float, default 1
        For "soft"; 0 is "uniform", and large values come near "hard".
    """

    by: By = "discriminator"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise FewerError(f"drm: select is {self.by!r}; choose one of {', '.join(get_args(By))}")
        if not 0 <= self.gamma < math.inf:
            raise FewerError(f"drm: gamma is {self.gamma}; give a number of 0 or more")

    def weights(
        self, logits: Float[Tensor, "rows heads classes"], features: Float[Tensor, "rows width"], head: HeadModule
    ) -> Float[Tensor, "rows heads"]:
        """Shares that sum to one, the shared classifier's first."""
        rows, heads, _ = logits.shape
        match self.by:
            case "uniform":
                return logits.new_full((rows, heads), 1 / heads)
            case "shared":
                return nn.functional.one_hot(torch.zeros(rows, dtype=torch.long), heads).to(logits)
            case "soft" | "hard":
                unsure = entropy(logits.softmax(-1))
                if self.by == "hard":
                    return nn.functional.one_hot(unsure.argmin(1), heads).to(logits)
                return (-self.gamma * unsure.clamp(min=1e-6).log()).softmax(1)
        if not isinstance(head, DomainHeads):
            raise FewerError(f"drm: select {self.by!r} needs a classifier for each domain; take the head of drm")
        domain = head.discriminator(features) if self.by == "discriminator" else -2 * torch.cdist(features, head.means)
        return nn.functional.pad(domain.softmax(1), (1, 0))


@dataclass(frozen=True)
class PseudoLabels:
    """Go on training the classifiers on rows that come without labels.

    Parameters
    ----------
    label : {"drm", "own", "shared", "uniform"}, default "drm"
        Who says what a row is: the selected mixture, each classifier for itself, the shared one, the mean of all.
    confidence : float, default 0.9
        beta: rows are used whose label has at least this probability, in (0, 1], or above 1 for none.
    lr : float, default 3e-3
        Adam's.
    steps : int, default 1
        For each batch.
    batch : int, default 32
        Rows a batch, in the order they come.
    everything : bool, default False
        Train whatever was trained before, and not the classifiers alone.

    Notes
    -----
    What is said of a batch is said before it is learned from.
    """

    label: Pseudo = "drm"
    confidence: float = 0.9
    lr: float = 3e-3
    steps: int = 1
    batch: int = 32
    everything: bool = False

    def __post_init__(self) -> None:
        if self.label not in get_args(Pseudo):
            raise FewerError(f"drm: label is {self.label!r}; choose one of {', '.join(get_args(Pseudo))}")
        if not self.confidence > 0 or min(self.steps, self.batch) < 1 or not self.lr > 0:
            raise FewerError(f"drm: confidence and lr must be above 0, steps and batch 1 or more; given {self}")

    def predict(self, adapted: Adapted, x: Inputs) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of rows that come in this order; trains what was adapted."""
        online = Online(adapted, self)
        count = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
        said = [online(rows_at(x, slice(begin, begin + self.batch))) for begin in range(0, count, self.batch)]
        return torch.cat(said).cpu().numpy()


class Online:
    """A model that learns from the batches it is asked about.

    Parameters
    ----------
    adapted : Adapted
        Changed in place; its head is one of :class:`DomainHeads`, or has a ``logits``.
    how : PseudoLabels
        What it learns.
    """

    def __init__(self, adapted: Adapted, how: PseudoLabels) -> None:
        self.adapted, self.how = adapted, how
        head = adapted.head
        learned = [head.weight, head.bias] if isinstance(head, DomainHeads) else list(head.parameters())
        if how.everything:
            learned += [each for each in adapted.readout.parameters() if each.requires_grad]
        learned = [each for each in learned if each.requires_grad]
        self.optimiser = AdamW(how.lr, 0.0).make(learned) if learned else None

    def __call__(self, x: Inputs) -> Float[Tensor, "rows classes"]:
        """Probabilities of a batch, said before it is learned from."""
        adapted, how = self.adapted, self.how
        adapted.readout.eval()
        adapted.head.eval()
        with torch.no_grad():
            features = adapted.features(x)
            said = adapted.mixed(features)
        # a row is used for its own probability; a mixture's is its maximum, and not that of a softmax of it
        if self.optimiser is None or how.confidence > 1:
            return said
        for step in range(how.steps):
            with torch.enable_grad():
                if how.everything:
                    features = adapted.readout(adapted.there(x))
                logits = adapted.head.logits(features)
                loss = self._loss(logits, said if step == 0 else None, features)
            self.optimiser.zero_grad(set_to_none=True)
            if loss.requires_grad:
                loss.backward()
                self.optimiser.step()
        return said

    def _loss(self, logits: Tensor, said: Tensor | None, features: Tensor) -> Tensor:
        with torch.no_grad():
            each = logits.softmax(-1)
            if self.how.label == "own":
                guess = each
            elif self.how.label == "drm":
                guess = (self.adapted.mixed(features) if said is None else said)[:, None]
            else:
                guess = (each[:, 0] if self.how.label == "shared" else each.mean(1))[:, None]
            sure, label = guess.expand_as(each).max(-1)
            # a classifier that has never seen a class is not told of it
            known = logits.gather(-1, label[..., None])[..., 0] > NEVER / 2
            used = (sure >= self.how.confidence) & known
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view_as(used)
        rows = used.any(1).sum().clamp(min=1)
        return torch.where(used, losses, losses.new_zeros(())).sum() / rows


def DRM(
    select: By = "discriminator",
    gamma: float = 1.0,
    online: bool = False,
    trainable: Literal["adapter", "bias", "norm", "all"] | None = "all",
) -> dict[str, Any]:
    """Fill the slots: classifiers for each domain, which is believed, and whether they go on learning.

    Parameters
    ----------
    select : str, default "discriminator"
        See :class:`DomainSelect`; the paper's own is "soft" or "hard".
    gamma : float, default 1
        For "soft".
    online : bool, default False
        Go on with pseudo-labels when the task is met; see :class:`PseudoLabels`.
    trainable : {"adapter", "bias", "norm", "all"}, default "all"
        Which of the encoder's own parameters move.

    Examples
    --------
    >>> sorted(DRM())
    ['head', 'select', 'trainable', 'update']
    """
    update: Update | None = PseudoLabels() if online else None
    chosen: Select = DomainSelect(select, gamma)
    filled: dict[str, Any] = {"head": PerDomain(), "select": chosen, "update": update}
    return filled if trainable is None else filled | {"trainable": trainable}


def ERM() -> Literal["all"]:
    """Empirical risk minimisation: all domains pooled, one classifier, everything moves."""
    return "all"


# --- the claim -------------------------------------------------------------------------------------------------------


def measure_concept_shift(seed: int, tiny: bool) -> Measures:
    """All ways to choose on one training, with 100 and 400 rows of each domain."""
    measured: dict[str, dict[str, float]] = {}
    for rows in (100, 400):
        task = ConceptShift(rows=20 if tiny else rows, test=50 if tiny else 300)
        common: dict[str, Any] = {
            "optimiser": AdamW(3e-3, 1e-4),
            "steps": 5 if tiny else 400,
            "batch": 32 * task.sources,
            "points": 1,
        }
        budget = task.rows * task.sources
        erm = Adaptation(trainable=ERM(), **common)
        drm = Adaptation(**cast(Any, DRM() | common))
        states = {"erm": erm.start(task, budget, seed), "drm": drm.start(task, budget, seed)}
        pooled, _ = erm.train(states["erm"], budget)
        adapted, _ = drm.train(states["drm"], budget)

        def note(name: str, score: tuple[float, dict[str, float]], rows: int = rows) -> None:
            measured.setdefault(name, {}).update({f"target@{rows}": score[0], f"source@{rows}": score[1]["source"]})

        note("erm", erm.score(states["erm"], pooled))
        for by in get_args(By):
            adapted.select = DomainSelect(by)
            note(by, drm.score(states["drm"], adapted))
        adapted.select = DomainSelect()
        online = Adaptation(**cast(Any, DRM(online=True) | common))
        note("discriminator, online", online.score(states["drm"], adapted))
        labelled = states["drm"].labelled
        assert labelled.test_domains is not None
        features = adapted.features(labelled.test_x)
        with torch.no_grad():
            said = adapted.head.logits(features).argmax(-1)
        own = said[torch.arange(len(said)), labelled.test_domains % task.sources + 1] == labelled.test_y
        where = labelled.test_domains < task.sources
        note("own domain's", (float(own[~where].float().mean()), {"source": float(own[where].float().mean())}))
    return measured


claim = Claim(
    says="Where each domain has a rule of its own, classifiers for each domain, believed as a discriminator says, are "
    "right more often than one for all, at home and in new regions.",
    measure=measure_concept_shift,
    seeds=5,
    holds=[
        *(higher(f"target@{rows}", "discriminator", than="erm", by=0.01) for rows in (100, 400)),
        *(no_worse(f"source@{rows}", "discriminator", than="erm", within=0.0) for rows in (100, 400)),
        *(higher(f"source@{rows}", "own domain's", than="erm", by=0.02) for rows in (100, 400)),
        *(higher(f"target@{rows}", "discriminator", than="uniform") for rows in (100, 400)),
    ],
    note="The paper's choice by entropy ('soft', 'hard') is reported beside it: classifiers trained on few rows are sure of "
    "themselves off their domain. Targets are the sources' rules with the domain part moved by 30 % to the mean.",
)
