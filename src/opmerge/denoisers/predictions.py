"""Prediction forms: what a network's output says of x_0 and of the noise, one line each.

With ``z = alpha x_0 + sigma ε`` any form is a linear map between (output, z) and (x̂, ε̂).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """What a denoiser says of its input: (B, …) x̂ of the clean sample and (B, …) ε̂."""

    x0: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Prediction:
    """A form in both directions; alpha (``a``) and sigma (``s``) broadcast over the samples.

    Args:
        estimate: (output, z, alpha, sigma) to the estimates that they imply.
        target: (x_0, ε, alpha, sigma) to the output that is right.
        error: (alpha, sigma) to the output's error when x̂ errs by 1.
    """

    estimate: Callable[[Tensor, Tensor, Tensor, Tensor], Estimate]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]


PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": Prediction(
        lambda out, z, a, s: Estimate((z - s * out) / a, out),
        lambda x0, eps, a, s: eps,
        lambda a, s: a / s,
    ),
    "sample": Prediction(
        lambda out, z, a, s: Estimate(out, (z - a * out) / s),
        lambda x0, eps, a, s: x0,
        lambda a, s: a.new_ones(a.shape),
    ),
    "v_prediction": Prediction(
        lambda out, z, a, s: Estimate(a * z - s * out, a * out + s * z),
        lambda x0, eps, a, s: a * eps - s * x0,
        lambda a, s: (a**2 + s**2) / s,
    ),
    "flow_prediction": Prediction(
        lambda out, z, a, s: Estimate((z - s * out) / (a + s), (z + a * out) / (a + s)),
        lambda x0, eps, a, s: eps - x0,
        lambda a, s: (a + s) / s,
    ),
}
"""Every form by the name that a scheduler's ``prediction_type`` has; a new one is one entry."""
