"""Teacher and student: a sampler with the networks that it reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import Condition, as_condition
from opmerge.denoisers.jumps import Jump, compose
from opmerge.denoisers.sampler import DDIM, NetworkDenoiser

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

    @cached_property
    def denoiser(self) -> NetworkDenoiser:
        """What the network says at the sampler's steps."""
        return self.ddim.denoiser(self.network)

    @property
    def num_steps(self) -> int:
        """T."""
        return self.ddim.num_steps

    def steps(self) -> list[Jump]:
        """The teacher steps T → T-1, …, 1 → 0, noise side first."""
        return [Jump(self.denoiser, t, t - 1, t - 1) for t in range(self.num_steps, 0, -1)]

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on a device; this one stays where it is."""
        there = self.denoiser.to(device)
        return replace(self, network=there.network, ddim=there.sampler)

    def sample(self, noise: Tensor, condition: Condition | Tensor | None = None) -> Tensor:
        """(B, …) samples from (B, …) noise z_T, in T network evaluations.

        Args:
            noise: z_T.
            condition: what the network is told of each sample; a (B,) tensor is class labels.
        """
        return compose(self.ddim, [self.steps()], noise, condition=as_condition(condition))

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
        there = {jump.denoiser: jump.denoiser.to(device) for jump in self.jumps}
        jumps = tuple(replace(jump, denoiser=there[jump.denoiser]) for jump in self.jumps)
        return replace(self, jumps=jumps, ddim=self.ddim.to(device))

    def sample(self, noise: Tensor, condition: Condition | Tensor | None = None) -> Tensor:
        """(B, …) samples from (B, …) noise z_T, in K network evaluations; see ``Teacher``."""
        return compose(self.ddim, [self.jumps], noise, condition=as_condition(condition))


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
