"""Students that are told their guidance scale: distilled for a range, read by diffusers alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned_images import captioned_images, prepare_words, refused
from diffusers import DiffusionPipeline, UNet2DConditionModel
from tiny_pipelines import PROMPTS, SAMPLE, family_in, tiny_pipeline

from opmerge.cli import main
from opmerge.denoisers.denoiser import SCALE, Condition
from opmerge.denoisers.model_folder import read_index
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation import load_student
from opmerge.errors import InputError
from opmerge.settings.guidance import GuidanceOptions

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[int, str, str]]

STEPS, RANGE = 4, "2,6"
NOISE = initial_noise((4, SAMPLE, SAMPLE), 2, 3)


@pytest.fixture(scope="module", params=["stable_diffusion", "sdxl"])
def work(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text teacher, what is prepared for it, and a student of a range of scales."""
    folder = tmp_path_factory.mktemp("work")
    teacher, images, cache = folder / "teacher", folder / "images", folder / "cache"
    tiny_pipeline(request.param).save_pretrained(teacher)
    images.mkdir()
    captioned_images(images)
    short = ("--num_iterations", 30, "--train_batch_size", 8, "--checkpointing_steps", 0)
    told = ("--teacher", teacher, "--plan", "boot", "--steps", STEPS, "--guidance_scale", RANGE)
    for words in (
        prepare_words(teacher, cache, images),
        ("distill", cache, *told, "--output_dir", folder / "run", *short, "--learning_rate", 1e-2),
    ):
        assert main([str(word) for word in words]) == 0
    return folder


def test_a_range_is_each_of_its_scales(work: Path) -> None:
    """The teacher at a scale of each sample is the teacher at that scale, sample by sample."""
    pipeline = DiffusionPipeline.from_pretrained(work / "teacher", local_files_only=True)
    family, plain = family_in(pipeline), load_teacher(work / "teacher", STEPS)
    told, null = family.encode_prompts(pipeline, PROMPTS), family.null_condition(pipeline)
    scales = torch.tensor([2.5, 5.0])
    ranged = plain.guided(GuidanceOptions(guidance_scale=RANGE), null)
    found = ranged.sample(NOISE, Condition({**told.rows, SCALE: scales}))
    for row, scale in enumerate(scales):
        one = plain.guided(GuidanceOptions(guidance_scale=f"{scale:g}"), null)
        rows = slice(row, row + 1)
        torch.testing.assert_close(found[rows], one.sample(NOISE[rows], told[rows]))


@pytest.mark.parametrize("scale", [2.0, 5.5])
def test_diffusers_alone_tells_it_the_scale_of_the_call(run: Run, work: Path, scale: float) -> None:
    student = work / "run" / "student"
    assert not [entry for entry in read_index(student).values() if "opmerge" in str(entry)]
    pipeline = DiffusionPipeline.from_pretrained(student)
    pipeline.set_progress_bar_config(disable=True)
    time = int(load_student(student).ddim.timesteps[STEPS])
    given: dict[str, Any] = {"num_inference_steps": 1, "timesteps": [time], "latents": NOISE}
    images = pipeline(list(PROMPTS), guidance_scale=scale, output_type="latent", **given).images
    asked = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    few = ("--num_samples", 2, "--seed", 3, "--output", work / "s.npy")
    status, _, err = run("sample", student, *few, *asked, "--guidance_scale", scale)
    assert status == 0, err
    found = np.load(work / "s.npy")
    np.testing.assert_allclose(found, images.numpy(), atol=2e-3 * np.abs(found).max())


def test_the_scale_matters_to_it(work: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(work / "run" / "student", subfolder="unet")
    assert unet.config.time_cond_proj_dim == 256
    assert unet.time_embedding.cond_proj.weight.abs().max() > 0
    teacher = UNet2DConditionModel.from_pretrained(work / "teacher", subfolder="unet")
    assert teacher.config.time_cond_proj_dim is None


def test_it_is_measured_over_the_range_or_at_a_scale(run: Run, work: Path) -> None:
    student = load_student(work / "run" / "student")
    assert student.guidance["scale"] == [2.0, 6.0]
    words = ("evaluate-student", work / "run" / "student", "--teacher", work / "teacher")
    few = ("--prompts", work / "cache", "--num_samples", 6, "--num_resamples", 0, "--json")
    errors = {}
    for asked in ((), ("--guidance_scale", 2), ("--guidance_scale", 6)):
        status, out, err = run(*words, *few, *asked)
        assert status == 0, err
        errors[asked] = json.loads(out)["paired_rms"]["value"]
    assert len(set(errors.values())) == 3
    refused(run(*words, *few, "--guidance_scale", 7), "guidance_scale", "2,6")


def test_what_has_no_scale_of_each_sample_is_refused(run: Run, work: Path, tmp_path: Path) -> None:
    told = (work / "cache", "--teacher", work / "teacher", "--steps", STEPS)
    out = ("--output_dir", tmp_path / "out", "--guidance_scale", RANGE)
    refused(run("plan", *told, *out, "--budget", 1e6), "guidance_scale", "one number")
    refused(run("run", *told, *out, "--budget", 1e6), "guidance_scale", "one number")
    refused(run("calibrate", *told, *out), "guidance_scale", "one number")
    adapters = ("--plan", "boot", "--lora_rank", 2)
    refused(run("distill", *told, *out, *adapters), "guidance_scale", "fuse_lora")
    backwards = ("--output_dir", tmp_path / "out", "--guidance_scale", "6,2", "--plan", "boot")
    refused(run("distill", *told, *backwards), "guidance_scale")
    tiny_pipeline("sd3").save_pretrained(tmp_path / "sd3")
    teacher = load_teacher(tmp_path / "sd3", STEPS)
    null = Condition({name: torch.zeros(1, 2, 2) for name in teacher.needs})
    with pytest.raises(InputError, match="must be one number: only UNets"):
        teacher.guided(GuidanceOptions(guidance_scale=RANGE), null)
