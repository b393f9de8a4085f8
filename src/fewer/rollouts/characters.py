"""A small language model over single characters, and its training on texts: what the generated problems begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.seeding import derive, generator
from fewer.core.shared_start import shared_start
from fewer.models.causal_lm import CausalLM
from fewer.models.optimisers import AdamW, Cosine, set_rate
from fewer.rollouts.problems import Language

MODEL = CausalLM(width=64, layers=2, heads=4)


@dataclass(frozen=True)
class Characters:
    """An alphabet; each character is a token, and one of them ends a text.

    Parameters
    ----------
    alphabet : str
        All characters, each once.
    end : str
        The one that ends a text.
    pad : str
        The one that fills rows up.

    Examples
    --------
    >>> Characters("01.", ".", "0").encode("10.")
    [1, 0, 2]
    """

    alphabet: str
    end: str
    pad: str

    def encode(self, text: str) -> list[int]:
        """Characters to tokens.

        Raises
        ------
        FewerError
            For a character that is not of the alphabet.
        """
        places = [self.alphabet.find(each) for each in text]
        if -1 in places:
            raise FewerError(f"{text[places.index(-1)]!r} is not of the alphabet {self.alphabet!r}")
        return places

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens to characters."""
        return "".join(self.alphabet[each] for each in tokens)

    def language(self, network: nn.Module) -> Language:
        """A network that speaks it."""
        end, pad = (self.alphabet.index(each) for each in (self.end, self.pad))
        return Language(network, self.encode, self.decode, (end,), pad)


Texts = Callable[[np.random.Generator, int], tuple[Int[np.ndarray, "texts length"], Int[np.ndarray, " texts"]]]
"""Draws texts as tokens, each padded to the longest, and how many of each text's tokens are its prompt."""


def imitating(
    characters: Characters,
    texts: Texts,
    depends_on: tuple[str, ...],
    seed: int,
    *,
    steps: int,
    batch: int = 128,
    lr: float = 2e-3,
) -> nn.Module:
    """A model that imitates texts: trained once for each seed, and found again.

    Parameters
    ----------
    characters : Characters
        The alphabet.
    texts : callable
        Draws them.
    depends_on : tuple of str
        What decides about the texts.
    seed : int
        Of the weights and the texts.
    steps, batch : int
        Updates, and texts for each.
    lr : float
        Highest learning rate.
    """
    vocabulary = len(characters.alphabet)

    def make() -> dict[str, torch.Tensor]:
        return _trained(
            vocabulary, texts, characters.alphabet.index(characters.pad), seed, steps, batch, lr
        ).state_dict()

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        network = MODEL.build(vocabulary)
    name = (repr(MODEL), characters.alphabet, *depends_on, str(seed), str((steps, batch, lr)))
    network.load_state_dict(shared_start("characters", name, make))
    return network


def _trained(vocabulary: int, texts: Texts, pad: int, seed: int, steps: int, batch: int, lr: float) -> nn.Module:
    rng, schedule = generator(seed, "texts"), Cosine(warmup=0.1)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, "characters"))
        network = MODEL.build(vocabulary)
    optimiser = AdamW(lr, weight_decay=0.0).make(list(network.parameters()))
    for step in range(steps):
        drawn, prompts = texts(rng, batch)
        tokens = torch.from_numpy(drawn)
        asked = torch.arange(1, tokens.shape[1]) >= torch.from_numpy(prompts)[:, None]
        # the first padding after a text is not asked: the end token before it was
        asked &= tokens[:, 1:] != pad
        set_rate(optimiser, schedule.factor(step / steps))
        said = network(tokens[:, :-1])[asked]
        loss = nn.functional.cross_entropy(said, tokens[:, 1:][asked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return network
