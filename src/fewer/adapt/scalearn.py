"""ScaLearn: what frozen adapters of other tasks say is scaled by learned coefficients and summed.

Instead of an attention over source adapters with millions of parameters, each source's output gets a coefficient, free of any
constraint: it may be negative, and they need not sum to one.  With o_t = a_t(x) what task t's adapter would add in a layer::

    y = residual + sum_t omega_t * o_t

where omega_t is a vector over channels in each layer (T d L numbers: ``vector``), a number in each layer (T L: ``uniform``), a
vector for all layers (T d: ``++``) or a number for all layers (T: ``uniform++``).  They begin at N(2 / T, 0.001^2); dropout of
0.3 falls on the coefficients themselves, but for ``uniform++``.  The model and the adapters stay as they are to the bit.

References
----------
Markus Frohmann, Carolin Holtermann, Shahed Masoudian, Anne Lauscher and Navid Rekabsaz, "ScaLearn: Simple and Highly
Parameter-Efficient Task Transfer by Learning to Scale", Findings of ACL 2024, arXiv:2310.01217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.adapt.adapter_fusion import AdapterFusion, fusion_parameters
from fewer.adapt.bottleneck_adapter import Bottleneck, Bottlenecks, Composed, built_in_compositions
from fewer.adapt.loop import Adaptation
from fewer.adapt.source_adapters import AdapterSoup, Sources, attach_sources
from fewer.adapt.template_sentences import TARGETS, TemplateSentences
from fewer.claim import Claim, Measures, Tiny, higher, identical, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.optimisers import AdamW
from fewer.models.vit import undecayed

Variant = Literal["vector", "uniform", "++", "uniform++"]
VARIANTS: tuple[Variant, ...] = ("vector", "uniform", "++", "uniform++")
Constraint = Literal["mean", "softmax"]


class Coefficients(nn.Module):
    """The learned omega: of one layer, or of all.

    Parameters
    ----------
    tasks : int
        How many adapters there are.
    channels : int
        Coefficients of each: the model's width, or 1.
    dropout : float, default 0.3
        Share of them that is zero at a step, the others being scaled up.
    constraint : {"mean", "softmax"}, optional
        Let them sum to one over tasks, by division or by softmax: ablations, both worse than none in the paper.

    Examples
    --------
    >>> Coefficients(8, 768)().shape
    torch.Size([8, 768])
    """

    def __init__(self, tasks: int, channels: int, dropout: float = 0.3, constraint: Constraint | None = None) -> None:
        super().__init__()
        self.omega = nn.Parameter(2.0 / tasks + 0.001 * torch.randn(tasks, channels))
        self.dropout, self.constraint = nn.Dropout(dropout), constraint

    def forward(self) -> Float[Tensor, "tasks channels"]:
        """As they are applied."""
        omega = self.dropout(self.omega)
        if self.constraint == "mean":
            return omega / omega.sum(0)
        return omega.softmax(0) if self.constraint == "softmax" else omega


class Scaled(Composed):
    """Frozen adapters at one place, scaled by coefficients and summed.

    Parameters
    ----------
    adapters, norm
        See :class:`~fewer.adapt.bottleneck_adapter.Composed`.
    coefficients : Coefficients
        Its own, or those that all layers share.
    lr : float, default 6e-3
        Their peak learning rate.
    """

    def __init__(
        self, adapters: Bottlenecks, norm: nn.LayerNorm | None, coefficients: Coefficients, lr: float = 6e-3
    ) -> None:
        super().__init__(adapters, norm)
        self.coefficients, self.lr = coefficients, lr

    def added(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """The scaled sum."""
        return self.adapters.mixed(x, self.coefficients())

    def own_groups(self) -> list[dict[str, Any]]:
        """Their own rate, and no decay."""
        return [{**group, "lr": self.lr} for group in undecayed(self.coefficients.omega)]


@dataclass(frozen=True)
class ScaLearn:
    """Learned scales of frozen source adapters, for the slot ``adapter``; by itself, ``attach`` builds them into a model.

    Parameters
    ----------
    variant : {"vector", "uniform", "++", "uniform++"}, default "vector"
        A coefficient for each channel and layer, each layer, each channel, or one alone, of each source task.
    adapters : mapping of str to TaskAdapter, or path, optional
        The sources, which are copied and frozen; a folder they were saved to; by default those that the model brings as its
        attribute ``source_adapters``.  The target's own adapter may be among them.
    dropout : float, optional
        On the coefficients; 0.3 by default, and 0 for ``uniform++`` and where a mean would be divided by nothing.
    constraint : {"mean", "softmax"}, optional
        Let coefficients sum to one: ablations.
    lr : float, default 6e-3
        Peak learning rate of the coefficients; the head's is the loop's.

    Examples
    --------
    >>> from fewer.adapt.bottleneck_adapter import Bottleneck
    >>> from fewer.models.vit import VisionTransformer
    >>> sizes = dict(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> net = VisionTransformer(**sizes).requires_grad_(False)
    >>> way = Bottleneck(reduction=4)
    >>> sources = {task: way.trained(way.attach(VisionTransformer(**sizes)), task) for task in ("dogs", "cats")}
    >>> adapted = ScaLearn("uniform", sources).attach(net)
    >>> sum(each.numel() for each in adapted.parameters() if each.requires_grad)
    4
    """

    variant: Variant = "vector"
    adapters: Sources = None
    dropout: float | None = None
    constraint: Constraint | None = None
    lr: float = 6e-3

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise FewerError(f"scalearn: variant is {self.variant!r}; choose {', '.join(VARIANTS)}")
        if self.constraint not in (None, "mean", "softmax"):
            raise FewerError(f"scalearn: constraint is {self.constraint!r}; choose mean, softmax or None")
        if not (self.dropout is None or 0 <= self.dropout < 1) or not self.lr > 0:
            raise FewerError(f"scalearn: dropout must lie in [0, 1) and lr be above 0; given {self}")
        if self.constraint == "mean" and self.dropout:
            raise FewerError(
                "scalearn: with the constraint mean, all that a channel has may be dropped; leave out dropout"
            )

    def attach(self, model: nn.Module, task: Task | None = None) -> nn.Module:
        """Build them in, in place.

        Raises
        ------
        FewerError
            If there are no source adapters, or they do not fit one another or the model.
        """
        none = self.variant == "uniform++" or self.constraint == "mean"
        dropout = (0.0 if none else 0.3) if self.dropout is None else self.dropout
        shared: list[Coefficients] = []

        def made(stacked: Bottlenecks, norm: nn.LayerNorm | None, width: int) -> Composed:
            channels = 1 if self.variant.startswith("uniform") else width
            if not shared or not self.variant.endswith("++"):
                shared[:] = [Coefficients(len(stacked.down), channels, dropout, self.constraint)]
            return Scaled(stacked, norm, shared[0], self.lr)

        return attach_sources(model, self.adapters, "scalearn", made)


def scaling_coefficients(model: nn.Module) -> Float[Tensor, "layers tasks channels"]:
    """The learned coefficients as they are applied: of each layer, or of one where all share them.

    Parameters
    ----------
    model : nn.Module
        Into which :class:`ScaLearn` was built.

    Raises
    ------
    FewerError
        If it was not.
    """
    found = {id(each.coefficients): each.coefficients for each in model.modules() if isinstance(each, Scaled)}
    if not found:
        raise FewerError(f"scalearn: there are no coefficients in this {type(model).__name__}; build them in by attach")
    modes = {key: each.training for key, each in found.items()}
    try:
        return torch.stack([each.eval()().detach().cpu() for each in found.values()])
    finally:
        for key, each in found.items():
            each.train(modes[key])


def coefficient_table(model: nn.Module) -> pd.DataFrame:
    """How much each source task counts in each layer: the mean of its coefficients over channels.

    Parameters
    ----------
    model : nn.Module
        Into which :class:`ScaLearn` was built.

    Returns
    -------
    DataFrame
        A row for each task; a column for each layer, or one where all layers share coefficients.
    """
    means = scaling_coefficients(model).mean(-1)
    tasks = built_in_compositions(model)[0].tasks
    columns = (
        ["all layers"] if len(means) < len(built_in_compositions(model)) else [f"layer {i}" for i in range(len(means))]
    )
    return pd.DataFrame(means.T.numpy(), index=pd.Index(tasks, name="task"), columns=columns)


def scaling_parameters(variant: Variant, tasks: int, width: int, layers: int) -> int:
    """How many coefficients a variant learns.

    Examples
    --------
    >>> [scaling_parameters(each, tasks=8, width=768, layers=12) for each in VARIANTS]
    [73728, 96, 6144, 8]
    """
    return tasks * (1 if variant.startswith("uniform") else width) * (1 if variant.endswith("++") else layers)


# --- the claim -----------------------------------------------------------------------------------

RATES: dict[str, float] = {
    "head": 0.03,
    "soup": 0.03,
    "adapter": 0.01,
    "fusion": 0.003,
    "faster fusion": 0.01,
    "full": 0.001,
    "scalearn": 0.02,
    "scalearn uniform": 0.02,
    "scalearn ++": 0.02,
    "scalearn uniform++": 0.06,
    "mean": 0.02,
    "softmax": 0.02,
}
"""Of what is built in and of the head: for some of them the better of two on seed 100, for the others that of the nearest kind;
AdapterFusion gets two, and counts by the better."""


def _arms() -> dict[str, dict[str, Any]]:
    rate = RATES
    return {
        "head": {},
        "soup": {"adapter": AdapterSoup()},
        "adapter": {"adapter": Bottleneck(8, lr=rate["adapter"])},
        "fusion": {"adapter": AdapterFusion(lr=rate["fusion"])},
        "faster fusion": {"adapter": AdapterFusion(lr=rate["faster fusion"])},
        "full": {"trainable": "all"},
        "scalearn": {"adapter": ScaLearn("vector", lr=rate["scalearn"])},
        "scalearn uniform": {"adapter": ScaLearn("uniform", lr=rate["scalearn uniform"])},
        "scalearn ++": {"adapter": ScaLearn("++", lr=rate["scalearn ++"])},
        "scalearn uniform++": {"adapter": ScaLearn("uniform++", lr=rate["scalearn uniform++"])},
        "mean": {"adapter": ScaLearn("vector", constraint="mean", lr=rate["mean"])},
        "softmax": {"adapter": ScaLearn("vector", constraint="softmax", lr=rate["softmax"])},
    }


FEW, MORE = "accuracy with 32 labels", "accuracy with 100 labels"


def measure(seed: int, tiny: bool) -> Measures:
    """Mean accuracy over three targets with 32 labels, of some with 100, and how many numbers were trained but the head."""
    small: dict[str, Any] = {"test": 100, "pretraining": 5, "source_rows": 40, "source_epochs": 1} if tiny else {}
    measured: dict[str, dict[str, float]] = {}
    for name, filling in _arms().items():
        measured[name] = {}
        amounts = {FEW: 32} | ({MORE: 100} if name in ("adapter", "scalearn") else {})
        for metric, labels in list(amounts.items())[: 1 if tiny else None]:
            scores: dict[str, float] = {}
            trained = 0.0
            for target in list(TARGETS)[: 1 if tiny else None]:
                loop = Adaptation(**filling, optimiser=AdamW(RATES[name], 0.0), steps=2 if tiny else 150, points=1)
                point = loop.learn(TemplateSentences(target, **small), labels, seed).curve.points[-1]
                scores[f"{target}, {labels} labels"] = point.score
                trained = point.extras["parameters"] - 2 * (64 + 1)  # the head's
            measured[name] |= {metric: sum(scores.values()) / len(scores), **scores, "parameters": trained}
    for name, variant in zip(
        ("scalearn", "scalearn uniform", "scalearn ++", "scalearn uniform++"), VARIANTS, strict=True
    ):
        measured[f"{name} by formula"] = {"parameters": float(scaling_parameters(variant, 6, 64, 4))}
    measured["scalearn in RoBERTa"] = {"parameters": float(scaling_parameters("vector", 8, 768, 12))}
    measured["fusion in RoBERTa"] = {"parameters": float(fusion_parameters(768, 12))}
    return measured


claim = Claim(
    says="With 32 labels, scaling frozen adapters of six other tasks by learned coefficients tells more than a fresh adapter "
    "and no less than AdapterFusion, with under 1 % of its parameters; a number for each task and layer, or for each task "
    "alone, is enough.",
    measure=measure,
    seeds=3,
    holds=[
        *(
            identical("parameters", name, to=f"{name} by formula")
            for name in ("scalearn", "scalearn uniform", "scalearn ++", "scalearn uniform++")
        ),
        ratio("parameters", "scalearn in RoBERTa", to="fusion in RoBERTa", at_most=0.01),
        higher(FEW, "scalearn", than="adapter", by=0.02),
        no_worse(FEW, "scalearn", than=("fusion", "faster fusion"), within=0.005),
        no_worse(FEW, ("scalearn uniform", "scalearn uniform++"), than="scalearn", within=0.03),
    ],
    tiny=Tiny(seeds=2),
    note="Sentences of a grammar of 120 words and a small encoder that has learned to name hidden words; all entries of a seed "
    "share it and the adapters of six tasks with 1,500 labels each. Means over three targets (150 steps, no labels put aside); "
    "the one that turns a word's sign by a negation is at chance for every entry with 32 labels. The two extreme sizes, "
    "in RoBERTa-base with 8 tasks, are counted by formula.",
)
