"""A free first step: z_T → z_m in closed form, without a network (THEORY 10).

It is the affine map of z_T of least squares on runs of the teacher, written as an estimate
``x̂ = A z + b`` that lands at m. Conditions are run with and averaged over, as the map reads none.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from accelerate import Accelerator

from opmerge.denoisers.inputs import TrainingInputs
from opmerge.denoisers.linear_part import LinearDenoiser, LinearPart, Regression, leading_directions
from opmerge.denoisers.models import Jump, Teacher, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.forecast.cost import num_regressors
from opmerge.loop import Draws
from opmerge.settings.distillation import OptimizationConfig

_PAIRS_PER_REGRESSOR = 20
_FEWEST_PAIRS = 2000
_STREAM = -3  # of its inputs, beside those of the stages


def num_batches(teacher: Teacher, batch_size: int) -> int:
    """Whole batches of teacher runs that a free step is fitted to: 20 pairs a regressor, or 2,000.

    Each run from T to m costs T - m network evaluations.
    """
    regressors = num_regressors(math.prod(teacher.sample_shape))
    return math.ceil(max(_FEWEST_PAIRS, _PAIRS_PER_REGRESSOR * regressors) / batch_size)


def num_runs(teacher: Teacher, batch_size: int) -> int:
    """Those of these batches."""
    return batch_size * num_batches(teacher, batch_size)


def free_jump(ddim: DDIM, landing: int, part: LinearPart) -> Jump:
    """The jump from T to ``landing`` of a map of z_T."""
    start = ddim.num_steps
    return Jump(LinearDenoiser(None, ddim, {start: part}), start, landing, landing)


def fit_free_step(
    teacher: Teacher,
    inputs: TrainingInputs,
    config: OptimizationConfig,
    accelerator: Accelerator,
    landing: int,
) -> Jump:
    """Fit the step from T to ``landing`` to runs of the teacher from what inputs draw at T."""
    start, ddim, pairs = teacher.num_steps, teacher.ddim, []
    steps = [jump for jump in teacher.steps() if jump.start > landing]
    for number in range(num_batches(teacher, config.global_batch_size(accelerator.num_processes))):
        draws = Draws.of(accelerator, config, _STREAM, number)
        batch = inputs.draw(ddim, [start], draws)
        with accelerator.autocast():
            landed = compose(ddim, [steps], batch.z, condition=batch.condition)
        rows = torch.arange(draws.rows.start, draws.rows.stop, device=landed.device)
        pairs.append((batch.z, ddim.x0_target(batch.z, start, landing, landed), rows))
    reduce = partial(accelerator.reduce, reduction="sum")
    regression = Regression(leading_directions([x0 for _, x0, _ in pairs], reduce), reduce)
    for pair in pairs:
        regression.add(*pair)
    return free_jump(ddim, landing, regression.solve().to(teacher.ddim.alphas.device))
