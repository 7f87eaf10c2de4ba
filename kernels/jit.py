"""The one decorator of jitted loops: compiled on first use, kept on disk beside the source.

No fastmath, so that the same loop gives the same bits with NUMBA_DISABLE_JIT=1. A jitted function may only call jitted
functions of its own file: numba's disk cache does not notice a change in another one.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """The compiled function, with the type of the plain one. Takes positional arguments."""
    return cast(F, numba.njit(cache=True)(function))
