"""A CLIP as a model to adapt: images to features in the space it shares with texts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.labels.clip import images
from fewer.pretrain.clip import CLIP
from fewer.pretrain.clip_weights import load_clip


class CLIPImages(nn.Module):
    """Images to features; what are features already stay as they are.

    Parameters
    ----------
    clip : CLIP
        Its tokenizer and text tower are what prompts are made with.

    Attributes
    ----------
    width : int
        Of the common space.
    """

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip, self.width = clip, clip.image_projection.out_features

    def forward(self, x: Float[Tensor, "rows ..."]) -> Float[Tensor, "rows width"]:
        """Features of images (rows, channels, height, width), or features (rows, width).

        Images are taken as the model was trained with; of a model from a folder, any size with numbers in [0, 1].
        """
        if x.ndim == 2:
            if x.shape[1] != self.width:
                raise FewerError(
                    f"prompt: features are {x.shape[1]} wide and the model's {self.width}; give those of its encode_image"
                )
            return x
        if self.clip.pixels is None:
            return self.clip.encode_image(x)
        side = getattr(self.clip.image_tower, "size", 224)
        mean, deviation = (x.new_tensor(each)[:, None, None] for each in self.clip.pixels)
        return self.clip.encode_image((images(x.cpu().numpy(), side).to(x) - mean) / deviation)


@dataclass(frozen=True)
class SavedCLIP:
    """A CLIP from a folder, for the slot ``base`` of adaptation.

    Parameters
    ----------
    path : path
        As ``save_pretrained`` of a ``CLIPModel`` and its tokenizer writes it.
    """

    path: str | os.PathLike[str]

    def build(self, shape: tuple[int, ...], seed: int) -> CLIPImages:
        """Read it, for images of ``shape``: (channels, height, width).

        Raises
        ------
        FewerError
            If rows are no images, or there is no such model.
        """
        if len(shape) != 3:
            raise FewerError(f"saved-clip: rows are of shape {shape}; a CLIP sees images (channels, height, width)")
        return CLIPImages(load_clip(self.path))
