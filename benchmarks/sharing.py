"""``python -m benchmarks.sharing CASE FOLDER``: one network against K, adapters against whole ones.

A teacher of 16 steps, a perceptron on digits (``digits``) or a UNet on small images
(``cifar8.npy``), is distilled progressively into a few steps, each time with the same number
of network evaluations; of every arm the better of two learning rates is shown. Written to
``sharing.json``. What is finished is kept in the folder: the same command goes on behind it.
"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

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
NUM_STEPS, RATES = 16, (1e-3, 3e-3)
ARMS: dict[str, dict[str, Any]] = {
    "K networks": {},
    "one network": {"sharing": "all"},
    "K adapters, r = 8": {"lora_rank": 8},
    "one adapter, r = 8": {"sharing": "all", "lora_rank": 8},
}


@dataclass(frozen=True)
class Case:
    """A teacher, and what each of its students costs in network evaluations."""

    network: dict[str, Any]
    shape: tuple[int, ...]
    student_steps: tuple[int, ...]
    num_iterations: int
    teacher_batch: int
    batch: int
    budget: str
    seeds: tuple[int, ...]
    num_samples: int


SMALL_UNET = {"network": "unet", "block_out_channels": (16, 32)}
CASES = {
    "digits": Case({"network": "mlp"}, (1, 8, 8), (2, 4), 2000, 128, 128, "3e5", (0, 1), 2000),
    "cifar8.npy": Case(SMALL_UNET, (3, 8, 8), (2,), 1200, 64, 32, "3e4", (0,), 300),
}


def main(source: str, folder: Path) -> None:
    """Train the teacher and every student of a case, print the results and write them."""
    torch.set_num_threads(1)
    name = Path(source).name
    case, data = CASES[name], load_samples(open_source(source), CASES[name].shape)
    if not (folder / "teacher").is_dir():
        train(case, data, folder)
    teacher = load_teacher(folder / "teacher", NUM_STEPS)
    arms = []
    for steps, way in itertools.product(case.student_steps, ARMS):
        kept = folder / f"{steps} {way}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(arm(teacher, DataInputs(data), case, steps, way)))
        arms.append(json.loads(kept.read_text()))
        print(json.dumps(arms[-1]), flush=True)
    told = {"num_steps": NUM_STEPS, "budget": case.budget, "num_samples": case.num_samples}
    size = sum(weight.numel() for weight in teacher.network.parameters())
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    results[name] = {**told, "num_parameters": size, "data_std": float(data.std()), "arms": arms}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


def train(case: Case, data: Tensor, folder: Path) -> None:
    """Leave the teacher of a case in a folder."""
    optimization = OptimizationConfig(
        learning_rate=1e-3,
        ema_decay=0.99,
        checkpointing_steps=0,
        train_batch_size=case.teacher_batch,
    )
    config = TeacherConfig(
        **case.network,
        num_iterations=case.num_iterations,
        prediction_type="v_prediction",
        optimization=optimization,
    )
    accelerator = make_accelerator(optimization, cpu=True)
    for record in train_teacher(config, data, None, accelerator, folder):
        if record.iteration % 200 == 0:
            print(f"teacher: {record.iteration}", flush=True)


def arm(teacher: Teacher, data: DataInputs, case: Case, steps: int, name: str) -> dict[str, Any]:
    """The paired errors of one way to train at each learning rate, and the better rate."""
    by_rate = {
        rate: [error(teacher, data, case, steps, ARMS[name], rate, seed) for seed in case.seeds]
        for rate in RATES
    }
    rate = min(by_rate, key=lambda rate: fmean(each["value"] for each in by_rate[rate]))
    told = {"student_steps": steps, "way": name, "learning_rate": rate, "best": by_rate[rate]}
    return {**told, "by_rate": list(by_rate.items())}


def error(
    teacher: Teacher,
    data: DataInputs,
    case: Case,
    steps: int,
    settings: dict[str, Any],
    rate: float,
    seed: int,
) -> dict[str, float]:
    """Of one student: rms distance of its samples to the teacher's, with its 95 % interval."""
    optimization = OptimizationConfig(
        learning_rate=rate, seed=seed, checkpointing_steps=0, train_batch_size=case.batch
    )
    config = DistillationConfig(budget=case.budget, optimization=optimization, **settings)
    plan = build_strategy("progressive", NUM_STEPS, steps)
    accelerator = make_accelerator(optimization, cpu=True)
    run = Distillation(teacher, plan, data, config, accelerator)
    for _ in run.run():
        pass
    found = evaluate_student(run.teacher, run.student(), case.num_samples, 1, num_resamples=0)
    return asdict(found.paired_rms)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
