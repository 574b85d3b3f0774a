"""Latents decoded: images of (N, d) rows, and errors of a pixel with their intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opmerge.arrays import Array
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Student, Teacher
from opmerge.distillation.sampling import draw_samples
from opmerge.latents import Encoder, decode_latents, load_encoder
from opmerge.measure.linearity import as_rows
from opmerge_studies.shared.networks import NOISE_SEED, picture

NUM_SHOWN = 12  # images of a row
_BATCH = 256  # samples drawn at a time


@dataclass(frozen=True, eq=False)
class Decoded:
    """A teacher's samples as an autoencoder decodes them, which students' are compared to."""

    encoder: Encoder
    images: Tensor
    num_samples: int

    @classmethod
    def of(cls, teacher: Teacher, vae: str, num_samples: int) -> Decoded:
        """Those of equal noise as students are compared on, by a saved autoencoder."""
        encoder = load_encoder(vae)
        return cls(encoder, _decoded(encoder, teacher, num_samples), num_samples)

    @property
    def digest(self) -> list[str]:
        """What cells depend on: all that the teacher decodes to."""
        return [DataInputs(self.images).identity()]

    def cell(self, student: Student) -> dict[str, Any]:
        """The paired error of a pixel, with its interval, and a row of a student's images."""
        images = _decoded(self.encoder, student, self.num_samples)
        errors = (images - self.images).flatten(1).numpy()
        return {"pixels": paired(errors), "png": picture(images[:NUM_SHOWN])}


def _decoded(encoder: Encoder, sampler: Teacher | Student, count: int) -> Tensor:
    return decode(encoder, as_rows(draw_samples(sampler, count, NOISE_SEED, _BATCH)))


def decode(encoder: Encoder, rows: Array) -> Tensor:
    """(N, C, H, W) images of (N, d) latents, float64 on the CPU."""
    return torch.cat(list(decode_latents(encoder, rows))).double()


def paired(errors: Array) -> dict[str, float]:
    """Root mean square of a pixel's error, and its normal interval over (N, …) samples."""
    each = (errors**2).mean(axis=1)
    reach = 1.96 * each.std(ddof=1) / np.sqrt(len(each))
    ends = np.maximum(each.mean() + np.array([0.0, -reach, reach]), 0.0)
    names = ("paired_rms", "paired_low", "paired_high")
    return dict(zip(names, np.sqrt(ends).tolist(), strict=True))
