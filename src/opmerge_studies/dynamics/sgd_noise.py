"""What minibatches add to the closed form: exact second moments of SGD on linear students.

One iteration multiplies a coordinate's error by ``1 - 2 η m``, m the mean square of B samples of
z ~ N(0, n), with mean n and variance 2 n² / B. Errors of N iterations are products of independent
factors, so their first two moments are known exactly; the mean is that of full-batch descent.
A full matrix feels more noise: ``opmerge_studies.shared.batches``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.plans.tree import Plan
from opmerge.problem import Problem
from opmerge.training import GradientDescent

__all__ = ["operator_noise", "retention_noise"]

Array = NDArray[np.float64]


def retention_noise(training: GradientDescent, variances: Array, batch_size: int) -> Array:
    """Var ρ / (E ρ)² of SGD's retention, elementwise in n.

    ``(1 + 8 η² n² / (B (1 - 2 η n)²))^N - 1``; it is small while ``8 η² n² N ≪ B``.

    Args:
        training: η and N; η n < 1/2.
        variances: n_t.
        batch_size: B >= 1.

    Raises:
        InputError: if η n >= 1/2 for some n_t.
    """
    step = 2.0 * training.learning_rate * variances
    if not (step < 1.0).all():
        raise InputError("learning_rate", "must be < 1 / (2 max n_t)", training.learning_rate)
    per_iteration = 2.0 / check_count("batch_size", batch_size) * (step / (1.0 - step)) ** 2
    noise: Array = np.expm1(training.num_iterations * np.log1p(per_iteration))
    return noise


def operator_noise(problem: Problem, plan: Plan, batch_size: int) -> Array:
    """(d,) Var b / (E b)² of the whole student b, every merge of the plan trained by SGD.

    With independent factors 1 + noise multiply. A merge is ``b_1 (R + ρ (1 - R))``, R the product
    of its other children; relative to the teacher, with E the mean of ``(1 - R)/R`` (THEORY 4),

        noise(R + ρ (1 - R)) = (V E² + (1 - E ρ)² noise(R) + V noise(R)) / (1 + E ρ · E)²,

    V = Var ρ. The mean E b is the closed form's, as b is linear in every ρ.

    Args:
        problem: operator copy, trained by gradient descent.
        plan: any plan of T steps.
        batch_size: B >= 1.

    Raises:
        InputError: for another training model or merge rule.
    """
    training = problem.training
    if not isinstance(training, GradientDescent) or problem.merge_rule != "operator-copy":
        raise InputError("problem", "must have operator copy and gradient descent", problem)
    zero = np.zeros_like(problem.eigenvalues)
    logs = dict.fromkeys(range(problem.num_steps, 0, -1), zero)  # log(1 + noise)
    means = dict(logs)
    for merge, local in zip(plan.merges, evaluate(problem, plan).local_excess, strict=True):
        first, *others = merge.boundaries[:-1]
        rest = np.sum([means.pop(t) for t in others], axis=0)
        rest_noise = np.expm1(np.sum([logs.pop(t) for t in others], axis=0))
        gap = np.expm1(-problem.teacher.log_composite(merge.stop, merge.split) - rest)
        mean = problem.retentions[merge.start]
        variances = problem.teacher.variances[merge.start]
        spread = mean**2 * retention_noise(training, variances, batch_size)
        noise = spread * gap**2 + ((1.0 - mean) ** 2 + spread) * rest_noise
        logs[first] = logs[first] + np.log1p(noise / (1.0 + mean * gap) ** 2)
        means[first] = means[first] + rest + local
    whole: Array = np.expm1(np.sum(list(logs.values()), axis=0))
    return whole
