"""What networks read: samples of a source in the shape of a network, and batches drawn from them.

A batch is noised data at any step, or pure noise at step T; a function of the seed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.arrays import Array
from opmerge.data import Progress, Source, digits_labels
from opmerge.data.arrays import read_array, write_rows
from opmerge.data.source import channels_last_remedy
from opmerge.denoisers.conditions import KeptConditions
from opmerge.denoisers.denoiser import SCALE, Condition, Step, as_condition
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws, seeded_generator

MEMORY_LIMIT = 2**31
"""Bytes of samples that are kept in memory; more are kept in a file."""

_SPLIT = -1  # a stream of its own beside those of the iterations
_DIGESTED_AT_ONCE = 1024  # samples: of a mapped file no more than these are copied


# Samples and labels of a source, as tensors.


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
        sample_shape: may differ from the source's in axes of length 1.
        progress: called with the number of samples read or compared so far.
        compare: false takes a file that is there by its shape: for processes that come after the
            one that wrote it.

    Raises:
        InputError: if samples have another shape, one is not finite, or the file is needed and
            cannot be written.
    """
    shape = _shape(source, sample_shape)
    if 4 * math.prod(shape) <= memory_limit:
        samples = np.empty(shape, dtype=np.float32)
        for rows, batch in _beside(samples, source, progress):
            rows[:] = batch
        return torch.from_numpy(samples)
    if folder is None:
        requirement = f"must have a folder to be kept in: it exceeds {memory_limit / 2**30:g} GiB"
        raise InputError(source.name, requirement, remedy="pass fewer samples")
    path = folder / "data.npy"
    there = _map(path, shape)
    parts = () if there is None or not compare else _beside(there, source, progress)
    same = (np.array_equal(rows, batch.astype(np.float32)) for rows, batch in parts)
    if there is None or not all(same):
        write_rows(path, shape, source.batches(), progress)
        there = _map(path, shape)
    return torch.from_numpy(there)


def stand_in(source: Source, sample_shape: tuple[int, ...]) -> Tensor:
    """(N, *sample_shape) float32, the first sample N times over: to tell what a run will cost.

    Raises:
        InputError: if samples have another shape, or one of the first is not finite.
    """
    shape = _shape(source, sample_shape)
    first = next(iter(source.batches()))[0].astype(np.float32)
    return torch.from_numpy(first).reshape(sample_shape).expand(shape)


def total_variance(data: Tensor) -> float:
    """The trace of the covariance of (N, …) samples, in one pass; they may be a mapped file."""
    total, squares = torch.zeros(math.prod(data.shape[1:]), dtype=torch.float64), 0.0
    for part in torch.split(data, _DIGESTED_AT_ONCE):
        rows = part.flatten(1).double()
        total += rows.sum(0)
        squares += float(rows.square().sum())
    return squares / len(data) - float((total / len(data)).square().sum())


def load_labels(path: str | os.PathLike[str], num_samples: int) -> Tensor:
    """(N,) int64 class labels, one a sample, from a ``.npy`` file or another array file.

    ``digits`` are those of the built-in samples of that name.

    Raises:
        InputError: if they are not N whole numbers >= 0.
    """
    values = digits_labels() if path == "digits" else read_array(Path(path), "labels")
    if values.ndim == 2 and values.shape[1] == 1:  # as of a table
        values = values[:, 0]
    if values.dtype.kind == "f" and np.array_equal(values, np.rint(values)):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise InputError(str(path), "must hold whole numbers", f"dtype {values.dtype}")
    if values.shape != (num_samples,):
        requirement = f"must hold one label for each of {num_samples} samples"
        raise InputError(str(path), requirement, values.shape)
    for row in np.flatnonzero(values < 0)[:1]:
        raise InputError(str(path), "must hold labels >= 0", f"{values[row]} for sample {row}")
    return torch.from_numpy(values.astype(np.int64))


def _shape(source: Source, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, *sample_shape), if that is what the source holds."""
    told, wanted = ([n for n in shape if n != 1] for shape in (source.shape, sample_shape))
    if told != wanted:
        requirement = f"must hold samples of the shape that the network reads, {sample_shape}"
        got, remedy = f"data of another shape, {source.shape}", channels_last_remedy(source.shape)
        raise InputError(source.name, requirement, got, remedy)
    return (source.num_samples, *sample_shape)


def _beside(
    samples: NDArray[np.float32], source: Source, progress: Progress | None
) -> Iterator[tuple[NDArray[np.float32], Array]]:
    """The rows of the samples beside the batches of the source that belong there."""
    flat, done = samples.reshape(len(samples), -1), 0
    for batch in source.batches():
        yield flat[done : done + len(batch)], batch
        done += len(batch)
        if progress is not None:
            progress(done)


def _map(path: Path, shape: tuple[int, ...]) -> Any:
    """The array of a file, if it is there and of this shape, mapped into memory."""
    try:  # copy on write: torch takes no read-only arrays, and the file stays as it is
        there = np.lib.format.open_memmap(path, mode="c")
    except Exception:  # a damaged header can raise errors of any type
        return None
    return there if there.shape == shape and there.dtype == np.float32 else None


# Rows to train on and rows to hold out.


def split_rows(num_samples: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers to train on and to hold out, a random share of them, at least one of each.

    Raises:
        InputError: if there is one sample and a fraction > 0.
    """
    if fraction == 0:
        return torch.arange(num_samples), torch.arange(0)
    if num_samples < 2:
        requirement = "must be 0 for a single sample, which cannot be split"
        remedy = "pass `validation_fraction=0`"
        raise InputError("validation_fraction", requirement, fraction, remedy)
    count = min(max(round(fraction * num_samples), 1), num_samples - 1)
    generator = seeded_generator(torch.device("cpu"), seed, _SPLIT)
    order = torch.randperm(num_samples, generator=generator)
    return order[count:].sort().values, order[:count].sort().values


# Batches, drawn from samples or from noise.


@dataclass(frozen=True, eq=False)
class Batch(Columns):
    """Inputs of one iteration: (B, …) states, each at the step of its sample's merge.

    ``choice`` is the (B,) index of that merge, or None if there is one merge.
    """

    z: Tensor
    choice: Tensor | None = None
    condition: Condition | None = None


class TrainingInputs(Protocol):
    """Draws the inputs of an iteration."""

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """A batch, each sample at one of the steps ``starts``."""

    @property
    def condition(self) -> Condition | KeptConditions | None:
        """What is told of the samples that are drawn from; None where nothing is, or any class."""

    def identity(self) -> str:
        """A digest of what is drawn from, so that a run is not resumed with other data."""


@dataclass(frozen=True, eq=False)
class DataInputs:
    """Forward noising: ``z = alpha_t x_0 + sigma_t ε`` with x_0 drawn from data, with replacement.

    The (N, …) data may be a memory-mapped file; an (N,) tensor as their condition is class labels,
    and conditions of another number ``InputError``.
    """

    data: Tensor
    condition: Condition | KeptConditions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", as_condition(self.condition))
        if self.condition is not None and len(self.condition) != len(self.data):
            requirement = f"must have {len(self.data)} entries, one a sample"
            raise InputError("labels", requirement, len(self.condition))

    def take(self, rows: Tensor) -> DataInputs:
        """The samples of these (n,) rows."""
        condition = None if self.condition is None else self.condition.take(rows)
        return DataInputs(self.data[rows], condition)

    def read(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Condition | None]:
        """(B, …) samples in float32 and what is told of them, on a device."""
        rows = rows.to(self.data.device)
        x0 = self.data[rows].to(device, torch.float32)
        return x0, None if self.condition is None else self.condition[rows].to(device)

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """Samples with noise of a step each, one of ``starts``: see ``TrainingInputs``."""
        rows = draws.integers(0, len(self.data))
        choice = _choose(starts, draws)
        noise = draws.normal(*self.data.shape[1:])
        x0, condition = self.read(rows, draws.device)
        z = ddim.add_noise(x0, noise, of_choice(starts, choice))
        return Batch(z, choice, condition)

    def identity(self) -> str:
        """Digest of the shape, of every sample and condition; read once, at about 1 GB/s."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.data.shape)).encode())
        told: Mapping[str, Tensor] = {}
        if isinstance(self.condition, KeptConditions):  # its files need not be read for that
            digest.update(self.condition.identity().encode())
        elif self.condition is not None:
            told = self.condition.rows
        for values in (self.data, *(told[name] for name in sorted(told))):
            for part in torch.split(values, _DIGESTED_AT_ONCE):
                content = part.cpu().contiguous().flatten().view(torch.uint8)
                digest.update(content.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class NoiseInputs:
    """Pure noise at step T: no data are needed where every student starts there (BOOT).

    With ``num_classes``, of a class-conditional network, labels are drawn evenly as well; with
    (N, …) conditions, such as those of prompts, they are.
    """

    shape: tuple[int, ...]
    num_classes: int | None = None
    condition: Condition | KeptConditions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", as_condition(self.condition))

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """See ``TrainingInputs``; ``InputError`` refuses a start below step T."""
        if min(starts) < ddim.num_steps:
            requirement = f"must come with a plan that trains at step T = {ddim.num_steps} only"
            remedy = "leave out `data_free`, or take the plan boot, vanilla or hybrid"
            raise InputError("data_free", requirement, f"a merge at step {min(starts)}", remedy)
        z, choice = draws.normal(*self.shape), _choose(starts, draws)
        if self.condition is not None:
            rows = draws.integers(0, len(self.condition))
            return Batch(z, choice, self.condition[rows.cpu()].to(draws.device))
        labels = None if self.num_classes is None else draws.integers(0, self.num_classes)
        return Batch(z, choice, as_condition(labels))

    def identity(self) -> str:
        """The shape, and a digest of what is told."""
        told = "" if self.condition is None else f" {self.condition.identity()}"
        return f"noise {self.shape} {self.num_classes}{told}"


@dataclass(frozen=True, eq=False)
class ScaledInputs:
    """Other inputs, of whose samples each is told a guidance scale, drawn evenly from a range."""

    inputs: TrainingInputs
    low: float
    high: float

    @property
    def condition(self) -> Condition | KeptConditions | None:
        """See ``TrainingInputs``; scales are new in every batch."""
        return self.inputs.condition

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """See ``TrainingInputs``."""
        batch = self.inputs.draw(ddim, starts, draws)
        rows = {} if batch.condition is None else batch.condition.rows
        scales = self.low + (self.high - self.low) * draws.uniform()
        return replace(batch, condition=Condition({**rows, SCALE: scales}))

    def identity(self) -> str:
        """See ``TrainingInputs``; the range is the teacher's."""
        return self.inputs.identity()


def of_choice(steps: Sequence[int], choice: Tensor | None) -> Step:
    """The step of each sample's merge, or the only one where there is one merge."""
    return steps[0] if choice is None else torch.tensor(steps, device=choice.device)[choice]


def _choose(starts: Sequence[int], draws: Draws) -> Tensor | None:
    return None if len(starts) == 1 else draws.integers(0, len(starts))
