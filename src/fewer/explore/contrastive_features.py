"""Features of low-rank transitions, learned by telling true next states from others.

If P(s'|s, a) = psi(s') . phi(s, a), what tells best a true next state from one drawn from P- is the ratio P / P-.  So a
ratio g = psi(s') . phi(s, a) > 0 is fitted by::

    L = mean [ y log(1 + 1 / g) + (1 - y) log(1 + g) ]

where y is 1 for a true next state and 0, half of the time, for one that was exchanged; its minimum is g = P / P-.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import softmax, softplus

from fewer.core.errors import Diverged, FewerError
from fewer.models.ensemble import LinearEnsemble


class ContrastiveFeatures(nn.Module):
    """Networks for phi and psi; several members that share nothing, each with data of its own, are computed as one.

    phi is a softmax over the dimensions, so that its pairs of states and actions are mixtures of causes, and psi is
    positive: so is their product.

    Parameters
    ----------
    inputs : int
        Numbers that describe a state.
    actions : int
        Numbered actions.
    dimensions : int, default 4
        Of the features.
    hidden : int, default 32
        Width of both networks.
    members : int, default 1
        Side by side.

    Examples
    --------
    >>> features = ContrastiveFeatures(inputs=3, actions=2)
    >>> states, following = torch.randn(50, 3), torch.randn(50, 3)
    >>> features.fit(states, torch.zeros(50, dtype=torch.int64), following, steps=5)
    >>> features.phi(states, torch.zeros(50, dtype=torch.int64)).shape
    torch.Size([50, 4])
    """

    def __init__(self, inputs: int, actions: int, dimensions: int = 4, hidden: int = 32, members: int = 1) -> None:
        super().__init__()
        if min(inputs, actions, dimensions, hidden, members) < 1:
            raise FewerError(
                f"contrastive features: sizes must be at least 1; given {inputs} inputs, {actions} actions, {dimensions} "
                f"dimensions, {hidden} hidden units and {members} members"
            )
        self.actions, self.dimensions, self.members = actions, dimensions, members
        self.of_pair = side_by_side(inputs, hidden, actions * dimensions, members)
        self.of_next = side_by_side(inputs, hidden, dimensions, members)

    def every_phi(
        self, states: Float[Tensor, "rows #members inputs"]
    ) -> Float[Tensor, "rows members actions dimensions"]:
        """Features of all actions in given states, which may be the same for all members."""
        return softmax(self.of_pair(states).unflatten(-1, (self.actions, self.dimensions)), dim=-1)

    def every_psi(self, states: Float[Tensor, "rows #members inputs"]) -> Float[Tensor, "rows members dimensions"]:
        """Features of next states."""
        return softplus(self.of_next(states))

    def phi(
        self, states: Float[Tensor, "*rows inputs"], actions: Int[Tensor, "*rows"]
    ) -> Float[Tensor, "*rows dimensions"]:
        """Features of pairs: (rows, inputs) with one member, (rows, members, inputs) with several."""
        every = self.every_phi(self._by_member(states))
        chosen = actions.reshape(every.shape[:2])[..., None, None].expand(-1, -1, 1, self.dimensions)
        return every.gather(2, chosen).reshape(*actions.shape, self.dimensions)

    def log_ratio(
        self,
        states: Float[Tensor, "*rows inputs"],
        actions: Int[Tensor, "*rows"],
        following: Float[Tensor, "*rows inputs"],
    ) -> Float[Tensor, "*rows"]:
        """Log g: by how much each next state is likelier than among the others."""
        psi = self.every_psi(self._by_member(following)).reshape(*actions.shape, self.dimensions)
        return (self.phi(states, actions) * psi).sum(dim=-1).log()

    def fit(
        self,
        states: Float[Tensor, "*rows inputs"],
        actions: Int[Tensor, "*rows"],
        following: Float[Tensor, "*rows inputs"],
        others: Float[Tensor, "*pool inputs"] | None = None,
        *,
        sizes: Int[Tensor, " members"] | None = None,
        steps: int = 100,
        batch: int = 256,
        lr: float = 1e-2,
        generator: torch.Generator | None = None,
        optimiser: torch.optim.Optimizer | None = None,
    ) -> None:
        """Learn, going on from the weights as they are.

        Parameters
        ----------
        states, following : float tensors (rows, [members,] inputs)
            What was seen before and after; an axis of members where there are several.
        actions : int tensor (rows, [members])
            What was done.
        others : float tensor (pool, [members,] inputs), optional
            What next states are exchanged for, drawn uniformly: P-.  All next states must be among them.  By default the
            next states themselves.
        sizes : int tensor (members,), optional
            How many of the pool's first rows are each member's; by default all.
        steps, batch, lr
            Of Adam; each batch is drawn with replacement.
        generator : torch Generator, optional
            Of the draws.
        optimiser : Optimizer, optional
            To go on with the same one; by default a new Adam of this ``lr``.

        Raises
        ------
        FewerError
            If there are no rows, shapes do not agree, or a next state is not among ``others``.
        Diverged
            If the loss becomes NaN.
        """
        rows = len(actions)
        if not rows or states.shape != following.shape or states.shape[:-1] != actions.shape:
            raise FewerError(
                f"contrastive features: states, actions and next states must be rows that belong together; they are "
                f"{tuple(states.shape)}, {tuple(actions.shape)} and {tuple(following.shape)}"
            )
        before, after = self._by_member(states), self._by_member(following)
        done = actions.reshape(before.shape[:2])
        pool = after if others is None else self._by_member(others)
        optimiser = optimiser or torch.optim.Adam(self.parameters(), lr=lr, foreach=True)
        member = torch.arange(self.members, device=before.device)
        size = torch.full((self.members,), len(pool)) if sizes is None else sizes
        size, loss = size.to(before.device), torch.zeros((), device=before.device)
        if others is not None:
            self._check_covered(after, pool, size)
        for _ in range(steps):
            drawn = torch.randint(rows, (batch, self.members), generator=generator).to(before.device)
            other = torch.rand(batch, self.members, generator=generator).to(before.device)
            other = (other * size).long().clamp_max(size - 1)  # rounding may give 1
            true = torch.rand(batch, self.members, generator=generator).to(before.device) < 0.5
            seen = torch.where(true[..., None], after[drawn, member], pool[other, member if pool.shape[1] > 1 else 0])
            log_ratio = self.log_ratio_of(before[drawn, member], done[drawn, member], seen)
            # members share nothing, so each one's mean is summed
            loss = contrastive_loss(log_ratio, true).mean(dim=0).sum()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        if not torch.isfinite(loss):
            raise Diverged(f"contrastive features: the loss became {loss.item()}; lower the learning rate")

    def log_ratio_of(self, states: Tensor, actions: Tensor, following: Tensor) -> Float[Tensor, "rows members"]:
        """As :meth:`log_ratio`, always with the axis of members."""
        chosen = actions[..., None, None].expand(-1, -1, 1, self.dimensions)
        phi = self.every_phi(states).gather(2, chosen)[:, :, 0]
        return (phi * self.every_psi(following)).sum(dim=-1).log()

    def _check_covered(self, after: Tensor, pool: Tensor, size: Tensor) -> None:
        """What is never drawn from P- would have a ratio without bound."""

        def names(rows: Tensor) -> Tensor:
            """A number for each row of each member, equal for equal rows: sums of whole numbers do not depend on their order."""
            odd = torch.randint(2**62, (rows.shape[-1] + 1,), generator=torch.Generator().manual_seed(0)) * 2 + 1
            bits = (rows.double() + 0.0).contiguous().view(torch.int64).cpu()  # -0 is 0
            return (bits * odd[:-1]).sum(dim=-1) + torch.arange(self.members) * odd[-1]

        drawn = (torch.arange(len(pool), device=size.device)[:, None] < size).cpu()
        missing = ~torch.isin(names(after), names(pool)[drawn])
        if missing.any():
            row, member = missing.nonzero()[0].tolist()
            whose = f" of member {member}" if self.members > 1 else ""
            raise FewerError(
                f"contrastive features: the next state of row {row}{whose} is not among those it may be exchanged for; add "
                "it, or leave others out"
            )

    def _by_member(self, rows: Tensor) -> Tensor:
        if rows.ndim == 2:
            if self.members > 1:
                raise FewerError(
                    f"contrastive features: {self.members} members need rows of their own, (rows, {self.members}, inputs); "
                    f"given {tuple(rows.shape)}"
                )
            return rows[:, None]
        return rows


def contrastive_loss(log_ratio: Float[Tensor, "*rows"], true: Tensor) -> Float[Tensor, "*rows"]:
    """What telling true next states from others costs, for each row.

    Examples
    --------
    >>> contrastive_loss(torch.tensor([0.0, 0.0]), torch.tensor([True, False]))
    tensor([0.6931, 0.6931])
    """
    return softplus(torch.where(true, -log_ratio, log_ratio))


def side_by_side(inputs: int, hidden: int, outputs: int, members: int) -> nn.Sequential:
    """Networks of one hidden layer that share nothing: (rows, members or 1, inputs) to (rows, members, outputs)."""
    return nn.Sequential(LinearEnsemble(inputs, hidden, members), nn.ReLU(), LinearEnsemble(hidden, outputs, members))
