"""The study real-networks: a small one from end to end, and its page."""

from __future__ import annotations

import copy
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
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
from opmerge.denoisers.inputs import DataInputs
from opmerge.denoisers.networks import MLPDenoiser
from opmerge.denoisers.samples import load_samples
from opmerge.denoisers.teacher_folder import load_teacher, write_teacher_folder
from opmerge.denoisers.teacher_training import TeacherConfig, make_scheduler
from opmerge.distillation.executor import Distillation
from opmerge.loop import make_accelerator
from opmerge.measure.evaluation import evaluate_student
from opmerge.settings.distillation import DistillationConfig, OptimizationConfig
from opmerge.training import GammaRates
from opmerge_studies.real_networks import (
    Config,
    _agreement,
    _prediction,
    contenders,
)
from opmerge_studies.real_networks.agreement import rank_agreement
from opmerge_studies.real_networks.agreement_figures import (
    _spread,
    agreement_figure,
    cost_figure,
    pareto_set,
)
from opmerge_studies.shared.runner import ProgressBar, Report, Runner, no_progress
from opmerge_studies.shared.study import STUDIES

Record = dict[str, Any]

STUDY = STUDIES["real-networks"]


def run(config: Config, folder: Path, progress: ProgressBar = no_progress) -> Record:
    return STUDY.run(config, Runner(folder, progress, print))


def finding(record: Record) -> str:
    return STUDY.answer(record).finding


def study_page(record: Record) -> str:
    return STUDY.page(record)


def small(**settings: Any) -> Config:
    teacher = TeacherConfig(
        hidden_size=32,
        num_layers=1,
        num_iterations=60,
        optimization=OptimizationConfig(train_batch_size=32, learning_rate=1e-3),
    )
    optimization = OptimizationConfig(
        train_batch_size=32, learning_rate=1e-3, checkpointing_steps=4
    )
    distillation = DistillationConfig(num_iterations=5, optimization=optimization)
    given = {
        "plans": ("best", "best-calibrated", "vanilla", "boot", "consistency"),
        "seeds": (0, 1),
        "teacher": teacher,
        **settings,
    }
    return Config(steps=4, distillation=distillation, num_samples=64, **given)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()  # accelerate collects garbage before every merge: 0.3 s with torch's own objects
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def record(folder: Path) -> Record:
    found = run(small(), folder)
    return dict(json.loads(json.dumps(found, allow_nan=False)))


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
    found = _prediction(problem, build_strategy("boot", 4))
    assert min(found["w2"], found["floor"]) > 0
    assert found["error"] == pytest.approx(np.hypot(found["w2"], found["floor"]), rel=1e-12)


def test_measurements_are_those_of_the_plan_executed_alone(record: Record, folder: Path) -> None:
    """Vanilla with seed 1, trained and measured here: the same bits."""
    settings = small().distillation
    settings = replace(settings, optimization=replace(settings.optimization, seed=1))
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

    again = json.loads(json.dumps(run(small(), folder, watched)))
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
    page = unescape(study_page(whole))
    assert "was not tested: no calibration" in page
    assert "the error of the measurement" in page  # of one seed, the seeds' spread is not known


def test_a_cell_is_of_its_settings(folder: Path, record: Record) -> None:
    """Fewer samples to measure by: another cell, although the student is the same."""
    settings = replace(
        small(
            seeds=(0,),
            calibrate=False,
            plans=("vanilla", "hybrid:2"),
            teacher_folder=str(folder / "teacher"),
        ),
        distillation=replace(small().distillation, num_iterations=1),
        num_samples=32,
    )
    before = run(settings, folder / "other")
    for changed in (
        {"num_samples": 16},
        {"distillation": replace(settings.distillation, num_iterations=2)},
    ):
        settings = replace(settings, **changed)
        after = run(settings, folder / "other")
        for plan, other in zip(after["plans"], before["plans"], strict=True):
            assert plan["measured"] != other["measured"]
        before = after


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1}, "`steps` must be >= 2"),
        ({"plans": ("boot", "booot")}, "`strategy` must be one of"),
        ({"plans": ("boot", "boot")}, "`plans` must be given, each of them once"),
        ({"seeds": ()}, "`seeds` must be given"),
        ({"num_samples": 3}, "`num_samples` must be >= 4"),
        ({"distillation": DistillationConfig(merge_seconds=1.0)}, "`merge_seconds` must be left"),
        ({"distillation": DistillationConfig(num_iterations=(1, 2))}, "must be a whole number"),
    ],
)
def test_refused_settings(settings: Record, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config(**settings)


def problems_of(eigenvalue: float, calibrated: float) -> dict[str, Problem]:
    """Operator copy at T = 4: BOOT is best of a small eigenvalue, vanilla of a large one."""
    return {
        kind: Problem(resolve_spectrum(f"eigenvalues:{value}"), cosine_schedule(4))
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
    assert (joined.name, other.name, other.aliases) == ("best", "vanilla", ("best-calibrated",))
    both, _ = contenders(names, problems_of(0.5, 0.4))
    assert (both.name, both.aliases, both.label) == ("best", ("best-calibrated",), "planner's plan")
    alone = {"spectrum": problems_of(0.5, 10.0)["spectrum"]}
    assert [each.name for each in contenders(names, alone)] == ["best", "progressive"]


def test_teacher_and_students_may_have_their_own_precision(tmp_path: Path, record: Record) -> None:
    """The teacher is trained in bfloat16, which it shows; the students in float32."""
    plain = small(seeds=(0,), calibrate=False)
    optimization = replace(plain.teacher.optimization, mixed_precision="bf16")
    teacher = replace(plain.teacher, optimization=optimization)
    found = run(replace(plain, teacher=teacher), tmp_path)
    assert found["settings"]["teacher_digest"] != record["settings"]["teacher_digest"]
    assert AcceleratorState().mixed_precision == "no"
    again = replace(plain, teacher_folder=str(tmp_path / "teacher"))
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


def test_only_what_every_seed_says_is_reversed() -> None:
    """b is predicted best; measured, a is below b in both seeds, whose ranges overlap."""

    def entry(name: str, predicted: float, values: list[float], reach: float) -> Record:
        measured = [{"value": v, "low": v - reach, "high": v + reach} for v in values]
        return {
            "label": name,
            "is_canonical": name != "d",
            "predicted": {"spectrum": {"error": predicted}},
            "per_seed": [{"measured": {"paired_rms": each}} for each in measured],
        }

    def found(count: int, reach: float) -> Record:
        values = {"a": [1.0, 2.0], "b": [1.1, 2.1], "c": [1.2, 1.9], "d": [1.3, 2.2]}
        predicted = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}
        return _agreement(
            "spectrum", [entry(key, predicted[key], values[key][:count], reach) for key in values]
        )

    assert found(2, reach=9.0)["reversed"] == [["b", "a"]]
    assert found(1, reach=0.01)["reversed"] == [["b", "a"], ["c", "a"]]
    assert found(1, reach=0.06)["reversed"] == [["c", "a"]]
    canonical = found(1, reach=0.01)["canonical"]
    assert canonical["plans"] == ["a", "b", "c"]
    # ranks 3, 1, 2 against 1, 2, 3: ρ = 1 - 6·6/24; with d behind in both, 1 - 6·6/60
    assert canonical["spearman"]["of_means"] == pytest.approx(-0.5)
    assert found(1, reach=0.01)["spearman"]["of_means"] == pytest.approx(0.4)


def test_settings_tell_their_types_when_asked() -> None:
    """A tool that reads types at run time resolves all of them, parts of settings included."""
    kinds: list[Any] = [Config]
    for kind in kinds:  # grows
        kinds += [hint for hint in get_type_hints(kind).values() if is_dataclass(hint)]
    assert set(kinds) > {Config, TeacherConfig, DistillationConfig, OptimizationConfig}


# The page


def test_pareto_set() -> None:
    cost, error = np.array([1.0, 2.0, 2.0, 3.0, 1.0]), np.array([5.0, 3.0, 4.0, 3.0, 5.0])
    assert pareto_set(cost, error) == {0, 1, 4}


def by_hand(record: Record, **errors: tuple[float, float, float]) -> Record:
    """The record with other errors: predicted from the spectrum, calibrated, and measured."""
    result = copy.deepcopy(record)
    for plan in result["plans"]:
        spectrum, calibrated, measured = errors[plan["label"]]
        plan["predicted"]["spectrum"]["error"] = spectrum
        plan["predicted"]["calibrated"]["error"] = calibrated
        plan["measured"] = {"mean": measured, "low": 0.9 * measured, "high": 1.1 * measured}
    return result


@pytest.fixture
def told(record: Record) -> Record:
    """Vanilla is predicted best and measured worst."""
    result = by_hand(
        record, boot=(2e-5, 1.1, 1.0), vanilla=(1e-5, 1.0, 2.0), consistency=(0.1, 1.4, 1.2)
    )
    for kind in ("spectrum", "calibrated"):
        result["agreement"][kind] = {
            **rank_agreement([2.0, 1.0, 3.0], [[1.0, 2.0, 1.2]] * 2),
            "reversed": [["vanilla", "boot"], ["vanilla", "consistency"]],
        }
    return result


def test_finding_states_what_failed(told: Record) -> None:
    """Ranks 2, 1, 3 against 1, 3, 2: ρ = 1 - 6·6/24 = -0.5; only boot < consistency holds."""
    chance = "ρ = -0.50, which chance may give as well; reversed"
    assert finding(told) == (
        f"From the spectrum alone, the order of plans is predicted at Spearman's {chance} in every "
        f"seed: 2 of 3 pairs. From the calibrated training model, {chance}: 2 of 3 pairs. "
        "The planner's plan (boot), from either prediction, is the best measured. "
        "2 of 3 calibrated errors are within a factor 1.5 of the measured ones (not vanilla)."
    )


def test_finding_tells_how_good_the_planners_plans_are(told: Record) -> None:
    """Measured 1, 2 and 1.2, each ± 10 %."""
    boot, vanilla, _ = told["plans"]
    boot["aliases"] = ["boot"]
    vanilla.update(name="best-calibrated", label="calibrated plan")
    assert (
        "The planner's plan (boot) is the best measured. The calibrated planner's plan is number "
        "3 of 3 measured, 100 % behind boot. "
    ) in finding(told)
    vanilla["measured"] = {"mean": 1.15, "low": 1.05, "high": 1.25}
    assert "is number 2 of 3 measured, 15 % behind boot, in ranges that overlap. " in finding(told)
    boot.update(name="boot", aliases=[])
    assert "The planner's plan" not in finding(told)


def test_canonical_plans_are_told_where_there_are_others(told: Record) -> None:
    every = {
        "plans": ["boot", "vanilla", "consistency"],
        **rank_agreement([1, 2, 3], [[1, 3, 2]] * 2),
    }
    spectrum = told["agreement"]["spectrum"]
    spectrum["canonical"] = every
    assert "canonical" not in finding(told)
    told["plans"].append({**told["plans"][1], "name": "uniform:4", "label": "uniform:4"})
    told["agreement"]["calibrated"]["canonical"] = None
    spectrum.update(p_value=0.1, kendall_p_value=0.2)
    every.update(p_value=0.3, kendall_p_value=0.4)
    assert "ρ = -0.50 (canonical plans: 0.50), which chance" in finding(told)
    assert finding(told).count("canonical") == 1
    page = unescape(study_page(told))
    assert page.count("Canonical: boot, vanilla and consistency.") == 1
    # ρ and τ over all plans, then over the canonical ones: ranks 1, 2, 3 against 1, 3, 2
    assert (
        '<th scope="row">0</th><td>-0.500</td><td>-0.333</td><td>0.500</td><td>0.333</td>' in page
    )
    assert '<th scope="row">95 % interval</th>' + 4 * "<td>–</td>" in page
    assert '<th scope="row">p</th><td>0.1</td><td>0.2</td><td>0.3</td><td>0.4</td>' in page


def test_page_tells_intervals_and_the_error_of_samples(told: Record) -> None:
    """The mean of the half intervals of both seeds is (0.1 + 0.3) / 2."""
    told["agreement"]["spectrum"]["kendall"].update(of_means=0.624, interval=[0.1234, 0.987])
    for cell, reach in zip(told["plans"][0]["per_seed"], (0.1, 0.3), strict=True):
        cell["measured"]["paired_rms"] = {"value": 1.0, "low": 1 - reach, "high": 1 + reach}
    page = unescape(study_page(told))
    assert "<dt>Kendall's τ, the spectrum alone; 95 % over plans: 0.12 … 0.99</dt>" in page
    assert "<dd>0.62</dd>" in page
    assert "<dt>Spearman's ρ, the spectrum alone; 95 % over plans: –</dt>" in page  # 3 plans
    assert "<td>1</td><td>0.9 … 1.1</td><td>0.2</td>" in page


def test_page_tells_the_disagreements(told: Record) -> None:
    page = unescape(study_page(told))
    assert finding(told) in page
    assert (
        "From the spectrum alone, vanilla (1e-05 → 2) is predicted better and measured worse, in "
        "every seed, than boot (2e-05 → 1) and consistency (0.1 → 1.2)."
    ) in page
    assert "vanilla: the calibrated error 1 is too low by a factor 2.00; 2 is measured." in page
    assert "Of 2 pairs reversed from the spectrum alone, the calibrated one puts 0 right." in page
    assert "Best, best-calibrated and boot are the same plan, counted once." in page
    assert "From the spectrum alone, 1 of 3 pairs of plans are in order" in page
    agreeing = by_hand(
        told, boot=(1e-5, 1.0, 1.0), vanilla=(2e-5, 2.0, 2.0), consistency=(0.1, 3.0, 3.0)
    )
    agreeing["agreement"]["spectrum"]["reversed"] = [["consistency", "boot"]]
    page = unescape(study_page(agreeing))
    assert "Of 1 pair reversed from the spectrum alone, the calibrated one puts 1 right." in page
    for kind in ("spectrum", "calibrated"):
        agreeing["agreement"][kind]["reversed"] = []
    page = unescape(study_page(agreeing))
    assert "From the spectrum alone, no pair is reversed in every seed." in page
    assert "All 3 calibrated errors are within a factor 1.5 of the measured ones." in page
    assert "is too" not in page
    assert "puts" not in page


def test_page_stands_alone(record: Record) -> None:
    page = study_page(record)
    assert page == study_page(record)
    assert len(page) < 400_000
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count('src="data:image/png;base64,') == 1 + len(record["plans"])
    assert page.count("<svg") == 5  # two scatters, directions, two costs


def test_figures_hold_the_numbers(told: Record) -> None:
    plans = told["plans"]
    plans[0]["aliases"] = ["boot"]
    plans[1]["aliases"] = ["best-calibrated"]
    for kind, x, planned in (("spectrum", (2e-5, 1e-5, 0.1), 0), ("calibrated", (1.1, 1, 1.4), 1)):
        axes = agreement_figure(plans, kind, "title").axes[0]
        drawn = [set(zip(*line.get_data(), strict=True)) for line in axes.lines]
        points = list(zip(x, (1.0, 2.0, 1.2), strict=True))
        assert drawn == [set(points) - {points[planned]}, {points[planned]}]
        assert {text.get_text() for text in axes.texts} == {"boot", "vanilla", "consistency"}
    axes = cost_figure(plans, [3.0, 1.0, 4.0], "seconds", "title").axes[0]
    staircase, others, best = axes.lines
    np.testing.assert_allclose(staircase.get_xydata(), [[1, 2], [3, 1]])
    np.testing.assert_allclose(others.get_xydata(), [[4, 1.2]])
    np.testing.assert_allclose(sorted(best.get_xydata().tolist()), [[1, 2], [3, 1]])


def test_labels_do_not_overlap() -> None:
    heights = np.array([0.5, 0.02, 0.51, 0.98, 0.5])
    spread = _spread(heights, 0.1)
    assert np.diff(np.sort(spread)).min() > 0.1 - 1e-12
    assert spread.min() >= 0
    assert spread.max() <= 1
    np.testing.assert_array_equal(_spread(np.array([0.1, 0.9]), 0.1), [0.1, 0.9])


# The registry


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_registry_is_light_and_pages_need_no_torch(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    listing = "import opmerge_studies.real_networks, sys; print('torch' in sys.modules)"
    assert python(listing) == "False\n"
    drawing = (
        "import json, sys; from opmerge_studies.shared.study import STUDIES; "
        f"record = json.load(open({str(path)!r})); study = STUDIES[record['study']]; "
        "page = study.page(record); print('torch' in sys.modules)"
    )
    assert python(drawing).startswith("False")


def test_study_runs_what_its_module_says() -> None:
    assert STUDY.config() == Config()
    assert STUDY.config(quick=True).steps == 16
    assert Config().plans[0] == "best"
