"""A small CLIP that has learned rendered scenes from captions, and the same objects redrawn: hues turned, edges, stripes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewer.adapt.base_and_new import BaseAndNew
from fewer.adapt.clip_images import CLIPImages
from fewer.adapt.loop import Labelled
from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.loop import own_randomness
from fewer.core.seeding import generator, torch_generator
from fewer.core.shared_start import shared_start
from fewer.pretrain.clip import TwoTowers, clip_training
from fewer.pretrain.loop import Contrastive
from fewer.tasks.scenes import COLOURS, KINDS, REDRAWN, SHAPES, TEMPLATES, Scenes, Style, render


@dataclass(frozen=True, eq=False)
class RedrawnScenes(BaseAndNew):
    """Redrawn scenes of 16 kinds to learn from, and of 16 others to be told apart by their names.

    The CLIP has seen the words of all kinds in plain drawings.  Each shape and each colour occurs among base and new kinds.

    Parameters
    ----------
    shots : int, default 16
        Rows of each base kind that labels may be bought for.
    division : int, default 0
        Which of many divisions of the kinds.
    test : int, default 600
        Images of base kinds that are scored, and as many of new ones.
    steps : int, default 300
        Steps of 128 pairs that the CLIP is trained for; done once for each seed and kept.
    style : Style, default REDRAWN
        How objects are redrawn.

    Examples
    --------
    >>> task = RedrawnScenes(shots=2, test=5)
    >>> len(task.classes), len(task.new), task.labelled(0).x.shape, task.labelled(0).test_x.shape
    (16, 16, torch.Size([32, 3, 24, 24]), torch.Size([10, 3, 24, 24]))
    """

    shots: int = 16
    division: int = 0
    test: int = 600
    steps: int = 300
    style: Style = REDRAWN
    name: str = "redrawn-scenes"
    metric: str = "harmonic mean of base and new"
    template: str = TEMPLATES[0]

    def __post_init__(self) -> None:
        if min(self.shots, self.test, self.steps) < 1:
            raise FewerError(f"redrawn-scenes: shots, test and steps must be 1 or more; given {self}")

    @property
    def classes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Base kinds."""
        return tuple(KINDS[kind] for kind in self._kinds(0).tolist())

    @property
    def new(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """New kinds."""
        return tuple(KINDS[kind] for kind in self._kinds(1).tolist())

    def _kinds(self, part: int) -> Tensor:
        """A third of the kinds, along diagonals of shuffled shapes and colours."""
        rng = generator(self.division, "division of kinds")
        shapes, colours = (torch.from_numpy(rng.permutation(len(each))) for each in (SHAPES, COLOURS))
        chosen = (shapes[:, None] + colours[None, :]) % 3 == part
        return torch.nonzero(chosen.flatten())[:, 0]

    def fingerprint(self) -> str:
        """Of the settings."""
        return fingerprint(self.name, repr((self.shots, self.division, self.test, self.steps, self.style)))

    def base(self, seed: int) -> CLIPImages:
        """The CLIP of one seed."""
        task = Scenes(held_out=1, test=1)
        tree = shared_start(
            "scenes-clip", (task.fingerprint(), str(self.steps), str(seed)), lambda: self._trained(seed)
        )
        with own_randomness(seed, "scenes clip"):
            model = TwoTowers().build(task, task.pairing(seed)).model
        model.load_state_dict(tree)
        return CLIPImages(model.eval())

    def _trained(self, seed: int) -> dict[str, Tensor]:
        loop = Contrastive(**clip_training(), batch=128, points=1)
        return loop.learn(Scenes(held_out=1, test=1), self.steps * 128, seed).result.model.state_dict()

    def labelled(self, seed: int) -> Labelled:
        """Base kinds in rounds; to be scored, base rows first and then new ones."""
        draws = torch_generator(seed, "redrawn scenes", self.division)
        rounds = [torch.randperm(16, generator=draws) for _ in range(self.shots)]
        y, base_y, new_y = torch.cat(rounds), *torch.randint(16, (2, self.test), generator=draws)

        def drawn(kinds: Tensor) -> Tensor:
            return render(kinds // len(COLOURS), kinds % len(COLOURS), draws, style=self.style)

        base, new = self._kinds(0), self._kinds(1)
        return Labelled(
            drawn(base[y]), y, drawn(torch.cat([base[base_y], new[new_y]])), torch.cat([base_y, new_y + 16])
        )
