"""What studies of plans share: a problem at one λ, and strategies beside the best plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from opmerge.merging import evaluate
from opmerge.planners import PlannerResult, find_plan
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.types import MergeRule, Objective
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow, TrainingModel

CANONICAL = ("vanilla", "progressive", "consistency", "boot")
"""The strategies that arXiv 2505.16024 sets beside its optimum."""

PAPER_RULE: MergeRule = "operator-copy"
"""The merge rule of arXiv 2505.16024, which studies of its claims ask for by this name."""

_EQUAL = 1e-9  # relative difference of two distances that is rounding


def cosine_problem(
    eigenvalues: ArrayLike,
    num_steps: int,
    training: TrainingModel,
    merge_rule: MergeRule = PAPER_RULE,
    objective: Objective = "teacher",
) -> Problem:
    """The problem of these eigenvalues on the plain cosine schedule."""
    spectrum, schedule = eigenvalue_spectrum(eigenvalues), cosine_schedule(num_steps)
    return Problem(spectrum, schedule, training, merge_rule, objective)


def scalar_problem(
    eigenvalue: float,
    num_steps: int,
    merge_time: float = DEFAULT_MERGE_TIME,
    merge_rule: MergeRule = PAPER_RULE,
    objective: Objective = "teacher",
) -> Problem:
    """The problem of one eigenvalue, on the plain cosine schedule, under gradient flow."""
    training = GradientFlow(merge_time)
    return cosine_problem([eigenvalue], num_steps, training, merge_rule, objective)


def strategy_errors(
    problem: Problem, names: Sequence[str] = CANONICAL, student_steps: int = 1
) -> dict[str, float]:
    """W2 of the named strategies, on uniform windows where the student has several steps."""
    plans = {name: build_strategy(name, problem.num_steps, student_steps) for name in names}
    return {name: evaluate(problem, plan).w2 for name, plan in plans.items()}


def is_as_good(distance: float, best: float) -> bool:
    """Whether a distance is the best one, up to rounding."""
    return distance <= best * (1 + _EQUAL)


def plan_shape(plan: Plan, distance: float, errors: Mapping[str, float]) -> str:
    """``boot`` or ``vanilla`` where that errs as little as the plan, else its kind.

    A ``comb`` trains the student at T only, block after block (THEORY 7.6); a ``tree`` trains
    students inside blocks too. ``distance`` is the plan's W2, ``errors`` those of strategies.
    """
    for name in ("boot", "vanilla"):
        if is_as_good(errors[name], distance):
            return name
    return "comb" if len({merge.start for merge in plan.merges}) == 1 else "tree"


def plan_row(
    problem: Problem, names: Sequence[str] = CANONICAL, best: PlannerResult | None = None
) -> dict[str, Any]:
    """The best one-step plan, its proof and its shape, with the errors of strategies beside it.

    ``names`` hold ``boot`` and ``vanilla``; ``best`` is what the planner found, if it is known.
    """
    best = best or find_plan(problem)
    errors = strategy_errors(problem, names)
    return {
        "best": best.w2,
        "lower_bound": best.lower_bound,
        **errors,
        "shape": plan_shape(best.plan, best.w2, errors),
        "merges": len(best.plan.merges),
        "trained_steps": len({merge.start for merge in best.plan.merges}),
        "plan": plan_phrase(best.plan),
    }
