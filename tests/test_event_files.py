from __future__ import annotations

import struct

import pytest

from fewer.core.errors import FewerError
from fewer.event_files import _masked, is_event_file, scalars


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, data: bytes | int) -> bytes:
    if isinstance(data, int):
        return varint(number << 3) + varint(data)
    return varint(number << 3 | 2) + varint(len(data)) + data


def simple(tag: str, value: float) -> bytes:
    return field(1, field(1, tag.encode()) + varint(2 << 3 | 5) + struct.pack("<f", value))


def tensor(tag: str, value: float, kind: int = 1, sizes: tuple[int, ...] = (), packed: bool = False) -> bytes:
    raw = struct.pack("<f" if kind == 1 else "<d", value)
    shape = b"".join(field(2, field(1, size)) for size in sizes)
    held = field(1, kind) + field(2, shape) + field((5 if kind == 1 else 6) if packed else 4, raw)
    return field(1, field(1, tag.encode()) + field(8, held))


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def event(step: int, *values: bytes) -> bytes:
    time = varint(1 << 3 | 1) + struct.pack("<d", 1.7e9)
    return record(time + field(2, step) + field(5, b"".join(values)))


FIRST = record(varint(1 << 3 | 1) + struct.pack("<d", 0.0) + field(3, b"brain.Event:2"))


def write(path, *events: bytes):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FIRST + b"".join(events))
    return path


def test_the_checksum_is_the_known_one():
    """CRC-32C of "123456789" is E3069283; the mask turns it by fifteen bits and adds a constant."""
    crc = 0xE3069283
    assert _masked(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_scalars_of_all_kinds(tmp_path):
    file = write(
        tmp_path / "events.out.tfevents.1",
        event(300, simple("loss", 0.5), tensor("accuracy", 0.25)),
        event(70_000, tensor("accuracy", 0.75, kind=2), tensor("loss", 0.125, packed=True, sizes=(1,))),
    )
    assert is_event_file(file)
    found = scalars(file)
    assert found == {"loss": {300: 0.5, 70_000: 0.125}, "accuracy": {300: 0.25, 70_000: 0.75}}


def test_what_is_no_scalar_is_skipped(tmp_path):
    image = field(1, field(1, b"image") + field(4, b"png"))
    text = field(1, field(1, b"text") + field(8, field(1, 7) + field(8, b"hello")))
    several = tensor("histogram", 1.0, sizes=(3, 2))
    file = write(tmp_path / "x.tfevents", event(1, image, text, several, simple("loss", 1.0)))
    assert scalars(file) == {"loss": {1: 1.0}}


def test_a_folder_is_one_run_and_the_later_word_counts(tmp_path):
    write(tmp_path / "a.tfevents.1", event(1, simple("loss", 3.0)), event(2, simple("loss", 2.0)))
    write(tmp_path / "a.tfevents.2", event(2, simple("loss", 1.5)), event(0, simple("loss", 4.0)))
    assert scalars(tmp_path) == {"loss": {0: 4.0, 1: 3.0, 2: 1.5}}
    assert list(scalars(tmp_path)["loss"]) == [0, 1, 2]


def test_a_file_that_is_being_written_ends_early(tmp_path):
    whole = event(1, simple("loss", 3.0)) + event(2, simple("loss", 2.0))
    for cut in (1, 5, 14, 30):
        file = write(tmp_path / "a.tfevents", whole[:-cut])
        assert scalars(file) == {"loss": {1: 3.0}}


def test_damage_is_told(tmp_path):
    file = tmp_path / "a.tfevents"
    file.write_bytes(b"this is not an event file at all")
    with pytest.raises(FewerError, match="is damaged or no event file"):
        scalars(file)
    for nonsense in (varint(1 << 3 | 3), b"\x12\xff\x01a", b"\x80" * 11 + b"\x01", b"\x80"):
        file.write_bytes(record(nonsense))
        with pytest.raises(FewerError, match="is damaged or no event file"):
            scalars(file)
    with pytest.raises(FewerError, match="there is no event file"):
        scalars(tmp_path / "none.tfevents")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FewerError, match="there is no event file"):
        scalars(tmp_path / "empty")


def test_what_torch_writes(tmp_path):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step in range(5):
            writer.add_scalar("accuracy", step / 8, step)
            writer.add_scalar("new style", step / 4, step, new_style=True)
            writer.add_text("note", "hello", step)
    assert scalars(tmp_path / "run") == {
        "accuracy": {step: step / 8 for step in range(5)},
        "new style": {step: step / 4 for step in range(5)},
    }
