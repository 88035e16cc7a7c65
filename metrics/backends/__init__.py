"""Recognisers of text, embedders of faces and networks whose features count, chosen by name and never changed by
themselves."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

OCR = ("rapidocr", "easyocr", "doctr", "tesseract")
FACES = ("dlib", "insightface", "insightface:buffalo_l")
FEATURES = ("toksweep-mini", "inception")
NEED_OPENCV = ("easyocr", "doctr", "insightface", "insightface:buffalo_l")
"""Backends that import `cv2`; the defaults must not, because a server may lack the libraries that its wheel needs."""
OPENCV_MEND = "apt-get install libgl1 libglib2.0-0"


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and how to get it where it cannot."""

    name: str
    kind: Literal["ocr", "faces", "features", "lpips"]
    ready: bool
    detail: str
    how_to_get: str


def survey() -> list[BackendStatus]:
    """All backends, without importing any but OpenCV: a look for packages and weights."""
    from . import faces, features, lpips, ocr

    return [*ocr.survey(), *faces.survey(), *features.survey(), *lpips.survey()]


def package_folder(module: str) -> Path | None:
    """Where a package is installed, found without running its code; None where it is not."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def opencv_fault(backend: str) -> str | None:
    """Why a backend lacks OpenCV, which `OPENCV_MEND` mends; None where it imports or is not needed."""
    reason = _opencv_error() if backend in NEED_OPENCV else None
    return f"it needs OpenCV, which cannot be imported ({reason})" if reason else None


@cache
def _opencv_error() -> str | None:
    # Once: after a failure, OpenCV's loader gives another reason at the second attempt.
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        return str(error)
    return None


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def file_digest(path: Path) -> str:
    """The first 8 hexadecimal digits of a weights file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
