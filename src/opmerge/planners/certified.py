"""Certified planner: Frank-Wolfe over combs, with a lower bound that covers every plan.

The squared distance F(e) = Σ w n P² expm1(e)² is convex in the excess e (for e > -ln 2; below,
its convex envelope is used). For any point e⁰ with gradient g and any plan,

    F(e) >= F(e⁰) + <g, e - e⁰>,

and the least <g, e> over all plans is a shortest path over combs plus the tail credit (THEORY
7.6, 7.7). The best comb seen is the upper bound. Where the convex relaxation leaves a gap, combs
are enumerated in the order of their bound until the bound passes the best.

What training inside the blocks of a spine may save is bounded by ``tails.TailBound``.

Under denoiser copy BOOT is the best tree between any two steps, for every eigenvalue (THEORY 7.9):
what is searched and enumerated in the same way is where students hand over.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from opmerge.arrays import Array
from opmerge.clock import TimeUpError, seconds_left, tick, time_limit
from opmerge.merging import Outcome, evaluate
from opmerge.planners.combs import CombSearch
from opmerge.planners.handovers import HandoverSearch, handover_memory
from opmerge.planners.interval import MEMORY_LIMIT
from opmerge.planners.result import PlannerResult, best_outcome, planner, require
from opmerge.planners.tails import TailBound
from opmerge.plans.strategies import build_strategy
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.spectra import eigenvalue_spectrum

_MAX_ITERATIONS = 60
_MAX_CORRECTIONS = 200
_COARSE = 128  # eigenvalues with which the plans that matter are found first
_NEGLIGIBLE = 1e-4  # an eigenvalue, of data of size 1, below which plans hardly differ
_VERY_COARSE, _FEW_HEADS = 16, 64  # eigenvalues, and steps where students begin, of a likely plan
_TOLERANCE = 1e-13  # relative gap in squared distance at which rounding takes over
_CLOSED = 1e-10  # and at which there is nothing worth an enumeration
_MAX_ENUMERATED = 5_000
_MAX_STEPS_ENUMERATED = 256  # keeping every head's block costs takes T³/3 numbers
_ALWAYS_BOOT = "under denoiser copy no plan of one student beats sequential BOOT, for any data"
_DESCENT_SHARE = 0.6  # of the time that is left, where there is a limit; the rest is for the proof


def certified_memory(problem: Problem, student_steps: int) -> int:
    """Bytes of the largest table: of blocks, or under denoiser copy of several windows."""
    if problem.merge_rule == "operator-copy":
        return 8 * problem.num_steps**2
    return handover_memory(problem) if student_steps > 1 else 0


@planner("certified", 3)
def certified_plan(problem: Problem, student_steps: int = 1) -> PlannerResult:
    """The best plan with a proved lower bound on every plan (THEORY 7.6, 7.7, 7.9).

    Covers the teacher as target. Under operator copy the plan is a comb, and on real spectra the
    gap closes to rounding. It may stay open where eigenvalues in (λ_0, λ*) carry much of the error,
    and for long samplers trained very briefly, where more combs lie within the bound than can be
    tried; the notes say which. Under denoiser copy the plan is sequential BOOT between handovers:
    one window for one student, which no plan beats whatever the spectrum. The certificate is in
    float64: bound and value are exact to about 1e-10.

    Raises:
        InputError: for the objective data, and where a table would take more than 2 GiB: of blocks
            above T = 16,384, of windows (denoiser copy, K > 1) sooner.
    """
    objective = problem.objective
    require(objective == "teacher", "certified covers the objective teacher only", objective)
    if problem.merge_rule == "denoiser-copy" and student_steps == 1:
        outcome = evaluate(problem, build_strategy("boot", problem.num_steps))
        return PlannerResult(outcome, outcome.w2, notes=(_ALWAYS_BOOT,))
    size, most = certified_memory(problem, student_steps) / 1024**3, MEMORY_LIMIT / 1024**3
    of_what = "steps" if problem.merge_rule == "operator-copy" else "students"
    need = f"certified needs a table of at most {most:g} GiB for several {of_what}"
    require(size <= most, need, f"{size:.1f} GiB")
    with time_limit(_DESCENT_SHARE * seconds_left()):
        relaxation = _Relaxation(problem, student_steps, _starting_plans(problem, student_steps))
    note = relaxation.close()
    bound = float(np.sqrt(relaxation.lower))
    notes = (note,) if note else ()
    return PlannerResult(relaxation.best, bound, notes=notes, cut_short=relaxation.cut_short)


class _ConvexLoss:
    """Convex minorant of F: its envelope on the excesses that plans can reach."""

    def __init__(self, problem: Problem, least_excess: Array) -> None:
        self.scale = np.exp(problem.log_scale)  # (d,) √(w n_T) P
        self.corner = corner = least_excess
        self.tangent = np.full_like(corner, -np.inf)  # (d,) where the envelope leaves the curve
        is_concave = corner < -np.log(2.0)
        ends = corner[is_concave]
        low, high = np.full_like(ends, -np.log(2.0)), np.zeros_like(ends)
        for _ in range(60):  # bisection on f'(x)(x - corner) = f(x) - f(corner)
            middle = 0.5 * (low + high)
            rise = np.expm1(middle) ** 2 - np.expm1(ends) ** 2
            is_below = 2.0 * np.expm1(middle) * np.exp(middle) * (middle - ends) < rise
            low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
        self.tangent[is_concave] = high

    def value_and_gradient(self, excess: Array) -> tuple[float, Array]:
        """F and its gradient; F lies on or above the tangent there, everywhere."""
        terms, gradient = self.terms_and_gradient(excess)
        return float(np.sum(terms)), gradient

    def terms_and_gradient(self, excess: Array) -> tuple[Array, Array]:
        """(d,) terms of F, each >= 0, and its gradient."""
        at = np.maximum(excess, self.tangent)
        gradient = 2.0 * self.scale**2 * np.expm1(at) * np.exp(at)
        terms = (self.scale * np.expm1(at)) ** 2 + gradient * (excess - at)
        return terms, gradient


def _starting_plans(problem: Problem, student_steps: int) -> list[Plan]:
    """BOOT, vanilla and, of many eigenvalues, the plans that a coarser spectrum wants."""
    names = ("boot", "vanilla") if problem.merge_rule == "operator-copy" else ("boot",)
    plans = [build_strategy(name, problem.num_steps, student_steps) for name in names]
    if len(problem.distinct_eigenvalues) <= 2 * _COARSE:
        return plans
    # the search visits much the same plans whether neighbouring eigenvalues are told apart or not,
    # and each step of it costs a matrix product over all of them
    coarse = _Relaxation(_coarsened(problem, _COARSE), student_steps, plans)
    with suppress(TimeUpError):
        coarse.descend()
    return coarse.plans


def _coarsened(problem: Problem, count: int) -> Problem:
    """The problem with at most so many means of neighbouring eigenvalues, of as many octaves each.

    What plans leave varies with log λ, whether few of the eigenvalues are large or few are small.
    """
    eigenvalues, counts = problem.distinct_eigenvalues, problem.distinct_multiplicities
    octaves = np.log2(eigenvalues + _NEGLIGIBLE)
    edges = np.linspace(octaves[-1], octaves[0], count + 1)[1:-1]
    _, groups = np.unique(np.searchsorted(edges, octaves), return_inverse=True)
    sums = np.bincount(groups, counts)
    means = np.bincount(groups, counts * eigenvalues) / sums
    return replace(problem, spectrum=eigenvalue_spectrum(means, sums))


def likely_plan(problem: Problem, student_steps: int) -> Plan:
    """A plan near the best, towards the teacher, in little time: that of a coarser problem.

    It has few eigenvalues, and several students begin at few of the steps. Nothing is proved.
    """
    steps = problem.num_steps
    plans = [build_strategy("boot", steps, student_steps)]
    size = MEMORY_LIMIT // (8 * (steps + 1) ** 2)
    if size < 1 or (problem.merge_rule == "denoiser-copy" and student_steps == 1):
        return plans[0]
    coarse = replace(_coarsened(problem, min(size, _VERY_COARSE)), objective="teacher")
    search = _Relaxation(coarse, student_steps, plans, spacing=-(-steps // _FEW_HEADS))
    with suppress(TimeUpError):
        search.descend()
    return search.best.plan


class _Relaxation:
    """State of the search: the best plan, the bound, the hull of the plans seen, a point in it.

    A bound comes from a tangent (offset, gradient) of the loss: F(e) >= offset + <gradient, e>.
    """

    def __init__(
        self, problem: Problem, student_steps: int, plans: list[Plan], spacing: int = 1
    ) -> None:
        self.problem, self.student_steps = problem, student_steps
        self.tails = TailBound(problem, student_steps)
        self.search: CombSearch | HandoverSearch
        if problem.merge_rule == "operator-copy":
            self.search = CombSearch(problem, student_steps, spacing)
        else:
            self.search = HandoverSearch(problem, student_steps)
        self.loss = _ConvexLoss(problem, self.search.least_excess())
        self.plans = plans
        starts = [evaluate(problem, plan) for plan in plans]
        self.best = best_outcome(starts)
        self.vertices = np.array([self._vertex(outcome) for outcome in starts])
        self.weights = np.array([float(outcome is self.best) for outcome in starts])
        self._correct()
        self.lower, self.bound = 0.0, self._tangent()
        self.cut_short = False

    @property
    def upper(self) -> float:
        return self.best.w2**2

    @property
    def gap(self) -> float:
        return (self.upper - self.lower) / self.upper if self.upper > 0 else 0.0

    def _vertex(self, outcome: Outcome) -> Array:
        """Its excess: finite, where that of an output that is 0 is not."""
        return np.maximum(outcome.excess, self.loss.corner)

    def _consider(self, plan: Plan) -> Outcome:
        outcome = evaluate(self.problem, plan)
        self.best = best_outcome([self.best, outcome])
        return outcome

    def _tangent(self) -> tuple[float, Array]:
        value, gradient = self.loss.value_and_gradient(self.point)
        return value - float(gradient @ self.point), gradient

    def _correct(self) -> None:
        """Move to the least loss over the hull of the plans seen."""
        self.weights = _minimise_over_hull(self.loss, self.vertices, self.weights)
        self.point = self.weights @ self.vertices

    def close(self) -> str:
        """Search, and prove as much as can be proved in time; what keeps the gap open, if known."""
        try:
            with time_limit(_DESCENT_SHARE * seconds_left()):
                self.descend()
        except TimeUpError:
            self.cut_short = True
        try:
            with time_limit(_DESCENT_SHARE * seconds_left()):
                is_for_all = self.account_for_tails()
        except TimeUpError:
            self.lower, self.cut_short = self._bound_of_one_sign(), True
            return "the time was up before the bound covered eigenvalues with steps of both signs"
        if not is_for_all:
            return self.tail_note()
        if self.cut_short:
            return "the time was up before the convex relaxation was solved"
        return self.enumerate() if self.gap > _CLOSED else ""

    def descend(self) -> None:
        """Fully corrective Frank-Wolfe: one shortest path an iteration, until the gap stalls."""
        for iteration in range(_MAX_ITERATIONS):
            tick("paths found", iteration)
            offset, gradient = self._tangent()
            cost, plan = self.search.cheapest(gradient)
            if offset + cost >= self.lower:
                self.lower, self.bound = offset + cost, (offset, gradient)
            vertex = self._vertex(self._consider(plan))
            here = float(gradient @ self.point)
            is_closed = self.gap <= _TOLERANCE or here - cost <= _TOLERANCE * (offset + here)
            if is_closed or (self.vertices == vertex).all(axis=1).any():
                return
            self.plans.append(plan)
            self.vertices = np.vstack([self.vertices, vertex])
            self.weights = np.append(self.weights, 0.0)
            self._correct()

    def account_for_tails(self) -> bool:
        """Make the bound cover plans that train inside blocks; whether it did already."""
        offset, gradient = self.bound
        credit = self.tails.credit(gradient)
        if credit is None:
            return True
        cost, plan = self.search.cheapest(gradient, credit)
        self._consider(plan)
        self.lower = max(0.0, offset + cost)
        return False

    def _bound_of_one_sign(self) -> float:
        """What no plan goes below on the eigenvalues whose steps have one sign; 0 without the time.

        For these a comb is the best plan with its spine, and the terms of the others are >= 0.
        """
        terms, gradient = self.loss.terms_and_gradient(self.point)
        terms[self.tails.mixed] = gradient[self.tails.mixed] = 0.0
        try:
            cost, _ = self.search.cheapest(gradient)
        except TimeUpError:
            return 0.0
        return max(0.0, float(np.sum(terms - gradient * self.point)) + cost)

    def enumerate(self) -> str:
        """Close an integrality gap: combs in the order of their bound, until it passes the best.

        Where every eigenvalue has steps of one sign, a comb is the best plan with its spine.
        Otherwise its loss still bounds them all, the loss being convex, if no training inside
        blocks pays under the loss's gradient there. Returns what stopped it, if anything did.
        """
        if self.student_steps > 1 and self.problem.num_steps > _MAX_STEPS_ENUMERATED:
            return "the convex relaxation is not tight, and there are too many steps to enumerate"
        offset, gradient = self.bound
        count, reached = 0, self.lower  # no comb that is still to come is below
        proved = np.inf  # the least bound of all spines passed
        try:
            for cost, plan in self.search.in_order(gradient, self.upper - offset):
                tick("combs within the bound", count)
                reached = max(self.lower, offset + cost)
                if min(reached, proved) >= self.upper:
                    break
                if plan is None or count == _MAX_ENUMERATED:
                    self.lower = min(reached, proved)
                    return f"the search ended after {count} combs within the bound"
                comb = self._consider(plan)
                loss = comb.w2**2
                if self.tails.mixed.size:
                    loss, slope = self.loss.value_and_gradient(comb.excess)
                    if self.tails.credit(slope) is not None:
                        self.lower = min(reached, proved)
                        return self.tail_note()
                proved, count = min(proved, loss), count + 1
        except TimeUpError:
            self.lower, self.cut_short = min(reached, proved), True
            return f"the time was up after {count} combs within the bound"
        self.lower = min(self.upper, proved)
        return ""

    def tail_note(self) -> str:
        """Why eigenvalues of both signs keep the gap open."""
        mixed = np.unique(self.problem.eigenvalues[self.tails.mixed])
        return (
            f"{len(mixed)} eigenvalues from {mixed.min():.4g} to {mixed.max():.4g} have steps of"
            " both signs: the bound allows for gains by training inside blocks that may not exist"
        )


def _minimise_over_hull(loss: _ConvexLoss, vertices: Array, weights: Array) -> Array:
    """Convex weights of the vertices at which the loss is least: pairwise Frank-Wolfe steps."""
    from scipy.optimize import brentq

    weights = weights.copy()
    for _ in range(_MAX_CORRECTIONS):
        tick()
        point = weights @ vertices
        value, gradient = loss.value_and_gradient(point)
        slopes = vertices @ gradient
        toward, away = slopes.argmin(), np.where(weights > 0, slopes, -np.inf).argmax()
        if slopes[away] - slopes[toward] <= 0.1 * _TOLERANCE * value:
            break
        direction = vertices[toward] - vertices[away]

        def slope(step: float, point: Array = point, direction: Array = direction) -> float:
            return float(loss.value_and_gradient(point + step * direction)[1] @ direction)

        if slope(0.0) >= 0:  # what is left of the descent is rounding
            break
        longest = weights[away]
        step = longest if slope(longest) <= 0 else brentq(slope, 0.0, longest, xtol=1e-16)
        weights[toward] += step
        weights[away] = 0.0 if step == longest else weights[away] - step
    return weights
