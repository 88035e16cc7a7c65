"""TokBench's recogniser: our batches of crops read what docTR reads of TokBench's, told or not, with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_parseq import random_parseq
from toksweep.harness.contracts import Memo, Metric, Output, Sample, UserError
from toksweep.harness.registry import registry
from toksweep.metrics.backends import ocr
from toksweep.metrics.backends.parseq import Parseq, fit
from toksweep.tasks.reconstruction.batches import BATCH, SIGNS

doctr = pytest.importorskip("doctr", reason="python-doctr is not installed: pip install python-doctr")
torch = pytest.importorskip("torch")

WORDS = 20


@pytest.fixture(scope="module", autouse=True)
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("doctr")
    random_parseq(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCTR_CACHE_DIR", str(folder))
        patch.setattr("doctr.utils.data._check_integrity", lambda *_: True)  # random weights have another digest
        ocr.reader.cache_clear()
        yield
    ocr.reader.cache_clear()


def text_samples() -> list[Sample]:
    return list(registry("tasks").get("text").load()(None))


@pytest.fixture(scope="module")
def crops() -> list[Image.Image]:
    found = []
    for sample in text_samples():
        image = sample.images[0]()
        found += [image.crop(tuple(int(edge) for edge in region.box)) for region in sample.regions]
    return found[:WORDS]


@pytest.fixture(scope="module")
def features(crops: list[Image.Image]) -> torch.Tensor:
    return ocr.parseq().encode(crops)


def prepared(crops: list[Image.Image]) -> torch.Tensor:
    """As TokBench's loader prepares them: docTR's own resize, then its normalisation."""
    from doctr.transforms import Resize
    from doctr.utils import Sample as Shown
    from torchvision.transforms import Normalize
    from torchvision.transforms.functional import to_tensor

    config, resize = ocr.parseq()._model.cfg, Resize((32, 128), preserve_aspect_ratio=True)
    batch = torch.stack([resize(Shown(image=to_tensor(crop))).image for crop in crops])
    return Normalize(config["mean"], config["std"])(batch)


def theirs(crops: list[Image.Image], targets: list[str] | None) -> list[str]:
    """The readings of docTR's model, called as TokBench calls it."""
    reader = ocr.parseq()
    reader._model.max_length = reader._longest
    with torch.inference_mode():
        return [text for text, _ in reader._model(prepared(crops), targets, return_preds=True)["preds"]]


@pytest.mark.parametrize("lengths", [(3, 1, 6), (11, 4), (32, 2)])
def test_words_are_read_as_doctr_reads_them_when_told_their_transcripts(
    crops: list[Image.Image], features: torch.Tensor, lengths: tuple[int, ...]
) -> None:
    size = WORDS // len(lengths)
    longest, expected = [], []
    for number, length in enumerate(lengths):
        part = crops[number * size : (number + 1) * size]
        expected += theirs(part, ["a", "b" * length, *["c"] * (len(part) - 2)])
        longest += [length] * len(part)
    ours = ocr.parseq().decode(features[: len(longest)], longest)
    assert ours == expected
    assert all(len(text) <= n + 1 for text, n in zip(ours, longest, strict=True))


def test_readings_end_at_many_lengths_and_are_cut_when_told(features: torch.Tensor) -> None:
    untold, told = ocr.parseq().decode(features), ocr.parseq().decode(features, [4] * WORDS)
    assert len({len(text) for text in untold}) > 5
    assert any(len(a) > 5 for a in untold)
    assert any(a != b for a, b in zip(untold, told, strict=True))
    assert any(a == b and a for a, b in zip(untold, told, strict=True))


def test_what_is_not_told_is_read_as_doctr_reads_it(crops: list[Image.Image], features: torch.Tensor) -> None:
    assert ocr.parseq().decode(features) == theirs(crops, None)


def test_a_reading_does_not_depend_on_its_neighbours(crops: list[Image.Image], features: torch.Tensor) -> None:
    reader = ocr.parseq()
    some = [0, 5, 9, 13]
    together = reader.decode(features, [6] * WORDS)
    assert [reader.decode(reader.encode([crops[i]]), [6])[0] for i in some] == [together[i] for i in some]
    assert reader.decode(features.flip(0), [6] * WORDS)[::-1] == together
    assert reader.read([]) == []


@pytest.mark.parametrize("size", [(1, 1), (128, 32), (64, 16), (7, 300), (301, 7), (49, 12), (43, 97), (100, 26)])
def test_crops_are_fitted_as_doctr_fits_them(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    crop = Image.fromarray(noise)
    config = ocr.parseq()._model.cfg
    from torchvision.transforms.functional import normalize

    assert torch.equal(normalize(fit(crop, 32, 128), config["mean"], config["std"]), prepared([crop])[0])


def test_the_signs_are_those_of_the_recogniser() -> None:
    from doctr.datasets import VOCABS

    assert set(VOCABS["french"]) == SIGNS == set(ocr.parseq()._model.vocab)


def build(name: str) -> Metric:
    metric = registry("metrics").get(name).build({"backend": "doctr"})
    assert isinstance(metric, Metric)
    return metric


def test_plain_names_are_told_and_the_others_say_that_they_are_not() -> None:
    named = {name: build(name) for name in ("t_acc", "t_ned", "t_acc_untold", "t_ned_untold")}
    assert [m.name for m in named.values()] == ["t_acc", "t_ned", "t_acc[doctr-untold]", "t_ned[doctr-untold]"]
    told, untold = named["t_acc"].protocol(), named["t_acc_untold"].protocol()
    assert told.startswith(f"truncated-box;exact;told the longest of {BATCH};doctr=")
    assert untold == told.replace(f"told the longest of {BATCH}", "untold")


def test_metrics_score_both_ways_from_one_look_and_leave_out_what_tokbench_leaves_out() -> None:
    sample = text_samples()[0]
    left_out = replace(sample.regions[0], longest=0)
    sample = replace(sample, regions=(left_out, *(replace(r, longest=3) for r in sample.regions[1:3])))
    memo, output = Memo(), Output(image=sample.images[0]())
    told = build("t_ned").score(output, sample, memo)
    untold = build("t_ned_untold").score(Output(), sample, memo)  # the picture has been looked at
    assert (len(told), len(untold)) == (2, 3)
    assert build("t_ned").items(sample) == [i.slices for i in told]
    words = [region.text or "" for region in sample.regions[1:]]
    readings = ocr.parseq().decode(memo.once("parseq", lambda: pytest.fail("looked at again")), [0, 3, 3])[1:]
    from toksweep.metrics.text import similarity

    assert [i.value for i in told] == [similarity(a, b) for a, b in zip(readings, words, strict=True)]


def test_a_sweep_of_tokbench_has_both_columns(tmp_path: Path) -> None:
    from toksweep.harness.plan import make_plan
    from toksweep.harness.spec import load_spec

    (tmp_path / "annotations").mkdir()
    (tmp_path / "images" / "text_data" / "tt").mkdir(parents=True)
    text_samples()[0].images[0]().save(tmp_path / "images" / "text_data" / "tt" / "a.png")
    words = [{"bbox": [10, 10, 90, 40], "rec": "word", "ratio": 0.05}]
    listed = [{"file_name": "a.png", "width": 256, "height": 256, "annotations": words}]
    (tmp_path / "annotations" / "text_tt.json").write_text(json.dumps(listed))
    told = ["t_acc", "t_ned"]
    untold = [f"{name}[doctr-untold]" for name in told]
    tasks = {"tokbench_text_512": told + untold, "tokbench_text_clean_512": untold}
    for task, names in tasks.items():
        asked = {"tasks": [task], "data": {task: str(tmp_path)}, "ocr": "doctr"}
        plan = make_plan(load_spec(None, asked | {"methods": ["jpeg"], "budgets": ["1bpp"]}))
        infos = plan.cells[0].metrics
        assert [m.name for m in infos] == names
        files = "lossless files" if "clean" in task else "files as named"
        for info in infos:
            said = "told the longest of 64" if info.name in told else "untold"
            assert info.protocol.startswith(f"local copy;letterbox-512;{files};truncated-box;exact;{said};doctr=")


def test_a_task_that_does_not_say_what_is_told_is_a_mistake() -> None:
    sample = text_samples()[0]
    sample = replace(sample, regions=tuple(replace(r, longest=None) for r in sample.regions[:1]))
    with pytest.raises(UserError, match="t_acc_untold"):
        build("t_acc").score(Output(image=sample.images[0]()), sample, Memo())


def test_other_weights_than_tokbenchs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from doctr.models.recognition.parseq import pytorch as module

    other = {**module.default_cfgs["parseq"], "url": "https://host/parseq-00000000.pt"}
    monkeypatch.setitem(module.default_cfgs, "parseq", other)
    with pytest.raises(UserError, match="parseq-56125471"):
        Parseq()
