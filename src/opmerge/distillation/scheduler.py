"""A diffusers scheduler that takes a student's jumps, kept number by number in its config.

The ``model_index.json`` of a saved student names this module and the class, so neither may be
renamed; diffusers also looks here for ``SchedulerMixin``, by which it knows how to load it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from opmerge.denoisers.denoiser import Denoiser
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.linear_part import LinearDenoiser, LinearPart, add
from opmerge.denoisers.models import Jump, Student, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.free_step import free_jump
from opmerge.errors import InputError
from opmerge.settings.types import PredictionType

_KEYS: tuple[str, ...] = ("network", "start", "stop", "readout", "timestep", "alpha", "sigma")
_KEYS += ("alpha_readout", "sigma_readout")
_LINEAR = "linear_part"  # a key of those jumps alone that have one
_SCALINGS = "scalings"  # also
_FILE = "linear_part.safetensors"


class JumpScheduler(SchedulerMixin, ConfigMixin):
    """Takes K given jumps ``z_r = alpha_r x̂ + sigma_r ε̂`` and no others (see ``sampler``).

    Every jump is stored with its coefficients, so the file needs no noise schedule to be read,
    and steps of any length, of which diffusers' own schedulers know few, are all alike. The
    coefficients are float32 values written in full: what is loaded gives the same bits.

    Args:
        jumps: noise side first; each with ``network`` (the component of the pipeline that it
            reads), ``start``, ``stop`` and ``readout`` (steps of the teacher), ``timestep`` (what
            the network is told), ``alpha`` and ``sigma`` at its start, and ``alpha_readout`` and
            ``sigma_readout`` where its estimates are landed. One with ``scalings`` has c_in,
            c_skip and c_out of a preconditioned network (see ``DDIM``), one with a
            ``linear_part: true`` adds A z + b to x̂ (see ``linear_parts``). The first may have no
            ``network``: a free step, x̂ = A z + b, which is none of the K.
        num_steps: T, the number of teacher steps.
        guidance: of the teacher, ``scale`` and ``interval``; the student needs none.

    Raises:
        InputError: if the jumps are not K >= 1 such records with falling starts from T.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        jumps: Sequence[Mapping[str, Any]],
        prediction_type: str = "epsilon",
        num_steps: int = 1,
        guidance: Mapping[str, Any] | None = None,
    ) -> None:
        _check_jumps(jumps, num_steps)
        # steps that no jump reads or lands on are not a number
        alphas, sigmas = torch.full((2, num_steps + 1), torch.nan)
        is_whole = all(isinstance(jump["timestep"], int) for jump in jumps)
        kind = torch.int64 if is_whole else torch.float32
        timesteps = torch.full((num_steps + 1,), -1, dtype=kind)
        scalings = torch.full((3, num_steps + 1), torch.nan)
        for jump in jumps:
            start, readout = jump["start"], jump["readout"]
            alphas[readout], sigmas[readout] = jump["alpha_readout"], jump["sigma_readout"]
            alphas[start], sigmas[start] = jump["alpha"], jump["sigma"]
            timesteps[start] = jump["timestep"]
            if _SCALINGS in jump:
                scalings[:, start] = torch.tensor(jump[_SCALINGS])
        form, is_scaled = cast(PredictionType, prediction_type), _SCALINGS in jumps[-1]
        self.ddim = DDIM(alphas, sigmas, timesteps, form, scalings if is_scaled else None)
        self.init_noise_sigma = 1.0
        self.linear_parts: dict[int, LinearPart] = {}
        self.set_timesteps()

    @classmethod
    def from_student(cls, student: Student, networks: Sequence[str]) -> JumpScheduler:
        """That of a student; ``networks`` names each jump's component."""
        ddim = student.ddim
        tables = (ddim.alphas, ddim.sigmas, ddim.timesteps)
        alphas, sigmas, timesteps = (table.tolist() for table in tables)
        named: list[dict[str, Any]] = [{"network": name} for name in networks]
        if student.free_step is not None:
            named.insert(0, {})
        jumps: list[dict[str, Any]] = [
            {
                **network,
                "start": jump.start,
                "stop": jump.stop,
                "readout": jump.readout,
                "timestep": timesteps[jump.start],
                "alpha": alphas[jump.start],
                "sigma": sigmas[jump.start],
                "alpha_readout": alphas[jump.readout],
                "sigma_readout": sigmas[jump.readout],
            }
            for jump, network in zip(student.chain, named, strict=True)
        ]
        linear = {
            jump.start: jump.denoiser.parts[jump.start]
            for jump in student.chain
            if isinstance(jump.denoiser, LinearDenoiser)
        }
        for jump in jumps:
            if jump["start"] in linear:
                jump[_LINEAR] = True
            if ddim.scalings is not None and "network" in jump:
                jump[_SCALINGS] = ddim.scalings[:, jump["start"]].tolist()
        guidance = dict(student.guidance) or None
        scheduler: JumpScheduler = cls(jumps, ddim.prediction_type, ddim.num_steps, guidance)
        scheduler.linear_parts = linear
        return scheduler

    def student(
        self,
        networks: Mapping[str, Any],
        sample_shape: tuple[int, ...],
        device: torch.device | str = "cpu",
    ) -> Student:
        """The student of these jumps, on the device where the networks are, by their names."""
        ddim, free_step = self.ddim.to(torch.device(device)), self.free_step

        def denoiser(jump: Mapping[str, Any]) -> Denoiser:
            plain, part = ddim.denoiser(networks[jump["network"]]), self.linear_part(jump)
            if part is None:
                return plain
            return LinearDenoiser(plain, ddim, {jump["start"]: part.to(ddim.alphas.device)})

        jumps = tuple(
            Jump(denoiser(jump), jump["start"], jump["stop"], jump["readout"])
            for jump in self.jumps
        )
        network = jumps[0].network
        needs = family_of(config_of(network)).needs(
            config_of(network), Path(type(network).__name__)
        )
        if free_step is not None:
            free_step = replace(free_step, denoiser=free_step.denoiser.to(ddim.alphas.device))
        guidance = dict(self.config["guidance"] or {})
        if isinstance(guidance.get("scale"), list):  # which each sample is told by itself
            told = family_of(config_of(network)).guidance_rows(config_of(network), torch.ones(1))
            needs = {name: rows for name, rows in needs.items() if name not in told}
        return Student(jumps, ddim, sample_shape, needs, free_step, guidance)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Write ``scheduler_config.json``, and ``linear_part.safetensors`` beside it if needed."""
        tensors: dict[str, Tensor] = {}
        for start, part in self.linear_parts.items():  # copies: directions may be shared
            tensors |= {name: each.clone() for name, each in part.tensors(f"{start}.").items()}
        if tensors:  # first, so that what is pushed has it
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            save_file(tensors, Path(save_directory) / _FILE)
        super().save_pretrained(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any = None,
        subfolder: str | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """What ``save_pretrained`` wrote; with linear parts, from a folder on this machine."""
        place = pretrained_model_name_or_path
        loaded = super().from_pretrained(place, subfolder, return_unused_kwargs, **kwargs)
        scheduler = loaded[0] if isinstance(loaded, tuple) else loaded
        jumps = scheduler.config["jumps"]
        if starts := [jump["start"] for jump in jumps if _LINEAR in jump]:
            tensors = load_file(Path(place, subfolder or "", _FILE))
            found = {start: LinearPart.find(tensors, f"{start}.") for start in starts}
            scheduler.linear_parts = {at: part for at, part in found.items() if part is not None}
        return loaded

    def linear_part(self, jump: Mapping[str, Any]) -> LinearPart | None:
        """The linear part of a jump's x̂, if it has one; refused where it is missing."""
        if _LINEAR in jump and jump["start"] not in self.linear_parts:
            requirement = f"must come with {_FILE}, which holds A and b of x̂ = network + A z + b"
            remedy = "load it by from_pretrained from the student's folder, not from its config"
            raise InputError("scheduler", requirement, "a config alone", remedy)
        return self.linear_parts.get(jump["start"])

    @property
    def jumps(self) -> list[dict[str, Any]]:
        """The K jumps of networks as they are stored, noise side first."""
        return [jump for jump in self.config["jumps"] if "network" in jump]

    @property
    def free_step(self) -> Jump | None:
        """The step without a network that comes before them, if there is one."""
        first = self.config["jumps"][0]
        part = None if "network" in first else self.linear_part(first)
        return None if part is None else free_jump(self.ddim, first["stop"], part)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Set ``timesteps``, (K,), noise side first; another number than K, or others, are refused.

        Pipelines of flow models pass evenly spread ``sigmas`` and the shift ``mu`` of an image's
        size: the jumps have levels of their own, so that only their number counts.
        """
        number = len(self.jumps)
        num_inference_steps = len(sigmas) if sigmas is not None else num_inference_steps
        if num_inference_steps not in (None, number):
            requirement = f"must be {number}: the student was trained for these steps alone"
            raise InputError("num_inference_steps", requirement, num_inference_steps)
        own = [jump["timestep"] for jump in self.jumps]
        if timesteps is not None and list(timesteps) != own:
            requirement = f"must be {own}: the student was trained for these steps alone"
            raise InputError("timesteps", requirement, list(timesteps))
        self.num_inference_steps = number
        self.timesteps = torch.tensor(own, device=device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Pipelines call it; each jump is found by its timestep."""

    def _jump_at(self, timestep: float | Tensor) -> dict[str, Any]:
        """The jump that reads this network timestep; if there is none, it is refused."""
        for jump in self.jumps:
            if jump["timestep"] == float(timestep):
                return jump
        known = ", ".join(str(jump["timestep"]) for jump in self.jumps)
        raise InputError("timestep", f"must be one of {known}", float(timestep))

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network reads: z, behind a free step where that leads from z_T, times c_in."""
        if timestep is None:
            return sample
        jump = self._jump_at(timestep)
        return self.ddim.to(sample.device).scale(self._moved(sample, jump), jump["start"])

    def _moved(self, sample: Tensor, jump: Mapping[str, Any]) -> Tensor:
        """Where a jump starts: what a plain loop passes, or where the free step leads from z_T."""
        free_step = self.free_step
        if free_step is None or jump["start"] != self.jumps[0]["start"]:
            return sample
        free_step = replace(free_step, denoiser=free_step.denoiser.to(sample.device))
        return compose(self.ddim.to(sample.device), [[free_step]], sample)

    def step(
        self, model_output: Any, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Take the jump that starts at a timestep, from (B, …) states z; no other is accepted.

        Behind a free step the first jump takes z_T.

        It leads to ``prev_sample``, (B, …), by ``pred_original_sample``, (B, …) x̂; without
        ``return_dict`` they are a tuple.
        """
        jump, ddim = self._jump_at(timestep), self.ddim.to(sample.device)
        sample = self._moved(sample, jump)
        estimate = ddim.read(model_output, sample, jump["start"])
        if (part := self.linear_part(jump)) is not None:
            added = part.to(sample.device)(sample)
            estimate = add(ddim, estimate, added, jump["start"])
        landed = ddim.land(estimate, jump["readout"])
        if not return_dict:
            return landed, estimate.x0
        return DDIMSchedulerOutput(prev_sample=landed, pred_original_sample=estimate.x0)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x_0 + sigma ε`` at (B,) timesteps of jumps' starts; no others are accepted."""
        steps = [self._jump_at(timestep)["start"] for timestep in timesteps.reshape(-1).tolist()]
        device = original_samples.device
        return self.ddim.to(device).add_noise(
            original_samples, noise, torch.tensor(steps, device=device)
        )


def _check_jumps(jumps: Sequence[Mapping[str, Any]], num_steps: int) -> None:
    if not jumps:
        raise InputError("jumps", "must have at least one jump")
    for number, jump in enumerate(jumps):
        is_free = number == 0 and len(jumps) > 1 and "network" not in jump
        needed = set(_KEYS) - ({"network"} if is_free else set())
        if set(jump) - {_LINEAR, _SCALINGS} != needed or jump.get(_LINEAR, not is_free) is not True:
            raise InputError(f"jumps[{number}]", f"must have {', '.join(_KEYS)}", sorted(jump))
    places = [num_steps, *(jump["stop"] for jump in jumps)]
    starts = [*(jump["start"] for jump in jumps), 0]
    if places != starts:
        requirement = f"must follow one another from step {num_steps} to 0"
        raise InputError("jumps", requirement, f"starts {starts[:-1]}")
