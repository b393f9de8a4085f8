"""VQT: learned queries summarise every layer of a frozen vision transformer, and change none of it.

The layers between hold what a task may need, and too much of it.  So each block gets a few learned tokens that act as
*queries only*: they read the keys and values of the block's own tokens, which never see them.  With Z the block's input::

    Q' = P + Attn(LN1(P); K, V of LN1(Z)),    Z' = Q' + MLP(LN2(Q'))

Z' of all blocks, and the class token behind the last one, each brought to length one, go to a linear head.  The backbone's
tokens stay as they are to the bit, so nothing needs to be kept of them for going backwards but the keys and values: memory
is near that of a linear probe, where prompts that the tokens see need it all.

References
----------
Cheng-Hao Tu, Zheda Mai and Wei-Lun Chao, "Visual Query Tuning: Towards Effective Usage of Intermediate Representations for
Parameter and Memory Efficient Transfer Learning", CVPR 2023, arXiv:2212.03220.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fewer.adapt.baselines import linear_probe
from fewer.adapt.digit_changes import KINDS, SMALL, DigitChanges, Kind, Sizes, digit_changes
from fewer.adapt.feature_selection import GroupLasso, selecting_head
from fewer.adapt.loop import Adaptation
from fewer.adapt.pooled_layers import head2toe
from fewer.adapt.visual_prompts import VisualPromptTuning
from fewer.adapt.vit_blocks import refuse_other_computations, sent_through, tokens_keys_values, vision_stack
from fewer.claim import Claim, Measures, Tiny, higher, identical, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.optimisers import AdamW, Cosine

First = Literal["token", "mean"]


class QueryReadout(nn.Module):
    """Summaries of all layers by learned queries: images to features.

    Parameters
    ----------
    model : nn.Module
        A vision transformer (see :func:`~fewer.adapt.vit_blocks.vision_stack`); it is not changed, and what is trained in it
        goes on being trained.  What was built into it (:class:`~fewer.adapt.LoRA`, prompts, adapters) is read, too.
    tokens : int, default 1
        Queries of each block.
    normalise : bool, default True
        Bring what a block gives, and the first feature, to length one.
    dropout : float, default 0.1
        Of the queries' numbers while training, drawn for each image.
    first : {"token", "mean"}, default "token"
        What is taken behind the last norm: the class token, or the mean of the patches, as masked autoencoders ask for.

    Attributes
    ----------
    width : int
        Channels times (1 + blocks * tokens).
    queries : parameter (blocks, tokens, channels)
        Which are learned.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> readout = QueryReadout(net.requires_grad_(False), tokens=3)
    >>> readout(torch.zeros(5, 1, 8, 8)).shape, readout.width
    (torch.Size([5, 112]), 112)
    """

    def __init__(
        self,
        model: nn.Module,
        tokens: int = 1,
        normalise: bool = True,
        dropout: float = 0.1,
        first: First = "token",
    ) -> None:
        super().__init__()
        self.model, self.normalise, self.first = model, normalise, first
        self.stack = vision_stack(model, "vqt")
        depth, width = self.stack.depth, self.stack.width
        bound = math.sqrt(6 / (3 * self.stack.patch_area + width))
        self.queries = nn.Parameter(torch.empty(depth, tokens, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)
        self.width = width * (1 + depth * tokens)
        self.known = False

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The first feature, then each block's summary.

        Raises
        ------
        FewerError
            If images do not fit the model, or its blocks compute otherwise than is known here (seen at the first images).
        """
        if not self.known:
            refuse_other_computations(self.model, self.stack, images, "vqt")
            self.known = True
        last, keys_values = tokens_keys_values(self.model, self.stack, images, "vqt")
        found = [last[:, 0] if self.first == "token" else last[:, 1:].mean(1)]
        for block, queries, each in zip(self.stack.blocks(self.model), self.queries, keys_values, strict=True):
            start = queries[None].to(last.dtype)
            if self.training and self.dropout.p:
                start = self.dropout(start.expand(len(images), -1, -1))
            found.append(sent_through(block, start, each).flatten(1))
        if self.normalise:
            found = [functional.normalize(each, dim=1) for each in found]
        return torch.cat(found, dim=1).to(self.queries.dtype)

    def train(self, mode: bool = True) -> QueryReadout:
        """Queries learn; a model of which nothing is trained stays in evaluation."""
        super().train(mode)
        if not any(each.requires_grad for each in self.model.parameters()):
            self.model.eval()
        return self


@dataclass(frozen=True)
class QueryTokens:
    """Describes :class:`QueryReadout`, for the slot ``readout``.

    Parameters
    ----------
    tokens : int, default 1
        Queries of each block; 10 to 20 for tasks of places and counts.
    normalise : bool, default True
        Bring each block's summary to length one.
    dropout : float, default 0.1
        Of the queries' numbers.
    first : {"token", "mean"}, default "token"
        The class token, or the mean of the patches.
    """

    tokens: int = 1
    normalise: bool = True
    dropout: float = 0.1
    first: First = "token"

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.dropout < 1 or self.first not in ("token", "mean"):
            raise FewerError(
                f"vqt: tokens must be at least 1, dropout lie in [0, 1) and first be token or mean; given {self}"
            )

    def build(self, model: nn.Module, task: Task) -> nn.Module:
        """Make it for a model."""
        return QueryReadout(model, self.tokens, self.normalise, self.dropout, self.first)


def VQT(tokens: int = 1, normalise: bool = True, dropout: float = 0.1, first: First = "token") -> dict[str, Any]:
    """Fill the slots ``readout`` and ``head``: queries (see :class:`QueryTokens`), and a linear head on what they read."""
    return {"readout": QueryTokens(tokens, normalise, dropout, first), "head": GroupLasso(penalty=0.0)}


# --- the claim -----------------------------------------------------------------------------------

RATES: dict[str, float] = {
    "linear": 0.3,
    "head2toe": 0.1,
    "vqt": 0.03,
    "vqt 4": 0.03,
    "vpt": 0.03,
    "full": 0.003,
    "vqt and vpt": 0.03,
}
"""The best of three for each entry, on the task of places with seed 100; one query is given the rate of four."""

STEPS, BATCH, LABELS = 192, 32, 200
KEPT = 0.3
"""Share of its features that head2toe keeps."""
LARGE = Sizes(patch_size=4, embed_dim=96, steps=0)
"""Of the network on which bytes are counted: 50 tokens of 96 channels."""


def arm(name: str) -> dict[str, Any]:
    """What fills the slots for an entry of the claim."""
    prompts = {"adapter": VisualPromptTuning(4)}
    arms: dict[str, dict[str, Any]] = {
        "linear": linear_probe(),
        "head2toe": head2toe(),
        "vqt": VQT(1),
        "vqt 4": VQT(4),
        "vpt": linear_probe() | prompts,
        "full": linear_probe() | {"trainable": "all"},
        "vqt and vpt": VQT(4) | prompts,
    }
    return arms[name]


def told(name: str, kind: Kind, seed: int, rate: float, tiny: bool = False) -> dict[str, float]:
    """Accuracy of an entry on one of the tasks, how many numbers it trains, and how far the backbone's tokens moved."""
    steps, labels = (4, 64) if tiny else (STEPS, LABELS)
    task = digit_changes(kind, small=tiny)
    loop = Adaptation(
        **arm(name), optimiser=AdamW(rate), schedule=Cosine(warmup=0.1), steps=steps, batch=BATCH, points=1
    )
    state = loop.start(task, labels, seed)
    adapted, costs = loop.train(state, labels)
    if name == "head2toe":
        x, y = state.labelled.x[:labels], state.labelled.y[:labels]  # pyright: ignore[reportArgumentType]
        features = adapted.features(x)
        adapted.head = selecting_head(features, y, len(task.classes), KEPT, steps=steps, lr=rate, seed=seed)
    with torch.no_grad():
        some = adapted.there(state.labelled.test_x[:64])  # pyright: ignore[reportArgumentType]
        tokens = [cast(Any, model).forward_features(some) for model in (adapted.readout.model, state.base)]
    return {
        "accuracy": loop.score(state, adapted)[0],
        "parameters": costs["parameters"],
        "change of tokens": float((tokens[0] - tokens[1]).abs().max()),
    }


def bytes_kept(name: str, seed: int, tiny: bool = False) -> float:
    """What an entry keeps for going backwards in a step of 64 images, on a larger network that was not trained."""
    task = DigitChanges("place", SMALL if tiny else LARGE)
    loop = Adaptation(**arm(name), optimiser=AdamW(1e-3), steps=1, batch=64, points=1)
    _, costs = loop.train(loop.start(task, 64, seed), 64)
    return costs["bytes_for_backward"]


def measure(seed: int, tiny: bool) -> Measures:
    """Accuracy with 200 labels on three tasks, bytes kept for going backwards, and parameters."""
    measured: dict[str, dict[str, float]] = {}
    for name, rate in RATES.items():
        each = {kind: told(name, kind, seed, rate, tiny) for kind in (KINDS[:1] if tiny else KINDS)}
        measured[name] = {
            "accuracy": float(np.mean([one["accuracy"] for one in each.values()])),
            **{f"accuracy, {kind}": one["accuracy"] for kind, one in each.items()},
            "bytes for backward": bytes_kept(name, seed, tiny),
            **{most: max(one[most] for one in each.values()) for most in ("parameters", "change of tokens")},
        }
    return measured


claim = Claim(
    says="With 200 labels, queries that read every layer of a frozen vision transformer tell more than its last layer or pooled "
    "layers, and keep a small part of what prompts or full fine-tuning keep for going backwards; beside prompts they do no "
    "harm.",
    measure=measure,
    seeds=5,
    holds=[
        higher("accuracy", "vqt 4", than="linear", by=0.03),
        higher("accuracy", "vqt", than="linear", by=0.03),
        higher("accuracy", "vqt 4", than="head2toe"),
        identical("change of tokens", "vqt 4", to="linear"),
        ratio("bytes for backward", "vqt 4", to="vpt", at_most=0.3),
        ratio("bytes for backward", "vqt 4", to="full", at_most=0.2),
        no_worse("accuracy", "vqt and vpt", than="vpt", within=0.005),
    ],
    tiny=Tiny(seeds=2),
    note="A network of 6 layers of 64 channels with patches of 7 by 7 that has learned 3,000 upright digits; 200 labels each of "
    "how far a digit was turned (of five that look different from all sides), where it lies and how thick it is, and which it is "
    "behind a blur. 192 steps of 32 for every entry, rates chosen of three for each on the second task and another seed. Bytes "
    "are counted in a step of 64 images on 6 layers of 96 channels with patches of 4 by 4. Tokens of a frozen backbone do not "
    "change at all, which is what vqt's are compared with. Both forms of the read-out agree to rounding, and pooled layers tell "
    "much more than the last, so what is wanted is there; queries begin at random and may need more steps than these.",
)
