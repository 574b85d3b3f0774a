"""Folders of images as cameras, servers, systems and other programs leave them."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from opmerge.data import Source, SourceOptions, open_source
from opmerge.data.images import image_size
from opmerge.errors import InputError
from opmerge.plans.codec import PlanFile

Run = Callable[..., tuple[int, str, str]]
Program = Callable[..., Any]
Seen = Callable[[str, object, object], None]
OPTIONS = SourceOptions(image_size=8)
NOT_UTF_8 = os.fsdecode(b"caf\xe9")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images of noise."""
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path


def read(source: Source) -> NDArray[np.float64]:
    return np.concatenate(list(source.batches()))


def by_pillow(*paths: Path) -> NDArray[np.float64]:
    """What Pillow reads of images of 8 x 8, by the rule of images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pixels = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    return np.stack(pixels).transpose(0, 3, 1, 2).reshape(len(paths), -1) / 127.5 - 1


def test_names_that_are_no_text_are_read_and_written(
    images: Path, program: Program, seen: Seen, tmp_path_factory: pytest.TempPathFactory
) -> None:
    try:
        folder = images.rename(images.with_name(NOT_UTF_8))
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    (folder / "a.png").rename(folder / f"{NOT_UTF_8}.png")
    (folder / f"{NOT_UTF_8}.jpg").write_bytes(b"no image")
    output = tmp_path_factory.mktemp("output") / NOT_UTF_8
    done = program("plan", folder, "--steps", "4", "--output_dir", output)
    files = sorted(path.name for path in output.iterdir())
    expected = ["config.json", "plan.json", "record.json", "report.html"]
    seen("a folder and images whose names are not UTF-8", expected, files)
    assert (done.returncode, files) == (0, expected)
    assert PlanFile.read(output / "plan.json").plan.num_steps == 4
    texts = [(output / name).read_text(encoding="utf-8") for name in expected]
    assert json.loads(texts[0])["options"]["source"] == str(folder)
    assert all(re.search(r"caf\\{1,2}udce9", texts[number]) for number in (2, 3))
    source = open_source(str(folder), OPTIONS)
    np.testing.assert_array_equal(
        read(source), by_pillow(folder / "b.png", folder / f"{NOT_UTF_8}.png")
    )


def test_what_is_refused_of_such_names_can_be_printed(tmp_path: Path, run: Run) -> None:
    status, _, err = run("plan", tmp_path / NOT_UTF_8, "--steps", "4")
    assert (status, err.count("\n")) == (2, 1)
    assert "caf\\udce9" in err


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_long_texts_in_a_png_are_no_reason_to_drop_it(images: Path, seen: Seen, kind: str) -> None:
    told = PngImagePlugin.PngInfo()
    text = "how it was made " * 2**17  # 2 MiB
    others: dict[str, Any] = {}
    if kind == "iCCP":
        others["icc_profile"] = text.encode()
    elif kind == "iTXt":
        told.add_itxt("workflow", text)
    else:
        told.add_text("workflow", text, zip=kind == "zTXt")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(images / "c.png", pnginfo=told, **others)
    source = open_source(str(images), OPTIONS)
    seen(f"2 MiB in a PNG's {kind}", (3, ()), (source.num_samples, source.notes))
    assert (source.num_samples, source.notes) == (3, ())
    np.testing.assert_array_equal(read(source)[2, ::64], np.array([1, 2, 3]) / 127.5 - 1)


def test_photos_of_200_megapixels_are_read_and_larger_ones_are_told(
    images: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (16_320, 12_240)).save(images / "large.png")  # a telephone's, without colours
    got = image_size(images, "large.png")
    seen("a photo of 200 megapixels", (16_320, 12_240), got)
    assert got == (16_320, 12_240)
    (images / "large.png").unlink()
    monkeypatch.setattr("opmerge.data.images._MOST_PIXELS", 2**14)
    Image.new("1", (200, 200)).save(images / "larger.png")
    (note,) = open_source(str(images), OPTIONS).notes
    assert note.startswith("1 unreadable file: larger.png (Image size (40000 pixels) exceeds limit")


def palette(path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(path, transparency=b"\x00\x80")


def damaged_exif(path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 8, 7)).save(path, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")


def damaged_tiff(path: Path) -> None:
    Image.new("RGB", (8, 8), (9, 8, 7)).save(path, "TIFF", tiffinfo={270: "text"})
    content = bytearray(path.read_bytes())
    place = content.index(b"\x0e\x01\x02\x00")  # the count of the text: more than the file has
    content[place + 4 : place + 8] = (2**20).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "suffix"), [(palette, ".png"), (damaged_exif, ".jpg"), (damaged_tiff, ".tif")]
)
def test_what_pillow_warns_of_is_read_in_silence(
    images: Path, seen: Seen, make: Callable[[Path], None], suffix: str
) -> None:
    make(images / f"c{suffix}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(str(images), OPTIONS)
        samples = read(source)
    messages = [str(each.message) for each in caught]
    seen(f"{make.__name__}{suffix}: warnings", [], messages)
    assert (source.num_samples, messages) == (3, [])
    np.testing.assert_array_equal(samples[2:], by_pillow(images / f"c{suffix}"))


def test_pipes_devices_and_dead_links_are_no_images(images: Path, seen: Seen) -> None:
    os.mkfifo(images / "pipe.png")
    (images / "device.png").symlink_to("/dev/zero")
    (images / "dead.png").symlink_to(images / "nowhere.png")
    (images / "self.png").symlink_to(images / "self.png")
    for name in ("a.txt", "metadata.jsonl", "Thumbs.db", "list_eval_partition.txt", "000001.jpg"):
        os.mkfifo(images / name)
    source = open_source(str(images), OPTIONS)
    seen("pipes, devices and dead links among images", 2, source.num_samples)
    assert source.num_samples == 2
    assert source.notes[0].startswith(
        "5 unreadable files: 000001.jpg (is no file), dead.png (No su"
    )


def test_pipes_and_devices_as_data_are_refused(tmp_path: Path, run: Run, seen: Seen) -> None:
    os.mkfifo(tmp_path / "a.npy")
    (tmp_path / "a.csv").symlink_to("/dev/zero")
    for name in ("a.npy", "a.csv"):
        status, _, err = run("plan", tmp_path / name, "--steps", "4")
        seen(f"{name} is a pipe or device", 2, status)
        assert (status, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg",
        "sub/@eaDir/SYNOPHOTO_THUMB_M.png",
        "#recycle/old.png",
        "@Recycle/old.png",
        ".@__thumb/a.png",
        "__MACOSX/a.png",
        "__MACOSX/._a.png",
        "._a.png",
        ".DS_Store",
        "Thumbs.db",
        "sub/desktop.ini",
        "Icon\r",
        "$RECYCLE.BIN/S-1/x.png",
        "System Volume Information/x.png",
        "lost+found/x.png",
        ".ipynb_checkpoints/a-checkpoint.png",
        ".Trashes/501/x.png",
    ],
)
def test_what_servers_and_systems_keep_is_passed_over(images: Path, seen: Seen, name: str) -> None:
    path = images / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((images / "a.png").read_bytes())
    source = open_source(str(images), OPTIONS)
    seen(f"{name!r} among two images", (2, ()), (source.num_samples, source.notes))
    assert (source.num_samples, source.notes) == (2, ())


def test_folders_of_people_are_not_those_of_servers(images: Path) -> None:
    for name in ("@nasa", "#sunset", "_MACOS"):
        (images / name).mkdir()
        Image.new("RGB", (8, 8)).save(images / name / "x.PNG")
    assert open_source(str(images), OPTIONS).num_samples == 5


def test_reasons_are_told(images: Path) -> None:
    (images / "c.png").touch()
    (images / "d.png").write_bytes((images / "a.png").read_bytes()[:150])
    Image.new("I", (8, 8)).save(images / "e.tif")
    (images / "\x1b[2J\n.png").touch()
    (note,) = open_source(str(images), OPTIONS).notes
    assert "unreadable files: \\x1b[2J\\n.png (no image), c.png (no image), d.png (" in note
    (images / "\x1b[2J\n.png").unlink()
    (note,) = open_source(str(images), OPTIONS).notes
    assert "e.tif (the range of 32-bit pixel values is not known)" in note
    for name in ("a.png", "b.png"):
        (images / name).unlink()
    with pytest.raises(
        InputError, match=r"got 3 unreadable and 0 other files: c\.png \(no image\)"
    ):
        open_source(str(images), OPTIONS)


def test_a_whole_disk_is_refused_before_it_is_walked(run: Run, seen: Seen) -> None:
    status, _, err = run("plan", Path.cwd().anchor, "--steps", 8)
    seen("a whole disk as source", "one line at once", err.strip()[:60])
    assert status == 2
    assert "whole disk" in err
    assert err.count("\n") == 1


def test_a_folder_of_other_files_is_left_soon_and_walked_aloud(
    images: Path, run: Run, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opmerge.data.images._LISTED_AT_ONCE", 10)
    told: list[int] = []
    for number in range(50):
        (images / f"{number}.xml").touch()
    assert open_source(str(images), OPTIONS, told.append).num_samples == 2
    assert told == [10, 20, 30, 40, 50, 2]  # listed, then decoded
    monkeypatch.setattr("opmerge.data.images._MOST_OTHERS", 40)
    for path in images.glob("*.png"):
        path.unlink()
    status, _, err = run("plan", images, "--steps", 8)
    seen("a folder of very many files, none of them samples", "one line, early", err.strip()[:60])
    assert status == 2
    assert "a sample among its first 40 files" in err
    assert err.count("\n") == 1
