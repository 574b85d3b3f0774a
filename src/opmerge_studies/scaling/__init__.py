"""Cost of the planners: time and memory over steps T and dimensions d, and fitted exponents."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numba import get_num_threads, set_num_threads
from scipy.special import stdtrit
from threadpoolctl import threadpool_limits

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.planners import PLANNERS
from opmerge.planners.interval import interval_memory
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge_studies.shared.runner import Cell, Runner

__all__ = ["Config", "fit_exponent", "measure", "natural_problem", "run"]

_WARM_UP = 5  # steps of the problem on which kernels are compiled
_FEW_DIMENSIONS = 4  # for planners whose cost explodes
_FEWEST_SIZES = 3  # that a fit with a standard error needs


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        steps: numbers of steps T of interval DP and the scalar planner, ascending.
        certified_steps: T of the certified planner.
        dimensions: numbers of distinct eigenvalues d of interval DP and certified planner.
        pareto_steps: T of the Pareto planner, with four eigenvalues.
        brute_force_steps: T of brute force, with four eigenvalues.
        base_steps: T while d changes.
        base_dimensions: d while T changes.
        repeats: runs of each, of which the median is told.

    Raises:
        InputError: naming the setting that is out of range.
    """

    steps: tuple[int, ...] = (64, 128, 256, 512)
    certified_steps: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    dimensions: tuple[int, ...] = (64, 128, 256, 512, 1024)
    pareto_steps: tuple[int, ...] = (8, 12, 16, 24)
    brute_force_steps: tuple[int, ...] = (4, 5, 6, 7, 8)
    base_steps: int = 128
    base_dimensions: int = 32
    repeats: int = 5

    def __post_init__(self) -> None:
        for key in (
            "steps",
            "certified_steps",
            "dimensions",
            "pareto_steps",
            "brute_force_steps",
        ):
            values = getattr(self, key)
            if list(values) != sorted(set(values)):
                raise InputError(key, "must ascend", values)
            if len(values) < _FEWEST_SIZES:
                raise InputError(key, f"must hold at least {_FEWEST_SIZES} sizes", values)
            if check_count(key, values[0]) < 2:
                raise InputError(key, "must be >= 2", values[0])
        for key in ("base_steps", "base_dimensions", "repeats"):
            check_count(key, getattr(self, key))

    @classmethod
    def quick(cls) -> Config:
        """Smaller sizes, three runs each: seconds."""
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


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Measure one after the other, for neighbours on other cores would be measured too.

    Returns:
        ``tables``: ``times`` (a row for each planner and size) and ``fits`` (exponents).
    """
    alone = replace(runner, num_workers=1, backend="loky")
    rows = alone.sweep(measure, _cells(config), "measuring planners")
    groups = groupby(rows, key=lambda row: (row["planner"], row["varied"]))
    return {"tables": {"times": rows, "fits": [_fit(list(group)) for _, group in groups]}}


def _cells(config: Config) -> list[Cell]:
    over_steps = {
        "interval": (config.steps, config.base_dimensions),
        "certified": (config.certified_steps, config.base_dimensions),
        "scalar": (config.steps, 1),
        "pareto": (config.pareto_steps, _FEW_DIMENSIONS),
        "brute-force": (config.brute_force_steps, _FEW_DIMENSIONS),
    }
    cells: list[Cell] = [
        {"planner": planner, "varied": "T", "num_steps": steps, "dimensions": dimensions}
        for planner, (sizes, dimensions) in over_steps.items()
        for steps in sizes
    ]
    cells += [
        {"planner": planner, "varied": "d", "num_steps": config.base_steps, "dimensions": size}
        for planner in ("interval", "certified")
        for size in config.dimensions
    ]
    return [{**cell, "repeats": config.repeats} for cell in cells]


def measure(
    planner: str, varied: str, num_steps: int, dimensions: int, repeats: int
) -> dict[str, Any]:
    """Processor time and memory of one planner at one size, on one thread.

    ``seconds`` is the median of the runs' processor times, after a run on a small problem that
    compiles the kernels. ``traced_bytes`` is the peak of what Python and NumPy allocate in one
    more run (tracemalloc); ``table_bytes`` is what interval DP says its tables take.
    """
    plan, problem = PLANNERS[planner], natural_problem(num_steps, dimensions)
    threads = get_num_threads()
    set_num_threads(1)
    with threadpool_limits(1):
        plan(natural_problem(_WARM_UP, min(dimensions, _FEW_DIMENSIONS)), 1)
        seconds = [_processor_time(planner, num_steps, dimensions) for _ in range(repeats)]
        tracemalloc.start()
        result = plan(problem, 1)
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    set_num_threads(threads)
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


def _processor_time(planner: str, num_steps: int, dimensions: int) -> float:
    """Seconds of one run on a new problem, for problems keep what they have computed."""
    problem = natural_problem(num_steps, dimensions)
    began = time.process_time()
    PLANNERS[planner](problem, 1)
    return time.process_time() - began


def natural_problem(num_steps: int, dimensions: int) -> Problem:
    """Eigenvalues that decay as those of images: a sixteenth from 100 to 2.5, the rest below 1.

    One eigenvalue stands at 1/2.
    """
    num_large = dimensions // 16
    small = np.geomspace(0.5, 1e-4, dimensions - num_large)
    values = np.concatenate([np.geomspace(100.0, 2.5, num_large), small])
    return Problem(eigenvalue_spectrum(values), cosine_schedule(num_steps))


def fit_exponent(
    sizes: Sequence[float], costs: Sequence[float]
) -> tuple[float, float, tuple[float, float]]:
    """Exponent p of cost = c size^p, its standard error and 95 % interval.

    Least squares in logarithms over n >= 3 sizes, Student's t with n - 2 degrees of freedom. It
    knows of scatter about a power law only, not of one that bends.
    """
    x, y = (np.log(values) - np.log(values).mean() for values in (sizes, costs))
    slope = float(x @ y / (x @ x))
    freedom = len(sizes) - 2
    error = float(np.linalg.norm(y - slope * x) / np.sqrt(freedom * (x @ x)))
    reach = float(stdtrit(freedom, 0.975) * error)
    return slope, error, (slope - reach, slope + reach)


def _fit(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of time and memory over the size that varies; the last step of it by itself."""
    key = "num_steps" if rows[0]["varied"] == "T" else "dimensions"
    sizes = [row[key] for row in rows]
    seconds, memory = ([row[name] for row in rows] for name in ("seconds", "traced_bytes"))
    exponent, error, (low, high) = fit_exponent(sizes, seconds)
    memory_exponent, memory_error, _ = fit_exponent(sizes, memory)
    return {
        "planner": rows[0]["planner"],
        "varied": rows[0]["varied"],
        "smallest": sizes[0],
        "largest": sizes[-1],
        "exponent": exponent,
        "standard_error": error,
        "low": low,
        "high": high,
        "last_exponent": float(np.log(seconds[-1] / seconds[-2]) / np.log(sizes[-1] / sizes[-2])),
        "memory_exponent": memory_exponent,
        "memory_error": memory_error,
    }
