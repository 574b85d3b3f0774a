"""Progress of long work on standard error: a bar with the time left, or lines where none fits."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from opmerge.cli.streams import console
from opmerge.clock import Report
from opmerge.launcher import is_first

_SECONDS_BETWEEN_LINES = 20.0
_MANY_HOURS = 100


def say(line: str) -> None:
    """One line on standard error, from the first of several processes alone."""
    if is_first():
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
def progress_bar(title: str, total: float | None = None, begun_at: float = 0.0) -> Iterator[Report]:
    """A bar of ``total`` units of work, with the time that is left; or a count, without a total.

    The first of several processes alone shows it. Where standard error is no terminal (a log, a
    pipe) a line is written every 20 seconds. The units before ``begun_at``, of an earlier run, say
    nothing of this one's speed.
    """
    if not is_first():
        yield lambda done, doing="": None
        return
    if not sys.stderr.isatty():
        yield _lines(title, total, begun_at)
        return
    from rich import progress

    name, elapsed = progress.TextColumn("{task.description}"), progress.TimeElapsedColumn()
    columns: tuple[str | progress.ProgressColumn, ...] = (progress.SpinnerColumn(), name, elapsed)
    if total is not None:
        share = progress.BarColumn(), progress.TaskProgressColumn()
        columns = (name, *share, elapsed, "left:", progress.TimeRemainingColumn())
    with progress.Progress(*columns, console=console(of_errors=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        bar.update(task, completed=begun_at)

        def report(done: float, doing: str = "") -> None:
            count = f"{done:,.0f}" if total is None else ""
            what = ": ".join(filter(None, (title, doing, count)))
            bar.update(task, completed=done, description=what)

        yield report


@contextmanager
def bars_in_turn(are_named: bool = False) -> Iterator[Callable[[str, float, float], None]]:
    """A callback for what is being done, how much of it is done and of how much; bars in turn.

    Where there are lines instead, each begins with one if they ``are_named``: of long work.
    """
    with ExitStack() as shown:
        doing = ""
        report: Report

        def switch(what: str, done: float, total: float) -> None:
            nonlocal doing, report
            if what != doing:
                shown.close()
                doing = what
                if are_named and not sys.stderr.isatty():
                    say(what)
                report = shown.enter_context(progress_bar(what, total))
            report(done)

        yield switch


def _lines(title: str, total: float | None, begun_at: float) -> Report:
    """Progress as lines, at most one in 20 seconds."""
    begin = last = time.monotonic()

    def report(done: float, doing: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES or done <= begun_at:
            return
        last = now
        if total is None:
            state = f"{done:,.0f} in {duration(now - begin)}"
        else:
            left = (now - begin) * (total - done) / (done - begun_at)
            state = f"{done / total:.0%}, about {duration(left)} left"
        print(": ".join(filter(None, (title, doing, state))), file=sys.stderr, flush=True)

    return report


def duration(seconds: float) -> str:
    """``m:ss`` or ``h:mm:ss``, and of many hours the days."""
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= _MANY_HOURS:
        return f"{hours / 24:,.0f} days"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
