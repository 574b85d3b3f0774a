"""Any source: one line, or the numbers that pandas, NumPy and Pillow read in it."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import accepted, answered, damages, fuzz, numbers
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from opmerge import cosine_schedule
from opmerge.data import SourceOptions, open_source

Run = Callable[..., tuple[int, str, str]]
Array = NDArray[Any]


def samples_of(path: Path, options: SourceOptions | None = None) -> Array | None:
    """All samples of a source, or None where it is refused in one line."""

    def read() -> Array:
        source = open_source(str(path), options or SourceOptions())
        return np.concatenate(list(source.batches()))

    return accepted(read)


maybe_damaged = st.one_of(st.none(), damages())


@fuzz(8_000, words=st.lists(numbers, max_size=5), space=st.sampled_from(["", " "]))
def test_eigenvalues_in_words(words: list[str], space: str, run: Run) -> None:
    result = run("spectrum", f"eigenvalues:{f',{space}'.join(words)}", "--json")
    if answered(result):
        found = json.loads(result[1])
        values = np.repeat(found["eigenvalues"], np.array(found["multiplicities"], dtype=int))
        np.testing.assert_allclose(values, sorted(map(float, words), reverse=True), rtol=1e-15)


# Tables


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Any], list[list[float]], list[str] | None]:
    """How pandas is to write a table, its values and the names of its columns, if it has any."""
    width, height = draw(st.integers(2, 4)), draw(st.integers(3, 7))
    is_named = draw(st.booleans())
    kinds = [st.floats(-1e6, 1e6, width=32)] * 2
    kinds += [st.integers(-1000, 1000), st.booleans()] if is_named else []
    columns = [
        draw(st.lists(draw(st.sampled_from(kinds)), min_size=height, max_size=height))
        for _ in range(width)
    ]
    name = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=4)
    names = [f"{draw(name)}x{number}" for number in range(width)] if is_named else None
    separator = draw(st.sampled_from([",", ";", "\t", "|"]))
    options = {
        "sep": separator,
        "decimal": "." if separator == "," else draw(st.sampled_from(".,")),
        "index": is_named and draw(st.booleans()),
        "header": is_named,
        "quoting": draw(st.sampled_from([0, 0, 1, 2])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])),
        "lineterminator": draw(st.sampled_from(["\n", "\n", "\r\n"])),
    }
    return options, [list(row) for row in zip(*columns, strict=True)], names


@fuzz(20_000, table=tables(), damage=maybe_damaged)
def test_tables(
    table: tuple[dict[str, Any], list[list[float]], list[str] | None],
    damage: Callable[[bytes], bytes] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    pandas = pytest.importorskip("pandas", reason="the independent reader is pandas")
    options, rows, names = table
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    pandas.DataFrame(rows, columns=names).to_csv(path, **options)
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
        samples_of(path)
        return
    got = samples_of(path)
    reading = {key: options[key] for key in ("sep", "decimal", "encoding")}
    header, index = (None if names is None else 0), (0 if options["index"] else None)
    frame = pandas.read_csv(path, header=header, index_col=index, **reading)
    np.testing.assert_allclose(got, frame.to_numpy(dtype=np.float64), rtol=1e-15)


# Arrays

TYPES = ("f2", "<f4", ">f4", "f8", "f8", "g", "u1", "u1", "i1", "i2", ">i8", "u4", "?", "c8", "S3",
         "M8[s]", "f4,i2", "V2")  # fmt: skip
SHAPES = [(), (0,), (3,), (1, 4), (2, 2), (3, 4), (0, 3), (3, 0), (2, 2, 3), (2, 3, 2, 2), (5, 1)]


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any array that NumPy saves without objects, with values such as the bytes make."""
    kind, shape = np.dtype(draw(st.sampled_from(TYPES))), draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape)) * kind.itemsize
    if kind.kind == "f" and draw(st.sampled_from([True, True, False])):  # finite, that is
        whole = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype="i1")
        return (whole[: int(np.prod(shape))] / 7).astype(kind).reshape(shape)
    values = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), kind).reshape(shape)
    return np.asfortranarray(values) if draw(st.booleans()) else values


def as_samples(values: Array) -> Array | None:
    """What samples an array is, or None where it is none, by NumPy alone."""
    if values.dtype.kind not in "biuf" or values.ndim < 2 or len(values) < 2 or not values.size:
        return None
    with np.errstate(all="ignore"):
        rows = values.astype(np.float64)
    if not np.isfinite(rows).all():
        return None
    if values.dtype == np.uint8 and values.max() > 1:
        rows = rows / 127.5 - 1
        if values.ndim == 4 and values.shape[-1] in (1, 3) and values.shape[1] not in (1, 3):
            rows = np.moveaxis(rows, -1, 1)
    return rows.reshape(len(values), -1)


@fuzz(
    12_000,
    values=arrays(),
    other=st.one_of(st.none(), arrays()),
    form=st.sampled_from(["npy", "npz", "packed"]),
    damage=maybe_damaged,
)
def test_arrays(
    values: Array,
    other: Array | None,
    form: str,
    damage: Callable[[bytes], bytes] | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed.{form[:3].replace('pac', 'npz')}"
    if form == "npy":
        np.save(path, values)
    else:
        more = {} if other is None else {"other": other}
        (np.savez if form == "npz" else np.savez_compressed)(path, samples=values, **more)
    if damage is not None:
        path.write_bytes(damage(path.read_bytes()))
        samples_of(path)
        return
    got, expected = samples_of(path), as_samples(values)
    assert (got is None) == (expected is None)
    if expected is not None:
        np.testing.assert_array_equal(got, expected)


# Files of any bytes, wherever a file is read


def whole_files() -> list[tuple[str, bytes]]:
    """A small file of each kind that commands read, by its suffix."""
    array, archive = io.BytesIO(), io.BytesIO()
    np.save(array, np.arange(6.0).reshape(3, 2))
    schedule = cosine_schedule(4)
    np.savez_compressed(archive, alphas=schedule.alphas, sigmas=schedule.sigmas)
    levels = {"alphas": schedule.alphas.tolist(), "sigmas": schedule.sigmas.tolist()}
    plan = {"format": "opmerge.plan", "version": 1, "steps": 4, "students": [[[4, 3], 2, 1]]}
    problem = {"merge_rule": "denoiser-copy", "objective": "teacher"}
    models = {"schedule": {"name": "cosine"}, "training": {"model": "gradient-flow", "time": 6.4}}
    return [
        (".npy", array.getvalue()),
        (".npz", archive.getvalue()),
        (".csv", b"alphas,sigmas\n1,0\n0.9,0.4\n0.7,0.7\n0.4,0.9\n0,1\n"),
        (".json", json.dumps(levels).encode()),
        (".json", json.dumps({**plan, **problem, **models}).encode()),
        (".json", b'{"_class_name": "DDIMScheduler", "beta_schedule": "linear"}'),
        (".json", b'{"model": "gradient-flow", "time": 3.5}'),
    ]


READERS: list[tuple[object, ...]] = [
    ("spectrum",),
    ("spectrum", "--as", "eigenvalues"),
    ("evaluate", "eigenvalues:0.5,2", "--plan", "boot", "--steps", 4, "--schedule"),
    ("evaluate", "eigenvalues:0.5,2", "--plan", "boot", "--steps", 4, "--training"),
    ("evaluate", "eigenvalues:0.5,2", "--plan"),
    ("report",),
]


@fuzz(
    10_500,
    file=st.sampled_from(whole_files()),
    suffix=st.sampled_from([None] * 5 + [".npy", ".npz", ".csv", ".json", ".txt", "", ".PNG"]),
    content=st.binary(max_size=300),
    head=st.sampled_from([None] * 5 + [b"", b"\x93NUMPY\x01\x00v\x00", b"PK\x03\x04", b"\xff\xfe"]),
    damage=damages(),
    reader=st.sampled_from(READERS),
)
def test_files_of_any_bytes(
    file: tuple[str, bytes],
    suffix: str | None,
    content: bytes,
    head: bytes | None,
    damage: Callable[[bytes], bytes],
    reader: tuple[object, ...],
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{file[0] if suffix is None else suffix}"
    path.write_bytes(damage(file[1]) if head is None else head + content)
    answered(run(*reader, path))


# Folders of images

FORMATS = {"L": ["PNG", "BMP", "GIF", "TIFF", "PPM"], "RGB": ["PNG", "BMP", "TIFF", "WEBP", "PPM"],
           "RGBA": ["PNG", "TIFF", "WEBP"], "P": ["PNG", "BMP", "GIF", "TIFF"],
           "1": ["PNG", "BMP", "TIFF"], "LA": ["PNG", "TIFF"], "CMYK": ["TIFF"]}  # fmt: skip
SIDE = 4


@st.composite
def images(draw: st.DrawFn) -> tuple[str, bytes]:
    """The end of a file's name, and its content: of an image, maybe damaged."""
    mode = draw(st.sampled_from(sorted(FORMATS)))
    size = SIDE * SIDE * len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (SIDE, SIDE), draw(st.binary(min_size=size, max_size=size)))
    if mode == "P":
        image.putpalette(list(range(256)) * 3)
    stream, form = io.BytesIO(), draw(st.sampled_from(FORMATS[mode]))
    image.save(stream, form, **({"lossless": True} if form == "WEBP" else {}))
    damage = draw(maybe_damaged)
    suffix = draw(st.sampled_from([form.lower()] * 5 + ["png", "JPG", "gif", "txt"]))
    return f"{suffix}", stream.getvalue() if damage is None else damage(stream.getvalue())


def by_pillow(content: bytes) -> Array | None:
    """The pixels that Pillow reads, or None."""
    with suppress(Exception), warnings.catch_warnings():  # of any type, for damaged images
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
            return pixels.transpose(2, 0, 1).ravel() / 127.5 - 1
    return None


@fuzz(3_000, files=st.lists(images(), min_size=1, max_size=4))
def test_folders_of_images(
    files: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed_images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (suffix, content) in enumerate(files):
        (folder / f"{number}.{suffix}").write_bytes(content)
    got = samples_of(folder, SourceOptions(image_size=SIDE))
    told = [by_pillow(content) for suffix, content in files if suffix != "txt"]
    expected = [pixels for pixels in told if pixels is not None]
    if any(len(pixels) != 3 * SIDE * SIDE for pixels in expected):
        return  # resized, which is not Pillow's to say
    assert (got is None) == (len(expected) < 2)
    if got is not None:
        np.testing.assert_array_equal(got, np.stack(expected))
