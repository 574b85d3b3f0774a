"""The teacher's table, measured: deviations and gains by forward passes of a network alone.

Samples go down the sampler once, from z_T to the output, and the state at every node is kept. With
``x̂(j, i) = (z_i - sigma_i/sigma_j z_j) / c(j, i)`` all products of estimates are combinations of
second moments of those states. What the best affine map of z_j explains is taken away, where it is
solved in closed form, by regression of the other states on z_j. Gains are the growth of small
disturbances of some states on their way to the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from opmerge.arrays import Array
from opmerge.data import Progress
from opmerge.denoisers.denoiser import Estimate
from opmerge.denoisers.inputs import Batch, TrainingInputs
from opmerge.denoisers.models import Teacher
from opmerge.errors import InputError
from opmerge.forecast.table import TeacherTable, carries, direction_groups, table_nodes
from opmerge.linear_teacher import LinearTeacher
from opmerge.loop import Draws, seeded_generator
from opmerge.measure.linearity import as_rows, in_parts, require_basis
from opmerge.measure.probes import schedule_of
from opmerge.schedules import NoiseSchedule
from opmerge.spectra import Spectrum

FEWEST_SAMPLES = 128
_MOST_SAMPLES = 2000
_MOST_VALUES = 2**28  # of all states that are kept, 1 GiB
_SAMPLES_A_REGRESSOR = 1.5  # what a fit takes from its residuals is given back
_MOST_REGRESSORS = 256
_RIDGE = 1e-6  # of the mean variance of the regressors
_GAIN_NODES = 7
_GAIN_SAMPLES = 32
_DISTURBANCE = 0.3  # of the data's own spread
_LEAST_DISTURBANCE = 1e-3
_ALIKE = 1.5  # ratio of spreads, up to which a teacher is one of its data
_STREAM = -3  # of the states: no training batch


@dataclass(frozen=True)
class MeasuredTable:
    """A teacher's table and the network evaluations, of one sample each, that it took."""

    table: TeacherTable
    network_evaluations: int

    def unlike(self, spectrum: Spectrum, teacher: Teacher) -> tuple[str, ...]:
        """A note where the root of the output's total variance is not that of the data, to a
        factor: a student of such a teacher may follow it and be worth nothing.

        Few steps lose some variance. What the theory's teacher keeps of λ is ``n_T P(0, T)²``.
        Guidance changes it on purpose.
        """
        if teacher.guidance is not None:
            return ()
        spread, data = self.table.output_spread, math.sqrt(spectrum.trace)
        linear = LinearTeacher(self.table.schedule, spectrum.eigenvalues)
        kept = math.sqrt(float(np.exp(2 * linear.log_output) @ spectrum.multiplicities))
        if kept <= _ALIKE * spread <= _ALIKE**2 * data:
            return ()
        return (
            f"the teacher's samples have a spread of {spread:.3g} (rms), and the data {data:.3g}: "
            "it may have been trained too little, or on data of another kind or scale, and its "
            "student will be like it",
        )


def measure_table(
    teacher: Teacher,
    inputs: TrainingInputs,
    spectrum: Spectrum,
    accelerator: Accelerator,
    is_nonlinear: bool = False,
    seed: int = 0,
    num_samples: int | None = None,
    progress: Progress | None = None,
) -> MeasuredTable:
    """The table of a teacher: its steps of each sample, and some for the gains.

    Deviations are of students that start with the network's weights, and so unguided; what they are
    to learn, and the gains, are the teacher's under its guidance.

    Args:
        inputs: what is read at step T, with its conditions.
        spectrum: of the data, with eigenvectors: what groups of directions are.
        is_nonlinear: take away the best affine function of z_j, unbiased by the samples that it
            is fitted to. Where values are many it is a matrix in the leading directions (two thirds
            of the samples, at most 256) and one gain for all others.
        num_samples: at least 128; 2000, or as many as 1 GiB holds, unless given.
        progress: called with the evaluations so far, of ``table_evaluations``.

    Raises:
        InputError: if the spectrum does not fit the teacher, or there are too few samples.
    """
    basis, _ = require_basis(spectrum, int(np.prod(teacher.sample_shape)))
    teacher, nodes = teacher.to(accelerator.device), table_nodes(teacher.num_steps)
    count = default_samples(teacher) if num_samples is None else num_samples
    if count < FEWEST_SAMPLES:
        raise InputError("num_samples", f"must be >= {FEWEST_SAMPLES}", count)
    generator = seeded_generator(accelerator.device, seed, _STREAM)
    draws = Draws(generator, count, slice(0, count))
    start = inputs.draw(teacher.ddim, [teacher.num_steps], draws)
    passes = _Passes(teacher, accelerator, progress)
    path = passes.path(start, nodes)
    gains = _gains(passes, spectrum, path, start, nodes)
    schedule, moments = schedule_of(teacher.ddim), _Moments.of(path, basis)
    table = TeacherTable(
        schedule,
        nodes,
        _products(schedule, nodes, moments, is_nonlinear),
        gains,
        moments.sizes,
        float(np.sqrt(as_rows(path[0]).var(axis=0).sum())),
        is_nonlinear,
        np.diagonal(moments.left_of(len(nodes) - 1, range(len(nodes))), axis1=1, axis2=2).T,
    )
    return MeasuredTable(table, passes.count)


def default_samples(teacher: Teacher) -> int:
    """How many samples go down the sampler unless they are given."""
    states = 2 * len(table_nodes(teacher.num_steps)) - 1
    fitting = _MOST_VALUES // (states * int(np.prod(teacher.sample_shape)))
    return int(np.clip(fitting, FEWEST_SAMPLES, _MOST_SAMPLES))


def fewest_samples(spectrum: Spectrum, is_nonlinear: bool) -> int:
    """That a forecast needs: where the best affine map is taken away, of it whole or of its leading
    256 directions. A gain for what a matrix will be solved for foretells up to twice the error."""
    regressors = min(len(spectrum.eigenvalues), _MOST_REGRESSORS) if is_nonlinear else 0
    return max(FEWEST_SAMPLES, math.ceil(_SAMPLES_A_REGRESSOR * regressors))


def samples_within(evaluations: float, teacher: Teacher, spectrum: Spectrum) -> int:
    """How many samples a table of so many network evaluations has; it may be none or fewer."""
    run = teacher.evaluations(teacher.num_steps)
    gains = table_evaluations(teacher, spectrum, FEWEST_SAMPLES) - FEWEST_SAMPLES * run
    return math.floor((evaluations - gains) / run)


def table_evaluations(teacher: Teacher, spectrum: Spectrum, num_samples: int) -> int:
    """Network evaluations of one sample that ``measure_table`` takes."""
    groups = len(direction_groups(len(spectrum.eigenvalues))) + bool(spectrum.remaining_dimensions)
    disturbed = min(num_samples, _GAIN_SAMPLES) * (1 + groups)
    steps = table_nodes(teacher.num_steps)
    passes = np.cumsum([teacher.evaluations(int(step), int(step) - 1) for step in steps[1:]])
    gains = sum(int(passes[node - 1]) for node in _gain_nodes(len(steps) - 1))
    return teacher.evaluations(teacher.num_steps) * num_samples + disturbed * gains


class _Passes:
    """Takes states down a sampler, and counts the evaluations."""

    def __init__(
        self, teacher: Teacher, accelerator: Accelerator, progress: Progress | None
    ) -> None:
        self.teacher, self._accelerator, self.count = teacher, accelerator, 0
        self._progress = progress

    def estimate(self, batch: Batch, step: int) -> Estimate:
        """What the teacher says of a batch at a step."""
        return self.estimates(batch, step)[0]

    def estimates(self, batch: Batch, step: int) -> tuple[Estimate, Estimate]:
        """What the teacher says of a batch at a step, and what a student with its weights says."""
        parts = []
        with torch.no_grad(), self._accelerator.autocast():
            for part in in_parts(batch):
                parts.append(self.teacher.estimates(part.z, step, part.condition))
        self.count += len(batch.z) * self.teacher.evaluations(step, step - 1)
        if self._progress is not None:
            self._progress(self.count)
        teachers, students = map(_joined, zip(*parts, strict=True))
        return teachers, students

    def path(self, start: Batch, nodes: NDArray[np.int64]) -> Tensor:
        """(2 M + 1, n, …) on the CPU: states at all nodes, then x̂ at all nodes but step 0.

        x̂ is what a student that starts with the teacher's weights says, which is not guided.
        """
        index, batch = {int(step): at for at, step in enumerate(nodes)}, start
        kept = torch.empty(2 * len(nodes) - 1, *start.z.shape)
        kept[len(nodes) - 1] = start.z.cpu()
        for step in range(self.teacher.num_steps, 0, -1):
            estimate, start_of_student = self.estimates(batch, step)
            if step in index:
                kept[len(nodes) - 1 + index[step]] = start_of_student.x0.cpu()
            batch = replace(batch, z=self.teacher.ddim.land(estimate, step - 1))
            if step - 1 in index:
                kept[index[step - 1]] = batch.z.cpu()
        return kept

    def output(self, batch: Batch, steps: Sequence[int]) -> Tensor:
        """Where states at the first of the steps come out, in jumps from one to the next."""
        for start, stop in pairwise(steps):
            batch = replace(batch, z=self.teacher.ddim.land(self.estimate(batch, start), stop))
        return batch.z


def _joined(parts: Sequence[Estimate]) -> Estimate:
    return Estimate(*(torch.cat([getattr(e, name) for e in parts]) for name in ("x0", "noise")))


@dataclass(frozen=True, eq=False)
class _Moments:
    """Second moments of what was kept of a path, R = 2 M + 1 rows.

    Args:
        means: (R, k) of the coordinates along the spectrum's directions.
        centred: (R, n, k) the coordinates less their means.
        groups: of directions; one more is of all that is left out, if anything is.
        rest: (R, R) E of products of deviations from the mean in what is left out.
        rest_means: (R, R) products of the means there.
        sizes: (G,) directions in each group.
    """

    means: Array
    centred: Array
    groups: list[slice]
    rest: Array
    rest_means: Array
    sizes: Array

    @classmethod
    def of(cls, path: Tensor, basis: Array) -> _Moments:
        groups, rows = direction_groups(len(basis)), path.flatten(2)
        means = np.stack([as_rows(row).mean(axis=0) for row in rows])
        along = np.stack(
            [(as_rows(row) - mean) @ basis.T for row, mean in zip(rows, means, strict=True)]
        )
        inside = means @ basis.T
        sizes = [float(group.stop - group.start) for group in groups]
        rest = rest_means = np.zeros((len(rows), len(rows)))
        if left_out := rows.shape[2] - len(basis):
            sizes.append(float(left_out))
            count = rows.shape[1]
            rest = -_gram(along, count)
            for sample in range(count):
                each = as_rows(rows[:, sample]) - means
                rest += each @ each.T / count
            rest_means = means @ means.T - inside @ inside.T
        return cls(inside, along, groups, rest, rest_means, np.array(sizes))

    def products(self) -> Array:
        """(G, R, R) E of products of rows in each group."""
        along = self.centred + self.means[:, None]
        grams = [_gram(along[:, :, group], along.shape[1]) for group in self.groups]
        return np.stack([*grams, self.rest + self.rest_means][: len(self.sizes)])

    def left_of(self, regressor: int, rows: Sequence[int]) -> Array:
        """(G, r, r) those of what the best affine function of one row leaves of some.

        A matrix acts in the leading directions, and one gain in all others. Squares of residuals
        are n - p times their expectation for n samples and p effective parameters.
        """
        count = self.centred.shape[1]
        most = min(int(count / _SAMPLES_A_REGRESSOR), _MOST_REGRESSORS)
        lead = max(group.stop for group in self.groups if group.stop <= most)
        directions, taken = _fitted_squares(self.centred[regressor, :, :lead])
        gains = self._gains_beyond(lead, regressor, rows)
        left = []
        for group in self.groups:
            part = self.centred[rows, :, group]
            if group.stop > lead:
                part = part - gains[:, None, None] * self.centred[regressor, :, group]
                left.append(_gram(part, count - 1))
            else:
                explained = np.sqrt(taken)[:, None] * (directions.T @ part)
                spare = count - 1 - float(taken.sum())
                left.append(_gram(part, spare) - _gram(explained, spare))
        reduced = np.outer(gains, self.rest[regressor, rows])
        rest = self.rest[np.ix_(rows, rows)] - reduced - reduced.T
        rest = rest + self.rest[regressor, regressor] * np.outer(gains, gains)
        return np.stack([*left, rest * count / (count - 1)][: len(self.sizes)])

    def _gains_beyond(self, lead: int, regressor: int, rows: Sequence[int]) -> Array:
        """(r,) gains of least squares in all but the leading directions, those left out as well."""
        read, count = self.centred[regressor, :, lead:], self.centred.shape[1]
        cross = count * self.rest[rows, regressor]
        cross = cross + np.einsum("rnk,nk->r", self.centred[rows, :, lead:], read)
        square = count * self.rest[regressor, regressor] + (read**2).sum()
        return cross / max(square, np.finfo(float).tiny)


def _fitted_squares(read: Array) -> tuple[Array, Array]:
    """(n, p) directions of a ridge regression on (n, p) centred values, and the shares of squares
    along them that are not left to the residuals."""
    directions, sizes, _ = np.linalg.svd(read, full_matrices=False)
    kept = sizes**2 / (sizes**2 + _RIDGE * (sizes**2).mean() + np.finfo(float).tiny)
    return directions, 2 * kept - kept**2


def _gram(rows: Array, count: float) -> Array:
    """(R, R) products of (R, n, g) rows, summed over the last two axes and divided by a count."""
    flat = rows.reshape(len(rows), -1)
    return flat @ flat.T / count


def _products(
    schedule: NoiseSchedule, nodes: NDArray[np.int64], moments: _Moments, is_nonlinear: bool
) -> Array:
    """``TeacherTable.products``: at node j the estimates are combinations of a path's rows."""
    reached, sigmas = carries(schedule, nodes), schedule.sigmas[nodes]
    last = len(nodes) - 1
    products = np.zeros((last + 1, last + 1, last + 1, len(moments.sizes)))
    raw = None if is_nonlinear else moments.products()
    for j in range(1, last + 1):
        rows, stops = [*range(j + 1), last + j], np.arange(j)
        mixture = np.zeros((j + 1, j + 2))
        mixture[stops, stops] = 1 / reached[j, :j]
        mixture[stops, j] = -sigmas[:j] / sigmas[j] / reached[j, :j]
        mixture[j, j + 1] = 1.0
        second = moments.left_of(j, rows) if raw is None else raw[:, rows][:, :, rows]
        products[j, : j + 1, : j + 1] = np.moveaxis(mixture @ second @ mixture.T, 0, -1)
    return products


def _gains(
    passes: _Passes,
    spectrum: Spectrum,
    path: Tensor,
    start: Batch,
    nodes: NDArray[np.int64],
) -> Array:
    """(M+1, G) what small disturbances at each node grow to, by groups of directions.

    They are measured at about a dozen nodes, down all nodes below, and interpolated between in the
    logarithm.
    """
    last = len(nodes) - 1
    measured = _gain_nodes(last)
    condition = start.condition
    logs = [np.zeros(1)]
    for at in measured:
        z = path[at, :_GAIN_SAMPLES].to(start.z.device)
        step = int(nodes[at])
        added = torch.stack(list(_disturbances(passes.teacher, spectrum, step, z)))
        every = torch.cat([z, (z + added).flatten(0, 1)])
        rows = torch.arange(len(z)).repeat(len(added) + 1)
        told = None if condition is None else condition[rows.to(start.z.device)]
        outputs = passes.output(Batch(every, condition=told), nodes[at::-1].tolist())
        reference, *disturbed = as_rows(outputs).reshape(-1, len(z), added[0, 0].numel())
        grown = np.array([np.linalg.norm(each - reference) for each in disturbed])
        before = added.double().cpu().flatten(1).norm(dim=1).numpy()
        logs.append(np.log(np.maximum(grown / before, np.finfo(float).tiny)))
    known, values = [0, *measured], np.stack(np.broadcast_arrays(*logs))
    columns = [np.interp(np.arange(last + 1), known, column) for column in values.T]
    return np.exp(np.stack(columns, axis=1))


def _gain_nodes(last: int) -> list[int]:
    """The nodes at which gains are measured."""
    return np.unique(np.linspace(1, last, _GAIN_NODES).round().astype(int)).tolist()


def _disturbances(teacher: Teacher, spectrum: Spectrum, step: int, z: Tensor) -> Iterator[Tensor]:
    """Disturbances of (B, …) states within each group, a share of the data's spread there."""
    rows, _ = require_basis(spectrum, z[0].numel())
    basis = torch.tensor(rows.copy(), dtype=torch.float32, device=z.device)
    alpha = float(teacher.ddim.alphas[step])
    generator = seeded_generator(z.device, _STREAM, step)

    def drawn(count: int) -> Tensor:
        return torch.randn(len(z), count, generator=generator, device=z.device)

    for group in direction_groups(len(basis)):
        values = torch.tensor(spectrum.eigenvalues[group].copy(), dtype=torch.float32)
        spread = _DISTURBANCE * alpha * values.sqrt() + _LEAST_DISTURBANCE
        along = drawn(len(values)) * spread.to(z.device)
        yield (along @ basis[group]).view_as(z)
    if left_out := spectrum.remaining_dimensions:
        variance = spectrum.remaining_trace / left_out
        noise = drawn(basis.shape[1])
        beside = noise - noise @ basis.T @ basis
        yield ((_DISTURBANCE * alpha * variance**0.5 + _LEAST_DISTURBANCE) * beside).view_as(z)
