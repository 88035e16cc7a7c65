"""Results folders written through the store, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from toksweep.results.records import SampleRecord, Score
from toksweep.results.store import Cell, MetricInfo, ResultsFolder, new_writer_name, run_tables

EXACT = MetricInfo("exact_match", "", True, 0.0, "", "exact_match/v1", "code", "vqa")
ENVIRONMENT = {"libraries": {"torch": "2.8.0"}, "device": "cpu"}


def cell(label: str = "fastv", sample_ids: Sequence[str] = (), **given: object) -> Cell:
    """A compressor's cell at 4 tokens, seed 0."""
    values: dict[str, object] = {
        "model": "tiny/llava", "model_revision": "0123", "method": label.partition("(")[0], "method_params": {},
        "label": label, "kind": "compressor", "floor": False, "verified": None, "budget": "4", "budget_value": 4.0,
        "budget_unit": "tokens", "budget_convention": "mean", "task": "images_qa", "family": "vqa", "subset": "all",
        "seed": 0, "dtype": "float32", "attention": "sdpa", "device": "cpu", "metrics": (EXACT,),
        "sample_ids": tuple(sample_ids),
    } | given  # fmt: skip
    name = "-".join(str(values[k]) for k in ("label", "budget", "task", "seed", "dtype"))
    values.setdefault("work_id", f"work-{name}".replace("/", "_"))
    return Cell(cell_id=f"cell-{name}", **values)  # type: ignore[arg-type]


def record(number: int, score: float | None, **given: object) -> SampleRecord:
    """The record of sample `number`, a cluster of its own, which keeps tokens 0, 5, 6, 7 of 16."""
    values: dict[str, object] = {
        "sample_id": f"s{number:03d}", "cluster_id": f"c{number:03d}", "fingerprint": f"f{number}", "status": "ok",
        "prediction": "red", "tokens_full": 16, "tokens_per_layer": (16, 4, 4), "tokens_kv": 8.0,
        "kept_indices": ([0, 5, 6, 7],), "flops": 1000.0,
    } | given  # fmt: skip
    if score is not None and "scores" not in values:
        values["scores"] = {EXACT.name: Score(EXACT.protocol, EXACT.code, ((score, {}),))}
    return SampleRecord(**values)  # type: ignore[arg-type]


def write_folder(
    path: Path, cells: Sequence[tuple[Cell, Sequence[SampleRecord]]], environment: Mapping[str, object] = ENVIRONMENT
) -> ResultsFolder:
    """A folder of one run whose cells have these records."""
    folder = ResultsFolder(path)
    folder.prepare()
    folder.add_run({"run_id": "r1", **environment, **run_tables([c for c, _ in cells])})
    for one, records in cells:
        writer = folder.sample_writer(one.work_id, new_writer_name())
        for r in records:
            writer.append(r.to_json())
        writer.close()
    return folder


def simple_folder(
    path: Path, records: Sequence[SampleRecord], environment: Mapping[str, object] = ENVIRONMENT, **given: object
) -> ResultsFolder:
    """A folder with one cell of these records."""
    return write_folder(path, [(cell(sample_ids=[r.sample_id for r in records], **given), records)], environment)
