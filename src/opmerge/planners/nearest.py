"""One eigenvalue whose target lies between the extremes: a plan that comes near to it.

Along the spine of a tree, the merges that train the student at T, the excess is a sum over the
blocks that are merged into it, Σ log((1 - ρ_T) e^u + ρ_T / P), with u the excess of what stands
in a block: teacher steps (u = 0), or the trees with the smallest or the largest excess of that
interval. Plans are then paths T-1 → … → 0 whose edges add up, and what is looked for is a path of
a given length. Sums that reach a node lie dense between the shortest and the longest; one of each
small interval is kept, and the last edge is the one that comes out nearest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opmerge.planners.extremes import Extremes
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

__all__ = ["nearest_plan"]

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

_KEPT = 64  # sums of a node
_TEACHER = 2  # index of the blocks of teacher steps, after those of the two extremes


def nearest_plan(problem: Problem) -> Plan:
    """A plan whose excess is near the target; O(T² k) for k = 64 sums a node, after O(T³).

    Args:
        problem: one eigenvalue, operator copy, T >= 2.
    """
    extremes = [Extremes(problem, side) for side in (0, 1)]
    head = problem.num_steps
    blocks = _nearest_path(_block_lengths(problem, extremes), float(problem.target_excess[0]))
    merges: list[Merge] = []
    for above, below, kind in blocks:
        trees = [] if kind == _TEACHER else extremes[kind].forest(above, below)
        edges = [tree.start for tree in trees] or list(range(above, below, -1))
        merges += [merge for tree in trees for merge in tree.merges]
        merges.append(Merge((head, *edges, below)))
    return Plan((Tree(head, 0, tuple(merges)),))


def _block_lengths(problem: Problem, extremes: list[Extremes]) -> Array:
    """(T, T, 3) what the block k → i adds at [k, i], by what stands in it."""
    products = problem.teacher.log_products[:-1, 0]
    inverse = np.expm1(products[:, None] - products[None, :])  # 1/P(i, k) - 1
    inside = [each.forests[:-1, :-1].T for each in extremes]  # exp(u) - 1
    rho = problem.retentions[-1, 0]
    changes = [(1 - rho) * u + rho * inverse for u in (*inside, np.zeros_like(inverse))]
    with np.errstate(divide="ignore", invalid="ignore"):  # above the diagonal nothing is read
        lengths: Array = np.log1p(np.stack(changes, axis=-1))
    return lengths


def _nearest_path(lengths: Array, target: float) -> list[tuple[int, int, int]]:
    """Blocks (k, i, kind) from T - 1 down to 0 whose lengths add up to about the target."""
    top, kinds = len(lengths) - 1, lengths.shape[-1]
    sums = np.zeros((top + 1, _KEPT))  # that reach each node
    origins = np.zeros((top + 1, _KEPT), dtype=int)  # index among all sums over an edge to it
    for node in range(top - 1, -1, -1):
        reached = (sums[node + 1 :, :, None] + lengths[node + 1 :, node, None]).ravel()
        origins[node] = _spread_over(reached) if node else np.abs(reached - target).argmin()
        sums[node] = reached[origins[node]]
    blocks, node, place = [], 0, 0
    while node < top:
        above, place, kind = np.unravel_index(origins[node, place], (top - node, _KEPT, kinds))
        blocks.append((node + 1 + int(above), node, int(kind)))
        node = blocks[-1][0]
    return blocks[::-1]


def _spread_over(values: Array) -> Indices:
    """Indices of the extremes, and of one value in each of as many equal intervals as are kept."""
    low, high = values.argmin(), values.argmax()
    width = max(values[high] - values[low], np.finfo(float).tiny)
    interval = np.minimum((values - values[low]) / width * _KEPT, _KEPT - 1).astype(int)
    chosen = np.full(_KEPT, low)
    chosen[interval] = np.arange(len(values))
    chosen[0], chosen[-1] = low, high
    return chosen
