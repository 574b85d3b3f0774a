"""The best plan of a guided linear teacher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from opmerge import Problem, cosine_schedule, find_plan
from opmerge.errors import InputError
from opmerge.guided_teacher import GuidedProblem, evaluate_guided
from opmerge.planners import brute_force_plan, guided_plan
from opmerge.plans import Plan, build_strategy
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow

SHORT = GradientFlow(0.7)


def guided(
    num_steps: int, between: tuple[float, ...] = (0.5, 1.5), scale: float = 3.0
) -> GuidedProblem:
    variances = np.array([1.3, 0.4]), np.array(between)
    return GuidedProblem(cosine_schedule(num_steps), *variances, scale, SHORT)


@pytest.mark.parametrize("student_steps", [1, 2])
def test_without_conditions_it_is_the_best_of_the_theory_without(student_steps: int) -> None:
    known = Problem(eigenvalue_spectrum([1.3, 0.4]), cosine_schedule(5), SHORT)
    found = guided_plan(guided(5, between=(0.0, 0.0), scale=1.0), student_steps)
    assert found.outcome.w2 == pytest.approx(brute_force_plan(known, student_steps).w2, rel=1e-9)
    assert found.plan.student_steps == student_steps


def test_of_three_steps_it_is_the_least_of_three() -> None:
    """The trees of three leaves, written down."""
    problem = guided(3)
    plans = [Plan.from_nested(nested) for nested in ([[3, 2, 1]], [[[3, 2], 1]], [[3, [2, 1]]])]
    left = [evaluate_guided(problem, plan).w2 for plan in plans]
    found = guided_plan(problem)
    assert found.outcome.w2 == min(left)
    assert found.plan == plans[int(np.argmin(left))]


def test_boot_is_not_always_the_best_under_guidance() -> None:
    """Without, it always is under denoiser copy (THEORY 7.9)."""
    problem = replace(guided(5, scale=6.0), training=GradientFlow(2.0))
    boot = evaluate_guided(problem, build_strategy("boot", 5))
    assert guided_plan(problem).outcome.w2 < 0.7 * boot.w2


def test_what_nothing_proves_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="must have <= 9 steps"):
        guided_plan(guided(10))
    with pytest.raises(InputError, match="which no certificate covers") as caught:
        find_plan(guided(4))  # type: ignore[arg-type]
    assert "guided_plan" in str(caught.value)
