"""Spectrum: the eigenvalues of a data covariance, with what is needed to go back to the data."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from opmerge.arrays import Array
from opmerge.checks import check_count, check_notes, check_number, check_whole
from opmerge.errors import InputError
from opmerge.files import load_npz, parse_json, write_atomic

SpectrumKind = Literal["full", "diagonal", "top-k", "eigenvalues"]
"""Of the covariance: whole, its diagonal, its k largest, or eigenvalues as given."""

_FORMAT = {"format": "opmerge.spectrum", "version": 1}
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

    eigenvalues: Array
    multiplicities: Array
    mean: Array | None
    basis: Array | None
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
                copy = None if name == "basis" else True
                array = np.array(given, dtype=np.float64, copy=copy).view()
                array.setflags(write=False)
                object.__setattr__(self, name, array)
        _check_eigenvalues(self.eigenvalues, self.multiplicities)
        _check_vectors(self)
        if self.kind not in get_args(SpectrumKind):
            raise InputError("kind", f"must be one of {get_args(SpectrumKind)}", self.kind)
        checked: dict[str, Any] = {
            "remaining_trace": check_number("remaining_trace", self.remaining_trace),
            "remaining_dimensions": check_whole("remaining_dimensions", self.remaining_dimensions),
            "notes": check_notes(self.notes),
            "shape": tuple(check_count("shape", n) for n in self.shape),
        }
        if self.num_samples is not None:
            checked["num_samples"] = check_count("num_samples", self.num_samples)
        for name in ("remaining_trace", "remaining_dimensions"):
            if checked[name] < 0:
                raise InputError(name, "must be >= 0", checked[name])
        for name, value in checked.items():
            object.__setattr__(self, name, value)

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
        """What plan files say of a spectrum: ``sha256``, ``number``, ``min`` and ``max``.

        Of one that samples gave also their ``dimensions`` and total variance, ``trace``.
        """
        eigenvalues: dict[str, str | float] = {
            "sha256": self.sha256,
            "number": self.num_dimensions - self.remaining_dimensions,
            "min": float(self.eigenvalues[-1]),
            "max": float(self.eigenvalues[0]),
        }
        if self.num_samples is None:
            return eigenvalues
        return {**eigenvalues, "dimensions": self.num_dimensions, "trace": self.trace}

    def to_bytes(self) -> bytes:
        """The ``.npz`` archive that :meth:`save` writes."""
        header = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: header.pop(name) for name in _ARRAY_NAMES}
        arrays = {name: array for name, array in arrays.items() if array is not None}
        text = json.dumps({**_FORMAT, **header})
        buffer = io.BytesIO()
        np.savez(buffer, header=text, digest=_digest(text, arrays), **arrays)
        return buffer.getvalue()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a ``.npz`` archive that :meth:`load` reads back bit by bit.

        It holds the arrays, all else as a JSON header, and a checksum.

        Raises:
            InputError: if the name does not end in ``.npz`` or the file cannot be written.
        """
        if Path(path).suffix.lower() != ".npz":
            raise InputError("path", "must end in .npz", str(path))
        return write_atomic(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Spectrum:
        """Read a file written by :meth:`save`; nothing in it is unpickled.

        Raises:
            InputError: if the file is damaged, was changed since it was written, or is not a
                spectrum.
        """
        try:
            arrays = load_npz(path)
            text, digest = arrays.pop("header").item(), arrays.pop("digest").item()
            header = parse_json(text)
            if {key: header.pop(key) for key in _FORMAT} != _FORMAT:
                raise ValueError(f"not of format {_FORMAT['format']}, version {_FORMAT['version']}")
            if digest != _digest(text, arrays):
                raise ValueError("the content does not match its checksum")
            return cls(**{"mean": None, "basis": None, **arrays, **header})
        except InputError:
            raise
        except Exception as error:
            requirement = "must be a spectrum saved by opmerge"
            remedy = "estimate the spectrum again"
            raise InputError(str(path), requirement, str(error), remedy) from error


def is_spectrum_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like one written by :meth:`Spectrum.save`."""
    if not Path(path).is_file():  # a pipe would be waited for
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"header.npy", "digest.npy"} <= set(archive.namelist())
    except Exception:  # a damaged file can raise errors of any type
        return False


def _digest(header: str, arrays: Mapping[str, Array]) -> str:
    """SHA-256 over the header and the names, shapes and bytes of the arrays."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f8")
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def eigenvalue_spectrum(
    eigenvalues: ArrayLike,
    multiplicities: ArrayLike | None = None,
    source: str = "eigenvalues",
) -> Spectrum:
    """The spectrum of (d,) eigenvalues, in any order; each of (d,) multiplicities is 1 by default.

    Raises:
        InputError: on an empty list or what a ``Spectrum`` does not take, with its position.
    """
    values = _real_numbers("eigenvalues", eigenvalues)
    weights = np.ones_like(values)
    if multiplicities is not None:
        weights = _real_numbers("multiplicities", multiplicities)
    # Checked before sorting, so that a position in a message is one in the given list.
    _check_eigenvalues(values, weights)
    order = np.argsort(-values, kind="stable")
    return Spectrum(
        values[order], weights[order], None, None, None, source, "as given", "eigenvalues"
    )


def _real_numbers(name: str, values: ArrayLike) -> Array:
    """``values`` as a 1-D float64 array; numbers may come as text."""
    given = np.asarray(values)
    if given.ndim != 1 or given.size == 0:
        raise InputError(name, "must be a list of at least one number", values)
    numbers = np.empty(given.size)
    for position, value in enumerate(given.tolist(), start=1):
        try:
            numbers[position - 1] = float(value)
        except (TypeError, ValueError):
            place = f"{str(value)!r} at position {position}"
            raise InputError(name, "must be numbers", place) from None
    return numbers


def _check_eigenvalues(values: Array, weights: Array) -> None:
    if values.ndim != 1 or values.size == 0:
        raise InputError("eigenvalues", "must be a list of at least one number", values)
    requirement = f"must be between 0 and {_LARGEST_EIGENVALUE:g}"
    remedy = "rescale the data" if (values > _LARGEST_EIGENVALUE).any() else ""
    inside = (values >= 0) & (values <= _LARGEST_EIGENVALUE)  # neither holds for NaN
    for index in np.flatnonzero(~inside)[:1]:
        place = f"{values[index]} at position {index + 1}"
        raise InputError("eigenvalues", requirement, place, remedy)
    if not values.any():
        raise InputError("eigenvalues", "must include one above 0", "zeros only")
    if weights.shape != values.shape:
        requirement = f"must be {values.size} numbers, one per eigenvalue"
        raise InputError("multiplicities", requirement, weights.shape)
    is_count = (weights >= 1) & (weights == np.floor(weights)) & np.isfinite(weights)
    for index in np.flatnonzero(~is_count)[:1]:
        place = f"{weights[index]} at position {index + 1}"
        raise InputError("multiplicities", "must be whole numbers >= 1", place)


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
