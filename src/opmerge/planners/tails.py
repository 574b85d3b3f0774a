"""How much training inside a block could save: the bound that makes combs a proof.

Every plan has a spine: the merges whose first child reads z_j, j the head of its tree. Its
excess is Σ over spine blocks of h_j(u) = log((1-ρ_j) e^u + ρ_j / P), u the excess of the trees
that stand in the block (THEORY 4); a comb is the case u = 0. For an eigenvalue whose steps all
shrink, or all grow, u = 0 is best (THEORY 7.1, 7.6). For the others, with λ in (1, λ*), u ≠ 0 may
save something, at a price that all the rest must pay. ``tail_credit`` bounds the balance:

    Σ_d g_d (h_d(u_d) - h_d(0)) = Σ_d g_d s_d u_d,      s_d the slope of h_d, in [s_min, 1],

and u_d is itself a sum of h over the spine blocks of the trees inside, which for eigenvalues of
one sign is at least its value with nothing trained further inside, and for the others lies
between the extremes that an exact interval DP gives. Hence one number per block bounds what a
spine block there can cost, and the cheapest disjoint choice of them bounds the saving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from opmerge.planners.combs import BlockSums
from opmerge.planners.ranges import scalar_extremes
from opmerge.problem import Problem

__all__ = ["StepSigns", "tail_credit"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StepSigns:
    """Which eigenvalues have steps of one sign below the noisiest step (THEORY 7.2 to 7.4).

    Args:
        shrinking: (d,) A_t <= 1 for all t < T: every excess is >= 0, sequential BOOT is best.
        growing: (d,) A_t >= 1 for all t < T (λ >= λ*): every excess is <= 0, vanilla is best.
    """

    shrinking: NDArray[np.bool_]
    growing: NDArray[np.bool_]

    @classmethod
    def of(cls, problem: Problem) -> StepSigns:
        """Read the signs off the teacher's steps."""
        inner = problem.teacher.log_steps[1:-1]
        shrinking = np.all(inner <= 0, axis=0)
        growing = np.all(inner >= 0, axis=0) & ~shrinking
        return cls(np.asarray(shrinking), np.asarray(growing))

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """(d,) eigenvalues with steps of both signs: λ in (1, λ*)."""
        return ~(self.shrinking | self.growing)


def tail_credit(problem: Problem, signs: StepSigns, weights: Array, student_steps: int) -> Array:
    """(T, T) lower bound, <= 0, of what training inside a block k → i may save, at [k, i].

    Costs two matrix products and, per mixed eigenvalue, an interval DP in O(T³).

    Args:
        problem: an operator-copy problem.
        signs: its step signs.
        weights: (d,) weights g of the excesses; >= 0 where the steps shrink, <= 0 where they
            grow (the gradient of any loss with its minimum at excess 0).
        student_steps: K; with one student the only head is T, which makes slopes tighter.
    """
    teacher, size = problem.teacher, problem.num_steps
    mixed = np.flatnonzero(signs.mixed)
    if mixed.size == 0:
        return np.zeros((size, size))
    least, most = problem.retentions[1:].min(axis=0), problem.retentions[1:].max(axis=0)
    slopes = _smallest_slopes(problem, problem.retentions[-1] if student_steps == 1 else most)
    costs = BlockSums(teacher.log_products[:size], least).weighted(
        np.where(signs.mixed, 0.0, weights * slopes)
    )
    np.maximum(costs, 0.0, out=costs)  # it is a sum of terms >= 0, up to rounding
    for d in mixed:
        lowest, highest = _spine_range(problem, int(d), float(least[d]), float(most[d]))
        worst = weights[d] * (lowest if weights[d] >= 0 else highest)
        costs += np.minimum(worst, slopes[d] * worst)
    costs[np.triu_indices(size)] = 0.0
    return _cheapest_inside(costs) if (costs < 0).any() else np.zeros((size, size))


def _smallest_slopes(problem: Problem, retention: Array) -> Array:
    """(d,) least slope of h over all blocks: (1-ρ) R / ((1-ρ) R + ρ) at the smallest product R."""
    smallest = np.exp(np.minimum(problem.teacher.log_steps[1:-1], 0.0).sum(axis=0))
    kept = (1.0 - retention) * smallest
    slopes: Array = np.divide(kept, kept + retention, out=np.zeros_like(kept), where=kept > 0)
    return slopes


def _spine_range(problem: Problem, d: int, least: float, most: float) -> tuple[Array, Array]:
    """(T, T) extremes of h over all heads and all trees inside a block k → i, at [k, i]."""
    _, forests = scalar_extremes(problem, d)
    size = problem.num_steps
    log_products = problem.teacher.log_products[:size, d]
    growth = np.expm1(np.subtract.outer(log_products, log_products))
    inside = forests[:, :size, :size].transpose(0, 2, 1)
    extremes = [np.log1p((1.0 - rho) * inside + rho * growth) for rho in (least, most)]
    return np.minimum(*(e[0] for e in extremes)), np.maximum(*(e[1] for e in extremes))


@njit(cache=True)
def _cheapest_inside(costs: Array) -> Array:
    """Least total cost of disjoint spine blocks inside each block k → i, at [k, i]; none cost 0.

    A spine block begins below the head of its tree, hence strictly below k.
    """
    size = len(costs)
    least = np.zeros((size, size))
    for above in range(size):
        for below in range(above - 1, -1, -1):
            best = least[above, below + 1]
            for middle in range(below + 1, above):
                best = min(best, least[above, middle] + costs[middle, below])
            least[above, below] = best
    return least
