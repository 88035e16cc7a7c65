"""Real pictures beside the checkout, and degraded copies of them, for tests of the picture tasks."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real"


def real(name: str) -> Path:
    """A folder of real pictures; the test is skipped where it is not beside the checkout."""
    if not (REAL / name / "annotations.jsonl").is_file():
        pytest.skip(f"no real pictures beside the checkout (../shared/data/real/{name})")
    return REAL / name


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """A picture after JPEG at a quality."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")
