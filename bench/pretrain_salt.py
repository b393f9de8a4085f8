"""What SALT's two stages cost beside a step of V-JEPA: clips a second and operations a clip, on the same clips and masks.

One thread, clips of 8 frames of 64 by 64 in patches of 2 by 8 by 8 (256 places); encoder, predictor and masks are the same
for all, so that only the targets differ: pixels, latents of a frozen teacher, latents of a moving average.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.measure import seconds
from fewer.core.loop import own_randomness
from fewer.models.tokens import TokenTransformer
from fewer.pretrain.masked import MaskedModelling, MaskedState
from fewer.pretrain.salt import static_teacher, vjepa
from fewer.tasks.clips import bouncing_digits

WIDTH, DEPTH, HEADS, PATCH, SIDE, CLIPS = 192, 6, 3, 8, 64, 8
SMALLER = (96, 3, 3)
"""Width, blocks and heads of a teacher that is smaller than its student."""
SHARE = 1 / 6
"""Of a run, in which the teacher learns."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure a step of each, turn about."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"title": "pretrain: a frozen teacher for clips", "rows": measured(quick)}
    finally:
        torch.set_num_threads(threads)


def measured(quick: bool) -> list[dict[str, Any]]:
    """Steps of both stages, with a teacher of the student's size and with a smaller one, and of V-JEPA."""
    batch, repeats = (2, 2) if quick else (CLIPS, 9)
    entries = {
        "same": static_teacher(share=SHARE),
        "smaller": static_teacher(share=SHARE, size=SMALLER),
        "vjepa": vjepa(),
    }
    begun = {name: _begun(filling, batch, quick) for name, filling in entries.items()}
    steps = [(name, stage) for name in ("same", "smaller") for stage in (0, 1)] + [("vjepa", 1)]
    operations = {each: _operations(*begun[each[0]], each[1], repeats) for each in steps}
    # turn about, so that a busy moment hits all alike; masks are drawn anew each time, the same for all
    taken = [
        [seconds(lambda each=each, turn=turn: _step(*begun[each[0]], each[1], turn), 1) for each in steps]
        for turn in range(repeats)
    ]
    cost = dict(zip(steps, np.mean(taken, axis=0).tolist(), strict=True))
    speed = _operations_a_second(256 if quick else 1536)
    sizes = f"a transformer of {WIDTH} channels and {2 if quick else DEPTH} blocks, clips of 8 by {SIDE} by {SIDE}"
    theirs, their_operations = cost["vjepa", 1], operations["vjepa", 1]
    rows: list[dict[str, Any]] = []
    for name, teacher in (
        ("same", "a teacher of the student's size"),
        ("smaller", "a teacher of half the width and blocks"),
    ):
        whole = [SHARE * of[name, 0] + (1 - SHARE) * of[name, 1] for of in (cost, operations)]
        for what, mine, counted in (
            (f"a step in which {teacher} learns pixels, {sizes}", cost[name, 0], operations[name, 0]),
            (f"… in which a student learns from {teacher}", cost[name, 1], operations[name, 1]),
            (f"… a whole run, one sixth of it for {teacher}", whole[0], whole[1]),
        ):
            rows.append(
                {
                    "what": what,
                    "ours": batch / mine,
                    "peer": batch / theirs,
                    "peer_name": "V-JEPA's moving average",
                    "unit": "clips/s",
                    "ratio": theirs / mine,
                    "limit": batch * speed / counted,
                    "limit_is": "as many operations in one large matrix product",
                }
            )
        rows.append(
            {
                "what": f"… operations of a whole run, one sixth of it for {teacher}",
                "ours": whole[1] / batch / 1e9,
                "peer": their_operations / batch / 1e9,
                "peer_name": "V-JEPA's moving average",
                "unit": "billion a clip",
                "ratio": their_operations / whole[1],
            }
        )
    return rows


def _begun(filling: dict[str, Any], batch: int, quick: bool) -> tuple[MaskedModelling, MaskedState]:
    task = bouncing_digits(clips=60, size=SIDE, test=20, probe_rows=20)
    model = TokenTransformer(WIDTH, 2 if quick else DEPTH, HEADS, PATCH)
    loop = MaskedModelling(model, predictor=(96, 2, 3), batch=batch, points=1, **filling)
    with own_randomness(0, "start"):
        state = loop.start(task, 600 * batch, 0)
    for stage in (0, 1):  # everything is loaded, optimisers have their moments
        _step(loop, state, stage, 0)
    return loop, state


def _step(loop: MaskedModelling, state: MaskedState, stage: int, turn: int) -> None:
    """One step of the loop at the beginning of a run, where a teacher learns, or in its middle."""
    state.ledger.counts["rows_seen"] = stage * state.budget // 2
    state.draws.manual_seed(turn)
    loop._step(state)


def _operations(loop: MaskedModelling, state: MaskedState, stage: int, turns: int) -> float:
    """Of a step, in the mean over the masks of so many."""
    with FlopCounterMode(display=False) as counter:
        for turn in range(turns):
            _step(loop, state, stage, turn)
    return counter.get_total_flops() / turns


def _operations_a_second(side: int) -> float:
    first, second = torch.rand(2, side, side)
    return 2 * side**3 / seconds(lambda: first @ second, 5)
