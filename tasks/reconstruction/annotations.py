"""A user's own folder: pictures alone, with an `annotations.jsonl`, or in TokBench's format.

`annotations.jsonl` has an object a line: `file` (relative to the folder), and for words and faces also `width`,
`height` and either `instances` (`box`, `text`, `ignore`), or `box` or `boxes`. TokBench (arXiv:2505.18142, data set
Junfeng5/TokBench) keeps `annotations/text_NAME.json` beside `images/text_data/NAME/` and `annotations/face_meta.json`
beside `images/face_data/`. An item that cannot be understood is a bad input of its own; a folder of nothing else is a
mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Region, Sample, UserError
from .batches import told
from .records import Malformed, Record, Size, entries, lines
from .sources import digest, open_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
Edges = dict[int, tuple[float, float, float, float]]
TEXT: Edges = {256: (0.02, 0.03, 0.04, 1.0), 512: (0.01, 0.02, 0.03, 1.0), 1024: (0.005, 0.01, 0.02, 1.0)}
FACE: Edges = {256: (0.1, 0.2, 0.3, 1.0), 512: (0.05, 0.1, 0.2, 1.0), 1024: (0.02, 0.05, 0.1, 1.0)}
FACE_FIRST: Edges = {256: (0.0, 0.1, 0.2, 1.0), 512: (0.0, 0.05, 0.2, 1.0), 1024: (0.0, 0.05, 0.1, 1.0)}
"""TokBench's half-open size bins, small, medium and large, for pictures whose long side has so many pixels: of words,
of faces as on its leaderboard, and of faces as in its first commit."""


def size_slices(edges: Edges, ratio: float, long_side: int) -> dict[str, str]:
    """The size bin of a word or face; empty below the smallest.

    Args:
        ratio: pixels per character of a word, or the longer side of a face, over the picture's long side.
        long_side: of the picture in pixels; the bins are TokBench's for the nearest of 256, 512 and 1024 below it.
    """
    setting = max((s for s in edges if s <= long_side), default=256)
    for name, (low, high) in zip(("small", "medium", "large"), pairwise(edges[setting]), strict=True):
        if low <= ratio < high:
            return {"size": name}
    return {}


def word(
    text: str, box: tuple[float, float, float, float], long_side: int, ratio: float | None = None, side: int = 0
) -> Region:
    """A word with its size bin, from its box where no ratio is given, and for another long side where one is."""
    measured = (box[2] - box[0]) / len(text) / long_side if ratio is None else ratio
    return Region(box, text=text, slices=size_slices(TEXT, measured, side or long_side))


def face(
    box: tuple[float, float, float, float],
    points: tuple[tuple[float, float], ...],
    long_side: int,
    ratio: float | None = None,
    side: int = 0,
    edges: Edges = FACE,
) -> Region:
    """A face with its size bin, from its box where no ratio is given, and for another long side where one is."""
    measured = max(box[2] - box[0], box[3] - box[1]) / long_side if ratio is None else ratio
    return Region(box, points=points, slices=size_slices(edges, measured, side or long_side))


def pictures(folder: Path) -> list[Sample]:
    """All pictures of a folder, or those that its `annotations.jsonl` lists.

    Raises:
        UserError: no such folder, no picture in it, or none that can be found.
    """
    _check_folder(folder)
    if (listed := folder / "annotations.jsonl").is_file():
        return _checked([_item(folder, r, lambda _: ([], None), [folder], "file") for r in lines(listed)])
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"There is no picture in {folder}: it needs files such as .png, .jpg or .webp.")
    return [_sample(folder, path) for path in paths]


def words(folder: Path, side: int = 0) -> list[Sample]:
    """The annotated words of a folder, in either format.

    Args:
        side: long side in pixels at which the pictures are shown; their own where it is 0. It decides the size bins.

    Raises:
        UserError: no such folder, no annotations, or none that can be understood.
    """

    def theirs(record: Record) -> Understood:
        width, height = record.size("width", "height")
        found = [
            # Cutting a box with NumPy, as TokBench does, leaves what lies in the picture.
            word(i.text("rec"), i.box("bbox", width, height, clip=True), max(width, height), i.number("ratio"), side)
            for i in record.inner("annotations")
        ]
        return found, (width, height)

    def ours(record: Record) -> Understood:
        width, height = record.size("width", "height")
        kept = [i for i in record.inner("instances") if not i.values.get("ignore", False)]
        found = [word(i.text("text"), i.box("box", width, height), max(width, height), side=side) for i in kept]
        return found, (width, height)

    if (own := _own(folder, ours)) is not None:
        return told(own)
    samples = []
    for file in _tokbench(folder, "text_*.json"):
        name = file.stem.removeprefix("text_")
        places = [folder / "images" / "text_data" / name, folder / "text_data" / name, folder / name, folder]
        samples += told([_item(folder, r, theirs, places, "file_name") for r in entries(file)])
    return _checked(samples)


def faces(folder: Path, side: int = 0, edges: Edges = FACE) -> list[Sample]:
    """The annotated faces of a folder, in either format.

    Args:
        side: as in `words`.

    Raises:
        UserError: no such folder, no annotations, or none that can be understood.
    """

    def theirs(record: Record) -> Understood:
        width, height = record.size("img_width", "img_height")
        long = max(width, height)
        found = [
            face(i.box("box", width, height, clip=True), _five(i, "kps"), long, i.number("ratio"), side, edges)
            for i in record.inner("faces")
        ]
        return found, (width, height)

    def ours(record: Record) -> Understood:
        width, height = record.size("width", "height")
        given = record.inner("boxes") if "boxes" in record.values else [record]
        kept = [(i, _five(i, "points") if "points" in i.values else ()) for i in given if not i.values.get("ignore")]
        long = max(width, height)
        return [face(i.box("box", width, height), p, long, side=side, edges=edges) for i, p in kept], (width, height)

    if (own := _own(folder, ours)) is not None:
        return own
    data = [folder / "images" / "face_data", folder / "face_data"]
    places = [*data, *(d / "wflw" for d in data), folder]
    listed = [r for file in _tokbench(folder, "face_meta.json") for r in entries(file)]
    return _checked([_item(folder, r, theirs, places, "image_name") for r in listed])


# -------------------------------------------------------------------------------------------------------------- folders

Understood = tuple[list[Region], Size | None]
"""What an item says of its picture: regions, and width and height."""


def _five(record: Record, key: str) -> tuple[tuple[float, float], ...]:
    """Key points of a face: eyes, nose, corners of the mouth."""
    points = record.points(key)
    if len(points) != 5:
        raise record.fail(f"{key!r} has {len(points)} points, and a face is aligned by five")
    return points


def _own(folder: Path, understand: Callable[[Record], Understood]) -> list[Sample] | None:
    """What the `annotations.jsonl` of a folder lists; None where there is none."""
    _check_folder(folder)
    if not (listed := folder / "annotations.jsonl").is_file():
        return None
    return _checked([_item(folder, r, understand, [folder], "file") for r in lines(listed)])


def _tokbench(folder: Path, name: str) -> list[Path]:
    files = sorted({*folder.glob(name), *(folder / "annotations").glob(name)})
    if not files:
        raise UserError(f"{folder} has neither annotations.jsonl nor TokBench's annotations/{name}: add one.")
    return files


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --data takes a folder of pictures.")


def _checked(samples: list[Sample]) -> list[Sample]:
    """The samples, some of which can be opened.

    Raises:
        UserError: none of them can, for what is wrong with the first.
    """
    faults = [load.args[0] for s in samples for load in s.images if isinstance(load, partial) and load.func is _refuse]
    if faults and len(faults) == len(samples):
        raise UserError(str(faults[0]))
    return samples


def _item(
    folder: Path,
    record: Record | Malformed,
    understand: Callable[[Record], Understood],
    places: Sequence[Path],
    key: str,
) -> Sample:
    """The sample of an item; a bad input where it cannot be understood, with its words where its picture is missing."""
    if isinstance(record, Malformed):
        return _bad(folder, record)
    regions: list[Region] = []
    try:
        regions, size = understand(record)
        return _sample(folder, record.file(*places, key=key), regions, size)
    except Malformed as fault:
        return _bad(folder, fault, regions)


def _sample(folder: Path, path: Path, regions: Sequence[Region] = (), size: Size | None = None) -> Sample:
    name = path.relative_to(folder).as_posix()
    try:
        data = path.read_bytes()
    except OSError as error:
        return _bad(folder, Malformed(str(path), f"cannot be read ({error.strerror})"), regions)
    told = [(r.box, r.text, r.points, sorted(r.slices.items())) for r in regions]
    return Sample(name, name, (partial(open_rgb, path, size),), digest(data, told, size), regions=tuple(regions))


def _bad(folder: Path, fault: Malformed, regions: Sequence[Region] = ()) -> Sample:
    """A sample that cannot be opened, named by where the fault stands."""
    name = fault.where.removeprefix(f"{folder}/")
    return Sample(name, name, (partial(_refuse, fault),), digest(str(fault)), regions=tuple(regions))


def _refuse(fault: Malformed) -> Image:
    raise fault
