"""The page of the study `stabilisation`: averaged weights and timestep mixing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page import charts
from opmerge.page.charts import DASHED, DOTTED, Axis, Level, Series, curves, series_by, series_of
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import number
from opmerge.page.study import Page, frame, table
from opmerge.plotting import BLUE, INK, ORANGE
from opmerge_studies.stabilisation.mixing import CHAINS

if TYPE_CHECKING:
    import pandas as pd

_STILL = 1e-3  # shift of a λ, or loss by a wrong plan, that nobody would notice
_SAME = 1e-10  # difference of two λ that is rounding
_SLOW = 8.0  # β s up to which an average lags so much that plans may suffer
_BAND = (1.0, 2.1)  # holds λ*(T) and all crossings, for every T >= 8
_RATES = Axis("time constants of the average in a merge, β s", margin=1.3)
_EIGENVALUES = Axis("data variance λ", margin=1.0)
_RATE = {"T": "num_steps:g", "β s": "turnovers:g"}
_CROSSINGS = {"first crossing": "first_crossing:.8f", "last": "last_crossing:.8f"}
_CROSSINGS |= {"as flow for s": "effective_time:.3f", "of that": "crossing_of_shorter_flow:.8f"}
_PLANS = {"λ": "spectrum:s", "W2 without": "w2_without", "W2": "w2", "gap": "gap:%"}
_PLANS |= {"old plan loses": "regret:%", "merges": "merges:g", "plan": "plan:s"}
_RULE = {"T": "num_steps:g", "rule": "merge_rule:s", "λ": "eigenvalue:.4g"}
_TIMES = {"plan": "strategy:s", "β s of targets": "turnovers:g", "times as long": "factor:.3f"}
_COMBS = {"in turn": "best_in_turn:s", "merges in turn": "merges_in_turn:g"}
_COMBS |= {"at once": "best_at_once:s", "merges at once": "merges_at_once:g"}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    names = ("ema_plans", "ema_simulation", "mixing", "mixing_time", "mixing_combs")
    plans, simulated, mixing, times, combs = (frame(record, name) for name in names)
    crossings = frame(record, "ema_crossings")
    crossings = crossings.astype(dict.fromkeys(crossings.filter(like="crossing"), float))
    averaged = _averaged(crossings)
    crossed = averaged.dropna(subset=["shift", "apart"])
    worst = simulated.groupby("num_iterations").difference.max()
    copied = mixing[mixing.merge_rule == "operator-copy"]
    lost = copied.mixed_boot > copied.vanilla
    plain = times[times.turnovers.isna()].astype({"factor": float})
    late = plain.groupby("num_steps").agg(
        low=("factor", "min"), high=("factor", "max"), ratio=("error_ratio", "max")
    )
    slower = times[times.turnovers.notna()].groupby("num_steps").factor.agg(["min", "max"])
    outside = combs[~combs.eigenvalue.between(*_BAND, inclusive="neither")]
    values = {
        "settings": record["settings"],
        "crossed": crossed,
        "plans": plans,
        "moved": plans[~plans.same_plan],
        "cost": averaged.drop_duplicates("turnovers"),
        "worst": worst,
        "lost": lost,
        "late": late.join(slower),
        "windows": frame(record, "mixing_crossings").dropna(subset=["window_from"]),
        "combs": combs.combs.iloc[0],
        "outside": outside,
    }
    claims = {
        "averaging-keeps-crossing": count(crossed["shift"] < _STILL),
        "average-is-shorter-flow": count(crossed.apart < _SAME),
        "averaging-keeps-plans": count(plans[plans.turnovers > _SLOW].regret <= _STILL),
        "averages-tend-to-theory": count(
            simulated.groupby("strategy").difference.diff().dropna() < 0
        ),
        "mixed-boot-loses": count(lost),
        "mixing-takes-longer": count(~(plain.factor <= 1)),
        "sharing-could-pay": count(plain.factor < plain.num_steps - 1),
        "vanilla-is-best-mixed": count(outside.best_at_once == "vanilla"),
    }

    def sections() -> Iterator[Section]:
        if len(crossed):
            yield _shift_section(crossings, averaged)
        yield _price_section(plans, averaged.drop_duplicates("turnovers"))
        if len(worst) > 1:
            yield _simulation_section(simulated, worst)
        yield _error_section(mixing, copied, lost)
        yield _time_section(times, plain, late)
        yield _comb_section(combs, record["settings"]["comb_steps"])

    return Page(values, claims, sections())


def _averaged(crossings: pd.DataFrame) -> pd.DataFrame:
    """Crossings with averages, beside those without: their shift, their price."""
    plain = crossings[crossings.turnovers.isna()].set_index("num_steps")
    rows = crossings[crossings.turnovers.notna()]
    retention = rows.num_steps.map(plain.retention)
    return rows.assign(
        shift=(rows.first_crossing - rows.num_steps.map(plain.first_crossing)).abs(),
        apart=(rows.first_crossing - rows.crossing_of_shorter_flow).abs(),
        plain=retention,
        price=rows.retention / retention,
        label="T = " + rows.num_steps.astype(str),
    )


def _shift_section(crossings: pd.DataFrame, averaged: pd.DataFrame) -> Section:
    drawn = averaged.assign(shift=averaged["shift"].clip(lower=1e-14))
    return draw_section(
        "Averaging: the transition",
        "How far the first crossing of BOOT and vanilla moves when weights are averaged. β s is "
        "the number of the average's time constants in a merge.",
        curves(
            series_by(drawn, "label", "turnovers", "shift"),
            _RATES,
            Axis("shift of the crossing in λ", margin=3),
            f"Averaging moves the crossing by {number(averaged['shift'].max())} in λ at most",
        ),
        table(
            "Crossings of BOOT and vanilla with averaged weights",
            crossings,
            {**_RATE, "retention": "retention", **_CROSSINGS},
            "β s –: without averaging. Of that: the crossing of plain flow for that s.",
        ),
    )


def _price_section(plans: pd.DataFrame, rates: pd.DataFrame) -> Section:
    slowest = rates.iloc[0]
    plain, look = slowest.plain, {"color": BLUE, "marker": "o", "markersize": 4}
    return draw_section(
        "Averaging: the price",
        "What is left of a student's initial error at T; dashed: without averaging.",
        curves(
            [Series("", rates.turnovers, rates.retention, look)],
            _RATES,
            Axis("retention at T", (plain / 3, 1.0)),
            f"An average with β s = {slowest.turnovers:g} leaves {number(slowest.retention)} of "
            f"the error, plain flow {number(plain)}",
            levels=[Level(y=plain, look={"color": INK, "linestyle": DASHED})],
        ),
        table(
            "Best plans with averaged weights",
            plans,
            {**_RATE, **_PLANS},
            "Gap: by how much any plan could be better than the best found, at most.",
        ),
    )


def _simulation_section(rows: pd.DataFrame, worst: pd.Series[float]) -> Section:
    order = np.diff(np.log(worst))[-1] / np.diff(np.log(worst.index))[-1]
    return draw_section(
        "Averaging: simulated",
        "Descent in N steps with its average kept, merge by merge, against the closed form.",
        curves(
            series_by(rows, "strategy", "num_iterations", "difference", charts.STYLES),
            Axis("iterations N of a merge", margin=1.3),
            Axis("relative difference of errors", margin=2),
            f"Averaged descent nears the closed form, at last as N to the power {order:.2f}",
            columns=2,
        ),
        table(
            "Averaged descent against the closed form",
            rows,
            {"N": "num_iterations:g", "plan": "strategy:s", **_RATE, "difference": "difference"},
        ),
    )


def _error_section(rows: pd.DataFrame, copied: pd.DataFrame, lost: pd.Series[bool]) -> Section:
    steps = copied.num_steps.unique()
    drawn = copied[copied.num_steps == steps[len(steps) // 2]]
    mixed = {f"mixed_{name}": f"{name}, mixed" for name in CHAINS}
    names = ["vanilla", *CHAINS]
    series = series_of(drawn, "eigenvalue", names, marker="", linestyle="-")
    for name, (column, label) in zip(CHAINS, mixed.items(), strict=True):
        look = {**charts.STYLES[name], "marker": "", "linestyle": DASHED}
        series.append(Series(label, drawn.eigenvalue, drawn[column], look))
    return draw_section(
        "Mixing: errors",
        "Relative error of the whole student under operator copy; dashed: all merges trained at "
        "once, for the same total time.",
        curves(
            series,
            _EIGENVALUES,
            Axis("relative error of the student", (1e-8, 10.0)),
            f"Mixed, BOOT errs more than vanilla at {lost.sum()} of {len(lost)} (λ, T); shown: "
            f"T = {drawn.num_steps.iloc[0]}",
            height=3.5,
            columns=2,
        ),
        table(
            "Relative errors, merged in turn and mixed",
            rows,
            {**_RULE, **dict(zip(names, names, strict=True)), **{v: k for k, v in mixed.items()}},
        ),
    )


def _time_section(rows: pd.DataFrame, plain: pd.DataFrame, late: pd.DataFrame) -> Section:
    bars = []
    for name, place in zip(CHAINS, (0.94, 1.06), strict=True):
        ends = plain[plain.strategy == name].groupby("num_steps").factor.agg(["min", "max"])
        ends = ends.assign(gap=np.nan)  # between the bars
        look = {"color": charts.STYLES[name]["color"], "linewidth": 5, "solid_capstyle": "round"}
        bars.append(Series(name, np.repeat(ends.index * place, 3), np.ravel(ends), look))
    perfect = Series("T - 1", late.index, late.index - 1, {"color": INK, "linestyle": DOTTED})
    return draw_section(
        "Mixing: how much longer",
        "Time that students trained at once need to err as little as those trained in turn, by "
        "strategy; the bars span λ and both merge rules. Dotted: T - 1, what perfect sharing of "
        "parameters between steps could at most return.",
        curves(
            [*bars, perfect],
            Axis("number of teacher steps T", margin=1.4),
            Axis("times as long as in turn", (0.8, 2.0 * late.index[-1])),
            f"Mixing must train up to {late.high.max():.2g} times as long to err as little",
        ),
        table(
            "How much longer mixing takes",
            rows,
            {**_RULE, **_TIMES, "error at equal time": "error_ratio:x"},
            "β s of targets –: targets read the students as they are.",
        ),
    )


def _comb_section(rows: pd.DataFrame, total: int) -> Section:
    copied = rows[rows.merge_rule == "operator-copy"]
    values = copied.eigenvalue
    steps = {"drawstyle": "steps-mid"}
    at_once = {**steps, "color": ORANGE, "linestyle": DASHED}
    best = (copied.best_at_once == "vanilla").sum()
    return draw_section(
        "Mixing: the best comb",
        "Merges of the best of all combs (only the student at T is trained, block after block), "
        "in turn and at once.",
        curves(
            [
                Series("trained in turn", values, copied.merges_in_turn, {**steps, "color": BLUE}),
                Series("trained at once", values, copied.merges_at_once, at_once),
            ],
            _EIGENVALUES,
            Axis("merges of the best comb", (0, total), log=False),
            f"Trained at once, vanilla is the best comb at {best} of {len(copied)} λ (T = {total})",
        ),
        table("The best comb, in turn and at once", rows, {**_RULE, **_COMBS}),
    )
