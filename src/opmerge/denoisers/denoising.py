"""The denoising task that teachers learn, on samples to train on and on some they never see.

A network that is trained for long on few samples learns them by heart: its loss on them goes on
falling while that on others rises. What a teacher should know is the law of the data, so the
weights of the least held-out loss are kept, not the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.predictions import PREDICTIONS
from opmerge.denoisers.sampler import DDIM
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws, Trainer, seeded_generator

__all__ = ["Best", "HeldOut", "NoisedSamples", "denoising_loss", "noise_samples", "split_rows"]

_NUM_DRAWS = 4096
_BATCH = 256
_SPLIT, _NOISE = -1, -2  # streams of their own beside those of the iterations


@dataclass(frozen=True, eq=False)
class NoisedSamples(Columns):
    """What a network reads, what it is told, and what it should predict.

    Args:
        z: (B, …) ``alpha_t x_0 + sigma_t ε``.
        timesteps: (B,) training timestep of each.
        target: (B, …) the right output, such as ε, x_0 or ``v = alpha ε - sigma x_0``.
        condition: what else the network is told of each, or None.
    """

    z: Tensor
    timesteps: Tensor
    target: Tensor
    condition: Condition | None = None


def noise_samples(
    ddim: DDIM, x0: Tensor, noise: Tensor, steps: Tensor, condition: Condition | None = None
) -> NoisedSamples:
    """Samples (B, …) noised to one step each, (B,) in 1 … T."""
    target = PREDICTIONS[ddim.prediction_type].target(x0, noise, *ddim.at(steps, x0.ndim))
    z = ddim.add_noise(x0, noise, steps)
    return NoisedSamples(z, ddim.timesteps[steps], target, condition)


def denoising_loss(network: nn.Module, samples: NoisedSamples) -> Tensor:
    """() mean of ``(prediction - target)²``."""
    told = {} if samples.condition is None else samples.condition.rows
    prediction = network(samples.z, samples.timesteps, **told).sample
    return nn.functional.mse_loss(prediction.float(), samples.target)


def split_rows(num_samples: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers to train on and to hold out, a random share of them, at least one of each.

    Raises:
        InputError: if there is one sample and a fraction > 0.
    """
    if fraction == 0:
        return torch.arange(num_samples), torch.arange(0)
    if num_samples < 2:
        raise InputError(
            "validation_fraction",
            "must be 0 for a single sample, which cannot be split",
            fraction,
            "pass `validation_fraction=0`",
        )
    count = min(max(round(fraction * num_samples), 1), num_samples - 1)
    generator = seeded_generator(torch.device("cpu"), seed, _SPLIT)
    order = torch.randperm(num_samples, generator=generator)
    return order[count:].sort().values, order[:count].sort().values


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The loss on held-out samples, always with the same noise at the same timesteps.

    Of 4,096 (sample, noise, timestep) the timesteps are spread evenly over 1 … N, so that two
    networks are told apart by far less than the loss itself would vary.

    Args:
        ddim: the N training timesteps.
        inputs: where the samples are.
        rows: which of them are held out.
        seed: of the noise.
    """

    ddim: DDIM
    inputs: DataInputs
    rows: Tensor
    seed: int

    @torch.no_grad()
    def loss(self, trainer: Trainer) -> float:
        """Of the network as it would be saved: by its moving average if there is one."""
        with trainer.as_saved() as network, trainer.accelerator.autocast():
            losses = [self._batch(network, first) for first in range(0, _NUM_DRAWS, _BATCH)]
        return float(torch.stack(losses).mean())

    def _batch(self, network: nn.Module, first: int) -> Tensor:
        device = self.ddim.alphas.device
        draws = Draws(seeded_generator(device, self.seed, _NOISE, first), _BATCH, slice(0, _BATCH))
        place = torch.arange(first, first + _BATCH)
        rows = self.rows[place % len(self.rows)]
        # the golden ratio's multiples are spread evenly, and independently of the row
        share = torch.frac(place.double() * (5**0.5 - 1) / 2)
        steps = 1 + (share * self.ddim.num_steps).long().to(device)
        x0, condition = self.inputs.read(rows, device)
        noise = draws.normal(*x0.shape[1:])
        return denoising_loss(network, noise_samples(self.ddim, x0, noise, steps, condition))


@dataclass(frozen=True, eq=False)
class Best:
    """The weights of the least held-out loss so far.

    Args:
        loss: held out.
        iteration: at which they were reached.
        weights: in the order of the network's parameters.
    """

    loss: float
    iteration: int
    weights: list[Tensor]

    @classmethod
    def of(cls, trainer: Trainer, loss: float, iteration: int) -> Best:
        """The weights as they would be saved now."""
        average = trainer.average
        source = trainer.network.parameters() if average is None else average.shadow_params
        return cls(loss, iteration, [weight.detach().clone() for weight in source])
