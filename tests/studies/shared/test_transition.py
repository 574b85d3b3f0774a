"""Where sequential BOOT and vanilla err equally: known values, and what training does to them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from opmerge.merging import evaluate
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import eigenvalue_spectrum
from opmerge.training import EMAFlow, GammaRates, GradientFlow, TrainingModel
from opmerge_studies.shared.transition import crossings, scan_points, sign_changes


def distances(num_steps: int, eigenvalue: float, training: TrainingModel) -> tuple[float, float]:
    spectrum, schedule = eigenvalue_spectrum([eigenvalue]), cosine_schedule(num_steps)
    problem = Problem(spectrum, schedule, training, "operator-copy")
    boot, vanilla = (
        evaluate(problem, build_strategy(name, num_steps)).w2 for name in ("boot", "vanilla")
    )
    return boot, vanilla


@pytest.mark.parametrize(
    ("num_steps", "crossing"), [(16, 1.140), (64, 1.0365), (128, 1.0185), (256, 1.00937)]
)
def test_first_crossing(num_steps: int, crossing: float) -> None:
    """THEORY 7.5, to its digits."""
    assert crossings(num_steps, GradientFlow())[0] == pytest.approx(crossing, abs=5e-5)


@pytest.mark.parametrize(
    "training",
    [
        GradientFlow(0.4),
        EMAFlow(6.4, 1.0),
        GammaRates(2.0, 1.5, 1.0, 100, 1e-3, 100, 1e-3),
    ],
    ids=lambda training: training.name,
)
def test_errors_are_equal_at_a_crossing_and_not_beside_it(training: TrainingModel) -> None:
    """Also where they are sums over modes."""
    found = crossings(32, training)
    assert found
    for eigenvalue in found:
        boot, vanilla = distances(32, eigenvalue, training)
        assert boot == pytest.approx(vanilla, rel=1e-7)
    boot, vanilla = distances(32, found[0] - 1e-3, training)
    assert boot < vanilla * (1 - 1e-4)
    boot, vanilla = distances(32, found[-1] + 1e-3, training)
    assert vanilla < boot * (1 - 1e-4)


def test_an_average_moves_crossings_as_a_shorter_time() -> None:
    """Both plans train at T alone, where n_T = 1 for every λ: one retention says all."""
    averaged = EMAFlow(6.4, 0.3)
    shorter = GradientFlow(-0.5 * float(np.log(averaged.retention(np.ones(1))[0])))
    np.testing.assert_allclose(crossings(16, averaged), crossings(16, shorter), rtol=1e-11)


def test_times_too_long_for_squared_errors() -> None:
    """At s = 300 errors are e^-600, whose squares underflow; the crossing is where it was."""
    long, short = crossings(16, GradientFlow(300.0)), crossings(16, GradientFlow(6.4))
    np.testing.assert_allclose(long, short, rtol=1e-6)


def test_sign_changes_of_a_known_function() -> None:
    found = sign_changes(np.cos, np.linspace(0.0, 10.0, 30))
    np.testing.assert_allclose(found, np.array([0.5, 1.5, 2.5]) * np.pi, rtol=1e-12)
    assert sign_changes(np.cosh, np.linspace(0.0, 10.0, 30)) == []


def test_the_scan_reaches_where_transitions_lie() -> None:
    for num_steps in (8, 512):
        points = scan_points(num_steps)
        assert (np.diff(points) > 0).all()
        assert points[0] < 1 + 1 / num_steps < 1 + 3 / num_steps < points[-1]


def boot_errs_more(num_steps: int, eigenvalues: NDArray[np.float64], time: float) -> list[bool]:
    """From the closed forms: e = Σ log(1 + ρ (1/A_t - 1)) of BOOT and log(1 + ρ (1/P - 1))."""
    angles = np.arange(num_steps) * np.pi / (2 * num_steps)
    alphas, sigmas = np.cos(angles)[:, None], np.sin(angles)[:, None]
    variances = alphas[1:] ** 2 * eigenvalues + sigmas[1:] ** 2
    growth = alphas[1:] * (alphas[:-1] - alphas[1:]) * eigenvalues
    log_steps = np.log1p((growth - sigmas[1:] * (sigmas[1:] - sigmas[:-1])) / variances)
    kept = np.exp(-2 * time)
    boot = np.log1p(kept * np.expm1(-log_steps)).sum(axis=0)
    vanilla = np.log1p(kept * np.expm1(-log_steps.sum(axis=0)))
    more: list[bool] = (np.abs(np.expm1(boot)) > np.abs(np.expm1(vanilla))).tolist()
    return more


@pytest.mark.parametrize("num_steps", [512, 2048, 4096])
def test_crossings_of_many_steps(num_steps: int) -> None:
    """They are 0.48 / √T of λ - 1 apart; the scan of 6,000 points has steps of 0.1 %."""
    scan = 1 + np.geomspace(0.05, 40, 6000) / num_steps
    more = np.concatenate([boot_errs_more(num_steps, part, 1.0) for part in np.split(scan, 60)])
    below = np.flatnonzero(more[1:] != more[:-1])
    found = crossings(num_steps, GradientFlow(1.0))
    assert len(found) == len(below) == 3
    assert (scan[below] < found).all()
    assert (found < scan[below + 1]).all()
