"""Sentences of a small grammar, six things that each says, and targets that two or three of them decide.

A sentence is drawn from 120 words: ``[well] the soups were not very good [to us] [here]``.  What it says is independent: the
word for good or bad, whether it is negated, tense, number, topic and strength.  An encoder has learned to name hidden words of
many such sentences, and one adapter each has learned to tell one of the six from 1,500 labels; the target has few labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int

from fewer.adapt.adapter_training import train_adapters
from fewer.adapt.loop import AdaptationTask, Labelled
from fewer.adapt.task_adapter import TaskAdapter
from fewer.adapt.text_encoder import TextEncoder, learn_masked_words
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.core.shared_start import shared_start
from fewer.pretrain.vocabulary import Vocabulary

NOUNS = (
    ("soup", "cake", "pie", "drink", "meal"),
    ("actor", "scene", "song", "plot", "joke"),
    ("hotel", "train", "tour", "island", "flight"),
    ("team", "goal", "race", "player", "game"),
)
"""Of food, stage, travel and sport."""

GOOD = (
    "good",
    "great",
    "lovely",
    "bright",
    "charming",
    "fine",
    "nice",
    "pleasant",
    "splendid",
    "superb",
    "fresh",
    "warm",
)
BAD = ("bad", "awful", "ugly", "dull", "boring", "poor", "nasty", "dreadful", "terrible", "weak", "stale", "cold")
STRONG, MILD = (
    ("very", "really", "extremely", "truly", "deeply"),
    ("slightly", "somewhat", "rather", "fairly", "mildly"),
)
NEGATIONS, OTHERS = ("not", "never", "hardly"), ("indeed", "again", "still", "always", "also")
VERBS = (
    (("is", "are"), ("was", "were")),
    (("seems", "seem"), ("seemed", "seemed")),
    (("looks", "look"), ("looked", "looked")),
    (("feels", "feel"), ("felt", "felt")),
    (("sounds", "sound"), ("sounded", "sounded")),
)
"""Present and past, each in singular and plural."""

OWNERS, LISTENERS = ("the", "my", "your", "our", "their"), ("me", "us", "them", "everyone")
BEGINNINGS = ("well", "so", "frankly", "honestly", "perhaps", "anyway")
ENDINGS = ("here", "there", "overall", "together", "inside", "outside")

FACTORS = {"polarity": 2, "negation": 2, "tense": 2, "number": 2, "topic": 4, "strength": 2}
"""What a sentence says, and of how many kinds; each is a source task."""

Target = Literal["signed", "polite-negative", "past-topic"]
TARGETS: dict[Target, tuple[str, str]] = {
    "signed": ("bad", "good"),
    "polite-negative": ("otherwise", "politely negative"),
    "past-topic": ("otherwise", "food or stage, in the past"),
}
"""Names of the two classes of each target."""


def sentences(factors: dict[str, Int[np.ndarray, " rows"]], rng: np.random.Generator) -> list[str]:
    """Put into words what is to be said.

    Parameters
    ----------
    factors : dict of int arrays (rows,)
        For each of :data:`FACTORS`.
    rng : Generator
        Draws the words.

    Examples
    --------
    >>> said = {name: np.array([1]) for name in FACTORS}
    >>> sentences(said, np.random.default_rng(0))
    ['perhaps my scenes sounded hardly very bright to everyone outside']
    """
    rows = len(factors["polarity"])
    draw = rng.integers(0, 10**6, size=(rows, 11)).tolist()
    found = []
    columns = zip(*(factors[name].tolist() for name in FACTORS), strict=True)
    for (polarity, negation, tense, number, topic, strength), pick in zip(columns, draw, strict=True):

        def one(words: tuple[Any, ...], place: int, pick: list[int] = pick) -> Any:
            return words[pick[place] % len(words)]

        words = [
            one(BEGINNINGS, 0) if pick[1] % 2 else "",
            one(OWNERS, 2),
            one(NOUNS[topic], 3) + ("s" if number else ""),
            one(VERBS, 4)[tense][number],
            one(NEGATIONS if negation else OTHERS, 5),
            one(STRONG if strength else MILD, 6),
            one(GOOD if polarity else BAD, 7),
            f"to {one(LISTENERS, 8)}" if pick[9] % 3 == 0 else "",
            one(ENDINGS, 10) if pick[10] % 2 else "",
        ]
        found.append(" ".join(word for word in words if word))
    return found


def vocabulary() -> Vocabulary:
    """All 120 words."""
    nouns = [noun + end for topic in NOUNS for noun in topic for end in ("", "s")]
    verbs = [form for verb in VERBS for time in verb for form in time]
    rest = (*GOOD, *BAD, *STRONG, *MILD, *NEGATIONS, *OTHERS, *OWNERS, *LISTENERS, *BEGINNINGS, *ENDINGS, "to")
    return Vocabulary([" ".join([*nouns, *verbs, *rest])], context=14, least=1)


def drawn(rows: int, rng: np.random.Generator) -> dict[str, Int[np.ndarray, " rows"]]:
    """What sentences shall say, each thing by itself and all kinds alike."""
    return {name: rng.integers(0, kinds, size=rows) for name, kinds in FACTORS.items()}


def answer(target: Target, factors: dict[str, Int[np.ndarray, " rows"]]) -> Int[np.ndarray, " rows"]:
    """The class of each sentence.

    ``signed``: whether what is said is good, a negation turning the word round.  ``polite-negative``: whether it is bad and
    said mildly.  ``past-topic``: whether it is of food or stage, and in the past.
    """
    good = factors["polarity"] ^ factors["negation"]
    if target == "signed":
        return good
    if target == "polite-negative":
        return (1 - good) & (1 - factors["strength"])
    return (factors["topic"] < 2).astype(np.int64) & factors["tense"]


@dataclass(frozen=True, eq=False)
class TemplateSentences(AdaptationTask):
    """Tell sentences apart by few labels, with an encoder and adapters of six other tasks to begin from.

    Parameters
    ----------
    target : {"signed", "polite-negative", "past-topic"}, default "signed"
        What is asked; see :func:`answer`.  Both classes are as frequent.
    rows, test : int, default 100 and 1000
        Sentences to learn from, and to be scored.
    pretraining : int, default 800
        Steps of learning hidden words, of ten times as many sentences.
    source_rows, source_epochs : int, default 1500 and 5
        Labels of each source task, and times through them.

    Examples
    --------
    >>> task = TemplateSentences("past-topic")
    >>> task.labelled(0).x.shape, task.classes
    (torch.Size([100, 12]), ('otherwise', 'food or stage, in the past'))
    """

    target: Target = "signed"
    rows: int = 100
    test: int = 1000
    pretraining: int = 800
    source_rows: int = 1500
    source_epochs: int = 5
    name: str = "template-sentences"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise FewerError(f"template-sentences: target is {self.target!r}; choose {', '.join(TARGETS)}")
        if min(self.rows, self.test, self.pretraining, self.source_epochs) < 1 or self.source_rows < 20:
            raise FewerError(f"template-sentences: give 1 or more of each, and 20 source rows; given {self}")

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Names of the two."""
        return TARGETS[self.target]

    def fingerprint(self) -> str:
        """Of the settings."""
        return fingerprint(self.name, self.target, str((self.rows, self.test)), *self._start())

    def _start(self) -> tuple[str, ...]:
        return (str(self.pretraining), str(self.source_rows), str(self.source_epochs))

    def labelled(self, seed: int) -> Labelled:
        """Sentences of both classes in equal share."""
        words = vocabulary()

        def some(rows: int, *names: str) -> tuple[Any, Any]:
            rng = generator(seed, "template sentences", self.target, *names)
            factors = drawn(16 * rows + 64, rng)
            y = answer(self.target, factors)
            wanted = rng.permutation(np.arange(rows) % 2)
            places = [np.flatnonzero(y == each) for each in (0, 1)]
            chosen = np.empty(rows, dtype=np.int64)
            for each in (0, 1):
                chosen[wanted == each] = places[each][: int((wanted == each).sum())]
            kept = {name: each[chosen] for name, each in factors.items()}
            return words(sentences(kept, rng)), torch.from_numpy(wanted.astype(np.int64))

        return Labelled(*some(self.rows, "learned"), *some(self.test, "scored"))

    def base(self, seed: int) -> TextEncoder:
        """The encoder, which brings the adapters of the six source tasks as ``source_adapters``; equal for all targets."""
        encoder = fresh_encoder(seed)
        tree = shared_start("template-sentences", (*self._start(), str(seed)), lambda: self._trained(seed))
        encoder.load_state_dict(tree["encoder"])
        encoder.source_adapters = {task: TaskAdapter(task, tuple(each)) for task, each in tree["adapters"].items()}
        return encoder.eval()

    def _trained(self, seed: int) -> dict[str, Any]:
        encoder, rng = fresh_encoder(seed), generator(seed, "template sentences", "unlabelled")
        texts = sentences(drawn(10 * self.pretraining, rng), rng)
        learn_masked_words(encoder, encoder.tokens(texts), steps=self.pretraining, seed=seed)
        encoder.requires_grad_(False)
        data = {task: source_rows(task, self.source_rows, seed) for task in FACTORS}
        adapters = train_adapters(
            encoder, data, reduction=8, lr=1e-2, epochs=self.source_epochs, validation=0.0, seed=seed
        )
        return {
            "encoder": encoder.state_dict(),
            "adapters": {task: list(each.layers) for task, each in adapters.items()},
        }


def source_rows(task: str, rows: int, seed: int) -> tuple[list[str], Int[np.ndarray, " rows"]]:
    """Sentences and their classes in one of the six source tasks."""
    rng = generator(seed, "template sentences", "source", task)
    factors = drawn(rows, rng)
    return sentences(factors, rng), factors[task]


def fresh_encoder(seed: int) -> TextEncoder:
    """The encoder before it has learned anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "template sentences"))
        return TextEncoder(vocabulary(), width=64, depth=4, heads=4, hidden=128)
