"""Plans for a budget from an exact search of a simpler problem: errors that add up over merges.

At a price μ of a network evaluation, the plan, the iterations and the handovers with the least

    Σ_merges carry · W · left(j, i, N) · D(j; k, i) + μ · cost

over all trees are found by dynamic programming, N on a grid. The errors of real merges combine
otherwise (``opmerge.forecast``): what is found are candidates, whose splits and forecasts come
from the composition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.clock import while_time
from opmerge.planners.splits import Jumps, Splitter, in_order

if TYPE_CHECKING:
    from opmerge.planners._surrogate_kernels import Trees

_GRID_RATIO = 1.5


@dataclass(frozen=True, eq=False)
class PricedPlan:
    """The best plan at a price, in the surrogate.

    Args:
        price: μ, error an evaluation.
        value: least sum of errors and charges.
        jumps: students of the plan, in the order of execution.
        iterations: (M,) of each, on the grid.
        boundaries: (T, …, 0) where students hand over.
    """

    price: float
    value: float
    jumps: Jumps
    iterations: Array
    boundaries: tuple[int, ...]


def iteration_grid(splitter: Splitter, budget: float) -> Array:
    """(n,) iterations from 1 on, in equal ratios, up to what a merge could be given at most."""
    cheapest = splitter.cost.per_iteration(np.arange(2, splitter.table.num_steps + 1)).min()
    most = max(budget / cheapest, 2.0)
    count = int(np.ceil(np.log(most) / np.log(_GRID_RATIO))) + 1
    return np.geomspace(1.0, most, count)


def price_range(splitter: Splitter, least: float, most: float, count: int) -> Array:
    """(count,) prices at which plans cost from the least to the most budget, in equal ratios.

    Where errors are powers of the cost, μ B is a share of the error; errors lie between a
    hundredth and all of the teacher's spread.
    """
    spread = splitter.table.output_spread
    return np.geomspace(3e-3 * spread / most, 1.0 * spread / least, count)


def priced_plans(
    splitter: Splitter,
    prices: Iterable[float],
    grid: Array,
    student_steps: Iterable[int],
    share: float = 0.0,
) -> Iterator[PricedPlan]:
    """The best plans at each price for each K >= 1, exact over all trees, handovers and the grid.

    ``share`` is that of students behind the first child for which merges are charged (the law's
    ``behind``). Of samplers longer than the table, trees are those between its nodes. Under
    guidance all children are charged as the teacher's steps are on average: by their number alone.
    """
    from opmerge.planners._surrogate_kernels import cheapest_trees

    steps = np.asarray(splitter.table.nodes, dtype=np.int64)
    children = np.maximum(np.arange(splitter.table.num_steps + 1), 2)
    costs = splitter.cost.per_iteration(children, children * _guided_share(splitter))
    wanted = sorted(set(student_steps))
    for price in while_time(map(float, prices), "prices of an evaluation"):
        tables, law = splitter.tables, splitter.compiled_law
        trees = cheapest_trees(steps, grid, price * costs, tables, law, share)
        for value, edges in _best_windows(trees.values, wanted):
            students = _students(steps, edges, trees)
            jumps = in_order(students)
            counts = np.array([grid[students[jump]] for jump in jumps])
            boundaries = tuple(int(steps[edge]) for edge in edges)
            yield PricedPlan(price, value, jumps, counts, boundaries)


def _guided_share(splitter: Splitter) -> float:
    """Of the teacher's steps, those that are guided."""
    steps = splitter.table.num_steps
    return splitter.cost.teacher_passes(steps, 0) / steps - 1


def _best_windows(values: Array, wanted: list[int]) -> Iterator[tuple[float, list[int]]]:
    """For each K the least sum over K windows, and their edges, as nodes from the last down."""
    size = len(values)
    sums = np.full((wanted[-1] + 1, size), np.inf)  # from a node down to 0 in so many windows
    ends = np.zeros(sums.shape, dtype=np.int64)
    sums[0, 0] = 0.0
    for count in range(1, wanted[-1] + 1):
        totals = values + sums[count - 1]
        ends[count], sums[count] = totals.argmin(axis=1), totals.min(axis=1)
    for count in wanted:
        if np.isfinite(sums[count, -1]):
            edges = [size - 1]
            for left in range(count, 0, -1):
                edges.append(int(ends[left, edges[-1]]))
            yield float(sums[count, -1]), edges


def _students(
    steps: NDArray[np.int64], edges: list[int], trees: Trees
) -> dict[tuple[int, int], int]:
    """Jumps of the cheapest trees between these nodes, and the index of N of each in the grid."""
    students: dict[tuple[int, int], int] = {}
    waiting = list(pairwise(edges))
    while waiting:
        j, i = waiting.pop()
        gap = int(steps[j] - steps[j - 1])
        if steps[j] - steps[i] == 1:
            continue
        students[int(steps[j]), int(steps[i])] = int(trees.chosen[j, i])
        first, left = int(trees.firsts[j, i]), int(trees.counts[j, i])
        if first == j:
            node, left = j - 1, left - gap
        else:
            waiting.append((j, first))
            node, left = first, left - 1
        while left > 0:
            end = int(trees.parts[node, i, left])
            if end < 0:
                node, left = node - 1, left - int(steps[node] - steps[node - 1])
            else:
                waiting.append((node, end))
                node, left = end, left - 1
    return students
