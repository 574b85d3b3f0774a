"""Captions of images, prompts and classes, read from files in the layouts that people have."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from opmerge.data import open_source
from opmerge.data.captions import folder_labels, read_captions, read_prompts
from opmerge.data.source import Files
from opmerge.errors import InputError

FILES = ["a.png", "b.png", "deep/c.png"]
TEXTS = ["a cat, asleep", 'a "dog"', "ein Hügel\nam Meer"]


def jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def rows(column: str = "text") -> list[dict[str, object]]:
    pairs = zip(FILES, TEXTS, strict=True)
    return [{"file_name": name, column: text, "seed": 3} for name, text in pairs]


def test_captions_are_read_from_every_layout(tmp_path: Path) -> None:
    jsonl(tmp_path / "lines" / "metadata.jsonl", rows()[::-1])
    (tmp_path / "table").mkdir()
    with (tmp_path / "table" / "metadata.csv").open(
        "w", newline="", encoding="utf-8-sig"
    ) as stream:
        table = csv.DictWriter(stream, ["text", "file_name", "seed"])
        table.writeheader()
        table.writerows(rows())
    for name, text in zip(FILES, TEXTS, strict=True):
        path = (tmp_path / "beside" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    jsonl(tmp_path / "nested" / "metadata.jsonl", rows()[:2])
    jsonl(
        tmp_path / "nested" / "deep" / "metadata.jsonl", [{"file_name": "c.png", "text": TEXTS[2]}]
    )
    for layout in ("lines", "table", "beside", "nested"):
        assert read_captions(Files(tmp_path / layout, FILES)) == TEXTS, layout


def test_a_metadata_file_goes_before_text_beside_an_image(tmp_path: Path) -> None:
    jsonl(tmp_path / "metadata.jsonl", [{"file_name": "./a.png", "caption": "told"}])
    for stem in ("a", "b"):
        (tmp_path / f"{stem}.txt").write_text("beside")
    assert read_captions(Files(tmp_path, ["a.png", "b.png"]), "caption") == ["told", "beside"]


def test_captions_that_are_missing_or_unclear_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "metadata.jsonl", rows()[:1])
    with pytest.raises(
        InputError, match=r"each of 3 images, got 2 image files: b\.png, deep/c\.png"
    ):
        read_captions(Files(tmp_path, FILES))
    cases = {
        '{"file_name": "a.png", "text": null}': "must have a caption as text, got None",
        '{"file_name": "a.png", "label": "x"}': "as text, got columns label; pass `caption_column`",
        '{"text": "x"}': "must have file_name",
        "[1]": "must be a JSON object",
        '{"file_name"': "cannot be read",
        '{"file_name": "a.png", "text": "x"}\n' * 2: "row 2` must be of another image, got a.png",
    }
    for content, message in cases.items():
        (tmp_path / "metadata.jsonl").write_text(content)
        with pytest.raises(InputError, match=message) as caught:
            read_captions(Files(tmp_path, ["a.png"]))
        assert "\n" not in str(caught.value)
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"a\.txt` must be text in UTF-8"):
        read_captions(Files(tmp_path, ["a.png"]))


def test_prompts_are_lines_or_json_strings(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\n two \nthree", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["one", "two", "three"]
    (tmp_path / "p.jsonl").write_text('"a\\nb"\n""\n')
    assert read_prompts(tmp_path / "p.jsonl") == ["a\nb", ""]
    for name, content in (
        ("e.txt", b"\n"),
        ("x.txt", b"\xff"),
        ("n.jsonl", b"3\n"),
        ("m.jsonl", b"x"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"prompts|x\.txt` must be text in UTF-8"):
            read_prompts(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(tmp_path / "nowhere.txt")


def test_folders_are_classes_in_the_order_of_their_names() -> None:
    labels, classes = folder_labels(
        Files(Path(), ["n02/a.png", "n01/b.png", "n02/c.png", "n1/d.png"])
    )
    assert classes == ["n01", "n02", "n1"]
    np.testing.assert_array_equal(labels, [1, 0, 1, 2])
    with pytest.raises(InputError, match=r"labels.*loose\.png"):
        folder_labels(Files(Path(), ["n02/a.png", "loose.png"]))


def test_a_folder_of_images_says_its_files_and_takes_captions_for_no_strangers(
    tmp_path: Path,
) -> None:
    from PIL import Image

    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    jsonl(tmp_path / "metadata.jsonl", rows())
    (tmp_path / "deep" / "c.txt").write_text("x")
    (tmp_path / "readme.txt").write_text("x")
    source = open_source(str(tmp_path))
    assert source.files == Files(tmp_path, FILES)
    assert source.notes[0] == "1 ignored (no image) file: readme.txt"
