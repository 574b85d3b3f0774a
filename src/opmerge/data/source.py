"""What a source of data is: named samples of one shape, read in batches as often as wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError, printable
from opmerge.settings.types import Split

Progress = Callable[[int], None]
"""Called with the number of samples (or files) done so far."""

AS_GIVEN = "as given"
"""The scaling of values that are not changed: only those of array files."""

_LARGEST_SIZE = 3.0

# A batch holds about 16 MB, but enough rows for matrix products to run at full speed.
_BATCH_VALUES = 2**21
_MIN_BATCH_ROWS = 64
_MAX_BATCH_ROWS = 4096


def channels_last_remedy(shape: Sequence[int]) -> str:
    """What puts the colours first, for samples of a shape (H, W, 1) or (H, W, 3); else nothing.

    >>> channels_last_remedy((8, 8, 3))
    'if colours come last, put them first: np.transpose(a, (0, 3, 1, 2))'
    """
    is_last = len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 3)
    return "if colours come last, put them first: np.transpose(a, (0, 3, 1, 2))" * is_last


@dataclass(frozen=True)
class Files:
    """Files that hold a sample each, in the order of the samples: their names below a folder."""

    folder: Path
    names: Sequence[str]


@dataclass(frozen=True)
class Source:
    """Samples of one shape from one place.

    Attributes:
        name: ``digits``, ``patches``, ``faces``, or the name of the file or folder.
        shape: shape of one sample, such as (8, 8) or (3, 64, 64), channels first.
        num_samples: number of samples, at least 2.
        scaling: how the values were scaled, such as "pixel values from [0, 255] to [-1, 1]".
        notes: what a reader of the result must know, such as unreadable files.
        batches: starts a pass over the samples in their order: float64 arrays of shape
            (n, num_features), samples flattened row-major, every value finite. It can be
            called again for another pass.
        split: the part of an official partition that the samples are, or None where there is
            none.
        files: where samples are files, which.
        rows: (start, stop) to samples start … stop − 1 as ``batches`` gives them, where some can
            be read without those before them.

    Raises:
        InputError: on a shape without values or fewer than two samples; from ``batches``
            on a value that is not finite.
    """

    name: str
    shape: tuple[int, ...]
    num_samples: int
    scaling: str
    notes: tuple[str, ...]
    batches: Callable[[], Iterator[Array]]
    split: Split | None = None
    files: Files | None = None
    rows: Callable[[int, int], Array] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        if not self.shape or min(self.shape) < 1:
            raise InputError(self.name, "must hold samples of at least one value", self.shape)
        if self.num_samples < 2:
            raise InputError(
                self.name, "must hold at least 2 samples along its first axis", self.num_samples
            )

    @property
    def num_features(self) -> int:
        """Number of values of one sample."""
        return math.prod(self.shape)


def range_notes(scaling: str, size: float) -> list[str]:
    """A note on samples as given that lie far outside of what teachers read, or none.

    The size of samples is their root mean square, 1 at most in [-1, 1] and of latents.
    """
    if scaling != AS_GIVEN or size <= _LARGEST_SIZE:
        return []
    return [
        f"values are as given, with a root mean square of {size:.3g}: scale them if the teacher "
        "reads [-1, 1]"
    ]


def source_from_rows(
    name: str,
    shape: tuple[int, ...],
    num_samples: int,
    rows: Callable[[int, int], NDArray[Any]],
    *,
    scaling: str,
    notes: tuple[str, ...] = (),
    files: Files | None = None,
) -> Source:
    """Build a source from a function that reads samples.

    ``rows(start, stop)`` returns samples start … stop − 1, of any real dtype and any shape with
    ``stop - start`` along the first axis.

    Raises:
        InputError: see :class:`Source`.
    """
    batch_rows = _BATCH_VALUES // max(math.prod(shape), 1)
    batch_rows = min(max(batch_rows, _MIN_BATCH_ROWS), _MAX_BATCH_ROWS)

    def checked(start: int, stop: int) -> Array:
        with np.errstate(invalid="ignore", over="ignore"):  # of wider numbers: refused below
            batch = np.asarray(rows(start, stop), dtype=np.float64).reshape(stop - start, -1)
        for row, column in np.argwhere(~np.isfinite(batch))[:1]:
            raise InputError(
                name,
                "must hold finite values",
                f"{batch[row, column]} at value {column} of sample {start + row} (counted from 0)",
            )
        return batch

    def batches() -> Iterator[Array]:
        for start in range(0, num_samples, batch_rows):
            yield checked(start, min(start + batch_rows, num_samples))

    return Source(name, shape, num_samples, scaling, notes, batches, files=files, rows=checked)


def source_from_array(
    name: str, values: NDArray[Any], scaling: str, notes: tuple[str, ...] = ()
) -> Source:
    """The source of an array's entries along its first axis; see ``source_from_rows``."""

    def rows(start: int, stop: int) -> NDArray[Any]:
        return values[start:stop]

    return source_from_rows(name, values.shape[1:], len(values), rows, scaling=scaling, notes=notes)
