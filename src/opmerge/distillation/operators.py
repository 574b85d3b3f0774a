"""The operators of a distillation: which jump stands at which step, and what is kept of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Denoiser
from opmerge.denoisers.linear_part import LinearDenoiser, LinearPart
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.distillation.adapters import Adapters, trainable_copy
from opmerge.distillation.free_step import free_jump
from opmerge.plans import Merge
from opmerge.settings.types import MergeRule

_LINEAR = "linear"  # prefixes in a checkpoint: of linear parts, and of a free step
_FREE = "free"

LinearParts = Mapping[int, LinearPart]
"""The linear part of a student's x̂ at each step where it starts."""


def student_jumps(merges: Sequence[Merge], denoiser: Denoiser, rule: MergeRule) -> list[Jump]:
    """The jumps of one student that stands for these merges.

    Denoiser copy lands the network's estimates where the merge stops. Operator copy lands them
    where the teacher's own step did, so that the copy is at first the child's very operator.
    """
    return [
        Jump(denoiser, m.start, m.stop, m.stop if rule == "denoiser-copy" else m.start - 1)
        for m in merges
    ]


def pack(linear: LinearParts, prefix: str) -> dict[str, Tensor]:
    """Linear parts as the tensors of a checkpoint, which ``unpack`` reads."""
    parts = (part.tensors(f"{prefix}.{start}.") for start, part in linear.items())
    return {name: tensor for tensors in parts for name, tensor in tensors.items()}


def unpack(
    tensors: Mapping[str, Tensor], starts: Sequence[int], prefix: str, device: torch.device
) -> dict[int, LinearPart]:
    """The linear parts of these steps, of those that have one."""
    found = {start: LinearPart.find(tensors, f"{prefix}.{start}.") for start in starts}
    return {start: part.to(device) for start, part in found.items() if part is not None}


class Operators:
    """Which jump stands at which step, first the teacher's; a network that none holds is freed."""

    def __init__(self, teacher: Teacher, num_steps: int, adapters: Adapters | None = None) -> None:
        """Of the teacher's first steps, to which a free step leads if they are not all.

        With ``adapters`` students are those on the teacher's network.
        """
        self._teacher, self._adapters = teacher, adapters
        self._at = {jump.start: jump for jump in teacher.steps() if jump.start <= num_steps}
        self.free_step: Jump | None = None

    def copy(self) -> Operators:
        """The same operators, to be replaced without these."""
        other = copy.copy(self)
        other._at = dict(self._at)
        return other

    def children(self, merge: Merge) -> list[Jump]:
        """The jumps that a merge composes, noise side first."""
        return [self._at[step] for step in merge.boundaries[:-1]]

    def copy_of_first(self, merge: Merge, generator: torch.Generator) -> nn.Module:
        """A copy, to be trained, of the network of a merge's noise-side child.

        The generator is for what is new in it.
        """
        return trainable_copy(self._at[merge.start].network, self._adapters, generator)

    def copy_of_latest(self, generator: torch.Generator) -> nn.Module:
        """A copy, to be trained, of the one network of all students, at first the teacher's."""
        trained = (each.network for each in self._at.values() if not self._is_teachers(each))
        network = next(trained, self._teacher.network)
        return trainable_copy(network, self._adapters, generator)

    def _is_teachers(self, jump: Jump) -> bool:
        return jump.network is self._teacher.network

    def put(
        self, merges: Sequence[Merge], network: nn.Module, rule: MergeRule, linear: LinearParts
    ) -> None:
        """Put a student, with its linear parts if it has some, in the place of all it replaces."""
        for jump in student_jumps(merges, self._denoiser(network, linear), rule):
            self._put(jump)

    def student(self) -> Student:
        """What stands there now, as a sampler."""
        jumps = tuple(self._at[step] for step in sorted(self._at, reverse=True))
        teacher = self._teacher
        shape, needs = teacher.sample_shape, teacher.needs
        guidance = teacher.guidance_record
        return Student(jumps, teacher.ddim, shape, needs, self.free_step, guidance)

    def state(self) -> tuple[list[dict[str, int]], dict[str, Tensor]]:
        """The students' jumps as JSON values, and the tensors of their denoisers."""
        numbers: dict[nn.Module, int] = {}
        jumps: list[dict[str, int]] = []
        tensors: dict[str, Tensor] = {}
        if self.free_step is not None and isinstance(self.free_step.denoiser, LinearDenoiser):
            tensors |= pack(self.free_step.denoiser.parts, _FREE)
        for jump in self._at.values():
            if self._is_teachers(jump):
                continue
            number = numbers.setdefault(jump.network, len(numbers))
            jumps.append(
                dict(start=jump.start, stop=jump.stop, readout=jump.readout, network=number)
            )
            for name, tensor in jump.network.state_dict().items():
                tensors[f"network.{number}.{name}"] = tensor
            if isinstance(jump.denoiser, LinearDenoiser):
                tensors |= pack({jump.start: jump.denoiser.parts[jump.start]}, _LINEAR)
        return jumps, tensors

    def restore(self, jumps: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        ddim, device = self._teacher.ddim, self._teacher.ddim.alphas.device
        for part in unpack(tensors, [ddim.num_steps], _FREE, device).values():
            self.free_step = free_jump(ddim, max(self._at), part)
        linear = unpack(tensors, [entry["start"] for entry in jumps], _LINEAR, device)
        denoisers: dict[int, Denoiser] = {}
        for entry in jumps:
            number = entry["network"]
            if number not in denoisers:
                network = trainable_copy(self._teacher.network, self._adapters, torch.Generator())
                for name, weight in network.requires_grad_(False).state_dict().items():
                    weight.copy_(tensors[f"network.{number}.{name}"])
                shared = [each["start"] for each in jumps if each["network"] == number]
                parts = {start: linear[start] for start in shared if start in linear}
                denoisers[number] = self._denoiser(network, parts)
            jump = Jump(denoisers[number], entry["start"], entry["stop"], entry["readout"])
            self._put(jump)

    def _put(self, jump: Jump) -> None:
        for step in range(jump.start, jump.stop, -1):
            self._at.pop(step, None)
        self._at[jump.start] = jump

    def _denoiser(self, network: nn.Module, linear: LinearParts) -> Denoiser:
        denoiser = self._teacher.student_denoiser.using(network)
        return LinearDenoiser(denoiser, self._teacher.ddim, linear) if linear else denoiser
