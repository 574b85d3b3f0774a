"""The plan for a budget, and those for others around it, in a stated time; as values to be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opmerge.clock import Tell, seconds_left, time_limit, while_time
from opmerge.forecast import FittedLaw, TeacherTable, forecast
from opmerge.forecast.cost import IterationCost
from opmerge.planners.budget import BudgetPlan, BudgetResult, frontier, plan_for_budget, tie_of
from opmerge.planners.free_step import with_free_step
from opmerge.plans import Plan

CUT_SHORT = "the search was cut short: one of more seconds may find a better plan, and more budgets"
"""What to say of plans whose search was."""

_FACTORS = tuple(2.0**power for power in range(-4, 5))


@dataclass(frozen=True)
class PlansAround:
    """What a budget buys, and what more or less of it would.

    Args:
        chosen: at the budget itself.
        curve: at a sixteenth of the budget to sixteen times it, ascending, of each K in turn.
        is_cut: whether the time was up before all of it was found.
    """

    chosen: BudgetResult
    curve: tuple[BudgetResult, ...]
    is_cut: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as ``from_dict`` reads them; forecasts are made again."""
        return {
            "chosen": _result_to_dict(self.chosen),
            "curve": list(map(_result_to_dict, self.curve)),
            "is_cut": self.is_cut,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], table: TeacherTable, law: FittedLaw) -> PlansAround:
        """Read ``to_dict``, with the table that it was found with and a law to foretell it by."""
        read = _Reader(table, law)
        return cls(
            read.result(data["chosen"]), tuple(map(read.result, data["curve"])), data["is_cut"]
        )


def plans_around(
    table: TeacherTable,
    law: FittedLaw,
    budget: float,
    student_steps: Sequence[int],
    cost: IterationCost,
    max_seconds: float,
    tell: Tell | None = None,
    free_runs: float | None = None,
) -> PlansAround:
    """``frontier`` around a budget; where the time is up before its own plan, that of the first K.

    Args:
        max_seconds: of the search around, and as many of each that may follow it.
        free_runs: teacher runs that a free first step is fitted to; by default none is proposed.
            Where the plan of the budget begins with one, plans of others may, landing there too.

    Raises:
        InputError: as ``plan_for_budget``.
    """
    with time_limit(max_seconds, tell):
        curve = frontier(table, law, [each * budget for each in _FACTORS], student_steps, cost)
        is_cut = seconds_left() < 0
    asked = [each for each in curve if each.budget == budget]
    if asked and asked[0].student_steps == student_steps[0]:
        chosen = asked[0]
    else:  # the time was up, or the budget does not suffice
        with time_limit(max_seconds, tell):
            chosen = plan_for_budget(table, law, budget, student_steps[0], cost)
    plans = PlansAround(chosen, tuple(curve), is_cut)
    if free_runs is None:
        return plans
    with time_limit(max_seconds, tell):
        return _with_free_steps(plans, table, law, cost, free_runs)


def _with_free_steps(
    plans: PlansAround, table: TeacherTable, law: FittedLaw, cost: IterationCost, runs: float
) -> PlansAround:
    def led(result: BudgetResult, landings: Iterable[int] | None) -> BudgetResult:
        count = result.student_steps
        given = table, law, result.budget, result.best, count, cost, runs, landings
        best = with_free_step(*given)
        if best.plan.free_step is None:
            return result
        least = min(best, result.least, key=lambda each: each.forecast.rms)
        ties = (tie_of(tie.plan, least, law.scatter) for tie in result.ties)
        told = tuple(tie for tie in ties if tie is not None)
        return replace(result, best=best, least=least, ties=told)

    chosen = led(plans.chosen, None)
    if (landing := chosen.best.plan.free_step) is None:
        return plans
    curve = list(plans.curve)
    for place in while_time(range(len(curve)), "plans with a free step"):
        of_chosen = curve[place] == plans.chosen
        curve[place] = chosen if of_chosen else led(curve[place], [landing])
    return PlansAround(chosen, tuple(curve), plans.is_cut or seconds_left() < 0)


def _result_to_dict(result: BudgetResult) -> dict[str, Any]:
    return {
        "budget": result.budget,
        "student_steps": result.student_steps,
        "best": _plan_to_dict(result.best),
        "least": _plan_to_dict(result.least),
        "equal": None if result.equal is None else _plan_to_dict(result.equal),
        "strategies": list(map(_plan_to_dict, result.strategies)),
        "ties": [[_plan_to_dict(tie.plan)] for tie in result.ties],
    }


def _plan_to_dict(planned: BudgetPlan) -> dict[str, Any]:
    return {
        "name": planned.name,
        "students": planned.plan.to_nested(),
        "free_start": planned.plan.free_start,
        "iterations": list(planned.iterations),
        "cost": planned.cost,
    }


@dataclass(frozen=True)
class _Reader:
    table: TeacherTable
    law: FittedLaw

    def result(self, data: Mapping[str, Any]) -> BudgetResult:
        least = self._plan(data["least"])
        others = (self._plan(plan) for plan, *_ in data["ties"])  # an interval of earlier versions
        ties = (tie_of(other, least, self.law.scatter) for other in others)
        return BudgetResult(
            data["budget"],
            data["student_steps"],
            self._plan(data["best"]),
            least,
            None if data["equal"] is None else self._plan(data["equal"]),
            tuple(map(self._plan, data["strategies"])),
            tuple(tie for tie in ties if tie is not None),
        )

    def _plan(self, data: Mapping[str, Any]) -> BudgetPlan:
        plan = Plan.from_nested(data["students"], data.get("free_start"))
        iterations = tuple(data["iterations"])
        expected = forecast(self.law, self.table, plan, iterations)
        return BudgetPlan(data["name"], plan, iterations, data["cost"], expected)
