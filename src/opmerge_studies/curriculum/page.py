"""The page of the study `curriculum`: what a training budget should buy, and how to split it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from opmerge.page.charts import DASHED, DOTTED, Axis, Series, chart, series_of
from opmerge.page.claims import count
from opmerge.page.layout import Section
from opmerge.page.sentences import number, percent, times
from opmerge.page.study import Page, frame, heads, table
from opmerge.plotting import INK
from opmerge_studies.curriculum import CHEAPEST, COMPARED, PLANNED, SCHEDULES, SPREAD_CASE

_ZERO_MET = "λ = 1.5"  # where excesses of both signs cancel and every plan meets the teacher
_SEEN = 1e-6  # W2 below which nobody would notice a gain
_LABELS = {CHEAPEST: "the tree that is cheapest in the end", PLANNED: "the plan for s = 6.4"}
_FOLDS = [("λ = 0.2", "vanilla"), ("λ = 0.2", "boot"), ("λ = 5", "cheapest")]
_FRONTIER_COLUMNS = heads(
    *("budget", "equal times=equal_plan:s", "W2 so=equal", "best split=best_plan:s"),
    *("W2 by it=best", "best comb=best_comb", "bound=comb_bound", "comb:s"),
)
_FRONTIER_NOTE = "Best comb: of the shortest paths, with its best split."
_SPLIT_COLUMNS = heads(
    "budget", *SCHEDULES, "best", "shortest", "longest", "trained:s", "residual:.0e"
)
_SPLIT_NOTE = "Shortest, longest: times of merges in the best split; trained: merges that get any."
_COST_COLUMNS = heads(
    *("case:s", "plan:s", "merges:s", "evaluations:g", "for a factor e=per_fold:.4g"),
    "gain of a split=comb_gain:.4g",
)
_COST_NOTE = (
    "Evaluations: of a sample in one unit of time in every merge. For a factor e: of a sample, "
    "at large budgets. Gain: of combs, at large budgets, exp(KL)."
)
_BEST_COLUMNS = heads("λ=eigenvalue:g", "budget", "W2=best", "best comb=best_comb", "plan:s")
_WHOLE_COLUMNS = heads(
    *("budget", "plan:s", "merges:s", "W2=w2", "to first order=first_order", "bound=lower_bound"),
    *COMPARED,
)
_WHOLE_NOTE = (
    "All plans with their best split of the budget; the bound holds to first order, for every plan."
)
_THEORIES = ("spread_rates", "length_law", "gradient_flow")
_PREDICTED_COLUMNS = (
    *("spread rates=spread_rates", "and length=length_law", "gradient flow=gradient_flow"),
    "best split=best_split",
)
_PILOT_COLUMNS = heads(
    *("plan:s", "iterations a merge=iterations:s", "evaluations:g", "measured"),
    *_PREDICTED_COLUMNS,
)
_NETWORK_COLUMNS = heads("plan:s", "split:s", "evaluations:g", "measured", *_PREDICTED_COLUMNS)
_PILOT_NOTE = (
    "Measured: mean over pixels and samples; predicted: sum over directions. Compare ratios. And "
    "length: long merges learn more slowly. Best split: of spread rates, at the cost of the row."
)
_ADDED = {  # tables of records since 0.2, and what is read of them
    "whole": ("case", "budget", "w2", "first_order", "lower_bound", "least_first_order", *COMPARED),
    "equal_cost": ("plan", "split", "evaluations", "measured", *_THEORIES, "best_split"),
}


def page(record: Mapping[str, Any]) -> Page:
    """Numbers, claims and sections of a record."""
    rows = {name: frame(record, name) for name in record["tables"]}
    for name, columns in _ADDED.items():
        rows.setdefault(name, pd.DataFrame(columns=columns))
    for name in ("length_law", "best_split"):
        rows["pilot"] = rows["pilot"].assign(**{name: rows["pilot"].get(name)})
    splits, plans, small = rows["splits"], rows["plans"], rows["small"]
    frontier = rows["frontier"].assign(
        over=lambda row: row.boot / row.vanilla,
        saved=lambda row: 1 - row.best / row.vanilla,
        gap=lambda row: row.best_comb.astype(float) / row.comb_bound.astype(float) - 1,
        label=lambda row: row.best_plan.replace(_LABELS),
        is_first=lambda row: row.best_plan != row.groupby("case").best_plan.shift(),
    )
    splits = splits.assign(gain=splits.constant / splits.best)
    flow, spread = frontier[frontier.case != SPREAD_CASE], frontier[frontier.case == SPREAD_CASE]
    clear = splits[splits.case != _ZERO_MET]
    rounds = clear[(clear.growing / clear.constant - 1).abs() > 1e-9]
    beaten = rounds[list(SCHEDULES)[1:]].lt(rounds.constant, axis=0)
    gains = clear[clear.best > _SEEN].groupby("plan").gain.max()
    combs = plans[plans.case.isin(["λ = 0.2", "λ = 5"]) & (plans["plan"] != "vanilla")]
    largest = splits.groupby(["case", "plan"]).gain.last().rename("reached")
    combs = combs.dropna(subset="comb_gain").join(largest, on=["case", "plan"])
    off = (combs.reached / combs.comb_gain - 1).abs()
    trees, pilot = small[~small.is_comb], rows["pilot"].set_index(["plan", "iterations"]).T
    whole = rows["whole"].assign(
        named=lambda row: row[list(COMPARED)].min(axis=1),
        gap=lambda row: 1 - row.lower_bound / row.first_order,
    )
    networks = rows["equal_cost"]
    values = {
        **{"spread": spread, "small": small, "trees": trees, "beaten": beaten, "off": off},
        "first": frontier[frontier.is_first],
        "combs": frontier.dropna(subset="gap"),
        "folds": plans.set_index(["case", "plan"]).per_fold.loc[_FOLDS],
        "costs": plans.groupby("plan").evaluations.first(),
        "over": flow[flow.vanilla > _SEEN].over.max(),
        "gains": gains.reindex(COMPARED, fill_value=1.0),
        "ratio": (pilot["boot", 400] / pilot["vanilla", 3200]).astype(float) ** 0.5,
        **{"whole": whole, "networks": networks, "foretold": _foretold(networks)},
        "orders": _orders(networks),
    }
    claims = {
        "one-merge-beats-boot": count(flow.vanilla <= flow.boot),
        "combs-are-best": count(small.is_comb),
        "trees-are-best-above-1-only": count(trees.eigenvalue > 1),
        "splits-are-proved": count(splits.lower_bound >= splits.best * (1 - 1e-6)),
        "splits-are-stationary": count(splits.residual <= 1e-5),
        "gain-is-the-divergence": count(off < 0.01),
        "equal-times-beat-schedules": count(~beaten.to_numpy().ravel()),
        "spread-rates-bring-plans-together": count(spread.over < 2),
        "no-strategy-beats-the-frontier": count(whole.w2 <= whole.named * (1 + 1e-3)),
        "no-strategy-is-below-the-bound": count(whole.least_first_order >= whole.lower_bound),
        "plans-are-near-the-bound": count(whole.gap < 0.1),
        "length-law-foretells-networks": count(_off(networks, "length_law") < 1.25),
        "spread-rates-foretell-networks": count(_off(networks, "spread_rates") < 1.25),
        "the-split-turns-the-order": count(turned for _, turned in _orders(networks)),
    }

    return Page(values, claims, _sections({**rows, "frontier": frontier, "splits": splits}))


def _off(networks: pd.DataFrame, theory: str) -> pd.Series:
    """Factors >= 1 by which predictions are off, one common factor apart."""
    ratios = np.log((networks[theory] / networks.measured).astype(float))
    return np.exp((ratios - ratios.mean()).abs())


def _foretold(networks: pd.DataFrame) -> dict[str, dict[str, float]]:
    """By theory the largest of those factors, and Spearman's ρ with what was measured."""
    if not len(networks):
        return {}
    ranks = networks[["measured", *_THEORIES]].rank()
    return {
        theory: {"off": _off(networks, theory).max(), "rho": ranks.measured.corr(ranks[theory])}
        for theory in _THEORIES
    }


def _orders(networks: pd.DataFrame) -> list[tuple[str, bool]]:
    """Whether progressive errs more than BOOT with an even split, and less with one by length."""
    if not len(networks):
        return []
    by_split = networks[networks["plan"].isin(["boot", "progressive"])].set_index(["plan", "split"])
    told = []
    for name in ("measured", "spread_rates", "length_law"):
        over = by_split[name]["progressive"] / by_split[name]["boot"]
        told.append((name, bool(over["even"] > 1 > over["length"])))
    return told


def _sections(frames: Mapping[str, pd.DataFrame]) -> Iterator[Section]:
    for case, rows in frames["frontier"].groupby("case", sort=False):
        last, bounded = rows[rows.is_first].iloc[-1], rows.dropna(subset="comb_bound")
        best, top = rows.best.clip(lower=1e-300), rows.progressive.max()
        look = {"color": INK, "linestyle": DASHED, "marker": "."}
        lines = series_of(rows, "budget", COMPARED, markersize=4)
        lines.append(Series("best split", rows.budget, best, look))
        if len(bounded):
            look = {"color": INK, "linestyle": DOTTED}
            lines.append(Series("bound of combs", bounded.budget, bounded.comb_bound, look))
        yield chart(
            f"Budget against error, {case}",
            "Budgets are network evaluations of a sample, Σ s (m + 3); of spread rates in units of "
            "400 iterations, and under denoiser copy. Strategies with equal times in all merges; "
            "best: of all plans tried, each with its best split. Bound: what no comb goes below, "
            "where known.",
            lines,
            Axis("budget, network evaluations", margin=1.2),
            Axis("W2 to the teacher", (max(best.min() / 2, 1e-9 * top), 2 * top)),
            f"{case}: from a budget of {number(last.budget)} on, {last.label} is best",
            table(f"Best plans, {case}", rows, _FRONTIER_COLUMNS, _FRONTIER_NOTE),
            height=3.2,
        )
    for case, plan in (("digits", "progressive"), ("λ = 0.2", "boot")):
        rows = frames["splits"].query("case == @case and plan == @plan")
        highest = (rows[list(SCHEDULES)].max(axis=1) / rows.best).max()
        yield chart(
            f"Schedules of {plan}, {case}",
            "W2 with the same budget as a multiple of the best split's: equal times, times in "
            "proportion to the round, to the rounds left, and twice as long in the last two.",
            series_of(rows, "budget", SCHEDULES, over="best"),
            Axis("budget, network evaluations", margin=1.2),
            Axis("W2, best split = 1", (0.9, min(2 * highest, 1e4))),
            f"The best split of {plan} errs up to {times(rows.gain.max())} less than equal times",
            table(f"{plan}, {case}", rows, _SPLIT_COLUMNS, _SPLIT_NOTE),
            columns=2,
        )
    made = table("Cost of each plan", frames["plans"], _COST_COLUMNS, _COST_NOTE)
    yield Section("Plans and their costs", "", table=made)
    made = table("Best plan with its best split", frames["small"], _BEST_COLUMNS)
    yield Section("Every plan of a few steps", "", table=made)
    for case, rows in frames["whole"].groupby("case", sort=False):
        lines = series_of(rows, "budget", COMPARED, markersize=4)
        lines.append(Series("plan found", rows.budget, rows.w2, {"color": INK, "marker": "."}))
        bound = rows[rows.lower_bound > 0]
        look = {"color": INK, "linestyle": DOTTED}
        lines.append(Series("bound to first order", bound.budget, bound.lower_bound, look))
        top = rows.progressive.max()
        yield chart(
            f"Plans and times together, {case}",
            "At equal cost: each with its best split of the budget. The plan found is the best of "
            "those that a price on evaluations wants; no plan with any split is below the bound, "
            "to first order in what training leaves.",
            lines,
            Axis("budget, network evaluations", margin=1.2),
            Axis("W2 to the teacher", (max(rows.w2.min() / 2, 1e-9 * top), 2 * top)),
            f"{case}: the plan found errs {percent(1 - (rows.w2 / rows.vanilla).min())} less than "
            "one merge where it gains most",
            table(f"Frontier of {case}", rows, _WHOLE_COLUMNS, _WHOLE_NOTE),
            height=3.2,
        )
    made = table(
        "At unequal cost, as the evaluations say", frames["pilot"], _PILOT_COLUMNS, _PILOT_NOTE
    )
    caption = "Squared error to the teacher, digits, T = 32; the first four took equal time."
    yield Section("Networks of the pilot", caption, table=made)
    if len(frames["equal_cost"]):
        made = table(
            "At equal cost where the evaluations are equal",
            frames["equal_cost"],
            _NETWORK_COLUMNS,
            _PILOT_NOTE,
        )
        caption = "Paired error to the teacher, digits, T = 32; budgets are network evaluations."
        yield Section("Networks at equal cost", caption, table=made)
