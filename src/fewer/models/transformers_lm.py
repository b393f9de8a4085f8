"""Causal language models of ``transformers`` of any kind, as decoding and training here want them.

The model stays as it is, with its own memory of keys and values.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.models.branches import Branches


class TransformersLM(nn.Module):
    """A causal model of ``transformers``.

    Parameters
    ----------
    model : nn.Module
        As ``AutoModelForCausalLM`` gives it.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> network = TransformersLM(GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)))
    >>> network(torch.zeros(3, 10, dtype=torch.int64)).shape
    torch.Size([3, 10, 50])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.takes_places = "position_ids" in inspect.signature(self.model.forward).parameters
        self.plain_head = self._head_is_plain()
        self.remembered = self._remembered()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.model.get_output_embeddings().weight.shape[0]

    @property
    def context(self) -> int | None:
        """Most tokens of one text, where the model says so."""
        return getattr(self.model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Whether logits are the output embedding of the last hidden states, and nothing is done to them afterwards."""
        try:
            tokens = torch.zeros(1, 2, dtype=torch.int64, device=self.model.device)
            hidden = self.model.base_model(input_ids=tokens).last_hidden_state
            logits = self.model(input_ids=tokens).logits
            return torch.allclose(self.model.get_output_embeddings()(hidden), logits, rtol=1e-3, atol=1e-5)
        except (AttributeError, RuntimeError, TypeError):  # built otherwise than most
            return False

    @torch.no_grad()
    def _remembered(self) -> int:
        """Keys and values of a token that texts share; 0 where :meth:`hidden_of` reads a beginning with each text after it."""
        try:
            tokens = torch.zeros(1, 2, dtype=torch.int64, device=self.model.device)
            found = self._read(tokens, torch.ones_like(tokens))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # built otherwise than most
            return 0
        return 0 if found is None else sum((each.keys.numel() + each.values.numel()) // 2 for each in found[1].layers)

    def given(self, mask: Int[Tensor, "batch length"], new: int) -> dict[str, Tensor]:
        """What a model is told of the last ``new`` columns, of which the mask says which are tokens."""
        if not self.takes_places:
            return {"attention_mask": mask}
        return {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -new:]}

    def forward(
        self, tokens: Int[Tensor, "batch length"], padding: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Logits of the next token at every position; rows may be filled up on the left by ``padding`` tokens each."""
        return self.head(self.hidden(tokens, padding))

    def hidden(
        self, tokens: Int[Tensor, "batch length"], padding: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch length width"]:
        """What :meth:`head` makes logits of."""
        told = {} if padding is None else self.given(_mask(tokens, padding), tokens.shape[1])
        if not self.plain_head:
            return self.model(input_ids=tokens, use_cache=False, **told).logits
        return self.model.base_model(input_ids=tokens, use_cache=False, **told).last_hidden_state

    def hidden_of(self, branches: Branches) -> Float[Tensor, "total width"]:
        """What :meth:`head` makes logits of, for all tokens of branches in their line.

        A beginning is read once where what the model remembers of it is keys and values of all its tokens, else with each row.
        """
        shared = self.remembered and branches.rows.numel() and len(branches.stems) < len(branches.rows)
        found = self._after_stems(branches) if shared else None
        if found is not None:
            return found
        # whole texts, of which the first of each beginning gives that beginning's
        stem, length = branches.stem, branches.stems.shape[1]
        tokens = torch.cat([branches.stems[stem], branches.rows], dim=1)
        padding = branches.padding[stem]
        hidden = self.hidden(tokens, padding if bool((padding > 0).any()) else None)
        first = (stem == torch.arange(len(branches.stems), device=stem.device)[:, None]).int().argmax(1)
        return torch.cat([hidden[first, :length][branches.of_stems], hidden[:, length:][branches.of_rows]])

    def _after_stems(self, branches: Branches) -> Tensor | None:
        """Rows read after the keys and values of their beginnings; None where the model remembers something else."""
        mask = _mask(branches.stems, branches.padding)
        read = self._read(branches.stems, mask)
        if read is None:
            return None
        found, memory = read
        layers: Any = memory.layers
        for layer in layers:
            layer.keys, layer.values = (each.index_select(0, branches.stem) for each in (layer.keys, layer.values))
        both = torch.cat([mask[branches.stem], branches.of_rows.long()], dim=1)
        # what fills a row up comes last, and is seen by nothing that is read
        given = self.given(both, branches.rows.shape[1])
        after = self.model.base_model(input_ids=branches.rows, past_key_values=memory, use_cache=True, **given)
        return torch.cat([found[branches.of_stems], after.last_hidden_state[branches.of_rows]])

    def _read(
        self, tokens: Int[Tensor, "batch length"], mask: Int[Tensor, "batch length"]
    ) -> tuple[Tensor, Any] | None:
        """Hidden states, and a memory of keys and values of all tokens; None where the model remembers something else."""
        if not (self.plain_head and self.takes_places):
            return None
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        rotation = getattr(self.model.config, "rope_parameters", None) or {}
        if rotation.get("rope_type", "default") not in ("default", "linear", "llama3", "yarn"):
            return None  # angles depend on the longest text that is read
        memory = DynamicCache(config=self.model.config)
        if not all(type(each) is DynamicLayer for each in memory.layers):
            return None
        given = self.given(mask, mask.shape[1])
        found = self.model.base_model(input_ids=tokens, past_key_values=memory, use_cache=True, **given)
        layers: Any = memory.layers
        # a model that ignores the memory leaves it empty, and would read rows without their beginnings
        if len(layers) != self.model.config.num_hidden_layers or any(
            type(each) is not DynamicLayer or each.keys is None or each.keys.shape[::2] != mask.shape for each in layers
        ):
            return None
        return found.last_hidden_state, memory

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocabulary"]:
        """Logits."""
        return self.model.get_output_embeddings()(hidden) if self.plain_head else hidden

    def begin(
        self, prompts: Int[Tensor, "prompts length"], padding: Int[Tensor, " prompts"], group: int, room: int
    ) -> TransformersReading:
        """Read prompts, each to be continued by ``group`` rows."""
        return TransformersReading(self, prompts, padding, group)


class TransformersReading:
    """A model that has read prompts and reads on; a :class:`fewer.models.cached_decoder.Reading`.

    Parameters
    ----------
    network : TransformersLM
        What reads.
    prompts : int tensor (prompts, length)
        Filled up on the left.
    padding : int tensor (prompts,)
        By how much.
    group : int
        Rows that continue each prompt.

    Raises
    ------
    FewerError
        If the model has no memory of keys and values.
    """

    def __init__(
        self,
        network: TransformersLM,
        prompts: Int[Tensor, "prompts length"],
        padding: Int[Tensor, " prompts"],
        group: int,
    ) -> None:
        self.network, self.group = network, group
        mask = _mask(prompts, padding)
        found = network.model(
            input_ids=prompts, use_cache=True, logits_to_keep=1, **network.given(mask, prompts.shape[1])
        )
        self.memory: Any = getattr(found, "past_key_values", None)
        if not hasattr(self.memory, "batch_repeat_interleave"):
            raise FewerError(
                f"decode: {type(network.model).__name__} has no memory of keys and values that rows can share; give a "
                "transformer whose rows attend to earlier tokens"
            )
        self.memory.batch_repeat_interleave(group)
        self.last = found.logits[:, -1]
        self.mask = mask.repeat_interleave(group, 0)

    def begun(self) -> Float[Tensor, "rows vocabulary"]:
        """Logits of the first token after each row's prompt."""
        return self.last.repeat_interleave(self.group, 0)

    def go_on(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocabulary"]:
        """Read one more token in each row; logits of the next."""
        self.mask = nn.functional.pad(self.mask, (0, 1), value=1)
        given = self.network.given(self.mask, 1)
        found = self.network.model(input_ids=tokens[:, None], past_key_values=self.memory, use_cache=True, **given)
        return found.logits[:, -1]

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows alone."""
        self.memory.batch_select_indices(rows)
        self.mask = self.mask[rows]


def _mask(tokens: Int[Tensor, "batch length"], padding: Int[Tensor, " batch"]) -> Int[Tensor, "batch length"]:
    """1 for tokens, 0 for what fills up."""
    return (torch.arange(tokens.shape[1], device=tokens.device) >= padding[:, None]).long()
