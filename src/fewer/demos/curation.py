"""Plain ways to choose among demonstrations, which no paper stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from fewer.core.errors import FewerError
from fewer.demos.samples import Scale, sample

if TYPE_CHECKING:
    from fewer.demos.loop import Lesson


@dataclass(frozen=True)
class RandomSubset:
    """Some of the demonstrations, drawn at random.

    Parameters
    ----------
    frac : float, default 0.7
        Share to keep.
    """

    frac: float = 0.7

    def __post_init__(self) -> None:
        _check_share("random-subset", self.frac)

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """Draw them."""
        count = len(lesson.demonstrations)
        return np.sort(lesson.rng.permutation(count)[: math.ceil(self.frac * count)])


@dataclass(frozen=True)
class SuccessOnly:
    """The demonstrations that succeeded."""

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """Those that did."""
        good = lesson.demonstrations.successes
        if good is None:
            raise FewerError(
                f"success-only: {lesson.demonstrations.name} does not say which episodes succeeded; give successes, or keep all"
            )
        if not good.any():
            raise FewerError(f"success-only: none of {len(good)} demonstrations succeeded; buy more, or keep all")
        return np.flatnonzero(good)


@dataclass(frozen=True)
class StateEntropy:
    """The demonstrations whose states are spread out most.

    States are cut into cells; episode after episode, the one is taken with which the entropy of the cells is highest.

    Parameters
    ----------
    frac : float, default 0.7
        Share to keep.
    cells : int, default 64
        How many.
    """

    frac: float = 0.7
    cells: int = 64

    def __post_init__(self) -> None:
        _check_share("state-entropy", self.frac)
        if self.cells < 2:
            raise FewerError(f"state-entropy: cells must be at least 2; it is {self.cells}")

    def choose(self, lesson: Lesson) -> Int[np.ndarray, " kept"]:
        """Take one episode after another."""
        from sklearn.cluster import MiniBatchKMeans

        taken = sample(lesson.demonstrations, None, 50_000, lesson.seed)
        states = Scale.of([taken.states], True)(taken.states)
        cells = min(self.cells, len(states))
        if states.shape[1] == 0:
            raise FewerError(f"state-entropy: no observation of {lesson.demonstrations.name} ever changes; keep all")
        means = MiniBatchKMeans(cells, random_state=lesson.seed % 2**31, n_init="auto")
        labels = means.fit_predict(states)
        visits = np.bincount(taken.episode * cells + labels, minlength=len(taken.distinct) * cells)
        visits = visits.reshape(-1, cells).astype(float)[taken.place]  # a copy adds what its first one does
        count = len(lesson.demonstrations)
        chosen: list[int] = []
        sums, left = np.zeros(cells), np.ones(count, dtype=bool)
        for _ in range(math.ceil(self.frac * count)):
            shares = sums + visits[left]
            shares /= shares.sum(axis=1, keepdims=True)
            entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1)
            best = int(np.flatnonzero(left)[np.argmax(entropy)])
            chosen.append(best)
            sums += visits[best]
            left[best] = False
        return np.sort(np.array(chosen))


def _check_share(name: str, frac: float) -> None:
    if not 0 < frac <= 1:
        raise FewerError(f"{name}: frac is {frac}; give a share to keep, above 0 and at most 1")
