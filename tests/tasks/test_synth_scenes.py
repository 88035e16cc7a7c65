"""Scenes and clips: the same everywhere, balanced, disjoint between splits, and with evidence where it says."""

import hashlib
import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from toksweep.harness.contracts import UserError
from toksweep.tasks.synth import clips, drawing, scenes
from toksweep.tasks.synth.questions import FAMILIES, Question, questions
from toksweep.tasks.synth.samples import clip_samples, scene_samples
from toksweep.tasks.video_qa.synth_video_qa import synth_video_qa, synth_video_qa_16
from toksweep.tasks.vqa.synth_vqa import synth_vqa

PINNED = {
    "scenes": "463e35061779b6eacd99c50208f9064896e65827d39b87b5f969a3367c62f97f",
    "clips": "813c7c5e960d36b1e569d0f6a626f575b829c2b8fda669b64df8540bdb443351",
}
"""Digests of recipe 1. When drawing changes on purpose, raise `samples.RECIPE` and write the new ones here."""


@pytest.fixture(scope="module")
def many() -> list[scenes.Scene]:
    return [scenes.scene(i, "test") for i in range(300)]


@pytest.fixture(scope="module")
def asked(many: list[scenes.Scene]) -> list[list[Question]]:
    return [questions(made) for made in many]


def test_pixels_and_questions_of_a_seed_are_the_same_on_every_machine() -> None:
    digest = {"scenes": hashlib.sha256(), "clips": hashlib.sha256()}
    for i in range(12):
        made = scenes.scene(i, "test")
        digest["scenes"].update(made.draw().tobytes() + repr(questions(made)).encode())
        film = clips.clip(i, "test")
        digest["clips"].update(film.draw(i % 8).tobytes() + repr(film.questions).encode())
    assert {name: d.hexdigest() for name, d in digest.items()} == PINNED


def test_splits_share_no_seed_and_refuse_indices_of_the_next_one() -> None:
    assert scenes.seed_of(0, "validation") == 3_000_000_000
    assert scenes.seed_of(599_999_999, "validation") + 1 == scenes.seed_of(0, "test")
    with pytest.raises(ValueError, match="holds 600000000"):
        scenes.seed_of(600_000_000, "validation")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_held_out_pairs_and_words_never_show_outside_the_test_split(split: scenes.Split) -> None:
    made = [scenes.scene(i, split) for i in range(200)]
    assert not any(t.held_out for m in made for t in m.things)
    assert {scenes.word_split(m.word.text) for m in made} == {split}
    films = [clips.clip(i, split) for i in range(60)]
    assert not any(t.held_out for f in films for a in f.actors for t in a.frames if t is not None)
    assert {scenes.word_split(f.word.text) for f in films} == {split}


def test_the_test_split_shows_held_out_pairs_and_words(many: list[scenes.Scene]) -> None:
    assert sum(t.held_out for m in many for t in m.things) > 100
    assert {scenes.word_split(m.word.text) for m in many} == {"test"}


def test_colours_name_one_object_and_objects_do_not_overlap(many: list[scenes.Scene]) -> None:
    for made in many:
        assert len({t.colour for t in made.things}) == len(made.things)
        cells = [scenes.covered([t.box]) for t in made.things] + [scenes.covered(made.word.boxes)]
        assert sum(map(len, cells)) == len(set().union(*cells))


def test_small_objects_and_letters_lie_within_one_patch(many: list[scenes.Scene]) -> None:
    small = [t.box for made in many for t in made.things if t.scale == scenes.SMALL]
    letters = [box for made in many for box in made.word.boxes]
    assert {len(scenes.covered([box])) for box in small + letters} == {1}


def test_no_answer_of_a_family_is_much_more_frequent_than_chance(asked: list[list[Question]]) -> None:
    for family, answers in {"counting": 4, "spatial": 4, "shape": 8, "colour": 8, "comparison": 8}.items():
        counts = Counter(q.answer for group in asked for q in group if q.family == family)
        assert len(counts) == answers
        assert max(counts.values()) / counts.total() < 1.45 / answers, family


def test_the_order_of_mention_does_not_tell_which_is_larger_or_first(asked: list[list[Question]]) -> None:
    larger = [q for group in asked for q in group if q.family == "comparison"]
    first = [q for i in range(200) for q in clips.clip(i, "test").questions if q.family == "order"]
    for group in (larger, first):
        named_first = sum(q.text.index(q.answer) < q.text.index(" or ") for q in group) / len(group)
        assert 0.4 < named_first < 0.6


def test_evidence_of_a_question_about_a_scene_covers_the_objects_it_names(many: list[scenes.Scene]) -> None:
    for made in many[:50]:
        for question in questions(made):
            named = [t.box for t in made.things if t.colour in question.text.split() and t.shape in question.text]
            assert set(named) <= {box for _, box in question.evidence}


def test_hiding_a_piece_of_evidence_changes_the_pixels_that_it_names() -> None:
    for i in range(20):
        made = scenes.scene(i, "test")
        without = np.clip(drawing.background(np.random.RandomState(made.seed)), 0, 255)
        changed = np.abs(made.draw().astype(int) - without).max(-1) > 0
        for _, (x0, y0, x1, y1) in (piece for q in questions(made) for piece in q.evidence):
            assert changed[y0:y1, x0:x1].any()


def test_at_least_half_of_the_questions_hinge_on_one_or_two_patches() -> None:
    hinges = [s.slices["hinge"] == "one or two patches" for s in scene_samples(100, "test")]
    assert sum(hinges) >= len(hinges) / 2


def test_a_moving_object_goes_the_way_of_the_answer() -> None:
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    for i in range(60):
        (question,) = (q for q in clips.clip(i, "test").questions if q.family == "direction")
        (_, start), (_, end) = question.evidence[0], question.evidence[-1]
        assert (np.sign(end[0] - start[0]), np.sign(end[1] - start[1])) == steps[question.answer]


def test_a_flash_is_counted_as_often_as_the_object_shows_after_an_absence() -> None:
    counted = 0
    for i in range(80):
        for question in clips.clip(i, "test").questions:
            if question.family == "repetition":
                frames = [frame for frame, _ in question.evidence]
                assert len(frames) == int(question.answer)
                assert all(b - a >= 2 for a, b in pairwise(frames))
                counted += 1
    assert counted > 20


def test_a_clip_of_sixteen_frames_asks_the_same_families() -> None:
    film = clips.clip(3, "test", 16)
    assert len(film.actors[0].frames) == 16
    assert {q.family for q in film.questions} <= set(clips.FAMILIES)
    with pytest.raises(ValueError, match="at least 8 frames"):
        clips.clip(0, "test", 7)


def test_the_tasks_hold_as_many_questions_as_they_say_and_every_family() -> None:
    samples = list(synth_vqa(None))
    assert len(samples) == len({s.id for s in samples}) == 1000
    assert len({s.cluster_id for s in samples}) == 250
    families = Counter(s.slices["question"] for s in samples)
    assert set(families) == set(FAMILIES)
    assert min(families.values()) >= 120
    film = list(synth_video_qa(None))
    assert len(film) == len({s.id for s in film}) == 300
    assert set(Counter(s.stratum for s in film)) == set(clips.FAMILIES)


def test_samples_load_their_pictures_lazily_and_know_their_frames() -> None:
    sample = next(iter(synth_vqa(None)))
    assert sample.images[0]().size == (96, 96)
    film = next(iter(synth_video_qa_16(None)))
    assert len(film.images) == 16
    assert {r.image for r in film.regions} <= set(range(16))


def test_listing_twice_gives_equal_fingerprints() -> None:
    one, two = ([s.fingerprint for s in clip_samples(5, "test", 8)] for _ in range(2))
    assert one == two
    assert len(set(one)) == len(one)


def test_a_folder_is_refused_in_one_sentence() -> None:
    with pytest.raises(UserError, match="draws its own pictures"):
        list(islice(synth_vqa(Path("photos")), 1))


def test_photographs_are_training_ones_of_the_committed_split() -> None:
    split = Path(drawing.__file__).parent.parent / "reconstruction" / "split.json"
    listed = {entry["file"]: entry["split"] for entry in json.loads(split.read_text())["photographs"]}
    assert {listed[f"skimage/data/{name}"] for name in drawing.photograph_names()} == {"training"}


def test_photographs_are_lossless_and_large_enough_for_a_crop() -> None:
    assert all(name.endswith(".png") for name in drawing.photograph_names())
    assert all(min(photo.shape[:2]) >= drawing.SIZE for photo in drawing.photographs())
