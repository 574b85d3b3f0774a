"""The dynamic programme against all trees, all handovers and every number of iterations."""

from dataclasses import replace

import numpy as np
import pytest
from forecast_cases import a_law, a_table
from oracles import students_of

from opmerge import Plan
from opmerge.clock import AbandonedError, time_limit
from opmerge.forecast import TeacherTable
from opmerge.forecast.cost import IterationCost
from opmerge.planners.splits import Splitter, plan_of
from opmerge.planners.surrogate import priced_plans

GRID = np.geomspace(1.0, 3000.0, 9)
COSTS = {
    "fixed": IterationCost(4, 2),
    "auto": IterationCost(4, "auto", is_linear_solved=True),
}


def thinned(table: TeacherTable, nodes: list[int]) -> TeacherTable:
    """The table at fewer nodes."""
    products = table.products[np.ix_(nodes, nodes, nodes)]
    return replace(
        table, nodes=np.array(nodes), products=products, gains=table.gains[nodes], free_steps=None
    )


def surrogate(splitter: Splitter, plan: Plan, price: float) -> float:
    """Σ over merges of the least carry √(Σ W² E[r²] D²) + μ c N over the grid of N."""
    table, law, total = splitter.table, splitter.law, 0.0
    at = {int(step): place for place, step in enumerate(table.nodes)}
    schedule = table.schedule
    angles = np.arctan2(schedule.sigmas, schedule.alphas)
    for merge in plan.merges:
        j, i = at[merge.start], at[merge.stop]
        k = j if merge.split == merge.start - 1 else at[merge.split]
        squares, options = table.deviation(j, k, i), []
        for count in GRID:
            angle = angles[merge.start] - angles[merge.stop]
            x = np.array(law.rates) * count / 400 * angle**-law.length_exponent
            x *= law.first if merge.start == table.num_steps else 1.0
            whole = table.deviation(j, j, i)
            shares = whole / whole.sum() / table.sizes
            x *= (100 * shares) ** law.share_exponent
            waits = shares * np.exp(-count / law.onset)
            kept = waits + (1 - waits) * (1 + 2 * x) ** -law.shape
            inside = table.gains[i] ** 2 * squares * kept
            charge = price * float(splitter.cost.per_iteration(merge.num_children)) * count
            options.append(table.carry[j, i] * np.sqrt(inside.sum()) + charge)
        total += min(options)
    return total


@pytest.mark.parametrize("student_steps", [1, 2])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("nodes", [[0, 1, 2, 3, 4, 5], [0, 2, 3, 5, 8]], ids=["all", "some"])
def test_priced_plans_are_the_best_of_all(nodes, cost, student_steps):
    num_steps = nodes[-1]
    table = thinned(a_table(num_steps), nodes)
    splitter = Splitter(table, a_law(table), COSTS[cost])
    plans = [
        plan
        for plan in map(Plan.from_nested, students_of(num_steps, student_steps))
        if all({merge.start, merge.stop} <= set(nodes) for merge in plan.merges)
        and set(plan.boundaries) <= set(nodes)
    ]
    assert len(plans) > 10
    merges = set()
    for price in np.geomspace(1e-7, 1e-3, 9):
        best = min(surrogate(splitter, plan, price) for plan in plans)
        (found,) = priced_plans(splitter, [price], GRID, [student_steps])
        plan = plan_of(found.jumps, num_steps)
        assert found.value == pytest.approx(best, rel=1e-12)
        assert surrogate(splitter, plan, price) == pytest.approx(best, rel=1e-12)
        assert plan.boundaries == found.boundaries
        costs = splitter.cost.per_iteration([merge.num_children for merge in plan.merges])
        assert set(found.iterations) <= set(GRID)
        spent = price * float(costs @ found.iterations)
        assert 0 < spent < found.value
        merges.add(len(plan.merges))
    assert len(merges) > 1 or student_steps > 1  # prices change plans


def test_a_price_is_asked_at_every_length_whether_anyone_waits():
    table, asked = a_table(20), []
    splitter = Splitter(table, a_law(table), IterationCost())

    def is_over() -> bool:
        asked.append(True)
        return len(asked) == 20

    with pytest.raises(AbandonedError), time_limit(is_over=is_over):
        list(priced_plans(splitter, [1e-5], GRID, [1]))
    with time_limit(0.0):  # time that is up leaves the first price whole
        assert len(list(priced_plans(splitter, [1e-5, 1e-4], GRID, [1]))) == 1
