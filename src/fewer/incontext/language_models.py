"""A pretrained language model in place of the network: frozen between two trained maps, or asked in plain text.

Both take a local folder as ``save_pretrained`` writes it, and nothing is fetched.
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
from fewer.core.seeding import torch_generator
from fewer.incontext.boolean_functions import Examples
from fewer.incontext.function_families import FunctionFamily, as_points, two_classes
from fewer.incontext.networks import ReadInAndOut


@dataclass(frozen=True)
class FrozenLanguageModel:
    """A language model whose weights stay as they are; only what leads into it and out of it is trained.

    Parameters
    ----------
    path : str
        A folder with a model of ``transformers``, such as GPT-2's.
    hidden : int, default 256
        Width of the hidden layer of both maps.
    """

    path: str
    hidden: int = 256

    def build(self, features: int, outputs: int, length: int) -> ReadInAndOut:
        """Read the model and put it between two maps of two layers each."""
        body = _loaded(self.path, "AutoModel", "a frozen language model")
        most = _positions(body)
        if most is not None and length > most:
            raise FewerError(f"prompts of {length} tokens are longer than the {most} that {self.path} can read")
        width = body.config.hidden_size
        read_in = nn.Sequential(nn.Linear(features, self.hidden), nn.GELU(), nn.Linear(self.hidden, width))
        read_out = nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, outputs))
        return ReadInAndOut(read_in, FrozenBody(body), read_out)


class FrozenBody(nn.Module):
    """The layers of a language model, on vectors in place of words; neither trained nor made noisy by dropout.

    Parameters
    ----------
    body : nn.Module
        As ``transformers.AutoModel`` gives it.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenBody:
        """Stay as it is."""
        return self

    def forward(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        """Hidden states of the last layer."""
        return self.body(inputs_embeds=x, use_cache=False).last_hidden_state


class PromptedLanguageModel:
    """Ask a causal language model: it reads points and labels as text, and its next word is the label.

    Nothing is trained.  Bits are written ``0 1 1``, labels ``0`` and ``1``.

    Parameters
    ----------
    path : str
        A folder with a causal language model of ``transformers`` and its tokenizer.
    batch : int, default 16
        Prompts that are read at once.

    Raises
    ------
    FewerError
        If the folder holds no such model, or its tokenizer does not tell the two labels apart.
    """

    def __init__(self, path: str, batch: int = 16) -> None:
        self.path, self.batch = path, batch
        self.model = _loaded(path, "AutoModelForCausalLM", "a prompted language model").eval()
        self.tokenizer = _tokenizer(path)
        zero, one = (self._ids(f" {label}") for label in (0, 1))
        shared = 0
        while shared < min(len(zero), len(one)) and zero[shared] == one[shared]:
            shared += 1
        if shared == min(len(zero), len(one)):
            raise FewerError(f"the tokenizer in {path} does not tell ' 0' from ' 1'; use another model")
        self._before_label, self._choices = zero[:shared], (zero[shared], one[shared])
        self._labels = (zero[shared:], one[shared:])

    def predict(
        self, X_support: Any, y_support: Any, X_query: Any, classes: Any = None
    ) -> Shaped[np.ndarray, " queries"]:
        """Say the label of points from examples; as :meth:`fewer.incontext.InContextLearner.predict`."""
        y = np.asarray(y_support)
        if not len(y):
            raise FewerError("a language model needs an example or more to know what is asked")
        support = as_points(X_support, (len(y), np.shape(X_support)[-1]))
        queries = as_points(X_query, (len(X_query), support.shape[1]))
        labels = two_classes(y, classes)
        signs = np.append(np.where(y == labels[1], 1.0, -1.0), 1.0).astype(np.float32)
        x = np.concatenate([np.repeat(support[None], len(queries), 0), queries[:, None]], 1)
        logits = self.logits(torch.from_numpy(x), torch.from_numpy(np.repeat(signs[None], len(queries), 0)))
        return np.array(labels)[(logits[:, -1].numpy() > 0).astype(int)]

    def score_curve(
        self, family: FunctionFamily, count: int = 100, seed: int = 0, *, teaching: bool = False
    ) -> Float[np.ndarray, " points"]:
        """Accuracy on unseen functions after 0, 1, 2 … examples."""
        drawn = family.draw(count, torch_generator(seed, "unseen functions"), teaching=teaching, unseen=True)
        return self.accuracy(drawn).mean(0).numpy()

    def accuracy(self, examples: Examples) -> Float[Tensor, "functions points"]:
        """1 where the model says the right label."""
        return (self.logits(examples.x, examples.y).sign() == examples.y).float()

    def logits(
        self, x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
    ) -> Float[Tensor, "functions points"]:
        """By how much the model prefers label 1 at each point, knowing the labels before it; each prompt is read once."""
        rows, places = zip(*(self._prompt(*each) for each in zip(x.tolist(), y.tolist(), strict=True)), strict=True)
        most, longest = _positions(self.model), max(map(len, rows))
        if most is not None and longest > most:
            raise FewerError(f"prompts of {longest} tokens are longer than the {most} that {self.path} can read")
        parts = []
        for start in range(0, len(rows), self.batch):
            some, where = rows[start : start + self.batch], torch.tensor(places[start : start + self.batch])
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in some], batch_first=True)
            mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in some])[:, None]
            with torch.inference_mode():
                scores = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits
            zero, one = (scores[..., each].gather(1, where) for each in self._choices)
            parts.append((one - zero).float())
        return torch.cat(parts)

    def _prompt(self, x: list[list[float]], y: list[float]) -> tuple[list[int], list[int]]:
        """The tokens of a prompt, and the places whose next token is a label."""
        start = self.tokenizer.bos_token_id
        ids = [] if start is None else [start]
        places = []
        for at, (point, label) in enumerate(zip(x, y, strict=True)):
            bits = " ".join("1" if bit > 0 else "0" for bit in point)
            ids += self._ids(f"{'' if at == 0 else chr(10)}Input: {bits}\nLabel:") + self._before_label
            places.append(len(ids) - 1)
            ids += self._labels[label > 0]
        return ids, places

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def _loaded(path: str, kind: str, what: str) -> Any:
    transformers = need("transformers", extra="language", what=what)
    if not Path(path).is_dir():
        raise FewerError(f"no model folder at {path}; give the path of one written by save_pretrained")
    try:
        return getattr(transformers, kind).from_pretrained(
            path, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FewerError(f"{path} is no language model: {reason}; it must hold config.json and weights") from error


def _tokenizer(path: str) -> Any:
    transformers = need("transformers", extra="language", what="a prompted language model")
    try:
        return transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FewerError(f"{path} has no tokenizer: {reason}; save it beside the model") from error


def _positions(model: Any) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)
