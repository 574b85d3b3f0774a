"""Distances between Gaussian laws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.errors import InputError

__all__ = ["gaussian_w2"]


def gaussian_w2(
    mean1: ArrayLike, covariance1: ArrayLike, mean2: ArrayLike, covariance2: ArrayLike
) -> float:
    """Wasserstein-2 distance between two Gaussians with dense covariances (not squared).

    Bures form, ``W2² = |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)`` (THEORY 6), with the last
    trace as the nuclear norm of ``C1^½ C2^½``, whose singular values keep half the digits that
    an eigenvalue decomposition of the product would lose.

    Args:
        mean1, mean2: (d,).
        covariance1, covariance2: (d, d), symmetric positive semi-definite; singular ones allowed.

    Raises:
        InputError: for shapes that do not fit, values that are not finite, or a covariance that
            is not symmetric positive semi-definite.
    """
    means = [np.atleast_1d(np.asarray(mean, dtype=np.float64)) for mean in (mean1, mean2)]
    roots = [_square_root(c, f"covariance{n}") for n, c in ((1, covariance1), (2, covariance2))]
    shape = means[0].shape
    if means[1].shape != shape or any(root.shape != shape * 2 for root in roots):
        raise InputError(
            "mean and covariance",
            "must have shapes (d,) and (d, d)",
            [*(m.shape for m in means), *(r.shape for r in roots)],
        )
    if not np.isfinite(means).all():
        raise InputError("mean", "must be finite")
    overlap = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    traces = sum(float(np.sum(root**2)) for root in roots)
    squared = float(np.sum((means[0] - means[1]) ** 2)) + traces - 2.0 * float(overlap)
    return float(np.sqrt(max(squared, 0.0)))


def _square_root(covariance: ArrayLike, argument: str) -> NDArray[np.float64]:
    matrix = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(argument, "must be a square matrix", matrix.shape)
    if not np.isfinite(matrix).all():
        raise InputError(argument, "must be finite")
    size = float(np.abs(matrix).max())
    if not np.allclose(matrix, matrix.T, rtol=0.0, atol=1e-10 * size):
        raise InputError(argument, "must be symmetric")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < -1e-10 * size:
        raise InputError(argument, "must be positive semi-definite", f"eigenvalue {values[0]:.3g}")
    root: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root
