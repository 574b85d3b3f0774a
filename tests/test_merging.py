"""Merging and evaluation against direct formulas: exact arithmetic, dense matrices, THEORY 4."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ALL_DIGITS, SQUARE_UNDERFLOW, DenseTheory, DirectTheory, Setting
from strategies import merge_times, plans, retentions, schedules, theory_settings

from opmerge.errors import InputError
from opmerge.merging import Outcome, evaluate, initial_coefficients
from opmerge.metrics import gaussian_w2
from opmerge.plans.strategies import build_strategy
from opmerge.plans.tree import Plan, Tree
from opmerge.problem import MergeRule, Problem
from opmerge.schedules import arrays_schedule, cosine_schedule
from opmerge.spectra import Spectrum, eigenvalue_spectrum
from opmerge.training import GradientFlow

# Each local excess is good to some roundings of its logarithms, which are below 40 for 16
# decades of λ, and there are up to T of them; measured 5e-14.
PRECISION = 1e-12

NORMAL = 1e-300
"""Below this, numbers lose digits one by one until they are 0 at 5e-324."""


def problem_of(
    *eigenvalues: float, num_steps: int = 64, time: float = 6.4, **options: Any
) -> Problem:
    spectrum = eigenvalue_spectrum(eigenvalues)
    options = {"merge_rule": "operator-copy", **options}
    return Problem(spectrum, cosine_schedule(num_steps), GradientFlow(time), **options)


# Direct evaluation


def assert_exact(setting: Setting, plan: Plan, precision: float) -> None:
    """The excess of every eigenvalue, relative to the size of what its merges add."""
    outcome = evaluate(setting.problem(), plan)
    student, teacher = DirectTheory(setting, ALL_DIGITS).plan(plan.to_nested())
    sizes = np.abs(outcome.local_excess).sum(axis=0)
    for d in range(len(setting.eigenvalues)):
        if teacher[d] == 0 or student[d] == 0:  # A_t = 0 stands at a floor: no excess to compare
            continue
        exact = mpmath.log(student[d] / teacher[d])
        error = abs(mpmath.mpf(float(outcome.excess[d])) - exact)
        assert error <= precision * max(float(sizes[d]), float(abs(exact))) + NORMAL


@settings(max_examples=120)
@given(st.data())
def test_any_plan_against_exact_arithmetic(data: st.DataObject) -> None:
    plan = data.draw(plans(max_steps=10))
    setting = data.draw(theory_settings(plan.num_steps))
    assert_exact(setting, plan, PRECISION)
    outcome = evaluate(setting.problem(), plan)
    theory = DirectTheory(setting)
    exact = float(theory.distances(theory.plan(plan.to_nested())[0]))
    # An error relative to the output, where the distance is small against it.
    scale = float(np.exp(setting.problem().log_scale).max()) if setting.objective == "data" else 0.0
    assert outcome.w2 == pytest.approx(exact, rel=1e-9, abs=1e-12 * scale + SQUARE_UNDERFLOW)


def random_tree(rng: np.random.Generator, start: int, stop: int) -> Any:
    if start - stop == 1:
        return start
    count = int(rng.integers(1, min(start - stop, 8)))
    inner = sorted(rng.choice(np.arange(stop + 1, start), count, replace=False), reverse=True)
    return [random_tree(rng, int(a), int(b)) for a, b in pairwise([start, *inner, stop])]


@pytest.mark.parametrize("merge_rule", ["operator-copy", "denoiser-copy"])
@pytest.mark.parametrize("seed", range(8))
def test_long_training_keeps_every_digit(merge_rule: Any, seed: int) -> None:
    """s = 30, 16 decades of λ: b and P agree in up to 26 digits, and b - P keeps 10 of its own.

    A retention exp(-60 n_t) leaves the normal numbers at n_t = 11.8 and is 0 from n_t = 12.42
    on. There a merge adds exactly 0, and its true excess is below 1e-300.
    """
    rng = np.random.default_rng(seed)
    num_steps = int(rng.integers(2, 41))
    eigenvalues = np.append(10.0 ** np.arange(-8, 9), [0.7, 0.999, 1.001, 1.5, 3.3])
    setting = Setting(
        cosine_schedule(num_steps),
        tuple(np.sort(eigenvalues)[::-1].tolist()),
        time=30.0,
        merge_rule=merge_rule,
    )
    plan = Plan.from_nested([random_tree(rng, num_steps, 0)])
    assert_exact(setting, plan, 1e-10)
    problem = setting.problem()
    outcome = evaluate(problem, plan)
    assert (problem.retentions[1:][problem.teacher.variances[1:] > 745.2 / 60] == 0).all()
    assert (problem.retentions[1:][problem.teacher.variances[1:] < 744.4 / 60] > 0).all()
    trained = np.array([merge.start for merge in plan.merges])
    assert (outcome.local_excess[problem.retentions[trained] == 0] == 0).all()
    # What is trained at T, where n_T = 1 for every eigenvalue, has not underflowed.
    assert (outcome.excess != 0).all()


def test_a_thousand_short_steps_keep_their_digits() -> None:
    """λ = 1: every step is cos φ, so BOOT's excess is T - 1 times log(1 + ρ (1/cos φ - 1))."""
    problem = problem_of(1.0, num_steps=1000, time=30.0)
    outcome = evaluate(problem, build_strategy("boot", 1000))
    with mpmath.workdps(60):
        angle, retention = mpmath.pi / 2000, mpmath.exp(-60)
        exact = float(999 * mpmath.log1p(retention * (1 / mpmath.cos(angle) - 1)))
    # Coefficients rounded to 1e-16 leave ten digits of A_t - 1 = -1.2e-6, more in the sum.
    np.testing.assert_allclose(outcome.local_excess, exact / 999, rtol=1e-9)
    assert outcome.excess[0] == pytest.approx(exact, rel=1e-10)


def test_merges_whose_retention_underflows_cost_nothing() -> None:
    """K = 2 with nothing trained at T: every merge reads z_7 or less, n_7 > 100."""
    plan = Plan.from_nested([8, [[7, 6], 5, [4, 3, [2, 1]]]])
    outcome = evaluate(problem_of(1e4, num_steps=8, time=30.0), plan)
    assert outcome.excess.tolist() == [0.0]
    assert outcome.w2 == 0.0
    assert outcome.error_shares().tolist() == [0.0] * 4


@settings(max_examples=30)
@given(st.data())
def test_a_full_covariance_is_the_same_problem_in_its_eigenbasis(data: st.DataObject) -> None:
    plan = data.draw(plans(max_steps=6))
    merge_rule = data.draw(st.sampled_from(get_args(MergeRule)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mixing = rng.standard_normal((4, 5))
    covariance = mixing @ mixing.T / 4
    values, basis = np.linalg.eigh(covariance)
    schedule = cosine_schedule(plan.num_steps)
    problem = Problem(
        eigenvalue_spectrum(values), schedule, GradientFlow(0.3), merge_rule=merge_rule
    )
    outcome = evaluate(problem, plan)
    dense = DenseTheory(schedule, covariance, time=0.3)
    operator = dense.plan(plan, merge_rule)
    product = np.exp(outcome.excess + problem.teacher.log_composite(0, plan.num_steps))
    np.testing.assert_allclose(basis[:, ::-1] * product @ basis[:, ::-1].T, operator, atol=1e-10)
    # Bures: a difference of traces good to 1e-15, hence half the digits of a small distance.
    zero = np.zeros(4)
    teacher = dense.output(dense.composite(0, plan.num_steps))
    dense_w2 = gaussian_w2(zero, dense.output(operator), zero, teacher)
    assert outcome.w2 == pytest.approx(dense_w2, abs=1e-6)


# The table and the identities of THEORY 4 to 7


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("vanilla", [3.2557e-6, 5.1882e-8, 1.5568e-6]),
        ("boot", [4.6498e-6, 5.1399e-8, 1.0074e-6]),
        ("consistency", [1.7834e-5, 1.655e-6, 2.990e-2]),
        ("progressive", [4.4978e-6, 1.5687e-7, 6.251e-3]),
    ],
)
def test_the_table_of_64_steps(strategy: str, expected: list[float]) -> None:
    """|b - P| at s = 6.4 for λ = 5, 1, 0.2; n_T = 1, so the errors are its squares."""
    outcome = evaluate(problem_of(5.0, 1.0, 0.2), build_strategy(strategy, 64))
    # Half a unit of the fourth digit, the last of the shortest entries.
    np.testing.assert_allclose(np.sqrt(outcome.errors), expected, rtol=2e-4)


@given(retentions, st.floats(0, 10), st.floats(0, 10))
def test_the_splitting_identity(retention: float, first: float, second: float) -> None:
    """Two merges at the same step, one after the other, against one of both (THEORY 7.1)."""
    kept, gamma = retention, 1 - retention

    def merged(factor: float) -> float:
        return kept + gamma * factor

    difference = merged(first) * merged(second) - merged(first * second)
    expected = -gamma * kept * (1 - first) * (1 - second)
    assert difference == pytest.approx(expected, abs=1e-12)


@given(st.floats(0.05, 20.0), merge_times, st.integers(3, 12), st.data())
def test_splitting_a_merge_moves_the_student_as_the_identity_says(
    value: float, time: float, num_steps: int, data: st.DataObject
) -> None:
    split = data.draw(st.integers(1, num_steps - 2))
    problem = problem_of(value, num_steps=num_steps, time=time)
    steps = list(range(num_steps, 0, -1))
    noisy = steps[: num_steps - split]
    whole = evaluate(problem, Plan.from_nested([steps]))
    parts = evaluate(problem, Plan.from_nested([[noisy, *steps[num_steps - split :]]]))
    teacher = problem.teacher
    above = -np.expm1(teacher.log_composite(split, num_steps - 1))  # 1 - P, 1 - Q
    below = -np.expm1(teacher.log_composite(0, split))
    retention = problem.retentions[-1]
    operator = np.exp(teacher.log_steps[-1])
    composite = np.exp(teacher.log_composite(0, num_steps))
    found = composite * (np.expm1(parts.excess) - np.expm1(whole.excess))
    expected = -operator * retention * (1 - retention) * above * below
    size = composite * np.abs(np.expm1([parts.excess, whole.excess])).max()
    assert abs(found - expected) <= 1e-12 * size


@given(st.data())
def test_excess_is_to_first_order_a_sum_over_merges(data: st.DataObject) -> None:
    """Σ ρ_j (init/target - 1) with every operator the teacher's (THEORY 4)."""
    plan = data.draw(plans(max_steps=8))
    values = data.draw(st.sets(st.floats(0.3, 3.0), min_size=1, max_size=3))
    spectrum, schedule = eigenvalue_spectrum(list(values)), cosine_schedule(plan.num_steps)
    problem = Problem(spectrum, schedule, GradientFlow(30.0), "operator-copy")
    local = np.zeros((len(plan.merges) + 1, len(values)))
    for row, merge in enumerate(plan.merges):
        rest = problem.teacher.log_composite(merge.stop, merge.split)
        local[row] = problem.retentions[merge.start] * np.expm1(-rest)
    excess = evaluate(problem, plan).excess
    # The next order is ρ <= exp(-60 · 0.3) = 1.5e-8 smaller, times 1/P <= 1/0.3 for each merge.
    size = np.abs(local).max(axis=0)
    np.testing.assert_array_less(np.abs(excess - local.sum(axis=0)), 1e-6 * size + 1e-300)


def test_denoiser_copy_keeps_the_estimate_of_the_data() -> None:
    """A teacher step copied as a denoiser starts at J = <v_s, v_t> / |v_t|² (THEORY 2, 4)."""
    problem = problem_of(3.0, 1.0, 0.2, num_steps=6, merge_rule="denoiser-copy")
    teacher, schedule = problem.teacher, problem.schedule
    for start, stop in [(6, 0), (5, 2), (3, 0)]:
        offset, _ = initial_coefficients(problem, start, start - 1, stop)
        a, s = schedule.alphas, schedule.sigmas
        inner = a[stop] * a[start] * teacher.eigenvalues + s[stop] * s[start]
        jump = inner / teacher.variances[start]
        initial = (1 + offset) * np.exp(teacher.log_composite(stop, start))
        np.testing.assert_allclose(initial, jump, rtol=1e-12, atol=1e-15)


def test_operator_copy_starts_from_the_first_operator() -> None:
    problem = problem_of(3.0, 1.0, 0.2, num_steps=6)
    for start, split, stop in [(6, 5, 0), (5, 3, 2), (3, 2, 0)]:
        offset, gain = initial_coefficients(problem, start, split, stop)
        composite = np.exp(problem.teacher.log_composite(stop, start))
        first = np.exp(problem.teacher.log_composite(split, start))
        np.testing.assert_allclose((1 + offset) * composite, first, rtol=1e-13)
        np.testing.assert_allclose(gain * composite, first, rtol=1e-13)


# Invariants


@settings(max_examples=80)
@given(st.data())
def test_invariants_of_an_outcome(data: st.DataObject) -> None:
    plan = data.draw(plans(max_steps=16, max_students=4))
    setting = data.draw(theory_settings(plan.num_steps))
    problem = setting.problem()
    outcome = evaluate(problem, plan)
    assert outcome.local_excess.shape == (len(plan.merges), len(setting.eigenvalues))
    finite = np.isfinite(outcome.excess)  # log 0 where a single step from noise to data forgets
    np.testing.assert_allclose(
        outcome.local_excess.sum(axis=0)[finite],
        outcome.excess[finite],
        rtol=1e-12,
        atol=1e-14 * np.abs(outcome.local_excess[:, finite]).max(initial=0.0),
    )
    shares = outcome.error_shares()
    assert shares.shape == (len(plan.merges),)
    assert (shares >= 0).all()
    if finite.all() and (np.abs(outcome.local_excess).sum(axis=0) * outcome.errors).any():
        assert shares.sum() == pytest.approx(1.0, rel=1e-12)
    assert outcome.w2 == pytest.approx(math.sqrt(outcome.errors.sum()), rel=1e-12)
    # The law of the student's output against the target's, as dense covariances.
    spread = np.exp(problem.teacher.log_output) * np.exp(outcome.excess)
    target = np.exp(problem.teacher.log_output + problem.target_excess)
    if max(spread.max(), target.max()) < 1e6 and sum(setting.multiplicities) < 50:
        counts = problem.multiplicities.astype(int)
        covariances = [np.diag(np.repeat(scale**2, counts)) for scale in (spread, target)]
        zero = np.zeros(counts.sum())
        dense = gaussian_w2(zero, covariances[0], zero, covariances[1])
        size = math.sqrt(np.trace(covariances[0] + covariances[1]))
        assert outcome.w2 == pytest.approx(dense, abs=1e-6 * size)


@settings(max_examples=50)
@given(st.data())
def test_students_multiply(data: st.DataObject) -> None:
    """The excess of K trees is the sum of theirs, each with the teacher for all the other steps."""
    plan = data.draw(plans(max_steps=12, max_students=4))
    setting = data.draw(theory_settings(plan.num_steps))
    problem = setting.problem()
    total = np.zeros(len(setting.eigenvalues))
    for position in range(plan.student_steps):
        steps = range(plan.num_steps, 0, -1)
        alone = plan.students[position]
        before = [Tree(t, t - 1) for t in steps if t > alone.start]
        after = [Tree(t, t - 1) for t in steps if t <= alone.stop]
        total += evaluate(problem, Plan((*before, alone, *after))).excess
    excess = evaluate(problem, plan).excess
    np.testing.assert_allclose(excess, total, rtol=1e-12, atol=1e-12 * np.abs(total).max())


def test_the_teacher_itself_has_no_error() -> None:
    problem = problem_of(2.0, 0.5, num_steps=5)
    outcome = evaluate(problem, build_strategy("vanilla", 5, 5))
    assert outcome.plan.to_nested() == [5, 4, 3, 2, 1]
    assert outcome.w2 == 0.0
    assert outcome.error_shares().shape == (0,)
    to_data = evaluate(problem_of(2.0, 0.5, num_steps=5, objective="data"), outcome.plan)
    assert to_data.w2 == pytest.approx(problem.teacher_to_data, rel=1e-13)
    teacher = np.exp(problem.teacher.log_output)
    gap = np.linalg.norm(teacher - np.sqrt(problem.eigenvalues))
    assert problem.teacher_to_data == pytest.approx(gap, rel=1e-12)


def test_a_student_can_come_closer_to_the_data_than_its_teacher() -> None:
    """λ < 1: short of the target it overshoots the teacher, which itself shrinks (THEORY 6)."""
    problem = problem_of(0.2, num_steps=64, time=2.0, objective="data")
    student = evaluate(problem, build_strategy("boot", 64))
    assert student.excess[0] > 0
    assert student.w2 < problem.teacher_to_data


@settings(max_examples=30)
@given(st.data())
def test_a_zero_eigenvalue_is_the_limit(data: st.DataObject) -> None:
    """λ = 0: the teacher ends at 0 exactly, and the student at what training has left."""
    plan = data.draw(plans(max_steps=8))
    setting = Setting(
        data.draw(schedules(plan.num_steps)),
        (0.5, 0.0),
        time=data.draw(merge_times),
        merge_rule=data.draw(st.sampled_from(get_args(MergeRule))),
    )
    theory = DirectTheory(setting)
    exact = float(theory.distances(theory.plan(plan.to_nested())[0]))
    found = evaluate(setting.problem(), plan).w2
    # λ = 1e-100 stands for 0: the teacher's output is then at most 1e-50.
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-45)


# Problems


def test_equal_eigenvalues_are_one_with_their_multiplicity() -> None:
    problem = Problem(eigenvalue_spectrum([2, 0.5, 2, 0], [1, 3, 2, 4]), cosine_schedule(4))
    assert problem.eigenvalues.tolist() == [2.0, 0.5, 1e-100]
    assert problem.multiplicities.tolist() == [3.0, 3.0, 4.0]
    plan = build_strategy("vanilla", 4)
    apart = Problem(eigenvalue_spectrum([2, 2, 2, 0.5, 0.5, 0.5, 0, 0, 0, 0]), cosine_schedule(4))
    assert evaluate(problem, plan).w2 == pytest.approx(evaluate(apart, plan).w2, rel=1e-14)


def test_uncovered_coordinates_share_the_remaining_variance() -> None:
    spectrum = Spectrum(
        np.array([2.0, 0.5]),
        np.ones(2),
        None,
        None,
        10,
        "given",
        "as given",
        "top-k",
        remaining_trace=0.8,
        remaining_dimensions=4,
    )
    problem = Problem(spectrum, cosine_schedule(4))
    assert problem.eigenvalues.tolist() == [2.0, 0.5, 0.2]
    assert problem.multiplicities.tolist() == [1.0, 1.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"merge_rule": "copy"},
            "`merge_rule` must be one of operator-copy, denoiser-copy, got copy",
        ),
        ({"objective": "both"}, "`objective` must be one of teacher, data, got both"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        problem_of(1.0, num_steps=4, **options)
    assert str(error.value) == message


def test_a_plan_for_other_steps_is_refused() -> None:
    with pytest.raises(InputError) as error:
        evaluate(problem_of(1.0, num_steps=4), build_strategy("boot", 5))
    assert str(error.value) == "`plan` must have 4 steps, as the problem, got 5"


def test_noise_left_in_clean_data_counts() -> None:
    """σ_0 > 0: the target of the data objective is still N(0, Λ)."""
    schedule = arrays_schedule([0.99, 0.6, 0.0], [0.1, 0.8, 1.0])
    problem = Problem(eigenvalue_spectrum([2.0]), schedule, objective="data")
    outcome: Outcome = evaluate(problem, build_strategy("vanilla", 2))
    student = math.exp(outcome.excess[0] + problem.teacher.log_composite(0, 2)[0])
    assert outcome.w2 == pytest.approx(abs(student - math.sqrt(2.0)), rel=1e-12)


@pytest.mark.parametrize("rule", get_args(MergeRule))
def test_starts_of_many_students_are_those_of_each(rule: MergeRule) -> None:
    problem = Problem(eigenvalue_spectrum([4.0, 1.0, 0.1]), cosine_schedule(9), merge_rule=rule)
    ends = np.array([[9, 8, 0], [7, 4, 3], [5, 2, 1], [9, 3, 2]]).T
    together = np.array(initial_coefficients(problem, *ends))
    each = [initial_coefficients(problem, *map(int, steps)) for steps in ends.T]
    assert together.shape == (2, 4, 3)
    np.testing.assert_allclose(together, np.swapaxes(each, 0, 1), rtol=1e-14)
