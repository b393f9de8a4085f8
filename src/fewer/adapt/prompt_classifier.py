"""Few-shot classification by a learned prompt: ``fit`` on some classes, ``predict`` among any by their names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from fewer.adapt.clip_images import CLIPImages
from fewer.adapt.context_encoders import Kind
from fewer.adapt.given_rows import Given
from fewer.adapt.loop import Adaptation, Labelled
from fewer.adapt.prompt_heads import LR, TEMPLATE, Prompt, PromptHead
from fewer.adapt.prompt_learning import PromptLearner, clip_of
from fewer.core.errors import FewerError, nearest
from fewer.core.seeding import torch_generator
from fewer.labels.clip import images as square
from fewer.models.optimisers import SGD, Cosine
from fewer.pretrain.clip import CLIP
from fewer.tasks.captions import cropped

LEAST_VIEW = 0.3
"""Side of the least part of an image that a random view shows."""


class PromptClassifier:
    """Learn a prompt for a frozen CLIP from few labels, and classify by names.

    Parameters
    ----------
    model : CLIP or path
        With its tokenizer, or the folder of a ``CLIPModel`` with its tokenizer.  Its weights are left as they are.
    classnames : sequence of str, optional
        The classes; by default those among the labels, sorted.
    encoder : {"lstm", "lstm2", "mlp", "mlp2", "transformer"}, optional
        What rewrites the context (PRE), "lstm" by default; None learns the vectors themselves (CoOp).
    template : str, default "a photo of a {}."
        The words before ``{}`` are what the context begins with; what is behind stands behind each name.
    n_ctx : int, optional
        So many random vectors to begin with, in place of the template's words.
    residual, separate : bool, default True and False
        See :class:`~fewer.adapt.context_encoders.ContextEncoder`.
    image_conditioned : bool, default False
        CoCoOp, with ``encoder=None``.
    lr : float, default 0.002
        Peak learning rate of SGD.
    epochs, batch : int, default 50 and 32
        Times through the rows; the rate rises in the first.  Rows a step.
    views : int, default 1
        Random parts of each image, mirrored or not, that are encoded before training; 1 takes the image itself.
    seed : int, default 0
        Of order, weights and views.

    Attributes
    ----------
    classes_ : array of str
        Names that were learned.
    learner_ : PromptLearner
        The prompt; ``learner_.encoded()`` is its context, ``learner_.folded()`` the same without the encoder.

    Examples
    --------
    >>> from fewer.adapt.redrawn_scenes import RedrawnScenes
    >>> task = RedrawnScenes(shots=2, test=4, steps=1)
    >>> rows, clip = task.labelled(0), task.base(0).clip
    >>> model = PromptClassifier(clip, task.classes, template="a photo of a {}", lr=0.1, epochs=1)
    >>> model = model.fit(rows.x.numpy(), rows.y.numpy())
    >>> model.predict_proba(rows.test_x.numpy(), classnames=task.new).shape
    (8, 16)
    """

    def __init__(
        self,
        model: CLIP | str | os.PathLike[str],
        classnames: Sequence[str] | None = None,
        encoder: Kind | None = "lstm",
        template: str = TEMPLATE,
        n_ctx: int | None = None,
        residual: bool = True,
        separate: bool = False,
        image_conditioned: bool = False,
        lr: float = LR,
        epochs: int = 50,
        batch: int = 32,
        views: int = 1,
        seed: int = 0,
    ) -> None:
        if min(epochs, batch, views) < 1:
            raise FewerError(f"prompt: epochs, batch and views must be 1 or more; given {epochs}, {batch} and {views}")
        self.model, self.classnames, self.template = model, classnames, template
        self.encoder: Kind | None = encoder
        self.n_ctx, self.residual, self.separate = n_ctx, residual, separate
        self.image_conditioned, self.lr, self.epochs = image_conditioned, lr, epochs
        self.batch, self.views, self.seed = batch, views, seed

    def fit(self, x: Shaped[np.ndarray, "rows ..."], y: Sequence[Any]) -> PromptClassifier:
        """Learn the prompt.

        Parameters
        ----------
        x : array (rows, channels, height, width) or (rows, width)
            Images as the model was trained with (of a model from a folder, any images with bytes or numbers in [0, 1]), or
            features as its ``encode_image`` gives them.
        y : sequence (rows,)
            Names of classes, or their places in ``classnames``.

        Raises
        ------
        FewerError
            If rows and labels do not match, or a label is none of the classes.
        """
        clip = clip_of(self.model)
        rows, (classes, places) = self._rows(clip, x), self._labels(y)
        if len(rows) != len(places) or not len(rows):
            raise FewerError(
                f"prompt: {len(rows)} rows and {len(places)} labels; give at least one row, and a label each"
            )
        steps = self.epochs * -(-len(rows) // self.batch)
        had = [each.requires_grad for each in clip.parameters()]
        if self.views > 1:
            rows, places = self._seen(clip, rows), places.repeat(self.views)
        head = Prompt(self.encoder, self.n_ctx, self.template, self.residual, self.separate, self.image_conditioned)
        loop = Adaptation(
            head=head,
            optimiser=SGD(self.lr),
            schedule=Cosine(warmup=1 / self.epochs if self.epochs > 1 else 0.0),
            steps=steps,
            batch=self.batch,
            points=1,
        )
        task = Given(CLIPImages(clip), Labelled(rows, places, rows[:0], places[:0]), classes)
        try:
            adapted, _ = loop.train(loop.start(task, len(places), self.seed), len(places))
        finally:
            for each, before in zip(clip.parameters(), had, strict=True):
                each.requires_grad_(before)
        self.learner_ = cast(PromptHead, adapted.head).learner.requires_grad_(False).eval()
        self.learner_.use(clip)  # and not the loop's copy of it
        self.classes_ = np.array(classes)
        return self

    def predict_proba(
        self, x: Shaped[np.ndarray, "rows ..."], classnames: Sequence[str] | None = None
    ) -> Float[np.ndarray, "rows classes"]:
        """How probable each class is: those that were learned, or others by name."""
        if not hasattr(self, "learner_"):
            raise FewerError("prompt: nothing was learned yet; call fit first, or load what was saved")
        clip = self.learner_.clip
        rows, names = self._rows(clip, x), None if classnames is None else tuple(classnames)
        with torch.no_grad():
            return self.learner_(_features(clip, rows), names).softmax(1).cpu().numpy()

    def predict(
        self, x: Shaped[np.ndarray, "rows ..."], classnames: Sequence[str] | None = None
    ) -> Shaped[np.ndarray, " rows"]:
        """The name of the most probable class, among those that were learned or among others."""
        names = self.classes_ if classnames is None and hasattr(self, "classes_") else np.array(classnames)
        return names[self.predict_proba(x, classnames).argmax(1)]

    def score(self, x: Shaped[np.ndarray, "rows ..."], y: Sequence[str]) -> float:
        """Share of rows whose class is found among those that were learned."""
        return float(np.mean(self.predict(x) == np.asarray(y)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the folded context and the names: see :meth:`~fewer.adapt.prompt_learning.PromptLearner.save`."""
        if not hasattr(self, "learner_"):
            raise FewerError("prompt: nothing was learned yet; call fit first")
        self.learner_.save(path)

    @staticmethod
    def load(path: str | os.PathLike[str], model: CLIP | str | os.PathLike[str]) -> PromptClassifier:
        """A fitted classifier from what :meth:`save` wrote, for the same model."""
        learner = PromptLearner.load(path, model)
        found = PromptClassifier(learner.clip, learner.classnames)
        found.learner_, found.classes_ = learner, np.array(learner.classnames)
        return found

    def _labels(self, y: Sequence[Any]) -> tuple[tuple[str, ...], Int[Tensor, " rows"]]:
        labels = np.asarray(y)
        if self.classnames is None:
            names, places = np.unique(labels.astype(str), return_inverse=True)
            return tuple(names.tolist()), torch.from_numpy(places.astype(np.int64))
        names = tuple(self.classnames)
        if labels.dtype.kind in "iu":
            outside = labels[(labels < 0) | (labels >= len(names))]
            if len(outside):
                raise FewerError(f"prompt: the label {outside[0]} is no place in the list of {len(names)} classnames")
            return names, torch.from_numpy(labels.astype(np.int64))
        known = {name: place for place, name in enumerate(names)}
        for label in labels.tolist():
            if label not in known:
                raise FewerError(f"prompt: the label {label!r} is not in classnames; {nearest(str(label), names)}")
        return names, torch.tensor([known[label] for label in labels.tolist()], dtype=torch.int64)

    def _rows(self, clip: CLIP, x: Shaped[np.ndarray, "rows ..."]) -> Float[Tensor, "rows ..."]:
        x = np.asarray(x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise FewerError("prompt: rows hold NaN or infinity; fill or drop them")
        if x.ndim == 2 or clip.pixels is None:
            return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        return square(x, getattr(clip.image_tower, "size", 224)).contiguous()

    def _seen(self, clip: CLIP, rows: Tensor) -> Float[Tensor, "rows width"]:
        """Features of random views, one view of all rows after the other."""
        if rows.ndim == 2:
            raise FewerError(f"prompt: views is {self.views} and rows are features; give images, or views=1")
        draws, parts = torch_generator(self.seed, "views"), []
        for _ in range(self.views):
            view = cropped(rows, LEAST_VIEW, draws)
            mirrored = torch.rand(len(rows), 1, 1, 1, generator=draws) < 0.5
            parts.append(_features(clip, torch.where(mirrored, view.flip(3), view)).cpu())
        return torch.cat(parts)


def _features(clip: CLIP, rows: Tensor, block: int = 256) -> Float[Tensor, "rows width"]:
    encode = CLIPImages(clip).eval()
    where = clip.logit_scale.device
    with torch.no_grad():
        found = [encode(part.to(where)) for part in rows.split(block)]
    return torch.cat(found) if found else torch.zeros(0, encode.width, device=where)
