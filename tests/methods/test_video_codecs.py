"""Video codecs: the best stream within a budget, the same at every run, of any size."""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from toksweep.harness.contracts import Budget, ClipRateSearch, ClipTokenizer, Codes, Memo, Refusal
from toksweep.harness.registry import registry
from toksweep.methods.video_codec import VideoCodec

CODECS = ("av1", "h264", "vp9")


def codec(name: str) -> VideoCodec:
    built = registry("methods").get(name).build({})
    assert isinstance(built, VideoCodec) and isinstance(built, ClipTokenizer) and isinstance(built, ClipRateSearch)
    return built


def clip(width: int = 64, height: int = 48, frames: int = 5) -> list[Image.Image]:
    """A view that moves over smooth noise."""
    rough = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    wide = Image.fromarray(rough).resize((2 * width, 2 * height), Image.Resampling.BICUBIC)
    return [wide.crop((2 * f, f, 2 * f + width, f + height)) for f in range(frames)]


def quality(ours: tuple[Image.Image, ...], frames: list[Image.Image]) -> float:
    return float(peak_signal_noise_ratio(np.stack([*map(np.asarray, frames)]), np.stack([*map(np.asarray, ours)])))


@pytest.mark.parametrize("name", CODECS)
def test_the_stream_keeps_the_budget_and_the_next_better_one_would_not(name: str) -> None:
    one, frames, memo = codec(name), clip(), Memo()
    found = {}
    for budget in ("0.5bpp", "1bpp"):
        codes = one.encode_clip(frames, Budget.parse(budget), memo)
        assert codes.bits == 8 * len(codes.stream) <= float(budget[:-3]) * 64 * 48 * 5
        assert not codes.infeasible and codes.setting is not None
        better = one.repeat_clip(frames, Codes(b"", "", 0, setting=codes.setting + 1))
        assert better.bits > float(budget[:-3]) * 64 * 48 * 5
        assert one.repeat_clip(frames, codes) == codes
        found[budget] = quality(one.decode_clip(codes), frames)
    assert 25 < found["0.5bpp"] < found["1bpp"]


@pytest.mark.parametrize("name", CODECS)
def test_a_stream_can_be_played_and_has_every_frame(name: str) -> None:
    one, frames = codec(name), clip()
    codes = one.encode_clip(frames, Budget.parse("1bpp"), Memo())
    with av.open(BytesIO(codes.stream), format=one.format) as opened:
        played = list(opened.decode(video=0))
    assert [(f.width, f.height) for f in played] == [(64, 48)] * 5
    assert sum(f.key_frame for f in played) == 1
    assert len(one.decode_clip(codes)) == 5


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [(1, 1), (7, 4), (2, 2)])
def test_any_size_comes_back(name: str, size: tuple[int, int]) -> None:
    one = codec(name)
    codes = one.encode_clip(clip(*size, frames=2), Budget.parse("24bpp"), Memo())
    assert [f.size for f in one.decode_clip(codes)] == [size] * 2


@pytest.mark.parametrize("name", CODECS)
def test_the_lowest_rate_is_declared_where_the_budget_lies_below(name: str) -> None:
    one = codec(name)
    codes = one.encode_clip(clip(), Budget.parse("0.01bpp"), Memo())
    assert codes.infeasible and codes.bits > 0.01 * 64 * 48 * 5
    assert codes.setting is not None and codes.setting < 6


def test_x264_writes_the_same_whatever_lay_in_memory() -> None:
    one, frames = codec("h264"), clip(320, 256, 17)
    rng = np.random.default_rng(0)

    def stream() -> bytes:
        litter = [bytearray(rng.bytes(int(n))) for n in rng.integers(1000, 400000, 60)]
        del litter[::2]
        return one.repeat_clip(frames, Codes(b"", "", 0, setting=41)).stream

    assert len({stream() for _ in range(4)}) == 1


def test_tokens_are_no_budget_of_a_codec() -> None:
    with pytest.raises(Refusal, match="a codec spends bits"):
        codec("h264").encode_clip(clip(), Budget.parse("64"), Memo())
