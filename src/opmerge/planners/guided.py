"""The best plan of a guided linear teacher, by trying them all: no bound covers guidance.

Certificates are intervals of one number, the excess of an operator, in each direction. Under
guidance students read two, the state and the mean of their condition (THEORY 11), and a merge mixes
what is left of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from opmerge.clock import tick
from opmerge.errors import InputError
from opmerge.guided_teacher import GuidedOutcome, GuidedProblem, evaluate_guided
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.plans.tree import Plan


@dataclass(frozen=True, eq=False)
class GuidedResult:
    """The plan with the smallest W2, and what it leaves; no plan leaves less, to rounding."""

    plan: Plan
    outcome: GuidedOutcome


def guided_plan(problem: GuidedProblem, student_steps: int = 1) -> GuidedResult:
    """The best of all plans of K = ``student_steps`` trees, for T <= 9.

    Raises:
        InputError: for more steps, or K < 1 or > T.
    """
    if problem.num_steps > MAX_STEPS:
        requirement = f"must have <= {MAX_STEPS} steps: guided plans are tried one by one"
        remedy = "plan the network itself for a budget, with the forecast of a law"
        raise InputError("problem", requirement, problem.num_steps, remedy)
    best: GuidedResult | None = None
    for number, plan in enumerate(all_plans(problem.num_steps, student_steps)):
        tick("plans tried", number)
        outcome = evaluate_guided(problem, plan)
        if best is None or outcome.w2 < best.outcome.w2:
            best = GuidedResult(plan, outcome)
    assert best is not None, "there is a plan of any T and K"
    return best
