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
from typing import Annotated, Any, NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import brentq

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
from opmerge.spectra import eigenvalue_spectrum, resolve_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.matrices import MatrixOutcome, MatrixProblem, evaluate_matrices
from opmerge_studies.shared.strategies import CANONICAL, scalar_problem, strategy_errors

__all__ = ["STUDY", "BetterThanTeacherSettings", "limited_covariance", "run"]

_LOWEST, _HIGHEST = 0.01, 3.0  # λ; above λ* ≈ 2 no student overshoots
_NEAR_ONE = (1.0, 1.01, 1.03, 1.1)  # where vanilla ceases to overshoot
_GROWTH_STEPS = tuple(2**power for power in range(4, 13))
_GROWTH_EIGENVALUE = 0.2
_CHUNK = 10  # eigenvalues of a cell
_ROUNDING = 1e-12  # relative difference of distances that decides nothing
_SCAN = np.geomspace(1e-2, 1e2, 60)  # times between which a change is bracketed

Array = NDArray[np.float64]
Row = dict[str, Any]


class BetterThanTeacherSettings(Settings):
    """Settings of the study."""

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
        (0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0),
        "by which a biased teacher's covariance is too large",
    )
    sample_sizes: tuple[Count, ...] = option(
        (32, 64, 128, 256, 1024), "samples that a teacher's covariance is estimated from"
    )
    num_seeds: Count = option(5, "draws of these samples")

    @classmethod
    def quick(cls) -> Self:
        """T = 16 and 64, digits, fewer teachers: seconds."""
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
    """The map of one eigenvalue, real spectra, and teachers under capacity.

    Returns:
        ``tables``: ``times`` (when each strategy overtakes, by λ, T and rule), ``points`` (W2 to
        the data by λ, T and s, of strategies and of the best plan), ``spectra`` and ``misfits``
        (W2 to the data, by s) and ``growth`` (the closed form of vanilla, by T).
    """
    times, rules = list(settings.times), get_args(MergeRule)
    values = np.append(np.geomspace(_LOWEST, _HIGHEST, settings.num_eigenvalues - 1), _NEAR_ONE)
    values = np.unique(values.round(6))
    limits: dict[str, Sequence[float]] = {
        "exact": (1.0,),
        "rank, rest 0": settings.ranks,
        "rank, rest mean": settings.ranks,
        "biased": settings.factors,
        "samples": settings.sample_sizes,
    }
    teachers = [
        {"limit": limit, "size": size, "seed": seed}
        for limit, sizes in limits.items()
        for size in sizes
        for seed in range(settings.num_seeds if limit == "samples" else 1)
    ]
    chunks = [
        {"eigenvalues": part.tolist(), "num_steps": steps, "merge_rule": rule, "times": times}
        for rule, each in zip(rules, (settings.steps, settings.steps[:1]), strict=True)
        for steps in each
        for part in np.split(values, range(_CHUNK, len(values), _CHUNK))
    ]
    source, steps = settings.misfit_source, settings.misfit_steps
    taught = {"source": source, "num_steps": steps, "times": times}
    misfits = [{**taught, "merge_rule": rule, **each} for rule in rules for each in teachers]
    spectra = grid(source=settings.sources, num_steps=settings.steps, times=[times])
    mapped = runner.sweep(overtake, chunks, "mapping λ, s and T")
    return {
        "tables": {
            **{key: [row for each in mapped for row in each[key]] for key in ("times", "points")},
            "spectra": runner.rows(compare_spectrum, spectra, "real spectra"),
            "misfits": runner.rows(teach_misfit, misfits, "teachers under capacity"),
            "growth": [grow(num_steps) for num_steps in _GROWTH_STEPS],
        }
    }


def overtake(
    eigenvalues: Sequence[float], num_steps: int, merge_rule: MergeRule, times: Sequence[float]
) -> dict[str, list[Row]]:
    """When each strategy overtakes the teacher, and W2 to the data at some s."""
    schedule, spectrum = cosine_schedule(num_steps), eigenvalue_spectrum(eigenvalues)
    problem = Problem(spectrum, schedule, GradientFlow(1.0), merge_rule, "data")
    heads: list[Row] = [
        {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": value}
        for value in problem.eigenvalues.tolist()
    ]
    plans = {name: build_strategy(name, num_steps) for name in CANONICAL}
    when = {name: overtaking_times(problem, plan) for name, plan in plans.items()}
    rows = [
        {**head, "strategy": name, **when[name][column]._asdict()}
        for column, head in enumerate(heads)
        for name in CANONICAL
    ]
    return {"times": rows, "points": [_point(head, time) for head in heads for time in times]}


def grow(num_steps: int) -> Row:
    """The time from which vanilla overtakes, in closed form."""
    problem = scalar_problem(_GROWTH_EIGENVALUE, num_steps, 1.0)
    first = float(vanilla_overtaking_time(problem)[0])
    return {"num_steps": num_steps, "eigenvalue": _GROWTH_EIGENVALUE, "first": first}


def _point(head: Row, time: float) -> Row:
    """W2 to the data of teacher, strategies and best plan; how often the condition is wrong."""
    rule, steps = head["merge_rule"], head["num_steps"]
    problem = scalar_problem(head["eigenvalue"], steps, time, rule, "data")
    low, high = nearer_excesses(problem.teacher.log_data_ratio)
    teacher = problem.teacher_to_data
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
    return {**head, "time": time, "teacher": teacher, **errors, **bounds}


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


def compare_spectrum(source: str, num_steps: int, times: Sequence[float]) -> list[Row]:
    """W2 to the data by s: teacher, strategies, the best plan found and its bound."""
    hybrids = [f"hybrid:{last}" for last in (2, 4, 8, 16, 32) if last < num_steps]
    spectrum, schedule, rows = resolve_spectrum(source), cosine_schedule(num_steps), []
    for time in times:
        problem = Problem(spectrum, schedule, GradientFlow(time), objective="data")
        planned, errors = find_plan(problem), strategy_errors(problem)
        hybrid = min(strategy_errors(problem, hybrids).values())
        best = min(planned.w2, hybrid, *errors.values())
        head: Row = {"source": source, "num_steps": num_steps, "time": time}
        bound = min(planned.lower_bound, best)
        distances = {"teacher": problem.teacher_to_data, **errors, "hybrid": hybrid}
        rows.append({**head, **distances, "best": best, "lower_bound": bound})
    return rows


def teach_misfit(
    source: str,
    num_steps: int,
    times: Sequence[float],
    merge_rule: MergeRule,
    limit: str,
    size: float,
    seed: int,
) -> list[Row]:
    """W2 to the data of a limited teacher and of its students, by s; dense matrices throughout."""
    spectrum = resolve_spectrum(source)
    data = np.diag(np.repeat(spectrum.eigenvalues, spectrum.multiplicities.astype(int)))
    learned, noise = limited_covariance(data, limit, size, seed), np.eye(len(data))
    head: Row = {"merge_rule": merge_rule, "limit": limit, "size": size, "seed": seed}
    plans, rows = {name: build_strategy(name, num_steps) for name in CANONICAL}, []
    for time in times:
        problem = MatrixProblem(
            data, noise, cosine_schedule(num_steps), GradientFlow(time), merge_rule, learned
        )
        teacher = MatrixOutcome(problem, np.zeros_like(data)).to_data
        errors = {n: evaluate_matrices(problem, plan).to_data for n, plan in plans.items()}
        rows.append({**head, "time": time, "teacher": teacher, **errors})
    return rows


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
    limited: Array = (vectors * values) @ vectors.T
    return limited


class OvertakingTimes(NamedTuple):
    """Optimisation times, in multiples of the problem's training; None where there is none.

    From ``first`` on the student is nearer to the data than its teacher, ``until`` it ceases to
    be; at ``perfect`` it first has the data's variance.
    """

    first: float | None
    until: float | None
    perfect: float | None


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


def overtaking_times(problem: Problem, plan: Plan) -> list[OvertakingTimes]:
    """When a plan's student of each eigenvalue alone is nearer to the data, by column.

    It is trained equally long in each merge. Changes are searched for among multiples from 0.01
    to 100 of the problem's training. For λ <= 1 and operator copy the excess is positive and
    falls with time, so there is one at most.
    """
    scanned = np.array([_excess(problem, plan, time) for time in _SCAN])
    return [
        _overtaking(replace(problem, spectrum=eigenvalue_spectrum([value])), plan, column)
        for value, column in zip(problem.eigenvalues, scanned.T, strict=True)
    ]


def _overtaking(problem: Problem, plan: Plan, scanned: Array) -> OvertakingTimes:
    """The overtaking of one eigenvalue, from its excess at the scanned times."""
    ratio = problem.teacher.log_data_ratio
    low, high = nearer_excesses(ratio)

    def changes(margin: Callable[[Array], Array]) -> list[float]:
        """Times at which a function of the excess changes sign."""

        def at(time: float) -> float:
            return float(margin(_excess(problem, plan, time))[0])

        values = margin(scanned)
        brackets = (_SCAN[n : n + 2] for n in np.flatnonzero(values[1:] * values[:-1] < 0))
        return [float(brentq(at, *bracket, rtol=1e-12)) for bracket in brackets]

    inside = changes(lambda excess: np.minimum(excess - low, high - excess))
    if low < scanned[0] < high:
        inside = [float(_SCAN[0]), *inside]
    first, until, *_ = [*inside, None, None]
    return OvertakingTimes(first, until, next(iter(changes(lambda excess: excess - ratio)), None))


def _excess(problem: Problem, plan: Plan, time: float) -> Array:
    return evaluate(problem, plan, np.full(len(plan.merges), time)).excess


_QUESTION = "When is a student nearer to the data than its teacher?"
STUDY = Study(__name__, _QUESTION, BetterThanTeacherSettings, run)
