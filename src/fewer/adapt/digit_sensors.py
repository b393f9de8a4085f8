"""Digits seen by three noisy sensors, and a network that was trained when all three worked.

Sensor A sees the upper half of an image, B the lower half, C sixteen random projections of the whole; the noise of a row
is drawn once.  What the missing sensor's encoder would have said is zero where the three are joined.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.adapt.loop import Adaptation, AdaptationTask, Inputs, Labelled, LinearHead, rows_at
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import derive, generator
from fewer.core.shared_start import shared_start
from fewer.models.optimisers import AdamW

SENSORS = {"A": 32, "B": 32, "C": 16}
"""Numbers that each sensor gives."""

Start = Literal["all", "dropout", "none"]


class SensorNetwork(nn.Module):
    """An encoder for each sensor, and what joins them; gives features, which ``classifier`` turns into logits.

    Parameters
    ----------
    sensors : str, default "ABC"
        Those that have an encoder; the others' features are blank.
    drop : float, default 0
        Share of sensors that is blanked while it learns, for each row anew; never all of a row's.
    """

    width = 64

    def __init__(self, sensors: str = "ABC", drop: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        encoders = {
            name: nn.Sequential(
                nn.Linear(inputs, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()
            )
            for name, inputs in SENSORS.items()
        }
        self.encoders = nn.ModuleDict({name: each for name, each in encoders.items() if name in sensors})
        self.fusion = nn.Sequential(
            nn.Linear(64 * len(SENSORS), 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()
        )
        self.classifier = nn.Linear(64, 10)
        self.blank: dict[str, Tensor] = {}

    def forward(self, x: dict[str, Tensor]) -> Float[Tensor, "rows width"]:
        """Features of rows; sensors that are not given are blank."""
        rows = len(next(iter(x.values())))
        parts = []
        for name in SENSORS:
            if name in x and name in self.encoders:
                parts.append(self.encoders[name](x[name]))
            else:
                like = next(self.parameters())
                parts.append(self.blank.get(name, like.new_zeros(64)).expand(rows, 64))
        joined = torch.stack(parts, dim=1)
        if self.training and self.drop:
            keep = torch.rand(rows, len(SENSORS), device=joined.device) >= self.drop
            keep |= ~keep.any(dim=1, keepdim=True)  # a row that lost all keeps all
            joined = joined * keep[..., None]
        return self.fusion(joined.flatten(1))


@dataclass(frozen=True, eq=False)
class DigitSensors(AdaptationTask):
    """Tell digits by the sensors that still work.

    Parameters
    ----------
    available : str, default "AB"
        Those sensors, of A, B and C.
    start : {"all", "dropout", "none"}, default "all"
        What the network was trained on before: rows of all three sensors, the same with sensors left out at random, or
        nothing.
    epochs : int, default 40
        Of that training.

    Examples
    --------
    >>> task = DigitSensors("AC")
    >>> {name: tuple(each.shape) for name, each in task.labelled(0).x.items()}
    {'A': (1200, 32), 'C': (1200, 16)}
    """

    available: str = "AB"
    start: Start = "all"
    epochs: int = 40
    name: str = "digit-sensors"
    metric: str = "accuracy"
    classes: tuple[str, ...] = tuple("0123456789")

    def __post_init__(self) -> None:
        if (
            not self.available
            or sorted(set(self.available)) != sorted(self.available)
            or set(self.available) - set("ABC")
        ):
            raise FewerError(f"digit-sensors: available is {self.available!r}; name some of A, B and C, such as 'AB'")
        if self.start not in ("all", "dropout", "none"):
            raise FewerError(f"digit-sensors: start is {self.start!r}; choose all, dropout or none")
        if self.epochs < 1:
            raise FewerError(f"digit-sensors: epochs is {self.epochs}; give 1 or more")

    def fingerprint(self) -> str:
        """Of the settings: the digits are scikit-learn's."""
        return fingerprint(self.name, "".join(sorted(self.available)), self.start, str(self.epochs))

    def labelled(self, seed: int) -> Labelled:
        """1,200 rows to learn from and 597 to score, of the sensors that work."""
        x, y = sensed(seed)
        x = {name: x[name] for name in sorted(self.available)}
        return Labelled(rows_at(x, slice(1200)), y[:1200], rows_at(x, slice(1200, None)), y[1200:])

    def base(self, seed: int) -> SensorNetwork:
        """The trained network, without the encoders of sensors that do not work."""
        network = self.network(seed)
        for name in set(SENSORS) - set(self.available):
            del network.encoders[name]
        return network

    def network(self, seed: int) -> SensorNetwork:
        """The trained network, whole."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "digit sensors"))
            network = SensorNetwork()
        if self.start != "none":
            before = dataclasses.replace(self, available="ABC")
            tree = shared_start("digit-sensors", (before.fingerprint(), str(seed)), lambda: before._trained(seed))
            network.load_state_dict(tree)
        return network

    def _trained(self, seed: int) -> dict[str, Tensor]:
        network = dataclasses.replace(self, start="none").network(seed)
        network.drop = 0.3 if self.start == "dropout" else 0.0
        return train_network(network, self.labelled(seed), self.epochs, seed).state_dict()


def train_network(network: SensorNetwork, labelled: Labelled, epochs: int, seed: int) -> SensorNetwork:
    """Train all of a network on rows; those sensors that the rows lack stay blank."""
    from fewer.adapt.given_rows import Given

    rows = len(labelled.y)
    loop = Adaptation(trainable="all", optimiser=AdamW(lr=2e-3), steps=epochs * -(-rows // 64), batch=64, points=1)
    task = Given(network, labelled, DigitSensors.classes)
    adapted, _ = loop.train(loop.start(task, rows, seed), rows)
    trained = cast(SensorNetwork, adapted.readout.model)
    trained.classifier.load_state_dict(cast(LinearHead, adapted.head).linear.state_dict())
    trained.drop = 0.0
    return trained.eval().requires_grad_(False)


def sensed(seed: int) -> tuple[dict[str, Float[Tensor, "rows _"]], Int[Tensor, " rows"]]:
    """All 1,797 rows in the order of one seed, as the three sensors give them."""
    from fewer.tasks.digits import digits

    task, rng = digits(), generator(seed, "digit sensors")
    order = rng.permutation(len(task.y))
    image = task.x[order].reshape(-1, 64)
    clean = {"A": image[:, :32], "B": image[:, 32:], "C": image @ rng.standard_normal((64, 16)) / 4}
    noise = {"A": 0.35, "B": 0.35, "C": 0.6}
    seen = {name: each + noise[name] * rng.standard_normal(each.shape) for name, each in clean.items()}
    x = {name: torch.from_numpy(each.astype(np.float32)) for name, each in seen.items()}
    return x, torch.from_numpy(task.y[order])


@dataclass(frozen=True)
class Batches:
    """Rows in batches of 64, in another order each time it is gone through."""

    x: Inputs
    y: Tensor
    rng: np.random.Generator

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        for chosen in torch.from_numpy(self.rng.permutation(len(self.y))).split(64):
            yield rows_at(self.x, chosen), self.y[chosen]
