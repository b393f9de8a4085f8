"""Images to features and back: a residual network whose maps are read out as places, and plain convolutions for world models.

The spatial softmax gives, for each map, the mean place of what it responds to, two numbers in [-1, 1]: where something is,
which is what acting needs.

References
----------
Kaiming He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
Chelsea Finn et al., "Deep Spatial Autoencoders for Visuomotor Learning", ICRA 2016, arXiv:1509.06113.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError


class _Residual(nn.Module):
    """Two convolutions and a way around them; groups are normalised, as slow copies of batch statistics act badly."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        groups = max(1, after // 16)
        self.way = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.GroupNorm(groups, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.GroupNorm(groups, after),
        )
        same = stride == 1 and before == after
        self.around = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(groups, after))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.way(x) + self.around(x)).relu()


class SpatialSoftmax(nn.Module):
    """The mean place of each map's response.

    Examples
    --------
    >>> maps = torch.zeros(1, 1, 3, 3)
    >>> maps[0, 0, 0, 2] = 50.0  # above, on the right
    >>> SpatialSoftmax()(maps)
    tensor([[ 1., -1.]])
    """

    def forward(self, maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch places"]:
        """Horizontal, then vertical place of each channel."""
        height, width = maps.shape[-2:]
        share = maps.flatten(2).softmax(-1).unflatten(-1, (height, width))
        across = torch.linspace(-1, 1, width, device=maps.device)
        down = torch.linspace(-1, 1, height, device=maps.device)
        places = torch.stack([(share.sum(2) * across).sum(-1), (share.sum(3) * down).sum(-1)], dim=-1)
        return places.flatten(1)


class PlacesEncoder(nn.Module):
    """A residual network of 18 layers, and the places of 32 of its features.

    Parameters
    ----------
    channels : int
        Of the image.
    widths : tuple of int, default (64, 128, 256, 512)
        Channels of the four stages of two blocks each.
    places : int, default 32
        Maps that are read out, each as two numbers.

    Examples
    --------
    >>> PlacesEncoder(3, widths=(8, 16))(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (64, 128, 256, 512), places: int = 32) -> None:
        super().__init__()
        self.features = 2 * places
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False),
            nn.GroupNorm(max(1, widths[0] // 16), widths[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        ]
        before = widths[0]
        for index, after in enumerate(widths):
            layers += [_Residual(before, after, 1 if index == 0 else 2), _Residual(after, after, 1)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, places, 1), SpatialSoftmax())

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Places."""
        return self.layers(images)


class ImageCodec(nn.Module):
    """Convolutions from an image to features and back, halving its sides at each layer.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width; the sides must be divisible by 16.
    depth : int
        Channels after the first layer; they double at each.
    features : int
        From how many the image is made again.

    Raises
    ------
    FewerError
        If the sides cannot be halved four times.

    Examples
    --------
    >>> codec = ImageCodec((3, 32, 32), depth=4, features=10)
    >>> codec.encode(torch.zeros(2, 3, 32, 32)).shape[1] == codec.width, codec.decode(torch.zeros(2, 10)).shape
    (True, torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, shape: tuple[int, int, int], depth: int, features: int) -> None:
        super().__init__()
        channels, height, width = shape
        if height % 16 or width % 16:
            raise FewerError(
                f"world model: images of {height} by {width} cannot be halved four times; make both sides multiples of 16"
            )
        widths = [channels, *(depth * 2**i for i in range(4))]
        down: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            down += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.GroupNorm(1, after), nn.SiLU()]
        self.encode = nn.Sequential(*down, nn.Flatten())
        last = (widths[-1], height // 16, width // 16)
        self.width = last[0] * last[1] * last[2]
        up: list[nn.Module] = [nn.Linear(features, self.width), nn.Unflatten(1, last)]
        for before, after in zip(widths[:1:-1], widths[-2:0:-1], strict=True):
            up += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.GroupNorm(1, after), nn.SiLU()]
        self.decode = nn.Sequential(*up, nn.ConvTranspose2d(widths[1], channels, 4, 2, 1))


def module_name(key: str) -> str:
    """What the encoder of a part of an observation is called among the modules of a network.

    Examples
    --------
    >>> module_name("front.rgb")
    'camera front rgb'
    """
    return "camera " + key.replace(".", " ")
