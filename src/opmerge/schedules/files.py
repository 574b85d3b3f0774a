"""Reading a schedule's arrays, or a JSON object, from a file."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        InputError: if the file cannot be read or holds anything else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"must hold JSON ({error})") from error
    if not isinstance(data, dict):
        raise InputError(str(path), "must hold a JSON object", data)
    return data


def read_arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Alphas and sigmas as a file holds them.

    ``.npz`` with the keys ``alphas`` and ``sigmas``; ``.npy`` or ``.csv`` with alphas and
    sigmas as two rows or two columns (2 x 2 is read as rows; a CSV may begin with the line
    ``alphas,sigmas``, which makes them columns).

    Raises:
        InputError: if the file cannot be read or is laid out otherwise.
    """
    if path.suffix not in (".npz", ".npy", ".csv"):
        raise InputError(str(path), "must be a folder or a .json, .npz, .npy or .csv file")
    try:
        if path.suffix == ".csv":
            return _read_csv(path)
        with path.open("rb") as stream:  # np.load leaves a file that it refuses open
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return _two_vectors(path, loaded)
            for key in ("alphas", "sigmas"):
                if key not in loaded.files:
                    raise InputError(str(path), f"must hold the array {key}", loaded.files)
            return loaded["alphas"], loaded["sigmas"]
    except InputError:
        raise
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror or error})") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(str(path), f"must hold arrays of numbers ({error})") from error


def _read_csv(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    has_header = bool(lines) and lines[0].replace(" ", "").lower() == "alphas,sigmas"
    rows = lines[1:] if has_header else lines
    if not rows:
        raise InputError(str(path), "must hold alphas and sigmas", "an empty file")
    table = np.loadtxt(rows, delimiter=",", ndmin=2)
    return _two_vectors(path, table.T if has_header else table)


def _two_vectors(path: Path, table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if table.ndim == 2 and table.shape[0] == 2:
        return table[0], table[1]
    if table.ndim == 2 and table.shape[1] == 2:
        return table[:, 0], table[:, 1]
    raise InputError(
        str(path), "must hold two rows or two columns, alphas and sigmas", f"shape {table.shape}"
    )
