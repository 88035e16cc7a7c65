"""How near a picture is to the original, pixel by pixel: PSNR, SSIM and MS-SSIM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Metric, Output, Sample
from ..harness.registry import metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.float64]

CAP_DB = 100.0
"""PSNR of equal pictures is infinite; every value is cut here, far above the 48 dB of one level everywhere."""
WINDOW = 11
"""Side of the Gaussian window of SSIM (standard deviation 1.5), in pixels."""
MULTI_SCALE_SIDE = WINDOW * 2**4
"""The window must fit the fifth scale of MS-SSIM, at a sixteenth of the size."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The paper's powers, finest scale first."""
NO_LUMINANCE = 1e6
"""A K1 so large that SSIM's luminance term is 1 to twelve digits, and its contrast-structure term is left."""


@metric("psnr", family="reconstruction", unit="dB", higher_is_better=True)
class Psnr:
    """Peak signal-to-noise ratio of 8-bit RGB, mean squared error over all pixels and channels, in dB.

    Its worst value, 0 dB, is black against white.
    """

    name = "psnr"
    unit = "dB"
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        """Pixel format and cap."""
        return f"rgb8;cap={CAP_DB:g}dB"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per picture; of a clip the mean over its frames.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        from skimage.metrics import peak_signal_noise_ratio

        if output.frames:
            return mean_of_frames(self, output, sample, memo)
        ours, original = aligned(output, sample, memo)
        if (ours == original).all():
            return [Item(CAP_DB)]
        value = peak_signal_noise_ratio(original, ours, data_range=255)
        return [Item(min(CAP_DB, float(value)))]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}]


@metric("ssim", family="reconstruction", unit="", higher_is_better=True)
class Ssim:
    """Structural similarity (Wang et al. 2004) as scikit-image computes it, mean over pixels and RGB channels.

    Gaussian window of 11 pixels and standard deviation 1.5, population covariance, data range 1, windows that lie
    whole within the picture. A picture with a side below 11 pixels is not scored. Its worst value, -1, is the formula's
    bound.
    """

    name = "ssim"
    unit = ""
    higher_is_better = True
    worst: float | None = -1.0
    mean_over = ""

    def protocol(self) -> str:
        """Window, data range, channels and border."""
        return "rgb;gauss11-s1.5;range1;valid;min-side=11"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per picture or clip (the mean over its frames) of at least 11 x 11 pixels.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        if output.frames:
            return mean_of_frames(self, output, sample, memo)
        ours, original = aligned(output, sample, memo)
        return [Item(_similarity(ours / 255, original / 255))] if min(original.shape[:2]) >= WINDOW else []

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if min(sample.images[0]().size) >= WINDOW else []


@metric("ms_ssim", family="reconstruction", unit="", higher_is_better=True)
class MultiScaleSsim:
    """Multi-scale structural similarity (Wang et al. 2003) out of scikit-image's SSIM at five scales.

    The product of the mean contrast-structure terms of the first four scales and of the mean SSIM of the fifth, to the
    powers of the paper; a scale is half the one before by means of 2 x 2 pixels; a negative mean counts as 0. Windows
    lie whole within the picture at every scale: a picture with a side below 176 pixels, where the fifth has no room for
    one, is not scored, since fewer scales would be another measure. Its worst value is 0. (torchmetrics' MS-SSIM also
    averages the fifth scale's mirrored border in, and differs by some thousandths.)
    """

    name = "ms_ssim"
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        """Scales, window, data range and border."""
        return "rgb;5-scales-mean2;gauss11-s1.5;range1;relu;valid;min-side=176"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per picture or clip (the mean over its frames) of at least 176 x 176 pixels.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        if output.frames:
            return mean_of_frames(self, output, sample, memo)
        pair = aligned(output, sample, memo)
        if min(pair[1].shape[:2]) < MULTI_SCALE_SIDE:
            return []
        ours, original = (picture / 255 for picture in pair)
        product = 1.0
        for weight in SCALE_WEIGHTS[:-1]:
            product *= max(0.0, _similarity(ours, original, NO_LUMINANCE)) ** weight
            ours, original = _half(ours), _half(original)
        return [Item(product * max(0.0, _similarity(ours, original)) ** SCALE_WEIGHTS[-1])]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if min(sample.images[0]().size) >= MULTI_SCALE_SIDE else []


def mean_of_frames(metric: Metric, output: Output, sample: Sample, memo: Memo) -> list[Item]:
    """One item per clip: the mean over its frames of what a metric of pictures makes of each.

    Raises:
        ValueError: the output has not as many frames as the original, or one that cannot be scored.
    """
    if len(output.frames) != len(sample.images):
        raise ValueError(f"the clip has {len(output.frames)} frames, the original {len(sample.images)}")
    values = []
    for number, (frame, original) in enumerate(zip(output.frames, sample.images, strict=True)):
        still = replace(sample, images=(original,), clip=False)
        one = memo.once(("frame", number), Memo)
        values += [item.value for item in metric.score(Output(image=frame), still, one)]
    return [Item(sum(values) / len(values))] if values else []


def _similarity(ours: Picture, original: Picture, luminance: float = 0.01) -> float:
    """Mean SSIM of two pictures in [0, 1]; `luminance` is the constant K1."""
    from skimage.metrics import structural_similarity

    value = structural_similarity(
        original,
        ours,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        K1=luminance,
    )
    return float(value)


def _half(picture: Picture) -> Picture:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    halved: Picture = picture[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean((1, 3))
    return halved


def aligned(output: Output, sample: Sample, memo: Memo) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The output and the original, [height, width, 3] each."""
    import numpy as np

    if output.image is None:
        raise ValueError("there is no picture to compare")
    ours = np.array(output.image.convert("RGB"))
    original = memo.once("original picture", lambda: np.array(sample.images[0]().convert("RGB")))
    if ours.shape != original.shape:
        raise ValueError(f"the picture has {ours.shape[:2]} rows and columns, the original {original.shape[:2]}")
    return ours, original
