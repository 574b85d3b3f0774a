"""The stages of a distillation: which merges train one network together, and how much of them.

With a curriculum a student is asked for a part of its merge at first, and for all of it from half
of its training on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import get_args

import numpy as np

from opmerge.arrays import Array
from opmerge.distillation.timing import Pace
from opmerge.errors import InputError
from opmerge.forecast.cost import STUDENT_PASSES, UNGUIDED, most_iterations, operator_passes
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import Curriculum, DistillationConfig, Sharing
from opmerge.settings.types import read_budget, read_split

MANY_ITERATIONS = 1000
"""Enough for ``mean_passes`` to be that of a stage whose number is not known yet."""

_RESOLVED = 1e-14  # relative: between the last two scales of a split that are tried
_HAIR = 1e-12  # relative: far above rounding, far below what parts two scales
_SHARE_OF_TRAINING = 0.5
_FEWEST = 2


@dataclass(frozen=True)
class Rehearsal(Merge):
    """An operator that stays what it is while others are trained in the same network.

    Its boundaries are (start, stop): its only child is itself, as it is in place before the stage.
    ``is_teachers`` says whether that is still the teacher's own step.
    """

    is_teachers: bool = False

    def __post_init__(self) -> None:
        assert len(self.boundaries) == 2, "one operator"


@dataclass(frozen=True)
class TargetLimits:
    """What the targets of a run are bound by, beside its settings.

    Args:
        guided_steps: of the teacher, which take two passes.
        most_kept: batches that fit into memory, of those that are used again.
        fewest: batches from which a linear part is solved at least.
    """

    guided_steps: range = UNGUIDED
    most_kept: float = math.inf
    fewest: int = 1


NO_LIMITS = TargetLimits()


@dataclass(frozen=True)
class Stage:
    """Merges that train one network, by timestep mixing if several; none waits for another.

    When it is over, ``networks_after`` student networks are in place. Behind the merges of the plan
    may come rehearsals.
    """

    merges: tuple[Merge, ...]
    networks_after: int

    @property
    def new(self) -> tuple[Merge, ...]:
        """The merges of the plan."""
        return tuple(merge for merge in self.merges if not isinstance(merge, Rehearsal))

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

    def reuse(self, config: DistillationConfig) -> int:
        """R, how often a target of the stage is learned from."""
        return config.reuse_of(self.num_children)

    def target_work(
        self,
        num_iterations: int,
        config: DistillationConfig,
        limits: TargetLimits = NO_LIMITS,
    ) -> tuple[int, float]:
        """Batches of targets, and forward passes for each on average.

        There are ⌈N/R⌉, or the fewest from which a linear part is solved; with R > 1 at most those
        that fit into memory. A target takes the children that the curriculum asks for, guided steps
        of the teacher two passes; each that is kept takes one more where the linear part is solved.
        """
        reuse, solves = self.reuse(config), config.linear_part == "solve"
        wanted = max(math.ceil(num_iterations / reuse), limits.fewest * solves)
        kept = min(wanted, limits.most_kept)
        made = wanted if reuse == 1 else int(kept)
        steps = limits.guided_steps
        passes = mean_passes(self.merges, num_iterations, config.curriculum, steps)
        return made, passes + solves * kept / made

    def network_evaluations(
        self,
        num_iterations: int,
        config: DistillationConfig,
        limits: TargetLimits = NO_LIMITS,
    ) -> float:
        """Evaluations of a sample of the batch: those of targets, and N κ, κ = 3 (THEORY 9)."""
        made, passes = self.target_work(num_iterations, config, limits)
        return made * passes + num_iterations * STUDENT_PASSES

    def seconds(
        self,
        num_iterations: int,
        config: DistillationConfig,
        pace: Pace,
        limits: TargetLimits = NO_LIMITS,
    ) -> float:
        """Seconds that so many iterations take at a pace."""
        made, passes = self.target_work(num_iterations, config, limits)
        return pace.seconds(num_iterations, made, passes)

    def iterations_in(
        self,
        seconds: float,
        config: DistillationConfig,
        pace: Pace,
        limits: TargetLimits = NO_LIMITS,
    ) -> int:
        """Iterations that take so many seconds at a pace, at least one."""
        return most_iterations(lambda n: self.seconds(n, config, pace, limits) <= seconds)


def plan_stages(plan: Plan, sharing: Sharing = "merge") -> tuple[Stage, ...]:
    """Order the merges of a plan into stages.

    With ``round``, merges of one round (THEORY 5) share a network if their noise-side children
    do, because a student starts from a copy of that child. Progressive plans of 2^n steps then
    train one network a round, which is progressive distillation (Salimans & Ho 2022, Alg. 2).

    With ``all`` there is one network, for all trees. A stage is a round: targets come from the
    network as it was when the last stage ended, and beside the merges of the round it rehearses
    every operator that it has learned and that is still in place, and from the first stage on the
    teacher's steps that the student takes as they are, so that it is not forgotten.

    Raises:
        InputError: for an unknown kind of sharing.
    """
    if sharing not in get_args(Sharing):
        raise InputError("sharing", f"must be one of {', '.join(get_args(Sharing))}", sharing)
    if sharing == "all":
        return _stages_of_one_network(plan)
    numbers = range(len(plan.merges)) if sharing == "merge" else plan.rounds()
    network_at = dict.fromkeys(range(1, plan.num_steps + 1), 0)  # 0 is the teacher
    stages: list[Stage] = []
    in_order = sorted(zip(numbers, plan.merges, strict=True), key=itemgetter(0))
    for _, batch in groupby(in_order, key=itemgetter(0)):
        groups: dict[int, list[Merge]] = {}  # by the network of the noise-side child
        for _, merge in batch:
            groups.setdefault(network_at[merge.start], []).append(merge)
        for group in groups.values():
            for merge in group:
                for boundary in merge.boundaries[1:-1]:
                    del network_at[boundary]
                network_at[merge.start] = len(stages) + 1
            stages.append(Stage(tuple(group), len(set(network_at.values()) - {0})))
    return tuple(stages)


def _stages_of_one_network(plan: Plan) -> tuple[Stage, ...]:
    alone = (tree for tree in plan.students if not tree.merges)
    learned = {tree.start: Rehearsal((tree.start, tree.stop), is_teachers=True) for tree in alone}
    stages: list[Stage] = []
    in_order = sorted(zip(plan.rounds(), plan.merges, strict=True), key=itemgetter(0))
    for _, batch in groupby(in_order, key=itemgetter(0)):
        merges = tuple(merge for _, merge in batch)
        for merge in merges:
            for boundary in merge.boundaries[:-1]:
                learned.pop(boundary, None)
        rehearsed = (learned[start] for start in sorted(learned, reverse=True))
        stages.append(Stage((*merges, *rehearsed), networks_after=1))
        known = [*merges, *learned.values()]
        learned = {each.start: Rehearsal((each.start, each.stop)) for each in known}
    return tuple(stages)


def iterations_of_stages(
    plan: Plan, iterations: Sequence[int], sharing: Sharing
) -> int | tuple[int, ...]:
    """A plan's iterations of each merge as those of each stage, one number if they are equal.

    Of one network for all merges, of whose batches each has a part, they are the sum of as many as
    the merges and rehearsals of a stage, by the mean of its merges.

    Raises:
        InputError: if merges that train one network have different numbers.
    """
    of_merge = dict(zip(plan.merges, iterations, strict=True))
    stages = []
    for stage in plan_stages(plan, sharing):
        counts = {of_merge[merge] for merge in stage.new}
        if sharing == "all":
            total = sum(of_merge[merge] for merge in stage.new)
            counts = {round(total * len(stage.merges) / len(stage.new))}
        if len(counts) > 1:
            raise InputError(
                "plan",
                "must have equal `iterations` for merges that train one network",
                f"{min(counts)} to {max(counts)} for {stage.name}",
                'pass `num_iterations=400`, or `sharing="merge"`',
            )
        stages.append(counts.pop())
    return stages[0] if len(set(stages)) == 1 else tuple(stages)


@dataclass(frozen=True)
class Effort:
    """How long each stage is trained: ``iterations`` where they are known, or else ``seconds``."""

    iterations: tuple[int, ...]
    seconds: tuple[float, ...] | None = None


def plan_effort(
    stages: Sequence[Stage],
    config: DistillationConfig,
    num_processes: int = 1,
    limits: TargetLimits = NO_LIMITS,
) -> Effort:
    """Iterations of every stage as the settings give them, or a budget split over the stages.

    A budget B becomes N_m = max(1, ⌊c L_m^p⌋) iterations, L_m the steps that a merge spans (their
    mean in a stage of several), with the largest c for which the cost is at most B: the
    evaluations of whole batches (``Stage.network_evaluations``), or Σ N_m. One network for all has
    as many times that as a stage has merges. Of a time, stages have the shares that they have of
    evaluations. p = 1.75 is measured (docs/findings.md).

    Raises:
        InputError: if the budget does not suffice for an iteration of every stage.
    """
    fixed = config.iterations_of(len(stages))
    if config.budget is None or not stages:
        each = config.merge_seconds
        return Effort(fixed, None if each is None else (each,) * len(stages))
    total, unit = read_budget(config.budget)
    lengths = np.array([np.mean([m.start - m.stop for m in stage.new]) for stage in stages])
    weights = (lengths / lengths.max()) ** read_split(config.budget_split)
    if config.sharing == "all":  # of whose batches each merge has a part
        weights = weights * [len(stage.merges) for stage in stages]
        weights = weights / weights.max()
    merges = [stage.merges for stage in stages]
    given = MANY_ITERATIONS, config.curriculum, limits.guided_steps
    means = np.array([mean_passes(each, *given) for each in merges])
    solved = float(config.linear_part == "solve")
    reuse = np.array([stage.reuse(config) for stage in stages])
    batch = config.optimization.global_batch_size(num_processes)
    if unit == "seconds":
        work = weights * ((means + solved) / reuse + STUDENT_PASSES)
        return Effort(fixed, tuple((total * work / work.sum()).tolist()))

    def cost(counts: Array) -> float:
        if unit == "iterations":
            return float(counts.sum())
        wanted = np.maximum(np.ceil(counts / reuse), limits.fewest * solved)
        kept = np.minimum(wanted, limits.most_kept)
        targets = np.where(reuse > 1, kept, wanted) @ means + solved * kept.sum()
        return float(batch * (targets + STUDENT_PASSES * counts.sum()))

    def counts_at(scale: float) -> Array:
        return np.maximum(1.0, np.floor(scale * weights))

    least = cost(counts_at(0.0))
    if total < least:
        requirement = f"must be >= {math.ceil(least):,} {unit}, one iteration of each merge"
        raise InputError("budget", requirement, config.budget)
    low, high = 0.0, total + 1  # an iteration of the longest merge costs at least 1
    while high - low > _RESOLVED * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts_at(middle)) <= total else (low, middle)
    # a hair below: there rounding parts merges that get an iteration more at the same scale
    return Effort(tuple(map(int, counts_at(low * (1 - _HAIR)))))


def merges_at(merges: Sequence[Merge], progress: float, curriculum: Curriculum) -> Sequence[Merge]:
    """The merges cut short to what is learned at this point of training.

    Over the first half of training the number of operators composed grows from 2 to all m of the
    merge: evenly (``linear``) or by doubling, as in Song & Dhariwal 2024 (iCT, Eq. 11) the number
    of discretisation steps. A student that starts from its first operator so meets the jumps in
    the order in which sequential BOOT trains them. ``progress`` is the share done, in [0, 1).
    """
    share = progress / _SHARE_OF_TRAINING
    if curriculum == "none" or share >= 1:
        return merges
    lengths = (int(_lengths(merge, np.array(share), curriculum)) for merge in merges)
    cut = zip(merges, lengths, strict=True)
    return [replace(merge, boundaries=merge.boundaries[: 1 + n]) for merge, n in cut]


def mean_passes(
    merges: Sequence[Merge],
    num_iterations: int,
    curriculum: Curriculum,
    guided_steps: range = UNGUIDED,
) -> float:
    """Forward passes of the operators composed for a sample, on average over merges and iterations.

    Guided steps of the teacher take two.
    """
    share = np.arange(num_iterations) / num_iterations / _SHARE_OF_TRAINING
    means = []
    for merge in merges:
        is_learned = isinstance(merge, Rehearsal) and not merge.is_teachers
        guided = UNGUIDED if is_learned else guided_steps
        passes = operator_passes(merge.boundaries, guided).cumsum()
        if curriculum == "none":
            means.append(passes[-1])
        else:
            means.append(passes[_lengths(merge, share, curriculum).astype(int) - 1].mean())
    return float(np.mean(means))


def _lengths(merge: Merge, share: Array, curriculum: Curriculum) -> Array:
    """Operators composed at these shares of the growth, which is over from 1 on."""
    most = merge.num_children
    grown = {
        "none": np.full(share.shape, float(most)),
        "linear": _FEWEST + np.floor(share * (most - 1)),
        "doubling": 2.0 ** (1 + np.floor(share * math.ceil(math.log2(most)))),
    }[curriculum]
    return grown.clip(max=most)
