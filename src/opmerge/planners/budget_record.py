"""The record of a plan for a budget: what is forecast, beside the linear theory's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opmerge.clock import unlimited
from opmerge.forecast import FittedLaw, TeacherTable
from opmerge.forecast.cost import IterationCost
from opmerge.merging import evaluate
from opmerge.planners.budget import BudgetPlan, BudgetResult, ratio_interval
from opmerge.planners.record import evaluate_in_time, plan_record
from opmerge.planners.result import PlannerResult
from opmerge.plans import PlanFile
from opmerge.plans.drawing import recorded_plan
from opmerge.problem import Problem
from opmerge.settings.guidance import GuidanceRecord
from opmerge.settings.types import read_budget


def budget_record(
    problem: Problem,
    table: TeacherTable,
    law: FittedLaw,
    result: BudgetResult,
    curve: Sequence[BudgetResult],
    cost: IterationCost,
    told: str,
    guidance: GuidanceRecord | None = None,
    at_equal_cost: bool = True,
) -> dict[str, Any]:
    """A plan's record, in which every plan has what it costs and what is forecast of it.

    Beside the linear theory's ``w2``, of which nothing is proved (``lower_bound`` 0), each plan has
    ``iterations``, ``cost`` in network evaluations, ``paired_rms`` with ``low`` and ``high``, and
    the 90 % interval of the ratio of its error to the least (``ratio_low``, ``ratio_high``). All
    strategies are at the budget. ``best`` with a free step has ``free_step_cost``, the part of its
    cost that the step is fitted with. ``least`` is the plan with the least forecast; ``frontier``
    has a row for every K and budget. A budget is told in its own words, by its amount, and as
    network evaluations (those of the plan, where iterations were asked for). ``guidance`` is that
    of the teacher, ``at_equal_cost`` as in ``plan_record``.
    """
    with unlimited():
        best = evaluate(problem, result.best.plan)
    strategies = {each.name: each for each in result.strategies}
    outcomes = evaluate_in_time(problem, ((name, s.plan) for name, s in strategies.items()))
    linear = PlannerResult(best, 0.0, "budget", 0.0)
    record = plan_record(problem, linear, outcomes, at_equal_cost)

    counts_iterations = read_budget(told)[1] == "iterations"

    def evaluations(planned: BudgetPlan) -> float:
        return cost.of_plan(planned.plan, planned.iterations) if counts_iterations else planned.cost

    def entry(planned: BudgetPlan) -> dict[str, Any]:
        expected, least = planned.forecast, result.least.forecast
        best_rms = result.best.forecast.rms
        low, high = ratio_interval(expected, least, law.scatter) if least.rms else (1.0, 1.0)
        return {
            "iterations": list(planned.iterations),
            "cost": evaluations(planned),
            "paired_rms": expected.rms,
            "low": expected.low,
            "high": expected.high,
            "ratio_to_best": expected.rms / best_rms if best_rms > 0 else None,
            "ratio_low": low,
            "ratio_high": high,
        }

    record["best"] |= {"name": result.best.name, **entry(result.best)}
    if result.best.plan.free_step is not None:
        trained = cost.of_plan(result.best.plan, result.best.iterations)
        record["best"]["free_step_cost"] = result.best.cost - trained
    record["best"]["gap"] = 1.0 if record["best"]["w2"] else 0.0
    record["strategies"] = [
        {**known, **entry(strategies[known["name"]])} for known in record["strategies"]
    ]
    structure = _structure(result.least)
    record["least"] = {"name": result.least.name, **structure, **entry(result.least)}
    record["equal"] = None
    if result.equal is not None:
        record["equal"] = {"name": result.equal.name, **entry(result.equal)}
    record["ties"] = [tie.plan.name for tie in result.ties]
    record["frontier"] = [_row(each, evaluations(each.least)) for each in curve]
    record["budget"] = {
        "told": told,
        "amount": result.budget,
        "evaluations": record["best"]["cost"] if counts_iterations else result.budget,
        "batch": cost.batch,
        "reuse": cost.reuse,
        "linear_part": "solve" if table.is_nonlinear else "train",
        "student_passes": cost.student_passes,
        "guidance": dict(guidance or {}),
        "law": law.source,
        "scatter": law.scatter,
        "output_spread": table.output_spread,
        "dimensions": table.num_dimensions,
    }
    return record


def budget_plan_file(problem: Problem, record: Mapping[str, Any]) -> PlanFile:
    """The plan of a record with its iterations and forecast, as ``distill`` executes it."""
    best = record["best"]
    keys = ("w2", "lower_bound", "gap", "paired_rms", "low", "high", "cut_short_after")
    return PlanFile(
        recorded_plan(best),
        problem.schedule,
        problem.training,
        problem.merge_rule,
        problem.objective,
        {key: best[key] for key in keys if key in best},
        problem.spectrum.identity(),
        tuple(best["iterations"]),
        record["budget"]["evaluations"],
        record["budget"].get("guidance") or {},
    )


def _row(result: BudgetResult, cost: float) -> dict[str, Any]:
    least = result.least.forecast
    return {
        "student_steps": result.student_steps,
        "budget": result.budget,
        "cost": cost,
        "paired_rms": least.rms,
        "low": least.low,
        "high": least.high,
        "name": result.least.name,
        "merges": len(result.least.iterations),
        "best": {
            "name": result.best.name,
            "paired_rms": result.best.forecast.rms,
            "merges": len(result.best.iterations),
        },
    }


def _structure(planned: BudgetPlan) -> dict[str, Any]:
    free = planned.plan.free_step
    return {
        **({} if free is None else {"free_step": free}),
        "boundaries": list(planned.plan.boundaries),
        "merge_list": [
            {"boundaries": list(merge.boundaries), "share": 0.0} for merge in planned.plan.merges
        ],
    }
