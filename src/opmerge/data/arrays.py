"""Array files as sources: .npy (memory-mapped), .npz, .csv, .pt and .safetensors."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.data.source import AS_GIVEN, Progress, Source, source_from_array
from opmerge.errors import InputError, not_installed
from opmerge.files import expand_home

# Which of several arrays in one file is meant.
_PREFERRED_NAMES = ("samples", "eigenvalues", "arr_0")


def array_source(path: Path) -> Source:
    """Open a file of samples, one per entry of the first axis.

    A ``.npy`` file is mapped into memory and read batch by batch; the others are read whole.

    Raises:
        InputError: see :func:`read_array`; if the array has fewer than two axes, fewer than
            two samples or no values; while reading, on a value that is not finite.
    """
    values = read_array(path)
    if values.ndim < 2:
        raise InputError(
            str(path),
            "must hold samples along the first of at least 2 axes",
            f"shape {values.shape}",
            "pass `as_eigenvalues=True` if these are eigenvalues",
        )
    has_names = path.suffix.lower() == ".csv" and _has_names(path)
    notes = ("first line taken as column names",) if has_names else ()
    return source_from_array(path.name, values, AS_GIVEN, notes)


def read_array(path: Path) -> NDArray[Any]:
    """Read the one array of a file, without running any code that the file may hold.

    A file with several arrays must name one of them ``samples``, ``eigenvalues`` or ``arr_0``.

    Raises:
        InputError: if the suffix is not one of ``ARRAY_SUFFIXES``, if the file is damaged or
            needs unpickling, or if it does not hold one array of real numbers.
    """
    path = expand_home(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(str(path), f"must end in {', '.join(ARRAY_SUFFIXES)}", path.name)
    try:
        values: NDArray[Any] = reader(path)
    except InputError:
        raise
    except ImportError as error:
        raise not_installed(str(path), error.name) from error
    except Exception as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            str(path), f"must be a readable {path.suffix} file of numbers", first_line
        ) from error
    if values.dtype.kind not in "biuf":
        raise InputError(str(path), "must hold real numbers", f"dtype {values.dtype}")
    return values


def write_rows(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    batches: Iterable[ArrayLike],
    progress: Progress | None = None,
) -> Path:
    """Write batches of rows as one ``.npy`` file of float32, which appears when it is whole.

    By ordinary writes: a full disk is then an error, and not a signal that ends the program, as
    it is on a mapped file. The shape is that of all rows together.

    Raises:
        InputError: if it cannot be written.
    """
    target = Path(path)
    unfinished = target.with_name(f".{target.name}.unfinished")
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    done = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for batch in batches:
                rows = np.asarray(batch, dtype="<f4")
                stream.write(rows.tobytes())
                done += len(rows)
                if progress is not None:
                    progress(done)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    except OSError as error:
        free = shutil.disk_usage(target.parent).free if target.parent.is_dir() else 0
        raise InputError(
            str(target),
            f"cannot be written ({error.strerror})",
            f"{4 * math.prod(shape)} bytes to write and {free} free",
            "make room or choose another place",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return target


def _read_npz(path: Path) -> Any:
    # Opened here because np.load leaves a file that it refuses open.
    with path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise TypeError("not a zip archive")
        return _only_array(path, archive)


def _read_csv(path: Path) -> Any:
    skipped = int(_has_names(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        return np.loadtxt(path, delimiter=",", skiprows=skipped, ndmin=2, encoding="utf-8-sig")


def _has_names(path: Path) -> bool:
    """Whether a CSV file's first line has no number among its fields."""
    with path.open(encoding="utf-8-sig") as lines:
        for field in next(lines, "").split(","):
            with contextlib.suppress(ValueError):
                float(field)
                return False
    return True


def _read_pt(path: Path) -> Any:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    tensor = _only_array(path, content) if isinstance(content, dict) else content
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise InputError(
            str(path), "must hold a dense tensor or a dict of them", type(tensor).__name__
        )
    # NumPy has no bfloat16.
    widened = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return widened.detach().numpy()


def _read_safetensors(path: Path) -> Any:
    import safetensors.numpy

    return _only_array(path, safetensors.numpy.load_file(path))


def _only_array(path: Path, arrays: Mapping[str, Any]) -> Any:
    names = list(arrays)
    for name in names if len(names) == 1 else _PREFERRED_NAMES:
        if name in names:
            return arrays[name]
    raise InputError(
        str(path),
        f"must hold one array, or one named {', '.join(_PREFERRED_NAMES)}",
        ", ".join(map(str, names)) or "none",
    )


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": partial(np.lib.format.open_memmap, mode="r"),
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
}

ARRAY_SUFFIXES = tuple(_READERS)
