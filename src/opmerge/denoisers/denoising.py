"""The denoising task: noised samples, and what a network should predict of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from opmerge.denoisers.ddim import DDIM

__all__ = ["NoisedSamples", "denoising_loss", "noise_samples"]


@dataclass(frozen=True, eq=False)
class NoisedSamples:
    """What a network reads, what it is told, and what it should predict.

    Args:
        z: (B, …) ``alpha_t x_0 + sigma_t ε``.
        timesteps: (B,) training timestep of each.
        target: (B, …) ε, x_0 or ``v = alpha ε - sigma x_0``.
        labels: (B,) class labels, or None.
    """

    z: Tensor
    timesteps: Tensor
    target: Tensor
    labels: Tensor | None = None

    def split(self, count: int) -> list[NoisedSamples]:
        """Equal parts, in order."""
        columns = [
            [None] * count if values is None else values.chunk(count)
            for values in (self.z, self.timesteps, self.target, self.labels)
        ]
        return [NoisedSamples(*row) for row in zip(*columns, strict=True)]


def noise_samples(
    ddim: DDIM, x0: Tensor, noise: Tensor, steps: Tensor, labels: Tensor | None = None
) -> NoisedSamples:
    """Samples (B, …) noised to one step each, (B,) in 1 … T."""
    return NoisedSamples(
        ddim.add_noise(x0, noise, steps),
        ddim.timesteps[steps],
        _target(ddim, x0, noise, steps),
        labels,
    )


def denoising_loss(network: nn.Module, samples: NoisedSamples) -> Tensor:
    """() mean of ``(prediction - target)²``."""
    given: dict[str, Any] = {} if samples.labels is None else {"class_labels": samples.labels}
    prediction = network(samples.z, samples.timesteps, **given).sample
    return nn.functional.mse_loss(prediction.float(), samples.target)


def _target(ddim: DDIM, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
    if ddim.prediction_type == "epsilon":
        return noise
    if ddim.prediction_type == "sample":
        return x0
    alphas, sigmas = (
        table[steps].reshape(-1, *[1] * (x0.ndim - 1)) for table in (ddim.alphas, ddim.sigmas)
    )
    return alphas * noise - sigmas * x0
