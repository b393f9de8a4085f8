"""Families whose tasks are worlds to act in: from transitions of a world, name the action that is best in a state.

A prompt is one token a transition, ``[s, onehot(a), s', r]``, behind a first token ``[s_query, 0, 0, 0]``.  The network
gives the logits of the actions at every position: after 0, 1, 2 … transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fewer.core.errors import FewerError
from fewer.incontext.loop import Family, Prompts

Label = Literal["optimal", "behaviour"]
"""What is to be said: the best action, or the one that whoever collected the transitions took next."""


class Decisions(Family):
    """Tasks in which an action is to be named.

    Parameters
    ----------
    states : int
        Numbers that describe a state.
    actions : int
        How many there are.
    context : int
        Most transitions of a prompt.
    label : {"optimal", "behaviour"}, default "optimal"
        What is to be said.  "behaviour" clones whoever collected the transitions; where that was a learner, this is
        algorithm distillation.
    empty_context : bool, default True
        Whether the answer without any transition is trained as well.  The paper's code leaves it out, so that the
        first action of a new task comes from an untrained output.

    Attributes
    ----------
    reward_scale : tuple of float
        What is subtracted from rewards, and what they are divided by, before they are read.
    """

    reward_scale: tuple[float, float] = (0.0, 1.0)
    spec: str | None = None

    def __init__(
        self, states: int, actions: int, context: int, label: Label = "optimal", empty_context: bool = True
    ) -> None:
        if min(states, actions, context) < 1:
            raise FewerError(
                f"a world needs a state, an action and a context of 1 or more; given {states}, {actions}, {context}"
            )
        if label not in ("optimal", "behaviour"):
            raise FewerError(f"label must be 'optimal' or 'behaviour'; {label!r} was given")
        self.states, self.actions, self.context = states, actions, context
        self.label, self.empty_context = label, empty_context
        self.features, self.outputs, self.length = 2 * states + actions + 1, actions, context + 1

    def loss(
        self, outputs: Float[Tensor, "batch length outputs"], prompts: Prompts
    ) -> Float[Tensor, "batch positions"]:
        """Cross-entropy with the target at each position: (batch, actions) for all of them, or (batch, length, actions)."""
        target = prompts.target if prompts.target.ndim == 3 else prompts.target[:, None]
        loss = -(target * outputs.log_softmax(-1)).sum(-1)
        return loss if self.empty_context else loss[:, 1:]


@dataclass(frozen=True)
class Transitions:
    """What was seen of many worlds, the same number of transitions in each.

    Parameters
    ----------
    states, next_states : float tensors (worlds, transitions, numbers)
    actions : int tensor (worlds, transitions)
    rewards : float tensor (worlds, transitions)
    """

    states: Float[Tensor, "worlds transitions numbers"]
    actions: Int[Tensor, "worlds transitions"]
    next_states: Float[Tensor, "worlds transitions numbers"]
    rewards: Float[Tensor, "worlds transitions"]

    def shuffled(self, generator: torch.Generator) -> Transitions:
        """Each world's transitions in an order of its own."""
        order = torch.rand(self.actions.shape, generator=generator).argsort(-1)
        wide = order[..., None].expand_as(self.states)
        return Transitions(
            self.states.gather(1, wide),
            self.actions.gather(1, order),
            self.next_states.gather(1, wide),
            self.rewards.gather(1, order),
        )


def as_tokens(
    query: Float[Tensor, "worlds numbers"],
    seen: Transitions | None,
    actions: int,
    reward_scale: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "worlds length features"]:
    """The query's token and one for each transition.

    Examples
    --------
    >>> one = torch.ones(1, 1, 1)
    >>> as_tokens(one[0], Transitions(one, torch.tensor([[2]]), one, torch.tensor([[0.5]])), actions=3)[0].tolist()
    [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0, 1.0, 0.5]]
    """
    first = nn.functional.pad(query, (0, actions + query.shape[1] + 1))[:, None]
    return first if seen is None else torch.cat([first, transition_tokens(seen, actions, reward_scale)], 1)


def transition_tokens(
    seen: Transitions, actions: int, reward_scale: tuple[float, float] = (0.0, 1.0)
) -> Float[Tensor, "worlds transitions features"]:
    """One token for each transition."""
    taken = nn.functional.one_hot(seen.actions, actions).to(seen.states.dtype)
    rewards = (seen.rewards - reward_scale[0]) / reward_scale[1]
    return torch.cat([seen.states, taken, seen.next_states, rewards[..., None]], -1)


def next_actions(actions: Int[Tensor, "worlds transitions"], count: int) -> Float[Tensor, "worlds length actions"]:
    """The behaviour's label at each position: the action it took next; none behind the last transition."""
    taken = nn.functional.one_hot(actions, count).float()
    return torch.cat([taken, torch.zeros_like(taken[:, :1])], 1)


def sampled(
    logits: Float[Tensor, "worlds actions"], generator: torch.Generator, *, greedy: bool = False
) -> Int[Tensor, " worlds"]:
    """An action of each world: drawn from the softmax while exploring, the most probable from given data."""
    return logits.argmax(-1) if greedy else torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
