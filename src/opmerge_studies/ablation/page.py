"""The page of the study `ablation`: what the optimisation time of a merge changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from typing import Any

import pandas as pd

from opmerge.page.charts import (
    DASHED,
    DASHES,
    DOTTED,
    Axis,
    Series,
    chart,
    series_by,
    series_of,
    shape_bars,
)
from opmerge.page.claims import count
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import number, percent
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import BLUE, INK, ORANGE

_EQUAL = 1e-9  # relative difference of two distances that is rounding
_STILL = 1e-3  # relative shift of a λ that nobody would notice
_LITTLE = 0.05  # loss of a plan that serves at every s
_SEEN = 1.01  # gain of a plan that counts
_TIME = Axis("optimisation time of a merge, s", margin=1.2)
_MARKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "boot_until": ("BOOT is best up to", {"color": BLUE, "marker": "o"}),
    "first_crossing": ("BOOT meets vanilla", {"color": INK, "marker": "x"}),
    "vanilla_from": ("vanilla is best from", {"color": ORANGE, "marker": "s"}),
}
_TRANSITION_COLUMNS = heads(
    *("T=num_steps", "s=merge_time:g", "BOOT until=boot_until:.8g"),
    *("crossing=first_crossing:.8g", "crossings=num_crossings"),
    *("vanilla from=vanilla_from:.8g", "λ*(T)=threshold:.8g"),
)
_DIAGRAM_COLUMNS = heads(
    *("λ=eigenvalue:.6g", "s=merge_time:g", "best", "bound=lower_bound"),
    *("gain:.4g", "kept", "shape", "merges"),
)
_SOURCE_COLUMNS = heads(
    *("s=merge_time:g", "best", "bound=lower_bound", "vanilla", "BOOT=boot"),
    *("kept", "merges", "best plan=plan"),
)


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    settings, transition = record["settings"], frame(record, "transition")
    here = transition[transition.num_steps == settings["steps"][0]]
    diagram = _plans(record, "diagram").merge(here, on="merge_time")
    sources = _plans(record, "sources")
    places = transition.groupby("num_steps")[list(_MARKS)]
    is_known = places.count().eq(places.size(), axis=0)  # for every s
    shifts = (places.max() / places.min() - 1).where(is_known)
    changes = diagram.groupby("eigenvalue").loss.max() > _EQUAL
    apart = (changes.index <= here.boot_until.min()) | (changes.index >= here.vanilla_from.max())
    below, above = diagram.eigenvalue <= 1, diagram.eigenvalue >= diagram.threshold
    claims = {
        "transition-stays": count(shifts.melt().value.dropna() <= _STILL),
        "boot-best-to-one": count(diagram[below].boot_loss <= _EQUAL),
        "vanilla-best-from-threshold": count(diagram[above].vanilla_loss <= _EQUAL),
        "plans-change-in-the-band-only": count(~changes[apart]),
        "winner-stays": count(sources.groupby("source").ahead.nunique() == 1),
        "kept-plan-serves": count(sources.loss <= _LITTLE),
    }
    values: dict[str, Any] = {
        "settings": settings,
        "transition": transition,
        "changes": changes,
        "sources": sources,
        "shifts": {words: shifts[column].max() for column, (words, _) in _MARKS.items()},
        "shift": shifts.max(),
    }
    return Page(values, claims, _sections(values, diagram))


def _plans(record: Mapping[str, Any], name: str) -> pd.DataFrame:
    """Plans with the gain of the best and the losses of others, even where there are none."""
    rows = frame(record, name).reindex(columns=[*record["tables"]["diagram"][0], "source"])
    over = rows[["boot", "vanilla", "kept"]].div(rows.best, axis=0).where(rows.best > 0, 1.0)
    return rows.assign(
        gain=over[["boot", "vanilla"]].min(axis=1),
        loss=over.kept - 1,
        boot_loss=over.boot - 1,
        vanilla_loss=over.vanilla - 1,
        ahead=rows.boot < rows.vanilla,
    )


def _sections(values: Mapping[str, Any], diagram: pd.DataFrame) -> Iterator[Section]:
    settings, transition, shift = (values[key] for key in ("settings", "transition", "shift"))
    times, kept_time = settings["merge_times"], settings["kept_time"]
    yield chart(
        "Transition",
        "Where BOOT ceases to be best, where it meets vanilla and where vanilla becomes best, "
        f"under operator copy. Solid: T = {transition.num_steps.min()}; broken: larger T.",
        [
            Series(
                words if dash == "-" else "",
                rows.merge_time,
                rows[column] - 1,
                {**look, "markersize": 4, "linestyle": dash},
            )
            for (_, rows), dash in zip(transition.groupby("num_steps"), cycle(DASHES), strict=False)
            for column, (words, look) in _MARKS.items()
        ],
        _TIME,
        Axis("data variance, λ - 1", margin=2),
        f"From s = {times[0]:g} to {times[-1]:g} the crossing shifts by "
        f"{percent(shift.first_crossing)}",
        table("Transition by T and s", transition, _TRANSITION_COLUMNS),
        columns=2,
    )
    yield draw_section(
        "Shape of the best plan",
        f"By λ and s at T = {settings['steps'][0]}. Combs train the student at T only, trees "
        "train students inside blocks too. Dashed: where BOOT and vanilla cross.",
        shape_bars(
            diagram,
            "merge_time",
            [f"{time:g}" for time in times],
            {"first_crossing": DASHED},
            f"Over s the edges of the phases shift by {percent(shift.max())} in λ at most",
            _TIME.words,
        ),
        table(
            "Plans between the phases",
            diagram[diagram["shape"].isin(["comb", "tree"])],
            _DIAGRAM_COLUMNS,
            "Gain: W2 of the better of BOOT and vanilla over the best. Kept: W2 of the plan made "
            f"for s = {kept_time:g}.",
        ),
    )
    shown = diagram[diagram.merge_time.isin([times[0], times[len(times) // 2], times[-1]])]
    shown = shown.assign(called="s = " + shown.merge_time.map("{:g}".format))
    gaining = diagram[diagram.gain > _SEEN].eigenvalue
    yield chart(
        "Gain in the band",
        "W2 of the better of BOOT and vanilla as a multiple of the best plan's, over λ.",
        series_by(shown, "called", "eigenvalue", "gain", dashes=True),
        Axis("data variance λ", (0.9, 2.2)),
        Axis("W2 of the better strategy, best = 1", (0.9, 2 * diagram.gain.max())),
        f"A plan gains over 1 % at some s at {gaining.nunique()} of "
        f"{diagram.eigenvalue.nunique()} λ, {number(gaining.min())} to {number(gaining.max())}",
    )
    look = {"color": INK, "marker": "x", "markersize": 4, "linestyle": DOTTED}
    for source, rows in values["sources"].groupby("source", sort=False):
        highest = 1 + rows[["vanilla_loss", "boot_loss", "loss"]].max().max()
        yield chart(
            f"Spectrum of {source}",
            f"W2 to the teacher as a multiple of the best plan's; kept is the best plan at s = "
            f"{kept_time:g}, used at every s.",
            [
                *series_of(rows, "merge_time", ["vanilla", "boot"], over="best"),
                Series("plan kept", rows.merge_time, rows.loss + 1, look),
            ],
            _TIME,
            Axis("W2 to the teacher, best = 1", (0.95, 1.05 * max(1.0, highest)), log=False),
            f"{source}: a plan kept for every s loses {percent(rows.loss.max())} at most",
            table(f"Plans for {source}", rows, _SOURCE_COLUMNS),
            height=2.8,
        )
