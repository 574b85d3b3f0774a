"""Noise that does not commute with the data, and data that are not Gaussian."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Self, get_args

import numpy as np
from pydantic import model_validator
from scipy.optimize import brentq

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.planners import find_plan
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.settings.base import Settings, option
from opmerge.settings.types import AtLeastTwo, Count, MergeRule, Positive, Rising
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.correlated_noise import problems
from opmerge_studies.correlated_noise.problems import PLANE, plane_problem, scalar_theories
from opmerge_studies.correlated_noise.samples import LAWS, Row, batch_training
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.matrices import MatrixProblem, evaluate_matrices
from opmerge_studies.shared.strategies import PAPER_RULE
from opmerge_studies.shared.transition import sign_changes

_SCANNED = np.geomspace(0.2, 3.0, 16)  # λ between which a crossing is bracketed
_ROUNDING = 1e-9
_HALF_TIMES = (1.0, 3.0, 6.4, 10.0)
_DRAWN_TIMES = (0.3, 1.0, 6.4)
_DRAWN_STEPS = 4
_LARGEST_ROTATION = 45.0


class CorrelatedNoiseSettings(Settings):
    num_steps: AtLeastTwo = option(32, "T of the comparisons of strategies")
    oracle_steps: tuple[int, ...] = option((4, 5, 6), "T at which every plan is tried")
    angles: Rising[float] = option(
        (0, 2, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 85, 90),
        "between the eigenbases of data and noise, in degrees, from 0 to 90",
    )
    num_dimensions: AtLeastTwo = option(16, "d of the random rotations")
    num_rotations: Count = option(20, "random rotations for each angle")
    correlations: Rising[float] = option(
        (0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8),
        "of neighbouring pixels in the noise on digits, from 0 to 0.95",
    )
    num_draws: Count = option(1000, "random pairs of covariances for each case")
    num_replicates: AtLeastTwo = option(4000, "trainings on batches of each law")
    merge_time: Positive = option(DEFAULT_MERGE_TIME, "s")

    @model_validator(mode="after")
    def _check(self) -> Self:
        steps = list(self.oracle_steps)
        if not steps or steps != sorted(set(steps)) or not 2 <= steps[0] <= steps[-1] <= MAX_STEPS:
            raise InputError("oracle_steps", f"must ascend from 2 to {MAX_STEPS} at most", steps)
        for key, most in (("angles", 90.0), ("correlations", 0.95)):
            values = getattr(self, key)
            if values[0] != 0 or values[-1] > most:
                raise InputError(key, f"must begin at 0 and stay <= {most:g}", values)
        return self

    @classmethod
    def quick(cls) -> Self:
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


def run(settings: CorrelatedNoiseSettings, runner: Runner) -> dict[str, Any]:
    """Theories of one scalar per direction beside the matrices, and training on samples.

    Tables ``plane`` (strategies, by angle), ``oracle`` (every plan), ``crossings`` (of BOOT and
    vanilla), ``half_angles``, ``rotations``, ``digits``, ``draws`` (whether the optima of the
    scalar theory stay optimal), ``merges`` and ``plans`` (training on samples of several laws).
    """
    own = {"num_steps": settings.num_steps, "merge_time": settings.merge_time}
    turning = {"case": PLANE, "angle": settings.angles}
    tried = grid(**{**own, "num_steps": settings.oracle_steps}, **turning)
    halved = grid(case=PLANE, **{**own, "merge_time": _HALF_TIMES})
    angles = [angle for angle in settings.angles if angle <= _LARGEST_ROTATION]
    rotations = {"angle": angles, "seed": range(settings.num_rotations)}
    turned = grid(num_dimensions=settings.num_dimensions, **rotations, **own)
    cases = {"merge_rule": get_args(MergeRule), "case": ("below", "above")}
    drawn = grid(**cases, merge_time=_DRAWN_TIMES, num_draws=settings.num_draws)
    crossed = grid(angle=settings.angles, **own)
    smooth = grid(correlation=settings.correlations, **own)
    count = settings.num_replicates
    laws = [{"law": law, "num_replicates": count, "seed": seed} for seed, law in enumerate(LAWS)]
    return {
        "tables": {
            "plane": runner.rows(plane_strategies, grid(**turning, **own), "turning noise"),
            "oracle": runner.sweep(plane_oracle, tried, "trying every plan"),
            "crossings": runner.sweep(plane_crossing, crossed, "finding crossings"),
            "half_angles": runner.sweep(half_angle, halved, "finding angles"),
            "rotations": runner.rows(rotated_noise, turned, "turning noise at random"),
            "digits": runner.rows(digits_noise, smooth, "smoothing noise"),
            "draws": runner.sweep(draw_optima, drawn, "drawing covariances"),
            **runner.tables(batch_training, laws, "training on samples"),
        }
    }


def plane_strategies(case: str, angle: float, num_steps: int, merge_time: float) -> list[Row]:
    """Strategies in the plane at one angle, and what scalar theories say of them."""
    problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
    return _compared({"case": case, "angle": angle}, problem, _strategies(num_steps))


def plane_oracle(case: str, angle: float, num_steps: int, merge_time: float) -> Row:
    """Every plan in the plane: the best, and how much worse those are that theories choose."""
    problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
    plans = list(all_plans(num_steps))
    errors = _distances(problem, plans)
    best = int(np.argmin(errors))
    chosen = {
        name: errors[np.argmin(_distances(theory, plans))]
        for name, theory in scalar_theories(problem).items()
    }
    chosen["comb"] = evaluate_matrices(problem, problems.matrix_comb(problem).plan).w2
    chosen["named"] = min(_distances(problem, _strategies(num_steps).values()))
    return {
        "case": case,
        "angle": angle,
        "num_steps": num_steps,
        "num_plans": len(plans),
        "best": float(errors[best]),
        "plan": str(plans[best].to_nested()[0]),
        **{name: float(error / errors[best] - 1) for name, error in chosen.items()},
    }


def plane_crossing(angle: float, num_steps: int, merge_time: float) -> Row:
    """The λ at which BOOT and vanilla err equally, for data λ Diag(√2, 1/√2)."""
    plans = [build_strategy(name, num_steps) for name in ("boot", "vanilla")]

    def log_ratio(theory: str, scale: float) -> float:
        variances = (scale * 2**0.5, scale * 0.5**0.5)
        problem = plane_problem(variances, angle, num_steps, merge_time)
        boot, vanilla = _distances({"exact": problem, **scalar_theories(problem)}[theory], plans)
        return float(np.log(boot / vanilla))

    zeros = {
        theory: sign_changes(np.vectorize(partial(log_ratio, theory)), _SCANNED)
        for theory in ("exact", "generalised", "data_basis", "isotropic")
    }
    return {"angle": angle, **{name: min(values, default=None) for name, values in zeros.items()}}


def half_angle(case: str, num_steps: int, merge_time: float) -> Row:
    """The angle in degrees at which theory in the data's basis sees half of BOOT's error.

    It takes the least noisy direction to have the variance ς + Δς sin²θ instead of ς, so its error
    is too small by exp(2 s Δς sin²θ) until another direction takes over.
    """
    plan = build_strategy("boot", num_steps)

    def excess(angle: float) -> float:
        problem = plane_problem(PLANE[case], angle, num_steps, merge_time)
        believed = evaluate_matrices(scalar_theories(problem)["data_basis"], plan).w2
        return believed / evaluate_matrices(problem, plan).w2 - 0.5

    difference = problems.NOISE_RATIO - 1 / problems.NOISE_RATIO
    rule = np.sqrt(np.log(2.0) / (2.0 * merge_time * difference))
    angle = float(brentq(excess, 0.0, 45.0, xtol=1e-6)) if excess(45.0) < 0 else None
    head = {"case": case, "merge_time": merge_time, "angle": angle}
    return {**head, "rule": float(np.degrees(np.arcsin(min(rule, 1.0))))}


def rotated_noise(
    num_dimensions: int, seed: int, angle: float, num_steps: int, merge_time: float
) -> list[Row]:
    """Strategies and chosen plans where the noise's eigenbasis is turned at random."""
    problem = problems.rotated_problem(num_dimensions, angle, num_steps, merge_time, seed)
    return _compared({"seed": seed, "angle": angle}, problem, _with_chosen(problem, merge_time))


def digits_noise(correlation: float, num_steps: int, merge_time: float) -> list[Row]:
    """Strategies and chosen plans for digits under noise that neighbouring pixels share."""
    problem = problems.digits_problem(correlation, num_steps, merge_time)
    return _compared({"correlation": correlation}, problem, _with_chosen(problem, merge_time))


def draw_optima(case: str, merge_rule: MergeRule, merge_time: float, num_draws: int) -> Row:
    """How often another plan beats the scalar theory's optimum, among every plan for T = 4.

    Where data and noise commute BOOT is best if all μ <= 1, and vanilla if all μ >= λ* (THEORY
    7.2, 7.3); under denoiser copy BOOT was wherever it was tried (THEORY 7.9).
    """
    plans = list(all_plans(_DRAWN_STEPS))
    optimum = "vanilla" if (case, merge_rule) == ("above", "operator-copy") else "boot"
    place = plans.index(build_strategy(optimum, _DRAWN_STEPS))
    ratios = np.empty((num_draws, 2))
    for seed in range(num_draws):
        problem = problems.drawn_problem(case, _DRAWN_STEPS, merge_time, merge_rule, seed)
        outcomes = [evaluate_matrices(problem, plan) for plan in plans]
        errors = np.array([[outcome.w2, outcome.paired_error] for outcome in outcomes])
        ratios[seed] = errors[place] / errors.min(axis=0)
    beaten, largest = (ratios > 1 + _ROUNDING).sum(axis=0).tolist(), ratios.max(axis=0).tolist()
    head = {"merge_rule": merge_rule, "case": case, "merge_time": merge_time, "optimum": optimum}
    by_w2 = {"draws": num_draws, "beaten": beaten[0], "largest_ratio": largest[0]}
    return {**head, **by_w2, "beaten_paired": beaten[1], "largest_ratio_paired": largest[1]}


def _distances(problem: MatrixProblem, plans: Iterable[Plan]) -> Array:
    """W2 that each plan leaves."""
    return np.array([evaluate_matrices(problem, plan).w2 for plan in plans])


def _strategies(num_steps: int) -> dict[str, Plan]:
    names = ("boot", "vanilla", "progressive", "consistency", f"hybrid:{num_steps // 4}")
    return {name.partition(":")[0]: build_strategy(name, num_steps) for name in names}


def _with_chosen(problem: MatrixProblem, merge_time: float) -> dict[str, Plan]:
    """The strategies, and the plans that planners choose: for λ, for μ, and for the matrices."""
    variance = np.trace(problem.noise_covariance) / len(problem.noise_covariance)
    training, num_steps = GradientFlow(merge_time * variance), problem.schedule.num_steps

    def planned(eigenvalues: Array) -> Plan:
        spectrum = eigenvalue_spectrum(np.maximum(eigenvalues, 0.0))
        return find_plan(Problem(spectrum, problem.schedule, training, PAPER_RULE)).plan

    return {
        **_strategies(num_steps),
        "planned_isotropic": planned(np.linalg.eigvalsh(problem.data_covariance) / variance),
        "planned_generalised": planned(problem.eigenvalues),
        "planned_comb": problems.matrix_comb(problem).plan,
    }


def _compared(head: Row, problem: MatrixProblem, plans: Mapping[str, Plan]) -> list[Row]:
    """A row a plan: its errors, and its W2 as each scalar theory has it."""
    theories, rows = scalar_theories(problem), []
    for name, plan in plans.items():
        outcome = evaluate_matrices(problem, plan)
        errors = {"w2": outcome.w2, "paired": outcome.paired_error}
        believed = {key: evaluate_matrices(theory, plan).w2 for key, theory in theories.items()}
        rows.append({**head, "plan": name, **errors, **believed})
    return rows


_QUESTION = "How far does theory hold when noise and data do not commute?"
STUDY = Study(__name__, _QUESTION, CorrelatedNoiseSettings, run)
