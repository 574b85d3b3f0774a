"""Images as a source: found in a folder, checked, resized and scaled with Pillow."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from opmerge.arrays import Array
from opmerge.data.source import Files, Progress, Source, source_from_rows
from opmerge.errors import InputError, printable
from opmerge.settings.data import SourceOptions

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

# Pillow can open more, some of it by starting other programs (PostScript), on a file's content
# and whatever its suffix: these are the formats of image data sets.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
# Files that data sets of images are shipped in.
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".parquet")
METADATA = ("metadata.jsonl", "metadata.csv")
"""Files that tell of the images of a folder, as the imagefolder of ``datasets`` has them."""
CAPTION_SUFFIXES = (".txt", ".TXT")
"""Of the file beside an image that tells of it."""
_NAMES_IN_NOTE = 3
# Folders in which file servers and systems keep what is theirs: thumbnails, waste, old states.
_OF_SERVERS = re.compile(
    r"@eadir|@tmp|@recycle|@recently-snapshot|[#~]snapshot|#recycle|__macosx|lost\+found|"
    r"\$recycle\.bin|system volume information",
    re.IGNORECASE,
)
# Files in which file managers keep how a folder looks.
_OF_MANAGERS = re.compile(r"(eh)?thumbs\.db|desktop\.ini|icon\r", re.IGNORECASE)
_MOST_PIXELS = 2**29  # of one image: 1.5 GiB in memory; cameras of telephones make 2e8
_MANY_PIXELS = 2**26  # of an image that no other is decoded beside
_MOST_TEXT = 2**26  # bytes in a PNG's chunk, for people who keep how an image was made in it
_one_large = threading.Lock()

_LARGEST_SIDE = 64  # unless another is asked for: spectra of larger images take long
_CHECKED_AT_ONCE = 256
_LISTED_AT_ONCE = 1024
_MOST_FILES = 20_000_000  # below a folder: 4 GiB of names
_MOST_OTHERS = 1_000_000  # before the first that may be a sample

Size = tuple[int, int]
_Result = TypeVar("_Result")


def folder_source(
    folder: Path, names: Sequence[str], options: SourceOptions, progress: Progress | None = None
) -> Source:
    """Open all images below ``folder``, of which ``names`` are all files, in order.

    Every file is decoded once here (a fraction of a millisecond for a small photo), so that
    the number of samples is right from the start: a truncated file has a good header. Files
    that cannot be decoded are left out and named in the notes, with the reason, and so are files
    that are not images by their suffix, unless they hold captions of them. Hidden files and
    folders, and those of file servers and managers, are passed over.

    An image is scaled so that its short side is ``options.image_size`` (by default that of the
    smallest image, at most 64), its centre is cropped to a square, and its pixel values go from
    [0, 255] to [−1, 1]. Samples are (3, size, size), or (size, size) with ``options.grey``. An
    alpha channel is dropped, and the rotation in a photo's EXIF data is not applied. Of an
    animation the first frame counts.

    Raises:
        InputError: if no image, or only one, can be read; while reading, if a file that was
            readable is so no longer.
    """
    suffixes = image_suffixes()
    candidates = [name for name in names if name.lower().endswith(suffixes)]
    stems = {name.rpartition(".")[0] for name in candidates}
    others = [
        name
        for name in names
        if not name.lower().endswith(suffixes) and not _tells_of_images(name, stems)
    ]
    sizes = image_sizes(folder, candidates, progress)
    good = [name for name in candidates if not isinstance(sizes[name], str)]
    bad = [f"{name} ({why})" for name, why in sizes.items() if isinstance(why, str)]
    if not good:
        archives = [name for name in others if name.lower().endswith(_ARCHIVES)]
        raise InputError(
            str(folder),
            "must hold images that can be read",
            ": ".join([f"{len(bad)} unreadable and {len(others)} other files", *bad[:1]]),
            f"unpack the images in {archives[0]} first" if archives else "",
        )
    short = [min(size) for size in sizes.values() if not isinstance(size, str)]
    options = with_size(options, min(short))
    side = options.image_size
    assert side is not None
    enlarged = sum(length < side for length in short)
    notes = [*named(bad, "unreadable"), *named(others, "ignored (no image)")]
    if enlarged:
        notes.append(f"{enlarged} of {len(good)} images are smaller than {side} and were enlarged")
    return image_source(
        folder.resolve().name, folder, good, partial(_fit, side=side), options, "resized", notes
    )


def with_size(options: SourceOptions, smallest: int) -> SourceOptions:
    """The options with a size for images of which the smallest has so short a side."""
    if options.image_size is not None:
        return options
    return options.replaced(image_size=min(smallest, _LARGEST_SIDE))


def image_source(
    name: str,
    folder: Path,
    files: Sequence[str],
    fit: Callable[[PillowImage], PillowImage],
    options: SourceOptions,
    fitted: str,
    notes: Sequence[str],
) -> Source:
    """Images that are decoded when they are read, a batch at a time, and scaled to [−1, 1].

    ``fit`` makes an image square, ``options.image_size`` pixels wide, and ``fitted`` says how,
    such as "resized". The names of the files are below the folder, in the order of the samples.

    Raises:
        InputError: if there are fewer than two files; while reading, if one cannot be decoded.
    """
    side = options.image_size
    assert side is not None
    read = partial(_pixels, folder, fit=fit, grey=options.grey)

    def rows(start: int, stop: int) -> Array:
        return np.stack(_in_threads(read, files[start:stop])) / 127.5 - 1.0

    colours = "grey (ITU-R 601 luma)" if options.grey else "RGB"
    return source_from_rows(
        name,
        (side, side) if options.grey else (3, side, side),
        len(files),
        rows,
        scaling=f"{colours} pixel values from [0, 255] to [-1, 1], {fitted} to {side} x {side}",
        notes=tuple(notes),
        files=Files(folder, files),
    )


def sample_files(folder: Path, suffixes: tuple[str, ...], progress: Progress | None) -> list[str]:
    """``visible_files`` in order; progress is told how many there are so far.

    Raises:
        InputError: for a whole disk, and for a folder of so many files that it must be one: without
            any of the lower-case suffixes among the first million of them.
    """
    remedy = "pass the folder that holds the samples"
    if folder.resolve() == Path(folder.resolve().anchor):
        need = "must be a folder of samples, and not a whole disk"
        raise InputError("data", need, str(folder), remedy)
    names: list[str] = []
    has_samples = False
    for name in visible_files(folder):
        names.append(name)
        has_samples = has_samples or name.lower().endswith(suffixes)
        if len(names) >= (_MOST_FILES if has_samples else _MOST_OTHERS):
            which = "at most" if has_samples else "a sample among its first"
            need = f"must have {which} {len(names):,} files below it"
            raise InputError("data", need, str(folder), remedy)
        if progress is not None and len(names) % _LISTED_AT_ONCE == 0:
            progress(len(names))
    return in_order(names)


def visible_files(folder: Path) -> Iterator[str]:
    """Names below ``folder``, such as "a/b.png".

    Hidden files and folders, and those of file servers and managers, are passed over. Names are
    strings because a path takes ten times the memory, and there may be many.
    """
    visited: set[str] = set()
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        # Links are followed, so a link to a parent folder must not go round for ever.
        visited.add(os.path.realpath(parent))
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".")
            and not _OF_SERVERS.fullmatch(name)
            and os.path.realpath(Path(parent, name)) not in visited
        ]
        place = Path(parent).relative_to(folder).as_posix()
        prefix = "" if place == "." else f"{place}/"
        yield from (
            prefix + name
            for name in files
            if not name.startswith(".") and not _OF_MANAGERS.fullmatch(name)
        )


def in_order(names: Iterable[str]) -> list[str]:
    """Names below a folder, sorted folder by folder."""
    return sorted(names, key=lambda name: name.split("/"))


def _tells_of_images(name: str, stems: set[str]) -> bool:
    """Whether a file holds captions: of a whole folder, or of the image beside it."""
    stem, _, suffix = name.rpartition(".")
    is_beside = f".{suffix}" in CAPTION_SUFFIXES and stem in stems
    return is_beside or name.rpartition("/")[2] in METADATA


def image_suffixes() -> tuple[str, ...]:
    """Lower-case suffixes, with their dots, of the formats that are read."""
    from PIL import Image

    return tuple(end for end, name in Image.registered_extensions().items() if name in _FORMATS)


def image_sizes(
    folder: Path, files: Sequence[str], progress: Progress | None, trust_jpeg: bool = False
) -> dict[str, Size | str]:
    """The ``image_size`` of every file; ``progress`` is told how many are done so far."""
    sizes: dict[str, Size | str] = {}
    for start in range(0, len(files), _CHECKED_AT_ONCE):
        part = files[start : start + _CHECKED_AT_ONCE]
        measured = _in_threads(partial(image_size, folder, trust_jpeg=trust_jpeg), part)
        sizes.update(zip(part, measured, strict=True))
        if progress is not None:
            progress(len(sizes))
    return sizes


def image_size(folder: Path, name: str, trust_jpeg: bool = False) -> Size | str:
    """Width and height of an image that is whole, or why it cannot be read.

    It is decoded, but for a JPEG that is trusted by its header and the mark at its end, which a
    truncated file lacks.
    """
    try:
        if trust_jpeg:
            with _open_image(folder / name) as image, (folder / name).open("rb") as stream:
                stream.seek(-2, os.SEEK_END)
                if image.format == "JPEG" and stream.read() == b"\xff\xd9":
                    return image.size
        return _decode(folder / name, "RGB").size
    except Exception as error:  # on damaged files Pillow's plugins raise errors of any type
        return _reason(error)


def _open_image(path: Path) -> PillowImage:
    from PIL import Image, PngImagePlugin

    # They belong to the process, and are meant for images that strangers upload.
    Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2  # twice as many are an error
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = _MOST_TEXT, 4 * _MOST_TEXT
    Image.init()  # before it, Image.OPEN is empty
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError(errno.EINVAL, "is no file")
    return Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])


def _reason(error: Exception) -> str:
    """Why an image cannot be read, in one line that does not name it again."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no image"
    told = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
    return told or type(error).__name__


def _decode(path: Path, mode: str) -> PillowImage:
    """The image of a file in a mode of Pillow; errors of any type where that fails."""
    with _open_image(path) as image:
        is_large = image.width * image.height > _MANY_PIXELS
        with _one_large if is_large else contextlib.nullcontext():
            return _converted(image, mode)


def _converted(image: PillowImage, mode: str) -> PillowImage:
    from PIL import Image

    image.load()
    if image.mode.startswith("I;16"):
        # Pillow before 11.3 cuts such values off at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
    if image.mode in ("I", "F"):
        raise ValueError("the range of 32-bit pixel values is not known")
    return image.convert(mode)


def named(files: Sequence[str], what: str) -> list[str]:
    """One note with the number of files and the first few names, or none."""
    if not files:
        return []
    names = ", ".join(map(printable, files[:_NAMES_IN_NOTE]))
    more = len(files) - _NAMES_IN_NOTE
    noun = "file" if len(files) == 1 else "files"
    return [f"{len(files):,} {what} {noun}: {names}" + (f" and {more:,} more" if more > 0 else "")]


def _in_threads(function: Callable[[str], _Result], files: Sequence[str]) -> list[_Result]:
    # Pillow's decoders release the interpreter lock.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        # Of palettes, EXIF data and sizes: what makes an image unreadable is an error.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        return list(pool.map(function, files))


def _fit(image: PillowImage, side: int) -> PillowImage:
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (side, side), method=Image.Resampling.BILINEAR)


def _pixels(
    folder: Path, name: str, fit: Callable[[PillowImage], PillowImage], grey: bool
) -> NDArray[np.uint8]:
    path = folder / name
    try:
        image = _decode(path, "L" if grey else "RGB")
    except Exception as error:
        raise InputError(
            str(path),
            f"cannot be read ({_reason(error)})",
            remedy="restore or remove it, and start again",
        ) from error
    pixels = np.asarray(fit(image))
    return pixels if grey else pixels.transpose(2, 0, 1)
