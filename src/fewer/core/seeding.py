"""Random numbers: every stream comes from one seed, and streams do not depend on one another.

A run has one integer seed.  Each consumer asks for a generator by name, so that adding a consumer,
or drawing more in one of them, leaves the draws of all the others as they were.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for a named stream.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str or int
        The stream, ``"query"`` or ``("model", 3)``.

    Returns
    -------
    int
        In ``[0, 2**63)``; equal arguments give equal seeds on every machine.

    Examples
    --------
    >>> derive(0, "query") == derive(0, "query")
    True
    >>> derive(0, "query") == derive(1, "query")
    False
    """
    text = "\x1f".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Give the NumPy generator of a named stream (see :func:`derive`)."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def torch_generator(seed: int, *names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Give the torch generator of a named stream (see :func:`derive`)."""
    made = torch.Generator(device=device)
    made.manual_seed(derive(seed, *names))
    return made
