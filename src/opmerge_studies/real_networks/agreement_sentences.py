"""What the study `real-networks` found, in sentences: the answer, and what does not agree."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from opmerge.page.sentences import number, percent

__all__ = [
    "FACTOR",
    "KINDS",
    "calibrated_factor",
    "canonical_agreement",
    "disagreements",
    "factor_sentence",
    "finding",
    "is_planned",
    "listed",
    "pairs_in_order",
    "planned_kinds",
    "start_ratio",
    "strategy",
]

Record = Mapping[str, Any]
Entry = Mapping[str, Any]

FACTOR = 1.5
"""How far a calibrated prediction may be from the measured error."""

KINDS = {"spectrum": "the spectrum alone", "calibrated": "the calibrated training model"}
"""What plans are predicted from."""

_PLANNED = {"spectrum": "best", "calibrated": "best-calibrated"}  # names of the planner's plans

_CHANCE = 0.05
_SIGNAL = 0.1  # of the data's variance; a denoiser that says less than this is hardly tested


def finding(record: Record) -> str:
    """The finding in a few sentences, with what failed."""
    parts = [_agreement_sentence(record, kind) for kind in record["agreement"]]
    parts += _choice_sentences(record)
    if "calibrated" in record["predictions"]:
        parts.append(factor_sentence(record["plans"]))
    return " ".join(parts)


def _agreement_sentence(record: Record, kind: str) -> str:
    agreement, canonical = record["agreement"][kind], canonical_agreement(record, kind)
    over = ""
    if canonical is not None:
        over = f" (canonical plans: {_coefficient(canonical['spearman'])})"
    chance = ", which chance may give as well" if agreement["p_value"] > _CHANCE else ""
    rho = f"ρ = {_coefficient(agreement['spearman'])}{over}{chance}"
    wrong, pairs = len(agreement["reversed"]), math.comb(len(record["plans"]), 2)
    if kind == "spectrum":
        return (
            f"From {KINDS[kind]}, the order of plans is predicted at Spearman's {rho}; "
            f"reversed {_extent(record)}: {wrong} of {pairs} pairs."
        )
    return f"From {KINDS[kind]}, {rho}; reversed: {wrong} of {pairs} pairs."


def canonical_agreement(record: Record, kind: str) -> Mapping[str, Any] | None:
    """The agreement over the canonical plans, where there are others besides."""
    found: Mapping[str, Any] | None = record["agreement"][kind].get("canonical")
    return None if found is None or len(found["plans"]) == len(record["plans"]) else found


def _coefficient(found: Mapping[str, Any]) -> str:
    """``0.83 … 0.88``, the range over seeds, or the value."""
    low, high = (f"{end(found['per_seed']):.2f}" for end in (min, max))
    return low if low == high else f"{low} … {high}"


def is_planned(entry: Entry, kind: str) -> bool:
    """Whether the planner found this plan from that prediction."""
    return _PLANNED[kind] in (entry["name"], *entry["aliases"])


def planned_kinds(entry: Entry) -> list[str]:
    """The predictions from which the planner found this plan."""
    return [kind for kind in _PLANNED if is_planned(entry, kind)]


def strategy(entry: Entry) -> str:
    """The first name of a plan that is not the planner's for it, or nothing."""
    names = (entry["name"], *entry["aliases"])
    return next((name for name in names if name not in _PLANNED.values()), "")


def _choice_sentences(record: Record) -> Iterator[str]:
    """How good the planner's own plans were measured to be."""
    for entry in record["plans"]:
        kinds = planned_kinds(entry)
        if not kinds:
            continue
        planner = "planner's plan" if "spectrum" in kinds else "calibrated planner's plan"
        name = f" ({strategy(entry)})" if strategy(entry) else ""
        both = ", from either prediction," if len(kinds) > 1 else ""
        yield f"The {planner}{name}{both} is {_place(entry, record['plans'])}."


def _place(entry: Entry, plans: Sequence[Entry]) -> str:
    """``the best measured``, or its place, and how far it is behind the best."""
    best, *_ = ordered = sorted(plans, key=lambda other: float(other["measured"]["mean"]))
    place = ordered.index(entry) + 1
    if place == 1:
        return "the best measured"
    behind = percent(entry["measured"]["mean"] / best["measured"]["mean"] - 1)
    apart = entry["measured"]["low"] > best["measured"]["high"]
    unsure = "" if apart else ", in ranges that overlap"
    return f"number {place} of {len(plans)} measured, {behind} behind {best['label']}{unsure}"


def factor_sentence(plans: Sequence[Entry]) -> str:
    """How many calibrated predictions are within ``FACTOR``, and which are not."""
    outside = [
        entry["label"] for entry in plans if not 1 / FACTOR <= calibrated_factor(entry) <= FACTOR
    ]
    inside = f"{len(plans) - len(outside)} of {len(plans)}" if outside else f"All {len(plans)}"
    but = f" (not {', '.join(outside)})" if outside else ""
    return f"{inside} calibrated errors are within a factor {FACTOR} of the measured ones{but}."


def calibrated_factor(entry: Entry) -> float:
    """Predicted over measured error, of the calibrated prediction."""
    return float(entry["predicted"]["calibrated"]["error"] / entry["measured"]["mean"])


def pairs_in_order(plans: Sequence[Entry], kind: str) -> tuple[int, int]:
    """Pairs of plans whose mean errors are measured in the predicted order, and all pairs."""
    errors = [(entry["predicted"][kind]["error"], entry["measured"]["mean"]) for entry in plans]
    pairs = list(combinations(errors, 2))
    return sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs), len(pairs)


def _extent(record: Record) -> str:
    """How surely a pair is reversed that is called so."""
    return "in every seed" if len(record["seeds"]) > 1 else "beyond the error of the measurement"


def disagreements(record: Record) -> list[str]:
    """What does not agree, and the tests of likely causes, a sentence each."""
    return [
        *(item for kind in record["agreement"] for item in _reversed_items(record, kind)),
        *_factor_items(record),
        *_size_items(record),
        *_cause_items(record),
    ]


def _reversed_items(record: Record, kind: str) -> Iterator[str]:
    by_label = {entry["label"]: entry for entry in record["plans"]}
    worse_than: dict[str, list[str]] = {}
    for better, worse in record["agreement"][kind]["reversed"]:
        worse_than.setdefault(better, []).append(worse)
    for better, others in worse_than.items():
        told = [f"{label} ({_pair_of_errors(by_label[label], kind)})" for label in others]
        yield (
            f"From {KINDS[kind]}, {better} ({_pair_of_errors(by_label[better], kind)}) is "
            f"predicted better and measured worse, {_extent(record)}, than {listed(told)}."
        )
    if not worse_than:
        yield f"From {KINDS[kind]}, no pair is reversed {_extent(record)}."


def _pair_of_errors(entry: Entry, kind: str) -> str:
    predicted = entry["predicted"][kind]["error"]
    return f"{number(predicted)} → {number(entry['measured']['mean'])}"


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _factor_items(record: Record) -> Iterator[str]:
    if "calibrated" not in record["predictions"]:
        return
    for entry in record["plans"]:
        factor = calibrated_factor(entry)
        if not 1 / FACTOR <= factor <= FACTOR:
            off = "too low" if factor < 1 else "too high"
            yield (
                f"{entry['label']}: the calibrated error "
                f"{number(entry['predicted']['calibrated']['error'])} is {off} by a factor "
                f"{max(factor, 1 / factor):.2f}; {number(entry['measured']['mean'])} is measured."
            )


def _size_items(record: Record) -> Iterator[str]:
    ratios = [
        entry["measured"]["mean"] / entry["predicted"]["spectrum"]["error"]
        for entry in record["plans"]
    ]
    yield (
        "The size of the errors from the spectrum alone is not meant: it presumes linear students. "
        f"Measured ones are {number(min(ratios))} to {number(max(ratios))} times as large."
    )


def _cause_items(record: Record) -> Iterator[str]:
    linearity = record["linearity"]
    keys = ("spectral", "affine", "steps", "signal")
    rows = [row for row in zip(*(linearity[key] for key in keys), strict=True) if row[3] > _SIGNAL]
    for spectral, affine, step, _ in sorted(rows)[:1]:
        yield (
            f"Tested: how linear the teacher is. At step {step}, where it is least so, the "
            f"theory's denoiser explains {percent(spectral)} of the network's, and the best affine "
            f"map {percent(affine)} (R²)."
        )
    if record["calibration"] is None:
        yield "Where students start and how fast they learn was not tested: no calibration."
        return
    yield from _training_items(record)
    starts = [start_ratio(probe) for probe in record["calibration"]["probes"]]
    yield (
        "Tested: where students start. Untrained ones are "
        f"{_range(starts)} times as far from their target as the linear theory says."
    )
    for probe in _longest_and_shortest(record["calibration"]["probes"]):
        settings = probe["settings"]
        measured, fitted = (
            math.sqrt(probe[key] / sum(probe["before"])) for key in ("left", "predicted")
        )
        yield (
            f"Tested: how much training leaves. Of the deviation of the single merge "
            f"{settings['start']} → {settings['stop']}, {settings['num_iterations']} iterations "
            f"leave {percent(measured)}; the fitted training model says {percent(fitted)}."
        )
    yield from (f"Calibration: {note}." for note in record["calibration"]["notes"])


def _training_items(record: Record) -> Iterator[str]:
    """Whether the reversed pairs are the fault of the training model presumed."""
    by_label = {entry["label"]: entry["predicted"]["calibrated"] for entry in record["plans"]}
    wrong = record["agreement"]["spectrum"]["reversed"]
    if wrong:
        mended = sum(by_label[a]["error"] > by_label[b]["error"] for a, b in wrong)
        yield (
            f"Tested: the training model. Of {len(wrong)} pair{'s' if len(wrong) > 1 else ''} "
            f"reversed from {KINDS['spectrum']}, the calibrated one puts {mended} right."
        )


def start_ratio(probe: Mapping[str, Any]) -> float:
    """Measured over predicted deviation of an untrained student."""
    return math.sqrt(sum(probe["before"]) / probe["expected"])


def _longest_and_shortest(probes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of the probes with the most iterations."""

    def length(probe: Mapping[str, Any]) -> int:
        return int(probe["settings"]["start"] - probe["settings"]["stop"])

    most = max(probe["settings"]["num_iterations"] for probe in probes)
    full = [probe for probe in probes if probe["settings"]["num_iterations"] == most]
    return [max(full, key=length), min(full, key=length)]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"
