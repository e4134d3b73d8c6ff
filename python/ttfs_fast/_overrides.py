"""Functions that objects with ``__torch_function__`` can override, like torch's own functions."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Let arguments with a ``__torch_function__`` take over a call.

    torch.fx passes stand-ins without a shape or values: they record the call as one step of the
    graph, where the function itself would look at them.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, *kwargs.values())
        if has_torch_function(given):
            result: R = handle_torch_function(call, given, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call
