"""Noise schedules against closed forms, through JSON, and what they refuse."""

from __future__ import annotations

import json
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import NAMED_SCHEDULES

from opmerge.errors import InputError
from opmerge.schedules import (
    NoiseSchedule,
    arrays_schedule,
    cosine_schedule,
    equal_angle_schedule,
    linear_schedule,
    nichol_dhariwal_schedule,
    scaled_linear_schedule,
)

# A handful of roundings of numbers of order one.
ROUNDING = 1e-14


def raises(message: str) -> Any:
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def assert_same(one: NoiseSchedule, other: NoiseSchedule) -> None:
    np.testing.assert_array_equal(one.alphas, other.alphas)
    np.testing.assert_array_equal(one.sigmas, other.sigmas)
    assert (one.name, one.parameters) == (other.name, other.parameters)
    assert (one.timesteps, one.notes) == (other.timesteps, other.notes)


def as_json(schedule: NoiseSchedule) -> Any:
    return json.loads(json.dumps(schedule.to_dict(), allow_nan=False))


def shrinkage(schedule: NoiseSchedule, eigenvalue: float) -> float:
    """P(0, T) = product of <v_{t-1}, v_t> / |v_t|^2 (THEORY 2)."""
    vectors = np.stack([schedule.alphas * math.sqrt(eigenvalue), schedule.sigmas])
    products = (vectors[:, :-1] * vectors[:, 1:]).sum(axis=0)
    return float(np.prod(products / (vectors[:, 1:] ** 2).sum(axis=0)))


# --- closed forms ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_steps", [1, 2, 7, 64, 1000])
def test_plain_cosine_is_the_cosine_and_ends_exactly(num_steps: int) -> None:
    schedule = cosine_schedule(num_steps)
    # 5e-16: the angle is rounded twice, here and there, and so is its sine.
    for t in range(num_steps + 1):
        angle = math.pi * t / (2 * num_steps)
        assert schedule.alphas[t] == pytest.approx(math.cos(angle), abs=5e-16)
        assert schedule.sigmas[t] == pytest.approx(math.sin(angle), abs=5e-16)
    assert (schedule.alphas[0], schedule.sigmas[0]) == (1, 0)
    assert (schedule.alphas[-1], schedule.sigmas[-1]) == (0, 1)
    assert schedule.num_steps == num_steps
    assert schedule.notes == ()


@pytest.mark.parametrize(
    ("num_steps", "eigenvalue", "expected"),
    [  # THEORY 2
        (64, 1, 0.980906135215),
        (256, 1, 0.995192420569),
        (64, 0.2, 0.4357934419),
        (64, 0.5, 0.6927944591),
        (64, 1.02, 0.9906656992),
        (64, 2, 1.385588918),
        (64, 5, 2.178967209),
    ],
)
def test_plain_cosine_gives_the_shrinkage_on_record(
    num_steps: int, eigenvalue: float, expected: float
) -> None:
    digits = 0.5 * 10.0 ** -(len(str(expected)) - 2)
    assert shrinkage(cosine_schedule(num_steps), eigenvalue) == pytest.approx(expected, abs=digits)


@given(st.integers(1, 64), st.floats(1e-6, 1e6))
def test_equal_angles_are_equal(num_steps: int, eigenvalue: float) -> None:
    schedule = equal_angle_schedule(num_steps, eigenvalue)
    angles = np.arctan2(schedule.sigmas, schedule.alphas * math.sqrt(eigenvalue))
    np.testing.assert_allclose(np.diff(angles), math.pi / (2 * num_steps), atol=ROUNDING)
    np.testing.assert_allclose(np.hypot(schedule.alphas, schedule.sigmas), 1, rtol=ROUNDING)
    expected = math.sqrt(eigenvalue) * math.cos(math.pi / (2 * num_steps)) ** num_steps
    if num_steps > 1:
        assert shrinkage(schedule, eigenvalue) == pytest.approx(expected, rel=1e-12)


def test_equal_angles_shrink_least() -> None:
    # THEORY 2: cos(pi/32)^16, and no schedule of 16 steps does better at that eigenvalue.
    best = shrinkage(equal_angle_schedule(16, 2), 2) / math.sqrt(2)
    assert best == pytest.approx(0.9256764923, abs=5e-11)
    for other in (cosine_schedule(16), nichol_dhariwal_schedule(16), equal_angle_schedule(16, 3)):
        assert shrinkage(other, 2) / math.sqrt(2) < best


def test_equal_angles_of_unit_variance_are_the_plain_cosine() -> None:
    one, other = equal_angle_schedule(20, 1), cosine_schedule(20)
    np.testing.assert_allclose(one.alphas, other.alphas, atol=ROUNDING)
    np.testing.assert_allclose(one.sigmas, other.sigmas, atol=ROUNDING)


@pytest.mark.parametrize("offset", [0.0, 1e-6, 0.008, 0.5, 1e6])
def test_nichol_dhariwal_is_its_formula_in_many_digits(offset: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    schedule = nichol_dhariwal_schedule(50, offset)
    with mpmath.workdps(60):
        shift = mpmath.mpf(offset)
        for t in range(51):
            angle = (mpmath.mpf(t) / 50 + shift) / (1 + shift) * mpmath.pi / 2
            signal = mpmath.cos(angle) ** 2 / mpmath.cos(shift / (1 + shift) * mpmath.pi / 2) ** 2
            alpha, sigma = mpmath.sqrt(signal), mpmath.sqrt(1 - signal)
            assert float(schedule.alphas[t]) == pytest.approx(float(alpha), rel=ROUNDING, abs=1e-29)
            assert float(schedule.sigmas[t]) == pytest.approx(float(sigma), rel=ROUNDING, abs=1e-29)
    assert (schedule.alphas[0], schedule.sigmas[0]) == (1, 0)
    assert (schedule.alphas[-1], schedule.sigmas[-1]) == (0, 1)


def test_nichol_dhariwal_without_offset_is_the_plain_cosine() -> None:
    one, other = nichol_dhariwal_schedule(64, 0.0), cosine_schedule(64)
    np.testing.assert_allclose(one.alphas, other.alphas, rtol=ROUNDING)
    np.testing.assert_allclose(one.sigmas, other.sigmas, rtol=ROUNDING)


# --- the record -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 7, 64])
def test_named_schedules_go_through_json_as_name_and_parameters(name: str, num_steps: int) -> None:
    schedule = NAMED_SCHEDULES[name](num_steps)
    stored = as_json(schedule)
    assert stored.keys() == {"name", "parameters"}
    assert_same(NoiseSchedule.from_dict(stored, num_steps), schedule)


@given(st.data())
def test_any_arrays_go_through_json_bit_for_bit(data: st.DataObject) -> None:
    angles = data.draw(
        st.lists(st.integers(0, 1000), min_size=2, max_size=20, unique=True).map(sorted)
    )
    lengths = data.draw(
        st.lists(st.floats(0.1, 10), min_size=len(angles), max_size=len(angles)).map(np.array)
    )
    turn = np.array(angles) * (math.pi / 2000)
    schedule = arrays_schedule(lengths * np.cos(turn), lengths * np.sin(turn))
    assert_same(NoiseSchedule.from_dict(as_json(schedule), len(angles) - 1), schedule)


def test_arrays_are_stored_as_such() -> None:
    stored = arrays_schedule([1, 0.6, 0], [0, 0.8, 1]).to_dict()
    assert stored == {"name": "arrays", "alphas": [1, 0.6, 0], "sigmas": [0, 0.8, 1]}


def test_a_name_that_does_not_rebuild_the_arrays_does_not_replace_them() -> None:
    schedule = NoiseSchedule(np.array([1, 0.6, 0]), np.array([0, 0.8, 1]), name="cosine")
    assert as_json(schedule)["alphas"] == [1, 0.6, 0]
    assert_same(NoiseSchedule.from_dict(as_json(schedule), 2), schedule)


def test_the_record_is_a_read_only_copy_and_pickles() -> None:
    alphas, sigmas = np.array([1, 0.5]), np.array([0.0, 1])
    parameters = {"list": [1]}
    schedule = NoiseSchedule(alphas, sigmas, "mine", parameters, (3,), ("a note",))
    alphas[0] = 9
    parameters["list"].append(2)
    assert schedule.alphas[0] == 1
    assert schedule.parameters == {"list": [1]}
    with pytest.raises(ValueError, match="read-only"):
        schedule.sigmas[0] = 1
    assert_same(pickle.loads(pickle.dumps(schedule)), schedule)


def test_noise_left_at_the_data_side_is_allowed() -> None:
    assert arrays_schedule([0.8, 0.6], [0.6, 0.8]).sigmas[0] == 0.6


def test_a_schedule_that_does_not_preserve_variance_carries_a_note() -> None:
    flow = np.linspace(0, 1, 5)
    schedule = arrays_schedule(1 - flow, flow)
    assert schedule.notes == (
        "not variance preserving: alpha² + sigma² differs from 1 by up to 0.5",
    )
    assert_same(NoiseSchedule.from_dict(as_json(schedule), 4), schedule)
    assert arrays_schedule([1, 0], [0, 1 + 4e-7]).notes == ()
    assert arrays_schedule([1, 0], [0, 1 + 6e-7]).notes != ()


FALLING = "`alphas` must have alpha_t/sigma_t strictly falling with t, and t = {} does not, got {}"
ORDER = "; order the entries from data (index 0) to noise and give each state once"


@pytest.mark.parametrize(
    ("alphas", "sigmas", "message"),
    [
        ([1, 0], [0, 1, 2], "`sigmas` must have 2 entries, as alphas has, got 3"),
        ([1], [0], "`alphas` must have at least 2 entries (T + 1), got 1"),
        ([], [], "`alphas` must have at least 2 entries (T + 1), got 0"),
        ([1, math.nan], [0, 1], "`alphas[1]` must be finite and >= 0, got nan"),
        ([1, 0], [0, math.inf], "`sigmas[1]` must be finite and >= 0, got inf"),
        ([1, -0.1], [0, 1], "`alphas[1]` must be finite and >= 0, got -0.1"),
        ([1, 0], [-1, 1], "`sigmas[0]` must be finite and >= 0, got -1.0"),
        ([0, 0.6, 1], [1, 0.8, 0], FALLING.format(1, "0/1 then 0.6/0.8") + ORDER),
        ([1, 0.6, 0.6, 0], [0, 0.8, 0.8, 1], FALLING.format(2, "0.6/0.8 then 0.6/0.8") + ORDER),
        ([0, 0], [0, 1], FALLING.format(1, "0/0 then 0/1") + ORDER),
        ([1, 0.5], [0, 0], FALLING.format(1, "1/0 then 0.5/0") + ORDER),
        (
            [[1, 0]],
            [0, 1],
            "`alphas` must be a one-dimensional array of real numbers, got [[1, 0]]",
        ),
        (
            [1, [0, 1]],
            [0, 1],
            "`alphas` must be a one-dimensional array of real numbers, got [1, [0, 1]]",
        ),
        (
            [1, 0],
            ["0", "1"],
            "`sigmas` must be a one-dimensional array of real numbers, got ['0', '1']",
        ),
        ([1, 0j], [0, 1], "`alphas` must be a one-dimensional array of real numbers, got [1, 0j]"),
        (3, [0, 1], "`alphas` must be a one-dimensional array of real numbers, got 3"),
    ],
)
def test_coefficients_refused(alphas: Any, sigmas: Any, message: str) -> None:
    with raises(message):
        arrays_schedule(alphas, sigmas)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "`name` must be a string that is not empty, got ''"),
        ({"timesteps": (1,)}, "`timesteps` must have 2 entries, one a step, got 1"),
        ({"timesteps": (1, "2")}, "`timesteps` must be a finite number, got '2'"),
        ({"timesteps": (1, math.inf)}, "`timesteps` must be a finite number, got inf"),
        ({"notes": "one"}, "`notes` must be a sequence of strings, got 'one'"),
        ({"notes": (1,)}, "`notes` must be a sequence of strings, got (1,)"),
        (
            {"parameters": {"x": {1}}},
            "`parameters` must hold JSON values only (Object of type set is not JSON serializable)",
        ),
        (
            {"parameters": {"x": math.nan}},
            "`parameters` must hold JSON values only (Out of range float values are not JSON",
        ),
    ],
)
def test_other_fields_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        NoiseSchedule(np.array([1, 0.6, 0]), np.array([0, 0.8, 1]), **fields)


ARRAYS = {"name": "arrays", "alphas": [1, 0.6, 0], "sigmas": [0, 0.8, 1]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], "`schedule` must be an object, got [1]"),
        ({}, "`schedule.name` must be a string, got None"),
        ({"name": 3}, "`schedule.name` must be a string, got 3"),
        (
            {"name": "cosin"},
            (
                "`schedule.name` must be one of cosine, nichol-dhariwal, linear, scaled-linear, "
                "equal-angle, or come with alphas and sigmas, got 'cosin'"
            ),
        ),
        (
            {"name": "cosine", "steps": 3},
            (
                "`schedule` must have no keys but name, parameters, alphas, sigmas, timesteps, "
                "notes, got 'steps'"
            ),
        ),
        ({"name": "cosine", "parameters": [1]}, "`schedule.parameters` must be an object, got [1]"),
        (
            {"name": "cosine", "parameters": {"offset": 1}},
            "`schedule.parameters` of cosine must be empty, got 'offset'",
        ),
        (
            {"name": "nichol-dhariwal", "parameters": {"s": 1}},
            "`schedule.parameters` of nichol-dhariwal must hold offset only, got 's'",
        ),
        ({"name": "equal-angle"}, "`schedule.parameters` of equal-angle must hold eigenvalue"),
        (
            {"name": "equal-angle", "parameters": {"eigenvalue": "2"}},
            "`eigenvalue` must be a finite number, got '2'",
        ),
        (
            {"name": "cosine", "timesteps": [1, 2]},
            "`schedule.timesteps` must come with alphas and sigmas",
        ),
        (
            {"name": "arrays", "alphas": [1, 0.6, 0]},
            "`schedule.sigmas` must be a list of numbers, got None",
        ),
        ({**ARRAYS, "alphas": "1"}, "`schedule.alphas` must be a list of numbers, got '1'"),
        (
            {**ARRAYS, "alphas": [1, 0]},
            "`schedule.alphas` must have num_steps + 1 = 3 entries, got 2",
        ),
        (
            {**ARRAYS, "sigmas": [0, "a", 1]},
            "`schedule.sigmas[1]` must be a finite number, got 'a'",
        ),
        (
            {**ARRAYS, "sigmas": [0, True, 1]},
            "`schedule.sigmas[1]` must be a finite number, got True",
        ),
        (
            {**ARRAYS, "sigmas": [0, 10**400, 1]},
            "`schedule.sigmas[1]` must be a finite number, got 1",
        ),
        ({**ARRAYS, "timesteps": 3}, "`schedule.timesteps` must be a list, got 3"),
        ({**ARRAYS, "timesteps": [1, "2"]}, "`timesteps` must be a finite number, got '2'"),
        ({**ARRAYS, "notes": None}, "`schedule.notes` must be a list, got None"),
        ({**ARRAYS, "notes": [1]}, "`notes` must be a sequence of strings, got (1,)"),
    ],
)
def test_stored_schedules_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        NoiseSchedule.from_dict(data, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine_schedule(0), "`num_steps` must be >= 1, got 0; pass `num_steps=64`"),
        (lambda: cosine_schedule(2.0), "`num_steps` must be a whole number, got 2.0"),  # type: ignore[arg-type]
        (lambda: cosine_schedule(True), "`num_steps` must be a whole number, got True"),
        (lambda: nichol_dhariwal_schedule(4, -0.1), "`offset` must be >= 0, got -0.1"),
        (
            lambda: nichol_dhariwal_schedule(4, math.inf),
            "`offset` must be a finite number, got inf",
        ),
        (lambda: equal_angle_schedule(4, 0), "`eigenvalue` must be > 0, got 0.0"),
        (lambda: linear_schedule(4, beta_end=1), "`beta_end` must be in (0, 1), got 1"),
        (lambda: linear_schedule(4, beta_start=0), "`beta_start` must be in (0, 1), got 0"),
        (
            lambda: linear_schedule(1001),
            "`num_steps` must be <= num_train_timesteps = 1000, got 1001",
        ),
        (
            lambda: scaled_linear_schedule(1, num_train_timesteps=10**12),
            "`num_train_timesteps` must be between 1 and 1000000, got 1000000000000",
        ),
    ],
)
def test_arguments_refused(make: Any, message: str) -> None:
    with raises(message):
        make()
