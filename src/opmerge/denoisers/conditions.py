"""Conditions of a whole data set: kept in mapped files, checked against what a network reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from opmerge.data.prepared import Prepared
from opmerge.denoisers.denoiser import LABELS, Condition
from opmerge.denoisers.families import Rows
from opmerge.errors import InputError


@dataclass(frozen=True, eq=False)
class KeptConditions:
    """(N,) conditions in the shards of a prepared data set, which are mapped into memory.

    Embeddings of texts are large: only rows that are asked for are read, and equal prompts share
    a row. Numbers that are stored in 16 bits are so in memory, and float32 in the rows read.

    Args:
        tables: the shards of each of the network's arguments, distinct rows along their first axis.
        index: (N,) which of those rows is each sample's.
        digest: of the data set.
    """

    tables: Mapping[str, tuple[Tensor, ...]]
    index: Tensor
    digest: str

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        """The conditions of some samples, read from their files."""
        wanted = self.index[rows.cpu() if isinstance(rows, Tensor) else rows]
        found = {name: _gathered(parts, wanted) for name, parts in self.tables.items()}
        return Condition({name: _as_read(rows) for name, rows in found.items()})

    def take(self, rows: Tensor) -> KeptConditions:
        """The conditions of some samples, still in their files."""
        return replace(self, index=self.index[rows.cpu()])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of what is told of one sample, by names."""
        return {name: tuple(parts[0].shape[1:]) for name, parts in self.tables.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of what is told of one sample."""
        return sum(_as_read(parts[0][:1]).nbytes for parts in self.tables.values())

    def identity(self) -> str:
        """Digest of all conditions in their order."""
        content = self.digest.encode() + self.index.contiguous().numpy().tobytes()
        return hashlib.sha256(content).hexdigest()


def kept_conditions(prepared: Prepared) -> KeptConditions | None:
    """What a prepared data set tells of its samples, or None if it tells nothing."""
    if not prepared.rows:
        return None
    paths = prepared.shards["conditions"].paths
    tables = {name: tuple(_mapped(path, name) for path in paths) for name in prepared.rows}
    return KeptConditions(tables, torch.from_numpy(prepared.index()), prepared.digest)


def null_condition(prepared: Prepared) -> Condition | None:
    """The one row that a prepared data set has of no prompt or class, if its teacher knows one."""
    if not prepared.has_null:
        return None
    (path,) = prepared.shards["null"].paths
    return Condition({name: _as_read(_mapped(path, name)) for name in prepared.rows})


def check_told(
    needs: Mapping[str, Rows],
    told: Condition | KeptConditions | None,
    argument: str = "source",
    remedy: str = "prepare the data with this teacher: `opmerge prepare`",
) -> None:
    """Refuse conditions that are not what a network needs, by their names, shapes and classes.

    Args:
        argument, remedy: what told of the conditions, and what to do about it.

    Raises:
        InputError: naming the first row that is missing, too much or of another shape.
    """
    shapes = {} if told is None else told.shapes
    for name in sorted(needs.keys() - shapes.keys()):
        if name == LABELS:
            given = "labels", "must be given for this teacher", "none"
            raise InputError(*given, f"pass a file of them, or {remedy}")
        requirement = f"must tell of each sample what the teacher reads, {name}"
        raise InputError(argument, requirement, ", ".join(sorted(shapes)) or "nothing", remedy)
    for name in sorted(shapes.keys() - needs.keys()):
        if name == LABELS:
            raise InputError("labels", "must be left out for this teacher")
        requirement = "must be prepared for a teacher that reads what this one does"
        value = f"{name}, which this one does not read"
        raise InputError(argument, requirement, value, remedy)
    for name, rows in needs.items():
        if not _fits(shapes[name], rows.shape):
            wanted = str(rows.shape).replace("None", "any")
            requirement = f"must tell {name} of shape {wanted}, as the teacher reads it"
            raise InputError(argument, requirement, shapes[name], remedy)
        if rows.below is not None and told is not None:
            largest = _largest(told, name)
            if largest >= rows.below:
                need = f"must be < {rows.below}, the number of the teacher's classes"
                raise InputError("labels", need, largest)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(other in (None, own) for own, other in pairs)


def _largest(told: Condition | KeptConditions, name: str) -> int:
    parts = (told.rows[name],) if isinstance(told, Condition) else told.tables[name]
    return max(int(part.max()) for part in parts)


def _gathered(parts: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
    """(B, …) rows of shards that follow one another."""
    if len(parts) == 1:
        return parts[0][wanted]
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    place = torch.bucketize(wanted, ends, right=True)
    rows = parts[0].new_empty(len(wanted), *parts[0].shape[1:])
    for number in torch.unique(place).tolist():
        own = place == number
        first = int(ends[number]) - len(parts[number])
        rows[own] = parts[number][wanted[own] - first]
    return rows


def _mapped(path: Path, name: str) -> Tensor:
    """A tensor of a file, of which nothing is read yet."""
    with safe_open(path, "pt") as file:
        return file.get_tensor(name)


def _as_read(rows: Tensor) -> Tensor:
    return rows.float() if rows.is_floating_point() else rows
