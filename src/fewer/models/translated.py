"""Functions of tensors through ``torch.compile``, with one line for who has no compiler."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from fewer.core.errors import FewerError

SHAPES = 64
"""For how many shapes and settings a function is compiled in one process."""

F = TypeVar("F", bound=Callable[..., Any])


def translated(function: F) -> F:
    """Compile a function, once for each shape of what it is given; its first call of each takes seconds.

    Parameters
    ----------
    function : callable
        Of tensors, and of what does not change.

    Returns
    -------
    callable
        Gives the same but for rounding.  It raises a :class:`~fewer.core.errors.FewerError` if nothing can be compiled here.

    Examples
    --------
    >>> translated(torch.add) is translated(torch.add)
    True
    """
    return cast(F, _translated(function))


@functools.cache
def _translated(function: Callable[..., Any]) -> Callable[..., Any]:
    # what calls the translated pieces one after another is translated as well: in Python, that takes as long as small ones do
    settings: dict[str, Any] = {"dynamic": False, "options": {"cpp_wrapper": True}}
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        settings["recompile_limit"] = SHAPES  # beyond it, torch would go on with the function as it is written
    compiled = torch.compile(function, **settings)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        try:
            return compiled(*given, **named)
        except Exception as error:
            from torch._dynamo.exc import BackendCompilerFailed  # takes a second to import

            if not isinstance(error, BackendCompilerFailed):
                raise
            # of what the compiler has printed, the last line says what it misses
            said = str(error.inner_exception).strip().splitlines()
            raise FewerError(
                f"compiled networks: torch.compile fails here ({said[-1] if said else type(error.inner_exception).__name__}); "
                "install a C++ compiler, or leave compiled out"
            ) from error

    return call
