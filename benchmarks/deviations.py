"""``python -m benchmarks.deviations TEACHER DATA``: what there is to learn in a teacher's jumps.

States go down the teacher's 32 steps. The *deviation* of a jump j -> i is x̂(j, j) - x̂(j, i), what
a network misses that starts with the teacher's weights, less its best affine function of z_j. Told
are its root mean square; the share of its square that a ridge regression on what the teacher's last
layer reads at z_j leaves, held out: how much of it the network has no words for yet; and how the
deviations of two windows of a student correlate, carried to the output of each: were they 1, what
is left of them would add up, and were they 0, its squares. All by groups of eigen-directions, as in
a table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from opmerge.data import open_source
from opmerge.denoisers.inputs import load_samples
from opmerge.denoisers.models import Teacher
from opmerge.distillation import load_teacher
from opmerge.forecast.table import carries, direction_groups
from opmerge.measure.linearity import require_basis
from opmerge.measure.probes import schedule_of
from opmerge.spectra import estimate_spectrum

T, NUM_SAMPLES, SEED = 32, 6000, 0
WINDOWS = ([32, 0], [32, 16, 0], [32, 24, 16, 8, 0])
RIDGE = 1e-5  # of the mean square of the regressors

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Path:
    """(n, D) states of every step along the spectrum's directions, with (n, …) x̂ and features."""

    states: list[Array]
    estimates: list[Array]
    features: list[Array]
    teacher: Teacher

    def deviation(self, start: int, stop: int) -> Array:
        """(n, D) of a jump, the affine part still in it."""
        schedule = schedule_of(self.teacher.ddim)
        reach = carries(schedule, np.arange(T + 1))[start, stop]
        kept = schedule.sigmas[stop] / schedule.sigmas[start] * self.states[start]
        return self.estimates[start] - (self.states[stop] - kept) / reach

    def missed(self, start: int, stop: int, by_features: bool = False) -> Array:
        """(n/2, D) what a regression of the first half leaves of the second half's deviation."""
        read = [self.states[start], *([self.features[start]] if by_features else [])]
        rows, half = np.concatenate(read, axis=1), NUM_SAMPLES // 2
        rows = np.c_[(rows - rows[:half].mean(0)) / (rows[:half].std(0) + 1e-9), np.ones(len(rows))]
        known, target = rows[:half], self.deviation(start, stop)
        gram = known.T @ known
        gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
        return target[half:] - rows[half:] @ np.linalg.solve(gram, known.T @ target[:half])


def path_of(teacher: Teacher, data: torch.Tensor, directions: Array) -> Path:
    """A path from noised data, with what the teacher's last linear layer read at each step."""
    generator, read = torch.Generator().manual_seed(SEED), []
    last = [each for each in teacher.network.modules() if isinstance(each, torch.nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    chosen = torch.randint(len(data), (NUM_SAMPLES,), generator=generator)
    noise = torch.randn(NUM_SAMPLES, *data.shape[1:], generator=generator)
    z = float(teacher.ddim.alphas[T]) * data[chosen] + float(teacher.ddim.sigmas[T]) * noise

    def rows(values: torch.Tensor) -> Array:
        return values.flatten(1).double().numpy() @ directions.T

    states, estimates, features = [rows(z)], [], []
    with torch.no_grad():
        for step in range(T, 0, -1):
            read.clear()
            told, own = teacher.estimates(z, step, None)
            z = teacher.ddim.land(told, step - 1)
            states.append(rows(z))
            estimates.append(rows(own.x0))
            features.append(read[0].flatten(1).double().numpy())
    hook.remove()
    nothing = np.zeros((NUM_SAMPLES, 0))  # at step 0
    return Path(states[::-1], [nothing, *estimates[::-1]], [nothing, *features[::-1]], teacher)


def table(path: Path, groups: list[slice]) -> Iterator[str]:
    """A line for each jump, and for each pair of one student."""
    reach = carries(schedule_of(path.teacher.ddim), np.arange(T + 1))
    for boundaries in WINDOWS:
        jumps = list(pairwise(boundaries))
        missed = [path.missed(*jump) for jump in jumps]
        for (start, stop), each in zip(jumps, missed, strict=True):
            left = path.missed(start, stop, by_features=True)
            shares = [(left[:, g] ** 2).sum() / (each[:, g] ** 2).sum() for g in groups]
            rms, share = np.sqrt((each**2).sum(1).mean()), (left**2).sum() / (each**2).sum()
            told = f"z_{start} to z_{stop}: rms {rms:.3f}, left by features {share:.2f}, by group"
            yield f"{told} {np.round(shares, 2)}"
        for one, two in combinations(range(len(jumps)), 2):
            a, b = reach[jumps[one]] * missed[one], reach[jumps[two]] * missed[two]
            products = [(a[:, g] * b[:, g]).sum() for g in groups]
            norms = [np.sqrt((a[:, g] ** 2).sum() * (b[:, g] ** 2).sum()) for g in groups]
            told = np.round(np.array(products) / np.array(norms), 2)
            yield f"    {jumps[one]} and {jumps[two]} correlate by {told}"


def main(folder: str, source: str) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    teacher, data = load_teacher(folder, T), open_source(source)
    directions, _ = require_basis(estimate_spectrum(data), data.num_features)
    path = path_of(teacher, torch.tensor(load_samples(data, teacher.sample_shape)[:]), directions)
    for line in table(path, direction_groups(len(directions))):
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
