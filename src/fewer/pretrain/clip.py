"""CLIP: learn from captions which sentence belongs to which image, and classify by sentences afterwards.

Instead of predicting the words of a caption, two towers bring images and texts into one space where each image of a
batch finds its own caption among the others'.  Any list of names then makes a classifier: an image is of the class whose
prompt is nearest.

With I, T the projected features of n images and captions, brought to length one, and a learned s::

    logits = e^s I T'                 s starts at log(1/0.07), and e^s is kept at or below 100
    loss   = ( CE(logits, diagonal) + CE(logits', diagonal) ) / 2

which is the room's InfoNCE with the other view's negatives and the temperature ``e^-s``.

References
----------
Alec Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.claim import Claim, Measures, higher, ratio
from fewer.core.curve import Curve, Point
from fewer.core.errors import FewerError
from fewer.core.loop import Task
from fewer.models.classifier import Architecture, ConvNet
from fewer.models.optimisers import AdamW, Cosine
from fewer.models.vit import ViT, undecayed
from fewer.pretrain.clip_towers import TextTransformer
from fewer.pretrain.contrast import Negatives
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.loop import Contrastive, Joint
from fewer.pretrain.vocabulary import Tokenizer, Vocabulary
from fewer.tasks.paired import Captioned, Pairing
from fewer.tasks.scenes import scenes

LARGEST_SCALE = 100.0


class CLIP(nn.Module):
    """Two towers, projections into one space, and a learned scale.

    Parameters
    ----------
    image_tower : nn.Module
        Images to features; its attribute ``width`` says how many.
    text_tower : nn.Module
        Tokens to features, with ``width`` as well: :class:`~fewer.pretrain.clip_towers.TextTransformer`.
    embed_dim : int
        Of the space.
    tokenizer : Tokenizer, optional
        Lets texts be given in place of tokens.

    Attributes
    ----------
    pixels : (mean, deviation), optional
        Of each colour, where images in [0, 1] must be standardised before the tower sees them.

    Examples
    --------
    >>> from fewer.pretrain.clip_towers import ImageTransformer
    >>> image_tower = ImageTransformer(size=16, patch=8, width=16, depth=1, heads=2)
    >>> text_tower = TextTransformer(20, width=8, depth=1, heads=2, context=8, end=2)
    >>> model = CLIP(image_tower, text_tower, embed_dim=4)
    >>> images, tokens = torch.zeros(3, 3, 16, 16), torch.tensor([[1, 5, 2], [1, 6, 2]])
    >>> logits_per_image, logits_per_text = model(images, tokens)
    >>> logits_per_image.shape, logits_per_text.shape
    (torch.Size([3, 2]), torch.Size([2, 3]))
    """

    def __init__(
        self, image_tower: nn.Module, text_tower: nn.Module, embed_dim: int, tokenizer: Tokenizer | None = None
    ) -> None:
        super().__init__()
        self.pixels: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        if embed_dim < 1:
            raise FewerError(f"clip: a space of {embed_dim} dimensions; give 1 or more")
        self.image_tower, self.text_tower, self.tokenizer = image_tower, text_tower, tokenizer
        widths = [_width(each) for each in (image_tower, text_tower)]
        self.image_projection, self.text_projection = (nn.Linear(width, embed_dim, bias=False) for width in widths)
        for projection, width in zip((self.image_projection, self.text_projection), widths, strict=True):
            nn.init.normal_(projection.weight, std=width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, images: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images dim"]:
        """Images in the space, not brought to length one."""
        return self.image_projection(self.image_tower(images))

    def encode_text(self, texts: Sequence[str] | Int[Tensor, "texts length"]) -> Float[Tensor, "texts dim"]:
        """Texts or tokens in the space, not brought to length one."""
        return self.text_projection(self.text_tower(self.tokens(texts)))

    def tokens(
        self, texts: Sequence[str] | Int[Tensor, "texts length"], whole: bool = False
    ) -> Int[Tensor, "texts length"]:
        """Tokens of texts, where the weights are; see :class:`~fewer.pretrain.vocabulary.Tokenizer` for ``whole``."""
        if not isinstance(texts, Tensor):
            if self.tokenizer is None:
                raise FewerError(
                    "clip: this model was made without a tokenizer; give tokens, or tokenizer= when making it"
                )
            texts = self.tokenizer(texts, whole=whole)
        return texts.to(self.logit_scale.device)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied with: at most 100, before and after every step."""
        if self.training:
            with torch.no_grad():
                self.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        return self.logit_scale.exp()

    def forward(
        self, images: Float[Tensor, "images channels height width"], texts: Sequence[str] | Int[Tensor, "texts length"]
    ) -> tuple[Float[Tensor, "images texts"], Float[Tensor, "texts images"]]:
        """Logits of the texts for each image, and of the images for each text."""
        first = nn.functional.normalize(self.encode_image(images), dim=1)
        second = nn.functional.normalize(self.encode_text(texts), dim=1)
        logits = self.scale * first @ second.T
        return logits, logits.T

    def own_groups(self) -> list[dict[str, Any]]:
        """No decay of the scale, nor of gains and biases."""
        return undecayed(*(each for each in self.parameters() if each.ndim < 2))


def _width(tower: nn.Module) -> int:
    width = getattr(tower, "width", None)
    if not isinstance(width, int) or width < 1:
        raise FewerError(
            f"clip: the tower {type(tower).__name__} does not say how many features it gives; set its attribute width"
        )
    return width


class _Tower(nn.Module):
    """The backbone of an architecture, which knows its width."""

    def __init__(self, architecture: Architecture, shape: tuple[int, ...]) -> None:
        super().__init__()
        made = architecture.build(shape, classes=2)
        self.backbone, self.width = made.backbone, made.width

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images)


@dataclass(frozen=True)
class TwoTowers:
    """Describes a small CLIP, made for a task's images and for the words of its captions.

    Parameters
    ----------
    image : Architecture, default three convolutions of 32, 64 and 128 channels with batch normalisation
        The image tower.
    width : int, default 48
        Of the common space.
    text : (int, int, int), default (64, 2, 4)
        Channels, blocks and heads of the text tower.
    context : int, default 32
        Tokens of the longest text; what is longer is cut with a warning.
    """

    image: Architecture = field(default_factory=lambda: ConvNet((32, 64, 128), norm=True, hidden=0))
    width: int = 48
    text: tuple[int, int, int] = (64, 2, 4)
    context: int = 32

    def build(self, task: Task, pairing: Pairing) -> TwoTowerJoint:
        """Make it; draws from torch's global generator."""
        image_tower, tokenizer = parts_for(task, pairing, self.image, self.context)
        width, depth, heads = self.text
        text_tower = TextTransformer(tokenizer.size, width, depth, heads, self.context, tokenizer.end)
        return TwoTowerJoint(CLIP(image_tower, text_tower, self.width, tokenizer))


def parts_for(task: Task, pairing: Pairing, image: Architecture, context: int) -> tuple[_Tower, Vocabulary]:
    """An image tower and a vocabulary for a pairing of images and captions.

    Raises
    ------
    FewerError
        If the pairing has no captions.
    """
    if not isinstance(pairing, Captioned):
        raise FewerError(f"{task.name}: this tower reads captions and the task has none; try scenes, pairs or openmoji")
    return _Tower(image, pairing.shape), Vocabulary(pairing.words, context)


class Captioning(Joint):
    """Images and their captions: what can say how well texts fit images."""

    negatives: Negatives = "other view"

    def scores(self, images: Float[Tensor, "images ..."], texts: Sequence[str]) -> Float[Tensor, "images texts"]:
        """How well each text fits each image."""
        raise NotImplementedError


class PretrainedCLIP(PretrainedEncoder):
    """What training from captions hands on: the image tower as an encoder, and the whole model.

    Parameters
    ----------
    model : CLIP
        For :class:`~fewer.pretrain.zero_shot.ZeroShotClassifier`, for one.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__(model.image_tower)
        self.model = model.eval()


class TwoTowerJoint(Captioning):
    """A :class:`CLIP` in the loop.

    Parameters
    ----------
    model : CLIP
        With its tokenizer.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The image tower, before its projection."""
        return self.model.image_tower

    def forward(self, first: Tensor, second: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Projections of images and captions, and the temperature."""
        where = self.model.logit_scale.device
        return self.model.encode_image(first.to(where)), self.model.encode_text(second), 1 / self.model.scale

    def handed_on(self) -> PretrainedCLIP:
        """Both towers."""
        return PretrainedCLIP(self.model)

    def scores(self, images: Float[Tensor, "images ..."], texts: Sequence[str]) -> Float[Tensor, "images texts"]:
        """Logits of the texts for each image."""
        where = self.model.logit_scale.device
        known = nn.functional.normalize(self.model.encode_text(texts), dim=1)
        seen = torch.cat([self.model.encode_image(part.to(where)) for part in images.split(512)])
        return self.model.scale * nn.functional.normalize(seen, dim=1) @ known.T


IMAGE_TOWERS: dict[str, Architecture] = {
    "conv": ConvNet((32, 64, 128), norm=True, hidden=0),
    "vit": ViT(embed_dim=96, depth=4, num_heads=4),
}


def clip_training(
    tower: Literal["conv", "vit"] = "conv",
    width: int = 48,
    text: tuple[int, int, int] = (64, 2, 4),
    context: int = 32,
    lr: float = 3e-3,
) -> dict[str, Any]:
    """Fill a contrastive loop with two towers and the optimiser that they like.

    The objective is left to the loop, or to who fills it: ``"clip + dcl"``.

    Parameters
    ----------
    tower : {"conv", "vit"}, default "conv"
        Of the images: convolutions, which learn small images fastest, or a vision transformer.
    width, text, context
        See :class:`TwoTowers`.
    lr : float, default 3e-3
        Peak learning rate of AdamW.

    Examples
    --------
    >>> sorted(clip_training(tower="vit"))
    ['optimiser', 'schedule', 'towers']
    """
    if tower not in IMAGE_TOWERS:
        raise FewerError(f"clip: tower is 'conv' or 'vit'; it is {tower!r}")
    if len(text) != 3:
        raise FewerError(
            f"clip: text is channels, blocks and heads of the text tower, such as (64, 2, 4); it is {text!r}"
        )
    channels, depth, heads = text  # a spec may write a list
    return {
        "towers": TwoTowers(IMAGE_TOWERS[tower], width, (channels, depth, heads), context),
        "optimiser": AdamW(lr=lr, weight_decay=0.05),
        "schedule": Cosine(warmup=0.1),
    }


# --- the claim -------------------------------------------------------------------------------------------------------


def measure_arms(seed: int, tiny: bool) -> Measures:
    """Learn from the same captions by contrast, by words and by writing, and read off both kinds of scenes."""
    from fewer.pretrain.caption_prediction import bow, lm  # they are made of this module

    task, steps, points = (scenes(test=8), 4, 2) if tiny else (scenes(test=250), 300, 6)
    arms = {"contrastive": clip_training(lr=RATES["contrastive"]), "bow": bow(RATES["bow"]), "lm": lm(RATES["lm"])}
    measured = {}
    for name, slots in arms.items():
        curve = list(Contrastive(**slots, batch=128, points=points).run(task, steps * 128, seed))
        seen = Curve(tuple(Point(point.spent, point.extras["seen"]) for point in curve))
        measured[name] = {
            "held out": curve[-1].extras["held out"],
            "seen": curve[-1].extras["seen"],
            "steps to 0.6 seen, or all": min(seen.samples_to(0.6), curve[-1].spent) / 128,
        }
    better = max(measured["bow"]["held out"], measured["lm"]["held out"])
    measured["contrastive"]["held out, less twice the better other"] = measured["contrastive"]["held out"] - 2 * better
    return measured


RATES = {"contrastive": 3e-3, "bow": 1e-2, "lm": 3e-3}
"""The best for each of 0.001, 0.003 and 0.01 on another seed."""

claim = Claim(
    says="Matching captions tells kinds apart that were never shown, which predicting the captions' words does not, and it "
    "knows the shown kinds after no more steps than a bag of words and after three quarters of a caption writer's.",
    measure=measure_arms,
    seeds=4,
    holds=[
        higher("held out", "contrastive", than=0.6),
        higher("held out, less twice the better other", "contrastive", than=0.0),
        ratio("steps to 0.6 seen, or all", "contrastive", to="bow", at_most=1.0),
        ratio("steps to 0.6 seen, or all", "contrastive", to="lm", at_most=0.75),
    ],
    note="Rendered scenes of 24 by 24 pixels, 8 shapes in 6 colours of which 12 pairs are never shown; 300 steps of 128 fresh "
    "images; 48-way classification by prompt, chance 0.02. Learning rates are the best for each arm of 0.001, 0.003 and 0.01 "
    "on another seed; with them, a bag of words knows the shown kinds about as soon, and no others.",
)
