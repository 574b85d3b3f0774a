"""The network and its losses: the published architecture, its rule for other sides, the KL."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_divergence

from opmerge.errors import InputError
from opmerge.latents.vae import ConvVAE, VAEBatch, kl_divergence, ms_ssim_loss, vae_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def network(shape: tuple[int, ...] = (1, 9, 12), num_latents: int = 5) -> ConvVAE:
    torch.manual_seed(0)
    made = ConvVAE(list(shape), num_latents, base_channels=4).eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: not the identity
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return made


def test_the_published_architecture_has_its_number_of_parameters() -> None:
    published = ConvVAE([3, 64, 64], 128)
    assert sum(weights.numel() for weights in published.parameters()) == 3_937_635
    assert published.smallest_map == (512, 2, 2)


@pytest.mark.parametrize(
    ("shape", "smallest_map"),
    [
        ((1, 3, 3), (4, 2, 2)),
        ((1, 8, 8), (8, 2, 2)),
        ((1, 25, 25), (32, 2, 2)),
        ((3, 31, 48), (32, 2, 3)),
        ((1, 129, 130), (64, 2, 2)),  # 7 levels, the last three of 16 times the first's channels
    ],
)
def test_any_side_comes_back(shape: tuple[int, ...], smallest_map: tuple[int, ...]) -> None:
    made = network(shape)
    assert made.smallest_map == smallest_map
    images = torch.rand(2, *shape) * 2 - 1
    found, mean, log_variance = made(images, torch.zeros(2, 5))
    assert found.shape == images.shape
    assert mean.shape == log_variance.shape == (2, 5)
    assert float(made.decode(1e3 * torch.randn(20, 5)).detach().abs().max()) <= 1


def test_latents_are_drawn_around_their_mean() -> None:
    made, images, noise = network(), torch.rand(3, 1, 9, 12) * 2 - 1, torch.randn(3, 5)
    found, mean, log_variance = made(images, noise)
    drawn = Normal(mean, log_variance.exp().sqrt()).icdf(Normal(0, 1).cdf(noise))
    torch.testing.assert_close(found, made.decode(drawn), atol=1e-5, rtol=0)


def test_a_saved_network_is_the_same(tmp_path: Path) -> None:
    made = network()
    made.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = ConvVAE.from_pretrained(tmp_path, local_files_only=True)
    images, noise = torch.rand(2, 1, 9, 12), torch.randn(2, 5)
    for one, other in zip(made(images, noise), again.eval()(images, noise), strict=True):
        torch.testing.assert_close(one, other)


def test_the_divergence_is_that_of_torch() -> None:
    mean, log_variance = torch.randn(4, 7), torch.randn(4, 7)
    expected = exact_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    assert kl_divergence(torch.zeros(1, 7), torch.zeros(1, 7)) == 0


def test_the_mse_loss_is_that_of_a_beta_vae_in_other_units() -> None:
    made, batch = network(), VAEBatch(torch.rand(3, 1, 9, 12) * 2 - 1, torch.randn(3, 5))
    images, mean, log_variance = made(batch.images, batch.noise)
    beta, variance, size = 0.7, 0.2, 9 * 12
    scale = math.sqrt(variance)
    # -log p(x | z) without the constant that no network changes.
    constant = -Normal(0.0, scale).log_prob(torch.tensor(0.0)) * size
    surprise = -Normal(images, scale).log_prob(batch.images).sum(dim=(1, 2, 3)) - constant
    divergence = exact_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    expected = (surprise + beta * divergence).mean()
    found = vae_loss(made, batch, "mse", kl_weight=2 * variance * beta / size)
    torch.testing.assert_close(found * size / (2 * variance), expected)


def test_the_ms_ssim_loss_adds_the_weighted_divergence() -> None:
    made, batch = network(), VAEBatch(torch.rand(4, 1, 9, 12) * 2 - 1, torch.randn(4, 5))
    images, mean, log_variance = made(batch.images, batch.noise)
    without, with_divergence = (vae_loss(made, batch, "ms-ssim", weight) for weight in (0.0, 0.1))
    torch.testing.assert_close(without, ms_ssim_loss(images, batch.images))
    expected = without + 0.1 * kl_divergence(mean, log_variance).mean()
    torch.testing.assert_close(with_divergence, expected)
    first, second = batch.chunk(2)
    assert torch.equal(torch.cat([first.images, second.images]), batch.images)
    assert torch.equal(torch.cat([first.noise, second.noise]), batch.noise)


@pytest.mark.parametrize("loss", ["ms-ssim", "mse"])
def test_gradients_are_finite_for_the_largest_variances(loss: str) -> None:
    made = network()
    with torch.no_grad():
        made.log_variance.bias.fill_(1e4)
    batch = VAEBatch(torch.full((2, 1, 9, 12), -1.0), torch.randn(2, 5))
    value = vae_loss(made, batch, loss, 0.00025)  # type: ignore[arg-type]
    value.backward()
    assert value.isfinite()
    assert all(weights.grad.isfinite().all() for weights in made.parameters())


@pytest.mark.parametrize(
    ("shape", "num_latents", "message"),
    [
        ((1, 2, 9), 1, "`images` must be at least 3 pixels a side for one scale of MS-SSIM"),
        ((9, 9), 1, "`images` must have shape (channels, height, width), 1 or 3 channels"),
        ((2, 9, 9), 1, "`images` must have shape (channels, height, width), 1 or 3 channels"),
        ((1, 8, 8), 65, "`num_latents` must be <= 64, the values of an image, got 65"),
        ((1, 8, 8), 0, "`num_latents` must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_coded_is_refused(
    shape: tuple[int, ...], num_latents: int, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        ConvVAE(list(shape), num_latents)
    assert message in str(caught.value)
