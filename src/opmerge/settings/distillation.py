"""Settings of a training run and of a distillation, each checked once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from opmerge.checks import check_count, check_number, check_whole
from opmerge.errors import InputError
from opmerge.problem import MergeRule

__all__ = ["Curriculum", "DistillationConfig", "LossWeighting", "OptimizationConfig", "Sharing"]

LearningRateSchedule = Literal["constant", "linear", "cosine"]
Optimizer = Literal["adamw", "adam", "sgd"]
MixedPrecision = Literal["no", "fp16", "bf16"]
LossWeighting = Literal["uniform", "snr-truncated", "x-space", "epsilon-space", "jump-space"]
"""The space in which the error of a student counts equally at every step."""

Sharing = Literal["merge", "round"]
"""One network a merge, or one for the merges of a round that start from the same network."""

Curriculum = Literal["none", "linear", "doubling"]
"""How the length of the target grows over the first half of a merge's iterations."""

# What may change between a run and its continuation, or counts only as part of the global batch.
_FREE = (
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
    "train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass(frozen=True)
class OptimizationConfig:
    """How one network is trained; names follow diffusers' training scripts.

    Args:
        train_batch_size: samples per process and accumulation step.
        gradient_accumulation_steps: parts in which a process takes its share of a batch.
        learning_rate: the optimizer's learning rate.
        lr_scheduler: how it falls: not at all, linearly to 0 or by a half cosine.
        lr_warmup_steps: iterations over which it first rises.
        optimizer: adamw, adam or sgd.
        weight_decay: of adamw.
        max_grad_norm: gradients are clipped to this norm; 0 does not clip.
        ema_decay: if > 0, the network that is kept is the moving average of the weights.
        mixed_precision: no, fp16 or bf16.
        seed: of the batches.
        checkpointing_steps: iterations between checkpoints; 0 for none.
        checkpoints_total_limit: how many are kept.
        report_to: a tracker of accelerate, such as tensorboard.

    Raises:
        InputError: naming the setting that is out of range.
    """

    train_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    learning_rate: float = 3e-4
    lr_scheduler: LearningRateSchedule = "cosine"
    lr_warmup_steps: int = 0
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    mixed_precision: MixedPrecision = "no"
    seed: int = 0
    checkpointing_steps: int = 500
    checkpoints_total_limit: int = 2
    report_to: str | None = None

    def __post_init__(self) -> None:
        _check_choice(self, "lr_scheduler", LearningRateSchedule)
        _check_choice(self, "optimizer", Optimizer)
        _check_choice(self, "mixed_precision", MixedPrecision)
        for key in ("train_batch_size", "gradient_accumulation_steps", "checkpoints_total_limit"):
            check_count(key, getattr(self, key))
        for key in ("lr_warmup_steps", "checkpointing_steps"):
            if check_whole(key, getattr(self, key)) < 0:
                raise InputError(key, "must be >= 0", getattr(self, key))
        check_whole("seed", self.seed)
        for key in ("weight_decay", "max_grad_norm"):
            if check_number(key, getattr(self, key)) < 0:
                raise InputError(key, "must be >= 0", getattr(self, key))
        if check_number("learning_rate", self.learning_rate) <= 0:
            raise InputError("learning_rate", "must be > 0", self.learning_rate)
        if not 0 <= check_number("ema_decay", self.ema_decay) < 1:
            raise InputError("ema_decay", "must be in [0, 1)", self.ema_decay)

    def global_batch_size(self, num_processes: int) -> int:
        """Samples per optimizer step, over all processes and accumulation steps."""
        return self.train_batch_size * self.gradient_accumulation_steps * num_processes

    def is_checkpoint(self, total: int) -> Callable[[int], bool]:
        """Whether a number of iterations is followed by a checkpoint: some are, and the last."""
        every = self.checkpointing_steps
        return lambda done: bool(every) and (done % every == 0 or done == total)

    def what_decides(self, num_processes: int) -> dict[str, Any]:
        """What the result depends on: a run is continued only with the same."""
        settings = {key: value for key, value in asdict(self).items() if key not in _FREE}
        return {**settings, "global_batch_size": self.global_batch_size(num_processes)}


@dataclass(frozen=True)
class DistillationConfig:
    """How a plan is executed.

    Args:
        num_iterations: optimizer steps of every stage, or one number a stage.
        merge_seconds: instead of ``num_iterations``: seconds a stage, turned into iterations by
            a timing at its start.
        merge_rule: what a student keeps of its noise-side child (THEORY 4).
        loss_weighting: see ``losses.loss_weights``.
        sharing: one network a merge, or one for all merges of a round (``stages``).
        curriculum: over the first half of a stage's iterations the target grows from the first
            two operators to all of them, evenly or by doubling.
        data_free: students read pure noise; only for plans that train at step T alone.
        optimization: how each network is trained.

    Raises:
        InputError: naming the setting that is out of range.
    """

    num_iterations: int | tuple[int, ...] = 400
    merge_seconds: float | None = None
    merge_rule: MergeRule = "denoiser-copy"
    loss_weighting: LossWeighting = "snr-truncated"
    sharing: Sharing = "merge"
    curriculum: Curriculum = "none"
    data_free: bool = False
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)

    def __post_init__(self) -> None:
        _check_choice(self, "merge_rule", MergeRule)
        _check_choice(self, "loss_weighting", LossWeighting)
        _check_choice(self, "sharing", Sharing)
        _check_choice(self, "curriculum", Curriculum)
        several = self.num_iterations
        for count in several if isinstance(several, tuple) else (several,):
            check_count("num_iterations", count)
        seconds = self.merge_seconds
        if seconds is not None and check_number("merge_seconds", seconds) <= 0:
            raise InputError("merge_seconds", "must be > 0", seconds)

    def iterations_of(self, num_stages: int) -> tuple[int, ...]:
        """Iterations of every stage.

        Raises:
            InputError: if a list of another length was given.
        """
        if not isinstance(self.num_iterations, tuple):
            return (self.num_iterations,) * num_stages
        if len(self.num_iterations) != num_stages:
            raise InputError(
                "num_iterations",
                f"must be one number, or {num_stages}, one a stage",
                f"{len(self.num_iterations)} numbers",
            )
        return self.num_iterations

    def what_decides(self, num_processes: int) -> dict[str, Any]:
        """What the result depends on: a run is continued only with the same."""
        settings = asdict(self)
        settings["optimization"] = self.optimization.what_decides(num_processes)
        return settings


def _check_choice(config: object, key: str, choices: Any) -> None:
    if getattr(config, key) not in get_args(choices):
        names = ", ".join(get_args(choices))
        raise InputError(key, f"must be one of {names}", repr(getattr(config, key)))
