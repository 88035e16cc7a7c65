"""A page as a headless Chromium sees it, without any driver."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=3000",
)  # fmt: skip


def dump(page: Path, profile: Path, fragment: str = "", *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what they wrote to the console; skips where there is no Chromium."""
    if BINARY is None:
        pytest.skip("needs a chromium binary on PATH (Debian: apt-get install chromium)")
    url = page.resolve().as_uri() + (f"#{fragment}" if fragment else "")
    command = [BINARY, *FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def excess_width(page: Path, scratch: Path, width: int) -> int:
    """By how many pixels a page is wider than a narrow screen.

    Measured by a frame, since a headless window has a least width of its own.
    """
    frame = scratch / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{page.resolve().as_uri()}" style="width:{width}px;height:800px;border:0"></iframe>'
        "<script>"
        "f.onload = () => { const root = f.contentDocument.documentElement;"
        "document.title = `${root.scrollWidth - root.clientWidth} too wide`; }</script>"
    )
    document, _ = dump(frame, scratch / "profile", "", "--allow-file-access-from-files")
    found = re.search(r"<title>(\d+) too wide</title>", document)
    assert found, "the frame did not load"
    return int(found[1])


def rows(document: str, table: str) -> list[list[str]]:
    """The texts of a table's cells, without those of hidden rows."""
    found = re.search(rf'<table id="{table}".*?</table>', document, flags=re.S)
    assert found, f"no table {table}"
    body = found[0].split("<tbody>", 1)[1]
    lines = re.findall(r"<tr([^>]*)>(.*?)</tr>", body, flags=re.S)
    return [
        [
            " ".join(re.sub(r"<[^>]+>", " ", c).split())
            for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, flags=re.S)
        ]
        for attributes, line in lines
        if "hidden" not in attributes
    ]
