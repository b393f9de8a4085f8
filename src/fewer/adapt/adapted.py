"""What adaptation hands on: a model that predicts, and a small file of what is new in it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    from fewer.adapt.loop import HeadModule, Inputs, Select

FORMAT = "fewer-adapted-1"
"""Of a saved adaptation."""


class Adapted:
    """A frozen model with what was built into it and on top of it.

    Parameters
    ----------
    readout : nn.Module
        Rows to features.
    head : HeadModule
        Features to classes.
    select : Select, optional
        Which of several classifiers is believed; all alike by default.
    classes : tuple of str
        Their names.
    """

    def __init__(self, readout: nn.Module, head: HeadModule, select: Select | None, classes: tuple[str, ...]) -> None:
        self.readout, self.head, self.select, self.classes = readout, head, select, classes

    def there(self, x: Any) -> Any:
        """Rows where the model is."""
        where = next((each.device for each in self.readout.parameters()), torch.device("cpu"))
        return {name: each.to(where) for name, each in x.items()} if isinstance(x, dict) else x.to(where)

    def learn(self, everything: bool) -> None:
        """Get ready to be trained: the head, the read-out and what was built in, and the model itself if all of it is."""
        self.head.train()
        self.readout.train()
        model = getattr(self.readout, "model", None)
        if isinstance(model, nn.Module) and not everything:
            model.eval()
            for module in model.modules():
                if getattr(module, "adapts", False):
                    module.train()

    def features(self, x: Inputs, block: int = 512) -> Float[Tensor, "rows width"]:
        """Features of rows, without gradients, in evaluation."""
        from fewer.adapt.loop import rows_at

        self.readout.eval()
        count = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
        with torch.no_grad():
            parts = [
                self.readout(self.there(rows_at(x, slice(begin, begin + block)))) for begin in range(0, count, block)
            ]
        return torch.cat(parts)

    def mixed(
        self, features: Float[Tensor, "rows width"], classes: tuple[str, ...] | None = None
    ) -> Float[Tensor, "rows classes"]:
        """Probabilities, of all classifiers weighed by the selection."""
        logits = self.head.logits(features, classes)
        if self.select is None:
            return logits.softmax(-1).mean(1)
        weights = self.select.weights(logits, features, self.head)
        return (logits.softmax(-1) * weights[..., None]).sum(1)

    def probabilities(self, x: Inputs, classes: tuple[str, ...] | None = None) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of the classes it was adapted to, or of others by name where the head can name them."""
        return self.mixed_probabilities(x, classes).cpu().numpy()

    def mixed_probabilities(self, x: Inputs, classes: tuple[str, ...] | None = None) -> Float[Tensor, "rows classes"]:
        """The same as a tensor, where the model is."""
        self.head.eval()
        with torch.no_grad():
            return self.mixed(self.features(x), classes)

    def predict(self, x: Inputs) -> Int[np.ndarray, " rows"]:
        """The most probable class of each row, as a place in ``classes``."""
        return self.probabilities(x).argmax(1)

    def new(self) -> dict[str, Tensor]:
        """What was trained, by name, and what the head has noted; nothing of the frozen model."""
        both = nn.ModuleDict({"readout": self.readout, "head": self.head})
        trained = {name: each.detach() for name, each in both.named_parameters() if each.requires_grad}
        return trained | {f"head.{name}": each for name, each in self.head.named_buffers()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was trained, and nothing of the frozen model, as safetensors."""
        write_tensors(path, {"format": FORMAT, "classes": list(self.classes)}, self.new())

    def load(self, path: str | os.PathLike[str]) -> Adapted:
        """Take up what :meth:`save` wrote, in a model that was adapted in the same way.

        Raises
        ------
        FewerError
            If the file is none of these, or of another shape.
        """
        header, tensors = read_tensors(path, "saved adaptation")
        if header.get("format") != FORMAT or tuple(header["classes"]) != self.classes:
            raise FewerError(f"{path} is no saved adaptation to these classes; give a file that save() wrote for them")
        self.take(tensors, path)
        return self

    def take(self, tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
        """Take up what was trained elsewhere, as :meth:`new` names it, from a file.

        Raises
        ------
        FewerError
            If names or shapes are others.
        """
        mine = self.new()
        here, there = ({name: tuple(each.shape) for name, each in some.items()} for some in (mine, tensors))
        odd = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
        if odd:
            raise FewerError(
                f"{path} was adapted in another way, or is damaged: {odd[0]} is of shape {there.get(odd[0])} in it, and of "
                f"{here.get(odd[0])} here"
            )
        for name, each in mine.items():
            each.copy_(tensors[name])
