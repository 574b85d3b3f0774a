"""The page of the study `real-networks`: predicted beside measured errors of merge plans."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from opmerge.page.layout import Picture, Section, Table, draw_section, make_table
from opmerge.page.sentences import number, percent
from opmerge.page.study import Answer
from opmerge.plans.drawing import plan_from_merges
from opmerge.plans.outline import plan_phrase
from opmerge_studies.real_networks.agreement_figures import (
    agreement_figure,
    cost_figure,
    pareto_set,
    plan_directions_figure,
)
from opmerge_studies.real_networks.agreement_sentences import (
    FACTOR,
    KINDS,
    calibrated_factor,
    canonical_agreement,
    disagreements,
    factor_sentence,
    finding,
    is_planned,
    listed,
    pairs_in_order,
    planned_kinds,
    start_ratio,
    strategy,
)

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]
Entry = Mapping[str, Any]

EVALUATIONS = "million network evaluations"

_LEFT = ("left", "predicted")  # of a probe's deviation: measured, and by the fitted model
_COEFFICIENTS = {"spearman": "Spearman's ρ", "kendall": "Kendall's τ"}
_PLANNERS = {"spectrum": "planner's", "calibrated": "calibrated planner's"}
_NETWORKS = {"mlp": "a perceptron", "unet": "a UNet"}


def answer(record: Record) -> Answer:
    """The finding, and what was trained."""
    return Answer(finding(record), _setting(record))


def _setting(record: Record) -> str:
    """What was trained, in a line."""
    settings, problem = record["settings"], record["problem"]
    network = _NETWORKS.get(settings["teacher"].get("network"), "a loaded network")
    iterations = settings["distillation"]["num_iterations"]
    return (
        f"{problem['source']}, {network}, T = {problem['steps']}, {iterations} iterations a merge, "
        f"{len(record['plans'])} plans, {_counted_seeds(record)}"
    )


def _counted_seeds(record: Record) -> str:
    count = len(record["seeds"])
    return f"{count} seed{'s' if count > 1 else ''}"


def facts(record: Record) -> list[tuple[str, str]]:
    """The coefficients of agreement, and what they rest on."""
    found = [
        (
            f"{name}, {KINDS[kind]}; 95 % over plans: {_told_interval(agreement[key])}",
            f"{agreement[key]['of_means']:.2f}",
        )
        for kind, agreement in record["agreement"].items()
        for key, name in _COEFFICIENTS.items()
    ]
    p_value = record["agreement"]["spectrum"]["p_value"]
    found.append(("that a random order agrees as well", f"p = {number(p_value)}"))
    found.append(("plans, each with", f"{len(record['plans'])} × {_counted_seeds(record)}"))
    return found


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    plans = record["plans"]
    for kind in record["agreement"]:
        yield _agreement_section(record, kind)
    yield Section(
        "Every plan",
        "Errors are root mean squares of student minus teacher, from equal noise."
        + _notes_on_plans(plans),
        table=_plan_table(record),
        is_wide=True,
    )
    yield _disagreements(record)
    yield from _cause_sections(record)
    yield _directions_section(record)
    yield from _cost_sections(plans)
    if record["pictures"]["teacher"] is not None:
        yield Section(
            "Samples",
            f"Each column starts from the same noise; students of seed {record['seeds'][0]}.",
            pictures=[
                Picture("teacher", record["pictures"]["teacher"]),
                *(Picture(entry["label"], entry["picture"]) for entry in _by_error(plans)),
            ],
        )


def _by_error(plans: Sequence[Entry]) -> list[Entry]:
    return sorted(plans, key=lambda entry: float(entry["measured"]["mean"]))


def _agreement_section(record: Record, kind: str) -> Section:
    plans = record["plans"]
    in_order, pairs = pairs_in_order(plans, kind)
    bars = "Bars: the range over seeds." if len(record["seeds"]) > 1 else "Bars: 95 % intervals."
    if any(is_planned(entry, kind) for entry in plans):
        bars += " Orange: the plan that the planner finds from this prediction."
    if kind == "spectrum":
        within = None
        title = f"From the spectrum alone, {in_order} of {pairs} pairs of plans are in order"
        caption = (
            "Predicted with the default training model; its absolute size presumes linear "
            f"students, so only the order is meant. {bars}"
        )
    else:
        within = FACTOR
        title = factor_sentence(plans)[:-1]
        caption = (
            "Predicted with a training model fitted to short probe merges of the same teacher, "
            f"with seeds of their own. Dashed: equal; grey: within a factor {FACTOR}. {bars}"
        )
    return draw_section(
        f"Predicted from {KINDS[kind]}",
        caption,
        lambda: agreement_figure(plans, kind, title, within),
        _agreement_table(record, kind),
    )


def _agreement_table(record: Record, kind: str) -> Table:
    """Both coefficients over all plans, and beside them over the canonical ones."""
    groups, columns = [record["agreement"][kind]], list(_COEFFICIENTS.values())
    note = (
        "Seeds tell how far training moves the coefficients of these plans. Intervals are those "
        "of plans drawn at random (Bonett & Wright 2000), which these are not; there is none (–) "
        "for 3 plans (τ: 4) or fewer, and for ±1. p: one-sided, of a random order of these plans."
    )
    canonical = canonical_agreement(record, kind)
    if canonical is not None:
        groups.append(canonical)
        columns += [f"{name}, canonical" for name in ("ρ", "τ")]
        note += f" Canonical: {listed(canonical['plans'])}."
    found = [group[key] for group in groups for key in _COEFFICIENTS]
    p_values = [group.get(key) for group in groups for key in ("p_value", "kendall_p_value")]
    rows = [
        *(
            [f"{seed}", *(f"{each['per_seed'][place]:.3f}" for each in found)]
            for place, seed in enumerate(record["seeds"])
        ),
        ["mean errors", *(f"{each['of_means']:.3f}" for each in found)],
        ["95 % interval", *(_told_interval(each) for each in found)],
        ["p", *("–" if value is None else number(value) for value in p_values)],
    ]
    return make_table("Agreement of the orders", ["seed", *columns], rows, note)


def _told_interval(coefficient: Mapping[str, Any]) -> str:
    """``0.23 … 0.97``, or a dash where there is none."""
    ends = coefficient.get("interval")
    return "–" if ends is None else " … ".join(f"{end:.2f}" for end in ends)


def _notes_on_plans(plans: Sequence[Entry]) -> str:
    notes = [
        f"{listed([entry['name'], *entry['aliases']])} are the same plan, counted once"
        for entry in plans
        if entry["aliases"]
    ]
    notes += [
        f"the {_planner(e)} plan: {plan_phrase(plan_from_merges(e['merge_list'], e['boundaries']))}"
        for e in plans
        if planned_kinds(e)
    ]
    return "".join(f" {note[0].upper()}{note[1:]}." for note in notes)


def _planner(entry: Entry) -> str:
    """``planner's``, ``calibrated planner's`` or both, by what its plan was found from."""
    return " and ".join(_PLANNERS[kind] for kind in planned_kinds(entry))


def _plan_table(record: Record) -> Table:
    kinds = list(record["predictions"])
    rows = []
    for entry in _by_error(record["plans"]):
        measured = entry["measured"]
        rows.append(
            [
                _row_head(entry),
                f"{measured['mean']:.4g}",
                f"{measured['low']:.4g} … {measured['high']:.4g}",
                f"{_sampling_error(entry):.2g}",
                *(number(entry["predicted"][kind]["error"]) for kind in kinds),
                *([f"{calibrated_factor(entry):.2f}"] if "calibrated" in kinds else []),
                f"{entry['merges']}",
                number(_evaluations(entry)),
                _told_seconds(_seconds(entry)),
            ]
        )
    columns = [
        "plan",
        "measured",
        "range",
        "± of samples",
        *(f"from {kind}" if kind == "spectrum" else kind for kind in kinds),
        *(["ratio"] if "calibrated" in kinds else []),
        "merges",
        "evaluations",
        "seconds",
    ]
    note = (
        "Range: over seeds, or the 95 % interval of a single one. ± of samples: half the 95 % "
        f"interval of one measurement. Training: {EVALUATIONS}, and seconds of the fastest seed."
    )
    table = make_table("Measured and predicted errors, and cost of training", columns, rows, note)
    return replace(table, is_open=True)


def _row_head(entry: Entry) -> str:
    kinds = planned_kinds(entry) if strategy(entry) else []
    return ", ".join([entry["label"], *(_PLANNERS[kind] for kind in kinds[:1])])


def _sampling_error(entry: Entry) -> float:
    """Half the 95 % interval over evaluation samples, the mean of all seeds'."""
    measured = [seed["measured"]["paired_rms"] for seed in entry["per_seed"]]
    return float(np.mean([(each["high"] - each["low"]) / 2 for each in measured]))


def _evaluations(entry: Entry) -> float:
    return float(entry["per_seed"][0]["network_evaluations"]) / 1e6


def _seconds(entry: Entry) -> float | None:
    """Of the seed that was fastest: the one that other work on the machine disturbed least."""
    whole = [seed["seconds"] for seed in entry["per_seed"] if seed["seconds"] is not None]
    return min(whole, default=None)


def _told_seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.3g}"


def _cost_sections(plans: Sequence[Entry]) -> Iterator[Section]:
    yield _cost_section(EVALUATIONS, [(entry, _evaluations(entry)) for entry in plans])
    timed = [(entry, seconds) for entry in plans if (seconds := _seconds(entry)) is not None]
    if timed:
        yield _cost_section("seconds", timed)


def _cost_section(name: str, pairs: Sequence[tuple[Entry, float]]) -> Section:
    entries, cost = [entry for entry, _ in pairs], [value for _, value in pairs]
    means = np.array([entry["measured"]["mean"] for entry in entries])
    front = pareto_set(np.array(cost), means)
    labels = [entry["label"] for place, entry in enumerate(entries) if place in front]
    title = (
        f"{len(labels)} of {len(entries)} plans are beaten by none in both cost and error: "
        f"{', '.join(labels)}"
    )
    return draw_section(
        f"Cost in {name}",
        "Orange, dashed: plans that no other beats in both.",
        lambda: cost_figure(entries, cost, f"{name} of training", title),
    )


def _directions_section(record: Record) -> Section:
    spectrum = record["spectrum"]
    eigenvalues, counts = (np.array(spectrum[key]) for key in ("eigenvalues", "multiplicities"))
    shown = eigenvalues > 1e-12 * eigenvalues[0]
    kind = "calibrated" if "calibrated" in record["predictions"] else "spectrum"
    ordered = _by_error(record["plans"])
    curves = {}
    for entry in (ordered[0], ordered[-1]):
        measured = np.mean([seed["measured"]["errors"] for seed in entry["per_seed"]], axis=0)
        predicted = np.array(entry["predicted"][kind]["errors"])
        curves[entry["label"]] = tuple(
            np.sqrt(values / counts)[shown] for values in (predicted, measured)
        )
    best, worst = curves
    largest = {name: eigenvalues[shown][np.argmax(curves[name][1])] for name in curves}
    title = (
        f"{best} errs most at λ = {number(largest[best])}, {worst} at λ = {number(largest[worst])}"
    )
    return draw_section(
        "Error per eigen-direction",
        f"The plans with the smallest and the largest measured error. Lines: predicted from "
        f"{KINDS[kind]}, without the error that training adds; markers: measured.",
        lambda: plan_directions_figure(eigenvalues[shown], curves, title),
    )


def _disagreements(record: Record) -> Section:
    return Section(
        "What does not agree",
        "Pairs of plans that every seed measures in the opposite order (in brackets: error "
        f"predicted → measured), calibrated errors off by more than a factor {FACTOR}, and tests "
        "of causes.",
        items=disagreements(record),
    )


def _linearity_table(record: Record) -> Table:
    linearity = record["linearity"]
    keys = ("steps", "spectral", "affine", "signal")
    rows = [
        [f"{step}", f"{spectral:.3f}", f"{affine:.3f}", percent(signal)]
        for step, spectral, affine, signal in zip(*(linearity[key] for key in keys), strict=True)
    ]
    table = make_table(
        "How much of the teacher's denoiser is linear",
        ["step", "R², theory", "R², affine", "var x̂ / var data"],
        rows,
    )
    return replace(table, is_open=True)


def _probe_table(calibration: Mapping[str, Any]) -> Table:
    rows = []
    for probe in calibration["probes"]:
        settings, before = probe["settings"], math.sqrt(sum(probe["before"]))
        measured, fitted = (math.sqrt(probe[key]) / before for key in _LEFT)
        rows.append(
            [
                f"{settings['start']} → {settings['stop']}",
                f"{settings['num_iterations']}",
                number(before),
                f"{1 / start_ratio(probe):.2f}",
                percent(measured),
                percent(fitted),
            ]
        )
    columns = ["merge", "iterations", "at the start", "theory / measured", "left", "left, fitted"]
    return make_table(
        "Probe merges: root mean square deviation of x̂ from its target",
        columns,
        rows,
        f"Residual of the fit, in the logarithm of squared errors: "
        f"{number(calibration['residual'])}.",
    )


def _cause_sections(record: Record) -> Iterator[Section]:
    yield Section(
        "How linear the teacher is",
        "The theory takes the teacher's denoiser for the best linear one. R²: what that explains "
        "of it, and what the best affine map of the same samples does, on samples held out.",
        table=_linearity_table(record),
    )
    if record["calibration"] is not None:
        yield Section(
            "Single merges",
            "Probes by which the training model was fitted, before any plan was trained.",
            table=_probe_table(record["calibration"]),
        )
