"""Samples and labels as tensors in the shape that a network reads."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opmerge.data import Progress, Source
from opmerge.data.arrays import read_array, write_rows
from opmerge.errors import InputError

__all__ = ["load_labels", "load_samples", "network_shape", "stand_in"]

MEMORY_LIMIT = 2**31
"""Bytes of samples that are kept in memory; more are kept in a file."""


def network_shape(source: Source) -> tuple[int, ...]:
    """The shape in which a new network reads a source: (H, W) becomes (1, H, W)."""
    return (1, *source.shape) if len(source.shape) == 2 else source.shape


def load_samples(
    source: Source,
    sample_shape: tuple[int, ...],
    folder: Path | None = None,
    progress: Progress | None = None,
    memory_limit: int = MEMORY_LIMIT,
    compare: bool = True,
) -> Tensor:
    """All samples, (N, *sample_shape) float32.

    Up to ``memory_limit`` bytes they are in memory. More are written to ``data.npy`` in the
    folder, in one pass, and mapped into memory from there; one that is there already is compared
    with the source, also in one pass, and taken if it holds the same samples.

    Args:
        source: where they come from.
        sample_shape: as the network reads them; may differ from the source's in axes of length 1.
        folder: where the file is written.
        progress: called with the number of samples read or compared so far.
        memory_limit: in bytes.
        compare: whether a file that is there is compared, or taken by its shape: by processes
            that come after the one that wrote it.

    Raises:
        InputError: if samples have another shape, one is not finite, or the file is needed and
            cannot be written.
    """
    shape = _shape(source, sample_shape)
    if 4 * math.prod(shape) <= memory_limit:
        return _read(source, shape, progress)
    if folder is None:
        raise InputError(
            source.name,
            f"must have a folder to be kept in: it exceeds {memory_limit / 2**30:g} GiB",
            remedy="pass fewer samples",
        )
    path = folder / "data.npy"
    there = _is_of_shape(path, shape)
    if not there or (compare and not _holds(path, source, progress)):
        write_rows(path, shape, source.batches(), progress)
    return torch.from_numpy(_map(path))


def stand_in(source: Source, sample_shape: tuple[int, ...]) -> Tensor:
    """(N, *sample_shape) float32: the first sample N times over, in the memory of one.

    What a run will cost can be told with it, although the samples are not read.

    Raises:
        InputError: if samples have another shape, or one of the first is not finite.
    """
    shape = _shape(source, sample_shape)
    first = next(iter(source.batches()))[0].astype(np.float32)
    return torch.from_numpy(first).reshape(sample_shape).expand(shape)


def load_labels(path: str | os.PathLike[str], num_samples: int) -> Tensor:
    """(N,) int64 class labels from a ``.npy`` file, or another array file, of whole numbers.

    Args:
        path: the file.
        num_samples: N, one label a sample.

    Raises:
        InputError: if they are not N whole numbers >= 0.
    """
    values = read_array(Path(path)).values
    if values.dtype.kind not in "iu":
        raise InputError(str(path), "must hold whole numbers", f"dtype {values.dtype}")
    if values.shape != (num_samples,):
        raise InputError(
            str(path), f"must hold one label for each of {num_samples} samples", values.shape
        )
    for row in np.flatnonzero(values < 0)[:1]:
        raise InputError(str(path), "must hold labels >= 0", f"{values[row]} for sample {row}")
    return torch.from_numpy(values.astype(np.int64))


def _shape(source: Source, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, *sample_shape), if that is what the source holds."""
    if _without_ones(source.shape) != _without_ones(sample_shape):
        raise InputError(
            source.name,
            f"must hold samples of the shape that the network reads, {sample_shape}",
            f"data of another shape, {source.shape}",
        )
    return (source.num_samples, *sample_shape)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _read(source: Source, shape: tuple[int, ...], progress: Progress | None) -> Tensor:
    samples = np.empty((shape[0], source.num_features), dtype=np.float32)
    done = 0
    for batch in source.batches():
        samples[done : done + len(batch)] = batch
        done += len(batch)
        if progress is not None:
            progress(done)
    return torch.from_numpy(samples.reshape(shape))


def _map(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    # Copy on write: torch takes no read-only arrays, and the file stays as it is.
    return np.lib.format.open_memmap(path, mode="c")


def _is_of_shape(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        there = _map(path)
    except (OSError, ValueError):
        return False
    return there.shape == shape and there.dtype == np.float32


def _holds(path: Path, source: Source, progress: Progress | None) -> bool:
    there, done = _map(path), 0
    for batch in source.batches():
        rows = there[done : done + len(batch)].reshape(batch.shape)
        if not np.array_equal(rows, batch.astype(np.float32)):
            return False
        done += len(batch)
        if progress is not None:
            progress(done)
    return True
