"""The page of the study `real-networks`: predicted beside measured errors of merge plans."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import cycle
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from opmerge.page.charts import DASHED, LOOKS, Axis, Series, chart, curves
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import Page, heads, span, table
from opmerge.plans.drawing import plan_from_merges
from opmerge.plans.outline import plan_phrase
from opmerge.plotting import GREEN, GREY
from opmerge_studies.real_networks import PLANNED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

_FACTOR = 1.5  # how far a calibrated prediction may be from the measured error
_CHANCE = 0.05
_ALIKE = 1.1  # costs that differ by less are equal budgets
_SIGNAL = 0.1  # of the data's variance; a denoiser that says less than this is hardly tested
_KINDS = {"spectrum": "the spectrum alone", "calibrated": "the calibrated training model"}
_COEFFICIENTS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}
_P_VALUES = {"spearman": "p_value", "kendall": "kendall_p_value"}
_COSTS = {"evaluations": "million network evaluations", "seconds": "seconds"}
_FRONT = {"drawstyle": "steps-post", "color": GREEN, "linewidth": 1.1, "linestyle": DASHED}
_CAPTIONS = {
    "spectrum": "Predicted with the default training model; its absolute size presumes linear "
    "students, so only the order is meant.",
    "calibrated": "Predicted with a training model fitted to short probe merges of the same "
    f"teacher, with seeds of their own. Dashed: equal; grey: within a factor {_FACTOR}.",
}
_BARS = "Bars: the range over seeds, or the 95 % interval of a single one. Large: the planner's."
_AGREEMENT_NOTE = (
    "Seeds tell how far training moves the coefficients of these plans. Intervals are those of "
    "plans drawn at random (Bonett & Wright 2000), which these are not; there is none (–) for 3 "
    "plans (τ: 4) or fewer, and for ±1. p: one-sided, of a random order of these plans. Canonical: "
    "over the strategies of arXiv 2505.16024 alone."
)
_PLAN_COLUMNS = heads(
    *("plan=label", "found from=planner", "measured=measured:.4g", "range=low…high:.4g"),
    *("± of samples=sampling:.2g", "from spectrum=spectrum", "calibrated", "ratio=factor:.2f"),
    *("merges", "evaluations", "seconds"),
)
_PLAN_NOTE = (
    "Range: over seeds, or the 95 % interval of a single one. ± of samples: half the 95 % interval "
    "of one measurement. Ratio: calibrated over measured. Training: million network evaluations, "
    "and seconds of the fastest seed."
)
_LINEAR_COLUMNS = heads(
    "step=steps", "R², theory=spectral:.3f", "R², affine=affine:.3f", "var x̂ / var data=signal:%"
)
_PROBE_COLUMNS = heads(
    *("merge", "iterations", "at the start=begun", "theory / measured=theory:.2f"),
    *("left=remains:%", "left, fitted=fitted:%"),
)


def page(record: Record) -> Page:
    """Numbers, claims and sections of a record."""
    plans, linearity = _plans(record), pd.DataFrame(record["linearity"])
    probes = _probes(record["calibration"]) if record["calibration"] else pd.DataFrame()
    agreement, pairs = record["agreement"], comb(len(plans), 2)
    planned = plans.explode("kinds").dropna(subset="kinds")
    factors = plans.factor.dropna()
    calibrated = plans.set_index("label").calibrated
    dearest = plans.evaluations.max() / plans.evaluations.min()
    mended = [calibrated[a] > calibrated[b] for a, b in agreement["spectrum"]["reversed"]]
    values = {
        **record,
        "plans": plans,
        "rows": plans.set_index("label").to_dict("index"),
        "planned": planned,
        "kinds": _KINDS,
        "coefficients": _COEFFICIENTS,
        "pairs": pairs,
        "factors": factors,
        "least_linear": linearity[linearity.signal > _SIGNAL].nsmallest(1, "spectral"),
        "probes": probes,
        "dearest": dearest,
        "at_equal_cost": dearest < _ALIKE,
    }
    right = {kind: Count(pairs - len(each["reversed"]), pairs) for kind, each in agreement.items()}
    claims = {
        **{f"order-from-{kind}": right.get(kind, Count(0, 0)) for kind in _KINDS},
        "beyond-chance": count(each["p_value"] <= _CHANCE for each in agreement.values()),
        "planner-best": count(planned.place == 1),
        "planner-unbeaten": count(planned.low <= plans.high[0]),
        "calibrated-size": count(factors.between(1 / _FACTOR, _FACTOR)),
        "calibration-mends": count(mended if len(factors) else []),
    }
    return Page(values, claims, _sections(record, plans, linearity, probes))


def _plans(record: Record) -> pd.DataFrame:
    """The plans by measured error, each with all that is told of it."""
    rows = pd.DataFrame(
        {
            **{key: entry[key] for key in ("label", "merges", "picture")},
            "names": [entry["name"], *entry["aliases"]],
            "words": plan_phrase(plan_from_merges(entry["merge_list"], entry["boundaries"])),
            **entry["measured"],
            **{kind: each["error"] for kind, each in entry["predicted"].items()},
        }
        for entry in record["plans"]
    ).rename(columns={"mean": "measured"})
    cells = pd.json_normalize(record["plans"], "per_seed", "label").astype({"seconds": float})
    own = cells.rename(columns=lambda name: name.split(".")[-1]).groupby("label", sort=False)
    costs = {
        "sampling": (own.high.mean() - own.low.mean()) / 2,
        "evaluations": own.network_evaluations.first() / 1e6,
        "seconds": own.seconds.min(),
    }
    rows = rows.join(pd.DataFrame(costs), on="label")
    rows = rows.sort_values("measured", kind="stable", ignore_index=True)
    kinds = rows.names.map(lambda names: [PLANNED[name] for name in names if name in PLANNED])
    calibrated = rows.get("calibrated", np.nan)
    return rows.assign(
        calibrated=calibrated,
        factor=calibrated / rows.measured,
        place=rows.index + 1,
        behind=rows.measured / rows.measured[0] - 1,
        kinds=kinds,
        planner=kinds.map(", ".join),
    )


def _probes(calibration: Mapping[str, Any]) -> pd.DataFrame:
    """The single merges by which the training model was fitted."""
    rows = pd.json_normalize(calibration["probes"])
    before = rows.before.map(sum)
    return rows.assign(
        merge=rows["settings.start"].astype(str) + " → " + rows["settings.stop"].astype(str),
        iterations=rows["settings.num_iterations"],
        begun=before**0.5,
        theory=(rows.expected / before) ** 0.5,
        remains=(rows.left / before) ** 0.5,
        fitted=(rows.predicted / before) ** 0.5,
    )


def _sections(
    record: Record, plans: pd.DataFrame, linearity: pd.DataFrame, probes: pd.DataFrame
) -> Iterator[Section]:
    for kind in record["agreement"]:
        yield _agreement_section(record, plans, kind)
    caption = "Measured and predicted errors, and cost of training"
    made = table(caption, plans, _PLAN_COLUMNS, _PLAN_NOTE, is_open=True)
    caption = "Errors are root mean squares of student minus teacher, from equal noise."
    yield Section("Every plan", caption, table=made, is_wide=True)
    caption = "How much of the teacher's denoiser is linear"
    yield Section(
        "How linear the teacher is",
        "The theory takes the teacher's denoiser for the best linear one. R²: what that explains "
        "of it, and what the best affine map of the same samples does, on samples held out.",
        table=table(caption, linearity, _LINEAR_COLUMNS, is_open=True),
    )
    if len(probes):
        residual = record["calibration"]["residual"]
        note = f"Residual of the fit, in the logarithm of squared errors: {residual:.3g}."
        caption = "Probe merges: root mean square deviation of x̂ from its target"
        made = table(caption, probes, _PROBE_COLUMNS, note)
        caption = "Probes by which the training model was fitted, before any plan was trained."
        yield Section("Single merges", caption, table=made)
    yield _direction_section(record, plans)
    for cost, words in _COSTS.items():
        known = plans.dropna(subset=cost)
        if len(known) and known[cost].max() > _ALIKE * known[cost].min():
            front = known[pareto_front(known[cost], known.measured)].sort_values(cost)
            behind = [Series("", front[cost], front.measured, _FRONT)]
            title = f"{len(front)} of {len(known)} plans are beaten by none in both cost and error"
            title += f": {', '.join(front.label)}"
            figure = plans_figure(known, cost, f"{words} of training", title, behind)
            caption = "Dashed: plans that no other beats in both."
            yield draw_section(f"Cost in {words}", caption, figure)
    if (teacher := record["pictures"]["teacher"]) is not None:
        caption = f"Each column starts from the same noise; students of seed {record['seeds'][0]}."
        pictures = [("teacher", teacher), *zip(plans.label, plans.picture, strict=True)]
        yield Section("Samples", caption, pictures=pictures)


def _agreement_section(record: Record, plans: pd.DataFrame, kind: str) -> Section:
    """Measured against predicted error, with both coefficients, and those of canonical plans."""
    agreement = record["agreement"][kind]
    columns = {"seed": [*record["seeds"], "mean errors", "95 % interval", "p"]}
    for suffix, group in (("", agreement), (", canonical", agreement["canonical"])):
        for key in _COEFFICIENTS if group else ():
            columns[_COEFFICIENTS[key] + suffix] = [
                *(f"{value:.3f}" for value in (*group[key]["per_seed"], group[key]["of_means"])),
                span(group[key]["interval"] or (), ".2f"),
                f"{group[_P_VALUES[key]]:.3g}",
            ]
    rho, tau = (agreement[key]["of_means"] for key in _COEFFICIENTS)
    title = f"From the spectrum alone, ρ = {rho:.2f} and τ = {tau:.2f} over {len(plans)} plans"
    behind = []
    if kind == "calibrated":
        inside = plans.factor.between(1 / _FACTOR, _FACTOR).sum()
        title = f"{inside} of {len(plans)} calibrated errors are within a factor {_FACTOR}"
        ends = np.array([plans[kind].min() / 1.3, plans[kind].max() * 1.3])
        look = {"color": GREY, "linestyle": DASHED, "linewidth": 0.9, "zorder": 0}
        behind = [Series("", ends, ends, look, ends / _FACTOR, ends * _FACTOR, band=True)]
    planned = plans.label[[kind in kinds for kinds in plans.kinds]].tolist()
    return draw_section(
        f"Predicted from {_KINDS[kind]}",
        f"{_CAPTIONS[kind]} {_BARS}",
        plans_figure(plans, kind, "predicted error", title, behind, planned),
        table("Agreement of the orders", pd.DataFrame(columns), heads(*columns), _AGREEMENT_NOTE),
    )


def _direction_section(record: Record, plans: pd.DataFrame) -> Section:
    """Predicted and measured errors by eigenvalue, of the best and of the worst plan."""
    kind = [*record["predictions"]][-1]
    spectrum = pd.DataFrame(record["spectrum"])
    entries = {entry["label"]: entry for entry in record["plans"]}
    series, largest = [], []
    for label, look, dash in zip(plans.label.iloc[[0, -1]], LOOKS, ("-", DASHED), strict=False):
        seeds = [seed["measured"]["errors"] for seed in entries[label]["per_seed"]]
        predicted = entries[label]["predicted"][kind]["errors"]
        squares = {"predicted": predicted, "measured": np.mean(seeds, axis=0)}
        rows = spectrum.join(pd.DataFrame(squares).div(spectrum.multiplicities, axis=0) ** 0.5)
        rows = rows[rows.eigenvalues > 1e-12 * rows.eigenvalues[0]]
        line, dots = {"linestyle": dash, "marker": ""}, {"linestyle": "", "fillstyle": "none"}
        series += [
            Series(f"{label}, {name}", rows.eigenvalues, rows[name], {**look, **drawn})
            for name, drawn in (("predicted", line), ("measured", dots))
        ]
        largest.append(f"{label} errs most at λ = {rows.eigenvalues[rows.measured.idxmax()]:.3g}")
    return chart(
        "Error per eigen-direction",
        "The plans with the smallest and the largest measured error. Lines: predicted from "
        f"{_KINDS[kind]}, without the error that training adds; markers: measured.",
        *(series, Axis("eigenvalue λ"), Axis("error in one eigen-direction", margin=2)),
        ", ".join(largest),
        height=3.6,
        columns=1,
    )


def pareto_front(cost: ArrayLike, error: ArrayLike) -> NDArray[np.bool_]:
    """Which plans (n,) no other plan beats in cost and error at once."""
    both = np.column_stack([cost, error])
    no_worse, better = (both[:, None] <= both).all(axis=2), (both[:, None] < both).any(axis=2)
    return np.asarray(~(no_worse & better).any(axis=0))


def plans_figure(
    plans: pd.DataFrame,
    x: str,
    words: str,
    title: str,
    behind: Sequence[Series] = (),
    large: Collection[str] = (),
) -> Figure:
    """Measured error (``low`` to ``high``) of every plan against the column ``x``, on log scales.

    ``words`` say what ``x`` is; ``large`` are the labels of plans that are drawn larger.
    """
    hollow = [{**look, "fillstyle": "none"} for look in LOOKS]
    series = []
    for look, (label, row) in zip(
        cycle([*LOOKS, *hollow]), plans.groupby("label", sort=False), strict=False
    ):
        dot = {**look, "linestyle": "", "capsize": 0, "markersize": 10 if label in large else 6}
        series.append(Series(str(label), row[x], row.measured, dot, row.low, row.high))
    y = Axis("measured error", margin=1.1)
    return curves([*behind, *series], Axis(words), y, title, height=3.8, columns=2)
