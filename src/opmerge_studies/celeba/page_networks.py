"""What the page of `celeba` says of networks on latents that cost the same in total."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from opmerge.page.charts import LOOKS, Axis, Series, intervals
from opmerge.page.claims import Count, count
from opmerge.page.layout import Section, draw_section
from opmerge.page.study import heads, table

PLANNED = "planner"
PAPERS = ("vanilla", "progressive", "consistency", "boot")
SPLITS = {"best split": "", "even split": ", even split"}
"""How a strategy's budget is spent on its merges, and what its name ends with then."""

_TIED = 1.05  # times the least error
_OFF = 10.0  # times the least error: left to the table

_COLUMNS = heads(
    *("budget=budget:.2g", "plan", "merges", "iterations=iterations:,", "cost=cost:,.0f"),
    *("forecast", "measured", "95 %=low…high", "/ least=ratio:.2f"),
    *("of a pixel=pixels", "its 95 %=pixels_low…pixels_high"),
)
_NOTE = (
    "Costs in network evaluations: an iteration of a merge of c children costs batch × (c + 3). "
    "Errors are root mean squares of student minus teacher from equal noise, of a whole latent, "
    "and of a pixel once decoded; means over seeds of the training, and the ends of their 95 % "
    "intervals together. Even split: as many iterations for each merge; others the best split "
    "under the law of merges."
)


def network_errors(record: Mapping[str, Any]) -> pd.DataFrame:
    """A row a budget and plan: means over seeds, and the ends of the seeds' intervals together."""
    rows = pd.DataFrame(record["tables"]["networks"])
    keys = ["budget", "plan", "names", "is_planned", "merges", "iterations", "cost"]
    errors = rows.groupby(keys, sort=False).agg(
        forecast=("forecast", "first"),
        measured=("measured", "mean"),
        low=("measured_low", "min"),
        high=("measured_high", "max"),
        pixels=("paired_rms", "mean"),
        pixels_low=("paired_low", "min"),
        pixels_high=("paired_high", "max"),
    )
    errors = errors.reset_index()
    return errors.assign(ratio=errors.measured / errors.groupby("budget").measured.transform("min"))


def network_contests(errors: pd.DataFrame) -> pd.DataFrame:
    """A row a budget and split: which of the paper's four errs least, in latents and decoded."""
    contests = []
    for budget, own in errors.groupby("budget", sort=False):
        named = own.assign(name=own.names.str.split("; ")).explode("name").set_index("name")
        for split, end in SPLITS.items():
            four = named.reindex([name + end for name in PAPERS]).dropna(subset="measured")
            if len(four) < 2:  # the budget pays for no more of them
                continue
            ranked = four.sort_values("measured")
            contests.append(
                {
                    "budget": budget,
                    "split": split,
                    "least": ranked.index[0].removesuffix(end),
                    "second": ranked.index[1].removesuffix(end),
                    "times": ranked.measured.iloc[1] / ranked.measured.iloc[0],
                    "is_separated": ranked.high.iloc[0] < ranked.low.iloc[1],
                    "least_decoded": str(four.pixels.idxmin()).removesuffix(end),
                }
            )
    return pd.DataFrame(contests)


def planned_rows(errors: pd.DataFrame) -> pd.DataFrame:
    """A row a budget: the planner's plan, the best of the others, and what it errs, times that."""
    planned = errors[errors.is_planned].set_index("budget")
    others = errors[~errors.is_planned].sort_values("measured").groupby("budget").first()
    best = others[["plan", "measured"]].rename(columns={"plan": "best", "measured": "best_error"})
    joined = planned.join(best).reset_index()
    return joined.assign(times=joined.measured / joined.best_error)


def network_claims(errors: pd.DataFrame, contests: pd.DataFrame) -> dict[str, Count]:
    """Claims on networks of equal total cost."""
    return {
        "boot-least-networks": count(contests.least == "boot"),
        "boot-least-networks-decoded": count(contests.least_decoded == "boot"),
        "planner-least-networks": count(errors.ratio[errors.is_planned] <= _TIED),
    }


def network_sections(record: Mapping[str, Any], errors: pd.DataFrame) -> Iterator[Section]:
    """A figure, a table, and what each plan's student draws from equal noise."""
    networks = record["networks"]
    place = f"{networks['encoder']}, {networks['source']}"
    near = errors.groupby("plan", sort=False).ratio.min()
    plans = near[near < _OFF].sort_values().index.tolist()
    shown, series = errors[errors.plan.isin(plans)], []
    for (budget, own), look in zip(shown.groupby("budget", sort=False), LOOKS, strict=False):
        places = own.plan.map(plans.index)
        series.append(Series(f"{budget:.2g}", own.measured, places, look, own.low, own.high))
    axis = Axis("error in latents, root mean square", margin=1.2)
    yield draw_section(
        "Networks on latents, equal total cost",
        f"Students of one teacher of latents ({place}; T = {networks['steps']}), by network "
        "evaluations that all merges of a plan cost together. Bars: 95 % intervals, of all seeds "
        "together.",
        intervals(series, plans, axis, "Students of equal cost", line=0.25 + 0.07 * len(series)),
    )
    made = table("Students of equal cost", errors, _COLUMNS, _NOTE, is_open=True)
    yield Section("All students", "By budget and plan.", table=made, is_wide=True)
    pictures = pd.DataFrame(record["network_pictures"])
    if pictures.empty:
        return
    keys = ["budget", "plan"]
    pictures = pictures.merge(errors[[*keys, "pixels"]], on=keys, how="left")
    teacher = pictures[pictures.plan == "teacher"].png.iloc[0]
    for budget, own in pictures[pictures.plan != "teacher"].groupby("budget"):
        ranked = own.sort_values("pixels")
        names = ranked.plan + ranked.pixels.map(", {:.3g}".format)
        yield Section(
            f"What students draw, {budget:.2g} evaluations",
            "Each column is decoded from the same noise in the latents; the number is the error "
            "of a pixel, whose values go from −1 to 1.",
            pictures=[("teacher", teacher), *zip(names, ranked.png, strict=True)],
            is_wide=True,
        )
