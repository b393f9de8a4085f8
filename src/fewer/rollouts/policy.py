"""What post-training gives: a language model that completes prompts, and can be saved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fewer.adapt.built_in import Change, merged
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.rollouts.decoding import decode
from fewer.rollouts.problems import Language


@dataclass(frozen=True, eq=False)
class TrainedPolicy:
    """A language model after its training.

    Parameters
    ----------
    language : Language
        The model and its tokens.
    longest : int
        Tokens of a completion, at most.
    """

    language: Language
    longest: int

    def complete(self, prompts: Sequence[str], *, temperature: float = 0.0, seed: int = 0) -> list[str]:
        """Complete prompts: greedily by default, else by drawing at a temperature.

        Raises
        ------
        FewerError
            If the temperature is negative.
        """
        if temperature < 0:
            raise FewerError(f"complete: temperature is {temperature}; give 0 for the likeliest completion, or more")
        language = self.language
        with torch.inference_mode():
            sampled = decode(
                language.network,
                [language.encode(prompt) for prompt in prompts],
                new=self.longest,
                end=language.end,
                pad=language.pad,
                greedy=temperature == 0,
                temperature=temperature or 1.0,
                draws=torch_generator(seed, "complete") if temperature else None,
            )
        return language.texts(sampled.completions())

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model and tokenizer in the format of ``transformers``; adapters are folded into the weights.

        Raises
        ------
        FewerError
            If the model is of no kind that ``transformers`` knows.
        """
        if self.language.save is None:
            raise FewerError(
                "this policy has no tokenizer of transformers to be saved with; save its network's state dict"
            )
        network = self.language.network
        built_in = any(isinstance(each, Change) for each in network.modules())
        self.language.save(merged(network) if built_in else network, os.fspath(folder))
