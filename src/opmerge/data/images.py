"""A folder of images as a source: found, checked, resized and scaled with Pillow."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from opmerge.data.records import Progress, Source, SourceOptions, source_from_rows
from opmerge.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["folder_source"]

# Pillow can open more, some of it by starting other programs (PostScript), on a file's content
# and whatever its suffix: these are the formats of image data sets.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
_NAMES_IN_NOTE = 3
_CHECKED_AT_ONCE = 256

_Result = TypeVar("_Result")


def folder_source(folder: Path, options: SourceOptions, progress: Progress | None = None) -> Source:
    """Open all images below ``folder``, in the order of their paths.

    Every file is decoded once here (a fraction of a millisecond for a small photo), so that
    the number of samples is right from the start: a truncated file has a good header. Files
    that cannot be decoded are left out and named in the notes, and so are files that are not
    images by their suffix. Hidden files and folders are passed over.

    An image is scaled so that its short side is ``options.image_size``, its centre is cropped
    to a square, and its pixel values go from [0, 255] to [−1, 1]. Samples are
    (3, size, size), or (size, size) with ``options.grey``. An alpha channel is dropped, and
    the rotation in a photo's EXIF data is not applied. Of an animation the first frame counts.

    Args:
        folder: folder to search, subfolders included.
        options: ``image_size`` and ``grey`` are used.
        progress: called with the number of files checked so far.

    Raises:
        InputError: if no image, or only one, can be read; while reading, if a file that was
            readable is so no longer.
    """
    candidates, others = _find(folder)
    sizes: list[tuple[int, int] | None] = []
    for start in range(0, len(candidates), _CHECKED_AT_ONCE):
        sizes += _in_threads(_image_size, candidates[start : start + _CHECKED_AT_ONCE])
        if progress is not None:
            progress(len(sizes))
    good = [path for path, size in zip(candidates, sizes, strict=True) if size is not None]
    bad = [path for path, size in zip(candidates, sizes, strict=True) if size is None]
    if not good:
        raise InputError(
            str(folder),
            "must hold images that can be read",
            f"{len(bad)} unreadable and {len(others)} other files",
        )
    side = options.image_size
    enlarged = sum(size is not None and min(size) < side for size in sizes)
    notes = [*_named(folder, bad, "unreadable"), *_named(folder, others, "ignored (no image)")]
    if enlarged:
        notes.append(f"{enlarged} of {len(good)} images are smaller than {side} and were enlarged")
    decode = partial(_pixels, side=side, grey=options.grey)

    def rows(start: int, stop: int) -> NDArray[np.float64]:
        return np.stack(_in_threads(decode, good[start:stop])) / 127.5 - 1.0

    colours = "grey (ITU-R 601 luma)" if options.grey else "RGB"
    return source_from_rows(
        folder.resolve().name,
        (side, side) if options.grey else (3, side, side),
        len(good),
        rows,
        scaling=f"{colours} pixel values from [0, 255] to [-1, 1], resized to {side} x {side}",
        notes=tuple(notes),
    )


def _find(folder: Path) -> tuple[list[Path], list[Path]]:
    """Files below ``folder`` that are images by their suffix, and the others."""
    from PIL import Image

    extensions = Image.registered_extensions()
    suffixes = {suffix for suffix, name in extensions.items() if name in _FORMATS}
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(_visible_files(folder)):
        (images if path.suffix.lower() in suffixes else others).append(path)
    return images, others


def _visible_files(folder: Path) -> Iterator[Path]:
    visited: set[str] = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        # Links are followed, so a link to a parent folder must not go round for ever.
        visited.add(os.path.realpath(parent))
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(Path(parent, name)) not in visited
        ]
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def _in_threads(function: Callable[[Path], _Result], paths: list[Path]) -> list[_Result]:
    # Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, paths))


def _image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image that decodes, or ``None``."""
    try:
        return _decode(path, "RGB").size
    except Exception:  # on damaged files Pillow's plugins raise errors of any type
        return None


def _pixels(path: Path, side: int, grey: bool) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        image = _decode(path, "L" if grey else "RGB")
    except Exception as error:
        raise InputError(str(path), "can no longer be read", remedy="start again") from error
    pixels = np.asarray(ImageOps.fit(image, (side, side), method=Image.Resampling.BILINEAR))
    return pixels if grey else pixels.transpose(2, 0, 1)


def _decode(path: Path, mode: str) -> PillowImage:
    from PIL import Image

    with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
        image.load()
        if image.mode.startswith("I;16"):
            # Pillow before 11.3 cuts such values off at 255 instead of scaling them.
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
        if image.mode in ("I", "F"):
            raise ValueError("the range of 32-bit pixel values is not known")
        return image.convert(mode)


def _named(folder: Path, paths: list[Path], what: str) -> list[str]:
    """One note with the number of files and the first few names, or none."""
    if not paths:
        return []
    names = ", ".join(path.relative_to(folder).as_posix() for path in paths[:_NAMES_IN_NOTE])
    more = len(paths) - _NAMES_IN_NOTE
    files = "file" if len(paths) == 1 else "files"
    return [f"{len(paths)} {what} {files}: {names}" + (f" and {more} more" if more > 0 else "")]
