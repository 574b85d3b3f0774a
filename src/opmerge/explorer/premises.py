"""What a view's numbers stand on: spectrum, schedule, law, table and prices, read once and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from opmerge.data.source import Progress
from opmerge.errors import InputError
from opmerge.explorer.view import RUN, View
from opmerge.files import expand_home, read_json_object
from opmerge.forecast import (
    DEFAULT_PRIOR,
    LAW_PRIORS,
    PRIORS,
    CalibrationFile,
    FittedLaw,
    TeacherTable,
    linear_table,
    read_calibration,
    read_table,
)
from opmerge.forecast.cost import IterationCost
from opmerge.forecast.files import TABLE_FILE
from opmerge.planners.record import FORMAT, VERSION
from opmerge.plans.codec import PlanFile, format_students
from opmerge.problem import Problem
from opmerge.schedules import NoiseSchedule, resolve_schedule
from opmerge.settings.commands import BudgetOptions
from opmerge.settings.guidance import GuidanceOptions
from opmerge.spectra import Spectrum, eigenvalue_spectrum, resolve_spectrum

_KEPT = 32  # of each part
_DEFAULTS = BudgetOptions()


@dataclass(frozen=True, eq=False)
class Run:
    """The folder of a ``plan`` or ``run``: its record and plan, and what it knew of its teacher."""

    folder: Path
    record: Mapping[str, Any]
    file: PlanFile

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read record.json and plan.json.

        Raises:
            InputError: if one is missing, malformed or of another version.
        """
        path = folder / "record.json"
        record = read_json_object(path, is_strict=True)
        if (record.get("format"), record.get("version")) != (FORMAT, VERSION):
            raise InputError(str(path), "must be a record that `opmerge plan` or `run` wrote")
        return cls(folder, record, PlanFile.read(folder / "plan.json"))

    @cached_property
    def spectrum(self) -> Spectrum:
        """The distinct eigenvalues of the record with their multiplicities."""
        told, source = self.record["spectrum"], str(self.record["problem"]["source"])
        counts = [max(1, round(count)) for count in told["multiplicities"]]
        return eigenvalue_spectrum(told["eigenvalues"], counts, source)

    @cached_property
    def calibration(self) -> CalibrationFile | None:
        """The calibration that it was planned with, if it is still there."""
        options = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["options"]
        places = [self.folder / "calibration" / "calibration.json"]
        if options.get("training"):
            places.append(Path(options["training"]))
        found = next((place for place in places if place.is_file()), None)
        return None if found is None else read_calibration(found)

    @property
    def view(self) -> View:
        """The run as it was planned: its problem, law, budget, plan and iterations."""
        record, problem = self.record, self.record["problem"]
        told: dict[str, Any] = {
            "source": str(self.folder),
            "steps": problem["steps"],
            "schedule": RUN,
            "student_steps": problem["student_steps"],
            "plan": format_students(self.file.plan).replace(" ", ""),
            "free_step": self.file.plan.free_step or 0,
        }
        if "budget" in record:
            budget, amount = record["budget"], record["budget"]["amount"]
            unit = "it" if amount != budget["evaluations"] else ""
            told |= {"law": RUN, "budget": f"{amount:.10g}{unit}"}
            told["iterations"] = tuple(self.file.iterations or ())
        else:
            told |= {"theory": "linear", "merge_rule": problem["merge_rule"]}
            told["merge_time"] = float(problem["training"].get("time", 6.4))
        return View(**told)


_SOURCES: dict[tuple[str, int], Run | Spectrum] = {}  # by name and time of change


@dataclass(frozen=True, eq=False)
class Premises:
    """Of forecasts: the data's spectrum, the sampler, and what is known of the network.

    Args:
        settings: of the runs that a calibration is for; empty without one.
        recorded: the budget of a run's record, whose batches and passes count.
    """

    spectrum: Spectrum
    schedule: NoiseSchedule
    law: FittedLaw
    known_table: TeacherTable | None = None
    settings: Mapping[str, Any] | None = None
    recorded: Mapping[str, Any] | None = None

    @cached_property
    def table(self) -> TeacherTable:
        """The network's, or that of Gaussian data."""
        return self.known_table or linear_table(self.spectrum, self.schedule)

    @cached_property
    def problem(self) -> Problem:
        """Of the linear theory, for what stands beside forecasts."""
        return Problem(self.spectrum, self.schedule)

    @cached_property
    def rated(self) -> FittedLaw:
        """The law with a rate for each group of directions of the table."""
        law, count = self.law, len(self.table.sizes)
        draws = tuple(draw.for_groups(count) for draw in law.draws)
        return replace(law, law=law.law.for_groups(count), draws=draws)

    @cached_property
    def cost(self) -> IterationCost:
        """Of an iteration, in network evaluations."""
        settings, recorded = self.settings or {}, self.recorded or {}
        batch = settings.get("optimization", {}).get("global_batch_size")
        guidance = GuidanceOptions.of_record(recorded.get("guidance") or {})
        cost = IterationCost.of_runs(
            self.table,
            recorded.get("batch") or batch or _DEFAULTS.train_batch_size,
            recorded.get("reuse") or settings.get("target_reuse", _DEFAULTS.target_reuse),
            guidance.steps(self.schedule.num_steps),
            True if self.known_table is None else None,  # it may be, and must not cost more then
        )
        passes = recorded.get("student_passes", cost.student_passes)
        return replace(cost, student_passes=float(passes))


def read_source(source: str, progress: Progress | None = None) -> Run | Spectrum:
    """The run or the spectrum that a source names, read again only if it has changed.

    Raises:
        InputError: if it names none.
    """
    key = source, _stamp(source)
    if key not in _SOURCES:
        if len(_SOURCES) >= _KEPT:
            _SOURCES.clear()
        folder = expand_home(source)
        is_run = (folder / "record.json").is_file()
        found = Run.read(folder) if is_run else resolve_spectrum(source, progress=progress)
        _SOURCES[key] = found
    return _SOURCES[key]


def read_premises(view: View) -> Premises:
    """What a view's numbers stand on.

    Raises:
        InputError: if a part cannot be read, or they do not fit one another.
    """
    parts = (view.source, view.schedule, view.law)
    stamps = tuple(map(_stamp, parts))
    return _premises(*parts, view.steps, view.theory, stamps)


@lru_cache(_KEPT)
def _premises(
    source: str, schedule: str, law: str, steps: int, theory: str, stamps: tuple[int, ...]
) -> Premises:
    found = read_source(source)
    run = found if isinstance(found, Run) else None
    spectrum = found.spectrum if isinstance(found, Run) else found
    sampler = _schedule(schedule, steps, run)
    if theory == "linear":
        return Premises(spectrum, sampler, PRIORS[DEFAULT_PRIOR])
    if law == RUN:
        if run is None or "budget" not in run.record:
            raise InputError("law", "must be that of a run with a budget, or another", law)
        return _of_run(run, spectrum, sampler)
    if law in PRIORS:
        return Premises(spectrum, sampler, LAW_PRIORS[law].fitted(spectrum.num_dimensions))
    path = expand_home(law)
    if not path.is_file():
        need = f"must be {', '.join(PRIORS)} or the calibration.json of `opmerge calibrate`"
        raise InputError("law", need, law)
    calibration = read_calibration(path)
    calibration.check(schedule=sampler)
    return _calibrated(spectrum, sampler, calibration)


def _calibrated(
    spectrum: Spectrum,
    sampler: NoiseSchedule,
    calibration: CalibrationFile,
    recorded: Mapping[str, Any] | None = None,
) -> Premises:
    guided = recorded or {"guidance": calibration.guidance}
    known = calibration.law, calibration.table, calibration.settings
    return Premises(spectrum, sampler, *known, guided)


def _of_run(run: Run, spectrum: Spectrum, sampler: NoiseSchedule) -> Premises:
    """The law and the table of a run at its own steps, as far as its folder has them."""
    budget, law = run.record["budget"], _law_of(run, spectrum.num_dimensions)
    if run.calibration is not None:
        run.calibration.check(schedule=sampler)
        premises = _calibrated(spectrum, sampler, run.calibration, budget)
        return premises if law is None else replace(premises, law=law)
    if law is None:
        need = "must be in the run's folder, as the calibration.json that it was planned with"
        raise InputError("law", need, budget["law"], "choose another law")
    tables = [run.folder / place / TABLE_FILE for place in ("calibration", "table")]
    found = next((path for path in tables if path.is_file()), None)
    if found is None:
        return Premises(spectrum, sampler, law, recorded=budget)
    table = read_table(found)
    if table.num_steps != sampler.num_steps:
        raise InputError("steps", f"must be {table.num_steps}, as the run's", sampler.num_steps)
    law, settings = _law_of(run, table.sizes) or law, {"linear_part": budget["linear_part"]}
    return Premises(spectrum, sampler, law, table, settings, budget)


def _law_of(run: Run, sizes: ArrayLike) -> FittedLaw | None:
    """That of the record, where it holds one, or the prior that it names, for groups of these
    sizes."""
    if "law" in run.record:
        return FittedLaw.from_dict(run.record["law"])
    source = run.record["budget"]["law"]
    prior = next((each for each in LAW_PRIORS.values() if source.startswith(each.source)), None)
    return None if prior is None else prior.fitted(sizes)


def _schedule(text: str, steps: int, run: Run | None) -> NoiseSchedule:
    if text != RUN:
        return resolve_schedule(text, steps)
    if run is None:
        raise InputError("schedule", "must be a name or a file, where the source is no run", text)
    own = run.file.schedule
    if own.num_steps != steps:
        raise InputError("steps", f"must be {own.num_steps}, as the run's schedule", steps)
    return own


def _stamp(name: str) -> int:
    """When a file was changed; 0 for what is none."""
    try:
        path = expand_home(name)
        inner = path / "record.json"
        return (inner if inner.is_file() else path).stat().st_mtime_ns
    except (OSError, InputError):
        return 0
