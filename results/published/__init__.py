"""Figures from the literature, and where they may stand beside ours: only under the same metric, protocol and data."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = "TokBench, arXiv:2505.18142"
HUB = "Junfeng5/TokBench@"
"""How the protocol of figures on TokBench's own data begins."""
METRICS = {"t_acc": "t_acc", "t_ned": "t_ned", "f_sim": "f_sim", "face_similarity": "f_sim"}
"""TokBench's metrics, by the name of ours in front of the backend's."""
SIDES = (256, 512, 1024)
SUFFIX = " (published)"
"""Of a label, in tables."""


@dataclass(frozen=True)
class Published:
    """One tokenizer under one metric of TokBench: bins are of words or faces, `mean` is the mean of the bins.

    `bits_per_pixel` is of the square of `side` pixels, None where it is not known.
    """

    tokenizer: str
    kind: str
    factor: str
    side: int
    metric: str
    small: float
    medium: float
    large: float
    mean: float
    bits_per_pixel: float | None
    note: str

    @property
    def label(self) -> str:
        """`MGVQ-g8 f16`, for a factor that the name does not hold."""
        return f"{self.tokenizer} f{self.factor}" if self.tokenizer == "MGVQ-g8" else self.tokenizer

    @property
    def protocol(self) -> str:
        """Data, square and judge, in words."""
        judge = "antelopev2" if self.metric == "f_sim" else "docTR's PARSeq, told the length of the longest transcript"
        return f"{SOURCE}: its own data, squares of {self.side} pixels, {judge}; mean of three size bins"


@cache
def tokbench() -> tuple[Published, ...]:
    """TokBench's tables of images."""
    with (Path(__file__).parent / "tokbench.csv").open(encoding="utf-8", newline="") as file:
        return tuple(_published(row) for row in csv.DictReader(file))


def _published(row: Mapping[str, str]) -> Published:
    small, medium, large, mean = (float(row[n]) for n in ("small", "medium", "large", "mean"))
    bits = float(row["bits_per_pixel"]) if row["bits_per_pixel"] else None
    return Published(
        row["tokenizer"], row["kind"], row["factor"], int(row["side"]), row["metric"], small, medium, large, mean, bits,
        row["note"],
    )  # fmt: skip


def beside(task: str, metric: str) -> tuple[Published, ...]:
    """TokBench's figures of the same kind as a metric of ours: at the task's square, else at 256 pixels."""
    base = METRICS.get(metric.partition("[")[0])
    side = int(task.rpartition("_")[2]) if task.startswith("tokbench_") else SIDES[0]
    return tuple(p for p in tokbench() if (p.metric, p.side) == (base, side))


def same(task: str, subset: str, metric: str, protocol: str) -> bool:
    """Whether a figure of ours is TokBench's: its task as published, whole, from the hub, by its own judge."""
    names = {f"tokbench_{kind}_{side}" for kind in ("text", "faces") for side in SIDES}
    return task in names and subset == "all" and metric in METRICS.values() and protocol.startswith(HUB)


def rows_beside(rows: Iterable[Mapping[str, object]]) -> Iterator[dict[str, object]]:
    """Rows of the table of cells for what is published under the very metric, protocol and data of `rows`."""
    shared = [
        "model", "task", "family", "subset", "dtype", "attention", "device", "metric", "metric_family", "protocol",
        "higher_is_better", "unit", "worst",
    ]  # fmt: skip
    series = {tuple(row[c] for c in shared): row for row in rows if row["slice"] is None}
    for row in series.values():
        task, subset, metric, protocol = (str(row[c]) for c in ("task", "subset", "metric", "protocol"))
        if not same(task, subset, metric, protocol):
            continue
        for point in beside(task, metric):
            label = point.label + SUFFIX
            bins = {None: point.mean, "size=small": point.small, "size=medium": point.medium, "size=large": point.large}
            for part, value in bins.items():
                yield {c: row[c] for c in shared} | {
                    "cell_id": f"{SOURCE}, {point.side}: {point.tokenizer} f{point.factor}", "kind": "tokenizer",
                    "method": label, "label": label, "method_params": "{}", "floor": False, "diagnostic": False,
                    "slice": part, "value": value, "bits_per_pixel": point.bits_per_pixel, "status": "complete",
                    "illustrative": False, "comparable": True, "source": "literature", "seed": 0,
                }  # fmt: skip
