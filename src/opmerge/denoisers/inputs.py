"""What students read: noised data at any step, or pure noise at step T; a function of the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from opmerge.denoisers.ddim import DDIM
from opmerge.errors import InputError

__all__ = ["Batch", "DataInputs", "NoiseInputs", "TrainingInputs", "seeded_generator"]

_DIGESTED_AT_ONCE = 1024  # samples: of a mapped file no more than these are copied


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of one iteration.

    Args:
        z: (B, …) states at the step of each sample's merge.
        choice: (B,) index of each sample's merge, or None if there is one merge.
        labels: (B,) class labels, or None.
    """

    z: Tensor
    choice: Tensor | None = None
    labels: Tensor | None = None

    def split(self, parts: int) -> list[Batch]:
        """Equal parts, in order."""
        z, choice, labels = (
            [None] * parts if values is None else values.chunk(parts)
            for values in (self.z, self.choice, self.labels)
        )
        return [Batch(*part) for part in zip(z, choice, labels, strict=True)]  # type: ignore[arg-type]


class TrainingInputs(Protocol):
    """Draws the inputs of an iteration.

    Every random number of the whole batch is drawn on every process, and each process then makes
    only its own rows: the same seed gives the same batch on any number of processes.
    """

    def draw(
        self, ddim: DDIM, starts: Sequence[int], size: int, rows: slice, generator: torch.Generator
    ) -> Batch:
        """Rows ``rows`` of a batch of ``size``, each at one of the steps ``starts``."""
        ...

    def identity(self) -> str:
        """A digest of what is drawn from, so that a run is not resumed with other data."""
        ...


@dataclass(frozen=True, eq=False)
class DataInputs:
    """Forward noising: ``z = alpha_t x_0 + sigma_t ε`` with x_0 drawn from data, with replacement.

    Args:
        data: (N, …) samples in the network's shape; may be a memory-mapped file.
        labels: (N,) class labels of the samples, for a class-conditional network.
    """

    data: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.data):
            raise InputError(
                "labels", f"must have {len(self.data)} entries, one a sample", len(self.labels)
            )

    def draw(
        self, ddim: DDIM, starts: Sequence[int], size: int, rows: slice, generator: torch.Generator
    ) -> Batch:
        """See ``TrainingInputs``."""
        device = generator.device
        index = torch.randint(len(self.data), (size,), generator=generator, device=device)[rows]
        choice = _choose(starts, size, rows, generator)
        shape = (size, *self.data.shape[1:])
        noise = torch.randn(shape, generator=generator, device=device)[rows]
        index = index.to(self.data.device)
        x0 = self.data[index].to(device, torch.float32)
        labels = None if self.labels is None else self.labels[index].to(device)
        step = starts[0] if choice is None else torch.tensor(starts, device=device)[choice]
        return Batch(ddim.add_noise(x0, noise, step), choice, labels)

    def identity(self) -> str:
        """Digest of the shape, of every sample and of the labels; read once, at about 1 GB/s."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.data.shape)).encode())
        for values in (self.data, self.labels):
            if values is not None:
                for part in torch.split(values, _DIGESTED_AT_ONCE):
                    content = part.cpu().contiguous().flatten().view(torch.uint8)
                    digest.update(content.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class NoiseInputs:
    """Pure noise at step T: no data are needed where every student starts there (BOOT).

    Args:
        shape: shape of one sample.
        num_classes: draw labels evenly from this many classes, for a class-conditional network.
    """

    shape: tuple[int, ...]
    num_classes: int | None = None

    def draw(
        self, ddim: DDIM, starts: Sequence[int], size: int, rows: slice, generator: torch.Generator
    ) -> Batch:
        """See ``TrainingInputs``.

        Raises:
            InputError: if a student starts below step T.
        """
        below = [start for start in starts if start != ddim.num_steps]
        if below:
            raise InputError(
                "data_free",
                f"must come with a plan that trains at step T = {ddim.num_steps} only",
                f"a merge at step {below[0]}",
                "leave out `data_free`, or take the plan boot, vanilla or hybrid",
            )
        z = torch.randn((size, *self.shape), generator=generator, device=generator.device)[rows]
        choice = _choose(starts, size, rows, generator)
        if self.num_classes is None:
            return Batch(z, choice)
        labels = torch.randint(
            self.num_classes, (size,), generator=generator, device=generator.device
        )
        return Batch(z, choice, labels[rows])

    def identity(self) -> str:
        """The shape and the number of classes."""
        return f"noise {self.shape} {self.num_classes}"


def seeded_generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator whose stream depends on the key alone: (seed, stage, iteration).

    Batches are then a function of where the run is, and a resumed run needs no state of theirs.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def _choose(
    starts: Sequence[int], size: int, rows: slice, generator: torch.Generator
) -> Tensor | None:
    if len(starts) == 1:
        return None
    drawn = torch.randint(len(starts), (size,), generator=generator, device=generator.device)
    return drawn[rows]
