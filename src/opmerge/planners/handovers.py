"""Where students hand over, under denoiser copy: all that is left to choose (THEORY 7.9).

Between two handovers sequential BOOT has the largest excess of all trees, in every direction at
once, and none is above 0. So the best plan of K students is a path T → … → 0 of K windows, the
excess of a plan is the sum of those of its windows, and the least weighted sum over *all* plans,
under weights <= 0, is a shortest path of K edges.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from itertools import pairwise

import numpy as np

from opmerge.arrays import Array
from opmerge.clock import tick
from opmerge.planners.interval import best_edges
from opmerge.plans.strategies import boot
from opmerge.plans.tree import Plan
from opmerge.problem import Problem

_LOWEST = -60.0
"""Below, an output is 0 to float64: exp(-60) = 9e-27. A higher excess only lowers a bound."""
_MAX_STATES = 200_000  # that wait in a best-first search

_State = tuple[float, int, tuple[int, ...]]
"""Of the search: cost, students to follow, and the handovers so far."""


def handover_memory(problem: Problem) -> int:
    """Bytes of the table: (T+1)² d numbers."""
    return 8 * (problem.num_steps + 1) ** 2 * len(problem.eigenvalues)


class HandoverSearch:
    """Shortest plans of K windows, each by BOOT, under (d,) weights <= 0 on their excesses."""

    def __init__(self, problem: Problem, student_steps: int) -> None:
        self.student_steps = student_steps
        self.excess = window_excesses(problem)

    def least_excess(self) -> Array:
        """(d,) smallest excess of each eigenvalue over all choices of handovers."""
        top = len(self.excess) - 1
        reached = np.full_like(self.excess[top], np.inf)
        reached[:top] = self.excess[top, :top]
        for _ in range(1, self.student_steps):
            onward = np.full_like(reached, np.inf)
            for start in range(1, top):
                below = onward[:start]
                np.minimum(below, reached[start] + self.excess[start, :start], out=below)
            reached = onward
        return np.asarray(reached[0])

    def cheapest(self, weights: Array, credit: Array | None = None) -> tuple[float, Plan]:
        """The plan with the least Σ_d weights_d e_d, and that sum."""
        assert credit is None  # for training inside blocks, which never pays here
        costs = self._costs(weights)
        edges = best_edges(costs, self.student_steps, np.add, lambda values, _: values)
        return float(sum(costs[ends] for ends in pairwise(edges))), boot_windows(edges)

    def in_order(self, weights: Array, limit: float) -> Iterator[tuple[float, Plan | None]]:
        """Plans in the order of Σ_d weights_d e_d, up to ``limit``; see ``CombSearch.in_order``."""
        costs, top = self._costs(weights), len(self.excess) - 1
        ahead = [costs[:, 0]]
        for _ in range(1, self.student_steps):
            ahead.append((costs + ahead[-1]).min(axis=1))
        heap: list[_State] = [(float(ahead[-1][top]), self.student_steps - 1, (top,))]
        while heap:
            tick()
            estimate, following, edges = heappop(heap)
            if estimate > limit:
                return
            if len(heap) > _MAX_STATES:
                yield estimate, None
                return
            if following == 0:
                yield estimate, boot_windows([*edges, 0])
                continue
            here = edges[-1]
            reached = estimate - ahead[following][here]
            onward = reached + costs[here] + ahead[following - 1]
            for stop in np.flatnonzero(onward <= limit):
                heappush(heap, (float(onward[stop]), following - 1, (*edges, int(stop))))

    def _costs(self, weights: Array) -> Array:
        """(T+1, T+1) Σ_d weights_d e_d of each window, at [start, stop]; inf for none."""
        steps = np.arange(len(self.excess))
        return np.where(steps[:, None] > steps, self.excess @ weights, np.inf)


def window_excesses(problem: Problem) -> Array:
    """(T+1, T+1, d) excess of sequential BOOT from each step to each step below it.

    At [start, stop], 0 where there is no window. One merge of BOOT after the other adds to it: what
    ``evaluate`` finds of it, for the windows of one length from all steps at once.
    """
    teacher, top = problem.teacher, problem.num_steps
    alphas, sigmas = problem.schedule.alphas[:, None], problem.schedule.sigmas[:, None]
    products = teacher.log_products
    excess = np.zeros((top + 1, top + 1, len(problem.eigenvalues)))
    reached = np.zeros((top + 1, len(problem.eigenvalues)))  # by the window from each step
    log_cosines = teacher.log_cosines[1:].copy()  # Σ over the window that ends at each step
    deficits = -np.expm1(teacher.log_cosine(np.arange(top), np.arange(1, top + 1)) - log_cosines)
    for length in range(2, top + 1):
        tick("windows of length", length)
        starts = np.arange(length, top + 1)
        stops = starts - length
        log_cosines = log_cosines[:-1] + teacher.log_cosines[length:]
        splits, before = stops + 1, deficits[1:]
        deficits = -np.expm1(teacher.log_cosine(stops, starts) - log_cosines)
        weights = [alphas[i] * sigmas[starts] - sigmas[i] * alphas[starts] for i in (stops, splits)]
        gain = weights[0] / weights[1] * np.exp(products[splits] - products[stops])
        first = reached[starts]
        error = gain * before - deficits + gain * np.expm1(first) - np.expm1(first)
        with np.errstate(divide="ignore"):  # an output of 0, as in ``evaluate``
            local = np.log1p(
                np.maximum(problem.retentions[starts] * (error * np.exp(-first)), -1.0)
            )
        reached[starts] = first + local
        excess[starts, stops] = np.maximum(reached[starts], _LOWEST)
    return excess


def boot_windows(edges: list[int]) -> Plan:
    """The plan that goes one step at a time from the noise side between these steps, T to 0."""
    return Plan(tuple(boot(*ends) for ends in pairwise(edges)))
