"""A classifier made of names: an image is of the class whose sentence is nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from fewer.core.errors import FewerError
from fewer.labels.clip import images
from fewer.pretrain.clip import CLIP


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify images by the names of classes alone.

    Each template is filled with the name and embedded; embeddings are brought to length one, averaged over the templates
    and brought to length one again.

    Parameters
    ----------
    model : CLIP
        With its tokenizer.
    classnames : sequence of str
        What there is to see.
    templates : sequence of str, default ("a photo of a {}",)
        Sentences with ``{}`` for the name.
    block : int, default 256
        Images at a time.

    Attributes
    ----------
    classes_ : array of str
        The names.

    Examples
    --------
    >>> from fewer.pretrain.loop import Contrastive
    >>> from fewer.pretrain.clip import clip_training
    >>> from fewer.tasks.scenes import scenes
    >>> learned = Contrastive(batch=8, points=1, **clip_training()).learn(scenes(test=4), budget=8)
    >>> classifier = ZeroShotClassifier(learned.result.model, ["red circle", "blue bar"]).fit()
    >>> classifier.predict_proba(np.zeros((5, 3, 24, 24), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        model: CLIP,
        classnames: Sequence[str],
        templates: Sequence[str] = ("a photo of a {}",),
        block: int = 256,
    ) -> None:
        self.model = model
        self.classnames = classnames
        self.templates = templates
        self.block = block

    def fit(self, X: object = None, y: object = None) -> ZeroShotClassifier:
        """Embed the names; images and labels are not looked at.

        Raises
        ------
        FewerError
            If there are no names or templates, a name twice, a template without ``{}``, or a prompt longer than the text
            tower reads.
        """
        names, templates = list(self.classnames), list(self.templates)
        if not names or not templates:
            raise FewerError(
                f"zero-shot: {len(names)} class names and {len(templates)} templates; give at least one of each"
            )
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise FewerError(f"zero-shot: the class {twice!r} is named twice; give each name once")
        if any("{}" not in template for template in templates):
            raise FewerError(f"zero-shot: a template needs {{}} where the name goes; given {templates}")
        self.model.eval()
        with torch.inference_mode():
            prompts = [template.format(name) for name in names for template in templates]
            embedded = self.model.encode_text(self.model.tokens(prompts, whole=True))
            each = nn.functional.normalize(embedded, dim=1).view(len(names), len(templates), -1)
            self.weights_ = nn.functional.normalize(each.mean(1), dim=1)
        self.classes_ = np.array(names)
        return self

    def decision_function(self, X: Shaped[np.ndarray, "images ..."]) -> Float[np.ndarray, "images classes"]:
        """The model's logits."""
        if not hasattr(self, "weights_"):
            self.fit()
        if not len(X):
            raise FewerError("zero-shot: there are no images; give at least one")
        found = []
        self.model.eval()
        with torch.inference_mode():
            for begin in range(0, len(X), self.block):
                seen = self.model.encode_image(self._prepared(np.asarray(X[begin : begin + self.block])))
                found.append(self.model.logit_scale.exp() * nn.functional.normalize(seen, dim=1) @ self.weights_.T)
        return torch.cat(found).cpu().numpy()

    def predict_proba(self, X: Shaped[np.ndarray, "images ..."]) -> Float[np.ndarray, "images classes"]:
        """How probable each class is; the order is that of ``classes_``."""
        return torch.from_numpy(self.decision_function(X)).softmax(1).numpy()

    def predict(self, X: Shaped[np.ndarray, "images ..."]) -> Shaped[np.ndarray, " images"]:
        """The name of the nearest class.

        Parameters
        ----------
        X : array (images, channels, height, width)
            As the model was trained with; of a model from a folder, any images with bytes or numbers in [0, 1].
        """
        if not len(X):
            return np.array([], dtype=str)
        nearest = self.decision_function(X).argmax(1)
        return self.classes_[nearest]

    def _prepared(self, x: np.ndarray) -> torch.Tensor:
        where = self.model.logit_scale
        if self.model.pixels is None:
            return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(where.device)
        mean, deviation = (torch.tensor(each)[:, None, None] for each in self.model.pixels)
        side = getattr(self.model.image_tower, "size", 224)
        return ((images(x, side) - mean) / deviation).to(where.device)
