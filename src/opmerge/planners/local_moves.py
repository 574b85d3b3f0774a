"""Better plans from neighbours: a boundary moved, a student dropped or added, a handover shifted.

Every neighbour is given its best split of the budget, and the first that the law forecasts to be
better is taken, until none is or enough have been tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from opmerge.arrays import Array
from opmerge.clock import while_time
from opmerge.forecast.table import MOST_NODES
from opmerge.planners.splits import LENGTH_EXPONENT, Jumps, Split, Splitter, in_order

_LEAST_GAIN = 1e-3  # of the squared error, relative: less is not worth another plan
_MOST_ENDS = 8  # of the parts of a merge, between which a student may be added
_SHIFTS = (1, -1, 2, -2, 4, -4, 8, -8)  # in table nodes


def improved(splitter: Splitter, split: Split, budget: float, limit: int) -> Split:
    """The split, or that of a better plan for as many student steps, after so many trials."""
    wanted, left = splitter.student_steps(split.jumps), limit
    seen = {split.jumps}
    is_improving = True
    while is_improving and left > 0:
        is_improving = False
        for jumps in while_time(_neighbours(splitter, split.jumps)):
            if jumps in seen or left <= 0:
                continue
            seen.add(jumps)
            if splitter.student_steps(jumps) != wanted or splitter.least_cost(jumps) > budget:
                continue
            left -= 1
            there = splitter.best(jumps, budget, inherited(split.jumps, split.counts, jumps))
            if there.error < (1 - _LEAST_GAIN) * split.error:
                split, is_improving = there, True
                break
    return split


def inherited(jumps: Jumps, counts: Array, changed: Jumps) -> Array:
    """(M,) weights of other merges: those of a plan's own, and for new ones by their length."""
    known = dict(zip(jumps, counts, strict=True))
    ends = np.array(jumps, dtype=np.float64)
    powers = (ends[:, 0] - ends[:, 1]) ** LENGTH_EXPONENT
    usual = float(np.median(counts / powers))
    weights = [known.get((a, b), usual * (a - b) ** LENGTH_EXPONENT) for a, b in changed]
    return np.array(weights)


def _neighbours(splitter: Splitter, jumps: Jumps) -> Iterator[Jumps]:
    num_steps = splitter.table.num_steps
    gap = max(1, num_steps // MOST_NODES)
    for dropped in range(len(jumps)):
        yield jumps[:dropped] + jumps[dropped + 1 :]
    inner = sorted({end for jump in jumps for end in jump} - {0, num_steps}, reverse=True)
    for shift in _SHIFTS:
        for step in inner:
            moved = step + shift * gap
            if 0 < moved < num_steps:
                for starts, stops in ((True, True), (True, False), (False, True)):
                    yield moved_end(jumps, step, moved, starts, stops)
    for start, stop in jumps:
        ends = _part_ends(jumps, start, stop)
        if len(ends) > _MOST_ENDS:
            places = np.linspace(0, len(ends) - 1, _MOST_ENDS).round().astype(int)
            ends = [ends[place] for place in places]
        for pair in combinations(ends, 2):
            if pair != (start, stop):
                yield in_order((*jumps, pair))


def moved_end(jumps: Jumps, step: int, moved: int, starts: bool, stops: bool) -> Jumps:
    """Jumps of which those that start, or stop, at a step do so at another; empty ones go."""
    shifted = (
        (moved if starts and a == step else a, moved if stops and b == step else b)
        for a, b in jumps
    )
    return in_order((a, b) for a, b in shifted if a - b > 1)


def _part_ends(jumps: Jumps, start: int, stop: int) -> list[int]:
    """Boundaries of a merge: its start, where its children meet, its stop."""
    longest: dict[int, int] = {}
    for a, b in jumps:
        if (a, b) != (start, stop) and a <= start and b >= stop:
            longest[a] = min(longest.get(a, b), b)
    ends = [start]
    while ends[-1] > stop:
        ends.append(longest.get(ends[-1], ends[-1] - 1))
    return ends
