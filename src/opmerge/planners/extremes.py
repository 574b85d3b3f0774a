"""The trees of one eigenvalue with the smallest, or the largest, excess over every interval."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.planners.backtrack import trace_tree
from opmerge.planners.ranges import estimate_deficits, estimate_weights, scalar_extremes
from opmerge.plans.tree import Tree
from opmerge.problem import Problem

__all__ = ["Extremes", "compose"]

Array = NDArray[np.float64]


class Extremes:
    """Smallest (side 0) or largest (side 1) δ = b/P - 1, and the trees that have it.

    Args:
        problem: one eigenvalue; either rule.
        side: which extreme.

    Attributes:
        trees: (T+1, T+1) δ of the extreme tree, at [start, stop].
        forests: (T+1, T+1) δ of the extreme sequence of trees, at [stop, start].
    """

    def __init__(self, problem: Problem, side: int) -> None:
        self._problem = problem
        self._choose = np.argmin if side == 0 else np.argmax
        self._is_better = np.less if side == 0 else np.greater
        self.trees, self.forests = (table[side] for table in scalar_extremes(problem, 0))

    @cached_property
    def _deficits(self) -> Array:
        return estimate_deficits(self._problem, 0)

    @cached_property
    def _weights(self) -> Array:
        return estimate_weights(self._problem)

    def tree(self, start: int, stop: int) -> Tree:
        """The extreme tree start → stop."""
        return trace_tree(start, stop, self._tree_split, self._forest_split)

    def forest(self, start: int, stop: int) -> list[Tree]:
        """The extreme sequence of trees start → stop, noise side first."""
        edges = [start]
        while edges[-1] > stop:
            here = edges[-1]
            edges.append((here - stop > 1 and self._forest_split(here, stop)) or stop)
        return [self.tree(above, below) for above, below in pairwise(edges)]

    def _tree_split(self, start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        rho = self._problem.retentions[start, 0]
        first, rest = self.trees[start, splits], self.forests[stop, splits]
        offset, gain = self._starts(start, stop, splits)
        merged = (1 - rho) * compose(first, rest) + rho * (offset + gain * first)
        return int(splits[self._choose(merged)])

    def _forest_split(self, start: int, stop: int) -> int:
        splits = np.arange(stop + 1, start)
        composed = compose(self.trees[start, splits], self.forests[stop, splits])
        best = self._choose(composed)
        better = self._is_better(composed[best], self.trees[start, stop])
        return int(splits[best]) if better else 0

    def _starts(self, start: int, stop: int, splits: NDArray[np.intp]) -> tuple[Array, Array]:
        """Offset and gain of ``merging.initial_coefficients`` for every split."""
        products = self._problem.teacher.log_products[:, 0]
        growth = np.expm1(products[splits] - products[stop])
        if self._problem.merge_rule == "operator-copy":
            return growth, 1.0 + growth
        weights = self._weights[start]
        gain = (1.0 + growth) * weights[stop] / weights[splits]
        return gain * self._deficits[start, splits] - self._deficits[start, stop], gain


def compose(first: Array, rest: Array) -> Array:
    """δ of a composite of two operators."""
    return first + rest + first * rest
