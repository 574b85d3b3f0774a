"""Progress of long work on standard error: a bar with the time left, or lines where none fits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

_SECONDS_BETWEEN_LINES = 20.0


class Report(Protocol):
    """Says how much of the work is done so far, and what is being done."""

    def __call__(self, done: float, doing: str = "") -> None: ...


def say(line: str) -> None:
    """One line on standard error, from the first of several processes alone."""
    if os.environ.get("RANK", "0") == "0":  # as torchrun and accelerate number them
        print(f"opmerge: {line}", file=sys.stderr, flush=True)


@contextmanager
def resumable(how: str, checkpoints: Path | None = None) -> Iterator[None]:
    """Says how the work goes on if Ctrl-C stops it; if by checkpoints, once one is there."""
    try:
        yield
    except KeyboardInterrupt:
        if checkpoints is None or any(checkpoints.glob("checkpoint-*")):
            say(f"what is finished is kept; {how} goes on from there")
        raise


@contextmanager
def progress_bar(
    title: str, total: float | None = None, enabled: bool = True, begun_at: float = 0.0
) -> Iterator[Report]:
    """A bar of ``total`` units of work, with the time that is left; or a count, without a total.

    Where standard error is no terminal (a log, a pipe) a line is written every 20 seconds.

    Args:
        title: what the work is.
        total: units of work; ``None`` if nobody knows.
        enabled: whether anything is shown, such as on the main process alone.
        begun_at: units that were done by an earlier run, and say nothing of this one's speed.
    """
    if not enabled:
        yield lambda done, doing="": None
    elif sys.stderr.isatty():
        with _bar(title, total, begun_at) as report:
            yield report
    else:
        yield _Lines(title, total, begun_at)


@contextmanager
def bars_in_turn(enabled: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for what is being done, how much of it is done and of how much; bars in turn."""
    with ExitStack() as shown:
        doing = ""
        report: Report

        def switch(what: str, done: int, total: int) -> None:
            nonlocal doing, report
            if what != doing:
                shown.close()
                doing = what
                report = shown.enter_context(progress_bar(what, total, enabled))
            report(done)

        yield switch


@contextmanager
def _bar(title: str, total: float | None, begun_at: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    name, elapsed = TextColumn("{task.description}"), TimeElapsedColumn()
    columns = (
        (SpinnerColumn(), name, elapsed)
        if total is None
        else (name, BarColumn(), TaskProgressColumn(), elapsed, "left:", TimeRemainingColumn())
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        bar.update(task, completed=begun_at)

        def report(done: float, doing: str = "") -> None:
            count = f"{done:,.0f}" if total is None else ""
            what = ": ".join(filter(None, (title, doing, count)))
            bar.update(task, completed=done, description=what)

        yield report


class _Lines:
    """Progress as lines, at most one in 20 seconds."""

    def __init__(self, title: str, total: float | None, begun_at: float) -> None:
        self._title, self._total, self._begun_at = title, total, begun_at
        self._begin = self._last = time.monotonic()

    def __call__(self, done: float, doing: str = "") -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES or done <= self._begun_at:
            return
        self._last = now
        what = f"{self._title}: {doing}" if doing else self._title
        print(f"{what}: {self._state(done, now - self._begin)}", file=sys.stderr, flush=True)

    def _state(self, done: float, seconds: float) -> str:
        if self._total is None:
            return f"{done:,.0f} in {duration(seconds)}"
        left = seconds * (self._total - done) / (done - self._begun_at)
        return f"{done / self._total:.0%}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
