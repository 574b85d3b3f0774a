"""MS-SSIM against an independent computation, against its known faults, and at the edges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics.functional.image as metrics
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from opmerge.errors import InputError
from opmerge.latents.vae import fitted_scales, ms_ssim, ms_ssim_loss

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.float64]
PUBLISHED = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def pair(side: int, channels: int = 1, count: int = 2, seed: int = 0) -> tuple[Any, Any]:
    """Smooth images with structure at all scales, and noisy copies of them."""
    generator = np.random.default_rng(seed)
    steps = generator.standard_normal((count, channels, side, side)).cumsum(-1).cumsum(-2)
    images = steps / np.abs(steps).max()
    noisy = np.clip(0.8 * images + 0.1 * generator.standard_normal(images.shape), -1, 1)
    return torch.tensor(noisy, dtype=torch.float32), torch.tensor(images, dtype=torch.float32)


def similarity(image: Array, target: Array, fault: str = "") -> float:
    """MS-SSIM of two (C, H, W) images in [0, 2] by SciPy, written from the paper.

    ``fault`` makes it wrong as AntixK/PyTorch-VAE's is wrong.
    """
    side = image.shape[-1]
    scales = fitted_scales(side)
    places = np.arange(scales.window) - scales.window // 2
    sign = 1.0 if fault == "gaussian without the minus sign" else -1.0
    weights = np.exp(sign * places**2 / (2 * scales.sigma**2))
    weights /= weights.sum()

    def mean(x: Array) -> Array:  # "mirror" leaves out the edge, as torch's "reflect" does
        return correlate1d(correlate1d(x, weights, -1, mode="mirror"), weights, -2, mode="mirror")

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    factors = []
    for scale, beta in enumerate(scales.betas):
        means = mean(image), mean(target)
        variances = mean(image**2) - means[0] ** 2, mean(target**2) - means[1] ** 2
        covariance = mean(image * target) - means[0] * means[1]
        contrast = (2 * covariance + c2) / (sum(variances) + c2)
        luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
        if scale == len(scales.betas) - 1:
            exponent = beta
            if fault == "the last factor to the 4th power":
                exponent = beta * 4
            factors.append(max(float((luminance * contrast).mean()), 0.0) ** exponent)
        else:
            edge = scales.window // 2
            inside = float(contrast[:, edge:-edge, edge:-edge].mean())
            bounded = inside if fault == "negative contrast is not bounded" else max(inside, 0.0)
            factors.append(np.float64(bounded) ** beta)
            shape = (image.shape[0], image.shape[1] // 2, 2, image.shape[2] // 2, 2)
            even = slice(0, image.shape[1] // 2 * 2)
            image, target = (
                x[:, even, even].reshape(shape).mean(axis=(2, 4)) for x in (image, target)
            )
    return float(np.prod(factors))


def by_scipy(images: Any, targets: Any, fault: str = "") -> list[float]:
    pairs = zip(images.double().numpy() + 1, targets.double().numpy() + 1, strict=True)
    return [similarity(*both, fault) for both in pairs]


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (25, 1), (64, 3), (180, 1)])
def test_values_are_those_of_scipy_and_of_torchmetrics(side: int, channels: int) -> None:
    images, targets = pair(side, channels)
    found = ms_ssim(images, targets)
    exact = ms_ssim(images.double(), targets.double())
    # torchmetrics has its betas in float32.
    np.testing.assert_allclose(exact, by_scipy(images, targets), atol=1e-6)
    # A variance is a difference of values up to 4, off by 4 · 2^-24 = 2.4e-7, over c2 = 0.0036.
    np.testing.assert_allclose(found, exact, atol=1.4e-4)
    scales = fitted_scales(side)
    for number in range(2):
        one = slice(number, number + 1)
        theirs = metrics.multiscale_structural_similarity_index_measure(
            images[one] / 2 + 0.5,
            targets[one] / 2 + 0.5,
            sigma=scales.sigma,
            kernel_size=scales.window,
            data_range=1.0,
            betas=scales.betas,
        )
        assert float(found[number]) == pytest.approx(float(theirs), abs=1e-6)
    assert float(ms_ssim_loss(images, targets)) == pytest.approx(1 - float(found.mean()), abs=1e-6)


@pytest.mark.parametrize(
    "fault", ["gaussian without the minus sign", "the last factor to the 4th power"]
)
def test_an_implementation_with_a_known_fault_would_be_seen(fault: str) -> None:
    images, targets = pair(64)
    wrong = np.array(by_scipy(images, targets, fault))
    # Fifty times the tolerance of the comparison with the right one.
    assert np.all(np.abs(ms_ssim(images, targets).numpy() - wrong) > 1e-3)


def test_negative_contrast_is_no_nan() -> None:
    _, targets = pair(64)
    with np.errstate(invalid="ignore"):
        assert np.isnan(by_scipy(-targets, targets, "negative contrast is not bounded")).all()
    images = (-targets).requires_grad_()
    ms_ssim_loss(images, targets).backward()
    assert ms_ssim(images, targets).tolist() == [0.0, 0.0]
    assert images.grad.isfinite().all()


def test_targets_in_another_range_than_the_images_are_seen() -> None:
    _, targets = pair(64)
    assert float(ms_ssim_loss(targets, targets)) == pytest.approx(0, abs=1e-6)
    # What tanh gives for a perfect picture, against the same picture in [0, 1].
    assert float(ms_ssim_loss(targets, targets / 2 + 0.5)) > 0.05


def test_mid_grey_is_not_black() -> None:
    # Intensities counted from 0 would make two almost equal greys opposites: (1 - 1 + 1) / 3.
    greys = torch.full((1, 1, 32, 32), 0.02)
    assert float(ms_ssim(greys, -greys)) > 0.999


def test_the_window_fits_into_the_coarsest_level() -> None:
    for side in range(3, 257):
        scales = fitted_scales(side)
        coarsest = side // 2 ** (len(scales.betas) - 1)
        assert 3 <= scales.window <= min(coarsest, 11), side
        assert scales.window % 2 == 1, side
        # How torchmetrics sizes it from sigma.
        assert int(3.5 * scales.sigma + 0.5) * 2 + 1 == scales.window, side
        assert math.fsum(scales.betas) == pytest.approx(1, abs=1e-12)
        ratio = np.array(scales.betas) / PUBLISHED[: len(scales.betas)]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_large_images_have_the_published_scales_and_the_faulty_setting_is_not_chosen() -> None:
    assert len(fitted_scales(176).betas) == 5
    assert (fitted_scales(176).window, fitted_scales(176).sigma) == (11, 1.5)
    # Five scales and a window of 11 at 64 pixels: the coarsest level has 4.
    scales = fitted_scales(64)
    assert (len(scales.betas), scales.window) == (4, 7)
    with pytest.raises(ValueError, match="must be larger than 160"):
        metrics.multiscale_structural_similarity_index_measure(*pair(64), data_range=2.0)


def edges(side: int) -> Any:
    """(5, 1, side, side): a constant, black, white and a single-pixel image, and a picture."""
    constants = [torch.full((1, side, side), value) for value in (0.3, -1.0, 1.0, -1.0)]
    constants[3][0, side // 2, side // 2] = 1.0
    return torch.stack([*constants, pair(side, count=1)[1][0]]).double()


@pytest.mark.parametrize("side", [3, 8, 25, 32, 64])
def test_values_and_gradients_are_finite_at_the_edges(side: int) -> None:
    ones = edges(side)
    images, targets = ones.repeat_interleave(5, 0).requires_grad_(), ones.repeat(5, 1, 1, 1)
    values = ms_ssim(images, targets)
    values.sum().backward()
    assert images.grad.isfinite().all()
    table = values.detach().reshape(5, 5)
    np.testing.assert_allclose(table.diagonal(), 1, atol=1e-6)  # torchmetrics' betas are float32
    assert table.min() >= 0
    assert (table - torch.eye(5)).max() < 0.99
    single = ones.float().requires_grad_()  # as in training
    ms_ssim_loss(single, ones.float()).backward()
    assert single.grad.isfinite().all()
    np.testing.assert_allclose(ms_ssim(ones.float(), ones.float()), 1, atol=1e-3)


def test_half_precision_does_not_reach_the_variances() -> None:
    images, targets = pair(32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ms_ssim(images, targets)
    assert torch.equal(inside, ms_ssim(images, targets))


def test_images_too_small_for_one_scale_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 pixels a side for one scale of MS-SSIM, got"):
        ms_ssim(torch.zeros(1, 1, 2, 5), torch.zeros(1, 1, 2, 5))
