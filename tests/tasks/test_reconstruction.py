"""The picture tasks: their own samples, users' folders in two formats, and what is wrong with such folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from pictures import real
from PIL import Image
from toksweep.harness.contracts import Sample, UserError
from toksweep.harness.registry import registry
from toksweep.tasks.reconstruction.annotations import FACE, TEXT, size_slices
from toksweep.tasks.reconstruction.sources import installed, photographs

TASKS = ("photos", "text", "faces")
SPLIT = Path(installed.__code__.co_filename).parent / "split.json"


def load(name: str, folder: Path | None = None) -> list[Sample]:
    found = registry("tasks").get(name).load()(folder)
    assert isinstance(found, list)
    return found


def picture(path: Path, size: tuple[int, int] = (200, 100)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)
    return path


def annotate(folder: Path, *records: object) -> Path:
    picture(folder / "a.png")
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


WORD = {"box": [10, 10, 50, 30], "text": "word"}
RECORD = {"file": "a.png", "width": 200, "height": 100}


# ------------------------------------------------------------------------------------------------------------ own data


def test_no_source_picture_is_on_both_sides_of_the_split() -> None:
    sides = [{p.source for p in photographs(side)} for side in ("evaluation", "training")]
    assert sides[0]
    assert len(sides[1]) >= 8
    assert not sides[0] & sides[1]


def test_no_photograph_has_the_bytes_of_another() -> None:
    listed = json.loads(SPLIT.read_text(encoding="utf-8"))["photographs"]
    assert len({p["sha256"] for p in listed}) == len(listed) == len({p["file"] for p in listed})
    assert all(p["licence"] for p in listed)


def test_installed_photographs_are_those_that_were_split() -> None:
    listed = json.loads(SPLIT.read_text(encoding="utf-8"))["photographs"]
    assert all(hashlib.sha256(installed(p["file"]).read_bytes()).hexdigest() == p["sha256"] for p in listed)


@pytest.mark.parametrize("name", TASKS)
def test_own_samples_show_evaluation_photographs_only(name: str) -> None:
    allowed = {p.source for p in photographs("evaluation")}
    assert {s.cluster_id for s in load(name)} <= allowed


@pytest.mark.parametrize("name", TASKS)
def test_samples_are_the_same_at_every_listing_and_differ_from_each_other(name: str) -> None:
    once, again = load(name), load(name)
    assert [(s.id, s.fingerprint, s.regions) for s in once] == [(s.id, s.fingerprint, s.regions) for s in again]
    assert len({s.id for s in once}) == len({s.fingerprint for s in once}) == len(once)


@pytest.mark.parametrize("name", TASKS)
def test_pictures_are_rgb_repeat_exactly_and_hold_their_regions(name: str) -> None:
    for sample in load(name)[::3]:
        image = sample.images[0]()
        assert image.mode == "RGB"
        assert (np.asarray(image) == np.asarray(sample.images[0]())).all()
        for region in sample.regions:
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= image.width
            assert 0 <= y0 < y1 <= image.height


@pytest.mark.parametrize("name", ["text", "faces"])
def test_every_size_bin_has_samples(name: str) -> None:
    sizes = [r.slices.get("size") for s in load(name) for r in s.regions]
    assert all(sizes.count(size) >= 4 for size in ("small", "medium", "large"))
    assert None not in sizes


def test_drawn_words_do_not_touch_each_other_and_avoid_letters_that_look_alike() -> None:
    for sample in load("text"):
        boxes = [r.box for r in sample.regions]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert not set("0Oo1lI5S") & set("".join(r.text or "" for r in sample.regions))


def test_the_ink_of_a_word_lies_in_its_box() -> None:
    from toksweep.tasks.reconstruction import text

    sample = load("text")[0]
    drawn = np.asarray(sample.images[0]()).astype(int)
    loader = sample.images[0]
    path, number, _ = loader.args  # type: ignore[attr-defined]
    bare = np.asarray(text._draw(path, number, ())).astype(int)
    changed = np.abs(drawn - bare).sum(2) > 0
    for region in sample.regions:
        x0, y0, x1, y1 = (int(edge) for edge in region.box)
        assert changed[y0:y1, x0:x1].mean() > 0.5
        changed[y0:y1, x0:x1] = False
    assert not changed.any()


@pytest.mark.parametrize(
    ("kind", "ratio", "side", "expected"),
    [
        ("text", 0.0199, 256, {}), ("text", 0.02, 256, {"size": "small"}), ("text", 0.03, 256, {"size": "medium"}),
        ("text", 0.04, 300, {"size": "large"}), ("text", 1.0, 256, {}), ("text", 0.0199, 512, {"size": "small"}),
        ("text", 0.005, 1024, {"size": "small"}), ("face", 0.1, 256, {"size": "small"}),
        ("face", 0.1, 128, {"size": "small"}), ("face", 0.05, 1023, {"size": "small"}),
        ("face", 0.05, 1024, {"size": "medium"}), ("face", 0.3, 256, {"size": "large"}),
    ],
)  # fmt: skip
def test_size_bins_are_tokbenchs_for_the_setting_below_the_picture(kind, ratio, side, expected) -> None:  # type: ignore[no-untyped-def]
    assert size_slices(TEXT if kind == "text" else FACE, ratio, side) == expected


# ------------------------------------------------------------------------------------------------------- users' folders


def test_photos_of_a_folder_are_its_pictures_at_any_depth(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    picture(tmp_path / "deep" / "a.JPG")
    (tmp_path / "notes.txt").write_text("no picture")
    assert [s.id for s in load("photos", tmp_path)] == ["b.png", "deep/a.JPG"]


def test_a_changed_picture_has_another_fingerprint(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    before = load("photos", tmp_path)[0].fingerprint
    picture(tmp_path / "b.png", (200, 101))
    assert load("photos", tmp_path)[0].fingerprint != before


def test_a_corrupt_picture_is_listed_and_fails_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no more")
    (sample,) = load("photos", tmp_path)
    with pytest.raises(OSError, match="identify"):
        sample.images[0]()


def test_a_16_bit_picture_fails_when_it_is_opened(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits"):
        load("photos", tmp_path)[0].images[0]()


def test_transparency_is_laid_on_white_and_orientation_is_obeyed(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    clear, turned = (s.images[0]() for s in load("photos", tmp_path))
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert turned.size == (20, 40)


@pytest.mark.parametrize("name", ["L.png", "1.png", "LA.png", "P.png", "CMYK.jpg", "YCbCr.jpg", "clear.gif"])
def test_every_8_bit_format_is_shown_as_rgb(tmp_path: Path, name: str) -> None:
    mode = name.partition(".")[0]
    grey = Image.new("L", (8, 6), 90)
    if name == "clear.gif":
        coloured = Image.new("P", (8, 6), 1)
        coloured.putpalette([0, 0, 0, 90, 90, 90])
        coloured.info["transparency"] = 1
        coloured.save(tmp_path / name, transparency=1)
        expected = (255, 255, 255)
    else:
        grey.convert("RGB" if mode in ("CMYK", "YCbCr") else "L").convert(mode).save(tmp_path / name)
        expected = {"1": None, "LA": (90, 90, 90)}.get(mode, (90, 90, 90))
    image = load("photos", tmp_path)[0].images[0]()
    assert (image.mode, image.size) == ("RGB", (8, 6))
    if expected:
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_pictures_are_bad_inputs_in_one_sentence(tmp_path: Path, mode: str) -> None:
    pixels = np.full((8, 8), 40_000, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    Image.fromarray(pixels).save(tmp_path / "deep.tiff")
    with pytest.raises(ValueError, match=r"deep\.tiff has pixels of mode .*; 8 bits a channel"):
        load("photos", tmp_path)[0].images[0]()


def test_annotations_of_a_turned_picture_speak_of_it_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    annotate(tmp_path, RECORD | {"file": "turned.jpg", "instances": [WORD]})
    Image.new("RGB", (100, 200)).save(tmp_path / "turned.jpg", exif=exif)
    assert load("text", tmp_path)[0].images[0]().size == (200, 100)


@pytest.mark.parametrize("box", [[float("nan"), 1, 9, 9], [1, 1, 1e12, 9]])
def test_numbers_that_are_none_are_bad_inputs(tmp_path: Path, box: list[float]) -> None:
    annotate(tmp_path, RECORD | {"instances": [WORD]}, RECORD | {"instances": [WORD | {"box": box}]})
    with pytest.raises(ValueError, match="no number"):
        load("text", tmp_path)[1].images[0]()


def test_words_of_annotations_have_sizes_and_ignored_ones_are_left_out(tmp_path: Path) -> None:
    ignored = {"box": [0, 0, 9, 9], "text": "###", "ignore": True}
    tiny = {"box": [60, 60, 66, 64], "text": "tiny"}
    annotate(tmp_path, RECORD | {"instances": [WORD, ignored, tiny]})
    (sample,) = load("text", tmp_path)
    assert [(r.text, dict(r.slices)) for r in sample.regions] == [("word", {"size": "large"}), ("tiny", {})]


def test_faces_of_annotations_come_from_box_or_boxes(tmp_path: Path) -> None:
    boxes = [{"box": [0, 0, 30, 30]}, {"box": [50, 50, 90, 90], "ignore": True}]
    annotate(tmp_path, RECORD | {"box": [10, 10, 60, 50]}, RECORD | {"boxes": boxes})
    assert [[r.box for r in s.regions] for s in load("faces", tmp_path)] == [[(10, 10, 60, 50)], [(0, 0, 30, 30)]]


def test_a_picture_of_another_size_than_annotated_fails_when_it_is_opened(tmp_path: Path) -> None:
    annotate(tmp_path, RECORD | {"width": 300, "instances": [WORD]})
    with pytest.raises(ValueError, match="annotations speak of"):
        load("text", tmp_path)[0].images[0]()


def test_tokbenchs_text_format_is_read_with_its_own_ratios(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "text_data" / "ic13" / "img_1.jpg", (960, 1280))
    words = [
        {"bbox": [10.7, 20, 300, 60], "rec": "Tiredness", "ratio": 0.025},
        {"bbox": [0, 0, 9, 9], "rec": "a", "ratio": 0.001},
    ]
    entry = {"file_name": "img_1.jpg", "height": 1280, "width": 960, "annotations": words}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "text_ic13.json").write_text(json.dumps([entry]))
    (sample,) = load("text", tmp_path)
    assert sample.id == "images/text_data/ic13/img_1.jpg"
    assert [(r.text, r.box, dict(r.slices)) for r in sample.regions] == [
        ("Tiredness", (10.7, 20, 300, 60), {"size": "large"}), ("a", (0, 0, 9, 9), {}),
    ]  # fmt: skip
    assert sample.images[0]().size == (960, 1280)


def test_tokbenchs_face_format_is_read_with_key_points(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "face_data" / "wflw" / "0--Parade" / "x.jpg", (400, 300))
    points = [[110, 110], [140, 110], [125, 125], [112, 140], [138, 140]]
    one = {"kps": points, "ratio": 0.15, "box": [-3, 90, 150, 160], "gt": []}
    entry = {"image_name": "0--Parade/x.jpg", "img_height": 300, "img_width": 400, "faces": [one]}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "face_meta.json").write_text(json.dumps([entry]))
    ((region,),) = [s.regions for s in load("faces", tmp_path)]
    assert region.points[0] == (110, 110)
    assert region.box == (0, 90, 150, 160)
    assert region.slices == {"size": "small"}


@pytest.mark.parametrize("name", TASKS)
def test_real_folders_are_read_whole(name: str) -> None:
    folder = real(name)
    samples = load(name, folder)
    assert len(samples) == len((folder / "annotations.jsonl").read_text(encoding="utf-8").splitlines())
    for sample in samples[:: len(samples) // 4]:
        assert sample.images[0]().mode == "RGB"


# --------------------------------------------------------------------------------------------------------- bad folders


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{no json", "line 2: no JSON"),
        ("[1, 2]", "line 2: not a JSON object"),
        ({"width": 200, "height": 100, "instances": []}, "line 2: the key 'file' is missing"),
        ({"file": "a.png", "width": 200, "height": 100}, "line 2: the key 'instances' is missing"),
        ({"file": "a.png", "width": 200, "instances": []}, "line 2: the key 'height' is missing"),
        (RECORD | {"file": "b.png", "instances": []}, "line 2: there is no file b.png"),
        (RECORD | {"file": "../outside.png", "instances": []}, "line 2: there is no file"),
        (RECORD | {"width": "wide", "instances": []}, "'width' is 'wide', not a number of pixels"),
        (RECORD | {"instances": [{"box": [0, 0, 10, 10]}]}, r"instances\[0\]: the key 'text' is missing"),
        (RECORD | {"instances": [WORD, {"text": "x"}]}, r"line 2, instances\[1\]: the key 'box' is missing"),
        (RECORD | {"instances": [WORD | {"box": [10, 10, 201, 20]}]}, "outside the picture of 200x100"),
        (RECORD | {"instances": [WORD | {"box": [-1, 10, 20, 20]}]}, "outside the picture of 200x100"),
        (RECORD | {"instances": [WORD | {"box": [10, 10, 10.5, 20]}]}, "is empty or outside"),
        (RECORD | {"instances": [WORD | {"box": [10, 10, 20]}]}, "not four numbers"),
        (RECORD | {"instances": [WORD | {"box": [1, 2, "c", 4]}]}, "no number"),
        (RECORD | {"instances": [WORD | {"text": ""}]}, "'text' is '', not a text"),
        (RECORD | {"instances": "words"}, "not a list of objects"),
    ],
)
def test_a_malformed_line_is_a_bad_input_named_with_its_file(tmp_path: Path, record: object, message: str) -> None:
    picture(tmp_path.parent / "outside.png")
    folder = annotate(tmp_path, RECORD | {"instances": [WORD]}, record)
    good, bad = load("text", folder)
    assert good.images[0]().size == (200, 100)
    assert bad.id.startswith("annotations.jsonl, line 2")
    with pytest.raises(ValueError, match=message) as raised:
        bad.images[0]()
    assert str(folder / "annotations.jsonl") in str(raised.value)


def test_a_folder_of_malformed_lines_alone_is_a_mistake(tmp_path: Path) -> None:
    folder = annotate(tmp_path, RECORD | {"instances": "words"}, "{no json")
    for name in ("text", "faces"):
        with pytest.raises(UserError, match=r"annotations\.jsonl, line 1: "):
            load(name, folder)


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_folder_and_an_empty_one_are_mistakes(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no folder"):
        load(name, tmp_path / "nowhere")
    with pytest.raises(UserError, match=str(tmp_path)):
        load(name, tmp_path)


def test_an_empty_annotation_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "annotations.jsonl").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        load("text", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[{", "line 1: no JSON"), ('{"a": 1}', "not a JSON list"), ("[7]", "entry 0: not a JSON object")],
)
def test_a_malformed_tokbench_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "text_ic13.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load("text", tmp_path)
