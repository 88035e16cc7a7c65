"""The face that figures are set in, without what makes a PDF of it slow."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import matplotlib as mpl
from fontTools.ttLib import TTFont


@cache
def plain_face() -> Path:
    """DejaVu Sans without ligatures and kerning, as a file that lives as long as the process.

    A PDF embeds the glyphs that it uses. To find them matplotlib parses these tables anew for every figure, which
    takes longer than all else about it, and ligatures are embedded as a second font.
    """
    folder = Path(tempfile.mkdtemp(prefix="toksweep-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with TTFont(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), recalcTimestamp=False) as face:
        for name in {"GSUB", "GPOS", "GDEF", "kern"} & set(face.keys()):
            del face[name]
        face.save(folder / "DejaVuSans.ttf")
    return folder / "DejaVuSans.ttf"
