"""Saving and resuming, exactly and atomically.

A checkpoint is one safetensors file: the arrays are its tensors, and everything else is JSON in its
header.  Nothing is pickled, so a checkpoint from anywhere can be opened safely.

What only grows, such as a memory of transitions, is a :class:`fewer.core.ring.Ring` in the tree: its rows lie in a folder beside
the file, to which each save adds those that are new.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from fewer.core.errors import FewerError
from fewer.core.files import segments_of, write_atomically
from fewer.core.ring import Ring, SavedRing, Segment

FORMAT = "fewer-checkpoint-1"


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Save a tree of arrays, tensors, numbers, texts, lists and dicts.

    Parameters
    ----------
    path : path
        The file to write.
    tree : dict
        Nested dicts (with text keys), lists and tuples of tensors, NumPy arrays, NumPy generators,
        rings, numbers (of any size), booleans, texts and ``None``.

    Raises
    ------
    FewerError
        If something in the tree is of another type (its place is named), or the file cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> save(file, {"weights": torch.ones(2), "step": 3, "rng": np.random.default_rng(0)})
    >>> load(file)["step"]
    3
    """
    described, tensors, named = taken_apart(path, tree)
    try:
        header = json.dumps({"format": FORMAT, "tree": described})
        data = to_bytes(tensors, metadata={"fewer": header})
    except (TypeError, ValueError) as error:
        raise FewerError(f"cannot save {path}: {error}") from error
    write_atomically(path, data)
    forget_segments(path, named)


def taken_apart(path: str | os.PathLike[str], tree: Any) -> tuple[Any, dict[str, torch.Tensor], set[str]]:
    """Take a tree apart for a file that holds other things besides; rings are written beside it at once.

    Parameters
    ----------
    path : path
        The file that will be written.
    tree : dict
        As for :func:`save`.

    Returns
    -------
    described : what JSON can hold
        The tree, with names in place of arrays.
    tensors : dict
        Those, by their names ``"0"``, ``"1"``, …
    segments : set of str
        What the file will need in its folder; see :func:`forget_segments`.
    """
    tensors: dict[str, torch.Tensor] = {}
    folder, named = segments_of(path), set[str]()

    def written(ring: Ring | SavedRing) -> list[Segment]:
        segments = ring.save(folder)
        named.update(each.file for each in segments)
        return segments

    return _describe(tree, "", tensors, written), tensors, named


def put_together(path: str | os.PathLike[str], described: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Give the tree that :func:`taken_apart` took apart.

    Raises
    ------
    FewerError
        If the description is of another form, or an array is missing.
    """
    try:
        return _rebuild(described, tensors, segments_of(path))
    except (KeyError, TypeError, ValueError) as error:
        raise FewerError(f"{path} is damaged ({error}); remove it and start again") from error


def forget_segments(path: str | os.PathLike[str], named: Collection[str]) -> None:
    """Remove what a file needs no more from its folder; after it was written, since until then the older one counted."""
    folder = segments_of(path)
    if folder.is_dir():
        for file in folder.iterdir():
            if file.name not in named:
                with contextlib.suppress(OSError):  # it costs room and nothing else
                    file.unlink()
        with contextlib.suppress(OSError):  # others lie in it
            folder.rmdir()


def load(path: str | os.PathLike[str]) -> Any:
    """Load what :func:`save` saved; arrays and tensors come back with their type, shape and bits.

    A ring comes back as a :class:`fewer.core.ring.SavedRing`, for another ring to take up.

    Raises
    ------
    FewerError
        If the file is missing, cut short, or not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        raise FewerError(f"{path} is a folder; name a file for the checkpoint")
    if not path.is_file():
        raise FewerError(f"no checkpoint at {path}; start the run again without it")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("fewer")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        described = json.loads(header or "null")
        if not isinstance(described, dict) or described.get("format") != FORMAT:
            raise FewerError(f"{path} is not a checkpoint of this version ({FORMAT}); remove it and start again")
        return put_together(path, described["tree"], tensors)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise FewerError(f"{path} is damaged ({error}); remove it and start again") from error


def _describe(
    value: Any, place: str, tensors: dict[str, torch.Tensor], written: Callable[[Ring | SavedRing], list[Segment]]
) -> Any:
    """Turn a value into JSON, putting the arrays on the way into ``tensors``, and rings where ``written`` puts them."""
    # bool before int: True is an int in Python
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return {"!": "float", "hex": float(value).hex()}  # exact, and NaN and infinities survive JSON
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"!": "tensor", "name": name}
    if isinstance(value, np.ndarray):
        name = str(len(tensors))
        try:
            tensors[name] = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape).copy())
        except TypeError as error:
            raise FewerError(
                f"checkpoint: {place or 'the value'} is an array of {value.dtype}, not of numbers"
            ) from error
        return {"!": "array", "name": name}
    if isinstance(value, Ring | SavedRing):
        segments = [[each.file, each.begin, each.end] for each in written(value)]
        return {"!": "ring", "added": value.added, "segments": segments}
    if isinstance(value, np.random.Generator):
        return {"!": "generator", "state": _describe(value.bit_generator.state, place, tensors, written)}
    if isinstance(value, torch.Generator):
        return {"!": "torch-generator", "state": _describe(value.get_state(), place, tensors, written)}
    if isinstance(value, list | tuple):
        items = [_describe(item, f"{place}[{i}]", tensors, written) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"!": "tuple", "items": items}
    if isinstance(value, dict):
        # keys may be numbers (optimisers count their parameters), so a dict is a list of pairs
        pairs = []
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise FewerError(f"checkpoint: {place or 'the value'} has the key {key!r}; keys are texts or integers")
            pairs.append([key, _describe(item, f"{place}.{key}" if place else str(key), tensors, written)])
        return {"!": "dict", "pairs": pairs}
    raise FewerError(f"checkpoint: {place or 'the value'} is a {type(value).__name__}, which cannot be saved exactly")


def _rebuild(value: Any, tensors: Mapping[str, torch.Tensor], folder: Path) -> Any:
    if isinstance(value, list):
        return [_rebuild(item, tensors, folder) for item in value]
    if not isinstance(value, dict):
        return value
    match value["!"]:
        case "float":
            return float.fromhex(value["hex"])
        case "tensor":
            return tensors[value["name"]]
        case "array":
            return tensors[value["name"]].numpy()
        case "ring":
            # a name is never a way to somewhere else
            segments = tuple(Segment(Path(file).name, begin, end) for file, begin, end in value["segments"])
            return SavedRing(folder, value["added"], segments)
        case "generator":
            state = _rebuild(value["state"], tensors, folder)
            kind = getattr(np.random, str(state["bit_generator"]), None)
            if not (isinstance(kind, type) and issubclass(kind, np.random.BitGenerator)):
                raise KeyError(f"unknown generator {state['bit_generator']}")
            bits = kind()
            bits.state = state
            return np.random.Generator(bits)
        case "torch-generator":
            made = torch.Generator()
            made.set_state(_rebuild(value["state"], tensors, folder))
            return made
        case "tuple":
            return tuple(_rebuild(item, tensors, folder) for item in value["items"])
        case "dict":
            return {key: _rebuild(item, tensors, folder) for key, item in value["pairs"]}
        case other:
            raise KeyError(f"unknown kind {other!r}")
