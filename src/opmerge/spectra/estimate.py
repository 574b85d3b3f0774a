"""Estimation of a spectrum from a source of data, in one pass."""

from __future__ import annotations

import numpy as np

from opmerge.checks import check_count, check_whole
from opmerge.data.arrays import read_array
from opmerge.data.resolve import BUILTIN_SOURCES, EIGENVALUES_PREFIX, existing_path, open_source
from opmerge.data.source import Progress, Source
from opmerge.errors import InputError
from opmerge.settings.data import SourceOptions
from opmerge.spectra.files import is_spectrum_file
from opmerge.spectra.moments import (
    Moments,
    dense_moments,
    diagonal_moments,
    sketch_rank,
    sketch_width,
    sketched_moments,
)
from opmerge.spectra.spectrum import Spectrum, eigenvalue_spectrum

# Up to here a dense covariance (half a gigabyte) and its eigenvectors fit into memory.
_MAX_DENSE_FEATURES = 8192


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
    given) eigenvalues come from a Nyström sketch, which never exceeds the true ones, and
    ``remaining_trace`` is exact. Eigenvalues within rounding of 0, ``D·eps`` times the largest,
    are set to 0.

    Args:
        source: the samples.
        diagonal: take the variances of the features for the eigenvalues.
        top_k: keep only the largest eigenvalues.
        progress: called with the number of samples read so far.
        seed: of the sketch's random matrix.

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
    eigenvalues (with ``as_eigenvalues``), or a source of samples (see ``open_source``).

    Args:
        argument: what to read.
        options: how images are cut and resized; the defaults of ``SourceOptions`` unless given.
        diagonal: see :func:`estimate_spectrum`.
        top_k: see :func:`estimate_spectrum`.
        as_eigenvalues: whether the file holds eigenvalues instead of samples.
        seed: see :func:`estimate_spectrum`.
        progress: called with the number of files checked, then of samples read, so far.

    Raises:
        InputError: if nothing can be made of the argument, or if ``diagonal``, ``top_k`` or a
            split come with eigenvalues.
    """
    spectrum = _given_spectrum(argument, as_eigenvalues)
    if spectrum is None:
        source = open_source(argument, options or SourceOptions(), progress)
        return estimate_spectrum(
            source, diagonal=diagonal, top_k=top_k, progress=progress, seed=seed
        )
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
    values = read_array(path).values
    if values.size != max(values.shape, default=0):
        raise InputError(str(path), "must hold one list of eigenvalues", f"shape {values.shape}")
    return eigenvalue_spectrum(values.ravel(), source=path.name)


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
