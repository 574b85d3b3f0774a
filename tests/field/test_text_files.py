"""Text files as editors and shells of other systems save them: as if they were plain UTF-8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opmerge.data.captions import read_captions, read_prompts
from opmerge.data.source import Files
from opmerge.data.tables import read_table
from opmerge.errors import InputError
from opmerge.files import read_json_object
from opmerge.plans import Plan, PlanFile
from opmerge.schedules import cosine_schedule, resolve_schedule
from opmerge.training import GradientFlow

Seen = Callable[[str, object, object], None]
# Notepad's and PowerShell's, iconv's without a mark, and one that is rare.
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
CAPTION = "ein Hündchen; 犬, 🐕"
SCHEDULE = cosine_schedule(3)
PLAN = PlanFile(
    Plan.from_nested([[[3, 2], 1]]), SCHEDULE, GradientFlow(), "denoiser-copy", "teacher"
)
ROW = json.dumps({"file_name": "a.png", "text": CAPTION}, ensure_ascii=False)


def captions(path: Path) -> list[str]:
    return read_captions(Files(path.parent, ["a.png"]))


READ: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "a.csv": ("größe;b\n1,5;2\n", lambda path: read_table(path).values.tolist(), [[1.5, 2]]),
    "any.json": (json.dumps({"größe": CAPTION}, ensure_ascii=False), read_json_object, None),
    "schedule.json": (
        json.dumps({"alphas": [1, 0.5, 0], "sigmas": [0, 0.5, 1]}),
        lambda path: resolve_schedule(str(path), 2).alphas.tolist(),
        [1, 0.5, 0],
    ),
    "schedule.CSV": (
        "sigmas,alphas\n0,1\n0.5,0.5\n1,0\n",
        lambda path: resolve_schedule(str(path), 2).alphas.tolist(),
        [1, 0.5, 0],
    ),
    "plan.json": (PLAN.dumps(), lambda path: PlanFile.read(path).dumps(), PLAN.dumps()),
    "prompts.txt": (f"{CAPTION}\nother\n", read_prompts, [CAPTION, "other"]),
    "prompts.jsonl": (f'"{CAPTION}"\n""\n', read_prompts, [CAPTION, ""]),
    "prompts.JSONL": (f'"{CAPTION}"\n""\n', read_prompts, [CAPTION, ""]),
    "metadata.jsonl": (f"{ROW}\n", captions, [CAPTION]),
    "metadata.csv": (f'file_name,text\na.png,"{CAPTION}"\n', captions, [CAPTION]),
    "a.txt": (f"{CAPTION}\n", captions, [CAPTION]),
    "a.TXT": (f"{CAPTION}\n", captions, [CAPTION]),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_text_is_read_whatever_saved_it(
    tmp_path: Path, seen: Seen, name: str, encoding: str, line_end: str
) -> None:
    text, read, expected = READ[name]
    (tmp_path / name).write_bytes(text.replace("\n", line_end).encode(encoding))
    got = read(tmp_path / name)
    expected = json.loads(text) if expected is None else expected
    seen(f"{name} in {encoding}, lines end in {line_end!r}", str(expected)[:40], str(got)[:40])
    assert got == expected


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_metadata_may_come_from_a_spreadsheet(tmp_path: Path, delimiter: str) -> None:
    row = delimiter.join(("a.png", f'"{CAPTION}"'))
    (tmp_path / "metadata.csv").write_text(f"file_name{delimiter}text\n{row}\n", encoding="utf-8")
    assert captions(tmp_path / "metadata.csv") == [CAPTION]


@pytest.mark.parametrize("name", READ)
def test_text_of_another_encoding_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("größe".encode("cp1252"))
    with pytest.raises(
        InputError, match=r"must be text in UTF-8, got .*; save it in that"
    ) as error:
        READ[name][1](tmp_path / name)
    assert "\n" not in str(error.value)
