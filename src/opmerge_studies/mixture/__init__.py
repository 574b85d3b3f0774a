"""Gaussian mixtures: what of the theory of one Gaussian is left when there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.training import DEFAULT_MERGE_TIME
from opmerge_studies.mixture.cells import (
    DIMENSIONS,
    REGIMES,
    best_plans,
    compare_dimensions,
    compare_distances,
    compare_signals,
    compare_strategies,
    measure_composites,
)
from opmerge_studies.shared.runner import Cell, Runner

__all__ = ["Config", "run"]

RULES = ("operator-copy", "denoiser-copy")

_MOST_STEPS = 8  # 4,279 trees
_FINER = 4  # nodes for the largest gain, which lies between two of them
_WIDTHS = (0.2, 5.0)  # common variance of both components where they move apart


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        num_steps: T where plans are compared by name and planned over intervals.
        exhaustive_steps: T where all plans are tried, at most 8.
        separations: the two components' means are ± these.
        student_steps: K of the strategies, ascending.
        exhaustive_students: all plans of 1 … this many trees are tried; at least 2.
        num_distances: separations at which BOOT and vanilla are compared.
        signals: alpha_T of one-step students' first state, ascending from 0.
        num_nodes: of the quadrature.
        num_samples: of the common random numbers in more dimensions.
        num_seeds: independent repetitions there.
        merge_time: s.

    Raises:
        InputError: naming the setting that is out of range.
    """

    num_steps: int = 16
    exhaustive_steps: int = 8
    separations: tuple[float, ...] = (0.0, 0.75, 1.5)
    student_steps: tuple[int, ...] = (1, 2, 4, 8)
    exhaustive_students: int = 3
    num_distances: int = 40
    signals: tuple[float, ...] = (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5)
    num_nodes: int = 513
    num_samples: int = 4096
    num_seeds: int = 12
    merge_time: float = DEFAULT_MERGE_TIME

    def __post_init__(self) -> None:
        for key, least in (
            ("num_steps", 4),
            ("exhaustive_steps", 3),
            ("exhaustive_students", 2),
            ("num_distances", 4),
            ("num_nodes", 65),
            ("num_samples", 64),
            ("num_seeds", 2),
        ):
            if check_count(key, getattr(self, key)) < least:
                raise InputError(key, f"must be >= {least}", getattr(self, key))
        if self.exhaustive_steps > _MOST_STEPS:
            raise InputError("exhaustive_steps", f"must be <= {_MOST_STEPS}", self.exhaustive_steps)
        if self.exhaustive_students > self.exhaustive_steps:
            raise InputError(
                "exhaustive_students", "must be <= exhaustive_steps", self.exhaustive_students
            )
        if not self.separations or min(self.separations) < 0:
            raise InputError("separations", "must be one or more, all >= 0", self.separations)
        if list(self.signals) != sorted(set(self.signals)) or self.signals[:1] != (0.0,):
            raise InputError("signals", "must ascend from 0", self.signals)
        if self.signals[-1] >= 1:
            raise InputError("signals", "must be < 1", self.signals)
        counts = self.student_steps
        if list(counts) != sorted(set(counts)) or not counts or counts[0] != 1:
            raise InputError("student_steps", "must ascend from 1", counts)
        if counts[-1] >= self.num_steps:
            raise InputError("student_steps", "must be < num_steps", counts)
        if check_number("merge_time", self.merge_time) <= 0:
            raise InputError("merge_time", "must be > 0", self.merge_time)

    @classmethod
    def quick(cls) -> Config:
        """Eight steps, all plans of six, two separations, 512 samples: seconds."""
        return cls(
            num_steps=8,
            exhaustive_steps=6,
            separations=(0.0, 1.5),
            student_steps=(1, 2, 4),
            exhaustive_students=3,
            num_distances=16,
            num_nodes=257,
            num_samples=512,
            num_seeds=6,
        )


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Compare plans of mixtures.

    Returns:
        ``tables``: ``best`` (best of all plans, planners and strategies), ``handovers`` (best
        error of two-step students by where they hand over), ``strategies`` (by student steps,
        with the approximation error alone), ``merges`` (floor and optimisation of each, for one
        and two student steps), ``distances`` (components moving apart), ``signals`` (last
        states that keep some), ``composites`` (growth and gain) and ``dimensions`` (with
        confidence intervals).
    """
    shared = {"merge_time": config.merge_time, "num_nodes": config.num_nodes}
    few = {**shared, "num_steps": config.exhaustive_steps}
    full = {**shared, "num_steps": config.num_steps}
    pairs = [
        {"regime": regime, "separation": separation}
        for separation in config.separations
        for regime in REGIMES
    ]
    by_rule = [{**pair, "merge_rule": rule} for pair in pairs for rule in RULES]
    counts = list(range(1, config.exhaustive_students + 1))
    planned = runner.sweep(
        best_plans,
        [{**few, **case, "student_steps": counts} for case in by_rule],
        "trying all plans",
    )
    named = runner.sweep(
        compare_strategies,
        [{**full, **case, "student_steps": list(config.student_steps)} for case in by_rule],
        "comparing strategies",
    )
    composites = runner.sweep(
        measure_composites,
        [{**full, **pair, "num_nodes": _FINER * config.num_nodes} for pair in pairs],
        "measuring composites",
    )
    apart = runner.sweep(
        compare_distances,
        [{**full, "variance": variance, "count": config.num_distances} for variance in _WIDTHS],
        "moving components apart",
    )
    signals = runner.sweep(
        compare_signals,
        [{**full, **pair, "signals": list(config.signals)} for pair in pairs],
        "keeping some signal",
    )
    sampled = runner.sweep(compare_dimensions, _samples(config), "sampling")
    return {
        "tables": {
            "best": [row for cell in planned for row in cell["best"]],
            "handovers": [row for cell in planned for row in cell["handovers"]],
            "strategies": [row for cell in named for row in cell["strategies"]],
            "merges": [row for cell in named for row in cell["merges"]],
            "composites": _joined(composites),
            "distances": _joined(apart),
            "signals": _joined(signals),
            "dimensions": _joined(sampled),
        }
    }


def _samples(config: Config) -> list[Cell]:
    """One cell a mixture and a number of student steps, so that all cells are of like size."""
    return [
        {
            "name": name,
            "num_steps": config.num_steps,
            "student_steps": [count],
            "merge_time": config.merge_time,
            "num_samples": config.num_samples,
            "seeds": list(range(config.num_seeds)),
        }
        for name in DIMENSIONS
        for count in config.student_steps
    ]


def _joined(cells: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for cell in cells for row in cell]
