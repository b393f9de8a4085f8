"""Decoupled contrastive learning: the pair itself is taken out of the sum that it is compared with.

In InfoNCE the pair stands in its own denominator, and so the gradient of a row is multiplied by a number that is small
where the pair is easy or its negatives are few; small batches then learn slowly.  Without the pair in the denominator
the factor is gone, and nothing else changes.

With views ``a_i, b_i`` of length one, temperature t, ``s_i = <a_i, b_i> / t`` and ``u_i = log sum_j exp(<a_i, z_j> / t)``
over the views z_j of other rows::

    InfoNCE    -log( e^s / (e^s + e^u) )        gradient = q * (gradient of u - s),   q = e^u / (e^s + e^u)
    DCL        u - s
    DCLW       u - w s,    w_i = 2 - n softmax_i( <a_i, b_i> / sigma ),  not differentiated

and the mean of both directions.  w has mean 1 and is larger where the views are less alike (von Mises-Fisher weights).
The loss has no lower bound of zero: it may be negative, and is no measure of when to stop.

References
----------
Chun-Hsiao Yeh et al., "Decoupled Contrastive Learning", ECCV 2022, arXiv:2110.06848.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.claim import Claim, Measures, higher, lower, no_worse
from fewer.core.errors import FewerError
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import SGD
from fewer.pretrain.contrast import InfoNCE, Negatives, checked_negatives, checked_temperature, logits
from fewer.pretrain.loop import Contrastive
from fewer.tasks.digits import digits
from fewer.tasks.mnist import mnist5k


class DecoupledContrastiveLoss(nn.Module):
    """Recognise the other view of the same row among those of *other* rows.

    Parameters
    ----------
    temperature : float, default 0.1
        What cosines are divided by.
    weight : {None, "vmf"}, default None
        With ``"vmf"``, pairs that are less alike than others of the batch count more (DCLW).
    sigma : float, default 0.5
        How sharply they do; the larger, the more alike the weights.
    negatives : {"both views", "other view"}, optional
        By default what the views' towers ask for, and both views where nothing does.

    Notes
    -----
    Steps grow with 1 / q (see :func:`coupling`).  With a batch of 8 and a temperature of 0.07 they can be three times those
    of InfoNCE, and a learning rate that was right is then too high.

    Examples
    --------
    Called with the un-normalised projections of two views; one loss a row comes back.

    >>> first, second = torch.eye(4), torch.eye(4)
    >>> DecoupledContrastiveLoss(temperature=1.0)(first, second).exp().tolist()  # six others at e^0, the pair at e^1
    [2.2072..., 2.2072..., 2.2072..., 2.2072...]
    """

    def __init__(
        self,
        temperature: float = 0.1,
        weight: Literal["vmf"] | None = None,
        sigma: float = 0.5,
        negatives: Negatives | None = None,
    ) -> None:
        super().__init__()
        if weight not in (None, "vmf"):
            raise FewerError(f"dcl: weight is 'vmf' or left out; it is {weight!r}")
        if not sigma > 0:
            raise FewerError(f"dcl: sigma is {sigma}; give a number above 0, such as 0.5")
        self.temperature = checked_temperature(temperature)
        self.weight, self.sigma = weight, sigma
        self.negatives: Negatives | None = checked_negatives(negatives)

    def forward(
        self,
        first: Float[Tensor, "rows width"],
        second: Float[Tensor, "rows width"],
        temperature: Float[Tensor, ""] | None = None,
        negatives: Negatives | None = None,
    ) -> Float[Tensor, " rows"]:
        """Loss of each row (see :class:`fewer.pretrain.contrast.Objective`).

        Parameters
        ----------
        first, second : float tensor (rows, width)
            Projections of two views, two rows or more; brought to length one here.
        temperature : float tensor (), optional
            Stands for the loss's own where it is learned.
        negatives : {"both views", "other view"}, optional
            Where the loss leaves it open.

        Raises
        ------
        FewerError
            If there are fewer than two rows, their shapes differ, or a number is NaN or infinite.
        """
        scale = self.temperature if temperature is None else temperature
        pair, others = logits(first, second, scale, self.negatives or negatives or "both views")
        if self.weight is not None:
            pair = pair * _vmf_weights((pair * scale).detach(), self.sigma)
        return others.mean(0) - pair

    def extra_repr(self) -> str:
        """Its numbers."""
        return (
            f"temperature={self.temperature}, weight={self.weight!r}, sigma={self.sigma}, negatives={self.negatives!r}"
        )


def _vmf_weights(cosines: Float[Tensor, " rows"], sigma: float) -> Float[Tensor, " rows"]:
    return 2 - len(cosines) * torch.softmax(cosines / sigma, dim=0)


def coupling(
    first: Float[Tensor, "rows width"],
    second: Float[Tensor, "rows width"],
    temperature: float = 0.1,
    negatives: Negatives = "both views",
) -> Float[Tensor, "2 rows"]:
    """What InfoNCE multiplies each row's gradient with, in both directions: q, between 0 and 1.

    Where its mean is near 1 there is nothing to decouple.

    Parameters
    ----------
    first, second : float tensor (rows, width)
        Projections of two views.
    temperature : float, default 0.1
        What cosines are divided by.
    negatives : {"both views", "other view"}, default "both views"
        See :data:`fewer.pretrain.contrast.Negatives`.

    Examples
    --------
    >>> coupling(torch.eye(4), torch.eye(4), temperature=0.1)[0, 0] < 0.001
    tensor(True)
    """
    pair, others = logits(first, second, temperature, negatives)
    return torch.sigmoid(others - pair)


# --- the claim -------------------------------------------------------------------------------------------------------

RATES = (0.002, 0.01, 0.05)
"""Learning rates at a batch of 16; they grow with the square root of the batch."""


def measure_grid(seed: int, tiny: bool) -> Measures:
    """Pre-train with both losses, two sizes of batch, three learning rates; and compare gradients exactly."""
    task = digits() if tiny else mnist5k(size=28)
    # in the tiny form, just enough that there is a second half
    budget, rates = (256, RATES[:1]) if tiny else (6000, RATES)
    losses: dict[str, type[nn.Module]] = {"infonce": InfoNCE, "dcl": DecoupledContrastiveLoss}
    measured: dict[str, dict[str, float]] = {name: {} for name in losses}
    for name, loss in losses.items():
        for batch in (16, 128):
            runs = [_trained(task, loss(), batch, rate * (batch / 16) ** 0.5, budget, seed) for rate in rates]
            scores, couplings = zip(*runs, strict=True)
            measured[name] |= {
                f"knn, batch {batch}": sum(scores) / len(scores),
                f"knn, batch {batch}, lowest rate": scores[0],
                f"q, batch {batch}": sum(couplings) / len(couplings),
            }
    q = {f"batch {batch}": {"q": measured["infonce"][f"q, batch {batch}"]} for batch in (16, 128)}
    return {**measured, **q, "gradients": {"largest error": _gradient_error(seed)}}


def _trained(task: Any, loss: nn.Module, batch: int, rate: float, budget: int, seed: int) -> tuple[float, float]:
    """Accuracy of the neighbours, and the mean coupling over the second half of the run."""
    seen: list[float] = []

    def look(_: nn.Module, given: tuple[Any, ...], __: Any) -> None:
        with torch.no_grad():
            seen.append(float(coupling(given[0], given[1]).mean()))

    loss.register_forward_hook(look)
    loop = Contrastive(objective=loss, batch=batch, optimiser=SGD(lr=rate, weight_decay=1e-4), points=1)
    final = loop.learn(task, budget, seed).curve.final
    late = seen[len(seen) // 2 :]
    return final, sum(late) / len(late)


def _gradient_error(seed: int) -> float:
    """How far InfoNCE's gradient is from q times the decoupled one, at most, seen from one view of each row."""
    drawn = torch_generator(seed, "projections")
    first = torch.randn(24, 8, generator=drawn, dtype=torch.float64, requires_grad=True)
    second = first.detach() + 0.5 * torch.randn(24, 8, generator=drawn, dtype=torch.float64)
    pair, others = logits(first, second, 0.1)
    difference = others[0] - pair
    worst = 0.0
    for row in range(len(first)):
        (coupled,) = torch.autograd.grad(nn.functional.softplus(difference[row]), first, retain_graph=True)
        (decoupled,) = torch.autograd.grad(difference[row], first, retain_graph=True)
        worst = max(worst, float((coupled - torch.sigmoid(difference[row]).detach() * decoupled).abs().max()))
    return worst


claim = Claim(
    says="InfoNCE's gradient is the decoupled one times a factor that small batches make small; without the factor, a batch "
    "of 16 learns more from the same images, and a batch of 128 the same.",
    measure=measure_grid,
    seeds=12,
    holds=[
        lower("largest error", "gradients", than=1e-6),
        higher("q", "batch 128", than="batch 16", by=0.15),
        higher("knn, batch 16", "dcl", than="infonce", by=0.005),
        higher("knn, batch 16, lowest rate", "dcl", than="infonce"),
        no_worse("knn, batch 128", "dcl", than="infonce", within=0.02),
        no_worse("knn, batch 128", "infonce", than="dcl", within=0.02),
    ],
    note="4,000 digits of 28 by 28 pixels, 6,000 of them seen, means over learning rates of 0.002, 0.01 and 0.05 times the root "
    "of batch/16; 20 nearest neighbours among the same 4,000 tell 1,000 others. The gain depends on q: with stronger views "
    "(moves of an eighth of the side) q is above 0.8 at a batch of 16 and both losses learn alike.",
)
