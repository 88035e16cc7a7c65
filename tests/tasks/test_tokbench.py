"""TokBench's protocol: the square and the way back, what the recogniser is told, the hub, and bad items."""

from __future__ import annotations

import json
import zipfile
from fractions import Fraction
from io import BytesIO
from math import ceil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toksweep.harness.contracts import Region, Sample, UserError
from toksweep.harness.plan import make_plan
from toksweep.harness.registry import registry
from toksweep.harness.runner import run
from toksweep.harness.spec import load_spec
from toksweep.results.aggregate import table
from toksweep.results.store import ResultsFolder
from toksweep.tasks.reconstruction.batches import BATCH, told
from toksweep.tasks.reconstruction.letterbox import Letterbox

NAMES = ("tokbench_text", "tokbench_text_clean", "tokbench_faces", "tokbench_faces_clean", "tokbench_faces_first")
SIDES = (256, 512, 1024)


class Silent:
    """Progress that nobody watches."""

    def start(self, what: str, total: int) -> None: ...

    def advance(self, steps: int = 1) -> None: ...


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def saved(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def text_folder(folder: Path, *names: str, size: tuple[int, int] = (200, 100)) -> Path:
    """A folder in TokBench's format, of white pictures with a word each."""
    words = [{"bbox": [10, 10, 90, 40], "rec": "word", "ratio": 0.05}]
    listed = [{"file_name": n, "width": size[0], "height": size[1], "annotations": words} for n in names]
    for name in names:
        saved(Image.new("RGB", size, "white"), folder / "images" / "text_data" / "ic13" / name)
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / "text_ic13.json").write_text(json.dumps(listed))
    return folder


def load(name: str, folder: Path | None) -> list[Sample]:
    return list(registry("tasks").get(name).load()(folder))


# ---------------------------------------------------------------------------------------------------------- the square


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("size", [(1000, 333), (333, 1000), (256, 256), (100, 7), (1, 50), (641, 480), (49, 49)])
def test_a_picture_stands_centred_on_black_with_both_sides_rounded_up(size: tuple[int, int], side: int) -> None:
    shown = np.asarray(Letterbox(side).show(Image.new("RGB", size, "white")))
    assert shown.shape == (side, side, 3)
    scale = Fraction(side, max(size))
    width, height = (ceil(edge * scale) for edge in size)
    left, top = (side - width) // 2, (side - height) // 2
    expected = np.zeros((side, side, 3), np.uint8)
    expected[top : top + height, left : left + width] = 255
    assert (shown == expected).all()


def test_what_is_shown_is_scaled_by_lanczos_and_so_is_what_comes_back() -> None:
    image, box = noise(300, 200), Letterbox(256)
    small = image.resize((256, 171), Image.Resampling.LANCZOS)
    shown = box.show(image)
    assert (np.asarray(shown.crop((0, 42, 256, 213))) == np.asarray(small)).all()
    back = box.restore(shown, image)
    assert (np.asarray(back) == np.asarray(small.resize((300, 200), Image.Resampling.LANCZOS))).all()


def test_a_square_of_the_right_size_comes_back_as_it_was_unless_it_goes_through_a_jpeg_file() -> None:
    image = noise(256, 256)
    assert (np.asarray(Letterbox(256).restore(Letterbox(256).show(image), image)) == np.asarray(image)).all()
    file = BytesIO()
    image.save(file, "JPEG", quality=75)
    through = Letterbox(256, as_jpeg=True).restore(image, image)
    assert (np.asarray(through) == np.asarray(Image.open(file))).all()


# ------------------------------------------------------------------------------------------------------------ the tasks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", SIDES)
def test_every_size_is_listed_under_its_name(name: str, side: int) -> None:
    entry = registry("tasks").get(f"{name}_{side}")
    arguments = entry.meta["arguments"]
    assert isinstance(arguments, dict)
    assert arguments["side"] == side
    assert arguments.get("clean", False) == ("clean" in name)
    assert ("t_acc" in entry.meta["metrics"]) == (name == "tokbench_text")  # type: ignore[operator]


def test_jpeg_names_become_jpeg_files_only_as_published(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, "a.jpg", "b.png", "c.JPEG")
    published, clean = load("tokbench_text_256", folder), load("tokbench_text_clean_256", folder)
    assert [s.framing for s in published] == [Letterbox(256, True), Letterbox(256), Letterbox(256, True)]
    assert {s.framing for s in clean} == {Letterbox(256)}
    assert {s.protocol for s in published} == {"local copy;letterbox-256;files as named"}
    assert {s.protocol for s in clean} == {"local copy;letterbox-256;lossless files"}
    assert not {s.fingerprint for s in published} & {s.fingerprint for s in clean}


def test_bins_are_those_of_the_square_and_faces_have_the_leaderboards_unless_told_otherwise(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, "a.png", size=(2000, 1000))
    sizes = [load(f"tokbench_text_{side}", folder)[0].regions[0].slices["size"] for side in SIDES]
    assert sizes == ["large", "large", "large"]
    faces = [{"kps": [[1, 1]] * 5, "ratio": r, "box": [0, 0, 50, 50], "gt": []} for r in (0.05, 0.1, 0.2, 0.3)]
    saved(noise(400, 300), tmp_path / "images" / "face_data" / "wflw" / "x.jpg")
    entry = {"image_name": "x.jpg", "img_height": 300, "img_width": 400, "faces": faces}
    (tmp_path / "annotations" / "face_meta.json").write_text(json.dumps([entry]))
    found = {n: [r.slices.get("size") for r in load(n, tmp_path)[0].regions] for n in (
        "tokbench_faces_256", "tokbench_faces_first_256", "tokbench_faces_1024", "tokbench_faces_first_512",
    )}  # fmt: skip
    assert found == {
        "tokbench_faces_256": [None, "small", "medium", "large"],
        "tokbench_faces_first_256": ["small", "medium", "large", "large"],
        "tokbench_faces_1024": ["medium", "large", "large", "large"],
        "tokbench_faces_first_512": ["medium", "medium", "large", "large"],
    }


def sweep(tmp_path: Path, *tasks: str) -> ResultsFolder:
    data = {task: str(tmp_path / "data") for task in tasks}
    flags = {"tasks": list(tasks), "data": data, "methods": ["jpeg"], "budgets": ["1bpp"], "out": str(tmp_path / "out")}
    spec = load_spec(None, flags | {"latency": False})
    folder = ResultsFolder(spec.out)
    folder.prepare()
    plan = make_plan(spec)
    from toksweep.harness.sweep import describe_run

    folder.add_run(describe_run(plan, "test"))
    run(plan, folder, Silent())
    return folder


def test_a_tokenizer_is_given_the_square_and_the_full_size_picture_is_scored(tmp_path: Path) -> None:
    text_folder(tmp_path / "data", "a.png", size=(600, 300))
    folder = sweep(tmp_path, "tokbench_text_256")
    cells = {cell.label: cell for cell in folder.cells()}
    for label, cell in cells.items():
        (record,) = folder.records(cell.work_id).values()
        assert record.pixels == 256 * 256
        assert record.status == "ok", record.error
        assert {info.protocol for info in cell.metrics} == {s.protocol for s in record.scores.values()}
        assert all(
            info.protocol.startswith("local copy;letterbox-256;files as named;truncated") for info in cell.metrics
        )
        assert label == "jpeg" or record.bits == 24 * 256 * 256
    (record,) = folder.records(cells["jpeg"].work_id).values()
    assert record.prediction
    assert Image.open(folder.output(cells["jpeg"].work_id, record.prediction)).size == (256, 256)


# -------------------------------------------------------------------------------------------------------- what is told


def worded(name: str, *texts: str) -> Sample:
    return Sample(name, name, (), f"print of {name}", regions=tuple(Region((0, 0, 9, 9), text=t) for t in texts))


def test_a_word_is_told_the_longest_of_its_batch_whatever_picture_that_is_in() -> None:
    first = worded("first", *["ab"] * (BATCH - 1))
    samples = told([worded("none"), first, worded("second", "abcdefg", "x"), worded("third", *["xyz"] * 3)])
    assert [r.longest for s in samples for r in s.regions] == [7] * BATCH + [3] * 4
    assert samples[0] == worded("none")


def test_a_batch_with_a_sign_that_the_recogniser_does_not_know_is_left_out() -> None:
    samples = told([worded("a", *["ab"] * BATCH), worded("b", "é€", "中"), worded("c", "z")])
    assert [[r.longest for r in s.regions] for s in samples] == [[2] * BATCH, [0, 0], [0]]


def test_another_transcript_of_the_batch_changes_the_fingerprint() -> None:
    one, other = told([worded("a", "ab"), worded("b", "abc")]), told([worded("a", "ab"), worded("b", "abcd")])
    assert one[0].fingerprint != other[0].fingerprint
    assert told([worded("a", "ab"), worded("b", "cba")])[0] == one[0]


def test_batches_do_not_go_from_one_set_to_the_next(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, "a.png")
    saved(Image.new("RGB", (200, 100)), folder / "images" / "text_data" / "tt" / "b.png")
    words = [{"bbox": [10, 10, 90, 40], "rec": "unusually", "ratio": 0.05}]
    entry = {"file_name": "b.png", "width": 200, "height": 100, "annotations": words}
    (folder / "annotations" / "text_tt.json").write_text(json.dumps([entry]))
    assert [r.longest for s in load("tokbench_text_256", folder) for r in s.regions] == [4, 9]


# -------------------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that cannot be reached, with an empty cache."""

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path


def snapshot(folder: Path, pictures: Path) -> Path:
    """What the hub holds: annotations, and the pictures in `images.zip`."""
    made = folder / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    made.mkdir(parents=True)
    (made / "annotations").mkdir()
    for file in (pictures / "annotations").iterdir():
        (made / "annotations" / file.name).write_bytes(file.read_bytes())
    with zipfile.ZipFile(made / "images.zip", "w") as archive:
        for file in (pictures / "images").rglob("*.*"):
            archive.write(file, file.relative_to(pictures))
    return made


def test_without_a_hub_it_says_what_to_give(offline: Path) -> None:
    with pytest.raises(
        UserError, match=r"Junfeng5/TokBench .*no route to host.*--data tokbench_text_256=DIR"
    ) as raised:
        load("tokbench_faces_512", None)
    assert "\n" not in str(raised.value)


def test_the_hubs_pictures_are_unpacked_once_and_their_revision_is_in_the_protocol(
    offline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = snapshot(offline, text_folder(offline / "data", "a.jpg"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(made))
    for _ in range(2):
        (sample,) = load("tokbench_text_256", None)
        assert sample.images[0]().size == (200, 100)
        assert sample.protocol.startswith("Junfeng5/TokBench@0123456789ab;")
        (made / "images.zip").write_bytes(b"not read again")
    assert [p.name for p in (offline / "home" / "toksweep").iterdir()] == [f"tokbench-{made.name}"]


def test_a_broken_archive_of_the_hub_is_a_mistake(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = snapshot(offline, text_folder(offline / "data", "a.jpg"))
    (made / "images.zip").write_bytes(b"torn")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(made))
    with pytest.raises(UserError, match="cannot be unpacked"):
        load("tokbench_text_256", None)
    assert not list((offline / "home" / "toksweep").iterdir())


# ------------------------------------------------------------------------------------------------------------ bad items


def test_bad_items_are_counted_and_the_sweep_goes_on(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "data", "good.png", "gone.png", "small.png", "torn.png", "odd.png")
    pictures = folder / "images" / "text_data" / "ic13"
    (pictures / "gone.png").unlink()
    saved(Image.new("RGB", (20, 10)), pictures / "small.png")
    (pictures / "torn.png").write_bytes((pictures / "good.png").read_bytes()[:60])
    file = folder / "annotations" / "text_ic13.json"
    listed = json.loads(file.read_text())
    listed[4]["annotations"][0]["bbox"] = [210, 10, 290, 40]
    file.write_text(json.dumps([*listed, "nothing"]))
    samples = load("tokbench_text_256", folder)
    assert [r.longest for s in samples for r in s.regions] == [4] * 4  # a missing picture's words are in their batch
    results = sweep(tmp_path, "tokbench_text_256")
    rows = table(results)
    rows = rows[rows["slice"].isna()]
    assert set(rows["n_bad_input"]) == {5}
    assert set(rows["n"]) == {1}
    assert set(rows["status"]) == {"complete"}
    records = results.records(results.cells()[0].work_id).values()
    errors = " ".join(r.error or "" for r in records)
    for said in ("there is no file gone.png", "annotations speak of", "outside the picture of 200x100", "entry 5: not"):
        assert said in errors


def test_a_face_without_its_five_points_is_a_bad_input(tmp_path: Path) -> None:
    saved(noise(400, 300), tmp_path / "images" / "face_data" / "wflw" / "x.png")
    entries = []
    for number in (5, 4):
        faces = [{"kps": [[1, 1]] * number, "ratio": 0.2, "box": [0, 0, 50, 50]}]
        entries.append({"image_name": "x.png", "img_height": 300, "img_width": 400, "faces": faces})
    (tmp_path / "face_meta.json").write_text(json.dumps(entries))
    good, bad = load("tokbench_faces_256", tmp_path)
    assert good.images[0]().size == (400, 300)
    with pytest.raises(ValueError, match=r"entry 1, faces\[0\]: 'kps' has 4 points"):
        bad.images[0]()


def test_what_lies_over_the_edge_is_cut_off_as_tokbench_does(tmp_path: Path) -> None:
    folder = text_folder(tmp_path, "a.png")
    file = folder / "annotations" / "text_ic13.json"
    file.write_text(file.read_text().replace("[10, 10, 90, 40]", "[150, 90.5, 230, 140]"))
    assert load("tokbench_text_256", folder)[0].regions[0].box == (150, 90.5, 200, 100)
