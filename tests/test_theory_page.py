"""docs/theory.md: its sections are those that the code cites, and every number in it is right.

A table's cells are either what its caption or its row says (settings) or results, which are
computed here: by the package, by a program of its own (``oracles`` or a line of arithmetic), or
by both. A result must be the computed number, rounded to the digits that are printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp
from oracles import DirectTheory, Setting, best_students, num_plans, students_of, trees_of
from strategies import eigenvalue, merge_times, schedules

from opmerge.linear_teacher import SMALLEST_EIGENVALUE, LinearTeacher
from opmerge.merging import evaluate, initial_coefficients
from opmerge.planners import certified_plan
from opmerge.planners.allocation import OVERHEAD
from opmerge.planners.brute_force import MAX_STEPS, all_plans
from opmerge.planners.combs import step_signs
from opmerge.plans import Plan, build_strategy
from opmerge.plans.strategies import boot
from opmerge.problem import MergeRule
from opmerge.schedules import cosine_schedule, equal_angle_schedule, nichol_dhariwal_schedule
from opmerge.training import (
    DEFAULT_MERGE_TIME,
    EMAFlow,
    GammaRates,
    GradientDescent,
    GradientFlow,
    HeavyBall,
)
from opmerge_studies.better_than_teacher import nearer_excesses
from opmerge_studies.shared.batches import retention_noise
from opmerge_studies.shared.transition import crossings, growth_threshold

ROOT = next(p for p in Path(__file__).parents if (p / "pyproject.toml").exists())
PAGE = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
SECTIONS = set(re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", PAGE, re.MULTILINE))
CANONICAL = ("vanilla", "progressive", "consistency", "boot")

Row = dict[str, str]
Results = dict[str, tuple[Any, ...]]
"""By column, the number that a cell shows, from one or several programs."""


class Read(Row):
    """A row that remembers which of its cells were read as settings."""

    def __init__(self, cells: Row) -> None:
        super().__init__(cells)
        self.used: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self.used.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.used.add(key)
        return super().get(key, default)

    def number(self, key: str) -> Any:
        """Whole numbers as int, others as float."""
        return json.loads(self[key])


def parse_tables(page: str) -> dict[int, list[Row]]:
    """Rows of every numbered table by column name, with the settings of its caption."""
    found = {}
    for number, caption, body in re.findall(
        r"^\*\*Table (\d+)\.\*\* (.*?)\n\n((?:\|[^\n]*\n)+)", page, re.MULTILINE | re.DOTALL
    ):
        common = dict(re.findall(r"\$(\S+) = ([\d.]+)\$", caption))
        head, _, *rows = (
            [cell.strip() for cell in line.strip(" |").split(" | ")] for line in body.splitlines()
        )
        assert len(set(head)) == len(head), head
        found[int(number)] = [common | dict(zip(head, row, strict=True)) for row in rows]
    return found


TABLES = parse_tables(PAGE)


def shows(cell: str, value: Any) -> bool:
    """Whether a cell is a number rounded to the digits that it prints."""
    try:
        unit = Decimal(cell).as_tuple().exponent
    except InvalidOperation:
        return False
    assert isinstance(unit, int)
    with mp.workdps(50):
        return bool(abs(mpmath.mpf(cell) - mpmath.mpf(value)) <= mpmath.mpf(10) ** unit / 2)


def evaluate_latex(latex: str, **values: Any) -> Any:
    """The number that a formula of single letters stands for, in mpmath."""
    text = re.sub(r"\\(left|right|Bigl|Bigr|,)", "", latex).replace(r"\frac14", r"\frac{1}{4}")
    text = text.replace("_{t-1}", "_u").replace("lambda", "eigenvalue")
    text = re.sub(r"\\(sin|cos|tan|log|sqrt) ?(\\[a-z]+|[a-z])", r"\\\1(\2)", text)
    text = text.replace("}{", ")/(").translate({ord("{"): "(", ord("}"): ")", ord("^"): "**"})
    text = text.replace(r"\frac", "")
    tokens = re.findall(r"\\?[a-z]+_\w|\\[a-z]+|[a-zA-Z]|\d+|\*\*|[-+/()]", text)
    assert "".join(tokens) == text.replace(" ", ""), latex
    code = ""
    for before, token in pairwise(["+", *tokens]):
        is_value = re.match(r"[\\\w(]", token) and re.search(r"[\w)]$", before)
        times = "*" if is_value and before[1:] not in FUNCTIONS else ""
        number = f"mpf({token})" if token.isdecimal() else token.removeprefix("\\")
        code += times + number
    names = {name: getattr(mpmath, name) for name in (*FUNCTIONS, "mpf", "pi", "e")}
    return eval(code, names | {name: mpmath.mpf(value) for name, value in values.items()})


FUNCTIONS = ("sin", "cos", "tan", "log", "exp", "sqrt")


def formula(before: str, after: str = " .", **values: Any) -> Any:
    """The formula that stands on the page between two texts, evaluated."""
    (latex,) = re.findall(re.escape(before) + r"([^$\n]+?)" + re.escape(after), PAGE)
    return evaluate_latex(latex, **values)


# The numbers of each table


def constants(row: Read) -> Results:
    values = {
        "optimisation time": DEFAULT_MERGE_TIME,
        "overhead": OVERHEAD,
        "eigenvalue": SMALLEST_EIGENVALUE,
        "largest T": MAX_STEPS,
    }
    (value,) = (v for name, v in values.items() if row["constant"].startswith(name))
    return {"value": (value,)}


SCHEDULES = {
    "plain cosine": lambda num_steps, _: cosine_schedule(num_steps),
    "equal angles": equal_angle_schedule,
    "Nichol-Dhariwal cosine": lambda num_steps, _: nichol_dhariwal_schedule(num_steps),
}


def shrinkage(row: Read) -> Results:
    value, num_steps = row.number("λ"), row.number("T")
    schedule = SCHEDULES[row.get("schedule", "plain cosine")](num_steps, value)
    teacher = LinearTeacher(schedule, np.array([value]))
    product = float(np.exp(teacher.log_composite(0, num_steps)[0]))
    direct = DirectTheory(Setting(schedule, (value,))).composite(0, num_steps)[0]
    root = mpmath.sqrt(value)
    return {"P(0,T)": (product, direct), "P(0,T)/√λ": (product / root, direct / root)}


def retention(row: Read) -> Results:
    """By the package, by the page's formula, and as an integral or by iteration."""
    n = row.number("n")
    rate = 2 * mpmath.mpf(n)
    if row["model"] in ("flow", "average"):
        time = row.number("s")
        model: Any = GradientFlow(time)
        stated = formula("(`GradientFlow`) | $", "$", r=rate, s=time)
        direct: Any = mpmath.exp(-rate * time)
        if row["model"] == "average":
            beta = row.number("β")
            model = EMAFlow(float(time), float(beta))
            place = r"at $\beta = r$ it is $" if beta == rate else "(`EMAFlow`) | $"
            stated = formula(place, "$", r=rate, s=time, beta=beta)
            passed = mpmath.quad(lambda u: mpmath.exp(beta * u - rate * u), [0, time])
            direct = mpmath.exp(-beta * time) * (1 + beta * passed)
    else:
        eta, count = row.number("η"), row.number("N")
        mu = row.number("μ") if row["model"] == "momentum" else 0
        model = HeavyBall(eta, count, mu) if mu else GradientDescent(eta, count)
        stated = formula("(`GradientDescent`) | $", "$", eta=eta, r=rate, N=count)
        if mu:
            stated = momentum_formula(eta * rate, count, mpmath.mpf(mu))
        direct, velocity = mpmath.mpf(1), mpmath.mpf(0)
        for _ in range(count):
            velocity = mu * velocity - eta * rate * direct
            direct += velocity
    return {"retention": (model.retention(np.array([float(n)]))[0], stated, direct)}


def momentum_formula(speed: Any, count: int, momentum: Any) -> Any:
    middle = (1 + momentum - speed) / 2
    gap = mpmath.sqrt(middle**2 - momentum)
    if gap == 0:
        return formula(r"$\rho = ", "$", x=middle, N=count)
    return formula(r"\rho = e_N = ", N=count, x_1=middle + gap, x_2=middle - gap)


def fitted_retention(row: Read) -> Results:
    shape, scale, power, n = (float(row.number(key)) for key in ("a", "θ", "p", "n"))
    model = GammaRates(shape, scale, power, 1, 1.0, 1, 1.0, num_modes=256)
    modes = [model.retention(np.array([n]), mode)[0] ** 2 for mode in range(256)]
    stated = formula(r"E[\rho^2] = ", a=shape, theta=scale, p=power, n=n)
    width = scale * n**power

    def density(k: Any) -> Any:
        return k ** (shape - 1) * mpmath.exp(-k / width - 2 * k)

    direct = mpmath.quad(density, [0, width, mpmath.inf]) / (mpmath.gamma(shape) * width**shape)
    return {"E[ρ²]": (np.dot(modes, model.mode_weights), stated, direct)}


def strategy_errors(rule: MergeRule) -> Callable[[Read], Results]:
    def errors(row: Read) -> Results:
        return {name: strategy_error(row, name, rule) for name in CANONICAL}

    return errors


def strategy_error(row: Read, name: str, rule: MergeRule) -> tuple[Any, ...]:
    num_steps, value = row.number("T"), float(row.number("λ"))
    setting = Setting(cosine_schedule(num_steps), (value,), time=row.number("s"), merge_rule=rule)
    plan = build_strategy(name, num_steps)
    operator, composite = DirectTheory(setting, 50).plan(plan.to_nested())
    return evaluate(setting.problem(), plan).w2, abs(operator - composite)[0]


def plan_counts(row: Read) -> Results:
    num_steps, found = row.number("T"), {}
    for count in (1, 2):
        listed = sum(1 for _ in all_plans(num_steps, count)) if num_steps >= count else 0
        nested = len(students_of(num_steps, count)) if num_steps >= count else 0
        found[f"K = {count}"] = (listed, nested, num_plans(num_steps, count))
    return found


def thresholds(row: Read) -> Results:
    """By the formulas of 7.2 and 7.3, and as extremes over the steps."""
    num_steps = row.number("T")
    turn = np.pi / (2 * num_steps) * np.arange(1, num_steps)
    ratios = np.tan(turn) / np.tan(turn - np.pi / (4 * num_steps))
    lower = formula(r"{\cos\delta - \sin\delta} = ", r" \approx", T=num_steps)
    upper = formula(r"\lambda^\ast(T) = 1 + ", r" \approx", T=num_steps) + 1
    return {
        "λ₀(T)": (lower, ratios.min()),
        "λ*(T)": (upper, ratios.max(), growth_threshold(num_steps)),
    }


def best_inside_the_band(row: Read) -> Results:
    setting = Setting(
        cosine_schedule(row.number("T")), (float(row.number("λ")),), time=row.number("s")
    )
    w2, students = best_students(setting)
    assert students == json.loads(row["best plan"])
    canonical = [
        evaluate(setting.problem(), build_strategy(name, setting.num_steps)).w2
        for name in CANONICAL
    ]
    return {"best of the four over it": (min(canonical) / w2,)}


def crossing_points(row: Read) -> Results:
    """The package's, each moved to where two lines of direct arithmetic have the same error."""
    num_steps, time = row.number("T"), row.number("s")
    found: Results = {"formula": (formula(r"\lambda_\times(T) \approx ", T=num_steps),)}
    points = crossings(num_steps, GradientFlow(time))
    with mp.workdps(30):
        angles = [mpmath.pi * t / (2 * num_steps) for t in range(num_steps)]
        schedule = [(mpmath.cos(angle), mpmath.sin(angle)) for angle in angles]
        for name, point in zip(("first", "second", "third"), points, strict=True):
            near = (point - 1e-9, point + 1e-9)
            exact = mpmath.findroot(lambda value: boot_over_vanilla(schedule, time, value), near)
            found[name] = (point, exact)
    return found


def boot_over_vanilla(schedule: list[tuple[Any, Any]], time: float, value: Any) -> Any:
    """log of BOOT's error over vanilla's, from the steps t < T; n_T = 1, so ρ_T = exp(-2 s)."""
    kept = mpmath.exp(-2 * mpmath.mpf(time))
    boot, product = mpmath.mpf(1), mpmath.mpf(1)
    for (a, s), (alpha, sigma) in pairwise(schedule):
        factor = (value * a * alpha + s * sigma) / (value * alpha**2 + sigma**2)
        boot, product = boot * (kept + (1 - kept) * factor), product * factor
    vanilla = kept + (1 - kept) * product
    return mpmath.log(abs(boot - product) / abs(vanilla - product))


def hybrids(row: Read) -> Results:
    num_steps, time = row.number("T"), row.number("s")
    setting = Setting(
        cosine_schedule(num_steps),
        (float(row.number("large λ")), row.number("small λ")),
        (1, row.number("directions")),
        time,
    )
    problem = setting.problem()
    result = certified_plan(problem)
    assert result.gap < 1e-9
    first, *singles = (merge.num_children - 1 for merge in result.plan.merges)
    assert set(singles) == {1}
    canonical = [build_strategy(name, num_steps) for name in CANONICAL]
    theory = DirectTheory(setting, 60)
    best, *others = (
        theory.distances(theory.plan(plan.to_nested())[0]) for plan in (result.plan, *canonical)
    )
    gain = min(evaluate(problem, plan).w2 for plan in canonical) / result.w2
    return {
        "first block": (first,),
        "single steps": (len(singles),),
        "best of the four over it": (gain, min(others) / best),
    }


CHECKS: dict[int, Callable[[Read], Results]] = {
    1: constants,
    2: shrinkage,
    3: shrinkage,
    4: retention,
    5: fitted_retention,
    6: plan_counts,
    7: thresholds,
    8: strategy_errors("operator-copy"),
    9: best_inside_the_band,
    10: crossing_points,
    11: hybrids,
    12: strategy_errors("denoiser-copy"),
}


@cache
def computed(number: int) -> tuple[tuple[Read, Results], ...]:
    rows = [Read(row) for row in TABLES[number]]
    return tuple((row, CHECKS[number](row)) for row in rows)


def test_every_table_has_its_program() -> None:
    assert set(TABLES) == set(CHECKS)
    assert len(re.findall(r"Table \d+\.\*\*", PAGE)) == len(CHECKS)


@pytest.mark.parametrize("number", CHECKS)
def test_the_numbers_of_a_table(number: int) -> None:
    for row, results in computed(number):
        for column, values in results.items():
            if column in row:
                assert all(shows(row[column], value) for value in values), (column, row, values)
        numbers = {column for column, cell in row.items() if re.search(r"\d", cell)}
        assert numbers <= row.used | set(results), row


@pytest.mark.parametrize("number", CHECKS)
def test_a_changed_digit_does_not_pass(number: int) -> None:
    for row, results in computed(number):
        for column in results.keys() & row.keys():
            cell = row[column]
            for place in (i for i, character in enumerate(cell) if character.isdecimal()):
                other = f"{cell[:place]}{(int(cell[place]) + 1) % 10}{cell[place + 1 :]}"
                assert not shows(other, results[column][0]), (other, row)


def test_no_number_stands_outside_the_tables() -> None:
    """But numbers of sections and tables, years, and the small whole numbers of formulas."""
    text = re.sub(r"^\*\*Table \d+\.\*\* .*?\n\n(\|[^\n]*\n)+", "", PAGE, flags=re.M | re.S)
    text = text.replace("arXiv 2505.16024", "").replace("OEIS A001003", "")
    text = re.sub(r"```math.*?```|^#[^\n]*$|\$[^$.]+\$", "", text, flags=re.M | re.S)
    for number in re.findall(r"(?<![\w.^_{])\d+(?:\.\d+)?(?!\w)", text):
        is_small = "." not in number and int(number) < 10
        is_year = re.fullmatch(r"(19|20)\d\d", number)
        assert is_small or is_year or number in SECTIONS | set(map(str, TABLES)), number


def test_inline_mathematics_is_safe_from_markdown() -> None:
    for formula in re.findall(r"\$([^$\n]+)\$", re.sub(r"```math.*?```", "", PAGE, flags=re.S)):
        assert not re.search(r"[})]_|\*|\|.*\n", formula), formula
    assert "operatorname" not in PAGE  # which GitHub refuses


IDENTITIES = {
    "splitting": (r"(\rho + \gamma P)(\rho + \gamma Q) ", " .", {"P": 0.3, "Q": 2.5}),
    "shrinking": (r"\lambda \le ", " .", {"t": 3, "delta": 0.04}),
    "start": (r"I(\beta_1; a, b) = ", ",\n", {"beta_1": 0.8, "a": 0.7, "b": 0.4}),
    "end of shrinking": (r"\lambda_0(T) = ", r" \approx", {"T": 9, "delta": np.pi / 36}),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_both_sides_of_an_identity_are_equal(name: str) -> None:
    before, after, values = IDENTITIES[name]
    (latex,) = re.findall(re.escape(before) + r"([^$\n]+?)" + re.escape(after), PAGE)
    sides = ((before + latex) if name == "splitting" else latex).split(" = ")
    numbers = [evaluate_latex(side, rho=0.2, gamma=0.8, **values) for side in sides]
    assert len(numbers) == 2
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-12)


def test_operators_are_as_the_page_says() -> None:
    """Sections 1, 2, 4 and 7, on the jumps j = 4 → k = 3 → i = 1."""
    problem = Setting(cosine_schedule(5), (0.7,), merge_rule="denoiser-copy").problem()
    teacher, schedule = problem.teacher, problem.schedule
    steps = {"t": 4, "u": 3, "s": 1, "i": 1, "k": 3, "j": 4}
    values: dict[str, Any] = {"eigenvalue": 0.7, "n_t": teacher.variances[4, 0]}
    values |= {f"alpha_{name}": schedule.alphas[step] for name, step in steps.items()}
    values |= {f"sigma_{name}": schedule.sigmas[step] for name, step in steps.items()}
    assert formula("n_t = ", r", \qquad v", **values) == pytest.approx(values["n_t"])
    jump = np.exp(teacher.log_composite(1, 4)) * (1 - teacher.jump_deficit(1, 4))
    assert formula(r"J(t \to s) = ", " = ", **values) == pytest.approx(jump[0])
    weight = schedule.alphas[1] - schedule.alphas[4] * schedule.sigmas[1] / schedule.sigmas[4]
    assert formula(r"\qquad c(i,j) = ", r", \qquad", **values) == pytest.approx(weight)
    gain = initial_coefficients(problem, 4, 3, 1)[1] * np.exp(teacher.log_composite(1, 3))
    assert formula(r"{c(k,j)} = ", " > 0", **values) == pytest.approx(gain[0])
    growth = np.expm1(teacher.log_steps[4])
    assert formula("A_t - 1 = ", **values) == pytest.approx(growth[0])
    values["eigenvalue"] = formula(r"\max_{1 \le t < T} ", **values)
    assert formula("A_t - 1 = ", **values) == pytest.approx(0.0, abs=1e-15)


def test_formulas_of_their_own() -> None:
    """Second derivative of 7.7, mean square of 7.5, ends of 6, noise of minibatches of 9."""
    curvature = formula("$f'' = ", "$", x=0.3)
    assert curvature == pytest.approx(mpmath.diff(lambda x: mpmath.expm1(x) ** 2, 0.3, 2))
    t = (np.arange(1000) + 0.5) * np.pi / 1000
    mean_square = np.mean((np.pi / 4 * np.sin(t) - 0.5) ** 2)
    assert formula("square is $", "$") == pytest.approx(mean_square, rel=1e-5)
    assert formula(r"0 < e < ", l=0.1) == pytest.approx(nearer_excesses(np.array(0.1))[1])
    noise = retention_noise(GradientDescent(0.03, 40), np.array([1.5]), 16)
    stated = formula(r"{(E\rho)^2} = ", eta=0.03, n=1.5, n_b=16, N=40)
    assert stated == pytest.approx(noise[0])


# What the code cites


CITATION = r"THEORY[\s#]+(\d+(?:\.\d+)?(?:(?:,| and| to)\s+\d+(?:\.\d+)?)*)"


def citations() -> Iterator[tuple[Path, str]]:
    for folder in ("src", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__):
                for cited in re.findall(CITATION, path.read_text(encoding="utf-8")):
                    yield path, cited


def test_every_citation_resolves() -> None:
    found = list(citations())
    for path, cited in found:
        for section in re.findall(r"\d+(?:\.\d+)?", cited):
            assert section in SECTIONS, (path, cited)
    written = sum(
        path.read_text(encoding="utf-8").count("THEORY")
        for folder in ("src", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in (Path(__file__).name, "test_docstrings.py")  # which look for them
    )
    assert len(found) == written - 1  # that of the package says where the page is
    assert "THEORY" in (ROOT / "src" / "opmerge" / "__init__.py").read_text(encoding="utf-8")


def test_links_and_sections() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    assert {str(n) for n in range(1, 10)} <= SECTIONS
    assert {f"7.{n}" for n in range(1, 10)} <= SECTIONS


# Proofs that stand on the page and in no other test


@pytest.mark.parametrize("num_steps", [2, 3, 4, 5, 6, 7])
def test_boot_is_best_up_to_the_end_of_shrinking(num_steps: int) -> None:
    """7.2: λ_0(T) = tan(π/4 + π/4T), by all plans below it and by signs about it."""
    edge = float(np.tan(np.pi / 4 + np.pi / (4 * num_steps)))
    setting = Setting(cosine_schedule(num_steps), (edge * (1 - 1e-12), (1 + edge) / 2), time=1.0)
    theory = DirectTheory(setting, 50)
    values = theory.all_students(1)
    best = trees_of(num_steps, 0).index(boot(num_steps).to_nested())
    assert (values >= theory.composite(0, num_steps)).all()
    assert (values[best] == values.min(axis=0)).all()
    about = Setting(cosine_schedule(num_steps), (edge * (1 + 1e-9), edge * (1 - 1e-9)))
    assert (step_signs(about.problem()) < 0).tolist() == [False, True]


@settings(max_examples=30)
@given(st.data())
def test_denoiser_copy_wants_boot_on_any_schedule(data: st.DataObject) -> None:
    """7.9, with all plans; students lie between the one jump and the teacher (4)."""
    num_steps = data.draw(st.integers(2, 6))
    setting = Setting(
        data.draw(schedules(num_steps)),
        (data.draw(eigenvalue),),
        time=data.draw(merge_times),
        merge_rule="denoiser-copy",
    )
    theory = DirectTheory(setting)
    values = theory.all_students(1)
    a, s, n = theory.alphas, theory.sigmas, theory.variances[-1]
    jump = (a[0] * a[-1] * theory.eigenvalues + s[0] * s[-1]) / n
    best = trees_of(num_steps, 0).index(boot(num_steps).to_nested())
    rounding = mpmath.mpf(10) ** -150 * abs(values).max()
    assert (values <= theory.composite(0, num_steps) + rounding).all()
    assert (values >= jump - rounding).all()
    assert (values <= values[best] + rounding).all()


@given(st.lists(st.floats(1e-3, 1.0), min_size=5, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_one_by_one_differs_from_at_once_as_the_proof_says(
    parts: list[float], kept: float, share: float
) -> None:
    """7.9 (c): ρ γ D (S - C_2), with blocks of one and of two steps."""
    a, b1, c, d, _ = np.array(parts) / sum(parts) * np.pi / 2
    b2, first, second = c + d, np.cos(b1), np.cos(c) * np.cos(d)
    before = np.cos(a) + share * (1 - np.cos(a))

    def start(value: float, done: float, more: float) -> float:
        return float((value * np.sin(done + more) - np.sin(more)) / np.sin(done))

    def merged(value: float, done: float, more: float, rest: float) -> float:
        return float(kept * start(value, done, more) + (1 - kept) * value * rest)

    one_by_one = merged(merged(before, a, b1, first), a + b1, b2, second)
    at_once = merged(before, a, b1 + b2, first * second)
    gap = before * first - start(before, a, b1)
    stretch = np.sin(a + b1 + b2) / np.sin(a + b1)
    expected = kept * (1 - kept) * gap * (stretch - second)
    assert gap >= -1e-14 / np.sin(a)
    assert stretch >= 1 - 1e-12
    assert one_by_one - at_once == pytest.approx(expected, abs=1e-10 / np.sin(a))


@pytest.mark.parametrize("plan", list(all_plans(5)), ids=lambda plan: json.dumps(plan.to_nested()))
def test_the_spine_is_a_product_over_blocks(plan: Plan) -> None:
    """7, "The spine": b = A_j Π (ρ_j + γ_j R)."""
    theory = DirectTheory(Setting(cosine_schedule(5), (0.3, 1.2, 4.0), time=0.4), 50)
    (tree,) = plan.to_nested()
    blocks: list[list[Any]] = []
    while not isinstance(tree, int):
        tree, *block = tree
        blocks.append(block)
    kept, product = theory.retentions[5], theory.steps[5]
    for block in blocks:
        inside = theory.steps[0]
        for child in block:
            inside = inside * theory.operator(child)[0]
        product = product * (kept + (1 - kept) * inside)
    assert (abs(product - theory.plan(plan.to_nested())[0]) < mpmath.mpf(10) ** -45).all()
