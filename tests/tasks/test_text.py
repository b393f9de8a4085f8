"""Text tasks: what is held out, what a window is, tokenizers, and every kind of file that is no text."""

from __future__ import annotations

import platform
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer import compose
from fewer.core.errors import FewerError
from fewer.tasks.text import PINNED, Text, python_sources, text


def write(folder, **files):
    for name, content in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# --- splitting and windows -------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8), st.floats(0.05, 0.9))
def test_every_byte_is_on_one_side_and_the_share_is_kept(documents, share):
    total = sum(map(len, documents))
    if total < 40 or not b"".join(documents).strip():
        return
    task = Text.of("t", documents, held_out=share)
    assert len(task.held_out) == max(round(total * share), 1)
    joined = bytes(task.tokens.tolist()) + bytes(task.held_out.tolist())
    assert sorted(joined) == sorted(b"".join(documents))


def test_a_single_document_keeps_its_order_and_many_a_fixed_one():
    assert bytes(Text.of("t", [b"abcdefghij"], held_out=0.3).held_out.tolist()) == b"hij"
    many = [bytes([letter]) * 10 for letter in b"abcdefgh"]
    one, two = (Text.of("t", many) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != Text.of("t", many[::-1]).fingerprint()
    assert one.fingerprint() != Text.of("t", many, held_out=0.2).fingerprint()


def test_windows_to_learn_from_come_from_anywhere_and_repeat_by_their_generator():
    task = Text.of("t", [bytes(range(200))], held_out=0.5)
    windows = task.batch(400, 7, torch.Generator().manual_seed(0))
    assert windows.shape == (400, 8)
    assert (windows.diff(dim=1) == 1).all()
    assert set(windows[:, 0].tolist()) == set(range(93))  # 100 tokens: the last window begins at 92
    assert torch.equal(windows, task.batch(400, 7, torch.Generator().manual_seed(0)))


@given(st.integers(1, 30), st.integers(1, 400), st.integers(40, 300))
def test_scored_windows_are_held_out_and_predict_no_token_twice(length, tokens, size):
    stream = np.arange(size, dtype=np.int32)
    task = Text("t", stream, stream, size)
    windows = task.scored(length, tokens)
    predicted = windows[:, 1:].flatten().tolist()
    assert len(set(predicted)) == len(predicted)
    assert (windows.diff(dim=1) == 1).all()
    assert length <= len(predicted) <= max(tokens, length)
    if tokens >= size:
        assert predicted == list(range(1, 1 + (size - 1) // length * length))


def test_a_context_that_does_not_fit_is_refused():
    task = Text.of("t", [b"x" * 100])
    task.require(9)
    with pytest.raises(
        FewerError, match="10 held-out tokens are too few for a context of 10, which takes 11; give a longer"
    ):
        task.require(10)
    with pytest.raises(FewerError, match="90 tokens to learn from are too few for a context of 90"):
        task.require(90)


# --- the user's files ------------------------------------------------------------------------------------------------


def test_a_folder_is_read_at_any_depth_without_hidden_files(tmp_path):
    write(tmp_path, a="a" * 30, sub__b="b" * 30, sub__c="c" * 40, **{".hidden": "h" * 50, ".git__config": "g" * 50})
    task = text(str(tmp_path))
    assert sorted(bytes(task.tokens.tolist()) + bytes(task.held_out.tolist())) == sorted(
        b"a" * 30 + b"b" * 30 + b"c" * 40
    )
    assert len(task.held_out) == 10
    assert task.name == tmp_path.name


def test_a_pattern_chooses_files_and_bytes_are_utf8(tmp_path):
    write(tmp_path, **{"a.txt": "naïve " * 20, "b.bin": b"\xff\x00\x01"})
    task = text(str(tmp_path), pattern="*.txt", held_out=0.5)
    assert task.vocabulary == 256
    assert len(task.tokens) + len(task.held_out) == 140
    assert compose.task(f"text({str(tmp_path)!r}, pattern='*.txt', held_out=0.5)").fingerprint() == task.fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "there is no text; give a file or a folder with some"),
        (b" \n\t", "there is no text"),
        (b"\xff\xfe\x00", r"is not UTF-8 text \(byte 0xff at 0\); save it in UTF-8, or choose files by pattern"),
        (b"abc\0def", "holds zero bytes, so it is no text"),
        (b"ab", "1 tokens to learn from leave nothing to predict; give a longer text"),
    ],
)
def test_files_that_are_no_text_are_named(tmp_path, content, message):
    with pytest.raises(FewerError, match=message):
        text(str(write(tmp_path, file=content) / "file"))


def test_missing_files_and_wrong_shares(tmp_path):
    with pytest.raises(FewerError, match="no file or folder at"):
        text(str(tmp_path / "nothing"))
    with pytest.raises(FewerError, match=r"has no file that matches '\*\.md'"):
        text(str(write(tmp_path, a="text")), pattern="*.md")
    for share in (0, 1, -0.1, "a", True):
        with pytest.raises(FewerError, match="give the share of the text to hold out"):
            text(str(tmp_path), held_out=share)


# --- tokenizers ------------------------------------------------------------------------------------------------------


def trained_tokenizer(file):
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["the cat sat on the mat, the café too. "] * 5, trainer)
    made.save(str(file))
    return made


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_local_tokenizer_makes_the_tokens_and_bytes_are_still_counted(tmp_path, as_folder):
    made = trained_tokenizer(tmp_path / "tokenizer.json")
    words = "the café sat on the mat. " * 41
    write(tmp_path, **{"words.txt": words})
    task = text(str(tmp_path / "words.txt"), tokenizer=str(tmp_path if as_folder else tmp_path / "tokenizer.json"))
    assert task.vocabulary == made.get_vocab_size()
    for part in (task.tokens, task.held_out):
        assert part.dtype == np.int32
        assert len(part) < 0.7 * len(words)
    assert task.bytes_per_token == pytest.approx(len(task_bytes(made, task)) / len(task.held_out))


def task_bytes(tokenizer, task):
    import tokenizers

    return (
        tokenizers.decoders.ByteLevel()
        .decode([tokenizer.id_to_token(each) for each in task.held_out.tolist()])
        .encode()
    )


def test_a_cut_never_splits_a_character(tmp_path):
    trained_tokenizer(tmp_path / "tokenizer.json")
    write(tmp_path, **{"e.txt": "é" * 101})
    for share in (0.1, 0.111, 0.25, 0.5):
        text(str(tmp_path / "e.txt"), tokenizer=str(tmp_path), held_out=share)


def test_what_is_no_tokenizer_is_named(tmp_path):
    pytest.importorskip("tokenizers")
    write(tmp_path, **{"a.txt": "some words", "tokenizer.json": "{}"})
    with pytest.raises(FewerError, match="is no tokenizer"):
        text(str(tmp_path / "a.txt"), tokenizer=str(tmp_path))
    with pytest.raises(FewerError, match="no tokenizer at"):
        text(str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "other.json"))


def test_streams_that_make_no_task():
    good = np.arange(10)
    with pytest.raises(FewerError, match=r"tokens to learn from are float64 of shape \(10,\); give a row of integers"):
        Text("t", good / 2, good, 10)
    with pytest.raises(FewerError, match="held-out tokens lie in 0 to 9, and a vocabulary of 9 ends at 8"):
        Text("t", good[:5], good, 9)
    with pytest.raises(FewerError, match="bytes_per_token is 0"):
        Text("t", good, good, 10, 0)


# --- the standard library --------------------------------------------------------------------------------------------


def test_python_sources_are_ascii_python_and_a_tenth_is_held_out():
    task = python_sources()
    total = len(task.tokens) + len(task.held_out)
    assert 4e6 < total < 12e6
    assert len(task.held_out) == round(total * 0.1)
    assert task.vocabulary == 128
    everything = bytes(task.tokens.tolist()) + bytes(task.held_out.tolist())
    assert everything.count(b"\ndef ") > 2000
    assert b"\r" not in everything.replace(b"\\r", b"")
    assert task.name == compose.task("python-sources").name


@pytest.mark.skipif(platform.python_version() not in PINNED, reason="the texts follow Python's version")
def test_python_sources_are_those_that_were_published_with():
    assert python_sources().fingerprint() == PINNED[platform.python_version()]


def test_a_python_without_sources_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FewerError, match="has no sources; use a Python that comes with them"):
        python_sources.__wrapped__()
    assert sys.stdlib_module_names
