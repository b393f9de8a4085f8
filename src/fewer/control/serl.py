"""SERL: a stack for learning on robots in minutes: demonstrations in every batch, a learned reward, the tool's own frame.

Nothing in it is a new loss; it is the choice that counts.  Soft actor-critic with ten normalised critics, half of every batch
from demonstrations (see fewer.control.prior_data), no entropy in the target, and a short horizon::

    y = r + gamma * m * min_{i in M} Q_slow,i(s', a'),   a' ~ pi(s'),   M: 2 of 10 members, drawn with replacement
    critic  mean_i mean (Q_i(s, a) - y)^2,  on a fresh batch each time; three of four steps move the critic alone
    actor   E[ mean_i Q_i(s, a) - temperature * log pi(a|s) ],  temperature -> entropy of -dim(A)/2

Around it stand a classifier of success in place of a reward (fewer.control.reward_classifiers), two agents of which each undoes
what the other did in place of resets (fewer.control.forward_backward), and observations and actions in the frame of the tool at
the beginning of the episode (fewer.control.relative_frame).

References
----------
Jianlan Luo, Zheyuan Hu, Charles Xu, You Liang Tan, Jacob Berg, Archit Sharma, Stefan Schaal, Chelsea Finn, Abhishek Gupta and
Sergey Levine, "SERL: A Software Suite for Sample-Efficient Robotic Reinforcement Learning", ICRA 2024, arXiv:2401.16013.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from fewer.claim import Claim, Measures, Tiny, higher, lower, no_worse
from fewer.control.critics import Critics
from fewer.control.environments import Environment
from fewer.control.loop import BestKnown, FixedRatio, Initialisation, OffPolicy, OffPolicyState, Reward, Uniform
from fewer.control.peg_world import PegTask, peg_slot_2d
from fewer.control.policies import Actor, Gaussian, GaussianActor, adam, step
from fewer.control.prior_data import Symmetric, as_memory, given_demonstrations
from fewer.control.reward_classifiers import RewardClassifier
from fewer.control.vice import VICE
from fewer.core.errors import FewerError
from fewer.core.loop import own_randomness
from fewer.core.seeding import derive
from fewer.models.ensemble import LinearEnsemble


@dataclass(frozen=True)
class XavierStart:
    """Weights of the actor and the critics uniform within sqrt(6 / (inputs + outputs)), offsets nothing."""

    def initialise(self, state: OffPolicyState) -> None:
        """Draw them."""
        for network in (state.actor, state.critic):
            for layer in network.modules():
                if isinstance(layer, nn.Linear | LinearEnsemble):
                    bound = (6 / sum(layer.weight.shape[-2:])) ** 0.5
                    nn.init.uniform_(layer.weight, -bound, bound)
                    nn.init.zeros_(layer.bias)
        state.slow.load_state_dict(state.critic.state_dict())


@dataclass(frozen=True)
class Preloaded:
    """Demonstrations in the memory from the beginning, to be drawn like everything else.

    Parameters
    ----------
    demos : str, optional
        Where they are; by default the task's own.
    then : Initialisation, optional
        What else is done before the first step.
    """

    demos: str | None = None
    then: Initialisation | None = None

    def initialise(self, state: OffPolicyState) -> None:
        """Put them there, as many as fit."""
        shown = as_memory(given_demonstrations(state.task, self.demos, state.seed), state.task)
        batch = shown.take(torch.arange(len(shown))[-state.replay.capacity :])
        state.replay.add(
            batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues == 0
        )
        if self.then is not None:
            self.then.initialise(state)


def SERL(
    demos: str | None = None,
    reward: Literal["environment", "classifier", "vice"] = "environment",
    reward_steps: int = 100,
    reward_lr: float | None = None,
    hidden: tuple[int, ...] = (256, 256),
    members: int = 10,
    subset: int = 2,
    ratio: int | None = 4,
    activation: str | None = None,
    lr: float = 3e-4,
    tau: float = 0.005,
    temperature: float = 0.01,
    discount: float = 0.99,
    learning_starts: int = 300,
    share: float = 0.5,
    compiled: bool = False,
) -> dict[str, Any]:
    """Fill the slots with the agent of SERL.

    Parameters
    ----------
    demos : str, optional
        Where the demonstrations are: a file, a folder, or the id of a Minari data set; by default the task's own.
    reward : {"environment", "classifier", "vice"}
        Who says what a step pays: the environment, a classifier that is trained beforehand, or one that learns as well.
    reward_steps : int, default 100
        Gradient steps of the classifier that is trained beforehand.
    reward_lr : float, optional
        Its learning rate, by default 1e-4 beforehand and 3e-4 while learning.
    hidden : tuple of int, default (256, 256)
        Widths of all networks.
    members, subset : int, default 10 and 2
        Critics, and how many of them, drawn with replacement, a target is the least of.
    ratio : int, optional
        Steps of the critic for each transition, by default 4; the policy makes one.  With None, the slot is left to another
        filling, and the policy makes a step for each four of the critic.
    activation : {"tanh", "relu", "mish"}, optional
        Between layers of the critics, by default tanh as in the policy; where the ratio is left to another filling it is relu,
        whose silent units such a filling may count.
    lr : float, default 3e-4
        Of Adam, everywhere.
    tau : float, default 0.005
        Speed of the slow critics.
    temperature : float, default 0.01
        At the start.
    discount : float, default 0.99
        What the next step is worth; 0.96 and 0.97 make an agent faster in episodes of a hundred steps.
    learning_starts : int, default 300
        Environment steps with random actions.
    share : float, default 0.5
        Of each batch, from demonstrations.
    compiled : bool, default False
        Let ``torch.compile`` translate updates; see :class:`Critics`.

    Raises
    ------
    FewerError
        If ``reward`` is unknown, or a number is out of its range.

    Examples
    --------
    >>> sorted(SERL())
    ['critic', 'discount', 'initialisation', 'learning_starts', 'policy', 'ratio', 'reward', 'sampler']
    """
    rewards: dict[str, Reward | None] = {
        "environment": None,
        "classifier": RewardClassifier(demos, reward_steps, lr=1e-4 if reward_lr is None else reward_lr),
        "vice": VICE(demos, lr=3e-4 if reward_lr is None else reward_lr),
    }
    if reward not in rewards:
        raise FewerError(f"serl: reward is 'environment', 'classifier' or 'vice'; it is {reward!r}")
    filling = {
        "policy": Gaussian(
            hidden,
            lr,
            temperature,
            backup_entropy=False,
            objective="mean",
            delay=4 if ratio is None else ratio,
            activation="tanh",
            layer_norm=True,
            entropy_at="next_observations",
            entropy_each=-0.5,
        ),
        "critic": Critics(
            members,
            subset,
            hidden,
            layer_norm=True,
            lr=lr,
            tau=tau,
            replacement=True,
            activation=activation or ("relu" if ratio is None else "tanh"),
            compiled=compiled,
        ),
        "sampler": Symmetric(demos, share),
        "initialisation": XavierStart(),
        "reward": rewards[reward],
        "discount": discount,
        "learning_starts": learning_starts,
    }
    return filling if ratio is None else filling | {"ratio": FixedRatio(ratio)}


def cloned_gaussian(
    task: Environment,
    demos: str | None,
    seed: int,
    hidden: tuple[int, ...] = (256, 256),
    steps: int = 2000,
    lr: float = 1e-3,
) -> GaussianActor:
    """Imitate demonstrations alone: the same Gaussian policy, by the likelihood of what was done.

    Parameters
    ----------
    task : Environment
        Where they are from.
    demos : str, optional
        Where they are; by default the task's own.
    seed : int
        Of weights and batches.
    hidden : tuple of int, default (256, 256)
        Widths of the hidden layers.
    steps : int, default 2000
        Gradient steps with batches of 256.
    lr : float, default 1e-3
        Learning rate of Adam.
    """
    shown = task.transitions(given_demonstrations(task, demos, seed))
    # the density of a squashed Gaussian is not finite where an action is at its bound
    before = shown.actions.clamp(-0.995, 0.995).atanh()
    with own_randomness(seed, "cloned-gaussian"):
        actor = Gaussian(hidden, lr, activation="tanh", layer_norm=True).build(task.observation_size, task.action_size)
        parameters = list(actor.net.parameters())
        optimiser = adam(parameters, lr)
        for _ in range(steps):
            rows = torch.randint(len(shown), (256,))
            mean, deviation = actor.net(shown.observations[rows]).chunk(2, dim=-1)
            deviation = deviation.clamp(-5, 2)
            likelihood = -0.5 * ((before[rows] - mean) / deviation.exp()).square() - deviation
            step(optimiser, -likelihood.sum(1).mean(), parameters)
    return actor


# --- the claim -----------------------------------------------------------------------------------

BUDGET = 2400
"""Environment steps of a run."""


def measure(seed: int, tiny: bool) -> Measures:
    """Success, with slots newly drawn, of the stack and of what is left when a part of it is taken away."""
    budget = 60 if tiny else BUDGET
    networks: dict[str, Any] = {
        "hidden": (8,) if tiny else (64, 64),
        "members": 2 if tiny else 5,
        "lr": 1e-3,
        "tau": 0.01,
        "temperature": 0.05,
        "discount": 0.96,
        "learning_starts": 20 if tiny else 200,
    }
    stack = SERL(reward="classifier", reward_steps=5 if tiny else 1000, reward_lr=1e-3, **networks)
    told = stack | {"reward": None}
    shown = Preloaded(None, XavierStart())
    relative, absolute = (
        peg_slot_2d(frame=frame, demonstrations=4 if tiny else 20) for frame in ("relative", "absolute")
    )
    fillings = {
        "serl": (stack, relative),
        "true reward": (told, relative),
        "absolute frame": (told, absolute),
        "sac": (told | {"sampler": Uniform()}, relative),
        "sac with demonstrations": (told | {"sampler": Uniform(), "initialisation": shown}, relative),
    }
    episodes, where = (4 if tiny else 100), derive(seed, "evaluation")
    measured: dict[str, dict[str, float]] = {}

    def scored(actor: Actor, task: PegTask) -> dict[str, float]:
        success, measures = task.evaluate(BestKnown(actor), episodes, where)
        # an episode that does not succeed counts as one of the most steps
        turned, _ = replace(task, turn=90.0).evaluate(BestKnown(actor), episodes, where)
        return {"success": success, "steps": measures["length"], "lost by turning": success - turned}

    for name, (filling, task) in fillings.items():
        loop = OffPolicy(**filling, batch=8 if tiny else 128, episodes=episodes, points=1)
        with own_randomness(seed, "start"):
            state = loop.start(task, budget, seed)
        with own_randomness(seed, "advance"):
            loop.advance(state)
        measured[name] = scored(state.actor, task)
    cloned = cloned_gaussian(relative, None, seed, networks["hidden"], steps=5 if tiny else 2000)
    measured["behaviour cloning"] = scored(cloned, relative)
    return measured


claim = Claim(
    says="With twenty demonstrations, half of every batch from them and a learned reward, a peg is put into a slot hardly wider "
    "than itself almost always within a few thousand steps, where soft actor-critic from scratch fails and imitation alone "
    "succeeds less and takes longer; the learned reward costs little, and seen in the tool's own frame turning everything costs "
    "nothing, where it is fatal in the table's.",
    measure=measure,
    seeds=5,
    holds=[
        higher("success", "serl", than=0.8),
        higher("success", "serl", than="sac", by=0.4),
        higher("success", "serl", than="behaviour cloning"),
        lower("steps", "serl", than="behaviour cloning"),
        no_worse("success", "serl", than="true reward", within=0.1),
        lower("lost by turning", "serl", than=0.1),
        higher("lost by turning", "absolute frame", than=0.5),
    ],
    tiny=Tiny(seeds=2),
    note="A peg in the plane seen as ten numbers, not a robot arm with cameras: 20 scripted demonstrations, five critics of two "
    "layers of 64, 2,400 steps with four updates each. Soft actor-critic with the demonstrations in its memory, drawn like "
    "everything else, is measured beside it. The slot lies anywhere in a square and is turned by up to 10 degrees, in "
    "training too; turned by another 90 degrees in the test.",
)
