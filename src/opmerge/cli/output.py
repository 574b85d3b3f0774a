"""What commands print; numbers come from records, so print and page agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import opmerge
from opmerge.cli.streams import console

_ANY_WIDTH = 10_000


def show_plan(record: Mapping[str, Any], plan: opmerge.Plan, folder: Path | None) -> None:
    """The answer, the plan drawn, and the strategies beside it."""
    from opmerge.page import summary_sentence
    from opmerge.plans import draw_text

    best = record["best"]
    print(summary_sentence(record), draw_text(plan), sep="\n\n", end="\n\n")
    _show_timesteps(best)
    _show_strategies(record)
    show_notes([*best["notes"], *record["problem"]["notes"]])
    if folder is not None:
        print(f"written: {folder / 'plan.json'}, {folder / 'report.html'}")


def show_budget(record: Mapping[str, Any], plan: opmerge.Plan, folder: Path | None) -> None:
    """What to spend the budget on, and what other plans are forecast to leave at its cost."""
    from opmerge.page.sentences import compared, number, summary_sentence, tie_sentence
    from opmerge.plans import draw_text

    best = record["best"]
    print(summary_sentence(record), tie_sentence(record), sep="\n", end="\n\n")
    print(draw_text(plan), end="\n\n")
    print(f"iterations, in the order of execution: {best['iterations']}", end="\n\n")
    _show_timesteps(best)
    head = ("plan", "paired error", "90 %", "ratio to best", "merges")
    cells: list[tuple[str, ...]] = [
        (
            name,
            number(row["paired_rms"]),
            f"{number(row['low'])} … {number(row['high'])}",
            "–" if row["ratio_to_best"] is None else number(row["ratio_to_best"]),
            str(len(row["iterations"])),
        )
        for name, row in compared(record)
    ]
    show_table("Forecasts at the same cost", head, cells)
    _show_other_counts(record)
    show_notes([*best["notes"], *record["problem"]["notes"]])
    if folder is not None:
        print(f"written: {folder / 'plan.json'}, {folder / 'report.html'}")


def _show_timesteps(best: Mapping[str, Any]) -> None:
    if "timesteps" in best:
        told = ", ".join(f"{timestep:g}" for timestep in best["timesteps"])
        print(f"the student reads the network timesteps {told}", end="\n\n")


def _show_other_counts(record: Mapping[str, Any]) -> None:
    """What students of each K that was asked for are forecast to leave for the budget."""
    from opmerge.page.sentences import number

    amount = record["budget"]["amount"]
    rows: list[tuple[str, ...]] = [
        (
            f"{row['student_steps']}",
            number(row["paired_rms"]),
            f"{number(row['low'])} … {number(row['high'])}",
            f"{row['merges']}",
        )
        for row in record["frontier"]
        if row["budget"] == amount
    ]
    if len(rows) > 1:
        head = ("K", "paired error", "90 %", "merges")
        show_table("Least forecasts by steps K", head, rows)


def show_comparison(record: Mapping[str, Any], plan: opmerge.Plan, folder: Path | None) -> None:
    """The strategies side by side, and how good the best plan is proved to be."""
    best = record["best"]
    _show_strategies(record)
    print(f"no plan is below {best['lower_bound']:.4g} (gap {best['gap']:.1g})")
    show_notes([*best["notes"], *record["problem"]["notes"]])


def show_json(record: Mapping[str, Any], plan: opmerge.Plan) -> None:
    """The record without its arrays as one JSON object, the plan as nested lists."""
    from opmerge.planners.record import summary
    from opmerge.plans import dumps_with_students

    content = summary(record)
    content["best"] = {"students": plan, **content["best"]}
    print(dumps_with_students(content))


def evaluation_text(outcome: opmerge.Outcome, made_for: opmerge.PlanFile | None) -> str:
    """An evaluation as one JSON object."""
    from opmerge.planners.record import prediction, problem_settings
    from opmerge.plans import dumps_with_students

    problem, plan = outcome.problem, outcome.plan
    counts = {"merges": len(plan.merges), "network_evaluations": plan.network_evaluations()}
    free = {} if plan.free_step is None else {"free_step": plan.free_step}
    trace = [
        {"boundaries": list(merge.boundaries), "share": float(share)}
        for merge, share in zip(plan.merges, outcome.error_shares(), strict=True)
    ]
    return dumps_with_students(
        {
            "problem": problem_settings(problem, plan.student_steps),
            "plan": {"students": plan, **free, **prediction(outcome), **counts},
            "trace": trace,
            "teacher": {"w2_to_data": problem.teacher_to_data},
            "notes": _evaluation_notes(outcome, made_for),
        }
    )


def show_evaluation(outcome: opmerge.Outcome, made_for: opmerge.PlanFile | None) -> None:
    """W2 of a plan, and the merges in which most of the error arises."""
    from opmerge.plans import draw_text

    problem, plan = outcome.problem, outcome.plan
    rule = problem.merge_rule.replace("-", " ")
    print(f"W2 to the {problem.objective} under {rule}: {outcome.w2:.6g}")
    if outcome.predicted_error != outcome.w2:
        print(f"paired error to be expected (rms): {outcome.predicted_error:.6g}")
    print(f"teacher's W2 to the data: {problem.teacher_to_data:.6g}", end="\n\n")
    print(draw_text(plan), end="\n\n")
    shares = zip(outcome.error_shares(), plan.merges, strict=True)
    for share, merge in sorted(shares, key=lambda pair: -pair[0])[:5]:
        jump = f"{merge.start} → {merge.stop} at {merge.split}"
        print(f"{share:6.1%} of the error from merging {jump}")
    show_notes(_evaluation_notes(outcome, made_for))


def show_spectrum(spectrum: opmerge.Spectrum, folder: Path | None, as_json: bool) -> None:
    """Number, extremes and sides of the eigenvalues."""
    values, counts = spectrum.eigenvalues, spectrum.multiplicities
    content = {
        "source": spectrum.source,
        "scaling": spectrum.scaling,
        "sample_shape": list(spectrum.shape),
        "num_samples": spectrum.num_samples,
        "kind": spectrum.kind,
        "dimensions": spectrum.num_dimensions,
        "above_one": round(float(counts[values > 1].sum())),
        "largest": float(values[0]),
        "smallest": float(values[-1]),
        "trace": spectrum.trace,
        "remaining_trace": spectrum.remaining_trace,
        "sha256": spectrum.sha256,
    }
    if as_json:
        every = {"eigenvalues": values.tolist(), "multiplicities": counts.tolist()}
        print(json.dumps({**content, "notes": list(spectrum.notes), **every}))
        return
    show_rows({key.replace("_", " "): value for key, value in content.items()}, 15, ".6g")
    show_notes(spectrum.notes)
    if folder is not None:
        print(f"written: {folder / 'spectrum.npz'}, {folder / 'spectrum.png'}")


def show_rows(rows: Mapping[str, object], width: int = 22, number: str = ".4g") -> None:
    """Right-aligned names, a colon, and what each stands for; what is empty is left out."""
    for name, value in rows.items():
        if value not in (None, [], ""):
            print(f"{name:>{width}}: {format(value, number if isinstance(value, float) else '')}")


def show_notes(notes: Iterable[str]) -> None:
    """What a reader must know besides, a line each."""
    for note in notes:
        print(f"note: {note}")


def show_table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table of numbers, the first column to the left where it holds names.

    Where it is too wide its heads are wrapped, then its frame is left out, and if that is not
    enough each row is a paragraph: no number is ever cut.
    """
    from rich.box import SIMPLE_HEAD
    from rich.measure import Measurement
    from rich.table import Table

    table, page = Table(title=title, title_justify="left"), console()
    for number, name in enumerate(head):
        is_name = number == 0 and any(row[0][:1].isalpha() for row in rows)
        table.add_column(name, justify="left" if is_name else "right")
    for row in rows:
        table.add_row(*row)

    def needed() -> int:
        return Measurement.get(page, page.options.update(width=_ANY_WIDTH), table).maximum

    if needed() > page.width:
        for column, name, *cells in zip(table.columns, head, *rows, strict=True):
            column.width = max(map(len, [*cells, *name.split()]))
    if needed() > page.width:
        table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 0, 0, 1), False
    if needed() <= page.width:
        page.print(table)
        return
    print(fill(title, page.width))
    for row in rows:
        print()
        show_rows(dict(zip(head, row, strict=True)), max(map(len, head)))


def _show_strategies(record: Mapping[str, Any]) -> None:
    from opmerge.page.sentences import costs_told, merge_rule, target

    best = {"name": "best found", "ratio_to_best": 1.0, **record["best"]}
    rows = sorted((best, *record["strategies"]), key=lambda row: float(row["w2"]))
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "plan": lambda row: row["name"],
        "W2": lambda row: f"{row['w2']:.4g}",
        "paired error": lambda row: f"{row.get('paired_rms', row['w2']):.4g}",
        "ratio to best": lambda row: "–" if (r := row["ratio_to_best"]) is None else f"{r:.4g}",
        "merges": lambda row: str(row["merges"]),
        "network evaluations": lambda row: f"{row['network_evaluations']:.0f}",
        "W2 at equal cost": lambda row: f"{row['w2_at_equal_cost']:.4g}",
    }
    if not any("paired_rms" in row for row in rows):
        del columns["paired error"]
    if not all("w2_at_equal_cost" in row for row in rows):
        del columns["W2 at equal cost"]
    cells = [tuple(cell(row) for cell in columns.values()) for row in rows]
    title = f"W2 to {target(record)}, {merge_rule(record)}{costs_told(record)}"
    show_table(title, tuple(columns), cells)


def _evaluation_notes(outcome: opmerge.Outcome, made_for: opmerge.PlanFile | None) -> list[str]:
    problem = outcome.problem
    notes = [*problem.spectrum.notes, *problem.schedule.notes]
    made_with = made_for.spectrum if made_for else {}
    if made_with and made_with["sha256"] != problem.spectrum.sha256:
        notes.append("the plan was made for another spectrum")
    return notes
