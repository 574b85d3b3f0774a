"""Teacher and student: a sampler with the networks that it reads."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.ddim import DDIM, Jump, compose

__all__ = ["Student", "Teacher", "initial_noise"]


@dataclass(frozen=True, eq=False)
class Teacher:
    """A T-step DDIM sampler with one network.

    Args:
        network: the denoiser; its weights are never changed.
        ddim: the sampler.
        sample_shape: shape of one sample as the network reads it, such as (1, 8, 8).
        num_classes: number of classes of a class-conditional network.
        scheduler_config: the diffusers scheduler config that it came with, if any.
    """

    network: nn.Module
    ddim: DDIM
    sample_shape: tuple[int, ...]
    num_classes: int | None = None
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.requires_grad_(False).eval()

    @property
    def num_steps(self) -> int:
        """T."""
        return self.ddim.num_steps

    def steps(self) -> list[Jump]:
        """The teacher steps T → T-1, …, 1 → 0, noise side first."""
        return [Jump(self.network, t, t - 1, t - 1) for t in range(self.num_steps, 0, -1)]

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on a device; this one stays where it is."""
        ddim = self.ddim.to(device)
        is_there = ddim.alphas.device == self.ddim.alphas.device
        network = self.network if is_there else copy.deepcopy(self.network).to(device)
        return Teacher(network, ddim, self.sample_shape, self.num_classes, self.scheduler_config)

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, …) samples from (B, …) noise z_T, in T network evaluations."""
        return compose(self.ddim, [self.steps()], noise, labels=labels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights and of the sampler."""
        digest = hashlib.sha256(self.ddim.prediction_type.encode())
        tables = {"alphas": self.ddim.alphas, "sigmas": self.ddim.sigmas}
        for name, tensor in {**tables, **self.network.state_dict()}.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Student:
    """A few-step sampler: K jumps that follow one another from T to 0.

    Args:
        jumps: noise side first; several may share a network.
        ddim: the teacher's sampler, at whose steps they read and land.
        sample_shape: shape of one sample as the networks read it.
        num_classes: number of classes of class-conditional networks.
    """

    jumps: tuple[Jump, ...]
    ddim: DDIM
    sample_shape: tuple[int, ...]
    num_classes: int | None = None

    @property
    def num_steps(self) -> int:
        """T, the number of the teacher's steps."""
        return self.ddim.num_steps

    def to(self, device: torch.device) -> Student:
        """The same student on a device; this one stays where it is."""
        ddim = self.ddim.to(device)
        is_there = ddim.alphas.device == self.ddim.alphas.device
        jumps = self.jumps if is_there else copy.deepcopy(self.jumps)  # which share networks still
        for jump in jumps:
            jump.network.to(device)
        return Student(jumps, ddim, self.sample_shape, self.num_classes)

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """(B, …) samples from (B, …) noise z_T, in K network evaluations."""
        return compose(self.ddim, [self.jumps], noise, labels=labels)


def initial_noise(
    shape: tuple[int, ...], count: int, seed: int, first: int = 0, device: str = "cpu"
) -> Tensor:
    """(count, *shape) standard normal noise of samples ``first``, ``first + 1``, …

    Each sample has a generator of its own, so its noise does not depend on the batch size or on
    the number of processes (as in Karras et al. 2024, edm2). Drawn on the CPU: the same on every
    device.
    """
    noise = torch.empty(count, *shape)
    for row in range(count):
        digest = hashlib.sha256(f"{seed} {first + row}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        noise[row] = torch.randn(shape, generator=generator)
    return noise.to(device)
