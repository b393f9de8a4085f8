"""What the attention of a trained transformer does: whether it looks up the nearest neighbour, whether it looks for repeats."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.incontext.boolean_functions import closest_before
from fewer.incontext.function_families import interleaved
from fewer.incontext.networks import Block, CausalTransformer


def attention(
    network: nn.Module, tokens: Float[Tensor, "batch length features"]
) -> Float[Tensor, "layers batch heads length length"]:
    """The attention weights of every head; rows sum to one.

    Parameters
    ----------
    network : CausalTransformer
        What :class:`~fewer.incontext.networks.Transformer` builds.
    tokens : float tensor (batch, length, features)
        Prompts.
    """
    if not isinstance(network, CausalTransformer):
        raise FewerError(f"attention is read from what Transformer builds; this is a {type(network).__name__}")
    device = network.positions.device
    maps: list[Tensor] = []
    with torch.inference_mode():
        x = network.read_in(tokens.to(device)) + network.positions[: tokens.shape[1]]
        later = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool, device=device).triu(1)
        for block in network.blocks:
            assert isinstance(block, Block)
            query, key, _ = block.query_key_value(block.before_attention(x)).chunk(3, -1)
            query, key = (each.unflatten(-1, (block.heads, -1)).transpose(1, 2) for each in (query, key))
            scores = query @ key.mT * query.shape[-1] ** -0.5
            maps.append(scores.masked_fill(later, -torch.inf).softmax(-1))
            x = block(x)
    return torch.stack(maps).cpu()


def nearest_neighbour_score(
    network: nn.Module, x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "layers heads"]:
    """Attention of a point to the label behind the nearest earlier point, on the mean; 1 is a nearest-neighbour head.

    Points whose nearest neighbour is not the only one are left out.

    Parameters
    ----------
    network : CausalTransformer
        Trained on a family of functions.
    x, y : float tensors (functions, points, dimension) and (functions, points)
        Labelled points of -1 and +1.
    """
    similar = x @ x.mT
    closest = closest_before(similar)
    points = x.shape[1]
    earlier = torch.ones(points, points, dtype=torch.bool).tril(-1)
    best = similar.gather(2, closest[..., None])
    alone = ((similar == best) & earlier).sum(-1) == 1
    if not alone.any():
        raise FewerError("no point has a nearest neighbour of its own; give more points or a higher dimension")
    maps = attention(network, interleaved(x, y))[:, :, :, ::2]
    labels = (2 * closest + 1)[None, :, None, :, None].expand(*maps.shape[:4], 1)
    mass = maps.gather(-1, labels).squeeze(-1)
    return (mass * alone[:, None]).sum((1, 3)) / alone.sum()


def prefix_matching_score(
    network: nn.Module, features: int, repeated: int, count: int = 64, seed: int = 0
) -> Float[Tensor, "layers heads"]:
    """Attention to the token that followed the last occurrence of this one, on random sequences said twice.

    Parameters
    ----------
    network : CausalTransformer
        Any.
    features : int
        Width of its tokens.
    repeated : int
        Length of what is said twice; twice that must fit the network.
    count : int, default 64
        Sequences.
    seed : int, default 0
        For the sequences, of -1 and +1.
    """
    if repeated < 2:
        raise FewerError(f"a sequence of {repeated} tokens has no successor to look for; repeat 2 or more")
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(2, (count, repeated, features), generator=generator) * 2.0 - 1
    maps = attention(network, torch.cat([once, once], 1))
    second = torch.arange(repeated, 2 * repeated - 1)
    return maps[..., second, second - repeated + 1].mean((1, 3))
