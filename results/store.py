"""A results folder: runs, sample records and outputs, appended to by any number of processes and never rewritten."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..harness.contracts import UserError
from .records import SampleRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("toksweep")

SCHEMA = 1


@dataclass(frozen=True)
class MetricInfo:
    """What a report must know about a metric, without loading it.

    `aggregation` says how the figure of a set is made of the records' `raw` values, where it is not the mean of items
    (see `results.aggregation`); `whole_set` that it is defined on the whole set only.
    """

    name: str
    unit: str
    higher_is_better: bool
    worst: float | None
    mean_over: str
    protocol: str
    code: str
    family: str
    aggregation: str | None = None
    whole_set: bool = False


@dataclass(frozen=True)
class Cell:
    """One point of the leaderboard: a method at a budget on a task, with the samples that belong to it."""

    cell_id: str
    work_id: str
    model: str | None
    model_revision: str | None
    method: str
    method_params: Mapping[str, object]
    label: str
    kind: str
    floor: bool
    verified: str | None
    budget: str | None
    budget_value: float | None
    budget_unit: str | None
    budget_convention: str | None
    task: str
    family: str
    subset: str
    seed: int
    dtype: str | None
    attention: str | None
    device: str | None
    metrics: tuple[MetricInfo, ...]
    sample_ids: tuple[str, ...]
    diagnostic: bool = False

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes two cells of different runs the same point: the newest run's stands."""
        return (
            self.model, self.label, self.budget_value, self.budget_unit, self.budget_convention, self.task, self.seed,
            self.dtype, self.attention, self.device,
        )  # fmt: skip


def new_writer_name() -> str:
    """A file name of one process's own; names sort by time, so that a later line wins over an earlier one."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    return f"{now}-{socket.gethostname()[:24]}-{os.getpid()}-{secrets.token_hex(2)}"


class LineWriter:
    """Appends JSON lines to a file of its own, each flushed at once. The file appears with its first line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def append(self, data: Mapping[str, object]) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("x", encoding="utf-8")
        self._file.write(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class FeatureWriter:
    """Appends features, 32-bit numbers, to a file of its own, flushed at once. The file appears with the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[bytes] | None = None
        self._written = 0

    def append(self, features: NDArray[np.float32]) -> tuple[tuple[str, int, int], ...]:
        """File, first number and how many numbers of each picture.

        Args:
            features: [pictures, numbers].
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        self._file.write(features.astype("<f4").tobytes())
        self._file.flush()
        pictures, numbers = features.shape
        places = tuple((self.path.name, self._written + i * numbers, numbers) for i in range(pictures))
        self._written += features.size
        return places

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """All lines of the writers of a folder, oldest writer first. A torn last line is dropped."""
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                if number == len(lines):
                    raise ValueError("no line end")
                yield json.loads(line)
            except ValueError:
                if number < len(lines):
                    log.warning("%s, line %d cannot be read; the sample is computed again", path, number)


class ResultsFolder:
    """The folder that a sweep writes; see design: run.json, samples/, outputs/, latency/, cells.parquet, report/."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    # ------------------------------------------------------------------------------------------------------------ runs

    def prepare(self) -> None:
        """Make the folder and prove that it can be written.

        Raises:
            UserError: it cannot, or it holds something else.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".write-{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"The folder {self.path} cannot be written ({error.strerror}): choose another with --out."
            ) from error
        others = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
        if others and not any((self.path / n).exists() for n in ("run.json", "samples")):
            raise UserError(
                f"The folder {self.path} holds other things ({', '.join(sorted(others)[:3])}): "
                "choose an empty or a new folder with --out."
            )

    def runs(self) -> list[dict[str, Any]]:
        """What each run recorded of itself, oldest first.

        Raises:
            UserError: no such folder, no run in it, or a run.json that cannot be read.
        """
        path = self.path / "run.json"
        if not path.is_file():
            raise UserError(f"There is nothing to report in {self.path}: run `toksweep sweep --out {self.path}` first.")
        try:
            runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}): restore it, or run the same sweep again.") from error
        assert isinstance(runs, list)
        return runs

    def add_run(self, run: Mapping[str, object]) -> None:
        """Append a run, under a lock, by replacing run.json as a whole."""
        with self._locked():
            path = self.path / "run.json"
            runs = self.runs() if path.exists() else []
            write_atomically(path, json.dumps({"schema": SCHEMA, "runs": [*runs, run]}, indent=1, ensure_ascii=False))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ----------------------------------------------------------------------------------------------------------- cells

    def cells(self) -> list[Cell]:
        """The cells of all runs. Of one identity the newest run's work stands, with the most samples asked of it."""
        found: dict[tuple[object, ...], Cell] = {}
        for run in reversed(self.runs()):
            for cell in cells_of(run):
                newer = found.get(cell.identity)
                if newer is None or (newer.work_id == cell.work_id and len(cell.sample_ids) > len(newer.sample_ids)):
                    found[cell.identity] = cell
        return sorted(found.values(), key=lambda c: (c.task, c.model or "", c.label, c.budget_value or 0.0, c.seed))

    # --------------------------------------------------------------------------------------------------------- records

    def records(self, work_id: str) -> dict[str, SampleRecord]:
        """The last record of every sample."""
        return {r["sample_id"]: SampleRecord.from_json(r) for r in read_lines(self.path / "samples" / work_id)}

    def sample_writer(self, work_id: str, name: str) -> LineWriter:
        """A writer of sample records. `name` is from `new_writer_name`."""
        return LineWriter(self.path / "samples" / work_id / f"{name}.jsonl")

    def latencies(self, work_id: str) -> list[dict[str, Any]]:
        """What the latency probe measured, oldest first."""
        return list(read_lines(self.path / "latency" / work_id))

    def latency_writer(self, work_id: str, name: str) -> LineWriter:
        """A writer of what the latency probe measured."""
        return LineWriter(self.path / "latency" / work_id / f"{name}.jsonl")

    def feature_writer(self, work_id: str, name: str, space: str) -> FeatureWriter:
        """A writer of the features of one space. `name` is from `new_writer_name`."""
        tag = hashlib.sha256(space.encode()).hexdigest()[:8]
        return FeatureWriter(self.features(work_id, f"{name}-{tag}.f32"))

    def features(self, work_id: str, file: str) -> Path:
        """Where features of the outputs of a work lie."""
        return self.path / "features" / work_id / file

    def output(self, work_id: str, file: str) -> Path:
        """Where an output (a picture or a bit stream) of a work lies."""
        return self.path / "outputs" / work_id / file


def cells_of(run: Mapping[str, Any]) -> Iterator[Cell]:
    """The cells that a run recorded."""
    names = {f.name for f in fields(Cell)}
    for data in run["cells"]:
        values = {k: v for k, v in data.items() if k in names}
        values["metrics"] = tuple(MetricInfo(**run["metrics"][i]) for i in data["metrics"])
        values["sample_ids"] = tuple(run["samples"][data["samples"]])
        yield Cell(**values)


def run_tables(cells: list[Cell]) -> dict[str, object]:
    """The parts `cells`, `metrics` and `samples` of a run: lists that cells share are written once."""
    metrics: dict[MetricInfo, int] = {}
    samples: dict[tuple[str, ...], int] = {}
    rows = []
    for cell in cells:
        row = {f.name: getattr(cell, f.name) for f in fields(Cell) if f.name != "sample_ids"}
        row["metrics"] = [metrics.setdefault(m, len(metrics)) for m in cell.metrics]
        row["samples"] = samples.setdefault(cell.sample_ids, len(samples))
        rows.append(row)
    return {"cells": rows, "metrics": [asdict(m) for m in metrics], "samples": [list(s) for s in samples]}


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    temporary.replace(path)
