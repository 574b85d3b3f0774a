"""Images to latents and back, whatever the model: the three verbs that studies use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from opmerge.data import Source
from opmerge.data.source import AS_GIVEN
from opmerge.denoisers.teacher_folder import load_network
from opmerge.errors import InputError
from opmerge.files import expand_home
from opmerge.latents.pca import PCA_CLASS, PCAEncoder
from opmerge.latents.vae import ConvVAE
from opmerge.schedules.files import read_json_object

__all__ = [
    "AutoencoderKLEncoder",
    "Encoder",
    "VAEEncoder",
    "check_black",
    "check_range",
    "find_encoder",
    "load_encoder",
]

_CPU = torch.device("cpu")


class Encoder(Protocol):
    """An autoencoder of images in [-1, 1]; latents are flat, (B, num_latents)."""

    @property
    def name(self) -> str:
        """What kind it is."""
        ...

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of the latents of one image before they are flattened."""
        ...

    @property
    def num_latents(self) -> int:
        """Values of the latents of one image."""
        ...

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means, and log variances if there are any, of (B, C, H, W) images."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, H, W) images of (B, num_latents) latents."""
        ...


@dataclass(frozen=True, eq=False)
class VAEEncoder:
    """A ``ConvVAE``, in its evaluation mode.

    Args:
        network: the network.
    """

    network: ConvVAE

    @property
    def name(self) -> str:
        """``vae``."""
        return "vae"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.network.config["image_shape"])

    @property
    def num_latents(self) -> int:
        """Number of latents."""
        return int(self.network.config["num_latents"])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(num_latents,)."""
        return (self.num_latents,)

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Encoder``."""
        return self.network.encode(images.to(self.network.device))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Encoder``."""
        return self.network.decode(latents.to(self.network.device))


@dataclass(frozen=True, eq=False)
class AutoencoderKLEncoder:
    """diffusers' ``AutoencoderKL`` for images of one shape.

    Latents are what a latent diffusion model reads: ``(z - shift_factor) · scaling_factor``, or
    where its config has them ``(z - latents_mean) · scaling_factor / latents_std`` by channel, as
    in diffusers' pipelines, with variances scaled alike, and flattened. A grey image is given to a
    colour model three times, and the colours that it gives back are averaged.

    Args:
        network: the network.
        image_shape: (C, H, W); the sides multiples of the network's downsampling.

    Raises:
        InputError: if the network cannot code images of the shape, or its config's means and
            standard deviations are not those of its channels.
    """

    network: AutoencoderKL
    image_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        channels, factor = self.network.config.in_channels, self._downsampling
        shape = self.image_shape
        if len(shape) != 3 or shape[0] not in (1, channels):
            counts = " or ".join(map(str, sorted({1, channels})))
            raise InputError(
                "images",
                f"must have shape (channels, height, width), channels {counts}, for this "
                "AutoencoderKL",
                shape,
                "read a folder with `grey=True`, or make them grey beforehand",
            )
        if any(side < 1 or side % factor for side in shape[1:]):
            raise InputError(
                "images",
                f"must have sides that are multiples of {factor} for this AutoencoderKL",
                shape,
                "choose another `image_size` (`patch_size` for patches), or resize them beforehand",
            )
        self._check_moments()

    @property
    def name(self) -> str:
        """``autoencoder-kl``."""
        return "autoencoder-kl"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(latent channels, H / f, W / f)."""
        sides = (side // self._downsampling for side in self.image_shape[1:])
        return (int(self.network.config.latent_channels), *sides)

    @property
    def num_latents(self) -> int:
        """Values of the latents of one image."""
        return int(torch.Size(self.latent_shape).numel())

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``Encoder``."""
        config = self.network.config
        colour = images.to(self.network.device).expand(-1, config.in_channels, -1, -1)
        found = self.network.encode(colour).latent_dist
        shift, scale = self._affine
        means = (found.mean - shift) * scale
        return means.flatten(1), (found.logvar + 2 * scale.log()).flatten(1)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See ``Encoder``."""
        shift, scale = self._affine
        shaped = latents.to(self.network.device).view(-1, *self.latent_shape)
        images: Tensor = self.network.decode(shaped / scale + shift).sample
        return images if self.image_shape[0] != 1 else images.mean(dim=1, keepdim=True)

    @property
    def _downsampling(self) -> int:
        return int(2 ** (len(self.network.config.block_out_channels) - 1))

    @property
    def _moments(self) -> tuple[Sequence[float], Sequence[float]] | None:
        """Means and standard deviations of the channels; like the pipelines, both or none."""
        config = self.network.config
        if config.latents_mean is None or config.latents_std is None:
            return None
        return config.latents_mean, config.latents_std

    @property
    def _affine(self) -> tuple[Tensor, Tensor]:
        """Shift and scale of latents, (channels or 1, 1, 1) each."""
        config, moments = self.network.config, self._moments
        means, deviations = moments or ([config.shift_factor or 0.0], [1.0])
        shift, deviation = (
            torch.tensor(values, dtype=torch.float32, device=self.network.device).view(-1, 1, 1)
            for values in (means, deviations)
        )
        return shift, config.scaling_factor / deviation

    def _check_moments(self) -> None:
        count = self.network.config.latent_channels
        for values in self._moments or ():
            if not isinstance(values, Sequence) or len(values) != count:
                raise InputError(
                    "vae",
                    f"must have latents_mean and latents_std of {count} channels in config.json",
                    values,
                )


def check_range(images: Tensor) -> tuple[float, float]:
    """Least and largest value of images.

    Raises:
        InputError: if they leave [-1, 1].
    """
    low, high = (float(value) for value in torch.aminmax(images))
    if low < -1 or high > 1:
        raise InputError(
            "images", "must have values in [-1, 1]", f"{low:g} to {high:g}", "rescale them first"
        )
    return low, high


def check_black(source: Source, low: float, high: float) -> None:
    """Refuse images of a file without any value below 0, whose black is not -1.

    Photos are scaled where they are read, and may be bright.

    Args:
        source: where the images come from.
        low: least value of all images.
        high: largest value.

    Raises:
        InputError: saying so.
    """
    if source.scaling == AS_GIVEN and low >= 0:
        raise InputError(
            "images",
            "must have values from -1 (black) to 1 (white)",
            f"{low:g} to {high:g}",
            "rescale [0, 1] to [-1, 1] by 2 x - 1",
        )


def load_encoder(
    folder: str | os.PathLike[str],
    image_shape: tuple[int, ...] | None = None,
    device: torch.device = _CPU,
) -> Encoder:
    """The encoder in a local folder: a ``ConvVAE``, a fitted PCA or diffusers' ``AutoencoderKL``.

    The folder is that of the model, or one with a folder ``vae`` in it: a run of
    ``opmerge vae train``, or a diffusers pipeline. Nothing is downloaded and nothing unpickled.

    Args:
        folder: where it is.
        image_shape: (C, H, W) of the images to come. An ``AutoencoderKL`` takes any that it can
            code, by default its ``sample_size`` in its colours; others know their own.
        device: where it is put.

    Raises:
        InputError: if there is none, it is damaged, or it is for images of another shape.
    """
    place, class_name = find_encoder(folder)
    encoder = _LOADERS[class_name](place, image_shape, device)
    if image_shape is not None and encoder.image_shape != image_shape:
        raise InputError(
            "images",
            f"must have the shape that {place} was made for, {encoder.image_shape}",
            image_shape,
            _how_to_read(encoder.image_shape),
        )
    return encoder


def _how_to_read(shape: tuple[int, ...]) -> str:
    """The settings with which images have a shape."""
    channels, height, width = shape
    if height != width:
        return "resize them beforehand"
    if channels == 1:
        return (
            f"a folder is read so with `image_size={height}` `grey=True`, patches with "
            f"`patch_size={height}`"
        )
    return f"a folder is read so with `image_size={height}` and without `grey`"


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
    network: ConvVAE = load_network(place, ConvVAE)
    return VAEEncoder(network.to(device).requires_grad_(False).eval())


def _load_pca(place: Path, image_shape: tuple[int, ...] | None, device: torch.device) -> Encoder:
    return PCAEncoder.load(place, device)


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


_LOADERS = {"ConvVAE": _load_vae, PCA_CLASS: _load_pca, "AutoencoderKL": _load_kl}
