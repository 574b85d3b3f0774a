"""The page of the study `scaling`: what each planner costs, and with what exponents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from opmerge.page.charts import DOTTED, Axis, Series, curves, series_by
from opmerge.page.claims import count
from opmerge.page.layout import draw_section
from opmerge.page.study import Page, frame, table
from opmerge.plotting import BLUE, GREEN, GREY, INK, ORANGE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["page"]

_LOOKS: Mapping[Any, Mapping[str, Any]] = {
    "interval": {"color": ORANGE, "marker": "s", "markersize": 4},
    "certified": {"color": BLUE, "marker": "o", "markersize": 4},
    "scalar": {"color": GREEN, "marker": "^", "markersize": 4},
    "pareto": {"color": INK, "marker": "x", "markersize": 4},
    "brute-force": {"color": GREY, "marker": "v", "markersize": 4},
}
_ROUNDING = 1e-9  # of a relative gap
_MUCH_MORE = 1.5  # memory over what interval DP says of its tables
_TIME_COLUMNS = {
    **{"planner": "planner", "varied": "varied", "T": "num_steps", "d": "dimensions"},
    **{"seconds": "seconds", "fastest": "fastest", "slowest": "slowest", "MB": "megabytes"},
    "gap": "gap:.1g",
}
_FIT_COLUMNS = {
    **{"planner": "planner", "over": "varied", "from": "smallest", "to": "largest"},
    **{"p of time": "told", "95 % interval": "interval", "last step": "last_exponent:.2f"},
    "p of memory": "memory",
}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, times, fits = record["settings"], _times(record), _fits(record)
    fit = {(row["planner"], row["varied"]): row for row in fits.to_dict("records")}
    cubic, linear = fit["interval", "T"], fit["interval", "d"]
    interval, certified = (times[times.planner == name] for name in ("interval", "certified"))
    places = ["varied", "num_steps", "dimensions"]
    both = interval.merge(certified, on=places, suffixes=("", "_certified"))
    both = both.assign(advantage=both.seconds / both.seconds_certified)
    before, last = times[times.planner == "brute-force"].tail(2).to_dict("records")
    largest = interval[interval.varied == "T"].iloc[-1]
    claims = {
        "interval-dp-cubic-in-steps": count([cubic["low"] <= 3 <= cubic["high"]]),
        "interval-dp-linear-in-dimensions": count([linear["low"] <= 1 <= linear["high"]]),
        "certified-is-faster": count(both.advantage > 1),
        "certified-closes": count(certified.gap <= _ROUNDING),
        "interval-dp-takes-its-tables": count(interval.share <= _MUCH_MORE),
    }
    values = {
        **{"settings": settings, "fit": fit, "fits": fits[fits.is_power]},
        **{"ahead": both[both.varied == "d"].iloc[-1], "before": before, "last": last},
        "growth": (last["seconds"] / before["seconds"])
        ** (1 / (last["num_steps"] - before["num_steps"])),
        **{"gaps": {"interval": interval.gap, "certified": certified.gap}, "largest": largest},
    }
    sections = [
        draw_section(
            "Time by number of steps",
            f"Processor time on one thread. Interval DP and certified: d = "
            f"{settings['base_dimensions']}; scalar: one eigenvalue; Pareto and brute force: four.",
            _time_figure(times, fit, "T", Axis("teacher steps T", margin=1.3)),
            table("Times, memory and gaps", times, _TIME_COLUMNS),
        ),
        draw_section(
            "Time by number of eigenvalues",
            f"Processor time on one thread at T = {settings['base_steps']}.",
            _time_figure(times, fit, "d", Axis("distinct eigenvalues d", margin=1.3)),
            table("Exponents, cost = c size^p", fits[fits.is_power], _FIT_COLUMNS),
        ),
        draw_section(
            "Memory",
            "Peak of what Python and NumPy allocate, by T; the dotted line is what interval DP's "
            "tables take by its own account.",
            _memory_figure(
                times[times.varied == "T"],
                f"Interval DP takes {largest.megabytes:.3g} MB at T = {largest.num_steps}, growing "
                f"as T^{cubic['memory_exponent']:.1f}",
            ),
        ),
    ]
    return Page(values, claims, sections)


def _times(record: Mapping[str, Any]) -> pd.DataFrame:
    """Costs of each planner and size, memory in MB too, and as a share of interval DP's tables."""
    times = frame(record, "times")
    return times.assign(
        size=times.num_steps.where(times.varied == "T", times.dimensions),
        megabytes=times.traced_bytes / 1e6,
        share=times.traced_bytes / times.table_bytes,
    )


def _fits(record: Mapping[str, Any]) -> pd.DataFrame:
    """Exponents, as the page tells them; brute force grows exponentially, which none describes."""
    fits = frame(record, "fits")

    def told(first: str, words: str, second: str) -> list[str]:
        pairs = zip(fits[first], fits[second], strict=True)
        return [f"{one:.2f} {words} {other:.2f}" for one, other in pairs]

    return fits.assign(
        told=told("exponent", "±", "standard_error"),
        interval=told("low", "to", "high"),
        memory=told("memory_exponent", "±", "memory_error"),
        is_power=fits.planner != "brute-force",
    )


def _time_figure(times: pd.DataFrame, fit: Mapping[Any, Any], varied: str, x: Axis) -> Figure:
    exponents = {planner: row["exponent"] for (planner, over), row in fit.items() if over == varied}
    labels = {planner: f"{planner}, {varied}^{power:.2f}" for planner, power in exponents.items()}
    labels["brute-force"] = "brute-force"
    rows = times[times.varied == varied]
    return curves(
        [
            Series(labels[name], own["size"], own.seconds, _LOOKS[name], own.fastest, own.slowest)
            for name, own in rows.groupby("planner", sort=False)
        ],
        x,
        Axis("processor time, s", margin=2),
        f"Time grows as {varied}^{exponents['interval']:.1f} for interval DP and as "
        f"{varied}^{exponents['certified']:.1f} for the certified planner",
        height=3.3,
        columns=2,
    )


def _memory_figure(times: pd.DataFrame, title: str) -> Figure:
    shown = times[times.planner.isin(["interval", "certified", "scalar"])]
    tables = times[times.planner == "interval"]
    look = {"color": INK, "linestyle": DOTTED}
    return curves(
        [
            *series_by(shown, "planner", "num_steps", "megabytes", _LOOKS),
            Series("its own account", tables.num_steps, tables.table_bytes / 1e6, look),
        ],
        Axis("teacher steps T", margin=1.3),
        Axis("peak memory, MB", margin=2),
        title,
        columns=2,
    )
