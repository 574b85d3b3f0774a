"""The tail bound: what training inside the blocks of a plan's spine may save (THEORY 7.7).

Every plan has a spine: the merges whose first child reads z_j, j the head of its tree. Its
excess is Σ over spine blocks of h_j(u) = log((1-ρ_j) e^u + ρ_j / P), u the excess of the trees
that stand in the block (THEORY 4); a comb is the case u = 0. For an eigenvalue whose steps all
shrink, or all grow, u = 0 is best (THEORY 7.1, 7.6). For the others, with λ in (λ_0, λ*), u ≠ 0 may
save something, at a price that all the rest must pay. What is here bounds the balance:

    Σ_d g_d (h_d(u_d) - h_d(0)) = Σ_d g_d s_d u_d,      s_d the slope of h_d, in [s_min, 1],

and u_d is itself a sum of h over the spine blocks of the trees inside, which for eigenvalues of
one sign is at least its value with nothing trained further inside, and for the others lies
between the extremes that an exact interval DP gives. Hence one number per block bounds what a
spine block there can cost, and the cheapest disjoint choice of them bounds the saving.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.planners.combs import BlockSums, cheapest_paths, step_signs
from opmerge.planners.ranges import scalar_extremes
from opmerge.problem import Problem

_MEMORY = 512 * 1024**2  # bytes of tails' extremes that are kept


class TailBound:
    """Lower bounds on what training inside blocks adds to a weighted sum of excesses.

    What does not depend on the weights is computed on first use and kept, as far as it fits into
    memory: per eigenvalue with steps of both signs (``mixed``) an interval DP in O(T³), and the
    factors of the block sums. With one student the only head is T, which makes slopes tighter.
    """

    def __init__(self, problem: Problem, student_steps: int) -> None:
        is_mixed = step_signs(problem) == 0
        if problem.merge_rule == "denoiser-copy":
            is_mixed[:] = False  # where training inside never pays
        self._problem, self.mixed = problem, np.flatnonzero(is_mixed)
        trained = problem.retentions[1:]
        self._least, self._most = trained.min(axis=0), trained.max(axis=0)
        heads = problem.retentions[-1] if student_steps == 1 else self._most
        # (1-ρ) R / ((1-ρ) R + ρ), the least slope of h over all blocks, at the smallest product R
        smallest = np.exp(np.minimum(problem.teacher.log_steps[1:-1], 0.0).sum(axis=0))
        kept = (1.0 - heads) * smallest
        self._slopes = np.divide(kept, kept + heads, out=np.zeros_like(kept), where=kept > 0)
        size = max(1, _MEMORY // (16 * problem.num_steps**2))
        self._spine_range = lru_cache(maxsize=size)(self._compute_spine_range)

    @cached_property
    def _sums(self) -> BlockSums:
        log_products = self._problem.teacher.log_products[: self._problem.num_steps]
        return BlockSums(log_products, self._least)

    def credit(self, weights: Array) -> Array | None:
        """(T, T) lower bound, <= 0, of what training inside a block k → i may save, at [k, i].

        None where it can save nothing: then, under these weights, no plan is cheaper than the
        comb with the same spine. The (d,) weights g are >= 0 where the steps shrink and <= 0 where
        they grow, as the gradient of any loss with its minimum at excess 0.
        """
        if not self.mixed.size:
            return None
        definite = weights * self._slopes
        definite[self.mixed] = 0.0
        costs = self._sums.weighted(definite)
        np.maximum(costs, 0.0, out=costs)  # it is a sum of terms >= 0, up to rounding
        for d in self.mixed:
            lowest, highest = self._spine_range(int(d))
            worst = weights[d] * (lowest if weights[d] >= 0 else highest)
            costs += np.minimum(worst, self._slopes[d] * worst)
        costs = np.tril(costs, -1)
        return _cheapest_inside(costs) if (costs < 0).any() else None

    def _compute_spine_range(self, d: int) -> tuple[Array, Array]:
        """(T, T) extremes of h over all heads and all trees inside a block k → i, at [k, i]."""
        _, forests = scalar_extremes(self._problem, d)
        size = self._problem.num_steps
        log_products = self._problem.teacher.log_products[:size, d]
        growth = np.expm1(np.subtract.outer(log_products, log_products))
        inside = forests[:, :size, :size].transpose(0, 2, 1)
        extremes = [
            np.log1p((1.0 - rho) * inside + rho * growth) for rho in (self._least[d], self._most[d])
        ]
        return np.minimum(*(e[0] for e in extremes)), np.maximum(*(e[1] for e in extremes))


def _cheapest_inside(costs: Array) -> Array:
    """Least total cost of disjoint spine blocks inside each block k → i, at [k, i]; none cost 0."""
    size = len(costs)
    single = np.arange(1, size), np.arange(size - 1)
    costs[single] = np.minimum(costs[single], 0.0)  # a step outside spine blocks costs nothing
    least = np.zeros_like(costs)
    for below in range(size - 1):
        tick()
        inside = np.ascontiguousarray(costs[below:, below:])
        # a spine block begins below the head of its tree, hence strictly below k
        least[below + 1 :, below] = cheapest_paths(inside)[0][:-1]
    return least
