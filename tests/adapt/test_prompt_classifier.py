"""The estimator: what it learns, other names, features, views, CoOp and CoCoOp, files, folders of transformers, every error."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from tests.adapt.prompt_models import NAMES, coloured, save_transformers_clip, small_clip

from fewer.adapt import PromptClassifier
from fewer.adapt.redrawn_scenes import RedrawnScenes
from fewer.core.errors import FewerError

COMMON = {"template": "a photo of a {}", "lr": 0.3, "epochs": 12, "batch": 16}


@cache
def scene_rows():
    task = RedrawnScenes(shots=4, test=40, steps=2)
    return task.base(0).clip, task, task.labelled(0)


def fitted(**settings):
    clip, task, rows = scene_rows()
    y = np.array(task.classes)[rows.y.numpy()]
    return PromptClassifier(clip, task.classes, **(COMMON | settings)).fit(rows.x.numpy(), y), rows, y


@pytest.mark.parametrize(
    "settings", [{}, {"encoder": "mlp"}, {"encoder": None}, {"encoder": None, "image_conditioned": True, "epochs": 4}]
)
def test_it_learns_its_classes_and_says_others_by_name(settings):
    model, rows, y = fitted(**settings)
    clip, task, _ = scene_rows()
    hand = PromptClassifier(clip, task.classes, **(COMMON | {"encoder": None, "lr": 0.0, "epochs": 1}))
    hand.fit(rows.x.numpy(), y)

    def loss(of):
        return -np.log(of.predict_proba(rows.x.numpy())[range(len(y)), rows.y.numpy()]).mean()

    assert loss(model) < loss(hand) - 1e-3
    assert model.score(rows.x.numpy(), y) == np.mean(model.predict(rows.x.numpy()) == y)
    said = model.predict(rows.test_x.numpy(), classnames=task.new)
    assert set(said) <= set(task.new)
    assert model.predict_proba(rows.test_x.numpy(), task.new).sum(1) == pytest.approx(np.ones(80), abs=1e-5)


def test_labels_by_place_and_features_give_the_same():
    model, rows, _ = fitted()
    clip, task, _ = scene_rows()
    with torch.no_grad():
        z = clip.encode_image(rows.x).numpy()
    other = PromptClassifier(clip, task.classes, **COMMON).fit(z, rows.y.numpy())
    assert np.allclose(other.predict_proba(z), model.predict_proba(rows.x.numpy()), atol=1e-5)


def test_names_are_taken_from_labels_where_none_are_given():
    x, y = coloured(NAMES, 12)
    model = PromptClassifier(small_clip(), **(COMMON | {"epochs": 1})).fit(x, y)
    assert model.classes_.tolist() == sorted(NAMES)


def test_the_model_is_left_as_it_was():
    clip = small_clip()
    next(clip.parameters()).requires_grad_(False)
    before, had = copy.deepcopy(clip.state_dict()), [each.requires_grad for each in clip.parameters()]
    x, y = coloured(NAMES, 12)
    model = PromptClassifier(clip, **(COMMON | {"epochs": 2})).fit(x, y)
    assert model.learner_.clip is clip
    assert all(torch.equal(each, before[name]) for name, each in clip.state_dict().items())
    assert [each.requires_grad for each in clip.parameters()] == had
    assert all(each.grad is None for each in clip.parameters())


def test_views_are_other_parts_of_the_same_images_and_seeds_decide():
    x, y = coloured(NAMES, 12)
    x[:, :, :8] = 0.0
    fits = [
        PromptClassifier(small_clip(), **(COMMON | {"epochs": 2, "views": views, "seed": seed})).fit(x, y)
        for views, seed in ((1, 0), (3, 0), (3, 0), (3, 1))
    ]
    contexts = [each.learner_.context for each in fits]
    assert not torch.equal(contexts[0], contexts[1])
    assert torch.equal(contexts[1], contexts[2])
    assert not torch.equal(contexts[1], contexts[3])


def test_a_saved_prompt_predicts_the_same(tmp_path):
    model, rows, _ = fitted()
    clip, task, _ = scene_rows()
    model.save(tmp_path / "prompt.safetensors")
    read = PromptClassifier.load(tmp_path / "prompt.safetensors", clip)
    x = rows.test_x.numpy()
    assert read.learner_.encoder is None
    assert np.allclose(read.predict_proba(x), model.predict_proba(x), atol=1e-6)
    assert np.array_equal(read.predict(x, task.new), model.predict(x, task.new))


def test_a_folder_of_transformers_and_images_of_any_size(tmp_path):
    pytest.importorskip("transformers")
    save_transformers_clip(tmp_path)
    names = ("red cat", "blue dog", "old oak")
    x, y = coloured(names, 12)
    large = (255 * x.repeat(2, axis=2).repeat(2, axis=3).transpose(0, 2, 3, 1)).astype(np.uint8)
    model = PromptClassifier(tmp_path, names, lr=0.1, epochs=3, views=2).fit(large, y)
    assert model.predict(large[:5], classnames=["fox", "old bird"]).shape == (5,)
    assert np.allclose(model.predict_proba(large), model.predict_proba(x), atol=0.05)
    model.save(tmp_path / "prompt.safetensors")
    read = PromptClassifier.load(tmp_path / "prompt.safetensors", tmp_path)
    assert np.allclose(read.predict_proba(x), model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        (
            np.zeros((2, 6)),
            ["red cat", "red bat"],
            {},
            "the label 'red bat' is not in classnames; did you mean red cat",
        ),
        (np.zeros((2, 6)), [0, 3], {}, "the label 3 is no place in the list of 3 classnames"),
        (np.zeros((2, 6)), [0, -1], {}, "the label -1 is no place"),
        (np.zeros((3, 6)), [0, 1], {}, "3 rows and 2 labels"),
        (np.zeros((0, 6)), [], {}, "0 rows and 0 labels"),
        (np.zeros((2, 5)), [0, 1], {}, "features are 5 wide and the model's 6"),
        (np.full((2, 6), np.nan), [0, 1], {}, "rows hold NaN or infinity"),
        (np.zeros((2, 6)), [0, 1], {"views": 2}, "views is 2 and rows are features"),
        (np.zeros((2, 6)), [0, 1], {"image_conditioned": True}, "moved by the image or rewritten by an encoder"),
        (np.zeros((2, 6)), [0, 1], {"template": "a photo"}, "the template is 'a photo'; give words and then {}"),
        (np.zeros((2, 6)), [0, 1], {"template": "{}"}, "the template is '{}'"),
        (np.zeros((2, 6)), [0, 1], {"n_ctx": 12}, "behind 12 context tokens takes"),
    ],
)
def test_errors(x, y, settings, message):
    with pytest.raises(FewerError, match=message):
        PromptClassifier(small_clip(), NAMES, **({"epochs": 1} | settings)).fit(x, y)


def test_errors_before_and_after_learning(tmp_path):
    for wrong in ({"epochs": 0}, {"batch": 0}, {"views": 0}):
        with pytest.raises(FewerError, match="epochs, batch and views must be 1 or more"):
            PromptClassifier(small_clip(), NAMES, **wrong)
    fresh = PromptClassifier(small_clip(), NAMES)
    with pytest.raises(FewerError, match="nothing was learned yet"):
        fresh.predict(np.zeros((2, 6)))
    with pytest.raises(FewerError, match="nothing was learned yet"):
        fresh.save(tmp_path / "x")
    x, y = coloured(NAMES, 12)
    model = PromptClassifier(small_clip(), NAMES, epochs=1).fit(x, y)
    assert model.predict(x[:0]).shape == (0,)
    with pytest.raises(FewerError, match="the class 'fox' is named twice"):
        model.predict(x, classnames=["fox", "fox"])
    with pytest.raises(FewerError, match="rows hold NaN"):
        model.predict(x * np.nan)
