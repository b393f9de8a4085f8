"""Scalars out of TensorBoard's event files, without TensorBoard.

An event file is a row of records: length (8 bytes), its checksum (4), data, its checksum (4).  The data
is a protocol buffer of which three layers matter here: Event (step, summary), Summary (values), Value (tag,
and a number, either as such or in a tensor of one number).  Whatever else a file holds is skipped, and a
record that is cut short ends the file: it is being written.
"""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from fewer.core.errors import FewerError

_FLOAT, _DOUBLE = 1, 2  # of a tensor's numbers


def is_event_file(path: Path) -> bool:
    """Whether TensorBoard would read this file."""
    return path.is_file() and "tfevents" in path.name


def scalars(path: str | os.PathLike[str]) -> dict[str, dict[int, float]]:
    """Read all scalars of a file, or of all event files directly in a folder.

    Parameters
    ----------
    path : path
        An event file, or the folder of a run.  Where a step was written twice, as by a run that was started
        again, the later one counts.

    Returns
    -------
    dict
        Tag to step to value; the steps increase.

    Raises
    ------
    FewerError
        If there is no event file, or one is damaged.
    """
    path = Path(path)
    files = sorted(each for each in path.iterdir() if is_event_file(each)) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise FewerError(f"there is no event file at {path}; give a file with tfevents in its name, or its folder")
    found: dict[str, dict[int, float]] = {}
    for file in files:
        try:
            for event in _records(file.read_bytes()):
                step, values = _event(event)
                for tag, value in values:
                    found.setdefault(tag, {})[step] = value
        except (ValueError, struct.error, IndexError) as error:
            raise FewerError(f"{file} is damaged or no event file ({error}); remove it or name another one") from error
        except OSError as error:
            raise FewerError(f"cannot read {file}: {error.strerror or error}; name another one") from error
    return {tag: dict(sorted(steps.items())) for tag, steps in found.items()}


def _records(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 12 <= len(data):
        length, checksum = struct.unpack_from("<QI", data, at)
        if _masked(data[at : at + 8]) != checksum:
            raise ValueError(f"wrong checksum at byte {at}")
        if at + 16 + length > len(data):
            return
        yield data[at + 12 : at + 12 + length]
        at += 16 + length


def _event(data: bytes) -> tuple[int, list[tuple[str, float]]]:
    step, values = 0, []
    for field, value in _fields(data):
        if field == 2 and isinstance(value, int):
            step = value
        elif field == 5 and isinstance(value, bytes):
            summaries = [_value(inner) for number, inner in _fields(value) if number == 1 and isinstance(inner, bytes)]
            values += [(tag, number) for tag, number in summaries if number is not None]
    return step, values


def _value(data: bytes) -> tuple[str, float | None]:
    tag, number = "", None
    for field, value in _fields(data):
        if not isinstance(value, bytes):
            continue
        if field == 1:
            tag = value.decode()
        elif field == 2 and len(value) == 4:
            (number,) = struct.unpack("<f", value)
        elif field == 8:
            number = _tensor(value)
    return tag, number


def _tensor(data: bytes) -> float | None:
    """The number of a tensor that holds one; None for another."""
    kind, raw, sizes = 0, b"", 1
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            kind = value
        elif field == 2 and isinstance(value, bytes):
            for _, size in _fields(value):
                if isinstance(size, bytes):
                    sizes *= next((each for name, each in _fields(size) if name == 1 and isinstance(each, int)), 0)
        elif field in (4, 5, 6) and isinstance(value, bytes):
            raw = value
    if sizes == 1 and kind == _FLOAT and len(raw) == 4:
        return struct.unpack("<f", raw)[0]
    if sizes == 1 and kind == _DOUBLE and len(raw) == 8:
        return struct.unpack("<d", raw)[0]
    return None


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: numbers of variable length as such, all others as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown kind of field {kind}")
        if at + size > len(data):
            raise ValueError("a field is longer than its record")
        yield field, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise ValueError("a number is too long")


@functools.cache
def _table() -> list[int]:
    """Of CRC-32C, byte by byte."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


def _masked(data: bytes) -> int:
    """The checksum that TensorFlow writes: CRC-32C, turned by fifteen bits, plus a constant."""
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
