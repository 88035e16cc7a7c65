"""Tasks of clips: what ships with us, files of a folder, and a sweep over both kinds of tokenizers."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from toksweep.harness.contracts import Memo, Metric, Output, Sample, UserError
from toksweep.harness.registry import registry
from toksweep.harness.runner import open_sample
from unreported import swept


def samples(name: str, folder: Path | None = None) -> list[Sample]:
    found = registry("tasks").get(name).load()(folder)
    assert isinstance(found, list)
    return found


def write(path: Path, count: int, size: tuple[int, int] = (32, 24)) -> None:
    """A clip whose frame `n` is grey of level 8 n."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "1", "g": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for n in range(count):
            level = np.full((size[1], size[0], 3), 8 * n % 256, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        out.mux(stream.encode())


def shown(sample: Sample) -> tuple[Image.Image, ...]:
    return open_sample(sample).images


def test_the_clips_that_ship_move_and_are_the_same_at_every_call() -> None:
    first, again = samples("clips"), samples("clips")
    assert [(s.id, s.fingerprint) for s in first] == [(s.id, s.fingerprint) for s in again]
    assert len(first) == len({s.cluster_id for s in first}) == 12
    assert all(s.clip and not s.images for s in first)
    for one, other in zip(first[::5], again[::5], strict=True):
        frames = [np.asarray(f) for f in shown(one)]
        assert len(frames) >= 16 and len({f.shape for f in frames}) == 1
        assert all(not np.array_equal(a, b) for a, b in pairwise(frames)) or "drawn" in one.id
        assert all(np.array_equal(a, np.asarray(b)) for a, b in zip(frames, shown(other), strict=True))


def test_a_view_moves_by_whole_pixels_over_its_picture() -> None:
    frames = [np.asarray(f) for f in shown(next(s for s in samples("clips") if s.id == "camera"))]
    assert np.array_equal(frames[0][2:, :-4], frames[1][:-2, 4:])


def test_of_a_file_the_middle_is_shown_and_large_frames_are_shrunk(tmp_path: Path) -> None:
    write(tmp_path / "long.mp4", 30)
    write(tmp_path / "short.mkv", 3, (600, 400))
    (tmp_path / "notes.txt").write_text("no clip")
    long, short = (shown(s) for s in samples("clips", tmp_path))
    assert [round(np.asarray(f).mean() / 8) for f in long] == list(range(6, 23))
    assert [f.size for f in short] == [(384, 256)] * 3


def test_a_file_that_is_cut_off_or_no_clip_is_a_bad_input_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "whole.mkv", 40)
    whole = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    write(tmp_path / "index_lost.mp4", 40)
    lost = (tmp_path / "index_lost.mp4").read_bytes()
    (tmp_path / "index_lost.mp4").write_bytes(lost[: len(lost) // 2])
    (tmp_path / "noise.avi").write_bytes(b"no clip at all" * 100)
    told = {}
    for sample in samples("clips", tmp_path):
        try:
            shown(sample)
        except (ValueError, OSError) as error:
            told[sample.id] = str(error)
    assert set(told) == {"cut.mkv", "index_lost.mp4", "noise.avi"}
    assert "cut.mkv is cut off" in told["cut.mkv"]


def test_a_folder_without_clips_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clip in"):
        samples("clips", tmp_path)
    with pytest.raises(UserError, match="no folder"):
        samples("clips", tmp_path / "nowhere")
    with pytest.raises(UserError, match="reads no folder"):
        samples("clip_text", tmp_path)


@pytest.mark.parametrize("name", ["clip_text", "clip_faces"])
def test_words_and_faces_move_with_the_view(name: str) -> None:
    opened = open_sample(samples(name)[0]).sample
    assert {r.image for r in opened.regions} == {0, 8, 16}
    frames = [load() for load in opened.images]
    kept = {n: [r for r in opened.regions if r.image == n] for n in (0, 8)}
    same = [(a, b) for a in kept[0] for b in kept[8] if (a.text, a.box[2] - a.box[0]) == (b.text, b.box[2] - b.box[0])]
    assert same
    for before, after in same:
        crops = [np.asarray(frames[r.image].crop(tuple(map(int, r.box)))) for r in (before, after)]
        assert np.array_equal(*crops) or name == "clip_faces"  # two faces of a picture may be as wide
        if before.points:
            assert [after.points[0][i] - before.points[0][i] for i in (0, 1)] == pytest.approx(
                [after.box[i] - before.box[i] for i in (0, 1)]
            )


def test_faces_of_clean_frames_are_at_no_distance() -> None:
    sample = open_sample(samples("clip_faces")[1]).sample
    metric = registry("metrics").get("face_distance").build({})
    assert isinstance(metric, Metric)
    clean = metric.score(Output(frames=tuple(load() for load in sample.images)), sample, Memo())
    assert [i.value for i in clean] == [0.0] * 3
    frozen = Output(frames=(sample.images[0](),) * len(sample.images))
    assert [i.value > 0 for i in metric.score(frozen, sample, Memo())] == [False, True, True]


def test_a_sweep_codes_clips_whole_and_frame_by_frame(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    write(folder / "one.mp4", 20)
    (folder / "noise.avi").write_bytes(b"no clip at all" * 100)
    asked = {
        "tasks": ["clips"], "data": {"clips": str(folder)}, "methods": ["h264", "jpeg"], "budgets": ["0.5bpp"],
        "out": tmp_path / "out",
    }  # fmt: skip
    out, _ = swept(**asked)
    found = {c.label: out.records(c.work_id) for c in out.cells()}
    assert {r["noise.avi"].status for r in found.values()} == {"bad_input"}
    pixels = 32 * 24 * 17
    assert {r["one.mp4"].pixels for r in found.values()} == {pixels}
    h264, jpeg = found["h264"]["one.mp4"], found["jpeg"]["one.mp4"]
    assert (h264.status, h264.prediction) == ("ok", "one.mp4.h264")
    assert h264.bits is not None and h264.bits <= 0.5 * pixels
    assert (jpeg.status, jpeg.prediction) == ("infeasible", "one.mp4.png")
    assert set(h264.scores) == {"psnr", "ssim", "frame_difference", "flicker"}
    for path in out.path.glob("samples/*/*.jsonl"):  # as if a metric's code had changed
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if "psnr" in line["scores"]:
                line["scores"]["psnr"]["code"] = "older"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, _ = swept(**asked)
    assert {c.label: out.records(c.work_id) for c in out.cells()} == found


def test_a_codec_of_clips_is_refused_where_pictures_are_shown(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "p" / "a.png")
    with pytest.raises(UserError, match="h264 codes clips, and photos shows pictures"):
        swept(tasks=["photos"], data={"photos": str(tmp_path / "p")}, methods=["h264"], budgets=["1bpp"])
