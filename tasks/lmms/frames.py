"""Frames of a clip, decoded by PyAV: the same ones at every call, which decord does not promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def frames(path: Path, choose: Callable[[int], Sequence[int]], span: tuple[float, float] | None = None) -> list[Image]:
    """The frames of a file that `choose` picks by their number.

    Args:
        choose: from the number of frames to numbers, which may repeat.
        span: start and end in seconds, where only a part is meant; `choose` then counts the frames in it.

    Raises:
        ValueError: it is no clip, or no frame of it can be decoded. OSError: the file cannot be read.
    """
    import av

    def every(wanted: set[int] | None) -> tuple[int, dict[int, Image]]:
        count, kept = 0, {}
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                if span and not (frame.time is not None and span[0] <= frame.time <= span[1]):
                    continue
                if wanted and count in wanted:
                    kept[count] = frame.to_image()
                count += 1
        return count, kept

    # Counted first: containers state numbers of frames that are not those that decode.
    count, _ = every(None)
    if not count:
        raise ValueError(f"{path.name} holds no frame that can be decoded")
    numbers = list(choose(count))
    _, kept = every(set(numbers))
    return [kept[n] for n in numbers]
