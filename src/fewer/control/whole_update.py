"""An update of soft actor-critic as one function of tensors, for ``torch.compile`` to translate as a whole.

With networks this small, half of an update's time goes into what stands between the products: hundreds of small operations, each
called for itself and each going through memory once more.  Translated together, few are left.  What is computed is what
:class:`~fewer.control.loop.OffPolicy` computes in parts, from the same random numbers, and differs by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import grad_and_value
from torch.nn import functional

from fewer.control.critics import QEnsemble, activations, held
from fewer.control.policies import GaussianActor, soft_loss, squashed
from fewer.control.replay import Batch
from fewer.models.ensemble import LayerNormEnsemble, LinearEnsemble
from fewer.models.quick_adam import Collected, QuickAdam, adam_step, step_sizes
from fewer.models.translated import translated

if TYPE_CHECKING:
    from fewer.control.loop import OffPolicy, OffPolicyState

Layers = tuple[tuple[str, float], ...]
"""Of each layer its kind, and what a norm adds to a variance."""


@dataclass(frozen=True)
class _Fixed:
    """What is the same in all updates of a run, but for which parts are due."""

    critic: Layers
    policy: Layers
    backup_entropy: bool
    objective: str
    entropy_at: str
    discount: float
    share: float
    betas: tuple[float, float]
    wanted_entropy: float
    improves: bool
    follows: bool


def whole_update(loop: OffPolicy, state: OffPolicyState, batch: Batch) -> dict[str, Tensor] | None:
    """Make one update, if this can be done in one.

    Parameters
    ----------
    loop : OffPolicy
        Its settings.
    state : OffPolicyState
        The critic, its slow copies, the policy and their optimisers, which all change in place.
    batch : Batch
        What is learned from.

    Returns
    -------
    dict of tensors, or None
        The report; None, and nothing has changed, if a slot needs something that only an update in parts has: a policy that
        is no plain Gaussian, a term in the critic's loss, somebody who looks at activations.  So it is as well in the first
        update of each, from which Adam's memory comes.

    Raises
    ------
    FewerError
        If nothing can be compiled here.
    """
    from fewer.control.loop import FixedSchedule

    actor, critic = state.actor, state.critic
    if (
        type(actor) is not GaussianActor
        or type(critic) is not QEnsemble
        or loop.critic_term is not None
        or loop.critic.candidates > 1
        or not isinstance(state.schedule, FixedSchedule)  # others may watch the critic
        or (of_critic := _described(critic.layers)) is None
        or (of_policy := _described(actor.net)) is None
    ):
        return None
    due = (state.updates + 1) % actor.delay == 0
    # where the least of many critics counts, most of them have no gradient in most rows, which their own function leaves out
    improves = due and (actor.objective == "mean" or loop.critic.members <= 2)
    own = [*actor.net.parameters(), actor.log_temperature]
    moved = [(state.critic_optimiser, critic.in_order()), *([(actor.optimiser, own)] if improves else [])]
    found = [_collected(*each) for each in moved]
    if None in found or len({optimiser.param_groups[0]["betas"] for optimiser, _ in moved}) > 1:
        return None
    known = cast(list[Collected], found)
    fixed = _Fixed(
        of_critic,
        of_policy,
        actor.backup_entropy,
        actor.objective,
        actor.entropy_at,
        loop.discount,
        loop.critic.tau,
        state.critic_optimiser.param_groups[0]["betas"],
        actor.target_entropy,
        improves,
        (state.updates + 1) % loop.critic.every == 0,
    )
    # drawn in the order in which an update in parts draws them
    noise, members = [torch.randn_like(batch.actions)], loop.critic.drawn()
    looked_at = batch
    if actor.rows == "all" and actor.delay > 1:
        looked_at = Batch.join(*state.pending.batches, batch) if due else batch
        state.pending.batches[:] = [] if due else [*state.pending.batches, batch]
    if improves:
        times = 2 if actor.entropy_at == "next_observations" else 1
        noise += [torch.randn_like(looked_at.actions) for _ in range(times)]
    for each in known:
        each.count.add_(1)
    sizes = [
        step_sizes(each.count[0].item(), **{name: optimiser.param_groups[0][name] for name in ("lr", "betas", "eps")})
        for each, (optimiser, _) in zip(known, moved, strict=True)
    ]
    moving = [(each.parameters, each.averages, each.squares) for each in known]
    with torch.no_grad():
        report = translated(_update)(
            (batch.observations, batch.actions, batch.rewards, batch.next_observations, batch.continues),
            (looked_at.observations, looked_at.next_observations) if improves else (),
            noise,
            members,
            moving[0],
            state.slow.in_order(),
            moving[1] if improves else (own, [], []),
            torch.tensor(sizes, dtype=batch.rewards.dtype),
            fixed,
        )
    if due and not improves:
        with held(list(critic.parameters())):
            report |= actor.improve(looked_at, critic)
    return report


def _collected(optimiser: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> Collected | None:
    moving = all(each.requires_grad for each in parameters)
    return optimiser.collected(parameters) if isinstance(optimiser, QuickAdam) and moving else None


Moving = tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]
"""Parameters, and their averages and squares in Adam."""


def _update(
    batch: Sequence[Tensor],
    looked_at: Sequence[Tensor],
    noise: Sequence[Float[Tensor, "batch actions"]],
    members: Int[Tensor, " subset"] | None,
    critic: Moving,
    slow: Sequence[Tensor],
    policy: Moving,
    sizes: Float[Tensor, "moving 2"],
    fixed: _Fixed,
) -> dict[str, Tensor]:
    seen, done, rewards, after, continues = batch
    parameters, own = critic[0], policy[0]

    def acted(where: Tensor, own: Sequence[Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        return squashed(_through(fixed.policy, own, where), noise)

    def valued(where: Tensor, done: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        rows = torch.cat([where, done], dim=-1).expand(len(parameters[0]), -1, -1)
        return _through(fixed.critic, parameters, rows)[..., 0]

    temperature = own[-1].exp()
    following, density = acted(after, own[:-1], noise[0])
    chosen = slow if members is None else [each[members] for each in slow]
    ahead = valued(after, following, chosen).amin(0)
    if fixed.backup_entropy:
        ahead = ahead - temperature * density
    target = torch.addcmul(rewards, continues, ahead, value=fixed.discount)

    def error(*parameters: Tensor) -> tuple[Tensor, Tensor]:
        values = valued(seen, done, parameters)
        return (values - target).square().mean(1).sum(), values

    gradients, (loss, values) = _gradients(error, parameters)
    adam_step(*critic, gradients, sizes[0], fixed.betas)
    report = {"critic_loss": loss, "value": values.mean()}
    if fixed.improves:

        def wanted(*own: Tensor) -> tuple[Tensor, Tensor]:
            actions, density = acted(looked_at[0], own, noise[1])
            values = valued(looked_at[0], actions, parameters)
            return soft_loss(values, density, temperature, fixed.objective), density

        gradients, (_, density) = _gradients(wanted, own[:-1])
        if fixed.entropy_at == "next_observations":
            density = acted(looked_at[1], own[:-1], noise[2])[1]
        entropy = -density.mean()
        adam_step(*policy, [*gradients, entropy - fixed.wanted_entropy], sizes[1], fixed.betas)
        report |= {"temperature": temperature, "entropy": entropy}
    if fixed.follows:
        for each, new in zip(slow, parameters, strict=True):
            each.lerp_(new, fixed.share)
    return report


_KINDS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    LinearEnsemble: "linears",
    nn.LayerNorm: "norm",
    LayerNormEnsemble: "norms",
    **{module: name for name, module in activations().items()},
}


def _described(net: nn.Module) -> Layers | None:
    """The layers, if they are plain and nobody looks at what happens between them."""
    if type(net) is not nn.Sequential:
        return None
    found = []
    for layer in net:
        kind = _KINDS.get(type(layer))
        if kind is None or layer._forward_hooks or any(each is None for each in layer._parameters.values()):
            return None
        found.append((kind, layer.eps if isinstance(layer, nn.LayerNorm) else 1e-5))
    return tuple(found)


def _through(layers: Layers, parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Through these layers, with parameters from outside; of members side by side where their first axis is that of members."""
    left = iter(parameters)
    for kind, epsilon in layers:
        # a bias is added afterwards, on the way through what follows: a product that begins with it makes a pass of its own
        if kind == "linear":
            x = x @ next(left).T + next(left)
        elif kind == "linears":
            x = x @ next(left) + next(left)[:, None]
        elif kind == "norm":
            x = functional.layer_norm(x, x.shape[-1:], next(left), next(left), epsilon)
        elif kind == "norms":
            x = functional.layer_norm(x, x.shape[-1:], eps=epsilon) * next(left)[:, None] + next(left)[:, None]
        else:
            x = getattr(functional, kind)(x)
    return x


def _gradients(function: Any, parameters: Sequence[Tensor]) -> Any:
    """Of the first of a function's two results, for each parameter; and both results."""
    return grad_and_value(function, argnums=tuple(range(len(parameters))), has_aux=True)(*parameters)
