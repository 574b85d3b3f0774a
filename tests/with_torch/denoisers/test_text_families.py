"""Replay of teachers that read texts against the pipelines of diffusers that they come from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, UNet2DConditionModel
from tiny_pipelines import (
    PROMPTS,
    SAMPLE,
    TINY_PIPELINES,
    ddim_scheduler,
    family_in,
    network_of,
    side_of,
    tiny_pipeline,
)
from torch import Tensor
from torch_helpers import edit_json

from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import family_of
from opmerge.denoisers.model_folder import INDEX
from opmerge.denoisers.models import Teacher, initial_noise
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.teacher_folder import load_teacher, outline_teacher
from opmerge.errors import InputError

T = 5
SHAPE = (4, SAMPLE, SAMPLE)
NO_BINS = {"use_resolution_binning": False}


def own_latents(pipeline: Any, noise: Tensor, **options: Any) -> Tensor:
    """Where the pipeline's own call takes noise, by latents."""
    given = {"num_inference_steps": T, "output_type": "latent", **options}
    samples: Tensor = pipeline(list(PROMPTS), latents=noise.clone(), **given).images
    return samples


def assert_fits(needs: Any, rows: Any) -> None:
    """Rows are named and shaped as the family says beforehand."""
    assert set(rows) == set(needs)
    for name, values in rows.items():
        shape = zip(needs[name].shape, values.shape[1:], strict=True)
        assert list(values.shape[1:]) == [m if n is None else n for n, m in shape], name


def assert_reads_each_row(teacher: Teacher, noise: Tensor, told: Condition) -> None:
    """No row can be another without the samples being others."""
    expected = teacher.sample(noise, told)
    for name, values in told.rows.items():
        other = values.flip(0) if not torch.equal(values[0], values[1]) else 2 * values
        found = teacher.sample(noise, Condition({**told.rows, name: other}))
        assert not torch.allclose(found, expected, rtol=1e-4, atol=1e-4), name


BETAS: dict[str, tuple[str, dict[str, Any], dict[str, Any], tuple[int, ...]]] = {
    "Stable Diffusion": ("stable_diffusion", {}, {}, SHAPE),
    "Stable Diffusion, v": (
        "stable_diffusion",
        {"prediction_type": "v_prediction"},
        {},
        SHAPE,
    ),
    "told a guidance scale": (
        "stable_diffusion",
        {"unet": {"time_cond_proj_dim": 6}},
        {"guidance_scale": 7.5},
        SHAPE,
    ),
    "SDXL": ("sdxl", {}, {}, SHAPE),
    "PixArt, learned variance": ("pixart", {}, NO_BINS, SHAPE),
    "PixArt Sigma": ("pixart", {"sigma": True}, NO_BINS, SHAPE),
    "PixArt, told sizes": (
        "pixart",
        {"sample_size": 128, "patch_size": 32},
        NO_BINS,
        (4, 128, 128),
    ),
}


@pytest.mark.parametrize("name", BETAS)
def test_replay_is_that_of_the_pipeline_bit_for_bit(tmp_path: Path, name: str) -> None:
    family, config, options, shape = BETAS[name]
    pipeline = tiny_pipeline(family, **config)
    pipeline.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, T)
    assert (teacher.sample_shape, teacher.folder) == (shape, tmp_path)
    told = family_in(pipeline).encode_prompts(load_pipeline(tmp_path), PROMPTS)
    assert_fits(teacher.needs, told.rows)
    noise = initial_noise(shape, len(PROMPTS), seed=1)
    expected = own_latents(pipeline, noise, **{"guidance_scale": 1.0, **options})
    assert torch.equal(teacher.sample(noise, told), expected)
    assert_reads_each_row(teacher, noise, told)


def flow_latents(pipeline: Any, family: str, noise: Tensor, **options: Any) -> Tensor:
    """Where the call of a flow pipeline takes noise, by latents; FLUX's packs them."""
    side = side_of(family)
    options = {"height": side, "width": side, **options}
    if family != "flux":
        return own_latents(pipeline, noise, **options)
    packed = FluxPipeline._pack_latents(noise, *noise.shape)
    latents = own_latents(pipeline, packed, **options)
    return FluxPipeline._unpack_latents(latents, side, side, 2)


def as_rounded(teacher: Teacher, scheduler: Any) -> Teacher:
    """The teacher at the very levels that a scheduler has gone through, which it has to rounding.

    Sigmas that FLUX's pipeline is given are rounded before they are shifted, and a rounding of a
    time near 1000 is 6e-5 in its sine.
    """
    sigmas, times = scheduler.sigmas.flip(0), scheduler.timesteps.flip(0)
    torch.testing.assert_close(teacher.ddim.sigmas, sigmas, rtol=1e-6, atol=0)
    torch.testing.assert_close(teacher.ddim.timesteps[1:], times, rtol=1e-6, atol=0)
    timesteps = torch.cat([torch.zeros(1), times])
    ddim = replace(teacher.ddim, alphas=1 - sigmas, sigmas=sigmas, timesteps=timesteps)
    return replace(teacher, ddim=ddim)


FLOWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "SD3": ("sd3", {}, {"guidance_scale": 1.0}),
    "SD3 without T5": ("sd3", {"with_t5": False}, {"guidance_scale": 1.0}),
    "FLUX, dev": ("flux", {}, {"guidance_scale": 3.5}),
    "FLUX, shifted by its size": ("flux", {"use_dynamic_shifting": True}, {}),
    "FLUX, schnell": ("flux", {"guidance_embeds": False}, {}),
    "Sana": ("sana", {}, {"guidance_scale": 1.0, **NO_BINS}),
    "Sana, scaled times": (
        "sana",
        {"timestep_scale": 0.001},
        {"guidance_scale": 1.0, **NO_BINS},
    ),
}


@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_replayed_to_rounding(tmp_path: Path, name: str) -> None:
    """Their Euler step ``z + (s' - s) v`` and ours round otherwise."""
    family, config, options = FLOWS[name]
    pipeline = tiny_pipeline(family, **config)
    pipeline.save_pretrained(tmp_path)
    noise = initial_noise(SHAPE, len(PROMPTS), seed=1)
    expected = flow_latents(pipeline, family, noise, **options)
    teacher = load_teacher(tmp_path, T)
    if family == "flux":
        teacher = as_rounded(teacher, pipeline.scheduler)
    assert teacher.sample_shape == SHAPE
    told = family_in(pipeline).encode_prompts(load_pipeline(tmp_path), PROMPTS)
    assert_fits(teacher.needs, told.rows)
    torch.testing.assert_close(teacher.sample(noise, told), expected, rtol=1e-5, atol=1e-5)
    assert_reads_each_row(teacher, noise, told)
    planned = torch.tensor(outline_teacher(tmp_path, T).schedule.sigmas).float()
    torch.testing.assert_close(planned, pipeline.scheduler.sigmas.flip(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("family", sorted(set(TINY_PIPELINES) - {"dit", "ldm"}))
def test_the_null_condition_is_what_the_pipeline_guides_away_from(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the network is told at guidance 2, the first half; with a negative prompt or not."""
    pipeline = tiny_pipeline(family)
    network, rules = network_of(pipeline), family_in(pipeline)
    side, shape = side_of(family), SHAPE
    z, times = initial_noise(shape, 1, seed=1), torch.tensor([999])
    options: dict[str, Any] = {"guidance_scale": 2.0}
    latents = z
    if family == "flux":
        latents = FluxPipeline._pack_latents(z, 1, *shape)
        options = {"true_cfg_scale": 2.0}
    if family in ("pixart", "sana"):
        options |= NO_BINS
    said: list[Tensor] = []
    network.register_forward_hook(lambda module, inputs, output: said.append(output[0]))
    for negative in ("", "ugly"):
        if negative:
            options["negative_prompt"] = negative
        elif family == "flux":  # which knows no null condition until it is told one
            options["negative_prompt"] = ""
        said.clear()
        with torch.no_grad():
            pipeline(
                PROMPTS[0],
                latents=latents.clone(),
                num_inference_steps=1,
                output_type="latent",
                height=side,
                width=side,
                **options,
            )
            expected = said[-1] if family == "flux" else said[0][:1]
            times = pipeline.scheduler.timesteps[:1]
            null = rules.null_condition(pipeline, negative)
            assert null is not None
            found = rules.call(network, z, times, null)
            found = getattr(found, "sample", found)
        if family == "flux":
            expected = FluxPipeline._unpack_latents(expected, side, side, 2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


NOT_DISTILLED: dict[str, tuple[str, dict[str, Any], str]] = {
    "inpainting": ("stable_diffusion", {"in_channels": 9}, "inpainting, depth, instructions"),
    "upscaler": (
        "stable_diffusion",
        {"in_channels": 7, "num_class_embeds": 10},
        "in_channels` must be out_channels = 4",
    ),
    "noise levels": (
        "stable_diffusion",
        {"num_class_embeds": 10},
        "num_class_embeds` must be null",
    ),
    "projected images": (
        "stable_diffusion",
        {"class_embed_type": "projection"},
        "class_embed_type` must be null",
    ),
    "another encoder": (
        "sdxl",
        {"encoder_hid_dim_type": "text_proj"},
        "encoder_hid_dim_type` must be null",
    ),
    "widths by blocks": (
        "stable_diffusion",
        {"cross_attention_dim": [16, 32]},
        "cross_attention_dim` must be one number",
    ),
    "DeepFloyd IF": (  # twice as many channels for a variance are no image beside z
        "stable_diffusion",
        {"out_channels": 8, "encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16},
        "encoder_hid_dim_type` must be null",
    ),
    "SDXL inpainting": ("sdxl", {"in_channels": 9}, "in_channels` must be out_channels = 4"),
    "FLUX Fill": ("flux", {"in_channels": 96, "out_channels": 16}, "networks that fill or follow"),
    "Sana-Sprint": ("sana", {"guidance_embeds": True}, "a few-step student itself"),
}


@pytest.mark.parametrize("name", NOT_DISTILLED)
def test_what_reads_more_than_a_text_is_refused_before_its_weights_are_read(
    tmp_path: Path, name: str
) -> None:
    family, changes, message = NOT_DISTILLED[name]
    network = network_of(tiny_pipeline(family))
    place = "unet" if isinstance(network, UNet2DConditionModel) else "transformer"
    network.save_config(tmp_path / place)
    edit_json(tmp_path / place / "config.json", **changes)
    edit_json(tmp_path / INDEX, **{place: ["diffusers", type(network).__name__]})
    ddim_scheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_teacher(tmp_path, T)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "must have no controlnet"),
        ({"adapter": ["diffusers", "T2IAdapter"]}, "must have no adapter"),
        ({"image_encoder": ["transformers", "CLIPVisionModel"]}, "must have no image_encoder"),
        ({"motion_adapter": ["diffusers", "MotionAdapter"]}, "must have no motion_adapter"),
        ({"requires_aesthetics_score": True}, "a refiner, which goes on from another's image"),
    ],
)
def test_pipelines_with_other_guides_are_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path)
    edit_json(tmp_path / INDEX, **changes)
    for load in (lambda: load_teacher(tmp_path, T), lambda: load_pipeline(tmp_path)):
        with pytest.raises(InputError, match=message) as caught:
            load()
        assert "\n" not in str(caught.value)


def test_images_and_texts_are_not_asked_of_those_that_have_none() -> None:
    images, family = torch.zeros(2, 1, 4, 4), family_of({})
    assert family.encode_images(None, images) is images
    assert family.decode(None, images) is images
    assert family.null_condition(None) is None
    for told in (
        lambda: family.encode_prompts(None, PROMPTS),
        lambda: family.null_condition(None, "ugly"),
    ):
        with pytest.raises(InputError, match="reads no text"):
            told()


@pytest.mark.parametrize("family", ["stable_diffusion", "flux"])
def test_prompts_without_text_encoders_are_refused(family: str) -> None:
    pipeline = tiny_pipeline(family)
    for name in ("text_encoder", "text_encoder_2"):
        if name in pipeline.components:
            setattr(pipeline, name, None)
    for odd, message in ((pipeline, "has a text encoder"), (object(), "encodes prompts as newer")):
        with pytest.raises(InputError, match=message):
            family_in(pipeline).encode_prompts(odd, PROMPTS)


def test_flux_is_of_1024_pixels_unless_its_config_says_another_size(tmp_path: Path) -> None:
    tiny_pipeline("flux", sample_size=None, use_dynamic_shifting=True).save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, T)
    assert teacher.sample_shape == (4, 128, 128)
    assert teacher.scheduler_config["image_seq_len"] == 64 * 64
