"""What students read: noised data at any step, or pure noise at step T; a function of the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from opmerge.denoisers.denoiser import Condition, Step, as_condition
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws

_DIGESTED_AT_ONCE = 1024  # samples: of a mapped file no more than these are copied


@dataclass(frozen=True, eq=False)
class Batch(Columns):
    """Inputs of one iteration: (B, …) states, each at the step of its sample's merge.

    ``choice`` is the (B,) index of that merge, or None if there is one merge.
    """

    z: Tensor
    choice: Tensor | None = None
    condition: Condition | None = None


def of_choice(steps: Sequence[int], choice: Tensor | None) -> Step:
    """The step of each sample's merge, or the only one where there is one merge."""
    return steps[0] if choice is None else torch.tensor(steps, device=choice.device)[choice]


class TrainingInputs(Protocol):
    """Draws the inputs of an iteration."""

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """A batch, each sample at one of the steps ``starts``."""

    def identity(self) -> str:
        """A digest of what is drawn from, so that a run is not resumed with other data."""


@dataclass(frozen=True, eq=False)
class DataInputs:
    """Forward noising: ``z = alpha_t x_0 + sigma_t ε`` with x_0 drawn from data, with replacement.

    The (N, …) data may be a memory-mapped file; an (N,) tensor as their condition is class labels.
    """

    data: Tensor
    condition: Condition | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "condition", as_condition(self.condition))
        if self.condition is not None and len(self.condition) != len(self.data):
            requirement = f"must have {len(self.data)} entries, one a sample"
            raise InputError("labels", requirement, len(self.condition))

    def take(self, rows: Tensor) -> DataInputs:
        """Some of the samples."""
        condition = None if self.condition is None else self.condition[rows]
        return DataInputs(self.data[rows], condition)

    def read(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Condition | None]:
        """(B, …) samples in float32 and what is told of them, on a device."""
        rows = rows.to(self.data.device)
        x0 = self.data[rows].to(device, torch.float32)
        return x0, None if self.condition is None else self.condition[rows].to(device)

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
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
        told = {} if self.condition is None else self.condition.rows
        for values in (self.data, *(told[name] for name in sorted(told))):
            for part in torch.split(values, _DIGESTED_AT_ONCE):
                content = part.cpu().contiguous().flatten().view(torch.uint8)
                digest.update(content.numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class NoiseInputs:
    """Pure noise at step T: no data are needed where every student starts there (BOOT).

    With ``num_classes``, of a class-conditional network, labels are drawn evenly as well.
    """

    shape: tuple[int, ...]
    num_classes: int | None = None

    def draw(self, ddim: DDIM, starts: Sequence[int], draws: Draws) -> Batch:
        """See ``TrainingInputs``; a student that starts below step T is refused."""
        if min(starts) < ddim.num_steps:
            requirement = f"must come with a plan that trains at step T = {ddim.num_steps} only"
            remedy = "leave out `data_free`, or take the plan boot, vanilla or hybrid"
            raise InputError("data_free", requirement, f"a merge at step {min(starts)}", remedy)
        z, choice = draws.normal(*self.shape), _choose(starts, draws)
        labels = None if self.num_classes is None else draws.integers(0, self.num_classes)
        return Batch(z, choice, as_condition(labels))

    def identity(self) -> str:
        return f"noise {self.shape} {self.num_classes}"


def _choose(starts: Sequence[int], draws: Draws) -> Tensor | None:
    return None if len(starts) == 1 else draws.integers(0, len(starts))
