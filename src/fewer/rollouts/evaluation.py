"""How good a language model is now: held-out problems, solved and judged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fewer.core.samples import Sample
from fewer.core.seeding import torch_generator
from fewer.rollouts.decoding import Sampled, decode
from fewer.rollouts.problems import Language, Problem, Problems, Verdicts, prompt_tokens, verdicts

SHOWN = 4
"""Held-out problems whose completions people are shown."""


def judged(task: Problems, language: Language, problems: list[Problem], sampled: Sampled) -> Verdicts:
    """Verify what was sampled."""
    return verdicts(task, problems, language.texts(sampled.completions()))


@torch.inference_mode()
def evaluate(task: Problems, language: Language, problems: list[Problem], seed: int) -> tuple[float, dict[str, float]]:
    """Share of problems solved by one completion at temperature 1, and beside it by the greedy one.

    Parameters
    ----------
    task : Problems
        Verifies.
    language : Language
        The model.
    problems : list of Problem
        Each is tried once.
    seed : int
        Of what is drawn; the same at each point.
    """
    prompts = [prompt_tokens(language, problem, task.longest) for problem in problems]
    draws = torch_generator(seed, "held out")
    options: dict[str, Any] = {"new": task.longest, "end": language.end, "pad": language.pad}
    sampled = decode(language.network, prompts, draws=draws, **options)
    greedy = decode(language.network, prompts, greedy=True, draws=None, **options)
    once, best = (judged(task, language, problems, each).correct.mean() for each in (sampled, greedy))
    length = float(sampled.mask.sum(1).double().mean())
    return float(once), {"greedy accuracy": float(best), "held-out length": length}


@torch.inference_mode()
def completions(task: Problems, language: Language, problems: Sequence[Problem], seed: int) -> list[Sample]:
    """Complete a few problems at temperature 1, as they are scored, with what the verifier says of each.

    Parameters
    ----------
    task : Problems
        Verifies.
    language : Language
        The model.
    problems : sequence of Problem
        All are completed.
    seed : int
        Of what is drawn; the same at each moment.
    """
    sampled = decode(
        language.network,
        [prompt_tokens(language, problem, task.longest) for problem in problems],
        new=task.longest,
        end=language.end,
        pad=language.pad,
        draws=torch_generator(seed, "shown"),
    )
    texts = language.texts(sampled.completions())
    rewards = verdicts(task, problems, texts).rewards
    return [
        Sample(problem.prompt, text, float(reward))
        for problem, text, reward in zip(problems, texts, rewards, strict=True)
    ]
