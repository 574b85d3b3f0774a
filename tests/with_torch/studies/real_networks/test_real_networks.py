"""The study real-networks: a small one from end to end, and its page."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from accelerate import debug_launcher
from accelerate.state import AcceleratorState

from opmerge import (
    InputError,
    Problem,
    build_strategy,
    cosine_schedule,
    evaluate,
    open_source,
    resolve_spectrum,
)
from opmerge.denoisers.inputs import DataInputs, load_samples
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.denoisers.teacher_training import make_scheduler
from opmerge.distillation.executor import Distillation
from opmerge.loop import make_accelerator
from opmerge.measure.evaluation import evaluate_student
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.settings.networks import TeacherConfig
from opmerge.training import GammaRates
from opmerge_studies.real_networks import STUDY, RealNetworksSettings, contenders, prediction
from opmerge_studies.real_networks.agreement import rank_agreement
from opmerge_studies.real_networks.page import pareto_front, plans_figure
from opmerge_studies.shared.runner import ProgressBar, Report, Runner, no_progress

Record = dict[str, Any]

pytestmark = pytest.mark.usefixtures("one_thread")


def run(
    settings: RealNetworksSettings, folder: Path, progress: ProgressBar = no_progress
) -> Record:
    return STUDY.record(settings, Runner(folder, progress, print))


def small(**settings: Any) -> RealNetworksSettings:
    teacher = TeacherConfig(
        hidden_size=32,
        num_layers=1,
        num_iterations=60,
        optimization=OptimizationConfig(train_batch_size=32, learning_rate=1e-3),
    )
    optimization = OptimizationConfig(
        train_batch_size=32, learning_rate=1e-3, lr_warmup_steps=0, checkpointing_steps=4
    )
    distillation = DistillationConfig(
        num_iterations=5, linear_part="train", target_reuse=1, optimization=optimization
    )
    given = {
        "plans": ("best", "best-calibrated", "vanilla", "boot", "consistency"),
        "seeds": (0, 1),
        "teacher": teacher,
        **settings,
    }
    return RealNetworksSettings(steps=4, distillation=distillation, num_samples=64, **given)


TINY = small()


def without_seconds(record: Record) -> Record:
    result = copy.deepcopy(record)
    for plan in result["plans"]:
        for seed in plan["per_seed"]:
            del seed["seconds"]
    return result


# The run


def test_equal_plans_are_counted_once(record: Record) -> None:
    """Under denoiser copy BOOT is optimal (THEORY 7.9), however training goes."""
    first, *others = record["plans"]
    names = (first["name"], first["aliases"], first["label"])
    assert names == ("best", ["best-calibrated", "boot"], "boot")
    assert [plan["label"] for plan in others] == ["vanilla", "consistency"]
    assert not any(plan["aliases"] for plan in others)


def test_predictions_are_those_of_the_theory(record: Record) -> None:
    """The teacher takes the steps of the cosine schedule, but for the float32 of its betas."""
    problem = Problem(resolve_spectrum("digits"), cosine_schedule(4), merge_rule="denoiser-copy")
    for plan in record["plans"]:
        truth = evaluate(problem, build_strategy(plan["label"], 4))
        predicted = plan["predicted"]["spectrum"]
        assert predicted["error"] == pytest.approx(truth.w2, rel=1e-4)
        assert predicted["errors"] == pytest.approx(truth.errors, rel=1e-3, abs=1e-18)
    assert record["calibration"]["training"] == record["predictions"]["calibrated"]


def test_a_predicted_error_has_its_floor() -> None:
    rates = GammaRates(1.0, 10.0, 1.0, 400, 1e-3, 400, 1e-3, floor=0.01)
    problem = Problem(resolve_spectrum("digits"), cosine_schedule(4), rates)
    found = prediction(problem, build_strategy("boot", 4))
    assert min(found["w2"], found["floor"]) > 0
    assert found["error"] == pytest.approx(np.hypot(found["w2"], found["floor"]), rel=1e-12)


def test_measurements_are_those_of_the_plan_executed_alone(record: Record, folder: Path) -> None:
    """Vanilla with seed 1, trained and measured here: the same bits."""
    settings = small().distillation
    settings = settings.replaced(optimization=settings.optimization.replaced(seed=1))
    teacher = load_teacher(folder / "teacher", 4)
    inputs = DataInputs(load_samples(open_source("digits"), (1, 8, 8)))
    accelerator = make_accelerator(settings.optimization)
    alone = Distillation(teacher, build_strategy("vanilla", 4), inputs, settings, accelerator)
    list(alone.run())
    truth = evaluate_student(alone.teacher, alone.student(), 64, 0, num_resamples=0).paired_rms
    found = record["plans"][1]["per_seed"][1]
    assert found["seed"] == 1
    assert found["measured"]["paired_rms"]["value"] == truth.value
    assert found["network_evaluations"] == 5 * 32 * (4 + 3)


def test_parts_sum_to_the_whole(record: Record) -> None:
    eigenvalues = record["spectrum"]["eigenvalues"]
    for plan in record["plans"]:
        for seed in plan["per_seed"]:
            measured = seed["measured"]
            assert len(measured["errors"]) == len(eigenvalues)
            assert sum(measured["errors"]) == pytest.approx(measured["paired_rms"]["value"] ** 2)
        values = [seed["measured"]["paired_rms"]["value"] for seed in plan["per_seed"]]
        assert values[0] != values[1]
        assert plan["measured"] == {
            "mean": pytest.approx(np.mean(values)), "low": min(values), "high": max(values)
        }  # fmt: skip


def test_what_is_finished_is_not_done_again(record: Record, folder: Path) -> None:
    """A lost cell, and one that is damaged, are made again as they were; nothing else is."""
    cells = sorted((folder / "cells").iterdir())
    assert [cell.name for cell in cells] == [
        f"{seed}-{name}.json" for seed in (0, 1) for name in ("boot", "consistency", "vanilla")
    ]
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
    # consistency merges three pairs, vanilla four operators at once: Σ iterations batch (m + 3)
    assert titles == [
        *(("looking through digits", None), ("reading", 1797)),
        ("distilling", 5 * 32 * (3 * 5 + 7)),
    ]


def test_an_interrupted_cell_goes_on(record: Record, folder: Path, tmp_path: Path) -> None:
    """Stopped in the second merge of boot, it gives the same student as without a stop."""
    teacher = str(folder / "teacher")
    settings = small(seeds=(0,), calibrate=False, teacher_folder=teacher)

    @contextmanager
    def stopping(title: str, _total: float | None) -> Iterator[Report]:
        calls = 0

        def report(_done: float, doing: str = "") -> None:
            nonlocal calls
            calls += 1
            if title == "distilling" and calls > 7:
                raise KeyboardInterrupt

        yield report

    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path, stopping)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["0-boot"]
    whole = run(settings, tmp_path)
    assert sorted(path.suffix for path in (tmp_path / "cells").iterdir()) == [".json"] * 3
    for plan, other in zip(whole["plans"], record["plans"], strict=True):
        assert plan["per_seed"][0]["measured"] == other["per_seed"][0]["measured"]
    # the time of a part is not that of the whole
    assert [plan["per_seed"][0]["seconds"] is None for plan in whole["plans"]] == [
        True, False, False
    ]  # fmt: skip
    assert whole["calibration"] is None
    assert set(whole["agreement"]) == {"spectrum"}
    assert "was not tested: no calibration" in STUDY.page(whole).html
    for key in ("order-from-calibrated", "calibrated-size", "calibration-mends"):
        assert verdicts(whole)[key] == "not looked at"


def test_a_cell_is_of_its_settings(folder: Path, record: Record) -> None:
    """Fewer samples to measure by: another cell, although the student is the same."""
    settings = small(
        seeds=(0,),
        calibrate=False,
        plans=("vanilla", "hybrid:2"),
        teacher_folder=str(folder / "teacher"),
    ).replaced(distillation=TINY.distillation.replaced(num_iterations=1), num_samples=32)
    before = run(settings, folder / "other")
    for changed in (
        {"num_samples": 16},
        {"distillation": settings.distillation.replaced(num_iterations=2)},
    ):
        settings = settings.replaced(**changed)
        after = run(settings, folder / "other")
        for plan, other in zip(after["plans"], before["plans"], strict=True):
            assert plan["measured"] != other["measured"]
        before = after


def test_plans_are_compared_at_equal_budgets(folder: Path) -> None:
    """Each is foretold with the training that its merges really have."""
    settings = small()
    config = settings.distillation.replaced(budget="5760", budget_split="length:1")
    record = run(settings.replaced(distillation=config, seeds=(0,)), folder / "equal")
    problem = Problem(resolve_spectrum("digits"), cosine_schedule(4), merge_rule="denoiser-copy")
    for entry in record["plans"]:
        plan = build_strategy(entry["label"], 4)
        lengths = np.array([merge.start - merge.stop for merge in plan.merges])
        costs = 32 * np.array([merge.num_children + 3 for merge in plan.merges])
        assert entry["iterations"] == np.floor(5760 / (lengths @ costs) * lengths).tolist()
        (cell,) = entry["per_seed"]
        assert cell["network_evaluations"] == np.dot(costs, entry["iterations"]) <= 5760
        truth = evaluate(problem, plan, np.array(entry["iterations"]) / 5)
        assert entry["predicted"]["spectrum"]["error"] == pytest.approx(truth.w2, rel=1e-4)
    page = STUDY.told(record)
    assert "plans at equal cost" in page.finding
    assert not any("unequal cost" in line for line in page.grounds["Limits"])


def test_a_record_from_before_budgets_is_told_as_it_was(told: Record) -> None:
    page = STUDY.told(told)
    for key in ("budget", "budget_split", "target_reuse"):
        del told["settings"]["distillation"][key]
    for entry in told["plans"]:
        del entry["iterations"]
    assert STUDY.told(told) == page


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "`steps` must be >= 2"),
        ({"plans": ("boot", "booot")}, "`strategy` must be one of"),
        ({"plans": ("boot", "boot")}, "`plans` must be given, each of them once"),
        ({"seeds": ()}, "`seeds` must be given"),
        ({"num_samples": 3}, "`num_samples` must be >= 4"),
        ({"distillation": DistillationConfig(merge_seconds=1.0)}, "`merge_seconds` must not be"),
        ({"distillation": DistillationConfig(budget="2h")}, "`budget` must not be a time"),
        ({"distillation": DistillationConfig(num_iterations=(1, 2))}, "must be a whole number"),
    ],
)
def test_refused_settings(settings: Record, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RealNetworksSettings(**settings)


def problems_of(eigenvalue: float, calibrated: float) -> dict[str, Problem]:
    """Operator copy at T = 4: BOOT is best of a small eigenvalue, vanilla of a large one."""
    return {
        kind: Problem(
            resolve_spectrum(f"eigenvalues:{value}"), cosine_schedule(4), merge_rule="operator-copy"
        )
        for kind, value in (("spectrum", eigenvalue), ("calibrated", calibrated))
    }


def test_one_plan_is_no_order() -> None:
    problems = problems_of(0.5, 0.5)
    with pytest.raises(InputError, match="`plans` must be at least two different ones"):
        contenders(("boot", "hybrid:3"), problems)
    with pytest.raises(InputError, match="`plans` must be at least two different ones"):
        contenders(("best", "best-calibrated"), problems)


def test_the_planner_plans_for_each_prediction() -> None:
    """THEORY 7: the thresholds at λ = 1 and λ* = 1 + 1/cos(π/8) = 2.08 part the two plans."""
    names = ("best", "best-calibrated", "progressive")
    best, calibrated, progressive = contenders(names, problems_of(0.5, 10.0))
    assert [best.plan, calibrated.plan] == [build_strategy(name, 4) for name in ("boot", "vanilla")]
    labels = [each.label for each in (best, calibrated, progressive)]
    assert labels == ["planner's plan", "calibrated plan", "progressive"]
    joined, other = contenders(("best", "vanilla", "best-calibrated"), problems_of(0.5, 10.0))
    assert (joined.names, other.names) == (("best",), ("vanilla", "best-calibrated"))
    both, _ = contenders(names, problems_of(0.5, 0.4))
    assert (both.names, both.label) == (("best", "best-calibrated"), "planner's plan")
    alone = {"spectrum": problems_of(0.5, 10.0)["spectrum"]}
    assert [each.names for each in contenders(names, alone)] == [("best",), ("progressive",)]


def test_teacher_and_students_may_have_their_own_precision(tmp_path: Path, record: Record) -> None:
    """The teacher is trained in bfloat16, which it shows; the students in float32."""
    plain = small(seeds=(0,), calibrate=False)
    optimization = plain.teacher.optimization.replaced(mixed_precision="bf16")
    teacher = plain.teacher.replaced(optimization=optimization)
    found = run(plain.replaced(teacher=teacher), tmp_path)
    assert found["settings"]["teacher_digest"] != record["settings"]["teacher_digest"]
    assert AcceleratorState().mixed_precision == "no"
    again = plain.replaced(teacher_folder=str(tmp_path / "teacher"))
    alone = run(again, tmp_path / "again")
    assert without_seconds(found)["plans"] == without_seconds(alone)["plans"]


def test_a_teacher_with_classes_is_refused(tmp_path: Path) -> None:
    network = MLPDenoiser([1, 8, 8], 32, 1, 10)
    write_teacher_folder(tmp_path / "teacher", network, make_scheduler(TeacherConfig()))
    settings = small(teacher_folder=str(tmp_path / "teacher"))
    with pytest.raises(InputError, match=r"without classes, got 10 classes; train it without lab"):
        run(settings, tmp_path)


def _refused_on_two(folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # accelerate warns of processes that do not say
    AcceleratorState._reset_state(reset_partial_state=True)  # inherited from this process
    with pytest.raises(InputError, match=r"one process, got 2; start it .* without torchrun"):
        run(small(), Path(folder))
    assert not Path(folder, "teacher.json").exists()
    Path(folder, f"refused-{AcceleratorState().process_index}").touch()


def test_several_processes_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    debug_launcher(_refused_on_two, (str(tmp_path),), num_processes=2)
    assert {path.name for path in tmp_path.glob("refused-*")} == {"refused-0", "refused-1"}


# The page and the room


@pytest.fixture
def told(record: Record) -> Record:
    """Vanilla is predicted best and measured worst: 1, 2 and 1.2, each ± 10 %."""
    result = copy.deepcopy(record)
    errors = {"boot": (2e-5, 1.1, 1.0), "vanilla": (1e-5, 1.0, 2.0), "consistency": (0.1, 1.4, 1.2)}
    for plan in result["plans"]:
        spectrum, calibrated, measured = errors[plan["label"]]
        plan["predicted"]["spectrum"]["error"] = spectrum
        plan["predicted"]["calibrated"]["error"] = calibrated
        plan["measured"] = {"mean": measured, "low": 0.9 * measured, "high": 1.1 * measured}
    for kind in ("spectrum", "calibrated"):
        # ranks 2, 1, 3 against 1, 3, 2: ρ = 1 - 6·6/24; only boot < consistency holds
        result["agreement"][kind] |= {
            **rank_agreement([2.0, 1.0, 3.0], [[1.0, 2.0, 1.2]] * 2),
            "reversed": [["vanilla", "boot"], ["vanilla", "consistency"]],
        }
    return result


def verdicts(record: Record) -> dict[str, str]:
    return {claim.key: claim.verdict for claim in STUDY.told(record).claims}


def test_claims_are_counted(told: Record) -> None:
    assert verdicts(told) == {
        "order-from-spectrum": "does not hold, 1 of 3",
        "order-from-calibrated": "does not hold, 1 of 3",
        "beyond-chance": "does not hold, 0 of 2",
        "planner-best": "holds, 2 of 2",  # boot, from either prediction
        "planner-unbeaten": "holds, 2 of 2",
        "calibrated-size": "does not hold, 2 of 3",  # not vanilla, whose 1 is half of 2
        "calibration-mends": "does not hold, 0 of 2",  # vanilla is first there too
    }
    page = STUDY.told(told)
    assert "plans at unequal cost, boot errs least" in page.finding
    assert "measured errors is -0.50 (from the spectrum alone) and -0.50 (from" in page.finding
    assert "; the planner's is number 1 (from the spectrum alone) and number 1" in page.finding
    assert any("at unequal cost" in line for line in page.grounds["Limits"])


def test_a_planners_plan_that_is_not_the_best(told: Record) -> None:
    boot, vanilla, _ = told["plans"]
    boot["aliases"] = ["boot"]
    vanilla.update(name="best-calibrated", label="calibrated plan")
    for agreement in told["agreement"].values():
        agreement["reversed"] = []
    assert verdicts(told)["planner-best"] == "does not hold, 1 of 2"
    assert verdicts(told)["planner-unbeaten"] == "does not hold, 1 of 2"
    evidence = str(STUDY.told(told).grounds["Evidence"])
    assert "finds calibrated plan: number 3 measured, 100 % behind boot." in evidence
    vanilla["measured"] = {"mean": 1.15, "low": 1.05, "high": 1.25}  # boot's reaches 1.1
    assert verdicts(told)["planner-unbeaten"] == "holds, 2 of 2"
    boot.update(name="boot", aliases=[])
    assert verdicts(told)["planner-best"] == "does not hold, 0 of 1"


def test_the_calibrated_model_mends_what_it_puts_right(told: Record) -> None:
    vanilla = told["plans"][1]
    vanilla["predicted"]["calibrated"]["error"] = 1.3  # between boot and consistency
    assert verdicts(told)["calibration-mends"] == "does not hold, 1 of 2"
    vanilla["predicted"]["calibrated"]["error"] = 2.0
    assert verdicts(told)["calibration-mends"] == "holds, 2 of 2"
    told["agreement"]["spectrum"]["reversed"] = []
    assert verdicts(told)["calibration-mends"] == "not looked at"
    assert verdicts(told)["order-from-spectrum"] == "holds, 3 of 3"


def test_the_page_tells_coefficients_and_disagreements(told: Record) -> None:
    spectrum = told["agreement"]["spectrum"]
    # ranks 1, 2, 3 against 1, 3, 2
    canonical = {"plans": ["boot"], **rank_agreement([1, 2, 3], [[1, 3, 2]] * 2)}
    spectrum.update(canonical=canonical, p_value=0.1, kendall_p_value=0.2)
    canonical.update(p_value=0.3, kendall_p_value=0.4)
    spectrum["kendall"].update(of_means=0.624, interval=[0.1234, 0.987])
    for cell, reach in zip(told["plans"][0]["per_seed"], (0.1, 0.3), strict=True):
        cell["measured"]["paired_rms"] = {"value": 1.0, "low": 1 - reach, "high": 1 + reach}
    page = unescape(STUDY.page(told).html)
    assert "<td>-0.500</td><td>-0.333</td><td>0.500</td><td>0.333</td>" in page
    assert (
        '<th scope="row">95 % interval</th><td>–</td><td>0.12 … 0.99</td><td>–</td><td>–</td>'
    ) in page
    assert '<th scope="row">p</th><td>0.1</td><td>0.2</td><td>0.3</td><td>0.4</td>' in page
    assert "<dt>Kendall's τ, the spectrum alone (95 % over plans 0.12 … 0.99)</dt>" in page
    assert "<dd>0.62</dd>" in page
    # the mean of the half intervals of both seeds is (0.1 + 0.3) / 2
    assert "<td>1</td><td>0.9 … 1.1</td><td>0.2</td>" in page
    assert (
        "From the spectrum alone, vanilla (1e-05 → 2) is predicted better and measured worse than "
        "consistency (0.1 → 1.2)."
    ) in page
    assert "best, best-calibrated, boot: one plan, counted once." in page


def test_the_page_stands_alone(record: Record) -> None:
    page = STUDY.page(record)
    assert page.html == STUDY.page(record).html
    assert len(page.html) < 400_000
    assert "<script" not in page.html
    assert "://" not in page.html.replace("http://www.w3.org", "")
    assert page.html.count('src="data:image/png;base64,') == 1 + len(record["plans"])
    assert page.html.count("<svg") == 5  # two scatters, directions, two costs
    assert page.finding in unescape(page.html)


def test_figures_hold_the_numbers() -> None:
    plans = pd.DataFrame(
        {
            "label": ["boot", "vanilla", "consistency"],
            "measured": [1.0, 2.0, 1.2],
            "low": [0.9, 1.8, 1.1],
            "high": [1.1, 2.2, 1.3],
            "seconds": [3.0, 1.0, 4.0],
        }
    )
    axes = plans_figure(plans, "seconds", "seconds", "title", large=["boot"]).axes[0]
    drawn = {each.get_label(): each for each in axes.containers}
    for row in plans.itertuples():
        points, _, (bar,) = drawn[row.label]
        assert points.get_xydata().tolist() == [[row.seconds, row.measured]]
        assert points.get_markersize() == (10 if row.label == "boot" else 6)
        np.testing.assert_allclose(bar.get_segments()[0][:, 1], [row.low, row.high])


def test_pareto_front() -> None:
    front = pareto_front([1.0, 2.0, 2.0, 3.0, 1.0], [5.0, 3.0, 4.0, 3.0, 5.0])
    assert np.flatnonzero(front).tolist() == [0, 1, 4]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_room_is_light_and_pages_need_no_torch(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    drawing = (
        "import json, sys; from opmerge_studies.real_networks import STUDY; "
        "import opmerge_studies.celeba; listed = 'torch' in sys.modules; "
        f"STUDY.page(json.load(open({str(path)!r}))); print(listed, 'torch' in sys.modules)"
    )
    assert python(drawing) == "False False\n"


def test_settings_of_a_demonstration_and_from_the_command_line() -> None:
    assert STUDY.configured(quick=False) == RealNetworksSettings()
    assert STUDY.configured(quick=True).steps == 16
    assert RealNetworksSettings().plans[0] == "best"
    changed = STUDY.configured(True, ["teacher.hidden_size=8", "seeds=[3,4]"])
    assert (changed.teacher.hidden_size, changed.seeds) == (8, (3, 4))
    assert changed.teacher.num_iterations == 6000
