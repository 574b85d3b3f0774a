"""What minibatches add to training: the second moment of a student trained on samples.

The target is linear in z, so a student's gap D = B - G shrinks as ``D ← D (I - 2 η Ĉ)`` with a
new batch each time, and training ends at the target however noisy it is. The mean gap is that of
descent on the whole law, ``D_0 (I - 2 η C)^N``, for any data; only its spread sees more of the law
than the covariance, through the fourth moments.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count

__all__ = ["Cumulant", "expected_square", "independent_cumulant", "sample_cumulant"]

Array = NDArray[np.float64]

Cumulant = Callable[[Array], Array]
"""``Q ↦ E[z zᵀ Q z zᵀ] - 2 C Q C - tr(C Q) C`` for symmetric Q; 0 for a Gaussian law."""


def expected_square(
    covariance: Array, cumulant: Cumulant, learning_rate: float, num_iterations: int, batch: int
) -> Array:
    """The matrix Q with ``E|D_N z|² = tr(D_0 Q D_0ᵀ)`` for descent on batches, exactly.

    From ``Q = C``, N times ``Q ← Q - 2η(CQ + QC) + 4η² ((1 - 1/b) CQC + E[z zᵀ Q z zᵀ] / b)``.

    Args:
        covariance: (d, d) C of the student's input z.
        cumulant: fourth cumulant of z.
        learning_rate: η.
        num_iterations: N.
        batch: b >= 1 independent samples in each iteration.

    Raises:
        InputError: if N or b is not a whole number >= 1.
    """
    check_count("num_iterations", num_iterations)
    check_count("batch", batch)
    square = covariance
    for _ in range(num_iterations):
        left = covariance @ square
        both = left @ covariance
        noise = both + np.trace(left) * covariance + cumulant(square)
        shrunk = -2.0 * learning_rate * (left + left.T)
        square = square + shrunk + 4.0 * learning_rate**2 * (both + noise / batch)
    return square


def independent_cumulant(basis: Array, variances: Array, excess_kurtosis: float) -> Cumulant:
    """Of coordinates that are independent in a basis: ``Σ_i κ λ_i² (u_iᵀ Q u_i) u_i u_iᵀ``.

    Args:
        basis: (d, d) columns u_i.
        variances: (d,) λ_i.
        excess_kurtosis: κ of each coordinate, 0 for Gaussian, 3 for Laplace, -1.2 for uniform.
    """

    def cumulant(square: Array) -> Array:
        weights = excess_kurtosis * variances**2 * np.einsum("ji,jk,ki->i", basis, square, basis)
        found: Array = (basis * weights) @ basis.T
        return found

    return cumulant


def sample_cumulant(samples: Array) -> Cumulant:
    """Of the law that draws one of these centred samples (n, d)."""
    covariance = samples.T @ samples / len(samples)

    def cumulant(square: Array) -> Array:
        weights = np.einsum("ni,ij,nj->n", samples, square, samples)
        fourth = (samples.T * weights) @ samples / len(samples)
        left = covariance @ square
        found: Array = fourth - 2.0 * left @ covariance - np.trace(left) * covariance
        return found

    return cumulant
