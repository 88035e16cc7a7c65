"""Questions about a user's own pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Sample, UserError
from ...harness.registry import task

if TYPE_CHECKING:
    from PIL.Image import Image


@task("images_qa", family="vqa", metrics=("vqa_match", "answer_f1"), builtin=False)
def images_qa(folder: Path | None) -> list[Sample]:
    """Questions of a folder's `annotations.jsonl`, asked about the pictures beside it.

    A line is a JSON object with `file` (relative to the folder), `question` and `answers` (a list; any of them is
    right), and may hold `id`, `source` and `answer_type`, which become slices; samples are stratified by `source`, else
    by `answer_type`. Questions about one picture are one cluster.

    Raises:
        UserError: no folder or annotations, a line that is malformed or names a picture that is not there.
    """
    if folder is None:
        raise UserError("Task images_qa has no pictures of its own: add --data images_qa=DIR.")
    path = folder / "annotations.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UserError(f"{path} cannot be read ({reason}): images_qa needs it, one JSON object per line.") from error
    digest = cache(_digest)
    samples: dict[str, Sample] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        sample = _sample(folder, line, number, where, digest)
        if sample.id in samples:
            raise UserError(f"{where}: the id {sample.id!r} is there twice; ids must differ.")
        samples[sample.id] = sample
    if not samples:
        raise UserError(f"{path} holds no question: write one JSON object per line with file, question and answers.")
    return list(samples.values())


def _sample(folder: Path, line: str, number: int, where: str, digest: Callable[[Path], str]) -> Sample:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is not JSON: {error}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{where} must be a JSON object with file, question and answers.")
    file, question = _text(record, "file", where), _text(record, "question", where)
    answers = record.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise UserError(f"{where}: `answers` must be a list of at least one text.")
    picture = folder / file
    if not picture.is_file():
        raise UserError(f"{where}: there is no picture {picture}.")
    slices = {name: _text(record, name, where) for name in ("source", "answer_type") if record.get(name) is not None}
    asked = json.dumps([question, answers, slices], ensure_ascii=False)
    return Sample(
        id=str(record.get("id", f"line-{number}")),
        cluster_id=file,
        images=(partial(_open, picture),),
        fingerprint=hashlib.sha256(f"{digest(picture)}\n{asked}".encode()).hexdigest()[:16],
        question=question,
        answers=tuple(answers),
        slices=slices,
        stratum=slices.get("source", slices.get("answer_type", "")),
    )


def _text(record: Mapping[str, object], name: str, where: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: `{name}` must be a text that is not empty.")
    return value


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


def _open(path: Path) -> Image:
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")
