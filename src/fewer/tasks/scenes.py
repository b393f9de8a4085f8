"""Rendered scenes: one coloured shape somewhere on a noisy ground, and a sentence that says which.

Eight shapes in six colours make 48 kinds.  Images are rendered anew whenever they are asked for, all of a batch at
once, so that nothing can be learned by heart; a :class:`Style` redraws them as another domain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import generator, torch_generator
from fewer.tasks.paired import Paired, fitting

SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring", "bar", "crescent")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
KINDS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""What there is to see: kind ``shape * 6 + colour``."""

TEMPLATES = ("a photo of a {}", "the {}", "a {}", "a picture of a {}", "this is a {}", "one small {} on its own")
"""Sentences of captions; the first one is the prompt of a zero-shot classifier."""

_RGB = torch.tensor(
    [[1.0, 0.1, 0.1], [1.0, 1.0, 0.1], [0.1, 0.9, 0.1], [0.1, 1.0, 1.0], [0.15, 0.2, 1.0], [0.9, 0.1, 0.9]]
)


@dataclass(frozen=True)
class Style:
    """How scenes are drawn.

    Parameters
    ----------
    base : float, default 1
        Share of the image itself, after its hue was turned.
    hue : float, default 0
        Degrees that all colours are turned about the grey axis; a colour's neighbour is 60 away.
    edges : float, default 0
        Factor of the edges that are added: ``|x - blurred x|``.
    stripes : float, default 0
        Height of a wave over the whole image, of random direction, phase and width.
    noise : float, default 0.05
        Deviation of the noise on each pixel.
    """

    base: float = 1.0
    hue: float = 0.0
    edges: float = 0.0
    stripes: float = 0.0
    noise: float = 0.05

    def __post_init__(self) -> None:
        if min(self.base, self.edges, self.stripes, self.noise) < 0:
            raise FewerError(f"scenes: base, edges, stripes and noise are at least 0; given {self}")


PLAIN = Style()
REDRAWN = Style(base=0.55, hue=25.0, edges=1.1, stripes=0.15)
"""Another domain: colours turned, edges stressed, stripes over everything."""


def render(
    shapes: Int[Tensor, " scenes"],
    colours: Int[Tensor, " scenes"],
    generator: torch.Generator,
    size: int = 24,
    style: Style = PLAIN,
) -> Float[Tensor, "scenes 3 size size"]:
    """Draw scenes, each with its shape at a random place, in a random size and brightness.

    Parameters
    ----------
    shapes, colours : int tensor (scenes,)
        Places in :data:`SHAPES` and :data:`COLOURS`.
    generator : torch.Generator
        On the CPU; equal generators give equal scenes.
    size : int, default 24
        Pixels a side.
    style : Style, default PLAIN
        How they are drawn.

    Returns
    -------
    float tensor (scenes, 3, size, size)
        In [0, 1].

    Examples
    --------
    >>> drawn = torch.Generator().manual_seed(0)
    >>> render(torch.tensor([0, 7]), torch.tensor([5, 0]), drawn).shape
    torch.Size([2, 3, 24, 24])
    """
    if size < 8:
        raise FewerError(f"scenes: {size} pixels a side show no shape; give 8 or more")
    count = len(shapes)

    def drawn(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(shape or (1, 1)), generator=generator)

    radius = drawn(0.2, 0.38)
    # the whole shape is in the picture
    middle_x, middle_y = (radius + (1 - 2 * radius) * drawn(0.0, 1.0) for _ in range(2))
    axis = (torch.arange(size) + 0.5) / size
    across, down = (axis[None, None, :] - middle_x) / radius, (axis[None, :, None] - middle_y) / radius
    depth = torch.empty(count, size, size)
    for index, inside in enumerate(_INSIDE):  # few kinds, many scenes
        chosen = shapes == index
        depth[chosen] = inside(across[chosen], down[chosen])
    mask = (depth * radius * size + 0.5).clamp(0, 1)[:, None]  # as much of the pixel as the shape covers
    ground = (drawn(0.0, 0.4, 1, 1, 1) + 0.1 * torch.randn(count, 3, size, size, generator=generator)).clamp(0, 1)
    paint = _RGB[colours][:, :, None, None] * drawn(0.6, 1.0, 1, 1, 1)
    return _styled(ground * (1 - mask) + paint * mask, style, generator)


def captions(shapes: Int[Tensor, " scenes"], colours: Int[Tensor, " scenes"], generator: torch.Generator) -> list[str]:
    """Say what is in each scene, by a random template.

    Examples
    --------
    >>> captions(torch.tensor([0]), torch.tensor([0]), torch.Generator().manual_seed(0))
    ['a red circle']
    """
    templates = torch.randint(len(TEMPLATES), (len(shapes),), generator=generator)
    kinds = shapes * len(COLOURS) + colours
    return [TEMPLATES[way].format(KINDS[kind]) for way, kind in zip(templates.tolist(), kinds.tolist(), strict=True)]


def _styled(images: Tensor, style: Style, generator: torch.Generator) -> Tensor:
    rows, _, side, _ = images.shape
    seen = images
    if style.hue:
        seen = torch.einsum("ij,rjhw->rihw", _hue_turn(style.hue), seen)
    seen = style.base * seen
    if style.edges:
        blurred = nn.functional.avg_pool2d(nn.functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        seen = seen + style.edges * (images - blurred).abs()
    if style.stripes:
        angle, phase = (2 * math.pi * torch.rand(rows, 1, 1, generator=generator) for _ in range(2))
        waves = 3 + 3 * torch.rand(rows, 1, 1, generator=generator)
        axis = torch.arange(side) / side
        along = angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]
        seen = seen + style.stripes * torch.sin(2 * math.pi * waves * along + phase)[:, None]
    if style.noise:
        seen = seen + style.noise * torch.randn(seen.shape, generator=generator)
    return seen.clamp(0, 1)


def _hue_turn(degrees: float) -> Tensor:
    """The rotation about the grey axis."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    even, turn = (1 - cosine) / 3, sine / math.sqrt(3)
    return cosine * torch.eye(3) + even + turn * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return 1 - torch.hypot(x, y)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(0.8 - y, 0.9 * (0.5 * (y + 1) - x.abs()))


def _bar(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(0.3 - y.abs(), 1 - x.abs())


# how far inside a point is, in radii; negative outside
_INSIDE: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _circle,
    lambda x, y: 0.85 - torch.maximum(x.abs(), y.abs()),
    _triangle,
    lambda x, y: 0.7 * (1 - x.abs() - y.abs()),
    lambda x, y: torch.maximum(_bar(x, y), _bar(y, x)),
    lambda x, y: 0.25 - (torch.hypot(x, y) - 0.75).abs(),
    _bar,
    lambda x, y: torch.minimum(_circle(x, y), torch.hypot(x - 0.5, y) - 0.8),
)


@dataclass(frozen=True, eq=False)
class Scenes(Paired):
    """Rendered scenes with captions, some kinds of which are never shown while learning.

    Parameters
    ----------
    held_out : int, default 12
        Kinds that are only ever asked for, evenly over shapes and colours, drawn anew for each seed.
    test : int, default 400
        Images of shown kinds, and as many of the others, that are classified among all 48 by their prompt.
    size : int, default 24
        Pixels a side.
    style : Style, default PLAIN
        How they are drawn.
    """

    held_out: int = 12
    test: int = 400
    size: int = 24
    style: Style = PLAIN
    name: str = "scenes"
    metric: str = "zero-shot accuracy"

    def __post_init__(self) -> None:
        if not 1 <= self.held_out <= 24:
            raise FewerError(
                f"scenes: held_out is {self.held_out}; give 1 to 24 of the 48 kinds, so that no word is new"
            )
        if self.test < 1:
            raise FewerError(f"scenes: test is {self.test}; give 1 image or more")

    def fingerprint(self) -> str:
        """Hash everything that decides a result."""
        return fingerprint(repr((self.held_out, self.test, self.size, self.style)))

    def pairing(self, seed: int) -> ScenePairs:
        """One seed's division of the kinds."""
        return ScenePairs(self, seed)


def scenes(held_out: int = 12, test: int = 400, size: int = 24) -> Scenes:
    """Make the task of classifying rendered scenes by sentences, after learning from captions.

    Parameters
    ----------
    held_out, test, size
        See :class:`Scenes`.

    Examples
    --------
    >>> pairing = scenes(test=10).pairing(seed=0)
    >>> images, sentences = pairing.draw(3)
    >>> images.shape, len(sentences), pairing.shape
    (torch.Size([3, 3, 24, 24]), 3, (3, 24, 24))
    """
    return Scenes(held_out, test, size)


class ScenePairs:
    """Fresh scenes and their captions, of the kinds that are shown.

    Attributes
    ----------
    shown, held_out : int array
        Kinds (see :data:`KINDS`).
    shape : (int, int, int)
        Of an image.
    words : list of str
        Sentences that show every word.
    """

    def __init__(self, task: Scenes, seed: int) -> None:
        rng = generator(seed, "kinds")
        shapes, colours = rng.permutation(len(SHAPES)), rng.permutation(len(COLOURS))
        # steps of one along both go through 24 different kinds before they repeat, every shape and colour equally often
        steps = np.arange(task.held_out)
        self.held_out = np.sort(shapes[steps % len(SHAPES)] * len(COLOURS) + colours[steps % len(COLOURS)])
        self.shown = np.setdiff1d(np.arange(len(KINDS)), self.held_out)
        self.task, self.draws = task, torch_generator(seed, "scenes")
        self.shape = (3, task.size, task.size)
        self.words = [template.format(kind) for template in TEMPLATES for kind in KINDS]
        asked = torch_generator(seed, "asked")
        self.asked = {
            name: self._rendered(torch.from_numpy(kinds), task.test, asked)
            for name, kinds in (("seen", self.shown), ("held out", self.held_out))
        }

    def _rendered(self, kinds: Tensor, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = kinds[torch.randint(len(kinds), (count,), generator=draws)]
        shapes, colours = chosen // len(COLOURS), chosen % len(COLOURS)
        return render(shapes, colours, draws, self.task.size, self.task.style), chosen

    def draw(self, count: int) -> tuple[Tensor, list[str]]:
        """Images of shown kinds, and a caption for each."""
        images, kinds = self._rendered(torch.from_numpy(self.shown), count, self.draws)
        return images, captions(kinds // len(COLOURS), kinds % len(COLOURS), self.draws)

    def score(self, network: nn.Module) -> tuple[float, dict[str, float]]:
        """Share of images whose prompt is found among all 48: of kinds never shown, and of the others."""
        prompts = [TEMPLATES[0].format(kind) for kind in KINDS]
        measured = {}
        for name, (images, kinds) in self.asked.items():
            said = fitting(network, images, prompts).argmax(1).cpu()
            measured[name] = float((said == kinds).double().mean())
        return measured["held out"], measured

    def state_dict(self) -> dict[str, Any]:
        """The stream."""
        return {"draws": self.draws}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Take it up."""
        self.draws = tree["draws"]
