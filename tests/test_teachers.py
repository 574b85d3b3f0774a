"""The linear teacher against THEORY 2: numbers, geometry, limits, and a full covariance."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DenseTheory, DirectTheory, Setting
from strategies import eigenvalue, schedules, spectra_of

from opmerge.errors import InputError
from opmerge.linear_teacher import SMALLEST_EIGENVALUE, LinearTeacher
from opmerge.schedules import (
    NoiseSchedule,
    arrays_schedule,
    cosine_schedule,
    equal_angle_schedule,
)

# Sums of T logarithms, each good to a few roundings.
ROUNDING = 1e-13


def cosine_teacher(num_steps: int, *eigenvalues: float) -> LinearTeacher:
    return LinearTeacher(cosine_schedule(num_steps), np.array(eigenvalues))


def shrinkage(teacher: LinearTeacher) -> Any:
    """P(0, T)."""
    return np.exp(teacher.log_composite(0, teacher.num_steps))


# Numbers and closed forms of THEORY 2


@pytest.mark.parametrize(
    ("num_steps", "eigenvalue", "expected"),
    [
        (64, 1.0, 0.980906135215),
        (256, 1.0, 0.995192420569),
        (64, 0.2, 0.4357934419),
        (64, 0.5, 0.6927944591),
        (64, 1.02, 0.9906656992),
        (64, 2.0, 1.385588918),
        (64, 5.0, 2.178967209),
    ],
)
def test_known_composites(num_steps: int, eigenvalue: float, expected: float) -> None:
    # Half a unit of the tenth digit, the last of most of these numbers.
    assert shrinkage(cosine_teacher(num_steps, eigenvalue)) == pytest.approx(expected, rel=5e-10)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 64, 256, 1000])
def test_unit_variance_shrinks_by_equal_cosines(num_steps: int) -> None:
    expected = math.cos(math.pi / (2 * num_steps)) ** num_steps
    # T = 1 jumps by a right angle; its cosine is 6e-17 in one arithmetic, 0 in the other.
    assert shrinkage(cosine_teacher(num_steps, 1.0)) == pytest.approx(
        expected, rel=1e-12, abs=1e-16
    )


@given(eigenvalue, st.integers(2, 40))
def test_relative_shrinkage_does_not_change_under_inversion(value: float, num_steps: int) -> None:
    teacher = cosine_teacher(num_steps, value, 1 / value)
    relative = teacher.log_composite(0, num_steps) - 0.5 * np.log(teacher.eigenvalues)
    # The angles of λ and 1/λ are the same in reverse; logarithms here stay below 10 T.
    assert relative[0] == pytest.approx(relative[1], rel=1e-11)


@pytest.mark.parametrize("value", [0.05, 0.7, 1.0, 3.0, 40.0])
@pytest.mark.parametrize(("stop", "start"), [(0.0, 1.0), (0.25, 1.0), (0.0, 0.5), (0.25, 0.75)])
def test_many_steps_only_rescale(value: float, stop: float, start: float) -> None:
    """P(i, j) → √(n_i / n_j); what is missing is Σ φ²/2, which halves as T doubles."""

    def missing(num_steps: int) -> float:
        teacher = cosine_teacher(num_steps, value)
        i, j = round(stop * num_steps), round(start * num_steps)
        scale = 0.5 * np.log(teacher.variances[i] / teacher.variances[j])
        return float((scale - teacher.log_composite(i, j))[0])

    coarse, fine = missing(4096), missing(8192)
    # Σ φ_t² <= max φ_t Σ φ_t, and φ_t <= (π/2T) max(√λ, 1/√λ), Σ φ_t <= π/2.
    longest = math.pi / 16384 * max(math.sqrt(value), 1 / math.sqrt(value))
    assert 0 < fine < 0.51 * longest * math.pi / 2
    # The next order is φ² smaller, (π/8192)² · 40 at most, times a constant.
    assert coarse / fine == pytest.approx(2.0, abs=1e-3)


def test_equal_angles_have_the_known_ratio() -> None:
    teacher = LinearTeacher(equal_angle_schedule(16, 2.0), np.array([2.0]))
    ratio = shrinkage(teacher) / math.sqrt(2.0)
    assert ratio == pytest.approx(math.cos(math.pi / 32) ** 16, rel=ROUNDING)
    assert ratio == pytest.approx(0.9256764923, abs=5e-11)


@given(eigenvalue, schedules(16))
def test_equal_angles_shrink_least(value: float, other: NoiseSchedule) -> None:
    best = LinearTeacher(equal_angle_schedule(16, value), np.array([value]))
    assert best.log_cosines.sum() == pytest.approx(16 * math.log(math.cos(math.pi / 32)), rel=1e-11)
    # A schedule between other ends turns less, so it is compared with equal parts of its turn.
    teacher = LinearTeacher(other, np.array([value]))
    ends = np.arctan2(other.sigmas[[0, -1]], other.alphas[[0, -1]] * math.sqrt(value))
    turn = float(ends[1] - ends[0]) / 16
    assert teacher.log_cosines.sum() <= 16 * math.log(math.cos(turn)) + 1e-11


@given(st.data())
def test_the_teacher_shrinks(data: st.DataObject) -> None:
    """P(0, T) √n_T < √λ wherever z_0 is clean, and by how much is ``log_data_ratio``."""
    teacher = LinearTeacher(
        data.draw(schedules(data.draw(st.integers(1, 12)))), np.array(data.draw(spectra_of()))
    )
    ratio = 0.5 * np.log(teacher.eigenvalues) - teacher.log_output
    np.testing.assert_allclose(teacher.log_data_ratio, ratio, rtol=1e-12, atol=1e-12)
    if teacher.schedule.sigmas[0] == 0:
        assert (teacher.log_data_ratio > 0).all()


# Geometry


@given(st.data())
def test_composites_are_lengths_times_cosines(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(1, 12))
    schedule = data.draw(schedules(num_steps))
    teacher = LinearTeacher(schedule, np.array(data.draw(spectra_of())))
    start = data.draw(st.integers(1, num_steps))
    stop = data.draw(st.integers(0, start - 1))
    signal = schedule.alphas[:, None] * np.sqrt(teacher.eigenvalues)
    noise = np.broadcast_to(schedule.sigmas[:, None], signal.shape)
    length, angle = np.hypot(signal, noise), np.arctan2(noise, signal)
    np.testing.assert_allclose(np.sqrt(teacher.variances), length, rtol=1e-14)

    def log_cosines(angles: Any) -> Any:
        return np.log(np.maximum(np.cos(angles), 1e-300))

    turned = log_cosines(np.diff(angle[stop : start + 1], axis=0)).sum(axis=0)
    scale = np.log(length[stop] / length[start])
    # An angle is good to 1e-16 and its cosine, over 12 decades of λ, at least 1e-6, except for a
    # right angle: the cosine is 6e-17 here and stands at a floor there.
    oblique = turned > -30
    np.testing.assert_allclose(
        teacher.log_composite(stop, start)[oblique], (scale + turned)[oblique], rtol=0, atol=1e-9
    )
    jump = log_cosines(angle[start] - angle[stop])
    oblique = jump > -30
    np.testing.assert_allclose(
        teacher.log_cosine(stop, start)[oblique], jump[oblique], rtol=0, atol=1e-9
    )


@settings(max_examples=50)
@given(st.data())
def test_operators_against_exact_arithmetic(data: st.DataObject) -> None:
    num_steps = data.draw(st.integers(2, 12))
    setting = Setting(data.draw(schedules(num_steps)), data.draw(spectra_of()))
    teacher, theory = setting.problem().teacher, DirectTheory(setting)
    start = data.draw(st.integers(2, num_steps))
    stop = data.draw(st.integers(0, start - 2))
    for d, value in enumerate(theory.composite(stop, start)):
        exact = mpmath.log(value)
        # Differences of sums of logarithms: the error is that of the largest of them.
        largest = float(np.abs(teacher.log_products[:, d]).max())
        error = float(abs(exact - mpmath.mpf(float(teacher.log_composite(stop, start)[d]))))
        assert error <= 1e-14 * (1 + largest) * num_steps
    for t in range(1, num_steps + 1):
        for d, value in enumerate(theory.steps[t]):
            if value == 0:  # from pure noise to clean data: stands at the floor
                continue
            error = float(abs(mpmath.log(value) - mpmath.mpf(float(teacher.log_steps[t, d]))))
            # Full relative precision next to A_t = 1: what is left is the rounding of the
            # schedule's own differences, exact here, times growth and decay against their sum.
            assert error <= 1e-14 * max(float(abs(1 - value)), _terms(setting, t, d))


def _terms(setting: Setting, t: int, d: int) -> float:
    """Size of the growth and decay terms whose difference is A_t - 1, or 1 where that is large."""
    a, s = setting.schedule.alphas, setting.schedule.sigmas
    value = setting.eigenvalues[d]
    growth, decay = a[t] * (a[t - 1] - a[t]) * value, s[t] * (s[t] - s[t - 1])
    change = (growth - decay) / (a[t] ** 2 * value + s[t] ** 2)
    if abs(change) >= 0.5:
        return 1.0 + abs(math.log(abs(1 + change))) if change > -1 else 1.0
    return float((abs(growth) + abs(decay)) / (a[t] ** 2 * value + s[t] ** 2))


@settings(max_examples=50)
@given(st.data())
def test_a_jump_falls_short_of_the_steps(data: st.DataObject) -> None:
    """1 - J/P against exact arithmetic, J = <v_s, v_t> / |v_t|²."""
    num_steps = data.draw(st.integers(2, 12))
    setting = Setting(data.draw(schedules(num_steps)), data.draw(spectra_of()))
    teacher, theory = setting.problem().teacher, DirectTheory(setting)
    start = data.draw(st.integers(2, num_steps))
    stop = data.draw(st.integers(0, start - 2))
    a, s = theory.alphas, theory.sigmas
    inner = a[stop] * a[start] * theory.eigenvalues + s[stop] * s[start]
    jump = inner / theory.variances[start]
    exact = 1 - jump / theory.composite(stop, start)
    found = teacher.jump_deficit(stop, start)
    assert (found >= 0).all()
    # One logarithm of a cosine against the sum of several: relative to the larger of them.
    scale = np.abs(teacher.log_cosine(stop, start))
    error = np.abs(np.array([float(value) for value in exact]) - found)
    assert (error <= 1e-13 * np.minimum(scale + 1e-300, 1) * num_steps).all()


def test_a_full_covariance_is_the_same_problem_in_its_eigenbasis() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 5))
    covariance = mixing @ mixing.T / 5
    values, basis = np.linalg.eigh(covariance)
    teacher = LinearTeacher(cosine_schedule(12), values)
    dense = DenseTheory(cosine_schedule(12), covariance, time=1.0)
    for stop, start in [(0, 12), (0, 1), (3, 9), (11, 12)]:
        diagonal = basis * np.exp(teacher.log_composite(stop, start)) @ basis.T
        np.testing.assert_allclose(diagonal, dense.composite(stop, start), atol=1e-12)


# Edges


def test_a_single_step_from_noise_to_data_forgets() -> None:
    """α_1 = σ_0 = 0: A_1 = 0 for every eigenvalue; its logarithm stands at a floor."""
    teacher = LinearTeacher(arrays_schedule([1, 0], [0, 1]), np.array([3.0, 0.5]))
    assert (shrinkage(teacher) < 1e-290).all()
    assert np.isfinite(teacher.log_products).all()


def test_zero_eigenvalues_stand_at_the_smallest() -> None:
    teacher = cosine_teacher(8, 1.0, 0.0)
    assert teacher.eigenvalues.tolist() == [1.0, SMALLEST_EIGENVALUE]
    assert np.isfinite(teacher.log_products).all()
    assert shrinkage(teacher)[1] < 1e-90


def test_what_is_given_is_copied_and_read_only() -> None:
    values = np.array([1.0, 2.0])
    teacher = LinearTeacher(cosine_schedule(4), values)
    values[0] = 9.0
    assert teacher.eigenvalues.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        teacher.eigenvalues[0] = 3.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], r"`eigenvalues` must be a non-empty vector, got (0,)"),
        ([[1.0]], r"`eigenvalues` must be a non-empty vector, got (1, 1)"),
        ([1.0, -1e-9], "`eigenvalues` must be finite and >= 0, got -1e-09"),
        ([np.nan, 1.0], "`eigenvalues` must be finite and >= 0, got nan"),
        ([1.0, np.inf], "`eigenvalues` must be finite and >= 0, got inf"),
    ],
)
def test_wrong_eigenvalues_are_refused(values: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        LinearTeacher(cosine_schedule(4), np.array(values))
    assert str(error.value) == message
