"""Sources of data: what they hold, and what they refuse."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from skimage.data import lfw_subset
from sklearn.datasets import load_sample_image

from opmerge.data import Source, SourceOptions, open_source
from opmerge.data.source import source_from_rows
from opmerge.errors import InputError

SAMPLES = np.random.default_rng(0).standard_normal((7, 2, 3))


def read(source: Source) -> NDArray[np.float64]:
    """All samples of a source, after checking what every batch promises."""
    batches = list(source.batches())
    for batch in batches:
        assert batch.dtype == np.float64
        assert batch.shape[1:] == (source.num_features,)
    samples = np.concatenate(batches)
    assert len(samples) == source.num_samples
    return samples


def refusal(argument: str | Path, options: SourceOptions | None = None) -> str:
    """The text with which a source is refused, when opened or when read."""
    with pytest.raises(InputError) as error:
        read(open_source(str(argument), options or SourceOptions()))
    text = str(error.value)
    assert "\n" not in text
    return text


# Built-in sources


def test_digits_are_scaled_to_minus_one_to_one() -> None:
    source = open_source("digits")
    samples = read(source)
    assert (source.name, source.shape, source.num_samples) == ("digits", (8, 8), 1797)
    assert (samples.min(), samples.max()) == (-1.0, 1.0)
    assert source.scaling == "pixel values from [0, 16] to [-1, 1]"
    # The corner pixel is blank in every digit.
    assert (samples[:, 0] == -1.0).all()


def test_faces_are_the_first_hundred_of_lfw_subset() -> None:
    source = open_source("faces")
    assert (source.shape, source.num_samples) == ((25, 25), 100)
    np.testing.assert_allclose(
        read(source).reshape(100, 25, 25), 2 * lfw_subset()[:100] - 1, rtol=0, atol=1e-15
    )


def test_faces_without_scikit_image_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert refusal("faces") == (
        "`faces` needs the package scikit-image, which is not installed; "
        "pip install 'opmerge[images]'"
    )


@pytest.mark.parametrize(("size", "stride"), [(8, 4), (16, 7), (427, 100)])
def test_patches_are_windows_of_the_photos_in_order(size: int, stride: int) -> None:
    source = open_source("patches", SourceOptions(patch_size=size, stride=stride))
    expected = []
    for name in ("china.jpg", "flower.jpg"):
        red, green, blue = np.moveaxis(load_sample_image(name).astype(float), -1, 0)
        # ITU-R 601 luma in Pillow's fixed-point arithmetic, rounded to 8 bits.
        grey = (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536
        height, width = grey.shape
        expected += [
            grey[row : row + size, column : column + size].ravel()
            for row in range(0, height - size + 1, stride)
            for column in range(0, width - size + 1, stride)
        ]
    np.testing.assert_allclose(read(source), np.array(expected) / 127.5 - 1, rtol=0, atol=1e-15)


def test_a_patch_larger_than_the_photos_is_refused() -> None:
    text = refusal("patches", SourceOptions(patch_size=428))
    assert text == "`patch_size` must be <= 427, the height of the photos, got 428"


@pytest.mark.parametrize("name", ["patch_size", "stride", "image_size"])
def test_options_are_whole_numbers_from_one(name: str) -> None:
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(InputError, match=f"`{name}` must be >= 1, got 0"):
        SourceOptions(**wrong)
    wrong = {name: 1.5}
    with pytest.raises(InputError, match=f"`{name}` must be a whole number, got 1.5"):
        SourceOptions(**wrong)


# Array files


def write(path: Path, values: NDArray[np.float64]) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez_compressed(path, values)
    elif path.suffix == ".csv":
        np.savetxt(path, values.reshape(len(values), -1), delimiter=",", fmt="%.17g")
    elif path.suffix == ".pt":
        torch.save(torch.tensor(values), path)
    else:
        save_file({"data": values}, path)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".pt", ".safetensors", ".NPY"])
def test_array_files_give_the_samples_back(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"samples{suffix.lower()}", SAMPLES)
    source = open_source(str(path.rename(tmp_path / f"renamed{suffix}")))
    np.testing.assert_array_equal(read(source), SAMPLES.reshape(7, 6))
    np.testing.assert_array_equal(read(source), SAMPLES.reshape(7, 6))  # a second pass
    assert source.shape == ((6,) if suffix == ".csv" else (2, 3))
    assert (source.name, source.scaling, source.notes) == (f"renamed{suffix}", "as given", ())


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float32, ">f8", bool])
def test_real_dtypes_become_float64(tmp_path: Path, dtype: str) -> None:
    values = (10 * SAMPLES).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    expected = values.reshape(7, 6).astype(np.float64)
    np.testing.assert_array_equal(read(open_source(str(tmp_path / "a.npy"))), expected)


def test_bfloat16_tensors_are_widened(tmp_path: Path) -> None:
    tensor = torch.tensor(SAMPLES).bfloat16()
    torch.save({"anything": tensor}, tmp_path / "a.pt")
    expected = tensor.double().numpy().reshape(7, 6)
    np.testing.assert_array_equal(read(open_source(str(tmp_path / "a.pt"))), expected)


def test_an_array_named_samples_is_chosen_among_several(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, labels=np.arange(7), samples=SAMPLES)
    assert read(open_source(str(path))).shape == (7, 6)
    np.savez(path, a=SAMPLES, b=SAMPLES)
    assert refusal(path) == (
        f"`{path}` must hold one array, or one named samples, got a, b; "
        "save it alone, or as samples"
    )


def test_a_csv_may_begin_with_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeffheight,weight\n1,2\n3,4\n", encoding="utf-8")
    source = open_source(str(path))
    np.testing.assert_array_equal(read(source), [[1, 2], [3, 4]])
    assert source.notes == ("first line taken as column names: height, weight",)
    path.write_text("\ufeff1,2\n3,4\n", encoding="utf-8")
    assert read(open_source(str(path))).shape == (2, 2)


def test_npy_files_are_read_in_batches(tmp_path: Path) -> None:
    num_samples, num_features = 200_000, 32
    path = tmp_path / "a.npy"
    np.save(path, np.ones((num_samples, num_features), dtype=np.float32))
    tracemalloc.start()
    try:
        seen = sum(len(batch) for batch in open_source(str(path)).batches())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == num_samples
    # A batch has 4096 rows, 1 MiB in float64; whole, the samples take 49 MiB.
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.arange(5.0), "must hold samples along the first of at least 2 axes, got shape (5,)"),
        (np.ones((1, 4)), "must hold at least 2 samples along its first axis, got 1"),
        (np.ones((0, 4)), "must hold at least 2 samples along its first axis, got 0"),
        (np.ones((4, 0)), "must hold samples of at least one value, got (0,)"),
        (np.ones((4, 2)) * 1j, "must hold real numbers, got dtype complex128"),
        (np.full((4, 2), "a"), "must hold real numbers, got dtype <U1"),
        (np.zeros(4, dtype="f8,f8"), "must hold real numbers, got dtype "),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_not_samples_are_refused(
    tmp_path: Path, values: NDArray[np.float64], text: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, values)
    assert text in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(
    tmp_path: Path, value: float
) -> None:
    samples = np.zeros((5000, 3))  # the value is in the second batch of 4096
    samples[4500, 2] = value
    text = refusal(write(tmp_path / "a.npy", samples))
    assert text == (
        f"`a.npy` must hold finite values, got {value} at value 2 of sample 4500 (counted from 0)"
    )


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors", ".csv"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a{suffix}", SAMPLES)
    content = path.read_bytes()
    # A table cut at the end of a line would be a good one.
    for length in (0, 3, len(content) // 2, len(content) - 30):
        path.write_bytes(content[:length])
        assert f"a{suffix}` must " in refusal(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors", ".csv"])
def test_nothing_in_a_file_is_run(tmp_path: Path, suffix: str) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"a{suffix}"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    path.write_bytes(pickle.dumps(Payload(), protocol=2))
    told = "text in UTF-8" if suffix == ".csv" else f"a readable {suffix} file of numbers"
    assert f"`{path}` must be {told}" in refusal(path)
    if suffix in (".npy", ".npz"):
        objects = np.array([[Payload()], [Payload()]], dtype=object)
        (np.save if suffix == ".npy" else np.savez)(path, objects, allow_pickle=True)
        assert "object" in refusal(path).lower()
    if suffix == ".pt":
        torch.save(Payload(), path)
        assert f"`{path}` must be a readable .pt file of numbers" in refusal(path)
    assert not marker.exists()


def test_a_ragged_csv_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2\n3,4\n5\n")
    assert "as many fields in each row, got 1 after 2, in line 3" in refusal(path)
    path.write_text("1,2\n3,word\n")
    assert "got 'word' in line 2, column 2" in refusal(path)


@pytest.mark.parametrize(("suffix", "package"), [(".pt", "torch"), (".safetensors", "safetensors")])
def test_missing_packages_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
) -> None:
    path = write(tmp_path / f"a{suffix}", SAMPLES)
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(path) == (
        f"`{path}` needs the package {package}, which is not installed; "
        "pip install 'opmerge[torch]'"
    )


# Folders of images


def save_image(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def noisy_jpeg(path: Path) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def test_a_folder_gives_its_images_channels_first_in_the_order_of_paths(tmp_path: Path) -> None:
    save_image(tmp_path / "b.png", (255, 0, 51))
    save_image(tmp_path / "a" / "deep" / "z.bmp", (0, 255, 102))
    source = open_source(str(tmp_path), SourceOptions(image_size=4))
    assert (source.name, source.shape) == (tmp_path.name, (3, 4, 4))
    colours = read(source).reshape(2, 3, 16)
    # 51/127.5 - 1 = -0.6 and 102/127.5 - 1 = -0.2
    expected = np.array([[-1, 1, -0.2], [1, -1, -0.6]])[:, :, None]
    np.testing.assert_allclose(colours, np.broadcast_to(expected, (2, 3, 16)), atol=1e-15)
    assert source.scaling == "RGB pixel values from [0, 255] to [-1, 1], resized to 4 x 4"
    assert source.notes == ()


def test_grey_is_luma(tmp_path: Path) -> None:
    save_image(tmp_path / "red.png", (255, 0, 0))
    save_image(tmp_path / "white.png", (255, 255, 255))
    source = open_source(str(tmp_path), SourceOptions(image_size=2, grey=True))
    assert source.shape == (2, 2)
    # 0.299 * 255 = 76.2, in 8 bits 76
    expected = np.array([[76 / 127.5 - 1] * 4, [1] * 4])
    np.testing.assert_allclose(read(source), expected, atol=1e-15)


def test_the_short_side_is_fitted_and_the_centre_kept(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
    wide, tall = Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))
    tall.save(tmp_path / "a.png")
    wide.save(tmp_path / "b.png")
    bilinear = Image.Resampling.BILINEAR
    expected = [
        tall.resize((10, 30), bilinear).crop((0, 10, 10, 20)),
        wide.resize((30, 10), bilinear).crop((10, 0, 20, 10)),
    ]
    samples = read(open_source(str(tmp_path), SourceOptions(image_size=10)))
    for sample, image in zip(samples.reshape(2, 3, 10, 10), expected, strict=True):
        np.testing.assert_allclose(
            sample, np.asarray(image).transpose(2, 0, 1) / 127.5 - 1, rtol=0, atol=1e-15
        )


def test_16_bit_images_are_scaled_not_cut_off(tmp_path: Path) -> None:
    for name, value in (("a", 0x3300), ("b", 0xFF00)):
        Image.fromarray(np.full((4, 4), value, dtype=np.uint16)).save(tmp_path / f"{name}.png")
    samples = read(open_source(str(tmp_path), SourceOptions(image_size=4, grey=True)))
    np.testing.assert_allclose(samples[:, 0], [0x33 / 127.5 - 1, 1], atol=1e-15)


def test_unreadable_and_other_files_are_counted_and_named(tmp_path: Path) -> None:
    save_image(tmp_path / "good1.png", (1, 2, 3))
    save_image(tmp_path / "sub" / "good2.webp", (4, 5, 6))
    content = noisy_jpeg(tmp_path / "sub" / "cut.jpg")
    (tmp_path / "sub" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpeg").write_text("not an image")
    (tmp_path / "zeros.gif").write_bytes(bytes(100))
    (tmp_path / "labels.csv").write_text("1,2")
    (tmp_path / ".hidden.png").touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "thumb.png").touch()
    source = open_source(str(tmp_path), SourceOptions(image_size=16))
    assert source.num_samples == len(read(source)) == 2
    unreadable, ignored = source.notes
    assert unreadable.startswith(
        "4 unreadable files: empty.png (no image), sub/cut.jpg (image file is"
    )
    assert unreadable.endswith(", text.jpeg (no image) and 1 more")
    assert ignored == "1 ignored (no image) file: labels.csv"


def test_a_header_alone_does_not_make_an_image(tmp_path: Path) -> None:
    """Every proper prefix of a JPEG is found out, though Pillow opens most of them."""
    content = noisy_jpeg(tmp_path / "whole.jpg")
    noisy_jpeg(tmp_path / "whole2.jpg")
    cuts = range(0, len(content) - 2, 97)
    for cut in cuts:
        (tmp_path / f"cut{cut}.jpg").write_bytes(content[:cut])
    source = open_source(str(tmp_path), SourceOptions(image_size=8))
    assert source.num_samples == 2
    assert source.notes[0].startswith(f"{len(cuts)} unreadable files: cut0.jpg (no image), ")


def test_images_that_are_enlarged_are_noted(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", (1, 2, 3), (64, 63))
    save_image(tmp_path / "b.png", (1, 2, 3), (64, 64))
    assert open_source(str(tmp_path), SourceOptions(image_size=64)).notes == (
        "1 of 2 images are smaller than 64 and were enlarged",
    )


def test_the_size_is_a_teachers_or_that_of_the_smallest_image(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", (1, 2, 3), (64, 30))
    save_image(tmp_path / "b.png", (1, 2, 3), (99, 64))
    source = open_source(str(tmp_path))
    assert (source.shape, source.notes) == ((3, 30, 30), ())
    (tmp_path / "a.png").unlink()
    save_image(tmp_path / "c.png", (1, 2, 3), (70, 80))
    assert open_source(str(tmp_path)).shape == (3, 64, 64)
    options = SourceOptions()
    assert open_source(str(tmp_path), options.fitted((3, 32, 32))).shape == (3, 32, 32)
    assert open_source(str(tmp_path), options.fitted((1, 32, 32))).shape == (32, 32)
    assert options.fitted((4, 32, 32)) == options.fitted((5,)) == options  # no images
    given = SourceOptions(image_size=16)
    assert open_source(str(tmp_path), given.fitted((1, 32, 32))).shape == (16, 16)


def test_links_are_followed_but_not_round_in_circles(tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere" / "a.png", (1, 2, 3))
    folder = tmp_path / "folder"
    save_image(folder / "b.png", (4, 5, 6))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert open_source(str(folder)).num_samples == 2


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.png").touch()
    assert refusal(tmp_path) == (
        f"`{tmp_path}` must hold images that can be read, got 1 unreadable and 1 other files: "
        "b.png (no image)"
    )
    save_image(tmp_path / "c.png", (1, 2, 3))
    assert "must hold at least 2 samples along its first axis, got 1" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["celeba.zip", "archive.ZIP", "data/train-00000.parquet"])
def test_folders_of_packed_images_are_refused_with_what_to_unpack(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert refusal(tmp_path) == (
        f"`{tmp_path}` must hold images that can be read, got 0 unreadable and 1 other files; "
        f"unpack the images in {name} first"
    )


def test_a_file_that_goes_away_while_reading_is_named(tmp_path: Path) -> None:
    paths = [save_image(tmp_path / f"{index}.png", (index, 0, 0)) for index in range(3)]
    source = open_source(str(tmp_path))
    paths[1].unlink()
    with pytest.raises(InputError, match=re.escape(f"`{paths[1]}` cannot be read (No such file")):
        read(source)


def test_progress_counts_the_files_checked(tmp_path: Path) -> None:
    for index in range(3):
        save_image(tmp_path / f"{index}.png", (index, 0, 0))
    seen: list[int] = []
    open_source(str(tmp_path), SourceOptions(), seen.append)
    assert seen == [3]


# Names


@pytest.mark.parametrize("argument", ["digit", "digts", "Digits"])
def test_unknown_names_list_the_choices_and_the_closest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal(argument)
    assert text == (
        "`data` must be digits, patches, faces, eigenvalues:0.5,2, "
        "a .npy/.npz/.csv/.tsv/.pt/.safetensors file, a folder of images or arrays, or a prepared "
        f"data set, got {argument}; did you mean digits?"
    )


def test_a_misspelt_file_is_suggested(tmp_path: Path) -> None:
    write(tmp_path / "samples.npy", SAMPLES)
    text = refusal(tmp_path / "sample.npy")
    assert text.endswith(f"did you mean {tmp_path / 'samples.npy'}?")


@pytest.mark.parametrize("argument", ["", "no/such/place", "a\0b", "x" * 5000])
def test_hopeless_names_are_refused_without_a_suggestion(argument: str) -> None:
    assert "`data` must be digits, patches, faces" in refusal(argument)


def test_other_suffixes_and_eigenvalues_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    assert refusal(path) == (
        f"`{path}` must end in .npy, .npz, .csv, .tsv, .pt, .safetensors, got a.txt; "
        "save its numbers as .npy"
    )
    assert refusal("eigenvalues:1,2") == (
        "`data` must be samples here, not eigenvalues, got eigenvalues:1,2"
    )


# Batches


@pytest.mark.parametrize("num_features", [1, 3, 600, 40_000])
def test_rows_are_asked_for_once_and_in_order(num_features: int) -> None:
    num_samples = 9001 if num_features < 600 else 200
    calls: list[tuple[int, int]] = []

    def rows(start: int, stop: int) -> NDArray[np.float64]:
        calls.append((start, stop))
        return np.zeros((stop - start, num_features))

    source = source_from_rows("a", (num_features,), num_samples, rows, scaling="as given")
    assert len(read(source)) == num_samples
    assert [start for start, _ in calls] == [0, *(stop for _, stop in calls[:-1])]
    assert calls[-1][1] == num_samples
    assert max(stop - start for start, stop in calls) <= 4096


def test_heavy_packages_are_not_imported_early() -> None:
    program = (
        "import sys, opmerge.spectra; "
        "print([name for name in ('torch', 'scipy', 'sklearn', 'skimage', 'PIL') "
        "if name in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"
