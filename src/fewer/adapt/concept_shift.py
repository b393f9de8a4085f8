"""Domains whose rules differ: the same content means another class elsewhere, and rows show where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.loop import AdaptationTask, Labelled, Predict, rows_at
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.models.classifier import MLP, ConvNet


class Encoder(nn.Module):
    """A backbone that says its width: layers of units for vectors, strided convolutions for images.

    Parameters
    ----------
    shape : tuple of int
        Of a row.
    hidden : tuple of int, default (64, 32)
        Units of the layers, for vectors.
    """

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...] = (64, 32)) -> None:
        super().__init__()
        made = (ConvNet() if len(shape) == 3 else MLP(hidden)).build(shape, 1)
        self.backbone, self.width = made.backbone, made.width

    def forward(self, x: Tensor) -> Float[Tensor, "rows width"]:
        """Features."""
        return self.backbone(x)


class DomainTask(AdaptationTask):
    """Rows from several domains, scored domain by domain; each is met anew, so what is learned there is forgotten after.

    Attributes
    ----------
    domains : tuple of str
        Names of the domains that labels are from.
    named : bool
        Whether the accuracy in each domain is measured under its name (see :meth:`domain_name`), too.
    """

    domains: tuple[str, ...]
    named: ClassVar[bool] = False

    def evaluate(self, labelled: Labelled, predict: Predict) -> tuple[float, dict[str, float]]:
        """Accuracy in domains of ``test_domains`` from ``len(domains)`` on, and beside it in the source domains.

        Where none is new, the source domains' is the score.
        """
        assert labelled.test_domains is not None
        right = {}
        for domain in labelled.test_domains.unique().tolist():
            rows = torch.nonzero(labelled.test_domains == domain)[:, 0]
            said = predict(rows_at(labelled.test_x, rows), None).argmax(1)
            right[domain] = float(np.mean(said == labelled.test_y[rows].numpy()))
        source = [each for domain, each in right.items() if domain < len(self.domains)]
        target = [each for domain, each in right.items() if domain >= len(self.domains)] or source
        extras = {"source": float(np.mean(source))} if source else {}
        named = {f"in {self.domain_name(domain)}": each for domain, each in right.items()} if self.named else {}
        return float(np.mean(target)), extras | {"worst domain": min(target)} | named

    def domain_name(self, domain: int) -> str:
        """The name of a domain of test rows."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ConceptShift(DomainTask):
    """Four domains with a rule each, which agree in part, and the same rules met nearer to where the domains' mean lies.

    A row has a domain part (6), off_k + 0.6 N(0, I), and content (12), N(0, I); its class is the largest of three scores
    that are linear in the content, by a matrix 0.8 of the domain's own and 0.6 shared.

    Parameters
    ----------
    rows : int, default 100
        To learn from, of each domain.
    sources : int, default 4
        How many.
    moved : float, default 0.3
        How far the targets' domain parts lie on the way to the mean of all domains, in [0, 1].
    test : int, default 300
        Rows of each target, and of each source, to be scored.

    Examples
    --------
    >>> task = ConceptShift()
    >>> task.labelled(0).x.shape, task.labelled(0).test_x.shape
    (torch.Size([400, 18]), torch.Size([2400, 18]))
    """

    rows: int = 100
    sources: int = 4
    moved: float = 0.3
    test: int = 300
    name: str = "concept-shift"
    metric: str = "accuracy"
    classes: tuple[str, ...] = ("first", "second", "third")

    def __post_init__(self) -> None:
        if min(self.rows, self.test) < 1 or self.sources < 1 or not 0 <= self.moved <= 1:
            raise FewerError(
                f"concept-shift: rows, sources and test must be 1 or more and moved in [0, 1]; given {self}"
            )

    @property
    def domains(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Their names."""
        return tuple(f"domain {index}" for index in range(self.sources))

    def fingerprint(self) -> str:
        """Of the settings."""
        return fingerprint(self.name, repr((self.rows, self.sources, self.moved, self.test)))

    def base(self, seed: int) -> nn.Module:
        """A network that nobody has trained."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "encoder"))
            return Encoder((18,))

    def labelled(self, seed: int) -> Labelled:
        """Source rows in random order; to be scored, source rows first and then target rows."""
        rng = generator(seed, "concept shift")
        off = 1.5 * rng.standard_normal((self.sources, 6))
        rule = 0.8 * rng.standard_normal((self.sources, 12, 3)) + 0.6 * rng.standard_normal((12, 3))
        nearer = off + self.moved * (off.mean(axis=0) - off)

        def draw(centres: np.ndarray, count: int) -> tuple[Tensor, Tensor, Int[Tensor, " rows"]]:
            domain = np.repeat(np.arange(self.sources), count)
            content = rng.standard_normal((len(domain), 12))
            place = centres[domain] + 0.6 * rng.standard_normal((len(domain), 6))
            y = np.einsum("rc,rck->rk", content, rule[domain]).argmax(axis=1)
            x = np.concatenate([place, content], axis=1).astype(np.float32)
            return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(domain)

        x, y, domain = draw(off, self.rows)
        order = torch.from_numpy(rng.permutation(len(y)))
        source, target = draw(off, self.test), draw(nearer, self.test)
        return Labelled(
            x[order],
            y[order],
            torch.cat([source[0], target[0]]),
            torch.cat([source[1], target[1]]),
            domain[order],
            torch.cat([source[2], target[2] + self.sources]),
        )
