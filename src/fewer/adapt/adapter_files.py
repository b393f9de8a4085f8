"""Files of bottleneck adapters: small safetensors, this library's own and those of AdapterHub.

Knows names and settings in files, and nothing of models.  AdapterHub's weights are taken up where its settings describe what
is computed here (Pfeiffer's placement); pickled files (``pytorch_adapter.bin``) are never opened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fewer.adapt.task_adapter import PARTS, TaskAdapter
from fewer.core.errors import FewerError
from fewer.core.tensor_files import read_tensors, write_tensors

FORMAT = "fewer-bottleneck-1"
"""Of a saved adapter."""

_THEIRS = re.compile(
    r"(?:^|\.)layer\.(?P<layer>\d+)\.(?P<where>.*?\.)adapters\.(?P<task>.+)\.adapter_(?P<part>down\.\d+|up)\.(?P<kind>weight|bias)$"
)
_SWISH = {"swish": "silu", "silu": "silu", "relu": "relu", "gelu": "gelu"}
_SETTINGS: dict[str, Any] = {
    "mh_adapter": False,
    "output_adapter": True,
    "original_ln_before": True,
    "original_ln_after": True,
    "residual_before_ln": True,
    "adapter_residual_before_ln": False,
    "ln_before": False,
    "ln_after": False,
    "is_parallel": False,
    "use_gating": False,
    "phm_layer": False,
    "leave_out": [],
}
"""What AdapterHub's settings must say, where they say anything."""


def save_adapters(adapters: Mapping[str, TaskAdapter], folder: str | os.PathLike[str]) -> list[Path]:
    """Write one file for each task, ``<task>.safetensors``, and nothing of the model.

    Parameters
    ----------
    adapters : mapping of str to TaskAdapter
        As :func:`~fewer.adapt.adapter_training.train_adapters` gives them.
    folder : path
        Made if it is missing.

    Raises
    ------
    FewerError
        If a task's name is none for a file.
    """
    written = []
    for task, adapter in adapters.items():
        if not re.fullmatch(r"[\w .-]+", task) or task.startswith("."):
            raise FewerError(f"adapters: {task!r} is no name for a file; use letters, digits, spaces, _, - and .")
        tensors = {
            f"layers.{index}.{part}": layer[part] for index, layer in enumerate(adapter.layers) for part in PARTS
        }
        header = {"format": FORMAT, "task": task, "activation": adapter.activation}
        written.append(Path(folder) / f"{task}.safetensors")
        write_tensors(written[-1], header, tensors)
    return written


def read_adapters(folder: str | os.PathLike[str]) -> dict[str, TaskAdapter]:
    """Read all adapters in a folder: files that :func:`save_adapters` wrote, and folders of AdapterHub's.

    Returns
    -------
    dict of str to TaskAdapter
        By task, in the order of the names.

    Raises
    ------
    FewerError
        If there is none, two are of one task, or one cannot be read.
    """
    home = Path(folder).expanduser()
    if not home.is_dir():
        raise FewerError(f"adapters: no folder at {home}; give the folder that save_adapters wrote to")
    if (home / "adapter_config.json").is_file():
        raise FewerError(
            f"adapters: {home} is a single adapter; give the folder it lies in, or read it by read_adapter"
        )
    paths = [each for each in sorted(home.iterdir()) if each.suffix == ".safetensors" or _is_theirs(each)]
    if not paths:
        raise FewerError(f"adapters: none in {home}; give the folder that save_adapters wrote to")
    found: dict[str, TaskAdapter] = {}
    for path in paths:
        adapter = read_adapter(path)
        if adapter.task in found:
            raise FewerError(f"adapters: two in {home} are of the task {adapter.task!r}; remove one")
        found[adapter.task] = adapter
    return found


def read_adapter(path: str | os.PathLike[str]) -> TaskAdapter:
    """Read one adapter: a file that :func:`save_adapters` wrote, or a folder of AdapterHub's with safetensors.

    Raises
    ------
    FewerError
        If it cannot be read, is pickled, or is an adapter of another kind.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return _read_theirs(path)
    header, tensors = _tensors(path)
    if header.get("format") != FORMAT:
        return adapter_of_state(tensors, path.stem)
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        _, index, part = name.split(".", 2)
        layers.setdefault(int(index), {})[part] = tensor
    return TaskAdapter(header["task"], tuple(layers[each] for each in sorted(layers)), header["activation"])


def adapter_of_state(
    state: Mapping[str, Tensor], task: str | None = None, settings: Mapping[str, Any] | None = None
) -> TaskAdapter:
    """Take an adapter out of a state dict with AdapterHub's names.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``…layer.0.output.adapters.sst-2.adapter_down.0.weight`` and so on, as of BERT and RoBERTa, or with
        ``output_adapters.adapters`` as of DistilBERT and ViT; other tensors, such as a head, are passed over.
    task : str, optional
        The name it gets; by default the one in the state dict.
    settings : mapping, optional
        What ``adapter_config.json`` says under ``config``; by default Pfeiffer's.

    Raises
    ------
    FewerError
        If it holds no bottleneck adapter, several, one of another placement, or one whose settings are not computed here.

    Examples
    --------
    >>> import torch
    >>> parts = {"down.0.weight": (2, 8), "down.0.bias": (2,), "up.weight": (8, 2), "up.bias": (8,)}
    >>> name = "bert.encoder.layer.0.output.adapters.sst-2.adapter_"
    >>> adapter_of_state({name + part: torch.zeros(shape) for part, shape in parts.items()}).task
    'sst-2'
    """
    what = f"adapter {task}" if task else "adapter"
    said = dict(settings or {})
    for name, wanted in _SETTINGS.items():
        if name in said and said[name] != wanted and not (wanted == [] and not said[name]):
            raise FewerError(
                f"{what}: its setting {name} is {said[name]!r} and {wanted!r} is what is computed here; give one of Pfeiffer's "
                "placement (AdapterHub's seq_bn)"
            )
    scaling, activation = said.get("scaling", 1.0), str(said.get("non_linearity", "relu")).lower()
    if not isinstance(scaling, int | float) or activation not in _SWISH:
        raise FewerError(
            f"{what}: its scaling is {scaling!r} and its non-linearity {activation!r}; a number, and one of "
            f"{', '.join(sorted(_SWISH))} are known here"
        )
    layers: dict[int, dict[str, Tensor]] = {}
    tasks, other = set(), ""
    for name, tensor in state.items():
        match = _THEIRS.search(name)
        if match is None:
            other = other or (name if re.search(r"lora_|adapter|prefix|ia3", name) else "")
            continue
        if not match["where"].startswith("output"):
            raise FewerError(
                f"{what}: {name} stands behind the attention (Houlsby's placement); give one that stands behind the "
                "feed-forward part alone"
            )
        tasks.add(match["task"])
        part = f"{match['part'].split('.')[0]}.{match['kind']}"
        layers.setdefault(int(match["layer"]), {})[part] = tensor.float() * (scaling if part.startswith("up") else 1.0)
    if not layers:
        hint = f" (it holds {other})" if other else ""
        raise FewerError(
            f"{what}: there is no bottleneck adapter in it{hint}; give one whose tensors are named "
            "…layer.0.output.adapters.NAME.adapter_down.0.weight, or one that save_adapters wrote"
        )
    if len(tasks) > 1:
        raise FewerError(f"{what}: it holds the adapters of {', '.join(sorted(tasks))}; give one at a time")
    if sorted(layers) != list(range(len(layers))):
        raise FewerError(f"{what}: it has adapters in layers {sorted(layers)} alone; give one with all layers")
    return TaskAdapter(task or tasks.pop(), tuple(layers[each] for each in sorted(layers)), _SWISH[activation])


def _is_theirs(path: Path) -> bool:
    return path.is_dir() and (path / "adapter_config.json").is_file()


def _read_theirs(folder: Path) -> TaskAdapter:
    try:
        config: Any = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FewerError(f"{folder} holds no adapter_config.json that can be read ({error})") from error
    if not isinstance(config, dict) or "peft_type" in config:
        kind = config.get("peft_type") if isinstance(config, dict) else config
        raise FewerError(f"{folder} holds an adapter of peft, of type {kind!r}; bottleneck adapters are read here")
    files = sorted(folder.glob("*.safetensors"))
    weights = [each for each in files if "head" not in each.stem]
    if not weights:
        raise FewerError(
            f"{folder} has no weights as safetensors (a pickled .bin is not opened); save it with use_safetensors=True"
        )
    return adapter_of_state(_tensors(weights[0])[1], config.get("name") or folder.name, config.get("config"))


def _tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return read_tensors(path, "saved adapter", "give a file that save_adapters wrote")
