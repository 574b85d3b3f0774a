"""Combs: plans in which only the student at the head of each tree is ever trained (THEORY 7.6).

A comb cuts the steps below its head j into consecutive blocks k → i of teacher steps, and its
excess is a sum over blocks, Σ log1p(ρ_j (1/P(i, k) - 1)). Minimising a weighted sum of excesses
over all combs is therefore a shortest path, and for K students a shortest path of shortest paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from opmerge.planners.backtrack import partition_edges
from opmerge.plans.tree import Plan, Tree
from opmerge.problem import Problem

__all__ = ["BlockSums", "CombSearch", "cheapest_comb"]

Array = NDArray[np.float64]

_ROUNDING = 1e-15  # of the largest term; thousands as small change nothing above 1e-11
_SERIES_LIMIT = 0.25  # largest ρ'/P for which the power series is cheaper than logarithms
_MAX_STATES = 200_000  # that wait in a best-first search
_ROWS = 128  # rows of a matrix product at a time

_State = tuple[float, int, tuple[int, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]
"""Of the search: cost, students to follow, heads so far, the open tree's steps, closed trees'."""


class BlockSums:
    """Weighted excess of every block under one head: Σ_d weights_d log1p(ρ_d (1/P_d(i, k) - 1)).

    With o = ρ/(1-ρ) and r = 1/P(i, k), log1p(ρ (r - 1)) = Σ_n (-1)^(n+1) o^n (r^n - 1) / n for
    o r < 1. As r = E_k / E_i with E_t = P(t, n-1), each power is one matrix product over the
    eigenvalues, of E_k^n - 1 and (o / E_i)^n: nothing nearly equal to 1 is subtracted. Where o r
    is not small the logarithm is taken element by element.

    Args:
        log_products: (n, d) log P(t, T) for the steps t = 0 … n-1.
        retention: (d,) ρ of the student at the head.
    """

    def __init__(self, log_products: Array, retention: Array) -> None:
        with np.errstate(divide="ignore"):
            log_odds = np.log(retention) - np.log1p(-retention)
        floor = np.minimum.accumulate(log_products, axis=0)
        log_largest = log_odds + (log_products - floor).max(axis=0)
        small = log_largest < np.log(_SERIES_LIMIT)
        self._size = len(log_products)
        self._direct = np.flatnonzero(~small)
        self._direct_products = np.ascontiguousarray(log_products[:, self._direct])
        self._direct_retention = retention[self._direct]
        series = np.flatnonzero(small & (retention > 0))
        self._series = series[np.argsort(-log_largest[series])]  # slowest to converge first
        self._log_largest = log_largest[self._series]
        relative = log_products[:, self._series] - log_products[-1, self._series]
        self._above = np.expm1(relative)
        self._below = np.exp(log_odds[self._series] - relative)

    def weighted(self, weights: Array) -> Array:
        """(n, n) sums for the block k → i at [k, i]; entries with k <= i have no meaning.

        Args:
            weights: (d,) any signs.
        """
        total = np.zeros((self._size, self._size))
        if self._direct.size:
            args = self._direct_products, self._direct_retention, weights[self._direct]
            _add_logarithms(*args, total)
        if not self._series.size:
            return total
        weights = weights[self._series]
        with np.errstate(divide="ignore"):
            log_terms = np.log(np.abs(weights))
        least = np.log(_ROUNDING) + (log_terms + self._log_largest).max()
        above, below, power = self._above, self._below, 1
        while True:
            sign = 1.0 if power % 2 else -1.0
            weighted = above * (sign / power * weights[: above.shape[1]])
            _add_lower_product(weighted, below, total)
            total -= np.einsum("id,id->i", weighted, below)
            power += 1
            needed = np.flatnonzero(log_terms + power * self._log_largest > least)
            if not needed.size:
                return total
            used = int(needed[-1]) + 1
            above = above[:, :used] * (1.0 + self._above[:, :used]) + self._above[:, :used]
            below = below[:, :used] * self._below[:, :used]


def _add_lower_product(left: Array, right: Array, total: Array) -> None:
    """Add ``left @ right.T`` to ``total``, on and below the diagonal only: half the work."""
    for first in range(0, len(left), _ROWS):
        last = min(first + _ROWS, len(left))
        total[first:last, :last] += left[first:last] @ right[:last].T


@njit(cache=True, parallel=True)
def _add_logarithms(
    log_products: Array, retention: Array, weights: Array, total: Array
) -> None:  # pragma: no cover - compiled
    size, dimensions = log_products.shape
    for above in prange(size):
        for below in range(above):
            value = 0.0
            for d in range(dimensions):
                value += weights[d] * np.log1p(
                    retention[d] * np.expm1(log_products[above, d] - log_products[below, d])
                )
            total[above, below] += value


@njit(cache=True)
def _shortest_to(block_costs: Array, stop: int) -> tuple[Array, NDArray[np.int64]]:
    """Cheapest way to cut steps k … stop + 1 into blocks, and its first block's end, at [k]."""
    size = len(block_costs)
    costs = np.full(size, np.inf)
    ends = np.full(size, -1, dtype=np.int64)
    costs[stop] = 0.0
    for above in range(stop + 1, size):
        for below in range(stop, above):
            cost = block_costs[above, below] + costs[below]
            if cost < costs[above]:
                costs[above], ends[above] = cost, below
    return costs, ends


@njit(cache=True)
def _shortest_from(block_costs: Array) -> Array:
    """Cheapest way to cut steps size-1 … i + 1 into blocks, for every i."""
    size = len(block_costs)
    costs = np.full(size, np.inf)
    costs[size - 1] = 0.0
    for below in range(size - 2, -1, -1):
        for above in range(below + 1, size):
            costs[below] = min(costs[below], costs[above] + block_costs[above, below])
    return costs


class CombSearch:
    """Shortest combs of K students under linear weights on the excess of each eigenvalue.

    Args:
        problem: an operator-copy problem.
        student_steps: K.
    """

    def __init__(self, problem: Problem, student_steps: int) -> None:
        self.problem, self.student_steps = problem, student_steps
        self._top_sums = self._sums(problem.num_steps)
        self._top_costs = lru_cache(maxsize=1)(self._uncached_top_costs)

    def _sums(self, head: int) -> BlockSums:
        return BlockSums(self.problem.teacher.log_products[:head], self.problem.retentions[head])

    def _uncached_top_costs(self, weights: bytes) -> Array:
        return self._top_sums.weighted(np.frombuffer(weights))

    def block_costs(self, head: int, weights: Array) -> Array:
        """(head, head) cost of each block k → i of a tree with this head, at [k, i].

        Those of the head T are kept until other weights are asked for: with one student they
        are all there is, and the same weights are searched more than once.
        """
        if head == self.problem.num_steps:
            return self._top_costs(weights.tobytes())
        return self._sums(head).weighted(weights)

    def cheapest(self, weights: Array, credit: Array | None = None) -> tuple[float, Plan]:
        """The comb plan with the least Σ_d weights_d e_d + Σ_blocks credit, and that cost.

        Args:
            weights: (d,) weight of each eigenvalue's excess.
            credit: (T, T) what a block k → i may save beyond its teacher steps, at [k, i]; <= 0.
        """

        def costs_under(head: int) -> Array:
            costs = self.block_costs(head, weights)
            return costs if credit is None else costs + credit[:head, :head]

        num_steps, count = self.problem.num_steps, self.student_steps
        if count == 1:
            cost, tree = cheapest_comb(costs_under(num_steps))
            return cost, Plan((tree,))
        trees = np.full((num_steps + 1, num_steps + 1), np.inf)
        for head in range(1, num_steps + 1):
            trees[head, :head] = _shortest_from(costs_under(head))
        value, edges = _cheapest_partition(trees, count)
        heads = pairwise(edges)
        return value, Plan(tuple(cheapest_comb(costs_under(head), stop)[1] for head, stop in heads))

    def in_order(self, weights: Array, limit: float) -> Iterator[tuple[float, Plan | None]]:
        """Comb plans in the order of Σ_d weights_d e_d, up to ``limit``: best-first search.

        The cost still to come is known exactly for every state (students left, head, step), so
        nothing is expanded that does not lie on a plan within the limit. Where too many states
        wait, the search ends with the cost reached, and None for a plan.
        """
        num_steps, count = self.problem.num_steps, self.student_steps
        heads = range(1, num_steps + 1) if count > 1 else (num_steps,)
        blocks = {head: self.block_costs(head, weights) for head in heads}
        ahead = _costs_ahead(blocks, count)
        start = num_steps - 1
        heap: list[_State] = [
            (float(ahead[-1][num_steps][start]), count - 1, (num_steps,), (start,), ())
        ]
        while heap:
            estimate, following, starts, path, done = heappop(heap)
            if estimate > limit:
                return
            if len(heap) > _MAX_STATES:
                yield estimate, None
                return
            head, step = starts[-1], path[-1]
            if following == 0 and step == 0:
                chains = (*done, path)
                yield estimate, Plan(tuple(map(Tree.chain, starts, chains)))
                continue
            reached = estimate - ahead[following][head][step]
            for stop in range(step):
                cost = reached + blocks[head][step, stop] + ahead[following][head][stop]
                if cost <= limit:
                    heappush(heap, (float(cost), following, starts, (*path, stop), done))
            if following > 0 and step > 0:
                cost = reached + ahead[following - 1][step][step - 1]
                if cost <= limit:
                    state = (
                        float(cost),
                        following - 1,
                        (*starts, step),
                        (step - 1,),
                        (*done, path),
                    )
                    heappush(heap, state)


def _costs_ahead(blocks: Mapping[int, Array], count: int) -> list[dict[int, Array]]:
    """Cheapest cost to come, at [students after this one][head][step]."""
    ahead: list[dict[int, Array]] = []
    for following in range(count):
        layer = {}
        for head, costs in blocks.items():
            ends = np.full(head, np.inf)
            if following == 0:
                ends[0] = 0.0
            else:
                for stop in range(1, head):
                    ends[stop] = ahead[-1][stop][stop - 1]
            layer[head] = _cost_to_come(costs, ends)
        ahead.append(layer)
    return ahead


def cheapest_comb(block_costs: Array, stop: int = 0) -> tuple[float, Tree]:
    """The comb under the head n with the least sum of costs of its blocks, and that sum.

    Args:
        block_costs: (n, n) cost of each block k → i at [k, i]; those with k <= i are not read.
        stop: step at which the tree ends.
    """
    costs, ends = _shortest_to(block_costs, stop)
    boundaries = [len(block_costs) - 1]
    while boundaries[-1] > stop:
        boundaries.append(int(ends[boundaries[-1]]))
    return float(costs[-1]), Tree.chain(len(block_costs), boundaries)


@njit(cache=True)
def _cost_to_come(block_costs: Array, end_costs: Array) -> Array:
    """Cheapest way from each step to an end, where a tree may end at any step at a cost."""
    costs = end_costs.copy()
    for above in range(1, len(costs)):
        for below in range(above):
            costs[above] = min(costs[above], block_costs[above, below] + costs[below])
    return costs


def _cheapest_partition(trees: Array, count: int) -> tuple[float, list[int]]:
    """Best way to cover T … 1 with ``count`` trees [start, stop], and its (T, …, 0)."""
    num_steps = len(trees) - 1
    costs = trees[num_steps].copy()
    choices: list[NDArray[np.intp]] = []
    for _ in range(count - 1):
        candidates = costs[:, None] + trees
        choices.append(candidates.argmin(axis=0))
        costs = candidates.min(axis=0)
    return float(costs[0]), partition_edges(num_steps, choices)
