"""Images to features for control: a small residual network read out by learned places, a plain one, and random crops.

A map x[h, w, c] is read out by a learned tensor K[h, w, c, j], feature_{c, j} = sum over h and w of x K: a channel that responds
to a thing is asked where it is, in j ways.

Images are unsigned bytes, channels last, as cameras and environments give them, or the same numbers from 0 to 255 as float32; a
network sees them on the scale of 0 to 1, each channel standardised by the mean and deviation of natural photographs.

References
----------
Luo, Hu, et al., "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
Yarats, Kostrikov and Fergus, "Image Augmentation Is All You Need", ICLR 2021, arXiv:2004.13649.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fewer.core.errors import FewerError

Images = UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch height width channels"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the three channels of natural photographs, on the scale of 0 to 1."""


def standardised(images: Images) -> Float[Tensor, "batch channels height width"]:
    """Turn bytes into what networks see, channels first.

    Examples
    --------
    >>> standardised(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))[0, :, 0, 0].double().round(decimals=2).tolist()
    [-2.12, -2.04, -1.8]
    """
    if images.dtype not in (torch.uint8, torch.float32) or images.ndim != 4:
        raise FewerError(
            "images: bytes, or the same numbers as float32, of the shape (batch, height, width, channels) are needed; these are "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    scaled = images.permute(0, 3, 1, 2).to(torch.float32) / 255
    channels = scaled.shape[1]
    # grey images and stacked frames repeat the three channels' numbers
    mean, deviation = (scaled.new_tensor(each).repeat(-(-channels // 3))[:channels] for each in (MEAN, DEVIATION))
    return (scaled - mean[:, None, None]) / deviation[:, None, None]


def random_crop(images: Images, padding: int = 4) -> Images:
    """Shift each image at random by up to ``padding`` pixels, repeating its edges; draws from torch's global generator.

    Parameters
    ----------
    images : uint8 or float tensor (batch, height, width, channels)
        All of one size; the result has the same.
    padding : int, default 4
        0 gives the images back.

    Examples
    --------
    >>> images = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8)
    >>> torch.equal(random_crop(images, padding=0), images), random_crop(images).shape
    (True, torch.Size([2, 8, 8, 3]))
    """
    if padding < 0:
        raise FewerError(f"random crop: the padding is {padding}; give 0 or more")
    batch, height, width, _ = images.shape
    down, across = torch.randint(2 * padding + 1, (2, batch, 1)) - padding
    # an edge repeated is an index held back: one gather, and no padded copy
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + across).clamp(0, width - 1)
    return images[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]


class SpatialLearnedEmbeddings(nn.Module):
    """Maps to features, by learned places.

    Parameters
    ----------
    channels, height, width : int
        Of the maps.
    features : int, default 8
        Of each channel.

    Examples
    --------
    >>> SpatialLearnedEmbeddings(16, 4, 4)(torch.zeros(2, 16, 4, 4)).shape
    torch.Size([2, 128])
    """

    def __init__(self, channels: int, height: int, width: int, features: int = 8) -> None:
        super().__init__()
        kernel = torch.empty(features, channels, height, width)
        # the inputs of a feature are the places of one channel
        nn.init.normal_(kernel, std=(height * width) ** -0.5)
        self.kernel = nn.Parameter(kernel)

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """Read out."""
        return torch.einsum("bchw,jchw->bcj", maps, self.kernel).flatten(1)


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.GroupNorm(4, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.GroupNorm(4, after),
        )
        self.around: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.around = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(4, after))

    def forward(self, maps: Tensor) -> Tensor:
        return (self.way(maps) + self.around(maps)).relu()


class ResNet10(nn.Module):
    """A residual network of four blocks of 64, 128, 256 and 512 channels, with normalised groups.

    Parameters
    ----------
    channels : int, default 3
        Of images; three times as many where three frames are stacked.
    widths : tuple of int, default (64, 128, 256, 512)
        Channels of the blocks; multiples of 4.

    Examples
    --------
    >>> ResNet10(widths=(8, 16))(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([1, 16, 4, 4])
    """

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        super().__init__()
        if not widths or any(width < 4 or width % 4 for width in widths):
            raise FewerError(f"ResNet-10: widths must be multiples of 4; given {widths}")
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False),
            nn.GroupNorm(4, widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        befores = (widths[0], *widths)
        self.blocks = nn.Sequential(
            *(_Residual(befores[i], width, 1 if i == 0 else 2) for i, width in enumerate(widths))
        )

    def forward(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        """Maps."""
        return self.blocks(self.stem(standardised(images)))


class ImageEncoder(nn.Module):
    """A residual trunk, read out by learned places, and a layer of features for each image.

    Parameters
    ----------
    size : tuple of int
        Height, width and channels of images.
    outputs : int, default 256
        Features.
    places : int, default 8
        Features of each channel of the trunk.
    dropout : float, default 0.1
        Share of them that is left out while training.
    trunk : nn.Module, optional
        Images to maps; by default a :class:`ResNet10`.
    frozen : bool, default False
        Leave the trunk as it is, as one that was trained before.

    Examples
    --------
    >>> encoder = ImageEncoder((32, 32, 3), outputs=16, trunk=ResNet10(widths=(8,)))
    >>> encoder(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
    torch.Size([2, 16])
    """

    def __init__(
        self,
        size: tuple[int, int, int],
        outputs: int = 256,
        places: int = 8,
        dropout: float = 0.1,
        trunk: nn.Module | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = ResNet10(size[2]) if trunk is None else trunk
        self.frozen = frozen
        self.trunk.requires_grad_(not frozen)
        with torch.no_grad():
            _, channels, height, width = self.trunk(torch.zeros(1, *size, dtype=torch.uint8)).shape
        self.read = nn.Sequential(
            SpatialLearnedEmbeddings(channels, height, width, places),
            nn.Dropout(dropout),
            nn.Linear(channels * places, outputs),
            nn.LayerNorm(outputs),
            nn.Tanh(),
        )

    def forward(self, images: Images) -> Float[Tensor, "batch outputs"]:
        """Encode."""
        if self.frozen:
            with torch.no_grad():
                maps = self.trunk(images)
        else:
            maps = self.trunk(images)
        return self.read(maps)


class Convolutions(nn.Module):
    """Convolutions of 3 by 3 with strides of 2, each followed by a ReLU: a small trunk, for small images.

    Parameters
    ----------
    channels : int, default 3
        Of images.
    widths : tuple of int, default (32, 64, 128)
        Channels of the convolutions.

    Examples
    --------
    >>> Convolutions()(torch.zeros(1, 48, 48, 3, dtype=torch.uint8)).shape
    torch.Size([1, 128, 5, 5])
    """

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.least = 2 ** (len(widths) + 1) - 1

    def forward(self, images: Images) -> Float[Tensor, "batch channels height width"]:
        """Maps."""
        tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if not tracing and min(images.shape[1:3]) < self.least:
            raise FewerError(
                f"small encoder: images of {images.shape[1]} by {images.shape[2]} vanish in its convolutions; give at least "
                f"{self.least} by {self.least}, or fewer widths"
            )
        return self.layers(standardised(images))


class SmallEncoder(nn.Module):
    """Four convolutions with strides of 2, averaged, and a layer of features: for small images, trained from scratch.

    Parameters
    ----------
    channels : int, default 3
        Of images.
    outputs : int, default 256
        Features.
    widths : tuple of int, default (32, 64, 128, 256)
        Channels of the convolutions.

    Examples
    --------
    >>> SmallEncoder()(torch.zeros(2, 64, 64, 3, dtype=torch.uint8)).shape
    torch.Size([2, 256])
    """

    def __init__(self, channels: int = 3, outputs: int = 256, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.convolutions = Convolutions(channels, widths)
        self.read = nn.Sequential(nn.Linear(widths[-1], outputs), nn.LayerNorm(outputs), nn.Tanh())

    def forward(self, images: Images) -> Float[Tensor, "batch outputs"]:
        """Encode."""
        return self.read(functional.adaptive_avg_pool2d(self.convolutions(images), 1).flatten(1))
