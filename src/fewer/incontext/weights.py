"""Trained networks in files: safetensors, with what is needed to build the network again in the header.

Nothing in such a file is executed: the architecture is named, and the name is looked up in the catalogue.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from fewer import catalogue, compose
from fewer.core import checkpoint
from fewer.core.errors import FewerError
from fewer.core.spec import Call
from fewer.incontext.loop import Architecture


def spec_of(part: object) -> str | None:
    """How the command writes a filling: ``"transformer(heads=4, layers=4, width=64)"``; None for what it cannot name.

    Parameters
    ----------
    part : dataclass
        An architecture, an optimiser …

    Examples
    --------
    >>> from fewer.incontext.networks import LSTM
    >>> spec_of(LSTM(width=8))
    'lstm(layers=2, width=8)'
    """
    make = f"{type(part).__module__}:{type(part).__qualname__}"
    for name, known in catalogue.parts("filling").items():
        if known.make == make and dataclasses.is_dataclass(part):
            given = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
            if all(isinstance(value, bool | int | float | str | None) for value in given.values()):
                return str(Call(name, (), given))
    return None


def architecture(spec: str) -> Architecture:
    """The network that a spec names, as the slot ``network`` of the loop has it."""
    return compose.loop(spec).network  # pyright: ignore[reportAttributeAccessIssue]


def save_network(
    path: str | os.PathLike[str],
    network: nn.Module,
    described: Architecture,
    kind: str,
    sizes: tuple[int, int, int],
    facts: Mapping[str, Any],
) -> None:
    """Write a trained network.

    Parameters
    ----------
    path : path
        A safetensors file, written whole or not at all.
    network : nn.Module
        Only its ``state_dict`` is kept.
    described : Architecture
        What built it.
    kind : str
        What the network is for, so that a file is not taken for another kind.
    sizes : tuple of int
        Features, outputs and length that it was built for.
    facts : mapping
        Whatever else its owner needs: numbers, texts, arrays.
    """
    tree = {"kind": kind, "network": spec_of(described), "sizes": sizes, "facts": dict(facts)}
    checkpoint.save(path, {**tree, "weights": network.state_dict()})


def load_network(
    path: str | os.PathLike[str], kind: str, described: Architecture | None = None
) -> tuple[nn.Module, Architecture, dict[str, Any]]:
    """Read what :func:`save_network` wrote: the network, what built it, and the facts.

    Parameters
    ----------
    path : path
        The file.
    kind : str
        What it must be for.
    described : Architecture, optional
        For a network that the catalogue cannot name, such as your own backbone.

    Raises
    ------
    FewerError
        If the file is missing, damaged, of another kind, or does not fit the architecture.
    """
    tree = checkpoint.load(path)
    if not isinstance(tree, dict) or tree.get("kind") != kind:
        found = tree.get("kind") if isinstance(tree, dict) else None
        raise FewerError(f"{path} holds {found or 'something else'}, not {kind}; give a file that {kind}.save wrote")
    if described is None:
        if tree["network"] is None:
            raise FewerError(f"{path} holds weights of your own architecture; say which, network=…")
        described = architecture(tree["network"])
    network = described.build(*tree["sizes"])
    assert isinstance(network, nn.Module)
    try:
        network.load_state_dict(tree["weights"])
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise FewerError(f"the weights in {path} do not fit {described}: {first}") from error
    return network.eval(), described, tree["facts"]


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file of weights is for."""
    tree = checkpoint.load(path)
    return str(tree.get("kind")) if isinstance(tree, dict) else "something else"
