"""Plans where noise and data do not commute: combs as paths under one quadratic form (THEORY 9).

A comb trains the student at T alone, block k → i after block. In the frame of the problem and to
first order in the retention its deviation from the teacher is ``Diag(x) ρ_T``, with

    x = Σ over blocks of P(0, i) (1 - P(i, k)) P(k, T),

one entry for each generalised eigenvalue, so its squared paired error is ``xᵀ K x`` with
``K = W ∘ (ρ_T N_T ρ_Tᵀ)``, positive semi-definite as a Schur product of such matrices. That is a
convex function of sums over the edges of a path: Frank-Wolfe, each step of it a shortest path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.plans.tree import Plan, Tree
from opmerge_studies.correlated_noise.matrices import MatrixProblem

__all__ = ["MatrixCombResult", "matrix_comb_plan"]

_MAX_ITERATIONS = 100
_CLOSED = 1e-12  # a relative gap that is rounding

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MatrixCombResult:
    """The best comb, to first order in the retention.

    Args:
        plan: the comb.
        paired_error: its paired error to first order.
        lower_bound: of the paired error of every comb, to first order.
    """

    plan: Plan
    paired_error: float
    lower_bound: float


def matrix_comb_plan(problem: MatrixProblem) -> MatrixCombResult:
    """The comb of least paired error where training leaves little (THEORY 7.7, 9).

    Args:
        problem: an operator-copy problem with T >= 2 steps.

    Raises:
        InputError: for another merge rule, or T < 2.
    """
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy for combs", problem.merge_rule)
    if problem.num_steps < 2:
        raise InputError("num_steps", "must be >= 2 for there to be a merge", problem.num_steps)
    combs = _Combs(problem)
    starts = [list(range(problem.num_steps - 1, -1, -1)), [problem.num_steps - 1, 0]]
    best = min(starts, key=lambda path: combs.error(combs.position(path)))
    point, lower = combs.position(best), 0.0
    for _ in range(_MAX_ITERATIONS):
        gradient = 2.0 * combs.form @ point
        path = combs.shortest_path(gradient)
        step = combs.position(path) - point
        lower = max(lower, combs.error(point) + float(gradient @ step))
        best = min(best, path, key=lambda one: combs.error(combs.position(one)))
        least = combs.error(combs.position(best))
        curvature = combs.error(step)
        if least - lower <= _CLOSED * least or curvature == 0.0:
            break
        point = point + min(1.0, max(0.0, -float(gradient @ step) / (2.0 * curvature))) * step
    tree = Tree.chain(problem.num_steps, best)
    return MatrixCombResult(Plan((tree,)), float(np.sqrt(least)), float(np.sqrt(lower)))


@dataclass(frozen=True, eq=False)
class _Combs:
    """Paths T-1 → … → 0: an edge k → i is a block, its vector what the block adds to x."""

    problem: MatrixProblem

    @cached_property
    def form(self) -> Array:
        """(d, d) K."""
        retention = self.problem.retentions[-1]
        left = retention * self.problem.teacher.variances[-1] @ retention.T
        form: Array = self.problem.metric * left
        return form

    @cached_property
    def edges(self) -> Array:
        """(T, T, d) vector of the block k → i < k at [k, i]."""
        products = self.problem.teacher.log_products
        above, below = products[:-1, None], products[None, :-1]
        inside = np.minimum(below - above, 700.0)  # no overflow where i >= k, which is no block
        edges: Array = np.exp(np.minimum(products[0] - below + above, 700.0)) * -np.expm1(inside)
        return edges

    def position(self, path: list[int]) -> Array:
        """(d,) x of a comb."""
        position: Array = np.sum([self.edges[above, below] for above, below in pairwise(path)], 0)
        return position

    def error(self, position: Array) -> float:
        """``xᵀ K x``."""
        return float(position @ self.form @ position)

    def shortest_path(self, gradient: Array) -> list[int]:
        """The path with the least ``<gradient, x>``."""
        costs = self.edges @ gradient
        last = self.problem.num_steps - 1
        least, before = np.zeros(last + 1), np.zeros(last + 1, dtype=int)
        for node in range(last - 1, -1, -1):
            reached = least[node + 1 :] + costs[node + 1 :, node]
            before[node] = node + 1 + int(np.argmin(reached))
            least[node] = reached.min()
        path = [0]
        while path[-1] != last:
            path.append(int(before[path[-1]]))
        return path[::-1]
