"""The law of merges fitted to probes: Gaussian prior, least squares of logarithms, Gauss-Newton.

A probe is foretold, by group of directions, as

    after_g = e^2o before_g (w_g + (1 - w_g) (1 + 2 x_g)^-a),

x and w as in ``MergeLaw``.

The offset o is common to all probes and no part of the law: they are measured on data held out, and
plans on what their students sample. Residuals are log(foretold / measured) of the unsquared total,
and, with less weight, of each group by its share of what is left. In units of their standard
deviation, which is estimated with them, they join the prior's own: without probes the fit is the
prior, and each of them narrows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.errors import InputError
from opmerge.forecast.law import (
    FittedLaw,
    LawPrior,
    MergeLaw,
    draw_laws,
    progress,
    waiting,
)

_GROUP_WEIGHT = 0.5  # of a group's residual, beside the root of its share of what is left
_OFFSET = 0.25  # standard deviation of what probes have in common and plans have not
_PRIOR_PROBES = 16.0  # as if so many had shown the prior's noise and scatter
_ROUNDS = 3
_FARTHEST = 100.0  # of a logarithm
_LEAST = 1e-12  # of a total: what a group has at least, in a logarithm


@dataclass(frozen=True)
class MergeProbe:
    """A merge that was trained, and what training left of its deviation.

    Args:
        merge: its start and stop, and how many students it was made of (0: of teacher steps):
            probes of one merge are held out together.
        angle: of the jump, in radians.
        is_first: whether it starts at step T.
        share: of the steps behind its first child, that of students there.
        iterations: N, at the learning rate that the law is for; at another, N times the ratio.
        before: (G,) mean squares of x̂ less its target as it starts.
        after: (G,) those when it is trained.
        shares: (G,) of its jump, as ``TeacherTable.shares`` has them.
    """

    merge: tuple[int, int, int]
    angle: float
    is_first: bool
    share: float
    iterations: float
    before: Array
    after: Array
    shares: Array


@dataclass(frozen=True)
class LawFit:
    """A law and how well it does.

    Args:
        foretold: of each probe, (unsquared) foretold / measured by the law.
        held_out: the same by a law that was fitted without the probes of its merge.
        held_out_error: root mean square of the logarithms of these, weighted by the (unsquared)
            deviations that are left, as these add up to a plan's; 0 without probes.
    """

    law: FittedLaw
    foretold: tuple[float, ...]
    held_out: tuple[float, ...]
    held_out_error: float


def fit_law(probes: Sequence[MergeProbe], sizes: Array, prior: LawPrior, source: str) -> LawFit:
    """Fit a law to probes of one network and setting.

    The scatter is that of probes held out, merge by merge, beyond what their draws say, joined
    with the prior's.

    Args:
        sizes: (G,) directions in each group.
        source: what the probes are of, in words.

    Raises:
        InputError: if a probe has other groups, or no deviation to learn from.
    """
    for probe in probes:
        if not len(probe.before) == len(probe.after) == len(sizes):
            raise InputError("probes", f"must have {len(sizes)} groups", len(probe.before))
        if not (probe.before.sum() > 0 and probe.after.sum() > 0):
            raise InputError("probes", "must start and end off their target", probe.merge)
    if not probes:
        return LawFit(prior.fitted(sizes), (), (), 0.0)
    data = _Data.of(probes, sizes)
    whole = _posterior(data, prior)
    held_out, variances = _held_out(data, prior)
    weights = np.sqrt(data.after.sum(1))
    weights /= weights.sum()
    spare = max(float(weights @ (held_out**2 - variances)), 0.0)
    squares = _PRIOR_PROBES * prior.scatter**2 + len(probes) * spare
    scatter = float(np.sqrt(squares / (_PRIOR_PROBES + len(probes))))
    point, root = whole.point[:-1], whole.root[:-1]  # all but the offset
    return LawFit(
        FittedLaw(MergeLaw.from_vector(point), draw_laws(point, root), scatter, source),
        tuple(np.exp(data.errors(whole.point)).tolist()),
        tuple(np.exp(held_out).tolist()),
        float(np.sqrt(weights @ held_out**2)),
    )


@dataclass(frozen=True)
class _Data:
    """Probes as arrays: (P,) columns, (P, G) deviations."""

    merges: tuple[tuple[int, int, int], ...]
    angle: Array
    is_first: Array
    share: Array
    iterations: Array
    before: Array
    after: Array
    shares: Array
    sizes: Array

    @classmethod
    def of(cls, probes: Sequence[MergeProbe], sizes: Array) -> _Data:
        names = ("angle", "is_first", "share", "iterations", "before", "after", "shares")
        columns = {name: np.array([getattr(p, name) for p in probes], float) for name in names}
        return cls(tuple(p.merge for p in probes), **columns, sizes=np.asarray(sizes, float))

    def __getitem__(self, chosen: NDArray[np.bool_]) -> _Data:
        merges = tuple(m for m, keep in zip(self.merges, chosen, strict=True) if keep)
        columns = {
            each.name: getattr(self, each.name)[chosen]
            for each in fields(self)
            if each.name not in ("merges", "sizes")
        }
        return _Data(merges, **columns, sizes=self.sizes)

    def foretold(self, point: Array) -> Array:
        """(P, G) what is left by a law's vector with the offset behind it."""
        return self._parts(point)[0]

    def errors(self, point: Array) -> Array:
        """(P,) log(foretold / measured) of unsquared totals."""
        return 0.5 * np.log(self.foretold(point).sum(1) / self.after.sum(1))

    def residuals(self, point: Array) -> Array:
        """Those of the totals, then of the groups with their weights, in one row."""
        foretold, total = self.foretold(point), self.after.sum(1, keepdims=True)
        ratios = np.maximum(foretold, _LEAST * total) / np.maximum(self.after, _LEAST * total)
        return np.concatenate([self.errors(point), (self._weights * np.log(ratios)).ravel()])

    def jacobian(self, point: Array) -> Array:
        """(P + P G, G + 7) derivatives of the residuals."""
        foretold, slopes = self._parts(point)
        of_totals = 0.5 * slopes.sum(1) / foretold.sum(1)[:, None]
        of_groups = self._weights[..., None] * slopes / np.maximum(foretold, 1e-300)[..., None]
        return np.concatenate([of_totals, of_groups.reshape(-1, len(point))])

    @property
    def _weights(self) -> Array:
        """(P, G) of logarithms of squares."""
        shares = self.after / self.after.sum(1, keepdims=True)
        return 0.5 * _GROUP_WEIGHT * np.sqrt(shares)

    def _parts(self, point: Array) -> tuple[Array, Array]:
        """(P, G) what is left, and its (P, G, G + 7) derivatives by the vector."""
        count = len(self.sizes)
        logs = np.clip(point, -_FARTHEST, _FARTHEST)
        rates, last = np.exp(logs[:count]), np.exp(logs[count + 3 :])
        shape, exponent, onset, offset = last
        factor = np.exp(logs[count] * self.is_first + logs[count + 1] * self.share)
        factor = factor[:, None] * self.shares ** logs[count + 2]
        angle, iterations = self.angle[:, None], self.iterations[:, None]
        x = progress(rates, factor, exponent, angle, iterations)
        waits, passed = waiting(self.shares, onset, iterations), self.before * (1 + 2 * x) ** -shape
        left = self.before * waits + (1 - waits) * passed
        by_log_x = -2 * shape * x / (1 + 2 * x) * (1 - waits) * passed
        slopes = np.zeros((*left.shape, len(point)))
        slopes[:, np.arange(count), np.arange(count)] = by_log_x
        slopes[..., count] = by_log_x * self.is_first[:, None]
        slopes[..., count + 1] = by_log_x * self.share[:, None]
        slopes[..., count + 2] = np.log(self.shares) * by_log_x
        slopes[..., count + 3] = -shape * np.log1p(2 * x) * (1 - waits) * passed
        slopes[..., count + 4] = -exponent * np.log(angle) * by_log_x
        slopes[..., count + 5] = iterations / onset * waits * (self.before - passed)
        slopes[..., count + 6] = 2 * left
        return offset**2 * left, offset**2 * slopes


@dataclass(frozen=True)
class _Posterior:
    """The most likely vector of a law with the offset, and a root of the covariance around it."""

    point: Array
    root: Array


def _posterior(data: _Data, prior: LawPrior) -> _Posterior:
    """Most likely parameters, the residuals' standard deviation estimated in a few rounds."""
    from scipy.linalg import block_diag, solve_triangular
    from scipy.optimize import least_squares

    mean, covariance = prior.moments(data.sizes)
    mean, covariance = np.append(mean, 0.0), block_diag(covariance, _OFFSET**2)
    root = np.linalg.cholesky(covariance)
    own, point, noise = solve_triangular(root, np.eye(len(mean)), lower=True), mean, prior.noise

    def whitened(at: Array) -> Array:
        return np.concatenate([data.residuals(at) / noise, own @ (at - mean)])

    def slopes(at: Array) -> Array:
        return np.concatenate([data.jacobian(at) / noise, own])

    for _ in range(_ROUNDS):
        point = least_squares(whitened, point, slopes, x_scale=np.sqrt(np.diag(covariance))).x
        squares = (data.errors(point) ** 2).sum() + _PRIOR_PROBES * prior.noise**2
        noise = float(np.sqrt(squares / (len(data.merges) + _PRIOR_PROBES)))
    return _Posterior(point, np.linalg.inv(np.linalg.qr(slopes(point), mode="r")))


def _held_out(data: _Data, prior: LawPrior) -> tuple[Array, Array]:
    """(P,) errors of laws fitted without a probe's merge, and (P,) variances by their draws."""
    errors, variances = np.zeros((2, len(data.merges)))
    for merge in sorted(set(data.merges)):
        held = np.array([each == merge for each in data.merges])
        posterior, out = _posterior(data[~held], prior), data[held]
        errors[held] = out.errors(posterior.point)
        steps = [posterior.point + column for column in posterior.root.T]
        moved = np.array([out.errors(step) for step in steps]) - errors[held]
        variances[held] = (moved**2).sum(axis=0)
    return errors, variances
