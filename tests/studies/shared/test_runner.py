"""Sweeps: every cell once, in order, on every engine; what is finished survives anything."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from joblib.externals.loky import get_reusable_executor, process_executor

from opmerge.errors import InputError
from opmerge_studies.shared import runner as module
from opmerge_studies.shared.runner import Report, Runner, grid

# workers import this module
PYTHONPATH = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
LOG = "log:"  # no path, for a file that changes makes another cell


def square(number: int, log: str) -> dict[str, Any]:
    """A cell that leaves a trace of every call."""
    with Path(log.removeprefix(LOG)).open("a", encoding="utf-8") as stream:
        stream.write(f"{number}\n")
    return {"square": number**2, "root": float(np.sqrt(number))}


def die_at_three(number: int, log: str) -> dict[str, Any]:
    """As a worker does that the system kills for its memory."""
    if number == 3 and not Path(log.removeprefix(LOG)).with_suffix(".spare").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return square(number, log)


class Bars:
    """The progress of every sweep: title, total and what was done."""

    def __init__(self) -> None:
        self.seen: list[list[Any]] = []

    @contextmanager
    def __call__(self, title: str, total: float | None) -> Iterator[Report]:
        entry: list[Any] = [title, total, 0.0]
        self.seen.append(entry)

        def report(done: float, doing: str = "") -> None:
            entry[2] = done

        yield report


def runner_in(folder: Path, **given: Any) -> tuple[Runner, Bars, list[str]]:
    bars, warnings = Bars(), []
    return Runner(folder, bars, warnings.append, **{"num_workers": 1, **given}), bars, warnings


def cells(log: Path, count: int = 6) -> list[dict[str, Any]]:
    return [{"number": number, "log": f"{LOG}{log}"} for number in range(count)]


def expected(count: int = 6) -> list[dict[str, Any]]:
    return [{"square": n**2, "root": float(np.sqrt(n))} for n in range(count)]


def calls(log: Path) -> list[int]:
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


@pytest.mark.parametrize(
    ("backend", "num_workers"), [("loky", 1), ("loky", 2), ("dask", 2), ("ray", 2)]
)
@pytest.mark.filterwarnings("ignore")  # the engines' own
def test_every_engine_gives_the_same_results_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any, num_workers: int
) -> None:
    if backend != "loky":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    log = tmp_path / "log"
    runner, bars, warnings = runner_in(tmp_path, backend=backend, num_workers=num_workers)
    assert runner.sweep(square, cells(log), "squaring") == expected()
    assert calls(log) == list(range(6))
    assert bars.seen == [["squaring", 6, 6.0]]
    assert warnings == []


def test_what_is_finished_is_not_computed_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runner, bars, _ = runner_in(tmp_path)
    first = runner.sweep(square, cells(log, 3), "squaring")
    assert runner.sweep(square, cells(log, 3), "squaring") == first
    assert len(bars.seen) == 1
    assert runner.sweep(square, cells(log, 5), "squaring") == expected(5)
    assert calls(log) == [0, 1, 2, 3, 4]
    assert bars.seen[1] == ["squaring", 2, 2.0]


def test_other_arguments_functions_and_versions_are_other_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    runner, _, _ = runner_in(tmp_path)
    runner.sweep(square, cells(log, 1), "")
    runner.sweep(die_at_three, cells(log, 1), "")
    monkeypatch.setattr("opmerge_studies.shared.runner._code_digest", lambda: "other code")
    runner.sweep(square, cells(log, 1), "")
    assert calls(log) == [0, 0, 0]
    assert len(list((tmp_path / "cells").iterdir())) == 3


@pytest.mark.parametrize("package", ["opmerge", "opmerge_studies"])
def test_the_code_of_library_and_studies_is_part_of_a_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    for name in ("opmerge", "opmerge_studies/shared"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr("opmerge.__file__", str(tmp_path / "opmerge/__init__.py"))
    monkeypatch.setattr(module, "__file__", str(tmp_path / "opmerge_studies/shared/runner.py"))
    digests = set()
    for code in ("a = 1", "a = 2"):
        (tmp_path / package / "code.py").write_text(code)
        digests.add(module._code_digest.__wrapped__())
    assert len(digests) == 2


def test_a_grid_is_every_combination_the_last_axis_fastest() -> None:
    cells = grid(steps=(8, 16), rule=["a", "b"], values=[[1, 2]])
    assert [tuple(cell.values()) for cell in cells] == [
        (steps, rule, [1, 2]) for steps in (8, 16) for rule in "ab"
    ]
    assert list(cells[0]) == ["steps", "rule", "values"]
    assert grid(steps=(8, 16), rule=[]) == []


def two_rows(number: int) -> list[int]:
    return [number, -number]


def test_rows_of_all_cells_are_one_list(tmp_path: Path) -> None:
    runner, _, _ = runner_in(tmp_path)
    assert runner.rows(two_rows, grid(number=(1, 2)), "") == [1, -1, 2, -2]


def two_tables(number: int) -> dict[str, list[int]]:
    return {"itself": [number], "both": [number, -number]}


def test_tables_of_all_cells_are_joined_by_name(tmp_path: Path) -> None:
    runner, _, _ = runner_in(tmp_path)
    joined = runner.tables(two_tables, grid(number=(1, 2)), "")
    assert joined == {"itself": [1, 2], "both": [1, -1, 2, -2]}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"backend": "mpi"}, "`backend` must be one of loky, dask, ray, got mpi"),
        ({"num_workers": 0}, "`num_workers` must be >= 1, or -1 for one a core, got 0"),
        ({"num_workers": -2}, "`num_workers` must be >= 1, or -1 for one a core, got -2"),
    ],
)
def test_a_runner_that_cannot_be_is_refused(tmp_path: Path, where: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Runner(tmp_path, **where)
    assert str(caught.value) == message


def count_letters(path: str) -> int:
    return len(Path(path).read_text(encoding="utf-8"))


def test_a_file_that_changed_under_its_name_is_read_again(tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    runner, _, _ = runner_in(tmp_path)
    for text in ("a", "longer"):
        data.write_text(text)
        assert runner.sweep(count_letters, [{"path": str(data)}], "") == [len(text)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"square": 4', '"square": 5'),
        lambda text: "[]",
        lambda text: "",
    ],
    ids=["torn", "altered", "another", "empty"],
)
def test_a_damaged_cell_is_computed_again_and_named(tmp_path: Path, damage: Any) -> None:
    log = tmp_path / "log"
    runner, _, warnings = runner_in(tmp_path)
    runner.sweep(square, cells(log, 3), "")
    (path,) = [p for p in (tmp_path / "cells").iterdir() if '"square": 4' in p.read_text()]
    path.write_text(damage(path.read_text()))
    assert runner.sweep(square, cells(log, 3), "") == expected(3)
    assert warnings == [f"{path} is damaged; it is computed again"]
    assert calls(log) == [0, 1, 2, 2]
    runner.sweep(square, cells(log, 3), "")
    assert len(warnings) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", ["loky", "dask", "ray"])
def test_a_killed_worker_is_one_line_and_the_rest_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    if backend != "loky":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    log = tmp_path / "log"
    runner, _, _ = runner_in(tmp_path, num_workers=2, backend=backend)
    with pytest.raises(InputError, match=r"one was killed, got 2; run the same command again"):
        runner.sweep(die_at_three, cells(log), "")
    log.with_suffix(".spare").touch()
    assert runner.sweep(die_at_three, cells(log), "") == expected()


def test_an_interrupt_while_workers_start_ends_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    get_reusable_executor().shutdown(kill_workers=True)  # so that others start
    start, started = process_executor._ExecutorManagerThread.start, []

    def interrupted(thread: Any) -> None:
        children = psutil.Process().children(recursive=True)
        started.extend(each for each in children if "tracker" not in " ".join(each.cmdline()))
        signal.raise_signal(signal.SIGINT)
        start(thread)

    monkeypatch.setattr(process_executor._ExecutorManagerThread, "start", interrupted)
    runner, _, _ = runner_in(tmp_path, num_workers=2)
    with pytest.raises(KeyboardInterrupt):
        runner.sweep(square, cells(tmp_path / "log"), "squares")
    _, alive = psutil.wait_procs(started, timeout=60)
    assert len(started) >= 2
    assert alive == []


def grows(number: int) -> int:
    """Of a worker whose memory loky from now on takes for leaking; the worker."""
    process_executor._MEMORY_LEAK_CHECK_DELAY = 0
    process_executor._MAX_MEMORY_LEAK_SIZE = -(10**12)
    return os.getpid()


def test_workers_that_have_grown_are_replaced_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For where warnings are errors, that of loky's thread ended it, and the sweep never did."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    get_reusable_executor().shutdown(kill_workers=True)  # so that others start
    runner, _, _ = runner_in(tmp_path, num_workers=2)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        workers = runner.sweep(grows, grid(number=range(6)), "growing")
    get_reusable_executor().shutdown(kill_workers=True)
    assert len({*workers}) > 2
    assert [str(each.message) for each in told] == []


def test_an_error_of_a_cell_is_raised_and_the_others_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    runner, _, _ = runner_in(tmp_path)
    bad = [*cells(log, 2), {"number": "two", "log": f"{LOG}{log}"}]
    with pytest.raises(TypeError):
        runner.sweep(square, bad, "")
    assert len(list((tmp_path / "cells").iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cells").write_text("a file in the way")
    runner, _, _ = runner_in(tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        runner.sweep(square, cells(tmp_path / "log", 1), "")


def test_results_are_json(tmp_path: Path) -> None:
    runner, _, _ = runner_in(tmp_path)
    (result,) = runner.sweep(square, cells(tmp_path / "log", 1), "")
    (path,) = (tmp_path / "cells").iterdir()
    assert json.loads(path.read_text())["result"] == result
