"""Spectrum: the eigenvalues of a data covariance, with what is needed to go back to the data."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.checks import check_count, check_notes, check_number, check_whole
from opmerge.errors import InputError
from opmerge.spectra.files import read_spectrum_file, unreadable_spectrum, write_spectrum_file

SpectrumKind = Literal["full", "diagonal", "top-k", "eigenvalues"]

_ARRAY_NAMES = ("eigenvalues", "multiplicities", "mean", "basis")

_LARGEST_EIGENVALUE = 1e12


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues ``λ_i`` of a data covariance (THEORY 1), float64 and read-only.

    Attributes:
        eigenvalues: (k,) descending, 0 <= λ <= 1e12, at least one above 0.
        multiplicities: (k,) whole numbers >= 1: how many coordinates share an eigenvalue.
        mean: (D,) mean of the samples, where there were samples.
        basis: (k, D) orthonormal rows, the eigenvector of each eigenvalue; ``None`` for
            ``diagonal`` (a feature's variance taken as its eigenvalue) and ``eigenvalues``.
        num_samples: number of samples the covariance was estimated from.
        source: name of the source.
        scaling: how the data were scaled; scaling data by ``c`` multiplies every λ by ``c²``.
        kind: ``full`` (all eigenvalues), ``top-k`` (the largest), ``diagonal`` or
            ``eigenvalues`` (given as numbers).
        remaining_trace: variance that the eigenvalues do not cover (``top-k``).
        remaining_dimensions: number of coordinates that they do not cover.
        shape: shape of one sample.
        notes: what a reader of the result must know.

    Raises:
        InputError: if one of these rules is broken, with the place and the value.
    """

    eigenvalues: NDArray[np.float64]
    multiplicities: NDArray[np.float64]
    mean: NDArray[np.float64] | None
    basis: NDArray[np.float64] | None
    num_samples: int | None
    source: str
    scaling: str
    kind: SpectrumKind
    remaining_trace: float = 0.0
    remaining_dimensions: int = 0
    shape: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _ARRAY_NAMES:
            given = getattr(self, name)
            if given is not None:
                # The basis may fill the memory, so it is shared, not copied.
                array = np.array(given, dtype=np.float64, copy=None if name == "basis" else True)
                array = array.view()
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        _check_eigenvalues(self.eigenvalues)
        _check_multiplicities(self.multiplicities, self.eigenvalues)
        _check_vectors(self)
        if self.kind not in get_args(SpectrumKind):
            raise InputError("kind", f"must be one of {get_args(SpectrumKind)}", self.kind)
        checked = {
            "remaining_trace": check_number("remaining_trace", self.remaining_trace),
            "remaining_dimensions": check_whole("remaining_dimensions", self.remaining_dimensions),
        }
        for name, number in checked.items():
            if number < 0:
                raise InputError(name, "must be >= 0", number)
            object.__setattr__(self, name, number)
        if self.num_samples is not None:
            object.__setattr__(self, "num_samples", check_count("num_samples", self.num_samples))
        object.__setattr__(self, "notes", check_notes(self.notes))
        object.__setattr__(self, "shape", tuple(check_count("shape", n) for n in self.shape))

    @property
    def num_dimensions(self) -> int:
        """Number of coordinates of the data, those without an eigenvalue included."""
        return round(float(self.multiplicities.sum())) + self.remaining_dimensions

    @property
    def trace(self) -> float:
        """Total variance ``Σ w_i λ_i`` and the remaining one."""
        return float(self.eigenvalues @ self.multiplicities) + self.remaining_trace

    @property
    def sha256(self) -> str:
        """SHA-256 of the eigenvalues, each as often as it occurs, as little-endian float64."""
        repeated = np.repeat(self.eigenvalues, self.multiplicities.astype(np.int64))
        return hashlib.sha256(repeated.astype("<f8").tobytes()).hexdigest()

    def identity(self) -> dict[str, str | float]:
        """What plan files say of a spectrum: ``sha256``, ``number``, ``min`` and ``max``."""
        return {
            "sha256": self.sha256,
            "number": self.num_dimensions - self.remaining_dimensions,
            "min": float(self.eigenvalues[-1]),
            "max": float(self.eigenvalues[0]),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.npz`` file that :meth:`load` reads back bit by bit.

        Raises:
            InputError: if the name does not end in ``.npz`` or the file cannot be written.
        """
        arrays = {
            name: array for name in _ARRAY_NAMES if (array := getattr(self, name)) is not None
        }
        header = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in _ARRAY_NAMES
        }
        return write_spectrum_file(path, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read a file written by :meth:`save`; nothing in it is unpickled.

        Raises:
            InputError: if the file is damaged, was changed since it was written, or is not a
                spectrum.
        """
        try:
            return cls(**{"mean": None, "basis": None, **read_spectrum_file(path)})
        except TypeError as error:  # a field too many or too few
            raise unreadable_spectrum(path, error) from error


def eigenvalue_spectrum(
    eigenvalues: ArrayLike,
    multiplicities: ArrayLike | None = None,
    source: str = "eigenvalues",
) -> Spectrum:
    """The spectrum of given eigenvalues, in any order.

    Args:
        eigenvalues: (k,) between 0 and 1e12, at least one above 0.
        multiplicities: (k,) whole numbers >= 1, in the order of the eigenvalues; 1 unless given.
        source: name of the source.

    Raises:
        InputError: on an empty list or a value outside these ranges, with its position.
    """
    values = _real_numbers("eigenvalues", eigenvalues)
    weights = (
        np.ones_like(values)
        if multiplicities is None
        else _real_numbers("multiplicities", multiplicities)
    )
    # Checked before sorting, so that a position in a message is one in the given list.
    _check_eigenvalues(values)
    _check_multiplicities(weights, values)
    order = np.argsort(-values, kind="stable")
    return Spectrum(
        values[order], weights[order], None, None, None, source, "as given", "eigenvalues"
    )


def _real_numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """``values`` as a 1-D float64 array; numbers may come as text."""
    given = np.asarray(values)
    if given.ndim != 1 or given.size == 0:
        raise InputError(name, "must be a list of at least one number", values)
    numbers = np.empty(given.size)
    for position, value in enumerate(given.tolist(), start=1):
        try:
            numbers[position - 1] = float(value)
        except (TypeError, ValueError):
            raise InputError(
                name, "must be numbers", f"{str(value)!r} at position {position}"
            ) from None
    return numbers


def _check_eigenvalues(values: NDArray[np.float64]) -> None:
    if values.ndim != 1 or values.size == 0:
        raise InputError("eigenvalues", "must be a list of at least one number", values)
    inside = (values >= 0) & (values <= _LARGEST_EIGENVALUE)  # neither holds for NaN
    _refuse_first(
        "eigenvalues",
        f"must be between 0 and {_LARGEST_EIGENVALUE:g}",
        values,
        ~inside,
        "rescale the data" if (values > _LARGEST_EIGENVALUE).any() else "",
    )
    if not values.any():
        raise InputError("eigenvalues", "must include one above 0", "zeros only")


def _check_multiplicities(weights: NDArray[np.float64], values: NDArray[np.float64]) -> None:
    if weights.shape != values.shape:
        raise InputError(
            "multiplicities", f"must be {values.size} numbers, one per eigenvalue", weights.shape
        )
    whole = (weights >= 1) & (weights == np.floor(weights)) & np.isfinite(weights)
    _refuse_first("multiplicities", "must be whole numbers >= 1", weights, ~whole)


def _refuse_first(
    name: str,
    requirement: str,
    values: NDArray[np.float64],
    wrong: NDArray[np.bool_],
    remedy: str = "",
) -> None:
    for index in np.flatnonzero(wrong)[:1]:
        raise InputError(name, requirement, f"{values[index]} at position {index + 1}", remedy)


def _check_vectors(spectrum: Spectrum) -> None:
    if (np.diff(spectrum.eigenvalues) > 0).any():
        raise InputError("eigenvalues", "must be descending", remedy="use eigenvalue_spectrum")
    mean, basis = spectrum.mean, spectrum.basis
    if mean is not None and not (mean.ndim == 1 and np.isfinite(mean).all()):
        raise InputError("mean", "must be a list of finite numbers", mean)
    if basis is None:
        return
    expected = (spectrum.eigenvalues.size, None if mean is None else mean.size)
    if basis.shape != expected:
        raise InputError("basis", f"must have the shape {expected} that fits the rest", basis.shape)
    # A random combination of orthonormal rows keeps its length and gives its weights back:
    # a full product of a large basis with itself would take longer than its eigenvectors.
    probe = np.random.default_rng(0).standard_normal(len(basis))
    error = np.abs(basis @ (probe @ basis) - probe).max()
    if not error < 1e-8:
        raise InputError("basis", "must have orthonormal rows", f"an error of {error:.1e}")
