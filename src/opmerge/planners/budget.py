"""Plan and iterations for a budget, and an honest forecast of what they leave.

The law of merges and its composition (``opmerge.forecast``, THEORY 10) say what any plan with any
iterations leaves. What is minimised here is that forecast, over trees, handovers and iterations.
Candidates are the exact solutions of an additive surrogate (``planners.surrogate``), the named
strategies in several sets of windows, and vanilla; each is given its own best split of the budget,
and the best are improved by local moves. Nothing is proved: the answer is a forecast, with an
interval, beside those of other plans at the same cost. Plans which the law cannot tell apart are
said to be ties, and of these the simplest is proposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_number
from opmerge.clock import while_time
from opmerge.errors import InputError
from opmerge.forecast import FittedLaw, Forecast, TeacherTable
from opmerge.forecast.cost import IterationCost
from opmerge.planners.local_moves import improved
from opmerge.planners.splits import Forecasts, Jumps, Split, Splitter, jumps_of, plan_of
from opmerge.planners.surrogate import iteration_grid, price_range, priced_plans
from opmerge.plans import STRATEGIES, Plan
from opmerge.plans.strategies import (
    build_strategy,
    strategy_family,
    uniform_boundaries,
    windowed_strategy,
)

_PRICES, _PRICES_OF_FRONTIER = 12, 24
_MOST_WINDOWS = 4  # sets of windows of priced plans in which strategies are tried
_REFINED = 3  # candidates that are improved
_TRIALS = 300  # neighbours tried in each
_FIRST_ROUNDS = 10  # of splits at first: within 1e-4 of the best
_TAIL = 0.05  # on either side of an interval
_FOUND = "search"  # the name of a plan that no strategy has


@dataclass(frozen=True)
class BudgetPlan:
    """A plan, what it costs and what it is forecast to leave.

    Args:
        name: of the strategy, or ``search``.
        iterations: one a merge, in the order of execution.
        cost: network evaluations of whole batches, all merges together, and of the teacher runs
            that a free step is fitted to.
        forecast: the paired error, with its 90 % interval.
    """

    name: str
    plan: Plan
    iterations: tuple[int, ...]
    cost: float
    forecast: Forecast


@dataclass(frozen=True)
class Tie:
    """A plan whose difference to the least forecast is not worth it.

    ``low`` and ``high`` are the 90 % interval of the ratio of its error to the other's: it
    contains 1.
    """

    plan: BudgetPlan
    low: float
    high: float


@dataclass(frozen=True)
class BudgetResult:
    """What to spend a budget on.

    Args:
        budget: network evaluations.
        student_steps: K.
        best: the plan that is proposed: among ``least`` and its ties the one with the fewest
            merges, and of several the one with the least forecast; but one merge a window of equal
            angles, as people hand over, where that is a tie of ``least`` or of this one. The least
            of many plans is one that the law overrates.
        least: the plan with the least forecast of those that hand over at equal angles or equal
            steps, as all here do.
        equal: progressive distillation as people run it, with equal iterations of every merge;
            None if the budget does not pay for it.
        strategies: the best of each named strategy, of all its sizes and windows, with its best
            split; vanilla and progressive are the plain ones. Those that the budget does not pay
            for are left out.
        ties: of ``least``.
    """

    budget: float
    student_steps: int
    best: BudgetPlan
    least: BudgetPlan
    equal: BudgetPlan | None
    strategies: tuple[BudgetPlan, ...]
    ties: tuple[Tie, ...]


def plan_for_budget(
    table: TeacherTable,
    law: FittedLaw,
    budget: float,
    student_steps: int = 1,
    cost: IterationCost | None = None,
) -> BudgetResult:
    """The plan of K students and the iterations that are forecast to leave least for a budget.

    Args:
        table: of the teacher.
        law: of merges on its network.
        budget: network evaluations of whole batches.
        student_steps: K.
        cost: of an iteration; ``IterationCost()`` by default.

    Raises:
        InputError: for K out of range, or a budget that does not pay for an iteration of a merge.
    """
    return frontier(table, law, [budget], [student_steps], cost)[0]


def frontier(
    table: TeacherTable,
    law: FittedLaw,
    budgets: Sequence[float],
    student_steps: Sequence[int] = (1,),
    cost: IterationCost | None = None,
) -> list[BudgetResult]:
    """``plan_for_budget`` for every K, and of each for every budget, ascending.

    With more budget no forecast of ``least`` is worse: what a smaller one pays for is a candidate.
    Budgets that do not pay for an iteration of every merge are left out, and, but for the first,
    those for which the time of a ``time_limit`` does not suffice.

    Raises:
        InputError: as ``plan_for_budget``, if no budget does for some K, or there is none.
    """
    ordered = sorted({_checked(budget) for budget in budgets})
    counts = list(dict.fromkeys(student_steps))
    if not ordered or not counts:
        raise InputError("budgets", "must not be empty, nor student_steps", (budgets, counts))
    for count in counts:
        uniform_boundaries(table.num_steps, count)  # refuses what is out of range
    splitter = Splitter(table, law.law, cost or IterationCost())
    found: dict[int, dict[Jumps, tuple[Array, tuple[int, ...]]]] = {k: {} for k in counts}
    number = _PRICES if len(ordered) == 1 else _PRICES_OF_FRONTIER
    prices = price_range(splitter, ordered[0], ordered[-1], number)
    for priced in priced_plans(splitter, prices, iteration_grid(splitter, ordered[-1]), counts):
        of_count = found[len(priced.boundaries) - 1]
        of_count.setdefault(priced.jumps, (priced.iterations, priced.boundaries))
    return list(while_time(_results(splitter, law, found, ordered), "plans for budgets"))


def first_look(
    table: TeacherTable,
    law: FittedLaw,
    budget: float,
    others: Sequence[float] = (),
    student_steps: int = 1,
    cost: IterationCost | None = None,
) -> list[BudgetResult]:
    """``frontier`` without its search, in a tenth of the time: named strategies alone.

    For the budget itself, and of other budgets that suffice ``least`` alone, which is ``best``
    then.

    Raises:
        InputError: as ``plan_for_budget``.
    """
    uniform_boundaries(table.num_steps, student_steps)  # refuses what is out of range
    splitter = Splitter(table, law.law, cost or IterationCost(), _FIRST_ROUNDS)
    search = _Search(splitter, law, student_steps, {}, trials=0)
    ordered = sorted({_checked(each) for each in (budget, *others)})
    enough = [each for each in ordered if each == budget or each >= search.least_cost]
    return [search.at(each, least_alone=each != budget) for each in enough]


def _results(
    splitter: Splitter,
    law: FittedLaw,
    found: Mapping[int, Mapping[Jumps, tuple[Array, tuple[int, ...]]]],
    budgets: Sequence[float],
) -> Iterator[BudgetResult]:
    """For every K, and of each for every budget that suffices, or else the largest."""
    for count, priced in found.items():
        search = _Search(splitter, law, count, priced, _TRIALS)
        enough = [budget for budget in budgets if budget >= search.least_cost]
        yield from map(search.at, enough or budgets[-1:])


def ratio_interval(one: Forecast, other: Forecast, scatter: float) -> tuple[float, float]:
    """The 90 % interval of the ratio of two plans' errors.

    Draw by draw of the law, since what a draw gets wrong it gets wrong in both; and with the law's
    scatter, which is each plan's own.
    """
    rng = np.random.default_rng(0)
    noise = np.exp(np.sqrt(2.0) * scatter * rng.standard_normal((256, 1)))
    ratios = noise * np.divide(one.draws, other.draws)
    low, high = np.quantile(ratios, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def tie_of(other: BudgetPlan, least: BudgetPlan, scatter: float) -> Tie | None:
    """The plan as a tie of the least one, if the interval of their ratio contains 1."""
    if least.forecast.rms == 0:
        return None
    low, high = ratio_interval(other.forecast, least.forecast, scatter)
    return Tie(other, low, high) if low <= 1 <= high else None


def equal_angle_boundaries(table: TeacherTable, student_steps: int) -> list[int]:
    """(T, …, 0) in K windows of about equal ``arctan(sigma/alpha)``, each of a step at least."""
    schedule, count = table.schedule, student_steps
    angles = np.arctan2(schedule.sigmas, schedule.alphas)
    wanted = np.linspace(angles[-1], angles[0], count + 1)
    edges = [int(np.abs(angles - angle).argmin()) for angle in wanted]
    for place in range(1, count):  # leaves a step for each window before and after
        edges[place] = min(max(edges[place], count - place), edges[place - 1] - 1)
    return edges


def _checked(budget: float) -> float:
    if check_number("budget", budget) <= 0:
        raise InputError("budget", "must be > 0", budget)
    return float(budget)


class _Search:
    """Candidates for one K, with their splits at one budget after another, ascending."""

    def __init__(
        self,
        splitter: Splitter,
        law: FittedLaw,
        student_steps: int,
        priced: Mapping[Jumps, tuple[Array, tuple[int, ...]]],
        trials: int,
    ) -> None:
        self.splitter, self.law, self.student_steps = splitter, law, student_steps
        self._trials = trials
        self._forecasts = Forecasts(splitter, law)
        self._names: dict[Jumps, list[str]] = {}
        self._weights: dict[Jumps, Array | None] = {}
        for jumps, name in while_time(self._named([edges for _, edges in priced.values()])):
            self._names.setdefault(jumps, []).append(name)
            self._weights.setdefault(jumps, None)
        for jumps, (iterations, _) in priced.items():
            self._weights.setdefault(jumps, iterations)
        self._least: Split | None = None

    def _named(self, priced_edges: Sequence[Sequence[int]]) -> Iterator[tuple[Jumps, str]]:
        """Every strategy of every size, in windows of equal steps, equal angles and priced ones."""
        table, count = self.splitter.table, self.student_steps
        distinct = list(dict.fromkeys(tuple(edges) for edges in priced_edges))
        places = np.linspace(0, len(distinct) - 1, min(len(distinct), _MOST_WINDOWS)).round()
        windows = [
            tuple(uniform_boundaries(table.num_steps, count)),
            tuple(equal_angle_boundaries(table, count)),
            *(distinct[int(place)] for place in places),
        ]
        for edges in dict.fromkeys(windows):
            for name in strategy_family(table.num_steps):
                yield jumps_of(windowed_strategy(name, edges)), name

    @cached_property
    def least_cost(self) -> float:
        """Evaluations of an iteration of every merge in the cheapest candidate."""
        return min(self.splitter.least_cost(jumps) for jumps in self._weights)

    def at(self, budget: float, least_alone: bool = False) -> BudgetResult:
        """The result for a budget, or the least of it; budgets must ascend."""
        splits = self._splits(budget)
        splits = {j: split for j, split in splits.items() if self._is_known(j)} or splits
        for split in while_time(sorted(splits.values(), key=lambda each: each.error)[:_REFINED]):
            better = split
            if split.jumps and self._trials:
                moved = improved(self.splitter, split, budget, self._trials)
                better = moved if self._is_known(moved.jumps) else split
            splits[better.jumps] = better
            self._weights[better.jumps] = better.counts
        least = min(splits.values(), key=lambda each: each.error)
        if self._least is not None and self._least.error < least.error:
            least = splits[self._least.jumps] = self._least
        self._least = least
        if least_alone:
            chosen = self._planned(least)
            return BudgetResult(budget, self.student_steps, chosen, chosen, None, (), ())
        return self._result(budget, splits, least)

    def _splits(self, budget: float) -> dict[Jumps, Split]:
        """Every candidate that the budget pays for, with its best split."""
        if budget < self.least_cost:
            requirement = (
                f"must be >= {self.least_cost:,.0f} evaluations, which an iteration of each "
                f"merge costs in the cheapest plan with {self.student_steps} student steps"
            )
            raise InputError("budget", requirement, f"{budget:,.0f}")
        splits = {}
        paid = [each for each in self._weights if self.splitter.least_cost(each) <= budget]
        for jumps in while_time(paid):
            splits[jumps] = self.splitter.best(jumps, budget, self._weights[jumps])
            self._weights[jumps] = splits[jumps].counts
        return splits

    def _result(self, budget: float, splits: dict[Jumps, Split], least: Split) -> BudgetResult:
        families = while_time(self._best_of_families(splits).items())
        strategies = [self._planned(split, name) for name, split in families]
        chosen = self._planned(least)
        simplest = while_time(_simplest(splits.values(), least))
        simpler = [self._planned(split) for split in simplest]
        even = windowed_strategy("vanilla", self._equal_angles)
        alike = [self._planned(splits[jumps])] if (jumps := jumps_of(even)) in splits else []
        ties = tuple(self._ties(chosen, [*simpler, *alike, *strategies]))
        among = [chosen, *(tie.plan for tie in ties)]
        best = min(among, key=lambda p: (p.plan != even, len(p.iterations), p.forecast.rms))
        if alike and tie_of(alike[0], best, self.law.scatter) is not None:
            best = alike[0]
        num_steps = self.splitter.table.num_steps
        progressive = jumps_of(build_strategy("progressive", num_steps, self.student_steps))
        equal = None
        if self.splitter.least_cost(progressive) <= budget:
            equal = self._planned(self.splitter.equal(progressive, budget), "progressive")
        return BudgetResult(
            budget, self.student_steps, best, chosen, equal, tuple(strategies), ties
        )

    def _is_known(self, jumps: Jumps) -> bool:
        """Whether it hands over at equal angles or equal steps, where forecasts hold.

        Windows' errors are added in squares. Of short neighbours, which deviate alike, that is too
        little, and a search for the least would find them.
        """
        steps, count = self.splitter.table.num_steps, self.student_steps
        windows = self._equal_angles, uniform_boundaries(steps, count)
        return count == 1 or list(plan_of(jumps, steps).boundaries) in map(list, windows)

    @cached_property
    def _equal_angles(self) -> list[int]:
        return equal_angle_boundaries(self.splitter.table, self.student_steps)

    def _best_of_families(self, splits: Mapping[Jumps, Split]) -> dict[str, Split]:
        """The best size and windows of each strategy, by the name of that size."""
        best: dict[str, tuple[str, Split]] = {}
        for jumps, split in splits.items():
            for name in self._names.get(jumps, ()):
                family = name.partition(":")[0]
                if family not in best or split.error < best[family][1].error:
                    best[family] = name, split
        in_place = [best[family] for family in STRATEGIES if family in best]
        return dict(sorted(in_place, key=lambda named: named[1].error))

    def _planned(self, split: Split, name: str | None = None) -> BudgetPlan:
        table = self.splitter.table
        plan = plan_of(split.jumps, table.num_steps)
        iterations = tuple(int(count) for count in split.iterations)
        cost = self.splitter.total_cost(split.jumps, split.iterations)
        expected = self._forecasts.of(split.jumps, iterations)
        named = name or self._names.get(split.jumps, [_FOUND])[0]
        return BudgetPlan(named, plan, iterations, cost, expected)

    def _ties(self, least: BudgetPlan, others: Sequence[BudgetPlan]) -> Iterator[Tie]:
        seen = {least.plan}
        for other in others:
            if other.plan not in seen:
                seen.add(other.plan)
                if (tie := tie_of(other, least, self.law.scatter)) is not None:
                    yield tie


def _simplest(splits: Iterable[Split], least: Split) -> Iterator[Split]:
    """Plans with fewer merges than the least, each better than all that have fewer still."""
    error = np.inf
    for split in sorted(splits, key=lambda each: (each.num_merges, each.error)):
        if split.error < error and split.num_merges < least.num_merges:
            error = split.error
            yield split
