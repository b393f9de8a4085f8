from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core import checkpoint, files, ring
from fewer.core.errors import FewerError
from fewer.core.ring import Ring


def filled(capacity, *counts):
    made = Ring(capacity, 2)
    for count in counts:
        made.append(numbers(made.added, count))
    return made


def numbers(begin, count):
    return torch.arange(begin, begin + count, dtype=torch.float32)[:, None].expand(-1, 2)


def again(path, capacity):
    made = Ring(capacity, 2)
    made.take_up(checkpoint.load(path)["ring"])
    return made


def same(one, two):
    return one.added == two.added and torch.equal(*(each.numbered(one.oldest, one.added) for each in (one, two)))


def written(folder):
    return {file.name: file.stat().st_size for file in folder.iterdir()} if folder.is_dir() else {}


@given(st.integers(1, 7), st.lists(st.integers(0, 9), max_size=8))
def test_the_newest_are_held(capacity, counts):
    made = filled(capacity, *counts)
    total = sum(counts)
    assert (made.added, len(made), made.oldest) == (total, min(total, capacity), max(0, total - capacity))
    assert made.numbered(made.oldest, total)[:, 0].tolist() == list(range(made.oldest, total))


@settings(max_examples=40, deadline=None)
@given(capacity=st.integers(1, 9), counts=st.lists(st.integers(0, 12), min_size=1, max_size=6), stop=st.integers(0, 5))
def test_it_comes_back_from_any_save_and_goes_on(tmp_path_factory, capacity, counts, stop):
    path = tmp_path_factory.mktemp("rings") / "state"
    whole, kept = Ring(capacity, 2), Ring(capacity, 2)
    for number, count in enumerate(counts):
        for each in (whole, kept):
            each.append(numbers(each.added, count))
        checkpoint.save(path, {"ring": kept})
        found = again(path, capacity)
        assert same(found, whole)
        if number == stop:
            kept = found  # the run was killed here, and is taken up


def test_bytes_written_grow_with_what_is_new(tmp_path, monkeypatch):
    path, sizes = tmp_path / "state", []
    real = ring.write_atomically

    def counted(file, data):
        sizes.append(len(data))
        real(file, data)

    monkeypatch.setattr(ring, "write_atomically", counted)
    made = filled(100_000, 50_000)
    checkpoint.save(path, {"ring": made})
    assert sizes.pop() > 50_000 * 8
    for _ in range(5):
        made.append(numbers(made.added, 10))
        checkpoint.save(path, {"ring": made})
    assert len(sizes) == 5
    assert max(sizes) < 10 * 8 + 200
    assert path.stat().st_size < 2000
    checkpoint.save(path, {"ring": made})
    assert len(sizes) == 5  # nothing is new


def test_after_being_taken_up_only_what_is_new_is_written(tmp_path):
    path = tmp_path / "state"
    checkpoint.save(path, {"ring": filled(1000, 900)})
    before = written(files.segments_of(path))
    found = again(path, 1000)
    found.append(numbers(900, 3))
    checkpoint.save(path, {"ring": found})
    after = written(files.segments_of(path))
    assert before.items() < after.items()
    assert sum(after.values()) - sum(before.values()) < 300


def test_segments_that_were_overwritten_go(tmp_path):
    path, made = tmp_path / "state", Ring(10, 2)
    for _ in range(30):
        made.append(numbers(made.added, 4))
        checkpoint.save(path, {"ring": made})
        assert len(written(files.segments_of(path))) <= 4
    assert same(again(path, 10), made)


def test_segments_hold_what_is_held_and_nothing_else(tmp_path):
    """A file goes when its last row does, and rows that are gone before the first save are never written."""
    made = filled(10, 4)
    made.save(tmp_path)
    made.append(numbers(4, 10))  # rows 4 to 13 are held: of the first file, 0 to 3, there is nothing left
    assert [(each.begin, each.end) for each in made.save(tmp_path)] == [(4, 14)]
    late = filled(10, 7, 8)
    assert [(each.begin, each.end) for each in late.save(tmp_path)] == [(5, 15)]


def test_a_process_killed_between_segment_and_file_leaves_the_old_state(tmp_path, monkeypatch):
    path, made = tmp_path / "state", filled(10, 8)
    checkpoint.save(path, {"ring": made, "step": 1})
    old = filled(10, 8)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_atomically", killed)
    made.append(numbers(8, 9))  # overwrites nearly all
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"ring": made, "step": 2})
    monkeypatch.undo()
    assert len(written(files.segments_of(path))) == 2
    assert checkpoint.load(path)["step"] == 1
    found = again(path, 10)
    assert same(found, old)
    # the run goes on from there in another way, and the stale segment is gone
    found.append(numbers(100, 1))
    checkpoint.save(path, {"ring": found, "step": 2})
    assert again(path, 10).numbered(7, 9)[:, 0].tolist() == [7, 100]
    assert len(written(files.segments_of(path))) == 2


def test_kill_9_at_any_moment(tmp_path):
    """A process that saves without end is killed at various moments; what is there always loads, whole."""
    path = tmp_path / "state"
    code = (
        "import sys, torch\nfrom fewer.core import checkpoint\nfrom fewer.core.ring import Ring\n"
        "ring = Ring(50, 3000)\n"
        "for i in range(10**9):\n"
        "    ring.append(torch.full((7, 3000), float(i)))\n"
        "    checkpoint.save(sys.argv[1], {'i': i, 'ring': ring})\n"
    )
    for wait in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], env=dict(os.environ))
        before = path.stat().st_mtime_ns if path.exists() else 0
        deadline = time.monotonic() + 60
        while (not path.exists() or path.stat().st_mtime_ns == before) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
        saved, found = checkpoint.load(path), Ring(50, 3000)
        found.take_up(saved["ring"])
        assert found.added == 7 * (saved["i"] + 1)
        held = torch.arange(found.oldest, found.added)
        assert torch.equal(found.numbered(found.oldest, found.added)[:, -1], (held // 7).float())


def test_large_rings_are_written_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(ring, "PIECE", 80)
    made = filled(100, 35)
    checkpoint.save(tmp_path / "state", {"ring": made})
    assert len(written(files.segments_of(tmp_path / "state"))) == 4
    assert same(again(tmp_path / "state", 100), made)


def test_a_copy_elsewhere_is_whole(tmp_path):
    made = filled(100, 20)
    for name in ("one", "two"):
        made.append(numbers(made.added, 5))
        checkpoint.save(tmp_path / name, {"ring": made})
    assert same(again(tmp_path / "two", 100), made)
    assert again(tmp_path / "one", 100).added == 25


def test_several_rings_and_one_fewer(tmp_path):
    path, one, two = tmp_path / "state", filled(5, 3), filled(9, 7)
    checkpoint.save(path, {"nested": [one, {"two": two}]})
    back = checkpoint.load(path)["nested"]
    for saved, expected in ((back[0], one), (back[1]["two"], two)):
        found = Ring(expected.capacity, 2)
        found.take_up(saved)
        assert same(found, expected)
    checkpoint.save(path, {"nested": []})
    assert written(files.segments_of(path)) == {}


def test_segments_that_somebody_removed_are_written_again(tmp_path):
    path, made = tmp_path / "state", filled(50, 20)
    checkpoint.save(path, {"ring": made})
    files.remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []
    made.append(numbers(20, 1))
    checkpoint.save(path, {"ring": made})
    assert same(again(path, 50), made)


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_segment_is_one_clear_line(tmp_path, damage):
    path = tmp_path / "state"
    checkpoint.save(path, {"ring": filled(50, 20)})
    (file,) = files.segments_of(path).iterdir()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(file.read_bytes()[:-8])
        case "other":
            from safetensors.torch import save_file

            save_file({"rows": torch.zeros(20, 3)}, file)
    with pytest.raises(FewerError, match=r"is damaged|was saved; remove the checkpoint"):
        again(path, 50)


def test_a_name_in_a_checkpoint_leads_nowhere_else(tmp_path, monkeypatch):
    path, made = tmp_path / "state", filled(5, 3)
    real = Ring.save
    monkeypatch.setattr(
        Ring, "save", lambda self, folder: [ring.Segment(f"../../{each.file}", 0, 3) for each in real(self, folder)]
    )
    checkpoint.save(path, {"ring": made})
    assert ".." not in checkpoint.load(path)["ring"].segments[0].file
    assert Path(checkpoint.load(path)["ring"].segments[0].file).name == checkpoint.load(path)["ring"].segments[0].file
