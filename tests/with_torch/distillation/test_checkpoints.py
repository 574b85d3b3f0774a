"""Checkpoints: whole and of this run, or refused in one line."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_resume import (
    DATA,
    assert_same,
    checkpoints,
    distillation,
    finish,
)

from opmerge.distillation.executor import Distillation
from opmerge.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A run of 15 iterations with checkpoints 12 and 14, and its student's weights."""
    folder = tmp_path_factory.mktemp("finished")
    weights = finish(distillation(folder, checkpoints_total_limit=3))[1]
    shutil.rmtree(folder / "checkpoint-15")  # as if it had been killed in the last iteration
    return folder, weights


@pytest.fixture
def folder(finished: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def resumed(folder: Path, **changes: Any) -> tuple[Distillation, int, list[str]]:
    warnings: list[str] = []
    run = distillation(folder, warnings.append, **changes)
    return run, run.resume(), warnings


def test_a_finished_run_has_its_newest_checkpoints(tmp_path: Path) -> None:
    finish(distillation(tmp_path))
    assert checkpoints(tmp_path) == ["checkpoint-14", "checkpoint-15"]


def test_a_checkpoint_names_its_files(folder: Path) -> None:
    assert checkpoints(folder) == ["checkpoint-12", "checkpoint-14"]
    names = {path.name for path in (folder / "checkpoint-14").iterdir()}
    manifest = json.loads((folder / "checkpoint-14/checkpoint.json").read_text(encoding="utf-8"))
    assert names == {*manifest["files"], "checkpoint.json"}
    assert {"model.safetensors", "optimizer.bin", "scheduler.bin"} < names


def _truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 1
    path.write_bytes(content)


TEARS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "flipped": (_flip, "damaged"),
    "missing": (Path.unlink, "missing"),
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_file_is_named_and_the_checkpoint_before_is_taken(
    folder: Path, tear: str, finished: tuple[Path, list[Any]]
) -> None:
    damage, word = TEARS[tear]
    target = folder / "checkpoint-14"
    whole = folder.with_name("whole")
    target.rename(whole)
    for name in sorted(path.name for path in whole.iterdir()):
        shutil.copytree(whole, target)
        damage(target / name)
        run, done, warnings = resumed(folder)
        assert done == 12
        assert warnings == [f"{target} is refused: it is torn ({name} is {word})"]
        shutil.rmtree(target)
    assert_same(finish(run)[1], finished[1])


def test_no_bit_of_the_manifest_may_change(folder: Path) -> None:
    path = folder / "checkpoint-14" / "checkpoint.json"
    content = path.read_bytes()
    run = distillation(folder)
    rng = random.Random(0)
    for place in rng.sample(range(len(content)), 100):
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(7)
        try:
            same = json.loads(changed) == json.loads(content)  # white space may
        except ValueError:
            same = False
        path.write_bytes(changed)
        assert run.resume() == (14 if same else 12), (place, chr(changed[place]))


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "7", '{"format": []}', "\x00"])
def test_a_manifest_that_is_none_is_refused(folder: Path, content: str) -> None:
    path = folder / "checkpoint-14" / "checkpoint.json"
    path.write_text(content, encoding="utf-8")
    _, done, warnings = resumed(folder)
    assert done == 12
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert "checkpoint-14 is refused: it is " in warnings[0]


def test_an_empty_folder_and_a_strange_name_are_no_checkpoints(folder: Path) -> None:
    (folder / "checkpoint-16").mkdir()
    (folder / "checkpoint-last").mkdir()
    (folder / "checkpoint-18").write_text("a file", encoding="utf-8")
    _, done, warnings = resumed(folder)
    assert done == 14
    assert warnings == [
        f"{folder}/checkpoint-16 is refused: it is torn (checkpoint.json is missing)"
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"learning_rate": 1e-3},
        {"lr_scheduler": "linear"},
        {"ema_decay": 0.0},
        {"train_batch_size": 4},
        {"strategy": "boot", "num_iterations": 3},
        {"num_iterations": 6},
        {"merge_rule": "operator-copy"},
        {"loss_weighting": "x-space"},
        {"sharing": "merge", "num_iterations": 3},
        {"curriculum": "none"},
        {"data": DATA + 1e-6},
        {"teacher_seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_run_is_refused(folder: Path, change: dict[str, Any]) -> None:
    warnings: list[str] = []
    run = distillation(folder, warnings.append, **change)
    message = (
        r"`resume_from_checkpoint` must find a whole checkpoint of this run, got checkpoint-14"
    )
    with pytest.raises(InputError, match=message) as caught:
        run.resume()
    assert "\n" not in str(caught.value)
    assert [re.sub(".*(checkpoint-)", r"\1", line) for line in warnings] == [
        f"checkpoint-{n} is refused: it is of another run (plan, teacher, data or settings differ)"
        for n in (14, 12)
    ]
    assert checkpoints(folder) == ["checkpoint-12", "checkpoint-14"]


@pytest.mark.parametrize(
    "change",
    [
        {"checkpointing_steps": 1},
        {"checkpoints_total_limit": 5},
        {"train_batch_size": 2, "gradient_accumulation_steps": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_decides_nothing_may_change(folder: Path, change: dict[str, Any]) -> None:
    assert resumed(folder, **change)[1:] == (14, [])


def test_a_checkpoint_may_be_named(folder: Path) -> None:
    for wanted in ("checkpoint-12", str(folder / "checkpoint-12"), f"{folder}/checkpoint-12/"):
        assert distillation(folder).resume(wanted) == 12
    with pytest.raises(InputError, match=r"got checkpoint-9; there are: checkpoint-14, checkpoint"):
        distillation(folder).resume("checkpoint-9")
    with pytest.raises(InputError, match=r"got checkpoint-9; there are: none"):
        distillation(folder / "empty").resume("checkpoint-9")
    assert distillation(folder / "empty").resume() == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_the_newest_are_kept(tmp_path: Path, limit: int) -> None:
    run = distillation(tmp_path, checkpoints_total_limit=limit)
    for record in run.run():
        written = range(2, record.step, 2)  # this iteration's is written when the next is asked for
        assert len(checkpoints(tmp_path)) == min(limit, len(written))
        assert {f"checkpoint-{n}" for n in written[-limit:]} == set(checkpoints(tmp_path))


def test_a_run_beside_the_checkpoints_of_another_keeps_its_own(folder: Path) -> None:
    """Higher numbers of a run before it are no reason to remove what was just written."""
    run = distillation(folder, seed=1)
    for record in run.run():
        if record.step == 7:
            break
    _, done, warnings = resumed(folder, seed=1)
    assert done == 6
    assert len(warnings) == 2
    assert set(checkpoints(folder)) == {f"checkpoint-{n}" for n in (4, 6, 12, 14)}


def test_a_torn_checkpoint_is_replaced(folder: Path, finished: tuple[Path, list[Any]]) -> None:
    (folder / "checkpoint-14" / "optimizer.bin").unlink()
    run, done, _ = resumed(folder)
    assert done == 12
    assert_same(finish(run)[1], finished[1])
    assert distillation(folder).resume("checkpoint-14") == 14
