"""The one noun of everything that follows: a denoiser says of z what x_0 and the noise are.

With ``z = alpha x_0 + sigma ε`` any prediction form of a network is a linear map between
(output, z) and (x̂, ε̂), one line each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

Step = int | Tensor
"""A step of the schedule: one for the whole batch, or (B,) one a sample."""

_Conditions = TypeVar("_Conditions")

LABELS = "class_labels"
"""The rows of a condition that say the class of each sample."""

SCALE = "guidance_scale"
"""The rows of a condition that say w of each sample: a guided teacher is drawn by it, and a network
that embeds it is told what its family makes of it."""


@dataclass(frozen=True, eq=False)
class Condition:
    """What a network is told beside z and the time: (B, …) rows, one a sample.

    They are called as the network's arguments are, such as ``encoder_hidden_states``.
    """

    rows: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def __getitem__(self, index: Tensor | slice) -> Condition:
        """The rows of some samples."""
        return Condition({name: values[index] for name, values in self.rows.items()})

    def named(self, names: Container[str]) -> Condition:
        """The rows of these names alone."""
        return Condition({name: rows for name, rows in self.rows.items() if name in names})

    def take(self, rows: Tensor) -> Condition:
        """The rows of some samples: see ``KeptConditions``."""
        return self[rows]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of what is told of one sample, by names."""
        return {name: tuple(values.shape[1:]) for name, values in self.rows.items()}

    @property
    def row_bytes(self) -> int:
        """Bytes of what is told of one sample."""
        return sum(values[:1].nbytes for values in self.rows.values())

    def identity(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for name in sorted(self.rows):
            values = self.rows[name].detach().cpu().contiguous()
            digest.update(repr((name, values.dtype, tuple(values.shape))).encode())
            digest.update(values.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, device: torch.device | str) -> Condition:
        """The same rows on a device."""
        return Condition({name: values.to(device) for name, values in self.rows.items()})

    def chunk(self, parts: int) -> list[Condition]:
        """Equal parts, in order, as ``Tensor.chunk``."""
        cut = zip(*(values.chunk(parts) for values in self.rows.values()), strict=True)
        return [Condition(dict(zip(self.rows, part, strict=True))) for part in cut]


def as_condition(condition: Tensor | _Conditions) -> Condition | _Conditions:
    """Conditions, or None, as they are; a (B,) tensor stands for class labels."""
    return Condition({LABELS: condition}) if isinstance(condition, Tensor) else condition


@dataclass(frozen=True)
class Estimate:
    """What a denoiser says of its input: (B, …) x̂ of the clean sample and (B, …) ε̂."""

    x0: Tensor
    noise: Tensor


class Denoiser(Protocol):
    """Says of noised samples what is signal and what is noise.

    Distillation, probes, evaluation and sampling know no more of a teacher or a student than
    this; guidance, another prediction form or another family of networks is another denoiser.
    """

    @property
    def network(self) -> nn.Module:
        """What holds the weights: a student starts from a copy of it."""

    def __call__(self, z: Tensor, step: Step, condition: Condition | None = None) -> Estimate:
        """Estimates of x_0 and of the noise in (B, …) states at a step, or at one each."""

    def using(self, network: nn.Module) -> Denoiser:
        """The same denoiser with other weights."""

    def to(self, device: torch.device) -> Denoiser:
        """The same denoiser on a device; this one stays where it is."""


@dataclass(frozen=True)
class Prediction:
    """A form in both directions; alpha (``a``) and sigma (``s``) broadcast over the samples.

    Args:
        estimate: (output, z, alpha, sigma) to the estimates that they imply.
        target: (x_0, ε, alpha, sigma) to the output that is right.
        error: (alpha, sigma) to the output's error when x̂ errs by 1.
    """

    estimate: Callable[[Tensor, Tensor, Tensor, Tensor], Estimate]
    target: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    error: Callable[[Tensor, Tensor], Tensor]


PREDICTIONS: Mapping[str, Prediction] = {
    "epsilon": Prediction(
        lambda out, z, a, s: Estimate((z - s * out) / a, out),
        lambda x0, eps, a, s: eps,
        lambda a, s: a / s,
    ),
    "sample": Prediction(
        lambda out, z, a, s: Estimate(out, (z - a * out) / s),
        lambda x0, eps, a, s: x0,
        lambda a, s: a.new_ones(a.shape),
    ),
    "v_prediction": Prediction(
        lambda out, z, a, s: Estimate(a * z - s * out, a * out + s * z),
        lambda x0, eps, a, s: a * eps - s * x0,
        lambda a, s: (a**2 + s**2) / s,
    ),
    "flow_prediction": Prediction(
        lambda out, z, a, s: Estimate((z - s * out) / (a + s), (z + a * out) / (a + s)),
        lambda x0, eps, a, s: eps - x0,
        lambda a, s: (a + s) / s,
    ),
}
"""Every form by the name that a scheduler's ``prediction_type`` has; a new one is one entry."""
