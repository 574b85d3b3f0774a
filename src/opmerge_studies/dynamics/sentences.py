"""What the study `dynamics` found, in sentences, and the numbers that they rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from opmerge.page.sentences import percent

__all__ = [
    "PROMISED",
    "chance_bound",
    "deviations",
    "evidence",
    "finding",
    "fits_of",
    "is_within_chance",
    "largest_difference",
    "worst_by_rate",
]

Record = Mapping[str, Any]
Row = Mapping[str, Any]

PROMISED = 1e-10
"""Relative difference that counts as agreement of programs without chance."""

_CHANCE = 0.01  # with which the largest of all deviations may lie beyond its bound by chance
_NOTICED = 0.1  # difference of an error from which it is named
_GOOD_FIT = 0.95  # R² from which a time describes an optimiser


def finding(record: Record) -> str:
    """Where the closed form holds, and what Adam does instead."""
    exact = {name: largest_difference(record, name) for name in ("flow", "descent")}
    ends, merges = deviations(record, "ends"), deviations(record, "merges")
    agrees = max(exact.values()) < PROMISED and is_within_chance(ends) and is_within_chance(merges)
    say = _yes_sentence if agrees else _no_sentence
    return f"{say(exact, ends, merges)} {_adam_sentence(record)}"


def evidence(record: Record) -> Iterator[str]:
    """A sentence for each way of training."""
    yield _merge_sentence(record)
    yield _sgd_sentence(record)
    yield _noise_sentence(record)
    yield _dense_sentence(record)
    yield _step_sentence(record)
    yield from _fit_sentences(record)


def largest_difference(record: Record, optimiser: str) -> float:
    """Largest relative difference of whole students."""
    rows = [row for row in record["tables"]["ends"] if row["optimiser"] == optimiser]
    return max(float(row["difference"]) for row in rows)


def deviations(record: Record, table: str) -> list[float]:
    """Of SGD's mean from the closed form, in standard errors."""
    return [row["deviation"] for row in record["tables"][table] if row["optimiser"] == "sgd"]


def chance_bound(count: int) -> float:
    """What the largest of so many normal deviations exceeds with probability 1 %."""
    return NormalDist().inv_cdf(1.0 - 0.5 * _CHANCE / count)


def is_within_chance(deviations: Sequence[float]) -> bool:
    """Whether the largest deviation is no larger than chance makes it."""
    return float(np.abs(deviations).max()) < chance_bound(len(deviations))


def fits_of(record: Record, optimiser: str) -> list[Row]:
    """The fitted times of one optimiser, a row for each of its settings."""
    return [row for row in record["tables"]["fits"] if row["optimiser"] == optimiser]


def worst_by_rate(record: Record) -> dict[float, float]:
    """Largest difference between descent and flow at each step size, ascending."""
    worst: dict[float, float] = {}
    for row in record["tables"]["step_sizes"]:
        rate = float(row["learning_rate"])
        worst[rate] = max(worst.get(rate, 0.0), float(row["difference"]))
    return dict(sorted(worst.items()))


def _yes_sentence(
    exact: Mapping[str, float], ends: Sequence[float], merges: Sequence[float]
) -> str:
    return (
        f"Trained students end where the closed form says: full-batch descent within "
        f"{exact['descent']:.0e}, an ODE solver within {exact['flow']:.0e}, and the mean of SGD "
        f"within {np.abs([*ends, *merges]).max():.1f} standard errors over "
        f"{len(ends)} students and {len(merges)} merges."
    )


def _no_sentence(exact: Mapping[str, float], ends: Sequence[float], merges: Sequence[float]) -> str:
    return (
        f"Trained students do not all end where the closed form says: descent differs by up to "
        f"{exact['descent']:.1e}, the ODE solver by {exact['flow']:.1e} ({PROMISED:.0e} was "
        f"promised), SGD by {np.abs([*ends, *merges]).max():.1f} standard errors where chance "
        f"allows {chance_bound(len(ends) + len(merges)):.1f}."
    )


def _adam_sentence(record: Record) -> str:
    fits = [row for row in fits_of(record, "adam") if row["r_squared"] is not None]
    if not fits:
        return "Adam left no error to which a time could be fitted."
    best = max(fits, key=lambda row: float(row["r_squared"]))
    middle = [row["median_factor"] for row in fits if row["median_factor"] is not None]
    explains = (
        f"the best single s explains {percent(best['r_squared'])} of the variation in what its "
        "merges learn"
        if best["r_squared"] > 0
        else f"the best single s fits its merges worse than a constant (R² = "
        f"{best['r_squared']:.2f})"
    )
    off = f"misses errors by factors of {min(middle):.2g} to {max(middle):.2g} in the median"
    if best["r_squared"] >= _GOOD_FIT:
        return f"Adam has a time too: {explains}, and {off}."
    return f"Adam has no such time: {explains} and {off}."


def _merge_sentence(record: Record) -> str:
    rows = [row for row in record["tables"]["merges"] if row["optimiser"] in ("flow", "descent")]
    worst = max(float(row["difference"]) for row in rows)
    return (
        f"Merge by merge, a weight trained by flow or descent ends within {worst:.1e} of its "
        f"target, relative to it, of where the closed form puts it ({len(rows)} merges and λ)."
    )


def _sgd_sentence(record: Record) -> str:
    ends, merges = deviations(record, "ends"), deviations(record, "merges")
    spread = [row["noise"] for row in record["tables"]["ends"] if row["optimiser"] == "sgd"]
    return (
        f"SGD: {percent(float(np.mean(np.abs(ends) < 2)))} of whole students and "
        f"{percent(float(np.mean(np.abs(merges) < 2)))} of merges deviate by less than 2 standard "
        "errors (chance: 95 %); their spread over runs is "
        f"{min(spread):.2f} to {max(spread):.2f} of the predicted one."
    )


def _noise_sentence(record: Record) -> str:
    rows = [row for row in record["tables"]["ends"] if row["optimiser"] == "sgd"]
    sizes = sorted({row["batch_size"] for row in rows})
    parts = [
        f"{percent(max(_added(row) for row in rows if row['batch_size'] == size))} at {size}"
        for size in sizes
    ]
    return (
        "What minibatches add to the root mean square error of a whole student, at most, by batch "
        f"size: {', '.join(parts)}. The variance of a retention is (1 + 8 η²n²/(B (1 - 2ηn)²))^N "
        "- 1 of its square."
    )


def _added(row: Row) -> float:
    return float(row["closed_form_sgd"] / row["closed_form"] - 1.0)


def _dense_sentence(record: Record) -> str:
    rows = record["tables"]["dense"]
    if not rows:
        return "No full matrices were trained."
    smallest = min(rows, key=lambda row: int(row["batch_size"]))
    worst = max(abs(row["deviation"]) for row in rows)
    return (
        f"A full matrix feels more noise than one weight a coordinate: at batch size "
        f"{smallest['batch_size']} its error is {smallest['measured']:.3f} times the closed form's "
        f"(theory {smallest['theory']:.3f}; one weight each {smallest['diagonal']:.3f}). Over all "
        f"batch sizes theory is met within {worst:.1f} standard errors."
    )


def _step_sentence(record: Record) -> str:
    by_rate = worst_by_rate(record)
    noticed = [rate for rate, worst in by_rate.items() if worst > _NOTICED]
    where = (
        f"from η = {min(noticed):g} on flow's closed form is off by more than {percent(_NOTICED)}"
        if noticed
        else f"flow's closed form is nowhere off by more than {percent(_NOTICED)}"
    )
    parts = ", ".join(f"{percent(worst)} at {rate:g}" for rate, worst in by_rate.items())
    return f"Step size: {where} ({parts}); descent's own closed form has no such limit."


def _fit_sentences(record: Record) -> Iterator[str]:
    for name, called in (("descent", "descent"), ("sgd", "SGD")):
        rows = fits_of(record, name)
        yield (
            f"Control: a time fitted to {called} is "
            + ", ".join(
                f"{row['fitted_time']:.3f}" for row in rows if row["fitted_time"] is not None
            )
            + " where η N is "
            + ", ".join(f"{row['learning_rate'] * row['num_iterations']:g}" for row in rows)
            + f", with R² ≥ {min(row['r_squared'] for row in rows):.4f}."
        )
    rows = [row for row in fits_of(record, "adam") if row["merges"]]
    if rows:
        exponents = [row["exponent"] for row in rows]
        signs = max(row["sign_changes"] for row in rows)
        right, contests = (sum(row[key] for row in rows) for key in ("best_foretold", "contests"))
        yield (
            f"Adam's learning grows as n to the power {min(exponents):.2f} to {max(exponents):.2f} "
            "rather than 1, because it divides by the size of the gradient; up to "
            f"{percent(signs)} of its merges overshoot their target, which no retention from 0 "
            f"to 1 describes. The theory with Adam's fitted time names its best strategy in "
            f"{right} of {contests} cases."
        )
