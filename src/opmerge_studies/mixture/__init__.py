"""Gaussian mixtures: what of the theory of one Gaussian is left when there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Self, get_args

import numpy as np
from pydantic import Field, model_validator
from scipy import stats

from opmerge.errors import InputError
from opmerge.planners import find_plan
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.plans.outline import plan_phrase
from opmerge.problem import Problem
from opmerge.schedules import arrays_schedule, cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import (
    AtLeastTwo,
    Count,
    MergeRule,
    NonNegative,
    Positive,
    Rising,
    Share,
    Some,
)
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.mixture import merging
from opmerge_studies.mixture.laws import GaussianMixture, quadrature_nodes, sampled_nodes
from opmerge_studies.mixture.merging import MixtureProblem, closest_plans
from opmerge_studies.shared import Cell, Runner, Study, grid
from opmerge_studies.shared.strategies import CANONICAL, PAPER_RULE

REGIMES = {"narrow": (0.1, 0.3), "straddling": (0.2, 5.0), "wide": (3.0, 8.0)}
"""Variances of two components of equal weight: below 1, on both sides, above λ* ≈ 2."""

MOST_GATES = 40  # of a student; more are not tried
_WIDTHS = (0.2, 5.0)  # common variance of both components where they move apart
_APART = (1e-4, 3.0)
_DIMENSIONS = ("ring of 8", "two spectra")
_ENOUGH = 0.01  # floor of a student whose gates are enough, over the target's spread
_MOST_TRACED = 2  # student steps whose merges are told one by one

Row = dict[str, Any]


class MixtureSettings(Settings):
    num_steps: Annotated[int, Field(ge=4)] = option(16, "T of named strategies and of interval DP")
    exhaustive_steps: Annotated[int, Field(ge=3, le=8)] = option(8, "T where all plans are tried")
    separations: Some[NonNegative] = option(
        (0.0, 0.75, 1.5), "the two components' means are ± these"
    )
    student_steps: Rising[Count] = option((1, 2, 4, 8), "K of the strategies, from 1")
    exhaustive_students: AtLeastTwo = option(3, "all plans of K = 1 … this are tried")
    num_distances: Annotated[int, Field(ge=4)] = option(40, "separations where BOOT meets vanilla")
    signals: Annotated[Rising[Share], Field(min_length=2)] = option(
        (0.0, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5), "alpha_T of one-step students' first state, from 0"
    )
    num_nodes: Annotated[int, Field(ge=65)] = option(513, "nodes of the quadrature")
    num_samples: Annotated[int, Field(ge=64)] = option(4096, "common samples in more dimensions")
    num_seeds: AtLeastTwo = option(12, "independent repetitions there")
    merge_time: Positive = option(DEFAULT_MERGE_TIME, "s")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, first in (("signals", 0.0), ("student_steps", 1)):
            if getattr(self, key)[0] != first:
                raise InputError(key, f"must ascend from {first:g}", getattr(self, key))
        if (most := self.exhaustive_students) > self.exhaustive_steps:
            raise InputError("exhaustive_students", "must be <= exhaustive_steps", most)
        if self.student_steps[-1] >= self.num_steps:
            raise InputError("student_steps", "must be < num_steps", self.student_steps)
        return self

    @classmethod
    def quick(cls) -> Self:
        return cls(
            num_steps=8,
            exhaustive_steps=6,
            separations=(0.0, 1.5),
            student_steps=(1, 2, 4),
            num_distances=16,
            num_nodes=257,
            num_samples=512,
            num_seeds=6,
        )


def run(settings: MixtureSettings, runner: Runner) -> dict[str, Any]:
    """Tables ``best`` (of all plans, planners and strategies), ``handovers`` (best error of
    two-step students by handover), ``strategies`` (by student steps), ``merges`` (floor and
    optimisation of each), ``composites`` (growth and gain), ``distances`` (components moving
    apart), ``signals`` (last states that keep some) and ``dimensions`` (with intervals).
    """
    line = settings.model_dump(include={"num_steps", "merge_time", "num_nodes"})
    few = {**line, "num_steps": settings.exhaustive_steps}
    fine = {**line, "num_nodes": 4 * settings.num_nodes}  # the largest gain lies between nodes
    counts, trees = list(settings.student_steps), range(1, settings.exhaustive_students + 1)
    pairs = [{"regime": name, "separation": s} for s in settings.separations for name in REGIMES]
    cases = [{**pair, "merge_rule": rule} for pair in pairs for rule in get_args(MergeRule)]
    tried = grid(case=cases, line=[few], student_steps=trees)
    named = grid(case=cases, line=[line], student_steps=[counts])
    kept = grid(case=pairs, line=[line], signal=settings.signals)
    separations = np.geomspace(*_APART, settings.num_distances).tolist()
    moved = grid(case=grid(variance=_WIDTHS, separation=separations), line=[line])
    samples = settings.model_dump(include={"num_samples", "num_seeds"})
    sampled = grid(name=_DIMENSIONS, line=[line], student_steps=counts, **samples)
    measured = grid(case=pairs, line=[fine])
    return {
        "tables": {
            **runner.tables(best_plans, tried, "trying all plans"),
            **runner.tables(compare_strategies, named, "comparing strategies"),
            "composites": runner.rows(measure_composites, measured, "measuring composites"),
            "distances": runner.sweep(compare_distance, moved, "moving components apart"),
            "signals": runner.sweep(compare_signal, kept, "keeping some signal"),
            "dimensions": runner.rows(compare_dimensions, sampled, "sampling"),
        }
    }


def best_plans(case: Cell, line: Cell, student_steps: int) -> dict[str, list[Row]]:
    """The best of all plans of K trees, and how near strategies and planners come."""
    problem = _problem(line, case)
    plans = list(all_plans(problem.num_steps, student_steps))
    errors = [problem.outcome(plan).error for plan in plans]
    best = plans[int(np.argmin(errors))]
    (closest,) = closest_plans(problem, [student_steps])
    gaussian = find_plan(_gaussian(problem), student_steps=student_steps).plan
    named = {name: build_strategy(name, problem.num_steps, student_steps) for name in CANONICAL}
    others = {"interval": closest, "gaussian": gaussian, **named}
    tried, windows = list(zip(plans, errors, strict=True)), named["vanilla"].boundaries
    row = {
        **case,
        "num_steps": problem.num_steps,
        "student_steps": student_steps,
        "plans": len(plans),
        "best": min(errors),
        "worst": max(errors),
        "bound": _affine_floor(problem) if student_steps == 1 else 0.0,
        "approximation": replace(problem, training=None).outcome(best).error,
        **{name: problem.outcome(plan).error for name, plan in others.items()},
        "equal_windows": min(e for plan, e in tried if plan.boundaries == windows),
        "handovers": _path(best),
        "plan": plan_phrase(best),
    }
    handovers = dict[int, float]()
    for plan, error in tried if student_steps == 2 else []:
        step = plan.boundaries[1]
        handovers[step] = min(error, handovers.get(step, error))
    places = [{**case, "handover": step, "error": error} for step, error in handovers.items()]
    return {"best": [row], "handovers": places}


def compare_strategies(
    case: Cell, line: Cell, student_steps: Sequence[int]
) -> dict[str, list[Row]]:
    """The strategies by number of student steps, and the plan found over intervals."""
    problem = _problem(line, case)
    fine = _problem({**line, "num_nodes": 2 * line["num_nodes"] - 1}, case)
    rows, merges = [], []
    for count, closest in zip(student_steps, closest_plans(problem, student_steps), strict=True):
        plans = {name: build_strategy(name, problem.num_steps, count) for name in CANONICAL}
        plans["interval DP"] = closest
        for name, plan in plans.items():
            outcome = problem.outcome(plan)
            key = {**case, "student_steps": count, "plan": name}
            rows.append(
                {
                    **key,
                    "error": outcome.error,
                    "w2": outcome.w2,
                    "approximation": replace(problem, training=None).outcome(plan).error,
                    "local": outcome.local_error,
                    "merges": len(plan.merges),
                    "quadrature": abs(fine.outcome(plan).error - outcome.error),
                    "handovers": _path(plan),
                }
            )
            if count <= _MOST_TRACED:
                merges += [{**key, "number": n, **row} for n, row in enumerate(outcome.traces, 1)]
    return {"strategies": rows, "merges": merges}


def measure_composites(case: Cell, line: Cell) -> list[Row]:
    """Growth of the teacher's composites T → t and t → 0, and their gain."""
    problem, rows = _problem(line, case), []
    gaussian, size = _gaussian(problem).teacher, problem.num_steps
    intervals = [(size, t) for t in range(size - 1, -1, -1)]
    for start, stop in intervals + [(t, 0) for t in range(size - 1, 0, -1)]:
        typical, largest = merging.composite_gain(problem, start, stop)
        rows.append(
            {
                **case,
                "start": start,
                "stop": stop,
                "paths": float(problem.mixture.num_components) ** (start - stop),
                "effective_paths": merging.effective_paths(problem, start, stop),
                "floor": merging.relative_floor(problem, start, stop),
                "gates": merging.gates_needed(problem, start, stop, _ENOUGH, MOST_GATES),
                "gain": typical,
                "largest_gain": largest,
                "gaussian_gain": float(np.exp(gaussian.log_composite(stop, start)[0])),
            }
        )
    return rows


def compare_distance(case: Cell, line: Cell) -> Row:
    """BOOT and vanilla of one-step students, two equal components some way apart."""
    problem = _problem(line, case)
    bound = _affine_floor(problem)
    return {**case, **_errors(problem, ("vanilla", "boot")), "bound": bound}


def compare_signal(case: Cell, line: Cell, signal: float) -> Row:
    """One-step students where the last state keeps some signal, alpha_T > 0."""
    problem = _problem(line, case, signal)
    floor = _errors(replace(problem, training=None), ["vanilla"])["vanilla"]
    bounds = {"signal": signal, "affine": _affine_floor(problem), "floor": floor}
    return {**case, **bounds, **_errors(problem, CANONICAL)}


def compare_dimensions(
    name: str, line: Cell, student_steps: int, num_samples: int, num_seeds: int
) -> list[Row]:
    """The strategies in more dimensions: the same samples for all of them, many times over."""
    mixture, schedule = dimension_mixture(name), cosine_schedule(line["num_steps"])
    trained, ended = [], []
    for seed in range(0, 2 * num_seeds, 2):
        nodes = sampled_nodes(mixture, schedule, num_samples, seed)
        inputs = sampled_nodes(mixture, schedule, num_samples, seed + 1)[-1]
        flow = GradientFlow(line["merge_time"])
        problem = MixtureProblem(mixture, schedule, nodes, flow, inputs)
        trained.append(_errors(problem, CANONICAL, student_steps))
        ended.append(_errors(replace(problem, training=None), CANONICAL, student_steps))
    head = {"mixture": name, "dimension": mixture.dimension, "student_steps": student_steps}
    return [
        {
            **head,
            "plan": plan,
            **_interval("error", [errors[plan] for errors in trained]),
            **_interval("approximation", [errors[plan] for errors in ended]),
            **_interval("ratio", [errors[plan] / errors["vanilla"] for errors in trained]),
        }
        for plan in CANONICAL
    ]


def dimension_mixture(name: str) -> GaussianMixture:
    """Eight narrow components on a ring, or two whose spectra cross λ = 1 in opposite order."""
    if name == "ring of 8":
        angles = np.arange(8) * np.pi / 4
        means = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return GaussianMixture(means, np.full((8, 2), 0.1))
    spectrum = np.geomspace(0.1, 10.0, 8)
    means = np.full((2, 8), 0.5) * np.array([[-1.0], [1.0]])
    return GaussianMixture(means, np.stack([spectrum, spectrum[::-1]]))


def _problem(line: Cell, case: Cell, signal: float = 0.0) -> MixtureProblem:
    """Two components of equal weight at ± the separation; ``signal`` is alpha_T."""
    variances = REGIMES[case["regime"]] if "regime" in case else [case["variance"]] * 2
    mixture = GaussianMixture([-case["separation"], case["separation"]], variances)
    angles = np.linspace(0.0, np.arccos(signal), line["num_steps"] + 1)
    cosine = cosine_schedule(line["num_steps"])
    schedule = arrays_schedule(np.cos(angles), np.sin(angles)) if signal else cosine
    nodes = quadrature_nodes(mixture, schedule, line["num_nodes"])
    flow, rule = GradientFlow(line["merge_time"]), case.get("merge_rule", PAPER_RULE)
    return MixtureProblem(mixture, schedule, nodes, flow, nodes[-1], rule)


def _errors(problem: MixtureProblem, names: Sequence[str], count: int = 1) -> dict[str, float]:
    """Errors of named strategies on equal windows."""
    plans = {name: build_strategy(name, problem.num_steps, count) for name in names}
    return {name: problem.outcome(plan).error for name, plan in plans.items()}


def _gaussian(problem: MixtureProblem) -> Problem:
    """The problem of one Gaussian with the mixture's covariance."""
    spectrum = eigenvalue_spectrum(np.linalg.eigvalsh(problem.mixture.covariance))
    training = problem.training or GradientFlow()
    return Problem(spectrum, problem.schedule, training, problem.merge_rule)


def _affine_floor(problem: MixtureProblem) -> float:
    """Distance of the teacher's output from the nearest affine map of z_T.

    No one-step student is below where alpha_T = 0: there responsibilities are constant.
    """
    origin = np.zeros((1, problem.mixture.dimension))
    one_gate = GaussianMixture(origin, origin + 1.0)
    return merging.nearest_floor(one_gate, problem.inputs, problem.teacher_output)


def _path(plan: Plan) -> str:
    return " → ".join(map(str, plan.boundaries))


def _interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """Mean over seeds and half the width of its 95 % confidence interval (Student's t)."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {name: float(np.mean(values)), f"{name}_half_width": float(half)}


_QUESTION = "What changes when the data are a mixture of Gaussians?"
STUDY = Study(__name__, _QUESTION, MixtureSettings, run)
