"""Students of text teachers as the teacher's own pipeline, run by diffusers' own class."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from tiny_pipelines import PROMPTS, SAMPLE, TINY_PIPELINES

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.models import Jump, Student, Teacher, initial_noise
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation import load_student, save_student
from opmerge.distillation.own_pipeline import plain_steps

T = 10
NOISE = initial_noise((4, SAMPLE, SAMPLE), len(PROMPTS), 0)


@pytest.fixture(scope="module", params=[True, False], ids=["to clean data", "to the first beta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher") / "model"
    TINY_PIPELINES["stable_diffusion"](set_alpha_to_one=request.param).save_pretrained(place)
    return place


def student_of(teacher: Teacher, starts: Sequence[int], networks: int = 1) -> Student:
    """The teacher's network, or others beside it, in jumps that follow one another."""
    torch.manual_seed(1)
    made = [teacher.network]
    for _ in range(networks - 1):
        other = type(teacher.network).from_config(teacher.network.config)
        made.append(other.eval())
    stops = [*starts[1:], 0]
    jumps = tuple(
        Jump(teacher.ddim.denoiser(made[place % networks]), start, stop, stop)
        for place, (start, stop) in enumerate(zip(starts, stops, strict=True))
    )
    return Student(jumps, teacher.ddim, teacher.sample_shape, teacher.needs)


def condition_of(pipeline: Any) -> Condition:
    return family_of(config_of(pipeline.unet)).encode_prompts(pipeline, PROMPTS)


def sampled(pipeline: Any, **asked: Any) -> torch.Tensor:
    """The latents of a pipeline's own call, without guidance."""
    pipeline.set_progress_bar_config(disable=True)
    given: dict[str, Any] = {"latents": NOISE, "guidance_scale": 1.0, "output_type": "latent"}
    latents: torch.Tensor = pipeline(list(PROMPTS), **given, **asked).images
    return latents


def test_diffusers_own_scheduler_takes_the_steps(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_of(teacher, (T, 7, 2))
    saved = save_student(student, tmp_path / "student", teacher)
    index = json.loads((saved / "model_index.json").read_text(encoding="utf-8"))
    assert not [entry for entry in index.values() if "opmerge" in str(entry)]
    pipeline = StableDiffusionPipeline.from_pretrained(saved)
    times = [int(teacher.ddim.timesteps[start]) for start in (T, 7, 2)]
    own = sampled(pipeline, num_inference_steps=3, timesteps=times)
    expected = student.sample(NOISE, condition_of(pipeline))
    assert (own - expected).abs().max() < 2e-3 * expected.abs().max()  # levels agree to 1e-3
    assert f"timesteps={times}" in (saved / "README.md").read_text()


def test_what_was_saved_is_the_student(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_of(teacher, (T, 4), networks=2)
    again = load_student(save_student(student, tmp_path / "student", teacher))
    condition = condition_of(StableDiffusionPipeline.from_pretrained(folder))
    assert torch.equal(again.sample(NOISE, condition), student.sample(NOISE, condition))
    assert again.needs == student.needs


def test_several_networks_take_turns_in_the_one_place(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_of(teacher, (T, 7, 2), networks=2)
    saved = save_student(student, tmp_path / "student", teacher)
    pipeline = DiffusionPipeline.from_pretrained(saved)
    assert type(pipeline) is StableDiffusionPipeline
    own = sampled(pipeline, num_inference_steps=3)
    condition = condition_of(StableDiffusionPipeline.from_pretrained(folder))
    assert torch.equal(own, student.sample(NOISE, condition))
    with pytest.raises(Exception, match="num_inference_steps"):
        sampled(pipeline, num_inference_steps=4)


def test_other_parts_are_links_or_copies(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_of(teacher, (T,))
    linked = save_student(student, tmp_path / "linked", teacher)
    assert (linked / "vae").resolve() == (folder / "vae").resolve()
    assert not (linked / "unet").is_symlink()
    copied = save_student(student, tmp_path / "copied", teacher, copies=True)
    assert not (copied / "vae").is_symlink()
    assert {path.name for path in (copied / "vae").iterdir()} == {
        path.name for path in (folder / "vae").iterdir()
    }
    save_student(student, linked, teacher)  # in the place of an older one
    assert (folder / "vae").is_dir()  # which is not deleted through its link


def test_levels_of_another_schedule_are_no_plain_steps(folder: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_of(teacher, (T, 5))
    config = teacher.scheduler_config
    assert plain_steps(student, config, StableDiffusionPipeline) is not None
    other = {**config, "beta_end": 0.02}
    assert plain_steps(student, other, StableDiffusionPipeline) is None
    assert plain_steps(student, config, DiffusionPipeline) is None  # whose call names no steps
