"""SLTrain: every weight is a low-rank product plus a few learned numbers on fixed random positions.

Low rank alone limits what a layer can become; a sparse part whose support is drawn once and never learned restores full
rank for a few percent of the numbers.  The dense weight is only ever made for the moment, one layer at a time.

A weight W (d, p) of rank r, density delta and support I of floor(delta d p) places::

    W = (alpha / r) B A + S,   S[I] = v, else 0
    A ~ U(+-1/sqrt(p)),  B = 0,  v ~ U(+-1/sqrt(p)),  I uniform without repetition
    y = x W^T + bias

Backward, from x, A, B, v and I alone: W is made again for dX = dY W; with G = dY^T X, made and dropped,

    dA = (alpha / r) B^T G,   dB = (alpha / r) G A^T,   dv = G[I].

Learned numbers per layer: r (d + p) + floor(delta d p).  B A + S has full rank with high probability once delta is of
the order log(n) / n.

References
----------
Andi Han et al., "SLTrain: a sparse plus low-rank approach for parameter and memory efficient pretraining",
NeurIPS 2024, arXiv:2406.02214.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fewer.claim import Claim, Measures, Tiny, higher, identical, no_worse, ratio
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import AdamW
from fewer.nets.language import LanguageModelling
from fewer.nets.linears import TARGETS, Dense, Linears, Place, Replaced, dense_linear, replace_linears, to_dense_
from fewer.nets.low_rank import LowRank, LowRankLinear, checked_rank, uniform
from fewer.tasks.text import python_sources

__all__ = ["SLTrain", "SparsePlusLowRank", "sparse_plus_low_rank", "sparse_plus_lowrank_", "to_dense_"]


def sparse_plus_low_rank(
    x: Float[Tensor, "*batch p"],
    A: Float[Tensor, "r p"],
    B: Float[Tensor, "d r"],
    values: Float[Tensor, " n"],
    index: Int[Tensor, " n"],
    factor: float = 1.0,
    bias: Float[Tensor, " d"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """Apply W = factor * B A + S to rows, keeping for the backward pass nothing of the size of W.

    Parameters
    ----------
    x : float tensor (*batch, p)
        Rows.
    A, B : float tensor (r, p), (d, r)
        Factors; r may be 0.
    values, index : tensor (n,)
        Numbers of S and their places in its flattened form, each place once; n may be 0.
    factor : float, default 1
        Of the product; S has none.
    bias : float tensor (d,), optional
        Added.

    Returns
    -------
    float tensor (*batch, d)
        Differentiable once in all but ``index``.
    """
    return _SparsePlusLowRank.apply(x, A, B, values, index, bias, factor)  # pyright: ignore[reportReturnType]


def _dense(A: Tensor, B: Tensor, values: Tensor, index: Tensor, factor: float) -> Float[Tensor, "d p"]:
    """W, made in one buffer."""
    weight = A.new_empty(B.shape[0], A.shape[1]).addmm_(B, A, beta=0, alpha=factor)
    weight.view(-1).index_add_(0, index, values)
    return weight


class _SparsePlusLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, A: Tensor, B: Tensor, values: Tensor, index: Tensor, bias: Tensor | None, factor: float
    ) -> Tensor:
        ctx.save_for_backward(x, A, B, values, index)
        ctx.factor = factor
        return nn.functional.linear(x, _dense(A, B, values, index, factor), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, A, B, values, index = ctx.saved_tensors
        want_x, want_A, want_B, want_values, _, want_bias, _ = ctx.needs_input_grad
        dx = dA = dB = dvalues = dbias = None
        if want_x:
            dx = grad @ _dense(A, B, values, index, ctx.factor)
        rows = grad.reshape(-1, grad.shape[-1])
        if want_A or want_B or want_values:
            of_weight = rows.T @ x.reshape(-1, x.shape[-1])
            dA = ctx.factor * (B.T @ of_weight) if want_A else None
            dB = ctx.factor * (of_weight @ A.T) if want_B else None
            dvalues = of_weight.view(-1).index_select(0, index) if want_values else None
        if want_bias:
            dbias = rows.sum(0)
        return dx, dA, dB, dvalues, None, dbias, None


class SparsePlusLowRank(nn.Module):
    """A linear layer whose weight is a low-rank product plus a sparse part on fixed random places.

    Parameters
    ----------
    in_features, out_features : int
        As of ``nn.Linear``.
    rank : int, optional
        r, from 1 to below the smaller side; by default a quarter of it, as in the paper's models.
    density : float, default 0.03
        Share of the places that are learned by themselves, in (0, 1).
    alpha : float, default 32
        Scale of the product, divided by r; the paper has 32, 16, 16 and 8 for models of 60M, 130M, 350M and 1B.
    bias : bool, default True
        Add one.
    trainable_scale : bool, default False
        Scale the product by tanh of a learned number that starts at 1, in place of alpha / r.
    generator : torch Generator, optional
        On the CPU; torch's global one by default.
    device, dtype
        Of the parameters.

    Attributes
    ----------
    A, B, values, bias : Parameter
        What is learned.
    index : int tensor (n,)
        Sorted places of ``values`` in the flattened weight, in 32 bits where these suffice; in the state dict.

    Raises
    ------
    FewerError
        If the rank is not below the smaller side, or the density outside (0, 1) or too low for a single number.

    Examples
    --------
    >>> layer = SparsePlusLowRank(64, 48, rank=4, density=0.03)
    >>> layer(torch.zeros(2, 64)).shape
    torch.Size([2, 48])
    >>> layer.A.numel() + layer.B.numel() + layer.values.numel(), 64 * 48
    (540, 3072)

    In a model of torch or transformers, to be trained from scratch:

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    >>> done = SparsePlusLowRank.replace(model, rank=4, target_modules=["linear"])
    >>> done.layers[:2], done.parameters_before, done.parameters_after
    (('layers.0.linear1', 'layers.0.linear2'), 8384, 1972)
    """

    index: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int | None = None,
        density: float = 0.03,
        alpha: float = 32.0,
        bias: bool = True,
        *,
        trainable_scale: bool = False,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.rank = checked_rank(rank, in_features, out_features)
        places = in_features * out_features
        if not 0 < density < 1:
            raise FewerError(
                f"a density of {density} is outside (0, 1); give the share of weights to learn, such as 0.03"
            )
        count = int(density * places)
        if not count:
            raise FewerError(
                f"a density of {density} leaves none of the {places} weights of {out_features} by {in_features}; raise it"
            )
        self.density, self.alpha = density, alpha
        where = {"device": device, "dtype": dtype}
        self.A = nn.Parameter(uniform((self.rank, in_features), in_features, generator).to(**where))
        self.B = nn.Parameter(torch.zeros(out_features, self.rank, **where))
        self.values = nn.Parameter(uniform((count,), in_features, generator).to(**where))
        self.bias = nn.Parameter(uniform((out_features,), out_features, generator).to(**where)) if bias else None
        self.scale = nn.Parameter(torch.ones((), **where)) if trainable_scale else None
        index = torch.randperm(places, generator=generator)[:count].sort().values
        compact = torch.int32 if places <= 2**31 else torch.int64
        self.register_buffer("index", index.to(device=device, dtype=compact))

    @property
    def weight(self) -> Float[Tensor, "out in"]:
        """The dense weight, differentiable: for code that reads a layer's weight in place of calling it."""
        B, factor = self._scaled()
        return (factor * (B @ self.A)).flatten().index_add(0, self.index, self.values).view(B.shape[0], -1)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer."""
        B, factor = self._scaled()
        A, values, bias = self.A, self.values, self.bias
        if torch.is_autocast_enabled(x.device.type):
            # autograd sees these casts, so the function itself works in one type
            dtype = torch.get_autocast_dtype(x.device.type)
            x, A, B, values = x.to(dtype), A.to(dtype), B.to(dtype), values.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        return sparse_plus_low_rank(x, A, B, values, self.index, factor, bias)

    def _scaled(self) -> tuple[Tensor, float]:
        """B and the factor of its product with A."""
        if self.scale is None:
            return self.B, self.alpha / self.rank
        return self.B * self.scale.tanh(), 1.0

    def to_dense(self) -> nn.Linear:
        """An ordinary layer with the same outputs, for inference."""
        with torch.no_grad():
            B, factor = self._scaled()
            return dense_linear(_dense(self.A, B, self.values, self.index, factor), self.bias)

    def extra_repr(self) -> str:
        """Shape and hyper-parameters, as torch prints them."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"density={self.density}, alpha={self.alpha}, bias={self.bias is not None}"
        )

    @classmethod
    def replace(
        cls,
        model: nn.Module,
        rank: int | None = None,
        density: float = 0.03,
        alpha: float = 32.0,
        target_modules: Sequence[str] = TARGETS,
        seed: int = 0,
        *,
        trainable_scale: bool = False,
    ) -> Replaced:
        """Turn the linear layers of any torch or transformers model in place, to be trained from scratch.

        Embeddings, norms and the head stay dense unless they are named.  The support of each layer follows from the seed
        and the layer's name, and is saved with the model.

        Parameters
        ----------
        model : nn.Module
            Any; see :func:`fewer.nets.linears.replace_linears`.
        rank, density, alpha, trainable_scale
            As of the class.
        target_modules : sequence of str, default ("attn", "mlp", "attention")
            A layer is turned where its name contains one of these.
        seed : int, default 0
            Of supports and initial values.

        Returns
        -------
        Replaced
            Names of the layers, and what was and is learned in them.

        Raises
        ------
        FewerError
            If no layer matches, one that matches shares its weight with another, or rank or density do not fit a layer;
            the model is then as it was.
        """

        def make(place: Place) -> nn.Module:
            return cls(
                place.in_features,
                place.out_features,
                rank,
                density,
                alpha,
                place.bias,
                trainable_scale=trainable_scale,
                generator=torch_generator(seed, "sparse plus low rank", place.name),
                device=place.device,
                dtype=place.dtype,
            )

        return replace_linears(model, make, target_modules)


sparse_plus_lowrank_ = SparsePlusLowRank.replace
"""``sparse_plus_lowrank_(model, rank, density, alpha, target_modules, seed)``: :meth:`SparsePlusLowRank.replace`."""


@dataclass(frozen=True)
class SLTrain(Linears):
    """Every chosen layer becomes sparse plus low rank.

    Parameters
    ----------
    rank : int, optional
        By default a quarter of a layer's smaller side.
    density : float, default 0.03
        Share of the weights that are learned by themselves.
    alpha : float, default 32
        Scale of the product, divided by the rank.
    trainable_scale : bool, default False
        See :class:`SparsePlusLowRank`.
    target_modules : sequence of str
        Parts of the names of the layers that are turned.
    """

    rank: int | None = None
    density: float = 0.03
    alpha: float = 32.0
    trainable_scale: bool = False
    target_modules: Sequence[str] = TARGETS

    def replace(self, network: nn.Module, seed: int) -> Replaced:
        """Turn the layers of a network."""
        return SparsePlusLowRank.replace(
            network,
            self.rank,
            self.density,
            self.alpha,
            self.target_modules,
            seed,
            trainable_scale=self.trainable_scale,
        )


# --- the claim -------------------------------------------------------------------------------------------------------


def measure_weights(seed: int, tiny: bool) -> Measures:
    """Ranks of the weights after training, and the bytes that one step keeps for its backward pass."""
    steps, shape, rank = (3, CausalLM(32, 1, 2), 4) if tiny else (100, CausalLM(), 16)
    fillings: dict[str, Linears] = {
        "dense": Dense(),
        "sltrain": SLTrain(rank, 0.03, float(rank)),
        "low rank": LowRank(rank, float(rank), "random"),
    }
    measured: dict[str, dict[str, float]] = {}
    for name, linears in fillings.items():
        loop = LanguageModelling(
            model=shape, linears=linears, optimiser=AdamW(0.01, 0.0), points=1, batch=8, scored=640
        )
        network = loop.learn(python_sources(), steps * 8 * loop.context, seed).result
        layers = [network.get_submodule(each) for each in linear_layers(network)]
        # in double precision, so that rounding adds no rank of its own
        ranks = [int(torch.linalg.matrix_rank(layer.double().weight)) for layer in layers]
        measured[name] = {"least rank": min(ranks), "greatest rank": max(ranks), **_kept(layers)}
    sizes = [tuple(layer.weight.shape) for layer in layers]  # pyright: ignore[reportPossiblyUnboundVariable]
    inputs = sum(4 * ROWS * p for _, p in sizes)
    own = sum(4 * (rank * (d + p) + 2 * int(0.03 * d * p)) for d, p in sizes)
    measured["formula"] = {"kept bytes": own + inputs, "tensors of the weight's size kept": 0}
    measured["dense formula"] = {"kept bytes": sum(4 * d * p for d, p in sizes) + inputs}
    measured["smaller side"] = {"least rank": shape.width}
    measured["r"] = {"greatest rank": rank}
    return measured


ROWS = 96


def linear_layers(network: nn.Module) -> list[str]:
    """Names of the layers with a weight of two dimensions in attention and feed-forward parts."""
    kinds = (nn.Linear, SparsePlusLowRank, LowRankLinear)
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, kinds) and any(each in name for each in TARGETS)
    ]


def _kept(layers: Sequence[nn.Module]) -> dict[str, float]:
    """What one forward pass of each layer alone keeps, on rows of its own, in single precision."""
    total = own = large = 0
    for layer in layers:
        weight = layer.float().weight
        assert isinstance(weight, Tensor)
        x, kept = torch.ones(ROWS, weight.shape[1], requires_grad=True), []

        def keep(tensor: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(x)
        for tensor in kept:
            total += tensor.numel() * tensor.element_size()
            if tensor.data_ptr() != x.data_ptr():
                own += tensor.numel() * tensor.element_size()
                large += tensor.numel() >= weight.numel()
    return {"kept bytes": total, "kept bytes beside the input": own, "tensors of the weight's size kept": large}


def _entries(rank: int, wider: int, loop: str) -> dict[str, str]:
    def adam(lr: float) -> str:
        return f"{loop} + adamw(lr={lr}, weight_decay=0.0)"

    return {
        "full": adam(0.002),
        "sltrain": f"{adam(0.01)} + sltrain(rank={rank}, density=0.03, alpha={rank}.0)",
        "without S": f"{adam(0.01)} + low-rank(rank={rank}, alpha={rank}.0)",
        "without S, wider": f"{adam(0.01)} + low-rank(rank={wider}, alpha={wider}.0)",
        "random B, wider": f"{adam(0.004)} + low-rank(rank={wider}, alpha={wider}.0, initial='random')",
    }


TINY = "language-modelling(context=16, batch=4, points=2, scored=160) + causal-lm(width=32, layers=1, heads=2)"
FIVE_PERCENT = 0.074  # bits a byte: a perplexity 0.95 times another

claim = (
    Claim(
        says="With a sparse part of 3 % beside it, a low-rank product that starts at zero ends more than 5 % lower in "
        "perplexity than without, and than one as large as both; with a quarter of the linear layers' numbers it stays "
        "within 1.45 times the perplexity of full training.",
        task="python-sources",
        budget=409_600,
        seeds=3,
        entries=_entries(16, 19, "language-modelling(batch=16, points=4, scored=32768)"),
        holds=[
            higher("final", "sltrain", than="without S", by=FIVE_PERCENT),
            higher("final", "sltrain", than="without S, wider", by=FIVE_PERCENT),
            ratio("linear_parameters", "sltrain", to="full", at_most=0.25),
            no_worse("final", "sltrain", than="full", within=0.536),
        ],
        tiny=Tiny(budget=256, entries=_entries(4, 5, TINY)),
        note="A LLaMA of width 128 and 2 layers for 400 steps of 16 windows of 64 bytes. Without S, B = 0 in every layer "
        "is a saddle: attention and feed-forward parts are zero and so are all their gradients, and only embedding and "
        "head learn, at any rank. Low-rank layers of equal size whose B starts at random are printed beside; the paper "
        "promises nothing about them. Learning rates: the best in 200 steps on another seed of 0.001, 0.002, 0.003, "
        "0.004, 0.01, 0.02 for full training and for random B; the three that start at B = 0 share the best of 0.003, "
        "0.01, 0.02 for SLTrain, and without S the rate makes no difference.",
    ),
    Claim(
        says="After training every weight has full rank, and a layer keeps for its backward pass its input, its own numbers "
        "and its index, and nothing of the weight's size.",
        measure=measure_weights,
        seeds=2,
        holds=[
            identical("least rank", "sltrain", to="smaller side"),
            identical("greatest rank", "low rank", to="r"),
            identical("kept bytes", "sltrain", to="formula"),
            identical("kept bytes", "dense", to="dense formula"),
            identical("tensors of the weight's size kept", "sltrain", to="formula"),
            ratio("kept bytes beside the input", "sltrain", to="dense", at_most=0.3),
        ],
        note="100 steps of 8 windows; ranks in double precision by torch's usual tolerance.",
    ),
)
