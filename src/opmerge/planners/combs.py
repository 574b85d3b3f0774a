"""Combs: plans in which only the student at the head of each tree is ever trained (THEORY 7.6).

A comb cuts the steps below its head j into consecutive blocks k → i of teacher steps, and its
excess is a sum over blocks, Σ log1p(ρ_j (1/P(i, k) - 1)). Minimising a weighted sum of excesses
over all combs is therefore a shortest path, and for K students a shortest path of shortest paths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.planners.interval import best_edges
from opmerge.plans.tree import Plan, Tree
from opmerge.problem import Problem

_ROUNDING = 1e-15  # of the largest term; thousands as small change nothing above 1e-11
_SERIES_LIMIT = 0.25  # largest ρ'/P for which the power series is cheaper than logarithms
_MAX_STATES = 200_000  # that wait in a best-first search
_ROWS = 128  # rows of a matrix product at a time
_LOGARITHMS_AT_ONCE = 1e8  # of a compiled kernel, which hears neither Ctrl-C nor the clock

_State = tuple[float, int, tuple[tuple[int, ...], ...]]
"""Of the search: cost, students to follow, and of each tree its head and its steps so far."""


def step_signs(problem: Problem) -> NDArray[np.int_]:
    """(d,) -1 where every step t < T shrinks, 1 where every one grows, else 0 (THEORY 7.2 to 7.4).

    -1 (λ <= λ_0): every excess is >= 0 and BOOT is best. 1 (λ >= λ*): every excess is <= 0 and
    vanilla is best.
    """
    steps = problem.teacher.log_steps[1:-1]
    return np.select([(steps <= 0).all(axis=0), (steps >= 0).all(axis=0)], [-1, 1], 0)


class BlockSums:
    """Weighted excess of every block under one head: Σ_d weights_d log1p(ρ_d (1/P_d(i, k) - 1)).

    With o = ρ/(1-ρ) and r = 1/P(i, k), log1p(ρ (r - 1)) = Σ_n (-1)^(n+1) o^n (r^n - 1) / n for
    o r < 1. As r = E_k / E_i with E_t = P(t, n-1), each power is one matrix product over the
    eigenvalues, of E_k^n - 1 and (o / E_i)^n: nothing nearly equal to 1 is subtracted. Where o r
    is not small the logarithm is taken element by element.

    Takes (n, d) log P(t, T) for the steps t = 0 … n-1, and (d,) ρ of the student at the head.
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
        """(n, n) sums for the block k → i at [k, i], k > i, with (d,) weights of any sign."""
        total = np.zeros((self._size, self._size))
        if self._direct.size:
            self._add_logarithms(weights[self._direct], total)
        if not self._series.size:
            return total
        weights = weights[self._series]
        with np.errstate(divide="ignore"):
            log_terms = np.log(np.abs(weights))
        least = np.log(_ROUNDING) + (log_terms + self._log_largest).max()
        above, below, power = self._above, self._below, 1
        while True:
            tick()
            sign = 1.0 if power % 2 else -1.0
            weighted = above * (sign / power * weights[: above.shape[1]])
            for end in range(_ROWS, self._size + _ROWS, _ROWS):  # the lower half, by rows
                total[end - _ROWS : end, :end] += weighted[end - _ROWS : end] @ below[:end].T
            total -= np.einsum("id,id->i", weighted, below)
            power += 1
            needed = np.flatnonzero(log_terms + power * self._log_largest > least)
            if not needed.size:
                return total
            used = int(needed[-1]) + 1
            above = above[:, :used] * (1.0 + self._above[:, :used]) + self._above[:, :used]
            below = below[:, :used] * self._below[:, :used]

    def _add_logarithms(self, weights: Array, total: Array) -> None:
        """Add the terms that are computed element by element, some rows at a time."""
        from opmerge.planners._kernels import add_logarithms

        rows = max(_ROWS, int(_LOGARITHMS_AT_ONCE / (self._size * len(weights))))
        for first in range(0, self._size, rows):
            tick()
            last = min(first + rows, self._size)
            of_rows = self._direct_products, self._direct_retention, weights, total
            add_logarithms(first, last, *of_rows)


class CombSearch:
    """Shortest combs of K students under (d,) weights on the excess of each eigenvalue.

    Of several students, each begins at T or at a multiple of ``spacing``: at 1, all plans are
    searched.
    """

    def __init__(self, problem: Problem, student_steps: int, spacing: int = 1) -> None:
        self.problem, self.student_steps = problem, student_steps
        self._heads = sorted({*range(spacing, problem.num_steps, spacing), problem.num_steps})
        self._top_sums = self._sums(problem.num_steps)
        self._top_costs: tuple[Array, Array] | None = None

    def least_excess(self) -> Array:
        """(d,) that no plan goes below: b >= its first leaf times the steps that shrink."""
        return -np.maximum(self.problem.teacher.log_steps[1:-1], 0.0).sum(axis=0)

    def _sums(self, head: int) -> BlockSums:
        return BlockSums(self.problem.teacher.log_products[:head], self.problem.retentions[head])

    def block_costs(self, head: int, weights: Array) -> Array:
        """(head, head) cost of each block k → i of a tree with this head, at [k, i].

        Those of the head T are kept until other weights are asked for: with one student they
        are all there is, and the same weights are searched more than once.
        """
        if head < self.problem.num_steps:
            return self._sums(head).weighted(weights)
        if self._top_costs is None or not np.array_equal(self._top_costs[0], weights):
            self._top_costs = weights.copy(), self._top_sums.weighted(weights)
        return self._top_costs[1]

    def cheapest(self, weights: Array, credit: Array | None = None) -> tuple[float, Plan]:
        """The comb plan with the least Σ_d weights_d e_d + Σ_blocks credit, and that cost.

        The (T, T) credit is what a block k → i may save beyond its teacher steps, at [k, i]; <= 0.
        """

        def costs_under(head: int) -> Array:
            costs = self.block_costs(head, weights)
            return costs if credit is None else costs + credit[:head, :head]

        num_steps, edges = self.problem.num_steps, [self.problem.num_steps, 0]
        if self.student_steps > 1:
            trees = np.full((num_steps + 1, num_steps + 1), np.inf)
            for head in self._heads:
                tick("blocks under step", head)
                upside_down = np.ascontiguousarray(costs_under(head)[::-1, ::-1].T)
                trees[head, :head] = cheapest_paths(upside_down)[0][::-1]
            edges = best_edges(trees, self.student_steps, np.add, lambda costs, _: costs)
        combs = [cheapest_comb(costs_under(head), stop) for head, stop in pairwise(edges)]
        return sum(cost for cost, _ in combs), Plan(tuple(tree for _, tree in combs))

    def in_order(self, weights: Array, limit: float) -> Iterator[tuple[float, Plan | None]]:
        """Comb plans in the order of Σ_d weights_d e_d, up to ``limit``: best-first search.

        The cost still to come is known exactly for every state (students left, head, step), so
        nothing is expanded that does not lie on a plan within the limit. Where too many states
        wait, the search ends with the cost reached, and None for a plan.
        """
        top, count = self.problem.num_steps, self.student_steps
        heads = range(1, top + 1) if count > 1 else (top,)
        blocks = {head: self.block_costs(head, weights) for head in heads}
        ahead = _costs_ahead(blocks, count)
        first = float(ahead[-1][top][top - 1])
        heap: list[_State] = [(first, count - 1, ((top, top - 1),))]
        while heap:
            tick()
            estimate, following, chains = heappop(heap)
            if estimate > limit:
                return
            if len(heap) > _MAX_STATES:
                yield estimate, None
                return
            closed, chain = chains[:-1], chains[-1]
            head, step = chain[0], chain[-1]
            if following == 0 and step == 0:
                yield estimate, Plan(tuple(Tree.chain(head, path) for head, *path in chains))
                continue
            reached = estimate - ahead[following][head][step]
            for stop in range(step):
                cost = reached + blocks[head][step, stop] + ahead[following][head][stop]
                if cost <= limit:
                    heappush(heap, (float(cost), following, (*closed, (*chain, stop))))
            if following > 0 and step > 0:
                cost = reached + ahead[following - 1][step][step - 1]
                if cost <= limit:
                    heappush(heap, (float(cost), following - 1, (*chains, (step, step - 1))))


def _costs_ahead(blocks: Mapping[int, Array], count: int) -> list[dict[int, Array]]:
    """Cheapest cost to come, at [students after this one][head][step]."""
    ahead = [{head: cheapest_paths(costs)[0] for head, costs in blocks.items()}]
    for _ in range(1, count):
        ends = np.array([np.inf, *(ahead[-1][stop][stop - 1] for stop in range(1, len(blocks)))])
        layer = {head: cheapest_paths(costs, ends[:head])[0] for head, costs in blocks.items()}
        ahead.append(layer)
    return ahead


def cheapest_comb(block_costs: Array, stop: int = 0) -> tuple[float, Tree]:
    """The comb n → stop with the least sum of (n, n) costs of its blocks, and that sum."""
    costs, ends = cheapest_paths(block_costs, stop)
    boundaries = [len(costs) - 1]
    while boundaries[-1] > stop:
        boundaries.append(int(ends[boundaries[-1]]))
    return float(costs[-1]), Tree.chain(len(costs), boundaries)


def cheapest_paths(block_costs: Array, ends: Array | int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Cheapest ways down from each step to an end, over blocks k → i that cost [k, i], k > i.

    Paths end at one step, or anywhere at (n,) costs. Returns their (n,) costs, and (n,) where the
    first block of each ends; -1 where there is none.
    """
    from opmerge.planners import _kernels

    if isinstance(ends, int):
        ends = np.where(np.arange(len(block_costs)) == ends, 0.0, np.inf)
    return _kernels.cheapest_paths(block_costs, ends)
