"""An architecture that starts from saved weights, wherever an architecture is asked for.

A learner that builds its network anew in each round thereby starts each round from the same backbone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load_file

from fewer.core.errors import FewerError
from fewer.models.classifier import Architecture, Classifier


@dataclass(frozen=True)
class Pretrained:
    """An architecture whose backbone starts from saved weights.

    Parameters
    ----------
    architecture : Architecture
        What is built.
    path : path
        A safetensors file with the state dict of the backbone, or of a whole classifier (``backbone.…``; its head is
        left aside).

    Raises
    ------
    FewerError
        When built: if the file is missing or damaged, or does not fit the backbone.
    """

    architecture: Architecture
    path: str | os.PathLike[str]

    def build(self, shape: tuple[int, ...], classes: int) -> Classifier:
        """Make the network and load its backbone."""
        made = self.architecture.build(shape, classes)
        try:
            saved = load_file(self.path)
        except (OSError, SafetensorError) as error:
            raise FewerError(f"cannot read the weights in {self.path} ({error}); give a safetensors file") from error
        prefix = "backbone."
        inner = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        try:
            made.backbone.load_state_dict(inner or saved)
        except RuntimeError as error:
            first = str(error).splitlines()[-1].strip()
            raise FewerError(
                f"the weights in {self.path} do not fit the backbone of {self.architecture}: {first}"
            ) from error
        return made
