"""The guided linear teacher: beside dense matrices, samples, and the theory without guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import expm

from opmerge import cosine_schedule
from opmerge.errors import InputError
from opmerge.guided_teacher import (
    GuidedProblem,
    contraction_thresholds,
    evaluate_guided,
)
from opmerge.linear_teacher import LinearTeacher
from opmerge.merging import evaluate
from opmerge.planners.brute_force import all_plans
from opmerge.plans import Plan, build_strategy
from opmerge.problem import Problem
from opmerge.schedules import linear_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientDescent, GradientFlow

Array = NDArray[np.float64]

WITHIN, BETWEEN = np.array([1.3, 0.4, 0.02]), np.array([0.5, 1.5, 0.2])
RULES = ("operator-copy", "denoiser-copy")
T = 6


def a_problem(scale: float = 3.0, **given: Any) -> GuidedProblem:
    given = {"schedule": cosine_schedule(T), "training": GradientFlow(0.7), **given}
    return GuidedProblem(within=WITHIN, between=BETWEEN, scale=scale, **given)


class Dense:
    """All directions in one: matrices on the stacked (z, μ), by the definitions alone."""

    def __init__(self, problem: GuidedProblem) -> None:
        self.problem, self.size = problem, len(problem.within)
        self.within, self.between = np.diag(problem.within), np.diag(problem.between)

    def estimate(self, t: int, scale: float) -> Array:
        """(d, 2 d) x̂ of (z, μ): regressions of x_0 on (z, μ) and on z, drawn apart."""
        alpha, sigma = self.problem.schedule.alphas[t], self.problem.schedule.sigmas[t]
        eye, zero = np.eye(self.size), np.zeros((self.size, self.size))
        total = self.within + self.between
        data = np.hstack([alpha * total, self.between])  # E x_0 (z, μ)ᵀ
        told = data @ np.linalg.inv(self.moment(t))
        untold = alpha * total @ np.linalg.inv(alpha**2 * total + sigma**2 * eye)
        return scale * told + (1 - scale) * np.hstack([untold, zero])

    def moment(self, t: int) -> Array:
        alpha, sigma = self.problem.schedule.alphas[t], self.problem.schedule.sigmas[t]
        total = self.within + self.between
        z = alpha**2 * total + sigma**2 * np.eye(self.size)
        return np.block([[z, alpha * self.between], [alpha * self.between, self.between]])

    def jump(self, estimate: Array, start: int, stop: int) -> Array:
        """(2 d, 2 d): z' = r z + c x̂, and μ stays."""
        alphas, sigmas = self.problem.schedule.alphas, self.problem.schedule.sigmas
        ratio = sigmas[stop] / sigmas[start]
        top = (alphas[stop] - alphas[start] * ratio) * estimate
        top[:, : self.size] += ratio * np.eye(self.size)
        zero, eye = np.zeros((self.size, self.size)), np.eye(self.size)
        return np.vstack([top, np.hstack([zero, eye])])

    def teacher_step(self, t: int) -> Array:
        steps = self.problem.steps
        is_on = steps is None or t in steps
        return self.jump(self.estimate(t, self.problem.scale if is_on else 1.0), t, t - 1)

    def student(self, plan: Plan) -> Array:
        """(2 d, 2 d) of a plan, by matrix products and the exponential of the training flow."""
        problem, here = self.problem, {t: self.teacher_step(t) for t in range(T, 0, -1)}
        is_student: set[int] = set()
        for merge in plan.merges:
            start, split, stop = merge.start, merge.split, merge.stop
            target = np.eye(2 * self.size)
            for t in merge.boundaries[:-1]:
                target = here.pop(t) @ target if t != start else here[t] @ target
            first = here.pop(start)
            if start not in is_student and problem.start == "network":
                first = self.jump(self.estimate(start, 1.0), start, split)
            if problem.merge_rule == "denoiser-copy":
                alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
                ratio = sigmas[split] / sigmas[start]
                estimate = first[: self.size].copy()
                estimate[:, : self.size] -= ratio * np.eye(self.size)
                first = self.jump(estimate / (alphas[split] - alphas[start] * ratio), start, stop)
            assert isinstance(problem.training, GradientFlow)
            flow = expm(-2 * problem.training.time * self.moment(start))
            row = target[: self.size] + (first - target)[: self.size] @ flow
            here[start] = np.vstack([row, target[self.size :]])
            is_student.add(start)
        whole = np.eye(2 * self.size)
        for t in sorted(here, reverse=True):
            whole = here[t] @ whole
        return whole

    def error(self, plan: Plan) -> float:
        """E|student - teacher|²."""
        teacher = np.eye(2 * self.size)
        for t in range(T, 0, -1):
            teacher = self.teacher_step(t) @ teacher
        apart = (self.student(plan) - teacher)[: self.size]
        return float(np.trace(apart @ self.moment(T) @ apart.T))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start", ["network", "teacher"])
@pytest.mark.parametrize(
    "given", [{}, {"schedule": linear_schedule(T)}, {"steps": range(2, 5)}, {"scale": 0.0}]
)
def test_every_kind_of_plan_is_as_dense_matrices_have_it(
    rule: Any, start: Any, given: dict[str, Any]
) -> None:
    problem = a_problem(**{"merge_rule": rule, "start": start, **given})
    dense = Dense(problem)
    plans = [build_strategy(name, T) for name in ("vanilla", "boot", "consistency", "uniform:3")]
    plans += [build_strategy("progressive", T, 2), *[*all_plans(T)][10::60]]
    for plan in plans:
        found = evaluate_guided(problem, plan)
        np.testing.assert_allclose(found.paired_error**2, dense.error(plan), rtol=1e-9, atol=1e-14)
        whole = dense.student(plan)[: len(WITHIN)]
        z, mean = np.diag(whole[:, : len(WITHIN)]), np.diag(whole[:, len(WITHIN) :])
        np.testing.assert_allclose(found.student, np.stack([z, mean], axis=1), atol=1e-12)
        assert found.parts.sum() == pytest.approx(found.errors.sum(), rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_without_means_or_guidance_it_is_the_theory_without(rule: Any) -> None:
    """w = 1 and λ_b = 0; and at any w where there is one condition alone."""
    training, plain = GradientFlow(1.3), np.array([0.3, 1.02, 4.0])
    schedule = cosine_schedule(T)
    known = Problem(eigenvalue_spectrum(plain), schedule, training, merge_rule=rule)
    for scale in (1.0, 5.0):
        problem = GuidedProblem(
            schedule, plain, np.zeros(3), scale, training, rule, start="network"
        )
        np.testing.assert_allclose(
            np.log(problem.contraction), LinearTeacher(schedule, plain).log_steps[1:], atol=1e-12
        )
        for plan in all_plans(T):
            found, expected = evaluate_guided(problem, plan), evaluate(known, plan)
            assert found.w2 == pytest.approx(expected.w2, rel=1e-8, abs=1e-15)


def test_at_scale_one_z_is_that_of_data_around_its_mean() -> None:
    """The conditional teacher of N(μ, λ_w), in every step."""
    problem = a_problem(scale=1.0)
    expected = LinearTeacher(problem.schedule, WITHIN).log_steps[1:]
    np.testing.assert_allclose(np.log(problem.contraction), expected, atol=1e-12)


def test_denoisers_and_students_are_as_samples_have_them() -> None:
    """Regressions on drawn conditions, data and noise; a student descends on the same samples."""
    rng, count, t, scale = np.random.default_rng(0), 400_000, 4, 3.0
    within, between, schedule = 0.4, 1.5, cosine_schedule(T)
    mean = rng.normal(0, between**0.5, count)
    data = mean + rng.normal(0, within**0.5, count)
    alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
    z = alpha * data + sigma * rng.standard_normal(count)
    read = np.stack([z, mean], axis=1)
    told = np.linalg.lstsq(read, data, rcond=None)[0]
    untold = np.array([(z @ data) / (z @ z), 0.0])
    training = GradientDescent(0.05, 6)
    problem = GuidedProblem(schedule, [within], [between], scale, training, start="network")
    drawn = scale * told + (1 - scale) * untold
    # standard errors are about 1/√N times the noise over the regressor, below 0.003 for each
    np.testing.assert_allclose(problem.guided_estimates[t, 0], drawn, atol=3 * 5 * 0.003)
    np.testing.assert_allclose(problem.moments[t, 0], read.T @ read / count, rtol=0.02)
    merge = Plan.from_nested([6, 5, [4, 3, 2, 1]])
    target = problem.composite(t, 0)[0]
    carried, reached = problem.jump(t, 0)
    student = reached * told + [carried, 0.0]
    for _ in range(6):
        student = student - 0.05 * 2 * (read @ student - read @ target) @ read / count
    found = evaluate_guided(problem, merge)
    # all before step 4 is the teacher's: its deviation is carried by the composite to there
    above = problem.composite(T, t)[0]
    apart = student - target
    expected = [apart[0] * above[0], apart[0] * above[1] + apart[1]]
    np.testing.assert_allclose(found.deviation[0], expected, atol=0.01)
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize("scale", [1.0, 2.0, 4.0, 7.5])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
def test_where_steps_begin_to_expand(scale: float, share: float) -> None:
    """The ends' thresholds: steps of a fine sampler at alpha or sigma = 0.02, whose length moves
    them by a 1/400, and alpha² or sigma² by about as much."""
    fine, place = cosine_schedule(16384), 208

    def step(number: int, variance: float) -> float:
        within, between = [(1 - share) * variance], [share * variance]
        return float(GuidedProblem(fine, within, between, scale).contraction[number - 1, 0])

    noise, data = (float(each) for each in contraction_thresholds(share, scale))
    assert step(place, 0.97 * data) < 1 < step(place, 1.03 * data)
    if np.isfinite(noise):
        assert step(16384 - place, 0.97 * noise) < 1 < step(16384 - place, 1.03 * noise)
    else:  # none expands, however large the variance
        assert step(16384 - place, 50.0) < 1
    assert (noise > data) == (scale > 1)


def test_what_is_refused() -> None:
    for wrong in (
        {"within": [0.0, 1.0, 1.0]},
        {"between": [-1.0, 1.0, 1.0]},
        {"between": [1.0, 1.0]},
        {"within": [np.nan, 1.0, 1.0]},
        {"merge_rule": "other"},
        {"start": "other"},
        {"scale": np.inf},
    ):
        with pytest.raises(InputError) as raised:
            replace(a_problem(), **wrong)
        assert raised.value.argument == next(iter(wrong))
    with pytest.raises(InputError, match="`plan` must have 6 steps"):
        evaluate_guided(a_problem(), build_strategy("boot", 4))
