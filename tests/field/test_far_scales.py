"""Data whose scale is far from 1: right, refused with the remedy, or told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opmerge.data import open_source
from opmerge.data.source import source_from_array
from opmerge.errors import InputError
from opmerge.spectra import estimate_spectrum, resolve_spectrum
from opmerge.spectra.estimate import sketched_moments

Seen = Callable[[str, object, object], None]


@pytest.mark.parametrize("power", [-140, -100, -10, 10, 100, 140])
def test_a_sketch_is_right_at_any_scale(power: int, seen: Seen) -> None:
    samples = np.random.default_rng(0).standard_normal((20, 8200))
    centred = samples - samples.mean(axis=0)
    expected = np.linalg.eigvalsh(centred @ centred.T / 20)[:0:-1]
    source = source_from_array("far", samples * 10.0**power, "as given")
    got = sketched_moments(source, 19, None, seed=0).eigenvalues / 10.0**power / 10.0**power
    seen(f"largest of 8,200 eigenvalues at scale 1e{power}", expected[0], got[0])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("power", [-100, 100])
def test_far_scales_are_planned_or_refused(power: int) -> None:
    samples = np.random.default_rng(0).standard_normal((20, 8200))
    source = source_from_array("far", samples * 10.0**power, "as given")
    if power < 0:
        assert 0 < estimate_spectrum(source).eigenvalues[0] < 1e-190
    else:
        with pytest.raises(InputError, match="rescale the data"):
            estimate_spectrum(source)


@pytest.mark.parametrize(
    ("scale", "shift", "is_told"),
    [(1, 0, False), (0.5, 0.5, False), (50, 128, True), (0, 40, True)],
)
def test_data_far_from_what_teachers_read_are_told(
    tmp_path: Path, seen: Seen, scale: float, shift: float, is_told: bool
) -> None:
    samples = np.random.default_rng(0).standard_normal((50, 4)) * max(scale, 0.1) + shift
    np.save(tmp_path / "a.npy", samples)
    notes = resolve_spectrum(str(tmp_path / "a.npy")).notes
    size = np.sqrt(np.mean(samples**2))
    told = [note for note in notes if f"root mean square of {size:.3g}" in note]
    seen(f"float data of {shift} ± {scale}: a note on their range", is_told, bool(told))
    assert bool(told) == is_told


def test_pixels_of_uint8_are_scaled_like_images(tmp_path: Path, seen: Seen) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    spectrum = resolve_spectrum(str(tmp_path / "a.npy"))
    expected = np.linalg.eigvalsh(np.cov((pixels / 127.5 - 1).T, ddof=0))[::-1]
    seen("uint8 of 0 to 255: largest eigenvalue", expected[0], spectrum.eigenvalues[0])
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=1e-12)
    assert spectrum.notes == ("values of uint8: pixel values from [0, 255] to [-1, 1]",)
    np.save(tmp_path / "b.npy", pixels // 128)
    spectrum = resolve_spectrum(str(tmp_path / "b.npy"))
    assert spectrum.notes == ("values of 0 and 1 are not scaled like pixels",)
    assert spectrum.trace == pytest.approx((pixels // 128).var(axis=0).sum(), rel=1e-12)


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(np.float64).max, reason="no wider type")
@pytest.mark.parametrize("value", ["1e4000", "nan"])
def test_wider_numbers_are_refused_without_a_warning(tmp_path: Path, value: str) -> None:
    values = np.ones((3, 2), dtype=np.longdouble)
    values[1, 1] = np.longdouble(value)
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=r"must hold finite values, got (inf|nan) at value 1"):
        list(open_source(str(tmp_path / "a.npy")).batches())
