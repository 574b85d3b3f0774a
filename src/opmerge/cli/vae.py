"""The commands around latents: an autoencoder is trained, images are encoded, latents decoded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from opmerge.cli import networks, runs
from opmerge.cli.progress import progress_bar, say
from opmerge.errors import InputError

if TYPE_CHECKING:
    from opmerge.data import Source
    from opmerge.latents import Opened, Quality
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
    """Train an autoencoder on images, saved in diffusers' layout; or fit a PCA.

    Examples:
        opmerge vae train my_images/ --output_dir runs/vae
    """
    from opmerge import latents

    folder = files.output_dir
    accelerator = networks.start(config.optimization, folder)
    networks.tell_of_earlier(folder, files.checkpoint)
    main = accelerator.is_main_process
    opened, config = _open(images, config)
    loaded = latents.load_images(opened, folder, partial(networks.read_samples, accelerator))
    write_config = partial(runs.write_config, folder, "vae train", images, kind, config)
    quality: Quality | None = None
    if kind.encoder == "vae":
        split = loaded.rows, loaded.held_out
        records = latents.train_vae(
            config, loaded.data, accelerator, folder, files.checkpoint, warn=say, split=split
        )
        if main:
            write_config()
        title = "training the autoencoder"
        for record, log in networks.followed(records, title, accelerator, folder, config):
            if record.held_out is not None:
                quality = record.held_out
                log(record.iteration, held_out_ms_ssim=quality.ms_ssim, held_out_mse=quality.mse)
    elif main:
        with progress_bar("fitting", loaded.train.num_samples) as report:
            encoder = latents.fit_pca(loaded.train, config.num_latents, report)
        write_config()
        encoder.save(folder / "vae")
        if len(loaded.held_out):
            quality = latents.reconstruction_quality(encoder, loaded.held_out)
    if main:
        written = f"written: {folder / 'vae'}"
        if quality is not None:
            written += f" (MS-SSIM {quality.ms_ssim:.4f} and squared error {quality.mse:.4g} "
            written += f"on {quality.num_images} held-out images)"
        print(written)


def encode(images: ImagesOptions, asked: EncodingOptions) -> None:
    """Encode images: their latents, one row an image, in a .npy file.

    Examples:
        opmerge vae encode my_images/ --vae runs/vae --output latents.npy
    """
    from opmerge.denoisers.inputs import network_shape
    from opmerge.latents import encode_source, load_encoder
    from opmerge.loop import best_device

    networks.prepare_libraries()
    runs.prepare_file(asked.output)
    source = networks.open_samples(images.source, images)
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
    sizes = " x ".join(map(str, (source.num_samples, *encoder.latent_shape)))
    print(f"written: {asked.output} ({sizes})")


def decode(asked: DecodingOptions) -> None:
    """Decode latents: a grid of images, or all of them in a .npy file.

    Examples:
        opmerge vae decode latents.npy --vae runs/vae --output decoded.png
    """
    import torch

    from opmerge.data.arrays import read_array, write_rows
    from opmerge.distillation.sampling import write_image_grid
    from opmerge.latents import decode_latents, load_encoder
    from opmerge.loop import best_device

    output, shape = asked.output, asked.image_shape
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        need = "must be three whole numbers >= 1, such as 3,64,64"
        raise InputError("image_shape", need, ",".join(map(str, shape)))
    networks.prepare_libraries()
    runs.prepare_file(output)
    is_grid = output.suffix.lower() == ".png"
    rows = read_array(asked.latents, "latents")[: asked.num_images or (_SHOWN if is_grid else None)]
    encoder = load_encoder(asked.vae, shape, best_device())
    batches = decode_latents(encoder, rows, asked.batch_size)
    if is_grid:
        write_image_grid(output, torch.cat(list(batches)))
    else:
        with progress_bar("decoding", len(rows)) as report:
            write_rows(output, (len(rows), *encoder.image_shape), batches, report)
    print(f"written: {output}")


def _open(images: ImagesOptions, config: VAEConfig) -> tuple[Opened, VAEConfig]:
    """The images, told of and split, and as many latents as were asked for or as they allow."""
    from opmerge.latents import open_images
    from opmerge.latents.vae import check_num_latents, most_latents

    share, seed = config.validation_fraction, config.optimization.seed
    opened = open_images(images.source, images, share, seed, networks.open_samples, say)
    num_values = opened.source.num_features
    if config.given("num_latents"):
        check_num_latents(config.num_latents, num_values)
    else:
        most = most_latents(len(opened.rows), num_values)
        config = config.replaced(num_latents=min(config.num_latents, most))
    for source in filter(None, (opened.source, opened.validation)):
        _tell(source)
    return opened, config


def _tell(source: Source) -> None:
    """Say what images there are and what is remarkable about them, before any work."""
    say(f"{source.name}: {source.num_samples:,} images of {' x '.join(map(str, source.shape))}")
    for note in source.notes:
        say(f"note: {note}")
