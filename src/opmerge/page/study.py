"""The page of a study: numbers from frames, prose from a Markdown template, claims counted once.

A study's ``page.py`` has one function, ``page(record) -> Page``; beside it lies ``page.md.j2``, a
Jinja template in Markdown with the parts

* ``# Finding``: the answer in one sentence with its numbers;
* ``# Subject`` (may be left out): what it was found on, where the question does not say;
* ``# Facts``: ``- name: value``, the numbers that matter most;
* ``# Claims``: ``- key: statement`` for each key of ``Page.claims``, in the same words whether it
  holds or not;
* ``# Evidence``, ``# Limits``, ``# Overturned by``: ``- sentence``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opmerge.page.claims import Claim, Count
from opmerge.page.layout import Section, Table, render_page
from opmerge.page.sentences import number, percent, short_name, times

if TYPE_CHECKING:
    import pandas as pd


def _or_dash(tell: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "–" if _is_missing(value) else tell(value)


FILTERS: Mapping[str, Callable[..., str]] = {
    "number": _or_dash(number),
    "percent": _or_dash(percent),
    "times": _or_dash(times),
    "g": _or_dash(lambda value: f"{value:g}"),
    "short": short_name,
    "span": lambda values, form=".3g": span(values, form),
}
"""How templates tell numbers; what is missing is ``–``."""

_FORMATS: Mapping[str, Callable[[Any], str]] = {
    "n": lambda value: number(value) if isinstance(value, float) else str(value),
    "%": percent,
    "x": times,
    "s": str,
}
_GROUPS = ("settings", "problem", "predictions", "versions")


@dataclass(frozen=True)
class Page:
    """What ``page.py`` of a study makes of a record.

    ``values`` are what the template reads, ``claims`` in how many cases each of it holds;
    ``sections`` from a generator are drawn only where they are shown.
    """

    values: Mapping[str, Any]
    claims: Mapping[str, Count]
    sections: Iterable[Section]


@dataclass(frozen=True)
class Told:
    """What a page says in words: its template's parts; ``grounds`` are sentences by heading."""

    finding: str
    subject: str
    facts: Sequence[tuple[str, str]]
    claims: Sequence[Claim]
    grounds: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class StudyPage(Told):
    """A page as it is written: its words, its HTML and its figures as PNG, by name."""

    html: str
    figures: Mapping[str, bytes]


def tell(page: Page, template: Path) -> Told:
    """The words of a page, by its ``page.md.j2``; no figure is drawn."""
    from jinja2 import Environment, StrictUndefined, UndefinedError

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(FILTERS)
    words = environment.from_string(template.read_text(encoding="utf-8"))
    try:
        text = words.render(page.values)
    except UndefinedError as error:  # a record of another making
        raise LookupError(str(error)) from error
    paragraphs, items = _parts(text)
    stated = dict(item.split(": ", 1) for item in items["Claims"])
    assert stated.keys() == page.claims.keys(), (
        f"claims {stated.keys() ^ page.claims.keys()} on one side only"
    )
    return Told(
        finding=paragraphs["Finding"],
        subject=paragraphs["Subject"],
        facts=[item.rpartition(": ")[::2] for item in items["Facts"]],
        claims=[Claim(key, words, page.claims[key]) for key, words in stated.items()],
        grounds={
            "Evidence": items["Evidence"],
            "Limits": items["Limits"],
            "What would overturn it": items["Overturned by"],
        },
    )


def _parts(text: str) -> tuple[Mapping[str, str], Mapping[str, Sequence[str]]]:
    """Paragraphs and items by heading; both are empty where a heading is left out."""
    paragraphs: defaultdict[str, str] = defaultdict(str)
    items: defaultdict[str, list[str]] = defaultdict(list)
    _, *pieces = re.split(r"^# (.+)$", text, flags=re.MULTILINE)
    for heading, body in zip(pieces[::2], pieces[1::2], strict=True):
        paragraph, *listed = re.split(r"^- ", body, flags=re.MULTILINE)
        paragraphs[heading.strip()] = " ".join(paragraph.split())
        items[heading.strip()] = [" ".join(item.split()) for item in listed]
    return paragraphs, items


def study_page(record: Mapping[str, Any], page: Page, template: Path) -> StudyPage:
    """The page of a record, drawn from the record alone; the same text each time."""
    told, sections = tell(page, template), list(page.sections)
    html = render_page(
        title=f"{record['question']}" + (f" ({told.subject})" if told.subject else ""),
        answer=told.finding,
        facts=told.facts,
        claims=told.claims,
        sections=[
            *sections,
            *(Section(name, "", items=items) for name, items in told.grounds.items() if items),
        ],
        settings={key.capitalize(): record[key] for key in _GROUPS if key in record},
    )
    figures = {section.slug: section.png for section in sections if section.png}
    return StudyPage(**vars(told), html=html, figures=figures)


def frame(record: Mapping[str, Any], name: str) -> pd.DataFrame:
    """A table of a record as a frame; what is null in it is NaN."""
    import pandas as pd

    return pd.DataFrame(record["tables"][name]).fillna(math.nan).infer_objects()


def label(source: str) -> str:
    """``λ = 0.5`` for eigenvalues as given, else the last part of a path."""
    head, _, value = source.partition("eigenvalues:")
    return f"λ = {value}" if value else short_name(head)


def span(values: Collection[float], form: str = ".3g") -> str:
    """``0.83 … 0.88``: the least and the largest, one where they read the same, – of none."""
    if not len(values):
        return "–"
    low, high = (format(end(values), form) for end in (min, max))
    return low if low == high else f"{low} … {high}"


def table(
    caption: str,
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    note: str = "",
    is_open: bool = False,
) -> Table:
    """A table of the page from a frame.

    ``columns`` are the head of each, and ``column:format``: ``n`` three digits, or text as it is
    (the default), ``%`` per cent, ``x`` times, ``g`` as short as possible, ``s`` as text, or a
    format specification such as ``.2f``. What is missing is ``–``; ``low…high:format`` tells two
    columns as the ends of an interval. The note stands below; one that ``is_open`` is seen at once.
    """
    told = []
    for spec in columns.values():
        names, form = spec.rsplit(":", 1) if ":" in spec else (spec, "n")
        tell = _FORMATS.get(form) or f"{{:{form}}}".format
        ends = zip(*(rows[name] for name in names.split("…")), strict=True)
        told.append(
            ["–" if any(map(_is_missing, each)) else " … ".join(map(tell, each)) for each in ends]
        )
    return Table(caption, list(columns), list(zip(*told, strict=True)), note, is_open)


def heads(*specs: str) -> dict[str, str]:
    """Columns of a table, each ``head=column:format``; without ``head=`` the column's name."""
    pairs = (spec.rpartition("=") for spec in specs)
    columns = {head or column.partition(":")[0]: column for head, _, column in pairs}
    assert len(columns) == len(specs), "no two columns have one head"
    return columns


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
