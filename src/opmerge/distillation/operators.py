"""The operators in place while a plan is executed: the teacher's steps, then the students'."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from opmerge.denoisers.denoiser import Denoiser
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.plans import Merge
from opmerge.settings.types import MergeRule


def student_jumps(merges: Sequence[Merge], denoiser: Denoiser, rule: MergeRule) -> list[Jump]:
    """The jumps of one student that stands for these merges.

    Denoiser copy lands the network's estimates where the merge stops. Operator copy lands them
    where the teacher's own step did, so that the copy is at first the child's very operator.
    """
    return [
        Jump(denoiser, m.start, m.stop, m.stop if rule == "denoiser-copy" else m.start - 1)
        for m in merges
    ]


class Operators:
    """Which jump stands at which step, first the teacher's; a network that none holds is freed."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._at = {jump.start: jump for jump in teacher.steps()}

    def children(self, merge: Merge) -> list[Jump]:
        """The jumps that a merge composes, noise side first."""
        return [self._at[step] for step in merge.boundaries[:-1]]

    def copy_of_first(self, merge: Merge) -> nn.Module:
        """A copy of the network of a merge's noise-side child."""
        return copy.deepcopy(self._at[merge.start].network)

    def put(self, jump: Jump) -> None:
        """Put a student's jump in the place of all that it replaces."""
        for step in range(jump.start, jump.stop, -1):
            self._at.pop(step, None)
        self._at[jump.start] = jump

    def student(self) -> Student:
        """What stands there now, as a sampler."""
        jumps = tuple(self._at[step] for step in sorted(self._at, reverse=True))
        teacher = self._teacher
        return Student(jumps, teacher.ddim, teacher.sample_shape, teacher.num_classes)

    def state(self) -> tuple[list[dict[str, int]], dict[str, Tensor]]:
        """The students' jumps as JSON values, and the weights of their networks."""
        numbers: dict[nn.Module, int] = {}
        jumps, tensors = [], {}
        for jump in self._at.values():
            if jump.network is self._teacher.network:
                continue
            number = numbers.setdefault(jump.network, len(numbers))
            jumps.append(
                {"start": jump.start, "stop": jump.stop, "readout": jump.readout, "network": number}
            )
            for name, tensor in jump.network.state_dict().items():
                tensors[f"network.{number}.{name}"] = tensor
        return jumps, tensors

    def restore(self, jumps: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        denoisers: dict[int, Denoiser] = {}
        for entry in jumps:
            number = entry["network"]
            if number not in denoisers:
                prefix, network = f"network.{number}.", copy.deepcopy(self._teacher.network)
                own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
                network.load_state_dict({name.removeprefix(prefix): own[name] for name in own})
                denoisers[number] = self._teacher.denoiser.using(network)
            self.put(Jump(denoisers[number], entry["start"], entry["stop"], entry["readout"]))
