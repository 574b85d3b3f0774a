"""The file of a spectrum: a .npz archive with a JSON header, float64 arrays and a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.files import write_atomic

_FORMAT = "opmerge.spectrum"
_VERSION = 1


def write_spectrum_file(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    arrays: Mapping[str, NDArray[np.float64]],
) -> Path:
    """Write ``header`` (JSON values) and ``arrays``, whole or not at all.

    Raises:
        InputError: if the name does not end in ``.npz`` or the file cannot be written.
    """
    if Path(path).suffix != ".npz":
        raise InputError("path", "must end in .npz", str(path))
    text = json.dumps({"format": _FORMAT, "version": _VERSION, **header})
    entries: dict[str, Any] = {"header": text, "digest": _digest(text, arrays), **arrays}
    buffer = io.BytesIO()
    np.savez(buffer, **entries)
    return write_atomic(path, buffer.getvalue())


def read_spectrum_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Header and arrays of a file written by :func:`write_spectrum_file`, in one dict.

    Raises:
        InputError: if the file is damaged, of another format or version, or was changed since
            it was written. Nothing in it is unpickled.
    """
    try:
        # Opened here because np.load leaves a file that it refuses open.
        with Path(path).open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            arrays = {name: archive[name] for name in archive.files}
        text, digest = arrays.pop("header").item(), arrays.pop("digest").item()
        header = json.loads(text)
        if header.pop("format") != _FORMAT or header.pop("version") != _VERSION:
            raise ValueError(f"not of format {_FORMAT}, version {_VERSION}")
        if digest != _digest(text, arrays):
            raise ValueError("the content does not match its checksum")
        return {**arrays, **header}
    except Exception as error:
        raise unreadable_spectrum(path, error) from error


def unreadable_spectrum(path: str | os.PathLike[str], error: Exception) -> InputError:
    """The error for a file that is not a spectrum."""
    return InputError(
        str(path),
        "must be a spectrum saved by opmerge",
        str(error),
        "estimate the spectrum again",
    )


def is_spectrum_file(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like one written by :func:`write_spectrum_file`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {"header.npy", "digest.npy"} <= set(archive.namelist())
    except Exception:  # a damaged file can raise errors of any type
        return False


def _digest(header: str, arrays: Mapping[str, NDArray[np.float64]]) -> str:
    """SHA-256 over the header and the names, shapes and bytes of the arrays."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f8")
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
