"""What is measured from frame to frame: against values by hand and bounds."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from PIL import Image
from toksweep.harness.contracts import Memo, Metric, Output, Region, Sample
from toksweep.harness.registry import registry


def frames(levels: list[int], size: tuple[int, int] = (2, 2)) -> tuple[Image.Image, ...]:
    return tuple(Image.new("RGB", size, (v, v, v)) for v in levels)


def score(name: str, ours: list[int], original: list[int], size: tuple[int, int] = (2, 2)) -> list[float]:
    metric = registry("metrics").get(name).build({})
    assert isinstance(metric, Metric)
    sample = Sample("s", "s", tuple(partial(_same, f) for f in frames(original, size)), "", clip=True)
    found = metric.score(Output(frames=frames(ours, size)), sample, Memo())
    assert len(found) == len(metric.items(sample))
    return [item.value for item in found]


def _same(image: Image.Image) -> Image.Image:
    return image


@pytest.mark.parametrize(
    ("ours", "original", "difference", "flicker"),
    [
        ([0, 9, 3], [0, 9, 3], 0, 0),
        ([50, 59, 53], [0, 9, 3], 0, 0),  # a shift of all frames moves nothing
        ([7, 7, 7], [0, 9, 3], (9 + 6) / 2, 0),  # a frozen picture lacks changes and has none of its own
        ([0, 10, 0], [5, 5, 5], 10, 10),
        ([9, 0, 6], [0, 9, 3], (18 + 12) / 2, 0),  # the wrong way round, as far
        ([0, 255, 0], [255, 0, 255], 510, 0),
        ([0, 255], [0, 0], 255, 255),
    ],
)
def test_changes_are_compared(ours: list[int], original: list[int], difference: float, flicker: float) -> None:
    assert score("frame_difference", ours, original) == [pytest.approx(difference)]
    assert score("flicker", ours, original) == [pytest.approx(flicker)]


def test_the_difference_is_a_root_mean_square_over_pixels() -> None:
    rng = np.random.default_rng(0)
    ours, original = (rng.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8) for _ in range(2))
    metric = registry("metrics").get("frame_difference").build({})
    assert isinstance(metric, Metric)
    sample = Sample("s", "s", tuple(partial(Image.fromarray, f) for f in original), "", clip=True)
    found = metric.score(Output(frames=tuple(map(Image.fromarray, ours))), sample, Memo())[0].value
    steps = [np.diff(v.astype(float), axis=0) for v in (ours, original)]
    assert found == pytest.approx(np.sqrt(((steps[0] - steps[1]) ** 2).mean((1, 2, 3))).mean())


def test_a_clip_of_one_frame_is_not_scored() -> None:
    assert score("frame_difference", [3], [3]) == []


def test_a_clip_of_other_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        score("flicker", [3, 4, 5], [3, 4])


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_fidelity_of_a_clip_is_the_mean_of_its_frames(name: str) -> None:
    rng = np.random.default_rng(0)
    original = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(3)]
    ours = [Image.blend(f, Image.new("RGB", f.size), 0.1 * n) for n, f in enumerate(original)]
    metric = registry("metrics").get(name).build({})
    assert isinstance(metric, Metric)
    sample = Sample("s", "s", tuple(partial(_same, f) for f in original), "", clip=True)
    alone = [
        metric.score(Output(image=o), Sample("s", "s", (partial(_same, f),), ""), Memo())[0].value
        for o, f in zip(ours, original, strict=True)
    ]
    assert [i.value for i in metric.score(Output(frames=tuple(ours)), sample, Memo())] == [
        pytest.approx(sum(alone) / 3)
    ]
    with pytest.raises(ValueError, match="2 frames, the original 3"):
        metric.score(Output(frames=tuple(ours[:2])), sample, Memo())


def test_words_are_read_in_the_frame_that_they_lie_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from toksweep.metrics.backends import ocr

    class Reader:
        def read(self, crops: list[Image.Image]) -> list[str]:
            return [str(crop.getpixel((0, 0))[0]) for crop in crops]

        def identity(self) -> str:
            return "1"

    monkeypatch.setattr(ocr, "reader", lambda _: Reader())
    metric = registry("metrics").get("t_acc").build({})
    assert isinstance(metric, Metric)
    regions = tuple(Region((0, 0, 1, 1), text=t, slices={"size": "large"}, image=i) for i, t in ((2, "7"), (0, "7")))
    sample = Sample("s", "s", tuple(partial(_same, f) for f in frames([5, 6, 7])), "", regions=regions, clip=True)
    found = metric.score(Output(frames=frames([5, 6, 7])), sample, Memo())
    assert [i.value for i in found] == [1.0, 0.0]
    with pytest.raises(ValueError, match="no picture 2"):
        metric.score(Output(frames=frames([5, 6])), sample, Memo())
