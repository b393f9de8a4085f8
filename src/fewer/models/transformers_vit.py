"""Vision transformers of ``transformers``, from a folder on this machine, where an encoder of patches is asked for.

The patches that are not seen are taken out after the network's own embedding, before its first layer; what comes before
the patches (class and register tokens) stays.  Nothing is downloaded, unpickled or run from the folder.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", arXiv:2010.11929.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.models.tokens import PatchEncoder, gathered, grid_of
from fewer.models.vit import undecayed


class TransformersEncoder(PatchEncoder):
    """A vision transformer of ``transformers`` as an encoder of patches.

    Parameters
    ----------
    model : nn.Module
        Such as ``ViTModel`` or ``Dinov2Model``: it has ``embeddings`` that give one sequence of tokens, and a
        ``last_hidden_state``.  It is trained as it is; ``save_pretrained`` writes it.

    Raises
    ------
    FewerError
        If it has no such embeddings.

    Examples
    --------
    >>> from transformers import ViTConfig, ViTModel
    >>> sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    >>> encoder = TransformersEncoder(ViTModel(ViTConfig(image_size=8, patch_size=4, num_channels=1, **sizes)))
    >>> encoder.tokens(torch.zeros(3, 1, 8, 8), torch.tensor([[0, 3]] * 3)).shape, encoder(torch.zeros(3, 1, 8, 8)).shape
    (torch.Size([3, 2, 16]), torch.Size([3, 16]))
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        if not isinstance(getattr(model, "embeddings", None), nn.Module) or not hasattr(config, "patch_size"):
            raise FewerError(
                f"transformers encoder: {type(model).__name__} has no embeddings of patches; give a vision transformer such as "
                "ViTModel, without a head"
            )
        self.model, self.width = model, config.hidden_size
        image, patch = (
            tuple(each) if isinstance(each, list | tuple) else (each, each)
            for each in (config.image_size, config.patch_size)
        )
        self.shape, self.patch = (config.num_channels, *image), patch
        self.grid = grid_of(image, patch)
        self.places = self.grid[0] * self.grid[1]

    def tokens(
        self, x: Float[Tensor, "rows channels height width"], keep: Int[Tensor, "rows kept"] | None = None
    ) -> Float[Tensor, "rows kept width"]:
        """Tokens of the kept places, in the order of ``keep``; of all places in raster order by default."""
        if tuple(x.shape[1:]) != self.shape:
            raise FewerError(
                f"transformers encoder: images are {tuple(x.shape[1:])} and the network was made for {self.shape}; scale them "
                "to that size"
            )
        first = 0

        def seen(layer: nn.Module, given: Any, embedded: Any) -> Tensor:
            nonlocal first
            if not isinstance(embedded, Tensor) or embedded.ndim != 3 or embedded.shape[1] < self.places:
                raise FewerError(
                    f"transformers encoder: the embeddings of {type(self.model).__name__} are not one token for each patch; "
                    "load a network that masks by itself as a plain one, such as ViTModel for ViTMAE"
                )
            first = embedded.shape[1] - self.places
            if keep is None:
                return embedded
            return torch.cat([embedded[:, :first], gathered(embedded[:, first:], keep)], dim=1)

        hook = cast(nn.Module, self.model.embeddings).register_forward_hook(seen)
        try:
            found = self.model(x).last_hidden_state
        finally:
            hook.remove()
        return found[:, first:]

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of biases, norms, positions and tokens of their own."""
        return undecayed(*(each for each in self.model.parameters() if each.ndim < 2 or each.ndim == 3))


@dataclass(frozen=True)
class TransformersViT:
    """Describes a vision transformer in a folder that ``save_pretrained`` wrote.

    Parameters
    ----------
    path : path
        A folder with ``config.json``, and ``model.safetensors`` unless the weights shall be drawn anew.
    fresh : bool, default False
        Draw the weights anew.
    """

    path: str | os.PathLike[str]
    fresh: bool = False

    def build(self, shape: tuple[int, ...]) -> TransformersEncoder:
        """Load it for rows of ``shape``.

        Raises
        ------
        FewerError
            If there is no such folder, it cannot be read, or images have another size.
        MissingPackage
            If transformers is not installed.
        """
        transformers = need("transformers", extra="language", what="a vision transformer from a folder")
        folder = Path(self.path).expanduser()
        if not (folder / "config.json").is_file():
            raise FewerError(f"transformers vit: no config.json in {folder}; give a folder that save_pretrained wrote")
        try:
            if self.fresh or not (folder / "model.safetensors").is_file():
                model = transformers.AutoModel.from_config(
                    transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
                )
            else:
                model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise FewerError(f"transformers vit: cannot read {folder} ({str(error).splitlines()[0]})") from error
        encoder = TransformersEncoder(model.float())
        if tuple(shape) != encoder.shape:
            raise FewerError(
                f"transformers vit: rows are {tuple(shape)} and the network in {folder} takes {encoder.shape}; scale the rows, "
                f"such as images(size={encoder.shape[-1]})"
            )
        return encoder
