"""DivPrune: keep the visual tokens that differ most from each other."""

from __future__ import annotations

from ...harness.contracts import Reduction, View
from ...harness.registry import compressor
from ..ops import first_picks, spread_out


@compressor(
    "divprune",
    places=("projector",),
    paper="arXiv 2503.02175",
    repository="vbdi/divprune",
    verified="wiring",
)
def divprune(view: View, keep: int) -> Reduction:
    """Choose the tokens whose smallest pairwise cosine distance is large, greedily, and keep them in raster order.

    Paper: DivPrune, Diversity-based Visual Token Pruning for Large Multimodal Models, arXiv 2503.02175; authors'
    repository vbdi/divprune. `view.tokens` [batch, n, dim] are the projected tokens that enter the LLM; the prompt
    closes up behind the kept ones (positions are renumbered).

    Departs from the code: a picked token is never picked again, so that duplicated tokens cannot make the count fall
    short of `keep`; distances are computed in float32 whatever the model's type. The paper speaks of the exact max-min
    problem, the code (and we) of its greedy heuristic.
    """
    picks = first_picks(view, keep, lambda: spread_out(view.tokens))
    return Reduction.keep(picks.sort(dim=-1).values, view.tokens.shape[1], position="renumber")
