"""Spectra: estimates against numpy.cov and known data, refusals, files."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from skimage.data import lfw_subset

from opmerge.data import Source, SourceOptions
from opmerge.data.source import source_from_rows
from opmerge.errors import InputError
from opmerge.spectra import (
    Spectrum,
    eigenvalue_spectrum,
    estimate,
    estimate_spectrum,
    resolve_spectrum,
)

EPS = np.finfo(np.float64).eps


def source_of(samples: NDArray[np.float64], splits: tuple[int, ...] = ()) -> Source:
    """A source whose batches are ``samples`` cut at ``splits``."""

    def batches() -> Iterator[NDArray[np.float64]]:
        yield from (part for part in np.split(samples, splits) if len(part))

    return Source("given", samples.shape[1:], len(samples), "as given", (), batches)


def correlated(num_samples: int, num_features: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((num_features, num_features))
    return rng.standard_normal((num_samples, num_features)) @ mixing + rng.uniform(-9, 9, 1)


def reference_eigenvalues(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.eigvalsh(np.atleast_2d(np.cov(samples.T, ddof=0)))[::-1]


def resolve(argument: str | Path, **settings: Any) -> Spectrum:
    return resolve_spectrum(str(argument), options=SourceOptions(), **settings)


def refusal(argument: str | Path, **settings: Any) -> str:
    with pytest.raises(InputError) as error:
        resolve(argument, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# Estimates


def test_a_full_spectrum_agrees_with_numpy_cov() -> None:
    samples = correlated(500, 12)
    spectrum = estimate_spectrum(source_of(samples, (1, 100, 101)))
    assert (spectrum.kind, spectrum.num_samples, spectrum.notes) == ("full", 500, ())
    np.testing.assert_allclose(
        spectrum.eigenvalues, reference_eigenvalues(samples), rtol=0, atol=1e-13 * 12
    )
    assert spectrum.mean is not None
    assert spectrum.basis is not None
    np.testing.assert_allclose(spectrum.mean, samples.mean(axis=0), atol=1e-13)
    np.testing.assert_allclose(spectrum.basis @ spectrum.basis.T, np.eye(12), atol=1e-13)
    rebuilt = spectrum.basis.T @ np.diag(spectrum.eigenvalues) @ spectrum.basis
    np.testing.assert_allclose(rebuilt, np.cov(samples.T, ddof=0), atol=1e-12)


@settings(max_examples=60)
@given(st.data())
def test_the_cut_into_batches_does_not_matter(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(2, 20), st.integers(1, 6)))
    # Whole numbers, so that samples are equal or clearly different.
    samples = data.draw(arrays(np.float64, shape, elements=st.integers(-100, 100)))
    samples = samples + data.draw(st.sampled_from([0.0, 1e6]))
    assume((samples != samples[0]).any())
    splits = tuple(sorted(data.draw(st.lists(st.integers(1, shape[0] - 1), max_size=4))))
    expected = reference_eigenvalues(samples)
    spectrum = estimate_spectrum(source_of(samples, splits))
    # Values up to 200 relative to the first sample, variances up to 200**2 per feature, each
    # from sums of n terms; numpy.cov subtracts means near 1e6 that are rounded to 1e6 * EPS.
    tolerance = 8 * EPS * (shape[0] * shape[1] * 200**2 + 200 * 1e6)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=0, atol=tolerance)
    diagonal = estimate_spectrum(source_of(samples, splits), diagonal=True)
    np.testing.assert_allclose(
        diagonal.eigenvalues, np.sort(samples.var(axis=0))[::-1], rtol=0, atol=tolerance
    )


def test_a_large_mean_does_not_cost_the_variance() -> None:
    """Where E[x²] − E[x]² would keep no digit: 1e9² has a unit roundoff of 128."""
    steps = np.tile([[-1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], (1000, 1))
    spectrum = estimate_spectrum(source_of(steps + 1e9, (3, 1777)))
    # Variances 2/4 and 8/4, uncorrelated.
    np.testing.assert_allclose(spectrum.eigenvalues, [2.0, 0.5], rtol=1e-12)


def test_digits_have_the_known_spectrum() -> None:
    spectrum = resolve("digits")
    assert (spectrum.eigenvalues > 1).sum() == 5
    assert (spectrum.eigenvalues <= 1).sum() == 59
    assert (spectrum.eigenvalues == 0).sum() == 3
    assert round(spectrum.eigenvalues[0], 2) == 2.80
    assert spectrum.notes == ("3 of 64 eigenvalues are 0 to rounding",)
    assert (spectrum.source, spectrum.shape, spectrum.num_dimensions) == ("digits", (8, 8), 64)


def test_the_covariance_divides_by_the_number_of_samples(tmp_path: Path) -> None:
    """The largest eigenvalue of all 200 images of lfw_subset is 94.6; 1/(n-1) gives 95.1."""
    np.save(tmp_path / "lfw.npy", 2 * lfw_subset() - 1)
    spectrum = resolve(tmp_path / "lfw.npy")
    assert round(spectrum.eigenvalues[0], 1) == 94.6
    assert spectrum.notes[1] == (
        "200 samples of 625 features: at least 426 eigenvalues are 0 for want of samples"
    )
    # The images differ in general position, so no more than those are zero.
    assert (spectrum.eigenvalues == 0).sum() == 426
    two = estimate_spectrum(source_of(np.array([[0.0], [2.0]])))
    assert two.eigenvalues.tolist() == [1.0]


@pytest.mark.parametrize(("size", "above_one"), [(8, 1), (16, 3)])
def test_patches_have_few_eigenvalues_above_one(size: int, above_one: int) -> None:
    options = SourceOptions(patch_size=size)
    spectrum = resolve_spectrum("patches", options=options)
    assert spectrum.num_dimensions == size**2
    assert (spectrum.eigenvalues > 1).sum() == above_one


def test_a_diagonal_spectrum_holds_the_variances() -> None:
    samples = correlated(300, 5)
    spectrum = estimate_spectrum(source_of(samples), diagonal=True)
    np.testing.assert_allclose(spectrum.eigenvalues, np.sort(samples.var(axis=0))[::-1], rtol=1e-13)
    assert (spectrum.kind, spectrum.basis) == ("diagonal", None)
    assert spectrum.trace == pytest.approx(samples.var(axis=0).sum(), rel=1e-13)


def test_the_largest_of_a_dense_covariance() -> None:
    samples = correlated(300, 9)
    spectrum = estimate_spectrum(source_of(samples), top_k=4)
    expected = reference_eigenvalues(samples)
    np.testing.assert_allclose(spectrum.eigenvalues, expected[:4], rtol=1e-12)
    assert (spectrum.kind, spectrum.remaining_dimensions) == ("top-k", 5)
    assert spectrum.remaining_trace == pytest.approx(expected[4:].sum(), rel=1e-10)
    assert spectrum.num_dimensions == 9
    assert estimate_spectrum(source_of(samples), top_k=9).kind == "full"


def test_a_sketch_finds_a_fast_decaying_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    num_kept, width, size = 10, 21, 60
    monkeypatch.setattr(estimate, "_DEFAULT_RANK", num_kept)
    rng = np.random.default_rng(3)
    directions = np.linalg.qr(rng.standard_normal((size, size)))[0]
    samples = rng.standard_normal((500, size)) * 2.0 ** -np.arange(size) @ directions + 5.0
    source = source_of(samples, (1, 33, 200))
    assert estimate.sketch_width(source, num_kept) == width
    sketched = estimate.sketched_moments(source, num_kept, None, seed=0)
    exact = reference_eigenvalues(samples)
    # Expected error, arXiv 1706.05736, Theorem 4.1: (1 + r/(width - r - 1)) times the sum of the
    # eigenvalues after the r-th, for every r; ten times that is exceeded with probability < 0.1.
    bound = min((1 + r / (width - r - 1)) * exact[r:].sum() for r in range(width - 1))
    assert bound < 1e-3 * exact[num_kept - 1]
    error = exact[:num_kept] - sketched.eigenvalues
    assert error.max() < 10 * bound
    assert error.min() > -size * EPS * exact[0]
    assert sketched.trace == pytest.approx(samples.var(axis=0).sum(), rel=1e-13)
    np.testing.assert_allclose(sketched.mean, samples.mean(axis=0), rtol=1e-14)
    assert sketched.basis is not None
    np.testing.assert_allclose(sketched.basis @ sketched.basis.T, np.eye(num_kept), atol=1e-12)
    again = estimate.sketched_moments(source, num_kept, None, seed=0)
    np.testing.assert_array_equal(again.eigenvalues, sketched.eigenvalues)


def test_beyond_8192_features_the_spectrum_is_sketched() -> None:
    num_samples, size = 40, 8200
    samples = np.random.default_rng(0).standard_normal((num_samples, size)) + 3.0
    spectrum = estimate_spectrum(source_of(samples, (13,)), seed=1)
    centred = samples - samples.mean(axis=0)
    gram = np.linalg.eigvalsh(centred @ centred.T / num_samples)[::-1]
    # A sketch wider than the rank is exact.
    np.testing.assert_allclose(spectrum.eigenvalues, gram[:39], rtol=1e-9)
    assert (spectrum.kind, spectrum.remaining_dimensions) == ("top-k", 8161)
    assert spectrum.remaining_trace < 1e-9 * spectrum.trace
    assert spectrum.notes == (
        "largest 39 of 8200 eigenvalues, from below, by a Nyström sketch of 79 columns",
        "40 samples of 8200 features: at least 8161 eigenvalues are 0 for want of samples",
    )
    few = estimate_spectrum(source_of(samples, (13,)), top_k=5)
    assert few.remaining_trace == pytest.approx(few.trace - few.eigenvalues.sum(), rel=1e-12)
    assert few.trace == pytest.approx(samples.var(axis=0).sum(), rel=1e-12)
    exact = estimate_spectrum(source_of(samples), diagonal=True)
    assert exact.num_dimensions == size


def test_a_sketch_that_would_fill_the_memory_is_refused() -> None:
    def no_rows(start: int, stop: int) -> NDArray[np.float64]:
        raise AssertionError("refused before reading")

    source = source_from_rows("a", (3, 1024, 1024), 10**6, no_rows, scaling="as given")
    # 2**29 values over 3 * 2**20 features are 170 columns: (170 - 1) // 2
    with pytest.raises(InputError, match="`top_k` must be <= 84 for 3145728 features"):
        estimate_spectrum(source, top_k=85)
    assert estimate.sketch_rank(source, None) == 84


def test_progress_counts_samples() -> None:
    seen: list[int] = []
    estimate_spectrum(source_of(correlated(10, 2), (4, 7)), progress=seen.append)
    assert seen == [4, 7, 10]


@pytest.mark.parametrize("value", [0.0, 0.1, -1e300, 1e308])
@pytest.mark.parametrize("diagonal", [False, True])
def test_constant_data_are_refused(value: float, diagonal: bool) -> None:
    source = source_of(np.full((5000, 3), value), (4096,))
    with pytest.raises(InputError, match="`given` must hold samples that differ, got 5000 equal"):
        estimate_spectrum(source, diagonal=diagonal)


@pytest.mark.parametrize(
    ("scale", "text"),
    [
        (1e200, "`given` must have variances within float64, got inf; rescale the samples"),
        (1e7, "`eigenvalues` must be between 0 and 1e+12, got "),
        (1e-170, "`given` must hold samples that differ"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"diagonal": True}, {"top_k": 1}])
def test_extreme_scales_are_refused(scale: float, text: str, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as error:
        estimate_spectrum(source_of(scale * correlated(20, 3)), **settings)
    assert text in str(error.value)
    assert "rescale" in str(error.value) or "differ" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"top_k": 0}, "`top_k` must be >= 1, got 0"),
        ({"top_k": 4}, "`top_k` must be <= 3, the number of features, got 4"),
        ({"top_k": 2, "diagonal": True}, "`top_k` must be left out with diagonal, got 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError) as error:
        estimate_spectrum(source_of(correlated(20, 3)), **settings)
    assert str(error.value) == text


# Given eigenvalues


def test_given_eigenvalues_are_sorted_with_their_multiplicities() -> None:
    spectrum = eigenvalue_spectrum([0.5, 2, 0], [3, 1, 2])
    assert spectrum.eigenvalues.tolist() == [2, 0.5, 0]
    assert spectrum.multiplicities.tolist() == [1, 3, 2]
    assert (spectrum.num_dimensions, spectrum.trace) == (6, 3.5)
    assert (spectrum.kind, spectrum.mean, spectrum.basis) == ("eigenvalues", None, None)
    packed = struct.pack("<6d", 2, 0.5, 0.5, 0.5, 0, 0)  # each as often as it occurs
    assert spectrum.sha256 == hashlib.sha256(packed).hexdigest()


def test_arrays_are_read_only_copies() -> None:
    given_values = np.array([1.0, 2.0])
    spectrum = eigenvalue_spectrum(given_values)
    given_values[0] = 9
    assert spectrum.eigenvalues.tolist() == [2, 1]
    for array in (spectrum.eigenvalues, spectrum.multiplicities):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.2,x,1", "`eigenvalues` must be numbers, got 'x' at position 2"),
        ("", "`eigenvalues` must be numbers, got '' at position 1"),
        ("1,,2", "`eigenvalues` must be numbers, got '' at position 2"),
        ("1,nan", "`eigenvalues` must be between 0 and 1e+12, got nan at position 2"),
        ("1,-1e-9", "`eigenvalues` must be between 0 and 1e+12, got -1e-09 at position 2"),
        ("inf", "`eigenvalues` must be between 0 and 1e+12, got inf at position 1; rescale"),
        ("1,2e12", "got 2000000000000.0 at position 2; rescale the data"),
        ("0,0", "`eigenvalues` must include one above 0, got zeros only"),
    ],
)
def test_wrong_eigenvalues_are_refused_with_their_position(text: str, message: str) -> None:
    assert message in refusal(f"eigenvalues:{text}")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 0], "`multiplicities` must be whole numbers >= 1, got 0.0 at position 2"),
        ([1.5, 1], "`multiplicities` must be whole numbers >= 1, got 1.5 at position 1"),
        ([1, np.inf], "`multiplicities` must be whole numbers >= 1, got inf at position 2"),
        ([1], "`multiplicities` must be 2 numbers, one per eigenvalue, got (1,)"),
    ],
)
def test_wrong_multiplicities_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(InputError) as error:
        eigenvalue_spectrum([1, 2], weights)
    assert str(error.value) == message


@pytest.mark.parametrize("values", [[], 3.0, [[1.0]], [1j]])
def test_what_is_no_list_of_numbers_is_refused(values: Any) -> None:
    with pytest.raises(InputError, match="`eigenvalues` must be"):
        eigenvalue_spectrum(values)


# Resolving


def test_eigenvalues_come_from_the_argument_or_a_file(tmp_path: Path) -> None:
    expected = [2.0, 0.5, 0.2]
    np.save(tmp_path / "a.npy", [0.2, 0.5, 2])
    np.savez(tmp_path / "b.npz", eigenvalues=[0.2, 0.5, 2], other=1)
    (tmp_path / "c.csv").write_text("eigenvalue\n0.2\n0.5\n2\n")
    (tmp_path / "d.csv").write_text("0.2,0.5,2\n")
    assert resolve("eigenvalues:0.2, 0.5,2").eigenvalues.tolist() == expected
    for path in sorted(tmp_path.iterdir()):
        spectrum = resolve(path, as_eigenvalues=True)
        assert spectrum.eigenvalues.tolist() == expected
        assert (spectrum.source, spectrum.kind) == (path.name, "eigenvalues")


def test_a_saved_spectrum_is_an_argument(tmp_path: Path) -> None:
    saved = estimate_spectrum(source_of(correlated(30, 3)))
    path = saved.save(tmp_path / "s.npz")
    assert resolve(path).sha256 == saved.sha256
    assert resolve(path, as_eigenvalues=True).kind == "full"
    assert refusal(path, top_k=2) == ("`top_k` must be left out where eigenvalues are given, got 2")
    assert refusal("eigenvalues:1", diagonal=True) == (
        "`diagonal` must be left out where eigenvalues are given, got True"
    )


def test_samples_are_not_eigenvalues_and_the_reverse(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 2)))
    assert refusal(path, as_eigenvalues=True) == (
        f"`{path}` must hold one list of eigenvalues, got shape (4, 2)"
    )
    np.save(path, np.ones(4))
    assert refusal(path).endswith("pass `as_eigenvalues=True` if these are eigenvalues")
    assert refusal("digits", as_eigenvalues=True) == (
        "`data` must be a file to be read as eigenvalues, got digits"
    )
    assert "must end in .npy" in refusal(tmp_path, as_eigenvalues=True)
    assert "`data` must be digits" in refusal("nowhere", as_eigenvalues=True)


def test_a_folder_of_images_has_a_spectrum_with_its_notes(tmp_path: Path) -> None:
    for index, level in enumerate((0, 85, 170, 255)):
        Image.new("L", (4, 4), level).save(tmp_path / f"{index}.png")
    (tmp_path / "bad.png").touch()
    options = SourceOptions(image_size=4, grey=True)
    spectrum = resolve_spectrum(str(tmp_path), options=options)
    # Flat images at -1, -1/3, 1/3, 1: variance 5/9 in each of 16 equal pixels.
    np.testing.assert_allclose(spectrum.eigenvalues, [16 * 5 / 9, *[0] * 15], rtol=1e-13)
    assert spectrum.notes[0] == "1 unreadable file: bad.png (no image)"


# Files


def spectra_of_every_kind() -> list[Spectrum]:
    source = source_of(correlated(30, 4))
    return [
        estimate_spectrum(source),
        estimate_spectrum(source, diagonal=True),
        estimate_spectrum(source, top_k=2),
        eigenvalue_spectrum([1, 0.1, 0], [1, 2, 5], source="naïve"),
    ]


@pytest.mark.parametrize("spectrum", spectra_of_every_kind(), ids=lambda s: s.kind)
def test_files_give_every_field_back(tmp_path: Path, spectrum: Spectrum) -> None:
    loaded = Spectrum.load(spectrum.save(tmp_path / "new" / "s.npz"))
    for name in Spectrum.__dataclass_fields__:
        before, after = getattr(spectrum, name), getattr(loaded, name)
        if isinstance(before, np.ndarray):
            assert (before.shape, before.tobytes()) == (after.shape, after.tobytes())
        else:
            assert (before, type(before)) == (after, type(after))


def test_the_name_of_a_spectrum_file_ends_in_npz(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`path` must end in \.npz"):
        eigenvalue_spectrum([1]).save(tmp_path / "spectrum.json")


def entries_of(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize("name", ["eigenvalues", "multiplicities", "mean", "basis", "header"])
def test_a_file_changed_since_it_was_written_is_refused(tmp_path: Path, name: str) -> None:
    path = estimate_spectrum(source_of(correlated(30, 3))).save(tmp_path / "s.npz")
    entries = entries_of(path)
    if name == "header":
        entries[name] = np.array(str(entries[name]).replace('"given"', '"taken"'))
    else:
        entries[name] = entries[name] * (1 + EPS)
    np.savez(path, **entries)
    with pytest.raises(InputError) as error:
        Spectrum.load(path)
    assert str(error.value) == (
        f"`{path}` must be a spectrum saved by opmerge, "
        "got the content does not match its checksum; estimate the spectrum again"
    )
    # Left as it is, the same rewriting is accepted.
    np.savez(path, **entries_of(estimate_spectrum(source_of(correlated(30, 3))).save(path)))
    Spectrum.load(path)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = eigenvalue_spectrum([1, 2]).save(tmp_path / "s.npz")
    content, entries = path.read_bytes(), entries_of(path)
    damaged: list[Path] = [tmp_path / "missing.npz"]
    for cut in (0, 50, len(content) // 2, len(content) - 1):
        damaged.append(tmp_path / f"cut{cut}.npz")
        damaged[-1].write_bytes(content[:cut])
    for missing in entries:
        damaged.append(tmp_path / f"without_{missing}.npz")
        np.savez(damaged[-1], **{name: entries[name] for name in entries if name != missing})
    damaged.append(tmp_path / "version.npz")
    later = np.array(str(entries["header"]).replace('"version": 1', '"version": 2'))
    np.savez(damaged[-1], **{**entries, "header": later})
    damaged.append(tmp_path / "pickle.npz")
    objects = {**entries, "eigenvalues": np.array([1, None])}
    np.savez(damaged[-1], allow_pickle=True, **objects)
    for file in damaged:
        with pytest.raises(InputError, match="must be a spectrum saved by opmerge, got "):
            Spectrum.load(file)


def test_a_spectrum_checks_its_parts() -> None:
    eye = np.eye(2)

    def build(**changed: Any) -> Spectrum:
        fields: dict[str, Any] = {
            "eigenvalues": [2, 1],
            "multiplicities": [1, 1],
            "mean": [0, 0],
            "basis": eye,
            "num_samples": 9,
            "source": "s",
            "scaling": "as given",
            "kind": "full",
        }
        return Spectrum(**{**fields, **changed})

    build()
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"eigenvalues": [1, 2]}, "`eigenvalues` must be descending; use eigenvalue_spectrum"),
        ({"basis": 2 * eye}, "`basis` must have orthonormal rows, got an error of "),
        ({"basis": eye[:1]}, "`basis` must have the shape (2, 2) that fits the rest"),
        ({"basis": [[1, 0], [np.nan, 1]]}, "`basis` must have orthonormal rows"),
        ({"mean": [0, np.nan]}, "`mean` must be a list of finite numbers"),
        ({"kind": "half"}, "`kind` must be one of ('full', 'diagonal', 'top-k', 'eigenvalues')"),
        ({"remaining_trace": -1.0}, "`remaining_trace` must be >= 0, got -1"),
        ({"remaining_dimensions": -1}, "`remaining_dimensions` must be >= 0, got -1"),
        ({"num_samples": 0}, "`num_samples` must be >= 1, got 0"),
        ({"shape": (0,)}, "`shape` must be >= 1, got 0"),
    ]
    for changed, text in wrong:
        with pytest.raises(InputError) as error:
            build(**changed)
        assert text in str(error.value)
