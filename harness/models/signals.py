"""What methods may read, by place, and how it is caught inside a running model: with taps and hooks, and only if read.

A signal is a tensor per image, or per sample where it belongs to the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..contracts import Stage
from ..watching import Watch
from .abilities import LAST_LAYER, NEXT_LAYER, TOWER, kind
from .encoder import Block
from .taps import Listener, Probe, Seen, tap

if TYPE_CHECKING:
    from .span import Span

# --------------------------------------------------------------------------------------------------------- vision tower


@contextmanager
def tower_signals(
    blocks: Sequence[Block], reads: Collection[str], found: dict[str, Sequence[torch.Tensor]], *, class_token: bool,
    watch: Watch,
) -> Iterator[None]:  # fmt: skip
    """Catch the signals of vision layers in `found`, a tensor per image, while the tower runs once."""
    with ExitStack() as stack:
        for name in sorted(reads):
            if kind(name) in TOWER:
                layer = int(name.partition("@")[2])
                stack.enter_context(tap(blocks[layer].attention, _tower_listener(name, found, int(class_token), watch)))
        yield


def _tower_listener(name: str, found: dict[str, Sequence[torch.Tensor]], first: int, watch: Watch) -> Listener:
    """`first` is the first patch of a row: 1 behind a class token."""
    read: Mapping[str, Callable[[Seen], torch.Tensor]] = {
        "class_attention": lambda seen: seen.rows([0])[:, :, 0, first:],
        "class_query": lambda seen: seen.query[:, :, 0],
        "keys": lambda seen: seen.key,
        "received_attention": lambda seen: seen.mean_row(range(seen.length))[..., first:],
    }

    def see(seen: Seen) -> None:
        with watch.phase("compressor"):
            found[name] = read[kind(name)](seen).unbind()

    return see


# ------------------------------------------------------------------------------------------------------------------ LLM


class DecoderSignals:
    """Signals at the cuts of one prompt's way through a text model.

    Args:
        behind: per batch row, the text tokens behind its last image.
    """

    def __init__(self, text_model: nn.Module, stages: Sequence[Stage], behind: Sequence[int]) -> None:
        layers = text_model.layers
        assert isinstance(layers, nn.ModuleList)
        self._text_model, self._layers, self._behind = text_model, layers, list(behind)
        self._stages = [stage for stage in stages if stage.layer]
        self._reads = {name for stage in self._stages for name in stage.reads}
        self._seen: dict[int, Seen] = {}
        self._entering: list[torch.Tensor] = []
        self._embeddings: list[torch.Tensor] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Tap the layers before the cuts that read their attention."""
        with ExitStack() as stack:
            for stage in self._stages:
                if LAST_LAYER & set(stage.reads) and stage.layer:
                    attention = self._layers[stage.layer - 1].self_attn
                    assert isinstance(attention, nn.Module)
                    stack.enter_context(tap(attention, self._listener(stage.layer)))
            yield

    def _listener(self, layer: int) -> Listener:
        def see(seen: Seen) -> None:
            self._seen[layer] = seen

        return see

    def enter(self, tokens: torch.Tensor, slots: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Keep what the LLM is given, [batch, length, dim], if a later cut reads it."""
        if "entering" in self._reads:
            self._entering = [tokens[row, places] for row, places in slots]
        if "text_embeddings" in self._reads:
            self._embeddings = self._text(tokens)

    def _text(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """The last entries of every batch row of [batch, ..., length, dim]."""
        return [row[..., row.shape[-2] - count :, :] for row, count in zip(tokens, self._behind, strict=True)]

    def at(
        self, stage: Stage, tokens: torch.Tensor, span: Span, rope: object
    ) -> dict[str, list[torch.Tensor]]:  # fmt: skip
        """Per signal that a stage reads, one tensor per image.

        Args:
            tokens: [batch, n, dim] that arrive at the cut.
            span: of the slots before the cut; rope: their rotary embedding.
        """
        assert stage.layer is not None
        reads, slots, valid = set(stage.reads), span.slots(), span.valid
        found: dict[str, list[torch.Tensor]] = {}
        if seen := self._seen.pop(stage.layer, None):
            found |= self._of_attention(seen, reads & LAST_LAYER, slots, valid, "")
        if asked := reads & NEXT_LAYER:
            probe = Probe(self._layers[stage.layer], tokens, rope, span.visible)
            found |= self._of_attention(probe, {name.removeprefix("next_") for name in asked}, slots, valid, "next_")
        if reads & {"normed", "text_normed"}:
            norm = self._text_model.norm
            assert isinstance(norm, nn.Module)
            normed = norm(tokens)
            found["normed"] = [normed[row, places] for row, places in slots]
            found["text_normed"] = [self._text(normed)[row] for row, _ in slots]
        if "entering" in reads:
            found["entering"] = self._entering
        if "text_embeddings" in reads:
            found["text_embeddings"] = [self._embeddings[row] for row, _ in slots]
        if "places" in reads:
            among = valid.long().cumsum(1) - 1
            found["places"] = [among[row, places] for row, places in slots]
        if "visible" in reads:
            found["visible"] = [span.visible[row, valid[row]] for row, _ in slots]
        return {name: found[name] for name in reads}

    def _of_attention(
        self, seen: Seen, kinds: set[str], slots: Sequence[tuple[int, torch.Tensor]], valid: torch.Tensor, prefix: str
    ) -> dict[str, list[torch.Tensor]]:
        found: dict[str, list[torch.Tensor]] = {}
        if "last_attention" in kinds:
            last = seen.rows([-1])[:, :, 0]
            found["last_attention"] = [last[row][:, places] for row, places in slots]
        if "text_attention" in kinds:
            texts = self._text(seen.rows(range(-max(self._behind), 0)))
            found["text_attention"] = [texts[row][..., places] for row, places in slots]
        if "visual_attention" in kinds:
            on = torch.zeros_like(valid)
            for row, places in slots:
                on[row, places] = True
            columns = on.any(0).nonzero()[:, 0]
            mean = seen.mean_row(columns.tolist(), on[:, columns])
            found["visual_attention"] = [mean[row][:, places] for row, places in slots]
        if "keys" in kinds:
            found["keys"] = [seen.key[row][:, places] for row, places in slots]
        if "text_keys" in kinds:
            found["text_keys"] = [self._text(seen.key)[row] for row, _ in slots]
        if "prompt_queries" in kinds:
            found["prompt_queries"] = [seen.query[row][:, valid[row]] for row, _ in slots]
        if "prompt_keys" in kinds:
            found["prompt_keys"] = [seen.key[row][:, valid[row]] for row, _ in slots]
        return {prefix + name: values for name, values in found.items()}
