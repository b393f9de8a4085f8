"""A network that acts in a new world after reading transitions of it, pretrained to name best actions.

A causal transformer is trained, by plain supervised learning over many worlds, to name the optimal action of a query
state given transitions of that world.  At test its weights are frozen; drawing actions from its answer explores as
posterior sampling does, and taking the most probable one decides from given data.

With worlds ``t ~ T``, contexts ``D = (s_j, a_j, s'_j, r_j), j = 1 .. n`` that somebody collected in ``t``, and queries
``s_q`` whose best action in ``t`` is ``a*``::

    loss = E sum over j of -log M(a* | s_q, D_1 .. D_j)

References
----------
Jonathan N. Lee, Annie Xie, Aldo Pacchiano, Yash Chandak, Chelsea Finn, Ofir Nachum, Emma Brunskill, "Supervised
Pretraining Can Learn In-Context Reinforcement Learning", NeurIPS 2023, arXiv:2306.14892.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from fewer.claim import Claim, Measures, Tiny, lower, ratio
from fewer.core.curve import Curve
from fewer.core.errors import FewerError, need
from fewer.core.seeding import torch_generator
from fewer.incontext.bandits import Bandit
from fewer.incontext.dark_room import DarkRoom
from fewer.incontext.decisions import Decisions, Transitions, as_tokens, sampled
from fewer.incontext.interactions import Recorded, collect, discrete_actions, state_reader
from fewer.incontext.loop import Architecture, LearnToLearn, Prompts, frozen
from fewer.incontext.networks import Transformer
from fewer.incontext.weights import load_network, save_network
from fewer.models.optimisers import AdamW, Cosine, Optimiser

KIND = "DecisionPretrained"


class DecisionPretrained:
    """Pretrain on many worlds once; then act in a new one, learning from its transitions alone.

    Parameters
    ----------
    observation_space, action_space : Gymnasium spaces, optional
        Of the worlds; discrete actions.  They may be left out where a family or recorded worlds say it.
    context_len : int, optional
        Most transitions that are remembered; by default the family's, or 100.
    network : Architecture, default Transformer(width=32, layers=4, heads=1)
        What reads the transitions; the sizes are the paper's.
    optimiser : Optimiser, default AdamW(lr=1e-3, weight_decay=1e-4)
        How the weights move while pretraining.
    batch : int, default 64
        Prompts a step.
    update : {"step", "episode"}, default "step"
        When a transition joins what is remembered: at once, or when its episode is over.
    seed : int, default 0
        Everything random is derived from it.

    Attributes
    ----------
    network_ : nn.Module
        The trained network.
    curve_ : Curve
        The family's score against prompts.

    References
    ----------
    arXiv:2306.14892.

    Examples
    --------
    >>> from fewer.incontext import Bandit, DecisionPretrained, Transformer
    >>> agent = DecisionPretrained(network=Transformer(8, 1, 1)).fit(Bandit(arms=3, context=10), steps=20, points=1)
    >>> action = agent.act([1.0])
    >>> agent.observe([1.0], action, [1.0], 0.7)
    >>> agent.probabilities([1.0]).shape
    (3,)
    """

    def __init__(
        self,
        observation_space: Any = None,
        action_space: Any = None,
        context_len: int | None = None,
        network: Architecture | None = None,
        optimiser: Optimiser | None = None,
        batch: int = 64,
        update: str = "step",
        seed: int = 0,
    ) -> None:
        if update not in ("step", "episode"):
            raise FewerError(f"update must be 'step' or 'episode'; {update!r} was given")
        if context_len is not None and context_len < 1:
            raise FewerError(f"context_len must be at least 1; {context_len} was given")
        if action_space is not None:
            discrete_actions(action_space)
        self.observation_space, self.action_space, self.context_len = observation_space, action_space, context_len
        self.network: Architecture = Transformer(width=32, layers=4, heads=1) if network is None else network
        self.optimiser: Optimiser = AdamW(lr=1e-3, weight_decay=1e-4) if optimiser is None else optimiser
        self.batch, self.update, self.seed = batch, update, seed
        self._read_state: Callable[[Any], np.ndarray] | None = (
            None if observation_space is None else state_reader(observation_space)
        )
        self._draws = torch_generator(seed, "actions")
        self._warned = False

    # --- pretraining --------------------------------------------------------------------------

    def fit(
        self,
        tasks: Decisions | Callable[[int], Any] | Mapping[str, Any],
        steps: int = 2000,
        optimal_action: Callable[[Any, Any], Any] | None = None,
        worlds: int = 1000,
        behaviour: Callable[[Any, np.random.Generator], int] | None = None,
        points: int = 10,
    ) -> DecisionPretrained:
        """Pretrain from new weights on ``steps`` batches.

        Parameters
        ----------
        tasks : family, mapping or callable
            A family such as :class:`~fewer.incontext.Bandit`; recorded worlds, as
            :class:`~fewer.incontext.interactions.Recorded` takes them; or ``tasks(seed)``, which gives a Gymnasium
            environment, of which ``worlds`` are visited first.
        steps : int, default 2000
            Batches.
        optimal_action : callable, optional
            ``optimal_action(env, observation)``: with environments.
        worlds : int, default 1000
            How many environments.
        behaviour : callable, optional
            ``behaviour(observation, rng)`` acts while collecting; by default any action.
        points : int, default 10
            Measurements on the way.
        """
        if steps < 1:
            raise FewerError(f"fit: at least one step is needed; {steps} was given")
        family = self._family(tasks, optimal_action, worlds, behaviour)
        loop = LearnToLearn(
            network=self.network,
            optimiser=self.optimiser,
            schedule=Cosine(warmup=0.05),
            batch=self.batch,
            points=min(points, steps),
        )
        learned = loop.learn(family, steps * self.batch, self.seed)
        return self._trained(learned.result, _sizes(family), family.reward_scale, learned.curve)

    def _family(self, tasks: Any, optimal_action: Any, worlds: int, behaviour: Any) -> Decisions:
        if isinstance(tasks, Mapping):
            actions = None if self.action_space is None else discrete_actions(self.action_space)
            tasks = Recorded(tasks, actions)
        if not isinstance(tasks, Decisions):
            if not callable(tasks):
                raise FewerError(
                    f"fit: give a family, recorded worlds or a function from a seed to an environment; "
                    f"given {type(tasks).__name__}"
                )
            if optimal_action is None:
                raise FewerError(
                    "fit: environments need optimal_action(env, observation), which says what is to be learnt"
                )
            context = self.context_len or 100
            tasks = collect(tasks, optimal_action, worlds=worlds, context=context, behaviour=behaviour, seed=self.seed)
        if self.context_len is not None and tasks.context != self.context_len:
            raise FewerError(
                f"context_len is {self.context_len}, but the prompts of {tasks.name} hold {tasks.context} transitions; "
                "make them equal"
            )
        if self.action_space is not None and discrete_actions(self.action_space) != tasks.actions:
            raise FewerError(f"the action space has {self.action_space.n} actions, {tasks.name} has {tasks.actions}")
        return tasks

    def _trained(
        self,
        network: nn.Module,
        sizes: tuple[int, int, int],
        reward_scale: tuple[float, float],
        curve: Curve | None,
    ) -> DecisionPretrained:
        self.network_, self.curve_, self.reward_scale_ = network, curve, reward_scale
        self.states_, self.actions_, self.context_len_ = sizes
        self.reset_context()
        return self

    # --- acting -------------------------------------------------------------------------------

    def act(self, observation: Any, *, greedy: bool = False) -> int:
        """An action: drawn, which explores; or, ``greedy``, the most probable, for given data."""
        logits = torch.from_numpy(self._logits(observation))[None]
        return int(sampled(logits, self._draws, greedy=greedy))

    def probabilities(self, observation: Any) -> Float[np.ndarray, " actions"]:
        """Chances of the actions, given what is remembered."""
        return torch.from_numpy(self._logits(observation)).softmax(-1).numpy()

    def observe(self, observation: Any, action: int, next_observation: Any, reward: float, done: bool = False) -> None:
        """Remember a transition.

        Parameters
        ----------
        observation, next_observation
            States before and after.
        action : int
            What was done.
        reward : float
            What it paid; not NaN.
        done : bool, default False
            Whether the episode is over; with ``update="episode"`` its transitions are remembered now.
        """
        self._check_fitted()
        if not (isinstance(action, int | np.integer) and 0 <= action < self.actions_):
            raise FewerError(f"an action is a whole number from 0 to {self.actions_ - 1}; {action} was given")
        if not np.isfinite(reward):
            raise FewerError(f"a reward must be a finite number; {reward} was given")
        self._episode.append((self._state(observation), int(action), self._state(next_observation), float(reward)))
        if self.update == "step" or done:
            self._remember(self._episode)
            self._episode = []

    def reset_context(self) -> None:
        """Forget everything: another world begins."""
        self._check_fitted()
        self._context: list[tuple[np.ndarray, int, np.ndarray, float]] = []
        self._episode: list[tuple[np.ndarray, int, np.ndarray, float]] = []

    @property
    def context(self) -> dict[str, np.ndarray]:
        """What is remembered: ``states``, ``actions``, ``next_states`` and ``rewards``."""
        self._check_fitted()
        names = ("states", "actions", "next_states", "rewards")
        if not self._context:
            empty = np.zeros((0, self.states_), dtype=np.float32)
            return dict(zip(names, (empty, np.zeros(0, dtype=np.int64), empty, np.zeros(0)), strict=True))
        return {name: np.array(column) for name, column in zip(names, zip(*self._context, strict=True), strict=True)}

    @context.setter
    def context(self, dataset: Any) -> None:
        """Remember given data in place of everything: such a mapping, or a Minari dataset."""
        self.reset_context()
        if hasattr(dataset, "iterate_episodes"):
            rows = [
                (before, action, after, reward)
                for episode in dataset.iterate_episodes()
                for before, action, after, reward in zip(
                    episode.observations[:-1], episode.actions, episode.observations[1:], episode.rewards, strict=True
                )
            ]
        else:
            names = ("states", "actions", "next_states", "rewards")
            missing = [name for name in names if name not in dataset]
            if missing:
                raise FewerError(f"a context needs {', '.join(names)}; {missing[0]!r} is missing")
            if len({len(dataset[name]) for name in names}) != 1:
                raise FewerError(
                    f"the columns of a context have {[len(dataset[name]) for name in names]} rows; make them equal"
                )
            rows = list(zip(*(dataset[name] for name in names), strict=True))
        update, self.update = self.update, "episode"  # remembered together, at the end
        try:
            for before, action, after, reward in rows:
                self.observe(before, action, after, float(reward))
        finally:
            self.update = update
        self._remember(self._episode)
        self._episode = []

    def _remember(self, rows: list[tuple[np.ndarray, int, np.ndarray, float]]) -> None:
        self._context += rows
        if len(self._context) > self.context_len_:
            if not self._warned:
                warnings.warn(
                    f"the context is longer than the {self.context_len_} transitions that the network was trained for; "
                    "the oldest are forgotten",
                    stacklevel=3,
                )
                self._warned = True
            del self._context[: -self.context_len_]

    def _state(self, observation: Any) -> Float[np.ndarray, " numbers"]:
        # what is a vector of the right size is taken as it is: given data holds states as vectors already
        if self._read_state is not None and np.shape(observation) != (self.states_,):
            state = self._read_state(observation)
        else:
            state = np.asarray(observation, dtype=np.float32).reshape(-1)
        if state.shape != (self.states_,) or not np.isfinite(state).all():
            raise FewerError(
                f"a state has {self.states_} finite numbers; given {np.shape(observation)}: {observation!r:.60}"
            )
        return state

    def _logits(self, observation: Any) -> Float[np.ndarray, " actions"]:
        self._check_fitted()
        query = torch.from_numpy(self._state(observation))[None]
        seen = None
        if self._context:
            states, actions, after, rewards = (np.array(column) for column in zip(*self._context, strict=True))
            seen = Transitions(
                torch.from_numpy(states)[None],
                torch.from_numpy(actions)[None],
                torch.from_numpy(after)[None],
                torch.from_numpy(rewards.astype(np.float32))[None],
            )
        tokens = as_tokens(query, seen, self.actions_, self.reward_scale_)
        return frozen(self.network_)(Prompts(tokens, tokens))[0, -1].numpy()

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise FewerError("this agent is not trained; call fit, or load weights")

    # --- files and results --------------------------------------------------------------------

    def returns(
        self, make: Callable[[int], Any], worlds: int, episodes: int, *, greedy: bool = False, seed: int = 0
    ) -> np.ndarray:
        """Act in new environments, ``make(seed)`` each: the return of each episode, (worlds, episodes)."""
        need("gymnasium", extra="control", what="acting in environments")
        paid = np.zeros((worlds, episodes))
        for world in range(worlds):
            env = make(seed + world)
            self.reset_context()
            for episode in range(episodes):
                observation, _ = env.reset(seed=seed + world) if episode == 0 else env.reset()
                over = False
                while not over:
                    action = self.act(observation, greedy=greedy)
                    after, reward, terminated, truncated, _ = env.step(action)
                    over = terminated or truncated
                    self.observe(observation, action, after, float(reward), done=over)
                    paid[world, episode] += float(reward)
                    observation = after
            env.close()
        return paid

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trained network to a safetensors file."""
        self._check_fitted()
        features, length = 2 * self.states_ + self.actions_ + 1, self.context_len_ + 1
        facts = {
            "worlds": (self.states_, self.actions_, self.context_len_),
            "reward_scale": self.reward_scale_,
            "update": self.update,
        }
        save_network(path, self.network_, self.network, KIND, (features, self.actions_, length), facts)

    @classmethod
    def from_network(cls, network: nn.Module, architecture: Architecture, family: Decisions) -> DecisionPretrained:
        """Use a network that was trained elsewhere, such as what a loop's ``learn`` gives."""
        made = cls(network=architecture, update="episode" if isinstance(family, DarkRoom) else "step")
        return made._trained(network, _sizes(family), family.reward_scale, None)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        observation_space: Any = None,
        action_space: Any = None,
        network: Architecture | None = None,
    ) -> DecisionPretrained:
        """Read a trained network; ``observation_space`` says how observations become vectors, where they are not."""
        module, architecture, facts = load_network(path, KIND, network)
        made = cls(observation_space, action_space, network=architecture, update=facts["update"])
        return made._trained(module, facts["worlds"], facts["reward_scale"], None)


def _sizes(family: Decisions) -> tuple[int, int, int]:
    return family.states, family.actions, family.context


# --- the claim -------------------------------------------------------------------------------------------------------

AFTER = (10, 25, 50, 100)
"""Pulls after which an arm is named from given data."""


def measure_bandits(seed: int, tiny: bool) -> Measures:
    """Pretrain once; then name arms from given data, and explore, on the same bandits with the same luck for all."""
    family = Bandit()
    network = Transformer(8, 1, 1) if tiny else Transformer(width=32, layers=2, heads=1)
    agent = DecisionPretrained(network=network, optimiser=AdamW(lr=3e-3, weight_decay=1e-4), batch=16, seed=seed)
    agent.fit(family, steps=5 if tiny else 8800, points=1)
    online, offline = family.rivals()
    predict = frozen(agent.network_)
    given = family.offline(seed, predict, offline, count=100 if tiny else 5000, after=AFTER)
    played = family.online(seed, predict, online, count=20 if tiny else 400)
    measured: dict[str, dict[str, float]] = {}
    for name, each in given.items():
        measured.setdefault(name, {}).update({f"suboptimality after {at}": value for at, value in each.items()})
    for name, each in played.items():
        measured.setdefault(name, {})["regret"] = float(each.sum())
    for part, pulls in (("first", slice(0, 20)), ("last", slice(80, 100))):
        measured[f"network, {part} 20 pulls"] = {"regret a pull": float(played["network"][pulls].mean())}
    return measured


claim = Claim(
    says="A network pretrained to name the best arm decides from given data better than empirical means and lower "
    "confidence bounds, within 15 % of the Bayes rule; and explores, which it was never trained to, at less than half again "
    "the regret of Thompson sampling.",
    measure=measure_bandits,
    seeds=6,
    holds=[
        *(lower(f"suboptimality after {at}", "network", than=rival) for rival in ("empirical", "lcb") for at in AFTER),
        *(ratio(f"suboptimality after {at}", "network", to="posterior mean", at_most=1.15) for at in AFTER),
        ratio("regret", "network", to="thompson", at_most=1.5),
        ratio("regret", "network", to="random", at_most=0.35),
        ratio("regret a pull", "network, last 20 pulls", to="network, first 20 pulls", at_most=0.4),
    ],
    tiny=Tiny(seeds=2),
    note="Two layers of width 32 with one head, after 140,800 prompts of 100 pulls; the paper has four layers, and reads its "
    "80,000 bandits of 500 pulls some 400 times. With so few pulls and this noise, empirical means that try each arm once "
    "explore as well as Thompson sampling does; they are reported, and nothing is claimed against them online.",
)
