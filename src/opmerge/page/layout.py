"""The frame of every page: sections with figures and tables, in one self-contained document."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from opmerge.page.claims import Claim
from opmerge.plotting import figure_png, figure_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ITEMS = 8


@dataclass(frozen=True)
class Table:
    """Exact numbers, as text; the first column is a row head. A page shows 300 rows and says so."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Section:
    """One question of the page: its figure, what to know to read it, its numbers.

    ``svg`` is the figure in the page, ``png`` with its title for a file of its own; ``pictures``
    are small ones with their names: PNGs in base64.
    """

    heading: str
    caption: str
    seen: str = ""
    svg: str = ""
    png: bytes = b""
    table: Table | None = None
    outline: str = ""
    items: Sequence[str] = ()
    pictures: Sequence[tuple[str, str]] = ()
    is_wide: bool = False

    @property
    def slug(self) -> str:
        """``Error by plan`` as ``error-by-plan``, for ids and names of files."""
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


def render_page(
    title: str,
    answer: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    settings: Mapping[str, Any],
    claims: Sequence[Claim] = (),
) -> str:
    """The HTML document, which begins with the answer; settings are JSON values by heading."""
    return _render(
        "page.html.j2",
        claims=claims,
        title=title,
        answer=answer,
        facts=facts,
        sections=sections,
        settings=[(name, list(_flat("", values))) for name, values in settings.items()],
    )


def render_index(title: str, entries: Sequence[tuple[str, str, str]]) -> str:
    """The HTML document that links pages by the name of their folder, question and answer."""
    return _render("index.html.j2", title=title, entries=entries)


def draw_section(
    heading: str, caption: str, figure: Figure, table: Table | None = None, outline: str = ""
) -> Section:
    """A section with its figure, drawn once; in the page the figure's title is text."""
    seen = figure.get_suptitle().replace("\n", " ")  # no-break spaces stay
    png = figure_png(figure)
    section = Section(heading, caption, seen, png=png, table=table, outline=outline)
    figure.suptitle("").set_in_layout(False)  # text of the page grows with the reader's font
    return replace(section, svg=figure_svg(figure, section.slug, f"{heading}. {seen}."))


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
