"""Plans where noise and data do not commute: combs as paths under one quadratic form (THEORY 9).

A comb trains the student at T alone, block k → i after block. In the frame V of the problem and to
first order in the retention its deviation from the teacher is ``Diag(x) ρ_T``, with

    x = Σ over blocks of P(0, i) (1 - P(i, k)) P(k, T),

one entry for each generalised eigenvalue, so its squared paired error is ``xᵀ K x`` with
``K = VᵀV ∘ (ρ_T N_T ρ_Tᵀ)``, positive semi-definite as a Schur product of such matrices. That is a
convex function of sums over the edges of a path: Frank-Wolfe, each step of it a shortest path.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.planners.combs import cheapest_comb
from opmerge.plans import Plan, build_strategy
from opmerge.plans.tree import Tree
from opmerge_studies.shared.matrices import MatrixProblem

_MAX_ITERATIONS = 100
_CLOSED = 1e-12  # a relative gap that is rounding
_LARGEST_LOGARITHM = 700.0

Array = NDArray[np.float64]


class MatrixComb(NamedTuple):
    """The best comb, its paired error and what no comb goes below, to first order in ρ."""

    plan: Plan
    paired_error: float
    lower_bound: float


def matrix_comb(problem: MatrixProblem) -> MatrixComb:
    """The comb of least paired error where training leaves little (THEORY 7.7, 9).

    Args:
        problem: an operator-copy problem with T >= 2 steps.

    Raises:
        InputError: for another merge rule.
    """
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy for combs", problem.merge_rule)
    root = problem.retentions[-1] @ problem.input_root
    form = problem.frame.T @ problem.frame * (root @ root.T)
    blocks = _blocks(problem.teacher.log_products)

    def error(position: Array) -> float:
        return float(position @ form @ position)

    def reached(tree: Tree) -> Array:
        position: Array = np.sum([blocks[merge.split, merge.stop] for merge in tree.merges], axis=0)
        return position

    named = (build_strategy(name, problem.schedule.num_steps) for name in ("boot", "vanilla"))
    best = min((plan.students[0] for plan in named), key=lambda tree: error(reached(tree)))
    point, lower = reached(best), 0.0
    for _ in range(_MAX_ITERATIONS):
        gradient = 2.0 * form @ point
        tree = cheapest_comb(blocks @ gradient)[1]
        step = reached(tree) - point
        slope, curvature = float(gradient @ step), error(step)
        lower = max(lower, error(point) + slope)
        best = min(best, tree, key=lambda one: error(reached(one)))
        least = error(reached(best))
        if least - lower <= _CLOSED * least or curvature == 0.0:
            break
        point = point + min(1.0, max(0.0, -slope / (2.0 * curvature))) * step
    return MatrixComb(Plan((best,)), float(np.sqrt(least)), float(np.sqrt(lower)))


def _blocks(log_products: Array) -> Array:
    """(T, T, d) what the block k → i < k adds to x, at [k, i]."""
    above, below = log_products[:-1, None], log_products[None, :-1]
    inside, around = below - above, log_products[0] - below + above
    # no overflow where i >= k, which is no block
    inside, around = (np.minimum(each, _LARGEST_LOGARITHM) for each in (inside, around))
    blocks: Array = np.exp(around) * -np.expm1(inside)
    return blocks
