"""Merge plans of a mixture's DDIM teacher, executed: floor and optimisation error of each merge.

With ``Φ_t(z) = (r_k(z, t) · [z, 1])_k``, r_k the components' responsibilities at step t, a lifted
map ``z ↦ Wᵀ Φ_t(z)`` is linear in its weights, and every DDIM step with the exact denoiser is one.
Gradient flow on ``E|Wᵀ Φ - f|²`` from W_0 ends at (THEORY 9)

    W(s) = W* + exp(-2 s G) (W_0 - W*),    G = E[Φ Φᵀ],

so in the eigenbasis of G every coefficient is a Gaussian student of its own, with the retention
that the training model gives for the eigenvalue instead of n_t. What is orthogonal to Φ is the
approximation floor: ``E|student - f|² = floor² + optimisation²`` exactly.

A student starts from its first child, which reads z_j as it does and so has the same features:
operator copy takes that child's weights, denoiser copy its estimate of x_0, used for the longer
jump (THEORY 4). Its target is the composite of the operators in place, on z_j of the forward
process. With one component this is the Gaussian theory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce

import numpy as np
from scipy.special import entr

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.plans.strategies import uniform_boundaries
from opmerge.plans.tree import Merge, Plan, Tree
from opmerge.schedules import NoiseSchedule
from opmerge.settings.types import MergeRule
from opmerge.training import TrainingModel
from opmerge_studies.mixture.laws import GaussianMixture, Nodes, weighted_w2
from opmerge_studies.shared.strategies import PAPER_RULE

_RANK = 1e-10  # singular values below this part of the largest are rounding
_STEP = 1e-5  # of a central difference of a smooth map
_TAILS = 5e-4  # mass on either side where the largest gain is not looked for


@dataclass(frozen=True, eq=False)
class LiftedMap:
    """``z ↦ Wᵀ Φ(z)`` from step ``start`` j to ``stop`` i < j, with responsibilities of z_j.

    Args:
        gate: the law of z_j.
        weights: (K (d+1), d): of each component the slopes, then the intercept.
        merges: those that made it, in the order of execution; none for a teacher step.
        floor: root mean square over z_j of the best map of this form minus its target.
        optimisation: its own distance from that best one.
    """

    start: int
    stop: int
    gate: GaussianMixture
    weights: Array
    merges: tuple[Merge, ...] = ()
    floor: float = 0.0
    optimisation: float = 0.0

    def __call__(self, points: Array) -> Array:
        """The map at points (n, d)."""
        return features(self.gate, points) @ self.weights


class Training:
    """Training of the students at one step, factorised once; without a ``model`` to the end."""

    def __init__(self, gate: GaussianMixture, nodes: Nodes, model: TrainingModel | None) -> None:
        self.features = features(gate, nodes.points)
        self._roots = np.sqrt(nodes.weights)[:, None]
        left, values, right = np.linalg.svd(self._roots * self.features, full_matrices=False)
        rank = int((values > _RANK * values[0]).sum())
        self._left, self._values, self._right = left[:, :rank], values[:rank], right[:rank]
        self._retentions = np.zeros(rank) if model is None else model.retention(values[:rank] ** 2)

    def train(self, initial: Array, target: Array) -> tuple[Array, float, float]:
        """Weights, floor and optimisation error of training from ``initial`` towards ``target``.

        The values (n, d) of the target stand at the nodes. Works on the error of the start, which
        may be small, not on the weights of the optimum, which are large where responsibilities
        hardly differ.
        """
        error = self._roots * (target - self.features @ initial)
        modes = self._left.T @ error
        learned = ((1.0 - self._retentions) / self._values)[:, None] * modes
        floor = float(np.linalg.norm(error - self._left @ modes))
        optimisation = float(np.linalg.norm(self._retentions[:, None] * modes))
        return initial + self._right.T @ learned, floor, optimisation


def nearest_floor(gate: GaussianMixture, nodes: Nodes, target: Array) -> float:
    """Root mean square of a target (n, d) at the nodes minus its nearest map with these gates."""
    training = Training(gate, nodes, None)
    _, floor, _ = training.train(np.zeros((training.features.shape[1], target.shape[1])), target)
    return floor


def run_maps(maps: Iterable[LiftedMap], points: Array) -> Array:
    """Points (n, d) taken through maps, noise side first."""
    return reduce(lambda reached, step: step(reached), maps, points)


def features(gate: GaussianMixture, points: Array) -> Array:
    """(n, K (d+1)) features ``r_k(z) · [z, 1]``, component by component."""
    lifted = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    gated: Array = gate.responsibilities(points)[:, :, None] * lifted[:, None, :]
    return gated.reshape(len(points), -1)


def identity_weights(num_components: int, dimension: int) -> Array:
    """(K (d+1), d) weights of the map z ↦ z, since responsibilities sum to 1."""
    return np.tile(np.eye(dimension + 1, dimension), (num_components, 1))


def ddim_map(mixture: GaussianMixture, schedule: NoiseSchedule, start: int, stop: int) -> LiftedMap:
    """The DDIM step j → i with the exact denoiser: ``α_i x̂ + σ_i / σ_j (z - α_j x̂)``.

    Component k contributes the slopes ``(α_i α_j λ_k + σ_i σ_j) / n_k`` and the intercepts
    ``(α_i - α_j σ_i / σ_j) μ_k σ_j² / n_k``.
    """
    alphas, sigmas = schedule.alphas, schedule.sigmas
    gate = mixture.noised(float(alphas[start]), float(sigmas[start]))
    inner = alphas[stop] * alphas[start] * mixture.variances + sigmas[stop] * sigmas[start]
    kept = sigmas[start] * (alphas[stop] * sigmas[start] - alphas[start] * sigmas[stop])
    slopes, intercepts = inner / gate.variances, kept * mixture.means / gate.variances
    diagonal = slopes[:, None] * np.eye(mixture.dimension)
    weights = np.concatenate([diagonal, intercepts[:, None]], axis=1)
    return LiftedMap(start, stop, gate, weights.reshape(-1, mixture.dimension))


@dataclass(frozen=True, eq=False)
class MixtureProblem:
    """In which order should the DDIM steps of a mixture be merged into lifted students?

    Args:
        nodes: of the laws of z_0 … z_T: what students are trained on.
        training: None trains every student to its optimum, which leaves approximation alone.
        inputs: nodes of z_T, on which the result is judged.
    """

    mixture: GaussianMixture
    schedule: NoiseSchedule
    nodes: Sequence[Nodes]
    training: TrainingModel | None
    inputs: Nodes
    merge_rule: MergeRule = PAPER_RULE
    _trained: dict[tuple[Merge, ...], LiftedMap] = field(default_factory=dict, init=False)

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

    @cached_property
    def teacher_output(self) -> Array:
        """(n, d) where the teacher takes the nodes of z_T."""
        return self.composite(self.num_steps, 0, self.inputs.points)

    def composite(self, start: int, stop: int, points: Array) -> Array:
        """The teacher's own steps start → stop at points (n, d)."""
        return run_maps(self.steps[stop:start][::-1], points)

    def merged(self, children: Sequence[LiftedMap]) -> LiftedMap:
        """The student of operators in a row, noise side first; trained once."""
        first, stop = children[0], children[-1].stop
        merge = Merge((first.start, *(child.stop for child in children)))
        merges = (*(merge for child in children for merge in child.merges), merge)
        if merges not in self._trained:
            training = self.trainings[first.start - 1]
            target = run_maps(children[1:], training.features @ first.weights)
            weights, *errors = training.train(self._initial_weights(first, stop), target)
            student = LiftedMap(first.start, stop, first.gate, weights, merges, *errors)
            self._trained[merges] = student
        return self._trained[merges]

    def _initial_weights(self, first: LiftedMap, stop: int) -> Array:
        """(K (d+1), d) weights at which a student with this first child begins."""
        if self.merge_rule == "operator-copy":
            return first.weights
        identity = identity_weights(self.mixture.num_components, self.mixture.dimension)
        noise = self.schedule.sigmas / self.schedule.sigmas[first.start]
        signal = self.schedule.alphas - self.schedule.alphas[first.start] * noise
        estimate = (first.weights - noise[first.stop] * identity) / signal[first.stop]
        return np.asarray(signal[stop] * estimate + noise[stop] * identity)

    def outcome(self, plan: Plan) -> MixtureOutcome:
        """Execute a plan.

        Raises:
            InputError: if the plan is for another number of steps.
        """
        if plan.num_steps != self.num_steps:
            raise InputError("plan", f"must have {self.num_steps} steps", plan.num_steps)
        maps, trained = {step.start: step for step in self.steps}, []
        for merge in plan.merges:
            maps[merge.start] = self.merged([maps.pop(t) for t in merge.boundaries[:-1]])
            trained.append(maps[merge.start])
        output = run_maps([maps[start] for start in plan.boundaries[:-1]], self.inputs.points)
        return MixtureOutcome(self, output, tuple(trained))


@dataclass(frozen=True, eq=False)
class MixtureOutcome:
    """What a plan costs in quality, and where.

    ``output`` (n, d) is where the students take ``problem.inputs``, ``trained`` holds the student
    of each merge in the order of ``plan.merges``.
    """

    problem: MixtureProblem
    output: Array
    trained: tuple[LiftedMap, ...]

    @property
    def error(self) -> float:
        """Root mean square of student minus teacher from equal noise: at least W2."""
        return self.problem.inputs.distance(self.output, self.problem.teacher_output)

    @property
    def w2(self) -> float:
        """Exact Wasserstein-2 distance to the teacher's output, in one dimension."""
        teacher, weights = self.problem.teacher_output, self.problem.inputs.weights
        return weighted_w2(self.output.squeeze(1), teacher.squeeze(1), weights)

    @property
    def local_error(self) -> float:
        """Root of the sum over merges of what each adds in squares, floor² + optimisation²."""
        return float(np.sqrt(sum(t.floor**2 + t.optimisation**2 for t in self.trained)))

    @property
    def traces(self) -> list[dict[str, float]]:
        """Of each merge's student its errors, and the distance from the teacher's composite."""
        rows = []
        for student in self.trained:
            nodes = self.problem.nodes[student.start]
            teacher = self.problem.composite(student.start, student.stop, nodes.points)
            row = {key: getattr(student, key) for key in ("start", "stop", "floor", "optimisation")}
            rows.append({**row, "to_teacher": nodes.distance(student(nodes.points), teacher)})
        return rows


def closest_plans(problem: MixtureProblem, student_steps: Sequence[int]) -> list[Plan]:
    """Plans by interval DP over measured merges: per interval, what is closest to the teacher.

    For every interval j → i the student, and the sequence of students, of the least root mean
    square to the teacher's composite over z_j, from the closest first child and the closest
    sequence of the rest; K trees likewise, prefix by prefix. O(T³) merges. A heuristic: what is
    closest on an interval need not be closest after merging (arXiv 2505.16024, Algorithm 1).
    Each K of ``student_steps`` gets a plan from the same tables.

    Raises:
        InputError: if a K is out of range.
    """
    num_steps = problem.num_steps
    for count in student_steps:
        uniform_boundaries(num_steps, count)
    trees: dict[tuple[int, int], LiftedMap] = {}
    sequences: dict[tuple[int, int], list[LiftedMap]] = {}
    for length in range(1, num_steps + 1):
        for stop in range(num_steps - length + 1):
            start = stop + length
            splits = [[trees[start, k], *sequences[k, stop]] for k in range(start - 1, stop, -1)]
            students = [[problem.merged(split)] for split in splits]
            alone = _closest(problem, students or [[problem.steps[start - 1]]])
            trees[start, stop] = alone[0]
            sequences[start, stop] = _closest(problem, [alone, *splits])
    prefixes = {stop: [trees[num_steps, stop]] for stop in range(num_steps)}
    best = {1: prefixes[0]}
    for count in range(2, max(student_steps) + 1):
        prefixes = {
            stop: _closest(problem, [[*prefixes[k], trees[k, stop]] for k in prefixes if k > stop])
            for stop in range(num_steps - count + 1)
        }
        best[count] = prefixes[0]
    return [
        Plan(tuple(Tree(each.start, each.stop, each.merges) for each in best[count]))
        for count in student_steps
    ]


def _closest(problem: MixtureProblem, candidates: Sequence[list[LiftedMap]]) -> list[LiftedMap]:
    """The sequence of students, all of one interval, closest to the teacher over z_start."""
    start, stop = candidates[0][0].start, candidates[0][-1].stop
    nodes, training = problem.nodes[start], problem.trainings[start - 1]
    teacher = problem.composite(start, stop, nodes.points)

    def error(students: list[LiftedMap]) -> float:
        reached = training.features @ students[0].weights
        return nodes.distance(run_maps(students[1:], reached), teacher)

    return min(candidates, key=error)


def effective_paths(problem: MixtureProblem, start: int, stop: int) -> float:
    """How many affine maps the teacher's composite start → stop really mixes.

    Written out, the composite of m steps is a sum over K^m sequences of components, each an
    affine map weighted by the product of its responsibilities along the trajectory. The
    effective number is the exponential of the mean entropy of these weights over z_start, which
    is the sum of the entropies of the steps: 1 where every point has one component throughout.
    """
    points, entropy = problem.nodes[start].points, 0.0
    for step in problem.steps[stop:start][::-1]:
        entropies = entr(step.gate.responsibilities(points)).sum(axis=1)
        entropy += float(problem.nodes[start].weights @ entropies)
        points = step(points)
    return float(np.exp(entropy))


def relative_floor(problem: MixtureProblem, start: int, stop: int) -> float:
    """Floor of one student for the teacher's composite, over the standard deviation of z_stop."""
    nodes, first = problem.nodes[start], problem.steps[start - 1]
    target = problem.composite(start, stop, nodes.points)
    _, floor, _ = problem.trainings[start - 1].train(first.weights, target)
    return floor / _deviation(target, nodes)


def gates_needed(
    problem: MixtureProblem, start: int, stop: int, tolerance: float, most: int
) -> int | None:
    """Fewest affine pieces of a student with free gates whose floor is within tolerance.

    The gates are responsibilities of equal Gaussians at the quantiles of z_start, as wide as they
    are apart, instead of the data's own; one dimension. ``tolerance`` is the largest floor over the
    standard deviation of the target; None if more gates than ``most`` are needed.
    """
    nodes = problem.nodes[start]
    target = problem.composite(start, stop, nodes.points)
    enough = tolerance * _deviation(target, nodes)
    floors = (nearest_floor(_gates(nodes, c), nodes, target) for c in range(1, most + 1))
    return next((c for c, floor in enumerate(floors, start=1) if floor <= enough), None)


def composite_gain(problem: MixtureProblem, start: int, stop: int) -> tuple[float, float]:
    """How much the composite stretches small differences over z_start, on the line.

    The root mean square of its slope, and the largest slope over the central 99.9 %.
    """
    nodes = problem.nodes[start]
    ends = [problem.composite(start, stop, nodes.points + step) for step in (_STEP, -_STEP)]
    slopes = np.abs(ends[0] - ends[1])[:, 0] / (2 * _STEP)
    mass = np.cumsum(nodes.weights)
    central = (mass > _TAILS) & (mass < 1 - _TAILS)
    return float(np.sqrt(nodes.weights @ slopes**2)), float(slopes[central].max())


def _gates(nodes: Nodes, count: int) -> GaussianMixture:
    mass = np.cumsum(nodes.weights)
    places = np.interp((np.arange(count) + 0.5) / count, mass, nodes.points[:, 0])
    spacing = np.gradient(places) if count > 1 else np.ones(1)
    return GaussianMixture(places, spacing**2)


def _deviation(values: Array, nodes: Nodes) -> float:
    """Standard deviation of values (n, d) at the nodes."""
    return nodes.distance(values, nodes.weights @ values)
