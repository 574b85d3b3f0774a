"""Training models with memory against their equations, their recursions and their limits."""

from __future__ import annotations

import json
import math
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp
from scipy.integrate import solve_ivp

from opmerge.errors import InputError
from opmerge.training import (
    EMAFlow,
    GradientDescent,
    GradientFlow,
    HeavyBall,
    TrainingModel,
    training_from_dict,
)

VARIANCES = np.array([0.05, 0.3, 1.0, 2.5])


@pytest.mark.parametrize("rate", [0.1, 2.0, 2.0 + 1e-9, 30.0])
def test_the_average_of_flow_solves_its_equations(rate: float) -> None:
    time = 1.7

    def slope(_: float, state: Any) -> Any:
        student, average = state.reshape(2, -1)
        return np.concatenate([-2 * VARIANCES * student, rate * (student - average)])

    solution = solve_ivp(slope, (0, time), np.ones(8), "DOP853", rtol=1e-12, atol=1e-14)
    retention = EMAFlow(time, rate).retention(VARIANCES)
    np.testing.assert_allclose(retention, solution.y[4:, -1], rtol=1e-9)


@given(
    st.floats(0.01, 20.0),
    st.one_of(st.floats(0.01, 50.0), st.floats(-1e-6, 1e-6).map(lambda gap: 2.0 * (1 + gap))),
)
def test_the_average_keeps_its_digits_where_the_rates_meet(time: float, rate: float) -> None:
    """Against THEORY 3 as it stands, in 60 digits; at n = 1 the rates meet at β = 2."""
    with mp.workdps(60):
        s, beta, r = mpmath.mpf(time), mpmath.mpf(rate), mpmath.mpf(2)
        if beta == r:
            exact = (1 + r * s) * mpmath.exp(-r * s)
        else:
            exact = (beta * mpmath.exp(-r * s) - r * mpmath.exp(-beta * s)) / (beta - r)
        found = EMAFlow(time, rate).retention(np.ones(1))[0]
        # the exponent r s <= 40 is rounded once or twice
        assert abs(found - exact) <= exact * 2e-14


def test_the_average_at_equal_rates() -> None:
    """(1 + r s) e^{-r s} = 7 e^-6 at r = β = 2, s = 3."""
    assert EMAFlow(3.0, 2.0).retention(np.ones(1))[0] == pytest.approx(7 * math.exp(-6), rel=1e-15)


def test_a_fast_average_is_the_flow_itself() -> None:
    """Its retention is that of flow times 1 + r/β, up to (r/β)²."""
    averaged = EMAFlow(1.5, 1e6).retention(VARIANCES) / GradientFlow(1.5).retention(VARIANCES)
    np.testing.assert_allclose(averaged - 1, 2 * VARIANCES / 1e6, rtol=1e-5)


def iterated(rate: float, count: int, momentum: float, variance: float) -> Any:
    """Heavy ball, one iteration after another, in exact arithmetic."""
    speed, weight = 2 * mpmath.mpf(rate) * mpmath.mpf(variance), mpmath.mpf(momentum)
    error, before = mpmath.mpf(1), mpmath.mpf(1)
    for _ in range(count):
        error, before = (1 + weight - speed) * error - weight * before, error
    return error


@given(st.floats(0.0, 0.99), st.floats(1e-9, 1.0), st.integers(1, 300))
def test_heavy_ball_is_its_iterations(momentum: float, share: float, count: int) -> None:
    """Up to critical damping, where the two roots meet."""
    rate = share * (1 - math.sqrt(momentum)) ** 2 / 2 * (1 - 1e-15)
    found = HeavyBall(rate, count, momentum).retention(np.ones(1))[0]
    with mp.workdps(80):
        exact = iterated(rate, count, momentum, 1.0)
        # the slow root carries the rounding of (1 - √μ)² - 2 η n into its power N + 1; at critical
        # damping the roots are as far apart as the root of that rounding, squared in the result
        assert abs(found - exact) <= abs(exact) * 1e-11 * count + 1e-300


def test_heavy_ball_at_critical_damping() -> None:
    """μ = 1/4, η = 1/8: both roots are 1/2 exactly, and (N + 2) / 2^(N + 1) is left."""
    for count in (1, 2, 30):
        found = HeavyBall(0.125, count, 0.25).retention(np.ones(1))[0]
        assert found == pytest.approx((count + 2) * 0.5 ** (count + 1), rel=1e-13)


def test_heavy_ball_without_momentum_is_descent() -> None:
    found = HeavyBall(0.03, 50, 0.0).retention(VARIANCES)
    np.testing.assert_allclose(found, GradientDescent(0.03, 50).retention(VARIANCES), rtol=1e-12)


def test_heavy_ball_that_ends_at_once_retains_nothing() -> None:
    assert HeavyBall(0.5, 1, 0.0).retention(np.ones(1)).tolist() == [0.0]


def test_heavy_ball_in_small_steps_is_flow() -> None:
    """For time η N / (1 - μ), up to the 1/(1 - μ) iterations that it takes to get going.

    They are a share 10/N of the time, and the exponent 2 s n is 4 at most: 40/N.
    """
    momentum, count, time = 0.9, 10**8, 0.8
    rate = time * (1 - momentum) / count
    found = HeavyBall(rate, count, momentum).retention(VARIANCES)
    np.testing.assert_allclose(found, GradientFlow(time).retention(VARIANCES), rtol=40 / count * 4)


@given(st.floats(0.1, 10.0), st.floats(0.01, 100.0))
def test_retention_falls_with_the_variance(time: float, rate: float) -> None:
    retention = EMAFlow(time, rate).retention(np.geomspace(1e-3, 10.0, 40))
    assert (np.diff(retention) < 0).all()
    assert ((retention > 0) & (retention < 1)).all()


@pytest.mark.parametrize("model", [EMAFlow(6.4, 2.0), HeavyBall(1e-3, 640, 0.9)])
def test_a_model_is_read_as_it_was_written(model: TrainingModel) -> None:
    assert isinstance(model, TrainingModel)
    assert training_from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EMAFlow(0.0, 1.0), "`time` must be > 0 and <= 1e100, got 0.0"),
        (lambda: EMAFlow(1.0, -2.0), "`rate` must be > 0 and <= 1e100, got -2.0"),
        (lambda: HeavyBall(0.1, 0, 0.5), "`num_iterations` must be >= 1, got 0"),
        (lambda: HeavyBall(0.1, 10, 1.0), "`momentum` must be >= 0 and < 1, got 1.0"),
        (lambda: HeavyBall(-0.1, 10, 0.5), "`learning_rate` must be > 0 and <= 1e100, got -0.1"),
        (
            lambda: HeavyBall(0.1, 10, 0.81).retention(np.array([0.01, 1.0])),
            "`learning_rate` must be <= (1 - √momentum)² / (2 max n_t) = 0.005 "
            "for monotone descent, got 0.1",
        ),
        (
            lambda: training_from_dict({"model": "ema-flow", "time": 1.0}),
            "`training` must have the parameters time, rate, got "
            "{'model': 'ema-flow', 'time': 1.0}",
        ),
    ],
)
def test_bad_parameters_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        make()
    assert str(refusal.value) == message
