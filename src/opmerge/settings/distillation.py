"""Settings of a training run and of a distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import model_validator

from opmerge.errors import InputError
from opmerge.settings.base import Settings, option
from opmerge.settings.types import (
    DEFAULT_MERGE_RULE,
    Budget,
    BudgetSplit,
    Count,
    MergeRule,
    NonNegative,
    Positive,
    Share,
    Whole,
    read_budget,
    read_split,
)

LossWeighting = Literal["uniform", "snr-truncated", "x-space", "epsilon-space", "jump-space"]
"""The space in which the error of a student counts equally at every step."""

Sharing = Literal["merge", "round", "all"]
"""One network a merge, one for the merges of a round that start from the same network, or one."""

Curriculum = Literal["none", "linear", "doubling"]
"""How the length of the target grows over the first half of a merge's iterations."""

LinearPartChoice = Literal["auto", "solve", "train"]
"""How a student learns the linear part of its merge; auto: as suits the kind of network."""

MOST_REUSE = 16
"""Times that a target is used at most under ``auto``: with more, it is learned by heart."""

# What may change between a run and its continuation, or counts only as part of the global batch.
_FREE = {
    "checkpointing_steps",
    "checkpoints_total_limit",
    "report_to",
    "train_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "torch_compile",
}


class OptimizationConfig(Settings):
    """How one network is trained; names follow diffusers' training scripts."""

    panel = "Training"

    train_batch_size: Count = option(128, "Samples per process and accumulation step.")
    gradient_accumulation_steps: Count = option(1, "Parts of a process' batch.", rare=True)
    learning_rate: Positive = option(3e-4, "Learning rate.")
    lr_scheduler: Literal["constant", "linear", "cosine"] = option(
        "cosine", "constant, linear or cosine, over a training.", rare=True
    )
    # Adam's first steps are signs of gradients, whatever their size: at the full rate a merge of a
    # few iterations is left worse than it began.
    lr_warmup_steps: Whole = option(10, "Iterations over which it first rises from 0.", rare=True)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", "adamw, adam or sgd.", rare=True)
    weight_decay: NonNegative = option(0.0, "Of adamw.", rare=True)
    max_grad_norm: NonNegative = option(1.0, "Gradients are clipped to it; 0: not.", rare=True)
    ema_decay: Share = option(0.0, "Moving average of the weights; 0: none.", rare=True)
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "no, fp16 or bf16.")
    gradient_checkpointing: bool = option(
        False,
        "Activations are computed again in the backward pass: less memory, more time.",
        rare=True,
    )
    use_8bit_adam: bool = option(
        False, "Moments in 8 bits, by bitsandbytes, with adamw or adam.", rare=True
    )
    torch_compile: bool = option(False, "Networks are compiled (torch.compile).", rare=True)
    seed: int = option(0, "Seed of the batches.")
    checkpointing_steps: Whole = option(500, "Iterations between checkpoints; 0: none.", "Run")
    checkpoints_total_limit: Count = option(2, "How many are kept.", "Run", rare=True)
    report_to: str | None = option(
        None, "A tracker of accelerate, such as tensorboard.", "Run", rare=True
    )

    def global_batch_size(self, num_processes: int) -> int:
        """Samples per optimizer step, over all processes and accumulation steps."""
        return self.train_batch_size * self.gradient_accumulation_steps * num_processes

    def is_checkpoint(self, total: int) -> Callable[[int], bool]:
        """Whether a number of iterations is followed by a checkpoint: some are, and the last."""
        every = self.checkpointing_steps
        return lambda done: bool(every) and (done % every == 0 or done == total)

    def what_decides(self, num_processes: int) -> dict[str, Any]:
        """What the result depends on: a run is continued only with the same."""
        size = self.global_batch_size(num_processes)
        newer = set() if self.use_8bit_adam else {"use_8bit_adam"}  # not in older checkpoints
        return {**self.model_dump(exclude=_FREE | newer), "global_batch_size": size}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.use_8bit_adam and self.optimizer == "sgd":
            raise InputError("use_8bit_adam", "must come with the optimizer adamw or adam", "sgd")
        return self


class DistillationConfig(Settings):
    """How a plan is executed."""

    panel = "Execution"

    num_iterations: Count | tuple[Count, ...] = option(
        400,
        "Iterations of every merge (or round), or a list of them: 400,400,800.",
        shown="the plan's, or 400",
    )
    merge_seconds: Positive | None = option(None, "Seconds a merge, instead.", rare=True)
    budget: Budget | None = option(
        None,
        "Of all merges together, instead: network evaluations (3e9), iterations (5000it) or time "
        "(90m, 20h, 2d).",
    )
    budget_split: BudgetSplit = option(
        "length",
        "Of a budget: as many iterations for every merge (even), or in proportion to a power of "
        "the steps that it spans (length:1.75, the same as length).",
        rare=True,
    )
    merge_rule: MergeRule = option(
        DEFAULT_MERGE_RULE,
        "What a student keeps of its noise-side child: denoiser-copy (its weights as a denoiser) "
        "or operator-copy (a direct jump network).",
        shown=f"the plan's, or {DEFAULT_MERGE_RULE}",
        rare=True,
    )
    loss_weighting: LossWeighting = option(
        "snr-truncated", "uniform, snr-truncated, x-space, epsilon-space or jump-space.", rare=True
    )
    sharing: Sharing = option(
        "merge",
        "One network a merge, one a round, or one for all merges and steps (all).",
        rare=True,
    )
    curriculum: Curriculum = option(
        "none", "Targets grow over half of a merge: none, linear, doubling.", rare=True
    )
    target_reuse: Count | Literal["auto"] = option(
        "auto",
        "Times that a target is learned from, or more where a merge's targets would take over 2 "
        "GiB of the device's memory; auto: of each merge its number of operators, at most 16.",
        shown="auto, or 1 with a curriculum",
        rare=True,
    )
    linear_part: LinearPartChoice = option(
        "auto",
        "The linear part of a student: solved on the merge's own targets, and the network trained "
        "on what is left (solve), or trained as all of it (train); auto: by the network.",
        shown="solve for the perceptron, train for other networks and with a curriculum",
        rare=True,
    )
    lora_rank: Count | None = option(
        None,
        "Train adapters of this rank (LoRA) in the place of whole networks, on the teacher's "
        "weights, which stay as they are.",
        shown="whole networks",
    )
    lora_target_modules: tuple[str, ...] | None = option(
        None,
        "Modules that get adapters, by their names or the ends of them: to_q,to_k,to_v,to_out.0.",
        shown="linear layers, and convolutions of networks that read no text",
        rare=True,
    )
    data_free: bool = option(False, "Students read pure noise; for plans at step T only.")
    optimization: OptimizationConfig = option(OptimizationConfig(), "How each network is trained.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.budget is not None and self.merge_seconds is not None:
            raise InputError("merge_seconds", "must not be given together with budget")
        if self.lora_target_modules is not None and self.lora_rank is None:
            raise InputError("lora_target_modules", "must come with lora_rank")
        if self.target_reuse not in ("auto", 1) and self.curriculum != "none":
            raise InputError("target_reuse", "must be 1 with a curriculum", self.target_reuse)
        if self.linear_part == "solve" and self.curriculum != "none":
            requirement = "must be train with a curriculum, whose targets change"
            raise InputError("linear_part", requirement, self.linear_part)
        return self

    def iterations_of(self, num_stages: int) -> tuple[int, ...]:
        """Iterations of every stage, unless a budget or seconds say so.

        Raises:
            InputError: if a list of another length was given.
        """
        if not isinstance(self.num_iterations, tuple):
            return (self.num_iterations,) * num_stages
        if len(self.num_iterations) != num_stages:
            need = f"must be one number, or {num_stages}, one a stage"
            raise InputError("num_iterations", need, f"{len(self.num_iterations)} numbers")
        return self.num_iterations

    def reuse_of(self, num_children: float) -> int:
        """R of a merge of so many operators, or of several merges of so many on average.

        Measured (docs/findings.md): with as many uses as operators, targets cost about a pass an
        iteration, and with many more a network learns them by heart.
        """
        if self.target_reuse != "auto":
            return self.target_reuse
        return 1 if self.curriculum != "none" else min(round(num_children), MOST_REUSE)

    def for_network(self, is_solved: bool) -> Self:
        """The same settings with ``auto`` decided: whether a network's linear part is solved."""
        if self.linear_part != "auto":
            return self
        solves = is_solved and self.curriculum == "none"
        return self.replaced(linear_part="solve" if solves else "train")

    def what_decides(self, num_processes: int) -> dict[str, Any]:
        """What the result depends on: a run is continued only with the same.

        ``auto`` is to be decided before (``for_network``).
        """
        optimization = self.optimization.what_decides(num_processes)
        # older checkpoints do not know what is not used
        newer = {"budget", "budget_split", "target_reuse", "linear_part"}
        newer |= {"lora_rank", "lora_target_modules"}
        decides = self.model_dump(exclude=newer)
        if self.budget:
            decides["budget"] = [*read_budget(self.budget), read_split(self.budget_split)]
        if self.target_reuse != 1 and self.curriculum == "none":
            decides["target_reuse"] = self.target_reuse
        if self.linear_part == "solve":
            decides["linear_part"] = self.linear_part
        if self.lora_rank is not None:
            decides |= {"lora_rank": self.lora_rank, "lora_modules": self.lora_target_modules}
        return {**decides, "optimization": optimization}
