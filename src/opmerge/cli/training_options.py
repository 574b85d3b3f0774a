"""The options of commands that train: the fields of the package's own configurations.

Names and defaults are those of ``distillation.config`` and ``distillation.teacher_training``,
which cannot be imported here because ``--help`` must not wait for torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from opmerge.cli.options import ImageOptions, option

__all__ = ["ExecutionOptions", "OptimizationOptions", "SampleOptions", "TeacherOptions"]


@dataclass(frozen=True, kw_only=True)
class SampleOptions(ImageOptions):
    """The samples that networks are trained on."""

    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="digits, patches, faces, a file of samples (.npy .npz .csv .pt .safetensors) or "
            "a folder of images; none with --data_free.",
        ),
    ]
    labels: Annotated[
        str | None,
        option(
            "labels",
            "Class labels of the samples, for a class-conditional network: a .npy file of "
            "integers, or digits.",
            "Data",
        ),
    ] = None


@dataclass(frozen=True)
class OptimizationOptions:
    """``OptimizationConfig``; None takes its default."""

    train_batch_size: Annotated[
        int, option("train_batch_size", "Samples per process and accumulation step.", "Training")
    ] = 128
    gradient_accumulation_steps: Annotated[
        int, option("gradient_accumulation_steps", "Parts of a process' batch.", "Training")
    ] = 1
    learning_rate: Annotated[
        float | None,
        option(
            "learning_rate",
            "Learning rate.",
            "Training",
            show_default="3e-4; 1e-3 for train-teacher",
        ),
    ] = None
    lr_scheduler: Annotated[
        str, option("lr_scheduler", "constant, linear or cosine, over a training.", "Training")
    ] = "cosine"
    lr_warmup_steps: Annotated[
        int, option("lr_warmup_steps", "Iterations over which it first rises.", "Training")
    ] = 0
    optimizer: Annotated[str, option("optimizer", "adamw, adam or sgd.", "Training")] = "adamw"
    weight_decay: Annotated[float, option("weight_decay", "Of adamw.", "Training")] = 0.0
    max_grad_norm: Annotated[
        float, option("max_grad_norm", "Gradients are clipped to it; 0: not.", "Training")
    ] = 1.0
    ema_decay: Annotated[
        float | None,
        option(
            "ema_decay",
            "Moving average of the weights; 0: none.",
            "Training",
            show_default="0; 0.999 for train-teacher",
        ),
    ] = None
    mixed_precision: Annotated[str, option("mixed_precision", "no, fp16 or bf16.", "Training")] = (
        "no"
    )
    seed: Annotated[int, option("seed", "Seed of the batches.", "Training")] = 0
    checkpointing_steps: Annotated[
        int, option("checkpointing_steps", "Iterations between checkpoints; 0: none.", "Run")
    ] = 500
    checkpoints_total_limit: Annotated[
        int, option("checkpoints_total_limit", "How many are kept.", "Run")
    ] = 2
    report_to: Annotated[
        str | None, option("report_to", "A tracker of accelerate, such as tensorboard.", "Run")
    ] = None


@dataclass(frozen=True)
class ExecutionOptions:
    """``DistillationConfig``."""

    num_iterations: Annotated[
        str | None,
        option(
            "num_iterations",
            "Iterations of every merge (or round), or a list of them: 400,400,800.",
            "Execution",
            show_default="the plan's, or 400",
        ),
    ] = None
    merge_seconds: Annotated[
        float | None, option("merge_seconds", "Seconds a merge, instead.", "Execution")
    ] = None
    merge_rule: Annotated[
        str | None,
        option(
            "merge_rule",
            "What a student keeps of its noise-side child: denoiser-copy (its weights as a "
            "denoiser) or operator-copy (a direct jump network).",
            "Execution",
            show_default="the plan's, or denoiser-copy",
        ),
    ] = None
    loss_weighting: Annotated[
        str,
        option(
            "loss_weighting",
            "uniform, snr-truncated, x-space, epsilon-space or jump-space.",
            "Execution",
        ),
    ] = "snr-truncated"
    sharing: Annotated[
        str, option("sharing", "One network a merge, or one a round.", "Execution")
    ] = "merge"
    curriculum: Annotated[
        str,
        option(
            "curriculum", "Targets grow over half of a merge: none, linear, doubling.", "Execution"
        ),
    ] = "none"
    data_free: Annotated[
        bool,
        option("data_free", "Students read pure noise; for plans at step T only.", "Execution"),
    ] = False


@dataclass(frozen=True)
class TeacherOptions:
    """``TeacherConfig``."""

    network: Annotated[str, option("network", "mlp or unet.", "Teacher")] = "mlp"
    hidden_size: Annotated[int, option("hidden_size", "Width of the mlp.", "Teacher")] = 256
    num_layers: Annotated[int, option("num_layers", "Blocks of the mlp.", "Teacher")] = 3
    block_out_channels: Annotated[
        str | None,
        option(
            "block_out_channels",
            "Channels of the unet's resolutions, such as 32,64.",
            "Teacher",
            show_default="by the side",
        ),
    ] = None
    prediction_type: Annotated[
        str, option("prediction_type", "v_prediction, sample or epsilon.", "Teacher")
    ] = "v_prediction"
    schedule: Annotated[
        str,
        option("schedule", "cosine, nichol-dhariwal, linear or scaled-linear.", "Teacher"),
    ] = "cosine"
    num_train_timesteps: Annotated[
        int, option("num_train_timesteps", "N; take T among its divisors.", "Teacher")
    ] = 1024
    num_iterations: Annotated[int, option("num_iterations", "Optimizer steps.", "Teacher")] = 20_000
    validation_fraction: Annotated[
        float,
        option(
            "validation_fraction",
            "Share of the samples held out; the weights of the least held-out loss are kept.",
            "Teacher",
        ),
    ] = 0.1
    validation_steps: Annotated[
        int, option("validation_steps", "Iterations between held-out losses.", "Teacher")
    ] = 500


ResumeFrom = Annotated[
    Path | None,
    option(
        "resume_from_checkpoint",
        "latest, or a checkpoint of --output_dir: go on from there.",
        "Run",
        metavar="latest|DIR",
    ),
]
