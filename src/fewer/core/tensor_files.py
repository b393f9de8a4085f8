"""Small files of tensors with a header: safetensors whose metadata say in JSON what they are.

Knows nothing of what is in them; each owner names its format in the header and checks it.  Whole runs, with arrays, generators
and rings in trees, are saved by :mod:`fewer.core.checkpoint`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from fewer.core.errors import FewerError
from fewer.core.files import write_atomically


def write_tensors(path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and a header, whole or not at all.

    Parameters
    ----------
    path : path
        A safetensors file.
    header : mapping
        What JSON can hold; by custom with a ``format``.
    tensors : mapping of str to Tensor
        Wherever they are.

    Raises
    ------
    FewerError
        If the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "two.safetensors"
    >>> write_tensors(file, {"format": "two-1"}, {"weight": torch.ones(2)})
    >>> read_tensors(file, "pair")
    ({'format': 'two-1'}, {'weight': tensor([1., 1.])})
    """
    plain = {name: each.detach().contiguous().cpu() for name, each in tensors.items()}
    write_atomically(path, to_bytes(plain, metadata={"fewer": json.dumps(dict(header))}))


def read_tensors(
    path: str | os.PathLike[str], what: str, advice: str = "give a file that save() wrote"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what :func:`write_tensors` wrote, or any other safetensors file.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What it should hold, for the error: "saved prompt".
    advice : str
        What would do in its place.

    Returns
    -------
    header : dict
        Empty where the file has none of ours.
    tensors : dict of str to Tensor

    Raises
    ------
    FewerError
        If it is missing, or no safetensors file.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("fewer", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise FewerError(f"{path} is no {what} ({error}); {advice}") from error
    return header if isinstance(header, dict) else {}, tensors
