"""A read-out that looks at all tokens of a row, and learns which of them to look at.

One query, which is learned, attends to the tokens; a feed-forward part and a linear layer make classes of what it finds:

    q' = q + Attention(q, LayerNorm(tokens))      q'' = q' + FeedForward(LayerNorm(q'))      logits = W q'' + b

Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video", arXiv:2404.08471.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from fewer.core.errors import Diverged, FewerError
from fewer.core.loop import own_randomness
from fewer.models.optimisers import AdamW, Cosine, set_rate
from fewer.models.tokens import PatchEncoder
from fewer.models.vit import FeedForward, head_width, linear
from fewer.tasks.representation import Probe


class AttentivePool(nn.Module):
    """Classes of rows of tokens, by one learned query.

    Parameters
    ----------
    width : int
        Channels of a token.
    classes : int
        Logits.
    heads : int, default 4
        Of the attention; must divide ``width``.
    ratio : float, default 4
        Hidden units of the feed-forward part, as a multiple of ``width``.

    Examples
    --------
    >>> AttentivePool(16, classes=3)(torch.zeros(2, 5, 16)).shape
    torch.Size([2, 3])
    """

    def __init__(self, width: int, classes: int, heads: int = 4, ratio: float = 4.0) -> None:
        super().__init__()
        head_width(width, heads, "attentive probe")
        self.heads = heads
        self.query = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.offer, self.project = linear(width, width), linear(width, 2 * width), linear(width, width)
        self.mlp = FeedForward(width, int(ratio * width))
        self.classify = linear(width, classes)

    def forward(self, tokens: Float[Tensor, "rows places width"]) -> Float[Tensor, "rows classes"]:
        """Logits."""
        rows, places, width = tokens.shape
        key, value = self.offer(self.norm1(tokens)).reshape(rows, places, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        query = self.ask(self.query).reshape(1, self.heads, 1, -1).expand(rows, -1, -1, -1)
        found = nn.functional.scaled_dot_product_attention(query, key, value).reshape(rows, width)
        found = self.query + self.project(found)
        return self.classify(found + self.mlp(self.norm2(found)))


@dataclass(frozen=True)
class AttentiveProbe:
    """Learn a query over the tokens of a frozen encoder.

    In the slot ``readout`` of a loop it is asked to judge the encoder by its tokens; where there are only features, each row
    is a single token.

    Parameters
    ----------
    steps : int, default 300
        Of learning.
    batch : int, default 128
        Rows a step.
    heads : int, default 4
        Of the attention; must divide the width of a token.
    lr : float, default 1e-3
        Peak learning rate of AdamW.
    weight_decay : float, default 0.01
        Decoupled penalty.
    seed : int, default 0
        Of the start and the order of rows.

    Examples
    --------
    >>> y = np.arange(40) % 2
    >>> tokens = np.zeros((40, 3, 8)); tokens[:, 1, 0] = 2 * y - 1
    >>> AttentiveProbe(steps=60, heads=2, lr=0.01).score(tokens, y, tokens, y)
    1.0
    """

    steps: int = 300
    batch: int = 128
    heads: int = 4
    lr: float = 1e-3
    weight_decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or not self.lr > 0:
            raise FewerError(f"attentive probe: steps and batch must be at least 1 and lr above 0; given {self}")

    def judge(self, encoder: nn.Module, known: Probe) -> float:
        """Score of an encoder's tokens on labelled rows."""
        return self.score(embed_tokens(encoder, known.x), known.y, embed_tokens(encoder, known.test_x), known.test_y)

    def score(
        self,
        x: Float[np.ndarray, "rows ..."],
        y: Int[np.ndarray, " rows"],
        test_x: Float[np.ndarray, "test ..."],
        test_y: Int[np.ndarray, " test"],
    ) -> float:
        """Share of test rows that it tells right; rows are (places, width), or (width,)."""
        known, asked = (
            torch.as_tensor(each if each.ndim == 3 else each[:, None], dtype=torch.float32) for each in (x, test_x)
        )
        labels = torch.as_tensor(y)
        with own_randomness(self.seed, "attentive probe"):
            pool = AttentivePool(known.shape[2], int(max(y.max(), test_y.max())) + 1, self.heads)
            optimiser, schedule = AdamW(self.lr, self.weight_decay).make(pool.parameters()), Cosine(warmup=0.1)
            order = torch.zeros(0, dtype=torch.int64)
            loss = torch.zeros(())
            for step in range(self.steps):
                if len(order) < min(self.batch, len(known)):
                    order = torch.randperm(len(known))
                rows, order = order[: self.batch], order[self.batch :]
                set_rate(optimiser, schedule.factor((step + 1) / self.steps))
                loss = nn.functional.cross_entropy(pool(known[rows]), labels[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
        if not torch.isfinite(loss):
            raise Diverged(f"attentive probe: the loss became {float(loss.detach())}; lower lr={self.lr}")
        with torch.inference_mode():
            said = torch.cat([pool(part).argmax(1) for part in asked.split(1024)])
        return float(np.mean(said.numpy() == test_y))


def embed_tokens(
    encoder: nn.Module, x: Shaped[np.ndarray, "rows ..."], block: int = 256
) -> Float[np.ndarray, "rows places width"]:
    """Tokens of rows, without gradients and with the encoder in evaluation.

    Parameters
    ----------
    encoder : module
        A :class:`fewer.models.tokens.PatchEncoder`, or a module from rows to (rows, places, width).
    x : array (rows, ...)
        As the encoder takes them.
    block : int, default 256
        Rows at a time.

    Raises
    ------
    FewerError
        If there are no rows, or the encoder gives no tokens.

    Examples
    --------
    >>> from fewer.models.tokens import TokenEncoder
    >>> embed_tokens(TokenEncoder((1, 8, 8), (4, 4), width=16, depth=1, heads=2), np.zeros((3, 1, 8, 8))).shape
    (3, 4, 16)
    """
    if not len(x):
        raise FewerError("embed_tokens: there are no rows; give at least one")
    where = next((each.device for each in encoder.parameters()), torch.device("cpu"))
    training, parts = encoder.training, []
    encoder.eval()
    with torch.inference_mode():
        for begin in range(0, len(x), block):
            rows = torch.from_numpy(np.ascontiguousarray(x[begin : begin + block], dtype=np.float32)).to(where)
            said = encoder.tokens(rows) if isinstance(encoder, PatchEncoder) else encoder(rows)
            if said.ndim != 3:
                raise FewerError(
                    f"attentive probe: it looks at tokens, and the encoder gives {tuple(said.shape)}; use a linear probe"
                )
            parts.append(said.float().cpu().numpy())
    encoder.train(training)
    return np.concatenate(parts)
