"""CLIP as a teacher: against transformers' own logits on a tiny model with random weights, and what images may be."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fewer.core.errors import FewerError
from fewer.labels.clip import CLIP, clap, clip, images
from fewer.labels.loop import Round
from fewer.labels.teachers import CLAP, ZeroShot

NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP model with random weights, saved as its users save theirs."""
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("clip")
    letters = sorted("abcdefghijklmnopqrstuvwxyz.")
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    tokenizer.save_pretrained(path)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(pieces), "max_position_embeddings": 40}
    text |= {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return path


def moment(x) -> Round:
    none = np.zeros(0, dtype=np.int64)
    return Round(0, 3, x, none, none, np.arange(len(x)), np.random.default_rng(0), seed=0)


def test_logits_are_those_of_transformers(folder):
    import transformers

    x = np.random.default_rng(0).random((7, 3, 16, 16)).astype(np.float32)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer([f"a photo of a {name}." for name in NAMES], padding=True, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**tokens, pixel_values=(torch.from_numpy(x) - 0.5) / 0.25).logits_per_image.numpy()
    found = clip(str(folder), NAMES).logits(moment(x))
    assert np.ptp(expected, axis=1).min() > 1e-3
    assert np.allclose(found, expected, atol=1e-3)
    blocks = ZeroShot(CLIP(folder, NAMES, block=2)).logits(moment(x))
    assert np.allclose(blocks, expected, atol=1e-3)


def test_of_several_prompts_the_mean_counts(folder):
    x = np.random.default_rng(0).random((2, 16, 16))
    one, two = (CLIP(folder, NAMES, prompt).encode(x, 3).classes for prompt in ("a {}.", "the {}."))
    both = CLIP(folder, NAMES, ("a {}.", "the {}.")).encode(x, 3).classes
    assert np.allclose(both, (one + two) / 2, atol=1e-5)


def test_bytes_and_layouts_mean_the_same(folder):
    grey = np.random.default_rng(0).integers(256, size=(3, 20, 30), dtype=np.uint8)
    encode = CLIP(folder, NAMES).encode
    expected = encode(grey, 3).rows
    assert np.allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)
    for same in (grey / 255, grey[:, None], grey[..., None], np.repeat(grey[:, None], 3, 1), np.stack([grey] * 3, -1)):
        assert np.allclose(encode(same, 3).rows, expected, atol=1e-5)


def test_factories():
    assert clip("here", ["a", "b"], ["{}?"]) == ZeroShot(CLIP("here", ("a", "b"), ("{}?",)))
    assert clap("here", ("a", "b"), "{}!", passes=7) == CLAP(CLIP("here", ("a", "b"), "{}!"), 7)


def test_probe_on_clip_follows_the_labels(folder):
    x = np.random.default_rng(0).random((9, 3, 16, 16)).astype(np.float32)
    now = moment(x)
    now.labelled, now.labels = np.array([0, 1, 2]), np.array([2, 0, 1])
    found = clap(str(folder), NAMES).logits(now)
    zero_shot = clip(str(folder), NAMES).logits(moment(x))
    gain = (
        found[[0, 1, 2], [2, 0, 1]] - found.mean(axis=1)[:3] - (zero_shot[[0, 1, 2], [2, 0, 1]] - zero_shot.mean(1)[:3])
    )
    assert gain.sum() > 0


# --- images ------------------------------------------------------------------------------------


def test_an_image_of_the_right_size_is_left_alone():
    x = np.random.default_rng(0).random((2, 3, 8, 8)).astype(np.float32)
    assert torch.allclose(images(x, 8), torch.from_numpy(x), atol=1e-6)


def test_the_middle_of_a_long_image_is_taken():
    x = np.zeros((1, 8, 24), dtype=np.float32)
    x[:, :, 8:16] = 1
    assert torch.equal(images(x, 8), torch.ones(1, 3, 8, 8))
    assert torch.equal(images(np.swapaxes(x, 1, 2), 8), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize(("height", "width", "side"), [(14, 14, 224), (33, 20, 16), (5, 7, 8), (1, 9, 4)])
def test_images_of_any_size_become_square(height, width, side):
    made = images(np.random.default_rng(0).random((2, height, width)), side)
    assert made.shape == (2, 3, side, side)
    assert made.min() >= 0
    assert made.max() <= 1


# --- errors ------------------------------------------------------------------------------------


def test_what_is_no_image(folder):
    for wrong in (np.zeros((3, 8)), np.zeros((3, 2, 8, 8)), np.array(["a", "b"], dtype=object)):
        with pytest.raises(FewerError, match="sees images, and a row has the shape"):
            images(wrong, 8)
    with pytest.raises(FewerError, match=r"pixels in \[0, 1\] or bytes; they go from -1 to 3"):
        images(np.array([-1.0, 3.0] * 32).reshape(1, 8, 8), 8)
    with pytest.raises(FewerError, match="sees images"):
        CLIP(folder, NAMES).encode(np.zeros((3, 8)), 3)


def test_names_and_prompts_that_do_not_fit():
    x = np.zeros((3, 8, 8))
    with pytest.raises(FewerError, match="3 class names were given and the task has 4 classes"):
        CLIP("anywhere", NAMES).encode(x, 4)
    for prompt in ("a photo", (), ("a {}", "a")):
        with pytest.raises(FewerError, match=r"a prompt needs \{\}"):
            CLIP("anywhere", NAMES, prompt).encode(x, 3)


def test_a_folder_that_is_missing_or_holds_something_else(tmp_path):
    pytest.importorskip("transformers")
    x = np.zeros((3, 8, 8))
    with pytest.raises(FewerError, match="clip: no folder"):
        CLIP(tmp_path / "none", NAMES).encode(x, 3)
    with pytest.raises(FewerError, match="holds no CLIP model that transformers can read"):
        CLIP(tmp_path, NAMES).encode(x, 3)


def test_without_transformers(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FewerError, match=r"pip install 'fewer\[language\]'"):
        CLIP(tmp_path, NAMES).encode(np.zeros((3, 8, 8)), 3)
