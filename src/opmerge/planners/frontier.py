"""Plans and training times chosen together: the least error that a budget can buy.

For one eigenvalue whose steps all shrink or all grow, a price μ on network evaluations splits the
error and the cost of a comb (THEORY 7.6) into blocks, each with its best time in closed form. The
best comb at that price is a shortest path, and μ runs along the convex hull of all combs and all
splits of a budget. At large budgets the error of any plan falls by a factor e for every
Σ_m c_m / r_m network evaluations; the tree with the least sum wins there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.planners.allocation import OVERHEAD, merge_costs
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

__all__ = [
    "FrontierPoint",
    "cheapest_plan",
    "comb_bound",
    "comb_frontier",
    "evaluations_per_fold",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """The best comb and its times where a network evaluation costs ``price``.

    Args:
        price: μ > 0, what an evaluation must save of the excess.
        budget: evaluations spent.
        excess: e of the student.
        times: (number of merges,) in the order of ``plan.merges``.
        plan: a comb.
    """

    price: float
    budget: float
    excess: float
    times: Array
    plan: Plan


def comb_frontier(
    problem: Problem, prices: Iterable[float], overhead: float = OVERHEAD
) -> list[FrontierPoint]:
    """At each price μ the comb and the times with the least ``|e| + μ Σ c_m x_m``.

    A block k → i under the head T, with ``a = 1/P(i, k) - 1``, decay r and cost c, adds
    ``|log1p(a exp(-r x))| + μ c x``, least where ``|a| exp(-r x) = μc / (r ∓ μc)`` (minus where
    a > 0), or at x = 0. Blocks add up, so the best comb is a shortest path: O(T²) a price.

    Args:
        problem: operator copy, one eigenvalue, steps t < T that all shrink or all grow.
        prices: any number of them, > 0.
        overhead: κ.

    Raises:
        InputError: if the problem is of another kind.
    """
    log_products = _checked_products(problem)
    rate = _decays(problem)[-1]
    size = len(log_products)
    errors = np.expm1(log_products[:, None] - log_products[None, :])
    index = np.arange(size)
    costs: Array = np.asarray(index[:, None] - index[None, :] + 1.0 + overhead, dtype=np.float64)
    return [_best_comb(problem, errors, costs, rate, float(price)) for price in prices]


def comb_bound(points: Iterable[FrontierPoint], budget: float) -> float:
    """The |e| that no comb with this budget goes below: max over prices of |e| + μ (B_μ - B)."""
    return max(abs(point.excess) + point.price * (point.budget - budget) for point in points)


def evaluations_per_fold(problem: Problem, plan: Plan, overhead: float = OVERHEAD) -> float:
    """Σ_m c_m / r_m: at large budgets B the best error of a plan falls as exp(-B / this).

    Args:
        problem: of one eigenvalue; of several, the slowest to learn decides.
    """
    decays = _decays(problem)
    costs = merge_costs(plan, overhead)
    return float(sum(c / decays[m.start] for m, c in zip(plan.merges, costs, strict=True)))


def cheapest_plan(problem: Problem, overhead: float = OVERHEAD) -> Plan:
    """The one-step plan with the least ``evaluations_per_fold``, by dynamic programming.

    Where no step learns faster than the noisiest one (λ <= 1) it is vanilla: every plan of M
    merges has Σ c_m = T - 1 + M (1 + κ), and one merge is the fewest. Where n_t > n_T steps of
    less noise learn faster, and it is worth paying for students there first. O(T⁴).
    """
    size = problem.num_steps + 1
    decays = _decays(problem)
    least, merges = np.zeros((size, size)), {}
    for start in range(2, size):
        toll = 1.0 / decays[start]
        rest, following = _shortest_paths(least[:start, :start] + toll)
        for stop in range(start - 2, -1, -1):
            splits = np.arange(stop + 1, start)
            totals = least[start, splits] + rest[splits, stop]
            split = int(splits[totals.argmin()])
            least[start, stop] = totals.min() + (1.0 + overhead) * toll
            path = [start, split]
            while path[-1] != stop:
                path.append(int(following[path[-1], stop]))
            merges[start, stop] = Merge(tuple(path))
    return Plan((_tree(merges, size - 1),))


def _best_comb(
    problem: Problem, errors: Array, costs: Array, rate: float, price: float
) -> FrontierPoint:
    """Blocks k → i stand at [k, i]; those with k <= i have no meaning."""
    charge = price * costs
    sizes, sign = np.abs(errors), np.where(errors > 0, 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(charge < rate, charge / np.maximum(rate - sign * charge, 0.0), np.inf)
        left = np.where(sign < 0, charge / (rate + charge), left)
        times = np.maximum(np.log(sizes / left), 0.0) / rate
        values = np.abs(np.log1p(sign * np.minimum(sizes, left))) + charge * times
    totals, ends = np.zeros(len(values)), np.zeros(len(values), dtype=int)
    for above in range(1, len(values)):
        candidates = values[above, :above] + totals[:above]
        ends[above] = candidates.argmin()
        totals[above] = candidates.min()
    path = [len(values) - 1]
    while path[-1]:
        path.append(int(ends[path[-1]]))
    blocks = path[:-1], path[1:]
    chosen = times[blocks]
    kept = np.minimum(sizes, left)[blocks] * sign[blocks]
    plan = Plan((Tree.chain(problem.num_steps, path),))
    budget = float(costs[blocks] @ chosen)
    return FrontierPoint(price, budget, float(np.log1p(kept).sum()), chosen, plan)


def _checked_products(problem: Problem) -> Array:
    """(T,) log P(t, T) for the steps below T, all rising or all falling."""
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy", problem.merge_rule)
    if len(problem.eigenvalues) != 1:
        raise InputError("problem", "must have one eigenvalue", len(problem.eigenvalues))
    steps = problem.teacher.log_steps[1:-1, 0]
    if not ((steps <= 0).all() or (steps >= 0).all()):
        raise InputError(
            "eigenvalue", "must make every step t < T shrink or grow", problem.eigenvalues[0]
        )
    products: Array = problem.teacher.log_products[:-1, 0]
    return products


def _decays(problem: Problem) -> Array:
    """(T + 1,) decay r_t of the slowest column at each step; row 0 has no meaning."""
    with np.errstate(divide="ignore"):
        decays: Array = -np.log(problem.retentions).max(axis=1)
    return decays


def _shortest_paths(weights: Array) -> tuple[Array, NDArray[np.intp]]:
    """Lengths of the shortest paths k → … → i (k > i) over weights [k, i], and the next node."""
    size = len(weights)
    lengths = np.full((size, size), np.inf)
    following = np.zeros((size, size), dtype=np.intp)
    np.fill_diagonal(lengths, 0.0)
    for above in range(1, size):
        via = weights[above, :above, None] + lengths[:above, :above]
        lengths[above, :above] = via.min(axis=0)
        following[above, :above] = via.argmin(axis=0)
    return lengths, following


def _tree(merges: dict[tuple[int, int], Merge], start: int) -> Tree:
    """The tree start → 0 from the best merge of every interval."""
    chosen, waiting = [], [(start, 0)]
    while waiting:
        merge = merges.get(waiting.pop())
        if merge is not None:
            chosen.append(merge)
            waiting += list(zip(merge.boundaries, merge.boundaries[1:], strict=False))
    return Tree(start, 0, tuple(chosen))
