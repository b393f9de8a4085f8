"""The user's own arrays (NPZ) and folders of images.

Files are read anew at each call and nothing in them is run: no pickles.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from fewer.core.errors import FewerError, nearest, need
from fewer.tasks.classification import Classification, Metric
from fewer.tasks.files import existing, first_line
from fewer.tasks.representation import Representation
from fewer.tasks.tables import encode

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def npz(
    path: str,
    x: str = "x",
    y: str = "y",
    *,
    test_x: str | None = None,
    test_y: str | None = None,
    weak: str | None = None,
    teacher: str | None = None,
    metric: Metric = "accuracy",
    test: int | float = 0.2,
    standardise: bool = False,
) -> Classification:
    """Make a task of arrays that ``numpy.savez`` wrote.

    Parameters
    ----------
    path : str
        The file.
    x, y : str
        Names of the arrays of rows and of their classes.  Rows are numbers of any shape (images
        as channels, height, width; bytes are divided by 255) or texts.
    test_x, test_y : str, optional
        Names of a fixed test set.
    weak, teacher : str, optional
        Names of a weak labeller's probabilities and of a teacher's logits, (rows, classes).
    metric : {"accuracy", "balanced accuracy", "macro-f1"}
        The score.
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring where there is no fixed test set.
    standardise : bool, default False
        Centre and scale each feature by the pool.

    Returns
    -------
    Classification

    Raises
    ------
    FewerError
        If the file cannot be read, an array is missing, or their shapes do not agree.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "toy.npz"
    >>> np.savez(file, x=np.zeros((10, 3)), y=np.arange(10) % 2)
    >>> npz(str(file)).x.shape
    (10, 3)
    """
    file = existing(path)
    if (test_x is None) != (test_y is None):
        raise FewerError(f"{file.name}: a fixed test set needs both test_x= and test_y=; one was given")
    wanted = {key: None for key in (x, y, test_x, test_y, weak, teacher) if key is not None}
    found = _read_npz(file, list(wanted))
    given = _flat(found[y], file.name, y)
    labels, classes = encode(given, file.name, f"array {y!r}")
    rows = _rows(found[x], file.name, x)
    held_out = None
    if test_x is not None and test_y is not None:
        held = _rows(found[test_x], file.name, test_x)
        if held.shape[1:] != rows.shape[1:]:
            raise FewerError(
                f"{file.name}: rows of {test_x!r} have shape {held.shape[1:]}, those of {x!r} {rows.shape[1:]}"
            )
        held_out = held, _known(_flat(found[test_y], file.name, test_y), given, file.name, test_y)
        if len(held) != len(held_out[1]):
            raise FewerError(f"{file.name}: {len(held)} rows in {test_x!r} but {len(held_out[1])} labels in {test_y!r}")
    helpers: dict[str, Any] = {}
    for use, key in (("weak", weak), ("teacher", teacher)):
        if key is not None:
            if found[key].shape != (len(labels), len(classes)) or found[key].dtype.kind not in "biuf":
                raise FewerError(
                    f"{file.name}: {key!r} has shape {found[key].shape}; {use}= needs numbers, one line a row "
                    f"and one column a class: {(len(labels), len(classes))}"
                )
            helpers[use] = found[key].astype(np.float32)
    return Classification(
        file.name,
        rows,
        labels,
        classes,
        test=test,
        held_out=held_out,
        metric=metric,
        standardise=standardise,
        **helpers,
    )


def images(
    folder: str, *, size: int = 32, gray: bool = False, metric: Metric = "accuracy", test: int | float = 0.2
) -> Classification | Representation:
    """Make a task of a folder of images: one sub-folder for each class, or images without classes.

    Parameters
    ----------
    folder : str
        Its sub-folders' names are the classes; images are looked for at any depth in them.  Where there are none, its
        images have no class: features can be learned from them, and nothing that needs labels.
    size : int, default 32
        Height and width that every image is scaled to, in pixels.
    gray : bool, default False
        One channel of grey in place of red, green and blue.
    metric : {"accuracy", "balanced accuracy", "macro-f1"}
        The score.
    test : int or float, default 0.2
        Rows, or share of rows, held out for scoring, stratified, anew for each seed.

    Returns
    -------
    Classification or Representation
        ``x`` of shape (images, channels, size, size), in [0, 1].

    Raises
    ------
    MissingPackage
        If Pillow is not installed.
    FewerError
        If there are no images, or one cannot be read.
    """
    home = Path(folder).expanduser()
    if not home.is_dir():
        raise FewerError(f"images: no folder at {home}; give one that has a sub-folder of images for each class")
    found = [(file, each.name) for each in sub_folders(home) for file in image_files(each)]
    labelled = bool(found)
    if not labelled:
        found = [
            (file, "") for file in sorted(home.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        ]
    if not found:
        raise FewerError(
            f"images: {home} has no images and no sub-folders with images; the sub-folder's name is the class"
        )
    x = read_images([file for file, _ in found], size, gray, "images")
    if not labelled:
        return Representation(home.name, x, {}, test=test)
    y, classes = encode(np.array([label for _, label in found]), home.name, "its sub-folders")
    return Classification(home.name, x, y, classes, test=test, metric=metric)


def sub_folders(home: Path) -> list[Path]:
    """The folders in a folder, by name, but for hidden ones."""
    return [each for each in sorted(home.iterdir()) if each.is_dir() and not each.name.startswith(".")]


def image_files(home: Path) -> list[Path]:
    """The images in a folder at any depth, by name."""
    return [file for file in sorted(home.rglob("*")) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]


def read_images(
    files: Sequence[Path], size: int, gray: bool, task: str
) -> Float[np.ndarray, "images channels size size"]:
    """Read image files, scaled to squares, with values in [0, 1].

    Parameters
    ----------
    files : sequence of Path
        In the order of the rows.
    size : int
        Pixels a side.
    gray : bool
        One channel of grey in place of red, green and blue.
    task : str
        For messages.

    Raises
    ------
    MissingPackage
        If Pillow is not installed.
    FewerError
        If one cannot be read, or ``size`` is no number of pixels.
    """
    pillow = need("PIL.Image", extra="vision", what=f"task {task}", package="pillow")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise FewerError(f"{task}: size is {size!r}; give pixels a side, such as 32")
    x = np.empty((len(files), 1 if gray else 3, size, size), dtype=np.float32)
    for row, file in enumerate(files):
        x[row] = pixels(pillow, file, size, gray)
    return x


def pixels(pillow: Any, file: Path, size: int, gray: bool) -> Float[np.ndarray, "channels size size"]:
    """Read an image file, scaled to a square, with values in [0, 1].

    Raises
    ------
    FewerError
        If it cannot be read, or has more than 8 bits a channel.
    """
    broken = (OSError, SyntaxError, ValueError, pillow.DecompressionBombError, pillow.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(file) as image:
                mode = image.mode
                scaled = image.convert("L" if gray else "RGB").resize((size, size), pillow.Resampling.BILINEAR)
    except broken as error:
        raise FewerError(f"images: {file} cannot be read ({first_line(error)}); mend or remove it") from error
    if mode[0] in "IF":  # Pillow clips these at 255 and does not scale them
        raise FewerError(f"images: {file} has pixels of mode {mode}; save it with 8 bits a channel")
    return np.asarray(scaled, dtype=np.float32).reshape(size, size, -1).transpose(2, 0, 1) / 255


def _read_npz(file: Path, wanted: list[str]) -> dict[str, np.ndarray]:
    try:
        opened = np.load(file, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise FewerError(f"{file.name} holds a single array; write rows and labels together with numpy.savez")
        with opened:
            for key in wanted:
                if key not in opened.files:
                    raise FewerError(f"{file.name}: no array {key!r}; {nearest(key, opened.files)}")
            return {key: opened[key] for key in wanted}
    except FewerError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FewerError(
            f"{file.name} cannot be read as arrays ({first_line(error)}); write it with numpy.savez, without objects"
        ) from error


def _flat(labels: np.ndarray, name: str, key: str) -> Shaped[np.ndarray, " rows"]:
    if labels.ndim != 1:
        raise FewerError(f"{name}: {key!r} has shape {labels.shape}; labels are one number or text a row")
    return labels.astype(str) if labels.dtype.kind == "S" else labels


def _rows(rows: np.ndarray, name: str, key: str) -> Shaped[np.ndarray, "rows ..."]:
    if rows.dtype.kind == "U" and rows.ndim == 1:
        return rows.astype(object)
    if rows.dtype.kind not in "biuf" or rows.ndim < 2:
        raise FewerError(
            f"{name}: {key!r} is an array of {rows.dtype} of shape {rows.shape}; rows are numbers, as (rows, …), or texts"
        )
    return rows.astype(np.float32) / np.float32(255 if rows.dtype == np.uint8 else 1)


def _known(labels: np.ndarray, seen: np.ndarray, name: str, key: str) -> Int[np.ndarray, " rows"]:
    """Classes of test labels: their places among the labels of the rows to learn from."""
    known = np.unique(seen)
    at = np.searchsorted(known, labels).clip(max=len(known) - 1)
    new = known[at] != labels
    if new.any():
        raise FewerError(f"{name}: {key!r} holds the label {labels[new][0]!s}, which no row to learn from has")
    return at
