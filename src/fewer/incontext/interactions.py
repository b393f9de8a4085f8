"""Collections of interactions: contexts of many worlds with the best action in some states, from files or environments.

This is what a network is pretrained on where the worlds are yours: rows of (transitions, queries, best actions).
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError, need
from fewer.core.files import fingerprint
from fewer.core.seeding import generator as numpy_generator
from fewer.core.seeding import torch_generator
from fewer.incontext.decisions import Decisions, Transitions, as_tokens
from fewer.incontext.loop import Predict, Prompts

COLUMNS = ("states", "actions", "next_states", "rewards", "queries", "optimal")


class Recorded(Decisions):
    """Worlds that were recorded; some are kept back to score on.

    Parameters
    ----------
    columns : mapping of str to array
        ``states`` and ``next_states`` (worlds, transitions, numbers), ``actions`` (worlds, transitions) from 0,
        ``rewards`` (worlds, transitions), ``queries`` (worlds, queries, numbers), and ``optimal``: the best action of
        each query (worlds, queries), or its distribution (worlds, queries, actions).  The axis of queries may be left
        out where there is one, and the axis of numbers where a state is one number.
    actions : int, optional
        How many actions there are; by default as many as occur.
    shuffle : bool, default True
        Put the transitions of a prompt in random order each time.  Only for contexts whose actions did not depend on
        what came before them.
    empty_context : bool, default True
        Whether the answer without data is trained too.
    held_out : float, default 0.2
        Share of the worlds that is only scored on.

    Raises
    ------
    FewerError
        If a column is missing, shapes do not fit, something is NaN, an action is not a whole number from 0, or a label
        is no distribution over actions.

    Examples
    --------
    >>> columns = {"states": np.ones((4, 6)), "actions": np.zeros((4, 6), int), "next_states": np.ones((4, 6)),
    ...            "rewards": np.random.rand(4, 6), "queries": np.ones((4, 1)), "optimal": np.array([0, 1, 1, 0])}
    >>> family = Recorded(columns, actions=2)
    >>> family.context, family.features
    (6, 5)
    """

    metric = "agreement with the best action"

    def __init__(
        self,
        columns: Mapping[str, Any],
        actions: int | None = None,
        *,
        shuffle: bool = True,
        empty_context: bool = True,
        held_out: float = 0.2,
        name: str = "recorded",
    ) -> None:
        arrays = _checked(columns, name)
        states, taken, after, rewards, queries = (arrays[each] for each in COLUMNS[:5])
        optimal = _as_distribution(arrays["optimal"], taken, actions, queries.shape[:2], name)
        super().__init__(states.shape[2], optimal.shape[2], taken.shape[1], "optimal", empty_context)
        self.name, self.shuffle = name, shuffle
        held = round(held_out * len(taken))
        if not 0 < held < len(taken):
            raise FewerError(f"{name}: held_out={held_out} of {len(taken)} worlds leaves none to train or to score on")
        scale = float(rewards.std())
        self.reward_scale = (float(rewards.mean()), scale if scale > 0 else 1.0)
        floats = [torch.from_numpy(each.astype(np.float32)) for each in (states, after, rewards, queries, optimal)]
        self._seen = Transitions(floats[0], torch.from_numpy(taken.astype(np.int64)), floats[1], floats[2])
        self._queries, self._optimal = floats[3], floats[4]
        order = torch.randperm(len(taken), generator=torch_generator(0, "held out"))
        self._unseen, self._worlds = order[:held], order[held:]

    def fingerprint(self) -> str:
        """Name the recorded worlds."""
        seen = self._seen
        arrays = (seen.states, seen.actions, seen.next_states, seen.rewards, self._queries, self._optimal)
        return fingerprint(str((self.shuffle, self.empty_context)), *(each.numpy() for each in arrays))

    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """A world, a query of it, and its context, for each prompt."""
        return self._prompts(self._worlds[torch.randint(len(self._worlds), (count,), generator=generator)], generator)

    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """Probability that the action named from the whole context is one of the best, in worlds that were kept back."""
        worlds = self._unseen[torch.arange(1000) % len(self._unseen)] if len(self._unseen) < 1000 else self._unseen
        prompts = self._prompts(worlds, torch_generator(seed, "unseen worlds"))
        outputs = predict(prompts)
        named = prompts.target.gather(1, outputs[:, -1].argmax(-1, keepdim=True)).mean()
        without = prompts.target.gather(1, outputs[:, 0].argmax(-1, keepdim=True)).mean()
        return float(named), {"without context": float(without)}

    def _prompts(self, worlds: Tensor, generator: torch.Generator) -> Prompts:
        parts = (self._seen.states, self._seen.actions, self._seen.next_states, self._seen.rewards)
        seen = Transitions(*(part[worlds] for part in parts))
        which = torch.randint(self._queries.shape[1], (len(worlds),), generator=generator)
        if self.shuffle:
            seen = seen.shuffled(generator)
        tokens = as_tokens(self._queries[worlds, which], seen, self.actions, self.reward_scale)
        return Prompts(tokens, self._optimal[worlds, which])


def interactions_npz(
    path: str | os.PathLike[str], actions: int | None = None, shuffle: bool = True, held_out: float = 0.2
) -> Recorded:
    """Read recorded worlds from an NPZ file with the columns of :class:`Recorded`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS if name in file}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise FewerError(f"cannot read {path}: {error}; give an NPZ file of plain arrays") from error
    return Recorded(columns, actions, shuffle=shuffle, held_out=held_out, name=str(path))


def from_minari(dataset: Any, actions: int | None = None, *, shuffle: bool = False, held_out: float = 0.2) -> Recorded:
    """Read recorded worlds from a Minari dataset: each episode is a world.

    The best actions stand in the infos, under ``optimal_action``, one a step (``DataCollector(env,
    record_infos=True)`` records them); every state of an episode is a query.  Longer episodes are cut to the shortest.

    Parameters
    ----------
    dataset : minari.MinariDataset
        With discrete actions and, as states, vectors, numbers or discrete states.
    actions, shuffle, held_out
        As in :class:`Recorded`; the order of an episode is kept by default.
    """
    size = getattr(dataset.action_space, "n", None)
    if size is None:
        raise FewerError(
            f"minari: actions must be discrete; they are {dataset.action_space}: there is no best one to name"
        )
    episodes = list(dataset.iterate_episodes())
    if any("optimal_action" not in (episode.infos or {}) for episode in episodes):
        raise FewerError(
            "minari: infos have no 'optimal_action'; record it: the environment's info gives the best action in the "
            "state it returns, and DataCollector is made with record_infos=True"
        )
    length = min(len(episode.actions) for episode in episodes)
    as_state = state_reader(dataset.observation_space)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    for episode in episodes:
        states = np.stack([as_state(each) for each in episode.observations[: length + 1]])
        rows["states"].append(states[:-1])
        rows["next_states"].append(states[1:])
        rows["actions"].append(np.asarray(episode.actions[:length]))
        rows["rewards"].append(np.asarray(episode.rewards[:length]))
        rows["queries"].append(states[:-1])
        labels = np.asarray(episode.infos["optimal_action"][:length])
        rows["optimal"].append(labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels)
    columns = {name: np.stack(each) for name, each in rows.items()}
    return Recorded(columns, actions or int(size), shuffle=shuffle, held_out=held_out, name="minari")


def collect(
    make: Callable[[int], Any],
    optimal_action: Callable[[Any, Any], Any],
    *,
    worlds: int,
    context: int,
    queries: int = 8,
    behaviour: Callable[[Any, np.random.Generator], int] | None = None,
    seed: int = 0,
) -> Recorded:
    """Collect contexts in Gymnasium environments, a world a seed.

    Parameters
    ----------
    make : callable
        ``make(seed)`` gives an environment with discrete actions; each seed is another world.
    optimal_action : callable
        ``optimal_action(env, observation)`` gives the best action there, or a distribution over actions.
    worlds : int
        How many environments.
    context : int
        Steps in each.
    queries : int, default 8
        States of each whose best action is asked for, drawn from those that were visited.
    behaviour : callable, optional
        ``behaviour(observation, rng)`` gives the action while collecting; by default any.
    seed : int, default 0
        Everything random is derived from it.
    """
    rng = numpy_generator(seed, "collect")
    rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    size = 0
    for world in range(worlds):
        env = make(int(rng.integers(2**31)))
        size = discrete_actions(env.action_space)
        as_state = state_reader(env.observation_space)
        observation, _ = env.reset(seed=int(rng.integers(2**31)))
        visited, labels, steps = [], [], []
        asked = set(rng.permutation(context)[:queries].tolist())
        for at in range(context):
            if at in asked:
                visited.append(as_state(observation))
                labels.append(np.asarray(optimal_action(env, observation)))
            action = int(rng.integers(size)) if behaviour is None else int(behaviour(observation, rng))
            after, reward, terminated, truncated, _ = env.step(action)
            steps.append((as_state(observation), action, as_state(after), float(reward)))
            observation = env.reset()[0] if terminated or truncated else after
        env.close()
        for name, column in zip(COLUMNS[:4], zip(*steps, strict=True), strict=True):
            rows[name].append(np.stack([np.asarray(each) for each in column]))
        rows["queries"].append(np.stack(visited))
        rows["optimal"].append(np.stack(labels))
        if world and rows["states"][world].shape != rows["states"][0].shape:
            raise FewerError(
                f"the environment of world {world} has states of {rows['states'][world].shape[1]} numbers, the first of "
                f"{rows['states'][0].shape[1]}; all worlds must look alike"
            )
    columns = {name: np.stack(each) for name, each in rows.items()}
    return Recorded(columns, size, shuffle=behaviour is None, name=getattr(make, "__qualname__", "worlds"))


def discrete_actions(space: Any) -> int:
    """How many actions a Gymnasium space has."""
    spaces = need("gymnasium.spaces", extra="control", what="acting in environments")
    if not isinstance(space, spaces.Discrete):
        raise FewerError(
            f"actions must be discrete; they are {space}: the network names one of a few actions, so cut the range into some"
        )
    if int(space.start) != 0:
        raise FewerError(f"actions must be numbered from 0; they are {space}")
    return int(space.n)


def state_reader(space: Any) -> Callable[[Any], Float[np.ndarray, " numbers"]]:
    """How an observation of a Gymnasium space becomes a vector: one-hot where it is discrete, flat where it is a box."""
    spaces = need("gymnasium.spaces", extra="control", what="acting in environments")
    if not isinstance(space, spaces.Discrete | spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        raise FewerError(f"observations must be a box, discrete or several of these; they are {space}; flatten them")
    size = spaces.flatdim(space)

    def read(observation: Any) -> Float[np.ndarray, " numbers"]:
        state = np.asarray(spaces.flatten(space, observation), dtype=np.float32).reshape(-1)
        if state.shape != (size,):
            raise FewerError(f"a state has {size} numbers; one of {state.size} was given")
        return state

    return read


# --- checks ----------------------------------------------------------------------------------------------------------


def _checked(columns: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    missing = [each for each in COLUMNS if each not in columns]
    if missing:
        raise FewerError(f"{name}: the column {missing[0]!r} is missing; {', '.join(COLUMNS)} are needed")
    arrays = {each: np.asarray(columns[each]) for each in COLUMNS}
    for each in COLUMNS:
        if arrays[each].dtype.kind not in "biuf" or not np.isfinite(arrays[each]).all():
            raise FewerError(f"{name}: {each} holds NaN, infinities or no numbers; leave such rows out")
    taken = arrays["actions"]
    if taken.ndim != 2 or 0 in taken.shape or (taken != taken.round()).any() or (taken < 0).any():
        raise FewerError(f"{name}: actions must be whole numbers from 0, (worlds, transitions); given {taken.shape}")
    for each in ("states", "next_states"):
        if arrays[each].ndim == 2:
            arrays[each] = arrays[each][..., None]
    states = arrays["states"]
    if states.shape[:2] != taken.shape or arrays["next_states"].shape != states.shape:
        raise FewerError(
            f"{name}: states {states.shape}, next_states {arrays['next_states'].shape} and actions {taken.shape} do not fit"
        )
    if arrays["rewards"].shape != taken.shape:
        raise FewerError(f"{name}: rewards {arrays['rewards'].shape} and actions {taken.shape} do not fit")
    queries = arrays["queries"]
    if queries.ndim == 2:  # one query a world, or many of one number each
        queries = queries[:, None] if queries.shape[1] == states.shape[2] else queries[..., None]
    if queries.ndim != 3 or len(queries) != len(taken) or queries.shape[2] != states.shape[2]:
        raise FewerError(f"{name}: queries {arrays['queries'].shape} and states {states.shape} do not fit")
    return {**arrays, "queries": queries}


def _as_distribution(
    optimal: np.ndarray, taken: np.ndarray, actions: int | None, shape: tuple[int, ...], name: str
) -> Float[np.ndarray, "worlds queries actions"]:
    worlds, queries = shape
    labelled: np.ndarray | None = None
    if optimal.shape == shape or (optimal.shape == (worlds,) and queries == 1):
        labelled = optimal.reshape(shape)
        if (labelled != labelled.round()).any():
            raise FewerError(f"{name}: optimal must be whole numbers of actions; {labelled.flat[0]:g} is among them")
    elif optimal.ndim == 2 and queries == 1:
        optimal = optimal[:, None]
    if labelled is None and (optimal.ndim != 3 or optimal.shape[:2] != shape):
        raise FewerError(f"{name}: optimal {optimal.shape} does not fit {worlds} worlds of {queries} queries")
    highest = int(max(taken.max(), labelled.max() if labelled is not None else optimal.shape[2] - 1))
    actions = highest + 1 if actions is None else actions
    if highest >= actions or (labelled is not None and labelled.min() < 0):
        raise FewerError(f"{name}: actions run from 0 to {actions - 1}, but {highest} occurs; raise actions")
    if labelled is not None:
        return nn.functional.one_hot(torch.from_numpy(labelled.astype(np.int64)), actions).numpy().astype(np.float32)
    if optimal.shape[2] != actions or (optimal < 0).any() or not np.allclose(optimal.sum(-1), 1, atol=1e-4):
        raise FewerError(
            f"{name}: optimal must be the number of the best action, or chances of {actions} actions that sum to 1"
        )
    return optimal.astype(np.float32)
