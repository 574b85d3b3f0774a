"""Files without an end, texts nested a million deep, archives that unpack to anything: one line."""

from __future__ import annotations

import json
import os
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opmerge import GradientFlow, Plan, PlanFile, cosine_schedule
from opmerge.errors import InputError
from opmerge.files import parse_json, read_json_object
from opmerge.forecast.files import read_table
from opmerge.plans import build_strategy, format_students, parse_plan
from opmerge.store import MISSING, Store

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

DEEP = 1_000_000
TEXTS = {
    "lists a million deep": "[" * DEEP + "]" * DEEP,
    "objects a million deep": '{"a":' * DEEP + "1" + "}" * DEEP,
    "a deep value": '{"format": "opmerge.plan", "version": ' + "[" * DEEP + "]" * DEEP + "}",
    "1e400": '{"format": "opmerge.record", "version": 1e400, "best": {"w2": 1e400}}',
    "5,000 digits": '{"format": "opmerge.record", "steps": ' + "9" * 5000 + "}",
    "400 digits": '{"format": "opmerge.record", "steps": ' + "9" * 400 + "}",
}
READERS = {  # what reads a JSON file, by the words of the command
    "plan file": ("evaluate", "digits", "--plan"),
    "schedule": ("plan", "digits", "--steps", 8, "--schedule"),
    "training": ("plan", "digits", "--steps", 8, "--training"),
    "export": ("export", "--to", "fastgen"),
}


def refused(result: tuple[int, str, str], *words: str) -> str:
    status, out, err = result
    assert (status, out) == (2, ""), result
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    return err.strip()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_text_without_measure(
    reader: str, text: str, run: Run, tmp_path: Path, seen: Seen
) -> None:
    path = tmp_path / "file.json"
    path.write_text(TEXTS[text])
    line = refused(run(*READERS[reader], path), str(path))
    seen(f"{reader}: {text}", "one line", line[-60:])


@pytest.mark.parametrize("text", TEXTS)
def test_a_record_without_measure(text: str, run: Run, tmp_path: Path, seen: Seen) -> None:
    (tmp_path / "record.json").write_text(TEXTS[text])
    line = refused(run("report", tmp_path), "record.json")
    seen(f"record: {text}", "one line", line[-60:])


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_without_measure_is_made_again(text: str, tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "cell.json").write_text(TEXTS[text])
    assert Store(tmp_path, warn=told.append).read("cell", {}) is MISSING
    assert len(told) == 1


def test_a_setting_without_measure(run: Run, tmp_path: Path) -> None:
    words = ("study", "phase", "--quick", "--output_dir", tmp_path / "run", "--set")
    refused(run(*words, "steps=" + TEXTS["lists a million deep"]), "steps")
    refused(run(*words, "steps=1e400"), "steps")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("suffix", [".json", ".npz", ".csv", ".npy"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "/dev/full"])
def test_a_file_without_an_end(
    kind: str, suffix: str, run: Run, tmp_path: Path, seen: Seen
) -> None:
    path = tmp_path / f"file{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif not Path(kind).exists():
        pytest.skip(f"no {kind} here")
    else:
        path.symlink_to(kind)
    words = [("plan", "digits", "--steps", 8, "--schedule", path)]
    words += [("plan", path, "--steps", 8), ("spectrum", path, "--as", "eigenvalues")]
    if suffix == ".json":
        words = [(*reader, path) for reader in READERS.values()]
    for each in words:
        line = refused(run(*each), str(path))
        seen(f"{each[0]}: {kind} as {suffix}", "one line, at once", line[-60:])


def bomb(path: Path, gibibytes: float, **arrays: np.ndarray) -> Path:
    """An archive with an array of zeros of so many GiB; packed it takes a thousandth."""
    piece = bytes(2**24)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
        count = int(gibibytes * 2**30 / 8)
        with archive.open("zeros.npy", "w", force_zip64=True) as stream:
            head = {"descr": "<f8", "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(stream, head)
            for _ in range(8 * count // len(piece)):
                stream.write(piece)
    return path


def test_an_archive_that_unpacks_to_anything(run: Run, tmp_path: Path, seen: Seen) -> None:
    header = np.array(json.dumps({"format": "opmerge.spectrum", "version": 1}))
    path = bomb(tmp_path / "bomb.npz", 1.25, header=header, digest=np.array("0"))
    assert path.stat().st_size < 2**24
    tracemalloc.start()
    for words in (
        ("plan", path, "--steps", 8),
        ("spectrum", path, "--as", "eigenvalues"),
        ("plan", "digits", "--steps", 8, "--schedule", path),
    ):
        line = refused(run(*words), str(path), "unpack")
        seen(f"{words[0]}: an archive of 1.25 GiB in 2 MiB", "one line", line[-60:])
    with pytest.raises(InputError, match="unpack"):
        read_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**27


@pytest.mark.parametrize("command", ["plan", "compare", "evaluate"])
def test_a_thousand_million_steps(command: str, run: Run, seen: Seen) -> None:
    words = ("--plan", "boot") if command == "evaluate" else ()
    line = refused(run(command, "digits", "--steps", 10**9, *words), "steps")
    seen(f"{command} --steps 1000000000", "one line, at once", line)


def test_a_comb_of_200_000_steps(run: Run, tmp_path: Path, seen: Seen) -> None:
    deep = "[" * 199_999 + "200000, 199999]"
    text = deep + "".join(f", {step}]" for step in range(199_998, 0, -1))
    problem = (cosine_schedule(4), GradientFlow(), "denoiser-copy", "teacher")
    file = PlanFile(build_strategy("boot", 4), *problem).dumps()
    before, after = file.index('"students"'), file.index('"schedule"')
    path = tmp_path / "comb.json"
    path.write_text(f'{file[:before]}"students": [{text}],\n  {file[after:]}')
    line = refused(run("evaluate", "digits", "--plan", path), "100,000")
    seen("a comb of 200,000 steps", "one line, at once", line[-60:])


def test_a_long_comb_takes_memory_in_proportion() -> None:
    nested = build_strategy("boot", 5_000).to_nested()
    tracemalloc.start()
    Plan.from_nested(nested)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24  # the places of all lists, as text, would take 37 MB


def test_long_combs_are_written_and_read() -> None:
    plan = build_strategy("boot", 20_000)
    text = format_students(plan)
    assert text.startswith("[" * 20_000 + "20000, 19999], 19998]")
    assert parse_plan(text[1:-1]) == plan
    assert Plan.from_nested(plan.to_nested()) == plan


def test_ordinary_numbers_and_names_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": [1e308, -0.0, 123456789012345678901], "b": "1e400", "c": -Infinity}')
    assert read_json_object(path) == {
        "a": [1e308, -0.0, 123456789012345678901],
        "b": "1e400",
        "c": -np.inf,
    }
    with pytest.raises(ValueError, match="not a number"):
        parse_json("[NaN]", is_strict=True)
