"""A training budget: which plan to spend it on, and how to split it over the plan's merges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self

import numpy as np
from pydantic import Field, model_validator

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import allocation, find_plan
from opmerge.planners.allocation import (
    SCHEDULES,
    allocate,
    cheapest_plan,
    comb_bound,
    comb_frontier,
    evaluations_per_fold,
)
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.planners.budget_frontier import budget_frontier
from opmerge.planners.first_order import first_order_distance
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Positive, Rising, TeacherSteps
from opmerge.spectra import resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.curriculum.networks import PILOT, SPREAD, STEPS, check_equal_cost, check_pilot
from opmerge_studies.shared import Cell, Runner, Study, grid
from opmerge_studies.shared.strategies import PAPER_RULE, is_as_good

__all__ = ["PILOT", "SCHEDULES", "SPREAD_CASE", "STUDY", "CurriculumSettings", "run"]

COMPARED = ("vanilla", "boot", "progressive")
CHEAPEST, PLANNED, SPREAD_CASE = "cheapest", "planned", "digits, spread rates"

_CASES: Mapping[str, Sequence[str]] = {  # and plans that are none of the named strategies there
    "λ = 0.2": (),
    "λ = 1.5": (PLANNED, CHEAPEST),
    "λ = 5": (CHEAPEST,),
    "digits": (PLANNED,),
    SPREAD_CASE: (),
}
_BOUNDED = ("λ = 0.2", "λ = 5")
_PRICES = np.geomspace(1.0, 1e-30, 400)
_TOLERANCE = 1e-3  # relative, of the W2 of a strategy that is set beside others


class CurriculumSettings(Settings):
    """Settings of the study."""

    steps: TeacherSteps = option(64, "T")
    budgets: Rising[Positive] = option(
        (10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1000, 2000),
        "network evaluations of a sample, in units of optimisation time",
    )
    spread_budgets: Rising[Positive] = option(
        (10, 30, 100, 300, 1000, 3000, 10000, 30000),
        "the same where rates are spread, in units of 400 iterations",
    )
    strategies: tuple[str, ...] = option(
        (
            *("vanilla", "boot", "progressive", "consistency"),
            *("hybrid:1", "hybrid:2", "hybrid:4", "hybrid:8", "hybrid:16", "hybrid:32"),
            *("uniform:4", "temporal:8", "phased:8"),
        ),
        "plans by name",
    )
    spectra: Annotated[tuple[str, ...], Field(min_length=1)] = option(
        ("digits", "patches"), "sources whose whole spectrum gets a frontier"
    )
    small_steps: Annotated[int, Field(ge=3, le=MAX_STEPS)] = option(
        6, "T at which every plan is tried"
    )
    small_budgets: Rising[Positive] = option((3, 10, 30, 100), "the budgets there")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in COMPARED:
            if name not in self.strategies:
                raise InputError("strategies", f"must include {name}", self.strategies)
        for name in self.strategies:
            build_strategy(name, self.steps)
        return self

    @classmethod
    def quick(cls) -> Self:
        """T = 32, fewer budgets and plans: seconds."""
        return cls(
            steps=32,
            budgets=(10, 30, 100, 300, 1000),
            spread_budgets=(10, 100, 1000, 10000),
            strategies=(*COMPARED, "hybrid:2", "hybrid:8"),
            spectra=("digits",),
            small_steps=4,
            small_budgets=(10, 30),
        )


def run(settings: CurriculumSettings, runner: Runner) -> dict[str, Any]:
    """Split every budget over every plan, and find which plan each budget should buy.

    Returns:
        ``tables``: ``splits`` (of each case, plan and budget: W2 by schedule and by the best
        split), ``frontier`` (of each case and budget: the best of these plans), ``plans`` (what
        each costs, and the most that a split can gain), ``small`` (the best of all plans),
        ``whole`` (of each spectrum and budget: the best plan found, and a bound), ``pilot`` and
        ``equal_cost`` (networks beside theory).
    """
    usual = {"num_steps": settings.steps, "budgets": list(settings.budgets)}
    spread = {**usual, "budgets": list(settings.spread_budgets)}
    cells = [
        {"case": case, "name": name, **(spread if case == SPREAD_CASE else usual)}
        for case, plans in _CASES.items()
        for name in (*settings.strategies, *plans)
    ]
    combs = [{"case": case, **usual} for case in _BOUNDED]
    sizes = {"num_steps": settings.small_steps, "budget": settings.small_budgets}
    small = grid(eigenvalue=(0.2, 0.8, 5.0, 50.0), **sizes)
    whole = [{"case": case, **usual} for case in settings.spectra]
    whole.append({"case": SPREAD_CASE, **spread})
    tried = runner.sweep(allocate_plan, cells, "splitting budgets")
    bounds = runner.rows(bound_combs, combs, "bounding combs")
    splits = [row for cell in tried for row in cell["splits"]]
    return {
        "tables": {
            "frontier": _frontier(splits, bounds),
            "splits": splits,
            "plans": [cell["plan"] for cell in tried],
            "small": runner.sweep(try_all_plans, small, "trying all plans"),
            "whole": runner.rows(find_frontier, whole, "frontiers of whole spectra"),
            **runner.tables(check_networks, [{"num_steps": STEPS}], "networks"),
        }
    }


def case_problem(case: str, num_steps: int) -> Problem:
    """The problem of a case; its training is the unit of time."""
    schedule = cosine_schedule(num_steps)
    if case == SPREAD_CASE:
        return Problem(resolve_spectrum("digits"), schedule, SPREAD, merge_rule="denoiser-copy")
    source = case.replace("λ = ", "eigenvalues:")
    return Problem(resolve_spectrum(source), schedule, GradientFlow(1.0), PAPER_RULE)


def case_plan(problem: Problem, name: str) -> Plan:
    """A named strategy, the best plan at s = 6.4 each, or the cheapest tree at large budgets."""
    if name == CHEAPEST:
        return cheapest_plan(problem)
    if name == PLANNED:
        return find_plan(replace(problem, training=GradientFlow(DEFAULT_MERGE_TIME))).plan
    return build_strategy(name, problem.num_steps)


def allocate_plan(case: str, num_steps: int, name: str, budgets: Sequence[float]) -> dict[str, Any]:
    """Every budget, split over one plan by each schedule and in the best way."""
    problem, key = case_problem(case, num_steps), {"case": case, "plan": name}
    plan, splits = case_plan(problem, name), []
    for budget in budgets:
        best = allocate(problem, plan, budget)
        times = {name: allocation.scheduled_times(name, plan, budget) for name in SCHEDULES}
        schedules = {schedule: evaluate(problem, plan, times[schedule]).w2 for schedule in times}
        proof = {"best": best.w2, "lower_bound": best.lower_bound, "residual": best.residual}
        ends = {"shortest": float(best.times.min()), "longest": float(best.times.max())}
        trained = {"trained": int((best.times > 0).sum()), **ends}
        splits.append({**key, "budget": budget, **schedules, **proof, **trained})
    costs = {
        "merges": len(plan.merges),
        "evaluations": plan.network_evaluations(),
        "per_fold": evaluations_per_fold(problem, plan),
        "comb_gain": _comb_gain(problem, plan),
        "what": plan_phrase(plan),
    }
    return {"plan": {**key, **costs}, "splits": splits}


def _comb_gain(problem: Problem, plan: Plan) -> float | None:
    """The most that any split of a comb gains over equal times, where it is known."""
    blocks = [problem.teacher.log_composite(merge.stop, merge.split) for merge in plan.merges]
    errors = np.expm1(-np.array(blocks))
    if problem.merge_rule != "operator-copy" or not _is_comb(plan) or errors.shape[1] > 1:
        return None
    one_sign = (errors > 0).all() or (errors < 0).all()
    costs = allocation.merge_costs(plan)
    return allocation.largest_gain(np.abs(errors[:, 0]), costs) if one_sign else None


def _is_comb(plan: Plan) -> bool:
    return all(merge.start == plan.num_steps for merge in plan.merges)


def bound_combs(case: str, num_steps: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """The best comb at each budget, and the W2 that none goes below however it is split."""
    problem, rows = case_problem(case, num_steps), []
    points = comb_frontier(problem, _PRICES)
    sign = float(np.sign(points[-1].excess)) or 1.0
    for budget in budgets:
        within = [point.plan for point in points if point.budget <= budget][-3:]
        plans = dict.fromkeys(within or [points[0].plan])
        reached = [allocate(problem, plan, budget) for plan in plans if plan.merges]
        best = min(reached, key=lambda split: split.w2)
        bound = problem.distance(np.array([sign * comb_bound(points, budget)]))
        plan = best.outcome.plan
        comb = {"comb": plan_phrase(plan), "comb_merges": len(plan.merges)}
        w2 = {"best_comb": best.w2, "comb_bound": min(bound, best.w2)}
        rows.append({"case": case, "budget": budget, **w2, **comb})
    return rows


def try_all_plans(eigenvalue: float, num_steps: int, budget: float) -> dict[str, Any]:
    """The best plan of all with the best split of a budget, and the best comb."""
    problem = case_problem(f"λ = {eigenvalue}", num_steps)
    tried = [allocate(problem, plan, budget) for plan in all_plans(num_steps, 1)]
    best = min(tried, key=lambda split: split.w2)
    best_comb = min(split.w2 for split in tried if _is_comb(split.outcome.plan))
    return {
        "eigenvalue": eigenvalue,
        "steps": num_steps,
        "budget": budget,
        "plans": len(tried),
        "best": best.w2,
        "best_comb": best_comb,
        "residual": max(split.residual for split in tried),
        "plan": str(best.outcome.plan.to_nested()[0]),
        "is_comb": is_as_good(best_comb, best.w2),
    }


def find_frontier(case: str, num_steps: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """For a whole spectrum the best plan at each budget, and strategies with their best splits."""
    problem, rows = case_problem(case, num_steps), []
    plans = {name: build_strategy(name, num_steps) for name in COMPARED}
    for point in budget_frontier(problem, budgets):
        splits = {
            name: allocate(problem, plan, point.budget, tolerance=_TOLERANCE)
            for name, plan in plans.items()
        }
        least = min(
            first_order_distance(problem, split.plan, split.times) for split in splits.values()
        )
        proof = {"first_order": point.first_order, "lower_bound": point.lower_bound}
        shape = {"merges": len(point.plan.merges), "plan": plan_phrase(point.plan)}
        others = {name: split.w2 for name, split in splits.items()} | {"least_first_order": least}
        rows.append(
            {"case": case, "budget": point.budget, "w2": point.w2, **proof, **shape, **others}
        )
    return rows


def check_networks(num_steps: int) -> dict[str, list[dict[str, Any]]]:
    """What the theories predict for the networks of the pilot and for those of equal cost."""
    problems = case_problem(SPREAD_CASE, num_steps), case_problem("digits", num_steps)
    return {"pilot": check_pilot(*problems), "equal_cost": check_equal_cost(*problems)}


def _frontier(splits: Sequence[Cell], bounds: Sequence[Cell]) -> list[dict[str, Any]]:
    """The best plan of each case and budget, with equal times and with the best split."""
    combs = {(row["case"], row["budget"]): row for row in bounds}
    rows = []
    for case, budget in dict.fromkeys((row["case"], row["budget"]) for row in splits):
        here = [row for row in splits if (row["case"], row["budget"]) == (case, budget)]
        equal = min(here, key=lambda row: float(row["constant"]))
        split = min(here, key=lambda row: float(row["best"]))
        comb = combs.get((case, budget), {})
        best = {"best_plan": split["plan"], "best": split["best"]}
        best |= {"equal_plan": equal["plan"], "equal": equal["constant"]}
        best |= {row["plan"]: row["constant"] for row in here if row["plan"] in COMPARED}
        best |= {key: comb.get(key) for key in ("best_comb", "comb_bound", "comb")}
        rows.append({"case": case, "budget": budget, **best})
    return rows


_QUESTION = "How should a training budget be spread over the merges of a plan?"
STUDY = Study(__name__, _QUESTION, CurriculumSettings, run)
