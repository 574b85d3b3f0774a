"""When a student is nearer to the data than its teacher, optimal or under capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.planners.nearest import nearest_plan
from opmerge.planners.ranges import excess_ranges, separable_bound
from opmerge.plans import build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum, resolve_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.better_than_teacher.misfit import (
    MisfitProblem,
    rank_limited,
    sample_covariance,
)
from opmerge_studies.better_than_teacher.overtaking import (
    nearer_excesses,
    overtaking_times,
    vanilla_overtaking_time,
)
from opmerge_studies.shared.runner import Cell, Runner

__all__ = ["STRATEGIES", "Config", "compare_spectrum", "overtake", "run", "teach_misfit"]

STRATEGIES = ("vanilla", "progressive", "consistency", "boot")

_LOWEST, _HIGHEST = 0.01, 3.0  # λ; above λ* ≈ 2 no student overshoots
_NEAR_ONE = (1.0, 1.01, 1.03, 1.1)  # where vanilla ceases to overshoot
_GROWTH_STEPS = tuple(2**power for power in range(4, 13))
_GROWTH_EIGENVALUE = 0.2
_CHUNK = 10  # eigenvalues of a cell
_ROUNDING = 1e-12  # relative difference of distances that decides nothing

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: T of the optimal teachers, ascending.
        num_eigenvalues: λ from 0.01 to 3.
        times: s, ascending.
        sources: real spectra.
        misfit_source: data whose teachers are under capacity.
        misfit_steps: their T.
        ranks: eigenvalues that a rank-limited teacher knows.
        factors: by which a biased teacher's covariance is too large.
        sample_sizes: samples that a teacher's covariance is estimated from.
        num_seeds: draws of these samples.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: tuple[int, ...] = (16, 64, 256)
    num_eigenvalues: int = 30
    times: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.5, 6.4, 10.0)
    sources: tuple[str, ...] = ("digits", "patches")
    misfit_source: str = "digits"
    misfit_steps: int = 32
    ranks: tuple[int, ...] = (8, 16, 24, 32, 48)
    factors: tuple[float, ...] = (0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0)
    sample_sizes: tuple[int, ...] = (32, 64, 128, 256, 1024)
    num_seeds: int = 5

    def __post_init__(self) -> None:
        for key in ("steps", "times"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        for number in (*self.steps, self.misfit_steps):
            if check_count("steps", number) < 4:
                raise InputError("steps", "must be >= 4", number)
        for time in self.times:
            GradientFlow(time)
        if check_count("num_eigenvalues", self.num_eigenvalues) < 6:
            raise InputError("num_eigenvalues", "must be >= 6", self.num_eigenvalues)
        for key in ("ranks", "sample_sizes"):
            for number in getattr(self, key):
                check_count(key, number)
        check_count("num_seeds", self.num_seeds)
        for factor in self.factors:
            if not factor > 0:
                raise InputError("factors", "must be > 0", factor)

    @classmethod
    def quick(cls) -> Config:
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

    def eigenvalues(self) -> list[float]:
        """The λ of the map, ascending, with some about 1."""
        values = np.append(np.geomspace(_LOWEST, _HIGHEST, self.num_eigenvalues - 1), _NEAR_ONE)
        return [float(value) for value in np.unique(values.round(6))]

    def teachers(self) -> list[dict[str, Any]]:
        """The teachers under capacity: what limits them, how far, and the seed of a draw."""
        limits = [
            *(("exact", 1.0),),
            *(("rank, rest 0", rank) for rank in self.ranks),
            *(("rank, rest mean", rank) for rank in self.ranks),
            *(("biased", factor) for factor in self.factors),
        ]
        drawn = [
            {"limit": "samples", "size": size, "seed": seed}
            for size in self.sample_sizes
            for seed in range(self.num_seeds)
        ]
        return [*({"limit": limit, "size": size, "seed": 0} for limit, size in limits), *drawn]


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """The map of one eigenvalue, real spectra, and teachers under capacity.

    Returns:
        ``tables``: ``times`` (when each strategy overtakes, by λ, T and rule), ``points`` (W2 to
        the data by λ, T and s, of strategies and of the best plan), ``spectra`` and ``misfits``
        (W2 to the data, by s) and ``growth`` (the closed form of vanilla, by T).
    """
    values = config.eigenvalues()
    chunks: list[Cell] = [
        {
            "eigenvalues": values[first : first + _CHUNK],
            "num_steps": num_steps,
            "merge_rule": rule,
            "times": list(config.times),
        }
        for rule, steps in (("operator-copy", config.steps), ("denoiser-copy", config.steps[:1]))
        for num_steps in steps
        for first in range(0, len(values), _CHUNK)
    ]
    mapped = runner.sweep(overtake, chunks, "mapping λ, s and T")
    spectra = [
        {"source": source, "num_steps": num_steps, "times": list(config.times)}
        for source in config.sources
        for num_steps in config.steps
    ]
    compared = runner.sweep(compare_spectrum, spectra, "real spectra")
    misfits: list[Cell] = [
        {
            "source": config.misfit_source,
            "num_steps": config.misfit_steps,
            "times": list(config.times),
            "merge_rule": rule,
            **teacher,
        }
        for rule in ("operator-copy", "denoiser-copy")
        for teacher in config.teachers()
    ]
    taught = runner.sweep(teach_misfit, misfits, "teachers under capacity")
    return {
        "tables": {
            "times": [row for cell in mapped for row in cell["times"]],
            "points": [row for cell in mapped for row in cell["points"]],
            "spectra": [row for rows in compared for row in rows],
            "misfits": [row for rows in taught for row in rows],
            "growth": [grow(num_steps) for num_steps in _GROWTH_STEPS],
        }
    }


def overtake(
    eigenvalues: Sequence[float], num_steps: int, merge_rule: MergeRule, times: Sequence[float]
) -> dict[str, list[dict[str, Any]]]:
    """When each strategy overtakes the teacher, and W2 to the data at some s."""
    schedule, training = cosine_schedule(num_steps), GradientFlow(1.0)
    together = Problem(eigenvalue_spectrum(eigenvalues), schedule, training, merge_rule, "data")
    when = {
        name: overtaking_times(together, build_strategy(name, num_steps)) for name in STRATEGIES
    }
    found: dict[str, list[dict[str, Any]]] = {"times": [], "points": []}
    for column, eigenvalue in enumerate(together.eigenvalues.tolist()):
        where = {"merge_rule": merge_rule, "num_steps": num_steps, "eigenvalue": eigenvalue}
        alone = replace(together, spectrum=eigenvalue_spectrum([eigenvalue]))
        found["times"] += [
            {**where, "strategy": name, **asdict(when[name][column])} for name in STRATEGIES
        ]
        found["points"] += [
            {**where, "time": time, **_compare(replace(alone, training=GradientFlow(time)))}
            for time in times
        ]
    return found


def grow(num_steps: int) -> dict[str, Any]:
    """From when vanilla overtakes, in closed form."""
    spectrum = eigenvalue_spectrum([_GROWTH_EIGENVALUE])
    problem = Problem(spectrum, cosine_schedule(num_steps), GradientFlow(1.0))
    first = float(vanilla_overtaking_time(problem)[0])
    return {"num_steps": num_steps, "eigenvalue": _GROWTH_EIGENVALUE, "first": first}


def _compare(problem: Problem) -> dict[str, Any]:
    """W2 to the data of the teacher, the strategies and the best plan; whether the rule holds."""
    low, high = (float(end[0]) for end in nearer_excesses(problem.teacher.log_data_ratio))
    row: dict[str, Any] = {"teacher": problem.teacher_to_data}
    disagree = 0
    for name in STRATEGIES:
        outcome = evaluate(problem, build_strategy(name, problem.num_steps))
        row[name] = outcome.w2
        is_nearer = low < float(outcome.excess[0]) < high
        if abs(outcome.w2 / row["teacher"] - 1) > _ROUNDING:
            disagree += is_nearer != (outcome.w2 < row["teacher"])
    bound, nearest = _best(problem)
    row["best"] = min(nearest, *(row[name] for name in STRATEGIES))
    row["lower_bound"] = min(bound, row["best"])
    row["disagree"] = disagree
    return row


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


def compare_spectrum(source: str, num_steps: int, times: Sequence[float]) -> list[dict[str, Any]]:
    """W2 to the data by s: teacher, strategies, the best plan found and its bound."""
    names = (*STRATEGIES, *(f"hybrid:{n}" for n in (2, 4, 8, 16, 32) if n < num_steps))
    spectrum, schedule = resolve_spectrum(source), cosine_schedule(num_steps)
    rows = []
    for time in times:
        problem = Problem(spectrum, schedule, GradientFlow(time), objective="data")
        found = find_plan(problem)
        errors = {name: evaluate(problem, build_strategy(name, num_steps)).w2 for name in names}
        best = min(found.w2, *errors.values())
        rows.append(
            {
                "source": source,
                "num_steps": num_steps,
                "time": time,
                "teacher": problem.teacher_to_data,
                **{name: errors[name] for name in STRATEGIES},
                "hybrid": min(errors[name] for name in names if name.startswith("hybrid")),
                "best": best,
                "lower_bound": min(found.lower_bound, best),
            }
        )
    return rows


def teach_misfit(
    source: str,
    num_steps: int,
    times: Sequence[float],
    merge_rule: MergeRule,
    limit: str,
    size: float,
    seed: int,
) -> list[dict[str, Any]]:
    """W2 to the data of a limited teacher and of its students, by s; dense matrices throughout."""
    spectrum = resolve_spectrum(source)
    data = np.diag(np.repeat(spectrum.eigenvalues, spectrum.multiplicities.astype(int)))
    taught = limited_covariance(data, limit, size, seed)
    rows = []
    for time in times:
        problem = MisfitProblem(
            data, taught, cosine_schedule(num_steps), GradientFlow(time), merge_rule
        )
        errors = {
            name: problem.student_to_data(build_strategy(name, num_steps)) for name in STRATEGIES
        }
        rows.append(
            {
                "merge_rule": merge_rule,
                "limit": limit,
                "size": size,
                "seed": seed,
                "time": time,
                "teacher": problem.teacher_to_data,
                **errors,
            }
        )
    return rows


def limited_covariance(data: Array, limit: str, size: float, seed: int) -> Array:
    """What a teacher under capacity takes the covariance to be.

    Raises:
        InputError: for an unknown limit.
    """
    if limit == "exact":
        return data
    if limit == "biased":
        return data * size
    if limit == "samples":
        return sample_covariance(data, int(size), seed)
    if limit in ("rank, rest 0", "rank, rest mean"):
        return rank_limited(data, int(size), keep_trace=limit.endswith("mean"))
    raise InputError("limit", "must be exact, biased, samples or a rank", limit)
