"""What the record of the study `mixture` says, a sentence for each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opmerge.page.sentences import number, percent, times
from opmerge_studies.mixture.figures import REGIMES
from opmerge_studies.mixture.tables import STRATEGIES, above, regret

__all__ = [
    "crossing_sentences",
    "dimension_sentence",
    "few_step_sentence",
    "gain_sentence",
    "growth_sentence",
    "larger_sentence",
    "one_step_sentence",
    "planner_sentence",
    "share_sentence",
    "signal_sentence",
    "straddling_sentences",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

_SAME = 1e-6  # relative difference of errors that is none


def one_step_sentence(rows: Sequence[Row]) -> str:
    """How far the strategies' one-step students lie above the affine floor."""
    most = {name: max(above(row, name) for row in rows) for name in STRATEGIES}
    told = ", ".join(f"{name} {percent(value)}" for name, value in most.items())
    wins = Counter(_best_strategy(row) for row in rows)
    counted = ", ".join(f"{name} in {wins[name]}" for name in STRATEGIES if wins[name])
    return (
        f"One step, {len(rows)} cases of {rows[0]['plans']} plans: above the floor by at most "
        f"{told}; the best of the four is {counted}. The floor is a bound for every plan, since at "
        "alpha_T = 0 responsibilities are constant."
    )


def straddling_sentences(record: Record) -> Iterator[str]:
    """The best plans where components lie on both sides of λ = 1, and on one."""
    told = []
    for count in sorted({row["student_steps"] for row in record["tables"]["best"]}):
        rows = [
            row
            for row in record["tables"]["best"]
            if row["student_steps"] == count and row["regime"] == "straddling"
        ]
        most = {name: max(regret(row, name) for row in rows) - 1 for name in STRATEGIES}
        named = ", ".join(f"{name} {percent(value)}" for name, value in most.items())
        told.append(f"K = {count}: {named}")
    yield (
        "Components on both sides of λ = 1: the strategies lie above the best of all plans by at "
        f"most, at {'; '.join(told)}."
    )
    best = _best_handovers(record)
    separations = sorted({separation for separation, _ in best})
    parts = [
        f"±{separation:g}: "
        + ", ".join(f"{regime} {best[separation, regime]}" for regime in REGIMES)
        for separation in separations
    ]
    rises = all(best[s, "narrow"] <= best[s, "straddling"] <= best[s, "wide"] for s in separations)
    yield (
        "Best handover step of two-step students (T = "
        f"{record['settings']['exhaustive_steps']}, operator copy), by separation: "
        f"{'; '.join(parts)}."
        + rises
        * (
            " Narrow components want it nearer to the data than wide ones; components on both "
            "sides of λ = 1 in between."
        )
    )


def _best_handovers(record: Record) -> dict[tuple[float, str], int]:
    """The step at which the best two-step student hands over, by separation and regime."""
    best: dict[tuple[float, str], int] = {}
    for row in sorted(record["tables"]["handovers"], key=lambda row: -float(row["error"])):
        if row["merge_rule"] == "operator-copy":
            best[row["separation"], row["regime"]] = row["handover"]
    return best


def _best_strategy(row: Row) -> str:
    return min(STRATEGIES, key=lambda name: float(row[name]))


def share_sentence(record: Record) -> str:
    """Whether the floor or optimisation is larger, by student steps."""
    rows = [row for row in record["tables"]["strategies"] if row["plan"] in STRATEGIES]
    shares = {
        count: float(
            np.median(
                [
                    (row["approximation"] / row["error"]) ** 2
                    for row in rows
                    if row["student_steps"] == count
                ]
            )
        )
        for count in record["settings"]["student_steps"]
    }
    told = ", ".join(f"{percent(share)} at K = {count}" for count, share in shares.items())
    optimised = [str(count) for count, share in shares.items() if share < 0.5]
    larger = (
        f"what training leaves is the larger part from K = {optimised[0]} on"
        if optimised
        else "the floor is the larger part throughout"
    )
    worse = [row for row in rows if row["approximation"] > row["error"] * (1 + _SAME)]
    most = max((row["approximation"] / row["error"] for row in worse), default=1.0)
    return (
        "Of the squared error of the strategies, training every merge to the end would leave "
        f"{told} (medians): {larger}. In {len(worse)} of {len(rows)} cases it would make the "
        f"error larger, by up to {percent(most - 1)}: the optimum of each merge is not that of "
        "the plan."
    )


def few_step_sentence(record: Record) -> str:
    """How fast errors fall with student steps, by merge rule."""
    counts = [count for count in record["settings"]["student_steps"] if count > 1]
    parts = []
    for rule in ("operator-copy", "denoiser-copy"):
        best: dict[tuple[str, float, int], float] = {}
        for row in record["tables"]["strategies"]:
            if row["merge_rule"] == rule:
                case = row["regime"], row["separation"], row["student_steps"]
                best[case] = min(row["error"], best.get(case, row["error"]))
        falls = {
            count: [
                best[regime, separation, 1] / error
                for (regime, separation, steps), error in best.items()
                if steps == count
            ]
            for count in counts
        }
        told = (f"{times(float(np.median(falls[count])))} at K = {count}" for count in counts)
        parts.append(f"{rule} {', '.join(told)}")
    return (
        "The best plan found for K steps errs less than for one by (median over mixtures): "
        f"{'; '.join(parts)}."
    )


def larger_sentence(record: Record) -> str:
    """Order and place with more teacher steps than all plans can be tried for."""
    cases: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in record["tables"]["strategies"]:
        case = row["regime"], row["separation"], row["merge_rule"], row["student_steps"]
        cases.setdefault(case, {})[row["plan"]] = row["error"]
    single = {
        case: max(errors[name] for name in STRATEGIES) / min(errors[name] for name in STRATEGIES)
        for case, errors in cases.items()
        if case[-1] == 1
    }
    regime, separation, *_ = max(single, key=lambda case: single[case])
    more = [errors for case, errors in cases.items() if case[-1] > 1]
    least = [min(errors[name] for name in STRATEGIES) for errors in more]
    orders = [max(e[name] for name in STRATEGIES) / low for e, low in zip(more, least, strict=True)]
    places = [low / e["interval DP"] for e, low in zip(more, least, strict=True)]
    return (
        f"T = {record['settings']['num_steps']}: the worst strategy's error over the best's is "
        f"{_spread(list(single.values()))} at one step, most for {regime} components at "
        f"±{separation:g}, and {_spread(orders)} at more, in equal windows; the best strategy's "
        f"over that of interval DP, which places the handovers, is {_spread(places)}, at least "
        f"{min(places):.2f}."
    )


def _spread(ratios: Sequence[float]) -> str:
    return f"{np.median(ratios):.2f} (median; at most {max(ratios):.3g})"


def signal_sentence(record: Record) -> str:
    """Whether a little signal in the first state lets one-step students leave the family."""
    rows = record["tables"]["signals"]
    signals = sorted({row["signal"] for row in rows})
    floors, errors = (
        {
            signal: float(np.median([r[key] / r["affine"] for r in rows if r["signal"] == signal]))
            for signal in signals
        }
        for key in ("floor", "vanilla")
    )
    weak = signals[1]
    reached = "reaches" if errors[weak] < 0.5 * (1 + floors[weak]) else "does not reach"
    told = "; ".join(
        f"{signal:g}: {percent(floors[signal])} and {percent(errors[signal])}" for signal in signals
    )
    return (
        "With alpha_T > 0 a one-step student can leave the affine family. Vanilla trained to the "
        "end, and as trained, over the nearest affine map (medians), by alpha_T: "
        f"{told}. At {weak:g} training {reached} what the form could fit."
    )


def crossing_sentences(record: Record) -> Iterator[str]:
    """Where BOOT and vanilla change places while two equal components move apart."""
    rows = record["tables"]["distances"]
    for variance in sorted({row["variance"] for row in rows}):
        line = [row for row in rows if row["variance"] == variance]
        lead = line[0]["boot"] < line[0]["vanilla"]
        crossed = [row for row in line if (row["boot"] < row["vanilla"]) != lead]
        leader = "BOOT" if lead else "vanilla"
        if not crossed:
            yield f"λ = {variance:g} of both components: {leader} leads at every separation."
            continue
        at, before = crossed[0]["separation"], line[line.index(crossed[0]) - 1]["separation"]
        yield (
            f"λ = {variance:g} of both components: {leader} leads until the means are "
            f"±{before:.2g} to {at:.2g}, where the whole variance is at most "
            f"{variance + at**2:.2g}; beyond, the other leads by "
            f"{percent(max(abs(row['boot'] / row['vanilla'] - 1) for row in crossed))} at most."
        )


def growth_sentence(record: Record) -> str:
    """How many affine maps the whole composite mixes, and a student would need."""
    whole = [row for row in record["tables"]["composites"] if row["stop"] == 0]
    whole = [row for row in whole if row["start"] == record["settings"]["num_steps"]]
    effective = [row["effective_paths"] for row in whole]
    gates = [row["gates"] for row in whole]
    known = [count for count in gates if count is not None]
    most = "more than were tried" if len(known) < len(gates) else str(max(known))
    return (
        f"The composite of all {record['settings']['num_steps']} steps is a sum of "
        f"{whole[0]['paths']:,.0f} gated affine maps, effectively {min(effective):,.0f} "
        f"to {max(effective):,.0f}; a one-step student with gates placed freely would need "
        f"{min(known, default=0)} to {most} of them for a floor of 1 %."
    )


def gain_sentence(record: Record) -> str:
    """How errors amplify on the way to the data, and over the merges of a plan."""
    rows = [row for row in record["tables"]["composites"] if row["stop"] == 0]
    worst = max(rows, key=lambda row: float(row["largest_gain"]))
    named = [
        row
        for row in record["tables"]["strategies"]
        if row["plan"] in STRATEGIES and row["merges"] > 1
    ]
    factors = [row["error"] / row["local"] for row in named]
    return (
        f"Errors made at z_t grow up to {number(worst['largest_gain'])} times until the data "
        f"({worst['regime']}, ±{worst['separation']:g}, t = {worst['start']}; typically "
        f"{number(worst['gain'])}), where the Gaussian of equal variance has "
        f"{number(worst['gaussian_gain'])}. Over whole plans the error is {number(min(factors))} "
        f"to {number(max(factors))} times the merges' own errors added in squares, median "
        f"{number(float(np.median(factors)))}."
    )


def planner_sentence(record: Record) -> str:
    """How near the planners come to the best of all plans."""
    rows = record["tables"]["best"]
    interval = [regret(row, "interval") for row in rows]
    gaussian = [regret(row, "gaussian") for row in rows if row["student_steps"] > 1]
    found = sum(value <= 1 + _SAME for value in interval)
    return (
        f"Interval DP over measured merges finds the best of all plans in {found} of {len(rows)} "
        f"cases, and errs at most {times(max(interval))} its error; the plan of the theory of one "
        f"Gaussian of equal covariance, {times(float(np.median(gaussian)))} (median) to "
        f"{times(max(gaussian))} at K ≥ 2."
    )


def dimension_sentence(record: Record) -> str:
    """BOOT against vanilla on samples."""
    parts = []
    for row in record["tables"]["dimensions"]:
        if row["plan"] == "boot" and row["student_steps"] <= 2:
            interval = f"{row['ratio']:.4f} ± {row['ratio_half_width']:.4f}"
            parts.append(
                f"{row['mixture']} (d = {row['dimension']}), K = {row['student_steps']}: {interval}"
            )
    return f"In more dimensions, BOOT's error over vanilla's: {'; '.join(parts)}."
