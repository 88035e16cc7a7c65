"""Frames of a clip, decoded by PyAV: the same ones at every call, which decord does not promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL.Image import Image


@dataclass(frozen=True)
class Film:
    """Frames of a file.

    Attributes:
        numbers: which ones.
        count: how many the file has.
        rate: how many come in a second, on average; 0 where the file says nothing of it.
    """

    frames: list[Image]
    numbers: list[int]
    count: int
    rate: float


def film(path: Path, choose: Callable[[int, float], Sequence[int]]) -> Film:
    """The frames of a file that `choose` picks by their number.

    Args:
        choose: from the number of frames, and how many come in a second, to numbers, which may repeat.

    Raises:
        ValueError: it is no clip, or no frame of it can be decoded. OSError: the file cannot be read.
    """
    import av

    def every(wanted: set[int]) -> tuple[int, float, dict[int, Image]]:
        count, kept = 0, {}
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or 0)
            for frame in container.decode(stream):
                if count in wanted:
                    kept[count] = _picture(frame)
                count += 1
        return count, rate, kept

    # Counted first: containers state numbers of frames that are not those that decode.
    count, rate, _ = every(set())
    if not count:
        raise ValueError(f"{path.name} holds no frame that can be decoded")
    numbers = [int(n) for n in choose(count, rate)]
    _, _, kept = every(set(numbers))
    return Film([kept[n] for n in numbers], numbers, count, rate)


def _picture(frame: VideoFrame) -> Image:
    """A frame in RGB by the colour matrix and range that its file states, as decord and torchcodec convert it."""
    from av.video.reformatter import ColorRange, Colorspace

    full = ColorRange.JPEG
    stated = full if frame.color_range == full else ColorRange.MPEG
    # PyAV heeds what is stated only where something differs between source and target; a matrix means nothing in RGB
    found: Image = frame.to_image(dst_colorspace=Colorspace.ITU601, src_color_range=stated, dst_color_range=full)
    return found
