"""The classifier: it learns from middle layers, changes nothing given, keeps few features, saves little, errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.base import clone
from tests.adapt.vision_models import DEPTH, SIDE, WIDTH, transformers_model, vit

from fewer.adapt.visual_query_tuning import VisualQueryTuning
from fewer.core.errors import FewerError


def rows(count=48, seed=0):
    """Images with a bright left or right half."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(count, 1, SIDE, SIDE)).astype(np.float32), np.array(["left", "right"])[np.arange(count) % 2]
    x[y == "left", :, :, :4] += 2
    x[y == "right", :, :, 4:] += 2
    return x, y


@pytest.fixture(scope="module")
def fitted():
    return VisualQueryTuning(vit(), tokens=2, epochs=15, batch=16).fit(*rows())


def test_it_learns(fitted):
    x, y = rows(seed=1)
    assert fitted.score(x, y) > 0.9
    assert fitted.predict_proba(x).sum(1) == pytest.approx(1.0, abs=1e-5)
    assert fitted.features(x).shape == (48, WIDTH * (1 + 2 * DEPTH))
    assert fitted.head is fitted.adapted_.head
    assert set(fitted.predict(x)) == {"left", "right"}


@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification", "CLIPVisionModel", "Dinov2Model"])
def test_models_of_transformers_stay_as_they_are_to_the_bit(kind):
    model = transformers_model(kind).train()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    said = VisualQueryTuning(model, epochs=2, batch=16).fit(*rows())
    inside = said.adapted_.readout.model.model.state_dict()
    for name, each in model.state_dict().items():
        assert torch.equal(each, before[name])
        assert torch.equal(inside[name], before[name])
    assert model.training
    assert not any(each._forward_hooks for each in model.modules())
    assert said.predict(rows()[0]).shape == (48,)


def test_a_folder_is_read_and_what_is_new_is_a_small_file(tmp_path):
    model = transformers_model("ViTModel")
    model.save_pretrained(tmp_path / "vit")
    x, y = rows()
    said = VisualQueryTuning(str(tmp_path / "vit"), tokens=2, epochs=3).fit(x, y)
    assert np.allclose(said.predict_proba(x), VisualQueryTuning(model, tokens=2, epochs=3).fit(x, y).predict_proba(x))
    said.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        shapes = sorted(tuple(file.get_tensor(name).shape) for name in file.keys())  # noqa: SIM118
    width = WIDTH * (1 + 2 * DEPTH)
    assert shapes == [(2,), (2, width), (DEPTH, 2, WIDTH)]
    again = VisualQueryTuning.load(tmp_path / "new.safetensors", tmp_path / "vit")
    assert np.array_equal(again.predict_proba(x), said.predict_proba(x))
    assert again.get_params()["tokens"] == 2
    assert list(again.classes_) == ["left", "right"]
    assert np.array_equal(VisualQueryTuning.load(tmp_path / "new.safetensors", model).predict(x), said.predict(x))


def test_few_features_are_kept_again_and_again_and_saved(tmp_path):
    x, y = rows()
    model = VisualQueryTuning(vit(), tokens=2, epochs=15, batch=16).fit(x, y)
    width = model.features(x).shape[1]
    assert model.compress(0.5, x, y).kept_.shape == (width // 2,)
    assert model.compress(0.1, x, y).kept_.shape == (width // 10,)
    assert model.compress(0.9, x, y).kept_.shape == (int(0.9 * width),)  # of all features again
    model.compress(0.25, x, y)
    assert model.score(*rows(seed=1)) > 0.85
    assert model.features(x).shape[1] == width
    model.save(tmp_path / "few.safetensors")
    again = VisualQueryTuning.load(tmp_path / "few.safetensors", vit())
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
    assert np.array_equal(again.kept_, model.kept_)
    again.compress(0.1, x, y)
    assert len(again.kept_) == width // 10
    assert not hasattr(model.fit(x, y), "kept_")


@pytest.mark.parametrize("labels", [[3, 7], [True, False], [0.5, 1.5]])
def test_labels_of_other_kinds_come_back(labels, tmp_path):
    x, _ = rows(16)
    y = np.array(labels)[np.arange(16) % 2]
    model = VisualQueryTuning(vit(), epochs=1).fit(x, y)
    model.save(tmp_path / "new.safetensors")
    again = VisualQueryTuning.load(tmp_path / "new.safetensors", vit())
    assert again.classes_.dtype == y.dtype
    assert np.array_equal(again.predict(x), model.predict(x))


def test_a_trainable_model_is_frozen_in_a_copy_with_a_word_about_it():
    model = vit().requires_grad_(True)
    with pytest.warns(UserWarning, match="a frozen copy is adapted, and yours stays as it is"):
        said = VisualQueryTuning(model, epochs=1).fit(*rows())
    assert all(each.requires_grad for each in model.parameters())
    assert not any(each.requires_grad for each in said.adapted_.readout.model.parameters())


def test_equal_seeds_equal_answers_and_parameters_are_scikit_learns():
    x, y = rows()
    first = VisualQueryTuning(vit(), epochs=2, validation=0.25, first="mean", seed=3).fit(
        x, torch.arange(48).numpy() % 2
    )
    again = clone(first).fit(x, np.arange(48) % 2)
    assert np.array_equal(first.predict_proba(x), again.predict_proba(x))
    assert not np.array_equal(clone(first).set_params(seed=4).fit(x, y).predict_proba(x), first.predict_proba(x))


def test_tensors_and_double_numbers_are_images_too(fitted):
    x, _ = rows()
    assert np.array_equal(fitted.predict(torch.from_numpy(x)), fitted.predict(x.astype(np.float64)))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda x, y, m: VisualQueryTuning(vit()).predict(x), "vqt: nothing is fitted yet; call fit, or load"),
        (lambda x, y, m: VisualQueryTuning(vit()).head, "nothing is fitted yet"),
        (lambda x, y, m: VisualQueryTuning(vit()).save("nowhere"), "nothing is fitted yet"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x, y[:3]), "48 rows and 3 labels"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x, ["a"] * 48), "all labels are 'a'"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(np.where(x > 2, np.nan, x), y), "images hold NaN or infinity"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(["a cat", "a dog"], ["a", "b"]), "images must be floats"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x.astype(np.uint8), y), "these are uint8 of shape"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x[:, 0], y), r"of shape \(48, 8, 8\)"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x[:0], y[:0]), "there are no images; give at least one"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x[..., :7], y), "cannot be cut into patches"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(np.repeat(x, 3, 1), y), r"images must be \(batch, 1"),
        (lambda x, y, m: VisualQueryTuning(transformers_model("ViTModel")).fit(x[:, :, :4], y), "cannot see images"),
        (lambda x, y, m: VisualQueryTuning(vit(), epochs=0).fit(x, y), "epochs is 0; give 1 or more"),
        (lambda x, y, m: VisualQueryTuning(vit(), tokens=0).fit(x, y), "tokens must be at least 1"),
        (lambda x, y, m: VisualQueryTuning("nowhere").fit(x, y), "no config.json in nowhere"),
        (lambda x, y, m: VisualQueryTuning(torch.nn.Identity()).fit(x, y), "a Identity is no encoder of transformers"),
        (lambda x, y, m: m.compress(0.0, x, y), "the share kept is 0.0"),
        (lambda x, y, m: m.compress(0.5, x, np.full(48, "up")), "the label 'up' was not there in fit"),
        (lambda x, y, m: m.compress(0.5, x, y[:4]), "48 images and 4 labels"),
        (lambda x, y, m: m.predict(x[:0]), "there are no images"),
        (lambda x, y, m: VisualQueryTuning(vit()).fit(x[:1], y[:1]), "1 rows and 1 labels"),
        (lambda x, y, m: m.predict(np.full_like(x, np.inf)), "images hold NaN or infinity"),
    ],
)
def test_errors(do, message, fitted):
    with pytest.raises(FewerError, match=message):
        do(*rows(), fitted)


def test_files_that_do_not_fit(fitted, tmp_path):
    path = tmp_path / "new.safetensors"
    with pytest.raises(FewerError, match="is no saved classifier"):
        VisualQueryTuning.load(path, vit())
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FewerError, match="is no saved classifier"):
        VisualQueryTuning.load(path, vit())
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(FewerError, match="is no saved classifier"):
        VisualQueryTuning.load(path, vit())
    fitted.save(path)
    other = vit()
    with torch.no_grad():
        other.cls_token.add_(1)
    with pytest.raises(FewerError, match="was learned on a model with other weights"):
        VisualQueryTuning.load(path, other)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["fewer"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changes = {"is damaged": {"classes": ["a", "b", "c"]}, "is no saved classifier": {"labels": "O"}}
    changes["tokens must be at least 1"] = {"tokens": 0}
    for message, changed in changes.items():
        save_file(tensors, path, {"fewer": json.dumps(header | changed)})
        with pytest.raises(FewerError, match=message):
            VisualQueryTuning.load(path, vit())


def test_labels_that_no_file_can_hold(fitted, tmp_path):
    x, _ = rows(4)
    model = VisualQueryTuning(vit(), epochs=1).fit(x, np.array([b"a", b"b", b"a", b"b"]))
    with pytest.raises(FewerError, match="cannot be saved; fit on texts or numbers"):
        model.save(tmp_path / "new.safetensors")
