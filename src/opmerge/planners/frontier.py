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
from itertools import pairwise

import numpy as np

from opmerge.errors import InputError
from opmerge.planners.allocation import OVERHEAD, merge_costs
from opmerge.planners.combs import cheapest_comb, step_signs
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Array, Problem


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """The best comb and its times at a price μ > 0 that an evaluation must save of the excess."""

    price: float
    budget: float  # evaluations spent
    excess: float
    times: Array  # (number of merges,)
    plan: Plan


def comb_frontier(
    problem: Problem, prices: Iterable[float], overhead: float = OVERHEAD
) -> list[FrontierPoint]:
    """At each price μ the comb and the times with the least ``|e| + μ Σ c_m x_m``.

    A block k → i under the head T, with ``a = 1/P(i, k) - 1``, decay r and cost c, adds
    ``|log1p(a exp(-r x))| + μ c x``, least where ``|a| exp(-r x) = μc / (r ∓ μc)`` (minus where
    a > 0), or at x = 0. Blocks add up, so the best comb is a shortest path: O(T²) a price.

    Raises:
        InputError: unless the rule is operator copy and the steps t < T of the one eigenvalue all
            shrink or all grow.
    """
    if problem.merge_rule != "operator-copy":
        raise InputError("merge_rule", "must be operator-copy", problem.merge_rule)
    if len(problem.eigenvalues) != 1:
        raise InputError("problem", "must have one eigenvalue", len(problem.eigenvalues))
    if not step_signs(problem).all():
        raise InputError(
            "eigenvalue", "must make every step t < T shrink or grow", problem.eigenvalues[0]
        )
    log_products = problem.teacher.log_products[:-1, 0]
    errors = np.expm1(log_products[:, None] - log_products[None, :])
    steps = np.arange(problem.num_steps, dtype=np.float64)
    costs = steps[:, None] - steps[None, :] + 1.0 + overhead
    rate = _decays(problem)[-1]
    return [_best_comb(errors, costs, rate, float(price)) for price in prices]


def comb_bound(points: Iterable[FrontierPoint], budget: float) -> float:
    """The |e| that no comb with this budget goes below: max over prices of |e| + μ (B_μ - B)."""
    return max(abs(point.excess) + point.price * (point.budget - budget) for point in points)


def evaluations_per_fold(problem: Problem, plan: Plan, overhead: float = OVERHEAD) -> float:
    """Σ_m c_m / r_m: at large budgets B the best error of a plan falls as exp(-B / this).

    Of several eigenvalues, the slowest to learn decides.
    """
    decays = _decays(problem)[[merge.start for merge in plan.merges]]
    return float((merge_costs(plan, overhead) / decays).sum())


def cheapest_plan(problem: Problem, overhead: float = OVERHEAD) -> Plan:
    """The one-step plan with the least ``evaluations_per_fold``, by dynamic programming.

    Where no step learns faster than the noisiest one (λ <= 1) it is vanilla: every plan of M
    merges has Σ c_m = T - 1 + M (1 + κ), and one merge is the fewest. Where n_t > n_T steps of
    less noise learn faster, and it is worth paying for students there first. Never at the head of
    a merge: to train a student there once more costs (1 + κ) / r and saves nothing, so the first
    child is a teacher step, and a merge is a shortest path of the others. O(T³).
    """
    num_steps, decays = problem.num_steps, _decays(problem)
    least = np.zeros((num_steps + 1, num_steps + 1))
    above = np.zeros(least.shape, dtype=int)  # where the last child of the merge starts
    for start in range(2, num_steps + 1):
        toll = 1.0 / decays[start]
        paths = np.zeros(start)
        for stop in range(start - 2, -1, -1):
            totals = paths[stop + 1 :] + least[stop + 1 : start, stop] + toll
            above[start, stop] = stop + 1 + totals.argmin()
            paths[stop] = totals.min()
        least[start, : start - 1] = paths[:-1] + (1.0 + overhead) * toll
    merges, waiting = [], [(num_steps, 0)]
    for start, stop in waiting:
        if start - stop > 1:
            path = [stop]
            while path[-1] < start - 1:
                path.append(int(above[start, path[-1]]))
            merges.append(Merge((start, *reversed(path))))
            waiting += pairwise(merges[-1].boundaries)
    return Plan((Tree(num_steps, 0, tuple(merges)),))


def _best_comb(errors: Array, costs: Array, rate: float, price: float) -> FrontierPoint:
    """Blocks k → i stand at [k, i]; those with k <= i have no meaning."""
    charge = price * costs
    sizes, sign = np.abs(errors), np.where(errors > 0, 1.0, -1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(charge < rate, charge / np.maximum(rate - sign * charge, 0.0), np.inf)
        left = np.where(sign < 0, charge / (rate + charge), left)
        times = np.maximum(np.log(sizes / left), 0.0) / rate
        excess = np.log1p(sign * np.minimum(sizes, left))
        _, tree = cheapest_comb(np.abs(excess) + charge * times)
    blocks = [merge.split for merge in tree.merges], [merge.stop for merge in tree.merges]
    budget = float(costs[blocks] @ times[blocks])
    return FrontierPoint(price, budget, float(excess[blocks].sum()), times[blocks], Plan((tree,)))


def _decays(problem: Problem) -> Array:
    """(T + 1,) decay r_t of the slowest column at each step; row 0 has no meaning."""
    with np.errstate(divide="ignore"):
        decays: Array = -np.log(problem.retentions).max(axis=1)
    return decays
