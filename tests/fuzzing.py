"""What all fuzzing shares: how many inputs, odd values, what an answer is, and a clock."""

from __future__ import annotations

import faulthandler
import functools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from opmerge.errors import InputError

__all__ = [
    "LONGEST",
    "HangError",
    "accepted",
    "answered",
    "damages",
    "finished",
    "fuzz",
    "numbers",
    "odd_values",
    "own_time",
    "within",
]

T = TypeVar("T")

LONGEST = 20.0
"""Seconds of its own in which any input is answered."""

_TOTAL = 100_000
_FEW = 12
_ASKED = os.environ.get("FUZZ_EXAMPLES")
_NEVER = (
    40 * LONGEST
)  # by the clock on the wall: code that returns to no Python, and so hears nothing

odd_numbers = st.sampled_from(
    ["0", "-1", "1e400", "-1e400", "nan", "inf", "1e-400", "1_0", "٣", "0x10", "1e5", " 7 ", ""]
)
numbers = st.one_of(
    st.integers(-3, 40).map(str), st.floats(0, 1e3).map(repr), st.floats().map(repr), odd_numbers
)
"""Words that are numbers, or nearly."""

odd_values: SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), numbers),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
"""JSON values of any type."""


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """What befalls a file: its end is missing, or some bytes are others, or more, or less."""
    place, length = draw(st.floats(0, 1)), draw(st.sampled_from([0, 0, 1, 1, 4, 30]))
    others, is_cut = draw(st.binary(max_size=8)), draw(st.sampled_from([False, False, True]))

    def damaged(content: bytes) -> bytes:
        here = round(place * len(content))
        return content[:here] + (b"" if is_cut else others + content[here + length :])

    return damaged


def fuzz(
    of_100_000: int, in_time: bool = True, **strategies: SearchStrategy[Any]
) -> Callable[[Any], Any]:
    """``given`` for a share of the inputs of ``make fuzz``, each of which is answered in time.

    FUZZ_EXAMPLES says how many inputs there are in all. An ordinary run tries a few, the same ones
    each time. A test that waits for other processes sees to their time itself.
    """
    few = min(_FEW, math.ceil(of_100_000 / 100))  # of what takes long there are less
    count = math.ceil(of_100_000 * int(_ASKED) / _TOTAL) if _ASKED else few
    options = settings(
        max_examples=count,
        derandomize=_ASKED is None,
        suppress_health_check=list(HealthCheck),
    )

    def decorate(test: Callable[..., None]) -> Any:
        @functools.wraps(test)
        def timed(*arguments: Any, **named: Any) -> None:
            with within(LONGEST):
                test(*arguments, **named)

        return pytest.mark.fuzz(options(given(**strategies)(timed if in_time else test)))

    return decorate


def accepted(read: Callable[[], T]) -> T | None:
    """What a call of Python's returns, or None where it refuses, in one line."""
    try:
        return read()
    except InputError as error:
        refusal = str(error)
    assert refusal
    assert "\n" not in refusal
    return None


def answered(result: tuple[int, str, str], says_more: bool = False) -> bool:
    """Whether there was an answer; a refusal is status 2, one line, and nothing else.

    Commands that read data or networks first may have said before what they found.
    """
    status, out, err = result
    assert "Traceback" not in err
    if status == 0:
        return True
    assert (status, out) == (2, ""), result
    assert [line for line in err.splitlines() if line.startswith("opmerge: ")] == err.splitlines()
    assert says_more or err.count("\n") == 1
    return False


def own_time(process: int | str = "self") -> float:
    """Seconds that pass for a process alone, without those in which others had its core.

    Its CPU time would not see a process that sleeps for good, on a pipe, a lock or an address that
    does not answer; the clock on the wall takes a busy machine for a hang. Linux counts how long a
    process's main thread stood ready and waited for a core; elsewhere the wall's clock counts.
    """
    try:
        waited = int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) * 1e-9
    except OSError:
        waited = 0.0
    return time.monotonic() - waited


class HangError(AssertionError):
    """An input took longer than any may."""


def finished(process: subprocess.Popen[Any], limit: float = LONGEST) -> int:
    """The status of a process, which is ended after so many seconds of its own."""
    start = own_time(process.pid)
    while own_time(process.pid) - start <= limit:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1)
    process.kill()
    raise HangError(f"over {limit:g} s: {process.args}")


@contextmanager
def within(limit: float) -> Iterator[None]:
    """What is inside is broken off, with its traceback, after so many seconds of its own.

    Code that does not return to Python, and so hears no signal, ends the whole process.
    """
    start = own_time()

    def check(*_: object) -> None:
        if own_time() - start > limit:
            raise HangError(f"over {limit:g} s")

    before = signal.signal(signal.SIGALRM, check)
    signal.setitimer(signal.ITIMER_REAL, limit, 1.0)
    faulthandler.dump_traceback_later(_NEVER, exit=True, file=sys.__stderr__)
    try:
        yield
        check()  # what was raised above may have been taken for a fault of the input
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
