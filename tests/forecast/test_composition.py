"""Forecasts of whole plans against a simulation of many modes that learn at random rates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge import InputError, cosine_schedule, eigenvalue_spectrum
from opmerge.forecast import PRIORS, FittedLaw, MergeLaw, TeacherTable, forecast, linear_table
from opmerge.forecast.composition import squared_errors
from opmerge.plans import Plan, build_strategy

STEPS = 8
LAMBDAS = np.array([3.0, 0.4])
SCHEDULE = cosine_schedule(STEPS)
MODES = 40_000
LAW = MergeLaw((300.0, 100.0), 0.5, 0.6, 0.3, 1.5, share_exponent=0.2, onset=150.0)
"""So much is learned, and so unevenly, that what is scattered outweighs what is aligned."""
PLANS = ("vanilla", "boot", "progressive", "uniform:4", "temporal:2", "consistency", "hybrid:4")

Array = NDArray[np.float64]


def table() -> TeacherTable:
    return linear_table(eigenvalue_spectrum(LAMBDAS), SCHEDULE)


class Modes:
    """Students of a linear teacher, of which each mode is learned at a rate of its own.

    A student j → i has an error of x̂ in each mode; with r = exp(-k), k ~ Gamma(a, x) anew in each
    merge and mode, a merge leaves ``target + r (init - target)`` (THEORY 4). States have the
    deviation √n_j of noised data; the modes of one eigenvalue differ by chance alone.
    """

    def __init__(self, law: MergeLaw, count: int, seed: int) -> None:
        self.law, self.rng = law, np.random.default_rng(seed)
        self.shape = (len(LAMBDAS), count)
        self.errors: dict[int, tuple[int, Array]] = {}

    def composite(self, stop: int, start: int) -> Array:
        """P(stop, start) of each eigenvalue, step by step."""
        alpha, sigma = SCHEDULE.alphas, SCHEDULE.sigmas
        product = np.ones(len(LAMBDAS))
        for t in range(stop + 1, start + 1):
            variance = alpha[t] ** 2 * LAMBDAS + sigma[t] ** 2
            product *= (alpha[t - 1] * alpha[t] * LAMBDAS + sigma[t - 1] * sigma[t]) / variance
        return product

    def reached(self, start: int, stop: int) -> float:
        alpha, sigma = SCHEDULE.alphas, SCHEDULE.sigmas
        return float(alpha[stop] - alpha[start] * sigma[stop] / sigma[start])

    def estimate(self, start: int, stop: int) -> Array:
        """x̂(start, stop) of a state that deviates by √n."""
        ratio = SCHEDULE.sigmas[stop] / SCHEDULE.sigmas[start]
        n = SCHEDULE.alphas[start] ** 2 * LAMBDAS + SCHEDULE.sigmas[start] ** 2
        slope = (self.composite(stop, start) - ratio) / self.reached(start, stop)
        return np.sqrt(n) * slope

    def train(self, boundaries: tuple[int, ...], iterations: int) -> None:
        start, split, stop = boundaries[0], boundaries[1], boundaries[-1]
        unit = self.reached(start, stop)
        target, behind = self.estimate(start, stop)[:, None] + np.zeros(self.shape), 0
        for at in boundaries[1:-1]:
            if at in self.errors:
                below, error = self.errors.pop(at)
                target += self.moved(at, below, stop, error) / unit
                behind += at - below
        init = self.estimate(start, split)[:, None] + np.zeros(self.shape)
        if start in self.errors:
            below, error = self.errors.pop(start)
            target += self.moved(start, below, stop, error) / unit
            init += error
        rates, law = np.array(self.law.rates), self.law
        angle = math.pi * (start - stop) / (2 * STEPS)
        x = rates * iterations / 400 * angle**-law.length_exponent
        x = x * (law.first if start == STEPS else 1.0)
        x = x * math.exp(law.behind * behind / (split - stop))
        whole = (self.estimate(start, stop) - self.estimate(start, start - 1)) ** 2
        shares = whole / whole.sum()
        x = x * (100 * shares) ** law.share_exponent
        has_begun = (
            self.rng.random(self.shape) >= (shares * math.exp(-iterations / law.onset))[:, None]
        )
        k = has_begun * self.rng.gamma(law.shape, 1.0, self.shape) * x[:, None]
        trained = target + np.exp(-k) * (init - target)
        self.errors[start] = stop, trained - self.estimate(start, stop)[:, None]

    def moved(self, start: int, below: int, stop: int, error: Array) -> Array:
        """What an error of x̂ of the student start → below is at a step further down."""
        return self.composite(stop, below)[:, None] * self.reached(start, below) * error

    def output(self) -> tuple[float, float]:
        """Mean squared error at the output, summed over eigenvalues, and its standard error.

        Errors of different windows have the sign of a coin each: in networks they have no common
        one (``benchmarks/deviations.py``), though a linear teacher's have.
        """
        total = sum(
            self.rng.choice([-1.0, 1.0], self.shape) * self.moved(at, below, 0, error)
            for at, (below, error) in self.errors.items()
        )
        squares = (np.asarray(total) ** 2).sum(axis=0)
        return float(squares.mean()), float(squares.std() / math.sqrt(squares.size))


@pytest.mark.parametrize("name", PLANS)
def test_a_forecast_is_the_mean_of_many_modes(name: str) -> None:
    """Within four standard errors of the modes' mean. Without the E[r²] in E[(1-r)²] consistency is
    6.4 of them off."""
    plan = build_strategy(name, STEPS)
    iterations = [200 + 30 * (number % 4) for number in range(len(plan.merges))]
    modes = Modes(LAW, MODES, seed=0)
    for merge, count in zip(plan.merges, iterations, strict=True):
        modes.train(merge.boundaries, count)
    mean, error = modes.output()
    (foretold,) = squared_errors([LAW], table(), plan, iterations)
    assert foretold == pytest.approx(mean, abs=4 * error)
    assert error < 0.02 * mean  # or nothing would be said


def test_several_students_add_in_squares_at_the_output() -> None:
    """Two windows of four, each merged at once."""
    plan = Plan.from_nested([[8, 7, 6, 5], [4, 3, 2, 1]])
    modes = Modes(LAW, MODES, seed=1)
    for merge in plan.merges:
        modes.train(merge.boundaries, 100)
    mean, error = modes.output()
    (foretold,) = squared_errors([LAW], table(), plan, [100, 100])
    assert foretold == pytest.approx(mean, abs=4 * error)


def fitted(law: MergeLaw = LAW) -> FittedLaw:
    return FittedLaw(law, (law,), 0.0, "")


@pytest.mark.parametrize("name", PLANS)
def test_more_training_of_the_last_merge_is_never_worse(name: str) -> None:
    plan = build_strategy(name, STEPS)
    errors = [
        forecast(fitted(), table(), plan, [60] * (len(plan.merges) - 1) + [count]).rms
        for count in (1, 10, 100, 1000, 100_000)
    ]
    assert errors == sorted(errors, reverse=True)


def test_what_does_not_deviate_leaves_nothing() -> None:
    still = replace(table(), products=np.zeros_like(table().products))
    for name in PLANS:
        plan = build_strategy(name, STEPS)
        assert forecast(fitted(), still, plan, [100] * len(plan.merges)).rms == 0


def test_training_for_ever_leaves_nothing() -> None:
    """E[r²] = (1 + 2x)^-a is below 1e-16 at a = 0.6, x > 1e27: of any plan less than 1e-7."""
    law = fitted(replace(LAW, shape=0.6))
    for name in PLANS:
        plan = build_strategy(name, STEPS)
        assert forecast(law, table(), plan, [1e30] * len(plan.merges)).rms < 1e-7


def test_draws_widen_the_interval() -> None:
    plan, law = build_strategy("boot", STEPS), PRIORS["mlp"]
    counts = [100] * len(plan.merges)
    whole = forecast(law, table(), plan, counts)
    assert whole.low < whole.rms < whole.high
    assert len(whole.draws) == len(law.draws)
    certain = forecast(fitted(law.law), table(), plan, counts)
    assert certain.low == certain.high == certain.rms == pytest.approx(whole.rms)
    # scatter alone: the 5 % and 95 % quantiles of a log-normal, of 256 draws (12 % of its spread)
    scattered = forecast(replace(fitted(law.law), scatter=0.2), table(), plan, counts)
    assert math.log(scattered.high / scattered.low) == pytest.approx(2 * 1.645 * 0.2, rel=0.25)


def test_what_does_not_fit_is_refused() -> None:
    plan = build_strategy("boot", 4)
    with pytest.raises(InputError, match="`plan` must have 8 steps, got 4"):
        forecast(fitted(), table(), plan, [1] * 3)
    with pytest.raises(InputError, match="`iterations` must be 7, one a merge, got 3"):
        forecast(fitted(), table(), build_strategy("boot", STEPS), [1] * 3)
