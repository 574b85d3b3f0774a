"""The page of the study `mixture`: merge plans where the data are several Gaussians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from opmerge.page import charts
from opmerge.page.charts import Axis, Level, Series, chart, intervals, series_by
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import number, percent
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, GREY, INK, ORANGE
from opmerge_studies.mixture import MOST_GATES, REGIMES
from opmerge_studies.shared.strategies import CANONICAL

_NAMED = list(CANONICAL)
_ABOVE = [f"above_{name}" for name in _NAMED]
_TRIED = [*_NAMED, "equal_windows", "interval", "gaussian", "worst"]
_CASE = ["regime", "separation", "merge_rule", "student_steps"]
_LOOKS = {
    regime: {"color": colour, "marker": "o", "markersize": 3.5}
    for regime, colour in zip(REGIMES, (BLUE, INK, ORANGE), strict=True)
}
_DASHES = ("-", charts.DASHED, charts.DOTTED)
_SMALL = 0.05  # an error that a plan may lie above the bound before order matters
_SAME = 1e-6  # relative difference of errors that is none
_HEADS = ("components:s", "rule:s", "K=student_steps:s")
_MULTIPLES = (
    "best",
    *(f"{name}=over_{name}:.4g" for name in _NAMED),
    *("equal windows=over_equal_windows:.4g", "interval DP=over_interval:.4g"),
    *("Gaussian=over_gaussian:.4g", "worst=over_worst:.4g", "handovers:s"),
)
_NOTE = (
    "Error of the best plan; the others as multiples of it. Equal windows: the best order inside "
    "them. Gaussian: the plan of the theory of one Gaussian of equal covariance."
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, rows = record["settings"], _frames(record)
    best, one, named, places = (rows[key] for key in ("best", "one", "named", "places"))
    two, signals = best[best.student_steps == 2], rows["signals"]
    apart = rows["distances"].groupby("variance")
    most = named[named.student_steps == named.student_steps.max()]
    weak = signals[signals.signal == settings["signals"][1]]
    rises = (places.narrow <= places.straddling) & (places.straddling <= places.wide)
    claims = {
        "one-step-is-affine": count(one.above_best.between(-_SAME, _SMALL)),
        "vanilla-leads-at-one-step": count(one.vanilla <= one[_NAMED].min(axis=1)),
        "training-limits-many-steps": count(most.share < 0.5, needed=0.5),
        "end-of-training-helps": count(named.share <= (1 + _SAME) ** 2),
        "place-outweighs-order": count(two.place > two.order, needed=0.5),
        "handover-follows-width": count(rises),
        "interval-dp-is-best": count(best.over_interval <= 1 + _SAME),
        "lead-survives-distance": count(~apart.changed.any()),
        "weak-signal-is-not-learned": count(weak.vanilla >= 0.5 * (1 + weak.floor)),
    }
    plans, composites = rows["plans"], rows["composites"]
    values = {
        **{**settings, **rows, "two": two, "tried": MOST_GATES},
        **{"named": _NAMED, "above": _ABOVE, "over": [f"over_{name}" for name in _NAMED]},
        "strategy": named,
        "single": plans[plans.student_steps == 1],
        "several": plans[plans.student_steps > 1],
        "gaussian": best[best.student_steps > 1].over_gaussian,
        "whole": composites[composites.start == settings["num_steps"]],
        "gain": composites.nlargest(1, "largest_gain").iloc[0],
        "grown": named[named.merges > 1].grown,
    }
    return Page(values, claims, _sections(settings, rows))


def _frames(record: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables of the record, with what the page says of their rows."""
    rows = {name: _called(frame(record, name)) for name in record["tables"]}
    best, strategies, handovers = rows["best"], rows["strategies"], rows["handovers"]
    distances, signals, dimensions = rows["distances"], rows["signals"], rows["dimensions"]
    best = best.join(best[_TRIED].div(best.best, axis=0).add_prefix("over_")).assign(
        order=best[_NAMED].max(axis=1) / best.equal_windows, place=best.equal_windows / best.best
    )
    one = best[best.student_steps == 1]
    above = one[["best", *_NAMED]].div(one.bound, axis=0) - 1
    share, grown = strategies.approximation / strategies.error, strategies.error / strategies.local
    refined = strategies.quadrature / strategies.error
    strategies = strategies.assign(share=share**2, grown=grown, refined=refined)
    plans = strategies[strategies["plan"] == "boot"]
    plans = plans.join(strategies.pivot(index=_CASE, columns="plan", values="error"), on=_CASE)
    least, found = plans[_NAMED].min(axis=1), plans[[*_NAMED, "interval DP"]].min(axis=1)
    first = found.groupby([plans[key] for key in _CASE[:3]]).transform("first")
    spread, moved = plans[_NAMED].max(axis=1) / least, least / plans["interval DP"]
    handovers = handovers[handovers.rule == "operator"]
    errors = handovers.groupby("components").error
    nearest = handovers.loc[errors.idxmin()]
    ratio = distances.boot / distances.vanilla
    by_variance = distances.assign(leads=ratio < 1).groupby("variance")
    by_affine = signals[["floor", *_NAMED]].div(signals.affine, axis=0)
    half = dimensions.ratio_half_width
    return {
        **rows,
        "best": best,
        "one": one.join(above.add_prefix("above_")),
        "strategies": strategies,
        "named": strategies[strategies["plan"] != "interval DP"],
        "plans": plans.assign(spread=spread, moved=moved, fall=first / found),
        "handovers": handovers.assign(multiple=handovers.error / errors.transform("min")),
        "places": nearest.pivot(index="separation", columns="regime", values="handover"),
        "distances": distances.assign(
            name=[f"λ = {variance:g}" for variance in distances.variance],
            ratio=ratio,
            off=(ratio - 1).abs(),
            changed=(ratio < 1) != by_variance.leads.transform("first"),
            before=by_variance.separation.shift(),
        ),
        "signals": signals.assign(**by_affine).join(signals[[*by_affine]].add_suffix("_error")),
        "paths": rows["composites"].query("start == start.max()"),
        "composites": rows["composites"].query("stop == 0"),
        "dimensions": dimensions.assign(low=dimensions.ratio - half, high=dimensions.ratio + half),
    }


def _called(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with names of what they are about: components, rule, steps, mean ± half a width."""
    if "regime" in rows:
        means = [f" ±{separation:g}" for separation in rows.separation]
        rows = rows.assign(components=rows.regime + means)
    if "merge_rule" in rows:
        rows = rows.assign(rule=rows.merge_rule.str.removesuffix("-copy"))
    if "stop" in rows:
        rows = rows.assign(steps=rows.start.astype(str) + " → " + rows.stop.astype(str))
    if "mixture" in rows:
        rows = rows.assign(case=rows.mixture + ", K = " + rows.student_steps.astype(str))
    for half in (column for column in rows if str(column).endswith("_half_width")):
        mean = str(half).removesuffix("_half_width")
        told = rows[mean].map("{:.4f} ± ".format) + rows[half].map("{:.4f}".format)
        rows = rows.assign(**{f"{mean}_told": told})
    return rows


def _furthest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.query("separation == separation.max()")


def _by_mixture(rows: pd.DataFrame, x: str, y: str, **more: Any) -> list[Series]:
    """A line for each mixture: its colour by regime, its dash by separation."""
    far_first = sorted(rows.separation.unique(), reverse=True)
    dashes = {place: _DASHES[rank % len(_DASHES)] for rank, place in enumerate(far_first)}
    mixtures = zip(rows.components, rows.regime, rows.separation, strict=True)
    looks = {
        name: {**_LOOKS[regime], "linestyle": dashes[place]} for name, regime, place in mixtures
    }
    return series_by(rows, "components", x, y, looks, **more)


def _by_regime(rows: pd.DataFrame, x: str, *columns: str, **more: Any) -> list[Series]:
    """A line for each regime and column: the first column solid and named, the next dashed."""
    return [
        replace(each, label=each.label if column == columns[0] else "")
        for column, dash in zip(columns, _DASHES, strict=False)
        for each in series_by(rows, "regime", x, column, _LOOKS, linestyle=dash, **more)
    ]


def _dots(strategy: str, fill: str = "full") -> dict[str, Any]:
    return {**charts.STYLES[strategy], "linestyle": "", "fillstyle": fill}


def _sections(settings: Mapping[str, Any], rows: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    one = rows["one"]
    above, first = one[_ABOVE].set_axis(_NAMED, axis=1), one.rule == "operator"
    lines, mixtures = one.components.factorize()
    yield draw_section(
        "One step",
        "How far each strategy's error lies above the nearest affine map of pure noise, which no "
        "one-step student of this form goes below. ● operator copy, ○ denoiser copy.",
        intervals(
            [
                Series(label, above[name][own].clip(lower=1e-7), lines[own], _dots(name, fill))
                for name in _NAMED
                for label, fill, own in ((name, "full", first), ("", "none", ~first))
            ],
            list(mixtures),
            Axis("error above the floor, as a part of it", margin=2),
            f"At one step vanilla is within {percent(above.vanilla.max())} of the nearest affine "
            f"map, every strategy within {percent(above.to_numpy().max())}",
            columns=2,
        ),
        table("Plans of one step", one, heads(*_HEADS, "floor=bound", *_MULTIPLES), _NOTE),
    )
    handovers, several = rows["handovers"], rows["best"].query("student_steps > 1")
    yield chart(
        "Where to hand over",
        "Best error of all plans of two-step students, by the step at which the first student "
        "hands over to the second, as a multiple of the least. Operator copy.",
        _by_mixture(handovers, "handover", "multiple"),
        Axis("step t of the handover (data on the left)", log=False),
        Axis("error, best handover = 1", margin=1.1),
        f"Handing over at a wrong step costs up to {number(handovers.multiple.max())} times "
        "the error",
        table("Plans of more steps", several, heads(*_HEADS, *_MULTIPLES), _NOTE),
        height=3.3,
        columns=2,
    )
    boot = _furthest(rows["plans"].query("rule == 'operator'"))
    ratio = boot[boot.student_steps == boot.student_steps.max()].share ** -0.5
    ends = ("BOOT to the end=approximation", "amplified=grown")
    yield chart(
        "Floor and optimisation by student steps",
        "Error of BOOT in equal windows and, dashed, what of it is left when every merge is "
        "trained to the end: the approximation error. Operator copy.",
        _by_regime(boot, "student_steps", "error", "approximation"),
        Axis("student steps K", ticks={k: str(k) for k in settings["student_steps"]}),
        Axis("error (root mean square)"),
        f"The floor falls with student steps; at {boot.student_steps.max()} what training "
        f"leaves is {number(ratio.min())} to {number(ratio.max())} times as large",
        table(
            f"Students of K steps, T = {settings['num_steps']}",
            rows["plans"],
            heads(*_HEADS, *_NAMED, "interval DP", *ends),
            "Equal windows but for interval DP. BOOT to the end: every merge trained to the end. "
            "Amplified: BOOT's error over its merges' own errors, added in squares. W2 is equal to "
            "the error wherever all maps are increasing; the record has both.",
        ),
    )
    merges = _furthest(rows["merges"].query("regime == 'straddling' and rule == 'operator'"))
    merges = merges.query("student_steps == 1 and plan != 'interval DP'")
    merges = merges.rename(columns={"to_teacher": "to teacher"})
    own = merges[merges["plan"] == "boot"]
    left = (own.optimisation**2).sum() / (own.optimisation**2 + own.floor**2).sum()
    yield chart(
        "Every merge",
        "One-step students, merge by merge: what no student of this form can fit (floor), what "
        "training leaves (optimisation), and how far the student is from the teacher's composite "
        "so far. Operator copy, components on both sides of λ = 1, furthest apart.",
        charts.series_of(own, "stop", ["to teacher", "floor", "optimisation"]),
        Axis("step t that BOOT has reached", (own.stop.max() + 0.5, -0.5), log=False),
        Axis("error of a merge", margin=2),
        f"Optimisation makes {percent(left)} of the squared errors of BOOT's merges",
        table(
            "Merges of one-step students",
            merges,
            heads("plan:s", "merge=steps:s", "floor", "optimisation", "to teacher"),
        ),
    )
    distances = rows["distances"]
    off = distances[distances.separation == distances.separation.max()].off.max()
    yield chart(
        "Components move apart",
        "Error of BOOT over vanilla's, one-step students, two components of equal variance λ at "
        "± the separation. Left the theory of one Gaussian, right the floor.",
        series_by(distances, "name", "separation", "ratio", marker=""),
        Axis("means of the components, ±", margin=1),
        Axis("error of BOOT, vanilla = 1", log=False),
        f"Once components are apart the two strategies differ by {percent(off)} at most",
        levels=[Level(y=1.0)],
    )
    signals = _furthest(rows["signals"].query("signal > 0"))
    weak = signals[signals.signal == signals.signal.min()][["signal", "floor", "vanilla"]].median()
    yield chart(
        "A little signal",
        "One-step students whose first state keeps a signal alpha_T: vanilla's error and, dashed, "
        "what is left of it when its one merge is trained to the end, as parts of the error of the "
        "nearest affine map. Components furthest apart, operator copy.",
        _by_regime(signals, "signal", "vanilla", "floor"),
        Axis("signal alpha_T of the first state", margin=1.1),
        Axis("error, nearest affine map = 1", (0, 1.08), log=False),
        f"With alpha_T = {weak.signal:g} the floor is {percent(weak.floor)} of the nearest "
        f"affine map, the error {percent(weak.vanilla)}",
        table(
            "One-step students that read some signal",
            rows["signals"],
            heads(
                *("components:s", "alpha_T=signal:g", "affine", "trained to the end=floor_error"),
                *(f"{name}={name}_error" for name in _NAMED),
            ),
            "Affine: the nearest affine map of z_T. Trained to the end: vanilla's one merge.",
        ),
    )
    paths, composites = rows["paths"], rows["composites"]
    whole, written = paths[paths.stop == 0].effective_paths, paths.drop_duplicates("stop")
    yield chart(
        "Growth of composites",
        "Affine maps that the teacher's composite from noise to z_t mixes: 2 to the number of "
        "steps when written out (grey), and effectively, by the entropy of their weights.",
        [
            *_by_mixture(paths, "stop", "effective_paths", marker=""),
            Series("written out", written.stop, written.paths, {"color": GREY}),
        ],
        Axis("step t reached from noise", (paths.stop.max() + 0.5, -0.5), log=False),
        Axis("affine maps mixed"),
        f"Composites of {paths.start.max()} steps mix {whole.min():,.0f} to {whole.max():,.0f} "
        "affine maps",
        table(
            "Composites of the teacher's steps",
            composites,
            heads(
                *("components:s", "interval=steps:s", "paths", "effective=effective_paths"),
                *("floor", "gates for 1 %=gates:g", "gain", "max=largest_gain"),
            ),
            "Floor: of one student with the data's own gates, over the spread reached.",
        ),
        height=3.3,
        columns=2,
    )
    gains = _furthest(composites)
    yield chart(
        "Gain of errors",
        "How much the teacher's steps from z_t to the data stretch an error made at z_t: largest "
        "over the central 99.9 % (solid), root mean square (dashed), and that of the Gaussian of "
        "equal variance (dotted). Components furthest apart.",
        _by_regime(gains, "start", "largest_gain", "gain", "gaussian_gain", marker=""),
        Axis("step t at which the error is made", log=False),
        Axis("gain from z_t to the data"),
        f"Between components an error grows up to {number(gains.largest_gain.max())} times",
    )
    dimensions = rows["dimensions"]
    places, cases = dimensions.case.factorize()
    others = dimensions.assign(place=places).query("plan != 'vanilla'").groupby("plan", sort=False)
    yield draw_section(
        "More dimensions",
        "Error over vanilla's on the same samples, mean and 95 % interval over independent seeds.",
        intervals(
            [
                Series(str(name), own.ratio, own.place, _dots(str(name)), own.low, own.high)
                for name, own in others
            ],
            list(cases),
            Axis("error, vanilla = 1", log=False),
            f"On samples the strategies lie between {percent(dimensions.ratio.min() - 1)} and "
            f"+{percent(dimensions.ratio.max() - 1)} of vanilla",
            levels=[Level(x=1.0)],
            columns=2,
        ),
        table(
            "Strategies in more dimensions",
            dimensions,
            heads(
                *("mixture:s", "d=dimension:s", "K=student_steps:s", "plan:s"),
                *("error=error_told:s", "trained to the end=approximation_told:s"),
                "over vanilla=ratio_told:s",
            ),
        ),
    )
