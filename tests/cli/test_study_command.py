"""The command `study`: what it writes, what `report` draws again, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from opmerge.cli import main, studies
from opmerge.cli.studies import load_study, study_names
from opmerge.page.study import StudyPage
from opmerge_studies import phase

Record = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]

STUDY = phase.STUDY
TINY = phase.PhaseSettings(steps=(16, 32), num_eigenvalues=24, denoiser_steps=(16,))
BOTH = ("phase", "synthetic")
OPTIONS = ("--set", "steps=[16,32]", "--set", "denoiser_steps=[16]", "--set", "num_eigenvalues=24")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies") / "phase"
    arguments = ["study", "phase", *OPTIONS, "--num_workers", "1", "--output_dir", str(folder)]
    assert main(arguments) == 0
    return folder


def test_a_study_writes_its_record_tables_figures_and_page(
    written: Path, record: Record, page: StudyPage
) -> None:
    on_disk = json.loads((written / "record.json").read_text())
    assert on_disk["tables"] == record["tables"]
    with (written / "tables" / "plans.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["best"]) for row in table] == [
        row["best"] for row in record["tables"]["plans"]
    ]
    assert (written / "report.html").read_text() == page.html
    for name, picture in page.figures.items():
        assert (written / "figures" / f"{name}.png").read_bytes() == picture
    config = json.loads((written / "config.json").read_text())
    assert config["command"] == "study phase"
    assert config["options"]["set"] == [*OPTIONS[1::2]]


def test_the_report_is_redrawn_from_the_record_alone(written: Path, run: Run) -> None:
    page = (written / "report.html").read_bytes()
    cells = {path: path.stat().st_mtime_ns for path in (written / "cells").iterdir()}
    (written / "report.html").unlink()
    assert run("report", written)[0] == 0
    assert (written / "report.html").read_bytes() == page
    assert {path: path.stat().st_mtime_ns for path in (written / "cells").iterdir()} == cells


def test_an_index_links_the_studies_below(written: Path, run: Run) -> None:
    status, out, _ = run("report", written.parent)
    assert status == 0
    assert str(written.parent / "report.html") in out
    page = (written.parent / "report.html").read_text()
    assert 'href="phase/report.html"' in page
    assert "Sequential BOOT is best" in page


def test_an_incomplete_record_does_not_keep_the_index_from_the_others(
    written: Path, tmp_path: Path, run: Run
) -> None:
    for name, text in (("phase", (written / "record.json").read_text()), ("synthetic", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    assert run("report", tmp_path)[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "Sequential BOOT is best" in page
    assert "The record cannot be read: KeyError" in page
    status, _, err = run("report", tmp_path / "synthetic")
    assert (status, err.count("\n")) == (2, 1)


def test_all_goes_on_when_a_study_fails(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {name: entry for name, entry in studies._entries().items() if name in BOTH}
    monkeypatch.setattr(studies, "_entries", lambda: two)
    tmp_path.joinpath("phase").write_text("a file in the way")
    arguments = ("study", "all", "--quick", "--num_workers", 1, "--output_dir", tmp_path)
    status, out, err = run(*arguments)
    assert status == 2
    assert "opmerge: phase: `output_dir` must be a folder that can be written to" in err
    assert err.splitlines()[-1].startswith("opmerge: `study` must run, and phase did not")
    assert "synthetic: " in out
    assert 'href="synthetic/report.html"' in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nonsense",), "`study` must be all or one of ablation, better-than-teacher,"),
        ((), "`study` must be all or one of ablation, better-than-teacher,"),
        (("phase", "--backend", "slurm"), "`backend` must be one of loky, dask, ray, got slurm"),
        (("phase", "--num_workers", "0"), "`num_workers` must be >= 1, or -1 for one a core"),
        (("phase", "--set", "steps=[2]"), "`steps.0` must be >= 4, got 2"),
        (("phase", "--output_dir", "/dev/null/x"), "`output_dir` must be a folder that can be"),
        (("all", "--set", "steps=[16]"), "`set` must be left out with all"),
        (("phase", "--neural"), "`set` must name one of steps, num_eigenvalues, "),
    ],
)
def test_bad_options_are_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run("study", *arguments)
    assert status == 2
    assert err.startswith(f"opmerge: {message}")
    assert err.count("\n") == 1
    assert not any(tmp_path.rglob("*.json"))


def test_every_study_is_listed_with_its_question(run: Run) -> None:
    status, out, _ = run("study", "--list")
    assert status == 0
    lines = [f"{name}: {load_study(name).question}" for name in study_names()]
    assert out.splitlines() == lines


def test_a_study_that_cannot_be_imported_stops_no_other(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("broken", "no_such_package:STUDY", "opmerge.studies")
    known = studies._entries()
    monkeypatch.setattr(studies, "_entries", lambda: {**known, "broken": broken})
    status, out, _ = run("study", "--list")
    assert status == 0
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines.keys() == {*known, "broken"}
    assert "`broken` must be importable from no_such_package:STUDY" in lines["broken"]
    status, _, err = run("study", "broken")
    assert (status, err.count("\n")) == (2, 1)
