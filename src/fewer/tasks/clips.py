"""Clips without labels: digits that bounce about a frame, and the user's own files.

Clips are (channels, frames, height, width), as networks take them; files hold (frames, height, width, channels), as videos
are decoded.  Files are read anew at each call and nothing in them is run: no pickles.
"""

from __future__ import annotations

import functools
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, Shaped

from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import generator
from fewer.tasks.files import first_line
from fewer.tasks.representation import UNKNOWN, Representation
from fewer.tasks.tables import encode

DIRECTIONS, SPEEDS = 8, (1.0, 2.0)
"""Ways a digit may move at first, the first of them to the right; and how far in a frame, in pixels."""

GROWTH = 1.5
"""Pixels of a frame for one of a digit's 8."""


@functools.lru_cache(maxsize=4)
def bouncing_digits(
    clips: int = 2400,
    frames: int = 8,
    size: int = 24,
    noise: float = 0.1,
    test: int | float = 400,
    probe_rows: int | None = 800,
) -> Representation:
    """Make the task of learning from clips in which a hand-written digit moves and bounces off the borders.

    Scikit-learn's digits, half as large again, in one of 8 directions at one of 2 speeds, before a noisy background; pixels of
    all clips together are at mean 0 and deviation 1.  Where there are more clips than the 1,797 digits, some digits come twice.

    Parameters
    ----------
    clips : int, default 2400
        How many, those held out among them.
    frames : int, default 8
        Of a clip.
    size : int, default 24
        Height and width of a frame, in pixels; a digit takes 12.
    noise : float, default 0.1
        Deviation of the background, where the brightest pixel of a digit is 1.
    test : int or float, default 400
        Clips, or share of clips, held out, anew for each seed.
    probe_rows : int, optional
        Clips whose labels read-outs learn from; by default 800, with None all that are not held out.

    Returns
    -------
    Representation
        ``x`` of shape (clips, 1, frames, size, size); labels ``motion``, the 16 pairs of speed and direction at the start,
        and ``digit``.

    Examples
    --------
    >>> task = bouncing_digits(clips=100, test=20, probe_rows=None)
    >>> task.x.shape, {name: int(y.max()) + 1 for name, y in task.labels.items()}
    ((100, 1, 8, 24, 24), {'motion': 16, 'digit': 10})
    """
    if clips < 1 or frames < 1 or size < 8 * GROWTH or not noise >= 0:
        raise FewerError(
            f"bouncing digits: clips and frames are at least 1, size {int(8 * GROWTH)} and noise 0; given {clips}, {frames}, "
            f"{size} and {noise}"
        )
    from sklearn.datasets import load_digits

    x, y = map(np.asarray, load_digits(return_X_y=True))
    rng = generator(0, "bouncing digits")
    chosen = np.concatenate([rng.permutation(len(x)) for _ in range(-(-clips // len(x)))])[:clips]
    motion = rng.permutation(np.arange(clips) % (DIRECTIONS * len(SPEEDS)))
    room = size - 8 * GROWTH
    places = bouncing(room * rng.random((clips, 2)), motion, frames, room)
    drawn = drawn_at(x[chosen].reshape(-1, 8, 8) / 16, places, size)
    drawn += np.float32(noise) * rng.standard_normal(drawn.shape, dtype=np.float32)
    # few pixels are bright: as they are, they would be small beside the positions that networks add to patches
    drawn = (drawn - drawn.mean()) / drawn.std()
    labels = {"motion": motion.astype(np.int64), "digit": y[chosen].astype(np.int64)}
    return Representation("bouncing-digits", drawn[:, None], labels, test=test, probe_rows=probe_rows)


def bouncing(
    start: Float[np.ndarray, "clips 2"], motion: Int[np.ndarray, " clips"], frames: int, room: float
) -> Float[np.ndarray, "clips frames 2"]:
    """Where things are that move at an even speed and are thrown back by the borders.

    Parameters
    ----------
    start : array (clips, 2)
        Down and right, in pixels.
    motion : int array (clips,)
        Speed times 8, and direction.
    frames : int
        How many, the start among them.
    room : float
        The farthest place; the nearest is 0.

    Examples
    --------
    >>> bouncing(np.array([[0.0, 2.0]]), np.array([8]), frames=4, room=5.0)[0, :, 1].tolist()
    [2.0, 4.0, 4.0, 2.0]
    """
    angle, speed = 2 * np.pi * (motion % DIRECTIONS) / DIRECTIONS, np.array(SPEEDS)[motion // DIRECTIONS]
    step = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    free = start[:, None] + step[:, None] * np.arange(frames)[:, None]
    # as if the room were followed by its mirror image, again and again
    return room - np.abs(room - free % (2 * room)) if room else np.zeros_like(free)


def drawn_at(
    images: Float[np.ndarray, "clips side side"], places: Float[np.ndarray, "clips frames 2"], size: int
) -> Float[np.ndarray, "clips frames size size"]:
    """Draw images enlarged at places between the pixels, bilinearly.

    Parameters
    ----------
    images : array (clips, side, side)
        One for each clip.
    places : array (clips, frames, 2)
        Of the upper left corner, in pixels down and right.
    size : int
        Height and width of a frame.
    """
    side = images.shape[1]
    # how much each of an image's lines counts in each line of a frame, for both axes
    at = (np.arange(size) + 0.5 - places[..., None]) / GROWTH - 0.5
    weights = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(side))).astype(np.float32)
    down, right = weights[:, :, 0], weights[:, :, 1]
    return down @ images.astype(np.float32)[:, None] @ right.swapaxes(2, 3)


# --- the user's own ----------------------------------------------------------------------------------------------------


def clips(
    path: str,
    x: str = "x",
    labels: tuple[str, ...] | str | None = None,
    frames: int | None = None,
    test: int | float = 0.2,
    probe_rows: int | None = None,
) -> Representation:
    """Make a task of clips that were decoded to arrays.

    Parameters
    ----------
    path : str
        An NPZ file or a folder of them, with clips as (clips, frames, height, width, channels) or, in grey, without channels;
        or a folder of NPY files with a clip each.  Sub-folders are classes: their names become the labels ``folder``.
    x : str, default "x"
        Name of the array of clips in an NPZ file.
    labels : str or tuple of str, optional
        Names of arrays of labels, one a clip, numbers or texts, empty where nobody knows; by default all that are beside
        the clips.
    frames : int, optional
        Cut each clip into pieces of so many frames; what is left over at its end is dropped.
    test : int or float, default 0.2
        Clips, or share of clips, held out, anew for each seed; pieces of one clip stay together only by chance.
    probe_rows : int, optional
        Labelled clips that read-outs learn from; all that are not held out by default.

    Returns
    -------
    Representation
        ``x`` of shape (clips, channels, frames, height, width); bytes are divided by 255.

    Raises
    ------
    FewerError
        If there are no clips, a file cannot be read, shapes differ, or labels do not fit.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "shard.npz"
    >>> np.savez(file, x=np.zeros((6, 8, 12, 12, 3), dtype=np.uint8), action=np.array(["run", "sit"] * 3))
    >>> task = clips(str(file))
    >>> task.x.shape, task.labels["action"].tolist()
    ((6, 3, 8, 12, 12), [0, 1, 0, 1, 0, 1])
    """
    home = Path(path).expanduser()
    files = _files(home)
    wanted = (labels,) if isinstance(labels, str) else labels
    parts: list[np.ndarray] = []
    known: list[dict[str, np.ndarray]] = []
    for file in files:
        whole, found = _read(file, x, wanted)
        part = _pieces(whole, frames, file.name)
        if parts and part.shape[1:] != parts[0].shape[1:]:
            raise FewerError(
                f"clips: those of {file.name} are {part.shape[1:]} (frames, height, width, channels), those of "
                f"{files[0].name} {parts[0].shape[1:]}; give clips of one shape, or frames= for those of different length"
            )
        repeated = {name: np.repeat(each, len(part) // len(whole)) for name, each in found.items()}
        if file.parent != home and home.is_dir():
            repeated["folder"] = np.full(len(part), file.relative_to(home).parts[0])
        parts.append(part)
        known.append(repeated)
    rows = np.concatenate(parts)
    encoded = {
        name: _encoded([each.get(name) for each in known], [len(each) for each in parts], home.name, name)
        for name in dict.fromkeys(name for each in known for name in each)
    }
    scale = np.float32(255 if rows.dtype == np.uint8 else 1)
    pixels = np.ascontiguousarray(np.moveaxis(rows, -1, 1), dtype=np.float32) / scale
    return Representation(home.name, pixels, encoded, test=test, probe_rows=probe_rows)


def _files(home: Path) -> list[Path]:
    if home.is_file():
        return [home]
    if not home.is_dir():
        raise FewerError(f"clips: there is nothing at {home}; give an NPZ file, or a folder of NPZ or NPY files")
    found = sorted(each for each in home.rglob("*") if each.suffix.lower() in (".npz", ".npy") and each.is_file())
    if not found:
        raise FewerError(
            f"clips: {home} has no .npz or .npy files; decode videos to arrays of (frames, height, width, channels) first"
        )
    return found


def _read(
    file: Path, x: str, labels: tuple[str, ...] | None
) -> tuple[Shaped[np.ndarray, "clips frames height width channels"], dict[str, Shaped[np.ndarray, " clips"]]]:
    try:
        opened = np.load(file, allow_pickle=False)
        if isinstance(opened, np.ndarray):  # a single clip
            return _clips(opened[None], file.name), {}
        with opened:
            for key in (x, *(labels or ())):
                if key not in opened.files:
                    raise FewerError(f"{file.name}: no array {key!r}; {nearest(key, opened.files)}")
            rows = _clips(opened[x], file.name)
            names = labels if labels is not None else tuple(name for name in opened.files if name != x)
            found = {name: opened[name] for name in names}
    except FewerError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FewerError(
            f"{file.name} cannot be read as arrays ({first_line(error)}); write it with numpy.savez, without objects"
        ) from error
    for name, each in found.items():
        if each.shape != (len(rows),):
            raise FewerError(
                f"{file.name}: {name!r} has shape {each.shape} beside {len(rows)} clips; labels are one a clip (name those "
                "that are labels with labels=)"
            )
    return rows, found


def _clips(rows: np.ndarray, name: str) -> Shaped[np.ndarray, "clips frames height width channels"]:
    grey = rows[..., None] if rows.ndim == 4 else rows
    if grey.ndim != 5 or grey.dtype.kind not in "biuf" or 0 in grey.shape:
        raise FewerError(
            f"{name}: an array of {rows.dtype} of shape {rows.shape} is no clips; they are numbers, as (clips, frames, height, "
            "width, channels)"
        )
    return grey


def _pieces(
    rows: np.ndarray, frames: int | None, name: str
) -> Shaped[np.ndarray, "pieces frames height width channels"]:
    if frames is None:
        return rows
    count = rows.shape[1] // frames if frames > 0 else 0
    if not count:
        raise FewerError(
            f"{name}: its clips have {rows.shape[1]} frames and frames={frames} were asked for; give fewer"
        )
    return rows[:, : count * frames].reshape(-1, frames, *rows.shape[2:])


def _encoded(parts: list[np.ndarray | None], sizes: list[int], task: str, name: str) -> Int[np.ndarray, " rows"]:
    """Classes; unknown where a file says nothing, or an empty text, or a number below zero."""
    given = [each for each in parts if each is not None]
    texts = any(each.dtype.kind in "US" for each in given)
    blank = "" if texts else UNKNOWN
    filled = [
        np.full(size, blank) if each is None else each.astype(str) if texts else each
        for each, size in zip(parts, sizes, strict=True)
    ]
    whole = np.concatenate(filled)
    known = whole != "" if texts else ~(whole < 0)
    y = np.full(len(whole), UNKNOWN, dtype=np.int64)
    if known.any():
        y[known] = encode(whole[known], task, f"labels {name!r}")[0]
    return y
