"""The executor: walks a plan's merges and trains one student network a stage.

An iteration draws states z_j, composes the children as they are, turns where they land into the
estimate x̂ with which the student would land there, and regresses on that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.inputs import Batch, TrainingInputs
from opmerge.denoisers.models import Jump, Student, Teacher, compose
from opmerge.distillation.losses import loss_weights
from opmerge.distillation.operators import Operators, student_jumps
from opmerge.distillation.stages import MANY_ITERATIONS, mean_children, merges_at, plan_stages
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws, Iteration, Trainer, iterations
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import DistillationConfig
from opmerge.store import digest

_PROBE_ITERATIONS = 10
_WARM_UP = 3


@dataclass(frozen=True, eq=False)
class TrainingRecord(Iteration):
    """What one iteration of a stage did; ``step`` counts those of the run."""

    stage: int
    step: int


@dataclass(frozen=True, eq=False)
class _Part(Columns):
    """One accumulation step: inputs, the estimates to be learned and their weights."""

    batch: Batch
    target: Tensor
    weight: Tensor


class Distillation:
    """Executes a plan: iterate over ``run()``, then ask for ``student()``.

    Args:
        plan: any plan for the teacher's number of steps.
        inputs: what students read.
        folder: where checkpoints are kept; none are without it.
        warn: told in one line about every checkpoint that is refused.

    Raises:
        InputError: if the plan is for another number of steps, or the settings do not fit it.
    """

    def __init__(
        self,
        teacher: Teacher,
        plan: Plan,
        inputs: TrainingInputs,
        config: DistillationConfig,
        accelerator: Accelerator,
        folder: Path | None = None,
        warn: Callable[[str], None] = lambda line: None,
    ) -> None:
        if plan.num_steps != teacher.num_steps:
            raise InputError(
                "plan", f"must have {teacher.num_steps} steps, as the teacher", plan.num_steps
            )
        self.teacher = teacher.to(accelerator.device)
        self.plan, self.inputs, self.config = plan, inputs, config
        self.accelerator = accelerator
        self.stages = plan_stages(plan, config.sharing)
        self.iterations = list(config.iterations_of(len(self.stages)))
        self._operators = Operators(self.teacher)
        self._known_weights: dict[tuple[Merge, ...], Tensor] = {}
        self._stage = 0
        self._checkpoint: Checkpoint | None = None
        self._checkpoints: Checkpoints | None = None
        self._kept = 0  # iterations of the run at its last checkpoint
        if folder is not None:
            limit = config.optimization.checkpoints_total_limit
            self._checkpoints = Checkpoints(folder, self._identity(), limit, warn)
        for stage in self.stages:  # refuse what does not fit before anything is trained
            self._weights(stage.merges)
            self._draw(stage.merges, 0, 0)

    def resume(self, wanted: str = "latest") -> int:
        """Go on from a checkpoint: after how many iterations, 0 if there is none yet.

        Raises:
            InputError: see ``Checkpoints.find``.
        """
        assert self._checkpoints is not None, "a run without a folder has no checkpoints"
        self._checkpoint = self._checkpoints.find(wanted)
        if self._checkpoint is None:
            return 0
        state = self._checkpoint.state
        self._stage, self.iterations = state["stage"], list(state["iterations"])
        self._operators.restore(state["jumps"], self._checkpoint.tensors())
        self._kept = self._checkpoint.step
        return self._kept

    def run(self) -> Iterator[TrainingRecord]:
        """Train, stage by stage; a record an iteration, and a checkpoint of the end.

        Raises:
            InputError: if a loss or weights are not finite (see ``loop.iterations``; the message
                names the merge too), or a checkpoint cannot be written.
        """
        while self._stage < len(self.stages):
            yield from self._train_stage()
            self._stage += 1
        total = sum(self.iterations)
        if self.config.optimization.checkpointing_steps and self._kept < total:
            # the finished networks, should the student find no room; no optimizer with them
            self.accelerator.free_memory()
            self._write(total, len(self.stages), 0, {})

    def skip_stage(self) -> None:
        """Let the first child of each merge stand for the student, untrained, and go on."""
        for merge in self.stages[self._stage].merges:
            self._put([merge], self._operators.children(merge)[0].network)
        self._stage += 1

    def student(self) -> Student:
        """The operators that stand at this moment, as a sampler; the student after ``run``."""
        return self._operators.student()

    def time_iteration(self, progress: float = 1.0) -> float:
        """Seconds of an iteration of the stage that comes next, measured on a copy.

        ``progress`` is the share of the stage that is done: how far the curriculum has come.
        """
        merges = merges_at(self.stages[self._stage].merges, progress, self.config.curriculum)
        network = self._operators.copy_of_first(merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, _PROBE_ITERATIONS)
        begin = 0.0
        for iteration in range(_WARM_UP + _PROBE_ITERATIONS):
            if iteration == _WARM_UP:
                begin = time.perf_counter()
            float(trainer.step(self._loss_of(merges), self._parts(merges, -1 - iteration)))
        return (time.perf_counter() - begin) / _PROBE_ITERATIONS

    def _train_stage(self) -> Iterator[TrainingRecord]:
        number, stage = self._stage, self.stages[self._stage]
        checkpoint, self._checkpoint = self._checkpoint, None
        if self.config.merge_seconds is not None and checkpoint is None:
            self.iterations[number] = self._iterations_in(self.config.merge_seconds)
        before, total = sum(self.iterations[:number]), self.iterations[number]
        network = self._operators.copy_of_first(stage.merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, total)
        done = 0
        if checkpoint is not None:
            done = int(checkpoint.state["iteration"])
            trainer.restore(checkpoint, done)
        every = self.config.optimization.checkpointing_steps

        def draw(iteration: int) -> list[_Part]:
            merges = merges_at(stage.merges, iteration / total, self.config.curriculum)
            return self._parts(merges, iteration)

        loop = iterations(
            trainer,
            self._loss_of(stage.merges),
            draw,
            done,
            total,
            lambda n: self._write(before + n, number, n, trainer.average_tensors()),
            lambda n: bool(every) and (before + n) % every == 0,
            f" of the merge {stage.name}",
        )
        for each in loop:
            step = before + each.iteration
            yield TrainingRecord(each.iteration, each.loss, each.learning_rate, number, step)
        self._put(stage.merges, trainer.finish())

    def _loss_of(self, merges: Sequence[Merge]) -> Callable[[nn.Module, _Part], Tensor]:
        """The weighted square error of a network's x̂ at the steps where the merges start."""
        starts = [merge.start for merge in merges]

        def loss(network: nn.Module, part: _Part) -> Tensor:
            denoiser, batch = self.teacher.denoiser.using(network), part.batch
            x0 = denoiser(batch.z, _at(starts, batch), batch.condition).x0
            return (part.weight * (x0 - part.target) ** 2).mean()

        return loss

    def _parts(self, merges: Sequence[Merge], iteration: int) -> list[_Part]:
        """This process' batch of an iteration with targets and weights, one part a step."""
        batch = self._draw(merges, self._stage, iteration)
        with self.accelerator.autocast():
            target = self._target(merges, batch)
        weights = self._weights(merges)
        each = weights if batch.choice is None else weights[batch.choice]
        weight = each.reshape(-1, *[1] * (target.ndim - 1)).expand(target.shape)
        whole = _Part(batch, target, weight)
        return whole.chunk(self.config.optimization.gradient_accumulation_steps)

    def _draw(self, merges: Sequence[Merge], stage: int, iteration: int) -> Batch:
        """This process' part of the batch of an iteration."""
        draws = Draws.of(self.accelerator, self.config.optimization, stage, iteration)
        return self.inputs.draw(self.teacher.ddim, [merge.start for merge in merges], draws)

    def _target(self, merges: Sequence[Merge], batch: Batch) -> Tensor:
        """The estimates x̂ with which the student would land where its children do."""
        ddim = self.teacher.ddim
        chains = [self._operators.children(merge) for merge in merges]
        landing = compose(ddim, chains, batch.z, batch.choice, batch.condition)
        jumps = self._jumps(merges, self.teacher.network)
        start, readout = (
            _at([getattr(jump, place) for jump in jumps], batch) for place in ("start", "readout")
        )
        return ddim.x0_target(batch.z, start, readout, landing)

    def _weights(self, merges: Sequence[Merge]) -> Tensor:
        """Weights of the merges' losses; kept, as small networks would wait for them."""
        key = tuple(merges)
        if key not in self._known_weights:
            jumps = self._jumps(merges, self.teacher.network)
            weights = loss_weights(self.teacher.ddim, jumps, self.config.loss_weighting)
            self._known_weights[key] = weights
        return self._known_weights[key]

    def _jumps(self, merges: Sequence[Merge], network: nn.Module) -> list[Jump]:
        denoiser = self.teacher.denoiser.using(network)
        return student_jumps(merges, denoiser, self.config.merge_rule)

    def _put(self, merges: Sequence[Merge], network: nn.Module) -> None:
        for jump in self._jumps(merges, network):
            self._operators.put(jump)

    def _iterations_in(self, seconds: float) -> int:
        """How many iterations of the stage take that long; the same on every process.

        An iteration's seconds grow evenly with the operators that it composes.
        """
        merges, curriculum = self.stages[self._stage].merges, self.config.curriculum
        first, last = (mean_children(merges, 1, kind) for kind in (curriculum, "none"))
        long = self.time_iteration()
        short = long if first == last else self.time_iteration(0.0)
        mean = mean_children(merges, MANY_ITERATIONS, curriculum)
        count = [max(1, round(seconds / np.interp(mean, (first, last), (short, long))))]
        broadcast_object_list(count)
        return count[0]

    def _write(self, step: int, stage: int, iteration: int, average: dict[str, Tensor]) -> None:
        """A checkpoint in a stage, after so many iterations of it and of the run."""
        if self._checkpoints is None:
            return
        jumps, tensors = self._operators.state()
        state = {
            "stage": stage,
            "iteration": iteration,
            "iterations": self.iterations,
            "jumps": jumps,
        }
        self._checkpoints.save(self.accelerator, step, state, tensors | average)
        self._kept = step

    def _identity(self) -> str:
        """Digest of all that the result depends on."""
        return digest(
            {
                "plan": [list(merge.boundaries) for merge in self.plan.merges],
                "teacher": self.teacher.digest,
                "inputs": self.inputs.identity(),
                "config": self.config.what_decides(self.accelerator.num_processes),
            }
        )


def _at(steps: Sequence[int], batch: Batch) -> int | Tensor:
    """The step of the batch if there is one merge, else of each sample."""
    if batch.choice is None:
        return steps[0]
    return torch.tensor(steps, device=batch.z.device)[batch.choice]
