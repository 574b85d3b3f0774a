"""Replay of teachers that read texts against the pipelines of diffusers that they come from."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import (
    PROMPTS,
    SAMPLE,
    TINY_PIPELINES,
    WIDTH,
    ddim_scheduler,
    tiny_conditional_unet,
    tiny_vae,
)
from torch import Tensor

from opmerge.denoisers import pipelines
from opmerge.denoisers.autoencoders import decode_latents, encode_images
from opmerge.denoisers.families import Family, config_of, family_of
from opmerge.denoisers.models import initial_noise
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.teacher_folder import INDEX, load_teacher, write_teacher_folder
from opmerge.errors import InputError

T = 5


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def network_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def family_in(pipeline: Any) -> Family:
    return family_of(config_of(network_of(pipeline)))


def own_latents(pipeline: Any, noise: Tensor, **options: Any) -> Tensor:
    """Where the pipeline's own call takes noise, by latents."""
    samples: Tensor = pipeline(
        list(PROMPTS),
        latents=noise.clone(),
        num_inference_steps=T,
        output_type="latent",
        **options,
    ).images
    return samples


def assert_fits(needs: Any, rows: Any) -> None:
    """Rows are named and shaped as the family says beforehand."""
    assert set(rows) == set(needs)
    for name, values in rows.items():
        shape = [
            n if n is not None else m
            for n, m in zip(needs[name].shape, values.shape[1:], strict=True)
        ]
        assert list(values.shape[1:]) == shape


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stable_diffusion_is_replayed_bit_for_bit(tmp_path: Path, prediction_type: str) -> None:
    pipeline = quiet(TINY_PIPELINES["stable_diffusion"](prediction_type=prediction_type))
    pipeline.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, T)
    assert (teacher.sample_shape, teacher.folder) == ((4, SAMPLE, SAMPLE), tmp_path)
    told = family_in(pipeline).encode_prompts(load_pipeline(tmp_path), PROMPTS)
    assert_fits(teacher.needs, told.rows)
    noise = initial_noise(teacher.sample_shape, len(PROMPTS), seed=1)
    expected = own_latents(pipeline, noise, guidance_scale=1.0)
    assert torch.equal(teacher.sample(noise, told), expected)
    assert not torch.allclose(teacher.sample(noise, told[torch.tensor([1, 0])]), expected)


def test_latents_are_decoded_as_the_pipeline_decodes_them() -> None:
    pipeline = quiet(TINY_PIPELINES["stable_diffusion"]())
    noise = initial_noise((4, SAMPLE, SAMPLE), len(PROMPTS), seed=1)
    options = dict(num_inference_steps=T, guidance_scale=1.0, output_type="pt")
    expected = pipeline(list(PROMPTS), latents=noise, **options).images
    latents = own_latents(pipeline, noise, guidance_scale=1.0)
    images = family_in(pipeline).decode(pipeline, latents)
    assert torch.equal((images / 2 + 0.5).clamp(0, 1), expected)


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
    images = initial_noise((3, 2 * SAMPLE, 2 * SAMPLE), 2, seed=3).clamp(-1, 1)
    with torch.no_grad():
        mode = vae.encode(images).latent_dist.mode()
        decoded = vae.decode(mode).sample
    expected = mode - (shift or 0)
    if moments:
        mean, std = (torch.tensor(each)[:, None, None] for each in moments.values())
        expected = (expected - mean) / std
    latents = encode_images(vae, images)
    torch.testing.assert_close(latents, expected * 0.3)
    torch.testing.assert_close(decode_latents(vae, latents), decoded)


def test_a_loaded_pipeline_encodes_without_the_networks_weights(tmp_path: Path) -> None:
    pipeline = TINY_PIPELINES["stable_diffusion"]()
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    network = load_teacher(tmp_path, T).network
    weights.unlink()
    loaded = load_pipeline(tmp_path)
    assert {parameter.device.type for parameter in loaded.unet.parameters()} == {"meta"}
    assert load_pipeline(tmp_path, network).unet is network
    family = family_in(pipeline)
    told, null = family.encode_prompts(loaded, PROMPTS), family.null_condition(loaded)
    assert null is not None
    for prompts, rows in ((list(PROMPTS), told), ([""], null)):
        expected = pipeline.encode_prompt(prompts, "cpu", 1, False)[0]
        assert torch.equal(rows.rows["encoder_hidden_states"], expected)
    negative = family.null_condition(loaded, PROMPTS[1])
    assert negative is not None
    torch.testing.assert_close(negative.rows, told[1:].rows)


def test_halves_are_read_in_float32(tmp_path: Path) -> None:
    pipeline = TINY_PIPELINES["stable_diffusion"]()
    pipeline.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    loaded = load_pipeline(tmp_path)
    for part in (loaded.vae, loaded.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    state = pipeline.vae.state_dict()
    for name, weight in loaded.vae.state_dict().items():
        assert torch.equal(weight, state[name].float()), name


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(tmp_path)
    monkeypatch.setattr(pipelines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"transformers, .*; pip install 'opmerge\[text\]'$"):
        load_pipeline(tmp_path)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.bin"
    )


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "index": (lambda f: (f / INDEX).unlink(), "must hold model_index.json, which says how texts"),
    "own code": (
        lambda f: edit(f / INDEX, _class_name=["pipeline", "Evil"]),
        "_class_name` must be a pipeline of diffusers",
    ),
    "unknown class": (lambda f: edit(f / INDEX, _class_name="Evil"), "must be a pipeline"),
    "own class of a part": (
        lambda f: edit(f / INDEX, vae=["evil", "Evil"]),
        "must be a whole pipeline of diffusers",
    ),
    "text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "must be a whole pipeline"),
    "pickles": (pickled, "must be a whole pipeline of diffusers, with safetensors"),
    "student": (
        lambda f: edit(f / INDEX, _class_name="FewStepPipeline"),
        "must be a teacher's folder, not a student's",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pipelines_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(tmp_path)
    damage, message = BROKEN[name]
    damage(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_pipeline(tmp_path)
    assert "\n" not in str(caught.value)


NOT_DISTILLED: dict[str, tuple[dict[str, Any], str]] = {
    "inpainting": ({"in_channels": 9}, "inpainting, depth, instructions"),
    "upscaler": ({"in_channels": 7, "num_class_embeds": 10}, "upscaling"),
    "noise levels of an image": ({"num_class_embeds": 10}, "num_class_embeds` must be null"),
    "projected images": (
        {"class_embed_type": "projection", "projection_class_embeddings_input_dim": WIDTH},
        "class_embed_type` must be null",
    ),
    "another encoder": (
        {"encoder_hid_dim": WIDTH, "encoder_hid_dim_type": "text_proj"},
        "encoder_hid_dim_type` must be null",
    ),
}


@pytest.mark.parametrize("name", NOT_DISTILLED)
def test_what_reads_more_than_a_text_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    config, message = NOT_DISTILLED[name]
    write_teacher_folder(tmp_path / "teacher", tiny_conditional_unet(**config), ddim_scheduler())
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_teacher(tmp_path / "teacher", T)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["controlnet", "adapter", "image_encoder"])
def test_other_guides_are_refused_in_one_line(tmp_path: Path, part: str) -> None:
    TINY_PIPELINES["stable_diffusion"]().save_pretrained(tmp_path)
    edit(tmp_path / INDEX, **{part: ["diffusers", "ControlNetModel"]})
    with pytest.raises(InputError, match=f"must have no {part}: only texts and classes guide"):
        load_teacher(tmp_path, T)


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
