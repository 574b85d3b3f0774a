"""The paper's planner: per interval, the operator closest in W2 (arXiv 2505.16024, Algorithm 1).

Exact for one eigenvalue where signs agree; a heuristic for several, because closeness of the
parts does not order closeness of the whole. Its lower bound is the separable one.
"""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners._kernels import interval_tables, jump_deficits
from opmerge.planners.backtrack import partition_edges, trace_tree
from opmerge.planners.ranges import estimate_weights, excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

__all__ = ["interval_memory", "interval_plan"]

Array = NDArray[np.float64]

MEMORY_LIMIT = 2 * 1024**3


def interval_memory(problem: Problem) -> int:
    """Bytes of the tables: (T+1)² d numbers for trees, for forests, and for jump deficits."""
    tables = 3 if problem.merge_rule == "denoiser-copy" else 2
    return 8 * tables * (problem.num_steps + 1) ** 2 * len(problem.eigenvalues)


def interval_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """Plan by interval DP, with the separable lower bound; O(T³ d) time, O(T² d) memory.

    Under the data objective an interval's target is the map that takes N(0, n_j) to N(0, n_i)
    exactly. K students: prefixes of k trees are built in the same way, closest first.

    Args:
        problem: any problem.
        student_steps: K >= 1 trees; the boundaries are chosen too.

    Raises:
        InputError: if K is out of range, or the tables would take more than 2 GiB.
    """
    uniform_boundaries(problem.num_steps, student_steps)
    if interval_memory(problem) > MEMORY_LIMIT:
        raise InputError(
            "planner",
            "interval needs tables of at most 2 GiB",
            f"{interval_memory(problem) / 1024**3:.1f} GiB",
            'use `planner="auto"` or fewer steps',
        )
    began = time.perf_counter()
    log_targets = _cumulated_targets(problem)
    trees, _, tree_splits, forest_splits = interval_tables(
        problem.teacher.log_products,
        problem.retentions,
        np.log(problem.teacher.variances),
        log_targets,
        problem.multiplicities,
        _deficits(problem),
        estimate_weights(problem),
        problem.merge_rule == "denoiser-copy",
    )
    edges = _closest_partition(problem, trees, log_targets, student_steps)

    def tree_split(start: int, stop: int) -> int:
        return int(tree_splits[start, stop])

    def forest_split(start: int, stop: int) -> int:
        return int(forest_splits[start, stop])

    plan = Plan(tuple(trace_tree(a, b, tree_split, forest_split) for a, b in pairwise(edges)))
    bound = separable_bound(problem, excess_ranges(problem, student_steps))
    return PlannerResult(
        evaluate(problem, plan),
        bound,
        "interval",
        time.perf_counter() - began,
        ("the bound lets every eigenvalue have its own plan",),
    )


def _cumulated_targets(problem: Problem) -> Array:
    """(T+1, d) target excess of the interval t → 0; an interval's own is a difference."""
    if problem.objective == "teacher":
        return np.zeros_like(problem.teacher.log_products)
    targets = -np.cumsum(problem.teacher.log_cosines, axis=0)
    targets[0] = targets[-1] - problem.target_excess  # differs from 0 only where sigma_0 > 0
    return targets


def _deficits(problem: Problem) -> Array:
    if problem.merge_rule != "denoiser-copy":
        return np.zeros((1, 1, 1))
    teacher, schedule = problem.teacher, problem.schedule
    tables = [
        jump_deficits(
            schedule.alphas, schedule.sigmas, eigenvalue, teacher.log_cosines[:, d].copy()
        )
        for d, eigenvalue in enumerate(teacher.eigenvalues)
    ]
    return np.ascontiguousarray(np.stack(tables, axis=-1))


def _closest_partition(
    problem: Problem, trees: Array, log_targets: Array, student_steps: int
) -> list[int]:
    """Boundaries (T, …, 0) of K trees, prefix by prefix the closest in W2."""
    num_steps, teacher = problem.num_steps, problem.teacher
    reached = trees[num_steps].copy()
    choices = []
    for students in range(1, student_steps):
        choice = np.zeros(num_steps + 1, dtype=int)
        for stop in range(num_steps - students):
            above = slice(stop + 1, num_steps - students + 1)
            values = reached[above] + trees[above, stop] + reached[above] * trees[above, stop]
            scale = teacher.log_products[stop] + 0.5 * np.log(problem.multiplicities)
            target = np.expm1(log_targets[-1] - log_targets[stop])
            errors = (
                (np.exp(scale) * np.sqrt(teacher.variances[-1]) * (values - target)) ** 2
            ).sum(1)
            best = int(errors.argmin())
            choice[stop], reached[stop] = stop + 1 + best, values[best]
        choices.append(choice)
    return partition_edges(num_steps, choices)
