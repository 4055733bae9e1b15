"""Functions that stand beside the specification's, with its signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

Function = TypeVar("Function", bound=Callable[..., Any])


def like(specification: Function) -> Callable[[Callable[..., Any]], Function]:
    """Give a function the types and the docstring of the specification's, whose parameters it has."""

    def typed(function: Any) -> Any:
        function.__annotations__ = get_type_hints(specification)
        function.__doc__ = specification.__doc__
        return function

    return typed
