"""The encoders of a study: images split, autoencoders trained once, their latents in files."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from opmerge.data import Source, SourceOptions, open_source
from opmerge.distillation.inputs import DataInputs
from opmerge.distillation.samples import load_samples, network_shape
from opmerge.distillation.trainer import make_accelerator
from opmerge.distillation.validation import split_rows
from opmerge.errors import InputError
from opmerge.files import write_atomic
from opmerge.latents import (
    ConvVAE,
    Encoder,
    VAEConfig,
    encode_source,
    fit_pca,
    load_encoder,
    ms_ssim_loss,
    reconstruction_quality,
    rows_source,
    train_vae,
)
from opmerge.latents.losses import ReconstructionLoss
from opmerge.latents.training import check_images, held_out_images
from opmerge.studies.runner import ProgressBar, no_progress

if TYPE_CHECKING:
    from opmerge.studies.celeba import Config

__all__ = [
    "TRAINED",
    "Images",
    "cost_at_full_size",
    "digest",
    "kept",
    "load_images",
    "make_encoder",
    "num_latents",
    "saved_encoder",
    "slugged",
]

TRAINED: Mapping[str, ReconstructionLoss] = {"ms-ssim-vae": "ms-ssim", "mse-vae": "mse"}
"""Autoencoders that the study trains, and their reconstruction losses."""

_HELD_OUT = 0.1
_PHOTO_WIDTH = 640  # of the photos that patches are cut from
_SPLIT_SEED = 0  # equal for all encoders, so that their qualities are of equal images
_MOST_EPOCHS = 200
_FULL_SIZE = (3, 64, 64)
_FULL_NUMBER = 200_000
_TIMED = 32  # images of a batch
_TIMED_BATCHES = 2


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a source, of which some are never trained on.

    Args:
        source: where they come from.
        name: how the study calls them.
        data: (N, C, H, W) in [-1, 1].
        train: source of the images that encoders are made from, and whose latents are studied.
        held_out: (M, C, H, W) images to measure reconstructions on.
        split: how the two were chosen.
    """

    name: str
    train: Source
    data: Tensor
    held_out: Tensor
    split: str

    def identity(self) -> str:
        """Digest of what the study depends on."""
        return DataInputs(self.data).identity() + DataInputs(self.held_out).identity()

    def some(self, count: int) -> Tensor:
        """At most so many of the held-out images, spread evenly."""
        return held_out_images(self.held_out, torch.arange(len(self.held_out)), count)


def load_images(
    config: Config, name: str, folder: Path, progress: ProgressBar = no_progress
) -> Images:
    """The images of a source, split.

    CelebA's training faces are held against its validation faces. Patches of a photo overlap, so
    those held out are a strip at its right edge, and patches that reach into the strip are left
    out. Of other images a tenth is held out at random.

    Raises:
        InputError: if they are no images of one size with values in [-1, 1].
    """
    source, data = _read_images(name, config.source_options, folder, progress)
    check_images(data)
    if source.name == "CelebA (train)":
        options = replace(config.source_options, split="validation")
        other = _read_images(name, options, folder / "validation", progress)[1]
        some = held_out_images(other, torch.arange(len(other)))
        return Images(source.name, source, data, some, "official validation split")
    if name == "patches":
        train, rest, split = _split_patches(config, len(data))
    else:
        train, rest = split_rows(len(data), _HELD_OUT, _SPLIT_SEED)
        split = "a tenth at random"
    part = rows_source(data, train, source)
    return Images(source.name, part, data[train], held_out_images(data, rest), split)


def _read_images(
    name: str, options: SourceOptions, folder: Path, progress: ProgressBar
) -> tuple[Source, Tensor]:
    """A source, and all its images."""
    with progress(f"looking through {name}", None) as report:
        source = open_source(name, options, report)
    with progress(f"reading {name}", source.num_samples) as report:
        data = load_samples(source, network_shape(source), folder, report)
    return source, data


def _split_patches(config: Config, count: int) -> tuple[Tensor, Tensor, str]:
    """Rows of patches to train on and to hold out, which share no pixel."""
    options = config.source_options
    columns = (_PHOTO_WIDTH - options.patch_size) // options.stride + 1
    gap = (options.patch_size - 1) // options.stride
    strip = max(round(_HELD_OUT * columns), 1)
    if columns <= strip + gap + 1:
        raise InputError(
            "patch_size", "must leave room for patches that are held out", options.patch_size
        )
    column = torch.arange(count) % columns
    train = torch.nonzero(column < columns - strip - gap)[:, 0]
    rest = torch.nonzero(column >= columns - strip)[:, 0]
    return train, rest, "a strip at the right of each photo, no pixel of which is trained on"


def make_encoder(
    config: Config, kind: str, seed: int, images: Images, folder: Path, progress: ProgressBar
) -> dict[str, Any]:
    """Train, fit or load an encoder, measure it, and write the latents of the training images.

    What the folder holds of the same settings and images is kept.

    Returns:
        ``folder`` of the encoder, ``latents`` (the file), ``digest`` of the file, ``quality`` and
        the settings that were used, JSON values.
    """
    identity = digest(
        {
            "images": images.identity(),
            "kind": kind,
            "seed": seed,
            "latents": config.latents,
            "rank": num_latents(config, images),
            "vae": _decides(_vae_config(config, kind, seed, images)) if kind in TRAINED else None,
        }
    )

    def compute() -> dict[str, Any]:
        begin = time.process_time()
        place = _place(config, kind, seed, images, folder, progress)
        encoder = load_encoder(place, tuple(images.data.shape[1:]))
        seconds = time.process_time() - begin
        path = folder / "latents.npy"
        draws = config.latents == "samples" and _has_variances(encoder, images)
        encode_source(encoder, images.train, path, sample=draws, seed=seed)
        return {
            "folder": str(place) if kind not in (*TRAINED, "pca") else None,
            "num_latents": encoder.num_latents,
            "latents": "samples" if draws else "means",
            "quality": asdict(reconstruction_quality(encoder, images.held_out)),
            "cpu_seconds": seconds,
            "digest": hashlib.sha256(path.read_bytes()).hexdigest(),
        }

    return kept(folder / "encoder.json", identity, compute)


def num_latents(config: Config, images: Images) -> int:
    """As configured, but at most half as many as images are trained on or as an image has values.

    More latents than images could be learned by heart, and would have no covariance.
    """
    return min(config.num_latents, len(images.data) // 2, images.train.num_features // 2)


def saved_encoder(kind: str, images: Images, folder: Path) -> Encoder:
    """The encoder that ``make_encoder`` made or loaded."""
    place = folder if kind in (*TRAINED, "pca") else Path(kind)
    return load_encoder(place, tuple(images.data.shape[1:]))


def _place(
    config: Config, kind: str, seed: int, images: Images, folder: Path, progress: ProgressBar
) -> Path:
    """The folder that ``load_encoder`` reads."""
    if kind == "pca":
        return fit_pca(images.train, num_latents(config, images)).save(folder / "vae")
    if kind not in TRAINED:
        return Path(kind)
    settings = _vae_config(config, kind, seed, images)
    AcceleratorState._reset_state()  # accelerate keeps one precision a process
    accelerator = make_accelerator(settings.optimization, folder)
    records = train_vae(
        settings, images.data, accelerator, folder, "latest", held_out=images.held_out
    )
    title = f"training {kind}, {images.name}, seed {seed}"
    with progress(title, settings.num_iterations) as report:
        for record in records:
            report(record.iteration)
    return folder


def _vae_config(config: Config, kind: str, seed: int, images: Images) -> VAEConfig:
    """The settings of one autoencoder; no image is seen more than so many times."""
    batch = config.vae.optimization.global_batch_size(1)
    limit = max(_MOST_EPOCHS * len(images.data) // batch, 1)
    return replace(
        config.vae,
        num_iterations=min(config.vae.num_iterations, limit),
        loss=TRAINED[kind],
        kl_weight=config.vae.kl_weight if TRAINED[kind] == "ms-ssim" else config.mse_kl_weight,
        num_latents=num_latents(config, images),
        optimization=replace(config.vae.optimization, seed=seed),
    )


def _decides(settings: VAEConfig) -> dict[str, Any]:
    return {**asdict(settings), "optimization": settings.optimization.what_decides(1)}


def _has_variances(encoder: Encoder, images: Images) -> bool:
    return encoder.encode(images.data[:1].float())[1] is not None


def cost_at_full_size() -> dict[str, Any]:
    """What 200,000 colour images of 64 × 64 would take with the published network.

    Seconds are of this computer's processor, over all cores, scaled from those of a few batches.
    """
    network = ConvVAE(_FULL_SIZE)
    images = torch.rand(_TIMED, *_FULL_SIZE) * 2 - 1
    noise = torch.zeros(_TIMED, network.config["num_latents"])

    def train() -> None:
        network.zero_grad()
        torch.autograd.backward(ms_ssim_loss(network(images, noise)[0], images))

    def encode() -> None:
        with torch.no_grad():
            network.encode(images)

    return {
        "images": _FULL_NUMBER,
        "encode_seconds": _rate(encode) * _FULL_NUMBER,
        "epoch_seconds": _rate(train) * _FULL_NUMBER,
        "latents_bytes": 4.0 * noise[0].numel() * _FULL_NUMBER,
        "images_bytes": 4.0 * images[0].numel() * _FULL_NUMBER,
    }


def _rate(call: Callable[[], None]) -> float:
    """Seconds an image, the first call left aside."""
    call()
    begin = time.process_time()
    for _ in range(_TIMED_BATCHES):
        call()
    return (time.process_time() - begin) / (_TIMED_BATCHES * _TIMED)


def kept(path: Path, identity: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in a file if it is of this identity; else it is computed and written."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["identity"] == identity and content["digest"] == digest(content["result"]):
            found: dict[str, Any] = content["result"]
            return found
    result = compute()
    content = {"identity": identity, "result": result, "digest": digest(result)}
    write_atomic(path, json.dumps(content, allow_nan=False) + "\n")
    return result


def digest(content: Any) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def slugged(*names: object) -> str:
    """A folder's name."""
    return "-".join(re.sub(r"\W+", "-", str(name)).strip("-") for name in names)
