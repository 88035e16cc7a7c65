"""A user's own folder: pictures alone, with an `annotations.jsonl`, or in TokBench's format.

`annotations.jsonl` has an object a line: `file` (relative to the folder), and for words and faces also `width`,
`height` and either `instances` (`box`, `text`, `ignore`), or `box` or `boxes`. TokBench (arXiv:2505.18142, data set
Junfeng5/TokBench) keeps `annotations/text_NAME.json` beside `images/text_data/NAME/` and `annotations/face_meta.json`
beside `images/face_data/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

from ...harness.contracts import Region, Sample, UserError
from .sources import digest, open_rgb

Size = tuple[int, int]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
EDGES = {
    "text": {256: (0.02, 0.03, 0.04, 1.0), 512: (0.01, 0.02, 0.03, 1.0), 1024: (0.005, 0.01, 0.02, 1.0)},
    "face": {256: (0.1, 0.2, 0.3, 1.0), 512: (0.05, 0.1, 0.2, 1.0), 1024: (0.02, 0.05, 0.1, 1.0)},
}
"""TokBench's half-open size bins, small, medium and large, for pictures whose long side has so many pixels."""


def size_slices(kind: Literal["text", "face"], ratio: float, long_side: int) -> dict[str, str]:
    """The size bin of a word or face; empty below the smallest.

    Args:
        ratio: pixels per character of a word, or the longer side of a face, over the picture's long side.
        long_side: of the picture in pixels; the bins are TokBench's for the nearest of 256, 512 and 1024 below it.
    """
    setting = max((s for s in EDGES[kind] if s <= long_side), default=256)
    for name, (low, high) in zip(("small", "medium", "large"), pairwise(EDGES[kind][setting]), strict=True):
        if low <= ratio < high:
            return {"size": name}
    return {}


def word(text: str, box: tuple[float, float, float, float], long_side: int, ratio: float | None = None) -> Region:
    """A word with its size bin, from its box where no ratio is given."""
    measured = (box[2] - box[0]) / len(text) / long_side if ratio is None else ratio
    return Region(box, text=text, slices=size_slices("text", measured, long_side))


def face(
    box: tuple[float, float, float, float],
    points: tuple[tuple[float, float], ...],
    long_side: int,
    ratio: float | None = None,
) -> Region:
    """A face with its size bin, from its box where no ratio is given."""
    measured = max(box[2] - box[0], box[3] - box[1]) / long_side if ratio is None else ratio
    return Region(box, points=points, slices=size_slices("face", measured, long_side))


def pictures(folder: Path) -> list[Sample]:
    """All pictures of a folder, or those that its `annotations.jsonl` lists.

    Raises:
        UserError: no such folder, no picture in it, or a malformed line.
    """
    _check_folder(folder)
    if (folder / "annotations.jsonl").is_file():
        return [_sample(folder, record.file(folder)) for record in _lines(folder)]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise UserError(f"There is no picture in {folder}: it needs files such as .png, .jpg or .webp.")
    return [_sample(folder, path) for path in paths]


def words(folder: Path) -> list[Sample]:
    """The annotated words of a folder, in either format.

    Raises:
        UserError: no such folder, no annotations, a malformed line, or a box outside its picture.
    """
    return _annotated(folder, _words_of, "text_*.json", _tokbench_words)


def faces(folder: Path) -> list[Sample]:
    """The annotated faces of a folder, in either format.

    Raises:
        UserError: no such folder, no annotations, a malformed line, or a box outside its picture.
    """
    return _annotated(folder, _faces_of, "face_meta.json", _tokbench_faces)


# ------------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True)
class _Record:
    """An object of an annotation file, and where it stands, for messages."""

    values: Mapping[str, object]
    where: str

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.where}: {what}.")

    def get(self, key: str) -> object:
        if key not in self.values:
            raise self.fail(f"the key {key!r} is missing")
        return self.values[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value:
            raise self.fail(f"{key!r} is {value!r}, not a text")
        return value

    def number(self, key: str) -> float:
        return self._number(self.get(key), key)

    def size(self, width: str, height: str) -> Size:
        for key in (width, height):
            value = self.get(key)
            if not isinstance(value, int) or value < 1:
                raise self.fail(f"{key!r} is {value!r}, not a number of pixels")
        return int(self.number(width)), int(self.number(height))

    def box(self, key: str, width: int, height: int, *, clip: bool = False) -> tuple[float, float, float, float]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) != 4:
            raise self.fail(f"{key!r} is {value!r}, not four numbers x0, y0, x1, y1")
        x0, y0, x1, y1 = (self._number(edge, key) for edge in value)
        if clip:
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if min(x0, y0) < 0 or x1 > width or y1 > height or int(x0) >= int(x1) or int(y0) >= int(y1):
            raise self.fail(f"{key!r} {value} is empty or outside the picture of {width}x{height} pixels")
        return x0, y0, x1, y1

    def points(self, key: str) -> tuple[tuple[float, float], ...]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
            raise self.fail(f"{key!r} is {value!r}, not a list of x, y pairs")
        return tuple((self._number(x, key), self._number(y, key)) for x, y in value)

    def inner(self, key: str) -> list[_Record]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.fail(f"{key!r} is not a list of objects")
        return [_Record(v, f"{self.where}, {key}[{i}]") for i, v in enumerate(value)]

    def file(self, *folders: Path, key: str = "file") -> Path:
        name = self.text(key)
        for folder in folders:
            if (path := folder / name).is_file() and path.resolve().is_relative_to(folder.resolve()):
                return path
        raise self.fail(f"there is no file {name} in {' or '.join(map(str, folders))}")

    def _number(self, value: object, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(f"{key!r} holds {value!r}, which is no number")
        return value


def _lines(folder: Path) -> list[_Record]:
    path = folder / "annotations.jsonl"
    records = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: no JSON ({error}).") from error
        if not isinstance(value, dict):
            raise UserError(f"{where}: not a JSON object.")
        records.append(_Record(value, where))
    if not records:
        raise UserError(f"{path} is empty: it needs a JSON object a line.")
    return records


def _listed(path: Path) -> list[_Record]:
    try:
        value = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON ({error.msg}).") from error
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise UserError(f"{path} is not a JSON list of objects, as TokBench's annotations are.")
    return [_Record(v, f"{path}, entry {i}") for i, v in enumerate(value)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error


# -------------------------------------------------------------------------------------------------------------- folders


def _annotated(
    folder: Path,
    regions: Callable[[_Record], list[Region]],
    tokbench: str,
    entries: Callable[[Path, Path], Iterator[tuple[Path, list[Region], Size]]],
) -> list[Sample]:
    _check_folder(folder)
    if (folder / "annotations.jsonl").is_file():
        return [_sample(folder, r.file(folder), regions(r), r.size("width", "height")) for r in _lines(folder)]
    files = sorted({*folder.glob(tokbench), *(folder / "annotations").glob(tokbench)})
    if not files:
        raise UserError(f"{folder} has neither annotations.jsonl nor TokBench's annotations/{tokbench}: add one.")
    return [_sample(folder, *entry) for file in files for entry in entries(folder, file)]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: --data takes a folder of pictures.")


def _sample(folder: Path, path: Path, regions: Sequence[Region] = (), size: Size | None = None) -> Sample:
    name = path.relative_to(folder).as_posix()
    told = [(r.box, r.text, r.points, sorted(r.slices.items())) for r in regions]
    return Sample(
        name, name, (partial(open_rgb, path, size),), digest(path.read_bytes(), told, size), regions=tuple(regions)
    )


def _words_of(record: _Record) -> list[Region]:
    width, height = record.size("width", "height")
    kept = [i for i in record.inner("instances") if not i.values.get("ignore", False)]
    return [word(i.text("text"), i.box("box", width, height), max(width, height)) for i in kept]


def _faces_of(record: _Record) -> list[Region]:
    width, height = record.size("width", "height")
    given = record.inner("boxes") if "boxes" in record.values else [record]
    kept = [i for i in given if not i.values.get("ignore", False)]
    return [
        face(i.box("box", width, height), i.points("points") if "points" in i.values else (), max(width, height))
        for i in kept
    ]


def _tokbench_words(folder: Path, file: Path) -> Iterator[tuple[Path, list[Region], Size]]:
    name = file.stem.removeprefix("text_")
    places = [folder / "images" / "text_data" / name, folder / "text_data" / name, folder / name, folder]
    for entry in _listed(file):
        width, height = entry.size("width", "height")
        found = [
            word(i.text("rec"), i.box("bbox", width, height), max(width, height), i.number("ratio"))
            for i in entry.inner("annotations")
        ]
        yield entry.file(*places, key="file_name"), found, (width, height)


def _tokbench_faces(folder: Path, file: Path) -> Iterator[tuple[Path, list[Region], Size]]:
    data = [folder / "images" / "face_data", folder / "face_data"]
    places = [*data, *(d / "wflw" for d in data), folder]
    for entry in _listed(file):
        width, height = entry.size("img_width", "img_height")
        found = [
            face(i.box("box", width, height, clip=True), i.points("kps"), max(width, height), i.number("ratio"))
            for i in entry.inner("faces")
        ]
        yield entry.file(*places, key="image_name"), found, (width, height)
