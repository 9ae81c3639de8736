"""Work in steps, each of which another thread may take; and items that are made ready in a thread, one ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class PutAsideError(Exception):
    """Thrown into steps that are not to go on."""


class Steps(Generic[_Result]):
    """A generator that yields between its steps, and its result.

    Args:
        steps: the generator. A ``PutAsideError`` can come from its first ``yield``.
    """

    def __init__(self, steps: Generator[None, None, _Result]) -> None:
        self._steps = steps
        self._ended = False
        self._result: _Result | None = None

    def advance(self) -> None:
        """Take the next step, if there is one."""
        self._take(lambda: next(self._steps))

    def finish(self) -> _Result:
        """Take all steps that are left."""
        while not self._ended:
            self.advance()
        return cast("_Result", self._result)

    def put_aside(self) -> _Result:
        """End after the first step."""
        self._take(lambda: self._steps.throw(PutAsideError()))
        return self.finish()

    def _take(self, step: Callable[[], None]) -> None:
        if self._ended:
            return
        try:
            step()
        except StopIteration as end:
            self._ended, self._result = True, end.value


class Ahead(Generic[_Item]):
    """Gives items one by one, and makes the next one ready in a thread meanwhile; the first one from the beginning on.

    Args:
        items: what makes them.
        beside: called while the first one is made ready; what it raises ends the whole.
        give_up: called then: the thread, which is not waited for, must not wait for what is not to come.
    """

    def __init__(
        self,
        items: Iterator[_Item],
        beside: Callable[[], object] = lambda: None,
        give_up: Callable[[], object] = lambda: None,
    ) -> None:
        self._items = items
        self._beside = beside
        self._give_up = give_up

    def __enter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1)
        try:
            self._waiting: Future[_Item | None] = self._thread.submit(next, self._items, None)
            self._beside()
        except BaseException:
            self._give_up()
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[_Item]:
        while (found := self._waiting.result()) is not None:
            self._waiting = self._thread.submit(next, self._items, None)
            yield found
