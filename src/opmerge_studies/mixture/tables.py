"""Tables of the study `mixture`, and the rows of its record by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opmerge.page.layout import Table, make_table
from opmerge.page.sentences import number

__all__ = [
    "STRATEGIES",
    "above",
    "best_table",
    "composite_table",
    "dimension_table",
    "merge_table",
    "more_steps",
    "one_step",
    "order",
    "place",
    "regret",
    "signal_table",
    "strategy_table",
    "traced",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

STRATEGIES = ("vanilla", "progressive", "consistency", "boot")


def one_step(record: Record) -> list[Row]:
    """All plans of one-step students, a row a case."""
    return [row for row in record["tables"]["best"] if row["student_steps"] == 1]


def more_steps(record: Record) -> list[Row]:
    """All plans of students of two and more steps."""
    return [row for row in record["tables"]["best"] if row["student_steps"] > 1]


def traced(record: Record) -> list[Row]:
    """Merges of one-step students where components straddle λ = 1, furthest apart."""
    furthest = max(record["settings"]["separations"])
    return [
        row
        for row in record["tables"]["merges"]
        if row["student_steps"] == 1
        and row["regime"] == "straddling"
        and row["separation"] == furthest
        and row["merge_rule"] == "operator-copy"
        and row["plan"] in STRATEGIES
    ]


def _components(row: Row) -> str:
    return f"{row['regime']} ±{row['separation']:g}"


def above(row: Row, name: str) -> float:
    """How far an error lies above the affine floor, as a part of it."""
    return float(row[name] / row["bound"] - 1)


def order(row: Row) -> float:
    """Worst of the strategies over the best order in the same, equal windows."""
    return float(max(row[name] for name in STRATEGIES) / row["equal_windows"])


def place(row: Row) -> float:
    """Best plan in equal windows over the best of all."""
    return float(row["equal_windows"] / row["best"])


def regret(row: Row, name: str) -> float:
    """An error over that of the best of all plans."""
    return float(row[name] / row["best"])


def best_table(caption: str, rows: Sequence[Row]) -> Table:
    """The best of all plans, and the others as multiples of it."""
    shows_bound = rows[0]["student_steps"] == 1
    return make_table(
        caption,
        (
            "components",
            "rule",
            "K",
            *(("floor",) if shows_bound else ()),
            "best",
            *STRATEGIES,
            "equal windows",
            "interval DP",
            "Gaussian",
            "worst",
            "handovers",
        ),
        [
            (
                _components(row),
                row["merge_rule"].removesuffix("-copy"),
                str(row["student_steps"]),
                *((number(row["bound"]),) if shows_bound else ()),
                number(row["best"]),
                *(
                    f"{row[key] / row['best']:.4g}"
                    for key in (*STRATEGIES, "equal_windows", "interval", "gaussian", "worst")
                ),
                row["handovers"],
            )
            for row in rows
        ],
        "Error of the best plan; the others as multiples of it. Equal windows: the best order "
        "inside them. Gaussian: the plan of the theory of one Gaussian of equal covariance.",
    )


def strategy_table(record: Record) -> Table:
    """Errors of the strategies by student steps."""
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in record["tables"]["strategies"]:
        rule = row["merge_rule"].removesuffix("-copy")
        case = (_components(row), rule, str(row["student_steps"]))
        cases.setdefault(case, {})[row["plan"]] = row
    return make_table(
        f"Students of K steps, T = {record['settings']['num_steps']}",
        ("components", "rule", "K", *STRATEGIES, "interval DP", "BOOT to the end", "amplified"),
        [
            (
                *case,
                *(number(plans[name]["error"]) for name in (*STRATEGIES, "interval DP")),
                number(plans["boot"]["approximation"]),
                number(plans["boot"]["error"] / plans["boot"]["local"]),
            )
            for case, plans in cases.items()
        ],
        "Equal windows but for interval DP. BOOT to the end: every merge trained to the end. "
        "Amplified: BOOT's error over its merges' own errors, added in squares. W2 is equal to "
        "the error wherever all maps are increasing; the record has both.",
    )


def merge_table(rows: Sequence[Row]) -> Table:
    """Floor and optimisation of each merge."""
    return make_table(
        "Merges of one-step students",
        ("plan", "merge", "floor", "optimisation", "to teacher"),
        [
            (
                row["plan"],
                f"{row['start']} → {row['stop']}",
                *(number(row[key]) for key in ("floor", "optimisation", "to_teacher")),
            )
            for row in rows
        ],
    )


def composite_table(record: Record) -> Table:
    """Growth, floor and gain of the composites down to the data."""
    return make_table(
        "Composites of the teacher's steps",
        ("components", "interval", "paths", "effective", "floor", "gates for 1 %", "gain", "max"),
        [
            (
                _components(row),
                f"{row['start']} → {row['stop']}",
                number(row["paths"]),
                number(row["effective_paths"]),
                number(row["floor"]),
                "–" if row["gates"] is None else str(row["gates"]),
                number(row["gain"]),
                number(row["largest_gain"]),
            )
            for row in record["tables"]["composites"]
            if row["stop"] == 0
        ],
        "Floor: of one student with the data's own gates, over the standard deviation reached.",
    )


def dimension_table(record: Record) -> Table:
    """The strategies on samples, with 95 % intervals."""
    return make_table(
        "Strategies in more dimensions",
        ("mixture", "d", "K", "plan", "error", "trained to the end", "over vanilla"),
        [
            (
                row["mixture"],
                str(row["dimension"]),
                str(row["student_steps"]),
                row["plan"],
                *(
                    f"{row[key]:.4f} ± {row[f'{key}_half_width']:.4f}"
                    for key in ("error", "approximation", "ratio")
                ),
            )
            for row in record["tables"]["dimensions"]
        ],
    )


def signal_table(rows: Sequence[Row]) -> Table:
    """One-step students by the signal of their first state."""
    return make_table(
        "One-step students that read some signal",
        ("components", "alpha_T", "affine", "trained to the end", *STRATEGIES),
        [
            (
                _components(row),
                f"{row['signal']:g}",
                *(number(row[key]) for key in ("affine", "floor", *STRATEGIES)),
            )
            for row in rows
        ],
        "Affine: the nearest affine map of z_T. Trained to the end: vanilla's one merge.",
    )
