"""ScaLearn as an estimator: it learns, reads texts, files and tokens alike, changes nothing given, saves little, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.base import clone
from tests.adapt.adapters import adapter, encoder, sources

from fewer.adapt.adapter_files import save_adapters
from fewer.adapt.adapter_training import train_adapters
from fewer.adapt.scalearn import VARIANTS
from fewer.adapt.scalearn_classifier import ScaLearnClassifier
from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors

TEXTS = [f"{first} {last}" for first in "ad" for last in "bcef"] * 4
FIRST, LAST = [text[0] for text in TEXTS], [text[-1] in "bc" for text in TEXTS]
BOTH = [(first == "a") != last for first, last in zip(FIRST, LAST, strict=True)]


@pytest.fixture(scope="module")
def trained():
    data = {"first": (TEXTS, FIRST), "last": (TEXTS, LAST)}
    return train_adapters(encoder(), data, reduction=4, lr=1e-2, epochs=40, validation=0.0)


def few(monkeypatch, steps=4):
    monkeypatch.setattr("fewer.adapt.scalearn_classifier.FEW_SHOT_STEPS", steps)


def test_it_learns_from_the_adapter_that_helps(trained, monkeypatch):
    few(monkeypatch, steps=250)
    model = encoder()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    said = ScaLearnClassifier(model, trained, "uniform", lr=3e-2, validation=0.0, seed=1)
    said.fit(TEXTS[:12], np.array(FIRST[:12]))
    assert said.score(TEXTS, FIRST) > 0.9
    assert said.predict_proba(["a b", "d e"]).sum(1) == pytest.approx(1.0)
    assert set(said.predict(["a b", "d e"])) <= {"a", "d"}
    assert said.coefficients().shape == (2, 2)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not any("omega" in name for name in model.state_dict())


def test_texts_a_file_and_tokens_are_alike(tmp_path, monkeypatch):
    few(monkeypatch)
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "\n".join(f"{text},{label}" for text, label in zip(TEXTS, FIRST, strict=True)))
    settings = {"adapters": sources(), "variant": "uniform++", "epochs": 1}
    made = [
        ScaLearnClassifier(encoder(), **settings).fit(TEXTS, FIRST),
        ScaLearnClassifier(encoder(), **settings).fit(str(file)),
        ScaLearnClassifier(encoder(), **settings).fit(encoder().tokens(TEXTS).numpy(), FIRST),
    ]
    for each in made[1:]:
        assert np.array_equal(each.predict_proba(TEXTS), made[0].predict_proba(TEXTS))


def test_what_is_saved_is_omega_and_the_head(tmp_path, monkeypatch):
    few(monkeypatch)
    model = ScaLearnClassifier(encoder(), sources(), "++", epochs=1).fit(TEXTS, FIRST)
    model.save(tmp_path / "target.safetensors")
    with safe_open(tmp_path / "target.safetensors", framework="pt") as file:
        shapes = sorted(tuple(file.get_tensor(name).shape) for name in file.keys())  # noqa: SIM118
    assert shapes == [(2,), (2, 16), (3, 16)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("constraint", [None, "softmax"])
def test_what_was_saved_says_the_same_to_the_bit(variant, constraint, tmp_path, monkeypatch):
    few(monkeypatch, 8)
    # sources in another order than that of their names
    given = dict(reversed(sources().items()))
    model = ScaLearnClassifier(encoder(), given, variant, constraint, lr=0.1, epochs=1).fit(TEXTS, np.array(LAST))
    model.save(tmp_path / "target.safetensors")
    save_adapters(sources(4), tmp_path / "adapters")  # one more than it was learned from
    torch.manual_seed(5)
    for adapters in (given, sources(), tmp_path / "adapters"):
        again = ScaLearnClassifier.load(tmp_path / "target.safetensors", encoder(), adapters)
        assert np.array_equal(again.predict_proba(TEXTS), model.predict_proba(TEXTS))
        assert again.predict(TEXTS).dtype == bool
        assert again.coefficients().equals(model.coefficients())
        assert (again.variant, again.constraint) == (variant, constraint)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "target.safetensors").read_bytes()


def test_a_folder_of_transformers_and_adapters_that_the_model_brings(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    few(monkeypatch)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=20)).save_pretrained(tmp_path / "bert")
    tokens = np.random.default_rng(0).integers(20, size=(12, 5))
    model = ScaLearnClassifier(tmp_path / "bert", sources(), epochs=1).fit(tokens, [3, 7] * 6)
    model.save(tmp_path / "target.safetensors")
    again = ScaLearnClassifier.load(tmp_path / "target.safetensors", tmp_path / "bert", sources())
    assert np.array_equal(again.predict_proba(tokens), model.predict_proba(tokens))
    assert set(again.predict(tokens)) <= {3, 7}
    brings = encoder()
    brings.source_adapters = sources()
    own = ScaLearnClassifier(brings, epochs=1).fit(TEXTS, FIRST)
    own.save(tmp_path / "own.safetensors")
    before = {name: each.clone() for name, each in brings.state_dict().items()}
    again = ScaLearnClassifier.load(tmp_path / "own.safetensors", brings)
    assert np.array_equal(again.predict_proba(TEXTS), own.predict_proba(TEXTS))
    assert list(brings.state_dict()) == list(before)  # nothing was built into it


def test_files_that_do_not_fit(tmp_path, monkeypatch):
    few(monkeypatch)
    path, load = tmp_path / "target.safetensors", ScaLearnClassifier.load
    with pytest.raises(FewerError, match="is no saved classifier"):
        load(path, encoder(), sources())
    model = ScaLearnClassifier(encoder(), sources(2), "uniform", epochs=1).fit(TEXTS, FIRST)
    model.adapted_.save(path)
    with pytest.raises(FewerError, match="is no saved classifier; give a file that save"):
        load(path, encoder(), sources())
    model.save(path)
    other = encoder()
    next(other.parameters()).add_(1)
    changed = sources() | {"task 1": adapter("task 1", 7)}
    for wrong, message in [
        ((other, sources()), "was learned on a model with other weights"),
        (
            (encoder(), {"task 0": sources()["task 0"], "task 2": sources()["task 2"]}),
            "of the task 'task 1', and there are",
        ),
        ((encoder(), changed), "was learned from another adapter of the task 'task 1'"),
        ((encoder(), None), "there are no source adapters"),
    ]:
        with pytest.raises(FewerError, match=message):
            load(path, *wrong)
    header, tensors = read_tensors(path, "saved classifier")
    write_tensors(path, header | {"classes": ["a", "b", "c"]}, tensors)
    with pytest.raises(FewerError, match=r"or is damaged: head.linear.bias is of shape \(2,\) in it"):
        load(path, encoder(), sources())
    write_tensors(path, header | {"variant": "matrix"}, tensors)
    with pytest.raises(FewerError, match="variant is 'matrix'"):
        load(path, encoder(), sources())


def test_parameters_are_scikit_learns(monkeypatch):
    few(monkeypatch)
    model = ScaLearnClassifier(encoder(), sources(), "uniform++", epochs=1)
    again = clone(model).fit(TEXTS, FIRST)
    assert again.get_params()["variant"] == "uniform++"
    assert np.array_equal(again.predict_proba(TEXTS), model.fit(TEXTS, FIRST).predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: ScaLearnClassifier(encoder(), sources()).fit(TEXTS), "scalearn: there are no labels"),
        (lambda: ScaLearnClassifier(encoder(), sources()).fit("rows.csv", FIRST), "labels were given beside a file"),
        (lambda: ScaLearnClassifier(encoder(), sources()).fit(TEXTS, FIRST[:2]), "32 rows and 2 labels"),
        (lambda: ScaLearnClassifier(encoder(), {}).fit(TEXTS, FIRST), "no source adapters"),
        (lambda: ScaLearnClassifier(encoder(), sources()).predict(TEXTS), "nothing is fitted yet; call fit, or load"),
        (lambda: ScaLearnClassifier(encoder(), sources()).save("nowhere"), "nothing is fitted yet"),
        (lambda: ScaLearnClassifier(encoder(), sources()).coefficients(), "nothing is fitted yet"),
        (lambda: ScaLearnClassifier("nowhere", sources()).fit(TEXTS, FIRST), "no config.json in nowhere"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()
