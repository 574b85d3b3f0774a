"""``opmerge plan --budget``: a plan, the iterations of its merges, and a forecast, for a budget."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import opmerge
from opmerge.cli import output, runs
from opmerge.cli.premises import Premises, find_premises
from opmerge.cli.progress import progress_bar, say
from opmerge.clock import PLAN_SHARE, searching_seconds, time_limit
from opmerge.errors import InputError
from opmerge.settings.guidance import GuidanceOptions
from opmerge.settings.types import GRADIENT_FLOW, read_budget

if TYPE_CHECKING:
    from opmerge.forecast.cost import IterationCost
    from opmerge.settings.commands import BudgetOptions, OutputOptions, PlanOptions, SearchOptions
    from opmerge.settings.data import DataOptions

    _Options = tuple[DataOptions, PlanOptions, SearchOptions, BudgetOptions]

DEFAULT_ITERATIONS = 400
"""Of vanilla: what they cost is the budget of a student of several steps where none is told."""


def is_asked(problem: PlanOptions, searching: SearchOptions, spending: BudgetOptions) -> bool:
    """Whether the law of merges is to plan: for a budget, or K > 1 unless a linear plan is meant.

    Raises:
        InputError: for a budget beside what belongs to the linear theory alone.
    """
    rule = problem.given("merge_rule")
    linear = {
        "planner": searching.given("planner"),
        "epsilon": searching.given("epsilon"),
        "merge_time": problem.given("merge_time"),
        "training": problem.training,
        "objective": "data" if problem.objective == "data" else None,
        "merge_rule": None if rule == "denoiser-copy" else rule,
    }
    told = {name: value for name, value in linear.items() if value is not None}
    if spending.budget is None:
        several = isinstance(problem.student_steps, tuple)
        if several and told:
            raise InputError("student_steps", "must be one number", problem.student_steps)
        if not several and spending.teacher is None and (told or problem.student_steps == 1):
            return False
    if told.get("training") not in (None, GRADIENT_FLOW):
        del told["training"]  # a calibration
    for name, value in told.items():
        need = "must be left out beside a budget: it is of the linear theory"
        raise InputError(name, need, str(value))
    if searching.strategy:
        need = "must be left out beside a budget: every strategy stands beside its plan"
        raise InputError("strategy", need, ", ".join(searching.strategy))
    return True


def answer(
    spectrum: opmerge.Spectrum, options: _Options, guidance: GuidanceOptions, files: OutputOptions
) -> None:
    """Plan for the budget, write the run where a folder is given, and show the answer."""
    from opmerge.planners.around_budget import CUT_SHORT, plans_around
    from opmerge.planners.budget_record import budget_plan_file, budget_record

    data, asked, searching, spending = options
    steps = asked.student_steps
    counts = steps if isinstance(steps, tuple) else (steps,)
    for count in counts:  # before a teacher is measured
        if not 1 <= count <= asked.steps:
            need = f"must be from 1 to {asked.steps}, the teacher's steps"
            raise InputError("student_steps", need, count)
    premises = find_premises(spectrum, data, asked, spending, guidance, files.output_dir)
    spent = _Spent.of(spending, asked.steps, premises)
    schedule, law, table = premises.schedule, premises.law, premises.table
    problem = opmerge.Problem(spectrum, schedule, merge_rule="denoiser-copy")
    told, began = (spent.told, premises.guidance), time.perf_counter()
    seconds = searching.max_seconds
    title = f"planning {asked.steps} steps for a budget, {seconds:g} s at most"
    computing = searching_seconds(seconds)
    with progress_bar(title) as report, time_limit(computing, report):
        given = table, law, spent.amount, counts, spent.charged, PLAN_SHARE * computing
        found = plans_around(*given, free_runs=premises.free_runs)
        chosen = found.chosen
        record = budget_record(problem, table, law, chosen, found.curve, spent.cost, *told)
    record["best"]["notes"] += [*premises.notes, *spent.notes, *_as_trained(spending)]
    if found.is_cut:
        record["best"]["cut_short_after"] = time.perf_counter() - began
        record["best"]["notes"].insert(0, CUT_SHORT)
        say(f"{CUT_SHORT} (--max_seconds {seconds:g})")
    if files.output_dir is not None:
        used = GuidanceOptions.of_record(premises.guidance)
        plan = budget_plan_file(problem, record)
        runs.write_run(files.output_dir, plan, record, "plan", *options, used)
    if files.as_json:
        output.show_json(record, chosen.best.plan)
    else:
        output.show_budget(record, chosen.best.plan, files.output_dir)


def _as_trained(spending: BudgetOptions) -> list[str]:
    """What `distill` is to be told, so that the iterations cost what was planned."""
    names = ("train_batch_size", "target_reuse")
    told = [f"--{name} {getattr(spending, name)}" for name in names if spending.given(name)]
    return [f"planned for `opmerge distill {' '.join(told)}`"] if told else []


@dataclass(frozen=True)
class _Spent:
    """A budget: the amount, what it is charged by, and what an iteration costs in evaluations."""

    amount: float
    charged: IterationCost
    cost: IterationCost
    told: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, spending: BudgetOptions, steps: int, premises: Premises) -> _Spent:
        """The budget that was asked for, or the one that stands for it; what an iteration costs is
        as told, or as in the runs that the calibration is for."""
        from opmerge.forecast.cost import IterationCost

        known, given = premises.settings, spending.given
        batches = known.get("optimization", {}).get("global_batch_size", spending.train_batch_size)
        batch = given("train_batch_size", batches)
        cost = IterationCost.of_runs(
            premises.table,
            batch,
            given("target_reuse", known.get("target_reuse", spending.target_reuse)),
            GuidanceOptions.of_record(premises.guidance).steps(steps),
            premises.is_solved,
        )
        if spending.budget is None:
            guided = cost.teacher_passes(steps, 0) - steps
            amount = cost.total(steps, DEFAULT_ITERATIONS, guided)
            told = f"{DEFAULT_ITERATIONS} iterations of vanilla"
            note = (
                f"no budget was told: planned for {amount:,.0f} network evaluations, what "
                f"{DEFAULT_ITERATIONS} iterations of vanilla cost (--budget); --training "
                "gradient-flow plans by the linear theory, in which long jumps cost nothing"
            )
            return cls(amount, cost, cost, told, (note,))
        amount, unit = read_budget(spending.budget)
        if unit == "iterations":
            return cls(amount, IterationCost.of_iterations(), cost, spending.budget)
        if unit == "seconds" and premises.timed is not None:
            timed = premises.timed
            return cls(timed.amount, timed.cost, timed.cost, spending.budget)
        if unit == "seconds":
            if spending.seconds_per_evaluation is None:
                raise InputError(
                    "budget",
                    "of time must come with the seconds of a network evaluation",
                    spending.budget,
                    "pass `teacher`, which is then timed here, or `seconds_per_evaluation`",
                )
            amount /= spending.seconds_per_evaluation
        return cls(amount, cost, cost, spending.budget)
