"""Finished parts are read again if whole and of their identity; else computed again, and told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from opmerge.errors import InputError
from opmerge.store import MISSING, Store, digest, file_digest

SETTINGS = {"rate": 0.5, "sizes": (1, 2)}
VALUE = {"error": 1.25, "plan": [[3, 2, 0]], "none": None}


class Computation:
    """Counts how often it was asked for."""

    def __init__(self, value: Any = VALUE) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> Any:
        self.calls += 1
        return self.value


def store_in(folder: Path) -> tuple[Store, list[str]]:
    lines: list[str] = []
    return Store(folder, lines.append), lines


def test_a_finished_part_is_computed_once(tmp_path: Path) -> None:
    store, lines = store_in(tmp_path / "run")
    compute = Computation()
    for _ in range(3):
        assert store.kept("cells/one", SETTINGS, compute) == VALUE
    assert compute.calls == 1
    assert lines == []
    assert store.path("cells/one") == tmp_path / "run/cells/one.json"
    content = json.loads(store.path("cells/one").read_text())
    assert content["result"] == VALUE
    assert content["digest"] == digest(VALUE)


@pytest.mark.parametrize("value", [None, 0, "", [], {}])
def test_a_value_may_be_empty(tmp_path: Path, value: Any) -> None:
    compute = Computation(value)
    for _ in range(2):
        assert Store(tmp_path).kept("it", None, compute) == value
    assert compute.calls == 1


def test_the_first_value_is_what_is_read_again(tmp_path: Path) -> None:
    store, _ = store_in(tmp_path)
    compute = Computation({9: (1, 2), 10: True})  # in another order as text
    for _ in range(2):
        assert store.kept("it", {}, compute) == {"9": [1, 2], "10": True}
    assert compute.calls == 1


@pytest.mark.parametrize(
    "other", [{"rate": 0.25, "sizes": (1, 2)}, {"rate": 0.5}, None, "a digest"]
)
def test_another_identity_is_another_part(tmp_path: Path, other: Any) -> None:
    store, lines = store_in(tmp_path)
    store.kept("it", SETTINGS, Computation("old"))
    assert store.kept("it", other, Computation("new")) == "new"
    assert lines == [
        f"{tmp_path}/it.json was computed from other settings, data or code; it is computed again"
    ]
    assert store.kept("it", other, Computation("newer")) == "new"
    assert len(lines) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("1.25", "1.26"),
        lambda text: text.replace("digest", "dizest"),
        lambda text: "[]",
        lambda text: "",
        lambda text: "\udcff",
    ],
    ids=["torn", "altered", "unsigned", "another", "empty", "no text"],
)
def test_a_damaged_part_is_computed_again_with_a_line(tmp_path: Path, damage: Any) -> None:
    store, lines = store_in(tmp_path)
    compute = Computation()
    store.kept("it", SETTINGS, compute)
    path = store.path("it")
    path.write_bytes(damage(path.read_text()).encode(errors="surrogateescape"))
    assert store.read("it", SETTINGS) is MISSING
    assert store.kept("it", SETTINGS, compute) == VALUE
    assert compute.calls == 2
    assert lines == [f"{path} is damaged; it is computed again"] * 2
    assert store.read("it", SETTINGS) == VALUE


def test_files_that_only_their_name_identifies_are_read(tmp_path: Path) -> None:
    """As version 1.0 wrote them; but under no other name."""
    store, lines = store_in(tmp_path)
    content = {"cell": {"number": 2}, "result": VALUE, "digest": digest(VALUE)}
    for name in (digest(SETTINGS)[:24], digest(SETTINGS), "it", digest(SETTINGS)[:3]):
        store.path(name).write_text(json.dumps(content))
    assert store.read(digest(SETTINGS)[:24], SETTINGS) == VALUE
    assert store.read(digest(SETTINGS), SETTINGS) == VALUE
    assert lines == []
    assert store.read("it", SETTINGS) is MISSING
    assert store.read(digest(SETTINGS)[:3], SETTINGS) is MISSING
    assert len(lines) == 2


def test_what_fails_or_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    store, lines = store_in(tmp_path)

    def fail() -> Any:
        raise RuntimeError

    for compute, error in (
        (fail, RuntimeError),
        (Computation(float("nan")), ValueError),
        (Computation({1, 2}), TypeError),
    ):
        with pytest.raises(error):
            store.kept("it", {}, compute)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        store.kept("file/it", {}, Computation())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert lines == []


# Folders


class Making:
    """Writes a file, and remembers what it found."""

    def __init__(self, text: str = "weights") -> None:
        self.text, self.found = text, list[list[str]]()

    def __call__(self, folder: Path) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        self.found.append(sorted(path.name for path in folder.iterdir()))
        (folder / "weights").write_text(self.text)
        return {"size": len(self.text)}


def test_a_finished_folder_is_made_once(tmp_path: Path) -> None:
    store, lines = store_in(tmp_path)
    make = Making()
    for _ in range(2):
        assert store.kept_folder("teacher", SETTINGS, make, ["weights"]) == {"size": 7}
    assert make.found == [[]]
    assert lines == []


def test_an_interrupted_folder_is_handed_on(tmp_path: Path) -> None:
    store, lines = store_in(tmp_path)

    def interrupted(folder: Path) -> Any:
        Making()(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.kept_folder("teacher", SETTINGS, interrupted)
    make = Making()
    store.kept_folder("teacher", SETTINGS, make)
    assert make.found == [["weights"]]
    assert lines == []


def test_a_folder_of_another_identity_is_unfinished_from_then_on(tmp_path: Path) -> None:
    """Killed while it is made for B, it is neither A's any more nor B's."""
    store, lines = store_in(tmp_path)
    store.kept_folder("teacher", "A", Making())

    def killed(folder: Path) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.kept_folder("teacher", "B", killed)
    make = Making()
    store.kept_folder("teacher", "A", make)
    assert make.found == [["weights"]]
    assert len(lines) == 1


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_text("weightz"), os.remove], ids=["altered", "lost"]
)
def test_a_folder_whose_files_changed_is_made_again(tmp_path: Path, damage: Any) -> None:
    store, lines = store_in(tmp_path)
    make = Making()
    store.kept_folder(".", SETTINGS, make, ["weights"])
    damage(tmp_path / "weights")
    for _ in range(2):
        assert store.kept_folder(".", SETTINGS, make, ["weights"]) == {"size": 7}
    assert len(make.found) == 2
    assert lines == [f"{tmp_path} is damaged; it is computed again"]


def test_digests_are_those_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "it").write_text('{"a": 1, "b": [2]}')
    assert file_digest(tmp_path / "it") == digest({"b": (2,), "a": 1})
    (tmp_path / "it").write_text("weights")
    assert file_digest(tmp_path / "it").startswith("9a129038d9a00aed")
