"""Figures of sets through a sweep: features kept beside the records, one figure of them all, nothing taken twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toksweep.cli import app
from toksweep.harness.contracts import Memo, Output, Sample
from toksweep.metrics import sets
from toksweep.metrics.distribution import FrechetDistance
from toksweep.reports.report import report_folder
from toksweep.results.store import ResultsFolder
from typer.testing import CliRunner

PICTURES = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of some colours with noise: codecs change them visibly."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        rng = np.random.default_rng(number)
        ramp = np.linspace(0, 1, 64)[:, None, None] * rng.integers(0, 255, (1, 64, 3))
        noisy = (ramp + rng.normal(0, 12, (64, 64, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:02d}.png")
    return folder


def sweep(pictures: Path, out: Path, *flags: str):
    return CliRunner().invoke(
        app,
        ["sweep", "--task", "photos", "--data", f"photos={pictures}", "--method", "jpeg", "--budget", "3bpp",
         "--budget", "0.1bpp", "--no-latency", "--json", "--out", str(out), *flags],
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(pictures: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("sets") / "out"
    flags = [flag for name in ("fd", "kd", "precision") for flag in ("--metric", name)]
    first, done = sweep(pictures, out), sweep(pictures, out, *flags)
    assert done.exit_code == 0, done.stdout + done.stderr
    return out, json.loads(done.stdout), flags, json.loads(first.stdout)["tally"]


def rows(document, metric: str):
    return {(r["label"], r["budget"]): r for r in document["cells"] if r["metric"] == metric and r["slice"] is None}


def test_a_figure_of_a_set_is_one_figure_of_the_features_of_all_its_pictures(swept, pictures: Path) -> None:
    _, document, *_ = swept
    fd = rows(document, "fd[toksweep-mini]")
    metric, originals, coded = FrechetDistance(), [], []
    for file in sorted(pictures.iterdir()):
        sample = Sample(file.stem, file.stem, (lambda file=file: Image.open(file).convert("RGB"),), "")
        image = sample.images[0]()
        originals.append(metric.features(Output(image=image), sample, Memo())[0])
        out = next((swept[0] / "outputs").glob(f"*/{file.stem}*.jpg"), None)
        assert out is not None
    found = [r for r in fd.values() if r["kind"] == "tokenizer"]
    for row in found:
        files = sorted((swept[0] / "outputs" / row["work_id"]).iterdir())
        coded = [metric.features(Output(image=Image.open(f).convert("RGB")), sample, Memo())[0] for f in files]
        mean = np.mean(coded, 0) - np.mean(originals, 0)
        a, b = (np.cov(np.array(side, dtype=np.float64), rowvar=False) for side in (coded, originals))
        values, vectors = np.linalg.eigh(a)
        root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        cross = np.sqrt(np.linalg.eigvalsh(root @ b @ root).clip(0)).sum()
        assert row["value"] == pytest.approx(mean @ mean + np.trace(a) + np.trace(b) - 2 * cross, rel=1e-3)
        assert (row["n"], row["n_items"], row["n_clusters"]) == (PICTURES, PICTURES, PICTURES)
        assert row["ci_low"] < row["value"] < row["ci_high"]
    assert fd["jpeg", "3bpp"]["value"] < fd["jpeg", "0.1bpp"]["value"]


def test_the_originals_are_the_ceiling_and_the_name_is_never_fid(swept) -> None:
    _, document, *_ = swept
    ceilings = {name: rows(document, f"{name}[toksweep-mini]")["none", None]["value"] for name in ("fd", "precision")}
    assert ceilings["fd"] == pytest.approx(0, abs=1e-4)
    assert ceilings["precision"] == 1.0
    assert not {r["metric"] for r in document["cells"]} & {"rfid", "fid", "kid"}
    noted = {r["metric"] for r in document["cells"] if r["aggregation"]}
    assert noted == {f"{name}[toksweep-mini]" for name in ("fd", "kd", "precision")}


def test_metrics_of_one_network_share_its_features(swept) -> None:
    out, document, *_ = swept
    work = rows(document, "fd[toksweep-mini]")["jpeg", "3bpp"]["work_id"]
    (file,) = (out / "features" / work).iterdir()
    assert file.stat().st_size == 4 * 160 * PICTURES
    records = ResultsFolder(out).records(work).values()
    names = [f"{name}[toksweep-mini]" for name in ("fd", "kd", "precision")]
    assert all(r.scores[name].raw == r.scores[names[0]].raw != () for r in records for name in names)


def test_going_on_takes_no_feature_again_and_a_report_rebuilds_the_figures(swept, pictures: Path) -> None:
    out, document, flags, _ = swept
    before = {f: f.stat().st_mtime_ns for f in (out / "features").rglob("*") if f.is_file()}
    again = sweep(pictures, out, *flags)
    assert json.loads(again.stdout)["tally"]["computed"] == json.loads(again.stdout)["tally"]["scored_again"] == 0
    for kept in (out / "features" / "figures").iterdir():
        kept.unlink()
    page, cells = report_folder(out)
    known = [f for f in before if "figures" not in f.parts]
    assert {f: f.stat().st_mtime_ns for f in known} == {f: before[f] for f in known}
    fd = cells[(cells["metric"] == "fd[toksweep-mini]") & (cells["label"] == "jpeg")].set_index("budget")["value"]
    told = {k[1]: r["value"] for k, r in rows(document, "fd[toksweep-mini]").items() if k[0] == "jpeg"}
    assert dict(fd) == pytest.approx(told, rel=1e-12)
    assert "figures of sets: of 12 pictures, 10000 are usual" in page.read_text()


def test_a_metric_that_is_added_later_needs_no_codec(swept) -> None:
    _, document, _, first = swept
    assert first["computed"] == 3 * PICTURES
    assert (document["tally"]["computed"], document["tally"]["scored_again"]) == (0, 3 * PICTURES)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--metric", "fid"), "Unknown metric 'fid'"),
        (("--metric", "accuracy"), "--metric accuracy is for tasks of vqa"),
        (("--metric", "fd", "--features", "inception"), "The weights of Inception are missing: put https://"),
        (("--metric", "fd", "--features", "dino"), "There is no 'dino' to take features with"),
        (("--metric", "inception_score"), "needs Inception's classes"),
        (("--metric", "lpips"), "The weights of lpips (alex) are missing: put https://"),
        (("--metric", "lpips(net='squeeze')"), "lpips has no network 'squeeze'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    flags: tuple[str, ...], told: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    done = sweep(pictures, tmp_path / "out", *flags)
    assert told in str(done.exception)


def test_every_frame_of_a_clip_is_a_picture_of_the_set() -> None:
    frames = tuple(Image.new("RGB", (20, 10), colour) for colour in ("red", "navy", "red"))
    found = FrechetDistance().features(Output(frames=frames), Sample("s", "s", (), ""), Memo())
    assert found.shape == (3, 160)
    assert (found[0] == found[2]).all() and not (found[0] == found[1]).all()


def test_both_ways_to_a_frechet_distance_agree() -> None:
    rng = np.random.default_rng(0)
    for n, numbers in ((300, 12), (8, 40)):
        a, b = (rng.normal(size=(n, numbers)).astype(np.float32) * (1 + i) for i in range(2))
        assert sets.quick_frechet(a, b) == pytest.approx(sets.frechet(a, b), rel=1e-4)
