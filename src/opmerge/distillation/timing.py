"""What an iteration takes on this machine, by a few of them, or by a few samples where it is slow.

Every process measures, and goes by what the first found, so that none waits for another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

Work = Callable[[int], object]
"""What is timed, on so many samples."""

_MOST_TIMES = 10
_GROWTH = 4  # of the samples, from one to all
_SECONDS = 3.0  # for a piece of work, about


@dataclass(frozen=True)
class Pace:
    """Seconds of the parts of an iteration.

    Args:
        draw: of a batch's inputs.
        operator: of a forward pass of the batch, without a gradient, and of landing.
        step: of learning from targets that are there.
    """

    draw: float
    operator: float
    step: float

    def seconds(self, num_iterations: float, num_targets: float, passes: float) -> float:
        """Of so many iterations and batches of targets, each of so many passes on average."""
        return num_iterations * self.step + num_targets * (self.draw + passes * self.operator)


def seconds_of(accelerator: Accelerator, work: Work, size: int) -> float:
    """Seconds of work on ``size`` samples: the median of three to ten times, in about 3 seconds.

    Slow work is done on fewer samples, at least one, and taken to grow on as it did up to there.
    A time in which the machine stood still, or warmed up, moves no median, nor the lesser of two.
    """
    begin, count, before = time.perf_counter(), 1, (0, 0.0)
    while True:
        times = [_once(accelerator, work, count) for _ in range(2)]
        taken, spent = min(times), _agreed(accelerator, time.perf_counter() - begin)
        if count == size or spent + 2 * _GROWTH * taken > _SECONDS:
            break
        before = count, taken
        count = min(_GROWTH * count, size)
    more = max(1, min(_MOST_TIMES - 2, int((_SECONDS - spent) / taken)))
    taken = median([*times, *(_once(accelerator, work, count) for _ in range(more))])
    slope = (taken - before[1]) / (count - before[0])
    return taken + (size - count) * min(max(slope, 0.0), taken / count)


def _once(accelerator: Accelerator, work: Work, count: int) -> float:
    begin = time.perf_counter()
    work(count)
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize()
    return _agreed(accelerator, time.perf_counter() - begin)


def _agreed(accelerator: Accelerator, seconds: float) -> float:
    if accelerator.num_processes > 1:
        broadcast_object_list(found := [seconds])
        return found[0]
    return seconds
