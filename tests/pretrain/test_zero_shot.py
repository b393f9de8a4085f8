"""A classifier of names: its weights, its scikit-learn manners, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from fewer.core.errors import FewerError
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_towers import ImageTransformer, TextTransformer
from fewer.pretrain.vocabulary import Vocabulary
from fewer.pretrain.zero_shot import ZeroShotClassifier

NAMES = ["cat", "dog", "sea lion"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    words = Vocabulary(["a photo of the cat dog sea lion"] * 2, context=9)
    towers = ImageTransformer(8, 4, 16, 1, 2), TextTransformer(words.size, 16, 1, 2, words.context, words.end)
    return CLIP(*towers, 8, words)


def rows(count=5):
    return np.random.default_rng(0).random((count, 3, 8, 8), dtype=np.float32)


def test_one_template_is_the_prompt_brought_to_length_one(model):
    classifier = ZeroShotClassifier(model, NAMES).fit()
    expected = torch.nn.functional.normalize(model.encode_text([f"a photo of a {name}" for name in NAMES]), dim=1)
    assert torch.allclose(classifier.weights_, expected, atol=1e-6)


def test_templates_are_averaged_between_two_normalisations(model):
    templates = ["a photo of a {}", "the {}"]
    classifier = ZeroShotClassifier(model, NAMES, templates).fit()
    for name, found in zip(NAMES, classifier.weights_, strict=True):
        each = [model.encode_text([template.format(name)])[0] for template in templates]
        mean = sum(one / one.norm() for one in each) / 2
        assert torch.allclose(found, mean / mean.norm(), atol=1e-6)


def test_what_it_says_is_what_the_model_says(model):
    classifier = ZeroShotClassifier(model, NAMES, block=2)
    logits, _ = model.eval()(torch.from_numpy(rows()), [f"a photo of a {name}" for name in NAMES])
    assert np.allclose(classifier.decision_function(rows()), logits.detach().numpy(), atol=1e-5)
    chances = classifier.predict_proba(rows())
    assert np.allclose(chances.sum(1), 1, atol=1e-6)
    said = classifier.predict(rows())
    assert said.tolist() == [NAMES[best] for best in chances.argmax(1)]
    assert classifier.score(rows(), said) == 1.0
    assert ZeroShotClassifier(model, NAMES).predict(rows()).tolist() == said.tolist()  # names are embedded when needed
    assert clone(classifier).fit().classes_.tolist() == NAMES
    assert classifier.predict(rows(0)).tolist() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classnames": []}, "0 class names and 1 templates; give at least one of each"),
        ({"templates": []}, "3 class names and 0 templates"),
        ({"classnames": ["cat", "cat"]}, "the class 'cat' is named twice"),
        ({"templates": ["a photo"]}, "a template needs {} where the name goes"),
        ({"classnames": ["cat dog cat dog cat dog"]}, "takes 12 tokens and the text tower reads 9"),
    ],
)
def test_errors(model, options, message):
    with pytest.raises(FewerError, match=message):
        ZeroShotClassifier(**{"model": model, "classnames": NAMES, **options}).fit()


def test_no_images_have_no_probabilities(model):
    with pytest.raises(FewerError, match="there are no images"):
        ZeroShotClassifier(model, NAMES).predict_proba(rows(0))
