"""Guided teachers of every family against the guided calls of their pipelines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_text_families import FLOWS, NO_BINS, SHAPE, as_rounded, flow_latents, own_latents
from tiny_pipelines import PROMPTS, family_in, tiny_pipeline
from torch import Tensor

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.guidance import Guidance
from opmerge.denoisers.models import Teacher, initial_noise
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.teacher_folder import load_teacher

T = 5
SCALE = 3.5
NOISE = initial_noise(SHAPE, len(PROMPTS), seed=1)


def guided(folder: Path, pipeline: Any, negative_prompt: str = "") -> tuple[Teacher, Condition]:
    """The teacher of a saved pipeline under guidance, and what it is told."""
    pipeline.save_pretrained(folder)
    teacher, loaded, family = load_teacher(folder, T), load_pipeline(folder), family_in(pipeline)
    null = family.null_condition(loaded, negative_prompt)
    assert null is not None
    guidance = Guidance(SCALE, null, range(1, T + 1), family.null_first)
    return replace(teacher, guidance=guidance), family.encode_prompts(loaded, PROMPTS)


def assert_guided(teacher: Teacher, told: Condition, expected: Tensor) -> None:
    """Samples are those of the pipeline, and others without guidance."""
    found = teacher.sample(NOISE, told)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(replace(teacher, guidance=None).sample(NOISE, told), expected)


@pytest.mark.parametrize("negative_prompt", ["", "ugly"])
@pytest.mark.parametrize(
    ("family", "options"), [("stable_diffusion", {}), ("sdxl", {}), ("pixart", NO_BINS)]
)
def test_replay_is_that_of_the_guided_pipeline(
    tmp_path: Path, family: str, options: dict[str, Any], negative_prompt: str
) -> None:
    """To rounding: text encoders say of a negative prompt by itself what they say in a batch."""
    pipeline = tiny_pipeline(family)
    if negative_prompt:
        options = {**options, "negative_prompt": [negative_prompt] * len(PROMPTS)}
    expected = own_latents(pipeline, NOISE, guidance_scale=SCALE, **options)
    assert_guided(*guided(tmp_path, pipeline, negative_prompt), expected)


@pytest.mark.parametrize("name", ["SD3", "Sana"])
def test_guided_flows_are_replayed(tmp_path: Path, name: str) -> None:
    family, config, options = FLOWS[name]
    pipeline = tiny_pipeline(family, **config)
    options = {**options, "guidance_scale": SCALE}
    expected = flow_latents(pipeline, family, NOISE, **options)
    assert_guided(*guided(tmp_path, pipeline), expected)


def test_flux_is_guided_away_from_a_prompt_at_an_embedded_scale(tmp_path: Path) -> None:
    """``true_cfg_scale`` beside the scale that the network is told."""
    pipeline, negative = tiny_pipeline("flux"), ["ugly"] * len(PROMPTS)
    options = dict(true_cfg_scale=SCALE, negative_prompt=negative)
    expected = flow_latents(pipeline, "flux", NOISE, **options)
    teacher, told = guided(tmp_path, pipeline, "ugly")
    assert_guided(as_rounded(teacher, pipeline.scheduler), told, expected)


def test_a_dit_is_guided_away_from_its_null_class(tmp_path: Path) -> None:
    pipeline, labels = tiny_pipeline("dit"), torch.tensor([3, 999])
    pipeline.save_pretrained(tmp_path)
    family, loaded = family_in(pipeline), load_pipeline(tmp_path)
    null = family.null_condition(loaded)
    assert null is not None
    guidance = Guidance(SCALE, null, range(1, T + 1), family.null_first)
    teacher = replace(load_teacher(tmp_path, T), guidance=guidance)
    expected = pipeline(
        labels.tolist(),
        guidance_scale=SCALE,
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=T,
        output_type="pt",
    ).images
    noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    images = family.decode(loaded, teacher.sample(noise, labels)) / 2 + 0.5
    torch.testing.assert_close(images.clamp(0, 1), expected, rtol=1e-5, atol=1e-5)
