"""Estimation of a spectrum from a source of data, in one pass: dense, per feature or sketched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opmerge.arrays import Array
from opmerge.checks import check_count, check_whole
from opmerge.data import BUILTIN_SOURCES, EIGENVALUES_PREFIX, existing_path, open_source
from opmerge.data.arrays import read_stored
from opmerge.data.source import Progress, Source, range_notes
from opmerge.errors import InputError
from opmerge.settings.data import SourceOptions
from opmerge.spectra.spectrum import Spectrum, eigenvalue_spectrum, is_spectrum_file

# Up to here a dense covariance (half a gigabyte) and its eigenvectors fit into memory.
_MAX_DENSE_FEATURES = 8192
_MAX_SKETCH_VALUES = 2**29  # 4 GiB for each of the two matrices of a sketch
_DEFAULT_RANK = 512
# Below it, rounding is no longer relative to the values.
_SMALLEST_TRACE = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps)


def estimate_spectrum(
    source: Source,
    *,
    diagonal: bool = False,
    top_k: int | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Spectrum:
    """Estimate the spectrum of ``1/n Σ (x − mean)(x − mean)ᵀ`` in one pass over a source.

    With ``1/n`` the Gaussian of this mean and covariance has the moments of the samples, so
    its denoiser is the best linear denoiser of the samples themselves.

    Up to 8192 features the covariance is dense. Beyond, the largest ``top_k`` (512 unless
    given) eigenvalues come from a Nyström sketch with a random matrix from ``seed``, which never
    exceeds the true ones, and ``remaining_trace`` is exact. With ``diagonal`` the variances of the
    features are taken for the eigenvalues. Eigenvalues within rounding of 0, ``D·eps`` times the
    largest, are set to 0. ``progress`` is called with the number of samples read so far.

    Raises:
        InputError: if the samples are all equal or their variances leave float64; if ``top_k``
            is not in 1 … D, needs too much memory, or comes with ``diagonal``.
    """
    size = source.num_features
    if check_whole("seed", seed) < 0:
        raise InputError("seed", "must be >= 0", seed)
    if top_k is not None and diagonal:
        raise InputError("top_k", "must be left out with diagonal", top_k)
    if top_k is not None and check_count("top_k", top_k) > size:
        raise InputError("top_k", f"must be <= {size}, the number of features", top_k)
    notes = list(source.notes)
    if diagonal:
        moments = diagonal_moments(source, progress)
    elif size <= _MAX_DENSE_FEATURES:
        moments = dense_moments(source, top_k or size, progress)
    else:
        num_kept = sketch_rank(source, top_k)
        moments = sketched_moments(source, num_kept, progress, seed)
        notes.append(
            f"largest {num_kept} of {size} eigenvalues, from below, by a Nyström sketch "
            f"of {sketch_width(source, num_kept)} columns"
        )
    return _spectrum_of_moments(source, moments, diagonal, notes)


def resolve_spectrum(
    argument: str,
    *,
    options: SourceOptions | None = None,
    diagonal: bool = False,
    top_k: int | None = None,
    as_eigenvalues: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Spectrum:
    """The spectrum that an argument of the command line names.

    It is ``eigenvalues:0.2,0.5,2``, a spectrum written by :meth:`Spectrum.save`, a file of
    eigenvalues (with ``as_eigenvalues``), or a source of samples (see ``open_source``), whose
    spectrum is estimated (see ``estimate_spectrum``). ``progress`` is called with the number of
    files checked, then of samples read, so far.

    Raises:
        InputError: if nothing can be made of the argument, or if ``diagonal``, ``top_k`` or a
            split come with eigenvalues.
    """
    spectrum = _given_spectrum(argument, as_eigenvalues)
    if spectrum is None:
        source = open_source(argument, options or SourceOptions(), progress)
        spectrum = estimate_spectrum(
            source, diagonal=diagonal, top_k=top_k, progress=progress, seed=seed
        )
        assert spectrum.mean is not None  # of samples
        square = float(spectrum.mean @ spectrum.mean) + spectrum.trace
        told = range_notes(source.scaling, math.sqrt(square / source.num_features))
        return replace(spectrum, notes=(*spectrum.notes, *told))
    split = None if options is None else options.split
    for name, value in (("diagonal", diagonal or None), ("top_k", top_k), ("split", split)):
        if value is not None:
            raise InputError(name, "must be left out where eigenvalues are given", value)
    return spectrum


def _given_spectrum(argument: str, as_eigenvalues: bool) -> Spectrum | None:
    """The spectrum, if ``argument`` gives one instead of samples."""
    if argument.startswith(EIGENVALUES_PREFIX):
        return eigenvalue_spectrum(argument.removeprefix(EIGENVALUES_PREFIX).split(","))
    if is_spectrum_file(argument):
        return Spectrum.load(argument)
    if not as_eigenvalues:
        return None
    if argument in BUILTIN_SOURCES:
        raise InputError("data", "must be a file to be read as eigenvalues", argument)
    path = existing_path(argument)
    stored = read_stored(path, "eigenvalues")
    values = stored.values
    if values.size != max(values.shape, default=0):
        raise InputError(str(path), "must hold one list of eigenvalues", f"shape {values.shape}")
    return replace(eigenvalue_spectrum(values.ravel(), source=path.name), notes=stored.notes)


def _spectrum_of_moments(
    source: Source, moments: Moments, diagonal: bool, notes: list[str]
) -> Spectrum:
    size, num_samples = source.num_features, moments.num_samples
    rounding = size * np.finfo(np.float64).eps * float(moments.eigenvalues[0])
    within = moments.eigenvalues <= rounding  # a sum of squares is below 0 by rounding only
    eigenvalues = np.where(within, 0.0, moments.eigenvalues)
    num_kept = len(eigenvalues)
    if within.any():
        notes.append(f"{within.sum()} of {num_kept} eigenvalues are 0 to rounding")
    if num_samples <= size and not diagonal:
        notes.append(
            f"{num_samples} samples of {size} features: at least {size - num_samples + 1} "
            "eigenvalues are 0 for want of samples"
        )
    remaining = size - num_kept
    return Spectrum(
        eigenvalues,
        np.ones(num_kept),
        moments.mean,
        moments.basis,
        num_samples,
        source.name,
        source.scaling,
        "diagonal" if diagonal else "top-k" if remaining else "full",
        max(moments.trace - float(eigenvalues.sum()), 0.0) if remaining else 0.0,
        remaining,
        source.shape,
        tuple(notes),
    )


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

    eigenvalues: Array
    basis: Array | None
    mean: Array
    trace: float
    num_samples: int


def dense_moments(source: Source, num_kept: int, progress: Progress | None) -> Moments:
    """The ``num_kept`` largest eigenvalues of the dense covariance; memory O(D²)."""
    from scipy.linalg import eigh

    size = source.num_features
    mean, covariance, num_samples = _average(source, lambda rows: rows.T @ rows, progress)
    trace = _checked_trace(source, float(np.trace(covariance)))
    subset = None if num_kept == size else (size - num_kept, size - 1)
    values, vectors = eigh(covariance, subset_by_index=subset, overwrite_a=True, check_finite=False)
    return Moments(values[::-1], vectors.T[::-1], mean, trace, num_samples)


def diagonal_moments(source: Source, progress: Progress | None) -> Moments:
    """The variances of the features; memory O(D)."""
    mean, variances, num_samples = _average(
        source, lambda rows: np.einsum("ij,ij->j", rows, rows), progress
    )
    variances = np.sort(variances)[::-1]
    trace = _checked_trace(source, float(variances.sum()))
    return Moments(variances, None, mean, trace, num_samples)


def sketch_rank(source: Source, top_k: int | None) -> int:
    """``top_k`` if the memory allows, or else 512 or as many as samples and memory allow."""
    size = source.num_features
    largest = max((_MAX_SKETCH_VALUES // size - 1) // 2, 1)
    if top_k is None:
        return min(_DEFAULT_RANK, largest, source.num_samples - 1)
    if top_k > largest:
        requirement = f"must be <= {largest} for {size} features, to fit into memory"
        raise InputError("top_k", requirement, top_k, "pass `diagonal=True` or smaller samples")
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
    random = np.random.default_rng(seed).standard_normal((size, sketch_width(source, num_kept)))
    test = qr(random, mode="economic", overwrite_a=True, check_finite=False)[0]
    squares = 0.0

    def product(rows: Array) -> Any:
        nonlocal squares
        squares += float(np.einsum("ij,ij->", rows, rows))
        return rows.T @ (rows @ test)

    mean, sketch, num_samples = _average(source, product, progress)
    trace = _checked_trace(source, squares / num_samples)
    # Squares of what is far from 1 leave float64; a power of 2 changes no other bit.
    scale = float(np.ldexp(0.5, np.frexp(np.abs(sketch).max())[1]))
    sketch /= scale
    shift = size * np.finfo(np.float64).eps * float(np.linalg.norm(sketch))
    sketch += shift * test
    core = test.T @ sketch
    factor = cholesky((core + core.T) / 2, check_finite=False)
    half = solve_triangular(factor, sketch.T, trans="T", check_finite=False).T
    vectors, roots, _ = svd(half, full_matrices=False, overwrite_a=True, check_finite=False)
    values = scale * np.maximum(roots[:num_kept] ** 2 - shift, 0.0)
    return Moments(values, vectors.T[:num_kept], mean, trace, num_samples)


def _average(
    source: Source,
    product: Callable[[Array], Array],
    progress: Progress | None,
) -> tuple[Array, Array, int]:
    """Mean, the sum of ``product(rows)`` over the number of samples, and that number.

    ``Σ rowsᵀ rows`` is the centred scatter: the rows of a batch are its samples less the batch's
    mean, and one more for the distance of that mean from the mean so far: the update of Chan,
    Golub & LeVeque 1983. Values are taken relative to the first sample, so that a constant feature
    has variance exactly 0.
    """
    origin = mean = np.zeros(source.num_features)
    total: Any = 0.0
    count = 0
    # A square too large for float64 is reported by _checked_trace, not by a warning.
    with np.errstate(over="ignore", invalid="ignore"):
        for batch in source.batches():
            if count == 0:
                origin = batch[0].copy()
            size = len(batch)
            relative = batch - origin
            batch_mean = relative.mean(axis=0)
            step = batch_mean - mean
            weight = size / (count + size)
            between = np.sqrt(count * size / (count + size)) * step
            total += product(np.vstack([relative - batch_mean, between]))
            mean = mean + step * weight
            count += size
            if progress is not None:
                progress(count)
    total /= count
    return origin + mean, total, count


def _checked_trace(source: Source, trace: float) -> float:
    if not np.isfinite(trace):
        remedy = "rescale the samples, for example to [-1, 1]"
        raise InputError(source.name, "must have variances within float64", trace, remedy)
    if trace < _SMALLEST_TRACE:
        equal = f"{source.num_samples} equal ones"
        raise InputError(source.name, "must hold samples that differ", equal)
    return trace
