"""DiTs and autoencoders as repositories have them: the weights that diffusers reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from torch_helpers import edit_json, scrambled

from opmerge.denoisers.teacher_folder import load_teacher
from opmerge.latents import load_encoder

Seen = Callable[[str, object, object], None]
Layout = tuple[str, dict[str, Any]]


def dit() -> Any:
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1}
    shapes: dict[str, Any] = {"in_channels": 4, "out_channels": 8, "sample_size": 8}
    return scrambled(DiTTransformer2DModel(**sizes, **shapes, num_embeds_ada_norm=10))


def autoencoder() -> Any:
    blocks: dict[str, Any] = {"down_block_types": ("DownEncoderBlock2D",) * 2}
    blocks |= {"up_block_types": ("UpDecoderBlock2D",) * 2, "block_out_channels": (8, 16)}
    return scrambled(AutoencoderKL(**blocks, norm_num_groups=4, sample_size=16, latent_channels=4))


HALF: Layout = ("float16", {"variant": "fp16"})
LAYOUTS: dict[str, list[Layout]] = {
    "beside": [("float32", {})],
    "bf16 under the usual name": [("bfloat16", {})],
    "fp16": [HALF],
    "fp16 and bf16": [("bfloat16", {"variant": "bf16"}), HALF],
    "fp16 and whole": [HALF, ("float32", {})],
    "shards": [("float32", {"max_shard_size": "8KB"})],
    "shards of fp16": [("float16", {"variant": "fp16", "max_shard_size": "4KB"})],
}


def lie(model: Callable[[], Any], folder: Path, layout: str) -> dict[str, torch.Tensor]:
    """Weights and config.json side by side, and what diffusers reads of them."""
    for kind, options in LAYOUTS[layout]:
        model().to(getattr(torch, kind)).save_pretrained(folder, **options)
    variant = options.get("variant")
    network = type(model()).from_pretrained(folder, variant=variant, torch_dtype=torch.float32)
    return dict(network.state_dict())


def assert_read(network: Any, expected: dict[str, torch.Tensor], seen: Seen, case: str) -> None:
    read = network.state_dict()
    same = [torch.equal(read[name], weight) for name, weight in expected.items()]
    seen(case, f"{len(expected)} equal tensors", f"{sum(same)}")
    assert read.keys() == expected.keys()
    assert all(same)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dit_beside_its_scheduler(tmp_path: Path, seen: Seen, layout: str) -> None:
    expected = lie(dit, tmp_path, layout)
    DDIMScheduler(clip_sample=False).save_config(tmp_path)
    assert_read(load_teacher(tmp_path, 4).network, expected, seen, f"DiT: {layout}")
    edit_json(tmp_path / "config.json", _class_name="Transformer2DModel")  # of older versions
    assert_read(load_teacher(tmp_path, 4).network, expected, seen, f"older DiT: {layout}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", [".", "vae", "models--stabilityai--vae/snapshots/0123"])
def test_an_autoencoder(tmp_path: Path, seen: Seen, layout: str, part: str) -> None:
    expected = lie(autoencoder, tmp_path / part, layout)
    folder = tmp_path / part.split("/", maxsplit=1)[0] if "snapshots" in part else tmp_path
    network = load_encoder(folder).network  # type: ignore[attr-defined]
    assert_read(network, expected, seen, f"AutoencoderKL in {part}: {layout}")
