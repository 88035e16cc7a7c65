"""Questions about drawn scenes, half of them and more hinging on one or two patches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...harness.contracts import Sample
from ...harness.registry import task
from ..synth.samples import refuse_folder, scene_samples

SCENES = 250


@task(
    "synth_vqa",
    family="vqa",
    metrics=("accuracy", "evidence_recall", "evidence_recall_last", "evidence_intact", "evidence_intact_last"),
    model="toksweep-mini",
    licence="Apache-2.0",
    revision="1",
)
def synth_vqa(folder: Path | None) -> Iterator[Sample]:
    """Colour, shape, counting, place, small objects, comparison and printed words in cluttered scenes of 96 x 96.

    1,000 questions about 250 scenes of the test seeds; questions about one scene share a cluster. Slices: `question`
    (the family), `hinge` (whether a piece of the evidence lies within one or two patches of 8 x 8), `combination`
    (`held out`: about a pair of shape and colour that the training of `toksweep-mini` never showed). `regions` are the
    evidence.

    Raises:
        UserError: a folder is given.
    """
    refuse_folder("synth_vqa", folder)
    return scene_samples(SCENES, "test")
