"""Real spectra: the best plan for data, and what it costs to take pixels for eigendirections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Self

from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import AtLeastTwo, Positive, Rising, Some
from opmerge.spectra import resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid, rows_of
from opmerge_studies.shared.strategies import CANONICAL, PAPER_RULE, plan_row

STRATEGIES = (*CANONICAL, "uniform:4", "temporal:8")
"""The named strategies that are compared."""

_FORMS = ("eigenbasis", "diagonal")  # of the covariance, and its diagonal in pixels


class SpectraSettings(Settings):
    """Settings of the study."""

    sources: Some[str] = option(
        ("digits", "patches", "faces"), "samples, a file or a folder of images"
    )
    steps: Rising[AtLeastTwo] = option((16, 32, 64, 128, 256), "T")
    merge_times: Rising[Positive] = option((1.0, 3.0, DEFAULT_MERGE_TIME), "s")

    @classmethod
    def quick(cls) -> Self:
        """Digits and patches at T = 64: seconds."""
        return cls(sources=("digits", "patches"), steps=(64,), merge_times=(DEFAULT_MERGE_TIME,))


def run(settings: SpectraSettings, runner: Runner) -> dict[str, Any]:
    """Describe the spectra, and plan for both forms of each.

    Returns:
        ``tables``: ``sources`` (shares of λ), ``plans`` (a row for each source, T and s) and
        ``eigenvalues`` (sorted, of both forms).
    """
    sizes = {"steps": [list(settings.steps)], "merge_times": [list(settings.merge_times)]}
    described = runner.sweep(describe_source, grid(source=settings.sources), "reading spectra")
    planned = runner.rows(plan_source, grid(source=settings.sources, **sizes), "planning")
    return {
        "tables": {
            "sources": [each["summary"] for each in described],
            "plans": planned,
            "eigenvalues": [row for each in described for row in each["eigenvalues"]],
        }
    }


def describe_source(source: str) -> dict[str, Any]:
    """The largest λ, shares of directions and of variance with λ <= 1, and all λ, by form."""
    spectra = {form: resolve_spectrum(source, diagonal=form == "diagonal") for form in _FORMS}
    true, rows = spectra["eigenbasis"], []
    summary: dict[str, Any] = {"source": source, "samples": true.num_samples}
    summary["dimensions"] = true.num_dimensions
    for form, spectrum in spectra.items():
        values, counts = spectrum.eigenvalues, spectrum.multiplicities
        small = values <= 1
        directions = float(counts[small].sum() + spectrum.remaining_dimensions)
        variance = float(counts[small] @ values[small]) + spectrum.remaining_trace
        summary |= {
            f"{form}_largest": float(values[0]),
            f"{form}_share_small": directions / spectrum.num_dimensions,
            f"{form}_variance_small": variance / spectrum.trace,
        }
        ranks = range(1, 1 + len(values))
        rows += rows_of({"rank": ranks, "eigenvalue": values}, source=source, form=form)
    return {"summary": summary, "eigenvalues": rows}


def plan_source(
    source: str, steps: Sequence[int], merge_times: Sequence[float]
) -> list[dict[str, Any]]:
    """The best plan in the eigenbasis, and that of the diagonal on the eigenbasis.

    ``predicted`` is the W2 that the diagonal promises for its own best plan and ``transferred``
    the W2 of that plan in the eigenbasis; ``diagonal_choice`` is the named strategy that the
    diagonal would choose, and ``choice_w2`` its W2 in the eigenbasis.
    """
    spectra = [resolve_spectrum(source, diagonal=form == "diagonal") for form in _FORMS]
    rows = []
    for num_steps, time in product(steps, merge_times):
        schedule, training = cosine_schedule(num_steps), GradientFlow(time)
        true, diagonal = (Problem(spectrum, schedule, training, PAPER_RULE) for spectrum in spectra)
        planned = find_plan(diagonal)
        named = plan_row(diagonal, STRATEGIES, planned)
        choice = min(STRATEGIES, key=named.__getitem__)
        rows.append(
            {
                "source": source,
                "num_steps": num_steps,
                "merge_time": time,
                **plan_row(true, STRATEGIES),
                "predicted": planned.w2,
                "predicted_bound": planned.lower_bound,
                "transferred": evaluate(true, planned.plan).w2,
                "diagonal_plan": named["plan"],
                "diagonal_choice": choice,
                "choice_w2": evaluate(true, build_strategy(choice, num_steps)).w2,
            }
        )
    return rows


_QUESTION = "Which plan is best for real data, and what does a diagonal model cost?"
STUDY = Study(__name__, _QUESTION, SpectraSettings, run)
