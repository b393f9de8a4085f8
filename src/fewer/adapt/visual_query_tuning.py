"""Visual query tuning as a scikit-learn classifier of images, on a vision transformer that is left as it is."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from fewer.adapt.adapted import Adapted
from fewer.adapt.adapter_training import fit_rows
from fewer.adapt.classifier_files import check_model, read_classifier, save_classifier
from fewer.adapt.feature_selection import KeptHead, selecting_head
from fewer.adapt.first_token import encoder_of
from fewer.adapt.loop import Adaptation, HeadModule, LinearHead
from fewer.adapt.vqt import VQT, First, QueryTokens
from fewer.core.errors import FewerError
from fewer.models.optimisers import AdamW, Cosine

SETTINGS = ("tokens", "normalise", "dropout", "first")
"""Of the read-out, as they are saved."""

Images = Float[np.ndarray, "rows channels height width"]


class VisualQueryTuning(ClassifierMixin, BaseEstimator):
    """A frozen vision transformer, a few learned queries in each of its layers, and a linear head on what they read.

    Parameters
    ----------
    model : nn.Module or path
        ``ViTModel``, ``DeiTModel``, ``CLIPVisionModel`` or ``Dinov2Model`` of ``transformers``, the folder of one, or this
        library's or timm's vision transformer.  It is left as it is to the bit: a frozen copy is adapted.
    tokens : int, default 1
        Queries of each block; 10 to 20 for tasks of places and counts.
    normalise : bool, default True
        Bring each block's summary to length one.
    dropout : float, default 0.1
        Of the queries' numbers while training.
    first : {"token", "mean"}, default "token"
        What is read behind the last norm: the class token, or the mean of the patches, for a masked autoencoder.
    lr, weight_decay : float, default 0.03 and 1e-3
        AdamW's, of queries and head; the rate rises over a tenth of the training and falls along half a cosine.
    epochs, batch : int, default 100 and 64
        Times through the rows, and rows a step.
    validation : float, default 0
        Share of the rows that is put aside; what does best on them is kept.
    seed : int, default 0
        Of weights and order.

    Attributes
    ----------
    classes_ : array
        Labels, in the order of probabilities.
    adapted_ : Adapted
        Read-out and head.
    kept_ : int array, optional
        Places of the features that :meth:`compress` has kept.

    Examples
    --------
    >>> from fewer.models.vit import VisionTransformer
    >>> net = VisionTransformer(img_size=8, patch_size=4, in_chans=1, num_classes=0, embed_dim=16, depth=2, num_heads=2)
    >>> rng = np.random.default_rng(0)
    >>> images, y = rng.random((12, 1, 8, 8), dtype=np.float32), np.array(["a", "b"] * 6)
    >>> model = VisualQueryTuning(net.requires_grad_(False), epochs=3).fit(images, y)
    >>> model.predict(images).shape, model.features(images).shape, model.compress(0.5, images, y).kept_.shape
    ((12,), (12, 48), (24,))
    """

    def __init__(
        self,
        model: nn.Module | str | os.PathLike[str],
        tokens: int = 1,
        *,
        normalise: bool = True,
        dropout: float = 0.1,
        first: First = "token",
        lr: float = 0.03,
        weight_decay: float = 1e-3,
        epochs: int = 100,
        batch: int = 64,
        validation: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.model, self.tokens, self.normalise, self.dropout = model, tokens, normalise, dropout
        self.first: First = first
        self.lr, self.weight_decay, self.epochs, self.batch = lr, weight_decay, epochs, batch
        self.validation, self.seed = validation, seed

    def fit(self, x: Images, y: Sequence[Any]) -> VisualQueryTuning:
        """Learn queries and head.

        Parameters
        ----------
        x : float array (rows, channels, height, width)
            Scaled as the model learned them.
        y : sequence
            A label for each.

        Raises
        ------
        FewerError
            If images, labels and model do not fit one another, or the model is none whose blocks can be looked into.
        """
        encoder = self._encoder()
        loop = Adaptation(
            **VQT(self.tokens, self.normalise, self.dropout, self.first),
            optimiser=AdamW(self.lr, self.weight_decay),
            schedule=Cosine(warmup=0.1),
            batch=self.batch,
            validation=self.validation,
            points=1,
        )
        rows = _images(x)
        if self.epochs < 1:
            raise FewerError(f"vqt: epochs is {self.epochs}; give 1 or more")
        self.adapted_, self.classes_ = fit_rows(loop, encoder, rows, y, self.seed, "vqt", self.epochs)
        self.__dict__.pop("kept_", None)
        return self

    def features(self, x: Images) -> Float[np.ndarray, "rows width"]:
        """What the head reads: the first feature, then each block's summary."""
        adapted = self._ready()
        return adapted.features(_images(x)).cpu().numpy()

    def predict_proba(self, x: Images) -> Float[np.ndarray, "rows classes"]:
        """Probabilities of ``classes_``."""
        adapted = self._ready()
        return adapted.probabilities(_images(x))

    def predict(self, x: Images) -> np.ndarray:
        """The most probable labels."""
        said = self.predict_proba(x)
        return self.classes_[said.argmax(1)]

    @property
    def head(self) -> HeadModule:
        """What was learned on top of the features."""
        return self._ready().head

    def compress(self, fraction: float, x: Images, y: Sequence[Any], penalty: float = 1e-4) -> VisualQueryTuning:
        """Keep a share of the features, those a head with a group penalty weighs most, and learn a head on these anew.

        Queries stay; done again, it chooses among all features again.

        Parameters
        ----------
        fraction : float
            Share that is kept, above 0 and at most 1.
        x, y : arrays
            The rows that were learned from.
        penalty : float, default 1e-4
            Of the sum over features of the norm of their weights.

        Raises
        ------
        FewerError
            If nothing was fitted, or there is a label that was not there then.
        """
        adapted, labels = self._ready(), np.asarray(y)
        unknown = sorted({str(each) for each in labels} - {str(each) for each in self.classes_})
        if unknown:
            raise FewerError(
                f"vqt: the label {unknown[0]!r} was not there in fit; give the rows that were learned from"
            )
        rows = _images(x)
        if len(rows) != len(labels):
            raise FewerError(f"vqt: {len(rows)} images and {len(labels)} labels; give one for each")
        places = torch.from_numpy(np.searchsorted(self.classes_, labels))
        steps = self.epochs * -(-len(rows) // self.batch)
        head = selecting_head(
            adapted.features(rows), places, len(self.classes_), fraction, penalty, steps, self.lr, self.seed
        )
        self.adapted_ = Adapted(adapted.readout, head, None, adapted.classes)
        self.kept_: Int[np.ndarray, " kept"] = head.places.cpu().numpy()
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write queries, head and labels as safetensors, and nothing of the model."""
        adapted, settings = self._ready(), {name: getattr(self, name) for name in SETTINGS}
        save_classifier(path, "vqt", adapted, self.classes_, settings)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | str | os.PathLike[str]) -> VisualQueryTuning:
        """Take up what :meth:`save` wrote, on the same model.

        Raises
        ------
        FewerError
            If the file is none of these, or was learned on another model.
        """
        header, classes, tensors = read_classifier(path, "vqt", SETTINGS)
        made = cls(model, **{name: header[name] for name in SETTINGS})
        encoder = made._encoder().requires_grad_(False).eval()
        check_model(path, header, encoder)
        readout = QueryTokens(**{name: header[name] for name in SETTINGS}).build(encoder, cast(Any, None))
        made.classes_ = classes
        places = tensors.get("head.places")
        linear = nn.Linear(cast(Any, readout).width if places is None else len(places), len(made.classes_))
        head = LinearHead(linear) if places is None else KeptHead(linear, places)
        made.adapted_ = Adapted(readout.eval(), head.eval(), None, tuple(map(str, made.classes_)))
        made.adapted_.take(tensors, path)
        if places is not None:
            made.kept_ = places.numpy()
        return made

    def _encoder(self) -> nn.Module:
        """A frozen copy of the model."""
        model = self.model
        if isinstance(model, nn.Module):
            if any(each.requires_grad for each in model.parameters()):
                warnings.warn(
                    "vqt: parameters of the model may be trained; a frozen copy is adapted, and yours stays as it is "
                    "(requires_grad_(False) says so)",
                    stacklevel=3,
                )
            model = copy.deepcopy(model)
        return encoder_of(model).requires_grad_(False)

    def _ready(self) -> Adapted:
        if not hasattr(self, "adapted_"):
            raise FewerError("vqt: nothing is fitted yet; call fit, or load what was saved")
        return self.adapted_


def _images(x: Any) -> Tensor:
    """Images as a tensor.

    Raises
    ------
    FewerError
        If there are none, they are of another shape, or hold what is not finite.
    """
    rows = x if isinstance(x, Tensor) else np.asarray(x)
    floats = rows.is_floating_point() if isinstance(rows, Tensor) else rows.dtype.kind == "f"
    if rows.ndim != 4 or not floats:
        raise FewerError(
            "vqt: images must be floats (rows, channels, height, width), scaled as the model learned them; these are "
            f"{str(rows.dtype).removeprefix('torch.')} of shape {tuple(rows.shape)}"
        )
    if not len(rows):
        raise FewerError("vqt: there are no images; give at least one")
    rows = torch.as_tensor(rows, dtype=torch.float32)
    if not bool(torch.isfinite(rows).all()):
        raise FewerError("vqt: images hold NaN or infinity; fill or drop them")
    return rows
