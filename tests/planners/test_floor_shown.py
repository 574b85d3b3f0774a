"""A fitted floor is seen wherever an error is predicted: files, tables, JSON and the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opmerge import GammaRates, PlanFile, build_strategy

Run = Callable[..., tuple[int, str, str]]

GIVEN = ("eigenvalues:2,0.5", "--steps", 6, "--strategy", "boot", "--strategy", "vanilla")


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A training model with a floor, which makes one merge of λ = 2 and 0.5 √(0.04 · 2) worse."""
    path = tmp_path / "training.json"
    model = GammaRates(0.7, 3.0, 1.0, 400, 1e-3, 400, 1e-3, floor=0.04)
    path.write_text(json.dumps(model.to_dict()), encoding="utf-8")
    return path


def test_plan_files_json_tables_and_pages(run: Run, training: Path, tmp_path: Path) -> None:
    given = (*GIVEN, "--training", training, "--output_dir", tmp_path / "run")
    found = json.loads(run("plan", *given, "--json")[1])
    boot, vanilla = found["strategies"]
    assert vanilla["paired_rms"] ** 2 == pytest.approx(vanilla["w2"] ** 2 + 0.08)  # c = P = 1
    assert boot["paired_rms"] > boot["w2"]
    best = found["best"]["paired_rms"]
    assert PlanFile.read(tmp_path / "run" / "plan.json").predicted["paired_rms"] == best
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "expected paired error" in page
    assert f"{vanilla['paired_rms']:.10g}" in page
    for command in ("plan", "compare"):
        out = run(command, *given)[1]
        assert "paired error" in out.split("ratio to best")[0]
        for error in (best, boot["paired_rms"], vanilla["paired_rms"]):
            assert f"{error:.4g}" in out


def test_evaluate(run: Run, training: Path, tmp_path: Path) -> None:
    plan = str(build_strategy("vanilla", 6).to_nested()[0])
    given = ("evaluate", "eigenvalues:2,0.5", "--plan", plan, "--training", training)
    found = json.loads(run(*given, "--json")[1])["plan"]
    assert found["paired_rms"] == pytest.approx(np.hypot(found["w2"], 0.08**0.5))
    out = run(*given)[1]
    assert f"paired error to be expected (rms): {found['paired_rms']:.6g}\n" in out


def test_nothing_is_said_where_nothing_differs(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shown = [run(command, *GIVEN, "--output_dir", folder)[1] for command in ("plan", "compare")]
    shown += [run("plan", *GIVEN, "--json")[1], (folder / "report.html").read_text()]
    shown += [(folder / "plan.json").read_text(), run("evaluate", GIVEN[0], "--plan", "[2,1]")[1]]
    for text in shown:
        assert "paired" not in text
