"""The curriculum: how much of a merge a student is asked for while it trains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from opmerge.distillation.config import Curriculum
from opmerge.plans import Merge

__all__ = ["merges_at"]

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
    return [Merge(merge.boundaries[: 1 + _length(merge, share, curriculum)]) for merge in merges]


def _length(merge: Merge, share: float, curriculum: Curriculum) -> int:
    most = merge.num_children
    if curriculum == "linear":
        return _FEWEST + math.floor(share * (most - 1))
    doublings = 1 + math.floor(share * math.ceil(math.log2(most)))
    return min(most, int(2**doublings))
