"""What single commands are told: the problem and the search, files, folders, what to print."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from opmerge.settings.base import Settings, argument, option
from opmerge.settings.data import SourceOptions
from opmerge.settings.distillation import DistillationConfig, LinearPartChoice, LossWeighting
from opmerge.settings.types import (
    DEFAULT_MERGE_RULE,
    Budget,
    Count,
    File,
    MergeRule,
    Objective,
    Positive,
    Share,
    Split,
    Whole,
    must,
)

_TEACHER = "A diffusers pipeline folder, or a model of the Hugging Face hub (OWNER/NAME)."
_IGNORE_CLIPPING = (
    "Take a teacher whose scheduler clips its estimates of x_0, as if it did not; `sample` says "
    "what that changes."
)
_COPIES = (
    "Copy what the teacher's pipeline has beside its network (text encoders, autoencoder) into the "
    "student's folder, instead of links to it."
)
_FUSED = "Save whole networks with their adapters fused in, not the adapters."
_SHARED = "One network for all steps of the student and all merges"
_PICTURE = "A .png (grid) or .npy (array) file."
_PROMPTS = (
    "Prompts, a line each (.txt) or a JSON string a line (.jsonl), or a data set that `prepare` "
    "wrote: what its rows are told, in turn."
)
_TRAINED = DistillationConfig.model_fields  # plans are for runs with its defaults
_VAE = "A run of `vae train`, the folder `vae` in it, or an autoencoder or pipeline of diffusers."
_Array = Annotated[File, must("end in .npy", lambda path: path.suffix.lower() == ".npy")]
_Picture = Annotated[
    File, must("end in .png or .npy", lambda path: path.suffix.lower() in (".png", ".npy"))
]
_Checked = Annotated[float, Field(allow_inf_nan=True)]  # by the library, in its words


class ProblemOptions(Settings):
    """The merge problem; beside a plan file, what is not ``given`` is as the file says."""

    panel = "Problem"

    steps: int = option(64, "T, the teacher's steps.")
    merge_time: _Checked = option(6.4, "Optimisation time s of a merge.")
    schedule: str = option(
        "cosine",
        "cosine, nichol-dhariwal, linear, scaled-linear, equal-angle:2.0, a diffusers "
        "scheduler_config.json or model folder, a model of the hub (OWNER/NAME), or a file of "
        "arrays.",
    )
    training: File | None = option(
        None,
        "A training model or calibration (JSON), instead of --merge_time; gradient-flow: the "
        "linear theory's, also for K > 1.",
    )
    merge_rule: MergeRule = option(
        DEFAULT_MERGE_RULE, "denoiser-copy (as networks are trained) or operator-copy.", rare=True
    )
    objective: Objective = option("teacher", "teacher or data.", rare=True)
    student_steps: int = option(1, "K, the student's steps.")


class PlanOptions(ProblemOptions):
    """The merge problem of `plan`, which may be for several K."""

    # one number, or several of which a frontier shows all
    student_steps: int | tuple[int, ...] = option(  # type: ignore[assignment]
        1,
        "K, the student's steps; several, 1,2,4: a plan for the first, a frontier of each.",
        "Problem",
    )


class BudgetOptions(Settings):
    """What the training of a plan may cost."""

    panel = "Budget"

    budget: Budget | None = option(
        None,
        "Of all merges together: network evaluations (3e9), iterations (5000it) or time (90m, "
        "20h, 2d). The plan and its iterations are chosen for it.",
    )
    train_batch_size: Count = option(
        _TRAINED["optimization"].default.train_batch_size, "Samples of an iteration.", rare=True
    )
    target_reuse: Count | Literal["auto"] = option(
        _TRAINED["target_reuse"].default,
        "As of the run to come: times that a target is learned from, or auto, as many as a merge "
        "has children, at most 16.",
        rare=True,
    )
    seconds_per_evaluation: Positive | None = option(
        None,
        "Of a sample on the machine to come, forward; a budget of time needs it, or a --teacher, "
        "which is timed on this one.",
        rare=True,
    )
    teacher: File | None = option(
        None,
        "A diffusers pipeline folder: its own table of merges, by forward passes, instead of that "
        "of Gaussian data, and its own schedule.",
        "Teacher",
    )
    ignore_clipping: bool = option(False, _IGNORE_CLIPPING, "Teacher", rare=True)
    labels: str | None = option(
        None,
        "Class labels of the samples, for a class-conditional teacher: a .npy file of integers, or "
        "digits.",
        "Teacher",
        rare=True,
    )


class SearchOptions(Settings):
    """How the plan is found, and what is set beside it."""

    panel = "Search"

    planner: str = option(
        "auto", "auto, interval, scalar, certified, pareto or brute-force.", rare=True
    )
    epsilon: _Checked = option(0.0, "ε of the planner pareto, relative to each range.", rare=True)
    max_seconds: Positive = option(
        60.0,
        "The answer comes within about so many seconds of the command's start, by a search that is "
        "cut short if need be: with the best plan and the bound that it has by then, and a word "
        "about it. However long data take to read, half of them are for the search.",
        rare=True,
    )
    strategy: tuple[str, ...] | None = option(
        None,
        "A strategy to set beside the plan; may be repeated: vanilla, progressive, consistency, "
        "boot, uniform:4, temporal:8, phased:32,4, hybrid:8.",
    )


class EvaluationOptions(Settings):
    """The plan that is evaluated."""

    plan: str = option(
        ...,
        "A plan file, nested lists such as '[[3,2],1]' (a list of K trees with --student_steps K), "
        "or a strategy such as boot. What a plan file says holds where no option is given.",
        metavar="FILE|LISTS|NAME",
    )


class OutputOptions(Settings):
    """The place and form of results."""

    panel = "Output"

    output_dir: File | None = option(None, "Folder for the results.")
    as_json: bool = option(False, "One JSON object on standard output, nothing else.", name="json")


class ReportOptions(Settings):
    """What is drawn again."""

    run: File = argument("RUN", "Folder of a plan or of studies.")


class ExploreOptions(Settings):
    """What is explored, and where the page is."""

    panel = "Page"

    source: str = argument(
        "DATA|RUN",
        "digits, patches, faces, eigenvalues:0.5, a file or folder of samples, a saved spectrum, "
        "or the folder of a `plan` or `run`.",
        "digits",
    )
    port: Annotated[int, Field(ge=0, le=65535)] = option(
        8017, "Of the page's address on 127.0.0.1; 0: any that is free."
    )
    no_browser: bool = option(False, "Print the address, and open no browser.")


class RunOptions(Settings):
    """The folder of a training and how it goes on."""

    panel = "Run"

    output_dir: File = option(..., "Folder of the run.")
    resume_from_checkpoint: File | None = option(
        None, "latest, or a checkpoint of --output_dir: go on from there.", metavar="latest|DIR"
    )

    @property
    def checkpoint(self) -> str | None:
        """The checkpoint to go on from, as the package takes it."""
        wanted = self.resume_from_checkpoint
        return None if wanted is None else str(wanted)


class TeacherOptions(Settings):
    """The teacher of a command."""

    panel = "Teacher"

    teacher: File = option(..., _TEACHER)
    ignore_clipping: bool = option(False, _IGNORE_CLIPPING, rare=True)


class DistillOptions(TeacherOptions):
    """What is distilled, by which plan."""

    panel = "Execution"

    plan: str = option(
        ...,
        "A plan file, nested lists such as '[[3,2],1]', or a strategy such as boot (then with "
        "--steps).",
        metavar="FILE|LISTS|NAME",
    )
    steps: int | None = option(None, "T, the teacher's steps.", shown="the plan's")
    student_steps: int | None = option(None, "K, for lists or a strategy.", shown="1")
    free_step: int | None = option(
        None,
        "m: a step from T to m in closed form comes first, fitted to teacher runs; lists or a "
        "strategy are then of the m steps that remain.",
        shown="the plan's, or none",
        rare=True,
    )
    one_network: bool = option(False, f"{_SHARED}: --sharing all.")
    validation_steps: Whole = option(
        0,
        "Iterations between looks at samples of the same noise: a grid, and the paired error to "
        "the teacher's; 0: none.",
        "Run",
    )
    validation_prompts: File | None = option(
        None,
        "What those samples are told, in turn: prompts (.txt, .jsonl) or a data set that `prepare` "
        "wrote.",
        "Run",
        metavar="FILE|DIR",
        shown="what the data are told",
        rare=True,
    )
    dry_run: bool = option(
        False, "Say what it will cost in time, memory and disk, and stop.", "Run"
    )
    copy_components: bool = option(False, _COPIES, "Run", rare=True)
    fuse_lora: bool = option(False, _FUSED, "Run", rare=True)


class SpendingOptions(TeacherOptions):
    """What a budget is spent on, and what stands beside it."""

    panel = "Budget"

    steps: int = option(..., "T, the teacher's steps.", "Teacher")
    output_dir: File = option(..., "Folder of the run; every part of it is kept.", "Run")
    budget: Budget = option(
        ...,
        "Of all together: network evaluations (3e9), iterations (5000it) or time (90m, 20h, 2d).",
    )
    student_steps: Count = option(1, "K, the student's steps.")
    calibration_share: Annotated[
        float, must("be above 0 and below 1", lambda value: 0 < value < 1)
    ] = option(
        0.1, "Of the budget, spent on probes that say what plans leave on this network.", rare=True
    )
    pilot_share: Share = option(
        0.1,
        "Of the budget, spent on short runs of plans that forecasts do not tell apart, with the "
        "learning rate and with three times that; 0: none.",
        rare=True,
    )
    compare_with: tuple[str, ...] = option(
        (),
        "A strategy that is trained too, as people run it, for the whole budget; may be repeated.",
        metavar="NAME",
    )
    max_seconds: Positive = option(
        60.0,
        "Of the search for a plan, which is cut short if need be. What it found is kept.",
        rare=True,
    )
    num_samples: Count = option(2000, "Samples on which students are measured.", rare=True)
    copy_components: bool = option(False, _COPIES, "Run", rare=True)
    fuse_lora: bool = option(False, _FUSED, "Run", rare=True)
    one_network: bool = option(False, f"{_SHARED}.", "Execution")
    lora_rank: Count | None = option(
        None, str(_TRAINED["lora_rank"].description), "Execution", shown="whole networks"
    )
    lora_target_modules: tuple[str, ...] | None = option(
        None,
        str(_TRAINED["lora_target_modules"].description),
        "Execution",
        shown="by the network",
        rare=True,
    )
    loss_weighting: LossWeighting = option(
        "snr-truncated", str(_TRAINED["loss_weighting"].description), "Execution", rare=True
    )
    linear_part: LinearPartChoice = option(
        "auto",
        str(_TRAINED["linear_part"].description),
        "Execution",
        shown="solve for the perceptron, train for others",
        rare=True,
    )
    target_reuse: Count | Literal["auto"] = option(
        "auto", str(_TRAINED["target_reuse"].description), "Execution", rare=True
    )


class CalibrationOptions(TeacherOptions):
    """What is calibrated; the merges are trained as those of the run to come."""

    panel = "Training"

    steps: int = option(..., "T, the teacher's steps.", "Teacher")
    output_dir: File = option(..., "Folder for calibration.json; finished probes are kept.", "Run")
    num_iterations: Count = option(400, "Iterations of a merge to predict for.")
    budget: Budget | None = option(
        None,
        "Of probes and table together, instead: network evaluations (2e6), iterations (5000it) or "
        "time (5m).",
    )
    merge_rule: MergeRule = option(DEFAULT_MERGE_RULE, "denoiser-copy or operator-copy.", rare=True)
    loss_weighting: LossWeighting = option("snr-truncated", "As of the run to come.", rare=True)
    linear_part: LinearPartChoice = option(
        "auto",
        "As of the run to come.",
        shown="solve for the perceptron, train for others",
        rare=True,
    )
    target_reuse: Count | Literal["auto"] = option(
        "auto",
        "As of the run to come.",
        shown="auto: the operators of a merge, at most 16",
        rare=True,
    )
    half_rate: bool = option(
        False, "Also train probes at half the learning rate, to predict for other rates.", rare=True
    )


class PreparingOptions(Settings):
    """The images and prompts that are encoded, by what and where to."""

    panel = "Data"

    source: str | None = argument(
        "SOURCE",
        "A folder of images or of CelebA, digits, patches, faces, or a file of images (.npy .npz "
        ".pt .safetensors); left out with --prompts alone, for runs with --data_free.",
        None,
    )
    teacher: File = option(..., _TEACHER, "Teacher")
    output_dir: File = option(
        ..., "Folder of the data set; what is finished in it is kept.", "Output"
    )
    prompts: File | None = option(
        None,
        "Prompts, a line each (.txt) or a JSON string a line (.jsonl): one of each sample, or "
        "alone.",
        metavar="FILE",
        shown="metadata.jsonl or .csv, or a .txt beside each image",
    )
    caption_column: str = option(
        "text", "Of metadata.jsonl or metadata.csv: the captions.", rare=True
    )
    labels: str | None = option(
        None,
        "Class labels, for a class-conditional teacher: a .npy file of integers, or digits.",
        shown="the folders of the images, in the order of their names",
    )
    image_size: Count | None = option(
        None, "Side to which images are resized and cropped.", shown="the teacher's"
    )
    split: Split | None = option(
        None, "Of CelebA: train, validation, test or all.", shown="train for CelebA", rare=True
    )
    batch_size: Count = option(16, "Images or prompts at a time.", "Output", rare=True)
    embeddings: Literal["float32", "float16"] = option(
        "float32",
        "Numbers of prompts on the disk: float16 are half, and read as float32.",
        "Output",
        rare=True,
    )
    shard_size: Count = option(
        1024, "Rows of a file at most, or as many as take 512 MiB.", "Output", rare=True
    )


class SamplingOptions(Settings):
    """What is drawn, from which model."""

    panel = "Samples"

    model: File = argument("MODEL", "The folder of a student, or of a teacher.")
    output: _Picture = option(..., _PICTURE, "Output", metavar="FILE")
    num_samples: Count = option(64, "How many.")
    steps: int | None = option(None, "T, for a teacher.", shown="none")
    seed: int = option(0, "Of the initial noise.")
    batch_size: int = option(256, "Samples at a time.", rare=True)
    class_label: int | None = option(None, "Of all samples.", shown="each in turn")
    prompts: File | None = option(None, _PROMPTS, metavar="FILE|DIR")
    prompt: tuple[str, ...] = option(
        (),
        "What the samples are to show, encoded by the model's pipeline; several in turn.",
        metavar="TEXT",
    )
    ignore_clipping: bool = option(
        False,
        "Draw from a teacher whose scheduler clips its estimates of x_0, as if it did not, and say "
        "how far that moves its samples.",
        rare=True,
    )


class MeasuringOptions(SourceOptions, TeacherOptions):
    """Which student is measured, on what and against what."""

    panel = "Samples"

    student: File = argument("STUDENT", "The folder `student` that `distill` wrote.")
    source: str | None = option(
        None,
        "Samples of the data (digits, a file, a folder …): distances to them, and the paired error "
        "along their covariance's eigenvectors.",
    )
    prompts: File | None = option(
        None,
        _PROMPTS,
        metavar="FILE|DIR",
        shown="those of --source",
    )
    num_samples: int = option(5000, "Of each of the two.")
    num_resamples: int = option(
        200,
        "Of the bootstrap; 0: no intervals of the distances. One of 5000 samples with 2048 "
        "features takes 3 s or more on one core, for each Fréchet distance.",
        rare=True,
    )
    seed: int = option(1, "Of the initial noise.")  # not 0: what is measured is no picture's
    batch_size: int = option(256, "Samples at a time.", rare=True)
    features: str | None = option(
        None,
        "A function from samples to features, package.module:name, for Fréchet distances.",
        rare=True,
    )
    plan: File | None = option(
        None, "The plan file: the error that it predicts beside the measured."
    )
    as_json: bool = option(False, "One JSON object on standard output.", "Output", name="json")


class ExportOptions(Settings):
    """A plan's steps for another program."""

    panel = "Output"

    plan: File = argument("PLAN", "A plan file.")
    to: Literal["fastgen", "comfyui"] = option(..., "fastgen or comfyui.")
    time: Literal["edm", "rf", "trig", "alphas"] | None = option(
        None,
        "FastGen's noise schedule: edm, rf, trig or alphas.",
        shown="rf for flow matching, else edm",
    )


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
    output: _Array = option(..., "A .npy file.", "Output", metavar="FILE")
    sample: bool = option(False, "Draw latents instead of writing their means.")
    seed: int = option(0, "Of the draws.")
    batch_size: int = option(64, "Images at a time.")


class DecodingOptions(Settings):
    """Which latents are decoded, by what."""

    panel = "Model"

    latents: File = argument("LATENTS", "A .npy file of one row, or one array, an image.")
    vae: File = option(..., _VAE)
    output: _Picture = option(..., _PICTURE, "Output", metavar="FILE")
    num_images: Count | None = option(
        None, "The first so many.", "Output", shown="64 for .png, else all"
    )
    image_shape: tuple[int, ...] | None = option(
        None, "Such as 3,64,64, for one of diffusers.", shown="its sample_size"
    )
    batch_size: int = option(64, "Images at a time.")


class StudyOptions(Settings):
    """Which study runs, how and on what."""

    panel = "Study"

    name: str | None = argument("NAME", "Which study, or all; --list tells.", None)
    output_dir: File | None = option(
        None, "Folder for the record and the page.", "Run", shown="runs/NAME"
    )
    quick: bool = option(False, "A demonstration of a few minutes.")
    settings: tuple[str, ...] = option(
        (),
        "A setting of the study, such as steps=16, seeds=[0,1] or teacher.network=unet; may be "
        "repeated.",
        name="set",
        metavar="KEY=VALUE",
    )
    neural: bool = option(
        False, "celeba: also distil networks by the same plans, at equal total cost."
    )
    num_workers: int = option(-1, "Processes of a sweep; -1 for one a core.", "Run")
    backend: str = option("loky", "What a sweep runs on: loky, dask or ray.", "Run")
    show_list: bool = option(False, "Describe the studies and stop.", name="list")
