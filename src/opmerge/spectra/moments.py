"""Second moments of a source in one pass: dense, per feature, or sketched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opmerge.data.source import Progress, Source
from opmerge.errors import InputError

_DEFAULT_RANK = 512
# 4 GiB for each of the two matrices of a sketch.
_MAX_SKETCH_VALUES = 2**29

# Below it, rounding is no longer relative to the values.
_SMALLEST_TRACE = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and eigenvalues of a covariance ``1/n Σ (x − mean)(x − mean)ᵀ``.

    Attributes:
        eigenvalues: (k,) descending, not cleaned of rounding.
        basis: (k, D) orthonormal rows, or ``None`` where only the diagonal is known.
        mean: (D,).
        trace: exact trace of the covariance.
        num_samples: number of samples read.
    """

    eigenvalues: NDArray[np.float64]
    basis: NDArray[np.float64] | None
    mean: NDArray[np.float64]
    trace: float
    num_samples: int


def dense_moments(source: Source, num_kept: int, progress: Progress | None) -> Moments:
    """The ``num_kept`` largest eigenvalues of the dense covariance; memory O(D²)."""
    from scipy.linalg import eigh

    size = source.num_features
    scatter = np.zeros((size, size))

    def add(rows: NDArray[np.float64]) -> None:
        nonlocal scatter
        scatter += rows.T @ rows

    mean, num_samples = _stream(source, add, progress)
    scatter /= num_samples
    trace = _finite_trace(source, float(np.trace(scatter)))
    subset = None if num_kept == size else (size - num_kept, size - 1)
    values, vectors = eigh(scatter, subset_by_index=subset, overwrite_a=True, check_finite=False)
    return Moments(values[::-1], vectors.T[::-1], mean, trace, num_samples)


def diagonal_moments(source: Source, progress: Progress | None) -> Moments:
    """The variances of the features; memory O(D)."""
    squares = np.zeros(source.num_features)

    def add(rows: NDArray[np.float64]) -> None:
        nonlocal squares
        squares += np.einsum("ij,ij->j", rows, rows)

    mean, num_samples = _stream(source, add, progress)
    variances = np.sort(squares / num_samples)[::-1]
    trace = _finite_trace(source, float(variances.sum()))
    return Moments(variances, None, mean, trace, num_samples)


def sketch_rank(source: Source, top_k: int | None) -> int:
    """``top_k``, or else 512 or as many eigenvalues as samples and memory allow.

    Raises:
        InputError: if the sketch for ``top_k`` would not fit into memory.
    """
    size = source.num_features
    largest = max((_MAX_SKETCH_VALUES // size - 1) // 2, 1)
    if top_k is None:
        return min(_DEFAULT_RANK, largest, source.num_samples - 1)
    if top_k > largest:
        raise InputError(
            "top_k",
            f"must be <= {largest} for {size} features, to fit into memory",
            top_k,
            "pass `diagonal=True` or smaller samples",
        )
    return top_k


def sketch_width(source: Source, num_kept: int) -> int:
    """Columns of the sketch for ``num_kept`` eigenvalues: at least ``2 num_kept + 1``.

    More columns make the eigenvalues kept more accurate, so it is also at least what 512
    eigenvalues would get, as far as memory allows and there are samples and features for it.
    """
    wanted = min(2 * _DEFAULT_RANK + 1, _MAX_SKETCH_VALUES // source.num_features)
    useful = min(wanted, source.num_samples)
    return min(max(2 * num_kept + 1, useful), source.num_features)


def sketched_moments(
    source: Source, num_kept: int, progress: Progress | None, seed: int
) -> Moments:
    """The ``num_kept`` largest eigenvalues from a Nyström sketch; memory O(D k).

    The covariance ``A`` is only ever multiplied with a random orthonormal ``Ω`` of
    :func:`sketch_width` columns: ``Y = A Ω`` adds up over the batches. Then
    ``Y (Ωᵀ Y)⁻¹ Yᵀ``, computed with a small shift, approximates ``A`` from below (Tropp,
    Yurtsever, Udell & Cevher 2017, arXiv 1706.05736, Alg. 3). The trace is exact.
    """
    from scipy.linalg import cholesky, qr, solve_triangular, svd

    size = source.num_features
    width = sketch_width(source, num_kept)
    random = np.random.default_rng(seed).standard_normal((size, width))
    test = qr(random, mode="economic", overwrite_a=True, check_finite=False)[0]
    sketch = np.zeros((size, width))
    squares = 0.0

    def add(rows: NDArray[np.float64]) -> None:
        nonlocal sketch, squares
        sketch += rows.T @ (rows @ test)
        squares += float(np.einsum("ij,ij->", rows, rows))

    mean, num_samples = _stream(source, add, progress)
    sketch /= num_samples
    trace = _finite_trace(source, squares / num_samples)
    shift = size * np.finfo(np.float64).eps * float(np.linalg.norm(sketch))
    sketch += shift * test
    core = test.T @ sketch
    factor = cholesky((core + core.T) / 2, check_finite=False)
    half = solve_triangular(factor, sketch.T, trans="T", check_finite=False).T
    vectors, roots, _ = svd(half, full_matrices=False, overwrite_a=True, check_finite=False)
    values = np.maximum(roots[:num_kept] ** 2 - shift, 0.0)
    return Moments(values, vectors.T[:num_kept], mean, trace, num_samples)


def _stream(
    source: Source, add: Callable[[NDArray[np.float64]], None], progress: Progress | None
) -> tuple[NDArray[np.float64], int]:
    """Mean and number of samples; ``add`` gets rows with ``Σ rowsᵀ rows`` = centred scatter.

    The rows of a batch are its samples less the batch's mean, and one more for the distance
    of that mean from the mean so far: the update of Chan, Golub & LeVeque 1983. Values are
    taken relative to the first sample, so that a constant feature has variance exactly 0.
    """
    origin = np.zeros(source.num_features)
    mean = np.zeros(source.num_features)
    count = 0
    # A square too large for float64 is reported by _finite_trace, not by a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for batch in source.batches():
            if count == 0:
                origin = batch[0].copy()
            size = len(batch)
            total = count + size
            relative = batch - origin
            batch_mean = relative.mean(axis=0)
            step = batch_mean - mean
            add(np.vstack([relative - batch_mean, np.sqrt(count * size / total) * step]))
            mean += step * (size / total)
            count = total
            if progress is not None:
                progress(count)
    return origin + mean, count


def _finite_trace(source: Source, trace: float) -> float:
    if not np.isfinite(trace):
        raise InputError(
            source.name,
            "must have variances within float64",
            trace,
            "rescale the samples, for example to [-1, 1]",
        )
    if trace < _SMALLEST_TRACE:
        raise InputError(
            source.name, "must hold samples that differ", f"{source.num_samples} equal ones"
        )
    return trace
