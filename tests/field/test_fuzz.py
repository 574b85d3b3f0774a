"""Anything that can be typed or written: an answer that an independent reader has too, or one line.

``make fuzz`` tries FUZZ_EXAMPLES inputs of each kind, every ordinary run a few.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from oracles import DirectTheory, Setting
from strategies import plans

from opmerge import GradientFlow, NoiseSchedule, PlanFile, cosine_schedule
from opmerge.errors import InputError
from opmerge.plans import STRATEGIES, build_strategy

Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.fuzz

ASKED = os.environ.get("FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(ASKED or 12),
    deadline=timedelta(seconds=20) if ASKED else None,
    derandomize=ASKED is None,
    suppress_health_check=list(HealthCheck),
)

odd_numbers = st.sampled_from(
    ["0", "-1", "1e400", "-1e400", "nan", "inf", "1e-400", "1_0", "٣", "0x10", "1e5", " 7 ", ""]
)
numbers = st.one_of(
    st.integers(-3, 40).map(str), st.floats(0, 1e3).map(repr), st.floats().map(repr), odd_numbers
)
odd_values: SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), numbers),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def answered(result: tuple[int, str, str]) -> bool:
    """Whether there was an answer; a refusal is status 2, one line, and nothing else."""
    status, out, err = result
    assert "Traceback" not in err
    if status == 0:
        return True
    assert (status, out) == (2, ""), result
    assert [line for line in err.splitlines() if line.startswith("opmerge: ")] == err.splitlines()
    assert err.count("\n") == 1
    return False


# Plan files: what is not refused says what a plain JSON reader finds in it.


@st.composite
def damaged_files(draw: st.DrawFn) -> str:
    """A plan file, changed as a value, as text or not at all."""
    plan = draw(plans(max_steps=8))
    schedule = cosine_schedule(plan.num_steps)
    file = PlanFile(plan, schedule, GradientFlow(), "denoiser-copy", "teacher")
    content = json.loads(file.dumps())
    for _ in range(draw(st.integers(0, 2))):
        place = content
        key = draw(st.sampled_from(sorted(content)))
        if isinstance(content[key], dict) and content[key] and draw(st.booleans()):
            place, key = content[key], draw(st.sampled_from(sorted(content[key])))
        if draw(st.booleans()):
            place[key] = draw(odd_values)
        else:
            del place[key]
    text = json.dumps(content)
    for _ in range(draw(st.integers(0, 2))):
        here = draw(st.integers(0, len(text)))
        text = text[:here] + draw(st.text(max_size=3)) + text[here + draw(st.integers(0, 3)) :]
    return text


def leaves(nested: Any) -> list[int]:
    return (
        [nested] if isinstance(nested, int) else [leaf for each in nested for leaf in leaves(each)]
    )


@FUZZ
@given(damaged_files())
def test_plan_files(text: str) -> None:
    try:
        file = PlanFile.loads(text)
    except InputError:
        return
    content = json.loads(text)
    assert file.plan.to_nested() == content["students"]
    steps = [step for tree in content["students"] for step in leaves(tree)]
    assert steps == list(range(file.plan.student_steps and steps[0], 0, -1))
    assert file.plan.num_steps == content["steps"]
    again = PlanFile.loads(file.dumps())
    assert (again.plan, again.training) == (file.plan, file.training)


# Sources: eigenvalues as Python reads them, tables as pandas does, arrays as NumPy does.


@FUZZ
@given(words=st.lists(numbers, max_size=5), space=st.sampled_from(["", " "]))
def test_eigenvalues_in_words(words: list[str], space: str, run: Run) -> None:
    result = run("spectrum", f"eigenvalues:{f',{space}'.join(words)}", "--json")
    if answered(result):
        found = json.loads(result[1])
        values = np.repeat(found["eigenvalues"], np.array(found["multiplicities"], dtype=int))
        np.testing.assert_allclose(values, sorted(map(float, words), reverse=True), rtol=1e-15)


@FUZZ
@given(
    table=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=4,
                   max_size=9),
    named=st.booleans(),
    indexed=st.booleans(),
    separator=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    noise=st.text(max_size=3),
)  # fmt: skip
def test_tables_of_samples(
    table: list[list[float]], named: bool, indexed: bool, separator: str, encoding: str, noise: str,
    run: Run, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    frame = pd.DataFrame(table, columns=["a", "b", "c"])
    frame.to_csv(path, sep=separator, index=indexed, header=named, encoding=encoding)
    if noise.strip():
        with path.open("a", encoding="utf-16" if encoding == "utf-16" else "utf-8") as stream:
            stream.write(noise)
    result = run("spectrum", path, "--json")
    if answered(result) and not noise.strip() and (named or not indexed):
        found = json.loads(result[1])
        covariance = np.cov(np.array(table), rowvar=False, bias=False)
        rescaled = covariance * (len(table) - 1) / len(table)  # divided by N, or by N - 1
        total, traces = found["trace"], [np.trace(each) for each in (covariance, rescaled)]
        assert min(abs(total - trace) for trace in traces) <= 1e-5 * abs(total) + 1e-5


@FUZZ
@given(
    content=st.binary(max_size=300),
    suffix=st.sampled_from([".npy", ".npz", ".csv", ".safetensors", ".pt", ".json", ".txt", ""]),
    head=st.sampled_from([b"", b"\x93NUMPY\x01\x00v\x00", b"PK\x03\x04", b"\xff\xfe", b"1,2\n"]),
)
def test_files_of_any_bytes(
    content: bytes, suffix: str, head: bytes, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    path.write_bytes(head + content)
    for words in (("spectrum", path), ("plan", "digits", "--steps", 4, "--schedule", path)):
        answered(run(*words))
    answered(run("evaluate", "digits", "--plan", path))


# Options: what `evaluate` and `plan` say is what mpmath says.

EIGENVALUES = "0.3,1.2,4"
OPTIONS: dict[str, SearchStrategy[str]] = {
    "--steps": st.one_of(st.integers(-1, 9).map(str), numbers),
    "--student_steps": st.one_of(st.integers(0, 4).map(str), numbers),
    "--merge_time": st.one_of(st.floats(0.05, 30).map(repr), numbers),
    "--merge_rule": st.sampled_from(["operator-copy", "denoiser_copy", "copy", ""]),
    "--objective": st.sampled_from(["teacher", "data", "Data", "both"]),
    "--schedule": st.sampled_from(["cosine", "linear", "equal-angle:2", "cosine:1", "no/where"]),
    "--planner": st.sampled_from(["auto", "certified", "interval", "pareto", "brute_force", "x"]),
    "--epsilon": numbers,
    "--strategy": st.sampled_from(["boot", "uniform:3", "phased:3,1", "hybrid:-1", "boot:2", "x"]),
    "--max_seconds": st.one_of(st.just("60"), numbers),
    "--training": st.sampled_from(["gradient-flow", "no/where", "."]),
    "--seed": numbers,
    "--top_k": numbers,
}


@st.composite
def options(draw: st.DrawFn) -> dict[str, str]:
    steps = {"--steps": draw(st.integers(4, 8).map(str))}
    chosen = draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=4, unique=True))
    return steps | {name: draw(OPTIONS[name]) for name in chosen}


@FUZZ
@given(command=st.sampled_from(["plan", "compare", "evaluate"]), asked=options(), plan=st.data())
def test_options(
    command: str,
    asked: dict[str, str],
    plan: st.DataObject,
    run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "run_of_fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    words = [word for pair in asked.items() for word in pair]
    if command == "evaluate":
        words += ["--plan", plan.draw(st.sampled_from([*STRATEGIES, "uniform:2", "[[4,3],[2,1]]"]))]
    result = run(command, f"eigenvalues:{EIGENVALUES}", *words, "--output_dir", folder, "--json")
    if not answered(result):
        assert not folder.exists(), result
        return
    names = {path.name for path in folder.iterdir()}
    evaluated = {"evaluation.json"}
    planned = {"config.json", "record.json", "report.html", "plan.json"}
    assert names == (evaluated if command == "evaluate" else planned)
    found = json.loads(result[1])
    problem, best = found["problem"], found.get("best", found.get("plan"))
    if "model" not in problem["training"] or problem["training"]["model"] != "gradient-flow":
        return
    setting = Setting(
        NoiseSchedule.from_dict(problem["schedule"], problem["steps"]),
        tuple(sorted(map(float, EIGENVALUES.split(",")), reverse=True)),
        time=problem["training"]["time"],
        merge_rule=problem["merge_rule"],
        objective=problem["objective"],
    )
    theory = DirectTheory(setting)
    if "--top_k" not in asked and "budget" not in found:
        expected = float(theory.distances(theory.plan(best["students"])[0]))
        assert best["w2"] == pytest.approx(expected, rel=1e-6, abs=1e-12)
    for strategy in found.get("strategies", ()):
        if "budget" not in found and "--top_k" not in asked:
            named = build_strategy(strategy["name"], problem["steps"], len(best["students"]))
            expected = float(theory.distances(theory.plan(named.to_nested())[0]))
            assert strategy["w2"] == pytest.approx(expected, rel=1e-6, abs=1e-12)
            assert strategy["w2"] >= best["lower_bound"] * (1 - 1e-9)


# Variables: the same numbers whatever the environment says.

VARIABLES = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR", "RANK", "LOCAL_RANK", "LANG",
             "WORLD_SIZE", "OMP_NUM_THREADS", "HOME", "TMPDIR", "MPLBACKEND", "PMI_SIZE",
             "PYTHONWARNINGS", "TRANSFORMERS_VERBOSITY", "XDG_CACHE_HOME")  # fmt: skip


@FUZZ
@given(
    changes=st.dictionaries(
        st.sampled_from(VARIABLES),
        st.one_of(numbers, st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
        max_size=4,
    )
)
def test_variables(changes: dict[str, str], run: Run) -> None:
    words = ("compare", "eigenvalues:0.3,1.2", "--steps", 5, "--json")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in changes.items():
            patched.setenv(name, value)
        result = run(*words)
    if answered(result):
        found = json.loads(result[1])["best"]
        assert found["w2"] == pytest.approx(_EXPECTED, rel=1e-12)


_EXPECTED = float(
    (theory := DirectTheory(Setting(cosine_schedule(5), (1.2, 0.3), merge_rule="denoiser-copy")))
    .distances(theory.plan(build_strategy("boot", 5).to_nested())[0])
)  # fmt: skip


def test_the_oracle_hears_a_wrong_answer(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        answered((2, "", "Traceback (most recent call last):\n"))
    with pytest.raises(AssertionError):
        answered((2, "half an answer", "opmerge: refused\n"))
