"""Learning curves of soft actor-critic and twin delayed DDPG against Stable-Baselines3, at equal steps and hyper-parameters.

A run takes minutes, so each is appended to a file (``FEWER_CURVES``, by default in the folder of temporary files) when it ends;
what is there already is not run again, and the process may be stopped and started at any time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import stable_baselines3
import torch
from scipy import stats
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise

from fewer.control import OffPolicy, sac, td3
from fewer.control.environments import gym
from fewer.core.seeding import derive

OURS, THEIRS = "fewer", "Stable-Baselines3"
LR, TAU, DISCOUNT, BATCH, STARTS, HIDDEN, NOISE = 3e-4, 0.005, 0.99, 256, 100, (256, 256), 0.1


@dataclass(frozen=True)
class Race:
    """What is run on one environment.

    Parameters
    ----------
    environment : str
        Its name.
    steps, points, episodes, seeds : int
        Environment steps of a run, evaluations in it, episodes of each, and runs of each arm.
    """

    environment: str
    steps: int
    points: int
    episodes: int
    seeds: int = 5


RACES = (Race("Pendulum-v1", 5_000, 10, 10), Race("HalfCheetah-v5", 20_000, 5, 5))
QUICK = (Race("Pendulum-v1", 300, 2, 2, seeds=2),)


def run(quick: bool = False) -> dict[str, Any]:
    """Run what is missing, and compare."""
    torch.set_num_threads(1)
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            return compare(QUICK, Path(folder) / "runs.jsonl")
    return compare(RACES, Path(os.environ.get("FEWER_CURVES", Path(tempfile.gettempdir()) / "fewer_curves.jsonl")))


def compare(races: tuple[Race, ...], store: Path) -> dict[str, Any]:
    """A row for each method and environment, with the curves."""
    done = {_key(each): each for each in _stored(store)}
    for job in _jobs(races):
        if _key(job) in done:
            continue
        began = time.perf_counter()
        curve = (ours if job["library"] == OURS else theirs)(Race(**job["race"]), job["method"], job["seed"])
        done[_key(job)] = made = job | {"curve": curve, "seconds": round(time.perf_counter() - began, 1)}
        with store.open("a", encoding="utf-8") as file:
            file.write(json.dumps(made) + "\n")
        print(_key(made), curve[-1], made["seconds"], "s", file=sys.stderr, flush=True)
    rows, curves = [], []
    for race in races:
        for method in ("sac", "td3"):
            arms = {
                library: [
                    each
                    for each in done.values()
                    if (each["race"], each["method"], each["library"]) == (asdict(race), method, library)
                ]
                for library in (OURS, THEIRS)
            }
            curves += [
                {name: each[name] for name in ("race", "method", "library", "seed", "curve")}
                for arm in arms.values()
                for each in sorted(arm, key=lambda each: each["seed"])
            ]
            rows += _rows(race, method, arms)
    return {
        "title": "control: learning curves",
        "stable_baselines3": stable_baselines3.__version__,
        "rows": rows,
        "curves": curves,
    }


def _rows(race: Race, method: str, arms: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    scores = {
        library: np.array([[score for _, score in each["curve"]] for each in arm]) for library, arm in arms.items()
    }
    for what, taken in (
        ("at the end", lambda curve: curve[:, -1]),
        ("mean over the curve", lambda curve: curve.mean(1)),
    ):
        mine, other = taken(scores[OURS]), taken(scores[THEIRS])
        between = stats.ttest_ind(mine, other, equal_var=False).confidence_interval(0.95)
        yield {
            "what": f"{method.upper()} on {race.environment}, {race.steps:,} steps, {race.seeds} seeds: return {what}",
            "ours": float(mine.mean()),
            "peer": float(other.mean()),
            "peer_name": f"{THEIRS} {stable_baselines3.__version__}",
            "unit": "",
            "deviation": float(mine.std(ddof=1)),
            "peer_deviation": float(other.std(ddof=1)),
            "difference_interval": [float(between.low), float(between.high)],
            "limit": f"difference in ({between.low:.0f}, {between.high:.0f}) with 95%",
        }


def _jobs(races: tuple[Race, ...]) -> Iterator[dict[str, Any]]:
    for race in races:
        for seed in range(race.seeds):  # of all arms first, so that a part is balanced
            for method in ("sac", "td3"):
                for library in (OURS, THEIRS):
                    yield {"race": asdict(race), "method": method, "library": library, "seed": seed}


def _key(job: dict[str, Any]) -> str:
    return " ".join([*map(str, job["race"].values()), job["method"], job["library"], str(job["seed"])])


def _stored(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ours(race: Race, method: str, seed: int) -> list[tuple[int, float]]:
    """A run of this library."""
    filling = sac(HIDDEN, LR, TAU) if method == "sac" else td3(HIDDEN, LR, TAU, NOISE)
    loop = OffPolicy(
        **filling,
        discount=DISCOUNT,
        batch=BATCH,
        learning_starts=STARTS,
        episodes=race.episodes,
        points=race.points,
    )
    return [(point.spent, point.score) for point in loop.run(gym(race.environment), race.steps, seed)]


def theirs(race: Race, method: str, seed: int) -> list[tuple[int, float]]:
    """A run of Stable-Baselines3, evaluated as ours are, from the same starts."""
    import gymnasium

    environment, task = gymnasium.make(race.environment), gym(race.environment)
    common: dict[str, Any] = {
        "learning_rate": LR,
        "buffer_size": race.steps,
        "learning_starts": STARTS,
        "batch_size": BATCH,
        "tau": TAU,
        "gamma": DISCOUNT,
        "train_freq": 1,
        "gradient_steps": 1,
        "policy_kwargs": {"net_arch": list(HIDDEN)},
        "seed": derive(seed, THEIRS) % 2**31,
        "device": "cpu",
    }
    if method == "sac":
        model = SAC("MlpPolicy", environment, ent_coef="auto", target_entropy="auto", **common)
    else:
        size = task.action_size
        model = TD3(
            "MlpPolicy",
            environment,
            action_noise=NormalActionNoise(np.zeros(size), np.full(size, NOISE)),
            policy_delay=2,
            target_policy_noise=0.2,
            target_noise_clip=0.5,
            **common,
        )

    def act(observations: np.ndarray) -> np.ndarray:
        model.policy.set_training_mode(False)
        with torch.inference_mode():
            return (
                model.actor(torch.from_numpy(observations), deterministic=True).numpy()
                if method == "sac"
                else (model.actor(torch.from_numpy(observations)).numpy())
            )

    curve = []
    for _ in range(race.points):
        model.learn(race.steps // race.points, reset_num_timesteps=False)
        score, _ = task.evaluate(act, race.episodes, derive(seed, "evaluation"))
        curve.append((model.num_timesteps, score))
    environment.close()
    return curve
