"""Distances between Gaussians against POT, matrix square roots and closed forms."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from opmerge.errors import InputError
from opmerge.metrics import gaussian_fit_w2, gaussian_w2

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT looks for array libraries that are not there
    from ot.gaussian import bures_wasserstein_distance

Matrix = Any


def covariance(rng: np.random.Generator, size: int, rank: int | None = None) -> Matrix:
    mixing = rng.standard_normal((size, rank or size + 2))
    return mixing @ mixing.T


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 6))
def test_general_gaussians(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = covariance(rng, size), covariance(rng, size)
    means = rng.standard_normal((2, size))
    found = gaussian_w2(means[0], first, means[1], second)
    root = np.real(sqrtm(first))
    cross = np.real(np.trace(sqrtm(root @ second @ root)))
    squared = np.sum((means[0] - means[1]) ** 2) + np.trace(first + second) - 2 * cross
    # Matrix functions of condition up to 1e8 lose half the digits, in all three programs.
    scale = float(np.trace(first + second))
    assert found**2 == pytest.approx(squared, abs=1e-9 * scale)
    theirs = float(bures_wasserstein_distance(means[0], means[1], first, second))
    assert found**2 == pytest.approx(theirs**2, abs=1e-9 * scale)
    assert found == pytest.approx(gaussian_w2(means[1], second, means[0], first), abs=1e-7)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(-9, 9)), min_size=1),
)
def test_independent_coordinates(rows: list[tuple[float, float, float]]) -> None:
    """Diagonal covariances: W2² = Σ (σ1 - σ2)² + |m1 - m2|²."""
    first, second, shift = np.array(rows).T
    found = gaussian_w2(np.zeros_like(shift), np.diag(first), shift, np.diag(second))
    exact = math.sqrt(np.sum((np.sqrt(first) - np.sqrt(second)) ** 2) + np.sum(shift**2))
    # Traces up to 200 each coordinate, good to 1e-15: half the digits of W2 where it is small.
    assert found == pytest.approx(exact, abs=1e-6)


def test_one_dimension() -> None:
    assert gaussian_w2(0.0, 4.0, 3.0, 64.0) == pytest.approx(math.hypot(3.0, 6.0), rel=1e-14)


def test_equal_gaussians_and_singular_ones() -> None:
    rng = np.random.default_rng(1)
    singular = covariance(rng, 5, rank=2)
    assert gaussian_w2(np.ones(5), singular, np.ones(5), singular) < 1e-6
    nothing = np.zeros((5, 5))
    # To a point mass: the root of trace plus squared distance.
    assert gaussian_w2(np.ones(5), singular, np.zeros(5), nothing) == pytest.approx(
        math.sqrt(np.trace(singular) + 5), rel=1e-14
    )
    assert gaussian_w2(np.ones(2), np.zeros((2, 2)), np.ones(2), np.zeros((2, 2))) == 0.0


@pytest.mark.parametrize("numbers", [(40, 30), (40, 9), (6, 40), (6, 9), (2, 2)])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 0.0])
def test_fits_to_samples(numbers: tuple[int, int], spread: float) -> None:
    """As between their moments, of many samples and few, and of a coordinate that is constant."""
    rng, size = np.random.default_rng(3), 9
    scales = np.where(np.arange(size) < 3, spread, 1.0)
    first, second = (1 + scales * rng.standard_normal((n, size)) for n in numbers)
    moments = [(each.mean(axis=0), np.cov(each.T)) for each in (first, second)]
    expected = gaussian_w2(*moments[0], *moments[1])
    assert gaussian_fit_w2(first, second) == pytest.approx(expected, rel=1e-7)
    assert gaussian_fit_w2(first, first) < 1e-6
    assert gaussian_fit_w2(first, first + 2) == pytest.approx(6.0, rel=1e-12)


def test_few_samples_of_many_dimensions() -> None:
    """No covariance is made, which would take 80 GB."""
    samples = np.random.default_rng(4).standard_normal((5, 100_000))
    shifted = samples + 1 / math.sqrt(100_000)
    assert gaussian_fit_w2(samples, shifted) == pytest.approx(1.0, rel=1e-9)
    squared = np.sum(samples.mean(axis=0) ** 2 + samples.var(axis=0, ddof=1))
    assert gaussian_fit_w2(samples, 2 * samples) == pytest.approx(math.sqrt(squared), rel=1e-9)


def test_scaling_and_rotation() -> None:
    rng = np.random.default_rng(2)
    first, second = covariance(rng, 4), covariance(rng, 4)
    turn = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    zero = np.zeros(4)
    plain = gaussian_w2(zero, first, zero, second)
    turned = gaussian_w2(zero, turn @ first @ turn.T, zero, turn @ second @ turn.T)
    assert turned == pytest.approx(plain, rel=1e-10)
    assert gaussian_w2(zero, 1e-20 * first, zero, 1e-20 * second) == pytest.approx(
        1e-10 * plain, rel=1e-10
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 0], np.eye(2), [0], np.eye(1)), "`mean and covariance` must have shapes (d,) and"),
        (([0, 0], np.eye(3), [0, 0], np.eye(3)), "`mean and covariance` must have shapes (d,) and"),
        (([0, 0], np.ones((2, 3)), [0, 0], np.eye(2)), "`covariance1` must be a square matrix"),
        (([0, 0], np.eye(2), [0, 0], [[1, 2], [0, 1]]), "`covariance2` must be symmetric"),
        (
            ([0, 0], np.eye(2), [0, 0], [[1, 2], [2, 1]]),
            "`covariance2` must be positive semi-definite, got eigenvalue -1",
        ),
        (([0, 0], [[1, 0], [0, np.inf]], [0, 0], np.eye(2)), "`covariance1` must be finite"),
        (([0, np.nan], np.eye(2), [0, 0], np.eye(2)), "`mean` must be finite"),
    ],
)
def test_wrong_moments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        gaussian_w2(*arguments)
    assert str(error.value).startswith(message)
