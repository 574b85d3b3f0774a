"""Array files as sources: .npy (memory-mapped), .npz, .csv, .pt and .safetensors."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.data.source import AS_GIVEN, Progress, Source, source_from_rows
from opmerge.errors import InputError
from opmerge.files import expand_home

# Which of several arrays in one file is meant.
_PREFERRED_NAMES = ("samples", "eigenvalues", "arr_0")


@dataclass(frozen=True)
class ArrayFile:
    """The real numbers of one file and what was remarkable about reading them."""

    values: NDArray[Any]
    notes: tuple[str, ...] = ()


def array_source(path: Path) -> Source:
    """Open a file of samples, one per entry of the first axis.

    A ``.npy`` file is mapped into memory and read batch by batch; the others are read whole.

    Raises:
        InputError: see :func:`read_array`; if the array has fewer than two axes, fewer than
            two samples or no values; while reading, on a value that is not finite.
    """
    file = read_array(path)
    values = file.values
    if values.ndim < 2:
        raise InputError(
            str(path),
            "must hold samples along the first of at least 2 axes",
            f"shape {values.shape}",
            "pass `as_eigenvalues=True` if these are eigenvalues",
        )
    return source_from_rows(
        path.name,
        values.shape[1:],
        len(values),
        lambda start, stop: values[start:stop],
        scaling=AS_GIVEN,
        notes=file.notes,
    )


def read_array(path: Path) -> ArrayFile:
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
        file = reader(path)
    except InputError:
        raise
    except Exception as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            str(path), f"must be a readable {path.suffix} file of numbers", first_line
        ) from error
    if file.values.dtype.kind not in "biuf":
        raise InputError(str(path), "must hold real numbers", f"dtype {file.values.dtype}")
    return file


def write_rows(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    batches: Iterable[ArrayLike],
    progress: Progress | None = None,
) -> Path:
    """Write batches as one ``.npy`` file of float32, which appears when it is whole.

    By ordinary writes: a full disk is then an error, and not a signal that ends the program, as
    it is on a mapped file.

    Args:
        path: the file.
        shape: of all rows together.
        batches: (B, …) rows in order.
        progress: called with the number of rows written so far.

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


def _read_npy(path: Path) -> ArrayFile:
    return ArrayFile(np.lib.format.open_memmap(path, mode="r"))


def _read_npz(path: Path) -> ArrayFile:
    # Opened here because np.load leaves a file that it refuses open.
    with path.open("rb") as stream:
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise TypeError("not a zip archive")
        return ArrayFile(_only_array(path, archive))


def _read_csv(path: Path) -> ArrayFile:
    with path.open(encoding="utf-8-sig") as lines:
        has_names = not any(_is_number(field) for field in next(lines, "").split(","))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        values = np.loadtxt(
            path, delimiter=",", skiprows=int(has_names), ndmin=2, encoding="utf-8-sig"
        )
    return ArrayFile(values, ("first line taken as column names",) if has_names else ())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_pt(path: Path) -> ArrayFile:
    try:
        import torch
    except ImportError as error:
        raise _missing_extra(path, "torch") from error

    content = torch.load(path, map_location="cpu", weights_only=True)
    tensor = _only_array(path, content) if isinstance(content, dict) else content
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise InputError(
            str(path), "must hold a dense tensor or a dict of them", type(tensor).__name__
        )
    # NumPy has no bfloat16.
    widened = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return ArrayFile(widened.detach().numpy())


def _read_safetensors(path: Path) -> ArrayFile:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise _missing_extra(path, "safetensors") from error

    try:
        return ArrayFile(_only_array(path, load_file(path)))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _missing_extra(path: Path, package: str) -> InputError:
    return InputError(
        str(path),
        f"needs the package {package}, which is not installed",
        remedy="pip install 'opmerge[torch]'",
    )


def _only_array(path: Path, arrays: Mapping[str, Any]) -> Any:
    names = list(arrays)
    if len(names) == 1:
        return arrays[names[0]]
    for name in _PREFERRED_NAMES:
        if name in names:
            return arrays[name]
    raise InputError(
        str(path),
        f"must hold one array, or one named {', '.join(_PREFERRED_NAMES)}",
        ", ".join(map(str, names)) or "none",
    )


_READERS: dict[str, Callable[[Path], ArrayFile]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
}

ARRAY_SUFFIXES = tuple(_READERS)
