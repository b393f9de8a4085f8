"""Sequence layers on companion state spaces: open loop, closed loop, fixed preprocessing, and the block of all.

Every layer maps (batch, length, channels) to the same shape, and no output knows a later input.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from fewer.core.errors import FewerError
from fewer.nets.companion import companion, companion_kernel, krylov, krylov_kernel, unit_sum
from fewer.nets.convolution import causal_convolution

Sequence = Float[Tensor, "batch length channels"]

ORDERS = 4
"""Orders of differencing in a group of preprocessed channels; as many moving averages follow."""
GROUP = 2 * ORDERS


class CompanionSSM(nn.Module):
    """A companion state space in open loop: each channel is convolved with its kernel and given a skip.

    Parameters
    ----------
    channels : int
        Of the sequences.
    kernel_dim : int, default 64
        Entries of the state.
    kernels : int, optional
        Different kernels; each is shared by ``channels / kernels`` neighbouring channels.  By default one a channel.
    normalise : bool, default True
        Keep the state bounded: the last column of the matrix is divided by the sum of its magnitudes.  Without, the kernel
        is computed by the slow way, which is right for growing states as well.

    Examples
    --------
    >>> CompanionSSM(4, kernel_dim=8)(torch.zeros(2, 100, 4)).shape
    torch.Size([2, 100, 4])
    """

    def __init__(self, channels: int, kernel_dim: int = 64, kernels: int | None = None, normalise: bool = True) -> None:
        super().__init__()
        kernels = channels if kernels is None else kernels
        if min(channels, kernel_dim, kernels) < 1 or channels % kernels:
            raise FewerError(
                f"companion: {kernels} kernels of {kernel_dim} states cannot be shared by {channels} channels; "
                "give positive numbers of which the kernels divide the channels"
            )
        self.normalise = normalise
        self.share = channels // kernels
        self.a, self.b, self.c = (nn.Parameter(torch.randn(kernels, kernel_dim)) for _ in range(3))
        self.skip = nn.Parameter(torch.randn(channels))

    def kernel(self, length: int) -> Float[Tensor, "kernels length"]:
        """The first taps of each kernel."""
        if self.normalise:
            return companion_kernel(unit_sum(self.a), self.b, self.c, length)
        return krylov_kernel(self.a, self.b, self.c, length)

    def forward(self, u: Sequence) -> Sequence:
        """Filter each channel."""
        kernel = self.kernel(u.shape[1]).repeat_interleave(self.share, dim=0)
        return causal_convolution(u.mT, kernel).mT + self.skip * u


class ClosedLoop(nn.Module):
    """A companion state space that also predicts its own next input, so that it can go on without one.

    ``x_{t+1} = A x_t + b u_t`` with ``y_t = c'x_t``, and ``k'x_t`` is trained to be the input ``u_t``.  Past the last input
    the state is rolled forward by ``A + b k'``: any horizon, without further weights.

    Parameters
    ----------
    channels : int
        Of the sequences; one state space each.
    kernel_dim : int, default 64
        Entries of each state.
    normalise : bool, default True
        Divide ``a``, ``b``, ``c`` and ``k`` each by the sum of its magnitudes.

    Notes
    -----
    Where the paper's code takes ``k`` as it is for the outputs and normalised for the roll-out, it is the same here.

    Examples
    --------
    >>> layer = ClosedLoop(4, kernel_dim=8)
    >>> layer(torch.zeros(2, 100, 4), horizon=30).shape
    torch.Size([2, 30, 4])
    """

    def __init__(self, channels: int, kernel_dim: int = 64, normalise: bool = True) -> None:
        super().__init__()
        if min(channels, kernel_dim) < 1:
            raise FewerError(f"closed loop: {channels} channels of {kernel_dim} states; both must be at least 1")
        self.normalise = normalise
        self.a, self.b, self.c, self.k = (nn.Parameter(torch.randn(channels, kernel_dim)) for _ in range(4))

    def forward(self, u: Sequence, horizon: int) -> Float[Tensor, "batch horizon channels"]:
        """Outputs at the ``horizon`` steps after the last input, the first of which open loop gives as well."""
        a, b, c, k = self._weights()
        return self._roll_out(u, a, b, k, c, horizon)

    def next_inputs(self, u: Sequence, horizon: int) -> Float[Tensor, "batch horizon channels"]:
        """The inputs that the layer tells itself at those steps."""
        a, b, _, k = self._weights()
        return self._roll_out(u, a, b, k, k, horizon)

    def open_loop(self, u: Sequence) -> tuple[Sequence, Sequence]:
        """At each step, from the inputs up to and with it: the output, and the next input, of the step after."""
        a, b, c, k = self._weights()
        kernels = self._kernels(a, b, torch.stack([c, k]), u.shape[1])
        outputs, inputs = causal_convolution(u.mT, kernels[:, None]).mT
        return outputs, inputs

    def state(self, u: Sequence) -> Float[Tensor, "batch channels dim"]:
        """The state after the last input."""
        a, b, _, _ = self._weights()
        return self._state(u.mT, a, b)

    def _weights(self) -> tuple[Tensor, ...]:
        weights = (self.a, self.b, self.c, self.k)
        return tuple(map(unit_sum, weights)) if self.normalise else weights

    def _kernels(self, a: Tensor, b: Tensor, rows: Tensor, length: int) -> Tensor:
        make = companion_kernel if self.normalise else krylov_kernel
        return make(a.expand_as(rows), b.expand_as(rows), rows, length)

    def _state(self, u: Float[Tensor, "batch channels length"], a: Tensor, b: Tensor) -> Tensor:
        """Only the last entry feeds back, so it is filtered over the whole length, and the state made of its last d values.

        ``x_t = S x_{t-1} + a s_{t-1} + b u_{t-1}`` with s the last entry, and the d-th power of the shift S is zero.
        """
        dim, length = a.shape[-1], u.shape[-1]
        last = torch.zeros_like(a)
        last[:, -1] = 1
        fed_back = causal_convolution(u, self._kernels(a, b, last, length))
        # entry t of fed_back is s_{t+1}, and s_0 is zero
        recent = pad(torch.stack([pad(fed_back, (1, -1)), u]), (dim, 0))[..., -dim:].flip(-1)
        return causal_convolution(recent, torch.stack([a, b])[:, None]).sum(dim=0)

    def _roll_out(self, u: Sequence, a: Tensor, b: Tensor, k: Tensor, row: Tensor, horizon: int) -> Tensor:
        loop = companion(a) + b[:, :, None] * k[:, None, :]
        # rows r', r'(A + bk'), …: made once for all sequences
        rows = krylov(loop.mT, row, horizon)
        return torch.einsum("bcd,cdh->bhc", self._state(u.mT, a, b), rows)


class Preprocessing(nn.Module):
    """Fixed filters, in groups of eight channels: differences of order 0 to 3, and four residuals of moving averages.

    Parameters
    ----------
    channels : int
        A multiple of eight.
    shortest, longest : int, default 4 and 64
        The windows of the moving averages are drawn between these when the layer is made.

    Examples
    --------
    >>> trend = torch.arange(10.0)[None, :, None].expand(1, 10, 8)
    >>> Preprocessing(8)(trend)[0, -1, :4].round(decimals=3).abs().tolist()
    [9.0, 1.0, 0.0, 0.0]
    """

    kernel: Tensor

    def __init__(self, channels: int, shortest: int = 4, longest: int = 64) -> None:
        super().__init__()
        if channels < 1 or channels % GROUP:
            raise FewerError(
                f"preprocessing: {channels} channels are not in groups of {GROUP}; give a multiple of {GROUP}"
            )
        if not 1 <= shortest <= longest:
            raise FewerError(f"preprocessing: windows from {shortest} to {longest}; give 1 <= shortest <= longest")
        groups, taps = channels // GROUP, max(longest, ORDERS)
        kernel = torch.zeros(groups, GROUP, taps)
        difference = torch.ones(1)
        for order in range(ORDERS):
            kernel[:, order, : order + 1] = difference
            difference = pad(difference, (0, 1)) - pad(difference, (1, 0))
        windows = torch.randint(shortest, longest + 1, (groups, ORDERS, 1))
        kernel[:, ORDERS:] = (torch.arange(taps) < windows) / -windows
        kernel[:, ORDERS:, 0] += 1
        self.register_buffer("kernel", kernel.reshape(channels, taps))

    def forward(self, u: Sequence) -> Sequence:
        """Filter each channel."""
        return causal_convolution(u.mT, self.kernel).mT


class SpaceTime(nn.Module):
    """The block: optional preprocessing, a companion state space, a position-wise layer, and two skips.

    ``z = preprocessing(u)``, ``y = ssm(z)``, ``output = z + y + linear(dropout(gelu(y)))``.

    Parameters
    ----------
    channels : int
        Of the sequences.
    kernel_dim : int, default 64
        Entries of each state.
    preprocess : bool, default False
        Begin with fixed filters in groups of eight channels, each group with one kernel; as in the first block of a stack.
    dropout : float, default 0.25
        Before the linear layer.

    Examples
    --------
    >>> SpaceTime(16, kernel_dim=8, preprocess=True)(torch.zeros(2, 100, 16)).shape
    torch.Size([2, 100, 16])
    """

    def __init__(self, channels: int, kernel_dim: int = 64, preprocess: bool = False, dropout: float = 0.25) -> None:
        super().__init__()
        self.preprocess = Preprocessing(channels) if preprocess else nn.Identity()
        self.ssm = CompanionSSM(channels, kernel_dim, kernels=channels // GROUP if preprocess else None)
        self.mix = nn.Sequential(nn.GELU(), nn.Dropout(dropout), nn.Linear(channels, channels))

    def forward(self, u: Sequence) -> Sequence:
        """Filter, mix and add."""
        z = self.preprocess(u)
        y = self.ssm(z)
        return z + y + self.mix(y)


def encoder(channels: int, kernel_dim: int, blocks: int, dropout: float) -> nn.Sequential:
    """A stack of blocks, the first of which preprocesses."""
    if blocks < 1 or not 0 <= dropout < 1:
        raise FewerError(f"spacetime: blocks must be at least 1 and dropout in [0, 1); they are {blocks} and {dropout}")
    return nn.Sequential(*(SpaceTime(channels, kernel_dim, block == 0, dropout) for block in range(blocks)))
