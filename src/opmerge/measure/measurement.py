"""Measured numbers with the intervals of 95 % that tell how far chance may have moved them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bootstrap", "Measurement", "Pair", "normal_interval"]

Array = NDArray[np.float64]
Distance = Callable[[Array, Array], float]

_NORMAL_QUANTILE = 1.959963984540054  # of 97.5 %


@dataclass(frozen=True)
class Measurement:
    """A number and the interval that covers the truth in 95 of 100 repetitions.

    Args:
        value: the estimate.
        low, high: ends of the interval; None if it was not asked for.
    """

    value: float
    low: float | None
    high: float | None


def normal_interval(mean: float, standard_error: float) -> Measurement:
    """``mean ± 1.96`` standard errors, cut at 0: of a mean of squares."""
    reach = _NORMAL_QUANTILE * standard_error
    return Measurement(mean, max(mean - reach, 0.0), mean + reach)


@dataclass(frozen=True, eq=False)
class Pair:
    """(n, …) rows of the student and of the teacher, from equal noise."""

    student: Array
    teacher: Array

    @property
    def difference(self) -> Array:
        """Student minus teacher."""
        return self.student - self.teacher

    def halves_of_teacher(self) -> tuple[Array, Array]:
        """Two sets of the teacher's rows that are independent of one another."""
        half = len(self.teacher) // 2
        return self.teacher[:half], self.teacher[half : 2 * half]


class Bootstrap:
    """Distances with basic (reverse percentile) bootstrap intervals, cut at 0.

    Resampling raises a distance as estimating it from samples did, so the interval runs from
    ``2 value - q`` of the upper quantile to that of the lower, which takes the bias off.

    Args:
        num_resamples: of each distance, 0 for no intervals.
        num_distances: how many will be measured.
        rng: draws the resamples.
        report: told how many resamples are done, and how many there are.
    """

    def __init__(
        self,
        num_resamples: int,
        num_distances: int,
        rng: np.random.Generator,
        report: Callable[[int, int], None],
    ) -> None:
        self._num_resamples, self._rng, self._report = num_resamples, rng, report
        self._done, self._total = 0, num_resamples * num_distances

    def paired(self, distance: Distance, pair: Pair) -> Measurement:
        """Between student and teacher: pairs are drawn, for equal noise ties their rows."""

        def draw() -> tuple[Array, Array]:
            rows = self._rows(pair.teacher)
            return pair.student[rows], pair.teacher[rows]

        return self._measure(distance, pair.student, pair.teacher, draw)

    def independent(self, distance: Distance, first: Array, second: Array) -> Measurement:
        """Between two sets of samples that know nothing of one another."""

        def draw() -> tuple[Array, Array]:
            return first[self._rows(first)], second[self._rows(second)]

        return self._measure(distance, first, second, draw)

    def _rows(self, samples: Array) -> NDArray[np.int64]:
        return self._rng.integers(len(samples), size=len(samples))

    def _measure(
        self,
        distance: Distance,
        first: Array,
        second: Array,
        draw: Callable[[], tuple[Array, Array]],
    ) -> Measurement:
        value, replicates = distance(first, second), []
        for _ in range(self._num_resamples):
            replicates.append(distance(*draw()))
            self._done += 1
            self._report(self._done, self._total)
        return _basic_interval(value, replicates)


def _basic_interval(value: float, replicates: Sequence[float]) -> Measurement:
    if not replicates:
        return Measurement(value, None, None)
    low, high = 2 * value - np.quantile(replicates, [0.975, 0.025])
    return Measurement(value, max(float(low), 0.0), max(float(high), 0.0))
