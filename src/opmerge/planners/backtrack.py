"""From the choices of an interval dynamic programme back to a tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from opmerge.plans.tree import Merge, Tree

__all__ = ["partition_edges", "trace_tree"]

Split = Callable[[int, int], int]


def trace_tree(start: int, stop: int, tree_split: Split, forest_split: Split) -> Tree:
    """The tree start → stop that the choices describe.

    Args:
        start: step on the noise side.
        stop: step on the data side.
        tree_split: where the first child of the tree (start, stop) ends.
        forest_split: where the first tree of the forest (start, stop) ends; 0 if it is one tree.
    """
    merges: list[Merge] = []
    pending = [(start, stop)]
    while pending:
        head, end = pending.pop()
        if head - end < 2:
            continue
        boundaries = [head, tree_split(head, end)]
        while boundaries[-1] > end:
            here = boundaries[-1]
            alone = here - end < 2
            boundaries.append(end if alone else forest_split(here, end) or end)
        merges.append(Merge(tuple(boundaries)))
        pending.extend(pairwise(boundaries))
    return Tree(start, stop, tuple(merges))


def partition_edges(num_steps: int, choices: Sequence[NDArray[np.intp]]) -> list[int]:
    """The boundaries (T, …, 0) of K students.

    Args:
        num_steps: T.
        choices: K - 1 arrays (T+1,): where the last student of a prefix that ends at each step
            begins, for prefixes of 2, …, K students.
    """
    edges = [0]
    for choice in reversed(choices):
        edges.append(int(choice[edges[-1]]))
    return [num_steps, *reversed(edges)]
