"""Texts that share beginnings, laid out so that a model reads each beginning once.

What is known of a beginning is the same in all texts that go on from it, and so is what the sum of their losses wants of it: one
pass over beginnings and what follows them gives the values and gradients of a pass over whole texts, for less work.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Branches:
    """Beginnings and what goes on from them: all tokens in one line, beginnings first, and nothing between them.

    Parameters
    ----------
    stems : int tensor (stems, length)
        Beginnings, of a token or more each, filled up on the left.
    padding : int tensor (stems,)
        By how much.
    rows : int tensor (rows, new)
        What follows, filled up on the right; of no tokens, perhaps.
    lengths : int tensor (rows,)
        Tokens of each row.
    stem : int tensor (rows,)
        Which beginning each row goes on from.

    Attributes
    ----------
    tokens, places : int tensor (total,)
        All tokens, and the place of each in its text, from 0 on.
    before : int tensor (rows, new + 1)
        Where in the line that token stands after which each of a row's comes, and the one after its last.
    of_stems, of_rows : bool tensor (stems, length) and (rows, new)
        Which columns hold tokens.
    split : int
        Tokens of all beginnings.

    Examples
    --------
    >>> stems, rows = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5], [6, 0], [7, 8]])
    >>> branches = Branches(stems, torch.tensor([1, 0]), rows, torch.tensor([2, 1, 2]), torch.tensor([0, 1, 1]))
    >>> branches.tokens.tolist(), branches.places.tolist()
    ([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 1, 2, 2, 2, 3])
    >>> branches.before[2].tolist()  # after 3, after 7 and after 8
    [2, 6, 7]
    """

    def __init__(
        self,
        stems: Int[Tensor, "stems length"],
        padding: Int[Tensor, " stems"],
        rows: Int[Tensor, "rows new"],
        lengths: Int[Tensor, " rows"],
        stem: Int[Tensor, " rows"],
    ) -> None:
        self.stems, self.padding, self.rows, self.lengths, self.stem = stems, padding, rows, lengths, stem
        columns, after = (torch.arange(each.shape[1], device=stems.device) for each in (stems, rows))
        self.of_stems, self.of_rows = columns >= padding[:, None], after < lengths[:, None]
        self.tokens = torch.cat([stems[self.of_stems], rows[self.of_rows]])
        self.places = torch.cat(
            [
                (columns - padding[:, None])[self.of_stems],
                ((stems.shape[1] - padding)[stem, None] + after)[self.of_rows],
            ]
        )
        self.split = int(self.of_stems.sum())
        in_stems = _counted(self.of_stems)
        in_rows = self.split + _counted(self.of_rows)
        self.before = torch.cat([in_stems[stem, -1:], in_rows], dim=1)
        # None where nothing is filled up, and so nothing need be moved
        self._stems = None if self.split == stems.numel() else (in_stems, self.of_stems)
        self._rows = None if len(self.tokens) - self.split == rows.numel() else (in_rows - self.split, self.of_rows)
        self._masks: dict[tuple[torch.dtype, int], tuple[Tensor | None, Tensor]] = {}

    def __call__(
        self,
        query: Float[Tensor, "1 heads total width"],
        key: Float[Tensor, "1 groups total width"],
        value: Float[Tensor, "1 groups total width"],
    ) -> Float[Tensor, "1 heads total width"]:
        """Let each token see those before it in its own text."""
        heads, groups = query.shape[1], key.shape[1]
        each = heads // groups
        of_stems, of_rows = self._masked(query.dtype, each)
        (asked, asking), (keys, own_keys), (values, own_values) = map(self._apart, (query, key, value))
        seen = nn.functional.scaled_dot_product_attention(
            asked.transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            of_stems,
            is_causal=of_stems is None,
            enable_gqa=heads != groups,
        )
        found = [_joined(seen.transpose(1, 2), self._stems)]
        if self.rows.numel():
            keys, values = (
                torch.cat([one.index_select(0, self.stem), own], dim=1).transpose(1, 2)
                for one, own in ((keys, own_keys), (values, own_values))
            )
            # the heads that share keys ask one after another, so that no key is copied
            asking = asking.unflatten(2, (groups, each)).permute(0, 2, 3, 1, 4).flatten(2, 3)
            seen = nn.functional.scaled_dot_product_attention(asking, keys, values, of_rows)
            seen = seen.unflatten(2, (each, -1)).permute(0, 3, 1, 2, 4).flatten(2, 3)
            found.append(_joined(seen, self._rows))
        return torch.cat(found).transpose(0, 1)[None]

    def _apart(self, x: Float[Tensor, "1 heads total width"]) -> tuple[Tensor, Tensor]:
        """What belongs to beginnings, (stems, length, heads, width), and to rows, (rows, new, heads, width)."""
        line = x[0].transpose(0, 1)
        return (
            _placed(line[: self.split], self._stems, self.stems.shape),
            _placed(line[self.split :], self._rows, self.rows.shape),
        )

    def _masked(self, dtype: torch.dtype, each: int) -> tuple[Tensor | None, Tensor]:
        """What is added to scores, in beginnings (None: what is causal) and in rows, whose queries come ``each`` times."""
        if (dtype, each) not in self._masks:
            length, new, device = self.stems.shape[1], self.rows.shape[1], self.stems.device
            of_stems = None
            if self._stems is not None:
                causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
                # what fills a beginning up sees itself alone: a row of the mask must not be empty
                itself = torch.eye(length, dtype=torch.bool, device=device)
                of_stems = _added(causal & self.of_stems[:, None] | itself, dtype)[:, None]
            causal = torch.ones(new, new, dtype=torch.bool, device=device).tril()
            there = self.of_stems[self.stem] if self._stems is not None else self.of_stems[:1]
            both = torch.cat([there[:, None].expand(-1, new, -1), causal.expand(len(there), -1, -1)], dim=2)
            self._masks[dtype, each] = of_stems, _added(both.repeat(1, each, 1), dtype)[:, None]
        return self._masks[dtype, each]


def _counted(there: Tensor) -> Tensor:
    """Numbers from 0 on of what is there; that of a neighbour, or 0, elsewhere."""
    return (there.flatten().cumsum(0) - 1).clamp(min=0).view(there.shape)


def _placed(line: Tensor, where: tuple[Tensor, Tensor] | None, shape: torch.Size) -> Tensor:
    """From the line to a table."""
    if where is None:
        return line.reshape(*shape, *line.shape[1:])
    return line.index_select(0, where[0].flatten()).view(*shape, *line.shape[1:])


def _joined(table: Tensor, where: tuple[Tensor, Tensor] | None) -> Tensor:
    """From a table back to the line."""
    line = table.flatten(0, 1)
    return line if where is None else line.index_select(0, where[1].flatten().nonzero()[:, 0])


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, -torch.inf)
