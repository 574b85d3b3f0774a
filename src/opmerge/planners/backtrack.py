"""Backtracking: from the choices of an interval dynamic programme to trees and students."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.plans.tree import Merge, Tree

Array = NDArray[np.float64]
Split = Callable[[int, int], Any]


def forest_edges(start: int, stop: int, forest_split: Split) -> list[int]:
    """The steps at which the trees of the row start → stop meet: see ``trace_tree``."""
    edges = [start]
    while edges[-1] > stop:
        here = edges[-1]
        edges.append(int(here - stop > 1 and forest_split(here, stop)) or stop)
    return edges


def trace_tree(start: int, stop: int, tree_split: Split, forest_split: Split) -> Tree:
    """The tree start → stop that the choices describe.

    Args:
        start, stop: steps on the noise side and on the data side.
        tree_split: where the first child of the tree (start, stop) ends.
        forest_split: where the first tree of the row (start, stop) ends; 0 if it is one tree.
    """
    merges: list[Merge] = []
    pending = [(start, stop)]
    while pending:
        head, end = pending.pop()
        if head - end > 1:
            first = int(tree_split(head, end))
            merges.append(Merge((head, *forest_edges(first, end, forest_split))))
            pending.extend(pairwise(merges[-1].boundaries))
    return Tree(start, stop, tuple(merges))


def best_edges(
    trees: Array,
    student_steps: int,
    compose: Callable[[Array, Array], Array],
    error: Callable[[Array, int], Array],
) -> list[int]:
    """The boundaries (T, …, 0) of K students: of each prefix of k trees the one that errs least.

    Args:
        trees: (T+1, T+1, …) the best tree at [start, stop].
        student_steps: K.
        compose: what (n, …) prefixes become with the (n, …) trees that follow them.
        error: (n,) of prefixes that end at a step.
    """
    num_steps = len(trees) - 1
    reached, choices = trees[num_steps].copy(), []
    for students in range(1, student_steps):
        choice = np.zeros(num_steps + 1, dtype=int)
        for stop in range(num_steps - students):
            above = slice(stop + 1, num_steps - students + 1)
            values = compose(reached[above], trees[above, stop])
            best = int(error(values, stop).argmin())
            choice[stop], reached[stop] = stop + 1 + best, values[best]
        choices.append(choice)
    edges = [0]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return [num_steps, *reversed(edges)]
