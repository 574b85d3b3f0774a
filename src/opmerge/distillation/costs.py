"""What a distillation will cost, said before it is run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from opmerge.denoisers.inputs import MEMORY_LIMIT, DataInputs
from opmerge.distillation.executor import Distillation
from opmerge.distillation.timing import Pace

_BYTES = 4  # of a float32
_MOMENTS = {"adamw": 2, "adam": 2, "sgd": 0}


@dataclass(frozen=True)
class Cost:
    """The cost of a distillation, all stages together.

    Args:
        network_evaluations: of one sample, Σ batch · (targets · children + 3 N): N iterations and
            the targets made for them (``Stage.target_work``); and the runs that a free step is
            fitted to.
        num_parameters: of one network.
        num_trained: of its weights, or of its adapters, whichever are trained.
        peak_networks: held at once: teacher, students in place, the one in training.
        memory_bytes: of weights, what optimizer and moving average keep, and targets kept, on the
            device, at the peak.
        working_bytes: of activations and gradients, which come on top; None where they cannot be
            told (see ``memory``).
        disk_bytes: of checkpoints, one more than are kept while one is written, and the student.
        data_memory_bytes, data_disk_bytes: of samples in the main memory, up to ``MEMORY_LIMIT``,
            and of more than that, in ``data.npy``.
    """

    num_stages: int
    num_iterations: int
    network_evaluations: float
    num_parameters: int
    num_trained: int
    peak_networks: int
    memory_bytes: int
    working_bytes: int | None
    disk_bytes: int
    data_memory_bytes: int
    data_disk_bytes: int
    seconds: float


def estimate_cost(
    distillation: Distillation, report: Callable[[str], None] = lambda doing: None
) -> Cost:
    """Count networks, evaluations, memory and disk, and time an iteration.

    It is timed on the first stage; others are taken to differ in what their targets take alone.
    ``report`` is told what is done.
    """
    stages, config = distillation.stages, distillation.config
    settings, limits = config.optimization, distillation.limits
    pace = distillation.pace(report) if stages else Pace(0.0, 0.0, 0.0)
    if distillation.seconds is not None:
        distillation.iterations = [
            stage.iterations_in(seconds, config, pace, limits)
            for stage, seconds in zip(stages, distillation.seconds, strict=True)
        ]
    efforts = [*zip(stages, distillation.iterations, strict=True)]
    batch = settings.global_batch_size(distillation.accelerator.num_processes)
    free = distillation.free_evaluations()
    seconds = sum(stage.seconds(n, config, pace, limits) for stage, n in efforts)
    kept = (distillation.targets.kept(n, stage.reuse(config)) for stage, n in efforts)
    targets = max((size for _, size in kept), default=0)
    size = sum(weight.numel() for weight in distillation.teacher.network.parameters())
    if config.lora_rank:
        own = distillation.new_student().parameters()
        trained = sum(weight.numel() for weight in own if weight.requires_grad)
    else:
        trained = size
    in_place = max((stage.networks_after for stage in stages[:-1]), default=0)
    moments = _MOMENTS[settings.optimizer] * (0.25 if settings.use_8bit_adam else 1)
    kept_of_training = moments + bool(settings.ema_decay)
    report("adding up what is held in memory")
    working = None
    with suppress(RuntimeError):  # of a network that torch cannot walk through
        working = distillation.working_bytes() if stages else None
    checkpoints = settings.checkpoints_total_limit + 1 if settings.checkpointing_steps else 0
    data = distillation.inputs.data.nbytes if isinstance(distillation.inputs, DataInputs) else 0
    on_disk = data if data > MEMORY_LIMIT else 0
    return Cost(
        num_stages=len(stages),
        num_iterations=sum(distillation.iterations),
        network_evaluations=network_evaluations(distillation),
        num_parameters=size,
        peak_networks=2 + in_place,
        num_trained=trained,
        memory_bytes=round(_BYTES * (size + trained * (in_place + 1 + kept_of_training))) + targets,
        working_bytes=working,
        disk_bytes=round(
            _BYTES
            * trained
            * (checkpoints * (in_place + 1 + kept_of_training) + distillation.plan.student_steps)
        ),
        data_memory_bytes=data - on_disk,
        data_disk_bytes=on_disk,
        seconds=seconds + free / batch * pace.operator,
    )


def network_evaluations(distillation: Distillation) -> float:
    """Those of one sample that a distillation takes: see ``Cost``."""
    config, limits = distillation.config, distillation.limits
    batch = config.optimization.global_batch_size(distillation.accelerator.num_processes)
    efforts = zip(distillation.stages, distillation.iterations, strict=True)
    work = sum(stage.network_evaluations(n, config, limits) for stage, n in efforts)
    return distillation.free_evaluations() + batch * work
