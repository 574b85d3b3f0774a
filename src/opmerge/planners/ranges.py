"""What each eigenvalue can reach by itself, and the bound that follows for all of them together.

A composite and a merge increase with every child, so the smallest and the largest excess of one
eigenvalue over all plans are exact by dynamic programming, for either merge rule (THEORY 8). No
plan does better than every eigenvalue on its own: the separable bound.
"""

from __future__ import annotations

import numpy as np

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.plans.strategies import uniform_boundaries
from opmerge.problem import Problem

# A compiled kernel hears neither Ctrl-C nor the clock; between chunks of a second, Python does.
_OPERATIONS_AT_ONCE = 1e10
_OPERATIONS_A_SECOND = 2e9  # T³ of one eigenvalue on one core


def compose(first: Array, rest: Array) -> Array:
    """δ = b/P - 1 of a composite of two operators."""
    return first + rest + first * rest


def estimates(problem: Problem, d: int) -> tuple[Array, Array]:
    """How much a jump falls short, 1 - J/P for eigenvalue d, and its weight of x_0.

    (T+1, T+1) each, at [start, stop]; the weight is alpha_i sigma_j - sigma_i alpha_j. Zeros (1, 1)
    under operator copy, which makes no jumps.
    """
    from opmerge.planners._kernels import jump_deficits

    if problem.merge_rule == "operator-copy":
        return np.zeros((1, 1)), np.zeros((1, 1))
    alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
    log_cosines = np.ascontiguousarray(problem.teacher.log_cosines[:, d])
    deficits = jump_deficits(alphas, sigmas, problem.eigenvalues[d], log_cosines)
    return deficits, np.outer(sigmas, alphas) - np.outer(alphas, sigmas)


def excess_ranges(problem: Problem, student_steps: int = 1) -> Array:
    """(2, d) smallest and largest excess of each eigenvalue over all plans with K students.

    O(T³ d) time; eigenvalues run in parallel with O(T²) memory each. It refuses K out of range.
    """
    from opmerge.planners._kernels import scalar_ranges

    uniform_boundaries(problem.num_steps, student_steps)
    teacher, weights = problem.teacher, estimates(problem, 0)[1]
    chunk = max(2, int(_OPERATIONS_AT_ONCE / problem.num_steps**3))
    ranges = []
    for first in range(0, len(teacher.eigenvalues), chunk):
        tick("ranges of eigenvalues", first, _seconds(problem))
        ranges.append(
            scalar_ranges(
                teacher.log_products[:, first : first + chunk],
                problem.retentions[:, first : first + chunk],
                teacher.log_cosines[:, first : first + chunk],
                teacher.eigenvalues[first : first + chunk],
                problem.schedule.alphas,
                problem.schedule.sigmas,
                weights,
                problem.merge_rule == "denoiser-copy",
                student_steps,
            )
        )
    with np.errstate(divide="ignore"):
        return np.log1p(np.maximum(np.hstack(ranges), -1.0))


def scalar_extremes(problem: Problem, d: int) -> tuple[Array, Array]:
    """Smallest and largest δ of every tree and row of trees for eigenvalue d: ``scalar_tables``."""
    from opmerge.planners._kernels import scalar_tables

    tick("ranges of eigenvalue", d + 1, _seconds(problem))
    return scalar_tables(
        np.ascontiguousarray(problem.teacher.log_products[:, d]),
        np.ascontiguousarray(problem.retentions[:, d]),
        *estimates(problem, d),
        problem.merge_rule == "denoiser-copy",
    )


def _seconds(problem: Problem) -> float:
    """About what the ranges of one eigenvalue take."""
    return problem.num_steps**3 / _OPERATIONS_A_SECOND


def separable_bound(problem: Problem, ranges: Array) -> float:
    """W2 distance that no plan goes below, from each eigenvalue's own range of excesses."""
    return problem.distance(np.clip(problem.target_excess, ranges[0], ranges[1]))
