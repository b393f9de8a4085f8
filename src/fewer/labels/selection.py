"""Choosing rows of a user's own pool, once or round by round with people who label them.

The method is a spec of the active-learning loop, ``"margin"`` or ``"mlp + hast + pcoreset"``.  Which
probabilities and features a query sees:

- those of a model, fitted to the labels, once two classes have been labelled;
- but where the pool brings probabilities, these, unless the method names a learner, a teacher or
  pseudo-labels; a teacher's opinions are the pool's probabilities;
- before there are labels to fit a model to, what the pool brings; and if that is not enough, the rows
  are drawn at random, as the loop does in its first round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from fewer import catalogue, compose
from fewer.core.errors import FewerError
from fewer.core.seeding import generator
from fewer.core.spec import parse
from fewer.labels.annotation import Annotation, resume, returned
from fewer.labels.fine_tuning import seeded
from fewer.labels.learners import flat
from fewer.labels.loop import ActiveLearning, Experts, Round, TaskTeacher
from fewer.labels.on_disk import OnDisk, parts
from fewer.labels.pool_files import Pool, open_pool
from fewer.labels.pool_output import write_rows
from fewer.labels.queries import Random


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Parameters
    ----------
    rows : int array (count,)
        Row numbers of the pool, the most wanted first.
    by : str
        How they were chosen, in words.
    columns : str
        Which columns were used as what, and which were not, in words.
    labelled, left : int
        Rows with a label, and rows that may still be asked for, this round's left out.
    pool : int
        All rows.
    """

    rows: Int[np.ndarray, " count"]
    by: str
    columns: str
    labelled: int
    left: int
    pool: int


def select(
    pool: str | Path | None,
    method: str | None,
    keep: int,
    output: str | Path,
    *,
    features: str | None = None,
    probabilities: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    state: str | Path | None = None,
    labels: str | Path | None = None,
) -> Selected:
    r"""Choose rows of a pool and write them to a file.

    Parameters
    ----------
    pool : path
        CSV, Parquet, NPZ or NPY; may be larger than memory.  None to go on from ``state``.
    method : str
        A spec of the active-learning loop; None to go on from ``state``.
    keep : int
        How many rows.
    output : path
        ``.csv``, ``.parquet`` or ``.npz``: the chosen rows with all they have, their number in ``row``
        (from 0), their rank in ``rank`` (from 1), and an empty column for the label; a pool's own
        columns of these names are left out.  They have to fit into memory.
    features, probabilities : str, optional
        Columns of the pool (see :func:`fewer.labels.pool_files.open_pool`).
    label : str, default "label"
        The column of labels, in the pool as in what is written; blank where there is none.
    seed : int, default 0
        For whatever is random.
    state : path, optional
        Remembers the rounds.  Made if it is missing; if it is there, the rounds go on.
    labels : path, optional
        A table that was handed out, with labels filled in.  Blank ones are skipped: they are not asked
        for again, but may be labelled in any later table.  A label for a row that has one corrects it.

    Returns
    -------
    Selected

    Raises
    ------
    FewerError
        If something is missing, does not fit, or cannot be read or written; no file is changed then.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "pool.csv").write_text("id,p_cat,p_dog\n7,0.9,0.1\n8,0.5,0.5\n9,0.2,0.8\n")
    >>> select(folder / "pool.csv", "margin", 1, folder / "chosen.csv").by
    "margin, by the pool's probabilities"
    >>> print((folder / "chosen.csv").read_text())
    id,p_cat,p_dog,row,rank,label
    8,0.5,0.5,1,1,
    """
    files = [Path(file) if file is not None else None for file in (output, pool, state, labels)]
    output, pool, state, labels = files[0] or Path(), *files[1:]
    _check_files(output, pool, state, labels)
    if keep < 1:
        raise FewerError(f"--keep is {keep}; ask for one row or more")
    given = (str(pool.absolute()) if pool is not None else None, method, features, probabilities, label, seed)
    annotation = resume(state, *given) if state is not None and state.exists() else _begin(*given)
    loop = _loop(annotation.method)
    opened = open_pool(
        Path(annotation.pool),
        features=annotation.features,
        probabilities=annotation.probabilities,
        label=annotation.label,
    )
    if state is not None:
        annotation.recognise(opened)
        if labels is not None:
            annotation.take_back(labels)
        _keep_labels(output, annotation)
    round = _round(opened, annotation)
    free = len(round.unlabelled)
    if keep > free:
        raise FewerError(
            f"{keep} rows were asked for but only {free} of {opened.rows} are neither labelled nor asked for already; "
            "lower --keep or add rows"
        )
    with seeded(annotation.seed, "select", annotation.rounds):
        chosen, by = _choose(annotation.method, loop, opened, round, keep)
    unwritten = write_rows(output, opened, chosen, annotation.label)
    if state is not None:
        annotation.rounds += 1
        annotation.asked = np.concatenate([annotation.asked, chosen])
        annotation.save(state)
    columns = f"{opened.columns}; not in {output.name}: {', '.join(unwritten)}" if unwritten else str(opened.columns)
    return Selected(chosen, by, columns, len(round.labelled), free - keep, opened.rows)


# --- before anything is chosen -------------------------------------------------------------------


def _check_files(output: Path, pool: Path | None, state: Path | None, labels: Path | None) -> None:
    if output.suffix.lower() not in (".csv", ".parquet", ".npz"):
        raise FewerError(f"cannot write {output}: choose a .csv, .parquet or .npz file")
    if labels is not None and state is None:
        raise FewerError("labels come back to the rounds they were asked for in; give --state, as was given then")
    taken: dict[Path, str] = {}
    for file, use in ((pool, "the pool"), (labels, "the labels"), (state, "the state"), (output, "the chosen rows")):
        if file is not None and taken.setdefault(file.resolve(), use) != use:
            raise FewerError(f"{file} cannot be {taken[file.resolve()]} and {use} at once; name another file")


def _begin(
    pool: str | None,
    method: str | None,
    features: str | None,
    probabilities: str | None,
    label: str | None,
    seed: int | None,
) -> Annotation:
    if pool is None or method is None:
        missing = "a pool" if pool is None else "a --method"
        raise FewerError(f"{missing} is needed to begin; give it, or the --state of rounds that have begun")
    return Annotation(pool, method, features, probabilities, label or "label", seed or 0)


def _loop(method: str) -> ActiveLearning:
    loop = compose.loop(method)
    if not isinstance(loop, ActiveLearning):
        raise FewerError(f"{method} does not choose rows to label; take a query of active-learning, such as margin")
    if not isinstance(loop.allocation, Experts):
        raise FewerError(f"{method} shares labels out between experts and a weak labeller; here there are experts only")
    return loop


def _keep_labels(output: Path, annotation: Annotation) -> None:
    """Refuse to write over labels that somebody has filled in and that were not taken back."""
    lost = []
    with contextlib.suppress(FewerError):  # no table that was handed out
        lost = [row for row, name in returned(output, annotation.label) if annotation.labels.get(row) != name]
    if lost:
        raise FewerError(
            f"{output} holds {len(lost)} labels that have not been taken back; give it as --labels, "
            "or write to another file with -o"
        )


def _round(pool: Pool, annotation: Annotation) -> _PoolRound:
    """What is known: labels of the pool, corrected and completed by those that came back."""
    others = sorted({*pool.names, *annotation.labels.values()} - {*pool.classes})
    classes = {name: position for position, name in enumerate([*pool.classes, *others])}
    label = np.array([*(classes[name] for name in pool.names), -1])[pool.labels]
    label[list(annotation.labels)] = [classes[name] for name in annotation.labels.values()]
    free = label < 0
    free[annotation.asked] = False
    x = pool.features if pool.features is not None else pool.probabilities
    assert x is not None
    return _PoolRound(
        index=annotation.rounds,
        classes=max(len(classes), 2),
        x=x,
        labelled=np.flatnonzero(label >= 0),
        labels=label[label >= 0],
        unlabelled=np.flatnonzero(free),
        rng=generator(annotation.seed, "select", annotation.rounds),
        seed=annotation.seed,
        memory=annotation.memory,
        given_probabilities=pool.probabilities,
        given_features=flat(pool.features) if pool.features is not None else None,
    )


# --- choosing ------------------------------------------------------------------------------------


class _NoModelYet(FewerError):
    """A method needs a model, and there are no labels to fit one to."""


@dataclass
class _PoolRound(Round):
    """A round on a pool on disk: what a model says of the pool goes to disk as well."""

    @cached_property
    def probabilities(self) -> Float[np.ndarray, "pool classes"]:
        if self.given_probabilities is not None:
            return self.given_probabilities
        if self.model is None:
            raise _NoModelYet("this method needs class probabilities, and there are neither labels nor columns of them")
        return self._all(self.model.predict_proba)

    @cached_property
    def features(self) -> Float[np.ndarray, "pool features"]:
        if self.given_features is not None:
            return self.given_features
        if self.model is None:
            raise FewerError(
                "this method needs features, and the pool holds probabilities only; add columns of features, or "
                "take pcoreset, which covers probabilities"
            )
        return self._all(self.model.embed)

    def _all(self, say: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        said = OnDisk()
        for _, part in parts(self.x):
            answer = say(part)
            if np.may_share_memory(answer, part):  # the inputs are the features, and are on disk already
                return flat(self.x)
            said.write(answer)
        return said.mapped()


def _choose(
    method: str, loop: ActiveLearning, pool: Pool, round: _PoolRound, keep: int
) -> tuple[Int[np.ndarray, " keep"], str]:
    fits = _fits(method)
    if fits and pool.features is None:
        raise FewerError(f"{method} fits a model, and the pool has no features to fit it to; add columns of features")
    _advise(loop, pool, round)
    classes = len(np.unique(round.labels))
    sure = 0
    if classes > 1 and (fits or pool.probabilities is None):
        round, sure = _fitted(loop, round)
    try:
        chosen = np.asarray(loop.query.choose(round, keep), dtype=np.int64)
    except _NoModelYet:
        missing = "there are no labels" if not classes else f"all {len(round.labels)} labels are of one class"
        return Random().choose(round, keep), f"at random, for {method} needs a model and {missing} to fit one to"
    loop._trust(chosen, keep, round.unlabelled)
    looked = sorted({"features", "probabilities"} & vars(round).keys())
    source = f"the pool's {' and '.join(looked)}"
    if round.model is not None:
        source = f"a model fitted to {len(round.labels)} labels" + (f" and {sure} pseudo-labels" if sure else "")
    return chosen, f"{method}, by {source}" if looked else method


def _fits(method: str) -> bool:
    """Say whether a method names something that fits a model, and is no query alone."""
    fillings, papers = catalogue.parts("filling"), catalogue.papers()
    named = [fillings.get(call.name) or papers.get(call.name) for call in parse(method)]
    return any({"learner", "teacher", "pseudo"} & {*part.slots} for part in named if part is not None)


def _advise(loop: ActiveLearning, pool: Pool, round: _PoolRound) -> None:
    """Let the loop's teacher look at the pool, whose probabilities are its opinions."""
    if loop.teacher is None:
        return
    if pool.probabilities is not None:
        if round.classes > len(pool.classes):
            raise FewerError(
                f"the teacher knows the classes {', '.join(pool.classes)}, and there are {round.classes} among them and "
                "the labels; call the columns of probabilities after the labels, as in p_cat"
            )
        opinion = OnDisk()
        for _, part in parts(pool.probabilities):
            opinion.write(np.log(np.maximum(part, np.finfo(np.float32).tiny)))
        round.opinion = opinion.mapped()
    elif isinstance(loop.teacher, TaskTeacher):
        raise FewerError(
            "the teacher's opinions are missing from the pool; add its probabilities, as columns p_cat ..."
        )
    round.teacher = loop.teacher.logits(round)


def _fitted(loop: ActiveLearning, round: _PoolRound) -> tuple[_PoolRound, int]:
    """Fit the learner to the labels, then let it go on with pseudo-labels, as the loop does."""
    round = replace(round, given_probabilities=None, given_features=None)
    known, bare = round.examples, round
    round.refit = lambda examples, start: loop.learner.fit(examples, bare, start)
    round.model = loop.learner.fit(known, round)
    extra = loop.pseudo.label(round) if loop.pseudo is not None else None
    if extra is None or not len(extra):
        return round, 0
    return replace(round, model=loop.learner.fit(known.and_(extra), round, round.model)), len(extra)
