"""What is known of lmms-eval's tasks without importing it, and the small parts of the bridge."""

import json
import subprocess
import sys

import lmms_clips
import numpy as np
import pytest
from toksweep.harness.borrowing import expand, group_figures, task_entry
from toksweep.harness.contracts import UserError
from toksweep.results.aggregation import bootstrap
from toksweep.tasks.lmms.catalogue import catalogue, read, write
from toksweep.tasks.lmms.frames import film
from toksweep.tasks.lmms.scoring import holds_on_subsets
from toksweep.tasks.lmms.values import decode, encode
from toksweep.tasks.lmms.wrappers import part_of, wrapper_of


def reason(name, copied=False):
    with pytest.raises(UserError) as told:
        expand([f"lmms:{name}"], (), [f"lmms:{name}"] if copied else [])
    return str(told.value)


@pytest.mark.parametrize(("name", "says"), [
    ("gqaa", "near: gqa"), ("mmbench_en_dev", "a judge or an API. Take lmms:mmbench_en_dev_static"),
    ("egoschema", "submission server. Take lmms:egoschema_subset"), ("coco2017_cap_val", "Java"),
    ("seedbench_ppl", "its output type is multiple_choice"), ("mmlu_abstract_algebra", "we run generate_until"),
    ("activitynetqa", "a judge or an API"), ("librispeech_dev_clean", "audio"),
])  # fmt: skip
def test_a_task_that_is_not_ours_says_why_and_what_to_take_instead(name, says):
    assert says in reason(name, copied=True)


def test_a_missing_token_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    said = reason("gqa")
    assert "lmms-lab-encoder/GQA" in said
    assert "HF_TOKEN" in said
    assert "--data lmms:gqa=DIR" in said
    assert expand(["lmms:gqa"], (), ["lmms:gqa"]) == ("lmms:gqa",)  # a copy needs none
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    assert expand(["lmms:gqa", "synth_vqa", "lmms:gqa"], (), []) == ("lmms:gqa", "synth_vqa")


def test_a_data_set_that_cannot_be_reached_is_named_with_the_way_around_it(monkeypatch, tmp_path):
    from toksweep.tasks.lmms import collection

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "huggingface_hub.HfApi.dataset_info", lambda *a, **k: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(
        UserError, match=r"is lmms-lab-encoder/textvqa on the .* \(no network\).*--data lmms:textvqa_val=DIR"
    ):
        collection.Lmms().open("textvqa_val", family="llava", include=(), folder=None)


def test_the_tasks_that_our_users_report_are_ours():
    named = (
        "gqa mmbench_en_dev_static mme pope scienceqa_img textvqa_val vqav2_val vizwiz_vqa_val seedbench chartqa "
        "docvqa_val ocrbench mvbench videomme mlvu_dev longvideobench_val_v egoschema_subset nextqa_mc_test"
    )
    table = catalogue()
    assert {n: table[n].reason for n in named.split() if table[n].reason} == {}
    assert sum(row.kind == "task" and not row.reason for row in table.values()) > 600
    assert "reads all pictures" in table["gqa"].note
    assert task_entry("lmms:videomme").meta["family"] == "video_qa"
    assert task_entry("lmms:gqa").meta["family"] == "vqa"


def test_a_group_stands_for_its_tasks(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    found = expand(["lmms:mvbench"], (), [])
    assert len(found) == 20
    assert "lmms:mvbench_action_count" in found


def test_a_figure_of_a_group_that_a_function_of_its_own_makes_is_left_out_and_said_so(tmp_path, caplog):
    mean = {f.metric for f in group_figures(["lmms:blink"], ())}
    assert mean == {"blink_acc"}
    assert caplog.text == ""
    assert group_figures(["lmms:wm_abench"], ()) == ()
    assert "lmms:wm_abench: its tasks are run; its own wm_abench_acc, " in caplog.text
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask: [mme, pope]\naggregate_metric_list:\n  - {metric: acc}\n"
        "  - {metric: worst, aggregation: !function utils.smallest}\n"
    )
    (found,) = group_figures(["lmms:both"], [str(tmp_path)])
    assert (found.name, found.metric, found.members) == ("lmms:both", "acc", ("lmms:mme", "lmms:pope"))
    assert "its own worst are not" in caplog.text


def test_a_collection_without_a_task_is_named():
    with pytest.raises(UserError, match="write lmms:NAME"):
        expand(["lmms"], (), [])


def test_the_catalogue_reads_back_and_listing_imports_nothing_of_lmms_eval(tmp_path):
    rows = list(catalogue().values())
    (tmp_path / "t.csv").write_text(write("0.7.3", rows))
    assert read(tmp_path / "t.csv") == ("0.7.3", dict(catalogue()))
    code = (
        "import sys, json; from toksweep.harness.listing import listing; rows = listing('tasks')[0]; "
        "print(json.dumps([len(rows), sorted({'lmms_eval', 'torch', 'datasets'} & set(sys.modules))]))"
    )
    count, heavy = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert heavy == []
    assert count > 1000


def test_another_version_is_named_and_its_table_made_once(monkeypatch, tmp_path, caplog):
    from toksweep.tasks.lmms import catalogue as module
    from toksweep.tasks.lmms import survey

    made = []
    monkeypatch.setattr(module, "version", lambda name: "0.7.99")
    monkeypatch.setattr(module.Path, "expanduser", lambda self: tmp_path / "cache")
    monkeypatch.setattr(survey, "survey", lambda folder: made.append(folder) or [module.Row("new_task")])
    for _ in range(2):
        assert list(module.catalogue.__wrapped__()) == ["new_task"]
    assert len(made) == 1
    assert "lmms-eval 0.7.99 is installed" in caplog.text


def test_raw_values_survive_json():
    value = {"a": (1, [2.5, None]), 3: {"x": np.float64(0.1)}, "set": {2, 1}, "array": np.arange(3)}
    back = decode(json.loads(json.dumps(encode(value))))
    assert back["a"] == (1, [2.5, None])
    assert back[3] == {"x": 0.1}
    assert back["set"] == {1, 2}
    assert (back["array"] == np.arange(3)).all()
    with pytest.raises(TypeError, match="a task scored a bytes"):
        encode({"picture": b"..."})


def test_frames_are_those_of_the_wrapper():
    qwen, llava, intern = (wrapper_of(family) for family in ("qwen2_5_vl", "llava", "internvl"))
    assert list(qwen.frame_numbers(0, 7)) == [0, 1, 2, 4, 5, 6]  # an even number
    assert list(llava.frame_numbers(0, 3))[:12] == [0] * 12  # a short clip repeats its frames
    assert len(llava.frame_numbers(0, 3)) == len(llava.frame_numbers(0, 500)) == 32
    assert llava.frame_numbers(0, 500)[-1] == 499
    assert list(intern.frame_numbers(0, 320))[:3] == [5, 15, 25]  # middles of 32 parts
    assert list(intern.frame_numbers(100, 3)) == [100, 101, 102]


def test_a_part_of_a_clip_and_its_frames_as_a_qwen_sees_them_are_those_of_qwen_vl_utils(monkeypatch):
    import torch
    from PIL import Image
    from qwen_vl_utils import vision_process as theirs

    for span in ((1.0, 2.0), (None, 2.01), (0.33, None), (None, None), (1.5, 99.0)):
        asked = {k: v for k, v in zip(("video_start", "video_end"), span, strict=True) if v is not None}
        first, _, count = theirs.calculate_video_frame_range(asked, 90, 29.97)
        assert part_of(90, 29.97, span) == (first, count)
    with pytest.raises(ValueError, match="lies between 5"):
        part_of(90, 29.97, (5.0, None))
    sizes = set()
    for family, factor in (("qwen2_5_vl", 28), ("qwen3_vl", 32)):
        for (wide, high), count, context in (((640, 360), 4, 128000), ((90, 700), 2, 128000), ((1100, 900), 6, 900)):
            monkeypatch.setattr(theirs, "MODEL_SEQ_LEN", context)
            noise = np.random.default_rng(0).integers(0, 255, (count, high, wide, 3), dtype=np.uint8)
            read = torch.from_numpy(noise).permute(0, 3, 1, 2), {}, 2.0
            monkeypatch.setitem(theirs.VIDEO_READER_BACKENDS, theirs.get_video_reader_backend(), lambda _, r=read: r)
            wrapper = wrapper_of(family)
            least, most = wrapper.frame_pixels
            asked = {"video": "a.mp4", "min_pixels": least, "max_pixels": most}
            want = theirs.fetch_video(asked, image_patch_size=factor // 2)
            seen = wrapper.sees_clip([Image.fromarray(frame) for frame in noise])
            assert (np.stack([np.asarray(frame) for frame in seen]) == want.permute(0, 2, 3, 1).numpy()).all()
            sizes.add(seen[0].size)
    assert len(sizes) == 6
    narrow = wrapper_of("qwen2_5_vl").limited(784, 4704)
    assert narrow.pixels == narrow.frame_pixels == (784, 4704)
    with pytest.raises(UserError, match="--min-pixels 200704 is above --max-pixels 4704"):
        wrapper_of("qwen3_vl").limited(None, 4704)


def test_a_sum_and_a_fixed_denominator_are_seen_to_need_the_whole_set_and_a_ratio_is_not():
    sets = [[{"score": s} for s in scores] for scores in ([1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [1, 0])]

    def numbers(values):
        return [v["score"] for v in values]

    assert holds_on_subsets(lambda v: sum(numbers(v)) / len(v), sets, "score")
    assert holds_on_subsets(lambda v: 100 * sum(numbers(v)) / len(v), sets, "score")
    assert not holds_on_subsets(lambda v: sum(numbers(v)) / 1000, sets, "score")
    assert not holds_on_subsets(lambda v: 1 + sum(numbers(v)), sets, "score")
    assert not holds_on_subsets(lambda v: 0.5, sets, "score")  # nothing seen of it


def test_an_aggregation_gets_an_interval_over_clusters_whose_copies_are_told_apart():
    def pairs_only(values):
        ids = [v["question_id"] for v in values]
        assert all(ids.count(i) == 2 for i in ids), "pairs"
        return sum(v["score"] for v in values) / len(values)

    values = [(f"picture{n}", {"question_id": f"q{n}", "score": float(n % 2)}) for n in range(10) for _ in range(2)]
    found = bootstrap(pairs_only, values)
    assert found.value == 0.5
    assert 0 < found.low < 0.5 < found.high < 1
    whole = bootstrap(lambda v: 1.0 if len(v) == 20 and len({id(x) for x in v}) else 1 / 0, values[:1])
    assert np.isnan(whole.value)


def test_frames_are_the_same_at_every_call_and_those_of_another_decoder(tmp_path):
    decord = pytest.importorskip("decord")
    for rate, count, size, stated in lmms_clips.CLIPS:
        clip = lmms_clips.write_clip(tmp_path / f"{count}.mp4", rate, count, size, stated=stated)
        numbers = [0, 5, 5, count // 2, count - 1]
        found, again = (film(clip, lambda *_, chosen=numbers: chosen) for _ in range(2))
        theirs = decord.VideoReader(str(clip)).get_batch(numbers).asnumpy()
        pictures = [np.asarray(frame) for frame in found.frames]
        assert (found.numbers, found.count, found.rate) == (numbers, count, pytest.approx(float(rate)))
        assert all((a == np.asarray(b)).all() for a, b in zip(pictures, again.frames, strict=True))
        assert all((a == b).all() for a, b in zip(pictures, theirs, strict=True))


def test_a_file_that_is_no_clip_is_an_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no clip")
    with pytest.raises(ValueError, match="Invalid data"):
        film(tmp_path / "a.mp4", lambda count, rate: [0])
