"""The look of every figure, and its export: one style, colours that survive greyscale, clean SVG.

Figures are made through matplotlib's object interface, so no global state of pyplot is touched,
and matplotlib is imported only when a figure is made. Figures are the same everywhere: neither a
``matplotlibrc`` nor ``MPLBACKEND`` changes them.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from html import escape
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Okabe & Ito 2008: distinguishable with every common colour blindness; those in use also
# differ in lightness.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
INK, GREY, PALE = "#1a1a1a", "#767676", "#a6cee3"

_WIDTH = 4.0  # inches: 9 pt text is still 10 px on a phone 360 px wide
_TITLE_LETTERS = 46
_TIED = re.compile(r" ([…→=%]) ?")  # signs that stay on the line of what they join
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FEWEST_LABELS = 2
_NOT_NEEDED = (  # of an SVG file, and what stands instead in a page
    (r"^.*?(?=<svg)", ""),
    (r"<metadata>.*?</metadata>|<style.*?</style>", ""),
    (r'(<g) id="[^"]*"', r"\1"),
    (r" font-family: [^;\"]*;?", ""),
    (r"\s*\n\s*", " "),
)

_STYLE: Any = {  # keys of matplotlibrc; their type differs between versions of matplotlib
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
    **{f"{axis}tick.color": GREY for axis in "xy"},
    **{f"{axis}tick.labelcolor": INK for axis in "xy"},
    **{f"{axis}tick.labelsize": 9.0 for axis in "xy"},
    **{f"{axis}tick.major.width": 0.7 for axis in "xy"},
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.4,
    "hatch.linewidth": 0.7,
    "svg.fonttype": "none",
    "savefig.dpi": 160,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """The package's figure style while a figure is made; also a decorator.

    It stands on matplotlib's own defaults, whatever the user's are.
    """
    matplotlib = _matplotlib()
    # a backend is of windows, and once it is set rc_context does not give the user's back
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"}
    with matplotlib.rc_context({**defaults, **_STYLE}):
        yield


def _matplotlib() -> ModuleType:
    """matplotlib, also where it cannot be imported for a bad MPLBACKEND or matplotlibrc."""
    try:
        import matplotlib
    except (ValueError, OSError):
        for name in [each for each in sys.modules if each.startswith("matplotlib.")]:
            del sys.modules[name]  # of the import that broke off
        found: Any = find_spec("matplotlib")
        own = Path(found.origin).parent / "mpl-data"  # where its own matplotlibrc lies
        with chdir(own), patch.dict(os.environ, {"MPLBACKEND": "agg"}):
            import matplotlib
    return matplotlib


def new_figure(height: float, title: str) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, laid out without overlaps, under one sentence in lines.

    ``height`` is in inches, ``title`` what is seen.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    tied = _TIED.sub(lambda sign: f"\u00a0{sign[1]}" + "\u00a0 "[sign[1] == "%"], title)
    lines = fill(tied.strip(), _TITLE_LETTERS)
    figure.suptitle(lines, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    return figure, axes


def power_of_ten(value: float, _position: int = 0) -> str:
    """``10⁻⁶`` for a decade, as plain text, which every font of a browser can show."""
    exponent = round(math.log10(value))
    if -2 <= exponent <= 2:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(_SUPERSCRIPTS)


def log_axis(axis: Axis, low: float, high: float) -> None:
    """A logarithmic axis from ``low`` to ``high``, labelled at decades, or evenly inside one."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    name = axis.axis_name  # type: ignore[attr-defined]
    axis.axes.set(**{f"{name}scale": "log", f"{name}lim": (low, high)})
    axis.set_minor_locator(NullLocator())
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))

    def places(*mantissas: int) -> list[float]:
        every = [m * 10.0**power for power in range(first, last + 1) for m in mantissas]
        return [place for place in every if low <= place <= high]

    if len(places(1)) >= _FEWEST_LABELS:
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_major_formatter(FuncFormatter(power_of_ten))
        return
    inside = places(1, 3) if high > 10 * low else places(1, 2, 5)
    enough = len(inside) >= _FEWEST_LABELS
    axis.set_major_locator(FixedLocator(inside) if enough else MaxNLocator(3))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


@figure_style()
def figure_svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an ``<svg>`` element to put into a page.

    It has no fixed size, style sheet or metadata, its text is text, and it is the same bytes each
    time. Every id derives from ``name``, so that several can stand in one page; a screen reader
    says ``title``.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    # layouts write a draft, whose date is read from there even if the figure is to have none
    undated = patch.dict(os.environ, {"SOURCE_DATE_EPOCH": ""})
    with rc_context({"svg.hashsalt": name}), undated:
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    for pattern, replacement in _NOT_NEEDED:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    view_box = re.findall(r'viewBox="[^"]*"', head)[0]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view_box} role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{escape(title)}</title>{body.strip()}'
    )


@figure_style()
def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
