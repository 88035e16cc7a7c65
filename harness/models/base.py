"""A vision-language model as the runner sees it: prepare a batch once, encode it once, answer it under many schedules.

What a family must add is small (see `VisionLanguageModel`'s abstract methods); cutting, decoding and counting are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from ..contracts import Compressor, Memo, ModelShape, Sample, Stage, Survival, Turn, UserError
from ..schedule import Schedule, cuts
from ..watching import Watch
from .abilities import READABLE, TOWER, FamilyInfo
from .calls import BudgetKind, Calls
from .cutter import Cutter
from .data import Answer, Batch, Crop, Encoded, Shown, Sight
from .door import enter
from .encoder import Block
from .encoding import encode
from .evidence import survivals
from .penalty import RepetitionPenalty
from .preparing import prepare
from .signals import tower_signals
from .span import counted
from .text_encoder import NEEDED

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from .text_encoder import TextEncoder

__all__ = ["Answer", "Batch", "Crop", "Decoding", "Encoded", "FamilyInfo", "VisionLanguageModel"]


@dataclass
class Decoding:
    """A prompt after prefill, ready for the next token."""

    logits: torch.Tensor
    cache: object
    cutter: Cutter
    calls: Calls | None
    valid: torch.Tensor
    position: torch.Tensor


class VisionLanguageModel(ABC):
    """A model of one family.

    Attributes:
        architecture: the class of transformers that the family serves.
        revision: digest of weights and configuration of a local folder, or the hub's commit.
        text_encoder: a checkpoint of its own, for methods that read `clip_text` or `clip_patches`.
        watch: is told of the phases of a prefill; see `watched`.
    """

    family: ClassVar[str]
    architecture: ClassVar[str]

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        self.model, self.processor, self.shape, self.info, self.revision = model, processor, shape, info, revision
        self.places, self.signals = info.places, info.signals
        self.device = next(model.parameters()).device
        self.text_encoder: TextEncoder | None = None
        self.watch = Watch()
        self.tokenizer.padding_side = "left"

    # ---------------------------------------------------------------------------------------------- a family's own part

    @classmethod
    @abstractmethod
    def describe(cls, config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        """Shape and abilities of a configuration; UserError for one that the family does not serve."""

    @abstractmethod
    def tokenise(self, prompts: list[str], pictures: list[Image]) -> tuple[torch.Tensor, torch.Tensor, Sequence[Shown]]:
        """`input_ids` and `attention_mask` (left-padded) of a batch, and in prompt order all its pictures."""

    def show_clip(self, prompt: str, frames: Sequence[Image]) -> tuple[torch.Tensor, Shown]:
        """`input_ids` [length] of a prompt with one clip, whose frames are all shown, and the clip; for families that
        show clips as such."""
        raise NotImplementedError(f"the family {self.family} shows no clips")

    @abstractmethod
    def shrink(self, crop: Crop, grid: tuple[int, int]) -> torch.Tensor:
        """Pixels of the same crop for a smaller grid of visual tokens."""

    @abstractmethod
    def see(self, crops: Sequence[Crop], *, resized: bool) -> Sight:
        """Features of every crop as they go into the projector, [n, dim] in raster order; in front of them a class
        token where the shape has one. `resized` says that some crops were shrunk."""

    @abstractmethod
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Rows of features as the LLM gets them, [rows, dim] to [rows, dim], each row by itself."""

    @abstractmethod
    def blocks(self, crops: Sequence[Crop]) -> list[Block]:
        """Layers of the vision tower that sees these crops."""

    # ----------------------------------------------------------------------------------------- what most families share

    @property
    def text_model(self) -> nn.Module:
        """The text model, with `layers` and `rotary_emb`."""
        found: nn.Module = self.model.model.language_model  # type: ignore[union-attr,assignment]
        return found

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, for decoding answers."""
        return self.processor.tokenizer  # type: ignore[attr-defined]

    @property
    def image_token(self) -> str:
        """The text that stands for a picture in a prompt."""
        return str(self.processor.image_token)  # type: ignore[attr-defined]

    @property
    def video_token(self) -> str | None:
        """The text that stands for a clip in a prompt, if clips are shown as such."""
        return str(self.processor.video_token) if self.info.clips else None  # type: ignore[attr-defined]

    @property
    def placeholder(self) -> int:
        """Id of the token that a visual token takes the place of."""
        return int(self.model.config.image_token_id)  # type: ignore[union-attr,arg-type]

    def shows_clip(self, sample: Sample) -> bool:
        """Is a sample a clip to the model, and not so many pictures?"""
        return sample.clip and self.info.clips is not None

    def prompt(self, sample: Sample, images: int) -> str:
        """The text of a sample's prompt, of the processor's chat template: its turns, else in front of the question one
        token per picture, or one for the clip.

        Raises:
            UserError: the processor has none.
        """
        if not getattr(self.processor, "chat_template", None):
            raise UserError(f"The processor of this {self.family} has no chat template: add its chat_template.jinja.")
        turns = sample.turns or (Turn("user", (*[None] * (1 if sample.clip else images), sample.question or "")),)
        seen = [{"type": "image"}] * (images if sample.clip else 1)
        seen = [{"type": "video"}] if self.shows_clip(sample) else seen
        told = [
            {"role": turn.role, "content": [part for c in turn.content for part in (seen if c is None else [_text(c)])]}
            for turn in turns
        ]
        text: str = self.processor.apply_chat_template(  # type: ignore[attr-defined]
            told, add_generation_prompt=True, tokenize=False
        )
        return text

    def limit_pixels(self, least: int, most: int) -> None:  # noqa: B027 - most families have nothing to limit
        """Show pictures of at least and at most so many pixels, in families that see them at their own resolution."""

    def positions(self, ids: torch.Tensor, valid: torch.Tensor, crops: Sequence[Crop]) -> torch.Tensor:
        """Rotary positions of a prompt whose visual tokens have the crops' grids, [..., batch, length]."""
        return counted(valid)

    def separators(self, crops: Sequence[Crop], encoded: Encoded) -> Sequence[torch.Tensor]:
        """What the LLM gets in the places of every crop's separators, [separators, dim]; for families that have any."""
        raise NotImplementedError(f"the family {self.family} has no separators")

    @contextmanager
    def listening(self, reads: frozenset[str], crops: Sequence[Crop]) -> Iterator[dict[str, Sequence[torch.Tensor]]]:
        """Catch the signals of vision layers, one tensor per crop, while the tower runs on them once; they are there
        when the context has been left."""
        with self.tower_signals(reads, crops, class_token=self.shape.class_token) as found:
            yield found

    @property
    def tower_norm(self) -> nn.Module | None:
        """The vision tower's last norm, which features have not passed; None in families without `clip_patches`."""
        return None

    @contextmanager
    def tower_signals(
        self, reads: frozenset[str], crops: Sequence[Crop], *, class_token: bool
    ) -> Iterator[dict[str, Sequence[torch.Tensor]]]:
        """Signals of a tower whose layers see [images, n, dim], the class token first, as they come."""
        found: dict[str, Sequence[torch.Tensor]] = {}
        with tower_signals(self.blocks(crops), reads, found, class_token=class_token, watch=self.watch):
            yield found

    # ------------------------------------------------------------------------------------------------------- preparing

    def prepare(self, samples: Sequence[Sample], images: Sequence[Sequence[Image]]) -> Batch:
        """Preprocess and tokenise samples with their decoded pictures, one list per sample.

        Raises:
            UserError: a sample without a question or a picture, whose question holds the model's image token, or whose
                prompt is too long; a clip whose frames differ in size, or one beside pictures, where clips are shown as
                such.
        """
        return prepare(self, samples, images)

    def single(self, batch: Batch, encoded: Encoded | None, index: int) -> tuple[Batch, Encoded | None]:
        """One sample of a batch, without the padding that it had there."""
        return batch.of(index), encoded and encoded.of(batch.images_of(index))

    # -------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, batch: Batch, reads: frozenset[str] = frozenset()) -> Encoded:
        """The vision pass that all cells without pixel or encoder stages share; `reads` joins their signals."""
        return encode(self, batch, reads, (), None)

    def needed_text_encoder(self) -> TextEncoder:
        """Raises UserError where none was given."""
        if self.text_encoder is None:
            raise UserError(f"The method needs {NEEDED}.")
        return self.text_encoder

    # ------------------------------------------------------------------------------------------------------- answering

    @torch.no_grad()
    def answer(
        self, batch: Batch, encoded: Encoded | None, compressor: Compressor | None, schedule: Schedule, *, seed: int,
        max_new_tokens: int, budget_kind: BudgetKind = "exact", memo: Memo | None = None, tokenizer_end: bool = False,
    ) -> list[Answer]:  # fmt: skip
        """Answer every sample of a batch by greedy decoding, with the checkpoint's repetition penalty where it has one.

        Args:
            tokenizer_end: see `Generation`.
            encoded: what `encode` returned; None (and ignored where the schedule changes the encoding) encodes here.
            compressor: what `schedule.stages` came from; None where the schedule has none.
            budget_kind: as the method declares it; `exact` and `at_most` counts are checked.
            memo: shared by calls with this `encoded`, compressor and seed, which differ in their budget alone.

        Raises:
            BrokenPromiseError: the method returned another number of tokens than its schedule says.
        """
        state = self.prefill(batch, encoded, compressor, schedule, seed=seed, budget_kind=budget_kind, memo=memo)
        ends = frozenset([self.tokenizer.eos_token_id]) if tokenizer_end else self.end_tokens
        written = self._write(state, max_new_tokens, ends, self._repetition_penalty(batch))
        counts = torch.stack([span.counts() for span in state.cutter.spans]).T.tolist()
        texts = (batch.attention_mask.bool() & (batch.input_ids != self.placeholder)).sum(1).tolist()
        asked = any("clip_text" in stage.reads for stage in schedule.stages)
        segments = [len(self.needed_text_encoder().ids(q)) if asked else 0 for q in batch.questions]
        answers, sizes = [], _bytes_per_token(state.cache)
        for row, ids in enumerate(written):
            images = batch.images_of(row)
            kept = state.calls.kept(images) if state.calls else ()
            text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
            grids, seen = tuple(batch.crops[i].grid for i in images), tuple(counts[row])
            evidence = _survivals([batch.evidence[i].cpu() for i in images], images, state.calls)
            behind = state.cutter.spans[0].behind[row]
            full = len(batch.order[row])
            held = sum((texts[row] + n) * size for n, size in zip(seen, sizes, strict=True))
            answers.append(
                Answer(
                    text, tuple(ids), texts[row], full, seen, seen, kept, evidence, behind, segments[row], grids, held
                )
            )
        return answers

    @torch.no_grad()
    def prefill(
        self, batch: Batch, encoded: Encoded | None, compressor: Compressor | None, schedule: Schedule, *, seed: int,
        budget_kind: BudgetKind = "exact", memo: Memo | None = None,
    ) -> Decoding:  # fmt: skip
        """Run the prompt through the model under a schedule, up to the logits of the first new token.

        Raises:
            Refusal: the schedule cannot be had for one of the images.
        """
        shape = self.shape.of_clips() if batch.clip else self.shape
        samples = [[batch.crops[i].grid for i in batch.images_of(row)] for row in range(len(batch.sample_ids))]
        schedules = [one for grids in samples for one in schedule.over(grids, clip=batch.clip)]
        made = cuts(schedules)
        if made and compressor is None:
            raise ValueError("a schedule with cuts needs the compressor that they belong to")
        stages = [cut.stage for cut in made]
        self._check_stages(stages, clip=batch.clip)
        calls, anew = None, encoded is None or any(s.place in ("pixel", "encoder") for s in stages)
        if made and compressor is not None:
            calls = Calls(
                compressor, batch.names, [crop.grid for crop in batch.crops], seed=seed, kind=budget_kind,
                device=self.device, grids=[s.seen for s in schedules], shape=shape, memo=None if anew else memo,
                parts={image for image, crop in enumerate(batch.crops) if not crop.whole},
            )  # fmt: skip
        reads = frozenset(name for s in stages if s.place == "projector" for name in s.reads)
        if encoded is None or anew:
            with self.watch.phase("vision"):
                encoded = encode(self, batch, reads, made, calls)
        words = self.model.get_input_embeddings()  # type: ignore[operator]
        ids, span, whole, features, along = enter(
            batch, encoded, made, calls, placeholder=self.placeholder, words=words, positions=self.positions,
            separators=self.separators, watch=self.watch,
        )  # fmt: skip
        cutter = Cutter(self.text_model, made, calls, span, whole, along, self.watch)
        cache = self._new_cache()
        with cutter.prefill():
            logits = self._forward(ids, span.valid, span.position, cache, features)
        _check_cache(cache, cutter)
        return Decoding(logits, cache, cutter, calls, span.valid, span.position[..., -1:])

    def _check_stages(self, stages: Sequence[Stage], *, clip: bool) -> None:
        where = " on clips" if clip else ""
        missing = self.info.on(clip).lacking([s.place for s in stages], [name for s in stages for name in s.reads])
        for stage in stages:
            wrong = [name for name in stage.reads if not self._readable(name, stage)]
            missing += [f"the signal {name} at the place {stage.place}" for name in wrong]
            if stage.joint and (stage.place not in ("projector", "decoder") or "class_token" in stage.reads):
                missing.append(f"a joint stage at the place {stage.place} that reads {', '.join(stage.reads)}")
        if missing:
            raise UserError(f"The family {self.family} does not serve {', '.join(missing)}{where}.")

    def _readable(self, name: str, stage: Stage) -> bool:
        base, _, layer = name.partition("@")
        if base not in READABLE.get(stage.place, ()):
            return False
        if stage.place != "projector" or base not in TOWER:
            return not layer
        depth = self.shape.vision_layers
        return layer.lstrip("-").isdigit() and -depth <= int(layer) < depth

    def _forward(
        self, ids: torch.Tensor, valid: torch.Tensor, position: torch.Tensor, cache: object,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Logits of the last position in float32, [batch, vocabulary]."""
        image = {} if features is None else {"mm_encoder_outputs": {"image": self.container(features)}}
        out = self.model(
            input_ids=ids, attention_mask=valid.long(), position_ids=position, cache=cache, use_cache=True,
            logits_to_keep=1, **image,
        )  # fmt: skip
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def container(self, features: torch.Tensor) -> object:
        """Visual tokens of a whole batch, [tokens, dim], in the form in which the model takes encoded images; what runs
        along is the cutter's to add."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=[features])

    def _new_cache(self) -> object:
        from transformers import DynamicCache

        return DynamicCache(config=self.text_model.config)

    @torch.no_grad()
    def decode_step(self, state: Decoding, token: torch.Tensor | None = None) -> Decoding:
        """Feed one token per sample ([batch], default the most likely) and compute the next one's logits."""
        token = state.logits.argmax(-1) if token is None else token
        with state.cutter.decoding():
            return self._step(state, token)

    def _step(self, state: Decoding, token: torch.Tensor) -> Decoding:
        valid = torch.cat([state.valid, state.valid.new_ones(len(token), 1)], 1)
        position = state.position + 1
        logits = self._forward(token[:, None], valid, position, state.cache)
        return replace(state, logits=logits, valid=valid, position=position)

    def _write(
        self, state: Decoding, max_new_tokens: int, ends: frozenset[int], penalty: RepetitionPenalty | None = None
    ) -> list[list[int]]:
        """Greedy decoding: the new tokens of every sample up to its end token, which is left out."""
        written: list[list[int]] = [[] for _ in range(len(state.logits))]
        running = set(range(len(written)))
        with state.cutter.decoding() if max_new_tokens > 1 else nullcontext():
            for step in range(max_new_tokens):
                token = (penalty(state.logits) if penalty else state.logits).argmax(-1)
                for row, chosen in enumerate(token.tolist()):
                    if row in running:
                        if chosen in ends:
                            running.discard(row)
                        else:
                            written[row].append(chosen)
                if not running or step + 1 == max_new_tokens:
                    break
                if penalty:
                    penalty.saw(token)
                state = self._step(state, token)
        return written

    def _repetition_penalty(self, batch: Batch) -> RepetitionPenalty:
        factor = getattr(self.model.generation_config, "repetition_penalty", None)
        return RepetitionPenalty(factor or 1.0, batch.input_ids, batch.attention_mask)

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end an answer."""
        named = self.model.generation_config.eos_token_id  # type: ignore[union-attr]
        if named is None:
            named = getattr(self.tokenizer, "eos_token_id", None)
        return frozenset([named] if isinstance(named, int) else named or ())  # type: ignore[arg-type]

    # ---------------------------------------------------------------------------------------------------------- timing

    def time_first_token(
        self, batch: Batch, compressor: Compressor | None, schedule: Schedule, seed: int, *,
        budget_kind: BudgetKind = "exact",
    ) -> Decoding:  # fmt: skip
        """What the latency probe times: vision, compressor and prefill, up to the first logits."""
        return self.prefill(batch, None, compressor, schedule, seed=seed, budget_kind=budget_kind)

    @torch.no_grad()
    def time_decoding(self, state: Decoding, steps: int) -> None:
        """Decode as answers are decoded, `steps` times, whatever the model says. The state is used up."""
        self._write(state, steps + 1, frozenset())

    @contextmanager
    def watched(self, watch: Watch) -> Iterator[None]:
        """Tell `watch` of phases while the context lasts; what lies in none of them is the LLM's."""
        before, self.watch = self.watch, watch
        try:
            with watch.phase("prefill"):
                yield
        finally:
            self.watch = before


def _text(content: str) -> dict[str, str]:
    """A part of a message as chat templates have it."""
    return {"type": "text", "text": content}


def _survivals(areas: Sequence[torch.Tensor], images: Sequence[int], calls: Calls | None) -> tuple[Survival, ...]:
    """What is left of the evidence of one sample, which has these images."""
    if not any(bool(own.any()) for own in areas):
        return ()
    return survivals(areas, calls.left(images) if calls else [(torch.ones_like(own),) * 2 for own in areas])


def _bytes_per_token(cache: object) -> list[int]:
    """Of keys and values of one token in every layer, as the cache holds them."""
    parts = [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[attr-defined]
    return [sum(part[0, :, 0].numel() * part.element_size() for part in pair) for pair in parts]


def _check_cache(cache: object, cutter: Cutter) -> None:
    lengths = [layer.keys.shape[-2] for layer in cache.layers]  # type: ignore[attr-defined]
    seen = [span.valid.shape[1] for span in cutter.spans]
    if lengths != seen:
        raise RuntimeError(f"the cache holds {lengths} tokens per layer where the layers saw {seen}")
