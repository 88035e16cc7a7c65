"""Our table of TokBench's released readings is TokBench's own, whatever size of square its bins are of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from result_folders import simple_folder
from toksweep.metrics.text import TextAccuracy, TextSimilarity
from toksweep.results.aggregate import table
from toksweep.results.records import SampleRecord, Score
from toksweep.results.store import MetricInfo
from toksweep.tasks.reconstruction.annotations import word

SCORES = {"t_acc": TextAccuracy, "t_ned": TextSimilarity}
INFOS = tuple(MetricInfo(n, "", True, 0.0, s.mean_over, "p", "c", "reconstruction") for n, s in SCORES.items())


@pytest.fixture(scope="module")
def reference() -> Path:
    folder = os.environ.get("TOKSWEEP_REFERENCE")
    if not folder:
        pytest.skip("TOKSWEEP_REFERENCE does not name a folder of reference arrays")
    return Path(folder)


@pytest.fixture(scope="module")
def instances(reference: Path) -> list[tuple[str, str, float, int, float, float]]:
    """Transcript, reading, ratio and set of every word, and its scores by our metrics."""
    with np.load(reference / "tokbench_text_instances.npz") as stored:
        words = zip(*(stored[n].tolist() for n in ("gt", "pred", "ratio", "dataset_id")), strict=True)
        return [
            (truth, reading, ratio, which, *(m.compare(None, reading, truth) for m in SCORES.values()))  # type: ignore
            for truth, reading, ratio, which in words
        ]


@pytest.mark.parametrize("side", [256, 512, 1024])
def test_the_released_readings_come_to_tokbenchs_table(
    reference: Path, instances: list[tuple[str, str, float, int, float, float]], side: int, tmp_path: Path
) -> None:
    expected = json.loads((reference / "tokbench_tables.json").read_text())["results"][0]["tables"][str(side)]
    records = []
    for number, start in enumerate(range(0, len(instances), 64)):
        items: dict[str, list[tuple[float, dict[str, str]]]] = {name: [] for name in SCORES}
        for truth, _, ratio, _, *values in instances[start : start + 64]:
            slices = dict(word(truth, (0, 0, 1, 1), side, ratio, side).slices)
            if slices:
                for name, value in zip(SCORES, values, strict=True):
                    items[name].append((value, slices))
        scores = {name: Score("p", "c", tuple(found)) for name, found in items.items()}
        records.append(SampleRecord(f"s{number}", f"c{number}", "f", "ok", scores=scores))
    folder = simple_folder(tmp_path, records, metrics=INFOS, kind="tokenizer", family="reconstruction", model=None)
    rows = table(folder)
    for name, key in (("t_acc", "T_ACC"), ("t_ned", "T_NED")):
        own = rows[rows["metric"] == name]
        found = {r["slice"]: r for r in own.assign(slice=own["slice"].fillna("all")).to_dict("records")}
        bins = [found[f"size={size}"] for size in expected["bins"]]
        assert [b["n_items"] for b in bins] == expected["count"]
        assert [b["value"] for b in bins] == pytest.approx(expected[key], abs=1e-9)
        headline = found["all"]
        assert headline["value"] == pytest.approx(expected[f"{key}_mean_of_bins"], abs=1e-9)
        assert headline["n_items"] == len(instances) - expected["below_first_edge"]


def test_all_instances_have_tokbenchs_means(
    reference: Path, instances: list[tuple[str, str, float, int, float, float]]
) -> None:
    expected = json.loads((reference / "tokbench_tables.json").read_text())["results"][0]
    values = np.array([i[4:] for i in instances])
    assert len(values) == expected["instances"] == 36_087
    means = [expected["accuracy_all_instances"], expected["ned_all_instances"]]
    assert values.mean(0) == pytest.approx(means, abs=1e-9)
    order = [str(n) for n in np.load(reference / "tokbench_text_instances.npz")["dataset"]]
    which = np.array([i[3] for i in instances])
    for number, name in enumerate(order):
        told = expected["per_dataset"][name]
        assert values[which == number].mean(0) == pytest.approx([told["accuracy"], told["ned"]], abs=1e-9)
