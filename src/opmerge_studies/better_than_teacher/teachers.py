"""Teachers under capacity: what they take the covariance of the data to be (question 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opmerge.errors import InputError

__all__ = ["limited_covariance"]

Array = NDArray[np.float64]


def limited_covariance(data: Array, limit: str, size: float, seed: int = 0) -> Array:
    """(d, d) Λ̂ of a teacher that has learned Λ under a limit.

    Args:
        data: (d, d) Λ.
        limit: ``exact``; ``biased``: Λ times ``size``; ``samples``: the second moments of
            ``size`` independent samples of N(0, Λ); ``rank, rest 0``: all eigenvalues but the
            ``size`` largest at 0, or, for ``rank, rest mean``, at their mean, which is
            probabilistic PCA (Tipping & Bishop 1999).
        size: how far the limit goes.
        seed: of the samples.

    Raises:
        InputError: for a rank below 1 or above d.
    """
    if limit in ("exact", "biased"):
        return data * size
    values, vectors = np.linalg.eigh(data)
    if limit == "samples":
        unit = np.random.default_rng(seed).standard_normal((int(size), len(values)))
        samples = unit * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        return np.asarray(samples.T @ samples / len(samples))
    if not 0 < size <= len(values):
        raise InputError("rank", f"must be from 1 to {len(values)}", size)
    rest = values[: len(values) - int(size)]
    rest[:] = rest.mean() if limit == "rank, rest mean" and rest.size else 0.0
    limited: Array = (vectors * values) @ vectors.T
    return limited
