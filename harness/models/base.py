"""A vision-language model as the runner sees it: prepare a batch once, encode it once, answer it under many schedules.

What a family must add is small (see `VisionLanguageModel`'s abstract methods); cutting, decoding and counting are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from ..contracts import Compressor, Memo, ModelShape, Sample, Stage, Survival, UserError
from ..schedule import Schedule
from .calls import BudgetKind, Calls
from .cutter import Cutter
from .data import Answer, Batch, Encoded, FamilyInfo
from .door import enter
from .encoder import Block, Merger
from .evidence import footprint, survivals
from .signals import CLIP, READABLE, TOWER, tower_signals
from .text_encoder import NEEDED

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from .text_encoder import TextEncoder

__all__ = ["Answer", "Batch", "Decoding", "Encoded", "FamilyInfo", "VisionLanguageModel"]


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
    """

    family: ClassVar[str]
    architecture: ClassVar[str]

    def __init__(self, model: nn.Module, processor: object, shape: ModelShape, info: FamilyInfo, revision: str) -> None:
        self.model, self.processor, self.shape, self.info, self.revision = model, processor, shape, info, revision
        self.places, self.signals = info.places, info.signals
        self.device = next(model.parameters()).device
        self.text_encoder: TextEncoder | None = None

    # ---------------------------------------------------------------------------------------------- a family's own part

    @staticmethod
    @abstractmethod
    def describe(config: PretrainedConfig) -> tuple[ModelShape, FamilyInfo]:
        """Shape and abilities of a configuration; UserError for one that the family does not serve."""

    @abstractmethod
    def prompt(self, sample: Sample, images: int) -> str:
        """The text of a sample's prompt, with one image token per picture."""

    @abstractmethod
    def tokenise(self, prompts: list[str], pictures: list[Image]) -> Mapping[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (left-padded) and `pixel_values` of a batch."""

    @abstractmethod
    def shrink(self, pictures: Sequence[Image], grid: tuple[int, int]) -> torch.Tensor:
        """Pixels of the same crops at a smaller patch grid, [images, 3, height, width]."""

    @abstractmethod
    def see(self, pixels: torch.Tensor, *, resized: bool) -> torch.Tensor:
        """Features as they go into the projector, [images, n, dim], a class token in front where the tower has one."""

    @abstractmethod
    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Rows of features as the LLM gets them, [rows, dim] to [rows, dim], each row by itself."""

    @abstractmethod
    def covers(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box of a picture of that width and height that lies under the patch grid, in its pixels.

        It may reach beyond the picture, where the processor adds a margin.
        """

    @property
    @abstractmethod
    def tower_norm(self) -> nn.Module:
        """The vision tower's last norm, which features have not passed."""

    @property
    @abstractmethod
    def blocks(self) -> list[Block]:
        """Layers of the vision tower."""

    @property
    @abstractmethod
    def text_model(self) -> nn.Module:
        """The text model, with `layers` and `rotary_emb`."""

    @property
    @abstractmethod
    def image_token(self) -> str:
        """The text that stands for a picture in a prompt."""

    @property
    @abstractmethod
    def placeholder(self) -> int:
        """Id of the token that a visual token takes the place of."""

    @property
    @abstractmethod
    def tokenizer(self) -> object:
        """The tokenizer, for decoding answers."""

    # ------------------------------------------------------------------------------------------------------- preparing

    def prepare(self, samples: Sequence[Sample], images: Sequence[Sequence[Image]]) -> Batch:
        """Preprocess and tokenise samples with their decoded pictures, one list per sample.

        Raises:
            UserError: a sample without a question or a picture, or whose question holds the model's image token.
        """
        for sample, pictures in zip(samples, images, strict=True):
            if sample.question is None or not pictures:
                lack = "question" if sample.question is None else "picture"
                raise UserError(
                    f"Sample {sample.id} has no {lack}: a vision-language model needs a picture and a question."
                )
            if self.image_token in sample.question:
                raise UserError(
                    f"The question of sample {sample.id} holds {self.image_token}, where pictures go: reword it."
                )
        owner = tuple(row for row, pictures in enumerate(images) for _ in pictures)
        flat = tuple(picture for pictures in images for picture in pictures)
        prompts = [self.prompt(s, len(p)) for s, p in zip(samples, images, strict=True)]
        inputs = self.tokenise(prompts, list(flat))
        ids = inputs["input_ids"]
        for row, sample in enumerate(samples):
            found, wanted = int((ids[row] == self.placeholder).sum()), self.shape.tokens * owner.count(row)
            if found != wanted:
                raise UserError(
                    f"The processor gives sample {sample.id} {found} placeholders for {wanted} visual "
                    "tokens: its preprocessor_config.json does not fit its config.json."
                )
        lengths = inputs["attention_mask"].sum(1)
        most = int(self.model.config.get_text_config().max_position_embeddings)  # type: ignore[union-attr,operator]
        row = int(lengths.argmax())
        if (longest := int(lengths[row])) >= most:
            raise UserError(
                f"The prompt of sample {samples[row].id} takes {longest} tokens for {len(images[row])} pictures, and "
                f"the model has positions for {most}: show it fewer pictures."
            )
        to = self.device
        return Batch(
            tuple(s.id for s in samples), flat, owner, ids.to(to), inputs["attention_mask"].to(to),
            inputs["pixel_values"].to(to), self._evidence(samples, images),
            tuple(s.question or "" for s in samples),
        )  # fmt: skip

    def _survivals(self, areas: torch.Tensor, images: Sequence[int], calls: Calls | None) -> tuple[Survival, ...]:
        """What is left of the evidence of one sample, whose pictures are `images`."""
        if not bool(areas.any()):
            return ()
        whole = [(torch.ones(self.shape.tokens),) * 2] * len(images)
        return survivals(areas.unbind(), calls.left(images, self.shape.grid) if calls else whole)

    def _evidence(self, samples: Sequence[Sample], images: Sequence[Sequence[Image]]) -> torch.Tensor:
        found = [
            footprint(sample.regions, number, self.covers(picture.size), self.shape.grid)
            for sample, pictures in zip(samples, images, strict=True)
            for number, picture in enumerate(pictures)
        ]
        return torch.stack(found).to(self.device)

    def single(self, batch: Batch, encoded: Encoded | None, index: int) -> tuple[Batch, Encoded | None]:
        """One sample of a batch, without the padding that it had there."""
        return batch.of(index), encoded and encoded.of(batch.images_of(index))

    # -------------------------------------------------------------------------------------------------------- encoding

    @torch.no_grad()
    def encode(self, batch: Batch, reads: frozenset[str] = frozenset()) -> Encoded:
        """The vision pass that all cells without pixel or encoder stages share; `reads` joins their signals."""
        return self._encode(batch, reads, (), None)

    def _encode(self, batch: Batch, reads: frozenset[str], stages: Sequence[Stage], calls: Calls | None) -> Encoded:
        smaller = next((s.grid for s in stages if s.place == "pixel"), None)
        inside = [s for s in stages if s.place == "encoder"]
        class_index = 0 if self.shape.class_token else None
        pixels = batch.pixels if smaller is None else self.shrink(batch.pictures, smaller).to(self.device)
        # Pictures whose counts may differ go through the tower one by one: no layer has to know of padding.
        alone = bool(inside) and calls is not None and calls.kind == "adaptive"
        seen: list[torch.Tensor] = []
        listed: dict[str, list[torch.Tensor]] = {}
        for images in [[i] for i in range(len(pixels))] if alone else [list(range(len(pixels)))]:
            found: dict[str, torch.Tensor] = {}
            with ExitStack() as stack:
                stack.enter_context(tower_signals(self.blocks, reads, found, class_token=class_index is not None))
                if inside:
                    assert calls is not None
                    stack.enter_context(Merger(self.blocks, inside, calls, class_index, images).attached())
                seen += self.see(pixels[images], resized=smaller is not None)
            for name, values in found.items():
                listed.setdefault(name, []).extend(values)
        if "evidence" in reads:
            if not bool(batch.evidence.any()):
                raise ValueError("the sample names no evidence, which this diagnostic method reads")
            listed["evidence"] = list(batch.evidence)
        first = int(class_index is not None)
        features = tuple(rows[first:] for rows in seen)
        signals = {name: tuple(values) for name, values in listed.items()}
        signals |= self._clip_signals(batch, reads, features)
        return Encoded(features, tuple(rows[:1] for rows in seen) if first else (), self.project, signals)

    def _clip_signals(
        self, batch: Batch, reads: frozenset[str], features: tuple[torch.Tensor, ...]
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        if not CLIP & reads:
            return {}
        encoder = self._needed_text_encoder()
        found = {}
        if "clip_patches" in reads:
            found["clip_patches"] = tuple(encoder.patches(rows, self.tower_norm) for rows in features)
        if "clip_text" in reads:
            texts = [encoder.text(question) for question in batch.questions]
            found["clip_text"] = tuple(texts[row] for row in batch.owner)
        return found

    def _needed_text_encoder(self) -> TextEncoder:
        if self.text_encoder is None:
            raise UserError(f"The method needs {NEEDED}.")
        return self.text_encoder

    # ------------------------------------------------------------------------------------------------------- answering

    @torch.no_grad()
    def answer(
        self, batch: Batch, encoded: Encoded | None, compressor: Compressor | None, schedule: Schedule, *, seed: int,
        max_new_tokens: int, budget_kind: BudgetKind = "exact", memo: Memo | None = None,
    ) -> list[Answer]:  # fmt: skip
        """Answer every sample of a batch by greedy decoding.

        Args:
            encoded: what `encode` returned; None (and ignored where the schedule changes the encoding) encodes here.
            compressor: what `schedule.stages` came from; None where the schedule has none.
            budget_kind: as the method declares it; `exact` and `at_most` counts are checked.
            memo: shared by calls with this `encoded`, compressor and seed, which differ in their budget alone.

        Raises:
            BrokenPromiseError: the method returned another number of tokens than its schedule says.
        """
        state = self.prefill(batch, encoded, compressor, schedule, seed=seed, budget_kind=budget_kind, memo=memo)
        written = self._write(state, max_new_tokens)
        counts = torch.stack([span.counts() for span in state.cutter.spans]).T.tolist()
        texts = (batch.attention_mask.bool() & (batch.input_ids != self.placeholder)).sum(1).tolist()
        asked = any("clip_text" in stage.reads for stage in schedule.stages)
        segments = [len(self._needed_text_encoder().ids(q)) if asked else 0 for q in batch.questions]
        answers = []
        for row, ids in enumerate(written):
            images = batch.images_of(row)
            kept = state.calls.kept(images) if state.calls else ()
            text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()  # type: ignore[attr-defined]
            full, seen = self.shape.tokens * len(images), tuple(counts[row])
            evidence = self._survivals(batch.evidence[images].cpu(), images, state.calls)
            behind = state.cutter.spans[0].behind[row]
            answers.append(
                Answer(text, tuple(ids), texts[row], full, seen, seen, kept, evidence, behind, segments[row])
            )
        return answers

    @torch.no_grad()
    def prefill(
        self, batch: Batch, encoded: Encoded | None, compressor: Compressor | None, schedule: Schedule, *, seed: int,
        budget_kind: BudgetKind = "exact", memo: Memo | None = None,
    ) -> Decoding:  # fmt: skip
        """Run the prompt through the model under a schedule, up to the logits of the first new token."""
        stages = schedule.stages
        if stages and compressor is None:
            raise ValueError("a schedule with cuts needs the compressor that they belong to")
        self._check_stages(stages)
        grid = next((s.grid for s in stages if s.grid), self.shape.grid)
        calls, anew = None, encoded is None or any(s.place in ("pixel", "encoder") for s in stages)
        if stages and compressor is not None:
            calls = Calls(
                compressor, batch.names, grid, seed=seed, kind=budget_kind, device=self.device,
                resized=grid != self.shape.grid, shape=self.shape, memo=None if anew else memo,
            )  # fmt: skip
        reads = frozenset(name for s in stages if s.place == "projector" for name in s.reads)
        if encoded is None or anew:
            encoded = self._encode(batch, reads, stages, calls)
        words = self.model.get_input_embeddings()  # type: ignore[operator]
        ids, span, whole, features = enter(batch, encoded, stages, calls, placeholder=self.placeholder, words=words)
        cutter = Cutter(self.text_model, stages, calls, span, whole)
        cache = self._new_cache()
        with cutter.prefill():
            logits = self._forward(ids, span.valid, span.position, cache, torch.cat(features))
        _check_cache(cache, cutter)
        return Decoding(logits, cache, cutter, calls, span.valid, span.position[..., -1:])

    def _check_stages(self, stages: Sequence[Stage]) -> None:
        missing = self.info.lacking([s.place for s in stages], [name for s in stages for name in s.reads])
        for stage in stages:
            wrong = [name for name in stage.reads if not self._readable(name, stage)]
            missing += [f"the signal {name} at the place {stage.place}" for name in wrong]
            if stage.joint and (stage.place not in ("projector", "decoder") or "class_token" in stage.reads):
                missing.append(f"a joint stage at the place {stage.place} that reads {', '.join(stage.reads)}")
        if missing:
            raise UserError(f"The family {self.family} does not serve {', '.join(missing)}.")

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
            input_ids=ids, attention_mask=valid.long(), position_ids=position, past_key_values=cache, use_cache=True,
            logits_to_keep=1, **image,
        )  # fmt: skip
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def container(self, features: torch.Tensor) -> object:
        """Visual tokens of a whole batch, [tokens, dim], in the form in which the model takes encoded images."""
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

    def _write(self, state: Decoding, max_new_tokens: int) -> list[list[int]]:
        """Greedy decoding: the new tokens of every sample up to its end token, which is left out."""
        ends = self.end_tokens
        written: list[list[int]] = [[] for _ in range(len(state.logits))]
        running = set(range(len(written)))
        with state.cutter.decoding() if max_new_tokens > 1 else nullcontext():
            for step in range(max_new_tokens):
                token = state.logits.argmax(-1)
                for row, chosen in enumerate(token.tolist()):
                    if row in running:
                        if chosen in ends:
                            running.discard(row)
                        else:
                            written[row].append(chosen)
                if not running or step + 1 == max_new_tokens:
                    break
                state = self._step(state, token)
        return written

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


def _check_cache(cache: object, cutter: Cutter) -> None:
    lengths = [layer.keys.shape[-2] for layer in cache.layers]  # type: ignore[attr-defined]
    seen = [span.valid.shape[1] for span in cutter.spans]
    if lengths != seen:
        raise RuntimeError(f"the cache holds {lengths} tokens per layer where the layers saw {seen}")
