"""Distances between Gaussian laws, and between laws known by samples."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from opmerge.arrays import Array
from opmerge.checks import check_count
from opmerge.errors import InputError

_GOOD_SQUARES = 1e-10  # of the largest: their roots are good to 1e-11 of the largest root


def gaussian_w2(
    mean1: ArrayLike, covariance1: ArrayLike, mean2: ArrayLike, covariance2: ArrayLike
) -> float:
    """Wasserstein-2 distance between two Gaussians with dense covariances (not squared).

    Bures form, ``W2² = |m1 - m2|² + tr(C1 + C2 - 2 (C1^½ C2 C1^½)^½)`` (THEORY 6), with the last
    trace as the nuclear norm of ``C1^½ C2^½``, whose singular values keep half the digits that
    an eigenvalue decomposition of the product would lose.

    Takes means (d,) and covariances (d, d), symmetric positive semi-definite, singular or not.

    Raises:
        InputError: for other shapes, values that are not finite, or other covariances.
    """
    means = [np.atleast_1d(np.asarray(mean, dtype=np.float64)) for mean in (mean1, mean2)]
    roots = [_square_root(c, f"covariance{n}") for n, c in ((1, covariance1), (2, covariance2))]
    shape = means[0].shape
    if means[1].shape != shape or any(root.shape != shape * 2 for root in roots):
        shapes = [array.shape for array in (*means, *roots)]
        raise InputError("mean and covariance", "must have shapes (d,) and (d, d)", shapes)
    if not np.isfinite(means).all():
        raise InputError("mean", "must be finite")
    return _w2(means, roots)


def gaussian_fit_w2(samples1: ArrayLike, samples2: ArrayLike) -> float:
    """Wasserstein-2 distance between the Gaussians fitted to two sets of samples (not squared).

    Of features its square is the Fréchet distance (Heusel et al. 2017). The fits are by the
    mean and the unbiased covariance; from n independent samples the distance is too large, and
    above 0 for equal laws: compare it with that of two halves of one set. It costs
    n d² + d³, or with fewer samples than dimensions n² d.

    Raises:
        InputError: for samples that are not finite (n, d) and (m, d), n, m >= 2.
    """
    first, second = _samples("samples1", samples1), _samples("samples2", samples2)
    if first.shape[1] != second.shape[1]:
        raise InputError("samples2", f"must have shape (m, {first.shape[1]})", second.shape)
    means = [samples.mean(axis=0) for samples in (first, second)]
    factors = [
        (samples - samples.mean(axis=0)) / np.sqrt(len(samples) - 1) for samples in (first, second)
    ]
    return _w2(means, factors)


def sliced_w2(
    samples1: ArrayLike, samples2: ArrayLike, num_projections: int = 128, seed: int = 0
) -> float:
    """Sliced Wasserstein-2 distance between two sets of equally many samples (not squared).

    ``SW2² = E_θ W2²(θᵀx, θᵀy)`` over directions θ, uniform on the sphere (Bonneel et al. 2015);
    in one dimension the optimal plan pairs sorted values. For laws that differ by a shift alone,
    ``SW2² = |shift|² / d``. As every such estimate it is above 0 for equal laws.

    Raises:
        InputError: for samples that are not both finite (n, d), n >= 2.
    """
    first, second = _samples("samples1", samples1), _samples("samples2", samples2)
    if first.shape != second.shape:
        raise InputError("samples2", f"must have shape {first.shape}, as samples1", second.shape)
    directions = random_directions(first.shape[1], num_projections, seed)
    return projected_w2(first @ directions, second @ directions)


def random_directions(num_dimensions: int, number: int, seed: int) -> Array:
    """(d, number) unit vectors, uniform on the sphere."""
    check_count("num_projections", number)
    directions = np.random.default_rng(seed).standard_normal((num_dimensions, number))
    return directions / np.linalg.norm(directions, axis=0)


def projected_w2(first: Array, second: Array) -> float:
    """Root mean square, over columns, of the W2 of two (n, number) tables of projections."""
    return float(np.sqrt(np.mean((np.sort(first, axis=0) - np.sort(second, axis=0)) ** 2)))


def _w2(means: Sequence[Array], factors: Sequence[Array]) -> float:
    """Bures distance of Gaussians with these means and covariances ``XᵀX`` of their factors."""
    traces = sum(float(np.sum(factor**2)) for factor in factors)
    squared = float(np.sum((means[0] - means[1]) ** 2)) + traces - 2.0 * _overlap(*factors)
    return float(np.sqrt(max(squared, 0.0)))


def _overlap(first: Array, second: Array) -> float:
    """The nuclear norm of ``X1 X2ᵀ``, that is ``tr (C1^½ C2 C1^½)^½`` with ``Ci = Xiᵀ Xi``.

    Where no eigenvalue is so small that its root would lose digits, it is the sum of the roots of
    those of ``Lᵀ C2 L``, ``C1 = L Lᵀ``, which takes half the time of singular values.
    """
    if min(len(first), len(second)) > first.shape[1]:
        with contextlib.suppress(np.linalg.LinAlgError):  # C1 is singular
            lower = np.linalg.cholesky(first.T @ first)
            squares = np.linalg.eigvalsh(lower.T @ (second.T @ second) @ lower)
            if squares[0] > _GOOD_SQUARES * squares[-1]:
                return float(np.sqrt(squares).sum())
    thin = [  # at most d rows with the same XᵀX
        factor if len(factor) <= factor.shape[1] else np.asarray(np.linalg.qr(factor, mode="r"))
        for factor in (first, second)
    ]
    return float(np.linalg.norm(thin[0] @ thin[1].T, "nuc"))


def _samples(argument: str, samples: ArrayLike) -> Array:
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
        raise InputError(argument, "must have shape (n, d) with n >= 2", array.shape)
    if not np.isfinite(array).all():
        raise InputError(argument, "must be finite")
    return array


def _square_root(covariance: ArrayLike, argument: str) -> Array:
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
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
