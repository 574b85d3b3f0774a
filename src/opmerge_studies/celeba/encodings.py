"""Encodings: images split, encoders trained once or loaded, their latents in files, the cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from opmerge import latents
from opmerge.data import Source, SourceOptions, open_source
from opmerge.denoisers.samples import load_samples, network_shape
from opmerge.latents import ConvVAE, Encoder, Images, Opened, ms_ssim_loss
from opmerge.latents.encoders import find_encoder
from opmerge.latents.vae import most_latents
from opmerge.settings.networks import VAEConfig
from opmerge.store import Store, digest, file_digest
from opmerge_studies.celeba import BUILT_IN, TRAINED, CelebaSettings, absolute
from opmerge_studies.real_networks.execution import own_accelerator
from opmerge_studies.shared import Runner

_HELD_OUT = 0.1
_SPLIT_SEED = 0  # equal for all encoders, so that their qualities are of equal images
_MOST_EPOCHS = 200
_PUBLISHED_CHANNELS, _FEWER_CHANNELS = 32, 16
_PUBLISHED_SHAPE = (3, 64, 64)  # networks for smaller images are narrower
_PUBLISHED_NUMBER = 200_000
_FILE_SIZE = (178, 218)  # of CelebA's images
_TIMED = 32  # images of a batch
_TIMED_BATCHES = 2


@dataclass(frozen=True, eq=False)
class Encoding:
    """An encoder (a built-in, or a folder) of a source, with the latents of its images in a file.

    ``seed`` is that of its training and draws, ``folder`` that of its files.
    """

    settings: CelebaSettings
    images: Images
    kind: str
    seed: int
    folder: Path
    runner: Runner

    @property
    def label(self) -> str:
        """What tables and the page call it."""
        return self.settings.encoder_labels[self.kind]

    @property
    def place(self) -> dict[str, Any]:
        """What tables tell it by."""
        return {"source": self.images.name, "encoder": self.label, "seed": self.seed}

    @property
    def path(self) -> Path:
        """The file of its latents: (N, d), those of the images that are trained on."""
        return self.folder / "latents.npy"

    def load(self) -> Encoder:
        """The encoder."""
        place = self.folder if self.kind in BUILT_IN else self.kind
        return latents.load_encoder(place, self.images.shape)

    @property
    def store(self) -> Store:
        """What is kept in its folder."""
        return Store(self.folder, self.runner.warn)

    def identity(self) -> dict[str, Any]:
        """What it depends on: images, settings, and the content of a saved encoder."""
        vae = self._vae() if self.kind in TRAINED else None
        decides = vae and {**vae.model_dump(), "optimization": vae.optimization.what_decides(1)}
        return {
            "images": self.images.identity,
            "kind": self.kind if self.kind in BUILT_IN else _content_digest(self.kind),
            "seed": self.seed,
            "latents": self.settings.latents,
            "rank": self._num_latents(),
            "vae": decides,
        }

    @cached_property
    def made(self) -> dict[str, Any]:
        """What it is: trained, fitted or loaded, measured, and its latents written; JSON values.

        What the folder holds of the same identity is kept.
        """
        files = [self.path.name]
        made: dict[str, Any] = self.store.kept_folder(".", self.identity(), self._make, files)
        return made

    def _make(self, folder: Path) -> dict[str, Any]:
        images, progress = self.images, self.runner.progress
        begin = time.process_time()
        if self.kind in TRAINED:
            vae = self._vae()
            accelerator = own_accelerator(vae.optimization, folder)
            data, split = images.data, (images.rows, images.held_out)
            records = latents.train_vae(vae, data, accelerator, folder, "latest", split=split)
            title = f"training {self.kind}, {images.name}, seed {self.seed}"
            with progress(title, vae.num_iterations) as report:
                for record in records:
                    report(record.iteration)
        elif self.kind == "pca":
            with progress(f"fitting pca, {images.name}", images.train.num_samples) as report:
                latents.fit_pca(images.train, self._num_latents(), report).save(folder / "vae")
        encoder = self.load()
        seconds = time.process_time() - begin
        has_variances = encoder.encode(images.data[:1].float())[1] is not None
        draws = self.settings.latents == "samples" and has_variances
        title = f"encoding {images.name} by {self.label}"
        with progress(title, images.train.num_samples) as report:
            latents.encode_source(
                encoder, images.train, self.path, sample=draws, seed=self.seed, progress=report
            )
        network: Any = getattr(encoder, "network", None)
        return {
            "num_parameters": network and int(network.num_parameters()),
            "num_latents": encoder.num_latents,
            "latents": "samples" if draws else "means",
            "quality": asdict(latents.reconstruction_quality(encoder, images.held_out)),
            "cpu_seconds": seconds,
            "digest": file_digest(self.path),
        }

    def _num_latents(self) -> int:
        """The number of latents configured, at most ``most_latents`` of the images trained on."""
        most = most_latents(len(self.images.rows), self.images.train.num_features)
        return min(self.settings.num_latents, most)

    def _vae(self) -> VAEConfig:
        """The settings of one autoencoder; no image is seen more than so many times."""
        vae, loss = self.settings.vae, TRAINED[self.kind]
        batch = vae.optimization.global_batch_size(1)
        limit = max(_MOST_EPOCHS * len(self.images.rows) // batch, 1)
        is_large = min(self.images.shape[1:]) >= _PUBLISHED_SHAPE[-1]
        usual = _PUBLISHED_CHANNELS if is_large else _FEWER_CHANNELS
        return vae.replaced(
            num_iterations=min(vae.num_iterations, limit),
            loss=loss,
            kl_weight=self.settings.mse_kl_weight if loss == "mse" else vae.kl_weight,
            num_latents=self._num_latents(),
            base_channels=self.settings.base_channels or usual,
            optimization=vae.optimization.replaced(seed=self.seed),
        )


def make_encodings(settings: CelebaSettings, runner: Runner) -> list[Encoding]:
    """Every encoder of every source and seed; PCA and saved ones are the same for every seed.

    Raises:
        InputError: before anything is read or trained, if a source or a saved encoder is missing
            or damaged, or they do not fit together.
    """
    opened = [open_images(settings, name, runner) for name in settings.sources]
    for kind in settings.encoders:
        for each in opened if kind not in BUILT_IN else ():
            latents.load_encoder(kind, each.shape)
    sources = []
    for each in opened:
        folder = runner.folder / "encoders" / _slug(Path(each.name).name, digest(each.name)[:6])
        sources.append((load_images(settings, each, folder, runner), folder))
    return [
        Encoding(settings, images, kind, seed, folder / _encoder_folder(kind, seed), runner)
        for images, folder in sources
        for kind in settings.encoder_labels
        for seed in (settings.seeds if kind in TRAINED else settings.seeds[:1])
    ]


def open_images(settings: CelebaSettings, name: str, runner: Runner) -> Opened:
    """See ``opmerge.latents.open_images``; a tenth is held out."""

    def open_as(name: str, options: SourceOptions) -> Source:
        with runner.progress(f"looking through {name}", None) as report:
            return open_source(name, options, report)

    options = settings.source_options
    return latents.open_images(name, options, _HELD_OUT, _SPLIT_SEED, open_as, runner.warn)


def load_images(settings: CelebaSettings, opened: Opened, folder: Path, runner: Runner) -> Images:
    """See ``opmerge.latents.load_images``; they are called as the study calls their source."""
    label = settings.source_labels[opened.name]

    def read(source: Source, folder: Path) -> Tensor:
        with runner.progress(f"reading {label}", source.num_samples) as report:
            return load_samples(source, network_shape(source), folder, report)

    return replace(latents.load_images(opened, folder, read), name=label)


def _encoder_folder(kind: str, seed: int) -> str:
    """Name of the folder of an encoder; two paths that end alike have two."""
    path = absolute(kind)
    names = (kind,) if kind in BUILT_IN else (path.name, digest(str(path))[:6])
    return _slug(*names, seed)


def _slug(*names: object) -> str:
    return "-".join(re.sub(r"\W+", "-", str(name)).strip("-") for name in names)


def _content_digest(kind: str) -> str:
    """Digest of configuration and weights of a saved encoder, whatever its folder is called."""
    place, _ = find_encoder(kind)
    files = sorted(path for path in place.iterdir() if path.is_file())
    return digest([[path.name, file_digest(path)] for path in files])


def cost_at_full_size() -> dict[str, Any]:
    """What 200,000 colour images of 64 × 64 would take with the published network.

    Seconds are of this computer's processor, over all cores, scaled from those of a few batches.
    """
    network = ConvVAE(_PUBLISHED_SHAPE)
    images = torch.rand(_TIMED, *_PUBLISHED_SHAPE) * 2 - 1
    noise = torch.zeros(_TIMED, network.config["num_latents"])

    def train() -> None:
        network.zero_grad()
        torch.autograd.backward(ms_ssim_loss(network(images, noise)[0], images))

    def encode() -> None:
        with torch.no_grad():
            network.encode(images)

    photo = Image.fromarray(load_sample_image("china.jpg")).resize(_FILE_SIZE)
    with TemporaryDirectory() as folder:
        for number in range(_TIMED):
            photo.save(Path(folder) / f"{number:06d}.jpg")
        source = open_source(folder, SourceOptions(image_size=_PUBLISHED_SHAPE[-1], split="all"))
        read_seconds = _seconds(lambda: list(source.batches()))
    return {
        "images": _PUBLISHED_NUMBER,
        "num_parameters": network.num_parameters(),
        "read_seconds": read_seconds,  # decode, crop and resize files like CelebA's
        "encode_seconds": _seconds(encode),
        "epoch_seconds": _seconds(train),
        "latents_bytes": 4.0 * noise[0].numel() * _PUBLISHED_NUMBER,
        "images_bytes": 4.0 * images[0].numel() * _PUBLISHED_NUMBER,
    }


def _seconds(call: Callable[[], object]) -> float:
    """For all images, from a call that does a batch; the first call is left aside."""
    call()
    begin = time.process_time()
    for _ in range(_TIMED_BATCHES):
        call()
    return (time.process_time() - begin) / (_TIMED_BATCHES * _TIMED) * _PUBLISHED_NUMBER
