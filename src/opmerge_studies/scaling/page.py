"""The page of the study `scaling`: what each planner costs, and with what exponents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opmerge.page.layout import Section, Table, draw_section, make_table
from opmerge.page.sentences import times
from opmerge.page.study import Answer
from opmerge.plotting import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    figure_style,
    log_axis,
    new_figure,
    set_title,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_STYLES = {
    "interval": (ORANGE, "s"),
    "certified": (BLUE, "o"),
    "scalar": (GREEN, "^"),
    "pareto": (INK, "x"),
    "brute-force": (GREY, "v"),
}
_CLAIMED = {"T": 3, "d": 1}  # of interval DP: O(T³ d)
_MEGABYTE = 1e6


def answer(record: Record) -> Answer:
    """How the planners scale, and whether interval DP is O(T³ d)."""
    interval, certified = _fit(record, "interval", "T"), _fit(record, "certified", "T")
    ratio, place = _advantage(record)
    return Answer(
        finding=(
            f"Interval DP takes time T^{_told(interval)} d^{_told(_fit(record, 'interval', 'd'))} "
            f"{_claim(record)}; the certified planner T^{_told(certified)} "
            f"d^{_told(_fit(record, 'certified', 'd'))}, {times(ratio)} faster at {place}."
        ),
        evidence=(
            *(_fit_sentence(fit) for fit in record["tables"]["fits"] if _is_power(fit)),
            *_growth_sentences(record),
            _proof_sentence(record),
            _memory_sentence(record),
        ),
        limits=(
            "An exponent of d above 1 may come from tables that outgrow the processor's caches; "
            "this was not measured apart.",
            "Seconds are those of the machine that computed this record; what carries over is the "
            "exponents, and these bend: small sizes are dominated by what does not grow.",
            f"Median of {record['settings']['repeats']} runs in processor time, one thread, one "
            "process, kernels compiled before.",
            "The time of interval DP includes its separable lower bound, O(T³ d) as well.",
            "The certified planner's time depends on the spectrum: here no λ lies in (1, λ*), and "
            "the relaxation closes in a few iterations. Memory is what tracemalloc sees.",
        ),
        overturned_by=(
            "Sizes beyond those measured: the last doubling is told beside each exponent;",
            "spectra with many λ in (1, λ*), on which the certified planner has to enumerate.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The exponents of the two planners for many eigenvalues."""
    return [
        (f"{planner}: exponent of {varied}", _told(_fit(record, planner, varied)))
        for planner in ("interval", "certified")
        for varied in ("T", "d")
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    settings = record["settings"]
    yield draw_section(
        "Time by number of steps",
        f"Processor time on one thread. Interval DP and certified: d = "
        f"{settings['base_dimensions']}; scalar: one eigenvalue; Pareto and brute force: four.",
        lambda: _time_figure(record, "T"),
        _time_table(record),
    )
    yield draw_section(
        "Time by number of eigenvalues",
        f"Processor time on one thread at T = {settings['base_steps']}.",
        lambda: _time_figure(record, "d"),
        _fit_table(record),
    )
    yield draw_section(
        "Memory",
        "Peak of what Python and NumPy allocate, by T; the dotted line is what interval DP's "
        "tables take by its own account.",
        lambda: _memory_figure(record),
    )


def _claim(record: Record) -> str:
    """Whether the exponents of O(T³ d) lie within the 95 % intervals."""
    told = []
    for varied, exponent in _CLAIMED.items():
        fit = _fit(record, "interval", varied)
        inside = "inside" if fit["low"] <= exponent <= fit["high"] else "outside"
        told.append(f"{exponent} of {varied} lies {inside}")
    return f"(of the claimed O(T³ d), {' and '.join(told)} the 95 % interval)"


def _fit_sentence(fit: Row) -> str:
    return (
        f"{fit['planner']}, {fit['varied']} = {fit['smallest']} to {fit['largest']}: exponent "
        f"{fit['exponent']:.2f} ± {fit['standard_error']:.2f} (95 % interval {fit['low']:.2f} to "
        f"{fit['high']:.2f}), {fit['last_exponent']:.2f} over the last step; memory "
        f"{fit['memory_exponent']:.2f} ± {fit['memory_error']:.2f}."
    )


def _growth_sentences(record: Record) -> Iterator[str]:
    rows = _rows(record, "brute-force", "T")
    before, last = rows[-2:]
    added = last["num_steps"] - before["num_steps"]
    factor = (last["seconds"] / before["seconds"]) ** (1 / added)
    yield (
        f"Brute force has no exponent: from T = {before['num_steps']} to {last['num_steps']} each "
        f"step makes it {times(factor)} as slow; the number of plans grows 5.83 times a step in "
        "the long run (little Schröder numbers, 3 + 2 √2)."
    )


def _proof_sentence(record: Record) -> str:
    """Cost is not all: how near each planner's plan is proved to be."""
    told = []
    for planner in ("interval", "certified"):
        gaps = [row["gap"] for varied in "Td" for row in _rows(record, planner, varied)]
        told.append(f"{planner} {min(gaps):.1g} to {max(gaps):.1g}")
    return f"Relative gaps that are left on these problems: {', '.join(told)}."


def _memory_sentence(record: Record) -> str:
    row = _rows(record, "interval", "T")[-1]
    share = row["traced_bytes"] / row["table_bytes"]
    return (
        f"At T = {row['num_steps']}, d = {row['dimensions']} interval DP allocates "
        f"{row['traced_bytes'] / _MEGABYTE:.3g} MB, {share:.2f} times what it says of its tables."
    )


@figure_style()
def _time_figure(record: Record, varied: str) -> Figure:
    figure, axes = new_figure(height=3.3)
    shown, sizes = [], []
    for planner, (colour, marker) in _STYLES.items():
        rows = _rows(record, planner, varied)
        if not rows:
            continue
        places = [row[_size(varied)] for row in rows]
        seconds = [row["seconds"] for row in rows]
        spread = [
            [max(0.0, row["seconds"] - row["fastest"]) for row in rows],
            [max(0.0, row["slowest"] - row["seconds"]) for row in rows],
        ]
        fit = _fit(record, planner, varied)
        label = f"{planner}, {varied}^{fit['exponent']:.2f}" if _is_power(fit) else planner
        axes.errorbar(
            places,
            seconds,
            spread,
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.2,
            label=label,
        )
        shown += seconds
        sizes += places
    interval, certified = (_fit(record, name, varied) for name in ("interval", "certified"))
    set_title(
        figure,
        f"Time grows as {varied}^{interval['exponent']:.1f} for interval DP and as "
        f"{varied}^{certified['exponent']:.1f} for the certified planner",
    )
    log_axis(axes.xaxis, min(sizes) / 1.3, max(sizes) * 1.3)
    log_axis(axes.yaxis, min(shown) / 2, max(shown) * 2)
    axes.set_xlabel("teacher steps T" if varied == "T" else "distinct eigenvalues d")
    axes.set_ylabel("processor time, s")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


@figure_style()
def _memory_figure(record: Record) -> Figure:
    figure, axes = new_figure(height=3.0)
    last = _rows(record, "interval", "T")[-1]
    set_title(
        figure,
        f"Interval DP takes {last['traced_bytes'] / _MEGABYTE:.3g} MB at T = {last['num_steps']}, "
        f"growing as T^{_fit(record, 'interval', 'T')['memory_exponent']:.1f}",
    )
    shown, sizes = [], []
    for planner in ("interval", "certified", "scalar"):
        colour, marker = _STYLES[planner]
        rows = _rows(record, planner, "T")
        places = [row["num_steps"] for row in rows]
        memory = [row["traced_bytes"] / _MEGABYTE for row in rows]
        axes.plot(places, memory, color=colour, marker=marker, markersize=4, label=planner)
        shown += memory
        sizes += places
    rows = _rows(record, "interval", "T")
    tables = [row["table_bytes"] / _MEGABYTE for row in rows]
    places = [row["num_steps"] for row in rows]
    axes.plot(places, tables, color=INK, linestyle=(0, (1, 1)), label="its own account")
    log_axis(axes.xaxis, min(sizes) / 1.3, max(sizes) * 1.3)
    log_axis(axes.yaxis, min(shown) / 2, max(shown) * 2)
    axes.set_xlabel("teacher steps T")
    axes.set_ylabel("peak memory, MB")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, columnspacing=1.0)
    return figure


def _time_table(record: Record) -> Table:
    return make_table(
        "Times, memory and gaps",
        ("planner", "varied", "T", "d", "seconds", "fastest", "slowest", "MB", "gap"),
        [
            (
                row["planner"],
                row["varied"],
                str(row["num_steps"]),
                str(row["dimensions"]),
                *(f"{row[key]:.3g}" for key in ("seconds", "fastest", "slowest")),
                f"{row['traced_bytes'] / _MEGABYTE:.3g}",
                f"{row['gap']:.1g}",
            )
            for row in record["tables"]["times"]
        ],
    )


def _fit_table(record: Record) -> Table:
    return make_table(
        "Exponents, cost = c size^p",
        ("planner", "over", "from", "to", "p of time", "95 % interval", "last step", "p of memory"),
        [
            (
                fit["planner"],
                fit["varied"],
                str(fit["smallest"]),
                str(fit["largest"]),
                f"{fit['exponent']:.2f} ± {fit['standard_error']:.2f}",
                f"{fit['low']:.2f} to {fit['high']:.2f}",
                f"{fit['last_exponent']:.2f}",
                f"{fit['memory_exponent']:.2f} ± {fit['memory_error']:.2f}",
            )
            for fit in record["tables"]["fits"]
            if _is_power(fit)
        ],
    )


def _advantage(record: Record) -> tuple[float, str]:
    """How many times faster certified is at the largest d, and where that is."""
    interval, certified = (
        {row["dimensions"]: row for row in _rows(record, planner, "d")}
        for planner in ("interval", "certified")
    )
    largest = max(interval)
    row = interval[largest]
    place = f"T = {row['num_steps']}, d = {largest}"
    return float(row["seconds"] / certified[largest]["seconds"]), place


def _rows(record: Record, planner: str, varied: str) -> list[Row]:
    return [
        row
        for row in record["tables"]["times"]
        if row["planner"] == planner and row["varied"] == varied
    ]


def _fit(record: Record, planner: str, varied: str) -> Row:
    fits: Sequence[Row] = record["tables"]["fits"]
    return next(fit for fit in fits if (fit["planner"], fit["varied"]) == (planner, varied))


def _is_power(fit: Row) -> bool:
    """Brute force grows exponentially, which no exponent describes."""
    return bool(fit["planner"] != "brute-force")


def _told(fit: Row) -> str:
    return f"{fit['exponent']:.2f} ± {fit['standard_error']:.2f}"


def _size(varied: str) -> str:
    return "num_steps" if varied == "T" else "dimensions"
