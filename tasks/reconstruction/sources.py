"""Photographs that come inside our dependencies' packages, and pictures of any folder, opened when they are needed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ...harness.contracts import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pixel formats that convert to 8-bit RGB as one expects; 16-bit and float pictures do not."""


@dataclass(frozen=True)
class Photograph:
    """A file of an installed package. `source` names the picture or scene that it shows: the unit of the split."""

    source: str
    path: Path


@cache
def photographs(split: Literal["evaluation", "training"]) -> tuple[Photograph, ...]:
    """The committed list `split.json`, one side of it.

    Raises:
        UserError: a package or a file of it is missing.
    """
    listed = json.loads((Path(__file__).parent / "split.json").read_text(encoding="utf-8"))["photographs"]
    return tuple(Photograph(p["source"], installed(p["file"])) for p in listed if p["split"] == split)


def photograph(source: str) -> Photograph:
    """The first evaluation photograph of a source."""
    return next(p for p in photographs("evaluation") if p.source == source)


def installed(file: str) -> Path:
    """The path of `package/inside/file`, found without running the package's code.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"The file {file} of the package {package} is missing: reinstall toksweep's dependencies.")
    return path


def open_rgb(path: Path, size: tuple[int, int] | None = None) -> Image:
    """A picture as 8-bit RGB, upright by its EXIF orientation; transparency is laid on white.

    Args:
        size: width and height that its annotations speak of.

    Raises:
        OSError: the file cannot be decoded. ValueError: more than 8 bits a channel, or another size.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    with Pillow.open(path) as opened:
        if opened.mode not in MODES:
            raise ValueError(f"{path.name} has pixels of mode {opened.mode}; 8 bits a channel are understood")
        upright = ImageOps.exif_transpose(opened)
        if size and upright.size != size:
            raise ValueError(f"{path.name} has {upright.size} pixels, and its annotations speak of {size}")
        if upright.mode in ("LA", "PA", "RGBA") or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            upright = Pillow.alpha_composite(Pillow.new("RGBA", layer.size, "white"), layer)
        return upright.convert("RGB")


def digest(*parts: object) -> str:
    """A fingerprint of bytes and of anything whose text form says all of it."""
    whole = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode()
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:32]
