"""Fixtures for every test: the command line in this process, and the state that torch keeps."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from opmerge.cli import main
from opmerge.page.study import StudyPage

Run = Callable[..., tuple[int, str, str]]
Program = Callable[..., subprocess.CompletedProcess[str]]
Seen = Callable[[str, object, object], None]


settings.register_profile("untimed", deadline=None)  # how fast anything is, benchmarks tell
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``make field`` prints what its cases saw."""
    parser.addoption("--field-table", action="store_true", help="print case, expected and got")


def pytest_configure(config: pytest.Config) -> None:
    """Ordinary tests see no device and test the CPU on any machine; ``-m gpu`` asks for others."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # also to the programs that tests start


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; status, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def program() -> Program:
    """Run the command line as people do, in a process of its own; no traceback is ever right.

    ``env`` replaces variables (None removes one), ``cwd``, ``timeout`` and ``input`` are those of
    ``subprocess.run``.
    """

    def call(
        *arguments: object, env: dict[str, str | None] | None = None, **others: Any
    ) -> subprocess.CompletedProcess[str]:
        environment: dict[str, str | None] = {**os.environ, **(env or {})}
        done = subprocess.run(
            [sys.executable, "-m", "opmerge.cli", *map(str, arguments)],
            env={name: value for name, value in environment.items() if value is not None},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            **{"timeout": 300, **others},
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


@pytest.fixture
def seen(record_property: Callable[[str, object], None]) -> Seen:
    """Note a row of ``make field``: the case, what is expected and what was got."""

    def note(case: str, expected: object, got: object) -> None:
        record_property("field", [case, str(expected), str(got)])

    return note


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table of all rows that the tests noted."""
    if not config.getoption("--field-table"):
        return
    rows = [
        (Path(report.fspath).stem.removeprefix("test_"), *row, outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, row in report.user_properties
        if name == "field"
    ]
    terminalreporter.section("field cases")
    for row in sorted(rows):
        terminalreporter.write_line(" | ".join(row))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are fastest so, sums are the same everywhere, and processes may be forked."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def old_objects_apart() -> None:
    """Garbage is collected at every stage: what imports and other modules left is passed over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as Playwright drives it, with an event loop that must end: others have theirs."""
    names = ("chromium", "google-chrome", "chromium-browser")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the run of the module's study."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """What the module's study ``STUDY`` finds with its settings ``TINY``."""
    study, settings = request.module.STUDY, request.module.TINY
    found: dict[str, Any] = study.record(settings, study.runner(folder, num_workers=1))
    return found


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest, record: dict[str, Any]) -> StudyPage:
    """The page of that record, drawn once."""
    drawn: StudyPage = request.module.STUDY.page(record)
    return drawn


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Device and precision belong to the process: forget them before and after."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
