"""The networks of the study: its teacher, and every plan executed and measured, each once."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from opmerge.clock import Report
from opmerge.data import Source
from opmerge.distillation.executor import Distillation
from opmerge.distillation.stages import Stage, plan_effort, plan_stages
from opmerge.measure.calibration import calibrate
from opmerge.measure.evaluation import evaluate_student
from opmerge.measure.linearity import linearity
from opmerge.plans import Merge, Plan, build_strategy
from opmerge.settings.distillation import DistillationConfig
from opmerge.spectra import Spectrum
from opmerge.store import MISSING, digest
from opmerge_studies.real_networks import PLANNED, Contender, RealNetworksSettings
from opmerge_studies.shared.networks import (
    NOISE_SEED,
    NUM_PICTURES,
    open_school,
    own_accelerator,
    sample_picture,
    train_student,
)
from opmerge_studies.shared.runner import Runner

Cell = dict[str, Any]


class Execution:
    """Executes plans on a teacher, loaded or trained once, and measures them in the eigenbasis.

    Raises:
        InputError: if the teacher has classes, or there are several processes.
    """

    def __init__(
        self, settings: RealNetworksSettings, source: Source, spectrum: Spectrum, runner: Runner
    ) -> None:
        self.settings, self.spectrum, self.runner = settings, spectrum, runner
        for name in settings.plans:  # refuse a budget that is too small before anything is trained
            if name not in PLANNED:
                self.iterations(build_strategy(name, settings.steps))
        self.store = runner.store
        given = settings.teacher, settings.teacher_folder, settings.steps
        school = open_school(source, *given, runner)
        self._inputs = school.inputs
        self._accelerator = own_accelerator(settings.distillation.optimization, runner.folder)
        self.teacher = school.teacher.to(self._accelerator.device)

    def run(self, plans: Sequence[Contender]) -> list[list[Cell]]:
        """Every plan with every seed: for each plan its finished cells, in the order of seeds."""
        seeds = self.settings.seeds
        wanted = [(plan, seed) for seed in seeds for plan in plans]
        cells = {each: self.store.read(*self._part(*each)) for each in wanted}
        missing = [each for each, cell in cells.items() if cell is MISSING]
        work = sum(self._work(plan) for plan, _ in missing)
        with self.runner.progress("distilling", work) as report:
            done = 0.0
            for plan, seed in missing:
                cells[plan, seed] = self._execute(plan, seed, report, done)
                done += self._work(plan)
        return [[cells[plan, seed] for seed in seeds] for plan in plans]

    def linearity(self) -> dict[str, Any]:
        """How linear the teacher is, at several steps."""
        return asdict(linearity(self.teacher, self._inputs, self.spectrum))

    def calibration(self) -> dict[str, Any]:
        """The contents of ``calibration.json``; the seed of its probes is none of the study's."""
        config = self._distillation(max(self.settings.seeds) + 1).replaced(budget=None)
        folder = self.store.folder

        def compute() -> dict[str, Any]:
            with self.runner.progress("calibrating", 1.0) as report:
                calibration = calibrate(
                    *(self.teacher, self._inputs, self.spectrum, config, self._accelerator),
                    folder=folder,
                    progress=lambda what, done, total: report(done / total, what),
                )
            calibration.write(folder / "calibration.json")
            return calibration.to_dict()

        identity = self._identity(config)
        content = self.store.kept("probes/calibration", identity, compute)
        return {**content, "identity": digest(identity)}

    def pictures(self) -> dict[str, Any]:
        """The teacher's samples, beside which those of the students can be set."""
        return {"count": NUM_PICTURES, "teacher": sample_picture(self.teacher)}

    def _execute(self, contender: Contender, seed: int, report: Report, done: float) -> Cell:
        """Train a student, measure it, and write its cell; ``done`` is the work before it."""
        doing, work = f"{contender.label}, seed {seed}", self._work(contender)
        part, config = self._part(contender, seed), self._distillation(seed)
        folder = self.store.folder / part[0]  # of its checkpoints
        run = Distillation(
            self.teacher, contender.plan, self._inputs, config, self._accelerator, folder
        )
        seconds = train_student(run, lambda share: report(done + work * share, doing))
        student = run.student()
        measured = evaluate_student(
            self.teacher,
            student,
            self.settings.num_samples,
            NOISE_SEED,
            self.spectrum,
            num_projections=1,
            num_resamples=0,
        )
        assert measured.directions is not None, "a spectrum was given"
        values = measured.directions.eigenvalues  # descending, each as often as it occurs
        first = np.flatnonzero(np.diff(values, prepend=np.inf))
        cell = {
            "plan": contender.names[0],
            "seed": seed,
            "network_evaluations": work,
            "seconds": seconds,
            "measured": {
                "paired_rms": measured.to_dict()["paired_rms"],
                "errors": np.add.reduceat(measured.directions.errors, first).tolist(),
            },
            "picture": sample_picture(student),
        }
        kept = self.store.write(*part, cell)
        shutil.rmtree(folder, ignore_errors=True)
        return dict(kept)

    def iterations(self, plan: Plan) -> dict[Merge, int]:
        """The iterations of every merge of a plan; ``InputError`` if the budget is too small."""
        return {merge: count for stage, count in self._efforts(plan) for merge in stage.merges}

    def _efforts(self, plan: Plan) -> list[tuple[Stage, int]]:
        stages = plan_stages(plan, self.settings.distillation.sharing)
        counts = plan_effort(stages, self._config).iterations
        return [*zip(stages, counts, strict=True)]

    def _work(self, contender: Contender) -> float:
        """Network evaluations of the training, all samples of a batch counted."""
        config = self._config
        work = sum(
            stage.network_evaluations(n, config) for stage, n in self._efforts(contender.plan)
        )
        return config.optimization.global_batch_size(1) * work

    @cached_property
    def _config(self) -> DistillationConfig:
        """The settings; what limited training leaves is the question, so it is plain training."""
        config = self.settings.distillation
        plain = {"linear_part": "train", "target_reuse": 1}
        return config.replaced(**{name: config.given(name, value) for name, value in plain.items()})

    def _distillation(self, seed: int) -> DistillationConfig:
        config = self._config
        return config.replaced(optimization=config.optimization.replaced(seed=seed))

    def _part(self, contender: Contender, seed: int) -> tuple[str, Any]:
        """The name of a cell and all that it depends on."""
        name = re.sub(r"\W", "-", contender.short_name)
        identity = {
            **self._identity(self._distillation(seed)),
            "plan": [list(merge.boundaries) for merge in contender.plan.merges],
            "num_samples": self.settings.num_samples,
            "noise": NOISE_SEED,
        }
        return f"cells/{seed}-{name}", identity

    def _identity(self, config: DistillationConfig) -> dict[str, Any]:
        """What all training depends on."""
        return {
            "teacher": self.teacher.digest,
            "data": self._inputs.identity(),
            "distillation": config.what_decides(1),
        }
