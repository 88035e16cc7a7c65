"""Recognisers of text and embedders of faces, chosen by name and never changed by themselves."""

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


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here, and how to get it where it cannot."""

    name: str
    kind: Literal["ocr", "faces"]
    ready: bool
    detail: str
    how_to_get: str


def survey() -> list[BackendStatus]:
    """All backends, without importing any: a look for packages and weights."""
    from . import faces, ocr

    return [*ocr.survey(), *faces.survey()]


def package_folder(module: str) -> Path | None:
    """Where a package is installed, found without running its code; None where it is not."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


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
