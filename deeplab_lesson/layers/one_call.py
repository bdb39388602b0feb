"""Functions that a symbolic trace keeps as one call."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from torch import fx

P = ParamSpec("P")
R = TypeVar("R")


def kept_as_one_call(function: Callable[P, R]) -> Callable[P, R]:
    """Let `torch.fx.symbolic_trace` write down a call of the function instead of running it.

    For functions that compute with sizes or look at numbers: a symbolic trace knows neither. `torch.fx.wrap` does so
    only in the module where the function is defined; this one also holds where the function is imported by its name.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, fx.Proxy):
                return cast(R, argument.tracer.create_proxy("call_function", call, args, kwargs))
        return function(*args, **kwargs)

    return call
