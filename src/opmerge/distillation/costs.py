"""What a distillation will cost, said before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from opmerge.denoisers.inputs import MEMORY_LIMIT, DataInputs
from opmerge.distillation.executor import Distillation
from opmerge.distillation.stages import MANY_ITERATIONS, mean_passes

_BYTES = 4  # of a float32
_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0}


@dataclass(frozen=True)
class Cost:
    """The cost of a distillation, all stages together.

    Args:
        network_evaluations: of one sample, Σ batch · (⌈N/R⌉ · passes + 3 N): N iterations that
            use targets R times, of the children that the curriculum asks for, guided steps of the
            teacher counted twice; one pass more where the linear part is solved; and the runs that
            a free step is fitted to.
        num_parameters: of one network.
        peak_networks: held at once: teacher, students in place, the one in training.
        memory_bytes: of weights, gradients, optimizer and moving average at the peak, and of
            targets kept, on the device; activations come on top, as in any training with this
            batch size.
        disk_bytes: of checkpoints, one more than are kept while one is written, and the student.
        data_memory_bytes, data_disk_bytes: of samples in the main memory, up to ``MEMORY_LIMIT``,
            and of more than that, in ``data.npy``.
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
    Seconds of an iteration are taken to grow evenly with the passes of its targets.
    """
    stages, config = distillation.stages, distillation.config
    settings, timed = config.optimization, _timed(distillation)
    guided = distillation.teacher.guided_steps
    if distillation.seconds is not None:
        means = _passes(distillation, [MANY_ITERATIONS] * len(stages))
        each = (np.interp(mean, *timed) for mean in means)
        asked = zip(distillation.seconds, each, strict=True)
        distillation.iterations = [max(1, round(total / seconds)) for total, seconds in asked]
    iterations = distillation.iterations
    passes = _passes(distillation, iterations)
    seconds = (n * np.interp(m, *timed) for n, m in zip(iterations, passes, strict=True))
    efforts = [*zip(stages, iterations, strict=True)]
    kept = (distillation.targets.kept(n, stage.reuse(config)) for stage, n in efforts)
    targets = max((size for _, size in kept), default=0)
    size = sum(p.numel() for p in distillation.teacher.network.parameters())
    in_place = max((stage.networks_after for stage in stages[:-1]), default=0)
    trained = 1 + _MOMENTS[settings.optimizer] + bool(settings.ema_decay)
    checkpoints = settings.checkpoints_total_limit + 1 if settings.checkpointing_steps else 0
    data = distillation.inputs.data.nbytes if isinstance(distillation.inputs, DataInputs) else 0
    on_disk = data if data > MEMORY_LIMIT else 0
    return Cost(
        num_stages=len(stages),
        num_iterations=sum(iterations),
        network_evaluations=distillation.free_evaluations()
        + settings.global_batch_size(distillation.accelerator.num_processes)
        * sum(stage.network_evaluations(n, config, guided) for stage, n in efforts),
        num_parameters=size,
        peak_networks=2 + in_place,
        memory_bytes=_BYTES * size * (1 + in_place + trained + 1) + targets,
        disk_bytes=_BYTES
        * size
        * (checkpoints * (in_place + trained) + distillation.plan.student_steps),
        data_memory_bytes=data - on_disk,
        data_disk_bytes=on_disk,
        seconds=float(sum(seconds)),
    )


def _passes(distillation: Distillation, iterations: Sequence[int]) -> list[float]:
    """Forward passes of a sample's target in each stage, on average over so many iterations."""
    given = distillation.config.curriculum, distillation.teacher.guided_steps
    return [
        mean_passes(stage.merges, count, *given)
        for stage, count in zip(distillation.stages, iterations, strict=True)
    ]


def _timed(distillation: Distillation) -> tuple[list[float], list[float]]:
    """The fewest and the most passes that a target takes, and the seconds of an iteration each."""
    guided = distillation.teacher.guided_steps
    passes = [mean_passes(stage.merges, 1, "none", guided) for stage in distillation.stages]
    probed = {passes.index(pick(passes)) for pick in (min, max)} if passes else set()
    timed: dict[float, float] = {}
    for number in range(len(passes)):
        if number in probed:
            timed |= distillation.timed()
        distillation.skip_stage()
    ends = sorted({min(timed), max(timed)}) if timed else []
    return ends, [timed[each] for each in ends]
