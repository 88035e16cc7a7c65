"""Questions about scenes and clips as the harness knows them: lazily drawn pictures, and evidence as regions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...harness.contracts import Region, Sample, UserError
from . import clips, drawing, scenes
from .questions import FAMILIES, Question, choose, questions

if TYPE_CHECKING:
    from PIL.Image import Image

RECIPE = "1"
"""Raised with every change of what a seed draws or asks; a test pins the pixels of this recipe."""
QUESTIONS_OF_A_SCENE = 4
QUESTIONS_OF_A_CLIP = 3


def refuse_folder(name: str, folder: Path | None) -> None:
    """Raises:
    UserError: a folder was given to a task that draws its own pictures.
    """
    if folder is not None:
        raise UserError(f"{name} draws its own pictures and reads no folder: drop --data {name}={folder}.")


def scene_samples(count: int, split: scenes.Split) -> Iterator[Sample]:
    """Four questions of different families about each of `count` scenes; families take turns."""
    for index in range(count):
        made = scenes.scene(index, split)
        turn = index % len(FAMILIES)
        asked = choose(questions(made), (*FAMILIES[turn:], *FAMILIES[:turn]))[:QUESTIONS_OF_A_SCENE]
        pictures = (partial(_draw_scene, index, split),)
        for question in asked:
            yield _sample(question, f"{split}-scene-{index:05d}", pictures)


def clip_samples(count: int, split: scenes.Split, frames: int) -> Iterator[Sample]:
    """Three questions of different families about each of `count` clips; families take turns."""
    for index in range(count):
        made = clips.clip(index, split, frames)
        turn = index % len(clips.FAMILIES)
        asked = choose(list(made.questions), (*clips.FAMILIES[turn:], *clips.FAMILIES[:turn]))[:QUESTIONS_OF_A_CLIP]
        pictures = tuple(partial(_draw_frame, index, split, frames, f) for f in range(frames))
        for question in asked:
            yield _sample(question, f"{split}-clip-{index:05d}-of-{frames}", pictures, clip=True)


def _sample(question: Question, cluster: str, pictures: tuple[partial[Image], ...], *, clip: bool = False) -> Sample:
    recipe = (RECIPE, drawing.photograph_digest(), cluster, question.text, question.answer)
    return Sample(
        id=f"{cluster}-{question.family}",
        cluster_id=cluster,
        images=pictures,
        fingerprint=hashlib.sha256("\0".join(recipe).encode()).hexdigest(),
        question=question.text,
        answers=(question.answer,),
        regions=tuple(Region(box, image=picture) for picture, box in question.evidence),
        slices={
            "question": question.family,
            "hinge": "one or two patches" if question.hinges else "larger",
            "combination": "held out" if question.held_out else "seen",
        },
        stratum=question.family,
        clip=clip,
    )


def _draw_scene(index: int, split: scenes.Split) -> Image:
    from PIL import Image

    return Image.fromarray(scenes.scene(index, split).draw())


def _draw_frame(index: int, split: scenes.Split, frames: int, frame: int) -> Image:
    from PIL import Image

    return Image.fromarray(clips.clip(index, split, frames).draw(frame))
