"""What single commands are told besides: files, folders, and what to print."""

from __future__ import annotations

from typing import Literal

from opmerge.settings.base import Settings, argument, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import LossWeighting
from opmerge.settings.types import Count, File, MergeRule

_TEACHER = "A diffusers pipeline folder."
_PICTURE = "A .png (grid) or .npy (array) file."
_VAE = "A run of `vae train`, the folder `vae` in it, or a diffusers AutoencoderKL or pipeline."


class EvaluationOptions(Settings):
    """The plan that is evaluated."""

    plan: str = option(
        ...,
        "A plan file, or nested lists such as '[[3,2],1]' (a list of K trees with --student_steps "
        "K). What a plan file says holds where no option is given.",
        metavar="FILE|LISTS",
    )


class OutputOptions(Settings):
    """The place and form of results."""

    panel = "Output"

    output_dir: File | None = option(None, "Folder for the results.")
    as_json: bool = option(False, "One JSON object on standard output, nothing else.", name="json")


class ReportOptions(Settings):
    """What is drawn again."""

    run: File = argument("RUN", "Folder of a plan or of studies.")


class RunOptions(Settings):
    """The folder of a training and how it goes on."""

    panel = "Run"

    output_dir: File = option(..., "Folder of the run.")
    resume_from_checkpoint: File | None = option(
        None,
        "latest, or a checkpoint of --output_dir: go on from there.",
        metavar="latest|DIR",
    )

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint to go on from, as the package takes it."""
        wanted = self.resume_from_checkpoint
        return None if wanted is None else str(wanted)


class DistillOptions(Settings):
    """What is distilled, by which plan."""

    panel = "Execution"

    teacher: File = option(..., "The teacher: a diffusers pipeline folder.", panel="Data")
    plan: str = option(
        ...,
        "A plan file, nested lists such as '[[3,2],1]', or a strategy such as boot (then with "
        "--steps).",
        metavar="FILE|LISTS|NAME",
    )
    steps: int | None = option(None, "T, the teacher's steps.", shown="the plan's")
    student_steps: int | None = option(None, "K, for lists or a strategy.", shown="1")
    dry_run: bool = option(
        False, "Say what it will cost in time, memory and disk, and stop.", panel="Run"
    )


class CalibrationOptions(Settings):
    """What is calibrated; the merges are trained as those of the run to come."""

    panel = "Training"

    teacher: File = option(..., _TEACHER, panel="Teacher")
    steps: int = option(..., "T, the teacher's steps.", panel="Teacher")
    output_dir: File = option(
        ..., "Folder for calibration.json; finished probes are kept.", panel="Run"
    )
    num_iterations: Count = option(400, "Iterations of a merge to predict for.")
    merge_rule: MergeRule = option("denoiser-copy", "denoiser-copy or operator-copy.")
    loss_weighting: LossWeighting = option("snr-truncated", "As of the run to come.")
    half_rate: bool = option(
        False, "Also train probes at half the learning rate, to predict for other rates."
    )


class SamplingOptions(Settings):
    """What is drawn, from which model."""

    panel = "Samples"

    model: File = argument("MODEL", "The folder of a student, or of a teacher.")
    output: File = option(..., _PICTURE, panel="Output", metavar="FILE")
    num_samples: Count = option(64, "How many.")
    steps: int | None = option(None, "T, for a teacher.", shown="none")
    seed: int = option(0, "Of the initial noise.")
    batch_size: int = option(256, "Samples at a time.")
    class_label: int | None = option(None, "Of all samples.", shown="each in turn")


class MeasuringOptions(SourceOptions):
    """Which student is measured, on what and against what."""

    panel = "Samples"

    student: File = argument("STUDENT", "The folder `student` that `distill` wrote.")
    teacher: File = option(..., _TEACHER, panel="Teacher")
    source: str | None = option(
        None,
        "Samples of the data (digits, a file, a folder …): distances to them, and the paired error "
        "along their covariance's eigenvectors.",
    )
    num_samples: int = option(5000, "Of each of the two.")
    num_resamples: int = option(
        200,
        "Of the bootstrap; 0: no intervals of the distances. One of 5000 samples with 2048 "
        "features takes 3 s or more on one core, for each Fréchet distance.",
    )
    seed: int = option(1, "Of the initial noise.")  # not 0: what is measured is no picture's
    batch_size: int = option(256, "Samples at a time.")
    features: str | None = option(
        None,
        "A function from samples to features, package.module:name, for Fréchet distances.",
    )
    plan: File | None = option(
        None, "The plan file: the error that it predicts beside the measured."
    )
    as_json: bool = option(
        False, "One JSON object on standard output.", panel="Output", name="json"
    )


class ExportOptions(Settings):
    """A plan's steps for another program."""

    panel = "Output"

    plan: File = argument("PLAN", "A plan file.")
    to: str = option(..., "fastgen or comfyui.")
    time: str = option("edm", "FastGen's noise schedule: edm, rf, trig or alphas.")


class EncoderOptions(Settings):
    """What kind of encoder is made."""

    panel = "Model"

    encoder: Literal["vae", "pca"] = option(
        "vae", "vae, or pca: the best linear one, which is not trained."
    )


class EncodingOptions(Settings):
    """The autoencoder that images are encoded by."""

    panel = "Model"

    vae: File = option(..., _VAE)
    output: File = option(..., "A .npy file.", panel="Output", metavar="FILE")
    sample: bool = option(False, "Draw latents instead of writing their means.")
    seed: int = option(0, "Of the draws.")
    batch_size: int = option(64, "Images at a time.")


class DecodingOptions(Settings):
    """Which latents are decoded, by what."""

    panel = "Model"

    latents: File = argument("LATENTS", "A .npy file of one row, or one array, an image.")
    vae: File = option(..., _VAE)
    output: File = option(..., _PICTURE, panel="Output", metavar="FILE")
    num_images: Count | None = option(
        None, "The first so many.", panel="Output", shown="64 for .png, else all"
    )
    image_shape: tuple[int, ...] | None = option(
        None, "Such as 3,64,64, for an AutoencoderKL.", shown="its sample_size"
    )
    batch_size: int = option(64, "Images at a time.")


class StudyOptions(Settings):
    """Which study runs, how and on what."""

    panel = "Study"

    name: str | None = argument("NAME", "Which study, or all; --list tells.", None)
    output_dir: File | None = option(
        None, "Folder for the record and the page.", panel="Run", shown="runs/NAME"
    )
    quick: bool = option(False, "A demonstration of a few minutes.")
    settings: tuple[str, ...] = option(
        (),
        "A setting of the study, such as steps=16, seeds=[0,1] or teacher.network=unet; may be "
        "repeated.",
        name="set",
        metavar="KEY=VALUE",
    )
    neural: bool = option(False, "celeba: also distil networks by the same plans.")
    num_workers: int = option(-1, "Processes of a sweep; -1 for one a core.", panel="Run")
    backend: str = option("loky", "What a sweep runs on: loky, dask or ray.", panel="Run")
    show_list: bool = option(False, "Describe the studies and stop.", name="list")
