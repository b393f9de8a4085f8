"""How the next token is drawn from logits, how likely it was, and what its log-probability asks of the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fewer.core.errors import FewerError


class Drawing:
    """Draws tokens; each uses up one number of its row, whatever the others do.

    Parameters
    ----------
    temperature : float or callable
        What logits are divided by, by place.
    top_p : float
        Draw from the fewest tokens that have this probability together.
    top_k : int
        Draw from so many likeliest tokens; 0 for all.
    draws : torch.Generator, optional
        None takes the likeliest.
    rows, room : int
        For how many rows and tokens.

    Raises
    ------
    FewerError
        If a number is out of its range.
    """

    def __init__(
        self,
        temperature: float | Callable[[int], float],
        top_p: float,
        top_k: int,
        draws: torch.Generator | None,
        rows: int,
        room: int,
    ) -> None:
        if not 0 < top_p <= 1 or top_k < 0:
            raise FewerError(
                f"decode: top_p must be in (0, 1] and top_k at least 0; given top_p={top_p}, top_k={top_k}"
            )
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k
        self.numbers: Tensor | None = None
        self._memory: list[Tensor] = []
        if draws is not None:
            self.numbers = torch.rand(room, rows, generator=draws, device=draws.device, dtype=torch.float64)

    def draw(
        self, logits: Float[Tensor, "rows vocabulary"], rows: Int[Tensor, " rows"], place: int
    ) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
        """Tokens, their log-probabilities at temperature 1 and under what they were drawn from, and entropies at 1.

        Raises
        ------
        FewerError
            If the temperature is not positive, or the model's logits are not numbers.
        """
        logits = logits.float()
        # each pass over all tokens of all rows costs as much as one of the model's smaller layers: there are six
        most = logits.amax(1, keepdim=True)
        first, second = self._like(logits)
        odds = torch.sub(logits, most, out=first).exp_()
        whole = odds.sum(1)
        total = most + whole.log()[:, None]
        if not bool(total.isfinite().all()):
            raise FewerError(
                f"decode: the model's logits are not numbers at token {place}; its weights may have diverged"
            )
        # not as a product of a row and a column, which takes eight times as long
        entropy = total[:, 0] - torch.mul(odds, logits, out=second).sum(1) / whole
        if self.numbers is None:
            tokens = logits.argmax(1)
            logps = self._of(logits, tokens) - total[:, 0]
            return tokens, logps, torch.zeros_like(logps), entropy
        numbers = self.numbers[place].to(rows.device)[rows]
        temperature = float(self.temperature(place) if callable(self.temperature) else self.temperature)
        if not 0 < temperature < float("inf"):
            raise FewerError(
                f"decode: the temperature of token {place} is {temperature}; give a positive number, or greedy"
            )
        if self.top_p == 1 and not self.top_k:
            if temperature != 1:
                odds = torch.sub(logits, most, out=odds).div_(temperature).exp_()
            tokens = chosen(odds, numbers)
            logps = self._of(logits, tokens) - total[:, 0]
            if temperature == 1:
                return tokens, logps, logps, entropy
            tempered = (self._of(logits, tokens) - most[:, 0]) / temperature
            return tokens, logps, tempered - odds.sum(1).log(), entropy
        kept, places = self._kept(logits / temperature)
        which = chosen(kept, numbers)
        tokens = self._of(places, which)
        behaviour = self._of(kept, which).log() - kept.sum(1).log()
        return tokens, self._of(logits, tokens) - total[:, 0], behaviour, entropy

    def _like(self, logits: Tensor) -> list[Tensor]:
        """Memory of this shape, twice, and the same at every token: to get it anew takes longer than to compute what goes in."""
        if not self._memory:
            self._memory = [torch.empty_like(logits) for _ in range(2)]
        return [each[: len(logits)] for each in self._memory]

    def _kept(
        self, logits: Float[Tensor, "rows vocabulary"]
    ) -> tuple[Float[Tensor, "rows some"], Int[Tensor, "rows some"]]:
        """Probabilities of the likeliest tokens, 0 for those that are not drawn from, and which they are."""
        most = logits.shape[1]
        limit = min(self.top_k or most, most)
        total = logits.logsumexp(1, keepdim=True)
        # a full sort is rarely needed: few tokens hold nearly all of the probability
        count = limit if self.top_p == 1 else min(128, limit)
        while True:
            values, places = logits.topk(count, dim=1)
            if self.top_k:
                total = (
                    values.logsumexp(1, keepdim=True)
                    if count == limit
                    else logits.topk(limit, 1).values.logsumexp(1, True)
                )
            odds = (values - total).exp()
            before = odds.cumsum(1) - odds
            if count == limit or bool((before[:, -1] >= self.top_p).all()):
                break
            count = min(8 * count, limit)
        if self.top_p < 1:
            odds = torch.where(before < self.top_p, odds, 0.0)
        return odds, places

    @staticmethod
    def _of(values: Tensor, places: Int[Tensor, " rows"]) -> Tensor:
        return values.gather(1, places[:, None])[:, 0]


BLOCK = 256
"""Values whose weights :func:`chosen` adds up before it looks for the one that is drawn, where there are many."""


def chosen(weights: Float[Tensor, "rows values"], numbers: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Places drawn in proportion to weights, by a number in [0, 1) for each row; never one whose weight is 0.

    Examples
    --------
    >>> chosen(torch.tensor([[1.0, 0.0, 3.0]] * 3), torch.tensor([0.0, 0.24, 0.26], dtype=torch.float64)).tolist()
    [0, 0, 2]
    """
    many = weights.shape[1]
    if many < 16 * BLOCK:
        sums = weights.cumsum(1)
        return _first_beyond(sums, (numbers * sums[:, -1]).to(sums.dtype))
    # adding up one after another is slow: whole blocks first, then only within the one that was drawn
    whole = many - many % BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(2)
    if whole < many:
        sums = torch.cat([sums, weights[:, whole:].sum(1, keepdim=True)], dim=1)
    sums = sums.cumsum(1)
    target = _below((numbers * sums[:, -1]).to(sums.dtype), sums[:, -1])
    block = torch.searchsorted(sums, target[:, None], right=True)
    rest = target - torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)[:, 0]
    places = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    within = torch.where(places < many, weights.gather(1, places.clamp(max=many - 1)), 0.0).cumsum(1)
    return block[:, 0] * BLOCK + _first_beyond(within, rest)


def _first_beyond(sums: Float[Tensor, "rows values"], target: Float[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """Where running sums first exceed a number, which rounding must not put beyond them all."""
    return torch.searchsorted(sums, _below(target, sums[:, -1])[:, None], right=True)[:, 0]


def _below(target: Float[Tensor, " rows"], limit: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    return torch.minimum(target, limit.nextafter(torch.zeros_like(limit)))


def chosen_logps(
    logits: Float[Tensor, "tokens vocabulary"],
    chosen: Int[Tensor, " tokens"],
    temperature: float = 1.0,
    reuse: bool = False,
) -> Float[Tensor, " tokens"]:
    """Log-probabilities of chosen tokens; for their gradient one number a logit is kept, and none in passing.

    Values and gradients are those of ``log_softmax(logits / temperature)``, computed in float32, or in float64 where logits are.
    The gradient may be asked for several times if the graph is retained.

    Parameters
    ----------
    logits : float tensor (tokens, vocabulary)
        Before the temperature.
    chosen : int tensor (tokens,)
        One of the vocabulary each.
    temperature : float, default 1
        What logits are divided by.
    reuse : bool, default False
        Work in the logits' own memory, which holds something else afterwards: only for logits that nothing else reads.

    Returns
    -------
    float tensor (tokens,)
        In float32, or in float64 for such logits.

    Raises
    ------
    FewerError
        If a gradient of the gradient is asked for: there is none.

    Examples
    --------
    >>> chosen_logps(torch.tensor([[0.0, 0.0], [0.0, 1.0986]]), torch.tensor([0, 1])).exp()
    tensor([0.5000, 0.7500])
    """
    return _ChosenLogps.apply(logits, chosen, temperature, reuse)


class _ChosenLogps(torch.autograd.Function):
    """With p = softmax(logits / t), the gradient of log p_k is (e_k - p) / t: nothing but p need be kept."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor, temperature: float, reuse: bool) -> Tensor:
        # passes over a whole vocabulary take as long as small products do: there are five here, and one in the gradient
        odds = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
        own = reuse or odds is not logits
        if temperature != 1:
            odds, own = odds.div_(temperature) if own else odds / temperature, True
        most = odds.amax(1, keepdim=True)
        picked = odds.gather(1, chosen[:, None]) - most
        odds = (odds.sub_(most) if own else odds - most).exp_()
        whole = odds.sum(1, keepdim=True)
        ctx.save_for_backward(odds, whole, chosen)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        return (picked - whole.log())[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # once_differentiable of torch would be silent where the losses' own weights are constant, and the result be wrong
        if torch.is_grad_enabled():
            raise FewerError(
                "chosen_logps: its gradient was asked for with create_graph=True and has no gradient itself; take log_softmax, "
                "or teacher_forced with entropy=True, whose log-probabilities have one"
            )
        odds, whole, chosen = ctx.saved_tensors
        wanted = gradients[0][:, None] / ctx.temperature
        share = -wanted / whole
        # a graph that is not kept gives up its memory; that of one that is kept will be read again
        odds = odds * share if _graph_is_kept() else odds.mul_(share)
        return odds.scatter_add_(1, chosen[:, None], wanted).to(ctx.dtype), None, None, None


def _graph_is_kept() -> bool:
    """Whether the gradient that is being computed may be asked for again; True where torch does not tell."""
    asked = getattr(getattr(torch._C, "_autograd", None), "_get_current_graph_task_keep_graph", None)
    return True if asked is None else asked()
