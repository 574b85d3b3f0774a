"""The page of a plan, one self-contained HTML file; each figure is a function of the record.

Every distinction is made twice, by colour and by marker, dash or lightness, so that the figures
can be read by everyone and from a greyscale print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opmerge.arrays import Array
from opmerge.page import sentences
from opmerge.page.charts import Axis, Level, Series, curves
from opmerge.page.layout import Section, Table, draw_section, render_page
from opmerge.page.sentences import best_named, number, percent, summary_sentence, target
from opmerge.plans.drawing import plan_figure, recorded_plan
from opmerge.plans.outline import draw_text
from opmerge.plotting import BLUE, GREEN, GREY, INK, ORANGE, figure_style, log_axis, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, Any]

_OUTLINE_WIDTH = 40  # characters that fit a phone
_NEGLIGIBLE = 1e-20  # eigenvalues so far under the largest stand for 0
_MOST_MARKERS = 300  # of a spectrum; of more eigenvalues only the line is drawn
_MARKERS_OF_A_CURVE = 50
_ALL_EQUAL = 1e-6  # decades
_LONGEST_LINEAR = 128  # eigenvalues whose ranks are legible on a linear axis
_DASHED: Mapping[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (4, 2))}


def report_page(record: Record) -> str:
    """The HTML document of a record (``opmerge.planners.record.plan_record``).

    It is under a megabyte and the same text each time; nothing is computed again.
    """
    if "budget" in record:
        from opmerge.page.budget import budget_page

        return budget_page(record)
    problem = record["problem"]
    return render_page(
        title=f"Merge plan for {problem['source']}, T = {problem['steps']}",
        answer=summary_sentence(record),
        facts=_facts(record),
        sections=list(_sections(record)),
        settings=_settings(record),
    )


def _facts(record: Record) -> list[tuple[str, str]]:
    best, problem = record["best"], record["problem"]
    return [
        (f"W2 to {target(record)}", number(best["w2"])),
        ("is the most that another plan could gain", percent(best["gap"])),
        ("teacher's steps → student's", f"{problem['steps']} → {problem['student_steps']}"),
        ("merges", f"{best['merges']}"),
        ("network evaluations per sample", f"{best['network_evaluations']:g}"),
    ]


def _sections(record: Record) -> Iterator[Section]:
    best, spectrum = record["best"], record["spectrum"]
    students = record["problem"]["student_steps"]
    yield draw_section(
        "Spectrum",
        "Eigenvalues of the data's covariance." + _why_spectrum(record),
        spectrum_figure(spectrum["eigenvalues"], spectrum["multiplicities"]),
    )
    yield draw_section(
        "The plan",
        "Each bar is one merge: a student trained to jump over the steps under the bar. White "
        "marks show where the operators that it replaces meet. Round 0 is the teacher; merges of "
        "one round do not wait for one another."
        + (" Dashed: where one student hands over to the next." if students > 1 else ""),
        plan_figure(
            best["merge_list"],
            best["boundaries"],
            sentences.plan_title(record),
            "free_step" in best,
        ),
        table=merge_table(record),
        outline=draw_text(recorded_plan(best), _OUTLINE_WIDTH),
    )
    yield draw_section(
        "Strategies compared",
        f"Distance of the student's output from {target(record)}, on a log scale, all merges "
        "trained alike, whatever they cost in all. Dashed: the proved lower bound; no plan can be "
        "left of it."
        + (f" Named strategies merge in {students} equal windows." if students > 1 else ""),
        strategies_figure(record),
        table=strategy_table(record),
    )
    yield draw_section(
        "Error per eigen-direction",
        "The root of the squared W2 in one direction of each eigenvalue." + _left_out(record),
        directions_figure(record),
        table=direction_table(record),
    )
    if best["w2"] > 0 and best["merges"]:
        yield draw_section(
            "Where the error arises",
            "A student starts from the first operator of its merge and is trained to add the "
            "others; the merge's share of the squared error is spread evenly over the steps of "
            "those others.",
            location_figure(record),
        )
    else:
        yield Section("Where the error arises", "Nowhere: no merge makes an error.")
    yield draw_section(
        "Teacher and student",
        "The teacher's own error is what a finite number of steps leaves; merging adds the "
        "student's.",
        teacher_figure(record),
    )


def _why_spectrum(record: Record) -> str:
    problem = record["problem"]
    if target(record) != "the teacher":
        return ""
    if problem["merge_rule"] == "denoiser-copy":
        hands_over = ", and where students hand over" if problem["student_steps"] > 1 else ""
        return (
            " Under denoiser copy every direction is best merged one step at a time from the noise "
            f"side, whatever its λ; the spectrum decides how large the error is{hands_over}."
        )
    return (
        " Alone, a direction with λ ≤ 1 is best merged one step at a time from the noise side, one "
        "with λ well above 1 all at once; a plan for both is a compromise."
    )


def _left_out(record: Record) -> str:
    spectrum = record["spectrum"]
    zero = _is_negligible(np.asarray(spectrum["eigenvalues"]))
    count = round(float(np.asarray(spectrum["multiplicities"])[zero].sum()))
    return f" Eigenvalues that are 0 to rounding ({count}) are not drawn." if count else ""


def merge_table(record: Record) -> Table | None:
    """Every merge with its round and its share of the error; None without merges."""
    best = record["best"]
    if not best["merge_list"]:
        return None
    plan = recorded_plan(best)
    shares = {tuple(m["boundaries"]): m["share"] for m in best["merge_list"]}
    rows = [
        [
            f"{merge.start} → {merge.stop}",
            f"{merge.start} → {merge.split}",
            f"{merge.num_children}",
            f"{round_}",
            f"{100 * shares[merge.boundaries]:.6g}",
        ]
        for merge, round_ in zip(plan.merges, plan.rounds(), strict=True)
    ]
    columns = ["merge", "starts from", "operators", "round", "% of squared error"]
    return Table("Every merge, in the order of execution", columns, rows)


def strategy_table(record: Record) -> Table:
    """Distances of the plan and of the named strategies."""
    best = record["best"]
    entries = [
        ("best plan", best, 1.0 if best["w2"] > 0 else None),
        *((s["name"], s, s["ratio_to_best"]) for s in record["strategies"]),
    ]
    paired = any("paired_rms" in entry for _, entry, _ in entries)
    is_split = all("w2_at_equal_cost" in entry for _, entry, _ in entries)
    rows = [
        [
            name,
            f"{entry['w2']:.10g}",
            *([f"{entry.get('paired_rms', entry['w2']):.10g}"] if paired else []),
            "–" if ratio is None else f"{ratio:.6g}",
            f"{entry['merges']}",
            f"{entry['network_evaluations']:g}",
            *([f"{entry['w2_at_equal_cost']:.4g}"] if is_split else []),
        ]
        for name, entry, ratio in sorted(entries, key=lambda entry: float(entry[1]["w2"]))
    ]
    more = ["expected paired error"] if paired else []
    columns = ["plan", f"W2 to {target(record)}", *more, "ratio to best", "merges"]
    columns += ["network evaluations", *(["W2 at equal cost"] if is_split else [])]
    bound = f"Lower bound {best['lower_bound']:.10g}, relative gap {best['gap']:.3g}."
    title = f"The plan and the named strategies{sentences.costs_told(record)}"
    return Table(title, columns, rows, bound)


def direction_table(record: Record) -> Table:
    """Error in one direction of each eigenvalue, by curve."""
    errors = direction_errors(record)
    eigenvalues, counts = (record["spectrum"][key] for key in ("eigenvalues", "multiplicities"))
    rows = [
        [f"{value:.6g}", f"{count:g}", *(f"{error:.6g}" for error in row)]
        for value, count, *row in zip(eigenvalues, counts, *errors.values(), strict=True)
    ]
    columns = ["eigenvalue λ", "directions", *errors]
    return Table("Error in one direction of each eigenvalue", columns, rows)


def _settings(record: Record) -> dict[str, Any]:
    """Every setting, by group: the problem, the planner, the versions."""
    best = record["best"]
    planner = {key: best[key] for key in ("planner", "seconds", "lower_bound", "gap", "notes")}
    planner["seconds"] = number(best["seconds"])
    planner["best named strategy"] = (best_named(record) or {}).get("name")
    return {"Problem": record["problem"], "Planner": planner, "Versions": record["versions"]}


def _is_negligible(eigenvalues: Array) -> NDArray[np.bool_]:
    """Which eigenvalues stand for 0."""
    return eigenvalues <= _NEGLIGIBLE * float(eigenvalues.max())


@figure_style()
def spectrum_figure(eigenvalues: ArrayLike, multiplicities: ArrayLike | None = None) -> Figure:
    """Eigenvalues by rank on a log scale, coloured by their side of λ = 1.

    They are (k,) in any order, at least one above 0; zeros are drawn at the lower edge. Each is
    shared by as many directions as (k,) ``multiplicities`` say, 1 unless given.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    counts = np.ones_like(values) if multiplicities is None else np.asarray(multiplicities, float)
    order = np.argsort(-values, kind="stable")
    values, counts = values[order], counts[order]
    is_zero = _is_negligible(values)
    low = min(float(values[~is_zero].min()), 1.0) / 3
    drawn, last = np.where(is_zero, low / 3, values), np.cumsum(counts)
    figure, axes = new_figure(2.7, sentences.spectrum_title(values, counts))
    for side, marker, colour, name in (
        (values > 1, "^", ORANGE, "λ > 1"),
        ((values <= 1) & ~is_zero, "o", BLUE, "λ ≤ 1"),
        (is_zero, "x", GREY, "λ ≈ 0"),
    ):
        if side.any():
            ranks = np.column_stack([last - counts + 1, last])[side]
            label = f"{name}: {counts[side].sum():.0f}"
            _draw_ranks(axes, ranks, drawn[side], marker, colour, label)
    axes.axhline(1, **_DASHED)
    bottom = low / 5 if is_zero.any() else low
    log_axis(axes.yaxis, bottom, max(float(values.max()), 1.0) * 3)
    if last[-1] > _LONGEST_LINEAR:
        log_axis(axes.xaxis, 0.9, float(last[-1]) * 1.1)
    else:
        axes.set_xlim(0.5 - 0.02 * last[-1], 0.5 + 1.02 * last[-1])
        axes.set_xticks(np.unique(np.linspace(1, last[-1], 5).round()))
    axes.set(xlabel="rank of the eigen-direction", ylabel="eigenvalue λ")
    axes.annotate("λ = 1", (1, 1), (-2, 3), ("axes fraction", "data"), "offset points", ha="right")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.01), borderaxespad=0, ncols=3, columnspacing=1.2
    )
    return figure


def _draw_ranks(
    axes: Axes, ranks: Array, values: Array, marker: str, colour: str, label: str
) -> None:
    """Markers at the middle of the ranks (k, 2) that share each value; of many, a line alone."""
    if len(values) > _MOST_MARKERS:
        width = 3 if marker == "^" else 1.6
        axes.plot(ranks.ravel(), values.repeat(2), linewidth=width, color=colour, label=label)
        return
    axes.plot(ranks.mean(axis=1), values, marker, color=colour, markersize=5, label=label)
    if (ranks[:, 1] > ranks[:, 0]).any():
        axes.hlines(values, *ranks.T, color=colour, linewidth=2)


class _Dot(NamedTuple):
    label: str
    value: float
    marker: str = "o"
    colour: str = BLUE
    weight: str = "normal"


@figure_style()
def strategies_figure(record: Record) -> Figure:
    """The best plan, the bound that no plan can beat and the named strategies, on a log scale."""
    best = record["best"]
    dots = [
        _Dot("lower bound", best["lower_bound"], "|", INK),
        _Dot("best plan", best["w2"], "D", ORANGE, "bold"),
        *(_Dot(s["name"], s["w2"]) for s in sorted(record["strategies"], key=lambda s: s["w2"])),
    ]
    words, title = f"W2 to {target(record)}", sentences.strategies_title(record)
    figure, axes = _draw_dots(dots, 0.95 + 0.2 * len(dots), words, title)
    if best["lower_bound"] > 0:
        axes.axvline(best["lower_bound"], zorder=1, **_DASHED)
    return figure


@figure_style()
def teacher_figure(record: Record) -> Figure:
    """How far the teacher is from the data, beside how far the students are from their target."""
    to, named = target(record), best_named(record)
    dots = [
        _Dot("teacher to the data", record["teacher"]["w2_to_data"], "^", GREEN),
        _Dot(f"best plan to {to}", record["best"]["w2"], "D", ORANGE, "bold"),
    ]
    if named is not None:
        dots.append(_Dot(f"{named['name']} to {to}", named["w2"]))
    return _draw_dots(dots, 1.0 + 0.24 * len(dots), "W2", sentences.teacher_title(record))[0]


def _draw_dots(dots: Sequence[_Dot], height: float, words: str, title: str) -> tuple[Figure, Axes]:
    """One row each, first on top, with its value beside it; zeros stand at the left edge."""
    figure, axes = new_figure(height, title)
    positive = [dot.value for dot in dots if dot.value > 0]
    low, high = np.log10(min(positive, default=1.0)), np.log10(max(positive, default=1.0))
    span = high - low if high - low > _ALL_EQUAL else 0.5
    log_axis(axes.xaxis, 10 ** (low - 0.16 * span), 10 ** (high + 0.5 * span))
    if not positive:
        axes.set_xticks([])
    short, long = ([f"{dot.value:.{digits}g}" for dot in dots] for digits in (3, 4))
    texts = long if len(set(long)) > len(set(short)) else short  # where that tells more apart
    for row, (dot, text) in enumerate(zip(dots, texts, strict=True)):
        at_edge = 10 ** (low - 0.08 * span), "<"
        place, marker = (dot.value, dot.marker) if dot.value > 0 else at_edge
        axes.axhline(row, color="#e2e2e2", linewidth=0.6, zorder=0)
        axes.plot(place, row, marker, color=dot.colour, markersize=6)
        axes.annotate(
            text,
            (place, row),
            (7, 0),
            textcoords="offset points",
            va="center_baseline",
            fontweight=dot.weight,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    for tick, dot in zip(axes.get_yticklabels(), dots, strict=True):
        tick.set_fontweight(dot.weight)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(dots) - 0.5, -0.5)
    axes.set_xlabel(words)
    return figure, axes


def direction_errors(record: Record) -> dict[str, Array]:
    """(d,) error in one direction of each eigenvalue: √(squared W2 / multiplicity), by curve."""
    counts = np.asarray(record["spectrum"]["multiplicities"], dtype=np.float64)
    named, to = best_named(record), target(record)
    errors = {f"best plan to {to}": record["best"]["errors"]}
    if named is not None:
        errors[f"{named['name']} to {to}"] = named["errors"]
    errors["teacher to the data"] = record["teacher"]["errors"]
    return {name: np.sqrt(np.asarray(squared) / counts) for name, squared in errors.items()}


def directions_figure(record: Record) -> Figure:
    """Error per eigen-direction against its eigenvalue: best plan, best strategy, teacher."""
    eigenvalues = np.asarray(record["spectrum"]["eigenvalues"], dtype=np.float64)
    is_shown, errors = ~_is_negligible(eigenvalues), direction_errors(record)
    hollow = {"markerfacecolor": "white", "markeredgewidth": 0.9, "linewidth": 1.0}
    looks: list[dict[str, Any]] = [
        {"color": ORANGE, "marker": "D", "markersize": 2.8, "linestyle": "-", "zorder": 3},
        {"color": BLUE, "marker": "o", "markersize": 5, "linestyle": (0, (4, 1.5))} | hollow,
        {"color": GREEN, "marker": "^", "markersize": 4.5, "linestyle": (0, (1, 1.5))} | hollow,
    ]
    if len(errors) < len(looks):
        del looks[1]
    series = []
    for (name, values), look in zip(errors.items(), looks, strict=True):
        is_seen = is_shown & (values > 0)
        places = eigenvalues[is_seen]
        marked = {**look, "markevery": _spread(places)}
        label = name if is_seen.any() else f"{name} (0)"
        series.append(Series(label, places, values[is_seen], marked))
    limits = (min(eigenvalues[is_shown].min(), 1.0) / 1.5, max(eigenvalues.max(), 1.0) * 1.5)
    words, has_errors = "W2 in one eigen-direction", any(np.size(each.y) for each in series)
    return curves(
        series,
        Axis("eigenvalue λ (dashed: λ = 1)", limits),
        Axis(words, margin=2.0) if has_errors else Axis(words, (0.1, 10.0), ticks={}),
        sentences.directions_title(eigenvalues, next(iter(errors.values()))),
        levels=[Level(x=1, look={**_DASHED, "zorder": 0})],
        height=3.2,
        columns=1,
    )


def _spread(eigenvalues: Array) -> list[int]:
    """Indices of eigenvalues (descending) at about even distances on a log axis, both ends in."""
    if not len(eigenvalues):
        return []
    logs = -np.log(eigenvalues)
    places = np.linspace(logs[0], logs[-1], _MARKERS_OF_A_CURVE)
    return np.unique(np.abs(logs[:, None] - places).argmin(axis=0)).tolist()


@figure_style()
def location_figure(record: Record) -> Figure:
    """Share of the squared error per step, with the steps that carry half of it."""
    from matplotlib.ticker import MaxNLocator

    steps = record["problem"]["steps"]
    shares = sentences.error_by_step(record)
    edges = np.arange(steps, -1, -1) + 0.5
    figure, axes = new_figure(2.5, sentences.location_title(record))
    axes.stairs(shares, edges, fill=True, color="#8ec3e6")
    half = sentences.half_of_error(shares)
    if half is not None:
        first, end = steps - half[0], steps - half[1] + 1
        axes.stairs(shares[first:end], edges[first : end + 1], fill=True, color=BLUE)
    for boundary in record["best"]["boundaries"][1:-1]:
        axes.axvline(boundary + 0.5, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
    axes.set_xlim(steps + 0.5, 0.5)
    # a fixed number of ticks: the automatic one changes once the layout has made room for it
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(0, 1.06 * (shares.max() or 1.0))
    axes.set(xlabel="step t (noise left, data right)", ylabel="% of the error per step")
    return figure
