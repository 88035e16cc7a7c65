"""One lmms-eval task as one family of models is asked it: its samples, what they show, and how they are scored."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...harness.contracts import BorrowedTask, Footage, Generation, Listed, Sample, Turn, UserError
from . import aggregation, library
from .catalogue import tasks_folder
from .frames import film
from .scoring import Judge, LmmsMetric, holds_on_subsets, probes
from .wrappers import Wrapper, part_of

if TYPE_CHECKING:
    from PIL.Image import Image

CATEGORIES = (
    "category", "question_type", "task_type", "type", "subtask", "sub_task", "task", "question_category", "l2-category",
    "L2-category", "sub_category", "subcategory", "subject", "topic", "domain", "duration", "split_name", "data_source",
)  # fmt: skip
"""Fields of a document that say which kind of question it is, the first of them that tells a few kinds apart."""
MOST_CATEGORIES = 64
VERSION = version("lmms-eval")


@dataclass(frozen=True)
class LmmsTask(BorrowedTask):
    """A loaded task with the prompts of a wrapper."""

    name: str
    yaml: Path
    task: Any
    wrapper: Wrapper

    @property
    def pixels(self) -> tuple[int, int] | None:  # type: ignore[override]
        return self.wrapper.pixels

    @cached_property
    def revision(self) -> object:  # type: ignore[override]
        """Everything of the task that determines a prompt or a score: its files, lmms-eval and the wrapper."""
        return {
            "lmms_eval": VERSION,
            "task": self.code,
            "wrapper": repr(self.wrapper),
            "prompt": _digest(self.task.lmms_eval_specific_kwargs),
        }

    @cached_property
    def code(self) -> str:
        """Digest of the YAML and Python files beside the task's own."""
        files = sorted([*self.yaml.parent.glob("*.py"), *self.yaml.parent.glob("*.yaml")])
        return _digest([[f.name, hashlib.sha256(f.read_bytes()).hexdigest()] for f in files])

    # ---------------------------------------------------------------------------------------------------------- samples

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The number of every document by its sample's id: the task's name and a digest of the row without media."""
        found: dict[str, int] = {}
        seen: Counter[str] = Counter()
        docs = self.task.eval_docs
        for at, row in enumerate(docs.select_columns([c for c in docs.column_names if c not in _media_columns(docs)])):
            digest = _digest(row)
            seen[digest] += 1
            again = f"-{seen[digest]}" if seen[digest] > 1 else ""
            found[f"{self.name}-{digest}{again}"] = at
        return found

    @cached_property
    def category(self) -> str | None:
        """The task's own field that says of which kind a document is."""
        docs = self.task.eval_docs_no_media
        for name in CATEGORIES:
            if name not in docs.column_names:
                continue
            kinds = {v if isinstance(v, str) else None for v in docs[name]}
            if None not in kinds and 1 < len(kinds) <= min(MOST_CATEGORIES, max(2, len(docs) // 2)):
                return name
        return None

    @cached_property
    def _kinds(self) -> Sequence[str]:
        docs = self.task.eval_docs_no_media
        return docs[self.category] if self.category else [""] * len(docs)

    def listed(self) -> Sequence[Listed]:
        return [Listed(i, self._kinds[at]) for i, at in self._rows.items()]

    def samples(self, ids: Iterable[str]) -> tuple[Sample, ...]:
        rows = self._rows
        raw = _undecoded(self.task.eval_docs)
        return tuple(self._sample(i, rows[i], raw) for i in ids)

    def _sample(self, sample_id: str, at: int, raw: Any) -> Sample:
        kind = self._kinds[at]
        media = _media(raw[at]) or self._files(at)
        sample = Sample(
            id=sample_id,
            cluster_id=media or sample_id,
            images=(),
            fingerprint=_digest([sample_id, media, self.code, repr(self.wrapper), self._asked]),
            slices={str(self.category): kind} if self.category else {},
            stratum=kind,
            generation=self.generation,
            clip=self._is_clip(at),
        )
        return replace(sample, opens=lambda: self._open(sample, at))

    def opened(self, at: int) -> Sample:
        """The sample of a document, with its pictures and prompt."""
        sample = Sample(self._ids[at], "", (), "", generation=self.generation, clip=self._is_clip(at))
        return self._open(sample, at)

    @cached_property
    def _ids(self) -> dict[int, str]:
        return {at: i for i, at in self._rows.items()}

    def _is_clip(self, at: int) -> bool:
        """Does a document show one clip, and nothing else?"""
        if _media_columns(self.task.eval_docs):
            return False
        try:
            shown = self.task.doc_to_visual(self.task.eval_docs[at]) or []
        except Exception:
            return False  # opening the sample will say why
        pictures = tuple(self.task._IMAGE_EXTS)
        return len(shown) == 1 and isinstance(v := shown[0], str | dict) and not str(v).lower().endswith(pictures)

    def _files(self, at: int) -> str:
        """Digest of what a document names rather than holds: clips, mostly, or pictures of another data set (GQA)."""
        try:
            shown = self.task.doc_to_visual(self.task.eval_docs[at]) or []
        except Exception:
            return ""  # opening the sample will say why
        if shown and all(hasattr(v, "tobytes") for v in shown):
            return _digest([hashlib.sha256(v.tobytes()).hexdigest() for v in shown])
        paths = [
            Path(p) for v in shown if isinstance(p := v.get("path", v.get("url")) if isinstance(v, dict) else v, str)
        ]
        return _digest([_file_digest(p) for p in paths if p.is_file()]) if paths else ""

    @cached_property
    def _asked(self) -> object:
        return _digest([self.task.lmms_eval_specific_kwargs, library.generation(self.task)])

    @cached_property
    def generation(self) -> Generation:
        """Greedy decoding with the task's longest answer; `until` is ignored, as the wrappers' chat models do.

        Raises:
            UserError: the task samples its answers, or searches with beams.
        """
        asked = library.generation(self.task)
        if float(asked.get("temperature") or 0) > 0 or int(asked.get("num_beams") or 1) > 1:
            raise UserError(
                f"lmms:{self.name} wants its answers sampled or searched ({asked}), and ours are decoded greedily."
            )
        return Generation(int(asked.get("max_new_tokens") or self.wrapper.max_new_tokens), tokenizer_end=True)

    def _open(self, sample: Sample, at: int) -> Sample:
        """Decode a document's pictures and make its prompt.

        Raises:
            ValueError: sound, which no family of ours hears.
        """
        turns: list[Turn] = []
        pictures: list[Image] = []
        footage = None
        for message in library.messages(self.task, at):
            content: list[str | None] = []
            for part in message.content:
                if part.type == "text":
                    content.append(part.text)
                    continue
                shown, footage = self._shown(part)
                pictures += shown
                content += [None] * (1 if sample.clip else len(shown))
            turns.append(Turn(message.role, tuple(content)))
        if sample.clip and sum(part is None for turn in turns for part in turn.content) != 1:
            raise ValueError("its messages show more than the one clip of its document")
        if self.wrapper.system is not None:
            turns.insert(0, Turn("system", (self.wrapper.system,)))
        asked = [text for turn in turns if turn.role == "user" for text in turn.content if text is not None]
        return replace(
            sample,
            images=tuple(_loader(p) for p in pictures),
            question="\n".join(asked),
            answers=library.targets(self.task, at),
            turns=tuple(turns),
            footage=footage if sample.clip else None,
            opens=None,
        )

    def _shown(self, part: Any) -> tuple[list[Image], Footage | None]:
        if part.type == "image":
            return [self.wrapper.sees(_picture(part.url))], None
        if part.type != "video":
            raise ValueError(f"{self.name} holds {part.type}, which no family of ours takes")
        place, span = part.url, (part.start_time, part.end_time)
        if isinstance(place, dict):
            span = place.get("video_start"), place.get("video_end")
            place = place.get("url") or place.get("path") or place.get("video")
        if isinstance(place, list | tuple):
            return [self.wrapper.sees(_picture(f)) for f in place], None
        shown = film(Path(place), lambda count, rate: self.wrapper.frame_numbers(*part_of(count, rate, span)))
        if not shown.rate and self.wrapper.frame_pixels:
            raise ValueError(f"{place} does not say how many frames it shows in a second")
        _, counted = part_of(shown.count, shown.rate, span)
        footage = Footage(tuple(shown.numbers), counted, shown.rate, fitted=self.wrapper.frame_pixels is not None)
        return self.wrapper.sees_clip(shown.frames), footage

    # ---------------------------------------------------------------------------------------------------------- metrics

    @cached_property
    def metrics(self) -> tuple[LmmsMetric, ...]:  # type: ignore[override]
        judge = Judge(self.task, self._rows)
        stated = f"lmms-eval {VERSION}, {self.name} {self.task.VERSION}, {self.wrapper.protocol()}"
        functions = self.task.aggregation()
        filters = [f.name for f in self.task._filters]
        scored = [metric for metric in functions if "submission" not in metric]  # those write a file for a server
        keys = [(metric, name) for name in filters for metric in scored]
        own = [key for key in keys if not library.is_mean(functions[key[0]])]
        tried = probes(judge, list(self._rows), own)
        found = []
        for metric, name in keys:
            function = functions[metric]
            key = metric, name
            score_key = self.task.config.score_key or "score"
            fine = key not in own or holds_on_subsets(partial(_figure, function), tried.get(key, ()), score_key)
            found.append(
                LmmsMetric(
                    name=metric if len(filters) == 1 else f"{metric},{name}",
                    key=key,
                    higher_is_better=bool(self.task.higher_is_better().get(metric, True)),
                    stamp=f"{stated}, filter {name}",
                    code=_digest([VERSION, self.code, name]),
                    aggregation=aggregation.describe(self.yaml, tasks_folder(), metric) if key in own else None,
                    whole_set=not fine,
                    judge=judge,
                    score_key=score_key,
                )
            )
        return tuple(found)


def _figure(function: Callable[..., object], values: Sequence[object]) -> float:
    return library.aggregate(function, copy.deepcopy(list(values)))


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _undecoded(docs: Any) -> Any:
    """The same rows, with media columns as bytes or paths."""
    for name, (feature, listed) in _media_columns(docs).items():
        plain = type(feature)(decode=False)
        docs = docs.cast_column(name, type(docs.features[name])(plain) if listed else plain)
    return docs


def _media_columns(docs: Any) -> dict[str, tuple[Any, bool]]:
    """Columns of pictures, clips and sound: what `datasets` decodes when a row is read, and whether in a list."""
    found = {}
    for name, feature in docs.features.items():
        inner = getattr(feature, "feature", feature)
        if hasattr(inner, "decode"):
            found[name] = inner, inner is not feature
    return found


def _media(row: Mapping[str, object]) -> str:
    """Digest of the pictures that a row holds; empty where it holds none."""
    found = hashlib.sha256()
    some = False
    for name in sorted(row):
        value = row[name]
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict) and {"bytes", "path"} <= set(part):
                data = part["bytes"] or (Path(part["path"]).read_bytes() if part["path"] else b"")
                found.update(hashlib.sha256(data).digest())
                some = some or bool(data)
    return found.hexdigest()[:16] if some else ""


def _file_digest(path: Path, end: int = 1 << 20) -> str:
    """Of a file's size and both ends, since clips are large."""
    size = path.stat().st_size
    with path.open("rb") as file:
        data = file.read(end)
        file.seek(max(0, size - end))
        data += file.read(end)
    return hashlib.sha256(str(size).encode() + data).hexdigest()[:16]


def _picture(shown: Any) -> Image:
    """A picture that a task shows: as it is, or from a path."""
    if not isinstance(shown, str):
        shown.load()
        opened: Image = shown
        return opened
    from PIL import Image, ImageOps

    with Image.open(shown) as picture:
        return ImageOps.exif_transpose(picture).convert("RGB")


def _loader(picture: Image) -> Any:
    return lambda: picture
