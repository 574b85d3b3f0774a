"""Merge plans of a mixture's DDIM teacher, executed: floor and optimisation error of each merge.

A student starts from its first child, which reads z_j as it does and so has the same features:
operator copy takes that child's weights, denoiser copy its estimate of x_0, used for the longer
jump (THEORY 4). Its target is the composite of the operators in place, on z_j of the forward
process. With one component this is the Gaussian theory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError
from opmerge.plans.tree import Merge, Plan
from opmerge.problem import MergeRule
from opmerge.schedules import NoiseSchedule
from opmerge.training import TrainingModel
from opmerge_studies.mixture.expectation import Nodes, weighted_distance, weighted_w2
from opmerge_studies.mixture.gaussian_mixture import GaussianMixture
from opmerge_studies.mixture.lifted import LiftedMap, Trained, Training, ddim_map, identity_weights

__all__ = ["MergeTrace", "MixtureOutcome", "MixtureProblem", "merge_students"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MixtureProblem:
    """In which order should the DDIM steps of a mixture be merged into lifted students?

    Args:
        mixture: the data.
        schedule: of T steps.
        nodes: of the laws of z_0 … z_T: what students are trained on.
        training: the training model; None trains every student to its optimum, which leaves
            the approximation error alone.
        merge_rule: where a student starts.
        inputs: of the law of z_T, on which the result is judged; ``nodes[T]`` unless told.
    """

    mixture: GaussianMixture
    schedule: NoiseSchedule
    nodes: Sequence[Nodes]
    training: TrainingModel | None
    merge_rule: MergeRule = "operator-copy"
    inputs: Nodes | None = None

    def __post_init__(self) -> None:
        if len(self.nodes) != self.num_steps + 1:
            raise InputError("nodes", f"must be of {self.num_steps + 1} laws", len(self.nodes))

    @property
    def num_steps(self) -> int:
        """T."""
        return self.schedule.num_steps

    @cached_property
    def steps(self) -> tuple[LiftedMap, ...]:
        """The teacher's step t → t-1 at index t - 1."""
        return tuple(
            ddim_map(self.mixture, self.schedule, t, t - 1) for t in range(1, self.num_steps + 1)
        )

    @cached_property
    def trainings(self) -> tuple[Training, ...]:
        """Training of the students at step t at index t - 1."""
        return tuple(
            Training(step.gate, nodes, self.training)
            for step, nodes in zip(self.steps, self.nodes[1:], strict=True)
        )

    @property
    def judged_on(self) -> Nodes:
        """Nodes of z_T on which the result is judged."""
        return self.nodes[-1] if self.inputs is None else self.inputs

    @cached_property
    def teacher_output(self) -> Array:
        """(n, d) where the teacher takes the nodes of z_T."""
        return self.composite(self.num_steps, 0, self.judged_on.points)

    def composite(self, start: int, stop: int, points: Array) -> Array:
        """The teacher's own steps start → stop at points (n, d)."""
        return run_maps(self.steps[stop:start][::-1], points)

    def initial_weights(self, first: LiftedMap, stop: int) -> Array:
        """(K (d+1), d) weights at which a student begins, by the merge rule.

        Args:
            first: its first child.
            stop: step that it jumps to.
        """
        if self.merge_rule == "operator-copy":
            return first.weights
        alphas, sigmas = self.schedule.alphas, self.schedule.sigmas
        identity = identity_weights(self.mixture.num_components, self.mixture.dimension)
        noise = sigmas / sigmas[first.start]
        signal = alphas - alphas[first.start] * noise
        estimate = (first.weights - noise[first.stop] * identity) / signal[first.stop]
        return np.asarray(signal[stop] * estimate + noise[stop] * identity)

    def error(self, students: Sequence[LiftedMap]) -> float:
        """Root mean square of students minus teacher from equal noise."""
        output = run_maps(students, self.judged_on.points)
        return weighted_distance(output, self.teacher_output, self.judged_on.weights)

    def outcome(self, plan: Plan) -> MixtureOutcome:
        """Execute a plan.

        Raises:
            InputError: if the plan is for another number of steps.
        """
        if plan.num_steps != self.num_steps:
            raise InputError("plan", f"must have {self.num_steps} steps", plan.num_steps)
        maps = {step.start: step for step in self.steps}
        traces = []
        for merge in plan.merges:
            children = [maps.pop(t) for t in merge.boundaries[:-1]]
            student, trained = merge_students(self, children)
            nodes = self.nodes[merge.start]
            own = self.composite(merge.start, merge.stop, nodes.points)
            to_teacher = weighted_distance(student(nodes.points), own, nodes.weights)
            traces.append(MergeTrace(merge, trained.floor, trained.optimisation, to_teacher))
            maps[merge.start] = student
        students = tuple(maps[start] for start in plan.boundaries[:-1])
        return MixtureOutcome(self, plan, students, tuple(traces))


@dataclass(frozen=True)
class MergeTrace:
    """The errors of one merge, each a root mean square over z_j.

    Args:
        merge: which.
        floor: distance of the best student of this form from the merge's target.
        optimisation: distance of the student from that best one.
        to_teacher: distance of the student from the teacher's own composite.
    """

    merge: Merge
    floor: float
    optimisation: float
    to_teacher: float


@dataclass(frozen=True, eq=False)
class MixtureOutcome:
    """What a plan costs in quality, and where: ``traces`` in the order of ``plan.merges``."""

    problem: MixtureProblem
    plan: Plan
    students: tuple[LiftedMap, ...]
    traces: tuple[MergeTrace, ...]

    @cached_property
    def error(self) -> float:
        """Root mean square of student minus teacher from equal noise: at least W2."""
        return self.problem.error(self.students)

    @cached_property
    def w2(self) -> float:
        """Exact Wasserstein-2 distance to the teacher's output, in one dimension."""
        nodes, teacher = self.problem.judged_on, self.problem.teacher_output
        if teacher.shape[1] != 1:
            raise InputError("w2", "is computed in one dimension only", teacher.shape[1])
        output = run_maps(self.students, nodes.points)
        return weighted_w2(output[:, 0], teacher[:, 0], nodes.weights)

    @property
    def local_error(self) -> float:
        """Root of the sum over merges of what each adds in squares, floor² + optimisation²."""
        return float(np.sqrt(sum(t.floor**2 + t.optimisation**2 for t in self.traces)))


def merge_students(
    problem: MixtureProblem, children: Sequence[LiftedMap]
) -> tuple[LiftedMap, Trained]:
    """The student that replaces consecutive operators, noise side first."""
    first, last = children[0], children[-1]
    training = problem.trainings[first.start - 1]
    target = run_maps(children[1:], training.features @ first.weights)
    trained = training.train(problem.initial_weights(first, last.stop), target)
    return LiftedMap(first.start, last.stop, first.gate, trained.weights), trained


def run_maps(maps: Sequence[LiftedMap], points: Array) -> Array:
    """Points (n, d) taken through maps, noise side first."""
    for step in maps:
        points = step(points)
    return points
