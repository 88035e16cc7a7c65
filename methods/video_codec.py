"""What the video codecs share: frames to an elementary stream and back, and the best stream within a budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import TYPE_CHECKING, ClassVar

from ..harness.contracts import Budget, Codes, Memo, Refusal, UserError
from .codec import highest_within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

RATE = 25
"""Frames a second that encoders are told; it moves none of them where the rate factor is constant."""
CHROMA = "bicubic"
"""How colour planes are shrunk and grown."""


class VideoCodec(ABC):
    """A codec of clips as a tokenizer; subclasses are frozen dataclasses whose fields are their settings.

    The budget is spent on the whole clip: the lowest constant rate factor whose stream has at most budget x width x
    height x frames bits. Counted is the elementary stream as it is kept: parameter sets and frame headers, and what the
    format needs to part frames, without a container of films. One key frame, then predicted ones; 4:2:0 in BT.601, or
    4:4:4 where a side is odd. One thread, so that a stream does not depend on the machine.
    """

    name: ClassVar[str]
    encoder: ClassVar[str]
    """FFmpeg's name."""
    format: ClassVar[str]
    """FFmpeg's name of the elementary stream."""
    suffix: ClassVar[str]
    factors: ClassVar[range]
    """Constant rate factors, best quality first."""
    filter: ClassVar[str | None] = None
    """FFmpeg's filter that takes out of the stream what no decoder needs."""

    def __post_init__(self) -> None:
        import av

        if self.encoder not in av.codecs_available:
            raise UserError(f"{self.name} needs {self.encoder}, which PyAV lacks here: install av from its wheel.")

    @abstractmethod
    def options(self, factor: int) -> Mapping[str, str]:
        """FFmpeg's options of the encoder at a constant rate factor."""

    def encode_clip(self, frames: Sequence[Image], budget: Budget, memo: Memo) -> Codes:
        """The best stream within `budget`, or that of the lowest rate, marked infeasible.

        Raises:
            Refusal: a budget that does not count bits per pixel.
        """
        if budget.unit != "bpp":
            raise Refusal(f"budget {budget.text} counts tokens, and a codec spends bits: write 0.05bpp")
        size = frames[0].size
        planes = memo.once(("planes", CHROMA), lambda: _planes(frames))
        settings = range(len(self.factors))  # lowest rate first

        def stream(setting: int) -> bytes:
            return memo.once((self, setting), lambda: self._write(planes, size, setting))

        limit = budget.value * size[0] * size[1] * len(frames)
        setting, fits = highest_within(lambda s: 8 * len(stream(s)), settings, limit)
        found = stream(setting)
        return Codes(found, self.suffix, 8 * len(found), infeasible=not fits, setting=setting)

    def repeat_clip(self, frames: Sequence[Image], codes: Codes) -> Codes:
        """See `ClipRateSearch`."""
        if codes.setting is None:
            raise ValueError("codes without the setting that encode_clip() found cannot be repeated")
        stream = self._write(_planes(frames), frames[0].size, codes.setting)
        return replace(codes, stream=stream, bits=8 * len(stream))

    def decode_clip(self, codes: Codes) -> tuple[Image, ...]:
        """See `ClipTokenizer`."""
        import av
        from PIL import Image as Pillow

        with av.open(BytesIO(codes.stream), format=self.format) as opened:
            found = [f.reformat(format="rgb24", interpolation=CHROMA.upper()) for f in opened.decode(video=0)]
        return tuple(Pillow.fromarray(frame.to_ndarray()) for frame in found)

    def _write(self, planes: Sequence[NDArray[np.uint8]], size: tuple[int, int], setting: int) -> bytes:
        import av
        from av.bitstream import BitStreamFilterContext

        file = BytesIO()
        kind = _pixel_format(size)
        options = dict(self.options(self.factors[-1 - setting]))
        with av.open(file, "w", format=self.format) as out:
            stream = out.add_stream(self.encoder, rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = *size, kind
            stream.bit_rate, stream.thread_count, stream.gop_size = 0, 1, len(planes)
            sieve = BitStreamFilterContext(self.filter, stream) if self.filter else None
            for number, plane in enumerate(planes):
                frame = av.VideoFrame.from_ndarray(plane, format=kind)
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                for packet in stream.encode(frame):
                    out.mux(sieve.filter(packet) if sieve else packet)
            for packet in stream.encode():
                out.mux(sieve.filter(packet) if sieve else packet)
        return file.getvalue()


def _pixel_format(size: tuple[int, int]) -> str:
    return "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"


def _planes(frames: Sequence[Image]) -> list[NDArray[np.uint8]]:
    """The colour planes of every frame, as PyAV lays them out."""
    import av
    import numpy as np

    kind = _pixel_format(frames[0].size)
    pixels = [np.ascontiguousarray(np.asarray(frame.convert("RGB"))) for frame in frames]
    shown = [av.VideoFrame.from_ndarray(p, format="rgb24") for p in pixels]
    return [f.reformat(format=kind, interpolation=CHROMA.upper()).to_ndarray() for f in shown]
