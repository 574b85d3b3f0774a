"""The commands around latents: an autoencoder is trained, images are encoded, latents decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opmerge.cli.options import ImageOptions, option, takes_options
from opmerge.cli.progress import progress_bar
from opmerge.cli.training_options import OptimizationOptions, ResumeFrom
from opmerge.errors import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor

    from opmerge.data import Source
    from opmerge.latents import Images, Opened, PCAEncoder, Quality, VAEConfig

__all__ = ["decode", "encode", "train"]

_ENCODERS = ("vae", "pca")
_LOG_EVERY = 10
_SHOWN = 64

OutputDir = Annotated[Path, option("output_dir", "Folder of the run.", "Run")]
VAEDir = Annotated[
    Path,
    option(
        "vae",
        "A run of `vae train`, the folder `vae` in it, or a diffusers AutoencoderKL or pipeline.",
        "Model",
    ),
]
BatchSize = Annotated[int, option("batch_size", "Images at a time.", "Model")]


@dataclass(frozen=True, kw_only=True)
class ImagesOptions(ImageOptions):
    """The images that are trained on or encoded."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, patches, faces, a file of images (.npy .npz .pt .safetensors) or a "
            "folder of images.",
        ),
    ]


@dataclass(frozen=True)
class VAEOptions:
    """``VAEConfig``, and whether it is one; None takes its default, or what the images allow."""

    encoder: Annotated[
        str, option("encoder", "vae, or pca: the best linear one, which is not trained.", "Model")
    ] = "vae"
    num_latents: Annotated[
        int | None,
        option(
            "num_latents",
            "Latents of an image.",
            "Model",
            show_default="128, or half of an image's values or of the images, if fewer",
        ),
    ] = None
    base_channels: Annotated[
        int, option("base_channels", "Channels of the first level.", "Model")
    ] = 32
    loss: Annotated[
        str, option("loss", "Reconstruction loss: ms-ssim, or mse (a β-VAE).", "Model")
    ] = "ms-ssim"
    kl_weight: Annotated[float, option("kl_weight", "Of the KL divergence.", "Model")] = 0.00025
    random_flip: Annotated[
        bool, option("random_flip", "Mirror half of the images in training.", "Data")
    ] = False
    num_iterations: Annotated[int, option("num_iterations", "Optimizer steps.", "Training")] = 2000
    validation_fraction: Annotated[
        float,
        option(
            "validation_fraction",
            "Share of the images held out: of patches a strip of the photos, for CelebA's "
            "training split its validation split. 0: none.",
            "Data",
        ),
    ] = 0.1
    validation_steps: Annotated[
        int, option("validation_steps", "Iterations between looks at held-out images.", "Training")
    ] = 250


@dataclass(frozen=True)
class VAEOptimizationOptions(OptimizationOptions):
    """``OptimizationConfig``, with this command's defaults."""

    train_batch_size: Annotated[
        int, option("train_batch_size", "Images per process and accumulation step.", "Training")
    ] = 64
    learning_rate: Annotated[float, option("learning_rate", "Learning rate.", "Training")] = 2e-3
    ema_decay: Annotated[
        float, option("ema_decay", "Moving average of the weights; 0: none.", "Training")
    ] = 0.0


@takes_options
def train(
    images: ImagesOptions,
    output_dir: OutputDir,
    model: VAEOptions,
    optimization: VAEOptimizationOptions,
    resume_from_checkpoint: ResumeFrom = None,
) -> None:
    """Train an autoencoder on images, saved in diffusers' layout; or fit a PCA."""
    from opmerge.cli import networks, runs
    from opmerge.latents import VAEConfig
    from opmerge.settings.distillation import OptimizationConfig

    if model.encoder not in _ENCODERS:
        raise InputError("encoder", f"must be one of {', '.join(_ENCODERS)}", model.encoder)
    settings: dict[str, Any] = {k: v for k, v in asdict(model).items() if v is not None}
    del settings["encoder"]
    config = VAEConfig(
        **settings,
        optimization=networks.build_optimization(optimization, OptimizationConfig()),
    )
    runs.prepare_folder(output_dir)
    accelerator = networks.start(config.optimization, output_dir)
    main = accelerator.is_main_process
    opened, config = _open(images, config, model.num_latents, main)
    loaded = _load(accelerator, opened, output_dir)
    options = {**asdict(images), "encoder": model.encoder, **asdict(config)}
    write_config = partial(runs.write_config, output_dir, "vae train", options)
    if model.encoder == "pca":
        if main:
            _fit_pca(config, loaded, output_dir, write_config)
        return
    wanted = None if resume_from_checkpoint is None else str(resume_from_checkpoint)
    _train(config, loaded, accelerator, output_dir, wanted, write_config)


@takes_options
def encode(
    images: ImagesOptions,
    vae: VAEDir,
    output: Annotated[Path, option("output", "A .npy file.", "Output", metavar="FILE")],
    sample: Annotated[
        bool, option("sample", "Draw latents instead of writing their means.", "Model")
    ] = False,
    seed: Annotated[int, option("seed", "Of the draws.", "Model")] = 0,
    batch_size: BatchSize = 64,
) -> None:
    """Encode images: their latents, one row an image, in a .npy file."""
    from opmerge.cli.networks import open_samples, prepare_libraries
    from opmerge.denoisers.samples import network_shape
    from opmerge.latents import encode_source, load_encoder
    from opmerge.loop import best_device

    if output.suffix != ".npy":
        raise InputError("output", "must end in .npy", str(output))
    prepare_libraries()
    source = open_samples(images.source, images.source_options())
    encoder = load_encoder(vae, network_shape(source), best_device())
    _tell(source)
    with progress_bar("encoding", source.num_samples) as report:
        encode_source(
            encoder,
            source,
            output,
            sample=sample,
            seed=seed,
            batch_size=batch_size,
            progress=report,
        )
    print(f"written: {output} ({source.num_samples} x {encoder.num_latents})")


@takes_options
def decode(
    latents: Annotated[
        Path,
        typer.Argument(metavar="LATENTS", help="A .npy file of one row, or one array, an image."),
    ],
    vae: VAEDir,
    output: Annotated[
        Path, option("output", "A .png (grid) or .npy (array) file.", "Output", metavar="FILE")
    ],
    num_images: Annotated[
        int | None,
        option("num_images", "The first so many.", "Output", show_default="64 for .png, else all"),
    ] = None,
    image_shape: Annotated[
        str | None,
        option(
            "image_shape",
            "Such as 3,64,64, for an AutoencoderKL.",
            "Model",
            show_default="its sample_size",
        ),
    ] = None,
    batch_size: BatchSize = 64,
) -> None:
    """Decode latents: a grid of images, or all of them in a .npy file."""
    import torch

    from opmerge.checks import check_count
    from opmerge.cli import networks
    from opmerge.data.arrays import read_array, write_rows
    from opmerge.distillation.sampling import write_image_grid
    from opmerge.latents import decode_latents, load_encoder
    from opmerge.loop import best_device

    if output.suffix not in (".png", ".npy"):
        raise InputError("output", "must end in .png or .npy", str(output))
    shape = networks.whole_numbers("image_shape", image_shape)
    if shape is not None and (len(shape) != 3 or min(shape) < 1):
        raise InputError(
            "image_shape", "must be three whole numbers >= 1, such as 3,64,64", image_shape
        )
    networks.prepare_libraries()
    rows = read_array(latents).values
    default = _SHOWN if output.suffix == ".png" else max(len(rows), 1)
    rows = rows[: check_count("num_images", default if num_images is None else num_images)]
    encoder = load_encoder(vae, shape, best_device())
    batches = decode_latents(encoder, rows, batch_size)
    if output.suffix == ".png":
        write_image_grid(output, torch.cat(list(batches)))
    else:
        with progress_bar("decoding", len(rows)) as report:
            write_rows(output, (len(rows), *encoder.image_shape), batches, report)
    print(f"written: {output}")


def _open(
    images: ImagesOptions, config: VAEConfig, num_latents: int | None, main: bool
) -> tuple[Opened, VAEConfig]:
    """The images, told of and split, and as many latents as were asked for or as they allow."""
    from opmerge.cli.networks import open_samples, say
    from opmerge.latents import open_images
    from opmerge.latents.vae import check_num_latents, most_latents

    opened = open_images(
        images.source,
        images.source_options(),
        config.validation_fraction,
        config.optimization.seed,
        partial(open_samples, enabled=main),
        say if main else lambda line: None,
    )
    num_values = opened.source.num_features
    if num_latents is None:
        most = most_latents(len(opened.rows), num_values)
        config = replace(config, num_latents=min(config.num_latents, most))
    else:
        check_num_latents(num_latents, num_values)
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
    from opmerge.cli.networks import say

    say(f"{source.name}: {source.num_samples:,} images of {' x '.join(map(str, source.shape))}")
    for note in source.notes:
        say(f"note: {note}")


def _train(
    config: VAEConfig,
    images: Images,
    accelerator: Accelerator,
    folder: Path,
    resume: str | None,
    write_config: Callable[[], None],
) -> None:
    from opmerge.cli import networks
    from opmerge.latents import train_vae

    split = (images.rows, images.held_out)
    records = train_vae(
        config, images.data, accelerator, folder, resume, warn=networks.say, split=split
    )
    main, total = accelerator.is_main_process, config.num_iterations
    if main:
        write_config()
    first = next(records, None)  # none where a finished run is resumed
    done = total if first is None else first.iteration - 1
    found: Quality | None = None
    with (
        networks.log_to(accelerator, folder, asdict(config), done) as log,
        progress_bar("training the autoencoder", total, main, done) as report,
    ):
        for record in records if first is None else chain([first], records):
            report(record.iteration)
            if record.iteration % _LOG_EVERY == 0 or record.iteration == total:
                log(record.iteration, loss=float(record.loss), learning_rate=record.learning_rate)
            if record.held_out is not None:
                found = record.held_out
                log(record.iteration, held_out_ms_ssim=found.ms_ssim, held_out_mse=found.mse)
    if main:
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
