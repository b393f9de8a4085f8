"""Video transformers of ``transformers``, from a folder on this machine: clips to one token for each patch.

These networks take (rows, frames, channels, height, width), at pixels brought to the mean and deviation that they were
trained with.  Nothing is downloaded, unpickled or run from the folder.

Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training",
arXiv:2203.12602.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from fewer.core.errors import FewerError, need


class TransformersVideo(nn.Module):
    """A video transformer of ``transformers`` as a module from clips to tokens.

    Parameters
    ----------
    model : nn.Module
        Such as ``VideoMAEModel``: called with (rows, frames, channels, height, width), it gives a ``last_hidden_state`` of one
        token for each patch, in raster order.
    mean, deviation : sequence of float, optional
        Of each channel, taken off and divided by first; by default pixels go in as they are.

    Examples
    --------
    >>> from transformers import VideoMAEConfig, VideoMAEModel
    >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    >>> model = VideoMAEModel(VideoMAEConfig(image_size=8, patch_size=4, num_frames=4, num_channels=1, **sizes))
    >>> TransformersVideo(model)(torch.zeros(3, 1, 4, 8, 8)).shape
    torch.Size([3, 8, 16])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] = (0.0,), deviation: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.model = model
        for name, numbers in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(list(numbers), dtype=torch.float32)[:, None, None, None])

    def forward(self, x: Float[Tensor, "rows channels frames height width"]) -> Float[Tensor, "rows places width"]:
        """Tokens of all places.

        Raises
        ------
        FewerError
            If the network does not take such clips.
        """
        try:
            return self.model(((x - self.mean) / self.deviation).transpose(1, 2)).last_hidden_state
        except (ValueError, RuntimeError) as error:
            raise FewerError(
                f"video transformer: clips of {tuple(x.shape[1:])} (channels, frames, height, width) do not fit "
                f"{type(self.model).__name__} ({str(error).splitlines()[0]}); give clips of the size it was trained with"
            ) from error


def load_video_transformer(path: str | os.PathLike[str]) -> TransformersVideo:
    """Load one from a folder that ``save_pretrained`` wrote; its pixels' mean and deviation, if a processor's file says them.

    Parameters
    ----------
    path : path
        A folder with ``config.json`` and ``model.safetensors``, perhaps ``preprocessor_config.json``.

    Raises
    ------
    FewerError
        If the folder cannot be read.
    MissingPackage
        If transformers is not installed.
    """
    transformers = need("transformers", extra="language", what="a video transformer from a folder")
    folder = Path(path).expanduser()
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FewerError(f"video transformer: no {missing[0]} in {folder}; give a folder that save_pretrained wrote")
    scale: dict[str, Sequence[float]] = {}
    try:
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        if (folder / "preprocessor_config.json").is_file():
            said = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
            if said.get("do_normalize", True) and "image_mean" in said and "image_std" in said:
                scale = {"mean": said["image_mean"], "deviation": said["image_std"]}
        return TransformersVideo(model.float().eval(), **scale)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise FewerError(f"video transformer: cannot read {folder} ({str(error).splitlines()[0]})") from error
