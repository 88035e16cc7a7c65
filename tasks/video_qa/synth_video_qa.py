"""Questions about drawn clips: what moves, comes first, repeats, changes, or shows only for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...harness.contracts import Sample
from ...harness.registry import task
from ..synth.samples import clip_samples, refuse_folder

CLIPS = 100


@task(
    "synth_video_qa",
    family="video_qa",
    metrics=("accuracy", "evidence_recall", "evidence_recall_last", "evidence_intact", "evidence_intact_last"),
    model="toksweep-mini",
    licence="Apache-2.0",
    revision="1",
)
def synth_video_qa(folder: Path | None) -> Iterator[Sample]:
    """Direction, order, repetition, change and a word that shows for a while, in clips of 8 frames of 96 x 96.

    300 questions about 100 clips of the test seeds; a region's `image` is the frame. Slices as in `synth_vqa`.

    Raises:
        UserError: a folder is given.
    """
    refuse_folder("synth_video_qa", folder)
    return clip_samples(CLIPS, "test", frames=8)


@task(
    "synth_video_qa_16",
    family="video_qa",
    metrics=("accuracy", "evidence_recall", "evidence_recall_last", "evidence_intact", "evidence_intact_last"),
    model="toksweep-mini",
    licence="Apache-2.0",
    revision="1",
)
def synth_video_qa_16(folder: Path | None) -> Iterator[Sample]:
    """The questions of `synth_video_qa`, about clips of 16 frames.

    Raises:
        UserError: a folder is given.
    """
    refuse_folder("synth_video_qa_16", folder)
    return clip_samples(CLIPS, "test", frames=16)
