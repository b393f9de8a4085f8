"""A claim: a race with a verdict, or a measurement with one.

Each condition looks at an interval over paired seeds and answers *holds*, *does not hold* or
*unclear* (the interval straddles the line).  A claim holds when all its conditions do, and does not
when one of them does not.  What is written to ``results/`` is written here and nowhere else, and
carries a digest, so that a file edited by hand is not taken for a result.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from fewer import __version__
from fewer.core.curve import Curve
from fewer.core.errors import FewerError, nearest
from fewer.core.files import fingerprint, write_atomically
from fewer.core.stats import paired_difference, paired_ratio

if TYPE_CHECKING:
    from rich.console import Console

Verdict = Literal["holds", "does not hold", "unclear"]
Measures = Mapping[str, Mapping[str, float]]
"""What ``measure(seed)`` gives: entry to metric to value."""


@dataclass(frozen=True)
class Evidence:
    """What was measured: curves for each entry, or plain values.

    Parameters
    ----------
    curves : mapping of str to sequence of Curve
        One curve a seed, for each entry, in the order of the seeds.
    measures : sequence of Measures
        One for each seed.
    """

    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    measures: Sequence[Measures] = ()

    def values(self, metric: str, entry: str | Sequence[str]) -> Float[np.ndarray, " seeds"]:
        """Give a metric of an entry, one value a seed.

        Parameters
        ----------
        metric : str
            ``"area"``, ``"final"``, ``"spent"`` (samples used in all), ``"score@64"`` (the score after
            64 samples), ``"samples-to@0.9"`` (the run's last ``spent`` where 0.9 is never reached), or
            the name of an extra, whose mean over the points is taken; in a measured claim, the name
            of a measure.
        entry : str or sequence of str
            An entry; of several, the best.  Which one is best is decided for each seed by the other
            seeds alone, so that choosing does not flatter.
        """
        if not isinstance(entry, str):
            table = np.stack([self.values(metric, each) for each in entry])
            if table.shape[1] == 1:
                return table.max(axis=0)
            others = table.sum(axis=1, keepdims=True) - table
            return table[others.argmax(axis=0), np.arange(table.shape[1])]
        if self.measures:
            return np.array([self._measured(each, entry, metric) for each in self.measures])
        if entry not in self.curves:
            raise FewerError(f"the claim speaks of {entry!r}, which is not an entry; {nearest(entry, self.curves)}")
        return np.array([_of_curve(metric, curve) for curve in self.curves[entry]])

    @staticmethod
    def _measured(measures: Measures, entry: str, metric: str) -> float:
        try:
            return float(measures[entry][metric])
        except KeyError:
            raise FewerError(f"the claim speaks of {metric!r} of {entry!r}, which was not measured") from None


def _of_curve(metric: str, curve: Curve) -> float:
    name, _, at = metric.partition("@")
    last = curve.points[-1]
    match name:
        case "area":
            return curve.area()
        case "final":
            return curve.final
        case "spent":
            return float(last.spent)
        case "score":
            return curve.at(float(at))
        case "samples-to":
            return min(curve.samples_to(float(at)), float(last.spent))
    values = [point.extras[metric] for point in curve if metric in point.extras]
    if not values:
        raise FewerError(f"no point has the extra {metric!r}; {nearest(metric, last.extras)}")
    return float(np.mean(values))


@dataclass(frozen=True)
class Judgement:
    """A condition's answer and the numbers behind it."""

    text: str
    verdict: Verdict
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Condition:
    """One sentence of a claim: a text, and how evidence answers it."""

    text: str
    judge: Callable[[Evidence], Judgement]


Entry = str | Sequence[str]


def higher(metric: str, entry: Entry, *, than: Entry | float, by: float = 0.0) -> Condition:
    """The metric of one entry is above another's (or a number) by more than ``by``, on the mean over paired seeds.

    Examples
    --------
    >>> higher("area", "probabilities", than="random", by=0.01).text
    'area: probabilities is more than 0.01 above random'
    """
    amount = f"more than {by:g} above" if by else "above"
    return Condition(
        f"{metric}: {_name(entry)} is {amount} {_name(than)}", partial(_compare, metric, entry, than, by, 1)
    )


def lower(metric: str, entry: Entry, *, than: Entry | float, by: float = 0.0) -> Condition:
    """The metric of one entry is below another's (or a number) by more than ``by``, on the mean over paired seeds."""
    amount = f"more than {by:g} below" if by else "below"
    return Condition(
        f"{metric}: {_name(entry)} is {amount} {_name(than)}", partial(_compare, metric, entry, than, by, -1)
    )


def no_worse(metric: str, entry: Entry, *, than: Entry | float, within: float) -> Condition:
    """The metric (higher is better) of one entry is below another's by less than ``within``."""
    text = f"{metric}: {_name(entry)} is at most {within:g} below {_name(than)}"
    return Condition(text, partial(_compare, metric, entry, than, -within, 1))


def ratio(
    metric: str, entry: Entry, *, to: Entry, at_most: float | None = None, at_least: float | None = None
) -> Condition:
    """The ratio of two entries' means stays on one side of a bound."""
    if (at_most is None) == (at_least is None):
        raise ValueError("give exactly one of at_most and at_least")
    bound = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
    text = f"{metric}: {_name(entry)} is {bound} times {_name(to)}"
    return Condition(text, partial(_ratio, metric, entry, to, at_most, at_least))


def identical(metric: str, entry: Entry, *, to: Entry) -> Condition:
    """The metric of two entries is equal to the bit for every seed."""
    return Condition(f"{metric}: {_name(entry)} equals {_name(to)} exactly", partial(_identical, metric, entry, to))


def _name(entry: Entry | float) -> str:
    if isinstance(entry, int | float):
        return f"{entry:g}"
    return entry if isinstance(entry, str) else f"the best of ({', '.join(entry)})"


def _side(low: float, high: float, line: float) -> Verdict:
    return "holds" if low > line else "does not hold" if high < line else "unclear"


def _compare(metric: str, entry: Entry, than: Entry | float, by: float, sign: int, evidence: Evidence) -> Judgement:
    mine = evidence.values(metric, entry)
    other = np.full_like(mine, than) if isinstance(than, int | float) else evidence.values(metric, than)
    difference = paired_difference(mine, other)
    low, high = (difference.low, difference.high) if sign > 0 else (-difference.high, -difference.low)
    verdict = _side(low, high, by)
    return Judgement("", verdict, difference.estimate, difference.low, difference.high)


def _ratio(
    metric: str, entry: Entry, to: Entry, at_most: float | None, at_least: float | None, evidence: Evidence
) -> Judgement:
    found = paired_ratio(evidence.values(metric, entry), evidence.values(metric, to))
    if at_most is not None:
        # on the line counts as within it
        verdict: Verdict = "holds" if found.high <= at_most else "does not hold" if found.low > at_most else "unclear"
    else:
        assert at_least is not None
        verdict = "holds" if found.low >= at_least else "does not hold" if found.high < at_least else "unclear"
    return Judgement("", verdict, found.estimate, found.low, found.high)


def _identical(metric: str, entry: Entry, to: Entry, evidence: Evidence) -> Judgement:
    mine, other = evidence.values(metric, entry), evidence.values(metric, to)
    gap = float(np.abs(mine - other).max())
    return Judgement("", "holds" if np.array_equal(mine, other) else "does not hold", gap, gap, gap)


@dataclass(frozen=True)
class Tiny:
    """The same claim made small: it shows that the machinery runs, not the verdict.

    Fields that are left out are taken from the claim.
    """

    task: str | None = None
    budget: int | None = None
    seeds: int = 2
    entries: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Claim:
    """A paper's headline claim, as it can be re-measured on a small machine.

    Parameters
    ----------
    says : str
        The claim in one sentence.
    holds : sequence of Condition
        What must be true for it.
    task : str
        A task's spec.
    budget : int
        Samples each run may spend.
    seeds : int, default 5
        How many paired seeds.
    entries : mapping of str to str
        Label to spec.
    measure : callable, optional
        ``measure(seed, tiny) -> {entry: {metric: value}}`` in place of a race, for claims about
        memory, operations, exactness, or protocols that are no race.  Importable by name.
    tiny : Tiny
        How to make it small.
    note : str
        What a reader of the verdict should know: how far the task is from the paper's, or why it
        does not hold here.
    """

    says: str
    holds: Sequence[Condition]
    task: str = ""
    budget: int = 0
    seeds: int = 5
    entries: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[[int, bool], Measures] | None = None
    tiny: Tiny = field(default_factory=Tiny)
    note: str = ""

    def __post_init__(self) -> None:
        if (self.measure is None) == (not self.entries):
            raise FewerError("a claim is either a race (task, budget, entries) or a measure, not both and not neither")

    def small(self) -> Claim:
        """The tiny form."""
        return Claim(
            self.says,
            self.holds,
            self.tiny.task or self.task,
            self.tiny.budget or self.budget,
            self.tiny.seeds,
            self.tiny.entries or self.entries,
            self.measure,
            self.tiny,
            self.note,
        )


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """All hold, or one does not, or it is unclear.

    Examples
    --------
    >>> overall(["holds", "unclear"]), overall(["unclear", "does not hold"])
    ('unclear', 'does not hold')
    """
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if all(verdict == "holds" for verdict in verdicts) else "unclear"


def judge(claim: Claim, evidence: Evidence) -> list[Judgement]:
    """Answer each condition of a claim."""
    answers = [condition.judge(evidence) for condition in claim.holds]
    return [
        Judgement(condition.text, answer.verdict, answer.estimate, answer.low, answer.high)
        for condition, answer in zip(claim.holds, answers, strict=True)
    ]


def evaluate(
    claim: Claim,
    seeds: Sequence[int] | None = None,
    *,
    tiny: bool = False,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Measure a claim and judge it.  Nothing is read from earlier results.

    Parameters
    ----------
    claim : Claim
        What to measure.
    seeds : sequence of int, optional
        By default 0 to ``claim.seeds - 1``.
    tiny : bool, default False
        The tiny form.
    workers : int, optional
        Processes; by default one a core.  With 0, everything runs in this process.
    console : rich Console, optional
        Where to show the progress of a race.

    Returns
    -------
    dict
        As it is saved: statement, verdict, conditions with intervals, curves or measures, versions.

    Raises
    ------
    FewerError
        If a run fails: a verdict on fewer seeds than asked for would be a dropped seed.
    """
    if tiny:
        claim = claim.small()
    chosen = list(range(claim.seeds)) if seeds is None else list(seeds)
    began = time.perf_counter()
    described: dict[str, Any] = {"task": claim.task, "metric": "", "unit": "", "budget": claim.budget}
    if claim.measure is not None:
        evidence = Evidence(measures=_measure_all(claim.measure, chosen, tiny, workers))
    else:
        evidence, metric, unit = _race_all(claim, chosen, workers, console)
        described |= {"metric": metric, "unit": unit}
    answers = judge(claim, evidence)
    import torch

    return {
        "says": claim.says,
        "verdict": overall([answer.verdict for answer in answers]),
        "conditions": [{name: getattr(answer, name) for name in answer.__dataclass_fields__} for answer in answers],
        **described,
        "seeds": chosen,
        "entries": dict(claim.entries),
        "curves": {
            label: [[[point.spent, point.score] for point in curve] for curve in curves]
            for label, curves in evidence.curves.items()
        },
        "measures": _by_name(evidence.measures),
        "note": claim.note,
        "tiny": tiny,
        "fewer": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _race_all(
    claim: Claim, seeds: list[int], workers: int | None, console: Console | None
) -> tuple[Evidence, str, str]:
    from fewer import compose

    if workers == 0:
        task = compose.task(claim.task)
        specs = compose.together(list(claim.entries.values()), task)
        loops = {label: compose.loop(spec) for label, spec in zip(claim.entries, specs, strict=True)}
        curves = {
            label: [Curve(tuple(loop.run(task, claim.budget, seed))) for seed in seeds] for label, loop in loops.items()
        }
        return Evidence(curves=curves), task.metric, next(iter(loops.values())).unit
    from fewer.race import LocalEngine, race
    from fewer.race.progress import Progress

    with LocalEngine(workers) as engine, contextlib.ExitStack() as shown:
        watch = None if console is None else shown.enter_context(Progress(console, claim.budget))
        outcome = race(claim.task, claim.entries, claim.budget, seeds, engine=engine, store=":memory:", on_event=watch)
    if outcome.failed:
        first = outcome.failed[0]
        raise FewerError(
            f"the run of {first.entry} with seed {first.seed} failed, so there is no verdict: {first.error}"
        )
    return Evidence(curves={label: outcome.curves(label) for label in claim.entries}), outcome.metric, outcome.unit


def _measure_all(
    measure: Callable[[int, bool], Measures], seeds: list[int], tiny: bool, workers: int | None
) -> list[Measures]:
    if workers == 0:
        return [measure(seed, tiny) for seed in seeds]
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    count = min(workers or os.cpu_count() or 1, len(seeds))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_one_thread) as pool:
        return list(pool.map(measure, seeds, [tiny] * len(seeds)))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _by_name(measures: Sequence[Measures]) -> dict[str, list[float]]:
    names = [(entry, metric) for entry, table in (measures[0].items() if measures else ()) for metric in table]
    return {f"{metric} of {entry}": [float(each[entry][metric]) for each in measures] for entry, metric in names}


def of_paper(slug: str) -> tuple[Claim, ...]:
    """The claims of a working paper, from its module's ``claim``.

    Raises
    ------
    FewerError
        If there is no such paper, or it is only planned.
    """
    from fewer import catalogue

    paper = catalogue.show(slug)
    if paper.fills is None:
        raise FewerError(f"{slug} is planned and has no claim yet; 'fewer list --state works' shows what has")
    found = catalogue.resolve(f"{paper.fills.split(':')[0]}:claim")
    return found if isinstance(found, tuple) else (found,)


def measure_paper(slug: str, seeds: int | None = None, first_seed: int = 0, **options: Any) -> dict[str, Any]:
    """Measure all claims of a paper, as one result.

    Parameters
    ----------
    slug : str
        The paper.
    seeds : int, optional
        How many; by default each claim's own number (its tiny form's, if ``tiny``).
    first_seed : int, default 0
        The first of them.
    **options
        For :func:`evaluate`.
    """
    results = []
    for claim in of_paper(slug):
        count = seeds or (claim.tiny.seeds if options.get("tiny") else claim.seeds)
        results.append(evaluate(claim, range(first_seed, first_seed + count), **options))
    return {"paper": slug, "verdict": overall([result["verdict"] for result in results]), "claims": results}


def save(result: Mapping[str, Any], folder: str | os.PathLike[str]) -> Path:
    """Write a paper's result to ``folder/<slug>.json``, with its digest.

    Raises
    ------
    FewerError
        For a tiny result (it has no verdict worth keeping), or a folder that cannot be written.
    """
    if any(claim["tiny"] for claim in result["claims"]):
        raise FewerError("the tiny form checks the machinery, not the claim; run without --tiny to save")
    path = Path(folder) / f"{result['paper']}.json"
    # an interval of one seed is infinite, which JSON has no number for
    whole = _finite({**result, "digest": _digest(result)})
    write_atomically(path, (json.dumps(whole, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def load_results(folder: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Read all results that :func:`save` wrote, by slug.

    Raises
    ------
    FewerError
        If a file was not written by :func:`save`, or was changed since.
    """
    results = {}
    for path in sorted(Path(folder).glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            digest = result.pop("digest")
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError, KeyError) as error:
            raise FewerError(f"{path} was not written by 'fewer claim --save'; remove it and measure again") from error
        if digest != _digest(result):
            raise FewerError(f"{path} was changed since 'fewer claim --save' wrote it; measure again")
        results[path.stem] = result
    return results


def _digest(result: Mapping[str, Any]) -> str:
    return fingerprint(json.dumps(_finite(result), sort_keys=True))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
