"""Networks whose latents are what a masked loop's student has to say: one that learned pixels, a given one, a slow copy.

All three see the whole row and say one vector for each of its places, layer-normalised over its numbers (without scale
and shift), so that the loss has one scale whatever the teacher:

    h = LayerNorm(f(x)),  f = a network frozen after it learned pixels | any network of the user's | an average of the student

A frozen teacher may be of another width and depth than its student; a slow copy may not.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.models.moving_average import follow
from fewer.models.tokens import PatchEncoder, TokenEncoder, TokenPredictor, initialise
from fewer.models.transformers_video import TransformersVideo, load_video_transformer
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.masked import Absolute, Distance, Masking, Pixels, Target, Targets, masked_losses
from fewer.pretrain.multi_block import MultiBlock

Size = tuple[int, int, int]
"""Width, blocks and heads of a transformer."""


@dataclass(frozen=True)
class FrozenTeacher:
    """Latents of a network that first learns to say masked pixels, and is then frozen (SALT).

    Parameters
    ----------
    share : float, default 1/6
        Of the run, at its beginning, in which the teacher learns and the student does not.
    size : (int, int, int), optional
        Width, blocks and heads of the teacher; the student's by default.
    masking : Masking, default MultiBlock()
        What the teacher sees while it learns.
    decoder : (int, int, int), default (48, 1, 4)
        Width, blocks and heads of what says the pixels; it is of no use afterwards.
    pixels : Target, default Pixels()
        What it says.
    distance : Distance, default Absolute()
        What being wrong costs it.
    """

    share: float = 1 / 6
    size: Size | None = None
    masking: Masking = field(default_factory=MultiBlock)
    decoder: Size = (48, 1, 4)
    pixels: Target = field(default_factory=Pixels)
    distance: Distance = field(default_factory=Absolute)

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise FewerError(
                f"frozen teacher: its share of the run is {self.share}; give a number between 0 and 1, such as 1/6"
            )

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Make the teacher and its decoder."""
        _check_clips(shape, student)
        return _LearningTeacher(self, shape, student)


class _LearningTeacher(Targets):
    def __init__(self, described: FrozenTeacher, shape: tuple[int, ...], student: PatchEncoder) -> None:
        super().__init__()
        self.share, self.masking, self.distance = described.share, described.masking, described.distance
        self.network = _like(student, shape, described.size)
        if isinstance(self.network, TokenEncoder):  # others start where their student starts
            initialise(self.network)
        self.width = self.network.width
        self.pixels = described.pixels.build(shape, self.network)
        width, depth, heads = described.decoder
        self.decoder = TokenPredictor(
            student.grid, self.width, width, self.pixels.width, depth, heads, self.masking.kinds
        )

    @property
    def encoder(self) -> PatchEncoder:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.network

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self.network.tokens(x))

    def lesson(self, x: Tensor, draws: torch.Generator) -> Tensor:
        masks = self.masking.draw(len(x), self.network.grid, draws)
        self.views = len(masks)  # some draw several masks of one kind
        return masked_losses(x, masks, self.network, self.decoder, self.pixels, self.distance)["masked"]


@dataclass(frozen=True)
class GivenTeacher:
    """Latents of a network that is there already; nothing of the run is spent on it.

    Parameters
    ----------
    teacher : module, PretrainedEncoder or path
        A module that is called with rows and gives (rows, places, width), or an object with such a tensor as
        ``last_hidden_state``; a :class:`fewer.models.tokens.PatchEncoder`, whose tokens are taken; what a run of the loop
        handed on; a file that :meth:`PretrainedEncoder.save` wrote; or a video transformer of ``transformers`` such as
        ``VideoMAEModel``, or the folder of one.  A module is frozen where it stands, with a warning if it was not.
    size : (int, int, int), optional
        Width, blocks and heads of the network in a file; the student's by default.

    Raises
    ------
    FewerError
        If a file cannot be read; when built, if it does not fit, or the teacher has another number of places.
    """

    teacher: nn.Module | PretrainedEncoder | str | os.PathLike[str] = field(repr=False)
    size: Size | None = None
    weights: str = field(init=False)
    """What the teacher is, in 16 digits: a run that was begun with other weights is not taken up."""

    def __post_init__(self) -> None:
        network = self.network
        object.__setattr__(self, "weights", _hash(self._saved() if network is None else network.state_dict()))

    @property
    def network(self) -> nn.Module | None:
        """The module, unless the teacher is in a file; loaded anew from a folder."""
        given = self.teacher.network if isinstance(self.teacher, PretrainedEncoder) else self.teacher
        if not isinstance(given, nn.Module):
            folder = Path(given).expanduser()
            return load_video_transformer(folder).requires_grad_(False) if folder.is_dir() else None
        # those of transformers want frames before channels
        return TransformersVideo(given) if hasattr(getattr(given, "config", None), "tubelet_size") else given

    def _saved(self) -> dict[str, Tensor]:
        path = Path(self.teacher).expanduser()  # pyright: ignore[reportArgumentType]
        try:
            return from_bytes(path.read_bytes())
        except (OSError, SafetensorError) as error:
            raise FewerError(
                f"teacher: cannot read the weights in {path} ({error}); give a safetensors file"
            ) from error

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Freeze it, and see that it says something of each place of the student's."""
        _check_clips(shape, student)
        network = self.network
        if network is None:
            network = _like(student, shape, self.size)
            try:
                network.load_state_dict(self._saved())
            except RuntimeError as error:
                first = str(error).splitlines()[-1].strip()
                raise FewerError(
                    f"teacher: the weights in {self.teacher} do not fit (width, blocks, heads) = {self.size or 'the student'}"
                    f" ({first}); give size=(width, blocks, heads)"
                ) from error
        elif any(each.requires_grad for each in network.parameters()):
            warnings.warn("teacher: it had parameters that could be trained; they are frozen now", stacklevel=2)
        network.requires_grad_(False)
        return _GivenTargets(network, shape, student)


class _GivenTargets(Targets):
    def __init__(self, network: nn.Module, shape: tuple[int, ...], student: PatchEncoder) -> None:
        super().__init__()
        self.network = network.eval()
        where = next((each.device for each in student.parameters()), torch.device("cpu"))
        self.to(where)
        with torch.no_grad():
            said = self._tokens(torch.zeros(1, *shape, device=where))
        if not isinstance(said, Tensor) or said.ndim != 3:
            what = f"a tensor of shape {tuple(said.shape)}" if isinstance(said, Tensor) else f"a {type(said).__name__}"
            raise FewerError(f"teacher: it gives {what}; give a module from rows to (rows, places, width)")
        if said.shape[1] != student.places:
            raise FewerError(
                f"teacher: it says {said.shape[1]} tokens of a row and the student has {student.places} places "
                f"({' by '.join(map(str, student.grid))}); give one with the student's patches, or the student others"
            )
        self.width = said.shape[2]

    def _tokens(self, x: Tensor) -> Tensor:
        said = self.network.tokens(x) if isinstance(self.network, PatchEncoder) else self.network(x)
        return getattr(said, "last_hidden_state", said)

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self._tokens(x))

    def train(self, mode: bool = True) -> _GivenTargets:
        super().train(mode)
        self.network.eval()  # frozen means that dropout is off as well
        return self

    # it is given anew with each run, and may be large: a checkpoint holds no copy
    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {}

    def load_state_dict(self, *args: object, **kwargs: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None


@dataclass(frozen=True)
class MovingAverage:
    """Latents of a slow copy of the student (V-JEPA): ``copy = m * copy + (1 - m) * student`` after each step.

    Parameters
    ----------
    momentum : float, default 0.998
        ``m`` at the beginning.  It is an average over about ``1 / (1 - m)`` steps, so a short run wants a smaller one.
    until : float, default 1.0
        ``m`` at the end; between them it changes linearly.
    """

    momentum: float = 0.998
    until: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.momentum <= 1 and 0 <= self.until <= 1):
            raise FewerError(
                f"moving average: momentum and until lie in [0, 1]; given {self.momentum} and {self.until}"
            )

    def build(self, shape: tuple[int, ...], student: PatchEncoder) -> Targets:
        """Copy the student."""
        _check_clips(shape, student)
        return _AverageTargets(self, student)


class _AverageTargets(Targets):
    def __init__(self, described: MovingAverage, student: PatchEncoder) -> None:
        super().__init__()
        self.described, self.width = described, student.width
        self.average = copy.deepcopy(student).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return normalised(self.average.tokens(x))

    def follow(self, student: PatchEncoder, progress: float) -> None:
        begin, end = self.described.momentum, self.described.until
        follow(self.average, student, 1 - (begin + (end - begin) * progress))


def normalised(tokens: Float[Tensor, "rows places width"]) -> Float[Tensor, "rows places width"]:
    """Each token to mean 0 and deviation 1 over its numbers."""
    return nn.functional.layer_norm(tokens, tokens.shape[-1:])


def _like(student: PatchEncoder, shape: tuple[int, ...], size: Size | None) -> PatchEncoder:
    if size is None:
        return copy.deepcopy(student)
    return TokenEncoder(shape, student.patch, *size).to(next(student.parameters()).device)


def _check_clips(shape: tuple[int, ...], student: PatchEncoder) -> None:
    """Half a patch of frames would be filled up with black ones, of which a teacher learns nothing."""
    if len(shape) == 4 and shape[1] % student.patch[0]:
        raise FewerError(
            f"clips of {shape[1]} frames cannot be cut into patches of {student.patch[0]} frames; cut the clips to a multiple, "
            "or choose patches of other length"
        )


def _hash(weights: dict[str, Tensor]) -> str:
    parts: list[str | bytes] = []
    for name, value in sorted(weights.items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        parts += [f"{name} {value.dtype} {tuple(value.shape)}", raw]
    return fingerprint(*parts)
