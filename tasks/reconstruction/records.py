"""What annotation files hold, read value by value: whatever is wrong is said with the place where it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...harness.contracts import UserError

Size = tuple[int, int]


class Malformed(ValueError):
    """An item that cannot be understood, and where it stands: a bad input of its own, while the others are swept."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}.")
        self.where = where


@dataclass(frozen=True)
class Record:
    """An object of an annotation file, and where it stands, for messages.

    All but `fail` and `where` raise `Malformed` for a value that is missing or of another kind.
    """

    values: Mapping[str, object]
    where: str

    def fail(self, what: str) -> Malformed:
        return Malformed(self.where, what)

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
        """Corners in pixels; with `clip` what lies outside the picture is cut off."""
        value = self.get(key)
        if not isinstance(value, list) or len(value) != 4:
            raise self.fail(f"{key!r} is {value!r}, not four numbers x0, y0, x1, y1")
        x0, y0, x1, y1 = (self._number(edge, key) for edge in value)
        if clip:
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if not (x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height and int(x0) < int(x1) and int(y0) < int(y1)):
            raise self.fail(f"{key!r} {value} is empty or outside the picture of {width}x{height} pixels")
        return x0, y0, x1, y1

    def points(self, key: str) -> tuple[tuple[float, float], ...]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(p, list) and len(p) == 2 for p in value):
            raise self.fail(f"{key!r} is {value!r}, not a list of x, y pairs")
        return tuple((self._number(x, key), self._number(y, key)) for x, y in value)

    def inner(self, key: str) -> list[Record]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
            raise self.fail(f"{key!r} is not a list of objects")
        return [Record(v, f"{self.where}, {key}[{i}]") for i, v in enumerate(value)]

    def file(self, *folders: Path, key: str = "file") -> Path:
        name = self.text(key)
        for folder in folders:
            if (path := folder / name).is_file() and path.resolve().is_relative_to(folder.resolve()):
                return path
        raise self.fail(f"there is no file {name} in {' or '.join(map(str, folders))}")

    def _number(self, value: object, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) > 1e9:
            raise self.fail(f"{key!r} holds {value!r}, which is no number")
        return value


def lines(path: Path) -> list[Record | Malformed]:
    """The objects of a file with one a line, and what stands in place of one.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    found: list[Record | Malformed] = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            found.append(Malformed(where, f"no JSON ({error})"))
            continue
        found.append(Record(value, where) if isinstance(value, dict) else Malformed(where, "not a JSON object"))
    if not found:
        raise UserError(f"{path} is empty: it needs a JSON object a line.")
    return found


def entries(path: Path) -> list[Record | Malformed]:
    """The objects of a file that is one list of them, and what stands in place of one.

    Raises:
        UserError: the file cannot be read, or is no JSON list.
    """
    try:
        value = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: no JSON ({error.msg}).") from error
    if not isinstance(value, list):
        raise UserError(f"{path} is not a JSON list of objects, as TokBench's annotations are.")
    return [
        Record(v, where) if isinstance(v, dict) else Malformed(where, "not a JSON object")
        for v, where in ((v, f"{path}, entry {i}") for i, v in enumerate(value))
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
