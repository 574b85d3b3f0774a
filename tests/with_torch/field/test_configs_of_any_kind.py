"""Configs whose values are of another kind than their keys: one line, and never a traceback."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler, DiTTransformer2DModel, UNet2DModel
from torch_helpers import edit_json

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]

UNET: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "norm_num_groups": 4}
BLOCKS: dict[str, Any] = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
OF_NETWORKS = [("sample_size", size) for size in ("8", 0, -8, 8.5, True, [8], [8, 8, 8], 10**12)]
OF_NETWORKS += [("sample_size", [8, "8"]), ("in_channels", 0), ("in_channels", [1])]
OF_SCHEDULERS: list[tuple[str, Any]] = [
    ("prediction_type", ["epsilon"]),
    ("beta_start", "0.0001"),
    ("clip_sample_range", "1"),
    ("steps_offset", {}),
    ("timestep_spacing", 3),
    ("num_train_timesteps", [1000]),
    ("num_train_timesteps", 10**9),  # of which a class would fill a list
    ("steps_offset", -2),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    unet = UNet2DModel(sample_size=8, **UNET, **BLOCKS, block_out_channels=(8,), layers_per_block=1)
    DDPMPipeline(unet, DDPMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


@pytest.fixture
def teacher(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "teacher"))


def refused(run: Run, teacher: Path, case: str, seen: Seen) -> str:
    output = teacher.parent / "samples.npy"
    words = ("--steps", 2, "--num_samples", 2, "--output", output)
    status, _, err = run("sample", teacher, *words)
    seen(case, "exit 2, one line", f"exit {status}, {err.strip()[-60:]}")
    assert status == 2
    assert len(err.splitlines()) == 1
    assert not output.exists()
    return err


@pytest.mark.parametrize(("key", "value"), OF_NETWORKS)
def test_settings_of_a_network(teacher: Path, run: Run, seen: Seen, key: str, value: Any) -> None:
    edit_json(teacher / "unet/config.json", **{key: value})
    assert "unet" in refused(run, teacher, f"a network's {key} {value!r}", seen)


@pytest.mark.parametrize(("key", "value"), OF_SCHEDULERS)
def test_settings_of_a_scheduler(teacher: Path, run: Run, seen: Seen, key: str, value: Any) -> None:
    edit_json(teacher / "scheduler/scheduler_config.json", **{key: value})
    assert key in refused(run, teacher, f"a scheduler's {key} {value!r}", seen)


@pytest.mark.parametrize("patch", [0, -1])
def test_a_patch_of_no_size(teacher: Path, run: Run, seen: Seen, patch: int) -> None:
    small: dict[str, Any] = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 4}
    shutil.rmtree(teacher / "unet")
    DiTTransformer2DModel(**small, in_channels=1, sample_size=8, norm_num_groups=1).save_pretrained(
        teacher / "transformer"
    )
    parts = {"unet": [None, None], "transformer": ["diffusers", "DiTTransformer2DModel"]}
    edit_json(teacher / "model_index.json", **parts)
    edit_json(teacher / "transformer/config.json", patch_size=patch)
    refused(run, teacher, f"a patch of {patch}", seen)


def test_a_network_that_is_none(teacher: Path, run: Run, seen: Seen) -> None:
    edit_json(teacher / "model_index.json", unet=[None, None])
    refused(run, teacher, "a pipeline without its network", seen)


def test_weights_that_lead_nowhere(teacher: Path, run: Run, seen: Seen) -> None:
    """As a hub's cache of which only the links were copied; diffusers' log adds no line."""
    weights = teacher / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.symlink_to(teacher / "blobs/nowhere")
    refused(run, teacher, "weights that are a dead link", seen)


def test_a_hubs_reference_that_is_no_text(
    whole: Path, tmp_path: Path, run: Run, seen: Seen
) -> None:
    cache = tmp_path / "models--owner--name"
    shutil.copytree(whole, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_bytes(b"\xff\xfe")
    words = ("--steps", 2, "--num_samples", 2, "--output", tmp_path / "samples.npy")
    status, _, _ = run("sample", cache, *words)
    seen("refs/main of other bytes", "exit 0: the only snapshot", f"exit {status}")
    assert status == 0
