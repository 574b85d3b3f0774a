"""Models where people have them: flat, bare, in a hub's cache, in shards and variants."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from test_teacher_folder import tiny_mlp, tiny_unet

from opmerge.denoisers.model_folder import find_network, find_variant, locate_model
from opmerge.denoisers.teacher_folder import (
    load_teacher,
    outline_teacher,
    write_teacher_folder,
)
from opmerge.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_teacher_folder(tmp_path / "model", tiny_mlp(), DDIMScheduler(clip_sample=False))


def digest(place: Path | str) -> str:
    return load_teacher(place, 2).digest


def test_a_network_beside_its_scheduler_needs_no_index(folder: Path) -> None:
    expected = digest(folder)
    (folder / "model_index.json").unlink()
    assert digest(folder) == digest(folder / "unet") == expected
    (folder / "unet").rename(folder / "transformer")
    assert digest(folder) == digest(folder / "transformer") == expected


def test_a_flat_repository_may_have_an_index(tmp_path: Path) -> None:
    """As google/ddpm-* has: the index names folders that are not there."""
    tiny_unet().save_pretrained(tmp_path)
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path)
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", **parts}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert find_network(tmp_path) == tmp_path
    weights = load_teacher(tmp_path, 2).network.state_dict()
    for key, weight in tiny_unet().state_dict().items():
        assert torch.equal(weights[key], weight)


def test_a_hubs_cache_stands_for_its_snapshot(folder: Path, tmp_path: Path) -> None:
    expected, cached = digest(folder), tmp_path / "models--someone--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    shutil.copytree(folder, cached / "snapshots" / "abc")
    assert locate_model(cached) == cached / "snapshots" / "abc"
    assert digest(cached) == digest(cached / "snapshots" / "abc") == expected
    (cached / "snapshots" / "def").mkdir()
    assert digest(cached) == expected
    (cached / "refs" / "main").unlink()
    with pytest.raises(InputError, match=r"must hold one snapshot, got abc, def; pass the folder"):
        locate_model(cached)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [False, True])
def test_variants_and_shards_in_any_mix(folder: Path, variant: str | None, shards: bool) -> None:
    network = tiny_mlp()
    shutil.rmtree(folder / "unet")
    saved = network.half() if variant else network
    size = "2KB" if shards else "1GB"
    saved.save_pretrained(folder / "unet", variant=variant, max_shard_size=size)
    number = len(list((folder / "unet").glob("*.safetensors")))
    assert (number > 1) is shards
    assert find_variant(folder / "unet") == variant
    loaded = load_teacher(folder, 2).network.state_dict()
    for key, weight in saved.state_dict().items():
        assert torch.equal(loaded[key], weight.float()), key


def test_of_several_variants_the_most_digits_are_read(folder: Path) -> None:
    network = folder / "unet"
    (network / "diffusion_pytorch_model.safetensors").unlink()
    for variant, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        tiny_mlp().to(kind).save_pretrained(network, variant=variant, max_shard_size="2KB")
    assert find_variant(network) == "fp16"
    loaded = load_teacher(folder, 2).network
    assert torch.equal(loaded.proj_in.weight, tiny_mlp().proj_in.weight.half().float())


def test_a_model_of_the_hub_is_downloaded_by_diffusers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    assert digest("someone/model") == digest(folder)
    assert asked[0][0] == "someone/model"
    assert asked[0][1] == {"use_safetensors": True, "trust_remote_code": False}
    (tmp_path / "runs").mkdir()  # a folder of one's own that lacks what was meant
    with pytest.raises(InputError, match="`teacher` must be an existing folder, got runs/model"):
        locate_model("runs/model")


def test_offline_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="must be a folder, or a model that can be") as caught:
        locate_model("someone/model-that-is-not-cached")
    assert "\n" not in str(caught.value)


def no_network(folder: Path) -> None:
    shutil.rmtree(folder / "unet")


def reads_text(folder: Path) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"_class_name": "HunyuanDiT2DModel"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "a.bin")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (no_network, "unet/config.json` cannot be read"),
        (reads_text, "must be of a known family, as it reads encoder_hidden_states"),
        (pickled, "weights in .bin files are not read"),
    ],
)
def test_a_plan_says_what_distill_will_refuse(
    folder: Path, damage: Callable[[Path], None], reason: str
) -> None:
    assert outline_teacher(folder, 4).schedule.notes == load_notes(folder)
    damage(folder)
    outline = outline_teacher(folder, 4)
    (note,) = set(outline.schedule.notes) - set(load_notes(folder))
    assert note.startswith("opmerge distill refuses this teacher: ")
    assert reason in note
    assert (outline.sample_shape is None) is (damage is not pickled)
    with pytest.raises(InputError) as caught:
        load_teacher(folder, 4)
    assert str(caught.value) in note


def test_a_flat_repository_says_so_too(tmp_path: Path) -> None:
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        cross_attention_dim=4,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        in_channels=9,
    ).save_config(tmp_path)
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path)
    notes = outline_teacher(tmp_path, 4).schedule.notes
    assert notes[-1].startswith("opmerge distill refuses this teacher: ")
    with pytest.raises(InputError, match="in_channels"):
        load_teacher(tmp_path, 4)


def load_notes(folder: Path) -> tuple[str, ...]:
    """Of the scheduler alone."""
    return outline_teacher(folder / "scheduler", 4).schedule.notes


def test_a_dynamic_shift_is_that_of_the_networks_samples(tmp_path: Path) -> None:
    """mu = 0.5 + 0.65 (n - 256) / 3840 of n patches, in the plan as in the teacher."""
    folder = write_teacher_folder(tmp_path / "model", tiny_unet(), DDIMScheduler())
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    dynamic.save_pretrained(folder / "scheduler")
    outline, teacher = outline_teacher(folder, 8), load_teacher(folder, 8)
    assert outline.sample_shape == (1, 8, 8)
    assert outline.schedule.parameters["image_seq_len"] == 64
    mu = 0.5 + 0.65 * (64 - 256) / 3840
    dynamic.set_timesteps(8, mu=mu)
    torch.testing.assert_close(teacher.ddim.sigmas[1:], dynamic.sigmas[:-1].flip(0))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_seq_len": 4096}))
    assert outline_teacher(folder, 8).schedule.parameters["image_seq_len"] == 4096


def test_the_folder_of_a_training_is_no_model(tmp_path: Path) -> None:
    """It is told where the model lies, or how it comes to lie there; others are left alone."""
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    assert locate_model(other) == other
    (run / "metrics.jsonl").touch()
    for place in (run, run / "teacher"):
        with pytest.raises(InputError, match="`resume_from_checkpoint=latest`"):
            locate_model(place)
    folder = run / "teacher"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(InputError, match=f"pass {folder}"):
        locate_model(run)
    assert locate_model(folder) == folder
