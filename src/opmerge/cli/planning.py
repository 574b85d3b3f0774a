"""The commands that plan: a spectrum and a problem, the best plan, and others beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import opmerge
from opmerge.cli import output, runs
from opmerge.cli.problems import build_problem, load_spectrum, sample_shape, schedule_of
from opmerge.cli.progress import progress_bar, say
from opmerge.clock import PLAN_SHARE, searching_seconds, time_limit
from opmerge.errors import InputError
from opmerge.files import expand_home, write_atomic

if TYPE_CHECKING:
    from opmerge.settings.commands import (
        BudgetOptions,
        EvaluationOptions,
        OutputOptions,
        PlanOptions,
        ProblemOptions,
        SearchOptions,
    )
    from opmerge.settings.data import DataOptions
    from opmerge.settings.guidance import GuidanceOptions


def plan(
    data: DataOptions,
    problem: PlanOptions,
    searching: SearchOptions,
    spending: BudgetOptions,
    guidance: GuidanceOptions,
    files: OutputOptions,
) -> None:
    """Find the best order in which to merge a sampler's steps.

    In the linear theory, with proof; for a --budget, and for students of several steps, by the law
    of merges, with the iterations of every merge and a forecast of the error.

    Examples:
        opmerge plan digits --steps 64 --output_dir runs/plan
        opmerge plan my_latents.npy --schedule path/to/model --steps 50 --student_steps 4
        opmerge plan my_images/ --teacher path/to/model --steps 32 --budget 20h \\
            --output_dir runs/plan
    """
    from opmerge.cli import budgets

    if budgets.is_asked(problem, searching, spending):
        runs.prepare_folder(files.output_dir)
        data = data.fitted(sample_shape(problem, spending))
        spectrum = load_spectrum(data)
        budgets.answer(spectrum, (data, problem, searching, spending), guidance, files)
    else:
        if guidance.guidance_scale is not None:
            need = "must come with a budget: no certificate of the linear theory covers guidance"
            remedy = (
                "pass --budget; of up to 9 steps `opmerge.planners.guided_plan` proves the best"
            )
            raise InputError("guidance_scale", need, guidance.guidance_scale, remedy)
        _answer("plan", output.show_plan, data, problem, searching, files)


def compare(
    data: DataOptions, problem: ProblemOptions, searching: SearchOptions, files: OutputOptions
) -> None:
    """Set the named strategies side by side, and beside the best plan.

    Examples:
        opmerge compare digits --steps 64
    """
    _answer("compare", output.show_comparison, data, problem, searching, files)


def evaluate(
    data: DataOptions, problem: ProblemOptions, chosen: EvaluationOptions, files: OutputOptions
) -> None:
    """Evaluate a plan: what it costs in quality, and where the error arises.

    Examples:
        opmerge evaluate digits --plan '[[3,2],1]'
        opmerge evaluate digits --plan hybrid:8 --steps 64 --json
    """
    runs.prepare_folder(files.output_dir)
    steps = problem.steps if _is_strategy(chosen.plan) else None
    parsed, made_for = read_plan(chosen.plan, problem.given("student_steps"), steps)
    asked = problem.replaced(steps=problem.given("steps", parsed.num_steps))
    schedule, shape = schedule_of(asked, made_for)
    spectrum = load_spectrum(data.fitted(shape))
    outcome = opmerge.evaluate(build_problem(spectrum, schedule, asked, made_for), parsed)
    text = output.evaluation_text(outcome, made_for)
    if files.output_dir is not None:
        write_atomic(files.output_dir / "evaluation.json", text + "\n")
    if files.as_json:
        print(text)
    else:
        output.show_evaluation(outcome, made_for)


def spectrum(data: DataOptions, files: OutputOptions) -> None:
    """Estimate the spectrum of the data; with --output_dir, save and draw it.

    Examples:
        opmerge spectrum my_images/ --output_dir runs/spectrum
    """
    runs.prepare_folder(files.output_dir)
    estimated = load_spectrum(data)
    if files.output_dir is not None:
        runs.write_spectrum(files.output_dir, estimated)
    output.show_spectrum(estimated, files.output_dir, files.as_json)


def read_plan(
    text: str, student_steps: int | None, steps: int | None = None, free_step: int | None = None
) -> tuple[opmerge.Plan, opmerge.PlanFile | None]:
    """A plan from nested lists, a strategy's name, or a plan file, which then comes with it.

    With a free step from T = ``steps``, lists and a strategy are of the steps that remain.
    """
    file, students = None, 1 if student_steps is None else student_steps
    is_nested = text.lstrip().startswith("[") or text.strip().isdecimal()
    is_named = _is_strategy(text)
    if steps is None and (is_named or (is_nested and free_step is not None)):
        what = "a free step" if is_nested else "a strategy"
        raise InputError("steps", f"must be given with {what}", remedy="pass --steps 32")
    if is_nested:
        parsed = opmerge.parse_plan(text, students)
    elif is_named:
        assert steps is not None, "refused above"
        if free_step is not None and not 1 <= free_step < steps:
            raise InputError("free_step", f"must be in 1 … {steps - 1}, below T", free_step)
        parsed = opmerge.build_strategy(text, free_step or steps, students)
    else:
        _check_names_a_file(text)
        file = opmerge.PlanFile.read(text)
        parsed = file.plan
    if free_step is not None and file is None:
        if free_step != parsed.num_steps:
            requirement = f"must be {parsed.num_steps}, where the plan's lists start"
            raise InputError("free_step", requirement, free_step)
        parsed = opmerge.Plan(parsed.students, steps)
    planned = {
        "steps": parsed.num_steps,
        "student_steps": parsed.student_steps,
        "free_step": parsed.free_step,
    }
    given = {"steps": steps, "student_steps": student_steps, "free_step": free_step}
    for name, asked in given.items():
        if asked not in (None, planned[name]):
            requirement = f"must be {planned[name]}, as the plan's"
            if planned[name] is None:
                requirement = "must be left out: the plan has none"
            raise InputError(name, requirement, asked)
    return parsed, file


def _is_strategy(text: str) -> bool:
    from opmerge.plans import STRATEGIES

    return text.partition(":")[0] in STRATEGIES


def _check_names_a_file(text: str) -> None:
    """Refuse a word that names no file: what was meant may be a strategy."""
    from opmerge.plans import EXAMPLES

    path = expand_home(text)
    if os.fspath(path) == path.name and not path.suffix and not os.path.lexists(path):
        known = ", ".join(EXAMPLES.values())
        need = f"must be a plan file, a strategy ({known}) or nested lists such as [[3,2],1]"
        raise InputError("plan", need, text)


def _answer(
    command: str,
    show: Callable[[dict[str, Any], opmerge.Plan, Path | None], None],
    data: DataOptions,
    problem: ProblemOptions,
    searching: SearchOptions,
    files: OutputOptions,
) -> None:
    """Plan, set the strategies beside it, write the run where a folder is given, and show it."""
    from opmerge.planners import pareto_plan
    from opmerge.planners.in_time import plan_in_time
    from opmerge.planners.record import evaluate_in_time, plan_file, plan_record
    from opmerge.plans import build_strategy, default_strategies

    folder, planner = files.output_dir, searching.planner.replace("_", "-")
    runs.prepare_folder(folder)
    schedule, shape = schedule_of(problem)
    data = data.fitted(shape)
    built = build_problem(load_spectrum(data), schedule, problem)
    if searching.epsilon != 0.0 and planner != "pareto":
        raise InputError("epsilon", "is an option of --planner pareto", searching.epsilon)
    eigenvalues, seconds = len(built.distinct_eigenvalues), searching.max_seconds
    title = f"planning {built.num_steps} steps for {eigenvalues} eigenvalues, {seconds:g} s at most"
    computing = searching_seconds(seconds)
    with progress_bar(title) as report, time_limit(computing, report):
        if planner == "pareto":
            search = partial(pareto_plan, built, problem.student_steps, searching.epsilon)
            result = plan_in_time(search, built, problem.student_steps, PLAN_SHARE * computing)
        else:
            given = built, planner, problem.student_steps, PLAN_SHARE * computing
            result = opmerge.find_plan(*given)
        names = searching.strategy or default_strategies(built.num_steps)
        students = result.plan.student_steps
        plans = ((name, build_strategy(name, built.num_steps, students)) for name in names)
        outcomes = evaluate_in_time(built, plans)
        if left_out := [name for name in names if name not in outcomes]:
            note = f"left out for want of time: {', '.join(left_out)}"
            result = replace(result, notes=(*result.notes, note))
        record = plan_record(built, result, outcomes)
    if result.cut_short:
        say(f"{result.notes[0]} (--max_seconds {seconds:g})")
    if folder is not None:
        used = {"merge_time": record["problem"]["training"].get("time"), "strategy": list(names)}
        plan = plan_file(result)
        runs.write_run(folder, plan, record, command, data, problem, searching, used)
    if files.as_json:
        output.show_json(record, result.plan)
    else:
        show(record, result.plan, folder)
