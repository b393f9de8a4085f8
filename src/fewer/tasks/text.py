"""Text as one stream of tokens, a part of it held out: the user's own files, or the standard library's sources.

By default a token is a byte.  The score of whatever predicts the stream is in bits per byte, so that models with
different tokens can be compared.
"""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.loop import Task
from fewer.core.seeding import generator
from fewer.tasks.files import first_line

PACKAGES = (
    "asyncio",
    "collections",
    "concurrent",
    "curses",
    "dbm",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "re",
    "sqlite3",
    "tomllib",
    "unittest",
    "urllib",
    "wsgiref",
    "xml",
    "xmlrpc",
    "zoneinfo",
)
"""Packages of the standard library whose sources are read, beside its single modules."""

PATCHED = {"site", "sysconfig", "webbrowser"}
"""Modules that distributions change."""

PINNED = {"3.11.7": "54dfe96504eb6d60"}
"""Fingerprint of :func:`python_sources` by version of Python, of those that published numbers were measured on."""


@dataclass(frozen=True, eq=False)
class Text(Task):
    """A stream of tokens to learn from, and another to be scored on.

    Parameters
    ----------
    name : str
        As the user wrote it.
    tokens : int array (n,)
        What may be learned from, in order.
    held_out : int array (m,)
        What is only ever scored.
    vocabulary : int
        Tokens are 0 to ``vocabulary - 1``.
    bytes_per_token : float, default 1
        Of the held-out part.

    Examples
    --------
    >>> task = Text.of("toy", [b"to be or not to be " * 10], held_out=0.1)
    >>> len(task.tokens), len(task.held_out), bytes(task.held_out[:9].tolist())
    (171, 19, b'to be or ')
    """

    name: str
    tokens: Int[np.ndarray, " n"]
    held_out: Int[np.ndarray, " m"]
    vocabulary: int
    bytes_per_token: float = 1.0
    metric: str = "bits per byte, negated"

    def __post_init__(self) -> None:
        for part, tokens in (("tokens to learn from", self.tokens), ("held-out tokens", self.held_out)):
            if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
                raise FewerError(
                    f"{self.name}: {part} are {tokens.dtype} of shape {tokens.shape}; give a row of integers"
                )
            if len(tokens) < 2:
                raise FewerError(f"{self.name}: {len(tokens)} {part} leave nothing to predict; give a longer text")
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= self.vocabulary:
                raise FewerError(
                    f"{self.name}: {part} lie in {low} to {high}, and a vocabulary of {self.vocabulary} ends at "
                    f"{self.vocabulary - 1}"
                )
        if not self.bytes_per_token > 0:
            raise FewerError(f"{self.name}: bytes_per_token is {self.bytes_per_token}; it must be above 0")

    @classmethod
    def of(
        cls,
        name: str,
        documents: Sequence[bytes],
        *,
        held_out: float = 0.1,
        tokenizer: Any = None,
        vocabulary: int = 256,
    ) -> Text:
        """Join documents in a fixed random order and hold out the end.

        Parameters
        ----------
        name : str
            Of the task.
        documents : sequence of bytes
            Texts; a single one is cut where its last part begins.
        held_out : float, default 0.1
            Share of the bytes that is held out, in (0, 1).
        tokenizer : tokenizers.Tokenizer, optional
            Makes tokens of texts in UTF-8; bytes by default.
        vocabulary : int, default 256
            Of bytes; 128 where all are ASCII.

        Raises
        ------
        FewerError
            If there is no text, or ``held_out`` is out of range.
        """
        if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 < held_out < 1:
            raise FewerError(f"{name}: held_out={held_out!r}; give the share of the text to hold out, such as 0.1")
        order = generator(0, "documents").permutation(len(documents))
        stream = b"".join(documents[row] for row in order)
        if not stream.strip():
            raise FewerError(f"{name}: there is no text; give a file or a folder with some")
        cut = len(stream) - max(round(len(stream) * held_out), 1)
        while tokenizer is not None and cut > 0 and stream[cut] & 0xC0 == 0x80:
            cut -= 1  # a character of several bytes stays whole
        if tokenizer is None:
            tokens = np.frombuffer(stream, dtype=np.uint8)
            return cls(name, tokens[:cut], tokens[cut:], vocabulary)
        parts = [tokenizer.encode(part.decode(), add_special_tokens=False).ids for part in (stream[:cut], stream[cut:])]
        tokens, held = (np.array(part, dtype=np.int32) for part in parts)
        return cls(name, tokens, held, tokenizer.get_vocab_size(), (len(stream) - cut) / max(len(held), 1))

    def fingerprint(self) -> str:
        """Hash both parts."""
        return fingerprint(self.name, self.tokens, self.held_out, f"{self.vocabulary} {self.bytes_per_token}")

    def require(self, length: int) -> None:
        """Refuse a context that is longer than either part.

        Raises
        ------
        FewerError
            If a part has no ``length + 1`` tokens.
        """
        for part, tokens in (("tokens to learn from", self.tokens), ("held-out tokens", self.held_out)):
            if len(tokens) <= length:
                raise FewerError(
                    f"{self.name}: {len(tokens)} {part} are too few for a context of {length}, which takes {length + 1}; "
                    "give a longer text or lower context"
                )

    def batch(self, rows: int, length: int, draws: torch.Generator) -> Int[Tensor, "rows length+1"]:
        """Draw windows of ``length`` tokens, and the token after each, from anywhere in what may be learned from."""
        starts = torch.randint(len(self.tokens) - length, (rows, 1), generator=draws).numpy()
        return torch.from_numpy(self.tokens[starts + np.arange(length + 1)].astype(np.int64))

    def scored(self, length: int, tokens: int) -> Int[Tensor, "windows length+1"]:
        """Windows of the held-out part that do not overlap in what is predicted, evenly spread, the same at each call.

        Parameters
        ----------
        length : int
            Tokens predicted in a window.
        tokens : int
            Tokens predicted at most, in all; one window at least is given.
        """
        available = (len(self.held_out) - 1) // length
        count = min(available, max(tokens // length, 1))
        starts = np.linspace(0, available - 1, count).round().astype(np.int64)[:, None] * length
        return torch.from_numpy(self.held_out[starts + np.arange(length + 1)].astype(np.int64))


def text(path: str, *, pattern: str = "*", held_out: float = 0.1, tokenizer: str | None = None) -> Text:
    r"""Make a task of your own text.

    Parameters
    ----------
    path : str
        A file of text in UTF-8, or a folder of such files, at any depth; hidden ones are passed over.
    pattern : str, default "*"
        Which files of a folder, ``"*.txt"``.
    held_out : float, default 0.1
        Share of the text that is only scored: the end of a file; of a folder, the files that come last in a fixed
        random order.
    tokenizer : str, optional
        A ``tokenizer.json`` of the ``tokenizers`` package, or the folder that has it; by default a token is a byte.

    Returns
    -------
    Text

    Raises
    ------
    FewerError
        If there is no such file, or it is empty or no text.
    MissingPackage
        If a tokenizer is given and ``tokenizers`` is not installed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "notes.txt"
    >>> _ = file.write_text("All happy families are alike.\n" * 20)
    >>> task = text(str(file))
    >>> len(task.tokens), len(task.held_out), task.vocabulary
    (540, 60, 256)
    """
    home = Path(path).expanduser()
    if home.is_dir():
        files = [
            file
            for file in sorted(home.rglob(pattern))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(home).parts)
        ]
        if not files:
            raise FewerError(
                f"text: {home} has no file that matches {pattern!r}; give a folder that has, or another pattern"
            )
    elif home.is_file():
        files = [home]
    else:
        raise FewerError(
            f"text: no file or folder at {home}; give its path from the folder you are in, or the whole path"
        )
    return Text.of(
        home.name,
        [_read(file) for file in files],
        held_out=held_out,
        tokenizer=_tokenizer(tokenizer) if tokenizer else None,
    )


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        content.decode()
    except OSError as error:
        raise FewerError(f"text: {file} cannot be read ({error.strerror or error}); mend or remove it") from error
    except UnicodeDecodeError as error:
        raise FewerError(
            f"text: {file} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}); save it in UTF-8, "
            "or choose files by pattern='*.txt'"
        ) from error
    if b"\0" in content:
        raise FewerError(f"text: {file} holds zero bytes, so it is no text; choose files by pattern='*.txt'")
    return content


def _tokenizer(path: str) -> Any:
    tokenizers = need("tokenizers", extra="language", what="task text with a tokenizer")
    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise FewerError(f"text: no tokenizer at {file}; give a tokenizer.json, or the folder that has it")
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare exceptions
        raise FewerError(f"text: {file} is no tokenizer ({first_line(error)}); give a tokenizer.json") from error


@functools.lru_cache(maxsize=2)
def python_sources(held_out: float = 0.1) -> Text:
    """Make a task of the sources of Python's standard library: real text with long-range structure, on every machine.

    About 6 MB of ASCII bytes from the library's single modules and the packages in :data:`PACKAGES`, without tests,
    files with other than ASCII bytes, and what distributions change.  The texts follow the version of Python;
    :data:`PINNED` has the fingerprint of those that published numbers were measured on.

    Parameters
    ----------
    held_out : float, default 0.1
        Share of the bytes that is only scored: the files that come last in a fixed random order.

    Raises
    ------
    FewerError
        If this Python comes without its sources.

    Examples
    --------
    >>> task = python_sources()
    >>> task.vocabulary, round(len(task.held_out) / (len(task.tokens) + len(task.held_out)), 3)
    (128, 0.1)
    """
    home = Path(sysconfig.get_path("stdlib"))
    modules = sys.stdlib_module_names - PATCHED
    files = [file for file in home.glob("*.py") if file.stem in modules]
    for package in PACKAGES:
        found = (home / package).rglob("*.py")
        files += [file for file in found if not {"test", "tests"} & set(file.relative_to(home).parts)]
    # in the order of their names within the library: the same wherever it is installed
    files.sort(key=lambda file: file.relative_to(home).as_posix())
    documents = [content for file in files if (content := file.read_bytes().replace(b"\r\n", b"\n")).isascii()]
    if not documents:
        raise FewerError(
            f"python-sources: {home} has no sources; use a Python that comes with them, or text('your/folder')"
        )
    return Text.of("python-sources", documents, held_out=held_out, vocabulary=128)
