"""Completions of one prompt read in one row: the prompt once, then all of them, of which none sees another.

What a causal model makes of a prompt does not depend on what comes after it, so neither values nor gradients change but for
rounding.  Attention looks at more pairs of tokens that way, which is dear where completions are long; so it is done only where
fewer operations are needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.models.causal_lm import CausalDecoder


@dataclass(frozen=True)
class Grouping:
    """Which rows continue which prompt.

    Parameters
    ----------
    prompt : int tensor (rows,)
        Of each row, from 0 on.
    place : int tensor (rows,)
        Of each row among those of its prompt.
    """

    prompt: Int[Tensor, " rows"]
    place: Int[Tensor, " rows"]

    @property
    def prompts(self) -> int:
        """How many there are."""
        return int(self.prompt[-1]) + 1

    @property
    def most(self) -> int:
        """Rows of the prompt that has most of them."""
        return int(self.place.max()) + 1


def grouped(tokens: Int[Tensor, "rows width"], padding: Int[Tensor, " rows"], width: int) -> Grouping:
    """Find neighbouring rows with the same first tokens.

    Parameters
    ----------
    tokens : int tensor (rows, width)
        Prompts, filled up on the left, then completions.
    padding : int tensor (rows,)
        By how much.
    width : int
        Of prompts.

    Examples
    --------
    >>> found = grouped(torch.tensor([[1, 5], [1, 6], [2, 5]]), torch.zeros(3, dtype=torch.int64), 1)
    >>> found.prompt.tolist(), found.place.tolist()
    ([0, 0, 1], [0, 1, 0])
    """
    other = (tokens[1:, :width] != tokens[:-1, :width]).any(1) | (padding[1:] != padding[:-1])
    prompt = torch.cat([other.new_zeros(1), other]).cumsum(0)
    count = torch.arange(len(tokens), device=tokens.device)
    first = torch.cat([other.new_ones(1), other]).nonzero()[:, 0]
    return Grouping(prompt, count - first[prompt])


def pays(network: CausalDecoder, rows: int, grouping: Grouping, width: int, new: int) -> bool:
    """Whether fewer operations are needed with one row for each prompt."""
    shape = network.shape
    each = shape.heads * shape.of_head
    linear = 2 * shape.width * (2 * each + 2 * shape.groups * shape.of_head + 3 * shape.units)

    def operations(rows: int, length: int) -> float:
        return rows * length * (linear + 4 * each * length)

    return operations(grouping.prompts, width + grouping.most * new) < operations(rows, width + new)


def hidden_of(
    network: CausalDecoder,
    tokens: Int[Tensor, "rows length"],
    padding: Int[Tensor, " rows"],
    width: int,
    grouping: Grouping,
) -> Float[Tensor, "rows new_and_one channels"]:
    """Last hidden states at the last token of each row's prompt and at all tokens after it.

    Parameters
    ----------
    network : CausalDecoder
        What reads.
    tokens : int tensor (rows, length)
        Prompts, filled up on the left, and what follows them.
    padding : int tensor (rows,)
        By how much.
    width : int
        Of prompts.
    grouping : Grouping
        Of the rows.
    """
    most, prompts, new = grouping.most, grouping.prompts, tokens.shape[1] - width
    first = grouping.place == 0
    after = tokens.new_zeros(prompts, most, new)
    after[grouping.prompt, grouping.place] = tokens[:, width:]
    packed = torch.cat([tokens[first, :width], after.flatten(1)], dim=1)
    of_prompt = padding[first]
    places, mask = _layout(of_prompt, width, most, new)
    hidden: Any = network.model(packed, places=places, mask=mask)
    one = hidden[:, width - 1 : width].expand(-1, most, -1)[:, :, None]
    every = torch.cat([one, hidden[:, width:].unflatten(1, (most, new))], dim=2)
    return every[grouping.prompt, grouping.place]


def _layout(
    padding: Int[Tensor, " prompts"], width: int, most: int, new: int
) -> tuple[Int[Tensor, "prompts length"], Bool[Tensor, "prompts 1 length length"]]:
    """Positions, and who sees whom: each token the prompt and what comes before it in its own completion."""
    device = padding.device
    columns, after = torch.arange(width, device=device), torch.arange(new, device=device)
    before = (columns - padding[:, None]).clamp(min=0)
    places = torch.cat([before, (width - padding[:, None] + after).repeat(1, most)], dim=1)
    # minus one: the prompt
    owner = torch.cat([torch.full_like(columns, -1), torch.arange(most, device=device).repeat_interleave(new)])
    order = torch.arange(len(owner), device=device)
    seen = (order <= order[:, None]) & ((owner == -1) | (owner == owner[:, None]))
    # what fills a row up sees itself alone: a row of the mask must not be empty
    filled = (order < padding[:, None])[:, None, None]
    return places, (seen & ~filled) | torch.eye(len(order), dtype=torch.bool, device=device)
