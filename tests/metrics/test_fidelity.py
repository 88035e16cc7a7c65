"""PSNR, SSIM and MS-SSIM against hand formulas and independent implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import correlate1d
from skimage import data
from toksweep.harness.contracts import Item, Memo, Metric, Output, Sample
from toksweep.harness.registry import registry

Pixels = NDArray[np.uint8]


def score(name: str, ours: Pixels, original: Pixels) -> list[Item]:
    metric = registry("metrics").get(name).build()
    assert isinstance(metric, Metric)
    sample = Sample("s", "s", (lambda: Image.fromarray(original),), "f")
    found = metric.score(Output(image=Image.fromarray(ours)), sample, Memo())
    assert [i.slices for i in found] == metric.items(sample)
    return found


def value(name: str, ours: Pixels, original: Pixels) -> float:
    (item,) = score(name, ours, original)
    return item.value


@pytest.fixture(scope="module")
def photo() -> Pixels:
    return np.asarray(data.astronaut())[60:260, 120:330]


def noisy(picture: Pixels, spread: float) -> Pixels:
    noise = np.random.default_rng(7).normal(0, spread, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def terms(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """SSIM and its contrast-structure part from the paper's formula, windows inside the picture."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    kernel /= kernel.sum()

    def mean(z: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = correlate1d(correlate1d(z, kernel, axis=0), kernel, axis=1)[5:-5, 5:-5]
        return smooth

    mx, my = mean(x), mean(y)
    cs = (2 * (mean(x * y) - mx * my) + 0.03**2) / (mean(x * x) - mx**2 + mean(y * y) - my**2 + 0.03**2)
    return float((cs * (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)).mean()), float(cs.mean())


def halves(z: NDArray[np.float64]) -> NDArray[np.float64]:
    even = z[: z.shape[0] // 2 * 2, : z.shape[1] // 2 * 2]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def test_psnr_is_ten_log_ten_of_the_squared_range_over_the_error(photo: Pixels) -> None:
    ours = noisy(photo, 12)
    error = np.mean([(float(a) - float(b)) ** 2 for a, b in zip(ours.ravel(), photo.ravel(), strict=True)])
    assert value("psnr", ours, photo) == pytest.approx(10 * math.log10(255**2 / error), abs=1e-9)


def test_psnr_of_equal_pictures_is_the_cap_that_the_protocol_states(photo: Pixels) -> None:
    assert value("psnr", photo, photo) == 100.0
    metric = registry("metrics").get("psnr").build()
    assert isinstance(metric, Metric)
    assert "cap=100dB" in metric.protocol()


def test_psnr_of_black_against_white_is_its_worst_value() -> None:
    black, white = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)
    assert value("psnr", black, white) == pytest.approx(0.0)


def test_ssim_equals_the_formula_of_the_paper(photo: Pixels) -> None:
    ours = noisy(photo, 20)
    assert value("ssim", ours, photo) == pytest.approx(terms(ours / 255, photo / 255)[0], abs=1e-9)


def test_ms_ssim_equals_the_formula_of_the_paper(photo: Pixels) -> None:
    ours = noisy(photo, 40)
    x, y, expected = ours / 255, photo / 255, 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        both, contrast = terms(x, y)
        expected *= (both if scale == 4 else contrast) ** weight
        x, y = (halves(z) for z in (x, y))
    assert value("ms_ssim", ours, photo) == pytest.approx(expected, abs=1e-7)


def test_ssim_and_ms_ssim_are_near_those_of_torchmetrics(photo: Pixels) -> None:
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("torchmetrics.functional.image")
    ours = noisy(photo, 20)
    x, y = (torch.from_numpy(p / 255).permute(2, 0, 1)[None].float() for p in (ours, photo))
    _, full = image.structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    assert value("ssim", ours, photo) == pytest.approx(float(full[..., 5:-5, 5:-5].mean()), abs=1e-4)
    multi = image.multiscale_structural_similarity_index_measure(x, y, data_range=1.0, normalize="relu")
    assert value("ms_ssim", ours, photo) == pytest.approx(float(multi), abs=0.01)


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_more_noise_scores_lower(name: str, photo: Pixels) -> None:
    assert value(name, noisy(photo, 10), photo) > value(name, noisy(photo, 40), photo)


@pytest.mark.parametrize(("name", "side"), [("ssim", 11), ("ms_ssim", 176)])
def test_a_picture_too_small_for_the_window_is_not_scored(name: str, side: int) -> None:
    def flat(size: int) -> Pixels:
        return np.full((size, 200, 3), 99, np.uint8)

    assert score(name, flat(side - 1), flat(side - 1)) == []
    assert value(name, flat(side), flat(side)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim"])
def test_another_size_is_an_error(name: str, photo: Pixels) -> None:
    with pytest.raises(ValueError, match="rows and columns"):
        score(name, photo[:-1], photo)


def test_the_original_is_decoded_once_for_all_metrics_of_an_output(photo: Pixels) -> None:
    calls = []

    def load() -> Image.Image:
        calls.append(1)
        return Image.fromarray(photo)

    loader: Callable[[], Image.Image] = load
    memo, sample = Memo(), Sample("s", "s", (loader,), "f")
    for name in ("psnr", "ssim", "ms_ssim"):
        metric = registry("metrics").get(name).build()
        assert isinstance(metric, Metric)
        metric.score(Output(image=Image.fromarray(photo)), sample, memo)
    assert len(calls) == 1
