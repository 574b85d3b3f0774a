"""How far forecasts agree with measurements, and what the planner's choice costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, groupby
from operator import itemgetter
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from opmerge.planners.budget import ratio_interval
from opmerge_studies.budgets import Contender

Row = dict[str, Any]

FACTOR = 1.3
"""How far a forecast may be from the measured error."""

ALL = "all"
"""In the place of K: all of them together."""

_QUANTILES = (0.05, 0.5, 0.95)


def agreement_rows(
    field: Sequence[Contender],
    cells: Sequence[Sequence[Mapping[str, Any]]],
    seeds: Sequence[int],
    scatter: float,
) -> tuple[list[Row], list[Row]]:
    """How forecasts agree, a row for each seed and K (and all K together); and reversed pairs.

    A row has ``plans``, Spearman's ρ over all of them (``spearman``) and its mean over the budgets
    and K of those that share them (``spearman_at_cost``), which is what choosing a plan needs;
    ``pairs``, those forecast to differ by more than the 90 % interval of their ratio (``apart``)
    and of these the ones measured in that order (``right``); the plans forecast within a factor
    1.3 (``close``) and those whose 90 % interval holds the measured error (``covered``); and
    quantiles of forecast over measured (``ratio_05``, ``ratio_50``, ``ratio_95``).

    Args:
        cells: of each contender, in the order of seeds.
        scatter: of the law.
    """
    counts = list(dict.fromkeys(each.student_steps for each in field))
    every = [*map(str, counts), ALL] if len(counts) > 1 else [str(counts[0])]
    apart = _told_apart(field, scatter)
    rows: list[Row] = []
    for place, seed in enumerate(seeds):
        measured = np.array([own[place]["measured"]["value"] for own in cells])
        for key in every:
            chosen = [at for at, each in enumerate(field) if key in (ALL, str(each.student_steps))]
            own_pairs = [pair for pair in apart if set(pair) <= set(chosen)]
            row = {"seed": seed, "student_steps": key}
            rows.append(row | _agreement([field[at] for at in chosen], measured[chosen]))
            rows[-1]["apart"] = len(own_pairs)
            rows[-1]["right"] = sum(bool(measured[a] < measured[b]) for a, b in own_pairs)
    values = np.array([[cell["measured"]["value"] for cell in own] for own in cells])
    wrong = [(a, b) for a, b in apart if (values[a] > values[b]).all()]
    return rows, [_reversed_row(field[a], field[b], values[a], values[b]) for a, b in wrong]


def _agreement(field: Sequence[Contender], measured: Any) -> Row:
    expected = np.array([each.forecast.rms for each in field])
    ends = np.array([[each.forecast.low, each.forecast.high] for each in field]).T
    ratios = expected / measured
    at_cost = []
    keys = [(each.student_steps, each.budget) for each in field]
    for key in dict.fromkeys(keys):
        alike = [at for at, own in enumerate(keys) if own == key]
        at_cost.append(spearman(expected[alike], measured[alike]))
    known = [value for value in at_cost if value is not None]
    quantiles = np.quantile(ratios, _QUANTILES).tolist()
    return {
        "plans": len(field),
        "spearman": spearman(expected, measured),
        "spearman_at_cost": float(np.mean(known)) if known else None,
        "pairs": len(field) * (len(field) - 1) // 2,
        "close": int(((ratios < FACTOR) & (ratios > 1 / FACTOR)).sum()),
        "covered": int(((ends[0] <= measured) & (measured <= ends[1])).sum()),
        **{f"ratio_{100 * q:02.0f}": value for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }


def spearman(expected: Any, measured: Any) -> float | None:
    """Spearman's ρ; None of fewer than three plans, or where all are alike."""
    if len(expected) < 3 or not np.ptp(expected) or not np.ptp(measured):
        return None
    return float(spearmanr(expected, measured).statistic)


def _told_apart(field: Sequence[Contender], scatter: float) -> list[tuple[int, int]]:
    """Pairs (a, b) of which a is forecast better, by more than the interval of their ratio."""
    order = np.argsort([each.forecast.rms for each in field], kind="stable").tolist()
    return [
        (a, b)
        for a, b in combinations(order, 2)
        if ratio_interval(field[b].forecast, field[a].forecast, scatter)[0] > 1
    ]


def _reversed_row(better: Contender, worse: Contender, own: Any, other: Any) -> Row:
    return {
        "better": _name(better),
        "worse": _name(worse),
        "forecast_better": better.forecast.rms,
        "forecast_worse": worse.forecast.rms,
        "measured_better": float(np.mean(own)),
        "measured_worse": float(np.mean(other)),
    }


def _name(contender: Contender) -> str:
    return f"{contender.label} (K = {contender.student_steps}, {contender.budget:g})"


def regret_rows(rows: Sequence[Row], spent: Sequence[Row]) -> list[Row]:
    """By K, budget and seed: the planner's plan beside the best measured hand plan.

    ``regret`` is how much larger its error is (below 0: smaller), ``run_regret`` that of a run
    which pays for its planning from the same budget; both stand beside what vanilla leaves.
    """
    return list(_regrets(rows, spent))


def _regrets(rows: Sequence[Row], spent: Sequence[Row]) -> Iterator[Row]:
    key = itemgetter("student_steps", "budget", "seed")
    runs = {key(row): row for row in spent}
    for place, group in groupby(sorted(rows, key=key), key):
        own = list(group)
        planned = next(row for row in own if row["is_planned"])
        hand = [row for row in own if row["is_hand"]]
        if not hand:
            continue
        best = min(hand, key=itemgetter("measured"))
        vanilla = [row["measured"] for row in hand if "vanilla" in row["names"].split("; ")]
        run = runs.get(place)
        yield {
            **dict(zip(("student_steps", "budget", "seed"), place, strict=True)),
            "best_hand": best["plan"],
            "best": best["measured"],
            "planned": planned["measured"],
            "forecast": planned["forecast"],
            "regret": planned["measured"] / best["measured"] - 1,
            "vanilla": vanilla[0] if vanilla else None,
            "run": run["measured"] if run else None,
            "run_regret": run["measured"] / best["measured"] - 1 if run else None,
            "run_planning": run["planning"] / run["budget"] if run else None,
        }
