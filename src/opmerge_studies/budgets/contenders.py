"""Who contends for a budget: hand plans with their splits, and the planner's plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from opmerge.distillation.stages import TargetLimits, plan_effort, plan_stages
from opmerge.forecast import forecast
from opmerge.planners.budget import plan_for_budget
from opmerge.planners.free_step import with_free_step
from opmerge.planners.splits import Splitter, jumps_of
from opmerge.plans import Plan, build_strategy
from opmerge.settings.distillation import DistillationConfig
from opmerge_studies.budgets import PLANNED, BudgetsSettings, Contender

if TYPE_CHECKING:
    from opmerge_studies.budgets.execution import Execution

_SPLIT_WORDS = {"law": "", "length": ", length split", "even": ", even split"}


def contenders(
    settings: BudgetsSettings, student_steps: int, execution: Execution
) -> list[Contender]:
    """The distinct contenders of every budget; hand plans that it does not pay for are left out.

    Raises:
        InputError: if a budget does not pay for an iteration of every merge of any plan.
    """
    config, cost, free_runs = execution.config, execution.cost, execution.free_runs
    law, table = execution.knowledge.law, execution.knowledge.table
    splitter, field = Splitter(table, law.law, cost), []
    for budget in settings.budgets:
        best = plan_for_budget(table, law, budget, student_steps, cost).best
        named: dict[tuple[Plan, tuple[int, ...]], list[str]] = {}
        hand = _hand_plans(settings, student_steps, budget, config, splitter)
        for name, plan, iterations in hand:
            named.setdefault((plan, iterations), []).append(name)
        given = table, law, budget, best, student_steps, cost, free_runs
        planned = with_free_step(*given)
        named.setdefault((planned.plan, planned.iterations), []).append(PLANNED)
        for (plan, iterations), names in named.items():
            is_planned = PLANNED in names
            total = planned.cost if is_planned else cost.of_plan(plan, iterations)
            expected = forecast(law, table, plan, iterations)
            key = tuple(names), student_steps, budget
            field.append(Contender(*key, plan, iterations, total, expected))
    return field


def _hand_plans(
    settings: BudgetsSettings,
    student_steps: int,
    budget: float,
    config: DistillationConfig,
    splitter: Splitter,
) -> Iterator[tuple[str, Plan, tuple[int, ...]]]:
    """Name, plan and iterations of every hand plan and split."""
    for name in settings.plans:
        plan = build_strategy(name, settings.steps, student_steps)
        jumps = jumps_of(plan)
        if splitter.least_cost(jumps) > budget:
            continue
        for split in settings.splits:
            if split == "law":
                counts = splitter.best(jumps, budget).iterations.tolist()
            else:
                asked = config.replaced(budget=f"{budget:.0f}", budget_split=split)
                limits = TargetLimits(splitter.cost.guided_steps, fewest=splitter.cost.fewest)
                counts = plan_effort(plan_stages(plan), asked, limits=limits).iterations
            yield f"{name}{_SPLIT_WORDS[split]}", plan, tuple(counts)
