"""When a student is nearer to the data than its teacher, optimal or under capacity.

The teacher falls short of the data by a factor exp(l), ``l = log(√λ / (√n_T P)) = -Σ log cos φ_t``,
which is >= 0 (THEORY 2). A student with excess e > 0 makes up for it:

    |exp(e) - exp(l)| < |1 - exp(l)|    if and only if    0 < e < log(2 exp(l) - 1),

about 2 l, and at e = l it has the data's variance exactly. So a student overtakes its teacher
where its plan overshoots, and from the optimisation time on at which the overshoot is that small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Self, get_args

import numpy as np
from pydantic import Field
from scipy.optimize import brentq

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.planners.scalar import nearest_plan
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Count, MergeRule, Positive, Rising, TeacherSteps
from opmerge.spectra import resolve_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.matrices import MatrixOutcome, MatrixProblem, evaluate_matrices
from opmerge_studies.shared.strategies import CANONICAL, PAPER_RULE, scalar_problem, strategy_errors

_LOWEST, _HIGHEST = 0.01, 3.0  # λ; above λ* ≈ 2 no student overshoots
_NEAR_ONE = (1.0, 1.01, 1.03, 1.1)  # where vanilla ceases to overshoot
_GROWTH_STEPS = tuple(2**power for power in range(4, 13))
_GROWTH_EIGENVALUE = 0.2
_ROUNDING = 1e-12  # relative difference of distances that decides nothing
_SCAN = np.geomspace(1e-2, 1e2, 60)  # times between which a change is bracketed

Row = dict[str, Any]


class BetterThanTeacherSettings(Settings):
    steps: Rising[TeacherSteps] = option((16, 64, 256), "T of the optimal teachers")
    num_eigenvalues: Annotated[int, Field(ge=6)] = option(30, "λ from 0.01 to 3")
    times: Rising[Positive] = option((0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 6.4, 10.0), "s")
    sources: tuple[str, ...] = option(("digits", "patches"), "real spectra")
    misfit_source: str = option("digits", "data whose teachers are under capacity")
    misfit_steps: TeacherSteps = option(32, "T of these teachers")
    ranks: tuple[Count, ...] = option(
        (8, 16, 24, 32, 48), "eigenvalues that a rank-limited teacher knows"
    )
    factors: tuple[Positive, ...] = option(
        (0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0), "by which a biased teacher's covariance is too large"
    )
    sample_sizes: tuple[Count, ...] = option(
        (32, 64, 128, 256, 1024), "samples that a teacher's covariance is estimated from"
    )
    num_seeds: Count = option(5, "draws of these samples")

    @classmethod
    def quick(cls) -> Self:
        return cls(
            steps=(16, 64),
            num_eigenvalues=16,
            times=(0.5, 1.0, 2.0, 3.0, 6.4),
            sources=("digits",),
            ranks=(8, 24, 48),
            factors=(0.8, 1.25),
            sample_sizes=(64, 256),
            num_seeds=2,
        )


def run(settings: BetterThanTeacherSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``times`` (when each strategy overtakes), ``points`` (W2 to the data of strategies
    and of the best plan), both by λ, T and rule; ``spectra`` and ``misfits`` (W2 to the data, by
    s) and ``growth`` (the closed form of vanilla, by T).
    """
    values = np.append(np.geomspace(_LOWEST, _HIGHEST, settings.num_eigenvalues - 1), _NEAR_ONE)
    mapped = {"eigenvalue": np.unique(values.round(6)).tolist(), "times": [list(settings.times)]}
    copied = grid(merge_rule="operator-copy", num_steps=settings.steps, **mapped)
    denoised = grid(merge_rule="denoiser-copy", num_steps=settings.steps[0], **mapped)
    limits: dict[str, Sequence[float]] = {
        "exact": (1.0,),
        "rank, rest 0": settings.ranks,
        "rank, rest mean": settings.ranks,
        "biased": settings.factors,
        "samples": settings.sample_sizes,
    }
    teachers = [
        {"merge_rule": rule, "limit": limit, "size": size, "seed": seed, "time": time}
        for rule in get_args(MergeRule)
        for limit, sizes in limits.items()
        for size in sizes
        for seed in range(settings.num_seeds if limit == "samples" else 1)
        for time in settings.times
    ]
    taught = {"source": settings.misfit_source, "num_steps": settings.misfit_steps}
    misfits = [{**taught, **teacher} for teacher in teachers]
    spectra = grid(source=settings.sources, num_steps=settings.steps, time=settings.times)
    return {
        "tables": {
            **runner.tables(overtake, [*copied, *denoised], "mapping λ, s and T"),
            "spectra": runner.sweep(compare_spectrum, spectra, "real spectra"),
            "misfits": runner.sweep(teach_misfit, misfits, "teachers under capacity"),
            "growth": [grow(num_steps) for num_steps in _GROWTH_STEPS],
        }
    }


def overtake(
    merge_rule: MergeRule, num_steps: int, eigenvalue: float, times: Sequence[float]
) -> dict[str, list[Row]]:
    """When each strategy overtakes the teacher, and W2 to the data at some s."""
    problem = scalar_problem(eigenvalue, num_steps, 1.0, merge_rule, "data")
    head = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": eigenvalue}
    when = {name: overtaking_times(problem, build_strategy(name, num_steps)) for name in CANONICAL}
    problems = {time: replace(problem, training=GradientFlow(time)) for time in times}
    return {
        "times": [{**head, "strategy": name, **each} for name, each in when.items()],
        "points": [{**head, "time": time, **_point(each)} for time, each in problems.items()],
    }


def grow(num_steps: int) -> Row:
    """The time from which vanilla overtakes, in closed form."""
    problem = scalar_problem(_GROWTH_EIGENVALUE, num_steps, 1.0)
    first = float(vanilla_overtaking_time(problem)[0])
    return {"num_steps": num_steps, "eigenvalue": _GROWTH_EIGENVALUE, "first": first}


def _point(problem: Problem) -> Row:
    """W2 to the data of teacher, strategies and best plan; how often the condition is wrong."""
    low, high = nearer_excesses(problem.teacher.log_data_ratio)
    teacher, steps = problem.teacher_to_data, problem.num_steps
    outcomes = {name: evaluate(problem, build_strategy(name, steps)) for name in CANONICAL}
    errors = {name: outcome.w2 for name, outcome in outcomes.items()}
    disagree = sum(
        bool(low < outcome.excess < high) != (outcome.w2 < teacher)
        for outcome in outcomes.values()
        if abs(outcome.w2 / teacher - 1) > _ROUNDING
    )
    bound, nearest = _best(problem)
    best = min(nearest, *errors.values())
    bounds = {"best": best, "lower_bound": min(bound, best), "disagree": disagree}
    return {"teacher": teacher, **errors, **bounds}


def _best(problem: Problem) -> tuple[float, float]:
    """W2 to the data that no plan goes below, and that of a plan which is as near as was found.

    Where the target lies outside what plans reach, the nearer extreme is the best plan; inside,
    sums along a spine come close to it (``nearest_plan``).
    """
    ranges = excess_ranges(problem, 1)
    bound = separable_bound(problem, ranges)
    is_inside = ranges[0, 0] < problem.target_excess[0] < ranges[1, 0]
    if is_inside and problem.merge_rule == "operator-copy":
        return bound, evaluate(problem, nearest_plan(problem)).w2
    return bound, float("inf") if is_inside else bound


def compare_spectrum(source: str, num_steps: int, time: float) -> Row:
    """W2 to the data: teacher, strategies, the best plan found and its bound."""
    hybrids = [f"hybrid:{last}" for last in (2, 4, 8, 16, 32) if last < num_steps]
    spectrum, schedule = resolve_spectrum(source), cosine_schedule(num_steps)
    problem = Problem(spectrum, schedule, GradientFlow(time), PAPER_RULE, "data")
    planned, errors = find_plan(problem), strategy_errors(problem)
    hybrid = min(strategy_errors(problem, hybrids).values())
    best = min(planned.w2, hybrid, *errors.values())
    head = {"source": source, "num_steps": num_steps, "time": time}
    distances = {"teacher": problem.teacher_to_data, **errors, "hybrid": hybrid, "best": best}
    return {**head, **distances, "lower_bound": min(planned.lower_bound, best)}


def teach_misfit(
    source: str,
    num_steps: int,
    merge_rule: MergeRule,
    limit: str,
    size: float,
    seed: int,
    time: float,
) -> Row:
    """W2 to the data of a limited teacher and of its students; dense matrices throughout."""
    spectrum, schedule = resolve_spectrum(source), cosine_schedule(num_steps)
    data = np.diag(np.repeat(spectrum.eigenvalues, spectrum.multiplicities.astype(int)))
    learned, noise = limited_covariance(data, limit, size, seed), np.eye(len(data))
    problem = MatrixProblem(data, noise, schedule, GradientFlow(time), merge_rule, learned)
    plans = {name: build_strategy(name, num_steps) for name in CANONICAL}
    return {
        "merge_rule": merge_rule,
        "limit": limit,
        "size": size,
        "seed": seed,
        "time": time,
        "teacher": MatrixOutcome(problem, np.zeros_like(data)).to_data,
        **{name: evaluate_matrices(problem, plan).to_data for name, plan in plans.items()},
    }


def limited_covariance(data: Array, limit: str, size: float, seed: int = 0) -> Array:
    """(d, d) Λ̂ of a teacher that has learned Λ under a limit.

    ``limit``: ``exact``; ``biased``: Λ times ``size``; ``samples``: the second moments of ``size``
    independent samples of N(0, Λ); ``rank, rest 0``: all eigenvalues but the ``size`` largest at
    0, or, for ``rank, rest mean``, at their mean, which is probabilistic PCA (Tipping & Bishop
    1999).

    Raises:
        InputError: for a rank below 1 or above d.
    """
    if limit in ("exact", "biased"):
        return data * size
    values, vectors = np.linalg.eigh(data)
    if limit == "samples":
        unit = np.random.default_rng(seed).standard_normal((int(size), len(values)))
        samples = unit * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        return np.asarray(samples.T @ samples / len(samples))
    if not 0 < size <= len(values):
        raise InputError("rank", f"must be from 1 to {len(values)}", size)
    rest = values[: len(values) - int(size)]
    rest[:] = rest.mean() if limit == "rank, rest mean" and rest.size else 0.0
    return np.asarray((vectors * values) @ vectors.T)


def nearer_excesses(log_data_ratio: Array) -> tuple[Array, Array]:
    """The ends (low, high) between which a student's excess puts it nearer to the data.

    0 and ``log(2 exp(l) - 1)``, elementwise in l = log of the data's standard deviation over the
    teacher's. A teacher that spreads more than the data (l < 0, which only one that has learned
    another λ can do) is beaten by students that shrink; below ``l = -ln 2`` by all of these.
    """
    with np.errstate(divide="ignore"):
        other = np.log1p(np.maximum(2.0 * np.expm1(log_data_ratio), -1.0))
    return np.minimum(other, 0.0), np.maximum(other, 0.0)


def vanilla_overtaking_time(problem: Problem) -> Array:
    """(d,) times from which vanilla's student is nearer to the data: closed form.

    With ``a = 1/P(0, T-1) - 1 > 0`` its excess is ``log1p(a exp(-r x))``, below
    ``log(2 exp(l) - 1)`` for ``x > log(a / (2 (exp(l) - 1))) / r``; by gradient flow r = 2 n_T.
    As exp(l) - 1 falls as 1/T, the time grows as log(T) / r. Infinite for a <= 0, where vanilla
    shrinks and never overtakes; 0 where the untrained student is nearer already.
    """
    rates = -np.log(problem.retentions[-1])
    start = np.expm1(-problem.teacher.log_composite(0, problem.num_steps - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.log(start / (2.0 * np.expm1(problem.teacher.log_data_ratio))) / rates
    return np.where(start > 0, np.maximum(times, 0.0), np.inf)


def overtaking_times(problem: Problem, plan: Plan) -> dict[str, float | None]:
    """When a plan's student of the problem's only eigenvalue is nearer to the data.

    ``first`` and ``until`` bound the times of that, in multiples of the problem's training, the
    same in each merge; at ``perfect`` it first has the data's variance. None where there is none
    from 0.01 to 100. For λ <= 1 and operator copy the excess is positive and falls with time, so
    ``until`` is None.
    """
    ratio = problem.teacher.log_data_ratio
    low, high = nearer_excesses(ratio)

    def excess(time: float) -> Array:
        return evaluate(problem, plan, np.full(len(plan.merges), time)).excess

    scanned = np.concatenate([excess(time) for time in _SCAN])

    def changes(margin: Callable[[Array], Array]) -> list[float]:
        """Times at which a function of the excess changes sign."""
        values = margin(scanned)
        brackets = (_SCAN[n : n + 2] for n in np.flatnonzero(values[1:] * values[:-1] < 0))
        return [
            float(brentq(lambda time: float(margin(excess(time))[0]), *bracket, rtol=1e-12))
            for bracket in brackets
        ]

    inside = changes(lambda excess: np.minimum(excess - low, high - excess))
    if low < scanned[0] < high:
        inside = [float(_SCAN[0]), *inside]
    first, until, *_ = [*inside, None, None]
    perfect = next(iter(changes(lambda excess: excess - ratio)), None)
    return {"first": first, "until": until, "perfect": perfect}


_QUESTION = "When is a student nearer to the data than its teacher?"
STUDY = Study(__name__, _QUESTION, BetterThanTeacherSettings, run)
