"""Plans with a free step: the table below it, and when it is worth it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from forecast_cases import a_table

from opmerge.errors import InputError
from opmerge.forecast import PRIORS, forecast, linear_table
from opmerge.forecast.composition import squared_errors
from opmerge.forecast.cost import IterationCost
from opmerge.planners.around_budget import plans_around
from opmerge.planners.budget import plan_for_budget
from opmerge.planners.budget_record import budget_record
from opmerge.planners.free_step import with_free_step
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import arrays_schedule, cosine_schedule
from opmerge.spectra import Spectrum, eigenvalue_spectrum

T = 12
COST = IterationCost(reuse="auto", is_linear_solved=True)


def spectrum() -> Spectrum:
    return eigenvalue_spectrum(np.array([4.0, 1.5, 0.7, 0.2, 0.05]))


def test_the_table_below_a_node_is_that_of_the_shorter_sampler() -> None:
    schedule, step = cosine_schedule(T), 8
    whole = linear_table(spectrum(), schedule)
    shorter = arrays_schedule(schedule.alphas[: step + 1], schedule.sigmas[: step + 1])
    expected, found = linear_table(spectrum(), shorter), whole.below(step)
    for name in ("nodes", "products", "gains", "carry", "angles"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9)
    with pytest.raises(InputError, match="must be a node"):
        whole.below(T + 1)


@pytest.mark.parametrize("student_steps", [1, 2])
def test_a_free_step_that_leaves_nothing_is_taken_and_paid_for(student_steps: int) -> None:
    table, law, budget = a_table(T), PRIORS["mlp"], 2e5
    assert not np.any(table.free_steps)
    without = plan_for_budget(table, law, budget, student_steps, COST).best
    found = with_free_step(table, law, budget, without, student_steps, COST, runs=100)
    assert found.plan.free_step is not None
    assert found.plan.student_steps == student_steps
    assert found.forecast.rms < without.forecast.rms
    runs = 100 * (T - found.plan.free_step)
    children = [merge.num_children for merge in found.plan.merges]
    assert found.cost == pytest.approx(COST.total(children, found.iterations) + runs)
    assert found.cost <= budget
    bare = Plan(found.plan.students, T)
    assert found.forecast == forecast(law, table, bare, found.iterations)


def test_a_free_step_that_leaves_more_than_it_saves_is_not_taken() -> None:
    law, budget = PRIORS["mlp"], 2e5
    table = a_table(T)
    table = replace(table, free_steps=np.full((len(table.nodes), len(table.sizes)), 1e6))
    without = plan_for_budget(table, law, budget, 1, COST).best
    assert with_free_step(table, law, budget, without, 1, COST, runs=100) is without


def test_runs_that_cost_all_leave_no_free_step() -> None:
    table, law, budget = a_table(T), PRIORS["mlp"], 2e5
    without = plan_for_budget(table, law, budget, 1, COST).best
    assert with_free_step(table, law, budget, without, 1, COST, runs=budget) is without


def test_a_record_tells_what_the_fit_of_a_free_step_takes() -> None:
    table, law, budget = a_table(T), PRIORS["mlp"], 2e5
    found = plans_around(table, law, budget, [2], COST, max_seconds=20, free_runs=100)
    problem = Problem(spectrum(), cosine_schedule(T))
    record = budget_record(problem, table, law, found.chosen, found.curve, COST, "200000")
    best = found.chosen.best
    assert best.plan.free_step is not None
    assert record["best"]["free_step_cost"] == pytest.approx(100 * (T - best.plan.free_step))


def test_below_a_free_step_a_plan_leaves_what_it_leaves_of_the_shorter_sampler() -> None:
    table, step, law = a_table(T), 8, [PRIORS["mlp"].law]
    free_steps = np.full((len(table.nodes), len(table.sizes)), 1e-3)
    table = replace(table, free_steps=free_steps)
    students = build_strategy("boot", step, 2).students
    counts = list(range(40, 40 + step - 2))
    shorter = squared_errors(law, table.below(step), Plan(students), counts)
    found = squared_errors(law, table, Plan(students, T), counts)
    assert found == pytest.approx(shorter + table.free_error(step).sum(), rel=1e-12)
