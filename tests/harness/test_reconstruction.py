"""The engine under tokenizers: fixed and variable rates, networks with weights, clips, and what is kept of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from toksweep.cli import app
from toksweep.harness.reconstruction import _cut_up, _strip
from toksweep.harness.registry import registry
from toksweep.reports.baseline import make_baseline
from toksweep.reports.comparison import compare
from toksweep.reports.regression import check
from toksweep.results.aggregate import write_cells
from toksweep.results.store import ResultsFolder
from typer.testing import CliRunner

TOY = '''
from dataclasses import dataclass

from toksweep.harness.contracts import Budget, Codes, Memo, Refusal, Spent
from toksweep.harness.registry import tokenizer


@tokenizer("toy", budget_units=("tokens", "percent"), network=True)
@dataclass(frozen=True)
class Toy:
    """Means of so many columns; 8 bits for each of three channels of each."""

    levels: int = 0
    crops: bool = False

    @property
    def variable(self) -> bool:
        return not self.levels

    def check(self, budget: Budget) -> None:
        if budget.unit == "tokens" and budget.value > 16:
            raise Refusal(f"toy has 16 tokens at most, not {budget.text}")

    def revision(self) -> str:
        return "1"

    def load(self, device: str, dtype: str) -> "Loaded":
        return Loaded(self)


class Loaded:
    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def encode(self, image, budget: Budget, memo: Memo) -> Codes:
        count = self.toy.levels or budget.tokens(16, capped=True)
        small = image.resize((count, 1))
        return Codes(b"", "", 24 * count, tokens=count, full_tokens=16, payload=(small, image.size))

    def decode(self, codes: Codes):
        small, (width, height) = codes.payload
        return small.resize((width - self.toy.crops, height))

    def flops(self, size, codes: Codes) -> Spent:
        return Spent(100.0, 10.0 * codes.tokens)
'''


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("toy") / "toy.py"
    path.write_text(TOY)
    return str(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


def sweep(folder: Path, *methods: str, flags: tuple[str, ...] = ()) -> tuple[ResultsFolder, str]:
    out = folder.parent / "out"
    chosen = [flag for method in methods for flag in ("--method", method)]
    result = CliRunner().invoke(
        app,
        ["sweep", "--task", "photos", "--data", f"photos={folder}", "--budget", "8", "--budget", "50%", "--budget",
         "17", "--no-latency", "--json", "--out", str(out), *chosen, *flags],
    )  # fmt: skip
    assert result.exit_code == 0, result.stdout + result.stderr
    return ResultsFolder(out), result.stdout


def test_a_variable_rate_has_a_cell_per_budget_and_a_fixed_one_a_single_cell(pictures: Path, toy: str) -> None:
    out, told = sweep(pictures, toy, f"{toy}(levels=4)")
    spent = {(c.label, c.budget): [*out.records(c.work_id).values()] for c in out.cells() if c.kind == "tokenizer"}
    assert {k: r[0].tokens for k, r in spent.items()} == {
        ("toy", "8"): 8,
        ("toy", "50%"): 8,
        ("toy(levels=4)", None): 4,
    }
    record = spent["toy", "8"][0]
    assert (record.tokens_full, record.bits, record.pixels) == (16, 8 * 24, 24 * 32)
    assert (record.flops, record.flops_decode) == (180.0, 80.0)
    assert {(c.device, c.dtype) for c in out.cells()} == {("cpu", "float32")}  # a codec beside it shares its figures
    assert "toy has 16 tokens at most, not 17" in told


def test_a_round_trip_of_another_size_fails_the_sample_and_says_so(pictures: Path, toy: str) -> None:
    out, _ = sweep(pictures, f"{toy}(crops=True)")
    records = [r for c in out.cells() if c.kind == "tokenizer" for r in out.records(c.work_id).values()]
    assert {r.error for r in records} == {"ValueError: decoded 31x24 pixels of 32x24"}


def test_what_is_kept_of_a_network_is_scored_again_without_it(
    pictures: Path, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = sweep(pictures, toy)
    before = {c.work_id: out.records(c.work_id) for c in out.cells()}
    for path in out.path.glob("samples/*/*.jsonl"):  # as if a metric's code had changed
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            line["scores"]["psnr"]["code"] = "older"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def loaded(*_: object) -> None:
        raise ValueError("the network was loaded")

    monkeypatch.setattr(registry("methods").get(toy).load(), "load", loaded)
    out, _ = sweep(pictures, toy)
    assert {c.work_id: out.records(c.work_id) for c in out.cells()} == before


def test_the_frames_that_are_kept_of_a_clip_are_all_of_them(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "red", "navy")]
    assert [np.asarray(f).tolist() for f in _cut_up(_saved(tmp_path, _strip(frames)), 3)] == [
        np.asarray(f).tolist() for f in frames
    ]


def _saved(folder: Path, data: bytes) -> Path:
    path = folder / "strip.png"
    path.write_bytes(data)
    return path


def test_codecs_below_their_lowest_rate_say_what_it_is(tmp_path: Path) -> None:
    """384 bytes for 256 x 256 pixels, One-D-Piece's longest code: only JPEG 2000 gets there."""
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    Image.fromarray(skimage.data.astronaut()[::2, ::2]).save(folder / "a.png")
    codecs = ("jpeg", "webp", "avif", "jpeg2000")
    flags = [flag for name in codecs for flag in ("--method", name)]
    given = ["--task", "photos", "--data", f"photos={folder}", "--budget", "0.046875bpp", "--no-latency"]
    assert CliRunner().invoke(app, ["sweep", *given, *flags, "--out", str(out)]).exit_code == 0
    table = write_cells(ResultsFolder(out))
    cells = {r["label"]: r for r in table[table["metric"] == "psnr"].to_dict("records") if r["kind"] == "tokenizer"}
    for name in codecs[:3]:
        assert (cells[name]["status"], cells[name]["n_infeasible"]) == ("infeasible", 1)
        assert cells[name]["lowest_rate"] == cells[name]["bits_per_pixel"] > 0.046875
        told = f"1 above the budget at the lowest rate; all fit from {cells[name]['lowest_rate']:.3f} bpp"
        assert told in (out / "report" / "index.html").read_text()
    assert cells["jpeg2000"]["status"] == "complete"
    assert cells["jpeg2000"]["bits_per_pixel"] <= 0.046875


def test_a_cell_without_a_budget_is_reported_compared_and_checked(pictures: Path, toy: str) -> None:
    out, _ = sweep(pictures, toy, f"{toy}(levels=4)", flags=("--metric", "fd"))
    page = (out.path / "report" / "index.html").read_text()
    assert "fixed rate" in page and "FLOPs, decode" in page and "FLOPs to first token" not in page
    figures = {f.name for f in (out.path / "report" / "figures").glob("*psnr*.svg")}
    assert figures == {f"photos-all-psnr-{c}.svg" for c in ("bits_per_pixel", "tokens_mean", "flops", "flops_decode")}
    found = {r["metric"]: r for r in compare(out, "toy(levels=4)", "toy@8")}
    assert (found["psnr"]["n"], found["psnr"]["verdict"]) == (2, "illustrative")
    assert found["fd[toksweep-mini]"]["note"].startswith("one figure of the set")
    checked = check(out, make_baseline(out))
    assert checked.exit_code == 0
    assert {f.what for f in checked.findings} == {
        "has fd[toksweep-mini], one figure of the set, which is not compared: what it rests on is, by sample"
    }
