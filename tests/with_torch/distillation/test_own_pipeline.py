"""Students of text teachers as the teacher's own pipeline, run by diffusers' own class."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    DiTPipeline,
    EDMEulerScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
)
from tiny_pipelines import PROMPTS, SAMPLE, family_in, saved_teacher, student_of, tiny_pipeline
from torch_helpers import edit_json

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import config_of, family_of
from opmerge.denoisers.model_folder import INDEX
from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.distillation import load_student, save_student
from opmerge.distillation.plain_steps import plain_steps
from opmerge.distillation.sampling import decoded

T = 10
NOISE = initial_noise((4, SAMPLE, SAMPLE), len(PROMPTS), 0)


@pytest.fixture(scope="module", params=[True, False], ids=["to clean data", "to the first beta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher") / "model"
    tiny_pipeline("stable_diffusion", set_alpha_to_one=request.param).save_pretrained(place)
    return place


def student_in_turn(teacher: Teacher, starts: Sequence[int], networks: int = 1) -> Student:
    """The teacher's network, or others beside it, in jumps that follow one another."""
    torch.manual_seed(1)
    config, kind = teacher.network.config, type(teacher.network)
    others = [kind.from_config(config).eval() for _ in range(networks - 1)]
    return student_of(teacher, [teacher.network, *others], starts)


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
    student = student_in_turn(teacher, (T, 7, 2))
    saved = save_student(student, tmp_path / "student", teacher)
    index = json.loads((saved / "model_index.json").read_text(encoding="utf-8"))
    assert not [entry for entry in index.values() if "opmerge" in str(entry)]
    pipeline = StableDiffusionPipeline.from_pretrained(saved)
    times = [int(teacher.ddim.timesteps[start]) for start in (T, 7, 2)]
    own = sampled(pipeline, num_inference_steps=3, timesteps=times)
    expected = student.sample(NOISE, condition_of(pipeline))
    assert (own - expected).abs().max() < 2e-3 * expected.abs().max()  # levels agree to 1e-3
    assert f"timesteps={times}" in (saved / "README.md").read_text()


SIDES = {"height": 4 * SAMPLE, "width": 4 * SAMPLE}
BINS = {"use_resolution_binning": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "sdxl": {},
    "pixart": BINS,
    "sd3": {"height": 2 * SAMPLE, "width": 2 * SAMPLE},
    "sana": {**SIDES, **BINS},
}


@pytest.mark.parametrize("count", [1, 2], ids=["one network", "two networks"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_in_its_pipeline(name: str, count: int, tmp_path: Path) -> None:
    made, teacher = saved_teacher(name, tmp_path / "teacher", T)
    student = student_in_turn(teacher, (T, 4), networks=count)
    pipeline = type(made).from_pretrained(save_student(student, tmp_path / "student", teacher))
    asked: dict[str, Any] = {"num_inference_steps": 2, **FAMILIES[name]}
    steps = plain_steps(student, teacher.scheduler_config, type(made))
    assert steps is not None
    if count == 1:
        asked[steps.argument] = list(steps.values)
    expected = student.sample(NOISE, family_in(made).encode_prompts(made, PROMPTS))
    off = (sampled(pipeline, **asked) - expected).abs().max() / expected.abs().max()
    # levels of a scheduler of diffusers agree to 1e-3; of our own, only roundings differ
    assert off < (2e-3 if count == 1 else 1e-5)


def test_flux_is_told_its_steps_as_sigmas(tmp_path: Path) -> None:
    made, teacher = saved_teacher("flux", tmp_path / "teacher", T)
    student = student_in_turn(teacher, (T, 4))
    pipeline = FluxPipeline.from_pretrained(save_student(student, tmp_path / "student", teacher))
    steps = plain_steps(student, teacher.scheduler_config, FluxPipeline)
    assert steps is not None
    assert steps.argument == "sigmas"
    told = family_in(made).encode_prompts(made, PROMPTS)
    expected = FluxPipeline._pack_latents(student.sample(NOISE, told), *NOISE.shape)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        list(PROMPTS),
        latents=FluxPipeline._pack_latents(NOISE, *NOISE.shape),
        height=2 * SAMPLE,
        width=2 * SAMPLE,
        sigmas=list(steps.values),
        guidance_scale=3.5,  # which the network is told, as the teacher's was
        output_type="latent",
    ).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_classes_of_latents_need_the_scheduler_of_the_jumps(tmp_path: Path) -> None:
    _, teacher = saved_teacher("dit", tmp_path / "teacher", T)
    student = student_in_turn(teacher, (T, 4))
    assert plain_steps(student, teacher.scheduler_config, DiTPipeline) is None
    pipeline = DiTPipeline.from_pretrained(save_student(student, tmp_path / "student", teacher))
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *teacher.sample_shape, generator=generator)
    images = pipeline(
        class_labels=[1, 2],
        guidance_scale=1.0,
        generator=generator.manual_seed(0),
        num_inference_steps=2,
        output_type="np",
    ).images
    samples = student.sample(noise, torch.tensor([1, 2]))
    expected = decoded(samples, student, tmp_path / "student").permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(torch.as_tensor(images), expected.clamp(0, 1), rtol=1e-5, atol=1e-5)


def test_the_documented_call_gives_the_students_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "how_to" / "use_student.md").read_text(
        encoding="utf-8"
    )
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (code,) = (each for each in codes if "StableDiffusionPipeline.from_pretrained" in each)
    monkeypatch.chdir(tmp_path)
    _, teacher = saved_teacher("stable_diffusion", Path("teacher"), T)
    student = student_in_turn(teacher, (T, 4))
    saved = save_student(student, Path("runs/student/student"), teacher)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(code, "use_student.md", "exec"), names)
    noise = torch.randn(1, *teacher.sample_shape, generator=torch.manual_seed(0))
    pipeline = names["pipeline"]
    # the autoencoder is of random weights: images alone say little of the steps
    assert pipeline.scheduler.timesteps.tolist() == teacher.ddim.timesteps[[T, 4]].tolist()
    told = family_of(config_of(pipeline.unet)).encode_prompts(pipeline, ["a red cat"])
    (expected,) = decoded(student.sample(noise, told), student, saved) / 2 + 0.5
    found = torch.as_tensor(np.array(names["images"][0])).permute(2, 0, 1)
    # to a level of 255: levels of noise agree to 1e-3
    assert (found - 255 * expected.clamp(0, 1)).abs().max() <= 1.5


def test_what_was_saved_is_the_student(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_in_turn(teacher, (T, 4), networks=2)
    again = load_student(save_student(student, tmp_path / "student", teacher))
    condition = condition_of(StableDiffusionPipeline.from_pretrained(folder))
    assert torch.equal(again.sample(NOISE, condition), student.sample(NOISE, condition))
    assert again.needs == student.needs


def test_several_networks_take_turns_in_the_one_place(folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(folder, T)
    student = student_in_turn(teacher, (T, 7, 2), networks=2)
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
    student = student_in_turn(teacher, (T,))
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
    student = student_in_turn(teacher, (T, 5))
    config = teacher.scheduler_config
    assert plain_steps(student, config, StableDiffusionPipeline) is not None
    other = {**config, "beta_end": 0.02}
    assert plain_steps(student, other, StableDiffusionPipeline) is None
    assert plain_steps(student, config, DiffusionPipeline) is None  # whose call names no steps


@pytest.mark.parametrize("networks", [1, 2])
def test_preconditioned_students_take_the_scheduler_of_the_jumps(
    tmp_path: Path, networks: int
) -> None:
    """As of Playground, whose pipeline scales the input and preconditions by its scheduler."""
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path / "teacher")
    EDMEulerScheduler(sigma_max=20.0).save_pretrained(tmp_path / "teacher" / "scheduler")
    edit_json(tmp_path / "teacher" / INDEX, scheduler=["diffusers", "EDMEulerScheduler"])
    teacher = load_teacher(tmp_path / "teacher", T)
    student = student_in_turn(teacher, (T, 7, 2), networks)
    assert student.ddim.scalings is not None
    assert plain_steps(student, teacher.scheduler_config, StableDiffusionPipeline) is None
    saved = save_student(student, tmp_path / "student", teacher)
    pipeline = DiffusionPipeline.from_pretrained(saved)
    condition = condition_of(DiffusionPipeline.from_pretrained(tmp_path / "teacher"))
    expected = student.sample(NOISE, condition)
    found = sampled(pipeline, num_inference_steps=3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
