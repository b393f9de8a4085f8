"""Language models from a folder: frozen between two maps, and asked in text; the folder holds a made-up GPT-2."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer import compose
from fewer.core.errors import FewerError, MissingPackage
from fewer.incontext.function_families import Boolean
from fewer.incontext.language_models import FrozenLanguageModel, PromptedLanguageModel
from fewer.incontext.loop import LearnToLearn

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


def tokenizer(words):
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\n|[A-Za-z]+:|[01]"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    words = tokenizer(["?", "\n", "Input:", "Label:", " ", "0", "1"])
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=300, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    words.save_pretrained(path)
    return str(path)


# --- frozen ----------------------------------------------------------------------------------------------------------


def test_only_the_maps_are_trained(folder):
    loop = LearnToLearn(network=FrozenLanguageModel(folder, hidden=8), batch=4, points=1)
    before = FrozenLanguageModel(folder, hidden=8).build(5, 1, 16)
    after = loop.learn(Boolean(dimension=5, points=8), 12).result
    assert all(
        torch.equal(a, b) for a, b in zip(before.backbone.parameters(), after.backbone.parameters(), strict=True)
    )
    assert {name.split(".")[0] for name, each in after.named_parameters() if each.requires_grad} == {
        "read_in",
        "read_out",
    }
    assert compose.loop(f"frozen-language-model({folder!r})").network == FrozenLanguageModel(folder)


def test_the_frozen_model_is_causal_and_silent(folder):
    network = FrozenLanguageModel(folder, hidden=8).build(3, 1, 16).train()
    tokens = torch.randn(2, 9, 3)
    changed = tokens.clone()
    changed[:, 5:] += 1
    before = network(tokens)
    torch.testing.assert_close(network(tokens), before)  # no dropout
    torch.testing.assert_close(network(changed)[:, :5], before[:, :5])


# --- asked in text ---------------------------------------------------------------------------------------------------


def test_each_label_is_asked_for_behind_its_point(folder):
    """The same as asking for each point with a prompt of its own."""
    asked = PromptedLanguageModel(folder, batch=3)
    drawn = Boolean("majority", dimension=4, points=6).draw(5, torch.Generator().manual_seed(0))
    logits = asked.logits(drawn.x, drawn.y)
    assert logits.shape == (5, 6)
    for x, y, row in zip(drawn.x, drawn.y, logits, strict=True):
        text = ""
        for at in range(6):
            bits = " ".join("1" if bit > 0 else "0" for bit in x[at].tolist())
            text += f"Input: {bits}\nLabel:"
            ids = torch.tensor([asked.tokenizer(f"{text} ", add_special_tokens=False)["input_ids"]])
            with torch.inference_mode():
                scores = asked.model(ids).logits[0, -1]
            words = asked.tokenizer.convert_tokens_to_ids(["0", "1"])
            assert row[at].item() == pytest.approx((scores[words[1]] - scores[words[0]]).item(), abs=1e-5)
            text += f" {'1' if y[at] > 0 else '0'}\n"


def test_a_model_answers_in_the_caller_s_labels(folder):
    asked = PromptedLanguageModel(folder)
    x = np.array([[0, 1, 1], [1, 1, 0], [0, 0, 1]])
    said = asked.predict(x, ["no", "yes", "no"], x)
    assert said.shape == (3,)
    assert set(said) <= {"no", "yes"}
    curve = asked.score_curve(Boolean(dimension=3, points=5), count=4)
    assert curve.shape == (5,)
    assert ((curve >= 0) & (curve <= 1)).all()


def test_errors(folder, tmp_path, monkeypatch):
    with pytest.raises(FewerError, match="no model folder at"):
        FrozenLanguageModel(str(tmp_path / "none")).build(3, 1, 8)
    with pytest.raises(FewerError, match="is no language model"):
        PromptedLanguageModel(str(tmp_path))
    with pytest.raises(FewerError, match="prompts of 400 tokens are longer than the 300"):
        FrozenLanguageModel(folder).build(3, 1, 400)
    asked = PromptedLanguageModel(folder)
    with pytest.raises(FewerError, match=r"prompts of \d+ tokens are longer than the 300"):
        asked.logits(torch.ones(1, 60, 4), torch.ones(1, 60))
    with pytest.raises(FewerError, match="needs an example or more"):
        asked.predict(np.zeros((0, 3)), [], [[0, 1, 1]])
    blind = tmp_path / "blind"
    transformers.GPT2LMHeadModel.from_pretrained(folder).save_pretrained(blind)
    (blind / "tokenizer.json").write_text("{")
    with pytest.raises(FewerError, match="has no tokenizer"):
        PromptedLanguageModel(str(blind))
    tokenizer(["?", " "]).save_pretrained(blind)
    with pytest.raises(FewerError, match="does not tell ' 0' from ' 1'"):
        PromptedLanguageModel(str(blind))
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingPackage, match="a frozen language model needs the package transformers"):
        FrozenLanguageModel(folder).build(3, 1, 8)
