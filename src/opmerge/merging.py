"""The merge rules, and the evaluation of a plan in excess form (THEORY 4).

With e = log(b / P) the excess of an operator b over the teacher's composite P, a merge of a
first child (excess e_1) and a rest (total excess u) gives

    e = e_1 + u + log1p(retention · (initial / target - 1)),

where ``initial / P - 1 = offset + gain · expm1(e_1)`` is affine in the first child for either
rule. Nothing nearly equal is ever subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.checks import check_vector
from opmerge.clock import tick
from opmerge.errors import InputError
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.training import MODELS


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a plan costs in quality, for d eigenvalues: excess (d,) and of each merge (M, d)."""

    problem: Problem
    plan: Plan
    excess: Array
    """(d,) e = log(b / P(0, T)) of the whole student."""
    local_excess: Array
    """(number of merges, d) what each merge of ``plan.merges`` adds; the rows sum to ``excess``."""

    @property
    def w2(self) -> float:
        """Wasserstein-2 distance to the objective's target."""
        return self.problem.distance(self.excess)

    @property
    def errors(self) -> Array:
        """(d,) squared W2 per distinct eigenvalue, multiplicity included."""
        return self.problem.by_eigenvalue(self.problem.errors(self.excess))

    @property
    def floor(self) -> float:
        """What the training model's floor f adds to the student's error, not squared.

        ``sqrt(Σ_merges f Σ_k w_k c(i, j)² P_k(0, i)²)``: a merge j → i leaves an error of size f
        in each direction of x̂. The state that it reaches is z_i = c(i, j) x̂ + sigma_i/sigma_j z_j,
        with c(i, j) = alpha_i - alpha_j sigma_i/sigma_j, and the teacher carries z_i on to 0. An
        approximation: errors of different merges are taken as independent, the composite below
        is the teacher's own, and later merges learn the error whole. 0 for models without one.
        """
        problem = self.problem
        if problem.training.floor == 0:
            return 0.0
        ends = np.array([(merge.start, merge.stop) for merge in self.plan.merges], dtype=int)
        starts, stops = ends.reshape(-1, 2).T
        alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
        reached = alphas[stops] - alphas[starts] * sigmas[stops] / sigmas[starts]
        products = problem.teacher.log_products
        carried = np.exp(2.0 * (products[0] - products[stops])) @ problem.multiplicities
        return float(np.sqrt(problem.training.floor * (reached**2 @ carried)))

    @property
    def predicted_error(self) -> float:
        """Expected root mean square of student minus teacher from equal noise.

        ``sqrt(W2 to the teacher² + floor²)``, whatever the objective.
        """
        problem = self.problem
        if problem.objective != "teacher":
            problem = replace(problem, objective="teacher")
        return float(np.hypot(problem.distance(self.excess), self.floor))

    def error_shares(self) -> Array:
        """(number of merges,) each merge's share of the squared error; they sum to 1.

        Every eigenvalue's error is divided in proportion to the size of what each added to e.
        """
        sizes = np.abs(self.local_excess)
        totals = sizes.sum(axis=0)
        parts = np.divide(sizes, totals, out=np.zeros_like(sizes), where=totals > 0)
        shares: Array = parts @ self.problem.errors(self.excess)
        return shares / shares.sum() if shares.any() else shares


def initial_coefficients(
    problem: Problem,
    start: int | NDArray[np.intp],
    split: int | NDArray[np.intp],
    stop: int | NDArray[np.intp],
) -> tuple[Array, Array]:
    """Offset and gain of students' starts, shape of the steps + (d,) each:
    initial / P - 1 = offset + gain expm1(e_1).

    Operator copy starts from the operator in place, start → split:
    ``initial = b_1``, so ``offset = 1/P(stop, split) - 1`` and ``gain = 1/P(stop, split)``.

    Denoiser copy keeps that child's estimate of x_0 and jumps further with it:
    ``initial = J(start→stop) + κ (b_1 - J(start→split))``, κ the ratio of the two jumps' weights
    of x_0, alpha_i sigma_j - sigma_i alpha_j (THEORY 4).
    """
    teacher = problem.teacher
    log_rest = teacher.log_composite(stop, split)
    if problem.merge_rule == "operator-copy":
        return np.expm1(-log_rest), np.exp(-log_rest)
    alphas, sigmas = problem.schedule.alphas, problem.schedule.sigmas
    weights = [alphas[i] * sigmas[start] - sigmas[i] * alphas[start] for i in (stop, split)]
    gain = (weights[0] / weights[1])[..., None] * np.exp(-log_rest)
    return gain * teacher.jump_deficit(split, start) - teacher.jump_deficit(stop, start), gain


def evaluate(
    problem: Problem, plan: Plan, training_times: Sequence[float] | Array | None = None
) -> Outcome:
    """Excess, error and per-merge trace of a plan, by the closed form (THEORY 4, 6).

    The (number of merges,) training times say how long each of ``plan.merges`` is trained, in
    multiples x >= 0 of the problem's training: its retention is ρ^x, as error decays
    exponentially, mode by mode, with the length of training. 1 each unless given.

    Raises:
        InputError: if the plan is for another number of steps, the times do not fit it, or the
            training model has a memory, so that its error does not decay exponentially.
    """
    if plan.num_steps != problem.num_steps:
        raise InputError(
            "plan", f"must have {problem.num_steps} steps, as the problem", plan.num_steps
        )
    merges, zero = plan.merges, np.zeros_like(problem.eigenvalues)
    excess = dict.fromkeys(range(problem.num_steps, 0, -1), zero)
    local = np.zeros((len(merges), len(zero)))
    ends = np.array([(m.start, m.split, m.stop) for m in merges], dtype=np.intp).reshape(-1, 3).T
    kept = problem.retentions[ends[0]]
    if training_times is not None:
        kept = kept ** _times(problem, plan, training_times)[:, None]
    is_operator_copy = problem.merge_rule == "operator-copy"
    if is_operator_copy:
        log_rest = problem.teacher.log_composite(ends[2], ends[1])
    else:
        offset, gain = initial_coefficients(problem, *ends)
    for row, merge in enumerate(merges):
        tick()
        first, *others = (excess.pop(t) for t in merge.boundaries[:-1])
        rest = np.sum(others, axis=0)
        children = first + rest
        if is_operator_copy:
            # exact simplification of the general form; precise where expm1(first) overflows
            error = np.expm1(-log_rest[row] - rest)
        else:
            error = offset[row] + gain[row] * np.expm1(first) - np.expm1(children)
            error *= np.exp(-children)
        with np.errstate(divide="ignore"):
            # b is 0 where nothing of a jump to the data is trained, and below 0 by rounding only
            local[row] = np.log1p(np.maximum(kept[row] * error, -1.0))
        excess[merge.start] = children + local[row]
    return Outcome(problem, plan, np.sum(list(excess.values()), axis=0), local)


def _times(problem: Problem, plan: Plan, times: Sequence[float] | Array) -> Array:
    checked = check_vector("training_times", times)
    if len(checked) != len(plan.merges):
        raise InputError(
            "training_times", f"must have {len(plan.merges)} entries, one a merge", len(checked)
        )
    if not (np.isfinite(checked).all() and (checked >= 0).all()):
        raise InputError("training_times", "must be finite and >= 0", float(checked.min()))
    if not getattr(problem.training, "is_exponential", False):
        raise InputError(
            "training_times",
            "must be left out where error does not decay exponentially with training",
            problem.training.name,
            f"take {', '.join(name for name, m in MODELS.items() if m.is_exponential)}",
        )
    return checked
