"""Files of fitted classifiers: what was learned and the labels, and a hash of the frozen model by which it is known again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped
from torch import Tensor, nn

from fewer.adapt.adapted import Adapted
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.tensor_files import read_tensors, write_tensors


def save_classifier(
    path: str | os.PathLike[str],
    kind: str,
    adapted: Adapted,
    classes: Shaped[np.ndarray, " classes"],
    settings: Mapping[str, Any],
) -> None:
    """Write what was trained, the labels and settings, and nothing of the frozen model.

    Parameters
    ----------
    path : path
        A safetensors file.
    kind : str
        Of classifier, by which errors and the file's format are named.
    adapted : Adapted
        Its read-out holds the model as ``model``.
    classes : array (classes,)
        Labels: texts, numbers or booleans.
    settings : mapping
        What else is needed to build it again; what JSON can hold.

    Raises
    ------
    FewerError
        If labels are of another kind, or the file cannot be written.
    """
    if classes.dtype.kind not in "biufU":
        raise FewerError(f"{kind}: labels of the kind {classes.dtype} cannot be saved; fit on texts or numbers")
    header = {
        "format": _format(kind),
        "classes": classes.tolist(),
        "labels": classes.dtype.str,
        **settings,
        "model": model_hash(cast(nn.Module, adapted.readout.model)),
    }
    write_tensors(path, header, adapted.new())


def read_classifier(
    path: str | os.PathLike[str], kind: str, settings: Collection[str]
) -> tuple[dict[str, Any], Shaped[np.ndarray, " classes"], dict[str, Tensor]]:
    """Read what :func:`save_classifier` wrote: the header, the labels and the tensors.

    Raises
    ------
    FewerError
        If it is none of this kind, or the header lacks one of the ``settings``.
    """
    header, tensors = read_tensors(path, "saved classifier")
    fits = header.get("format") == _format(kind) and {*settings, "classes", "labels", "model"} <= set(header)
    try:
        if fits and np.dtype(header["labels"]).kind in "biufU":
            return header, np.array(header["classes"], dtype=header["labels"]), tensors
    except (TypeError, ValueError) as error:
        raise FewerError(f"{path} is no saved classifier ({error}); give a file that save() wrote") from error
    raise FewerError(f"{path} is no saved classifier; give a file that save() wrote")


def check_model(path: str | os.PathLike[str], header: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse a model that a classifier was not learned on."""
    if model_hash(model) != header["model"]:
        raise FewerError(f"{path} was learned on a model with other weights; give the one it was learned on")


def model_hash(model: nn.Module) -> str:
    """A hash of all weights of a model, but for what was built in; they are the same in whatever they are wrapped."""
    own = (each for name, each in model.state_dict().items() if "built_in" not in name.split("."))
    return fingerprint(*(each.detach().float().cpu().numpy() for each in own))


def _format(kind: str) -> str:
    return f"fewer-{kind}-1"
