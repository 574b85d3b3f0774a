"""The executor: walks a plan's merges and trains one student network a stage.

An iteration draws states z_j, composes the children as they are, turns where they land into the
estimate x̂ with which the student would land there, and regresses on that.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from opmerge.checkpoints import Checkpoint, Checkpoints
from opmerge.denoisers.denoiser import PREDICTIONS, Denoiser
from opmerge.denoisers.inputs import MEMORY_LIMIT, Batch, TrainingInputs, of_choice
from opmerge.denoisers.models import Jump, Student, Teacher, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.stages import (
    MANY_ITERATIONS,
    Stage,
    mean_children,
    merges_at,
    plan_effort,
    plan_stages,
)
from opmerge.errors import InputError
from opmerge.loop import Columns, Draws, Iteration, Trainer, seeded_generator
from opmerge.plans import Merge, Plan
from opmerge.settings.distillation import DistillationConfig, LossWeighting
from opmerge.settings.types import MergeRule
from opmerge.store import digest

_PROBE_ITERATIONS = 10
_WARM_UP = 3
_ORDER = -2  # of batches used again: a stream of its own beside those of the iterations


def student_jumps(merges: Sequence[Merge], denoiser: Denoiser, rule: MergeRule) -> list[Jump]:
    """The jumps of one student that stands for these merges.

    Denoiser copy lands the network's estimates where the merge stops. Operator copy lands them
    where the teacher's own step did, so that the copy is at first the child's very operator.
    """
    return [
        Jump(denoiser, m.start, m.stop, m.stop if rule == "denoiser-copy" else m.start - 1)
        for m in merges
    ]


def loss_weights(ddim: DDIM, students: Sequence[Jump], weighting: LossWeighting) -> Tensor:
    """(number of students,) weights w of the loss ``w ‖x̂ - target‖²`` at each student's step.

    With the error of x̂ as the unit, that of ε̂ is alpha/sigma, that of the output
    ``Prediction.error`` and that of the state reached ``DDIM.jump_weight``; the weight is the
    square of one of these:

    - ``uniform``: of the network's own output;
    - ``x-space``: 1;
    - ``epsilon-space``: alpha²/sigma², the signal-to-noise ratio;
    - ``snr-truncated``: the larger of the last two (Salimans & Ho 2022, Eq. 9);
    - ``jump-space``: of the state that the student produces.

    Raises:
        InputError: where a weight is zero, so that nothing is learned.
    """
    places = torch.tensor([(jump.start, jump.readout) for jump in students])
    steps, readouts = places.T.to(ddim.alphas.device)
    alphas, sigmas = ddim.at(steps, 1)
    signal_to_noise = (alphas / sigmas) ** 2
    weights = {
        "uniform": PREDICTIONS[ddim.prediction_type].error(alphas, sigmas) ** 2,
        "x-space": torch.ones_like(alphas),
        "epsilon-space": signal_to_noise,
        "snr-truncated": signal_to_noise.clamp(min=1.0),
        "jump-space": ddim.jump_weight(steps, readouts) ** 2,
    }[weighting]
    for step in steps[weights <= 0][:1].tolist():
        raise InputError(
            "loss_weighting",
            "must not be epsilon-space where a student reads pure noise (alpha = 0 at step "
            f"{step}): the weight is zero there",
            weighting,
            "take snr-truncated",
        )
    return weights


class _Operators:
    """Which jump stands at which step, first the teacher's; a network that none holds is freed."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._at = {jump.start: jump for jump in teacher.steps()}

    def children(self, merge: Merge) -> list[Jump]:
        """The jumps that a merge composes, noise side first."""
        return [self._at[step] for step in merge.boundaries[:-1]]

    def copy_of_first(self, merge: Merge) -> nn.Module:
        """A copy of the network of a merge's noise-side child."""
        return copy.deepcopy(self._at[merge.start].network)

    def put(self, jump: Jump) -> None:
        """Put a student's jump in the place of all that it replaces."""
        for step in range(jump.start, jump.stop, -1):
            self._at.pop(step, None)
        self._at[jump.start] = jump

    def student(self) -> Student:
        """What stands there now, as a sampler."""
        jumps = tuple(self._at[step] for step in sorted(self._at, reverse=True))
        teacher = self._teacher
        return Student(jumps, teacher.ddim, teacher.sample_shape, teacher.num_classes)

    def state(self) -> tuple[list[dict[str, int]], dict[str, Tensor]]:
        """The students' jumps as JSON values, and the weights of their networks."""
        numbers: dict[nn.Module, int] = {}
        jumps, tensors = [], {}
        for jump in self._at.values():
            if jump.network is self._teacher.network:
                continue
            number = numbers.setdefault(jump.network, len(numbers))
            jumps.append(
                dict(start=jump.start, stop=jump.stop, readout=jump.readout, network=number)
            )
            for name, tensor in jump.network.state_dict().items():
                tensors[f"network.{number}.{name}"] = tensor
        return jumps, tensors

    def restore(self, jumps: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        denoisers: dict[int, Denoiser] = {}
        for entry in jumps:
            number = entry["network"]
            if number not in denoisers:
                network = copy.deepcopy(self._teacher.network)
                for name, weight in network.state_dict().items():
                    weight.copy_(tensors[f"network.{number}.{name}"])
                denoisers[number] = self._teacher.denoiser.using(network)
            self.put(Jump(denoisers[number], entry["start"], entry["stop"], entry["readout"]))


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
            requirement = f"must have {teacher.num_steps} steps, as the teacher"
            raise InputError("plan", requirement, plan.num_steps)
        self.teacher = teacher.to(accelerator.device)
        self.plan, self.inputs, self.config = plan, inputs, config
        self.accelerator, self._warn = accelerator, warn
        self.stages = plan_stages(plan, config.sharing)
        effort = plan_effort(self.stages, config, accelerator.num_processes)
        self.iterations, self.seconds = list(effort.iterations), effort.seconds
        self._operators = _Operators(self.teacher)
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
        """Go on from what ``Checkpoints.find`` finds: after how many iterations, 0 if nothing."""
        assert self._checkpoints is not None, "a run without a folder has no checkpoints"
        self._checkpoint = self._checkpoints.find(wanted)
        if self._checkpoint is None:
            return 0
        state, self._kept = self._checkpoint.state, self._checkpoint.step
        self._stage, self.iterations = state["stage"], list(state["iterations"])
        self._operators.restore(state["jumps"], self._checkpoint.tensors())
        return self._kept

    def run(self) -> Iterator[TrainingRecord]:
        """Train, stage by stage; a record an iteration, and a checkpoint of the end.

        Raises:
            InputError: if a loss or weights are not finite (see ``Trainer.iterations``; the message
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

    def time_iteration(self, progress: float = 1.0, again: bool = False) -> float:
        """Seconds of an iteration of the stage that comes next, measured on a copy.

        ``progress`` is the share of the stage that is done: how far the curriculum has come.
        With ``again`` it learns from the same targets, which are then not made in this time.
        """
        merges = merges_at(self.stages[self._stage].merges, progress, self.config.curriculum)
        network = self._operators.copy_of_first(merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, _PROBE_ITERATIONS)
        begin, parts = 0.0, self._parts(merges, -1)
        for iteration in range(_WARM_UP + _PROBE_ITERATIONS):
            if iteration == _WARM_UP:
                begin = time.perf_counter()
            parts = parts if again else self._parts(merges, -1 - iteration)
            float(trainer.step(self._loss_of(merges), parts))
        return (time.perf_counter() - begin) / _PROBE_ITERATIONS

    def timed(self) -> dict[float, float]:
        """Seconds of an iteration of the next stage, by the operators composed, fewest first.

        They are timed as the curriculum begins and as it ends; or with new targets and with
        targets used again, of which it is the mean.
        """
        merges, curriculum = self.stages[self._stage].merges, self.config.curriculum
        ends = {mean_children(merges, 1, curriculum): 0.0, mean_children(merges, 1, "none"): 1.0}
        timed = {children: self.time_iteration(progress) for children, progress in ends.items()}
        if self.config.target_reuse > 1:
            again = self.time_iteration(again=True)
            for children, seconds in timed.items():
                timed[children] = again + max(seconds - again, 0) / self.config.target_reuse
        return timed

    def _train_stage(self) -> Iterator[TrainingRecord]:
        number, stage = self._stage, self.stages[self._stage]
        checkpoint, self._checkpoint = self._checkpoint, None
        if self.seconds is not None and checkpoint is None:
            self.iterations[number] = self._iterations_in(self.seconds[number])
        before, total = sum(self.iterations[:number]), self.iterations[number]
        network = self._operators.copy_of_first(stage.merges[0])
        trainer = Trainer(self.accelerator, network, self.config.optimization, total)
        if checkpoint is not None:
            trainer.restore(checkpoint, int(checkpoint.state["iteration"]))
        every = self.config.optimization.checkpointing_steps

        reused = self._reused(stage, total)

        def draw(iteration: int) -> list[_Part]:
            if reused is not None:
                return reused(iteration)
            merges = merges_at(stage.merges, iteration / total, self.config.curriculum)
            return self._parts(merges, iteration)

        loop = trainer.iterations(
            self._loss_of(stage.merges),
            draw,
            lambda n: self._write(before + n, number, n, trainer.average_tensors()),
            lambda n: bool(every) and (before + n) % every == 0,
            f" of the merge {stage.name}",
        )
        for each in loop:
            step = before + each.iteration
            yield TrainingRecord(each.iteration, each.loss, each.learning_rate, number, step)
        self._put(stage.merges, trainer.finish())

    def kept_targets(self, iterations: int) -> tuple[int, int]:
        """Batches of targets that so many iterations use again, and their bytes on this process.

        They are ⌈N/R⌉, or as many as take up ``MEMORY_LIMIT``; none with R = 1.
        """
        reuse, config = self.config.target_reuse, self.config.optimization
        if reuse == 1:
            return 0, 0
        samples = config.train_batch_size * config.gradient_accumulation_steps
        size = 2 * 4 * samples * math.prod(self.teacher.sample_shape)  # states and estimates
        count = min(math.ceil(iterations / reuse), max(1, MEMORY_LIMIT // size))
        return count, count * size

    def _reused(self, stage: Stage, total: int) -> Callable[[int], list[_Part]] | None:
        """Draws the batches of a stage again and again, each made when it is first needed."""
        count, _ = self.kept_targets(total)
        if count == 0:
            return None
        if count * self.config.target_reuse < total:
            often = f"targets are learned from {math.ceil(total / count)} times each"
            self._warn(f"{stage.name}: {often}, for more of them do not fit into memory")
        make = cache(partial(self._parts, stage.merges))
        key = (_ORDER, self.config.optimization.seed, self._stage)

        @cache
        def order(done: int) -> list[int]:
            """The order of a pass through them, the first as they come."""
            if done == 0:
                return list(range(count))
            generator = seeded_generator(torch.device("cpu"), *key, done)
            shuffled: list[int] = torch.randperm(count, generator=generator).tolist()
            return shuffled

        return lambda iteration: make(order(iteration // count)[iteration % count])

    def _loss_of(self, merges: Sequence[Merge]) -> Callable[[nn.Module, _Part], Tensor]:
        """The weighted square error of a network's x̂ at the steps where the merges start."""
        starts = [merge.start for merge in merges]

        def loss(network: nn.Module, part: _Part) -> Tensor:
            denoiser, batch = self.teacher.denoiser.using(network), part.batch
            x0 = denoiser(batch.z, of_choice(starts, batch.choice), batch.condition).x0
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
        start = of_choice([jump.start for jump in jumps], batch.choice)
        readout = of_choice([jump.readout for jump in jumps], batch.choice)
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
        """How many iterations of the stage take that long; the same on every process."""
        merges, timed = self.stages[self._stage].merges, self.timed()
        mean = mean_children(merges, MANY_ITERATIONS, self.config.curriculum)
        count = [max(1, round(seconds / np.interp(mean, list(timed), list(timed.values()))))]
        broadcast_object_list(count)
        return count[0]

    def _write(self, step: int, stage: int, iteration: int, average: dict[str, Tensor]) -> None:
        """A checkpoint in a stage, after so many iterations of it and of the run."""
        if self._checkpoints is None:
            return
        jumps, tensors = self._operators.state()
        state = dict(stage=stage, iteration=iteration, iterations=self.iterations, jumps=jumps)
        self._checkpoints.save(self.accelerator, step, state, tensors | average)
        self._kept = step

    def _identity(self) -> str:
        """Digest of all that the result depends on."""
        content = {
            "plan": [list(merge.boundaries) for merge in self.plan.merges],
            "teacher": self.teacher.digest,
            "inputs": self.inputs.identity(),
            "config": self.config.what_decides(self.accelerator.num_processes),
        }
        return digest(content)
