"""Clips of a user's own folder: some frames in a row of every file, decoded when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Sample, UserError
from ..lmms.frames import frames
from .sources import digest

if TYPE_CHECKING:
    from PIL.Image import Image

FRAMES = 17
"""1 + 16: causal tokenizers take 1 + 4n or 1 + 8n frames whole."""
SHORT_SIDE = 256
"""In pixels, as TokBench's smaller setting of videos; larger frames are shrunk to it."""
SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".gif", ".y4m")
CUT_OFF = 0.95
"""A file of which less than this share of the frames that it states can be decoded is cut off; some state a few more
than they have."""


def clips_in(folder: Path) -> list[Sample]:
    """All clips of a folder.

    Raises:
        UserError: no such folder, or no clip in it.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --data takes a folder of clips.")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"There is no clip in {folder}: it needs files such as .mp4, .mkv or .webm.")
    return [
        unopened(name := p.relative_to(folder).as_posix(), name, digest(p.read_bytes(), FRAMES), partial(middle, p))
        for p in paths
    ]


def unopened(name: str, cluster: str, fingerprint: str, load: Callable[[], Sequence[Image]]) -> Sample:
    """A clip whose frames come of one call."""
    sample = Sample(name, cluster, (), fingerprint, clip=True)
    return replace(sample, opens=partial(_opened, sample, load))


def _opened(sample: Sample, load: Callable[[], Sequence[Image]]) -> Sample:
    return replace(sample, images=tuple(partial(_same, frame) for frame in load()))


def _same(image: Image) -> Image:
    return image


def middle(path: Path) -> list[Image]:
    """The frames in the middle of a file, all of them where it has fewer, shrunk where they are large.

    Raises:
        ValueError: it is no clip, or is cut off. OSError: the file cannot be read.
    """
    stated = _stated(path)

    def choose(count: int) -> range:
        if count < CUT_OFF * stated:
            raise ValueError(f"{path.name} is cut off: {count} of its {stated} frames can be decoded")
        start = max(0, (count - FRAMES) // 2)
        return range(start, min(count, start + FRAMES))

    return [_shrunk(frame) for frame in frames(path, choose)]


def _stated(path: Path) -> int:
    """How many frames the file says that it has; 0 where it says nothing."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError(f"{path.name} has no video in it")
        stream = container.streams.video[0]
        seconds = container.duration / 1e6 if container.duration else 0
        return int(stream.frames or seconds * float(stream.average_rate or 0))


def _shrunk(frame: Image) -> Image:
    """With sides of whole even pixels, which the colour planes of codecs halve."""
    from PIL.Image import Resampling

    if min(frame.size) <= SHORT_SIDE:
        return frame
    scale = SHORT_SIDE / min(frame.size)
    width, height = (2 * round(side * scale / 2) for side in frame.size)
    return frame.resize((width, height), Resampling.LANCZOS)
