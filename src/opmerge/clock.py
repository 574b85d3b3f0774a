"""How long a search may take: said by whoever waits for it, asked by the loops deep inside it.

>>> with time_limit(60.0):
...     for number in range(3):
...         tick("counting", number)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol, TypeVar

PLAN_SHARE = 0.7
"""Of the time of a search, for the plan; what is left, for what stands beside it."""

_ANSWER_SHARE = 0.2  # of the seconds for an answer, for what follows the search
_ANSWER_SECONDS = 4.0  # of a processor, for a record and its page

Item = TypeVar("Item")
Tell = Callable[[float, str], object]
"""Hears how much is done, and of what."""


class Report(Protocol):
    """Called with the units of work that are done so far, and what is being done."""

    def __call__(self, done: float, doing: str = "") -> None: ...


class TimeUpError(Exception):
    """A search did not end in its time; who set the limit, or a caller in between, answers."""


class AbandonedError(Exception):
    """Nobody waits for a search any more: nothing is made of what it has found."""


@dataclass(frozen=True)
class _Limit:
    deadline: float = math.inf
    tell: Tell | None = None
    is_over: Callable[[], bool] | None = None


# of the command, or else of this import: on the wall, and of processors
_BEGUN = ContextVar("begun", default=(time.monotonic(), time.process_time()))
_LIMIT: ContextVar[_Limit] = ContextVar("limit", default=_Limit())  # noqa: B039 - it is frozen


def begin() -> None:
    """A command begins: what ``searching_seconds`` are counted from."""
    _BEGUN.set((time.monotonic(), time.process_time()))


def searching_seconds(seconds: float) -> float:
    """Of the seconds for the answer of a command, those that a search which begins now may take.

    That is what is left of them but for ``_ANSWER_SHARE``, or what writing an answer takes at the
    pace of the machine so far, and half of the seconds at least.
    """
    begun_at, busy_at = _BEGUN.get()
    wall, busy = time.monotonic() - begun_at, time.process_time() - busy_at
    pace = max(1.0, wall / max(busy, 1e-3))
    answer = max(_ANSWER_SHARE * seconds, _ANSWER_SECONDS * pace)
    return max(seconds - wall - answer, 0.5 * seconds)


@contextmanager
def time_limit(
    seconds: float = math.inf,
    tell: Tell | None = None,
    is_over: Callable[[], bool] | None = None,
) -> Iterator[None]:
    """Loops inside that ``tick`` end by ``TimeUpError`` once the seconds have passed, or those of a
    limit around this one; ``tell`` hears of each, or else that of the limit around. By
    ``AbandonedError`` they end once it ``is_over`` for whoever waits, in here or in a limit
    inside."""
    around = _LIMIT.get()
    deadline = min(around.deadline, time.monotonic() + seconds)
    token = _LIMIT.set(_Limit(deadline, tell or around.tell, is_over or around.is_over))
    try:
        yield
    finally:
        _LIMIT.reset(token)


@contextmanager
def unlimited() -> Iterator[None]:
    """What is inside must be done, whatever the time."""
    token = _LIMIT.set(_Limit())
    try:
        yield
    finally:
        _LIMIT.reset(token)


def seconds_left() -> float:
    """Until the time is up; infinity without a limit."""
    return _LIMIT.get().deadline - time.monotonic()


def tick(doing: str = "", done: float = 0.0, needs: float = 0.0) -> None:
    """Say how far a loop is, and leave it where the time is up.

    Raises:
        TimeUpError: if no more than the seconds that what follows ``needs`` are left.
        AbandonedError: if nobody waits for it.
    """
    limit = _LIMIT.get()
    if limit.tell is not None and doing:
        limit.tell(done, doing)
    still_wanted()
    if time.monotonic() + needs > limit.deadline:
        raise TimeUpError


def still_wanted() -> None:
    """Leave a loop, whatever its time, that nobody waits for any more.

    Raises:
        AbandonedError: if so.
    """
    is_over = _LIMIT.get().is_over
    if is_over is not None and is_over():
        raise AbandonedError


def while_time(items: Iterable[Item], doing: str = "") -> Iterator[Item]:
    """The first item in any case, and those after it until the time is up."""
    for number, item in enumerate(items, start=1):
        yield item
        try:
            tick(doing, number)
        except TimeUpError:
            return
