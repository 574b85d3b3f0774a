"""A pilot: what forecasts cannot tell is settled by short runs, half of which go on.

Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): the candidates share a round's
part of the budget evenly, and the better half of them shares the next round's, until one is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

Candidate = TypeVar("Candidate")


def successive_halving(
    candidates: Sequence[Candidate],
    budget: float,
    score: Callable[[Candidate, float], float],
) -> Candidate:
    """The candidate that is left; of equals the first.

    Args:
        budget: of all runs together.
        score: what a candidate leaves when a run may cost so much; the least is the best.
    """
    left = list(candidates)
    rounds = math.ceil(math.log2(len(left)))
    while len(left) > 1:
        each = budget / rounds / len(left)
        ranked = sorted(left, key=lambda candidate: score(candidate, each))
        left = ranked[: math.ceil(len(left) / 2)]
    return left[0]
