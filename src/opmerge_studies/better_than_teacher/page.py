"""The page of the study `better-than-teacher`: when a student is nearer to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import (
    DOTTED,
    STYLES,
    Axis,
    Level,
    Series,
    chart,
    intervals,
    series_by,
    series_of,
)
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import number
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import GREY
from opmerge_studies.shared.strategies import CANONICAL
from opmerge_studies.shared.transition import growth_threshold

_STRATEGIES = list(CANONICAL)
_NOTICED = 1e-3  # relative gain below which nobody would notice
_SHOWN_EIGENVALUE = 0.2
_TIME = "optimisation time of a merge, s"
_LABELS = {
    "exact": "optimal",
    "rank, rest 0": "rank {:g}, rest 0",
    "rank, rest mean": "rank {:g}, rest at mean",
    "biased": "covariance times {:g}",
    "samples": "{:g} samples",
}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    when, points, growth = (frame(record, name) for name in ("times", "points", "growth"))
    when = when.assign(overtakes=when["first"].notna())
    copies, when = (when[when.merge_rule == f"{rule}-copy"] for rule in ("denoiser", "operator"))
    below, above = when.eigenvalue <= 1, when.eigenvalue > when.num_steps.map(growth_threshold)
    steps = sorted(when.num_steps.unique())[when.num_steps.nunique() // 2]
    shown = when[when.num_steps == steps]
    nearest = shown.eigenvalue[(shown.eigenvalue - _SHOWN_EIGENVALUE).abs().idxmin()]
    places = ["num_steps", "eigenvalue"]
    first = when[when.eigenvalue < 1].pivot(index=places, columns="strategy", values="first")
    planned = points[points.merge_rule == "operator-copy"]
    spectra, taught = frame(record, "spectra"), frame(record, "misfits")
    cells = zip(taught.limit, taught["size"], strict=True)
    taught = taught.assign(label=[_LABELS[limit].format(size) for limit, size in cells])
    misfits = _misfits(taught)
    ratios = spectra[[*_STRATEGIES, "hybrid", "best"]].div(spectra.teacher, axis=0)
    least = ratios.groupby([spectra.source, spectra.num_steps]).min()
    best = spectra.iloc[int(ratios.best.argmin())]
    beside = least.loc[best.source, best.num_steps][_STRATEGIES]
    gains = {str(rule).replace("-", " "): rows for rule, rows in misfits.groupby("merge_rule")}
    values = dict(
        record["settings"],
        below=when[below].overtakes,
        highest=_highest(when),
        copies=copies.overtakes,
        best=best,
        gain=1 - ratios.best.min(),
        strategy=beside.idxmin(),
        strategy_gain=1 - beside.min(),
        gains={rule: (rows, rows[rows.is_overtaken]) for rule, rows in gains.items()},
        tops={k: rows[rows.limit != "exact"].nlargest(1, "gain") for k, rows in gains.items()},
        middle=steps,
        marks=shown[shown.overtakes & (shown.eigenvalue == nearest)],
        growth=growth,
        expected=np.log(growth.num_steps.iloc[-1] / growth.num_steps.iloc[-2]) / 2,
        planned=planned,
        gained=planned[planned.best < planned.teacher * (1 - _NOTICED)],
    )
    looked = len(points) * len(_STRATEGIES)
    copied, ranked = misfits.merge_rule == "denoiser-copy", misfits.limit == "rank, rest 0"
    factors = misfits["size"].where(misfits.limit == "biased", 1.0)
    scaled = copied & (ranked | misfits.limit.isin(("exact", "biased")))
    claims = {
        "condition-exact": Count(looked - int(points.disagree.sum()), looked),
        "overtakes-below-one": count(when[below].overtakes),
        "never-above-threshold": count(~when[above].overtakes),
        "boot-first": count(first.boot <= first.min(axis=1)),
        "copied-denoisers-never": count(~copies.overtakes),
        "plans-gain-more": count(least.best < least.drop(columns="best").min(axis=1)),
        "overshoot-helps-narrow": count(misfits[~copied & (ranked | (factors < 1))].is_overtaken),
        "shrinking-helps-wide": count(misfits[scaled].is_overtaken == (factors[scaled] > 1)),
    }
    return Page(values, claims, _sections(shown, when, spectra, gains, taught))


def _highest(rows: pd.DataFrame) -> float:
    """The highest λ at which a student overtakes, or 0."""
    return float(np.nan_to_num(rows.eigenvalue[rows.overtakes].max()))


def _misfits(rows: pd.DataFrame) -> pd.DataFrame:
    """Each teacher's W2 of strategies over its own, mean over draws, at the best s; the gain."""
    keys = ["merge_rule", "limit", "size", "label"]
    rows = rows.assign(**rows[_STRATEGIES].div(rows.teacher, axis=0))
    means = rows.groupby([*keys, "time"], sort=False)[_STRATEGIES].mean()
    least = means.groupby(keys, sort=False).min()
    return least.assign(
        gain=1 - least.min(axis=1),
        is_overtaken=least.min(axis=1) < 1 - _NOTICED,
        strategy=least.idxmin(axis=1),
    ).reset_index()


def _sections(
    shown: pd.DataFrame,
    when: pd.DataFrame,
    spectra: pd.DataFrame,
    gains: dict[str, pd.DataFrame],
    taught: pd.DataFrame,
) -> Iterator[Section]:
    steps, ascending = shown.num_steps.iloc[0], shown.sort_values("eigenvalue", kind="stable")
    overtaking, values = ascending[ascending.overtakes], ascending.eigenvalue
    vanilla = ascending[ascending.strategy == "vanilla"]
    thin = {"color": STYLES["vanilla"]["color"], "linewidth": 0.7}
    yield chart(
        "Where students overtake",
        f"Optimisation time of each merge from which a strategy's student is nearer to the data "
        f"than its teacher, T = {steps}, operator copy. It stays so above the line. Thin: where "
        "vanilla's student has the data's variance.",
        [
            *series_by(overtaking, "strategy", "eigenvalue", "first", STYLES, markersize=3.5),
            Series("", vanilla.eigenvalue, vanilla.perfect, thin),
        ],
        Axis("data variance λ", (values.min(), values.max())),
        Axis(_TIME, (0.1, 100.0)),
        f"{len(overtaking)} of {len(shown)} students overtake their teacher, up to "
        f"λ = {_highest(shown):.3g}",
        table(
            "Optimisation times",
            when,
            heads(
                *("T=num_steps:s", "λ=eigenvalue:.4g", "strategy:s", "nearer from=first:.4g"),
                *("until:.4g", "data's variance at=perfect:.4g"),
            ),
            "From 0.01 means from the shortest time tried on. No time ends: –.",
        ),
        levels=[Level(x=1.0, look={"color": GREY, "linestyle": DOTTED, "linewidth": 0.8})],
        height=3.4,
        columns=2,
    )
    names = {"best": "best found", "lower_bound": "bound"}
    for source, rows in spectra.groupby("source", sort=False):
        drawn = rows[rows.num_steps == steps].rename(columns=names)
        ratio = drawn["best found"] / drawn.teacher
        yield chart(
            f"Spectrum of {source}",
            f"W2 to the data over the teacher's, T = {steps}; below 1 the student is nearer. "
            "Bound: what no plan goes below.",
            series_of(drawn, "time", [*CANONICAL, *names.values()], over="teacher"),
            Axis(_TIME, margin=1.1),
            Axis("W2 to the data, teacher = 1", (0.5, 20.0)),
            f"{source}: the best plan found has {number(ratio.min())} times the teacher's W2, at "
            f"s = {drawn.time.iloc[int(ratio.argmin())]:g}",
            table(
                f"W2 to the data, {source}",
                rows,
                heads(
                    *("T=num_steps:s", "s=time:g", "teacher", *CANONICAL, "hybrid", "best"),
                    "bound=lower_bound",
                ),
                "Hybrid: the best of 2 to 32 last steps one at a time.",
            ),
            levels=[Level(y=1.0)],
            height=3.2,
        )
    for rule, rows in reversed(gains.items()):
        least = rows[_STRATEGIES].min().min()
        yield draw_section(
            f"Teachers under capacity, {rule}",
            "W2 to the data over the teacher's at the best s of each strategy: below 1 the student "
            "is nearer. Means over draws where samples are drawn.",
            intervals(
                [
                    Series(name, rows[name], range(len(rows)), {**STYLES[name], "linestyle": ""})
                    for name in _STRATEGIES
                ],
                rows.label.tolist(),
                Axis("W2 at the best s, teacher = 1", (least / 1.2, 3.0)),
                f"Under {rule} {rows.is_overtaken.sum()} of {len(rows)} teachers are overtaken",
                levels=[Level(x=1.0)],
                columns=2,
            ),
            table(
                f"W2 to the data, {rule}",
                taught[taught.merge_rule == rule.replace(" ", "-")],
                heads(
                    *("teacher's covariance=label:s", "draw=seed:s", "s=time:g", "teacher"),
                    *CANONICAL,
                ),
            ),
        )
