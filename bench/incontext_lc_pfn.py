"""One pass of a prior-fitted network: against Markov chains on the same curves, and against its authors' code."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.measure import seconds
from fewer.incontext.curve_posteriors import MarkovChain, _mixture
from fewer.incontext.curve_prior import CurvePrior
from fewer.incontext.extrapolation import LearningCurveExtrapolator
from fewer.incontext.lc_pfn import beginning
from fewer.incontext.loop import Prompts, frozen
from fewer.incontext.prior_fitted_network import PriorFitted, PriorFittedNetwork

CUT, WALKERS = 20, 100


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything of this paper."""
    return {"title": "lc-pfn: continuing learning curves", "rows": [*against_emcee(quick), *against_authors(quick)]}


def against_emcee(quick: bool) -> list[dict[str, Any]]:
    """Likelihood and time on the same curves, all points after the twentieth of a hundred."""
    import emcee

    curves_, steps = (2, 100) if quick else (12, 2000)
    prior, extrapolator = CurvePrior(), LearningCurveExtrapolator.load()
    rng = np.random.default_rng(0)
    _, curves = prior.sample(curves_, rng)
    x, chain = prior.positions, MarkovChain(prior, WALKERS)

    def density(raw: np.ndarray, seen: np.ndarray) -> np.ndarray:
        found = prior.log_prior(raw)
        good = np.isfinite(found)
        found[good] += prior.log_likelihood(raw[good], x[:CUT], seen)
        return found

    likelihood, taken = [], []
    np.random.seed(0)  # noqa: NPY002 (what emcee draws from)
    for curve in curves:
        began = time.perf_counter()
        sampler = emcee.EnsembleSampler(WALKERS, len(prior.parameters), density, args=[curve[:CUT]], vectorize=True)
        sampler.run_mcmc(chain._begin(curve[:CUT], rng), steps)
        drawn = sampler.get_chain(discard=steps // 2, thin=steps // 20, flat=True)
        assert drawn is not None
        later = prior.clean(drawn, x[CUT:])
        weights = np.full(len(drawn), -np.log(len(drawn)))
        likelihood.append(_mixture(curve[CUT:], later, drawn[:, -1], weights).mean())
        taken.append(time.perf_counter() - began)

    def one(raw: np.ndarray, seen: np.ndarray) -> float:
        return float(density(raw[None], seen)[0])

    few = 5 if quick else 200
    began = time.perf_counter()
    sampler = emcee.EnsembleSampler(WALKERS, len(prior.parameters), one, args=[curves[0, :CUT]])
    sampler.run_mcmc(chain._begin(curves[0, :CUT], rng), few)
    plain = (time.perf_counter() - began) * steps / few

    prompts = beginning(torch.from_numpy(curves).float(), CUT)
    ours = extrapolator.distribution.log_density(extrapolator.answer(prompts), prompts.target).mean()
    _, many = prior.sample(64 if quick else 512, rng)
    batch = beginning(torch.from_numpy(many).float(), CUT)
    network = seconds(lambda: extrapolator.answer(batch), 5) / len(many)
    made = extrapolator.network
    work = operations(made, CUT, 100 - CUT)
    limit = work / speed()
    last = Prompts(torch.cat([batch.tokens[:, :CUT], batch.tokens[:, -1:]], 1), batch.target[:, -1:], observed=CUT)
    end = seconds(lambda: extrapolator.answer(last), 5) / len(many)
    of = f"of {WALKERS} walkers, {steps} steps"
    return [
        {
            "what": f"log-likelihood of a later point, {curves_} curves",
            "ours": float(ours),
            "peer": float(np.mean(likelihood)),
            "peer_name": f"emcee {of}",
            "unit": "nat",
        },
        {
            "what": "the whole rest of a curve, a call of the likelihood for each walker",
            "ours": network,
            "peer": plain,
            "peer_name": f"emcee {of}, told from {few}",
            "unit": "s",
            "ratio": plain / network,
            "limit": limit,
            "limit_is": "the operations at the speed of a large matrix product",
        },
        {
            "what": "… all walkers in one call",
            "ours": network,
            "peer": float(np.median(taken)),
            "peer_name": f"emcee {of}, vectorised",
            "unit": "s",
            "ratio": float(np.median(taken)) / network,
            "limit": limit,
            "limit_is": "the operations at the speed of a large matrix product",
        },
        {
            "what": "the end of a curve only, as early stopping asks",
            "ours": end,
            "peer": float(np.median(taken)),
            "peer_name": f"emcee {of}, vectorised",
            "unit": "s",
            "ratio": float(np.median(taken)) / end,
            "limit": operations(made, CUT, 1) / speed(),
            "limit_is": "the operations at the speed of a large matrix product",
        },
    ]


def against_authors(quick: bool) -> list[dict[str, Any]]:
    """Inference with equal weights, as large as what ships and as large as in the paper."""
    rows = []
    ships, paper = (96, 4, 3, 400), (512, 12, 4, 1000)
    sizes = [(*ships, 64)] if quick else [(*ships, 256), (*ships, 1), (*paper, 1), (*paper, 16)]
    for width, layers, heads, bars, batch in sizes:
        torch.manual_seed(0)
        theirs = peer(width, layers, heads, bars).eval()
        made = PriorFitted(width, layers, heads).build(2, bars, 0)
        copy(theirs, made)
        tokens = torch.rand(batch, 100, 2)
        ours, prompts = frozen(made, block=32), Prompts(tokens, tokens[:, CUT:, 1], observed=CUT)  # as it is used
        x, y = tokens[..., :1].transpose(0, 1).contiguous(), tokens[:, :CUT, 1].transpose(0, 1).contiguous()
        with torch.inference_mode():
            torch.testing.assert_close(
                ours(prompts), theirs((x, y), single_eval_pos=CUT).transpose(0, 1), atol=1e-3, rtol=1e-3
            )
            mine, other = [], []
            for _ in range(3 if quick else 7):  # in turns: what else the machine does falls on both
                mine.append(seconds(lambda: ours(prompts), 1))  # noqa: B023 (called at once)
                other.append(seconds(lambda: theirs((x, y), single_eval_pos=CUT), 1))  # noqa: B023
        rows.append(
            {
                "what": f"inference at {'the size that ships' if width == 96 else 'the size of the paper'}: width {width}, "
                f"{layers} layers, {bars} bars, {batch} {'curve' if batch == 1 else 'curves'}",
                "ours": float(np.median(mine)),
                "peer": float(np.median(other)),
                "peer_name": "lcpfn",
                "unit": "s",
                "ratio": float(np.median(other) / np.median(mine)),
                "limit": batch * operations(made, CUT, 100 - CUT) / speed(),
                "limit_is": "the operations at the speed of a large matrix product",
            }
        )
    return rows


def operations(network: PriorFittedNetwork, observed: int, queries: int) -> float:
    """Multiplications and additions of one prompt, in matrix products."""
    width, layers = network.read_input.out_features, len(network.blocks)
    parts = 8 * width**2  # of a block, for each token: query, key, value, out, and twice the feed-forward part
    tokens = (observed + queries) * (layers - 1) * parts + queries * parts + observed * 2 * width**2
    attention = 2 * width * (observed * observed * (layers - 1) + queries * (observed + 1) * layers)
    last = network.read_out[2]
    assert isinstance(last, nn.Linear)
    return 2.0 * (tokens + attention + queries * (2 * width**2 + 2 * width * last.out_features))


def speed(size: int = 1024) -> float:
    """Operations a second of a large matrix product."""
    left, right = torch.rand(size, size), torch.rand(size, size)
    return 2.0 * size**3 / seconds(lambda: left @ right, 5)


def peer(width: int, layers: int, heads: int, bars: int) -> nn.Module:
    """The authors' transformer; what today's torch no longer gives it is given by hand."""
    from lcpfn import layer, transformer

    for name in ("MultiheadAttention", "Linear", "Dropout", "LayerNorm"):
        setattr(layer, name, getattr(nn, name))

    class Layer(layer.TransformerEncoderLayer):
        def forward(
            self, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: Any = None
        ) -> Any:
            return super().forward(src, src_mask, src_key_padding_mask)

    original, transformer.TransformerEncoderLayer = transformer.TransformerEncoderLayer, Layer
    try:
        return transformer.TransformerModel(
            nn.Linear(1, width), bars, width, heads, 2 * width, layers, y_encoder=nn.Linear(1, width)
        )
    finally:
        transformer.TransformerEncoderLayer = original


def copy(theirs: Any, ours: PriorFittedNetwork) -> None:
    """Give our network random weights, and theirs the same."""
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    pairs: list[tuple[Any, Any]] = [(ours.read_input, theirs.encoder), (ours.read_value, theirs.y_encoder)]
    pairs += [(ours.read_out[0], theirs.decoder[0]), (ours.read_out[2], theirs.decoder[2])]
    for block, layer in zip(ours.blocks, theirs.transformer_encoder.layers, strict=True):
        assert isinstance(block.query_key_value, nn.Linear)
        block.query_key_value.load_state_dict(
            {"weight": layer.self_attn.in_proj_weight, "bias": layer.self_attn.in_proj_bias}
        )
        pairs += [
            (block.out, layer.self_attn.out_proj),
            (block.mlp[0], layer.linear1),  # pyright: ignore[reportIndexIssue]
            (block.mlp[2], layer.linear2),  # pyright: ignore[reportIndexIssue]
            (block.norm_attention, layer.norm1),
            (block.norm_mlp, layer.norm2),
        ]
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
