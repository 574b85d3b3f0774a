"""``python -m benchmarks.explorer``: how long the explorer's page takes to follow its controls.

One control after another is changed in Chromium, at T = 64 and T = 256, with 256 eigenvalues and
views that are new to the explorer. What is timed is from the change to the page that shows the
first answer with its four figures; the whole search for the view before is under way then, as it
is where somebody tries one thing after another, and is broken off. Beside it, the processor time
of such an answer without a browser, which is nearly the same whatever else the machine does.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.__main__ import problem
from opmerge.explorer.answers import answer
from opmerge.explorer.page import fragment
from opmerge.explorer.view import View

STEPS = (64, 256)
DIMENSIONS = 256
PAUSE = 0.4  # seconds after an answer, in which the whole search begins
CHANGES: dict[str, list[tuple[str, Any]]] = {
    "law": [
        ("student_steps", 1),
        ("budget", "8e7"),
        ("budget", "2e8"),
        ("student_steps", 4),
        ("budget", "1e8"),
        ("budget", "3e7"),
        ("student_steps", 8),
        ("budget", "5e7"),
        ("student_steps", 2),
        ("budget", "1e7"),
    ],
    "linear": [
        ("student_steps", 1),
        ("merge_time", 3.0),
        ("merge_time", 10.0),
        ("student_steps", 4),
        ("merge_time", 5.0),
        ("merge_time", 1.0),
        ("student_steps", 8),
        ("merge_time", 2.0),
        ("student_steps", 2),
        ("merge_time", 12.0),
    ],
}
CHANGE = """([id, value]) => new Promise((resolve) => {
  const before = document.getElementById("shown");
  const began = performance.now();
  const watch = new MutationObserver(() => {
    if (document.getElementById("shown") === before) return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
  });
  watch.observe(before.parentNode, { childList: true });
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
})"""


def processor_seconds(view: View) -> float:
    """Of one core, for the first answer to a view and its figures as HTML."""
    began = time.process_time()
    fragment(answer(view, is_first=True))
    return time.process_time() - began


@contextmanager
def served(source: Path) -> Iterator[str]:
    """The address of ``opmerge explore SOURCE``."""
    words = [sys.executable, "-m", "opmerge.cli", "explore", str(source), "--port", "0"]
    told = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "env": {**os.environ, "PYTHONUNBUFFERED": "1"},
    }
    with subprocess.Popen([*words, "--no_browser"], text=True, **told) as process:  # type: ignore[call-overload]
        words = process.stdout.readline().split()
        yield next(word for word in words if word.startswith("http://"))
        process.terminate()


def milliseconds(page: Any, changes: list[tuple[str, Any]]) -> list[float]:
    """From each change to the page that shows its answer."""
    found = []
    for name, value in changes:
        time.sleep(PAUSE)
        found.append(page.evaluate(CHANGE, [name, str(value)]))
    return found


def main() -> None:
    """Print the table that docs/how_to/explore.md shows."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        source = Path(folder) / "spectrum.npz"
        problem(STEPS[0], DIMENSIONS).spectrum.save(source)
        browser = driver.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox"]
        )
        print("| forecast by | T | least | median | slowest | of it one core |")
        print("| --- | --- | --- | --- | --- | --- |")
        with served(source) as address:
            for theory, changes in CHANGES.items():
                view = View(source=str(source), theory=theory, budget="4e7")  # type: ignore[arg-type]
                processor_seconds(view.replaced(steps=16))  # compiles the kernels
                for steps in STEPS:
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.goto(f"{address}&theory={theory}&steps={steps}&budget=4e7")
                    wall = milliseconds(page, changes)
                    page.close()
                    core, now = [], view.replaced(steps=steps)
                    for name, value in changes:
                        now = now.replaced(**{name: value})
                        core.append(1000 * processor_seconds(now))
                    shown = [min(wall), statistics.median(wall), max(wall), statistics.median(core)]
                    print(
                        f"| {theory} | {steps} | "
                        + " | ".join(f"{each:.0f}" for each in shown)
                        + " |"
                    )
        browser.close()
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
