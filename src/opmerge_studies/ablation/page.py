"""The page of the study `ablation`: what the optimisation time of a merge changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.strategies import draw_shapes, label_shapes
from opmerge.page.study import Answer
from opmerge.plotting import BLUE, GREEN, INK, ORANGE, figure_style, log_axis, new_figure, set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_STILL = 1e-3  # relative shift of a λ that nobody would notice
_MARKS = {
    "boot_until": ("BOOT is best up to", BLUE, "o"),
    "first_crossing": ("BOOT meets vanilla", INK, "x"),
    "vanilla_from": ("vanilla is best from", ORANGE, "s"),
}


def answer(record: Record) -> Answer:
    """Whether the transition moves and plans change."""
    shifts = {key: max(_shifts(record, key), default=None) for key in _MARKS}
    known = [shift for shift in shifts.values() if shift is not None]
    first, last = _range(record)
    moves = "moves" if not known or max(known) > _STILL else "does not move"
    return Answer(
        finding=(
            f"The transition {moves}: between s = {first:g} and {last:g} the crossing of BOOT and "
            f"vanilla shifts by {_shift(shifts['first_crossing'])} in λ and the edges of the band "
            f"by {_shift(max(known, default=None))} at most. {_change_sentence(record)}"
        ),
        evidence=(
            *(_transition_sentence(rows) for rows in _by_steps(record)),
            "Why: the excesses of BOOT and vanilla are linear in the retention ρ_T as long as "
            "ρ_T (1/P - 1) is small, so ρ_T, and with it s, drops out where they are equal; "
            "λ*(T) depends on the signs of log A_t only.",
            _side_sentence(record),
            *(_source_sentence(rows) for rows in _by_source(record)),
        ),
        limits=(
            "Plain cosine schedule, operator copy, gradient flow, the same s in every merge.",
            "The edges of the band are where BOOT and vanilla cease to be within 1e-9 of the best "
            "plan known, to 1e-6 in λ.",
        ),
        overturned_by=(
            "A training model whose retention changes with t in another way than n_t: the "
            "crossing then need not stay where it is.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The shifts of the transition and what it costs to keep a plan."""
    worst = max(record["tables"]["sources"], key=_regret, default=None)
    return [
        *(
            (f"shift in λ where {label}", _shift(max(_shifts(record, key), default=None)))
            for key, (label, _, _) in _MARKS.items()
        ),
        *(
            [(f"most that the plan kept loses, {worst['source']}", percent(_regret(worst)))]
            if worst
            else []
        ),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    kept = record["settings"]["kept_time"]
    yield draw_section(
        "Transition",
        "Where BOOT ceases to be best, where it meets vanilla and where vanilla becomes best, "
        f"under operator copy. Solid: T = {record['settings']['steps'][0]}; broken: larger T.",
        lambda: _transition_figure(record),
        _transition_table(record),
    )
    yield draw_section(
        "Shape of the best plan",
        f"By λ and s at T = {record['settings']['steps'][0]}. Combs train the student at T only, "
        "trees train students inside blocks too. Dashed: where BOOT and vanilla cross.",
        lambda: _diagram_figure(record),
        _diagram_table(record),
    )
    yield draw_section(
        "Gain in the band",
        "W2 of the better of BOOT and vanilla as a multiple of the best plan's, over λ.",
        lambda: _gain_figure(record),
    )
    for rows in _by_source(record):
        yield draw_section(
            f"Spectrum of {rows[0]['source']}",
            f"W2 to the teacher as a multiple of the best plan's; kept is the best plan at s = "
            f"{kept:g}, used at every s.",
            lambda rows=rows: _source_figure(rows),  # type: ignore[misc]
            _source_table(rows),
        )


def _change_sentence(record: Record) -> str:
    """Whether plans change between the times, by λ and on real spectra."""
    values = {row["eigenvalue"] for row in record["tables"]["diagram"]}
    changed = [value for value in sorted(values) if _num_plans(record, value) > 1]
    sources = record["tables"]["sources"]
    loss = max((_regret(row) for row in sources), default=0.0)
    inside = (
        f"Plans change with s at {len(changed)} of {len(values)} λ, "
        f"from {changed[0]:.4g} to {changed[-1]:.4g}"
        if changed
        else f"The plan is the same at every s at all {len(values)} λ"
    )
    kept = record["settings"]["kept_time"]
    return (
        f"{inside}; on real spectra the plan made for s = {kept:g} loses at most {percent(loss)}."
    )


def _transition_sentence(rows: Sequence[Row]) -> str:
    def ends(key: str) -> str:
        values = [row[key] for row in rows if row[key] is not None]
        ends = (min(values), max(values)) if values else ()
        return " to ".join(dict.fromkeys(f"{end:.7g}" for end in ends)) or "nowhere"

    return (
        f"T = {rows[0]['num_steps']}, {len(rows)} values of s: BOOT is best up to λ = "
        f"{ends('boot_until')}, meets vanilla at {ends('first_crossing')}; vanilla is best from "
        f"{ends('vanilla_from')} (λ*(T) = {rows[0]['threshold']:.7g})."
    )


def _side_sentence(record: Record) -> str:
    """The claims below 1 and above λ*, at every s."""
    threshold = record["tables"]["transition"][0]["threshold"]
    told = []
    for name, side, low, high in (
        ("boot", "λ ≤ 1", 0.0, 1.0),
        ("vanilla", "λ ≥ λ*(T)", threshold, np.inf),
    ):
        rows = [row for row in record["tables"]["diagram"] if low <= row["eigenvalue"] <= high]
        best = sum(row[name] <= row["best"] * (1 + _EQUAL) for row in rows)
        told.append(f"{name} is best at {best} of {len(rows)} points with {side}")
    return f"{' and '.join(told)}, over all s.".replace("boot", "BOOT", 1)


def _source_sentence(rows: Sequence[Row]) -> str:
    plans = list(dict.fromkeys(row["plan"] for row in rows))
    worst = max(rows, key=_regret)
    return (
        f"{rows[0]['source']}: {len(plans)} best plans over {len(rows)} values of s, of "
        f"{min(r['merges'] for r in rows)} to {max(r['merges'] for r in rows)} merges; the plan "
        f"kept loses at most {percent(_regret(worst))} (s = {worst['merge_time']:g}), BOOT "
        f"{percent(max(row['boot'] / row['best'] for row in rows) - 1)}. {_order_sentence(rows)}"
    )


def _order_sentence(rows: Sequence[Row]) -> str:
    """Over which s BOOT errs less than vanilla."""
    before = [row["merge_time"] for row in rows if row["boot"] < row["vanilla"]]
    if len(before) in (0, len(rows)):
        return f"{'BOOT' if before else 'Vanilla'} is the better of the two at every s."
    return f"BOOT errs less than vanilla for s from {before[0]:g} to {before[-1]:g} only."


@figure_style()
def _transition_figure(record: Record) -> Figure:
    figure, axes = new_figure(height=3.0)
    first, last = _range(record)
    shift = _shift(max(_shifts(record, "first_crossing"), default=None))
    set_title(figure, f"From s = {first:g} to {last:g} the crossing shifts by {shift}")
    shown = []
    for rows, dash in zip(_by_steps(record), ("-", (0, (4, 1.5)), (0, (1, 1))) * 9, strict=False):
        for key, (label, colour, marker) in _MARKS.items():
            known = [row for row in rows if row[key] is not None]
            distances = [row[key] - 1 for row in known]
            axes.plot(
                [row["merge_time"] for row in known],
                distances,
                color=colour,
                marker=marker,
                linestyle=dash,
                markersize=4,
                label=label if dash == "-" else None,
            )
            shown += distances
    log_axis(axes.xaxis, first / 1.2, last * 1.2)
    log_axis(axes.yaxis, min(shown, default=0.01) / 2, max(shown, default=1.0) * 2)
    axes.set_xlabel("optimisation time of a merge, s")
    axes.set_ylabel("data variance, λ - 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def _diagram_figure(record: Record) -> Figure:
    figure, axes = new_figure(height=3.4)
    times_used = _times(record)
    rows = record["tables"]["diagram"]
    for line, time in enumerate(times_used):
        here = [row for row in rows if row["merge_time"] == time]
        values = [row["eigenvalue"] for row in here]
        draw_shapes(axes, line, values, [row["shape"] for row in here])
    marks = [row for row in _by_steps(record)[0] if row["first_crossing"] is not None]
    crossings = [row["first_crossing"] for row in marks]
    lines = [times_used.index(row["merge_time"]) for row in marks]
    axes.plot(crossings, lines, color=INK, linestyle=(0, (3, 1.5)), linewidth=1.0)
    set_title(
        figure,
        "The phases lie at the same λ for every s"
        if _is_still(record)
        else "The phases shift with s",
    )
    label_shapes(axes, (row["shape"] for row in rows))
    values = [row["eigenvalue"] for row in rows]
    log_axis(axes.xaxis, min(values), max(values))
    axes.set_yticks(range(len(times_used)), [f"{time:g}" for time in times_used])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("optimisation time of a merge, s")
    return figure


@figure_style()
def _gain_figure(record: Record) -> Figure:
    figure, axes = new_figure(height=3.0)
    rows, times_used = record["tables"]["diagram"], _times(record)
    band = [row["eigenvalue"] for row in rows if _gain(row) > 1.01]
    set_title(
        figure,
        f"Only from λ = {min(band):.3g} to {max(band):.3g} does a plan gain over 1 % at some s"
        if band
        else "No plan gains more than 1 % at any s",
    )
    shown = dict.fromkeys((times_used[0], times_used[len(times_used) // 2], times_used[-1]))
    styles = ((BLUE, "-"), (ORANGE, (0, (4, 1.5))), (GREEN, (0, (1, 1))))
    for time, (colour, dash) in zip(shown, styles, strict=False):
        here = [row for row in rows if row["merge_time"] == time]
        values, gains = [row["eigenvalue"] for row in here], [_gain(row) for row in here]
        axes.plot(values, gains, color=colour, linestyle=dash, label=f"s = {time:g}")
    log_axis(axes.xaxis, 0.9, 2.2)
    log_axis(axes.yaxis, 0.9, 2 * max(map(_gain, rows)))
    axes.set_xlabel("data variance λ")
    axes.set_ylabel("W2 of the better strategy, best = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


@figure_style()
def _source_figure(rows: Sequence[Row]) -> Figure:
    figure, axes = new_figure(height=2.8)
    worst = max(_regret(row) for row in rows)
    set_title(
        figure, f"{rows[0]['source']}: a plan kept for every s loses {percent(worst)} at most"
    )
    seconds = [row["merge_time"] for row in rows]
    highest = 1.0
    for key, label, colour, style in (
        ("vanilla", "vanilla", ORANGE, "s-"),
        ("boot", "BOOT", BLUE, "o-"),
        ("kept", "plan kept", INK, "x:"),
    ):
        ratios = [row[key] / row["best"] for row in rows]
        axes.plot(seconds, ratios, style, color=colour, markersize=4, label=label)
        highest = max(highest, *ratios)
    log_axis(axes.xaxis, seconds[0] / 1.2, seconds[-1] * 1.2)
    axes.set_ylim(0.95, highest * 1.05)
    axes.set_xlabel("optimisation time of a merge, s")
    axes.set_ylabel("W2 to the teacher, best = 1")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, columnspacing=1.0)
    return figure


def _transition_table(record: Record) -> Table:
    keys = ("boot_until", "first_crossing", "vanilla_from", "threshold")
    return make_table(
        "Transition by T and s",
        ("T", "s", "BOOT until", "crossing", "crossings", "vanilla from", "λ*(T)"),
        [
            (
                str(row["num_steps"]),
                f"{row['merge_time']:g}",
                *(_known(row[key]) for key in keys[:2]),
                str(row["num_crossings"]),
                *(_known(row[key]) for key in keys[2:]),
            )
            for row in record["tables"]["transition"]
        ],
    )


def _diagram_table(record: Record) -> Table:
    rows = [row for row in record["tables"]["diagram"] if row["shape"] in ("comb", "tree")]
    return make_table(
        "Plans between the phases",
        ("λ", "s", "best", "bound", "gain", "kept", "shape", "merges"),
        [
            (
                f"{row['eigenvalue']:.6g}",
                f"{row['merge_time']:g}",
                number(row["best"]),
                number(row["lower_bound"]),
                f"{_gain(row):.4g}",
                number(row["kept"]),
                row["shape"],
                str(row["merges"]),
            )
            for row in rows
        ],
        "Gain: W2 of the better of BOOT and vanilla over the best. Kept: W2 of the plan made for "
        f"s = {record['settings']['kept_time']:g}.",
    )


def _source_table(rows: Sequence[Row]) -> Table:
    return make_table(
        f"Plans for {rows[0]['source']}",
        ("s", "best", "bound", "vanilla", "BOOT", "kept", "merges", "best plan"),
        [
            (
                f"{row['merge_time']:g}",
                *(number(row[key]) for key in ("best", "lower_bound", "vanilla", "boot", "kept")),
                str(row["merges"]),
                row["plan"],
            )
            for row in rows
        ],
    )


def _shifts(record: Record, key: str) -> list[float]:
    """Relative range over s of where something changes, for each T where it is known."""
    known = [[row[key] for row in rows] for rows in _by_steps(record) if all(r[key] for r in rows)]
    return [max(values) / min(values) - 1 for values in known]


def _is_still(record: Record) -> bool:
    return all(shift <= _STILL for key in _MARKS for shift in _shifts(record, key))


def _by_steps(record: Record) -> list[list[Row]]:
    rows = record["tables"]["transition"]
    return [list(run) for _, run in groupby(rows, key=lambda row: row["num_steps"])]


def _by_source(record: Record) -> list[list[Row]]:
    rows = record["tables"]["sources"]
    return [list(run) for _, run in groupby(rows, key=lambda row: row["source"])]


def _times(record: Record) -> list[float]:
    return list(dict.fromkeys(row["merge_time"] for row in record["tables"]["diagram"]))


def _range(record: Record) -> tuple[float, float]:
    values = _times(record)
    return values[0], values[-1]


def _num_plans(record: Record, eigenvalue: float) -> int:
    """Different plans over s, where they differ in more than rounding from those kept."""
    rows = [row for row in record["tables"]["diagram"] if row["eigenvalue"] == eigenvalue]
    return 1 + sum(_regret(row) > _EQUAL for row in rows)


def _regret(row: Row) -> float:
    """How much more the plan kept errs than the best."""
    return float(row["kept"] / row["best"] - 1) if row["best"] > 0 else 0.0


def _gain(row: Row) -> float:
    better = min(row["boot"], row["vanilla"])
    return float(better / row["best"]) if row["best"] > 0 else 1.0


def _shift(value: float | None) -> str:
    return "an unknown share" if value is None else percent(value)


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.8g}"
