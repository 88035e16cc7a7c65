"""The quantizers of published visual tokenizers behind one small interface.

All act on the last axis: vectors [..., dim] become indices [..., k], one per part of a token, and indices become the
vectors that a decoder is fed. They compute in float32, whatever they are given, as their authors' code does.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["vq", "unit_vq", "ibq", "residual", "lfq", "bsq", "fsq", "fsq_port", "half"]
Rule = Literal["distance", "unit", "inner"]

COMMITMENT = 0.25
"""Weight of the pull of the encoder towards its code, as in VQ-VAE (arXiv 1711.00937) and everything after it."""
EPSILON = 1e-3
"""Of FSQ's box: what keeps an outermost level within reach, or out of it."""


@dataclass(frozen=True)
class Quantized:
    """What training needs.

    Attributes:
        vectors: [..., dim], the codes' vectors; gradients pass to the encoder's as if nothing had been rounded.
        indices: [..., k].
        loss: codebook and commitment terms, a scalar; zero where nothing is learnt.
    """

    vectors: Tensor
    indices: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """Vectors to indices and back.

    Attributes:
        dim: channels of a token.
        reads: channels that an encoder must give it.
        sizes: codes of each of a token's k indices.
    """

    dim: int
    sizes: tuple[int, ...]

    @property
    def reads(self) -> int:
        return self.dim

    @property
    def bits(self) -> float:
        """Per token."""
        return sum(map(math.log2, self.sizes))

    def encode(self, vectors: Tensor) -> Tensor:
        """Indices [..., k] of vectors [..., dim]."""
        return self.nearest(self.project(vectors.float()))

    @abstractmethod
    def decode(self, indices: Tensor) -> Tensor:
        """Vectors [..., dim] of indices [..., k]."""

    def forward(self, vectors: Tensor) -> Quantized:
        """Straight-through codes of vectors [..., dim]."""
        z = self.project(vectors.float())
        indices = self.nearest(z)
        return _straight_through(z, self.decode(indices), indices, vectors.dtype)

    def project(self, z: Tensor) -> Tensor:
        """What is rounded: the vectors, or where they fall on a sphere or in a box."""
        return z

    @abstractmethod
    def nearest(self, z: Tensor) -> Tensor:
        """Indices [..., k] of projected vectors [..., dim]."""


def quantizer(kind: Kind, dim: int, parts: Sequence[int]) -> Quantizer:
    """A quantizer by name.

    Args:
        dim: channels of a token.
        parts: sizes of codebooks (several for `vq`, `unit_vq` and `ibq`: parallel ones, each on its share of the
            channels; for `residual`: one after another), bits of each group of channels for `lfq` and `bsq`, levels of
            each channel for `fsq` and `fsq_port`; none for `half`.

    Raises:
        ValueError: parts that do not make `dim` channels.
    """
    rules: dict[str, Rule] = {"vq": "distance", "unit_vq": "unit", "ibq": "inner"}
    made: Quantizer
    if kind in rules:
        books = [Codebook(size, dim // len(parts), rules[kind]) for size in parts]
        made = books[0] if len(books) == 1 else Parallel(books)
    elif kind == "residual":
        made = Residual([Codebook(size, dim) for size in parts])
    elif kind in ("lfq", "bsq"):
        made = Signs(parts) if kind == "lfq" else Signs(parts, high_first=True, sphere=True)
    elif kind == "half":
        made = Half(dim)
    else:
        made = FSQ(parts, port=kind == "fsq_port")
    if made.dim != dim:
        raise ValueError(f"{kind} with parts {tuple(parts)} makes {made.dim} channels, not {dim}")
    return made


class Codebook(Quantizer):
    """A learnt table of vectors.

    Args:
        rule: `distance`, the nearest row (VQ-VAE, VQGAN); `unit`, the same with both sides scaled to unit length, and
            the unit row decoded (ViT-VQGAN, LlamaGen, TiTok); `inner`, the largest inner product, with gradients to all
            rows through a softmax (IBQ, arXiv 2412.02692). The first row wins ties.
    """

    def __init__(self, size: int, dim: int, rule: Rule = "distance") -> None:
        super().__init__()
        self.dim, self.sizes, self.rule = dim, (size,), rule
        self.weight = nn.Parameter(torch.empty(size, dim).uniform_(-1 / size, 1 / size))

    def project(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.rule == "unit" else z

    def scores(self, z: Tensor) -> Tensor:
        """[..., dim] to [..., size]: inner products, or squared distances below zero."""
        table = self.project(self.weight.float())
        products = z @ table.T
        if self.rule == "inner":
            return products
        return 2 * products - (z.square().sum(-1, keepdim=True) + table.square().sum(-1))

    def nearest(self, z: Tensor) -> Tensor:
        return self.scores(z).argmax(-1, keepdim=True)

    def decode(self, indices: Tensor) -> Tensor:
        return self.project(F.embedding(indices.squeeze(-1), self.weight.float()))

    def forward(self, vectors: Tensor) -> Quantized:
        z = self.project(vectors.float())
        indices = self.nearest(z)
        rows = self.decode(indices)
        loss = F.mse_loss(rows, z.detach()) + COMMITMENT * F.mse_loss(z, rows.detach())
        made = _straight_through(z, rows, indices, vectors.dtype, loss)
        if self.rule != "inner":
            return made
        soft = self.scores(z).softmax(-1)
        hard = F.one_hot(indices.squeeze(-1), self.sizes[0]) + soft - soft.detach()
        return Quantized((hard @ self.weight.float()).to(vectors.dtype), indices, loss)


class Parallel(Quantizer):
    """Quantizers side by side, each on its share of the channels, in order (FQGAN, arXiv 2411.16681)."""

    def __init__(self, branches: Sequence[Quantizer]) -> None:
        super().__init__()
        self.branches = cast(Sequence[Quantizer], nn.ModuleList(branches))
        self.dims = [branch.dim for branch in branches]
        self.counts = [len(branch.sizes) for branch in branches]
        self.dim, self.sizes = sum(self.dims), tuple(size for branch in branches for size in branch.sizes)

    def nearest(self, z: Tensor) -> Tensor:
        shares = zip(self.branches, torch.split(z, self.dims, -1), strict=True)
        return torch.cat([branch.encode(share) for branch, share in shares], -1)

    def decode(self, indices: Tensor) -> Tensor:
        shares = zip(self.branches, torch.split(indices, self.counts, -1), strict=True)
        return torch.cat([branch.decode(share) for branch, share in shares], -1)

    def forward(self, vectors: Tensor) -> Quantized:
        made = [branch(share) for branch, share in zip(self.branches, torch.split(vectors, self.dims, -1), strict=True)]
        vectors, indices = (torch.cat([getattr(m, name) for m in made], -1) for name in ("vectors", "indices"))
        return Quantized(vectors, indices, torch.stack([m.loss for m in made]).sum())


class Residual(Quantizer):
    """Codebooks one after another, each on what those before left; vectors add up (RQ-VAE, arXiv 2203.01941).

    The same codebook may stand in it several times. The loss compares the sum, not every partial sum.
    """

    def __init__(self, books: Sequence[Codebook]) -> None:
        super().__init__()
        self.books = cast(Sequence[Codebook], nn.ModuleList(books))
        self.dim, self.sizes = books[0].dim, tuple(book.sizes[0] for book in books)

    def nearest(self, z: Tensor) -> Tensor:
        found, rest = [], z
        for book in self.books:
            found.append(book.encode(rest))
            rest = rest - book.decode(found[-1])
        return torch.cat(found, -1)

    def decode(self, indices: Tensor) -> Tensor:
        columns = zip(self.books, torch.split(indices, 1, -1), strict=True)
        return torch.stack([book.decode(column) for book, column in columns]).sum(0)

    def forward(self, vectors: Tensor) -> Quantized:
        z = vectors.float()
        indices = self.nearest(z)
        rows = self.decode(indices)
        loss = F.mse_loss(rows, z.detach()) + COMMITMENT * F.mse_loss(z, rows.detach())
        return _straight_through(z, rows, indices, vectors.dtype, loss)


class Signs(Quantizer):
    """One bit per channel: 1 above zero, else -1, zero included.

    With one group it is LFQ (MAGVIT-v2, arXiv 2310.05737), with several the group-wise one of WeTok (arXiv 2508.05599)
    or LFQ's factorised tokens; on a sphere it is BSQ (arXiv 2406.07548).

    Args:
        groups: bits of each index, at most 62; channels are grouped as they stand.
        high_first: the first channel of a group is its index's highest bit (BSQ), not its lowest.
        sphere: vectors are scaled to unit length before their signs are taken.
        unit: so are the codes; by default where `sphere`.
    """

    def __init__(
        self, groups: Sequence[int], *, high_first: bool = False, sphere: bool = False, unit: bool | None = None
    ) -> None:
        super().__init__()
        self.groups, self.dim, self.sizes = list(groups), sum(groups), tuple(2**bits for bits in groups)
        self.sphere, self.scale = sphere, self.dim**-0.5 if (sphere if unit is None else unit) else 1.0
        self.places = [place for bits in groups for place in (range(bits)[::-1] if high_first else range(bits))]

    def project(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.sphere else z

    def nearest(self, z: Tensor) -> Tensor:
        bits = (z > 0).long() << torch.tensor(self.places, device=z.device)
        return torch.stack([group.sum(-1) for group in torch.split(bits, self.groups, -1)], -1)

    def decode(self, indices: Tensor) -> Tensor:
        places, groups = (torch.tensor(values, device=indices.device) for values in (self.places, self.groups))
        bits = indices.repeat_interleave(groups, -1) >> places & 1
        return (2 * bits - 1).float() * self.scale


class FSQ(Quantizer):
    """Every channel squashed into a box and rounded to one of its levels (arXiv 2309.15505); one index per token.

    Digits stand with the first channel lowest; codes are divided by half the levels, rounded down.

    Args:
        levels: of each channel, from 2.
        port: the squash of the PyTorch ports (vector-quantize-pytorch, FlexTok, diffusers), which is a little wider and
            undoes its shift by atanh instead of tan: about one vector in a hundred rounds otherwise.
    """

    def __init__(self, levels: Sequence[int], *, port: bool = False) -> None:
        super().__init__()
        self.levels, self.port = list(levels), port
        self.dim, self.sizes = len(levels), (math.prod(levels),)
        self.basis = [math.prod(levels[:i]) for i in range(len(levels))]

    def project(self, z: Tensor) -> Tensor:
        # The ports compute their constants in 32 bits, the original in 64; a vector on an edge can tell them apart.
        levels = torch.tensor(self.levels, dtype=torch.float32 if self.port else torch.float64)
        reach = (levels - 1) * (1 + EPSILON if self.port else 1 - EPSILON) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        ratio = (offset / reach).float()
        shift = ratio.atanh() if self.port else ratio.tan()
        reach, offset, shift = (constant.float().to(z.device) for constant in (reach, offset, shift))
        return (z + shift).tanh() * reach - offset

    def nearest(self, z: Tensor) -> Tensor:
        middle, basis = self._middle(z.device), torch.tensor(self.basis, device=z.device)
        return ((z.round().long() + middle) * basis).sum(-1, keepdim=True)

    def decode(self, indices: Tensor) -> Tensor:
        levels, basis = (torch.tensor(values, device=indices.device) for values in (self.levels, self.basis))
        middle = self._middle(indices.device)
        return (indices // basis % levels - middle) / middle

    def forward(self, vectors: Tensor) -> Quantized:
        z = self.project(vectors.float())
        indices = self.nearest(z)
        return _straight_through(z / self._middle(z.device), self.decode(indices), indices, vectors.dtype)

    def _middle(self, device: torch.device) -> Tensor:
        """Half the levels, rounded down: the digit of zero."""
        return torch.tensor(self.levels, device=device) // 2


class Half(Quantizer):
    """A continuous latent stored as 16-bit floats, whose bit patterns are the indices, one per channel.

    Of a Gaussian posterior (mean and log-variance of every channel) it keeps the mean.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.sizes = dim, (2**16,) * dim

    @property
    def reads(self) -> int:
        return 2 * self.dim

    def project(self, z: Tensor) -> Tensor:
        most = torch.finfo(torch.float16).max
        return z[..., : self.dim].clamp(-most, most)

    def nearest(self, z: Tensor) -> Tensor:
        return z.half().view(torch.int16).long() % 2**16

    def decode(self, indices: Tensor) -> Tensor:
        signed = torch.where(indices < 2**15, indices, indices - 2**16)
        return signed.to(torch.int16).view(torch.float16).float()


def _straight_through(
    z: Tensor, rows: Tensor, indices: Tensor, dtype: torch.dtype, loss: Tensor | None = None
) -> Quantized:
    vectors = z + (rows - z).detach()
    return Quantized(vectors.to(dtype), indices, vectors.new_zeros(()) if loss is None else loss)
