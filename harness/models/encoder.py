"""Merges visual tokens inside a vision tower, between attention and MLP, with hooks alone.

A layer computes `y = x + attention(norm(x))`, then `y + mlp(norm(y))`, and `y` is out of reach. So the hook in front of
the second norm reduces `y`, the MLP runs on the reduced rows, a hook behind it hands the layer zeros to add, and a hook
behind the layer returns reduced `y` plus the MLP's rows: the arithmetic of a layer that had been written that way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..contracts import Stage
from ..watching import Watch
from .calls import Calls
from .taps import Seen, tap


@dataclass(frozen=True)
class Block:
    """One vision layer, by the modules that hooks hold on to; `norm` is the one in front of `mlp`."""

    layer: nn.Module
    attention: nn.Module
    norm: nn.Module
    mlp: nn.Module


class Merger:
    """Merging in the layers that `stages` name, for one call of a tower with `images` of a batch.

    Sequences are [images, n, dim] with the class token at `class_index`, if there is one.
    """

    def __init__(
        self, blocks: Sequence[Block], stages: Sequence[Stage], calls: Calls, class_index: int | None,
        images: Sequence[int], watch: Watch | None = None,
    ) -> None:  # fmt: skip
        self._watch = watch or Watch()
        self._blocks, self._calls, self._class_index, self._images = blocks, calls, class_index, list(images)
        self._stages = {stage.layer: stage for stage in stages}
        self._sizes: torch.Tensor | None = None
        self._proportional = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Merge while the context lasts; the tower is called once in it."""
        with ExitStack() as stack:
            for number, block in enumerate(self._blocks):
                handle = block.attention.register_forward_pre_hook(self._weigh_keys, with_kwargs=True)
                stack.callback(handle.remove)
                if stage := self._stages.get(number):
                    self._attach(block, stage, stack)
            yield

    def _attach(self, block: Block, stage: Stage, stack: ExitStack) -> None:
        held: dict[str, torch.Tensor] = {}

        def see(seen: Seen) -> None:
            held["keys"] = seen.key

        def reduce(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            with self._watch.phase("compressor"):
                held["reduced"] = self._reduce(stage, args[0], held)
            return (held["reduced"], *args[1:])

        def withhold(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
            held["added"] = out
            return out.new_zeros(1)

        def replace(module: nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
            merged = held["reduced"] + held["added"]
            held.clear()
            return merged

        if "keys" in stage.reads:
            stack.enter_context(tap(block.attention, see))
        stack.callback(block.norm.register_forward_pre_hook(reduce).remove)
        stack.callback(block.mlp.register_forward_hook(withhold).remove)
        # First of all hooks: transformers' own record hidden states in the order of registration.
        stack.callback(block.layer.register_forward_hook(replace, prepend=True).remove)

    def _reduce(self, stage: Stage, tokens: torch.Tensor, held: dict[str, torch.Tensor]) -> torch.Tensor:
        rows = [(image,) for image in self._images]
        signals = {name: held[name] for name in stage.reads}
        reduction, _ = self._calls.reduce(stage, rows, tokens, signals, class_index=self._class_index)
        if len(set(reduction.counts.tolist())) > 1:
            raise ValueError("the images of one call of a vision tower must keep equal numbers of tokens")
        sizes = self._sizes if self._sizes is not None else torch.ones(tokens.shape[:2], device=tokens.device)
        self._sizes, self._proportional = reduction.sizes(sizes), stage.proportional
        return reduction.apply(tokens)

    def _weigh_keys(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Proportional attention, from the second merging layer on: every size is 1 before."""
        if self._sizes is None or not self._proportional:
            return None
        tokens = kwargs.get("hidden_states", args[0] if args else None)
        assert isinstance(tokens, torch.Tensor)
        bias = self._sizes.log()[:, None, None, :].to(tokens.dtype)
        return args, {**kwargs, "attention_mask": bias}
