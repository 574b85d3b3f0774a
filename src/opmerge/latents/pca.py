"""The best linear autoencoder: the first principal components, fitted in one pass over a source."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opmerge.checks import check_count
from opmerge.data import Progress, Source
from opmerge.data.source import source_from_rows
from opmerge.errors import InputError
from opmerge.files import folder_beside
from opmerge.spectra import Spectrum, estimate_spectrum

__all__ = ["PCA_CLASS", "PCAEncoder", "fit_pca", "rows_source"]

PCA_CLASS = "PCAEncoder"
_SPECTRUM = "spectrum.npz"
_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class PCAEncoder:
    """``z = B (x - mean)`` and back ``x = mean + Bᵀ z``, with the rows of B orthonormal.

    Of all linear maps to as many latents it gives images back with the least squared error, and
    its latents are uncorrelated, with the data's largest eigenvalues for variances.

    Args:
        spectrum: of the images it was fitted to, with eigenvectors and mean.
        device: where it computes.

    Raises:
        InputError: if the spectrum has no eigenvectors, mean or shape.
    """

    spectrum: Spectrum
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if self.spectrum.basis is None or self.spectrum.mean is None or not self.spectrum.shape:
            raise InputError("spectrum", "must have eigenvectors, a mean and a shape")

    @property
    def name(self) -> str:
        """``pca``."""
        return "pca"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        shape = self.spectrum.shape
        return (1, *shape) if len(shape) == 2 else shape

    @property
    def num_latents(self) -> int:
        """Its rank."""
        return len(self.spectrum.eigenvalues)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(num_latents,)."""
        return (self.num_latents,)

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """(B, num_latents) latents of (B, C, H, W) images; they have no variance."""
        rows = images.to(self.device, torch.float32).flatten(1)
        return (rows - self._mean) @ self._basis.T, None

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) images of (B, num_latents) latents, not cut off at [-1, 1]."""
        rows = self._mean + latents.to(self.device, torch.float32) @ self._basis
        return rows.view(-1, *self.image_shape)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder that ``load_encoder`` reads, whole or not at all.

        Raises:
            InputError: if it cannot be written.
        """
        target = Path(folder)
        with folder_beside(target) as unfinished:
            self.spectrum.save(unfinished / _SPECTRUM)
            config = {"_class_name": PCA_CLASS, "num_latents": self.num_latents}
            (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str], device: torch.device = _CPU) -> PCAEncoder:
        """Read what ``save`` wrote.

        Raises:
            InputError: if it is missing or damaged.
        """
        return cls(Spectrum.load(Path(folder) / _SPECTRUM), device)

    @cached_property
    def _basis(self) -> Tensor:
        return torch.from_numpy(np.array(self.spectrum.basis, np.float32, order="C")).to(
            self.device
        )

    @cached_property
    def _mean(self) -> Tensor:
        return torch.from_numpy(np.array(self.spectrum.mean, np.float32)).to(self.device)


def fit_pca(source: Source, num_latents: int, progress: Progress | None = None) -> PCAEncoder:
    """The principal components of a source, from its covariance in one pass.

    Args:
        source: the images; memory does not depend on their number.
        num_latents: rank, below the number of images and at most the number of values of one.
        progress: called with the number of images read so far.

    Raises:
        InputError: if the rank is out of range or all images are equal.
    """
    limit = min(source.num_features, source.num_samples - 1)
    if check_count("num_latents", num_latents) > limit:
        raise InputError(
            "num_latents",
            f"must be <= {limit} for {source.num_samples} images of {source.num_features} values",
            num_latents,
        )
    return PCAEncoder(estimate_spectrum(source, top_k=num_latents, progress=progress))


def rows_source(data: Tensor, rows: Tensor, source: Source) -> Source:
    """Some rows of the samples of a source, as a source of its own.

    Args:
        data: (N, …) all samples, such as a memory-mapped file of them.
        rows: (n,) which of them.
        source: where they come from.
    """
    return source_from_rows(
        source.name,
        source.shape,
        len(rows),
        lambda start, stop: data[rows[start:stop]].numpy(),
        scaling=source.scaling,
        notes=source.notes,
    )
