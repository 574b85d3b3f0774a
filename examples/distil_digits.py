"""Train a small teacher, execute two plans on it, and set predicted beside measured error.

python examples/distil_digits.py [ITERATIONS PER MERGE]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from opmerge import Problem, build_strategy, diffusers_schedule, evaluate, resolve_spectrum
from opmerge.data import SourceOptions, open_source
from opmerge.denoisers.inputs import load_samples
from opmerge.denoisers.teacher_training import TeacherConfig, train_teacher
from opmerge.distillation import (
    DataInputs,
    Distillation,
    DistillationConfig,
    load_teacher,
    make_accelerator,
    save_student,
)
from opmerge.measure.evaluation import evaluate_student

STEPS = 8


def main(folder: Path, iterations: int) -> None:
    data = load_samples(open_source("digits", SourceOptions()), (1, 8, 8))
    settings = TeacherConfig(hidden_size=64, num_iterations=10 * iterations)
    accelerator = make_accelerator(settings.optimization)
    for _ in train_teacher(settings, data, None, accelerator, folder):
        pass
    teacher = load_teacher(folder / "teacher", STEPS)

    schedule = diffusers_schedule(folder / "teacher", STEPS)
    problem = Problem(resolve_spectrum("digits"), schedule, merge_rule="denoiser-copy")
    config = DistillationConfig(num_iterations=iterations)
    for name in ("boot", "consistency"):
        plan = build_strategy(name, STEPS)
        run = Distillation(teacher, plan, DataInputs(data), config, accelerator)
        losses = [record.loss for record in run.run()]
        measured = evaluate_student(teacher, run.student(), 500, seed=1, num_resamples=0)
        print(
            f"{name}: {len(losses)} iterations, predicted W2 {evaluate(problem, plan).w2:.2e}, "
            f"measured paired error {measured.paired_rms.value:.3f}"
        )
        print("written:", save_student(run.student(), folder / name).name)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary), int(sys.argv[1]) if len(sys.argv) > 1 else 20)
