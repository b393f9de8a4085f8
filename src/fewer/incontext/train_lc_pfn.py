"""Train the network that ``fewer plan`` extrapolates with, and write its weights.

    python -m fewer.incontext.train_lc_pfn --out first.safetensors
    python -m fewer.incontext.train_lc_pfn --out lc_pfn.safetensors --begin first.safetensors --seed 1 --lr 2e-3 --curves 480000

The two commands made the weights that ship: the second one goes on from what the first one wrote.  Started
again with the same numbers after an interruption, either goes on from its checkpoint to the bit.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from safetensors import safe_open
from safetensors.torch import save as to_bytes

from fewer.core import checkpoint as checkpoints
from fewer.core.errors import FewerError
from fewer.core.files import write_atomically
from fewer.incontext.extrapolation import LearningCurveExtrapolator
from fewer.incontext.lc_pfn import FORMAT, LearningCurves
from fewer.incontext.loop import LearnToLearn
from fewer.incontext.prior_fitted_network import PriorFitted, PriorFittedNetwork
from fewer.models.optimisers import AdamW, Cosine


@dataclass(frozen=True)
class GoingOn:
    """A network that begins with the weights of a file instead of drawn ones.

    Parameters
    ----------
    architecture : PriorFitted
        What the file must hold.
    path : Path
        Written by this command.
    """

    architecture: PriorFitted
    path: Path

    def build(self, features: int, outputs: int, length: int) -> PriorFittedNetwork:
        """Make the network and load the weights."""
        network = self.architecture.build(features, outputs, length)
        begun = LearningCurveExtrapolator.load(self.path).network.state_dict()
        if {name: each.shape for name, each in begun.items()} != {
            name: each.shape for name, each in network.state_dict().items()
        }:
            raise FewerError(f"{self.path} holds a network of another size; give the sizes that it was trained with")
        network.load_state_dict(begun)
        return network


def train(
    out: Annotated[Path, typer.Option(help="Where to write the weights.")],
    curves: Annotated[int, typer.Option(help="Curves to train on.")] = 400_000,
    width: Annotated[int, typer.Option(help="Of the network.")] = 96,
    layers: Annotated[int, typer.Option(help="Blocks of the network.")] = 4,
    heads: Annotated[int, typer.Option(help="Of each attention.")] = 3,
    waves: Annotated[int, typer.Option(help="Sines and cosines that are read beside each number.")] = 6,
    bars: Annotated[int, typer.Option(help="Of the distribution.")] = 400,
    batch: Annotated[int, typer.Option(help="Curves a step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    points: Annotated[int, typer.Option(help="Measurements, with a checkpoint each.")] = 40,
    seed: Annotated[int, typer.Option(help="Of the run.")] = 0,
    begin: Annotated[Path | None, typer.Option(help="Go on from these weights, of the same sizes.")] = None,
) -> None:
    """Train on invented curves and write the weights."""
    family = LearningCurves(bars=bars, queries=16, thinned=0.5)
    architecture = PriorFitted(width, layers, heads, waves)
    loop = LearnToLearn(
        network=architecture if begin is None else GoingOn(architecture, begin),
        optimiser=AdamW(lr),
        schedule=Cosine(warmup=0.05),
        batch=batch,
        points=points,
    )
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    score = float("nan")
    for point in loop.run(family, curves, seed, checkpoint):
        score = point.score
        shown = "  ".join(f"{name} {value:.3f}" for name, value in point.extras.items())
        typer.echo(f"{point.spent:>9} curves  log-likelihood {score:.3f}  {shown}")
    network = checkpoints.load(checkpoint)["state"]["network"]
    before = trained_on(begin) if begin is not None else 0
    write(out, network, architecture, family, {"curves": before + curves, "seed": seed, "log_likelihood": score})
    checkpoint.unlink()


def trained_on(path: Path) -> int:
    """Curves that the weights in a file were trained on."""
    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()["fewer"])["trained"]["curves"])


def write(
    path: Path, network: dict[str, Any], architecture: Any, family: LearningCurves, facts: dict[str, Any]
) -> None:
    """Write weights with what is needed to use them, as one safetensors file."""
    described = {
        "format": FORMAT,
        "architecture": dataclasses.asdict(architecture),
        "prior": {"components": list(family.prior.components), "length": family.prior.length},
        "trained": facts,
    }
    tensors = {**network, "borders": family.distribution.borders}
    write_atomically(path, to_bytes(tensors, metadata={"fewer": json.dumps(described)}))


if __name__ == "__main__":
    typer.run(train)
