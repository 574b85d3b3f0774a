"""``python -m benchmarks.explorer``: how long a change in the explorer takes, seen in a browser.

Chromium changes one control after another of an explorer that runs in another process, at T = 64
and T = 256, with 256 eigenvalues. A change is timed in the page, from the request to the new
figures in the document: medians, of the first answer and of the whole search after it. Every view
is new to the explorer. Writes ``benchmarks/explorer.json`` and the table of docs/how_to/explore.md.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright

from benchmarks.__main__ import problem

RESULTS = Path(__file__).with_suffix(".json")
DOCUMENT = Path(__file__).parents[1] / "docs" / "how_to" / "explore.md"
MARK = "<!-- explorer times -->"
STEPS = (64, 256)
DIMENSIONS = 256
BUDGETS = ("1e7", "2e7", "3e7", "5e7", "8e7", "1.3e8", "2e8", "3e8", "5e8")
SCHEDULES = ("nichol-dhariwal", "linear", "scaled-linear", "cosine")
TIMES = ("2", "3", "4", "5", "8", "10", "15")


def changes(theory: str) -> list[tuple[str, str]]:
    """Controls with new values, the same ones at every T."""
    numbers = ("budget", BUDGETS) if theory == "law" else ("merge_time", TIMES)
    made = [(numbers[0], value) for value in numbers[1]]
    made += [("student_steps", value) for value in ("2", "3", "1")]
    return made + [("schedule", value) for value in SCHEDULES]


def timed(page: Page, name: str, value: str, wants_whole: bool) -> tuple[float, float]:
    """Seconds of the first answer, and of the whole search, after a change."""
    with page.expect_response(lambda response: "first=1" in response.url):
        if name == "schedule":
            page.locator("#schedule-choice").select_option(value)
        else:
            page.locator(f"#{name}").fill(value)
    first = whole = 0.0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state = page.locator("body").get_attribute("data-state")
        assert state != "refused", page.locator("#problem").text_content()
        if state in ("first", "whole") and not first:
            first = float(page.locator("body").get_attribute("data-milliseconds") or 0) / 1e3
            if not wants_whole:
                return first, whole
        if state == "whole":
            whole = float(page.locator("body").get_attribute("data-milliseconds") or 0) / 1e3
            return first, whole
        time.sleep(0.005)
    raise TimeoutError(name)


def measured(page: Page, place: str, spectrum: Path, steps: int, theory: str) -> dict[str, Any]:
    """Medians, and the slowest, over all changes."""
    page.goto(f"{place}?source={spectrum}&steps={steps}&theory={theory}&budget=4e7")
    timed(page, "student_steps", "4", wants_whole=True)  # kernels are compiled, tables in memory
    timed(page, "student_steps", "1", wants_whole=True)
    firsts, wholes = [], []
    for number, (name, value) in enumerate(changes(theory)):
        first, whole = timed(page, name, value, wants_whole=number % 3 == 0)
        firsts.append(first)
        wholes += [whole] if whole else []
    return {
        "steps": steps,
        "theory": theory,
        "changes": len(firsts),
        "first": statistics.median(firsts),
        "slowest_first": max(firsts),
        "whole": statistics.median(wholes),
    }


def run() -> list[dict[str, Any]]:
    """All rows, by an explorer of its own."""
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    words = [sys.executable, "-m", "opmerge.cli", "explore", "digits", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        spectrum = Path(folder) / "spectrum.npz"
        problem(STEPS[0], DIMENSIONS).spectrum.save(spectrum)
        process = subprocess.Popen([*words, "--no_browser"], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            place = process.stdout.readline().split()[2].partition("?")[0]
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            rows = [
                measured(page, place, spectrum, steps, theory)
                for theory in ("law", "linear")
                for steps in STEPS
            ]
            browser.close()
        finally:
            process.terminate()
            process.wait()
    return rows


def table(content: dict[str, Any]) -> str:
    """What docs/how_to/explore.md shows."""
    lines = [
        MARK,
        f"Seconds from a change to the new figures in Chromium, {DIMENSIONS} eigenvalues, medians, "
        f"on a shared machine with {content['cores']} cores; `python -m benchmarks.explorer` "
        "measures them.",
        "",
        "| forecast by | T | first answer | slowest of them | whole search |",
        "| --- | --- | --- | --- | --- |",
    ]
    names = {"law": "the law of merges", "linear": "the linear theory"}
    for row in content["rows"]:
        cells = [f"{row[key]:.2f}" for key in ("first", "slowest_first", "whole")]
        lines.append(f"| {names[row['theory']]} | {row['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    content = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    content["rows"] = run()
    RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(text.partition(MARK)[0] + table(content), encoding="utf-8")
    print(table(content))
