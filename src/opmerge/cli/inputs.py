"""From options to the objects of the package, with progress on standard error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.cli.options import DataOptions, ProblemOptions, SearchOptions
from opmerge.cli.progress import progress_bar
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.planners import PlannerResult
    from opmerge.plans import Plan, PlanFile
    from opmerge.problem import Problem
    from opmerge.schedules import NoiseSchedule
    from opmerge.spectra import Spectrum
    from opmerge.training import TrainingModel

__all__ = ["build_problem", "load_spectrum", "read_plan", "search"]

DEFAULT_STEPS = 64
_SAME_SCHEDULE = 1e-4  # far above the rounding of float32, in which samplers have theirs


def load_spectrum(data: DataOptions) -> Spectrum:
    """Read or estimate the spectrum that the options name."""
    from opmerge.spectra import resolve_spectrum

    if data.kind not in ("samples", "eigenvalues"):
        raise InputError("as", "must be samples or eigenvalues", data.kind)
    with progress_bar(f"reading {data.source}") as report:
        return resolve_spectrum(
            data.source,
            options=data.source_options(),
            diagonal=data.diagonal,
            top_k=data.top_k,
            as_eigenvalues=data.kind == "eigenvalues",
            seed=data.seed,
            progress=report,
        )


def build_problem(
    spectrum: Spectrum, given: ProblemOptions, made_for: PlanFile | None = None
) -> Problem:
    """The problem; what is not given comes from the plan file, or is the default."""
    from opmerge.problem import Problem
    from opmerge.schedules import resolve_schedule

    steps = given.steps
    if steps is None:
        steps = made_for.plan.num_steps if made_for else DEFAULT_STEPS
    if made_for and given.schedule is None and steps == made_for.plan.num_steps:
        schedule = made_for.schedule
    else:
        schedule = resolve_schedule(given.schedule or "cosine", steps)
    merge_rule: Any = given.merge_rule or (made_for.merge_rule if made_for else "operator-copy")
    objective: Any = given.objective or (made_for.objective if made_for else "teacher")
    rule = merge_rule.replace("_", "-")
    return Problem(spectrum, schedule, _training(given, made_for, rule, schedule), rule, objective)


def search(problem: Problem, given: SearchOptions, student_steps: int | None) -> PlannerResult:
    """Find the plan with the planner that the options name."""
    from opmerge.planners import find_plan, pareto_plan

    planner, count = given.planner.replace("_", "-"), 1 if student_steps is None else student_steps
    if given.epsilon != 0.0 and planner != "pareto":
        raise InputError("epsilon", "is an option of --planner pareto", given.epsilon)

    eigenvalues = len(problem.distinct_eigenvalues)
    with progress_bar(f"planning {problem.num_steps} steps for {eigenvalues} eigenvalues"):
        if planner == "pareto":
            return pareto_plan(problem, count, given.epsilon)
        return find_plan(problem, planner, count)


def read_plan(
    text: str, student_steps: int | None, steps: int | None = None
) -> tuple[Plan, PlanFile | None]:
    """A plan from nested lists, a strategy's name, or a plan file, which then comes with it."""
    from opmerge.plans import STRATEGIES, PlanFile, build_strategy, parse_plan

    students = 1 if student_steps is None else student_steps
    if text.lstrip().startswith("[") or text.strip().isdecimal():
        parsed = parse_plan(text, students)
        if steps not in (None, parsed.num_steps):
            raise InputError("steps", f"must be {parsed.num_steps}, as the plan's", steps)
        return parsed, None
    if text.split(":", maxsplit=1)[0] in STRATEGIES:
        if steps is None:
            raise InputError("steps", "must be given with a strategy", remedy="pass --steps 32")
        return build_strategy(text, steps, students), None
    file = PlanFile.read(text)
    if steps not in (None, file.plan.num_steps):
        raise InputError("steps", f"must be {file.plan.num_steps}, as the plan's", steps)
    if student_steps not in (None, file.plan.student_steps):
        raise InputError(
            "student_steps", f"must be {file.plan.student_steps}, as the plan's", student_steps
        )
    return file.plan, file


def _training(
    given: ProblemOptions, made_for: PlanFile | None, rule: str, schedule: NoiseSchedule
) -> TrainingModel:
    from opmerge.training import GradientFlow, training_from_dict

    if given.training is not None and given.merge_time is not None:
        raise InputError("training", "must not be given together with --merge_time")
    if given.training is not None:
        content = _read_json(given.training)
        if isinstance(content, dict) and content.get("format") == "opmerge.calibration":
            if content.get("merge_rule") != rule:
                raise InputError(
                    "merge_rule", f"must be {content.get('merge_rule')}, as calibrated", rule
                )
            _compare_schedules(content, schedule, given.training)
            content = content.get("training")
        return training_from_dict(content)
    if given.merge_time is not None:
        return GradientFlow(given.merge_time)
    return made_for.training if made_for else GradientFlow()


def _compare_schedules(calibration: dict[str, Any], schedule: NoiseSchedule, path: Path) -> None:
    """Say where a calibration is to predict what its probes did not measure.

    A fit in terms of variances can be read at any T and schedule, so neither is refused.
    """
    import numpy as np

    from opmerge.cli.networks import say
    from opmerge.schedules import NoiseSchedule

    if not {"steps", "schedule"} <= calibration.keys():
        raise InputError(
            str(path),
            "must say for which steps and schedule it was made",
            remedy="run `opmerge calibrate` again, which keeps finished probes",
        )
    own = NoiseSchedule.from_dict(calibration["schedule"], calibration["steps"])
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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"must be JSON ({error})") from error
