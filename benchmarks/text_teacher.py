"""``python -m benchmarks.text_teacher FOLDER``: a text teacher, the whole way, by the commands.

The small Stable Diffusion of ``benchmarks.tiny_stable_diffusion`` is trained where the folder has
none yet; then come prepare, plan --budget, distill in four ways for each budget, evaluate-student,
and images by diffusers as the student's README says. Written to ``text_teacher.json``. Finished
students are kept in the folder: the same command goes on behind them.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from benchmarks.tiny_stable_diffusion import CAPTIONS, DIGITS, SIDE, digit_images
from benchmarks.tiny_stable_diffusion import main as make_teacher
from opmerge.cli import main as opmerge
from opmerge.data import digits_labels

RESULTS = Path(__file__).with_name("text_teacher.json")
STEPS, STUDENT_STEPS, SCALE, BATCH, NUM_SAMPLES = 16, 2, 3, 32, 300
BUDGETS = ("3e3", "8e3", "24e3", "72e3")
WAYS: dict[str, tuple[str, ...]] = {
    "a network a step": (),
    "one network": ("--one_network",),
    "an adapter a step, r = 8": ("--lora_rank", "8", "--learning_rate", "3e-3"),
    "one adapter, r = 8": ("--lora_rank", "8", "--learning_rate", "3e-3", "--one_network"),
}
PROMPTS = [caption.format(digit) for caption in CAPTIONS for digit in DIGITS] * 4


def main(folder: Path) -> None:
    """Make what is not there, go the way for each budget, write the results and print them."""
    torch.set_num_threads(1)
    teacher, data = folder / "teacher", folder / "data"
    if not teacher.is_dir():
        make_teacher(folder)
    command("prepare", folder / "images", "--teacher", teacher, "--output_dir", data)
    as_taught = ("--teacher", teacher, "--steps", STEPS, "--student_steps", STUDENT_STEPS)
    guided = ("--guidance_scale", SCALE, "--train_batch_size", BATCH)
    students, plan = [], folder / "plan"  # which keeps the teacher's table
    for budget in BUDGETS:
        command("plan", data, *as_taught, *guided, "--budget", budget, "--output_dir", plan)
        for number, (way, options) in enumerate(WAYS.items()):
            told = distilled(folder / f"run-{budget}-{number}", teacher, plan, options)
            students.append({"budget": float(budget), "way": way, **told})
            print(json.dumps(students[-1]), flush=True)
    pipeline = DiffusionPipeline.from_pretrained(teacher)
    asked = {"num_inference_steps": STEPS, "guidance_scale": float(SCALE)}
    read = read_as_told(images_of(pipeline, **asked))
    results = {
        **{"steps": STEPS, "student_steps": STUDENT_STEPS, "guidance_scale": SCALE},
        **{"num_samples": NUM_SAMPLES, "batch": BATCH, "num_images": len(PROMPTS)},
        "teacher_read_as_told": read,
        "students": students,
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def distilled(run: Path, teacher: Path, plan: Path, options: tuple[str, ...]) -> dict[str, Any]:
    """What a student of a plan is forecast and measured to leave, and what its images show."""
    data, file, student = run.parent / "data", plan / "plan.json", run / "student"
    kept = run / "result.json"
    if kept.is_file():
        known: dict[str, Any] = json.loads(kept.read_text())
        return known
    quick = ("--train_batch_size", BATCH, "--checkpointing_steps", 0, "--output_dir", run)
    command("distill", data, "--teacher", teacher, "--plan", file, *quick, *options)
    measured = ("--source", data, "--num_samples", NUM_SAMPLES, "--num_resamples", 0, "--json")
    found = json.loads(command("evaluate-student", student, "--teacher", teacher, *measured))
    predicted = json.loads(file.read_text())["predicted"]
    result = {
        "forecast": {key: predicted[key] for key in ("paired_rms", "low", "high")},
        "measured": found["paired_rms"],
        "read_as_told": read_as_told(student_images(student, teacher)),
    }
    kept.write_text(json.dumps(result) + "\n")
    return result


def command(*words: object) -> str:
    """What a command of opmerge prints on standard output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = opmerge([str(word) for word in words])
    if status:
        raise SystemExit(status)
    return printed.getvalue()


def student_images(folder: Path, teacher: Path) -> list[Any]:
    """Images of a student, by what the README in its folder says."""
    text = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {"FOLDER": folder, "TEACHER": teacher, "PROMPT": PROMPTS}
    torch.manual_seed(0)
    exec(compile(code, f"{folder}/README.md", "exec"), names)
    images: list[Any] = names["images"]
    return images


def images_of(pipeline: Any, **asked: Any) -> list[Any]:
    """Images of a pipeline for all prompts, from the same noise as a student's."""
    torch.manual_seed(0)
    images: list[Any] = pipeline(PROMPTS, **asked).images
    return images


def read_as_told(images: list[Any]) -> float:
    """The share of images whose nearest digit of the data is of the class that was asked for."""
    grey = np.stack([np.asarray(each.convert("L"), dtype=np.float64) for each in images])
    rows, known = grey.reshape(-1, SIDE**2) / 127.5 - 1, digit_images().reshape(-1, SIDE**2)
    squares = (known**2).sum(1) - 2 * rows @ known.T
    nearest = digits_labels()[squares.argmin(1)]
    return float((nearest == np.arange(len(images)) % len(DIGITS)).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
