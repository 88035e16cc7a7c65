"""Face metrics: real embeddings on known boxes, aligned once, by dlib and by an ArcFace-shaped network."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from pictures import jpeg, real
from PIL import Image
from toksweep.harness.contracts import Memo, Metric, Output, Region, Sample, UserError
from toksweep.harness.registry import registry
from toksweep.metrics.backends import faces as backend
from toksweep.metrics.backends import survey


def build(name: str, **parameters: object) -> Metric:
    metric = registry("metrics").get(name).build(parameters)
    assert isinstance(metric, Metric)
    return metric


def samples(folder: Path | None = None) -> list[Sample]:
    found = registry("tasks").get("faces").load()(folder)
    assert isinstance(found, list)
    return found


def distances(chosen: list[Sample], quality: int | None) -> list[float]:
    metric, values = build("face_distance"), []
    for sample in chosen:
        image = sample.images[0]()
        output = Output(image=image if quality is None else jpeg(image, quality))
        values += [i.value for i in metric.score(output, sample, Memo())]
    return values


def test_a_face_is_at_no_distance_from_itself_and_farther_the_more_it_is_compressed() -> None:
    chosen = [s for s in samples() if s.id in ("t1-face0", "astronaut-512", "grace_hopper-256")]
    clean, fair, bad = (distances(chosen, q) for q in (None, 10, 5))
    assert clean == [0.0, 0.0, 0.0]
    assert 0 < mean(fair) < mean(bad) < 1.5


def test_real_faces_go_farther_the_more_they_are_compressed() -> None:
    chosen = samples(real("faces"))[:6]
    fair, bad = distances(chosen, 10), distances(chosen, 5)
    assert 0.05 < mean(fair) < mean(bad)


def test_the_same_person_is_nearer_than_another() -> None:
    by_id = {s.id: s for s in samples()}
    hopper, astronaut = by_id["grace_hopper-face0"], by_id["astronaut-face0"]
    other = Output(image=astronaut.images[0]())
    metric = build("face_distance")
    own = metric.score(Output(image=by_id["grace_hopper-face0"].images[0]()), hopper, Memo())[0].value
    assert own < 0.6 < metric.score(other, hopper, Memo())[0].value


def test_similarity_is_one_for_the_same_face_and_falls_with_compression() -> None:
    sample = next(s for s in samples() if s.id == "astronaut-256")
    metric, image = build("face_similarity"), sample.images[0]()
    values = [metric.score(Output(image=i), sample, Memo())[0].value for i in (image, jpeg(image, 10), jpeg(image, 3))]
    assert values[0] == pytest.approx(1.0)
    assert values[0] > values[1] > values[2]


def test_distance_and_similarity_agree_on_the_law_of_cosines() -> None:
    sample = next(s for s in samples() if s.id == "astronaut-256")
    embedder = backend.load("dlib")
    (ours, original), *_ = embedder.pairs(Output(image=jpeg(sample.images[0](), 8)), sample, sample.regions)
    a, b = np.linalg.norm(ours), np.linalg.norm(original)
    output, memo = Output(image=jpeg(sample.images[0](), 8)), Memo()
    distance = build("face_distance").score(output, sample, memo)[0].value
    cosine = build("face_similarity").score(output, sample, memo)[0].value
    assert distance**2 == pytest.approx(a * a + b * b - 2 * a * b * cosine, abs=1e-9)


def test_faces_below_the_smallest_bin_are_not_scored() -> None:
    small = Region((0, 0, 5, 5))
    sample = Sample("s", "s", (lambda: Image.new("RGB", (64, 64)),), "f", regions=(small,))
    metric = build("face_distance")
    assert metric.items(sample) == []
    assert metric.score(Output(image=Image.new("RGB", (64, 64))), sample, Memo()) == []


def test_the_protocol_names_the_version_and_both_weights() -> None:
    assert build("face_distance").protocol().startswith("original-alignment;dlib=20.")
    assert len(build("face_distance").protocol().rpartition("weights=")[2]) == 17


def test_an_unknown_embedder_is_a_mistake_that_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="dlib, insightface"):
        build("face_distance", backend="nosuch")


def test_restricted_weights_are_not_fetched_without_their_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="--accept-licence antelopev2"):
        build("face_similarity", backend="insightface")
    assert not list(tmp_path.iterdir())


def arcface_shaped(path: Path) -> None:
    """A network with ArcFace's input and output and fixed random weights: pooled pixels to 16 numbers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(3).normal(size=(3 * 64, 16)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["in"], ["pooled"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["out"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def test_an_installed_arcface_pack_scores_by_key_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2", reason="insightface needs OpenCV", exc_type=ImportError)
    monkeypatch.setenv("HOME", str(tmp_path))
    arcface_shaped(tmp_path / ".insightface" / "models" / "antelopev2" / "antelopev2" / "glintr100.onnx")
    backend.load.cache_clear()
    metric = build("face_similarity", backend="insightface")
    sample = next(s for s in samples() if s.id == "t1-512")
    image = sample.images[0]()
    values = [[i.value for i in metric.score(Output(image=i), sample, Memo())] for i in (image, jpeg(image, 4))]
    assert values[0] == pytest.approx([1.0] * 6)
    assert all(-1 <= v < 0.9999 for v in values[1])
    assert metric.name == "f_sim"
    assert build("face_distance", backend="insightface").name == "face_distance[insightface]"
    boxed = Sample("b", "b", sample.images, "g", regions=(Region((10, 10, 90, 90), slices={"size": "large"}),))
    with pytest.raises(UserError, match="five key points"):
        metric.score(Output(image=image), boxed, Memo())
    backend.load.cache_clear()


def test_the_survey_lists_every_backend_and_how_to_get_it() -> None:
    found = {s.name: s for s in survey()}
    assert set(found) == {"rapidocr", "easyocr", "doctr", "tesseract", "dlib", "insightface", "insightface:buffalo_l"}
    assert found["rapidocr"].ready
    assert found["dlib"].ready
    assert all(s.how_to_get and s.detail for s in found.values())
