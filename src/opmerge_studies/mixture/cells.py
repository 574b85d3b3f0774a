"""What the study `mixture` measures, cell by cell: JSON values in, rows of its tables out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from opmerge.planners import find_plan
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import NoiseSchedule, arrays_schedule, cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow
from opmerge_studies.mixture.expectation import quadrature_nodes, sampled_nodes
from opmerge_studies.mixture.gaussian_mixture import GaussianMixture
from opmerge_studies.mixture.growth import (
    composite_gain,
    effective_paths,
    gates_needed,
    relative_floor,
)
from opmerge_studies.mixture.lifted import Training
from opmerge_studies.mixture.merging import MixtureProblem
from opmerge_studies.mixture.planning import closest_plans, every_outcome

__all__ = [
    "DIMENSIONS",
    "REGIMES",
    "STRATEGIES",
    "best_plans",
    "compare_dimensions",
    "compare_distances",
    "compare_signals",
    "compare_strategies",
    "dimension_mixture",
    "measure_composites",
]

STRATEGIES = ("vanilla", "progressive", "consistency", "boot")

REGIMES = {"narrow": (0.1, 0.3), "straddling": (0.2, 5.0), "wide": (3.0, 8.0)}
"""Variances of two components of equal weight: below 1, on both sides, above λ* ≈ 2."""

DIMENSIONS = ("ring of 8", "two spectra")

_ENOUGH = 0.01  # floor of a student whose gates are enough, over the target's spread
_MOST_GATES = 40
_MOST_TRACED = 2  # student steps whose merges are told one by one
_APART = (1e-4, 3.0)


def best_plans(
    regime: str,
    separation: float,
    merge_rule: MergeRule,
    num_steps: int,
    student_steps: Sequence[int],
    merge_time: float,
    num_nodes: int,
) -> dict[str, Any]:
    """The best of all plans of K trees, and how near strategies and planners come."""
    problem = _problem(regime, separation, merge_rule, num_steps, merge_time, num_nodes)
    case = {"regime": regime, "separation": separation, "merge_rule": merge_rule}
    tried: dict[int, list[tuple[Plan, float]]] = {count: [] for count in student_steps}
    for plan, error in every_outcome(problem, student_steps):
        tried[plan.student_steps].append((plan, error))
    found = closest_plans(problem, student_steps)
    rows = [
        {**case, "num_steps": num_steps, **_best_row(problem, plans, closest)}
        for plans, closest in zip(tried.values(), found, strict=True)
    ]
    handovers = _by_handover(tried.get(2, []))
    return {
        "best": rows,
        "handovers": [{**case, "handover": t, "error": e} for t, e in handovers.items()],
    }


def _best_row(
    problem: MixtureProblem, plans: Sequence[tuple[Plan, float]], closest: Plan
) -> dict[str, Any]:
    """The best of these plans, the strategies and the planners' plans of as many trees."""
    best, error = min(plans, key=lambda pair: pair[1])
    count, num_steps = best.student_steps, problem.num_steps
    named = {name: build_strategy(name, num_steps, count) for name in STRATEGIES}
    others = {"interval": closest, "gaussian": _gaussian_plan(problem, count), **named}
    windows = named["vanilla"].boundaries
    return {
        "student_steps": count,
        "plans": len(plans),
        "best": error,
        "worst": max(error for _, error in plans),
        "bound": _affine_floor(problem) if count == 1 else 0.0,
        "approximation": replace(problem, training=None).outcome(best).error,
        **{name: problem.outcome(plan).error for name, plan in others.items()},
        "equal_windows": min(error for plan, error in plans if plan.boundaries == windows),
        "handovers": " → ".join(map(str, best.boundaries)),
        "plan": plan_phrase(best),
    }


def compare_strategies(
    regime: str,
    separation: float,
    merge_rule: MergeRule,
    num_steps: int,
    student_steps: Sequence[int],
    merge_time: float,
    num_nodes: int,
) -> dict[str, Any]:
    """The strategies by number of student steps, and the plan found over intervals."""
    problem = _problem(regime, separation, merge_rule, num_steps, merge_time, num_nodes)
    fine = _problem(regime, separation, merge_rule, num_steps, merge_time, 2 * num_nodes - 1)
    unlimited = replace(problem, training=None)
    case = {"regime": regime, "separation": separation, "merge_rule": merge_rule}
    rows, merges = [], []
    found = closest_plans(problem, student_steps)
    for count, closest in zip(student_steps, found, strict=True):
        plans = {name: build_strategy(name, num_steps, count) for name in STRATEGIES}
        plans["interval DP"] = closest
        for name, plan in plans.items():
            outcome = problem.outcome(plan)
            row = {**case, "student_steps": count, "plan": name}
            rows.append(
                {
                    **row,
                    "error": outcome.error,
                    "w2": outcome.w2,
                    "approximation": unlimited.outcome(plan).error,
                    "local": outcome.local_error,
                    "merges": len(plan.merges),
                    "quadrature": abs(fine.outcome(plan).error - outcome.error),
                    "handovers": " → ".join(map(str, plan.boundaries)),
                }
            )
            if count > _MOST_TRACED:
                continue
            merges += [
                {
                    **row,
                    "number": number,
                    "start": trace.merge.start,
                    "stop": trace.merge.stop,
                    "floor": trace.floor,
                    "optimisation": trace.optimisation,
                    "to_teacher": trace.to_teacher,
                }
                for number, trace in enumerate(outcome.traces, 1)
            ]
    return {"strategies": rows, "merges": merges}


def measure_composites(
    regime: str, separation: float, num_steps: int, merge_time: float, num_nodes: int
) -> list[dict[str, Any]]:
    """Growth of the teacher's composites T → t and t → 0, and their gain."""
    problem = _problem(regime, separation, "operator-copy", num_steps, merge_time, num_nodes)
    intervals = [(num_steps, t) for t in range(num_steps - 1, -1, -1)]
    intervals += [(t, 0) for t in range(num_steps - 1, 0, -1)]
    rows = []
    for start, stop in intervals:
        gain = composite_gain(problem, start, stop)
        rows.append(
            {
                "regime": regime,
                "separation": separation,
                "start": start,
                "stop": stop,
                "paths": float(problem.mixture.num_components) ** (start - stop),
                "effective_paths": effective_paths(problem, start, stop),
                "floor": relative_floor(problem, start, stop),
                "gates": gates_needed(problem, start, stop, _ENOUGH, _MOST_GATES),
                "gain": gain.typical,
                "largest_gain": gain.largest,
                "gaussian_gain": _gaussian_gain(problem, start, stop),
            }
        )
    return rows


def compare_distances(
    variance: float, num_steps: int, merge_time: float, num_nodes: int, count: int
) -> list[dict[str, Any]]:
    """BOOT and vanilla of one-step students while two equal components move apart."""
    rows = []
    for separation in np.geomspace(*_APART, count):
        mixture = _pair(separation, [variance] * 2)
        problem = _on_line(mixture, cosine_schedule(num_steps), merge_time, num_nodes)
        errors = {
            name: problem.outcome(build_strategy(name, num_steps)).error
            for name in ("vanilla", "boot")
        }
        rows.append(
            {
                "variance": variance,
                "separation": float(separation),
                **errors,
                "bound": _affine_floor(problem),
            }
        )
    return rows


def compare_signals(
    regime: str,
    separation: float,
    signals: Sequence[float],
    num_steps: int,
    merge_time: float,
    num_nodes: int,
) -> list[dict[str, Any]]:
    """One-step students where the last state keeps some signal, alpha_T > 0."""
    mixture = _pair(separation, REGIMES[regime])
    rows = []
    for signal in signals:
        angles = np.linspace(0.0, np.arccos(signal), num_steps + 1)
        schedule = arrays_schedule(np.cos(angles), np.sin(angles))
        problem = _on_line(mixture, schedule, merge_time, num_nodes)
        plans = {name: build_strategy(name, num_steps) for name in STRATEGIES}
        rows.append(
            {
                "regime": regime,
                "separation": separation,
                "signal": signal,
                "affine": _affine_floor(problem),
                "floor": replace(problem, training=None).outcome(plans["vanilla"]).error,
                **{name: problem.outcome(plan).error for name, plan in plans.items()},
            }
        )
    return rows


def compare_dimensions(
    name: str,
    num_steps: int,
    student_steps: Sequence[int],
    merge_time: float,
    num_samples: int,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """The strategies in more dimensions: the same samples for all of them, many times over."""
    mixture, schedule = dimension_mixture(name), cosine_schedule(num_steps)
    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for seed in seeds:
        problem = MixtureProblem(
            mixture,
            schedule,
            sampled_nodes(mixture, schedule, num_samples, 2 * seed),
            GradientFlow(merge_time),
            inputs=sampled_nodes(mixture, schedule, num_samples, 2 * seed + 1)[-1],
        )
        unlimited = replace(problem, training=None)
        for count in student_steps:
            for strategy in STRATEGIES:
                plan = build_strategy(strategy, num_steps, count)
                errors = problem.outcome(plan).error, unlimited.outcome(plan).error
                found.setdefault((count, strategy), []).append(errors)
    return [
        {
            "mixture": name,
            "dimension": mixture.dimension,
            "student_steps": count,
            "plan": strategy,
            **_interval("error", [e for e, _ in values]),
            **_interval("approximation", [a for _, a in values]),
            **_interval(
                "ratio",
                [e / v for (e, _), (v, _) in zip(values, found[count, "vanilla"], strict=True)],
            ),
        }
        for (count, strategy), values in found.items()
    ]


def dimension_mixture(name: str) -> GaussianMixture:
    """Eight narrow components on a ring, or two whose spectra cross λ = 1 in opposite order."""
    if name == "ring of 8":
        angles = np.arange(8) * np.pi / 4
        means = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return GaussianMixture.of(means, np.full((8, 2), 0.1))
    spectrum = np.geomspace(0.1, 10.0, 8)
    means = np.full((2, 8), 0.5) * np.array([[-1.0], [1.0]])
    return GaussianMixture.of(means, np.stack([spectrum, spectrum[::-1]]))


def _problem(
    regime: str,
    separation: float,
    merge_rule: MergeRule,
    num_steps: int,
    merge_time: float,
    num_nodes: int,
) -> MixtureProblem:
    schedule = cosine_schedule(num_steps)
    mixture = _pair(separation, REGIMES[regime])
    return _on_line(mixture, schedule, merge_time, num_nodes, merge_rule)


def _on_line(
    mixture: GaussianMixture,
    schedule: NoiseSchedule,
    merge_time: float,
    num_nodes: int,
    merge_rule: MergeRule = "operator-copy",
) -> MixtureProblem:
    nodes = quadrature_nodes(mixture, schedule, num_nodes)
    return MixtureProblem(mixture, schedule, nodes, GradientFlow(merge_time), merge_rule)


def _pair(separation: float, variances: Sequence[float]) -> GaussianMixture:
    """Two components of equal weight, their means at ± the separation."""
    return GaussianMixture.of([-separation, separation], variances)


def _gaussian_plan(problem: MixtureProblem, student_steps: int) -> Plan:
    """The best plan by the theory of one Gaussian, which knows the covariance alone."""
    spectrum = eigenvalue_spectrum(np.linalg.eigvalsh(problem.mixture.covariance))
    assert problem.training is not None
    gaussian = Problem(spectrum, problem.schedule, problem.training, problem.merge_rule)
    return find_plan(gaussian, student_steps=student_steps).plan


def _gaussian_gain(problem: MixtureProblem, start: int, stop: int) -> float:
    """|P(stop, start)| of the Gaussian with the mixture's variance, in one dimension."""
    spectrum = eigenvalue_spectrum(np.linalg.eigvalsh(problem.mixture.covariance))
    gaussian = Problem(spectrum, problem.schedule)
    return float(np.exp(gaussian.teacher.log_composite(stop, start)[0]))


def _affine_floor(problem: MixtureProblem) -> float:
    """Distance of the teacher's output from the nearest affine map of z_T.

    No one-step student is below where alpha_T = 0: there responsibilities are constant.
    """
    origin = np.zeros((1, problem.mixture.dimension))
    one_gate = GaussianMixture.of(origin, origin + 1.0)
    training = Training(one_gate, problem.judged_on, None)
    start = np.zeros((training.features.shape[1], problem.mixture.dimension))
    return training.train(start, problem.teacher_output).floor


def _by_handover(plans: Sequence[tuple[Plan, float]]) -> dict[int, float]:
    """The best error of two-step students by the step at which the first hands over."""
    best: dict[int, float] = {}
    for plan, error in plans:
        handover = plan.students[0].stop
        best[handover] = min(error, best.get(handover, error))
    return best


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and half the width of its 95 % confidence interval (Student's t)."""
    quantile = student_t.ppf(0.975, len(values) - 1)
    half = quantile * np.std(values, ddof=1) / np.sqrt(len(values))
    return {name: float(np.mean(values)), f"{name}_half_width": float(half)}
