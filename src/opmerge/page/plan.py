"""One self-contained HTML page from a record: no script, no request, no file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from opmerge.page import figures
from opmerge.page.layout import Section, Table, draw_section, make_table, render_page
from opmerge.page.sentences import best_named, number, percent, plan_title, summary_sentence, target
from opmerge.plans.drawing import plan_figure, plan_from_merges
from opmerge.plans.outline import draw_text

Record = Mapping[str, Any]

_OUTLINE_WIDTH = 40  # characters that fit a phone


def report_page(record: Record) -> str:
    """The page of a record (``opmerge.planners.record.plan_record``).

    Args:
        record: as written by ``plan_record``; nothing is computed again from its problem.

    Returns:
        A complete HTML document, under a megabyte, the same text each time.
    """
    problem = record["problem"]
    return render_page(
        title=f"Merge plan for {problem['source']}, T = {problem['steps']}",
        answer=summary_sentence(record),
        facts=_facts(record),
        sections=list(_sections(record)),
        settings=_settings(record),
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    best, problem = record["best"], record["problem"]
    students = problem["student_steps"]
    return [
        (f"W2 to {target(record)}", number(best["w2"])),
        ("is the most that another plan could gain", percent(best["gap"])),
        ("teacher's steps → student's", f"{problem['steps']} → {students}"),
        ("merges", f"{best['merges']}"),
        ("network evaluations per sample", f"{best['network_evaluations']:g}"),
    ]


def _sections(record: Record) -> Iterator[Section]:
    best, spectrum = record["best"], record["spectrum"]
    students = record["problem"]["student_steps"]
    yield draw_section(
        "Spectrum",
        "Eigenvalues of the data's covariance." + _why_spectrum(record),
        figures.spectrum_figure(spectrum["eigenvalues"], spectrum["multiplicities"]),
    )
    yield draw_section(
        "The plan",
        "Each bar is one merge: a student trained to jump over the steps under the bar. White "
        "marks show where the operators that it replaces meet. Round 0 is the teacher; merges of "
        "one round do not wait for one another."
        + (" Dashed: where one student hands over to the next." if students > 1 else ""),
        plan_figure(best["merge_list"], best["boundaries"], plan_title(record)),
        table=_merge_table(record),
        outline=draw_text(plan_from_merges(best["merge_list"], best["boundaries"]), _OUTLINE_WIDTH),
    )
    yield draw_section(
        "Strategies compared",
        f"Distance of the student's output from {target(record)}, on a log scale. Dashed: the "
        "proved lower bound; no plan can be left of it."
        + (f" Named strategies merge in {students} equal windows." if students > 1 else ""),
        figures.strategies_figure(record),
        table=_strategy_table(record),
    )
    yield draw_section(
        "Error per eigen-direction",
        "The root of the squared W2 in one direction of each eigenvalue." + _left_out(record),
        figures.directions_figure(record),
        table=_direction_table(record),
    )
    if best["w2"] > 0 and best["merges"]:
        yield draw_section(
            "Where the error arises",
            "A student starts from the first operator of its merge and is trained to add the "
            "others; the merge's share of the squared error is spread evenly over the steps of "
            "those others.",
            figures.location_figure(record),
        )
    else:
        yield Section("Where the error arises", "Nowhere: no merge makes an error.")
    yield draw_section(
        "Teacher and student",
        "The teacher's own error is what a finite number of steps leaves; merging adds the "
        "student's.",
        figures.teacher_figure(record),
    )


def _why_spectrum(record: Record) -> str:
    if record["problem"]["merge_rule"] != "operator-copy" or target(record) != "the teacher":
        return ""
    return (
        " Alone, a direction with λ ≤ 1 is best merged one step at a time from the noise side, one "
        "with λ well above 1 all at once; a plan for both is a compromise."
    )


def _left_out(record: Record) -> str:
    spectrum = record["spectrum"]
    zero = figures.is_negligible(np.asarray(spectrum["eigenvalues"]))
    count = round(float(np.asarray(spectrum["multiplicities"])[zero].sum()))
    return f" Eigenvalues that are 0 to rounding ({count}) are not drawn." if count else ""


def _merge_table(record: Record) -> Table | None:
    best = record["best"]
    if not best["merge_list"]:
        return None
    plan = plan_from_merges(best["merge_list"], best["boundaries"])
    shares = {tuple(m["boundaries"]): m["share"] for m in best["merge_list"]}
    rows = [
        [
            f"{merge.start} → {merge.stop}",
            f"{merge.start} → {merge.split}",
            f"{merge.num_children}",
            f"{round_}",
            f"{100 * shares[merge.boundaries]:.6g}",
        ]
        for merge, round_ in zip(plan.merges, plan.rounds(), strict=True)
    ]
    columns = ["merge", "starts from", "operators", "round", "% of squared error"]
    return make_table("Every merge, in the order of execution", columns, rows)


def _strategy_table(record: Record) -> Table:
    best = record["best"]
    entries = [
        ("best plan", best, 1.0 if best["w2"] > 0 else None),
        *((s["name"], s, s["ratio_to_best"]) for s in record["strategies"]),
    ]
    paired = any("paired_rms" in entry for _, entry, _ in entries)
    rows = [
        [
            name,
            f"{entry['w2']:.10g}",
            *([f"{entry.get('paired_rms', entry['w2']):.10g}"] if paired else []),
            "–" if ratio is None else f"{ratio:.6g}",
            f"{entry['merges']}",
            f"{entry['network_evaluations']:g}",
        ]
        for name, entry, ratio in sorted(entries, key=lambda entry: float(entry[1]["w2"]))
    ]
    more = ["expected paired error"] if paired else []
    columns = ["plan", f"W2 to {target(record)}", *more, "ratio to best", "merges"]
    columns += ["network evaluations"]
    bound = f"Lower bound {best['lower_bound']:.10g}, relative gap {best['gap']:.3g}."
    return make_table("The plan and the named strategies", columns, rows, bound)


def _direction_table(record: Record) -> Table:
    errors = figures.direction_errors(record)
    eigenvalues, counts = (record["spectrum"][key] for key in ("eigenvalues", "multiplicities"))
    rows = [
        [f"{value:.6g}", f"{count:g}", *(f"{error:.6g}" for error in row)]
        for value, count, *row in zip(eigenvalues, counts, *errors.values(), strict=True)
    ]
    columns = ["eigenvalue λ", "directions", *errors]
    return make_table("Error in one direction of each eigenvalue", columns, rows)


def _settings(record: Record) -> dict[str, Any]:
    """Every setting, by group: the problem, the planner, the versions."""
    best = record["best"]
    planner = {key: best[key] for key in ("planner", "seconds", "lower_bound", "gap", "notes")}
    planner["seconds"] = number(best["seconds"])
    planner["best named strategy"] = (best_named(record) or {}).get("name")
    return {"Problem": record["problem"], "Planner": planner, "Versions": record["versions"]}
