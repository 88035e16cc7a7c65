"""The committed file that a regression check compares with: what every cell spent, kept and scored, by sample."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..harness.contracts import UserError
from ..results.records import SampleRecord
from ..results.sets import is_set
from ..results.store import Cell, MetricInfo, ResultsFolder, write_atomically
from .pairing import bins_of

SCHEMA = 1


def make_baseline(folder: ResultsFolder) -> dict[str, Any]:
    """A JSON-ready baseline of all cells of a folder.

    Raises:
        UserError: nothing has been scored in the folder, or a cell stands in it under several settings.
    """
    cells = [_cell(folder, cell) for cell in folder.cells()]
    cells = [c for c in cells if c["samples"]]
    if not cells:
        raise UserError(f"Nothing has been scored in {folder.path}: run `toksweep sweep --out {folder.path}` first.")
    for name, times in Counter(c["key"] for c in cells).items():
        if times > 1:
            raise UserError(f"{folder.path} holds {name} under several dtypes, kernels or devices: use two folders.")
    return {"schema": SCHEMA, "environment": environment(folder), "cells": cells}


def environment(folder: ResultsFolder) -> dict[str, Any]:
    """What decides whether figures must be equal to the last bit: library versions and device of the newest run."""
    run = folder.runs()[-1]
    return {"libraries": dict(run.get("libraries") or {}), "device": run.get("device")}


def write_baseline(baseline: Mapping[str, Any], path: Path) -> None:
    """Write a baseline with one line per cell, so that a changed cell is a changed line.

    Raises:
        UserError: the file cannot be written.
    """
    head = {k: v for k, v in baseline.items() if k != "cells"}
    lines = [json.dumps(c, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for c in baseline["cells"]]
    text = json.dumps(head, sort_keys=True, ensure_ascii=False)[:-1] + ',\n"cells": [\n' + ",\n".join(lines) + "\n]}\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(
            f"The baseline {path} cannot be written ({error.strerror}): give another --baseline."
        ) from error


def read_baseline(path: Path) -> dict[str, Any]:
    """Read what `write_baseline` wrote.

    Raises:
        UserError: no such file, or one that is no baseline of this schema; the message names the mend.
    """
    mend = "write it with `toksweep check DIR --baseline FILE --update-baseline`"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The baseline {path} cannot be read ({error.strerror}): {mend}.") from error
    except ValueError as error:
        raise UserError(f"The baseline {path} is not JSON ({error}): {mend}.") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not _is_sound(data):
        raise UserError(f"The baseline {path} is not one of schema {SCHEMA}: {mend}.")
    return data


def _is_sound(data: Mapping[str, Any]) -> bool:
    cells = data.get("cells")
    return (
        isinstance(data.get("environment"), dict)
        and isinstance(cells, list)
        and all(_holds(c, {"key", "setting", "metrics", "samples"}) for c in cells)
        and all(_holds(s, {"cluster", "input", "status", "scores"}) for c in cells for s in c["samples"].values())
    )


def _holds(part: object, keys: set[str]) -> bool:
    return isinstance(part, dict) and keys <= part.keys()


# --------------------------------------------------------------------------------------------------------------- cells


def _cell(folder: ResultsFolder, cell: Cell) -> dict[str, Any]:
    stored = folder.records(cell.work_id)
    metrics = {m.name: m for m in cell.metrics}
    return {
        "key": key(cell),
        "setting": [cell.dtype, cell.attention, cell.device],
        "metrics": {m.name: _about(m) for m in cell.metrics},
        "samples": {
            i: _sample(stored[i], {n: metrics[n].mean_over for n in metrics}) for i in cell.sample_ids if i in stored
        },
    }


def _about(metric: MetricInfo) -> dict[str, Any]:
    about: dict[str, Any] = {"protocol": metric.protocol, "higher_is_better": metric.higher_is_better}
    return about | ({"of_set": True} if is_set(metric) else {})


def key(cell: Cell) -> str:
    """What names a cell across machines: everything that makes it a point, apart from where it ran.

    A model in a folder goes by the folder's name, since its place differs between machines.
    """
    budget = f"@{cell.budget}" if cell.budget else ""
    convention = f" ({cell.budget_convention})" if cell.budget_convention else ""
    local = cell.model is not None and PurePath(cell.model).is_absolute()
    model = f" with {PurePath(cell.model).name if local else cell.model}" if cell.model else ""
    return f"{cell.label}{budget}{convention} on {cell.task}{model}, seed {cell.seed}"


def _sample(record: SampleRecord, mean_over: Mapping[str, str]) -> dict[str, Any]:
    scores = {}
    for name, score in record.scores.items():
        if name in mean_over:
            items = [(v, dict(s)) for v, s in score.items]
            bins = bins_of(items, mean_over[name])
            scores[name] = {b: [float(f"{total:.8g}"), count] for b, (total, count) in bins.items()}
    found: dict[str, Any] = {
        "cluster": record.cluster_id,
        "input": hashlib.sha256(record.fingerprint.encode()).hexdigest()[:8],
        "status": record.status,
        "scores": scores,
        "tokens": list(record.tokens_per_layer) if record.tokens_per_layer is not None else None,
        "kept": [pack(stage) for stage in record.kept_indices] if record.kept_indices is not None else None,
        "bits": record.bits,
        "flops": record.flops,
    }
    return {k: v for k, v in found.items() if v is not None}


def pack(indices: object) -> str:
    """Indices in their order as text, runs shortened: [3, 7, 8, 9] is `3,7:9`; merged rows are parted by `;`."""
    assert isinstance(indices, Sequence)
    if any(isinstance(i, Sequence) for i in indices):
        return ";".join(pack(part) for part in indices)
    runs: list[list[int]] = []
    for index in indices:
        number = int(index)
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in runs)


def unpack(text: str) -> set[tuple[int, int]]:
    """What `pack` wrote as a set: (0, index) for each token kept, (first member, member) for each member of a merge."""
    rows = [_members(row) for row in text.split(";")]
    if len(rows) == 1:
        return {(0, index) for index in rows[0]}
    return {(row[0], index) for row in rows for index in row}


def _members(packed: str) -> list[int]:
    found: list[int] = []
    for run in filter(None, packed.split(",")):
        first, _, last = run.partition(":")
        found += range(int(first), int(last or first) + 1)
    return found
