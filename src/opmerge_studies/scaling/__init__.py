"""Cost of the planners: time and memory over steps T and dimensions d, and fitted exponents."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, ValidationInfo
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from opmerge.errors import InputError
from opmerge.planners import PLANNERS
from opmerge.planners.interval import interval_memory
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import AtLeastTwo, Count, Ordered
from opmerge.spectra import eigenvalue_spectrum
from opmerge_studies.shared import Runner, Study
from opmerge_studies.shared.strategies import PAPER_RULE

_WARM_UP = 5  # steps of the problem on which kernels are compiled
_FEW_DIMENSIONS = 4  # for planners whose cost explodes
_FEWEST_SIZES = 3  # that a fit with a standard error needs


def _enough(values: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
    if len(values) < _FEWEST_SIZES:
        requirement = f"must hold at least {_FEWEST_SIZES} sizes"
        raise InputError(str(info.field_name), requirement, repr(values))
    return values


_Sizes = Annotated[tuple[AtLeastTwo, ...], Ordered, AfterValidator(_enough)]


class ScalingSettings(Settings):
    steps: _Sizes = option((64, 128, 256, 512), "T of interval DP and scalar planner")
    certified_steps: _Sizes = option((128, 256, 512, 1024, 2048), "T of the certified planner")
    dimensions: _Sizes = option(
        (64, 128, 256, 512, 1024), "distinct eigenvalues d of interval DP and certified planner"
    )
    pareto_steps: _Sizes = option((8, 12, 16, 24), "T of the Pareto planner, d = 4")
    brute_force_steps: _Sizes = option((4, 5, 6, 7, 8), "T of brute force, d = 4")
    base_steps: Count = option(128, "T while d changes")
    base_dimensions: Count = option(32, "d while T changes")
    repeats: Count = option(5, "runs of each, of which the median is told")

    @classmethod
    def quick(cls) -> Self:
        return cls(
            steps=(48, 96, 192),
            certified_steps=(128, 256, 512),
            dimensions=(64, 128, 256),
            pareto_steps=(8, 11, 14),
            brute_force_steps=(5, 6, 7),
            base_steps=64,
            base_dimensions=16,
            repeats=3,
        )


def run(settings: ScalingSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``times`` (a row for each planner and size) and ``fits`` (exponents)."""
    few, base_steps, base = _FEW_DIMENSIONS, settings.base_steps, settings.base_dimensions
    sizes = [
        *(("interval", "T", steps, base) for steps in settings.steps),
        *(("certified", "T", steps, base) for steps in settings.certified_steps),
        *(("scalar", "T", steps, 1) for steps in settings.steps),
        *(("pareto", "T", steps, few) for steps in settings.pareto_steps),
        *(("brute-force", "T", steps, few) for steps in settings.brute_force_steps),
        *(("interval", "d", base_steps, size) for size in settings.dimensions),
        *(("certified", "d", base_steps, size) for size in settings.dimensions),
    ]
    keys = ("planner", "varied", "num_steps", "dimensions", "repeats")
    cells = [dict(zip(keys, (*size, settings.repeats), strict=True)) for size in sizes]
    # one after the other, for neighbours on other cores would be measured too
    alone = replace(runner, num_workers=1, backend="loky")
    rows = alone.sweep(measure, cells, "measuring planners")
    groups = groupby(rows, key=lambda row: (row["planner"], row["varied"]))
    return {"tables": {"times": rows, "fits": [_fit(list(group)) for _, group in groups]}}


def measure(
    planner: str, varied: str, num_steps: int, dimensions: int, repeats: int
) -> dict[str, Any]:
    """Processor time and memory of one planner at one size, on one thread.

    ``seconds`` is the median of the runs' processor times, after a run on a small problem that
    compiles the kernels. ``traced_bytes`` is the peak of what Python and NumPy allocate in one
    more run (tracemalloc); ``table_bytes`` is what interval DP says its tables take.
    """
    from opmerge.compiling import numba

    plan, problem = PLANNERS[planner], natural_problem(num_steps, dimensions)
    threads, seconds = numba.get_num_threads(), list[float]()
    numba.set_num_threads(1)
    with threadpool_limits(1):
        plan(natural_problem(_WARM_UP, min(dimensions, _FEW_DIMENSIONS)), 1)
        for _ in range(repeats):
            fresh = natural_problem(num_steps, dimensions)  # problems keep what they have computed
            began = time.process_time()
            plan(fresh, 1)
            seconds.append(time.process_time() - began)
        tracemalloc.start()
        result = plan(problem, 1)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    numba.set_num_threads(threads)
    return {
        "planner": planner,
        "varied": varied,
        "num_steps": num_steps,
        "dimensions": dimensions,
        "seconds": float(np.median(seconds)),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "traced_bytes": traced,
        "table_bytes": interval_memory(problem) if planner == "interval" else None,
        "gap": result.gap,
    }


def natural_problem(num_steps: int, dimensions: int) -> Problem:
    """Eigenvalues that decay as those of images: a sixteenth from 100 to 2.5, the rest below 1.

    One eigenvalue stands at 1/2.
    """
    num_large = dimensions // 16
    small = np.geomspace(0.5, 1e-4, dimensions - num_large)
    values = np.concatenate([np.geomspace(100.0, 2.5, num_large), small])
    return Problem(eigenvalue_spectrum(values), cosine_schedule(num_steps), merge_rule=PAPER_RULE)


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, float]:
    """``exponent`` p of cost = c size^p, ``standard_error`` and 95 % interval, ``low`` to ``high``.

    Least squares in logarithms over n >= 3 sizes, Student's t with n - 2 degrees of freedom. It
    knows of scatter about a power law only, not of one that bends.
    """
    (slope, _), covariance = np.polyfit(np.log(sizes), np.log(costs), 1, cov=True)
    error = float(np.sqrt(covariance[0, 0]))
    reach = float(stdtrit(len(sizes) - 2, 0.975)) * error
    low, high = float(slope) - reach, float(slope) + reach
    return {"exponent": float(slope), "standard_error": error, "low": low, "high": high}


def _fit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of time and memory over the size that varies; the last step of it by itself."""
    key = "num_steps" if rows[0]["varied"] == "T" else "dimensions"
    columns = (key, "seconds", "traced_bytes")
    sizes, seconds, memory = ([row[name] for row in rows] for name in columns)
    memory_fit = fit_exponent(sizes, memory)
    return {
        "planner": rows[0]["planner"],
        "varied": rows[0]["varied"],
        "smallest": sizes[0],
        "largest": sizes[-1],
        **fit_exponent(sizes, seconds),
        "last_exponent": float(np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2])),
        "memory_exponent": memory_fit["exponent"],
        "memory_error": memory_fit["standard_error"],
    }


_QUESTION = "What does each planner cost in steps T and dimensions d?"
STUDY = Study(__name__, _QUESTION, ScalingSettings, run)
