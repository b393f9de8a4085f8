"""Modules written for use without this library: TorchScript, or torch's export."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import write_atomically

Form = Literal["torchscript", "export"]
"""Of an exported module: for ``torch.jit.load``, or for ``torch.export.load``."""


def export(module: nn.Module, inputs: Mapping[str, Tensor], path: str | os.PathLike[str], form: Form) -> None:
    """Write a module for use without this library.

    Parameters
    ----------
    module : torch module
        Of tensors that all have as many rows.
    inputs : mapping of str to tensor (rows, ...)
        An example of each argument, by its name; there may be any number of rows later.
    path : path
        The file.
    form : {"torchscript", "export"}
        For ``torch.jit.load``, or for ``torch.export.load``.

    Raises
    ------
    FewerError
        If the form is unknown, or torch cannot write it.
    """
    if form not in ("torchscript", "export"):
        raise FewerError(f"export: unknown form {form!r}; choose 'torchscript' or 'export'")
    frozen = [each for each in module.parameters() if each.requires_grad]
    example = tuple(inputs.values())
    beside = Path(path).with_suffix(".part")
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        if form == "torchscript":
            torch.jit.save(torch.jit.trace(module, example), beside)
        else:
            rows = torch.export.Dim("rows", min=1)
            shapes = {name: {0: rows} for name in inputs}
            torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), beside)
        write_atomically(path, beside.read_bytes())
    except OSError as error:
        raise FewerError(f"cannot write {path}: {error.strerror or error}; choose a folder that is yours") from error
    except Exception as error:  # whatever torch raises where it cannot follow a module
        said = str(error).strip().partition("\n")[0]
        raise FewerError(f"{type(module).__name__} cannot be written as {form} ({said}); try the other form") from error
    finally:
        for parameter in frozen:  # learning may go on
            parameter.requires_grad_(True)
        beside.unlink(missing_ok=True)
