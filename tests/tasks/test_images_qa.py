"""The task that asks a user's own questions."""

import json

import pytest
from pictures import REAL
from PIL import Image
from toksweep.harness.contracts import UserError
from toksweep.tasks.vqa.images_qa import images_qa

LINE = {"file": "a.png", "question": "Which colour?", "answers": ["red"]}


def write(folder, *lines):
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save(folder / "a.png")
    Image.new("L", (8, 8)).save(folder / "b.png")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "annotations.jsonl").write_text(text)
    return folder


def test_a_line_becomes_a_sample_with_a_lazy_rgb_picture(tmp_path):
    (sample,) = images_qa(write(tmp_path, {**LINE, "id": "x", "source": "mine", "answer_type": "short"}))
    assert (sample.id, sample.cluster_id, sample.question, sample.answers) == ("x", "a.png", "Which colour?", ("red",))
    assert sample.slices == {"source": "mine", "answer_type": "short"}
    assert sample.stratum == "mine"
    assert sample.images[0]().mode == "RGB"


def test_questions_about_one_picture_are_one_cluster(tmp_path):
    samples = images_qa(write(tmp_path, LINE, {**LINE, "question": "How many?"}, {**LINE, "file": "b.png"}))
    assert [s.cluster_id for s in samples] == ["a.png", "a.png", "b.png"]
    assert len({s.id for s in samples}) == 3


@pytest.mark.parametrize("change", [{"question": "What?"}, {"answers": ["blue"]}, {"file": "b.png"}])
def test_the_fingerprint_follows_picture_question_and_answers(tmp_path, change):
    (one,) = images_qa(write(tmp_path, LINE))
    (same,) = images_qa(write(tmp_path, LINE))
    (other,) = images_qa(write(tmp_path, {**LINE, **change}))
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_a_picture_that_cannot_be_decoded_is_found_when_it_is_opened(tmp_path):
    write(tmp_path, LINE)
    (tmp_path / "a.png").write_bytes(b"no picture")
    (sample,) = images_qa(tmp_path)
    with pytest.raises(OSError, match="cannot identify"):
        sample.images[0]()


@pytest.mark.parametrize(("line", "said"), [
    ("{", "line 2 is not JSON"), ("[1]", "line 2 must be a JSON object"),
    ({**LINE, "answers": []}, "line 2: `answers`"), ({**LINE, "answers": "red"}, "line 2: `answers`"),
    ({**LINE, "question": " "}, "line 2: `question`"), ({"question": "q", "answers": ["a"]}, "line 2: `file`"),
    ({**LINE, "file": "c.png"}, "line 2: there is no picture .*c.png"), ({**LINE, "source": 3}, "line 2: `source`"),
    ({**LINE, "id": "line-1"}, "line 2: the id 'line-1' is there twice"),
])  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, line, said):
    with pytest.raises(UserError, match=f"annotations.jsonl, {said}"):
        images_qa(write(tmp_path, LINE, line))


def test_a_folder_without_questions_is_named(tmp_path):
    with pytest.raises(UserError, match="jsonl cannot be read"):
        images_qa(tmp_path)
    with pytest.raises(UserError, match="holds no question"):
        images_qa(write(tmp_path, ""))
    with pytest.raises(UserError, match="--data images_qa=DIR"):
        images_qa(None)


@pytest.mark.skipif(not (REAL / "vqa").is_dir(), reason="needs shared/data/real beside the checkout")
def test_the_real_questions_are_all_read():
    samples = images_qa(REAL / "vqa")
    assert len(samples) == 132
    assert len({s.cluster_id for s in samples}) == 69
    assert all(s.images[0]().mode == "RGB" for s in samples[::20])
