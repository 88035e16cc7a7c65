"""Finds, for a report, the lmms-eval function that makes a figure of raw values; see `results.aggregation`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ...harness.contracts import UserError
from .values import decode

INSIDE = "lmms_eval:"
"""Stands for lmms-eval's own folder of tasks, which lies elsewhere on every machine."""


def describe(yaml: Path, package: Path, metric: str) -> str:
    """What a record keeps of a metric's aggregation."""
    inside = yaml.is_relative_to(package)
    place = INSIDE + str(yaml.relative_to(package)) if inside else str(yaml)
    return "lmms " + json.dumps({"yaml": place, "metric": metric})


def find(text: str) -> Callable[[Sequence[object]], float]:
    """The function that `describe` named, as one of stored values.

    Raises:
        UserError: the file or the metric is not there any more.
    """
    from . import library
    from .catalogue import tasks_folder

    asked = json.loads(text)
    place = str(asked["yaml"])
    yaml = tasks_folder() / place.removeprefix(INSIDE) if place.startswith(INSIDE) else Path(place)
    if not yaml.is_file():
        raise UserError(f"{yaml}, which aggregates {asked['metric']}, is not there any more: restore it.")
    function = library.aggregations(yaml).get(asked["metric"])
    if function is None:
        raise UserError(f"{yaml} does not aggregate {asked['metric']} any more.")

    def figure(values: Sequence[object]) -> float:
        return library.aggregate(function, [decode(v) for v in values])  # decoding copies them

    return figure
