"""Noise that does not commute with the data, and data that are not Gaussian."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy.optimize import brentq

from opmerge.checks import check_count, check_number
from opmerge.errors import InputError
from opmerge.planners import find_plan
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.problem import MergeRule, Problem
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.correlated_noise.batch_noise import LAWS, batch_training
from opmerge_studies.correlated_noise.matrices import MatrixProblem, evaluate_matrices
from opmerge_studies.correlated_noise.noise_families import (
    NOISE_RATIO,
    PLANE,
    digits_problem,
    drawn_problem,
    plane_problem,
    rotated_problem,
    scalar_theories,
)
from opmerge_studies.correlated_noise.planning import matrix_comb_plan
from opmerge_studies.shared.runner import Cell, Runner

__all__ = ["Config", "run"]

_SCANNED = np.geomspace(0.2, 3.0, 16)  # λ between which a crossing is bracketed
_ROUNDING = 1e-9
_HALF_TIMES = (1.0, 3.0, 6.4, 10.0)
_DRAWN_TIMES = (0.3, 1.0, 6.4)
_DRAWN_STEPS = 4
_LARGEST_ROTATION = 45.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        num_steps: T of the comparisons of strategies.
        oracle_steps: each T at which every plan is tried, ascending.
        angles: between the eigenbases of data and noise, in degrees, ascending from 0 to 90.
        num_dimensions: d of the random rotations.
        num_rotations: random rotations for each angle.
        correlations: of neighbouring pixels in the noise on digits.
        num_draws: random pairs of covariances for each setting.
        num_replicates: trainings on minibatches of each law.
        merge_time: s.

    Raises:
        InputError: naming the setting that is out of range.
    """

    num_steps: int = 32
    oracle_steps: tuple[int, ...] = (4, 5, 6)
    angles: tuple[float, ...] = (0, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90)
    num_dimensions: int = 16
    num_rotations: int = 20
    correlations: tuple[float, ...] = (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
    num_draws: int = 1000
    num_replicates: int = 4000
    merge_time: float = DEFAULT_MERGE_TIME

    def __post_init__(self) -> None:
        for key in ("num_steps", "num_dimensions"):
            if check_count(key, getattr(self, key)) < 2:
                raise InputError(key, "must be >= 2", getattr(self, key))
        for key in ("num_rotations", "num_draws"):
            check_count(key, getattr(self, key))
        if check_count("num_replicates", self.num_replicates) < 2:
            raise InputError("num_replicates", "must be >= 2", self.num_replicates)
        steps = [check_count("oracle_steps", value) for value in self.oracle_steps]
        if not steps or steps != sorted(set(steps)) or not 2 <= steps[0] <= steps[-1] <= MAX_STEPS:
            raise InputError("oracle_steps", f"must ascend from 2 to {MAX_STEPS} at most", steps)
        for key, most in (("angles", 90.0), ("correlations", 0.95)):
            values = [check_number(key, value) for value in getattr(self, key)]
            if not values or values != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
            if values[0] != 0 or values[-1] > most:
                raise InputError(key, f"must begin at 0 and stay <= {most:g}", values)
        if check_number("merge_time", self.merge_time) <= 0:
            raise InputError("merge_time", "must be > 0", self.merge_time)

    @classmethod
    def quick(cls) -> Config:
        """Fewer angles, draws and replicates: seconds."""
        return cls(
            num_steps=16,
            oracle_steps=(4, 5),
            angles=(0, 5, 15, 45, 90),
            num_dimensions=8,
            num_rotations=3,
            correlations=(0.0, 0.2, 0.5),
            num_draws=50,
            num_replicates=200,
        )


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Compare the theories of one scalar per direction with the matrices themselves.

    Returns:
        ``tables``: ``plane`` (strategies in two dimensions, by angle), ``oracle`` (every plan),
        ``crossings`` (of BOOT and vanilla), ``half_angles``, ``rotations``, ``digits``, ``draws``
        (whether the optima of the scalar theory stay optimal), ``merges`` and ``plans`` (training
        on samples of several laws).
    """
    times = {"num_steps": config.num_steps, "merge_time": config.merge_time}
    turned = [{"case": case, "angle": angle} for case in PLANE for angle in config.angles]
    tried = [{**times, **cell, "num_steps": few} for few in config.oracle_steps for cell in turned]
    halved = [{**times, "case": case, "merge_time": s} for case in PLANE for s in _HALF_TIMES]
    shapes = [
        {**times, "num_dimensions": config.num_dimensions, "seed": seed, "angle": angle}
        for angle in config.angles
        if angle <= _LARGEST_ROTATION
        for seed in range(config.num_rotations)
    ]
    smooth = [{**times, "correlation": correlation} for correlation in config.correlations]
    drawn: list[Cell] = [
        {"case": case, "merge_rule": rule, "merge_time": s, "num_draws": config.num_draws}
        for rule in get_args(MergeRule)
        for case in ("below", "above")
        for s in _DRAWN_TIMES
    ]
    laws = [
        {"law": law, "num_replicates": config.num_replicates, "seed": seed}
        for seed, law in enumerate(LAWS)
    ]
    angles = [{**times, "angle": angle} for angle in config.angles]
    trained = runner.sweep(batch_training, laws, "training on samples")
    plane = runner.sweep(plane_strategies, [{**times, **cell} for cell in turned], "turning noise")
    rotations = runner.sweep(rotated_noise, shapes, "turning noise at random")
    tables = {
        "plane": _flat(plane),
        "oracle": runner.sweep(plane_oracle, tried, "trying every plan"),
        "crossings": runner.sweep(plane_crossing, angles, "finding crossings"),
        "half_angles": runner.sweep(half_angle, halved, "finding angles"),
        "rotations": _flat(rotations),
        "digits": _flat(runner.sweep(digits_noise, smooth, "smoothing noise")),
        "draws": runner.sweep(draw_optima, drawn, "drawing covariances"),
        "merges": _flat([result["merges"] for result in trained]),
        "plans": _flat([result["plans"] for result in trained]),
    }
    return {"tables": tables}


def plane_strategies(case: str, angle: float, num_steps: int, merge_time: float) -> list[Row]:
    """Strategies in the plane at one angle, and what scalar theories say of them."""
    problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
    head = {"case": case, "angle": angle}
    return [{**head, **row} for row in _compared(problem, _strategies(num_steps))]


def plane_oracle(case: str, angle: float, num_steps: int, merge_time: float) -> Row:
    """Every plan in the plane: the best, and how much worse those are that theories choose."""
    problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
    plans = list(all_plans(num_steps))
    errors = np.array([evaluate_matrices(problem, plan).w2 for plan in plans])
    best = int(np.argmin(errors))
    row: Row = {
        "case": case,
        "angle": angle,
        "num_steps": num_steps,
        "num_plans": len(plans),
        "best": float(errors[best]),
        "plan": str(plans[best].to_nested()[0]),
    }
    for name, theory in scalar_theories(problem).items():
        believed = np.array([evaluate_matrices(theory, plan).w2 for plan in plans])
        row[name] = float(errors[int(np.argmin(believed))] / errors[best] - 1)
    comb = evaluate_matrices(problem, matrix_comb_plan(problem).plan).w2
    named = min(evaluate_matrices(problem, plan).w2 for plan in _strategies(num_steps).values())
    return {**row, "comb": comb / row["best"] - 1, "named": named / row["best"] - 1}


def plane_crossing(angle: float, num_steps: int, merge_time: float) -> Row:
    """The λ at which BOOT and vanilla err equally, for data λ Diag(√2, 1/√2)."""
    plans = [build_strategy(name, num_steps) for name in ("boot", "vanilla")]

    def problem(scale: float) -> MatrixProblem:
        variances = (scale * 2**0.5, scale * 0.5**0.5)
        return plane_problem(variances, angle, num_steps, merge_time)

    def crossing(theory: str) -> float | None:
        def difference(scale: float) -> float:
            judged = {"exact": problem(scale), **scalar_theories(problem(scale))}[theory]
            boot, vanilla = (evaluate_matrices(judged, plan).w2 for plan in plans)
            return float(np.log(boot / vanilla))

        values = [difference(float(scale)) for scale in _SCANNED]
        for left, right, low, high in zip(values, values[1:], _SCANNED, _SCANNED[1:], strict=False):
            if left < 0 < right:
                return float(brentq(difference, low, high, xtol=1e-6))
        return None

    names = ("exact", "generalised", "data_basis", "isotropic")
    return {"angle": angle, **{name: crossing(name) for name in names}}


def half_angle(case: str, num_steps: int, merge_time: float) -> Row:
    """The angle in degrees at which theory in the data's basis sees half of BOOT's error.

    It takes the least noisy direction to have the variance ς + Δς sin²θ instead of ς, so its error
    is too small by exp(2 s Δς sin²θ) until another direction takes over.
    """
    plan = build_strategy("boot", num_steps)

    def excess(angle: float) -> float:
        problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
        believed = evaluate_matrices(problem.in_data_basis(), plan).w2
        return believed / evaluate_matrices(problem, plan).w2 - 0.5

    difference = NOISE_RATIO - 1 / NOISE_RATIO
    rule = np.sqrt(np.log(2.0) / (2.0 * merge_time * difference))
    crosses = excess(45.0) < 0
    return {
        "case": case,
        "merge_time": merge_time,
        "angle": float(brentq(excess, 0.0, 45.0, xtol=1e-6)) if crosses else None,
        "rule": float(np.degrees(np.arcsin(min(rule, 1.0)))),
    }


def rotated_noise(
    num_dimensions: int, seed: int, angle: float, num_steps: int, merge_time: float
) -> list[Row]:
    """Strategies and chosen plans where the noise's eigenbasis is turned at random."""
    problem = rotated_problem(num_dimensions, angle, num_steps, merge_time, seed)
    head = {"seed": seed, "angle": angle}
    return [{**head, **row} for row in _compared(problem, _with_chosen(problem, merge_time))]


def digits_noise(correlation: float, num_steps: int, merge_time: float) -> list[Row]:
    """Strategies and chosen plans for digits under noise that neighbouring pixels share."""
    problem = digits_problem(correlation, num_steps, merge_time)
    head = {"correlation": correlation}
    return [{**head, **row} for row in _compared(problem, _with_chosen(problem, merge_time))]


def draw_optima(case: str, merge_rule: MergeRule, merge_time: float, num_draws: int) -> Row:
    """How often another plan beats the scalar theory's optimum, among every plan for T = 4.

    Where data and noise commute BOOT is best if all μ <= 1, and vanilla if all μ >= λ* (THEORY
    7.2, 7.3); under denoiser copy BOOT was wherever it was tried (THEORY 7.9).
    """
    plans = list(all_plans(_DRAWN_STEPS))
    optimum = "vanilla" if (case, merge_rule) == ("above", "operator-copy") else "boot"
    own = plans.index(build_strategy(optimum, _DRAWN_STEPS))
    ratios = np.empty((num_draws, 2))
    for seed in range(num_draws):
        problem = drawn_problem(case, _DRAWN_STEPS, merge_time, merge_rule, seed)
        outcomes = [evaluate_matrices(problem, plan) for plan in plans]
        errors = np.array([[outcome.w2, outcome.paired_error] for outcome in outcomes])
        ratios[seed] = errors[own] / errors.min(axis=0)
    beaten = (ratios > 1 + _ROUNDING).sum(axis=0).tolist()
    largest = ratios.max(axis=0).tolist()
    return {
        "merge_rule": merge_rule,
        "case": case,
        "merge_time": merge_time,
        "optimum": optimum,
        "draws": num_draws,
        "beaten": beaten[0],
        "largest_ratio": largest[0],
        "beaten_paired": beaten[1],
        "largest_ratio_paired": largest[1],
    }


def _strategies(num_steps: int) -> dict[str, Plan]:
    names = ("boot", "vanilla", "progressive", "consistency", f"hybrid:{num_steps // 4}")
    return {name.partition(":")[0]: build_strategy(name, num_steps) for name in names}


def _with_chosen(problem: MatrixProblem, merge_time: float) -> dict[str, Plan]:
    """The strategies, and the plans that planners choose: for λ, for μ, and for the matrices."""
    variance = np.trace(problem.noise_covariance) / len(problem.eigenvalues)
    spectra = {
        "planned_isotropic": np.linalg.eigvalsh(problem.data_covariance) / variance,
        "planned_generalised": problem.eigenvalues,
    }
    training = GradientFlow(merge_time * variance)
    chosen = {
        name: find_plan(
            Problem(eigenvalue_spectrum(np.maximum(values, 0.0)), problem.schedule, training)
        ).plan
        for name, values in spectra.items()
    }
    comb = matrix_comb_plan(problem).plan
    return {**_strategies(problem.num_steps), **chosen, "planned_comb": comb}


def _compared(problem: MatrixProblem, plans: Mapping[str, Plan]) -> Iterator[Row]:
    """A row a plan: its errors, and its W2 as each scalar theory has it."""
    theories = scalar_theories(problem)
    for name, plan in plans.items():
        outcome = evaluate_matrices(problem, plan)
        yield {
            "plan": name,
            "w2": outcome.w2,
            "paired": outcome.paired_error,
            **{key: evaluate_matrices(theory, plan).w2 for key, theory in theories.items()},
        }


def _flat(parts: Sequence[Sequence[Row]]) -> list[Row]:
    return [row for part in parts for row in part]
