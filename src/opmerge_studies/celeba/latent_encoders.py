"""The encoders of a study: autoencoders trained once, or loaded; their latents in files."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.state import AcceleratorState

from opmerge.files import write_atomic
from opmerge.latents import (
    AutoencoderKLEncoder,
    Encoder,
    Images,
    Opened,
    VAEConfig,
    VAEEncoder,
    encode_source,
    fit_pca,
    load_encoder,
    reconstruction_quality,
    train_vae,
)
from opmerge.latents.encoders import find_encoder
from opmerge.latents.losses import ReconstructionLoss
from opmerge.latents.vae import most_latents
from opmerge.loop import make_accelerator
from opmerge_studies.celeba.labels import absolute
from opmerge_studies.shared.runner import ProgressBar

if TYPE_CHECKING:
    from opmerge_studies.celeba import Config

__all__ = [
    "BUILT_IN",
    "TRAINED",
    "check_encoders",
    "digest",
    "encoder_folder",
    "kept",
    "make_encoder",
    "num_latents",
    "saved_encoder",
    "slugged",
]

TRAINED: Mapping[str, ReconstructionLoss] = {"ms-ssim-vae": "ms-ssim", "mse-vae": "mse"}
"""Autoencoders that the study trains, and their reconstruction losses."""

BUILT_IN = (*TRAINED, "pca")
"""What needs no folder."""

_MOST_EPOCHS = 200
_PUBLISHED_CHANNELS, _FEWER_CHANNELS = 32, 16
_PUBLISHED_SIDE = 64  # pixels; networks for less are narrower


def check_encoders(config: Config, sources: Sequence[Opened]) -> None:
    """Load every saved encoder for the images of every source.

    Raises:
        InputError: if one is missing or damaged, or is for images of another shape.
    """
    for kind in config.encoders:
        for opened in sources if kind not in BUILT_IN else ():
            load_encoder(kind, opened.shape)


def encoder_folder(kind: str, seed: int) -> str:
    """Name of the folder of an encoder; two paths that end alike have two."""
    if kind in BUILT_IN:
        return slugged(kind, seed)
    path = absolute(kind)
    return slugged(path.name, digest(str(path))[:6], seed)


def make_encoder(
    config: Config, kind: str, seed: int, images: Images, folder: Path, progress: ProgressBar
) -> dict[str, Any]:
    """Train, fit or load an encoder, measure it, and write the latents of the training images.

    What the folder holds of the same settings and images is kept.

    Returns:
        ``identity`` of the encoder and its images, ``digest`` of the file ``latents.npy``,
        ``quality`` and what the encoder is, JSON values.
    """
    identity = digest(
        {
            "images": images.identity,
            "kind": kind if kind in BUILT_IN else _content_digest(kind),
            "seed": seed,
            "latents": config.latents,
            "rank": num_latents(config, images),
            "vae": _decides(_vae_config(config, kind, seed, images)) if kind in TRAINED else None,
        }
    )

    path, record = folder / "latents.npy", folder / "encoder.json"

    def compute() -> dict[str, Any]:
        record.unlink(missing_ok=True)  # it tells of files that are now replaced
        begin = time.process_time()
        place = _place(config, kind, seed, images, folder, progress)
        encoder = load_encoder(place, images.shape)
        seconds = time.process_time() - begin
        draws = config.latents == "samples" and _has_variances(encoder, images)
        title = f"encoding {images.name} by {config.encoder_labels[kind]}"
        with progress(title, images.train.num_samples) as report:
            encode_source(encoder, images.train, path, sample=draws, seed=seed, progress=report)
        return {
            "identity": identity,
            "num_parameters": _num_parameters(encoder),
            "num_latents": encoder.num_latents,
            "latents": "samples" if draws else "means",
            "quality": asdict(reconstruction_quality(encoder, images.held_out)),
            "cpu_seconds": seconds,
            "digest": _file_digest(path),
        }

    return kept(record, identity, compute, lambda made: made["digest"] == _file_digest(path))


def num_latents(config: Config, images: Images) -> int:
    """As configured, but at most ``most_latents`` of the images that are trained on."""
    return min(config.num_latents, most_latents(len(images.rows), images.train.num_features))


def saved_encoder(kind: str, images: Images, folder: Path) -> Encoder:
    """The encoder that ``make_encoder`` made or loaded."""
    return load_encoder(folder if kind in BUILT_IN else kind, images.shape)


def _place(
    config: Config, kind: str, seed: int, images: Images, folder: Path, progress: ProgressBar
) -> Path:
    """The folder that ``load_encoder`` reads."""
    if kind == "pca":
        with progress(f"fitting pca, {images.name}", images.train.num_samples) as report:
            fitted = fit_pca(images.train, num_latents(config, images), report)
        return fitted.save(folder / "vae")
    if kind not in TRAINED:
        return Path(kind)
    settings = _vae_config(config, kind, seed, images)
    AcceleratorState._reset_state()  # accelerate keeps one precision a process
    accelerator = make_accelerator(settings.optimization, folder)
    records = train_vae(
        settings,
        images.data,
        accelerator,
        folder,
        "latest",
        split=(images.rows, images.held_out),
    )
    title = f"training {kind}, {images.name}, seed {seed}"
    with progress(title, settings.num_iterations) as report:
        for record in records:
            report(record.iteration)
    return folder


def _vae_config(config: Config, kind: str, seed: int, images: Images) -> VAEConfig:
    """The settings of one autoencoder; no image is seen more than so many times."""
    batch = config.vae.optimization.global_batch_size(1)
    limit = max(_MOST_EPOCHS * len(images.rows) // batch, 1)
    is_large = min(images.shape[1:]) >= _PUBLISHED_SIDE
    channels = config.base_channels or (_PUBLISHED_CHANNELS if is_large else _FEWER_CHANNELS)
    return replace(
        config.vae,
        num_iterations=min(config.vae.num_iterations, limit),
        loss=TRAINED[kind],
        kl_weight=config.vae.kl_weight if TRAINED[kind] == "ms-ssim" else config.mse_kl_weight,
        num_latents=num_latents(config, images),
        base_channels=channels,
        optimization=replace(config.vae.optimization, seed=seed),
    )


def _decides(settings: VAEConfig) -> dict[str, Any]:
    return {**asdict(settings), "optimization": settings.optimization.what_decides(1)}


def _has_variances(encoder: Encoder, images: Images) -> bool:
    return encoder.encode(images.data[:1].float())[1] is not None


def _num_parameters(encoder: Encoder) -> int | None:
    """Of a network."""
    if isinstance(encoder, VAEEncoder | AutoencoderKLEncoder):
        return int(encoder.network.num_parameters())
    return None


def _content_digest(kind: str) -> str:
    """Of the configuration and weights of a saved encoder, whatever its folder is called."""
    place, _ = find_encoder(kind)
    digest = hashlib.sha256()
    for path in sorted(path for path in place.iterdir() if path.is_file()):
        digest.update(path.name.encode() + bytes.fromhex(_file_digest(path)))
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def kept(
    path: Path,
    identity: str,
    compute: Callable[[], dict[str, Any]],
    is_whole: Callable[[dict[str, Any]], bool] = lambda result: True,
) -> dict[str, Any]:
    """The result in a file if it is of this identity and whole; else it is computed and written."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        found: dict[str, Any] = content["result"]
        is_known = content["identity"] == identity and content["digest"] == digest(found)
        if is_known and is_whole(found):
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
