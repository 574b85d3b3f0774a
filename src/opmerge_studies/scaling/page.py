"""The page of the study `scaling`: what each planner costs, and with what exponents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from opmerge.page.charts import DOTTED, Axis, Series, chart, series_by
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, GREEN, GREY, INK, ORANGE

_PLANNERS = ("interval", "certified", "scalar", "pareto", "brute-force")
_LOOKS: Mapping[Any, Mapping[str, Any]] = {
    planner: {"color": colour, "marker": marker, "markersize": 4}
    for planner, colour, marker in zip(
        _PLANNERS, (ORANGE, BLUE, GREEN, INK, GREY), "so^xv", strict=True
    )
}
_ROUNDING = 1e-9  # of a relative gap
_MUCH_MORE = 1.5  # memory over what interval DP says of its tables
_TIME_COLUMNS = heads(
    *("planner", "varied", "T=num_steps", "d=dimensions", "seconds", "fastest", "slowest"),
    *("MB=megabytes", "gap:.1g"),
)
_FIT_COLUMNS = heads(
    *("planner", "over=varied", "from=smallest", "to=largest", "p of time=told"),
    *("95 % interval=interval", "last step=last_exponent:.2f", "p of memory=memory"),
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, times, fits = record["settings"], frame(record, "times"), frame(record, "fits")
    times = times.assign(
        size=times.num_steps.where(times.varied == "T", times.dimensions),
        megabytes=times.traced_bytes / 1e6,
        share=times.traced_bytes / times.table_bytes,
    )
    told = fits.select_dtypes("number").map("{:.2f}".format)
    fits = fits.assign(
        told=told.exponent + " ± " + told.standard_error,
        interval=told.low + " to " + told.high,
        memory=told.memory_exponent + " ± " + told.memory_error,
        is_power=fits.planner != "brute-force",  # which grows exponentially
    )
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
        "gaps": {"interval": interval.gap, "certified": certified.gap},
        "largest": largest,
    }
    return Page(values, claims, _sections(settings, times, fits))


def _sections(
    settings: Mapping[str, Any], times: pd.DataFrame, fits: pd.DataFrame
) -> Iterator[Section]:
    numbers = {
        "T": table("Times, memory and gaps", times, _TIME_COLUMNS),
        "d": table("Exponents, cost = c size^p", fits[fits.is_power], _FIT_COLUMNS),
    }
    by_steps = (
        f"Processor time on one thread. Interval DP and certified: d = "
        f"{settings['base_dimensions']}; scalar: one eigenvalue; Pareto and brute force: four."
    )
    by_size = f"Processor time on one thread at T = {settings['base_steps']}."
    for varied, heading, words, caption in (
        ("T", "Time by number of steps", "teacher steps T", by_steps),
        ("d", "Time by number of eigenvalues", "distinct eigenvalues d", by_size),
    ):
        powers = fits[fits.varied == varied].set_index("planner").exponent
        labels = {name: f"{name}, {varied}^{power:.2f}" for name, power in powers.items()}
        labels["brute-force"] = "brute-force"
        rows = times[times.varied == varied]
        yield chart(
            heading,
            caption,
            [
                Series(labels[key], own["size"], own.seconds, _LOOKS[key], own.fastest, own.slowest)
                for key, own in rows.groupby("planner", sort=False)
            ],
            Axis(words, margin=1.3),
            Axis("processor time, s", margin=2),
            f"Time grows as {varied}^{powers['interval']:.1f} for interval DP and as "
            f"{varied}^{powers['certified']:.1f} for the certified planner",
            numbers[varied],
            height=3.3,
            columns=2,
        )
    rows = times[(times.varied == "T") & times.planner.isin(["interval", "certified", "scalar"])]
    tables, fit = rows[rows.planner == "interval"], fits[fits.planner == "interval"].iloc[0]
    largest, dotted = tables.iloc[-1], {"color": INK, "linestyle": DOTTED}
    yield chart(
        "Memory",
        "Peak of what Python and NumPy allocate, by T; the dotted line is what interval DP's "
        "tables take by its own account.",
        [
            *series_by(rows, "planner", "num_steps", "megabytes", _LOOKS),
            Series("its own account", tables.num_steps, tables.table_bytes / 1e6, dotted),
        ],
        Axis("teacher steps T", margin=1.3),
        Axis("peak memory, MB", margin=2),
        f"Interval DP takes {largest.megabytes:.3g} MB at T = {largest.num_steps}, growing "
        f"as T^{fit.memory_exponent:.1f}",
        columns=2,
    )
