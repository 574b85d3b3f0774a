"""What fuzzing judges by: it hears a wrong answer, and a hang, but no busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fuzzing import HangError, answered, finished, own_time, within

SPINS = "while True: pass"
SLEEPS = "import time; time.sleep(300)"


def test_the_oracle_hears_a_wrong_answer() -> None:
    for wrong in (
        (2, "", "Traceback (most recent call last):\n"),
        (2, "half an answer", "opmerge: refused\n"),
        (2, "", "opmerge: refused\nand more\n"),
        (1, "", "opmerge: refused\n"),
    ):
        with pytest.raises(AssertionError):
            answered(wrong)


def test_a_hang_is_broken_off_whether_it_works_or_waits() -> None:
    def spin() -> None:
        while True:
            pass

    for hang in (spin, lambda: time.sleep(300)):
        with pytest.raises(HangError), within(0.2):
            hang()


def test_a_hang_that_the_input_is_blamed_for_is_one_all_the_same() -> None:
    def blames() -> None:
        with suppress(Exception):  # as of a damaged image
            time.sleep(300)

    with pytest.raises(HangError), within(0.2):
        blames()


@pytest.mark.parametrize("program", [SPINS, SLEEPS])
def test_a_process_that_hangs_is_ended(program: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", program])
    with pytest.raises(HangError):
        finished(process, limit=0.5)
    assert process.wait() != 0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="not counted here")
def test_the_time_that_others_have_the_core_is_left_out() -> None:
    """Two processes that share one core have, together, its time and not twice of it."""
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
    pair = [subprocess.Popen([sys.executable, "-c", f"{code}\n{SPINS}"]) for _ in range(2)]
    try:
        time.sleep(0.5)  # both have started
        before, began = [own_time(each.pid) for each in pair], time.monotonic()
        time.sleep(2)
        own = sum(own_time(each.pid) - start for each, start in zip(pair, before, strict=True))
        assert own < 1.5 * (time.monotonic() - began)
    finally:
        for each in pair:
            each.kill()
            each.wait()
