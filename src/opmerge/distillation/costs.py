"""What a distillation will cost, said before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.samples import MEMORY_LIMIT
from opmerge.distillation.curriculum import MANY_ITERATIONS, mean_children, merges_at
from opmerge.distillation.executor import Distillation
from opmerge.distillation.stages import STUDENT_PASSES

__all__ = ["Cost", "estimate_cost"]

_BYTES = 4  # of a float32
_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0}


@dataclass(frozen=True)
class Cost:
    """The cost of a distillation.

    Args:
        num_stages: networks that are trained.
        num_iterations: optimizer steps, all stages together.
        network_evaluations: of one sample, Σ iterations · batch · (children + 3), of
            the children that the curriculum asks for.
        num_parameters: of one network.
        peak_networks: networks held at once: teacher, students in place, the one in training.
        memory_bytes: of weights, gradients, optimizer and moving average at the peak, on the
            device; activations come on top, as in any training with this batch size.
        disk_bytes: of checkpoints, one more than are kept while one is written, and the student.
        data_memory_bytes: of samples in the main memory, up to ``MEMORY_LIMIT``.
        data_disk_bytes: of more samples than that, in ``data.npy``.
        seconds: expected duration, from a timing of the shortest and the longest stage.
    """

    num_stages: int
    num_iterations: int
    network_evaluations: float
    num_parameters: int
    peak_networks: int
    memory_bytes: int
    disk_bytes: int
    data_memory_bytes: int
    data_disk_bytes: int
    seconds: float


def estimate_cost(distillation: Distillation) -> Cost:
    """Count networks, evaluations, memory and disk, and time a few iterations.

    The distillation is walked through with untrained students, and cannot be run afterwards.
    Iterations per second are taken to fall evenly with the number of operators composed.
    """
    stages, settings = distillation.stages, distillation.config.optimization
    seconds = _seconds(distillation)
    batch = settings.global_batch_size(distillation.accelerator.num_processes)
    size = sum(p.numel() for p in distillation.teacher.network.parameters())
    in_place = max((stage.networks_after for stage in stages[:-1]), default=0)
    trained = 1 + _MOMENTS[settings.optimizer] + bool(settings.ema_decay)
    kept = settings.checkpoints_total_limit + 1 if settings.checkpointing_steps else 0
    data = distillation.inputs.data.nbytes if isinstance(distillation.inputs, DataInputs) else 0
    on_disk = data if data > MEMORY_LIMIT else 0
    iterations = distillation.iterations
    children = _children(distillation, iterations)
    return Cost(
        num_stages=len(stages),
        num_iterations=sum(iterations),
        network_evaluations=batch
        * sum(n * (m + STUDENT_PASSES) for n, m in zip(iterations, children, strict=True)),
        num_parameters=size,
        peak_networks=2 + in_place,
        memory_bytes=_BYTES * size * (1 + in_place + trained + 1),
        disk_bytes=_BYTES * size * (kept * (in_place + trained) + distillation.plan.student_steps),
        data_memory_bytes=data - on_disk,
        data_disk_bytes=on_disk,
        seconds=seconds,
    )


def _children(distillation: Distillation, iterations: Sequence[int]) -> list[float]:
    """Operators composed in an iteration of each stage, on average over so many."""
    curriculum = distillation.config.curriculum
    return [
        mean_children(stage.merges, count, curriculum)
        for stage, count in zip(distillation.stages, iterations, strict=True)
    ]


def _seconds(distillation: Distillation) -> float:
    """Expected duration; iterations follow from the timing where seconds a merge were asked."""
    timed = _timed(distillation)
    if not timed:
        return 0.0
    short, long = min(timed), max(timed)
    slope = (timed[long] - timed[short]) / (long - short) if long > short else 0.0

    def iteration(children: float) -> float:
        return max(timed[short] + slope * (children - short), 0.0)

    budget = distillation.config.merge_seconds
    if budget is not None:
        many = _children(distillation, [MANY_ITERATIONS] * len(distillation.stages))
        distillation.iterations = [max(1, round(budget / iteration(mean))) for mean in many]
    each = map(iteration, _children(distillation, distillation.iterations))
    return sum(n * seconds for n, seconds in zip(distillation.iterations, each, strict=True))


def _timed(distillation: Distillation) -> dict[float, float]:
    """Seconds of an iteration by operators composed: of the shortest and the longest stage.

    Where a curriculum begins with fewer, of that beginning as well.
    """
    lengths = [stage.num_children for stage in distillation.stages]
    probed = {lengths.index(pick(lengths)) for pick in (min, max)} if lengths else set()
    curriculum = distillation.config.curriculum
    timed: dict[float, float] = {}
    for number, stage in enumerate(distillation.stages):
        if number in probed:
            for progress in (1.0,) if curriculum == "none" else (0.0, 1.0):
                merges = merges_at(stage.merges, progress, curriculum)
                children = sum(merge.num_children for merge in merges) / len(merges)
                timed[children] = distillation.time_iteration(progress)
        distillation.skip_stage()
    return timed
