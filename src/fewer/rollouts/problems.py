"""Problems with verifiable answers, and the language model that begins on them.

A task of this room gives prompts to learn from, prompts that are held out, a language model, and a verifier that says how
good a completion is.  Everything is text here; the model's own tokens stay inside :class:`Language`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import nn

from fewer.core.errors import FewerError
from fewer.core.loop import Task


@dataclass(frozen=True)
class Problem:
    """One prompt, and what its verifier needs.

    Parameters
    ----------
    prompt : str
        What the model reads.
    answer : str, default ""
        What is right, where that is one thing.
    row : mapping, default {}
        Anything else that a verifier reads, such as the columns of a file.
    """

    prompt: str
    answer: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Language:
    """A causal language model together with its tokens.

    Parameters
    ----------
    network : nn.Module
        What :mod:`fewer.rollouts.decoding` can decode with.
    encode : callable
        A prompt to tokens, with whatever a chat template adds.
    decode : callable
        Tokens of a completion to text, without those that only end it.
    end : tuple of int
        Tokens that end a completion.
    pad : int
        What fills rows up.
    context : int, optional
        Most tokens of prompt and completion together.
    save : callable, optional
        Write a network of this kind, with its tokenizer, into a folder.
    """

    network: nn.Module
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    end: tuple[int, ...]
    pad: int
    context: int | None = None
    save: Callable[[nn.Module, str], None] | None = None

    def texts(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Completions as text, without the tokens that end them."""
        return [self.decode([token for token in tokens if token not in self.end]) for tokens in completions]


class Problems(Task):
    """A set of problems, a verifier, and a model to begin from.

    Attributes
    ----------
    longest : int
        Tokens that a completion may have at most.
    """

    metric: str = "accuracy"
    longest: int

    @abstractmethod
    def language(self, seed: int) -> Language:
        """The model to begin from; the loop changes a copy."""

    @abstractmethod
    def training(self, seed: int) -> Sequence[Problem]:
        """Problems to learn from."""

    @abstractmethod
    def held_out(self, seed: int) -> Sequence[Problem]:
        """Problems that are never learned from."""

    @abstractmethod
    def verify(self, completion: str, problem: Problem) -> float:
        """How good a completion is, 1 for right and 0 for wrong; other numbers are rewards as they are."""

    def correct(self, reward: float, problem: Problem) -> bool:
        """Whether that reward of :meth:`verify` is one of a right answer."""
        return reward >= 1


@dataclass(frozen=True)
class Verdicts:
    """What a verifier said of many completions.

    Parameters
    ----------
    rewards : float array
        0 where the verifier failed.
    correct : bool array
        Which are right.
    failures : int
        How often it failed.
    first : str
        What went wrong the first time, and with which problem; empty if nothing did.
    """

    rewards: Float[np.ndarray, " rollouts"]
    correct: Bool[np.ndarray, " rollouts"]
    failures: int = 0
    first: str = ""


def verdicts(task: Problems, problems: Sequence[Problem], completions: Sequence[str]) -> Verdicts:
    """Verify completions; one that the verifier cannot judge, by an exception or NaN, is worth 0 and counted.

    Examples
    --------
    >>> class Echo:
    ...     def verify(self, completion, problem):
    ...         return 1 / int(completion == problem.answer) if completion else float("nan")
    ...     def correct(self, reward, problem):
    ...         return reward >= 1
    >>> found = verdicts(Echo(), [Problem("a", "b")] * 3, ["b", "c", ""])
    >>> found.rewards.tolist(), found.correct.tolist(), found.failures
    ([1.0, 0.0, 0.0], [True, False, False], 2)
    >>> found.first
    "ZeroDivisionError: division by zero (problem 'a')"
    """
    rewards, failures, first = np.zeros(len(completions)), 0, ""
    right = np.zeros(len(completions), dtype=bool)
    for place, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
        try:
            said = float(task.verify(completion, problem))
            trouble = "" if math.isfinite(said) else f"the reward is {said}"
        except Exception as error:  # a verifier is somebody's own code: its fault costs this rollout, not the run
            said, trouble = 0.0, f"{type(error).__name__}: {error}"
        if trouble:
            failures += 1
            first = first or f"{trouble} (problem {problem.prompt[:60]!r})"
            continue
        rewards[place], right[place] = said, task.correct(said, problem)
    return Verdicts(rewards, right, failures, first)


def prompt_tokens(language: Language, problem: Problem, longest: int) -> list[int]:
    """Encode a prompt, which must leave room for a completion.

    Raises
    ------
    FewerError
        If it has no tokens, or together with the longest completion does not fit the model's context.
    """
    tokens = language.encode(problem.prompt)
    if not tokens:
        raise FewerError(f"prompt {problem.prompt[:60]!r} has no tokens; give each problem a prompt that is not empty")
    if language.context is not None and len(tokens) + longest > language.context:
        raise FewerError(
            f"prompt {problem.prompt[:60]!r} has {len(tokens)} tokens; with {longest} new ones it does not fit the model's "
            f"context of {language.context}: shorten it, or lower the task's longest completion"
        )
    return tokens
