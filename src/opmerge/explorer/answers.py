"""The answer to a view: the record that a page is drawn from, by the planners and the law.

A first answer comes at once: of the named strategies alone, or of a coarser problem. It is
followed by that of the whole search, which takes seconds. Both are kept for views that come again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from opmerge.clock import tick
from opmerge.errors import InputError
from opmerge.explorer.edits import plan_of_view
from opmerge.explorer.premises import Premises, read_premises
from opmerge.explorer.view import View
from opmerge.forecast import DEFAULT_PRIOR
from opmerge.forecast.composition import Forecast, group_errors
from opmerge.forecast.cost import IterationCost
from opmerge.forecast.table import direction_groups
from opmerge.merging import evaluate
from opmerge.page.plan import direction_errors
from opmerge.planners import PlannerResult, find_plan
from opmerge.planners.budget import BudgetPlan, BudgetResult, first_look, frontier, plan_for_budget
from opmerge.planners.budget_record import budget_plan_file, budget_record
from opmerge.planners.in_time import likely_result
from opmerge.planners.record import evaluate_in_time, plan_file, plan_record
from opmerge.planners.splits import Splitter, jumps_of
from opmerge.plans import Plan, PlanFile, build_strategy, default_strategies
from opmerge.plans.drawing import recorded_plan
from opmerge.problem import Problem
from opmerge.settings.types import read_budget
from opmerge.training import GradientFlow

BY_HAND = "by hand"

Found = TypeVar("Found")

_KEPT = 64
_FACTORS = {True: (1 / 16, 1 / 4, 1.0, 4.0, 16.0), False: tuple(2.0**k for k in range(-4, 5))}
_FIRST_SECONDS, _SECONDS = 0.1, 3.0  # of a plan for equal training at most; at first, at T = 64
_TAILS = (0.05, 0.95)
_FOUND: dict[Any, Any] = {}


@dataclass(frozen=True, eq=False)
class Directions:
    """Errors in one direction of each eigenvalue, by curve, with bounds where they are forecast."""

    eigenvalues: Sequence[float]
    curves: Mapping[str, Sequence[float]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """What a view shows.

    Args:
        record: of the plan and what stands beside it (``plan_record``, ``budget_record``).
        curve: (x, error, low, high) of other budgets, or of other merge times.
        planned: the error of the planner's plan, where the record's is by hand.
        is_first: whether a better one follows.
    """

    view: View
    record: Mapping[str, Any]
    curve: Sequence[tuple[float, float, float, float]]
    directions: Directions
    file: PlanFile
    planned: float | None
    is_first: bool

    @property
    def is_forecast(self) -> bool:
        """By the law of merges, and not by the linear theory."""
        return "budget" in self.record

    @property
    def plan(self) -> Plan:
        """The plan shown."""
        return recorded_plan(self.record["best"])


def answer(view: View, is_first: bool = False) -> Answer:
    """What a view shows, at first or in the end.

    Raises:
        InputError: for a view that does not fit together.
        AbandonedError: if it is no longer asked for (``opmerge.clock``).
    """
    plan = plan_of_view(view)
    if view.theory == "law":
        return _forecast(view, plan, is_first)
    return _linear(view, plan, is_first)


def _forecast(view: View, plan: Plan | None, is_first: bool) -> Answer:
    known = read_premises(view)
    amount, charged = _charged(view, known)
    key = view.without_plan().replaced(merge_time=6.4, merge_rule="denoiser-copy")
    (chosen, curve), is_first = _kept(_searched, key, known, is_first)
    result = chosen
    if plan is not None:
        result = replace(chosen, best=_by_hand(view, plan, known, amount, charged))
    guidance = (known.recorded or {}).get("guidance")
    given = known.table, known.rated, result, curve, known.cost, view.budget, guidance, False
    record = budget_record(known.problem, *given)
    rows = [(row["cost"], row["paired_rms"], row["low"], row["high"]) for row in record["frontier"]]
    best = result.best
    planned = None if plan is None else chosen.best.forecast.rms
    file = budget_plan_file(known.problem, record)
    return Answer(view, record, rows, _by_group(known, best), file, planned, is_first)


def _charged(view: View, known: Premises) -> tuple[float, IterationCost]:
    """A budget's amount, and what an iteration takes of it."""
    amount, unit = read_budget(view.budget)
    return amount, IterationCost.of_iterations() if unit == "iterations" else known.cost


def _searched(
    view: View, known: Premises, is_first: bool
) -> tuple[BudgetResult, list[BudgetResult]]:
    """The result for the budget, and those of others around it."""
    amount, charged = _charged(view, known)
    budgets = [factor * amount for factor in _FACTORS[is_first]]
    given = known.table, known.rated
    if is_first:
        curve = first_look(*given, amount, budgets, view.student_steps, charged)
    else:
        curve = frontier(*given, budgets, [view.student_steps], charged)
    found = [each for each in curve if each.budget == amount]
    if not found:  # it does not suffice, and the error says for what it would
        found = [plan_for_budget(*given, amount, view.student_steps, charged)]
    return found[0], curve


def _by_hand(
    view: View, plan: Plan, known: Premises, amount: float, charged: IterationCost
) -> BudgetPlan:
    """A plan with the iterations of the view, or with its best split of the budget."""
    jumps, law, counts = jumps_of(plan), known.rated, view.iterations
    table = known.table if plan.free_step is None else known.table.below(plan.free_step)
    splitter = Splitter(table, law.law, charged)
    if not counts:
        least = splitter.least_cost(jumps)
        split = splitter.best(jumps, max(amount, least))
        counts = tuple(split.iterations.tolist())
    if len(counts) != len(plan.merges):
        raise InputError("iterations", f"must be {len(plan.merges)}, one a merge", len(counts))
    squared = group_errors((law.law, *law.draws), known.table, plan, counts).sum(axis=1)
    return BudgetPlan(
        BY_HAND, plan, counts, charged.of_plan(plan, counts), Forecast.of(law, squared)
    )


def _by_group(known: Premises, planned: BudgetPlan) -> Directions:
    """What is forecast in one direction of each group, at the mean eigenvalue of the group."""
    law, table = known.rated, known.table
    squared = group_errors((law.law, *law.draws), table, planned.plan, planned.iterations)
    errors = np.sqrt(squared / table.sizes)
    values = np.repeat(known.spectrum.eigenvalues, known.spectrum.multiplicities.astype(int))
    means = [float(np.mean(values[part])) for part in direction_groups(len(values))]
    if known.spectrum.remaining_dimensions:
        means.append(known.spectrum.remaining_trace / known.spectrum.remaining_dimensions)
    if len(means) != errors.shape[1]:  # of another spectrum: by rank alone
        means = np.cumsum(table.sizes).tolist()
    low, high = np.quantile(errors[1:] if law.draws else errors, _TAILS, axis=0)
    return Directions(means, {"this plan": errors[0].tolist()}, low.tolist(), high.tolist())


def _linear(view: View, plan: Plan | None, is_first: bool) -> Answer:
    key = view.without_plan().replaced(law=DEFAULT_PRIOR, budget="1e6")
    (result, curve), _ = _kept(_certified, key, read_premises(view), is_first)
    problem = result.outcome.problem
    shown = result
    if plan is not None:
        shown = PlannerResult(evaluate(problem, plan), result.lower_bound, BY_HAND)
    names = default_strategies(view.steps)
    plans = [(name, build_strategy(name, view.steps, view.student_steps)) for name in names]
    outcomes = evaluate_in_time(problem, plans)
    record = plan_record(problem, shown, outcomes, at_equal_cost=not is_first)
    directions = Directions(
        record["spectrum"]["eigenvalues"],
        {name: errors.tolist() for name, errors in direction_errors(record).items()},
    )
    planned = None if plan is None else result.w2
    return Answer(view, record, curve, directions, plan_file(shown), planned, is_first)


def _certified(
    view: View, known: Premises, is_first: bool
) -> tuple[PlannerResult, list[tuple[float, float, float, float]]]:
    """The best plan for equal training, and what others leave that train for longer or shorter."""

    def planned(time: float, seconds: float, *plans: Plan) -> PlannerResult:
        training = GradientFlow(time)
        problem = Problem(known.spectrum, known.schedule, training, view.merge_rule)
        if is_first:
            return likely_result(problem, view.student_steps, seconds * view.steps / 64, plans)
        return find_plan(problem, "auto", view.student_steps, _SECONDS)

    result, curve = planned(view.merge_time, _FIRST_SECONDS), []
    for factor in _FACTORS[is_first]:
        given = factor * view.merge_time, _FIRST_SECONDS / 4, result.plan
        each = result if factor == 1 else planned(*given)
        curve.append((factor * view.merge_time, each.w2, each.lower_bound, each.w2))
    return result, curve


def _kept(
    make: Callable[[View, Premises, bool], Found], view: View, known: Premises, is_first: bool
) -> tuple[Found, bool]:
    """What is found at first, or in the end, or was before; and whether more is to be found."""
    for first in (False, is_first):
        if (key := (make.__name__, view, known, first)) in _FOUND:
            return _FOUND[key], first
    found = make(view, known, is_first)
    tick()  # nothing is kept of a search that was broken off
    if len(_FOUND) >= _KEPT:
        _FOUND.clear()
    _FOUND[key] = found
    return found, is_first
