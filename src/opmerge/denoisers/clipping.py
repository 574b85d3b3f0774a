"""Clipped teachers: what their schedulers do to each estimate of x_0, and a student cannot follow.

A clipped estimate is not linear in the state, so no student's estimate stands for several clipped
steps. Such a teacher is distilled as if it did not clip, where that is asked for; with what is here
its samples are drawn as they are, to see what that changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDIMParallelScheduler, DDIMScheduler, SchedulerMixin
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition, Denoiser, Estimate, Step
from opmerge.denoisers.sampler import DDIM

_KEYS = ("thresholding", "clip_sample", "clip_denoised")


@dataclass(frozen=True, eq=False)
class Clipping:
    """What a scheduler of diffusers does to x̂, by its config and its own code.

    Args:
        key: ``thresholding`` (Saharia et al. 2022), ``clip_sample`` or ``clip_denoised``.
    """

    key: str
    scheduler: Any

    @classmethod
    def of(cls, scheduler: SchedulerMixin) -> Clipping | None:
        """That of a scheduler, if its class clips and its config asks for it."""
        asked = (key for key in _KEYS if scheduler.config.get(key))
        return next((cls(key, scheduler) for key in asked), None)

    @property
    def keeps_noise(self) -> bool:
        """Whether ε̂ stays what the network said; else it is what fits z and the clipped x̂."""
        return isinstance(self.scheduler, DDIMScheduler | DDIMParallelScheduler)

    def __call__(self, x0: Tensor) -> Tensor:
        """(B, …) x̂ clipped."""
        if self.key == "thresholding":
            return self.scheduler._threshold_sample(x0)
        limit = self.scheduler.config.get("clip_sample_range", 1.0)
        return x0.clamp(-limit, limit)


@dataclass(frozen=True)
class Clipped:
    """A ``Denoiser`` whose x̂ is clipped."""

    denoiser: Denoiser
    sampler: DDIM
    clipping: Clipping

    @property
    def network(self) -> nn.Module:
        return self.denoiser.network

    def __call__(self, z: Tensor, step: Step, condition: Condition | None = None) -> Estimate:
        estimate = self.denoiser(z, step, condition)
        x0, noise = self.clipping(estimate.x0), estimate.noise
        if not self.clipping.keeps_noise:
            alpha, sigma = self.sampler.at(step, z.ndim)
            noise = (z - alpha * x0) / sigma
        return Estimate(x0, noise)

    def using(self, network: nn.Module) -> Clipped:
        return replace(self, denoiser=self.denoiser.using(network))

    def to(self, device: torch.device) -> Clipped:
        return Clipped(self.denoiser.to(device), self.sampler.to(device), self.clipping)
