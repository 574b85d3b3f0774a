"""The environment is not ours: what machines, shells and notebooks set is survived or refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Program = Callable[..., subprocess.CompletedProcess[str]]
Seen = Callable[[str, object, object], None]


def test_no_threads_for_numba_is_no_traceback(program: Program, seen: Seen) -> None:
    done = program("plan", "digits", "--steps", "8", env={"NUMBA_NUM_THREADS": "0"})
    seen("NUMBA_NUM_THREADS=0", "exit 0", f"exit {done.returncode}")
    assert done.returncode == 0
