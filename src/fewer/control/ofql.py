"""One-step flow Q-learning: offline actor-critic whose policy turns noise into an action in one evaluation.

The policy is an average velocity (:mod:`fewer.control.mean_flow`) that imitates the data and is drawn towards what two
critics value (:mod:`fewer.control.behaviour_regularised`):

    L = L_mean-flow - alpha E Q(s, a_theta),   a_theta = e - u_theta(e, 0, 1; s),   alpha = eta / E|Q|
    y = r + gamma min_i Q_i'(s', a'),          a' one step of the slow copy of the policy

There is no chain to go through, in the critic's target, in the policy's loss, or when acting, and nothing is distilled.

References
----------
Nguyen and Yoo, "Revisiting Diffusion Q-Learning: From Iterative Denoising to One-Step Action Generation", 2025,
arXiv:2508.13904.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fewer.claim import Claim, Measures, Tiny, higher, no_worse, ratio
from fewer.control.behaviour_regularised import RegularisedActor
from fewer.control.environments import gym
from fewer.control.generative_policies import Flow, FlowMatching, GenerativePolicy, Generator
from fewer.control.loop import OffPolicyState
from fewer.control.mean_flow import MeanFlow
from fewer.control.offline import Offline
from fewer.control.offline_baselines import bc_flow, dql, fbrac, regularised
from fewer.control.pendulum_script import EXPERT, RANDOM, pendulum_data
from fewer.control.policies import adam, step
from fewer.control.prior_data import as_memory
from fewer.control.recorded_data import FromData, Recorded
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive, generator
from fewer.demos.demonstrations import Demonstrations


def one_step_flow(
    demos: str | None = None,
    eta: float = 0.1,
    hidden: tuple[int, ...] = (256, 256, 256),
    flow_ratio: float = 0.5,
    candidates: int = 50,
    lr: float = 3e-4,
    clip: float | None = None,
    tau: float = 0.005,
    slow_every: int = 5,
    slow_from: int = 1000,
    backup: int = 1,
) -> dict[str, Any]:
    """Fill the slots with one-step flow Q-learning; in the loop ``offline`` it learns from data alone.

    Parameters
    ----------
    demos : str, optional
        The data: a file, a folder, or the id of a Minari data set; by default the task's own.
    eta : float, default 0.1
        Weight of the value against imitation.  It depends on the data more than anything else; 0.001 to 0.5 are usual.
    hidden : tuple of int, default (256, 256, 256)
        Widths of all networks.
    flow_ratio : float, default 0.5
        Share of rows that learn the velocity at a point instead of an average.
    candidates : int, default 50
        Actions that the best known one is chosen from, with weights exp(Q).
    lr : float, default 3e-4
        Of Adam, everywhere.
    clip : float, optional
        Bound of the norm of the policy's gradient.
    tau : float, default 0.005
        Speed of the slow networks.
    slow_every, slow_from : int, default 5 and 1000
        Steps of the policy from one move of its slow copy to the next, and before the first.
    backup : int, default 1
        Actions that a target looks at, of which the best counts; 10 where rewards are rare.

    Examples
    --------
    >>> sorted(one_step_flow())
    ['critic', 'policy', 'sampler']
    """
    flow = MeanFlow(tuple(hidden), flow_ratio)
    return regularised(flow, demos, eta, lr, candidates, hidden, clip, tau, slow_every, slow_from, backup)


# --- the claims ----------------------------------------------------------------------------------


def ring(count: int, rng: np.random.Generator) -> Float[np.ndarray, "count 2"]:
    """Points of eight Gaussians on a circle."""
    angles = rng.integers(8, size=count) * (np.pi / 4)
    centres = 0.7 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return (centres + 0.05 * rng.standard_normal((count, 2))).astype(np.float32)


def energy_distance(one: Float[Tensor, "rows 2"], two: Float[Tensor, "others 2"]) -> float:
    """How far two samples are apart: 2 E|x - y| - E|x - x'| - E|y - y'|, 0 where both are from one distribution."""
    between = torch.cdist(one, two).mean()
    within = sum(torch.cdist(each, each).sum() / (len(each) * (len(each) - 1)) for each in (one, two))
    return float(2 * between - within)


def measure_ring(seed: int, tiny: bool) -> Measures:
    """Draw from eight Gaussians with one evaluation: an average velocity against the velocity at the noise."""
    rng = generator(seed, "ring")
    points, held_out = (torch.from_numpy(ring(count, rng)) for count in (5000, 2000))
    hidden, steps, batch = ((16,), 10, 32) if tiny else ((128, 128, 128), 2000, 256)
    policies: dict[str, GenerativePolicy] = {
        "average velocity": MeanFlow(hidden),
        "velocity": FlowMatching(hidden, steps=1),
    }
    measured: dict[str, dict[str, float]] = {}
    for name, policy in policies.items():
        with own_randomness(seed, name):
            made = _imitating(policy, points, steps, batch)
            nothing, noise = torch.zeros(2000, 1), torch.randn(2000, 2)
            with torch.inference_mode():
                measured[name] = {"energy distance": energy_distance(made.generate(nothing, noise), held_out)}
                if name == "velocity":
                    many = Flow(made.net, 20)  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
                    distance = energy_distance(many.generate(nothing, noise), held_out)
                    measured["velocity, 20 steps"] = {"energy distance": distance}
    return measured


def _imitating(policy: GenerativePolicy, points: Float[Tensor, "rows 2"], steps: int, batch: int) -> Generator:
    made = policy.build(1, 2)
    parameters = list(made.parameters())
    optimiser = adam(parameters, 1e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    nothing = torch.zeros(batch, 1)
    for _ in range(steps):
        step(optimiser, made.imitation_loss(nothing, points[torch.randint(len(points), (batch,))]).mean(), parameters)
        falling.step()
    return made


STEPS, LOOKS = 2000, 3
"""Gradient steps, and of how many evaluations a result is the mean: the last at the end, each a fifth of all steps apart."""

ETAS = {"ofql": 0.1, "dql": 1.0, "fbrac, one step": 0.1}
"""Weights of the value, chosen for each on other seeds."""


def measure_pendulum(seed: int, tiny: bool) -> Measures:
    """Swing up after 20,000 steps of a script half of whose actions are by chance; returns as shares of the script's best.

    The chain that acts in one step is the one that was trained for five.
    """
    task, steps = gym("Pendulum-v1"), 10 if tiny else STEPS
    data = as_memory(pendulum_data(task, 2 if tiny else 100, seed), task)
    hidden = (16,) if tiny else (64, 64, 64)
    numbers: dict[str, Any] = {"hidden": hidden, "lr": 1e-3, "tau": 0.01, "slow_every": 1, "slow_from": 0}
    fillings = {
        "ofql": one_step_flow(eta=ETAS["ofql"], **numbers),
        "dql": dql(eta=ETAS["dql"], **numbers),
        "fbrac, one step": fbrac(eta=ETAS["fbrac, one step"], steps=1, **numbers),
        "bc-flow": bc_flow(hidden=hidden, lr=1e-3, tau=0.01),
    }
    looks = {steps - each * steps // 5 for each in range(1 if tiny else LOOKS)}
    shares: dict[str, list[float]] = {}

    def look(name: str, state: OffPolicyState, shortcut: bool = False) -> None:
        actor = state.actor
        assert isinstance(actor, RegularisedActor)
        trained = actor.settings
        actor.settings = dataclasses.replace(trained, shortcut=shortcut)
        with own_randomness(seed, "evaluation"):
            score, _ = state.loop.score(state, derive(seed, "evaluation"))
        actor.settings = trained
        shares.setdefault(name, []).append((score - RANDOM) / (EXPERT - RANDOM))

    for name, filling in fillings.items():
        settings: dict[str, Any] = filling | {"sampler": FromData(data)}
        loop = Offline(**settings, discount=0.97, batch=128, episodes=1 if tiny else 20)
        with own_randomness(seed, name):
            state = loop.start(task, steps, seed)
            for number in range(1, steps + 1):
                loop.learn_once(state)
                if number in looks:
                    look(name, state)
                    if name == "dql":
                        look("dql, one step", state, shortcut=True)
    return {name: {"share of the script": statistics.fmean(values)} for name, values in shares.items()}


def measure_cost(seed: int, tiny: bool) -> Measures:
    """Time of a gradient step, and of an action for one observation, in turns within one process."""
    repeats = 3 if tiny else 40
    observations, actions, rows = 17, 6, 4096
    rng = np.random.default_rng(seed)
    data = Demonstrations(
        rng.standard_normal((rows, observations), dtype=np.float32),
        rng.uniform(-1, 1, (rows, actions)).astype(np.float32),
        offsets=np.arange(0, rows + 1, 64),
        rewards=rng.standard_normal(rows).astype(np.float32),
        terminations=np.arange(1, rows + 1) % 64 == 0,
    )
    environment = Recorded("noise", observations, actions, -np.ones(actions), np.ones(actions))
    memory = FromData(as_memory(data, environment))
    states = {}
    for name, filling in {"ofql": one_step_flow(), "dql": dql()}.items():
        with own_randomness(seed, name):
            loop = Offline(filling["policy"], filling["critic"], sampler=memory)
            states[name] = loop.start(environment, 1, seed)
    seconds: dict[str, dict[str, list[float]]] = {name: {"a step": [], "an action": []} for name in states}
    seen = torch.zeros(1, observations)

    def timed(act: Callable[[], object]) -> float:
        began = time.perf_counter()
        act()
        return time.perf_counter() - began

    def acted(actor: RegularisedActor) -> None:
        with torch.inference_mode():
            actor.choose(seen, 1)

    with own_randomness(seed, "cost"):
        for number in range(repeats + 2):
            for name, state in states.items():
                both = {
                    "a step": timed(lambda state=state: state.loop._update(state)),
                    "an action": timed(lambda state=state: [acted(state.actor) for _ in range(5)]) / 5,
                }
                if number >= 2:  # the first ones warm up
                    for what, value in both.items():
                        seconds[name][what].append(value)
    return {
        name: {f"milliseconds of {what}": 1000 * statistics.median(values) for what, values in table.items()}
        for name, table in seconds.items()
    }


claim = (
    Claim(
        says="One evaluation of an average velocity draws from eight Gaussians far better than one of the velocity at the noise.",
        measure=measure_ring,
        seeds=5,
        holds=[ratio("energy distance", "average velocity", to="velocity", at_most=0.5)],
        tiny=Tiny(seeds=2),
        note="Energy distance of 2,000 draws to held-out points, after 2,000 steps on 5,000 points of eight Gaussians on a "
        "circle, three layers of 128. The velocity followed in 20 steps is measured beside them.",
    ),
    Claim(
        says="From recorded data alone, a policy of one evaluation earns what diffusion Q-learning with five does, more than "
        "the latter when it acts in one, and more than imitation.",
        measure=measure_pendulum,
        seeds=5,
        holds=[
            no_worse("share of the script", "ofql", than="dql", within=0.05),
            higher("share of the script", "ofql", than="dql, one step"),
            higher("share of the script", "ofql", than="bc-flow"),
        ],
        tiny=Tiny(seeds=2),
        note="A pendulum instead of the paper's robots: 20,000 steps of a script half of whose actions are by chance, 2,000 "
        "gradient steps with batches of 128, three layers of 64. A result is the mean of three evaluations of 20 episodes, "
        "between 0 for chance and 1 for the script without chance, each action one of 50 with weights exp(Q). A flow followed "
        "in one step of the velocity at the noise, valued likewise, is measured beside them.",
    ),
    Claim(
        says="A gradient step costs less than one of diffusion Q-learning with five denoising steps, and an action much less.",
        measure=measure_cost,
        seeds=5,
        holds=[
            ratio("milliseconds of a step", "dql", to="ofql", at_least=1.3),
            ratio("milliseconds of an action", "dql", to="ofql", at_least=3),
        ],
        tiny=Tiny(seeds=2),
        note="Medians of repeats in turns in one process, with the published networks (three layers of 256), batches of 256, "
        "17 numbers seen and 6 done.",
    ),
)
