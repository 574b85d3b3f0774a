"""Array files as sources: .npy (memory-mapped), .npz, .csv, .tsv, .pt and .safetensors."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.arrays import Array
from opmerge.data.source import AS_GIVEN, Files, Progress, Source, source_from_rows
from opmerge.data.tables import read_table
from opmerge.errors import InputError, not_installed
from opmerge.files import check_unpacked, expand_home, member, open_file

SAMPLES = "samples"
SAMPLE = "sample"

# Names that go before the only array which can be samples, and names that go after it.
_BEFORE = {SAMPLES: (SAMPLES, "eigenvalues"), SAMPLE: (SAMPLE, SAMPLES)}
_AFTER = ("latents", "images", "arr_0")
_LABELS = re.compile(r"y(_|$)|.*(label|target|class|one_?hot)", re.IGNORECASE)  # maybe wide as well
_FEWEST_ROWS = {SAMPLES: 2, SAMPLE: 1}
_PACKED = (".zip", ".gz", ".bz2", ".xz", ".zst", ".tar", ".tgz", ".7z", ".rar")
_COLOURS = (1, 3)
_CHECKED_AT_ONCE = 1024


@dataclass(frozen=True)
class Stored:
    """An array of real numbers from a file, and what is to be said of how it was found there."""

    values: NDArray[Any]
    notes: tuple[str, ...] = ()


def array_source(path: Path) -> Source:
    """Open a file of samples, one per entry of the first axis.

    A ``.npy`` file is mapped into memory and read batch by batch; the others are read whole.
    Values of uint8 are pixels, scaled like those of images, unless there are but 0 and 1.

    Raises:
        InputError: see :func:`read_array`; if the array has fewer than two axes, fewer than
            two samples or no values; while reading, on a value that is not finite.
    """
    stored = read_stored(path)
    values = stored.values
    if values.ndim < 2:
        raise InputError(
            str(path),
            "must hold samples along the first of at least 2 axes",
            f"shape {values.shape}",
            "pass `as_eigenvalues=True` if these are eigenvalues",
        )

    def rows(start: int, stop: int) -> NDArray[Any]:
        return values[start:stop]

    return _source(path.name, values.shape[1:], len(values), rows, values.dtype, stored.notes)


def array_folder_source(folder: Path, names: Sequence[str]) -> Source:
    """Files of one array each, below a folder, as samples in their order, such as cached latents.

    They are read a batch at a time; the first one tells the shape of all.

    Raises:
        InputError: if there are fewer than two; while reading, see :func:`read_array`, or if an
            array is of another shape.
    """
    if len(names) == 1:
        value = f"one file of arrays, {names[0]}"
        remedy = "pass that file, if it holds all samples"
        raise InputError(str(folder), "must hold images, or arrays of a sample each", value, remedy)
    first = read_stored(folder / names[0], SAMPLE)

    def rows(start: int, stop: int) -> NDArray[Any]:
        arrays = [read_array(folder / name, SAMPLE) for name in names[start:stop]]
        for name, values in zip(names[start:stop], arrays, strict=True):
            if values.shape != first.values.shape:
                requirement = f"must have the shape of {names[0]}, {first.values.shape}"
                raise InputError(str(folder / name), requirement, values.shape)
        return np.stack(arrays)

    shape = first.values.shape
    notes = (f"{len(names):,} files with an array each, taken as samples of {shape}", *first.notes)
    return _source(
        folder.resolve().name,
        shape,
        len(names),
        rows,
        first.values.dtype,
        notes,
        Files(folder, names),
    )


def _source(
    name: str,
    shape: tuple[int, ...],
    count: int,
    rows: Callable[[int, int], NDArray[Any]],
    dtype: np.dtype[Any],
    notes: tuple[str, ...],
    files: Files | None = None,
) -> Source:
    """The source of rows of an array, which are pixels if they are uint8 and not only 0 and 1."""
    make = partial(source_from_rows, name, num_samples=count, files=files)
    if dtype != np.uint8:
        return make(shape, rows=rows, scaling=AS_GIVEN, notes=notes)
    starts = range(0, count, _CHECKED_AT_ONCE)
    parts = (rows(start, min(start + _CHECKED_AT_ONCE, count)) for start in starts)
    if all(part.max(initial=0) <= 1 for part in parts):
        binary = "values of 0 and 1 are not scaled like pixels"
        return make(shape, rows=rows, scaling=AS_GIVEN, notes=(*notes, binary))

    # Pillow and its kin have colours last, networks first.
    colours_last = len(shape) == 3 and shape[-1] in _COLOURS and shape[0] not in _COLOURS

    def pixels(start: int, stop: int) -> Array:
        values = rows(start, stop) / 127.5 - 1.0
        return np.moveaxis(values, -1, 1) if colours_last else values

    scaling = "pixel values from [0, 255] to [-1, 1]"
    told = f"values of uint8: {scaling}" + ", colours moved to the front" * colours_last
    shape = (shape[-1], *shape[:-1]) if colours_last else shape
    return make(shape, rows=pixels, scaling=scaling, notes=(*notes, told))


def read_array(path: Path, name: str = SAMPLES) -> NDArray[Any]:
    """The array of :func:`read_stored`."""
    return read_stored(path, name).values


def read_stored(path: Path, name: str = SAMPLES) -> Stored:
    """Read the one array of a file, without running any code that the file may hold.

    Of several arrays it is the one of that name; of samples also ``eigenvalues`` (which are none),
    or else the only one that can be samples: with two axes, two entries along the first, and no
    name of labels. ``arr_0`` comes last.

    Raises:
        InputError: if the suffix is not one of ``ARRAY_SUFFIXES``, if the file is damaged or
            needs unpickling, or if it does not hold one array of real numbers.
    """
    path = expand_home(path)
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        remedy = "unpack it first" if suffix in _PACKED else "save its numbers as .npy"
        raise InputError(str(path), f"must end in {', '.join(ARRAY_SUFFIXES)}", path.name, remedy)
    if not path.is_file():
        raise InputError(str(path), "must be a file that can be read more than once")
    try:
        stored = reader(path, name)
    except InputError:
        raise
    except ImportError as error:
        raise not_installed(str(path), error.name) from error
    except Exception as error:
        first_line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(
            str(path), f"must be a readable {path.suffix} file of numbers", first_line
        ) from error
    if not _is_real(stored.values):
        raise InputError(str(path), "must hold real numbers", f"dtype {stored.values.dtype}")
    return stored


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


def _read_npz(path: Path, name: str) -> Stored:
    # Opened here because np.load leaves a file that it refuses open.
    with open_file(path) as stream:
        check_unpacked(stream, path)
        archive = np.load(stream, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise TypeError("not a zip archive")
        return _one_of(path, archive.files, partial(member, archive), name)


def _read_csv(path: Path, name: str) -> Stored:
    table = read_table(path)
    return Stored(table.values, table.notes)


def _read_pt(path: Path, name: str) -> Stored:
    import torch

    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict):
        return _one_of(path, list(content), lambda key: _from_torch(path, content[key]), name)
    return Stored(_from_torch(path, content))


def _from_torch(path: Path, tensor: Any) -> NDArray[Any]:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise InputError(
            str(path), "must hold a dense tensor or a dict of them", type(tensor).__name__
        )
    try:
        values: NDArray[Any] = tensor.detach().numpy()
    except TypeError:  # NumPy has no bfloat16 and no float8
        values = tensor.detach().float().numpy()
    return values


def _read_safetensors(path: Path, name: str) -> Stored:
    from safetensors import safe_open

    def read(key: str) -> NDArray[Any]:
        with safe_open(path, "np") as file:
            if file.get_slice(key).get_dtype() in _OF_NUMPY:
                return file.get_tensor(key)
        with safe_open(path, "pt") as file:
            return _from_torch(path, file.get_tensor(key))

    with safe_open(path, "np") as file:
        return _one_of(path, list(file.keys()), read, name)


def _one_of(
    path: Path, names: Sequence[Any], read: Callable[[Any], NDArray[Any]], wanted: str
) -> Stored:
    """One of the arrays of a file, by its name or by what it can be; see :func:`read_stored`."""
    if len(names) == 1:
        return Stored(read(names[0]))
    for name in _BEFORE.get(wanted, (wanted,)):
        if name in names:
            return Stored(read(name))
    found = (
        []
        if wanted not in _FEWEST_ROWS
        else list(_can_be_samples(names, read, _FEWEST_ROWS[wanted]))
    )
    taken = found[0] if len(found) == 1 else next((each for each in _AFTER if each in names), None)
    every = ", ".join(map(str, names))
    if taken is None:
        requirement = f"must hold one array, or one named {wanted}"
        raise InputError(str(path), requirement, every or "none", f"save it alone, or as {wanted}")
    return Stored(read(taken), (f"{taken} is read as the {wanted}, of the arrays {every}",))


def _can_be_samples(
    names: Sequence[Any], read: Callable[[Any], NDArray[Any]], fewest: int
) -> Iterator[Any]:
    """The first two of the names whose arrays may be samples: at least so many entries of rows."""
    count = 0
    for name in names:
        if count == 2 or _LABELS.match(str(name)):  # two are too many
            continue
        with contextlib.suppress(ValueError):  # objects, or in a .pt file no tensor
            values = read(name)
            if _is_real(values) and values.ndim >= 2 and len(values) >= fewest:
                count += 1
                yield name


def _is_real(values: NDArray[Any]) -> bool:
    return values.dtype.kind in "biuf"


# NumPy's own types of numbers, as safetensors calls them.
_OF_NUMPY = {"BOOL", "F16", "F32", "F64"} | {f"{sign}{n}" for sign in "IU" for n in (8, 16, 32, 64)}

_READERS: dict[str, Callable[[Path, str], Stored]] = {
    ".npy": lambda path, name: Stored(np.lib.format.open_memmap(path, mode="r")),
    ".npz": _read_npz,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".pt": _read_pt,
    ".safetensors": _read_safetensors,
}

ARRAY_SUFFIXES = tuple(_READERS)

SAMPLE_SUFFIXES = tuple(suffix for suffix in ARRAY_SUFFIXES if suffix not in (".csv", ".tsv"))
"""Of files that may hold a sample each; tables lie beside them for other reasons."""
