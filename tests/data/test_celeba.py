"""CelebA as a source: every layout that people have, its partition, and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from opmerge.data import Source, SourceOptions, open_source
from opmerge.errors import InputError

# Numbers of the faces and their split; the grey of face k is 40 k.
SPLIT_OF = {1: 0, 2: 0, 3: 0, 4: 1, 5: 2, 6: 2}
TRAIN = [1, 2, 3]
ALIGNED = (178, 218)
Run = Callable[..., tuple[int, str, str]]


def jpeg(grey: int, size: tuple[int, int] = ALIGNED) -> bytes:
    """One grey; at quality 100 the constant term is not quantized, so it decodes to itself."""
    content = BytesIO()
    Image.new("RGB", size, (grey,) * 3).save(content, "JPEG", quality=100)
    return content.getvalue()


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_faces(folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        write(folder / f"{number:06d}.jpg", jpeg(40 * number))


def lines(separator: str = " ", end: str = "\n") -> str:
    return "".join(f"{number:06d}.jpg{separator}{code}{end}" for number, code in SPLIT_OF.items())


def celeba(root: Path, folder: str = "img_align_celeba", partition: str = "") -> Path:
    """Six faces and, unless ``partition`` is "none", their partition file."""
    write_faces(root / folder, list(SPLIT_OF))
    name = partition or "list_eval_partition.txt"
    if name != "none":
        is_csv = name.endswith(".csv")
        write(root / name, "image_id,partition\n" + lines(",") if is_csv else lines())
    return root


def read_faces(source: Source) -> list[float]:
    """The number of each face, from its grey, of which all its pixels must be."""
    samples = (np.concatenate(list(source.batches())) + 1) * 127.5
    assert len(samples) == source.num_samples
    np.testing.assert_allclose(samples, np.broadcast_to(samples[:, :1], samples.shape), atol=1e-12)
    return list(np.round(samples[:, 0] / 40, 9))


def opened(argument: Path, split: str | None = None, image_size: int = 8) -> Source:
    return open_source(str(argument), SourceOptions(image_size=image_size, split=split))


def refusal(argument: Path | str, split: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        list(open_source(str(argument), SourceOptions(image_size=8, split=split)).batches())
    assert "\n" not in str(error.value)
    return str(error.value)


# Layouts


LAYOUTS = {
    "beside": ("img_align_celeba", "list_eval_partition.txt"),
    "among the images": ("img_align_celeba", "img_align_celeba/list_eval_partition.txt"),
    "torchvision": ("celeba/img_align_celeba", "celeba/list_eval_partition.txt"),
    "original archive": ("Img/img_align_celeba", "Eval/list_eval_partition.txt"),
    "archive in a folder": ("CelebA/Img/img_align_celeba", "CelebA/Eval/list_eval_partition.txt"),
    "doubled": ("img_align_celeba/img_align_celeba", "list_eval_partition.csv"),
    "doubled in Img": ("Img/img_align_celeba/img_align_celeba", "Eval/list_eval_partition.txt"),
    "renamed": ("images", "list_eval_partition.txt"),
    "no folder": ("", "list_eval_partition.txt"),
}


@pytest.mark.parametrize("given", ["root", "images"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_from_its_root_and_from_its_images(
    tmp_path: Path, layout: str, given: str
) -> None:
    folder, partition = LAYOUTS[layout]
    root = celeba(tmp_path / "data", folder, partition)
    argument = root if given == "root" else root / folder
    source = opened(argument)
    assert (source.name, source.shape) == ("CelebA (train)", (3, 8, 8))
    assert read_faces(source) == TRAIN
    where = os.path.relpath(root / partition, argument)
    assert source.notes == (
        f"train split of {where}: 3 of 3 images",
        "6 of the 202,599 images of CelebA",
    )


def test_the_folder_may_be_the_working_directory_or_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    celeba(tmp_path / "data")
    (tmp_path / "faces").symlink_to(tmp_path / "data" / "img_align_celeba")
    assert read_faces(opened(tmp_path / "faces")) == TRAIN
    monkeypatch.chdir(tmp_path / "data" / "img_align_celeba")
    assert read_faces(opened(Path())) == TRAIN


def test_a_renamed_folder_is_recognised_by_the_first_image_that_a_process_opens(
    tmp_path: Path,
) -> None:
    root = celeba(tmp_path, "images")
    for number in (2, 3):
        write(root / "images" / f"{number:06d}.jpg", jpeg(40 * number, (64, 64)))
    program = f"from opmerge.data import open_source; print(open_source({str(root)!r}).name)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "CelebA (train)"


def test_a_resized_copy_is_recognised_by_the_name_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in TRAIN:
        write(tmp_path / "img_align_celeba" / f"{number:06d}.jpg", jpeg(40 * number, (64, 64)))
    write(tmp_path / "list_eval_partition.txt", lines())
    assert opened(tmp_path).name == "CelebA (train)"
    monkeypatch.chdir(tmp_path / "img_align_celeba")
    assert opened(Path()).name == "CelebA (train)"


@pytest.mark.parametrize("given", ["", "celeba64"])
def test_a_resized_copy_beside_its_partition_is_celeba(tmp_path: Path, given: str) -> None:
    """It is square: cropping it once more would cut the faces."""
    for number in SPLIT_OF:
        write(tmp_path / "celeba64" / f"{number:06d}.jpg", jpeg(40 * number, (64, 64)))
    write(tmp_path / "list_eval_partition.txt", lines())
    source = opened(tmp_path / given)
    assert (source.name, read_faces(source)) == ("CelebA (train)", TRAIN)
    assert source.scaling == "RGB pixel values from [0, 255] to [-1, 1], resized to 8 x 8"
    assert source.notes[2].startswith("3 square (not 178 x 218) files: ")
    assert source.notes[2].endswith("000003.jpg; only resized, not cropped")
    assert read_faces(opened(tmp_path / given, "test")) == [5, 6]
    assert opened(tmp_path / given, image_size=65).notes[-1] == "3 of 3 images were enlarged"


def test_the_aligned_faces_come_before_a_resized_copy(tmp_path: Path) -> None:
    celeba(tmp_path)
    for number in SPLIT_OF:
        write(tmp_path / "celeba64" / f"{number:06d}.jpg", jpeg(250, (64, 64)))
    source = opened(tmp_path)
    assert read_faces(source) == TRAIN
    assert source.notes[2].startswith("6 other image files: celeba64/000001.jpg, ")


@pytest.mark.parametrize(
    ("first", "size"),
    [
        (1, (80, 100)),  # where its crop would be is not known
        (0, (64, 64)),  # CelebA begins with 1
        (202_598, (64, 64)),  # and ends with 202599
    ],
)
def test_numbered_images_that_may_be_others_are_plain_and_a_note_says_so(
    tmp_path: Path, first: int, size: tuple[int, int]
) -> None:
    for number in TRAIN:
        write(tmp_path / "a" / f"{first + number - 1:06d}.jpg", jpeg(40 * number, size))
    write(tmp_path / "list_eval_partition.txt", lines())
    source = opened(tmp_path / "a")
    assert (source.name, read_faces(source)) == ("a", TRAIN)
    assert source.notes == (
        "../list_eval_partition.txt was ignored: by their numbers and sizes the images are not "
        "CelebA's aligned faces, nor copies of them of another size",
    )


def test_the_lossless_edition_is_named_as_jpeg_by_the_partition(tmp_path: Path) -> None:
    for number in SPLIT_OF:
        path = tmp_path / "img_align_celeba_png" / f"{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", ALIGNED, (40 * number,) * 3).save(path)
    write(tmp_path / "list_eval_partition.txt", lines())
    assert read_faces(opened(tmp_path)) == TRAIN


def test_folders_of_disjoint_faces_are_read_together_in_order(tmp_path: Path) -> None:
    write_faces(tmp_path / "women", [2, 4])
    write_faces(tmp_path / "men", [1, 3, 6])
    assert read_faces(opened(tmp_path, "all")) == [1, 2, 3, 4, 6]


def test_the_same_face_in_two_folders_is_refused(tmp_path: Path) -> None:
    celeba(tmp_path)
    write_faces(tmp_path / "more", [3])
    assert refusal(tmp_path) == (
        f"`{tmp_path}` must hold each of CelebA's images once, got "
        "img_align_celeba/000003.jpg and more/000003.jpg; pass the folder of one of them"
    )


def test_hidden_files_of_macos_are_passed_over(tmp_path: Path) -> None:
    celeba(tmp_path)
    for number in SPLIT_OF:
        write(tmp_path / "img_align_celeba" / f"._{number:06d}.jpg", b"\0\5\26\7")
        write(tmp_path / "__MACOSX" / "img_align_celeba" / f"._{number:06d}.jpg", b"\0\5\26\7")
    write(tmp_path / "._list_eval_partition.txt", b"\0\5\26\7")
    source = opened(tmp_path)
    assert read_faces(source) == TRAIN
    assert len(source.notes) == 2  # split and number: nothing unreadable, nothing else


def test_photos_in_the_wild_are_not_the_aligned_faces(tmp_path: Path) -> None:
    celeba(tmp_path, "Img/img_align_celeba", "Eval/list_eval_partition.txt")
    for number in SPLIT_OF:
        write(tmp_path / "Img" / "img_celeba" / f"{number:06d}.jpg", jpeg(250, (409, 687)))
    source = opened(tmp_path)
    assert read_faces(source) == TRAIN
    assert source.notes[2] == (
        "6 other image files: Img/img_celeba/000001.jpg, Img/img_celeba/000002.jpg, "
        "Img/img_celeba/000003.jpg and 3 more"
    )
    assert opened(tmp_path / "Img" / "img_celeba").name == "img_celeba"  # a plain folder


@pytest.mark.parametrize(
    ("folder", "name", "size"),
    [
        ("celeba", "face{}.jpg", ALIGNED),
        ("celeba", "{:05d}.jpg", ALIGNED),
        ("frames", "{:06d}.jpg", (64, 64)),
    ],
)
def test_other_folders_of_images_stay_plain(
    tmp_path: Path, folder: str, name: str, size: tuple[int, int]
) -> None:
    for number in TRAIN:
        write(tmp_path / folder / name.format(number), jpeg(40 * number, size))
    source = opened(tmp_path / folder)
    assert (source.name, source.notes) == (folder, ())
    assert read_faces(source) == TRAIN
    assert refusal(tmp_path / folder, "test") == (
        f"`split` must be left out: {tmp_path / folder} is not CelebA and has none, got test"
    )


@pytest.mark.parametrize(
    "name", ["img_align_celeba.zip", "Img/img_align_celeba.zip", "img_align_celeba_png.7z.001"]
)
def test_an_archive_that_is_not_unpacked_is_refused(tmp_path: Path, name: str) -> None:
    archive = write(tmp_path / name, b"PK")
    write(tmp_path / "list_eval_partition.txt", lines())
    expected = f"`{archive}` must be unpacked; unpack it there, or pass another folder of images"
    assert refusal(tmp_path) == refusal(archive) == expected
    celeba(tmp_path)
    assert read_faces(opened(tmp_path)) == TRAIN


# Pixels


def noise(path: Path, size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A JPEG of noise and its pixels, (height, width, 3)."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    write(path, content.getvalue())
    return np.asarray(Image.open(path))


def test_the_centre_of_148_pixels_is_taken_and_resized(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    # (218 - 148) / 2 = 35 rows and (178 - 148) / 2 = 15 columns are left on each side.
    centres = [
        noise(folder / f"{seed:06d}.jpg", ALIGNED, seed)[35:183, 15:163] for seed in range(2)
    ]
    source = opened(tmp_path, "all", image_size=148)
    expected = np.stack(centres).transpose(0, 3, 1, 2).reshape(2, -1) / 127.5 - 1
    np.testing.assert_allclose(next(source.batches()), expected, rtol=0, atol=1e-15)
    source = open_source(str(tmp_path), SourceOptions(split="all"))
    assert source.shape == (3, 64, 64)
    assert source.scaling == (
        "RGB pixel values from [0, 255] to [-1, 1], centre 148 x 148 resized to 64 x 64"
    )
    bilinear = Image.Resampling.BILINEAR
    small = [np.asarray(Image.fromarray(centre).resize((64, 64), bilinear)) for centre in centres]
    expected = np.stack(small).transpose(0, 3, 1, 2).reshape(2, -1) / 127.5 - 1
    np.testing.assert_allclose(next(source.batches()), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [(89, 109), (128, 157), (356, 436)])
def test_copies_of_another_size_are_cropped_in_proportion(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    """What shows 148 of 178 columns there: 74 of 89, 106 of 128, 296 of 356."""
    folder = tmp_path / "img_align_celeba"
    pixels = [noise(folder / f"{seed:06d}.jpg", size, seed) for seed in (1, 2)]
    side = {89: 74, 128: 106, 356: 296}[size[0]]
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    source = opened(tmp_path, image_size=side)
    centres = [each[top : top + side, left : left + side] for each in pixels]
    expected = np.stack(centres).transpose(0, 3, 1, 2).reshape(2, -1) / 127.5 - 1
    np.testing.assert_allclose(next(source.batches()), expected, rtol=0, atol=1e-15)
    assert source.notes[2].startswith("2 resized (not 178 x 218) files: ")
    assert source.notes[2].endswith(f"to {side} x {side}")
    assert len(source.notes) == 3


def test_copies_in_proportion_beside_their_partition_are_celeba(tmp_path: Path) -> None:
    for number in SPLIT_OF:
        write(tmp_path / "half" / f"{number:06d}.jpg", jpeg(40 * number, (89, 109)))
    assert opened(tmp_path / "half").name == "half"  # any numbered images
    write(tmp_path / "list_eval_partition.txt", lines())
    source = opened(tmp_path / "half")
    assert (source.name, read_faces(source)) == ("CelebA (train)", TRAIN)


def test_other_sizes_are_noted_and_cut_to_their_largest_centre(tmp_path: Path) -> None:
    folder = tmp_path / "img_align_celeba"
    small = noise(folder / "000001.jpg", (64, 80), 1)[8:72]
    large = noise(folder / "000002.jpg", (300, 200), 2)[26:174, 76:224]
    write(folder / "000003.jpg", jpeg(120))
    source = opened(tmp_path, "all", image_size=64)
    assert source.notes[1:] == (
        "2 differently sized (not 178 x 218) files: img_align_celeba/000001.jpg, "
        "img_align_celeba/000002.jpg; the largest central square up to 148 was taken",
    )
    first, second, _ = next(source.batches()).reshape(3, 3, 64, 64)
    np.testing.assert_allclose(first, small.transpose(2, 0, 1) / 127.5 - 1, atol=1e-15)
    resized = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(second, resized.transpose(2, 0, 1) / 127.5 - 1, atol=1e-15)
    square = noise(folder / "000004.jpg", (200, 200), 4)
    whole = np.asarray(Image.fromarray(square).resize((64, 64), Image.Resampling.BILINEAR))
    fourth = next(opened(tmp_path, "all", image_size=64).batches()).reshape(4, 3, 64, 64)[3]
    np.testing.assert_allclose(fourth, whole.transpose(2, 0, 1) / 127.5 - 1, atol=1e-15)
    (folder / "000004.jpg").unlink()
    assert opened(tmp_path, "all", image_size=65).notes[-1] == "1 of 3 images were enlarged"
    assert opened(tmp_path, "all", image_size=149).notes[-1] == "3 of 3 images were enlarged"


def test_grey_faces_have_no_channels(tmp_path: Path) -> None:
    source = open_source(str(celeba(tmp_path)), SourceOptions(image_size=8, grey=True))
    assert source.shape == (8, 8)
    assert read_faces(source) == TRAIN


# The partition


@pytest.mark.parametrize(
    ("split", "faces"),
    [("train", TRAIN), ("test", [5, 6]), ("all", [1, 2, 3, 4, 5, 6])],
)
def test_splits_are_those_of_the_partition(tmp_path: Path, split: str, faces: list[int]) -> None:
    source = opened(celeba(tmp_path), split)
    assert source.name == f"CelebA ({split})"
    assert read_faces(source) == faces


def test_the_validation_split_is_number_one(tmp_path: Path) -> None:
    celeba(tmp_path, partition="none")
    write(tmp_path / "list_eval_partition.txt", lines().replace("000003.jpg 0", "000003.jpg 1"))
    assert read_faces(opened(tmp_path, "validation")) == [3, 4]


@pytest.mark.parametrize(
    "content",
    [
        lines(end="\r\n"),
        lines("\t") + "\n\n",
        lines("  ", end=" \n"),
        lines().rstrip("\n"),
        "\ufeff" + lines(),
        lines(","),
        "image_id,partition\r\n" + lines(",", end="\r\n"),
        re.sub(r"(\S+),(\d)", r'"\1","\2"', '"image_id","partition"\n' + lines(",")),
        "".join(reversed(lines().splitlines(keepends=True))),
        lines().replace(".jpg", ".png"),
    ],
    ids=["windows", "tabs", "spaces", "no end", "mark", "csv", "header", "quotes", "order", "png"],
)
@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_the_partition_is_read_in_any_form(tmp_path: Path, content: str, suffix: str) -> None:
    celeba(tmp_path, partition="none")
    write(tmp_path / f"list_eval_partition.{suffix}", content)
    source = opened(tmp_path)
    assert source.notes[0].endswith("3 of 3 images")
    assert read_faces(source) == TRAIN


def test_the_text_file_below_the_root_comes_first(tmp_path: Path) -> None:
    root = celeba(tmp_path / "data", partition="Eval/list_eval_partition.txt")
    other = lines().replace(" 0", " 2")
    write(root / "list_eval_partition.csv", other)
    write(tmp_path / "list_eval_partition.txt", other)
    assert read_faces(opened(root)) == TRAIN


def test_without_its_file_the_partition_is_known_by_number(tmp_path: Path) -> None:
    """The official one: 162,770 training images, 19,867 for validation, 19,962 to test."""
    numbers = {"train": (1, 162_770), "validation": (162_771, 182_637), "test": (182_638, 202_599)}
    root = tmp_path / "a" / "b" / "c" / "data"
    for grey, number in enumerate([n for ends in numbers.values() for n in ends], start=1):
        write(root / "img_align_celeba" / f"{number:06d}.jpg", jpeg(40 * grey))
    write(tmp_path / "list_eval_partition.txt", lines())  # four folders up: not looked at
    for first, split in enumerate(numbers):
        source = opened(root, split)
        assert read_faces(source) == [2 * first + 1, 2 * first + 2]
        assert len(source.notes) == 2
        assert "by number" in source.notes[0]
    assert opened(root).split == "train"
    assert read_faces(opened(root, "all")) == [1, 2, 3, 4, 5, 6]


def test_a_split_of_which_no_image_is_there_is_refused_without_a_partition(tmp_path: Path) -> None:
    root = celeba(tmp_path / "a" / "b" / "c" / "data", partition="none")
    assert refusal(root, "validation") == (
        f"`{root}` must hold images of the validation split, got none of the 19,867 that the "
        "official partition names; pass another split, or unpack all images"
    )


def test_absent_and_unnamed_images_are_noted(tmp_path: Path) -> None:
    write_faces(tmp_path / "img_align_celeba", [1, 3, 4, 7])
    text = lines() + "".join(f"{number:06d}.jpg 0\n" for number in range(100, 103))
    write(tmp_path / "list_eval_partition.txt", text)
    source = opened(tmp_path)
    assert read_faces(source) == [1, 3]
    assert source.notes == (
        "train split of list_eval_partition.txt: 2 of 6 images",
        "4 of the 202,599 images of CelebA",
        "4 absent files: 000002.jpg, 000100.jpg, 000101.jpg and 1 more",
        "1 unused (not in the partition) file: img_align_celeba/000007.jpg",
    )


def test_a_partition_of_absent_files_only_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path / "img_align_celeba", TRAIN)
    write(tmp_path / "list_eval_partition.txt", lines())
    assert refusal(tmp_path, "test") == (
        f"`{tmp_path}` must hold images of the test split, got none of the 2 that "
        "list_eval_partition.txt names; pass another split, or unpack all images"
    )


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ("", "none"),
        ("<!DOCTYPE html><title>Quota exceeded</title>", "none"),
        ("<!DOCTYPE html>\n<title>Quota exceeded</title>", "line 2: <title>Quota exceeded</title>"),
        (lines() + "000007.jpg 3\n", "line 7: 000007.jpg 3"),
        (lines() + "000007.jpg\n", "line 7: 000007.jpg"),
        (lines() + "7.jpg 0\n", "line 7: 7.jpg 0"),
    ],
)
def test_files_that_are_no_partition_are_refused(tmp_path: Path, content: str, got: str) -> None:
    celeba(tmp_path, partition="none")
    file = write(tmp_path / "list_eval_partition.txt", content)
    assert refusal(tmp_path) == (
        f"`{file}` must have lines such as 000001.jpg 0 (0 train, 1 validation, 2 test), "
        f'got {got}; copy it anew, or do without by `split="all"`'
    )


def test_an_image_of_two_splits_is_refused(tmp_path: Path) -> None:
    celeba(tmp_path, partition="none")
    file = write(tmp_path / "list_eval_partition.txt", lines() * 2)
    assert read_faces(opened(tmp_path)) == TRAIN  # twice the same is no contradiction
    write(file, lines() + "000002.jpg 2\n")
    assert refusal(tmp_path) == (
        f"`{file}` must give each image one split, got another by 000002.jpg 2"
    )


@pytest.mark.parametrize("split", ["valid", "Train", ""])
def test_unknown_splits_are_refused(split: str) -> None:
    with pytest.raises(InputError, match="`split` must be one of train, validation, test, all"):
        SourceOptions(split=split)


def test_sources_without_a_partition_take_no_split(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(3))
    for argument in ("digits", "patches", "faces", str(tmp_path / "a.npy")):
        assert refusal(argument, "train") == (
            f"`split` must be left out: {argument} is not CelebA and has none, got train"
        )


# Damage


def damaged(kind: str) -> bytes:
    content = jpeg(40)
    tables = content.index(b"\xff\xc4") + 5
    return {
        "cut": content[: len(content) // 2],
        "last byte": content[:-1],
        "zeros": content[: len(content) // 2] + bytes(len(content) // 2),
        "empty": b"",
        "text": b"<!DOCTYPE html>",
        # Both ends are good; the Huffman codes say more symbols than there can be.
        "tables": content[:tables] + b"\xff" * 16 + content[tables + 16 :],
    }[kind]


@pytest.mark.parametrize("kind", ["cut", "last byte", "zeros", "empty", "text"])
def test_broken_images_are_left_out_and_named(tmp_path: Path, kind: str) -> None:
    celeba(tmp_path)
    write(tmp_path / "img_align_celeba" / "000002.jpg", damaged(kind))
    write(tmp_path / "img_align_celeba" / "000006.jpg", damaged(kind))  # of another split
    source = opened(tmp_path)
    assert read_faces(source) == [1, 3]
    (note,) = source.notes[2:]
    assert note.startswith("1 unreadable file: img_align_celeba/000002.jpg (")


def test_a_whole_image_with_bytes_after_its_end_is_kept(tmp_path: Path) -> None:
    celeba(tmp_path)
    write(tmp_path / "img_align_celeba" / "000002.jpg", jpeg(80) + bytes(7))
    assert read_faces(opened(tmp_path)) == TRAIN


def test_damage_between_good_ends_is_named_when_it_is_met(tmp_path: Path) -> None:
    celeba(tmp_path)
    path = write(tmp_path / "img_align_celeba" / "000002.jpg", damaged("tables"))
    assert opened(tmp_path).num_samples == 3
    text = refusal(tmp_path)
    assert text.startswith(f"`{path}` cannot be read (")
    assert text.endswith("; restore or remove it, and start again")


def test_images_of_which_none_can_be_read_are_refused(tmp_path: Path) -> None:
    celeba(tmp_path)
    for number in TRAIN:
        write(tmp_path / "img_align_celeba" / f"{number:06d}.jpg", b"")
    assert refusal(tmp_path) == (
        f"`{tmp_path}` must hold images of the train split that can be read, got 3 unreadable files"
    )
    write_faces(tmp_path / "img_align_celeba", [1])
    assert "must hold at least 2 samples along its first axis, got 1" in refusal(tmp_path)


# Many images


def linked(root: Path, count: int) -> Path:
    """As many faces as wanted in the room of one."""
    first = write(root / "img_align_celeba" / "000001.jpg", jpeg(40))
    for number in range(2, count + 1):
        os.link(first, first.with_name(f"{number:06d}.jpg"))
    return root


def test_progress_counts_the_files_checked(tmp_path: Path) -> None:
    seen: list[int] = []
    open_source(str(linked(tmp_path, 300)), SourceOptions(split="all"), seen.append)
    assert seen == [256, 300]


def test_reading_takes_the_memory_of_a_batch(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        root = linked(tmp_path / str(count), count)
        tracemalloc.start()
        try:
            source = opened(root, "all", image_size=128)
            assert sum(len(batch) for batch in source.batches()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(65)  # what libraries keep from the first time is not counted
    # A batch is 64 images. A name, a size and their places take less than 1 KB an image, its
    # pixels 384 KB in float64.
    assert peak(330) - peak(130) < 200 * 1024


# The command line


def test_spectrum_reads_a_split_of_celeba(tmp_path: Path, run: Run) -> None:
    root = celeba(tmp_path)
    status, out, _ = run("spectrum", root, "--image_size", 4, "--split", "test", "--json")
    content = json.loads(out)
    assert status == 0
    assert (content["source"], content["num_samples"]) == ("CelebA (test)", 2)
    assert content["sample_shape"] == [3, 4, 4]
    # Two greys 40 apart, 40/127.5 in every one of 48 values: variance (20/127.5)^2 in each.
    assert content["trace"] == pytest.approx(48 * (20 / 127.5) ** 2, rel=1e-12)
    status, out, err = run("spectrum", "digits", "--split", "test")
    assert (status, out) == (2, "")
    assert "must be left out: digits is not CelebA" in err
