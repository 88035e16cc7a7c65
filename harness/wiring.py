"""Runs a reference case's whole tiny model through our cuts, and says what the authors' patched model said of it.

A case holds weights and either the LLM's input (`inputs_embeds`, cuts in the LLM alone) or pixels and a prompt. What
comes back bears the names of the arrays that the authors' runs wrote: lengths and positions in every layer, kept
tokens, cache lengths, logits at prefill and while decoding, and the same for the untouched model.
"""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from .contracts import Compressor, ModelShape, Reduction, Stage, View
from .models.base import Batch, Crop
from .models.calls import Calls, ImageName
from .models.cutter import Cutter, whole_span
from .models.data import Shown
from .models.llava import Llava
from .models.llava_next import LlavaNext
from .models.text_encoder import TextEncoder
from .registry import PACKAGE
from .schedule import Cut, lay_out, untouched

Case = Mapping[str, np.ndarray]
STEPS = 3
"""Tokens that the authors' runs fed back."""


class Recorder:
    """Passes a compressor's calls on and keeps what it saw and said.

    Attributes:
        calls: views and reductions, in order.
    """

    def __init__(self, method: Compressor) -> None:
        self._method = method
        self.calls: list[tuple[View, Reduction]] = []

    def stages(self, keep: int, shape: ModelShape) -> Sequence[Stage]:
        return self._method.stages(keep, shape)

    def reduce(self, view: View, keep: int) -> Reduction:
        self.calls.append((view, self._method.reduce(view, keep)))
        return self.calls[-1][1]


@torch.no_grad()
def rerun(
    case: Case, compressor: Compressor, *, attention: str = "sdpa"
) -> tuple[dict[str, np.ndarray], list[tuple[View, Reduction]]]:
    """All arrays of a case by name, and the compressor's calls.

    Args:
        compressor: its stages are the case's own cuts, whatever they are asked for.
        attention: the kernel.
    """
    kind = _Embeddings if "pixel_values" not in case else _Tiles if "grid_rows_columns" in case else _Pictures
    model: _Prompt = kind(case, attention)
    recorder = Recorder(compressor)
    found = _run(model, recorder)
    plain = _run(model, None)
    baseline = ("inputs_embeds", "logits_last", "decode_tokens", "decode_logits")
    found |= {f"baseline_{name}": plain[name] for name in baseline}
    return found | _kept(recorder.calls), recorder.calls


def _run(model: _Prompt, compressor: Compressor | None) -> dict[str, np.ndarray]:
    logits = model.prefill(compressor)
    cutter = model.cutter
    lengths = [span.valid.shape[1] for span in cutter.spans]
    positions = np.full((len(lengths), lengths[0]), -1)
    for layer, span in enumerate(cutter.spans):
        positions[layer, : lengths[layer]] = span.position[0].numpy()
    slots = cutter.spans[0].visual[0]
    visual = (slots >= 0).nonzero()[:, 0]
    found: dict[str, Any] = {
        "layer_input_length": lengths,
        "length_after_layer": [*lengths[1:], lengths[-1]],
        "position_ids": positions,
        "num_cuts": sum(a != b for a, b in pairwise(lengths)),
        "kv_lengths": model.cache_lengths(),
        "logits_last": logits.numpy(),
        "inputs_embeds": model.entered.numpy(),
        "visual_start": int(visual[0]),
        "visual_end": int(visual[-1]) + 1,
        "visual_images": slots[visual].numpy(),
    }
    tokens, steps, places = [], [logits], []
    for past in range(STEPS):
        tokens.append(int(steps[-1].argmax()))
        places.append([int(cutter.next_position(layer, past)) for layer in range(len(lengths))])
        steps.append(model.step(tokens[-1]))
    found["decode_tokens"] = [*tokens, int(steps[-1].argmax())]
    found["decode_logits"], found["decode_position_ids"] = torch.stack(steps).numpy(), places
    found["kv_lengths_after_decode"] = model.cache_lengths()
    return {name: np.asarray(value) for name, value in found.items()}


def _kept(calls: Sequence[tuple[View, Reduction]]) -> dict[str, np.ndarray]:
    """Which tokens are still what they were: of the picture at the projector, of those that enter in the LLM."""
    found: dict[str, np.ndarray] = {}
    inside = 0
    left: list[int] = []
    for view, reduction in calls:
        if view.place == "projector":
            n = reduction.sources if view.class_index is None else reduction.sources - 1
            found["kept_visual"] = np.asarray([i if i < n else -1 for i in _unchanged(reduction)])
            continue
        left = left if inside else list(range(reduction.sources))
        left = [left[i] if i >= 0 else -1 for i in _unchanged(reduction)]
        cut = f"cut{inside}"
        found[f"{cut}/first_shortened_layer"] = np.asarray(view.layer)
        found[f"{cut}/kept_visual"] = np.asarray([i for i in left if i >= 0], dtype=np.int64)
        found[f"{cut}/merged_tokens"] = np.asarray(left.count(-1))
        inside += 1
    return found


def _unchanged(reduction: Reduction) -> list[int]:
    """The source of every row that is one source as it was; -1 for others."""
    matrix = reduction.dense()[0]
    single = (matrix != 0).sum(1).eq(1) & (matrix.amax(1) == 1)
    return [int(source) if one else -1 for source, one in zip(matrix.argmax(1), single, strict=True)]


# --------------------------------------------------------------------------------------------------------------- models


class _Prompt(ABC):
    """One prompt in one model, run with a compressor or without."""

    cutter: Cutter
    entered: torch.Tensor

    @abstractmethod
    def prefill(self, compressor: Compressor | None) -> torch.Tensor:
        """Logits of the last position, [vocabulary]."""

    @abstractmethod
    def step(self, token: int) -> torch.Tensor:
        """Logits behind one more token."""

    @abstractmethod
    def cache_lengths(self) -> list[int]:
        """Tokens in the cache of every layer."""

    @contextmanager
    def _listening(self, text_model: nn.Module) -> Iterator[None]:
        layers = text_model.layers
        assert isinstance(layers, nn.ModuleList)

        def enter(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            self.entered = args[0]

        hook = layers[0].register_forward_pre_hook(enter)
        try:
            yield
        finally:
            hook.remove()


class _Embeddings(_Prompt):
    """An LLM that is given its input."""

    def __init__(self, case: Case, attention: str) -> None:
        from transformers import LlamaForCausalLM

        self._model = LlamaForCausalLM._from_config(_llama(case), attn_implementation=attention).eval()
        _load(self._model, _weights(case, "weights"))
        self._embeddings = torch.from_numpy(case["inputs_embeds"])
        visual = torch.full(self._embeddings.shape[:2], -1)
        visual[:, int(case["visual_start"]) : int(case["visual_end"])] = 0
        self._span = whole_span(visual, torch.ones_like(visual, dtype=torch.bool))
        config, n = self._model.config, int((visual >= 0).sum())
        self._shape = ModelShape("llama", n, (1, n), 1, config.num_hidden_layers, class_token=True)

    def prefill(self, compressor: Compressor | None) -> torch.Tensor:
        from transformers import DynamicCache

        stages = compressor.stages(0, self._shape) if compressor else ()
        inside = [Cut({0: stage}) for stage in stages if stage.place == "decoder"]
        calls = None
        if compressor:
            calls = Calls(
                compressor, [ImageName("case", 0)], [self._shape.grid], seed=0, kind="exact",
                device=torch.device("cpu"), shape=self._shape,
            )  # fmt: skip
        self.cutter = Cutter(self._model.model, inside, calls, self._span)
        self._cache = DynamicCache(config=self._model.config)
        self._valid, self._position = self._span.valid, self._span.position
        with self._listening(self._model.model):
            return self._forward(self.cutter.prefill(), inputs_embeds=self._embeddings)

    def step(self, token: int) -> torch.Tensor:
        self._valid = torch.cat([self._valid, self._valid[:, :1]], 1)
        self._position = self._position[:, -1:] + 1
        return self._forward(self.cutter.decoding(), input_ids=torch.tensor([[token]]))

    def _forward(self, context: AbstractContextManager[None], **inputs: torch.Tensor) -> torch.Tensor:
        with context:
            out = self._model(
                attention_mask=self._valid.long(), position_ids=self._position, cache=self._cache, **inputs
            )
        logits: torch.Tensor = out.logits[0, -1]
        return logits

    def cache_lengths(self) -> list[int]:
        return [layer.keys.shape[-2] for layer in self._cache.layers]


class _Pictures(_Prompt):
    """A LLaVA with one picture, its vocabulary grown by one for the placeholder."""

    family: ClassVar[type[Llava]] = Llava

    def __init__(self, case: Case, attention: str) -> None:
        from transformers import CLIPVisionConfig

        text = _llama(case)
        self._words = text.vocab_size
        text.vocab_size = self._words + 1
        vision = CLIPVisionConfig(**json.loads(str(case["vision_config"])))
        parts = {"vision_config": vision, "text_config": text, "image_token_index": self._words}
        model = self._build(case, {**parts, "vision_feature_layer": -2}, attention).eval()
        _load(model, _llava_state(case, self._words))
        tokenizer = SimpleNamespace(padding_side="left", pad_token="", eos_token="")
        config: Any = model.config
        self._model = self.family(
            model, SimpleNamespace(tokenizer=tokenizer), *self.family.describe(config), "reference"
        )
        if "text_config" in case:
            self._model.text_encoder = _text_encoder(case)
        self._batch = self._prompt(case)

    def _build(self, case: Case, parts: Mapping[str, Any], attention: str) -> nn.Module:
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        found: nn.Module = LlavaForConditionalGeneration._from_config(
            LlavaConfig(**parts), attn_implementation=attention
        )
        return found

    def _show(self, case: Case) -> Shown:
        pixels = torch.from_numpy(case["pixel_values"])[0]
        return Shown((Crop(pixels, self._model.shape.grid, Image.new("RGB", (1, 1)), (0, 0, 1, 1)),))

    def _prompt(self, case: Case) -> Batch:
        ids, shown = case["text_input_ids"].tolist(), self._show(case)
        place, order = ids.index(-200), shown.slots(0)
        prompt = torch.tensor([[*ids[:place], *[self._words] * len(order), *ids[place + 1 :]]])
        none = tuple(torch.zeros(crop.tokens) for crop in shown.crops)
        owner = (0,) * len(none)
        return Batch(("case",), shown.crops, owner, prompt, torch.ones_like(prompt), (order,), none, ("",))

    def prefill(self, compressor: Compressor | None) -> torch.Tensor:
        shape = self._model.shape
        schedule = lay_out(tuple(compressor.stages(0, shape)), shape) if compressor else untouched(shape)
        with self._listening(self._model.text_model):
            self._state = self._model.prefill(
                self._batch, None, compressor, schedule, seed=0, budget_kind="adaptive" if compressor else "exact"
            )
        self.cutter = self._state.cutter
        return self._state.logits[0, : self._words]

    def step(self, token: int) -> torch.Tensor:
        self._state = self._model.decode_step(self._state, torch.tensor([token]))
        return self._state.logits[0, : self._words]

    def cache_lengths(self) -> list[int]:
        return [layer.keys.shape[-2] for layer in self._state.cache.layers]  # type: ignore[attr-defined]


class _Tiles(_Pictures):
    """A LLaVA-NeXT with one picture in tiles, and without newlines, as the authors ran it."""

    family = LlavaNext

    def _build(self, case: Case, parts: Mapping[str, Any], attention: str) -> nn.Module:
        from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

        config = LlavaNextConfig(**parts, image_grid_pinpoints=[case["image_size"].tolist()])
        model: Any = LlavaNextForConditionalGeneration._from_config(config, attn_implementation=attention)
        model.model.image_newline = None
        found: nn.Module = model
        return found

    def _show(self, case: Case) -> Shown:
        assert isinstance(self._model, LlavaNext)
        high, wide = case["image_size"].tolist()
        return self._model.show(torch.from_numpy(case["pixel_values"])[0], Image.new("RGB", (wide, high)))


def _llama(case: Case) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**json.loads(str(case["config"])))


def _weights(case: Case, name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{name}/"): torch.from_numpy(v) for k, v in case.items() if k.startswith(f"{name}/")}


def _load(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError where the case lacks a weight of the model; what it has beyond them is not needed."""
    if missing := model.load_state_dict(dict(state), strict=False).missing_keys:
        raise ValueError(f"the case lacks the weights {', '.join(missing)}")


def _llava_state(case: Case, words: int) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in _weights(case, "weights").items():
        rest = name.removeprefix("model.")
        grown = torch.cat([tensor, torch.zeros_like(tensor[:1])]) if len(tensor) == words else tensor
        state[name if rest == name else f"model.language_model.{rest}"] = grown
    for name, tensor in _weights(case, "vision_weights").items():
        state[f"model.vision_tower.{name.removeprefix('vision_model.')}"] = tensor
    for name, tensor in _weights(case, "projector_weights").items():
        layer, kind = name.split(".")
        state[f"model.multi_modal_projector.linear_{1 if layer == '0' else 2}.{kind}"] = tensor
    return state


def _text_encoder(case: Case) -> TextEncoder:
    """CLIP's text side, which is given the case's ids for whatever is asked."""
    from transformers import CLIPConfig, CLIPModel

    text, vision = (json.loads(str(case[name])) for name in ("text_config", "vision_config"))
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=text["projection_dim"])).eval()
    state = _weights(case, "text_weights")
    found = model.load_state_dict(state, strict=False)
    if missing := [k for k in found.missing_keys if k.startswith(("text_", "visual_projection"))]:
        raise ValueError(f"the case lacks the weights {', '.join(missing)}")
    ids = case["clip_text_input_ids"].tolist()
    return TextEncoder(model, lambda question: ids)


class Replays(Protocol):
    """A method's replay module, as far as whole models are concerned."""

    @staticmethod
    def wired(case: Case) -> Compressor | None:
        """The method under a case's own cuts; None for a model that is not rerun."""


def module_of(stem: str, method: str) -> Replays | None:
    """The replay module of a file `wiring_<name>`: of the method of that name, else of the one that its entry names."""
    for name in (stem.removeprefix("wiring_"), method):
        where = f"{PACKAGE}.methods.replays.{name}"
        if importlib.util.find_spec(where) and hasattr(found := importlib.import_module(where), "wired"):
            return cast(Replays, found)
    return None


def replay(module: Replays, case: Case, *, attention: str = "sdpa") -> dict[str, np.ndarray] | None:
    """The arrays of a case by a method's replay module, None for a model that is not rerun.

    `module.told(case, found, calls)`, where there is one, adds arrays that only this method has.
    """
    compressor = module.wired(case)
    if compressor is None:
        return None
    found, calls = rerun(case, compressor, attention=attention)
    told = getattr(module, "told", None)
    return found | told(case, found, calls) if told else found
