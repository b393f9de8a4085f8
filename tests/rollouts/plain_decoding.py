"""Decoding as slowly and plainly as can be, to compare with: the whole sequence through the network for each new token."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decoded(
    network: nn.Module, prompt: list[int], new: int, end: tuple[int, ...], temperature=lambda place: 1.0, draws=None
) -> tuple[list[int], list[float], list[float]]:
    """Tokens, their log-probabilities at temperature 1, and those under what they were drawn from; greedy without draws."""
    tokens, logps, behaviour = list(prompt), [], []
    with torch.no_grad():
        for place in range(new):
            logits = network(torch.tensor([tokens]))[0, -1].float()
            model = torch.log_softmax(logits, 0)
            tempered = torch.log_softmax(logits / temperature(place), 0)
            chosen = (
                int(logits.argmax()) if draws is None else int(torch.multinomial(tempered.exp(), 1, generator=draws))
            )
            tokens.append(chosen)
            logps.append(float(model[chosen]))
            behaviour.append(float(tempered[chosen]))
            if chosen in end:
                break
    return tokens[len(prompt) :], logps, behaviour


def log_probabilities(network: nn.Module, prompt: list[int], completion: list[int]) -> Tensor:
    """Of each token of a completion, from one pass over everything."""
    logits = network(torch.tensor([prompt + completion]))[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(completion)[:, None])[:, 0]
