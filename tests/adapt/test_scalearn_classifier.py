"""ScaLearn as an estimator: it learns, reads texts, files and tokens alike, changes nothing given, saves little, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from tests.adapt.adapters import encoder, sources

from fewer.adapt.adapter_training import train_adapters
from fewer.adapt.scalearn_classifier import ScaLearnClassifier
from fewer.core.errors import FewerError

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
    model.adapted_.save(tmp_path / "target.safetensors")
    with safe_open(tmp_path / "target.safetensors", framework="pt") as file:
        shapes = sorted(tuple(file.get_tensor(name).shape) for name in file.keys())  # noqa: SIM118
    assert shapes == [(2,), (2, 16), (3, 16)]
    other = ScaLearnClassifier(encoder(), sources(), "++", epochs=1, seed=9).fit(TEXTS, FIRST)
    assert not np.array_equal(other.predict_proba(TEXTS), model.predict_proba(TEXTS))
    other.adapted_.load(tmp_path / "target.safetensors")
    assert np.array_equal(other.predict_proba(TEXTS), model.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: ScaLearnClassifier(encoder(), sources()).fit(TEXTS), "scalearn: there are no labels"),
        (lambda: ScaLearnClassifier(encoder(), sources()).fit("rows.csv", FIRST), "labels were given beside a file"),
        (lambda: ScaLearnClassifier(encoder(), sources()).fit(TEXTS, FIRST[:2]), "32 rows and 2 labels"),
        (lambda: ScaLearnClassifier(encoder(), {}).fit(TEXTS, FIRST), "no source adapters"),
        (lambda: ScaLearnClassifier("nowhere", sources()).fit(TEXTS, FIRST), "no config.json in nowhere"),
    ],
)
def test_errors(do, message):
    with pytest.raises(FewerError, match=message):
        do()
