"""DDIM: noise levels and times, landings of an estimate, and targets for a student's estimate.

Any scheduler of diffusers is read so: Euler's method of flow matching and of variance-exploding
noise levels is the same step in other coordinates. Everything is one formula. With the estimates
x̂ and ε̂ of a network at step j,

    z_r = alpha_r x̂ + sigma_r ε̂,    ε̂ = (z_j - alpha_j x̂) / sigma_j

lands on step r. A teacher step lands on r = j - 1. A student that keeps its child's *denoiser*
lands on its own last step; one that keeps its child's *operator* goes on landing where that child
landed, and learns what that point should have been (THEORY 4, "merge rules").
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from diffusers import DDIMParallelScheduler, DDIMScheduler, SchedulerMixin
from torch import Tensor, nn

from opmerge.arrays import Array
from opmerge.denoisers.denoiser import PREDICTIONS, SCALE, Condition, Estimate, Step
from opmerge.denoisers.families import Call, config_of, family_of
from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule, diffusers_schedule
from opmerge.schedules.predictions import network_reading
from opmerge.settings.types import PredictionType


@dataclass(frozen=True, eq=False)
class DDIM:
    """The T-step sampler that networks are read with (Song et al. 2021, Eq. 12, η = 0).

    Args:
        alphas: (T+1,) float32 coefficients of the signal, index 0 on the data side.
        sigmas: (T+1,) float32, of the noise.
        timesteps: (T+1,) int64 or float32, what the network is told at each step; index 0 is not
            used.
        prediction_type: what the network says.
        scalings: (3, T+1) float32 c_in, c_skip and c_out of a preconditioned network, which reads
            c_in z and says ``c_skip z + c_out F`` of the prediction type (``schedules.predictions``
            knows those of diffusers' schedulers).

    Raises:
        InputError: for an unknown prediction type, or one that says nothing about x_0 at step T.
    """

    alphas: Tensor
    sigmas: Tensor
    timesteps: Tensor
    prediction_type: PredictionType
    scalings: Tensor | None = None

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTIONS:
            requirement = f"must be one of {', '.join(PREDICTIONS)}"
            remedy = "set it in scheduler_config.json"
            raise InputError("prediction_type", requirement, repr(self.prediction_type), remedy)
        last = None if self.scalings is None else self.scalings[:, -1]
        is_blind = self.prediction_type == "epsilon" if last is None else not last.isfinite().all()
        if is_blind and float(self.alphas[-1]) == 0:
            raise InputError(
                "prediction_type",
                "must not be epsilon where alpha_T = 0: pure noise then says nothing about x_0",
                remedy="take a teacher that predicts v or x_0, or a schedule with alpha_T > 0",
            )

    @classmethod
    def from_schedule(
        cls,
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
        scalings: Array | None = None,
    ) -> DDIM:
        """Read a schedule of the theory; without timesteps of its own it numbers its steps.

        ``scalings`` (3, T+1) as of the class.
        """
        own = schedule.timesteps or range(1, schedule.num_steps + 1)
        return cls(
            torch.from_numpy(schedule.alphas.astype(np.float32)),
            torch.from_numpy(schedule.sigmas.astype(np.float32)),
            torch.tensor([0, *own]),
            prediction_type,
            None if scalings is None else torch.from_numpy(scalings.astype(np.float32)),
        )

    @classmethod
    def from_scheduler(
        cls, scheduler: SchedulerMixin, num_steps: int, schedule: NoiseSchedule | None = None
    ) -> DDIM:
        """The first-order sampler on the states that a diffusers scheduler visits.

        Of a ``DDIMScheduler`` the coefficients are taken in its own arithmetic (float32). Landings
        then have the bits of ``DDIMScheduler.step`` wherever its steps meet, which they do when
        ``num_train_timesteps`` is a multiple of T. All others are read by ``diffusers_schedule``.

        Args:
            num_steps: T.
            schedule: what ``diffusers_schedule`` gave for the scheduler, if it is there already.

        Raises:
            InputError: if T steps cannot be taken, or the network cannot be read.
        """
        if schedule is None:
            config = {**scheduler.config, "_class_name": type(scheduler).__name__}
            schedule = diffusers_schedule(config, num_steps)
        reading = network_reading(scheduler, schedule)
        form = cast(PredictionType, reading.prediction_type)
        if not isinstance(scheduler, DDIMScheduler | DDIMParallelScheduler):
            return cls.from_schedule(schedule, form, reading.scalings)
        scheduler.set_timesteps(num_steps)
        timesteps = scheduler.timesteps.flip(0)
        landed = int(timesteps[0]) - scheduler.config.num_train_timesteps // num_steps
        first = scheduler.alphas_cumprod[landed] if landed >= 0 else scheduler.final_alpha_cumprod
        signal = torch.cat([first[None], scheduler.alphas_cumprod[timesteps]])
        times = torch.cat([torch.zeros_like(timesteps[:1]), timesteps])
        return cls(signal**0.5, (1 - signal) ** 0.5, times, form)

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return len(self.alphas) - 1

    def to(self, device: torch.device) -> DDIM:
        """The same sampler with its coefficients on a device."""
        tables = (self.alphas, self.sigmas, self.timesteps)
        alphas, sigmas, timesteps = (table.to(device) for table in tables)
        scalings = None if self.scalings is None else self.scalings.to(device)
        return DDIM(alphas, sigmas, timesteps, self.prediction_type, scalings)

    def add_noise(self, x0: Tensor, noise: Tensor, step: Step) -> Tensor:
        """(B, …) ``z = alpha x_0 + sigma ε`` at a step, or at (B,) steps."""
        alpha, sigma = self.at(step, x0.ndim)
        return alpha * x0 + sigma * noise

    def at(self, step: Step, ndim: int) -> tuple[Tensor, Tensor]:
        """alpha and sigma, () of a step or (B, 1, …) of (B,) steps, to multiply ``ndim`` axes."""
        return _broadcast(self.alphas[step], ndim), _broadcast(self.sigmas[step], ndim)

    def scale(self, z: Tensor, step: Step) -> Tensor:
        """What a network reads of (B, …) ``z`` at a step: z itself, or c_in z."""
        return z if self.scalings is None else _broadcast(self.scalings[0, step], z.ndim) * z

    def denoiser(self, network: nn.Module) -> NetworkDenoiser:
        """What a network says at this sampler's steps, called as its family knows to."""
        return NetworkDenoiser(network, self, family_of(config_of(network)).call)

    def read(self, output: Any, z: Tensor, step: Step) -> Estimate:
        """What a network's output says about x_0 and the noise in (B, …) ``z``."""
        output = predicted(output, z).to(z.dtype)
        if self.scalings is not None:
            skip, out = (_broadcast(row[step], z.ndim) for row in self.scalings[1:])
            output = skip * z + out * output
        return PREDICTIONS[self.prediction_type].estimate(output, z, *self.at(step, z.ndim))

    def output_error(self, step: Step) -> Tensor:
        """The error of the network's output where x̂ errs by 1: () at a step, (n,) at (n,) steps."""
        error = PREDICTIONS[self.prediction_type].error(*self.at(step, 1))
        return error if self.scalings is None else error / self.scalings[2, step].abs()

    def land(self, estimate: Estimate, step: Step) -> Tensor:
        """The state (B, …) at ``step`` that the estimates imply: ``alpha x̂ + sigma ε̂``."""
        return self.add_noise(estimate.x0, estimate.noise, step)

    def x0_target(self, z: Tensor, step: Step, readout: Step, landing: Tensor) -> Tensor:
        """The estimate x̂ (B, …) at ``step`` with which ``land`` at ``readout`` gives ``landing``.

        ``x̂ = (landing - sigma_r/sigma_j z) / weight``, with the ``jump_weight`` of x̂.
        """
        ratio = self.at(readout, z.ndim)[1] / self.at(step, z.ndim)[1]
        return (landing - ratio * z) / self.jump_weight(step, readout, z.ndim)

    def jump_weight(self, step: Step, readout: Step, ndim: int = 1) -> Tensor:
        """``alpha_r - alpha_j sigma_r/sigma_j``: how much of x̂ is in the state that is reached.

        () for a step or (B, 1, …) for (B,) steps, as ``at``.
        """
        alpha, sigma = self.at(step, ndim)
        alpha_readout, sigma_readout = self.at(readout, ndim)
        return alpha_readout - alpha * (sigma_readout / sigma)


def predicted(output: Any, z: Tensor) -> Tensor:
    """(B, …) what a network predicts of ``z``: its output is a tensor, a tuple or diffusers' own.

    A learned variance, which doubles the channels, is dropped.
    """
    output = getattr(output, "sample", output)
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    is_double = z.ndim > 2 and tensor.shape[1] == 2 * z.shape[1]
    return tensor[:, : z.shape[1]] if is_double else tensor


def _broadcast(values: Tensor, ndim: int) -> Tensor:
    """() as it is, (B,) so that it broadcasts over ``ndim`` axes."""
    return values.reshape(-1, *[1] * (ndim - 1)) if values.ndim else values


@dataclass(frozen=True)
class NetworkDenoiser:
    """A ``Denoiser``: a network, called as its family is, in a sampler's times and form."""

    network: nn.Module
    sampler: DDIM
    call: Call

    def __call__(self, z: Tensor, step: Step, condition: Condition | None = None) -> Estimate:
        return self.sampler.read(self.output(z, step, condition), z, step)

    def output(self, z: Tensor, step: Step, condition: Condition | None = None) -> Tensor:
        """(B, …) what the network predicts, in the sampler's form."""
        times, told = self.sampler.timesteps[step].expand(len(z)), self._told(condition)
        return predicted(self.call(self.network, self.sampler.scale(z, step), times, told), z)

    def _told(self, condition: Condition | None) -> Condition | None:
        """What the network reads of a condition: of a scale its embedding, if it has one."""
        if condition is None or SCALE not in condition.rows:
            return condition
        rows, config = dict(condition.rows), config_of(self.network)
        scales = rows.pop(SCALE)
        return Condition({**rows, **family_of(config).guidance_rows(config, scales)})

    def using(self, network: nn.Module) -> NetworkDenoiser:
        return replace(self, network=network)

    def to(self, device: torch.device) -> NetworkDenoiser:
        """See ``Denoiser``; where it is there already, the same network."""
        sampler = self.sampler.to(device)
        weight = next(self.network.parameters(), self.sampler.alphas)
        is_there = weight.device == sampler.alphas.device
        network = self.network if is_there else copy.deepcopy(self.network).to(device)
        return NetworkDenoiser(network, sampler, self.call)
