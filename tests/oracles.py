"""Independent programs: the theory once more, from its direct formulas, in other arithmetic.

Nothing here uses the package's teachers, merging or planners: operators are multiplied as they
stand, ``b = (1 - γ) init + γ Π c`` (THEORY 4), in mpmath with enough digits that ``b - P`` may
cancel; trees are nested lists with a recursion of their own; a full covariance is a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
from mpmath import mp
from numpy.typing import NDArray
from scipy.linalg import expm

from opmerge.plans.tree import Plan
from opmerge.problem import MergeRule, Objective, Problem
from opmerge.schedules import NoiseSchedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import GradientFlow

__all__ = [
    "ALL_DIGITS",
    "DIGITS",
    "SQUARE_UNDERFLOW",
    "DenseTheory",
    "DirectTheory",
    "Setting",
    "best_students",
    "num_plans",
    "random_setting",
    "students_of",
    "trees_of",
]

Nested = Any
Numbers = NDArray[Any]
"""Arrays of mpmath numbers (dtype object), the last axis over eigenvalues."""

DIGITS = 200
"""Decimal digits for distances: W2 down to ``SQUARE_UNDERFLOW`` keeps 50 of them."""

ALL_DIGITS = 350
"""Decimal digits for excesses: down to the smallest number of float64, 5e-324."""

SQUARE_UNDERFLOW = 1e-150
"""W2 below this cannot be told from 0 in float64, as its square leaves the normal numbers."""


@dataclass(frozen=True)
class Setting:
    """A merge problem in plain numbers, for the oracles and for the package alike.

    Args:
        schedule: noise schedule; the oracles read its float64 coefficients as exact numbers.
        eigenvalues: distinct, descending.
        multiplicities: whole numbers.
        time: optimisation time s of gradient flow.
    """

    schedule: NoiseSchedule
    eigenvalues: tuple[float, ...]
    multiplicities: tuple[int, ...] = ()
    time: float = 6.4
    merge_rule: MergeRule = "operator-copy"
    objective: Objective = "teacher"

    @property
    def num_steps(self) -> int:
        return self.schedule.num_steps

    def problem(self) -> Problem:
        """The package's form of it."""
        spectrum = eigenvalue_spectrum(self.eigenvalues, self.multiplicities or None)
        return Problem(
            spectrum, self.schedule, GradientFlow(self.time), self.merge_rule, self.objective
        )


def random_setting(rng: np.random.Generator, num_steps: int, dimensions: int) -> Setting:
    """Eigenvalues over 12 decades, s from 0.05 to 30, either rule, either objective.

    A third of the eigenvalues, and in every sixth problem all of them, lie about the phase
    transition. The schedule is the plain cosine, or one of random angles, which may keep signal
    in z_T and noise in z_0.
    """
    spread = 10.0 ** rng.uniform(-6, 6, dimensions)
    narrow = rng.uniform(0.8, 2.3, dimensions)
    transitional = rng.random(dimensions) < (1 if rng.random() < 1 / 6 else 1 / 3)
    eigenvalues = np.sort(np.where(transitional, narrow, spread))[::-1]
    angles = 0.5 * np.pi * np.arange(num_steps + 1) / num_steps
    if rng.random() < 0.5:
        angles = np.sort(rng.uniform(0.01, 1.56, num_steps + 1))
        angles[[0, -1]] = np.where(rng.random(2) < 0.7, (0.0, 0.5 * np.pi), angles[[0, -1]])
    schedule = NoiseSchedule(np.maximum(np.cos(angles), 0.0), np.sin(angles))
    return Setting(
        schedule,
        tuple(float(value) for value in eigenvalues),
        tuple(int(count) for count in 10 ** rng.integers(0, 4, dimensions)),
        float(np.exp(rng.uniform(np.log(0.05), np.log(30.0)))),
        "operator-copy" if rng.random() < 0.5 else "denoiser-copy",
        "teacher" if rng.random() < 2 / 3 else "data",
    )


@cache
def trees_of(start: int, stop: int) -> tuple[Nested, ...]:
    """Every tree start → stop as nested lists: a first child, and a forest for the rest."""
    if start - stop == 1:
        return (start,)
    return tuple(
        [first, *rest]
        for split in range(start - 1, stop, -1)
        for first in trees_of(start, split)
        for rest in _forests_of(split, stop)
    )


@cache
def _forests_of(start: int, stop: int) -> tuple[list[Nested], ...]:
    single = tuple([tree] for tree in trees_of(start, stop))
    return single + tuple(
        [first, *rest]
        for split in range(start - 1, stop, -1)
        for first in trees_of(start, split)
        for rest in _forests_of(split, stop)
    )


@cache
def students_of(start: int, count: int) -> tuple[list[Nested], ...]:
    """Every list of ``count`` trees that covers the steps start … 1."""
    if count == 1:
        return tuple([tree] for tree in trees_of(start, 0))
    return tuple(
        [first, *rest]
        for split in range(start - 1, count - 2, -1)
        for first in trees_of(start, split)
        for rest in students_of(split, count - 1)
    )


def num_plans(num_steps: int, count: int = 1) -> int:
    """How many there are, from the recurrence of the little Schröder numbers (OEIS A001003)."""
    little = [0, 1, 1]
    for n in range(3, num_steps + 1):
        little.append((3 * (2 * n - 3) * little[n - 1] - (n - 3) * little[n - 2]) // n)
    plans = np.array([1] + [0] * num_steps)
    for _ in range(count):
        plans = np.convolve(plans, little[: num_steps + 1])[: num_steps + 1]
    return int(plans[num_steps])


class DirectTheory:
    """Teacher, merges and distances of a setting by the formulas of THEORY 2 to 6, in mpmath."""

    def __init__(self, setting: Setting, digits: int = DIGITS) -> None:
        mp.dps = digits
        self.setting = setting
        self.alphas = [mpmath.mpf(float(value)) for value in setting.schedule.alphas]
        self.sigmas = [mpmath.mpf(float(value)) for value in setting.schedule.sigmas]
        self.eigenvalues = _numbers([mpmath.mpf(value) for value in setting.eigenvalues])
        counts = setting.multiplicities or (1,) * len(setting.eigenvalues)
        self.multiplicities = _numbers([mpmath.mpf(count) for count in counts])

    @cached_property
    def variances(self) -> list[Numbers]:
        """n_t = alpha_t² λ + sigma_t²."""
        pairs = zip(self.alphas, self.sigmas, strict=True)
        return [alpha**2 * self.eigenvalues + sigma**2 for alpha, sigma in pairs]

    @cached_property
    def retentions(self) -> list[Numbers]:
        """ρ_t = exp(-2 s n_t)."""
        time = mpmath.mpf(self.setting.time)
        return [_numbers([mpmath.exp(-2 * time * n) for n in row]) for row in self.variances]

    @cached_property
    def steps(self) -> list[Numbers]:
        """A_t, t = 1 … T, at index t."""
        a, s = self.alphas, self.sigmas
        inner = [
            a[t - 1] * a[t] * self.eigenvalues + s[t - 1] * s[t]
            for t in range(1, self.setting.num_steps + 1)
        ]
        return [self.eigenvalues * 0 + 1] + [
            row / self.variances[t + 1] for t, row in enumerate(inner)
        ]

    def composite(self, stop: int, start: int) -> Numbers:
        """P(stop, start)."""
        product = self.steps[0]
        for t in range(start, stop, -1):
            product = product * self.steps[t]
        return product

    def merge(self, start: int, split: int, stop: int, first: Numbers, target: Numbers) -> Numbers:
        """b = (1 - γ) init + γ target for a student start → stop whose first child is ``first``."""
        retention = self.retentions[start]
        initial = self._initial(start, split, stop, first)
        student: Numbers = retention * initial + (1 - retention) * target
        return student

    def _initial(self, start: int, split: int, stop: int, first: Numbers) -> Numbers:
        if self.setting.merge_rule == "operator-copy":
            return first
        a, s = self.alphas, self.sigmas

        def weight(to: int) -> Any:
            return (a[to] * s[start] - s[to] * a[start]) / s[start]

        estimate = (first - s[split] / s[start]) / weight(split)
        initial: Numbers = weight(stop) * estimate + s[stop] / s[start]
        return initial

    def operator(self, tree: Nested) -> tuple[Numbers, int, int]:
        """(b, start, stop) of a tree, by its own recursion."""
        if isinstance(tree, int):
            return self.steps[tree], tree, tree - 1
        children = [self.operator(child) for child in tree]
        start, split, stop = children[0][1], children[0][2], children[-1][2]
        assert all(left[2] == right[1] for left, right in pairwise(children))
        target = self.steps[0]
        for child, _, _ in children:
            target = target * child
        return self.merge(start, split, stop, children[0][0], target), start, stop

    def plan(self, students: Sequence[Nested]) -> tuple[Numbers, Numbers]:
        """(b, P) of a whole plan."""
        product = self.steps[0]
        for tree in students:
            product = product * self.operator(tree)[0]
        return product, self.composite(0, self.setting.num_steps)

    def distances(self, operators: Numbers) -> Numbers:
        """W2 of students b (…, d) to the objective's target (THEORY 6)."""
        spread = _numbers([mpmath.sqrt(n) for n in self.variances[-1]])
        if self.setting.objective == "teacher":
            target = self.composite(0, self.setting.num_steps) * spread
        else:
            target = _numbers([mpmath.sqrt(value) for value in self.eigenvalues])
        squares = self.multiplicities * (abs(operators) * spread - target) ** 2
        roots: Numbers = np.vectorize(mpmath.sqrt, otypes=[object])(squares.sum(axis=-1))
        return roots

    def all_students(self, count: int) -> Numbers:
        """(n, d) b of every plan with ``count`` trees, in the order of ``students_of``."""
        return self._students(self.setting.num_steps, count)

    def _students(self, start: int, count: int) -> Numbers:
        if count == 1:
            return self._trees(start, 0)
        parts = [
            _products(self._trees(start, split), self._students(split, count - 1))[0]
            for split in range(start - 1, count - 2, -1)
        ]
        return np.concatenate(parts)

    @cached_property
    def _known(self) -> dict[tuple[int, int, bool], Numbers]:
        return {}

    def _trees(self, start: int, stop: int, forests: bool = False) -> Numbers:
        """(n, d) b of every tree (or forest) start → stop, in the order of ``trees_of``."""
        key = start, stop, forests
        if key not in self._known:
            self._known[key] = self._build(start, stop, forests)
        return self._known[key]

    def _build(self, start: int, stop: int, forests: bool) -> Numbers:
        parts = [self._trees(start, stop)] if forests else []
        if start - stop == 1:
            return self.steps[start][None]
        for split in range(start - 1, stop, -1):
            rest = self._trees(split, stop, forests=True)
            target, first = _products(self._trees(start, split), rest)
            parts.append(target if forests else self.merge(start, split, stop, first, target))
        return np.concatenate(parts)


def best_students(setting: Setting, count: int = 1) -> tuple[float, list[Nested]]:
    """Smallest W2 over every plan with ``count`` trees, and a plan that has it."""
    theory = DirectTheory(setting)
    distances = theory.distances(theory.all_students(count))
    best = int(np.argmin(distances))
    return float(distances[best]), students_of(setting.num_steps, count)[best]


class DenseTheory:
    """Teacher and merges as (D, D) matrices that act on z, for a full covariance.

    DDIM step ``A_t = (α_{t-1} α_t C + σ_{t-1} σ_t I) (α_t² C + σ_t² I)^-1``; gradient flow on
    ``E|B z - G z|²`` ends at ``G + (B_0 - G) expm(-2 s (α_t² C + σ_t² I))``. No eigenbasis is
    used, and nothing is assumed to commute.
    """

    def __init__(
        self, schedule: NoiseSchedule, covariance: NDArray[np.float64], time: float
    ) -> None:
        self.alphas, self.sigmas = schedule.alphas, schedule.sigmas
        self.covariance, self.time = covariance, time
        self.identity = np.eye(len(covariance))

    def variance(self, t: int) -> NDArray[np.float64]:
        """Covariance of z_t."""
        signal, noise = self.alphas[t] ** 2, self.sigmas[t] ** 2
        covariance: NDArray[np.float64] = signal * self.covariance + noise * self.identity
        return covariance

    def step(self, t: int) -> NDArray[np.float64]:
        a, s = self.alphas, self.sigmas
        inner = a[t - 1] * a[t] * self.covariance + s[t - 1] * s[t] * self.identity
        return np.linalg.solve(self.variance(t).T, inner.T).T

    def composite(self, stop: int, start: int) -> NDArray[np.float64]:
        product = self.identity
        for t in range(start, stop, -1):
            product = self.step(t) @ product
        return product

    def operator(self, tree: Nested, merge_rule: MergeRule) -> tuple[Any, int, int]:
        if isinstance(tree, int):
            return self.step(tree), tree, tree - 1
        children = [self.operator(child, merge_rule) for child in tree]
        start, split, stop = children[0][1], children[0][2], children[-1][2]
        target = self.identity
        for child, _, _ in children:
            target = child @ target
        initial = children[0][0]
        if merge_rule == "denoiser-copy":
            a, s = self.alphas, self.sigmas
            # x̂ and ε̂ of the first child: z_split = α x̂ + σ ε̂ and z_start = α x̂ + σ ε̂.
            weight = a[split] - s[split] * a[start] / s[start]
            data = (initial - s[split] / s[start] * self.identity) / weight
            noise = (self.identity - a[start] * data) / s[start]
            initial = a[stop] * data + s[stop] * noise
        left = expm(-2 * self.time * self.variance(start))
        return target + (initial - target) @ left, start, stop

    def output(self, operator: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariance of ``operator @ z_T``."""
        return operator @ self.variance(-1) @ operator.T

    def plan(self, plan: Plan, merge_rule: MergeRule) -> NDArray[np.float64]:
        """The operator of a whole student."""
        product = self.identity
        for tree in plan.to_nested():
            product = self.operator(tree, merge_rule)[0] @ product
        return product


class DenseNoise(DenseTheory):
    """The dense oracle with a noise covariance, and a teacher that takes the data's for another."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        data: NDArray[np.float64],
        noise: NDArray[np.float64],
        time: float,
        learned: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__(schedule, data, time)
        self.noise, self.learned = noise, data if learned is None else learned

    def variance(self, t: int) -> NDArray[np.float64]:
        return self._mixed(self.covariance, t, t)

    def step(self, t: int) -> NDArray[np.float64]:
        inner = self._mixed(self.learned, t - 1, t)
        return np.linalg.solve(self._mixed(self.learned, t, t).T, inner.T).T

    def _mixed(self, data: NDArray[np.float64], s: int, t: int) -> NDArray[np.float64]:
        signal, noise = self.alphas[s] * self.alphas[t], self.sigmas[s] * self.sigmas[t]
        mixed: NDArray[np.float64] = signal * data + noise * self.noise
        return mixed


def random_covariance(
    seed: int, size: int, low: float = 0.2, high: float = 4.0
) -> NDArray[np.float64]:
    """Random eigenvectors; eigenvalues between the two."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    values = np.exp(rng.uniform(np.log(low), np.log(high), size))
    covariance: NDArray[np.float64] = basis * values @ basis.T
    return (covariance + covariance.T) / 2


def _numbers(values: Sequence[Any]) -> Numbers:
    return np.array(values, dtype=object)


def _products(first: Numbers, rest: Numbers) -> tuple[Numbers, Numbers]:
    """Every product of a row of ``first`` with one of ``rest``, and the first factors beside."""
    products = (first[:, None] * rest[None]).reshape(-1, first.shape[-1])
    return products, np.repeat(first, len(rest), axis=0)
