"""Small networks that rewrite the learned context of a prompt: its tokens go in and come out, (tokens, width)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.core.errors import FewerError

Kind = Literal["lstm", "lstm2", "mlp", "mlp2", "transformer"]
"""One or two bidirectional LSTM layers, a bottleneck once or twice, or two transformer layers."""

BOTTLENECK = 64
DROPOUT = 0.05
"""Between the two LSTM layers, and in the transformer."""


class ContextEncoder(nn.Module):
    """A network over the tokens of a context, with a skip around it.

    Parameters
    ----------
    kind : {"lstm", "lstm2", "mlp", "mlp2", "transformer"}
        LSTMs and the transformer let tokens depend on one another; the MLPs change each by itself.  ``mlp2`` is the same MLP
        applied twice.
    width : int
        Of a token; even, but for the MLPs.
    tokens : int
        How many there are.
    residual : bool, default True
        Add the context itself to what the network says of it.
    separate : bool, default False
        A network of its own for each token, which then sees that token alone.

    Examples
    --------
    >>> ContextEncoder("lstm", width=8, tokens=4)(torch.zeros(4, 8)).shape
    torch.Size([4, 8])
    """

    def __init__(self, kind: Kind, width: int, tokens: int, residual: bool = True, separate: bool = False) -> None:
        super().__init__()
        if kind not in get_args(Kind):
            raise FewerError(f"prompt: the encoder is {kind!r}; choose {', '.join(get_args(Kind))} or None")
        if width % 2 and kind not in ("mlp", "mlp2"):
            raise FewerError(
                f"prompt: the text tower is {width} wide, and an encoder of the kind {kind} halves it; take 'mlp' or None"
            )
        self.networks = nn.ModuleList(_NETWORKS[kind](width) for _ in range(tokens if separate else 1))
        self.residual = residual

    def forward(self, context: Float[Tensor, "tokens width"]) -> Float[Tensor, "tokens width"]:
        """The context, rewritten."""
        if len(self.networks) == 1:
            said = self.networks[0](context)
        else:
            said = torch.cat([network(context[place, None]) for place, network in enumerate(self.networks)])
        return said + context if self.residual else said


class _Recurrent(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width // 2, layers, dropout=DROPOUT * (layers > 1), bidirectional=True)

    def forward(self, context: Tensor) -> Tensor:
        return self.lstm(context)[0]  # two axes: one sequence, whose steps are the tokens


class _Attending(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, nhead=2, dropout=DROPOUT)
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, context: Tensor) -> Tensor:
        tokens, width = context.shape
        even = torch.arange(0, width, 2, device=context.device) / width
        angle = torch.arange(tokens, device=context.device)[:, None] / 10000**even
        places = torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)
        return self.layers(context + places.to(context))


def _mlp(width: int, times: int) -> nn.Module:
    layers = [nn.Linear(width, BOTTLENECK), nn.ReLU(), nn.Linear(BOTTLENECK, width)]
    return nn.Sequential(*(layers * times))


_NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "lstm": lambda width: _Recurrent(width, 1),
    "lstm2": lambda width: _Recurrent(width, 2),
    "mlp": lambda width: _mlp(width, 1),
    "mlp2": lambda width: _mlp(width, 2),
    "transformer": _Attending,
}
