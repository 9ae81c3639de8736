"""Work in two steps, of which another thread may take the second."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

_Result = TypeVar("_Result")


def begin(steps: Generator[None, None, _Result]) -> Callable[[], _Result]:
    """Take the first step now.

    Args:
        steps: yields once, between the two; or not at all, where the first step is all there is to do.

    Returns:
        The second step, to be called once; gives what the generator returns.
    """
    try:
        next(steps)
    except StopIteration as end:
        result: _Result = end.value
        return lambda: result

    def rest() -> _Result:
        try:
            next(steps)
        except StopIteration as end:
            result: _Result = end.value
            return result
        raise AssertionError("there were more than two steps")

    return rest
