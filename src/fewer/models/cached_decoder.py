"""A causal decoder that remembers what it has read: prompts once, then all rows one token after another.

Keys and values lie in memory that is laid out beforehand.  Those of a prompt are kept once for all rows that continue it; rows
that are done can leave.  Projections of one input are one matrix product here, so weights are copied and must not change between
the first token and the last.  Nothing is known of how tokens are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.models.causal_lm import Block, CausalDecoder

PACKED_PRODUCT: Any = torch.ops.mkldnn
PACKED = (torch.float32, torch.bfloat16) if torch.backends.mkldnn.is_available() else ()
"""Numbers that products are made of with weights that were laid out beforehand: up to twice as fast for few rows."""

ATTENTION: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Attention that also says how much there was to see: the logarithms of the sums that odds are divided by."""

LARGE = 2**15
"""Weights from which on that is worthwhile."""


class Reading(Protocol):
    """A model in the middle of several texts."""

    def begun(self) -> Float[Tensor, "rows vocabulary"]:
        """Logits of the first token after each row's prompt."""
        ...

    def go_on(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Read one more token in each row; logits of the next."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone, given in ascending order."""
        ...


class Product:
    """Linear maps of one input as a single product, with the weights laid out for the processor where they are large.

    Maps that something hangs on are called one by one, as they are.

    Parameters
    ----------
    *maps : nn.Module
        Each with the same input.
    rows : int
        Of inputs, mostly.
    """

    def __init__(self, *maps: nn.Module, rows: int) -> None:
        self.maps, self.plain, self.packed = maps, all(map(is_plain, maps)), False
        if self.plain:
            layers = cast(Sequence[nn.Linear], maps)
            self.weight = layers[0].weight if len(maps) == 1 else torch.cat([each.weight for each in layers])
            self.bias = None if layers[0].bias is None else torch.cat([each.bias for each in layers])
            if self.weight.device.type == "cpu" and self.weight.dtype in PACKED and self.weight.numel() >= LARGE:
                self.weight, self.packed = PACKED_PRODUCT._reorder_linear_weight(self.weight, rows), True

    def __call__(self, x: Float[Tensor, "*batch width"], then: str = "none") -> Float[Tensor, "*batch outputs"]:
        """All outputs, side by side; ``then`` is ``none`` or ``swish``."""
        if self.packed:
            return PACKED_PRODUCT._linear_pointwise(x, self.weight, self.bias, then, [], "")
        if self.plain:
            made = nn.functional.linear(x, self.weight, self.bias)
        else:
            made = torch.cat([each(x) for each in self.maps], dim=-1)
        return made if then == "none" else nn.functional.silu(made)

    def with_other(
        self, x: Float[Tensor, "*batch width"], other: Float[Tensor, "*batch outputs"], how: str
    ) -> Float[Tensor, "*batch outputs"]:
        """Outputs that another value is added to or multiplied with: ``add`` or ``mul``."""
        if self.packed:
            return PACKED_PRODUCT._linear_pointwise.binary(x, other, self.weight, self.bias, how)
        return self(x) + other if how == "add" else self(x) * other


class CachedBlock:
    """A block, and what its attention remembers.

    Parameters
    ----------
    block : Block
        Its weights.
    rows : int
        That are read at once, mostly.
    """

    def __init__(self, block: Block, rows: int) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.block = block
        self.qkv = Product(attention.q_proj, attention.k_proj, attention.v_proj, rows=rows)
        self.out, self.gate, self.up, self.down = (
            Product(each, rows=rows) for each in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )
        self.heads, self.groups, self.of_head = attention.heads, attention.groups, attention.of_head
        self.scale = self.of_head**-0.5

    def read_prompts(
        self,
        x: Float[Tensor, "prompts length width"],
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        room: tuple[int, int],
    ) -> Float[Tensor, "prompts length width"]:
        """Read prompts; lays out memory for (rows, tokens) after them."""
        heads, groups = self.heads, self.groups
        mixed = self.qkv(self.block.input_layernorm(x)).unflatten(-1, (-1, self.of_head)).transpose(1, 2)
        turned = _turned(mixed[:, : heads + groups], *rotation)
        query, key, value = turned[:, :heads], turned[:, heads:], mixed[:, heads + groups :]
        seen = nn.functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, enable_gqa=heads != groups
        )
        self.prompt_keys, self.prompt_values = key.contiguous(), value.contiguous()
        rows, tokens = room
        self.keys, self.values = (x.new_empty(rows, groups, tokens, self.of_head) for _ in range(2))
        return self.transformed(self.out.with_other(seen.transpose(1, 2).flatten(-2), x, "add"))

    def read_token(
        self, x: Float[Tensor, "rows width"], rotation: tuple[Tensor, Tensor], place: int, shared: Shared
    ) -> Float[Tensor, "rows width"]:
        """Read one more token in each row, the ``place``-th after the prompts."""
        heads, groups, rows = self.heads, self.groups, len(x)
        mixed = self.qkv(self.block.input_layernorm(x)).view(rows, -1, self.of_head)
        turned = _turned(mixed[:, : heads + groups], *rotation)
        self.keys[:rows, :, place], self.values[:rows, :, place] = turned[:, heads:], mixed[:, heads + groups :]
        query = turned[:, :heads].reshape(rows, groups, heads // groups, self.of_head)
        keys, values = (each[:rows, :, : place + 1] for each in (self.keys, self.values))
        # products of many small matrices of half precision take twice the time of those of single precision
        seeing = self._seen_at_once if x.device.type == "cpu" and x.dtype == torch.bfloat16 else self._seen
        seen = seeing(query, keys, values, shared)
        return self.transformed(self.out.with_other(seen.reshape(rows, -1), x, "add"))

    def _seen(
        self,
        query: Float[Tensor, "rows groups each width"],
        keys: Float[Tensor, "rows groups tokens width"],
        values: Float[Tensor, "rows groups tokens width"],
        shared: Shared,
    ) -> Float[Tensor, "rows groups each width"]:
        """What each row sees in its prompt and in its own tokens; the rows of one prompt look at its one memory together."""
        query = query * self.scale
        before = shared.gathered(query) @ self.prompt_keys.transpose(-1, -2)
        if shared.hidden is not None:
            before = before + shared.hidden
        scores = torch.cat([shared.scattered(before), query @ keys.transpose(-1, -2)], dim=-1)
        odds = scores.softmax(-1)
        split = self.prompt_keys.shape[2]
        return shared.scattered(shared.gathered(odds[..., :split]) @ self.prompt_values) + odds[..., split:] @ values

    def _seen_at_once(self, query: Tensor, keys: Tensor, values: Tensor, shared: Shared) -> Tensor:
        """The same: either part as one operation, then mixed by how much there was to see in each."""
        before, in_prompt = ATTENTION(
            shared.gathered(query), self.prompt_keys, self.prompt_values, attn_mask=shared.hidden
        )
        own, in_own = ATTENTION(query, keys, values)
        share = (in_own[..., None] - shared.scattered(in_prompt[..., None])).sigmoid_()
        return shared.scattered(before).lerp(own, share.to(own.dtype))

    def transformed(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """The feed-forward part, with the skip around it."""
        normed = self.block.post_attention_layernorm(x)
        return self.down.with_other(self.up.with_other(normed, self.gate(normed, "swish"), "mul"), x, "add")

    def keep(self, rows: Int[Tensor, " kept"], tokens: int) -> None:
        """Move these rows to the front."""
        for memory in (self.keys, self.values):
            memory[: len(rows), :, :tokens] = memory[rows, :, :tokens]


class Shared:
    """Which rows continue which prompt, so that one prompt's rows are worked on as one block.

    Parameters
    ----------
    prompts, group : int
        How many prompts there are, and rows of each.
    padding : int tensor (prompts,)
        By how much each is filled up on the left.
    length : int
        Of the longest.
    dtype : torch.dtype
        Of scores.
    """

    def __init__(
        self, prompts: int, group: int, padding: Int[Tensor, " prompts"], length: int, dtype: torch.dtype
    ) -> None:
        self.prompts, self.group = prompts, group
        self.slots: Tensor | None = None  # of each row, among prompts * group; None while all are there
        self.hidden: Tensor | None = None
        if bool((padding > 0).any()):
            filled = torch.arange(length, device=padding.device) < padding[:, None]
            self.hidden = torch.zeros(filled.shape, dtype=dtype, device=padding.device).masked_fill(filled, -torch.inf)
            self.hidden = self.hidden[:, None, None]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Some rows leave; prompts stay, with empty places."""
        self.slots = rows if self.slots is None else self.slots[rows]

    def gathered(self, x: Float[Tensor, "rows groups each width"]) -> Float[Tensor, "prompts groups many width"]:
        """Rows to one block for each prompt."""
        if self.slots is not None:
            x = x.new_zeros(self.prompts * self.group, *x.shape[1:]).index_copy_(0, self.slots, x)
        if self.group == 1:
            return x
        return x.unflatten(0, (self.prompts, self.group)).transpose(1, 2).flatten(2, 3)

    def scattered(self, x: Float[Tensor, "prompts groups many width"]) -> Float[Tensor, "rows groups each width"]:
        """Back to rows."""
        if self.group > 1:
            x = x.unflatten(2, (self.group, -1)).transpose(1, 2).flatten(0, 1)
        return x if self.slots is None else x[self.slots]


class CachedDecoder:
    """A decoder that has read prompts and reads on; a :class:`Reading`.

    Parameters
    ----------
    network : CausalDecoder
        What reads.
    prompts : int tensor (prompts, length)
        Filled up on the left.
    padding : int tensor (prompts,)
        By how much.
    group : int
        Rows that continue each prompt.
    room : int
        Tokens that each row can have after its prompt.
    """

    def __init__(
        self,
        network: CausalDecoder,
        prompts: Int[Tensor, "prompts length"],
        padding: Int[Tensor, " prompts"],
        group: int,
        room: int,
    ) -> None:
        model, rows = network.model, len(prompts) * group
        self.model, self.head = model, Product(network.lm_head, rows=rows)
        self.blocks = [CachedBlock(cast(Block, block), rows) for block in model.layers]
        count, length = prompts.shape
        x = model.embed_tokens(prompts)
        columns = torch.arange(length, device=prompts.device)
        mask = None
        if bool((padding > 0).any()):
            mask = (columns >= padding[:, None])[:, None, None] & (columns <= columns[:, None])
            mask = mask | torch.eye(length, dtype=torch.bool, device=prompts.device)
        rotation = model.rotation((columns - padding[:, None]).clamp(min=0)[:, None], x)
        for block in self.blocks:
            x = block.read_prompts(x, _signed(rotation), mask, (rows, room))
        self.last = model.norm(x[:, -1])
        self.shared = Shared(count, group, padding, length, x.dtype)
        self.group, self.tokens = group, 0
        after = (length - padding).repeat_interleave(group)
        places = after[:, None] + torch.arange(room, device=prompts.device)
        self.rotations = _signed(model.rotation(places, x))

    def begun(self) -> Float[Tensor, "rows vocabulary"]:
        """Logits of the first token after each row's prompt."""
        return self.head(self.last).repeat_interleave(self.group, 0)

    def go_on(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Read one more token in each row; logits of the next."""
        x = self.model.embed_tokens(tokens)
        rotation = tuple(each[:, self.tokens, None] for each in self.rotations)
        for block in self.blocks:
            x = block.read_token(x, cast(Any, rotation), self.tokens, self.shared)
        self.tokens += 1
        return self.head(self.model.norm(x))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone."""
        for block in self.blocks:
            block.keep(rows, self.tokens)
        self.shared.keep(rows)
        self.rotations = (self.rotations[0][rows], self.rotations[1][rows])


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a linear map and nothing hangs on it: no hook, and no other ``forward`` in place of its own."""
    hung = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) is nn.Linear and not hung and "forward" not in vars(layer)


def _signed(rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Sines with the sign that the first half of each pair takes, so that turning needs no negation."""
    cosines, sines = rotation
    first, second = sines.chunk(2, dim=-1)
    return cosines, torch.cat([-first, second], dim=-1)


def _turned(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """As :func:`fewer.models.causal_lm.rotated`, with signed sines."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cosines, x.roll(half, -1), sines)
