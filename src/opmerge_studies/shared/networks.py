"""Networks of studies: a teacher that is trained once or loaded, and students of it."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from opmerge.data import Source
from opmerge.denoisers.conditions import check_told
from opmerge.denoisers.denoiser import as_condition
from opmerge.denoisers.inputs import DataInputs, load_samples, network_shape
from opmerge.denoisers.models import Student, Teacher
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.denoisers.teacher_training import train_teacher
from opmerge.distillation.executor import Distillation
from opmerge.distillation.sampling import draw_samples, image_png, is_image
from opmerge.errors import InputError
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import OptimizationConfig
from opmerge.settings.networks import TeacherConfig
from opmerge_studies.shared.runner import Runner

NOISE_SEED = 0
"""Of the noise that students are compared on; training draws from other streams."""

NUM_PICTURES = 8


@dataclass(frozen=True, eq=False)
class School:
    """A teacher and the data that its students read."""

    teacher: Teacher
    inputs: DataInputs


def open_school(
    source: Source,
    config: TeacherConfig,
    folder: str | None,
    steps: int,
    runner: Runner,
    labels: Tensor | None = None,
) -> School:
    """The teacher of a folder, or one that is trained once and kept in ``teacher/`` of the run.

    With (N,) labels it is told classes.

    Raises:
        InputError: if the teacher of the folder is told something else, or does not fit the data,
            or there are several processes.
    """
    teacher = None
    if folder is not None:
        teacher = load_teacher(folder, steps)
        if labels is None and teacher.num_classes is not None:
            raise InputError(
                "teacher_folder",
                "must hold a network without classes",
                f"{teacher.num_classes} classes",
                "train it without labels, or leave it out for the study to train one",
            )
        check_told(teacher.needs, as_condition(labels), "teacher_folder")
    shape = network_shape(source) if teacher is None else teacher.sample_shape
    with runner.progress("reading", source.num_samples) as report:
        data = load_samples(source, shape, runner.folder, report)
    inputs = DataInputs(data, as_condition(labels))
    return School(teacher or _trained_teacher(config, inputs, labels, steps, runner), inputs)


def _trained_teacher(
    config: TeacherConfig, inputs: DataInputs, labels: Tensor | None, steps: int, runner: Runner
) -> Teacher:
    identity = {
        "teacher": config.model_dump(mode="json", exclude={"optimization"}),
        "optimization": config.optimization.what_decides(1),
        "data": inputs.identity(),
    }

    def train() -> None:
        accelerator = own_accelerator(config.optimization, runner.folder)
        records = train_teacher(config, inputs.data, labels, accelerator, runner.folder, "latest")
        with runner.progress("training the teacher", config.num_iterations) as report:
            for record in records:
                report(record.iteration)

    runner.store.kept("teacher", identity, train)
    return load_teacher(runner.folder / "teacher", steps)


def own_accelerator(optimization: OptimizationConfig, folder: Path) -> Accelerator:
    """The accelerator of one training; ``InputError`` if there are several processes."""
    # accelerate keeps one precision a process; teacher and students may have their own
    AcceleratorState._reset_state()
    accelerator = make_accelerator(optimization, folder)
    if accelerator.num_processes > 1:
        remedy = "start it by itself, without torchrun or accelerate launch"
        raise InputError("study", "must run in one process", accelerator.num_processes, remedy)
    return accelerator


def train_student(run: Distillation, report: Callable[[float], None]) -> float | None:
    """Train all of a run that has a folder, from its last checkpoint on.

    ``report`` is told the share that is done.

    Returns:
        The seconds that it took; None if an interrupted run did a part of it.
    """
    resumed_at, total = run.resume(), max(sum(run.iterations), 1)
    report(resumed_at / total)
    begin = time.perf_counter()
    for record in run.run():
        report(record.step / total)
    return None if resumed_at else time.perf_counter() - begin


def sample_picture(sampler: Teacher | Student) -> str | None:
    """A row of samples from equal noise as ``picture``, of data that are images."""
    samples = draw_samples(sampler, NUM_PICTURES, NOISE_SEED, NUM_PICTURES)
    return picture(samples) if is_image(sampler.sample_shape) else None


def picture(images: Tensor) -> str:
    """Images in a row, as a PNG in base64."""
    return base64.b64encode(image_png(images.float(), len(images))).decode("ascii")
