"""Loss weightings by name: the factor of ‖x̂ - target‖² at each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from opmerge.denoisers.models import Jump
from opmerge.denoisers.predictions import PREDICTIONS
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.settings.distillation import LossWeighting


def loss_weights(ddim: DDIM, students: Sequence[Jump], weighting: LossWeighting) -> Tensor:
    """(number of students,) weights w of the loss ``w ‖x̂ - target‖²`` at each student's step.

    With the error of x̂ as the unit, that of ε̂ is alpha/sigma, that of the output
    ``Prediction.error`` and that of the state reached ``DDIM.jump_weight``; the weight is the
    square of one of these:

    - ``uniform``: of the network's own output;
    - ``x-space``: 1;
    - ``epsilon-space``: alpha²/sigma², the signal-to-noise ratio;
    - ``snr-truncated``: the larger of the last two (Salimans & Ho 2022, Eq. 9);
    - ``jump-space``: of the state that the student produces.

    Raises:
        InputError: where a weight is zero, so that nothing is learned.
    """
    steps = torch.tensor([jump.start for jump in students], device=ddim.alphas.device)
    readouts = torch.tensor([jump.readout for jump in students], device=ddim.alphas.device)
    alphas, sigmas = ddim.at(steps, 1)
    signal_to_noise = (alphas / sigmas) ** 2
    weights = {
        "uniform": PREDICTIONS[ddim.prediction_type].error(alphas, sigmas) ** 2,
        "x-space": torch.ones_like(alphas),
        "epsilon-space": signal_to_noise,
        "snr-truncated": signal_to_noise.clamp(min=1.0),
        "jump-space": ddim.jump_weight(steps, readouts) ** 2,
    }[weighting]
    for step in steps[weights <= 0][:1].tolist():
        raise InputError(
            "loss_weighting",
            "must not be epsilon-space where a student reads pure noise (alpha = 0 at step "
            f"{step}): the weight is zero there",
            weighting,
            "take snr-truncated",
        )
    return weights
