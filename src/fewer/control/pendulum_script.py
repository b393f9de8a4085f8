"""A script that swings up Gymnasium's pendulum, and data of it: something to learn from that is neither good nor bad."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from fewer.control.environments import Environment
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations

EXPERT, RANDOM = -159.0, -1230.0
"""Mean returns of the script without noise, and of chance."""


def swung_up(
    seen: Float[np.ndarray, "copies 3"], rng: np.random.Generator, noise: float, randomly: float
) -> Float[np.ndarray, "copies 1"]:
    """A pendulum's actions by a script: pump energy until it suffices for standing, then hold; part of them by chance."""
    angle, speed = np.arctan2(seen[:, 1], seen[:, 0]), seen[:, 2]
    missing = 5 * (1 - seen[:, 0]) - speed**2 / 6  # with a length, a mass and a gravity of 1, 1 and 10
    done = np.where(np.abs(angle) < 0.4, -4 * angle - speed, np.sign(speed) * np.sign(missing))
    done = np.clip(done + noise * rng.standard_normal(len(done)), -1, 1)
    return np.where(rng.random(len(done)) < randomly, rng.uniform(-1, 1, len(done)), done)[:, None]


def pendulum_data(task: Environment, episodes: int, seed: int) -> Demonstrations:
    """Episodes of 200 steps by the script, half of whose actions are by chance."""
    rng, worlds = generator(seed, "script"), task.make(episodes)
    seen, steps = worlds.reset({each: derive(seed, "start", each) for each in range(episodes)}), []
    for _ in range(200):
        actions = swung_up(seen, rng, noise=0.5, randomly=0.5)
        made = worlds.step(actions)
        steps.append((seen, 2 * actions, made.rewards))
        seen = made.observations
    worlds.close()
    observations, actions, rewards = (np.stack(each, axis=1) for each in zip(*steps, strict=True))
    return Demonstrations(
        observations.reshape(-1, 3),
        actions.reshape(-1, 1),
        offsets=np.arange(episodes + 1) * 200,
        final_observations=seen,
        rewards=rewards.reshape(-1),
        name="scripted pendulum",
    )
