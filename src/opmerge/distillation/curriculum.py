"""The curriculum: how much of a merge a student is asked for while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from opmerge.plans import Merge
from opmerge.settings.distillation import Curriculum

__all__ = ["MANY_ITERATIONS", "mean_children", "merges_at"]

Array = NDArray[np.float64]

MANY_ITERATIONS = 1000
"""Enough for ``mean_children`` to be that of a stage whose number is not known yet."""

_SHARE_OF_TRAINING = 0.5
_FEWEST = 2


def merges_at(merges: Sequence[Merge], progress: float, curriculum: Curriculum) -> Sequence[Merge]:
    """The merges cut short to what is learned at this point of training.

    Over the first half of training the number of operators composed grows from 2 to all m of the
    merge: evenly (``linear``) or by doubling, as in Song & Dhariwal 2024 (iCT, Eq. 11) the number
    of discretisation steps. A student that starts from its first operator so meets the jumps in
    the order in which sequential BOOT trains them.

    Args:
        merges: the merges of a stage.
        progress: share of the stage's iterations done, in [0, 1).
        curriculum: none, linear or doubling.
    """
    share = progress / _SHARE_OF_TRAINING
    if curriculum == "none" or share >= 1:
        return merges
    lengths = [int(_lengths(merge, np.array(share), curriculum)) for merge in merges]
    return [
        Merge(merge.boundaries[: 1 + length]) for merge, length in zip(merges, lengths, strict=True)
    ]


def mean_children(merges: Sequence[Merge], num_iterations: int, curriculum: Curriculum) -> float:
    """Operators composed for a sample's target, on average over merges and iterations.

    Args:
        merges: the merges of a stage.
        num_iterations: of the stage.
        curriculum: none, linear or doubling.
    """
    share = np.arange(num_iterations) / num_iterations / _SHARE_OF_TRAINING
    return float(np.mean([_lengths(merge, share, curriculum).mean() for merge in merges]))


def _lengths(merge: Merge, share: Array, curriculum: Curriculum) -> Array:
    """Operators composed at these shares of the growth, which is over from 1 on."""
    most = merge.num_children
    if curriculum == "none":
        return np.full(share.shape, float(most))
    if curriculum == "linear":
        grown = _FEWEST + np.floor(share * (most - 1))
    else:
        grown = 2.0 ** (1 + np.floor(share * math.ceil(math.log2(most))))
    lengths: Array = np.minimum(grown, most)
    return lengths
