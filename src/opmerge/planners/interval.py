"""The paper's planner: per interval, the operator closest in W2 (arXiv 2505.16024, Algorithm 1).

Exact for one eigenvalue where signs agree; a heuristic for several, because closeness of the
parts does not order closeness of the whole. Its lower bound is the separable one. The way back from
the choices of such a dynamic programme to trees and students serves other planners too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners.ranges import compose, estimates, excess_ranges, separable_bound
from opmerge.planners.result import PlannerResult, planner
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

Split = Callable[[int, int], Any]

MEMORY_LIMIT = 2 * 1024**3
_OPERATIONS_AT_ONCE = 2e9  # of a compiled kernel, which hears neither Ctrl-C nor the clock


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
    if interval_memory(problem) > MEMORY_LIMIT:
        raise InputError(
            "planner",
            "interval needs tables of at most 2 GiB",
            f"{interval_memory(problem) / 1024**3:.1f} GiB",
            'use `planner="auto"` or fewer steps',
        )
    bound = separable_bound(problem, excess_ranges(problem, student_steps))
    teacher, log_targets = problem.teacher, _cumulated_targets(problem)
    trees, tree_splits, forest_splits = _interval_tables(problem, log_targets)

    def error(values: Array, stop: int) -> Array:
        scale = teacher.log_products[stop] + 0.5 * np.log(problem.multiplicities)
        target = np.expm1(log_targets[-1] - log_targets[stop])
        off = np.exp(scale) * np.sqrt(teacher.variances[-1]) * (values - target)
        return (off**2).sum(1)

    edges = best_edges(trees, student_steps, compose, error)
    students = (
        trace_tree(*ends, lambda *at: tree_splits[at], lambda *at: forest_splits[at])
        for ends in pairwise(edges)
    )
    note = "the bound lets every eigenvalue have its own plan"
    return PlannerResult(evaluate(problem, Plan(tuple(students))), bound, notes=(note,))


def _interval_tables(
    problem: Problem, log_targets: Array
) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Trees, and the splits of trees and forests, of ``fill_intervals``."""
    from opmerge.planners._kernels import fill_intervals

    size, dimensions = problem.teacher.log_products.shape
    deficits = [estimates(problem, d)[0] for d in range(dimensions)]
    trees, forests = np.zeros((2, size, size, dimensions))
    tree_splits, forest_splits = np.zeros((2, size, size), dtype=np.int64)
    arguments = (
        problem.teacher.log_products,
        problem.retentions,
        np.log(problem.teacher.variances),
        log_targets,
        problem.multiplicities,
        np.ascontiguousarray(np.stack(deficits, axis=-1)),
        estimates(problem, 0)[1],
        problem.merge_rule == "denoiser-copy",
        trees,
        forests,
        tree_splits,
        forest_splits,
    )
    lengths = max(1, int(_OPERATIONS_AT_ONCE / (size**2 * dimensions)))
    for first in range(2, size, lengths):
        tick("intervals up to length", first)
        fill_intervals(first, min(first + lengths, size), *arguments)
    return trees, tree_splits, forest_splits


def _cumulated_targets(problem: Problem) -> Array:
    """(T+1, d) target excess of the interval t → 0; an interval's own is a difference."""
    if problem.objective == "teacher":
        return np.zeros_like(problem.teacher.log_products)
    targets = -np.cumsum(problem.teacher.log_cosines, axis=0)
    targets[0] = targets[-1] - problem.target_excess  # differs from 0 only where sigma_0 > 0
    return targets


def forest_edges(start: int, stop: int, forest_split: Split) -> list[int]:
    """The steps at which the trees of the row start → stop meet: see ``trace_tree``."""
    edges = [start]
    while edges[-1] > stop:
        here = edges[-1]
        edges.append(int(here - stop > 1 and forest_split(here, stop)) or stop)
    return edges


def trace_tree(start: int, stop: int, tree_split: Split, forest_split: Split) -> Tree:
    """The tree start → stop that the choices describe.

    They tell where the first child of the tree (start, stop) ends, and where the first tree of the
    row (start, stop) ends, which is 0 if it is one tree.
    """
    merges: list[Merge] = []
    pending = [(start, stop)]
    while pending:
        head, end = pending.pop()
        if head - end > 1:
            first = int(tree_split(head, end))
            merges.append(Merge((head, *forest_edges(first, end, forest_split))))
            pending.extend(pairwise(merges[-1].boundaries))
    return Tree(start, stop, tuple(merges))


def best_edges(
    trees: Array,
    student_steps: int,
    compose: Callable[[Array, Array], Array],
    error: Callable[[Array, int], Array],
) -> list[int]:
    """The boundaries (T, …, 0) of K students: of each prefix of k trees the one that errs least.

    The best trees (T+1, T+1, …) stand at [start, stop]; ``compose`` joins (n, …) prefixes with the
    (n, …) trees that follow, and ``error`` tells the (n,) errors of those that end at a step.
    """
    num_steps = len(trees) - 1
    reached, choices = trees[num_steps].copy(), []
    for students in range(1, student_steps):
        choice = np.zeros(num_steps + 1, dtype=int)
        for stop in range(num_steps - students):
            above = slice(stop + 1, num_steps - students + 1)
            values = compose(reached[above], trees[above, stop])
            best = int(error(values, stop).argmin())
            choice[stop], reached[stop] = stop + 1 + best, values[best]
        choices.append(choice)
    edges = [0]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return [num_steps, *reversed(edges)]
