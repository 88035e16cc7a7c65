"""What a compressor returns: a sparse linear map from source tokens to kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Reduction:
    """A sparse linear map from source tokens to kept tokens, for a batch: kept[b, row] += weight * tokens[b, source].

    A row with a single one is pruning, a row of weights is merging; rows may overlap and their number may differ
    between batch rows. Rows are in the order in which the tokens go on.

    Attributes:
        sources: number of source tokens of every batch row.
        counts: [batch] rows kept, on the CPU.
        batch, row, source: [nnz] integers; weight: [nnz] floats.
        position: `keep` (a row stands where its anchor stood), `renumber` (contiguous again; `keep` where a position
            is more than one number, as the authors' versions for Qwen do) or [batch, max(counts)] explicit ids.
        anchor: [batch, max(counts)] the source that gives a row its place; -1 behind the end of a shorter batch row.
    """

    sources: int
    counts: torch.Tensor
    batch: torch.Tensor
    row: torch.Tensor
    source: torch.Tensor
    weight: torch.Tensor
    anchor: torch.Tensor
    position: Literal["keep", "renumber"] | torch.Tensor = "keep"

    @classmethod
    def keep(
        cls,
        indices: torch.Tensor | Sequence[torch.Tensor],
        sources: int,
        *,
        position: Literal["keep", "renumber"] | torch.Tensor = "keep",
    ) -> Reduction:
        """Keep the tokens at `indices`, in that order: [batch, k], or one 1-D tensor per batch row.

        A mask of booleans, [batch, sources], keeps the tokens that it marks, in their order.
        """
        import torch

        if isinstance(indices, torch.Tensor):
            if indices.dtype != torch.bool:
                return _Selection(sources, position, indices.long())
            size, width = indices.shape
            if width != sources:
                raise ValueError(f"a mask of {width} tokens was given for {sources}")
            if size == 1:
                return _Selection(sources, position, mask=indices)
            indices = torch.split(indices.nonzero()[:, 1], indices.sum(1).tolist())
        rows = list(indices)
        if len({len(r) for r in rows}) == 1:
            return _Selection(sources, position, torch.stack(rows).long())
        counts = torch.tensor([len(r) for r in rows], dtype=torch.long)
        source = torch.cat(rows).long() if rows else torch.zeros(0, dtype=torch.long)
        device = source.device
        batch = torch.repeat_interleave(torch.arange(len(rows)), counts).to(device)
        row = torch.cat([torch.arange(int(c)) for c in counts]).to(device) if rows else source
        anchor = torch.full((len(rows), int(counts.max()) if rows else 0), -1, dtype=torch.long, device=device)
        anchor[batch, row] = source
        weight = torch.ones(len(source), device=device)
        return cls(sources, counts, batch, row, source, weight, anchor, position)

    @classmethod
    def merge(
        cls,
        groups: torch.Tensor,
        weights: torch.Tensor | None = None,
        *,
        anchor: torch.Tensor | None = None,
        normalize: bool = True,
        position: Literal["keep", "renumber"] | torch.Tensor = "keep",
    ) -> Reduction:
        """Merge sources into groups.

        Args:
            groups: [batch, n] the row that each source goes into, -1 to drop it; every row up to the largest is used.
            weights: [batch, n], default 1; scaled to sum to one within a group unless `normalize` is off.
            anchor: [batch, k]; default the first source of each group.
        """
        import torch

        size, n = groups.shape
        counts = (groups.amax(1) + 1).cpu() if n else torch.zeros(size, dtype=torch.long)
        width = int(counts.max()) if size else 0
        batch, source = torch.nonzero(groups >= 0, as_tuple=True)
        row = groups[batch, source].long()
        weight = torch.ones(len(row), device=groups.device) if weights is None else weights[batch, source].float()
        flat = batch * width + row
        if normalize:
            weight = weight / torch.zeros(size * width, device=groups.device).index_add_(0, flat, weight)[flat]
        if anchor is None:
            first = torch.full((size * width,), n, dtype=torch.long, device=groups.device)
            first = first.scatter_reduce_(0, flat, source, "amin").view(size, width)
            anchor = torch.where(first == n, -1, first)
        return cls(n, counts, batch, row, source, weight, anchor, position)

    @classmethod
    def identity(cls, size: int, sources: int) -> Reduction:
        """Keep every token of `size` batch rows."""
        import torch

        return cls.keep(torch.arange(sources).expand(size, sources), sources)

    @cached_property
    def is_selection(self) -> bool:
        """True where every kept token is one source token, unchanged."""
        return len(self.source) == int(self.counts.sum()) and bool((self.weight == 1).all())

    @property
    def valid(self) -> torch.Tensor:
        """[batch, max(counts)] True for rows that exist."""
        import torch

        width = self.anchor.shape[1]
        return (torch.arange(width)[None] < self.counts[:, None]).to(self.anchor.device)

    def apply(self, tokens: torch.Tensor) -> torch.Tensor:
        """[batch, n, dim] to [batch, max(counts), dim], zeros behind the end of a shorter batch row."""
        import torch

        self._expect(tokens.shape[1])
        size, n, dim = tokens.shape
        width = self.anchor.shape[1]
        place = self.batch * width + self.row
        picked = tokens.reshape(size * n, dim).index_select(0, self.batch * n + self.source)
        if self.is_selection:
            return tokens.new_zeros(size * width, dim).index_copy_(0, place, picked).view(size, width, dim)
        wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
        terms = picked.to(wide).mul_(self.weight.to(wide)[:, None])
        merged = terms.new_zeros(size * width, dim).index_add_(0, place, terms)
        return merged.to(tokens.dtype).view(size, width, dim)

    def _expect(self, tokens: int) -> None:
        if tokens != self.sources:
            raise ValueError(f"a reduction of {self.sources} tokens was applied to {tokens}")

    def sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        """How many original patches each kept token stands for: [batch, n] to [batch, max(counts)]."""
        out = sizes.new_zeros(self.anchor.shape)
        return out.index_put_((self.batch, self.row), sizes[self.batch, self.source], accumulate=True)

    def origins(self, origin: torch.Tensor) -> torch.Tensor:
        """Where each kept token stood, [batch, n] to [batch, max(counts)]; -1 for what is made of several."""
        import torch

        members = torch.zeros_like(self.anchor)
        members.index_put_((self.batch, self.row), torch.ones_like(self.row), accumulate=True)
        return torch.where(members == 1, origin.gather(1, self.anchor.clamp(min=0)), -1)

    def then(self, other: Reduction) -> Reduction:
        """This reduction followed by `other`, as one map from the first sources to the last rows.

        Position ids that either names explicitly are not carried over: the result has `other`'s rule.
        """
        import torch

        width, wide = self.anchor.shape[1], other.anchor.shape[1]
        if width != other.sources or len(self.counts) != len(other.counts):
            raise ValueError(f"a reduction to {width} tokens cannot be followed by one of {other.sources}")
        product = other.dense() @ self.dense()
        batch, row, source = product.nonzero(as_tuple=True)
        anchor = self.anchor.gather(1, other.anchor.clamp(min=0)) if wide else other.anchor
        anchor = torch.where(other.anchor < 0, -1, anchor)
        weight = product[batch, row, source]
        return Reduction(self.sources, other.counts, batch, row, source, weight, anchor, other.position)

    def dense(self) -> torch.Tensor:
        """The map as a matrix, [batch, max(counts), sources]."""
        matrix = self.weight.new_zeros(*self.anchor.shape, self.sources)
        return matrix.index_put_((self.batch, self.row, self.source), self.weight, accumulate=True)

    def describe(self, index: int) -> list[int] | list[list[int]]:
        """What batch row `index` kept, for a record: source indices in order, or the sources of each merged row."""
        mine = self.batch == index
        rows, sources = self.row[mine].tolist(), self.source[mine].tolist()
        groups: list[list[int]] = [[] for _ in range(int(self.counts[index]))]
        for row, source in zip(rows, sources, strict=True):
            groups[row].append(source)
        return [g[0] for g in groups] if self.is_selection else [sorted(g) for g in groups]


class _Selection(Reduction):
    """Equally many tokens of every batch row, unchanged: anchors say it all, and the rest is made when it is read."""

    def __init__(
        self, sources: int, position: Literal["keep", "renumber"] | torch.Tensor, anchor: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """With its anchors, or the `mask` [1, sources] of a single batch row."""
        parts = self.__dict__  # of a frozen dataclass
        parts["sources"], parts["position"] = sources, position
        parts["anchor" if mask is None else "mask"] = anchor if mask is None else mask

    @cached_property
    def anchor(self) -> torch.Tensor:
        found: torch.Tensor = self.__dict__["mask"].reshape(-1).nonzero()
        return found.view(1, -1)

    @cached_property
    def counts(self) -> torch.Tensor:
        import torch

        return torch.full(self.anchor.shape[:1], self.anchor.shape[1])

    @cached_property
    def batch(self) -> torch.Tensor:
        import torch

        return torch.arange(len(self.anchor), device=self.anchor.device).repeat_interleave(self.anchor.shape[1])

    @cached_property
    def row(self) -> torch.Tensor:
        import torch

        return torch.arange(self.anchor.shape[1], device=self.anchor.device).repeat(len(self.anchor))

    @cached_property
    def source(self) -> torch.Tensor:
        return self.anchor.reshape(-1)

    @cached_property
    def weight(self) -> torch.Tensor:
        import torch

        return torch.ones(self.anchor.numel(), device=self.anchor.device)

    @cached_property
    def is_selection(self) -> bool:
        return True

    def apply(self, tokens: torch.Tensor) -> torch.Tensor:
        import torch

        self._expect(tokens.shape[1])
        size, n, dim = tokens.shape
        place = self.anchor
        if size > 1:
            place = place + n * torch.arange(size, device=place.device)[:, None]
        return tokens.reshape(size * n, dim).index_select(0, place.reshape(-1)).view(*place.shape, dim)

    def sizes(self, sizes: torch.Tensor) -> torch.Tensor:
        return sizes.gather(1, self.anchor)

    def origins(self, origin: torch.Tensor) -> torch.Tensor:
        return origin.gather(1, self.anchor)

    def describe(self, index: int) -> list[int] | list[list[int]]:
        found: list[int] = self.anchor[index].tolist()
        return found
