"""Classifier-free guidance: a denoiser that is asked twice, and its answers drawn apart.

With the outputs F of a network that is told a condition c, and of the same network told nothing,

    F_w(z, c) = F(z, ∅) + w (F(z, c) - F(z, ∅))

is what diffusers' pipelines take for the output (Ho & Salimans 2022, their scale being 1 + w of the
paper). Every form of prediction is affine in x̂ at a given z, so x̂ and ε̂ are drawn apart alike. A
negative prompt is another row in the place of ∅.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from opmerge.denoisers.denoiser import SCALE, Condition, Estimate, Step, as_condition
from opmerge.denoisers.families import Rows, config_of, family_of
from opmerge.denoisers.sampler import NetworkDenoiser
from opmerge.errors import InputError
from opmerge.settings.guidance import GuidanceOptions, GuidanceRecord, Scale, guidance_record


@dataclass(frozen=True, eq=False)
class Guidance:
    """How a teacher is guided.

    Args:
        scale: w; 1 is no guidance, 0 the network that is told nothing. Of a range each sample is
            told its own, in the rows ``SCALE`` of its condition.
        null: one row, told in the place of the condition.
        steps: of the teacher, at which it is on (Kynkäänniemi et al. 2024); elsewhere w is 1.
        null_first: the order in a batch of those that are told nothing and of the others, which
            matters to no more than rounding.
        negative_prompt: that the null row is of, as files say it.
    """

    scale: Scale
    null: Condition
    steps: range
    null_first: bool = True
    negative_prompt: str = ""

    @classmethod
    def of(
        cls,
        options: GuidanceOptions,
        network: nn.Module,
        needs: Mapping[str, Rows],
        num_steps: int,
        null: Condition | None = None,
    ) -> Guidance | None:
        """The guidance that is asked for; None where none is.

        Args:
            needs: what the network is told.
            null: one row; by default the family's own, such as the class that stands for none.

        Raises:
            InputError: if the network is told nothing, knows of no null, or there is no such step.
        """
        scale, asked, steps = options.scale, options.guidance_scale, options.steps(num_steps)
        if scale is None:
            return None
        if not needs:
            requirement = "must be left out: the teacher's network is told no condition"
            raise InputError("guidance_scale", requirement, asked)
        config = config_of(network)
        family = family_of(config)
        if family.guidance_rows(config, torch.ones(1)):
            requirement = "must be left out: this network is told its scale with its conditions"
            raise InputError("guidance_scale", requirement, asked)
        label = family.null_class(config)
        if null is None and label is not None:
            null = as_condition(torch.tensor([label]))
        if null is None:
            raise InputError(
                "guidance_scale",
                "must come with a network that was trained to be told nothing",
                f"{asked} for {config['_class_name']}",
                "train one with `label_dropout=0.1`",
            )
        return (
            None
            if scale == 1
            else cls(scale, null, steps, family.null_first, options.negative_prompt)
        )

    def to(self, device: torch.device) -> Guidance:
        """The same guidance with its row on a device."""
        return replace(self, null=self.null.to(device))

    def record(self) -> GuidanceRecord:
        """What files say of it: all but its row."""
        return guidance_record(self.scale, self.steps, self.negative_prompt)

    def digest(self) -> str:
        """SHA-256 of all that the guided teacher depends on beside the network."""
        scale = self.scale if isinstance(self.scale, tuple) else float(self.scale)
        digest = hashlib.sha256(repr((scale, self.steps)).encode())
        for name, row in sorted(self.null.rows.items()):
            digest.update(name.encode())
            digest.update(
                row.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Guided:
    """A ``Denoiser`` under guidance: two evaluations of each sample, in one batch, where it is on.

    Its rows are in the order of the family's pipeline, whose bits the outputs then have.
    """

    denoiser: NetworkDenoiser
    guidance: Guidance

    @property
    def network(self) -> nn.Module:
        return self.denoiser.network

    def __call__(self, z: Tensor, step: Step, condition: Condition | None = None) -> Estimate:
        return self.estimates(z, step, condition)[0]

    def estimates(
        self, z: Tensor, step: Step, condition: Condition | None = None
    ) -> tuple[Estimate, Estimate]:
        """The guided estimate, and that of the network which is told the condition alone.

        Raises:
            InputError: without a condition.
        """
        if condition is None:
            raise InputError("condition", "must be told to a guided denoiser")
        steps = self.guidance.steps
        if isinstance(step, int):
            rows = torch.arange(len(z) if step in steps else 0, device=z.device)
        else:
            rows = torch.nonzero((step >= steps.start) & (step < steps.stop)).squeeze(1)
        null, plain = self._outputs(z, rows, step, condition)
        drawn = null + self._scale(z, rows, condition) * (plain[rows] - null)
        guided = drawn if len(rows) == len(z) else plain.index_copy(0, rows, drawn)
        read = self.denoiser.sampler.read
        return read(guided, z, step), read(plain, z, step)

    def _scale(self, z: Tensor, rows: Tensor, told: Condition) -> float | Tensor:
        """w, or of a range that of some rows, so that it broadcasts over states."""
        if not isinstance(self.guidance.scale, tuple):
            return self.guidance.scale
        if SCALE not in told.rows:
            raise InputError("condition", f"must tell {SCALE} of each sample", sorted(told.rows))
        return told.rows[SCALE][rows].view(-1, *[1] * (z.ndim - 1))

    def _outputs(
        self, z: Tensor, rows: Tensor, step: Step, told: Condition
    ) -> tuple[Tensor, Tensor]:
        """What the network says of some rows, told nothing, and of all as they are told."""
        null = self.guidance.null.rows
        condition = {  # null may leave out rows, such as sizes, that are told in either case
            name: self._joined(
                null[name].expand(len(rows), *values.shape[1:]) if name in null else values[rows],
                values,
            )
            for name, values in told.rows.items()
        }
        steps = step if isinstance(step, int) else self._joined(step[rows], step)
        both = self.denoiser.output(self._joined(z[rows], z), steps, Condition(condition))
        if self.guidance.null_first:
            return both[: len(rows)], both[len(rows) :]
        return both[len(z) :], both[: len(z)]

    def _joined(self, null: Tensor, told: Tensor) -> Tensor:
        return torch.cat([null, told] if self.guidance.null_first else [told, null])

    def using(self, network: nn.Module) -> Guided:
        return replace(self, denoiser=self.denoiser.using(network))

    def to(self, device: torch.device) -> Guided:
        return replace(self, denoiser=self.denoiser.to(device), guidance=self.guidance.to(device))
