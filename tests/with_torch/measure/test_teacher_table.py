"""The measured table: a linear teacher's is the closed form, and nothing of it is non-linear."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from opmerge import InputError, Spectrum, cosine_schedule, eigenvalue_spectrum
from opmerge.denoisers.denoiser import LABELS
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.guidance import Guidance
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.models import Teacher
from opmerge.denoisers.sampler import DDIM
from opmerge.forecast import linear_table
from opmerge.linear_teacher import LinearTeacher
from opmerge.measure.teacher_table import (
    MeasuredTable,
    _Moments,
    measure_table,
    table_evaluations,
)

LAMBDAS = np.array([3.0, 1.5, 0.9, 0.2])
STEPS = 8
SAMPLES = 2000
SCHEDULE = cosine_schedule(STEPS)


class Linear(nn.Module):
    """x̂ = U diag(weights_t) Uᵀ z, and a part that is curved."""

    def __init__(self, weights: Tensor, turn: Tensor, curved: float = 0.0) -> None:
        super().__init__()
        self.weights, self.turn, self.curved = weights, turn, curved
        self.calls = 0

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        self.calls += len(z)
        along = z @ self.turn.T
        return (self.weights[timesteps] * along) @ self.turn + self.curved * (z**2 - 1)


def turned() -> np.ndarray:
    """An orthogonal matrix that is no permutation."""
    return np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]


def teacher(curved: float = 0.0) -> Teacher:
    """The optimal linear one."""
    ddim = DDIM.from_schedule(SCHEDULE, "sample")
    alphas, sigmas = ddim.alphas[:, None].double(), ddim.sigmas[:, None].double()
    values = torch.from_numpy(LAMBDAS)
    weights = (alphas * values / (alphas**2 * values + sigmas**2)).float()
    return Teacher(Linear(weights, torch.from_numpy(turned()).float(), curved), ddim, (4,))


def spectrum() -> Spectrum:
    whole = eigenvalue_spectrum(LAMBDAS)
    return replace(whole, mean=np.zeros(4), basis=turned(), kind="full")


def leading(spectrum: Spectrum) -> Spectrum:
    """Two directions of four, the others left out."""
    assert spectrum.basis is not None
    return replace(
        spectrum,
        eigenvalues=LAMBDAS[:2],
        multiplicities=np.ones(2),
        basis=spectrum.basis[:2],
        kind="top-k",
        remaining_trace=float(LAMBDAS[2:].sum()),
        remaining_dimensions=2,
    )


def inputs() -> DataInputs:
    normal = np.random.default_rng(1).standard_normal((4000, 4)) * np.sqrt(LAMBDAS)
    return DataInputs(torch.from_numpy(normal @ turned()).float())


@cache
def measured(is_nonlinear: bool = False, curved: float = 0.0) -> MeasuredTable:
    accelerator = Accelerator(cpu=True)
    return measure_table(
        teacher(curved), inputs(), spectrum(), accelerator, is_nonlinear, num_samples=SAMPLES
    )


def on_the_path() -> np.ndarray:
    """(T+1, 4) variance of the teacher's own states over that of noised data, P(j, T)² / n_j."""
    linear = LinearTeacher(SCHEDULE, LAMBDAS)
    composites = np.exp([2 * linear.log_composite(j, STEPS) for j in range(STEPS + 1)])
    return composites / linear.variances


def test_deviations_of_a_linear_teacher() -> None:
    """Of Gaussian z_T each direction's D² is a multiple of one χ² with as many degrees of freedom
    as samples: relative standard deviation √(2/2000) = 3.2 %, and 5 of these are allowed. The
    ratio of two deviations has no error at all, as one direction has one factor."""
    table, closed, shrunk = measured().table, linear_table(spectrum(), SCHEDULE), on_the_path()
    assert table.sizes.tolist() == [1.0, 1.0, 1.0, 1.0]
    for start, split, stop in [(8, 8, 0), (8, 4, 0), (8, 7, 1), (5, 5, 0), (5, 3, 1), (3, 3, 0)]:
        expected = closed.deviation(start, split, stop) * shrunk[start]
        ratio = table.deviation(start, split, stop) / expected
        assert ratio == pytest.approx(1, abs=5 * math.sqrt(2 / SAMPLES)), (start, split, stop)
        whole = table.deviation(start, start, 0) / (
            closed.deviation(start, start, 0) * shrunk[start]
        )
        assert ratio == pytest.approx(whole, rel=1e-3)  # float32, over a difference of estimates
    spread = np.exp(2 * LinearTeacher(SCHEDULE, LAMBDAS).log_output).sum()
    assert table.output_spread == pytest.approx(math.sqrt(spread), rel=5 * math.sqrt(1 / SAMPLES))


def test_gains_of_a_linear_teacher() -> None:
    """P(0, i), to float32 of small disturbances; at step 5, which is interpolated between 4 and 6,
    their geometric mean."""
    linear = LinearTeacher(SCHEDULE, LAMBDAS)
    expected = np.exp([linear.log_composite(0, i) for i in range(1, STEPS + 1)])
    assert measured().table.gains[0].tolist() == [1.0] * 4
    expected[4] = np.sqrt(expected[3] * expected[5])
    assert measured().table.gains[1:] == pytest.approx(expected, rel=2e-3)


def test_nothing_of_a_linear_teacher_is_non_linear() -> None:
    """What is left is what float32 rounds: relative 1e-7 of states, over c >= 0.19, squared."""
    table, linear = measured(is_nonlinear=True).table, measured().table
    assert table.is_nonlinear
    assert not linear.is_nonlinear
    for start in range(1, STEPS + 1):
        for stop in range(start):
            assert table.deviation(start, start, stop).max() < 1e-10
    assert np.array_equal(table.gains, linear.gains)
    for step in range(STEPS + 1):  # and a free step costs nothing
        assert table.free_error(step).max() < 1e-10


def test_the_non_linear_part_is_unbiased() -> None:
    """At T z is standard normal and x̂ = w z + c (z² - 1) directly: with z² - 1 in the axes and
    one step, the residual of x̂(T, T-1) from any affine map of z is c (z² - 1): variance 2 c² in
    each of 4 axes. Its sum over the axes is known to √(Var/n): fourth moments of z² - 1 are 60,
    so one axis has relative standard deviation √((60 - 4)/4/2000) = 8.4 %, four 4.2 %."""
    curved = 0.05
    table = measured(is_nonlinear=True, curved=curved).table
    own = table.products[STEPS, STEPS, STEPS].sum()
    assert own == pytest.approx(4 * 2 * curved**2, rel=5 * 0.042)


def test_a_free_step_costs_what_no_affine_map_says() -> None:
    """To step T - 1 it errs by what x̂ has beyond an affine map, c (z² - 1), times c(T, T-1)."""
    curved = 0.05
    table = measured(curved=curved).table
    assert table.free_steps is not None
    reached = float(table.carry[STEPS, STEPS - 1])
    expected = 8 * curved**2 * reached**2
    assert table.free_steps[STEPS - 1].sum() == pytest.approx(expected, rel=5 * 0.042)
    assert table.free_steps[STEPS].max() < 1e-10


@pytest.mark.parametrize("dimensions", [32, 80])
def test_residuals_make_up_for_what_the_fit_took(dimensions: int) -> None:
    """Rows of independent normals, n = 128: of each row a regression on another leaves all,
    variance 1 a direction, and would take D of 127 degrees of freedom. Residual variances have
    relative standard deviation √(2 / (D (127 - D)))."""
    path = torch.randn(3, 128, dimensions, generator=torch.Generator().manual_seed(0))
    left = _Moments.of(path, np.eye(dimensions)).left_of(0, [1, 2]).sum(axis=0)
    deviation = (2 / (dimensions * (127 - dimensions))) ** 0.5
    assert np.diag(left) / dimensions == pytest.approx(1, abs=5 * deviation)


def test_directions_that_are_left_out_are_one_group() -> None:
    """Its deviations are the sums of those of its directions, of the same samples."""
    accelerator = Accelerator(cpu=True)
    few = measure_table(teacher(), inputs(), leading(spectrum()), accelerator, num_samples=SAMPLES)
    assert few.table.sizes.tolist() == [1.0, 1.0, 2.0]
    for start, split, stop in [(8, 8, 0), (8, 4, 0), (5, 3, 1), (2, 2, 0)]:
        every = measured().table.deviation(start, split, stop)
        expected = [every[0], every[1], every[2] + every[3]]
        assert few.table.deviation(start, split, stop) == pytest.approx(expected, rel=1e-4)


def test_one_gain_is_for_what_is_left_out() -> None:
    """In the two directions left out of a linear teacher, least squares leave of x̂ = u_d z_d what
    one gain u = Σ u_d v_d / Σ v_d cannot: Σ v_d (u_d - u)²; the leading ones are explained."""
    accelerator = Accelerator(cpu=True)
    few = measure_table(
        teacher(), inputs(), leading(spectrum()), accelerator, True, num_samples=SAMPLES
    )
    linear = LinearTeacher(SCHEDULE, LAMBDAS)
    start, stop = 5, 2
    jump = (
        np.exp(linear.log_composite(stop, start)) - SCHEDULE.sigmas[stop] / SCHEDULE.sigmas[start]
    )
    reached = SCHEDULE.alphas[stop] - (
        SCHEDULE.alphas[start] * SCHEDULE.sigmas[stop] / SCHEDULE.sigmas[start]
    )
    u = (jump / reached)[2:]
    v = (on_the_path()[start] * linear.variances[start])[2:]
    expected = (v * (u - (u * v).sum() / v.sum()) ** 2).sum()
    left = few.table.products[start, stop, stop]
    assert left[:2].max() < 1e-10
    # samples: a quotient of χ², relative √(2/2000) for each of two directions
    assert left[2] == pytest.approx(expected, rel=5 * math.sqrt(4 / SAMPLES))


@pytest.mark.parametrize(("scale", "is_told"), [(1.0, False), (0.5, True), (2.0, True)])
def test_a_teacher_of_data_of_another_scale_is_told(scale: float, is_told: bool) -> None:
    found = measured()
    data = replace(spectrum(), eigenvalues=scale**2 * LAMBDAS)
    assert len(found.unlike(data, teacher())) == is_told
    guided = replace(teacher(), guidance=Guidance(2.0, {}, range(1, STEPS + 1)))
    assert not found.unlike(data, guided)


def test_evaluations_are_counted() -> None:
    """As the network counts them, and as they are foretold; T of each sample, and the gains'."""
    network, evaluations = teacher(), 0
    found = measure_table(network, inputs(), spectrum(), Accelerator(cpu=True), num_samples=200)
    assert isinstance(network.network, Linear)
    evaluations = network.network.calls
    assert found.network_evaluations == evaluations
    assert evaluations == table_evaluations(network, spectrum(), 200)
    assert evaluations == 200 * STEPS + 32 * 5 * (1 + 2 + 3 + 4 + 6 + 7 + 8)


def test_conditions_go_with_their_samples() -> None:
    """x̂ is the label: at T the estimate's mean square is that of the labels drawn."""
    seen = []

    class Told(nn.Module):
        def forward(self, z: Tensor, timesteps: Tensor, class_labels: Tensor) -> Tensor:
            seen.append(len(class_labels))
            assert len(class_labels) == len(z)
            return class_labels[:, None].float().expand(z.shape)

    labels = torch.arange(4000) % 3
    told = DataInputs(inputs().data, labels)
    assert told.condition is not None
    assert LABELS in told.condition.rows
    ddim = DDIM.from_schedule(SCHEDULE, "sample")
    conditional = Teacher(Told(), ddim, (4,), class_rows(3))
    table = measure_table(conditional, told, spectrum(), Accelerator(cpu=True), num_samples=2000)
    total = table.table.products[STEPS, STEPS, STEPS].sum()
    # mean of 4 · {0, 1, 4} is 20/3; standard deviation of one √(16 · 17/3 - (20/3)²) = 6.8
    assert total == pytest.approx(20 / 3, abs=5 * 6.8 / math.sqrt(2000))
    # whatever z is, the path leads to the label: nothing of it deviates
    assert table.table.deviation(STEPS, STEPS, 0).max() < 1e-9
    assert seen


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="`num_samples` must be >= 128, got 127"):
        measure_table(teacher(), inputs(), spectrum(), Accelerator(cpu=True), num_samples=127)
    bare = eigenvalue_spectrum(LAMBDAS)
    with pytest.raises(InputError, match="`spectrum` must have eigenvectors of 4 values"):
        measure_table(teacher(), inputs(), bare, Accelerator(cpu=True))
