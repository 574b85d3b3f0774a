"""The page of the study `phase`: the phase diagram of merge plans over data variance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page import charts
from opmerge.page.charts import DASHED, DOTTED, Axis, Series, chart, series_by, series_of
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, GREY, INK
from opmerge_studies.shared.strategies import CANONICAL

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_FAR_LESS = 100.0
_TRANSITION_COLUMNS = heads(
    *("T=num_steps", "first crossing=first_crossing:.5g", "crossings=num_crossings"),
    *("last=last_crossing:.5g", "λ*(T)=threshold:.6f", "BOOT to=boot_to:.5g"),
    *("neither from=band_from:.5g", "to=band_to:.5g", "vanilla from=vanilla_from:.5g"),
)
_PLAN_COLUMNS = heads(
    *("λ=eigenvalue:.4g", "best", "bound=lower_bound", *CANONICAL, "shape", "merges", "plan")
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    crossings, plans = frame(record, "crossings"), frame(record, "plans")
    plans = plans.merge(crossings, on="num_steps", how="left").assign(
        called="T = " + plans.num_steps.astype(str),
        boot_is_best=plans.boot <= plans.best * (1 + _EQUAL),
        vanilla_is_best=plans.vanilla <= plans.best * (1 + _EQUAL),
        gain=(plans[["boot", "vanilla"]].min(axis=1) / plans.best).fillna(1.0),  # both 0
    )
    rows = plans[plans.merge_rule == "operator-copy"]
    below, above = rows[rows.eigenvalue <= 1], rows[rows.eigenvalue >= rows.threshold]
    band = rows[(rows.first_crossing < rows.eigenvalue) & (rows.eigenvalue < rows.threshold)]
    known = crossings[crossings.first_crossing.notna()]
    denoised = plans[plans.merge_rule == "denoiser-copy"]
    decay = _decay(known)
    claims = {
        "boot-best-to-one": count(below.boot_is_best),
        "vanilla-best-from-threshold": count(above.vanilla_is_best),
        "neither-best-between": count(~(band.boot_is_best | band.vanilla_is_best)),
        "plans-near-the-teacher": count(rows.groupby("num_steps").gain.max() > _FAR_LESS),
        "crossing-tends-to-one": count(known.first_crossing.diff().dropna() < 0),
        "no-transition-under-denoiser-copy": count(denoised.boot_is_best),
    }
    values = {
        **{"crossings": crossings, "decay": decay, "rows": rows, "below": below, "above": above},
        "gain": rows.gain.max(),
    }
    return Page(values, claims, _sections(crossings, rows, decay))


def _decay(crossings: pd.DataFrame) -> list[tuple[float, float]]:
    """The power law c / T^p of the crossing's distance from 1; none of fewer than two T."""
    if len(crossings) < 2:
        return []
    logs = np.log(crossings.num_steps), np.log(crossings.first_crossing - 1)
    slope, intercept = np.polyfit(*logs, 1)
    return [(float(np.exp(intercept)), float(-slope))]


def _sections(
    crossings: pd.DataFrame, plans: pd.DataFrame, decay: list[tuple[float, float]]
) -> Iterator[Section]:
    yield draw_section(
        "Which plan is best",
        "BOOT, combs (only the student at T is trained, block after block), trees (students "
        "inside blocks are trained too) and vanilla, under operator copy. Dashed: where BOOT "
        "and vanilla cross; dotted: λ*(T).",
        charts.shape_bars(
            plans,
            "num_steps",
            plans.called.unique().tolist(),
            {"first_crossing": DASHED, "threshold": DOTTED},
            "Below λ = 1 BOOT is best, above λ*(T) ≈ 2 vanilla; between lies a band",
            limits=(0.5, 4.0),
        ),
        table("Transition by T", crossings, _TRANSITION_COLUMNS),
    )
    called = plans.called.unique()[plans.called.nunique() // 2]
    rows = plans[plans.called == called]
    best = np.maximum(rows.best / rows.boot, 1e-3)
    yield chart(
        "Error over λ",
        "W2 to the teacher, as a multiple of BOOT's. In the band the best plan meets the teacher "
        "and leaves the figure at the bottom.",
        [
            *series_of(rows, "eigenvalue", CANONICAL, over="boot", marker=""),
            Series("best plan", rows.eigenvalue, best, {"color": INK, "linestyle": DOTTED}),
        ],
        Axis("data variance λ", margin=1.0),
        Axis("W2 to the teacher, BOOT = 1", (0.02, 50.0)),
        f"No strategy is best on both sides of λ = 1 ({called})",
        table(f"Errors and plans at {called}", rows, _PLAN_COLUMNS),
    )
    rows = plans[plans.eigenvalue.between(0.9, 2.5, inclusive="neither")]
    yield chart(
        "How many merges the best plan has",
        "T - 1 for BOOT, one for vanilla. The plans in between are in the table of errors.",
        series_by(rows, "called", "eigenvalue", "merges", dashes=True, drawstyle="steps-mid"),
        Axis("data variance λ", (0.9, 2.5)),
        Axis("merges of the best plan", (0.8, 1.3 * rows.num_steps.max())),
        "Across the band the best plan falls from T - 1 merges to one",
        height=2.8,
        columns=2,
    )
    known = crossings[crossings.first_crossing.notna()]
    points = {"color": BLUE, "linestyle": "", "marker": "o"}
    for factor, power in decay:
        ends = known.num_steps.agg(["min", "max"]).to_numpy() * [1 / 1.2, 1.2]
        yield chart(
            "The crossing tends to 1",
            "Distance of the first crossing of BOOT and vanilla from λ = 1.",
            [
                Series("", known.num_steps, known.first_crossing - 1, points),
                Series("", ends, factor / ends**power, {"color": GREY, "linestyle": DASHED}),
            ],
            Axis("number of teacher steps T", margin=1.0),
            Axis("crossing, λ - 1"),
            f"BOOT and vanilla cross at λ = 1 + {factor:.2g} / T^{power:.2f}",
            height=2.6,
        )
