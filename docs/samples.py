"""Draw the samples of the README: ``python docs/samples.py FOLDER`` writes docs/samples.png.

A teacher of digits and its students for two budgets are trained in the folder, which takes three
minutes of one core; what is there already is taken as it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from opmerge.cli import main as opmerge
from opmerge.files import write_atomic
from opmerge.plotting import figure_png, figure_style

STEPS, COLUMNS, SEED = 32, 12, 4
BUDGETS = ("1e5", "1e6")


def call(*words: object) -> None:
    """Run a command of opmerge."""
    if status := opmerge([str(word) for word in words]):
        raise SystemExit(status)


def samples(model: Path, output: Path, *more: object) -> np.ndarray:
    """(COLUMNS, 8, 8) samples of a model, of the same noise for each."""
    call("sample", model, "--num_samples", COLUMNS, "--seed", SEED, "--output", output, *more)
    found: np.ndarray = np.load(output)[:, 0]
    return found


def drawn(rows: dict[str, np.ndarray]) -> bytes:
    """A PNG of samples, a row of them under each of some words."""
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(6.4, 0.77 * len(rows)), layout="constrained")
        for axes, (words, images) in zip(figure.subplots(len(rows)), rows.items(), strict=True):
            apart = np.pad(images, ((0, 0), (0, 0), (0, 1)), constant_values=1)
            axes.imshow(np.hstack([*apart])[:, :-1], cmap="gray", vmin=-1, vmax=1)
            axes.set_title(words, loc="left", fontsize=9.0)
            axes.set_axis_off()
    return figure_png(figure)


def main(folder: Path) -> None:
    """Train what is not there yet, and draw."""
    teacher = folder / "teacher" / "teacher"
    if not teacher.exists():
        on = ("--output_dir", teacher.parent, "--resume_from_checkpoint", "latest")
        call("train-teacher", "digits", "--num_iterations", 6000, *on)
    drawn_by_teacher = samples(teacher, folder / "teacher.npy", "--steps", STEPS)
    rows = {f"teacher, {STEPS} steps": drawn_by_teacher}
    for budget in BUDGETS:
        run = folder / budget
        asked = ("--steps", STEPS, "--budget", budget, "--max_seconds", 600, "--output_dir", run)
        if not (run / "record.json").exists():
            call("run", "digits", "--teacher", teacher, *asked)
        student = samples(run / "students" / "plan" / "student", folder / f"{budget}.npy")
        trained = json.loads((run / "record.json").read_text(encoding="utf-8"))["trained"]
        error = trained[0]["measured"]["value"]
        rows[f"student, 1 step, for {float(budget):,.0f} evaluations: error {error:.2f}"] = student
    write_atomic(Path(__file__).with_name("samples.png"), drawn(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
