"""The frame of every page: sections with figures and tables, in one self-contained document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opmerge.page.claims import Claim
from opmerge.plotting import figure_png, figure_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 300
_MOST_ITEMS = 8


@dataclass(frozen=True)
class Table:
    """Exact numbers, as text: a caption, column heads and rows; the first column is a row head."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Picture:
    """A small picture with its name beside it: a PNG in base64."""

    name: str
    png: str


@dataclass(frozen=True)
class IndexEntry:
    """A page that an index links: its name, its question, its answer and where it is."""

    name: str
    question: str
    finding: str
    href: str


@dataclass(frozen=True)
class Section:
    """One question of the page: its figure, what to know to read it, its numbers.

    ``svg`` is the figure in the page, ``png`` with its title for a file of its own.
    """

    heading: str
    caption: str
    seen: str = ""
    svg: str = ""
    png: bytes = b""
    table: Table | None = None
    outline: str = ""
    items: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    is_wide: bool = False

    @property
    def slug(self) -> str:
        """The heading as it stands in ids and names of files."""
        return slug(self.heading)


def render_page(
    title: str,
    answer: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    claims: Sequence[Claim] = (),
) -> str:
    """The HTML document.

    Args:
        title: what the page is about.
        answer: its first sentence.
        facts: names and values of the numbers that matter most.
        sections: in the order of the page.
        settings: groups of settings by heading, JSON values.
        claims: statements, each with the cases in which it holds.
    """
    return _render(
        "page.html.j2",
        claims=claims,
        title=title,
        answer=answer,
        facts=facts,
        sections=sections,
        settings=[(name, list(_flat("", values))) for name, values in settings.items()],
    )


def render_index(title: str, entries: Sequence[IndexEntry]) -> str:
    """The HTML document that links several pages, with the answer of each."""
    return _render("index.html.j2", title=title, entries=entries)


def draw_section(
    heading: str, caption: str, figure: Figure, table: Table | None = None, outline: str = ""
) -> Section:
    """A section with its figure, drawn once; in the page the figure's title is text."""
    name = slug(heading)
    seen = figure.get_suptitle().replace("\n", " ")  # no-break spaces stay
    png = figure_png(figure)
    # text of the page grows with the reader's font
    figure.suptitle("").set_in_layout(False)
    svg = figure_svg(figure, name, f"{heading}. {seen}.")
    return Section(heading, caption, seen, svg, png, table, outline)


def slug(heading: str) -> str:
    """``Error by plan`` as ``error-by-plan``, for ids and names of files."""
    return re.sub(r"\W+", "-", heading.lower()).strip("-")


def make_table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> Table:
    """A table, cut to the rows that a page can hold; its note says so."""
    if len(rows) > _MOST_ROWS:
        more = f"The first {_MOST_ROWS} of {len(rows)} rows; the record holds all of them."
        rows, note = rows[:_MOST_ROWS], f"{note} {more}".strip()
    return Table(caption, columns, rows, note)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("opmerge.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix} {key}".strip().replace("_", " "), inner)
    else:
        yield prefix, _told(value)


def _told(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list):
        if len(value) > _MOST_ITEMS and not isinstance(value[0], str):
            return f"{_told(value[0])}, …, {_told(value[-1])} ({len(value)} values)"
        return ("; " if isinstance(value[0], str) else ", ").join(map(_told, value))
    return str(value)
