"""The theory to first order in the retentions, in which every merge adds to the error by itself.

A merge j → i at k that trains for time x leaves exp(-r_j x) of what it starts with, and to first
order a student deviates from its teacher, relatively and in direction d, by

    b / P - 1 = Σ_merges a_d(j, k, i) exp(-r_{j,d} x),    a = initial / target - 1,

a with the teacher's operators in it (THEORY 4). Nothing else of the plan matters, so a weighted sum
of sizes plus a price on cost is a sum over merges, and its least value over all plans and all times
is a dynamic programme over intervals (THEORY 8.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.merging import initial_coefficients
from opmerge.planners.allocation import OVERHEAD, merge_costs
from opmerge.planners.combs import step_signs
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

_FORGOTTEN = 1e6  # decay that stands for those whose retention is 0 in float64
_RATIO = 1.1  # of neighbouring times at which errors are tabulated
_EARLIEST, _LATEST = 0.1, 40.0  # tabulated times, in units of the fastest and the slowest decay
_LOST = 1e-280  # errors whose logarithm is not to be trusted
_MEMORY = 2 * 1024**3  # bytes of the tables


def first_order_distance(problem: Problem, plan: Plan, times: Array) -> float:
    """W2 to the teacher to first order: ``sqrt(Σ_d w n_T P² (Σ_m a_{m,d} ρ_{m,d}^x_m)²)``."""
    total = np.zeros_like(problem.eigenvalues)
    for merge, time in zip(plan.merges, times, strict=True):
        offset, _ = initial_coefficients(problem, merge.start, merge.split, merge.stop)
        total += offset * problem.retentions[merge.start] ** time
    return float(np.linalg.norm(total * np.exp(problem.log_scale)))


class Priced(NamedTuple):
    """The cheapest plan and times under weights on deviations and a price μ on cost."""

    value: float
    """At most Σ_d u_d size_d + μ cost of any plan with any times."""
    plan: Plan
    times: Array


class _Head(NamedTuple):
    """What the merges that train the student at one step have in common."""

    sizes: Array
    """(number of (k, i), distinct eigenvalues) |a|; k → i at row k (k - 1) / 2 + i."""
    rates: Array
    """(d,) decay r of each column."""
    nodes: Array
    """(X,) times at which errors are tabulated; the first is 0."""
    decays: Array
    """(d, X) exp(-r x) at the nodes."""


@dataclass(frozen=True, eq=False)
class FirstOrderTheory:
    """Every merge's error as a function of its time, and the best plans under prices.

    Columns whose steps both shrink and grow have merges that push either way, whose errors can
    cancel (THEORY 7.4); they count as 0 in ``sizes`` and in the values of ``cheapest``. In every
    other column all merges push one way, and what they add has one sign.

    Raises:
        InputError: for the objective "data", for a training model with a memory, for columns of
            which none counts, or where the tables would take more than 2 GiB.
    """

    problem: Problem
    student_steps: int = 1
    overhead: float = OVERHEAD

    def __post_init__(self) -> None:
        problem = self.problem
        if problem.objective != "teacher":
            raise InputError("objective", "must be teacher for a budget", problem.objective)
        if not getattr(problem.training, "is_exponential", False):
            raise InputError(
                "training",
                "must leave an error that decays exponentially with training",
                problem.training.name,
            )
        if not self.signs.any():
            raise InputError(
                "spectrum",
                "must have eigenvalues whose steps all shrink or all grow",
                f"{problem.eigenvalues.min():.4g} to {problem.eigenvalues.max():.4g}",
            )
        heads = problem.num_steps if problem.merge_rule == "denoiser-copy" else 3
        size = 8 * problem.num_steps**2 * (heads * len(self.signs) / 6 + 3 * problem.num_steps)
        if size > _MEMORY:
            raise InputError(
                "problem",
                "must need at most 2 GiB of tables",
                f"{size / 1024**3:.3g} GiB",
                "take fewer steps or fewer eigenvalues",
            )

    @cached_property
    def signs(self) -> Array:
        """(distinct eigenvalues,) sign of what every merge adds; 0 where they differ.

        Operator copy: + where all steps shrink, - where all grow. Denoiser copy: - (THEORY 7.9).
        """
        if self.problem.merge_rule == "denoiser-copy":
            return -np.ones(len(self.problem.distinct_eigenvalues))
        return -step_signs(self.problem)[:: self._num_modes].astype(np.float64)

    @cached_property
    def scale(self) -> Array:
        """(d,) √(w n_T) P(0, T): deviations times this are distances."""
        return np.exp(self.problem.log_scale)

    def sizes(self, plan: Plan, times: Array) -> Array:
        """(d,) distance of each column to first order, >= 0; their norm is that of W2."""
        total = np.zeros_like(self.scale)
        for merge, time in zip(plan.merges, times, strict=True):
            total += self._size(merge) * np.exp(-self._heads[merge.start].rates * time)
        return total * self.scale

    def cheapest(self, weights: Array, price: float) -> Priced:
        """The plan and the times with the least Σ_d u_d size_d + μ Σ_m (m + κ) x_m.

        Weights u (d,) >= 0, price μ > 0. With f(x) = Σ_d u_d s_d a_d exp(-r_d x) a merge of m
        operators pays the least of f(x) + μ (m + κ) x. log f is convex, so f lies above its
        tangent in the logarithm at any node p,

            f(x) >= f_p exp(-R_p (x - x_p)),    R_p = -f'_p / f_p,

        whose minimum with the cost is in closed form; the greater of those at the two nodes about
        the optimum stands for the merge. It is exact for one column, and a lower bound in any case.
        O(T⁴ / 12) after T³/3 · X · (distinct eigenvalues) multiplications.
        """
        from opmerge.planners._kernels import add_head

        tables = _Tables.empty(self.problem.num_steps)
        scaled = (weights * self.scale)[:, None]
        for start, head in self._heads.items():
            falling = self._by_eigenvalue(scaled * head.decays)
            slopes = self._by_eigenvalue(scaled * head.rates[:, None] * head.decays)
            add_head(
                start,
                head.sizes @ falling,
                head.sizes @ slopes,
                head.nodes,
                price,
                self.overhead,
                tables.trees,
                tables.forests,
                tables.splits,
                tables.counts,
                tables.times,
                tables.breaks,
            )
        value = tables.forests[self.student_steps, self.problem.num_steps, 0]
        plan, times = tables.read(self.problem.num_steps, self.student_steps)
        return Priced(float(value), plan, times)

    def times(self, plan: Plan, weights: Array, price: float) -> Array:
        """(M,) times of a given plan that make the same sum least, as ``cheapest`` finds them."""
        from opmerge.planners._kernels import cheapest_time

        scaled = (weights * self.scale)[:, None]
        costs, times = merge_costs(plan, self.overhead), np.zeros(len(plan.merges))
        for row, merge in enumerate(plan.merges):
            head = self._heads[merge.start]
            terms = scaled * self._size(merge)[:, None] * head.decays
            curve, slope = terms.sum(axis=0), head.rates @ terms
            charge = price * float(costs[row])
            node = max(int(((slope >= charge) & (curve >= _LOST)).sum()) - 1, 0)
            times[row] = cheapest_time(curve, slope, head.nodes, node, charge)[1]
        return times

    def cost(self, plan: Plan, times: Array) -> float:
        """Σ_m (m + κ) x_m."""
        return float(merge_costs(plan, self.overhead) @ times)

    @cached_property
    def _num_modes(self) -> int:
        return len(self.problem.training.mode_weights)

    def _size(self, merge: Merge) -> Array:
        """(d,) |a| of a merge."""
        row = merge.split * (merge.split - 1) // 2 + merge.stop
        return np.repeat(self._heads[merge.start].sizes[row], self._num_modes)

    def _by_eigenvalue(self, values: Array) -> Array:
        """Sums over modes of (d, X) values: what merges start with is alike in all of them."""
        return values.reshape(len(self.signs), self._num_modes, -1).sum(axis=1)

    @cached_property
    def _heads(self) -> dict[int, _Head]:
        """Of every step j = 2 … T."""
        return {start: self._head(start) for start in range(2, self.problem.num_steps + 1)}

    def _head(self, start: int) -> _Head:
        retentions = self.problem.retentions[start]
        with np.errstate(divide="ignore"):
            rates = np.minimum(-np.log(retentions), _FORGOTTEN)
        usual = rates[(rates > 0) & (rates < _FORGOTTEN)]
        first, last = (_EARLIEST / usual.max(), _LATEST / usual.min()) if usual.size else (1.0, 1.0)
        count = 1 + int(np.ceil(np.log(last / first) / np.log(_RATIO)))
        nodes = np.append(0.0, np.geomspace(first, last, count))
        return _Head(self._sizes(start), rates, nodes, np.exp(-np.outer(rates, nodes)))

    def _sizes(self, start: int) -> Array:
        count = start * (start - 1) // 2
        if self.problem.merge_rule == "operator-copy":
            return self._growth[:count]
        above, below = (ends[:count] for ends in self._blocks)
        alphas, sigmas = self.problem.schedule.alphas, self.problem.schedule.sigmas
        weights = alphas * sigmas[start] - sigmas * alphas[start]
        jump, columns = self.problem.teacher.jump_deficit, slice(None, None, self._num_modes)
        deficits = np.array([jump(stop, start)[columns] for stop in range(start)])
        gains = (weights[below] / weights[above])[:, None] * (1.0 + self._growth[:count])
        return np.maximum(deficits[below] - gains * deficits[above], 0.0)

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """k and i of every block k → i below T, by rows of k."""
        return np.tril_indices(self.problem.num_steps, -1)

    @cached_property
    def _growth(self) -> Array:
        """(blocks, distinct eigenvalues): 1/P(i, k) - 1, under operator copy times its sign."""
        above, below = self._blocks
        log_products = self.problem.teacher.log_products[:, :: self._num_modes]
        growth: Array = np.expm1(log_products[above] - log_products[below])
        if self.problem.merge_rule == "denoiser-copy":
            return growth
        return np.maximum(self.signs * growth, 0.0)


class _Tables(NamedTuple):
    """Of the dynamic programme: least values, and the choices that reach them."""

    trees: Array
    """(T+1, T+1) of the tree j → i, at [j, i]."""
    forests: Array
    """(T+1, T+1, T+1) of c trees k → i, at [c, k, i]."""
    splits: NDArray[np.int64]
    """(T+1, T+1) where the first child of the last merge of j → i ends."""
    counts: NDArray[np.int64]
    """(T+1, T+1) how many children follow it."""
    times: Array
    """(T+1, T+1) how long that merge is trained."""
    breaks: NDArray[np.int64]
    """(T+1, T+1, T+1) where the first of c trees k → i ends."""

    @classmethod
    def empty(cls, num_steps: int) -> _Tables:
        """Teacher steps only."""
        size = num_steps + 1
        flat, deep = (size, size), (size, size, size)
        trees, forests = np.full(flat, np.inf), np.full(deep, np.inf)
        trees[1, 0] = forests[1, 1, 0] = 0.0
        whole = np.zeros(flat, np.int64), np.zeros(flat, np.int64)
        return cls(trees, forests, *whole, np.zeros(flat), np.zeros(deep, np.int64))

    def read(self, num_steps: int, count: int) -> tuple[Plan, Array]:
        """The best plan of so many trees, and the times of its merges."""
        students, times = [], []
        for start, stop in pairwise(self._ends(num_steps, 0, count)):
            merges = tuple(self._merges(start, stop))
            students.append(Tree(start, stop, merges))
            times += [float(self.times[merge.start, merge.stop]) for merge in merges]
        return Plan(tuple(students)), np.array(times)

    def _ends(self, start: int, stop: int, count: int) -> list[int]:
        ends = [start]
        for left in range(count, 1, -1):
            ends.append(int(self.breaks[left, ends[-1], stop]))
        return [*ends, stop]

    def _merges(self, start: int, stop: int) -> Iterator[Merge]:
        """Those of the best tree start → stop, children first."""
        if start - stop > 1:
            split, count = int(self.splits[start, stop]), int(self.counts[start, stop])
            merge = Merge((start, *self._ends(split, stop, count)))
            for above, below in pairwise(merge.boundaries):
                yield from self._merges(above, below)
            yield merge
