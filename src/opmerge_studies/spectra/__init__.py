"""Real spectra: the best plan for data, and what it costs to take pixels for eigendirections."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, Self

from pydantic import Field

from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.settings.base import Settings, option
from opmerge.settings.types import Positive, Rising, Some
from opmerge.spectra import Spectrum, resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared import Runner, Study, grid
from opmerge_studies.shared.strategies import CANONICAL, plan_row

__all__ = ["STRATEGIES", "STUDY", "SpectraSettings", "describe_source", "plan_source", "run"]

STRATEGIES = (*CANONICAL, "uniform:4", "temporal:8")
"""The named strategies that are compared."""


class SpectraSettings(Settings):
    """Settings of the study."""

    sources: Some[str] = option(
        ("digits", "patches", "faces"), "samples, a file or a folder of images"
    )
    steps: Rising[Annotated[int, Field(ge=2)]] = option((16, 32, 64, 128, 256), "T")
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
    """Shares of λ <= 1 in both forms, and all eigenvalues."""
    forms = _forms(source)
    shares = {form: _shares(spectrum) for form, spectrum in forms.items()}
    return {
        "summary": {
            "source": source,
            "samples": forms["eigenbasis"].num_samples,
            "dimensions": forms["eigenbasis"].num_dimensions,
            **{f"{form}_{key}": value for form in shares for key, value in shares[form].items()},
        },
        "eigenvalues": [
            {"source": source, "form": form, "rank": rank, "eigenvalue": float(value)}
            for form, spectrum in forms.items()
            for rank, value in enumerate(spectrum.eigenvalues, start=1)
        ],
    }


def plan_source(
    source: str, steps: Sequence[int], merge_times: Sequence[float]
) -> list[dict[str, Any]]:
    """The best plan in the eigenbasis, and that of the diagonal on the eigenbasis.

    ``predicted`` is the W2 that the diagonal promises for its own best plan and ``transferred``
    the W2 of that plan in the eigenbasis; ``diagonal_choice`` is the named strategy that the
    diagonal would choose, and ``choice_w2`` its W2 in the eigenbasis.
    """
    forms = _forms(source).values()
    rows = []
    for num_steps, time in product(steps, merge_times):
        schedule, training = cosine_schedule(num_steps), GradientFlow(time)
        problems = (Problem(spectrum, schedule, training) for spectrum in forms)
        place = {"source": source, "num_steps": num_steps, "merge_time": time}
        rows.append({**place, **_compare(*problems)})
    return rows


def _compare(true: Problem, diagonal: Problem) -> dict[str, Any]:
    best, own = plan_row(true, STRATEGIES), find_plan(diagonal)
    named = plan_row(diagonal, STRATEGIES, own)
    choice = min(STRATEGIES, key=named.__getitem__)
    return {
        **best,
        "predicted": own.w2,
        "predicted_bound": own.lower_bound,
        "transferred": evaluate(true, own.plan).w2,
        "diagonal_plan": named["plan"],
        "diagonal_choice": choice,
        "choice_w2": evaluate(true, build_strategy(choice, true.num_steps)).w2,
    }


def _forms(source: str) -> dict[str, Spectrum]:
    """The spectrum in the eigenbasis of the covariance, and its diagonal in pixels."""
    diagonal = resolve_spectrum(source, diagonal=True)
    return {"eigenbasis": resolve_spectrum(source), "diagonal": diagonal}


def _shares(spectrum: Spectrum) -> dict[str, float]:
    """The largest λ, and how many directions and how much variance have λ <= 1."""
    small, counts = spectrum.eigenvalues <= 1, spectrum.multiplicities
    variance = float(counts[small] @ spectrum.eigenvalues[small]) + spectrum.remaining_trace
    directions = float(counts[small].sum() + spectrum.remaining_dimensions)
    return {
        "largest": float(spectrum.eigenvalues[0]),
        "share_small": directions / spectrum.num_dimensions,
        "variance_small": variance / spectrum.trace,
    }


_QUESTION = "Which plan is best for real data, and what does a diagonal model cost?"
STUDY = Study(__name__, _QUESTION, SpectraSettings, run)
