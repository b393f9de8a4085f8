"""What ``bench.control`` measures, an arm a process: ``python _control_arms.py ARM CORE``.

A process is bound to one core before anything is imported, says what it runs with, and then answers each line that it reads
with the wall and processor seconds of one more repeat.  Peers that need another environment run in that of ``FEWER_SBX_PYTHON``;
so nothing is imported here that an arm does not need.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

OBSERVATIONS, ACTIONS, BATCH, REMEMBERED, DRAWN = 17, 6, 256, 5_000, 200_000
"""Numbers of HalfCheetah; transitions to learn from, and to draw from where drawing alone is measured."""

Arm = tuple[Callable[[], Any], int, list[str]]
"""What is repeated, how many units of work that is, and the packages whose versions matter."""


def _rows(count: int) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = {"observations": OBSERVATIONS, "next_observations": OBSERVATIONS, "actions": ACTIONS}
    rows = {name: rng.standard_normal((count, width), dtype=np.float32) for name, width in shapes.items()}
    return rows | {"rewards": rng.standard_normal(count, dtype=np.float32)}


# --- ours ----------------------------------------------------------------------------------------


def _ours(method: str, count: int, compiled: bool = False) -> Arm:
    import torch

    from fewer.control import OffPolicy
    from fewer.control.baselines import rlpd, sac
    from fewer.control.environments import gym
    from fewer.control.loop import Uniform

    torch.set_num_threads(1)
    filling: dict[str, Any] = (
        sac(compiled=compiled) if method == "sac" else rlpd(compiled=compiled) | {"sampler": Uniform()}
    )
    loop = OffPolicy(**filling)
    state = loop.start(gym("HalfCheetah-v5"), DRAWN, seed=0)
    _remember(state.replay, REMEMBERED)

    def repeat() -> None:
        for _ in range(count):
            loop._update(state)

    return repeat, count, ["torch"]


def _remember(replay: Any, count: int) -> None:
    import torch

    rows = {name: torch.from_numpy(each) for name, each in _rows(count).items()}
    replay.add(**rows, terminated=torch.zeros(count, dtype=torch.bool))


def _ours_drawing(count: int) -> Arm:
    import torch

    from fewer.control.replay import Replay

    torch.set_num_threads(1)
    replay = Replay(DRAWN, OBSERVATIONS, ACTIONS)
    _remember(replay, DRAWN)
    return lambda: [replay.sample(BATCH) for _ in range(count)], count * BATCH, ["torch"]


def _worlds(name: str, copies: int, count: int) -> Arm:
    import numpy as np

    from fewer import compose
    from fewer.control.environments import Environment

    task = compose.task(name)
    assert isinstance(task, Environment)
    worlds, rng = task.make(copies), np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (count, copies, task.action_size)).astype(np.float32)
    seeds = iter(range(2**31))
    worlds.reset({each: next(seeds) for each in range(copies)})

    def repeat() -> None:
        for each in actions:
            made = worlds.step(each)
            if (ended := np.flatnonzero(made.terminated | made.truncated)).size:
                worlds.reset({copy: next(seeds) for copy in ended.tolist()})

    return repeat, count * copies, ["numpy"]


# --- peers ---------------------------------------------------------------------------------------


def _learner(library: str, settings: dict[str, Any], together: int, count: int) -> Arm:
    """Updates of Stable-Baselines3 or SBX, so many in one call."""
    import gymnasium
    import numpy as np
    from stable_baselines3.common.logger import configure

    if library == "sbx":
        from sbx import SAC  # pyright: ignore[reportMissingImports]
    else:
        import torch
        from stable_baselines3 import SAC

        torch.set_num_threads(1)
        settings = {**settings, "device": "cpu"}
    model: Any = SAC("MlpPolicy", gymnasium.make("HalfCheetah-v5"), buffer_size=REMEMBERED, seed=0, **settings)
    model.set_logger(configure(None, []))
    for row in range(REMEMBERED):
        rows = {name: each[row : row + 1] for name, each in _rows_once.items()}
        model.replay_buffer.add(
            rows["observations"], rows["next_observations"], rows["actions"], rows["rewards"], np.zeros(1), [{}]
        )

    def repeat() -> None:
        for _ in range(count // together):
            model.train(together, BATCH)

    packages = ["stable_baselines3", "torch"] if library == "sb3" else ["sbx-rl", "jax", "flax", "optax"]
    return repeat, count, packages


_rows_once: dict[str, Any] = {}


def _sb3_drawing(count: int) -> Arm:
    import numpy as np
    from gymnasium.spaces import Box
    from stable_baselines3.common.buffers import ReplayBuffer

    spaces = (Box(-1, 1, (width,), np.float32) for width in (OBSERVATIONS, ACTIONS))
    buffer = ReplayBuffer(DRAWN, *spaces, device="cpu")
    rows = _rows(DRAWN)
    # as DRAWN calls of add would leave it
    for name in ("observations", "next_observations", "actions"):
        getattr(buffer, name)[:, 0] = rows[name]
    buffer.rewards[:, 0], buffer.full = rows["rewards"], True
    return lambda: [buffer.sample(BATCH) for _ in range(count)], count * BATCH, ["stable_baselines3"]


def _torchrl_drawing(count: int) -> Arm:
    import torch
    from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(DRAWN), batch_size=BATCH)
    rows = {name: torch.from_numpy(each) for name, each in _rows(DRAWN).items()}
    buffer.extend(TensorDict(rows | {"continues": torch.ones(DRAWN)}, batch_size=[DRAWN]))
    return lambda: [buffer.sample() for _ in range(count)], count * BATCH, ["torchrl", "tensordict", "torch"]


# --- the machine ---------------------------------------------------------------------------------


def _product(count: int) -> Arm:
    """Operations of products of matrices as large as those of the networks, already in the cache."""
    import torch

    torch.set_num_threads(1)
    one, two = torch.randn(256, 256), torch.randn(256, 256)
    made = torch.empty(256, 256)
    return lambda: [torch.mm(one, two, out=made) for _ in range(count)], count * 2 * 256**3, ["torch"]


RLPD_IN_SBX = {
    "gradient_steps": 20,
    "policy_delay": 20,
    "policy_kwargs": {"n_critics": 10, "layer_norm": True},
}

ARMS: dict[str, Callable[[], Arm]] = {
    "product": lambda: _product(200),
    "sac": lambda: _ours("sac", 20),
    "sac compiled": lambda: _ours("sac", 20, compiled=True),
    "sac sb3": lambda: _learner("sb3", {}, 1, 20),
    "sac sbx, one at a time": lambda: _learner("sbx", {}, 1, 20),
    "sac sbx": lambda: _learner("sbx", {}, 20, 20),
    "rlpd": lambda: _ours("rlpd", 20),
    "rlpd compiled": lambda: _ours("rlpd", 20, compiled=True),
    "rlpd sbx": lambda: _learner("sbx", RLPD_IN_SBX, 20, 20),
    "drawing": lambda: _ours_drawing(300),
    "drawing sb3": lambda: _sb3_drawing(300),
    "drawing torchrl": lambda: _torchrl_drawing(300),
    "dock-2d, 1": lambda: _worlds("dock-2d", 1, 2000),
    "dock-2d, 64": lambda: _worlds("dock-2d", 64, 500),
    "peg-slot-2d, 1": lambda: _worlds("peg-slot-2d", 1, 300),
    "peg-slot-2d, 64": lambda: _worlds("peg-slot-2d", 64, 200),
}


def main(arm: str, core: int) -> None:
    """Answer until the input ends."""
    os.sched_setaffinity(0, {core})
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    _rows_once.update(_rows(REMEMBERED))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print to it
    repeat, units, packages = ARMS[arm]()
    for _ in range(2):
        repeat()
    print(
        json.dumps({"units": units, "versions": {name: version(name) for name in packages}}), file=answers, flush=True
    )
    for _ in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        repeat()
        taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(json.dumps(taken), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
