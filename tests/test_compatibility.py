"""Files that opmerge 0.1 wrote are read as they were then (``fixtures/v0_1``, see its README)."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opmerge import GammaRates, PlanFile, parse_plan
from opmerge_studies.shared import Runner

Run = Callable[..., tuple[int, str, str]]

FILES = Path(__file__).parent / "fixtures" / "v0_1"
EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))
SAMPLES, IMAGES = "data/samples.npy", "data/images.npy"
WITH_CELLS = "ablation"
TEACHER = "dcaebef3ae85880e1debb116f791f98747bde5699c41052fee3c49f2047c7b60"
"""Digest of the teacher on the machine that wrote the run."""
KEPT = sorted(EXPECTED["findings"].keys() - {"plan"})
"""The studies that earlier versions had."""


@pytest.fixture(autouse=True)
def in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files name one another relative to it."""
    monkeypatch.chdir(FILES)


def assert_says(found: Any, expected: Any, place: str = "", rel: float = 1e-7) -> None:
    """All that stood there stands there still; numbers to rounding, notes in any words.

    So not the digest of eigenvalues that are estimated here, whose last bits are LAPACK's on this
    processor; the ``sha256`` of saved ones is held bit by bit.
    """
    if isinstance(expected, dict):
        assert expected.keys() <= found.keys(), place
        for key in expected.keys() - {"notes", "spectrum_sha256"}:
            assert_says(found[key], expected[key], f"{place}.{key}", rel)
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, pair in enumerate(zip(found, expected, strict=True)):
            assert_says(*pair, f"{place}[{number}]", rel)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=rel, abs=1e-12), place
    else:
        assert found == expected, place


def numbers(text: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text))


def assert_tells(page: Path, finding: str) -> None:
    """A page has its figures, and the numbers of what was found, in whatever words."""
    text = page.read_text(encoding="utf-8")
    assert re.search("<img|<svg", text)
    beside = "<style.*?</style>|<svg.*?</svg>|<[^>]*>"  # a figure's labels are not what it finds
    words = unescape(re.sub(beside, " ", text, flags=re.DOTALL))
    assert numbers(finding)
    assert numbers(finding) <= numbers(words)


# Plans


@pytest.mark.parametrize("name", EXPECTED["plans"])
def test_a_plan_file_says_what_it_said(name: str) -> None:
    file, said = PlanFile.read(f"plans/{name}.json"), EXPECTED["plans"][name]
    assert file.plan.to_nested() == said["nested"]
    lists = said["nested"] if len(said["nested"]) > 1 else said["nested"][0]
    assert file.plan == parse_plan(json.dumps(lists), len(said["nested"]))
    assert file.iterations == (said["iterations"] and tuple(said["iterations"]))
    np.testing.assert_allclose(file.schedule.alphas, said["alphas"], rtol=1e-12)
    np.testing.assert_allclose(file.schedule.sigmas, said["sigmas"], rtol=1e-12)
    assert file.schedule.timesteps == (said["timesteps"] and tuple(said["timesteps"]))
    assert file.training.to_dict() == said["training"]
    assert list(file.training.mode_weights) == pytest.approx(said["mode_weights"], rel=1e-9)
    variances = np.array([0.5, 1.0, 2.0])
    for mode, kept in enumerate(said["retention"]):
        np.testing.assert_allclose(file.training.retention(variances, mode), kept, rtol=1e-9)


@pytest.mark.parametrize("name", EXPECTED["plans"])
def test_a_plan_file_is_written_with_the_same_content(name: str) -> None:
    """But for its version, which may go on."""
    content = json.loads(Path(f"plans/{name}.json").read_text(encoding="utf-8"))
    again = json.loads(PlanFile.read(f"plans/{name}.json").dumps())
    assert {**again, "version": 1} == content


@pytest.mark.parametrize("name", EXPECTED["plans"])
def test_a_plan_file_is_worth_what_it_was(name: str, run: Run) -> None:
    status, out, _ = run("evaluate", SAMPLES, "--plan", f"plans/{name}.json", "--json")
    assert status == 0
    assert_says(json.loads(out), EXPECTED["plans"][name]["evaluation"])


def test_files_hold_every_kind_of_plan() -> None:
    """So that the tests above miss none that 0.1 could write."""
    plans = EXPECTED["plans"].values()
    assert {plan["training"]["model"] for plan in plans} == {
        *("gradient-flow", "gradient-descent", "heavy-ball", "ema-flow", "gamma-rates")
    }
    assert {plan["evaluation"]["problem"]["schedule"]["name"] for plan in plans} == {
        *("cosine", "nichol-dhariwal", "linear", "scaled-linear", "equal-angle"),
        *("arrays", "diffusers"),
    }
    assert any(plan["iterations"] == [4, 6, 5] for plan in plans)
    assert any(len(plan["nested"]) == 2 for plan in plans)


# Spectra and calibrations


@pytest.mark.parametrize("name", EXPECTED["spectra"])
def test_a_spectrum_is_what_it_was(name: str, run: Run) -> None:
    status, out, _ = run("spectrum", name, "--json")
    assert status == 0
    assert_says(json.loads(out), EXPECTED["spectra"][name])


def test_a_calibration_predicts_what_it_predicted(run: Run) -> None:
    pytest.importorskip("diffusers")
    said = EXPECTED["plans"]["calibrated"]
    options = ("--schedule", "teacher", "--merge_rule", "denoiser-copy", "--steps", 8)
    status, out, _ = run("plan", SAMPLES, *options, "--training", "calibration.json", "--json")
    assert status == 0
    assert_says(json.loads(out)["best"]["w2"], said["evaluation"]["plan"]["w2"])
    content = json.loads(Path("calibration.json").read_text(encoding="utf-8"))["training"]
    assert content.pop("model") == "gamma-rates"
    model = GammaRates(**content)
    kept = [model.retention(np.array([0.5, 1.0, 2.0]), mode) for mode in range(model.num_modes)]
    np.testing.assert_allclose(kept, said["retention"], rtol=1e-9)


# Records


def test_the_report_of_a_plan_is_drawn_again(tmp_path: Path, run: Run) -> None:
    folder = shutil.copytree("plan", tmp_path / "plan")
    assert run("report", folder)[0] == 0
    assert_tells(folder / "report.html", EXPECTED["findings"]["plan"])


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the record of every study."""
    folder = tmp_path_factory.mktemp("studies")
    for path in (FILES / "studies").glob("*.gz"):
        target = folder / path.name.removesuffix(".json.gz")
        target.mkdir()
        (target / "record.json").write_bytes(gzip.decompress(path.read_bytes()))
    shutil.copytree(FILES / "studies" / WITH_CELLS, folder / WITH_CELLS)
    return folder


@pytest.mark.parametrize("name", KEPT)
def test_the_page_of_a_study_is_drawn_again(name: str, studies: Path, run: Run) -> None:
    status, out, err = run("report", studies / name)
    assert (status, err) == (0, "")
    assert "report.html" in out
    assert_tells(studies / name / "report.html", EXPECTED["findings"][name])
    assert list((studies / name / "figures").glob("*.png"))


def test_the_index_names_every_study_that_was_kept(studies: Path, run: Run) -> None:
    assert run("report", studies)[0] == 0
    page = (studies / "report.html").read_text(encoding="utf-8")
    for name in KEPT:
        assert f'href="{name}/report.html"' in page
    assert "cannot be read" not in page


def stand_in(**cell: Any) -> Any:
    """For the function whose results cells are; it is not to be called."""
    return "computed"


def test_finished_cells_are_read_and_their_digests_verified(tmp_path: Path) -> None:
    """Under the name that a cell has today: names tell the code of the version that computed."""
    damaged: list[str] = []
    runner = Runner(tmp_path, warn=damaged.append, num_workers=1)
    paths = sorted(Path("studies", WITH_CELLS, "cells").iterdir())
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    cells = [content["cell"] for content in contents]
    assert len(cells) > 1
    for cell, path in zip(cells, paths, strict=True):
        before = set(tmp_path.rglob("*.json"))
        assert runner.sweep(stand_in, [cell], "cells") == ["computed"]
        (named,) = set(tmp_path.rglob("*.json")) - before
        shutil.copy(path, named)
    read = runner.sweep(stand_in, cells, "cells")
    assert (read, damaged) == ([content["result"] for content in contents], [])
    contents[0]["digest"] = contents[1]["digest"]
    named.write_text(json.dumps(contents[0]), encoding="utf-8")
    assert runner.sweep(stand_in, cells[-1:], "cells") == ["computed"]
    assert len(damaged) == 1


# Networks


def outputs() -> dict[str, Any]:
    """What networks made of noise and images, where networks can be run at all."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    with np.load(FILES / "outputs.npz") as stored:
        return dict(stored)


def command_writes(run: Run, path: Path, *arguments: object) -> Any:
    status, _, err = run(*arguments, "--output", path)
    assert status == 0, err
    return np.load(path)


def assert_close(found: Any, expected: Any) -> None:
    """The bits where they were made; elsewhere torch may sum in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def python(program: str, *arguments: object) -> None:
    words = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    subprocess.run(words, check=True)


SAMPLING = """
import sys
import numpy as np
import torch
torch.set_num_threads(1)
import diffusers
files = np.load("outputs.npz")
for name, more in (("mlp", {}), ("unet", {"class_labels": [3, 7, 0]})):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(f"student-{name}", **given)
    noise = torch.from_numpy(files[f"{name}_noise"])
    images = pipeline(latents=noise, output_type="pt", **more).images
    np.save(f"{sys.argv[1]}/{name}.npy", images.numpy())
"""


@pytest.mark.parametrize(
    "before",
    [
        "import opmerge.distillation; given = {}",
        "given = {'custom_pipeline': 'pipeline', 'trust_remote_code': True}",
    ],
    ids=["imported", "custom-pipeline"],
)
def test_diffusers_opens_students_and_draws_what_it_drew(before: str, tmp_path: Path) -> None:
    """In a program of its own, where nothing else of the package has been imported."""
    expected = outputs()
    folder = Path(shutil.copytree(FILES, tmp_path / "files"))  # diffusers may write beside code
    python(f"import os; os.chdir({str(folder)!r}); {before}\n{SAMPLING}", tmp_path)
    for name in ("mlp", "unet"):
        assert_close(np.load(tmp_path / f"{name}.npy"), expected[f"{name}_images"])


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
@pytest.mark.usefixtures("one_thread")
class TestNetworks:
    """Commands on networks that 0.1 saved."""

    def test_students_and_teachers_draw_the_same_samples(self, tmp_path: Path, run: Run) -> None:
        expected = outputs()
        for model, options, name in (
            ("student-mlp", (), "mlp_samples"),
            ("student-unet", (), "unet_samples"),
            ("teacher", ("--steps", 4), "teacher_samples"),
        ):
            arguments = ("sample", model, *options, "--num_samples", 3)
            found = command_writes(run, tmp_path / "samples.npy", *arguments)
            assert_close(found, expected[name])

    def test_a_run_goes_on_from_its_checkpoint_to_the_same_student(
        self, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from opmerge.denoisers.models import Teacher

        # a digest has the bits of the sampler's levels, and processors differ in the last of them
        monkeypatch.setattr(Teacher, "digest", TEACHER)
        expected = outputs()["run_samples"]
        folder = shutil.copytree("run", tmp_path / "run")
        status, out, err = run(
            *("distill", SAMPLES, "--teacher", "teacher", "--plan", "[[[4,3],2],1]"),
            *("--num_iterations", "4,6,5", "--train_batch_size", 16, "--ema_decay", 0.9),
            *("--checkpointing_steps", 7, "--checkpoints_total_limit", 9),
            *("--linear_part", "train", "--target_reuse", 1),  # the defaults of its version
            *("--lr_warmup_steps", 0),
            *("--output_dir", folder, "--resume_from_checkpoint", "latest"),
        )
        assert status == 0, err
        assert "refused" not in err
        assert str(folder / "student") in out
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in lines]
        assert steps == sorted(set(steps))
        assert (steps[0], steps[-1]) == (4, 15)  # before the checkpoint at 7, and the end
        samples = ("sample", folder / "student", "--num_samples", 3)
        assert_close(command_writes(run, tmp_path / "samples.npy", *samples), expected)

    @pytest.mark.parametrize("name", ["vae", "pca"])
    def test_encoders_encode_and_decode_as_they_did(
        self, name: str, tmp_path: Path, run: Run
    ) -> None:
        expected, path = outputs(), tmp_path / "latents.npy"
        latents = command_writes(run, path, "vae", "encode", IMAGES, "--vae", name)
        assert_close(latents, expected[f"{name}_latents"])
        decoded = tmp_path / "decoded.npy"
        images = command_writes(run, decoded, "vae", "decode", path, "--vae", name)
        assert_close(images[:2], expected[f"{name}_decoded"])

    def test_a_student_is_measured_as_it_was(self, run: Run) -> None:
        outputs()
        arguments = (
            *("evaluate-student", "student-mlp", "--teacher", "teacher", "--source", SAMPLES),
            *("--num_samples", 20, "--num_resamples", 0, "--json"),
        )
        status, out, _ = run(*arguments)
        assert status == 0
        assert_says(json.loads(out), EXPECTED["measured"], rel=1e-4)
        status, _, err = run(*arguments, "--plan", "plans/two-steps.json")
        assert (status, "must lead to the student's jumps" in err) == (2, True)
