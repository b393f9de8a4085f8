"""Families whose tasks are functions, learnt from labelled points: of a class of Boolean functions, or of your own.

A prompt alternates points and labels, ``x_1, y_1, x_2, y_2, ...``; a label is a vector whose first place is -1 or +1
and whose others are 0.  At ``x_i`` the network gives the logit of +1, having seen the labels before it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import torch_generator
from fewer.core.spec import Call
from fewer.incontext.boolean_functions import Examples, known_class, sample
from fewer.incontext.boolean_learners import CLASSICAL, learner
from fewer.incontext.loop import Family, Predict, Prompts

AFTER_TEACHING = 5
"""Points that are scored behind a teaching sequence."""


class FunctionFamily(Family):
    """Tasks that are functions of vectors of -1 and +1, with two labels.

    Parameters
    ----------
    dimension : int
        Places of a point.
    points : int
        Most points of a prompt; the last is not followed by another.
    skip : int, default 0
        Points at the start that are not to be predicted.

    Attributes
    ----------
    spec : str or None
        How the command writes it, where it can.
    """

    metric = "accuracy"
    outputs = 1
    spec: str | None = None

    def __init__(self, dimension: int, points: int, skip: int = 0) -> None:
        if dimension < 1 or points < 2:
            raise FewerError(
                f"a prompt needs points of 1 place or more, and 2 points or more; given {dimension} and {points}"
            )
        if not skip < points:
            raise FewerError(f"the first {skip} of {points} points are not scored, so nothing is; ask for more points")
        self.dimension = self.features = dimension
        self.points, self.skip, self.length = points, skip, 2 * points

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, *, teaching: bool = False, unseen: bool = False) -> Examples:
        """Draw functions and points of each, all with a teaching sequence or none; ``unseen`` ones to score on."""

    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """Prompts to train on."""
        examples = self.draw(count, generator)
        return Prompts(interleaved(examples.x, examples.y), examples.y)

    def loss(
        self, outputs: Float[Tensor, "batch length outputs"], prompts: Prompts
    ) -> Float[Tensor, "batch positions"]:
        """Cross-entropy of the label at each point that is to be predicted."""
        logits = at_points(outputs)[:, self.skip :]
        return nn.functional.softplus(-prompts.target[:, self.skip :] * logits)

    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """Accuracy on a thousand unseen functions, at all points but the first, of which nothing is known."""
        examples = self.draw(1000, torch_generator(seed, "unseen functions"), unseen=True)
        right = correct(predict, examples)
        score = float(right[:, max(self.skip, 1) :].mean())
        null = float((examples.y[:, max(self.skip, 1) :] < 0).float().mean())
        return score, {"last": float(right[:, -1].mean()), "null": null}


class Boolean(FunctionFamily):
    """Random functions of one class of Boolean functions, or of several.

    Parameters
    ----------
    functions : str or sequence of str, default "conjunction"
        Keys of :data:`fewer.incontext.boolean_functions.CLASSES`, or ``"nearest-neighbour"``; of several, each prompt
        is of one at random.
    dimension : int, default 10
        Places of a point; the paper has 28.
    points : int, default 30
        Points of a prompt; the paper has 40, and 20 of ``"nearest-neighbour"`` are never scored.
    teaching : float, default 0
        Share of the training prompts that begin with the points which identify their function.
    noise : float, default 0
        Chance that a label of a training prompt is turned round.
    pool : int, optional
        Train on so many functions with fixed points only, to see what is remembered rather than learnt.

    Examples
    --------
    >>> family = Boolean("parity", dimension=8)
    >>> prompts = family.sample(4, torch.Generator().manual_seed(0))
    >>> prompts.tokens.shape, prompts.target.shape
    (torch.Size([4, 60, 8]), torch.Size([4, 30]))
    """

    def __init__(
        self,
        functions: str | Sequence[str] = "conjunction",
        dimension: int = 10,
        points: int = 30,
        teaching: float = 0.0,
        noise: float = 0.0,
        pool: int | None = None,
    ) -> None:
        self.functions = (functions,) if isinstance(functions, str) else tuple(functions)
        if not self.functions:
            raise FewerError("boolean: no class of functions was named; name one, such as 'conjunction'")
        for each in self.functions:
            if each != "nearest-neighbour":
                known_class(each)
        super().__init__(dimension, points, 20 if self.functions == ("nearest-neighbour",) else 0)
        if not (0 <= teaching <= 1 and 0 <= noise < 0.5):
            raise FewerError(
                f"boolean: teaching must lie in [0, 1] and noise in [0, 0.5); given {teaching} and {noise}"
            )
        if pool is not None and pool < 1:
            raise FewerError(f"boolean: pool must be at least 1, {pool} was given; leave it out for new functions")
        self.teaching, self.noise, self.pool = teaching, noise, pool
        given: dict[str, Any] = {"dimension": dimension, "points": points}
        given |= {"teaching": teaching} if teaching else {}
        given |= {"noise": noise} if noise else {}
        given |= {"pool": pool} if pool else {}
        first = self.functions[0] if len(self.functions) == 1 else list(self.functions)
        self.name = self.spec = str(Call("boolean", (first,), given))
        generator = torch_generator(0, "pool")
        self._pool = None if pool is None else self._fresh(pool, generator, torch.rand(pool, generator=generator))
        self._fresh(1, generator, torch.full((1,), -1.0 if teaching else 1.0))  # fails now if it ever will

    def fingerprint(self) -> str:
        """Name the law that is drawn from."""
        return fingerprint(self.name)

    def draw(self, count: int, generator: torch.Generator, *, teaching: bool = False, unseen: bool = False) -> Examples:
        """Draw new functions; ``teaching`` says whether all begin with a teaching sequence."""
        return self._fresh(count, generator, torch.full((count,), -1.0 if teaching else 1.0))

    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """Prompts to train on, some with a teaching sequence, some labels turned round."""
        if self._pool is not None:
            which = torch.randint(len(self._pool.x), (count,), generator=generator)
            x, y = self._pool.x[which], self._pool.y[which]
        else:
            drawn = self._fresh(count, generator, torch.rand(count, generator=generator))
            x, y = drawn.x, drawn.y
        if self.noise:
            y = torch.where(torch.rand(y.shape, generator=generator) < self.noise, -y, y)
        return Prompts(interleaved(x, y), y)

    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """Accuracy without teaching, and with it where it was trained on; alone where all training begins with it."""
        score, measures = super().evaluate(predict, seed)
        if len(self.functions) == 1:
            name = CLASSICAL[self.functions[0]]
            examples = self.draw(1000, torch_generator(seed, "unseen functions"))
            right = learner(name)(examples.x, examples.y) == examples.y
            measures[name] = float(right[:, max(self.skip, 1) :].float().mean())
        if self.teaching:
            taught, untaught = self.after_teaching(predict, seed)
            measures |= {"after teaching": taught, "same places untaught": untaught}
            score = taught if self.teaching == 1 else score
        return score, measures

    def after_teaching(self, predict: Predict, seed: int, count: int = 1000) -> tuple[float, float]:
        """Accuracy on the five points behind the teaching sequence, and at the same places where nothing was taught."""
        generator = torch_generator(seed, "taught functions")
        taught, untaught = (self.draw(count, generator, teaching=teaching) for teaching in (True, False))
        place = torch.arange(self.points) - taught.taught[:, None]
        behind = (place >= 0) & (place < AFTER_TEACHING)
        if not behind.any():
            raise FewerError(
                f"boolean: {self.points} points are all taken by the teaching sequences; ask for more points"
            )
        return tuple(float(correct(predict, each)[behind].mean()) for each in (taught, untaught))  # pyright: ignore[reportReturnType]

    def _fresh(self, count: int, generator: torch.Generator, untaught: Tensor) -> Examples:
        """New functions; those where ``untaught`` lies below the share of teaching begin with a teaching sequence."""
        which = torch.randint(len(self.functions), (count,), generator=generator)
        parts = []
        for at, name in enumerate(self.functions):
            mine = untaught[which == at]
            with_teaching = int((mine < self.teaching).sum())
            for many, teaching in ((with_teaching, True), (len(mine) - with_teaching, False)):
                if many:
                    parts.append(sample(name, many, self.points, self.dimension, generator, teaching=teaching))
        if len(parts) == 1:
            return parts[0]
        return Examples(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "taught")))


class GeneratedFunctions(FunctionFamily):
    """Your own class of functions.

    Parameters
    ----------
    make : callable
        ``make(rng)`` gives ``(f, sampler)``: ``f(points)`` the labels, of two values as :func:`as_labels` reads them,
        and ``sampler(count, rng)`` as many points, an array (count, dimension) of 0 and 1 or -1 and 1; None for
        uniform points.
    dimension, points : int
        Places of a point, and points of a prompt.

    Examples
    --------
    >>> def make(rng):
    ...     place = rng.integers(6)
    ...     return (lambda x: x[:, place]), None
    >>> GeneratedFunctions(make, dimension=6, points=12).sample(3, torch.Generator()).tokens.shape
    torch.Size([3, 24, 6])
    """

    def __init__(self, make: Callable[[np.random.Generator], tuple[Any, Any]], dimension: int, points: int) -> None:
        super().__init__(dimension, points)
        self.make = make
        self.name = getattr(make, "__qualname__", type(make).__name__)

    def fingerprint(self) -> str:
        """Name it by its first functions, since code has no other name."""
        drawn = self.draw(8, torch_generator(0, "fingerprint"))
        return fingerprint(self.name, drawn.x.numpy(), drawn.y.numpy())

    def draw(self, count: int, generator: torch.Generator, *, teaching: bool = False, unseen: bool = False) -> Examples:
        """Call ``make`` once for each function."""
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        x = np.empty((count, self.points, self.dimension), dtype=np.float32)
        y = np.empty((count, self.points), dtype=np.float32)
        for at in range(count):
            function, sampler = self.make(rng)
            size = (self.points, self.dimension)
            drawn = 2.0 * rng.integers(2, size=size) - 1 if sampler is None else sampler(self.points, rng)
            x[at] = as_points(drawn, size)
            y[at] = as_labels(function(drawn), self.points)
        return Examples(torch.from_numpy(x), torch.from_numpy(y), torch.zeros(count, dtype=torch.long))


class RecordedFunctions(FunctionFamily):
    """Tasks that you have recorded: each a table of points and labels; some are kept back to score on.

    Parameters
    ----------
    x : sequence of arrays (points, dimension)
        Of each task, 0 and 1 or -1 and 1.
    y : sequence of arrays (points,)
        Of each task, of two values.
    points : int, optional
        Points of a prompt, drawn from a task's own without repetition; by default as many as the smallest task has.
    held_out : float, default 0.2
        Share of the tasks that is only scored on.
    """

    def __init__(
        self, x: Sequence[Any], y: Sequence[Any], points: int | None = None, held_out: float = 0.2, name: str = "tasks"
    ) -> None:
        if len(x) < 2 or len(x) != len(y):
            raise FewerError(
                f"{name}: two or more tasks with points and labels are needed; given {len(x)} and {len(y)}"
            )
        dimension, least = np.shape(x[0])[-1], min(map(len, x))
        points = least if points is None else points
        if points > least:
            raise FewerError(f"{name}: the smallest task has {least} points, prompts of {points} were asked for")
        super().__init__(dimension, points)
        held = round(held_out * len(x))
        if not 0 < held < len(x):
            raise FewerError(f"{name}: held_out={held_out} of {len(x)} tasks leaves none to train or to score on")
        self.name = name
        self._x = [torch.from_numpy(as_points(each, (len(each), dimension))) for each in x]
        self._y = [torch.from_numpy(as_labels(each, len(points_))) for each, points_ in zip(y, x, strict=True)]
        order = torch.randperm(len(x), generator=torch_generator(0, "held out"))
        self._tasks = {True: order[:held], False: order[held:]}

    def fingerprint(self) -> str:
        """Name the recorded tasks."""
        return fingerprint(str(self.points), *(each.numpy() for each in [*self._x, *self._y]))

    def draw(self, count: int, generator: torch.Generator, *, teaching: bool = False, unseen: bool = False) -> Examples:
        """Draw tasks, with repetition, and points of each, without."""
        tasks = self._tasks[unseen]
        chosen = tasks[torch.randint(len(tasks), (count,), generator=generator)].tolist()
        rows = [torch.randperm(len(self._y[task]), generator=generator)[: self.points] for task in chosen]
        x = torch.stack([self._x[task][row] for task, row in zip(chosen, rows, strict=True)])
        y = torch.stack([self._y[task][row] for task, row in zip(chosen, rows, strict=True)])
        return Examples(x, y, torch.zeros(count, dtype=torch.long))


def boolean_csv(
    path: str | os.PathLike[str], task: str = "task", target: str = "y", points: int | None = None
) -> RecordedFunctions:
    """Read recorded tasks from a CSV file, a row a point.

    Parameters
    ----------
    path : path
        With a header.
    task, target : str
        Columns that say which task a row belongs to, and its label; all others are the places of the point.
    points : int, optional
        As in :class:`RecordedFunctions`.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise FewerError(f"cannot read {path}: {error}; give a CSV file with a header") from error
    missing = [each for each in (task, target) if each not in frame]
    if missing:
        raise FewerError(f"{path} has no column {missing[0]!r}; its columns are {', '.join(map(str, frame.columns))}")
    tables = [table for _, table in frame.groupby(task, sort=True)]
    places = frame.columns.drop([task, target])
    x = [table[places].to_numpy() for table in tables]
    return RecordedFunctions(x, [table[target].to_numpy() for table in tables], points, name=str(path))


# --- between arrays and prompts --------------------------------------------------------------------------------------


def interleaved(
    x: Float[Tensor, "batch points dimension"], y: Float[Tensor, "batch points"]
) -> Float[Tensor, "batch length dimension"]:
    """Points and labels by turns; a label takes the first place of its vector.

    Examples
    --------
    >>> interleaved(torch.tensor([[[1.0, -1.0]]]), torch.tensor([[1.0]])).tolist()
    [[[1.0, -1.0], [1.0, 0.0]]]
    """
    labels = torch.zeros_like(x)
    labels[..., 0] = y
    return torch.stack([x, labels], 2).flatten(1, 2)


def at_points(outputs: Float[Tensor, "batch length outputs"]) -> Float[Tensor, "batch points"]:
    """The outputs at points, not at labels."""
    return outputs[:, ::2, 0]


def correct(predict: Predict, examples: Examples) -> Float[Tensor, "functions points"]:
    """1 where a network says the right label, 0 where not."""
    outputs = predict(Prompts(interleaved(examples.x, examples.y), examples.y))
    return (at_points(outputs).sign() == examples.y).float()


def as_points(given: Any, shape: tuple[int, int]) -> Float[np.ndarray, "points dimension"]:
    """Points of 0 and 1, -1 and 1, or truth values, as -1 and +1."""
    try:
        x = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise FewerError(f"points must be 0 and 1, or -1 and 1; they are not numbers ({error})") from error
    if x.ndim != 2 or x.shape[1] != shape[1]:
        raise FewerError(f"points must be an array (points, {shape[1]}); given {x.shape}")
    if len(x) != shape[0]:
        raise FewerError(f"{shape[0]} points were asked for; given {len(x)}")
    if not (np.isin(x, (0, 1)).all() or np.isin(x, (-1, 1)).all()):
        odd = x[~np.isin(x, (0, 1))]
        raise FewerError(
            f"points must be 0 and 1, or -1 and 1; {odd[0]:g} is among them; turn columns into truth values"
        )
    return x if (x < 0).any() else 2 * x - 1


def as_labels(given: Any, count: int) -> Float[np.ndarray, " points"]:
    """Labels of 0 and 1, -1 and 1, or truth values, as -1 and +1."""
    y = np.asarray(given)
    if y.shape != (count,):
        raise FewerError(f"{count} points need as many labels; given {y.shape}")
    if not np.isin(y, (-1, 0, 1)).all() or ((y == -1).any() and (y == 0).any()):
        raise FewerError(f"labels must be 0 and 1, or -1 and 1; given {sorted(set(y.tolist()), key=str)[:4]}")
    return np.where(y > 0, 1, -1).astype(np.float32)


def two_classes(y: Shaped[np.ndarray, " points"], classes: Sequence[Any] | None) -> tuple[Any, Any]:
    """The two labels of a task, the negative one first."""
    seen = np.unique(y).tolist()
    if classes is not None:
        known = list(classes)
        if len(known) != 2 or not set(seen) <= set(known):
            raise FewerError(f"two classes are needed, and the labels among them; given {known} and labels {seen[:4]}")
        return known[0], known[1]
    if len(seen) == 2:
        return seen[0], seen[1]
    for pair in ((0, 1), (-1, 1), (False, True)):
        if len(seen) == 1 and seen[0] in pair and type(seen[0]) is type(pair[0]):
            return pair
    if len(seen) == 1:
        raise FewerError(f"all labels are {seen[0]!r}; say what the other one is, classes=(negative, positive)")
    raise FewerError(f"labels must be of two classes; given {len(seen)}: {seen[:4]}")
