"""The merge problem that options ask for: its spectrum, schedule and training model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import opmerge
from opmerge.cli.progress import progress_bar, say
from opmerge.errors import InputError
from opmerge.files import expand_home, read_json_object

if TYPE_CHECKING:
    from pathlib import Path

    from opmerge.settings.commands import BudgetOptions, PlanOptions, ProblemOptions
    from opmerge.settings.data import DataOptions

_SAME_SCHEDULE = 1e-4  # far above the rounding of float32, in which samplers have theirs


def load_spectrum(data: DataOptions) -> opmerge.Spectrum:
    """Read or estimate the spectrum that the options name."""
    if data.kind not in ("samples", "eigenvalues"):
        raise InputError("as", "must be samples or eigenvalues", data.kind)
    with progress_bar(f"reading {data.source}") as report:
        return opmerge.resolve_spectrum(
            data.source,
            options=data,
            diagonal=data.diagonal,
            top_k=data.top_k,
            as_eigenvalues=data.kind == "eigenvalues",
            seed=data.seed,
            progress=report,
        )


def read_schedule(text: str, steps: int) -> tuple[opmerge.NoiseSchedule, tuple[int, ...] | None]:
    """A schedule, and the shape of a teacher's samples where it is of one's folder.

    What `distill` refuses such a teacher for is among the schedule's notes.
    """
    if not expand_home(text).is_dir():
        return opmerge.resolve_schedule(text, steps), None
    from opmerge.denoisers.teacher_folder import outline_teacher

    outline = outline_teacher(text, steps)
    return outline.schedule, outline.sample_shape


def sample_shape(problem: PlanOptions, spending: BudgetOptions) -> tuple[int, ...] | None:
    """What the teacher of a plan reads, if there is one."""
    if spending.teacher is None:
        return read_schedule(problem.schedule, problem.steps)[1]
    from opmerge.denoisers.teacher_folder import outline_teacher

    return outline_teacher(spending.teacher, problem.steps).sample_shape


def schedule_of(
    asked: ProblemOptions, made_for: opmerge.PlanFile | None = None
) -> tuple[opmerge.NoiseSchedule, tuple[int, ...] | None]:
    """``read_schedule`` of what is asked for, or the schedule of a plan file."""
    if made_for and not asked.given("schedule") and asked.steps == made_for.plan.num_steps:
        return made_for.schedule, None
    return read_schedule(asked.schedule, asked.steps)


def build_problem(
    spectrum: opmerge.Spectrum,
    schedule: opmerge.NoiseSchedule,
    asked: ProblemOptions,
    made_for: opmerge.PlanFile | None = None,
) -> opmerge.Problem:
    """The problem; what is not given comes from the plan file, or is the default."""
    file: Any = made_for or asked
    rule = asked.given("merge_rule", file.merge_rule)
    objective = asked.given("objective", file.objective)
    training = _training(asked, made_for, rule, schedule)
    return opmerge.Problem(spectrum, schedule, training, rule, objective)


def _training(
    asked: ProblemOptions,
    made_for: opmerge.PlanFile | None,
    rule: str,
    schedule: opmerge.NoiseSchedule,
) -> opmerge.TrainingModel:
    from opmerge.forecast.files import FORMAT, check_content
    from opmerge.settings.types import GRADIENT_FLOW
    from opmerge.training import training_from_dict

    time = asked.given("merge_time")
    if asked.training == GRADIENT_FLOW:
        return opmerge.GradientFlow(asked.merge_time)
    if asked.training is None:
        file = made_for if time is None else None
        return file.training if file else opmerge.GradientFlow(asked.merge_time)
    if time is not None:
        raise InputError("training", "must not be given together with --merge_time")
    content = read_json_object(asked.training)
    if content.get("format") == FORMAT:
        check_content(content, asked.training)
        if content.get("merge_rule") != rule:
            need = f"must be {content.get('merge_rule')}, as calibrated"
            raise InputError("merge_rule", need, rule)
        if content.get("guidance"):
            need = "must be of a teacher without guidance, which linear plans are for"
            raise InputError("training", need, str(asked.training), "plan for a `budget`")
        _compare_schedules(content, schedule, asked.training)
        content = content.get("training", {})
    return training_from_dict(content)


def _compare_schedules(
    calibration: dict[str, Any], schedule: opmerge.NoiseSchedule, path: Path
) -> None:
    """Say where a calibration is to predict what its probes did not measure.

    A fit in terms of variances can be read at any T and schedule, so neither is refused.
    """
    import numpy as np

    if not {"steps", "schedule"} <= calibration.keys():
        raise InputError(
            str(path),
            "must say for which steps and schedule it was made",
            remedy="run `opmerge calibrate` again, which keeps finished probes",
        )
    own = opmerge.NoiseSchedule.from_dict(calibration["schedule"], calibration["steps"])
    beyond = "what it predicts here its probes did not measure"
    if own.num_steps != schedule.num_steps:
        say(f"the calibration is for T = {own.num_steps}, not {schedule.num_steps}: {beyond}")
        return
    off = np.maximum(abs(own.alphas - schedule.alphas), abs(own.sigmas - schedule.sigmas))
    if off.max() > _SAME_SCHEDULE:
        t = int(off.argmax())
        say(
            f"the calibration is for another schedule (alpha_{t} = {own.alphas[t]:.4g}, not "
            f"{schedule.alphas[t]:.4g}): {beyond}; --schedule takes the folder of its teacher"
        )
