"""A preparation on an accelerator gives what the CPU gives, to its arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from captioned_images import CAPTIONS, NUM_IMAGES, captioned_images, prepare_words
from tiny_pipelines import TINY_PIPELINES

from opmerge.cli import main
from opmerge.data import SourceOptions, open_source
from opmerge.data.prepared import SAMPLES, open_prepared
from opmerge.denoisers.conditions import kept_conditions
from opmerge.latents import read_encoding

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator"),
]


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3"])
def test_a_device_encodes_what_the_cpu_does(tmp_path: Path, family: str) -> None:
    teacher, images, folder = (tmp_path / name for name in ("teacher", "images", "prepared"))
    TINY_PIPELINES[family]().save_pretrained(teacher)
    images.mkdir()
    words = prepare_words(teacher, folder, captioned_images(images))
    assert main([str(word) for word in words]) == 0
    found, encoding = open_prepared(folder), read_encoding(teacher)
    told = kept_conditions(found)
    assert told is not None
    expected = encoding.told(CAPTIONS)
    for name, values in told[:].rows.items():
        torch.testing.assert_close(values, expected.rows[name], atol=1e-3, rtol=1e-2)
    shape = encoding.image_shape
    assert shape is not None
    pixels = next(open_source(str(images), SourceOptions(image_size=shape[1])).batches())
    latents = encoding.samples(torch.from_numpy(pixels).float().view(-1, *shape))
    samples = torch.from_numpy(found.shards["samples"].read(SAMPLES, 0, NUM_IMAGES))
    torch.testing.assert_close(samples, latents, atol=1e-3, rtol=1e-2)
