"""The page of a view: what its template shows, from the answer alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opmerge.explorer import figures
from opmerge.explorer.answers import Answer
from opmerge.explorer.view import RUN, View
from opmerge.forecast import DEFAULT_PRIOR, PRIORS
from opmerge.page import budget, plan, sentences
from opmerge.page.layout import Table
from opmerge.page.sentences import amount, number, percent, times
from opmerge.plans.outline import draw_text
from opmerge.schedules.noise import CONSTRUCTORS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

SOURCES = ("digits", "patches", "faces", "eigenvalues:2")
"""What can be chosen without typing; the last is a single eigenvalue."""

_LAWS = {
    "mlp": "perceptrons, linear part trained",
    "mlp-solved": "perceptrons, linear part solved",
    "unet": "UNets",
}
_OUTLINE_WIDTH = 60
_ROUNDING = 1e-12  # of the largest error; what is below is as good as none


@dataclass(frozen=True)
class Figure:
    """One figure with its words and numbers."""

    heading: str
    seen: str
    svg: Markup
    caption: str
    table: Table | None = None


def whole_page(view: View, answer: Answer | None, problem: str = "") -> str:
    """The HTML document: the controls, and the answer or what is wrong with the view."""
    shown = None if answer is None else _shown(answer)
    text: str = (
        _templates()
        .get_template("page.html.j2")
        .render(
            view=view,
            answer=answer,
            shown=shown,
            problem=problem,
            sources=SOURCES,
            schedules=_with_own(_schedules(), view.schedule),
            laws=_with_own(_LAWS, view.law),
        )
    )
    return text


def fragment(answer: Answer) -> str:
    """What of the document changes with the view."""
    template = _templates().get_template("answer.html.j2")
    text: str = template.render(view=answer.view, answer=answer, shown=_shown(answer))
    return text


def _schedules() -> dict[str, str]:
    named = {name: name for name in CONSTRUCTORS}
    return {("equal-angle:2" if name == "equal-angle" else name): name for name in named}


def _with_own(choices: dict[str, str], own: str) -> dict[str, str]:
    """Choices, with that of the view among them."""
    return choices if own in choices else {**choices, own: "as the run" if own == RUN else own}


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("opmerge.explorer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(answer: Answer) -> dict[str, Any]:
    record, view = answer.record, answer.view
    shared = {
        "headline": _headline(answer),
        "aside": sentences.tie_sentence(record) if answer.is_forecast else "",
        "by_hand": _by_hand(answer),
        "outline": draw_text(answer.plan, _OUTLINE_WIDTH),
        "merges": _merges(answer),
        "handovers": answer.plan.boundaries[(2 if view.free_step else 1) : -1],
        "command": _command(view),
        "notes": record["best"]["notes"],
    }
    own = _forecast(answer) if answer.is_forecast else _linear(answer)
    return {**shared, **own}


def _headline(answer: Answer) -> str:
    record = answer.record
    if answer.is_forecast:
        return sentences.budget_sentence(record)
    return sentences.summary_sentence(record)


def _by_hand(answer: Answer) -> str:
    """How a plan by hand compares with the planner's; empty for that."""
    record = answer.record
    least = answer.planned
    if least is None:
        return ""
    error = record["best"]["paired_rms" if answer.is_forecast else "w2"]
    ratio = f"{number(error / least)} times the error of" if least else "more error than"
    told = f"{ratio} the planner's, {number(least)}"
    if not answer.is_forecast:
        return told
    cost, asked = record["best"]["cost"], record["budget"]["evaluations"]
    return f"{told}, for {percent(cost / asked)} of the budget"


def _merges(answer: Answer) -> list[dict[str, Any]]:
    """Every merge, as the editor lists it."""
    merges, best = answer.plan.merges, answer.record["best"]
    counts: Sequence[int | None] = best.get("iterations", [None] * len(merges))
    return [
        {
            "value": f"{merge.start}-{merge.stop}",
            "words": f"{merge.start} → {merge.stop}: {merge.num_children} operators"
            + ("" if count is None else f", {count:,} iterations"),
            "middle": (merge.start + merge.stop) // 2,
            "count": count,
        }
        for merge, count in zip(merges, counts, strict=True)
    ]


def _forecast(answer: Answer) -> dict[str, Any]:
    record = answer.record
    best, known = record["best"], record["budget"]
    spread, here = (
        known["output_spread"],
        (best["cost"], best["paired_rms"] / known["output_spread"]),
    )
    counts = [float(count) for count in best["iterations"]]
    curve = [(cost, *(value / spread for value in errors)) for cost, *errors in answer.curve]
    entries = [(name, entry) for name, entry in sentences.compared(record)]
    rows = [
        (name, *(entry[key] / spread for key in ("paired_rms", "low", "high")))
        for name, entry in entries
    ]
    merged = f"{best['merges']} merges" if best["merges"] != 1 else "One merge"
    words = ("network evaluations", "error / teacher's spread")
    return {
        "facts": [
            ("error of a sample (rms)", number(best["paired_rms"])),
            ("90 %", f"{number(best['low'])} – {number(best['high'])}"),
            ("of the teacher's spread", percent(here[1])),
            ("network evaluations", amount(best["cost"])),
            ("merges", f"{best['merges']}"),
        ],
        "figures": [
            _plan_figure(
                answer,
                [math.log1p(count) for count in counts],
                f"{merged}, {sentences.iteration_range(best['iterations'])}",
                "more iterations",
                budget.merge_table(record),
            ),
            Figure(
                "Plans at the same cost",
                budget.strategies_title(record),
                figures.strategies_drawing(rows, "this plan", words[1], "Plans at the same cost"),
                "Each with its best size and its best split of the budget; bars hold 90 %.",
                budget.strategy_table(record),
            ),
            Figure(
                "What a budget buys",
                budget.frontier_title(record),
                figures.frontier_drawing(curve, here, words, "Error against budget"),
                "Least error that is forecast at each cost; the band holds 90 %.",
                budget.frontier_table(record),
            ),
            _direction_figure(answer, "error in one direction, forecast"),
        ],
    }


def _linear(answer: Answer) -> dict[str, Any]:
    record, view = answer.record, answer.view
    best, to = record["best"], sentences.target(record)
    entries = [
        ("this plan", best["w2"]),
        *((each["name"], each["w2"]) for each in record["strategies"]),
    ]
    rows = [(name, w2, w2, w2) for name, w2 in sorted(entries, key=lambda entry: entry[1])]
    shares = [float(merge["share"]) for merge in best["merge_list"]]
    words = ("merge time s", f"W2 to {to}")
    largest = max(error for _, error, *_ in answer.curve)
    seen = [
        (time, error, low or error, high)  # without a proof there is no band
        for time, error, low, high in answer.curve
        if error > _ROUNDING * largest
    ]
    facts = [
        (f"W2 to {to}", number(best["w2"])),
        ("proved lower bound", number(best["lower_bound"])),
        ("teacher to the data", number(record["teacher"]["w2_to_data"])),
        ("merges", f"{best['merges']}"),
        ("evaluations per sample and iteration", f"{best['network_evaluations']:g}"),
    ]
    return {
        "facts": facts,
        "figures": [
            _plan_figure(
                answer,
                shares,
                sentences.plan_title(record),
                "more of the squared error",
                plan.merge_table(record),
            ),
            Figure(
                "Strategies compared",
                sentences.strategies_title(record),
                figures.strategies_drawing(rows, "this plan", words[1], "Strategies compared"),
                "All merges trained alike, whatever they cost in all.",
                plan.strategy_table(record),
            ),
            Figure(
                "What longer training buys",
                _longer(answer),
                figures.frontier_drawing(
                    seen, (view.merge_time, best["w2"]), words, "Error against merge time"
                ),
                "W2 of the best plan when all merges train for this time; the band goes down to "
                "the bound that is proved.",
                _curve_table(answer),
            ),
            _direction_figure(answer, "W2 in one direction"),
        ],
    }


def _plan_figure(
    answer: Answer, weights: Sequence[float], seen: str, words: str, table: Table | None
) -> Figure:
    drawn = figures.plan_drawing(answer.plan, weights, f"The plan. {seen}")
    caption = (
        "Each bar is one merge, over the steps that its student jumps over, one row a round; "
        f"stronger: {words}."
    )
    return Figure("The plan", seen, drawn, caption, table)


def _direction_figure(answer: Answer, words: str) -> Figure:
    found = answer.directions
    curves = list(found.curves.items())
    worst = max(range(len(found.eigenvalues)), key=lambda k: curves[0][1][k])
    seen = f"It errs most in directions of λ = {number(found.eigenvalues[worst])}"
    drawn = figures.directions_drawing(
        found.eigenvalues, curves, (found.low, found.high), ("eigenvalue λ", words), seen
    )
    columns = ["eigenvalue λ", *found.curves, *(["5 %", "95 %"] if found.low else [])]
    values = [
        found.eigenvalues,
        *found.curves.values(),
        *([found.low, found.high] if found.low else []),
    ]
    rows = [[f"{value:.4g}" for value in row] for row in zip(*values, strict=True)]
    caption = "Error of a sample along one eigen-direction of the data's covariance."
    return Figure("Error by direction", seen, drawn, caption, Table("By eigenvalue", columns, rows))


def _longer(answer: Answer) -> str:
    errors = {time / answer.view.merge_time: error for time, error, *_ in answer.curve}
    now, later = errors.get(1.0), errors.get(4.0)
    if not now or later is None:
        return "What training for longer leaves"
    if later <= 0:
        return "Training for four times as long leaves nothing"
    if now / later > 1e6:
        return "Training for four times as long leaves less than a millionth of it"
    return f"Training for four times as long leaves {times(now / later)} less"


def _curve_table(answer: Answer) -> Table:
    rows = [[f"{time:.4g}", f"{error:.6g}", f"{low:.6g}"] for time, error, low, _ in answer.curve]
    return Table("Best plans by merge time", ["merge time s", "W2", "lower bound"], rows)


def _command(view: View) -> str:
    """What answers the same on the command line, without plans by hand; empty for a run's own."""
    if RUN in (view.schedule, view.law):
        return ""
    told = f"opmerge plan {quote(view.source, safe='/:,.~-_')} --steps {view.steps}"
    told += f" --schedule {quote(view.schedule, safe='/:,.~-_')}" * (view.schedule != "cosine")
    told += f" --student_steps {view.student_steps}" * (view.student_steps > 1)
    if view.theory == "linear":
        told += f" --merge_time {view.merge_time:g} --merge_rule {view.merge_rule}"
        return told + " --training gradient-flow" * (view.student_steps > 1)
    if view.law not in PRIORS:
        return f"{told} --budget {view.budget} --training {quote(view.law, safe='/:,.~-_')}"
    return f"{told} --budget {view.budget}" if view.law == DEFAULT_PRIOR else ""
