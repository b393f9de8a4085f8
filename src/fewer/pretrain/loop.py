"""Contrastive pre-training: two views of the same thing shall be recognised among the views of others.

Slots decide what the views are, which towers bring them into one space, and what recognising badly costs.  The curve
is what a read-out makes of the features against the rows seen; labels are only ever looked at by the read-out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import generator, torch_generator
from fewer.models.classifier import Architecture, ConvNet
from fewer.models.optimisers import SGD, Cosine, Optimiser, Schedule, parameter_groups, set_rate
from fewer.pretrain.contrast import InfoNCE, Negatives, Objective
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.readout import KNN, LinearProbe, ReadOut, judged, recognised
from fewer.pretrain.views import Mild, Views
from fewer.tasks.classification import Classification
from fewer.tasks.paired import Paired, Pairing
from fewer.tasks.representation import Representation, Rows, rows_of
from fewer.tasks.rounds import Rounds


class Towers(Protocol):
    """Describes what brings both sides into one space."""

    def build(self, task: Task, pairing: Pairing) -> Joint:
        """Make it for what one seed's pairing gives; draws from torch's global generator."""
        ...


class Joint(nn.Module):
    """Two sides into one space.

    Attributes
    ----------
    encoder : nn.Module
        What is handed on: first sides to features, before any projection.
    negatives : {"both views", "other view"}
        What a side is told apart from: both sides of other things where all are of one kind, else the other sides.
    """

    encoder: nn.Module
    negatives: Negatives = "both views"

    def forward(
        self, first: Any, second: Any
    ) -> tuple[Float[Tensor, "rows width"], Float[Tensor, "rows width"], Float[Tensor, ""] | None]:
        """Projections of both sides, and the temperature where it is learned."""
        raise NotImplementedError

    def handed_on(self) -> PretrainedEncoder:
        """What is left when training is over."""
        return PretrainedEncoder(self.encoder)


@dataclass(frozen=True)
class Shared:
    """One encoder for both sides, and a projector that is thrown away afterwards (SimCLR).

    Parameters
    ----------
    model : Architecture
        The encoder; by default three convolutions with batch normalisation and the mean of each map.
    hidden, width : int, default 64 and 32
        Of the projector: linear, batch normalisation, ReLU, linear.
    """

    model: Architecture = field(default_factory=lambda: ConvNet((16, 32, 64), norm=True, hidden=0, pool=True))
    hidden: int = 64
    width: int = 32

    def build(self, task: Task, pairing: Pairing) -> Joint:
        """Make it."""
        if not isinstance(pairing, TwoViews):
            raise FewerError(f"{task.name}: its two sides are of different kinds and need a tower each; use clip")
        made = self.model.build(pairing.rows.x.shape[1:], classes=2)
        return _SharedTower(made.backbone, made.width, self.hidden, self.width)


class _SharedTower(Joint):
    def __init__(self, encoder: nn.Module, features: int, hidden: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = nn.Sequential(
            nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, None]:
        # each view by itself, so that batch statistics say nothing of the other
        return self.projector(self.encoder(first)), self.projector(self.encoder(second)), None


class TwoViews:
    """Rows and two random views of each: the pairing of tasks that have one side only.

    Parameters
    ----------
    rows : Rows
        One seed's division.
    views : Views
        How a row is changed.
    readouts : dict of str to ReadOut
        What judges the encoder; the first one gives the score.
    seed : int
        Of the order and of the views.
    """

    def __init__(self, rows: Rows, views: Views, readouts: dict[str, ReadOut], seed: int) -> None:
        self.rows, self.views, self.readouts = rows, views, readouts
        self.where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.x = torch.from_numpy(np.ascontiguousarray(rows.x, dtype=np.float32)).to(self.where)
        self.order, self.draws = Rounds(len(self.x), generator(seed, "order")), torch_generator(seed, "views")

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Two views of the next rows of a round."""
        chosen = torch.from_numpy(self.order.draw(count)).to(self.where)
        return self.views.pair(self.x[chosen], self.draws)

    def score(self, network: nn.Module) -> tuple[float, dict[str, float]]:
        """By labels where there are some; else how often a held-out row's view is nearest to the row's other view."""
        encoder = network.encoder
        assert isinstance(encoder, nn.Module)
        if self.rows.probes:
            measured = judged(encoder, self.rows.probes, self.readouts)
            return measured[next(iter(self.readouts))], measured
        found = recognised(encoder, self.rows.held_out, self.views)
        return found, {"views recognised": found}

    def state_dict(self) -> dict[str, Any]:
        """Where both streams stand."""
        return {"order": self.order.state_dict(), "draws": self.draws}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up."""
        self.order.load_state_dict(tree["order"])
        self.draws = tree["draws"]


@dataclass
class ContrastiveState(State):
    """Towers, their optimiser, and what is drawn."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "pairing", "objective")

    pairing: Pairing = field(kw_only=True)
    network: Joint = field(kw_only=True)
    objective: Any = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)


@dataclass(frozen=True)
class Contrastive(Loop[Task, ContrastiveState]):
    """Learn features by which two sides of the same thing find each other; with its defaults, SimCLR on small images.

    Parameters
    ----------
    towers : Towers, default Shared()
        What brings both sides into one space.
    views : Views, default Mild()
        How a row becomes two, where the task has one side only.
    objective : Objective, default InfoNCE()
        What recognising badly costs, per row.
    readout : ReadOut, default KNN()
        What gives the score, as far as the task has labels; a linear probe is measured beside it.
    optimiser : Optimiser, default SGD(lr=0.03, weight_decay=1e-4)
        How parameters move.
    schedule : Schedule, default Cosine()
        Learning rate over the run.
    batch : int, default 128
        Things a step.
    clip : float, default 0
        Largest norm of the gradient; 0 for none.
    points : int, default 5
        How many points the curve has.

    Examples
    --------
    >>> from fewer.tasks.digits import digits
    >>> learned = Contrastive(points=2).learn(digits(), budget=1024)
    >>> [point.spent for point in learned.curve], learned.result.embed(np.zeros((2, 1, 8, 8))).shape
    ([512, 1024], (2, 64))
    """

    unit: ClassVar[str] = "rows seen"
    accepts: ClassVar[tuple[type[Task], ...]] = (Classification, Representation, Paired)

    towers: Towers = field(default_factory=Shared)
    views: Views = field(default_factory=Mild)
    objective: Objective = field(default_factory=InfoNCE)
    readout: ReadOut = field(default_factory=KNN)
    optimiser: Optimiser = field(default_factory=lambda: SGD(lr=0.03, weight_decay=1e-4))
    schedule: Schedule = field(default_factory=Cosine)
    batch: int = 128
    clip: float = 0.0
    points: int = 5

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise FewerError(f"contrastive: a batch of {self.batch} has nothing to tell it apart from; give 2 or more")
        if self.points < 1 or self.clip < 0:
            raise FewerError(f"contrastive: points must be at least 1 and clip at least 0; given {self}")

    def least(self, task: Task) -> int:
        """One batch for each point."""
        return self.batch

    def start(self, task: Task, budget: int, seed: int) -> ContrastiveState:
        """Divide the rows, build the towers and the optimiser."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if isinstance(task, Paired):
            pairing = task.pairing(seed)
        else:
            # the read-out asked for comes first: it gives the score
            others: dict[str, ReadOut] = {"knn": KNN(), "linear": LinearProbe()}
            names = {type(each): name for name, each in others.items()}
            name = names.get(type(self.readout), "score")
            readouts = {name: self.readout, **{k: v for k, v in others.items() if k != name}}
            pairing = TwoViews(rows_of(task, seed), self.views, readouts, seed)
        network = self.towers.build(task, pairing).to(where)
        objective = copy.deepcopy(self.objective)  # it may have parameters, which are this run's own
        parts = nn.ModuleList([network, *([objective] if isinstance(objective, nn.Module) else [])])
        return ContrastiveState(
            budget,
            seed,
            Ledger({"rows_seen": 1.0}),
            pairing=pairing,
            network=network,
            objective=objective,
            optimiser=self.optimiser.make(parameter_groups(parts)),
        )

    def advance(self, state: ContrastiveState) -> Point:
        """Learn until the next point, then read the features out."""
        until = -(-state.budget * (state.points + 1) // self.points)
        until = min(max(until, state.ledger.spent + 1), state.budget)
        state.network.train()
        loss = torch.zeros(())
        while state.ledger.spent < until and state.budget - state.ledger.spent >= self.batch:
            first, second = state.pairing.draw(self.batch)
            set_rate(state.optimiser, self.schedule.factor(state.ledger.spent / state.budget))
            one, other, temperature = state.network(first, second)
            loss = state.objective(one, other, temperature, state.network.negatives).mean()
            state.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(state.network.parameters(), self.clip)
            state.optimiser.step()
            state.ledger.add("rows_seen", len(first))
        state.exhausted = state.budget - state.ledger.spent < self.batch
        if not torch.isfinite(loss):
            raise Diverged(f"the loss became {float(loss)} after {state.ledger.spent} rows; lower the learning rate")
        score, measured = state.pairing.score(state.network)
        return Point(state.ledger.spent, score, {**measured, "loss": float(loss.detach())})

    def result(self, state: ContrastiveState) -> PretrainedEncoder:
        """The encoder, without the projector; of two towers, both."""
        return state.network.handed_on()
