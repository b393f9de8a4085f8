"""Completions of prompts, drawn token by token, with the exact probabilities of what was drawn.

All prompts are read once and all rows written at once; rows that have ended leave.  :func:`teacher_forced` gives the same
log-probabilities from one pass over whole rows, with gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fewer.core.errors import FewerError
from fewer.models.branches import Branches
from fewer.models.cached_decoder import CachedDecoder, Reading, is_plain
from fewer.models.causal_lm import CausalDecoder
from fewer.rollouts.drawing import Drawing, chosen_logps

WORKED, KEPT = 2**24, 2**26
"""Logits that :func:`teacher_forced` works on at once, and most that it keeps a number of each of for the gradient."""


@dataclass(frozen=True)
class Sampled:
    """What was written after some prompts, row by row.

    Parameters
    ----------
    tokens : int tensor (rows, width)
        Each prompt, filled up on the left, then its completion, filled up on the right.
    prompt : int
        Columns that belong to prompts.
    mask : bool tensor (rows, new)
        Which tokens of completions there are, those that end them included.
    padding : int tensor (rows,)
        By how much each prompt is filled up.
    logps : float tensor (rows, new)
        Log-probability of each token under the model at temperature 1; 0 where there is none, here and below.
    behaviour : float tensor (rows, new)
        Log-probability of each token under what it was drawn from.
    entropy : float tensor (rows, new)
        Of the model's distribution at temperature 1, in nats.
    finished : bool tensor (rows,)
        Which ended by themselves.
    """

    tokens: Int[Tensor, "rows width"]
    prompt: int
    mask: Bool[Tensor, "rows new"]
    padding: Int[Tensor, " rows"]
    logps: Float[Tensor, "rows new"]
    behaviour: Float[Tensor, "rows new"]
    entropy: Float[Tensor, "rows new"]
    finished: Bool[Tensor, " rows"]

    def completions(self) -> list[list[int]]:
        """Tokens of each completion, the one that ends it included."""
        lengths = self.mask.sum(1).tolist()
        rows = self.tokens[:, self.prompt :].tolist()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    def select(self, rows: Int[Tensor, " some"]) -> Sampled:
        """Some of the rows."""
        return replace(
            self,
            tokens=self.tokens[rows],
            mask=self.mask[rows],
            padding=self.padding[rows],
            logps=self.logps[rows],
            behaviour=self.behaviour[rows],
            entropy=self.entropy[rows],
            finished=self.finished[rows],
        )


def decode(
    network: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    new: int | Int[Tensor, " rows"],
    end: Sequence[int],
    pad: int,
    temperature: float | Callable[[int], float] = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    greedy: bool = False,
    draws: torch.Generator | None,
    group: int = 1,
) -> Sampled:
    """Complete prompts.

    Parameters
    ----------
    network : nn.Module
        What :class:`fewer.models.causal_lm.CausalLM` builds or :func:`fewer.models.pretrained_lm.load_lm` loads.
    prompts : sequence of sequences of int
        One token or more each.
    new : int or int tensor (rows,)
        Tokens that a completion has at most, for all rows or for each.
    end : sequence of int
        Tokens that end a completion.
    pad : int
        What fills rows up.
    temperature : float or callable, default 1
        What logits are divided by, for all tokens or by a token's place in its completion, from 0 on.
    top_p : float, default 1
        Draw from the fewest tokens that have this probability together, after the temperature.
    top_k : int, default 0
        Draw from so many likeliest tokens, before ``top_p``; 0 for all.
    greedy : bool, default False
        Take the likeliest token in place of drawing.
    draws : torch.Generator, optional
        Where draws come from: one number for each token of each row, whatever else happens.  None with ``greedy``.
    group : int, default 1
        Completions of each prompt; rows come prompt by prompt.

    Returns
    -------
    Sampled
        As wide as its longest completion.

    Raises
    ------
    FewerError
        If a prompt is empty, a number is out of its range, ``draws`` is missing, or the network cannot be decoded.

    Examples
    --------
    >>> from fewer.models.causal_lm import CausalLM
    >>> network = CausalLM(width=16, layers=1, heads=2).build(10)
    >>> sampled = decode(network, [[1, 2], [3]], new=4, end=[0], pad=0, draws=torch.Generator().manual_seed(0), group=3)
    >>> sampled.tokens.shape[0], sampled.prompt, sampled.padding.tolist()
    (6, 2, [0, 0, 0, 1, 1, 1])
    """
    if not prompts or min(map(len, prompts)) < 1:
        raise FewerError(
            f"decode: {len(prompts)} prompts were given and each must have a token or more; leave out empty ones"
        )
    if group < 1:
        raise FewerError(f"decode: group is {group}; give 1 or more")
    if not greedy and draws is None:
        raise FewerError("decode: draws is None; give a torch.Generator, or greedy=True")
    device = next(network.parameters()).device
    rows = len(prompts) * group
    caps = torch.as_tensor(new, device=device)
    if caps.ndim and len(caps) != rows:
        raise FewerError(f"decode: new has {len(caps)} numbers for {rows} rows; give one for each prompt and group")
    caps = caps.expand(rows)
    if int(caps.min()) < 1:
        raise FewerError(f"decode: {int(caps.min())} new tokens were asked for; give 1 or more")
    width, room = max(map(len, prompts)), int(caps.max())
    padding = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
    padded = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    with torch.inference_mode():
        drawing = Drawing(temperature, top_p, top_k, None if greedy else draws, rows, room)
        columns, ended = _written(begin(network, padded, padding, group, room), drawing, caps, end)
        tokens, logps, behaviour, entropy = columns
        mask = torch.arange(tokens.shape[1], device=device) < ended[:, None].abs()
        tokens = torch.cat([padded.repeat_interleave(group, 0), torch.where(mask, tokens, pad)], dim=1)
        measured = (torch.where(mask, each, 0.0) for each in (logps, behaviour, entropy))
        found = (tokens, mask, padding.repeat_interleave(group), *measured, ended > 0)
    # what inference mode made cannot be saved for a gradient
    tokens, mask, padding, logps, behaviour, entropy, finished = (each.clone() for each in found)
    return Sampled(tokens, width, mask, padding, logps, behaviour, entropy, finished)


def _written(
    reading: Reading, drawing: Drawing, caps: Int[Tensor, " rows"], end: Sequence[int]
) -> tuple[list[Tensor], Int[Tensor, " rows"]]:
    """Write all rows; what was drawn, (rows, new) each, and how long each row is, negative if it did not end by itself."""
    rows, room, device = len(caps), int(caps.max()), caps.device
    columns = [torch.zeros(rows, room, dtype=torch.int64, device=device)]
    columns += [torch.zeros(rows, room, device=device) for _ in range(3)]
    ended, alive = torch.zeros_like(caps), torch.arange(rows, device=device)
    ends = torch.tensor(list(end), dtype=torch.int64, device=device)
    logits, longest = reading.begun(), 0
    for place in range(room):
        drawn = drawing.draw(logits, alive, place)
        for column, values in zip(columns, drawn, strict=True):
            column[alive, place] = values
        longest = place + 1
        stopped, full = torch.isin(drawn[0], ends), caps[alive] == longest
        fresh = (stopped | full) & (ended[alive] == 0)
        ended[alive] = torch.where(fresh, torch.where(stopped, longest, -longest), ended[alive])
        left = torch.nonzero(ended[alive] == 0)[:, 0]
        if not len(left):
            break
        tokens = drawn[0]
        # to move the memory of those that stay costs about what a token of an eighth of the rows does
        if len(left) <= len(alive) - max(1, len(alive) // 8):
            reading.keep(left)
            alive, tokens = alive[left], tokens[left]
        logits = reading.go_on(tokens)
    return [column[:, :longest] for column in columns], ended


def begin(
    network: nn.Module, prompts: Int[Tensor, "prompts length"], padding: Int[Tensor, " prompts"], group: int, room: int
) -> Reading:
    """Read prompts with a network, and be ready to read on.

    Raises
    ------
    FewerError
        If the network is of no kind that can be read with.
    """
    inner = _inner(network)
    if isinstance(inner, CausalDecoder):
        return CachedDecoder(inner, prompts, padding, group, room)
    return inner.begin(prompts, padding, group, room)


def teacher_forced(network: nn.Module, sampled: Sampled, temperature: float = 1.0, entropy: bool = False) -> Any:
    """Log-probabilities of what was written, from one pass over all tokens.

    Logits are made only where completions have tokens.  Of up to ``KEPT`` logits the probabilities are kept for the gradient; of
    more, and for entropies of more than ``WORKED``, some are made at a time, and once more for the gradient.

    Parameters
    ----------
    network : nn.Module
        As for :func:`decode`.
    sampled : Sampled
        What was written.
    temperature : float, default 1
        What logits are divided by.
    entropy : bool, default False
        Give the entropy as well.

    Returns
    -------
    float tensor (rows, new), or two
        0 where there is no token.

    Examples
    --------
    >>> from fewer.models.causal_lm import CausalLM
    >>> network = CausalLM(width=16, layers=1, heads=2).build(10)
    >>> sampled = decode(network, [[1, 2], [3]], new=4, end=[0], pad=0, draws=torch.Generator().manual_seed(0))
    >>> torch.allclose(teacher_forced(network, sampled), sampled.logps, atol=1e-5)
    True
    """
    mask = sampled.mask
    result = [torch.zeros(mask.shape, device=mask.device) for _ in range(2)]
    if bool(mask.any()):
        inner, branches = _inner(network), branches_of(sampled)
        decoder = isinstance(inner, CausalDecoder)
        hidden = inner.model(branches)[0] if decoder else inner.hidden_of(branches)
        head = inner.lm_head if decoder else inner.head
        new = branches.before.shape[1]
        there = mask[:, :new]
        hidden = hidden.index_select(0, branches.before[there])
        targets = sampled.tokens[:, sampled.prompt : sampled.prompt + new][there]
        vocabulary = vocabulary_of(inner)
        keeps = torch.is_grad_enabled() and not entropy and len(hidden) * vocabulary <= KEPT
        # what is kept is made in one piece: the gradient of each piece is one of the head's whole weight
        many = len(hidden) if keeps else max(1, WORKED // vocabulary)
        parts = [
            _measured(head, some, target, temperature, entropy, len(hidden) > many)
            for some, target in zip(hidden.split(many), targets.split(many), strict=True)
        ]
        where = mask.nonzero(as_tuple=True)
        for place in range(1 + entropy):
            values = torch.cat([part[place] for part in parts])
            result[place] = result[place].index_put(where, values)
    return (result[0], result[1]) if entropy else result[0]


def remembered(network: nn.Module) -> int:
    """Keys and values of a prompt's token, which each row after it has a copy of while :func:`teacher_forced` reads it.

    Of models that read a prompt with each of its rows, 0.

    Examples
    --------
    >>> from fewer.models.causal_lm import CausalLM
    >>> remembered(CausalLM(width=16, layers=3, heads=2).build(10))
    96
    """
    inner = _inner(network)
    if not isinstance(inner, CausalDecoder):
        return inner.remembered
    layers: Any = inner.model.layers
    return sum(2 * block.self_attn.groups * block.self_attn.of_head for block in layers)


def sizes_of(sampled: Sampled) -> tuple[int, int, int, int]:
    """Rows, different prompts, and the most tokens that a prompt and a completion have.

    Examples
    --------
    >>> from fewer.models.causal_lm import CausalLM
    >>> network = CausalLM(width=16, layers=1, heads=2).build(10)
    >>> sizes_of(decode(network, [[1, 2], [3], [3]], new=1, end=[0], pad=0, greedy=True, draws=None, group=3))
    (9, 2, 2, 1)
    """
    prompts, first = _prompts(sampled)
    return len(prompts), len(torch.unique(prompts, dim=0)), sampled.prompt - first, int(sampled.mask.sum(1).max())


def _prompts(sampled: Sampled) -> tuple[Int[Tensor, "rows columns"], int]:
    """What tells prompts apart: by how much each is filled up, then its tokens from the first column that holds any."""
    first = int(sampled.padding.min())
    return torch.cat([sampled.padding[:, None], sampled.tokens[:, first : sampled.prompt]], dim=1), first


def branches_of(sampled: Sampled) -> Branches:
    """Prompts, each once, and what was written after them, as far as something later depends on it."""
    mask, (prompts, first) = sampled.mask, _prompts(sampled)
    stems, stem = torch.unique(prompts, dim=0, return_inverse=True)
    numbered = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = ((mask * numbered).amax(1) - 1).clamp(min=0)  # nothing comes after the last
    rows = sampled.tokens[:, sampled.prompt : sampled.prompt + int(lengths.max())]
    return Branches(stems[:, 1:], stems[:, 0] - first, rows, lengths, stem)


def _measured(
    head: Any, hidden: Tensor, targets: Tensor, temperature: float, entropy: bool, again: bool
) -> tuple[Tensor, ...]:
    """Log-probabilities of some tokens, and entropies; ``again``: keep no logits for the gradient."""

    def measured(hidden: Tensor) -> tuple[Tensor, ...]:
        logits = head(hidden)
        if not entropy:
            # what a plain product has made is read by nothing else
            return (chosen_logps(logits, targets, temperature, reuse=is_plain(head)).float(),)
        logps = torch.log_softmax(logits.float() / temperature, -1)
        return logps.gather(1, targets[:, None])[:, 0], -(logps.exp() * logps).sum(1)

    if again and torch.is_grad_enabled():
        return checkpoint(measured, hidden, use_reentrant=False)
    return measured(hidden)


def vocabulary_of(network: Any) -> int:
    """How many tokens a network knows."""
    inner = _inner(network)
    return inner.lm_head.out_features if isinstance(inner, CausalDecoder) else inner.vocabulary


def _inner(network: nn.Module) -> Any:
    """The network under a wrapper of ``peft``."""
    inner: Any = network
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    if isinstance(inner, CausalDecoder) or (hasattr(inner, "begin") and hasattr(inner, "hidden")):
        return inner
    raise FewerError(
        f"decode: {type(network).__name__} is no language model that can be decoded; give what CausalLM builds or load_lm loads"
    )
