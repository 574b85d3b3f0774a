"""The page of a study: its answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opmerge.reports.layout import Section, render_page

__all__ = ["Answer", "study_page"]


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Args:
        finding: the answer in one sentence, with its numbers.
        subject: what it was found on, where the question does not say.
        evidence: what it rests on, a sentence each.
        limits: where it does not reach.
        overturned_by: what observation would show it wrong.
    """

    finding: str
    subject: str = ""
    evidence: Sequence[str] = ()
    limits: Sequence[str] = ()
    overturned_by: Sequence[str] = ()


def study_page(
    record: Mapping[str, Any],
    answer: Answer,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> str:
    """The page of a record, drawn from the record alone.

    Args:
        record: of the study.
        answer: its first sentence, and its limits.
        facts: names and values of the numbers that matter most.
        sections: figures and tables.

    Returns:
        A complete HTML document without scripts, the same text each time.
    """
    subject = f" ({answer.subject})" if answer.subject else ""
    groups = [key for key in ("settings", "problem", "predictions", "versions") if key in record]
    return render_page(
        title=f"{record['question']}{subject}",
        answer=answer.finding,
        facts=facts,
        sections=[*sections, *_grounds(answer)],
        settings={key.capitalize(): record[key] for key in groups},
    )


def _grounds(answer: Answer) -> Iterator[Section]:
    for heading, items in (
        ("Evidence", answer.evidence),
        ("Limits", answer.limits),
        ("What would overturn it", answer.overturned_by),
    ):
        if items:
            yield Section(heading, "", items=items)
