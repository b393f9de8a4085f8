from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.core import checkpoint, files
from fewer.core.errors import FewerError

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(lambda values: np.array(values, dtype=np.float32))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=60, deadline=None)
@given(tree=TREES)
def test_a_tree_comes_back_as_it_was(tmp_path_factory, tree):
    file = tmp_path_factory.mktemp("trees") / "state"
    checkpoint.save(file, {"tree": tree})
    assert same(checkpoint.load(file)["tree"], tree)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool]
)
def test_tensors_keep_type_shape_and_bits(tmp_path, dtype):
    made = (torch.randn(3, 0, 2), torch.randn(()), torch.randn(4, 5).T)
    tensors = [tensor.to(dtype) for tensor in made]
    checkpoint.save(tmp_path / "s", {"tensors": tensors})
    for before, after in zip(tensors, checkpoint.load(tmp_path / "s")["tensors"], strict=True):
        assert before.dtype == after.dtype
        assert torch.equal(before, after)


def test_not_a_number_and_infinity_survive(tmp_path):
    checkpoint.save(tmp_path / "s", {"a": math.nan, "b": -math.inf, "c": -0.0})
    back = checkpoint.load(tmp_path / "s")
    assert math.isnan(back["a"])
    assert back["b"] == -math.inf
    assert math.copysign(1, back["c"]) == -1


def test_generators_go_on_where_they_stood(tmp_path):
    ours, theirs = np.random.default_rng(3), torch.Generator().manual_seed(3)
    ours.normal(size=5), torch.rand(5, generator=theirs)
    checkpoint.save(tmp_path / "s", {"numpy": ours, "torch": theirs})
    back = checkpoint.load(tmp_path / "s")
    assert np.array_equal(back["numpy"].normal(size=9), ours.normal(size=9))
    assert torch.equal(torch.rand(9, generator=back["torch"]), torch.rand(9, generator=theirs))


def test_an_optimiser_goes_on_to_the_bit(tmp_path):
    def step(network, optimiser):
        optimiser.zero_grad()
        (network(torch.ones(2, 3)) ** 2).mean().backward()
        optimiser.step()

    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    adam = torch.optim.AdamW(first.parameters(), lr=0.1)
    for _ in range(3):
        step(first, adam)
    checkpoint.save(tmp_path / "s", {"network": first.state_dict(), "adam": adam.state_dict()})
    back = checkpoint.load(tmp_path / "s")
    again = torch.optim.AdamW(second.parameters(), lr=0.7)
    second.load_state_dict(back["network"])
    again.load_state_dict(back["adam"])
    step(first, adam), step(second, again)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": [1, object()]}}, r"a\.b\[1\] is a object"),
        ({"a": {(1, 2): 3}}, r"a has the key \(1, 2\)"),
        ({"a": np.array(["x"], dtype=object)}, "a is an array of object"),
    ],
)
def test_what_cannot_be_saved_is_named(tmp_path, value, message):
    with pytest.raises(FewerError, match=message):
        checkpoint.save(tmp_path / "s", value)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage", "foreign", "header"])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage):
    file = tmp_path / "state"
    checkpoint.save(file, {"a": torch.arange(100)})
    whole = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(whole[:-50])
        case "garbage":
            file.write_bytes(os.urandom(500))
        case "foreign":
            from safetensors.torch import save_file

            save_file({"a": torch.ones(1)}, file)
        case "header":
            file.write_bytes(whole.replace(b"fewer-checkpoint-1", b"fewer-checkpoint-0"))
    with pytest.raises(FewerError, match=r"no checkpoint at|is damaged|is not a checkpoint of this version"):
        checkpoint.load(file)


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "state"
    checkpoint.save(file, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FewerError, match=r"cannot write .*: No space left on device"):
        checkpoint.save(file, {"a": 2})
    monkeypatch.undo()
    assert checkpoint.load(file) == {"a": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FewerError, match="choose a folder that exists"):
        checkpoint.save(tmp_path / "file" / "state", {"a": 1})


def test_a_kill_leaves_an_old_file_or_a_new_one(tmp_path):
    """A process that writes without end is killed at various moments; what is there always loads."""
    file = tmp_path / "state"
    code = (
        "import sys, torch\nfrom fewer.core import checkpoint\n"
        "for i in range(10**9):\n    checkpoint.save(sys.argv[1], {'i': i, 'x': torch.full((20000,), i)})\n"
    )
    for wait in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code, str(file)])
        before = file.stat().st_mtime_ns if file.exists() else 0
        deadline = time.monotonic() + 60
        while (not file.exists() or file.stat().st_mtime_ns == before) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
        back = checkpoint.load(file)
        assert (back["x"] == back["i"]).all()


def test_the_fingerprint_tells_apart():
    array = np.arange(6, dtype=np.float32)
    different = {
        files.fingerprint("a", "b"),
        files.fingerprint("ab"),
        files.fingerprint("b", "a"),
        files.fingerprint(array),
        files.fingerprint(array.reshape(2, 3)),
        files.fingerprint(array.astype(np.float64)),
        files.fingerprint(array[::-1]),
    }
    assert len(different) == 7
    assert files.fingerprint(array[::2]) == files.fingerprint(array[::2].copy())


def test_written_files_are_readable_by_others(tmp_path):
    files.write_atomically(tmp_path / "deep" / "er" / "f.txt", b"x")
    assert Path(tmp_path / "deep" / "er" / "f.txt").stat().st_mode & 0o777 == 0o644
