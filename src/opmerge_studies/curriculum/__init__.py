"""A training budget: which plan to spend it on, and how to split it over the plan's merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.allocation import (
    OVERHEAD,
    SCHEDULES,
    allocate,
    largest_gain,
    merge_costs,
    scheduled_times,
)
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.planners.frontier import cheapest_plan, comb_bound, comb_frontier, evaluations_per_fold
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum, resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GammaRates, GradientFlow
from opmerge_studies.shared.runner import Cell, Runner

__all__ = ["Config", "allocate_plan", "bound_combs", "check_pilot", "run", "try_all_plans"]

FLOW_CASES = ("λ = 0.2", "λ = 1.5", "λ = 5", "digits")
SPREAD_CASE = "digits, spread rates"
CHEAPEST, PLANNED = "cheapest", "planned"

PILOT_STEPS = 32
PILOT: Mapping[tuple[str, int], float] = {
    ("boot", 400): 0.934,
    ("hybrid:8", 1000): 0.911,
    ("hybrid:4", 1600): 0.911,
    ("vanilla", 3200): 0.932,
    ("hybrid:8", 400): 1.19,
    ("progressive", 400): 1.40,
    ("vanilla", 400): 1.71,
    ("consistency", 400): 2.16,
}
"""Squared error of networks trained on digits for so many iterations a merge (THEORY 9): the
first four took the same time in all."""

SPREAD = GammaRates(0.5, 12.0, 0.0, 400, 3e-4, 400, 3e-4)
"""The spread of rates that probes of a digits network gave, rounded; its unit is 400 iterations."""

_MORE_PLANS: Mapping[str, Sequence[str]] = {  # where they are none of the named strategies
    "λ = 0.2": (),
    "λ = 1.5": (PLANNED, CHEAPEST),
    "λ = 5": (CHEAPEST,),
    "digits": (PLANNED,),
    SPREAD_CASE: (),
}
_PRICES = np.geomspace(1.0, 1e-30, 400)
_EQUAL = 1e-9  # relative difference of two distances that is rounding


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: T.
        budgets: total network evaluations of a sample, in units of optimisation time, ascending.
        spread_budgets: the same where rates are spread, in units of 400 iterations.
        strategies: plans by name.
        small_steps: T at which every plan is tried.
        small_budgets: the budgets there.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: int = 64
    budgets: tuple[float, ...] = (10, 15, 25, 40, 60, 100, 150, 250, 400, 600, 1000, 2000)
    spread_budgets: tuple[float, ...] = (10, 30, 100, 300, 1000, 3000, 10000, 30000)
    strategies: tuple[str, ...] = (
        *("vanilla", "boot", "progressive", "consistency"),
        *("hybrid:1", "hybrid:2", "hybrid:4", "hybrid:8", "hybrid:16", "hybrid:32"),
        *("uniform:4", "temporal:8", "phased:8"),
    )
    small_steps: int = 6
    small_budgets: tuple[float, ...] = (3, 10, 30, 100)

    def __post_init__(self) -> None:
        for key in ("budgets", "spread_budgets", "small_budgets"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)) or values[0] <= 0:
                raise InputError(key, "must be > 0, ascend and not be empty", values)
        if check_count("steps", self.steps) < 4:
            raise InputError("steps", "must be >= 4", self.steps)
        if not 3 <= check_count("small_steps", self.small_steps) <= MAX_STEPS:
            raise InputError("small_steps", f"must be from 3 to {MAX_STEPS}", self.small_steps)
        for name in ("vanilla", "boot", "progressive"):
            if name not in self.strategies:
                raise InputError("strategies", f"must include {name}", self.strategies)
        for name in self.strategies:
            build_strategy(name, self.steps)

    @classmethod
    def quick(cls) -> Config:
        """T = 32, fewer budgets and plans: seconds."""
        return cls(
            steps=32,
            budgets=(10, 30, 100, 300, 1000),
            spread_budgets=(10, 100, 1000, 10000),
            strategies=("vanilla", "boot", "progressive", "hybrid:2", "hybrid:8"),
            small_steps=4,
            small_budgets=(10, 30),
        )


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Split every budget over every plan, and find which plan each budget should buy.

    Returns:
        ``tables``: ``splits`` (of each case, plan and budget: W2 by schedule and by the best
        split), ``frontier`` (of each case and budget: the best plans), ``plans`` (what each
        costs, and the most that a split can gain), ``small`` (the best of all plans) and
        ``pilot`` (networks beside theory).
    """
    cells: list[Cell] = []
    for case in (*FLOW_CASES, SPREAD_CASE):
        budgets = config.spread_budgets if case == SPREAD_CASE else config.budgets
        shared = {"case": case, "num_steps": config.steps, "budgets": list(budgets)}
        cells += [{**shared, "name": name} for name in (*config.strategies, *_MORE_PLANS[case])]
    tried = runner.sweep(allocate_plan, cells, "splitting budgets")
    combs = [
        {"case": case, "num_steps": config.steps, "budgets": list(config.budgets)}
        for case in (FLOW_CASES[0], FLOW_CASES[2])
    ]
    bounds = runner.sweep(bound_combs, combs, "bounding combs")
    small = [
        {"eigenvalue": value, "num_steps": config.small_steps, "budget": budget}
        for value in (0.2, 0.8, 5.0, 50.0)
        for budget in config.small_budgets
    ]
    splits = [row for cell in tried for row in cell["splits"]]
    return {
        "tables": {
            "frontier": _frontier(splits, [row for rows in bounds for row in rows]),
            "splits": splits,
            "plans": [cell["plan"] for cell in tried],
            "small": runner.sweep(try_all_plans, small, "trying all plans"),
            "pilot": runner.sweep(check_pilot, [{"num_steps": PILOT_STEPS}], "pilot")[0],
        }
    }


def case_problem(case: str, num_steps: int) -> Problem:
    """The problem of a case; its training is the unit of time."""
    if case == SPREAD_CASE:
        spectrum = resolve_spectrum("digits")
        schedule = cosine_schedule(num_steps)
        return Problem(spectrum, schedule, SPREAD, merge_rule="denoiser-copy")
    spectrum = (
        eigenvalue_spectrum([float(case.removeprefix("λ = "))])
        if case.startswith("λ")
        else resolve_spectrum(case)
    )
    return Problem(spectrum, cosine_schedule(num_steps), GradientFlow(1.0))


def case_plan(problem: Problem, name: str) -> Plan:
    """A named strategy, the best plan at s = 6.4 each, or the cheapest tree at large budgets."""
    if name == CHEAPEST:
        return cheapest_plan(problem)
    if name == PLANNED:
        return find_plan(replace(problem, training=GradientFlow(DEFAULT_MERGE_TIME))).plan
    return build_strategy(name, problem.num_steps)


def allocate_plan(case: str, num_steps: int, name: str, budgets: Sequence[float]) -> dict[str, Any]:
    """Every budget, split over one plan by each schedule and in the best way."""
    problem = case_problem(case, num_steps)
    plan = case_plan(problem, name)
    costs = merge_costs(plan)
    splits = []
    for budget in budgets:
        best = allocate(problem, plan, budget)
        schedules = {
            schedule: evaluate(problem, plan, scheduled_times(schedule, plan, budget)).w2
            for schedule in SCHEDULES
        }
        splits.append(
            {
                "case": case,
                "plan": name,
                "budget": budget,
                **schedules,
                "best": best.w2,
                "lower_bound": best.lower_bound,
                "residual": best.residual,
                "trained": int((best.times > 0).sum()),
                "shortest": float(best.times.min()),
                "longest": float(best.times.max()),
            }
        )
    return {
        "plan": {
            "case": case,
            "plan": name,
            "merges": len(plan.merges),
            "evaluations": float(costs.sum()),
            "per_fold": evaluations_per_fold(problem, plan),
            "comb_gain": _comb_gain(problem, plan),
            "what": plan_phrase(plan),
        },
        "splits": splits,
    }


def _comb_gain(problem: Problem, plan: Plan) -> float | None:
    """The most that any split of a comb gains over equal times, where it is known."""
    blocks = np.array([problem.teacher.log_composite(m.stop, m.split) for m in plan.merges])
    is_comb = all(merge.start == plan.num_steps for merge in plan.merges)
    if problem.merge_rule != "operator-copy" or not is_comb or blocks.shape[1] > 1:
        return None
    errors = np.expm1(-blocks[:, 0])
    if not ((errors > 0).all() or (errors < 0).all()):
        return None
    return largest_gain(np.abs(errors), merge_costs(plan))


def bound_combs(case: str, num_steps: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """The best comb at each budget, and the W2 that none goes below however it is split."""
    problem = case_problem(case, num_steps)
    points = comb_frontier(problem, _PRICES)
    rows = []
    for budget in budgets:
        within = [point for point in points if point.budget <= budget]
        plans = {point.plan: None for point in within[-3:]} or {points[0].plan: None}
        reached = [allocate(problem, plan, budget) for plan in plans if plan.merges]
        best = min(reached, key=lambda allocation: allocation.w2)
        sign = float(np.sign(points[-1].excess)) or 1.0
        bound = problem.distance(np.array([sign * comb_bound(points, budget)]))
        rows.append(
            {
                "case": case,
                "budget": budget,
                "best_comb": best.w2,
                "comb_bound": min(bound, best.w2),
                "comb": plan_phrase(best.outcome.plan),
                "comb_merges": len(best.outcome.plan.merges),
            }
        )
    return rows


def try_all_plans(eigenvalue: float, num_steps: int, budget: float) -> dict[str, Any]:
    """The best plan of all with the best split of a budget, and the best comb."""
    spectrum = eigenvalue_spectrum([eigenvalue])
    problem = Problem(spectrum, cosine_schedule(num_steps), GradientFlow(1.0))
    tried = [allocate(problem, plan, budget) for plan in all_plans(num_steps, 1)]
    best = min(tried, key=lambda allocation: allocation.w2)
    combs = [
        allocation
        for allocation in tried
        if all(merge.start == num_steps for merge in allocation.outcome.plan.merges)
    ]
    return {
        "eigenvalue": eigenvalue,
        "steps": num_steps,
        "budget": budget,
        "plans": len(tried),
        "best": best.w2,
        "best_comb": min(allocation.w2 for allocation in combs),
        "residual": max(allocation.residual for allocation in tried),
        "plan": str(best.outcome.plan.to_nested()[0]),
        "is_comb": min(a.w2 for a in combs) <= best.w2 * (1 + _EQUAL),
    }


def check_pilot(num_steps: int) -> list[dict[str, Any]]:
    """What spread rates and gradient flow predict for the networks of the pilot."""
    spread = case_problem(SPREAD_CASE, num_steps)
    flow = case_problem("digits", num_steps)
    rows = []
    for (name, iterations), measured in PILOT.items():
        plan = build_strategy(name, num_steps)
        times = np.full(len(plan.merges), iterations / SPREAD.fitted_iterations)
        rows.append(
            {
                "plan": name,
                "iterations": iterations,
                "evaluations": float(times @ merge_costs(plan, OVERHEAD)),
                "measured": measured,
                "spread_rates": evaluate(spread, plan, times).w2 ** 2,
                "gradient_flow": evaluate(flow, plan, times).w2 ** 2,
            }
        )
    return rows


def _frontier(
    splits: Sequence[Mapping[str, Any]], bounds: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each case and budget: the best plan with equal times and with the best split."""
    known = {(row["case"], row["budget"]): row for row in bounds}
    keys = dict.fromkeys((row["case"], row["budget"]) for row in splits)
    rows = []
    for case, budget in keys:
        here = [row for row in splits if (row["case"], row["budget"]) == (case, budget)]
        equal = min(here, key=lambda row: row["constant"])
        split = min(here, key=lambda row: row["best"])
        comb = known.get((case, budget), {})
        rows.append(
            {
                "case": case,
                "budget": budget,
                "equal_plan": equal["plan"],
                "equal": equal["constant"],
                "best_plan": split["plan"],
                "best": split["best"],
                "vanilla": next(r["constant"] for r in here if r["plan"] == "vanilla"),
                "boot": next(r["constant"] for r in here if r["plan"] == "boot"),
                "progressive": next(r["constant"] for r in here if r["plan"] == "progressive"),
                "best_comb": comb.get("best_comb"),
                "comb_bound": comb.get("comb_bound"),
                "comb": comb.get("comb"),
            }
        )
    return rows
