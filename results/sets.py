"""Figures of sets of pictures, from the features that lie beside the records: a cell's against the untouched cell's.

Computing one may take minutes, so that what was computed is kept, under a digest of all that it came from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..metrics import sets
from ..metrics.statistics import Interval
from .records import SampleRecord
from .store import MetricInfo, ResultsFolder, write_atomically

log = logging.getLogger("toksweep")

PREFIX = "set "
"""Of the `MetricInfo.aggregation` of such a figure; the name of a statistic of `metrics.sets` follows."""
Place = tuple[str, str, int, int]
"""Work, file, first number and how many numbers of one picture."""


class Side(NamedTuple):
    """The records of one cell."""

    work_id: str
    records: Mapping[str, SampleRecord]


class SetFigure(NamedTuple):
    """A figure, and what it rests on."""

    interval: Interval
    samples: int
    pictures: int
    clusters: int


def is_set(metric: MetricInfo) -> bool:
    """Is it a figure of a set of pictures?"""
    return (metric.aggregation or "").startswith(PREFIX)


def set_figure(folder: ResultsFolder, metric: MetricInfo, ours: Side, originals: Side) -> SetFigure:
    """The figure of the samples that both sides have features of.

    It is NaN where a file of features is missing.
    """
    shared = [
        i for i, record in ours.records.items()
        if i in originals.records and record.fingerprint == originals.records[i].fingerprint
        and len(_places(metric, ours, i)) == len(_places(metric, originals, i)) > 0
    ]  # fmt: skip
    clusters = [ours.records[i].cluster_id for i in shared for _ in _places(metric, ours, i)]
    left, right = ([place for i in shared for place in _places(metric, side, i)] for side in (ours, originals))
    interval = _kept(folder, metric, left, right, clusters) if shared else Interval(math.nan, math.nan, math.nan)
    return SetFigure(interval, len(shared), len(clusters), len(set(clusters)))


def _places(metric: MetricInfo, side: Side, sample: str) -> list[Place]:
    score = side.records[sample].scores.get(metric.name)
    raw = score.raw if score and score.protocol == metric.protocol else ()
    return [(side.work_id, *place) for place in raw]  # type: ignore[misc]


def _kept(
    folder: ResultsFolder, metric: MetricInfo, left: Sequence[Place], right: Sequence[Place], clusters: Sequence[str]
) -> Interval:
    name = (metric.aggregation or "").removeprefix(PREFIX)
    code = [Path(module.__file__ or "").read_bytes() for module in (sets,)]
    told = json.dumps([name, metric.code, version("torch-fidelity"), left, right, clusters])
    tag = hashlib.sha256(b"\0".join([told.encode(), *code])).hexdigest()[:16]
    file = folder.path / "features" / "figures" / f"{tag}.json"
    if file.is_file():
        return Interval(*(math.nan if v is None else v for v in json.loads(file.read_text(encoding="utf-8"))))
    try:
        found = sets.measure(name, _read(folder, left), _read(folder, right), clusters)
    except FileNotFoundError as error:
        log.warning(
            "%s has no figure: %s is missing; sweep into a new folder to take features again.",
            metric.name,
            error.filename,
        )
        return Interval(math.nan, math.nan, math.nan)
    write_atomically(file, json.dumps([None if math.isnan(v) else v for v in vars(found).values()]))
    return found


def _read(folder: ResultsFolder, places: Sequence[Place]) -> NDArray[np.float32]:
    """[pictures, numbers]"""
    files = {
        place: np.memmap(folder.features(*place), dtype="<f4", mode="r") for place in {place[:2] for place in places}
    }
    return np.stack([files[work, file][first : first + numbers] for work, file, first, numbers in places])
