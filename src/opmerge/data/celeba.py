"""CelebA in whatever layout it was unpacked: its aligned faces and their official partition."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from opmerge.data import images
from opmerge.data.images import named
from opmerge.data.source import Progress, Source
from opmerge.errors import InputError
from opmerge.files import read_text
from opmerge.settings.data import SourceOptions
from opmerge.settings.types import Split

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

NUM_IMAGES = 202_599
CROP = 148
_SIZE = (178, 218)

_FOLDER = "img_align_celeba"  # img_align_celeba_png in the lossless edition
_ARCHIVE = re.compile(rf"{_FOLDER}.*\.(zip|7z)(\.\d+)?")
_NUMBERED = re.compile(r"(?P<number>\d{6})\.(jpg|jpeg|png)", re.IGNORECASE)
_LOOKED_AT = 3

_SPLITS = get_args(Split)  # in the order of their numbers in the partition; the last is all
_PARTITIONS = ("list_eval_partition.txt", "list_eval_partition.csv")
_LAST = (162_770, 182_637, NUM_IMAGES)  # of each split in the official partition, by number
_PARTITION_LINE = re.compile(r'"?(?P<number>\d{6})\.\w+"?[\s,]+"?(?P<split>[012])"?\s*')
# From Img/img_align_celeba/img_align_celeba up to the folder that holds Img and Eval.
_LEVELS_UP = 3


@dataclass(frozen=True)
class CelebaFolder:
    """What of CelebA stands below a folder.

    Attributes:
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


def find_celeba(root: Path, names: Sequence[str]) -> CelebaFolder | None:
    """Look for CelebA's aligned faces below ``root``, a folder of files ``names``, or None.

    They are images with names of six digits, in a folder that is called ``img_align_celeba``
    (or begins so), or where one of the first few measures 178 × 218: the photos that they were
    cut from have the same names. The partition is a file ``list_eval_partition.txt`` or ``.csv``
    anywhere below ``root``, or in one of the three folders above it, or in their ``Eval``. If it is
    there, and the aligned faces are not, images with their numbers that are square or of their
    proportions are resized copies. Hidden files, which macOS leaves beside every image, are passed
    over.

    Raises:
        InputError: if the archive was not unpacked, or if one face is there twice.
    """
    numbered: dict[str, list[str]] = {}
    partitions: list[str] = []
    others: list[str] = []
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        if _NUMBERED.fullmatch(file):
            numbered.setdefault(folder, []).append(name)
        elif file.lower() in _PARTITIONS:
            partitions.append(name)
        else:
            others.append(name)
    # The official format first, then the file nearest to the root.
    partitions.sort(key=lambda name: (not name.lower().endswith(".txt"), name.count("/")))
    files = (*(root / name for name in partitions), *_partitions_above(root))
    folders = [folder for folder, names in numbered.items() if _is_aligned(root, folder, names)]
    if not folders and files:
        folders = [folder for folder, names in numbered.items() if _is_resized(root, names)]
    if not folders:
        refuse_archives(root, others)
        if not (numbered and files):
            return None
    faces: dict[str, str] = {}
    for name in chain.from_iterable(numbered.pop(folder) for folder in folders):
        before = faces.setdefault(_number(name), name)
        if before != name:
            raise InputError(
                str(root),
                "must hold each of CelebA's images once",
                f"{before} and {name}",
                "pass the folder of one of them",
            )
    suffixes = images.image_suffixes()
    other_images = (name for name in others if name.lower().endswith(suffixes))
    unused = (*chain.from_iterable(numbered.values()), *other_images)
    return CelebaFolder(root, dict(sorted(faces.items())), files, unused)


def ignored_partition(found: CelebaFolder) -> str:
    """What is to be said of a folder whose numbered images may be others than the faces."""
    return (
        f"{os.path.relpath(found.partitions[0], found.root)} was ignored: by their numbers and "
        "sizes the images are not CelebA's aligned faces, nor copies of them of another size"
    )


def celeba_source(
    found: CelebaFolder, options: SourceOptions, progress: Progress | None = None
) -> Source:
    """The faces of one split, in the order of their numbers.

    The central 148 × 148 pixels of an image of 178 × 218 are resized to ``options.image_size``
    and go from [0, 255] to [−1, 1], as in AntixK/PyTorch-VAE. A copy of another size that has kept
    its proportions is cropped in proportion, as 74 × 74 of 89 × 109. An image that is square
    already is only resized, of any other the largest central square up to 148 is taken. A note
    says how many are so.

    Of every file only the header and the mark at the end are read here: a tenth of the work of
    decoding all 202,599. Those that cannot be read are left out and named in the notes; damage
    that shows only when a file is decoded stops the reading. The split is "train" unless given.
    Where there is no partition file the official one is known by the numbers of the images: those
    up to 162,770 are for training, up to 182,637 for validation, the others for testing.

    Raises:
        InputError: if the partition is malformed, or there is no image of the split; if fewer than
            two images can be read; while reading, if one cannot be decoded.
    """
    split = options.split or "train"
    candidates, notes = _of_split(found, split)
    sizes = images.image_sizes(found.root, candidates, progress, trust_jpeg=True)
    good = {name: size for name, size in sizes.items() if not isinstance(size, str)}
    if not good:
        raise InputError(
            str(found.root),
            f"must hold images of the {split} split that can be read",
            f"{len(candidates):,} unreadable files",
        )
    crops = [_crop(*size) for size in good.values()]
    options = images.with_size(options, min(crops))
    assert options.image_size is not None
    enlarged = sum(side < options.image_size for side in crops)
    crop = crops[0] if len(set(crops)) == 1 else CROP
    only_resized = all(width == height for width, height in good.values())
    source = images.image_source(
        f"CelebA ({split})",
        found.root,
        list(good),
        partial(_crop_and_resize, side=options.image_size),
        options,
        "resized" if only_resized else f"centre {crop} x {crop} resized",
        [
            *notes,
            *_size_notes(sizes),
            *named(found.others, "other image"),
            *([f"{enlarged:,} of {len(good):,} images were enlarged"] if enlarged else []),
        ],
    )
    return replace(source, split=split)


def refuse_archives(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if _ARCHIVE.fullmatch(name.rpartition("/")[2]):
            raise InputError(
                str(folder / name),
                "must be unpacked",
                remedy="unpack it there, or pass another folder of images",
            )


def _is_aligned(root: Path, folder: str, names: Sequence[str]) -> bool:
    """Whether numbered images are the aligned faces, by the folder's name or their size."""
    is_called_so = (root / folder).absolute().name.startswith(_FOLDER)
    return is_called_so or _SIZE in _first_sizes(root, names)


def _is_resized(root: Path, names: Sequence[str]) -> bool:
    """Whether numbered images beside a partition are the aligned faces, of another size."""
    first, last = (int(_number(name)) for name in (names[0], names[-1]))
    sizes = _first_sizes(root, names)
    known = bool(sizes) and all(_is_square(size) or _is_in_proportion(size) for size in sizes)
    return known and first >= 1 and last <= NUM_IMAGES


def _first_sizes(root: Path, names: Sequence[str]) -> list[images.Size]:
    sizes = images.image_sizes(root, names[:_LOOKED_AT], None, trust_jpeg=True)
    return [size for size in sizes.values() if not isinstance(size, str)]


def _number(name: str) -> str:
    return name.rpartition("/")[2][:6]


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
    faces = found.images
    notes = []
    if len(faces) != NUM_IMAGES:
        notes.append(f"{len(faces):,} of the {NUM_IMAGES:,} images of CelebA")
    if split == "all":
        return list(faces.values()), notes
    file = next(iter(found.partitions), None)
    split_of = _by_number() if file is None else _read_partition(file)
    name = "the official partition" if file is None else file.name
    members = sorted(number for number, of in split_of.items() if of == split)
    present = [faces[number] for number in members if number in faces]
    if not present:
        raise InputError(
            str(found.root),
            f"must hold images of the {split} split",
            f"none of the {len(members):,} that {name} names",
            "pass another split, or unpack all images",
        )
    if file is None:
        return present, [f"{split} split by number, without {_PARTITIONS[0]}", *notes]
    absent = [f"{number}.jpg" for number in members if number not in faces]
    unnamed = [name for number, name in faces.items() if number not in split_of]
    return present, [
        f"{split} split of {os.path.relpath(file, found.root)}: "
        f"{len(present):,} of {len(members):,} images",
        *notes,
        *named(absent, "absent"),
        *named(unnamed, "unused (not in the partition)"),
    ]


def _by_number() -> dict[str, str]:
    """The split of every number in the official partition."""
    firsts = (1, *(last + 1 for last in _LAST[:-1]))
    return {
        f"{number:06d}": split
        for split, first, last in zip(_SPLITS, firsts, _LAST, strict=False)
        for number in range(first, last + 1)
    }


def _read_partition(file: Path) -> dict[str, str]:
    """The split of every number, from lines such as "000001.jpg 0" or "000001.jpg,0".

    A first line of column names, as in the CSV file of some mirrors, is passed over.
    """
    lines = read_text(file).splitlines()
    split_of: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(lines, start=1):
        match = _PARTITION_LINE.fullmatch(line)
        if match:
            split = _SPLITS[int(match["split"])]
            if split_of.setdefault(match["number"], split) != split:
                raise InputError(str(file), "must give each image one split", f"another by {line}")
        elif number > 1 and line.strip():
            wrong.append(f"line {number}: {line}")
    if wrong or not split_of:
        raise InputError(
            str(file),
            "must have lines such as 000001.jpg 0 (0 train, 1 validation, 2 test)",
            wrong[0] if wrong else "none",
            'copy it anew, or do without by `split="all"`',
        )
    return split_of


def _size_notes(sizes: Mapping[str, images.Size | str]) -> list[str]:
    unreadable = [f"{name} ({why})" for name, why in sizes.items() if isinstance(why, str)]
    other = {
        name: size for name, size in sizes.items() if not isinstance(size, str) and size != _SIZE
    }
    square = [name for name, size in other.items() if _is_square(size)]
    alike = [name for name, size in other.items() if _is_in_proportion(size)]
    odd = [name for name in other if name not in {*square, *alike}]
    crops = " or ".join(sorted({"{0} x {0}".format(_crop(*other[name])) for name in alike}))
    expected = f"(not {_SIZE[0]} x {_SIZE[1]})"
    return [
        *named(unreadable, "unreadable"),
        *(f"{note}; only resized, not cropped" for note in named(square, f"square {expected}")),
        *(
            f"{note}; cropped in proportion to the published {CROP} x {CROP}: to {crops}"
            for note in named(alike, f"resized {expected}")
        ),
        *(
            f"{note}; the largest central square up to {CROP} was taken"
            for note in named(odd, f"differently sized {expected}")
        ),
    ]


def _is_square(size: images.Size) -> bool:
    return size[0] == size[1]


def _is_in_proportion(size: images.Size) -> bool:
    """Whether both sides can be those of the aligned faces times one factor, rounded."""
    difference = size[0] / _SIZE[0] - size[1] / _SIZE[1]
    return abs(difference) <= 0.5 / _SIZE[0] + 0.5 / _SIZE[1]


def _crop(width: int, height: int) -> int:
    """Side of the central square that is taken of an image."""
    if _is_square((width, height)):
        return width
    if _is_in_proportion((width, height)):
        return round(CROP * width / _SIZE[0])
    return min(width, height, CROP)


def _crop_and_resize(image: PillowImage, side: int) -> PillowImage:
    from PIL import Image

    width, height = image.size
    square = _crop(width, height)
    left, top = (width - square) // 2, (height - square) // 2
    centre = image.crop((left, top, left + square, top + square))
    return centre.resize((side, side), Image.Resampling.BILINEAR)
