"""Whether a plan should begin with a free step, and where that should land.

A free step takes z_T to z_m in closed form, without a network: what it leaves is known from teacher
passes alone (``TeacherTable.free_error``). The students of the plan then start at m, so each has
less to learn. Nothing is proved, as of all plans for a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from opmerge.clock import while_time
from opmerge.forecast import FittedLaw, TeacherTable, forecast
from opmerge.forecast.cost import IterationCost
from opmerge.planners.budget import BudgetPlan, equal_angle_boundaries, plan_for_budget
from opmerge.plans import Plan
from opmerge.plans.strategies import windowed_strategy

# Landings, as shares of the nodes below T. Students that start further down learn noised data,
# which are few: there forecasts were too good by a third (digits, T = 32, from step 20).
_PLACES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4)
_WORTH_IT = 0.95  # of the forecast without: the step is one thing more to explain


def with_free_step(
    table: TeacherTable,
    law: FittedLaw,
    budget: float,
    without: BudgetPlan,
    student_steps: int,
    cost: IterationCost,
    runs: float,
    landings: Iterable[int] | None = None,
) -> BudgetPlan:
    """The plan of least forecast among some with a free step, or ``without`` if none is worth it.

    Args:
        budget: of the students and of the runs that the step is fitted to.
        without: the plan for the budget that has no free step.
        runs: teacher runs, from T to where the step lands.
        landings: where it may; by default some nodes of the first quarter.
    """
    found = [
        planned
        for step in while_time(landings or _landings(table, student_steps))
        if table.free_error(step).sum() < without.forecast.rms**2
        and (planned := _planned(table, law, budget, step, student_steps, cost, runs)) is not None
    ]
    best = min(found, key=lambda planned: planned.forecast.rms, default=without)
    return best if best.forecast.rms < _WORTH_IT * without.forecast.rms else without


def _landings(table: TeacherTable, student_steps: int) -> Iterator[int]:
    last = len(table.nodes) - 1
    for place in sorted({last - max(1, round(share * last)) for share in _PLACES}):
        if place >= max(student_steps, 1):
            yield int(table.nodes[place])


def _planned(
    table: TeacherTable,
    law: FittedLaw,
    budget: float,
    step: int,
    student_steps: int,
    cost: IterationCost,
    runs: float,
) -> BudgetPlan | None:
    """The best plan of students from a step on; None if the budget does not pay for one."""
    spent = runs * cost.teacher_passes(table.num_steps, step)
    left, below = budget - spent, table.below(step)
    windows = equal_angle_boundaries(below, student_steps)
    cheapest = windowed_strategy("vanilla", windows)
    if left < cost.of_plan(cheapest, np.ones(len(cheapest.merges))):
        return None
    best = plan_for_budget(below, law, left, student_steps, cost).best
    if list(best.plan.boundaries) != windows:
        return None  # far from what was measured of free steps
    plan = Plan(best.plan.students, table.num_steps)
    expected = forecast(law, table, plan, best.iterations)
    return replace(best, plan=plan, cost=best.cost + budget - left, forecast=expected)
