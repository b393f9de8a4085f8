"""Any causal language model on any problems: ``lm(model='./my-model', problems='arithmetic')``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.models.pretrained_lm import find_lm, load_lm, save_lm
from fewer.rollouts import generators
from fewer.rollouts.problems import Language, Problem, Problems
from fewer.rollouts.verifiers import Verifier, asked_of, verifier


@dataclass(frozen=True, eq=False)
class LanguageProblems(Problems):
    """A model on this machine, and problems for it.

    Parameters
    ----------
    model : str
        A folder or file, or a name; see :func:`fewer.models.pretrained_lm.load_lm`.
    verify_by : callable
        ``verify(prompt, completion, row) -> reward``.
    rows : sequence of Problem
        All of them; a part is held out anew for each seed, where ``level`` is not given.
    kind : Generator, optional
        What makes problems, where they are not given.
    level, count : int
        How hard they are, and how many are made to learn from.
    system : str, optional
        What a chat template is told first.
    longest : int, default 64
        Tokens of a completion.
    dtype : {"float32", "bfloat16"}, default "float32"
        Of the weights.
    """

    model: str
    verify_by: Verifier
    rows: Sequence[Problem] = ()
    kind: generators.Generator | None = None
    level: int = 1
    count: int = 2048
    system: str | None = None
    longest: int = 64
    dtype: str = "float32"
    name: str = "lm"  # pyright: ignore[reportIncompatibleVariableOverride]
    content: str = field(default="", repr=False)

    def fingerprint(self) -> str:
        """Model, problems and how they are asked."""
        parts = (
            self.name,
            self.content,
            str(self.level),
            str(self.count),
            str(self.system),
            str(self.longest),
            self.dtype,
        )
        return fingerprint(*parts)

    def language(self, seed: int) -> Language:
        """Load the model."""
        network, tokenizer = load_lm(self.model, dtype=self.dtype)
        return of_tokenizer(network, tokenizer, self.system)

    def training(self, seed: int) -> Sequence[Problem]:
        """All but those held out."""
        return self._divided(seed)[0]

    def held_out(self, seed: int) -> Sequence[Problem]:
        """A fifth of what is given, 256 at most; or as many made anew."""
        return self._divided(seed)[1]

    def _divided(self, seed: int) -> tuple[list[Problem], list[Problem]]:
        if self.kind is not None:
            made = generators.draw(self.kind, generator(seed, "problems"), self.count + 256, self.level)
        else:
            made = [self.rows[place] for place in generator(seed, "problems").permutation(len(self.rows))]
        held_out = min(256, max(1, len(made) // 5))
        return made[held_out:], made[:held_out]

    def verify(self, completion: str, problem: Problem) -> float:
        """Ask the verifier."""
        return asked_of(self.verify_by, completion, problem)


def of_tokenizer(network: Any, tokenizer: Any, system: str | None = None) -> Language:
    """A network and a tokenizer of ``transformers``, whose chat template is followed where it has one.

    Parameters
    ----------
    network : nn.Module
        As :func:`fewer.models.pretrained_lm.load_lm` gives it.
    tokenizer : PreTrainedTokenizerBase
        Its tokenizer.
    system : str, optional
        What the chat template is told first.
    """

    def encode(prompt: str) -> list[int]:
        if getattr(tokenizer, "chat_template", None) is None:
            return list(tokenizer.encode(prompt if system is None else f"{system}\n{prompt}"))
        said = [{"role": "user", "content": prompt}]
        if system is not None:
            said = [{"role": "system", "content": system}, *said]
        text = tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        return list(tokenizer.encode(text, add_special_tokens=False))

    ends = tokenizer.eos_token_id
    ends = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
    if ends == (None,):
        raise FewerError(
            "the model's tokenizer has no token that ends a text, so completions would never end; set eos_token"
        )
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    context = getattr(network, "context", None)
    return Language(
        network,
        encode,
        lambda tokens: tokenizer.decode(list(tokens), skip_special_tokens=True),
        ends,
        pad,
        context,
        lambda trained, folder: save_lm(trained, tokenizer, folder),
    )


def lm(
    model: str = "smollm2",
    problems: str | Sequence[Problem] = "arithmetic",
    verify: str | Verifier | None = None,
    *,
    level: int = 1,
    count: int = 2048,
    system: str | None = None,
    longest: int = 64,
    dtype: str = "float32",
) -> LanguageProblems:
    """Let a language model solve problems that can be verified.

    Parameters
    ----------
    model : str, default "smollm2"
        A folder that ``transformers`` saved, a GGUF file, or ``smollm2`` (the extra ``rollouts`` brings it).
    problems : str or sequence of Problem, default "arithmetic"
        A kind that is made here (arithmetic, countdown, letters, sorting, edits), a task of ``reasoning-gym``
        (``"gym:chain_sum"``), or a JSONL file whose lines have a ``prompt`` and mostly an ``answer``.
    verify : str or callable, optional
        A verifier's name (see :mod:`fewer.rollouts.verifiers`), or ``verify(prompt, completion, row) -> float``; the problems'
        own by default, and ``exact`` for a file.
    level, count : int, default 1 and 2048
        How hard made problems are, and how many there are to learn from.
    system : str, optional
        What a chat template is told first.
    longest : int, default 64
        Tokens of a completion.
    dtype : {"float32", "bfloat16"}, default "float32"
        Of the weights.

    Raises
    ------
    FewerError
        If the model, a file or a name is not there, or a number is out of its range.
    """
    if min(level, count, longest) < 1 or dtype not in ("float32", "bfloat16"):
        raise FewerError(
            f"lm: level, count and longest must be at least 1 and dtype float32 or bfloat16; given level={level}, "
            f"count={count}, longest={longest}, dtype={dtype!r}"
        )
    kind, rows, of_problems = None, (), "exact"
    said = problems if isinstance(problems, str) else "given"
    if not isinstance(problems, str):
        rows = tuple(problems)
    elif problems in generators.NAMED:
        kind = generators.NAMED[problems]
        of_problems = kind.verifier
    elif problems.startswith("gym:"):
        rows, of_gym = reasoning_gym(problems.removeprefix("gym:"), count)
        verify = verify or of_gym
    elif Path(problems).suffix in (".jsonl", ".json"):
        rows = read_jsonl(problems)
    else:
        raise FewerError(
            f"lm: problems are {problems!r}; give {', '.join(generators.NAMED)}, gym:NAME, or a JSONL file"
        )
    if kind is None and len(rows) < 2:
        raise FewerError(f"lm: {len(rows)} problems were given; one at least to learn from and one held out are needed")
    by = verifier(verify or of_problems)
    find_lm(model)  # before a race has begun
    content = fingerprint(*(json.dumps([each.prompt, each.answer, dict(each.row)], default=str) for each in rows))
    name = f"lm({model!r}, {said!r})"
    return LanguageProblems(
        model, by, rows, kind, level, count, system, longest, dtype, name, f"{content} {getattr(by, '__name__', by)}"
    )


def read_jsonl(path: str) -> tuple[Problem, ...]:
    """Read problems: a JSON object in each line, with ``prompt`` and what its verifier needs.

    Raises
    ------
    FewerError
        If the file cannot be read, or a line has no prompt; the line is named.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FewerError(f"cannot read {path}: {error}; give a JSONL file in UTF-8") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise FewerError(f"{path}, line {number} is no JSON ({error.msg}); give one object in each line") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise FewerError(f"{path}, line {number} has no prompt; each line is an object with a text 'prompt'")
        rest = {name: value for name, value in row.items() if name not in ("prompt", "answer")}
        found.append(Problem(row["prompt"], str(row.get("answer", "")), rest))
    return tuple(found)


def reasoning_gym(name: str, count: int) -> tuple[tuple[Problem, ...], Verifier]:
    """Problems of the package ``reasoning-gym``, judged by its own rules.

    Raises
    ------
    FewerError
        If it has no data set of that name.
    """
    package = need("reasoning_gym", extra="rollouts", what=f"problems 'gym:{name}'", package="reasoning-gym")
    try:
        made = package.create_dataset(name, size=count + 256, seed=derive(0, "reasoning-gym", name) % 2**31)
    except (KeyError, ValueError) as error:
        raise FewerError(f"reasoning-gym has no data set {name!r} ({error})") from error
    entries = [dict(each) for each in made]
    rows = tuple(Problem(each["question"], str(each["answer"]), {"entry": each}) for each in entries)
    return rows, lambda prompt, completion, row: float(made.score_answer(completion.strip(), row["entry"]))
