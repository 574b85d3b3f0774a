"""Exact dynamic programme over all trees for errors that add up over merges, each at its price.

A student of a merge j → i whose first child lands on k leaves, with N iterations,

    a = carry · √(Σ_g W² E[r²] D(j;k,i)²),

and is charged ``μ (targets(m)/R(m) + passes) N`` for its m children. Both are summed over the
merges of a plan. m is part of the state of the search, so any cost of m will do. Nodes may be
several teacher steps apart; between neighbours a first child may be the teacher step itself, and
what follows it is a run of teacher steps, each a child.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.clock import still_wanted
from opmerge.compiling import kernel
from opmerge.forecast._kernels import Law, Tables

Indices = NDArray[np.int64]
_Short = NDArray[np.int16]

_REFERENCE = 400.0
_RUN = -1


@kernel(error_model="numpy")
def _errors(
    j: int, i: int, steps: Indices, grid: Array, tables: Tables, law: Law, share: float
) -> Array:
    """(n, G) of what D² is multiplied by: squared, at the output."""
    groups = len(law.rates)
    factors = np.empty((len(grid), groups))
    angle = max(tables.angles[steps[j]] - tables.angles[steps[i]], 1e-12)
    scale = angle**-law.exponent * np.exp(law.behind * share) / _REFERENCE
    if j == len(steps) - 1:
        scale *= law.first
    for n in range(len(grid)):
        for g in range(groups):
            unit = (tables.carry[j, i] * tables.gains[i, g]) ** 2
            x = law.rates[g] * scale * tables.haste[j, i, g] * grid[n]
            waits = tables.shares[j, i, g] * np.exp(-grid[n] / law.onset)
            factors[n, g] = unit * (waits + (1 - waits) * (1 + 2 * x) ** -law.shape)
    return factors


@kernel(error_model="numpy")
def _cheapest_iterations(
    errors: Array, charges: Array, grid: Array, sums: Array, fixed: float, before: int
) -> tuple[float, int, int]:
    """The least ``fixed + sums[p] + min_n (errors[n] + charges[before + p] grid[n])``, and p and n.

    Errors are convex in N, so the best N falls or rises step by step with the charge.
    """
    least, best_p, best_n, n = np.inf, 0, 0, 0
    for p in range(len(sums)):
        reached, m = fixed + sums[p], before + p
        if m < 2 or reached >= least:
            continue
        charge = charges[m]
        here = errors[n] + charge * grid[n]
        while n + 1 < len(grid) and errors[n + 1] + charge * grid[n + 1] < here:
            n += 1
            here = errors[n] + charge * grid[n]
        while n > 0 and errors[n - 1] + charge * grid[n - 1] < here:
            n -= 1
            here = errors[n] + charge * grid[n]
        if reached + here < least:
            least, best_p, best_n = reached + here, p, n
    return least, best_p, best_n


@kernel(error_model="numpy")
def _cheapest_rows(
    j: int, i: int, steps: Indices, values: Array, rows: Array, parts: _Short
) -> None:
    """Fill in the cheapest row of operators j → i, by its number of operators."""
    for s in range(j - 1, i - 1, -1):
        own = values[j, s]
        for p in range(steps[s] - steps[i] + 1):
            total = own + rows[s, i, p]
            if total < rows[j, i, p + 1]:
                rows[j, i, p + 1], parts[j, i, p + 1] = total, s
    gap = steps[j] - steps[j - 1]
    if gap > 1:
        for p in range(steps[j - 1] - steps[i] + 1):
            if rows[j - 1, i, p] < rows[j, i, p + gap]:
                rows[j, i, p + gap] = rows[j - 1, i, p]
                parts[j, i, p + gap] = _RUN


class Trees(NamedTuple):
    """Cheapest students of intervals of nodes, at [start, stop], and how each is built.

    (M+1, M+1) ``values``, least Σ a + Σ charges; the first child's end (start itself: a teacher
    step), the number of children and the index of N in the grid; (M+1, M+1, T+1) sums of the
    cheapest ``rows`` of so many operators, and the end of the first part of each, -1 where it is a
    run of teacher steps down to the next node.
    """

    values: Array
    firsts: _Short
    counts: _Short
    chosen: _Short
    rows: Array
    parts: _Short


def cheapest_trees(
    steps: Indices, grid: Array, charges: Array, tables: Tables, law: Law, share: float
) -> Trees:
    """The cheapest student of every interval of nodes; it ends early where nobody waits for it.

    Takes the (M+1,) steps of the nodes, an ascending grid of N, and (T+1,) the charge of an
    iteration by the number of children.
    """
    size = len(steps)
    square, cube = (size, size), (size, size, int(steps[-1]) + 1)
    values, rows = np.full(square, np.inf), np.full(cube, np.inf)
    rows[np.arange(size), np.arange(size), 0] = 0.0
    firsts, counts, chosen = (np.zeros(square, np.int16) for _ in range(3))
    trees = Trees(values, firsts, counts, chosen, rows, np.zeros(cube, np.int16))
    for length in range(1, size):
        still_wanted()
        _of_length(length, steps, grid, charges, tables, law, share, trees)
    return trees


@kernel(error_model="numpy")
def _of_length(
    length: int,
    steps: Indices,
    grid: Array,
    charges: Array,
    tables: Tables,
    law: Law,
    share: float,
    trees: Trees,
) -> None:
    """Fill in the students of intervals between so many nodes, from those of shorter ones."""
    values, firsts, counts, chosen, rows, parts = trees
    for i in range(len(steps) - length):
        j = i + length
        gap = steps[j] - steps[j - 1]
        if length == 1 and gap == 1:
            values[j, i] = 0.0
            _cheapest_rows(j, i, steps, values, rows, parts)
            continue
        factors = _errors(j, i, steps, grid, tables, law, share)
        for k in range(j, i, -1):
            if k == j - 1 and gap == 1:
                continue  # the same as a teacher step
            rest, before, fixed = k, 1, values[j, k]
            if k == j:
                rest, before, fixed = j - 1, gap, 0.0
            errors = np.sqrt((factors * tables.deviations[j, k, i]).sum(axis=1))
            sums = rows[rest, i, : steps[rest] - steps[i] + 1]
            least, p, n = _cheapest_iterations(errors, charges, grid, sums, fixed, before)
            if least < values[j, i]:
                values[j, i] = least
                firsts[j, i], counts[j, i], chosen[j, i] = k, before + p, n
        _cheapest_rows(j, i, steps, values, rows, parts)
