"""The page of the study `synthetic`: named strategies and interval DP against the best plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from opmerge.page.charts import Axis, chart, series_by, series_of
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.sentences import percent, times
from opmerge.page.study import Page, frame, heads, table

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_NEARLY = 1e-6  # the paper's λ = 2 lies just below λ*(T), from which on vanilla is best
_PROVED = 1e-6  # relative gap below which a plan counts as proved best
_TOP = 1e4  # ratio at which the figures end
_PLACE = ["merge_rule", "num_steps", "eigenvalue"]
_SCAN_COLUMNS = heads(
    *("T=num_steps", "λ=eigenvalue:.6g", "best", "bound=lower_bound"),
    *("interval DP=interval", "ratio=interval_ratio:.4g", "best plan=kind"),
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    plans, scan = frame(record, "plans"), frame(record, "scan")
    missed = scan.interval_ratio > 1 + _EQUAL
    scan = scan.assign(
        called="T = " + scan.num_steps.astype(str),
        distance=scan.eigenvalue - 1,
        kind=scan.merges.astype(str) + " merges, " + scan["shape"],
        missed=missed,
        proved=missed & (scan.lower_bound >= scan.best * (1 - _PROVED)),
    )
    errors = frame(record, "errors").merge(
        plans[[*_PLACE, "best", "lower_bound", "interval", "interval_ratio"]], on=_PLACE
    )
    errors = errors.assign(
        over_interval=errors.w2 / errors.interval, is_best=errors.ratio_to_best <= 1 + _EQUAL
    )
    compared = errors[errors.ratio_to_best.notna()]
    copied = compared[compared.merge_rule == "operator-copy"]
    boot, vanilla = (copied[copied.strategy == name] for name in ("boot", "vanilla"))
    low, high = boot[boot.eigenvalue <= 1], vanilla[vanilla.eigenvalue >= 2]
    phases = plans.query("merge_rule == 'operator-copy' and not 1 < eigenvalue < 2")
    denoiser = compared.query("merge_rule == 'denoiser-copy' and strategy == 'boot'")
    claims = {
        "boot-best-to-one": count(low.is_best),
        "vanilla-best-from-two": count(high.ratio_to_best <= 1 + _NEARLY),
        "optimum-outperforms": count(errors.w2 >= errors.best * (1 - _EQUAL)),
        "interval-dp-exact-in-the-phases": count(phases.interval <= phases.best * (1 + _EQUAL)),
        "interval-dp-exact-between": count(~scan.missed),
        "interval-dp-outperforms": count(errors.over_interval >= 1 - _EQUAL),
        "boot-best-under-denoiser-copy": count(denoiser.is_best),
    }
    values = {
        **{"low": low, "high": high, "errors": copied, "scan": scan, "missed": scan[scan.missed]},
        **{"boot": boot, "vanilla": vanilla, "worst": scan.nlargest(1, "interval_ratio").iloc[0]},
        "beaten": errors[errors.over_interval < 1 - _EQUAL].nsmallest(1, "over_interval"),
    }
    return Page(values, claims, _sections(errors, scan))


def _sections(errors: pd.DataFrame, scan: pd.DataFrame) -> Iterator[Section]:
    names = list(errors.strategy.unique())
    told = errors.ratio_to_best.map("{:.4g}".format).replace("nan", "–")
    errors = errors.assign(cell=told + " (" + errors["rank"].astype(str) + ")")
    for rule, rows in errors.groupby("merge_rule", sort=False):
        last = rows[rows.num_steps == rows.num_steps.max()]
        ratios = last.pivot(index="eigenvalue", columns="strategy", values="ratio_to_best")
        ratios = ratios.fillna(1.0).clip(upper=_TOP).reset_index()
        first = last.loc[last.groupby("eigenvalue").w2.idxmin()].strategy
        places = ["num_steps", "eigenvalue", "best", "lower_bound", "interval_ratio"]
        yield chart(
            f"Strategies under {str(rule).replace('-', ' ')}",
            f"W2 to the teacher as a multiple of the best plan's, T = {rows.num_steps.max()}. "
            f"Points above {_TOP:,.0f} lie on the upper edge.",
            series_of(ratios.reset_index(), "index", names, markersize=5, clip_on=False),
            Axis(
                "data variance λ",
                (-0.3, len(ratios) - 0.7),
                log=False,
                ticks={place: f"{value:g}" for place, value in ratios.eigenvalue.items()},
            ),
            Axis("W2 to the teacher, best plan = 1", (0.9, _TOP)),
            f"BOOT errs least at {(first == 'boot').sum()} of {len(first)} λ, vanilla at "
            f"{(first == 'vanilla').sum()}",
            table(
                "Best plan's W2; each strategy's multiple of it (and rank)",
                rows.pivot(index=places, columns="strategy", values="cell").reset_index(),
                heads(
                    *("T=num_steps", "λ=eigenvalue:g", "best", "bound=lower_bound"),
                    *(*(f"{n}={n}:s" for n in names), "interval DP=interval_ratio:.4g"),
                ),
            ),
            height=3.2,
        )
    yield chart(
        "The paper's planner",
        "W2 of the plan of interval DP (Algorithm 1) as a multiple of the best plan that is known, "
        "under operator copy. At 1 it finds the best plan.",
        series_by(scan, "called", "distance", "interval_ratio", markersize=3),
        Axis("data variance, λ - 1", (0.001, 1.2)),
        Axis("W2 of interval DP, best = 1", (0.9, 1.5 * max(10.0, scan.interval_ratio.max()))),
        f"Interval DP misses the best plan at {scan.missed.sum()} of {len(scan)} points "
        "between the phases",
        table("Points where interval DP is not best", scan[scan.missed], _SCAN_COLUMNS),
        columns=2,
    )
    copied = errors[errors.ratio_to_best.notna() & (errors.merge_rule == "operator-copy")]
    lowest = copied.eigenvalue.min()
    growing = copied[copied.eigenvalue == lowest].pivot(
        index="num_steps", columns="strategy", values="w2"
    )
    steps = list(growing.index)
    if len(steps) > 1:
        growth = growing.iloc[-1] / growing.iloc[0]
        yield chart(
            "More teacher steps",
            f"W2 to the teacher at λ = {lowest:g}, under operator copy.",
            series_of(growing.reset_index(), "num_steps", names, markersize=5),
            Axis("number of teacher steps T", margin=1.2, ticks={t: str(t) for t in steps}),
            Axis("W2 to the teacher", margin=3),
            f"From T = {steps[0]} to {steps[-1]} the error of {growth.idxmax()} grows "
            f"{times(growth.max())}; BOOT's changes by {percent(abs(growth.boot - 1))}",
        )
