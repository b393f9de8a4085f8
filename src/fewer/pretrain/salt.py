"""SALT: say what a frozen network makes of the hidden parts of a clip, after that network learned from pixels.

V-JEPA predicts the latents of a slow copy of the very network that learns, which keeps it from collapsing, ties the two
architectures and makes its loss unreadable.  SALT first lets a teacher say masked pixels, freezes it, and regresses its
latents: two ordinary regressions with fixed targets, the first one short.

    teacher, the first sixth of the run:   mean | pixels - d(f(x_seen), places) |      pixels of each patch normalised
    student, the rest:                     mean | LayerNorm(f(x)) - g(s(x_seen), places) |

each over the hidden places only, with masks of several small blocks and of few large ones (:mod:`.multi_block`).

References
----------
Xianhang Li et al., "Rethinking JEPA: Compute-Efficient Video SSL with Frozen Teachers", arXiv:2509.24317.
Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video", arXiv:2404.08471.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fewer import catalogue
from fewer.claim import Claim, Measures, higher, lower, ratio
from fewer.core.errors import FewerError, nearest
from fewer.core.ledger import Ledger
from fewer.core.loop import own_randomness
from fewer.core.seeding import torch_generator
from fewer.models.optimisers import AdamW
from fewer.models.tokens import TokenTransformer
from fewer.pretrain.attentive_probe import embed_tokens
from fewer.pretrain.encoder import PretrainedEncoder
from fewer.pretrain.masked import Absolute, MaskedModelling, Masking, Pixels
from fewer.pretrain.multi_block import MultiBlock
from fewer.pretrain.readout import judged
from fewer.pretrain.teachers import FrozenTeacher, GivenTeacher, MovingAverage, Size
from fewer.tasks.clips import bouncing_digits

Blocks = tuple[tuple[int, float], ...]
"""For each kind of mask, how many blocks it has and the share of an image that each of them covers."""

BLOCKS: Blocks = ((8, 0.15), (2, 0.7))


def static_teacher(
    teacher: nn.Module | PretrainedEncoder | str | os.PathLike[str] | None = None,
    share: float = 1 / 6,
    size: Size | None = None,
    blocks: Blocks = BLOCKS,
    masking: Masking | str | None = None,
    teacher_masking: Masking | str | None = None,
    normalise: bool = True,
) -> dict[str, Any]:
    """Two stages: a teacher learns pixels and is frozen, then a student learns its latents.

    Parameters
    ----------
    teacher : module, PretrainedEncoder or path, optional
        A network that is there already, the folder of a VideoMAE among others (see :class:`.GivenTeacher`); then there is no
        first stage.
    share : float, default 1/6
        Of the run, in which the teacher learns.
    size : (int, int, int), optional
        Width, blocks and heads of the teacher; the student's by default.
    blocks : tuple of (int, float), default ((8, 0.15), (2, 0.7))
        For each kind of mask, how many blocks, and the share of an image that each covers.  Where images have few patches,
        fewer blocks leave more to see: ``((4, 0.15), (1, 0.7))`` for 4 by 4.
    masking : Masking or str, optional
        What is masked in place of blocks: an object, or the name of a filling that masks, such as ``"random-tubes"``.
    teacher_masking : Masking or str, optional
        The same for the teacher alone.
    normalise : bool, default True
        Let the teacher say pixels of each patch brought to mean 0 and deviation 1.  Where many patches hold nothing but noise,
        they would count as much as all others: then leave pixels as they are.

    Returns
    -------
    dict
        Fillings of the slots masking, target and distance.

    Raises
    ------
    FewerError
        If a teacher cannot be read, or a name is not that of a filling that masks.

    Examples
    --------
    >>> from fewer.pretrain.masked import MaskedModelling
    >>> loop = MaskedModelling(**static_teacher(size=(32, 2, 4), teacher_masking="random-tubes"))
    >>> loop.masking, loop.target.masking
    (MultiBlock(blocks=((8, 0.15), (2, 0.7)), aspect=(0.75, 1.5)), RandomTubes(ratio=0.9))
    """
    own = MultiBlock(blocks) if masking is None else named_masking(masking)
    target: FrozenTeacher | GivenTeacher
    if teacher is not None:
        target = GivenTeacher(teacher, size)
    else:
        seen = own if teacher_masking is None else named_masking(teacher_masking)
        target = FrozenTeacher(share, size, seen, pixels=Pixels(normalise))
    return {"masking": own, "target": target, "distance": Absolute()}


def vjepa(momentum: float = 0.998, until: float = 1.0, blocks: Blocks = BLOCKS) -> dict[str, Any]:
    """V-JEPA: the student says the latents of its own moving average.

    Parameters
    ----------
    momentum, until : float, default 0.998 and 1
        Of the average, at the beginning and at the end of the run (see :class:`.MovingAverage`).
    blocks : tuple of (int, float), default ((8, 0.15), (2, 0.7))
        As in :func:`static_teacher`.

    Returns
    -------
    dict
        Fillings of the slots masking, target and distance.
    """
    return {"masking": MultiBlock(blocks), "target": MovingAverage(momentum, until), "distance": Absolute()}


def v_pixel(blocks: Blocks = BLOCKS, normalise: bool = True) -> dict[str, Any]:
    """Say masked pixels for the whole run: SALT's first stage alone.

    Parameters
    ----------
    blocks : tuple of (int, float), default ((8, 0.15), (2, 0.7))
        As in :func:`static_teacher`.
    normalise : bool, default True
        Bring the pixels of each patch to mean 0 and deviation 1.

    Returns
    -------
    dict
        Fillings of the slots masking, target and distance.
    """
    return {"masking": MultiBlock(blocks), "target": Pixels(normalise), "distance": Absolute()}


def named_masking(given: Masking | str) -> Masking:
    """A masking, or that of the filling of this name, with the filling's defaults.

    Raises
    ------
    FewerError
        If there is no such filling, or it does not mask.

    Examples
    --------
    >>> named_masking("mae")
    RandomMask(ratio=0.75, masks=1)
    """
    if not isinstance(given, str):
        return given
    masks = {name: each for name, each in catalogue.fillings().items() if "masking" in each.slots}
    if given not in masks:
        raise FewerError(f"there is no masking {given!r}; {nearest(given, masks)}")
    chosen = masks[given]
    made = catalogue.resolve(str(chosen.make))()
    return made["masking"] if len(chosen.slots) > 1 else made


# --- the claim -------------------------------------------------------------------------------------------------------

SMALL: Blocks = ((4, 0.15), (1, 0.7))
STEPS, BATCH = 400, 32
SALT = static_teacher(blocks=SMALL)
AVERAGE = vjepa(0.98, blocks=SMALL)


def _loop(filling: Mapping[str, Any], points: int, tiny: bool) -> MaskedModelling:
    model = TokenTransformer(16, 1, 2, 6) if tiny else TokenTransformer(32, 2, 4, 6)
    return MaskedModelling(
        model,
        predictor=(16, 1, 2) if tiny else (32, 1, 4),
        optimiser=AdamW(lr=3e-3, weight_decay=0.05),
        batch=BATCH,
        points=points,
        **filling,
    )


def _watched(filling: Mapping[str, Any], steps: int, points: int, seed: int, tiny: bool) -> dict[str, list[float]]:
    """Train, and measure at so many moments, and before them, what becomes of the student."""
    task = bouncing_digits(clips=200, test=60, probe_rows=100) if tiny else bouncing_digits()
    loop, budget = _loop(filling, points, tiny), steps * BATCH
    with own_randomness(seed, "start"):
        state = loop.start(task, budget, seed)
    held_out = state.rows.held_out
    found: dict[str, list[float]] = {"spread": [spread(embed_tokens(state.encoder, held_out))]}
    found["untrained"] = [judged(state.encoder, state.rows.probes, {"linear": loop.readout})["linear"]]
    while state.ledger.spent < budget and not state.exhausted:
        with own_randomness(seed, "advance", state.points):
            point = loop.advance(state)
        state.points += 1
        if point.extras.get("stage", 1) == 0:
            continue  # only the teacher has learned
        # always the same clips and masks, so that losses differ by what was learned alone
        fixed = replace(state, draws=torch_generator(0, "masks"), ledger=Ledger({"rows_seen": 1.0}))
        with torch.no_grad():
            losses = loop.losses(fixed, torch.as_tensor(held_out, device=state.x.device))["masked"]
        found["spread"].append(spread(embed_tokens(state.encoder, held_out)))
        found.setdefault("loss", []).append(float(losses.mean()))
        for name in ("linear", "linear motion", "linear digit"):
            found.setdefault(name, []).append(point.extras[name])
    return found


def spread(tokens: Float[np.ndarray, "rows places width"]) -> float:
    """How much rows differ: deviation over rows of each number at each place, in the mean.

    Examples
    --------
    >>> spread(np.array([[[1.0]], [[3.0]]]))
    1.0
    """
    return float(tokens.std(axis=0).mean())


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's; 0 where one of them does not vary.

    Examples
    --------
    >>> rank_correlation([1, 2, 4], [9, 5, 5]), rank_correlation([1, 2], [3, 3])
    (-0.866..., 0.0)
    """
    from scipy.stats import rankdata

    first, second = rankdata(one), rankdata(other)
    if not (np.ptp(first) and np.ptp(second)):
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def operations(filling: Mapping[str, Any], steps: int, tiny: bool = False) -> float:
    """Floating-point operations of a run of so many steps, as torch counts those of one step of each stage."""
    from torch.utils.flop_counter import FlopCounterMode

    task = bouncing_digits(clips=200, test=60, probe_rows=100)
    loop = _loop(filling, 1, tiny)
    share = getattr(filling["target"], "share", 0.0)
    first = math.ceil(share * steps - 1e-9)
    with own_randomness(0, "start"):
        state = loop.start(task, steps * BATCH, 0)
    total = 0.0
    for count, begin in ((first, 0), (steps - first, first)):
        if count:
            # sizes of masks are drawn: several steps in the mean, with the same draws for each entry and stage
            state.ledger.counts["rows_seen"] = begin * BATCH
            state.draws.manual_seed(0)
            with FlopCounterMode(display=False) as counter:
                for _ in range(counted := 1 if tiny else min(count, 12)):
                    loop._step(state)
            total += count * counter.get_total_flops() / counted
    return total


def measure_against_vjepa(seed: int, tiny: bool) -> Measures:
    """Equal steps for a frozen teacher and its student, for a moving average, and for pixels all the time."""
    steps = 6 if tiny else STEPS
    entries = {"salt": SALT, "v-jepa": AVERAGE, "v-pixel": v_pixel(SMALL)}
    measured = {}
    for name, filling in entries.items():
        watched = _watched(filling, steps, 1, seed, tiny)
        measured[name] = {
            "linear probe": watched["linear"][-1],
            "motion": watched["linear motion"][-1],
            "digit": watched["linear digit"][-1],
            "operations": operations(filling, steps, tiny),
        }
    measured["untrained"] = {"linear probe": watched["untrained"][0]}  # pyright: ignore[reportPossiblyUnboundVariable]
    return measured


def measure_collapse(seed: int, tiny: bool) -> Measures:
    """Follow how much the latents of rows differ, with a frozen teacher and with the student as its own teacher."""
    steps, points = (6, 3) if tiny else (STEPS // 2, 7)  # the first point is the teacher's
    measured = {}
    for name, filling in {"salt": SALT, "its own teacher": vjepa(0.0, 0.0, SMALL)}.items():
        watched = _watched(filling, steps, points, seed, tiny)
        measured[name] = {"least spread": min(watched["spread"]) / watched["spread"][0]}
        if name == "salt":
            measured[name]["rank correlation"] = rank_correlation(watched["loss"], watched["linear"])
    return measured


claim = (
    Claim(
        says="With as many steps and fewer operations, a student of a frozen teacher ends above one that says its own moving "
        "average.",
        measure=measure_against_vjepa,
        seeds=3,
        holds=[
            higher("linear probe", "salt", than="v-jepa"),
            ratio("operations", "salt", to="v-jepa", at_most=1),
        ],
        note="2,000 clips of 8 by 24 by 24 pixels and 400 steps of 32, where the paper has 3.6 million clips and 240,000 steps. "
        "One learning rate, 3e-3, for all three; no other was tried for any of them. Probes are at 0.197 (salt), 0.200 (v-jepa), "
        "0.179 (v-pixel) and 0.164 (untrained): too near to one another for three seeds. Operations are counted over 12 steps "
        "of each stage, on the same draws of masks.",
    ),
    Claim(
        says="A student of a frozen teacher does not collapse, though nothing is averaged and no variance asked for, and its "
        "loss on clips held out says how good its features are; one that is its own teacher collapses.",
        measure=measure_collapse,
        seeds=3,
        holds=[
            higher("least spread", "salt", than=0.1),
            lower("least spread", "its own teacher", than=0.1),
            lower("rank correlation", "salt", than=-0.7),
        ],
        note="200 steps. The student that is its own teacher keeps 0.57 to 0.67 of its spread and does not collapse, so "
        "nothing is shown about what a frozen teacher prevents; salt keeps 0.50 to 0.54. Longer runs and other learning rates "
        "were not tried. Rank correlations of six points are -0.87, -0.46 and -0.93.",
    ),
)
