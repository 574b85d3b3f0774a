"""How long to train each merge: schedules, and the best split of a total budget (THEORY 9).

A merge of m operators that is trained for time x costs x (m + κ) network evaluations of a sample.
Times are multiples of the problem's training; a merge's retention is then exp(-r x), r the decay
of the problem's training at the step where the merge starts. To first order the excess is
Σ_m a_m exp(-r_m x_m), and the times that make it least under Σ_m c_m x_m = B are those of
water-filling,

    x_m = (1 / r_m) log(r_m a_m / (μ c_m)), or 0 where that is negative,

with the water level log μ in closed form. ``allocate`` minimises the exact distance by filling
again and again, and proves its result where the distance is convex in the times.

Plans and times are chosen together for one eigenvalue whose steps all shrink or all grow: a price μ
on network evaluations splits the error and the cost of a comb (THEORY 7.6) into blocks, each with
its best time in closed form. The best comb at that price is a shortest path, and μ runs along the
convex hull of all combs and all splits of a budget. At large budgets the error of any plan falls
by a factor e for every Σ_m c_m / r_m network evaluations; the tree with the least sum wins there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_number
from opmerge.errors import InputError
from opmerge.forecast.cost import STUDENT_PASSES
from opmerge.merging import Outcome, evaluate, initial_coefficients
from opmerge.planners.combs import cheapest_comb, step_signs
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.problem import Problem

OVERHEAD = STUDENT_PASSES

_MAX_ITERATIONS = 300
_MAX_HALVINGS = 40
_STATIONARY = 1e-8  # relative decrease that the gradient still promises
_LEAST = 1e-300  # stands for errors that are not above 0
_SUFFICIENT = 1e-4  # share of the promised decrease with which a step is taken (Armijo)


def merge_costs(plan: Plan, overhead: float = OVERHEAD) -> Array:
    """(number of merges,) network evaluations of a sample in one unit of time, m + κ."""
    return np.array([merge.num_children + overhead for merge in plan.merges])


def water_filling(errors: Array, rates: Array, costs: Array, budget: float) -> Array:
    """The times x >= 0 that minimise Σ a_m exp(-r_m x_m) under Σ c_m x_m = B.

    ``x_m = log(r_m a_m / (μ c_m)) / r_m`` on the merges for which that is above 0, and
    ``log μ = (Σ (c_m/r_m) log(r_m a_m / c_m) - B) / Σ c_m/r_m`` over these: those with the
    largest r_m a_m / c_m, as many as leave log μ below it.

    The errors (M,) a_m are what is left of each without training; no time goes to a_m <= 0. Rates
    and costs (M,) are > 0, the budget >= 0.
    """
    worth = np.log(np.maximum(rates * errors / costs, _LEAST))
    order = np.argsort(-worth, kind="stable")
    widths = np.cumsum((costs / rates)[order])
    levels = (np.cumsum((costs / rates * worth)[order]) - budget) / widths
    above = np.flatnonzero((worth[order] > levels) & (errors[order] > 0))
    if not above.size:
        return np.zeros_like(worth)
    times: Array = np.maximum(worth - levels[above[-1]], 0.0) / rates
    return np.where(errors > 0, times, 0.0)


def largest_gain(errors: Array, costs: Array) -> float:
    """How many times less the best split errs than equal times, once every merge is trained.

    With equal rates it is ``exp(KL(c/Σc ‖ a/Σa))``, whatever the budget: equal times leave
    Σ a exp(-r B/C), the best split C Π (a/c)^(c/C) exp(-r B/C), with C = Σ c; a, c (M,) > 0.
    """
    shares, spent = errors / errors.sum(), costs / costs.sum()
    return float(np.exp(np.sum(spent * np.log(spent / shares))))


SCHEDULES: Mapping[str, Callable[[Array], Array]] = {
    "constant": np.ones_like,
    "growing": lambda rounds: rounds,
    "falling": lambda rounds: rounds.max() + 1 - rounds,
    "doubled last rounds": lambda rounds: np.where(rounds > rounds.max() - 2, 2.0, 1.0),
}
"""Relative times of merges by their rounds: alike, in proportion to the round, to the rounds left,
or twice as long in the last two rounds (progressive distillation as OpenAI trained it)."""


def scheduled_times(name: str, plan: Plan, budget: float, overhead: float = OVERHEAD) -> Array:
    """(number of merges,) times of a schedule that cost the budget.

    Raises:
        InputError: for an unknown schedule, a plan that merges nothing or a budget below 0.
    """
    if name not in SCHEDULES:
        raise InputError("schedule", f"must be one of {', '.join(SCHEDULES)}", name)
    _check(plan, budget)
    times = SCHEDULES[name](np.array(plan.rounds(), dtype=np.float64))
    return times * (budget / float(times @ merge_costs(plan, overhead)))


@dataclass(frozen=True, eq=False)
class Allocation:
    """A split of a budget over the merges of a plan, the distance reached and its derivatives."""

    problem: Problem
    plan: Plan
    costs: Array
    """(number of merges M,) of one unit of time."""
    times: Array
    """(M,) in multiples of the problem's training."""

    @cached_property
    def outcome(self) -> Outcome:
        """The plan, evaluated with these times."""
        return evaluate(self.problem, self.plan, self.times)

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance of the student."""
        return self.outcome.w2

    @property
    def budget(self) -> float:
        """Network evaluations of a sample that are spent, Σ c_m x_m."""
        return float(self.costs @ self.times)

    @property
    def lower_bound(self) -> float:
        """A distance that no split of the budget goes below; 0 where nothing is proved."""
        share = max(1.0 - 2.0 * self.residual, 0.0) if self.is_convex else 0.0
        return self.w2 * float(np.sqrt(share))

    @cached_property
    def residual(self) -> float:
        """Relative decrease of W2 that its linear model promises anywhere in the budget.

        0 where the conditions of Karush, Kuhn and Tucker hold.
        """
        if self.w2 <= _LEAST:
            return 0.0
        gradient = self.parts.sum(axis=1)
        steepest = min(float((gradient / self.costs).min()), 0.0)
        return max(float(gradient @ self.times) - self.budget * steepest, 0.0) / self.w2

    @cached_property
    def is_convex(self) -> bool:
        """Whether W2² is known to lie above that model for all times.

        Then the residual proves how much better any split could be. Each |e| of a comb whose blocks
        all grow or all shrink is convex in the times. expm1(e)² is convex for e >= 0; for e < 0 it
        is so up to |e| = ln 2 only, and lies above its tangent as far as the untrained student if
        it does so there.
        """
        problem, merges = self.problem, self.plan.merges
        heads = {tree.start for tree in self.plan.students}
        covered = problem.merge_rule == "operator-copy" and problem.objective == "teacher"
        if not covered or any(merge.start not in heads for merge in merges):
            return False
        blocks = np.array([problem.teacher.log_composite(m.stop, m.split) for m in merges])
        shrinks, grows = (blocks <= 0).all(axis=0), (blocks >= 0).all(axis=0)
        untrained, trained = blocks.sum(axis=0), -self.outcome.excess
        slope = -2.0 * np.expm1(-trained) * np.exp(-trained)
        tangent = np.expm1(-trained) ** 2 + slope * (untrained - trained)
        is_above = (trained <= np.log(2.0)) & (np.expm1(-untrained) ** 2 >= tangent)
        return bool((shrinks | (grows & is_above)).all())

    @cached_property
    def rates(self) -> Array:
        """(M, d) r of the retention exp(-r x) of each merge."""
        retentions = self.problem.retentions[[merge.start for merge in self.plan.merges]]
        return -np.log(np.maximum(retentions, _LEAST))

    @cached_property
    def slopes(self) -> Array:
        """(M, d) derivative of the student's excess by the time of each merge.

        Of a merge with retention ρ = exp(-r x), excess e of the first child, u of the others and
        local excess l: ``∂/∂x = r expm1(-l)``, ``∂/∂u = (1 - ρ) exp(-l)`` and ``∂/∂e = (1 - ρ + ρ
        gain exp(-u)) exp(-l)``, carried back from the student to every merge.
        """
        local, merges = self.outcome.local_excess, self.plan.merges
        steps = range(self.plan.num_steps, 0, -1)
        kept, shrunk = np.exp(-self.rates * self.times[:, None]), np.exp(-local)
        by_first = np.empty_like(local)
        excess = dict.fromkeys(steps, np.zeros_like(local[0]))
        for row, merge in enumerate(merges):
            first, *others = (excess.pop(t) for t in merge.boundaries[:-1])
            rest = np.sum(others, axis=0)
            _, gain = initial_coefficients(self.problem, merge.start, merge.split, merge.stop)
            by_first[row] = 1.0 - kept[row] + kept[row] * gain * np.exp(-rest)
            excess[merge.start] = first + rest + local[row]
        weight = dict.fromkeys(steps, np.ones_like(local[0]))
        slopes: Array = self.rates * np.expm1(-local)
        for row in range(len(merges) - 1, -1, -1):
            slopes[row] *= weight[merges[row].start]
            above = weight[merges[row].start] * shrunk[row]
            weight.update(dict.fromkeys(merges[row].boundaries[1:-1], above * (1.0 - kept[row])))
            weight[merges[row].start] = above * by_first[row]
        return slopes

    @cached_property
    def parts(self) -> Array:
        """(M, d) derivative of W2 by each time, column by column; their sum is the gradient."""
        excess, scale = self.outcome.excess, np.exp(self.problem.log_scale)
        off_target = scale * (np.expm1(excess) - np.expm1(self.problem.target_excess))
        parts: Array = self.slopes * off_target * scale * np.exp(excess)
        return parts / max(self.w2, _LEAST)

    def nearer(self) -> Allocation | None:
        """A point nearer to the refilled times that lowers W2 enough; None if rounding forbids it.

        Refilled: where the sum of exponentials with the same derivatives has its minimum. The rate
        of a merge is that of the columns which its training changes, on average.
        """
        gradient, sizes = self.parts.sum(axis=1), np.abs(self.parts)
        totals = np.maximum(sizes.sum(axis=1), _LEAST)
        rates = np.maximum((sizes * self.rates).sum(axis=1) / totals, _LEAST)
        with np.errstate(over="ignore"):
            errors = np.minimum(-gradient / rates * np.exp(rates * self.times), 1.0 / _LEAST)
        refilled = water_filling(errors, rates, self.costs, self.budget)
        direction = refilled - self.times
        promised = float(gradient @ direction)
        for step in 0.5 ** np.arange(_MAX_HALVINGS):
            there = replace(self, times=self.times + step * direction)
            if there.w2 < self.w2 + _SUFFICIENT * step * promised:
                return there
        return None


def allocate(
    problem: Problem,
    plan: Plan,
    budget: float,
    overhead: float = OVERHEAD,
    tolerance: float = _STATIONARY,
) -> Allocation:
    """The split of a budget over a plan's merges that brings the student nearest to the target.

    At given times the distance changes as a sum of a_m exp(-r_m x_m) would, with one a_m and r_m
    a merge; water-filling minimises that sum, and a line search goes towards its minimum. What
    is found meets the conditions of Karush, Kuhn and Tucker up to ``residual``, which the search
    brings to ``tolerance`` if it can.

    For operator copy towards the teacher with every merge at the head of the plan (combs, THEORY
    7.6) and no eigenvalue whose blocks both grow and shrink, each excess is convex in the times
    and of one sign, W2² is convex wherever e > -ln 2, and the result is proved the best.
    Elsewhere it is a local optimum. The budget counts network evaluations of a sample.

    Raises:
        InputError: for a plan that does not fit or merges nothing, or a budget that is not > 0.
    """
    _check(plan, budget)
    costs = merge_costs(plan, overhead)
    here = Allocation(problem, plan, costs, np.full(len(costs), budget / costs.sum()))
    for _ in range(_MAX_ITERATIONS):
        following = here.nearer() if here.residual > tolerance else None
        if following is None:
            break
        here = following
    return here


def _check(plan: Plan, budget: float) -> None:
    if not plan.merges:
        raise InputError("plan", "must have merges to train")
    if check_number("budget", budget) <= 0:
        raise InputError("budget", "must be > 0", budget)


@dataclass(frozen=True, eq=False)
class FrontierPoint:
    """The best comb at a price μ > 0 of excess for an evaluation, its times and what they cost."""

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
    errors = np.expm1(log_products[:, None] - log_products[None, :])  # blocks k → i at [k, i]
    steps = np.arange(problem.num_steps, dtype=np.float64)
    costs = steps[:, None] - steps[None, :] + 1.0 + overhead
    rate, sizes, sign = _decays(problem)[-1], np.abs(errors), np.where(errors > 0, 1.0, -1.0)
    points = []
    for price in map(float, prices):
        charge = price * costs
        with np.errstate(divide="ignore", invalid="ignore"):  # those with k <= i have no meaning
            left = np.where(charge < rate, charge / np.maximum(rate - sign * charge, 0.0), np.inf)
            left = np.where(sign < 0, charge / (rate + charge), left)
            times = np.maximum(np.log(sizes / left), 0.0) / rate
            excess = np.log1p(sign * np.minimum(sizes, left))
            plan = Plan((cheapest_comb(np.abs(excess) + charge * times)[1],))
        at = [merge.split for merge in plan.merges], [merge.stop for merge in plan.merges]
        spent = float(costs[at] @ times[at])
        points.append(FrontierPoint(price, spent, float(excess[at].sum()), times[at], plan))
    return points


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


def _decays(problem: Problem) -> Array:
    """(T + 1,) decay r_t of the slowest column at each step; row 0 has no meaning."""
    with np.errstate(divide="ignore"):
        decays: Array = -np.log(problem.retentions).max(axis=1)
    return decays
