"""One step from noise to an action: a flow's average velocity, learned without following the flow.

Between data a and noise e lie a_t = (1 - t) a + t e.  The network predicts the velocity averaged over the way from t down to
r, so that the whole way from noise to an action is one evaluation:

    u(a_t, r, t) = 1 / (t - r) * integral from r to t of v,      a = e - u(e, 0, 1)

What it must equal follows from differentiating that by t (the mean-flow identity), with v = e - a the sample's own velocity:

    u = v - (t - r) du/dt,      du/dt = derivative of u along (v, 0, 1) in (a_t, r, t)

The right side is the target of a plain squared error, without gradient.  A share of rows has r = t, where the target is v and
the loss that of flow matching.

References
----------
Nguyen and Yoo, "Revisiting Diffusion Q-Learning: From Iterative Denoising to One-Step Action Generation", 2025,
arXiv:2508.13904.
Geng et al., "Mean Flows for One-step Generative Modeling", 2025, arXiv:2505.13447.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fewer.control.generative_policies import Generator, TimeEmbedding, VelocityNet
from fewer.control.policies import Actions, Observations
from fewer.core.errors import FewerError

Times = Float[Tensor, " batch"]

RATES = 0.5, 5.0
"""Of the waves that times are embedded as: the target differentiates the network by time, and fast waves swamp it."""


@dataclass(frozen=True)
class MeanFlow:
    """A flow that is left in one step.

    Parameters
    ----------
    hidden : tuple of int, default (256, 256, 256)
        Widths of the hidden layers.
    flow_ratio : float, default 0.5
        Share of rows with r = t; with 1 this is flow matching, and nothing is learned of a whole step.
    centre, spread : float, default -0.4 and 1
        Of the Gaussian whose sigmoid times are drawn from; of two draws the later is t, the earlier r.

    Examples
    --------
    >>> policy = MeanFlow(hidden=(16,)).build(observations=3, actions=2)
    >>> policy.generate(torch.zeros(5, 3), torch.randn(5, 2)).shape
    torch.Size([5, 2])
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    flow_ratio: float = 0.5
    centre: float = -0.4
    spread: float = 1.0

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise FewerError(f"mean flow: hidden widths must be positive; given {self.hidden}")
        if not (0 <= self.flow_ratio <= 1 and math.isfinite(self.centre) and 0 < self.spread < math.inf):
            raise FewerError(f"mean flow: flow_ratio lies in [0, 1] and spread is positive; given {self}")

    def build(self, observations: int, actions: int) -> OneStepFlow:
        """Make it."""
        return OneStepFlow(VelocityNet(observations, actions, self.hidden, times=2, rates=RATES), self)


class OneStepFlow(Generator):
    """What :class:`MeanFlow` builds.

    Parameters
    ----------
    net : VelocityNet
        Of the times t and r, in this order.
    settings : MeanFlow
        Of its loss.
    """

    def __init__(self, net: VelocityNet, settings: MeanFlow) -> None:
        super().__init__()
        self.net, self.settings = net, settings

    def generate(self, observations: Observations, noise: Actions) -> Actions:
        """Noise, less the average velocity of the whole way."""
        # of the shape of the noise whatever that is, so that a traced policy takes any batch
        end = torch.ones_like(noise[:, 0])
        return (noise - self.net(noise, observations, end, torch.zeros_like(end))).clamp(-1, 1)

    def imitation_loss(self, observations: Observations, actions: Actions) -> Float[Tensor, " batch"]:
        """Squared error of the average velocity between two random times."""
        noise, (end, begin) = torch.randn_like(actions), self._times(len(actions), actions.dtype)
        noisy, target = torch.lerp(actions, noise, end[:, None]), noise - actions
        predicted = self.net(noisy, observations, end, begin)
        rows = torch.nonzero(begin < end)[:, 0]  # elsewhere the target is the sample's own velocity
        if len(rows):
            chosen = (each.index_select(0, rows) for each in (noisy, observations, end, begin, target))
            change = (end - begin).index_select(0, rows)[:, None] * self._change(*chosen)
            target = target.index_add(0, rows, change, alpha=-1)
        return (predicted - target).square().sum(dim=-1)

    def _times(self, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Times, Times]:
        settings = self.settings
        draws = torch.sigmoid(settings.centre + settings.spread * torch.randn(2, rows, dtype=dtype))
        end = draws.amax(0)
        # evenly spread over the batch, whose parts may be from different sources
        counted = (torch.arange(rows + 1) * settings.flow_ratio).floor()
        return end, torch.where(counted[1:] > counted[:-1], end, draws.amin(0))

    @torch.no_grad()
    def _change(
        self, noisy: Actions, observations: Observations, end: Times, begin: Times, velocity: Actions
    ) -> Actions:
        """How the average velocity changes with t, along the sample's own path."""
        at_end, at_begin = self.net.embeddings
        embedded, turned = embedding_with_derivative(at_end, end)  # pyright: ignore[reportArgumentType]
        fixed = at_begin(begin)
        values = torch.cat([noisy, embedded, fixed, observations], dim=-1)
        along = torch.cat([velocity, turned, torch.zeros_like(fixed), torch.zeros_like(observations)], dim=-1)
        return through_layers(self.net.net, values, along)[1]


def embedding_with_derivative(embedding: TimeEmbedding, time: Times) -> tuple[Tensor, Tensor]:
    """An embedded time, and its derivative by the time."""
    angles = time[:, None] * embedding.rates
    sine, cosine = angles.sin(), angles.cos()
    waves, turned = (
        torch.cat([sine, cosine], dim=-1),
        torch.cat([embedding.rates * cosine, -embedding.rates * sine], dim=-1),
    )
    return through_layers(embedding.mix, waves, turned)


def through_layers(layers: nn.Sequential, values: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Carry values and their derivatives through linear layers and Mish.

    The same as ``torch.func.jvp`` at a fraction of its time, since both go through each matrix at once.
    """
    for layer in layers:
        if isinstance(layer, nn.Linear):
            values, along = (torch.cat([values, along]) @ layer.weight.T).chunk(2)
            values = values + layer.bias
        elif isinstance(layer, nn.Mish):
            # mish(x) = x tanh(softplus(x))
            bend = nn.functional.softplus(values).tanh()
            along = along * torch.addcmul(bend, values * values.sigmoid(), 1 - bend.square())
            values = values * bend
        else:
            raise TypeError(f"no derivative is known here for {type(layer).__name__}")
    return values, along
