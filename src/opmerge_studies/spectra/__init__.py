"""Real spectra: the best plan for data, and what it costs to take pixels for eigendirections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opmerge.checks import check_count
from opmerge.errors import InputError
from opmerge.merging import evaluate
from opmerge.planners import find_plan
from opmerge.plans import build_strategy
from opmerge.problem import Problem
from opmerge.schedules import cosine_schedule
from opmerge.spectra import Spectrum, resolve_spectrum
from opmerge.training import DEFAULT_MERGE_TIME, GradientFlow
from opmerge_studies.shared.runner import Runner
from opmerge_studies.shared.strategies import CANONICAL, plan_row

__all__ = ["Config", "describe_source", "plan_source", "run"]

_STRATEGIES = (*CANONICAL, "uniform:4", "temporal:8")


@dataclass(frozen=True)
class Config:
    """Settings of the study.

    Args:
        sources: samples: ``digits``, ``patches``, ``faces``, a file or a folder of images.
        steps: numbers of teacher steps T, ascending.
        merge_times: s, ascending.

    Raises:
        InputError: naming the setting that is out of range.
    """

    sources: tuple[str, ...] = ("digits", "patches", "faces")
    steps: tuple[int, ...] = (16, 32, 64, 128, 256)
    merge_times: tuple[float, ...] = (1.0, 3.0, DEFAULT_MERGE_TIME)

    def __post_init__(self) -> None:
        if not self.sources:
            raise InputError("sources", "must not be empty")
        for key in ("steps", "merge_times"):
            values = getattr(self, key)
            if not values or list(values) != sorted(set(values)):
                raise InputError(key, "must ascend and not be empty", values)
        for num_steps in self.steps:
            if check_count("steps", num_steps) < 2:
                raise InputError("steps", "must be >= 2", num_steps)
        for time in self.merge_times:
            GradientFlow(time)

    @classmethod
    def quick(cls) -> Config:
        """Digits and patches at T = 64: seconds."""
        return cls(sources=("digits", "patches"), steps=(64,), merge_times=(DEFAULT_MERGE_TIME,))


def run(config: Config, runner: Runner) -> dict[str, Any]:
    """Describe the spectra, and plan for both forms of each.

    Returns:
        ``tables``: ``sources`` (shares of λ), ``plans`` (a row for each source, T and s) and
        ``eigenvalues`` (sorted, of both forms).
    """
    described = runner.sweep(
        describe_source, [{"source": source} for source in config.sources], "reading spectra"
    )
    sizes = {"steps": list(config.steps), "merge_times": list(config.merge_times)}
    planned = runner.sweep(
        plan_source, [{"source": source, **sizes} for source in config.sources], "planning"
    )
    return {
        "tables": {
            "sources": [each["summary"] for each in described],
            "plans": [row for rows in planned for row in rows],
            "eigenvalues": [row for each in described for row in each["eigenvalues"]],
        }
    }


def describe_source(source: str) -> dict[str, Any]:
    """Shares of λ <= 1 in both forms, and all eigenvalues."""
    forms = _forms(source)
    return {
        "summary": {
            "source": source,
            "samples": forms["eigenbasis"].num_samples,
            "dimensions": forms["eigenbasis"].num_dimensions,
            **{
                f"{form}_{key}": value
                for form, spectrum in forms.items()
                for key, value in _shares(spectrum).items()
            },
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
    forms = _forms(source)
    rows = []
    for num_steps in steps:
        for time in merge_times:
            true, diagonal = (
                Problem(forms[form], cosine_schedule(num_steps), GradientFlow(time))
                for form in ("eigenbasis", "diagonal")
            )
            best, own = plan_row(true, _STRATEGIES), find_plan(diagonal)
            named = plan_row(diagonal, _STRATEGIES, own)
            choice = min(_STRATEGIES, key=named.__getitem__)
            rows.append(
                {
                    "source": source,
                    "num_steps": num_steps,
                    "merge_time": time,
                    **best,
                    "predicted": own.w2,
                    "predicted_bound": own.lower_bound,
                    "transferred": evaluate(true, own.plan).w2,
                    "diagonal_plan": named["plan"],
                    "diagonal_choice": choice,
                    "choice_w2": evaluate(true, build_strategy(choice, num_steps)).w2,
                }
            )
    return rows


def _forms(source: str) -> dict[str, Spectrum]:
    """The spectrum in the eigenbasis of the covariance, and its diagonal in pixels."""
    return {
        "eigenbasis": resolve_spectrum(source),
        "diagonal": resolve_spectrum(source, diagonal=True),
    }


def _shares(spectrum: Spectrum) -> dict[str, float]:
    """The largest λ, and how many directions and how much variance have λ <= 1."""
    small = spectrum.eigenvalues <= 1
    counts = spectrum.multiplicities
    variance = float(counts[small] @ spectrum.eigenvalues[small])
    return {
        "largest": float(spectrum.eigenvalues[0]),
        "share_small": float(counts[small].sum() + spectrum.remaining_dimensions)
        / spectrum.num_dimensions,
        "variance_small": (variance + spectrum.remaining_trace) / spectrum.trace,
    }
