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
from diffusers import FluxPipeline
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
from opmerge.denoisers.denoiser import Condition
from opmerge.denoisers.families import Family, config_of, family_of
from opmerge.denoisers.models import Teacher, initial_noise
from opmerge.denoisers.pipelines import load_pipeline
from opmerge.denoisers.sampler import DDIM
from opmerge.denoisers.teacher_folder import INDEX, load_teacher, write_teacher_folder
from opmerge.errors import InputError

T = 5
NO_BINS = {"use_resolution_binning": False}


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def network_of(pipeline: Any) -> Any:
    return getattr(pipeline, "unet", None) or pipeline.transformer


def family_in(pipeline: Any) -> Family:
    return family_of(config_of(network_of(pipeline)))


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
    "Stable Diffusion": ("stable_diffusion", {}, {}, (4, SAMPLE, SAMPLE)),
    "Stable Diffusion, v": (
        "stable_diffusion",
        {"prediction_type": "v_prediction"},
        {},
        (4, SAMPLE, SAMPLE),
    ),
    "told a guidance scale": (
        "stable_diffusion",
        {"unet": {"time_cond_proj_dim": 6}},
        {"guidance_scale": 7.5},
        (4, SAMPLE, SAMPLE),
    ),
    "SDXL": ("sdxl", {}, {}, (4, SAMPLE, SAMPLE)),
    "PixArt, learned variance": ("pixart", {}, NO_BINS, (4, SAMPLE, SAMPLE)),
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
    pipeline = quiet(TINY_PIPELINES[family](**config))
    pipeline.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, T)
    assert (teacher.sample_shape, teacher.folder) == (shape, tmp_path)
    told = family_in(pipeline).encode_prompts(load_pipeline(tmp_path), PROMPTS)
    assert_fits(teacher.needs, told.rows)
    noise = initial_noise(shape, len(PROMPTS), seed=1)
    expected = own_latents(pipeline, noise, **{"guidance_scale": 1.0, **options})
    assert torch.equal(teacher.sample(noise, told), expected)
    assert_reads_each_row(teacher, noise, told)


def visited(scheduler: Any) -> DDIM:
    """The flow sampler of the levels that a scheduler has gone through."""
    sigmas = scheduler.sigmas.flip(0)
    times = torch.cat([torch.zeros(1), scheduler.timesteps.flip(0)])
    return DDIM(1 - sigmas, sigmas, times, "flow_prediction")


FLOWS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "SD3": ("sd3", {}, {"guidance_scale": 1.0}),
    "FLUX, dev": ("flux", {}, {"guidance_scale": 3.5}),
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
    pipeline = quiet(TINY_PIPELINES[family](**config))
    shape = (4, SAMPLE, SAMPLE)
    noise = initial_noise(shape, len(PROMPTS), seed=1)
    given = noise
    if family == "flux":
        given = FluxPipeline._pack_latents(noise, len(PROMPTS), *shape)
    side = (4 if family == "sana" else 2) * SAMPLE
    expected = own_latents(pipeline, given, height=side, width=side, **options)
    if family == "flux":
        expected = FluxPipeline._unpack_latents(expected, side, side, 2)
    network, rules = network_of(pipeline), family_in(pipeline)
    needs = rules.needs(config_of(network), tmp_path)
    teacher = Teacher(network, visited(pipeline.scheduler), shape, needs)
    told = rules.encode_prompts(pipeline, PROMPTS)
    assert_fits(needs, told.rows)
    torch.testing.assert_close(teacher.sample(noise, told), expected, rtol=1e-5, atol=1e-5)
    assert_reads_each_row(teacher, noise, told)


@pytest.mark.parametrize("family", sorted(set(TINY_PIPELINES) - {"dit"}))
def test_the_null_condition_is_what_the_pipeline_guides_away_from(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what the network is told at guidance 2, the first half; with a negative prompt or not."""
    pipeline = quiet(TINY_PIPELINES[family]())
    network, rules = network_of(pipeline), family_in(pipeline)
    side, shape = (4 if family == "sana" else 2) * SAMPLE, (4, SAMPLE, SAMPLE)
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


def test_a_dit_and_its_decoded_images_are_those_of_the_pipeline(tmp_path: Path) -> None:
    pipeline = quiet(TINY_PIPELINES["dit"]())
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
