"""Classes of Boolean functions, drawn by the thousand: what a function says of points, which points come, what teaches it.

Points are vectors of -1 and +1, and so are labels.  A *concept* holds many functions of one class at once.
Nothing here knows of networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fewer.core.errors import FewerError, nearest


@dataclass(frozen=True)
class Examples:
    """Labelled points of many functions, in the order in which they are read.

    Parameters
    ----------
    x : float tensor (functions, points, dimension)
        Of -1 and +1.
    y : float tensor (functions, points)
        Labels, -1 or +1.
    taught : int tensor (functions,)
        How many of the first points were chosen to teach the function; 0 where all are drawn.
    """

    x: Float[Tensor, "functions points dimension"]
    y: Float[Tensor, "functions points"]
    taught: Int[Tensor, " functions"]


class Concept(Protocol):
    """Many functions of one class."""

    def label(self, x: Float[Tensor, "functions points dimension"]) -> Float[Tensor, "functions points"]:
        """What each function says of its own points, -1 or +1."""
        ...


@dataclass(frozen=True)
class Threshold:
    """``sign(w . x - b)``, which is never zero.

    Parameters
    ----------
    weights : float tensor (functions, dimension)
        ``w``, whole numbers.
    bias : float tensor (functions, 1)
        ``b``, such that no point lies on it.
    """

    weights: Float[Tensor, "functions dimension"]
    bias: Float[Tensor, "functions 1"]

    def label(self, x: Float[Tensor, "functions points dimension"]) -> Float[Tensor, "functions points"]:
        """Which side of the plane."""
        return ((x @ self.weights[..., None]).squeeze(-1) - self.bias).sign()


@dataclass(frozen=True)
class Parity:
    """+1 where an odd number of the members is +1.

    Parameters
    ----------
    members : bool tensor (functions, dimension)
        Which places count.
    """

    members: Bool[Tensor, "functions dimension"]

    def label(self, x: Float[Tensor, "functions points dimension"]) -> Float[Tensor, "functions points"]:
        """Odd or even."""
        ones = ((x + 1) / 2) @ self.members.to(x.dtype)[..., None]
        return 2 * ones.squeeze(-1).remainder(2) - 1


@dataclass(frozen=True)
class NormalForm:
    """A disjunction of conjunctions, or a conjunction of disjunctions.

    Parameters
    ----------
    literals : float tensor (functions, parts, dimension)
        +1 where a part holds a place, -1 where it holds its negation, 0 where neither.
    disjunctive : bool
        Whether the parts are conjunctions, of which one must hold.
    """

    literals: Float[Tensor, "functions parts dimension"]
    disjunctive: bool

    def label(self, x: Float[Tensor, "functions points dimension"]) -> Float[Tensor, "functions points"]:
        """One part holds, or all do."""
        sums, sizes = x @ self.literals.mT, self.literals.abs().sum(-1)[:, None]
        if self.disjunctive:
            return (sums - sizes + 1).sign().amax(-1)
        return (sums + sizes - 1).sign().amin(-1)


Teaching = tuple[Float[Tensor, "functions rows dimension"], Bool[Tensor, "functions rows"]]
"""Points that identify each function, and which rows of them count."""


@dataclass(frozen=True)
class FunctionClass:
    """A class: how functions are drawn, how points come, and what teaches a function.

    Parameters
    ----------
    says : str
        What it is, in one line.
    draw : callable
        ``draw(count, dimension, generator)`` gives a concept of so many functions.
    points : callable
        ``points(concept, x, generator)`` alters uniform points so that both labels are seen.
    teach : callable, optional
        ``teach(concept)`` gives the points that leave one function of the class.
    """

    says: str
    draw: Callable[[int, int, torch.Generator], Concept]
    points: Callable[[Concept, Tensor, torch.Generator], Tensor]
    teach: Callable[[Concept], Teaching] | None = None


def sample(
    name: str, count: int, points: int, dimension: int, generator: torch.Generator, *, teaching: bool = False
) -> Examples:
    """Draw functions of a class and labelled points of each.

    Parameters
    ----------
    name : str
        A key of :data:`CLASSES`, or ``"nearest-neighbour"``.
    count, points, dimension : int
        Functions, points of each, and places of a point.
    generator : torch Generator
        On the CPU.
    teaching : bool, default False
        Begin with the points that identify the function; what does not fit is cut off.

    Examples
    --------
    >>> drawn = sample("conjunction", 3, 20, 8, torch.Generator().manual_seed(0), teaching=True)
    >>> drawn.x.shape, drawn.taught.tolist(), drawn.y[0, :4].tolist()
    (torch.Size([3, 20, 8]), [5, 4, 7], [1.0, 1.0, -1.0, -1.0])
    """
    x = _signs((count, points, dimension), generator)
    none = torch.zeros(count, dtype=torch.long)
    if name == "nearest-neighbour":
        return Examples(x, nearest_neighbour_labels(x, generator), none)
    known = known_class(name)
    concept = known.draw(count, dimension, generator)
    x = known.points(concept, x, generator)
    if not teaching:
        return Examples(x, concept.label(x), none)
    if known.teach is None:
        taught_classes = ", ".join(sorted(each for each, of in CLASSES.items() if of.teach))
        raise FewerError(f"boolean: there is no teaching sequence of {name}; there is one of {taught_classes}")
    x, taught = _begin_with(*known.teach(concept), x)
    return Examples(x, concept.label(x), taught)


def known_class(name: str) -> FunctionClass:
    """Look a class up by name."""
    if name not in CLASSES:
        raise FewerError(f"boolean: unknown class {name!r}; {nearest(name, [*CLASSES, 'nearest-neighbour'])}")
    return CLASSES[name]


def nearest_neighbour_labels(
    x: Float[Tensor, "functions points dimension"], generator: torch.Generator, first: int = 20
) -> Float[Tensor, "functions points"]:
    """Labels for the class without functions: the first are fair coins, each later one that of the nearest before it.

    Nearest is the largest cosine, and the earlier of two as near.  Equal points have equal labels.

    Parameters
    ----------
    x : float tensor (functions, points, dimension)
        Of -1 and +1.
    generator : torch Generator
        For the coins.
    first : int, default 20
        How many labels are coins.
    """
    y = _signs(x.shape[:2], generator)
    # the earliest equal point is the one whose label counts
    similar = x @ x.mT
    copies = (similar == x.shape[2]).to(torch.uint8).argmax(-1)
    closest = closest_before(similar)
    for at in range(1, x.shape[1]):
        source = copies[:, at] if at < first else closest[:, at]
        y[:, at] = y.gather(1, source[:, None]).squeeze(1)
    return y


def closest_before(similar: Float[Tensor, "functions points points"]) -> Int[Tensor, "functions points"]:
    """For each point the earlier one that is most similar, the first of equals; 0 for the first point."""
    points = similar.shape[-1]
    earlier = torch.ones(points, points, dtype=torch.bool).tril(-1)
    return similar.masked_fill(~earlier, -math.inf).argmax(-1)


# --- the laws of the classes -----------------------------------------------------------------------------------------


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(2, shape, generator=generator).mul_(2).sub_(1).float()


def _literals(shape: tuple[int, ...], positive: float, negative: float, generator: torch.Generator) -> Tensor:
    """+1 and -1 with these probabilities, else 0."""
    uniform = torch.rand(shape, generator=generator)
    return (uniform < positive).float() - (uniform >= 1 - negative).float()


def _conjunctions(positive: float, negative: float) -> Callable[[int, int, torch.Generator], Threshold]:
    def draw(count: int, dimension: int, generator: torch.Generator) -> Threshold:
        weights = _literals((count, dimension), positive, negative, generator)
        return Threshold(weights, weights.abs().sum(-1, keepdim=True) - 1)

    return draw


def _disjunctions(count: int, dimension: int, generator: torch.Generator) -> Threshold:
    weights = _literals((count, dimension), 0.15, 0.15, generator)
    return Threshold(weights, 1 - weights.abs().sum(-1, keepdim=True))


def _some_places(count: int, dimension: int, places: int, generator: torch.Generator) -> Tensor:
    if dimension < places:
        raise FewerError(f"boolean: this class needs {places} places or more, the dimension is {dimension}; raise it")
    ranks = torch.rand(count, dimension, generator=generator).argsort(-1).argsort(-1)
    return (ranks < places).float()


def _sparse_disjunctions(count: int, dimension: int, generator: torch.Generator) -> Threshold:
    weights = _some_places(count, dimension, 4, generator)
    return Threshold(weights, torch.full((count, 1), -3.0))


def _sparse_thresholds(count: int, dimension: int, generator: torch.Generator) -> Threshold:
    weights = _literals((count, dimension), 0.15, 0.15, generator)
    return Threshold(weights, torch.randint(-3, 3, (count, 1), generator=generator) + 0.5)


def _majorities(count: int, dimension: int, generator: torch.Generator) -> Threshold:
    return Threshold(_literals((count, dimension), 0.3, 0, generator), torch.full((count, 1), 0.5))


def _halfspaces(count: int, dimension: int, generator: torch.Generator) -> Threshold:
    weights = torch.randint(-3, 4, (count, dimension), generator=generator).float()
    return Threshold(weights, torch.full((count, 1), 0.5))


def _parities(count: int, dimension: int, generator: torch.Generator) -> Parity:
    return Parity(torch.rand(count, dimension, generator=generator) < 0.5)


def _sparse_parities(count: int, dimension: int, generator: torch.Generator) -> Parity:
    return Parity(_some_places(count, dimension, 2, generator) > 0)


def _normal_forms(
    positive: float, negative: float, disjunctive: bool
) -> Callable[[int, int, torch.Generator], NormalForm]:
    def draw(count: int, dimension: int, generator: torch.Generator) -> NormalForm:
        return NormalForm(_literals((count, 3, dimension), positive, negative, generator), disjunctive)

    return draw


def _as_drawn(concept: Concept, x: Tensor, generator: torch.Generator) -> Tensor:
    return x


def _made(share: float, value: int) -> Callable[[Concept, Tensor, torch.Generator], Tensor]:
    """Set some points to ``value`` times the literals on the literals' places.

    With +1, a conjunction holds there, with -1 a disjunction fails.  Of a normal form, one part per function is used.
    """

    def alter(concept: Concept, x: Tensor, generator: torch.Generator) -> Tensor:
        if isinstance(concept, NormalForm):
            which = torch.randint(concept.literals.shape[1], (len(x),), generator=generator)
            literals = concept.literals[torch.arange(len(x)), which]
        else:
            assert isinstance(concept, Threshold)
            literals = concept.weights
        chosen = torch.rand(*x.shape[:2], 1, generator=generator) < share
        return torch.where(chosen & (literals != 0)[:, None], value * literals[:, None], x)

    return alter


# --- teaching --------------------------------------------------------------------------------------------------------


def _flips(base: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """``base`` (functions, dimension) with one place of the support flipped in each row, in order; and which rows count."""
    dimension = base.shape[1]
    order = (~support).to(torch.uint8).argsort(dim=-1, stable=True)
    flipped = torch.nn.functional.one_hot(order, dimension).to(base.dtype)
    rows = base[:, None] * (1 - 2 * flipped)
    return rows, torch.arange(dimension) < support.sum(-1, keepdim=True)


def _teach_monotone(literals: Tensor) -> Teaching:
    """The least positive point, then each of its places put out: whatever is not needed is seen not to be."""
    base = 2 * literals - 1
    rows, counts = _flips(base, literals > 0)
    return torch.cat([base[:, None], rows], 1), torch.cat([torch.ones(len(base), 1, dtype=torch.bool), counts], 1)


def _teach_monotone_conjunction(concept: Concept) -> Teaching:
    assert isinstance(concept, Threshold)
    return _teach_monotone(concept.weights)


def _teach_conjunction(concept: Concept) -> Teaching:
    """Two positive points that differ in every place that is free, then each literal of the first put out."""
    assert isinstance(concept, Threshold)
    literals = concept.weights
    free = literals == 0
    low, high = literals.masked_fill(free, -1.0), literals.masked_fill(free, 1.0)
    rows, counts = _flips(low, ~free)
    both = torch.ones(len(low), 2, dtype=torch.bool)
    return torch.cat([low[:, None], high[:, None], rows], 1), torch.cat([both, counts], 1)


def _teach_monotone_dnf(concept: Concept) -> Teaching:
    """Each term's sequence, one after another."""
    assert isinstance(concept, NormalForm)
    parts = [_teach_monotone(term) for term in concept.literals.unbind(1)]
    return torch.cat([rows for rows, _ in parts], 1), torch.cat([counts for _, counts in parts], 1)


def _teach_sparse_parity(concept: Concept) -> Teaching:
    """A point for each member, in which it alone is +1: the odd label shows that it is one."""
    assert isinstance(concept, Parity)
    base = torch.full(concept.members.shape, -1.0)
    return _flips(base, concept.members)


def _begin_with(rows: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Put the rows that count first, in order, in place of as many points."""
    points = x.shape[1]
    order = (~counts).to(torch.uint8).argsort(dim=-1, stable=True)
    rows = rows.gather(1, order[..., None].expand_as(rows))[:, :points]
    taught = counts.sum(-1).clamp(max=points)
    first = (torch.arange(rows.shape[1]) < taught[:, None])[..., None]
    return torch.cat([torch.where(first, rows, x[:, : rows.shape[1]]), x[:, rows.shape[1] :]], 1), taught


CLASSES: Mapping[str, FunctionClass] = {
    "conjunction": FunctionClass(
        "all literals hold", _conjunctions(0.15, 0.15), _made(0.3, 1), teach=_teach_conjunction
    ),
    "monotone-conjunction": FunctionClass(
        "all of some places are +1", _conjunctions(0.3, 0), _made(0.4, 1), teach=_teach_monotone_conjunction
    ),
    "disjunction": FunctionClass("one literal holds", _disjunctions, _made(0.3, -1)),
    "sparse-disjunction": FunctionClass("one of four places is +1", _sparse_disjunctions, _made(0.3, -1)),
    "sparse-threshold": FunctionClass("enough literals hold", _sparse_thresholds, _as_drawn),
    "majority": FunctionClass("most of some places are +1", _majorities, _as_drawn),
    "halfspace": FunctionClass("a plane with weights from -3 to 3", _halfspaces, _as_drawn),
    "parity": FunctionClass("an odd number of some places is +1", _parities, _as_drawn),
    "sparse-parity": FunctionClass("two places differ", _sparse_parities, _as_drawn, teach=_teach_sparse_parity),
    "dnf": FunctionClass("one of three conjunctions holds", _normal_forms(0.1, 0.1, True), _made(0.35, 1)),
    "monotone-dnf": FunctionClass(
        "one of three conjunctions without negation holds",
        _normal_forms(0.2, 0, True),
        _made(0.35, 1),
        teach=_teach_monotone_dnf,
    ),
    "cnf": FunctionClass("all of three disjunctions hold", _normal_forms(0.1, 0.1, False), _made(0.3, -1)),
}
"""The classes by name; ``nearest-neighbour``, which has no functions, comes beside them."""
