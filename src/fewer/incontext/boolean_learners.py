"""Learners that need no training: what each says of a point, having seen the labelled points before it.

All prefixes of all functions are answered at once.  A learner takes points (functions, points, dimension)
of -1 and +1 and their labels (functions, points), and gives predictions (functions, points) of -1, +1, or
0 where it has no opinion; the prediction at a point knows the labels before it and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from fewer.core.errors import FewerError, nearest
from fewer.incontext.boolean_functions import closest_before

Learner = Callable[[Tensor, Tensor], Tensor]


def null(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """Always -1."""
    return torch.full_like(y, -1)


def averaging(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """The side of the plane whose normal is the mean of ``y x``: one step of linear regression from zero.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]])
    >>> averaging(x, torch.tensor([[1.0, 1.0, -1.0]])).tolist()
    [[0.0, 0.0, -1.0]]
    """
    sums = (y[..., None] * x).cumsum(1)
    before = torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
    return (before * x).sum(-1).sign()


def nearest_neighbour(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """The label of the nearest earlier point, by angle or distance alike; the first of equals; 0 at the first point."""
    predicted = y.gather(1, closest_before(x @ x.mT))
    predicted[:, 0] = 0
    return predicted


def three_nearest(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """The majority of the three nearest earlier points; where there are only two that disagree, the nearer."""
    points = x.shape[1]
    later = torch.ones(points, points, dtype=torch.bool, device=x.device).triu()
    # similarities are whole numbers, so being later by less than a step breaks ties to the earlier
    place = torch.arange(points, device=x.device) / (2 * points)
    scores = (x @ x.mT - place).masked_fill(later, -torch.inf)
    top = scores.topk(min(3, points), -1)
    votes = y[:, None].expand(-1, points, -1).gather(-1, top.indices) * top.values.isfinite()
    weights = torch.tensor([1.5, 1.0, 1.0], device=x.device)[: votes.shape[-1]]
    return (votes * weights).sum(-1).sign()


def least_squares(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """The sign of the linear fit, with a constant, of least squared error on the prefix; the shortest of those."""
    ones = torch.cat([x, torch.ones_like(x[..., :1])], -1).double()
    fits = torch.zeros_like(ones)
    for at in range(1, x.shape[1]):
        fits[:, at] = (torch.linalg.pinv(ones[:, :at]) @ y[:, :at, None].double()).squeeze(-1)
    value = (fits * ones).sum(-1)
    return torch.where(value.abs() < 1e-9, 0.0, value.sign()).to(y.dtype)


def elimination(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """Learn a conjunction: keep every literal that held in all positive points; +1 where all that are kept hold."""
    held = torch.cat([x, -x], -1) > 0
    possible = (held | (y < 0)[..., None]).long().cumprod(1).bool()
    before = torch.cat([torch.ones_like(possible[:, :1]), possible[:, :-1]], 1)
    return 2 * (held | ~before).all(-1).to(y.dtype) - 1


def elimination_of_disjunctions(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """Learn a disjunction: it fails where the conjunction of the negations holds."""
    return -elimination(-x, -y)


def gaussian_elimination(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """Learn a parity: solve for its members modulo 2, and leave out those that are still free."""
    bits, labels = x > 0, y > 0
    functions, points, dimension = x.shape
    rows = torch.zeros(functions, dimension, dimension, dtype=torch.bool, device=x.device)
    sides = torch.zeros(functions, dimension, dtype=torch.bool, device=x.device)
    each = torch.arange(functions, device=x.device)
    predicted = torch.zeros_like(y)
    for at in range(points):
        rest, sum_ = bits[:, at].clone(), torch.zeros(functions, dtype=torch.bool, device=x.device)
        for place in range(dimension):  # an equation that leads with this place takes it out
            use = rest[:, place] & rows[:, place, place]
            rest ^= rows[:, place] & use[:, None]
            sum_ ^= sides[:, place] & use
        predicted[:, at] = 2 * sum_.to(y.dtype) - 1
        new = rest.any(-1)
        lead = rest.to(torch.uint8).argmax(-1)
        rows[each, lead] = torch.where(new[:, None], rest, rows[each, lead])
        sides[each, lead] = torch.where(new, labels[:, at] ^ sum_, sides[each, lead])
    return predicted


def perceptron(
    x: Float[Tensor, "functions points dimension"], y: Float[Tensor, "functions points"]
) -> Float[Tensor, "functions points"]:
    """A plane with a constant that moves by ``y x`` at each mistake, read once in order."""
    ones = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    weights = torch.zeros_like(ones[:, 0])
    predicted = torch.zeros_like(y)
    for at in range(x.shape[1]):
        predicted[:, at] = (weights * ones[:, at]).sum(-1).sign()
        mistaken = (predicted[:, at] != y[:, at]).to(y.dtype)
        weights += (mistaken * y[:, at])[:, None] * ones[:, at]
    return predicted


LEARNERS: Mapping[str, Learner] = {
    "null": null,
    "averaging": averaging,
    "nearest neighbour": nearest_neighbour,
    "three nearest": three_nearest,
    "least squares": least_squares,
    "perceptron": perceptron,
    "elimination": elimination,
    "elimination of disjunctions": elimination_of_disjunctions,
    "gaussian elimination": gaussian_elimination,
}
"""All of them by name."""

CLASSICAL: Mapping[str, str] = {
    "conjunction": "elimination",
    "monotone-conjunction": "elimination",
    "disjunction": "elimination of disjunctions",
    "sparse-disjunction": "elimination of disjunctions",
    "sparse-threshold": "perceptron",
    "majority": "perceptron",
    "halfspace": "perceptron",
    "parity": "gaussian elimination",
    "sparse-parity": "gaussian elimination",
    "dnf": "three nearest",
    "monotone-dnf": "three nearest",
    "cnf": "three nearest",
    "nearest-neighbour": "nearest neighbour",
}
"""The learner that was made for a class, or does best on it."""


def learner(name: str) -> Learner:
    """Look a learner up by name."""
    if name not in LEARNERS:
        raise FewerError(f"unknown learner {name!r}; {nearest(name, LEARNERS)}")
    return LEARNERS[name]
