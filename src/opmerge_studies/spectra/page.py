"""The page of the study `spectra`: real data, in the eigenbasis and as the diagonal has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from opmerge.page.charts import DASHED, Axis, Level, chart, series_by
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.sentences import short_name
from opmerge.page.study import Page, frame, heads, table
from opmerge_studies.spectra import STRATEGIES

_EQUAL = 1e-9  # relative difference of two distances, or gap, that is rounding
_SHARE_COLUMNS = heads(
    *("data=source", "samples", "pixels=dimensions", "largest λ=eigenbasis_largest"),
    *("λ ≤ 1=eigenbasis_share_small:%", "their variance=eigenbasis_variance_small:%"),
    "largest pixel=diagonal_largest",
)
_PLACE = ("data=source", "T=num_steps", "s=merge_time:g")
_PLAN_COLUMNS = heads(
    *(*_PLACE, "best", "bound=lower_bound", "best named=named", "ratio=gain:.4f"),
    *("merges", "best plan=plan"),
)
_PROMISE_COLUMNS = heads(
    *(*_PLACE, "predicted", "true W2=transferred", "best", "true / best=loss:.4f"),
    "its plan=diagonal_plan",
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    sources, plans = frame(record, "sources"), frame(record, "plans")
    least = plans[list(STRATEGIES)].min(axis=1)
    plans = plans.assign(
        called=plans.source.map(short_name),
        named=plans[list(STRATEGIES)].idxmin(axis=1),
        gain=least / plans.best,
        loss=plans.transferred / plans.best,
        promise=plans.transferred / plans.predicted,
        gap=1 - plans.lower_bound / plans.best,
    )
    sighted = sources[sources.eigenbasis_largest > 1]
    claims = {
        "diagonal-sees-no-variance-above-one": count(sighted.diagonal_share_small == 1),
        "diagonal-chooses-boot": count(plans.diagonal_choice == "boot"),
        "boot-errs-least-of-the-named": count(plans.boot <= least * (1 + _EQUAL)),
        "hybrids-gain-half": count(plans.gain.between(1.5, 2.5)),
        "best-plans-are-proved": count(plans.gap <= _EQUAL),
    }
    values = {
        "sources": sources,
        "strategies": STRATEGIES,
        "gain": plans.nlargest(1, "gain").iloc[0],
        "loss": plans.nlargest(1, "loss").iloc[0],
        "gap": plans.gap.max(),
        "by_source": plans.groupby("source", sort=False),
    }
    return Page(values, claims, _sections(record, sources, sighted, plans))


def _sections(
    record: Mapping[str, Any], sources: pd.DataFrame, sighted: pd.DataFrame, plans: pd.DataFrame
) -> Iterator[Section]:
    rows = frame(record, "eigenvalues").query("eigenvalue > 0")
    rows = rows.assign(called=rows.source.map(short_name))
    keys = "called", "rank", "eigenvalue"
    true = series_by(rows[rows.form == "eigenbasis"], *keys, linestyle="-", marker="")
    diagonal = series_by(rows[rows.form == "diagonal"], *keys, linestyle=DASHED, marker="")
    yield chart(
        "Spectra",
        "Solid: eigenvalues of the covariance; dashed: variances of the pixels. Both add up to the "
        "same total. Zeros are left out.",
        true + [replace(each, label="") for each in diagonal],
        Axis("direction or pixel, by size", (1, 1.1 * rows["rank"].max())),
        Axis("variance λ", (1e-4, 2 * max(1.0, rows.eigenvalue.max()))),
        f"{len(sighted)} of {len(sources)} sources have variances above 1; in "
        f"{(sighted.diagonal_largest <= 1).sum()} of these no pixel has",
        table("Variances above and below 1", sources, _SHARE_COLUMNS),
        levels=[Level(y=1.0)],
        height=3.2,
    )
    time = record["settings"]["merge_times"][-1]
    shown = plans[plans.merge_time == time]
    ticks = {steps: str(steps) for steps in shown.num_steps}
    axis = Axis("number of teacher steps T", margin=1.2, ticks=ticks)
    gains = series_by(shown, "called", "num_steps", "gain")
    losses = series_by(shown, "called", "num_steps", "loss", linestyle=DASHED)
    yield chart(
        "Gain of the best plan",
        "W2 of the best named strategy (solid) and of the plan of the diagonal (dashed) as a "
        f"multiple of the best plan's, in the eigenbasis, s = {time:g}.",
        gains + [replace(each, label="") for each in losses],
        axis,
        Axis("W2 to the teacher, best plan = 1", (0.95, 1.05 * shown.loss.max()), log=False),
        f"The plan of the diagonal errs up to {shown.loss.max():.2f} times the best plan, the "
        f"best named strategy up to {shown.gain.max():.2f} times",
        table("Best plans and named strategies in the eigenbasis", plans, _PLAN_COLUMNS),
        height=3.2,
    )
    yield chart(
        "What the diagonal promises",
        "True W2 of the plan made for the diagonal, as a multiple of what the diagonal predicts "
        f"for it, s = {time:g}.",
        series_by(shown, "called", "num_steps", "promise"),
        axis,
        Axis("true W2, predicted = 1", (0, 1.1 * shown.promise.max()), log=False),
        f"The true error is {shown.promise.min():.2g} to {shown.promise.max():.2g} times what "
        "the diagonal predicts",
        table("The plan of the diagonal", plans, _PROMISE_COLUMNS),
        levels=[Level(y=1.0)],
    )
