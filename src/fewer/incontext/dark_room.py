"""The dark room: a grid in which only one cell pays, and nothing shows which; learnt from transitions of the room.

An action is one of +x, -x, +y, -y and stay; walls stop.  Whoever has seen the paying cell in the context should walk
there, along x first.  The permuted rooms pay in the far corner, and the labels of the actions are mixed up instead.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.core.files import fingerprint
from fewer.core.seeding import torch_generator
from fewer.core.spec import Call
from fewer.incontext.decisions import Decisions, Label, Transitions, as_tokens, next_actions, sampled
from fewer.incontext.loop import Predict, Prompts

MOVES = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
RollIn = Literal["uniform", "learning"]


class DarkRoom(Decisions):
    """Rooms of one size whose paying cell, or meaning of actions, is the task; some are kept back to score on.

    Parameters
    ----------
    size : int, default 7
        Cells along a side; the paper has 10.
    context : int, default 100
        Most transitions of a prompt.
    episode : int, default 20
        Steps from the corner until everything starts over; the paper has 100.
    permuted : bool, default False
        Mix up the labels of the actions, with the paying cell in the far corner.
    roll_in : {"uniform", "learning"}, default "uniform"
        Uniform states and actions, or histories of Q-learning from its first episode on.
    label : {"optimal", "behaviour"}, default "optimal"
        "behaviour" with "learning" is algorithm distillation.  Prompts are then in the order of time, and the query is
        where the history goes on.
    empty_context : bool, default True
        Whether the answer without data is trained too.
    held_out : float, default 0.2
        Share of the rooms that is only scored on.

    Examples
    --------
    >>> family = DarkRoom(size=5, context=30)
    >>> prompts = family.sample(4, torch.Generator().manual_seed(0))
    >>> prompts.tokens.shape, prompts.target.shape
    (torch.Size([4, 31, 10]), torch.Size([4, 5]))
    """

    metric = "return of the third episode"

    def __init__(
        self,
        size: int = 7,
        context: int = 100,
        episode: int = 20,
        permuted: bool = False,
        roll_in: RollIn = "uniform",
        label: Label = "optimal",
        empty_context: bool = True,
        held_out: float = 0.2,
    ) -> None:
        super().__init__(2, 5, context, label, empty_context)
        if size < 2 or episode < 1:
            raise FewerError(f"dark-room: size must be 2 or more and episode 1 or more; given {size} and {episode}")
        if roll_in not in ("uniform", "learning"):
            raise FewerError(f"dark-room: roll_in must be 'uniform' or 'learning'; {roll_in!r} was given")
        if label == "behaviour" and roll_in == "uniform":
            raise FewerError("dark-room: uniform actions have nothing to be cloned; take roll_in='learning'")
        self.size, self.episode, self.permuted, self.roll_in = size, episode, permuted, roll_in
        cells = torch.cartesian_prod(torch.arange(size), torch.arange(size))
        self._orders = torch.tensor(list(itertools.permutations(range(5)))) if permuted else torch.arange(5)[None]
        self._goals = torch.full((1, 2), size - 1) if permuted else cells
        rooms = len(self._orders) * len(self._goals)
        held = round(held_out * rooms)
        if not 0 < held < rooms:
            raise FewerError(f"dark-room: held_out={held_out} of {rooms} rooms leaves none to train or to score on")
        order = torch.randperm(rooms, generator=torch_generator(0, "rooms", size))
        self.unseen_rooms, self.rooms = order[:held], order[held:]
        given = {"size": size, "context": context, "episode": episode, "permuted": permuted, "roll_in": roll_in}
        given |= {"label": label, "empty_context": empty_context, "held_out": held_out}
        self.name = self.spec = str(Call("dark-room", (), given))

    def fingerprint(self) -> str:
        """Name the rooms."""
        return fingerprint(self.name)

    # --- the world ----------------------------------------------------------------------------

    def step(
        self, rooms: Int[Tensor, " worlds"], cells: Int[Tensor, "worlds *more 2"], actions: Int[Tensor, "worlds *more"]
    ) -> tuple[Int[Tensor, "worlds *more 2"], Float[Tensor, "worlds *more"]]:
        """Where an action leads, and what it pays."""
        goals, orders = self._rooms(rooms)
        shape = [len(rooms), *[1] * (actions.ndim - 1)]
        meant = orders.gather(1, actions.reshape(len(rooms), -1)).reshape(actions.shape)
        after = (cells + MOVES[meant]).clamp(0, self.size - 1)
        return after, (after == goals.reshape(*shape, 2)).all(-1).float()

    def best(self, rooms: Int[Tensor, " worlds"], cells: Int[Tensor, "worlds 2"]) -> Int[Tensor, " worlds"]:
        """The label of the action that leads to the paying cell: along x, then along y, then stay."""
        goals, orders = self._rooms(rooms)
        x, y = (goals - cells).sign().unbind(-1)
        meant = torch.where(x != 0, (x < 0).long(), torch.where(y != 0, 2 + (y < 0).long(), 4))
        return (orders == meant[:, None]).to(torch.uint8).argmax(-1)

    def _rooms(self, rooms: Tensor) -> tuple[Tensor, Tensor]:
        return self._goals[rooms % len(self._goals)], self._orders[rooms // len(self._goals)]

    def seen_as(self, cells: Int[Tensor, "*more 2"]) -> Float[Tensor, "*more 2"]:
        """Cells as the network reads them, from -1 to 1."""
        return 2 * cells.float() / (self.size - 1) - 1

    # --- prompts ------------------------------------------------------------------------------

    def sample(self, count: int, generator: torch.Generator) -> Prompts:
        """Prompts to train on."""
        rooms = self.rooms[torch.randint(len(self.rooms), (count,), generator=generator)]
        if self.roll_in == "learning":
            cells, actions, after, rewards = self._histories(rooms, generator)
            query = cells[:, 0]
        else:
            cells = torch.randint(self.size, (count, self.context, 2), generator=generator)
            actions = torch.randint(5, (count, self.context), generator=generator)
            after, rewards = self.step(rooms, cells, actions)
        seen = Transitions(self.seen_as(cells), actions, self.seen_as(after), rewards)
        if self.label == "behaviour":
            return Prompts(as_tokens(self.seen_as(query), seen, 5), next_actions(actions, 5))  # pyright: ignore[reportPossiblyUnboundVariable]
        query = torch.randint(self.size, (count, 2), generator=generator)
        target = nn.functional.one_hot(self.best(rooms, query), 5).float()
        return Prompts(as_tokens(self.seen_as(query), seen, 5), target)

    def _histories(self, rooms: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q-learning, a room each, with much exploration at first; a part of its history."""
        worlds = len(rooms)
        length = 4 * self.context
        begin = int(torch.randint(length - self.context + 1, (), generator=generator))
        values = torch.zeros(worlds, self.size**2, 5)
        each = torch.arange(worlds)
        cells = torch.zeros(worlds, 2, dtype=torch.long)
        kept: list[tuple[Tensor, ...]] = []
        for at in range(begin + self.context):
            if at % self.episode == 0:
                cells = torch.zeros_like(cells)
            here = cells @ torch.tensor([self.size, 1])
            # ties are broken at random, or an untaught learner would only walk into one wall
            greedy = (values[each, here] + 1e-6 * torch.rand(worlds, 5, generator=generator)).argmax(-1)
            explore = torch.rand(worlds, generator=generator) < max(1 - at / (length / 2), 0.05)
            actions = torch.where(explore, torch.randint(5, (worlds,), generator=generator), greedy)
            after, rewards = self.step(rooms, cells, actions)
            there = after @ torch.tensor([self.size, 1])
            goal = rewards + 0.9 * values[each, there].amax(-1)
            values[each, here, actions] += 0.5 * (goal - values[each, here, actions])
            if at >= begin:
                kept.append((cells, actions, after, rewards))
            cells = after
        cells, actions, after, rewards = (torch.stack(column, 1) for column in zip(*kept, strict=True))
        return cells, actions, after, rewards

    # --- deployment ---------------------------------------------------------------------------

    def evaluate(self, predict: Predict, seed: int) -> tuple[float, dict[str, float]]:
        """Walk in unseen rooms: the return of each episode, with the earlier ones in the context."""
        returns = self.walk(predict, seed)
        named = {f"episode {at + 1}": float(value) for at, value in enumerate(returns)}
        return float(returns[-1]), {**named, "best": self.best_return()}

    def walk(
        self, predict: Predict, seed: int, episodes: int = 3, repeats: int = 5, *, greedy: bool = False
    ) -> Float[Tensor, " episodes"]:
        """Mean return of episode after episode in the rooms that were kept back; the context grows between episodes.

        Parameters
        ----------
        predict : Predict
            A trained network.
        seed : int
            For its draws.
        episodes : int, default 3
            How many; the oldest transitions drop out where the context is full.
        repeats : int, default 5
            Times that each room is tried.
        greedy : bool, default False
            Take the most probable action rather than draw one.
        """
        rooms = self.unseen_rooms.repeat(repeats)
        generator = torch_generator(seed, "walk")
        seen: Transitions | None = None
        returns = []
        for _ in range(episodes):
            cells = torch.zeros(len(rooms), 2, dtype=torch.long)
            columns: list[tuple[Tensor, ...]] = []
            for _ in range(self.episode):
                # a history's query is where it begins: what has happened since says where one is
                query = self.seen_as(cells) if seen is None or self.label == "optimal" else seen.states[:, 0]
                tokens = as_tokens(query, seen, 5)
                actions = sampled(predict(Prompts(tokens, tokens))[:, -1], generator, greedy=greedy)
                after, rewards = self.step(rooms, cells, actions)
                columns.append((self.seen_as(cells), actions, self.seen_as(after), rewards))
                cells = after
                if self.label == "behaviour":  # a learner's next action depends on what has just happened
                    seen = self._appended(seen, columns[-1:])
            if self.label == "optimal":
                seen = self._appended(seen, columns)
            returns.append(torch.stack([column[3] for column in columns], 1).sum(1).mean())
        return torch.stack(returns)

    def _appended(self, seen: Transitions | None, columns: list[tuple[Tensor, ...]]) -> Transitions:
        new = [torch.stack(column, 1) for column in zip(*columns, strict=True)]
        if seen is not None:
            old = (seen.states, seen.actions, seen.next_states, seen.rewards)
            new = [torch.cat(pair, 1) for pair in zip(old, new, strict=True)]
        return Transitions(*(each[:, -self.context :] for each in new))

    def best_return(self) -> float:
        """What one who knows the unseen rooms earns in an episode."""
        goals, _ = self._rooms(self.unseen_rooms)
        steps = goals.sum(-1).clamp(min=1)
        return float((self.episode - steps + 1).clamp(min=0).float().mean())
