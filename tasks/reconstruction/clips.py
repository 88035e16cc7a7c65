"""Clips: do the frames stay the same, and what moves between them? Can words be read and faces be known in them?"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Region, Sample
from ...harness.registry import task
from ..synth import clips as drawn
from ..synth import drawing
from ..synth.samples import RECIPE, refuse_folder
from .annotations import face, word
from .clip_files import FRAMES, clips_in, unopened
from .faces import faces
from .photos import photos
from .sources import digest
from .text import text

if TYPE_CHECKING:
    from PIL.Image import Image

Pair = tuple[int, int]
"""Across and down, in pixels."""

WAYS: dict[str, Pair] = {
    "astronaut": (3, 1), "camera": (-4, 2), "chelsea": (2, 2), "coffee": (0, 4), "motorcycle": (6, 0),
    "rocket": (-1, -3),
}  # fmt: skip
"""How far the view of a photograph moves from frame to frame."""
VIEW = (192, 144)
"""Its width and height."""
DRAWN = 6
DRAWN_FRAMES = 16
OVER_WORDS, OVER_FACES = (2, 1), (-2, 1)
KEYS = (0, FRAMES // 2, FRAMES - 1)
"""Frames whose words and faces are looked at: their neighbours are too much like them to tell more."""


@task(
    "clips",
    family="reconstruction",
    metrics=("psnr", "ssim", "frame_difference", "flicker"),
    licence="see tasks/reconstruction/split.json",
)
def clips(folder: Path | None) -> list[Sample]:
    """Views that move over photographs, and drawn clips of objects that move; or the clips of a folder.

    Of a file 17 frames in a row are shown, from its middle; frames whose short side is above 256 pixels are shrunk.

    Raises:
        UserError: no such folder, or no clip in it.
    """
    if folder is not None:
        return clips_in(folder)
    stills = {still.id: still for still in photos(None)}
    moving = [_over(stills[source], way, VIEW) for source, way in WAYS.items()]
    return moving + [_drawing(index) for index in range(DRAWN)]


@task("clip_text", family="reconstruction", metrics=("t_acc", "t_ned"), licence="see tasks/reconstruction/split.json")
def clip_text(folder: Path | None) -> list[Sample]:
    """The pictures of `text` under a view that moves; words are read in the first, middle and last frame.

    Raises:
        UserError: a folder is given.
    """
    refuse_folder("clip_text", folder)
    return [_over(still, OVER_WORDS) for still in text(None)]


@task(
    "clip_faces",
    family="reconstruction",
    metrics=("face_distance", "face_similarity"),
    licence="see tasks/reconstruction/split.json",
)
def clip_faces(folder: Path | None) -> list[Sample]:
    """The pictures of `faces` under a view that moves; faces are looked at in the first, middle and last frame.

    Raises:
        UserError: a folder is given.
    """
    refuse_folder("clip_faces", folder)
    return [_over(still, OVER_FACES) for still in faces(None)]


def _over(still: Sample, way: Pair, size: Pair | None = None) -> Sample:
    """A view that moves evenly over a picture; without a size, the largest that stays inside it."""
    bare = Sample(still.id, still.cluster_id, (), digest(still.fingerprint, way, size, FRAMES, KEYS), clip=True)
    return replace(bare, opens=partial(_moving, bare, still, way, size))


def _moving(bare: Sample, still: Sample, way: Pair, size: Pair | None) -> Sample:
    """With its frames, and with the regions that lie whole in a key frame as regions of that."""
    picture = still.images[0]()
    view = size or _largest(picture.size, way)
    corners = [_corner(frame, picture.size, view, way) for frame in range(FRAMES)]
    images = tuple(partial(picture.crop, (x, y, x + view[0], y + view[1])) for x, y in corners)
    regions = tuple(_moved(r, corners[k], k, view) for k in KEYS for r in still.regions if _inside(r, corners[k], view))
    return replace(bare, images=images, regions=regions)


def _largest(full: Pair, way: Pair) -> Pair:
    width, height = ((side - (FRAMES - 1) * abs(step)) // 2 * 2 for side, step in zip(full, way, strict=True))
    return width, height


def _corner(frame: int, full: Pair, view: Pair, way: Pair) -> Pair:
    """The top left corner of a frame's view; the way as a whole lies in the middle of the picture."""

    def along(axis: int) -> int:
        length = (FRAMES - 1) * abs(way[axis])
        start = (full[axis] - view[axis] - length) // 2 + (length if way[axis] < 0 else 0)
        return start + frame * way[axis]

    return along(0), along(1)


def _inside(region: Region, corner: Pair, view: Pair) -> bool:
    x0, y0, x1, y1 = region.box
    return x0 >= corner[0] and y0 >= corner[1] and x1 <= corner[0] + view[0] and y1 <= corner[1] + view[1]


def _moved(region: Region, corner: Pair, frame: int, view: Pair) -> Region:
    """The region in a frame's pixels, with the size bin of a picture of the view's size."""
    x, y = corner
    x0, y0, x1, y1 = region.box
    box = (x0 - x, y0 - y, x1 - x, y1 - y)
    if region.text:
        return replace(word(region.text, box, max(view)), image=frame, longest=region.longest)
    return replace(face(box, tuple((a - x, b - y) for a, b in region.points), max(view)), image=frame)


def _drawing(index: int) -> Sample:
    name = f"drawn-{index}"
    fingerprint = digest(RECIPE, drawing.photograph_digest(), index, DRAWN_FRAMES)
    return unopened(name, name, fingerprint, partial(_draw, index))


def _draw(index: int) -> list[Image]:
    from PIL import Image as Pillow

    made = drawn.clip(index, "test", DRAWN_FRAMES)
    return [Pillow.fromarray(made.draw(frame)) for frame in range(DRAWN_FRAMES)]
