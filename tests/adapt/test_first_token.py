"""Encoders of transformers: texts and images to the first token's features, from folders, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fewer.adapt.adapter_training import train_adapters
from fewer.adapt.first_token import FirstToken, SavedEncoder, encoder_of
from fewer.adapt.loop import Adaptation
from fewer.adapt.scalearn import ScaLearn, coefficient_table
from fewer.core.errors import FewerError
from fewer.tasks.classification import Classification

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def folder(tmp_path):
    """A tiny BERT with its tokenizer, as a user has it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "very"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    home = tmp_path / "bert"
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(home)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=12, **SIZES)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(home)
    return home


def test_a_folder(folder):
    encoder = SavedEncoder(folder).build()
    assert (encoder.width, encoder.length, encoder.training) == (16, 12, False)
    tokens = encoder.tokens(["a good film", "bad", "very " * 30])
    assert tokens["input_ids"].shape == (3, 12)
    assert tokens["attention_mask"].sum(1).tolist() == [5, 3, 12]
    with torch.no_grad():
        features = encoder(tokens)
        torch.testing.assert_close(features[1:2], encoder(encoder.tokens(["bad"])))
        torch.testing.assert_close(features, encoder.model(**tokens).last_hidden_state[:, 0])
    assert isinstance(encoder_of(folder), FirstToken)


def test_images_and_what_says_its_width():
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_channels=1, **SIZES)
    vit = transformers.ViTModel(config, add_pooling_layer=False).eval()
    encoder, images = encoder_of(vit), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(encoder(images), vit(pixel_values=images).last_hidden_state[:, 0])
    assert encoder_of(encoder) is encoder


def test_texts_are_raced_with_adapters_from_a_folder(folder):
    texts = np.array(["a good film", "a bad film"] * 20, dtype=object)
    task = Classification("films", texts, np.arange(40) % 2, ("good", "bad"), test=10)
    adapters = train_adapters(folder, {"one": (texts.tolist(), [0, 1] * 20), "two": (texts.tolist(), [0, 1, 0, 0] * 10)},
                              epochs=1, reduction=4)  # fmt: skip
    loop = Adaptation(base=SavedEncoder(folder), adapter=ScaLearn("uniform", adapters), steps=5, points=1)
    learned = loop.learn(task, 20, seed=0)
    assert learned.curve.points[-1].extras["parameters"] == 2 * 2 + 2 * 17
    assert coefficient_table(learned.result.readout).shape == (2, 2)
    assert learned.result.predict(SavedEncoder(folder).build().tokens(["a good film"])).shape == (1,)
    with pytest.raises(FewerError, match="the rows are texts; give features"):
        Adaptation(base=NoTexts(), steps=1, points=1).learn(task, 20, seed=0)


class NoTexts:
    def build(self, shape, seed):
        return nn.Identity()


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: FirstToken(nn.Linear(2, 2)), "a Linear is no encoder of transformers"),
        (lambda: SavedEncoder("nowhere").build(), "no config.json in nowhere"),
        (lambda: FirstToken(transformers.BertModel(transformers.BertConfig(vocab_size=9, **SIZES))).tokens(["a"]),
         "texts need the model's tokenizer"),
    ],
)  # fmt: skip
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()


def test_a_folder_that_cannot_be_read(folder):
    (folder / "model.safetensors").write_bytes(b"no")
    with pytest.raises(FewerError, match="saved encoder: cannot read"):
        SavedEncoder(folder).build()
