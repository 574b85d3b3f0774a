"""The guided linear teacher: students read z and the mean of their condition (THEORY 11).

Conditions have means μ ~ N(0, λ_b) and data around them the variance λ_w, in one eigenbasis, so
every direction is a problem of its own, with λ = λ_w + λ_b. The teacher at guidance w says

    x̂ = D z + E μ,   D = w α λ_w / n_w + (1 - w) α λ / n,   E = w σ² / n_w,

n_w = α² λ_w + σ², n = α² λ + σ². Operators are rows (A, B), ``z_i = A z_j + B μ``; a student is
trained on (z, μ) of noised data, whose second moment is ``G = [[n, α λ_b], [α λ_b, λ_b]]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from opmerge.arrays import Array
from opmerge.checks import check_number, check_vector
from opmerge.errors import InputError
from opmerge.plans.tree import Merge, Plan
from opmerge.schedules import NoiseSchedule
from opmerge.settings.types import DEFAULT_MERGE_RULE, MergeRule
from opmerge.training import GradientFlow, TrainingModel

Start = Literal["network", "teacher"]
"""What a merge that begins with a teacher step starts from: what the copied network says, which is
told its condition and is not guided (w = 1), or what the guided teacher says."""


@dataclass(frozen=True, eq=False)
class GuidedProblem:
    """In which order should the T steps of a guided teacher be merged, in these d directions?

    Args:
        within: (d,) λ_w > 0, the variance of data of one condition.
        between: (d,) λ_b >= 0, the variance of the conditions' means; 0: THEORY 2.
        scale: w.
        steps: of the teacher at which it is guided, w being 1 at others; all by default.
        start: of a student whose first child is a teacher step.

    Raises:
        InputError: for variances that are not those of d directions, or a training model of
            several modes.
    """

    schedule: NoiseSchedule
    within: Array
    between: Array
    scale: float = 1.0
    training: TrainingModel = field(default_factory=GradientFlow)
    merge_rule: MergeRule = DEFAULT_MERGE_RULE
    start: Start = "network"
    steps: range | None = None

    def __post_init__(self) -> None:
        for name, least in (("within", np.nextafter(0.0, 1.0)), ("between", 0.0)):
            values = check_vector(name, getattr(self, name))
            if not (np.isfinite(values).all() and (values >= least).all()):
                sign = ">" if least else ">="
                raise InputError(name, f"must be finite and {sign} 0", float(values.min()))
            object.__setattr__(self, name, values)
        if len(self.within) != len(self.between):
            requirement = f"must have {len(self.within)} entries, as within"
            raise InputError("between", requirement, len(self.between))
        check_number("scale", self.scale)
        for name, choices in (("merge_rule", MergeRule), ("start", Start)):
            if getattr(self, name) not in (allowed := get_args(choices)):
                raise InputError(name, f"must be one of {', '.join(allowed)}", getattr(self, name))
        if len(self.training.mode_weights) > 1:
            raise InputError("training", "must have one mode", self.training.name)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.schedule.num_steps

    def estimates(self, scale: float) -> Array:
        """(T+1, d, 2) rows (D, E) of x̂ at each step, at guidance w = scale."""
        alphas, sigmas = self.schedule.alphas[:, None], self.schedule.sigmas[:, None]
        told = alphas**2 * self.within + sigmas**2
        untold = told + alphas**2 * self.between
        gain = scale * alphas * self.within / told
        gain = gain + (1 - scale) * alphas * (self.within + self.between) / untold
        return np.stack([gain, scale * sigmas**2 / told], axis=2)

    @cached_property
    def guided_estimates(self) -> Array:
        """(T+1, d, 2) rows of x̂ of the teacher, guided at its steps."""
        rows, steps = self.estimates(1.0), self.steps
        chosen = np.arange(self.num_steps + 1)
        is_on = np.ones(len(rows), bool) if steps is None else np.isin(chosen, list(steps))
        rows[is_on] = self.estimates(self.scale)[is_on]
        return rows

    def landed(self, estimates: Array, start: int, stop: int) -> Array:
        """(d, 2) the operator start → stop of (d, 2) estimates at the start."""
        carried, reached = self.jump(start, stop)
        row = reached * estimates
        row[:, 0] += carried
        return row

    def jump(self, start: int, stop: int) -> tuple[float, float]:
        """r and c of ``z_stop = r z_start + c x̂`` (THEORY 4)."""
        alphas, sigmas = self.schedule.alphas, self.schedule.sigmas
        carried = float(sigmas[stop] / sigmas[start])
        return carried, float(alphas[stop] - alphas[start] * carried)

    @cached_property
    def operators(self) -> Array:
        """(T+1, d, 2) rows of the teacher's steps t → t - 1; row 0 is the identity."""
        rows = [self.landed(self.guided_estimates[t], t, t - 1) for t in self._numbers]
        return np.stack([identity(len(self.within)), *rows])

    @property
    def contraction(self) -> Array:
        """(T, d) what the steps 1 … T multiply z by, beside what they add of μ."""
        return self.operators[1:, :, 0]

    def composite(self, start: int, stop: int) -> Array:
        """(d, 2) the teacher's own operator start → stop."""
        return self._composites[start, stop]

    @cached_property
    def _composites(self) -> Array:
        """(T+1, T+1, d, 2) by start and stop; those that rise are not a number."""
        size = self.num_steps + 1
        rows = np.full((size, size, len(self.within), 2), np.nan)
        for start in range(size):
            rows[start, start] = identity(len(self.within))
            for stop in range(start, 0, -1):
                rows[start, stop - 1] = composed(rows[start, stop], self.operators[stop])
        rows.setflags(write=False)
        return rows

    @cached_property
    def moments(self) -> Array:
        """(T+1, d, 2, 2) second moments G of (z_t, μ)."""
        alphas, sigmas = self.schedule.alphas[:, None], self.schedule.sigmas[:, None]
        variances = alphas**2 * (self.within + self.between) + sigmas**2
        shared, own = np.broadcast_arrays(alphas * self.between, self.between)
        return np.stack([variances, shared, shared, own], axis=2).reshape(*variances.shape, 2, 2)

    @cached_property
    def retentions(self) -> Array:
        """(T+1, d, 2, 2) ρ(G): the retention of G's eigenvalues along its eigenvectors."""
        values, vectors = np.linalg.eigh(self.moments)
        left = self.training.retention(np.maximum(values, 0.0))
        return np.einsum("tdij,tdj,tdkj->tdik", vectors, left, vectors)

    @property
    def _numbers(self) -> range:
        return range(1, self.num_steps + 1)


@dataclass(frozen=True, eq=False)
class GuidedOutcome:
    """What a plan leaves.

    Args:
        student, deviation: (d, 2) its row T → 0, and that less the guided teacher's.
    """

    problem: GuidedProblem
    student: Array
    deviation: Array

    @property
    def errors(self) -> Array:
        """(d,) E|student - teacher|² from equal noise and condition, in each direction."""
        moments = self.problem.moments[-1]
        return np.einsum("di,dij,dj->d", self.deviation, moments, self.deviation)

    @property
    def parts(self) -> Array:
        """(2,) of the squared error what the spread around μ, and what the means, have in it."""
        problem, alpha = self.problem, float(self.problem.schedule.alphas[-1])
        around = alpha**2 * problem.within + float(problem.schedule.sigmas[-1]) ** 2
        of_mean = self.deviation[:, 0] * alpha + self.deviation[:, 1]
        spread = self.deviation[:, 0] ** 2 * around
        return np.array([spread.sum(), (of_mean**2 * problem.between).sum()])

    @property
    def paired_error(self) -> float:
        """``sqrt(E|student - teacher|²)``."""
        return float(np.sqrt(self.errors.sum()))

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance of the outputs under one condition, root mean square over them.

        Outputs are Gaussian around means, ``W2² = Σ (|A| - |P|)² Var(z_T | μ) + |Δ mean|²``: the
        paired error where A and P have one sign.
        """
        problem, alpha = self.problem, float(self.problem.schedule.alphas[-1])
        around = alpha**2 * problem.within + float(problem.schedule.sigmas[-1]) ** 2
        teacher = self.student[:, 0] - self.deviation[:, 0]
        same = np.sign(teacher) * np.sign(self.student[:, 0]) >= 0
        sizes = np.where(same, np.abs(self.deviation[:, 0]), np.abs(self.student[:, 0] + teacher))
        return float(np.sqrt((sizes**2 * around).sum() + self.parts[1]))


def identity(count: int) -> Array:
    """(d, 2) rows (1, 0)."""
    return np.tile([1.0, 0.0], (count, 1))


def composed(first: Array, then: Array) -> Array:
    """(d, 2) rows of one operator after another: ``(A' A, A' B + B')``."""
    row = then[:, :1] * first
    row[:, 1] += then[:, 1]
    return row


def evaluate_guided(problem: GuidedProblem, plan: Plan) -> GuidedOutcome:
    """The student of a plan by the closed form: what is left of a merge is ``(init - G) ρ``.

    Deviations from the teacher's composites are carried along, so they keep their digits.

    Raises:
        InputError: if the plan is for another number of steps, or begins with a free step.
    """
    if plan.num_steps != problem.num_steps or plan.free_step is not None:
        requirement = f"must have {problem.num_steps} steps, as the problem, and no free step"
        raise InputError("plan", requirement, plan.num_steps)
    left: dict[int, Array] = {}  # deviations of students, by the step that they read
    for merge in plan.merges:
        target = _deviation(problem, merge.boundaries, left)
        missed = _initial_deviation(problem, merge, left.get(merge.start)) - target
        kept = np.einsum("di,dij->dj", missed, problem.retentions[merge.start])
        left[merge.start] = target + kept
    deviation = _deviation(problem, plan.boundaries, left)
    return GuidedOutcome(problem, problem.composite(plan.num_steps, 0) + deviation, deviation)


def contraction_thresholds(share: ArrayLike, scale: float) -> tuple[Array, Array]:
    """The λ up to which a guided step contracts z at the noise end, and at the data end.

    For many steps a step shrinks z where ``w λ_w/n_w + (1 - w) λ/n <= 1``. With the share
    r = λ_b/λ of the conditions' means in the variance this is ``λ (1 - w r) <= 1`` at α → 0, and
    ``λ <= 1 + w r/(1 - r)`` at σ → 0. At w = 1 both are ``λ_w <= 1``; the first is infinite from
    w r = 1 on.
    """
    r = np.asarray(share, dtype=np.float64)
    left = 1 - scale * r
    with np.errstate(divide="ignore"):
        noise = np.where(left > 0, 1 / np.maximum(left, 0.0), np.inf)
    return noise, 1 + scale * r / (1 - r)


def _deviation(
    problem: GuidedProblem, boundaries: tuple[int, ...], left: dict[int, Array]
) -> Array:
    """(d, 2) of the operators between these steps less the teacher's composite, term by term."""
    reached = identity(len(problem.within))
    deviation = np.zeros_like(reached)
    for above, below in pairwise(boundaries):
        teacher = problem.composite(above, below)
        moved = teacher[:, :1] * deviation
        if above in left:
            moved += composed(reached + deviation, left[above])
        deviation, reached = moved, composed(reached, teacher)
    return deviation


def _initial_deviation(problem: GuidedProblem, merge: Merge, first: Array | None) -> Array:
    """(d, 2) where a student starts, less the teacher's composite of its merge."""
    start, split, stop = merge.start, merge.split, merge.stop
    row = problem.composite(start, split)
    if first is not None:
        row = row + first
    elif problem.start == "network":
        row = problem.landed(problem.estimates(1.0)[start], start, split)
    if problem.merge_rule == "denoiser-copy":
        carried, reached = problem.jump(start, split)
        estimates = row / reached
        estimates[:, 0] -= carried / reached
        row = problem.landed(estimates, start, stop)
    return row - problem.composite(start, stop)
