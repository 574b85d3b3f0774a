"""Images to latents and back, whatever the model: encoders, what they make, how well it fits."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opmerge.checks import check_count, check_whole
from opmerge.data import Progress, Source
from opmerge.data.arrays import write_rows
from opmerge.denoisers.autoencoders import latent_affine, latents_of
from opmerge.denoisers.inputs import network_shape
from opmerge.denoisers.model_folder import snapshot_of
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.teacher_folder import load_network
from opmerge.distillation.sampling import write_image_grid
from opmerge.errors import InputError
from opmerge.files import expand_home, folder_beside, in_place, read_json_object
from opmerge.latents.images import check_black, check_range
from opmerge.latents.vae import ConvVAE, ms_ssim
from opmerge.spectra import Spectrum, estimate_spectrum

_NETWORKS = {
    "ConvVAE": ConvVAE,
    "AutoencoderKL": diffusers.AutoencoderKL,
    "AsymmetricAutoencoderKL": diffusers.AsymmetricAutoencoderKL,
    "VQModel": diffusers.VQModel,
    "AutoencoderTiny": diffusers.AutoencoderTiny,
    "AutoencoderDC": diffusers.AutoencoderDC,
}
_BLOCKS = ("block_out_channels", "encoder_block_out_channels", "down_block_out_channels")
_PCA_CLASS, _SPECTRUM = "PCAEncoder", "spectrum.npz"
_CPU = torch.device("cpu")
_BATCH_SIZE = 64
_COLUMNS = 8  # of pictures


class Encoder(ABC):
    """An autoencoder of images in [-1, 1]; latents are flat, (B, num_latents)."""

    image_shape: tuple[int, ...]  # (C, H, W)
    latent_shape: tuple[int, ...]  # of the latents of one image before they are flattened

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

    def __init__(self, network: ConvVAE) -> None:
        self.network = network
        self.image_shape = tuple(network.config["image_shape"])
        self.latent_shape = (int(network.config["num_latents"]),)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.encode(images.to(self.network.device))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
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
        rows = images.to(self.device, torch.float32).flatten(1)
        return (rows - self._mean) @ self._basis.T, None

    def decode(self, latents: Tensor) -> Tensor:
        rows = self._mean + latents.to(self.device, torch.float32) @ self._basis
        return rows.view(-1, *self.image_shape)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder that ``load_encoder`` reads, whole, or raise ``InputError``."""
        target = Path(folder)
        with folder_beside(target) as unfinished:
            self.spectrum.save(unfinished / _SPECTRUM)
            config = {"_class_name": _PCA_CLASS, "num_latents": self.num_latents}
            (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return target


def fit_pca(source: Source, num_latents: int, progress: Progress | None = None) -> PCAEncoder:
    """The principal components of a source, from its covariance in one pass.

    Memory does not depend on the number of images.

    Raises:
        InputError: if the rank is not below the number of images, or is above the number of
            values of an image, or all images are equal.
    """
    limit = min(source.num_features, source.num_samples - 1)
    if check_count("num_latents", num_latents) > limit:
        raise InputError(
            "num_latents",
            f"must be <= {limit} for {source.num_samples} images of {source.num_features} values",
            num_latents,
        )
    return PCAEncoder(estimate_spectrum(source, top_k=num_latents, progress=progress))


class DiffusersEncoder(Encoder):
    """diffusers' ``AutoencoderKL``, ``VQModel`` or another autoencoder, for images of one shape.

    Latents are what a latent diffusion model reads: ``(z - shift_factor) · scaling_factor``, or
    where its config has them ``(z - latents_mean) · scaling_factor / latents_std`` by channel, as
    in diffusers' pipelines, with variances, where there are any, scaled alike, and flattened; of a
    ``VQModel`` they are those before its codes. A grey image is given to a
    colour model three times, and the colours that it gives back are averaged.

    Raises:
        InputError: if the network cannot code images of the shape (C, H, W), whose sides must be
            multiples of its downsampling, or its config has not as many means as channels.
    """

    def __init__(self, network: Any, image_shape: tuple[int, ...]) -> None:
        config, name = network.config, type(network).__name__
        blocks = next(config[key] for key in _BLOCKS if config.get(key) is not None)
        factor = 2 ** (len(blocks) - 1)
        if len(image_shape) != 3 or image_shape[0] not in (1, config.in_channels):
            counts = " or ".join(map(str, sorted({1, config.in_channels})))
            raise InputError(
                "images",
                f"must have shape (channels, height, width), channels {counts}, for this {name}",
                image_shape,
                "read a folder with `grey=True`, or make them grey beforehand",
            )
        if any(side < 1 or side % factor for side in image_shape[1:]):
            raise InputError(
                "images",
                f"must have sides that are multiples of {factor} for this {name}",
                image_shape,
                "choose another `image_size` (`patch_size` for patches), or resize them beforehand",
            )
        channels = config.latent_channels
        moments = (config.get("latents_mean"), config.get("latents_std"))
        for values in () if None in moments else moments:  # like the pipelines, both or none
            if not isinstance(values, Sequence) or len(values) != channels:
                needed = f"must have latents_mean and latents_std of {channels} channels"
                raise InputError("vae", f"{needed} in config.json", values)
        self.network, self.image_shape = network, image_shape
        sides = (side // factor for side in image_shape[1:])
        self.latent_shape = (channels, *sides)
        self._shift, self._scale = latent_affine(network, torch.zeros(0, device=network.device))

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        colours = self.network.config.in_channels
        colour = images.to(self.network.device).expand(-1, colours, -1, -1)
        found = self.network.encode(colour)
        law = getattr(found, "latent_dist", None)
        if law is None:
            return ((latents_of(found) - self._shift) * self._scale).flatten(1), None
        means = (law.mean - self._shift) * self._scale
        return means.flatten(1), (law.logvar + 2 * self._scale.log()).flatten(1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        shaped = latents.to(self.network.device).view(-1, *self.latent_shape)
        images: Tensor = self.network.decode(shaped / self._scale + self._shift).sample
        return images if self.image_shape[0] != 1 else images.mean(dim=1, keepdim=True)


def load_encoder(
    folder: str | os.PathLike[str],
    image_shape: tuple[int, ...] | None = None,
    device: torch.device = _CPU,
) -> Encoder:
    """The encoder in a local folder: a ``ConvVAE``, a fitted PCA or an autoencoder of diffusers.

    The folder is that of the model, or one with a folder ``vae`` or ``vqvae`` in it: a run of
    ``opmerge vae train``, or a diffusers pipeline. Nothing is downloaded and nothing unpickled.
    ``image_shape`` is (C, H, W) of the images to come. One of diffusers takes any that it can code,
    by default its ``sample_size`` in its colours; others know their own.

    Raises:
        InputError: if there is none, it is damaged, or it is for images of another shape.
    """
    place, class_name = find_encoder(folder)
    encoder = _load(place, class_name, image_shape, device)
    if image_shape is not None and encoder.image_shape != image_shape:
        channels, height, width = encoder.image_shape
        grey = f"`grey=True`, patches with `patch_size={height}`"
        remedy = f"a folder is read so with `image_size={height}` "
        remedy += grey if channels == 1 else "and without `grey`"
        raise InputError(
            "images",
            f"must have the shape that {place} was made for, {encoder.image_shape}",
            image_shape,
            remedy if height == width else "resize them beforehand",
        )
    return encoder


def find_encoder(folder: str | os.PathLike[str]) -> tuple[Path, str]:
    """The folder of the model, this or one in it, and its class; refused if there is none."""
    root, classes = snapshot_of(in_place(expand_home(folder))), (*_NETWORKS, _PCA_CLASS)
    for place in (root, in_place(root / "vae"), root / "vqvae"):
        if (place / "config.json").is_file():
            name = read_json_object(place / "config.json").get("_class_name")
            if name in classes:
                return place, name
    raise InputError(
        "vae",
        f"must be a folder with a config.json of {', '.join(classes)}",
        str(root),
        "make one with `opmerge vae train`",
    )


def _load(
    place: Path, class_name: str, image_shape: tuple[int, ...] | None, device: torch.device
) -> Encoder:
    if class_name == _PCA_CLASS:
        return PCAEncoder(Spectrum.load(place / _SPECTRUM), device)
    network = load_network(place, _NETWORKS[class_name]).to(device).requires_grad_(False).eval()
    if isinstance(network, ConvVAE):
        return VAEEncoder(network)
    channels, side = network.config.in_channels, network.config.get("sample_size")
    if image_shape is None and not isinstance(side, int):
        raise InputError(
            "image_shape",
            f"must be given, for the config.json in {place} has no whole number sample_size",
            side,
            f"such as `image_shape=({channels}, 64, 64)`",
        )
    return DiffusersEncoder(network, image_shape or (channels, side, side))


def encode_source(
    encoder: Encoder,
    source: Source,
    path: str | os.PathLike[str],
    *,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = _BATCH_SIZE,
    progress: Progress | None = None,
) -> Path:
    """Write the latents of all samples of a source to a ``.npy`` file, (N, *latent_shape) float32.

    That is the shape in which a network of a latent diffusion model reads them.
    The file appears when it is whole. Memory does not depend on N. With ``sample`` it holds
    ``mean + exp(log_variance / 2) · noise`` instead of means; the noise of image i depends on the
    seed and on i alone.

    Raises:
        InputError: if the images have another shape or values outside [-1, 1], or those of a
            file all in [0, 1]; if samples are asked of an encoder without variances, or the
            latents cannot be written.
    """
    check_count("batch_size", batch_size)
    check_whole("seed", seed)
    if network_shape(source) != encoder.image_shape:
        raise InputError(
            source.name,
            f"must hold images of the encoder's shape, {encoder.image_shape}",
            source.shape,
        )

    def batches() -> Iterator[Tensor]:
        first, low, high = 0, math.inf, -math.inf
        for rows in source.batches():
            images = torch.from_numpy(rows.astype(np.float32)).view(-1, *encoder.image_shape)
            least, largest = check_range(images)
            low, high = min(low, least), max(high, largest)
            for part in torch.split(images, batch_size):
                mean, log_variance = encoder.encode(part)
                yield (_draw(mean, log_variance, seed, first) if sample else mean).cpu()
                first += len(part)
        check_black(source, low, high)

    return write_rows(path, (source.num_samples, *encoder.latent_shape), batches(), progress)


def decode_latents(
    encoder: Encoder, latents: NDArray[np.floating], batch_size: int = _BATCH_SIZE
) -> Iterator[Tensor]:
    """Batches of images, (B, C, H, W) on the CPU.

    Latents are (N, num_latents), or (N, *latent_shape) before they are flattened.

    Raises:
        InputError: at once, if the latents have another shape; later, if one is not finite.
    """
    shapes = {(encoder.num_latents,), encoder.latent_shape}
    if latents.shape[1:] not in shapes or not len(latents):
        numbers = (", ".join(map(str, shape)) for shape in sorted(shapes, key=len))
        wanted = " or ".join(f"(N, {each})" for each in numbers)
        raise InputError("latents", f"must have shape {wanted} for this encoder", latents.shape)
    check_count("batch_size", batch_size)
    flat = latents.reshape(len(latents), -1)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(flat), batch_size):
            rows = np.array(flat[start : start + batch_size], dtype=np.float32)
            for bad in np.flatnonzero(~np.isfinite(rows).all(axis=1))[:1]:
                raise InputError("latents", "must be finite", f"row {start + bad} is not")
            yield encoder.decode(torch.from_numpy(rows)).cpu()

    return batches()


@dataclass(frozen=True)
class Quality:
    """Means over images of what decoding the mean latents gives back, cut off at [-1, 1].

    MS-SSIM is 1 for equal images; the squared error is that of a value.
    """

    ms_ssim: float
    mse: float
    num_images: int


@torch.no_grad()
def reconstruct(encoder: Encoder, images: Tensor, batch_size: int = _BATCH_SIZE) -> Tensor:
    """(N, C, H, W) images decoded from the mean latents of images, cut off at [-1, 1]."""
    parts = [encoder.decode(encoder.encode(part)[0]) for part in torch.split(images, batch_size)]
    return torch.cat(parts).clamp(-1, 1).to(images.device)


@torch.no_grad()
def reconstruction_quality(
    encoder: Encoder, images: Tensor, batch_size: int = _BATCH_SIZE
) -> Quality:
    """The quality of (N, C, H, W) images in [-1, 1]."""
    similarity = error = 0.0
    for part in torch.split(images.float(), batch_size):
        found = reconstruct(encoder, part, batch_size)
        similarity += float(ms_ssim(found.double(), part.double()).sum())
        error += float((found - part).double().square().mean(dim=(1, 2, 3)).sum())
    return Quality(similarity / len(images), error / len(images), len(images))


def write_pairs(path: Path, images: Tensor, reconstructions: Tensor) -> Path:
    """Write a PNG of rows of images, each row above that of their reconstructions."""
    columns = min(_COLUMNS, len(images))
    count = len(images) // columns * columns
    rows = [x[:count].view(-1, columns, *x.shape[1:]) for x in (images, reconstructions)]
    return write_image_grid(path, torch.stack(rows, dim=1).flatten(0, 2), columns)


def _draw(mean: Tensor, log_variance: Tensor | None, seed: int, first: int) -> Tensor:
    if log_variance is None:
        raise InputError("sample", "must be left out: the encoder has no variances")
    noise = initial_noise(tuple(mean.shape[1:]), len(mean), seed, first, str(mean.device))
    return mean + torch.exp(log_variance / 2) * noise
