"""Training data, made on the fly: pictures with dense labels for the tower, packed questions for the language model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from ....tasks.synth import clips, drawing
from ....tasks.synth.drawing import COLOURS, GRID, LETTERS, PATCH, SHAPES, SIZE
from ....tasks.synth.questions import FAMILIES, Question, questions
from ....tasks.synth.scenes import LARGE, MEDIUM, SMALL, Scene, Split, Thing, scene
from . import mini

IGNORED = -100
PATCH_HEADS = {"kind": 3, "anchor": 2, "colour": 8, "shape": 8, "scale": 3, "letter": 26, "place": 5, "row": GRID,
               "column": GRID}  # fmt: skip
"""What is asked of every patch: nothing, object or letter; whether the object's centre is here; of an object its
colour, shape and size; of a letter which it is, and its place in the word; and where the patch lies. Without the last
two, patches of objects forget their place, and no language model can say what lies left of what."""
AID = "aid"
"""The family of questions that are only trained on: they ask for a part of what an answer takes."""
KINDS = (*FAMILIES, *clips.FAMILIES, AID)
PICTURE_HEAD = len(COLOURS) + len(SHAPES) + len(LETTERS)
"""What is asked of the class token: which colours, shapes and letters there are."""
QUOTA = {"colour": 3, "shape": 1, "counting": 1, "spatial": 4, "small": 2, "comparison": 1, "reading": 1}
"""Questions of each family about one training picture, more of those that are hard to learn."""


@dataclass
class Batch:
    """Tensors of one training step. Pictures are [n, SIZE, SIZE, 3] bytes.

    `patches` [n, patches, heads] and `picture` [n, PICTURE_HEAD] label the tower's outputs. `ids`, `segment`,
    `position`, `target` and `family` [b, length] are packed prompts: segment 0 is the pictures and what precedes them,
    which every question (segments 1, 2, ...) sees; questions don't see each other; -1 is padding.
    """

    pixels: torch.Tensor
    patches: torch.Tensor | None = None
    picture: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    segment: torch.Tensor | None = None
    position: torch.Tensor | None = None
    target: torch.Tensor | None = None
    family: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if v is not None}
        return Batch(**moved)


def patch_labels(made: Scene) -> npt.NDArray[np.int64]:
    """[patches, heads] in the order of `PATCH_HEADS`, IGNORED where a question makes no sense."""
    labels = np.full((GRID, GRID, len(PATCH_HEADS)), IGNORED, np.int64)
    labels[..., :2] = 0
    labels[..., 7], labels[..., 8] = np.mgrid[:GRID, :GRID]
    colours = list(COLOURS)
    for thing in made.things:
        canvas = np.zeros((SIZE, SIZE), np.int32)
        canvas[thing.y : thing.y + thing.side, thing.x : thing.x + thing.side] = drawing.shape_alpha(
            thing.shape, thing.side
        )
        cover = canvas.reshape(GRID, PATCH, GRID, PATCH).sum((1, 3))
        scale = (SMALL, MEDIUM, LARGE).index(thing.scale)
        seen = (1, 0, colours.index(thing.colour), SHAPES.index(thing.shape), scale, IGNORED, IGNORED)
        labels[cover >= 10 * 256, :7] = seen
        labels[(thing.y + thing.side // 2) // PATCH, (thing.x + thing.side // 2) // PATCH, 1] = 1
    for place, (x0, y0, _, _) in enumerate(made.word.boxes):
        letter = LETTERS.index(made.word.text[place])
        labels[y0 // PATCH, x0 // PATCH, :7] = (2, 0, IGNORED, IGNORED, IGNORED, letter, place)
    return labels.reshape(GRID * GRID, -1)


def picture_labels(made: Scene) -> npt.NDArray[np.float32]:
    """[PICTURE_HEAD] 1 for every colour, shape and letter that is to be seen."""
    seen = {t.colour for t in made.things} | {t.shape for t in made.things} | set(made.word.text)
    return np.array([name in seen for name in (*COLOURS, *SHAPES, *LETTERS)], np.float32)


def tower_batch(indices: Sequence[int], split: Split) -> Batch:
    """Scenes with labels for the tower."""
    return _labelled([scene(i, split) for i in indices])


def _labelled(made: Sequence[Scene]) -> Batch:
    return Batch(
        torch.from_numpy(np.stack([s.draw() for s in made])),
        torch.from_numpy(np.stack([patch_labels(s) for s in made])),
        torch.from_numpy(np.stack([picture_labels(s) for s in made])),
    )


def scene_batch(indices: Sequence[int], split: Split) -> Batch:
    """Scenes with the questions that `QUOTA` takes of each; the tower's labels come along."""
    made = [scene(i, split) for i in indices]
    return pack(_labelled(made), [[*sample(questions(s)), *scene_aids(s)] for s in made], pictures=1)


def place_batch(indices: Sequence[int], split: Split) -> Batch:
    """Scenes that are asked only where things are.

    Among all other questions the gradient of these is lost: guessing columns and rows is a saddle, left after some 60
    steps of nothing else, and not at all in 12,000 scenes of everything.
    """
    made = [scene(i, split) for i in indices]
    asked = [[q for q in questions(s) if q.family == "spatial"][: QUOTA["spatial"]] for s in made]
    places = [[q for q in scene_aids(s) if q.text.startswith("Where")] for s in made]
    return pack(_labelled(made), [[*q, *p] for q, p in zip(asked, places, strict=True)], pictures=1)


def clip_batch(indices: Sequence[int], split: Split, frames: int = 8) -> Batch:
    """Clips with all their questions, and some about parts of the answers."""
    made = [clips.clip(i, split, frames) for i in indices]
    pixels = np.stack([c.draw(f) for c in made for f in range(frames)])
    asked = []
    for c in made:
        aids = list(clip_aids(c))
        chosen = np.random.RandomState(c.seed ^ 0xC11).permutation(len(aids))[:CLIP_AIDS]
        asked.append([*c.questions, _turned(c), *(aids[i] for i in chosen)])
    return pack(Batch(torch.from_numpy(pixels)), asked, pictures=frames)


def _turned(made: clips.Clip) -> Question:
    """The question for the order of two things, with the other one named first."""
    order = next(q for q in made.questions if q.family == "order")
    first, second = order.text.removeprefix("Which appears first, ").removesuffix("?").split(" or ")
    return replace(order, text=f"Which appears first, {second} or {first}?")


MOMENTS = 4
CLIP_AIDS = 6
"""Questions on parts of the answers for every clip: with all of some twenty, the answers themselves came slowly."""


def moment_batch(indices: Sequence[int], split: Split) -> Batch:
    """Clips of which four frames are shown, which still tell directions, order, changes and the word, and only these
    are asked: at a third of the cost, and undiluted, since what hangs on time is another saddle."""
    pixels, asked = [], []
    for index in indices:
        made = clips.clip(index, split)
        rng = np.random.RandomState(made.seed ^ 0x303E)
        pixels += [made.draw(f) for f in moments(made, rng)]
        found = [q for q in made.questions if q.family != "repetition"]
        places = [q for q in clip_aids(made) if q.text.startswith("Where")]
        asked.append([*found, _turned(made), *places])
    return pack(Batch(torch.from_numpy(np.stack(pixels))), asked, pictures=MOMENTS)


def moments(made: clips.Clip, rng: np.random.RandomState) -> list[int]:
    """The first and the last frame, one with the word, and one in which only the earlier of two things has come."""
    late, early = sorted(sum(t is not None for t in actor.frames) for actor in made.actors[2:])
    frames = len(made.actors[0].frames)
    first, second = frames - early, frames - late
    chosen = {0, frames - 1, made.word_frames[rng.randint(2)], first + rng.randint(second - first)}
    spare = [f for f in rng.permutation(frames).tolist() if f not in chosen]
    return sorted([*chosen, *spare[: MOMENTS - len(chosen)]])


def scene_aids(made: Scene) -> Iterator[Question]:
    """Column and row, in sixths, of five objects, and a letter of the word by its number.

    Places come late (they were still unlearned after 8,000 scenes with two such questions each), letters early.
    """
    rng = np.random.RandomState(made.seed ^ 0xA1D)
    for i in rng.permutation(len(made.things))[:5]:
        thing = made.things[i]
        yield Question(AID, f"Where is the {thing.colour} {thing.shape}?", _sixths(thing), ())
    yield from _letters(made.word.text, rng, 1)


def clip_aids(made: clips.Clip) -> Iterator[Question]:
    """Parts of what an answer about a clip takes: looks, in how many frames a thing shows, where it starts and ends."""
    rng = np.random.RandomState(made.seed ^ 0xA1D)
    for actor in made.actors:
        shown = [thing for thing in actor.frames if thing is not None]
        looks = {(t.shape, t.colour) for t in shown}
        if len(looks) > 1:
            continue
        ((shape, colour),) = looks
        yield Question(AID, f"What shape is the {colour} object?", shape, ())
        yield Question(AID, f"What colour is the {shape}?", colour, ())
        yield Question(AID, f"How often is the {colour} {shape} seen?", str(len(shown)), ())
        if shown[0] != shown[-1]:
            yield Question(AID, f"Where is the {colour} {shape} first?", _sixths(shown[0]), ())
            yield Question(AID, f"Where does the {colour} {shape} move?", _sixths(shown[-1]), ())
    yield from _letters(made.word.text, rng, 2)


def _sixths(thing: Thing) -> str:
    """Column and row of a thing's centre, in sixths of the picture."""
    column, row = ((2 * at + thing.side) * 3 // SIZE for at in (thing.x, thing.y))
    return f"{column} {row}"


def _letters(text: str, rng: np.random.RandomState, number: int) -> Iterator[Question]:
    for i in rng.permutation(len(text))[:number]:
        yield Question(AID, f"What word {i + 1}?", text[i], ())


def sample(found: Sequence[Question]) -> list[Question]:
    """The first questions of every family, as many as `QUOTA` says."""
    left = dict(QUOTA)
    chosen = []
    for question in found:
        if left[question.family]:
            left[question.family] -= 1
            chosen.append(question)
    return chosen


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return mini.tokenizer()


def prompt_ids(pictures: int) -> list[int]:
    """What precedes the question: `<s>USER: ` and the pictures' placeholders."""
    one = "<image>" * GRID**2 + "\n"
    return list(_tokenizer()("USER: " + one * pictures)["input_ids"])


def pack(batch: Batch, asked: Sequence[Sequence[Question]], pictures: int) -> Batch:
    """Fill in `ids`, `segment`, `position`, `target` and `family`."""
    texts = [f"{q.text} ASSISTANT: {q.answer}</s>" for group in asked for q in group]
    heads = [f"{q.text} ASSISTANT:" for group in asked for q in group]
    tokenizer = _tokenizer()
    whole = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    head = iter(tokenizer(heads, add_special_tokens=False)["input_ids"])
    prefix = prompt_ids(pictures)
    rows: dict[str, list[list[int]]] = defaultdict(list)
    for group in asked:
        row = {"ids": list(prefix), "segment": [0] * len(prefix), "position": list(range(len(prefix)))}
        row |= {"target": [IGNORED] * len(prefix), "family": [-1] * len(prefix)}
        for number, question in enumerate(group, 1):
            ids, start = next(whole), len(next(head)) - 1
            row["ids"] += ids
            row["segment"] += [number] * len(ids)
            row["position"] += range(len(prefix), len(prefix) + len(ids))
            row["target"] += [IGNORED] * start + ids[start + 1 :] + [IGNORED]
            row["family"] += [KINDS.index(question.family)] * len(ids)
        for key, values in row.items():
            rows[key].append(values)
    longest = max(map(len, rows["ids"]))
    padding = {"ids": 0, "segment": -1, "position": 0, "target": IGNORED, "family": -1}
    for key, value in padding.items():
        setattr(batch, key, torch.tensor([r + [value] * (longest - len(r)) for r in rows[key]]))
    return batch


class Stream(torch.utils.data.Dataset[Batch]):
    """Batch number i holds the scenes (or clips) from i * size on: any step can be made again.

    Args:
        share: which of how many equal parts of every batch; each is another process's.
    """

    def __init__(self, kind: str, size: int, split: Split, *, offset: int = 0, share: tuple[int, int] = (0, 1)) -> None:
        self.make = {"patches": tower_batch, "scenes": scene_batch, "places": place_batch, "moments": moment_batch,
                     "clips": clip_batch}[kind]  # fmt: skip
        self.size, self.split, self.offset = size, split, offset
        self.part, self.parts = share
        if size % self.parts:
            raise ValueError(f"a batch of {size} {kind} cannot be shared equally by {self.parts} processes")

    def __getitem__(self, step: int) -> Batch:
        own = self.size // self.parts
        first = self.offset + step * self.size + self.part * own
        return self.make(range(first, first + own), self.split)


def batches(
    kind: str, size: int, split: Split, steps: range, *, offset: int = 0, workers: int = 0,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:  # fmt: skip
    """The batches of these steps, in order, made by `workers` processes ahead of time; see `Stream`."""
    loader = torch.utils.data.DataLoader(
        Stream(kind, size, split, offset=offset, share=share), batch_size=None, sampler=steps, num_workers=workers,
        prefetch_factor=4 if workers else None, worker_init_fn=_one_thread,
    )  # fmt: skip
    yield from loader


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
