"""Latents as networks read them, against the pipelines of diffusers and their autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import (
    PROMPTS,
    SAMPLE,
    family_in,
    tiny_deep_vae,
    tiny_pipeline,
    tiny_vae,
)

from opmerge.denoisers.autoencoders import decode_latents, encode_images
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.teacher_folder import load_teacher

T = 5
IMAGES = initial_noise((3, 2 * SAMPLE, 2 * SAMPLE), 2, seed=3).clamp(-1, 1)


def test_a_dit_and_its_decoded_images_are_those_of_the_pipeline(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("dit")
    pipeline.save_pretrained(tmp_path)
    teacher, labels = load_teacher(tmp_path, T), torch.tensor([3, 999])
    assert (teacher.sample_shape, teacher.num_classes) == ((4, SAMPLE, SAMPLE), 1000)
    expected = pipeline(
        labels.tolist(),
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=T,
        output_type="pt",
    ).images
    noise = torch.randn(2, *teacher.sample_shape, generator=torch.Generator().manual_seed(5))
    loaded, family = load_pipeline(tmp_path), family_in(pipeline)
    images = family.decode(loaded, teacher.sample(noise, labels))
    torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), expected)
    null = family.null_condition(loaded)
    assert null is not None
    assert null.rows["class_labels"].tolist() == [1000]


def test_latents_are_decoded_as_the_pipeline_decodes_them() -> None:
    pipeline = tiny_pipeline("stable_diffusion")
    noise = initial_noise((4, SAMPLE, SAMPLE), len(PROMPTS), seed=1)
    options = dict(num_inference_steps=T, guidance_scale=1.0, output_type="pt")
    expected = pipeline(list(PROMPTS), latents=noise, **options).images
    latents = pipeline(list(PROMPTS), latents=noise, **{**options, "output_type": "latent"}).images
    images = family_in(pipeline).decode(pipeline, latents)
    assert torch.equal((images / 2 + 0.5).clamp(0, 1), expected)


def test_latent_diffusion_without_text_is_replayed_and_decoded(tmp_path: Path) -> None:
    """LDMPipeline, with the codes of a VQModel; to rounding, for on some processors its decoder
    and a copy with the same weights in equally aligned memory differ in the last bits."""
    pipeline = tiny_pipeline("ldm")
    pipeline.save_pretrained(tmp_path)
    teacher, loaded = load_teacher(tmp_path, T), load_pipeline(tmp_path)
    assert (teacher.sample_shape, teacher.needs) == ((3, SAMPLE, SAMPLE), {})
    drawn = pipeline(
        2, torch.Generator().manual_seed(5), num_inference_steps=T, output_type="np"
    ).images
    noise = torch.randn(2, *teacher.sample_shape, generator=torch.Generator().manual_seed(5))
    images = family_in(pipeline).decode(loaded, teacher.sample(noise))
    expected = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    torch.testing.assert_close((images / 2 + 0.5).clamp(0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "moments", [{}, {"latents_mean": [0.5, -1, 2, 0], "latents_std": [2.0, 1, 0.5, 3]}]
)
@pytest.mark.parametrize("shift", [None, 0.25])
def test_latents_are_scaled_as_the_config_of_the_autoencoder_says(
    moments: Any, shift: float | None
) -> None:
    """What the network reads, and that decoding undoes it."""
    torch.manual_seed(0)
    vae = tiny_vae(scaling_factor=0.3, shift_factor=shift, **moments)
    with torch.no_grad():
        mode = vae.encode(IMAGES).latent_dist.mode()
        decoded = vae.decode(mode).sample
    expected = mode - (shift or 0)
    if moments:
        mean, std = (torch.tensor(each)[:, None, None] for each in moments.values())
        expected = (expected - mean) / std
    latents = encode_images(vae, IMAGES)
    torch.testing.assert_close(latents, expected * 0.3)
    torch.testing.assert_close(decode_latents(vae, latents), decoded)


def test_autoencoders_without_a_distribution_are_scaled_alike() -> None:
    """AutoencoderDC, and VQModel before its codes."""
    torch.manual_seed(0)
    deep, codes = tiny_deep_vae(), tiny_pipeline("ldm").vqvae
    with torch.no_grad():
        expected = (deep, deep.encode(IMAGES).latent), (codes, codes.encode(IMAGES).latents)
        for vae, latents in expected:
            found = encode_images(vae, IMAGES)
            torch.testing.assert_close(found, latents * vae.config.scaling_factor)
            torch.testing.assert_close(decode_latents(vae, found), vae.decode(latents).sample)
