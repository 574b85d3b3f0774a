"""What each eigenvalue can reach by itself, and the bound that follows for all of them together.

A composite and a merge increase with every child, so the smallest and the largest excess of one
eigenvalue over all plans are exact by dynamic programming, for either merge rule (THEORY 8). No
plan does better than every eigenvalue on its own: the separable bound.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opmerge.problem import Problem

Array = NDArray[np.float64]

# A compiled kernel does not hear Ctrl-C; between chunks of about a second, Python does.
_OPERATIONS_AT_ONCE = 1e10


def compose(first: Array, rest: Array) -> Array:
    """δ = b/P - 1 of a composite of two operators."""
    return first + rest + first * rest


def estimate_weights(problem: Problem) -> Array:
    """(T+1, T+1) weight of x_0 in a jump, alpha_i sigma_j - sigma_i alpha_j, at [start, stop]."""
    alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
    return np.outer(sigmas, alphas) - np.outer(alphas, sigmas)


def estimate_deficits(problem: Problem, d: int) -> Array:
    """(T+1, T+1) how much one jump falls short, 1 - J/P, at [start, stop], for eigenvalue d."""
    from opmerge.planners._kernels import jump_deficits

    teacher, schedule = problem.teacher, problem.schedule
    log_cosines = np.ascontiguousarray(teacher.log_cosines[:, d])
    deficits: Array = jump_deficits(
        schedule.alphas, schedule.sigmas, teacher.eigenvalues[d], log_cosines
    )
    return deficits


def excess_ranges(problem: Problem, student_steps: int = 1) -> Array:
    """(2, d) smallest and largest excess of each eigenvalue over all plans with K students.

    O(T³ d) time; eigenvalues run in parallel with O(T²) memory each.
    """
    from opmerge.planners._kernels import scalar_ranges

    teacher = problem.teacher
    chunk = max(2, int(_OPERATIONS_AT_ONCE / problem.num_steps**3))
    parts = [slice(first, first + chunk) for first in range(0, len(teacher.eigenvalues), chunk)]
    ranges = [
        scalar_ranges(
            teacher.log_products[:, part],
            problem.retentions[:, part],
            teacher.log_cosines[:, part],
            teacher.eigenvalues[part],
            problem.schedule.alphas,
            problem.schedule.sigmas,
            estimate_weights(problem),
            problem.merge_rule == "denoiser-copy",
            student_steps,
        )
        for part in parts
    ]
    with np.errstate(divide="ignore"):
        return np.log1p(np.maximum(np.hstack(ranges), -1.0))


def scalar_extremes(problem: Problem, d: int) -> tuple[Array, Array]:
    """Smallest and largest δ of every tree and row of trees for eigenvalue d: ``scalar_tables``."""
    from opmerge.planners._kernels import scalar_tables

    is_denoiser = problem.merge_rule == "denoiser-copy"
    tables: tuple[Array, Array] = scalar_tables(
        np.ascontiguousarray(problem.teacher.log_products[:, d]),
        np.ascontiguousarray(problem.retentions[:, d]),
        estimate_deficits(problem, d) if is_denoiser else np.zeros((1, 1)),
        estimate_weights(problem),
        is_denoiser,
    )
    return tables


def separable_bound(problem: Problem, ranges: Array) -> float:
    """W2 distance that no plan goes below, from each eigenvalue's own range of excesses."""
    return problem.distance(np.clip(problem.target_excess, ranges[0], ranges[1]))
