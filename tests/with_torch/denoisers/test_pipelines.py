"""The pipeline around a teacher's network, read from a folder without running code of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_pipelines import PROMPTS, family_in, tiny_pipeline
from torch_helpers import edit_json

from opmerge.denoisers import pipelines
from opmerge.denoisers.model_folder import INDEX
from opmerge.denoisers.pipelines import load_pipeline, pipeline_parts
from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.errors import InputError


def test_a_loaded_pipeline_encodes_without_the_networks_weights(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("stable_diffusion")
    pipeline.save_pretrained(tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    network = load_teacher(tmp_path, 5).network
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


def test_halves_in_a_variant_beside_whole_weights_are_read_in_float32(tmp_path: Path) -> None:
    pipeline = tiny_pipeline("stable_diffusion")
    pipeline.save_pretrained(tmp_path)
    halves = tiny_pipeline("stable_diffusion").vae.half()
    shutil.rmtree(tmp_path / "vae")
    halves.save_pretrained(tmp_path / "vae", variant="fp16", max_shard_size="20KB")
    assert len(list((tmp_path / "vae").glob("*.fp16-*.safetensors"))) > 1
    loaded, state = load_pipeline(tmp_path), pipeline.vae.state_dict()
    for name, weight in loaded.vae.state_dict().items():
        assert torch.equal(weight, state[name].half().float()), name
    for name, weight in loaded.text_encoder.state_dict().items():
        assert torch.equal(weight, pipeline.text_encoder.state_dict()[name]), name


def test_of_several_variants_the_one_with_most_digits_is_read(tmp_path: Path) -> None:
    """Of those that all parts without weights of the usual name have."""
    pipeline = tiny_pipeline("stable_diffusion")
    pipeline.save_pretrained(tmp_path)
    for name, kinds in {"vae": ("bf16", "fp16"), "text_encoder": ("fp16",)}.items():
        shutil.rmtree(tmp_path / name)
        for kind in kinds:
            getattr(pipeline, name).save_pretrained(tmp_path / name, variant=kind)
    assert pipeline_parts(tmp_path).variant == "fp16"
    shutil.rmtree(tmp_path / "text_encoder")
    pipeline.text_encoder.save_pretrained(tmp_path / "text_encoder", variant="fp32")
    with pytest.raises(InputError, match="must hold weights in one variant, got bf16, fp16, fp32"):
        load_pipeline(tmp_path)


def test_what_checks_images_is_not_read_to_encode(tmp_path: Path) -> None:
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path)
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    edit_json(tmp_path / INDEX, **checker, feature_extractor=["transformers", "CLIPImageProcessor"])
    assert load_pipeline(tmp_path).safety_checker is None


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path)
    monkeypatch.setattr(pipelines, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"transformers, .*; pip install 'opmerge\[text\]'$"):
        load_pipeline(tmp_path)


def pickled(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.bin"
    )


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "index": (lambda f: (f / INDEX).unlink(), "must hold model_index.json, which says how texts"),
    "own code": (
        lambda f: edit_json(f / INDEX, _class_name=["pipeline", "Evil"]),
        "_class_name` must be a pipeline of diffusers",
    ),
    "unknown class": (lambda f: edit_json(f / INDEX, _class_name="Evil"), "must be a pipeline"),
    "own class of a part": (
        lambda f: edit_json(f / INDEX, vae=["evil", "Evil"]),
        "must be a class of diffusers, transformers or opmerge, got evil.Evil",
    ),
    "text encoder": (lambda f: shutil.rmtree(f / "text_encoder"), "must be a whole pipeline"),
    "pickles": (pickled, "must be a whole pipeline of diffusers, with safetensors"),
    "student": (
        lambda f: edit_json(f / INDEX, _class_name="FewStepPipeline"),
        "must be a teacher's folder, not a student's",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pipelines_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    tiny_pipeline("stable_diffusion").save_pretrained(tmp_path)
    damage, message = BROKEN[name]
    damage(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_pipeline(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pixart", "dit"])
def test_transformers_saved_by_old_diffusers_are_read(tmp_path: Path, name: str) -> None:
    """As a ``Transformer2DModel``, which newer classes have taken apart."""
    pipeline = tiny_pipeline(name)
    pipeline.save_pretrained(tmp_path)
    digest = load_teacher(tmp_path, 5).digest
    edit_json(tmp_path / "transformer" / "config.json", _class_name="Transformer2DModel")
    edit_json(tmp_path / INDEX, transformer=["diffusers", "Transformer2DModel"])
    assert load_teacher(tmp_path, 5).digest == digest
    loaded, network = load_pipeline(tmp_path), pipeline.transformer
    assert load_pipeline(tmp_path, network).transformer is network
    assert type(loaded.transformer) is type(network)
