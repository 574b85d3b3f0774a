"""Standard output and error as the program needs them, whatever it was started with.

What a stream's encoding lacks is replaced, a stream that was closed is an empty one, and work goes
on when a reader closes early.
"""

from __future__ import annotations

import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_NARROWEST, _WIDEST = 40, 300  # COLUMNS may be 0, where it is of no terminal at all


class _Outlet(io.FileIO):
    """An open file descriptor that takes whatever is written to it once its reader has gone.

    One that is ``spare`` takes it too where it cannot be written, say on a full disk.
    """

    def __init__(self, handle: int, spare: bool) -> None:
        super().__init__(handle, "w", closefd=False)
        self._excused = OSError if spare else BrokenPipeError

    def write(self, data: Any) -> int:
        try:
            while (count := super().write(data)) is None:  # a pipe that is full and never waits
                select.select([], [self], [])
            return count
        except self._excused:
            _open_nowhere(self.fileno())
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Make standard input, output and error ones that cannot fail; for a process of our own."""
    for handle in range(3):
        try:
            os.fstat(handle)
        except OSError:  # or else the next file that is opened, maybe a result, would be it
            _open_nowhere(handle)
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)


def console(of_errors: bool = False) -> Console:
    """Standard output, or error, for what is laid out to the width of a terminal."""
    from rich.console import Console

    made = Console(stderr=of_errors)
    made.width = min(max(made.width, _NARROWEST), _WIDEST)
    return made


def discard(stream: TextIO) -> None:
    """Let what is left in a stream's buffer go nowhere: it must not be tried again at exit."""
    with suppress(OSError, ValueError):
        _open_nowhere(stream.fileno())


def _lasting(stream: TextIO | None, handle: int) -> TextIO:
    if isinstance(stream, io.TextIOWrapper) and stream.isatty():
        stream.reconfigure(errors="replace")
        return stream
    encoding = stream.encoding if stream is not None else "utf-8"
    by_line = handle == 2 or getattr(stream, "write_through", False)  # as python -u asks for
    outlet = io.BufferedWriter(_Outlet(handle, spare=handle == 2))
    return io.TextIOWrapper(outlet, encoding, errors="replace", line_buffering=by_line)


def _open_nowhere(handle: int) -> None:
    """Make a file descriptor one of the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != handle:
        os.dup2(nowhere, handle)
        os.close(nowhere)
