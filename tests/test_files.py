"""Files and folders that take their place when they are whole, and on the disk."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from opmerge.errors import InputError
from opmerge.files import GO_ON, folder_beside, replace_folder, why_not_written, write_atomic


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "model"
    for text in ("old", "new"):
        with folder_beside(folder) as unfinished:
            (unfinished / "part").mkdir()
            (unfinished / "part" / "weights").write_text(text)
            (unfinished / text).write_text("")
            if text == "new":
                assert content(folder) == {"part/weights": "old", "old": ""}
        assert content(folder) == {"part/weights": text, text: ""}
        assert [path.name for path in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("No space left")])
def test_a_folder_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, error: Exception
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine").write_text("")
    message = rf"model` cannot be written \(No space left\); {GO_ON}$"

    def write() -> None:
        with folder_beside(folder) as unfinished:
            (unfinished / "half").write_text("")
            raise error

    with pytest.raises(InputError, match=message):
        write()
    assert content(tmp_path) == {"model/mine": ""}


def test_why_a_library_could_not_write(tmp_path: Path) -> None:
    """What the error knows, then what a write in the same place is told, then what was said."""
    vague = RuntimeError("unexpected pos 64 vs 0\nat a line of C++")
    assert why_not_written(vague, tmp_path) == "unexpected pos 64 vs 0"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert why_not_written(vague, tmp_path) == "File too large"
        with pytest.raises(InputError) as caught:
            write_atomic(tmp_path / "plan.json", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert why_not_written(caught.value, tmp_path) == "File too large"
    assert why_not_written(OSError(28, "No space left"), tmp_path) == "No space left"
    assert not list(tmp_path.iterdir())


def test_an_interruption_is_none_of_its_affairs(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder_beside(tmp_path / "model"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_the_old_folder_comes_back_if_the_new_one_cannot_be_renamed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "mine").write_text("")
    with pytest.raises(FileNotFoundError):
        replace_folder(folder, tmp_path / "missing")
    assert content(tmp_path) == {"model/mine": ""}


def test_what_has_its_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and names within are brought there under another name, then the name itself is."""
    fsync, synced = os.fsync, list[str]()

    def watch(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink().relative_to(tmp_path)))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watch)
    with folder_beside(tmp_path / "model") as unfinished:
        (unfinished / "part").mkdir()
        (unfinished / "part" / "weights").write_text("1")
    beside = ".model.unfinished"
    *within, last = synced
    assert sorted(within) == [beside, f"{beside}/part", f"{beside}/part/weights"]
    assert last == "."
    synced.clear()
    write_atomic(tmp_path / "plan.json", "{}")
    first, last = synced
    assert first.startswith(".plan.json.")
    assert last == "."
