"""The page of the study `mixture`: merge plans where the data are several Gaussians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from opmerge.page import mixture_figures as figures
from opmerge.page import mixture_sentences as sentences
from opmerge.page.layout import Section, draw_section
from opmerge.page.sentences import percent, times
from opmerge.page.study import Answer
from opmerge_studies.mixture.tables import (
    above,
    best_table,
    composite_table,
    dimension_table,
    merge_table,
    more_steps,
    one_step,
    order,
    place,
    regret,
    signal_table,
    strategy_table,
    traced,
)

__all__ = ["answer", "facts", "sections"]

Record = Mapping[str, Any]

_SMALL = 0.05  # an error that a plan may lie above the bound before order matters


def answer(record: Record) -> Answer:
    """What is left of the theory of one Gaussian."""
    return Answer(
        finding=_finding(record),
        evidence=(
            sentences.one_step_sentence(one_step(record)),
            sentences.share_sentence(record),
            *sentences.straddling_sentences(record),
            sentences.larger_sentence(record),
            sentences.few_step_sentence(record),
            sentences.planner_sentence(record),
            *sentences.crossing_sentences(record),
            sentences.signal_sentence(record),
            sentences.growth_sentence(record),
            sentences.gain_sentence(record),
            sentences.dimension_sentence(record),
        ),
        limits=(
            "Students are linear in the data's own responsibilities at the step they read; a "
            "network, or free gates, can bend where these cannot. What gradient flow learns "
            "quickly depends on these features: equal components, which change nothing, slow "
            "it by the sum of their squared weights.",
            "Plain cosine schedule, whose last state is pure noise; two components in one "
            "dimension, diagonal covariances; the same time for every merge.",
            "All plans are tried for a few steps only; for more, interval DP is a heuristic. "
            "Singular values of features below 1e-10 of the largest count as absent.",
            f"Quadrature changes no error by more than {percent(_quadrature(record))} when its "
            "nodes are doubled. In more dimensions the error is of paired samples, which W2 "
            "cannot exceed.",
        ),
        overturned_by=(
            "A one-step student of this form below the affine bound, from pure noise.",
            "A mixture whose two-step students gain more by the order inside equal windows than "
            "by moving the handover.",
            "Trained networks on bimodal data whose order of plans at one step spreads as "
            "widely as theory has it for one Gaussian.",
        ),
    )


def facts(record: Record) -> list[tuple[str, str]]:
    """The spread of plans at one step, and what the handover decides at two."""
    one, two = one_step(record), _two_steps(record)
    return [
        ("best one-step plan above the floor", percent(max(above(r, "best") for r in one))),
        ("vanilla above the floor, at most", percent(max(above(r, "vanilla") for r in one))),
        ("worst over best one-step plan", times(max(r["worst"] / r["best"] for r in one))),
        ("place of the handover, at most", times(max(place(r) for r in two))),
        ("order in equal windows, at most", times(max(order(r) for r in two))),
        ("Gaussian theory's plan, at most", times(max(regret(r, "gaussian") for r in two))),
    ]


def sections(record: Record) -> Iterator[Section]:
    """Figures and tables of the page."""
    yield draw_section(
        "One step",
        "How far each strategy's error lies above the nearest affine map of pure noise, which no "
        "one-step student of this form goes below. ● operator copy, ○ denoiser copy.",
        lambda: figures.one_step(one_step(record)),
        best_table("All plans of one-step students", one_step(record)),
    )
    yield draw_section(
        "Where to hand over",
        "Best error of all plans of two-step students, by the step at which the first student "
        "hands over to the second, as a multiple of the least. Operator copy.",
        lambda: figures.handovers(record["tables"]["handovers"]),
        best_table("All plans of students of more steps", more_steps(record)),
    )
    yield draw_section(
        "Floor and optimisation by student steps",
        "Error of BOOT in equal windows, and what of it is left when every merge is trained to the "
        "end: the approximation error. Operator copy.",
        lambda: figures.student_steps(record["tables"]["strategies"]),
        strategy_table(record),
    )
    yield draw_section(
        "Every merge",
        "One-step students, merge by merge: what no student of this form can fit (floor), what "
        "training leaves (optimisation), and how far the student is from the teacher's composite "
        "so far. Operator copy, components on both sides of λ = 1, furthest apart.",
        lambda: figures.merges(traced(record)),
        merge_table(traced(record)),
    )
    yield draw_section(
        "Components move apart",
        "Error of BOOT over vanilla's, one-step students, two components of equal variance λ at "
        "± the separation. Left the theory of one Gaussian, right the floor.",
        lambda: figures.distances(record["tables"]["distances"]),
    )
    yield draw_section(
        "A little signal",
        "One-step students whose first state keeps a signal alpha_T: vanilla's error, and what "
        "is left of it when its one merge is trained to the end (dashed), as parts of the error of "
        "the nearest affine map. Components furthest apart, operator copy.",
        lambda: figures.signals(record["tables"]["signals"]),
        signal_table(record["tables"]["signals"]),
    )
    yield draw_section(
        "Growth of composites",
        "Affine maps that the teacher's composite from noise to z_t mixes: 2 to the number of "
        "steps when written out (dotted), and effectively, by the entropy of their weights.",
        lambda: figures.growth(record["tables"]["composites"]),
        composite_table(record),
    )
    yield draw_section(
        "Gain of errors",
        "How much the teacher's steps from z_t to the data stretch an error made at z_t: root mean "
        "square, and largest over the central 99.9 %. Dotted: the Gaussian of equal variance.",
        lambda: figures.gains(record["tables"]["composites"]),
    )
    yield draw_section(
        "More dimensions",
        "Error over vanilla's on the same samples, mean and 95 % interval over independent seeds.",
        lambda: figures.dimensions(record["tables"]["dimensions"]),
        dimension_table(record),
    )


def _finding(record: Record) -> str:
    one = one_step(record)
    gap = max(above(row, "best") for row in one)
    if gap > _SMALL:
        return (
            f"A one-step student of a mixture errs by up to {percent(gap)} more than the nearest "
            "affine map even by the best plan: optimisation, not the floor, decides."
        )
    two = _two_steps(record)
    orders, places = [order(row) for row in two], [place(row) for row in two]
    return (
        "From pure noise every one-step student of a mixture is affine, on whichever side of "
        f"λ = 1 its components lie, and the best plan errs within {percent(gap)} of the nearest "
        f"affine map, vanilla within {percent(max(above(row, 'vanilla') for row in one))}; with "
        "two steps, where they hand over matters by a factor of "
        f"{_median_and_most(places)}, the order inside equal windows by "
        f"{_median_and_most(orders)}."
    )


def _two_steps(record: Record) -> list[Mapping[str, Any]]:
    return [row for row in more_steps(record) if row["student_steps"] == 2]


def _median_and_most(values: Sequence[float]) -> str:
    return f"{np.median(values):.2f} (median; at most {max(values):.3g})"


def _quadrature(record: Record) -> float:
    rows = record["tables"]["strategies"]
    return max(float(row["quadrature"] / row["error"]) for row in rows)
