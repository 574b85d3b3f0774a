"""The study budgets: a small one from end to end, and its page."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge import InputError, build_strategy, open_source
from opmerge.denoisers.inputs import DataInputs, load_labels, load_samples
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation.executor import Distillation
from opmerge.forecast import LAW_PRIORS, forecast, read_table
from opmerge.forecast.cost import IterationCost
from opmerge.loop import make_accelerator
from opmerge.measure.evaluation import evaluate_student
from opmerge.plans.drawing import recorded_plan
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.networks import TeacherConfig
from opmerge_studies.budgets import PLANNED, STUDY, BudgetsSettings
from opmerge_studies.shared.features import train_features
from opmerge_studies.shared.runner import ProgressBar, Report, Runner, no_progress

Record = dict[str, Any]

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGETS = (8e3, 1.6e4)


def run(
    settings: BudgetsSettings,
    folder: Path,
    progress: ProgressBar = no_progress,
    backend: str = "loky",
    num_workers: int = 1,
) -> Record:
    return STUDY.record(settings, Runner(folder, progress, print, num_workers, backend))


def small(**settings: Any) -> BudgetsSettings:
    teacher = TeacherConfig(
        hidden_size=32,
        num_layers=1,
        num_iterations=60,
        optimization=OptimizationConfig(train_batch_size=32, learning_rate=1e-3),
    )
    given = {
        "student_steps": (1, 2),
        "budgets": BUDGETS,
        "plans": ("vanilla", "boot", "uniform:4"),
        "splits": ("law", "even"),
        "seeds": (1,),
        "teacher": teacher,
        "optimization": OptimizationConfig(train_batch_size=32, checkpointing_steps=25),
        "num_samples": 64,
        **settings,
    }
    return BudgetsSettings(steps=4, **given)


TINY = small()

COST = IterationCost(32, "auto", is_linear_solved=True, fewest=17)  # ⌈8 · 65 / 32⌉


def without_seconds(record: Record) -> Record:
    result = copy.deepcopy(record)
    for name in ("cells", "spent"):
        for row in result["tables"][name]:
            del row["seconds"]
    return result


def verdicts(record: Record) -> dict[str, str]:
    return {claim.key: claim.verdict for claim in STUDY.told(record).claims}


# The run


def test_distinct_plans_are_trained_once(record: Record) -> None:
    """At K = 2, T = 4 all strategies merge two steps at once; with one merge all splits are one."""
    found = {
        (each["student_steps"], each["plan"]): each["names"].split("; ")
        for each in record["tables"]["cells"]
        if each["budget"] == BUDGETS[0]
    }
    assert set(found[1, "vanilla"]) - {PLANNED} == {
        "vanilla", "vanilla, even split", "uniform:4", "uniform:4, even split"
    }  # fmt: skip
    hand = {name for count, name in found if count == 1} - {PLANNED}
    assert hand == {"vanilla", "boot", "boot, even split"}
    every = {"vanilla", "boot", "uniform:4"}
    assert {*found[2, "vanilla"]} >= every
    assert {count for count, name in found if PLANNED in found[count, name]} == {1, 2}


def test_all_cost_the_budget_to_an_iteration(record: Record) -> None:
    """Without a free step, whose teacher runs are paid from the budget as well."""
    entries = [each for each in record["plans"] if "free_step" not in each]
    costs = {
        (row["student_steps"], row["budget"], row["plan"]): row["cost"]
        for row in record["tables"]["cells"]
    }
    for each in entries:
        children = [merge.num_children for merge in recorded_plan(each).merges]
        cost = COST.total(children, each["iterations"])
        assert cost == costs[each["student_steps"], each["budget"], each["plan"]]
        even = len(children) if "even" in each["plan"] else 1  # of an even split, each has one more
        dearest = max(32 * (m + 1) + 32 * 3 for m in children) * even
        assert each["budget"] - dearest < cost <= each["budget"]
    assert all(row["cost"] <= row["budget"] for row in record["tables"]["cells"])
    even = [each for each in entries if each["plan"] == "boot, even split"]
    assert all(len(set(each["iterations"])) == 1 for each in even)


def test_forecasts_are_those_of_the_law(record: Record, folder: Path) -> None:
    table = read_table(folder / "calibration" / "table.npz")
    law = LAW_PRIORS["mlp-solved"].fitted(table.sizes)
    assert record["knowledge"]["law"] == law.law.to_dict()
    for each, row in zip(record["plans"], record["tables"]["cells"], strict=True):
        assert each["plan"] == row["plan"]
        truth = forecast(law, table, recorded_plan(each), each["iterations"])
        found = row["forecast"], row["forecast_low"], row["forecast_high"]
        assert found == (truth.rms, truth.low, truth.high)


def test_measurements_are_those_of_the_plan_executed_alone(record: Record, folder: Path) -> None:
    """BOOT with seed 1, trained and measured here: the same bits. Its rate is that of a run."""
    (entry,) = (
        each
        for each in record["plans"]
        if (each["plan"], each["student_steps"], each["budget"]) == ("boot", 1, BUDGETS[1])
    )
    settings = DistillationConfig(
        num_iterations=tuple(entry["iterations"]),
        optimization=OptimizationConfig(train_batch_size=32, learning_rate=3 * 3e-4, seed=1),
    )
    teacher = load_teacher(folder / "teacher", 4)
    inputs = DataInputs(load_samples(open_source("digits"), (1, 8, 8)))
    accelerator = make_accelerator(settings.optimization)
    alone = Distillation(teacher, build_strategy("boot", 4), inputs, settings, accelerator)
    list(alone.run())
    samples, classes = inputs.data[:], load_labels("digits", len(inputs.data))
    classifier = train_features(samples, classes)
    assert record["network"]["classifier_accuracy"] == classifier.accuracy
    given = alone.teacher, alone.student(), 64, 0
    measured = evaluate_student(*given, features=classifier, num_resamples=0)
    truth, frechet = measured.paired_rms, measured.features
    (row,) = (
        row
        for row in record["tables"]["cells"]
        if (row["plan"], row["student_steps"], row["budget"], row["seed"])
        == ("boot", 1, BUDGETS[1], 1)
    )
    assert (row["measured"], row["measured_low"]) == (truth.value, truth.low)
    assert row["sliced_w2"] == measured.sliced_w2.value
    assert frechet is not None
    assert row["frechet"] == frechet.student_to_teacher.value > 0


def test_a_run_pays_for_its_planning(record: Record) -> None:
    spent = record["tables"]["spent"]
    assert [(row["seed"], row["student_steps"], row["budget"]) for row in spent] == [
        (1, count, budget) for count in (1, 2) for budget in BUDGETS
    ]
    for row in spent:
        assert row["planning"] > 0
        assert row["cost"] + row["planning"] <= row["budget"]
    for row in record["tables"]["regret"]:
        assert row["run"] in [each["measured"] for each in spent]


def test_students_of_a_guided_teacher_cost_its_second_passes(tmp_path: Path) -> None:
    settings = small(
        student_steps=(1,),
        budgets=BUDGETS[1:],
        plans=("vanilla",),
        guidance_scale=2.0,
        teacher=TINY.teacher.replaced(label_dropout=0.2),
        with_run=False,
    )
    record = run(settings, tmp_path)
    teacher = load_teacher(tmp_path / "teacher", 4)
    assert (teacher.num_classes, record["network"]["guidance"]["scale"]) == (10, 2.0)
    assert record["network"]["teacher_digest"] != teacher.digest
    for row in record["tables"]["cells"]:
        (entry,) = (each for each in record["plans"] if each["plan"] == row["plan"])
        if row["plan"] != PLANNED:  # four steps of two passes each and a solved linear part, R = 4
            (count,) = entry["iterations"]
            targets = max(np.ceil(count / 4), COST.fewest)
            assert row["cost"] == 32 * (targets * (2 * 4 + 1) + 3 * count)
        assert row["measured"] > 0


def test_what_is_finished_is_not_done_again(record: Record, folder: Path) -> None:
    """A lost cell, and one that is damaged, are made again as they were; nothing else is."""
    cells = sorted((folder / "cells").iterdir())
    assert len(cells) == len(record["tables"]["cells"])
    cells[1].unlink()
    cells[5].write_text("{}", encoding="utf-8")
    kept = {
        path: path.stat().st_mtime_ns
        for path in [*folder.rglob("*.json"), *folder.rglob("*.safetensors")]
        if path != cells[5]
    }
    titles = []

    @contextmanager
    def watched(title: str, total: float | None) -> Iterator[Report]:
        titles.append((title, total))
        yield lambda done, doing="": None

    again = run(TINY, folder, watched)
    assert without_seconds(again) == without_seconds(record)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    (work,) = (total for title, total in titles if title == "distilling")
    assert work is not None
    assert 2 * 0.9 * BUDGETS[0] < work <= 2 * BUDGETS[1]


def test_an_interrupted_cell_goes_on(
    record: Record, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a checkpoint of its first cell, it gives the same student as without.

    More seeds change no plan.
    """
    teacher = str(folder / "teacher")
    settings = small(
        student_steps=(1,),
        budgets=BUDGETS[:1],
        seeds=(1, 0),
        with_run=False,
        teacher_folder=teacher,
    )

    def stopping(training: Distillation) -> Iterator[Any]:
        for done, _ in zip(whole_run(training), range(40), strict=False):
            yield done
        raise KeyboardInterrupt

    whole_run = Distillation.run
    monkeypatch.setattr(Distillation, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path)
    monkeypatch.setattr(Distillation, "run", whole_run)
    (left,) = (tmp_path / "cells").iterdir()
    assert left.is_dir()
    whole = run(settings, tmp_path)
    assert {path.suffix for path in (tmp_path / "cells").iterdir()} == {".json"}
    assert whole["tables"]["spent"] == []
    expected = {
        row["plan"]: row["measured"]
        for row in record["tables"]["cells"]
        if (row["student_steps"], row["budget"]) == (1, BUDGETS[0])
    }
    rows = whole["tables"]["cells"]
    assert [row["seed"] for row in rows] == [1, 0] * len(expected)
    assert {row["plan"]: row["measured"] for row in rows[::2]} == expected
    assert all(a["measured"] != b["measured"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    assert all(a["forecast"] == b["forecast"] for a, b in zip(rows[::2], rows[1::2], strict=True))
    # the time of a part is not that of the whole
    assert [row["seconds"] is None for row in rows] == [True] + [False] * (len(rows) - 1)
    assert verdicts(whole)["regret-with-planning"] == "not looked at"


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_workers_train_the_same_students(
    record: Record, folder: Path, tmp_path: Path, backend: str
) -> None:
    """Cells shared out over two processes have the bits of those trained in this one."""
    settings = small(
        student_steps=(2,),
        budgets=BUDGETS[:1],
        with_run=False,
        teacher_folder=str(folder / "teacher"),
    )
    shared = run(settings, tmp_path, backend=backend, num_workers=2)["tables"]["cells"]
    alone = [
        row
        for row in record["tables"]["cells"]
        if (row["student_steps"], row["budget"]) == (2, BUDGETS[0])
    ]
    assert len(shared) == len(alone) > 1
    for one, other in zip(shared, alone, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_law_that_is_fitted_to_probes(folder: Path, tmp_path: Path) -> None:
    """Its probes cost no more than they may, and the plans are planned by it."""
    settings = small(
        law="probes",
        calibration_budget="1e5",
        student_steps=(1,),
        budgets=BUDGETS[:1],
        plans=("vanilla",),
        splits=("law",),
        seeds=(0,),
        with_run=False,
        teacher_folder=str(folder / "teacher"),
    )
    record = run(settings, tmp_path)
    known = record["knowledge"]
    assert 0 < known["probe_evaluations"] <= 1e5
    assert known["source"].startswith("6 probes of this network, T = 4")
    assert (
        known["law"]
        != LAW_PRIORS["mlp-solved"].fitted(np.ones(len(known["law"]["rates"]))).law.to_dict()
    )
    calibration = json.loads((tmp_path / "calibration" / "calibration.json").read_text())
    assert calibration["law"]["law"] == known["law"]
    assert "no plan's cost counts" in str(STUDY.told(record).grounds["Limits"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plans": ("boot", "booot")}, "`strategy` must be one of"),
        ({"student_steps": (5,)}, "`student_steps` must be <="),
        ({"budgets": (2e4, 1e4)}, "`budgets` must ascend and not be empty"),
        ({"budgets": ()}, "`budgets` must ascend and not be empty"),
        ({"seeds": ()}, "`seeds` must be given"),
        ({"num_samples": 3}, "`num_samples` must be >= 4"),
        ({"splits": ("halves",)}, "`splits.* must be"),
        ({"guidance_scale": 2.0}, "`guidance_scale` must be of a teacher that also knows no class"),
        (
            {"source": "patches", "guidance_scale": 1.0},
            "`guidance_scale` must come with the classes",
        ),
        ({"calibration_budget": "2h"}, "`calibration_budget` must be network evaluations"),
        (
            {"optimization": OptimizationConfig(learning_rate=0.1)},
            "`optimization.learning_rate` is not used here, got 0.1; set learning_rate",
        ),
    ],
)
def test_refused_settings(settings: Record, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small(**settings)


def test_a_budget_that_pays_for_no_plan_is_refused(record: Record, folder: Path) -> None:
    before = sorted((folder / "cells").iterdir())
    with pytest.raises(InputError, match=r"`budget` must be >= .* an iteration of each merge"):
        run(small(budgets=(100.0, 1e4)), folder)
    assert sorted((folder / "cells").iterdir()) == before


# The page and the room


@pytest.fixture
def told(record: Record) -> Record:
    """Measured as forecast, but for BOOT at K = 1, which leaves three times that."""
    result = copy.deepcopy(record)
    for row in result["tables"]["cells"]:
        factor = 3.0 if (row["plan"], row["student_steps"]) == ("boot", 1) else 1.0
        row["measured"] = factor * row["forecast"]
        row["forecast_low"], row["forecast_high"] = 0.9 * row["forecast"], 1.1 * row["forecast"]
    for row in result["tables"]["agreement"]:
        row.update(spearman=0.96, apart=20, right=19)
    for row, regret in zip(result["tables"]["regret"], [0.05, 0.06, -0.5, 0.0], strict=True):
        row.update(best=1.0, planned=1 + regret, regret=regret, run_regret=0.2)
    result["tables"]["reversed"] = [
        {
            "better": "boot (K = 1, 8000)",
            "worse": "vanilla (K = 1, 8000)",
            **{"forecast_better": 1.0, "forecast_worse": 2.0},
            **{"measured_better": 3.0, "measured_worse": 2.5},
        }
    ]
    return result


def test_claims_are_counted(told: Record) -> None:
    cells = told["tables"]["cells"]
    right = len(cells) - 2  # BOOT with two budgets
    share = "holds" if right >= round(0.9 * len(cells)) else "does not hold"
    assert verdicts(told) == {
        "order": "holds, 1 of 1",  # all K together
        "pairs": "holds, 19 of 20",
        "size": f"{share}, {right} of {len(cells)}",
        "intervals": f"{share}, {right} of {len(cells)}",
        "regret": "does not hold, 3 of 4",
        "regret-with-planning": "does not hold, 0 of 4",
    }
    told["tables"]["agreement"][2].update(spearman=0.94, right=18)
    assert verdicts(told)["pairs"] == "does not hold, 18 of 20"
    assert verdicts(told)["order"] == "does not hold, 0 of 1"


def test_disagreements_are_told(told: Record) -> None:
    page = STUDY.page(told)
    evidence = str(page.grounds["Evidence"])
    assert "boot at K = 1 leaves 3 times what was forecast (3.00 in 2 cells)" in evidence
    assert "1 pairs forecast to differ" in evidence
    assert "0.50 … 1.06 times the error of the best of the hand plans" in page.finding
    html = unescape(page.html)
    assert '<th scope="row">boot (K = 1, 8000)</th><td>vanilla (K = 1, 8000)</td>' in html
    assert "<td>1 … 2</td><td>3 … 2.5</td>" in html
    first = html.index("By plan, farthest first")
    assert html.index(">boot</th>", first) < html.index(">vanilla</th>", first)


def test_the_page_stands_alone(record: Record) -> None:
    page = STUDY.page(record)
    assert page.html == STUDY.page(record).html
    assert "<script" not in page.html
    assert "://" not in page.html.replace("http://www.w3.org", "")
    assert page.html.count("<svg") == 3  # gains, forecasts, where these are wrong
    assert list(page.figures) == [
        "what-planning-gains", "forecast-and-measured", "where-the-forecast-is-wrong"
    ]  # fmt: skip
    assert page.finding in unescape(page.html)


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_room_is_light_and_its_page_needs_no_torch(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    drawing = (
        "import json, sys; from opmerge_studies.budgets import STUDY; "
        f"STUDY.page(json.load(open({str(path)!r}))); print('torch' in sys.modules)"
    )
    assert python(drawing) == "False\n"


def test_settings_of_a_demonstration_and_from_the_command_line() -> None:
    assert STUDY.configured(quick=False) == BudgetsSettings()
    assert STUDY.configured(quick=True).steps == 16
    changed = STUDY.configured(True, ["teacher.hidden_size=8", "budgets=[1e3,2e3]", "law=probes"])
    assert (changed.teacher.hidden_size, changed.budgets, changed.law) == (8, (1e3, 2e3), "probes")
    assert np.ptp(BudgetsSettings().budgets) == 8e6 - 5e5
