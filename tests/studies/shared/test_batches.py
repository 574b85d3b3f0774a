"""What batches add to training, against all batches one by one and against whole laws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge_studies.shared.batches import expected_square, independent_cumulant, sample_cumulant

Array = NDArray[np.float64]


def no_cumulant(square: Array) -> Array:
    return np.zeros_like(square)


def test_the_expected_square_is_that_of_all_batches() -> None:
    """Four equally likely samples, batches of 2, 2 iterations: 256 trainings, all of them."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((4, 2))
    covariance = samples.T @ samples / 4
    gap = rng.standard_normal((2, 2))
    total = 0.0
    for picks in product(range(4), repeat=4):
        trained = gap
        for batch in (samples[list(picks[:2])], samples[list(picks[2:])]):
            trained = trained @ (np.eye(2) - 2 * 0.1 * batch.T @ batch / 2)
        total += float(np.trace(trained @ covariance @ trained.T)) / 4**4
    square = expected_square(covariance, sample_cumulant(samples), 0.1, 2, 2)
    assert np.trace(gap @ square @ gap.T) == pytest.approx(total, rel=1e-13)


def test_large_batches_are_descent_on_the_whole_law() -> None:
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    left = np.linalg.matrix_power(np.eye(2) - 0.1 * covariance, 20)
    square = expected_square(covariance, no_cumulant, 0.05, 20, 10**12)
    np.testing.assert_allclose(square, left @ covariance @ left, rtol=1e-9)


def test_one_gaussian_coordinate_by_hand() -> None:
    """E[(1 - 2 η z²)²] = 1 - 4 η n + 12 η² n², for E z⁴ = 3 n²."""
    square = expected_square(np.array([[1.7]]), no_cumulant, 0.1, 3, 1)
    factor = 1 - 4 * 0.1 * 1.7 + 12 * 0.01 * 1.7**2
    assert square[0, 0] == pytest.approx(1.7 * factor**3, rel=1e-13)


@pytest.mark.parametrize(("kurtosis", "fourth"), [(0.0, 3.0), (3.0, 6.0), (-1.2, 1.8)])
def test_kurtosis_is_that_of_the_law(kurtosis: float, fourth: float) -> None:
    """E z⁴ = 3 for Gaussian, 6 for Laplace and 9/5 for uniform coordinates of variance 1."""
    cumulant = independent_cumulant(np.eye(1), np.array([2.0]), kurtosis)
    assert cumulant(np.array([[5.0]]))[0, 0] + 3 * 4 * 5 == pytest.approx(fourth * 4 * 5)


def test_independent_coordinates_in_any_basis_are_those_of_their_samples() -> None:
    """Signs are the simplest law: κ = E x⁴/λ² - 3 = -2, and all their samples are 2^d."""
    rng = np.random.default_rng(1)
    basis, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    variances = np.array([2.0, 1.0, 0.3])
    signs = np.array(list(product((-1.0, 1.0), repeat=3)))
    samples = signs * np.sqrt(variances) @ basis.T
    half = rng.standard_normal((3, 3))
    square = half + half.T
    expected = sample_cumulant(samples)(square)
    found = independent_cumulant(basis, variances, -2.0)(square)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize(("key", "values"), [("num_iterations", (0, 1)), ("batch", (1, 0))])
def test_numbers_below_1_are_refused(key: str, values: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"`{key}` must be >= 1, got 0"):
        expected_square(np.eye(1), no_cumulant, 0.1, *values)
