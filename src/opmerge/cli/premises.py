"""What the forecasts of ``plan --budget`` are made from: a schedule, a table and a law."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import opmerge
from opmerge.cli.problems import read_schedule
from opmerge.cli.progress import bars_in_turn
from opmerge.errors import InputError
from opmerge.settings.types import read_budget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opmerge.forecast import FittedLaw, TeacherTable
    from opmerge.settings.commands import BudgetOptions, PlanOptions
    from opmerge.settings.data import DataOptions
    from opmerge.settings.guidance import GuidanceOptions, GuidanceRecord
    from opmerge.spending import Prices

_TABLE_SAMPLES = 500  # that go down a teacher's sampler, as `run` takes them


@dataclass(frozen=True)
class Premises:
    """What forecasts are made from, and what a reader must know of it.

    Args:
        settings: of the runs that a calibration is for.
        guidance: of the teacher.
        is_solved: whether linear parts are solved, or may be and must not cost more then.
        free_runs: runs of a teacher that a free first step is fitted to, as far as they are paid
            for; None without a teacher.
        timed: what a budget of time is worth on this machine, for a teacher that was timed.
    """

    schedule: opmerge.NoiseSchedule
    table: TeacherTable
    law: FittedLaw
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    timed: Prices | None = None
    guidance: GuidanceRecord = field(default_factory=dict)
    is_solved: bool | None = None
    free_runs: int | None = None


def find_premises(
    spectrum: opmerge.Spectrum,
    data: DataOptions,
    asked: PlanOptions,
    spending: BudgetOptions,
    guidance: GuidanceOptions,
    folder: Path | None,
) -> Premises:
    """A teacher's, a calibration's, or those of Gaussian data and of other networks.

    What is measured of a teacher is kept in the folder, if there is one.
    """
    from opmerge.forecast import DEFAULT_PRIOR, LAW_PRIORS, linear_table, read_calibration

    guidance.check_one()
    if spending.teacher is not None:
        if asked.given("schedule") is not None:
            need = "must be left out: the teacher has its own"
            raise InputError("schedule", need, asked.schedule)
        if folder is not None:
            return _of_teacher(spectrum, data, asked, spending, guidance, folder)
        with tempfile.TemporaryDirectory() as temporary:
            return _of_teacher(spectrum, data, asked, spending, guidance, Path(temporary))
    if spending.labels is not None:
        raise InputError("labels", "must be left out without --teacher", spending.labels)
    schedule, _ = read_schedule(asked.schedule, asked.steps)
    record = guidance.record(asked.steps)
    if asked.training is None:
        table = linear_table(spectrum, schedule)
        law = LAW_PRIORS[DEFAULT_PRIOR].fitted(spectrum.num_dimensions)
        note = (
            f"without a calibration the law of merges is {law.source}, and the teacher's table "
            "that of Gaussian data: intervals are wide; the pass by which a linear part may be "
            "solved is paid for"
        )
        notes = [note]
        if record:
            notes.append("guidance is in what targets cost here, and not in what plans leave")
        return Premises(schedule, table, law, tuple(notes), guidance=record, is_solved=True)
    calibration = read_calibration(asked.training)
    calibration.check(schedule=schedule)
    whose = "the calibration's"
    record = guidance.agreed(calibration.guidance, asked.steps, whose).record(asked.steps)
    known = calibration.table, calibration.law
    return Premises(schedule, *known, (), calibration.settings, guidance=record)


def _of_teacher(
    spectrum: opmerge.Spectrum,
    data: DataOptions,
    asked: PlanOptions,
    spending: BudgetOptions,
    guidance: GuidanceOptions,
    folder: Path,
) -> Premises:
    """A teacher's own table, by forward passes, with a calibration's law or that of its kind of
    network; and what a time is worth here."""
    from opmerge.cli import networks
    from opmerge.denoisers.inputs import DataInputs
    from opmerge.distillation.executor import settled
    from opmerge.distillation.free_step import num_runs
    from opmerge.forecast import read_calibration
    from opmerge.measure.calibration import kept_table, law_prior
    from opmerge.settings.data import SampleOptions
    from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
    from opmerge.spending.prices import priced

    assert spending.teacher is not None, "asked for"
    teacher = networks.read_teacher(spending.teacher, asked.steps, spending.ignore_clipping)
    calibration = None if asked.training is None else read_calibration(asked.training)
    recorded = None if calibration is None else calibration.guidance
    teacher = networks.guided(teacher, guidance, data.source, recorded, "the calibration's")
    schedule = opmerge.diffusers_schedule(teacher.scheduler_config, asked.steps)
    optimization = OptimizationConfig(train_batch_size=spending.train_batch_size)
    config = settled(
        DistillationConfig(target_reuse=spending.target_reuse, optimization=optimization),
        teacher.network,
    )
    told = data.model_dump(include={*SampleOptions.model_fields})
    samples = SampleOptions(**told, labels=spending.labels)
    accelerator, kept = networks.start(optimization, folder), folder / "table"
    inputs = networks.training_inputs(accelerator, samples, teacher, False, folder)
    assert isinstance(inputs, DataInputs), "a plan is for data"
    timed, is_solved = None, None
    with bars_in_turn(are_named=True) as report:
        if spending.budget is not None and spending.seconds_per_evaluation is None:
            report("pricing the budget", 0, 1)
            timed = priced(spending.budget, teacher, inputs, config, accelerator, kept)
            counts = asked.student_steps
            first = counts[0] if isinstance(counts, tuple) else counts
            timed.check_pays(timed.cost.least(asked.steps, first), "an iteration of any plan")
        given = teacher, inputs, spectrum, config, accelerator, kept, _TABLE_SAMPLES
        measured = kept_table(*given, report)
    notes = [f"the teacher's table took {measured.network_evaluations:,} network evaluations"]
    notes += measured.unlike(spectrum, teacher)
    if calibration is not None:
        calibration.check(teacher_sha256=teacher.digest, schedule=schedule)
        law, settings = calibration.law, calibration.settings
    else:
        is_solved = config.linear_part == "solve"
        prior = law_prior(teacher, is_solved)
        law, settings = prior.fitted(measured.table.sizes), {}
        notes.append(f"without a calibration the law of merges is {law.source}: intervals are wide")
    is_paid = read_budget(spending.budget or "")[1] != "iterations"
    runs = num_runs(teacher, optimization.global_batch_size(accelerator.num_processes))
    return Premises(
        schedule,
        measured.table,
        law,
        tuple(notes),
        settings,
        timed,
        teacher.guidance_record,
        is_solved,
        runs if is_paid else 0,
    )
