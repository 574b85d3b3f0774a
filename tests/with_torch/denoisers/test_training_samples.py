"""Samples and labels in the shape that a network reads."""

from __future__ import annotations

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opmerge.data import Source, digits_labels, open_source
from opmerge.denoisers.inputs import (
    DataInputs,
    load_labels,
    load_samples,
    network_shape,
)
from opmerge.errors import InputError


def saved(folder: Path, values: Any, name: str = "samples.npy") -> Path:
    np.save(folder / name, values)
    return folder / name


def source_of(folder: Path, values: Any) -> Source:
    return open_source(str(saved(folder, values)))


def test_digits_are_scikit_learns_with_a_channel_axis() -> None:
    from sklearn.datasets import load_digits

    source = open_source("digits")
    assert network_shape(source) == (1, 8, 8)
    samples = load_samples(source, (1, 8, 8))
    assert samples.dtype == torch.float32
    # Sixteenths are exact in float32.
    expected = torch.from_numpy(load_digits().images[:, None] / 8 - 1)
    assert torch.equal(samples.double(), expected)
    assert np.array_equal(digits_labels(), load_digits().target)


@pytest.mark.parametrize("shape", [(6,), (3, 2, 2)])
def test_other_shapes_are_kept(tmp_path: Path, shape: tuple[int, ...]) -> None:
    assert network_shape(source_of(tmp_path, np.zeros((3, *shape)))) == shape


@pytest.mark.parametrize("shape", [(1, 4, 16), (64,), (3, 8, 8), (8, 4)])
def test_another_shape_is_refused_naming_both(shape: tuple[int, ...]) -> None:
    message = (
        f"`digits` must hold samples of the shape that the network reads, {shape}, "
        "got data of another shape, (8, 8)"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        load_samples(open_source("digits"), shape)


def test_another_shape_with_colours_last_comes_with_what_moves_them(tmp_path: Path) -> None:
    source = source_of(tmp_path, np.zeros((3, 4, 4, 3)))
    with pytest.raises(InputError, match=re.escape("np.transpose(a, (0, 3, 1, 2))")):
        load_samples(source, (3, 4, 4))


def test_what_exceeds_memory_is_mapped_from_a_file_of_the_same_values(tmp_path: Path) -> None:
    # 6000 rows of 2 values are more than one batch of a source (4096 rows).
    values = np.random.default_rng(0).normal(size=(6000, 1, 2))
    source, seen = source_of(tmp_path, values), list[int]()
    folder = tmp_path / "run"
    mapped = load_samples(source, (1, 2), folder, seen.append, memory_limit=0)
    assert seen == [4096, 6000]
    assert torch.equal(mapped, torch.from_numpy(values.astype(np.float32)))
    assert [path.name for path in folder.iterdir()] == ["data.npy"]
    np.testing.assert_array_equal(np.load(folder / "data.npy"), mapped.numpy())
    mapped += 1  # ours alone: the file stays as it is
    np.testing.assert_array_equal(np.load(folder / "data.npy"), values.astype(np.float32))
    assert torch.equal(load_samples(source, (1, 2)), torch.from_numpy(values.astype(np.float32)))


def test_the_limit_is_the_number_of_bytes(tmp_path: Path) -> None:
    source, folder = source_of(tmp_path, np.ones((5, 3))), tmp_path / "run"
    load_samples(source, (3,), folder, memory_limit=4 * 15)
    assert not folder.exists()
    load_samples(source, (3,), folder, memory_limit=4 * 15 - 1)
    assert folder.exists()


def test_a_file_of_the_same_samples_is_taken_and_any_other_written_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    written = []
    values = np.ones((5000, 3))  # more than one batch of a source
    for row, value in [(0, 1.0), (0, 2.0), (0, 2.0), (4999, 3.0)]:
        values[row] = value
        mapped = load_samples(source_of(tmp_path, values), (3,), folder, memory_limit=0)
        assert torch.equal(mapped.double(), torch.from_numpy(values))
        written.append((folder / "data.npy").stat().st_ino)
    first, second, third, fourth = written
    assert first != second == third != fourth
    (folder / "data.npy").write_bytes(b"damaged")
    again = load_samples(source_of(tmp_path, values), (3,), folder, memory_limit=0)
    assert torch.equal(again.double(), torch.from_numpy(values))


def test_a_process_that_comes_later_takes_the_file_by_its_shape(tmp_path: Path) -> None:
    """Reading the source again would take as long as the one that wrote it, which waits."""
    values, folder = np.ones((5000, 3)), tmp_path / "run"
    source = source_of(tmp_path, values)
    first = load_samples(source, (3,), folder, memory_limit=0)
    unread = replace(source, batches=lambda: pytest.fail("the source is read"))
    later = load_samples(unread, (3,), folder, memory_limit=0, compare=False)
    assert torch.equal(later, first)
    short = source_of(tmp_path, values[1:])
    again = load_samples(short, (3,), folder, memory_limit=0, compare=False)
    assert again.shape == (4999, 3)


def test_the_identity_of_data_is_that_of_every_sample_and_label(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    source, labels = source_of(tmp_path, values), torch.arange(3000)
    data = load_samples(source, (4,))
    mapped = load_samples(source, (4,), tmp_path / "run", memory_limit=0)
    first = DataInputs(data, labels).identity()
    assert DataInputs(mapped, labels).identity() == first
    found = {first}
    for row in (1, 1501, 2999):
        for changed in (data.clone(), labels.clone()):
            changed[row] += 1
            pair = (changed, labels) if changed.ndim == 2 else (data, changed)
            found.add(DataInputs(*pair).identity())
    assert len(found) == 1 + 3 * 2
    assert DataInputs(data.view(3000, 2, 2), labels).identity() not in found


def test_without_a_folder_or_with_one_that_cannot_be_it_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, np.ones((5, 3)))
    with pytest.raises(InputError, match=r"must have a folder to be kept in: .*pass fewer samples"):
        load_samples(source, (3,), memory_limit=0)
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"cannot be written .*choose another place"):
        load_samples(source, (3,), tmp_path / "taken", memory_limit=0)


def test_a_value_that_is_not_finite_leaves_no_file(tmp_path: Path) -> None:
    values = np.ones((5000, 3))
    values[4500, 1] = np.nan
    source = source_of(tmp_path, values)
    with pytest.raises(InputError, match="nan at value 1 of sample 4500"):
        load_samples(source, (3,), tmp_path / "run", memory_limit=0)
    assert not list((tmp_path / "run").iterdir())


def test_a_full_disk_is_told_and_leaves_no_file(tmp_path: Path) -> None:
    source = source_of(tmp_path, np.ones((5000, 3)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # of the 60,000 bytes needed
    try:
        with pytest.raises(InputError, match=r"cannot be written .* 60000 bytes to write and"):
            load_samples(source, (3,), tmp_path / "run", memory_limit=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("values", [[2, 0, 1], [2.0, 0.0, 1.0], [[2], [0], [1]]])
def test_labels_are_read(tmp_path: Path, values: Any) -> None:
    path = saved(tmp_path, np.array(values))
    labels = load_labels(path, 3)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1], "must hold one label for each of 3 samples, got (2,)"),
        ([[0, 1], [1, 0], [2, 2]], "must hold one label for each of 3 samples, got (3, 2)"),
        ([0.0, 1.5, 2.0], "must hold whole numbers, got dtype float64"),
        ([0, -1, 2], "must hold labels >= 0, got -1 for sample 1"),
    ],
)
def test_other_labels_are_refused(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_labels(saved(tmp_path, np.array(values)), 3)
