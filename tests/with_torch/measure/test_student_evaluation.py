"""Measurements of linear samplers, whose distances are known in closed form."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from opmerge.data import open_source
from opmerge.denoisers.families import class_rows
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.distillation.pipeline import save_student
from opmerge.distillation.sampling import draw_samples
from opmerge.errors import InputError
from opmerge.measure.evaluation import (
    FeatureExtractor,
    StudentEvaluation,
    evaluate_student,
    load_feature_extractor,
)
from opmerge.metrics import gaussian_fit_w2, gaussian_w2, sliced_w2
from opmerge.plans import Plan, PlanFile
from opmerge.schedules import cosine_schedule
from opmerge.spectra import Spectrum, eigenvalue_spectrum, estimate_spectrum
from opmerge.training import GradientFlow

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # POT looks for array libraries that are not there
    from ot import sliced_wasserstein_distance

Matrix = NDArray[np.float64]

# One step from pure noise: a network that predicts x_0 = A z makes samples A z.
ONE_STEP = DDIM.from_schedule(cosine_schedule(1), "sample")
TEACHER = np.diag([2.0, 1.0, 0.5])
STUDENT = np.array([[1.8, 0.2, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 0.7]])


class Linear(nn.Module):
    def __init__(self, matrix: Matrix) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.from_numpy(matrix).float())

    def forward(self, z: Tensor, timesteps: Tensor) -> Tensor:
        return (z.flatten(1) @ self.matrix.T).view_as(z)


def teacher(matrix: Matrix = TEACHER) -> Teacher:
    return Teacher(Linear(matrix), ONE_STEP, (len(matrix),))


def student(matrix: Matrix = STUDENT) -> Student:
    return Student((Jump(ONE_STEP.denoiser(Linear(matrix)), 1, 0, 0),), ONE_STEP, (len(matrix),))


def true_w2(first: Matrix = STUDENT, second: Matrix = TEACHER) -> float:
    zero = np.zeros(len(first))
    return gaussian_w2(zero, first @ first.T, zero, second @ second.T)


def covers(measured: object, truth: float) -> bool:
    low, high = getattr(measured, "low"), getattr(measured, "high")  # noqa: B009
    return bool(low <= truth <= high)


def test_intervals_cover_the_truth() -> None:
    """Of 100 intervals of 95 % at least 85 cover: fewer have probability 4e-5 (binomial).

    E|Az - Bz|² = |A - B|_F², and W2 between N(0, AAᵀ) and N(0, BBᵀ) is Bures'.
    """
    truths = {
        "paired_error": float(np.sum((STUDENT - TEACHER) ** 2)),
        "paired_rms": float(np.linalg.norm(STUDENT - TEACHER)),
        "gaussian_w2": true_w2(),
    }
    covered = dict.fromkeys(truths, 0)
    for seed in range(100):
        found = evaluate_student(
            teacher(), student(), 200, seed, num_projections=1, num_resamples=60, batch_size=200
        )
        for key, truth in truths.items():
            covered[key] += covers(getattr(found, key), truth)
            assert not covers(getattr(found, key), 2 * truth)  # nor are they idle
    assert all(count >= 85 for count in covered.values()), covered


def test_the_sliced_interval_covers_the_truth() -> None:
    """Samplers that differ by a factor 1.5: along every θ, W2 = 0.5, so SW2 = 0.5 as well."""
    matrix = np.eye(3)
    covered = 0
    for seed in range(100):
        found = evaluate_student(
            teacher(matrix), student(1.5 * matrix), 200, seed, num_projections=4, num_resamples=40
        )
        covered += covers(found.sliced_w2, 0.5)
        assert not covers(found.sliced_w2, 1.0)
    assert covered >= 85


def test_intervals_to_data_and_in_features_cover_the_truth() -> None:
    """Isotropic laws of spreads 1 (teacher), 1.5 and 2 (data): in d values W2 = √d |s - s'|, along
    any direction |s - s'|; Fréchet's distance is the square, here in two values of three.
    """
    matrix = np.eye(3)
    truths = {
        ("reference", "student_gaussian_w2"): 0.5 * np.sqrt(3),
        ("reference", "teacher_gaussian_w2"): np.sqrt(3),
        ("reference", "student_sliced_w2"): 0.5,
        ("reference", "teacher_sliced_w2"): 1.0,
        ("features", "student_to_teacher"): 0.5,
        ("features", "student_to_reference"): 0.5,
        ("features", "teacher_to_reference"): 2.0,
    }
    covered = dict.fromkeys(truths, 0)
    for seed in range(40):
        found = evaluate_student(
            teacher(matrix),
            student(1.5 * matrix),
            200,
            seed,
            reference=2 * np.random.default_rng(seed + 1000).standard_normal((150, 3)),
            features=lambda samples: samples[:, :2],
            num_projections=2,
            num_resamples=40,
        )
        for (kind, key), truth in truths.items():
            measured = getattr(getattr(found, kind), key)
            covered[kind, key] += covers(measured, truth)
            far = 9 if kind == "features" else 3  # three times the distance, or its square
            assert not covers(measured, far * truth), (kind, key)
    # Of 40 intervals of 95 % fewer than 32 cover with probability 1.3e-4 (binomial).
    assert all(count >= 32 for count in covered.values()), covered


def test_large_sample() -> None:
    """Within 5 standard errors, as the intervals tell them, of the closed forms."""
    found = evaluate_student(teacher(), student(), 5000, 1, batch_size=5000, num_resamples=50)
    truths = {
        "paired_error": float(np.sum((STUDENT - TEACHER) ** 2)),
        "gaussian_w2": true_w2(),
    }
    for key, truth in truths.items():
        measured = getattr(found, key)
        assert abs(measured.value - truth) < 5 * (measured.high - measured.low) / (2 * 1.96), key
        assert measured.high - measured.low < 0.2 * truth, key
    # Equal noise: the law's distance is at most the mean over pairs.
    assert found.gaussian_w2.value < found.paired_rms.value


def test_equal_samplers_and_the_floor() -> None:
    """Equal samplers are at distance 0; independent halves of n/2 are not.

    For N(0, I_d) a fit from m samples is about W2² = (d + d(d + 1)/8 · …)/m away: between the
    means alone E|m1 - m2|² = 2d/m, which is a lower bound for the mean of the whole.
    """
    dimensions, half = 16, 200
    matrix = np.eye(dimensions)
    found = evaluate_student(teacher(matrix), student(matrix), 2 * half, 0, num_resamples=5)
    for measured in (found.paired_error, found.gaussian_w2, found.sliced_w2):
        assert (measured.value, measured.low, measured.high) == (0, 0, 0)
    # |m1 - m2|² m/2 is chi-squared of 16 degrees: below 2 with probability 1e-6.
    assert found.gaussian_w2_floor**2 > 2 * 2 / half
    assert found.sliced_w2_floor > 0
    samples = draw_samples(teacher(matrix), 2 * half, 0, 256).double().numpy()
    assert found.gaussian_w2_floor == gaussian_fit_w2(samples[:half], samples[half:])
    assert found.sliced_w2_floor == pytest.approx(sliced_w2(samples[:half], samples[half:]))


def test_errors_by_direction() -> None:
    """In the basis v_k: E(v_kᵀ(A - B)z)² = |(A - B)ᵀ v_k|²; they sum to the whole."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    spectrum = Spectrum(
        np.array([3.0, 2.0, 1.0]), np.ones(3), np.zeros(3), rotation, 10, "made", "none", "full"
    )
    found = evaluate_student(
        teacher(), student(), 4000, 0, spectrum=spectrum, batch_size=4000, num_resamples=0
    )
    assert found.directions is not None
    assert found.directions.eigenvalues == (3.0, 2.0, 1.0)
    truth = np.sum((rotation @ (STUDENT - TEACHER)) ** 2, axis=1)
    scores = (np.array(found.directions.errors) - truth) / found.directions.standard_errors
    assert np.all(np.abs(scores) < 4.5)  # beyond by chance: 2e-5
    assert sum(found.directions.errors) == pytest.approx(found.paired_error.value)
    # (vᵀ(A - B)z)² is a squared Gaussian: its variance is twice its squared mean.
    expected = np.sqrt(2 / 4000) * truth
    np.testing.assert_allclose(found.directions.standard_errors, expected, rtol=0.15)


def test_a_spectrum_needs_eigenvectors_of_the_samples() -> None:
    for spectrum in (eigenvalue_spectrum([1.0, 2.0]), estimate_spectrum(open_source("digits"))):
        with pytest.raises(InputError, match="`spectrum` must have eigenvectors of 3 values"):
            evaluate_student(teacher(), student(), 10, 0, spectrum=spectrum)


def test_distances_to_data() -> None:
    """The data are the student's law: the student is near them, the teacher is not."""
    data = np.random.default_rng(0).standard_normal((5000, 3)) @ STUDENT.T
    data = data[np.argsort(data[:, 0])]  # the order of the data must not matter
    found = evaluate_student(
        teacher(), student(), 2000, 0, reference=data, batch_size=2000, num_resamples=0
    ).reference
    assert found is not None
    assert found.num_samples == 5000
    # Floors at these sizes are 0.05 to 0.1; the distance itself is 0.26.
    assert found.student_gaussian_w2.value < 0.12
    assert abs(found.teacher_gaussian_w2.value - true_w2()) < 0.1
    assert found.student_sliced_w2.value < 0.1 < found.teacher_sliced_w2.value
    samples = draw_samples(student(), 2000, 0, 2000).double().numpy()
    assert found.student_gaussian_w2.value == pytest.approx(gaussian_fit_w2(samples, data))
    as_tensor = torch.from_numpy(data).float().reshape(5000, 3, 1)
    again = evaluate_student(teacher(), student(), 2000, 0, reference=as_tensor, num_resamples=0)
    assert again.reference is not None
    both = (each.teacher_gaussian_w2.value for each in (again.reference, found))
    assert next(both) == pytest.approx(next(both))
    values, resampled = (
        evaluate_student(teacher(), student(), 50, 0, reference=data, num_resamples=number)
        for number in (0, 2)
    )
    assert values.reference is not None
    assert resampled.reference is not None  # intervals leave the values as they are
    told = (each.teacher_sliced_w2.value for each in (values.reference, resampled.reference))
    assert next(told) == next(told)
    with pytest.raises(InputError, match="`reference` must be at least 2 samples of 3 values"):
        evaluate_student(teacher(), student(), 10, 0, reference=data[:, :2])


def test_distances_in_features() -> None:
    """Features F x of Gaussians are Gaussian: W2² of N(0, FAAᵀFᵀ) and N(0, FBBᵀFᵀ)."""
    mixing = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, -1.0]])

    def features(samples: Tensor) -> Tensor:
        assert samples.shape[1:] == (3,)
        return samples @ torch.from_numpy(mixing).float().T

    data = np.random.default_rng(0).standard_normal((5000, 3)) @ TEACHER.T
    wide = 1.5 * STUDENT
    found = evaluate_student(
        teacher(), student(wide), 5000, 0, reference=data, features=features, num_resamples=0
    ).features
    assert found is not None
    # Features deviate by up to 4, known to 1/√(2n) = 1 % each; the distance itself is 1.4, so its
    # square is known to about 2 · 0.04 · √2 / 1.4 = 8 %, and better from shared noise.
    truth = true_w2(mixing @ wide, mixing @ TEACHER) ** 2
    assert found.student_to_teacher.value == pytest.approx(truth, rel=0.2)
    assert found.student_to_reference is not None
    assert found.student_to_reference.value == pytest.approx(truth, rel=0.25)
    assert found.teacher_to_reference is not None
    assert max(found.teacher_to_reference.value, found.floor) < truth / 10
    without = evaluate_student(teacher(), student(), 10, 0, features=lambda x: x.numpy())
    assert without.features is not None
    assert without.features.student_to_reference is None


def raises(samples: Tensor) -> Tensor:
    raise ValueError("no\nway")


BAD_FEATURES: list[tuple[FeatureExtractor, str]] = [
    (raises, "must map samples of shape (6, 3): ValueError: no"),
    (lambda x: x @ x, "must map samples of shape (6, 3): RuntimeError: mat1 and mat2 shapes"),
    (lambda x: [[1.0], [2.0, 3.0]], "must map samples of shape (6, 3): ValueError: "),
    (lambda x: x.sum(1), "must give shape (6, F), got (6,)"),
    (lambda x: x[1:], "must give shape (6, F), got (5, 3)"),
    (lambda x: x[:, :0], "must give shape (6, F), got (6, 0)"),
    (lambda x: None, "must give shape (6, F), got ()"),
    (lambda x: [["a"]] * len(x), "must give real numbers, got dtype('<U1')"),
    (lambda x: x.to(torch.complex64), "must give real numbers, got dtype('complex64')"),
    (lambda x: x / 0, "must give finite numbers"),
    (lambda x: x[:, : len(x) // 2], "must give as many features for every batch, got [2, 3]"),
]


@pytest.mark.parametrize(("features", "message"), BAD_FEATURES)
def test_features_that_are_none(features: FeatureExtractor, message: str) -> None:
    """Ten samples in batches of six and four; of what is raised the first line is told."""
    with pytest.raises(InputError) as error:
        evaluate_student(teacher(), student(), 10, 0, features=features, batch_size=6)
    assert str(error.value).startswith(f"`features` {message}")
    assert "no way" not in str(error.value)


def test_features_in_any_precision() -> None:
    """To eight bits of bfloat16; NumPy has none. Whole numbers are numbers."""
    exact, rounded = (
        evaluate_student(teacher(), student(), 200, 0, features=features, num_resamples=0).features
        for features in (lambda x: x, lambda x: x.bfloat16())
    )
    assert exact is not None
    assert rounded is not None
    values = [each.student_to_teacher.value for each in (exact, rounded)]
    assert values[1] == pytest.approx(values[0], rel=0.02)
    evaluate_student(teacher(), student(), 10, 0, features=lambda x: x.long(), num_resamples=0)


def test_record_and_repetition() -> None:
    first = evaluate_student(teacher(), student(), 50, 3, num_resamples=5)
    again = evaluate_student(teacher(), student(), 50, 3, num_resamples=5)
    assert isinstance(first, StudentEvaluation)
    assert first == again
    values = first.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["sliced_w2"]["value"] == first.sliced_w2.value
    assert values["reference"] is None
    none = evaluate_student(teacher(), student(), 50, 3, num_resamples=0)
    assert (none.gaussian_w2.value, none.gaussian_w2.low) == (first.gaussian_w2.value, None)


def test_all_that_takes_long_is_told() -> None:
    """Samples of the two, features of both and of the data, and resamples of nine distances:
    two between student and teacher, four to data, three in features."""
    told: list[tuple[str, int, int]] = []
    evaluate_student(
        teacher(),
        student(),
        5,
        3,
        reference=np.eye(3),
        features=lambda x: x,
        batch_size=3,
        num_resamples=2,
        progress=lambda *what: told.append(what),
    )
    assert told == [
        *(("sampling", done, 10) for done in (3, 5, 8, 10)),
        *(("extracting features", done, 13) for done in (3, 5, 8, 10, 13)),
        *(("resampling", done, 18) for done in range(1, 19)),
    ]


def test_refused_settings() -> None:
    with pytest.raises(InputError, match="`num_samples` must be >= 4, got 3"):
        evaluate_student(teacher(), student(), 3, 0)
    with pytest.raises(InputError, match="`num_resamples` must be >= 0"):
        evaluate_student(teacher(), student(), 10, 0, num_resamples=-1)
    with pytest.raises(InputError, match=r"`student` must have samples of shape \(2,\)"):
        evaluate_student(teacher(np.eye(2)), student(), 10, 0)
    for wanted, given in ((None, 10), (10, None)):
        samplers = (
            replace(teacher(), needs=class_rows(wanted)),
            replace(student(), needs=class_rows(given)),
        )
        words = [f"{number or 'no'} classes" for number in (wanted, given)]
        message = "`student` must have {}, as the teacher, got {}".format(*words)
        with pytest.raises(InputError, match=f"^{message}$"):
            evaluate_student(*samplers, 10, 0)


def test_only_the_teacher_that_the_student_was_distilled_from() -> None:
    """By what the student knows of it, to rounding; of step 3, where it never is, nothing."""
    own = DDIM.from_schedule(cosine_schedule(4), "sample")
    read = own.denoiser(Linear(STUDENT))
    jumps = tuple(Jump(read, start, start - 2, start - 2) for start in (4, 2))
    few = Student(jumps, own, (3,))
    elsewhere = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0])
    rounded = replace(own, alphas=own.alphas + 5e-5 + elsewhere)
    evaluate_student(Teacher(Linear(TEACHER), rounded, (3,)), few, 10, 0, num_resamples=0)
    for other, values in (
        (DDIM.from_schedule(cosine_schedule(2), "sample"), "num_steps = 4, as the student, got 2"),
        (
            replace(own, prediction_type="v_prediction"),
            "prediction_type = sample, as the student, got v_prediction",
        ),
        (replace(own, timesteps=2 * own.timesteps), "timestep_4 = 4, as the student, got 8"),
        (
            replace(own, alphas=own.alphas * 0.9),  # alpha_4 = 0, alpha_2 = cos(π/4)
            "alpha_2 = 0.707107, as the student, got 0.636396",
        ),
        (replace(own, sigmas=own.sigmas * 0.9), "sigma_4 = 1, as the student, got 0.9"),
    ):
        with pytest.raises(InputError) as error:
            evaluate_student(Teacher(Linear(TEACHER), other, (3,)), few, 10, 0)
        assert str(error.value) == (
            f"`teacher` must have {values}; give the teacher that the student was distilled from"
        )


def test_feature_extractors_by_name() -> None:
    assert load_feature_extractor("numpy:asarray") is np.asarray
    for name in ("numpy", "numpy:", ":asarray"):
        with pytest.raises(InputError, match=r"`features` must have the form package\.module:name"):
            load_feature_extractor(name)
    for name in ("nowhere_at_all:x", "numpy:no_such_function"):
        with pytest.raises(InputError, match="`features` cannot be imported"):
            load_feature_extractor(name)
    with pytest.raises(InputError, match="`features` must name a callable"):
        load_feature_extractor("math:pi")


def test_feature_extractors_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed script has its own folder on the path, and not the current one."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place) != Path()])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features_of_mine.py").write_text("def first(x):\n    return x[:, :1]\n")
    before = list(sys.path)
    first = load_feature_extractor("features_of_mine:first")
    assert sys.path == before
    assert np.array_equal(first(torch.eye(2)), [[1.0], [0.0]])


def test_sliced_w2_against_pot() -> None:
    """The same directions, handed over, give POT's value."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((50, 4)), 2 * rng.standard_normal((50, 4)) + 1
    directions = np.random.default_rng(7).standard_normal((4, 20))
    directions /= np.linalg.norm(directions, axis=0)
    theirs = sliced_wasserstein_distance(first, second, projections=directions, p=2)
    assert sliced_w2(first, second, 20, seed=7) == pytest.approx(float(theirs), rel=1e-12)


def test_sliced_w2_of_gaussians() -> None:
    """N(0, I) and N(m, s²I): along θ W2² = (θᵀm)² + (s - 1)², in the mean |m|²/d + (s - 1)²."""
    dimensions, size = 5, 4000
    rng = np.random.default_rng(0)
    shift = np.arange(dimensions) / 2
    first = rng.standard_normal((size, dimensions))
    second = 1.5 * rng.standard_normal((size, dimensions)) + shift
    truth = np.sqrt(shift @ shift / dimensions + 0.25)
    # (θᵀm)² has variance 2 |m|⁴ (d - 1)/(d² (d + 2)): over 2000 directions, 2.4 % of its mean;
    # sorted samples of 4000 are off by about as much. The root halves both.
    assert sliced_w2(first, second, 2000) == pytest.approx(truth, rel=0.05)
    moved = sliced_w2(first, first + np.eye(dimensions)[0], 2000)
    assert moved == pytest.approx(np.sqrt(1 / dimensions), rel=0.05)


def test_metrics_of_samples_refuse() -> None:
    samples = np.zeros((4, 3))
    with pytest.raises(InputError, match=r"`samples2` must have shape \(4, 3\), as samples1"):
        sliced_w2(samples, samples[:3])
    with pytest.raises(InputError, match="`num_projections` must be >= 1"):
        sliced_w2(samples, samples, 0)
    with pytest.raises(InputError, match=r"`samples2` must have shape \(m, 3\)"):
        gaussian_fit_w2(samples, samples[:, :2])
    with pytest.raises(InputError, match=r"`samples1` must have shape \(n, d\) with n >= 2"):
        gaussian_fit_w2(samples[:1], samples)
    with pytest.raises(InputError, match="`samples2` must be finite"):
        gaussian_fit_w2(samples, np.full((4, 3), np.nan))
    assert gaussian_fit_w2(samples[:, :1], samples[:, :1] + 2) == 2  # one value a sample


# The command line


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A student and its teacher of four steps."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    networks = [MLPDenoiser((4,), hidden_size=16, num_layers=1) for _ in range(2)]
    for network in networks:  # as built, the output is zero
        nn.init.normal_(network.proj_out.weight)
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    write_teacher_folder(folder / "teacher", networks[0], scheduler)
    original = load_teacher(folder / "teacher", 4)
    read = original.ddim.denoiser(networks[1])
    jumps = (Jump(read, 4, 2, 2), Jump(read, 2, 0, 0))
    return save_student(Student(jumps, original.ddim, (4,)), folder / "student"), folder / "teacher"


Measure = Callable[..., tuple[int, str, str]]


@pytest.fixture
def measure(run: Measure, folders: tuple[Path, Path]) -> Measure:
    """`evaluate-student` on few samples."""
    given = ("evaluate-student", folders[0], "--teacher", folders[1], "--num_samples", 12)
    return lambda *more: run(*given, *more)


def refused(result: tuple[int, str, str], message: str) -> None:
    assert result[:2] == (2, "")
    assert result[2].startswith(f"opmerge: {message}")
    assert result[2].count("\n") == 1


def test_as_many_resamples_as_asked(measure: Measure) -> None:
    status, out, _ = measure("--num_resamples", 0, "--json")
    found = json.loads(out)
    assert status == 0
    assert found["gaussian_w2"]["low"] is found["sliced_w2"]["high"] is None
    assert found["paired_rms"]["low"] < found["paired_rms"]["value"]
    assert found["predicted_w2"] is found["predicted_paired_rms"] is None
    intervals = [
        json.loads(measure("--num_resamples", count, "--json")[1])["gaussian_w2"]["low"]
        for count in (5, 6)
    ]
    assert len(set(intervals)) == 2
    status, out, _ = measure("--num_resamples", 0)
    assert status == 0
    rows = dict(line.split(": ") for line in out.splitlines()[1:])
    (with_interval,) = (name.strip() for name, value in rows.items() if "[" in value)
    assert with_interval == "paired error (rms)"
    refused(measure("--num_resamples", -1), "`num_resamples` must be >= 0, got -1")


def test_intervals_of_all_that_is_measured_are_shown(measure: Measure, tmp_path: Path) -> None:
    """Of distances to data, in features, and along the eigenvectors of the data."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", rng.standard_normal((30, 4)) * [4, 3, 2, 1])
    more = ("--source", tmp_path / "data.npy", "--features", "torch:clone", "--num_resamples", 4)
    status, out, _ = measure(*more)
    assert status == 0
    found = json.loads(measure(*more, "--json")[1])
    head, table = out.split("paired squared error along eigenvectors of the data, of the ")
    rows = dict(line.strip().split(": ", 1) for line in head.splitlines()[1:])
    for name, kind, keys in (
        ("Gaussian W2 to data", "reference", ("student_gaussian_w2", "teacher_gaussian_w2")),
        ("sliced W2 to data", "reference", ("student_sliced_w2", "teacher_sliced_w2")),
        ("Fréchet to data", "features", ("student_to_reference", "teacher_to_reference")),
    ):
        told = [
            "{} {value:.4g} [{low:.4g}, {high:.4g}]".format(key.split("_")[0], **found[kind][key])
            for key in keys
        ]
        assert rows[name] == ", ".join(told)
    assert rows["Fréchet distance"].endswith(f"], floor {found['features']['floor']:.4g}")
    first, *lines = table.splitlines()
    assert first == "largest of 4 λ"
    directions = found["directions"]
    reach = 1.959964 * np.array(directions["standard_errors"])
    for number, line in enumerate(lines):
        value, error = directions["eigenvalues"][number], directions["errors"][number]
        low, high = max(error - reach[number], 0), error + reach[number]
        told = f"{error:.4g} [{low:.4g}, {high:.4g}]"
        assert line.strip() == f"λ_{number + 1} = {value:.4g}: {told}"
    assert len(lines) == 4


def test_a_teacher_of_another_prediction_is_one_line(
    run: Measure, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    scheduler = DDIMScheduler(
        clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction"
    )
    network = MLPDenoiser((4,), hidden_size=16, num_layers=1)
    write_teacher_folder(tmp_path / "other", network, scheduler)
    refused(
        run("evaluate-student", folders[0], "--teacher", tmp_path / "other"),
        "`teacher` must have prediction_type = epsilon, as the student, got v_prediction; ",
    )


def test_progress_is_shown(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard error is no terminal it is lines; here one for everything that is told."""
    monkeypatch.setattr("opmerge.cli.progress._SECONDS_BETWEEN_LINES", 0)
    told = measure("--num_resamples", 2)[2].splitlines()
    lines = [line for line in told if "written: " not in line]  # the student's card
    assert [line.split(", ")[0] for line in lines] == [
        *("sampling: 50%", "sampling: 100%"),
        *("resampling: 25%", "resampling: 50%", "resampling: 75%", "resampling: 100%"),
    ]


def test_features_that_fail_are_one_line(measure: Measure) -> None:
    for name, message in (
        ("math:floor", "must map samples of shape (12, 4): "),
        ("torch:sum", "must give shape (12, F), got ()"),
        ("nowhere:x", "cannot be imported (ModuleNotFoundError: No module named 'nowhere'), got n"),
    ):
        refused(measure("--features", name), f"`features` {message}")


def test_too_few_samples_are_named_as_the_option_is(
    run: Measure, measure: Measure, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    refused(measure("--num_samples", 0), "`num_samples` must be >= 4, got 0")
    few = ("--output", tmp_path / "s.npy", "--num_samples", 0)
    refused(run("sample", folders[0], *few), "`num_samples` must be >= 1, got 0")


def test_the_predicted_error_stands_beside_the_measured(measure: Measure, tmp_path: Path) -> None:
    """It is the file's own, or W2 to the teacher; W2 to the data is no paired error."""
    schedule = cosine_schedule(4)
    spectrum = eigenvalue_spectrum([1.0])
    plan = Plan.from_nested([[4, 3], [2, 1]])
    number = {"w2": 3.0, "lower_bound": 0.0, "gap": 1.0}
    bare = PlanFile(
        plan, schedule, GradientFlow(), "denoiser-copy", "teacher", number, spectrum.identity()
    )
    files = {
        5.0: replace(bare, predicted={**number, "paired_rms": 5.0}),
        3.0: bare,
        None: replace(bare, objective="data"),
    }
    fast = ("--num_resamples", 0, "--plan", tmp_path / "plan.json")
    for expected, file in files.items():
        file.write(tmp_path / "plan.json")
        found = json.loads(measure(*fast, "--json")[1])
        assert (found["predicted_w2"], found["predicted_paired_rms"]) == (3.0, expected)
        out = measure(*fast)[1]
        for value in (5.0, 3.0):  # one network takes both steps, which no forecast is of
            line = f"predicted error (rms): {value:g} (a forecast that knows nothing of one network"
            assert (line in out) == (expected == value)
        assert f"predicted W2: 3 to the {file.objective}\n" in out
    forecast = {**number, "paired_rms": 5.0, "low": 4.0, "high": 6.5}
    planned = replace(bare, predicted=forecast, iterations=(1,) * len(plan.merges), budget=9.0)
    planned.write(tmp_path / "plan.json")
    out = measure(*fast)[1]
    assert "predicted error (rms): 5 [4, 6.5], 90 %" in out
    assert "predicted W2" not in out  # of merges that are trained alike
    wrong = replace(bare, plan=Plan.from_nested([4, 3, [2, 1]]))
    wrong.write(tmp_path / "plan.json")
    refused(measure(*fast), "`plan` must lead to the student's jumps [(4, 2), (2, 0)], got [(4, 3)")
