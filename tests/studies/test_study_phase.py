"""The study `phase`, and with it what the command line writes for every study."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opmerge.errors import InputError
from opmerge.training import GradientFlow
from opmerge_studies.phase import Config
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.study import STUDIES
from opmerge_studies.shared.transition import crossings, growth_threshold

Record = dict[str, Any]
Run = Callable[..., tuple[int, str, str]]

STUDY = STUDIES["phase"]
TINY = ("--set", "steps=[16,32]", "--set", "denoiser_steps=[16]", "--set", "num_eigenvalues=24")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    config = Config(steps=(16, 32), num_eigenvalues=24, denoiser_steps=(16,))
    runner = Runner(tmp_path_factory.mktemp("phase"), num_workers=1)
    return STUDY.run(config, runner)


def rows(record: Record, rule: str) -> list[Record]:
    return [row for row in record["tables"]["plans"] if row["merge_rule"] == rule]


# What it finds


def test_boot_is_best_up_to_1_and_vanilla_from_the_threshold_on(record: Record) -> None:
    """THEORY 7.2 and 7.3; the planner does not know them."""
    for row in rows(record, "operator-copy"):
        if row["eigenvalue"] <= 1:
            assert row["shape"] == "boot"
        if row["eigenvalue"] >= growth_threshold(row["num_steps"]):
            assert row["shape"] == "vanilla"
        assert row["best"] <= min(row[name] for name in ("boot", "vanilla", "progressive"))


def test_between_them_lies_a_band_of_other_plans(record: Record) -> None:
    for crossing in record["tables"]["crossings"]:
        assert 1 <= crossing["boot_to"] < crossing["band_from"] < crossing["band_to"]
        assert crossing["band_to"] < crossing["vanilla_from"]
        # Where BOOT and vanilla err equally neither is best: the band has begun by then.
        assert crossing["boot_to"] < crossing["first_crossing"] < crossing["band_to"]
        assert crossing["band_to"] < crossing["threshold"]


def test_under_denoiser_copy_there_is_no_transition(record: Record) -> None:
    """THEORY 7.9."""
    found = rows(record, "denoiser-copy")
    assert {row["shape"] for row in found} == {"boot"}
    assert min(row["eigenvalue"] for row in found) < 1 < max(row["eigenvalue"] for row in found)


@pytest.mark.parametrize(
    ("num_steps", "expected", "digits"),
    [(16, 1.140, 3), (64, 1.0365, 4), (128, 1.0185, 4), (256, 1.009365, 6)],
)
def test_crossings_are_those_of_the_theory(num_steps: int, expected: float, digits: int) -> None:
    """THEORY 7.5; T = 256 of which T = 256 is 1.0093646 there and here, rounded."""
    assert round(crossings(num_steps, GradientFlow())[0], digits) == expected


@pytest.mark.parametrize("num_steps", [4, 16, 64, 512])
def test_the_threshold_has_a_closed_form(num_steps: int) -> None:
    assert growth_threshold(num_steps) == pytest.approx(1 + 1 / math.cos(math.pi / 2 / num_steps))


def test_the_answer_says_what_the_record_says(record: Record) -> None:
    told = STUDY.answer(record)
    assert told.finding.startswith("Sequential BOOT is best at all ")
    assert told.limits
    assert told.overturned_by
    altered = json.loads(json.dumps(record))
    altered["tables"]["plans"][0]["best"] /= 2
    assert "not what theory says" in STUDY.answer(altered).finding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ()}, "`steps` must not be empty"),
        ({"steps": (64, 16)}, "`steps` must ascend, got (64, 16)"),
        ({"steps": (2,)}, "`steps` must be >= 4, got 2"),
        ({"num_eigenvalues": 3}, "`num_eigenvalues` must be >= 10, got 3"),
        ({"merge_time": 0}, "`merge_time` must be > 0 and <= 100: errors underflow beyond, got 0"),
        (
            {"merge_time": 1e3},
            "`merge_time` must be > 0 and <= 100: errors underflow beyond, got 1000.0",
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Config(**settings)
    assert str(caught.value) == message


# What the command line writes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from opmerge.cli import main

    folder = tmp_path_factory.mktemp("studies") / "phase"
    arguments = ["study", "phase", *TINY, "--num_workers", "1", "--output_dir", str(folder)]
    assert main(arguments) == 0
    return folder


def test_a_study_writes_its_record_tables_figures_and_page(written: Path, record: Record) -> None:
    found = json.loads((written / "record.json").read_text())
    assert found["tables"] == record["tables"]
    with (written / "tables" / "plans.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [float(row["best"]) for row in table] == [
        row["best"] for row in record["tables"]["plans"]
    ]
    page = (written / "report.html").read_text()
    assert STUDY.answer(record).finding in page
    for name in ("which-plan-is-best", "error-over-λ"):
        assert (written / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((written / "config.json").read_text())
    assert config["command"] == "study phase"
    assert config["options"]["set"] == [*TINY[1::2]]


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
    from opmerge import studies

    two = {name: STUDIES[name] for name in ("phase", "synthetic")}
    monkeypatch.setattr(studies, "STUDIES", two)
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
        (("nonsense",), "`study` must be all or one of phase, synthetic,"),
        ((), "`study` must be all or one of phase, synthetic,"),
        (("phase", "--backend", "slurm"), "`backend` must be one of loky, dask, ray, got slurm"),
        (("phase", "--num_workers", "0"), "`num_workers` must be >= 1, or -1 for one a core"),
        (("phase", "--set", "steps=[2]"), "`steps` must be >= 4, got 2"),
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
    lines = [f"{name}: {study.question}" for name, study in STUDIES.items()]
    assert out.splitlines() == lines
