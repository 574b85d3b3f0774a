"""Images to latents and back, whatever the model: the three verbs that studies use."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from opmerge.checks import check_count
from opmerge.data import Progress, Source
from opmerge.denoisers.teacher_folder import load_network
from opmerge.errors import InputError
from opmerge.files import expand_home, folder_beside, read_json_object
from opmerge.latents.vae import ConvVAE
from opmerge.spectra import Spectrum, estimate_spectrum

_PCA_CLASS, _SPECTRUM = "PCAEncoder", "spectrum.npz"
_CPU = torch.device("cpu")


class Encoder(ABC):
    """An autoencoder of images in [-1, 1]; latents are flat, (B, num_latents)."""

    name: ClassVar[str]
    """What kind it is."""

    image_shape: tuple[int, ...]
    """(C, H, W)."""

    latent_shape: tuple[int, ...]
    """Of the latents of one image before they are flattened."""

    @property
    def num_latents(self) -> int:
        """Values of the latents of one image."""
        return math.prod(self.latent_shape)

    @abstractmethod
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means, and log variances if there are any, of (B, C, H, W) images."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) images of (B, num_latents) latents."""


class VAEEncoder(Encoder):
    """A ``ConvVAE``, in its evaluation mode."""

    name = "vae"

    def __init__(self, network: ConvVAE) -> None:
        self.network = network
        self.image_shape = tuple(network.config["image_shape"])
        self.latent_shape = (int(network.config["num_latents"]),)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Encoder``."""
        return self.network.encode(images.to(self.network.device))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Encoder``."""
        return self.network.decode(latents.to(self.network.device))


class PCAEncoder(Encoder):
    """The best linear autoencoder: ``z = B (x - mean)`` and back ``x = mean + Bᵀ z``.

    The rows of B, principal components, are orthonormal. Of all linear maps to as many latents it
    gives images back with the least squared error, and its latents are uncorrelated, with the
    data's largest eigenvalues for variances. Images are not cut off at [-1, 1].

    Raises:
        InputError: if the spectrum, of the images it was fitted to, has no eigenvectors, mean or
            shape.
    """

    name = "pca"

    def __init__(self, spectrum: Spectrum, device: torch.device = _CPU) -> None:
        if spectrum.basis is None or spectrum.mean is None or not spectrum.shape:
            raise InputError("spectrum", "must have eigenvectors, a mean and a shape")
        self.spectrum, self.device, shape = spectrum, device, spectrum.shape
        self.image_shape = (1, *shape) if len(shape) == 2 else shape
        self.latent_shape = (len(spectrum.eigenvalues),)
        self._basis, self._mean = (
            torch.from_numpy(np.array(values, np.float32, order="C")).to(device)
            for values in (spectrum.basis, spectrum.mean)
        )

    def encode(self, images: Tensor) -> tuple[Tensor, None]:
        """See ``Encoder``; latents have no variance."""
        rows = images.to(self.device, torch.float32).flatten(1)
        return (rows - self._mean) @ self._basis.T, None

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Encoder``."""
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
            config = {"_class_name": _PCA_CLASS, "num_latents": self.num_latents}
            (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return target


def fit_pca(source: Source, num_latents: int, progress: Progress | None = None) -> PCAEncoder:
    """The principal components of a source, from its covariance in one pass.

    Memory does not depend on the number of images. The rank is below it, and at most the number of
    values of an image.

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


class AutoencoderKLEncoder(Encoder):
    """diffusers' ``AutoencoderKL`` for images of one shape.

    Latents are what a latent diffusion model reads: ``(z - shift_factor) · scaling_factor``, or
    where its config has them ``(z - latents_mean) · scaling_factor / latents_std`` by channel, as
    in diffusers' pipelines, with variances scaled alike, and flattened. A grey image is given to a
    colour model three times, and the colours that it gives back are averaged.

    Raises:
        InputError: if the network cannot code images of the shape (C, H, W), whose sides must be
            multiples of its downsampling, or its config has not as many means as channels.
    """

    name = "autoencoder-kl"

    def __init__(self, network: AutoencoderKL, image_shape: tuple[int, ...]) -> None:
        config, factor = network.config, 2 ** (len(network.config.block_out_channels) - 1)
        if len(image_shape) != 3 or image_shape[0] not in (1, config.in_channels):
            counts = " or ".join(map(str, sorted({1, config.in_channels})))
            raise InputError(
                "images",
                f"must have shape (channels, height, width), channels {counts}, for this "
                "AutoencoderKL",
                image_shape,
                "read a folder with `grey=True`, or make them grey beforehand",
            )
        if any(side < 1 or side % factor for side in image_shape[1:]):
            raise InputError(
                "images",
                f"must have sides that are multiples of {factor} for this AutoencoderKL",
                image_shape,
                "choose another `image_size` (`patch_size` for patches), or resize them beforehand",
            )
        moments = config.latents_mean, config.latents_std
        has_moments = None not in moments  # like the pipelines, both or none
        for values in moments if has_moments else ():
            if not isinstance(values, Sequence) or len(values) != config.latent_channels:
                raise InputError(
                    "vae",
                    f"must have latents_mean and latents_std of {config.latent_channels} channels "
                    "in config.json",
                    values,
                )
        self.network, self.image_shape = network, image_shape
        sides = (side // factor for side in image_shape[1:])
        self.latent_shape = (config.latent_channels, *sides)
        shift, deviation = (  # (channels or 1, 1, 1)
            torch.tensor(values, dtype=torch.float32, device=network.device).view(-1, 1, 1)
            for values in (moments if has_moments else ([config.shift_factor or 0.0], [1.0]))
        )
        self._shift, self._scale = shift, config.scaling_factor / deviation

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Encoder``."""
        colours = self.network.config.in_channels
        colour = images.to(self.network.device).expand(-1, colours, -1, -1)
        found = self.network.encode(colour).latent_dist
        means = (found.mean - self._shift) * self._scale
        return means.flatten(1), (found.logvar + 2 * self._scale.log()).flatten(1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Encoder``."""
        shaped = latents.to(self.network.device).view(-1, *self.latent_shape)
        images: Tensor = self.network.decode(shaped / self._scale + self._shift).sample
        return images if self.image_shape[0] != 1 else images.mean(dim=1, keepdim=True)


def load_encoder(
    folder: str | os.PathLike[str],
    image_shape: tuple[int, ...] | None = None,
    device: torch.device = _CPU,
) -> Encoder:
    """The encoder in a local folder: a ``ConvVAE``, a fitted PCA or diffusers' ``AutoencoderKL``.

    The folder is that of the model, or one with a folder ``vae`` in it: a run of
    ``opmerge vae train``, or a diffusers pipeline. Nothing is downloaded and nothing unpickled.

    Args:
        image_shape: (C, H, W) of the images to come. An ``AutoencoderKL`` takes any that it can
            code, by default its ``sample_size`` in its colours; others know their own.
        device: where it is put.

    Raises:
        InputError: if there is none, it is damaged, or it is for images of another shape.
    """
    place, class_name = find_encoder(folder)
    encoder = _LOADERS[class_name](place, image_shape, device)
    if image_shape is not None and encoder.image_shape != image_shape:
        channels, height, width = encoder.image_shape
        if height != width:
            remedy = "resize them beforehand"
        elif channels == 1:
            remedy = (
                f"a folder is read so with `image_size={height}` `grey=True`, patches with "
                f"`patch_size={height}`"
            )
        else:
            remedy = f"a folder is read so with `image_size={height}` and without `grey`"
        raise InputError(
            "images",
            f"must have the shape that {place} was made for, {encoder.image_shape}",
            image_shape,
            remedy,
        )
    return encoder


def find_encoder(folder: str | os.PathLike[str]) -> tuple[Path, str]:
    """The folder of the model, which may be ``vae`` in this one, and the class of its config.json.

    Raises:
        InputError: if there is none.
    """
    root = expand_home(folder)
    for place in (root, root / "vae"):
        if (place / "config.json").is_file():
            name = read_json_object(place / "config.json").get("_class_name")
            if isinstance(name, str) and name in _LOADERS:
                return place, name
    raise InputError(
        "vae",
        f"must be a folder with a config.json of {', '.join(_LOADERS)}",
        str(root),
        "make one with `opmerge vae train`",
    )


def _load_vae(place: Path, image_shape: tuple[int, ...] | None, device: torch.device) -> Encoder:
    return VAEEncoder(load_network(place, ConvVAE).to(device).requires_grad_(False).eval())


def _load_pca(place: Path, image_shape: tuple[int, ...] | None, device: torch.device) -> Encoder:
    return PCAEncoder(Spectrum.load(place / _SPECTRUM), device)


def _load_kl(place: Path, image_shape: tuple[int, ...] | None, device: torch.device) -> Encoder:
    network = load_network(place, AutoencoderKL).to(device).requires_grad_(False).eval()
    channels, side = network.config.in_channels, network.config.sample_size
    if image_shape is None and not isinstance(side, int):
        raise InputError(
            "image_shape",
            f"must be given, for the config.json in {place} has no whole number sample_size",
            side,
            f"such as `image_shape=({channels}, 64, 64)`",
        )
    return AutoencoderKLEncoder(network, image_shape or (channels, side, side))


_LOADERS = {"ConvVAE": _load_vae, _PCA_CLASS: _load_pca, "AutoencoderKL": _load_kl}
