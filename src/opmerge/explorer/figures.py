"""Figures of the explorer as SVG, drawn in a millisecond each and coloured by the page's style.

matplotlib, which draws the reports, takes a tenth of a second for each and knows one background.
Lengths are in CSS pixels of a figure that is 480 wide; a screen reader says the title, and the
numbers stand in the table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from opmerge.plans import Plan
from opmerge.plotting import power_of_ten

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 480.0, 60.0, 12.0, 8.0, 40.0
_LETTER = 7.8  # width of one
_MOST_TICKS = 6
_ROW = 25.0
_LEAST_GAP = 2.5  # between marks that the eye can tell apart
_SHADES = 5
_MARKERS = 24
_NEGLIGIBLE, _INVISIBLE = 1e-12, 1e-9  # relative: eigenvalues that are 0, errors not drawn


@dataclass(frozen=True)
class Scale:
    """From values to pixels, linear or logarithmic."""

    low: float
    high: float
    first: float
    last: float
    log: bool = True

    def __call__(self, value: float) -> float:
        """The place of a value; what a logarithm does not know stands at the edge."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high = math.log(low), math.log(high)
            at = math.log(value) if value > 0 else low
        return self.first + (self.last - self.first) * (at - low) / ((high - low) or 1.0)

    @property
    def ticks(self) -> list[float]:
        """Round values within the scale: few, and at least two if there are any."""
        if not self.log:
            rough = (self.high - self.low) / (_MOST_TICKS - 1)
            size = 10 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
            step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
            count = math.floor(self.high / step + 1e-9)
            return [k * step for k in range(math.ceil(self.low / step - 1e-9), count + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
            every = [m * 10.0**decade for decade in decades for m in mantissas]
            inside = [value for value in every if self.low <= value <= self.high]
            if len(inside) >= 3:
                break
        return inside[:: math.ceil(len(inside) / _MOST_TICKS)]

    @classmethod
    def around(
        cls, values: Iterable[float], first: float, last: float, margin: float = 1.25
    ) -> Scale:
        """A logarithmic one with all positive values in it."""
        positive = [value for value in values if 0 < value < math.inf] or [0.1, 1.0]
        return cls(min(positive) / margin, max(positive) * margin, first, last)


@dataclass
class Drawing:
    """An SVG under way."""

    height: float
    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, text: str = "", **attributes: Any) -> None:
        """An element; numbers are rounded to a tenth of a pixel, ``kind`` is its class."""
        told = " ".join(
            f'{"class" if name == "kind" else name.replace("_", "-")}="{_plain(value)}"'
            for name, value in attributes.items()
        )
        self.parts.append(f"<{tag} {told}>{escape(text)}</{tag}>" if text else f"<{tag} {told}/>")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, kind=kind)

    def text(self, x: float, y: float, words: str, anchor: str = "middle", kind: str = "") -> None:
        """Words at a place."""
        self.add("text", words, x=x, y=y, text_anchor=anchor, kind=kind)

    def path(self, points: Iterable[tuple[float, float]], kind: str, closed: bool = False) -> None:
        """A line through points."""
        words = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.add("path", d=f"M{words}{'Z' if closed else ''}", kind=kind)

    def axes(self, x: Scale, y: Scale | None, words: str, heights: str = "") -> None:
        """Ticks below and to the left, with what they count."""
        bottom = self.height - _BOTTOM
        for value in x.ticks:
            self.line(x(value), _TOP, x(value), bottom, "grid")
            self.text(x(value), bottom + 16, told(value))
        self.text((_LEFT + _WIDTH - _RIGHT) / 2, self.height - 4, words, kind="axis")
        if y is not None:
            for value in y.ticks:
                self.line(_LEFT, y(value), _WIDTH - _RIGHT, y(value), "grid")
                self.text(_LEFT - 6, y(value) + 4, told(value), "end")
            turned = f"translate(11 {(_TOP + bottom) / 2:.0f}) rotate(-90)"
            self.add("text", heights, transform=turned, text_anchor="middle", kind="axis")

    def svg(self, name: str, title: str) -> Markup:
        """The element; its id derives from a name."""
        head = (
            f'<svg viewBox="0 0 {_WIDTH:.0f} {self.height:.0f}" role="img" '
            f'aria-labelledby="{name}-title"><title id="{name}-title">{escape(title)}</title>'
        )
        return Markup(head + "".join(self.parts) + "</svg>")


def _plain(value: Any) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(escape(value))


def told(value: float) -> str:
    """A tick's words: ``0.5``, ``10⁻⁶``, ``3·10⁴``."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    decade = 10.0 ** math.floor(math.log10(value) + 1e-9)
    mantissa = value / decade
    return power_of_ten(decade) if mantissa < 1.01 else f"{mantissa:.2g}·{power_of_ten(decade)}"


def plan_drawing(plan: Plan, weights: Sequence[float], title: str) -> Markup:
    """Each merge as a bar over the steps that it jumps over, in its round; strong as its weight is.

    Strength is in proportion to the weight: equal merges look alike.

    Args:
        weights: (M,) of the merges, such as their iterations.
    """
    rounds = plan.rounds()
    most = max(rounds, default=0)
    row = max(min(_ROW, 190.0 / (most + 1)), 1.0)
    drawing = Drawing(_TOP + row * (most + 1) + 3 + _BOTTOM)
    x = Scale(float(plan.num_steps), 0.0, 14.0, _WIDTH - 14.0, log=False)
    bottom = drawing.height - _BOTTOM
    pixels = abs(x(1) - x(0))

    def bar(start: int, stop: int, place: int, kind: str, **more: Any) -> None:
        top = bottom - row * (place + 1)
        gap = min(1.5, row / 8)
        drawing.add(
            "rect",
            x=x(start),
            y=top + gap,
            width=x(stop) - x(start),
            height=row - 2 * gap,
            kind=kind,
            **more,
        )

    bar(plan.students[0].start, 0, 0, "teacher")
    largest = max(weights, default=0.0) or 1.0
    for merge, place, weight in zip(plan.merges, rounds, weights, strict=True):
        kind = f"merge shade{min(int(weight / largest * _SHADES), _SHADES - 1)}"
        more = {"data_merge": f"{merge.start}-{merge.stop}"}
        bar(merge.start, merge.stop, place, kind, **more)
    for boundaries, place in _marks(plan, rounds):
        for above, below in pairwise(boundaries[1:]):
            if min(above - below, boundaries[0] - above) * pixels >= _LEAST_GAP:
                top = bottom - row * (place + 1)
                drawing.line(x(above), top + 2, x(above), top + row - 2, "mark")
    if plan.free_step is not None:
        bar(plan.num_steps, plan.free_step, 0, "free")
    for handover in plan.boundaries[1:-1]:
        drawing.line(x(handover), _TOP, x(handover), bottom, "handover")
    for value in _steps_told(plan):
        drawing.text(x(value), bottom + 16, str(value))
    drawing.text(_WIDTH / 2, drawing.height - 4, "step t (noise left, data right)", kind="axis")
    return drawing.svg("plan", title)


def _marks(plan: Plan, rounds: Sequence[int]) -> list[tuple[tuple[int, ...], int]]:
    steps = tuple(range(plan.students[0].start, -1, -1))
    return [(steps, 0), *((m.boundaries, r) for m, r in zip(plan.merges, rounds, strict=True))]


def _steps_told(plan: Plan) -> list[int]:
    """Handovers where they stand apart, or else quarters."""
    steps, ends = plan.num_steps, plan.boundaries
    if len(ends) > 2 and min(a - b for a, b in pairwise(ends)) >= steps / 14:
        return list(ends)
    return sorted({round(steps * k / 4) for k in range(5)})


def frontier_drawing(
    curve: Sequence[tuple[float, float, float, float]],
    here: tuple[float, float],
    words: tuple[str, str],
    title: str,
) -> Markup:
    """Error against what is spent, log-log, with its band; and where the plan stands.

    Args:
        curve: (x, error, low, high), x ascending.
        here: (x, error) of the plan.
        words: of the axes.
    """
    drawing = Drawing(250.0)
    bottom = drawing.height - _BOTTOM
    seen = [row for row in curve if row[0] > 0]
    x = Scale.around([*(row[0] for row in seen), here[0]], _LEFT, _WIDTH - _RIGHT)
    errors = [value for row in seen for value in row[1:]]
    y = Scale.around([*errors, here[1]], bottom, _TOP)
    drawing.axes(x, y, *words)
    ends = [(x(row[0]), y(row[3])) for row in seen]
    ends += [(x(row[0]), y(row[2])) for row in reversed(seen)]
    drawing.path(ends, "band", closed=True)
    drawing.path([(x(row[0]), y(row[1])) for row in seen], "curve a")
    for row in seen:
        drawing.add("circle", cx=x(row[0]), cy=y(row[1]), r=3.0, kind="dot a")
    _diamond(drawing, x(here[0]), y(here[1]))
    drawing.text(*_beside(x(here[0]), y(here[1]) - 10, "this plan"), kind="strong")
    return drawing.svg("frontier", title)


def strategies_drawing(
    rows: Sequence[tuple[str, float, float, float]], strong: str, words: str, title: str
) -> Markup:
    """A row a plan: its error on a log scale, with its interval where it has one.

    Args:
        rows: (name, error, low, high), from the top down.
        strong: the name of the plan that is shown.
    """
    drawing = Drawing(_TOP + _ROW * len(rows) + _BOTTOM)
    left = 12 + _LETTER * max(len(name) for name, *_ in rows)
    x = Scale.around((v for _, *values in rows for v in values), left, _WIDTH - 58, 1.1)
    drawing.axes(x, None, words)
    for place, (name, error, low, high) in enumerate(rows):
        y = _TOP + _ROW * (place + 0.5)
        kind = "strong" if name == strong else ""
        drawing.text(left - 8, y + 4, name, "end", kind)
        if high > low:
            drawing.line(x(low), y, x(high), y, f"range {'b' if kind else 'a'}")
        if kind:
            _diamond(drawing, x(error), y)
        else:
            drawing.add("circle", cx=x(error), cy=y, r=4.0, kind="dot a")
        drawing.text(_WIDTH - 4, y + 4, f"{error:.3g}", "end", kind)
    return drawing.svg("strategies", title)


def directions_drawing(
    eigenvalues: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float]]],
    band: tuple[Sequence[float], Sequence[float]],
    words: tuple[str, str],
    title: str,
) -> Markup:
    """Errors in one direction of each eigenvalue, log-log, a curve a plan.

    Args:
        eigenvalues: (d,) descending.
        curves: (name, (d,) errors); the first is the plan's.
        band: (d,) low and high errors of the first; empty without.
    """
    legend = 18.0 * len(curves)
    drawing = Drawing(250.0 + legend)
    bottom, top = drawing.height - _BOTTOM, _TOP + legend
    values = np.array(eigenvalues)
    every = np.array([values for _, values in curves] + [ends for ends in band if len(ends)])
    is_seen = values > _NEGLIGIBLE * values.max()
    least = _INVISIBLE * every[:, is_seen].max()
    x = Scale.around(values[is_seen].tolist(), _LEFT, _WIDTH - _RIGHT)
    y = Scale.around(every[:, is_seen][every[:, is_seen] > least].tolist(), bottom, top)
    drawing.axes(x, y, *words)
    if x.low < 1 < x.high:
        drawing.line(x(1), top, x(1), bottom, "handover")

    def places(errors: Sequence[float]) -> list[tuple[float, float]]:
        pairs = zip(values[is_seen].tolist(), np.array(errors)[is_seen].tolist(), strict=True)
        return [(x(value), y(error)) for value, error in pairs if error > least]

    if len(band[0]):
        drawing.path([*places(band[1]), *reversed(places(band[0]))], "band b", closed=True)
    for place, (name, errors) in enumerate(curves):
        kind, points = "bac"[place % 3], places(errors)
        if points:
            drawing.path(points, f"curve {kind}")
        for at in points[:: max(1, len(points) // _MARKERS)]:
            drawing.add("circle", cx=at[0], cy=at[1], r=2.6, kind=f"dot {kind}")
        line = _TOP + 18.0 * place + 4
        drawing.line(_LEFT, line, _LEFT + 26, line, f"curve {kind}")
        drawing.text(_LEFT + 32, line + 4, name, "start")
    return drawing.svg("directions", title)


def _diamond(drawing: Drawing, x: float, y: float) -> None:
    corners = [(x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6)]
    drawing.path(corners, "diamond", closed=True)


def _beside(x: float, y: float, words: str) -> tuple[float, float, str]:
    """Words above a place, inside the figure."""
    half = _LETTER * len(words) / 2
    return float(np.clip(x, _LEFT + half, _WIDTH - _RIGHT - half)), max(y, _TOP + 12), words
