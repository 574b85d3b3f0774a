"""Images that are trained on and held out: never the same pixels, and never mistaken for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opmerge.data import Source, SourceOptions, open_source
from opmerge.denoisers.inputs import load_samples
from opmerge.errors import InputError
from opmerge.latents import encode_source, fit_pca, load_images, open_images

pytestmark = pytest.mark.usefixtures("one_thread")

PHOTO = (427, 640)


def write_greys(folder: Path, splits: str, darkest: int = 0) -> Path:
    """CelebA with a grey face, 20 brighter than the one before, for each digit of ``splits``."""
    names = folder / "img_align_celeba"
    names.mkdir(parents=True)
    lines = []
    for number, split in enumerate(splits, 1):
        image = Image.new("RGB", (178, 218), (min(darkest + 20 * number, 255),) * 3)
        image.save(names / f"{number:06d}.jpg", quality=100)
        lines.append(f"{number:06d}.jpg {split}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def greys(images: Any) -> list[int]:
    """Which of those faces they are."""
    return sorted(round(127.5 * (1 + float(image.median())) / 20) for image in images)


def test_patches_held_out_share_no_pixel_with_those_trained_on() -> None:
    options = SourceOptions(patch_size=32, stride=11)
    images = load_images(open_images("patches", options, 0.1, seed=0), Path("unused"))
    columns = range(0, PHOTO[1] - 32 + 1, 11)
    rows = range(0, PHOTO[0] - 32 + 1, 11)
    every = next(open_source("patches", options).batches()).astype(np.float32)
    places = [(photo, row, column) for photo in range(2) for row in rows for column in columns]
    place_of_patch = {
        patch.tobytes(): place for patch, place in zip(every, places[: len(every)], strict=True)
    }
    sets = [
        [place_of_patch.get(patch.numpy().tobytes()) for patch in part.flatten(1)]
        for part in (images.data[images.rows], images.held_out)
    ]
    train, held_out = ([place for place in part if place] for part in sets)
    assert len(train) > 1000
    assert len(held_out) > 100
    assert max(c for _, _, c in train) + 32 <= min(c for _, _, c in held_out)


def test_patches_too_large_to_hold_any_out_are_refused() -> None:
    options = SourceOptions(patch_size=400, stride=40)
    with pytest.raises(InputError) as found:
        open_images("patches", options, 0.1, seed=0)
    assert str(found.value) == (
        "`patch_size` must leave room for patches that are held out, got 400; take a smaller one, "
        "or hold out fewer"
    )
    assert len(open_images("patches", options, 0, seed=0).others) == 0


def test_celeba_is_trained_on_its_training_split_and_measured_on_its_validation_split(
    tmp_path: Path,
) -> None:
    root = write_greys(tmp_path / "data", "0000001122")
    opened = open_images(str(root), SourceOptions(image_size=16), 0.1, seed=0)
    images = load_images(opened, tmp_path)
    assert greys(images.data[images.rows]) == [1, 2, 3, 4, 5, 6]
    assert greys(images.held_out) == [7, 8]
    assert images.data.shape == (6, 3, 16, 16)
    assert images.train.num_samples == 6
    assert images.split == "official"


@pytest.mark.parametrize(
    ("splits", "split", "fraction", "expected"),
    [
        ("0000000011", "train", 0.0, "none"),
        ("0000000011", "all", 0.1, "random"),
        ("0000000002", None, 0.2, "last"),
    ],
)
def test_a_folder_of_faces_called_otherwise_or_without_validation_is_split_by_itself(
    tmp_path: Path, splits: str, split: str | None, fraction: float, expected: str
) -> None:
    root = write_greys(tmp_path / "data", splits)
    told: list[str] = []
    options = SourceOptions(image_size=16, split=split)
    opened = open_images(str(root), options, fraction, seed=0, warn=told.append)
    images = load_images(opened, tmp_path)
    assert images.split == expected
    assert len(images.held_out) == {"none": 0, "random": 1, "last": 2}[expected]
    whole = torch.cat([images.data[images.rows], images.held_out])
    assert greys(whole) == greys(images.data)
    if expected == "last":
        assert greys(images.held_out) == [8, 9]
    assert told == [
        f"the last faces of the training split are held out: `{root}` must hold images of the "
        "validation split, got none of the 0 that list_eval_partition.txt names; pass another "
        "split, or unpack all images"
    ] * (split is None)


def test_photos_may_be_bright_and_arrays_from_0_to_1_are_refused(tmp_path: Path) -> None:
    root = write_greys(tmp_path / "data", "000111", darkest=125)
    options = SourceOptions(image_size=8)
    images = load_images(open_images(str(root), options, 0.1, seed=0), tmp_path)
    assert images.data.min() > 0
    source = open_source(str(root), options)
    latents = encode_source(fit_pca(source, 1), source, tmp_path / "latents.npy")
    assert np.load(latents).shape == (3, 1)

    path = tmp_path / "images.npy"
    np.save(path, images.data.numpy())
    low, high = float(images.data.min()), float(images.data.max())
    for refused in (
        lambda: load_images(open_images(str(path), options, 0.1, seed=0), tmp_path),
        lambda: encode_source(fit_pca(source, 1), open_source(str(path)), latents),
    ):
        with pytest.raises(InputError) as found:
            refused()
        assert str(found.value) == (
            "`images` must have values from -1 (black) to 1 (white), "
            f"got {low:g} to {high:g}; rescale [0, 1] to [-1, 1] by 2 x - 1"
        )


def test_images_mapped_from_a_file_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).uniform(-1, 1, (50, 1, 8, 8)).astype(np.float32))
    read: list[Any] = []

    def mapped(source: Source, folder: Path) -> Any:
        read.append(load_samples(source, source.shape, folder, memory_limit=0))  # as if many
        return read[-1]

    opened = open_images(str(path), SourceOptions(), 0.1, seed=0)
    images = load_images(opened, tmp_path / "run", mapped)
    assert images.data.data_ptr() == read[0].data_ptr()
    assert images.train.num_samples == len(images.rows) == 45
    own = torch.from_numpy(np.concatenate(list(images.train.batches())))
    assert torch.equal(own.view(-1, 1, 8, 8), images.data[images.rows].double())
