"""What the command line's --schedule takes: names, diffusers folders, files of arrays."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategies import NAMED_SCHEDULES

from opmerge.errors import InputError
from opmerge.schedules import (
    NoiseSchedule,
    arrays_schedule,
    diffusers_schedule,
    resolve_schedule,
)


def raises(message: str) -> Any:
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def assert_same(one: NoiseSchedule, other: NoiseSchedule) -> None:
    assert one.to_dict() == other.to_dict()


@pytest.mark.parametrize("name", NAMED_SCHEDULES)
def test_names_resolve(name: str) -> None:
    expected = NAMED_SCHEDULES[name](12)
    for text in (name, name.replace("-", "_"), f" {name.upper()} "):
        assert_same(resolve_schedule(text, 12), expected)


def test_equal_angle_takes_its_eigenvalue_from_the_text() -> None:
    assert resolve_schedule("equal-angle:0.25", 5).parameters == {"eigenvalue": 0.25}


ALPHAS, SIGMAS = np.array([1, 0.8, 0.28]), np.array([0.01, 0.6, 0.96])


def test_files_of_arrays_resolve(tmp_path: Path) -> None:
    rows = np.stack([ALPHAS, SIGMAS])
    np.savez(tmp_path / "a.npz", alphas=ALPHAS, sigmas=SIGMAS)
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "columns.npy", rows.T)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    np.savetxt(tmp_path / "columns.csv", rows.T, delimiter=",")
    np.savetxt(tmp_path / "header.csv", rows.T, delimiter=",", header="alphas, sigmas", comments="")
    lists = {"alphas": ALPHAS.tolist(), "sigmas": SIGMAS.tolist()}
    (tmp_path / "a.json").write_text(json.dumps(lists))
    expected = arrays_schedule(ALPHAS, SIGMAS)
    (tmp_path / "stored.json").write_text(json.dumps(expected.to_dict()))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        assert_same(resolve_schedule(str(file), 2), expected)


def test_two_by_two_files_are_rows_unless_a_header_says_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0.9,0.2\n0.1,0.8\n")
    assert resolve_schedule(str(tmp_path / "a.csv"), 1).sigmas.tolist() == [0.1, 0.8]
    (tmp_path / "b.csv").write_text("alphas,sigmas\n0.9,0.2\n0.1,0.8\n")
    assert resolve_schedule(str(tmp_path / "b.csv"), 1).sigmas.tolist() == [0.2, 0.8]


CHOICES = "cosine, nichol-dhariwal, linear, scaled-linear, equal-angle:EIGENVALUE"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sigmoid", f"`schedule` must be one of {CHOICES}, or an existing file, got sigmoid"),
        ("a" * 5000, f"`schedule` must be one of {CHOICES}, or an existing file, got aaa"),
        ("", f"`schedule` must be one of {CHOICES}, or an existing file"),
        ("cosine:2", "`schedule` cosine takes no value, got 2; pass cosine"),
        (
            "equal-angle",
            "`schedule` equal-angle must come with a number, got ''; pass equal-angle:2.0",
        ),
        (
            "equal-angle:x",
            "`schedule` equal-angle must come with a number, got 'x'; pass equal-angle:2.0",
        ),
        ("equal-angle:-1", "`eigenvalue` must be > 0, got -1.0"),
    ],
)
def test_texts_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match="^" + re.escape(message)):
        resolve_schedule(text, 4)


def npz(**arrays: Any) -> Any:
    return lambda path: np.savez(path, **arrays)


def npy(array: Any) -> Any:
    return lambda path: np.save(path, array, allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        (
            "a.npz",
            npz(alphas=ALPHAS, sigmas=SIGMAS),
            "must hold num_steps + 1 = 5 alphas and sigmas, got 3; pass `num_steps=2`",
        ),
        ("a.npz", npz(alphas=ALPHAS), "must hold the array sigmas, got ['alphas']"),
        (
            "a.npz",
            npz(alphas=np.array([{}]), sigmas=SIGMAS),
            "must hold arrays of numbers (Object arrays cannot be loaded when allow_pickle=False)",
        ),
        (
            "a.npy",
            npy(np.array([[{}]])),
            "must hold arrays of numbers (Object arrays cannot be loaded when allow_pickle=False)",
        ),
        (
            "a.npy",
            npy(np.eye(3)),
            "must hold two rows or two columns, alphas and sigmas, got shape",
        ),
        (
            "a.npy",
            npy(np.ones(4)),
            "must hold two rows or two columns, alphas and sigmas, got shape",
        ),
        ("a.npy", b"junk", "must hold arrays of numbers ("),
        ("a.npy", b"", "must hold arrays of numbers ("),
        ("a.npz", b"PK\x03\x04junk", "must hold arrays of numbers ("),
        ("a.csv", b"1,0\n0,x\n", "must have a number in each field, got 'x' in line 2"),
        ("a.csv", b"1,0\n0\n", "must have as many fields in each row, got 1 after 2"),
        ("a.csv", b"\xff\xfe1,0", "must be text in UTF-8"),
        ("a.csv", b"\n", "must hold rows of numbers, got an empty file"),
        ("a.csv", b"alphas,sigmas\n", "must hold rows of numbers, got only names"),
        ("a.txt", b"1,0\n0,1\n", "must be a folder or a .json, .npz, .npy, .csv or .tsv file"),
        ("a.json", b"{", "must hold JSON ("),
        ("a.json", b"[" * 200_000, "must hold JSON ("),
        ("a.json", b"\xff", "must be text in UTF-8"),
        ("a.json", b"[1, 2]", "must hold a JSON object, got [1, 2]"),
    ],
)
def test_files_refused(tmp_path: Path, name: str, write: Any, message: str) -> None:
    path = tmp_path / name
    if isinstance(write, bytes):
        path.write_bytes(write)
    else:
        write(path)
    with pytest.raises(InputError, match="^" + re.escape(f"`{path}` {message}")):
        resolve_schedule(str(path), 4)


def test_folders_without_a_scheduler_are_refused(tmp_path: Path) -> None:
    with raises(
        f"`{tmp_path}` must hold scheduler_config.json or scheduler/scheduler_config.json; "
        "pass the folder of a saved diffusers model"
    ):
        resolve_schedule(str(tmp_path), 4)
    missing = tmp_path / "none.json"
    with raises(f"`{missing}` cannot be read (No such file or directory)"):
        diffusers_schedule(missing, 4)


def test_other_json_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"_class_name": "UNet2DModel", "sample_size": 32}')
    with pytest.raises(InputError, match="must be a scheduler of diffusers, got UNet2DModel"):
        resolve_schedule(str(path), 4)
    path.write_text('{"sample_size": 32}')
    with pytest.raises(InputError, match="`schedule` must have no keys but name, "):
        resolve_schedule(str(path), 4)


def test_without_diffusers_a_folder_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    (tmp_path / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with raises(
        "`scheduler config` needs the package diffusers, which is not installed; "
        "pip install 'opmerge[torch]'"
    ):
        resolve_schedule(str(tmp_path), 4)
    assert resolve_schedule("scaled-linear", 4).num_steps == 4


@pytest.mark.parametrize(
    "damage", [(b"(2, 3)", b"(((2, 3"), (b"'<f8'", b"'<f8'}"), (b"(2, 3)", b"(2,\n 3")]
)
def test_a_damaged_header_is_refused(tmp_path: Path, damage: tuple[bytes, bytes]) -> None:
    """Of which NumPy says errors of many types."""
    np.save(tmp_path / "a.npy", np.stack([ALPHAS, SIGMAS]))
    content = (tmp_path / "a.npy").read_bytes()
    assert damage[0] in content
    (tmp_path / "a.npy").write_bytes(content.replace(*damage))
    with pytest.raises(InputError, match="must hold arrays of numbers"):
        resolve_schedule(str(tmp_path / "a.npy"), 2)
