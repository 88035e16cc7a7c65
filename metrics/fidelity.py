"""How near a picture is to the original, pixel by pixel: PSNR, SSIM and MS-SSIM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..harness.contracts import Item, Memo, Output, Sample
from ..harness.registry import metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CAP_DB = 100.0
"""PSNR of equal pictures is infinite; every value is cut here, far above the 48 dB of one level everywhere."""
WINDOW = 11
"""Side of the Gaussian window of SSIM (standard deviation 1.5), in pixels."""
MULTI_SCALE_SIDE = WINDOW * 2**4
"""The window must fit the fifth scale of MS-SSIM, at a sixteenth of the size."""


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
        """One item per picture.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        from skimage.metrics import peak_signal_noise_ratio

        ours, original = _pair(output, sample, memo)
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
        """One item per picture of at least 11 x 11 pixels.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        from skimage.metrics import structural_similarity

        ours, original = (picture / 255.0 for picture in _pair(output, sample, memo))
        if min(original.shape[:2]) < WINDOW:
            return []
        value = structural_similarity(
            original,
            ours,
            data_range=1.0,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        return [Item(float(value))]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if min(sample.images[0]().size) >= WINDOW else []


@metric("ms_ssim", family="reconstruction", unit="", higher_is_better=True)
class MultiScaleSsim:
    """Multi-scale structural similarity (Wang et al. 2003), five scales, as torchmetrics computes it in float32.

    The luminance term of the last scale is averaged over the reflected border too, as torchmetrics does; negative terms
    count as 0. A picture with a side below 176 pixels, where the window does not fit the last scale, is not scored:
    fewer scales would be another measure. Its worst value is 0.
    """

    name = "ms_ssim"
    unit = ""
    higher_is_better = True
    worst: float | None = 0.0
    mean_over = ""

    def protocol(self) -> str:
        """Scales, window, data range and border."""
        return "rgb;5-scales;gauss11-s1.5;range1;relu;reflect-last;min-side=176"

    def score(self, output: Output, sample: Sample, memo: Memo) -> list[Item]:
        """One item per picture of at least 176 x 176 pixels.

        Raises:
            ValueError: the output lacks a picture, or its size differs from the original's.
        """
        import torch
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        pair = _pair(output, sample, memo)
        if min(pair[1].shape[:2]) < MULTI_SCALE_SIDE:
            return []
        ours, original = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in pair)
        value = multiscale_structural_similarity_index_measure(ours, original, data_range=1.0, normalize="relu")
        assert isinstance(value, torch.Tensor)
        return [Item(float(value))]

    def items(self, sample: Sample) -> list[Mapping[str, str]]:
        return [{}] if min(sample.images[0]().size) >= MULTI_SCALE_SIDE else []


def _pair(output: Output, sample: Sample, memo: Memo) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The output and the original, [height, width, 3] each."""
    import numpy as np

    if output.image is None:
        raise ValueError("there is no picture to compare")
    ours = np.array(output.image.convert("RGB"))
    original = memo.once("original picture", lambda: np.array(sample.images[0]().convert("RGB")))
    if ours.shape != original.shape:
        raise ValueError(f"the picture has {ours.shape[:2]} rows and columns, the original {original.shape[:2]}")
    return ours, original
