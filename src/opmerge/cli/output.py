"""What commands print and write; numbers come from records, so print and page agree."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.errors import InputError
from opmerge.files import write_atomic

if TYPE_CHECKING:
    from opmerge.merging import Outcome
    from opmerge.planners import PlannerResult
    from opmerge.plans import Plan, PlanFile
    from opmerge.problem import Problem
    from opmerge.spectra import Spectrum

__all__ = [
    "prepare_folder",
    "redraw",
    "show_comparison",
    "show_evaluation",
    "show_plan",
    "show_spectrum",
    "write_run",
    "write_spectrum",
]


def prepare_folder(folder: Path) -> None:
    """Make the output folder, and make sure it can be written to, before any long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            "output_dir", f"must be a folder that can be written to ({error.strerror})", str(folder)
        ) from error


def write_run(
    folder: Path,
    problem: Problem,
    result: PlannerResult,
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write config.json, plan.json, record.json and report.html."""
    from opmerge.plans import PlanFile
    from opmerge.reports import report_page

    config = {
        "command": "plan",
        "options": {key: _plain(value) for key, value in settings.items()},
        "versions": record["versions"],
        "git_commit": _git_commit(),
    }
    file = PlanFile(
        result.plan,
        problem.schedule,
        problem.training,
        problem.merge_rule,
        problem.objective,
        {"w2": result.w2, "lower_bound": result.lower_bound, "gap": result.gap},
        problem.spectrum.identity(),
    )
    page = report_page(record)
    write_atomic(folder / "config.json", json.dumps(config, indent=2) + "\n")
    file.write(folder / "plan.json")
    write_atomic(folder / "record.json", json.dumps(record, allow_nan=False) + "\n")
    write_atomic(folder / "report.html", page)


def redraw(run: Path) -> None:
    """Write report.html again from record.json."""
    from opmerge.reports import report_page

    path = run / "record.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            "run", f"must be a folder that `opmerge plan` wrote ({error.strerror})", str(path)
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(str(path), f"must be a record ({error})") from error
    if not isinstance(record, dict) or record.get("format") != "opmerge.record":
        raise InputError(str(path), "must be a record that `opmerge plan` wrote")
    try:
        page = report_page(record)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(str(path), f"must be a complete record ({error!r})") from error
    print(write_atomic(run / "report.html", page))


def show_plan(record: Mapping[str, Any], plan: Plan, folder: Path | None, as_json: bool) -> None:
    """The answer, the plan drawn, and the strategies beside it."""
    from opmerge.plans import draw_text
    from opmerge.reports import summary_sentence

    if as_json:
        _print_json(record, plan)
        return
    print(summary_sentence(record), end="\n\n")
    print(draw_text(plan), end="\n\n")
    _print_strategies(record)
    for note in (*record["best"]["notes"], *record["problem"]["notes"]):
        print(f"note: {note}")
    if folder is not None:
        print(f"written: {folder / 'plan.json'}, {folder / 'report.html'}")


def show_comparison(record: Mapping[str, Any], plan: Plan, as_json: bool) -> None:
    """The strategies side by side."""
    if as_json:
        _print_json(record, plan)
    else:
        _print_strategies(record)


def show_evaluation(outcome: Outcome, made_for: PlanFile | None, as_json: bool) -> None:
    """W2 of a plan, and the merges in which most of the error arises."""
    from opmerge.plans import draw_text, dumps_with_students
    from opmerge.records import problem_settings

    problem, plan = outcome.problem, outcome.plan
    digest = problem.spectrum.identity()["sha256"]
    foreign = made_for is not None and made_for.spectrum["sha256"] != digest
    notes = ["the plan was made for another spectrum"] if foreign else []
    shares = outcome.error_shares()
    if as_json:
        print(
            dumps_with_students(
                {
                    "problem": problem_settings(problem, plan.student_steps),
                    "plan": {
                        "students": plan,
                        "w2": outcome.w2,
                        "merges": len(plan.merges),
                        "network_evaluations": plan.network_evaluations(),
                    },
                    "trace": [
                        {"boundaries": list(merge.boundaries), "share": float(share)}
                        for merge, share in zip(plan.merges, shares, strict=True)
                    ],
                    "teacher": {"w2_to_data": problem.teacher_to_data},
                    "notes": notes,
                }
            )
        )
        return
    print(f"W2 to the {problem.objective}: {outcome.w2:.6g}")
    print(f"teacher's W2 to the data: {problem.teacher_to_data:.6g}", end="\n\n")
    print(draw_text(plan), end="\n\n")
    order = sorted(range(len(shares)), key=lambda row: -shares[row])[:5]
    for row in order:
        merge = plan.merges[row]
        print(
            f"{shares[row]:6.1%} of the error from merging {merge.start} → {merge.stop}"
            f" at {merge.split}"
        )
    for note in notes:
        print(f"note: {note}")


def write_spectrum(folder: Path, spectrum: Spectrum) -> None:
    """Write spectrum.npz and spectrum.png."""
    from opmerge.plotting import figure_png
    from opmerge.reports.figures import spectrum_figure

    figure = spectrum_figure(spectrum.eigenvalues, spectrum.multiplicities)
    spectrum.save(folder / "spectrum.npz")
    write_atomic(folder / "spectrum.png", figure_png(figure))


def show_spectrum(spectrum: Spectrum, folder: Path | None, as_json: bool) -> None:
    """Number, extremes and sides of the eigenvalues."""
    above = float(spectrum.multiplicities[spectrum.eigenvalues > 1].sum())
    content = {
        "source": spectrum.source,
        "scaling": spectrum.scaling,
        "sample_shape": list(spectrum.shape),
        "num_samples": spectrum.num_samples,
        "kind": spectrum.kind,
        "dimensions": spectrum.num_dimensions,
        "above_one": round(above),
        "largest": float(spectrum.eigenvalues[0]),
        "smallest": float(spectrum.eigenvalues[-1]),
        "trace": spectrum.trace,
        "remaining_trace": spectrum.remaining_trace,
        "sha256": spectrum.sha256,
        "notes": list(spectrum.notes),
    }
    if as_json:
        print(
            json.dumps(
                {
                    **content,
                    "eigenvalues": spectrum.eigenvalues.tolist(),
                    "multiplicities": spectrum.multiplicities.tolist(),
                }
            )
        )
        return
    for key, value in content.items():
        if key != "notes" and value not in (None, [], ""):
            print(
                f"{key.replace('_', ' '):>15}: {value:.6g}"
                if isinstance(value, float)
                else f"{key.replace('_', ' '):>15}: {value}"
            )
    for note in spectrum.notes:
        print(f"note: {note}")
    if folder is not None:
        print(f"written: {folder / 'spectrum.npz'}, {folder / 'spectrum.png'}")


def _print_json(record: Mapping[str, Any], plan: Plan) -> None:
    from opmerge.plans import dumps_with_students
    from opmerge.records import summary

    content = summary(record)
    content["best"] = {"students": plan, **content["best"]}
    print(dumps_with_students(content))


def _print_strategies(record: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"W2 to the {record['problem']['objective']}", title_justify="left")
    for name in ("plan", "W2", "ratio to best", "merges", "network evaluations"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    best = {"name": "best found", "ratio_to_best": 1.0, **record["best"]}
    for row in sorted((best, *record["strategies"]), key=lambda row: float(row["w2"])):
        ratio = row["ratio_to_best"]
        table.add_row(
            row["name"],
            f"{row['w2']:.4g}",
            "–" if ratio is None else f"{ratio:.4g}",
            str(row["merges"]),
            f"{row['network_evaluations']:.0f}",
        )
    Console().print(table)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, os.PathLike) else value


def _git_commit() -> str | None:
    """Commit of the folder that the command runs in, where there is one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()
    return None
