"""Training an autoencoder: what it learns, writes and shows, and that it goes on where it was."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from opmerge.data import SourceOptions, open_source
from opmerge.denoisers.inputs import split_rows
from opmerge.errors import InputError
from opmerge.latents.encoders import load_encoder, reconstruct, reconstruction_quality
from opmerge.latents.images import held_out_images
from opmerge.latents.training import (
    VAEConfig,
    VAERecord,
    train_vae,
)
from opmerge.latents.vae import ConvVAE, ms_ssim
from opmerge.loop import make_accelerator
from opmerge.settings.distillation import OptimizationConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def stripes(count: int = 64, side: int = 8) -> Any:
    """(count, 1, side, side) waves of several directions and phases in [-1, 1]."""
    x, y = torch.meshgrid(torch.linspace(0, 3, side), torch.linspace(0, 3, side), indexing="ij")
    number = torch.arange(count)[:, None, None]
    return torch.sin(x * (1 + number % 2) + y * (number % 3) + 0.1 * number)[:, None]


def ramp(side: int = 8) -> Any:
    """(1, 1, side, side) from black on the left to white on the right."""
    return torch.linspace(-1, 1, side).expand(1, 1, side, side)


def settings(optimization: dict[str, Any] | None = None, **config: Any) -> VAEConfig:
    given: dict[str, Any] = {
        "train_batch_size": 8,
        "checkpointing_steps": 0,
        "learning_rate": 5e-3,
        "lr_warmup_steps": 0,
        **(optimization or {}),
    }
    config = {
        "num_latents": 4,
        "base_channels": 4,
        "num_iterations": 6,
        "validation_steps": 3,
        **config,
    }
    return VAEConfig(**config, optimization=OptimizationConfig(**given))


def train(folder: Path, config: VAEConfig, images: Any = None, **given: Any) -> list[VAERecord]:
    accelerator = make_accelerator(config.optimization, cpu=True)
    images = stripes() if images is None else images
    return list(train_vae(config, images, accelerator, folder, **given))


def weights_in(folder: Path) -> dict[str, Any]:
    return ConvVAE.from_pretrained(folder / "vae", local_files_only=True).state_dict()


def assert_same_weights(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, weight in one.items():
        assert torch.equal(weight, other[key]), key


@pytest.mark.parametrize("loss", ["ms-ssim", "mse"])
def test_held_out_images_come_back_better_than_their_mean(tmp_path: Path, loss: Any) -> None:
    config = settings(loss=loss, num_iterations=120, base_channels=8, validation_steps=60)
    images = stripes()
    records = train(tmp_path, config, images)
    rows, held_out = split_rows(64, 0.1, seed=0)
    some = held_out_images(images, held_out)
    encoder = load_encoder(tmp_path, (1, 8, 8))
    final = reconstruction_quality(encoder, some)
    mean = images[rows].mean(dim=0).expand_as(some)
    if loss == "mse":
        assert final.mse < 0.5 * float((some - mean).square().mean())
    else:
        assert final.ms_ssim > 2 * float(ms_ssim(mean, some).mean())
    assert [r.iteration for r in records if r.held_out is not None] == [60, 120]
    looked = records[-1].held_out
    assert looked is not None
    assert looked.ms_ssim == pytest.approx(final.ms_ssim, abs=1e-6)
    assert looked.num_images == len(held_out) == 6
    rates = [record.learning_rate for record in records]
    expected = [2.5e-3 * (1 + math.cos(math.pi * done / 120)) for done in range(120)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9, atol=1e-12)


def test_a_given_split_trains_on_its_rows_alone(tmp_path: Path) -> None:
    rows, others = torch.arange(0, 64, 2), torch.arange(1, 64, 2)
    images = stripes()
    train(tmp_path / "rows", settings(), images, split=(rows, ramp()))
    images[others] = 1.0
    train(tmp_path / "altered", settings(), images, split=(rows, ramp()))
    assert_same_weights(*(weights_in(tmp_path / name) for name in ("rows", "altered")))


def test_pictures_show_held_out_images_above_what_comes_back(tmp_path: Path) -> None:
    images = stripes(side=9)
    train(tmp_path, settings(), images)
    names = sorted(path.name for path in (tmp_path / "reconstructions").iterdir())
    assert names == ["000003.png", "000006.png"]
    some = images[split_rows(64, 0.1, seed=0)[1]]
    back = reconstruct(load_encoder(tmp_path), some)
    with Image.open(tmp_path / "reconstructions" / "000006.png") as picture:
        pixels = torch.tensor(np.asarray(picture)).float() / 127.5 - 1
    both = torch.cat([torch.cat(list(x[:, 0]), dim=1) for x in (some, back)])
    # Half a step of 8 bits, and the rounding of another batch size.
    torch.testing.assert_close(pixels, both, atol=1.01 / 255, rtol=0)


def test_images_are_mirrored_in_training_only(tmp_path: Path) -> None:
    images = ramp().repeat(32, 1, 1, 1)
    qualities = {}
    for flip in (False, True):
        config = settings(random_flip=flip, num_iterations=80, loss="mse", kl_weight=0.0)
        records = train(tmp_path / str(flip), config, images)
        encoder = load_encoder(tmp_path / str(flip))
        found = [reconstruction_quality(encoder, x).mse for x in (ramp(), ramp().flip(-1))]
        assert records[-1].held_out is not None
        assert records[-1].held_out.mse == pytest.approx(found[0], rel=1e-3)
        qualities[flip] = found
    # Without flips the mirror image was never seen, and the ramp's variance is 0.43.
    assert qualities[False][1] > 0.2 > 2 * max(qualities[True])


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    config = settings(num_iterations=20, validation_fraction=0.5, validation_steps=20)
    images = stripes()
    images[split_rows(64, 0.5, seed=0)[1]] = torch.nan
    records = train(tmp_path, config, images)
    assert all(record.loss.isfinite() for record in records)
    assert records[-1].held_out is not None
    assert math.isnan(records[-1].held_out.mse)


def test_images_to_measure_on_may_be_given(tmp_path: Path) -> None:
    split = torch.arange(64), ramp().repeat(1100, 1, 1, 1)
    records = train(tmp_path, settings(), split=split)
    assert records[-1].held_out is not None
    assert records[-1].held_out.num_images == 1024
    encoder = load_encoder(tmp_path)
    found = reconstruction_quality(encoder, ramp())
    assert records[-1].held_out.mse == pytest.approx(found.mse, rel=1e-5)
    assert not any(r.held_out for r in train(tmp_path, settings(validation_fraction=0.0)))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, ema_decay: float) -> None:
    optimization = {"checkpointing_steps": 3, "ema_decay": ema_decay}
    config = settings(optimization, num_iterations=8, random_flip=True)
    accelerator = make_accelerator(config.optimization, cpu=True)
    stopped = train_vae(config, stripes(), accelerator, tmp_path / "stopped")
    assert len(list(islice(stopped, 5))) == 5
    stopped.close()
    assert not (tmp_path / "stopped" / "vae").exists()
    torch.manual_seed(77)
    rest = train(tmp_path / "stopped", config, resume="latest")
    full = train(tmp_path / "full", config)
    assert [record.iteration for record in rest] == [4, 5, 6, 7, 8]
    for one, other in zip(rest, full[3:], strict=True):
        assert torch.equal(one.loss, other.loss)
        assert (one.learning_rate, one.held_out) == (other.learning_rate, other.held_out)
    assert_same_weights(weights_in(tmp_path / "stopped"), weights_in(tmp_path / "full"))


def test_a_network_that_cannot_be_written_is_not_trained_again(tmp_path: Path) -> None:
    """Its run is shorter than the steps of checkpoints."""
    in_the_way = tmp_path / ".vae.unfinished"
    in_the_way.write_text("a file in the way")
    with pytest.raises(InputError) as error:
        train(tmp_path, settings({"checkpointing_steps": 500}))
    assert str(error.value) == (
        f"`{tmp_path}/vae` cannot be written (File exists); "
        "make room and resume; what is finished is kept"
    )
    in_the_way.unlink()
    assert train(tmp_path, settings({"checkpointing_steps": 500}), resume="latest") == []
    train(tmp_path / "whole", settings({"checkpointing_steps": 0}))
    assert_same_weights(weights_in(tmp_path), weights_in(tmp_path / "whole"))
    assert not list((tmp_path / "whole").glob("checkpoint-*"))


@pytest.mark.parametrize("change", ["seed", "images", "kl_weight"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, change: str) -> None:
    train(tmp_path, settings({"checkpointing_steps": 3}))
    other = settings(
        {"checkpointing_steps": 3, "seed": int(change == "seed")},
        kl_weight=0.1 if change == "kl_weight" else 0.00025,
    )
    with pytest.raises(InputError, match="checkpoint-6 is of another run"):
        train(tmp_path, other, stripes() * (0.9 if change == "images" else 1), resume="latest")


def test_a_run_is_a_function_of_its_seed_and_not_of_looking(tmp_path: Path) -> None:
    found = []
    for number, (ours, theirs, steps) in enumerate([(0, 1, 2), (0, 2, 6), (5, 1, 6)]):
        torch.manual_seed(theirs)
        records = train(tmp_path / str(number), settings({"seed": ours}, validation_steps=steps))
        found.append([float(record.loss) for record in records])
    assert found[0] == found[1]
    assert_same_weights(weights_in(tmp_path / "0"), weights_in(tmp_path / "1"))
    assert not set(found[0]) & set(found[2])


def test_the_moving_average_is_what_is_written_and_measured(tmp_path: Path) -> None:
    runs = {}
    for name, count, decay in [("one", 1, 0.0), ("two", 2, 0.0), ("average", 2, 0.999)]:
        optimization = {"ema_decay": decay, "lr_scheduler": "constant"}
        config = settings(optimization, num_iterations=count)
        records = train(tmp_path / name, config)
        runs[name] = weights_in(tmp_path / name)
    # EMAModel's decay at its n-th step is (n / (n + 9)) up to the one asked for: 0, then 2/11.
    for key, average in runs["average"].items():
        one, two = runs["one"][key], runs["two"][key]
        buffer = "running" in key or "num_batches" in key  # always the latest
        torch.testing.assert_close(average, two if buffer else two + 2 / 11 * (one - two))
    some = stripes()[split_rows(64, 0.1, seed=0)[1]]
    found = reconstruction_quality(load_encoder(tmp_path / "average"), some)
    assert records[-1].held_out is not None
    assert records[-1].held_out.mse == pytest.approx(found.mse, rel=1e-6)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    optimization = {
        "learning_rate": 1e30,
        "lr_scheduler": "constant",
        "optimizer": "sgd",
        "max_grad_norm": 0.0,
    }
    with pytest.raises(
        InputError, match=r"keep the loss and the weights finite.*got 1e\+30; lower it or clip"
    ) as error:
        train(tmp_path, settings(optimization, loss="mse", num_iterations=30))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "vae").exists()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (ramp() * 255, "must have values in [-1, 1], got -255 to 255; rescale them first"),
        (torch.zeros(9, 1, 2, 8), "at least 3 pixels a side for one scale of MS-SSIM"),
        (torch.zeros(9, 5), "must have shape (channels, height, width), 1 or 3 channels"),
        (-torch.ones(1, 1, 8, 8), "`validation_fraction` must be 0 for a single sample"),
        (-torch.ones(9, 1, 3, 3), "`num_latents` must be <= 9, the values of an image, got 10"),
    ],
)
def test_images_that_cannot_be_learned_are_refused(
    tmp_path: Path, images: Any, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        train(tmp_path, settings(num_latents=10), images)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"loss": "l1"}, "`loss` must be one of ms-ssim, mse, got l1"),
        ({"num_latents": 0}, "`num_latents` must be >= 1, got 0"),
        ({"base_channels": 0}, "`base_channels` must be >= 1, got 0"),
        ({"num_iterations": 0}, "`num_iterations` must be >= 1, got 0"),
        ({"validation_steps": 0}, "`validation_steps` must be >= 1, got 0"),
        ({"kl_weight": -1.0}, "`kl_weight` must be >= 0, got -1.0"),
        ({"kl_weight": math.nan}, "`kl_weight` must be a finite number, got nan"),
        ({"validation_fraction": 1.0}, "`validation_fraction` must be in [0, 1), got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        VAEConfig(**config)
    assert str(caught.value) == message


def refused(result: tuple[int, str, str], *words: str) -> None:
    status, out, err = result
    assert (status, out) == (2, ""), result
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err, (word, err)


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_commands_train_encode_and_decode(run: Any, tmp_path: Path) -> None:
    folder, latents = tmp_path / "run", tmp_path / "z.npy"
    small = ("--num_latents", 6, "--base_channels", 4, "--checkpointing_steps", 5)
    train = ("vae", "train", "digits", "--output_dir", folder, *small, "--num_iterations", 10)
    status, out, err = run(*train, "--report_to", "tensorboard", "--validation-steps", 5)
    assert status == 0, err
    assert out.startswith(f"written: {folder / 'vae'} (MS-SSIM 0.")
    assert "on 180 held-out images" in out
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "metrics.jsonl", "vae", "reconstructions", "checkpoint-10"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert config["command"] == "vae train"
    assert (config["options"]["loss"], config["options"]["num_latents"]) == ("ms-ssim", 6)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_ms_ssim" in line] == [5, 10]
    assert any(folder.rglob("events.out.tfevents*"))

    status, out, err = run("vae", "encode", "digits", "--vae", folder, "--output", latents)
    assert (status, out) == (0, f"written: {latents} (1797 x 6)\n"), err
    decode = ("vae", "decode", latents, "--vae", folder / "vae", "--output")
    assert run(*decode, tmp_path / "x.png", "--num_images", 9)[0] == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (24, 24)
    assert run(*decode, tmp_path / "x.npy")[0] == 0
    back = np.load(tmp_path / "x.npy")
    assert back.shape == (1797, 1, 8, 8)
    with Image.open(tmp_path / "x.png") as picture:
        corner = np.asarray(picture)[:8, :8] / 127.5 - 1
    np.testing.assert_allclose(back[0, 0], corner, atol=1.01 / 255)

    refused(run(*decode, tmp_path / "x.gif"), "output", ".png")
    for shape in ("3,0,16", "3,-16,16", "16,16"):
        assert run(*decode, tmp_path / "x.png", "--image_shape", shape) == (
            2,
            "",
            "opmerge: `image_shape` must be three whole numbers >= 1, such as 3,64,64, got "
            f"{shape}\n",
        )
    refused(run("vae", "encode", "digits", "--vae", folder, "--output", "z.png"), ".npy")
    refused(run("vae", "encode", "faces", "--vae", folder, "--output", latents), "(1, 8, 8)")
    refused(run("vae", "encode", "digits", "--vae", tmp_path, "--output", latents), "ConvVAE")
    np.save(tmp_path / "wrong.npy", np.zeros((3, 7)))
    wrong = ("vae", "decode", tmp_path / "wrong.npy", "--vae", folder, "--output")
    refused(run(*wrong, tmp_path / "x.png"), "(N, 6)", "(3, 7)")


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_command_fits_a_pca_and_refuses_what_it_must(run: Any, tmp_path: Path) -> None:
    fit = ("vae", "train", "digits", "--encoder", "pca", "--output_dir", tmp_path)
    status, out, err = run(*fit, "--num_latents", 61)
    assert status == 0, err
    assert "squared error" in out
    # 61 eigenvalues of the digits are not 0, so that held-out ones come back, all but rare pixels.
    assert float(out.split("MS-SSIM ")[1].split()[0]) > 0.99
    latents = tmp_path / "z.npy"
    assert run("vae", "encode", "digits", "--vae", tmp_path, "--output", latents)[0] == 0
    assert np.load(latents).shape == (1797, 61)
    draw = ("vae", "encode", "digits", "--vae", tmp_path, "--output", latents, "--sample")
    assert run(*draw) == (
        2,
        "",
        "opmerge: digits: 1,797 images of 8 x 8\n"
        "opmerge: `sample` must be left out: the encoder has no variances\n",
    )
    refused(run(*fit, "--num_latents", 65), "num_latents", "<= 64")
    refused(run(*fit[:-3], "umap", *fit[-2:]), "encoder", "vae, pca")
    np.save(tmp_path / "vectors.npy", np.zeros((9, 5)))
    refused(run("vae", "train", tmp_path / "vectors.npy", *fit[3:]), "channels, height, width")


def write_faces(folder: Path, splits: str, side: tuple[int, int] = (178, 218)) -> Path:
    """CelebA with a face of noise for each digit of ``splits``, the number of its split."""
    images = folder / "img_align_celeba"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(1, len(splits) + 1):
        pixels = rng.integers(0, 256, (side[1], side[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:06d}.jpg")
    lines = [f"{number:06d}.jpg {split}\n" for number, split in enumerate(splits, 1)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


@pytest.mark.usefixtures("fresh_accelerator")
def test_the_commands_say_what_is_in_a_folder_before_they_begin(run: Any, tmp_path: Path) -> None:
    root = write_faces(tmp_path / "data", "0" * 12 + "1" * 3)
    (root / "img_align_celeba" / "000002.jpg").write_bytes(b"broken")
    small = ("--image_size", 8, "--grey")
    told = (
        "opmerge: CelebA (train): 11 images of 8 x 8\n"
        "opmerge: note: train split of list_eval_partition.txt: 12 of 12 images\n"
        "opmerge: note: 15 of the 202,599 images of CelebA\n"
        "opmerge: note: 1 unreadable file: img_align_celeba/000002.jpg (no image)\n"
    )
    folder = tmp_path / "run"
    train = ("vae", "train", root, *small, "--encoder", "pca", "--output_dir", folder)
    status, out, err = run(*train)
    assert (status, err) == (
        0,
        told + "opmerge: CelebA (validation): 3 images of 8 x 8\n"
        "opmerge: note: validation split of list_eval_partition.txt: 3 of 3 images\n"
        "opmerge: note: 15 of the 202,599 images of CelebA\n",
    )
    assert out.endswith("on 3 held-out images)\n")
    # Half of the 11 faces: those held out are others.
    assert json.loads((folder / "vae" / "config.json").read_text())["num_latents"] == 5
    encode = ("vae", "encode", root, *small, "--vae", folder, "--output", tmp_path / "z.npy")
    assert run(*encode) == (0, f"written: {tmp_path / 'z.npy'} (11 x 5)\n", told)


@pytest.mark.usefixtures("fresh_accelerator")
def test_faces_are_measured_on_the_validation_split(run: Any, tmp_path: Path) -> None:
    root = write_faces(tmp_path / "data", "0" * 8 + "1" * 3 + "2" * 2)
    small = ("--image_size", 8, "--base_channels", 4, "--num_iterations", 2)
    train = ("vae", "train", root, *small, "--output_dir")
    status, out, err = run(*train, tmp_path / "run")
    assert status == 0, err
    options = SourceOptions(image_size=8, split="validation")
    rows = next(open_source(str(root), options).batches())
    images = torch.tensor(rows, dtype=torch.float32).view(3, 3, 8, 8)
    found = reconstruction_quality(load_encoder(tmp_path / "run"), images)
    expected = f"(MS-SSIM {found.ms_ssim:.4f} and squared error {found.mse:.4g} on 3 held-out"
    assert expected in out
    assert "held-out" not in run(*train, tmp_path / "none", "--validation_fraction", 0)[1]

    part = write_faces(tmp_path / "part", "0" * 8)
    status, out, err = run("vae", "train", part, *small, "--output_dir", tmp_path / "few")
    assert status == 0, err
    assert "on 1 held-out images" in out
    assert (
        f"opmerge: the last faces of the training split are held out: `{part}` must hold images of "
        "the validation split, got none of the 0 that list_eval_partition.txt names; pass another "
        "split, or unpack all images\n"
    ) in err


@pytest.mark.usefixtures("fresh_accelerator")
def test_patches_are_measured_on_a_strip_of_the_photos(run: Any, tmp_path: Path) -> None:
    cut = ("--patch_size", 8, "--stride", 24, "--encoder", "pca")
    status, out, err = run("vae", "train", "patches", *cut, "--output_dir", tmp_path)
    assert status == 0, err
    # Of 27 columns 3, of 18 rows, of 2 photos.
    assert out.endswith("on 108 held-out images)\n")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    assert config["num_latents"] == 32


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize("encoder", ["vae", "pca"])
def test_the_number_of_latents_suits_small_images(run: Any, tmp_path: Path, encoder: str) -> None:
    few = ("--num_iterations", 1, "--base_channels", 4, "--encoder", encoder)
    status, _, err = run("vae", "train", "digits", *few, "--output_dir", tmp_path)
    assert status == 0, err
    assert load_encoder(tmp_path).num_latents == 32  # half of 64 values
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["options"]["num_latents"] == 32


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_refused_command_leaves_the_config_of_a_run(run: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("of a finished run")
    train = ("vae", "train", "digits", "--output_dir", tmp_path)
    for more, word in [
        (("--resume_from_checkpoint", "checkpoint-9"), "there are: none"),
        (("--num_latents", 65), "must be <= 64"),
        (("--num_latents", 63, "--encoder", "pca", "--validation_fraction", 0.98), "must be <= 35"),
    ]:
        status, _, err = run(*train, *more)
        assert status == 2
        assert word in err
        assert (tmp_path / "config.json").read_text() == "of a finished run"
