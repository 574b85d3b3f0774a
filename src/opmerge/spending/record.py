"""The record of a run: the plan for the budget with its forecast, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from opmerge.measure.probes import schedule_of
from opmerge.planners.around_budget import CUT_SHORT
from opmerge.planners.budget_record import budget_plan_file, budget_record
from opmerge.plans import PlanFile
from opmerge.problem import Problem
from opmerge.spending.steps import Spending
from opmerge.spending.students import Trained


def spending_record(spending: Spending, trained: Sequence[Trained]) -> dict[str, Any]:
    """``budget_record`` of what the calibration left, the ``law`` after the pilot, and ``trained``.

    Each that was trained has ``name``, ``iterations``, ``cost`` without and ``total`` with the
    calibration and the pilot that it needed, in the unit of the budget, ``forecast`` and
    ``measured`` paired errors with their intervals, and ``seconds``.
    """
    knowledge, prices = spending.knowledge, spending.prices
    problem, plans = _problem(spending), spending.foretold
    planned = replace(plans.chosen, best=spending.chosen.planned)
    given = (knowledge.table, spending.law, planned, plans.curve)
    guidance = spending.teacher.guidance_record
    record = budget_record(problem, *given, prices.cost, prices.told, guidance)
    if plans.is_cut:
        record["best"]["notes"].insert(0, CUT_SHORT)
    record["run"] = {
        "budget": prices.told,
        "amount": prices.amount,
        "seconds_per_evaluation": prices.seconds,
        "calibration": knowledge.cost,
        "pilot": spending.pilot_budget,
        "learning_rate": spending.chosen.learning_rate,
        "samples": spending.asked.num_samples,
        "teacher": spending.teacher.digest,
        "one_network": spending.config.sharing == "all",
        "lora_rank": spending.config.lora_rank,
        "not_foretold": spending.not_foretold,
    }
    record["law"] = spending.law.to_dict()
    record["trained"] = [_entry(spending, each) for each in trained]
    return record


def spending_plan(spending: Spending) -> PlanFile:
    """The plan that is trained, with its iterations and its forecast."""
    return budget_plan_file(_problem(spending), spending_record(spending, []))


def _problem(spending: Spending) -> Problem:
    return Problem(spending.spectrum, schedule_of(spending.teacher.ddim))


def _entry(spending: Spending, each: Trained) -> dict[str, Any]:
    is_planned = each.forecast is not None
    paid = spending.planning_cost if is_planned else 0.0
    forecast = each.forecast
    return {
        "name": each.name,
        "iterations": list(each.iterations),
        "merges": len(each.plan.merges),
        "cost": each.cost,
        "total": each.cost + paid,
        "forecast": None
        if forecast is None
        else {"value": forecast.rms, "low": forecast.low, "high": forecast.high},
        "measured": asdict(each.measured),
        "seconds": each.seconds,
    }
