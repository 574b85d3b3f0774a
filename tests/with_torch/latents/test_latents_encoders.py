"""Encoders in folders, encoding in constant memory, decoding, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA

from opmerge.data.arrays import write_rows
from opmerge.data.source import Source, source_from_rows
from opmerge.errors import InputError
from opmerge.latents.encoders import (
    DiffusersEncoder,
    PCAEncoder,
    VAEEncoder,
    decode_latents,
    encode_source,
    fit_pca,
    load_encoder,
    reconstruct,
    reconstruction_quality,
    write_pairs,
)
from opmerge.latents.images import rows_source
from opmerge.latents.vae import ConvVAE

pytestmark = pytest.mark.usefixtures("one_thread")


def images_source(count: int = 300, side: int = 8) -> Source:
    """Smooth images; a function of their number, so that no array of all is needed."""
    x, y = np.meshgrid(np.linspace(0, 3, side), np.linspace(0, 3, side))

    def rows(start: int, stop: int) -> NDArray[np.float64]:
        phase = np.arange(start, stop)[:, None, None] * 0.7
        return 0.5 * np.sin(x + phase) + 0.4 * np.cos(1.3 * y - 2 * phase)

    return source_from_rows("waves", (side, side), count, rows, scaling="as generated")


def all_images(source: Source) -> Any:
    rows = np.concatenate(list(source.batches()))
    return torch.tensor(rows, dtype=torch.float32).view(-1, 1, *source.shape)


def small_vae(side: int = 8, num_latents: int = 6) -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE([1, side, side], num_latents, base_channels=4).eval()


def small_kl(channels: int = 3, **settings: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=2,
        sample_size=12,
        **settings,
    ).eval()


def test_a_pca_is_that_of_scikit_learn_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((200, 20)) * np.linspace(1, 0.1, 20)).reshape(200, 4, 5)
    source = source_from_rows("d", (4, 5), 200, lambda a, b: data[a:b], scaling="none")
    encoder = fit_pca(source, 7)
    images = torch.tensor(data, dtype=torch.float32)[:, None]
    latents, log_variance = encoder.encode(images)
    assert log_variance is None
    assert isinstance(encoder, PCAEncoder)
    assert (encoder.image_shape, encoder.latent_shape) == ((1, 4, 5), (7,))
    theirs = PCA(7, svd_solver="full").fit(data.reshape(200, 20))
    expected = theirs.inverse_transform(theirs.transform(data.reshape(200, 20)))
    # float32 sums of 20 products of numbers of the order of 1.
    np.testing.assert_allclose(encoder.decode(latents).flatten(1), expected, atol=1e-5)
    variances = latents.double().var(dim=0, correction=0)
    np.testing.assert_allclose(variances, theirs.explained_variance_ * 199 / 200, rtol=1e-5)
    encoder.save(tmp_path / "run" / "vae")
    for folder in (tmp_path / "run", tmp_path / "run" / "vae"):
        again = load_encoder(folder, (1, 4, 5))
        assert torch.equal(again.encode(images)[0], latents)
        assert torch.equal(again.decode(latents), encoder.decode(latents))


def test_a_pca_of_full_rank_gives_images_back() -> None:
    data = np.random.default_rng(0).uniform(-1, 1, (50, 9)).reshape(50, 3, 3)
    source = source_from_rows("d", (3, 3), 50, lambda a, b: data[a:b], scaling="none")
    images = torch.tensor(data, dtype=torch.float32)[:, None]
    found = reconstruction_quality(fit_pca(source, 9), images)
    assert found.ms_ssim == pytest.approx(1, abs=1e-5)
    assert found.mse < 1e-10
    assert found.num_images == 50
    for rank, message in [(10, "<= 9 for 50 images of 9 values, got 10"), (0, ">= 1, got 0")]:
        with pytest.raises(InputError, match=f"`num_latents` must be {message}"):
            fit_pca(source, rank)


def test_some_rows_of_a_source_are_a_source() -> None:
    source = images_source(10)
    rows = torch.tensor([1, 4, 7])
    some = rows_source(all_images(source), rows, source)
    assert (some.num_samples, some.shape, some.scaling) == (3, (8, 8), "as generated")
    expected = np.concatenate(list(source.batches()))[rows]
    np.testing.assert_allclose(np.concatenate(list(some.batches())), expected, atol=1e-7)


def test_a_vae_comes_back_from_its_folder(tmp_path: Path) -> None:
    network = small_vae()
    network.save_pretrained(tmp_path)
    encoder, images = load_encoder(tmp_path), all_images(images_source(5))
    assert isinstance(encoder, VAEEncoder)
    assert (encoder.image_shape, encoder.latent_shape) == ((1, 8, 8), (6,))
    mean, log_variance = network.encode(images)
    found = encoder.encode(images)
    torch.testing.assert_close(found[0], mean.detach())
    torch.testing.assert_close(found[1], log_variance.detach())
    torch.testing.assert_close(encoder.decode(mean), network.decode(mean).detach())


@pytest.mark.parametrize("nested", [False, True])
def test_latents_of_autoencoder_kl_are_shifted_and_scaled(tmp_path: Path, nested: bool) -> None:
    network = small_kl(scaling_factor=0.4, shift_factor=0.1)
    network.save_pretrained(tmp_path / "vae" if nested else tmp_path)
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, DiffusersEncoder)
    assert encoder.image_shape == (3, 12, 12)
    assert (encoder.latent_shape, encoder.num_latents) == ((2, 6, 6), 72)
    images = torch.rand(2, 3, 12, 12) * 2 - 1
    with torch.no_grad():
        exact = network.encode(images).latent_dist
        decoded = network.decode(exact.mean).sample
    mean, log_variance = encoder.encode(images)
    torch.testing.assert_close(mean, ((exact.mean - 0.1) * 0.4).flatten(1))
    assert log_variance is not None
    torch.testing.assert_close(log_variance.exp(), (exact.var * 0.4**2).flatten(1))
    torch.testing.assert_close(encoder.decode(mean), decoded, atol=1e-5, rtol=1e-4)


def test_latents_of_autoencoder_kl_have_the_moments_of_its_config(tmp_path: Path) -> None:
    """As diffusers' pipelines write it: (z - mean) * scaling_factor / std, by channel."""
    network = small_kl(scaling_factor=0.4, latents_mean=[1.0, -2.0], latents_std=[2.0, 0.5])
    network.save_pretrained(tmp_path)
    encoder, images = load_encoder(tmp_path), torch.rand(2, 3, 12, 12) * 2 - 1
    with torch.no_grad():
        exact = network.encode(images).latent_dist
        decoded = network.decode(exact.mean).sample
    mean, log_variance = encoder.encode(images)
    shift = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    deviation = torch.tensor([2.0, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(mean, ((exact.mean - shift) * 0.4 / deviation).flatten(1))
    assert log_variance is not None
    torch.testing.assert_close(log_variance.exp(), (exact.var * (0.4 / deviation) ** 2).flatten(1))
    torch.testing.assert_close(encoder.decode(mean), decoded, atol=1e-5, rtol=1e-4)
    small_kl(latents_mean=[1.0], latents_std=[2.0]).save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        load_encoder(tmp_path)
    assert str(caught.value) == (
        "`vae` must have latents_mean and latents_std of 2 channels in config.json, got [1.0]"
    )


def test_latents_may_keep_the_shape_that_the_encoder_gives_them(tmp_path: Path) -> None:
    small_kl().save_pretrained(tmp_path)
    encoder, rows = load_encoder(tmp_path), np.random.default_rng(0).standard_normal((3, 72))
    flat, shaped = (
        torch.cat(list(decode_latents(encoder, latents)))
        for latents in (rows, rows.reshape(3, 2, 6, 6))
    )
    assert torch.equal(flat, shaped)
    with pytest.raises(InputError) as caught:
        decode_latents(encoder, rows.reshape(3, 6, 6, 2))
    assert str(caught.value) == (
        "`latents` must have shape (N, 72) or (N, 2, 6, 6) for this encoder, got (3, 6, 6, 2)"
    )


@pytest.mark.parametrize(
    ("channels", "shape", "message"),
    [
        (
            1,
            (3, 12, 12),
            "must have shape (channels, height, width), channels 1, for this AutoencoderKL, got "
            "(3, 12, 12); read a folder with `grey=True`, or make them grey beforehand",
        ),
        (
            3,
            (4, 12, 12),
            "must have shape (channels, height, width), channels 1 or 3, for this AutoencoderKL, "
            "got (4, 12, 12); read a folder with `grey=True`, or make them grey beforehand",
        ),
        (
            3,
            (1, 25, 25),  # the faces, which no option resizes
            "must have sides that are multiples of 2 for this AutoencoderKL, got (1, 25, 25); "
            "choose another `image_size` (`patch_size` for patches), or resize them beforehand",
        ),
        (
            3,
            (3, 0, 16),
            "must have sides that are multiples of 2 for this AutoencoderKL, got (3, 0, 16); "
            "choose another `image_size` (`patch_size` for patches), or resize them beforehand",
        ),
    ],
)
def test_what_autoencoder_kl_cannot_code_is_refused_with_what_to_do(
    tmp_path: Path, channels: int, shape: tuple[int, ...], message: str
) -> None:
    small_kl(channels).save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        load_encoder(tmp_path, shape)
    assert str(caught.value) == f"`images` {message}"


def test_an_autoencoder_kl_of_several_sizes_asks_for_the_shape(tmp_path: Path) -> None:
    network = small_kl()
    network.register_to_config(sample_size=[12, 12])
    network.save_pretrained(tmp_path)
    with pytest.raises(InputError) as found:
        load_encoder(tmp_path)
    assert str(found.value) == (
        f"`image_shape` must be given, for the config.json in {tmp_path} has no whole number "
        "sample_size, got [12, 12]; such as `image_shape=(3, 64, 64)`"
    )
    assert load_encoder(tmp_path, (3, 8, 8)).latent_shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("made_for", "remedy"),
    [
        (
            (1, 8, 8),
            "a folder is read so with `image_size=8` `grey=True`, patches with `patch_size=8`",
        ),
        ((3, 8, 8), "a folder is read so with `image_size=8` and without `grey`"),
        ((1, 8, 9), "resize them beforehand"),
    ],
)
def test_images_of_another_shape_are_refused_with_how_to_read_them(
    tmp_path: Path, made_for: tuple[int, ...], remedy: str
) -> None:
    ConvVAE(list(made_for), 2, base_channels=4).save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        load_encoder(tmp_path, (3, 5, 5))
    assert str(caught.value) == (
        f"`images` must have the shape that {tmp_path} was made for, {made_for}, got (3, 5, 5); "
        f"{remedy}"
    )


def test_grey_images_go_through_a_colour_model(tmp_path: Path) -> None:
    network = small_kl()
    network.save_pretrained(tmp_path)
    encoder, grey = load_encoder(tmp_path, (1, 8, 16)), torch.rand(2, 1, 8, 16)
    assert encoder.latent_shape == (2, 4, 8)
    mean, _ = encoder.encode(grey)
    colour = load_encoder(tmp_path, (3, 8, 16))
    expected, _ = colour.encode(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(mean, expected)
    back = encoder.decode(mean)
    torch.testing.assert_close(back, colour.decode(mean).mean(dim=1, keepdim=True))
    with pytest.raises(InputError, match=r"multiples of 2 for this AutoencoderKL, got \(1, 9, 8\)"):
        load_encoder(tmp_path, (1, 9, 8))


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json of ConvVAE, AutoencoderKL, "):
        load_encoder(tmp_path)
    for class_name in ("UNet2DModel", ["ConvVAE"], None):
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": class_name}))
        with pytest.raises(InputError, match="make one with `opmerge vae train`"):
            load_encoder(tmp_path)
    small_vae().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"made for, \(1, 8, 8\), got \(1, 9, 9\)"):
        load_encoder(tmp_path, (1, 9, 9))
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="must hold a readable config and the weights"):
        load_encoder(tmp_path)
    weights.unlink()
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match="are not read: they are pickled"):
        load_encoder(tmp_path)


def test_a_damaged_pca_is_refused(tmp_path: Path) -> None:
    fit_pca(images_source(50), 3).save(tmp_path / "pca")
    assert json.loads((tmp_path / "pca" / "config.json").read_text())["num_latents"] == 3
    (tmp_path / "pca" / "spectrum.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"spectrum\.npz"):
        load_encoder(tmp_path / "pca")


@pytest.mark.parametrize("batch_size", [7, 300])
def test_a_file_of_latents_has_a_row_an_image(tmp_path: Path, batch_size: int) -> None:
    source, encoder = images_source(), VAEEncoder(small_vae())
    counts: list[int] = []
    path = encode_source(
        encoder, source, tmp_path / "z.npy", batch_size=batch_size, progress=counts.append
    )
    latents = np.load(path, allow_pickle=False)
    assert (latents.shape, latents.dtype) == ((300, 6), np.float32)
    np.testing.assert_allclose(latents, encoder.encode(all_images(source))[0], atol=1e-6)
    assert counts[-1] == 300
    assert [entry.name for entry in tmp_path.iterdir()] == ["z.npy"]


def test_draws_have_the_encoders_law_whatever_the_batch(tmp_path: Path) -> None:
    source, encoder = images_source(), VAEEncoder(small_vae())
    files = [
        encode_source(encoder, source, tmp_path / f"{n}.npy", sample=True, seed=s, batch_size=b)
        for n, (s, b) in enumerate([(3, 7), (3, 100), (4, 100)])
    ]
    first, again, other = (np.load(file) for file in files)
    np.testing.assert_allclose(first, again, atol=1e-6)
    mean, log_variance = (part.numpy() for part in encoder.encode(all_images(source)))
    standard = (first - mean) / np.exp(log_variance / 2)
    # Of 1800 standard normal values: five standard deviations of the mean and of the variance.
    assert abs(standard.mean()) < 5 / np.sqrt(1800)
    assert abs(standard.var() - 1) < 5 * np.sqrt(2 / 1800)
    assert np.abs(first - other).min(axis=0).max() > 0


def test_pca_latents_cannot_be_drawn_and_shapes_must_fit(tmp_path: Path) -> None:
    source = images_source(50)
    encoder = fit_pca(source, 3)
    with pytest.raises(InputError, match="`sample` must be left out: the encoder has no variances"):
        encode_source(encoder, source, tmp_path / "z.npy", sample=True)
    with pytest.raises(InputError, match=r"encoder's shape, \(1, 8, 8\), got \(9, 9\)"):
        encode_source(encoder, images_source(50, side=9), tmp_path / "z.npy")
    for bad in (np.zeros((5, 4)), np.zeros(3), np.zeros((0, 3))):
        with pytest.raises(InputError, match=r"`latents` must have shape \(N, 3\)"):
            decode_latents(encoder, bad)
    rows = np.zeros((9, 3))
    rows[7, 1] = np.nan
    with pytest.raises(InputError, match="`latents` must be finite, got row 7 is not"):
        list(decode_latents(encoder, rows, batch_size=4))
    assert not list(tmp_path.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "z.npy"

    def broken() -> Iterator[Any]:
        yield torch.zeros(2, 3)
        assert not path.exists()
        raise InputError("image", "can no longer be read")

    with pytest.raises(InputError, match="can no longer be read"):
        write_rows(path, (4, 3), broken())
    assert not list(tmp_path.iterdir())
    path.mkdir()
    with pytest.raises(InputError, match=r"z\.npy` cannot be written"):
        write_rows(path, (2, 3), [torch.zeros(2, 3)])


def test_decoding_goes_back_batch_by_batch() -> None:
    source = images_source(50)
    encoder, images = fit_pca(source, 8), all_images(source)
    latents = encoder.encode(images)[0].numpy()
    batches = list(decode_latents(encoder, latents, batch_size=20))
    assert [len(batch) for batch in batches] == [20, 20, 10]
    expected = reconstruct(encoder, images)
    torch.testing.assert_close(torch.cat(batches).clamp(-1, 1), expected)


def test_images_in_zero_to_one_are_refused_when_all_are_seen(tmp_path: Path) -> None:
    """No batch alone can tell: a bright one may be followed by a dark one."""
    encoder = VAEEncoder(small_vae())
    bright = np.linspace(0, 1, 300 * 64).reshape(300, 8, 8)
    dark = np.where(np.arange(300)[:, None, None] == 299, -bright, bright)

    def of(images: NDArray[np.float64]) -> Source:
        return source_from_rows("a", (8, 8), 300, lambda a, b: images[a:b], scaling="as given")

    with pytest.raises(InputError) as caught:
        encode_source(encoder, of(bright), tmp_path / "z.npy")
    assert str(caught.value) == (
        "`images` must have values from -1 (black) to 1 (white), "
        "got 0 to 1; rescale [0, 1] to [-1, 1] by 2 x - 1"
    )
    assert not list(tmp_path.iterdir())
    encode_source(encoder, of(dark), tmp_path / "z.npy")


def test_pairs_stand_above_one_another(tmp_path: Path) -> None:
    images = torch.linspace(-1, 1, 18)[:, None, None, None].expand(18, 1, 2, 2)
    with Image.open(write_pairs(tmp_path / "pairs.png", images, -images)) as picture:
        pixels = np.asarray(picture)[::2, ::2]
    shown = (torch.linspace(0, 1, 18) * 255).round()[:16].view(2, 8).numpy()
    np.testing.assert_array_equal(pixels[::2], shown)  # two rows of eight; the last two left out
    np.testing.assert_allclose(pixels[1::2].astype(float), 255 - shown, atol=1)


def _peak_of_encoding(folder: str, count: int, queue: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoder = VAEEncoder(small_vae(side=16, num_latents=16))
    source = images_source(500, side=16)
    few = next(iter(source.batches()))
    many = replace(
        source,
        num_samples=count,
        batches=lambda: ((few + start / count) / 2 for start in range(0, count, 500)),
    )
    encode_source(encoder, many, Path(folder) / f"{count}.npy")
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes, and counted from the fork on")
def test_memory_does_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    peaks = {}
    for count in (1000, 20_000):
        queue = fork.SimpleQueue()
        process = fork.Process(target=_peak_of_encoding, args=(str(tmp_path), count, queue))
        process.start()
        process.join()
        assert process.exitcode == 0
        peaks[count] = queue.get()
    # Of 20,000 images in float32 there would be 20,000 kB, of their latents 1,250 kB more.
    assert peaks[20_000] - peaks[1000] < 2_000, peaks
    assert np.load(tmp_path / "20000.npy", mmap_mode="r").shape == (20_000, 16)
