"""Teacher and student: chains of jumps between the steps of a sampler, by networks."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opmerge.denoisers.clipping import Clipped, Clipping
from opmerge.denoisers.denoiser import LABELS, Condition, Denoiser, Estimate, Step, as_condition
from opmerge.denoisers.families import Rows, config_of, family_of, unwrapped
from opmerge.denoisers.guidance import Guidance, Guided
from opmerge.denoisers.sampler import DDIM, NetworkDenoiser
from opmerge.forecast.cost import operator_passes
from opmerge.settings.guidance import GuidanceOptions, GuidanceRecord


@dataclass(frozen=True, eq=False)
class Jump:
    """The operator start → stop that a denoiser stands for.

    Its estimates are landed at the step ``readout``: ``stop`` for a denoiser; for a direct jump
    network (operator copy) the step where the operator that it started from landed.
    """

    denoiser: Denoiser
    start: int
    stop: int
    readout: int

    @property
    def network(self) -> nn.Module:
        """What holds the denoiser's weights, out of what may wrap it."""
        return unwrapped(self.denoiser.network)


def compose(
    ddim: DDIM,
    chains: Sequence[Sequence[Jump]],
    z: Tensor,
    choice: Tensor | None = None,
    condition: Condition | None = None,
) -> Tensor:
    """Apply chains of jumps, noise side first, to (B, …) states: where each ends, with no gradient.

    ``choice`` is the (B,) index of each sample's chain, where there are several. All samples that
    meet the same denoiser at the same hop go through it in one forward pass, each with its own
    timestep.
    """
    with torch.no_grad():
        if len(chains) == 1:
            for jump in chains[0]:
                z = ddim.land(jump.denoiser(z, jump.start, condition), jump.readout)
            return z
        assert choice is not None
        for hop in range(max(map(len, chains))):
            meeting: dict[Denoiser, list[int]] = {}  # which chains meet a denoiser at this hop
            steps = torch.zeros(len(chains), 2, dtype=torch.int64)
            for member, chain in enumerate(chains):
                if hop < len(chain):
                    meeting.setdefault(chain[hop].denoiser, []).append(member)
                    steps[member] = torch.tensor([chain[hop].start, chain[hop].readout])
            steps = steps.to(z.device)
            for denoiser, members in meeting.items():
                chosen = torch.isin(choice, torch.tensor(members, device=z.device))
                rows = torch.nonzero(chosen).squeeze(1)
                if len(rows):
                    start, readout = steps[choice[rows]].T
                    told = None if condition is None else condition[rows]
                    moved = ddim.land(denoiser(z[rows], start, told), readout)
                    z = z.index_copy(0, rows, moved)
    return z


class _Told:
    """What a sampler's network is told beside the states."""

    needs: Mapping[str, Rows]

    @property
    def num_classes(self) -> int | None:
        """The classes of which it is told one, if it is."""
        return self.needs.get(LABELS, Rows()).below


@dataclass(frozen=True, eq=False)
class Teacher(_Told):
    """A T-step DDIM sampler with one network, whose weights are never changed.

    Of a network that ``torch.compile`` or several processes wrap it is the network itself, which is
    copied and saved; ``torch_compile`` of the settings compiles it. One sample has the shape in
    which the network reads it, such as (1, 8, 8). ``needs`` are the
    rows of the conditions that the network must be told, by their names. The config is that of the
    diffusers scheduler that it came with, and the folder the place where both were read. With
    ``guidance`` the teacher is what that makes of the network; its students are read without.
    ``clipping`` is what that scheduler does to x̂; it is left out unless the teacher ``clips``.
    """

    network: nn.Module
    ddim: DDIM
    sample_shape: tuple[int, ...]
    needs: Mapping[str, Rows] = field(default_factory=dict)
    scheduler_config: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    guidance: Guidance | None = None
    clipping: Clipping | None = None
    clips: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", unwrapped(self.network))
        self.network.requires_grad_(False).eval()

    @cached_property
    def denoiser(self) -> Denoiser:
        """What is distilled: the network at the sampler's steps, guided where it is to be."""
        told: Denoiser = self.student_denoiser
        if self.guidance is not None:
            told = Guided(self.student_denoiser, self.guidance)
        if self.clipping is not None and self.clips:
            told = Clipped(told, self.ddim, self.clipping)
        return told

    @cached_property
    def student_denoiser(self) -> NetworkDenoiser:
        """The network without guidance, as weights of students are read."""
        return self.ddim.denoiser(self.network)

    def estimates(
        self, z: Tensor, step: Step, condition: Condition | None
    ) -> tuple[Estimate, Estimate]:
        """What ``denoiser`` and ``student_denoiser`` say of (B, …) z, at the cost of the first."""
        if isinstance(self.denoiser, Guided):
            return self.denoiser.estimates(z, step, condition)
        estimate = self.student_denoiser(z, step, condition)
        return estimate, estimate

    @property
    def num_steps(self) -> int:
        """T."""
        return self.ddim.num_steps

    @property
    def guided_steps(self) -> range:
        """The steps that take two evaluations of the network."""
        return range(0) if self.guidance is None else self.guidance.steps

    @property
    def guidance_record(self) -> GuidanceRecord:
        """What files say of its guidance."""
        return {} if self.guidance is None else self.guidance.record()

    def evaluations(self, start: int, stop: int = 0) -> int:
        """Network evaluations of a sample that the teacher's steps start, …, stop + 1 take."""
        return int(operator_passes(range(start, stop - 1, -1), self.guided_steps).sum())

    def steps(self) -> list[Jump]:
        """The teacher steps T → T-1, …, 1 → 0, noise side first."""
        return [Jump(self.denoiser, t, t - 1, t - 1) for t in range(self.num_steps, 0, -1)]

    def guided(self, options: GuidanceOptions, null: Condition | None = None) -> Teacher:
        """The same teacher under guidance, if any is asked for (``Guidance.of``).

        Of a range its network is one that can be told a scale, as its students are.
        """
        network, needs, num_steps = self.network, self.needs, self.num_steps
        guidance = Guidance.of(options, network, needs, num_steps, null)
        if guidance is not None and isinstance(guidance.scale, tuple):
            network = family_of(config_of(network)).with_guidance(network)
        return replace(self, guidance=guidance, network=network)

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on a device; this one stays where it is."""
        there = self.student_denoiser.to(device)
        guidance = None if self.guidance is None else self.guidance.to(device)
        return replace(self, network=there.network, ddim=there.sampler, guidance=guidance)

    def sample(self, noise: Tensor, condition: Condition | Tensor | None = None) -> Tensor:
        """(B, …) samples of (B, …) noise z_T in T steps; a (B,) condition is class labels."""
        return compose(self.ddim, [self.steps()], noise, condition=as_condition(condition))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, of the sampler and of the guidance."""
        digest = hashlib.sha256(self.ddim.prediction_type.encode())
        tables = {"alphas": self.ddim.alphas, "sigmas": self.ddim.sigmas}
        if self.ddim.scalings is not None:
            tables["scalings"] = self.ddim.scalings
        _add_tensors(digest, {**tables, **self.network.state_dict()})
        if self.guidance is not None:
            digest.update(self.guidance.digest().encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Student(_Told):
    """A few-step sampler: K jumps that follow one another from T to 0, noise side first.

    They read and land at the steps of the teacher's sampler; several may share a network. With a
    ``free_step``, which has no network, the first of them starts where that lands. ``guidance`` is
    that of the teacher whose samples it makes; it needs none itself.
    """

    jumps: tuple[Jump, ...]
    ddim: DDIM
    sample_shape: tuple[int, ...]
    needs: Mapping[str, Rows] = field(default_factory=dict)
    free_step: Jump | None = None
    guidance: GuidanceRecord = field(default_factory=dict)

    @property
    def chain(self) -> tuple[Jump, ...]:
        """All that is composed from T to 0."""
        return self.jumps if self.free_step is None else (self.free_step, *self.jumps)

    @property
    def num_steps(self) -> int:
        """T, the number of the teacher's steps."""
        return self.ddim.num_steps

    def to(self, device: torch.device) -> Student:
        """The same student on a device; this one stays where it is."""
        ddim, chain = self.ddim.to(device), self.chain
        if ddim.alphas.device != self.ddim.alphas.device:
            chain = copy.deepcopy(chain)  # at once, so that what networks share they share there
            for jump in chain[len(chain) - len(self.jumps) :]:
                jump.network.to(device)
        there = {jump.denoiser: jump.denoiser.to(device) for jump in chain}
        chain = tuple(replace(jump, denoiser=there[jump.denoiser]) for jump in chain)
        first = len(chain) - len(self.jumps)
        free_step = chain[0] if first else None
        return replace(self, jumps=chain[first:], ddim=ddim, free_step=free_step)

    def sample(self, noise: Tensor, condition: Condition | Tensor | None = None) -> Tensor:
        """(B, …) samples of (B, …) noise z_T in K evaluations; a (B,) condition is class labels."""
        return compose(self.ddim, [self.chain], noise, condition=as_condition(condition))


def network_digest(network: nn.Module) -> str:
    """SHA-256 of a network's weights."""
    digest = hashlib.sha256()
    _add_tensors(digest, network.state_dict())
    return digest.hexdigest()


def _add_tensors(digest: Any, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def initial_noise(
    shape: tuple[int, ...], count: int, seed: int, first: int = 0, device: str = "cpu"
) -> Tensor:
    """(count, *shape) standard normal noise of samples ``first``, ``first + 1``, …

    Each sample has a generator of its own, so its noise does not depend on the batch size or the
    number of processes (as in Karras et al. 2024, edm2). Drawn on the CPU: the same on any device.
    """
    noise = torch.empty(count, *shape)
    for row in range(count):
        digest = hashlib.sha256(f"{seed} {first + row}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
        noise[row] = torch.randn(shape, generator=generator)
    return noise.to(device)
