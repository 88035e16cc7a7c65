"""PPE: merge tokens, and let every merged token keep several of the places that its members stood at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from ...harness.contracts import Compressor, ModelShape, Reduction, Refusal, Stage, View
from ...harness.registry import compressor, parse_call, registry
from .. import parameters
from ..clustering import dpc_knn


@compressor(
    "ppe",
    places=("projector",),
    merges=True,
    keeps_order=False,
    operator=True,
    paper="arXiv 2510.22936",
    repository="MouxiaoHuang/PPE",
    verified="selection",
)
@dataclass(frozen=True)
class PPE:
    """Density-peak clusters of one image (Chat-UniVi's), each a plain mean that stands at `k` places at once.

    Paper: PPE: Positional Preservation Embedding for Token Compression in Multimodal Large Language Models, arXiv
    2510.22936; authors' repository MouxiaoHuang/PPE. `view.tokens` [batch, n, dim] are the projected tokens. Density
    looks at the 5 nearest tokens (3 at most where there are fewer than 5 clusters), with noise against ties. Clusters
    go on in the order of their score. A token holds the places of `k` of its members in the full prompt, from the last
    to the first and round again, each of which turns its share of the rotary channels; text stays where it was.

    With `of`, such as `of="tome"` or `of="visionzip(contextual=0.2)"`, another method merges instead, in front of the
    LLM: what it makes stands at the places of its members, whatever position rule it has of its own.

    Departs from the code: members are in the order of a stable sort, which the code leaves to chance. Where a place is
    one number (the code knows Qwen's three) all channels are its share, in `k` bands by frequency; the paper's 2D
    positions are not offered. Methods that keep a class token, which stood at no place, or cut inside the LLM are
    refused. Cascades at later LLM layers, and fine-tuning, are left out.
    """

    of: str | None = None
    k: int = 8

    def __post_init__(self) -> None:
        parameters.whole(self, "k")

    @cached_property
    def _merging(self) -> Compressor | None:
        if self.of is None:
            return None
        name, given = parse_call(self.of)
        built = registry("methods").get(name).build(given)
        assert isinstance(built, Compressor)
        return built

    def stages(self, keep: int, shape: ModelShape) -> tuple[Stage, ...]:
        stages = tuple(self._merging.stages(keep, shape)) if self._merging else (Stage("projector", keep),)
        if any("class_token" in stage.reads for stage in stages):
            raise Refusal(f"keeps the place of every token, and {self.of} keeps a class token, which has none")
        return (*stages[:-1], *(replace(last, held=self.k) for last in stages[-1:]))

    def reduce(self, view: View, keep: int) -> Reduction:
        if self._merging:
            return self._merging.reduce(view, keep)
        neighbours = 5 if keep >= 5 else min(3, max(keep // 2, 1))
        groups, _ = dpc_knn(view.tokens, keep, neighbours, view.noise(view.tokens.shape[1]))
        return Reduction.merge(groups)
