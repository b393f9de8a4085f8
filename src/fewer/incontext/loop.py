"""Learning to learn from the prompt: a network trained on prompts of many tasks learns a new one without changing a weight.

A *family* is a distribution over tasks.  Each training prompt is drawn afresh: a task, examples of it,
and what should be said at each position.  Afterwards the weights are frozen, and the growing prompt is
all that the network remembers of a task.  The curve is the family's score on unseen tasks against the
prompts trained on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from fewer.core.curve import Point
from fewer.core.errors import Diverged, FewerError
from fewer.core.ledger import Ledger
from fewer.core.loop import Loop, State, Task
from fewer.core.seeding import torch_generator
from fewer.incontext.networks import Transformer
from fewer.models.optimisers import AdamW, Cosine, Optimiser, Schedule, parameter_groups, set_rate


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, each of one task.

    Parameters
    ----------
    tokens : float tensor (batch, length, features)
        What the network reads.
    target : tensor (batch, ...)
        What it should say, in the family's own form.
    observed : int, optional
        The first so many tokens are what is known of the task, and the later ones are queries that do not
        see one another; None where every token sees those before it.
    """

    tokens: Float[Tensor, "batch length features"]
    target: Shaped[Tensor, "batch ..."]
    observed: int | None = None


Predict = Callable[[Prompts], Float[Tensor, "batch length outputs"]]
"""A trained network on prompts of any number."""


class Family(Task):
    """A distribution over tasks, and what is right about them.

    Attributes
    ----------
    features : int
        Width of a token.
    outputs : int
        Numbers that the network gives at each position.
    length : int
        Most tokens a prompt has.
    """

    features: int
    outputs: int
    length: int

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """Draw ``count`` new tasks and a prompt of each, on the CPU."""

    @abstractmethod
    def loss(
        self, outputs: Float[Tensor, "batch length outputs"], prompts: Prompts
    ) -> Float[Tensor, "batch positions"]:
        """How wrong the outputs are, at each position where something should be said; never reduced."""

    @abstractmethod
    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """Score a network on tasks drawn from ``seed``, the same for every network: the score and further measures."""


class Architecture(Protocol):
    """Describes a sequence model; two equal descriptions build equal shapes."""

    def build(self, features: int, outputs: int, length: int) -> SequenceModel:
        """Make a freshly initialised network for tokens of ``features``; draws from torch's global generator."""
        ...


class SequenceModel(Protocol):
    """A torch module that reads prompts."""

    def __call__(
        self, tokens: Float[Tensor, "batch length features"], observed: int | None = None
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs at every position, or with ``observed`` at the queries; each knows only what it may see (:class:`Prompts`)."""
        ...


@dataclass
class InContextState(State):
    """Network, optimiser and the random stream of prompts."""

    saved: ClassVar[tuple[str, ...]] = ("network", "optimiser", "draws")

    family: Family = field(kw_only=True)
    network: nn.Module = field(kw_only=True)
    optimiser: torch.optim.Optimizer = field(kw_only=True)
    draws: torch.Generator = field(kw_only=True)


@dataclass(frozen=True)
class LearnToLearn(Loop[Family, InContextState]):
    """Train a network on fresh prompts of a family; the curve is its score on unseen tasks against prompts.

    Parameters
    ----------
    network : Architecture, default Transformer()
        What reads the prompt.
    optimiser : Optimiser, default AdamW()
        How parameters move.
    schedule : Schedule, default Cosine(warmup=0.05)
        Learning rate over the run.
    batch : int, default 64
        Prompts a step.
    points : int, default 10
        How many points the curve has.
    clip : float, default 1
        Greatest norm of the gradient.
    """

    unit: ClassVar[str] = "prompts"
    accepts: ClassVar[type[Family]] = Family

    network: Architecture = field(default_factory=Transformer)
    optimiser: Optimiser = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=lambda: Cosine(warmup=0.05))
    batch: int = 64
    points: int = 10
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.points < 1 or self.clip <= 0:
            raise FewerError(
                f"batch and points must be at least 1 and clip above 0; they are {self.batch}, {self.points} "
                f"and {self.clip}"
            )

    def least(self, task: Family) -> int:
        """One batch."""
        return self.batch

    def start(self, task: Family, budget: int, seed: int) -> InContextState:
        """Build the network and the optimiser."""
        where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = self.network.build(task.features, task.outputs, task.length)
        assert isinstance(network, nn.Module)
        network.to(where)
        return InContextState(
            budget,
            seed,
            Ledger({"prompts": 1.0}),
            family=task,
            network=network,
            optimiser=self.optimiser.make(parameter_groups(network)),
            draws=torch_generator(seed, "prompts"),
        )

    def advance(self, state: InContextState) -> Point:
        """Train up to the next point, then score on unseen tasks."""
        stop = max(state.budget * (state.points + 1) // self.points, state.ledger.spent + 1)
        loss = self._train(state, min(stop, state.budget))
        score, measures = state.family.evaluate(frozen(state.network), state.seed)
        return Point(state.ledger.spent, score, {"loss": loss, **measures})

    def result(self, state: InContextState) -> nn.Module:
        """The trained network."""
        return state.network.eval()

    def _train(self, state: InContextState, stop: int) -> float:
        network, optimiser, device = state.network, state.optimiser, next(state.network.parameters()).device
        network.train()
        loss = torch.zeros(())
        while state.ledger.spent < stop:
            count = min(self.batch, stop - state.ledger.spent)
            prompts = to(state.family.sample(count, state.draws), device)
            set_rate(optimiser, self.schedule.factor(state.ledger.spent / state.budget))
            loss = state.family.loss(network(prompts.tokens, prompts.observed), prompts).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), self.clip, foreach=True)
            optimiser.step()
            state.ledger.add("prompts", count)
        last = float(loss.detach())
        if last != last or last in (float("inf"), float("-inf")):
            raise Diverged(
                f"the training loss became {last} after {state.ledger.spent} prompts; lower the learning rate"
            )
        return last


@dataclass(frozen=True)
class frozen:
    """Make a trained network a function of prompts that changes nothing and keeps nothing.

    Parameters
    ----------
    network : nn.Module
        On any device; the outputs come back to the CPU.
    block : int, default 256
        Prompts that go through at once.
    """

    network: nn.Module
    block: int = 256

    def __call__(self, prompts: Prompts) -> Float[Tensor, "batch length outputs"]:
        """Outputs at every position."""
        self.network.eval()
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            parts = [self.network(part.to(device), prompts.observed).cpu() for part in prompts.tokens.split(self.block)]
        return torch.cat(parts)


class Reader:
    """Reads prompts that grow: each call takes the tokens that came and gives the outputs at them.

    A network of :mod:`fewer.incontext.networks` reads each token once.  Any other function of prompts reads the
    whole prompt again.

    Parameters
    ----------
    predict : Predict
        As :func:`frozen` makes it.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._network = predict.network if isinstance(predict, frozen) and hasattr(predict.network, "read") else None
        self._memory: Any = None

    def __call__(self, tokens: Float[Tensor, "batch new features"]) -> Float[Tensor, "batch new outputs"]:
        """Read on."""
        if self._network is None:
            self._memory = tokens if self._memory is None else torch.cat([self._memory, tokens], 1)
            return self._predict(Prompts(self._memory, self._memory))[:, -tokens.shape[1] :]
        self._network.eval()
        with torch.inference_mode():
            device = next(self._network.parameters()).device
            outputs, self._memory = self._network.read(tokens.to(device), self._memory)  # pyright: ignore[reportCallIssue]
        return outputs.cpu()


def to(prompts: Prompts, device: torch.device) -> Prompts:
    """The same prompts on a device."""
    return Prompts(prompts.tokens.to(device), prompts.target.to(device), prompts.observed)
