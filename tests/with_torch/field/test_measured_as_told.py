"""What measurements say of themselves: values, intervals, alarms, latents of any autoencoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, VQModel
from torch import Tensor, nn
from torch_helpers import scrambled

from opmerge import SourceOptions, open_source, resolve_spectrum
from opmerge.denoisers.inputs import DataInputs, load_samples
from opmerge.denoisers.models import Jump, Student, Teacher
from opmerge.denoisers.sampler import DDIM
from opmerge.measure.evaluation import evaluate_student
from opmerge.measure.linearity import linearity

Run = Callable[..., tuple[int, str, str]]
Seen = Callable[[str, object, object], None]


class Plus(nn.Module):
    """x̂ = scale z + offset, told nothing else."""

    def __init__(self, scale: float, offset: float = 0.0) -> None:
        super().__init__()
        self.scale, self.offset = nn.Parameter(torch.tensor(scale)), offset

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        return self.scale * z + self.offset


@pytest.mark.parametrize("number", [6, 12, 40])
@pytest.mark.parametrize("size", [4, 32])
def test_a_value_lies_in_its_own_interval(number: int, size: int, seen: Seen) -> None:
    """Few samples of many dimensions: a distance of samples is then far above that of the laws."""
    scheduler = DDIMScheduler(clip_sample=False, prediction_type="sample")
    ddim = DDIM.from_scheduler(scheduler, 2)
    teacher = Teacher(Plus(1.0), ddim, (size,))
    student = Student((Jump(ddim.denoiser(Plus(1.02, 0.01)), 2, 0, 0),), ddim, (size,))
    for seed in range(5):
        data = np.random.default_rng(seed).standard_normal((number, size))
        found = evaluate_student(
            teacher, student, number, seed, reference=data, features=lambda x: x[:, :3]
        )
        assert found.reference is not None
        assert found.features is not None
        measured = {**vars(found), **vars(found.reference), **vars(found.features)}
        for name, each in measured.items():
            if getattr(each, "low", None) is not None:
                assert each.low <= each.value <= each.high, name
    last = found.reference.student_sliced_w2
    told = f"{last.value:.3g} [{last.low:.3g}, {last.high:.3g}]"
    seen(f"{number} samples of {size} values", "inside the interval", told)


class Small(nn.Module):
    """v of which x̂ = -v is a share of noise at T, and the spectrum's own below."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, z: Tensor, timestep: Tensor) -> Tensor:
        return -self.share * z


@pytest.mark.parametrize(("share", "is_told"), [(0.1, False), (0.15, False), (0.8, True)])
def test_no_alarm_where_noise_says_nothing(share: float, is_told: bool, seen: Seen) -> None:
    """At alpha_T = 0 the mean is all there is to say: what a network adds is small, or an alarm."""
    scheduler = DDIMScheduler(
        clip_sample=False,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )
    data = load_samples(open_source("digits", SourceOptions()), (8, 8))
    teacher = Teacher(Small(share), DDIM.from_scheduler(scheduler, 4), (8, 8))
    found = linearity(teacher, DataInputs(data), resolve_spectrum("digits"), steps=[4])
    assert float(teacher.ddim.alphas[-1]) == 0
    alarm = "4 (0%)" in " ".join(found.notes)
    seen(f"x̂ of {found.signal[0]:.0%} at zero SNR", f"alarm: {is_told}", f"alarm: {alarm}")
    assert alarm is is_told


def vq() -> Any:
    return VQModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=2,
        num_vq_embeddings=16,
        scaling_factor=0.5,
    )


def tiny() -> Any:
    channels: dict[str, Any] = dict.fromkeys(("encoder_block_out_channels",), (8, 8))
    channels["decoder_block_out_channels"] = (8, 8)
    blocks: dict[str, Any] = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    return AutoencoderTiny(in_channels=1, out_channels=1, latent_channels=2, **channels, **blocks)


@pytest.mark.parametrize(("make", "scale"), [(vq, 0.5), (tiny, 1.0)])
def test_latents_of_any_autoencoder(
    make: Callable[[], Any], scale: float, tmp_path: Path, run: Run, seen: Seen
) -> None:
    """As diffusers' own calls give them, times the scaling factor; and back."""
    network = scrambled(make())
    place = tmp_path / "pipeline"
    network.save_pretrained(place / "vae")
    images = np.random.default_rng(0).uniform(-1, 1, (5, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    files = (
        tmp_path / "images.npy",
        "--vae",
        tmp_path / "pipeline",
        "--output",
        tmp_path / "z.npy",
    )
    status, _, err = run("vae", "encode", *files)
    assert status == 0, err
    with torch.no_grad():
        expected = network.encode(torch.from_numpy(images)[:, None]).latents * scale
    got = np.load(tmp_path / "z.npy")
    apart = float(np.abs(got - expected.numpy()).max())
    seen(
        f"vae encode, {type(network).__name__}", f"latents {tuple(expected.shape)}", f"{got.shape}"
    )
    assert apart < 1e-5 * float(expected.abs().max())
    back = (
        "--vae",
        tmp_path / "pipeline",
        "--image_shape",
        "1,8,8",
        "--output",
        tmp_path / "x.npy",
    )
    status, _, err = run("vae", "decode", tmp_path / "z.npy", *back)
    assert status == 0, err
    with torch.no_grad():
        decoded = network.decode(expected / scale).sample
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), decoded.numpy(), atol=1e-4)
    status, _, err = run("vae", "encode", *files, "--sample")
    assert (status, "the encoder has no variances" in err) == (2, True)


def test_a_probe_that_was_changed_is_trained_again(
    teacher: Path, tmp_path: Path, run: Run, seen: Seen
) -> None:
    """Its digest tells; what is calibrated is what it was before."""
    files = ("--teacher", teacher, "--output_dir", tmp_path)
    few = ("--steps", 4, "--num_iterations", 4, "--train_batch_size", 8)
    assert run("calibrate", "digits", *files, *few)[0] == 0
    before = (tmp_path / "calibration.json").read_text()
    for path in sorted((tmp_path / "probes").iterdir())[:2]:
        content = json.loads(path.read_text())
        content["result"]["after"][0] *= 2
        path.write_text(json.dumps(content))
    assert run("calibrate", "digits", *files, *few)[0] == 0
    after = (tmp_path / "calibration.json").read_text()
    seen(
        "calibrate after two probes were changed", "the same: True", f"the same: {after == before}"
    )
    assert after == before
