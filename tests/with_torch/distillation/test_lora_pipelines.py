"""Adapters of text teachers in the teacher's own pipeline, as the README beside them says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file
from tiny_pipelines import PROMPTS, SAMPLE, family_in, saved_teacher, student_of
from torch import nn

from opmerge.denoisers.models import Student, Teacher, initial_noise
from opmerge.distillation import save_student
from opmerge.distillation.adapters import Adapters, trainable_copy

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

T, STARTS = 10, (10, 4)
SIDES = {"height": 2 * SAMPLE, "width": 2 * SAMPLE}
FAMILIES: dict[str, dict[str, Any]] = {
    "stable_diffusion": {},
    "sdxl": {},
    "sd3": SIDES,
    "flux": SIDES,
    "sana": {"height": 4 * SAMPLE, "width": 4 * SAMPLE, "use_resolution_binning": False},
}


def adapted_student(teacher: Teacher, count: int) -> Student:
    """Two steps of so many adapters on the teacher, which say something else than it."""
    generator = torch.Generator().manual_seed(0)
    adapters = [trainable_copy(teacher.network, Adapters(2), generator) for _ in range(count)]
    for name, weight in (each for network in adapters for each in network.named_parameters()):
        if ".lora_B." in name:
            nn.init.normal_(weight.data, std=1.0, generator=generator)
    return student_of(teacher, [each.eval() for each in adapters], STARTS)


def run_readme(folder: Path, teacher: Path, given: dict[str, Any]) -> dict[str, Any]:
    """What its code leaves, with more told to the pipeline's call, and nothing of ours imported."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "opmerge" not in code
    names = {"FOLDER": folder, "TEACHER": teacher, "PROMPT": list(PROMPTS), "GIVEN": given}
    exec(compile(code.replace("(PROMPT, ", "(PROMPT, **GIVEN, "), "README.md", "exec"), names)
    return names


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.parametrize("count", [1, 2], ids=["one adapter", "two adapters"])
@pytest.mark.parametrize("name", FAMILIES)
def test_diffusers_draws_from_adapters(name: str, count: int, tmp_path: Path) -> None:
    made, teacher = saved_teacher(name, tmp_path / "teacher", T)
    student = adapted_student(teacher, count)
    folder = save_student(student, tmp_path / "student", teacher)
    noise = initial_noise(teacher.sample_shape, len(PROMPTS), 0)
    told = family_in(made).encode_prompts(made, PROMPTS)
    expected, teachers = student.sample(noise, told), teacher.sample(noise, told)
    if name == "flux":
        noise, expected = (
            FluxPipeline._pack_latents(each, *each.shape) for each in (noise, expected)
        )
        teachers = FluxPipeline._pack_latents(teachers, *teachers.shape)
    given = {"latents": noise, "output_type": "latent", **FAMILIES[name]}
    found = run_readme(folder, tmp_path / "teacher", given)["images"]
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 5e-3 * scale  # levels agree to 1e-3
    assert (found - teachers).abs().max() > 0.05 * scale


def test_the_weights_are_of_the_part_that_denoises(tmp_path: Path) -> None:
    _, teacher = saved_teacher("sd3", tmp_path / "teacher", T)
    folder = save_student(adapted_student(teacher, 1), tmp_path / "student", teacher)
    names = load_file(folder / "adapter_1" / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in names} == {"transformer"}


def test_a_step_that_stays_the_teachers_has_no_adapter_to_load(tmp_path: Path) -> None:
    _, teacher = saved_teacher("stable_diffusion", tmp_path / "teacher", T)
    student = adapted_student(teacher, 1)
    last = replace(student.jumps[1], denoiser=teacher.student_denoiser)
    student = replace(student, jumps=(student.jumps[0], last))
    folder = save_student(student, tmp_path / "student", teacher)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "opmerge sample" in text
    assert "load_lora_weights" not in text
