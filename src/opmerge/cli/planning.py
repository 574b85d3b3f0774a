"""The commands that plan: a spectrum and a problem, the best plan, and others beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.cli import output, runs
from opmerge.cli.progress import progress_bar, say
from opmerge.errors import InputError
from opmerge.files import read_json_object, write_atomic

if TYPE_CHECKING:
    from opmerge.planners import PlannerResult
    from opmerge.plans import Plan, PlanFile
    from opmerge.problem import Problem
    from opmerge.schedules import NoiseSchedule
    from opmerge.settings.commands import EvaluationOptions, OutputOptions
    from opmerge.settings.data import DataOptions
    from opmerge.settings.planning import ProblemOptions, SearchOptions
    from opmerge.spectra import Spectrum
    from opmerge.training import TrainingModel

_SAME_SCHEDULE = 1e-4  # far above the rounding of float32, in which samplers have theirs


def plan(
    data: DataOptions, problem: ProblemOptions, searching: SearchOptions, files: OutputOptions
) -> None:
    """Find the best order in which to merge a sampler's steps, with proof."""
    record, best = _plan_and_record("plan", data, problem, searching, files.output_dir)
    output.show_plan(record, best, files.output_dir, files.as_json)


def compare(
    data: DataOptions, problem: ProblemOptions, searching: SearchOptions, files: OutputOptions
) -> None:
    """Set the named strategies side by side, and beside the best plan."""
    record, best = _plan_and_record("compare", data, problem, searching, files.output_dir)
    output.show_comparison(record, best, files.as_json)


def evaluate(
    data: DataOptions, problem: ProblemOptions, chosen: EvaluationOptions, files: OutputOptions
) -> None:
    """Evaluate a plan: what it costs in quality, and where the error arises."""
    from opmerge.merging import evaluate as evaluate_plan

    runs.prepare_folder(files.output_dir)
    parsed, made_for = read_plan(chosen.plan, problem.given("student_steps"))
    asked = problem.replaced(steps=problem.given("steps", parsed.num_steps))
    outcome = evaluate_plan(_build_problem(_load_spectrum(data), asked, made_for), parsed)
    text = output.evaluation_text(outcome, made_for)
    if files.output_dir is not None:
        write_atomic(files.output_dir / "evaluation.json", text + "\n")
    if files.as_json:
        print(text)
    else:
        output.show_evaluation(outcome, made_for)


def spectrum(data: DataOptions, files: OutputOptions) -> None:
    """Estimate the spectrum of the data; with --output_dir, save and draw it."""
    runs.prepare_folder(files.output_dir)
    estimated = _load_spectrum(data)
    if files.output_dir is not None:
        runs.write_spectrum(files.output_dir, estimated)
    output.show_spectrum(estimated, files.output_dir, files.as_json)


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


def _plan_and_record(
    command: str,
    data: DataOptions,
    problem: ProblemOptions,
    searching: SearchOptions,
    folder: Path | None,
) -> tuple[dict[str, Any], Plan]:
    """Plan, set the strategies beside it, and write the run where a folder is given."""
    from opmerge.planners.record import compare_strategies, plan_record
    from opmerge.plans import default_strategies

    runs.prepare_folder(folder)
    built = _build_problem(_load_spectrum(data), problem)
    result = _search(built, searching, problem.student_steps)
    names = searching.strategy or default_strategies(built.num_steps)
    outcomes = compare_strategies(built, names, result.plan.student_steps)
    record = plan_record(built, result, outcomes)
    if folder is not None:
        runs.write_run(folder, built, result, record, command, data, problem, searching)
    return record, result.plan


def _load_spectrum(data: DataOptions) -> Spectrum:
    """Read or estimate the spectrum that the options name."""
    from opmerge.spectra import resolve_spectrum

    if data.kind not in ("samples", "eigenvalues"):
        raise InputError("as", "must be samples or eigenvalues", data.kind)
    with progress_bar(f"reading {data.source}") as report:
        return resolve_spectrum(
            data.source,
            options=data,
            diagonal=data.diagonal,
            top_k=data.top_k,
            as_eigenvalues=data.kind == "eigenvalues",
            seed=data.seed,
            progress=report,
        )


def _build_problem(
    spectrum: Spectrum, asked: ProblemOptions, made_for: PlanFile | None = None
) -> Problem:
    """The problem; what is not given comes from the plan file, or is the default."""
    from opmerge.problem import Problem
    from opmerge.schedules import resolve_schedule

    file: Any = made_for or asked
    rule = asked.given("merge_rule", file.merge_rule)
    objective = asked.given("objective", file.objective)
    if made_for and not asked.given("schedule") and asked.steps == made_for.plan.num_steps:
        schedule = made_for.schedule
    else:
        schedule = resolve_schedule(asked.schedule, asked.steps)
    return Problem(spectrum, schedule, _training(asked, made_for, rule, schedule), rule, objective)


def _search(problem: Problem, asked: SearchOptions, student_steps: int) -> PlannerResult:
    """Find the plan with the planner that the options name."""
    from opmerge.planners import find_plan, pareto_plan

    planner = asked.planner.replace("_", "-")
    if asked.epsilon != 0.0 and planner != "pareto":
        raise InputError("epsilon", "is an option of --planner pareto", asked.epsilon)

    eigenvalues = len(problem.distinct_eigenvalues)
    with progress_bar(f"planning {problem.num_steps} steps for {eigenvalues} eigenvalues"):
        if planner == "pareto":
            return pareto_plan(problem, student_steps, asked.epsilon)
        return find_plan(problem, planner, student_steps)


def _training(
    asked: ProblemOptions, made_for: PlanFile | None, rule: str, schedule: NoiseSchedule
) -> TrainingModel:
    from opmerge.training import GradientFlow, training_from_dict

    time = asked.given("merge_time")
    if asked.training is not None and time is not None:
        raise InputError("training", "must not be given together with --merge_time")
    if asked.training is not None:
        content = read_json_object(asked.training)
        if content.get("format") == "opmerge.calibration":
            if content.get("merge_rule") != rule:
                raise InputError(
                    "merge_rule", f"must be {content.get('merge_rule')}, as calibrated", rule
                )
            _compare_schedules(content, schedule, asked.training)
            content = content.get("training", {})
        return training_from_dict(content)
    return made_for.training if made_for and time is None else GradientFlow(asked.merge_time)


def _compare_schedules(calibration: dict[str, Any], schedule: NoiseSchedule, path: Path) -> None:
    """Say where a calibration is to predict what its probes did not measure.

    A fit in terms of variances can be read at any T and schedule, so neither is refused.
    """
    import numpy as np

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
