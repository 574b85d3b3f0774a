"""``python -m benchmarks.sharing``: one network against K, adapters against whole ones, equal cost.

A perceptron on digits of 16 steps is distilled progressively into K = 2 and 4 steps, each time with
the same number of network evaluations; of every arm the better of two learning rates is shown.
Written to ``sharing.json``.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from opmerge import build_strategy, open_source
from opmerge.denoisers.inputs import DataInputs, load_samples
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.denoisers.teacher_training import train_teacher
from opmerge.distillation import Distillation, DistillationConfig, OptimizationConfig
from opmerge.loop import make_accelerator
from opmerge.measure.evaluation import evaluate_student
from opmerge.settings.networks import TeacherConfig

RESULTS = Path(__file__).with_name("sharing.json")
NUM_STEPS, BUDGET, NUM_SAMPLES = 16, "3e5", 2000
ARMS: dict[str, dict[str, Any]] = {
    "K networks": {},
    "one network": {"sharing": "all"},
    "K adapters, r = 8": {"lora_rank": 8},
    "one adapter, r = 8": {"sharing": "all", "lora_rank": 8},
}
RATES, SEEDS, STEPS = (1e-3, 3e-3), (0, 1), (2, 4)


def main() -> None:
    """Train the teacher and every student, write the results and print them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        teacher, data = trained_teacher(Path(folder))
        results = {
            f"K = {steps}, {name}": arm(teacher, data, steps, settings)
            for steps, (name, settings) in itertools.product(STEPS, ARMS.items())
        }
    spread = float(data.data.std())
    told = {"num_steps": NUM_STEPS, "budget": BUDGET, "num_samples": NUM_SAMPLES}
    RESULTS.write_text(json.dumps({**told, "data_std": spread, "arms": results}, indent=2) + "\n")


def trained_teacher(folder: Path) -> tuple[Teacher, DataInputs]:
    """A perceptron on digits, and what students read."""
    optimization = OptimizationConfig(
        learning_rate=1e-3, ema_decay=0.99, checkpointing_steps=0, train_batch_size=128
    )
    config = TeacherConfig(
        network="mlp",
        num_iterations=2000,
        prediction_type="v_prediction",
        optimization=optimization,
    )
    data = load_samples(open_source("digits"), (1, 8, 8))
    accelerator = make_accelerator(optimization, cpu=True)
    for _ in train_teacher(config, data, None, accelerator, folder):
        pass
    return load_teacher(folder / "teacher", NUM_STEPS), DataInputs(data)


def arm(teacher: Teacher, data: DataInputs, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The paired errors of one way to train, at its better learning rate."""
    by_rate = {
        rate: [error(teacher, data, steps, settings, rate, s) for s in SEEDS] for rate in RATES
    }
    rate = min(by_rate, key=lambda each: fmean(by_rate[each]))
    print(f"K = {steps}, {settings}: {fmean(by_rate[rate]):.3f} at {rate:g}", flush=True)
    return {"paired_rms": by_rate[rate], "learning_rate": rate, "all": list(by_rate.items())}


def error(
    teacher: Teacher,
    data: DataInputs,
    steps: int,
    settings: dict[str, Any],
    rate: float,
    seed: int,
) -> float:
    """Of one student: rms distance of its samples to the teacher's."""
    optimization = OptimizationConfig(learning_rate=rate, seed=seed, checkpointing_steps=0)
    config = DistillationConfig(budget=BUDGET, optimization=optimization, **settings)
    plan = build_strategy("progressive", NUM_STEPS, steps)
    accelerator = make_accelerator(optimization, cpu=True)
    run = Distillation(teacher, plan, data, config, accelerator)
    for _ in run.run():
        pass
    found = evaluate_student(run.teacher, run.student(), NUM_SAMPLES, 1, num_resamples=0)
    return found.paired_rms.value


if __name__ == "__main__":
    main()
