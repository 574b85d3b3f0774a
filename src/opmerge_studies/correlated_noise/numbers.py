"""What the record of the study `correlated-noise` amounts to: ratios, extremes, sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opmerge.page.sentences import number, percent

__all__ = [
    "CASES",
    "PLANNED",
    "SHOWN_CASE",
    "THEORIES",
    "Record",
    "Row",
    "batch_sentence",
    "boot_rows",
    "crossing_sentence",
    "digits_sentence",
    "draw_sentences",
    "half_sentence",
    "law_spread",
    "most_off",
    "near_best",
    "ratio",
    "regrets_tried",
    "rotation_sentence",
    "winner_sentence",
    "worst_comb",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

THEORIES = {"generalised": "generalised", "data_basis": "data basis", "isotropic": "isotropic"}
"""The theories of one scalar per direction, as the page names them."""

PLANNED = {"comb": "planned combs", "named": "best named strategy", **THEORIES}
"""What chose a plan."""

CASES = {"below": "0.8, 0.1", "across": "2, 0.5", "above": "8, 3"}
"""Data variances in the plane."""

SHOWN_CASE = "across"

_CHOSEN = {
    "planned_comb": "planned combs",
    "planned_generalised": "theory for μ",
    "planned_isotropic": "theory for λ",
}


def ratio(row: Row, name: str) -> float:
    """What a theory has for W2, over the true one."""
    return float(row[name] / row["w2"])


def boot_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of sequential BOOT."""
    return [row for row in rows if row["plan"] == "boot"]


def most_off(rows: Sequence[Row], name: str) -> float:
    """The largest factor between a theory's W2 and the true one."""
    return max(max(ratio(row, name), 1 / ratio(row, name)) for row in rows)


def near_best(rows: Sequence[Row]) -> dict[str, int]:
    """At how many pairs a plan is within 1 % of the best of all, by what chose it."""
    return {name: sum(row[name] <= 0.01 for row in rows) for name in PLANNED}


def worst_comb(rows: Sequence[Row]) -> str:
    """The pair at which the planned comb costs most, and what is best there."""
    row = max(rows, key=lambda row: float(row["comb"]))
    if row["comb"] <= 0.01:
        return "The planned combs are within 1 % of the best plan everywhere."
    return (
        f"The planned comb costs most, {percent(row['comb'])} over the best plan, for data "
        f"{CASES[row['case']]} at {row['angle']:g}° and T = {row['num_steps']}: there the best "
        f"plan is {row['plan']}, W2 {number(row['best'])}."
    )


def regrets_tried(
    rows: Sequence[Row], keys: Sequence[str]
) -> Iterator[tuple[Row, dict[str, float]]]:
    """For each problem its first row, and the excess of every plan over the best one tried."""
    problems: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        problems.setdefault(tuple(row[key] for key in keys), []).append(row)
    for tried in problems.values():
        best = min(row["w2"] for row in tried)
        yield tried[0], {row["plan"]: float(row["w2"] / best - 1) for row in tried}


def law_spread(rows: Sequence[Row], step: int) -> float:
    """By what fraction the laws' mean squared errors at a step differ, from fourth moments."""
    values = [row["expected"] for row in rows if row["step"] == step]
    return float(max(values) / min(values) - 1)


def half_sentence(rows: Sequence[Row]) -> str:
    """From which angle on theory in the data's basis sees half of the error."""
    found = [row for row in rows if row["angle"] is not None]
    if not found:
        return "Theory in the data's basis sees more than half of BOOT's error up to 45°."
    off = max(abs(row["angle"] / row["rule"] - 1) for row in found)
    longest = max(row["merge_time"] for row in found)
    least = min(row["angle"] for row in found if row["merge_time"] == longest)
    return (
        "Theory in the data's basis sees half of BOOT's error where sin²θ = ln 2 / (2 s Δς), Δς "
        f"the spread of the noise's variances, to {percent(off)} in the angle; the longer the "
        f"training, the sooner: at s = {longest:g} from {least:.2g}° on."
    )


def draw_sentences(rows: Sequence[Row]) -> Iterator[str]:
    """What becomes of the optima of the scalar theory, one sentence each."""
    names = {
        ("operator-copy", "below"): "BOOT, all μ < 1",
        ("operator-copy", "above"): "Vanilla, all μ > λ*",
        ("denoiser-copy", "below"): "BOOT under denoiser copy, all μ < 1",
        ("denoiser-copy", "above"): "BOOT under denoiser copy, all μ > λ*",
    }
    for (rule, case), name in names.items():
        own = [row for row in rows if (row["merge_rule"], row["case"]) == (rule, case)]
        draws = sum(row["draws"] for row in own)
        yield (
            f"{name}: beaten in {_beaten(own, '', draws)} by W2 and in "
            f"{_beaten(own, '_paired', draws)} by paired error."
        )


def winner_sentence(rows: Sequence[Row]) -> str:
    """Which strategies are best in the plane, and how often theories name the right one."""
    problems: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        problems.setdefault((row["case"], row["angle"]), []).append(row)
    best = {name: [_best(tried, name) for tried in problems.values()] for name in ("w2", *THEORIES)}
    wins = Counter(best["w2"]).most_common()
    right = {
        name: sum(told == true for told, true in zip(best[name], best["w2"], strict=True))
        for name in THEORIES
    }
    return (
        f"Of the named strategies at {len(problems)} pairs in the plane, best by W2 are "
        + ", ".join(f"{name} ({count})" for name, count in wins)
        + "; theory names the right one in "
        + ", ".join(f"{right[name]} ({label})" for name, label in THEORIES.items())
        + "."
    )


def crossing_sentence(rows: Sequence[Row]) -> str:
    """Where BOOT and vanilla cross, in truth and in theory."""
    both = [row for row in rows if row["exact"] is not None]
    if not both:
        return "BOOT and vanilla do not cross at any of the angles."
    ends = [min(row["exact"] for row in both), max(row["exact"] for row in both)]
    known = [row for row in both if row["isotropic"] is not None]
    text = f"BOOT and vanilla cross at data scales λ from {ends[0]:.3g} to {ends[1]:.3g}"
    if not known:
        return f"{text}; isotropic theory has no crossing."
    return f"{text}, by angle; isotropic theory has {known[0]['isotropic']:.3g} at every angle."


def rotation_sentence(rows: Sequence[Row]) -> str:
    """How far theories and choices are off in many dimensions."""
    widest = max(row["angle"] for row in rows)
    turned = boot_rows([row for row in rows if row["angle"] == widest])
    levels = ", ".join(
        f"{label} {number(min(ratio(r, name) for r in turned))} to "
        f"{number(max(ratio(r, name) for r in turned))}"
        for name, label in THEORIES.items()
    )
    return (
        f"Random rotations by {widest:g}°: theory's W2 of BOOT over the true one: {levels}. "
        f"{_choice_clause(rows, ('seed', 'angle'))}"
    )


def digits_sentence(rows: Sequence[Row]) -> str:
    """The same of digits."""
    last = boot_rows(rows)[-1]
    return (
        f"Digits at ρ = {last['correlation']:g}: BOOT's W2 is {number(last['w2'])}; theory says "
        + ", ".join(f"{number(last[name])} ({label})" for name, label in THEORIES.items())
        + f". {_choice_clause(rows, ('correlation',))}"
    )


def batch_sentence(rows: Sequence[Row]) -> str:
    """What fourth moments do, exactly and in simulation."""
    off = max(abs(row["measured"] - row["expected"]) / row["standard_error"] for row in rows)
    first, last = (pick(row["step"] for row in rows) for pick in (min, max))
    return (
        "The law enters through fourth moments, which change what batches add to the mean squared "
        f"error by {percent(law_spread(rows, first))} at step {first} and by "
        f"{percent(law_spread(rows, last))} at T, where the input is noise alone: plans that train "
        f"at T alone do not see it. {len(rows)} simulated means lie within {off:.2g} standard "
        "errors of the exact ones."
    )


def _best(rows: Sequence[Row], key: str) -> str:
    return str(min(rows, key=lambda row: float(row[key]))["plan"])


def _beaten(rows: Sequence[Row], suffix: str, draws: int) -> str:
    count = sum(row[f"beaten{suffix}"] for row in rows)
    largest = max(row[f"largest_ratio{suffix}"] for row in rows)
    told = f"{count} of {draws} draws"
    return f"{told} (by up to {percent(largest - 1)})" if count else told


def _choice_clause(rows: Sequence[Row], keys: Sequence[str]) -> str:
    worst: dict[str, float] = dict.fromkeys(_CHOSEN, 0.0)
    for _, regrets in regrets_tried(rows, keys):
        worst = {name: max(worst[name], regrets[name]) for name in _CHOSEN}
    told = ", ".join(f"{percent(worst[name])} ({label})" for name, label in _CHOSEN.items())
    return f"Chosen plans cost at most {told} more than the best plan tried."
