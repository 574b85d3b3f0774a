"""The networks of the study: its teacher, the law of its merges, every student trained once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from opmerge.data import Source, open_source
from opmerge.denoisers.inputs import load_labels
from opmerge.distillation.executor import Distillation, settled
from opmerge.distillation.free_step import num_runs
from opmerge.forecast import FittedLaw, TeacherTable
from opmerge.forecast.cost import IterationCost
from opmerge.measure.calibration import calibrate, kept_table, law_prior
from opmerge.measure.calibration_budget import size_within
from opmerge.measure.evaluation import evaluate_student
from opmerge.settings.commands import SpendingOptions
from opmerge.settings.distillation import DistillationConfig
from opmerge.settings.guidance import GuidanceOptions
from opmerge.spectra import Spectrum, estimate_spectrum
from opmerge.spending import Spending, Trained, learning_rates
from opmerge.spending.prices import cost_of_training
from opmerge.store import digest
from opmerge_studies.budgets import BudgetsSettings, Contender
from opmerge_studies.shared.decoding import Decoded
from opmerge_studies.shared.features import ClassFeatures, train_features
from opmerge_studies.shared.networks import NOISE_SEED, open_school, own_accelerator, train_student
from opmerge_studies.shared.runner import Runner

_CALIBRATION_SEED = 10_000  # hardly one of students; not theirs, so that more seeds change no plan

Cell = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What forecasts are made from, and the network evaluations that it took."""

    law: FittedLaw
    table: TeacherTable
    table_evaluations: float
    probe_evaluations: float
    held_out_error: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values of all but the table and the law's draws."""
        return {
            "law": self.law.law.to_dict(),
            "scatter": self.law.scatter,
            "source": self.law.source,
            "table_evaluations": self.table_evaluations,
            "probe_evaluations": self.probe_evaluations,
            "held_out_error": self.held_out_error,
            "output_spread": self.table.output_spread,
            "dimensions": self.table.num_dimensions,
        }


@dataclass(frozen=True)
class Spent:
    """A budget as `opmerge run` spends it; ``planning`` is its calibration and pilot."""

    student_steps: int
    budget: float
    seed: int
    trained: Trained
    planning: float
    learning_rate: float


class Execution:
    """Trains students of one teacher, loaded or trained once.

    Raises:
        InputError: if the teacher is told something else than the settings say, or there are
            several processes.
    """

    def __init__(self, settings: BudgetsSettings, source: Source, runner: Runner) -> None:
        self.settings, self.runner = settings, runner
        given = settings.teacher, settings.teacher_folder, settings.steps
        scale, told = settings.guidance_scale, None
        if scale is not None and settings.known_labels is not None:
            told = load_labels(settings.known_labels, source.num_samples)
        school = open_school(source, *given, runner, told)
        self._source, self._inputs = source, school.inputs
        self._accelerator = own_accelerator(settings.optimization, runner.folder)
        guidance = GuidanceOptions(guidance_scale=None if scale is None else repr(scale))
        self.teacher = school.teacher.guided(guidance).to(self._accelerator.device)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Of the data."""
        return estimate_spectrum(self._source)

    @cached_property
    def config(self) -> DistillationConfig:
        """Of all trainings, but for iterations and seed."""
        return self._rated(self._rates[0])

    @property
    def free_runs(self) -> int:
        """Teacher runs that a free step is fitted to."""
        return num_runs(self.teacher, self.settings.optimization.global_batch_size(1))

    @property
    def cost(self) -> IterationCost:
        """Of the students."""
        return cost_of_training(self.teacher, self.config)

    @cached_property
    def knowledge(self) -> Knowledge:
        """The teacher's table with the law of its kind of network, or one that is fitted to it."""
        config, accelerator = self._seeded(_CALIBRATION_SEED), self._accelerator
        given, folder = (self.teacher, self._inputs, self.spectrum), self.runner.folder
        folder = folder / "calibration"
        if self.settings.law == "prior":
            with self.runner.progress("measuring the teacher", None):
                found = kept_table(*given, config, accelerator, folder, None)
            law = law_prior(self.teacher, config.linear_part == "solve")
            fitted = law.fitted(found.table.sizes)
            return Knowledge(fitted, found.table, found.network_evaluations, 0.0, None)
        budget = self.settings.calibration_budget
        size = size_within(budget, *given, config, accelerator, folder)
        most = max(probe.num_iterations for probe in size.probes)
        with self.runner.progress("calibrating", 1.0) as report:
            calibration = calibrate(
                *(*given, config.replaced(num_iterations=most), accelerator, size.probes, folder),
                progress=lambda what, done, total: report(done / total, what),
                table_samples=size.table_samples,
                looks=False,
            )
        calibration.write(folder / "calibration.json")
        took, fit = calibration.network_evaluations, calibration.law_fit
        costs = took["table"], took["probes"]
        return Knowledge(fit.law, calibration.table.table, *costs, fit.held_out_error)

    def train(self, field: Sequence[Contender]) -> list[list[Cell]]:
        """Every contender with every seed: of each its finished cells, in the order of seeds.

        They are shared out over the runner's workers; an accelerator has one, unless more are
        asked for.
        """
        seeds, runner = self.settings.seeds, self.runner
        if self._accelerator.device.type != "cpu" and runner.num_workers < 0:
            runner = replace(runner, num_workers=1)
        wanted = [(contender, seed) for seed in seeds for contender in field]
        given = {"settings": self.settings, "folder": str(self.runner.folder.absolute())}
        found = runner.share_out(
            trained_cell,
            [{**given, "contender": contender, "seed": seed} for contender, seed in wanted],
            [self._part(*each) for each in wanted],
            "distilling",
            [contender.cost for contender, _ in wanted],
        )
        cells = dict(zip(wanted, found, strict=True))
        return [[cells[contender, seed] for seed in seeds] for contender in field]

    def trained(self, contender: Contender, seed: int) -> Cell:
        """A student trained and measured; what its folder holds of an interrupted run goes on."""
        run = self._distillation(
            contender, seed, self.runner.folder / self._part(contender, seed)[0]
        )
        seconds = train_student(run, lambda share: None)
        student = run.student()
        given = self.teacher, student, self.settings.num_samples, NOISE_SEED
        found = evaluate_student(*given, features=self.features, num_resamples=0)
        return {
            **(self.decoded.cell(student) if self.decoded else {}),
            "measured": asdict(found.paired_rms),
            "sliced_w2": found.sliced_w2.value,
            "frechet": found.features.student_to_teacher.value if found.features else None,
            "seconds": seconds,
        }

    @cached_property
    def decoded(self) -> Decoded | None:
        """The teacher's samples as the autoencoder decodes them; None of data that are no latents.

        Raises:
            InputError: if it decodes other latents.
        """
        vae, settings = self.settings.vae, self.settings
        return None if vae is None else Decoded.of(self.teacher, vae, settings.num_samples)

    @cached_property
    def features(self) -> ClassFeatures | None:
        """Of a classifier of the data, trained once; None of data without labels."""
        labels = self.settings.known_labels
        if labels is None:
            return None
        classes = load_labels(labels, len(self._inputs.data))

        def train() -> dict[str, Any]:
            with self.runner.progress("training a classifier", None):
                return train_features(self._inputs.data[:], classes).to_dict()

        identity = {"data": self._inputs.identity(), "labels": digest(classes.tolist())}
        return ClassFeatures.from_dict(self.runner.store.kept("classifier", identity, train))

    def spend(self) -> Iterator[Spent]:
        """Every budget as `opmerge run` spends it, for each K and seed."""
        settings = self.settings
        everything = [
            (seed, count, budget)
            for seed in settings.seeds
            for count in settings.student_steps
            for budget in settings.budgets
        ]
        with self.runner.progress("spending", sum(each[2] for each in everything)) as report:
            done = 0.0
            for seed, count, budget in everything:
                report(done, f"K = {count}, {budget:g}, seed {seed}")
                yield self._spend(seed, count, budget)
                done += budget

    def _spend(self, seed: int, student_steps: int, budget: float) -> Spent:
        settings, folder = self.settings, self.runner.folder
        told = f"{budget:.0f}"
        asked = SpendingOptions(
            teacher=folder / "teacher",
            steps=settings.steps,
            output_dir=folder / "spent" / f"{student_steps}-{told}-{seed}",
            budget=told,
            student_steps=student_steps,
            num_samples=settings.num_samples,
        )
        given = self.teacher, self._inputs, self.spectrum
        rated = self._seeded(seed), self._accelerator, self._rates
        spending = Spending.of(*given, asked, *rated, warn=lambda line: None)  # its record says it
        key = student_steps, budget, seed
        trained, rate = spending.best(), spending.chosen.learning_rate
        return Spent(*key, trained, spending.planning_cost, rate)

    def description(self) -> dict[str, Any]:
        """What the record says of teacher and training."""
        return {
            "source": self._source.name,
            "scaling": self._source.scaling,
            "network": type(self.teacher.network).__name__,
            "parameters": sum(p.numel() for p in self.teacher.network.parameters()),
            "teacher_digest": self.teacher.digest,
            "classes": self.teacher.num_classes,
            "guidance": dict(self.teacher.guidance_record),
            "spectrum_samples": self.spectrum.num_samples,
            "linear_part": self.config.linear_part,
            "learning_rate": self.config.optimization.learning_rate,
            "classifier_accuracy": self.features.accuracy if self.features else None,
        }

    @cached_property
    def _rates(self) -> tuple[float, ...]:
        """Learning rates, the one that plans are trained with first."""
        rate = self.settings.learning_rate
        return learning_rates(self._rated(None)) if rate is None else (rate,)

    def _rated(self, rate: float | None) -> DistillationConfig:
        settings = self.settings
        optimization = settings.optimization
        if rate is not None:
            optimization = optimization.replaced(learning_rate=rate)
        config = DistillationConfig(
            linear_part=settings.linear_part,
            target_reuse=settings.target_reuse,
            optimization=optimization,
        )
        return settled(config, self.teacher.network)

    def _seeded(self, seed: int) -> DistillationConfig:
        optimization = self.config.optimization.replaced(seed=seed)
        return self.config.replaced(optimization=optimization)

    def _distillation(self, contender: Contender, seed: int, folder: Any = None) -> Distillation:
        config = self._seeded(seed).replaced(num_iterations=contender.iterations or 1)
        given = self.teacher, contender.plan, self._inputs, config, self._accelerator
        return Distillation(*given, folder)

    def _part(self, contender: Contender, seed: int) -> tuple[str, Any]:
        """The name of a cell and all that it depends on."""
        identity = {
            "run": self._distillation(contender, seed).identity(),
            "num_samples": self.settings.num_samples,
            "noise": NOISE_SEED,
            "features": self.features.digest if self.features else None,
        }
        if self.decoded:  # which cells of before do not know of
            identity["decoded"] = self.decoded.digest
        return f"cells/{digest(identity)[:24]}", identity


def trained_cell(settings: BudgetsSettings, folder: str, contender: Contender, seed: int) -> Cell:
    """A student of a run's folder, trained by any worker on one thread: the same bits anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _execution(settings.model_dump_json(), folder).trained(contender, seed)
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _execution(settings: str, folder: str) -> Execution:
    """The teacher and the data of a run's folder, opened once by a worker."""
    asked, runner = BudgetsSettings.model_validate_json(settings), Runner(Path(folder))
    source = open_source(asked.source, asked.source_options)
    return Execution(asked, source, runner)
