"""Encodings: encoders trained once or loaded, latents in files, what they decode to; the cost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from timeit import timeit
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor

from opmerge import latents
from opmerge.arrays import Array
from opmerge.data import Progress, Source, SourceOptions, open_source
from opmerge.denoisers.inputs import load_samples, network_shape
from opmerge.latents import Encoder, Images
from opmerge.latents.encoders import find_encoder
from opmerge.latents.vae import most_latents
from opmerge.measure.linearity import require_basis
from opmerge.merging import evaluate
from opmerge.metrics import sliced_w2
from opmerge.settings.networks import VAEConfig
from opmerge.spectra import estimate_spectrum
from opmerge.store import digest, file_digest
from opmerge.training import GradientFlow
from opmerge_studies.celeba import BUILT_IN, TRAINED, CelebaSettings, absolute
from opmerge_studies.celeba.plans import PLANNED, STRATEGIES, by_direction, contending_plans
from opmerge_studies.shared import Runner
from opmerge_studies.shared.decoding import NUM_SHOWN, decode, paired
from opmerge_studies.shared.networks import own_accelerator, picture
from opmerge_studies.shared.strategies import cosine_problem

_SPLIT_SEED = 0  # equal for all encoders, so that their qualities are of equal images
_MOST_EPOCHS = 200
_PUBLISHED_SHAPE = (3, 64, 64)  # networks for smaller images are narrower
_PUBLISHED_NUMBER = 200_000
_FILE_SIZE = (178, 218)  # of CelebA's images
_TIMED = 32  # images of a batch
_TIMED_BATCHES = 2
_RESPONSE = 0.01  # of a latent's deviation: errors below it are decoded at this size
_BRIGHTEST = 0.995  # quantile of an error map that is drawn white


@dataclass(frozen=True, eq=False)
class Encoding:
    """An encoder (a built-in, or a folder) of a source, and its latents, in the runner's folder."""

    settings: CelebaSettings
    images: Images
    kind: str
    seed: int  # of its training and draws
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
        return self.runner.folder / "latents.npy"

    @property
    def saved(self) -> str:
        """The folder that the encoder is, or is in."""
        return str(self.runner.folder) if self.kind in BUILT_IN else self.kind

    def load(self) -> Encoder:
        """The encoder."""
        return latents.load_encoder(self.saved, self.images.shape)

    def identity(self) -> dict[str, Any]:
        """What it depends on: images, settings, and the content of a saved encoder."""
        kind = self.kind
        if kind not in BUILT_IN:  # configuration and weights, whatever the folder is called
            files = sorted(path for path in find_encoder(kind)[0].iterdir() if path.is_file())
            kind = digest([[path.name, file_digest(path)] for path in files])
        vae = self._vae() if self.kind in TRAINED else None
        decides = vae and {**vae.model_dump(), "optimization": vae.optimization.what_decides(1)}
        return {
            "images": self.images.identity,
            "kind": kind,
            "seed": self.seed,
            "latents": self.settings.latents,
            "rank": self._num_latents(),
            "vae": decides,
        }

    @cached_property
    def made(self) -> dict[str, Any]:
        """What it is: trained, fitted or loaded, measured, latents written; kept in its folder."""
        store, files = self.runner.store, [self.path.name]
        return dict(store.kept_folder(".", self.identity(), self._make, files))

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
        usual = 32 if min(self.images.shape[1:]) >= _PUBLISHED_SHAPE[-1] else 16
        return vae.replaced(
            num_iterations=min(vae.num_iterations, limit),
            loss=loss,
            kl_weight=self.settings.mse_kl_weight if loss == "mse" else vae.kl_weight,
            num_latents=self._num_latents(),
            base_channels=self.settings.base_channels or usual,
            optimization=vae.optimization.replaced(seed=self.seed),
        )

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """What ``decoded_outputs`` finds, kept in its folder."""
        settings = self.settings
        arguments: dict[str, Any] = {
            "num_steps": settings.steps,
            "merge_times": list(settings.merge_times),
            "num_samples": settings.num_samples,
            "num_shown": min(NUM_SHOWN, settings.num_samples),
        }

        def compute() -> dict[str, Any]:
            title = f"decoding by {self.label}, {self.images.name}"
            count = len(settings.merge_times) * len((*STRATEGIES, PLANNED))
            with self.runner.progress(title, count) as report:
                source = open_source(str(self.path))
                return decoded_outputs(self.load(), source, **arguments, progress=report)

        identity = {**arguments, "encoder": self.identity(), "plans": STRATEGIES}
        return dict(self.runner.store.kept("outputs", identity, compute))


def make_encodings(settings: CelebaSettings, runner: Runner) -> list[Encoding]:
    """Every encoder of every source and seed; PCA and saved ones are the same for every seed.

    Raises:
        InputError: before anything is read or trained, if a source or a saved encoder is missing
            or damaged, or they do not fit together.
    """

    def open_as(name: str, options: SourceOptions) -> Source:
        with runner.progress(f"looking through {name}", None) as report:
            return open_source(name, options, report)

    def read(label: str, source: Source, folder: Path) -> Tensor:
        with runner.progress(f"reading {label}", source.num_samples) as report:
            return load_samples(source, network_shape(source), folder, report)

    split = settings.source_options, settings.vae.validation_fraction, _SPLIT_SEED
    labels = settings.source_labels
    opened = [latents.open_images(name, *split, open_as, runner.warn) for name in labels]
    for each in opened:
        for note in each.source.notes if each.source.files else ():
            runner.warn(f"{labels[each.name]}: {note}")
    for kind, each in product(settings.encoders, opened):
        if kind not in BUILT_IN:
            latents.load_encoder(kind, each.shape)
    encodings = []
    for each in opened:
        folder = runner.folder / "encoders" / _slug(Path(each.name).name, digest(each.name)[:6])
        images = latents.load_images(each, folder, partial(read, labels[each.name]))
        images = replace(images, name=labels[each.name])
        for kind in settings.encoder_labels:
            for seed in settings.seeds if kind in TRAINED else settings.seeds[:1]:
                own = replace(runner, folder=folder / _encoder_folder(kind, seed))
                encodings.append(Encoding(settings, images, kind, seed, own))
    return encodings


def _encoder_folder(kind: str, seed: int) -> str:
    """Name of the folder of an encoder; two paths that end alike have two."""
    path = absolute(kind)
    names = (kind,) if kind in BUILT_IN else (path.name, digest(str(path))[:6])
    return _slug(*names, seed)


def _slug(*names: object) -> str:
    return "-".join(re.sub(r"\W+", "-", str(name)).strip("-") for name in names)


def decoded_outputs(
    encoder: Encoder,
    source: Source,
    num_steps: int,
    merge_times: Sequence[float],
    num_samples: int,
    num_shown: int,
    progress: Progress = lambda done: None,
) -> dict[str, Any]:
    """Teacher and students, linear in the eigenbasis of the latents, decoded from equal noise.

    The teacher's latent is ``mean + Σ_k √n_T P_k ε_k v_k`` and a student's, under operator copy,
    has ``P_k exp(e_k)`` in its place. Where their difference δ is below a hundredth of a latent's
    deviation, c δ of that size is decoded instead, and what it changes divided by c: float32 does
    not resolve the rest. ``progress`` is told the number of plans decoded, over all merge times.

    Returns:
        ``rows``, one a merge time and plan, with the paired root mean square in a pixel and its
        interval over samples; ``pictures``, PNGs in base64 with the factor of each error map;
        ``pixel_rms``, the deviation of the teacher's pixels.
    """
    spectrum = estimate_spectrum(source)
    basis, mean = require_basis(spectrum, spectrum.num_dimensions)
    shape = num_samples, spectrum.num_dimensions
    noise = np.random.default_rng(0).standard_normal(shape) @ basis.T
    rows: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for merge_time in merge_times:
        problem = cosine_problem(spectrum.eigenvalues, num_steps, GradientFlow(merge_time))
        log_output = by_direction(problem, problem.teacher.log_output, spectrum.eigenvalues)
        clean = noise * np.exp(log_output)
        teacher = clean @ basis + mean
        original = decode(encoder, teacher)
        shown, pixels = original[:num_shown], original.flatten(1).numpy()
        pictures.append(_picture(merge_time, "teacher", shown))
        for name, plan in contending_plans(problem).items():
            excess = by_direction(problem, evaluate(problem, plan).excess, spectrum.eigenvalues)
            difference = (clean * np.expm1(excess)) @ basis
            error = _response(encoder, teacher, difference, original)
            errors = error.flatten(1).numpy()
            rows.append(
                {
                    "merge_time": merge_time,
                    "plan": name,
                    "latent_rms": float(np.sqrt(np.mean(np.sum(difference**2, axis=1)))),
                    **paired(errors),
                    "sliced_w2": sliced_w2(pixels, pixels + errors),
                }
            )
            # an error map is black where images are equal, white where they differ most
            size = error[:num_shown].abs().mean(dim=1, keepdim=True)
            factor = 2.0 / max(float(size.flatten().quantile(_BRIGHTEST)), 1e-300)
            pictures += [
                _picture(merge_time, name, shown + error[:num_shown]),
                _picture(merge_time, name, size * factor - 1, factor),
            ]
            progress(len(rows))
    spread = original - original.mean(dim=0)
    return {"rows": rows, "pictures": pictures, "pixel_rms": float(spread.square().mean().sqrt())}


def _picture(time: float, plan: str, images: Tensor, factor: float | None = None) -> dict[str, Any]:
    return {"merge_time": time, "plan": plan, "factor": factor, "png": picture(images)}


def _response(encoder: Encoder, teacher: Array, difference: Array, original: Tensor) -> Tensor:
    """What a difference of latents changes in the decoded images."""
    size, spread = np.sqrt(np.mean(difference**2)), np.std(teacher, axis=0)
    scale = max(1.0, _RESPONSE * float(np.sqrt(np.mean(spread**2))) / float(size))
    return (decode(encoder, teacher + scale * difference) - original) / scale


def cost_at_full_size() -> dict[str, Any]:
    """CPU seconds (all cores) and bytes of 200,000 published images, scaled from a few batches."""
    network = latents.ConvVAE(_PUBLISHED_SHAPE)
    images = torch.rand(_TIMED, *_PUBLISHED_SHAPE) * 2 - 1
    noise = torch.zeros(_TIMED, network.config["num_latents"])

    def train() -> None:
        network.zero_grad()
        torch.autograd.backward(latents.ms_ssim_loss(network(images, noise)[0], images))

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
    seconds = timeit(call, timer=time.process_time, number=_TIMED_BATCHES)
    return seconds / (_TIMED_BATCHES * _TIMED) * _PUBLISHED_NUMBER
