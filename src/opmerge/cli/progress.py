"""Progress of long work on standard error: a bar with the time left, or lines where none fits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Advance", "duration", "progress_bar"]

_SECONDS_BETWEEN_LINES = 20.0


class Advance(Protocol):
    """Says how much more work is done, and what is being done."""

    def __call__(self, work: float, doing: str = "") -> None: ...


@contextmanager
def progress_bar(title: str, total: float, enabled: bool = True) -> Iterator[Advance]:
    """A bar of ``total`` units of work, with the time that is left.

    Where standard error is no terminal (a log, a pipe) a line is written every 20 seconds.

    Args:
        title: what the work is.
        total: units of work.
        enabled: whether anything is shown, such as on the main process alone.
    """
    if not enabled:
        yield lambda work, doing="": None
    elif sys.stderr.isatty():
        with _bar(title, total) as advance:
            yield advance
    else:
        yield _Lines(title, total)


@contextmanager
def _bar(title: str, total: float) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)

        def advance(work: float, doing: str = "") -> None:
            bar.update(task, advance=work, description=f"{title}: {doing}" if doing else title)

        yield advance


class _Lines:
    """Progress as lines, at most one in 20 seconds."""

    def __init__(self, title: str, total: float) -> None:
        self._title, self._total, self._done = title, total, 0.0
        self._begin = self._last = time.monotonic()

    def __call__(self, work: float, doing: str = "") -> None:
        self._done += work
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES or self._done <= 0:
            return
        self._last = now
        left = (now - self._begin) * (self._total / self._done - 1)
        what = f"{self._title}: {doing}" if doing else self._title
        share = self._done / self._total
        print(f"{what}: {share:.0%}, about {duration(left)} left", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
