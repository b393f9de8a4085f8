"""Text classifiers from a local folder, for learners that fine-tune them, and few-shot prompts.

Knows `transformers` models with a classification head; the folder is read, never a hub, and weights
are read from safetensors only, so that nothing in it is executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.core.seeding import generator


class TextClassifier(nn.Module):
    """A `transformers` sequence classifier together with its tokenizer.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        With a classification head.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its own.
    max_length : int
        Longest input in tokens; more is cut off.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    def forward(self, texts: Shaped[np.ndarray, " batch"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        return self.model(**self._tokens(texts)).logits

    def features(self, texts: Shaped[np.ndarray, " batch"]) -> Float[Tensor, "batch width"]:
        """The last layer's mean over the tokens of each text."""
        tokens = self._tokens(texts)
        last = self.model(**tokens, output_hidden_states=True).hidden_states[-1]
        mask = tokens["attention_mask"][..., None].to(last.dtype)
        return (last * mask).sum(dim=1) / mask.sum(dim=1)

    def _tokens(self, texts: np.ndarray) -> dict[str, Tensor]:
        where = next(self.model.parameters()).device
        made = self.tokenizer(
            [str(text) for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return {name: value.to(where) for name, value in made.items()}


@dataclass(frozen=True)
class HuggingFace:
    """Describes a text classifier that is read from a folder written by ``save_pretrained``.

    Parameters
    ----------
    path : str
        The folder, with ``config.json``, ``model.safetensors`` and a tokenizer.
    lora : int, default 0
        Rank of low-rank adapters on all linear layers, trained with the head in place of the weights;
        needs the package peft.  With 0, all weights are trained.
    max_length : int, default 512
        Longest input in tokens, or less where the model takes less.

    Raises
    ------
    FewerError
        If the folder is missing or is not such a model.
    MissingPackage
        If transformers, or peft, is not installed.

    References
    ----------
    E. J. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685.
    """

    path: str
    lora: int = 0
    max_length: int = 512

    def build(self, shape: tuple[int, ...], classes: int) -> TextClassifier:
        """Read the model; a head of another size is replaced by a fresh one, from torch's global generator."""
        if not Path(self.path).is_dir():
            raise FewerError(f"no model folder at {self.path}; give the path of one written by save_pretrained")
        transformers = need("transformers", extra="language", what="a text classifier")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.path, local_files_only=True)
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                self.path,
                num_labels=classes,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FewerError(
                f"{self.path} is no text classifier: {reason}; it must hold config.json, model.safetensors and a tokenizer"
            ) from error
        if tokenizer.pad_token is None:  # decoders are often saved without one
            tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
        longest = min(self.max_length, tokenizer.model_max_length)
        longest = min(longest, getattr(model.config, "max_position_embeddings", None) or longest)
        if self.lora:
            peft = need("peft", extra="language", what="lora")
            adapters = peft.LoraConfig(task_type="SEQ_CLS", r=self.lora, target_modules="all-linear")
            model = peft.get_peft_model(model, adapters)
        return TextClassifier(model, tokenizer, longest)


@dataclass(frozen=True)
class Prompt:
    """Labelled examples that are put in front of every text, in an order drawn anew for each.

    Parameters
    ----------
    texts : tuple of str
        The examples.
    labels : tuple of str
        Their answers.

    Examples
    --------
    >>> print(Prompt(("fine film",), ("1",)).before(np.array(["dull"], dtype=object), seed=0)[0])
    fine film
    1
    <BLANKLINE>
    dull
    <BLANKLINE>
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]

    def before(self, texts: Shaped[np.ndarray, " rows"], seed: int) -> Shaped[np.ndarray, " rows"]:
        """Put the examples in front of each text; equal seeds give equal orders."""
        shots = np.array(
            [f"{text}\n{label}\n\n" for text, label in zip(self.texts, self.labels, strict=True)], dtype=object
        )
        orders = np.tile(np.arange(len(shots)), (len(texts), 1))
        orders = generator(seed, "prompt").permuted(orders, axis=1)
        return np.array(
            ["".join([*shots[order], text, "\n"]) for order, text in zip(orders, texts, strict=True)], object
        )


@dataclass
class FittedText:
    """A trained text classifier as a model.

    Parameters
    ----------
    network : TextClassifier
        It.
    prompt : Prompt, optional
        What it was trained to see in front of each text.
    seed : int, default 0
        For the order of the prompt's examples.
    block : int, default 64
        Texts at a time.
    """

    network: TextClassifier
    prompt: Prompt | None = None
    seed: int = 0
    block: int = 64

    def predict_proba(self, x: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, "rows classes"]:
        """Softmax of the logits."""
        return self._blocks(x, lambda texts: self.network(texts).softmax(dim=1))

    def embed(self, x: Shaped[np.ndarray, " rows"]) -> Float[np.ndarray, "rows features"]:
        """Mean token features."""
        return self._blocks(x, self.network.features)

    def _blocks(self, x: np.ndarray, function: Any) -> np.ndarray:
        texts = x if self.prompt is None else self.prompt.before(x, self.seed)
        self.network.eval()
        with torch.inference_mode():
            parts = [
                function(texts[i : i + self.block]).float().cpu() for i in range(0, max(len(texts), 1), self.block)
            ]
        return torch.cat(parts).numpy()
