"""TokBench's words and faces in its own protocol (arXiv:2505.18142, github.com/wjf5203/TokBench).

A tokenizer is given a square of 256, 512 or 1024 pixels with the picture in it, and the full-size picture that is made
of its output is scored. The untouched picture goes the same way, so that `none` is TokBench's row "Resize": the
ceiling.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...harness.contracts import Sample, UserError
from ...harness.registry import task
from .annotations import FACE, FACE_FIRST, words
from .annotations import faces as faces_in
from .letterbox import Letterbox
from .sources import digest

HUB = "Junfeng5/TokBench"
PARTS = ("annotations/*", "images.zip")
JPEG = (".jpg", ".jpeg", ".jfif", ".jpe")


@task(
    "tokbench_text",
    family="reconstruction",
    metrics=("t_acc", "t_ned", "t_acc_untold", "t_ned_untold"),
    variants={"256": {"side": 256}, "512": {"side": 512}, "1024": {"side": 1024}},
    licence="terms of IC13, IC15, Total-Text, TextOCR, CORD, SROIE, InfographicVQA and DocVQA",
)
@task(
    "tokbench_text_clean",
    family="reconstruction",
    metrics=("t_acc_untold", "t_ned_untold"),
    variants={
        "256": {"side": 256, "clean": True}, "512": {"side": 512, "clean": True}, "1024": {"side": 1024, "clean": True},
    },
    licence="terms of IC13, IC15, Total-Text, TextOCR, CORD, SROIE, InfographicVQA and DocVQA",
)  # fmt: skip
def text(folder: Path | None, *, side: int, clean: bool = False) -> list[Sample]:
    """TokBench's words, from the hub or a folder, seen through a square of so many pixels.

    Args:
        clean: without what TokBench loses beside the tokenizer: no JPEG files, and no recogniser that is told.

    Raises:
        UserError: the hub cannot be reached, or the folder lacks annotations that can be understood.
    """
    folder, revision = _data(folder)
    return _shown(words(folder, side), side, revision, clean)


@task(
    "tokbench_faces",
    family="reconstruction",
    metrics=("face_similarity", "face_distance"),
    variants={
        "256": {"side": 256}, "512": {"side": 512}, "1024": {"side": 1024},
        "clean_256": {"side": 256, "clean": True}, "clean_512": {"side": 512, "clean": True},
        "clean_1024": {"side": 1024, "clean": True},
        "first_256": {"side": 256, "bins": "first-commit"}, "first_512": {"side": 512, "bins": "first-commit"},
        "first_1024": {"side": 1024, "bins": "first-commit"},
    },
    licence="terms of WFLW",
)  # fmt: skip
def faces(
    folder: Path | None,
    *,
    side: int,
    clean: bool = False,
    bins: Literal["leaderboard", "first-commit"] = "leaderboard",
) -> list[Sample]:
    """TokBench's faces, from the hub or a folder, seen through a square of so many pixels.

    Args:
        clean: as in `text`.
        bins: size bins of its leaderboard, or of its first commit.

    Raises:
        UserError: as in `text`.
    """
    folder, revision = _data(folder)
    edges = FACE if bins == "leaderboard" else FACE_FIRST
    return _shown(faces_in(folder, side, edges), side, revision, clean, bins)


def _shown(samples: Sequence[Sample], side: int, revision: str, clean: bool, bins: str = "") -> list[Sample]:
    """The samples as a tokenizer is shown them, with what makes figures of them comparable."""
    files = "lossless files" if clean else "files as named"
    protocol = ";".join(filter(None, [revision, f"letterbox-{side}", files, bins and f"bins={bins}"]))
    made = []
    for sample in samples:
        box = Letterbox(side, as_jpeg=not clean and Path(sample.id).suffix.lower() in JPEG)
        told = digest(sample.fingerprint, protocol, box)
        made.append(replace(sample, framing=box, protocol=protocol, fingerprint=told))
    return made


def _data(folder: Path | None) -> tuple[Path, str]:
    """Where the data lie, and which they are: `ID@REVISION` from the hub, `local copy` from a folder."""
    return (folder, "local copy") if folder else _hub()


def _hub() -> tuple[Path, str]:
    """The hub's newest revision (without a network, the one in its cache), unpacked once.

    Raises:
        UserError: it is not to be had, or is not laid out as expected.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HOME
    from huggingface_hub.errors import HTTPError  # that of httpx or httpx2

    fault: Exception | None = None
    try:
        HfApi().dataset_info(HUB, timeout=10)  # fails at once, where fetching a file retries for half a minute
    except (OSError, HTTPError) as error:
        fault = error
    try:
        parts = list(PARTS)
        found = snapshot_download(HUB, repo_type="dataset", allow_patterns=parts, local_files_only=fault is not None)
    except (OSError, HTTPError) as error:
        first = (str(fault or error).strip() or type(fault or error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"TokBench's data is {HUB} on the Hugging Face hub, which cannot be had ({first}): give a local copy, with "
            "its annotations and its unpacked images, such as --data tokbench_text_256=DIR."
        ) from error
    snapshot = Path(found)
    return _unpacked(snapshot, Path(HF_HOME) / "toksweep" / f"tokbench-{snapshot.name}"), f"{HUB}@{snapshot.name[:12]}"


def _unpacked(snapshot: Path, target: Path) -> Path:
    """A folder with annotations and pictures, made of a snapshot whose pictures are in `images.zip`.

    Raises:
        UserError: no such file, or no sound one.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        try:
            with zipfile.ZipFile(snapshot / "images.zip") as archive:
                archive.extractall(made)  # members cannot leave the folder
            shutil.copytree(snapshot / "annotations", Path(made) / "annotations")
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"TokBench's data in {snapshot} cannot be unpacked ({error}): give a local copy, such as "
                "--data tokbench_text_256=DIR."
            ) from error
        whole = Path(made) / "whole"
        whole.mkdir()
        for part in ("annotations", "images"):
            if (Path(made) / part).is_dir():
                (Path(made) / part).rename(whole / part)
        try:
            whole.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first
                raise
    return target
