"""LIMR: of all prompts, learn from those whose learning curves go with the average one.

A first run goes over all prompts and notes, for each prompt i and epoch k, which share r_i^k of its completions was right.

    s_i = 1 - sum_k (r_i^k - mean^k)^2 / sum_k (1 - mean^k)^2          mean^k = average of r_i^k over prompts

Prompts that are solved from the start have s = 0, prompts that never are a lower one (as long as the average is above a half),
and those that are learned while others are learned come near 1.  Training begins anew with those above a threshold.

References
----------
Li, Zou and Liu, "LIMR: Less is More for RL Scaling", 2025, arXiv:2502.11886.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator

from fewer.claim import Claim, Measures, Tiny, higher, no_worse
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import generator
from fewer.rollouts.loop import PostTraining, PromptStream, UniformStream
from fewer.rollouts.mixed_sums import MixedSums
from fewer.tasks.rounds import Rounds

T = TypeVar("T")


def filled(curves: Float[np.ndarray, "prompts epochs"]) -> Float[np.ndarray, "prompts epochs"]:
    """Curves in which what is missing has the next epoch's value; rows stay NaN where there is none.

    Examples
    --------
    >>> filled(np.array([[np.nan, 0.5, 1.0], [0.5, np.nan, np.nan]])).tolist()
    [[0.5, 0.5, 1.0], [0.5, nan, nan]]
    """
    found = np.array(curves, dtype=np.float64)
    for epoch in range(found.shape[1] - 1):
        gap = np.isnan(found[:, epoch])
        found[gap, epoch] = np.asarray(curves)[gap, epoch + 1]
    return found


def alignment(curves: Float[np.ndarray, "prompts epochs"]) -> tuple[np.ndarray, np.ndarray]:
    """Score of each prompt, NaN where its curve has a gap, and the average curve of the others.

    Raises
    ------
    FewerError
        If everything is solved in every epoch, so that nothing can be told apart.

    Examples
    --------
    >>> scores, mean = alignment(np.array([[0.0, 1.0], [1.0, 1.0], [0.5, 1.0]]))
    >>> scores.round(2).tolist(), mean.tolist()
    ([0.0, 0.0, 1.0], [0.5, 1.0])
    """
    valid = ~np.isnan(curves).any(1)
    mean = curves[valid].mean(0) if valid.any() else np.full(curves.shape[1], np.nan)
    room = np.square(1 - mean).sum()
    if not room > 0:
        raise FewerError("limr: the average curve is 1, or no prompt has a whole curve: nothing to select")
    return 1 - np.square(curves - mean).sum(1) / room, mean


class LIM(BaseEstimator):
    """Select prompts by the curves of a training run.

    Parameters
    ----------
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.

    Attributes
    ----------
    scores_ : float array (prompts,)
        1 for the average curve, NaN for one with a gap.
    mean_curve_ : float array (epochs,)
        The average curve.
    kept_ : int array
        Places of prompts that are kept, in their order.

    Examples
    --------
    >>> curves = [[0.0, 0.0, 0.1], [0.1, 0.5, 0.9], [1.0, 1.0, 1.0], [0.3, 0.6, 0.9]]
    >>> LIM().fit(curves).transform(["never", "learned", "always", "learned, too"])
    ['learned', 'learned, too']
    """

    def __init__(self, threshold: float = 0.6, most: int | None = None) -> None:
        self.threshold, self.most = threshold, most

    def fit(self, curves: Any, y: object = None) -> LIM:
        """Score prompts.

        Parameters
        ----------
        curves : array (prompts, epochs), or a list of mappings
            Shares of right completions, NaN where a prompt was not tried; or ``prompt_id``, ``epoch`` and ``reward`` of
            each trial, prompts in the order in which they first come.

        Raises
        ------
        FewerError
            If there is one epoch only, a value is no share, or nothing is left.
        """
        curves = filled(as_curves(curves))
        self.scores_, self.mean_curve_ = alignment(curves)
        if self.mean_curve_[-1] < 0.4:
            warnings.warn(
                f"limr: the average curve ends at {self.mean_curve_[-1]:.2f}; where most is never solved, prompts that are "
                "never solved score high, too: train longer before selecting",
                stacklevel=2,
            )
        ranked = np.where(np.isnan(self.scores_), -np.inf, self.scores_)
        order = np.argsort(-ranked, kind="stable")
        order = order[np.isfinite(ranked[order])]
        chosen = order[: self.most] if self.most is not None else order[ranked[order] >= self.threshold]
        if not len(chosen):
            tenth = ranked[order[max(0, len(order) // 10 - 1)]]
            raise FewerError(
                f"limr: no prompt scores {self.threshold:g}; the best has {ranked[order[0]]:.2f}, and a threshold of "
                f"{tenth:.2f} would keep a tenth"
            )
        self.kept_ = np.sort(chosen)
        return self

    def transform(self, prompts: Sequence[T]) -> list[T]:
        """Give the prompts that are kept.

        Raises
        ------
        FewerError
            If there are not as many as curves.
        """
        if len(prompts) != len(self.scores_):
            raise FewerError(
                f"limr: {len(self.scores_)} curves were given and {len(prompts)} prompts; give one of each"
            )
        return [prompts[place] for place in self.kept_]


def as_curves(given: Any) -> Float[np.ndarray, "prompts epochs"]:
    """Curves as an array, from an array or a log.

    Raises
    ------
    FewerError
        If it is neither, has one epoch only, or a value is not between 0 and 1.

    Examples
    --------
    >>> log = [{"prompt_id": "a", "epoch": 0, "reward": each} for each in (1, 0)] + [{"prompt_id": "a", "epoch": 1, "reward": 1}]
    >>> as_curves(log).tolist()
    [[0.5, 1.0]]
    """
    if isinstance(given, Iterable) and not isinstance(given, np.ndarray):
        given = list(given)
        if given and isinstance(given[0], Mapping):
            given = _from_log(given)
    curves = np.asarray(given, dtype=np.float64)
    if curves.ndim != 2 or not len(curves) or curves.shape[1] < 2:
        raise FewerError(
            f"limr: curves of shape {curves.shape} were given; give (prompts, epochs) with two epochs or more"
        )
    seen = curves[~np.isnan(curves)]
    if ((seen < 0) | (seen > 1)).any():
        raise FewerError(
            f"limr: a value is {seen[(seen < 0) | (seen > 1)][0]:g}; give shares of right completions, from 0 to 1, not rewards"
        )
    return curves


def _from_log(log: list[Mapping[str, Any]]) -> np.ndarray:
    try:
        prompts = {name: row for row, name in enumerate(dict.fromkeys(each["prompt_id"] for each in log))}
        epochs = {epoch: column for column, epoch in enumerate(sorted({each["epoch"] for each in log}))}
        total, count = np.zeros((len(prompts), len(epochs))), np.zeros((len(prompts), len(epochs)))
        for each in log:
            place = prompts[each["prompt_id"]], epochs[each["epoch"]]
            total[place] += float(each["reward"])
            count[place] += 1
    except (KeyError, TypeError, ValueError) as error:
        raise FewerError(
            f"limr: each row of a log has prompt_id, epoch and reward; {error} is wrong or missing"
        ) from error
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


# --- as a curation -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LearningImpact:
    """Learn from all prompts for some epochs, then begin anew with those that are kept; fills the slot ``curation``.

    The first run is a part of the budget.

    Parameters
    ----------
    epochs : int, default 10
        Of the first run.
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.
    """

    epochs: int = 10
    threshold: float = 0.6
    most: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 2 or (self.most is not None and self.most < 1):
            raise FewerError(f"limr: epochs must be at least 2 and most at least 1; given {self}")

    def build(self, prompts: int, seed: int) -> PromptStream:
        """Begin the first run."""
        return ImpactStream(self, prompts, seed)

    def least(self, prompts: int) -> int:
        """All prompts in each epoch, and one of those that are kept."""
        return prompts * self.epochs + 1


class ImpactStream:
    """What :class:`LearningImpact` builds.

    Parameters
    ----------
    settings : LearningImpact
        Its numbers.
    prompts : int
        How many there are.
    seed : int
        Of their order.
    """

    def __init__(self, settings: LearningImpact, prompts: int, seed: int) -> None:
        self.settings, self.prompts, self.seed = settings, prompts, seed
        self.curves = np.full((prompts, settings.epochs), np.nan)
        self.kept: Int[np.ndarray, " kept"] | None = None
        self.left = np.zeros(0, dtype=np.int64)
        self.epoch = -1
        self.rng = generator(seed, "prompts")
        self.rounds: Rounds | None = None

    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """The next of an epoch, which ends with all prompts tried; later, the next of those that are kept."""
        if self.rounds is not None:
            assert self.kept is not None
            return self.kept[self.rounds.draw(count)]
        if not len(self.left):
            self.left, self.epoch = self.rng.permutation(self.prompts), self.epoch + 1
        chosen, self.left = self.left[:count], self.left[count:]
        return chosen

    def record(self, places: Int[np.ndarray, " prompts"], correct: Float[np.ndarray, " prompts"]) -> bool:
        """Note the curves; after the last epoch of the first run, select and let the model begin anew."""
        if self.kept is not None:
            return False
        self.curves[places, self.epoch] = correct
        if len(self.left) or self.epoch + 1 < self.settings.epochs:
            return False
        self._keep(LIM(self.settings.threshold, self.settings.most).fit(self.curves).kept_)
        return True

    def _keep(self, kept: Int[np.ndarray, " kept"]) -> None:
        self.kept = kept
        self.rounds = Rounds(len(kept), generator(self.seed, "kept prompts"))

    def state_dict(self) -> dict[str, Any]:
        """Curves, what is kept, and where the order stands."""
        rounds = None if self.rounds is None else self.rounds.state_dict()
        return {
            "curves": self.curves,
            "kept": self.kept,
            "left": self.left,
            "epoch": self.epoch,
            "rng": self.rng,
            "rounds": rounds,
        }

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        self.curves, self.left, self.epoch, self.rng = (tree[name] for name in ("curves", "left", "epoch", "rng"))
        if tree["kept"] is not None:
            self._keep(tree["kept"])
            assert self.rounds is not None
            self.rounds.load_state_dict(tree["rounds"])


def steady_improvement(curves: Any, fit: float = 0.7) -> Int[np.ndarray, " kept"]:
    """The rival selection: prompts whose curves rise along a straight line.

    Parameters
    ----------
    curves : array (prompts, epochs)
        Shares of right completions.
    fit : float, default 0.7
        Least share of the variance that the line explains.

    Examples
    --------
    >>> steady_improvement([[0.1, 0.5, 0.9], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5]]).tolist()
    [0]
    """
    curves = filled(as_curves(curves))
    epochs = np.arange(curves.shape[1]) - (curves.shape[1] - 1) / 2
    centred = curves - curves.mean(1, keepdims=True)
    slope = centred @ epochs / (epochs @ epochs)
    total = np.square(centred).sum(1)
    explained = np.divide(slope**2 * (epochs @ epochs), total, out=np.zeros(len(curves)), where=total > 1e-12)
    return np.nonzero((slope > 0) & (explained >= fit))[0]


def LIMR(epochs: int = 10, threshold: float = 0.6, most: int | None = None) -> LearningImpact:
    """Fill the slot ``curation`` with LIMR.

    Parameters
    ----------
    epochs : int, default 10
        Of the first run, over all prompts.
    threshold : float, default 0.6
        Least score of a prompt that is kept.
    most : int, optional
        Keep so many of the best ones instead.
    """
    return LearningImpact(epochs, threshold, most)


@dataclass(frozen=True)
class Chosen:
    """Learn from some prompts only; fills the slot ``curation``.

    Parameters
    ----------
    places : tuple of int
        Which, among all that the task has.
    """

    places: tuple[int, ...]

    def build(self, prompts: int, seed: int) -> PromptStream:
        """Begin.

        Raises
        ------
        FewerError
            If there is none, or no such prompt.
        """
        if not self.places or not 0 <= min(self.places) <= max(self.places) < prompts:
            raise FewerError(
                f"chosen prompts: places lie in 0 to {prompts - 1}, and there is at least one; given {self.places}"
            )
        return ChosenStream(np.array(self.places), Rounds(len(self.places), generator(seed, "prompts")))

    def least(self, prompts: int) -> int:
        """One."""
        return 1


class ChosenStream(UniformStream):
    """What :class:`Chosen` builds.

    Parameters
    ----------
    places : int array
        Of the prompts.
    rounds : Rounds
        Deals.
    """

    def __init__(self, places: Int[np.ndarray, " chosen"], rounds: Rounds) -> None:
        super().__init__(rounds)
        self.places = places

    def draw(self, count: int) -> Int[np.ndarray, " prompts"]:
        """The next of the round."""
        return self.places[super().draw(count)]


# --- the claim ---------------------------------------------------------------------------------------------------------


def measure(seed: int, tiny: bool) -> Measures:
    """Note the curves of a pool, keep a quarter of it, and train from the beginning on that, on as many by chance, and on all."""
    task = MixedSums(rows=12, steps=5) if tiny else MixedSums()
    sizes: dict[str, Any] = {"prompts": 4, "group": 2} if tiny else {"prompts": 32, "group": 8}
    epochs, steps, count = (2, 2, 3) if tiny else (8, 30, 60)
    curation = LearningImpact(epochs, most=count)
    loop = PostTraining(**sizes, curation=curation)
    with own_randomness(seed, "start"):
        state = loop.start(task, (epochs * task.rows + 1) * sizes["group"], seed)
    stream = state.stream
    assert isinstance(stream, ImpactStream)
    while stream.kept is None:
        with own_randomness(seed, "curves", state.step, stream.epoch):
            loop.learn_once(state)
    by_chance = generator(seed, "by chance").choice(task.rows, count, replace=False)
    kinds = np.array([problem.row["kind"] for problem in task.training(seed)])
    measured: dict[str, dict[str, float]] = {}
    arms = {"limr": stream.kept, "by chance": by_chance, "all": np.arange(task.rows)}
    for name, places in arms.items():
        again = PostTraining(**sizes, curation=Chosen(tuple(places.tolist())), asked=512, points=1)
        budget = steps * sizes["prompts"] * sizes["group"] if not tiny else 8
        point = again.learn(task, budget, seed).curve.points[-1]
        measured[name] = {"accuracy": point.score, "learnable": float((kinds[places] == "learnable").mean())}
    return measured


claim = Claim(
    says="Of a pool of prompts that are trivial, unlearnable or learnable, those whose curves go with the average one are the "
    "learnable ones; training on this quarter is better than on as many by chance, and no worse than on all.",
    measure=measure,
    seeds=3,
    holds=[
        higher("accuracy", "limr", than="by chance", by=0.05),
        no_worse("accuracy", "limr", than="all", within=0.02),
        higher("learnable", "limr", than=0.8),
    ],
    tiny=Tiny(seeds=2),
    note="240 sums of digits: two fifths of two digits, three tenths of six to eight digits, three tenths whose answers are made "
    "up. A first run of eight epochs, of which the best 60 prompts are kept, then 30 steps of 32 prompts with 8 rollouts each "
    "from the beginning; what the first run costs is not part of the comparison. Accuracy is that on new sums of six to eight "
    "digits.",
)
