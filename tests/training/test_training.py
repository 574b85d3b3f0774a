"""Training models against training itself: descent step by step, and its limit."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from opmerge.errors import InputError
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import (
    DEFAULT_MERGE_TIME,
    GradientDescent,
    GradientFlow,
    TrainingModel,
    training_from_dict,
)

VARIANCES = np.array([0.05, 0.3, 1.0, 2.5])


def error_gradient(student: Any, target: float, variances: Any) -> Any:
    """d/da E|a z - target z|² = 2 (a - target) E z²."""
    return 2 * (student - target) * variances


def test_gradient_flow_solves_its_equation() -> None:
    target, start, time = 0.7, -1.3, 1.7
    solution = solve_ivp(
        lambda _, student: -error_gradient(student, target, VARIANCES),
        (0, time),
        np.full(4, start),
        rtol=1e-10,
        atol=1e-12,
    )
    retention = GradientFlow(time).retention(VARIANCES)
    expected = target + retention * (start - target)
    np.testing.assert_allclose(solution.y[:, -1], expected, rtol=1e-8)


@given(st.floats(0.001, 0.19), st.integers(1, 60))
def test_gradient_descent_is_its_iterations(rate: float, iterations: int) -> None:
    target, start = 0.7, -1.3
    student = np.full(4, start)
    for _ in range(iterations):
        student = student - rate * error_gradient(student, target, VARIANCES)
    retention = GradientDescent(rate, iterations).retention(VARIANCES)
    # A sum of as many rounded terms of order one.
    np.testing.assert_allclose(
        student, target + retention * (start - target), rtol=0, atol=1e-15 * (iterations + 10)
    )


def test_descent_in_small_steps_is_flow() -> None:
    """N steps of s/N differ by 2 s² n² / N in the exponent."""
    time, steps = 0.8, 10**6
    descent = GradientDescent(time / steps, steps).retention(VARIANCES)
    flow = GradientFlow(time).retention(VARIANCES)
    np.testing.assert_allclose(
        np.log(descent / flow), -2 * (time * VARIANCES) ** 2 / steps, rtol=1e-4
    )


def test_flow_of_known_time() -> None:
    assert GradientFlow().time == DEFAULT_MERGE_TIME == 6.4
    assert GradientFlow(0.5).retention(np.array([1.0])) == pytest.approx(math.exp(-1))


def test_descent_that_ends_at_once_retains_nothing() -> None:
    """η n = 1/2 lands on the target in one iteration."""
    assert GradientDescent(0.5, 1).retention(np.array([1.0])).tolist() == [0.0]


@given(st.floats(1e-6, 1e3), st.floats(1e-6, 1e6))
def test_retention_lies_between_0_and_1(time: float, variance: float) -> None:
    retention = GradientFlow(time).retention(np.array([variance]))[0]
    assert 0 <= retention < 1 or variance * time < 1e-15


def test_descent_beyond_the_monotone_range_is_refused() -> None:
    with pytest.raises(InputError) as error:
        GradientDescent(0.3, 5).retention(VARIANCES)
    assert str(error.value) == (
        "`learning_rate` must be <= 1 / (2 max n_t) = 0.2 for monotone descent, got 0.3"
    )


# Records


@pytest.mark.parametrize("model", [GradientFlow(3.0), GradientDescent(0.01, 400)])
def test_models_go_through_json(model: TrainingModel) -> None:
    assert isinstance(model, TrainingModel)
    assert training_from_dict(json.loads(json.dumps(model.to_dict()))) == model


def test_records_name_the_model_and_its_parameters() -> None:
    assert GradientFlow(3.0).to_dict() == {"model": "gradient-flow", "time": 3.0}
    assert GradientDescent(0.01, 400).to_dict() == {
        "model": "gradient-descent",
        "learning_rate": 0.01,
        "num_iterations": 400,
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "`training` must be an object with a `model`"),
        ([], "`training` must be an object with a `model`, got []"),
        (
            {},
            "`training.model` must be one of gradient-flow, gradient-descent, ema-flow, "
            "heavy-ball, gamma-rates, "
            "got None",
        ),
        (
            {"model": "sgd"},
            "`training.model` must be one of gradient-flow, gradient-descent, ema-flow, "
            "heavy-ball, gamma-rates, "
            "got 'sgd'",
        ),
        (
            {"model": ["x"]},
            "`training.model` must be one of gradient-flow, gradient-descent, ema-flow, "
            "heavy-ball, gamma-rates, "
            "got ['x']",
        ),
        (
            {"model": "gradient-flow", "s": 1},
            "`training` must have the parameters time, got {'model': 'gradient-flow', 's': 1}",
        ),
        (
            {"model": "gradient-descent", "learning_rate": 0.1},
            (
                "`training` must have the parameters learning_rate, num_iterations, "
                "got {'model': 'gradient-descent', 'learning_rate': 0.1}"
            ),
        ),
        ({"model": "gradient-flow", "time": 0}, "`merge_time` must be finite and > 0, got 0"),
        ({"model": "gradient-flow", "time": math.nan}, "`merge_time` must be finite and > 0"),
        ({"model": "gradient-flow", "time": True}, "`merge_time` must be a number, got True"),
        ({"model": "gradient-flow", "time": "1"}, "`merge_time` must be a number, got 1"),
        ({"model": "gradient-flow", "time": 10**400}, "`merge_time` must be"),
        (
            {"model": "gradient-descent", "learning_rate": 0.1, "num_iterations": 0},
            "`num_iterations` must be >= 1, got 0",
        ),
        (
            {"model": "gradient-descent", "learning_rate": 0.1, "num_iterations": 2.0},
            "`num_iterations` must be an integer, got 2.0",
        ),
        (
            {"model": "gradient-descent", "learning_rate": -1, "num_iterations": 2},
            "`learning_rate` must be finite and > 0, got -1",
        ),
    ],
)
def test_wrong_records_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        training_from_dict(data)
    assert str(error.value).startswith(message)


def test_a_whole_number_of_any_size_is_a_time() -> None:
    """10**30 does not fit into an integer of NumPy."""
    assert GradientFlow(10**30).retention(np.array([1.0])).tolist() == [0.0]


def test_a_model_of_the_users_own() -> None:
    class Measured:
        name = "measured"
        mode_weights = (1.0,)
        floor = 0.0

        def __init__(self, left: float) -> None:
            self.left = left

        def retention(self, variances: NDArray[np.float64], mode: int = 0) -> NDArray[np.float64]:
            return np.full_like(variances, self.left)

        def to_dict(self) -> dict[str, Any]:
            return {"model": self.name}

    def problem(left: float) -> Problem:
        model = Measured(left)
        assert isinstance(model, TrainingModel)
        return Problem(eigenvalue_spectrum([1.0]), cosine_schedule(3), model)

    assert problem(0.25).retentions.ravel().tolist() == [0, 0.25, 0.25, 0.25]
    for wrong in (-0.5, 1.5, math.nan):
        with pytest.raises(InputError) as error:
            _ = problem(wrong).retentions
        assert str(error.value) == f"`training` must give retentions from 0 to 1, got {wrong}"
