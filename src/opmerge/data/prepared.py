"""Prepared data sets: samples as a network reads them, and what it is told of each, in shards.

A folder of safetensors files, each of at most so many rows, and ``prepared.json``, which is written
last and says that the others are whole:

- ``samples-…``: ``samples``, (n, *sample_shape) in the order of the source; none where a data set
  was made of prompts alone;
- ``conditions-…``: what the network is told, a tensor (m, …) for each of its arguments: a row for
  each *distinct* prompt or class;
- ``index-…``: ``condition``, (N,) which of those rows is each sample's (or prompt's);
- ``null-…``: the same tensors with one row, of the empty prompt or no class, for guidance;
- ``prompts.jsonl``: the text of each row of the conditions, a JSON string a line.

Every shard tells in its header what it is a part of and the digest of its tensors, so that a
preparation that was killed goes on behind those that are whole. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from opmerge.data.source import Progress, Source, source_from_rows
from opmerge.errors import InputError, not_installed
from opmerge.files import GO_ON, parse_json, read_json_object, reading, write_atomic
from opmerge.store import digest

FORMAT: Final = "opmerge.prepared"
VERSION: Final = 1
INDEX: Final = "prepared.json"
PROMPTS: Final = "prompts.jsonl"

SAMPLES: Final = "samples"
"""The tensor of samples in their shards."""

CONDITION: Final = "condition"
"""The tensor in the shard of the index."""

Kind = Literal["samples", "conditions", "index", "null"]
_KINDS: tuple[Kind, ...] = ("samples", "conditions", "index", "null")
_SHARD = "[0-9]*-of-[0-9]*.safetensors"
_HEADER = "opmerge"  # the one entry of a shard's metadata: several come in no order

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class RowsKept:
    """What is kept under a name: the shape of a row, and NumPy's name of its values' type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Shards:
    """Files of one kind in their order, with the rows that each holds."""

    paths: tuple[Path, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop − 1 of a tensor, and no others from the disk."""
        parts, first = [], 0
        for path, count in zip(self.paths, self.counts, strict=True):
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                with reading(path, "must be a whole shard of a prepared data set"):
                    parts.append(_safetensors().safe_open(path, "np").get_slice(name)[low:high])
            first += count
        return np.concatenate(parts)


@dataclass(frozen=True)
class Prepared:
    """A prepared data set, opened: nothing but its headers was read.

    Attributes:
        sample_shape: of one sample as the network reads it, or None for prompts alone.
        rows: what the network is told, by the names of its arguments.
        num_samples: N, of samples, or of prompts where these are alone.
        scaling: what the values of samples are.
        teacher: what the data set was prepared for.
        digest: of everything in it.
    """

    folder: Path
    sample_shape: tuple[int, ...] | None
    rows: Mapping[str, RowsKept]
    num_samples: int
    scaling: str
    notes: tuple[str, ...]
    teacher: Mapping[str, Any]
    shards: Mapping[Kind, Shards]
    digest: str

    @property
    def num_conditions(self) -> int:
        """Rows of conditions, distinct from one another."""
        return len(self.shards["conditions"])

    @property
    def has_null(self) -> bool:
        """Whether there is a row of no prompt or class."""
        return len(self.shards["null"]) > 0

    def index(self) -> NDArray[np.int64]:
        """(N,) which row of the conditions is told of each sample."""
        return self.shards["index"].read(CONDITION, 0, self.num_samples)

    def source(self) -> Source:
        """The samples as a source.

        Raises:
            InputError: if there are none.
        """
        if self.sample_shape is None:
            requirement = "must hold samples: this data set was prepared of prompts alone"
            remedy = "it is for `data_free`"
            raise InputError(str(self.folder), requirement, remedy=remedy)
        shards = self.shards["samples"]

        def rows(start: int, stop: int) -> NDArray[Any]:
            return shards.read(SAMPLES, start, stop)

        return source_from_rows(
            self.folder.resolve().name,
            self.sample_shape,
            self.num_samples,
            rows,
            scaling=self.scaling,
            notes=self.notes,
        )


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds a prepared data set, finished or not."""
    begun = (path for kind in ("index", "samples") for path in folder.glob(f"{kind}-{_SHARD}"))
    return (folder / INDEX).is_file() or any(begun)


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared data set: what it holds, and that all its files are there.

    Raises:
        InputError: if it was not finished, is of a later version, or a file of it is missing,
            damaged or of another preparation.
    """
    place = folder / INDEX
    if not place.is_file():
        begun = is_prepared(folder)
        requirement = f"must be the folder of a prepared data set, with {INDEX}"
        value = "a preparation that was not finished" if begun else str(folder)
        remedy = "start the same `opmerge prepare` again" if begun else "make one: opmerge prepare"
        raise InputError("data", requirement, value, remedy)
    content = read_json_object(place)
    if content.get("format") != FORMAT:
        raise InputError(str(place), f"must have the format {FORMAT}", content.get("format"))
    if content.get("version") != VERSION:
        remedy = "it was made by another version of opmerge"
        raise InputError(str(place), f"must have version {VERSION}", content.get("version"), remedy)
    with reading(place, "must be as it was written"):
        told = content.pop("digest")
        if told != digest(content):
            raise ValueError("it was altered")
        shape = content["sample_shape"]
        shards: dict[Kind, Shards] = {}
        for kind in _KINDS:
            counts = tuple(shard["rows"] for shard in content["shards"][kind])
            paths = tuple(folder / _name(kind, n, len(counts)) for n in range(len(counts)))
            shards[kind] = Shards(paths, counts)
        found = Prepared(
            folder,
            None if shape is None else tuple(shape),
            {k: RowsKept(tuple(v["shape"]), v["dtype"]) for k, v in content["rows"].items()},
            content["num_samples"],
            content["scaling"],
            tuple(content["notes"]),
            content["teacher"],
            shards,
            told,
        )
    for kind in _KINDS:
        known = [shard["sha256"] for shard in content["shards"][kind]]
        for path, sha256 in zip(found.shards[kind].paths, known, strict=True):
            with reading(path, "must be the shard that prepared.json tells of"):
                if _header(path)["sha256"] != sha256:
                    raise ValueError("another")
    return found


def write_shards(
    folder: Path,
    kind: Kind,
    counts: Sequence[int],
    identity: str,
    make: Callable[[int, int], Arrays],
    progress: Progress | None = None,
    turn: tuple[int, int] = (0, 1),
) -> list[dict[str, Any]]:
    """Write the shards of a kind, one after another: those that are whole already are kept.

    Args:
        counts: rows of each shard.
        identity: digest of all that decides what the shards hold.
        make: called with the first and behind the last row of a shard that is to be made.
        progress: called with the number of rows done so far.
        turn: (i, n): of n processes, this makes the shards i, i + n, i + 2 n …

    Returns:
        What ``prepared.json`` says of each shard that this process made.

    Raises:
        InputError: if one cannot be written; those before it are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, done = [], 0
    for number, count in enumerate(counts):
        first, done = done, done + count
        if number % turn[1] != turn[0]:
            continue
        path = folder / _name(kind, number, len(counts))
        sha256 = _kept(path, identity)
        if sha256 is None:
            arrays = {k: np.ascontiguousarray(v) for k, v in make(first, done).items()}
            if any(len(values) != count for values in arrays.values()):
                raise AssertionError(f"{kind} {first} … {done}: another number of rows was made")
            sha256 = _digest(arrays)
            header = {_HEADER: json.dumps({"identity": identity, "sha256": sha256})}
            write_atomic(path, _safetensors().numpy.save(arrays, header), GO_ON)
        written.append({"rows": count, "sha256": sha256})
        if progress is not None:
            progress(done)
    return written


def finish(folder: Path, content: Mapping[str, Any]) -> Prepared:
    """Write ``prepared.json``, take away what is no part of the data set, and open it."""
    whole = {"format": FORMAT, "version": VERSION, **content}
    whole["digest"] = digest(json.loads(json.dumps(whole)))
    names = {_name(k, n, len(v)) for k, v in content["shards"].items() for n in range(len(v))}
    for path in folder.glob(f"*-{_SHARD}"):
        if path.name not in names:
            path.unlink()
    write_atomic(folder / INDEX, json.dumps(whole, indent=2) + "\n", GO_ON)
    return open_prepared(folder)


def identity_of(folder: Path) -> str | None:
    """The identity of the data set that is finished in a folder, or None if none is."""
    place = folder / INDEX
    return str(read_json_object(place).get("identity")) if place.is_file() else None


def shard_counts(num_rows: int, most: int) -> list[int]:
    """Rows of each shard, of at most so many."""
    return [min(most, num_rows - first) for first in range(0, num_rows, most)]


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return shutil.disk_usage(place).free


def in_batches(first: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """The first and behind the last row of each batch."""
    for start in range(first, stop, size):
        yield start, min(start + size, stop)


def _name(kind: str, number: int, total: int) -> str:
    return f"{kind}-{number + 1:05d}-of-{total:05d}.safetensors"


def _kept(path: Path, identity: str) -> str | None:
    """The digest of a shard that is there, whole and of this preparation, or None."""
    try:
        header = _header(path)
        if header["identity"] != identity:
            return None
        whole = _digest(_safetensors().numpy.load_file(path)) == header["sha256"]
    except Exception:  # a damaged file raises what it likes; it is made again
        return None
    return str(header["sha256"]) if whole else None


def _header(path: Path) -> dict[str, Any]:
    """What a shard says of itself, and that it is as long as it says."""
    with _safetensors().safe_open(path, "np") as file:
        header: dict[str, Any] = parse_json(file.metadata()[_HEADER])
    return header


def _digest(arrays: Arrays) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        found.update(repr((name, str(values.dtype), values.shape)).encode())
        found.update(values.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise not_installed("data", "safetensors") from error
    return safetensors
