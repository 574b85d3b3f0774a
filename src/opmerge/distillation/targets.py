"""What students learn: the estimates with which they would land where their children do.

A stage's batches are functions of the seed and of the operators in place, so they may be made once
and learned from again, and the linear part of what they ask for may be solved before training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opmerge.denoisers.inputs import MEMORY_LIMIT, Batch, TrainingInputs, of_choice
from opmerge.denoisers.linear_part import LinearPart, Regression, leading_directions, linear_sum
from opmerge.denoisers.models import Jump, Teacher, compose
from opmerge.denoisers.sampler import DDIM
from opmerge.distillation.operators import LinearParts, Operators, student_jumps
from opmerge.distillation.stages import Stage, merges_at
from opmerge.errors import InputError
from opmerge.forecast.cost import fewest_targets
from opmerge.loop import Columns, Draws, seeded_generator
from opmerge.plans import Merge
from opmerge.settings.distillation import DistillationConfig, LossWeighting

_UNSEEN = -1  # the number of a batch beside those of the iterations
_STAND_IN = -2
_ORDER = -2  # of batches used again: a stream of its own beside those of the iterations


@dataclass(frozen=True, eq=False)
class Part(Columns):
    """One accumulation step: inputs, the estimates to be learned and their weights."""

    batch: Batch
    target: Tensor
    weight: Tensor


def loss_weights(ddim: DDIM, students: Sequence[Jump], weighting: LossWeighting) -> Tensor:
    """(number of students,) weights w of the loss ``w ‖x̂ - target‖²`` at each student's step.

    With the error of x̂ as the unit, that of ε̂ is alpha/sigma, that of the output
    ``DDIM.output_error`` and that of the state reached ``DDIM.jump_weight``; the weight is the
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
        "uniform": ddim.output_error(steps) ** 2,
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


class Targets:
    """Makes the batches of any merges from the operators in place."""

    def __init__(
        self,
        teacher: Teacher,
        inputs: TrainingInputs,
        config: DistillationConfig,
        accelerator: Accelerator,
        operators: Operators,
    ) -> None:
        self.teacher, self.config, self.accelerator = teacher, config, accelerator
        self._inputs, self._operators = inputs, operators
        self._known_weights: dict[tuple[Merge, ...], Tensor] = {}

    def check(self, merges: Sequence[Merge]) -> None:
        """Refuse weights or inputs that do not fit the merges (``InputError``)."""
        self._weights(merges)
        self._draw(merges, 0, 0)

    def parts(self, merges: Sequence[Merge], stage: int, iteration: int) -> list[Part]:
        """This process' batch of an iteration with targets and weights, one part a step."""
        batch = self._draw(merges, stage, iteration)
        with self.accelerator.autocast():
            target = self._target(merges, batch)
        number = self.config.optimization.gradient_accumulation_steps
        return self._weighted(merges, batch, target).chunk(number)

    def stand_in(self, merges: Sequence[Merge], stage: int) -> Part:
        """A batch with inputs in the place of targets, by which an iteration is sized up."""
        batch = self._draw(merges, stage, _STAND_IN)
        return self._weighted(merges, batch, batch.z)

    def _weighted(self, merges: Sequence[Merge], batch: Batch, target: Tensor) -> Part:
        weights = self._weights(merges)
        each = weights if batch.choice is None else weights[batch.choice]
        weight = each.reshape(-1, *[1] * (target.ndim - 1)).expand(target.shape)
        return Part(batch, target, weight)

    def estimate(self, network: nn.Module, merges: Sequence[Merge], batch: Batch) -> Tensor:
        """A network's x̂ at the steps where the merges start."""
        step = of_choice([merge.start for merge in merges], batch.choice)
        return self.teacher.student_denoiser.using(network)(batch.z, step, batch.condition).x0

    def kept(self, iterations: int, reuse: int) -> tuple[int, int]:
        """Batches of targets that are kept for so many iterations, and their bytes on this process.

        They are ⌈N/R⌉, from ``fewest`` to ``most_kept``; none with R = 1, where nothing is solved.
        """
        if reuse == 1 and self.config.linear_part != "solve":
            return 0, 0
        count = min(max(math.ceil(iterations / reuse), self.fewest), self.most_kept)
        return count, count * self._batch_bytes

    @cached_property
    def fewest(self) -> int:
        """Batches of targets of a merge at least: from fewer no linear part is solved."""
        if self.config.linear_part != "solve":
            return 1
        size = self.config.optimization.global_batch_size(self.accelerator.num_processes)
        return fewest_targets(math.prod(self.teacher.sample_shape), size)

    @cached_property
    def most_kept(self) -> int:
        """Batches of targets that take up ``MEMORY_LIMIT`` on this process, at least one."""
        return max(1, MEMORY_LIMIT // self._batch_bytes)

    @property
    def _batch_bytes(self) -> int:
        """Of the states, estimates and conditions of a batch on this process."""
        config, told = self.config.optimization, self._inputs.condition
        size = 2 * 4 * math.prod(self.teacher.sample_shape)
        size += 0 if told is None else told.row_bytes
        return config.train_batch_size * config.gradient_accumulation_steps * size

    def _draw(self, merges: Sequence[Merge], stage: int, iteration: int) -> Batch:
        """This process' part of the batch of an iteration."""
        draws = Draws.of(self.accelerator, self.config.optimization, stage, iteration)
        return self._inputs.draw(self.teacher.ddim, [merge.start for merge in merges], draws)

    def _target(self, merges: Sequence[Merge], batch: Batch) -> Tensor:
        """The estimates x̂ with which the student would land where its children do."""
        ddim = self.teacher.ddim
        chains = [self._operators.children(merge) for merge in merges]
        landing = compose(ddim, chains, batch.z, batch.choice, batch.condition)
        jumps = self._jumps(merges)
        start = of_choice([jump.start for jump in jumps], batch.choice)
        readout = of_choice([jump.readout for jump in jumps], batch.choice)
        return ddim.x0_target(batch.z, start, readout, landing)

    def _weights(self, merges: Sequence[Merge]) -> Tensor:
        """Weights of the merges' losses; kept, as small networks would wait for them."""
        key = tuple(merges)
        if key not in self._known_weights:
            weighting = self.config.loss_weighting
            weights = loss_weights(self.teacher.ddim, self._jumps(merges), weighting)
            self._known_weights[key] = weights
        return self._known_weights[key]

    def _jumps(self, merges: Sequence[Merge]) -> list[Jump]:
        return student_jumps(merges, self.teacher.student_denoiser, self.config.merge_rule)


class StageTargets:
    """The batches of a stage by its iterations: made when first needed, and kept if needed again.

    Once ``linear`` parts are solved or set, targets are what is left to the network.
    """

    def __init__(self, targets: Targets, stage: Stage, number: int, total: int) -> None:
        self._targets, self._merges = targets, stage.merges
        self._stage, self._total = number, total
        self._reuse = stage.reuse(targets.config)
        self._count, _ = targets.kept(total, self._reuse)
        self._kept: dict[int, list[Part]] = {}
        self._order = cache(self._order_of_pass)
        self.linear: LinearParts = {}

    @property
    def times_used(self) -> int:
        """How often a target is learned from: R, or more where not all targets fit into memory."""
        return 1 if self._reuse == 1 else math.ceil(self._total / self._count)

    def __call__(self, iteration: int) -> list[Part]:
        """The parts of an iteration's batch."""
        if self._reuse == 1:
            kept = self._kept.pop(iteration) if iteration in self._kept else None
            return self._left(kept or self._made(iteration))
        number = self._order(iteration // self._count)[iteration % self._count]
        if number not in self._kept:
            self._kept[number] = self._left(self._made(number))
        return self._kept[number]

    def unseen(self) -> list[Part]:
        """A batch that no iteration learns from."""
        return self._left(self._made(_UNSEEN))

    def solve(self, network: nn.Module) -> None:
        """Solve the linear parts of what the network misses, on all targets that are kept."""
        for number in range(self._count):
            self._kept[number] = self._made(number)
        self.linear = self._solved(network)
        if self._reuse > 1:
            for number, parts in self._kept.items():
                self._kept[number] = self._left(parts)

    def _made(self, number: int) -> list[Part]:
        curriculum = self._targets.config.curriculum
        merges = merges_at(self._merges, number / self._total, curriculum)
        return self._targets.parts(merges, self._stage, number)

    def _left(self, parts: list[Part]) -> list[Part]:
        """The same parts with what the linear parts leave of their targets."""
        return [self._without_linear(part) for part in parts] if self.linear else parts

    def _without_linear(self, part: Part) -> Part:
        step = of_choice([merge.start for merge in self._merges], part.batch.choice)
        added = linear_sum(self.linear, part.batch.z, step)
        return replace(part, target=part.target - added)

    def _order_of_pass(self, done: int) -> list[int]:
        """The order of a pass through the batches, the first as they come."""
        if done == 0:
            return list(range(self._count))
        key = (_ORDER, self._targets.config.optimization.seed, self._stage, done)
        generator = seeded_generator(torch.device("cpu"), *key)
        return torch.randperm(self._count, generator=generator).tolist()

    def _solved(self, network: nn.Module) -> dict[int, LinearPart]:
        accelerator, starts = self._targets.accelerator, [merge.start for merge in self._merges]
        reduce = partial(accelerator.reduce, reduction="sum")
        targets = [part.target for parts in self._kept.values() for part in parts]
        directions = leading_directions(targets, reduce)
        regressions = {start: Regression(directions, reduce) for start in starts}
        for parts in self._kept.values():
            first = accelerator.process_index * sum(len(part.target) for part in parts)
            for part in parts:
                batch = part.batch
                with torch.no_grad(), accelerator.autocast():
                    missed = part.target - self._targets.estimate(network, self._merges, batch)
                rows = torch.arange(first, first + len(missed), device=missed.device)
                choice = torch.zeros_like(rows) if batch.choice is None else batch.choice
                first += len(missed)
                for index, start in enumerate(starts):
                    own = choice == index
                    regressions[start].add(batch.z[own], missed[own], rows[own])
        device = targets[0].device
        return {start: each.solve().to(device) for start, each in regressions.items()}
