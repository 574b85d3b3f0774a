"""CelebA in whatever layout it was unpacked: its aligned faces and their official partition."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from opmerge.data.images import (
    check_in_threads,
    decode,
    image_source,
    image_suffixes,
    named,
    open_image,
    visible_files,
)
from opmerge.data.source import SPLITS, Progress, Source
from opmerge.errors import InputError
from opmerge.settings.data import SourceOptions

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

NUM_IMAGES = 202_599
CROP = 148
_SIZE = (178, 218)

_FOLDER = "img_align_celeba"  # img_align_celeba_png in the lossless edition
_ARCHIVE = re.compile(rf"{_FOLDER}.*\.(zip|7z)(\.\d+)?")
_NUMBERED = re.compile(r"(?P<number>\d{6})\.(jpg|jpeg|png)", re.IGNORECASE)
_LOOKED_AT = 3

_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
_PARTITION_LINE = re.compile(r'"?(?P<number>\d{6})\.\w+"?[\s,]+"?(?P<split>[012])"?\s*')
# From Img/img_align_celeba/img_align_celeba up to the folder that holds Img and Eval.
_LEVELS_UP = 3


@dataclass(frozen=True)
class CelebaFolder:
    """What of CelebA stands below a folder.

    Attributes:
        root: the folder.
        images: number of an aligned face, such as "000001", to its file's name below the root;
            in rising order. Empty if images have such names and a partition is there, but by
            their numbers and sizes they are not the faces.
        partitions: the partition files, the one to use first.
        others: images that are not the aligned faces.
    """

    root: Path
    images: Mapping[str, str]
    partitions: tuple[Path, ...]
    others: tuple[str, ...]


def find_celeba(root: Path) -> CelebaFolder | None:
    """Look for CelebA's aligned faces below ``root``; ``None`` if there are none.

    They are images with names of six digits, in a folder that is called ``img_align_celeba``
    (or begins so), or where one of the first few measures 178 × 218: the photos that they were
    cut from have the same names. The partition is a file ``list_eval_partition.txt`` or ``.csv``
    anywhere below ``root``, or in one of the three folders above it, or in their ``Eval``. If it is
    there, and the aligned faces are not, square images with their numbers are resized copies.
    Hidden files, which macOS leaves beside every image, are passed over.

    Args:
        root: a folder, or the archive that the faces come in.

    Raises:
        InputError: if the archive was not unpacked, or if one face is there twice.
    """
    if root.is_file():
        _refuse_archives(root.parent, [root.name])
        return None
    numbered: dict[str, list[str]] = {}
    partitions: list[str] = []
    others: list[str] = []
    for name in visible_files(root):
        folder, _, file = name.rpartition("/")
        if _NUMBERED.fullmatch(file):
            numbered.setdefault(folder, []).append(name)
        elif file in _PARTITIONS:
            partitions.append(name)
        else:
            others.append(name)
    files = (
        *(root / name for name in sorted(partitions, key=_preference)),
        *_partitions_above(root),
    )
    folders = {folder: sorted(names) for folder, names in sorted(numbered.items())}
    faces = {folder for folder, names in folders.items() if _is_aligned(root, folder, names)}
    if not faces and files:
        faces = {folder for folder, names in folders.items() if _is_resized(root, names)}
    images: dict[str, str] = {}
    for folder in sorted(faces):
        _add(images, folders[folder], root)
    if not images:
        _refuse_archives(root, others)
        if not (folders and files):
            return None
    suffixes = image_suffixes()
    return CelebaFolder(
        root,
        dict(sorted(images.items())),
        files,
        (
            *(name for folder in folders if folder not in faces for name in folders[folder]),
            *(name for name in sorted(others) if name.lower().endswith(suffixes)),
        ),
    )


def ignored_partition(found: CelebaFolder) -> str:
    """What is to be said of a folder whose numbered images may be others than the faces."""
    return (
        f"{os.path.relpath(found.partitions[0], found.root)} was ignored: by their numbers and "
        "sizes the images are not CelebA's aligned faces, nor square copies of them"
    )


def celeba_source(
    found: CelebaFolder, options: SourceOptions, progress: Progress | None = None
) -> Source:
    """The faces of one split, in the order of their numbers.

    The central 148 × 148 pixels of an image of 178 × 218 are resized to ``options.image_size``
    and go from [0, 255] to [−1, 1], as in AntixK/PyTorch-VAE. An image that is square already is
    only resized, of one of another size the largest central square up to 148 is taken, and a note
    says so.

    Of every file only the header is read here, for the size, and the mark at the end, which a
    truncated file lacks: a tenth of the work of decoding all 202,599. A file without the mark
    is decoded to see whether it is whole. Those that cannot be read are left out and named in
    the notes; damage that shows only when a file is decoded stops the reading.

    Args:
        found: what :func:`find_celeba` found, with images.
        options: ``image_size``, ``grey`` and ``split`` are used. The split is "train" unless
            given; "all" takes every image and needs no partition.
        progress: called with the number of files checked so far.

    Raises:
        InputError: if the partition is missing, malformed, or names no image that is there; if
            fewer than two images can be read; while reading, if one cannot be decoded.
    """
    split = options.split or SPLITS[0]
    candidates, notes = _of_split(found, split)
    sizes = check_in_threads(partial(_checked_size, found.root), candidates, progress)
    good = [name for name, size in zip(candidates, sizes, strict=True) if size is not None]
    if not good:
        raise InputError(
            str(found.root),
            f"must hold images of the {split} split that can be read",
            f"{len(candidates):,} unreadable files",
        )
    good_sizes = [size for size in sizes if size is not None]
    enlarged = sum(_square(*size) < options.image_size for size in good_sizes)
    only_resized = all(width == height for width, height in good_sizes)
    source = image_source(
        f"CelebA ({split})",
        found.root,
        good,
        partial(_crop_and_resize, side=options.image_size),
        options,
        "resized" if only_resized else f"centre {CROP} x {CROP} resized",
        [
            *notes,
            *_size_notes(candidates, sizes),
            *named(found.others, "other image"),
            *([f"{enlarged:,} of {len(good):,} images were enlarged"] if enlarged else []),
        ],
    )
    return replace(source, split=split)


def _refuse_archives(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if _ARCHIVE.fullmatch(name.rpartition("/")[2]):
            raise InputError(
                str(folder / name),
                "must be unpacked",
                remedy="unpack it there, or pass another folder of images",
            )


def _is_aligned(root: Path, folder: str, names: Sequence[str]) -> bool:
    """Whether numbered images are the aligned faces, by the folder's name or their size."""
    if (root / folder).absolute().name.startswith(_FOLDER):
        return True
    return any(_checked_size(root, name) == _SIZE for name in names[:_LOOKED_AT])


def _is_resized(root: Path, names: Sequence[str]) -> bool:
    """Whether numbered images beside a partition are the aligned faces, made square."""
    first, last = (int(_number(name)) for name in (names[0], names[-1]))
    sizes = [_checked_size(root, name) for name in names[:_LOOKED_AT]]
    found = [size for size in sizes if size is not None]
    squares = bool(found) and all(width == height for width, height in found)
    return squares and first >= 1 and last <= NUM_IMAGES


def _number(name: str) -> str:
    return name.rpartition("/")[2][:6]


def _add(images: dict[str, str], names: Sequence[str], root: Path) -> None:
    for name in names:
        before = images.setdefault(_number(name), name)
        if before != name:
            raise InputError(
                str(root),
                "must hold each of CelebA's images once",
                f"{before} and {name}",
                "pass the folder of one of them",
            )


def _preference(name: str) -> tuple[bool, int, str]:
    """The official format first, then the file nearest to the root."""
    return not name.endswith(".txt"), name.count("/"), name


def _partitions_above(root: Path) -> list[Path]:
    return [
        folder / subfolder / name
        for start in (root.absolute(), root.resolve())
        for folder in start.parents[:_LEVELS_UP]
        for subfolder in ("", "Eval")
        for name in _PARTITIONS
        if (folder / subfolder / name).is_file()
    ]


def _of_split(found: CelebaFolder, split: str) -> tuple[list[str], list[str]]:
    """The images of a split, and what is to be said of their number."""
    images = found.images
    notes = []
    if len(images) != NUM_IMAGES:
        notes.append(f"{len(images):,} of the {NUM_IMAGES:,} images of CelebA")
    if split == "all":
        return list(images.values()), notes
    file = _partition_file(found)
    split_of = _read_partition(file)
    members = sorted(number for number, of in split_of.items() if of == split)
    present = [images[number] for number in members if number in images]
    if not present:
        raise InputError(
            str(found.root),
            f"must hold images of the {split} split",
            f"none of the {len(members):,} that {file.name} names",
            "pass another split, or unpack all images",
        )
    absent = [f"{number}.jpg" for number in members if number not in images]
    unnamed = [name for number, name in images.items() if number not in split_of]
    return present, [
        f"{split} split of {os.path.relpath(file, found.root)}: "
        f"{len(present):,} of {len(members):,} images",
        *notes,
        *named(absent, "absent"),
        *named(unnamed, "unused (not in the partition)"),
    ]


def _partition_file(found: CelebaFolder) -> Path:
    if not found.partitions:
        raise InputError(
            str(found.root),
            f"must come with {' or '.join(_PARTITIONS)}, below it or in one of the "
            f"{_LEVELS_UP} folders above it or their Eval",
            remedy='copy it there, or do without by `split="all"`',
        )
    return found.partitions[0]


def _read_partition(file: Path) -> dict[str, str]:
    """The split of every number, from lines such as "000001.jpg 0" or "000001.jpg,0".

    A first line of column names, as in the CSV file of some mirrors, is passed over.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(str(file), f"cannot be read ({error.strerror})") from error
    split_of: dict[str, str] = {}
    for index, line in enumerate(lines):
        match = _PARTITION_LINE.fullmatch(line)
        if match:
            split = SPLITS[int(match["split"])]
            if split_of.setdefault(match["number"], split) != split:
                raise InputError(str(file), "must give each image one split", f"another by {line}")
        elif index > 0 and line.strip():
            raise _no_partition(file, f"line {index + 1}: {line}")
    if not split_of:
        raise _no_partition(file, "none")
    return split_of


def _no_partition(file: Path, value: str) -> InputError:
    return InputError(
        str(file),
        "must have lines such as 000001.jpg 0 (0 train, 1 validation, 2 test)",
        value,
        'copy it anew, or do without by `split="all"`',
    )


def _size_notes(names: Sequence[str], sizes: Sequence[tuple[int, int] | None]) -> list[str]:
    unreadable: list[str] = []
    square: list[str] = []
    odd: list[str] = []
    for name, size in zip(names, sizes, strict=True):
        if size is None:
            unreadable.append(name)
        elif size[0] == size[1]:
            square.append(name)
        elif size != _SIZE:
            odd.append(name)
    expected = f"(not {_SIZE[0]} x {_SIZE[1]})"
    return [
        *named(unreadable, "unreadable"),
        *(f"{note}; only resized, not cropped" for note in named(square, f"square {expected}")),
        *(
            f"{note}; the largest central square up to {CROP} was taken"
            for note in named(odd, f"differently sized {expected}")
        ),
    ]


def _square(width: int, height: int) -> int:
    """Side of the square that is taken of an image."""
    return width if width == height else min(width, height, CROP)


def _checked_size(root: Path, name: str) -> tuple[int, int] | None:
    """Width and height of an image that is whole as far as its ends show, or ``None``."""
    path = root / name
    try:
        with open_image(path) as image:
            size, is_jpeg = image.size, image.format == "JPEG"
        return size if is_jpeg and _ends_as_jpeg(path) else decode(path, "RGB").size
    except Exception:  # on damaged files Pillow's plugins raise errors of any type
        return None


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-2, os.SEEK_END)
        return stream.read() == b"\xff\xd9"


def _crop_and_resize(image: PillowImage, side: int) -> PillowImage:
    from PIL import Image

    width, height = image.size
    square = _square(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    centre = image.crop((left, top, left + square, top + square))
    return centre.resize((side, side), Image.Resampling.BILINEAR)
