"""SetFit: fit an encoder so that rows of one class point the same way, then a linear head.

Pairs of rows are drawn, a positive (same class) and a negative one for each row and pass, and the
cosine of their embeddings is regressed on 1 or 0::

    loss = mean over pairs of  (w_i + w_j) / 2 * (cos(e_i, e_j) - t_ij)^2

With few labels, pairs are many more than rows, which is why so few labels suffice.  When a fit goes
on with pseudo-labels, the passes are fewer by as much as the rows are more: the number of pairs stays
about what it was.

Reference: L. Tunstall et al., "Efficient Few-Shot Learning Without Prompts", arXiv:2209.11055; with
weights as in C. Schröder and G. Heyer, arXiv:2406.09206.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.labels.encoders import LinearEncoder, SentenceEncoder, encode
from fewer.labels.learners import Logistic, device, flat, ramp
from fewer.labels.loop import PSEUDO, Examples, Model, Round

WIDEST = 4096
"""Features up to which a square matrix is trained on them."""


def contrastive_pairs(
    labels: Int[np.ndarray, " rows"], passes: int, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Draw a positive and a negative partner for each row in each pass.

    Parameters
    ----------
    labels : int array (rows,)
        Classes; at least two different ones.
    passes : int
        How often each row comes first.
    rng : numpy Generator
        Where the partners come from; a positive one may be the row itself.

    Returns
    -------
    first, second : int array (2 * passes * rows,)
        Positions of the pairs' rows, shuffled.
    target : float array (2 * passes * rows,)
        1 for a positive pair, 0 for a negative one.

    Examples
    --------
    >>> labels = np.array([0, 0, 1])
    >>> first, second, target = contrastive_pairs(labels, 5, np.random.default_rng(0))
    >>> len(first), bool(((labels[first] == labels[second]) == target).all())
    (30, True)
    """
    order = np.argsort(labels, kind="stable")
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    begin, size = (np.cumsum(counts) - counts)[inverse], counts[inverse]
    shape = (passes, len(labels))
    positive = begin + rng.integers(0, size, shape)
    other = rng.integers(0, len(labels) - size, shape)
    negative = other + np.where(other >= begin, size, 0)  # jump over the row's own class
    first = np.broadcast_to(np.arange(len(labels)), (2, *shape)).ravel()
    second = order[np.stack([positive, negative]).ravel()]
    target = np.repeat([1.0, 0.0], passes * len(labels)).astype(np.float32)
    shuffled = rng.permutation(len(first))
    return first[shuffled], second[shuffled], target[shuffled]


def passes_within(passes: int, labels: int, pseudo: int) -> int:
    """Passes over labels and pseudo-labels that make about as many pairs as ``passes`` over the labels.

    Examples
    --------
    >>> passes_within(5, labels=30, pseudo=0), passes_within(5, labels=30, pseudo=470)
    (5, 1)
    """
    return max(1, -(-passes * labels // (labels + pseudo)))


def cosine_regression(
    first: Float[Tensor, "pairs width"],
    second: Float[Tensor, "pairs width"],
    target: Float[Tensor, " pairs"],
    weight: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """Weighted squared error of each pair's cosine; not reduced."""
    return weight * (nn.functional.cosine_similarity(first, second) - target).square()


@dataclass
class FittedSetFit:
    """A fitted encoder and the head on its embeddings."""

    encoder: nn.Module
    head: Model
    _last: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    def predict_proba(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows classes"]:
        """The head's probabilities."""
        return self.head.predict_proba(self.embed(x))

    def embed(self, x: Shaped[np.ndarray, "rows ..."]) -> Float[np.ndarray, "rows width"]:
        """The encoder's output, not normalised."""
        # a pool is asked for its probabilities and for its features, and texts are dear to encode
        if self._last is None or self._last[0] is not x:
            self._last = (x, encode(self.encoder, x))
        return self._last[1]

    def sample_proba(
        self, x: Shaped[np.ndarray, "rows ..."], passes: int, seed: int
    ) -> Float[np.ndarray, "passes rows classes"]:
        """The head's probabilities in several passes with the encoder's dropout left on.

        Raises
        ------
        FewerError
            If the encoder has no dropout.
        """
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            drawn = [self.head.predict_proba(encode(self.encoder, x, dropout=True)) for _ in range(passes)]
        return np.stack(drawn)


@dataclass(frozen=True)
class SetFit:
    """Contrastive fine-tuning of an encoder, then logistic regression.

    Parameters
    ----------
    path : str, optional
        Folder of a sentence encoder, for texts (:class:`SentenceEncoder`; needs ``transformers``).
        Without it, rows are feature vectors and the encoder is a square matrix that starts as the
        identity (:class:`LinearEncoder`).
    passes : int, default 5
        Passes over the labels; each gives two pairs a row.
    lr : float, optional
        Peak learning rate of AdamW, after a linear rise over a tenth of the steps and before a linear
        fall to 0; by default 2e-5 for a sentence encoder and 2e-3 for a matrix.
    batch : int, default 24
        Pairs a step.
    C : float, default 1
        Inverse strength of the head's penalty.
    weighted_head : bool, default False
        Whether the head minds the examples' weights.  In SetFit's release, and in HAST's, it does not:
        weights then reach the encoder only.
    dropout : float, default 0
        Share of the features dropped before the matrix; a sentence encoder brings its own.
    length : int, default 128
        Tokens of a text that are read.

    References
    ----------
    L. Tunstall et al., arXiv:2209.11055; C. Schröder and G. Heyer, arXiv:2406.09206.

    Examples
    --------
    >>> from fewer.labels.loop import ActiveLearning
    >>> from fewer.tasks.classification import Classification
    >>> x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2
    >>> task = Classification("toy", x + 3 * y[:, None], y, ("even", "odd"), test=20)
    >>> ActiveLearning(learner=SetFit(), balanced=True).learn(task, budget=10).curve.final
    1.0
    """

    path: str | None = None
    passes: int = 5
    lr: float | None = None
    batch: int = 24
    C: float = 1.0
    weighted_head: bool = False
    dropout: float = 0.0
    length: int = 128

    def __post_init__(self) -> None:
        if min(self.passes, self.batch, self.length) < 1:
            raise FewerError(
                f"setfit: passes, batch and length must be at least 1; they are {self.passes}, {self.batch}, {self.length}"
            )
        if not self.C > 0 or not (self.lr is None or self.lr > 0) or not 0 <= self.dropout < 1:
            raise FewerError(
                f"setfit: C and lr must be positive and dropout in [0, 1); they are {self.C}, {self.lr}, {self.dropout}"
            )

    def fit(self, examples: Examples, round: Round, start: Model | None = None) -> FittedSetFit:
        """Fit the encoder to pairs of examples, and the head to their embeddings."""
        if round.teacher is not None:
            raise FewerError("setfit cannot learn from a teacher; use a learner that distils, such as activekd")
        if not len(examples):
            raise FewerError("setfit cannot be fitted to no examples; buy labels first")
        self._check_rows(round.x, examples.rows)
        encoder = self._begin(round, start).to(device())
        if len(np.unique(examples.labels)) > 1:
            self._contrast(
                encoder, examples, round, generator(round.seed, "setfit", round.index, int(start is not None))
            )
        embedded = encode(encoder, round.x[examples.rows])
        weight = examples.weight if self.weighted_head else np.ones_like(examples.weight)
        at = replace(examples, rows=np.arange(len(examples)), weight=weight)
        head = Logistic(self.C, max_iter=1000).fit(at, replace(round, x=embedded))
        return FittedSetFit(encoder, head)

    def _check_rows(self, x: np.ndarray, rows: np.ndarray) -> None:
        if self.path is None:
            width = flat(x[:1]).shape[1]
            if width > WIDEST:
                raise FewerError(
                    f"setfit trains a square matrix on rows of up to {WIDEST} features; these have {width}"
                )
            return
        if x.dtype != object:
            raise FewerError("setfit(path=...) encodes texts and the rows are numbers; leave path out, or give texts")
        empty = [int(row) for row in rows if not str(x[row]).strip()]
        if empty:
            raise FewerError(f"setfit: {len(empty)} texts are empty (pool rows {_some(empty)}); fill or drop them")

    def _begin(self, round: Round, start: Model | None) -> nn.Module:
        if start is not None:
            if not isinstance(start, FittedSetFit):
                raise FewerError(f"setfit can only go on from setfit, not from {type(start).__name__}")
            return copy.deepcopy(start.encoder)
        if self.path is None:
            return LinearEncoder(flat(round.x[:1]).shape[1], self.dropout)
        return SentenceEncoder(os.path.expanduser(self.path), self.length)

    def _contrast(self, encoder: nn.Module, examples: Examples, round: Round, rng: np.random.Generator) -> None:
        pseudo = int((examples.source == PSEUDO).sum())
        passes = passes_within(self.passes, len(examples) - pseudo, pseudo)
        first, second, target = contrastive_pairs(examples.labels, passes, rng)
        # by the mean, not by the sum as in the release, so that the loss keeps its size
        weight = examples.weight / examples.weight.mean()
        both = torch.from_numpy((weight[first] + weight[second]) / 2).to(device())
        wanted = torch.from_numpy(target).to(device())
        matrices = [parameter for parameter in encoder.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in encoder.parameters() if parameter.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        lr = self.lr or (2e-3 if self.path is None else 2e-5)
        optimiser = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, fused=True)
        starts = range(0, len(first), self.batch)
        encoder.train()
        for step, i in enumerate(starts):
            here = slice(i, i + self.batch)
            rows = examples.rows[np.concatenate([first[here], second[here]])]
            one, other = encoder(round.x[rows]).chunk(2)
            loss = cosine_regression(one, other, wanted[here], both[here]).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            for group in optimiser.param_groups:
                group["lr"] = lr * ramp(step, len(starts))
            optimiser.step()


def _some(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
