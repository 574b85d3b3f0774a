"""What is told of the images of a folder: captions in its files, or classes as its folders.

Captions are where diffusers' training scripts and the imagefolder of the package ``datasets`` have
them: in ``metadata.jsonl`` or ``metadata.csv``, of which each row has ``file_name``, the path of an
image from the folder of that file, and ``text``; or in a ``.txt`` file beside each image.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opmerge.data.images import CAPTION_SUFFIXES, METADATA, named
from opmerge.data.source import Files
from opmerge.data.tables import delimiter_of
from opmerge.errors import InputError
from opmerge.files import parse_json, read_text

_NAME = "file_name"
_REMEDY = (
    f"write {METADATA[0]} with {_NAME} and `caption_column` of every image, or a .txt file beside "
    "each"
)


def read_captions(files: Files, column: str = "text") -> list[str]:
    """The captions of images, in their order.

    A row of ``metadata.jsonl`` or ``metadata.csv``, in whatever folder on the way to the image,
    goes before a ``.txt`` file beside it.

    Raises:
        InputError: naming the images without a caption; where a metadata file cannot be read, or
            tells twice of one image.
    """
    told: dict[str, str] = {}
    folder, names = files.folder, files.names
    for parent in sorted({parent for name in names for parent in PurePosixPath(name).parents}):
        for metadata in METADATA:
            path = folder / parent / metadata
            if not path.is_file():
                continue
            for number, row in _rows(path):
                image = _image_of(row, path, number, parent)
                if image in told:
                    raise InputError(f"{path}, row {number}", "must be of another image", image)
                told[image] = _text_of(row, path, number, column)
    captions = [told[name] if name in told else _beside(folder / name) for name in names]
    missing = [name for name, caption in zip(names, captions, strict=True) if caption is None]
    for what in named(missing, "image"):
        raise InputError(
            "captions", f"must be there for each of {len(names):,} images", what, _REMEDY
        )
    return [caption for caption in captions if caption is not None]


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file: a line each, or a JSON string a line where it ends in .jsonl.

    Empty lines are passed over; the empty prompt is ``""`` in a .jsonl file.

    Raises:
        InputError: if it cannot be read or holds none.
    """
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    prompts: list[Any] = lines
    if path.suffix.lower() == ".jsonl":
        try:
            prompts = [parse_json(line) for line in lines]
        except ValueError as error:
            raise InputError(
                "prompts", f"must hold a JSON string a line ({error})", str(path)
            ) from error
    for number, prompt in enumerate(prompts, start=1):
        if not isinstance(prompt, str):
            raise InputError("prompts", "must hold a JSON string a line", f"{prompt!r} in {number}")
    if not prompts:
        raise InputError("prompts", "must hold a prompt a line", f"{path}, which is empty")
    return prompts


def folder_labels(files: Files) -> tuple[NDArray[np.int64], list[str]]:
    """(N,) the number of each image's class, and the classes: the folders, in the order of names.

    Raises:
        InputError: if an image lies in no folder of a class.
    """
    parents = [name.rpartition("/")[0] for name in files.names]
    for name in [name for name, parent in zip(files.names, parents, strict=True) if not parent][:1]:
        requirement = "must be given, unless every image lies in the folder of its class"
        raise InputError("labels", requirement, f"an image in none: {name}")
    classes = sorted(set(parents))
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[parent] for parent in parents], dtype=np.int64), classes


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a metadata file with their numbers from 1."""
    text = read_text(path)
    try:
        if path.suffix == ".csv":
            delimiter = delimiter_of(text.partition("\n")[0])
            yield from enumerate(csv.DictReader(io.StringIO(text), delimiter=delimiter), start=1)
            return
        for number, line in enumerate(text.split("\n"), start=1):
            row = parse_json(line) if line.strip() else None
            if isinstance(row, dict):
                yield number, row
            elif row is not None:
                raise InputError(f"{path}, row {number}", "must be a JSON object", row)
    except (ValueError, csv.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(str(path), f"cannot be read ({error})") from error


def _image_of(row: Mapping[str, Any], path: Path, number: int, parent: PurePosixPath) -> str:
    name = row.get(_NAME)
    if not isinstance(name, str):
        raise InputError(f"{path}, row {number}", f"must have {_NAME}, the path of an image", name)
    return (parent / PurePosixPath(name)).as_posix()


def _text_of(row: Mapping[str, Any], path: Path, number: int, column: str) -> str:
    caption = row.get(column)
    if isinstance(caption, str):
        return caption
    columns = ", ".join(str(key) for key in row if key != _NAME)
    value = f"columns {columns or 'none'}" if column not in row else repr(caption)
    remedy = "pass `caption_column`" if column not in row else ""
    raise InputError(f"{path}, row {number}", f"must have a caption as {column}", value, remedy)


def _beside(image: Path) -> str | None:
    """The caption in the .txt file beside an image, if there is one."""
    for path in map(image.with_suffix, CAPTION_SUFFIXES):
        if path.is_file():
            return read_text(path).strip()
    return None
