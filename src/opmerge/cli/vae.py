"""The commands around latents: an autoencoder is trained, images are encoded, latents decoded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opmerge.cli import runs
from opmerge.cli.progress import progress_bar, say
from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from opmerge.data import Source
    from opmerge.latents import Images, Opened, PCAEncoder, Quality
    from opmerge.settings.commands import (
        DecodingOptions,
        EncoderOptions,
        EncodingOptions,
        RunOptions,
    )
    from opmerge.settings.data import ImagesOptions
    from opmerge.settings.networks import VAEConfig

_SHOWN = 64


def train(
    images: ImagesOptions, files: RunOptions, kind: EncoderOptions, config: VAEConfig
) -> None:
    """Train an autoencoder on images, saved in diffusers' layout; or fit a PCA."""
    from opmerge.cli import networks

    folder = files.output_dir
    runs.prepare_folder(folder)
    accelerator = networks.start(config.optimization, folder)
    main = accelerator.is_main_process
    opened, config = _open(images, config, main)
    loaded = _load(accelerator, opened, folder)
    write_config = partial(runs.write_config, folder, "vae train", images, kind, config)
    if kind.encoder == "vae":
        _train(config, loaded, accelerator, files, write_config)
    elif main:
        _fit_pca(config, loaded, folder, write_config)


def encode(images: ImagesOptions, asked: EncodingOptions) -> None:
    """Encode images: their latents, one row an image, in a .npy file."""
    from opmerge.cli.networks import open_samples, prepare_libraries
    from opmerge.denoisers.samples import network_shape
    from opmerge.latents import encode_source, load_encoder
    from opmerge.loop import best_device

    if asked.output.suffix != ".npy":
        raise InputError("output", "must end in .npy", str(asked.output))
    prepare_libraries()
    source = open_samples(images.source, images)
    encoder = load_encoder(asked.vae, network_shape(source), best_device())
    _tell(source)
    with progress_bar("encoding", source.num_samples) as report:
        encode_source(
            encoder,
            source,
            asked.output,
            sample=asked.sample,
            seed=asked.seed,
            batch_size=asked.batch_size,
            progress=report,
        )
    print(f"written: {asked.output} ({source.num_samples} x {encoder.num_latents})")


def decode(asked: DecodingOptions) -> None:
    """Decode latents: a grid of images, or all of them in a .npy file."""
    import torch

    from opmerge.cli.networks import prepare_libraries
    from opmerge.data.arrays import read_array, write_rows
    from opmerge.distillation.sampling import write_image_grid
    from opmerge.latents import decode_latents, load_encoder
    from opmerge.loop import best_device

    output, shape = asked.output, asked.image_shape
    if output.suffix not in (".png", ".npy"):
        raise InputError("output", "must end in .png or .npy", str(output))
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        numbers = ",".join(map(str, shape))
        raise InputError(
            "image_shape", "must be three whole numbers >= 1, such as 3,64,64", numbers
        )
    prepare_libraries()
    rows = read_array(asked.latents)
    default = _SHOWN if output.suffix == ".png" else max(len(rows), 1)
    rows = rows[: default if asked.num_images is None else asked.num_images]
    encoder = load_encoder(asked.vae, shape, best_device())
    batches = decode_latents(encoder, rows, asked.batch_size)
    if output.suffix == ".png":
        write_image_grid(output, torch.cat(list(batches)))
    else:
        with progress_bar("decoding", len(rows)) as report:
            write_rows(output, (len(rows), *encoder.image_shape), batches, report)
    print(f"written: {output}")


def _open(images: ImagesOptions, config: VAEConfig, main: bool) -> tuple[Opened, VAEConfig]:
    """The images, told of and split, and as many latents as were asked for or as they allow."""
    from opmerge.cli.networks import open_samples
    from opmerge.latents import open_images
    from opmerge.latents.vae import check_num_latents, most_latents

    opened = open_images(
        images.source,
        images,
        config.validation_fraction,
        config.optimization.seed,
        partial(open_samples, enabled=main),
        say if main else lambda line: None,
    )
    num_values = opened.source.num_features
    if config.given("num_latents"):
        check_num_latents(config.num_latents, num_values)
    else:
        most = most_latents(len(opened.rows), num_values)
        config = config.replaced(num_latents=min(config.num_latents, most))
    for source in (opened.source, opened.validation):
        if main and source is not None:
            _tell(source)
    return opened, config


def _load(accelerator: Accelerator, opened: Opened, folder: Path) -> Images:
    """The images, from memory or from one file in the folder."""
    from opmerge.cli.networks import read_samples
    from opmerge.denoisers.samples import network_shape
    from opmerge.latents import load_images

    def read(source: Source, folder: Path) -> Tensor:
        return read_samples(accelerator, source, network_shape(source), folder)

    return load_images(opened, folder, read)


def _tell(source: Source) -> None:
    """Say what images there are and what is remarkable about them, before any work."""
    say(f"{source.name}: {source.num_samples:,} images of {' x '.join(map(str, source.shape))}")
    for note in source.notes:
        say(f"note: {note}")


def _train(
    config: VAEConfig,
    images: Images,
    accelerator: Accelerator,
    files: RunOptions,
    write_config: Callable[[], None],
) -> None:
    from opmerge.cli.networks import followed
    from opmerge.latents import train_vae

    folder, split = files.output_dir, (images.rows, images.held_out)
    records = train_vae(
        config, images.data, accelerator, folder, files.checkpoint, warn=say, split=split
    )
    if accelerator.is_main_process:
        write_config()
    found: Quality | None = None
    for record, log in followed(records, "training the autoencoder", accelerator, folder, config):
        if record.held_out is not None:
            found = record.held_out
            log(record.iteration, held_out_ms_ssim=found.ms_ssim, held_out_mse=found.mse)
    if accelerator.is_main_process:
        _say_written(folder, found)


def _fit_pca(
    config: VAEConfig,
    images: Images,
    folder: Path,
    write_config: Callable[[], None],
) -> None:
    from opmerge.latents import fit_pca, reconstruction_quality

    held_out = images.held_out
    with progress_bar("fitting", images.train.num_samples) as report:
        encoder: PCAEncoder = fit_pca(images.train, config.num_latents, report)
    write_config()
    encoder.save(folder / "vae")
    _say_written(folder, reconstruction_quality(encoder, held_out) if len(held_out) else None)


def _say_written(folder: Path, quality: Quality | None) -> None:
    held_out = (
        ""
        if quality is None
        else f" (MS-SSIM {quality.ms_ssim:.4f} and squared error {quality.mse:.4g} "
        f"on {quality.num_images} held-out images)"
    )
    print(f"written: {folder / 'vae'}{held_out}")
