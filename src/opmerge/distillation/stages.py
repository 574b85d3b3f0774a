"""The stages of a distillation: which merges train one network together, and what must be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from opmerge.errors import InputError
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import Sharing

__all__ = ["STUDENT_PASSES", "Stage", "plan_stages"]

STUDENT_PASSES = 3.0
"""κ: a student's forward and backward pass, in forward passes (THEORY 9)."""


@dataclass(frozen=True)
class Stage:
    """Merges that train one student network, by timestep mixing if there are several.

    Args:
        merges: the merges; none of them waits for another.
        networks_after: how many student networks are in place when the stage is over.
    """

    merges: tuple[Merge, ...]
    networks_after: int

    @property
    def name(self) -> str:
        """``8 → 6``, or ``8 → 6 and 3 more``."""
        first = self.merges[0]
        more = f" and {len(self.merges) - 1} more" if len(self.merges) > 1 else ""
        return f"{first.start} → {first.stop}{more}"

    @property
    def num_children(self) -> float:
        """Operators composed for a sample's target, on average over the merges."""
        return sum(merge.num_children for merge in self.merges) / len(self.merges)

    @property
    def network_evaluations(self) -> float:
        """Of one sample in one iteration: the children, and κ = 3 for the student (THEORY 9)."""
        return self.num_children + STUDENT_PASSES


def plan_stages(plan: Plan, sharing: Sharing = "merge") -> tuple[Stage, ...]:
    """Order the merges of a plan into stages.

    With ``round``, merges of one round (THEORY 5) share a network if their noise-side children
    do, because a student starts from a copy of that child. Progressive plans of 2^n steps then
    train one network a round, which is progressive distillation (Salimans & Ho 2022, Alg. 2).

    Raises:
        InputError: for an unknown kind of sharing.
    """
    if sharing not in get_args(Sharing):
        raise InputError("sharing", f"must be one of {', '.join(get_args(Sharing))}", sharing)
    if sharing == "merge":
        batches = [[merge] for merge in plan.merges]
    else:
        by_round: dict[int, list[Merge]] = {}
        for merge, number in zip(plan.merges, plan.rounds(), strict=True):
            by_round.setdefault(number, []).append(merge)
        batches = [by_round[number] for number in sorted(by_round)]
    return _group_by_network(plan.num_steps, batches)


def _group_by_network(num_steps: int, batches: list[list[Merge]]) -> tuple[Stage, ...]:
    """Split batches of independent merges by the network of the noise-side child."""
    network_at = dict.fromkeys(range(1, num_steps + 1), 0)  # 0 is the teacher
    stages: list[Stage] = []
    for batch in batches:
        groups: dict[int, list[Merge]] = {}
        for merge in batch:
            groups.setdefault(network_at[merge.start], []).append(merge)
        for group in groups.values():
            for merge in group:
                for boundary in merge.boundaries[1:-1]:
                    del network_at[boundary]
                network_at[merge.start] = len(stages) + 1
            stages.append(Stage(tuple(group), len(set(network_at.values()) - {0})))
    return tuple(stages)
