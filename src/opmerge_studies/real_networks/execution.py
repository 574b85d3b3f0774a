"""The networks of a study: its teacher, and every plan executed and measured, each once."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from opmerge.data import Source
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher
from opmerge.denoisers.samples import load_samples, network_shape
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.denoisers.teacher_training import train_teacher
from opmerge.distillation.executor import Distillation
from opmerge.distillation.sampling import draw_samples, image_grid
from opmerge.distillation.stages import plan_stages
from opmerge.errors import InputError
from opmerge.files import write_atomic
from opmerge.loop import make_accelerator
from opmerge.measure.calibration import calibrate
from opmerge.measure.evaluation import DirectionErrors, evaluate_student
from opmerge.measure.linearity import linearity
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.spectra import Spectrum
from opmerge_studies.shared.runner import ProgressBar, Report

if TYPE_CHECKING:
    from opmerge_studies.real_networks import Config, Contender

__all__ = ["Execution", "load_or_train_teacher"]

_NOISE_SEED = 0  # of the noise that students are compared on; training draws from other streams
_NUM_PICTURES = 8
_BATCH_SIZE = 256


def load_or_train_teacher(
    config: Config, source: Source, folder: Path, progress: ProgressBar
) -> Teacher:
    """The teacher of the study; one that the folder holds finished is not trained again."""
    if config.teacher_folder is not None:
        return load_teacher(config.teacher_folder, config.steps)
    with progress("reading", source.num_samples) as report:
        data = load_samples(source, network_shape(source), folder, report)
    settings = config.teacher
    identity = _digest(
        {
            "teacher": {
                key: value for key, value in vars(settings).items() if key != "optimization"
            },
            "optimization": settings.optimization.what_decides(1),
            "data": DataInputs(data).identity(),
        }
    )
    note = folder / "teacher.json"
    if _read_json(note).get("identity") != identity:
        accelerator = _new_accelerator(settings.optimization, folder)
        records = train_teacher(settings, data, None, accelerator, folder, "latest")
        with progress("training the teacher", settings.num_iterations) as report:
            for record in records:
                report(record.iteration)
        write_atomic(note, json.dumps({"identity": identity}) + "\n")
    return load_teacher(folder / "teacher", config.steps)


def _new_accelerator(optimization: OptimizationConfig, folder: Path) -> Accelerator:
    """The accelerator of one training, in one process."""
    # accelerate keeps one precision a process; teacher and students may have their own
    AcceleratorState._reset_state()
    accelerator = make_accelerator(optimization, folder)
    if accelerator.num_processes > 1:
        raise InputError(
            "study",
            "must run in one process",
            accelerator.num_processes,
            "start it by itself, without torchrun or accelerate launch",
        )
    return accelerator


class Execution:
    """Executes the plans of a study.

    Args:
        config: the study's settings.
        teacher: the teacher, with T steps.
        source: the data.
        spectrum: of the data, with eigenvectors.
        folder: the run directory.
    """

    def __init__(
        self, config: Config, teacher: Teacher, source: Source, spectrum: Spectrum, folder: Path
    ) -> None:
        self.config, self.spectrum, self.folder = config, spectrum, folder
        self._accelerator = _new_accelerator(config.distillation.optimization, folder)
        if teacher.num_classes is not None:
            raise InputError(
                "teacher_folder",
                "must hold a network without classes",
                f"{teacher.num_classes} classes",
                "train it without labels, or leave it out for the study to train one",
            )
        self.teacher = teacher.to(self._accelerator.device)
        self._data = load_samples(source, teacher.sample_shape, folder)
        self._inputs = DataInputs(self._data)

    def run(
        self, plans: Sequence[Contender], progress: ProgressBar
    ) -> dict[str, list[dict[str, Any]]]:
        """Every plan with every seed: the finished cells by name, in the order of the seeds."""
        wanted = [(plan, seed) for seed in self.config.seeds for plan in plans]
        missing = [each for each in wanted if self._finished(*each) is None]
        total = sum(self._work(plan) for plan, _ in missing)
        with progress("distilling", total) as report:
            done = 0.0
            for plan, seed in missing:
                self._execute(plan, seed, report, done)
                done += self._work(plan)
        cells: dict[str, list[dict[str, Any]]] = {plan.name: [] for plan in plans}
        for plan, seed in wanted:
            cell = self._finished(plan, seed)
            assert cell is not None, "what was executed is on disk"
            cells[plan.name].append(cell)
        return cells

    def linearity(self) -> dict[str, Any]:
        """How linear the teacher is, at several steps."""
        return asdict(linearity(self.teacher, self._inputs, self.spectrum))

    def calibration(self, progress: ProgressBar) -> dict[str, Any]:
        """The contents of ``calibration.json``; the seed of its probes is none of the study's."""
        settings = self._settings(max(self.config.seeds) + 1)
        identity = _digest(self._foundation(settings))
        path = self.folder / "calibration.json"
        found = _read_json(path)
        if found.get("identity") == identity:
            return found
        with progress("calibrating", 1.0) as report:
            calibration = calibrate(
                self.teacher,
                self._inputs,
                self.spectrum,
                settings,
                self._accelerator,
                folder=self.folder,
                progress=lambda done, total: report(done / total),
            )
        content = {**calibration.to_dict(), "identity": identity}
        write_atomic(path, json.dumps(content, allow_nan=False) + "\n")
        return content

    def pictures(self) -> dict[str, Any]:
        """The teacher's samples, beside which those of the students can be set."""
        return {"count": _NUM_PICTURES, "teacher": self._picture(self.teacher)}

    def _execute(self, contender: Contender, seed: int, report: Report, done: float) -> None:
        """Train a student, measure it, and write its cell; ``done`` is the work before it."""
        doing = f"{contender.label}, seed {seed}"
        folder = self._cell(contender, seed).with_suffix("")  # of its checkpoints
        run = Distillation(
            self.teacher,
            contender.plan,
            self._inputs,
            self._settings(seed),
            self._accelerator,
            folder,
        )
        resumed_at = run.resume()
        done += self._work(contender) * resumed_at / sum(run.iterations)
        report(done, doing)
        batch = run.config.optimization.global_batch_size(1)
        begin = time.perf_counter()
        for record in run.run():
            done += batch * run.stages[record.stage].network_evaluations
            report(done, doing)
        seconds = time.perf_counter() - begin
        student = run.student()
        measured = evaluate_student(
            self.teacher,
            student,
            self.config.num_samples,
            _NOISE_SEED,
            self.spectrum,
            batch_size=_BATCH_SIZE,
            num_projections=1,
            num_resamples=0,
        )
        cell = {
            "identity": self._identity(contender, seed),
            "plan": contender.name,
            "seed": seed,
            "network_evaluations": self._work(contender),
            "seconds": None if resumed_at else seconds,  # of the whole training only
            "measured": {
                "paired_rms": measured.to_dict()["paired_rms"],
                "errors": _by_eigenvalue(measured.directions),
            },
            "picture": self._picture(student),
        }
        write_atomic(self._cell(contender, seed), json.dumps(cell, allow_nan=False) + "\n")
        shutil.rmtree(folder, ignore_errors=True)

    def _work(self, contender: Contender) -> float:
        """Network evaluations of the training, Σ iterations · batch · (children + 3)."""
        stages = plan_stages(contender.plan, self.config.distillation.sharing)
        batch = self.config.distillation.optimization.global_batch_size(1)
        counts = self.config.distillation.iterations_of(len(stages))
        pairs = zip(stages, counts, strict=True)
        return batch * sum(count * stage.network_evaluations for stage, count in pairs)

    def _settings(self, seed: int) -> DistillationConfig:
        settings = self.config.distillation
        return replace(settings, optimization=replace(settings.optimization, seed=seed))

    def _cell(self, contender: Contender, seed: int) -> Path:
        name = re.sub(r"\W", "-", contender.short_name)
        return self.folder / "cells" / f"{seed}-{name}.json"

    def _finished(self, contender: Contender, seed: int) -> dict[str, Any] | None:
        cell = _read_json(self._cell(contender, seed))
        return cell if cell.get("identity") == self._identity(contender, seed) else None

    def _identity(self, contender: Contender, seed: int) -> str:
        """Digest of all that a cell depends on."""
        return _digest(
            {
                **self._foundation(self._settings(seed)),
                "plan": [list(merge.boundaries) for merge in contender.plan.merges],
                "num_samples": self.config.num_samples,
                "noise": _NOISE_SEED,
            }
        )

    def _foundation(self, settings: DistillationConfig) -> dict[str, Any]:
        """What all training depends on."""
        return {
            "teacher": self.teacher.digest,
            "data": self._inputs.identity(),
            "distillation": settings.what_decides(1),
        }

    def _picture(self, sampler: Teacher | Student) -> str | None:
        """A row of samples as a PNG in base64, of data that are images."""
        samples = draw_samples(sampler, _NUM_PICTURES, _NOISE_SEED, _NUM_PICTURES)
        stream = io.BytesIO()
        try:
            image_grid(samples, _NUM_PICTURES).save(stream, format="PNG")
        except InputError:  # no images
            return None
        return base64.b64encode(stream.getvalue()).decode("ascii")


def _by_eigenvalue(directions: DirectionErrors | None) -> list[float]:
    """Paired errors summed over the directions of each distinct eigenvalue, descending."""
    assert directions is not None, "a spectrum was given"
    first = np.flatnonzero(np.diff(directions.eigenvalues, prepend=np.inf))
    sums: list[float] = np.add.reduceat(directions.errors, first).tolist()
    return sums


def _read_json(path: Path) -> dict[str, Any]:
    """What the file holds, or nothing if it holds no JSON object."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    return {}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
