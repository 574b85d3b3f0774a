"""DDIM with any network: predictions, jumps between steps, and targets for a student's estimate.

Everything is one formula. With the estimates x̂ and ε̂ of a network at step j,

    z_r = alpha_r x̂ + sigma_r ε̂,    ε̂ = (z_j - alpha_j x̂) / sigma_j

lands on step r. A teacher step lands on r = j - 1. A student that keeps its child's *denoiser*
lands on its own last step; one that keeps its child's *operator* goes on landing where that child
landed, and learns what that point should have been (THEORY 4, "merge rules").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from opmerge.errors import InputError
from opmerge.schedules import NoiseSchedule
from opmerge.settings.types import PredictionType

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

__all__ = ["DDIM", "Estimate", "Jump", "PredictionType", "compose"]

Step = int | Tensor
"""A step of the schedule: one for the whole batch, or (B,) one a sample."""


@dataclass(frozen=True)
class Estimate:
    """A network's estimates at one step.

    Args:
        x0: (B, …) estimate x̂ of the clean sample.
        noise: (B, …) estimate ε̂ of the noise.
    """

    x0: Tensor
    noise: Tensor


@dataclass(frozen=True, eq=False)
class DDIM:
    """The T-step sampler that networks are read with (Song et al. 2021, Eq. 12, η = 0).

    Args:
        alphas: (T+1,) float32 signal coefficients, index 0 on the data side.
        sigmas: (T+1,) float32 noise coefficients.
        timesteps: (T+1,) int64, what the network is told at each step; index 0 is not used.
        prediction_type: what the network predicts.

    Raises:
        InputError: for an unknown prediction type, or one that says nothing about x_0 at step T.
    """

    alphas: Tensor
    sigmas: Tensor
    timesteps: Tensor
    prediction_type: PredictionType

    def __post_init__(self) -> None:
        if self.prediction_type not in get_args(PredictionType):
            raise InputError(
                "prediction_type",
                f"must be one of {', '.join(get_args(PredictionType))}",
                repr(self.prediction_type),
                "set it in scheduler_config.json",
            )
        if self.prediction_type == "epsilon" and float(self.alphas[-1]) == 0:
            raise InputError(
                "prediction_type",
                "must not be epsilon where alpha_T = 0: pure noise then says nothing about x_0",
                remedy="take a teacher that predicts v or x_0, or a schedule with alpha_T > 0",
            )

    @classmethod
    def from_schedule(cls, schedule: NoiseSchedule, prediction_type: PredictionType) -> DDIM:
        """Read a schedule of the theory; without timesteps of its own it numbers its steps."""
        own = schedule.timesteps or range(1, schedule.num_steps + 1)
        return cls(
            torch.from_numpy(schedule.alphas.astype(np.float32)),
            torch.from_numpy(schedule.sigmas.astype(np.float32)),
            torch.tensor([0, *own]),
            prediction_type,
        )

    @classmethod
    def from_scheduler(cls, scheduler: DDIMScheduler, num_steps: int) -> DDIM:
        """Take the coefficients of a diffusers scheduler in its own arithmetic (float32).

        ``jump`` then gives the same bits as ``DDIMScheduler.step`` wherever its steps meet, which
        they do when ``num_train_timesteps`` is a multiple of T.
        """
        scheduler.set_timesteps(num_steps)
        timesteps = scheduler.timesteps.flip(0)
        landed = int(timesteps[0]) - scheduler.config.num_train_timesteps // num_steps
        first = scheduler.alphas_cumprod[landed] if landed >= 0 else scheduler.final_alpha_cumprod
        signal = torch.cat([first[None], scheduler.alphas_cumprod[timesteps]])
        return cls(
            signal**0.5,
            (1 - signal) ** 0.5,
            torch.cat([torch.zeros_like(timesteps[:1]), timesteps]),
            scheduler.config.prediction_type,
        )

    @property
    def num_steps(self) -> int:
        """T, the number of teacher steps."""
        return len(self.alphas) - 1

    def to(self, device: torch.device) -> DDIM:
        """The same sampler with its coefficients on a device."""
        return DDIM(
            self.alphas.to(device),
            self.sigmas.to(device),
            self.timesteps.to(device),
            self.prediction_type,
        )

    def add_noise(self, x0: Tensor, noise: Tensor, step: Step) -> Tensor:
        """``z = alpha x_0 + sigma ε`` at a step, or at one step a sample."""
        alpha, sigma = self._coefficients(step, x0.ndim)
        return alpha * x0 + sigma * noise

    def estimate(
        self, network: nn.Module, z: Tensor, step: Step, labels: Tensor | None = None
    ) -> Estimate:
        """What the network says about x_0 and the noise in ``z``, in diffusers' arithmetic.

        Args:
            network: called as ``network(z, timesteps)``, with ``class_labels`` where there are
                labels; may return a tensor, a tuple or a diffusers output, and twice the channels
                (a learned variance, which is dropped).
            z: (B, …) states.
            step: step of the batch, or (B,) of each sample.
            labels: (B,) class labels, for a class-conditional network.
        """
        timesteps = self.timesteps[step].expand(len(z))
        given: dict[str, Any] = {} if labels is None else {"class_labels": labels}
        output = network(z, timesteps, **given)
        output = getattr(output, "sample", output)
        output = output[0] if isinstance(output, tuple) else output
        if z.ndim > 2 and output.shape[1] == 2 * z.shape[1]:
            output = output[:, : z.shape[1]]
        output = output.to(z.dtype)
        alpha, sigma = self._coefficients(step, z.ndim)
        if self.prediction_type == "epsilon":
            return Estimate((z - sigma * output) / alpha, output)
        if self.prediction_type == "sample":
            return Estimate(output, (z - alpha * output) / sigma)
        return Estimate(alpha * z - sigma * output, alpha * output + sigma * z)

    def land(self, estimate: Estimate, step: Step) -> Tensor:
        """The state at ``step`` that the estimates imply: ``alpha x̂ + sigma ε̂``."""
        alpha, sigma = self._coefficients(step, estimate.x0.ndim)
        return alpha * estimate.x0 + sigma * estimate.noise

    def x0_target(self, z: Tensor, step: Step, readout: Step, landing: Tensor) -> Tensor:
        """The estimate x̂ at ``step`` with which ``land`` at ``readout`` gives ``landing``.

        ``x̂ = (landing - sigma_r/sigma_j z) / weight``, with the ``jump_weight`` of x̂.
        """
        ratio = self._at(self.sigmas, readout, z.ndim) / self._at(self.sigmas, step, z.ndim)
        return (landing - ratio * z) / self.jump_weight(step, readout, z.ndim)

    def jump_weight(self, step: Step, readout: Step, ndim: int = 1) -> Tensor:
        """``alpha_r - alpha_j sigma_r/sigma_j``: how much of x̂ is in the state that is reached."""
        alpha, sigma = self._coefficients(step, ndim)
        alpha_readout, sigma_readout = self._coefficients(readout, ndim)
        return alpha_readout - alpha * (sigma_readout / sigma)

    def _coefficients(self, step: Step, ndim: int) -> tuple[Tensor, Tensor]:
        return self._at(self.alphas, step, ndim), self._at(self.sigmas, step, ndim)

    @staticmethod
    def _at(table: Tensor, step: Step, ndim: int) -> Tensor:
        """Entries of a table, shaped to broadcast over samples with ``ndim`` axes."""
        values = table[step]
        return values.reshape(-1, *[1] * (ndim - 1)) if values.ndim else values


@dataclass(frozen=True, eq=False)
class Jump:
    """The operator start → stop that a network stands for.

    Args:
        network: the network.
        start: step at which it reads its input.
        stop: step that it produces.
        readout: step at which its estimates are landed: ``stop`` for a denoiser; for a direct
            jump network (operator copy) the step where the operator that it started from landed.
    """

    network: nn.Module
    start: int
    stop: int
    readout: int


def compose(
    ddim: DDIM,
    chains: Sequence[Sequence[Jump]],
    z: Tensor,
    choice: Tensor | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Apply chains of jumps, sample by sample: where each ends, without a gradient.

    All samples that meet the same network at the same hop go through it in one forward pass, each
    with its own timestep.

    Args:
        ddim: the sampler.
        chains: one or several chains of jumps, noise side first.
        z: (B, …) states at the start of the samples' chains.
        choice: (B,) index of each sample's chain; may be left out if there is one chain.
        labels: (B,) class labels, for class-conditional networks.
    """
    with torch.no_grad():
        for hop in range(max(map(len, chains))):
            for members in _by_network(chains, hop):
                jumps = [chains[member][hop] for member in members]
                if len(chains) == 1:
                    z = _jump(ddim, jumps[0].network, z, jumps[0].start, jumps[0].readout, labels)
                    continue
                assert choice is not None
                place = torch.full((len(chains),), -1, device=z.device)
                place[members] = torch.arange(len(members), device=z.device)
                which = place[choice]
                rows = torch.nonzero(which >= 0).squeeze(1)
                if not len(rows):
                    continue
                starts, readouts = (
                    torch.tensor([getattr(jump, key) for jump in jumps], device=z.device)
                    for key in ("start", "readout")
                )
                which = which[rows]
                own = None if labels is None else labels[rows]
                moved = _jump(ddim, jumps[0].network, z[rows], starts[which], readouts[which], own)
                z = z.index_copy(0, rows, moved)
    return z


def _jump(
    ddim: DDIM, network: nn.Module, z: Tensor, start: Step, readout: Step, labels: Tensor | None
) -> Tensor:
    return ddim.land(ddim.estimate(network, z, start, labels), readout)


def _by_network(chains: Sequence[Sequence[Jump]], hop: int) -> list[list[int]]:
    """Chains that have this hop, grouped by the network that they meet there."""
    groups: dict[int, list[int]] = {}
    for member, chain in enumerate(chains):
        if hop < len(chain):
            groups.setdefault(id(chain[hop].network), []).append(member)
    return list(groups.values())
