"""The embedded model: an ordinary LLaVA, whose training packs questions without letting them see each other."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from toksweep.harness.models.embedded import batches, evaluate, export, mini, train
from toksweep.harness.models.embedded.contrast import caption, train_text
from toksweep.harness.models.embedded.muon import orthogonal
from toksweep.tasks.synth import clips
from toksweep.tasks.synth.questions import questions
from toksweep.tasks.synth.samples import clip_samples, scene_samples
from toksweep.tasks.synth.scenes import scene
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

SMALL = {
    "tower": train.Plan(steps=2, size=2, tower=True, language=False, kind="patches"),
    "language": train.Plan(steps=2, size=2),
    "films": train.Plan(steps=1, size=1, clips=1),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run of five steps in one go, and the text encoder."""
    out = tmp_path_factory.mktemp("run")
    trainer = train.Trainer(out, "cpu", 0, 60)
    assert train.go_on(trainer, SMALL)
    train_text(trainer.model.model.vision_tower, out, offset=7, steps=2, size=4)
    return out


@pytest.fixture(scope="module")
def folders(run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return export.export(run, tmp_path_factory.mktemp("out"))


def test_both_folders_are_written_with_their_digests_and_without_a_word(run: Path, tmp_path: Path, capfd) -> None:
    folders = export.export(run, tmp_path)
    assert [folder.name for folder in folders] == ["toksweep-mini", "toksweep-mini-clip"]
    assert all((folder / "SHA256SUMS").is_file() for folder in folders)
    assert capfd.readouterr() == ("", "")


def test_no_word_of_a_question_answer_or_caption_is_unknown() -> None:
    tokenizer = mini.tokenizer()
    for i in range(40):
        texts = [f"{q.text} {q.answer}" for q in (*questions(scene(i, "test")), *clips.clip(i, "test").questions)]
        texts += [f"{q.text} {q.answer}" for q in batches.scene_aids(scene(i, "train"))]
        for ids in tokenizer([*texts, caption(scene(i, "train"))])["input_ids"]:
            assert tokenizer.unk_token_id not in ids


def test_a_printed_word_is_spelt_and_comes_back_in_one_piece() -> None:
    tokenizer = mini.tokenizer()
    ids = tokenizer("QXZAB", add_special_tokens=False)["input_ids"]
    assert len(ids) == 5
    assert tokenizer.decode(ids) == "QXZAB"


@pytest.mark.parametrize("pictures", [1, 3])
def test_training_prompts_are_those_of_the_processors_chat_template(pictures: int) -> None:
    processor = mini.processor()
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": "What word is printed?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    shown = [Image.new("RGB", (96, 96))] * pictures
    ids = processor(images=shown, text=prompt)["input_ids"]
    ids = ids[0] if isinstance(ids[0], list) else ids
    asked = mini.tokenizer()("What word is printed? ASSISTANT:", add_special_tokens=False)["input_ids"]
    assert list(ids) == batches.prompt_ids(pictures) + asked


def test_packed_questions_score_as_each_would_alone(run: Path) -> None:
    trainer = train.Trainer(run, "cpu", 0, 60)
    trainer.model.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["model"])
    trainer.model.eval()
    made = scene(5, "train")
    batch = batches.scene_batch([5], "train")
    with torch.no_grad():
        packed, _ = trainer.answer_loss(trainer.see(batch.pixels)[0], batch)
    processor, total, count = mini.processor(), 0.0, 0
    picture = Image.fromarray(made.draw())
    for question in [*batches.sample(questions(made)), *batches.scene_aids(made)]:
        head = f"USER: <image>\n{question.text} ASSISTANT:"
        inputs = processor(images=picture, text=f"{head} {question.answer}</s>", return_tensors="pt")
        labels = inputs["input_ids"].clone()
        labels[:, : processor(images=picture, text=head, return_tensors="pt")["input_ids"].shape[1]] = -100
        with torch.no_grad():
            logits = trainer.model(**inputs).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum"))
        count += int((labels != -100).sum())
    assert float(packed) == pytest.approx(total / count, rel=1e-5)


def test_labels_of_patches_say_what_the_scene_holds() -> None:
    made = scene(11, "train")
    labels = batches.patch_labels(made).reshape(12, 12, -1)
    assert (labels[..., 1] == 1).sum() == len(made.things)
    assert (labels[..., 0] == 2).sum() == len(made.word.text)
    assert (labels[3, 9, 7:] == (3, 9)).all()
    for place, (x, y, _, _) in enumerate(made.word.boxes):
        assert labels[y // 8, x // 8, 6] == place
        assert batches.LETTERS[labels[y // 8, x // 8, 5]] == made.word.text[place]


def test_a_stopped_run_goes_on_to_the_weights_of_one_that_never_stopped(run: Path, tmp_path: Path) -> None:
    runs = 1
    while not train.go_on(train.Trainer(tmp_path, "cpu", 0, minutes=0), SMALL):  # no time: stops after a step
        runs += 1
    assert runs == 3
    wanted, got = (torch.load(folder / "checkpoint.pt", weights_only=True)["model"] for folder in (run, tmp_path))
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)


def test_the_log_has_a_line_for_every_stage(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == list(SMALL)
    assert [next(n for n in line if n.endswith("loss")) for line in lines] == [
        "patches.loss",
        "scenes.loss",
        "scenes.loss",
    ]


def test_the_folders_load_as_ordinary_checkpoints_and_answer(folders: list[Path]) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folders[0], dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folders[0])
    assert model.config.vision_config.num_hidden_layers >= 6
    assert model.config.text_config.num_hidden_layers >= 6
    samples = [*scene_samples(1, "validation"), *list(clip_samples(1, "validation", 8))[:1]]
    said = evaluate.answers(model, processor, samples[:4]) + evaluate.answers(model, processor, samples[4:])
    assert len(evaluate.accuracies(samples, said)) > 3


def test_the_clip_folder_has_the_models_own_tower(folders: list[Path]) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(folders[0], dtype=torch.float32)
    pair = CLIPModel.from_pretrained(folders[1], dtype=torch.float32)
    theirs, ours = pair.vision_model.state_dict(), model.model.vision_tower.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    inputs = AutoProcessor.from_pretrained(folders[1])(
        text=["a red circle", "a ring"], images=[Image.new("RGB", (96, 96))], padding=True, return_tensors="pt"
    )
    assert pair(**inputs).logits_per_image.shape == (1, 2)


def test_all_weights_together_stay_below_fourteen_megabytes(folders: list[Path]) -> None:
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 14_000_000


def test_muon_makes_singular_values_about_one() -> None:
    found = torch.linalg.svdvals(orthogonal(torch.randn(2, 30, 50, generator=torch.Generator().manual_seed(0))))
    assert found.min() > 0.6
    assert found.max() < 1.3
