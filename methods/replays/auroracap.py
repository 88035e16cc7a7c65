"""Feeds reference cases of AuroraCap to our code: one CLIP layer whose weights follow a recipe."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch.nn import functional

from ...harness.contracts import View
from ..compressors.auroracap import AuroraCap


def replay(case: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The input `x` of a layer and `size` to its output, `r` tokens shorter, and their sizes."""
    x, sizes = torch.from_numpy(case["x"]), torch.from_numpy(case["size"])[..., 0]
    weights = _weights(x.shape[-1], int(case["intermediate_size"]), int(case["fill_seed"]))
    found: dict[str, np.ndarray] = {}
    for suffix, given in (("", sizes), ("_nosize", torch.ones_like(sizes))):
        out, grown = _layer(x, given, weights, int(case["num_heads"]), int(case["r"]))
        found |= {f"out{suffix}": out.numpy(), f"size_out{suffix}": grown[..., None].numpy()}
    return found


def _layer(
    x: torch.Tensor, sizes: torch.Tensor, weights: Mapping[str, torch.Tensor], heads: int, merges: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A pre-norm layer of CLIP with merging between attention and MLP."""

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.linear(value, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(value, value.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    seen = norm("layer_norm1", x)
    query, keys, values = (
        linear(f"self_attn.{name}_proj", seen).view(*x.shape[:2], heads, -1).transpose(1, 2) for name in "qkv"
    )
    mixed = functional.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)
    x = x + linear("self_attn.out_proj", mixed)
    view = View(x, (1, x.shape[1] - 1), "encoder", 0, sizes, signals={"keys": keys}, class_index=0)
    reduction = AuroraCap().reduce(view, x.shape[1] - 1 - merges)
    x = reduction.apply(x)
    inner = linear("mlp.fc1", norm("layer_norm2", x))
    return x + linear("mlp.fc2", inner * torch.sigmoid(1.702 * inner)), reduction.sizes(sizes)


def _weights(width: int, inner: int, seed: int) -> dict[str, torch.Tensor]:
    """Weights that are drawn by name, so that they depend on no library's order of initialisation."""
    linears = {f"self_attn.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
    linears |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in linears.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    shapes |= {f"layer_norm{n}.{part}": (width,) for n in (1, 2) for part in ("weight", "bias")}
    return {name: _drawn(name, shape, seed) for name, shape in shapes.items()}


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
    values = torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
    if name.endswith(".bias"):
        return 0.1 * values
    return 1 + 0.1 * values if len(shape) == 1 else values / prod(shape[1:]) ** 0.5
