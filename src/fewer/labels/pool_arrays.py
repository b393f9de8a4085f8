"""A user's NPZ or NPY file, its arrays mapped into memory.

Nothing is unpickled, and no array need fit into memory.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from fewer.core.errors import FewerError
from fewer.labels.on_disk import BYTES, OnDisk, parts, room
from fewer.labels.pool_columns import label_codes


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a file; what would have to be unpickled is left out."""
    if path.suffix.lower() == ".npy":
        return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(path) as archive, room():
        for name in archive.namelist():
            with archive.open(name) as packed, tempfile.TemporaryFile(prefix="fewer-") as file:
                shutil.copyfileobj(packed, file, BYTES)
                file.seek(0)
                version: Any = np.lib.format.read_magic(file)
                read: Any = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                    version, np.lib.format.read_array_header_2_0
                )
                shape, fortran, kind = read(file)
                if not kind.hasobject and math.prod(shape):  # nothing can be mapped of an empty array
                    order = "F" if fortran else "C"
                    arrays[name.removesuffix(".npy")] = np.memmap(file, kind, "r", file.tell(), shape, order)
    return arrays


def as_rows(array: np.ndarray, name: str, path: Path) -> Float[np.ndarray, "rows ..."]:
    """An array of rows as float32; mapped as it is where it is that already."""
    if array.ndim < 2 or array.dtype.kind not in "biuf" or not array.size:
        raise FewerError(
            f"{path}: {name!r} is an array of {array.dtype} of shape {array.shape}; "
            "a pool is an array of numbers, rows first, of two dimensions or more"
        )
    ready = array.dtype == np.float32 and array.flags.c_contiguous
    copy = OnDisk()
    for first, part in parts(array):
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused like infinity
            part = part.astype(np.float32) / np.float32(255 if array.dtype == np.uint8 else 1)
        bad = ~np.isfinite(part.reshape(len(part), -1)).all(axis=1)
        if bad.any():
            raise FewerError(
                f"{path}: row {first + bad.argmax()} (the first is 0) of {name!r} holds NaN, infinity or a number "
                "too large for float32; mend it"
            )
        if not ready:
            copy.write(part)
    return array if ready else copy.mapped()


def array_codes(labels: np.ndarray, known: dict[str, int]) -> Int[np.ndarray, " rows"]:
    """Number labels by their names as :func:`label_codes` does; -1 among whole numbers is blank."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise FewerError(f"the array of labels has the shape {values.shape}; labels are one a row")
    if values.dtype.kind == "S":
        values = values.astype(str)
    return label_codes(pa.array(values, mask=values == -1 if values.dtype.kind == "i" else None), known)
