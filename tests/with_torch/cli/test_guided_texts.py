"""A guided text teacher by the command line: null prompts, negative ones, and a student of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned_images import captioned_images, prepare_words, refused
from diffusers import StableDiffusionPipeline
from tiny_pipelines import SAMPLE, TINY_PIPELINES, family_in

from opmerge.cli import main
from opmerge.data.prepared import open_prepared
from opmerge.denoisers.conditions import kept_conditions, null_condition
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation.pipeline import load_student
from opmerge.plans import PlanFile
from opmerge.settings.guidance import GuidanceOptions

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

STEPS, SCALE = 4, 4.0
SHAPE = (4, SAMPLE, SAMPLE)
NEGATIVE = "a grey dog"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text teacher, what is prepared for it, and a student of it guided."""
    folder = tmp_path_factory.mktemp("work")
    teacher, images, cache = folder / "teacher", folder / "images", folder / "cache"
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(teacher)
    images.mkdir()
    captioned_images(images)
    short = ("--num_iterations", 3, "--train_batch_size", 4, "--checkpointing_steps", 0)
    told = ("--teacher", teacher, "--plan", "boot", "--steps", STEPS, "--guidance_scale", SCALE)
    negative = ("--negative_prompt", NEGATIVE, "--output_dir", folder / "run")
    for words in (
        prepare_words(teacher, cache, images),
        ("distill", cache, *told, *negative, *short),
    ):
        assert main([str(word) for word in words]) == 0
    return folder


@pytest.mark.parametrize("negative", [None, NEGATIVE])
def test_samples_are_those_of_the_pipeline(run: Run, work: Path, negative: str | None) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(work / "teacher", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a red cat", "two cats"]
    with torch.no_grad():
        expected = pipeline(
            prompts,
            num_inference_steps=STEPS,
            guidance_scale=SCALE,
            negative_prompt=None if negative is None else [negative] * 2,
            latents=initial_noise(SHAPE, 2, 3),
            output_type="latent",
        ).images
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    words += ["--guidance_scale", f"{SCALE}"]
    words += [] if negative is None else ["--negative_prompt", negative]
    few = ("--steps", STEPS, "--num_samples", 2, "--seed", 3, "--output", work / "s.npy")
    status, _, err = run("sample", work / "teacher", *few, *words)
    assert status == 0, err
    np.testing.assert_allclose(np.load(work / "s.npy"), expected.numpy(), atol=1e-5, rtol=1e-5)


def test_the_null_row_is_the_prepared_one(run: Run, work: Path) -> None:
    """Without a negative prompt the data set has it, and the pipeline the same."""
    cache = work / "cache"
    null, told = null_condition(open_prepared(cache)), kept_conditions(open_prepared(cache))
    assert null is not None
    assert told is not None
    teacher = load_teacher(work / "teacher", STEPS)
    guided = teacher.guided(GuidanceOptions(guidance_scale=f"{SCALE}"), null)
    expected = guided.sample(initial_noise(SHAPE, 3, 3), told[torch.arange(3)])
    few = ("--steps", STEPS, "--num_samples", 3, "--seed", 3, "--output", work / "n.npy")
    prompts = ("--prompts", cache, "--guidance_scale", SCALE)
    assert run("sample", work / "teacher", *few, *prompts)[0] == 0
    np.testing.assert_allclose(np.load(work / "n.npy"), expected, atol=1e-5, rtol=1e-4)


def test_a_student_is_measured_against_its_guided_teacher(run: Run, work: Path) -> None:
    record = {"scale": SCALE, "interval": [1, STEPS], "negative_prompt": NEGATIVE}
    student = load_student(work / "run" / "student")
    assert student.guidance == record
    assert PlanFile.read(work / "run" / "plan.json").guidance == record
    words = ("evaluate-student", work / "run" / "student", "--teacher", work / "teacher")
    few = ("--prompts", work / "cache", "--num_samples", 6, "--num_resamples", 0, "--seed", 5)
    status, out, err = run(*words, *few, "--json")
    assert status == 0, err
    told = kept_conditions(open_prepared(work / "cache"))
    assert told is not None
    noise, condition = initial_noise(SHAPE, 6, 5), told[torch.arange(6)]
    reference = torch.from_numpy(_guided_by_hand(run, work, condition_of=6))
    error = (student.sample(noise, condition) - reference).square().flatten(1).sum(1).mean()
    assert json.loads(out)["paired_error"]["value"] == pytest.approx(float(error), rel=1e-3)
    refused(run(*words, *few, "--guidance_scale", SCALE), "guidance_scale", NEGATIVE)
    alike = ("--guidance_scale", SCALE, "--negative_prompt", NEGATIVE)
    assert run(*words, *few, *alike, "--json")[0] == 0


def _guided_by_hand(run: Run, work: Path, condition_of: int) -> np.ndarray:
    output = work / "g.npy"
    few = ("--steps", STEPS, "--num_samples", condition_of, "--seed", 5, "--output", output)
    told = ("--prompts", work / "cache", "--guidance_scale", SCALE, "--negative_prompt", NEGATIVE)
    assert run("sample", work / "teacher", *few, *told)[0] == 0
    samples: np.ndarray = np.load(output)
    return samples


def test_looks_at_a_text_student_are_told_prompts(run: Run, work: Path) -> None:
    """Grids of the same noise, and how far they are from the guided teacher's, by hand too."""
    prompts = work / "looks.txt"
    prompts.write_text("a red cat\n\ntwo cats\n")
    folder, given = work / "looked", ("--teacher", work / "teacher", "--plan", "boot")
    few = ("--num_iterations", 2, "--train_batch_size", 4, "--guidance_scale", SCALE)
    looks = ("--validation_steps", 3, "--validation_prompts", prompts, "--output_dir", folder)
    status, _, err = run("distill", work / "cache", *given, "--steps", STEPS, *few, *looks)
    assert status == 0, err
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["paired_rms"] for line in lines if "paired_rms" in line}
    assert sorted(logged) == [3, 6]
    names = sorted(path.name for path in (folder / "validation").iterdir())
    assert names == ["step-3.png", "step-6.png"]
    pipeline = StableDiffusionPipeline.from_pretrained(work / "teacher", local_files_only=True)
    rows = family_in(pipeline).encode_prompts(pipeline, ["a red cat", "two cats"])
    null = family_in(pipeline).null_condition(pipeline)
    teacher = load_teacher(work / "teacher", STEPS)
    noise, told = initial_noise(SHAPE, 64, 0), rows[torch.arange(64) % 2]
    expected = teacher.guided(GuidanceOptions(guidance_scale=f"{SCALE}"), null).sample(noise, told)
    student = load_student(folder / "student").sample(noise, told)
    by_hand = (student - expected).square().flatten(1).sum(1).mean().sqrt()
    assert logged[6] == pytest.approx(float(by_hand), rel=1e-4)
    words = ("--validation_steps", 3, "--output_dir", work / "none")
    missing = ("--validation_prompts", work / "nothing.txt")
    refused(
        run("distill", work / "cache", *given, "--steps", STEPS, *few, *words, *missing),
        "validation_prompts",
    )


def test_a_negative_prompt_alone_is_refused(run: Run, work: Path) -> None:
    few = ("--steps", STEPS, "--num_samples", 1, "--prompt", "a", "--output", work / "s.npy")
    refused(run("sample", work / "teacher", *few, "--negative_prompt", "b"), "negative_prompt")
