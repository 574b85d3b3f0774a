"""The paper's planner: per interval, the operator closest in W2 (arXiv 2505.16024, Algorithm 1).

Exact for one eigenvalue where signs agree; a heuristic for several, because closeness of the
parts does not order closeness of the whole. Its lower bound is the separable one.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.backtrack import best_edges, trace_tree
from opmerge.planners.ranges import compose, estimates, excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, planner
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Plan
from opmerge.problem import Array, Problem

MEMORY_LIMIT = 2 * 1024**3


def interval_memory(problem: Problem) -> int:
    """Bytes of the tables: (T+1)² d numbers for trees, for forests, and for jump deficits."""
    tables = 3 if problem.merge_rule == "denoiser-copy" else 2
    return 8 * tables * (problem.num_steps + 1) ** 2 * len(problem.eigenvalues)


@planner("interval", 1)
def interval_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """Plan by interval DP, with the separable lower bound; O(T³ d) time, O(T² d) memory.

    Under the data objective an interval's target is the map that takes N(0, n_j) to N(0, n_i)
    exactly. K students: prefixes of k trees are built in the same way, closest first.

    Raises:
        InputError: if the tables would take more than 2 GiB.
    """
    from opmerge.planners._kernels import interval_tables

    uniform_boundaries(problem.num_steps, student_steps)
    if interval_memory(problem) > MEMORY_LIMIT:
        raise InputError(
            "planner",
            "interval needs tables of at most 2 GiB",
            f"{interval_memory(problem) / 1024**3:.1f} GiB",
            'use `planner="auto"` or fewer steps',
        )
    teacher, columns = problem.teacher, range(len(problem.eigenvalues))
    deficits, weights = zip(*(estimates(problem, d) for d in columns), strict=True)
    log_targets = _cumulated_targets(problem)
    trees, _, tree_splits, forest_splits = interval_tables(
        teacher.log_products,
        problem.retentions,
        np.log(teacher.variances),
        log_targets,
        problem.multiplicities,
        np.ascontiguousarray(np.stack(deficits, axis=-1)),
        weights[0],
        problem.merge_rule == "denoiser-copy",
    )

    def error(values: Array, stop: int) -> Array:
        scale = teacher.log_products[stop] + 0.5 * np.log(problem.multiplicities)
        target = np.expm1(log_targets[-1] - log_targets[stop])
        off = np.exp(scale) * np.sqrt(teacher.variances[-1]) * (values - target)
        squared: Array = (off**2).sum(1)
        return squared

    edges = best_edges(trees, student_steps, compose, error)
    students = (
        trace_tree(*ends, lambda *at: tree_splits[at], lambda *at: forest_splits[at])
        for ends in pairwise(edges)
    )
    return PlannerResult(
        evaluate(problem, Plan(tuple(students))),
        separable_bound(problem, excess_ranges(problem, student_steps)),
        notes=("the bound lets every eigenvalue have its own plan",),
    )


def _cumulated_targets(problem: Problem) -> Array:
    """(T+1, d) target excess of the interval t → 0; an interval's own is a difference."""
    if problem.objective == "teacher":
        return np.zeros_like(problem.teacher.log_products)
    targets = -np.cumsum(problem.teacher.log_cosines, axis=0)
    targets[0] = targets[-1] - problem.target_excess  # differs from 0 only where sigma_0 > 0
    return targets
