"""The page of the study `stabilisation`: averaged weights and timestep mixing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import (
    DASHED,
    DOTTED,
    STYLES,
    Axis,
    Level,
    Series,
    chart,
    series_by,
    series_of,
)
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.sentences import number
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, INK, ORANGE
from opmerge_studies.stabilisation import CHAINS

_STILL = 1e-3  # shift of a λ, or loss by a wrong plan, that nobody would notice
_COMPARED = ["shift", "apart"]
_SAME = 1e-10  # difference of two λ that is rounding
_SLOW = 8.0  # β s up to which an average lags so much that plans may suffer
_BAND = (1.0, 2.1)  # holds λ*(T) and all crossings, for every T >= 8
_RATES = Axis("time constants of the average in a merge, β s", margin=1.3)
_EIGENVALUES = Axis("data variance λ", margin=1.0)
_RATE = ("T=num_steps:g", "β s=turnovers:g")
_RULE = ("T=num_steps:g", "rule=merge_rule:s", "λ=eigenvalue:.4g")


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    tables = {name: frame(record, name) for name in record["tables"]}
    plans, simulated = tables["ema_plans"], tables["ema_simulation"]
    mixing, times, combs = (tables[key] for key in ("mixing", "mixing_time", "mixing_combs"))
    crossings = tables["ema_crossings"]
    crossings = crossings.astype(dict.fromkeys(crossings.filter(like="crossing"), float))
    averaged = _averaged(crossings)
    crossed = averaged.dropna(subset=_COMPARED)
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
        "worst": simulated.groupby("num_iterations").difference.max(),
        "lost": lost,
        "late": late.join(slower),
        "windows": tables["mixing_crossings"].dropna(subset=["window_from"]),
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
    rows = {**tables, "ema_crossings": crossings, "averaged": averaged, "late": late}
    return Page(values, claims, chain(_averaging(rows), _mixing(rows)))


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


def _averaging(rows: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    averaged, simulated = rows["averaged"], rows["ema_simulation"]
    if len(averaged.dropna(subset=_COMPARED)):
        shifts = averaged.assign(shift=averaged["shift"].clip(lower=1e-14))
        yield chart(
            "Averaging: the transition",
            "How far the first crossing of BOOT and vanilla moves when weights are averaged. β s "
            "is the number of the average's time constants in a merge.",
            series_by(shifts, "label", "turnovers", "shift"),
            _RATES,
            Axis("shift of the crossing in λ", margin=3),
            f"Averaging moves the crossing by {number(averaged['shift'].max())} in λ at most",
            table(
                "Crossings of BOOT and vanilla with averaged weights",
                rows["ema_crossings"],
                heads(
                    *(*_RATE, "retention", "first crossing=first_crossing:.8f"),
                    *("last=last_crossing:.8f", "as flow for s=effective_time:.3f"),
                    "of that=crossing_of_shorter_flow:.8f",
                ),
                "β s –: without averaging. Of that: the crossing of plain flow for that s.",
            ),
        )
    rates = averaged.drop_duplicates("turnovers")
    slowest, look = rates.iloc[0], {"color": BLUE, "marker": "o", "markersize": 4}
    yield chart(
        "Averaging: the price",
        "What is left of a student's initial error at T; dashed: without averaging.",
        [Series("", rates.turnovers, rates.retention, look)],
        _RATES,
        Axis("retention at T", (slowest.plain / 3, 1.0)),
        f"An average with β s = {slowest.turnovers:g} leaves {number(slowest.retention)} of "
        f"the error, plain flow {number(slowest.plain)}",
        table(
            "Best plans with averaged weights",
            rows["ema_plans"],
            heads(
                *(*_RATE, "λ=spectrum:s", "W2 without=w2_without", "W2=w2", "gap:%"),
                *("old plan loses=regret:%", "merges:g", "plan:s"),
            ),
            "Gap: by how much any plan could be better than the best found, at most.",
        ),
        levels=[Level(y=slowest.plain, look={"color": INK, "linestyle": DASHED})],
    )
    worst = simulated.groupby("num_iterations").difference.max()
    if len(worst) > 1:
        order = np.diff(np.log(worst))[-1] / np.diff(np.log(worst.index))[-1]
        yield chart(
            "Averaging: simulated",
            "Descent in N steps with its average kept, merge by merge, against the closed form.",
            series_by(simulated, "strategy", "num_iterations", "difference", STYLES),
            Axis("iterations N of a merge", margin=1.3),
            Axis("relative difference of errors", margin=2),
            f"Averaged descent nears the closed form, at last as N to the power {order:.2f}",
            table(
                "Averaged descent against the closed form",
                simulated,
                heads("N=num_iterations:g", "plan=strategy:s", *_RATE, "difference"),
            ),
            columns=2,
        )


def _mixing(rows: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    mixing, times, combs = (rows[key] for key in ("mixing", "mixing_time", "mixing_combs"))
    copied, late = mixing[mixing.merge_rule == "operator-copy"], rows["late"]
    lost = copied.mixed_boot > copied.vanilla
    steps = copied.num_steps.unique()[copied.num_steps.nunique() // 2]
    drawn, names = copied[copied.num_steps == steps], ["vanilla", *CHAINS]
    broken = {name: {**STYLES[name], "marker": "", "linestyle": DASHED} for name in CHAINS}
    yield chart(
        "Mixing: errors",
        "Relative error of the whole student under operator copy; dashed: all merges trained at "
        "once, for the same total time.",
        [
            *series_of(drawn, "eigenvalue", names, marker="", linestyle="-"),
            *(
                Series(f"{name}, mixed", drawn.eigenvalue, drawn[f"mixed_{name}"], broken[name])
                for name in CHAINS
            ),
        ],
        _EIGENVALUES,
        Axis("relative error of the student", (1e-8, 10.0)),
        f"Mixed, BOOT errs more than vanilla at {lost.sum()} of {len(lost)} (λ, T); shown: "
        f"T = {steps}",
        table(
            "Relative errors, merged in turn and mixed",
            mixing,
            heads(*_RULE, *names, *(f"{name}, mixed=mixed_{name}" for name in CHAINS)),
        ),
        height=3.5,
        columns=2,
    )
    bars, plain = [], times[times.turnovers.isna()].astype({"factor": float})
    for name, place in zip(CHAINS, (0.94, 1.06), strict=True):
        ends = plain[plain.strategy == name].groupby("num_steps").factor.agg(["min", "max"])
        ends = ends.assign(gap=np.nan)  # between the bars
        look = {"color": STYLES[name]["color"], "linewidth": 5, "solid_capstyle": "round"}
        bars.append(Series(name, np.repeat(ends.index * place, 3), np.ravel(ends), look))
    yield chart(
        "Mixing: how much longer",
        "Time that students trained at once need to err as little as those trained in turn, by "
        "strategy; the bars span λ and both merge rules. Dotted: T - 1, what perfect sharing of "
        "parameters between steps could at most return.",
        [*bars, Series("T - 1", late.index, late.index - 1, {"color": INK, "linestyle": DOTTED})],
        Axis("number of teacher steps T", margin=1.4),
        Axis("times as long as in turn", (0.8, 2.0 * late.index[-1])),
        f"Mixing must train up to {late.high.max():.2g} times as long to err as little",
        table(
            "How much longer mixing takes",
            times,
            heads(
                *(*_RULE, "plan=strategy:s", "β s of targets=turnovers:g"),
                *("times as long=factor:.3f", "error at equal time=error_ratio:x"),
            ),
            "β s of targets –: targets read the students as they are.",
        ),
    )
    copied = combs[combs.merge_rule == "operator-copy"]
    best, total = (copied.best_at_once == "vanilla").sum(), copied.num_steps.iloc[0]
    in_turn = {"drawstyle": "steps-mid", "color": BLUE}
    at_once = {"drawstyle": "steps-mid", "color": ORANGE, "linestyle": DASHED}
    yield chart(
        "Mixing: the best comb",
        "Merges of the best of all combs (only the student at T is trained, block after block), "
        "in turn and at once.",
        [
            Series("trained in turn", copied.eigenvalue, copied.merges_in_turn, in_turn),
            Series("trained at once", copied.eigenvalue, copied.merges_at_once, at_once),
        ],
        _EIGENVALUES,
        Axis("merges of the best comb", (0, total), log=False),
        f"Trained at once, vanilla is the best comb at {best} of {len(copied)} λ (T = {total})",
        table(
            "The best comb, in turn and at once",
            combs,
            heads(
                *(*_RULE, "in turn=best_in_turn:s", "merges in turn=merges_in_turn:g"),
                *("at once=best_at_once:s", "merges at once=merges_at_once:g"),
            ),
        ),
    )
