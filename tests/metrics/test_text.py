"""T-ACC and T-NED: TokBench's own strings, the rules of comparison, and real recognisers on real words."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from pictures import jpeg, real
from PIL import Image
from toksweep.harness.contracts import Memo, Metric, Output, Region, Sample, UserError
from toksweep.harness.registry import registry
from toksweep.metrics.backends import ocr
from toksweep.metrics.text import similarity


def build(name: str, backend: str = "rapidocr") -> Metric:
    metric = registry("metrics").get(name).build({"backend": backend})
    assert isinstance(metric, Metric)
    return metric


def samples(folder: Path | None = None) -> list[Sample]:
    found = registry("tasks").get("text").load()(folder)
    assert isinstance(found, list)
    return found


def test_every_stored_score_of_tokbench_is_reproduced() -> None:
    folder = os.environ.get("TOKSWEEP_REFERENCE")
    if not folder:
        pytest.skip("TOKSWEEP_REFERENCE does not name a folder of reference arrays")
    with np.load(Path(folder) / "tokbench_text_instances.npz") as stored:
        pairs = list(zip(stored["pred"].tolist(), stored["gt"].tolist(), strict=True))
        accuracy, ned = stored["accuracy"], stored["ned"]
    ours = np.array([similarity(reading, truth) for reading, truth in pairs])
    assert len(pairs) > 30_000
    assert np.abs(ours - ned).max() < 1e-12
    assert (np.array([ocr.fold(a, "exact") == ocr.fold(b, "exact") for a, b in pairs]) == accuracy).all()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("kitten", "sitting", 1 - 3 / 7), ("", "abc", 0.0), ("", "", 1.0), ("ab", "ba", 0.0), ("same", "same", 1.0)],
)
def test_similarity_is_one_minus_edits_over_the_longer_length(first: str, second: str, expected: float) -> None:
    assert similarity(first, second) == pytest.approx(expected)
    assert similarity(second, first) == pytest.approx(expected)


def test_readings_compare_by_letters_and_digits_without_case() -> None:
    assert ocr.fold("Ａb-9 é中!", "alnum-lower") == "ab9"
    assert ocr.fold("Ab-9", "exact") == "Ab-9"


def test_only_tokbenchs_own_recogniser_compares_exactly() -> None:
    assert [ocr.rule_of(name) for name in ("rapidocr", "easyocr", "tesseract", "doctr")] == ["alnum-lower"] * 3 + [
        "exact"
    ]


def test_the_protocol_names_the_rule_the_version_and_the_weights() -> None:
    protocol = build("t_acc").protocol()
    assert "alnum-lower" in protocol
    assert "rapidocr=3" in protocol
    assert len(protocol.rpartition("weights=")[2]) == 8
    assert protocol == build("t_ned").protocol()


def test_words_below_the_bins_and_words_without_letters_are_not_scored() -> None:
    regions = (
        Region((0, 0, 20, 10), text="ok", slices={"size": "small"}),
        Region((0, 0, 20, 10), text="tiny"),
        Region((0, 0, 20, 10), text="-!-", slices={"size": "small"}),
    )
    sample = Sample("s", "s", (lambda: Image.new("RGB", (64, 64)),), "f", regions=regions)
    metric = build("t_acc")
    assert metric.items(sample) == [{"size": "small"}]
    assert len(metric.score(Output(image=sample.images[0]()), sample, Memo())) == 1


def test_a_word_outside_the_output_is_an_error() -> None:
    region = Region((50, 0, 80, 10), text="word", slices={"size": "small"})
    sample = Sample("s", "s", (lambda: Image.new("RGB", (100, 64)),), "f", regions=(region,))
    with pytest.raises(ValueError, match="outside the picture"):
        build("t_acc").score(Output(image=Image.new("RGB", (64, 64))), sample, Memo())


def test_the_untouched_words_are_read_and_compression_costs_words() -> None:
    metrics, chosen = [build("t_acc"), build("t_ned")], samples()[:4]
    means = {}
    for quality in (None, 10, 3):
        found: dict[str, list[float]] = {"t_acc": [], "t_ned": []}
        for sample in chosen:
            image, memo = sample.images[0](), Memo()
            output = Output(image=image if quality is None else jpeg(image, quality))
            for metric in metrics:
                found[metric.name.partition("[")[0]] += [i.value for i in metric.score(output, sample, memo)]
        means[quality] = {name: mean(values) for name, values in found.items()}
    assert means[None]["t_acc"] > 0.9
    for name in ("t_acc", "t_ned"):
        assert means[None][name] > means[10][name] > means[3][name]
    assert all(m["t_acc"] <= m["t_ned"] for m in means.values())


def test_real_words_are_read_better_the_less_they_are_compressed() -> None:
    folder = real("text")
    chosen = [s for s in samples(folder) if "crop_" in s.id or "icdar" in s.id or "funsd" in s.id]
    metric, total = build("t_ned"), {}
    for quality in (None, 10, 5):
        values: list[float] = []
        for sample in chosen[:14]:
            image = sample.images[0]()
            few = Sample(sample.id, sample.id, sample.images, "f", regions=sample.regions[:20])
            output = Output(image=image if quality is None else jpeg(image, quality))
            values += [i.value for i in metric.score(output, few, Memo())]
        total[quality] = mean(values)
    assert total[None] > 0.75
    assert total[None] > total[10] > total[5]


def test_both_metrics_share_one_recognition() -> None:
    sample, memo = samples()[0], Memo()
    output = Output(image=sample.images[0]())
    build("t_acc").score(output, sample, memo)
    # A reading that is already there is used: the second metric scores without the picture.
    assert len(build("t_ned").score(Output(), sample, memo)) == len(sample.regions)


@pytest.mark.parametrize("backend", ["nosuch", "rapid", ""])
def test_an_unknown_recogniser_is_a_mistake_that_names_the_known_ones(backend: str) -> None:
    with pytest.raises(UserError, match="rapidocr, easyocr, doctr, tesseract"):
        build("t_acc", backend)


def test_a_recogniser_that_is_not_installed_says_how_to_get_it() -> None:
    missing = [s for s in ocr.survey() if s.detail == "not installed"]
    if not missing:
        pytest.skip("every recogniser is installed")
    with pytest.raises(UserError, match=r"not installed: (pip|apt) install"):
        build("t_acc", missing[0].name)
