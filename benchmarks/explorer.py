"""``python -m benchmarks.explorer``: processor seconds of the explorer's first answers.

One control after another is changed, at T = 64 and T = 256, with 256 eigenvalues; what is timed is
the first answer with its four figures as HTML, of views that are new to the explorer. Processor
time is that of one core, and nearly the same whatever else the machine does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.__main__ import problem
from opmerge.explorer.answers import answer
from opmerge.explorer.page import fragment
from opmerge.explorer.view import View

STEPS = (64, 256)
DIMENSIONS = 256
CHANGES: dict[str, list[dict[str, Any]]] = {
    "law": [
        {"student_steps": 1},
        {"budget": "8e7"},
        {"budget": "2e8"},
        {"student_steps": 4},
        {"schedule": "linear"},
        {"budget": "1e7"},
    ],
    "linear": [
        {"student_steps": 1},
        {"merge_time": 3.0},
        {"merge_time": 10.0},
        {"student_steps": 4},
        {"schedule": "linear"},
    ],
}


def seconds(view: View) -> float:
    """Of the processor, for the first answer to a view."""
    began = time.process_time()
    fragment(answer(view, is_first=True))
    return time.process_time() - began


def main() -> None:
    """Print the table that docs/how_to/explore.md shows."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "spectrum.npz"
        problem(STEPS[0], DIMENSIONS).spectrum.save(source)
        print("| forecast by | T | median | slowest |\n| --- | --- | --- | --- |")
        for theory, changes in CHANGES.items():
            view = View(source=str(source), theory=theory, budget="4e7")  # type: ignore[arg-type]
            seconds(view.replaced(steps=16))  # compiles the kernels
            for steps in STEPS:
                found = [seconds(view.replaced(steps=steps, **change)) for change in changes]
                median, slowest = statistics.median(found), max(found)
                print(f"| {theory} | {steps} | {median:.2f} | {slowest:.2f} |")


if __name__ == "__main__":
    main()
