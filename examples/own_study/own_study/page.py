"""The page: numbers from the record, how often each claim holds, a figure and its table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opmerge.page.charts import Axis, Level, curves, series_by
from opmerge.page.claims import count
from opmerge.page.layout import draw_section
from opmerge.page.study import Page, frame, table

__all__ = ["page"]

_LITTLE = 0.05
_COLUMNS = {"schedule": "schedule", "λ": "eigenvalue:g", "BOOT": "boot", "vanilla": "vanilla"}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    rows = frame(record, "errors")
    rows = rows.assign(ratio=rows.boot / rows.vanilla)
    figure = curves(
        series_by(rows, "schedule", "eigenvalue", "ratio"),
        Axis("data variance λ", margin=1.1),
        Axis("W2 of BOOT, vanilla = 1"),
        f"BOOT errs less than vanilla at {(rows.ratio < 1).sum()} of {len(rows)} points",
        levels=[Level(y=1.0)],
        columns=2,
    )
    section = draw_section(
        "BOOT over vanilla",
        "W2 to the teacher, one eigenvalue, gradient flow for s = 6.4 in each merge.",
        figure,
        table("W2 to the teacher", rows, {**_COLUMNS, "ratio": "ratio:.4g"}),
    )
    apart = rows.ratio / rows.groupby("eigenvalue").ratio.transform("mean") - 1
    claims = {
        "boot-below-one": count(rows[rows.eigenvalue < 1].ratio < 1),
        "vanilla-above-two": count(rows[rows.eigenvalue > 2].ratio > 1),
        "schedules-agree": count(apart.abs() <= _LITTLE),
    }
    return Page({"rows": rows, "settings": record["settings"]}, claims, [section])
